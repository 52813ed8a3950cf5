package jsontree

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/iii-go/iii/internal/rawjson"
)

// AddToNumber returns number plus amount or, if subtract is true, number minus amount. number
// must be a JSON number. Integers from -2^63 to 2^64-1 are exact. Numbers with a fraction or
// an exponent stay floats. AddToNumber returns false if the result cannot be represented.
func AddToNumber(number string, amount int64, subtract bool) (string, bool) {
	if n, ok := parseInteger(number); ok {
		delta := integer{negative: amount < 0, magnitude: magnitude(amount)}
		if subtract {
			delta.negative = !delta.negative
		}
		sum, ok := n.add(delta)
		return sum.String(), ok
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return "", false
	}
	if subtract {
		f -= float64(amount)
	} else {
		f += float64(amount)
	}
	if math.IsInf(f, 0) {
		return "", false
	}
	return string(rawjson.AppendFloat(nil, f)), true
}

// integer holds an integer from -2^63 to 2^64-1, the range of the engine's integer arithmetic.
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

// parseInteger parses an integer. It returns false for numbers that the engine stores as
// floats: those with a fraction or an exponent, integers out of range, and -0.
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
