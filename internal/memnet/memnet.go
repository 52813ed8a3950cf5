// Package memnet provides in-memory network connections for testing/synctest. Unlike sockets,
// they let a bubble's clock advance while goroutines wait on them.
package memnet

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of an in-memory connection. As with sockets, each direction
// buffers up to capacity bytes before writes block. Data written before Close can still be
// read.
func Pipe(capacity int) (a, b *Conn) { return pipe(capacity, Loopback, Loopback) }

// pipe is like Pipe, but sets the addresses of the ends: local for a and remote for b.
func pipe(capacity int, local, remote net.Addr) (a, b *Conn) {
	x, y := newHalf(capacity), newHalf(capacity)
	return &Conn{in: x, out: y, local: local, remote: remote}, &Conn{in: y, out: x, local: remote, remote: local}
}

// Capacity is the approximate number of bytes that a loopback socket buffers in one direction.
const Capacity = 256 << 10

// Loopback is the address of connections whose address does not matter.
const Loopback = Addr("127.0.0.1:1")

// half is one direction of a connection.
type half struct {
	mu       sync.Mutex
	changed  sync.Cond
	capacity int
	buf      []byte
	head     int
	ended    bool // closed by the writer: EOF follows the buffered data
	broken   bool // reset, or closed by the reader

	read, write deadline
}

func newHalf(capacity int) *half {
	h := &half{capacity: capacity}
	h.changed.L = &h.mu
	return h
}

// deadline is a half's read or write deadline, guarded by the half's mutex.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (h *half) setDeadline(d *deadline, t time.Time) {
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

// Conn is one end of a connection. The zero value is not usable; use [Pipe] or
// [Listener.DialContext]. Its methods are safe for concurrent use.
type Conn struct {
	in, out       *half
	local, remote net.Addr
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
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
		case len(p) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (written int, err error) {
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

func (h *half) end(broken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range []*deadline{&h.read, &h.write} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	if h.ended = true; broken {
		h.broken, h.buf, h.head = true, nil, 0
	}
	h.changed.Broadcast()
}

// Close implements net.Conn. It first ends reading: an answer of the other end to the EOF is
// never read.
func (c *Conn) Close() error {
	c.in.end(true)
	c.out.end(false)
	return nil
}

// CloseWrite closes the direction in which c writes. The other end reads the buffered data,
// then EOF.
func (c *Conn) CloseWrite() error {
	c.out.end(false)
	return nil
}

// Reset closes both directions and discards data in transit.
func (c *Conn) Reset() {
	c.in.end(true)
	c.out.end(true)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.read, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.write, t)
	return nil
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Addr is a network address in the form host:port.
type Addr string

// Network implements net.Addr.
func (Addr) Network() string { return "mem" }

// String implements net.Addr.
func (a Addr) String() string { return string(a) }

// Listener is a net.Listener for in-memory connections. The zero value is not usable; use
// [NewListener]. Its methods are safe for concurrent use.
type Listener struct {
	// Capacity is the number of bytes that each direction of a future connection can buffer.
	// NewListener sets it to the package constant [Capacity].
	Capacity int

	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewListener returns a listener with the given address, which is not reachable through the
// network.
func NewListener(addr net.Addr) *Listener {
	return &Listener{Capacity: Capacity, addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// DialContext connects to l, regardless of the network and the address. It blocks until Accept
// is called. If ctx is done first, it returns ctx.Err(). If l is closed, it returns
// net.ErrClosed.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, server := pipe(l.Capacity, Addr("127.0.0.1:0"), l.addr)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It may be called several times.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }
