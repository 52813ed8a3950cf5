package iii

import (
	"context"
	"errors"
	"log/slog"
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

// engineExporter is the part that the span, metrics and log exporters have in common.
type engineExporter struct {
	conn    *SharedEngineConnection
	stopped atomic.Bool
	idle    atomic.Pointer[otlpjson.Encoder] // for the next batch; nil while a batch is being encoded
}

func newEngineExporter(s *SharedEngineConnection) engineExporter {
	if s == nil {
		s = closedConnection(&connectionConfig{})
	}
	return engineExporter{conn: s}
}

func (x *engineExporter) encoder() *otlpjson.Encoder {
	if e := x.idle.Swap(nil); e != nil {
		return e
	}
	return otlpjson.NewEncoder(x.conn.queue.buffers)
}

// send queues as many of the frames as it can and returns the first error. The connection
// counts the rejected frames.
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

// ForceFlush waits until the engine has received everything exported before the call; see
// [SharedEngineConnection.Flush].
func (x *engineExporter) ForceFlush(ctx context.Context) error {
	if x.stopped.Load() {
		return nil
	}
	return x.conn.Flush(ctx)
}

// Shutdown flushes the exporter and stops it; later exports fail. The shared connection stays
// open. Repeated calls return nil.
func (x *engineExporter) Shutdown(ctx context.Context) error {
	if x.stopped.Swap(true) {
		return nil
	}
	return x.conn.Flush(ctx)
}

// overflowed counts n records that were dropped before they were exported.
func (x *engineExporter) overflowed(n int) { x.conn.losses.overflow(n) }

// crowded reports whether the connection is so busy that exporters should send fewer, larger
// frames.
func (x *engineExporter) crowded() bool { return x.conn.queue.crowded() }

// crowded reports whether more than an eighth of the frame limit is in use.
func (q *telemetryQueue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.frames > q.limit()/8
}

// EngineSpanExporter sends finished spans to the engine as OTLP JSON. It encodes spans
// immediately and adds them to the connection's queue, so it never waits. A large batch
// becomes several frames. The zero value is not usable; use [NewEngineSpanExporter]. All
// methods are safe for concurrent use.
type EngineSpanExporter struct{ engineExporter }

var _ sdktrace.SpanExporter = (*EngineSpanExporter)(nil)

// NewEngineSpanExporter returns an exporter that sends over s. The connection s must outlive
// the exporter. If s is nil, as for a Telemetry created by [TelemetryFromProviders], exports
// fail with [ErrConnectionClosed].
func NewEngineSpanExporter(s *SharedEngineConnection) *EngineSpanExporter {
	return &EngineSpanExporter{newEngineExporter(s)}
}

// ExportSpans queues spans. It returns [ErrBufferFull] or [ErrConnectionClosed] if the
// connection did not accept all of them. The connection counts the lost spans. After Shutdown,
// ExportSpans accepts no spans and returns an error.
func (x *EngineSpanExporter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	if x.stopped.Load() {
		return errSpanExporterShutdown
	}
	e := x.encoder()
	return x.send(e, e.Spans(spans))
}

// EngineMetricsExporter sends metrics to the engine as OTLP JSON. The engine stores only
// gauges, sums and histograms with explicit bounds, so the exporter converts other kinds. It
// merges the buckets of an exponential histogram until at most 160 remain. A summary becomes a
// gauge with the attribute quantile and two sums. The names of the sums are the summary's name
// followed by _count and _sum. Points that are NaN or infinite are omitted and counted.
// The exporter never waits. The zero value is not usable; use [NewEngineMetricsExporter]. All
// methods are safe for concurrent use.
type EngineMetricsExporter struct {
	engineExporter
	temporality sdkmetric.TemporalitySelector

	mu        sync.Mutex
	converted map[string]struct{} // names of instruments whose conversion was logged
}

var _ sdkmetric.Exporter = (*EngineMetricsExporter)(nil)

// NewEngineMetricsExporter returns an exporter that sends over s. The connection s must
// outlive the exporter. If s is nil, as for a Telemetry created by [TelemetryFromProviders],
// exports fail with [ErrConnectionClosed].
//
// The temporality is cumulative unless OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is
// delta or lowmemory. The engine computes aggregates by adding up samples, so its aggregates
// are correct only with delta temporality.
func NewEngineMetricsExporter(s *SharedEngineConnection) *EngineMetricsExporter {
	x := &EngineMetricsExporter{engineExporter: newEngineExporter(s), temporality: sdkmetric.CumulativeTemporalitySelector}
	switch strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"))) {
	case "delta":
		x.temporality = sdkmetric.DeltaTemporalitySelector
	case "lowmemory":
		x.temporality = sdkmetric.LowMemoryTemporalitySelector
	}
	return x
}

// Temporality returns the temporality chosen by [NewEngineMetricsExporter].
func (x *EngineMetricsExporter) Temporality(k sdkmetric.InstrumentKind) metricdata.Temporality {
	return x.temporality(k)
}

// Aggregation returns OpenTelemetry's default, which gives histograms explicit bounds.
func (x *EngineMetricsExporter) Aggregation(k sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(k)
}

// Export queues metrics. It returns an error if the connection did not accept all of them; see
// [EngineSpanExporter.ExportSpans].
func (x *EngineMetricsExporter) Export(_ context.Context, rm *metricdata.ResourceMetrics) error {
	if x.stopped.Load() {
		return sdkmetric.ErrExporterShutdown
	}
	if log := x.conn.logger(); log != nil {
		x.logConversions(rm, log)
	}
	e := x.encoder()
	return x.send(e, e.Metrics(rm))
}

// logConversions logs each exponential histogram that is converted, once per instrument.
func (x *EngineMetricsExporter) logConversions(rm *metricdata.ResourceMetrics, log *slog.Logger) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch m.Data.(type) {
			case metricdata.ExponentialHistogram[int64], metricdata.ExponentialHistogram[float64]:
			default:
				continue
			}
			if _, logged := x.converted[m.Name]; logged {
				continue
			}
			if x.converted == nil {
				x.converted = map[string]struct{}{}
			}
			x.converted[m.Name] = struct{}{}
			log.Info("iii: exponential histogram is sent with explicit buckets", "instrument", m.Name, "scope", sm.Scope.Name)
		}
	}
}

// EngineLogExporter sends log records to the engine as OTLP JSON. A record without severity
// text gets the text for its severity number, because the engine's filters and log triggers
// depend on it. The exporter encodes records immediately and adds them to the connection's
// queue, so it never waits. The zero value is not usable; use [NewEngineLogExporter]. All
// methods are safe for concurrent use.
type EngineLogExporter struct{ engineExporter }

var _ sdklog.Exporter = (*EngineLogExporter)(nil)

// NewEngineLogExporter returns an exporter that sends over s. The connection s must outlive
// the exporter. If s is nil, as for a Telemetry created by [TelemetryFromProviders], exports
// fail with [ErrConnectionClosed].
func NewEngineLogExporter(s *SharedEngineConnection) *EngineLogExporter {
	return &EngineLogExporter{newEngineExporter(s)}
}

// Export queues records. It returns an error if the connection did not accept all of them; see
// [EngineSpanExporter.ExportSpans].
func (x *EngineLogExporter) Export(_ context.Context, records []sdklog.Record) error {
	if x.stopped.Load() {
		return sdklog.ErrExporterShutdown
	}
	e := x.encoder()
	return x.send(e, e.Logs(records))
}
