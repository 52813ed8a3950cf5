// Package jsoncodec encodes and decodes Go values as encoding/json does, but faster.
//
// It handles plain types itself: structs, maps with string keys, slices, pointers, interfaces,
// basic types and, for encoding only, arrays and byte slices. It copies each string without
// escapes in one step, and does not validate its input again. Everything else is left to
// encoding/json: types with encoding methods, embedded structs, unusual tags, and values that
// cause an error, except pointer cycles. For a type that is left to encoding/json as a whole,
// the overhead is one table lookup.
package jsoncodec

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// Decode decodes b, which must be valid JSON, into v as [json.Unmarshal] does, including into
// nonzero values.
//
// A value that does not fit its type, or that encoding/json treats specially, is decoded a
// second time by json.Unmarshal, which determines the result and the error. UnmarshalJSON and
// UnmarshalText may therefore be called twice for such a value. Decode does not retain b.
func Decode(b []byte, v any) error {
	_, err := DecodeStruct(b, v, nil)
	return err
}

// DecodeStruct is like Decode, but also calls unknown, if not nil, for each member of the
// outermost object that is not a field of v. complete reports whether unknown was called for
// all such members. If v does not point to a zero struct, or if encoding/json had to decode b,
// complete is false. In this case, unknown may have been called for some of these members. The
// arguments of unknown share the memory of b.
func DecodeStruct(b []byte, v any, unknown func(key, value []byte)) (complete bool, err error) {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() || !target.Elem().IsZero() {
		return false, json.Unmarshal(b, v) // it merges into values that are not zero
	}
	target = target.Elem()
	c := coderOf(target.Type())
	switch {
	case c.delegated:
		if decodeStandard(b, v) == nil {
			return false, nil
		}
	case unknown != nil && c.fields != nil:
		if fits(b, func(i int) int { return c.fields.decodeMembers(b, i, target, unknown) }) {
			return true, nil
		}
	default:
		if fits(b, func(i int) int { return c.decode(b, i, target) }) {
			return false, nil
		}
	}
	target.SetZero()
	return false, json.Unmarshal(b, v)
}

// Independent reports whether decoding into t never calls methods of other packages. Such
// methods could retain the JSON text.
func Independent(t reflect.Type) bool { return !coderOf(t).foreign }

// Append appends v as JSON. The encoding differs from that of a [json.Encoder] without HTML
// escaping as follows. Raw JSON keeps its white space. U+2028 and U+2029 are not escaped, and
// invalid UTF-8 becomes an unescaped U+FFFD. Other control characters may have different
// escapes.
//
// If plain is true, the appended text is valid UTF-8, is nested at most [MaxLevels] deep, and
// contains no surrogate escapes and no numbers beyond 64 bits.
func Append(dst []byte, v any) (out []byte, plain bool, err error) {
	e := encoders.Get().(*encoder) // lost if v panics
	*e = encoder{b: dst}
	if !e.any(v) {
		if err = e.err; err == nil {
			*e = encoder{b: dst}
			err = e.standard(v)
		}
	}
	out, plain = e.b, !e.opaque
	*e = encoder{}
	encoders.Put(e)
	if err != nil {
		return dst, false, err
	}
	return out, plain, nil
}

// encoders pools encoders, because they escape to the heap.
var encoders = sync.Pool{New: func() any { return new(encoder) }}

// coder encodes and decodes the values of one type.
type coder struct {
	// decode decodes the value that begins at b[i] into v, a settable zero value. It returns
	// the index after the value, or giveUp.
	decode func(b []byte, i int, v reflect.Value) int
	// append appends v, or returns false.
	append func(e *encoder, v reflect.Value) bool

	delegated bool         // encoding/json decodes the whole value
	foreign   bool         // decoding may call methods of other packages
	parts     []*coder     // of a composite type
	fields    *structCoder // of a struct
}

// coders holds the coder of each type that has been used.
var coders sync.Map // of reflect.Type to *coder

func coderOf(t reflect.Type) *coder {
	if c, ok := coders.Load(t); ok {
		return c.(*coder)
	}
	building := builder{}
	c := building.coder(t)
	for again := true; again; { // a type that contains a foreign type is foreign, too
		again = false
		for _, c := range building {
			if !c.foreign && slices.ContainsFunc(c.parts, func(p *coder) bool { return p.foreign }) {
				c.foreign, again = true, true
			}
		}
	}
	for t, c := range building { // complete now, including those that refer to each other
		coders.LoadOrStore(t, c)
	}
	return c
}

// builder holds the coders under construction, so that a type that contains itself can use
// its own coder.
type builder map[reflect.Type]*coder

func (bu builder) coder(t reflect.Type) *coder {
	if c, ok := coders.Load(t); ok {
		return c.(*coder)
	}
	if c, ok := bu[t]; ok {
		return c
	}
	c := &coder{}
	bu[t] = c
	kind := bu.byKind(t)
	*c = kind
	if c.decode == nil || decodesItself(t) {
		c.decode, c.delegated, c.foreign = delegateDecode, true, t != timeType
	}
	if c.append == nil || encodesItself(t) {
		c.append = delegateAppend
	}
	if t == rawType {
		c.decode, c.append, c.delegated, c.foreign = decodeRaw, appendRaw, false, false
	}
	return c
}

var (
	rawType      = reflect.TypeFor[json.RawMessage]()
	numberType   = reflect.TypeFor[json.Number]()
	timeType     = reflect.TypeFor[time.Time]()
	unmarshalers = []reflect.Type{reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()}
	marshalers   = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextAppender]()}
	zeroer       = []reflect.Type{reflect.TypeFor[interface{ IsZero() bool }]()}
)

// encodesItself and decodesItself report whether t or *t has methods for encoding or decoding,
// including those of encoding/json/v2. The v2 methods are looked up by constant names, because
// the linker would otherwise keep all methods of all types.

func encodesItself(t reflect.Type) bool {
	_, streams := reflect.PointerTo(t).MethodByName("MarshalJSONTo")
	return streams || implements(t, marshalers)
}

func decodesItself(t reflect.Type) bool {
	_, streams := reflect.PointerTo(t).MethodByName("UnmarshalJSONFrom")
	return streams || implements(t, unmarshalers)
}

func implements(t reflect.Type, interfaces []reflect.Type) bool {
	return slices.ContainsFunc(interfaces, func(i reflect.Type) bool { return t.Implements(i) || reflect.PointerTo(t).Implements(i) })
}

// byKind returns a coder for t's kind, ignoring t's methods. If this package cannot encode or
// decode that kind itself, the coder's corresponding function is nil.
func (bu builder) byKind(t reflect.Type) coder {
	switch t.Kind() {
	case reflect.Bool:
		return coder{decode: decodeBool, append: appendBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return coder{decode: decodeInt, append: appendInt}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return coder{decode: decodeUint, append: appendUint}
	case reflect.Float32, reflect.Float64:
		return coder{decode: decodeFloat, append: appendFloat}
	case reflect.String:
		if t == numberType {
			return coder{}
		}
		return coder{decode: decodeString, append: appendString}
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return coder{append: appendInterface}
		}
		return coder{decode: decodeInterface, append: appendInterface}
	case reflect.Pointer:
		p := pointerCoder{bu.coder(t.Elem())}
		c := coder{decode: p.decode, append: p.append, parts: []*coder{p.elem}}
		if t.Elem().Kind() == reflect.Pointer { // possibly of type t
			c.decode = nil
		}
		return c
	case reflect.Slice:
		s := sliceCoder{elem: bu.coder(t.Elem())}
		if t.Elem().Kind() != reflect.Uint8 {
			return coder{decode: s.decode, append: s.append, parts: []*coder{s.elem}}
		}
		if encodesItself(t.Elem()) {
			return coder{}
		}
		return coder{append: appendBytes}
	case reflect.Array:
		return coder{append: sliceCoder{elem: bu.coder(t.Elem())}.appendItems}
	case reflect.Map:
		if k := t.Key(); k.Kind() != reflect.String || encodesItself(k) || decodesItself(k) {
			return coder{}
		}
		m := mapCoder{t: t, elem: bu.coder(t.Elem())}
		return coder{decode: m.decode, append: m.append, parts: []*coder{m.elem}}
	case reflect.Struct:
		s := bu.structCoder(t)
		if s == nil {
			return coder{}
		}
		c := coder{decode: s.decode, append: s.append, fields: s}
		for _, f := range s.fields {
			c.parts = append(c.parts, f.coder)
		}
		return c
	}
	return coder{}
}

type (
	pointerCoder struct{ elem *coder }
	sliceCoder   struct{ elem *coder }
	mapCoder     struct {
		t    reflect.Type
		elem *coder
	}
)

type structCoder struct {
	fields  []structField
	byName  map[string]int
	folded  map[string]bool // the names, folded
	longest int             // length of the longest folded name
}

type structField struct {
	name      string
	prefix    string // the name as the encoder writes it
	index     int
	omitEmpty bool
	omitZero  bool
	coder     *coder
}

// maxFields limits the number of fields in a struct; see fieldSet.
const maxFields = 256

// structCoder returns the coder of the struct type t, or nil if encoding/json has special
// rules for its fields.
func (bu builder) structCoder(t reflect.Type) *structCoder {
	s := &structCoder{byName: map[string]int{}, folded: map[string]bool{}}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil
		}
		tag, tagged := f.Tag.Lookup("json")
		if !f.IsExported() {
			if tagged && tag != "-" {
				return nil
			}
			continue
		}
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		field := structField{name: name, prefix: `"` + name + `":`, index: i}
		for options != "" {
			var option string
			switch option, options, _ = strings.Cut(options, ","); option {
			case "omitempty":
				field.omitEmpty = true
			case "omitzero":
				if implements(f.Type, zeroer) {
					return nil
				}
				field.omitZero = true
			default:
				return nil
			}
		}
		if _, twice := s.byName[name]; twice || !plainName(name) || len(s.fields) == maxFields {
			return nil
		}
		field.coder = bu.coder(f.Type)
		s.byName[name] = len(s.fields)
		s.fields = append(s.fields, field)
		folded := string(appendFolded(nil, []byte(name)))
		s.folded[folded] = true
		s.longest = max(s.longest, len(folded))
	}
	return s
}

// plainName reports whether name consists of ASCII characters that no encoder escapes and that
// need no quotes in a tag.
func plainName(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-.:$@/ ", c) >= 0) {
			return false
		}
	}
	return true
}

// appendFolded appends key in lower case, without underscores and hyphens. Keys that
// encoding/json treats as equal in any of its modes are equal in this form.
func appendFolded(dst, key []byte) []byte {
	for _, c := range key {
		switch {
		case c == '_' || c == '-':
			continue
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}
