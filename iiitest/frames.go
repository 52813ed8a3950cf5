package iiitest

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

// Direction says which way a message went.
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

// Frame is one message between a worker and the engine, as Frames lists it and
// as a hook sees it.
type Frame struct {
	Time       time.Time // when the engine read or wrote it
	Worker     string    // the id of the connection
	WorkerName string    // the name the worker gave itself, "" if none (yet)
	Direction  Direction
	Binary     bool            // it came as a binary message
	Message    json.RawMessage // as it was on the wire; need not be JSON

	called *workerName
	cut    bool // a hook wants the connection cut
}

// workerName is what a worker calls itself, guarded by Engine.mu. It outlives the
// connection: what is kept of messages must not keep that.
type workerName struct{ text string }

// Type is the protocol's type of the message, such as "invokefunction", or ""
// for what is no protocol message.
func (f Frame) Type() string {
	var m struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(f.Message, &m) != nil {
		return ""
	}
	return m.Type
}

// Verdict is what a hook decides about a message. The zero value lets it pass.
type Verdict struct {
	// Delay holds the message, and with it everything behind it on this
	// connection in this direction.
	Delay time.Duration
	// Drop makes the message disappear.
	Drop bool
	// Replace stands in its place if it is not nil: any number of messages.
	Replace []json.RawMessage
	// Cut ends the connection after that, without a Close frame.
	Cut bool
}

// frameLog keeps the messages of all workers in order and asks the hook.
type frameLog struct {
	hook atomic.Pointer[func(Frame) Verdict]

	mu                  sync.Mutex
	maxFrames, maxBytes int
	list                []Frame
	bytes               int
	forgotten           uint64
	messages            uint64
}

func (l *frameLog) init(frames, bytes int) { l.maxFrames, l.maxBytes = frames, bytes }

// add passes a message of w through the hook and logs what comes out: the
// messages to go on with. A cut is noted in f.
func (l *frameLog) add(w *worker, f *Frame) [][]byte {
	f.Time, f.Worker, f.called = time.Now(), w.id, w.called
	out := [][]byte{f.Message}
	if hook := l.hook.Load(); hook != nil {
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
		l.list = append(l.list, entry)
		l.bytes += len(m)
	}
	drop := 0
	for drop < len(l.list) && (len(l.list)-drop > l.maxFrames || l.bytes > l.maxBytes) {
		l.bytes -= len(l.list[drop].Message)
		l.list[drop] = Frame{}
		drop++
	}
	l.list = l.list[drop:]
	l.forgotten += uint64(drop)
	return out
}

// Frames lists the messages that went between workers and the engine, on
// connections of the worker protocol, in order: received ones in the order of
// reading, sent ones in the order of writing. It holds the last ones within the
// bounds of WithFrameLimit. The messages must not be changed.
func (e *Engine) Frames() []Frame {
	e.frames.mu.Lock()
	list := append([]Frame(nil), e.frames.list...)
	e.frames.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range list {
		list[i].WorkerName, list[i].called = list[i].called.text, nil
	}
	return list
}

// name is what the worker calls itself.
func (w *worker) name() string {
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	return w.meta.name
}

// counters of the engine, see Stats.
type counters struct {
	undecodable, telemetryIgnored, telemetryRejected, metricsSkipped atomic.Uint64
}

// Stats are counters since the start of the engine.
type Stats struct {
	Messages           uint64 // between workers and the engine, both ways
	Undecodable        uint64 // messages of workers that were dropped: no JSON, unknown type, a field missing or wrong
	FramesForgotten    uint64 // no longer in Frames, see WithFrameLimit
	TelemetryForgotten uint64 // frames and records no longer kept, see WithTelemetryLimit
	TelemetryIgnored   uint64 // messages on /otel that are no telemetry
	TelemetryRejected  uint64 // telemetry frames lost because the engine would not take them
	MetricsSkipped     uint64 // metrics lost because the engine does not keep their type
	Workers            int    // connected now
	CallsInFlight      int    // executed by workers now
}

// Stats returns the counters.
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
