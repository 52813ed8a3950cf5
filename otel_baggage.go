package iii

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The limits of the W3C's recommendation.
const (
	maxBaggageMembers = 64
	maxBaggageBytes   = 8192
)

// InjectBaggage is the W3C baggage header for what is done in ctx, ordered by
// key, "" without baggage. Keys and values are percent-encoded, "=" included, at
// which the engine would cut a value.
func InjectBaggage(ctx context.Context) string {
	bag := baggage.FromContext(ctx)
	if bag.Len() == 0 {
		return ""
	}
	return string(appendBaggage(nil, bag))
}

// sortedMembers orders the entries, which come from a map.
func sortedMembers(bag baggage.Baggage) []baggage.Member {
	members := bag.Members()
	if len(members) > 1 {
		slices.SortFunc(members, func(a, b baggage.Member) int { return cmp.Compare(a.Key(), b.Key()) })
	}
	return members
}

func appendBaggage(dst []byte, bag baggage.Baggage) []byte {
	for i, m := range sortedMembers(bag) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendMember(dst, m)
	}
	return dst
}

func appendMember(dst []byte, m baggage.Member) []byte {
	dst = appendEscaped(dst, m.Key())
	dst = append(dst, '=')
	dst = appendEscaped(dst, m.Value())
	for _, p := range m.Properties() {
		if text := p.String(); text != "" { // a key that no header can carry
			dst = append(append(dst, ';'), text...)
		}
	}
	return dst
}

// appendEscaped percent-encodes all but the octets that baggage may hold, and
// among these "%" and "=". The same goes for keys, which the engine decodes.
func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '"', c == ',', c == ';', c == '\\', c == '%', c == '=':
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// parseBaggage reads the header leniently, since others write it: entries that
// are none are left out, and a "%" that is no part of a percent-encoding (the engine
// writes it as it is) is taken as it stands. Beyond the limits the rest is left
// out. Of entries with the same key the last counts.
func parseBaggage(header string) baggage.Baggage {
	var members []baggage.Member
	size := 0
	for item := range strings.SplitSeq(header, ",") {
		pair, properties, _ := strings.Cut(item, ";")
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			continue
		}
		m, err := baggage.NewMemberRaw(unescaped(key), unescaped(value), parseProperties(properties)...)
		if err != nil {
			continue
		}
		if size += len(m.String()) + 1; len(members) == maxBaggageMembers || size > maxBaggageBytes {
			break
		}
		members = append(members, m)
	}
	bag, _ := baggage.New(members...) // they are valid and within the limits
	return bag
}

// unescaped decodes a key or a value. A "%" that begins no escape is itself, and
// spoils none of the others.
func unescaped(s string) string {
	s = strings.Trim(s, " \t")
	if strings.IndexByte(s, '%') >= 0 {
		decoded := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			var c [1]byte
			if s[i] == '%' && i+2 < len(s) {
				if _, err := hex.Decode(c[:], []byte(s[i+1:i+3])); err == nil {
					decoded = append(decoded, c[0])
					i += 2
					continue
				}
			}
			decoded = append(decoded, s[i])
		}
		s = string(decoded)
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func parseProperties(s string) []baggage.Property {
	if s == "" {
		return nil
	}
	var properties []baggage.Property
	for item := range strings.SplitSeq(s, ";") {
		key, value, hasValue := strings.Cut(item, "=")
		var p baggage.Property
		var err error
		if hasValue {
			p, err = baggage.NewKeyValuePropertyRaw(unescaped(key), unescaped(value))
		} else {
			p, err = baggage.NewKeyProperty(unescaped(key))
		}
		if err == nil {
			properties = append(properties, p)
		}
	}
	return properties
}

// BaggageEntry is the value, decoded, of one entry of the baggage in ctx; ok is
// false if there is none.
func BaggageEntry(ctx context.Context, key string) (value string, ok bool) {
	m := baggage.FromContext(ctx).Member(key)
	return m.Value(), m.Key() != ""
}

// SetBaggage returns ctx with one entry of the baggage set; the other
// entries keep their properties. Key and value are any text; space around them
// is removed. It is an error, and ctx is returned, if the key is empty, if
// either is not valid UTF-8, or if the baggage would exceed 64 entries or 8192
// bytes of header.
func SetBaggage(ctx context.Context, key, value string) (context.Context, error) {
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case key == "":
		return ctx, errors.New("iii: baggage entry without a key")
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return ctx, errors.New("iii: baggage entry is not valid UTF-8")
	}
	m, err := baggage.NewMemberRaw(key, value)
	if err != nil {
		return ctx, fmt.Errorf("iii: baggage entry: %w", err)
	}
	bag, err := baggage.FromContext(ctx).SetMember(m)
	if err != nil {
		return ctx, fmt.Errorf("iii: baggage entry: %w", err)
	}
	if n := bag.Len(); n > maxBaggageMembers {
		return ctx, fmt.Errorf("iii: baggage of %d entries; the limit is %d", n, maxBaggageMembers)
	}
	if n := len(appendBaggage(nil, bag)); n > maxBaggageBytes {
		return ctx, fmt.Errorf("iii: baggage of %d bytes; the limit is %d", n, maxBaggageBytes)
	}
	return baggage.ContextWithBaggage(ctx, bag), nil
}

// RemoveBaggage returns ctx with one entry of the baggage removed, if it is
// there.
func RemoveBaggage(ctx context.Context, key string) context.Context {
	bag := baggage.FromContext(ctx)
	if bag.Member(key).Key() == "" {
		return ctx
	}
	return baggage.ContextWithBaggage(ctx, bag.DeleteMember(key))
}

// BaggageSpanProcessor copies the baggage of the context that a span is begun in
// to the span: each entry becomes an attribute of the same key with the entry's
// decoded value, over an attribute that the span was begun with. The engine
// shows iii.tag.*, iii.session.id, iii.session.name and iii.message.id with a
// trace.
//
// It is made by [NewBaggageSpanProcessor] and belongs before the processors that
// read attributes when a span starts, as [StartTelemetry] places it. The zero
// value works; it has no state.
type BaggageSpanProcessor struct{}

var _ sdktrace.SpanProcessor = (*BaggageSpanProcessor)(nil)

// NewBaggageSpanProcessor makes one.
func NewBaggageSpanProcessor() *BaggageSpanProcessor { return &BaggageSpanProcessor{} }

// OnStart implements sdktrace.SpanProcessor.
func (*BaggageSpanProcessor) OnStart(parent context.Context, s sdktrace.ReadWriteSpan) {
	bag := baggage.FromContext(parent)
	if bag.Len() == 0 {
		return
	}
	attributes := make([]attribute.KeyValue, 0, bag.Len())
	for _, m := range sortedMembers(bag) {
		attributes = append(attributes, attribute.String(m.Key(), m.Value()))
	}
	s.SetAttributes(attributes...)
}

// OnEnd implements sdktrace.SpanProcessor; there is nothing to do.
func (*BaggageSpanProcessor) OnEnd(sdktrace.ReadOnlySpan) {}

// Shutdown implements sdktrace.SpanProcessor; there is nothing to do.
func (*BaggageSpanProcessor) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor; there is nothing to do.
func (*BaggageSpanProcessor) ForceFlush(context.Context) error { return nil }
