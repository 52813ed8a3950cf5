package jsoncodec

import (
	"encoding/json"
	"reflect"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// giveUp is what a decoder returns for a value that encoding/json must decode or reject.
const giveUp = -1

// fits reports whether decode consumes all of b, apart from white space. decode is called with
// the index at which the value begins.
func fits(b []byte, decode func(i int) int) bool {
	i := decode(rawjson.SkipSpace(b, 0))
	return i != giveUp && rawjson.SkipSpace(b, i) == len(b)
}

// delegateDecode decodes the value at b[i] with encoding/json.
func delegateDecode(b []byte, i int, v reflect.Value) int {
	end := rawjson.SkipValue(b, i)
	if end < 0 || decodeStandard(b[i:end], v.Addr().Interface()) != nil {
		return giveUp
	}
	return end
}

// at returns b[i], or 0 beyond the end.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// null returns the index after the null at b[i], or giveUp if there is none. Callers decode
// into zero values, which null leaves unchanged.
func null(b []byte, i int) int { return literal(b, i, "null") }

func literal(b []byte, i int, text string) int {
	if len(b)-i >= len(text) && string(b[i:i+len(text)]) == text {
		return i + len(text)
	}
	return giveUp
}

func decodeBool(b []byte, i int, v reflect.Value) int {
	switch at(b, i) {
	case 't':
		v.SetBool(true)
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	}
	return null(b, i)
}

// numberEnd returns the index after the number at b[i], or i if there is none.
func numberEnd(b []byte, i int) int {
	if c := at(b, i); c == '-' || '0' <= c && c <= '9' {
		return max(rawjson.SkipValue(b, i), i)
	}
	return i
}

func decodeInt(b []byte, i int, v reflect.Value) int {
	end := numberEnd(b, i)
	if end == i {
		return null(b, i)
	}
	n, err := strconv.ParseInt(string(b[i:end]), 10, 64)
	if err != nil || v.OverflowInt(n) {
		return giveUp
	}
	v.SetInt(n)
	return end
}

func decodeUint(b []byte, i int, v reflect.Value) int {
	end := numberEnd(b, i)
	if end == i {
		return null(b, i)
	}
	n, err := strconv.ParseUint(string(b[i:end]), 10, 64)
	if err != nil || v.OverflowUint(n) {
		return giveUp
	}
	v.SetUint(n)
	return end
}

func decodeFloat(b []byte, i int, v reflect.Value) int {
	end := numberEnd(b, i)
	if end == i {
		return null(b, i)
	}
	f, err := strconv.ParseFloat(string(b[i:end]), v.Type().Bits())
	if err != nil {
		return giveUp
	}
	v.SetFloat(f)
	return end
}

func decodeString(b []byte, i int, v reflect.Value) int {
	if at(b, i) != '"' {
		return null(b, i)
	}
	s, end := stringAt(b, i)
	if end != giveUp {
		v.SetString(s)
	}
	return end
}

// stringAt returns the string at b[i] and the index after it.
func stringAt(b []byte, i int) (s string, end int) {
	if at(b, i) != '"' {
		return "", giveUp
	}
	i++
	end = i + rawjson.PlainBytes(b[i:])
	if at(b, end) != '"' {
		return unescape(b, i, end)
	}
	if !utf8.Valid(b[i:end]) {
		return "", giveUp
	}
	return string(b[i:end]), end + 1
}

// unescape decodes a string whose contents begin at b[i] and whose first escape is at b[end].
// It also returns the index after the string.
func unescape(b []byte, i, end int) (string, int) {
	text := make([]byte, 0, 2*(end-i)+32)
	for {
		text = append(text, b[i:end]...)
		switch at(b, end) {
		case '"':
			if !utf8.Valid(text) {
				return "", giveUp
			}
			return string(text), end + 1
		case '\\':
		default:
			return "", giveUp
		}
		i = end + 2
		switch c := at(b, end+1); c {
		case '"', '\\', '/':
			text = append(text, c)
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r := unit(b, i)
			i += 4
			if utf16.IsSurrogate(r) {
				second := rune(-1)
				if at(b, i) == '\\' && at(b, i+1) == 'u' {
					second = unit(b, i+2)
				}
				if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
					return "", giveUp
				}
				i += 6
			}
			if r < 0 {
				return "", giveUp
			}
			text = utf8.AppendRune(text, r)
		default:
			return "", giveUp
		}
		end = i + rawjson.PlainBytes(b[i:])
	}
}

// unit returns the UTF-16 code unit whose four hexadecimal digits begin at b[i], or -1 if they
// are invalid.
func unit(b []byte, i int) rune {
	if len(b)-i < 4 {
		return -1
	}
	n, err := strconv.ParseUint(string(b[i:i+4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

func decodeRaw(b []byte, i int, v reflect.Value) int {
	end := rawjson.SkipValue(b, i)
	if end < 0 {
		return giveUp
	}
	v.SetBytes(append(json.RawMessage(nil), b[i:end]...))
	return end
}

func decodeInterface(b []byte, i int, v reflect.Value) int {
	x, end := anyAt(b, i)
	if x != nil && end != giveUp {
		v.Set(reflect.ValueOf(x))
	}
	return end
}

// anyAt decodes the value at b[i] into the types that encoding/json uses for interfaces.
func anyAt(b []byte, i int) (x any, end int) {
	switch c := at(b, i); c {
	case '"':
		return stringAt(b, i)
	case 't':
		return true, literal(b, i, "true")
	case 'f':
		return false, literal(b, i, "false")
	case 'n':
		return nil, null(b, i)
	case '[':
		return listAt(b, i)
	case '{':
		return objectAt(b, i)
	}
	if end = numberEnd(b, i); end == i {
		return nil, giveUp
	}
	f, err := strconv.ParseFloat(string(b[i:end]), 64)
	if err != nil {
		return nil, giveUp
	}
	return f, end
}

func listAt(b []byte, i int) (list []any, end int) {
	list = []any{}
	return list, items(b, i, ']', func(i int) int {
		x, end := anyAt(b, i)
		list = append(list, x)
		return end
	})
}

func objectAt(b []byte, i int) (object map[string]any, end int) {
	object = map[string]any{}
	return object, items(b, i, '}', func(i int) int {
		key, i := keyAt(b, i)
		if i == giveUp {
			return giveUp
		}
		x, end := anyAt(b, i)
		n := len(object)
		if object[key] = x; len(object) == n { // encoding/json has rules for repeated keys
			return giveUp
		}
		return end
	})
}

// keyAt returns the key at b[i] and the index of its value.
func keyAt(b []byte, i int) (key string, value int) {
	key, i = stringAt(b, i)
	return key, valueAfter(b, i)
}

// valueAfter returns the index of the value whose key ends before b[i].
func valueAfter(b []byte, i int) int {
	if i == giveUp {
		return giveUp
	}
	if i = rawjson.SkipSpace(b, i); at(b, i) != ':' {
		return giveUp
	}
	return rawjson.SkipSpace(b, i+1)
}

// items calls item for each element of the array, or each member of the object, at b[i]. item
// receives the index of the element or key, and returns the index after the element or member.
// items returns the index after the closing bracket, or giveUp.
func items(b []byte, i int, closing byte, item func(i int) int) (end int) {
	if i = rawjson.SkipSpace(b, i+1); at(b, i) == closing {
		return i + 1
	}
	for {
		if i = item(i); i == giveUp {
			return giveUp
		}
		switch i = rawjson.SkipSpace(b, i); at(b, i) {
		case closing:
			return i + 1
		case ',':
			i = rawjson.SkipSpace(b, i+1)
		default:
			return giveUp
		}
	}
}

func (p pointerCoder) decode(b []byte, i int, v reflect.Value) int {
	if at(b, i) == 'n' {
		return null(b, i)
	}
	target := reflect.New(v.Type().Elem())
	end := p.elem.decode(b, i, target.Elem())
	v.Set(target)
	return end
}

func (s sliceCoder) decode(b []byte, i int, v reflect.Value) int {
	if at(b, i) != '[' {
		return null(b, i)
	}
	n := 0
	end := items(b, i, ']', func(i int) int {
		if n == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(n + 1)
		n++
		return s.elem.decode(b, i, v.Index(n-1))
	})
	if n == 0 {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	return end
}

func (m mapCoder) decode(b []byte, i int, v reflect.Value) int {
	if at(b, i) != '{' {
		return null(b, i)
	}
	out := reflect.MakeMap(m.t)
	key, elem := reflect.New(m.t.Key()).Elem(), reflect.New(m.t.Elem()).Elem()
	end := items(b, i, '}', func(i int) int {
		name, i := keyAt(b, i)
		if i == giveUp {
			return giveUp
		}
		key.SetString(name)
		elem.SetZero()
		if i = m.elem.decode(b, i, elem); i == giveUp {
			return giveUp
		}
		n := out.Len()
		if out.SetMapIndex(key, elem); out.Len() == n { // encoding/json has rules for repeated keys
			return giveUp
		}
		return i
	})
	v.Set(out)
	return end
}

// fieldSet is a set of indexes of fields.
type fieldSet [maxFields / 64]uint64

// add adds n and reports whether the set already contained it.
func (s *fieldSet) add(n int) (twice bool) {
	bit := uint64(1) << (n % 64)
	twice = s[n/64]&bit != 0
	s[n/64] |= bit
	return twice
}

func (s *structCoder) decode(b []byte, i int, v reflect.Value) int {
	return s.decodeMembers(b, i, v, nil)
}

// decodeMembers is like decode, but also calls unknown, if not nil, for each member that is
// not a field.
func (s *structCoder) decodeMembers(b []byte, i int, v reflect.Value, unknown func(key, value []byte)) int {
	if at(b, i) != '{' {
		return null(b, i)
	}
	if i = rawjson.SkipSpace(b, i+1); at(b, i) == '}' {
		return i + 1
	}
	var seen fieldSet
	for next := 0; ; { // next is the field that follows in the type, and often in the text
		if at(b, i) != '"' {
			return giveUp
		}
		end := i + 1 + rawjson.PlainBytes(b[i+1:])
		if at(b, end) != '"' {
			return giveUp
		}
		key := b[i+1 : end]
		if i = valueAfter(b, end+1); i == giveUp {
			return giveUp
		}
		if n, found := s.field(key, next); found {
			if seen.add(n) {
				return giveUp
			}
			f := &s.fields[n]
			i, next = f.coder.decode(b, i, v.Field(f.index)), n+1
		} else if s.resembles(key) {
			return giveUp
		} else {
			start := i
			if i = rawjson.SkipValue(b, i); i >= 0 && unknown != nil {
				unknown(key, b[start:i])
			}
		}
		if i < 0 {
			return giveUp
		}
		switch i = rawjson.SkipSpace(b, i); at(b, i) {
		case '}':
			return i + 1
		case ',':
			i = rawjson.SkipSpace(b, i+1)
		default:
			return giveUp
		}
	}
}

// field returns the index of the field named key. It first checks the field at index next.
func (s *structCoder) field(key []byte, next int) (n int, found bool) {
	if next < len(s.fields) && s.fields[next].name == string(key) {
		return next, true
	}
	n, found = s.byName[string(key)]
	return n, found
}

// resembles reports whether encoding/json might assign key to a field, even though no field
// has exactly that name.
func (s *structCoder) resembles(key []byte) bool {
	for _, c := range key {
		if c >= utf8.RuneSelf {
			return true
		}
	}
	var room [64]byte
	folded := appendFolded(room[:0], key)
	return len(folded) <= s.longest && s.folded[string(folded)]
}
