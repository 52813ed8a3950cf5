package iiitest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// traceContext is the W3C trace context of a call, as two header values.
type traceContext struct{ traceparent, baggage string }

type traceKey struct{}

// withTrace gives ctx the trace context of a caller.
func withTrace(ctx context.Context, t traceContext) context.Context {
	if t == (traceContext{}) {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, t)
}

func traceOf(ctx context.Context) traceContext {
	t, _ := ctx.Value(traceKey{}).(traceContext)
	return t
}

// childTrace gives ctx a new span of the engine: in the trace that ctx carries,
// else in a new trace. What is fired under it has its traceparent.
func childTrace(ctx context.Context) context.Context {
	t := traceOf(ctx)
	trace, flags := hexID(16), "01"
	if parts, ok := parseTraceparent(t.traceparent); ok {
		trace, flags = parts[1], parts[3]
	}
	t.traceparent = "00-" + trace + "-" + hexID(8) + "-" + flags
	return context.WithValue(ctx, traceKey{}, t)
}

// parseTraceparent splits version, trace id, parent id and flags.
func parseTraceparent(s string) ([4]string, bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 4 {
		return [4]string{}, false
	}
	for i, n := range [4]int{2, 32, 16, 2} {
		if len(parts[i]) != n || strings.Trim(parts[i], "0123456789abcdef") != "" {
			return [4]string{}, false
		}
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return [4]string{}, false
	}
	return [4]string(parts), true
}

func hexID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// functionBaggage is the baggage entry in which the engine names the callee.
const functionBaggage = "iii.function.id"

// toCallee is the trace context that a call of a worker arrives with: the
// caller's own, its baggage naming the callee. Without any it stays without.
func (t traceContext) toCallee(functionID string) traceContext {
	if t == (traceContext{}) {
		return t
	}
	entries := []string{functionBaggage + "=" + functionID}
	for entry := range strings.SplitSeq(t.baggage, ",") {
		key, _, _ := strings.Cut(entry, "=")
		if key = strings.TrimSpace(key); key != "" && key != functionBaggage {
			entries = append(entries, strings.TrimSpace(entry))
		}
	}
	t.baggage = strings.Join(entries, ",")
	return t
}
