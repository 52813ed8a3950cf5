package iii

import (
	"bytes"
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func nestedLists(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func TestCheckForEngine(t *testing.T) {
	for _, in := range []string{
		`null`, `"plain"`, `{"a":[1,-2.5e+3,"\u00e4\ud83d\ude00\\ud800",{}]}`, `"\\\ud83d\udE00"`, `"\\ud800"`, `"[[\u007b"`,
		`1.7976931348623157e308`, `-1e+308`, `1e-400`, `0e400`, `"1e400"`, `18446744073709551616`, `1` + strings.Repeat("0", 308),
		`"` + strings.Repeat("9", 1000) + `"`, nestedLists(126), `[` + strings.Repeat("[],", 500) + `[]]`, `{"3e8a":"1e999"}`,
	} {
		if !json.Valid([]byte(in)) {
			t.Fatalf("%s is no JSON", in)
		}
		if err := checkForEngine([]byte(in), 126); err != nil {
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
		`[{"a":` + nestedLists(125) + `}]`:     "nested deeper than 126 levels",
	} {
		if !json.Valid([]byte(in)) {
			t.Fatalf("%s is no JSON", in)
		}
		if err := checkForEngine([]byte(in), 126); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", in, err, want)
		}
	}
}

// TestEncodeForEngine is about values that are JSON and that the engine would drop
// the message for.
func TestEncodeForEngine(t *testing.T) {
	deep := any(1)
	for range 126 {
		deep = []any{deep}
	}
	huge := new(big.Int).Exp(big.NewInt(10), big.NewInt(400), nil)
	for name, v := range map[string]any{
		"half a pair": json.RawMessage(`"\ud800"`), "number": json.RawMessage(`{"a":1e400}`), "deep": []any{deep},
		"deep and raw": json.RawMessage(nestedLists(127)), "number inside": map[string]any{"a": json.Number("1e400")}, "big": huge,
	} {
		for what, encode := range map[string]func(*buffer) error{
			"payload": func(b *buffer) error { return encodeInvoke(b, &invocation{functionID: "f"}, v) },
			"metadata": func(b *buffer) error {
				return encodeInvoke(b, &invocation{functionID: "f", hasMetadata: true, metadata: v}, nil)
			},
			"result": func(b *buffer) error { return encodeResult(b, []byte(testID), "f", v) },
			"registration": func(*buffer) error {
				raw, err := rawOf(v)
				if err != nil {
					t.Fatal(err)
				}
				_, err = registrationOf(RegisterFunctionMessage{ID: "f", Metadata: JSONValue(raw)})
				return err
			},
		} {
			b := newBuffer()
			if err := encode(b); err == nil {
				t.Errorf("%s: encodes as a %s", name, what)
			}
			b.free()
		}
	}
	b := newBuffer()
	defer b.free()
	if err := encodeResult(b, []byte(testID), "f", deep); err != nil {
		t.Errorf("126 levels of a result: %v", err)
	}
	if _, err := registrationOf(RegisterFunctionMessage{ID: "f", Metadata: JSONValue(nestedLists(126))}); err != nil {
		t.Errorf("126 levels of metadata: %v", err)
	}
}

// fitForEngine judges by other means than checkForEngine.
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

// FuzzCheckForEngine compares the quick look with the thorough one, and both with
// another judge.
func FuzzCheckForEngine(f *testing.F) {
	for _, seed := range append([]string{
		`"\ud83d\ude00"`, `"\ud800"`, `"\\ud800"`, `[1e308,1E309]`, `1e+0400`, nestedLists(127), `1` + strings.Repeat("0", 309), `"` + strings.Repeat("7", 450) + `"`,
	}, scanSeeds...) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) || !utf8.Valid(b) || depthOf(b) > maxDepth {
			return
		}
		want := fitForEngine(b, 126)
		if got := scanForEngine(b, 126); (got == nil) != want {
			t.Errorf("%q: %v, but fit for the engine: %v", b, got, want)
		}
		if got := checkForEngine(b, 126); (got == nil) != want {
			t.Errorf("%q: at a quick look %v, but fit for the engine: %v", b, got, want)
		}
	})
}
