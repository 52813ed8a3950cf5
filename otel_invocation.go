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

// tracing is what a client with telemetry does around its handlers.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer

	// parentBased says that a caller which is not sampled is not sampled here
	// either, as is the default: then there is no need to begin a span.
	parentBased bool

	watchers sync.Map // ids of functions that this client has bound to trace triggers
}

func newTracing(provider trace.TracerProvider) *tracing {
	sampler := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER")))
	return &tracing{
		provider:    provider,
		tracer:      provider.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version)),
		parentBased: sampler == "" || strings.HasPrefix(sampler, "parentbased_"),
	}
}

// wants says whether in may be sampled. It reads the header only if the flags at its
// end say that the caller is not.
func (t *tracing) wants(in *incoming) bool {
	if in.function.untraced {
		return false
	}
	header := in.traceparent
	if !t.parentBased || len(header) != traceparentLength+2 || !bytes.HasSuffix(header, []byte(`-00"`)) {
		return true
	}
	_, valid := parseTraceparent(header[1 : len(header)-1])
	return !valid // then it is as if there were none
}

// watch notes that a function is told of new spans. Its own say what function they
// are of, by which the engine knows them and does not tell of them, for ever.
func (t *tracing) watch(functionID string) {
	if t != nil {
		t.watchers.Store(functionID, trace.WithAttributes(attribute.String("function_id", functionID)))
	}
}

// invocationSpan is the span around one handler; the zero value records nothing.
type invocationSpan struct {
	span  trace.Span // nil if it is not recorded
	limit int        // of captured payloads; 0 captures none
}

// begin starts the span of in, in its caller's trace.
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
	s := invocationSpan{span: span, limit: capturedPayload()}
	if s.limit > 0 {
		recordInput(span, in.data, s.limit)
	}
	return own, s
}

// answered records the answer, and err if that is what it tells.
func (s invocationSpan) answered(answer *buffer, err error) {
	switch {
	case s.span == nil:
	case err == nil:
		s.succeeded(resultOf(answer.Bytes()))
	default:
		s.failed(err)
	}
}

// returned records what a handler returned that nobody wants an answer of.
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

// end ends the span, before the answer leaves, so that whoever has the answer can
// flush it; the answer tells the span's context.
func (s invocationSpan) end(ctx context.Context, answer *buffer) {
	if s.span == nil {
		return
	}
	s.span.End()
	if answer != nil {
		addTrace(ctx, answer)
	}
}

// resultOf is the result inside a message of encodeResult. Inside a string the
// quotes of what is looked for would be escaped.
func resultOf(message []byte) []byte {
	const key = `,"result":`
	return message[bytes.Index(message, []byte(key))+len(key) : len(message)-1]
}

// addTrace writes the trace context of ctx into the finished message of an
// answer.
func addTrace(ctx context.Context, b *buffer) {
	p := append(b.AvailableBuffer(), `,"traceparent":"`...)
	p = append(appendTraceparent(p, trace.SpanContextFromContext(ctx)), '"')
	if bag := InjectBaggage(ctx); bag != "" {
		p = append(p, `,"baggage":`...)
		p = rawjson.AppendString(p, bag)
	}
	if b.Len()+len(p) < messageTooLarge {
		b.Truncate(b.Len() - 1)
		b.Write(append(p, '}'))
	}
}
