package iiitest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// acceptance is one frame with a single record that the engine was given, and
// what its query functions then gave back.
type acceptance struct {
	Signal string          `json:"signal"`
	Case   string          `json:"case"`
	Span   json.RawMessage `json:"span"`
	Metric json.RawMessage `json:"metric"`
	Record json.RawMessage `json:"record"`
	Kept   bool            `json:"kept"`
	As     json.RawMessage `json:"as"`
}

func readAcceptance(tb testing.TB) []acceptance {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "recordings", "otlp-acceptance.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var cases []acceptance
	if err := json.Unmarshal(data, &cases); err != nil {
		tb.Fatal(err)
	}
	for i := range cases {
		if c := &cases[i]; c.Case == "1 MiB attribute" { // cut from the recording
			long := strings.Repeat("x", 1<<20)
			c.Span = bytes.Replace(cases[0].Span, []byte(`"stringValue": "v"`), []byte(`"stringValue": "`+long+`"`), 1)
			c.As = bytes.Replace(cases[0].As, []byte(`"v"`), []byte(`"`+long+`"`), 1)
		}
	}
	return cases
}

// frame is the whole frame, as it was sent.
func (a acceptance) frame() []byte {
	const head = `[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"acc"}}]},"`
	switch a.Signal {
	case "traces":
		return []byte(`OTLP{"resourceSpans":` + head + `scopeSpans":[{"scope":{"name":"s"},"spans":[` + string(a.Span) + `]}]}]}`)
	case "metrics":
		return []byte(`MTRC{"resourceMetrics":` + head + `scopeMetrics":[{"scope":{"name":"s"},"metrics":[` + string(a.Metric) + `]}]}]}`)
	default:
		return []byte(`LOGS{"resourceLogs":` + head + `scopeLogs":[{"scope":{"name":"s"},"logRecords":[` + string(a.Record) + `]}]}]}`)
	}
}

// query asks for the record; nil if it was not kept.
func (a acceptance) query(t *testing.T, e *Engine) any {
	t.Helper()
	ask := func(id string, input any, list string, is func(item map[string]any) bool) any {
		t.Helper()
		result, bad := e.invoke(t.Context(), id, defaultNamespace, mustEncode(input))
		if bad != nil {
			t.Fatalf("%s: %+v", id, bad)
		}
		for _, item := range decode(t, result).(map[string]any)[list].([]any) {
			if is(item.(map[string]any)) {
				return item
			}
		}
		return nil
	}
	first := func(map[string]any) bool { return true }
	switch a.Signal {
	case "traces":
		id := decode(t, a.Span).(map[string]any)["traceId"]
		return ask("engine::traces::tree", map[string]any{"trace_id": id}, "roots", first)
	case "metrics":
		name := decode(t, a.Metric).(map[string]any)["name"]
		metric := ask("engine::metrics::list", map[string]any{"metric_name": name}, "sdk_metrics", first)
		if m, ok := metric.(map[string]any); ok {
			delete(m, "timestamp_unix_nano") // when it arrived
		}
		return metric
	default:
		body := decode(t, a.Record).(map[string]any)["body"].(map[string]any)["stringValue"]
		return ask("engine::logs::list", map[string]any{}, "logs", func(item map[string]any) bool { return item["body"] == body })
	}
}

// TestAcceptance gives every recorded frame to the engine: it must keep and lose
// the same ones, and give back the same.
func TestAcceptance(t *testing.T) {
	cases := readAcceptance(t)
	if len(cases) != 115 {
		t.Errorf("%d cases", len(cases))
	}
	e := Start(t)
	for _, a := range cases {
		t.Run(a.Signal+" "+a.Case, func(t *testing.T) {
			e.spans.clear()
			e.ingest("", "", a.frame())
			var want any
			if a.Kept {
				want = decode(t, a.As)
				if m := want.(map[string]any); a.Signal == "metrics" {
					delete(m, "timestamp_unix_nano")
				}
			}
			if diff := cmp.Diff(want, a.query(t, e)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
