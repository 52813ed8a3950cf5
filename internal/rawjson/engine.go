package rawjson

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// CheckForEngine returns an error if the engine cannot parse b, which must be valid JSON. The
// engine rejects JSON nested more than depth levels deep, numbers that overflow a float64, and
// unpaired surrogates. It silently drops messages that contain such JSON, so a call with such
// a payload never receives a reply.
func CheckForEngine(b []byte, depth int) error {
	if !doubtful(b, depth) {
		return nil
	}
	return scanForEngine(b, depth)
}

// Plain reports whether b is valid JSON in UTF-8 that [CheckForEngine] accepts. Unlike
// separate checks, it makes a single pass. Where a single pass cannot decide, as for exponents
// and \u escapes, it returns false.
func Plain(b []byte, depth int) bool {
	var s scanner
	i, err := s.skipValue(b, SkipSpace(b, 0), max(MaxDepth-depth, 0))
	return err == nil && scanEnd(b, i) == nil && !s.special && utf8.Valid(b)
}

// ScanPlainObject is like [ScanObject], but for objects that [Plain] accepts. If b is anything
// else, it returns false, possibly after calls to field.
func ScanPlainObject(b []byte, depth int, field func(key, value []byte)) bool {
	var s scanner
	return s.scanObject(b, max(MaxDepth-depth, 0), field) == nil && !s.special && utf8.Valid(b)
}

func scanForEngine(b []byte, depth int) error {
	left := depth
	for i := 0; i < len(b); i++ {
		switch engineByte[b[i]] {
		case opens:
			if left--; left < 0 {
				return fmt.Errorf("JSON is nested deeper than %d levels, which the engine cannot read", depth)
			}
		case closes:
			left++
		case quotes:
			end, err := checkSurrogates(b, i)
			if err != nil {
				return err
			}
			i = end - 1
		case counts:
			end, exponent := i+1, false
			for end < len(b) && numberByte[b[end]] {
				exponent = exponent || b[end]|0x20 == 'e'
				end++
			}
			if exponent || end-i > manyDigits {
				if _, err := strconv.ParseFloat(string(b[i:end]), 64); err != nil {
					return fmt.Errorf("the number at byte %d is out of range: the engine reads 64 bits", i)
				}
			}
			i = end - 1
		}
	}
	return nil
}

const (
	opens = iota + 1
	closes
	quotes
	counts
)

// engineByte classifies the bytes outside strings and numbers.
var engineByte = [256]uint8{'{': opens, '[': opens, '}': closes, ']': closes, '"': quotes, '-': counts,
	'0': counts, '1': counts, '2': counts, '3': counts, '4': counts, '5': counts, '6': counts, '7': counts, '8': counts, '9': counts}

// doubtful reports whether b may contain anything that CheckForEngine rejects. It takes a
// fraction of the time of a full scan, and returns false for almost all values. A number is
// doubtful only if it has very many digits or an exponent of at least three digits, because no
// other number can be out of range.
func doubtful(b []byte, depth int) bool {
	if bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) > depth || bytes.Contains(b, []byte(`\u`)) {
		return true
	}
	if es := bytes.Count(b, []byte("e")) + bytes.Count(b, []byte("E")); es > 16 && es > len(b)/64 {
		return true // searching for each of them would cost more than the scan, which skips strings
	}
	for _, e := range []byte("eE") {
		for rest := b; ; {
			i := bytes.IndexByte(rest, e)
			if i < 0 {
				break
			}
			digit := i > 0 && isDigit(rest[i-1])
			if rest = rest[i+1:]; digit {
				exponent := bytes.TrimPrefix(rest, []byte("+"))
				if len(exponent) > 2 && isDigit(exponent[0]) && isDigit(exponent[1]) && isDigit(exponent[2]) {
					return true
				}
			}
		}
	}
	for i := manyDigits; i < len(b); i += manyDigits { // a number with more digits covers one of these positions
		start, end := i, i
		for start > i-manyDigits && numberByte[b[start]] {
			start--
		}
		for end < len(b) && end < i+manyDigits && numberByte[b[end]] {
			end++
		}
		if end-start > manyDigits {
			return true
		}
	}
	return false
}

// A number of up to manyDigits bytes fits in a float64, even with a two-digit exponent.
const manyDigits = 200

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

var numberByte = func() (t [256]bool) {
	for _, c := range []byte("0123456789+-.eE") {
		t[c] = true
	}
	return t
}()

// checkSurrogates returns the index after the string that begins at i. It returns an error if
// the string contains an unpaired surrogate.
func checkSurrogates(b []byte, i int) (int, error) {
	for i++; ; {
		short := min(i+16, len(b)) // most strings are short
		for i < short && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i == short {
			i += PlainBytes(b[i:])
		}
		if i >= len(b) {
			return i, errTruncated
		}
		if b[i] == '"' {
			return i + 1, nil
		}
		if i+1 < len(b) && b[i+1] != 'u' {
			i += 2
			continue
		}
		if len(b)-i < 6 {
			return i, errTruncated
		}
		r := hexRune(b[i+2:])
		if utf16.IsSurrogate(r) {
			if len(b)-i < 12 || b[i+6] != '\\' || b[i+7] != 'u' || utf16.DecodeRune(r, hexRune(b[i+8:])) == utf8.RuneError {
				return i, fmt.Errorf("half a surrogate pair at byte %d is not a character", i)
			}
			i += 6
		}
		i += 6
	}
}

// hexRune parses the four digits of a \u escape.
func hexRune(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 16) // skipString has checked the digits
	return rune(n)
}
