package iii

import (
	"context"
	"fmt"
	"runtime/debug"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// InSpan runs f in a span. When f returns, the span's status becomes ok or, on
// an error, error with the error's text and an exception event, unless f has set
// the status itself. A panic is recorded like an error and goes on. The error is
// f's.
//
// The span is recorded by the telemetry of the span that ctx is in; in a handler
// outside of any by that of its client; else by the global provider, if there is
// one. Without telemetry f runs all the same, in the trace that ctx is in. kind 0
// is trace.SpanKindInternal.
func InSpan(ctx context.Context, name string, kind trace.SpanKind, f func(context.Context) error) (err error) {
	tracer, _ := tracerOf(ctx)
	ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(kind))
	returned := false
	defer func() {
		if returned {
			span.End()
			return
		}
		p := recover() // nil after runtime.Goexit
		recordPanic(span, p, string(debug.Stack()))
		span.End()
		if p != nil {
			panic(p)
		}
	}()
	err = f(ctx)
	returned = true
	switch {
	case !span.IsRecording():
	case err != nil:
		recordFailure(span, fmt.Sprintf("%T", err), err.Error(), string(debug.Stack()))
	case statusUnset(span):
		span.SetStatus(codes.Ok, "")
	}
	return err
}

// noProvider is what spans have that no provider has begun: those of a remote
// parent, and the one of a context without any.
var noProvider = trace.SpanFromContext(context.Background()).TracerProvider()

// tracerOf is the tracer for spans of this package in ctx, and whose it is.
func tracerOf(ctx context.Context) (trace.Tracer, trace.TracerProvider) {
	span := trace.SpanFromContext(ctx)
	provider := span.TracerProvider()
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok && c.client.tracing != nil {
		if own := c.client.tracing; provider == own.provider || !span.IsRecording() {
			return own.tracer, own.provider
		}
	}
	if !span.IsRecording() && provider == noProvider {
		provider = otel.GetTracerProvider()
	}
	return provider.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version)), provider
}

// statusUnset says whether nobody has set the span's status. An ok would replace
// an error that f has set, for OpenTelemetry ranks it higher.
func statusUnset(span trace.Span) bool {
	s, ok := span.(sdktrace.ReadOnlySpan)
	return !ok || s.Status().Code == codes.Unset
}

// recordFailure puts an exception event on the span, and the status, if unset.
func recordFailure(span trace.Span, kind, message, stack string) {
	span.AddEvent("exception", trace.WithAttributes(
		attribute.String("exception.type", kind),
		attribute.String("exception.message", message),
		attribute.String("exception.stacktrace", stack),
	))
	if statusUnset(span) {
		span.SetStatus(codes.Error, message)
	}
}

// recordPanic does so for a panic; p is nil for a goroutine that ended itself.
func recordPanic(span trace.Span, p any, stack string) {
	if !span.IsRecording() {
		return
	}
	message := "the goroutine ended by runtime.Goexit"
	if p != nil {
		message = fmt.Sprintf("panic: %v", p)
	}
	recordFailure(span, "panic", message, stack)
}
