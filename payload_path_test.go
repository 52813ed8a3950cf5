package iii

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// The path in the answer to a payload that does not decode is the caller's: it
// knows the keys of the JSON and nothing of the types inside.
func TestPayloadErrorNamesTheField(t *testing.T) {
	type line struct {
		Quantity int `json:"quantity"`
	}
	type order struct {
		Lines []line `json:"lines"`
	}
	for _, test := range []struct {
		name, payload, want string
		into                any
	}{
		{"field", `{"quantity":"two"}`, "payload at quantity: got string, want integer (int)", new(line)},
		{"nested", `{"lines":[{"quantity":true}]}`, "quantity: got bool, want integer (int)", new(order)},
		{"HTTP body", `{"method":"POST","body":{"quantity":"two"}}`, "payload at body.quantity: got string, want integer (int)", new(HTTPRequest[line])},
		{"not an object", `[1]`, "payload: got array, want object", new(line)},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := decodePayload(json.RawMessage(test.payload), test.into)
			var e *Error
			if !errors.As(err, &e) || e.Code != "invalid_request" || !strings.Contains(e.Message, test.want) || strings.Contains(e.Message, "plain") {
				t.Errorf("error = %v, want code invalid_request and %q", err, test.want)
			}
		})
	}
}
