package iii_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

// filterVector is a test case with the result of the reference implementation.
type filterVector struct {
	ID             string          `json:"id"`
	Kind           string          `json:"kind"`
	Filter         json.RawMessage `json:"filter"`
	FilterText     string          `json:"filter_text"`
	Doc            json.RawMessage `json:"doc"`
	DocText        string          `json:"doc_text"`
	RequestFormat  json.RawMessage `json:"request_format"`
	ResponseFormat json.RawMessage `json:"response_format"`

	Code     string          `json:"code"`
	Message  string          `json:"message"`
	Normal   json.RawMessage `json:"normal"`
	Match    bool            `json:"match"`
	Warnings []string        `json:"warnings"`
}

func filterVectors(t *testing.T) []filterVector {
	t.Helper()
	f, err := os.Open("internal/filter/testdata/filter-vectors.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Cases []filterVector }
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all.Cases {
		v := &all.Cases[i]
		if v.FilterText != "" {
			v.Filter = json.RawMessage(v.FilterText)
		}
		if v.DocText != "" {
			v.Doc = json.RawMessage(v.DocText)
		}
	}
	return all.Cases
}

func filterDocument(t *testing.T, raw json.RawMessage) iii.FilterDocument {
	t.Helper()
	members := map[string]json.RawMessage{}
	if len(raw) > 0 && raw[0] == '{' {
		if err := json.Unmarshal(raw, &members); err != nil {
			t.Fatal(err)
		}
	}
	return iii.FilterDocument{Input: members["input"], Output: members["output"], Error: members["error"], Caller: members["caller"], Metadata: members["metadata"]}
}

func TestFiltersAnswerAsTheReference(t *testing.T) {
	type answer struct {
		Code, Message, Normal string
		Match                 bool
		Warnings              []string
	}
	counts := map[string]int{}
	for _, v := range filterVectors(t) {
		counts[v.Kind]++
		want := answer{v.Code, v.Message, string(v.Normal), v.Match, append([]string(nil), v.Warnings...)}
		var got answer
		f := new(iii.Filter)
		var err error
		if v.Kind == "from_normalized" && string(v.Filter) != "null" {
			err = f.UnmarshalJSON(v.Filter)
		} else {
			f, err = iii.ParseFilter(v.Filter)
		}
		if err == nil {
			switch v.Kind {
			case "match":
				got.Match = f.Matches(filterDocument(t, v.Doc))
			case "schema":
				got.Warnings, err = f.CheckSchemas(v.RequestFormat, v.ResponseFormat)
			default:
				b, marshalErr := f.MarshalJSON()
				if marshalErr != nil {
					t.Fatal(marshalErr)
				}
				got.Normal = string(b)
			}
		}
		if err != nil {
			e, ok := errors.AsType[*iii.FilterError](err)
			if !ok {
				t.Fatalf("%s: error %v", v.ID, err)
			}
			got.Code, got.Message = e.Code, e.Message
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: filter %.300s (-reference +here):\n%s", v.ID, v.Filter, diff)
		}
	}
	if diff := cmp.Diff(map[string]int{"parse": 1134, "match": 1530, "schema": 683, "from_normalized": 267}, counts); diff != "" {
		t.Errorf("cases (-want +got):\n%s", diff)
	}
}

func TestParseFilterTakesWhatMarshalsToAFilter(t *testing.T) {
	type operators struct {
		Eq string `json:"$eq"`
	}
	const normal = `{"$and":[{"input.a":{"$eq":"<é>"}}]}`
	parsed, err := iii.ParseFilter(normal)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"string": `{"input.a": {"$eq": "<é>"}}`,
		"bytes":  []byte(`{"input.a": {"$eq": "\u003c\u00e9\u003e"}}`),
		"raw":    json.RawMessage(`{"$and": [{"input.a": {"$eq": "<é>"}}]}`),
		"map":    map[string]any{"input.a": operators{"<é>"}},
		"struct": struct {
			A operators `json:"input.a"`
		}{operators{"<é>"}},
		"pointer": parsed,
		"value":   *parsed,
	} {
		f, err := iii.ParseFilter(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if f.String() != normal {
			t.Errorf("%s: normal form %s, want %s", name, f, normal)
		}
	}
	if f, err := iii.ParseFilter((*iii.Filter)(nil)); err != nil || f.String() != "{}" {
		t.Errorf("nil *Filter: %v, %v", f, err)
	}
	for name, v := range map[string]any{"nil": nil, "number": 5, "list": []string{"a"}, "nil map": map[string]any(nil), "empty": "", "nil bytes": []byte(nil)} {
		f, err := iii.ParseFilter(v)
		if _, ok := errors.AsType[*iii.FilterError](err); !ok || f != nil {
			t.Errorf("%s: %v, error %v", name, f, err)
		}
	}
	_, err = iii.ParseFilter(math.NaN())
	if _, ok := errors.AsType[*json.UnsupportedValueError](err); !ok {
		t.Errorf("NaN: error %v", err)
	}
}

func TestFilterInStructs(t *testing.T) {
	type source struct {
		Filter  *iii.Filter `json:"filter"`
		Another iii.Filter  `json:"another"`
	}
	var s source
	if err := json.Unmarshal([]byte(`{"filter": {"output": {"$eq": 1e2}}, "another": {"input.a": {"$exists": true}}}`), &s); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s) // s is passed by value, so its fields are not addressable
	if want := `{"filter":{"$and":[{"output":{"$eq":100.0}}]},"another":{"$and":[{"input.a":{"$exists":true}}]}}`; err != nil || string(b) != want {
		t.Errorf("marshals to %s, %v, want %s", b, err, want)
	}
	if err := json.Unmarshal([]byte(`{"filter": null, "another": null}`), &s); err != nil || s.Filter != nil || s.Another.Matches(iii.FilterDocument{}) {
		t.Errorf("after null: %v, %v, error %v", s.Filter, &s.Another, err)
	}
	err = json.Unmarshal([]byte(`{"another": {"input.a": 1}}`), &s)
	if e, ok := errors.AsType[*iii.FilterError](err); !ok || e.Path != "input.a" || e.Code != "INVALID_FILTER" {
		t.Errorf("error %v", err)
	}
}

func TestZeroFilterMatchesEveryCall(t *testing.T) {
	for name, f := range map[string]*iii.Filter{"nil": nil, "zero": {}} {
		b, err := json.Marshal(struct{ F *iii.Filter }{f})
		if want := map[string]string{"nil": `{"F":null}`, "zero": `{"F":{}}`}[name]; err != nil || string(b) != want {
			t.Errorf("%s marshals to %s, %v", name, b, err)
		}
		if !f.Matches(iii.FilterDocument{}) || f.String() != "{}" {
			t.Errorf("%s does not match", name)
		}
		if warnings, err := f.CheckSchemas(json.RawMessage("false"), nil); warnings != nil || err != nil {
			t.Errorf("%s: warnings %q, error %v", name, warnings, err)
		}
	}
	_, err := new(iii.Filter).CheckSchemas(json.RawMessage(`{`), nil)
	if want := "iii: request_format is not JSON: the text ends early"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
