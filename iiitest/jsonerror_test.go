package iiitest

import (
	"strings"
	"testing"
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
		{"\"\xff\"", "invalid unicode code point at line 1 column 3"},
		{"01", "invalid number at line 1 column 2"},
		{"-", "EOF while parsing a value at line 1 column 1"},
		{"-x", "invalid number at line 1 column 2"},
		{"1.", "EOF while parsing a value at line 1 column 2"},
		{"1e+x", "invalid number at line 1 column 4"},
		{strings.Repeat("[", 128), "recursion limit exceeded at line 1 column 128"},
		{strings.Repeat("[", 127) + strings.Repeat("]", 127), ""},
		{` {"a":[1,-2.5e+3,"\u00e4\ud83d\ude00",{}],"b":null,"c":true,"d":false} `, ""},
	} {
		if got := syntaxError([]byte(test.text)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

// Every text that is refused is refused for a reason, and no other one has any.
func FuzzSyntaxError(f *testing.F) {
	for _, seed := range []string{"", "[1,]", `{"a":"\u12"}`, "-0.1e5", "\"\xff\"", `"\ud800"`, "nulls"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		reason := syntaxError(text)
		if strings.Contains(reason, "hex escape") { // encoding/json replaces half a pair
			return
		}
		if refused := checkJSON(text) != nil; refused != (reason != "") {
			t.Errorf("refused: %v, for %q", refused, reason)
		}
	})
}
