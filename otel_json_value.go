package iii

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"

	"github.com/iii-go/iii/internal/rawjson"
)

// attributes appends a list of attributes with its key, or nothing if there are
// none, and tells how many the caps left out.
func (e *otlpEncoder) attributes(b []byte, key string, attrs []attribute.KeyValue) ([]byte, int) {
	n := min(len(attrs), e.caps.items)
	if n == 0 {
		return b, len(attrs)
	}
	b = append(b, key...)
	for i := range attrs[:n] {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.keyValue(b, &attrs[i], 0)
		if len(b) > e.stop {
			break
		}
	}
	return append(b, ']'), len(attrs) - n
}

// set appends the attributes of a set, between open and end, if it has any.
func (e *otlpEncoder) set(b []byte, open string, s *attribute.Set, end string) []byte {
	n := min(s.Len(), e.caps.items)
	if n == 0 {
		return b
	}
	b = append(b, open...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		kv, _ := s.Get(i)
		b = e.keyValue(b, &kv, 0)
		if len(b) > e.stop {
			break
		}
	}
	return append(b, end...)
}

// The values of attributes with what stands before them, by kind.
const (
	openValue = iota // nothing: the value has its own
	openString
	openInt
	openDouble
	wholeFalse
	wholeTrue
)

var opens = [...]string{
	openString: `{"stringValue":"`, openInt: `{"intValue":`, openDouble: `{"doubleValue":`,
	wholeFalse: `{"boolValue":false}}`, wholeTrue: `{"boolValue":true}}`,
}

func (e *otlpEncoder) keyValue(b []byte, kv *attribute.KeyValue, depth int) []byte {
	switch key, v := string(kv.Key), &kv.Value; v.Type() {
	case attribute.STRING: // most are
		b = e.appendKey(b, key, openString)
		b = e.chars(b, v.AsString())
		return append(b, `"}}`...)
	case attribute.BOOL:
		if v.AsBool() {
			return e.appendKey(b, key, wholeTrue)
		}
		return e.appendKey(b, key, wholeFalse)
	case attribute.INT64:
		if n := v.AsInt64(); safeInteger(n) {
			b = e.appendKey(b, key, openInt)
			b = strconv.AppendInt(b, n, 10)
			return append(b, "}}"...)
		}
	case attribute.FLOAT64:
		if f := v.AsFloat64(); finite(f) {
			b = e.appendKey(b, key, openDouble)
			b = appendDouble(b, f)
			return append(b, "}}"...)
		}
	}
	b = e.appendKey(b, string(kv.Key), openValue)
	b = e.value(b, &kv.Value, depth)
	return append(b, '}')
}

// otlpKey keeps what an attribute begins with: keys are few.
type otlpKey struct {
	key  []byte
	open int
	text []byte
}

// maxKeptKey is how long a key may be whose text is kept.
const maxKeptKey = 64

// appendKey appends the beginning of an attribute, and of its value what open says.
func (e *otlpEncoder) appendKey(b []byte, key string, open int) []byte {
	n := len(key)
	if n == 0 || n > min(maxKeptKey, e.caps.text) {
		b = append(b, `{"key":"`...)
		b = e.chars(b, key)
		b = append(b, `","value":`...)
		return append(b, opens[open]...)
	}
	// Keys of a kind differ in their ends.
	k := &e.keys[(uint(n)+5*uint(key[n-1])+11*uint(key[n/2]))%uint(len(e.keys))]
	if k.open != open || string(k.key) != key {
		k.key, k.open = append(k.key[:0], key...), open
		k.text = append(k.text[:0], `{"key":"`...)
		k.text = append(rawjson.AppendEscaped(k.text, key), `","value":`...)
		k.text = append(k.text, opens[open]...)
	}
	return append(b, k.text...)
}

// value appends v, which is inside depth other values. Scalars cost no
// allocation; of lists, maps and bytes the OpenTelemetry SDK hands out copies.
func (e *otlpEncoder) value(b []byte, v *attribute.Value, depth int) []byte {
	switch t := v.Type(); t {
	case attribute.STRING:
		return e.stringValue(b, v.AsString())
	case attribute.BOOL:
		return appendBoolValue(b, v.AsBool())
	case attribute.INT64:
		return appendIntValue(b, v.AsInt64())
	case attribute.FLOAT64:
		return appendDoubleValue(b, v.AsFloat64())
	case attribute.BYTESLICE:
		// The engine has no bytesValue: it would store an empty string.
		return e.stringValue(b, base64.StdEncoding.EncodeToString(v.AsByteSlice()))
	case attribute.EMPTY:
		return append(b, "{}"...)
	default:
		if depth >= maxValueDepth {
			return e.stringValue(b, v.String())
		}
		return e.list(b, v, t, depth+1)
	}
}

func (e *otlpEncoder) list(b []byte, v *attribute.Value, t attribute.Type, depth int) []byte {
	if t == attribute.MAP {
		b = append(b, `{"kvlistValue":{"values":[`...)
		b = appendList(e, b, v.AsMap(), func(b []byte, kv *attribute.KeyValue) []byte { return e.keyValue(b, kv, depth) })
		return append(b, "]}}"...)
	}
	b = append(b, `{"arrayValue":{"values":[`...)
	switch t {
	case attribute.SLICE:
		b = appendList(e, b, v.AsSlice(), func(b []byte, v *attribute.Value) []byte { return e.value(b, v, depth) })
	case attribute.STRINGSLICE:
		b = appendList(e, b, v.AsStringSlice(), func(b []byte, s *string) []byte { return e.stringValue(b, *s) })
	case attribute.INT64SLICE:
		b = appendList(e, b, v.AsInt64Slice(), func(b []byte, n *int64) []byte { return appendIntValue(b, *n) })
	case attribute.FLOAT64SLICE:
		b = appendList(e, b, v.AsFloat64Slice(), func(b []byte, f *float64) []byte { return appendDoubleValue(b, *f) })
	case attribute.BOOLSLICE:
		b = appendList(e, b, v.AsBoolSlice(), func(b []byte, v *bool) []byte { return appendBoolValue(b, *v) })
	}
	return append(b, "]}}"...)
}

func appendList[T any](e *otlpEncoder, b []byte, list []T, element func([]byte, *T) []byte) []byte {
	for i := range list[:min(len(list), e.caps.items)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, &list[i])
		if len(b) > e.stop {
			break
		}
	}
	return b
}

func (e *otlpEncoder) stringValue(b []byte, s string) []byte {
	b = append(b, `{"stringValue":"`...)
	b = e.chars(b, s)
	return append(b, `"}`...)
}

func appendBoolValue(b []byte, v bool) []byte {
	if v {
		return append(b, `{"boolValue":true}`...)
	}
	return append(b, `{"boolValue":false}`...)
}

// maxSafeInteger is the greatest integer that every reader of JSON numbers
// reads exactly.
const maxSafeInteger = 1 << 53

func safeInteger(n int64) bool { return n <= maxSafeInteger && n >= -maxSafeInteger }

func appendIntValue(b []byte, n int64) []byte {
	if !safeInteger(n) {
		b = append(b, `{"intValue":"`...)
		b = strconv.AppendInt(b, n, 10)
		return append(b, `"}`...)
	}
	b = append(b, `{"intValue":`...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, '}')
}

func appendDoubleValue(b []byte, f float64) []byte {
	switch {
	case finite(f):
		b = append(b, `{"doubleValue":`...)
		b = appendDouble(b, f)
		return append(b, '}')
	case f > 0:
		return append(b, `{"stringValue":"Infinity"}`...)
	case f < 0:
		return append(b, `{"stringValue":"-Infinity"}`...)
	}
	return append(b, `{"stringValue":"NaN"}`...)
}

// truncatedMark ends a string that was cut to fit a frame.
const truncatedMark = "...[TRUNCATED]"

// text appends s as a JSON string, cut at the cap.
func (e *otlpEncoder) text(b []byte, s string) []byte {
	return append(e.chars(append(b, '"'), s), '"')
}

// chars is text without the quotes.
func (e *otlpEncoder) chars(b []byte, s string) []byte {
	if len(s) <= e.caps.text {
		return rawjson.AppendEscaped(b, s)
	}
	n := e.caps.text
	for n > 0 && n > e.caps.text-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return append(rawjson.AppendEscaped(b, s[:n]), truncatedMark...)
}
