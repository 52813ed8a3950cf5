package iii

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/otlpjson"
)

// These limits apply to frames in flight, that is, frames that have been written but not yet
// confirmed. The limits are high enough to keep a link busy, and low enough that all of these
// frames can be sent again if the link fails.
const (
	maxFlightFrames = 1024
	maxFlightBytes  = 4 << 20
)

// pingFrames is the number of frames after which another ping is sent, even if the previous
// ping has not been answered. An engine that forwards to a stuck collector takes 10 s per
// frame. The number is small enough that even such an engine confirms some frames before the
// link is considered dead. With a larger number, the same frames would be resent indefinitely.
const pingFrames = 4

// telemetryQueue holds frames until the engine has confirmed them. Each class has its own
// queue, so that a class's oldest frame can be found immediately. Frame numbers preserve the
// order across classes.
type telemetryQueue struct {
	maxFrames, maxBytes int
	maxOffline          int // frame limit while disconnected; 0 means maxFrames
	buffers             otlpjson.Buffers

	mu          sync.Mutex
	link        *telemetryLink // the current link, or nil
	starting    bool           // the first attempt to connect has not finished
	ended       error          // why frames are rejected; set once
	orderly     bool           // frames are rejected because of Shutdown
	ending      bool           // frames dropped from now on are lost by the shutdown
	lost        int            // frames lost by the shutdown or a failure, except live ones
	last        uint64         // number of the last accepted frame
	waiting     [classes]fifo.Queue[queuedFrame]
	flight      fifo.Queue[queuedFrame] // frames passed to the link's writer, in order
	flightBytes int                     // bytes in flight, including shed frames
	frames      int                     // waiting and in flight, except shed frames
	bytes       int                     // total size of the frames counted in frames
	held        [classes]heldFrames
	waiters     map[*flushWaiter]struct{}
	stats       queueStats
	dropped     func() // called with mu held when records are lost; must not block
}

type queueStats struct {
	sent, bytes, confirmed, retried uint64
	drops                           [signals]DroppedFrames
}

// heldFrames counts a class's queued frames, not including shed frames.
type heldFrames struct{ frames, bytes, inFlight int }

// flushWaiter waits for all frames with numbers up to upTo.
type flushWaiter struct {
	upTo    uint64
	dropped int // how many of these frames were dropped, except live ones
	done    chan struct{}
}

type dropCause uint8

const (
	dropFull dropCause = iota
	dropOffline
	dropClosed
)

func (q *telemetryQueue) drop(f *queuedFrame, cause dropCause) {
	signal := f.signal()
	q.buffers.Release(&f.Frame)
	q.stats.drops[signal].add(cause, f.Records)
	if signal == signalLive {
		return
	}
	if q.ending && cause == dropFull {
		q.lost++
	}
	for w := range q.waiters {
		if f.number <= w.upTo {
			w.dropped++
		}
	}
	if q.dropped != nil {
		q.dropped()
	}
}

// enqueue takes ownership of f and never blocks.
func (q *telemetryQueue) enqueue(f otlpjson.Frame) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	item := queuedFrame{Frame: f, number: math.MaxUint64}
	switch size := f.Size(); {
	case q.ended != nil:
		if !q.orderly && !f.Live {
			q.lost++
		}
		q.drop(&item, dropClosed)
		return q.ended
	case f.Live && q.link == nil && !q.starting:
		q.drop(&item, dropOffline)
		return nil
	case size >= messageTooLarge:
		q.drop(&item, dropFull)
		return fmt.Errorf("%w: telemetry of %d bytes", ErrMessageTooLarge, size)
	case !q.makeRoom(signalOf(&f).class(), size):
		q.drop(&item, dropFull)
		return ErrBufferFull
	}
	if len(q.waiters) > 0 {
		q.releaseWaiters() // the shed frames no longer delay them
	}
	q.last++
	item.number = q.last
	q.keep(&item)
	q.waiting[signalOf(&f).class()].Push(item)
	if q.link != nil {
		q.link.Wake()
	}
	return nil
}

func (q *telemetryQueue) limit() int {
	if q.link == nil && q.maxOffline > 0 {
		return min(q.maxFrames, q.maxOffline)
	}
	return q.maxFrames
}

// makeRoom sheds the oldest frames, lowest class first, until a frame of class c and the given
// size fits. If that is impossible, it sheds nothing and returns false.
func (q *telemetryQueue) makeRoom(c frameClass, size int) bool {
	limit := q.limit()
	frames, bytes := q.frames, q.bytes
	for _, held := range q.held[:c+1] {
		frames -= held.frames
		bytes -= held.bytes
	}
	if frames >= limit || bytes+size > q.maxBytes {
		return false
	}
	for lowest := classLive; q.frames >= limit || q.bytes+size > q.maxBytes; {
		if q.held[lowest].frames == 0 {
			lowest++
			continue
		}
		q.shedOldest(lowest)
	}
	return true
}

// shedOldest sheds the oldest frame of class c. The class must not be empty. A shed frame that
// is in flight can still arrive; if it is confirmed, it is no longer counted as dropped.
func (q *telemetryQueue) shedOldest(c frameClass) {
	if q.held[c].inFlight > 0 {
		flight := q.flight.All()
		for i := range flight {
			if f := &flight[i]; !f.shed && f.signal().class() == c {
				q.forget(f, true)
				f.shed = true
				f.Discard()
				return
			}
		}
	}
	f := q.waiting[c].Pop()
	q.forget(&f, false)
	q.drop(&f, dropFull)
}

// keep adds a frame to the counts when it enters the queue. forget subtracts it.
func (q *telemetryQueue) keep(f *queuedFrame) {
	h := &q.held[f.signal().class()]
	h.frames++
	h.bytes += f.Size()
	q.frames++
	q.bytes += f.Size()
}

func (q *telemetryQueue) forget(f *queuedFrame, inFlight bool) {
	h := &q.held[f.signal().class()]
	h.frames--
	h.bytes -= f.Size()
	if inFlight {
		h.inFlight--
	}
	q.frames--
	q.bytes -= f.Size()
}

func (q *telemetryQueue) attach(l *telemetryLink) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.link, q.starting = l, false
	l.Wake()
}

// dialFailed records a failed attempt to connect. It drops span starts, because they would be
// stale by the time of the next attempt.
func (q *telemetryQueue) dialFailed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.starting = false
	q.shedOffline()
	q.releaseWaiters()
}

// shedOffline drops the frames that cannot be kept while there is no connection: span starts,
// and frames beyond the offline limit.
func (q *telemetryQueue) shedOffline() {
	for q.waiting[classLive].Len() > 0 {
		f := q.waiting[classLive].Pop()
		q.forget(&f, false)
		q.drop(&f, dropOffline)
	}
	for lowest := classMetrics; q.frames > q.limit(); {
		if q.held[lowest].frames == 0 {
			lowest++
			continue
		}
		q.shedOldest(lowest)
	}
}

// take appends to batch, in order, the frames that must be written next. If ping is set, l's
// writer must then send a ping whose pong confirms the frames up to number.
func (q *telemetryQueue) take(l *telemetryLink, batch []queuedFrame) (_ []queuedFrame, ping bool, number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return batch, false, 0
	}
	for size := 0; size < takeBytes && q.flight.Len() < maxFlightFrames && q.flightBytes < maxFlightBytes; {
		f, ok := q.next()
		if !ok {
			break
		}
		// Span starts are never resent. They need no confirmation unless a flush is waiting or
		// too much data is in flight.
		if !f.Live || len(q.waiters) > 0 || q.flight.Len() >= min(maxFlightFrames/2, q.limit()/16) || q.flightBytes >= maxFlightBytes/2 {
			l.unpinged++
		}
		if l.unpinged >= pingFrames {
			f.ping = true
			l.pinged, l.unpinged = f.number, 0
		}
		size += f.sentSize
		batch = append(batch, f)
	}
	ping = l.ping || l.unpinged > 0 && l.pinged == l.ponged
	l.ping = false
	if n := len(batch); n > 0 && batch[n-1].ping {
		ping = false // the ping after the last frame suffices
	}
	if ping {
		if q.flight.Len() > 0 {
			l.pinged = q.flight.Last().number
		}
		l.unpinged = 0
	}
	return batch, ping, l.pinged
}

func (q *telemetryQueue) next() (f queuedFrame, ok bool) {
	var oldest *fifo.Queue[queuedFrame]
	for c := range q.waiting {
		if d := &q.waiting[c]; d.Len() > 0 && (oldest == nil || d.First().number < oldest.First().number) {
			oldest = d
		}
	}
	if oldest == nil {
		return f, false
	}
	f = oldest.Pop()
	if f.resend {
		q.stats.retried++
	}
	f.sentSize = f.Size()
	q.stats.sent++
	q.stats.bytes += uint64(f.sentSize)
	q.flightBytes += f.sentSize
	q.held[f.signal().class()].inFlight++
	q.flight.Push(f)
	return f, true
}

// requestPing makes l's writer send a ping.
func (q *telemetryQueue) requestPing(l *telemetryLink) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.ping = true
	l.Wake()
}

func (q *telemetryQueue) current() *telemetryLink {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link
}

// confirm records that a pong on l has confirmed all frames up to number.
func (q *telemetryQueue) confirm(l *telemetryLink, number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l || number > l.pinged || number < l.ponged {
		return
	}
	l.ponged = number
	for f := q.flight.First(); f != nil && f.number <= number; f = q.flight.First() {
		q.flightBytes -= f.sentSize
		if !f.shed {
			q.forget(f, true)
			if f.number <= l.written.Load() {
				q.buffers.Release(&f.Frame)
			}
		}
		q.stats.confirmed++
		q.flight.Pop()
	}
	q.releaseWaiters()
	l.Wake()
}

// detach removes the current link after its writer has stopped. Unconfirmed frames return to
// the front of the queue.
func (q *telemetryQueue) detach(l *telemetryLink) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return
	}
	q.link = nil
	var back [classes][]queuedFrame
	for q.flight.Len() > 0 {
		f := q.flight.Pop()
		switch {
		case f.shed:
			q.drop(&f, dropFull)
			continue
		case f.Live:
			q.forget(&f, true)
			q.drop(&f, dropOffline)
			continue
		}
		c := f.signal().class()
		q.held[c].inFlight--
		f.resend = true
		back[c] = append(back[c], f)
	}
	q.flightBytes = 0
	for c, frames := range back {
		if len(frames) > 0 {
			q.waiting[c].PushFront(frames...)
		}
	}
	q.shedOffline()
	q.releaseWaiters()
}

// refuse makes the queue reject further frames with the given reason. If it already rejects
// frames, the earlier reason is kept. If orderly is set, later frames are not counted as lost,
// because their senders get an error.
func (q *telemetryQueue) refuse(reason error, orderly bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil {
		q.ended = reason
	}
	q.orderly = q.orderly || orderly
}

func (q *telemetryQueue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ending = true
}

// close drops the remaining frames. The queue must already reject frames and have no link.
func (q *telemetryQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := range q.waiting {
		for q.waiting[c].Len() > 0 {
			f := q.waiting[c].Pop()
			q.forget(&f, false)
			q.drop(&f, dropClosed)
			if !f.Live {
				q.lost++
			}
		}
	}
	q.releaseWaiters()
}

// losses returns the number of frames lost during the shutdown or because of a failure.
func (q *telemetryQueue) losses() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// confirmed returns the number of frames that the engine has confirmed.
func (q *telemetryQueue) confirmed() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats.confirmed
}

// addFlushWaiter adds and returns a waiter for all frames accepted so far, or nil if the queue
// is empty.
func (q *telemetryQueue) addFlushWaiter() *flushWaiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.oldest() == 0 {
		return nil
	}
	w := &flushWaiter{upTo: q.last, done: make(chan struct{})}
	if q.waiters == nil {
		q.waiters = map[*flushWaiter]struct{}{}
	}
	q.waiters[w] = struct{}{}
	if l := q.link; l != nil && q.flight.Len() > 0 && l.pinged < q.flight.Last().number {
		l.ping = true
		l.Wake()
	}
	return w
}

// leave removes w. It returns how many of the frames that w waited for are still queued, and
// how many were dropped. Live frames are not counted.
func (q *telemetryQueue) leave(w *flushWaiter) (remaining, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiters, w)
	for _, d := range [...]*fifo.Queue[queuedFrame]{&q.flight, &q.waiting[classMetrics], &q.waiting[classRecords]} {
		for _, f := range d.All() {
			if f.number <= w.upTo && !f.Live {
				remaining++
			}
		}
	}
	return remaining, w.dropped
}

// releaseWaiters releases the waiters whose frames have all left the queue.
func (q *telemetryQueue) releaseWaiters() {
	if len(q.waiters) == 0 {
		return
	}
	oldest := q.oldest()
	for w := range q.waiters {
		if oldest == 0 || oldest > w.upTo {
			delete(q.waiters, w)
			close(w.done)
		}
	}
}

// oldest returns the number of the oldest queued frame, or 0 if the queue is empty.
func (q *telemetryQueue) oldest() uint64 {
	if f := q.flight.First(); f != nil {
		return f.number
	}
	var oldest uint64
	for c := range q.waiting {
		if f := q.waiting[c].First(); f != nil && (oldest == 0 || f.number < oldest) {
			oldest = f.number
		}
	}
	return oldest
}

type frameSignal uint8

const (
	signalLive frameSignal = iota
	signalMetrics
	signalTraces
	signalLogs
	signals
)

func (f *queuedFrame) signal() frameSignal { return signalOf(&f.Frame) }

func signalOf(f *otlpjson.Frame) frameSignal {
	switch {
	case f.Live:
		return signalLive
	case f.Prefix == otlpjson.PrefixMetrics:
		return signalMetrics
	case f.Prefix == otlpjson.PrefixTraces:
		return signalTraces
	}
	return signalLogs
}

// frameClass orders frames for shedding. A frame can displace frames of the same or a lower
// class.
type frameClass uint8

const (
	classLive frameClass = iota
	classMetrics
	classRecords // spans and logs
	classes
)

func (s frameSignal) class() frameClass {
	return min(frameClass(s), classRecords)
}

type queuedFrame struct {
	otlpjson.Frame
	number   uint64 // counts accepted frames from 1
	sentSize int    // size in bytes when sent
	ping     bool   // a ping follows this frame
	resend   bool   // already written to an earlier link
	shed     bool   // dropped while in flight: never resent, and its data is released
}

// ConnectionStats holds the counters of a [SharedEngineConnection] since its creation, and its
// current queue size. Each accepted frame is counted as confirmed, queued or dropped.
type ConnectionStats struct {
	Sent       uint64 // frames handed to the socket, including resent ones
	BytesSent  uint64 // total size of the sent frames
	Confirmed  uint64 // frames confirmed by the engine
	Retried    uint64 // frames resent after the previous connection was lost
	Reconnects uint64 // connections after the first

	Queued      int // frames that are waiting, or sent but not confirmed
	QueuedBytes int // total size of the queued frames

	// Traces, LiveSpans, Metrics and Logs count the dropped frames of each kind of telemetry.
	// If the engine later confirms a frame that was dropped after it had been sent, it is no
	// longer counted as dropped.
	Traces, LiveSpans, Metrics, Logs DroppedFrames

	Lost RecordLosses // records that were not put into a frame, or were shortened
}

// Dropped returns the number of dropped frames. Live spans are not counted, because the
// finished spans are sent later.
func (s ConnectionStats) Dropped() uint64 {
	return s.Traces.Frames() + s.Metrics.Frames() + s.Logs.Frames()
}

// DroppedFrames counts dropped frames by cause, and the records that they contained.
type DroppedFrames struct {
	Full         uint64 // the queue was full (including by max_pending_messages), or the frame was too large
	NotConnected uint64 // span starts, which would be outdated on a later connection
	Closed       uint64 // the connection had ended, or ended before the frames were confirmed
	Records      uint64 // spans, data points and log records in these frames
}

// Frames returns the total number of dropped frames.
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

// read fills in the queue's counters.
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

// RecordLosses counts records that were lost or truncated before they became part of a frame.
// The counts start when the connection is created. [DroppedFrames] counts lost frames.
type RecordLosses struct {
	Overflowed uint64 // spans and log records that arrived faster than they could be encoded, or after Shutdown
	Shortened  uint64 // records shortened to fit a frame of 8 MiB
	TooLarge   uint64 // records that did not fit even when shortened
	NonFinite  uint64 // data points and histogram values that are NaN or infinite, which JSON cannot represent
	Unknown    uint64 // metrics of an unsupported kind
}

// describe appends a description of each nonzero count to parts.
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

type telemetryLosses struct {
	overflowed, shortened, tooLarge, nonFinite, unknown atomic.Uint64

	onLoss func() // called when a record is lost; must not block
}

func (l *telemetryLosses) overflow(n int) {
	l.overflowed.Add(uint64(n))
	l.onLoss()
}

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

// reportInterval is the minimum time between two reports of dropped telemetry.
const reportInterval = time.Minute

// dropReport reports drops: the first one immediately, later ones at most once per
// reportInterval.
type dropReport struct {
	send func() // must not block

	mu    sync.Mutex
	next  time.Time   // earliest time of the next report
	timer *time.Timer // not nil while a report is pending
	ended bool
}

// note records a drop. It does not block.
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

// close sends a pending report and prevents further ones.
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
