package iii

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/wsconn"
)

// An invocation without an answer has the same span.
func TestInvocationSpanWithoutAnswer(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	c, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.tracing = newTracing(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	l := &link{Conn: wsconn.Over(nil), handlers: t.Context()}
	tests := []struct {
		name   string
		f      HandlerFunc
		status codes.Code
		output string
	}{
		{"result", func(context.Context, json.RawMessage) (any, error) { return map[string]any{"secret": 1, "n": 2}, nil }, codes.Ok, `{"n":2,"secret":"[REDACTED]"}`},
		{"error", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no") }, codes.Error, `{"error":"no"}`},
		{"panic", func(context.Context, json.RawMessage) (any, error) { panic("oh no") }, codes.Error, `{"error":"handler panicked"}`},
		{"unencodable", func(context.Context, json.RawMessage) (any, error) { return func() {}, nil }, codes.Error, `{"error":"json: unsupported type: func()"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			recorder.Reset()
			c.execute(&incoming{origin: l, function: &Function{id: "f", spanName: "execute f", handler: tt.f}, data: []byte(`{"password":1}`)})
			span := recorder.Ended()[0]
			if span.Status().Code != tt.status {
				t.Errorf("status is %v", span.Status())
			}
			if in := attributeMap(span.Events()[0].Attributes)[string(attributePayload)]; in != `{"password":"[REDACTED]"}` {
				t.Errorf("input is %v", in)
			}
			if out := attributeMap(span.Events()[1].Attributes)[string(attributePayload)]; out != tt.output {
				t.Errorf("output is %v, want %s", out, tt.output)
			}
		})
	}
}

// The payload of an unsampled invocation is never parsed, even if it is invalid JSON.
func TestUnsampledPayloadIsNotRead(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off") // not parent-based: the span is started
	own := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())))
	in := &incoming{function: &Function{spanName: "execute f"}, data: []byte("\xff"), traceparent: []byte(`"` + testParent + `"`)}
	ctx := &invocationContext{Context: t.Context(), in: in}
	if !own.wants(in) {
		t.Fatal("the span is not begun: the test shows nothing")
	}
	inner, s := own.begin(ctx, in)
	if s != (invocationSpan{}) {
		t.Errorf("payloads are captured: %+v", s)
	}
	s.answered(nil, nil) // would dereference the answer if it were recorded
	s.returned(func() {}, nil)
	s.panicked("p", "stack")
	s.end(inner, in, nil)
	if trace.SpanFromContext(inner).IsRecording() || TraceID(inner) != testTraceID {
		t.Errorf("the handler runs in %v", trace.SpanContextFromContext(inner))
	}
}

// An invocation that is certainly not sampled starts no span: one with an unsampled
// caller, unless the sampler decides otherwise, or one of a function that does not run
// here.
func TestTracingSkipsUnsampledInvocations(t *testing.T) {
	function, elsewhere := &Function{}, &Function{untraced: true}
	for _, tt := range []struct {
		sampler, traceparent string
		function             *Function
		want                 bool
	}{
		{"", testParent, function, true},
		{"", testParent[:54] + "0", function, false},
		{"", testParent[:54] + "2", function, true}, // the sampler decides
		{"", "", function, true},
		{"", "nonsense-00", function, true},
		{"", strings.Repeat("x", 52) + "-00", function, true},
		{"ParentBased_TraceIdRatio", testParent[:54] + "0", function, false},
		{"always_on", testParent[:54] + "0", function, true},
		{"", testParent, elsewhere, false},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", tt.sampler)
		tracing := newTracing(sdktrace.NewTracerProvider())
		in := &incoming{function: tt.function, traceparent: []byte(`"` + tt.traceparent + `"`)}
		if got := tracing.wants(in); got != tt.want {
			t.Errorf("sampler %q, traceparent %q: %v, want %v", tt.sampler, tt.traceparent, got, tt.want)
		}
	}
}

// benchmarkInvocation measures what tracing adds to one invocation, without exporting.
func benchmarkInvocation(b *testing.B, traceparent string) {
	t := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBaggageSpanProcessor())))
	payload := []byte(`{"user":"u-1","amount":12,"note":"` + strings.Repeat("x", 256) + `","tags":["a","b"]}`)
	in := &incoming{function: &Function{id: "bench::echo", spanName: "execute bench::echo"}, data: payload,
		id: []byte("00000000-0000-4000-8000-000000000001"), traceparent: []byte(traceparent)}
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := t.begin(&invocationContext{Context: context.Background(), in: in}, in)
		answer := newBuffer()
		_ = encodeResult(answer, triggerDialect{}, in.id, in.function.id, nil)
		answer.Truncate(answer.Len() - len("null}"))
		answer.Write(payload)
		answer.WriteByte('}')
		span.answered(answer, nil)
		span.end(ctx, in, answer)
		answer.free()
	}
}

func BenchmarkInvocationSampled(b *testing.B)   { benchmarkInvocation(b, `"`+testParent+`"`) }
func BenchmarkInvocationUnsampled(b *testing.B) { benchmarkInvocation(b, `"`+testParent[:54]+`0"`) }
