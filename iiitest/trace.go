package iiitest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// traceContext is the W3C trace context of a call, as header values.
type traceContext struct{ traceparent, baggage string }

type traceKey struct{}

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

// childTrace returns a context for a new engine span. The span belongs to the trace in ctx or,
// if there is none, to a new trace. Calls made with the returned context carry the span's
// traceparent, and the baggage in ctx as the engine formats it.
func childTrace(ctx context.Context) context.Context {
	t := traceOf(ctx)
	trace, flags := hexID(16), "01"
	if parts, ok := parseTraceparent(t.traceparent); ok {
		trace, flags = parts[1], parts[3]
	}
	t.traceparent = "00-" + trace + "-" + hexID(8) + "-" + flags
	entries := parseBaggage(t.baggage)
	t.baggage = entries.String()
	return context.WithValue(ctx, traceKey{}, t)
}

// parseTraceparent returns the version, trace id, parent id and flags as the engine rewrites
// them. Like the engine, it accepts parts with too few digits or with additional leading
// zeros. Ids must be lowercase. Only the sampled flag is kept. Version 00 with flags above 02
// is rejected.
func parseTraceparent(s string) (parts [4]string, ok bool) {
	if usualTraceparent(s) {
		return [4]string{s[:2], s[3:35], s[36:52], s[53:]}, true
	}
	if s == "" {
		return parts, false
	}
	list := strings.Split(strings.TrimSpace(s), "-")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	if len(list) < 4 {
		return parts, false
	}
	for i, digits := range [4]int{2, 32, 16, 2} {
		if parts[i], ok = hexNumber(list[i], digits); !ok {
			return parts, false
		}
	}
	version, trace, parent, flags := parts[0], parts[1], parts[2], parts[3]
	const capitals = "ABCDEF"
	if version == "ff" || version == "00" && (len(list) != 4 || flags > "02") ||
		strings.ContainsAny(list[1]+list[2], capitals) || strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return parts, false
	}
	sampled := "00"
	if strings.IndexByte("13579bdf", flags[1]) >= 0 {
		sampled = "01"
	}
	return [4]string{"00", trace, parent, sampled}, true
}

// usualTraceparent reports whether s has the form that parseTraceparent returns unchanged:
// version 00, full-length nonzero ids, and flags 00 or 01.
func usualTraceparent(s string) bool {
	const like = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(like) || s[:3] != like[:3] || s[35] != '-' || s[52:54] != like[52:54] || s[54] != '0' && s[54] != '1' {
		return false
	}
	for i := 3; i < 52; i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && i != 35 {
			return false
		}
	}
	return s[3:35] != like[3:35] && s[36:52] != like[36:52]
}

// hexNumber pads a hexadecimal number to the given number of digits and converts it to
// lowercase. It returns false if s is not a hexadecimal number or has too many digits.
func hexNumber(s string, digits int) (string, bool) {
	s = strings.TrimPrefix(s, "+")
	if s == "" || strings.Trim(s, "0123456789abcdefABCDEF") != "" {
		return "", false
	}
	s = strings.TrimLeft(s, "0")
	if len(s) > digits {
		return "", false
	}
	return strings.Repeat("0", digits-len(s)) + strings.ToLower(s), true
}

func hexID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// functionBaggage is the baggage key for the callee's function id.
const functionBaggage = "iii.function.id"

// toCallee returns the trace context passed to the callee when a worker makes a call: the
// caller's context as the engine rewrites it, with the callee's function id added to the
// baggage. If both headers are missing, the callee receives no trace context.
func toCallee(traceparent, header *string, functionID string) traceContext {
	var t traceContext
	if traceparent == nil && header == nil {
		return t
	}
	if parent := text(traceparent); usualTraceparent(parent) {
		t.traceparent = parent
	} else if parts, ok := parseTraceparent(parent); ok {
		t.traceparent = strings.Join(parts[:], "-")
	}
	entries := parseBaggage(text(header))
	for i := range entries.list {
		entries.set(baggageEntry{key: entries.list[i].key, value: entries.list[i].value})
	}
	entries.set(baggageEntry{key: functionBaggage, value: functionID})
	if i := slices.IndexFunc(entries.list, func(x baggageEntry) bool { return x.key == functionBaggage }); i > 0 {
		entries.list = slices.Insert(slices.Delete(entries.list, i, i+1), 0, baggageEntry{key: functionBaggage, value: functionID})
	}
	t.baggage = entries.String()
	return t
}

// Baggage limits. Entries that exceed them are dropped.
const (
	maxBaggageEntries = 64
	maxBaggageBytes   = 8192
)

// baggage contains entries with unique keys, in order of arrival.
type baggage struct {
	list []baggageEntry
	size int
}

type baggageEntry struct{ key, value, properties string }

func (x baggageEntry) size() int { return len(x.key) + len(x.value) + len(x.properties) }

// parseBaggage parses a header. It skips invalid entries.
func parseBaggage(header string) (b baggage) {
	for item := range strings.SplitSeq(header, ",") {
		pair, properties, _ := strings.Cut(item, ";")
		members := strings.Split(pair, "=") // a second "=" ends the value
		if len(members) < 2 {
			continue
		}
		key, value := percentDecoded(members[0]), percentDecoded(members[1])
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			continue
		}
		var kept []string
		for property := range strings.SplitSeq(properties, ";") {
			if property = percentDecoded(property); utf8.ValidString(property) {
				kept = append(kept, strings.TrimSpace(property))
			}
		}
		b.set(baggageEntry{strings.TrimSpace(key), strings.TrimSpace(value), strings.TrimSpace(strings.Join(kept, ";"))})
	}
	return b
}

// set adds an entry or replaces the one with the same key. It ignores entries that exceed the
// limits, and new keys that are not tokens.
func (b *baggage) set(x baggageEntry) {
	i := slices.IndexFunc(b.list, func(old baggageEntry) bool { return old.key == x.key })
	size := b.size + x.size()
	if i >= 0 {
		size -= b.list[i].size()
	}
	switch {
	case size > maxBaggageBytes:
	case i >= 0:
		b.list[i], b.size = x, size
	case len(b.list) < maxBaggageEntries && isToken(x.key):
		b.list, b.size = append(b.list, x), size
	}
}

func (b *baggage) get(key string) (value string, there bool) {
	for _, x := range b.list {
		if x.key == key {
			return x.value, true
		}
	}
	return "", false
}

// String returns the baggage header's value. As in the engine, "%" and "\" are not escaped.
func (b *baggage) String() string {
	var items []string
	for _, x := range b.list {
		item := percentEncoded(x.key) + "=" + percentEncoded(strings.TrimSpace(x.value))
		if x.properties != "" {
			item += ";" + x.properties
		}
		items = append(items, item)
	}
	return strings.Join(items, ",")
}

// percentDecoded decodes valid escapes and keeps everything else unchanged.
func percentDecoded(s string) string {
	var b []byte
	for s != "" {
		if s[0] == '%' && len(s) > 2 {
			if c, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				b, s = append(b, byte(c)), s[3:]
				continue
			}
		}
		b, s = append(b, s[0]), s[1:]
	}
	return string(b)
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
