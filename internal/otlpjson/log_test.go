package otlpjson

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
)

// encodeLog encodes a record emitted through the SDK and modified by change.
func encodeLog(t *testing.T, r log.Record, change func(*sdklog.Record)) any {
	t.Helper()
	records := recordLogs(t, resource.Empty(), func(l log.Logger) {
		l.Emit(trace.ContextWithSpanContext(t.Context(), spanContext(trace.FlagsSampled, false)), r)
	})
	if change != nil {
		change(&records[0])
	}
	frames, lost := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Logs(records) })
	if len(frames) != 1 || frames[0].Records != 1 || lost != (Losses{}) {
		t.Fatalf("got %d frames, lost %+v", len(frames), lost)
	}
	doc := enginetest.DecodeJSON(t, frames[0].Data)
	if got := enginetest.At(doc, "resourceLogs", 0, "scopeLogs", 0, "scope", "name"); got != "iii-go-sdk" {
		t.Errorf("scope %v", got)
	}
	return enginetest.At(doc, "resourceLogs", 0, "scopeLogs", 0, "logRecords", 0)
}

func TestEncodeLog(t *testing.T) {
	var r log.Record
	r.SetTimestamp(testTime)
	r.SetObservedTimestamp(testTime.Add(1))
	r.SetSeverity(log.SeverityInfo)
	r.SetBody(attribute.StringValue("Order processed"))
	r.SetEventName("order.processed")
	r.AddAttributes(
		attribute.String("log.data", "x"), attribute.Map("m", attribute.Int("n", 1)), attribute.Int("3", 3),
		attribute.Int("4", 4), attribute.Int("5", 5), attribute.Int("6", 6),
	)
	got, err := json.Marshal(encodeLog(t, r, nil))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"attributes":[{"key":"log.data","value":{"stringValue":"x"}},{"key":"m","value":{"kvlistValue":{"values":[{"key":"n","value":{"intValue":1}}]}}},{"key":"3","value":{"intValue":3}},{"key":"4","value":{"intValue":4}},{"key":"5","value":{"intValue":5}},{"key":"6","value":{"intValue":6}}],"body":{"stringValue":"Order processed"},"eventName":"order.processed","flags":1,"observedTimeUnixNano":"1767225600000000001","severityNumber":9,"severityText":"INFO","spanId":"00f067aa0ba902b7","timeUnixNano":"1767225600000000000","traceId":"4bf92f3577b34da6a3ce929d0e0e4736"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEncodeBareLog(t *testing.T) {
	got := encodeLog(t, log.Record{}, func(r *sdklog.Record) {
		r.SetObservedTimestamp(testTime)
		r.SetTraceID(trace.TraceID{})
		r.SetSpanID(trace.SpanID{})
		r.SetTraceFlags(0)
	})
	want := map[string]any{
		"timeUnixNano":         "1767225600000000000", // the observed time, because the engine sorts by this member
		"observedTimeUnixNano": "1767225600000000000",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEncodeLogDropped(t *testing.T) {
	var c logCollector
	p := sdklog.NewLoggerProvider(sdklog.WithProcessor(&c), sdklog.WithAttributeCountLimit(1))
	var r log.Record
	r.AddAttributes(attribute.Int("a", 1), attribute.Int("b", 2), attribute.Int("c", 3))
	p.Logger("l").Emit(t.Context(), r)
	frames, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Logs(c.records) })
	got := enginetest.At(enginetest.DecodeJSON(t, frames[0].Data), "resourceLogs", 0, "scopeLogs", 0, "logRecords", 0, "droppedAttributesCount")
	if got != json.Number("2") {
		t.Errorf("dropped %v, want 2", got)
	}
}

// The engine's filters and log triggers compare the severity text, not the number.
func TestEncodeAddsTheSeverityText(t *testing.T) {
	for _, test := range []struct {
		severity   log.Severity
		text       string
		wantNumber any
		wantText   any
	}{
		{log.SeverityTrace1, "", json.Number("1"), "TRACE"},
		{log.SeverityTrace4, "", json.Number("4"), "TRACE"},
		{log.SeverityDebug, "", json.Number("5"), "DEBUG"},
		{log.SeverityInfo, "", json.Number("9"), "INFO"},
		{log.SeverityInfo3, "", json.Number("11"), "INFO"},
		{log.SeverityWarn, "", json.Number("13"), "WARN"},
		{log.SeverityError, "", json.Number("17"), "ERROR"},
		{log.SeverityFatal4, "", json.Number("24"), "FATAL"},
		{log.SeverityInfo, "notice", json.Number("9"), "notice"},
		{log.SeverityUndefined, "", nil, nil},
		{log.SeverityUndefined, "odd", nil, "odd"},
		{log.Severity(-5), "", nil, nil},
		{log.Severity(1 << 40), "", json.Number("24"), "FATAL"},
	} {
		var r log.Record
		r.SetSeverity(test.severity)
		r.SetSeverityText(test.text)
		got := encodeLog(t, r, nil)
		if n := enginetest.At(got, "severityNumber"); n != test.wantNumber {
			t.Errorf("severity %d: number %v, want %v", test.severity, n, test.wantNumber)
		}
		if s := enginetest.At(got, "severityText"); s != test.wantText {
			t.Errorf("severity %d: text %v, want %v", test.severity, s, test.wantText)
		}
	}
}

// The engine drops frames whose JSON is nested 128 or more levels deep. Values nested to any
// depth must arrive complete, as attributes and as bodies, without exceeding that limit.
func TestEncodeDeepLog(t *testing.T) {
	for _, depth := range []int{1, 24, 25, 30, 64, 500} {
		var r log.Record
		r.SetTimestamp(time.Now())
		v := nested(depth, attribute.StringValue("leaf"))
		r.SetBody(v)
		r.AddAttributes(attribute.KeyValue{Key: "log.data", Value: v})
		got := encodeLog(t, r, nil)
		for _, value := range []any{enginetest.At(got, "body"), enginetest.At(got, "attributes", 0, "value")} {
			levels := 0
			for enginetest.At(value, "kvlistValue") != nil {
				value = enginetest.At(value, "kvlistValue", "values", 0, "value")
				levels++
			}
			var rest any = enginetest.At(value, "stringValue")
			if text, _ := rest.(string); levels < depth {
				if err := json.Unmarshal([]byte(text), &rest); err != nil {
					t.Fatalf("depth %d: %v in %q", depth, err, text)
				}
			}
			for enginetest.At(rest, "d") != nil {
				rest = enginetest.At(rest, "d")
				levels++
			}
			if levels != depth || rest != "leaf" {
				t.Errorf("depth %d: got %d levels down to %v", depth, levels, rest)
			}
		}
	}
}
