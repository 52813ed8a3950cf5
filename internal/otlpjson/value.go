package otlpjson

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"

	"github.com/iii-go/iii/internal/rawjson"
)

// attributes appends a list of attributes under the given key, or nothing if the list is
// empty. It returns the number of attributes omitted because of the caps.
func (e *Encoder) attributes(b []byte, key string, attrs []attribute.KeyValue) ([]byte, int) {
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

// set appends the attributes of a set, preceded by open and followed by end. If the set is
// empty, it appends nothing.
func (e *Encoder) set(b []byte, open string, s *attribute.Set, end string) []byte {
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

// Indexes into opens, which holds the text between an attribute's key and its value. The text
// depends on the value's type.
const (
	openValue = iota // nothing: the value includes its opening text
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

func (e *Encoder) keyValue(b []byte, kv *attribute.KeyValue, depth int) []byte {
	switch key, v := string(kv.Key), &kv.Value; v.Type() {
	case attribute.STRING: // most attributes are strings
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

// attributeKey caches an attribute's opening text. A small cache suffices, because programs
// use few distinct keys.
type attributeKey struct {
	key  []byte
	open int
	text []byte
}

// maxKeptKey is the maximum length of a cached key.
const maxKeptKey = 64

// appendKey appends an attribute's text up to its value. open selects how that text ends; it
// is an index into opens.
func (e *Encoder) appendKey(b []byte, key string, open int) []byte {
	n := len(key)
	if n == 0 || n > min(maxKeptKey, e.caps.text) {
		b = append(b, `{"key":"`...)
		b = e.chars(b, key)
		b = append(b, `","value":`...)
		return append(b, opens[open]...)
	}
	// The hash includes the last byte because related keys differ mostly at their ends.
	k := &e.keys[(uint(n)+5*uint(key[n-1])+11*uint(key[n/2]))%uint(len(e.keys))]
	if k.open != open || string(k.key) != key {
		k.key, k.open = append(k.key[:0], key...), open
		k.text = append(k.text[:0], `{"key":"`...)
		k.text = append(rawjson.AppendEscaped(k.text, key), `","value":`...)
		k.text = append(k.text, opens[open]...)
	}
	return append(b, k.text...)
}

// value appends v, which is nested depth levels deep. It does not allocate for scalars. For
// lists, maps and bytes, the OpenTelemetry SDK allocates copies.
func (e *Encoder) value(b []byte, v *attribute.Value, depth int) []byte {
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
		// The engine would store a bytesValue as an empty string.
		return e.stringValue(b, base64.StdEncoding.EncodeToString(v.AsByteSlice()))
	case attribute.EMPTY:
		return append(b, "{}"...)
	default:
		if depth >= MaxValueDepth {
			return e.stringValue(b, v.String())
		}
		return e.list(b, v, t, depth+1)
	}
}

func (e *Encoder) list(b []byte, v *attribute.Value, t attribute.Type, depth int) []byte {
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

func appendList[T any](e *Encoder, b []byte, list []T, element func([]byte, *T) []byte) []byte {
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

func (e *Encoder) stringValue(b []byte, s string) []byte {
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

// Every JSON parser reads integers with magnitudes up to maxSafeInteger exactly.
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

// text appends s as a JSON string, truncated to the cap for strings.
func (e *Encoder) text(b []byte, s string) []byte {
	return append(e.chars(append(b, '"'), s), '"')
}

// chars is like text, but omits the quotes.
func (e *Encoder) chars(b []byte, s string) []byte {
	if len(s) <= e.caps.text {
		return rawjson.AppendEscaped(b, s)
	}
	n := e.caps.text
	for n > 0 && n > e.caps.text-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return append(rawjson.AppendEscaped(b, s[:n]), truncatedMark...)
}

// appendCount appends n as a decimal string, OTLP's representation of 64-bit integers.
func appendCount(b []byte, n uint64) []byte {
	if n < 10 {
		return append(b, '"', '0'+byte(n), '"')
	}
	b = append(b, '"')
	b = strconv.AppendUint(b, n, 10)
	return append(b, '"')
}

// unixNano returns t in nanoseconds since 1970, or 0 if t is zero or before 1970. The engine
// would drop a frame with a negative time.
func unixNano(t time.Time) uint64 {
	switch sec := t.Unix(); {
	case sec < 0: // includes the zero time
		return 0
	case sec > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	default:
		return uint64(sec)*uint64(time.Second) + uint64(t.Nanosecond())
	}
}

func finite[N int64 | float64](n N) bool { return n-n == 0 }

// appendDouble appends the shortest representation of a finite number.
func appendDouble(b []byte, f float64) []byte {
	if n := int64(f); float64(n) == f && n < maxSafeInteger && n > -maxSafeInteger && (n != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(b, n, 10)
	}
	if b, ok := appendDecimal(b, f); ok {
		return b
	}
	format := byte('f')
	if abs := math.Abs(f); abs < 1e-6 && abs > 0 || abs >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, 64)
}

// appendDecimal appends a number with few digits after the decimal point, such as a price or a
// ratio. It is much faster than a general search for the shortest form.
//
// The quotient of two integers below 2^53 is correctly rounded, and parsers also round the
// decimal number correctly. If the quotient equals f, the decimal number therefore denotes f.
// With so few digits, no other decimal number of the same length denotes f.
func appendDecimal(b []byte, f float64) ([]byte, bool) {
	abs := math.Abs(f)
	if !(abs >= 1e-3 && abs < 1e9) {
		return b, false
	}
	scale := 10.0
	for digits := 1; digits <= 4; digits, scale = digits+1, scale*10 {
		n := math.RoundToEven(abs * scale)
		if n/scale != abs {
			continue
		}
		if f < 0 {
			b = append(b, '-')
		}
		whole, part := uint64(n)/uint64(scale), uint64(n)%uint64(scale)
		b = append(strconv.AppendUint(b, whole, 10), '.')
		start := len(b)
		for range digits {
			b = append(b, '0')
		}
		for i := len(b) - 1; i >= start; i, part = i-1, part/10 {
			b[i] += byte(part % 10)
		}
		return b, true
	}
	return b, false
}

// clock appends times. It caches the digits of the current second, because most times in a
// batch fall within one or two seconds.
type clock struct {
	second uint64
	digits []byte
}

// appendTime appends nanoseconds since 1970 as a decimal string.
func (c *clock) appendTime(b []byte, nanos uint64) []byte {
	second := nanos / uint64(time.Second)
	if second == 0 {
		return appendCount(b, nanos)
	}
	if second != c.second {
		c.second, c.digits = second, strconv.AppendUint(c.digits[:0], second, 10)
	}
	b = append(b, '"')
	b = append(b, c.digits...)
	n := uint32(nanos - second*uint64(time.Second))
	high, low := n/1e5, n%1e5 // the first four digits and the last five
	first, last := high/100*2, high%100*2
	third, fourth := low/1e3*2, low/10%100*2
	return append(b, digitPairs[first], digitPairs[first+1], digitPairs[last], digitPairs[last+1],
		digitPairs[third], digitPairs[third+1], digitPairs[fourth], digitPairs[fourth+1], '0'+byte(low%10), '"')
}

// digitPairs holds the digits of the numbers 00 to 99.
var digitPairs = func() (t [200]byte) {
	for i := range 100 {
		t[2*i], t[2*i+1] = '0'+byte(i/10), '0'+byte(i%10)
	}
	return t
}()

// appendHex appends an id in hexadecimal. The length of the id must be a multiple of 4.
func appendHex(b, id []byte) []byte {
	for ; len(id) >= 4; id = id[4:] {
		b = binary.BigEndian.AppendUint64(b, hexWord(binary.BigEndian.Uint32(id)))
	}
	return b
}

// ones has the lowest bit of each byte set.
const ones = 0x0101010101010101

// hexWord returns the eight hexadecimal digits of n. It spreads the nibbles of n over bytes
// and adds '0' to each. To nibbles of 10 or more, it also adds the number of characters
// between '9' and 'a'.
func hexWord(n uint32) uint64 {
	w := uint64(n)
	w = (w | w<<16) & 0x0000ffff0000ffff
	w = (w | w<<8) & 0x00ff00ff00ff00ff
	w = (w | w<<4) & (0x0f * ones)
	letters := (w + 6*ones) >> 4 & ones
	return w + '0'*ones + letters*('a'-'9'-1)
}
