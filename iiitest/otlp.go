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

// maxOTLPDepth is the nesting limit of telemetry frames. The engine's parser rejects the 128th
// level.
const maxOTLPDepth = 127

var errTooDeep = errors.New("nested too deeply")

// otlpReader decodes OTLP JSON as a real engine does. It skips unknown keys and their values,
// and rejects the whole frame if a known key has a value of the wrong type. Keys must match
// exactly, in lower camel case. A null is treated as a wrong type unless a method documents
// otherwise. After the first error, all methods do nothing.
type otlpReader struct {
	s     scanner
	depth int
	at    string // current key, for errors
	err   error
}

// readOTLP reads a frame, without its tag, by calling f.
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

// lenient lets f read a value that the engine skips. It ignores errors and does not consume
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

// object reads an object and calls member for each key. If member knows the key, it must read
// the value exactly once and return true. The object must contain the required keys.
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

// array reads an array. item must read one element.
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

// null reports whether the next value is null, and consumes it if so.
func (r *otlpReader) null() bool {
	if r.err != nil || r.s.next() != 'n' {
		return false
	}
	r.s.value()
	return true
}

// scalar consumes a value of the given kind (see kindOf).
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

// unquote decodes a JSON string. It rejects lone surrogates, which the engine accepts only in
// values that it skips.
func (r *otlpReader) unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') >= 0 && syntaxError(raw) != "" {
		r.fail("a string of whole characters")
	}
	return unquote(raw)
}

// optStr reads a string. Null is read as "".
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

// spelled consumes an integer, written as a number or as a decimal string.
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

// int32 reads a number. It rejects strings, including the names of enum values.
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

// float64 reads a number. It rejects strings, including the OTLP forms of infinity and NaN.
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
