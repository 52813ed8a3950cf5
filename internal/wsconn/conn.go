// Package wsconn provides the WebSocket under every connection to an engine: dialing,
// reading, coalesced writing, keepalive, orderly close, and the reconnection loop.
package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/signal"
)

const (
	// WriteTimeout bounds each write to the network.
	WriteTimeout = 10 * time.Second

	// CloseTimeout bounds the wait for the peer's Close frame in an orderly close. It also
	// bounds the wait, after a failed write, for the reason that the peer may have sent
	// before.
	CloseTimeout = time.Second

	// smallBuffer is the largest read buffer that a connection keeps while it waits for a
	// message. Larger ones are pooled, so that idle connections hold none of them.
	smallBuffer = 64 << 10

	// maxPooledBuffer is the largest read buffer that is pooled.
	maxPooledBuffer = 4 << 20
)

// Types of messages.
const (
	Text   = websocket.TextMessage
	Binary = websocket.BinaryMessage
)

// Conn is an open WebSocket with one reader and one writer. [Dialer.Dial] returns it. A
// connection dies once: the first call of [Conn.Fail] determines the reason, and the
// goroutines of the connection then end.
type Conn struct {
	// OnFail is called once, before Dead is closed; it may be nil. OnPong receives the data
	// of each pong on the reader's goroutine; it may be nil. Both are set before
	// [Conn.Start].
	OnFail func(error)
	OnPong func(data string)

	ws    *websocket.Conn
	net   *coalescer
	loops sync.WaitGroup
	wake  chan struct{} // capacity 1: there is data to write

	once sync.Once
	dead chan struct{}
	err  error // set before dead is closed

	began    time.Time
	lastRead atomic.Int64 // nanoseconds after began; awaitingCaller while silence is not the peer's fault

	mu        sync.Mutex
	ping      bool
	pong      []byte        // the answer to the latest ping, the only one that requires an answer (RFC 6455, 5.5.3)
	closing   bool          // a Close frame follows the queued messages
	closeSent chan struct{} // closed when the Close frame is written
}

// awaitingCaller is stored as the time of the last read to suspend the idle limit.
const awaitingCaller = -1

func newConn(ws *websocket.Conn, network *coalescer) *Conn {
	return &Conn{ws: ws, net: network, wake: make(chan struct{}, 1), dead: make(chan struct{}), began: time.Now(), closeSent: make(chan struct{})}
}

// Over returns a connection for tests of its owner. It has no WebSocket, and the network
// connection is neither read nor written.
func Over(network net.Conn) *Conn { return newConn(nil, &coalescer{Conn: network}) }

// handleControl makes the writer send the answers to control frames.
func (c *Conn) handleControl() {
	c.ws.SetPingHandler(func(data string) error {
		c.touch()
		c.mu.Lock()
		c.pong = append(make([]byte, 0, len(data)), data...)
		c.mu.Unlock()
		c.Wake()
		return nil
	})
	c.ws.SetPongHandler(func(data string) error {
		c.touch()
		if c.OnPong != nil {
			c.OnPong(data)
		}
		return nil
	})
	c.ws.SetCloseHandler(func(int, string) error {
		c.CloseWrite()
		return nil
	})
}

// Began returns when the connection was opened.
func (c *Conn) Began() time.Time { return c.began }

// Dead returns a channel that is closed when the connection is dead.
func (c *Conn) Dead() <-chan struct{} { return c.dead }

// IsDead reports whether the connection is dead.
func (c *Conn) IsDead() bool { return signal.IsClosed(c.dead) }

// Err returns why the connection died. Call it only after Dead is closed.
func (c *Conn) Err() error { return c.err }

// Fail ends the connection. Only the first reason counts.
func (c *Conn) Fail(err error) {
	c.once.Do(func() {
		c.err = err
		if c.OnFail != nil {
			c.OnFail(err)
		}
		close(c.dead)
		_ = c.net.Conn.Close()
	})
}

// Loops configures the work of a connection until it is dead.
type Loops struct {
	// Read handles a message on the reader's goroutine; the message is overwritten
	// afterwards. An error fails the connection. If Read is nil, the caller reads by
	// itself.
	Read func(kind int, message []byte) error

	// Write writes and flushes a batch of queued messages, and reports whether there were any.
	// If there were, it is called again at once; otherwise, it is called after [Conn.Wake].
	Write func() (wrote bool, err error)

	// Ping is called every PingInterval; nil means [Conn.Ping].
	Ping func()

	PingInterval time.Duration
	IdleTimeout  time.Duration // the longest time without a frame from the peer
}

// Start starts the loops. They end when the connection dies or when ctx ends. In the latter
// case, the connection dies with the cause of ctx. [Conn.Wait] waits for the loops.
func (c *Conn) Start(ctx context.Context, l Loops) {
	if l.Read != nil {
		c.Go(func() { c.readLoop(l.Read) })
	}
	c.Go(func() { c.writeLoop(l.Write) })
	c.Go(func() { c.watch(ctx, l) })
}

// Go runs f on a goroutine. [Conn.Wait] waits until f returns.
func (c *Conn) Go(f func()) { c.loops.Go(f) }

// Wait waits until the connection is dead and its goroutines have ended, and returns why
// the connection died.
func (c *Conn) Wait() error {
	<-c.dead
	c.loops.Wait()
	return c.err
}

// Ping queues a ping.
func (c *Conn) Ping() {
	c.mu.Lock()
	c.ping = true
	c.mu.Unlock()
	c.Wake()
}

// Wake makes the writer look for queued messages.
func (c *Conn) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// touch records that the peer has just sent something.
func (c *Conn) touch() { c.lastRead.Store(int64(time.Since(c.began))) }

// Silence returns the time since the peer last sent anything.
func (c *Conn) Silence() time.Duration {
	last := c.lastRead.Load()
	if last == awaitingCaller {
		return 0
	}
	return time.Since(c.began) - time.Duration(last)
}

// watch pings the peer. It fails the connection when the peer has been silent for too long, or
// when ctx ends.
func (c *Conn) watch(ctx context.Context, l Loops) {
	if l.Ping == nil {
		l.Ping = c.Ping
	}
	timer := time.NewTimer(l.PingInterval)
	defer timer.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-ctx.Done():
			c.Fail(context.Cause(ctx))
			return
		case <-timer.C:
		}
		silent := c.Silence()
		if silent >= l.IdleTimeout {
			c.Fail(fmt.Errorf("received nothing from the engine for %v", silent.Round(time.Millisecond)))
			return
		}
		l.Ping()
		timer.Reset(min(l.PingInterval, l.IdleTimeout-silent))
	}
}

// Read reads a message and appends it to buf. If the caller reads by itself, the time between
// two calls does not count as silence of the peer.
func (c *Conn) Read(buf []byte) (kind int, message []byte, err error) {
	c.touch()
	kind, message, err = c.read(buf)
	c.lastRead.Store(awaitingCaller)
	return kind, message, err
}

func (c *Conn) read(buf []byte) (kind int, message []byte, err error) {
	kind, r, err := c.ws.NextReader()
	if err == nil {
		c.touch()
		buf, err = appendAll(r, buf, c.touch) // each piece of a message is a sign of life
	}
	if err != nil {
		return 0, buf, readError(err)
	}
	return kind, buf, nil
}

func (c *Conn) readLoop(handle func(kind int, message []byte) error) {
	var small []byte
	large := false // the latest message, and so probably the next one
	for {
		kind, r, err := c.ws.NextReader()
		buf := small
		if err == nil {
			c.touch()
			if large {
				buf = pooledBuffer()
			}
			buf, err = appendAll(r, buf[:0], c.touch) // a message that comes in pieces is a sign of life
		}
		if err != nil {
			c.Fail(readError(err))
			return
		}
		if err := handle(kind, buf); err != nil {
			c.Fail(err)
			return
		}
		if large = len(buf) > smallBuffer; cap(buf) <= smallBuffer {
			small = buf
		} else if poolable(buf) {
			pool.Put(&buf)
		}
	}
}

// pool holds read buffers above smallBuffer. The garbage collector empties it.
var pool sync.Pool

// pooledBuffer returns a buffer above smallBuffer.
func pooledBuffer() []byte {
	if p, ok := pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 0, 2*smallBuffer)
}

// poolable reports whether the buffer of the message b is worth keeping.
func poolable(b []byte) bool {
	return len(b) > smallBuffer && cap(b) <= maxPooledBuffer && len(b) >= cap(b)/8
}

// NextReader returns a reader of the next message, for a caller that allocates the memory for
// the message itself.
func (c *Conn) NextReader() (kind int, r io.Reader, err error) { return c.ws.NextReader() }

// AppendAll appends the contents of r to buf.
func AppendAll(r io.Reader, buf []byte) ([]byte, error) { return appendAll(r, buf, nil) }

// appendAll is like AppendAll, but also calls progress after each read except the first.
func appendAll(r io.Reader, buf []byte, progress func()) ([]byte, error) {
	for reads := 0; ; reads++ {
		if len(buf) == cap(buf) { // the length of a fragmented message is not known
			buf = slices.Grow(buf, max(len(buf), 512))
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		if reads > 0 && progress != nil {
			progress()
		}
	}
}

func readError(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
		return fmt.Errorf("the engine closed the connection: %w", err)
	case errors.Is(err, websocket.ErrReadLimit):
		return fmt.Errorf("a received message exceeds the read limit: %w", err)
	}
	return fmt.Errorf("read: %w", err)
}

// IsClose reports whether err results from a Close frame of the peer.
func IsClose(err error) bool {
	var closed *websocket.CloseError
	return errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure
}

// writeLoop runs the writer. It sends all messages that are queued when it wakes together.
func (c *Conn) writeLoop(next func() (wrote bool, err error)) {
	for !c.IsDead() {
		wrote, err := c.writeNext(next)
		if err != nil {
			c.failWrite(err)
			return
		}
		if wrote {
			continue
		}
		select {
		case <-c.wake:
			// Other goroutines may be about to queue messages, which then join the same write.
			runtime.Gosched()
		case <-c.dead:
		}
	}
}

// writeNext writes the pending control frames and the queued messages.
func (c *Conn) writeNext(next func() (wrote bool, err error)) (wrote bool, err error) {
	c.mu.Lock()
	ping, pong, closing := c.ping, c.pong, c.closing
	c.ping, c.pong = false, nil
	c.mu.Unlock()
	if ping {
		if err := c.WritePing(nil); err != nil {
			return false, writeError(err)
		}
	}
	if pong != nil {
		if err := c.ws.WriteControl(websocket.PongMessage, pong, time.Time{}); err != nil {
			return false, writeError(err)
		}
	}
	if wrote, err = next(); wrote || err != nil {
		return wrote, err
	}
	if closing {
		if err := c.WriteClose(time.Time{}); err != nil {
			return false, writeError(err)
		}
	}
	if err := c.Flush(); err != nil {
		return false, err
	}
	if closing { // nothing may follow a Close frame
		close(c.closeSent)
		<-c.dead
	}
	return false, nil
}

// failWrite ends a connection after a failed write. If the write did not time out, the peer
// may have hung up and sent the reason before, so the reader gets some time to find it.
func (c *Conn) failWrite(err error) {
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		c.Fail(err)
		return
	}
	patience := time.AfterFunc(CloseTimeout, func() { c.Fail(err) })
	defer patience.Stop()
	<-c.dead
}

func writeError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write: %w", err)
}

// WriteMessage writes a message. Loops.Write may call it.
func (c *Conn) WriteMessage(kind int, p []byte) error {
	return writeError(c.ws.WriteMessage(kind, p))
}

// WriteParts writes a message that consists of a prefix and p.
func (c *Conn) WriteParts(kind int, prefix string, p []byte) error {
	w, err := c.ws.NextWriter(kind)
	if err != nil {
		return writeError(err)
	}
	if _, err := io.WriteString(w, prefix); err != nil {
		return writeError(err)
	}
	if _, err := w.Write(p); err != nil {
		return writeError(err)
	}
	return writeError(w.Close())
}

// WritePing writes a ping with the given data, in order with the messages.
func (c *Conn) WritePing(data []byte) error {
	return writeError(c.ws.WriteControl(websocket.PingMessage, data, time.Time{}))
}

// WriteClose writes a Close frame before the deadline; the zero time means no deadline.
func (c *Conn) WriteClose(deadline time.Time) error {
	err := c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
	if errors.Is(err, websocket.ErrCloseSent) {
		return nil
	}
	return err
}

// Flush writes the coalesced frames to the network.
func (c *Conn) Flush() error { return writeError(c.net.Flush()) }

// CloseWrite appends a Close frame to the queued messages. The returned channel is closed when
// the frame has been written. Nothing is written after it.
func (c *Conn) CloseWrite() <-chan struct{} {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.Wake()
	return c.closeSent
}

// Close sends a Close frame after the queued messages and waits for the peer's Close
// frame, for at most CloseTimeout or until ctx ends.
func (c *Conn) Close(ctx context.Context) {
	c.CloseWrite()
	timer := time.NewTimer(CloseTimeout)
	defer timer.Stop()
	select {
	case <-c.dead:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Abort closes the network connection. Its reader and writer fail.
func (c *Conn) Abort() { _ = c.net.Conn.Close() }

// LimitWrites limits the time for writing each message of an unbuffered connection, including
// the current one.
func (c *Conn) LimitWrites(l WriteLimit) { c.net.limitWrites(l) }

// ExpireWrites ends the current write of an unbuffered connection and all later ones until
// it is called with false.
func (c *Conn) ExpireWrites(expired bool) { c.net.expireWrites(expired) }

// SetWriteBuffer sets the size of the system's send buffer, if the network connection has
// one.
func (c *Conn) SetWriteBuffer(bytes int) {
	if n, ok := c.net.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = n.SetWriteBuffer(bytes)
	}
}
