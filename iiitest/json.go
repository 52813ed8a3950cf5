package iiitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// maxDepth is the nesting limit of the engine's JSON parser.
const maxDepth = 127

// canonical returns raw as the engine writes JSON: keys sorted bytewise, no white space, only
// the last of duplicate keys, strings with only the required escapes, and numbers as 64-bit
// integers where possible and otherwise as floats.
func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	return canonicalValid(raw), nil
}

// canonicalValid is like canonical, for JSON known to be valid.
func canonicalValid(raw json.RawMessage) json.RawMessage {
	s := scanner{b: raw}
	return s.appendValue(make([]byte, 0, len(raw)))
}

// withKey sets a key of a canonical value if the value is an object.
func withKey(raw json.RawMessage, key string, value json.RawMessage) json.RawMessage {
	if kindOf(raw) != '{' {
		return raw
	}
	members := (&scanner{b: raw}).members()
	members[key] = value
	return appendMembers(make([]byte, 0, len(raw)+len(key)+len(value)+4), members)
}

// checkJSON rejects the same input as the engine's parser, with the same error messages.
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
		for s.i < len(s.b) && !bytes.ContainsRune([]byte(" \t\r\n,]}"), rune(s.b[s.i])) {
			s.i++
		}
	}
	return s.b[start:s.i]
}

// members consumes an object and returns its members. The last of duplicate keys wins.
func (s *scanner) members() map[string]json.RawMessage {
	m, _ := s.membersOf(nil)
	return m
}

// membersOf is like members. It also returns the first duplicate key that known accepts.
func (s *scanner) membersOf(known func(key string) bool) (m map[string]json.RawMessage, twice string) {
	m = make(map[string]json.RawMessage)
	s.next()
	s.i++ // {
	for s.next() == '"' {
		key := unquote(s.str())
		s.next()
		s.i++ // :
		if _, again := m[key]; again && twice == "" && known != nil && known(key) {
			twice = key
		}
		m[key] = s.value()
		if s.next() == ',' {
			s.i++
		}
	}
	s.i++ // }
	return m, twice
}

// appendValue consumes a value and appends it in canonical form.
func (s *scanner) appendValue(dst []byte) []byte {
	switch s.next() {
	case '"':
		text := s.str()
		if bytes.IndexByte(text, '\\') < 0 {
			return append(dst, text...)
		}
		return appendString(dst, unquote(text))
	case '{':
		members := s.members()
		for k, v := range members {
			if c := kindOf(v); c == '{' || c == '[' || c == '0' || c == '"' && bytes.IndexByte(v, '\\') >= 0 {
				members[k] = canonicalValid(v)
			}
		}
		return appendMembers(dst, members)
	case '[':
		dst = append(dst, '[')
		s.i++
		for first := true; s.next() != ']' && s.i < len(s.b); first = false {
			if !first {
				s.i++ // ,
				dst = append(dst, ',')
			}
			dst = s.appendValue(dst)
		}
		s.i++
		return append(dst, ']')
	case 't', 'f', 'n':
		return append(dst, s.value()...)
	default:
		return rawjson.AppendNumber(dst, s.value())
	}
}

func appendMembers(dst []byte, members map[string]json.RawMessage) []byte {
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, k), ':')
		dst = append(dst, members[k]...)
	}
	return append(dst, '}')
}

func unquote(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 && len(text) >= 2 {
		return string(text[1 : len(text)-1])
	}
	var s string
	_ = json.Unmarshal(text, &s)
	return s
}

// membersOf returns the members of an object, or nil for any other value.
func membersOf(raw json.RawMessage) map[string]json.RawMessage {
	if kindOf(raw) != '{' {
		return nil
	}
	return (&scanner{b: raw}).members()
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
// themselves. JSON does not require these escapes, but encoding/json writes them, the last one
// in place of bytes that are not UTF-8.
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
func message(typ string) *object {
	return new(object).str("type", typ)
}

func (o *object) key(k string) {
	if len(o.b) == 0 {
		o.b = append(o.b, '{')
	} else {
		o.b = append(o.b, ',')
	}
	o.b = strconv.AppendQuote(o.b, k) // protocol keys are plain ASCII
	o.b = append(o.b, ':')
}

func (o *object) str(k, v string) *object { return o.raw(k, mustEncode(v)) }

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

func (o *object) bytes() []byte { return append(o.b, '}') }
