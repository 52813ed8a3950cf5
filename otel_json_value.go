package iii

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
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

func (e *otlpEncoder) keyValue(b []byte, kv *attribute.KeyValue, depth int) []byte {
	b = append(b, `{"key":`...)
	b = e.text(b, string(kv.Key))
	b = append(b, `,"value":`...)
	b = e.value(b, &kv.Value, depth)
	return append(b, '}')
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
	b = append(b, `{"stringValue":`...)
	b = e.text(b, s)
	return append(b, '}')
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

func appendIntValue(b []byte, n int64) []byte {
	if n > maxSafeInteger || n < -maxSafeInteger {
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
	case f-f == 0: // finite
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

func finite[N int64 | float64](n N) bool { return n-n == 0 }

// appendDouble appends a finite number in its shortest form.
func appendDouble(b []byte, f float64) []byte {
	if n := int64(f); float64(n) == f && n < maxSafeInteger && n > -maxSafeInteger && (n != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(b, n, 10)
	}
	format := byte('f')
	if abs := math.Abs(f); abs < 1e-6 && abs > 0 || abs >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, 64)
}

func appendCount(b []byte, n uint64) []byte {
	b = append(b, '"')
	b = strconv.AppendUint(b, n, 10)
	return append(b, '"')
}

// unixNano is t as OTLP has it: no time is 0, and so is a time before 1970,
// which would be a negative number and lose the frame.
func unixNano(t time.Time) uint64 {
	switch sec := t.Unix(); {
	case sec < 0: // the zero time too
		return 0
	case sec > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	default:
		return uint64(sec)*uint64(time.Second) + uint64(t.Nanosecond())
	}
}

func appendTime(b []byte, t time.Time) []byte { return appendCount(b, unixNano(t)) }

// appendHex appends an id as a JSON string.
func appendHex(b, id []byte) []byte {
	b = append(b, '"')
	for _, c := range id {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return append(b, '"')
}

// truncatedMark ends a string that was cut to fit a frame.
const truncatedMark = "...[TRUNCATED]"

// text appends s as a JSON string, cut at the cap.
func (e *otlpEncoder) text(b []byte, s string) []byte {
	if len(s) <= e.caps.text {
		return appendText(b, s)
	}
	n := e.caps.text
	for n > 0 && n > e.caps.text-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	b = appendText(b, s[:n])
	b = append(b[:len(b)-1], truncatedMark...)
	return append(b, '"')
}

// plainText tells of each byte whether it stands for itself in a JSON string.
var plainText = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendText appends s as a JSON string, in as few pieces as it can: payloads
// are JSON themselves, so quotes are frequent. Bytes that are no UTF-8 become
// U+FFFD.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainText[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		b = append(b, s[done:i]...)
		switch {
		case c >= utf8.RuneSelf:
			b = append(b, "\uFFFD"...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		done = i
	}
	b = append(b, s[done:]...)
	return append(b, '"')
}
