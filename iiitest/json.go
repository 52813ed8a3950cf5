package iiitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// maxDepth is the nesting limit of the engine's JSON parser.
const maxDepth = 127

// canonical returns raw as a real engine writes JSON: keys sorted bytewise, no white space,
// only the last of duplicate keys, strings with only the required escapes, and numbers as
// 64-bit integers where possible and otherwise as floats.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	return canonicalValid(raw), nil
}

// canonicalValid is like canonical, for valid JSON.
func canonicalValid(raw json.RawMessage) json.RawMessage {
	out, _ := appendCanonical(make([]byte, 0, len(raw)), raw, 0)
	return out
}

// withKey sets a key in a canonical value if the value is an object. The key needs no escapes.
func withKey(raw json.RawMessage, key string, value json.RawMessage) json.RawMessage {
	if kindOf(raw) != '{' {
		return raw
	}
	s := scanner{raw, 1}
	for s.next() == '"' { // skip the keys before it
		start := s.i
		k := unquoteBytes(s.str())
		if string(k) >= key {
			rest := raw[start:]
			if string(k) == key {
				s.i++ // :
				s.value()
				rest = bytes.TrimPrefix(raw[s.i:], []byte(","))
			}
			return insertMember(raw[:start], key, value, rest)
		}
		s.i++ // :
		s.value()
		if s.next() == ',' {
			s.i++
		}
	}
	return insertMember(raw[:s.i], key, value, raw[s.i:])
}

// insertMember inserts a member between the beginning and the rest of an object.
func insertMember(begin []byte, key string, value json.RawMessage, rest []byte) json.RawMessage {
	dst := append(make([]byte, 0, len(begin)+len(key)+len(value)+len(rest)+5), begin...)
	if c := begin[len(begin)-1]; c != '{' && c != ',' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), key...), `":`...)
	if dst = append(dst, value...); rest[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, rest...)
}

// checkJSON rejects the same input as a real engine's parser, with the same error messages.
func checkJSON(raw []byte) error {
	if reason := syntaxError(raw); reason != "" {
		return errors.New(reason)
	}
	return nil
}

// scanner reads valid JSON.
type scanner struct {
	b []byte
	i int
}

// next skips white space and returns the next byte without consuming it, or 0 at the end.
func (s *scanner) next() byte {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return s.b[s.i]
		}
	}
	return 0
}

// str consumes a string and returns it with its quotes.
func (s *scanner) str() []byte {
	start := s.i
	for s.i++; s.i < len(s.b); s.i++ {
		s.i += rawjson.PlainBytes(s.b[s.i:])
		if s.i == len(s.b) {
			break
		}
		switch s.b[s.i] {
		case '\\':
			s.i++
		case '"':
			s.i++
			return s.b[start:s.i]
		}
	}
	return s.b[start:]
}

// value consumes a value of any kind.
func (s *scanner) value() json.RawMessage {
	c := s.next()
	start := s.i
	switch c {
	case '"':
		return s.str()
	case '{', '[':
		for depth := 0; s.i < len(s.b); {
			switch s.b[s.i] {
			case '"':
				s.str()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			s.i++
			if depth == 0 {
				break
			}
		}
	default:
		for s.i < len(s.b) && !endsScalar[s.b[s.i]] {
			s.i++
		}
	}
	return s.b[start:s.i]
}

// endsScalar marks the bytes that end a number or a literal.
var endsScalar = [256]bool{' ': true, '\t': true, '\r': true, '\n': true, ',': true, ']': true, '}': true}

// member is a member of an object. Its key is decoded.
type member struct {
	key   []byte
	value json.RawMessage
}

// fewMembers is the capacity of lists on the stack. It suffices for most objects.
const fewMembers = 16

// list consumes an object and appends its members to list, in order. A key can occur more than
// once.
func (s *scanner) list(list []member) []member {
	s.next()
	s.i++ // {
	for s.next() == '"' {
		key := unquoteBytes(s.str())
		s.next()
		s.i++ // :
		list = append(list, member{key, s.value()})
		if s.next() == ',' {
			s.i++
		}
	}
	s.i++ // }
	return list
}

// members consumes an object and returns its members. If a key occurs more than once, the last
// value is used.
func (s *scanner) members() map[string]json.RawMessage {
	var room [fewMembers]member
	list := s.list(room[:0])
	m := make(map[string]json.RawMessage, len(list))
	for _, one := range list {
		m[string(one.key)] = one.value
	}
	return m
}

// valueOf returns the value of the last member with a key, or nil.
func valueOf(members []member, key string) json.RawMessage {
	for _, m := range slices.Backward(members) {
		if string(m.key) == key {
			return m.value
		}
	}
	return nil
}

// sorted sorts members by key. If several members have the same key, it keeps only the last of
// them.
func sorted(list []member) []member {
	if slices.IsSortedFunc(list, func(next, previous member) int { return cmp.Or(bytes.Compare(next.key, previous.key), -1) }) {
		return list
	}
	slices.SortStableFunc(list, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	kept := list[:0]
	for i, m := range list {
		if i+1 == len(list) || !bytes.Equal(m.key, list[i+1].key) {
			kept = append(kept, m)
		}
	}
	return kept
}

// sortedMembers returns a map's members, sorted by key.
func sortedMembers(members map[string]json.RawMessage) []member {
	list := make([]member, 0, len(members))
	for k, v := range members {
		list = append(list, member{[]byte(k), v})
	}
	return sorted(list)
}

// appendCanonical appends the value that begins at b[i], possibly after white space, in
// canonical form. It also returns the index after the value.
func appendCanonical(dst, b []byte, i int) ([]byte, int) {
	s := scanner{b, i}
	switch s.next() {
	case '"':
		text := s.str()
		if bytes.IndexByte(text, '\\') < 0 {
			return append(dst, text...), s.i
		}
		return appendString(dst, unquote(text)), s.i
	case '{':
		var room [fewMembers]member
		dst = append(dst, '{')
		for i, m := range sorted(s.list(room[:0])) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst, _ = appendCanonical(append(appendKey(dst, m.key), ':'), m.value, 0)
		}
		return append(dst, '}'), s.i
	case '[':
		dst = append(dst, '[')
		s.i++
		for first := true; s.next() != ']' && s.i < len(s.b); first = false {
			if !first {
				s.i++ // ,
				dst = append(dst, ',')
			}
			dst, s.i = appendCanonical(dst, s.b, s.i)
		}
		return append(dst, ']'), s.i + 1
	case 't', 'f', 'n':
		return append(dst, s.value()...), s.i
	default:
		return rawjson.AppendNumber(dst, s.value()), s.i
	}
}

func appendMembers(dst []byte, members []member) []byte {
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendKey(dst, m.key), ':')
		dst = append(dst, m.value...)
	}
	return append(dst, '}')
}

// appendKey is appendString for a key.
func appendKey(dst, key []byte) []byte {
	if rawjson.PlainBytes(key) < len(key) || !utf8.Valid(key) {
		return appendString(dst, string(key))
	}
	return append(append(append(dst, '"'), key...), '"')
}

// decodedKey decodes a key without its quotes.
func decodedKey(key []byte) []byte {
	if bytes.IndexByte(key, '\\') < 0 {
		return key
	}
	return unquoteBytes(slices.Concat([]byte{'"'}, key, []byte{'"'}))
}

func unquote(text []byte) string { return string(unquoteBytes(text)) }

// unquoteBytes decodes a string. The result may share memory with text.
func unquoteBytes(text []byte) []byte {
	if bytes.IndexByte(text, '\\') < 0 && len(text) >= 2 {
		return text[1 : len(text)-1]
	}
	var s string
	_ = json.Unmarshal(text, &s)
	return []byte(s)
}

// membersOf returns an object's members, or nil for any other value.
func membersOf(raw json.RawMessage) map[string]json.RawMessage {
	if kindOf(raw) != '{' {
		return nil
	}
	return (&scanner{b: raw}).members()
}

// memberOf returns a member of an object, or nil.
func memberOf(raw json.RawMessage, key string) json.RawMessage {
	var room [fewMembers]member
	return valueOf(listOf(raw, room[:0]), key)
}

// listOf appends an object's members to list. For any other value, it appends nothing.
func listOf(raw json.RawMessage, list []member) []member {
	if kindOf(raw) != '{' {
		return list
	}
	return (&scanner{b: raw}).list(list)
}

// stringOf returns the contents of a JSON string, or "" for any other value.
func stringOf(raw json.RawMessage) string {
	if kindOf(raw) != '"' {
		return ""
	}
	return unquote(raw)
}

// countOf decodes a non-negative integer. It returns false for any other value.
func countOf(raw json.RawMessage) (uint64, bool) {
	n, err := strconv.ParseUint(string(raw), 10, 64)
	return n, err == nil
}

// appendString appends s as a JSON string with only the escapes that JSON requires. Bytes that
// are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	kept := 0 // s[:kept] has been appended
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[kept:i]...), "\uFFFD"...)
				kept = i + 1
			}
			i += size
			continue
		}
		dst = append(dst, s[kept:i]...)
		if j := strings.IndexByte("\"\\\b\f\n\r\t", c); j >= 0 {
			dst = append(dst, '\\', `"\bfnrt`[j])
		} else {
			dst = append(dst, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		}
		i++
		kept = i
	}
	return append(append(dst, s[kept:]...), '"')
}

// encode encodes v with only the escapes that JSON requires. Map keys are sorted.
func encode(v any) (json.RawMessage, error) {
	if s, ok := v.(string); ok {
		return appendString(make([]byte, 0, len(s)+2), s), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return unescapeJSON(bytes.TrimRight(b.Bytes(), "\n")), nil
}

// unescapeJSON replaces the escapes of U+2028, U+2029 and U+FFFD with the characters
// themselves. JSON does not require these escapes, but encoding/json writes them. It writes
// the escape of U+FFFD for bytes that are not UTF-8.
func unescapeJSON(b []byte) []byte {
	if !bytes.Contains(b, []byte(`\u202`)) && !bytes.Contains(b, []byte(`\ufffd`)) {
		return b
	}
	out := b[:0]
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		n := 6
		switch rest := b[i:]; {
		case bytes.HasPrefix(rest, []byte(`\u2028`)):
			out = append(out, "\u2028"...)
		case bytes.HasPrefix(rest, []byte(`\u2029`)):
			out = append(out, "\u2029"...)
		case bytes.HasPrefix(rest, []byte(`\ufffd`)):
			out = append(out, "\ufffd"...)
		default:
			n = 2 // an escaped backslash does not start another escape
			out = append(out, rest[:2]...)
		}
		i += n - 1
	}
	return out
}

// mustEncode encodes a value built by the engine. It panics if the value cannot be encoded.
func mustEncode(v any) json.RawMessage {
	b, err := encode(v)
	if err != nil {
		panic("iiitest: " + err.Error())
	}
	return b
}

// object builds a JSON object. Keys appear in the order in which they are added.
type object struct{ b []byte }

// message starts a protocol message of the given type.
func message(typ string) *object { return largeMessage(typ, 0) }

// messageOverhead is the room that a message needs in addition to its largest values.
const messageOverhead = 240

// largeMessage is like message, but reserves room for values of the given total length.
func largeMessage(typ string, length int) *object {
	o := &object{b: make([]byte, 0, length+messageOverhead)}
	return o.str("type", typ)
}

// key adds a key that needs no escapes: one of the protocol's own, or a header name.
func (o *object) key(k string) {
	switch {
	case o.b == nil:
		o.b = append(make([]byte, 0, 128), '{')
	case len(o.b) == 0:
		o.b = append(o.b, '{')
	default:
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), k...), `":`...)
}

func (o *object) str(k, v string) *object {
	o.key(k)
	o.b = appendString(o.b, v)
	return o
}

// optStr adds a string unless it is empty.
func (o *object) optStr(k, v string) *object {
	if v == "" {
		return o
	}
	return o.str(k, v)
}

// raw adds a JSON value unless it is nil.
func (o *object) raw(k string, v json.RawMessage) *object {
	if v == nil {
		return o
	}
	o.key(k)
	o.b = append(o.b, v...)
	return o
}

func (o *object) bytes() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b, '}')
}
