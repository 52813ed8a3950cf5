//go:build go1.27 && goexperiment.jsonv2

package jsoncodec

import (
	"encoding/json"
	jsonv2 "encoding/json/v2"
	"reflect"
)

var decoding = jsonv2.JoinOptions(json.DefaultOptionsV1(), json.ReportErrorsWithLegacySemantics(false))

// Decode decodes b, which must be valid JSON, into v as [json.Unmarshal] does.
//
// To return the errors of encoding/json, the whole text must be checked before it is decoded.
// Decode therefore first decodes without this check, and only after an error decodes again
// with json.Unmarshal. If the target was not empty, it cannot be decoded into twice, so Decode
// uses json.Unmarshal immediately.
func Decode(b []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() || !target.Elem().IsZero() {
		return json.Unmarshal(b, v)
	}
	if jsonv2.Unmarshal(b, v, decoding) == nil {
		return nil
	}
	target.Elem().SetZero()
	return json.Unmarshal(b, v)
}
