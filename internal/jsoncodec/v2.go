//go:build go1.27 && goexperiment.jsonv2

package jsoncodec

import (
	"encoding/json"
	jsonv2 "encoding/json/v2"
)

var decoding = jsonv2.JoinOptions(json.DefaultOptionsV1(), json.ReportErrorsWithLegacySemantics(false))

// decodeStandard decodes b as encoding/json does, but without validating all of b first. Its
// errors differ from encoding/json's.
func decodeStandard(b []byte, v any) error { return jsonv2.Unmarshal(b, v, decoding) }
