package iii

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
