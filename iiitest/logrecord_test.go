package iiitest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	otellog "go.opentelemetry.io/otel/log"
)

// TestLogRecord decodes a record with all OTLP fields and checks what the engine stores.
func TestLogRecord(t *testing.T) {
	e := Start(t)
	take(t, e, `LOGS{"resourceLogs":[{"schemaUrl":"u","resource":{"attributes":[
			{"key":"service.name","value":{"stringValue":"svc"}},{"key":"n","value":{"arrayValue":{"values":[{"intValue":5}]}}}]},
		"scopeLogs":[{"scope":{"name":"lib","version":"2"},"logRecords":[{
			"timeUnixNano":"1000000001","observedTimeUnixNano":1000000002,"severityNumber":13,"severityText":"WARN",
			"body":{"kvlistValue":{"values":[{"key":"text","value":{"stringValue":"a\u001b[31mb"}}]}},
			"attributes":[{"key":"color","value":{"stringValue":"\u001b[1;31mred\u001b[0m"}},
				{"key":"log.data","value":{"kvlistValue":{"values":[{"key":"f","value":{"doubleValue":2}},{"key":"c","value":{"stringValue":"\u001b[0m"}}]}}},
				{"key":"raw","value":{"bytesValue":"AQ=="}}],
			"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","flags":1,"eventName":"ev","droppedAttributesCount":3}]},
		{"logRecords":[{"body":{"stringValue":"\u001b[32mgreen\u001b[K"},"traceId":"000","spanId":""}]}]}]}`)
	resource := Resource{Attributes: map[string]any{"service.name": "svc", "n": []any{int64(5)}}, SchemaURL: "u"}
	want := []LogRecord{
		{
			Time: time.Unix(1, 1), Observed: time.Unix(1, 2), Severity: otellog.SeverityWarn, SeverityText: "WARN",
			Body: map[string]any{"text": "a\x1b[31mb"},
			Attributes: map[string]any{
				"color": "\x1b[1;31mred\x1b[0m", "log.data": map[string]any{"f": 2.0, "c": "\x1b[0m"}, "raw": []byte{1},
			},
			TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331", Flags: 1, EventName: "ev", DroppedAttributes: 3,
			Resource: resource, Scope: Scope{Name: "lib", Version: "2"},
		},
		{Body: "\x1b[32mgreen\x1b[K", Resource: resource},
	}
	if diff := cmp.Diff(want, e.Logs()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	trace, span := "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	texts := iii.StringMap{"service.name": "svc", "n": "[5]"}
	stored := iii.List[iii.StoredLog]{
		{
			TimestampUnixNano: 1000000001, ObservedTimestampUnixNano: 1000000002, SeverityNumber: 13, SeverityText: "WARN",
			Body: `{"text":"a` + `\u001b[31mb"}`,
			Attributes: iii.Map[iii.JSONValue]{
				"color": iii.JSONValue(`"red"`), "log.data": iii.JSONValue(`{"c":"\u001b[0m","f":2.0}`), "raw": iii.JSONValue("null"),
			},
			TraceID: &trace, SpanID: &span, Resource: texts, ServiceName: "svc",
			InstrumentationScopeName: "lib", InstrumentationScopeVersion: "2",
		},
		{Body: "green", Attributes: iii.Map[iii.JSONValue]{}, Resource: texts, ServiceName: "svc"},
	}
	if diff := cmp.Diff(stored, callBuiltin[iii.LogsListResult](t, e, "engine::logs::list", `{}`).Logs); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// TestLogTriggerFromTelemetry expects one call for each record whose severity text equals the
// trigger's level, ignoring case.
func TestLogTriggerFromTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		p := newPeer(t, e)
		p.handle("f", `null`)
		p.trigger("t", "log", "f", `{"level":"error"}`, "")
		p.fence()
		take(t, e, `LOGS{"resourceLogs":[{"scopeLogs":[{"scope":{"version":"1"},"logRecords":[
			{"severityNumber":17,"severityText":"Error","body":{"stringValue":"one"}},{"severityNumber":17,"body":{"stringValue":"no text"}},
			{"severityText":"WARN","body":{"stringValue":"warning"}},{"severityText":"ERROR","body":{"intValue":2},"timeUnixNano":"7"}]}]}]}`)
		synctest.Wait()
		record := func(body, number, text, time string) string {
			return `f {"attributes":{},"body":"` + body + `","instrumentation_scope_name":null,"instrumentation_scope_version":"1","observed_timestamp_unix_nano":0,` +
				`"resource":{},"service_name":"unknown","severity_number":` + number + `,"severity_text":"` + text + `","span_id":null,"timestamp_unix_nano":` + time + `,"trace_id":null}`
		}
		p.wantCalls(record("one", "17", "Error", "0"), record("2", "0", "ERROR", "7"))
		p.close()
	})
}
