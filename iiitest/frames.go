package iiitest

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
)

// Direction is the direction of a message.
type Direction int

const (
	// ToEngine is a message that a worker sent.
	ToEngine Direction = iota
	// FromEngine is a message that the engine sent to a worker.
	FromEngine
)

// String returns "to engine" or "from engine".
func (d Direction) String() string {
	if d == FromEngine {
		return "from engine"
	}
	return "to engine"
}

// Frame is one message between a worker and the engine. Frames returns it, and a hook
// receives it.
type Frame struct {
	Time       time.Time // when the engine read or wrote it
	Worker     string    // the id of the connection
	WorkerName string    // the name the worker gave itself, "" if none (yet)
	Direction  Direction
	Binary     bool            // whether it arrived as a binary message
	Message    json.RawMessage // as on the wire; not necessarily JSON

	called *workerName
	cut    bool // a hook requests that the connection be cut
}

// workerName is the name that a worker gave itself, guarded by Engine.mu. It is
// separate from the worker because stored messages must not keep the connection alive.
type workerName struct{ text string }

// Type returns the protocol's type of the message, such as "invokefunction", or "" if
// it is not a protocol message.
func (f Frame) Type() string {
	var m struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(f.Message, &m) != nil {
		return ""
	}
	return m.Type
}

// Verdict is the decision of a hook about a message. The zero value lets the message
// pass.
type Verdict struct {
	// Delay holds back the message and everything behind it on this connection in this
	// direction.
	Delay time.Duration
	// Drop discards the message.
	Drop bool
	// Replace, if not nil, replaces the message by any number of messages.
	Replace []json.RawMessage
	// Cut ends the connection afterwards, without a Close frame.
	Cut bool
}

// frameLog keeps the messages of all workers in order and calls the hook.
type frameLog struct {
	hook atomic.Pointer[func(Frame) Verdict]

	mu                  sync.Mutex
	maxFrames, maxBytes int
	list                fifo.Queue[Frame]
	bytes               int
	forgotten           uint64
	messages            uint64
}

func (l *frameLog) init(frames, bytes int) { l.maxFrames, l.maxBytes = frames, bytes }

// add passes a message of w through the hook, if there is one, logs the outcome and appends the
// messages to process to out. It marks f if the hook cuts the connection.
func (l *frameLog) add(w *worker, f *Frame, hook *func(Frame) Verdict, out [][]byte) [][]byte {
	f.Time, f.Worker, f.called = time.Now(), w.id, w.called
	out = append(out, f.Message)
	if hook != nil {
		f.WorkerName = w.name()
		v := (*hook)(*f)
		if v.Delay > 0 {
			delay := time.NewTimer(v.Delay)
			select {
			case <-delay.C:
			case <-w.e.ctx.Done():
			}
			delay.Stop()
			f.Time = time.Now()
		}
		f.cut = v.Cut
		switch {
		case v.Drop:
			out = nil
		case v.Replace != nil:
			out = nil
			for _, m := range v.Replace {
				out = append(out, m)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range out {
		entry := *f
		entry.Message = m
		l.messages++
		l.list.Push(entry)
		l.bytes += len(m)
	}
	for l.list.Len() > 0 && (l.list.Len() > l.maxFrames || l.bytes > l.maxBytes) {
		l.bytes -= len(l.list.Pop().Message)
		l.forgotten++
	}
	return out
}

// Frames returns the messages of the worker protocol between workers and the engine, in
// order: received messages in the order of reading, sent messages in the order of
// writing. Only the last ones are kept, see WithFrameLimit. Do not modify the messages.
func (e *Engine) Frames() []Frame {
	e.frames.mu.Lock()
	list := append([]Frame(nil), e.frames.list.All()...)
	e.frames.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range list {
		list[i].WorkerName, list[i].called = list[i].called.text, nil
	}
	return list
}

// name returns the name that the worker gave itself.
func (w *worker) name() string {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	return w.meta.name
}

// counters holds the counters behind Stats.
type counters struct {
	undecodable, telemetryIgnored, telemetryRejected, metricsSkipped atomic.Uint64
}

// Stats holds counters since the start of the engine.
type Stats struct {
	Messages           uint64 // between workers and the engine, both ways
	Undecodable        uint64 // messages of workers that were dropped: not JSON, of unknown type, or with a missing or wrong field
	FramesForgotten    uint64 // no longer in Frames; see WithFrameLimit
	TelemetryForgotten uint64 // frames and records no longer kept; see WithTelemetryLimit
	TelemetryIgnored   uint64 // messages on /otel that are not telemetry
	TelemetryRejected  uint64 // telemetry frames lost because the engine rejects them
	MetricsSkipped     uint64 // metrics lost because the engine does not store their type
	Workers            int    // currently connected
	CallsInFlight      int    // calls that workers currently execute
}

// Stats returns the current counters.
func (e *Engine) Stats() Stats {
	s := Stats{
		Undecodable:       e.counters.undecodable.Load(),
		TelemetryIgnored:  e.counters.telemetryIgnored.Load(),
		TelemetryRejected: e.counters.telemetryRejected.Load(),
		MetricsSkipped:    e.counters.metricsSkipped.Load(),
	}
	e.frames.mu.Lock()
	s.Messages, s.FramesForgotten = e.frames.messages, e.frames.forgotten
	e.frames.mu.Unlock()
	s.TelemetryForgotten = e.telemetry.forgotten()
	e.mu.Lock()
	s.Workers, s.CallsInFlight = len(e.workers), len(e.calls)
	e.mu.Unlock()
	return s
}
