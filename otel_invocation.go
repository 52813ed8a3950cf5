package iii

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/rawjson"
)

// tracing records the invocations of a client with telemetry.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer

	// parentBased reports that spans of unsampled callers are not sampled either, which
	// is the default: such invocations need no span.
	parentBased bool

	payloads bool // spans carry inputs and outputs

	watchers sync.Map // ids of functions that this client has bound to trace triggers
}

func newTracing(provider trace.TracerProvider) *tracing {
	sampler := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER")))
	return &tracing{
		provider:    provider,
		tracer:      provider.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version)),
		parentBased: sampler == "" || strings.HasPrefix(sampler, "parentbased_"),
		payloads:    true,
	}
}

// forOwnProvider adapts t to a provider of the program, whose sampler is unknown.
func (t *tracing) forOwnProvider(payloads bool) {
	if t != nil {
		t.parentBased, t.payloads = false, payloads
	}
}

// wants reports whether in may be sampled. It parses the header only if the flags at
// its end mark the caller as unsampled.
func (t *tracing) wants(in *incoming) bool {
	if in.function.untraced {
		return false
	}
	header := in.traceparent
	if !t.parentBased || len(header) != traceparentLength+2 || !bytes.HasSuffix(header, []byte(`-00"`)) {
		return true
	}
	_, valid := parseTraceparent(header[1 : len(header)-1])
	return !valid // an invalid header counts as none
}

// watch notes that a function is bound to a trace trigger. The function's own spans
// carry its id, by which the engine avoids triggering it with them in an endless loop.
func (t *tracing) watch(functionID string) {
	if t != nil {
		t.watchers.Store(functionID, trace.WithAttributes(attribute.String("function_id", functionID)))
	}
}

// invocationSpan is the span around one handler; the zero value records nothing.
type invocationSpan struct {
	span  trace.Span // nil: not recorded
	limit int        // bytes of a captured payload; 0 captures none
}

// begin starts the span of in, in the trace of its caller.
func (t *tracing) begin(ctx *invocationContext, in *incoming) (context.Context, invocationSpan) {
	if t == nil || !t.wants(in) {
		return ctx, invocationSpan{}
	}
	var opts []trace.SpanStartOption
	if attributes, ok := t.watchers.Load(in.function.id); ok {
		opts = []trace.SpanStartOption{attributes.(trace.SpanStartOption)}
	}
	own, span := t.tracer.Start(ctx, in.function.spanName, opts...)
	if !span.IsRecording() {
		return own, invocationSpan{}
	}
	s := invocationSpan{span: span}
	if t.payloads {
		s.limit = capturedPayload()
	}
	if s.limit > 0 {
		recordInput(span, in.data, s.limit)
	}
	return own, s
}

// answered records the answer, or err if the answer is an error.
func (s invocationSpan) answered(answer *buffer, err error) {
	switch {
	case s.span == nil:
	case err == nil:
		s.succeeded(answer.Bytes()[answer.result[0]:answer.result[1]])
	default:
		s.failed(err)
	}
}

// returned records what a handler returned for an invocation without an answer.
func (s invocationSpan) returned(result any, err error) {
	if s.span == nil {
		return
	}
	b := newBuffer()
	defer b.free()
	if err == nil {
		err = b.value(result)
	}
	if err == nil {
		s.succeeded(b.Bytes())
	} else {
		s.failed(err)
	}
}

func (s invocationSpan) succeeded(result []byte) {
	if s.limit > 0 {
		recordOutput(s.span, result, s.limit, true)
	}
	if statusUnset(s.span) {
		s.span.SetStatus(codes.Ok, "")
	}
}

func (s invocationSpan) failed(err error) {
	if hidden, ok := err.(hiddenError); ok {
		err = hidden.error
	}
	code, message, stack := errorParts(err)
	kind := "InvocationError"
	var e *Error
	if errors.As(err, &e) {
		kind = code
	}
	if stack == "" {
		stack = string(debug.Stack())
	}
	s.outputError(message)
	recordFailure(s.span, kind, message, stack)
}

// panicked records a handler that did not return.
func (s invocationSpan) panicked(p any, stack string) {
	if s.span != nil {
		s.outputError("handler panicked")
		recordPanic(s.span, p, stack)
	}
}

func (s invocationSpan) outputError(message string) {
	if s.limit > 0 {
		payload := append(rawjson.AppendString([]byte(`{"error":`), message), '}')
		recordOutput(s.span, payload, s.limit, false)
	}
}

// end ends the span. It runs before the answer is sent, so a caller that has the answer
// can flush the span, and adds the span's context to the answer.
func (s invocationSpan) end(ctx context.Context, in *incoming, answer *buffer) {
	if s.span == nil {
		return
	}
	s.span.End()
	if answer != nil && !in.local {
		var text [traceparentLength]byte
		appendTrace(answer, appendTraceparent(text[:0], trace.SpanContextFromContext(ctx)), InjectBaggage(ctx))
	}
}
