package jsontree

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// AddToNumber adds by to the number in text, or subtracts it. Integers are exact
// between -2^63 and 2^64-1; a number with a fraction or an exponent stays a float.
// AddToNumber returns false if the result has no representation.
func AddToNumber(text string, by int64, subtract bool) (string, bool) {
	if n, ok := parseInteger(text); ok {
		delta := integer{negative: by < 0, magnitude: magnitude(by)}
		if subtract {
			delta.negative = !delta.negative
		}
		sum, ok := n.add(delta)
		return sum.String(), ok
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", false
	}
	if subtract {
		f -= float64(by)
	} else {
		f += float64(by)
	}
	if math.IsInf(f, 0) {
		return "", false
	}
	return formatFloat(f), true
}

// integer is a whole number in the union of int64 and uint64, the range in which the
// engine counts.
type integer struct {
	negative  bool // never for 0
	magnitude uint64
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// parseInteger rejects numbers that the engine holds as floats: fractions, exponents,
// whole numbers out of range, and -0.
func parseInteger(text string) (integer, bool) {
	digits, negative := strings.CutPrefix(text, "-")
	m, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || negative && (m == 0 || m > 1<<63) {
		return integer{}, false
	}
	return integer{negative: negative, magnitude: m}, true
}

func (a integer) add(b integer) (integer, bool) {
	if a.negative != b.negative {
		if a.magnitude < b.magnitude {
			a, b = b, a
		}
		a.magnitude -= b.magnitude
		a.negative = a.negative && a.magnitude > 0
		return a, true
	}
	sum, carry := bits.Add64(a.magnitude, b.magnitude, 0)
	if carry != 0 || a.negative && sum > 1<<63 {
		return integer{}, false
	}
	return integer{negative: a.negative, magnitude: sum}, true
}

func (a integer) String() string {
	digits := strconv.FormatUint(a.magnitude, 10)
	if a.negative {
		return "-" + digits
	}
	return digits
}

// formatFloat writes a float as the engine does: with the fewest digits that read back
// as the same value, always with a fraction or an exponent, in plain form between 1e-5
// and 1e16 and with an exponent outside.
func formatFloat(f float64) string {
	if f == 0 {
		if math.Signbit(f) {
			return "-0.0"
		}
		return "0.0"
	}
	if abs := math.Abs(f); abs >= 1e-5 && abs < 1e16 {
		text := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	sign := ""
	if exponent[0] == '-' {
		sign = "-"
	}
	return mantissa + "e" + sign + strings.TrimLeft(exponent[1:], "0")
}
