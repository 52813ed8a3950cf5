package iii

import (
	"context"
	"sync"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

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
