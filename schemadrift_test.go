package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestHashSchema(t *testing.T) {
	const reference = `{"type":"object","properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":0}},"required":["a","description"]}`
	tests := []struct {
		name, schema string
		same         bool
	}{
		{"itself", reference, true},
		{"order and space", `{ "required":["description","a"], "properties":{"description":{"minimum":0,"type":"integer"},"a":{"type":["null","string"]}},"type":"object"}`, true},
		{"texts", `{"$schema":"x","title":"T","description":"D","examples":[1],"type":"object","properties":{"a":{"type":["string","null"],"description":"A","$comment":"c"},"description":{"type":"integer","minimum":0}},"required":["a","description"]}`, true},
		{"spelling of numbers", `{"type":"object","properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":0.0}},"required":["a","description"]}`, true},
		{"exponents", `{"type":"object","properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":0e3}},"required":["a","description"]}`, true},
		{"another type", `{"type":"object","properties":{"a":{"type":"string"},"description":{"type":"integer","minimum":0}},"required":["a","description"]}`, false},
		{"a property called description less", `{"type":"object","properties":{"a":{"type":["string","null"]}},"required":["a","description"]}`, false},
		{"not required", `{"type":"object","properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":0}},"required":["a"]}`, false},
		{"another bound", `{"type":"object","properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":1}},"required":["a","description"]}`, false},
		{"a default", `{"type":"object","default":{},"properties":{"a":{"type":["string","null"]},"description":{"type":"integer","minimum":0}},"required":["a","description"]}`, false},
		{"none", ``, false},
	}
	want, err := iii.HashSchema(json.RawMessage(reference))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		got, err := iii.HashSchema(json.RawMessage(test.schema))
		if err != nil || (got == want) != test.same {
			t.Errorf("%s: hash %q, %v; that of the reference is %q; same should be %v", test.name, got, err, want, test.same)
		}
	}
	for _, none := range []string{"", " ", "null"} {
		if got, err := iii.HashSchema(json.RawMessage(none)); got != "" || err != nil {
			t.Errorf("hash of %q: %q, %v", none, got, err)
		}
	}
	for _, wrong := range []string{"{", "5", `"x"`, "{}{}"} {
		if got, err := iii.HashSchema(json.RawMessage(wrong)); err == nil {
			t.Errorf("hash of %s: %q and no error", wrong, got)
		}
	}
	// Large numbers that float64 cannot represent remain distinct.
	a, errA := iii.HashSchema(json.RawMessage(`{"maximum":18446744073709551615}`))
	b, errB := iii.HashSchema(json.RawMessage(`{"maximum":18446744073709551614}`))
	if a == b || errA != nil || errB != nil {
		t.Errorf("hashes of different large numbers: %q %v, %q %v", a, errA, b, errB)
	}
}

// served returns a client that serves n functions in a namespace, and the schema hashes that a
// generated client for these functions contains.
func served(t *testing.T, namespace string, n int) (*iii.Client, []iii.FunctionSchemas) {
	t.Helper()
	engine := iiitest.Start(t)
	var opts []iii.Option
	if namespace != "" {
		opts = append(opts, iii.WithNamespace(namespace))
	}
	c, err := iii.New(engine.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for i := range n {
		if _, err := iii.Handle(c, fmt.Sprintf("f::%02d", i), func(context.Context, string) (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	var known []iii.FunctionSchemas
	for i := range n {
		f := iii.FunctionSchemas{FunctionID: fmt.Sprintf("f::%02d", i)}
		info, err := c.FunctionInfo(t.Context(), f.FunctionID)
		if err != nil {
			t.Fatal(err)
		}
		var errs [2]error
		f.Request, errs[0] = iii.HashSchema(info.RequestSchema)
		f.Response, errs[1] = iii.HashSchema(info.ResponseSchema)
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		known = append(known, f)
	}
	return c, known
}

func TestCheckSchemasReportsEachFunctionThatDiffers(t *testing.T) {
	for _, namespace := range []string{"", "other"} {
		t.Run("in namespace "+namespace, func(t *testing.T) {
			c, known := served(t, namespace, 70) // more than one request can describe
			if err := c.CheckSchemas(t.Context(), known...); err != nil {
				t.Errorf("nothing has changed: %v", err)
			}
			if err := c.CheckSchemas(t.Context()); err != nil {
				t.Errorf("no functions: %v", err)
			}
			known[3].Request = "x"
			known[40].Response = ""
			known[65].FunctionID = "f::gone"
			known[69].Request, known[69].Response = "", "y"
			err := c.CheckSchemas(t.Context(), known...)
			var drift *iii.SchemaDriftError
			if !errors.As(err, &drift) {
				t.Fatalf("got error %v", err)
			}
			want := []iii.SchemaDrift{
				{FunctionID: "f::03", Request: true},
				{FunctionID: "f::40", Response: true},
				{FunctionID: "f::gone", Missing: true},
				{FunctionID: "f::69", Request: true, Response: true},
			}
			if diff := cmp.Diff(want, drift.Functions); diff != "" {
				t.Errorf("functions (-want +got):\n%s", diff)
			}
			text := "iii: the schemas of 4 functions differ from those of the generated client: f::03 (request); f::40 (response); f::gone (not found); f::69 (request, response)"
			if got := err.Error(); got != text {
				t.Errorf("got %q; want %q", got, text)
			}
		})
	}
}

func TestCheckSchemasComparesObserverArgs(t *testing.T) {
	engine := iiitest.Start(t)
	c, err := iii.New(engine.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	args := json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}}}`)
	if _, err := c.HandleFunc("f::x", func(context.Context, json.RawMessage) (any, error) { return nil, nil }, iii.WithArgsSchema(args)); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	hash, err := iii.HashSchema(args)
	if err != nil {
		t.Fatal(err)
	}
	for known, want := range map[string]string{
		hash: "",
		"":   "", // generated against an engine that lists no argument schemas
		"x":  "iii: the schemas of 1 function differ from those of the generated client: f::x (args)",
	} {
		got := ""
		if err := c.CheckSchemas(t.Context(), iii.FunctionSchemas{FunctionID: "f::x", Args: known}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("args %q: got error %q; want %q", known, got, want)
		}
	}
}

func TestCheckSchemasUsesGivenNamespace(t *testing.T) {
	c, known := served(t, "other", 1)
	known[0].Namespace = "other"
	if err := c.CheckSchemas(t.Context(), known...); err != nil {
		t.Error(err)
	}
	known[0].Namespace = "elsewhere"
	err := c.CheckSchemas(t.Context(), known...)
	want := "iii: the schemas of 1 function differ from those of the generated client: f::00 in namespace elsewhere (not found)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v; want %s", err, want)
	}
}

func TestCheckSchemasWithoutConnection(t *testing.T) {
	c, known := served(t, "", 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	err := c.CheckSchemas(t.Context(), known...)
	var drift *iii.SchemaDriftError
	if !errors.Is(err, iii.ErrClosed) || errors.As(err, &drift) {
		t.Errorf("got %v", err)
	}
}
