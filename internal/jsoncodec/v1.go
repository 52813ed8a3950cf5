//go:build !go1.27 || !goexperiment.jsonv2

package jsoncodec

import "encoding/json"

func decodeStandard(b []byte, v any) error { return json.Unmarshal(b, v) }
