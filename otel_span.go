package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/secret"
)

// InSpan runs f in a span and returns f's error. If f returns nil, the span's status becomes
// ok. If f returns an error, the status becomes error with the error's text, and an exception
// event is added. If f sets the status itself, that status is kept. A panic is recorded like
// an error and then propagates.
//
// The new span is recorded by the telemetry of the span in ctx. Without such a span, the new
// span is recorded by the client's telemetry inside a handler, and by the global provider
// elsewhere. If none of these exists, f still runs in the trace of ctx. A kind of 0 means
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

// noProvider is the TracerProvider of two kinds of spans that no SDK has started: the span of
// a remote parent, and the span that trace.SpanFromContext returns if the context has none.
var noProvider = trace.SpanFromContext(context.Background()).TracerProvider()

// tracerOf returns the tracer to use for spans in ctx, and its provider.
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

// sameProvider reports whether a and b are the same provider. Their types need not be
// comparable.
func sameProvider(a, b trace.TracerProvider) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// statusUnset reports whether the span's status is unset. InSpan checks this before it sets
// ok, because OpenTelemetry gives ok precedence over an error that f has set.
func statusUnset(span trace.Span) bool {
	s, ok := span.(sdktrace.ReadOnlySpan)
	return !ok || s.Status().Code == codes.Unset
}

// recordFailure adds an exception event to the span, and sets the status if it is unset.
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

type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer

	// parentBased reports whether the sampler never samples an invocation whose caller is not
	// sampled. This is the default. Such an invocation needs no span.
	parentBased bool

	payloads bool // record inputs and outputs

	watchers sync.Map // IDs of functions that this client has bound to trace triggers
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

// forOwnProvider adapts t to a provider that the program created. Such a provider's sampler is
// unknown.
func (t *tracing) forOwnProvider(payloads bool) {
	if t != nil {
		t.parentBased, t.payloads = false, payloads
	}
}

// wants reports whether an invocation may be sampled. To save time, it parses the traceparent
// header only if the header's flags mark the caller as unsampled.
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

// watch records that a function is bound to a trace trigger. From then on, the function's own
// spans carry its ID. The engine does not trigger the function for such spans, because that
// would cause an endless loop.
func (t *tracing) watch(functionID string) {
	if t != nil {
		t.watchers.Store(functionID, trace.WithAttributes(attribute.String("function_id", functionID)))
	}
}

// invocationSpan is the span of one invocation. The zero value records nothing.
type invocationSpan struct {
	span  trace.Span // nil if not recorded
	limit int        // maximum size of a captured payload in bytes; 0 captures none
}

// begin starts an invocation's span as a child of its caller's span.
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

// answered records the response, or err if the response is an error.
func (s invocationSpan) answered(answer *buffer, err error) {
	switch {
	case s.span == nil:
	case err == nil:
		s.succeeded(answer.bytes()[answer.result[0]:answer.result[1]])
	default:
		s.failed(err)
	}
}

// returned records a handler's result for an invocation that expects no response.
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
		s.succeeded(b.bytes())
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
	if asError(err) != nil {
		kind = code
	}
	if stack == "" {
		stack = string(debug.Stack())
	}
	s.outputError(message)
	recordFailure(s.span, kind, message, stack)
}

// panicked records that a handler panicked or called runtime.Goexit.
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

// end ends the span and adds its context to the response. It must be called before the
// response is sent, so that a caller that has received the response can flush the span.
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

// An invocation's input and output are recorded as events on its span, unless
// $III_DISABLE_TRACE_PAYLOADS is set. Values are redacted if their key suggests a secret;
// other values are not inspected.
const (
	eventInput  = "iii.invocation.input"
	eventOutput = "iii.invocation.output"

	attributePayload   = attribute.Key("iii.payload.json")
	attributeTruncated = attribute.Key("iii.payload.truncated")
	attributeOK        = attribute.Key("iii.payload.ok")
)

const (
	redacted        = "[REDACTED]"
	truncatedMarker = `..."[TRUNCATED]"`

	// maxCapturedPayload is the largest limit that the environment can set. Telemetry frames
	// must stay far below the size at which the engine closes a connection.
	maxCapturedPayload = 1 << 20
)

// capturedPayload returns the size limit for a captured payload in bytes, or 0 if payloads are
// not captured. It reads the environment on each call, because the environment can change at
// run time.
func capturedPayload() int {
	switch strings.ToLower(strings.TrimSpace(os.Getenv("III_DISABLE_TRACE_PAYLOADS"))) {
	case "1", "true", "yes", "on":
		return 0
	}
	text := os.Getenv("III_TRACE_PAYLOAD_MAX_BYTES")
	if text == "" {
		return maxCapturedPayload
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n <= 0 || n > maxCapturedPayload {
		return maxCapturedPayload // includes "unlimited"
	}
	return n
}

// payloadEvent holds the attributes and options of a payload event. It can be reused, because
// spans copy the attributes.
type payloadEvent struct {
	attributes [3]attribute.KeyValue
	input      [1]trace.EventOption // the first two attributes
	output     [1]trace.EventOption // all attributes
}

var payloadEvents = sync.Pool{New: func() any {
	e := new(payloadEvent)
	e.input[0] = trace.WithAttributes(e.attributes[:2]...)
	e.output[0] = trace.WithAttributes(e.attributes[:]...)
	return e
}}

func newPayloadEvent(payload []byte, limit int) *payloadEvent {
	text, cut := redactAndTruncate(payload, limit)
	e := payloadEvents.Get().(*payloadEvent)
	e.attributes[0], e.attributes[1] = attributePayload.String(text), attributeTruncated.Bool(cut)
	return e
}

func (e *payloadEvent) free() {
	e.attributes = [3]attribute.KeyValue{}
	payloadEvents.Put(e)
}

// recordInput records an invocation's payload on its span. payload must be valid JSON.
func recordInput(span trace.Span, payload []byte, limit int) {
	e := newPayloadEvent(payload, limit)
	span.AddEvent(eventInput, e.input[:]...)
	e.free()
}

// recordOutput records an invocation's result or error on its span. payload must be valid
// JSON.
func recordOutput(span trace.Span, payload []byte, limit int, ok bool) {
	e := newPayloadEvent(payload, limit)
	e.attributes[2] = attributeOK.Bool(ok)
	span.AddEvent(eventOutput, e.output[:]...)
	e.free()
}

// Redact returns a copy of v as decoded JSON, with the value of every key that names a secret
// replaced by the string "[REDACTED]". The copy consists of values of the types
// map[string]any, []any, string, bool, nil and json.Number.
//
// A key names a secret if it contains api_key, apikey, api-key, access_key, password, secret,
// credential, authorization, auth_token, access_token, refresh_token, bearer or private_key;
// if it is token, cookie or set-cookie; or if it ends in _token or -token. Case is ignored.
// access_key also matches the access key of a channel. Values are not inspected, so a secret
// under any other key is kept. If v cannot be encoded as JSON, Redact returns nil.
func Redact(v any) any {
	b := newBuffer()
	defer b.free()
	if b.value(v) != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(redactJSON(b.bytes(), -1)))
	d.UseNumber()
	var out any
	if d.Decode(&out) != nil {
		return nil
	}
	return out
}

// RedactAndTruncate returns v as JSON, redacted as described for [Redact]. Output longer than
// maxBytes is cut between characters and ends with the marker ..."[TRUNCATED]"; its length,
// including the marker, does not exceed maxBytes. If maxBytes is 0 or less, there is no limit.
// If v cannot be encoded as JSON, the output is null.
func RedactAndTruncate(v any, maxBytes int) (text string, truncated bool) {
	if maxBytes <= 0 {
		maxBytes = -1
	}
	b := newBuffer()
	defer b.free()
	if b.value(v) != nil {
		b.writeString("null") // b is empty after an error
	}
	return redactAndTruncate(b.bytes(), maxBytes)
}

// redactAndTruncate redacts and truncates valid JSON. A negative limit means no limit.
func redactAndTruncate(raw []byte, limit int) (text string, truncated bool) {
	out := redactJSON(raw, limit)
	if limit < 0 || len(out) <= limit {
		return string(out), false
	}
	return truncateJSON(out, limit), true
}

// truncateJSON cuts text to limit bytes, including the marker. text must be longer than limit.
func truncateJSON(text []byte, limit int) string {
	if limit <= len(truncatedMarker) {
		return truncatedMarker[:limit]
	}
	cut := limit - len(truncatedMarker)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return string(text[:cut]) + truncatedMarker
}

// redactJSON returns raw without white space between tokens and with the values of secret keys
// replaced. raw must be valid JSON. The result may share memory with raw. Unless limit is
// negative, the result is cut off shortly after limit bytes.
func redactJSON(raw []byte, limit int) []byte {
	var out []byte
	from, i := 0, 0 // raw[from:i] has not been appended to out
	for i < len(raw) {
		switch raw[i] {
		case '"':
			end := stringEnd(raw, i)
			colon := rawjson.SkipSpace(raw, end)
			if colon == len(raw) || raw[colon] != ':' || !sensitiveKey(raw[i:end]) {
				i = end
				break
			}
			out = append(out, raw[from:end]...)
			out = append(out, `:"`+redacted+`"`...)
			i = valueEnd(raw, rawjson.SkipSpace(raw, colon+1))
			from = i
		case ' ', '\n', '\r', '\t':
			out = append(out, raw[from:i]...)
			i = rawjson.SkipSpace(raw, i)
			from = i
		default:
			i++
		}
		if limit >= 0 && len(out)+i-from > limit {
			i = from + max(0, min(i-from, limit+1-len(out)))
			break
		}
	}
	if out == nil {
		return raw[from:i]
	}
	return append(out, raw[from:i]...)
}

// stringEnd returns the index just past the JSON string that starts at index i. b must be
// valid JSON.
func stringEnd(b []byte, i int) int {
	for j := i + 1; ; j++ {
		n := bytes.IndexByte(b[j:], '"')
		if n < 0 {
			return len(b)
		}
		j += n
		escapes := 0
		for b[j-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return j + 1
		}
	}
}

// valueEnd returns the index just past the JSON value that starts at index i. b must be valid
// JSON.
func valueEnd(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = stringEnd(b, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // after a number or a literal
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

// sensitiveKey reports whether the key, a raw JSON string, names a secret.
func sensitiveKey(raw []byte) bool {
	if bytes.IndexByte(raw, '\\') >= 0 {
		key, _ := rawjson.Unquote(raw)
		return secret.Named([]byte(key))
	}
	return secret.Named(raw[1 : len(raw)-1])
}
