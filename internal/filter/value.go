package filter

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// kind is the type of a JSON value.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

// String returns the kind's name as it appears in error messages.
func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// value is a decoded JSON value. Filters, operands and schemas are decoded; documents are not.
type value struct {
	kind   kind
	truth  bool     // the value of a boolean
	beyond bool     // the number is outside ±2^53; exact for integers
	num    float64  // the value of a number
	text   string   // the value of a string, or the canonical form of a number
	list   []member // the elements of an array, or the members of an object sorted by key, each key once
}

// member is a member of an object or an element of an array. An element has an empty key.
type member struct {
	key string
	value
}

// get returns the member with the given key. It returns nil if v is not an object or lacks the
// key.
func (v *value) get(key string) *value {
	if v.kind != object {
		return nil
	}
	i, ok := slices.BinarySearchFunc(v.list, key, func(m member, key string) int { return cmp.Compare(m.key, key) })
	if !ok {
		return nil
	}
	return &v.list[i].value
}

// scalar reports whether v is neither an array nor an object.
func (v *value) scalar() bool { return v.kind < array }

// depth returns how deeply arrays and objects are nested in v. Its recursion is bounded,
// because the decoder limits the depth to maxDepth.
func (v *value) depth() int {
	if v.scalar() {
		return 0
	}
	deepest := 0
	for i := range v.list {
		deepest = max(deepest, v.list[i].depth())
	}
	return deepest + 1
}

// appendText appends the canonical encoding of v: compact, with sorted keys, and with equal
// numbers and equal strings always encoded alike.
func (v *value) appendText(dst []byte) []byte {
	switch v.kind {
	case null:
		return append(dst, "null"...)
	case boolean:
		return strconv.AppendBool(dst, v.truth)
	case number:
		return append(dst, v.text...)
	case text:
		return appendString(dst, v.text)
	case array:
		dst = append(dst, '[')
		for i := range v.list {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = v.list[i].appendText(dst)
		}
		return append(dst, ']')
	}
	dst = append(dst, '{')
	for i := range v.list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, v.list[i].key), ':')
		dst = v.list[i].appendText(dst)
	}
	return append(dst, '}')
}

// appendString appends s as a JSON string, escaping only quotes, backslashes and control
// characters. [rawjson.AppendString] escapes some control characters differently, which would
// change the order of clauses.
func appendString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

// maxDepth bounds the decoder's recursion. It exceeds maxNesting so that a filter's size can
// be checked before its nesting.
const maxDepth = 10_000

var errTruncated = errors.New("the text ends early")

// decoder parses the JSON text s. Integers, and strings without escapes, are returned as
// substrings of s rather than as copies.
type decoder struct {
	s       string
	i       int
	deepest int // greatest depth so far, including values of repeated keys
	// stack holds the members of arrays and objects that are still being read. When an array
	// or object is complete, its members are copied to memory taken from room.
	stack, room []member
}

// keep removes stack[base:] and returns a copy of it.
func (d *decoder) keep(base int) []member {
	kept := take(&d.room, len(d.stack)-base)
	copy(kept, d.stack[base:])
	d.stack = d.stack[:base]
	return kept
}

// take allocates n elements from room, the unused part of the last allocation. Allocation
// sizes double up to 64 elements, so that small slices share an allocation.
func take[T any](room *[]T, n int) []T {
	if n > cap(*room)-len(*room) {
		*room = make([]T, 0, max(n, min(2*cap(*room), 64)))
	}
	start := len(*room)
	*room = (*room)[:start+n]
	return (*room)[start : start+n : start+n]
}

// decode parses one JSON value. Like the engine and unlike encoding/json, it rejects invalid
// UTF-8, unpaired surrogates and numbers that overflow a double.
func decode(raw []byte) (v value, deepest int, err error) {
	if !utf8.Valid(raw) {
		return v, 0, errors.New("the text is not UTF-8")
	}
	// A nonempty array or object has one element more than it has commas, so n is an upper
	// bound on the total number of elements.
	n := bytes.Count(raw, []byte{','}) + bytes.Count(raw, []byte{'{'}) + bytes.Count(raw, []byte{'['})
	d := decoder{s: string(raw), stack: make([]member, 0, min(n, 64)), room: make([]member, 0, min(n, 256))}
	if v, err = d.value(0); err != nil {
		return v, 0, err
	}
	if d.space(); d.i < len(d.s) {
		return v, 0, d.unexpected()
	}
	return v, d.deepest, nil
}

func (d *decoder) space() {
	for d.i < len(d.s) && (d.s[d.i] == ' ' || d.s[d.i] == '\n' || d.s[d.i] == '\r' || d.s[d.i] == '\t') {
		d.i++
	}
}

func (d *decoder) unexpected() error {
	if d.i >= len(d.s) {
		return errTruncated
	}
	r, _ := utf8.DecodeRuneInString(d.s[d.i:])
	return fmt.Errorf("unexpected %q at byte %d", r, d.i)
}

// next skips white space and returns the byte that follows, without consuming it. At the end
// of the text it returns 0.
func (d *decoder) next() byte {
	d.space()
	if d.i == len(d.s) {
		return 0
	}
	return d.s[d.i]
}

func (d *decoder) value(depth int) (v value, err error) {
	switch c := d.next(); {
	case c == '"':
		v.kind = text
		v.text, err = d.string()
	case c == '{' || c == '[':
		if depth == maxDepth {
			return v, fmt.Errorf("more than %d levels", maxDepth)
		}
		d.deepest = max(d.deepest, depth+1)
		d.i++
		if c == '[' {
			v.kind = array
			v.list, err = d.array(depth + 1)
		} else {
			v.kind = object
			v.list, err = d.object(depth + 1)
		}
	case c == '-' || isDigit(c):
		err = d.number(&v)
	case c == 't':
		v.kind, v.truth = boolean, true
		err = d.literal("true")
	case c == 'f':
		v.kind = boolean
		err = d.literal("false")
	case c == 'n':
		err = d.literal("null")
	default:
		err = d.unexpected()
	}
	return v, err
}

func (d *decoder) literal(word string) error {
	for j := range len(word) {
		if d.i == len(d.s) || d.s[d.i] != word[j] {
			return d.unexpected()
		}
		d.i++
	}
	return nil
}

func (d *decoder) array(depth int) ([]member, error) {
	if d.next() == ']' {
		d.i++
		return nil, nil
	}
	base := len(d.stack)
	for {
		v, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		d.stack = append(d.stack, member{value: v})
		switch d.next() {
		case ',':
			d.i++
		case ']':
			d.i++
			return d.keep(base), nil
		default:
			return nil, d.unexpected()
		}
	}
}

func (d *decoder) object(depth int) ([]member, error) {
	if d.next() == '}' {
		d.i++
		return nil, nil
	}
	sorted := true
	base := len(d.stack)
	for {
		if d.next() != '"' {
			return nil, d.unexpected()
		}
		key, err := d.string()
		if err != nil {
			return nil, err
		}
		if d.next() != ':' {
			return nil, d.unexpected()
		}
		d.i++
		v, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		if n := len(d.stack); n > base && d.stack[n-1].key >= key {
			sorted = false
		}
		d.stack = append(d.stack, member{key, v})
		switch d.next() {
		case ',':
			d.i++
		case '}':
			d.i++
			kept := d.keep(base)
			if !sorted {
				kept = sortMembers(kept)
			}
			return kept, nil
		default:
			return nil, d.unexpected()
		}
	}
}

// sortMembers sorts members by key. Of members with equal keys, it keeps the last.
func sortMembers(all []member) []member {
	slices.SortStableFunc(all, func(a, b member) int { return cmp.Compare(a.key, b.key) })
	kept := all[:0]
	for i := range all {
		if i+1 == len(all) || all[i+1].key != all[i].key {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// string parses the string whose opening quote is at d.i.
func (d *decoder) string() (string, error) {
	start := d.i + 1
	for i := start; i < len(d.s); i++ {
		switch c := d.s[i]; {
		case c == '"':
			d.i = i + 1
			return d.s[start:i], nil
		case c == '\\':
			return d.escaped(start, i)
		case c < ' ':
			d.i = i
			return "", d.unexpected()
		}
	}
	return "", errTruncated
}

// escaped parses the rest of a string from its first backslash, which is at i. The contents of
// the string begin at start.
func (d *decoder) escaped(start, i int) (string, error) {
	b := append(make([]byte, 0, i-start+32), d.s[start:i]...)
	for d.i = i; d.i < len(d.s); {
		switch c := d.s[d.i]; {
		case c == '"':
			d.i++
			return string(b), nil
		case c < ' ':
			return "", d.unexpected()
		case c != '\\':
			b = append(b, c)
			d.i++
			continue
		}
		if d.i+1 == len(d.s) {
			return "", errTruncated
		}
		if c := d.s[d.i+1]; c != 'u' {
			plain, ok := unescaped(c)
			if !ok {
				d.i++
				return "", d.unexpected()
			}
			b = append(b, plain)
			d.i += 2
			continue
		}
		at := d.i
		r, ok := unicodeEscape(d.s, d.i)
		if !ok {
			return "", fmt.Errorf("incomplete escape at byte %d", at)
		}
		d.i += 6
		if utf16.IsSurrogate(r) {
			low, _ := unicodeEscape(d.s, d.i)
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return "", fmt.Errorf("unpaired surrogate at byte %d", at)
			}
			d.i += 6
		}
		b = utf8.AppendRune(b, r)
	}
	return "", errTruncated
}

// unescaped returns the character that c denotes after a backslash. It does not handle \u.
func unescaped(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// unicodeEscape decodes the escape \uXXXX at i into a UTF-16 code unit.
func unicodeEscape[T string | []byte](s T, i int) (rune, bool) {
	if len(s)-i < 6 || s[i] != '\\' || s[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for j := i + 2; j < i+6; j++ {
		c := s[j]
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// maxNumber is the largest magnitude of a number in an operand, 2^53.
const maxNumber = 1 << 53

func (d *decoder) number(v *value) error {
	start := d.i
	negative := d.s[d.i] == '-'
	if negative {
		d.i++
	}
	// n is valid only while exact is true.
	var n uint64
	exact := true
	digits := func() bool {
		first := d.i
		for ; d.i < len(d.s) && isDigit(d.s[d.i]); d.i++ {
			c := uint64(d.s[d.i] - '0')
			if n > (math.MaxUint64-c)/10 {
				exact = false
			}
			n = n*10 + c
		}
		return d.i > first
	}
	if d.i < len(d.s) && d.s[d.i] == '0' {
		d.i++
	} else if !digits() {
		return d.unexpected()
	}
	if d.i < len(d.s) && d.s[d.i] == '.' {
		exact = false
		if d.i++; !digits() {
			return d.unexpected()
		}
	}
	if d.i < len(d.s) && d.s[d.i]|0x20 == 'e' {
		exact = false
		if d.i++; d.i < len(d.s) && (d.s[d.i] == '+' || d.s[d.i] == '-') {
			d.i++
		}
		if !digits() {
			return d.unexpected()
		}
	}
	v.kind = number
	spelling := d.s[start:d.i]
	if exact && (!negative || 0 < n && n <= 1<<63) {
		v.text, v.num, v.beyond = spelling, float64(n), n > maxNumber
		if negative {
			v.num = -v.num
		}
		return nil
	}
	f, err := strconv.ParseFloat(spelling, 64)
	if err != nil {
		return fmt.Errorf("the number at byte %d is out of range", start)
	}
	v.num, v.beyond = f, math.Abs(f) > maxNumber
	v.text = string(rawjson.AppendFloat(nil, f))
	return nil
}
