package filter

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vector is a test case with the reference implementation's result.
type vector struct {
	ID             string          `json:"id"`
	Kind           string          `json:"kind"`
	Filter         json.RawMessage `json:"filter"`
	FilterText     string          `json:"filter_text"`
	Doc            json.RawMessage `json:"doc"`
	DocText        string          `json:"doc_text"`
	RequestFormat  json.RawMessage `json:"request_format"`
	ResponseFormat json.RawMessage `json:"response_format"`

	OK        bool            `json:"ok"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Normal    json.RawMessage `json:"normal"`
	Roots     []string        `json:"roots"`
	MatchAll  bool            `json:"match_all"`
	Indexable bool            `json:"indexable"`
	Match     bool            `json:"match"`
	Warnings  []string        `json:"warnings"`
}

func vectors(tb testing.TB) []vector {
	tb.Helper()
	f, err := os.Open("testdata/filter-vectors.json.gz")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	var all struct{ Cases []vector }
	if err := json.Unmarshal(b, &all); err != nil {
		tb.Fatal(err)
	}
	if len(all.Cases) != 3614 {
		tb.Fatalf("%d cases", len(all.Cases))
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

func documentOf(tb testing.TB, raw json.RawMessage) *Document {
	tb.Helper()
	var d Document
	if raw = bytes.TrimSpace(raw); len(raw) > 0 && raw[0] != '{' {
		return &d
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		tb.Fatal(err)
	}
	return &Document{members["input"], members["output"], members["error"], members["caller"], members["metadata"]}
}

type answer struct {
	Normal              string
	Roots               []string
	MatchAll, Indexable bool
	Match               bool
	Warnings            []string
	Code, Message       string
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		want := answer{Code: v.Code, Message: v.Message}
		var got answer
		fail := func(err error) {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%s: error %v", v.ID, err)
			}
			got.Code, got.Message = e.Code, e.Message
		}
		parse := Parse
		if v.Kind == "from_normalized" {
			parse = ParseNormalized
		}
		f, err := parse(v.Filter)
		switch {
		case err != nil:
			fail(err)
		case v.Kind == "match":
			want.Match = v.Match
			got.Match = f.Matches(documentOf(t, v.Doc))
		case v.Kind == "schema":
			want.Warnings = append(want.Warnings, v.Warnings...)
			if got.Warnings, err = f.CheckSchemas(v.RequestFormat, v.ResponseFormat); err != nil {
				fail(err)
			}
		default:
			want.Normal, want.MatchAll, want.Indexable = string(v.Normal), v.MatchAll, v.Indexable
			want.Roots = append(want.Roots, v.Roots...)
			got.Normal, got.MatchAll, got.Indexable = f.String(), f.MatchAll(), f.Indexable()
			for r := Input; r < element; r++ {
				if f.Uses(r) {
					got.Roots = append(got.Roots, r.String())
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: filter %.300s, document %.300s (-reference +here):\n%s", v.ID, v.Filter, v.Doc, diff)
		}
	}
}
