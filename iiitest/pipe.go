package iiitest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is how many bytes one direction of an in-memory connection holds
// before its writer waits, as socket buffers do.
const pipeBuffer = 256 << 10

// pipe returns the two ends of an in-memory connection. Unlike net.Pipe a
// write does not wait for its reader until the buffer is full, and what was
// written before a close can still be read. All waits are on channels and
// timers, so that testing/synctest knows that nothing can happen.
func pipe(a, b net.Addr) (net.Conn, net.Conn) {
	x, y := newHalf(), newHalf()
	return &pipeConn{in: x, out: y, local: a, remote: b}, &pipeConn{in: y, out: x, local: b, remote: a}
}

// half is one direction.
type half struct {
	mu      sync.Mutex
	buf     []byte
	changed chan struct{} // closed and replaced at every change
	wclosed bool          // no more writes: reads end with EOF
	rclosed bool          // no more reads: writes fail
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

type pipeConn struct {
	in, out       *half
	local, remote net.Addr
	read, write   deadline
}

func (c *pipeConn) Read(p []byte) (int, error) {
	for {
		if c.read.expired() {
			return 0, os.ErrDeadlineExceeded
		}
		h := c.in
		h.mu.Lock()
		switch {
		case h.rclosed:
			h.mu.Unlock()
			return 0, io.ErrClosedPipe
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			if len(h.buf) == 0 {
				h.buf = nil
			}
			h.notify()
			h.mu.Unlock()
			return n, nil
		case h.wclosed:
			h.mu.Unlock()
			return 0, io.EOF
		case len(p) == 0:
			h.mu.Unlock()
			return 0, nil
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-c.read.wait():
		}
	}
}

func (c *pipeConn) Write(p []byte) (int, error) {
	written := 0
	for {
		if c.write.expired() {
			return written, os.ErrDeadlineExceeded
		}
		h := c.out
		h.mu.Lock()
		if h.rclosed || h.wclosed {
			h.mu.Unlock()
			return written, io.ErrClosedPipe
		}
		if n := min(pipeBuffer-len(h.buf), len(p)); n > 0 {
			h.buf = append(h.buf, p[:n]...)
			p, written = p[n:], written+n
			h.notify()
		}
		changed := h.changed
		h.mu.Unlock()
		if len(p) == 0 {
			return written, nil
		}
		select {
		case <-changed:
		case <-c.write.wait():
		}
	}
}

// CloseWrite ends the direction to the peer, as that of a net.TCPConn.
func (c *pipeConn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.wclosed = true
	c.out.notify()
	return nil
}

func (c *pipeConn) Close() error {
	_ = c.CloseWrite()
	c.in.mu.Lock()
	c.in.rclosed = true
	c.in.buf = nil
	c.in.notify()
	c.in.mu.Unlock()
	c.read.set(time.Time{})
	c.write.set(time.Time{})
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// deadline is a moment that may be moved while somebody waits for it.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	reached chan struct{} // closed when the moment has come, or has been moved
	past    bool
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.reached != nil {
		close(d.reached) // whoever waits looks again
		d.reached = nil
	}
	d.past = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.past = true
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer != timer {
			return
		}
		d.past = true
		if d.reached != nil {
			close(d.reached)
			d.reached = nil
		}
	})
	d.timer = timer
}

func (d *deadline) expired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.past
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reached == nil {
		d.reached = make(chan struct{})
		if d.past {
			close(d.reached)
			r := d.reached
			d.reached = nil
			return r
		}
	}
	return d.reached
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener(addr net.Addr) *pipeListener {
	return &pipeListener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.addr }

// dial connects to the listener.
func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, server := pipe(pipeAddr("127.0.0.1:0"), l.addr)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipeAddr is the address of an end of an in-memory connection: host:port.
type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
