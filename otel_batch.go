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
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

// Defaults of OpenTelemetry's batch processors, and the variables that change
// them: OTEL_BSP_ for spans, OTEL_BLRP_ for log records.
const (
	defaultBatchQueue = 2048
	defaultBatchSize  = 512
)

// crowdedBatch is the least size of a batch, unless the flush interval is over,
// while the connection has much to do.
const crowdedBatch = 512

// batcher collects records and exports them in batches, from a goroutine of its
// own. OpenTelemetry's processors do the same, but drop records without telling
// how many, and stand still while an exporter flushes.
type batcher[T any] struct {
	export   func([]T)
	dropped  func(n int)
	crowded  func() bool
	size     int // of a batch
	max      int // records that may wait
	interval time.Duration

	mu     sync.Mutex
	queue  []T
	closed bool

	spare   []T                // of the goroutine
	wake    chan struct{}      // something is to be looked at
	flushes chan chan struct{} // requests to export all; closed when that is done
	stop    chan struct{}
	done    chan struct{} // the goroutine has ended
}

func (b *batcher[T]) start() {
	b.wake = make(chan struct{}, 1)
	b.flushes = make(chan chan struct{})
	b.stop = make(chan struct{})
	b.done = make(chan struct{})
	go b.run()
}

// add takes a record, or drops it if too many wait. It never blocks.
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

// batch is the size of a batch at the moment.
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

// exportAll exports what waits now. What comes meanwhile wakes the goroutine
// again.
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

// flush returns nil when everything that was added before is exported.
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

// shutdown takes no more records, and returns nil when the others are exported.
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

// exportHooks are what our exporters tell and are told beyond OpenTelemetry's
// interfaces.
type exportHooks interface {
	overflowed(n int)
	crowded() bool
}

// newBatcher makes a batcher for an exporter. What that lacks is done without.
func newBatcher[T any](exporter any, variables string, size int, interval time.Duration, export func(context.Context, []T) error) *batcher[T] {
	b := &batcher[T]{
		export: func(records []T) {
			err := export(context.Background(), records)
			// The connection has counted what it refused, and says so in its own time.
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

// positiveFromEnv is the variable, if it is a positive number, else def.
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

// newBatchSpanProcessor makes a processor that exports finished spans that are
// sampled: flushInterval after the first of a batch at the latest, or as soon as
// it is full. Queue and batch have the sizes of OTEL_BSP_MAX_QUEUE_SIZE and
// OTEL_BSP_MAX_EXPORT_BATCH_SIZE. Our exporter never waits, so OTEL_BSP_EXPORT_TIMEOUT
// bounds nothing. An interval of 0 exports at once.
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

// ForceFlush exports what has ended before, and flushes the exporter.
func (p *batchSpanProcessor) ForceFlush(ctx context.Context) error {
	return flushed("spans", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports what has ended before, and shuts the exporter down. What ends
// afterwards is dropped and counted.
func (p *batchSpanProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// flushed flushes the exporter after its batcher, whose error is err.
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

// newBatchLogProcessor makes a processor that exports log records in batches of
// batchSize, or after flushInterval; an interval of 0 exports at once. Rather than
// lose records to a connection that is away or overwhelmed, it makes the batches
// larger then. The queue has the size of OTEL_BLRP_MAX_QUEUE_SIZE.
func newBatchLogProcessor(e sdklog.Exporter, flushInterval time.Duration, batchSize int) sdklog.Processor {
	return &batchLogProcessor{newBatcher(e, "OTEL_BLRP_", max(batchSize, 1), flushInterval, e.Export), e}
}

// Enabled is true: everything is exported.
func (p *batchLogProcessor) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// OnEmit queues a copy of r for export; it never blocks.
func (p *batchLogProcessor) OnEmit(_ context.Context, r *sdklog.Record) error {
	record := r.Clone() // processors after this one may change r
	p.add(&record)
	return nil
}

// ForceFlush exports what was emitted before, and flushes the exporter.
func (p *batchLogProcessor) ForceFlush(ctx context.Context) error {
	return flushed("logs", p.flush(ctx), p.exporter, ctx)
}

// Shutdown exports what was emitted before, and shuts the exporter down. What is
// emitted afterwards is dropped and counted.
func (p *batchLogProcessor) Shutdown(ctx context.Context) error {
	return errors.Join(p.shutdown(ctx), p.exporter.Shutdown(ctx))
}

// liveSpanProcessor sends a snapshot of each sampled span as it starts, so that
// the engine can show what is running. It must come after the processors that
// set attributes.
type liveSpanProcessor struct {
	conn    *SharedEngineConnection
	stopped atomic.Bool
}

// liveEncoders encode the starts of spans, of which many begin at once; an exporter,
// whose batches are much larger, has an encoder of its own.
var liveEncoders = sync.Pool{New: func() any { return otlpjson.NewEncoder(nil) }}

func newLiveSpanProcessor(s *SharedEngineConnection) sdktrace.SpanProcessor {
	return &liveSpanProcessor{conn: s}
}

// OnStart queues the snapshot before the span can end: the engine would show a
// span as running for ever whose snapshot came last. One that is not sampled is
// left out, since its end is never sent.
func (p *liveSpanProcessor) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if !s.SpanContext().IsSampled() || !s.IsRecording() || p.stopped.Load() {
		return
	}
	e := liveEncoders.Get().(*otlpjson.Encoder)
	for _, f := range e.LiveSpan(s) {
		_ = p.conn.enqueue(f) // counted there; the span itself follows
	}
	if e.Done() {
		liveEncoders.Put(e)
	}
}

// OnEnd does nothing: finished spans are exported in batches.
func (p *liveSpanProcessor) OnEnd(sdktrace.ReadOnlySpan) {}

// ForceFlush does nothing: nothing waits here.
func (p *liveSpanProcessor) ForceFlush(context.Context) error { return nil }

// Shutdown ends it.
func (p *liveSpanProcessor) Shutdown(context.Context) error {
	p.stopped.Store(true)
	return nil
}
