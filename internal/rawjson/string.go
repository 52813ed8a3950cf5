package rawjson

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. As in encoding/json, invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	return append(AppendEscaped(append(dst, '"'), s), '"')
}

// AppendEscaped appends s as the contents of a JSON string, without quotes.
//
// Most strings need no escapes, so AppendEscaped copies eight bytes at a time while it finds
// nothing to escape.
func AppendEscaped(b []byte, s string) []byte {
	n := len(s)
	if n == 0 {
		return b
	}
	if n >= longString {
		b = append(b, s...)
		text := b[len(b)-n:]
		plain := PlainBytes(text)
		if !utf8.Valid(text[:plain]) {
			plain = 0
		}
		if plain == n {
			return b
		}
		return appendEscapedSlow(b[:len(b)-n+plain], s[plain:])
	}
	b = slices.Grow(b, n+8)
	d := b[len(b):cap(b)]
	if n < 8 {
		w := loadUpTo64(s, 0)
		binary.LittleEndian.PutUint64(d, w)
		if special(w|' '*ones<<(8*n)) != 0 {
			return appendEscapedSlow(b, s)
		}
		return b[:len(b)+n]
	}
	for i := 0; i < n-8; i += 8 {
		w := load64(s, i)
		if special(w) != 0 {
			return appendEscapedSlow(b[:len(b)+i], s[i:])
		}
		binary.LittleEndian.PutUint64(d[i:], w)
	}
	w := load64(s, n-8)
	if special(w) != 0 {
		return appendEscapedSlow(b, s)
	}
	binary.LittleEndian.PutUint64(d[n-8:], w)
	return b[:len(b)+n]
}

// appendEscapedSlow is like AppendEscaped, but optimized for strings that need escapes, such
// as JSON payloads, which are full of quotes.
func appendEscapedSlow(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		// Reserve space for the rest of s, for some escapes, and for one word or escape
		// written past the end. If there are more escapes, the outer loop reserves more space.
		b = slices.Grow(b, len(s)-i+len(s)/8+16+maxEscape)
		d, n := b[:cap(b)], len(b)
		for room := cap(b) - 16 - maxEscape; i < len(s) && n+len(s)-i <= room; {
			k := min(8, len(s)-i)
			w := loadUpTo64(s, i)
			if k < 8 {
				w |= ' ' * ones << (8 * k)
			}
			if special(w) == 0 {
				binary.LittleEndian.PutUint64(d[n:], w)
				i, n = i+k, n+k
				continue
			}
			m := beyond(w)
			if m != 0 {
				k = bits.TrailingZeros64(m) / 8
			}
			n += escapeWord((*[16]byte)(d[n:]), w, k)
			i += k
			if m == 0 {
				continue
			}
			if c := s[i]; c < ' ' {
				n += copy(d[n:], controlEscapes[c])
				i++
				continue
			}
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				n += copy(d[n:], "\uFFFD")
			} else {
				n += copy(d[n:], s[i:i+size])
			}
			i += size
		}
		b = d[:n]
	}
	return b
}

// escapeWord writes the first k characters of w to d, with a backslash before each quote and
// backslash. It returns the number of bytes written. The loop has no branches, because the
// positions of quotes are unpredictable.
func escapeWord(d *[16]byte, w uint64, k int) int {
	n := 0
	for range k {
		c := byte(w)
		w >>= 8
		d[n&15] = '\\'
		n += int(quoted[c])
		d[n&15] = c
		n++
	}
	return n
}

// quoted is 1 for a character whose escape is a backslash followed by the character.
var quoted = [256]uint8{'"': 1, '\\': 1}

// longString is the minimum length at which [PlainBytes] is faster than examining the string
// while copying it.
const longString = 256

// maxEscape is the length of the longest escape of a single byte, such as \u001f.
const maxEscape = 6

// loadUpTo64 is like [load64], but replaces bytes beyond the end of s with zeros.
func loadUpTo64(s string, i int) uint64 {
	n := len(s)
	switch {
	case n-i >= 8:
		return load64(s, i)
	case n >= 8:
		return load64(s, n-8) >> (8 * (8 - (n - i)))
	case n >= 4: // the two halves overlap
		return (uint64(load32(s, 0)) | uint64(load32(s, n-4))<<(8*(n-4))) >> (8 * i)
	}
	return (uint64(s[0]) | uint64(s[n/2])<<(8*(n/2)) | uint64(s[n-1])<<(8*(n-1))) >> (8 * i)
}

// load32 returns s[i:i+4] in little-endian order.
func load32(s string, i int) uint32 {
	s = s[i : i+4]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

// load64 returns s[i:i+8] in little-endian order. The compiler merges the loads.
func load64(s string, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// ones has the lowest bit of each byte set.
const ones = 0x0101010101010101

// special returns a word in which the high bit is set for each byte of w that needs an escape
// or a check in a JSON string: quotes, backslashes, control characters and non-ASCII bytes.
// The lowest set bit is always correct, but borrows may set bits above it in error.
func special(w uint64) uint64 {
	return (w | (w - ' '*ones) | ((w ^ '"'*ones) - ones) | ((w ^ '\\'*ones) - ones)) & (0x80 * ones)
}

// beyond is like [special], but ignores quotes and backslashes.
func beyond(w uint64) uint64 { return (w | (w - ' '*ones)) & (0x80 * ones) }

// controlEscapes holds the escapes of the control characters.
var controlEscapes = func() (t [' ']string) {
	for c := range t {
		t[c] = string([]byte{'\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15]})
	}
	t['\n'], t['\t'], t['\r'] = `\n`, `\t`, `\r`
	return t
}()
