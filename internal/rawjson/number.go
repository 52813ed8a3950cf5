package rawjson

import (
	"math"
	"strconv"
	"sync"
)

// The engine stores a number as a signed or unsigned 64-bit integer or as a float, and writes
// the stored value: 1e2 becomes 100.0, and an integer beyond 64 bits becomes a float. The
// engine's float parser trades precision for speed, so the last digit of a float may differ
// from that of the nearest float.

// AppendNumber appends a JSON number, formatted as the engine formats it. A number that the
// engine rejects, as reported by [NumberInRange], is appended unchanged.
func AppendNumber(dst, text []byte) []byte {
	if isInteger(text) {
		return append(dst, text...)
	}
	f, ok := parseFloat(text)
	if !ok {
		return append(dst, text...)
	}
	return AppendFloat(dst, f)
}

// NumberInRange reports whether the engine accepts a JSON number. The engine rejects numbers
// that overflow a float.
func NumberInRange(text []byte) bool {
	if len(text) <= 308 && !hasExponent(text) {
		return true
	}
	_, ok := parseFloat(text)
	return ok
}

// AppendFloat appends a finite float, formatted as the engine formats it: with the fewest
// digits that parse to the same float, and always with a fraction or an exponent. It uses an
// exponent if the absolute value is at least 1e16, or is below 1e-5 and not 0.
func AppendFloat(dst []byte, f float64) []byte {
	if abs := math.Abs(f); abs != 0 && (abs < 1e-5 || abs >= 1e16) {
		return appendExponential(dst, f)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	for _, c := range dst[start:] {
		if c == '.' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// appendExponential appends a float with an exponent. Unlike strconv, it writes no leading
// zero: 1e-6 instead of 1e-06.
func appendExponential(dst []byte, f float64) []byte {
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	n := len(dst)
	if c := dst[n-3]; dst[n-2] == '0' && (c == '-' || c == '+') {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// AppendNumbers appends a JSON document with its numbers formatted as the engine formats them.
// Everything else stays unchanged. Unlike the engine and [AppendNumber], it converts each
// number to the nearest float, so that numbers written by the engine do not change. If a
// number is out of range, AppendNumbers returns false and an unusable slice.
func AppendNumbers(dst, doc []byte) ([]byte, bool) {
	kept := 0 // doc[:kept] has been appended
	for i := 0; i < len(doc); {
		switch c := doc[i]; {
		case c == '"':
			for i++; i < len(doc) && doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
			i++
		case c == '-' || isDigit(c):
			end := i + 1
			for end < len(doc) && numberByte[doc[end]] {
				end++
			}
			if number := doc[i:end]; !isInteger(number) {
				f, err := strconv.ParseFloat(string(number), 64)
				if err != nil {
					return dst, false
				}
				dst = append(dst, doc[kept:i]...)
				dst = AppendFloat(dst, f)
				kept = end
			}
			i = end
		default:
			i++
		}
	}
	return append(dst, doc[min(kept, len(doc)):]...), true
}

func hasExponent(text []byte) bool {
	for _, c := range text {
		if c|0x20 == 'e' {
			return true
		}
	}
	return false
}

// isInteger reports whether the engine stores a number as an integer. It stores -0 as a float.
func isInteger(text []byte) bool {
	digits, negative := text, text[0] == '-'
	if negative {
		digits = digits[1:]
	}
	if len(digits) > 20 || negative && digits[0] == '0' {
		return false
	}
	var n uint64
	for _, c := range digits {
		d := uint64(c - '0')
		if !isDigit(c) || overflows(n, d) {
			return false
		}
		n = n*10 + d
	}
	return !negative || n <= 1<<63
}

// overflows reports whether n*10+d exceeds 64 bits.
func overflows(n, d uint64) bool {
	const most = math.MaxUint64
	return n > most/10 || n == most/10 && d > most%10
}

// parseFloat parses a float as the engine does: it collects as many digits as fit into 64
// bits, then scales them by a power of ten. It returns false if the result overflows.
func parseFloat(text []byte) (f float64, ok bool) {
	negative := text[0] == '-'
	i := 0
	if negative {
		i++
	}
	var significand uint64
	exponent := int64(0)
	for ; i < len(text) && isDigit(text[i]); i++ {
		if d := uint64(text[i] - '0'); exponent > 0 || overflows(significand, d) {
			exponent++ // the digit is dropped, but raises the exponent
		} else {
			significand = significand*10 + d
		}
	}
	if i < len(text) && text[i] == '.' {
		full := false
		for i++; i < len(text) && isDigit(text[i]); i++ {
			d := uint64(text[i] - '0')
			if full = full || overflows(significand, d); !full {
				significand = significand*10 + d
				exponent--
			}
		}
	}
	if i < len(text) {
		e, positive := exponentOf(text[i+1:])
		switch {
		case e <= math.MaxInt32 && positive:
			exponent += e
		case e <= math.MaxInt32:
			exponent -= e
		case positive && significand != 0:
			return 0, false
		default:
			significand, exponent = 0, 0
		}
	}
	f, ok = scale(float64(significand), exponent)
	if negative {
		f = -f
	}
	return f, ok
}

// exponentOf parses the exponent after a number's e. It clamps exponents beyond 32 bits,
// because they all have the same effect.
func exponentOf(text []byte) (e int64, positive bool) {
	positive = true
	if text[0] == '+' || text[0] == '-' {
		positive = text[0] == '+'
		text = text[1:]
	}
	for _, c := range text {
		e = min(e*10+int64(c-'0'), math.MaxInt32+1)
	}
	return e, positive
}

// scale returns f × 10^exponent. Like the engine, it calculates in steps and rounds after
// each.
func scale(f float64, exponent int64) (float64, bool) {
	pow := powersOfTen()
	for exponent < -maxPower && f != 0 {
		f /= pow[maxPower]
		exponent += maxPower
	}
	switch {
	case f == 0:
		return f, true
	case exponent > maxPower:
		return 0, false
	case exponent < 0:
		return f / pow[-exponent], true
	}
	f *= pow[exponent]
	return f, !math.IsInf(f, 0)
}

// maxPower is the exponent of the largest power of ten that fits into a float.
const maxPower = 308

var powersOfTen = sync.OnceValue(func() *[maxPower + 1]float64 {
	var pow [maxPower + 1]float64
	for i := range pow {
		pow[i], _ = strconv.ParseFloat("1e"+strconv.Itoa(i), 64) // correctly rounded
	}
	return &pow
})
