package rawjson

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAppendString checks that encoding/json decodes the output to the original string. If the
// original is not valid UTF-8, the output must decode as if encoding/json had encoded it.
func FuzzAppendString(f *testing.F) {
	for _, seed := range []string{"", "a", "a\"b\\c", "é日本😀", "\x00\x01\x1f\x7f", "a\xffb", "\xed\xa0\x80", "\u2028\u2029<>&", "\xe2\x28\xa1",
		strings.Repeat("long ", 100), strings.Repeat("é", 300) + "\n" + strings.Repeat("x", 300), strings.Repeat("x", 300) + "\xff", "\xff" + strings.Repeat("x", 300) + "\"", "é" + strings.Repeat("x", 255) + "\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := AppendString([]byte("x"), s)
		if got[0] != 'x' || !utf8.Valid(got) {
			t.Fatalf("%q: %q", s, got)
		}
		var back string
		if err := json.Unmarshal(got[1:], &back); err != nil {
			t.Fatalf("%q: %q: %v", s, got, err)
		}
		if utf8.ValidString(s) && back != s {
			t.Errorf("%q: became %q", s, back)
		}
		std, err := json.Marshal(s)
		if err != nil {
			return
		}
		var judge string
		if err := json.Unmarshal(std, &judge); err != nil || judge != back {
			t.Errorf("%q: %q, encoding/json says %q, %v", s, back, judge, err)
		}
	})
}
