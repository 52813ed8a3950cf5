package iii

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

// gatherSize is how much is gathered before it is written in any case.
const gatherSize = 64 << 10

// gatherConn lies below the WebSocket. It gathers frames, so that all that waits leaves
// in one write with a deadline of its own, or it writes them through with a limit that
// may change during a write. Before [gatherConn.gather] or [gatherConn.writeThrough] it
// passes everything on, for the handshake.
type gatherConn struct {
	net.Conn
	timeout   time.Duration // of a gathered write
	handshake int           // bytes that may still be read; math.MaxInt after the handshake

	mu      sync.Mutex // the reader answers control frames of its own
	mode    gatherMode
	buf     []byte     // of a conn that gathers
	expired bool       // nothing is written through any more
	limit   writeLimit // of a message that is written through
	control time.Time  // deadline of the control frame that is written through next; zero for a message
}

type gatherMode int

const (
	passing gatherMode = iota
	gathering
	through
)

// writeLimit bounds the writing of a message, by the earlier of both.
type writeLimit struct {
	deadline time.Time     // zero is none
	stall    time.Duration // the longest time without progress; 0 is none
}

// progressPiece is how much is written at once while there is a limit of time without
// progress: a whole piece is progress.
const progressPiece = 16 << 10

func (g *gatherConn) gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = gathering
	g.buf = make([]byte, 0, gatherSize+4<<10)
}

func (g *gatherConn) writeThrough() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = through
}

// Read implements net.Conn.
func (g *gatherConn) Read(p []byte) (int, error) {
	if g.handshake <= 0 {
		return 0, errLongHandshake
	}
	n, err := g.Conn.Read(p)
	if g.handshake != math.MaxInt {
		g.handshake -= n
	}
	return n, err
}

// Write implements net.Conn.
func (g *gatherConn) Write(p []byte) (int, error) {
	g.mu.Lock()
	switch g.mode { // no lock is held where a deadline must reach a write that waits
	case passing:
		g.mu.Unlock()
		return g.Conn.Write(p)
	case through:
		g.mu.Unlock()
		return g.writePieces(p)
	}
	defer g.mu.Unlock()
	g.buf = append(g.buf, p...)
	if len(g.buf) < gatherSize {
		return len(p), nil
	}
	if err := g.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writePieces writes p through. Each piece has a deadline of its own if the limit is one
// of progress.
func (g *gatherConn) writePieces(p []byte) (n int, err error) {
	for {
		piece := p[n:]
		g.mu.Lock()
		if g.arm() {
			piece = piece[:min(len(piece), progressPiece)]
		}
		g.mu.Unlock()
		k, err := g.Conn.Write(piece)
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}

// arm sets the deadline of the write through that is under way or comes next, and
// reports whether it is one of progress. g.mu is held.
func (g *gatherConn) arm() (progress bool) {
	t := g.limit.deadline
	switch {
	case g.expired:
		t = longAgo
	case !g.control.IsZero():
		t = g.control
	case g.limit.stall > 0:
		progress = true
		if stalled := time.Now().Add(g.limit.stall); t.IsZero() || stalled.Before(t) {
			t = stalled
		}
	}
	_ = g.Conn.SetWriteDeadline(t)
	return progress
}

// limitWrites bounds the messages that are written through, the one under way among
// them.
func (g *gatherConn) limitWrites(l writeLimit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limit == l {
		return
	}
	g.limit = l
	g.arm()
}

// Flush writes what was gathered.
func (g *gatherConn) Flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flush()
}

func (g *gatherConn) flush() error {
	if len(g.buf) == 0 {
		return nil
	}
	if err := g.Conn.SetWriteDeadline(time.Now().Add(g.timeout)); err != nil {
		return err
	}
	_, err := g.Conn.Write(g.buf)
	g.buf = g.buf[:0]
	return err
}

// SetWriteDeadline implements net.Conn. The WebSocket calls it before each part of a
// frame. While gathering, flush sets the deadlines that count; what is written through
// has the limit of messages, or the deadline of a control frame, the only one that the
// WebSocket is given.
func (g *gatherConn) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.mode {
	case gathering:
		return nil
	case through:
		g.control = t
		return nil
	}
	return g.Conn.SetWriteDeadline(t)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// expireWrites ends the write through that is under way, and those that follow until it
// is called with false: a message may be written in several parts, and one that ends
// between two of them must not go on.
func (g *gatherConn) expireWrites(expired bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expired = expired
	g.arm()
}
