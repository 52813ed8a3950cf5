package otlpjson

import "slices"

// The prefixes of telemetry frames identify the kind of their content to the engine.
const (
	PrefixTraces  = "OTLP"
	PrefixMetrics = "MTRC"
	PrefixLogs    = "LOGS"
)

// MaxFrameBytes is the maximum size of a frame, including the prefix. Larger batches are
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

// Discard drops the frame's data, which others may still be reading, without reusing its
// buffer.
func (f *Frame) Discard() { f.Data, f.reused = nil, false }

// Buffers keeps the buffers of large frames for later frames. A sync.Pool is not suitable,
// because the garbage collections of a busy worker would empty it between two batches. A nil
// Buffers keeps no buffers; use [NewBuffers]. The methods are safe for concurrent use.
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

// Release drops the frame's data and keeps its buffer for reuse, if possible. The data must no
// longer be in use.
func (k Buffers) Release(f *Frame) {
	if f.reused && cap(f.Data) <= maxReusedBytes {
		select {
		case k <- f.Data[:0]:
		default:
		}
	}
	f.Discard()
}
