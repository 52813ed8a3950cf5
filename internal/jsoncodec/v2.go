//go:build go1.27 && goexperiment.jsonv2

package jsoncodec

import (
	"bytes"
	"encoding/json"
	"encoding/json/jsontext"
	jsonv2 "encoding/json/v2"
)

// Encoder appends JSON to a buffer, without escapes for HTML.
type Encoder struct{ b *bytes.Buffer }

// NewEncoder returns an encoder for b.
func NewEncoder(b *bytes.Buffer) *Encoder { return &Encoder{b} }

var (
	encoding = jsonv2.JoinOptions(json.DefaultOptionsV1(), jsontext.EscapeForHTML(false))
	decoding = jsonv2.JoinOptions(json.DefaultOptionsV1(), json.ReportErrorsWithLegacySemantics(false))
)

// Encode appends v as encoding/json does. After an error, or a panic of v, part of it may
// have been appended.
func (e *Encoder) Encode(v any) error { return jsonv2.MarshalWrite(e.b, v, encoding) }

// Decode decodes b, which must be valid JSON, into v as [json.Unmarshal] does. Values of v
// that decode themselves may be called twice if there is an error.
//
// The errors of encoding/json require it to check all of its input first.
func Decode(b []byte, v any) error {
	if jsonv2.Unmarshal(b, v, decoding) == nil {
		return nil
	}
	return json.Unmarshal(b, v)
}
