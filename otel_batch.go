package iii

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

// These are the defaults of OpenTelemetry's batch processors. Environment variables override
// them: OTEL_BSP_* for spans, OTEL_BLRP_* for log records.
const (
	defaultBatchQueue = 2048
	defaultBatchSize  = 512
)

// crowdedBatch is the minimum batch size while the connection's queue is filling up. A smaller
// batch is exported only when the flush interval has elapsed or half of the queue is in use.
const crowdedBatch = 512

// batcher exports records in batches from its own goroutine. Unlike OpenTelemetry's
// processors, it reports how many records it drops and does not stall while an exporter
// flushes.
type batcher[T any] struct {
	export   func([]T)
	dropped  func(n int)
	crowded  func() bool
	size     int // batch size
	max      int // queue size
	interval time.Duration

	mu     sync.Mutex
	queue  []T
	closed bool

	spare   []T                // used only by run
	wake    chan struct{}      // tells run to check the queue
	flushes chan chan struct{} // export requests; run closes each received channel when done
	stop    chan struct{}
	done    chan struct{} // closed when run returns
}

func (b *batcher[T]) start() {
	b.wake = make(chan struct{}, 1)
	b.flushes = make(chan chan struct{})
	b.stop = make(chan struct{})
	b.done = make(chan struct{})
	go b.run()
}

// add queues a record, or drops it if the batcher is closed or its queue is full. It never
// blocks.
func (b *batcher[T]) add(record *T) {
	b.mu.Lock()
	if b.closed || len(b.queue) >= b.max {
		b.mu.Unlock()
		b.dropped(1)
		return
	}
	b.queue = append(b.queue, *record)
	n := len(b.queue)
	b.mu.Unlock()
	if n == 1 || n == b.threshold(b.size) || n == b.threshold(crowdedBatch) {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

func (b *batcher[T]) run() {
	defer close(b.done)
	timer := time.NewTimer(0)
	timer.Stop()
	running := false
	for {
		select {
		case <-b.wake:
			n := b.waiting()
			if n > 0 && n < b.threshold(b.batch()) && b.interval > 0 {
				if !running {
					timer.Reset(b.interval)
					running = true
				}
				continue
			}
		case <-timer.C:
		case exported := <-b.flushes:
			b.exportAll()
			close(exported)
			continue
		case <-b.stop:
			timer.Stop()
			b.exportAll()
			return
		}
		timer.Stop()
		running = false
		b.exportAll()
	}
}

func (b *batcher[T]) batch() int {
	if b.size < crowdedBatch && b.crowded() {
		return crowdedBatch
	}
	return b.size
}

// threshold returns the number of queued records at which a batch is exported before the
// interval has elapsed. It is at most half of the queue, so that the records that arrive before
// run takes the queue find room.
func (b *batcher[T]) threshold(batch int) int { return min(batch, (b.max+1)/2) }

func (b *batcher[T]) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// exportAll exports the records that are queued when it is called. The next record to be added
// wakes the run goroutine again.
func (b *batcher[T]) exportAll() {
	size := b.batch()
	b.mu.Lock()
	records := b.queue
	b.queue = b.spare[:0]
	b.mu.Unlock()
	for rest := records; len(rest) > 0; {
		n := min(size, len(rest))
		b.export(rest[:n])
		rest = rest[n:]
	}
	clear(records)
	b.spare = records
}

// flush waits until all records added before the call have been exported.
func (b *batcher[T]) flush(ctx context.Context) error {
	exported := make(chan struct{})
	select {
	case b.flushes <- exported:
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
	select {
	case <-exported:
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// shutdown rejects further records and waits until the queued ones have been exported.
func (b *batcher[T]) shutdown(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	if first {
		close(b.stop)
	}
	if !waitClosed(ctx, b.done) {
		return ctxError(ctx)
	}
	return nil
}

// exportHooks is implemented by this package's exporters, in addition to OpenTelemetry's
// interfaces.
type exportHooks interface {
	overflowed(n int)
	crowded() bool
}

// newBatcher returns a running batcher for an exporter. If the exporter does not implement
// exportHooks, it is not notified of drops and is never considered crowded.
func newBatcher[T any](exporter any, variables string, size int, interval time.Duration, export func(context.Context, []T) error) *batcher[T] {
	b := &batcher[T]{
		export: func(records []T) {
			err := export(context.Background(), records)
			// The connection already counts and reports the frames that it rejects.
			if err != nil && !errors.Is(err, ErrBufferFull) && !errors.Is(err, ErrClosed) {
				otel.Handle(err)
			}
		},
		dropped:  func(int) {},
		crowded:  func() bool { return false },
		max:      positiveFromEnv(variables+"MAX_QUEUE_SIZE", defaultBatchQueue),
		interval: interval,
	}
	if size == 0 {
		size = positiveFromEnv(variables+"MAX_EXPORT_BATCH_SIZE", defaultBatchSize)
	}
	b.size = min(size, b.max)
	if hooks, ok := exporter.(exportHooks); ok {
		b.dropped, b.crowded = hooks.overflowed, hooks.crowded
	}
	b.start()
	return b
}

// positiveFromEnv returns the variable's value if it is a positive integer, and def otherwise.
func positiveFromEnv(variable string, def int) int {
	if n, err := strconv.Atoi(strings.TrimSpace(os.Getenv(variable))); err == nil && n > 0 {
		return n
	}
	return def
}

type batchSpanProcessor struct {
	*batcher[sdktrace.ReadOnlySpan]
	exporter sdktrace.SpanExporter
}

// newBatchSpanProcessor returns a processor that exports finished, sampled spans in batches. A
// batch is exported when it is full, when half of the queue is in use, or flushInterval after
// its first span; an interval of 0 exports immediately. OTEL_BSP_MAX_QUEUE_SIZE and
// OTEL_BSP_MAX_EXPORT_BATCH_SIZE set the queue and batch sizes. OTEL_BSP_EXPORT_TIMEOUT has no
// effect, because the engine's exporter never waits.
func newBatchSpanProcessor(e sdktrace.SpanExporter, flushInterval time.Duration) sdktrace.SpanProcessor {
	return &batchSpanProcessor{newBatcher(e, "OTEL_BSP_", 0, flushInterval, e.ExportSpans), e}
}

func (p *batchSpanProcessor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd queues s for export if it is sampled. It never blocks.
func (p *batchSpanProcessor) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		p.add(&s)
	}
}

// ForceFlush exports the spans that have ended, then flushes the exporter.
func (p *batchSpanProcessor) ForceFlush(ctx context.Context) error {
	return flushed("spans", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports the spans that have ended and shuts down the exporter. Spans that end later
// are dropped and counted.
func (p *batchSpanProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// flushed completes a batcher's flush by flushing the exporter. err is the result of flushing
// the batcher; if it is not nil, the exporter is not flushed.
func flushed(what string, err error, exporter any, ctx context.Context) error {
	if err != nil {
		return fmt.Errorf("iii: flush %s: %w", what, err)
	}
	if e, ok := exporter.(interface{ ForceFlush(context.Context) error }); ok {
		return e.ForceFlush(ctx)
	}
	return nil
}

type batchLogProcessor struct {
	*batcher[sdklog.Record]
	exporter sdklog.Exporter
}

// newBatchLogProcessor returns a processor that exports log records when batchSize records are
// queued, half of the queue is in use or flushInterval has elapsed; an interval of 0 exports
// immediately. While the connection is down or overloaded, it exports larger batches to avoid
// losing records.
// OTEL_BLRP_MAX_QUEUE_SIZE sets the queue size.
func newBatchLogProcessor(e sdklog.Exporter, flushInterval time.Duration, batchSize int) sdklog.Processor {
	return &batchLogProcessor{newBatcher(e, "OTEL_BLRP_", max(batchSize, 1), flushInterval, e.Export), e}
}

// Enabled always returns true.
func (p *batchLogProcessor) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// OnEmit queues a copy of r for export. It never blocks.
func (p *batchLogProcessor) OnEmit(_ context.Context, r *sdklog.Record) error {
	record := r.Clone() // later processors can modify r
	p.add(&record)
	return nil
}

// ForceFlush exports the records emitted before the call, then flushes the exporter.
func (p *batchLogProcessor) ForceFlush(ctx context.Context) error {
	return flushed("logs", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports the records emitted before the call and shuts down the exporter. Records
// emitted later are dropped and counted.
func (p *batchLogProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// liveSpanProcessor sends a snapshot of each sampled span when the span starts, so that the
// engine can show running spans. It must be registered after processors that set attributes.
type liveSpanProcessor struct {
	conn    *SharedEngineConnection
	stopped atomic.Bool
}

// liveEncoders pools encoders for span starts, because many spans may start at once. The
// exporters use their own encoders, because their batches are much larger.
var liveEncoders = sync.Pool{New: func() any { return otlpjson.NewEncoder(nil) }}

func newLiveSpanProcessor(s *SharedEngineConnection) sdktrace.SpanProcessor {
	return &liveSpanProcessor{conn: s}
}

// OnStart queues the snapshot before it returns, so that the span cannot end first. If the
// engine received the finished span before the snapshot, it would show the span as running
// forever. Unsampled spans are skipped, because their end is never sent.
func (p *liveSpanProcessor) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if !s.SpanContext().IsSampled() || !s.IsRecording() || p.stopped.Load() {
		return
	}
	e := liveEncoders.Get().(*otlpjson.Encoder)
	for _, f := range e.LiveSpan(s) {
		_ = p.conn.enqueue(f) // the connection counts drops; the finished span follows
	}
	if e.Done() {
		liveEncoders.Put(e)
	}
}

// OnEnd does nothing. Another processor exports finished spans in batches.
func (p *liveSpanProcessor) OnEnd(sdktrace.ReadOnlySpan) {}

// ForceFlush does nothing, because the processor has no queue.
func (p *liveSpanProcessor) ForceFlush(context.Context) error { return nil }

func (p *liveSpanProcessor) Shutdown(context.Context) error {
	p.stopped.Store(true)
	return nil
}

// defaultMetricTimeout is the default time limit for one collection, in milliseconds.
// OTEL_METRIC_EXPORT_TIMEOUT overrides it.
const defaultMetricTimeout = 30_000

// metricReader periodically collects and exports metrics from its own goroutine.
// OpenTelemetry's periodic reader does the same, but exports nothing if any callback fails.
type metricReader struct {
	*sdkmetric.ManualReader
	exporter sdkmetric.Exporter
	timeout  time.Duration

	flushes chan metricFlush
	once    sync.Once
	stop    chan context.Context // receives the context for the last collection
	done    chan struct{}        // closed when run returns
	err     error                // error of the last collection; valid once done is closed
}

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
			// The connection already counts and reports the frames that it rejects.
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

// export collects metrics and exports those that could be collected.
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

// ForceFlush collects and exports metrics immediately, then flushes the exporter.
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

// Shutdown collects and exports metrics one last time, then shuts down the exporter.
func (r *metricReader) Shutdown(ctx context.Context) error {
	err := sdkmetric.ErrReaderShutdown
	r.once.Do(func() {
		r.stop <- ctx
		if waitClosed(ctx, r.done) {
			err = r.err
		} else {
			err = fmt.Errorf("iii: metrics are still being collected: %w", ctxError(ctx))
		}
		err = errors.Join(err, r.ManualReader.Shutdown(ctx))
		if flushed := r.exporter.Shutdown(ctx); err == nil {
			err = flushed
		}
	})
	return err
}
