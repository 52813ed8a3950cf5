package iiitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxOTLPDepth is the maximum nesting of a telemetry frame. The engine's parser rejects
// the 128th level.
const maxOTLPDepth = 127

var errTooDeep = errors.New("nested too deeply")

// otlpReader reads OTLP JSON as the engine does: it skips an unknown key, whatever the
// value, and rejects the whole frame if a known key has a value of the wrong type. Keys
// are in lower camel case and are compared exactly. Null is a wrong type unless a
// method accepts it. The first error sticks: afterwards every method returns at once.
type otlpReader struct {
	s     scanner
	depth int
	at    string // the key being read, for errors
	err   error
}

// readOTLP reads a whole frame, without its tag, by calling f.
func readOTLP(data []byte, f func(r *otlpReader)) error {
	switch {
	case !utf8.Valid(data):
		return engineText("invalid UTF-8")
	case !json.Valid(data):
		return engineText(cmp.Or(syntaxError(data), "no valid JSON"))
	}
	r := &otlpReader{s: scanner{b: data}}
	f(r)
	return r.err
}

// lenient reads a value that the engine skips: it ignores errors and does not consume
// the value.
func (r *otlpReader) lenient(f func(r *otlpReader)) {
	if r.err == nil {
		f(&otlpReader{s: r.s, depth: r.depth})
	}
}

func (r *otlpReader) fail(expected string) {
	if r.err == nil {
		r.err = engineText(fmt.Sprintf("%s: expected %s", r.at, expected))
	}
}

func (r *otlpReader) enter() bool {
	if r.depth++; r.depth > maxOTLPDepth && r.err == nil {
		r.err = errTooDeep
	}
	return r.err == nil
}

// object reads an object. member receives each key. If it knows the key, it must read
// the value exactly once and return true. The required keys must be present.
func (r *otlpReader) object(member func(key string) bool, required ...string) {
	if r.err != nil {
		return
	}
	if r.s.next() != '{' {
		r.fail("an object")
		return
	}
	if !r.enter() {
		return
	}
	r.s.i++
	var room [16]string
	seen := room[:0]
	for r.s.next() == '"' {
		key := r.unquote(r.s.str())
		r.s.next()
		r.s.i++ // :
		if slices.Contains(seen, key) {
			r.at = key
			r.fail("one value")
			return
		}
		r.at = key
		if member(key) {
			seen = append(seen, key)
		} else {
			r.s.value()
		}
		if r.err != nil {
			return
		}
		if r.s.next() == ',' {
			r.s.i++
			r.s.next()
		}
	}
	r.s.i++ // }
	r.depth--
	for _, key := range required {
		if !slices.Contains(seen, key) {
			r.at = key
			r.fail("a value")
			return
		}
	}
}

// array reads an array. item must read each of the values.
func (r *otlpReader) array(item func()) {
	if r.err != nil {
		return
	}
	if r.s.next() != '[' {
		r.fail("an array")
		return
	}
	if !r.enter() {
		return
	}
	r.s.i++
	for r.s.next() != ']' {
		item()
		if r.err != nil {
			return
		}
		if r.s.next() == ',' {
			r.s.i++
		}
	}
	r.s.i++ // ]
	r.depth--
}

// null consumes a null and reports whether there was one.
func (r *otlpReader) null() bool {
	if r.err != nil || r.s.next() != 'n' {
		return false
	}
	r.s.value()
	return true
}

// scalar consumes a value of a given kind (see kindOf).
func (r *otlpReader) scalar(kind byte, expected string) json.RawMessage {
	if r.err != nil {
		return nil
	}
	r.s.next()
	raw := r.s.value()
	if kindOf(raw) != kind {
		r.fail(expected)
		return nil
	}
	return raw
}

func (r *otlpReader) str() string {
	raw := r.scalar('"', "a string")
	if raw == nil {
		return ""
	}
	return r.unquote(raw)
}

// unquote rejects half a surrogate pair, as the engine does in strings that it reads.
// The engine accepts one in values that it skips.
func (r *otlpReader) unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') >= 0 && syntaxError(raw) != "" {
		r.fail("a string of whole characters")
	}
	return unquote(raw)
}

// optStr reads a string or null, which counts as empty.
func (r *otlpReader) optStr() string {
	if r.null() {
		return ""
	}
	return r.str()
}

func (r *otlpReader) boolean() bool {
	if r.err != nil {
		return false
	}
	r.s.next()
	raw := r.s.value()
	if string(raw) != "true" && string(raw) != "false" {
		r.fail("a boolean")
	}
	return string(raw) == "true"
}

// spelled consumes an integer that is either a number or a decimal string.
func (r *otlpReader) spelled(expected string) string {
	if r.err != nil {
		return ""
	}
	if r.s.next() == '"' {
		return r.unquote(r.s.str())
	}
	return string(r.scalar('0', expected))
}

func (r *otlpReader) uint64() uint64 {
	text := r.spelled("an unsigned integer")
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		r.fail("an unsigned integer")
	}
	return n
}

func (r *otlpReader) int64() int64 {
	text := r.spelled("an integer")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.fail("an integer")
	}
	return n
}

// int32 reads a number. It accepts neither a string nor the name of an enum value.
func (r *otlpReader) int32() int32 {
	n, err := strconv.ParseInt(string(r.scalar('0', "an integer")), 10, 32)
	if err != nil {
		r.fail("an integer of 32 bits")
	}
	return int32(n)
}

func (r *otlpReader) uint32() uint32 {
	n, err := strconv.ParseUint(string(r.scalar('0', "an unsigned integer")), 10, 32)
	if err != nil {
		r.fail("an unsigned integer of 32 bits")
	}
	return uint32(n)
}

// float64 reads a number. It rejects the spellings of infinity and NaN.
func (r *otlpReader) float64() float64 {
	f, err := strconv.ParseFloat(string(r.scalar('0', "a number")), 64)
	if err != nil {
		r.fail("a number of 64 bits")
	}
	return f
}

// unixNano converts an OTLP time. Zero means unknown.
func unixNano(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(int64(n/1e9), int64(n%1e9))
}
