// Package rawjson validates, splits and writes JSON without decoding it.
//
// One pass over a message checks the JSON grammar and returns the values of the message's
// members as raw JSON. Only the payload's consumer decodes the payload. All functions are safe
// for concurrent use. None of them modifies or retains its input.
package rawjson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
)

// MaxDepth is the maximum nesting depth that [ScanObject] and [Valid] accept. Each level takes
// a stack frame. The engine itself accepts only 127 levels.
const MaxDepth = 1000

var (
	errTruncated = errors.New("JSON ends early")
	errTooDeep   = errors.New("JSON is nested too deeply")
)

// ScanObject calls field for each member of the JSON object b, in order. key is the text
// between the quotes, with its escapes, and value is raw JSON. Both are slices of b. If b is
// not a single JSON object of at most [MaxDepth] levels, ScanObject returns an error, possibly
// after calls to field. Invalid UTF-8 is accepted.
func ScanObject(b []byte, field func(key, value []byte)) error {
	var s scanner
	return s.scanObject(b, 0, field)
}

// scanObject is like ScanObject, but counts levels as if b were nested depth levels deep.
func (s *scanner) scanObject(b []byte, depth int, field func(key, value []byte)) error {
	i := SkipSpace(b, 0)
	if i == len(b) {
		return errTruncated
	}
	if b[i] != '{' {
		return fmt.Errorf("JSON is not an object: it begins with %q", b[i])
	}
	i = SkipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return scanEnd(b, i+1)
	}
	for {
		start := i
		var err error
		if i, err = s.skipString(b, i); err != nil {
			return err
		}
		key := b[start+1 : i-1]
		if i = SkipSpace(b, i); i == len(b) {
			return errTruncated
		}
		if b[i] != ':' {
			return unexpected(b, i)
		}
		start = SkipSpace(b, i+1)
		if i, err = s.skipValue(b, start, depth+1); err != nil {
			return err
		}
		field(key, b[start:i])
		if i = SkipSpace(b, i); i == len(b) {
			return errTruncated
		}
		if b[i] == '}' {
			return scanEnd(b, i+1)
		}
		if b[i] != ',' {
			return unexpected(b, i)
		}
		if i = SkipSpace(b, i+1); i == len(b) {
			return errTruncated
		}
		if start = i; b[i] != '"' {
			return unexpected(b, i)
		}
	}
}

// Valid reports whether b is a single JSON value of at most [MaxDepth] levels. It accepts
// invalid UTF-8, and white space around the value.
func Valid(b []byte) bool {
	var s scanner
	i, err := s.skipValue(b, SkipSpace(b, 0), 0)
	return err == nil && scanEnd(b, i) == nil
}

// SkipValue returns the index after the JSON value that begins at b[i]. If the value is
// invalid or nested more than [MaxDepth] levels deep, SkipValue returns -1.
func SkipValue(b []byte, i int) int {
	var s scanner
	end, err := s.skipValue(b, i, 0)
	if err != nil {
		return -1
	}
	return end
}

func scanEnd(b []byte, i int) error {
	if i = SkipSpace(b, i); i < len(b) {
		return unexpected(b, i)
	}
	return nil
}

func unexpected(b []byte, i int) error {
	return fmt.Errorf("unexpected %q at byte %d", b[i], i)
}

// SkipSpace returns the index of the first byte at or after i that is not JSON white space. If
// there is none, it returns len(b).
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

type scanner struct {
	special bool // set by a \u escape, or a number that may be out of range
}

// skipValue returns the index after the value that begins at i.
func (s *scanner) skipValue(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return i, errTruncated
	}
	switch c := b[i]; {
	case c == '"':
		return s.skipString(b, i)
	case c == '{' || c == '[':
		return s.skipNested(b, i, depth)
	case c == '-' || '0' <= c && c <= '9':
		return s.skipNumber(b, i)
	case c == 't':
		return skipLiteral(b, i, "true")
	case c == 'f':
		return skipLiteral(b, i, "false")
	case c == 'n':
		return skipLiteral(b, i, "null")
	}
	return i, unexpected(b, i)
}

func (s *scanner) skipNested(b []byte, i, depth int) (int, error) {
	if depth >= MaxDepth {
		return i, errTooDeep
	}
	object := b[i] == '{'
	closing := byte(']')
	if object {
		closing = '}'
	}
	if i = SkipSpace(b, i+1); i < len(b) && b[i] == closing {
		return i + 1, nil
	}
	for {
		var err error
		if object {
			if i, err = s.skipString(b, i); err != nil {
				return i, err
			}
			if i = SkipSpace(b, i); i == len(b) {
				return i, errTruncated
			}
			if b[i] != ':' {
				return i, unexpected(b, i)
			}
			i = SkipSpace(b, i+1)
		}
		if i, err = s.skipValue(b, i, depth+1); err != nil {
			return i, err
		}
		if i = SkipSpace(b, i); i == len(b) {
			return i, errTruncated
		}
		if b[i] == closing {
			return i + 1, nil
		}
		if b[i] != ',' {
			return i, unexpected(b, i)
		}
		i = SkipSpace(b, i+1)
	}
}

// stringByte marks the bytes that need no escape in a string.
var stringByte = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return t
}()

// PlainBytes returns the number of bytes before the first quote, backslash or control
// character in b. These bytes need no escape in a JSON string. Large messages consist mostly
// of strings, so PlainBytes examines eight bytes at a time. For long strings, it uses the
// faster searches of package bytes.
func PlainBytes(b []byte) (n int) {
	const first = 256
	if n = plainWords(b[:min(first, len(b))]); n < first {
		return n
	}
	for window := 2 * first; n < len(b); window = min(2*window, 8<<10) { // limits each search
		w := b[n:min(n+window, len(b))]
		plain := len(w)
		for _, c := range []byte{'"', '\\'} {
			if i := bytes.IndexByte(w[:plain], c); i >= 0 {
				plain = i
			}
		}
		plain = beforeControl(w[:plain])
		n += plain
		if plain < len(w) {
			break
		}
	}
	return n
}

// plainWords is like PlainBytes, but optimized for short strings.
func plainWords(b []byte) (n int) {
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, backslash := w^'"'*ones, w^'\\'*ones
		if m := ((w-' '*ones)&^w | (quote-ones)&^quote | (backslash-ones)&^backslash) & (0x80 * ones); m != 0 {
			return n + bits.TrailingZeros64(m)/8
		}
	}
	for n < len(b) && stringByte[b[n]] {
		n++
	}
	return n
}

// beforeControl returns the number of bytes before the first control character in b.
func beforeControl(b []byte) (n int) {
	for ; len(b)-n >= 32; n += 32 {
		w := b[n : n+32]
		b0, b1 := binary.LittleEndian.Uint64(w), binary.LittleEndian.Uint64(w[8:])
		b2, b3 := binary.LittleEndian.Uint64(w[16:]), binary.LittleEndian.Uint64(w[24:])
		if ((b0-' '*ones)&^b0|(b1-' '*ones)&^b1|(b2-' '*ones)&^b2|(b3-' '*ones)&^b3)&(0x80*ones) != 0 {
			break
		}
	}
	for n < len(b) && b[n] >= ' ' {
		n++
	}
	return n
}

func (s *scanner) skipString(b []byte, i int) (int, error) {
	if i >= len(b) {
		return i, errTruncated
	}
	if b[i] != '"' {
		return i, unexpected(b, i)
	}
	i++
	for {
		short := min(i+16, len(b)) // most strings are short
		for i < short && stringByte[b[i]] {
			i++
		}
		if i == short {
			if i += PlainBytes(b[i:]); i == len(b) {
				return i, errTruncated
			}
		}
		switch b[i] {
		case '"':
			return i + 1, nil
		case '\\':
			if i+1 >= len(b) {
				return i, errTruncated
			}
			switch b[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				s.special = true
				if i+6 > len(b) {
					return i, errTruncated
				}
				for _, c := range b[i+2 : i+6] {
					if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
						return i, unexpected(b, i)
					}
				}
				i += 6
			default:
				return i, unexpected(b, i+1)
			}
		default:
			return i, unexpected(b, i)
		}
	}
}

func (s *scanner) skipNumber(b []byte, i int) (int, error) {
	first := i
	if b[i] == '-' {
		i++
	}
	digits := func() bool {
		start := i
		for i < len(b) && '0' <= b[i] && b[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return numberError(b, i)
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return numberError(b, i)
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		s.special = true
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return numberError(b, i)
		}
	}
	s.special = s.special || i-first > manyDigits
	return i, nil
}

func numberError(b []byte, i int) (int, error) {
	if i >= len(b) {
		return i, errTruncated
	}
	return i, unexpected(b, i)
}

func skipLiteral(b []byte, i int, text string) (int, error) {
	if len(b)-i < len(text) {
		return i, errTruncated
	}
	if string(b[i:i+len(text)]) != text {
		return i, unexpected(b, i)
	}
	return i + len(text), nil
}

// Absent reports whether raw is empty or null. Both mean that an optional member is absent.
// raw must be empty or valid JSON.
func Absent(raw []byte) bool { return len(raw) == 0 || raw[0] == 'n' }

// Unquote decodes raw, which must be a valid JSON value. If raw is not a string, ok is false.
// Invalid UTF-8 and unpaired surrogates become U+FFFD.
func Unquote(raw []byte) (s string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	inner := raw[1 : len(raw)-1]
	for _, c := range inner {
		if c == '\\' || c >= 0x80 { // encoding/json also checks the UTF-8
			err := json.Unmarshal(raw, &s)
			return s, err == nil
		}
	}
	return string(inner), true
}
