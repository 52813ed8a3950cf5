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

// gatherConn lies below the WebSocket and gathers its frames, so that all that
// waits leaves in one write. Until [gatherConn.gather] it writes through, for
// the handshake. Each write to the network has a deadline of its own.
type gatherConn struct {
	net.Conn
	timeout   time.Duration
	handshake int // bytes that may still be read; math.MaxInt after the handshake

	mu        sync.Mutex // the reader answers control frames of its own
	gathering bool
	expired   bool
	buf       []byte
}

func (g *gatherConn) gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gathering = true
	g.buf = make([]byte, 0, gatherSize+4<<10)
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
	if !g.gathering {
		g.mu.Unlock() // a deadline must reach a write that waits
		return g.Conn.Write(p)
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

// SetWriteDeadline implements net.Conn. The WebSocket's deadlines would be those
// of gathering; flush sets the real ones.
func (g *gatherConn) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.gathering:
		return nil
	case g.expired:
		t = longAgo
	}
	return g.Conn.SetWriteDeadline(t)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// expireWrites ends the write that is under way, and those that follow until it is
// called with false: the WebSocket sets the deadline anew before each part of a
// message, and would lose one that came in between.
func (g *gatherConn) expireWrites(expired bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.expired = expired; expired {
		_ = g.Conn.SetWriteDeadline(longAgo)
	}
}
