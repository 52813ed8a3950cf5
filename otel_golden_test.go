package iii_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// improvement is an intended difference from the recorded telemetry: at a path, a
// recorded value is replaced by a sent one.
type improvement struct {
	name, reason  string
	path          *regexp.Regexp
	recorded, own *regexp.Regexp
	used          int
}

func improves(name, path, recorded, own, reason string) *improvement {
	whole := func(s string) *regexp.Regexp { return regexp.MustCompile("^(" + s + ")$") }
	return &improvement{name: name, reason: reason, path: whole(path), recorded: whole(recorded), own: whole(own)}
}

// absent stands for a missing value.
const absent = "absent"

// improvements lists all intended differences. An unused one fails the test.
var improvements = []*improvement{
	improves("defaults are left out", `.*/record/(attributes|events|links|status/code|status/message|dataPoints|.*/dataPoints/0/attributes)`, `""|0|\[\]`, absent,
		"the standard and the engine treat them alike"),
	improves("the scope has a version", `.*/scope/version`, `""`, `"`+regexp.QuoteMeta(iii.Version)+`"`, "it identifies the version that recorded the data"),
	improves("no version of a scope that has none", `(live|span|metric) .*/scope/version`, `""`, absent, "the empty version is a default as well"),
	improves("span flags", `(live|span) [^/]*/record/flags`, absent, `257`, "a reader sees that the span is sampled"),
	improves("span flags of a remote parent", `(live|span) execute tel::work/record/flags`, absent, `769`, "a reader sees that the parent is remote"),
	improves("link flags", `(live|span) everything/record/links/0/flags`, absent, `769`, "a reader sees that the linked span is remote"),
	improves("log flags", `log working [12]/record/flags`, absent, `1`, "a reader sees that the record's span is sampled"),
	improves("severity text", `log .*/record/severityText`, `""`, `"(DEBUG|INFO|WARN|ERROR)"`, "the engine's filters and log triggers compare only the text"),
	improves("integer histograms", `metric order\.items/record/histogram/.*`, absent, `.*`, "the recorded exporter loses their data"),
	improves("worker gauges", `metric iii\.worker\..*`, absent, `.*`, "the engine shows a worker's metrics if it receives any"),
}

// localImprovements are those of calls that run in process.
var localImprovements = []*improvement{
	improves("no caller in the payload", `span execute tel::work.*/record/events/0/attributes/iii\.payload\.json/stringValue/_caller_worker_id`, `"a worker"`, absent,
		"the engine, which adds it, has no part in the call"),
}

// A program that does the same as the recorded worker sends the engine the same
// telemetry: every span, span start, log record and metric is equal, value by value,
// except for the improvements. Ids, times and names of the SDK are normalised.
func TestGoldenTelemetry(t *testing.T) {
	for _, test := range []struct {
		protocol     iiitest.Protocol
		improvements []*improvement
	}{{iiitest.Protocol023, improvements}, {iiitest.Protocol026, slices.Concat(improvements, localImprovements)}} {
		t.Run(test.protocol.String(), func(t *testing.T) { goldenTelemetry(t, test.protocol, test.improvements) })
	}
}

func goldenTelemetry(t *testing.T, protocol iiitest.Protocol, improvements []*improvement) {
	for _, i := range improvements {
		i.used = 0
	}
	var got []otlpFrame
	synctest.Test(t, func(t *testing.T) { got = recordedProgram(t, protocol) })
	wantRecords, wantShape := otlpRecords(t, recordedTelemetry(t))
	gotRecords, gotShape := otlpRecords(t, got)
	for key := range maps.Keys(gotRecords) {
		if _, ok := wantRecords[key]; !ok {
			wantRecords[key] = map[string]string{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wantRecords)) {
		compareRecords(t, improvements, key, wantRecords[key], gotRecords[key])
	}
	for _, i := range improvements {
		if i.used == 0 {
			t.Errorf("the improvement %q is listed and not needed", i.name)
		} else {
			t.Logf("%4d times: %s: %s", i.used, i.name, i.reason)
		}
	}
	// The recorded exporter has lost this metric's data.
	items := gotRecords["metric order.items"]
	for path, want := range map[string]string{
		"aggregationTemporality": `2`, "dataPoints/0/count": `"1"`, "dataPoints/0/sum": `3`, "dataPoints/0/min": `3`, "dataPoints/0/max": `3`,
		"dataPoints/0/bucketCounts/0": `"0"`, "dataPoints/0/bucketCounts/1": `"1"`, "dataPoints/0/bucketCounts/15": `"0"`, "dataPoints/0/explicitBounds/14": `10000`,
	} {
		if got := items["/record/histogram/"+path]; got != want {
			t.Errorf("order.items: %s is %s, want %s", path, got, want)
		}
	}
	if diff := cmp.Diff(wantShape, gotShape); diff != "" {
		t.Errorf("frames and what is in them (-recorded +own):\n%s", diff)
	}
}

// compareRecords compares the leaves of two records.
func compareRecords(t *testing.T, improvements []*improvement, key string, want, got map[string]string) {
	t.Helper()
	paths := map[string]bool{}
	for p := range want {
		paths[p] = true
	}
	for p := range got {
		paths[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		w, ok := want[p]
		if !ok {
			w = absent
		}
		g, ok := got[p]
		if !ok {
			g = absent
		}
		if w == g {
			continue
		}
		path := key + p
		i := slices.IndexFunc(improvements, func(i *improvement) bool {
			return i.path.MatchString(path) && i.recorded.MatchString(w) && i.own.MatchString(g)
		})
		if i < 0 {
			t.Errorf("%s: recorded %s, own %s", path, w, g)
			continue
		}
		improvements[i].used++
	}
}

// otlpFrame is a frame of telemetry.
type otlpFrame struct {
	prefix string
	data   []byte
}

// recordedTelemetry returns the frames of the recording.
func recordedTelemetry(t *testing.T) (frames []otlpFrame) {
	t.Helper()
	file, err := os.ReadFile("testdata/0.23/rust-sdk.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Prefix string
			Data   json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Prefix != "" {
			frames = append(frames, otlpFrame{line.Prefix, line.Data})
		}
	}
	if len(frames) == 0 {
		t.Fatal("the recording holds no telemetry")
	}
	return frames
}

// recordedProgram does the same as the recorded worker, at the same times, and returns
// the frames that the engine received.
func recordedProgram(t *testing.T, protocol iiitest.Protocol) (frames []otlpFrame) {
	e := telemetryEngine(t, iiitest.WithProtocol(protocol))
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{
		EngineWSURL: pointer(e.URL()), ServiceName: pointer("tel-rust"), ServiceVersion: pointer("1.2.3"), ServiceNamespace: pointer("shop"),
		ServiceInstanceID: pointer("inst-1"), MetricsExportIntervalMs: pointer[uint64](1500),
	}, iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithTelemetry(telemetry))
	if err != nil {
		t.Fatal(err)
	}
	logger := telemetry.Logger()
	handle(t, c, "tel::work", func(ctx context.Context, in struct {
		N    int
		Fail bool
	}) (map[string]any, error) {
		logger.Info(ctx, "working", map[string]any{"n": in.N, "nested": map[string]any{"a": []any{1, "x", true, nil}, "f": 1.5}})
		trace.SpanFromContext(ctx).AddEvent("checkpoint", trace.WithAttributes(attribute.String("step", "one")))
		if in.Fail {
			return nil, errors.New("handler error: work failed") // the full text of the recorded error
		}
		return map[string]any{"n": in.N, "ok": true}, nil
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1300 * time.Millisecond)

	ctx, checkout := telemetry.Tracer().Start(t.Context(), "checkout", trace.WithSpanKind(trace.SpanKindServer))
	if err := c.Call(ctx, "tel::work", json.RawMessage(`{"n":1,"password":"hunter2","api_key":"k","plain":"v"}`), nil); err != nil {
		t.Error(err)
	}
	checkout.SetStatus(codes.Ok, "")
	checkout.End()
	if err := c.Call(t.Context(), "tel::work", json.RawMessage(`{"n":2,"fail":true}`), nil); err == nil {
		t.Error("tel::work did not fail")
	}
	logger.Warn(t.Context(), "outside any span", map[string]any{"why": "test"})
	logger.Error(t.Context(), "bad", nil)
	logger.Debug(t.Context(), "dbg", nil)
	recordEverything(t, telemetry)
	recordMetrics(t, telemetry.MeterProvider().Meter("custom-meter"))

	time.Sleep(4 * time.Second)
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range e.Telemetry() {
		frames = append(frames, otlpFrame{f.Prefix, f.Data})
	}
	return frames
}

func recordEverything(t *testing.T, telemetry *iii.Telemetry) {
	t.Helper()
	traceID, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex("b7ad6b7169203331")
	if err != nil {
		t.Fatal(err)
	}
	linked := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
	_, span := telemetry.TracerProvider().Tracer("custom-scope").Start(t.Context(), "everything", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithLinks(trace.Link{SpanContext: linked, Attributes: []attribute.KeyValue{attribute.Int("l", 1)}}),
		trace.WithAttributes(attribute.String("s", "str"), attribute.Int("i", 42), attribute.Float64("f", 2.5), attribute.Bool("b", true),
			attribute.StringSlice("as", []string{"a", "b"}), attribute.Int64Slice("ai", []int64{1, 2})))
	span.AddEvent("ev", trace.WithAttributes(attribute.String("k", "v")))
	span.SetStatus(codes.Error, "went wrong")
	span.End()
	_, span = telemetry.Tracer().Start(t.Context(), "child-less", trace.WithSpanKind(trace.SpanKindConsumer))
	span.End()
}

func recordMetrics(t *testing.T, m metric.Meter) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	region := func(name string) metric.MeasurementOption {
		return metric.WithAttributes(attribute.String("region", name))
	}
	count, err := m.Int64Counter("orders.count", metric.WithDescription("orders"), metric.WithUnit("1"))
	must(err)
	count.Add(t.Context(), 3, region("eu"))
	count.Add(t.Context(), 2, region("us"))
	value, err := m.Float64Histogram("order.value", metric.WithUnit("EUR"))
	must(err)
	for _, v := range []float64{1, 5, 20, 800} {
		value.Record(t.Context(), v, region("eu"))
	}
	items, err := m.Int64Histogram("order.items")
	must(err)
	items.Record(t.Context(), 3)
	depth, err := m.Int64UpDownCounter("queue.depth")
	must(err)
	depth.Add(t.Context(), 5)
	depth.Add(t.Context(), -2)
	temp, err := m.Float64Gauge("temp")
	must(err)
	temp.Record(t.Context(), 21.5)
}

// otlpRecords splits frames into records and returns, for each kind and name, the
// leaves of the record by path, including resource and scope. shape counts the frames
// and records.
func otlpRecords(t *testing.T, frames []otlpFrame) (records map[string]map[string]string, shape map[string]int) {
	t.Helper()
	records, shape = map[string]map[string]string{}, map[string]int{}
	spans := map[any]string{} // span names by id
	var all []otlpRecord
	for _, f := range frames {
		found := otlpList(t, f)
		for _, r := range found {
			if r.kind == "live" || r.kind == "span" {
				spans[r.record["spanId"]] = "the span " + r.key
			}
			if !strings.HasPrefix(r.key, "iii.worker.") {
				shape["records of kind "+r.kind]++
			}
		}
		if kind := found[0].kind; kind != "span" { // the batching of spans depends on timing
			shape["frames of kind "+kind]++
		}
		all = append(all, found...)
	}
	for _, r := range all {
		key := r.kind + " " + r.key
		if records[key] != nil {
			if r.kind != "metric" { // metrics are exported repeatedly
				t.Errorf("%s is there twice", key)
			}
			continue
		}
		records[key] = map[string]string{}
		flatten(records[key], "/of resource", normalOTLP("", r.resource, spans))
		flatten(records[key], "/of scope", normalOTLP("", r.scope, spans))
		flatten(records[key], "/record", normalOTLP("", r.record, spans))
	}
	return records, shape
}

// otlpRecord is a span, log record or metric with its resource and scope.
type otlpRecord struct {
	kind, key       string
	resource, scope map[string]any // without the records in them
	record          map[string]any
}

func otlpList(t *testing.T, f otlpFrame) (found []otlpRecord) {
	t.Helper()
	keys := map[string][3]string{
		"OTLP": {"resourceSpans", "scopeSpans", "spans"}, "LOGS": {"resourceLogs", "scopeLogs", "logRecords"}, "MTRC": {"resourceMetrics", "scopeMetrics", "metrics"},
	}[f.prefix]
	d := json.NewDecoder(bytes.NewReader(f.data))
	d.UseNumber()
	var doc map[string][]map[string]any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	for _, resource := range doc[keys[0]] {
		scopes := resource[keys[1]].([]any)
		delete(resource, keys[1])
		for _, s := range scopes {
			scope := s.(map[string]any)
			records := scope[keys[2]].([]any)
			delete(scope, keys[2])
			for _, record := range records {
				r := otlpRecord{resource: resource, scope: scope, record: record.(map[string]any)}
				r.name(f.prefix)
				found = append(found, r)
			}
		}
	}
	return found
}

// name sets the kind and the key of a record. It distinguishes the two calls of the
// same function by their parents and data.
func (r *otlpRecord) name(prefix string) {
	switch prefix {
	case "MTRC":
		r.kind, r.key = "metric", r.record["name"].(string)
	case "LOGS":
		r.kind, r.key = "log", r.record["body"].(map[string]any)["stringValue"].(string)
		if r.key == "working" {
			r.key += " " + regexp.MustCompile(`intValue:([12])\]\]`).FindStringSubmatch(fmt.Sprint(r.record))[1]
		}
	default:
		r.kind, r.key = "span", r.record["name"].(string)
		if r.record["endTimeUnixNano"] == "0" {
			r.kind = "live"
		}
		if r.key == "execute tel::work" && r.record["parentSpanId"] == nil {
			r.key += " alone"
		}
	}
}

// normalOTLP returns a record, or a part of it, without values that differ between runs
// and between SDKs. key is the key of v.
func normalOTLP(key string, v any, spans map[any]string) any {
	switch v := v.(type) {
	case map[string]any:
		if name, ok := v["key"].(string); ok && len(v) == 2 {
			return map[string]any{name: normalOTLP(name, v["value"], spans)}
		}
		m := map[string]any{}
		for k, value := range v {
			if k == "stringValue" { // value of the attribute above
				m[k] = normalText(key, value.(string))
				continue
			}
			m[k] = normalOTLP(k, value, spans)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = normalOTLP(key, v[i], spans)
		}
		if key == "dataPoints" { // data points have no order
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		if attributes := (map[string]any{}); len(list) > 0 && isAttributes(v) { // attributes have no order
			for _, one := range list {
				maps.Copy(attributes, one.(map[string]any))
			}
			return attributes
		}
		return list
	case string:
		switch {
		case strings.HasSuffix(key, "UnixNano") && v != "0":
			return "a time"
		case key == "spanId" || key == "parentSpanId":
			if name, ok := spans[v]; ok {
				return name
			}
		case key == "traceId" && v != "0af7651916cd43dd8448eb211c80319c":
			return "a trace"
		case key == "name" && (v == "iii-rust-sdk" || v == "iii-go-sdk"):
			return "the SDK"
		}
		return v
	case json.Number:
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

func isAttributes(list []any) bool {
	return !slices.ContainsFunc(list, func(v any) bool {
		m, ok := v.(map[string]any)
		_, named := m["key"].(string)
		return !ok || !named
	})
}

// normalText normalises the text of an attribute.
func normalText(key, s string) any {
	switch key {
	case "telemetry.sdk.name", "telemetry.sdk.version", "telemetry.sdk.language":
		return "of the SDK"
	case "exception.stacktrace":
		if s == "" {
			return s
		}
		return "a stack"
	case "iii.payload.json":
		var payload map[string]any
		if err := json.Unmarshal([]byte(s), &payload); err != nil {
			return s
		}
		if payload["_caller_worker_id"] != nil {
			payload["_caller_worker_id"] = "a worker"
		}
		return payload
	}
	return s
}

// flatten adds the leaves of v by path. An empty list is a leaf.
func flatten(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			flatten(into, path+"/"+k, value)
		}
	case []any:
		for i, value := range v {
			flatten(into, path+"/"+strconv.Itoa(i), value)
		}
		if len(v) == 0 {
			into[path] = "[]"
		}
	default:
		into[path] = fmt.Sprintf("%#v", v)
	}
}
