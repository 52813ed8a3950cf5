package iii

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

var errSpanExporterShutdown = errors.New("iii: span exporter is shut down")

// engineExporter is what the three exporters have in common.
type engineExporter struct {
	conn    *SharedEngineConnection
	stopped atomic.Bool
	idle    atomic.Pointer[otlpjson.Encoder] // for the next batch; nil while one is encoded
}

func (x *engineExporter) encoder() *otlpjson.Encoder {
	if e := x.idle.Swap(nil); e != nil {
		return e
	}
	return otlpjson.NewEncoder(x.conn.queue.buffers)
}

// send queues what e has encoded. It queues what it can, and returns the first
// error; the connection has counted what it names.
func (x *engineExporter) send(e *otlpjson.Encoder, frames []otlpjson.Frame) (err error) {
	for _, f := range frames {
		if refused := x.conn.enqueue(f); err == nil {
			err = refused
		}
	}
	x.conn.losses.note(e.Lost())
	if e.Done() {
		x.idle.Store(e)
	}
	return err
}

// ForceFlush returns nil when the engine has everything that was exported
// before; see [SharedEngineConnection.Flush].
func (x *engineExporter) ForceFlush(ctx context.Context) error {
	if x.stopped.Load() {
		return nil
	}
	return x.conn.Flush(ctx)
}

// Shutdown flushes, and ends the exporter: it exports nothing afterwards. The
// connection, which it shares, stays open. Further calls return nil.
func (x *engineExporter) Shutdown(ctx context.Context) error {
	if x.stopped.Swap(true) {
		return nil
	}
	return x.conn.Flush(ctx)
}

// overflowed counts records that were dropped before they were exported.
func (x *engineExporter) overflowed(n int) { x.conn.losses.overflow(n) }

// crowded tells that the connection has so much to do that larger frames are
// better than more.
func (x *engineExporter) crowded() bool { return x.conn.queue.crowded() }

// crowded tells that an eighth of the frames that may be kept are.
func (q *telemetryQueue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.frames > q.limit()/8
}

// EngineSpanExporter sends finished spans to the engine as OTLP JSON. It encodes
// at once and queues on its connection, so that it never waits; large batches
// become several frames. It is made by [NewEngineSpanExporter], the zero value
// is of no use, and all methods may be called from several goroutines at once.
type EngineSpanExporter struct{ engineExporter }

var _ sdktrace.SpanExporter = (*EngineSpanExporter)(nil)

// NewEngineSpanExporter makes an exporter that sends over s, which must not be
// nil and outlives it.
func NewEngineSpanExporter(s *SharedEngineConnection) *EngineSpanExporter {
	return &EngineSpanExporter{engineExporter{conn: s}}
}

// ExportSpans queues spans. An error says that the connection took not all of
// them: [ErrBufferFull] or [ErrConnectionClosed]; after Shutdown it takes none.
// The connection counts what is lost.
func (x *EngineSpanExporter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	if x.stopped.Load() {
		return errSpanExporterShutdown
	}
	e := x.encoder()
	return x.send(e, e.Spans(spans))
}

// EngineMetricsExporter sends metrics to the engine as OTLP JSON. The engine
// stores gauges, sums and histograms with explicit bounds alone: exponential
// histograms are converted, with their buckets joined until there are 160 at
// most, and summaries become a gauge with the attribute quantile and the sums
// name_count and name_sum. Points that are NaN or infinite are left out and
// counted. It never waits; it is made by [NewEngineMetricsExporter], the zero
// value is of no use, and all methods may be called from several goroutines at
// once.
type EngineMetricsExporter struct {
	engineExporter
	temporality sdkmetric.TemporalitySelector

	mu        sync.Mutex
	converted map[string]struct{} // instruments whose conversion was said
}

var _ sdkmetric.Exporter = (*EngineMetricsExporter)(nil)

// NewEngineMetricsExporter makes an exporter that sends over s, which must not
// be nil and outlives it. The temporality is cumulative, unless OpenTelemetry's
// variable OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE says delta or
// lowmemory: the engine's aggregates add up samples, which is right for deltas
// alone.
func NewEngineMetricsExporter(s *SharedEngineConnection) *EngineMetricsExporter {
	x := &EngineMetricsExporter{engineExporter: engineExporter{conn: s}, temporality: sdkmetric.CumulativeTemporalitySelector}
	switch strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"))) {
	case "delta":
		x.temporality = sdkmetric.DeltaTemporalitySelector
	case "lowmemory":
		x.temporality = sdkmetric.LowMemoryTemporalitySelector
	}
	return x
}

// Temporality is that of the metrics to export, see [NewEngineMetricsExporter].
func (x *EngineMetricsExporter) Temporality(k sdkmetric.InstrumentKind) metricdata.Temporality {
	return x.temporality(k)
}

// Aggregation is OpenTelemetry's default: histograms have explicit bounds.
func (x *EngineMetricsExporter) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

// Export queues metrics. An error says that the connection took not all of them,
// as with [EngineSpanExporter.ExportSpans].
func (x *EngineMetricsExporter) Export(_ context.Context, rm *metricdata.ResourceMetrics) error {
	if x.stopped.Load() {
		return sdkmetric.ErrExporterShutdown
	}
	if x.conn.cfg.logger != nil {
		x.sayConversions(rm)
	}
	e := x.encoder()
	return x.send(e, e.Metrics(rm))
}

// sayConversions says once an instrument that its exponential histogram is
// converted.
func (x *EngineMetricsExporter) sayConversions(rm *metricdata.ResourceMetrics) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch m.Data.(type) {
			case metricdata.ExponentialHistogram[int64], metricdata.ExponentialHistogram[float64]:
			default:
				continue
			}
			if _, said := x.converted[m.Name]; said {
				continue
			}
			if x.converted == nil {
				x.converted = map[string]struct{}{}
			}
			x.converted[m.Name] = struct{}{}
			x.conn.cfg.logger.Info("iii: exponential histogram is sent with explicit buckets", "instrument", m.Name, "scope", sm.Scope.Name)
		}
	}
}

// EngineLogExporter sends log records to the engine as OTLP JSON. A record
// without a severity text gets that of its severity, by which the engine's
// filters and log triggers go. It encodes at once and queues on its connection,
// so that it never waits. It is made by [NewEngineLogExporter], the zero value
// is of no use, and all methods may be called from several goroutines at once.
type EngineLogExporter struct{ engineExporter }

var _ sdklog.Exporter = (*EngineLogExporter)(nil)

// NewEngineLogExporter makes an exporter that sends over s, which must not be
// nil and outlives it.
func NewEngineLogExporter(s *SharedEngineConnection) *EngineLogExporter {
	return &EngineLogExporter{engineExporter{conn: s}}
}

// Export queues records. An error says that the connection took not all of them,
// as with [EngineSpanExporter.ExportSpans].
func (x *EngineLogExporter) Export(_ context.Context, records []sdklog.Record) error {
	if x.stopped.Load() {
		return sdklog.ErrExporterShutdown
	}
	e := x.encoder()
	return x.send(e, e.Logs(records))
}
