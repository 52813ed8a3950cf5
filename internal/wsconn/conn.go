// Package wsconn provides WebSocket connections to an engine: dialing, reading, coalesced
// writing, keepalive, orderly close and reconnection.
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

	// CloseTimeout bounds how long an orderly close waits for the peer's Close frame. It also
	// bounds the wait, after a failed write, for a Close frame that the peer may have sent
	// earlier.
	CloseTimeout = time.Second

	// smallBuffer is the largest read buffer that a connection keeps between messages. Larger
	// buffers are pooled, so that idle connections do not hold any.
	smallBuffer = 64 << 10

	// maxPooledBuffer is the largest read buffer that is pooled.
	maxPooledBuffer = 4 << 20
)

// Message types.
const (
	Text   = websocket.TextMessage
	Binary = websocket.BinaryMessage
)

// Conn is an open WebSocket with one reader and one writer, returned by [Dialer.Dial]. The
// first call to [Conn.Fail] ends the connection and its goroutines, and determines the result
// of [Conn.Err].
type Conn struct {
	// OnFail, if not nil, is called once, before the channel returned by [Conn.Dead] is
	// closed. OnPong, if not nil, is called on the reader's goroutine with the data of each
	// pong. Set both before [Conn.Start].
	OnFail func(error)
	OnPong func(data string)

	ws    *websocket.Conn
	net   *coalescer
	loops sync.WaitGroup
	wake  chan struct{} // capacity 1; signals that there is data to write

	once sync.Once
	dead chan struct{}
	err  error // set before dead is closed

	began    time.Time
	lastRead atomic.Int64 // nanoseconds after began, or awaitingCaller

	mu        sync.Mutex
	ping      bool
	pong      []byte        // the data of the latest ping, the only one that needs a pong (RFC 6455, 5.5.3)
	closing   bool          // send a Close frame after the queued messages
	closeSent chan struct{} // closed once the Close frame is written
}

// awaitingCaller is the value of lastRead while the idle limit is suspended.
const awaitingCaller = -1

func newConn(ws *websocket.Conn, network *coalescer) *Conn {
	return &Conn{ws: ws, net: network, wake: make(chan struct{}, 1), dead: make(chan struct{}), began: time.Now(), closeSent: make(chan struct{})}
}

// Over returns a Conn without a WebSocket, for tests of code that owns connections. The Conn
// does nothing with network except close it.
func Over(network net.Conn) *Conn { return newConn(nil, &coalescer{Conn: network}) }

// handleControl makes the writer send the replies to control frames.
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

// Began returns the time when the connection was opened.
func (c *Conn) Began() time.Time { return c.began }

// Dead returns a channel that is closed when the connection dies.
func (c *Conn) Dead() <-chan struct{} { return c.dead }

// IsDead reports whether the connection is dead.
func (c *Conn) IsDead() bool { return signal.IsClosed(c.dead) }

// Err returns the error that ended the connection. Call it only after the channel returned by
// [Conn.Dead] is closed.
func (c *Conn) Err() error { return c.err }

// Fail ends the connection; err is the reason. Only the first call has an effect.
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

// Loops configures the goroutines that serve a connection until it dies.
type Loops struct {
	// Read handles a message on the reader's goroutine. The message is valid until Read
	// returns. If Read returns an error, the connection fails. If Read is nil, the caller
	// reads messages itself.
	Read func(kind int, message []byte) error

	// Write writes and flushes a batch of queued messages, and reports whether there were any.
	// If there were, it is called again immediately. Otherwise, it is called again after
	// [Conn.Wake].
	Write func() (wrote bool, err error)

	// Ping is called every PingInterval. The default is [Conn.Ping].
	Ping func()

	PingInterval time.Duration
	IdleTimeout  time.Duration // the maximum time without a frame from the peer
}

// Start starts the loops. They run until the connection dies. When ctx is done, the connection
// dies with ctx's cause as its error. [Conn.Wait] waits for the loops.
func (c *Conn) Start(ctx context.Context, l Loops) {
	if l.Read != nil {
		c.Go(func() { c.readLoop(l.Read) })
	}
	c.Go(func() { c.writeLoop(l.Write) })
	c.Go(func() { c.watch(ctx, l) })
}

// Go runs f on a goroutine. [Conn.Wait] waits for f to return.
func (c *Conn) Go(f func()) { c.loops.Go(f) }

// Wait waits until the connection is dead and its goroutines have returned. It returns the
// error that ended the connection.
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

// Wake makes the writer check for queued messages.
func (c *Conn) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// touch records that the peer has just sent data.
func (c *Conn) touch() { c.lastRead.Store(int64(time.Since(c.began))) }

// Silence returns the time since the peer last sent data. Between calls to [Conn.Read], it
// returns 0.
func (c *Conn) Silence() time.Duration {
	last := c.lastRead.Load()
	if last == awaitingCaller {
		return 0
	}
	return time.Since(c.began) - time.Duration(last)
}

// watch pings the peer. It fails the connection if the peer has been silent for too long or
// ctx is done.
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

// Read reads a message and appends it to buf. [Conn.Silence] does not include the time between
// two calls.
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
		buf, err = appendAll(r, buf, c.touch) // each piece of a message counts as activity
	}
	if err != nil {
		return 0, buf, readError(err)
	}
	return kind, buf, nil
}

func (c *Conn) readLoop(handle func(kind int, message []byte) error) {
	var small []byte
	large := false // the last message was large, so the next one may be, too
	for {
		kind, r, err := c.ws.NextReader()
		buf := small
		if err == nil {
			c.touch()
			if large {
				buf = pooledBuffer()
			}
			buf, err = appendAll(r, buf[:0], c.touch) // each piece of a message counts as activity
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

// pool holds read buffers larger than smallBuffer.
var pool sync.Pool

func pooledBuffer() []byte {
	if p, ok := pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 0, 2*smallBuffer)
}

// poolable reports whether b is worth keeping in the pool.
func poolable(b []byte) bool {
	return len(b) > smallBuffer && cap(b) <= maxPooledBuffer && len(b) >= cap(b)/8
}

// NextReader returns a reader for the next message. It lets the caller choose the memory for
// the message.
func (c *Conn) NextReader() (kind int, r io.Reader, err error) { return c.ws.NextReader() }

// AppendAll appends the contents of r to buf and returns the extended buffer.
func AppendAll(r io.Reader, buf []byte) ([]byte, error) { return appendAll(r, buf, nil) }

// appendAll is like AppendAll, but calls progress after each read except the first, because
// the caller has already recorded the start of the message.
func appendAll(r io.Reader, buf []byte, progress func()) ([]byte, error) {
	for reads := 0; ; reads++ {
		if len(buf) == cap(buf) { // the length of a fragmented message is unknown
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

// IsNormalClose reports whether err is the result of a Close frame from the peer without a
// code or with the code for a normal closure.
func IsNormalClose(err error) bool {
	return websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived)
}

// IsInternalError reports whether err is the result of a Close frame with the code for internal
// errors.
func IsInternalError(err error) bool {
	var closed *websocket.CloseError
	return errors.As(err, &closed) && closed.Code == websocket.CloseInternalServerErr
}

// writeLoop writes control frames and messages until the connection ends. Whenever it wakes,
// it sends all queued messages together.
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
			// Yield, so that other goroutines can add messages to this write.
			runtime.Gosched()
		case <-c.dead:
		}
	}
}

// writeNext writes pending control frames, then queued messages.
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

// failWrite ends the connection after a failed write. If the write did not time out, failWrite
// first gives the reader some time to receive a Close frame, which may contain the peer's
// reason for closing the connection.
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

// WriteMessage writes a message of the given kind, such as [websocket.TextMessage]. It may be
// called from Loops.Write.
func (c *Conn) WriteMessage(kind int, p []byte) error {
	return writeError(c.ws.WriteMessage(kind, p))
}

// WriteParts writes a message that consists of prefix followed by p.
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

// WritePing writes a ping with the given data. Pings and messages are sent in the order in
// which they are written.
func (c *Conn) WritePing(data []byte) error {
	return writeError(c.ws.WriteControl(websocket.PingMessage, data, time.Time{}))
}

// WriteClose writes a Close frame. A zero deadline means no deadline.
func (c *Conn) WriteClose(deadline time.Time) error {
	err := c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
	if errors.Is(err, websocket.ErrCloseSent) {
		return nil
	}
	return err
}

// Flush writes the coalesced frames to the network.
func (c *Conn) Flush() error { return writeError(c.net.Flush()) }

// CloseWrite queues a Close frame after the queued messages. The returned channel is closed
// once the frame has been written. Nothing is written after the Close frame.
func (c *Conn) CloseWrite() <-chan struct{} {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.Wake()
	return c.closeSent
}

// Close sends a Close frame after the queued messages and waits for the peer's Close frame. It
// gives up when CloseTimeout has passed or ctx is done.
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

// Abort closes the network connection, which makes the reader and the writer fail.
func (c *Conn) Abort() { _ = c.net.Conn.Close() }

// LimitWrites limits the time to write each message of an unbuffered connection, including the
// message being written.
func (c *Conn) LimitWrites(l WriteLimit) { c.net.limitWrites(l) }

// ExpireWrites sets whether writes of an unbuffered connection fail. It also affects the write
// in progress.
func (c *Conn) ExpireWrites(expired bool) { c.net.expireWrites(expired) }

// SetWriteBuffer sets the size of the operating system's send buffer, if the connection has
// one.
func (c *Conn) SetWriteBuffer(bytes int) {
	if n, ok := c.net.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = n.SetWriteBuffer(bytes)
	}
}
