package iii

import (
	"fmt"
	"math"
	"sync"

	"github.com/iii-go/iii/internal/otlpjson"
)

// What may be written and not confirmed: enough to keep a link busy, and little
// enough to send again.
const (
	flightFrames = 1024
	flightBytes  = 4 << 20
)

// pingFrames is after how many frames a ping goes out although the pong to the one
// before has not come. An engine that forwards to a collector that is stuck takes
// 10 s a frame: so few frames are still confirmed before the link counts as dead,
// and are not sent again and again.
const pingFrames = 4

// telemetryQueue holds the frames until the engine has confirmed them. Those
// that wait are in one queue a class, so that the oldest of a class is found at
// once; their numbers keep the order between the classes.
type telemetryQueue struct {
	maxFrames, maxBytes int
	maxAway             int // frames while there is no link; 0: maxFrames
	buffers             otlpjson.Buffers

	mu      sync.Mutex
	link    *telemetryLink // the link that is written to, or nil
	fresh   bool           // no attempt to connect has failed yet, and none has succeeded
	ended   error          // set once: no frame is accepted any more
	orderly bool           // Shutdown has said so
	ending  bool           // what is dropped from now on is lost by the end
	lost    int            // frames that the end has cost, live ones apart
	last    uint64         // number of the frame accepted last
	waiting [classes]frameDeque
	flight  frameDeque // handed to the link's writer, in order
	flying  int        // bytes in flight, with those shed
	frames  int        // waiting and in flight, without those shed
	bytes   int        // of these
	held    [classes]heldFrames
	waiters map[*flushWaiter]struct{}
	stats   queueStats
	dropped func() // called under mu when records were lost; must not block
}

type queueStats struct {
	sent, bytes, confirmed, retried uint64
	drops                           [signals]DroppedFrames
}

// heldFrames is what a class has in the queue, without those shed.
type heldFrames struct{ frames, bytes, flying int }

// flushWaiter waits for the frames up to a number.
type flushWaiter struct {
	upTo    uint64
	dropped int // frames up to it that were dropped since, live ones apart
	done    chan struct{}
}

// dropCause is why a frame was dropped.
type dropCause uint8

const (
	dropFull dropCause = iota
	dropAway
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

// enqueue takes f over, and never blocks.
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
	case f.Live && q.link == nil && !q.fresh:
		q.drop(&item, dropAway)
		return nil
	case size >= messageTooLarge:
		q.drop(&item, dropFull)
		return fmt.Errorf("%w: telemetry of %d bytes", ErrMessageTooLarge, size)
	case !q.makeRoom(signalOf(&f).class(), size):
		q.drop(&item, dropFull)
		return ErrBufferFull
	}
	if len(q.waiters) > 0 {
		q.tellWaiters() // of what was shed
	}
	q.last++
	item.number = q.last
	q.keep(&item)
	q.waiting[signalOf(&f).class()].push(item)
	if q.link != nil {
		q.link.wakeWriter()
	}
	return nil
}

// limit is the number of frames that may be kept.
func (q *telemetryQueue) limit() int {
	if q.link == nil && q.maxAway > 0 {
		return min(q.maxFrames, q.maxAway)
	}
	return q.maxFrames
}

// makeRoom sheds the oldest frames, those of the lowest class first, until one
// of class c and the given size fits. It sheds none if that cannot be.
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

// shedOldest sheds the oldest frame of class c, of which there is one. What is
// in flight may arrive all the same: it is dropped for good if the link dies.
func (q *telemetryQueue) shedOldest(c frameClass) {
	if q.held[c].flying > 0 {
		for i := q.flight.head; ; i++ {
			if f := &q.flight.frames[i]; !f.shed && f.signal().class() == c {
				q.forget(f, true)
				f.shed = true
				f.Discard()
				return
			}
		}
	}
	f := q.waiting[c].pop()
	q.forget(&f, false)
	q.drop(&f, dropFull)
}

// keep counts a frame that is kept from now on; forget is its opposite.
func (q *telemetryQueue) keep(f *queuedFrame) {
	h := &q.held[f.signal().class()]
	h.frames++
	h.bytes += f.Size()
	q.frames++
	q.bytes += f.Size()
}

func (q *telemetryQueue) forget(f *queuedFrame, flying bool) {
	h := &q.held[f.signal().class()]
	h.frames--
	h.bytes -= f.Size()
	if flying {
		h.flying--
	}
	q.frames--
	q.bytes -= f.Size()
}

// attach makes l the link that is written to.
func (q *telemetryQueue) attach(l *telemetryLink) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.link, q.fresh = l, false
	l.wakeWriter()
}

// missed notes that an attempt to connect has failed: what has just started is
// no news by the time of the next.
func (q *telemetryQueue) missed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fresh = false
	q.away()
	q.tellWaiters()
}

// away drops what is not kept without a link.
func (q *telemetryQueue) away() {
	for q.waiting[classLive].len() > 0 {
		f := q.waiting[classLive].pop()
		q.forget(&f, false)
		q.drop(&f, dropAway)
	}
	for lowest := classMetrics; q.frames > q.limit(); {
		if q.held[lowest].frames == 0 {
			lowest++
			continue
		}
		q.shedOldest(lowest)
	}
}

// take appends to batch what l's writer is to write next, in order, and returns
// what belongs behind it.
func (q *telemetryQueue) take(l *telemetryLink, batch []queuedFrame) ([]queuedFrame, telemetryControl) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return batch, telemetryControl{}
	}
	for size := 0; size < takeBytes && q.flight.len() < flightFrames && q.flying < flightBytes; {
		f, ok := q.next()
		if !ok {
			break
		}
		// The starts of spans are not sent again, so nothing is to be confirmed for
		// them alone, unless somebody waits or too much is in flight.
		if !f.Live || len(q.waiters) > 0 || q.flight.len() >= min(flightFrames/2, q.limit()/16) || q.flying >= flightBytes/2 {
			l.unpinged++
		}
		if l.unpinged >= pingFrames {
			f.ping = true
			l.pinged, l.unpinged = f.number, 0
		}
		size += f.flown
		batch = append(batch, f)
	}
	control := l.control
	l.control = telemetryControl{}
	if n := len(batch); n > 0 && batch[n-1].ping {
		control.ping = false // the one behind the last frame says as much
	} else if control.ping || l.unpinged > 0 && l.pinged == l.ponged {
		control.ping = true
		if q.flight.len() > 0 {
			l.pinged = q.flight.last().number
		}
		control.number, l.unpinged = l.pinged, 0
	}
	return batch, control
}

// next moves the oldest frame that waits to those in flight.
func (q *telemetryQueue) next() (f queuedFrame, ok bool) {
	var oldest *frameDeque
	for c := range q.waiting {
		if d := &q.waiting[c]; d.len() > 0 && (oldest == nil || d.first().number < oldest.first().number) {
			oldest = d
		}
	}
	if oldest == nil {
		return f, false
	}
	f = oldest.pop()
	if f.again {
		q.stats.retried++
	}
	f.flown = f.Size()
	q.stats.sent++
	q.stats.bytes += uint64(f.flown)
	q.flying += f.flown
	q.held[f.signal().class()].flying++
	q.flight.push(f)
	return f, true
}

// confirm notes that the engine has taken all frames up to number: the pong to a
// ping behind them has come over l.
func (q *telemetryQueue) confirm(l *telemetryLink, number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l || number > l.pinged || number < l.ponged {
		return
	}
	l.ponged = number
	for f := q.flight.first(); f != nil && f.number <= number; f = q.flight.first() {
		q.flying -= f.flown
		if !f.shed {
			q.forget(f, true)
			if f.number <= l.written.Load() {
				q.buffers.Release(&f.Frame)
			}
		}
		q.stats.confirmed++
		q.flight.pop()
	}
	q.tellWaiters()
	l.wakeWriter()
}

// detach ends the use of l, whose writer has ended. What it did not confirm
// waits again, before all that came later.
func (q *telemetryQueue) detach(l *telemetryLink) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return
	}
	q.link = nil
	var back [classes][]queuedFrame
	for q.flight.len() > 0 {
		f := q.flight.pop()
		switch {
		case f.shed:
			q.drop(&f, dropFull)
			continue
		case f.Live:
			q.forget(&f, true)
			q.drop(&f, dropAway)
			continue
		}
		c := f.signal().class()
		q.held[c].flying--
		f.again = true
		back[c] = append(back[c], f)
	}
	q.flying = 0
	for c, frames := range back {
		if len(frames) > 0 {
			q.waiting[c].unpop(frames)
		}
	}
	q.away()
	q.tellWaiters()
}

// refuse accepts no frame from now on, for reason; the first one stays. Frames
// that come after Shutdown are not lost: their senders are told.
func (q *telemetryQueue) refuse(reason error, orderly bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil {
		q.ended = reason
	}
	q.orderly = q.orderly || orderly
}

// drain notes that the end has begun.
func (q *telemetryQueue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ending = true
}

// end drops the frames that are left, after [telemetryQueue.refuse] and with no
// link attached.
func (q *telemetryQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := range q.waiting {
		for q.waiting[c].len() > 0 {
			f := q.waiting[c].pop()
			q.forget(&f, false)
			q.drop(&f, dropClosed)
			if !f.Live {
				q.lost++
			}
		}
	}
	q.tellWaiters()
}

// losses is the number of frames that the end has cost.
func (q *telemetryQueue) losses() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// confirmed is the number of frames that the engine has taken.
func (q *telemetryQueue) confirmed() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats.confirmed
}

// wait returns a waiter for everything accepted so far, or nil if there is
// nothing to wait for.
func (q *telemetryQueue) wait() *flushWaiter {
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
	if l := q.link; l != nil && q.flight.len() > 0 && l.pinged < q.flight.last().number {
		l.control.ping = true
		l.wakeWriter()
	}
	return w
}

// leave ends the wait of w and returns how many of its frames are still here and
// how many were dropped meanwhile, live ones apart.
func (q *telemetryQueue) leave(w *flushWaiter) (left, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiters, w)
	for _, d := range [...]*frameDeque{&q.flight, &q.waiting[classMetrics], &q.waiting[classRecords]} {
		for _, f := range d.frames[d.head:] {
			if f.number <= w.upTo && !f.Live {
				left++
			}
		}
	}
	return left, w.dropped
}

// tellWaiters releases those that have nothing to wait for any more.
func (q *telemetryQueue) tellWaiters() {
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

// oldest is the number of the oldest frame that is here; 0 if there is none.
func (q *telemetryQueue) oldest() uint64 {
	if f := q.flight.first(); f != nil {
		return f.number
	}
	var oldest uint64
	for c := range q.waiting {
		if f := q.waiting[c].first(); f != nil && (oldest == 0 || f.number < oldest) {
			oldest = f.number
		}
	}
	return oldest
}

// frameSignal is what a frame carries.
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

// frameClass is the order in which frames are shed: a class makes room for
// itself and for those above it.
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
	number uint64 // in order of acceptance, from 1
	flown  int    // its size, once in flight
	ping   bool   // a ping goes out behind it
	again  bool   // it was written to a link that died
	shed   bool   // in flight, and not to be sent again; its data is gone
}

// frameDeque is a queue that takes back at its head.
type frameDeque struct {
	frames []queuedFrame
	head   int
}

func (d *frameDeque) len() int { return len(d.frames) - d.head }

func (d *frameDeque) push(f queuedFrame) {
	if d.head > 64 && d.head > len(d.frames)/2 {
		n := copy(d.frames, d.frames[d.head:])
		clear(d.frames[n:])
		d.frames, d.head = d.frames[:n], 0
	}
	d.frames = append(d.frames, f)
}

func (d *frameDeque) first() *queuedFrame {
	if d.len() == 0 {
		return nil
	}
	return &d.frames[d.head]
}

// last is the frame that was pushed last; there is one.
func (d *frameDeque) last() *queuedFrame { return &d.frames[len(d.frames)-1] }

// unpop puts frames before those in d.
func (d *frameDeque) unpop(frames []queuedFrame) {
	d.frames, d.head = append(frames, d.frames[d.head:]...), 0
}

func (d *frameDeque) pop() queuedFrame {
	f := d.frames[d.head]
	d.frames[d.head] = queuedFrame{}
	if d.head++; d.head == len(d.frames) {
		d.frames, d.head = d.frames[:0], 0
	}
	return f
}
