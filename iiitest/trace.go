package iiitest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
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

// parseTraceparent splits version, trace id, parent id and flags as the engine
// understands them: of the flags it keeps the sampled one, and a header of version 00
// with flags above 02 is none.
func parseTraceparent(s string) ([4]string, bool) {
	parts := strings.Split(s, "-")
	if len(parts) < 4 {
		return [4]string{}, false
	}
	for i, n := range [4]int{2, 32, 16, 2} {
		if len(parts[i]) != n || strings.Trim(parts[i], "0123456789abcdef") != "" {
			return [4]string{}, false
		}
	}
	version, trace, parent, flags := parts[0], parts[1], parts[2], parts[3]
	if version == "ff" || version == "00" && (len(parts) != 4 || flags > "02") ||
		strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return [4]string{}, false
	}
	if strings.IndexByte("13579bdf", flags[1]) >= 0 {
		return [4]string{"00", trace, parent, "01"}, true
	}
	return [4]string{"00", trace, parent, "00"}, true
}

func hexID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// functionBaggage is the baggage entry in which the engine names the callee.
const functionBaggage = "iii.function.id"

// toCallee is the trace context that a call of a worker arrives with: the
// caller's own as the engine reads and writes it, its baggage naming the callee.
// Without any it stays without.
func (t traceContext) toCallee(functionID string) traceContext {
	if t == (traceContext{}) {
		return t
	}
	if parts, ok := parseTraceparent(t.traceparent); ok {
		t.traceparent = strings.Join(parts[:], "-")
	} else {
		t.traceparent = ""
	}
	entries := []string{functionBaggage + "=" + functionID}
	for item := range strings.SplitSeq(t.baggage, ",") {
		if key, entry, ok := baggageEntry(item); ok && key != functionBaggage {
			entries = append(entries, entry)
		}
	}
	t.baggage = strings.Join(entries, ",")
	return t
}

// baggageEntry reads an entry of baggage and writes it anew. A value ends at a second
// "=", and neither "%" nor "\" is escaped in what is written.
func baggageEntry(item string) (key, entry string, ok bool) {
	pair, properties, _ := strings.Cut(item, ";")
	members := strings.Split(pair, "=")
	if len(members) < 2 {
		return "", "", false
	}
	key, value := percentDecoded(members[0]), percentDecoded(members[1])
	if key == "" || !utf8.ValidString(key) || !utf8.ValidString(value) {
		return "", "", false
	}
	entry = percentEncoded(key) + "=" + percentEncoded(value)
	if properties = strings.TrimSpace(properties); properties != "" {
		entry += ";" + properties
	}
	return key, entry, true
}

// percentDecoded leaves alone what is no escape.
func percentDecoded(s string) string {
	var b []byte
	for s = strings.TrimSpace(s); s != ""; {
		if s[0] == '%' && len(s) > 2 {
			if c, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				b, s = append(b, byte(c)), s[3:]
				continue
			}
		}
		b, s = append(b, s[0]), s[1:]
	}
	return strings.TrimSpace(string(b))
}

func percentEncoded(s string) string {
	var b []byte
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`",;=`, c) >= 0 {
			b = fmt.Appendf(b, "%%%02X", c)
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}
