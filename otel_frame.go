package iii

import "slices"

// Prefixes of telemetry frames.
const (
	prefixTraces  = "OTLP"
	prefixMetrics = "MTRC"
	prefixLogs    = "LOGS"
)

// maxFrameBytes is where exporters split a batch.
const maxFrameBytes = 8 << 20

// telemetryFrame is one message to the engine. live marks the snapshot of a span
// that has just started: it is the first to be shed, and never sent twice, since
// the engine would show the span as running for ever.
type telemetryFrame struct {
	prefix  string
	data    []byte
	live    bool
	reused  bool // data goes back to the connection's buffers
	records int  // spans, data points or log records in it, for the counters
}

// frameBuffers keeps the buffers of large frames from one to the next: a frame
// gives its back when it is confirmed or dropped. The pools of package sync would
// not do, since the garbage of a busy worker empties them between two batches. nil
// keeps none.
type frameBuffers chan []byte

const (
	keptBuffers    = 4
	minReusedBytes = 16 << 10
	maxReusedBytes = 1 << 20
)

func newFrameBuffers() frameBuffers { return make(frameBuffers, keptBuffers) }

// get returns a buffer for size bytes.
func (k frameBuffers) get(size int) []byte {
	select {
	case b := <-k:
		return slices.Grow(b, size)
	default:
		return make([]byte, 0, size)
	}
}

// release ends the use of the frame's data, which nobody may be reading.
func (k frameBuffers) release(f *telemetryFrame) {
	if f.reused && cap(f.data) <= maxReusedBytes {
		select {
		case k <- f.data[:0]:
		default:
		}
	}
	f.data, f.reused = nil, false
}

func (f *telemetryFrame) size() int { return len(f.prefix) + len(f.data) }

// frameSignal is what a frame carries.
type frameSignal uint8

const (
	signalLive frameSignal = iota
	signalMetrics
	signalTraces
	signalLogs
	signals
)

func (f *telemetryFrame) signal() frameSignal {
	switch {
	case f.live:
		return signalLive
	case f.prefix == prefixMetrics:
		return signalMetrics
	case f.prefix == prefixTraces:
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
	telemetryFrame
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
