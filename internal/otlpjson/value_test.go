package otlpjson

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"

	"github.com/iii-go/iii/internal/rawjson"
)

func nested(depth int, leaf attribute.Value) attribute.Value {
	for range depth {
		leaf = attribute.MapValue(attribute.KeyValue{Key: "d", Value: leaf})
	}
	return leaf
}

var valueCases = []struct {
	name  string
	value attribute.Value
	want  string
}{
	{"string", attribute.StringValue("x"), `{"stringValue":"x"}`},
	{"empty string", attribute.StringValue(""), `{"stringValue":""}`},
	{"escapes", attribute.StringValue("a\"b\\c\n\t\r\x00\x1b<&>\u2028☕"), `{"stringValue":"a\"b\\c\n\t\r\u0000\u001b<&>` + "\u2028☕" + `"}`},
	{"no UTF-8", attribute.StringValue("a\xffb\xc3"), `{"stringValue":"a` + "\uFFFD" + `b` + "\uFFFD" + `"}`},
	{"surrogate in UTF-8", attribute.StringValue("\xed\xa0\x80"), `{"stringValue":"` + "\uFFFD\uFFFD\uFFFD" + `"}`},
	{"true", attribute.BoolValue(true), `{"boolValue":true}`},
	{"false", attribute.BoolValue(false), `{"boolValue":false}`},
	{"zero", attribute.Int64Value(0), `{"intValue":0}`},
	{"2^53", attribute.Int64Value(1 << 53), `{"intValue":9007199254740992}`},
	{"-2^53", attribute.Int64Value(-1 << 53), `{"intValue":-9007199254740992}`},
	{"2^53+1", attribute.Int64Value(1<<53 + 1), `{"intValue":"9007199254740993"}`},
	{"-2^53-1", attribute.Int64Value(-1<<53 - 1), `{"intValue":"-9007199254740993"}`},
	{"least integer", attribute.Int64Value(math.MinInt64), `{"intValue":"-9223372036854775808"}`},
	{"fraction", attribute.Float64Value(1.5), `{"doubleValue":1.5}`},
	{"integral double", attribute.Float64Value(-3), `{"doubleValue":-3}`},
	{"negative zero", attribute.Float64Value(math.Copysign(0, -1)), `{"doubleValue":-0}`},
	{"2^53 as double", attribute.Float64Value(1 << 53), `{"doubleValue":9007199254740992}`},
	{"1e20", attribute.Float64Value(1e20), `{"doubleValue":100000000000000000000}`},
	{"1e21", attribute.Float64Value(1e21), `{"doubleValue":1e+21}`},
	{"small", attribute.Float64Value(1e-7), `{"doubleValue":1e-07}`},
	{"largest", attribute.Float64Value(math.MaxFloat64), `{"doubleValue":1.7976931348623157e+308}`},
	{"least", attribute.Float64Value(math.SmallestNonzeroFloat64), `{"doubleValue":5e-324}`},
	{"NaN", attribute.Float64Value(math.NaN()), `{"stringValue":"NaN"}`},
	{"Infinity", attribute.Float64Value(math.Inf(1)), `{"stringValue":"Infinity"}`},
	{"-Infinity", attribute.Float64Value(math.Inf(-1)), `{"stringValue":"-Infinity"}`},
	{"bytes", attribute.ByteSliceValue([]byte{0, 1, 255}), `{"stringValue":"AAH/"}`},
	{"no bytes", attribute.ByteSliceValue(nil), `{"stringValue":""}`},
	{"nothing", attribute.Value{}, `{}`},
	{"strings", attribute.StringSliceValue([]string{"a", "b"}), `{"arrayValue":{"values":[{"stringValue":"a"},{"stringValue":"b"}]}}`},
	{"no strings", attribute.StringSliceValue(nil), `{"arrayValue":{"values":[]}}`},
	{"integers", attribute.Int64SliceValue([]int64{1, 1 << 60}), `{"arrayValue":{"values":[{"intValue":1},{"intValue":"1152921504606846976"}]}}`},
	{"doubles", attribute.Float64SliceValue([]float64{0.5, math.NaN()}), `{"arrayValue":{"values":[{"doubleValue":0.5},{"stringValue":"NaN"}]}}`},
	{"booleans", attribute.BoolSliceValue([]bool{true, false}), `{"arrayValue":{"values":[{"boolValue":true},{"boolValue":false}]}}`},
	{"mixed list", attribute.SliceValue(attribute.IntValue(1), attribute.StringValue("x"), attribute.Value{}), `{"arrayValue":{"values":[{"intValue":1},{"stringValue":"x"},{}]}}`},
	{"map", attribute.MapValue(attribute.Bool("a", true), attribute.Map("b", attribute.Int("c", 1))), `{"kvlistValue":{"values":[{"key":"a","value":{"boolValue":true}},{"key":"b","value":{"kvlistValue":{"values":[{"key":"c","value":{"intValue":1}}]}}}]}}`},
	{"empty map", attribute.MapValue(), `{"kvlistValue":{"values":[]}}`},
}

func TestEncodeValue(t *testing.T) {
	for _, test := range valueCases {
		t.Run(test.name, func(t *testing.T) {
			e := &Encoder{limit: wholeFrame, stop: math.MaxInt}
			e.caps = e.uncapped()
			got := e.value(nil, &test.value, 0)
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !json.Valid(got) {
				t.Errorf("not JSON: %s", got)
			}
		})
	}
}

// A value that is nested more deeply than a frame can hold becomes text.
func TestEncodeDeepValue(t *testing.T) {
	e := &Encoder{limit: wholeFrame, stop: math.MaxInt}
	e.caps = e.uncapped()
	for _, test := range []struct {
		depth int
		leaf  attribute.Value
		want  string
	}{
		{MaxValueDepth, attribute.StringValue("leaf"), `{"stringValue":"leaf"}`},
		{MaxValueDepth, attribute.StringSliceValue([]string{"leaf"}), `{"stringValue":"[\"leaf\"]"}`},
		{MaxValueDepth + 1, attribute.StringValue("leaf"), `{"stringValue":"{\"d\":\"leaf\"}"}`},
		{64, attribute.Float64Value(math.NaN()), `{"stringValue":"` + strings.Repeat(`{\"d\":`, 64-MaxValueDepth) + `\"NaN\"` + strings.Repeat("}", 64-MaxValueDepth) + `"}`},
	} {
		v := nested(test.depth, test.leaf)
		got := string(e.value(nil, &v, 0))
		inner := strings.Repeat(`{"kvlistValue":{"values":[{"key":"d","value":`, MaxValueDepth)
		want := inner + test.want + strings.Repeat(`}]}}`, MaxValueDepth)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("depth %d (-want +got):\n%s", test.depth, diff)
		}
	}
}

func TestUnixNano(t *testing.T) {
	for _, test := range []struct {
		name string
		time time.Time
		want uint64
	}{
		{"no time", time.Time{}, 0},
		{"epoch", time.Unix(0, 0), 0},
		{"before 1970", time.Unix(-1, 999_999_999), 0},
		{"first nanosecond", time.Unix(0, 1), 1},
		{"now", time.Unix(1767225600, 12345678), 1767225600012345678},
		{"another zone", time.Unix(1767225600, 0).In(time.FixedZone("x", 3600)), 1767225600000000000},
		{"last that fits", time.Unix(9223372035, 999_999_999), 9223372035999999999},
		{"later than int64 nanoseconds", time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), math.MaxInt64},
	} {
		if got := unixNano(test.time); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestEncodeCutText(t *testing.T) {
	for _, test := range []struct {
		max      int
		in, want string
	}{
		{4, "abcd", `"abcd"`},
		{4, "abcde", `"abcd...[TRUNCATED]"`},
		{4, "abc☕", `"abc...[TRUNCATED]"`},
		{3, "a\xff\xff\xff", `"a` + "\uFFFD\uFFFD" + `...[TRUNCATED]"`},
		{0, "a", `"...[TRUNCATED]"`},
		{6, strings.Repeat("\x80", 8), `"` + strings.Repeat("\uFFFD", 2) + `...[TRUNCATED]"`},
	} {
		e := &Encoder{caps: caps{text: test.max}}
		if got := string(e.text(nil, test.in)); got != test.want {
			t.Errorf("%q at %d: got %s, want %s", test.in, test.max, got, test.want)
		}
	}
}

func FuzzEncodeText(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\n\x00", "☕\u2028", "\xff\xfe", "\xed\xa0\x80"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		var got string
		if err := json.Unmarshal(rawjson.AppendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for _, r := range s { // each invalid byte becomes U+FFFD
			want.WriteRune(r)
		}
		if got != want.String() {
			t.Errorf("got %q, want %q", got, want.String())
		}
		e := &Encoder{caps: caps{text: max(limit, 0)}}
		cut := e.text(nil, s)
		if !json.Valid(cut) || !utf8.Valid(cut) {
			t.Errorf("cut at %d: %q", limit, cut)
		}
	})
}

func FuzzEncodeDouble(f *testing.F) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, 1.5, 1e21, 1e20, 1 << 53, 1 << 63, 5e-324, math.MaxFloat64, -1e-7} {
		f.Add(math.Float64bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		v := math.Float64frombits(bits)
		if !finite(v) {
			return
		}
		var got float64
		if err := json.Unmarshal(appendDouble(nil, v), &got); err != nil {
			t.Fatal(err)
		}
		if math.Float64bits(got) != bits {
			t.Errorf("got %v, want %v", got, v)
		}
	})
}
