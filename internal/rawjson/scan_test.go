package rawjson

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/enginetest"
)

type field struct{ Key, Value string }

func scanned(b []byte) (fields []field, err error) {
	err = ScanObject(b, func(key, value []byte) { fields = append(fields, field{string(key), string(value)}) })
	return fields, err
}

func TestScanObject(t *testing.T) {
	tests := []struct {
		name, in string
		want     []field
	}{
		{"empty", `{}`, nil},
		{"empty with space", " \t\r\n{ \n} ", nil},
		{"string", `{"a":"b"}`, []field{{"a", `"b"`}}},
		{"numbers", `{"a":0,"b":-1.5e+30,"c":10E-2}`, []field{{"a", "0"}, {"b", "-1.5e+30"}, {"c", "10E-2"}}},
		{"literals", `{"a":true,"b":false,"c":null}`, []field{{"a", "true"}, {"b", "false"}, {"c", "null"}}},
		{"nested", `{"a":{"b":[1,{"c":[]}]} , "d" : [ { } ] }`, []field{{"a", `{"b":[1,{"c":[]}]}`}, {"d", `[ { } ]`}}},
		{"escapes", `{"\"\\\u00e9":"\"}\\"}`, []field{{`\"\\\u00e9`, `"\"}\\"`}}},
		{"twice", `{"a":1,"a":2}`, []field{{"a", "1"}, {"a", "2"}}},
		{"brackets in strings", `{"a":"}]","b":"{["}`, []field{{"a", `"}]"`}, {"b", `"{["`}}},
		{"beyond ASCII", `{"é":"日本"}`, []field{{"é", `"日本"`}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := scanned([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("members (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScanObjectRefuses(t *testing.T) {
	for _, in := range enginetest.InvalidJSON {
		if json.Valid([]byte(in)) {
			t.Errorf("%q: encoding/json takes it", in)
		}
		if got, err := scanned([]byte(in)); err == nil {
			t.Errorf("%q: taken: %v", in, got)
		}
	}
	for _, in := range []string{`[]`, `"a"`, `1`, `null`, `true`} {
		if got, err := scanned([]byte(in)); err == nil {
			t.Errorf("%q is no object, and taken: %v", in, got)
		}
		if !Valid([]byte(in)) {
			t.Errorf("%q is no valid JSON", in)
		}
	}
}

// Deep nesting must not exhaust the stack.
func TestScanDepth(t *testing.T) {
	nested := func(depth int, open, end string) []byte {
		return []byte(strings.Repeat(open, depth) + strings.Repeat(end, depth))
	}
	for _, kind := range [][2]string{{"[", "]"}, {`{"a":[`, `]}`}} {
		levels := strings.Count(kind[0], "[") + strings.Count(kind[0], "{")
		if in := nested(MaxDepth/levels, kind[0], kind[1]); !Valid(in) {
			t.Errorf("%d levels of %s are refused", MaxDepth, kind[0])
		}
		for _, depth := range []int{MaxDepth/levels + 1, 10_000_000} {
			if in := nested(depth, kind[0], kind[1]); Valid(in) {
				t.Errorf("%d times %s is taken", depth, kind[0])
			}
		}
	}
	if _, err := scanned(nested(5_000_000, `{"a":`, `}`)); err == nil {
		t.Error("a deeply nested object is taken")
	}
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{
		`""`: "", `"a"`: "a", `"é"`: "é", `"\u00e9\n"`: "é\n", "\"\xff\"": "\ufffd", `"\ud83d\ude00"`: "😀", `"\ud800"`: "\ufffd", `"a\/b"`: "a/b",
	} {
		if got, ok := Unquote([]byte(in)); !ok || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{``, `"`, `null`, `1`, `{}`} {
		if got, ok := Unquote([]byte(in)); ok {
			t.Errorf("%s: %q is no string", in, got)
		}
	}
}

func depthOf(b []byte) (depth int) {
	level, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			level++
			depth = max(depth, level)
		case c == ']' || c == '}':
			level--
		}
	}
	return depth
}

func FuzzValidJSON(f *testing.F) {
	for _, seed := range enginetest.JSONSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := Valid(b), json.Valid(b) && depthOf(b) <= MaxDepth; got != want {
			t.Errorf("%q: valid: %v, encoding/json says %v", b, got, want)
		}
	})
}

// FuzzScanObject compares the members found by ScanObject with those found by encoding/json.
func FuzzScanObject(f *testing.F) {
	for _, seed := range enginetest.JSONSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := scanned(b)
		object := len(bytes.TrimLeft(b, " \t\r\n")) > 0 && bytes.TrimLeft(b, " \t\r\n")[0] == '{'
		want := json.Valid(b) && object && depthOf(b) <= MaxDepth
		if (err == nil) != want {
			t.Fatalf("%q: %v, encoding/json says %v", b, err, want)
		}
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(b, &members); err != nil {
			if utf8.Valid(b) {
				t.Fatal(err)
			}
			return // newer versions of encoding/json reject invalid UTF-8
		}
		got := map[string]string{}
		for _, f := range fields {
			key, ok := Unquote([]byte(`"` + f.Key + `"`))
			if !ok {
				t.Fatalf("%q: key %q does not decode", b, f.Key)
			}
			got[key] = f.Value
		}
		for key, value := range members {
			if got[key] != string(value) {
				t.Errorf("%q: member %q is %q, encoding/json says %q", b, key, got[key], value)
			}
			delete(got, key)
		}
		if len(got) > 0 {
			t.Errorf("%q: encoding/json does not know the members %v", b, got)
		}
	})
}

// The position of a byte within a word must not matter.
func TestPlainBytesStopsAtEachSpecialByte(t *testing.T) {
	sizes := []int{255, 256, 257, 300, 767, 768, 769, 1000}
	for size := range 80 {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		b := bytes.Repeat([]byte{'x'}, size)
		if n := PlainBytes(b); n != size {
			t.Fatalf("%d plain bytes: %d", size, n)
		}
		for at := range b {
			for c := range 256 {
				b[at] = byte(c)
				want := size
				if c < ' ' || c == '"' || c == '\\' {
					want = at
				}
				if n := PlainBytes(b); n != want {
					t.Fatalf("%d bytes with %#x at %d: %d, want %d", size, c, at, n, want)
				}
			}
			b[at] = 'x'
		}
	}
}

// Long strings are scanned in parts. The boundaries between parts must not matter.
func TestPlainBytesOfLongStrings(t *testing.T) {
	b := bytes.Repeat([]byte{'x'}, 40_000)
	for at := 0; at < len(b); at += 61 {
		for _, c := range []byte{'"', '\\', 0, 0x1f, ' ', 0x7f, 0x80, 0xff} {
			b[at], b[len(b)-1] = c, '"'
			want := len(b) - 1
			if c < ' ' || c == '"' || c == '\\' {
				want = at
			}
			if n := PlainBytes(b); n != want {
				t.Fatalf("%#x at %d: %d, want %d", c, at, n, want)
			}
			b[at] = 'x'
		}
	}
}

func BenchmarkScanObject(b *testing.B) {
	for name, text := range map[string]string{
		"text": `{"type":"x","data":{"note":"` + strings.Repeat("x", 256<<10) + `"}}`,
		"4KiB": `{"type":"x","data":{"note":"` + strings.Repeat("x", 4<<10) + `"}}`,
		"rows": `{"type":"x","data":[` + strings.Repeat(`{"user":"u-1","amount":12,"tags":["a","b"]},`, 5000) + `1]}`,
		"keys": `{"type":"x","data":{"user":"u-1","amount":12,"note":"hello world","tags":["a","b"]}}`,
	} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(text)
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if err := ScanObject(raw, func(_, _ []byte) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
