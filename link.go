package iii

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	*socket
	client *Client
	loops  sync.WaitGroup // its goroutines

	// handlers is the context of the invocations that came over this link.
	handlers context.Context
	cancel   context.CancelCauseFunc

	chosen     atomic.Pointer[dialect] // nil before the engine's hello
	registerID invocationID
	nameFirst  bool          // nothing is registered before this worker has its name
	welcomed   chan struct{} // workerregistered has come
	registered chan error    // capacity 1: the answer to engine::workers::register
	applied    chan struct{} // the engine has applied the registrations

	// Guarded by the lock of the outbox.
	fences         []fence
	sendsTaken     uint64 // Sends handed to the writer
	sendsConfirmed uint64 // of these, those that the engine has read
	confirming     bool   // a fence for them is out
	pong           []byte // answers the latest ping; nil if no answer waits
}

// dial opens a connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	d := dialer{url: c.cfg.url, header: c.cfg.header, tls: c.cfg.tls, dialContext: c.cfg.dialContext, readLimit: c.cfg.readLimit}
	s, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{
		socket:     s,
		client:     c,
		registerID: newInvocationID(),
		welcomed:   make(chan struct{}),
		registered: make(chan error, 1),
		applied:    make(chan struct{}),
	}
	l.handlers, l.cancel = context.WithCancelCause(c.handlers)
	s.onFail = func(err error) { l.cancel(fmt.Errorf("%w: %w", ErrConnectionLost, err)) }
	// Control frames go through the writer, like everything else.
	s.conn.SetPingHandler(func(data string) error {
		l.touch()
		c.out.answerPing(l, data)
		return nil
	})
	s.conn.SetPongHandler(func(string) error { l.touch(); return nil })
	s.conn.SetCloseHandler(func(int, string) error {
		c.out.urgent(l, item{kind: frameClose})
		return nil
	})
	return l, nil
}

// dialect returns the dialect of this connection, before the choice the oldest.
func (l *link) dialect() dialect {
	if d := l.chosen.Load(); d != nil {
		return *d
	}
	return triggerDialect{}
}

// choose sets the dialect, which is done once. It reports whether this call did it.
func (l *link) choose(d dialect) bool { return l.chosen.CompareAndSwap(nil, &d) }

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

// write is the writer: what waits when it wakes leaves together.
func (l *link) write() {
	out := l.client.out
	var batch []item
	for !l.isDead() {
		batch = out.take(l, batch[:0])
		for _, it := range batch {
			if it.req != nil {
				seal(it.buf, l.dialect(), &it.req.inv)
			}
		}
		if n, err := out.takeRefused(); n > 0 {
			l.client.dropped(n, err)
		}
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
		if err == nil {
			out.written(l, batch, nil)
			continue
		}
		err = fmt.Errorf("iii: write: %w", err)
		out.written(l, batch, fmt.Errorf("%w: %w", ErrConnectionLost, err))
		var late net.Error
		if l.isApplied() || errors.As(err, &late) && late.Timeout() {
			l.fail(err) // it cannot be a refusal
			return
		}
		// The engine may have said why it hung up: the reader gets to it.
		patience := time.AfterFunc(closeTimeout, func() { l.fail(err) })
		<-l.dead
		patience.Stop()
	}
}

// isApplied reports whether the engine has confirmed the registrations.
func (l *link) isApplied() bool {
	select {
	case <-l.applied:
		return true
	default:
		return false
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
	silent := l.silence()
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
