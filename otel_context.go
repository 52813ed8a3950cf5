package iii

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/rawjson"
)

// Trace context crosses the engine in two strings of each invocation, traceparent
// and baggage, in the syntax of the W3C's headers; there is none for the trace
// state. What is below works on OpenTelemetry's context without any provider, so
// a worker without telemetry forwards the trace that it was called in.

// TraceID is the id, 32 hexadecimal digits, of the trace that ctx is in: that of
// its span or, in a handler, of the caller's. It is "" outside of traces.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

// SpanID is the id, 16 hexadecimal digits, of the span that ctx is in; in the
// handler of a client without telemetry that is the caller's. It is "" outside
// of traces.
func SpanID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.SpanID().String()
	}
	return ""
}

// InjectTraceparent is the W3C traceparent header for what is done in ctx, ""
// outside of traces. Of the flags it carries the sampled one alone: the engine
// refuses headers with others.
func InjectTraceparent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return string(appendTraceparent(make([]byte, 0, traceparentLength), sc))
}

// traceparentLength is the length of the header: version, ids, flags.
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

// parseTraceparent reads the header. Later versions may append to it; flags
// other than sampled are ignored.
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

// decodeHex decodes lower-case digits, which are all that the header may hold.
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

// ExtractContext puts what the W3C headers traceparent and baggage say into ctx:
// the remote span that spans begun with the result are children of, and baggage,
// which replaces that of ctx. A header that is empty or invalid leaves ctx as it
// is; an invalid entry of the baggage does not spoil the others.
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

// CapturedContext is the trace context of one moment, made by [CaptureContext],
// for work that goes on without its caller: span and baggage, but neither
// cancellation nor deadline nor other values. The zero value attaches nothing.
// It may be used by several goroutines at once.
type CapturedContext struct {
	span trace.Span
	bag  baggage.Baggage
}

// CaptureContext keeps the span context and the baggage of ctx. It does not keep
// the span open: spans begun after its end become its children all the same.
func CaptureContext(ctx context.Context) CapturedContext {
	return CapturedContext{span: trace.SpanFromContext(ctx), bag: baggage.FromContext(ctx)}
}

// Attach returns ctx with the captured span context and baggage in place of its
// own.
func (c CapturedContext) Attach(ctx context.Context) context.Context {
	if c.span == nil {
		return ctx
	}
	return baggage.ContextWithBaggage(trace.ContextWithSpan(ctx, c.span), c.bag)
}
