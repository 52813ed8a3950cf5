package otlpjson

import "slices"

// The prefixes of telemetry frames, which identify their content to the engine.
const (
	PrefixTraces  = "OTLP"
	PrefixMetrics = "MTRC"
	PrefixLogs    = "LOGS"
)

// MaxFrameBytes is the largest size of a frame, prefix included; a larger batch is
// split.
const MaxFrameBytes = 8 << 20

// Frame is one message to the engine: a prefix followed by OTLP JSON. The zero value is
// an empty frame.
type Frame struct {
	Prefix  string
	Data    []byte
	Records int  // number of spans, data points or log records
	Live    bool // the frame holds the snapshot of a span that has just started

	reused bool // Data came from Buffers and can return there
}

// Size returns the size of the frame in bytes.
func (f *Frame) Size() int { return len(f.Prefix) + len(f.Data) }

// Discard drops the frame's data, which others may still be reading.
func (f *Frame) Discard() { f.Data, f.reused = nil, false }

// Buffers keeps the buffers of large frames from one frame to the next. A sync.Pool is
// not suitable: the garbage collections of a busy worker empty it between two batches.
// A nil Buffers keeps none; use [NewBuffers]. Buffers are safe for concurrent use.
type Buffers chan []byte

const (
	keptBuffers    = 4
	minReusedBytes = 16 << 10
	maxReusedBytes = 1 << 20
)

// NewBuffers returns buffers for the frames of a connection.
func NewBuffers() Buffers { return make(Buffers, keptBuffers) }

// get returns an empty buffer with room for size bytes.
func (k Buffers) get(size int) []byte {
	select {
	case b := <-k:
		return slices.Grow(b, size)
	default:
		return make([]byte, 0, size)
	}
}

// Release drops the frame's data and keeps its buffer if that can be reused. Nobody may
// be reading the data.
func (k Buffers) Release(f *Frame) {
	if f.reused && cap(f.Data) <= maxReusedBytes {
		select {
		case k <- f.Data[:0]:
		default:
		}
	}
	f.Discard()
}
