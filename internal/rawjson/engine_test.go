package rawjson

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/enginetest"
)

func nestedLists(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func TestCheckForEngine(t *testing.T) {
	for _, in := range []string{
		`null`, `"plain"`, `{"a":[1,-2.5e+3,"\u00e4\ud83d\ude00\\ud800",{}]}`, `"\\\ud83d\udE00"`, `"\\ud800"`, `"[[\u007b"`,
		`1.7976931348623157e308`, `-1e+308`, `1e-400`, `0e400`, `"1e400"`, `18446744073709551616`, `1` + strings.Repeat("0", 308),
		`"` + strings.Repeat("9", 1000) + `"`, nestedLists(126), `[` + strings.Repeat("[],", 500) + `[]]`, `{"3e8a":"1e999"}`,
		`{"e":"` + strings.Repeat(`every e\\\u0065e1e999 `, 40) + `","n":1e300}`,
	} {
		if !json.Valid([]byte(in)) {
			t.Fatalf("%s is no JSON", in)
		}
		if err := CheckForEngine([]byte(in), 126); err != nil {
			t.Errorf("%.100s is refused: %v", in, err)
		}
	}
	for in, want := range map[string]string{
		`"\ud800"`:                             "half a surrogate pair at byte 1",
		`{"a\uDC00":1}`:                        "half a surrogate pair at byte 3",
		`"\ud83d\ud83d"`:                       "half a surrogate pair at byte 1",
		`"\ud83dx\ude00"`:                      "half a surrogate pair at byte 1",
		`"\"\\\udbff\\u"`:                      "half a surrogate pair at byte 5",
		`["\ud83d\ude00\ud83d"]`:               "half a surrogate pair at byte 14",
		`1e400`:                                "number at byte 0 is out of range",
		`[1E309]`:                              "number at byte 1 is out of range",
		`{"a":-1e+0999}`:                       "number at byte 5 is out of range",
		`1` + strings.Repeat("0", 309):         "number at byte 0 is out of range",
		`1` + strings.Repeat("0", 250) + `e99`: "number at byte 0 is out of range",
		`{"text":"` + strings.Repeat("e", 300) + `","n":1e400}`: "is out of range",
		`{"text":"` + strings.Repeat("e", 300) + `\ud800"}`:     "half a surrogate pair at byte 309",
		`[{"a":` + nestedLists(125) + `}]`:                      "nested deeper than 126 levels",
	} {
		if !json.Valid([]byte(in)) {
			t.Fatalf("%s is no JSON", in)
		}
		if err := CheckForEngine([]byte(in), 126); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", in, err, want)
		}
	}
}

// fitForEngine is an independent implementation of CheckForEngine.
func fitForEngine(b []byte, depth int) bool {
	x := []byte("x")
	b = regexp.MustCompile(`\\[^u]`).ReplaceAll(b, x)
	b = regexp.MustCompile(`(?i)\\ud[89ab]..\\ud[c-f]..`).ReplaceAll(b, x)
	if regexp.MustCompile(`(?i)\\ud[89a-f]`).Match(b) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return depthOf(b) <= depth
		}
		if n, ok := token.(json.Number); ok {
			if _, err := n.Float64(); err != nil {
				return false
			}
		}
	}
}

// FuzzCheckForEngine checks that CheckForEngine and the full scan both agree with fitForEngine.
func FuzzCheckForEngine(f *testing.F) {
	for _, seed := range append([]string{
		`"\ud83d\ude00"`, `"\ud800"`, `"\\ud800"`, `[1e308,1E309]`, `1e+0400`, nestedLists(127), `1` + strings.Repeat("0", 309), `"` + strings.Repeat("7", 450) + `"`,
	}, enginetest.JSONSeeds...) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) || !utf8.Valid(b) || depthOf(b) > MaxDepth {
			return
		}
		want := fitForEngine(b, 126)
		if got := scanForEngine(b, 126); (got == nil) != want {
			t.Errorf("%q: %v, but fit for the engine: %v", b, got, want)
		}
		if got := CheckForEngine(b, 126); (got == nil) != want {
			t.Errorf("%q: at a quick look %v, but fit for the engine: %v", b, got, want)
		}
		plain := Plain(b, 126)
		if plain && !want {
			t.Errorf("%q is plain, but not fit for the engine", b)
		}
		object := bytes.HasPrefix(bytes.TrimSpace(b), []byte("{"))
		if got := ScanPlainObject(b, 126, func(_, _ []byte) {}); got != (plain && object) {
			t.Errorf("%q as a plain object: %v", b, got)
		}
	})
}

func TestPlainIsWhatNeedsNoCloserLook(t *testing.T) {
	for text, want := range map[string]bool{
		` {"a":[1,-2.5,true,null,"\n \\ é 世"]} `: true, nestedLists(126): true, nestedLists(127): false, strings.Repeat("7", 200): true,
		`null`: true, ``: false, `{"a":}`: false, `1 2`: false, "\"\xff\"": false, "\"\x01\"": false,
		`"\u0020"`: false, `1e3`: false, strings.Repeat("7", 201): false, `"\\u0020"`: true,
	} {
		if got := Plain([]byte(text), 126); got != want {
			t.Errorf("%.40q: %v", text, got)
		}
		object := []byte(`{"a":` + text + `}`)
		if got := ScanPlainObject(object, 127, func(_, _ []byte) {}); got != want {
			t.Errorf("%.40q as a member: %v", text, got)
		}
	}
}

func BenchmarkCheckForEngine(b *testing.B) {
	for name, text := range map[string]string{
		"text": `{"note":"` + strings.Repeat("the quick brown fox jumps over the lazy dog, whenever there are 3 eels. ", 3600) + `"}`,
		"rows": `{"data":[` + strings.Repeat(`{"user":"u-1","amount":12,"tags":["a","b"]},`, 5000) + `1]}`,
		"keys": `{"user":"u-1","amount":12,"note":"hello world","tags":["a","b"]}`,
	} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(text)
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if err := CheckForEngine(raw, 126); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
