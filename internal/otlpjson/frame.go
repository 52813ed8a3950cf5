package otlpjson

import "slices"

// The prefixes of telemetry frames, by which the engine knows what a frame holds.
const (
	PrefixTraces  = "OTLP"
	PrefixMetrics = "MTRC"
	PrefixLogs    = "LOGS"
)

// MaxFrameBytes is the size of a frame, prefix included, at which a batch is split.
const MaxFrameBytes = 8 << 20

// Frame is one message to the engine: a prefix and OTLP JSON.
type Frame struct {
	Prefix  string
	Data    []byte
	Records int  // spans, data points or log records in it
	Live    bool // it holds the snapshot of a span that has just started

	reused bool // Data goes back to the buffers that it came from
}

// Size returns the size of the frame in bytes.
func (f *Frame) Size() int { return len(f.Prefix) + len(f.Data) }

// Discard drops the frame's data while somebody may still read it.
func (f *Frame) Discard() { f.Data, f.reused = nil, false }

// Buffers keeps the buffers of large frames from one frame to the next. The pools of
// package sync would not do: the garbage of a busy worker empties them between two
// batches. Nil keeps none; use [NewBuffers]. Several goroutines may use it at once.
type Buffers chan []byte

const (
	keptBuffers    = 4
	minReusedBytes = 16 << 10
	maxReusedBytes = 1 << 20
)

// NewBuffers returns buffers for the frames of a connection.
func NewBuffers() Buffers { return make(Buffers, keptBuffers) }

// get returns a buffer for size bytes.
func (k Buffers) get(size int) []byte {
	select {
	case b := <-k:
		return slices.Grow(b, size)
	default:
		return make([]byte, 0, size)
	}
}

// Release drops the frame's data, which nobody may be reading, and keeps its buffer if
// it is one to be used again.
func (k Buffers) Release(f *Frame) {
	if f.reused && cap(f.Data) <= maxReusedBytes {
		select {
		case k <- f.Data[:0]:
		default:
		}
	}
	f.Discard()
}
