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

// Limits of the W3C Baggage recommendation.
const (
	maxBaggageMembers = 64
	maxBaggageBytes   = 8192
)

// InjectBaggage returns the W3C baggage header for ctx, with its entries ordered by
// key, or "" if ctx has no baggage. It percent-encodes keys and values, including "=",
// at which the engine would otherwise cut off a value.
func InjectBaggage(ctx context.Context) string {
	bag := baggage.FromContext(ctx)
	if bag.Len() == 0 {
		return ""
	}
	return string(appendBaggage(nil, bag))
}

// sortedMembers returns the entries in key order, because they come from a map.
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
		if text := p.String(); text != "" { // empty if no header can carry the key
			dst = append(append(dst, ';'), text...)
		}
	}
	return dst
}

// appendEscaped percent-encodes the octets that baggage must not contain, and also "%"
// and "=". Keys are encoded as well because the engine decodes them.
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

// parseBaggage parses the header leniently because other programs write it. It skips
// invalid entries and keeps a "%" that does not begin a percent-encoding, which the
// engine writes unescaped. It ignores entries beyond the limits. If a key occurs
// several times, the last entry wins.
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
	bag, _ := baggage.New(members...) // no error: the members are valid and within the limits
	return bag
}

// unescaped decodes a key or a value. A "%" that does not begin an escape stays as it
// is and does not affect other escapes.
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

// BaggageEntry returns the decoded value of one baggage entry in ctx; ok is false if
// there is no such entry.
func BaggageEntry(ctx context.Context, key string) (value string, ok bool) {
	m := baggage.FromContext(ctx).Member(key)
	return m.Value(), m.Key() != ""
}

// SetBaggage returns ctx with one baggage entry set; the other entries keep their
// properties. Key and value may be any UTF-8 text; surrounding space is removed.
// SetBaggage returns ctx unchanged and an error if the key is empty, if either is not
// valid UTF-8, or if the baggage would exceed 64 entries or 8192 bytes of header.
func SetBaggage(ctx context.Context, key, value string) (context.Context, error) {
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case key == "":
		return ctx, errors.New("iii: baggage entry has no key")
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
		return ctx, fmt.Errorf("iii: baggage has %d entries; the limit is %d", n, maxBaggageMembers)
	}
	if n := len(appendBaggage(nil, bag)); n > maxBaggageBytes {
		return ctx, fmt.Errorf("iii: baggage has %d bytes; the limit is %d", n, maxBaggageBytes)
	}
	return baggage.ContextWithBaggage(ctx, bag), nil
}

// RemoveBaggage returns ctx without one baggage entry, or ctx itself if there is no
// such entry.
func RemoveBaggage(ctx context.Context, key string) context.Context {
	bag := baggage.FromContext(ctx)
	if bag.Member(key).Key() == "" {
		return ctx
	}
	return baggage.ContextWithBaggage(ctx, bag.DeleteMember(key))
}

// BaggageSpanProcessor copies the baggage of the context in which a span starts to the
// span. Each entry becomes an attribute with the same key and the entry's decoded
// value, and replaces an attribute that the span was started with. The engine shows
// iii.tag.*, iii.session.id, iii.session.name and iii.message.id with a trace.
//
// Use [NewBaggageSpanProcessor], and register the processor before those that read
// attributes when a span starts, as [StartTelemetry] does. The zero value is ready to
// use; the processor has no state.
type BaggageSpanProcessor struct{}

var _ sdktrace.SpanProcessor = (*BaggageSpanProcessor)(nil)

// NewBaggageSpanProcessor returns a BaggageSpanProcessor.
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

// OnEnd implements sdktrace.SpanProcessor and does nothing.
func (*BaggageSpanProcessor) OnEnd(sdktrace.ReadOnlySpan) {}

// Shutdown implements sdktrace.SpanProcessor and does nothing.
func (*BaggageSpanProcessor) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor and does nothing.
func (*BaggageSpanProcessor) ForceFlush(context.Context) error { return nil }
