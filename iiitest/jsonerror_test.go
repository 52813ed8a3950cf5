package iiitest

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSyntaxError(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "EOF while parsing a value at line 1 column 0"},
		{" \n ", "EOF while parsing a value at line 2 column 1"},
		{"not json", "expected ident at line 1 column 2"},         // recorded
		{"{not json}", "key must be a string at line 1 column 2"}, // recorded
		{"nul", "EOF while parsing a value at line 1 column 3"},
		{"<html>", "expected value at line 1 column 1"},
		{"1 2", "trailing characters at line 1 column 3"},
		{"[", "EOF while parsing a list at line 1 column 1"},
		{"[1", "EOF while parsing a list at line 1 column 2"},
		{"[1,", "EOF while parsing a value at line 1 column 3"},
		{"[1,]", "trailing comma at line 1 column 4"},
		{"[1 2]", "expected `,` or `]` at line 1 column 4"},
		{"[,1]", "expected value at line 1 column 2"},
		{"{", "EOF while parsing an object at line 1 column 1"},
		{"{\n\"a\":1,\n}", "trailing comma at line 3 column 1"},
		{`{"a" 1}`, "expected `:` at line 1 column 6"},
		{`{"a"`, "EOF while parsing an object at line 1 column 4"},
		{`{"a":1 "b":2}`, "expected `,` or `}` at line 1 column 8"},
		{`{"a":1,`, "EOF while parsing a value at line 1 column 7"},
		{`"a`, "EOF while parsing a string at line 1 column 2"},
		{"\"a\nb\"", "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"},
		{`"\x"`, "invalid escape at line 1 column 3"},
		{`"\u12g4"`, "invalid escape at line 1 column 6"},
		{`"\ud800"`, "unexpected end of hex escape at line 1 column 8"},
		{`"\ud800\u0041"`, "lone leading surrogate in hex escape at line 1 column 13"},
		{`"\udc00"`, "lone leading surrogate in hex escape at line 1 column 7"},
		{"\ufeff1", "expected value at line 1 column 1"},
		{"\"\xff\"", "invalid unicode code point at line 1 column 3"},
		{"01", "invalid number at line 1 column 2"},
		{"-", "EOF while parsing a value at line 1 column 1"},
		{"-x", "invalid number at line 1 column 2"},
		{"1.", "EOF while parsing a value at line 1 column 2"},
		{"1e+x", "invalid number at line 1 column 4"},
		{"1e400", "number out of range at line 1 column 5"},
		{"[-1E+309]", "number out of range at line 1 column 8"},
		{"1" + strings.Repeat("0", 309), "number out of range at line 1 column 310"},
		{"1" + strings.Repeat("0", 308), ""},
		{"[1.7976931348623157e308,0e400,1e-400,-0,18446744073709551616]", ""},
		{strings.Repeat("[", 128), "recursion limit exceeded at line 1 column 128"},
		{strings.Repeat("[", 127) + strings.Repeat("]", 127), ""},
		{` {"a":[1,-2.5e+3,"\u00e4\ud83d\ude00",{}],"b":null,"c":true,"d":false} `, ""},
	} {
		if got := syntaxError([]byte(test.text)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

// The parser is stricter than encoding/json: it also rejects invalid UTF-8, lone surrogates,
// numbers that are out of range, and deep nesting.
func FuzzSyntaxError(f *testing.F) {
	for _, seed := range []string{"", "[1,]", `{"a":"\u12"}`, "-0.1e5", "\"\xff\"", `"\ud800"`, "1e400", "nulls"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		reason := syntaxError(text)
		stricter := false
		for _, more := range []string{"invalid unicode", "hex escape", "out of range", "recursion limit"} {
			stricter = stricter || strings.Contains(reason, more)
		}
		if stricter {
			return
		}
		if valid := json.Valid(text); valid != (reason == "") {
			t.Errorf("valid: %v, but %q", valid, reason)
		}
		if reason == "" && !utf8.Valid(text) {
			t.Error("text that is not UTF-8 is accepted")
		}
	})
}
