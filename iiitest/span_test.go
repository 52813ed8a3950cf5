package iiitest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// take ingests telemetry frames as if they had arrived on /otel, and fails the test if one of
// them is rejected.
func take(t testing.TB, e *Engine, frames ...string) {
	t.Helper()
	for _, f := range frames {
		rejected := e.Stats().TelemetryRejected
		e.ingest("", "", []byte(f))
		if e.Stats().TelemetryRejected != rejected {
			t.Fatalf("not taken: %s", f)
		}
	}
}

// TestSpan decodes a span with all OTLP fields, integers written as numbers and as strings,
// and members in an unusual order.
func TestSpan(t *testing.T) {
	e := Start(t)
	take(t, e, `OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[{
		"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","parentSpanId":"00f067aa0ba902b7",
		"traceState":"x=y","flags":769,"name":"n","kind":3,"startTimeUnixNano":"1767225600000000001","endTimeUnixNano":1767225600000000002,
		"attributes":[
			{"key":"s","value":{"stringValue":""}},{"key":"b","value":{"boolValue":false}},
			{"key":"i","value":{"intValue":"-9007199254740993"}},{"key":"f","value":{"doubleValue":2}},
			{"key":"bytes","value":{"bytesValue":"AAEC/w=="}},{"key":"none","value":{}},{"key":"gone","value":null},
			{"key":"list","value":{"arrayValue":{"values":[{"intValue":1},{"doubleValue":1},{"bytesValue":"AA=="},{}]}}},
			{"key":"map","value":{"kvlistValue":{"values":[{"key":"b","value":{"intValue":1}},{"key":"a","value":{"doubleValue":0.5}},{"key":"b","value":{"intValue":2}}]}}},
			{"key":"Authorization","value":{"stringValue":"Bearer s3cret"}}],
		"events":[{"name":"e","timeUnixNano":"1767225600000000003","attributes":[{"key":"password","value":{"intValue":1}}],"droppedAttributesCount":4}],
		"links":[{"traceId":"t","spanId":"s","traceState":"","flags":256,"attributes":[{"key":"k","value":{"boolValue":true}}],"droppedAttributesCount":5}],
		"status":{"code":2,"message":"boom"},"droppedAttributesCount":1,"droppedEventsCount":2,"droppedLinksCount":3}],
		"schemaUrl":"scope-schema","scope":{"version":"2","name":"lib","attributes":[{"key":"sa","value":{"intValue":7}}]}}],
		"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"svc"}}]},"schemaUrl":"resource-schema"}]}`)
	want := []Span{{
		TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331", ParentSpanID: "00f067aa0ba902b7",
		TraceState: "x=y", Flags: 769, Name: "n", Kind: trace.SpanKindClient,
		Start: time.Unix(1767225600, 1), End: time.Unix(1767225600, 2),
		Attributes: map[string]any{
			"s": "", "b": false, "i": int64(-9007199254740993), "f": 2.0, "bytes": []byte{0, 1, 2, 255}, "none": nil,
			"list": []any{int64(1), 1.0, []byte{0}, nil}, "map": map[string]any{"a": 0.5, "b": int64(2)},
			"Authorization": "Bearer s3cret",
		},
		Events:   []Event{{Name: "e", Time: time.Unix(1767225600, 3), Attributes: map[string]any{"password": int64(1)}, DroppedAttributes: 4}},
		Links:    []Link{{TraceID: "t", SpanID: "s", Flags: 256, Attributes: map[string]any{"k": true}, DroppedAttributes: 5}},
		Status:   Status{Code: codes.Error, Message: "boom"},
		Resource: Resource{Attributes: map[string]any{"service.name": "svc"}, SchemaURL: "resource-schema"},
		Scope:    Scope{Name: "lib", Version: "2", SchemaURL: "scope-schema", Attributes: map[string]any{"sa": int64(7)}},

		DroppedAttributes: 1, DroppedEvents: 2, DroppedLinks: 3,
	}}
	if diff := cmp.Diff(want, e.Traces()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The engine stores all values as strings. It replaces bytes with an empty string and
	// redacts secrets.
	listed, bad := e.invoke(t.Context(), "engine::traces::tree", defaultNamespace, []byte(`{"trace_id":"0af7651916cd43dd8448eb211c80319c"}`))
	if bad != nil {
		t.Fatal(bad)
	}
	stored := `{"roots":[{"attributes":[["s",""],["b","false"],["i","-9007199254740993"],["f","2"],["bytes",""],["none",""],` +
		`["list","[1,1.0,null,null]"],["map","{\"a\":0.5,\"b\":2}"],["Authorization","[REDACTED]"]],"children":[],` +
		`"end_time_unix_nano":1767225600000000002,"events":[{"attributes":[["password","[REDACTED]"]],"name":"e","timestamp_unix_nano":1767225600000000003}],` +
		`"flags":769,"instrumentation_scope_name":"lib","instrumentation_scope_version":"2",` +
		`"links":[{"attributes":[["k","true"]],"span_id":"s","trace_id":"t","trace_state":""}],"name":"n","parent_span_id":"00f067aa0ba902b7",` +
		`"service_name":"svc","span_id":"b7ad6b7169203331","start_time_unix_nano":1767225600000000001,"status":"error","status_description":"boom",` +
		`"trace_id":"0af7651916cd43dd8448eb211c80319c"}],"storage":{"archive":"disabled","completeness":"complete","known_dropped_spans":0,` +
		`"last_error":null,"max_disk_bytes":0,"physical_bytes":0}}`
	if diff := cmp.Diff(stored, string(listed)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestSpanStatus(t *testing.T) {
	for code, want := range map[int32]struct {
		code codes.Code
		text string
	}{0: {codes.Unset, "unset"}, 1: {codes.Ok, "ok"}, 2: {codes.Error, "error"}, 3: {codes.Unset, "unset"}, -1: {codes.Unset, "unset"}} {
		if got, text := spanStatus(code); got != want.code || text != want.text {
			t.Errorf("%d: got %v %s, want %v", code, got, text, want)
		}
	}
}
