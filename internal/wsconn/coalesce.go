package wsconn

import (
	"errors"
	"math"
	"net"
	"sync"
	"time"
)

// handshakeBytes bounds the answer to the upgrade request, TLS included.
const handshakeBytes = 1 << 20

var errLongHandshake = errors.New("the answer to the WebSocket upgrade is too long")

// coalesceSize is how many bytes are coalesced at most before they are written.
const coalesceSize = 64 << 10

// coalescer lies below the WebSocket. It coalesces frames into one write with a deadline of
// its own, or it writes them through, with a limit that may change during a write. Until
// [coalescer.coalesce] or [coalescer.writeThrough] is called it passes everything on, for
// the handshake.
type coalescer struct {
	net.Conn
	timeout   time.Duration // of a coalesced write
	handshake int           // bytes that may still be read; math.MaxInt after the handshake

	mu      sync.Mutex // the reader answers control frames of its own
	mode    coalesceMode
	buf     []byte     // coalesced frames
	expired bool       // nothing is written through any more
	limit   WriteLimit // of a message that is written through
	control time.Time  // deadline of the control frame that is written through next; zero for a message
}

type coalesceMode int

const (
	passing coalesceMode = iota
	coalescing
	through
)

// WriteLimit bounds the writing of a message by the earlier of both limits.
type WriteLimit struct {
	Deadline time.Time     // zero is none
	Stall    time.Duration // the longest time without progress; 0 is none
}

// progressPiece is how much is written at once while there is a limit of time without
// progress: a whole piece is progress.
const progressPiece = 16 << 10

func (c *coalescer) coalesce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = coalescing
	c.buf = make([]byte, 0, coalesceSize+4<<10)
}

func (c *coalescer) writeThrough() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = through
}

// Read implements net.Conn.
func (c *coalescer) Read(p []byte) (int, error) {
	if c.handshake <= 0 {
		return 0, errLongHandshake
	}
	n, err := c.Conn.Read(p)
	if c.handshake != math.MaxInt {
		c.handshake -= n
	}
	return n, err
}

// Write implements net.Conn.
func (c *coalescer) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	switch c.mode { // no lock is held where a deadline must reach a write that waits
	case passing:
		c.mu.Unlock()
		return c.Conn.Write(p)
	case through:
		c.mu.Unlock()
		return c.writePieces(p)
	}
	defer c.mu.Unlock()
	if len(c.buf)+len(p) < coalesceSize {
		c.buf = append(c.buf, p...)
		return len(p), nil
	}
	if len(p) < coalesceSize/2 {
		c.buf = append(c.buf, p...)
		p, n = nil, len(p)
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return n, nil
	}
	return c.write(p) // a copy would cost more than another write
}

// writePieces writes p through. Each piece has a deadline of its own if the limit is one
// of progress.
func (c *coalescer) writePieces(p []byte) (n int, err error) {
	for {
		piece := p[n:]
		c.mu.Lock()
		if c.arm() {
			piece = piece[:min(len(piece), progressPiece)]
		}
		c.mu.Unlock()
		k, err := c.Conn.Write(piece)
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}

// arm sets the deadline of the write through that is under way or comes next, and
// reports whether it is one of progress. c.mu is held.
func (c *coalescer) arm() (progress bool) {
	t := c.limit.Deadline
	switch {
	case c.expired:
		t = longAgo
	case !c.control.IsZero():
		t = c.control
	case c.limit.Stall > 0:
		progress = true
		if stalled := time.Now().Add(c.limit.Stall); t.IsZero() || stalled.Before(t) {
			t = stalled
		}
	}
	_ = c.Conn.SetWriteDeadline(t)
	return progress
}

// limitWrites bounds the messages that are written through, the one under way among
// them.
func (c *coalescer) limitWrites(l WriteLimit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == l {
		return
	}
	c.limit = l
	c.arm()
}

// Flush writes what was coalesced.
func (c *coalescer) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

func (c *coalescer) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// write writes p with a deadline of its own.
func (c *coalescer) write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline implements net.Conn. The WebSocket calls it before each part of a
// frame. While it coalesces, flush sets the deadlines that count; what is written through
// has the limit of messages, or the deadline of a control frame, the only one that the
// WebSocket is given.
func (c *coalescer) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.mode {
	case coalescing:
		return nil
	case through:
		c.control = t
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// expireWrites ends the write through that is under way, and those that follow until it
// is called with false: a message may be written in several parts, and one that ends
// between two of them must not go on.
func (c *coalescer) expireWrites(expired bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = expired
	c.arm()
}
