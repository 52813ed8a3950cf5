//go:build !go1.27 || !goexperiment.jsonv2

package jsoncodec

import "encoding/json"

// Decode decodes b, which must be valid JSON, into v as [json.Unmarshal] does.
func Decode(b []byte, v any) error { return json.Unmarshal(b, v) }
