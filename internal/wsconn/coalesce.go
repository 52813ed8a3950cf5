package wsconn

import (
	"errors"
	"math"
	"net"
	"sync"
	"time"
)

// handshakeBytes bounds the number of bytes read during the handshake, including TLS.
const handshakeBytes = 1 << 20

var errLongHandshake = errors.New("the response to the WebSocket upgrade is too long")

// coalesceSize is the number of buffered bytes that triggers a write.
const coalesceSize = 64 << 10

// coalescer is the network connection below the WebSocket. During the handshake, it forwards
// writes unchanged. [coalescer.coalesce] makes it collect frames and write them together,
// within its own time limit. [coalescer.writeThrough] makes it write each frame immediately,
// with a limit that can change during the write.
type coalescer struct {
	net.Conn
	timeout   time.Duration // time limit of a coalesced write
	handshake int           // bytes that may still be read; math.MaxInt after the handshake

	mu      sync.Mutex // the reader also writes, to answer control frames
	mode    coalesceMode
	buf     []byte     // coalesced frames
	expired bool       // makes uncoalesced writes fail
	limit   WriteLimit // limit of an uncoalesced message
	control time.Time  // deadline of the next uncoalesced control frame; zero for a message
}

type coalesceMode int

const (
	passing coalesceMode = iota
	coalescing
	through
)

// WriteLimit limits how long writing a message may take. Whichever limit is reached first
// applies. The zero value means no limit.
type WriteLimit struct {
	Deadline time.Time     // the zero time means no deadline
	Stall    time.Duration // maximum time without progress; 0 means no limit
}

// progressPiece is the maximum size of a single write if [WriteLimit.Stall] is set. The limit
// applies to each such write separately.
const progressPiece = 16 << 10

func (c *coalescer) coalesce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = coalescing
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
	switch c.mode { // the lock is released where a new deadline must reach a blocked write
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
	return c.write(p) // copying would cost more than another write
}

// writePieces writes p directly to the network. If Stall is set, it writes p in pieces, each
// with its own deadline.
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

// arm sets the deadline for writes that are not coalesced. It reports whether Stall limits the
// write. The caller must hold c.mu.
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

// limitWrites sets the limit for messages that are not coalesced, including the one being
// written.
func (c *coalescer) limitWrites(l WriteLimit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == l {
		return
	}
	c.limit = l
	c.arm()
}

// Flush writes the coalesced frames.
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

// write writes p with its own deadline.
func (c *coalescer) write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline implements net.Conn. The WebSocket calls it before each part of a frame. If
// frames are coalesced, the deadline is ignored, because flush sets its own. If they are
// written immediately, the deadline applies only to control frames. Messages are subject to
// the limit set by limitWrites, and callers set no deadline for them.
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

// longAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// expireWrites(true) makes the current and all later writes fail until expireWrites(false) is
// called. It has no effect on coalesced writes. A message can take several writes. If
// expireWrites(true) is called between two of them, the remaining ones must fail.
func (c *coalescer) expireWrites(expired bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = expired
	c.arm()
}
