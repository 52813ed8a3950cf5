package iii

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/otlpjson"
)

// ConnectionStats are counters of a [SharedEngineConnection] since it was made,
// and sizes at the moment. Accepted frames are confirmed, queued or dropped.
type ConnectionStats struct {
	Sent       uint64 // frames handed to the socket, each time anew
	BytesSent  uint64 // their size
	Confirmed  uint64 // frames that the engine has taken
	Retried    uint64 // frames handed to the socket again, since the connection before had died
	Reconnects uint64 // connections after the first

	Queued      int // frames that wait, or that were sent and not confirmed yet
	QueuedBytes int // their size

	// Dropped frames by what they carried. Frames that were shed after they had
	// been sent count until the engine confirms them all the same.
	Traces, LiveSpans, Metrics, Logs DroppedFrames

	Lost RecordLosses // what did not become part of a frame
}

// Dropped is the number of all dropped frames, live spans apart: of those, the
// spans themselves follow.
func (s ConnectionStats) Dropped() uint64 {
	return s.Traces.Frames() + s.Metrics.Frames() + s.Logs.Frames()
}

// DroppedFrames are frames that were dropped, by cause.
type DroppedFrames struct {
	Full         uint64 // the queue was full (so by max_pending_messages, too), or the frame too large
	NotConnected uint64 // starts of spans, which are of no use on a later connection
	Closed       uint64 // the connection had ended, or ended before they were confirmed
	Records      uint64 // spans, data points or log records in all of these
}

// Frames is the number of dropped frames.
func (d DroppedFrames) Frames() uint64 { return d.Full + d.NotConnected + d.Closed }

func (d *DroppedFrames) add(cause dropCause, records int) {
	switch cause {
	case dropFull:
		d.Full++
	case dropAway:
		d.NotConnected++
	case dropClosed:
		d.Closed++
	}
	d.Records += uint64(records)
}

// read fills in what the queue knows.
func (q *telemetryQueue) read(s *ConnectionStats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Sent, s.BytesSent, s.Confirmed, s.Retried = q.stats.sent, q.stats.bytes, q.stats.confirmed, q.stats.retried
	s.Queued, s.QueuedBytes = q.frames, q.bytes
	drops := q.stats.drops
	for _, f := range q.flight.frames[q.flight.head:] {
		if f.shed {
			drops[f.signal()].add(dropFull, f.Records)
		}
	}
	s.LiveSpans, s.Metrics, s.Traces, s.Logs = drops[signalLive], drops[signalMetrics], drops[signalTraces], drops[signalLogs]
}

// RecordLosses are counters of what did not become part of a frame, since the
// connection was made. What was lost with whole frames is in [DroppedFrames].
type RecordLosses struct {
	Overflowed uint64 // spans and log records that came faster than they could be encoded, or after Shutdown
	Shortened  uint64 // records of which something was cut to fit a frame of 8 MiB
	TooLarge   uint64 // records that did not fit even so
	NonFinite  uint64 // data points, and figures of histograms, that are NaN or infinite: JSON has no such numbers
	Unknown    uint64 // metrics of a kind that this package does not know
}

// describe appends what there is to say.
func (l RecordLosses) describe(parts []string) []string {
	for _, loss := range []struct {
		n    uint64
		what string
	}{
		{l.Overflowed, "records that came too fast or too late"},
		{l.Shortened, "records shortened to fit a frame"},
		{l.TooLarge, "records too large for a frame"},
		{l.NonFinite, "numbers that are NaN or infinite"},
		{l.Unknown, "metrics of unknown kinds"},
	} {
		if loss.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", loss.n, loss.what))
		}
	}
	return parts
}

// telemetryLosses counts RecordLosses.
type telemetryLosses struct {
	overflowed, shortened, tooLarge, nonFinite, unknown atomic.Uint64

	said func() // called when a record was lost; must not block
}

func (l *telemetryLosses) overflow(n int) {
	l.overflowed.Add(uint64(n))
	l.said()
}

// note adds what an encoder has lost.
func (l *telemetryLosses) note(lost otlpjson.Losses) {
	if lost == (otlpjson.Losses{}) {
		return
	}
	l.shortened.Add(uint64(lost.Cut))
	l.tooLarge.Add(uint64(lost.Records))
	l.nonFinite.Add(uint64(lost.Points + lost.Values))
	l.unknown.Add(uint64(lost.Metrics))
	l.said()
}

func (l *telemetryLosses) read() RecordLosses {
	return RecordLosses{
		Overflowed: l.overflowed.Load(),
		Shortened:  l.shortened.Load(),
		TooLarge:   l.tooLarge.Load(),
		NonFinite:  l.nonFinite.Load(),
		Unknown:    l.unknown.Load(),
	}
}

// reportInterval is how often dropped telemetry is said at most.
const reportInterval = time.Minute

// dropReport says that something was dropped: at once, then once an interval.
type dropReport struct {
	say func() // must not block

	mu    sync.Mutex
	next  time.Time   // not before
	timer *time.Timer // runs when there is something to say
	ended bool
}

// note is called at each drop, and does not block.
func (r *dropReport) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil || r.ended {
		return
	}
	r.timer = time.AfterFunc(time.Until(r.next), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.timer == nil {
			return
		}
		r.timer = nil
		r.next = time.Now().Add(reportInterval)
		r.say()
	})
}

// finish says what is left to say.
func (r *dropReport) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
		r.say()
	}
}
