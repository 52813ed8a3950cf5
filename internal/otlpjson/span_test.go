package otlpjson

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
)

var (
	testTrace = trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
	testSpan  = trace.SpanID{0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}
	testTime  = time.Unix(1767225600, 0)
)

func spanContext(flags trace.TraceFlags, remote bool) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: testTrace, SpanID: testSpan, TraceFlags: flags, Remote: remote})
}

// encodeSpan encodes a span both as finished and as a live snapshot.
func encodeSpan(t *testing.T, stub tracetest.SpanStub) (final, live any) {
	t.Helper()
	span := stub.Snapshot()
	frames, lost := encoded(t, wholeFrame, func(e *Encoder) []Frame {
		return e.Spans([]sdktrace.ReadOnlySpan{span})
	})
	snapshot, lostLive := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.LiveSpan(span) })
	if len(frames) != 1 || len(snapshot) != 1 || lost != (Losses{}) || lostLive != (Losses{}) {
		t.Fatalf("got %d and %d frames, lost %+v and %+v", len(frames), len(snapshot), lost, lostLive)
	}
	if frames[0].Live || !snapshot[0].Live {
		t.Error("the snapshot is not told from the span")
	}
	path := []any{"resourceSpans", 0, "scopeSpans", 0, "spans", 0}
	return enginetest.At(enginetest.DecodeJSON(t, frames[0].Data), path...), enginetest.At(enginetest.DecodeJSON(t, snapshot[0].Data), path...)
}

// TestEncodeSpan encodes the example in the specification.
func TestEncodeSpan(t *testing.T) {
	frames, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame {
		return e.Spans([]sdktrace.ReadOnlySpan{tracetest.SpanStub{
			Name: "execute orders::create", SpanContext: spanContext(trace.FlagsSampled, false),
			SpanKind: trace.SpanKindInternal, StartTime: testTime, EndTime: testTime.Add(12345678),
			Attributes:           []attribute.KeyValue{attribute.Int("attempt", 3)},
			Status:               sdktrace.Status{Code: codes.Ok},
			Resource:             resource.NewSchemaless(attribute.String("service.name", "orders")),
			InstrumentationScope: instrumentation.Scope{Name: "iii-go-sdk", Version: "0.1.0"},
		}.Snapshot()})
	})
	const want = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"orders"}}]},"scopeSpans":[{"scope":{"name":"iii-go-sdk","version":"0.1.0"},"spans":[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","flags":257,"name":"execute orders::create","kind":1,"startTimeUnixNano":"1767225600000000000","endTimeUnixNano":"1767225600012345678","attributes":[{"key":"attempt","value":{"intValue":3}}],"status":{"code":1}}]}]}]}`
	if len(frames) != 1 {
		t.Fatalf("got %d frames", len(frames))
	}
	if diff := cmp.Diff(want, string(frames[0].Data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEncodeWholeSpan(t *testing.T) {
	state, err := trace.ParseTraceState("a=1,b=2")
	if err != nil {
		t.Fatal(err)
	}
	linked := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true}
	final, live := encodeSpan(t, tracetest.SpanStub{
		Name: "whole", SpanContext: spanContext(trace.FlagsSampled|trace.FlagsRandom, false).WithTraceState(state),
		Parent:    trace.NewSpanContext(trace.SpanContextConfig{TraceID: testTrace, SpanID: trace.SpanID{9}, Remote: true}),
		SpanKind:  trace.SpanKindConsumer,
		StartTime: testTime, EndTime: testTime.Add(1),
		Events: []sdktrace.Event{
			{Name: "first", Time: testTime, Attributes: []attribute.KeyValue{attribute.Bool("b", true)}, DroppedAttributeCount: 2},
			{Name: "second"},
		},
		Links: []sdktrace.Link{
			{SpanContext: trace.NewSpanContext(linked), Attributes: []attribute.KeyValue{attribute.Int("l", 1)}, DroppedAttributeCount: 3},
			{},
		},
		Status:            sdktrace.Status{Code: codes.Error, Description: "went wrong"},
		DroppedAttributes: 4, DroppedEvents: 5, DroppedLinks: math.MaxInt,
	})
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const links = `"links":[{"attributes":[{"key":"l","value":{"intValue":1}}],"droppedAttributesCount":3,"flags":769,"spanId":"0200000000000000","traceId":"01000000000000000000000000000000","traceState":"a=1,b=2"},{"flags":256,"spanId":"0000000000000000","traceId":"00000000000000000000000000000000"}]`
	const want = `{"droppedAttributesCount":4,"droppedEventsCount":5,"droppedLinksCount":4294967295,"endTimeUnixNano":"1767225600000000001","events":[{"attributes":[{"key":"b","value":{"boolValue":true}}],"droppedAttributesCount":2,"name":"first","timeUnixNano":"1767225600000000000"},{"name":"second","timeUnixNano":"0"}],"flags":771,"kind":5,` + links + `,"name":"whole","parentSpanId":"0900000000000000","spanId":"00f067aa0ba902b7","startTimeUnixNano":"1767225600000000000","status":{"code":2,"message":"went wrong"},"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","traceState":"a=1,b=2"}`
	if diff := cmp.Diff(want, text(final)); diff != "" {
		t.Errorf("span (-want +got):\n%s", diff)
	}
	const wantLive = `{"droppedAttributesCount":4,"droppedLinksCount":4294967295,"endTimeUnixNano":"0","flags":771,"kind":5,` + links + `,"name":"whole","parentSpanId":"0900000000000000","spanId":"00f067aa0ba902b7","startTimeUnixNano":"1767225600000000000","status":{"code":2,"message":"went wrong"},"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","traceState":"a=1,b=2"}`
	if diff := cmp.Diff(wantLive, text(live)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

// Go packages and OTLP number their enumerations differently.
func TestEncodeUsesOTLPEnumNumbers(t *testing.T) {
	for code, want := range map[codes.Code]any{
		codes.Unset: nil, codes.Ok: json.Number("1"), codes.Error: json.Number("2"), codes.Code(77): nil,
	} {
		final, _ := encodeSpan(t, tracetest.SpanStub{Status: sdktrace.Status{Code: code}})
		if diff := cmp.Diff(want, enginetest.At(final, "status", "code")); diff != "" {
			t.Errorf("status %v (-want +got):\n%s", code, diff)
		}
	}
	for kind, want := range map[trace.SpanKind]string{
		trace.SpanKindUnspecified: "0", trace.SpanKindInternal: "1", trace.SpanKindServer: "2", trace.SpanKindClient: "3",
		trace.SpanKindProducer: "4", trace.SpanKindConsumer: "5", trace.SpanKind(99): "0", trace.SpanKind(-1): "0",
	} {
		final, _ := encodeSpan(t, tracetest.SpanStub{SpanKind: kind})
		if diff := cmp.Diff(json.Number(want), enginetest.At(final, "kind")); diff != "" {
			t.Errorf("kind %v (-want +got):\n%s", kind, diff)
		}
	}
	checkTemporalities(t)
}

// A missing time becomes 0, unless it is the end time of a finished span. An end time of 0
// would mean that the span is still running.
func TestEncodeZeroTimes(t *testing.T) {
	for name, test := range map[string]struct {
		start, end         time.Time
		wantStart, wantEnd string
	}{
		"none":        {time.Time{}, time.Time{}, "0", "1"},
		"epoch":       {time.Unix(0, 0), time.Unix(0, 0), "0", "1"},
		"before 1970": {time.Unix(-5, 0), time.Unix(-4, 0), "0", "1"},
		"no end":      {testTime, time.Time{}, "1767225600000000000", "1"},
	} {
		final, live := encodeSpan(t, tracetest.SpanStub{StartTime: test.start, EndTime: test.end, Events: []sdktrace.Event{{Time: test.start}}})
		if got := enginetest.At(final, "startTimeUnixNano"); got != test.wantStart {
			t.Errorf("%s: start %v, want %v", name, got, test.wantStart)
		}
		if got := enginetest.At(final, "endTimeUnixNano"); got != test.wantEnd {
			t.Errorf("%s: end %v, want %v", name, got, test.wantEnd)
		}
		if got := enginetest.At(final, "events", 0, "timeUnixNano"); got != test.wantStart {
			t.Errorf("%s: event %v, want %v", name, got, test.wantStart)
		}
		if got := enginetest.At(live, "endTimeUnixNano"); got != "0" {
			t.Errorf("%s: snapshot ends %v, want 0", name, got)
		}
	}
}

func TestEncodeGroups(t *testing.T) {
	a := resource.NewWithAttributes("https://example.com/a", attribute.String("service.name", "a"))
	sameAsA := resource.NewWithAttributes("https://example.com/a", attribute.String("service.name", "a"))
	b := resource.NewSchemaless(attribute.String("service.name", "a"))
	one := instrumentation.Scope{Name: "one"}
	two := instrumentation.Scope{Name: "one", Version: "2"}
	three := instrumentation.Scope{Name: "one", SchemaURL: "https://example.com/s"}
	four := instrumentation.Scope{Name: "one", Attributes: attribute.NewSet(attribute.Int("n", 1))}
	var spans []sdktrace.ReadOnlySpan
	for _, s := range []struct {
		name  string
		res   *resource.Resource
		scope instrumentation.Scope
	}{
		{"1", a, one}, {"2", b, one}, {"3", a, two}, {"4", sameAsA, one}, {"5", nil, three}, {"6", a, four}, {"7", b, one}, {"8", a, four},
	} {
		spans = append(spans, tracetest.SpanStub{Name: s.name, Resource: s.res, InstrumentationScope: s.scope}.Snapshot())
	}
	frames, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Spans(spans) })
	if len(frames) != 1 || frames[0].Records != len(spans) {
		t.Fatalf("got %d frames", len(frames))
	}
	type group struct {
		Resource, Schema, Scope, Version, ScopeSchema, Attribute any
		Spans                                                    []any
	}
	var got []group
	doc := enginetest.DecodeJSON(t, frames[0].Data)
	for i := 0; enginetest.At(doc, "resourceSpans", i) != nil; i++ {
		r := enginetest.At(doc, "resourceSpans", i)
		for j := 0; enginetest.At(r, "scopeSpans", j) != nil; j++ {
			s := enginetest.At(r, "scopeSpans", j)
			g := group{
				enginetest.At(r, "resource", "attributes", 0, "value", "stringValue"), enginetest.At(r, "schemaUrl"),
				enginetest.At(s, "scope", "name"), enginetest.At(s, "scope", "version"), enginetest.At(s, "schemaUrl"), enginetest.At(s, "scope", "attributes", 0, "key"), nil,
			}
			for k := 0; enginetest.At(s, "spans", k) != nil; k++ {
				g.Spans = append(g.Spans, enginetest.At(s, "spans", k, "name"))
			}
			got = append(got, g)
		}
	}
	want := []group{
		{"a", "https://example.com/a", "one", nil, nil, nil, []any{"1", "4"}},
		{"a", "https://example.com/a", "one", "2", nil, nil, []any{"3"}},
		{"a", "https://example.com/a", "one", nil, nil, "n", []any{"6", "8"}},
		{"a", nil, "one", nil, nil, nil, []any{"2", "7"}},
		{nil, nil, "one", nil, "https://example.com/s", nil, []any{"5"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("groups in order of their first span (-want +got):\n%s", diff)
	}
	if frames, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Spans(nil) }); len(frames) != 0 {
		t.Errorf("no spans: %d frames", len(frames))
	}
}
