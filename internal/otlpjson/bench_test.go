package otlpjson

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

var benchResource = resource.NewSchemaless(
	attribute.String("service.name", "orders"),
	attribute.String("service.version", "1.4.0"),
	attribute.String("service.namespace", "shop"),
	attribute.String("service.instance.id", "6b7f1d0e-6a0b-4d0e-9a39-0b3f8f7d3a11"),
	attribute.String("telemetry.sdk.name", "iii-go-sdk"),
	attribute.String("telemetry.sdk.language", "go"),
	attribute.String("telemetry.sdk.version", "0.1.0"),
)

func benchSpans(n int) []sdktrace.ReadOnlySpan {
	at := time.Unix(1767225600, 12345678)
	spans := make([]sdktrace.ReadOnlySpan, n)
	for i := range spans {
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, byte(i)}, SpanID: trace.SpanID{3, byte(i)}, TraceFlags: trace.FlagsSampled})
		spans[i] = tracetest.SpanStub{
			Name: "execute orders::create", SpanContext: sc,
			Parent:    trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, byte(i)}, SpanID: trace.SpanID{4}, Remote: true}),
			SpanKind:  trace.SpanKindInternal,
			StartTime: at, EndTime: at.Add(12 * time.Millisecond),
			Attributes: []attribute.KeyValue{
				attribute.String("iii.function.id", "orders::create"),
				attribute.Int("attempt", 3),
				attribute.Float64("ratio", 0.25),
				attribute.Bool("cached", false),
			},
			Events: []sdktrace.Event{
				{Name: "iii.invocation.input", Time: at, Attributes: []attribute.KeyValue{
					attribute.String("iii.payload.json", `{"_caller_worker_id":"975d6453-cd80-4c5a-8a14-ce0551566196","n":1,"plain":"v"}`),
					attribute.Bool("iii.payload.truncated", false),
				}},
				{Name: "iii.invocation.output", Time: at, Attributes: []attribute.KeyValue{
					attribute.String("iii.payload.json", `{"n":1,"ok":true}`),
					attribute.Bool("iii.payload.truncated", false),
					attribute.Bool("iii.payload.ok", true),
				}},
			},
			Status:               sdktrace.Status{Code: codes.Ok},
			Resource:             benchResource,
			InstrumentationScope: instrumentation.Scope{Name: "iii-go-sdk", Version: "0.1.0"},
		}.Snapshot()
	}
	return spans
}

func BenchmarkEncodeSpans(b *testing.B) {
	spans := benchSpans(512)
	b.ReportAllocs()
	var size int
	e := NewEncoder(NewBuffers())
	for b.Loop() {
		size, _ = confirmed(e, e.Spans(spans))
	}
	perRecord(b, len(spans), size)
}

// confirmed releases frames as if the engine had confirmed them. It returns their total size
// and the number of records in them.
func confirmed(e *Encoder, frames []Frame) (size, records int) {
	for i := range frames {
		f := &frames[i]
		size += f.Size()
		records += f.Records
		e.buffers.Release(f)
	}
	e.Done()
	return size, records
}

func perRecord(b *testing.B, n, size int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
	b.ReportMetric(float64(size)/float64(n), "B/record")
}

func BenchmarkEncodeLiveSpan(b *testing.B) {
	span := benchSpans(1)[0]
	b.ReportAllocs()
	e := NewEncoder(NewBuffers())
	for b.Loop() {
		confirmed(e, e.LiveSpan(span))
	}
}

// recordLogs emits records through the SDK and returns them.
func recordLogs(tb testing.TB, res *resource.Resource, emit func(log.Logger)) []sdklog.Record {
	tb.Helper()
	var c logCollector
	p := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(&c), sdklog.WithAttributeCountLimit(-1), sdklog.WithAttributeValueDepthLimit(-1))
	emit(p.Logger("iii-go-sdk", log.WithInstrumentationVersion("0.1.0")))
	return c.records
}

type logCollector struct{ records []sdklog.Record }

func (c *logCollector) OnEmit(_ context.Context, r *sdklog.Record) error {
	c.records = append(c.records, r.Clone())
	return nil
}
func (c *logCollector) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (c *logCollector) Shutdown(context.Context) error                         { return nil }
func (c *logCollector) ForceFlush(context.Context) error                       { return nil }

func benchLogs(tb testing.TB, n int) []sdklog.Record {
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(tb.Context(), sc)
	return recordLogs(tb, benchResource, func(l log.Logger) {
		for range n {
			var r log.Record
			r.SetTimestamp(time.Unix(1767225600, 12345678))
			r.SetSeverity(log.SeverityInfo)
			r.SetSeverityText("INFO")
			r.SetBody(attribute.StringValue("Order processed"))
			r.AddAttributes(
				attribute.String("order_id", "ord_123"), attribute.Float64("amount", 49.99),
				attribute.Int("items", 3), attribute.Bool("express", true),
			)
			l.Emit(ctx, r)
		}
	})
}

func BenchmarkEncodeLogs(b *testing.B) {
	for _, n := range []int{1, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			records := benchLogs(b, n)
			b.ReportAllocs()
			var size int
			e := NewEncoder(NewBuffers())
			for b.Loop() {
				size, _ = confirmed(e, e.Logs(records))
			}
			perRecord(b, n, size)
		})
	}
}

// benchMetrics returns a counter, a gauge and a histogram with n points each.
func benchMetrics(tb testing.TB, n int) *metricdata.ResourceMetrics {
	reader := sdkmetric.NewManualReader()
	p := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(benchResource))
	m := p.Meter("bench")
	counter, _ := m.Int64Counter("orders.count")
	gauge, _ := m.Float64Gauge("queue.depth")
	histogram, _ := m.Float64Histogram("order.value")
	for i := range n {
		set := attribute.NewSet(attribute.String("region", "eu"), attribute.Int("shop", i))
		counter.Add(tb.Context(), int64(i), metric.WithAttributeSet(set))
		gauge.Record(tb.Context(), float64(i)/3, metric.WithAttributeSet(set))
		histogram.Record(tb.Context(), float64(i), metric.WithAttributeSet(set))
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(tb.Context(), &rm); err != nil {
		tb.Fatal(err)
	}
	return &rm
}

func BenchmarkEncodeMetrics(b *testing.B) {
	const n = 200
	rm := benchMetrics(b, n)
	b.ReportAllocs()
	var size, points int
	e := NewEncoder(NewBuffers())
	for b.Loop() {
		size, points = confirmed(e, e.Metrics(rm))
	}
	perRecord(b, points, size)
}
