package iii

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"
)

// appendCount appends n as OTLP has 64-bit integers: a decimal string.
func appendCount(b []byte, n uint64) []byte {
	if n < 10 {
		return append(b, '"', '0'+byte(n), '"')
	}
	b = append(b, '"')
	b = strconv.AppendUint(b, n, 10)
	return append(b, '"')
}

// unixNano is t as OTLP has it: no time is 0, and so is a time before 1970,
// which would be a negative number and lose the frame.
func unixNano(t time.Time) uint64 {
	switch sec := t.Unix(); {
	case sec < 0: // the zero time too
		return 0
	case sec > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	default:
		return uint64(sec)*uint64(time.Second) + uint64(t.Nanosecond())
	}
}

func finite[N int64 | float64](n N) bool { return n-n == 0 }

// appendDouble appends a finite number in its shortest form.
func appendDouble(b []byte, f float64) []byte {
	if n := int64(f); float64(n) == f && n < maxSafeInteger && n > -maxSafeInteger && (n != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(b, n, 10)
	}
	if b, ok := appendDecimal(b, f); ok {
		return b
	}
	format := byte('f')
	if abs := math.Abs(f); abs < 1e-6 && abs > 0 || abs >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, 64)
}

// appendDecimal appends a number that has few digits behind the point, as prices and
// ratios do: much faster than finding the shortest form of just any. The quotient of
// two integers below 2^53 is correctly rounded, and so is what a reader makes of
// their decimal form: if the quotient is f, the form is that of f, and with so few
// digits there is no other of the same length.
func appendDecimal(b []byte, f float64) ([]byte, bool) {
	abs := math.Abs(f)
	if !(abs >= 1e-3 && abs < 1e9) {
		return b, false
	}
	scale := 10.0
	for digits := 1; digits <= 4; digits, scale = digits+1, scale*10 {
		n := math.RoundToEven(abs * scale)
		if n/scale != abs {
			continue
		}
		if f < 0 {
			b = append(b, '-')
		}
		whole, part := uint64(n)/uint64(scale), uint64(n)%uint64(scale)
		b = append(strconv.AppendUint(b, whole, 10), '.')
		start := len(b)
		for range digits {
			b = append(b, '0')
		}
		for i := len(b) - 1; i >= start; i, part = i-1, part/10 {
			b[i] += byte(part % 10)
		}
		return b, true
	}
	return b, false
}

// otlpClock writes times. The times of a batch are mostly of one second or two,
// whose digits it keeps.
type otlpClock struct {
	second uint64
	digits []byte
}

// appendTime appends the nanoseconds since 1970 as a decimal string.
func (c *otlpClock) appendTime(b []byte, nanos uint64) []byte {
	second := nanos / uint64(time.Second)
	if second == 0 {
		return appendCount(b, nanos)
	}
	if second != c.second {
		c.second, c.digits = second, strconv.AppendUint(c.digits[:0], second, 10)
	}
	b = append(b, '"')
	b = append(b, c.digits...)
	n := uint32(nanos - second*uint64(time.Second))
	high, low := n/1e5, n%1e5 // four digits and five
	first, last := high/100*2, high%100*2
	third, fourth := low/1e3*2, low/10%100*2
	return append(b, digitPairs[first], digitPairs[first+1], digitPairs[last], digitPairs[last+1],
		digitPairs[third], digitPairs[third+1], digitPairs[fourth], digitPairs[fourth+1], '0'+byte(low%10), '"')
}

// digitPairs are 00 to 99.
var digitPairs = func() (t [200]byte) {
	for i := range 100 {
		t[2*i], t[2*i+1] = '0'+byte(i/10), '0'+byte(i%10)
	}
	return t
}()

// appendHex appends the digits of an id, whose length is a multiple of 4.
func appendHex(b, id []byte) []byte {
	for ; len(id) >= 4; id = id[4:] {
		b = binary.BigEndian.AppendUint64(b, hexWord(binary.BigEndian.Uint32(id)))
	}
	return b
}

// ones has the lowest bit of each byte set.
const ones = 0x0101010101010101

// hexWord is the eight digits of n: each half byte is spread to a byte, to which is
// added '0' and, from 10 on, what lies between '9' and 'a'.
func hexWord(n uint32) uint64 {
	w := uint64(n)
	w = (w | w<<16) & 0x0000ffff0000ffff
	w = (w | w<<8) & 0x00ff00ff00ff00ff
	w = (w | w<<4) & (0x0f * ones)
	letters := (w + 6*ones) >> 4 & ones
	return w + '0'*ones + letters*('a'-'9'-1)
}
