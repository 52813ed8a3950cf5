package otlp

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
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

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// The benchmarks compare two ways to encode the same records. Package iii's exporters convert
// the SDK's types to a frame and queue it on a connection that never reaches an engine.
// OpenTelemetry's JSON marshaler is measured alone, without the conversion from the SDK's
// types.

const benchRecords = 512

var benchResource = resource.NewSchemaless(
	attribute.String("service.name", "orders"), attribute.String("service.version", "1.4.0"), attribute.String("service.namespace", "shop"),
	attribute.String("service.instance.id", "6b7f1d0e-6a0b-4d0e-9a39-0b3f8f7d3a11"),
	attribute.String("telemetry.sdk.name", "iii-go-sdk"), attribute.String("telemetry.sdk.language", "go"), attribute.String("telemetry.sdk.version", "0.1.0"),
)

// away returns a connection that never reaches an engine. It queues frames and, once the queue
// is full, drops the oldest ones.
func away(b *testing.B) *iii.SharedEngineConnection {
	b.Helper()
	s, err := iii.NewSharedEngineConnection("ws://127.0.0.1:1", iii.WithConnectionQueue(8, 64<<20))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
	})
	return s
}

// sent runs export with a connection to an engine and returns the resulting frame.
func sent(b *testing.B, export func(s *iii.SharedEngineConnection) error) []byte {
	b.Helper()
	e := iiitest.Start(b)
	s, err := iii.NewSharedEngineConnection(e.URL())
	if err != nil {
		b.Fatal(err)
	}
	if err := export(s); err != nil {
		b.Fatal(err)
	}
	if err := s.Shutdown(b.Context()); err != nil {
		b.Fatal(err)
	}
	frames := e.Telemetry()
	if len(frames) != 1 {
		b.Fatalf("%d frames", len(frames))
	}
	return frames[0].Data
}

// run measures f, which encodes n records.
func run(b *testing.B, n int, f func() error) {
	b.ReportAllocs()
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
}

func BenchmarkSpans(b *testing.B) {
	at := time.Unix(1767225600, 12345678)
	spans := make([]sdktrace.ReadOnlySpan, benchRecords)
	for i := range spans {
		spans[i] = tracetest.SpanStub{
			Name:        "execute orders::create",
			SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{3, byte(i)}, TraceFlags: trace.FlagsSampled}),
			Parent:      trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{4}, Remote: true}),
			SpanKind:    trace.SpanKindInternal, StartTime: at, EndTime: at.Add(12 * time.Millisecond),
			Attributes: []attribute.KeyValue{
				attribute.String("iii.function.id", "orders::create"), attribute.Int("attempt", 3), attribute.Float64("ratio", 0.25), attribute.Bool("cached", false),
			},
			Events: []sdktrace.Event{
				{Name: "iii.invocation.input", Time: at, Attributes: []attribute.KeyValue{
					attribute.String("iii.payload.json", `{"_caller_worker_id":"975d6453-cd80-4c5a-8a14-ce0551566196","n":1,"plain":"v"}`), attribute.Bool("iii.payload.truncated", false),
				}},
				{Name: "iii.invocation.output", Time: at, Attributes: []attribute.KeyValue{
					attribute.String("iii.payload.json", `{"n":1,"ok":true}`), attribute.Bool("iii.payload.truncated", false), attribute.Bool("iii.payload.ok", true),
				}},
			},
			Status: sdktrace.Status{Code: codes.Ok}, Resource: benchResource, InstrumentationScope: instrumentation.Scope{Name: "iii-go-sdk", Version: "0.1.0"},
		}.Snapshot()
	}
	traces, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(sent(b, func(s *iii.SharedEngineConnection) error {
		return iii.NewEngineSpanExporter(s).ExportSpans(b.Context(), spans)
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("iii", func(b *testing.B) {
		exporter := iii.NewEngineSpanExporter(away(b))
		run(b, benchRecords, func() error { return exporter.ExportSpans(b.Context(), spans) })
	})
	b.Run("pdata", func(b *testing.B) {
		var m ptrace.JSONMarshaler
		run(b, benchRecords, func() error { _, err := m.MarshalTraces(traces); return err })
	})
}

func BenchmarkLogs(b *testing.B) {
	kept := &recordKeeper{}
	logger := sdklog.NewLoggerProvider(sdklog.WithResource(benchResource), sdklog.WithProcessor(kept)).Logger("iii-go-sdk", log.WithInstrumentationVersion("0.1.0"))
	ctx := trace.ContextWithSpanContext(b.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}))
	for range benchRecords {
		var r log.Record
		r.SetTimestamp(time.Unix(1767225600, 12345678))
		r.SetSeverity(log.SeverityInfo)
		r.SetSeverityText("INFO")
		r.SetBody(attribute.StringValue("Order processed"))
		r.AddAttributes(attribute.String("order_id", "ord_123"), attribute.Float64("amount", 49.99), attribute.Int("items", 3), attribute.Bool("express", true))
		logger.Emit(ctx, r)
	}
	logs, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(sent(b, func(s *iii.SharedEngineConnection) error {
		return iii.NewEngineLogExporter(s).Export(b.Context(), kept.records)
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("iii", func(b *testing.B) {
		exporter := iii.NewEngineLogExporter(away(b))
		run(b, benchRecords, func() error { return exporter.Export(b.Context(), kept.records) })
	})
	b.Run("pdata", func(b *testing.B) {
		var m plog.JSONMarshaler
		run(b, benchRecords, func() error { _, err := m.MarshalLogs(logs); return err })
	})
}

type recordKeeper struct {
	logKeeper
	records []sdklog.Record
}

func (k *recordKeeper) OnEmit(_ context.Context, r *sdklog.Record) error {
	k.records = append(k.records, r.Clone())
	return nil
}

func BenchmarkMetrics(b *testing.B) {
	const series = 170
	reader := sdkmetric.NewManualReader()
	m := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(benchResource)).Meter("bench")
	counter, err1 := m.Int64Counter("orders.count")
	gauge, err2 := m.Float64Gauge("queue.depth")
	histogram, err3 := m.Float64Histogram("order.value")
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range series {
		set := metric.WithAttributes(attribute.String("region", "eu"), attribute.Int("shop", i), attribute.String("name", fmt.Sprint("shop ", i)))
		counter.Add(b.Context(), int64(i), set)
		gauge.Record(b.Context(), float64(i)/3, set)
		histogram.Record(b.Context(), float64(i), set)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(b.Context(), &rm); err != nil {
		b.Fatal(err)
	}
	metrics, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(sent(b, func(s *iii.SharedEngineConnection) error {
		return iii.NewEngineMetricsExporter(s).Export(b.Context(), &rm)
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("iii", func(b *testing.B) {
		exporter := iii.NewEngineMetricsExporter(away(b))
		run(b, 3*series, func() error { return exporter.Export(b.Context(), &rm) })
	})
	b.Run("pdata", func(b *testing.B) {
		var m pmetric.JSONMarshaler
		run(b, 3*series, func() error { _, err := m.MarshalMetrics(metrics); return err })
	})
}
