package iii

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/otlpjson"
)

// ConnectionStats holds counters of a [SharedEngineConnection] since its creation, and
// current sizes. Every accepted frame is confirmed, queued or dropped.
type ConnectionStats struct {
	Sent       uint64 // frames handed to the socket, resent ones included
	BytesSent  uint64 // size of the sent frames in bytes
	Confirmed  uint64 // frames that the engine has received
	Retried    uint64 // frames handed to the socket again because the previous connection died
	Reconnects uint64 // connections after the first

	Queued      int // frames that wait or were sent but not confirmed
	QueuedBytes int // size of the queued frames in bytes

	// Dropped frames by what they carried. A frame that was shed after it was sent
	// counts as dropped until the engine confirms it.
	Traces, LiveSpans, Metrics, Logs DroppedFrames

	Lost RecordLosses // records that did not become part of a frame
}

// Dropped returns the number of dropped frames, except those of live spans, which the
// finished spans follow.
func (s ConnectionStats) Dropped() uint64 {
	return s.Traces.Frames() + s.Metrics.Frames() + s.Logs.Frames()
}

// DroppedFrames counts dropped frames by cause.
type DroppedFrames struct {
	Full         uint64 // the queue was full (also by max_pending_messages), or the frame was too large
	NotConnected uint64 // span starts, which would be outdated on a later connection
	Closed       uint64 // the connection had ended, or ended before the frames were confirmed
	Records      uint64 // spans, data points or log records in all of these frames
}

// Frames returns the number of dropped frames.
func (d DroppedFrames) Frames() uint64 { return d.Full + d.NotConnected + d.Closed }

func (d *DroppedFrames) add(cause dropCause, records int) {
	switch cause {
	case dropFull:
		d.Full++
	case dropOffline:
		d.NotConnected++
	case dropClosed:
		d.Closed++
	}
	d.Records += uint64(records)
}

// read fills in the counters of the queue.
func (q *telemetryQueue) read(s *ConnectionStats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Sent, s.BytesSent, s.Confirmed, s.Retried = q.stats.sent, q.stats.bytes, q.stats.confirmed, q.stats.retried
	s.Queued, s.QueuedBytes = q.frames, q.bytes
	drops := q.stats.drops
	for _, f := range q.flight.All() {
		if f.shed {
			drops[f.signal()].add(dropFull, f.Records)
		}
	}
	s.LiveSpans, s.Metrics, s.Traces, s.Logs = drops[signalLive], drops[signalMetrics], drops[signalTraces], drops[signalLogs]
}

// RecordLosses counts records that did not become part of a frame, since the creation
// of the connection. [DroppedFrames] counts what was lost with whole frames.
type RecordLosses struct {
	Overflowed uint64 // spans and log records that arrived faster than they could be encoded, or after Shutdown
	Shortened  uint64 // records that were cut to fit a frame of 8 MiB
	TooLarge   uint64 // records that did not fit even when cut
	NonFinite  uint64 // data points and histogram values that are NaN or infinite, which JSON cannot represent
	Unknown    uint64 // metrics of a kind that this package does not support
}

// describe appends a description of each kind of loss.
func (l RecordLosses) describe(parts []string) []string {
	for _, loss := range []struct {
		n    uint64
		what string
	}{
		{l.Overflowed, "records that arrived too fast or too late"},
		{l.Shortened, "records shortened to fit a frame"},
		{l.TooLarge, "records too large for a frame"},
		{l.NonFinite, "numbers that are NaN or infinite"},
		{l.Unknown, "metrics of unsupported kinds"},
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

	onLoss func() // called when a record is lost; must not block
}

func (l *telemetryLosses) overflow(n int) {
	l.overflowed.Add(uint64(n))
	l.onLoss()
}

// note adds the losses of an encoder.
func (l *telemetryLosses) note(lost otlpjson.Losses) {
	if lost == (otlpjson.Losses{}) {
		return
	}
	l.shortened.Add(uint64(lost.Cut))
	l.tooLarge.Add(uint64(lost.Records))
	l.nonFinite.Add(uint64(lost.Points + lost.Values))
	l.unknown.Add(uint64(lost.Metrics))
	l.onLoss()
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

// reportInterval is the shortest time between two reports of dropped telemetry.
const reportInterval = time.Minute

// dropReport reports drops: the first one immediately, later ones at most once per
// interval.
type dropReport struct {
	send func() // must not block

	mu    sync.Mutex
	next  time.Time   // earliest time of the next report
	timer *time.Timer // runs while a report is due
	ended bool
}

// note registers a drop and does not block.
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
		r.send()
	})
}

// close sends a report that is still due, and ends the reports.
func (r *dropReport) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
		r.send()
	}
}
