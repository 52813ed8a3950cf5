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

// Invocations carry trace context through the engine in two strings, traceparent and baggage,
// formatted like the W3C headers. Trace state is not transferred. The code below uses
// OpenTelemetry's context but needs no provider, so a worker without telemetry still
// propagates its caller's trace.

// TraceID returns the ID of the trace in ctx as 32 hexadecimal digits. In a handler, this is
// the caller's trace, if there is one. It returns "" if ctx has no trace.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

// SpanID returns the ID of the span in ctx as 16 hexadecimal digits. In a handler of a client
// without telemetry, this is the caller's span. It returns "" if ctx has no trace.
func SpanID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.SpanID().String()
	}
	return ""
}

// InjectTraceparent returns the W3C traceparent header for ctx, or "" if ctx has no trace. The
// header contains no flag except sampled, because the engine rejects headers with other flags.
func InjectTraceparent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return string(appendTraceparent(make([]byte, 0, traceparentLength), sc))
}

// traceparentLength is the length of a traceparent header: version, trace ID, span ID and
// flags.
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

// parseTraceparent parses a traceparent header. It accepts fields appended by later versions
// and ignores all flags except sampled.
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

// decodeHex decodes lowercase hexadecimal digits. It rejects uppercase digits, which a
// traceparent header must not contain.
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

// ExtractContext returns ctx with the trace context and baggage of the W3C headers traceparent
// and baggage. Spans started with the returned context are children of the remote span, and
// the header's baggage replaces that of ctx. An empty or invalid header is ignored, and an
// invalid baggage entry does not affect the others.
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

// extractRaw is ExtractContext for headers given as JSON strings. An empty slice means that
// there is no header.
func extractRaw(ctx context.Context, traceparent, baggageHeader []byte) context.Context {
	if n := len(traceparent); n > 2 && traceparent[0] == '"' { // a valid header has no escapes
		if sc, ok := parseTraceparent(traceparent[1 : n-1]); ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
		}
	}
	text, _ := rawjson.Unquote(baggageHeader)
	return ExtractContext(ctx, "", text)
}

// CapturedContext holds the span and baggage of a context, but not its cancellation, deadline
// or other values. It is meant for work that outlives its caller. Create it with
// [CaptureContext]; attaching the zero value has no effect. It is safe for concurrent use.
type CapturedContext struct {
	span trace.Span
	bag  baggage.Baggage
}

// CaptureContext captures the span and baggage of ctx. It does not keep the span open. Spans
// started later become children of the captured span even if that span has ended.
func CaptureContext(ctx context.Context) CapturedContext {
	return CapturedContext{span: trace.SpanFromContext(ctx), bag: baggage.FromContext(ctx)}
}

// Attach returns ctx with its span and baggage replaced by the captured ones.
func (c CapturedContext) Attach(ctx context.Context) context.Context {
	if c.span == nil {
		return ctx
	}
	return baggage.ContextWithBaggage(trace.ContextWithSpan(ctx, c.span), c.bag)
}

// Limits from the W3C Baggage recommendation.
const (
	maxBaggageMembers = 64
	maxBaggageBytes   = 8192
)

// InjectBaggage returns the W3C baggage header for ctx with its entries sorted by key, or ""
// if ctx has no baggage. Keys and values are percent-encoded, including "=", at which the
// engine would otherwise truncate a value.
func InjectBaggage(ctx context.Context) string {
	bag := baggage.FromContext(ctx)
	if bag.Len() == 0 {
		return ""
	}
	return string(appendBaggage(nil, bag))
}

// sortedMembers returns the entries sorted by key, because Members returns them in random
// order.
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
		if text := p.String(); text != "" { // empty if the key is not allowed in a header
			dst = append(append(dst, ';'), text...)
		}
	}
	return dst
}

// appendEscaped percent-encodes the bytes that are not allowed in baggage, and also "%" and
// "=". Keys are encoded as well, because the engine decodes them.
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

// parseBaggage parses the header leniently, because other programs write it. It skips invalid
// entries, and entries beyond the limits. It keeps a "%" that does not begin an escape,
// because the engine does not escape "%". If a key occurs several times, the last entry wins.
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
	bag, _ := baggage.New(members...) // cannot fail: the members are valid and within the limits
	return bag
}

// unescaped decodes a key or a value. A "%" that does not begin an escape is kept and does not
// affect other escapes.
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

// BaggageEntry returns the decoded value of a baggage entry in ctx, and whether the entry
// exists.
func BaggageEntry(ctx context.Context, key string) (value string, ok bool) {
	m := baggage.FromContext(ctx).Member(key)
	return m.Value(), m.Key() != ""
}

// SetBaggage returns ctx with one baggage entry set. Other entries keep their properties. The
// key and value may be any UTF-8 text; surrounding white space is removed. If the key is
// empty, the key or value is not valid UTF-8, or the baggage header would exceed 64 entries or
// 8192 bytes, SetBaggage returns ctx unchanged and an error.
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

// RemoveBaggage returns ctx without the given baggage entry, or ctx itself if it has no such
// entry.
func RemoveBaggage(ctx context.Context, key string) context.Context {
	bag := baggage.FromContext(ctx)
	if bag.Member(key).Key() == "" {
		return ctx
	}
	return baggage.ContextWithBaggage(ctx, bag.DeleteMember(key))
}

// BaggageSpanProcessor copies baggage to spans as they start. Each entry in the baggage of the
// span's parent context becomes an attribute with the same key and the decoded value. This
// attribute replaces any attribute with the same key that was set when the span was started.
// The engine shows the attributes iii.tag.*, iii.session.id, iii.session.name and
// iii.message.id with a trace.
//
// Register the processor before any processor that reads attributes when a span starts, as
// [StartTelemetry] does. The zero value is ready to use and equivalent to the result of
// [NewBaggageSpanProcessor]. The processor has no state.
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
