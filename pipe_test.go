package iii

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memPipe returns the two ends of a connection in memory. Each direction holds
// capacity bytes before its writer waits, as the buffers of sockets do; what was
// written before a Close can still be read. All waits are ones that
// testing/synctest understands, so that its clock may run over a deadline.
func memPipe(capacity int) (a, b *memConn) {
	x, y := newMemHalf(capacity), newMemHalf(capacity)
	return &memConn{in: x, out: y}, &memConn{in: y, out: x}
}

// pipeCapacity is about what a loopback socket takes.
const pipeCapacity = 256 << 10

// memHalf is one direction.
type memHalf struct {
	mu       sync.Mutex
	changed  sync.Cond
	capacity int
	buf      []byte
	head     int
	ended    bool // the writer has closed: EOF after what is there
	broken   bool // reset, or the reader has closed

	read, write memDeadline
}

func newMemHalf(capacity int) *memHalf {
	h := &memHalf{capacity: capacity}
	h.changed.L = &h.mu
	return h
}

// memDeadline is guarded by the lock of its half.
type memDeadline struct {
	timer  *time.Timer
	passed bool
}

func (h *memHalf) setDeadline(d *memDeadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.passed = false; !t.IsZero() {
		if left := time.Until(t); left <= 0 {
			d.passed = true
		} else {
			var timer *time.Timer
			timer = time.AfterFunc(left, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				if d.timer == timer {
					d.passed = true
					h.changed.Broadcast()
				}
			})
			d.timer = timer
		}
	}
	h.changed.Broadcast()
}

// memConn is one end.
type memConn struct{ in, out *memHalf }

// Read implements net.Conn.
func (c *memConn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.broken:
			return 0, io.ErrClosedPipe
		case h.read.passed:
			return 0, os.ErrDeadlineExceeded
		case h.head < len(h.buf):
			n := copy(p, h.buf[h.head:])
			if h.head += n; h.head == len(h.buf) {
				h.buf, h.head = h.buf[:0], 0
			}
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

// Write implements net.Conn.
func (c *memConn) Write(p []byte) (written int, err error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.broken || h.ended:
			return written, io.ErrClosedPipe
		case h.write.passed:
			return written, os.ErrDeadlineExceeded
		}
		if room := h.capacity - (len(h.buf) - h.head); room > 0 {
			n := min(room, len(p)-written)
			if h.head > 0 && len(h.buf)+n > cap(h.buf) {
				h.buf, h.head = h.buf[:copy(h.buf, h.buf[h.head:])], 0
			}
			h.buf = append(h.buf, p[written:written+n]...)
			written += n
			h.changed.Broadcast()
		}
		if written == len(p) {
			return written, nil
		}
		h.changed.Wait()
	}
}

func (h *memHalf) end(broken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range []*memDeadline{&h.read, &h.write} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	if h.ended = true; broken {
		h.broken, h.buf, h.head = true, nil, 0
	}
	h.changed.Broadcast()
}

// Close implements net.Conn.
func (c *memConn) Close() error {
	c.out.end(false)
	c.in.end(true)
	return nil
}

// reset closes both directions and drops what is under way.
func (c *memConn) reset() {
	c.out.end(true)
	c.in.end(true)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.read, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.write, t)
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "127.0.0.1:1" }

// memListener is dialled in memory.
type memListener struct {
	capacity int
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newMemListener() *memListener {
	return &memListener{capacity: pipeCapacity, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// DialContext is for [WithDialContext].
func (l *memListener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := memPipe(l.capacity)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr{} }
