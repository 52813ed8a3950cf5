package recorded_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/odd"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/pydantic"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/schemars"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/zod"
	"github.com/iii-go/iii/iiitest"
)

// clients maps the name of each directory to the client generated in it.
var clients = map[string]any{"odd": odd.Odd{}, "pydantic": pydantic.Pydantic{}, "schemars": schemars.Schemars{}, "zod": zod.Zod{}}

type recording struct {
	ID       string `json:"id"`
	Metadata struct {
		Construct string            `json:"construct"`
		Examples  []json.RawMessage `json:"examples"`
	} `json:"metadata"`
	Request  json.RawMessage `json:"request_schema"`
	Response json.RawMessage `json:"response_schema"`
}

func recordings(t *testing.T, name string) []recording {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(name, "iiigen_catalog.json"))
	if err != nil {
		t.Fatal(err)
	}
	var catalog struct {
		Functions []recording `json:"functions"`
	}
	if err := json.Unmarshal(raw, &catalog); err != nil {
		t.Fatal(err)
	}
	return catalog.Functions
}

// methodOf returns the input and result types of the client's method for the function id. It
// ignores case when it compares names.
func methodOf(t *testing.T, client any, id string) (in, out reflect.Type) {
	t.Helper()
	_, word, _ := strings.Cut(id, "::")
	for name := range reflect.TypeOf(client).Methods() {
		if strings.EqualFold(name.Name, word) {
			return name.Type.In(2), name.Type.Out(0)
		}
	}
	t.Fatalf("%T has no method for %s", client, id)
	return nil, nil
}

func TestRecordedValuesSurviveTheirGeneratedTypes(t *testing.T) {
	count := 0
	for name, client := range clients {
		for _, r := range recordings(t, name) {
			in, out := methodOf(t, client, r.ID)
			count += 2
			for i, example := range r.Metadata.Examples {
				for part, typ := range map[string]reflect.Type{"request": in, "response": out} {
					t.Run(fmt.Sprintf("%s/%s/%d", r.ID, part, i), func(t *testing.T) {
						v := reflect.New(typ)
						if err := json.Unmarshal(example, v.Interface()); err != nil {
							t.Fatalf("%s does not decode into %v: %v", example, typ, err)
						}
						if at := unknown(v, ""); at != "" {
							t.Errorf("%s: %v keeps %s undecoded", example, typ, at)
						}
						again, err := json.Marshal(v.Interface())
						if err != nil {
							t.Fatalf("%v: %v", typ, err)
						}
						if diff := cmp.Diff(plain(t, example), plain(t, again)); diff != "" {
							t.Errorf("%v changes %s (-sent +got):\n%s", typ, example, diff)
						}
					})
				}
			}
		}
	}
	if count < 60 {
		t.Errorf("only %d schemas were recorded", count)
	}
}

// goText returns a type in Go syntax. It expands generated types down to the given depth.
func goText(typ reflect.Type, depth int) string {
	own := strings.HasPrefix(typ.PkgPath(), "github.com/iii-go/iii/cmd/")
	switch {
	case typ == reflect.TypeFor[json.RawMessage]():
		return "json.RawMessage"
	case typ.Name() != "" && (!own || depth == 0):
		text := typ.String()
		for _, path := range []string{"github.com/iii-go/iii/cmd/iiigen/internal/recorded/pydantic.", "github.com/iii-go/iii/cmd/iiigen/internal/recorded/schemars.", "github.com/iii-go/iii/cmd/iiigen/internal/recorded/zod.",
			"github.com/iii-go/iii/cmd/iiigen/internal/recorded/own.", "github.com/iii-go/iii/cmd/iiigen/internal/recorded/odd.", "pydantic.", "schemars.", "zod.", "github.com/iii-go/"} {
			text = strings.ReplaceAll(text, path, "")
		}
		text = strings.ReplaceAll(text, "encoding/json/jsontext.Value", "json.RawMessage") // an alias in Go 1.27
		return strings.ReplaceAll(strings.ReplaceAll(text, "encoding/", ""), "iii/iii", "iii")
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return "*" + goText(typ.Elem(), depth)
	case reflect.Slice:
		return "[]" + goText(typ.Elem(), depth)
	case reflect.Array:
		return fmt.Sprintf("[%d]%s", typ.Len(), goText(typ.Elem(), depth))
	case reflect.Map:
		return "map[string]" + goText(typ.Elem(), depth)
	case reflect.Struct:
		var fields []string
		for i := range typ.NumField() {
			fields = append(fields, typ.Field(i).Name+" "+goText(typ.Field(i).Type, depth-1))
		}
		return "struct{ " + strings.Join(fields, "; ") + " }"
	}
	return typ.Kind().String()
}

func TestTableOfRecordedSchemas(t *testing.T) {
	var b strings.Builder
	b.WriteString(tableHead)
	sdks := map[string]string{"odd": "Handwritten", "pydantic": "Python iii-sdk 0.25.0, pydantic 2.14.4", "schemars": "Rust iii-sdk 0.26.0-rc.4, schemars 0.8.22", "zod": "Node iii-sdk 0.22.1, zod 4.6.7"}
	for _, name := range []string{"pydantic", "schemars", "zod", "odd"} {
		fmt.Fprintf(&b, "\n## %s\n\n| function | construct | Go type of the input |\n|---|---|---|\n", sdks[name])
		for _, r := range recordings(t, name) {
			in, _ := methodOf(t, clients[name], r.ID)
			construct := r.Metadata.Construct
			if construct == "" {
				construct = "no types"
			}
			fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n", r.ID, construct, goText(in, 1))
		}
	}
	if *update {
		if err := os.WriteFile("README.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("README.md is out of date; -update writes it (-want +got):\n%s", diff)
	}
}

const tableHead = `# Recorded schemas

Each catalog in this directory is a recording: workers of other SDKs registered functions with
the development engine, and iiigen saved the descriptions that the engine returned. The worker
programs are in internal/conformance/interop/schemas. "make interop-schemas" records the
catalogs again. The SDKs generated the schemas: pydantic and schemars derive them from the types
of the handlers, zod from the schemas in the Node worker. Each function has schemas for its input
and output, and metadata with examples encoded by the SDK. The tests decode each example into
the generated types and encode it again. A union has one field per variant, and the field Raw
for values that match no variant.

The directory own contains the types of package iii. A test checks that Go types generated from
their schemas have the same schemas. The directory tides contains the client of a worker that a
generator test runs on an engine with observers. The catalog in odd is handwritten: its schemas
and examples are valid, but no SDK generates them.
`

// plain decodes a JSON value for comparison. It removes null members, because generated types
// omit optional members that are nil.
func plain(t *testing.T, raw []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var strip func(v any) any
	strip = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				if v[k] = strip(e); e == nil {
					delete(v, k)
				}
			}
		case []any:
			for i := range v {
				v[i] = strip(v[i])
			}
		case json.Number:
			if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
				return f
			}
			if f, err := v.Float64(); err == nil && f > -1<<53 && f < 1<<53 {
				return f
			}
		}
		return v
	}
	return strip(v)
}

// unknown returns the path of the first union value that matches no variant, or "".
func unknown(v reflect.Value, at string) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return unknown(v.Elem(), at)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if f.Name == "Raw" && f.Tag == "" && f.Type == reflect.TypeFor[json.RawMessage]() && !v.Field(i).IsNil() {
				return at + ".Raw"
			}
			if found := unknown(v.Field(i), at+"."+f.Name); found != "" {
				return found
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if found := unknown(v.Index(i), fmt.Sprintf("%s[%d]", at, i)); found != "" {
				return found
			}
		}
	case reflect.Map:
		for k, e := range v.Seq2() {
			if found := unknown(e, fmt.Sprintf("%s[%v]", at, k)); found != "" {
				return found
			}
		}
	}
	return ""
}

// connect starts an engine and returns a client connected to it.
func connect(t *testing.T) *iii.Client {
	t.Helper()
	e, err := iiitest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// reply is never called. Only its types matter.
func reply[In, Out any](context.Context, In) (Out, error) {
	var out Out
	return out, nil
}

func TestWorkerOfGeneratedTypesAdvertisesTheirSchemas(t *testing.T) {
	c := connect(t)
	register := func(_ *iii.Function, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	register(iii.Handle(c, "pydantic::zoo", reply[pydantic.ZooInput, pydantic.ZooOutput]))
	register(iii.Handle(c, "pydantic::animal", reply[pydantic.AnimalInput, pydantic.AnimalOutput]))
	register(iii.Handle(c, "pydantic::enums", reply[pydantic.EnumsInput, pydantic.EnumsOutput]))
	register(iii.Handle(c, "schemars::external", reply[schemars.ExternalInput, schemars.ExternalOutput]))
	register(iii.Handle(c, "schemars::tree", reply[schemars.TreeInput, schemars.TreeOutput]))
	register(iii.Handle(c, "schemars::expression", reply[schemars.ExpressionInput, schemars.ExpressionOutput]))
	register(iii.Handle(c, "schemars::scalars", reply[schemars.ScalarsInput, schemars.ScalarsOutput]))
	register(iii.Handle(c, "zod::mutual", reply[zod.MutualInput, zod.MutualOutput]))
	register(iii.Handle(c, "zod::status", reply[zod.StatusInput, zod.StatusOutput]))
	for name := range clients {
		for _, r := range recordings(t, name) {
			info, err := c.FunctionInfo(t.Context(), r.ID)
			if err != nil {
				continue // not registered above
			}
			if diff := cmp.Diff(opened(t, r.Request), opened(t, info.RequestSchema)); diff != "" {
				t.Errorf("%s: request (-recorded +advertised):\n%s", r.ID, diff)
			}
			if diff := cmp.Diff(opened(t, r.Response), opened(t, info.ResponseSchema)); diff != "" {
				t.Errorf("%s: response (-recorded +advertised):\n%s", r.ID, diff)
			}
		}
	}
}

// opened decodes a schema and removes additionalProperties: false, because the input schemas
// of handlers always allow one additional member.
func opened(t *testing.T, raw []byte) any {
	t.Helper()
	v := plain(t, raw)
	var open func(v any)
	open = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["additionalProperties"] == false {
				delete(v, "additionalProperties")
			}
			for _, e := range v {
				open(e)
			}
		case []any:
			for _, e := range v {
				open(e)
			}
		}
	}
	open(v)
	return v
}
