package iiitest

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
)

// Direction indicates whether a message was sent by a worker or by the engine.
type Direction int

const (
	// ToEngine marks a message sent by a worker to the engine.
	ToEngine Direction = iota
	// FromEngine marks a message sent by the engine to a worker.
	FromEngine
)

// String returns "to engine" or "from engine".
func (d Direction) String() string {
	if d == FromEngine {
		return "from engine"
	}
	return "to engine"
}

// Frame is a message between a worker and the engine, as returned by Frames and passed to
// hooks.
type Frame struct {
	Time       time.Time // when the engine read or wrote the message
	Worker     string    // connection id
	WorkerName string    // name of the worker, or "" if it has not sent one
	Direction  Direction
	Binary     bool            // true for a binary WebSocket message
	Message    json.RawMessage // as on the wire; not necessarily JSON

	called *workerName
	cut    bool // set by a hook that cuts the connection
}

// workerName is a worker's name, guarded by Engine.mu. It is separate from worker so that
// stored messages do not keep the connection alive.
type workerName struct{ text string }

// Type returns the protocol message's type, such as "invokefunction", or "" if Message is not
// a protocol message.
func (f Frame) Type() string {
	var m struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(f.Message, &m) != nil {
		return ""
	}
	return m.Type
}

// Verdict is a hook's decision about a message. The zero value delivers the message.
type Verdict struct {
	// Delay is how long to hold back the message and, with it, all later messages in the same
	// direction on the connection.
	Delay time.Duration
	// Drop discards the message.
	Drop bool
	// Replace, if not nil, contains the messages to deliver in place of the original. An empty
	// slice that is not nil drops the original.
	Replace []json.RawMessage
	// Cut closes the connection after the message, without a Close frame.
	Cut bool
}

// frameLog records the messages of all workers in order, and calls the hook.
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

// add passes a message from or to w through the hook, which may be nil. It records the
// resulting messages and appends them to out. It sets f.cut if the hook cuts the connection.
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

// Frames returns the most recent messages of the worker protocol, within the limits of
// WithFrameLimit. Received messages are in the order in which the engine read them, and sent
// messages in the order in which it wrote them. The caller must not modify the messages'
// contents.
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

func (w *worker) name() string {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	return w.meta.name
}

// counters holds the counters behind Stats.
type counters struct {
	undecodable, telemetryIgnored, telemetryRejected, metricsSkipped atomic.Uint64
}

// Stats contains counts since the engine started, and the current numbers of workers and
// calls.
type Stats struct {
	Messages           uint64 // between workers and the engine, in both directions
	Undecodable        uint64 // messages dropped because they were not JSON, had an unknown type, or had a missing or invalid field
	FramesForgotten    uint64 // no longer in Frames; see WithFrameLimit
	TelemetryForgotten uint64 // frames and records no longer kept; see WithTelemetryLimit
	TelemetryIgnored   uint64 // messages on /otel that are not telemetry
	TelemetryRejected  uint64 // telemetry frames that the engine rejected
	MetricsSkipped     uint64 // metrics of types that the engine does not store
	Workers            int    // currently connected
	CallsInFlight      int    // calls that workers are executing
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
