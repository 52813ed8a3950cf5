package iii

import (
	"context"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// benchmarkInvocation is what tracing adds to one invocation, without exporting.
func benchmarkInvocation(b *testing.B, traceparent string) {
	t := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBaggageSpanProcessor())))
	payload := []byte(`{"user":"u-1","amount":12,"note":"` + strings.Repeat("x", 256) + `","tags":["a","b"]}`)
	in := &incoming{function: &Function{id: "bench::echo", spanName: "execute bench::echo"}, data: payload,
		id: []byte("00000000-0000-4000-8000-000000000001"), traceparent: []byte(traceparent)}
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := t.begin(&invocationContext{Context: context.Background(), in: in}, in)
		answer := newBuffer()
		_ = encodeResult(answer, in.id, in.function.id, nil)
		answer.Truncate(answer.Len() - len("null}"))
		answer.Write(payload)
		answer.WriteByte('}')
		span.answered(answer, nil)
		span.end(ctx, answer)
		answer.free()
	}
}

func BenchmarkInvocationSampled(b *testing.B)   { benchmarkInvocation(b, `"`+testParent+`"`) }
func BenchmarkInvocationUnsampled(b *testing.B) { benchmarkInvocation(b, `"`+testParent[:54]+`0"`) }
