package iii

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/otlpjson"
)

var (
	testTrace = trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
	testSpan  = trace.SpanID{0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}
)

func spanContext(flags trace.TraceFlags, remote bool) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: testTrace, SpanID: testSpan, TraceFlags: flags, Remote: remote})
}

// resourceMetrics wraps data as a metric reader would.
func resourceMetrics(data ...metricdata.Aggregation) *metricdata.ResourceMetrics {
	sm := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: "m"}}
	for _, d := range data {
		sm.Metrics = append(sm.Metrics, metricdata.Metrics{Name: "n", Description: "d", Unit: "u", Data: d})
	}
	return &metricdata.ResourceMetrics{Resource: resource.NewSchemaless(attribute.String("service.name", "s")), ScopeMetrics: []metricdata.ScopeMetrics{sm}}
}

func (p *otelPeer) documents(t *testing.T) (prefixes []string, docs []any) {
	t.Helper()
	for _, f := range p.received() {
		prefixes = append(prefixes, f[:4])
		docs = append(docs, enginetest.DecodeJSON(t, []byte(f[4:])))
	}
	return prefixes, docs
}

func TestExportersSendFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		spans, logs, metrics := NewEngineSpanExporter(s), NewEngineLogExporter(s), NewEngineMetricsExporter(s)
		if err := spans.ExportSpans(t.Context(), []sdktrace.ReadOnlySpan{endedSpan("a", trace.FlagsSampled), endedSpan("b", trace.FlagsSampled)}); err != nil {
			t.Error(err)
		}
		if err := logs.Export(t.Context(), []sdklog.Record{*emitted("c")}); err != nil {
			t.Error(err)
		}
		if err := metrics.Export(t.Context(), resourceMetrics(metricdata.Gauge[int64]{DataPoints: make([]metricdata.DataPoint[int64], 1)})); err != nil {
			t.Error(err)
		}
		for _, nothing := range []error{spans.ExportSpans(t.Context(), nil), logs.Export(t.Context(), nil), metrics.Export(t.Context(), resourceMetrics())} {
			if nothing != nil {
				t.Error(nothing)
			}
		}
		for name, flush := range map[string]func(context.Context) error{"spans": spans.ForceFlush, "logs": logs.ForceFlush, "metrics": metrics.ForceFlush} {
			if err := flush(t.Context()); err != nil {
				t.Errorf("flush %s: %v", name, err)
			}
		}
		prefixes, docs := p.documents(t)
		if diff := cmp.Diff([]string{otlpjson.PrefixTraces, otlpjson.PrefixLogs, otlpjson.PrefixMetrics}, prefixes); diff != "" {
			t.Fatalf("frames (-want +got):\n%s", diff)
		}
		if got := enginetest.At(docs[0], "resourceSpans", 0, "scopeSpans", 0, "spans", 1, "name"); got != "b" {
			t.Errorf("second span: %v", got)
		}
		if stats := s.Stats(); stats.Confirmed != 3 || stats.Lost != (RecordLosses{}) || stats.Dropped() != 0 {
			t.Errorf("stats %+v", stats)
		}

		for range 2 {
			for name, shutdown := range map[string]func(context.Context) error{"spans": spans.Shutdown, "logs": logs.Shutdown, "metrics": metrics.Shutdown} {
				if err := shutdown(t.Context()); err != nil {
					t.Errorf("shutdown %s: %v", name, err)
				}
			}
		}
		if err := spans.ExportSpans(t.Context(), nil); !errors.Is(err, errSpanExporterShutdown) {
			t.Errorf("spans after shutdown: %v", err)
		}
		if err := logs.Export(t.Context(), nil); !errors.Is(err, sdklog.ErrExporterShutdown) {
			t.Errorf("logs after shutdown: %v", err)
		}
		if err := metrics.Export(t.Context(), resourceMetrics()); !errors.Is(err, sdkmetric.ErrExporterShutdown) {
			t.Errorf("metrics after shutdown: %v", err)
		}
		for name, flush := range map[string]func(context.Context) error{"spans": spans.ForceFlush, "logs": logs.ForceFlush, "metrics": metrics.ForceFlush} {
			if err := flush(t.Context()); err != nil {
				t.Errorf("flush %s after shutdown: %v", name, err)
			}
		}
		if s.State() != ConnectionStateConnected {
			t.Errorf("the connection is %s", s.State())
		}
	})
}

// unconnected returns a connection that never connects.
func unconnected(t *testing.T, opts ...ConnectionOption) *SharedEngineConnection {
	t.Helper()
	cfg, err := newConnectionConfig("ws://127.0.0.1:1", opts)
	if err != nil {
		t.Fatal(err)
	}
	return newConnection(cfg)
}

func queued(s *SharedEngineConnection) (frames []otlpjson.Frame) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	for number := uint64(1); number <= s.queue.last; number++ {
		for c := range s.queue.waiting {
			for _, f := range s.queue.waiting[c].All() {
				if f.number == number {
					frames = append(frames, f.Frame)
				}
			}
		}
	}
	return frames
}

// Frames that the connection rejects are counted, and the export returns an error.
func TestExportReportsRejectedFrames(t *testing.T) {
	s := unconnected(t)
	s.queue.refuse(ErrConnectionClosed, false)
	err := NewEngineSpanExporter(s).ExportSpans(t.Context(), []sdktrace.ReadOnlySpan{endedSpan("a", 0), endedSpan("b", 0)})
	if !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
	if got := s.Stats().Traces; got.Closed != 1 || got.Records != 2 {
		t.Errorf("counted %+v", got)
	}
}

// The connection counts and reports records that were dropped or truncated and values that
// cannot be represented in JSON or OTLP.
func TestExportReportsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		p := newOtelPeer(t, otelScript{})
		s := p.connection(WithConnectionLogger(slog.New(slog.NewTextHandler(&said, nil))))
		metrics := NewEngineMetricsExporter(s)
		exponential := metricdata.ExponentialHistogram[float64]{DataPoints: make([]metricdata.ExponentialHistogramDataPoint[float64], 1)}
		rm := resourceMetrics(metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{Value: math.NaN()}}}, nil, exponential)
		for range 2 {
			if err := metrics.Export(t.Context(), rm); err != nil {
				t.Error(err)
			}
		}
		spans := NewEngineSpanExporter(s)
		big := attribute.String("k", strings.Repeat("x", 9<<20))
		_, span := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("t").Start(t.Context(), "big", trace.WithAttributes(big))
		span.End()
		spans.overflowed(3)
		if diff := cmp.Diff(RecordLosses{Overflowed: 3, Shortened: 1, NonFinite: 2, Unknown: 2}, s.Stats().Lost); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		if got := strings.Count(said.String(), "explicit buckets"); got != 1 {
			t.Errorf("the conversion is reported %d times, want once", got)
		}
		const want = "3 records that arrived too fast or too late, 1 records shortened to fit a frame, 2 numbers that are NaN or infinite, 2 metrics of unsupported kinds"
		if last := lines[len(lines)-1]; !strings.Contains(last, want) {
			t.Errorf("last report: %s, want %s", last, want)
		}
	})
}

func TestMetricsTemporality(t *testing.T) {
	for value, want := range map[string]metricdata.Temporality{
		"": metricdata.CumulativeTemporality, "cumulative": metricdata.CumulativeTemporality, "odd": metricdata.CumulativeTemporality,
		" Delta ": metricdata.DeltaTemporality, "lowmemory": metricdata.DeltaTemporality,
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)
		x := NewEngineMetricsExporter(unconnected(t))
		if got := x.Temporality(sdkmetric.InstrumentKindCounter); got != want {
			t.Errorf("%q: counter %v, want %v", value, got, want)
		}
		if got := x.Temporality(sdkmetric.InstrumentKindUpDownCounter); got != metricdata.CumulativeTemporality {
			t.Errorf("%q: up-down counter %v", value, got)
		}
		if _, ok := x.Aggregation(sdkmetric.InstrumentKindHistogram).(sdkmetric.AggregationExplicitBucketHistogram); !ok {
			t.Errorf("histograms are %T", x.Aggregation(sdkmetric.InstrumentKindHistogram))
		}
	}
}

// A connection is considered crowded when more than one eighth of its queue is in use.
func TestConnectionIsCrowdedAboveOneEighth(t *testing.T) {
	s := unconnected(t, WithConnectionQueue(80, 1<<20))
	x := NewEngineLogExporter(s)
	for i := range 11 {
		if want := i > 10; x.crowded() != want {
			t.Errorf("%d frames: crowded is %v", i, !want)
		}
		if err := x.Export(t.Context(), []sdklog.Record{*emitted("r")}); err != nil {
			t.Error(err)
		}
	}
	if !x.crowded() {
		t.Error("11 of 80 frames: not crowded")
	}
}

// A burst of log records does not overflow the queue, because frames grow with the burst and
// hold several records each. The peer reads nothing until all records have been written.
func TestLogBurstIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		stop := p.conn(0).StopReading()
		processor := newBatchLogProcessor(NewEngineLogExporter(s), 10*time.Millisecond, 1)
		logger := sdklog.NewLoggerProvider(sdklog.WithProcessor(processor)).Logger("burst")
		const n = 20_000
		for i := range n {
			var r log.Record
			r.SetBody(attribute.StringValue(fmt.Sprint(i)))
			logger.Emit(t.Context(), r)
			if i%100 == 99 { // 10,000 records per second
				time.Sleep(10 * time.Millisecond)
			}
		}
		stop()
		if err := processor.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		next, frames := 0, 0
		_, docs := p.documents(t)
		for _, doc := range docs {
			frames++
			enginetest.Each(doc, []string{"resourceLogs", "scopeLogs", "logRecords"}, func(r any) {
				if got := enginetest.At(r, "body", "stringValue"); got != fmt.Sprint(next) {
					t.Errorf("record %v, want %d", got, next)
				}
				next++
			})
		}
		if stats := s.Stats(); next != n || stats.Dropped() != 0 || stats.Lost != (RecordLosses{}) {
			t.Errorf("%d of %d records arrived, stats %+v", next, n, stats)
		}
		t.Logf("%d records in %d frames", next, frames)
	})
}

// A span's start is queued before the span can end, and includes the attributes set by the
// caller and by earlier processors.
func TestLiveSpanHasTheAttributesOfTheStart(t *testing.T) {
	s := unconnected(t)
	p := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(NewBaggageSpanProcessor()),
		sdktrace.WithSpanProcessor(newLiveSpanProcessor(s)),
		sdktrace.WithSyncer(NewEngineSpanExporter(s)),
	)
	member, err := baggage.NewMemberRaw("iii.session.id", "S 1")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	ctx := baggage.ContextWithBaggage(t.Context(), bag)
	_, span := p.Tracer("live").Start(ctx, "execute f", trace.WithAttributes(attribute.Int("built", 1)),
		trace.WithLinks(trace.Link{SpanContext: spanContext(0, true)}))
	if got := len(queued(s)); got != 1 {
		t.Fatalf("%d frames when the span has started", got)
	}
	span.AddEvent("later")
	span.SetAttributes(attribute.Int("later", 2))
	span.End()
	frames := queued(s)
	if len(frames) != 2 || !frames[0].Live || frames[1].Live {
		t.Fatalf("got %d frames", len(frames))
	}
	var spans []any
	for _, f := range frames {
		enginetest.JudgeFrame(t, f.Prefix, f.Data)
		spans = append(spans, enginetest.At(enginetest.DecodeJSON(t, f.Data), "resourceSpans", 0, "scopeSpans", 0, "spans", 0))
	}
	want := enginetest.DecodeJSON(t, []byte(`[{"key":"built","value":{"intValue":1}},{"key":"iii.session.id","value":{"stringValue":"S 1"}}]`))
	if diff := cmp.Diff(want, enginetest.At(spans[0], "attributes")); diff != "" {
		t.Errorf("attributes of the snapshot (-want +got):\n%s", diff)
	}
	for i, want := range []bool{true, false} {
		if got := enginetest.At(spans[i], "endTimeUnixNano") == "0"; got != want {
			t.Errorf("frame %d is running: %v", i, got)
		}
		if got := enginetest.At(spans[i], "events") == nil; got != want {
			t.Errorf("frame %d has no events: %v", i, got)
		}
		if enginetest.At(spans[i], "links", 0, "spanId") != testSpan.String() {
			t.Errorf("frame %d lacks the link", i)
		}
		if diff := cmp.Diff(enginetest.At(spans[0], "spanId"), enginetest.At(spans[i], "spanId")); diff != "" {
			t.Error(diff)
		}
	}
}

// Nothing is sent for a span that is not sampled, and no span start is sent after Shutdown.
func TestLiveSpansAreSampled(t *testing.T) {
	s := unconnected(t)
	live := newLiveSpanProcessor(s)
	for _, sampler := range []sdktrace.Sampler{sdktrace.NeverSample(), recordOnly{}} {
		p := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithSpanProcessor(live),
			sdktrace.WithSpanProcessor(newBatchSpanProcessor(NewEngineSpanExporter(s), time.Hour)))
		_, span := p.Tracer("t").Start(t.Context(), "quiet")
		span.End()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(live)) // live has been shut down
	_, span := p.Tracer("t").Start(t.Context(), "late")
	span.End()
	if got := queued(s); len(got) != 0 {
		t.Errorf("got %d frames", len(got))
	}
	if err := live.ForceFlush(t.Context()); err != nil {
		t.Error(err)
	}
}

// recordOnly is a sampler that records spans without sampling them.
type recordOnly struct{}

func (recordOnly) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	return sdktrace.SamplingResult{Decision: sdktrace.RecordOnly}
}
func (recordOnly) Description() string { return "recordOnly" }

// Metrics from a reader are exported with their exemplars.
func TestMetricsThroughReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(NewEngineMetricsExporter(s), sdkmetric.WithInterval(time.Second))))
		counter, err := provider.Meter("m").Int64Counter("c", metric.WithUnit("1"), metric.WithDescription("d"))
		if err != nil {
			t.Fatal(err)
		}
		counter.Add(trace.ContextWithSpanContext(t.Context(), spanContext(trace.FlagsSampled, false)), 3)
		time.Sleep(1500 * time.Millisecond)
		if err := provider.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		_, docs := p.documents(t)
		if len(docs) != 2 {
			t.Fatalf("got %d frames, want that of the interval and that of the end", len(docs))
		}
		point := enginetest.At(docs[0], "resourceMetrics", 0, "scopeMetrics", 0, "metrics", 0, "sum", "dataPoints", 0)
		if enginetest.At(point, "asInt") != "3" || enginetest.At(point, "exemplars", 0, "spanId") != testSpan.String() {
			t.Errorf("point %v", point)
		}
	})
}
