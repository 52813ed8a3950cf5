package iiitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

// acceptance is a single record that was sent to a real engine, together with the engine's
// reply to a query for the record.
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
	data, err := os.ReadFile(filepath.Join("..", "testdata", "0.23", "otlp-acceptance.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var cases []acceptance
	if err := json.Unmarshal(data, &cases); err != nil {
		tb.Fatal(err)
	}
	for i := range cases {
		if c := &cases[i]; c.Case == "1 MiB attribute" { // omitted from the recording
			long := strings.Repeat("x", 1<<20)
			c.Span = bytes.Replace(cases[0].Span, []byte(`"stringValue": "v"`), []byte(`"stringValue": "`+long+`"`), 1)
			c.As = bytes.Replace(cases[0].As, []byte(`"v"`), []byte(`"`+long+`"`), 1)
		}
	}
	return cases
}

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

// query returns the record as the engine's query function returns it, or nil if the record was
// not stored.
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
			delete(m, "timestamp_unix_nano") // time of arrival
		}
		return metric
	default:
		body := decode(t, a.Record).(map[string]any)["body"].(map[string]any)["stringValue"]
		return ask("engine::logs::list", map[string]any{}, "logs", func(item map[string]any) bool { return item["body"] == body })
	}
}

// TestTelemetryIsKeptAsRecorded checks that the engine stores and returns each recorded item
// as a real engine did.
func TestTelemetryIsKeptAsRecorded(t *testing.T) {
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

// storesOnly returns an engine without listeners or background goroutines.
func storesOnly(items, bytes int) *Engine {
	e := &Engine{cfg: defaultConfig(), log: slog.New(slog.DiscardHandler), ctx: context.Background()}
	e.telemetry.init(items, bytes)
	e.spans.init(items, bytes)
	e.metrics.init(items, bytes)
	e.cfg.telemetryBytes = bytes
	e.logs = newLogs(e)
	return e
}

// nested returns a log record with an attribute whose value consists of depth nested maps.
func nested(depth int) string {
	value := `{"stringValue":"leaf"}`
	for range depth {
		value = `{"kvlistValue":{"values":[{"key":"d","value":` + value + `}]}}`
	}
	return `LOGS{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"attributes":[{"key":"a","value":` + value + `}]}]}]}]}`
}

func TestInvalidTelemetryDiscardsTheFrame(t *testing.T) {
	span := func(more string) string {
		return `OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"t","spanId":"s","name":"n"` + more + `}]}]}]}`
	}
	log := func(record string) string {
		return `LOGS{"resourceLogs":[{"scopeLogs":[{"logRecords":[{` + record + `}]}]}]}`
	}
	gauge := func(point string) string {
		return `MTRC{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{` + point + `}]}}]}]}]}`
	}
	deep := strings.Repeat("[", 300) + strings.Repeat("]", 300)
	for frame, kept := range map[string]bool{
		`OTLP{}`:                        true,
		`OTLP {"resourceSpans": [ ] } `: true,
		`OTLP{"resource_spans":null}`:   true,
		`OTLP{"resourceSpans":null}`:    false,
		`OTLP{"resourceSpans":{}}`:      false,
		`OTLP[]`:                        false,
		`OTLPnull`:                      false,
		`OTLP`:                          false,
		`OTLP{}{}`:                      false,
		`OTLP{"a":"` + "\xff" + `"}`:    false,
		`MTRC{"resourceMetrics":[{"resource":{"attributes":null}}]}`:                                                 false,
		`LOGS{"resourceLogs":[{"resource":null,"scopeLogs":[]}]}`:                                                    true,
		`LOGS{"resourceLogs":[{"scopeLogs":[{"scope":null}]}]}`:                                                      true,
		`LOGS{"resourceLogs":[{"scopeLogs":[{"scope":{"name":null,"version":null,"attributes":7}}],"schemaUrl":7}]}`: true,
		`LOGS{"resourceLogs":[{"scopeLogs":[{"scope":{"name":7}}]}]}`:                                                false,
		`LOGS{"resourceLogs":[null]}`:                                                                                false,
		span(``):                                                                                                     true,
		span(`,"flags":null`):                                                                                        true,
		span(`,"flags":-1`):                                                                                          false,
		span(`,"flags":4294967296`):                                                                                  false,
		span(`,"kind":1.0`):                                                                                          false,
		span(`,"traceState":7,"droppedEventsCount":"x","x":` + deep):                                                 true,
		span(`,"name":"again"`):                                                                                      false,
		span(`,"trace_id":null,"TraceId":1`):                                                                         true,
		span(`,"status":{"message":"\ud800"}`):                                                                       false,
		span(`,"\udc00":1`):                                                                                          false,
		span(`,"x":"\ud800"`):                                                                                        true,
		span(`,"status":{"code":1,"message":null}`):                                                                  true,
		span(`,"status":{"message":7}`):                                                                              false,
		span(`,"attributes":[null]`):                                                                                 false,
		span(`,"attributes":[{"key":null,"value":{}}]`):                                                              false,
		span(`,"attributes":[{"key":"k","value":{"stringValue":null,"intValue":null,"boolValue":null,"arrayValue":null,"kvlistValue":null}}]`): true,
		span(`,"attributes":[{"key":"k","value":{"bytesValue":7}}]`):                                                                           true,
		span(`,"attributes":[{"key":"k","value":{"doubleValue":1e400}}]`):                                                                      false,
		span(`,"attributes":[{"key":"k","value":{"arrayValue":{"values":[null]}}}]`):                                                           false,
		span(`,"attributes":[{"key":"k","value":{"kvlistValue":{"values":null}}}]`):                                                            false,
		span(`,"attributes":[{"key":"k","value":"v"}]`):                                                                                        false,
		span(`,"links":[{}]`): true,
		span(`,"links":[{"traceId":"t","traceState":null,"flags":"1"}]`):                   true,
		span(`,"links":[{"attributes":null}]`):                                             false,
		span(`,"startTimeUnixNano":18446744073709551616`):                                  false,
		log(`"severityText":null,"body":null,"eventName":7,"droppedAttributesCount":null`): true,
		log(`"flags":"1"`):                              false,
		log(`"severityNumber":2147483648`):              false,
		log(`"timeUnixNano":null`):                      false,
		log(`"traceId":7`):                              false,
		gauge(`"asInt":null,"exemplars":7,"flags":"x"`): true,
		gauge(`"timeUnixNano":null`):                    false,
		gauge(`"asInt":""`):                             false,
		gauge(`"count":null`):                           true,
		nested(29):                                      true,
		nested(30):                                      false,
	} {
		e := storesOnly(10, 1<<20)
		e.ingest("", "", []byte(frame))
		if got := e.Stats().TelemetryRejected == 0; got != kept {
			t.Errorf("kept: %v, want %v: %.200s", got, kept, frame)
		}
	}
}

func TestFloatsAsTheEngineWritesThem(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", 2: "2.0", -2.5: "-2.5", 0.1: "0.1", 1e15: "1000000000000000.0", 1e16: "1e16", -1.5e300: "-1.5e300",
		1e-5: "0.00001", 1.5e-6: "1.5e-6", 1e-300: "1e-300", math.Inf(1): "null", math.MaxFloat64: "1.7976931348623157e308",
	} {
		if got := string(mustEncode(float(f))); got != want {
			t.Errorf("%v: got %s, want %s", f, got, want)
		}
	}
	if got := string(mustEncode(float(math.NaN()))); got != "null" {
		t.Errorf("NaN: %s", got)
	}
	if got := valueText(1e21); got != "1000000000000000000000" {
		t.Errorf("as text: %s", got)
	}
}

// FuzzIngest checks that arbitrary data does not make the engine panic or exceed its limits,
// and that query results have the declared types.
func FuzzIngest(f *testing.F) {
	for _, a := range readAcceptance(f) {
		if len(a.Span) < 10_000 {
			f.Add(a.frame())
		}
	}
	for _, name := range []string{"telemetry", "gauges-and-trace-trigger"} {
		for _, e := range readRecording(f, name) {
			if e.Prefix != "" {
				f.Add([]byte(e.Prefix + string(e.OTLP)))
			}
		}
	}
	f.Add([]byte(`MTRC{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","sum":{"dataPoints":[{"asDouble":1e308},{"asDouble":1e308}]}}]}]}]}`))
	f.Add([]byte(`OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"t","spanId":"a","parentSpanId":"b","name":""},{"traceId":"t","spanId":"b","parentSpanId":"a","name":""}]}]}]}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if telemetryTag(frame) == "" {
			return
		}
		e := storesOnly(8, 1<<14)
		e.ingest("", "", frame)
		e.ingest("", "", frame)
		if n, bytes := e.spans.stored(); n > 8 || bytes > 1<<14 {
			t.Errorf("%d spans, %d bytes", n, bytes)
		}
		if n := len(e.Traces()) + len(e.LiveSpans()) + len(e.Logs()) + len(e.Metrics()) + len(e.Telemetry()); n > 5*8 {
			t.Errorf("%d records", n)
		}
		trace := "t"
		if spans := e.spans.view().spans; len(spans) > 0 {
			trace = spans[len(spans)-1].TraceID
		}
		for id, q := range map[string]struct {
			f             builtinFunc
			input, result any
		}{
			"engine::traces::list":     {e.listTraces, iii.TracesListInput{SearchAllSpans: true, SortBy: "duration"}, new(iii.TracesListResult)},
			"engine::traces::tree":     {e.traceTree, iii.TracesTreeInput{TraceID: trace}, new(iii.TracesTreeResult)},
			"engine::traces::group_by": {e.groupTraces, iii.TracesGroupByInput{Attribute: "k"}, new(iii.TracesGroupByResult)},
			"engine::logs::list":       {e.logs.list, iii.LogsListInput{}, new(iii.LogsListResult)},
			"engine::metrics::list": {
				e.listMetrics, map[string]any{"start_time": 0, "end_time": 1 << 43, "aggregate_interval": 60}, new(iii.MetricsListResult),
			},
		} {
			answer, bad := q.f(t.Context(), &call{functionID: id, data: mustEncode(q.input)})
			if bad != nil {
				t.Fatalf("%s: %+v", id, bad)
			}
			if err := json.Unmarshal(answer, q.result); err != nil {
				t.Errorf("%s: %v: %s", id, err, answer)
			}
		}
	})
}

// BenchmarkIngest ingests frames of 512 spans with ten attributes each.
func BenchmarkIngest(b *testing.B) {
	attributes := map[string]string{}
	for i := range 10 {
		attributes[fmt.Sprint("attribute.", i)] = "value"
	}
	var spans []string
	for i := range 512 {
		spans = append(spans, testSpan{
			trace: fmt.Sprintf("%032x", i/4), id: fmt.Sprintf("%016x", i), name: "execute orders::create", start: 1, end: 2, attributes: attributes,
		}.json())
	}
	frame := []byte(`OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}`)
	e := storesOnly(10_000, 64<<20)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		e.ingest("", "", frame)
	}
}
