package otlpjson

import "slices"

// Prefixes of telemetry frames. They tell the engine which signal a frame contains.
const (
	PrefixTraces  = "OTLP"
	PrefixMetrics = "MTRC"
	PrefixLogs    = "LOGS"
)

// MaxFrameBytes is the maximum size of a frame, including its prefix. Larger batches are
// split.
const MaxFrameBytes = 8 << 20

// Frame is a message to the engine: a prefix followed by OTLP JSON. The zero value is an empty
// frame.
type Frame struct {
	Prefix  string
	Data    []byte
	Records int  // spans, data points or log records
	Live    bool // a snapshot of a span that has just started

	reused bool // Data can be returned to Buffers
}

// Size returns the size of the frame in bytes, including its prefix.
func (f *Frame) Size() int { return len(f.Prefix) + len(f.Data) }

// Discard drops the frame's data without reusing its buffer, because the data may still be in
// use.
func (f *Frame) Discard() { f.Data, f.reused = nil, false }

// Buffers keeps the buffers of large frames for reuse. A sync.Pool would not help, because a
// busy worker collects garbage so often that the pool would be empty before the next batch. A
// nil Buffers keeps nothing; use [NewBuffers]. The methods are safe for concurrent use.
type Buffers chan []byte

const (
	keptBuffers    = 4
	minReusedBytes = 16 << 10
	maxReusedBytes = 1 << 20
)

// NewBuffers returns Buffers for one connection's frames.
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

// Release drops the frame's data and, if possible, keeps its buffer for reuse. The data must
// no longer be in use.
func (k Buffers) Release(f *Frame) {
	if f.reused && cap(f.Data) <= maxReusedBytes {
		select {
		case k <- f.Data[:0]:
		default:
		}
	}
	f.Discard()
}
