package iiitest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A callee receives the caller's trace context as rewritten by the engine.
func TestTraceToCallee(t *testing.T) {
	const ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
	traced := func(header string) traceContext { return traceContext{header, "iii.function.id=f"} }
	with := func(baggage string) traceContext { return traceContext{"", baggage} }
	var hundred, first []string
	for i := range 100 {
		hundred = append(hundred, fmt.Sprintf("k%d=v", i))
	}
	first = hundred[:maxBaggageEntries]
	half := strings.Repeat("v", maxBaggageBytes/2-1)
	const absent = "\x00"
	tests := []struct {
		name                 string
		traceparent, baggage string
		want                 traceContext
	}{
		{"none", absent, absent, traceContext{}},
		{"both", "00-" + ids + "-01", "a=1", traceContext{"00-" + ids + "-01", "iii.function.id=f,a=1"}},
		{"empty traceparent", "", absent, traced("")},
		{"empty baggage", absent, "", traced("")},
		{"not sampled", "00-" + ids + "-00", absent, traced("00-" + ids + "-00")},
		{"random, not sampled", "00-" + ids + "-02", absent, traced("00-" + ids + "-00")},
		{"random", "00-" + ids + "-03", "a=1", with("iii.function.id=f,a=1")},
		{"later version", "cc-" + ids + "-FF-more", absent, traced("00-" + ids + "-01")},
		{"no version", "ff-" + ids + "-01", absent, traced("")},
		{"capitals", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", absent, traced("")},
		{"short numbers", "0-1-2-1", absent, traced("00-00000000000000000000000000000001-0000000000000002-01")},
		{"long numbers", "000-0000" + ids + "-00001", absent, traced("00-" + ids + "-01")},
		{"signs", "+0-+" + ids + "-+1", absent, traced("00-" + ids + "-01")},
		{"two signs", "00-++" + ids + "-01", absent, traced("")},
		{"a digit too many", "00-1" + ids + "-01", absent, traced("")},
		{"no digits", "00--" + ids[33:] + "-01", absent, traced("")},
		{"blanks around", " 00-" + ids + "-01\n", absent, traced("00-" + ids + "-01")},
		{"a last dash", "00-" + ids + "-01-", absent, traced("00-" + ids + "-01")},
		{"a field too many", "00-" + ids + "-01-x", absent, traced("")},
		{"zeros", "00-00000000000000000000000000000000-b7ad6b7169203331-01", absent, traced("")},
		{"zero parent", "00-" + ids[:33] + "0000000000000000-01", absent, traced("")},
		{"flags of one digit too many", "00-" + ids + "-1x", absent, traced("")},
		{"other callee", absent, "iii.function.id=g;p, b = 2 ;x=y", with("iii.function.id=f,b=2")},
		{"twice", absent, "a=1,b=2,a=3", with("iii.function.id=f,a=3,b=2")},
		{"escapes", absent, "a=100%25,b=x%3dy%2C z,c=%C3%BC,d=%zz", with("iii.function.id=f,a=100%,b=x%3Dy%2C%20z,c=%C3%BC,d=%zz")},
		{"blank escapes", absent, "%20a%20=%20v%20", with("iii.function.id=f,a=v")},
		{"bad entries", absent, "bad,=1,a=%ff,b=1=2,,;c=1", with("iii.function.id=f,b=1")},
		{"keys that are no tokens", absent, "é=1,a b=2,a(=3,a:b=4,a%2Cb=5,_.~*=6", with("iii.function.id=f,_.~*=6")},
		{"values of any kind", absent, `a=é,b="q",c=a\b`, with(`iii.function.id=f,a=%C3%A9,b=%22q%22,c=a\b`)},
		{"100 entries", absent, strings.Join(hundred, ","), with(strings.Join(first, ","))},
		{"64 with the callee's", absent, "iii.function.id=x," + strings.Join(first[1:], ","), with("iii.function.id=f," + strings.Join(first[1:], ","))},
		{"a large entry", absent, "a=" + strings.Repeat("v", maxBaggageBytes) + ",b=1", with("iii.function.id=f,b=1")},
		{"large entries", absent, "a=" + half + ",b=" + half + ",c=1", with("a=" + half + ",b=" + half)},
		{"the callee's id alone is too large", absent, "b=2", with("b=2")},
		{"properties count", absent, "a=1;" + strings.Repeat("p", maxBaggageBytes-1) + ",b=2;p", with("iii.function.id=f,b=2")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := func(s string) *string {
				if s == absent {
					return nil
				}
				return &s
			}
			callee := "f"
			if strings.HasPrefix(tt.name, "the callee's id") {
				callee = strings.Repeat("f", maxBaggageBytes)
			}
			got := toCallee(header(tt.traceparent), header(tt.baggage), callee)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(traceContext{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Calls made by the engine forward the received baggage, including properties.
func TestBaggageIsForwarded(t *testing.T) {
	ctx := childTrace(withTrace(t.Context(), traceContext{baggage: "a = 1 ; p = 1 ;q,b=%41,a=2;r, c=é"}))
	if got, want := traceOf(ctx).baggage, "a=2;r,b=A,c=%C3%A9"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
