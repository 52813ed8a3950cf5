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

// maxOTLPDepth is how deep a telemetry frame may nest. The engine's parser gives
// up at the 128th level.
const maxOTLPDepth = 127

var errTooDeep = errors.New("nested too deeply")

// otlpReader reads OTLP JSON as the engine does: an unknown key is skipped,
// whatever its value, and one wrongly typed value of a known key loses the whole
// frame. Keys are in lower camel case and are compared exactly. Null is a wrong
// type except where a method says otherwise. The first error sticks: afterwards
// every method returns at once.
type otlpReader struct {
	s     scanner
	depth int
	at    string // the key being read, for errors
	err   error
}

// readOTLP reads a whole frame, without its tag, with f.
func readOTLP(data []byte, f func(r *otlpReader)) error {
	switch {
	case !utf8.Valid(data):
		return engineText("no valid UTF-8")
	case !json.Valid(data):
		return engineText(cmp.Or(syntaxError(data), "no valid JSON"))
	}
	r := &otlpReader{s: scanner{b: data}}
	f(r)
	return r.err
}

// lenient looks at a value that the engine skips: errors are of no account, and
// the value is still to be skipped.
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

// object reads an object. member reads the value of a key that it knows, exactly
// once, and reports whether it has. required keys must be there.
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

// array reads an array; item reads each of its values.
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

// null takes a null and reports whether there was one.
func (r *otlpReader) null() bool {
	if r.err != nil || r.s.next() != 'n' {
		return false
	}
	r.s.value()
	return true
}

// scalar takes a value of a given kind (see kindOf).
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

// unquote refuses half a surrogate pair, as the engine does where it reads a
// string; in what it skips it does not look.
func (r *otlpReader) unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') >= 0 && syntaxError(raw) != "" {
		r.fail("a string of whole characters")
	}
	return unquote(raw)
}

// optStr is a string or null, which is empty.
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

// spelled takes an integer in either spelling: a number or a decimal string.
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

// int32 is a number: no string, no name of an enum.
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

// float64 is a number; the spellings of those that are not finite are refused.
func (r *otlpReader) float64() float64 {
	f, err := strconv.ParseFloat(string(r.scalar('0', "a number")), 64)
	if err != nil {
		r.fail("a number of 64 bits")
	}
	return f
}

// unixNano is a time as OTLP has it. Zero is "unknown".
func unixNano(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(int64(n/1e9), int64(n%1e9))
}
