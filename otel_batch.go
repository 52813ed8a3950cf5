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

// Defaults of OpenTelemetry's batch processors. Variables with the prefix OTEL_BSP_
// override them for spans, and those with the prefix OTEL_BLRP_ for log records.
const (
	defaultBatchQueue = 2048
	defaultBatchSize  = 512
)

// crowdedBatch is the minimum size of a batch while the connection is crowded, unless
// the flush interval has elapsed.
const crowdedBatch = 512

// batcher collects records and exports them in batches from its own goroutine.
// OpenTelemetry's processors do the same, but they do not report how many records they
// drop, and they stall while an exporter flushes.
type batcher[T any] struct {
	export   func([]T)
	dropped  func(n int)
	crowded  func() bool
	size     int // of a batch
	max      int // records that can wait
	interval time.Duration

	mu     sync.Mutex
	queue  []T
	closed bool

	spare   []T                // owned by the goroutine
	wake    chan struct{}      // wakes the goroutine to check the queue
	flushes chan chan struct{} // export requests; each is closed when done
	stop    chan struct{}
	done    chan struct{} // closed when the goroutine has ended
}

func (b *batcher[T]) start() {
	b.wake = make(chan struct{}, 1)
	b.flushes = make(chan chan struct{})
	b.stop = make(chan struct{})
	b.done = make(chan struct{})
	go b.run()
}

// add queues a record, or drops it if the queue is full or closed. It never blocks.
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
	if n == 1 || n == b.size || n == crowdedBatch {
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
			if n > 0 && n < b.batch() && b.interval > 0 {
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

// batch returns the current size of a batch.
func (b *batcher[T]) batch() int {
	if b.size < crowdedBatch && b.crowded() {
		return crowdedBatch
	}
	return b.size
}

func (b *batcher[T]) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// exportAll exports the records that are in the queue now. Records added in the meantime wake
// the batcher's goroutine again.
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

// flush returns nil once all records that were added before the call have been exported.
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

// shutdown rejects further records and returns nil once the queued ones are exported.
func (b *batcher[T]) shutdown(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.mu.Unlock()
	if first {
		close(b.stop)
	}
	if !ended(ctx, b.done) {
		return ctxError(ctx)
	}
	return nil
}

// exportHooks connects this package's exporters to the batcher beyond OpenTelemetry's
// interfaces.
type exportHooks interface {
	overflowed(n int)
	crowded() bool
}

// newBatcher returns a running batcher for an exporter. An exporter without exportHooks
// is not notified of drops and is never crowded.
func newBatcher[T any](exporter any, variables string, size int, interval time.Duration, export func(context.Context, []T) error) *batcher[T] {
	b := &batcher[T]{
		export: func(records []T) {
			err := export(context.Background(), records)
			// The connection counts and reports the frames it rejects.
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

// positiveFromEnv returns the value of the variable if it is a positive integer, and
// def otherwise.
func positiveFromEnv(variable string, def int) int {
	if n, err := strconv.Atoi(strings.TrimSpace(os.Getenv(variable))); err == nil && n > 0 {
		return n
	}
	return def
}

// batchSpanProcessor exports finished spans in batches.
type batchSpanProcessor struct {
	*batcher[sdktrace.ReadOnlySpan]
	exporter sdktrace.SpanExporter
}

// newBatchSpanProcessor returns a processor that exports finished spans that are sampled: at
// most flushInterval after the first span of a batch, or as soon as the batch is full.
// OTEL_BSP_MAX_QUEUE_SIZE and OTEL_BSP_MAX_EXPORT_BATCH_SIZE set the sizes of the queue and of
// a batch. OTEL_BSP_EXPORT_TIMEOUT has no effect because our exporter never waits. An interval
// of 0 exports immediately.
func newBatchSpanProcessor(e sdktrace.SpanExporter, flushInterval time.Duration) sdktrace.SpanProcessor {
	return &batchSpanProcessor{newBatcher(e, "OTEL_BSP_", 0, flushInterval, e.ExportSpans), e}
}

// OnStart does nothing.
func (p *batchSpanProcessor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd queues s for export; it never blocks.
func (p *batchSpanProcessor) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		p.add(&s)
	}
}

// ForceFlush exports the spans that have ended, and flushes the exporter.
func (p *batchSpanProcessor) ForceFlush(ctx context.Context) error {
	return flushed("spans", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports the spans that have ended, and shuts the exporter down. Spans that
// end later are dropped and counted.
func (p *batchSpanProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// flushed flushes the exporter, unless flushing its batcher has failed with err.
func flushed(what string, err error, exporter any, ctx context.Context) error {
	if err != nil {
		return fmt.Errorf("iii: flush %s: %w", what, err)
	}
	if e, ok := exporter.(interface{ ForceFlush(context.Context) error }); ok {
		return e.ForceFlush(ctx)
	}
	return nil
}

// batchLogProcessor exports log records in batches.
type batchLogProcessor struct {
	*batcher[sdklog.Record]
	exporter sdklog.Exporter
}

// newBatchLogProcessor returns a processor that exports log records in batches of batchSize,
// or after flushInterval; an interval of 0 exports immediately. While the connection is down
// or overloaded, it exports larger batches to avoid losing records. OTEL_BLRP_MAX_QUEUE_SIZE
// sets the size of the queue.
func newBatchLogProcessor(e sdklog.Exporter, flushInterval time.Duration, batchSize int) sdklog.Processor {
	return &batchLogProcessor{newBatcher(e, "OTEL_BLRP_", max(batchSize, 1), flushInterval, e.Export), e}
}

// Enabled returns true: every record is exported.
func (p *batchLogProcessor) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// OnEmit queues a copy of r for export; it never blocks.
func (p *batchLogProcessor) OnEmit(_ context.Context, r *sdklog.Record) error {
	record := r.Clone() // later processors can modify r
	p.add(&record)
	return nil
}

// ForceFlush exports the records that were emitted before the call, and flushes the
// exporter.
func (p *batchLogProcessor) ForceFlush(ctx context.Context) error {
	return flushed("logs", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports the records that were emitted before the call, and shuts the
// exporter down. Records emitted later are dropped and counted.
func (p *batchLogProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// liveSpanProcessor sends a snapshot of each sampled span when it starts, so the engine
// can show running spans. It must come after the processors that set attributes.
type liveSpanProcessor struct {
	conn    *SharedEngineConnection
	stopped atomic.Bool
}

// liveEncoders pools encoders for span starts, because many spans start at once. Each
// exporter has its own encoder, because its batches are much larger.
var liveEncoders = sync.Pool{New: func() any { return otlpjson.NewEncoder(nil) }}

func newLiveSpanProcessor(s *SharedEngineConnection) sdktrace.SpanProcessor {
	return &liveSpanProcessor{conn: s}
}

// OnStart queues the snapshot immediately, before the span can end: if the engine received the
// snapshot after the finished span, it would show the span as running forever. A span that is
// not sampled is skipped because its end is never sent.
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

// OnEnd does nothing: finished spans are exported in batches.
func (p *liveSpanProcessor) OnEnd(sdktrace.ReadOnlySpan) {}

// ForceFlush does nothing: the processor queues nothing itself.
func (p *liveSpanProcessor) ForceFlush(context.Context) error { return nil }

// Shutdown stops the snapshots.
func (p *liveSpanProcessor) Shutdown(context.Context) error {
	p.stopped.Store(true)
	return nil
}

// defaultMetricTimeout is the time limit of one collection in milliseconds, unless
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

// export exports all metrics that can be collected, and returns the errors of the collection
// and of the export.
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
