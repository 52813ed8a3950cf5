package filter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// The functions below scan the JSON of documents. They assume that the JSON is valid, and find
// the end of a value by its quotes and brackets alone. They treat a malformed value as empty
// and never panic.

// malformed is returned instead of the end of a malformed value.
const malformed = -1

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' {
		i++
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
	lows  = 0x7f * ones
)

// word returns the eight bytes of b at i in little-endian order. Bytes beyond the end of b are
// 0.
func word(b []byte, i int) uint64 {
	if i <= len(b)-8 {
		return binary.LittleEndian.Uint64(b[i:])
	}
	return lastWord(b, i)
}

func lastWord(b []byte, i int) uint64 {
	if n := len(b) - 8; n >= 0 {
		return binary.LittleEndian.Uint64(b[n:]) >> (8 * (i - n))
	}
	var w uint64
	for j := len(b) - 1; j >= i; j-- {
		w = w<<8 | uint64(b[j])
	}
	return w
}

// zeros returns a word in which the high bit of each byte is set if the corresponding byte of
// w is 0. Only the bits up to the lowest zero byte are reliable.
func zeros(w uint64) uint64 { return (w - ones) &^ w & highs }

// skipString returns the index after the string that begins at i, and whether the string
// contains escapes.
func skipString(b []byte, i int) (end int, escaped bool) {
	i++
	for limit := min(len(b)-8, i+48); i <= limit; {
		w := binary.LittleEndian.Uint64(b[i:])
		m := zeros(w^'"'*ones) | zeros(w^'\\'*ones)
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) / 8
		if b[i] == '"' {
			return i + 1, escaped
		}
		escaped = true
		i += 2
	}
	for i < len(b) {
		quote := bytes.IndexByte(b[i:], '"')
		if quote < 0 {
			return malformed, escaped
		}
		quote += i
		for i <= quote {
			backslash := bytes.IndexByte(b[i:quote], '\\')
			if backslash < 0 {
				return quote + 1, escaped
			}
			escaped = true
			i += backslash + 2 // also skips an escaped quote
		}
	}
	return malformed, escaped
}

// scalarByte marks the bytes that occur in numbers, true, false and null.
var scalarByte = func() (t [256]bool) {
	for c := range t {
		t[c] = isDigit(byte(c)) || c == '-' || c == '+' || c == '.' || 'a' <= c|0x20 && c|0x20 <= 'z'
	}
	return t
}()

// scalarStart marks the bytes that begin numbers, true, false and null.
var scalarStart = func() (t [256]bool) {
	for _, c := range []byte("-0123456789tfn") {
		t[c] = true
	}
	return t
}()

// skipValue returns the index after the value that begins at i.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return malformed
	}
	switch c := b[i]; c {
	case '"':
		i, _ = skipString(b, i)
		return i
	case '{', '[':
		return skipNested(b, i)
	default:
		if !scalarStart[c] {
			return malformed
		}
		for i++; i < len(b) && scalarByte[b[i]]; i++ {
		}
		return i
	}
}

// skipNested returns the index after the array or object that begins at i.
//
// It processes eight bytes at a time and counts the brackets outside strings. A byte is inside
// a string if an odd number of quotes precedes it.
func skipNested(b []byte, i int) int {
	depth := 1
	inside := uint64(0) // ones inside a string, otherwise 0
	for i++; i < len(b); {
		w := word(b, i)
		if zeros(w^'\\'*ones) != 0 {
			i, inside, depth = skipEscapes(b, i, inside, depth)
			if depth == 0 {
				return i
			}
			continue
		}
		// The high bit of each byte of ascii is set if w's byte is ASCII. The high bit of each
		// byte of the sums below is set if w's byte differs from the character being sought.
		low, ascii := w&^highs, ^w&highs
		within := (ascii&^((low^'"'*ones)+lows))>>7*ones ^ inside // only the low bits matter
		outside := ascii &^ (within << 7)
		braces := (low | 0x20*ones) ^ '{'*ones // maps brackets to braces
		opening := outside &^ (braces + lows)
		closing := outside &^ ((braces ^ ('{'^'}')*ones) + lows)
		closed := bits.OnesCount64(closing)
		if depth > closed {
			depth += bits.OnesCount64(opening) - closed
			inside = (within >> 56 & 1) * ones
			i += 8
			continue
		}
		for m := opening | closing; m != 0; m &= m - 1 {
			if lowest := m & -m; opening&lowest != 0 {
				depth++
			} else if depth--; depth == 0 {
				return i + bits.TrailingZeros64(lowest)/8 + 1
			}
		}
		inside = (within >> 56 & 1) * ones
		i += 8
	}
	return malformed
}

// skipEscapes is one step of skipNested, for eight bytes that include a backslash. If the
// returned depth is 0, the returned index is the one after the closing bracket.
func skipEscapes(b []byte, i int, inside uint64, depth int) (int, uint64, int) {
	for end := min(i+8, len(b)); i < end; i++ {
		switch c := b[i]; {
		case c == '"':
			inside ^= ones
		case inside != 0:
			if c == '\\' {
				i++
			}
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1, inside, 0
			}
		}
	}
	return i, inside, depth
}

// nextMember reads the object member that begins at i. Its key is b[i+1:keyEnd], and its value
// is b[start:end].
func nextMember(b []byte, i int) (keyEnd int, escaped bool, start, end int) {
	if i >= len(b) || b[i] != '"' {
		return 0, false, 0, malformed
	}
	j, escaped := skipString(b, i)
	if j < 0 {
		return 0, false, 0, malformed
	}
	keyEnd = j - 1
	if j = skipSpace(b, j); j >= len(b) || b[j] != ':' {
		return 0, false, 0, malformed
	}
	start = skipSpace(b, j+1)
	return keyEnd, escaped, start, skipValue(b, start)
}

// afterItem returns the start of the member or element that follows the one ending at i. After
// the last one, it returns the index after the closing bracket and true.
func afterItem(b []byte, i int, closing byte) (next int, last bool) {
	if i = skipSpace(b, i); i < len(b) {
		switch b[i] {
		case ',':
			return skipSpace(b, i+1), false
		case closing:
			return i + 1, true
		}
	}
	return malformed, true
}

// firstItem returns the start of the first member or element of the object or array at i. If
// there is none, it returns the index after the closing bracket and true.
func firstItem(b []byte, i int, closing byte) (first int, empty bool) {
	if i = skipSpace(b, i+1); i < len(b) && b[i] == closing {
		return i + 1, true
	}
	return i, false
}

// find follows s and the segments after it through the object that begins at i. It returns the
// value as b[start:stop]; start is 0 if the value is absent. Because the last of several
// members with the same key wins, find reads the whole object, and also returns its end.
//
// atEnd reports whether only white space follows the object. If so, find skips the rest of the
// object once it is clear that the key does not recur there, and returns the end of b.
//
// Matching spends most of its time here, so short keys and values without white space take a
// fast path.
func find(b []byte, i int, s *segment, atEnd bool) (start, stop, end int) {
	if i++; i < len(b) && b[i] != '"' {
		if i = skipSpace(b, i); i < len(b) && b[i] == '}' {
			return 0, 0, i + 1
		}
	}
	for {
		var first, after int
		found := false
		if i < len(b) && b[i] == '"' {
			w := word(b, i+1)
			n := len(s.key)
			if found = (w^s.word)&s.mask == 0; !found {
				n = shortLength(w)
			}
			if first = i + n + 2; n < 8 && first < len(b) && b[first] == ':' {
				first++
				goto value
			}
		}
		{
			j, escaped := skipString(b, i)
			if j < 0 || b[i] != '"' {
				return 0, 0, malformed
			}
			found = sameKey(b[i+1:j-1], escaped, s.key)
			if j < len(b) && b[j] != ':' {
				j = skipSpace(b, j)
			}
			if j >= len(b) || b[j] != ':' {
				return 0, 0, malformed
			}
			first = j + 1
		}
	value:
		if first < len(b) && b[first] <= ' ' {
			first = skipSpace(b, first)
		}
		if first >= len(b) {
			return 0, 0, malformed
		}
		switch c := b[first]; {
		case found && s.next != nil:
			start, stop, after = follow(b, first, s.next)
			found = false
		case scalarStart[c]:
			for after = first + 1; after < len(b) && scalarByte[b[after]]; after++ {
			}
		case c == '"':
			n := shortLength(word(b, first+1))
			if after = first + n + 2; n == 8 {
				after, _ = skipString(b, first)
			}
		case c == '{' || c == '[':
			after = skipNested(b, first)
		default:
			return 0, 0, malformed
		}
		if after < 0 {
			return 0, 0, malformed
		}
		if found {
			start, stop = first, after
		}
		if found && atEnd && after < len(b)-8 && lastOf(b, after, s.first) {
			return start, stop, len(b)
		}
		if after < len(b) && b[after] <= ' ' {
			after = skipSpace(b, after)
		}
		switch {
		case after >= len(b):
			return 0, 0, malformed
		case b[after] == '}':
			return start, stop, after + 1
		case b[after] != ',':
			return 0, 0, malformed
		}
		if i = after + 1; i < len(b) && b[i] <= ' ' {
			i = skipSpace(b, i)
		}
		if i >= len(b) {
			return 0, 0, malformed
		}
	}
}

// lastOf reports whether b[i:], the rest of an object, ends with a brace and certainly
// contains no key that begins with the byte c. Each byte of first must be c. lastOf returns
// false if b[i:] contains an escape, or a quote followed by c. b[i:] must be at least nine
// bytes long.
func lastOf(b []byte, i int, first uint64) bool {
	for last := len(b) - 9; ; i += 8 {
		i = min(i, last)
		w, next := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+1:])
		escape, key := w^'\\'*ones, (w^'"'*ones)|(next^first)
		// The first operand is cheaper to compute and is 0 for most ASCII text.
		if ((escape-ones)|(key-ones))&highs != 0 && zeros(escape)|zeros(key) != 0 {
			return false
		}
		if i == last {
			return b[len(b)-1] == '}'
		}
	}
}

// shortLength returns a string's length, given the eight bytes after its opening quote. It
// returns 8 if the closing quote is not among them or the string contains escapes.
func shortLength(w uint64) int {
	quotes, escapes := w^'"'*ones, w^'\\'*ones
	quotes, escapes = (quotes-ones)&^quotes&highs, (escapes-ones)&^escapes&highs
	n := bits.TrailingZeros64(quotes)
	if n > bits.TrailingZeros64(escapes) {
		return 8
	}
	return n / 8
}

// sameKey reports whether raw, the contents of a JSON string, equals key. escaped reports
// whether raw contains escapes.
func sameKey(raw []byte, escaped bool, key string) bool {
	if escaped {
		order, _ := compareEscaped(raw, key)
		return order == 0
	}
	return string(raw) == key
}

// elements iterates over an array. It is not an iterator function, because that would allocate
// a closure for each match.
type elements struct {
	b    []byte
	next int
	done bool
}

func elementsOf(raw []byte) elements {
	i, empty := firstItem(raw, 0, ']')
	return elements{raw, i, empty}
}

// take returns the next element, or false after the last one.
func (e *elements) take() ([]byte, bool) {
	if e.done {
		return nil, false
	}
	start := e.next
	end := skipValue(e.b, start)
	if end < 0 {
		e.done = true
		return nil, false
	}
	e.next, e.done = afterItem(e.b, end, ']')
	return e.b[start:end], true
}

// elementAt returns the start of element n of the array that begins at i. If the array is
// shorter, it returns the end of the array and false.
func elementAt(b []byte, i int, n uint64) (at int, ok bool) {
	i, empty := firstItem(b, i, ']')
	for ; n > 0 && !empty; n-- {
		if i = skipValue(b, i); i < 0 {
			return malformed, false
		}
		i, empty = afterItem(b, i, ']')
	}
	return i, !empty && i < len(b)
}

// findElement is like find, but for the array that begins at i.
func findElement(b []byte, i int, s *segment) (start, stop, end int) {
	i, ok := elementAt(b, i, s.index)
	if !ok {
		return 0, 0, i
	}
	start = i
	if s.next != nil {
		start, stop, end = follow(b, i, s.next)
	} else {
		end = skipValue(b, i)
		stop = end
	}
	switch {
	case end < 0:
		return 0, 0, malformed
	case end < len(b) && b[end] == ']':
		return start, stop, end + 1
	}
	if end = skipNested(b, end-1); end < 0 { // skip the rest of the array
		return 0, 0, malformed
	}
	return start, stop, end
}

// follow is like find, but for a value of any type.
func follow(b []byte, i int, s *segment) (start, stop, end int) {
	switch {
	case i >= len(b) || i < 0:
		return 0, 0, malformed
	case b[i] == '{':
		return find(b, i, s, false)
	case b[i] == '[' && s.isIndex:
		return findElement(b, i, s)
	}
	return 0, 0, skipValue(b, i)
}

// resolve follows s and the segments after it from the value raw. If s is nil, the result is
// raw itself. The result is empty if the value is absent.
func resolve(raw []byte, s *segment) []byte {
	i := 0
	for s != nil && raw[i] == '[' && s.isIndex {
		// Elements after the index are not read.
		var ok bool
		if i, ok = elementAt(raw, i, s.index); !ok {
			return nil
		}
		s = s.next
	}
	if s != nil {
		start, stop, _ := follow(raw, i, s)
		return raw[start:stop]
	}
	if i == 0 {
		return raw
	}
	return whole(raw[i:])
}

// whole returns a root's JSON text without surrounding white space.
func whole(raw []byte) []byte {
	start := skipSpace(raw, 0)
	end := skipValue(raw, start)
	if end < 0 {
		return nil
	}
	return raw[start:end]
}

// kindOf returns a value's type, as determined by its first byte.
func kindOf(raw []byte) kind {
	switch raw[0] {
	case '"':
		return text
	case '{':
		return object
	case '[':
		return array
	case 't', 'f':
		return boolean
	case 'n':
		return null
	}
	return number
}

// inner returns the contents of a JSON string, without its quotes.
func inner(raw []byte) []byte { return raw[1 : len(raw)-1] }

// toFloat returns the double nearest to a number. A number out of range becomes infinite.
// Anything else becomes NaN, which equals nothing.
func toFloat(raw []byte) float64 {
	if n, ok := integer(raw); ok {
		return float64(n)
	}
	return parseNumber(raw)
}

// integer parses a number that consists of at most 18 digits.
func integer(raw []byte) (n int64, ok bool) {
	for _, c := range raw {
		if c -= '0'; c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, len(raw) <= 18
}

// parseNumber is like toFloat, for numbers that integer cannot parse.
func parseNumber(raw []byte) float64 {
	i, negative := 0, raw[0] == '-'
	if negative {
		i++
	}
	// The quotient of two integers that doubles represent exactly is rounded once, so it is
	// the nearest double. Powers of ten up to 10^22 are exact.
	var n uint64
	digits, fraction := 0, 0
	point := false
	for ; i < len(raw); i++ {
		c := raw[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if !isDigit(c) || digits == 18 {
			break
		}
		n = n*10 + uint64(c-'0')
		digits++
		if point {
			fraction++
		}
	}
	if i < len(raw) || digits == 0 || n > maxNumber && fraction > 0 {
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil && !math.IsInf(f, 0) {
			return math.NaN()
		}
		return f
	}
	f := float64(n)
	if fraction > 0 {
		f /= tens[fraction]
	}
	if negative {
		f = -f
	}
	return f
}

var tens = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// compareText compares raw, the contents of a JSON string, with s byte by byte. For UTF-8,
// this is also the order of the code points.
func compareText(raw []byte, s string) int {
	if bytes.IndexByte(raw, '\\') < 0 {
		switch {
		case string(raw) == s:
			return 0
		case string(raw) < s:
			return -1
		}
		return 1
	}
	order, _ := compareEscaped(raw, s)
	return order
}

// hasPrefix reports whether raw, the contents of a JSON string, begins with s.
func hasPrefix(raw []byte, s string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return len(raw) >= len(s) && string(raw[:len(s)]) == s
	}
	_, prefix := compareEscaped(raw, s)
	return prefix
}

// compareEscaped compares raw, the contents of a JSON string with escapes, with s. prefix
// reports whether raw begins with s.
func compareEscaped(raw []byte, s string) (order int, prefix bool) {
	for i := 0; i < len(raw); {
		var buf [utf8.UTFMax]byte
		var piece []byte
		if raw[i] == '\\' {
			var r rune
			r, i = escape(raw, i)
			piece = buf[:utf8.EncodeRune(buf[:], r)]
		} else {
			n := bytes.IndexByte(raw[i:], '\\')
			if n < 0 {
				n = len(raw) - i
			}
			piece = raw[i : i+n]
			i += n
		}
		n := min(len(piece), len(s))
		if string(piece[:n]) != s[:n] {
			return cmp.Compare(string(piece[:n]), s[:n]), false
		}
		if s = s[n:]; n < len(piece) {
			return 1, true
		}
	}
	if s == "" {
		return 0, true
	}
	return -1, false
}

// escape decodes the escape sequence at i. It returns the character and the index after the
// sequence.
func escape(raw []byte, i int) (rune, int) {
	if i+1 >= len(raw) {
		return utf8.RuneError, len(raw)
	}
	if c, ok := unescaped(raw[i+1]); ok {
		return rune(c), i + 2
	}
	r, ok := unicodeEscape(raw, i)
	if !ok {
		return utf8.RuneError, i + 2
	}
	if i += 6; utf16.IsSurrogate(r) {
		low, _ := unicodeEscape(raw, i)
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			i += 6
		}
	}
	return r, i
}

// appendUnescaped appends raw, the contents of a JSON string, with its escapes decoded.
func appendUnescaped(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		if raw[i] == '\\' {
			var r rune
			r, i = escape(raw, i)
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, raw[i])
		i++
	}
	return dst
}
