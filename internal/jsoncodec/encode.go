package jsoncodec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/iii-go/iii/internal/rawjson"
)

// MaxLevels is the maximum nesting depth of values that [Append] encodes itself. [Append]
// leaves deeper values to encoding/json, which detects lists and objects that contain
// themselves.
const MaxLevels = 100

// encoder appends values.
type encoder struct {
	b        []byte
	levels   int
	pointers int   // followed to reach the current value
	err      error // if set, encoding/json must not encode the value
	opaque   bool  // b contains text that was not written by this package
}

// any appends a value of any type.
func (e *encoder) any(v any) bool {
	switch v := v.(type) {
	case nil:
		e.b = append(e.b, "null"...)
	case string:
		e.b = rawjson.AppendString(e.b, v)
	case bool:
		e.b = strconv.AppendBool(e.b, v)
	case int:
		e.b = strconv.AppendInt(e.b, int64(v), 10)
	case float64:
		return e.float(v, 64)
	case map[string]any:
		return e.object(v)
	case []any:
		return e.list(v)
	default:
		r := reflect.ValueOf(v)
		return coderOf(r.Type()).append(e, r)
	}
	return true
}

// enter begins a list or an object.
func (e *encoder) enter(opening byte) bool {
	e.b = append(e.b, opening)
	e.levels++
	return e.levels <= MaxLevels
}

func (e *encoder) leave(closing byte) {
	e.b = append(e.b, closing)
	e.levels--
}

func (e *encoder) object(object map[string]any) bool {
	if object == nil {
		e.b = append(e.b, "null"...)
		return true
	}
	if !e.enter('{') {
		return false
	}
	var room [16]string
	keys := room[:0]
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for i, key := range keys {
		e.key(i, key)
		if !e.any(object[key]) {
			return false
		}
	}
	e.leave('}')
	return true
}

// key appends the key of the i-th member.
func (e *encoder) key(i int, key string) {
	if i > 0 {
		e.b = append(e.b, ',')
	}
	e.b = append(rawjson.AppendString(e.b, key), ':')
}

func (e *encoder) list(list []any) bool {
	if list == nil {
		e.b = append(e.b, "null"...)
		return true
	}
	if !e.enter('[') {
		return false
	}
	for i, v := range list {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		if !e.any(v) {
			return false
		}
	}
	e.leave(']')
	return true
}

// float appends f in ECMAScript's format, as encoding/json does.
func (e *encoder) float(f float64, bits int) bool {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return false
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 {
		small, large := abs < 1e-6, abs >= 1e21
		if bits == 32 {
			small, large = float32(abs) < 1e-6, float32(abs) >= 1e21
		}
		if small || large {
			format = 'e'
		}
	}
	e.b = strconv.AppendFloat(e.b, f, format, -1, bits)
	if n := len(e.b); format == 'e' && n >= 4 && e.b[n-4] == 'e' && e.b[n-3] == '-' && e.b[n-2] == '0' {
		e.b[n-2] = e.b[n-1] // e-09 becomes e-9
		e.b = e.b[:n-1]
	}
	return true
}

// standard is a reusable [json.Encoder] with its buffer.
type standard struct {
	bytes.Buffer
	encoder *json.Encoder
}

var standards = sync.Pool{New: func() any {
	s := &standard{}
	s.encoder = json.NewEncoder(&s.Buffer)
	s.encoder.SetEscapeHTML(false)
	return s
}}

// maxPooled is the maximum capacity of a buffer that is kept for reuse.
const maxPooled = 64 << 10

// delegateAppend appends v as encoded by encoding/json.
func delegateAppend(e *encoder, v reflect.Value) bool {
	if v.Kind() == reflect.Interface && !v.CanAddr() { // v.Interface would lose the interface, whose methods count
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p.Elem()
	}
	if v.CanAddr() {
		v = v.Addr() // methods with pointer receivers apply only to addressable values
	}
	return e.standard(v.Interface()) == nil
}

// standard appends v with encoding/json.
func (e *encoder) standard(v any) error {
	s := standards.Get().(*standard) // lost if v panics
	err := s.encoder.Encode(v)
	if err == nil {
		e.b = append(e.b, s.Bytes()[:s.Len()-1]...) // without the newline
		e.opaque = true
	}
	if s.Reset(); s.Cap() <= maxPooled {
		standards.Put(s)
	}
	return err
}

func appendRaw(e *encoder, v reflect.Value) bool {
	raw := v.Bytes()
	if raw == nil {
		e.b = append(e.b, "null"...)
		return true
	}
	e.b = append(e.b, raw...)
	e.opaque = true
	return rawjson.Valid(raw)
}

func appendBool(e *encoder, v reflect.Value) bool {
	e.b = strconv.AppendBool(e.b, v.Bool())
	return true
}

func appendInt(e *encoder, v reflect.Value) bool {
	e.b = strconv.AppendInt(e.b, v.Int(), 10)
	return true
}

func appendUint(e *encoder, v reflect.Value) bool {
	e.b = strconv.AppendUint(e.b, v.Uint(), 10)
	return true
}

func appendFloat(e *encoder, v reflect.Value) bool { return e.float(v.Float(), v.Type().Bits()) }

func appendString(e *encoder, v reflect.Value) bool {
	e.b = rawjson.AppendString(e.b, v.String())
	return true
}

func appendBytes(e *encoder, v reflect.Value) bool {
	if v.IsNil() {
		e.b = append(e.b, "null"...)
		return true
	}
	e.b = append(base64.StdEncoding.AppendEncode(append(e.b, '"'), v.Bytes()), '"')
	return true
}

func appendInterface(e *encoder, v reflect.Value) bool {
	if v.IsNil() {
		return e.any(nil)
	}
	return e.any(v.Elem().Interface())
}

func (p pointerCoder) append(e *encoder, v reflect.Value) bool {
	if v.IsNil() {
		return e.any(nil)
	}
	e.pointers++
	if e.pointers > e.levels+maxPointers { // encoding/json in Go 1.27 would follow a pointer loop until the stack overflows
		e.err = errLoop
		return false
	}
	ok := p.elem.append(e, v.Elem())
	e.pointers--
	return ok
}

// maxPointers limits the nesting of pointers. One more pointer is allowed for each enclosing
// list or object.
const maxPointers = 1000

var errLoop = errors.New("a pointer leads to itself")

func (s sliceCoder) append(e *encoder, v reflect.Value) bool {
	if v.IsNil() {
		return e.any(nil)
	}
	return s.appendItems(e, v)
}

func (s sliceCoder) appendItems(e *encoder, v reflect.Value) bool {
	if !e.enter('[') {
		return false
	}
	for i := range v.Len() {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		if !s.elem.append(e, v.Index(i)) {
			return false
		}
	}
	e.leave(']')
	return true
}

func (m mapCoder) append(e *encoder, v reflect.Value) bool {
	if v.IsNil() {
		return e.any(nil)
	}
	if !e.enter('{') {
		return false
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for i, key := range keys {
		e.key(i, key.String())
		if !m.elem.append(e, v.MapIndex(key)) {
			return false
		}
	}
	e.leave('}')
	return true
}

func (s *structCoder) append(e *encoder, v reflect.Value) bool {
	if !e.enter('{') {
		return false
	}
	first := true
	for i := range s.fields {
		f := &s.fields[i]
		field := v.Field(f.index)
		if f.omitZero && field.IsZero() || f.omitEmpty && isEmpty(field) {
			continue
		}
		if !first {
			e.b = append(e.b, ',')
		}
		first = false
		e.b = append(e.b, f.prefix...)
		if !f.coder.append(e, field) {
			return false
		}
	}
	e.leave('}')
	return true
}

// isEmpty reports whether the omitempty option omits v.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Float32, reflect.Float64:
		return v.Float() == 0
	case reflect.Bool, reflect.Interface, reflect.Pointer,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return v.IsZero()
	}
	return false
}
