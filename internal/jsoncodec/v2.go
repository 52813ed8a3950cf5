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
// The errors of encoding/json require it to check all of its input first. Here that is done
// only once there is an error, or what it does not take for one; a target that has not been
// empty could not be decoded into again.
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
