package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// updateVector is a recorded call to state::update.
type updateVector struct {
	Name           string          `json:"name"`
	Initial        json.RawMessage `json:"initial"`
	InitialMissing bool            `json:"initial_missing"`
	Ops            json.RawMessage `json:"ops"`
	Result         json.RawMessage `json:"result"` // nil if the call was rejected
	Stored         json.RawMessage `json:"stored"`

	ops []UpdateOp
}

// updateVectors returns the recorded updates that the engine accepted. It skips operations
// written as arrays, which the engine also accepts but this package never sends.
func updateVectors(t testing.TB) []updateVector {
	t.Helper()
	var vectors []updateVector
	for _, name := range []string{"update-vectors.json", "update-vectors-2.json"} {
		file, err := os.ReadFile("testdata/0.23/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var list []updateVector
		if err := json.Unmarshal(file, &list); err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			if v.Result == nil || strings.HasPrefix(v.Name, "sequence") {
				continue
			}
			if err := json.Unmarshal(v.Ops, &v.ops); err != nil {
				t.Errorf("%s: %v", v.Name, err)
			}
			vectors = append(vectors, v)
		}
	}
	return vectors
}

// sortedJSON returns doc indented, with sorted keys and unchanged numbers.
func sortedJSON(t testing.TB, doc []byte) string {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(doc))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	text, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestApplyUpdateVectors(t *testing.T) {
	vectors := updateVectors(t)
	if len(vectors) != 311 {
		t.Errorf("%d vectors, want 311", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			initial := v.Initial
			if v.InitialMissing {
				initial = nil
			}
			got, err := ApplyUpdate(initial, v.ops)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sortedJSON(t, v.Result), sortedJSON(t, encoded)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(sortedJSON(t, v.Stored), sortedJSON(t, got.NewValue)); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

// TestApplyUpdate covers what the recorded vectors do not. The field want is the new value,
// and errs lists the failed operations in the form "index code: message".
func TestApplyUpdate(t *testing.T) {
	key := strings.Repeat("k", 256)
	manyMembers := map[string]int{}
	for i := range 1025 {
		manyMembers[fmt.Sprint(i)] = i
	}
	tests := []struct {
		name string
		old  string // "" means no item
		ops  []UpdateOp
		want string
		errs []string
	}{
		{name: "untouched text is kept, but for numbers", old: ` { "b" : {"z":1e2, "y":1.50}, "a": 100000000000000000000 , "t":"<\u0041 1e2>" } `,
			ops:  []UpdateOp{OpSet("n", 1), OpSet("m", json.RawMessage(`{"z":-0,"y":18446744073709551615}`))},
			want: `{"a":1e+20,"b":{"z":100.0,"y":1.5},"m":{"z":-0.0,"y":18446744073709551615},"n":1,"t":"<\u0041 1e2>"}`},
		{name: "keys are not escaped for HTML", old: `{}`, ops: []UpdateOp{OpSet("a<b>&c", true)}, want: `{"a<b>&c":true}`},
		{name: "repeated key has its last value", old: `{"a":1,"a":2}`, ops: []UpdateOp{OpIncrement("a", 1)}, want: `{"a":3}`},
		{name: "bytes that are no UTF-8 in a path", old: `{}`, ops: []UpdateOp{OpSet("a\xff", 1)}, want: "{\"a\ufffd\":1}"},
		{name: "set without value in Go", ops: []UpdateOp{{Op: UpdateSet{Path: "a"}}}, want: `{"a":null}`},
		{name: "append without value in Go", ops: []UpdateOp{{Op: UpdateAppend{}}}, want: `[null]`},
		{name: "list replaced and extended", old: `[1]`,
			ops: []UpdateOp{OpAppend("x"), OpAppend([]int{}), OpAppend(nil)}, want: `[1,"x",[],null]`},
		{name: "string grows", ops: []UpdateOp{OpAppend("a\""), OpAppend(""), OpAppend("é\\")}, want: `"a\"é\\"`},
		{name: "string at nested null", old: `{"a":{"b":null}}`, ops: []UpdateOp{OpAppend("x", "a", "b")}, want: `{"a":{"b":"x"}}`},
		{name: "string at nested absent", old: `{"a":null}`, ops: []UpdateOp{OpAppend("x", "a", "b")}, want: `{"a":{"b":["x"]}}`},
		{name: "other value at null", old: `null`, ops: []UpdateOp{OpAppend(1)}, want: `[1]`},
		{name: "append at several levels of a list root", old: `[]`, ops: []UpdateOp{OpAppend(1, "a", "b")}, want: `[]`,
			errs: []string{"0 append.target_not_object: Cannot append at path '[a, b]': target is array, expected object."}},
		{name: "append to a boolean", old: `true`, ops: []UpdateOp{OpAppend(1)}, want: `true`,
			errs: []string{"0 append.type_mismatch: Cannot append at path 'root': target is boolean, expected array, string, null, or missing field."}},
		{name: "append to a string", old: `{"a":{"b":"s"}}`, ops: []UpdateOp{OpAppend(map[string]int{}, "a", "b")}, want: `{"a":{"b":"s"}}`,
			errs: []string{"0 append.type_mismatch: Expected string append value at path 'b', got object."}},
		{name: "a value used twice", old: `{}`, ops: twice(OpAppend("x", "a")), want: `{"a":"xx"}`},
		{name: "merged members are worked on", old: `{}`,
			ops:  []UpdateOp{OpMerge(map[string]any{"l": []int{1}, "o": map[string]int{"n": 1}}), OpAppend(2, "l"), OpMerge(map[string]int{"m": 2}, "o")},
			want: `{"l":[1,2],"o":{"m":2,"n":1}}`},
		{name: "one empty element is the root, and no key of a list", old: `{}`,
			ops:  []UpdateOp{OpMerge(map[string]int{"a": 1}, ""), {Op: UpdateMerge{Path: &MergePath{Segments: []string{""}}, Value: JSONValue(`{}`)}}},
			want: `{"a":1}`, errs: []string{"1 merge.path.empty_segment: Path contains an empty segment"}},
		{name: "empty list of segments is the root", old: `{}`,
			ops:  []UpdateOp{{Op: UpdateMerge{Path: &MergePath{Segments: []string{}, Single: "x"}, Value: JSONValue(`{"a":1}`)}}},
			want: `{"a":1}`},
		{name: "long key", old: `{}`, ops: []UpdateOp{OpSet(key, 1), OpRemove(key), OpRemove(key + "k")}, want: `{}`,
			errs: []string{"2 remove.path.segment_too_long: Path segment of 257 bytes exceeds maximum of 256"}},
		{name: "reserved keys of a merge", old: `{}`,
			ops:  []UpdateOp{OpMerge(map[string]int{"prototype": 1, "constructor": 1}), OpMerge(map[string]int{"a": 1, "__proto__": 1})},
			want: `{}`,
			errs: []string{`0 merge.value.proto_polluted: Merge value top-level key "constructor" is a prototype-pollution sink`,
				`1 merge.value.proto_polluted: Merge value top-level key "__proto__" is a prototype-pollution sink`}},
		{name: "merge of too many members", old: `{}`, ops: []UpdateOp{OpMerge(manyMembers)}, want: `{}`,
			errs: []string{"0 merge.value.too_many_keys: Merge value has 1025 top-level keys, exceeds maximum of 1024"}},
		{name: "brackets in strings are no depth", old: `{}`, ops: []UpdateOp{OpMerge(map[string]string{"a": strings.Repeat("\"[{\\", 20)}, "b")},
			want: `{"b":{"a":"` + strings.Repeat(`\"[{\\`, 20) + `"}}`},
		{name: "errors keep the index, and the rest runs", old: `{"n":true}`,
			ops:  []UpdateOp{OpIncrement("n", 1), OpSet("m", 1), OpDecrement("n", 1)},
			want: `{"m":1,"n":true}`,
			errs: []string{"0 increment.not_number: Expected number at path 'n', got boolean.",
				"2 decrement.not_number: Expected number at path 'n', got boolean."}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var old json.RawMessage
			if test.old != "" {
				old = json.RawMessage(test.old)
			}
			got, err := ApplyUpdate(old, test.ops)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got.NewValue)); diff != "" {
				t.Errorf("new value (-want +got):\n%s", diff)
			}
			var errs []string
			for _, e := range got.Errors {
				errs = append(errs, fmt.Sprintf("%d %s: %s", e.OpIndex, e.Code, e.Message))
				if e.DocURL == nil || *e.DocURL != updateErrorsPage {
					t.Errorf("operation %d: doc_url is %v", e.OpIndex, e.DocURL)
				}
			}
			if diff := cmp.Diff(test.errs, errs); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.old, string(old)); diff != "" {
				t.Errorf("the item given was changed (-want +got):\n%s", diff)
			}
		})
	}
}

func twice(op UpdateOp) []UpdateOp { return []UpdateOp{op, op} }

func TestApplyUpdateNumbers(t *testing.T) {
	tests := []struct {
		old  string
		by   int64
		want string // "" means increment.not_number
	}{
		{"0", 0, "0"},
		{"0", math.MinInt64, "-9223372036854775808"},
		{"-1", 1, "0"},
		{"-1", math.MaxInt64, "9223372036854775806"},
		{"1", math.MinInt64, "-9223372036854775807"},
		{"-1", math.MinInt64, ""},
		{"9223372036854775807", math.MaxInt64, "18446744073709551614"},
		{"18446744073709551615", math.MinInt64, "9223372036854775807"},
		{"18446744073709551615", -1, "18446744073709551614"},
		{"18446744073709551615", 1, ""},
		{"18446744073709551616", 0, "1.8446744073709552e+19"}, // out of range, so the engine reads a float
		{"-9223372036854775809", 0, "-9.223372036854776e+18"},
		{"-0", 0, "0.0"}, // the engine reads a float and computes -0.0 + 0.0
		{"-0.0", 1, "1.0"},
		{"1.0", 1, "2.0"},
		{"1e2", 0, "100.0"},
		{"0.1", 0, "0.1"},
		{"0.25", -1, "-0.75"},
		{"0.00001", 0, "0.00001"},
		{"0.0000012", 0, "1.2e-6"},
		{"1e-7", 0, "1e-7"},
		{"1e-300", 0, "1e-300"},
		{"1e15", 0, "1000000000000000.0"},
		{"1e16", 0, "1e+16"},
		{"123456789012345680.0", 0, "1.2345678901234568e+17"},
		{"1.7976931348623157e308", 1, "1.7976931348623157e+308"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s%+d", test.old, test.by), func(t *testing.T) {
			got, err := ApplyUpdate(json.RawMessage(test.old), []UpdateOp{OpIncrement("", test.by)})
			if err != nil {
				t.Fatal(err)
			}
			want, wantErrors := test.want, 0
			if want == "" {
				want, wantErrors = test.old, 1
			}
			if diff := cmp.Diff(want, string(got.NewValue)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got.Errors) != wantErrors {
				t.Errorf("errors %v, want %d", got.Errors, wantErrors)
			}
		})
	}
}

func TestApplyUpdateRefusesTheCall(t *testing.T) {
	tests := []struct {
		name string
		old  json.RawMessage
		op   UpdateOp
	}{
		{"item is no JSON", json.RawMessage(`{"a":`), OpSet("a", 1)},
		{"item is empty", json.RawMessage{}, OpSet("a", 1)},
		{"item and more", json.RawMessage(`{} {}`), OpSet("a", 1)},
		{"empty operation", nil, UpdateOp{}},
		{"item has a number out of range", json.RawMessage(`[1e400]`), OpSet("a", 1)},
		{"value has a number out of range", nil, UpdateOp{Op: UpdateSet{Path: "a", Value: JSONValue(`-1e309`)}}},
		{"value cannot be encoded", nil, OpSet("a", make(chan int))},
		{"set value is no JSON", nil, UpdateOp{Op: UpdateSet{Path: "__proto__", Value: JSONValue(`{`)}}},
		{"merge value is no JSON", nil, UpdateOp{Op: UpdateMerge{Value: JSONValue(`{`)}}},
		{"append value is no JSON", nil, UpdateOp{Op: UpdateAppend{Value: JSONValue(``)}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ApplyUpdate(test.old, []UpdateOp{OpSet("first", 1), test.op})
			if err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(StreamUpdateResult{}, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUpdateOpConstructors(t *testing.T) {
	tests := []struct {
		op   UpdateOp
		want string
	}{
		{OpSet("a.b", map[string]int{"n": 1}), `{"path":"a.b","type":"set","value":{"n":1}}`},
		{OpSet("", nil), `{"path":"","type":"set","value":null}`},
		{OpSet("n", json.RawMessage("18446744073709551615")), `{"path":"n","type":"set","value":18446744073709551615}`},
		{OpMerge(map[string]bool{"on": true}), `{"type":"merge","value":{"on":true}}`},
		{OpMerge(struct{}{}, "a"), `{"path":"a","type":"merge","value":{}}`},
		{OpMerge(struct{}{}, "a", "b"), `{"path":["a","b"],"type":"merge","value":{}}`},
		{OpIncrement("n", math.MinInt64), `{"by":-9223372036854775808,"path":"n","type":"increment"}`},
		{OpDecrement("n", 0), `{"by":0,"path":"n","type":"decrement"}`},
		{OpAppend("x"), `{"type":"append","value":"x"}`},
		{OpAppend(nil, "a", ""), `{"path":["a",""],"type":"append","value":null}`},
		{OpRemove("a"), `{"path":"a","type":"remove"}`},
	}
	for _, test := range tests {
		got, err := json.Marshal(test.op)
		if err != nil {
			t.Fatal(err)
		}
		want := new(bytes.Buffer)
		if err := json.Indent(want, []byte(test.want), "", " "); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), sortedJSON(t, got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

type badValue struct{}

var errBadValue = errors.New("no")

func (badValue) MarshalJSON() ([]byte, error) { return nil, errBadValue }

func TestUpdateOpConstructorsKeepTheError(t *testing.T) {
	for _, op := range []UpdateOp{OpSet("a", badValue{}), OpMerge(badValue{}), OpAppend(badValue{}, "a", "b")} {
		if _, err := json.Marshal(StreamUpdateInput{Ops: []UpdateOp{op}}); !errors.Is(err, errBadValue) {
			t.Errorf("encoding: error %v, want %v in it", err, errBadValue)
		}
		if _, err := ApplyUpdate(nil, []UpdateOp{op}); !errors.Is(err, errBadValue) {
			t.Errorf("applying: error %v, want %v in it", err, errBadValue)
		}
	}
}

func FuzzApplyUpdate(f *testing.F) {
	for _, v := range updateVectors(f) {
		f.Add([]byte(v.Initial), []byte(v.Ops))
	}
	f.Add([]byte(nil), []byte(`[{"type":"append","path":["a","b"],"value":"x"},{"type":"remove","path":""}]`))
	f.Fuzz(func(t *testing.T, old, ops []byte) {
		var decoded []UpdateOp
		if json.Unmarshal(ops, &decoded) != nil {
			return
		}
		if len(old) == 0 {
			old = nil
		}
		before := bytes.Clone(old)
		got, err := ApplyUpdate(old, decoded)
		if !bytes.Equal(before, old) {
			t.Errorf("the item given was changed from %q to %q", before, old)
		}
		if err != nil {
			return
		}
		if !json.Valid(got.NewValue) || old != nil && !json.Valid(got.OldValue) {
			t.Fatalf("result is not JSON: %s", got.NewValue)
		}
		if len(got.Errors) > len(decoded) {
			t.Errorf("%d errors of %d operations", len(got.Errors), len(decoded))
		}
		again, err := ApplyUpdate(got.NewValue, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(got.NewValue), string(again.NewValue)); diff != "" {
			t.Errorf("no operation changed the item (-want +got):\n%s", diff)
		}
	})
}
