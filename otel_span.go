package iii

import (
	"context"
	"fmt"
	"reflect"
	"runtime/debug"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// InSpan runs f in a span and returns f's error. If f returns nil, the span's status
// becomes ok. If f returns an error, the status becomes error with the error's text,
// and an exception event is added. A status that f has set itself stays. A panic is
// recorded like an error and continues.
//
// The span is recorded by the telemetry of the span in ctx; in a handler without such a
// span, by that of its client; otherwise by the global provider, if there is one.
// Without telemetry, f still runs, in the trace of ctx. A kind of 0 is
// trace.SpanKindInternal.
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

// noProvider is the provider of spans that no provider has started: those of a remote
// parent, and the one of a context without any span.
var noProvider = trace.SpanFromContext(context.Background()).TracerProvider()

// tracerOf returns the tracer for spans of this package in ctx, and its provider.
func tracerOf(ctx context.Context) (trace.Tracer, trace.TracerProvider) {
	span := trace.SpanFromContext(ctx)
	provider := span.TracerProvider()
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok && c.client.tracing != nil {
		if own := c.client.tracing; !span.IsRecording() || sameProvider(provider, own.provider) {
			return own.tracer, own.provider
		}
	}
	if !span.IsRecording() && sameProvider(provider, noProvider) {
		provider = otel.GetTracerProvider()
	}
	return provider.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version)), provider
}

// sameProvider compares providers of any type, of which some cannot be compared.
func sameProvider(a, b trace.TracerProvider) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// statusUnset reports whether the span's status is still unset. Setting ok would
// replace an error that f has set, because OpenTelemetry ranks ok higher.
func statusUnset(span trace.Span) bool {
	s, ok := span.(sdktrace.ReadOnlySpan)
	return !ok || s.Status().Code == codes.Unset
}

// recordFailure adds an exception event to the span, and sets the status if it is
// unset.
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

// recordPanic records a panic as a failure; p is nil after runtime.Goexit.
func recordPanic(span trace.Span, p any, stack string) {
	if !span.IsRecording() {
		return
	}
	message := "the goroutine exited with runtime.Goexit"
	if p != nil {
		message = fmt.Sprintf("panic: %v", p)
	}
	recordFailure(span, "panic", message, stack)
}
