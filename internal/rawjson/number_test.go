package rawjson

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestAppendNumber(t *testing.T) {
	tests := []struct{ in, want string }{
		{"0", "0"},
		{"-0", "-0.0"},
		{"-0.0", "-0.0"},
		{"0e5", "0.0"},
		{"-0e400", "-0.0"},
		{"7", "7"},
		{"-7", "-7"},
		{"18446744073709551615", "18446744073709551615"},
		{"18446744073709551616", "1.8446744073709552e+19"},
		{"-9223372036854775808", "-9223372036854775808"},
		{"-9223372036854775809", "-9.223372036854776e+18"},
		{"123456789012345678901234567890", "1.2345678901234568e+29"},
		{"18446744073709551616.0", "1.8446744073709552e+19"},
		{"1e2", "100.0"},
		{"1E2", "100.0"},
		{"1e+02", "100.0"},
		{"1.50", "1.5"},
		{"2.0e0", "2.0"},
		{"123456.789e3", "123456789.0"},
		{"123456789.123456789", "123456789.12345679"},
		{"1e15", "1000000000000000.0"},
		{"9999999999999998.0", "9999999999999998.0"},
		{"1e16", "1e+16"},
		{"1e300", "1e+300"},
		{"0.00001", "0.00001"},
		{"0.000001", "1e-6"},
		{"1.25e-7", "1.25e-7"},
		{"1e-10", "1e-10"},
		{"5e-324", "5e-324"},
		{"1e-400", "0.0"},
		{"1e-2147483648", "0.0"},
		{"-1e-99999999999999999999", "-0.0"},
		{"1.7976931348623157e308", "1.7976931348623157e+308"},
		{"0.000000000000000000000001", "1.0000000000000001e-24"}, // as measured; not the nearest float
		{"0.9079395984753885", "0.9079395984753884"},             // likewise
		{"0." + strings.Repeat("0", 400) + "1e401", "1.0"},
		{"1e400", "1e400"}, // rejected
	}
	for _, test := range tests {
		if got := string(AppendNumber(nil, []byte(test.in))); got != test.want {
			t.Errorf("%s: got %s, want %s", test.in, got, test.want)
		}
	}
}

func TestNumberInRange(t *testing.T) {
	for number, want := range map[string]bool{
		"1e308": true, "1.7976931348623157e308": true, "2e308": false, "-2e308": false, "1e309": false,
		"0e309": true, "0e99999999999": true, "1e99999999999": false, "1e-99999999999": true, "-0": true,
		"1" + strings.Repeat("0", 308): true, "1" + strings.Repeat("0", 309): false,
		strings.Repeat("9", 400) + "e-300": true,
	} {
		if got := NumberInRange([]byte(number)); got != want {
			t.Errorf("%s: got %t", number, got)
		}
	}
}

func TestAppendNumbers(t *testing.T) {
	tests := []struct{ in, want string }{
		{``, ``},
		{`1e2`, `100.0`},
		{`{"1e2":"1e2\"1e2","a":[1e2,-0,7,true,null],"b":{"c":1.50}}`, `{"1e2":"1e2\"1e2","a":[100.0,-0.0,7,true,null],"b":{"c":1.5}}`},
		{`["\\",1e2]`, `["\\",100.0]`},
		{`[1,2,3]`, `[1,2,3]`},
		{`0.9079395984753885`, `0.9079395984753885`},
	}
	for _, test := range tests {
		got, ok := AppendNumbers([]byte("x"), []byte(test.in))
		if !ok || string(got) != "x"+test.want {
			t.Errorf("%s: got %s, %t, want x%s", test.in, got, ok, test.want)
		}
	}
	if got, ok := AppendNumbers(nil, []byte(`{"a":[1e400]}`)); ok {
		t.Errorf("a number out of range: got %s", got)
	}
}

// FuzzAppendNumber checks that AppendNumber differs from strconv by no more than the engine's
// rounding error, even when applied twice.
func FuzzAppendNumber(f *testing.F) {
	for _, s := range []string{"1e2", "-0", "123456789012345678901234567890", "0.9079395984753885", "1e-310", "4.9e-324", "1e400", "2e-400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !json.Valid([]byte(s)) || s == "" || s[0] != '-' && !isDigit(s[0]) {
			return
		}
		s = strings.TrimRight(s, " \t\r\n")
		exact, err := strconv.ParseFloat(s, 64)
		if !NumberInRange([]byte(s)) {
			if err == nil && math.Abs(exact) < 1.7e308 {
				t.Errorf("%s is refused", s)
			}
			return
		}
		spelled := AppendNumber(nil, []byte(s))
		got, gotErr := strconv.ParseFloat(string(spelled), 64)
		if gotErr != nil || err == nil && math.Abs(got-exact) > math.Abs(exact)*1e-15+1e-320 {
			t.Errorf("%s became %s, %v", s, spelled, gotErr)
		}
		again := AppendNumber(nil, spelled)
		if a, _ := strconv.ParseFloat(string(again), 64); math.Abs(a-got) > math.Abs(got)*1e-15+1e-320 {
			t.Errorf("%s became %s and then %s", s, spelled, again)
		}
	})
}
