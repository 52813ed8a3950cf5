package iii

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// defaultMetricTimeout bounds one collection, in milliseconds, unless
// OTEL_METRIC_EXPORT_TIMEOUT overrides it.
const defaultMetricTimeout = 30_000

// metricReader collects and exports metrics at an interval, from its own goroutine.
// OpenTelemetry's periodic reader does the same, but exports nothing if any callback
// returns an error.
type metricReader struct {
	*sdkmetric.ManualReader
	exporter sdkmetric.Exporter
	timeout  time.Duration

	flushes chan metricFlush
	once    sync.Once
	stop    chan context.Context // context of the last collection
	done    chan struct{}        // closed when the goroutine has ended
	err     error                // of the last collection; valid after done
}

// metricFlush requests a collection before the interval has elapsed.
type metricFlush struct {
	ctx  context.Context
	done chan error
}

var _ sdkmetric.Reader = (*metricReader)(nil)

func newMetricReader(e sdkmetric.Exporter, interval time.Duration) *metricReader {
	r := &metricReader{
		ManualReader: sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(e.Temporality), sdkmetric.WithAggregationSelector(e.Aggregation)),
		exporter:     e,
		timeout:      time.Duration(positiveFromEnv("OTEL_METRIC_EXPORT_TIMEOUT", defaultMetricTimeout)) * time.Millisecond,
		flushes:      make(chan metricFlush),
		stop:         make(chan context.Context, 1),
		done:         make(chan struct{}),
	}
	go r.run(interval)
	return r
}

func (r *metricReader) run(interval time.Duration) {
	defer close(r.done)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			collected, exported := r.export(context.Background())
			if collected != nil {
				otel.Handle(collected)
			}
			// The connection counts and reports the frames it rejects.
			if exported != nil && !errors.Is(exported, ErrBufferFull) && !errors.Is(exported, ErrClosed) {
				otel.Handle(exported)
			}
		case f := <-r.flushes:
			f.done <- errors.Join(r.export(f.ctx))
		case ctx := <-r.stop:
			r.err = errors.Join(r.export(ctx))
			return
		}
	}
}

// export exports what can be collected, and returns the errors of collection and
// export.
func (r *metricReader) export(ctx context.Context) (collected, exported error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var rm metricdata.ResourceMetrics
	collected = r.Collect(ctx, &rm) // fills rm even if callbacks fail
	if len(rm.ScopeMetrics) > 0 {
		exported = r.exporter.Export(ctx, &rm)
	}
	return collected, exported
}

// ForceFlush collects and exports immediately, and flushes the exporter.
func (r *metricReader) ForceFlush(ctx context.Context) error {
	f := metricFlush{ctx, make(chan error, 1)}
	select {
	case r.flushes <- f:
	case <-r.done:
		return sdkmetric.ErrReaderShutdown
	case <-ctx.Done():
		return ctxError(ctx)
	}
	select {
	case err := <-f.done:
		if flushed := r.exporter.ForceFlush(ctx); err == nil {
			err = flushed
		}
		return err
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// Shutdown collects and exports one last time, and shuts the exporter down.
func (r *metricReader) Shutdown(ctx context.Context) error {
	err := sdkmetric.ErrReaderShutdown
	r.once.Do(func() {
		r.stop <- ctx
		if err = ctxError(ctx); ended(ctx, r.done) {
			err = r.err
		}
		err = errors.Join(err, r.ManualReader.Shutdown(ctx))
		if flushed := r.exporter.Shutdown(ctx); err == nil {
			err = flushed
		}
	})
	return err
}
