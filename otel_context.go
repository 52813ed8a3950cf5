package iii

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/rawjson"
)

// Trace context crosses the engine in two strings of each invocation, traceparent and
// baggage, in the syntax of the W3C headers; trace state is not transferred. The code
// below uses OpenTelemetry's context and needs no provider, so a worker without
// telemetry forwards the trace of its caller.

// TraceID returns the id of the trace in ctx as 32 hexadecimal digits: the trace of its
// span or, in a handler, of the caller. It returns "" outside of a trace.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

// SpanID returns the id of the span in ctx as 16 hexadecimal digits; in a handler of a
// client without telemetry, that is the caller's span. It returns "" outside of a
// trace.
func SpanID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.SpanID().String()
	}
	return ""
}

// InjectTraceparent returns the W3C traceparent header for ctx, or "" outside of a
// trace. The header carries only the sampled flag, because the engine rejects headers
// with other flags.
func InjectTraceparent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return string(appendTraceparent(make([]byte, 0, traceparentLength), sc))
}

// traceparentLength is the length of the header: version, trace id, span id and flags.
const traceparentLength = 2 + 1 + 32 + 1 + 16 + 1 + 2

func appendTraceparent(dst []byte, sc trace.SpanContext) []byte {
	traceID, spanID := sc.TraceID(), sc.SpanID()
	dst = append(dst, "00-"...)
	dst = hex.AppendEncode(dst, traceID[:])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, spanID[:])
	if sc.IsSampled() {
		return append(dst, "-01"...)
	}
	return append(dst, "-00"...)
}

// parseTraceparent parses the header. It accepts text that a later version appends, and
// ignores flags other than sampled.
func parseTraceparent[T string | []byte](s T) (sc trace.SpanContext, ok bool) {
	if len(s) < traceparentLength || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return sc, false
	}
	var version, flags [1]byte
	var cfg trace.SpanContextConfig
	if !decodeHex(version[:], s[:2]) || !decodeHex(cfg.TraceID[:], s[3:35]) || !decodeHex(cfg.SpanID[:], s[36:52]) || !decodeHex(flags[:], s[53:55]) {
		return sc, false
	}
	switch {
	case version[0] == 0xff:
		return sc, false
	case len(s) == traceparentLength:
	case version[0] == 0 || s[traceparentLength] != '-':
		return sc, false
	}
	cfg.TraceFlags = trace.TraceFlags(flags[0]) & trace.FlagsSampled
	cfg.Remote = true
	sc = trace.NewSpanContext(cfg)
	return sc, sc.IsValid()
}

// decodeHex decodes lowercase digits, the only ones that the header can contain.
func decodeHex[T string | []byte](dst []byte, s T) bool {
	for i := range dst {
		high, low := hexValue(s[2*i]), hexValue(s[2*i+1])
		if high|low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

func hexValue(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// ExtractContext returns ctx with the trace context and the baggage of the W3C headers
// traceparent and baggage. Spans started with the result are children of the remote
// span; the baggage replaces that of ctx. An empty or invalid header leaves ctx
// unchanged, and an invalid baggage entry does not affect the others.
func ExtractContext(ctx context.Context, traceparent, baggageHeader string) context.Context {
	if traceparent != "" {
		if sc, ok := parseTraceparent(traceparent); ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		}
	}
	if baggageHeader != "" {
		if bag := parseBaggage(baggageHeader); bag.Len() > 0 {
			ctx = baggage.ContextWithBaggage(ctx, bag)
		}
	}
	return ctx
}

// extractRaw is ExtractContext for headers that are JSON strings, or absent.
func extractRaw(ctx context.Context, traceparent, baggageHeader []byte) context.Context {
	if n := len(traceparent); n > 2 && traceparent[0] == '"' { // a valid header has no escapes
		if sc, ok := parseTraceparent(traceparent[1 : n-1]); ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		}
	}
	text, _ := rawjson.Unquote(baggageHeader)
	return ExtractContext(ctx, "", text)
}

// CapturedContext holds the trace context of one moment for work that outlives its
// caller: span and baggage, but no cancellation, deadline or other values. Use
// [CaptureContext]; the zero value attaches nothing. It is safe for concurrent use.
type CapturedContext struct {
	span trace.Span
	bag  baggage.Baggage
}

// CaptureContext captures the span context and the baggage of ctx. It does not keep the
// span open: spans started after the span's end still become its children.
func CaptureContext(ctx context.Context) CapturedContext {
	return CapturedContext{span: trace.SpanFromContext(ctx), bag: baggage.FromContext(ctx)}
}

// Attach returns ctx with its span context and baggage replaced by the captured ones.
func (c CapturedContext) Attach(ctx context.Context) context.Context {
	if c.span == nil {
		return ctx
	}
	return baggage.ContextWithBaggage(trace.ContextWithSpan(ctx, c.span), c.bag)
}
