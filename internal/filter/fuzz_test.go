package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/iii-go/iii/internal/filter/filtertest"
)

// FuzzParse checks that accepted filters are valid JSON and that their normal form is stable.
func FuzzParse(f *testing.F) {
	for i, v := range vectors(f) {
		if i%20 == 0 {
			f.Add([]byte(v.Filter))
		}
	}
	c := filtertest.New(10)
	c.Odd = 20
	for range 100 {
		f.Add([]byte(c.Filter(8)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := Parse(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Code != InvalidFilter || e.Message == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		if !json.Valid(text) || !json.Valid([]byte(parsed.String())) {
			t.Fatalf("accepted %q with the normal form %q", text, parsed)
		}
		again, err := ParseNormalized([]byte(parsed.String()))
		if err != nil || again.String() != parsed.String() {
			t.Fatalf("%q has the normal form\n%s, which has\n%s, %v", text, parsed, again, err)
		}
		again, err = ParseNormalized(text)
		if err != nil || again.String() != parsed.String() {
			t.Fatalf("as a normal form, %q has the normal form %s, %v", text, again, err)
		}
	})
}

// FuzzMatch checks that matching arbitrary input is deterministic. If the document is valid,
// matching it through a view, through an index, or with white space removed must give the same
// result.
func FuzzMatch(f *testing.F) {
	for i, v := range vectors(f) {
		if v.Kind == "match" && i%10 == 0 {
			f.Add([]byte(v.Filter), []byte(documentOf(f, v.Doc).Input))
		}
	}
	c := filtertest.New(11)
	for range 100 {
		f.Add([]byte(c.Filter(4)), []byte(c.Value(5)))
	}
	f.Add([]byte(`{"input.a": {"$eq": "x"}}`), []byte(`{"a": "\`))
	f.Add([]byte(`{"input.a": {"$any": {"@.b": {"$eq": 1}}}}`), []byte(`{"a": [{"b": 1}, {"b"`))
	f.Fuzz(func(t *testing.T, text, input []byte) {
		parsed, err := ParseNormalized(text)
		if err != nil {
			return
		}
		d := &Document{Input: input, Caller: input}
		verdict := parsed.Matches(d)
		if parsed.Matches(d) != verdict {
			t.Fatalf("%s on %q: %v, then another verdict", parsed, input, verdict)
		}
		var x Index[int]
		x.Insert("a", parsed, 0)
		x.Insert("b", parsed, 1)
		x.AppendMatches(nil, d)
		all := &Filter{clauses: parsed.clauses, paths: viewFrom}
		viewed := all.Matches(d)
		if !valid(input) {
			return
		}
		if viewed != verdict || (len(x.AppendMatches(nil, d)) == 2) != verdict {
			t.Fatalf("%s on %q: %v, with a view %v, in an index %v", parsed, input, verdict, viewed, x.AppendMatches(nil, d))
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, input); err == nil {
			d = &Document{Input: compact.Bytes(), Caller: compact.Bytes()}
			if parsed.Matches(d) != verdict {
				t.Fatalf("%s on %q: %v, without white space another verdict", parsed, input, verdict)
			}
		}
	})
}

func valid(text []byte) bool {
	_, _, err := decode(text)
	return err == nil
}

func FuzzCheckSchemas(f *testing.F) {
	for i, v := range vectors(f) {
		if v.Kind == "schema" && i%5 == 0 {
			f.Add([]byte(v.Filter), []byte(v.RequestFormat))
		}
	}
	c := filtertest.New(12)
	for range 100 {
		f.Add([]byte(c.Filter(3)), []byte(c.Schema(4)))
	}
	f.Fuzz(func(t *testing.T, text, schema []byte) {
		parsed, err := ParseNormalized(text)
		if err != nil {
			return
		}
		warnings, err := parsed.CheckSchemas(schema, schema)
		if err == nil {
			return
		}
		if warnings != nil {
			t.Fatalf("warnings %q beside the error %v", warnings, err)
		}
		var e *Error
		if errors.As(err, &e) != valid(schema) || e != nil && (e.Code != InvalidFilterPath || e.Path == "") {
			t.Fatalf("error %#v", err)
		}
	})
}
