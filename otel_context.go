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

// extractRaw is like ExtractContext, but takes headers that are JSON strings or absent.
func extractRaw(ctx context.Context, traceparent, baggageHeader []byte) context.Context {
	if n := len(traceparent); n > 2 && traceparent[0] == '"' { // a valid header has no escapes
		if sc, ok := parseTraceparent(traceparent[1 : n-1]); ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		}
	}
	text, _ := rawjson.Unquote(baggageHeader)
	return ExtractContext(ctx, "", text)
}

// CapturedContext holds the span and the baggage of a context at one moment, but not its
// cancellation, deadline or other values. It is meant for work that outlives its caller. Use
// [CaptureContext]; the zero value attaches nothing. It is safe for concurrent use.
type CapturedContext struct {
	span trace.Span
	bag  baggage.Baggage
}

// CaptureContext captures the span context and the baggage of ctx. It does not keep the span
// open; spans that are started after the span has ended still become its children.
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

// BaggageSpanProcessor copies the baggage of the context in which a span starts to the span.
// Each entry becomes an attribute with the same key and the entry's decoded value; it replaces
// an attribute of that key with which the span was started. The engine shows iii.tag.*,
// iii.session.id, iii.session.name and iii.message.id with a trace.
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
