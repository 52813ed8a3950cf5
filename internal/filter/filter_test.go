package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/filter/filtertest"
)

func TestParseRejectsWhatTheEngineCannotRead(t *testing.T) {
	for text, want := range map[string]string{
		``:                                     "the filter is not JSON: the text ends early",
		`{`:                                    "the filter is not JSON: the text ends early",
		`{}x`:                                  `the filter is not JSON: unexpected 'x' at byte 2`,
		`{"input.a":{"$eq":01}}`:               `the filter is not JSON: unexpected '1' at byte 19`,
		`{"input.a":{"$eq":1e400}}`:            "the filter is not JSON: the number at byte 18 is out of range",
		`{"input.a":{"$eq":"\ud800"}}`:         "the filter is not JSON: unpaired surrogate at byte 19",
		`{"input.a":{"$eq":"\ud800\u0041"}}`:   "the filter is not JSON: unpaired surrogate at byte 19",
		`{"input.a":{"$eq":"\u12"}}`:           "the filter is not JSON: incomplete escape at byte 19",
		`{"input.a":{"$eq":"\x"}}`:             `the filter is not JSON: unexpected 'x' at byte 20`,
		"{\"input.a\":{\"$eq\":\"\xff\"}}":     "the filter is not JSON: the text is not UTF-8",
		"{\"input.a\":{\"$eq\":\"\n\"}}":       `the filter is not JSON: unexpected '\n' at byte 19`,
		strings.Repeat("[", 10_001):            "the filter is not JSON: more than 10000 levels",
		strings.Repeat("[", 4096) + "é":        `the filter is not JSON: unexpected 'é' at byte 4096`,
		strings.Repeat("[", 300_000):           "the filter is not JSON: more than 10000 levels",
		`{"input.a":{"$eq":1,}}`:               `the filter is not JSON: unexpected '}' at byte 20`,
		`{"input.a":{"$in":[1,]}}`:             `the filter is not JSON: unexpected ']' at byte 21`,
		`{"input.a":{"$eq":tru}}`:              `the filter is not JSON: unexpected '}' at byte 21`,
		`{"input.a":{"$eq":-}}`:                `the filter is not JSON: unexpected '}' at byte 19`,
		`{"input.a":{"$eq":1.}}`:               `the filter is not JSON: unexpected '}' at byte 20`,
		`{"input.a":{"$eq":1e}}`:               `the filter is not JSON: unexpected '}' at byte 20`,
		"\ufeff{}":                             "the filter is not JSON: unexpected '\\ufeff' at byte 0",
		`{"input.a":{"$eq":1} "input.b":{}}`:   `the filter is not JSON: unexpected '"' at byte 21`,
		`{"a" 1}`:                              `the filter is not JSON: unexpected '1' at byte 5`,
		`{1:2}`:                                `the filter is not JSON: unexpected '1' at byte 1`,
		`{"input.a":{"$eq":"\`:                 "the filter is not JSON: the text ends early",
		strings.Repeat(" ", 9000) + "{} trail": `the filter is not JSON: unexpected 't' at byte 9003`,
	} {
		_, err := Parse([]byte(text))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.80q: error %v", text, err)
			continue
		}
		if diff := cmp.Diff(&Error{Code: InvalidFilter, Message: want}, e); diff != "" {
			t.Errorf("%.80q (-want +got):\n%s", text, diff)
		}
	}
}

// If a key is repeated, all values but the last are ignored, even if they are invalid.
func TestRepeatedKeysAreResolvedFirst(t *testing.T) {
	deep := strings.Repeat("[", 500) + strings.Repeat("]", 500)
	_, err := Parse([]byte(`{"input.a": ` + deep + `, "$bogus": 1, "$or": [], "$or": [{}], "input.a": {"$eq": 5, "$eq": 6}, "$bogus": 2, "$bogus": 3}`))
	if want := "INVALID_FILTER: unknown operator `$bogus` (a filter holds paths, `$and`, `$or` and `$not`)"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	f, err := Parse([]byte(`{"input.a": ` + deep + `, "$or": [], "$or": [{}], "input.a": {"$eq": 5, "$eq": 6}}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"$and":[{"$or":[{}]},{"input.a":{"$eq":6}}]}`; f.String() != want {
		t.Errorf("normal form %s, want %s", f, want)
	}
}

func TestErrorsNameThePath(t *testing.T) {
	for text, want := range map[string]string{
		`{"input.a": 1}`:                                "input.a",
		`{"x.a": {"$eq": 1}}`:                           "x.a",
		`{"input.a\\b": {"$eq": 1}}`:                    `input.a\b`,
		`{"input.a": {"$any": {"@.b": {"$gt": null}}}}`: "@.b",
		`{"input.a": {"$any": {"$gt": null}}}`:          "input.a",
		`{"$or": []}`:                                   "",
		`{"": 1}`:                                       "",
	} {
		_, err := Parse([]byte(text))
		var e *Error
		if !errors.As(err, &e) || e.Path != want {
			t.Errorf("%s: error %#v, want the path %q", text, err, want)
		}
	}
	_, err := mustParse(t, `{"input.rows": {"$any": {"@.x.y": {"$exists": true}}}}`).CheckSchemas(
		[]byte(`{"properties": {"rows": {"items": {"additionalProperties": false}}}}`), nil)
	var e *Error
	if !errors.As(err, &e) || e.Path != "input.rows[*].x" || e.Code != InvalidFilterPath {
		t.Errorf("error %#v", err)
	}
}

func TestZeroFilterMatchesEverything(t *testing.T) {
	for _, f := range []*Filter{nil, new(Filter), mustParse(t, "{}")} {
		if !f.Matches(&Document{}) || !f.MatchAll() || f.Indexable() || f.Uses(Input) || f.String() != "{}" {
			t.Errorf("filter %#v", f)
		}
		if warnings, err := f.CheckSchemas([]byte("false"), []byte("false")); warnings != nil || err != nil {
			t.Errorf("warnings %q, error %v", warnings, err)
		}
	}
	var x Index[string]
	x.Insert("b", nil, "b")
	x.Insert("a", new(Filter), "a")
	if diff := cmp.Diff([]string{"a", "b"}, x.AppendMatches(nil, &Document{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Malformed documents neither match nor cause a panic.
func TestMatchOfMalformedDocuments(t *testing.T) {
	f := mustParse(t, `{"input.a.0.b": {"$exists": true}}`)
	whole := `{"x": [1, {"y": "}"}], "a": [{"b": "\u00e9"}]}`
	if !f.Matches(&Document{Input: json.RawMessage(whole)}) {
		t.Fatalf("%s does not match", whole)
	}
	for i := range len(whole) {
		if f.Matches(&Document{Input: json.RawMessage(whole[:i])}) {
			t.Errorf("%s matches", whole[:i])
		}
	}
	for _, text := range []string{"", " ", "x", `{"a":`, `{"a" [{"b":1}]}`, `{"a":[{"b":1}]`, `{"a":[{"b":1},}`, `{"a":[{"b":]}]}`, `{a:[{"b":1}]}`, "\xff", `{"a":[{"b":1}]]`} {
		if f.Matches(&Document{Input: json.RawMessage(text)}) {
			t.Errorf("%s matches", text)
		}
	}
}

func TestNumbersOfDocuments(t *testing.T) {
	for text, want := range map[string]float64{
		"0": 0, "-0": 0, "12": 12, "-12.50": -12.5, "0.1": 0.1, "123456789012345678": 123456789012345678, "9007199254740993": 9007199254740992,
		"9007199254740995": 9007199254740996, "0.30000000000000004": 0.30000000000000004, "1e2": 100, "1E-2": 0.01, "18446744073709551616": 18446744073709551616,
		"3.0589983033553534e-21": 3.0589983033553534e-21, "123456789.123456789": 123456789.123456789, "0.000000000000000001": 1e-18, "1e-400": 0,
		"0.1000000000000000055511151231257827021181583404541015625": 0.1,
	} {
		if got := toFloat([]byte(text)); got != want {
			t.Errorf("%s is read as %v, want %v", text, got, want)
		}
	}
}

// If several members have the same key, the last one wins, wherever it is and however its key
// is escaped.
func TestLastMemberWins(t *testing.T) {
	for _, c := range []struct{ path, quoted, escaped string }{
		{"input.k", `"k"`, `"\u006b"`},
		{"input.key", `"key"`, `"\u006bey"`},
		{"input.long key of a member", `"long key of a member"`, `"long key of a membe\u0072"`},
		{`input."`, `"\""`, `"\u0022"`},
		{`input.\\`, `"\\"`, `"\u005c"`},
		{"input.é", `"é"`, `"\u00e9"`},
	} {
		f := mustParse(t, fields{c.path: fields{"$eq": 1}})
		for _, other := range []string{c.quoted, c.escaped} {
			for i := range 40 {
				// The last document contains ü and ö because they begin with the same byte as
				// é, one of the tested keys.
				before, after := strings.Repeat("x", i%7), strings.Repeat("x", i)
				for text, want := range map[string]bool{
					fmt.Sprintf(`{"%s":0,%s:1,"y":"%s",%s:2}`, before, c.quoted, after, other):              false,
					fmt.Sprintf(`{"%s":0,%s:2,"y":"%s",%s:1}`, before, c.quoted, after, other):              true,
					fmt.Sprintf(`{%s:1,"y":"%s", "z":{%s:2}}`, c.quoted, after, other):                      true,
					fmt.Sprintf(`{%s:1,"y":"%s"}`, c.quoted, after):                                         true,
					fmt.Sprintf(`{%s:2,"y":"%s"}`, c.quoted, after):                                         false,
					fmt.Sprintf(`{%s:1,"y":"%sü","ü":0,%s:2,"z":0,"ö%s":1}`, c.quoted, after, other, after): false,
				} {
					if got := f.Matches(&Document{Input: json.RawMessage(text)}); got != want {
						t.Errorf("%s on %s: %v", f, text, got)
					}
				}
			}
		}
	}
}

// As in filters, the last of several members with the same key wins.
func TestEqualityOfObjectsWithRepeatedKeys(t *testing.T) {
	for text, want := range map[string]bool{
		`{"a":1,"b":2}`:              true,
		`{"b":2,"a":2,"a":1}`:        true,
		`{"a":1,"b":2,"a":3}`:        false,
		`{"a":1,"b":2,"\u0061":1.0}`: true,
		`{"a":1,"b":2,"\u0061":0}`:   false,
		`{"a":1,"a":1}`:              false,
		`{"a":1,"b":2,"c":3}`:        false,
	} {
		if got := mustParse(t, `{"input":{"$eq":{"a":1,"b":2}}}`).Matches(&Document{Input: json.RawMessage(text)}); got != want {
			t.Errorf("%s: %v", text, got)
		}
		// More than 64 members require a larger bit set.
		many := ""
		for i := range 100 {
			many += fmt.Sprintf(`"k%d":%d,`, i, i)
		}
		f, err := ParseNormalized([]byte(`{"input":{"$eq":{` + many + `"a":1,"b":2}}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Matches(&Document{Input: json.RawMessage("{" + many + text[1:])}); got != want {
			t.Errorf("%s with 100 more: %v", text, got)
		}
	}
}

// The leading spaces shift the value relative to skipNested's eight-byte steps.
func TestSkipValue(t *testing.T) {
	c := filtertest.New(20)
	for range 5000 {
		text := c.Value(5)
		if c.IntN(3) == 0 {
			text = `{"` + strings.Repeat(filtertest.Pick(c, "x", `\"`, `\\`, "]", "}{"), c.IntN(20)) + `":[` + text + `,"\\"]}`
		}
		for _, after := range []string{"", "}", ",1", "]]]]]]]]]]]]", ` "x": {[}]`} {
			before := strings.Repeat(" ", c.IntN(9))
			if got, want := skipValue([]byte(before+text+after), len(before)), len(before)+len(text); got != want {
				t.Fatalf("%s with %q behind it ends at %d, want %d", before+text, after, got, want)
			}
		}
		if short := text[:c.IntN(len(text))]; strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
			if got := skipValue([]byte(short), 0); got != malformed {
				t.Fatalf("%s ends at %d", short, got)
			}
		}
	}
}

// $any skips elements whose text does not contain a string that the filter requires. This
// shortcut must not change the result.
func TestAnyFindsTheElementWithTheString(t *testing.T) {
	byMember := `{"input": {"$any": {"@.k": {"$eq": "a"}}}}`
	byElement := `{"input": {"$any": {"$eq": "a"}}}`
	byTwo := `{"input": {"$any": {"@.k": {"$eq": "a"}, "@.n": {"$gt": 1}}}}`
	escaped := `{"input": {"$any": {"@.k": {"$eq": "a\"b"}}}}`
	for _, c := range []struct {
		filter, input string
		want          bool
	}{
		{byMember, `[{"k": "b"}, {"x": "a"}, {"k": "a"}]`, true},
		{byMember, `[{"a": "b"}, "a", {"x": {"k": "a"}}, {"k": "aa"}]`, false},
		{byMember, `[{"k": "a", "k": "b"}, {"k": "b", "k": "a"}]`, true},
		{byMember, `[{"k": "\u0061"}]`, true},
		{byMember, `[{"k": "\\"}, {"k": "a"}]`, true},
		{byMember, `[{"k": "b"}]`, false},
		{byMember, `[]`, false},
		{byElement, `["b", ["a"], {"a": 1}, "a"]`, true},
		{byElement, `["b", ["a"], {"a": 1}]`, false},
		{byElement, `["\u0061"]`, true},
		{byTwo, `[{"k": "a", "n": 1}, {"k": "b", "n": 2}]`, false},
		{byTwo, `[{"k": "a", "n": 1}, {"k": "b", "n": 2}, {"n": 2, "k": "a"}]`, true},
		{escaped, `[{"k": "a"}, {"k": "a\u0022b"}]`, true},
	} {
		if got := mustParse(t, c.filter).Matches(&Document{Input: json.RawMessage(c.input)}); got != c.want {
			t.Errorf("%s on %s: %v", c.filter, c.input, got)
		}
	}
}
