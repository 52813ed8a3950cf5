package iii

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// DefaultStreamURL is the address of the stream socket when [Subscribe] is given
// none.
const DefaultStreamURL = "ws://127.0.0.1:3112"

const (
	streamPing      = 20 * time.Second
	streamIdle      = 60 * time.Second       // without any frame the connection is dead
	streamFarewell  = 100 * time.Millisecond // for the Close frame of a reader that stops
	streamReadLimit = 64 << 20
)

// SubscribeOptions configures [SubscribeWith]. The zero value is that of
// [Subscribe].
type SubscribeOptions struct {
	// URL is the address of the stream socket, ws, wss, http or https; query and
	// userinfo reach the auth function of the engine. Default [DefaultStreamURL].
	URL string
	// Header is sent with every upgrade. Default none.
	Header http.Header
	// TLSConfig is for wss addresses, as for [WithTLSConfig]; each loop works with a copy
	// made when it begins. Default: that of crypto/tls.
	TLSConfig *tls.Config
	// Reconnection says how to connect again, as for [WithReconnection]. The zero
	// value is the default: for ever. MaxPendingMessages has no effect.
	Reconnection ReconnectionConfig
	// DialContext makes the connections. Default: a net.Dialer that honours the
	// proxy variables of the environment.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger receives a warning for each failed attempt to connect. Without one the first
	// failure of a loop goes to slog.Default, once; a logger that discards is silence.
	Logger *slog.Logger
	// StateListener receives each change of the connection, with the error that caused it:
	// connecting, connected, reconnecting, disconnected when the loop is left, failed when it
	// ends by an error. It runs on the goroutine of the loop. Default none.
	StateListener func(ConnectionState, error)
}

// Subscribe follows streams over the engine's stream socket, as a browser would:
// it needs no [Client]. See [SubscribeWith].
func Subscribe(ctx context.Context, streamURL string, subs ...StreamSubscription) iter.Seq2[StreamMessage, error] {
	return SubscribeWith(ctx, SubscribeOptions{URL: streamURL}, subs...)
}

// SubscribeWith follows streams over the engine's stream socket. Each loop over
// the sequence has a connection of its own, which is closed when the loop is
// left, however that happens.
//
// For each subscription the present state comes first, as an event of type sync:
// the value of the item, or the list of the group's values; then the changes, as
// they happen, and the events of stream::send. A change may come before the sync
// that holds it already. A message does not say which subscription it is for: who
// subscribes to a group and to one of its items gets the item's changes twice.
// Empty subscription ids are made up; an id may not be used twice.
//
// When the connection is lost, or cannot be made, SubscribeWith tries again as
// o.Reconnection says, subscribes again, and the sync comes again: what has changed
// in between is in it. Events of stream::send are lost then. A loop that is slow
// keeps the engine from sending; when some 300 messages wait there, it drops the
// oldest ones.
//
// An error is the last thing that comes, and comes once: ctx's error when ctx ends;
// [ErrForbidden] when a join handler refuses a subscription, with the message that
// names it; the last failure when the attempts are used up; what is wrong with the
// arguments. Connections are made within 10 s and pinged every 20 s; one that is
// silent for 60 s counts as lost.
func SubscribeWith(ctx context.Context, o SubscribeOptions, subs ...StreamSubscription) iter.Seq2[StreamMessage, error] {
	return func(yield func(StreamMessage, error) bool) {
		s, err := newSubscriber(o, subs)
		if err != nil {
			yield(StreamMessage{}, fmt.Errorf("iii: subscribe: %w", trimmed(err)))
			return
		}
		s.yield = yield
		s.setState(ConnectionStateConnecting, nil)
		m, err := s.run(ctx)
		if err == nil {
			s.setState(ConnectionStateDisconnected, nil)
		} else {
			s.setState(ConnectionStateFailed, err)
			yield(m, fmt.Errorf("iii: subscribe: %w", trimmed(err)))
		}
	}
}

// subscriber is one loop over a sequence of messages.
type subscriber struct {
	dialer       dialer
	reconnection ReconnectionConfig
	joins        [][]byte
	yield        func(StreamMessage, error) bool
	log          *slog.Logger // nil: the first failure goes to slog.Default
	listener     func(ConnectionState, error)
}

// maxNotFound is how many answers of 404 in a row end a loop: there is no stream socket at
// this address.
const maxNotFound = 3

func (s *subscriber) setState(state ConnectionState, err error) {
	if s.listener != nil {
		s.listener(state, err)
	}
}

// disconnected reports a failure after which the loop connects again.
func (s *subscriber) disconnected(err error, first bool, delay time.Duration) {
	switch {
	case s.log != nil:
		s.log.Warn("iii: stream socket not connected", "error", err, "retry_in", delay)
	case first:
		warnByDefault("iii: stream socket not connected; the subscription keeps trying", err)
	}
	s.setState(ConnectionStateReconnecting, err)
}

func newSubscriber(o SubscribeOptions, subs []StreamSubscription) (*subscriber, error) {
	if o.URL == "" {
		o.URL = DefaultStreamURL
	}
	u, err := parseEngineURL(o.URL)
	if err != nil {
		return nil, err
	}
	s := &subscriber{log: o.Logger, listener: o.StateListener, dialer: dialer{url: u, tls: o.TLSConfig.Clone(), dialContext: o.DialContext, readLimit: streamReadLimit}}
	if s.reconnection, err = checkReconnection(o.Reconnection); err != nil {
		return nil, fmt.Errorf("reconnection: %w", err)
	}
	if err := addUpgradeHeader(&s.dialer.header, o.Header, "SubscribeOptions.Header"); err != nil {
		return nil, err
	}
	if len(subs) == 0 {
		return nil, errors.New("no subscription")
	}
	taken := map[string]bool{}
	for _, sub := range subs {
		if sub.SubscriptionID == "" {
			sub.SubscriptionID = uuid.NewString()
		}
		if taken[sub.SubscriptionID] { // the engine would drop the first
			return nil, fmt.Errorf("subscription id %q is used twice", sub.SubscriptionID)
		}
		taken[sub.SubscriptionID] = true
		join, err := rawOf(StreamCommand{Type: StreamCommandTypeJoin, Data: sub})
		if err != nil {
			return nil, err
		}
		s.joins = append(s.joins, join)
	}
	return s, nil
}

var errLoopLeft = errors.New("the loop was left")

// run follows the streams over one connection after the other. The error is nil
// when the loop was left; the message is the one that the error is about.
func (s *subscriber) run(ctx context.Context) (StreamMessage, error) {
	var attempt, failures uint64
	notFound, warned := 0, false
	for {
		m, began, err := s.follow(ctx)
		var fatal fatalError
		switch {
		case errors.Is(err, errLoopLeft):
			return m, nil
		case errors.As(err, &fatal):
			return m, fatal.error
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return StreamMessage{}, err
		case ctx.Err() != nil: // which has cut the connection
			return StreamMessage{}, ctxError(ctx)
		}
		attempt++
		failures++
		if began {
			attempt, failures = 1, 0
		}
		if limit := s.reconnection.MaxRetries; limit != nil && failures > *limit {
			return StreamMessage{}, fmt.Errorf("gave up after %d attempts: %w", failures, trimmed(err))
		}
		if up := (*upgradeError)(nil); errors.As(err, &up) && up.status == http.StatusNotFound {
			notFound++
		} else {
			notFound = 0
		}
		if notFound == maxNotFound {
			return StreamMessage{}, fmt.Errorf("there is no stream socket at this address: %w", trimmed(err))
		}
		delay := reconnectDelay(s.reconnection, attempt, rand.Float64())
		s.disconnected(err, !warned, delay)
		warned = true
		if pause(ctx, delay); ctx.Err() != nil {
			return StreamMessage{}, fmt.Errorf("%w; last attempt: %w", ctxError(ctx), trimmed(err))
		}
	}
}

// follow has one connection. began says that a message has come over it.
func (s *subscriber) follow(ctx context.Context) (m StreamMessage, began bool, err error) {
	conn, err := s.dialer.dial(ctx)
	if err != nil {
		return m, false, err
	}
	c := &streamConn{conn: conn.conn, net: conn.net, pongs: make(chan []byte, 1), stop: make(chan struct{})}
	c.start(ctx, s.joins)
	s.setState(ConnectionStateConnected, nil)
	defer c.close()
	for {
		b, err := c.read()
		if err != nil {
			return m, began, readError(err)
		}
		began = true
		m = StreamMessage{}
		err = json.Unmarshal(b, &m)
		switch {
		case err == nil && m.Type != "stream": // of a later engine
		case err != nil:
			return m, began, fatalError{fmt.Errorf("iii: received message does not decode: %w", err)}
		case m.Event.Type == StreamEventTypeUnauthorized:
			return m, began, fatalError{fmt.Errorf("%w: subscription to stream %q, group %q is refused", ErrForbidden, m.StreamName, m.GroupID)}
		case !s.yield(m, nil):
			return m, began, errLoopLeft
		}
	}
}

// streamConn is a connection to the stream socket. The loop's goroutine reads,
// another one writes, and the end of ctx cuts the connection.
type streamConn struct {
	conn  *websocket.Conn
	net   *gatherConn
	pongs chan []byte // capacity 1: what the engine wants to have back
	stop  chan struct{}
	wait  sync.WaitGroup // for the writer, and for the cut if there is one
	cut   func() bool    // ends the watch over ctx
	buf   []byte         // of the last message
}

func (c *streamConn) start(ctx context.Context, joins [][]byte) {
	c.conn.SetPongHandler(func(string) error { c.touch(); return nil })
	c.conn.SetPingHandler(func(data string) error {
		c.touch()
		select {
		case c.pongs <- []byte(data):
		default: // the one on its way will do
		}
		return nil
	})
	c.conn.SetCloseHandler(func(int, string) error { return nil }) // the writer says goodbye
	c.wait.Add(2)
	go func() {
		defer c.wait.Done()
		c.write(joins)
	}()
	c.cut = context.AfterFunc(ctx, func() {
		defer c.wait.Done()
		_ = c.net.Conn.Close()
	})
}

// touch gives the connection time again.
func (c *streamConn) touch() { _ = c.conn.SetReadDeadline(time.Now().Add(streamIdle)) }

// read reads a message, into memory that is used again. Only while somebody waits
// for one the connection can be silent for too long.
func (c *streamConn) read() ([]byte, error) {
	if cap(c.buf) > maxPooledBuffer {
		c.buf = nil
	}
	c.touch()
	_, r, err := c.conn.NextReader()
	if err == nil {
		c.buf, err = appendAll(r, c.buf[:0], c.touch)
	}
	return c.buf, err
}

// write subscribes, keeps the connection alive and says goodbye. When it fails, the
// reader does, too.
func (c *streamConn) write(joins [][]byte) {
	defer c.net.Conn.Close()
	for _, join := range joins {
		if c.conn.WriteMessage(websocket.TextMessage, join) != nil {
			return
		}
	}
	if c.net.Flush() != nil {
		return
	}
	ping := time.NewTicker(streamPing)
	defer ping.Stop()
	for {
		kind, data := websocket.PingMessage, []byte(nil)
		select {
		case <-ping.C:
		case data = <-c.pongs:
			kind = websocket.PongMessage
		case <-c.stop:
			kind, data = websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		}
		if c.conn.WriteControl(kind, data, time.Time{}) != nil || c.net.Flush() != nil || kind == websocket.CloseMessage {
			return
		}
	}
}

// close returns when the goroutines of the connection have ended. A peer that does
// not listen is not waited for.
func (c *streamConn) close() {
	close(c.stop)
	patience := time.AfterFunc(streamFarewell, func() { _ = c.net.Conn.Close() })
	defer patience.Stop()
	if c.cut() {
		c.wait.Done()
	}
	c.wait.Wait()
}
