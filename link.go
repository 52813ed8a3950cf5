package iii

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/signal"
	"github.com/iii-go/iii/internal/wsconn"
)

// registerTimeout bounds the engine's answers while a link begins.
const registerTimeout = 10 * time.Second

// link is one connection to the engine. It is attached to the outbox once, dies
// once, and is not used again.
type link struct {
	*wsconn.Conn
	client *Client

	// handlers is the context of the invocations that came over this link.
	handlers context.Context
	cancel   context.CancelCauseFunc

	chosen     atomic.Pointer[dialect] // nil before the engine's hello
	registerID invocationID
	nameFirst  bool          // nothing is registered before this worker has its name
	accepted   chan struct{} // workerregistered has come
	registered chan error    // capacity 1: the answer to engine::workers::register
	applied    chan struct{} // the engine has applied the registrations

	batch []item // of the writer

	// Guarded by the lock of the outbox.
	fences         []fence
	sendsTaken     uint64 // Sends handed to the writer
	sendsConfirmed uint64 // of these, those that the engine has read
	confirming     bool   // a fence for them is out
}

// dial opens a connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	c.tokenWarning.Do(c.warnOfToken)
	conn, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return c.newLink(conn), nil
}

func (c *Client) newLink(conn *wsconn.Conn) *link {
	l := &link{
		Conn:       conn,
		client:     c,
		registerID: newInvocationID(),
		accepted:   make(chan struct{}),
		registered: make(chan error, 1),
		applied:    make(chan struct{}),
	}
	l.handlers, l.cancel = context.WithCancelCause(c.handlers)
	l.OnFail = func(err error) { l.cancel(fmt.Errorf("%w: %w", ErrConnectionLost, err)) }
	return l
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

// start reads and writes l and keeps it alive until it is dead.
func (l *link) start(ctx context.Context) {
	l.Start(ctx, wsconn.Loops{
		Read:         func(_ int, message []byte) error { l.client.receive(l, message); return nil },
		Write:        l.write,
		PingInterval: l.client.cfg.pingInterval,
		IdleTimeout:  l.client.cfg.idleTimeout,
	})
}

// write writes what is queued.
func (l *link) write() (wrote bool, err error) {
	out := l.client.out
	l.batch = out.take(l, l.batch[:0])
	for _, it := range l.batch {
		if it.req != nil {
			seal(it.buf, l.dialect(), &it.req.inv)
		}
	}
	if n, err := out.takeRefused(); n > 0 {
		l.client.dropped(n, err)
	}
	if len(l.batch) == 0 {
		return false, nil
	}
	if err = l.writeBatch(); err == nil {
		out.written(l, l.batch, nil)
		return true, nil
	}
	out.written(l, l.batch, fmt.Errorf("%w: %w", ErrConnectionLost, err))
	if l.isApplied() {
		l.Fail(err) // it cannot be a refusal
	}
	return true, err
}

func (l *link) writeBatch() error {
	for _, it := range l.batch {
		var message []byte
		switch it.kind {
		case frameText:
			message = it.buf.Bytes()
		case frameJSONPing:
			message = pingMessage
		case frameJSONPong:
			message = pongMessage
		}
		if err := l.WriteMessage(wsconn.Text, message); err != nil {
			return err
		}
	}
	return l.Flush()
}

// isApplied reports whether the engine has confirmed the registrations.
func (l *link) isApplied() bool { return signal.IsClosed(l.applied) }
