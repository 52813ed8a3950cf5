package enginetest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// acceptanceCase is a record that was sent to an engine in a separate frame.
type acceptanceCase struct {
	Signal, Case         string
	Span, Metric, Record json.RawMessage
	Kept                 bool
}

func (c acceptanceCase) frame() (prefix string, data []byte) {
	envelope := func(resources, scopes, records string, record []byte) []byte {
		return fmt.Appendf(nil, `{%q:[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"acc"}}]},%q:[{"scope":{"name":"s"},%q:[%s]}]}]}`,
			resources, scopes, records, record)
	}
	switch c.Signal {
	case "traces":
		if string(c.Span) == `"…"` { // too long for the recording
			c.Span = fmt.Appendf(nil, `{"traceId":"00000000000000000000000000000048","spanId":"b7ad6b7169203331","name":"n","attributes":[{"key":"k","value":{"stringValue":%q}}]}`,
				strings.Repeat("x", 1<<20))
		}
		return "OTLP", envelope("resourceSpans", "scopeSpans", "spans", c.Span)
	case "metrics":
		return "MTRC", envelope("resourceMetrics", "scopeMetrics", "metrics", c.Metric)
	default:
		return "LOGS", envelope("resourceLogs", "scopeLogs", "logRecords", c.Record)
	}
}

func acceptanceCases(t testing.TB) []acceptanceCase {
	t.Helper()
	data, err := os.ReadFile("../../testdata/0.23/otlp-acceptance.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []acceptanceCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// The recording states for each record whether the engine kept it.
func TestValidatorAgreesWithEngine(t *testing.T) {
	cases := acceptanceCases(t)
	if len(cases) != 115 {
		t.Errorf("got %d cases, want 115", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Signal+"/"+c.Case, func(t *testing.T) {
			prefix, data := c.frame()
			if err := ValidateFrame(prefix, data); (err == nil) != c.Kept {
				t.Errorf("kept by the engine: %v, validator: %v", c.Kept, err)
			}
		})
	}
}

// These cases are not in the recording. They follow from the specification.
func TestValidator(t *testing.T) {
	span := func(members string) string {
		return `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"a","spanId":"b","name":"n"` + members + `}]}]}]}`
	}
	for _, test := range []struct {
		name, data string
		ok         bool
	}{
		{"plain", span(``), true},
		{"null list", span(`,"attributes":null`), false},
		{"resource null", `{"resourceSpans":[{"resource":null,"scopeSpans":[]}]}`, true},
		{"resource attributes null", `{"resourceSpans":[{"resource":{"attributes":null},"scopeSpans":[]}]}`, false},
		{"key twice", span(`,"name":"n"`), false},
		{"unknown key twice", span(`,"x":1,"x":2`), true},
		{"surrogate pair", span(`,"x":"\ud83d\ude00"`), true},
		{"lone high surrogate", span(`,"x":"\ud83d"`), false},
		{"lone low surrogate", span(`,"x":"\ude00"`), false},
		{"escaped backslash before u", span(`,"x":"\\ude00"`), true},
		{"no UTF-8", span(",\"x\":\"\xff\""), false},
		{"number too great", span(`,"attributes":[{"key":"k","value":{"doubleValue":1e999}}]`), false},
		{"text after", span(``) + "{}", false},
		{"nested 127", `{"x":` + strings.Repeat("[", 126) + strings.Repeat("]", 126) + `}`, true},
		{"nested 128", `{"x":` + strings.Repeat("[", 127) + strings.Repeat("]", 127) + `}`, false},
		{"too large", `{"x":"` + strings.Repeat("x", maxFrameBytes) + `"}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := ValidateFrame("OTLP", []byte(test.data)); (err == nil) != test.ok {
				t.Errorf("valid: want %v, got %v", test.ok, err)
			}
		})
	}
	if err := ValidateFrame("XXXX", []byte("{}")); err == nil {
		t.Error("an unknown prefix is accepted")
	}
}
