package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	registerTimeout = 10 * time.Second // for the engine's answers while a link begins
	closeTimeout    = time.Second      // for the peer's half of an orderly close
)

// link is one connection to the engine. It is attached to the outbox once, dies
// once, and is not used again. Its reader and its writer are the only goroutines
// that touch the socket; both end when it dies.
type link struct {
	client *Client
	conn   *websocket.Conn
	net    *gatherConn
	wake   chan struct{} // capacity 1: the queue is not empty

	// handlers is the context of the invocations that came over this link.
	handlers context.Context
	cancel   context.CancelCauseFunc

	once sync.Once
	dead chan struct{}
	err  error // why it died; set before dead is closed

	began    time.Time
	lastRead atomic.Int64 // nanoseconds after began

	registerID invocationID
	welcomed   chan struct{} // workerregistered has come
	registered chan error    // capacity 1: the answer to engine::workers::register
	applied    chan struct{} // the engine has applied the registrations

	// Guarded by the lock of the outbox.
	fences         []fence
	sendsTaken     uint64 // Sends handed to the writer
	sendsConfirmed uint64 // of these, those that the engine has read
	confirming     bool   // a fence for them is out
}

// dial opens a connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	d := dialer{url: c.cfg.url, header: c.cfg.header, tls: c.cfg.tls, dialContext: c.cfg.dialContext, readLimit: c.cfg.readLimit}
	conn, g, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{
		client:     c,
		conn:       conn,
		net:        g,
		wake:       make(chan struct{}, 1),
		dead:       make(chan struct{}),
		began:      time.Now(),
		registerID: newInvocationID(),
		welcomed:   make(chan struct{}),
		registered: make(chan error, 1),
		applied:    make(chan struct{}),
	}
	l.handlers, l.cancel = context.WithCancelCause(c.handlers)
	// Control frames go through the writer, like everything else.
	conn.SetPingHandler(func(data string) error {
		l.touch()
		c.out.urgent(l, item{kind: framePong, buf: bufferOf([]byte(data))})
		return nil
	})
	conn.SetPongHandler(func(string) error { l.touch(); return nil })
	conn.SetCloseHandler(func(int, string) error {
		c.out.urgent(l, item{kind: frameClose})
		return nil
	})
	return l, nil
}

func (l *link) touch() { l.lastRead.Store(int64(time.Since(l.began))) }

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fail ends the link; the first reason stays.
func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		l.cancel(fmt.Errorf("%w: %w", ErrConnectionLost, err))
		close(l.dead)
		_ = l.net.Conn.Close()
	})
}

func (l *link) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// read is the read loop. It never waits for anything but the socket.
func (l *link) read() {
	var buf []byte
	for {
		_, r, err := l.conn.NextReader()
		if err == nil {
			l.touch()
			buf, err = l.readMessage(r, buf[:0])
		}
		if err != nil {
			l.fail(readError(err))
			return
		}
		l.client.receive(l, buf)
		if cap(buf) > maxPooledBuffer {
			buf = nil
		}
	}
}

func (l *link) readMessage(r io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		if len(buf) > socketBuffer {
			l.touch() // a large message that is coming in is a sign of life
		}
	}
}

func readError(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
		return fmt.Errorf("iii: the engine closed the connection: %w", err)
	case errors.Is(err, websocket.ErrReadLimit):
		return fmt.Errorf("iii: a received message is above the read limit: %w", err)
	}
	return fmt.Errorf("iii: read: %w", err)
}

// write is the writer: what waits when it wakes leaves together.
func (l *link) write() {
	out := l.client.out
	var batch []item
	for !l.isDead() {
		batch = out.take(l, batch[:0])
		if len(batch) == 0 {
			select {
			case <-l.wake:
				// What other goroutines are about to add leaves in the same write.
				runtime.Gosched()
			case <-l.dead:
			}
			continue
		}
		err := l.writeBatch(batch)
		if err != nil {
			err = fmt.Errorf("iii: write: %w", err)
			l.fail(err)
			err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
		}
		out.written(l, batch, err)
	}
}

func (l *link) writeBatch(batch []item) error {
	for _, it := range batch {
		var err error
		switch it.kind {
		case frameText:
			err = l.conn.WriteMessage(websocket.TextMessage, it.buf.Bytes())
		case frameJSONPing:
			err = l.conn.WriteMessage(websocket.TextMessage, pingMessage)
		case frameJSONPong:
			err = l.conn.WriteMessage(websocket.TextMessage, pongMessage)
		case framePing:
			err = l.conn.WriteControl(websocket.PingMessage, nil, time.Time{})
		case framePong:
			err = l.conn.WriteControl(websocket.PongMessage, it.buf.Bytes(), time.Time{})
		case frameClose:
			err = l.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Time{})
			if errors.Is(err, websocket.ErrCloseSent) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return l.net.Flush()
}

// keepalive pings, or fails the link when nothing has come for too long. It
// returns when to look again.
func (l *link) keepalive() time.Duration {
	cfg := l.client.cfg
	silent := time.Since(l.began) - time.Duration(l.lastRead.Load())
	if silent >= cfg.idleTimeout {
		l.fail(fmt.Errorf("iii: nothing came from the engine for %v", silent.Round(time.Millisecond)))
		return cfg.pingInterval
	}
	l.client.out.urgent(l, item{kind: framePing})
	return min(cfg.pingInterval, cfg.idleTimeout-silent)
}

// closeOrderly sends a Close frame and waits a moment for the engine's.
func (l *link) closeOrderly(ctx context.Context) {
	if !l.client.out.urgent(l, item{kind: frameClose}) {
		return
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-l.dead:
	case <-timer.C:
	case <-ctx.Done():
	}
}
