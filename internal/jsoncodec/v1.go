//go:build !go1.27 || !goexperiment.jsonv2

package jsoncodec

import (
	"bytes"
	"encoding/json"
)

// Encoder appends JSON to a buffer, without escapes for HTML.
type Encoder struct {
	b *bytes.Buffer
	e *json.Encoder
}

// NewEncoder returns an encoder for b.
func NewEncoder(b *bytes.Buffer) *Encoder {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return &Encoder{b, e}
}

// Encode appends v as encoding/json does. After an error, or a panic of v, part of it may
// have been appended.
func (e *Encoder) Encode(v any) error {
	ended := false
	defer func() {
		if !ended { // v panics
			*e = *NewEncoder(e.b)
		}
	}()
	err := e.e.Encode(v)
	ended = true
	if err == nil {
		e.b.Truncate(e.b.Len() - 1) // the newline
	}
	return err
}

// Decode decodes b, which must be valid JSON, into v as [json.Unmarshal] does.
func Decode(b []byte, v any) error { return json.Unmarshal(b, v) }
