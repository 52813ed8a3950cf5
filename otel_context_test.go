package iii

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	testTraceID = "0af7651916cd43dd8448eb211c80319c"
	testSpanID  = "b7ad6b7169203331"
	testParent  = "00-" + testTraceID + "-" + testSpanID + "-01"
)

func TestExtractTraceparent(t *testing.T) {
	tests := []struct {
		name, header, want string
	}{
		{"sampled", testParent, testParent},
		{"not sampled", "00-" + testTraceID + "-" + testSpanID + "-00", "00-" + testTraceID + "-" + testSpanID + "-00"},
		{"random flag", "00-" + testTraceID + "-" + testSpanID + "-02", "00-" + testTraceID + "-" + testSpanID + "-00"},
		{"unknown flags", "00-" + testTraceID + "-" + testSpanID + "-ff", testParent},
		{"later version", "cc-" + testTraceID + "-" + testSpanID + "-01", testParent},
		{"later version with more", "cc-" + testTraceID + "-" + testSpanID + "-01-what", testParent},
		{"later version with a tail", "cc-" + testTraceID + "-" + testSpanID + "-01what", ""},
		{"version ff", "ff-" + testTraceID + "-" + testSpanID + "-01", ""},
		{"five parts", testParent + "-00", ""},
		{"empty", "", ""},
		{"short", testParent[:54], ""},
		{"upper case", strings.ToUpper(testParent), ""},
		{"no hex", "00-" + strings.Repeat("g", 32) + "-" + testSpanID + "-01", ""},
		{"zero trace", "00-" + strings.Repeat("0", 32) + "-" + testSpanID + "-01", ""},
		{"zero span", "00-" + testTraceID + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"other separators", strings.ReplaceAll(testParent, "-", "_"), ""},
		{"flags no hex", "00-" + testTraceID + "-" + testSpanID + "-0x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := ExtractContext(t.Context(), tt.header, "")
			if got := InjectTraceparent(ctx); got != tt.want {
				t.Errorf("traceparent %q came out as %q, want %q", tt.header, got, tt.want)
			}
			traceID, spanID := "", ""
			if tt.want != "" {
				traceID, spanID = testTraceID, testSpanID
			}
			if TraceID(ctx) != traceID || SpanID(ctx) != spanID {
				t.Errorf("ids are %q and %q", TraceID(ctx), SpanID(ctx))
			}
			if tt.want != "" && !trace.SpanContextFromContext(ctx).IsRemote() {
				t.Error("the span context is not remote")
			}
		})
	}
}

func TestExtractInvalidLeavesContext(t *testing.T) {
	ctx := ExtractContext(t.Context(), testParent, "a=1")
	got := ExtractContext(ctx, "nonsense", ",,;")
	if InjectTraceparent(got) != testParent || InjectBaggage(got) != "a=1" {
		t.Errorf("invalid headers changed the context to %q, %q", InjectTraceparent(got), InjectBaggage(got))
	}
	got = ExtractContext(ctx, "", "b=2")
	if InjectTraceparent(got) != testParent || InjectBaggage(got) != "b=2" {
		t.Errorf("baggage is not replaced: %q, %q", InjectTraceparent(got), InjectBaggage(got))
	}
}

// OpenTelemetry may set the random flag, but the engine rejects flags above 02. The client
// therefore sends only the sampled flag.
func TestTraceparentCarriesOnlyTheSampledFlag(t *testing.T) {
	provider := sdktrace.NewTracerProvider()
	for flags, want := range map[trace.TraceFlags]string{0: "00", 1: "01", 2: "00", 3: "01", 0xff: "01", 0xfe: "00"} {
		cfg := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags, Remote: true}
		ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(cfg))
		child, _ := provider.Tracer("t").Start(ctx, "child")
		for _, ctx := range []context.Context{ctx, child, ExtractContext(t.Context(), fmt.Sprintf("00-%s-%s-%02x", testTraceID, testSpanID, byte(flags)), "")} {
			if got := InjectTraceparent(ctx); !strings.HasSuffix(got, "-"+want) {
				t.Errorf("flags %02x: traceparent is %q, want flags %s", byte(flags), got, want)
			}
		}
	}
}

func TestBaggageRoundTrip(t *testing.T) {
	values := []string{"plain", "two words", "a,b", "a;b", "a=b", "100%", "50%25", "%", "%zz", `"quoted"`, `back\slash`, "Grüße, 世界 🌍",
		"tab\tnewline\n", "", "a=b;c,d=e", "\x7f\x00", "+plus+"}
	ctx := t.Context()
	want := map[string]string{}
	for i, v := range values {
		key := fmt.Sprintf("k%02d", i)
		var err error
		if ctx, err = SetBaggage(ctx, key, v); err != nil {
			t.Fatal(err)
		}
		want[key] = strings.TrimSpace(v)
	}
	for _, key := range []string{"key with spaces", "schlüssel", "a=b", "c,d", "100%"} {
		var err error
		if ctx, err = SetBaggage(ctx, " "+key+" ", " v "); err != nil {
			t.Fatal(err)
		}
		want[key] = "v"
	}
	header := InjectBaggage(ctx)
	for _, c := range []byte(header) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			t.Fatalf("header contains %q: %s", c, header)
		}
	}
	for member := range strings.SplitSeq(header, ",") {
		if strings.Count(member, "=") != 1 {
			t.Errorf("member %q contains an unescaped =", member)
		}
	}
	got := map[string]string{}
	for _, m := range baggage.FromContext(ExtractContext(t.Context(), "", header)).Members() {
		got[m.Key()] = m.Value()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("baggage (-want +got):\n%s", diff)
	}
	if again := InjectBaggage(ctx); again != header {
		t.Errorf("header differs from call to call:\n%s\n%s", header, again)
	}
}

func TestBaggageIsParsedLeniently(t *testing.T) {
	tests := []struct {
		name, header string
		want         map[string]string
	}{
		{"one bad among good", "a=1,bad,b=2,=3,c=3", map[string]string{"a": "1", "b": "2", "c": "3"}},
		{"spaces", " a = 1 ,\tb=2", map[string]string{"a": "1", "b": "2"}},
		{"raw percent", "a=100%,b=50%2,c=x%20y", map[string]string{"a": "100%", "b": "50%2", "c": "x y"}},
		{"raw percent among escapes", "a=x%3dy%2C%20100%,b=%zz%%20%", map[string]string{"a": "x=y, 100%", "b": "%zz% %"}},
		{"raw backslash, quote, text", `a=c:\dir,b="q",c=für alle`, map[string]string{"a": `c:\dir`, "b": `"q"`, "c": "für alle"}},
		{"equals sign", "a=b=c", map[string]string{"a": "b=c"}},
		{"properties", "a=1;p;q=2;;=,b=2", map[string]string{"a": "1", "b": "2"}},
		{"last counts", "a=1,a=2", map[string]string{"a": "2"}},
		{"no UTF-8", "a=%ff%fe", map[string]string{"a": "\uFFFD"}},
		{"empty value", "a=", map[string]string{"a": ""}},
		{"encoded key", "a%20b=1", map[string]string{"a b": "1"}},
		{"nothing", ",;=,", map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			for _, m := range parseBaggage(tt.header).Members() {
				got[m.Key()] = m.Value()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("baggage (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBaggageLimits(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "k%02d=v,", i)
	}
	bag := parseBaggage(b.String())
	if bag.Len() != maxBaggageMembers || bag.Member("k00").Value() != "v" || bag.Member("k63").Value() != "v" {
		t.Errorf("%d entries kept, want the first %d", bag.Len(), maxBaggageMembers)
	}
	bag = parseBaggage("a=1,big=" + strings.Repeat("x", 5000) + ",more=" + strings.Repeat("x", 5000))
	if bag.Len() != 2 || bag.Member("more").Key() != "" {
		t.Errorf("%d entries kept of an oversize header, want the two that fit", bag.Len())
	}

	ctx := t.Context()
	for i := range maxBaggageMembers {
		var err error
		if ctx, err = SetBaggage(ctx, fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ name, key, value string }{
		{"one too many", "x", "v"},
		{"too long", "0", strings.Repeat("x", 9000)},
		{"too long when encoded", "0", strings.Repeat("=", 3000)},
		{"no key", " ", "v"},
		{"no UTF-8", "0", "\xff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SetBaggage(ctx, tt.key, tt.value)
			if err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
				t.Errorf("error is %v", err)
			}
			if got != ctx {
				t.Error("the context was changed")
			}
		})
	}
	if _, err := SetBaggage(ctx, "0", "other"); err != nil {
		t.Errorf("replacing an entry at the limit: %v", err)
	}
}

func TestBaggageEntries(t *testing.T) {
	ctx := ExtractContext(t.Context(), "", "a=1;p=x%20y;q,b=2")
	ctx, err := SetBaggage(ctx, "c", "3")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := InjectBaggage(ctx), "a=1;p=x%20y;q,b=2,c=3"; got != want {
		t.Errorf("baggage is %q, want %q: the properties stay", got, want)
	}
	if v, ok := BaggageEntry(ctx, "b"); v != "2" || !ok {
		t.Errorf("entry b is %q, %v", v, ok)
	}
	if v, ok := BaggageEntry(ctx, "none"); v != "" || ok {
		t.Errorf("entry none is %q, %v", v, ok)
	}
	less := RemoveBaggage(ctx, "b")
	if got, want := InjectBaggage(less), "a=1;p=x%20y;q,c=3"; got != want {
		t.Errorf("baggage is %q, want %q", got, want)
	}
	if RemoveBaggage(less, "b") != less {
		t.Error("removing a missing entry changed the context")
	}
	if got := InjectBaggage(RemoveBaggage(RemoveBaggage(less, "a"), "c")); got != "" {
		t.Errorf("empty baggage is %q", got)
	}
}

func TestCapturedContext(t *testing.T) {
	provider := sdktrace.NewTracerProvider()
	ctx, cancel := context.WithCancel(ExtractContext(t.Context(), testParent, "a=1"))
	ctx, span := provider.Tracer("t").Start(ctx, "work")
	captured := CaptureContext(ctx)
	want := InjectTraceparent(ctx)
	span.End()
	cancel()

	other := ExtractContext(t.Context(), "00-11111111111111111111111111111111-2222222222222222-01", "b=2")
	got := captured.Attach(other)
	if InjectTraceparent(got) != want || InjectBaggage(got) != "a=1" {
		t.Errorf("attached context is in %q with %q, want %q with a=1", InjectTraceparent(got), InjectBaggage(got), want)
	}
	if got.Err() != nil {
		t.Errorf("cancellation was captured, too: %v", got.Err())
	}
	if (CapturedContext{}).Attach(other) != other {
		t.Error("the zero value attaches something")
	}
	none := CaptureContext(t.Context()).Attach(other)
	if InjectTraceparent(none) != "" || InjectBaggage(none) != "" {
		t.Error("attaching a captured context without a trace keeps the other trace")
	}
}

func TestBaggageSpanProcessor(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBaggageSpanProcessor()), sdktrace.WithSpanProcessor(recorder))
	ctx := ExtractContext(t.Context(), "", "iii.tag.z=last;prop=1,iii.session.id=S%201,own=baggage")
	_, span := provider.Tracer("t").Start(ctx, "s", trace.WithAttributes(attribute.String("own", "builder"), attribute.Int("n", 1)))
	started := recorder.Started()[0].Attributes()
	span.End()
	want := []attribute.KeyValue{attribute.String("own", "baggage"), attribute.Int("n", 1), attribute.String("iii.session.id", "S 1"), attribute.String("iii.tag.z", "last")}
	if diff := cmp.Diff(attributeMap(want), attributeMap(started)); diff != "" {
		t.Errorf("attributes at the start, for a later processor (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(attributeMap(want), attributeMap(recorder.Ended()[0].Attributes())); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func attributeMap(attributes []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, a := range attributes {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

func FuzzExtractContext(f *testing.F) {
	f.Add(testParent, "a=1;p=2,b=%20")
	f.Add("cc-"+testTraceID+"-"+testSpanID+"-01-x", "a=%,=,;")
	f.Fuzz(func(t *testing.T, traceparent, header string) {
		ctx := ExtractContext(t.Context(), traceparent, header)
		tp, bag := InjectTraceparent(ctx), InjectBaggage(ctx)
		if tp != "" && (len(tp) != traceparentLength || !strings.HasPrefix(tp, "00-") || tp[53] != '0' || tp[54] > '1') {
			t.Errorf("traceparent %q came out as %q", traceparent, tp)
		}
		again := ExtractContext(t.Context(), tp, bag)
		if InjectTraceparent(again) != tp {
			t.Errorf("traceparent %q came out as %q", tp, InjectTraceparent(again))
		}
		if len(bag) <= maxBaggageBytes && InjectBaggage(again) != bag {
			t.Errorf("baggage %q came out as %q", bag, InjectBaggage(again))
		}
	})
}

func BenchmarkExtractContext(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ExtractContext(b.Context(), testParent, "iii.function.id=bench::echo")
	}
}

func BenchmarkInjectTraceparent(b *testing.B) {
	b.ReportAllocs()
	ctx := ExtractContext(b.Context(), testParent, "")
	for b.Loop() {
		InjectTraceparent(ctx)
	}
}
