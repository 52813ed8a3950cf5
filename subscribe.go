package iii

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/wsconn"
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
			yield(StreamMessage{}, public(fmt.Errorf("subscribe: %w", err)))
			return
		}
		s.yield = yield
		s.setState(ConnectionStateConnecting, nil)
		m, err := s.run(ctx)
		if err == nil {
			s.setState(ConnectionStateDisconnected, nil)
		} else {
			s.setState(ConnectionStateFailed, err)
			yield(m, public(fmt.Errorf("subscribe: %w", err)))
		}
	}
}

// subscriber is one loop over a sequence of messages.
type subscriber struct {
	dialConfig
	joins    [][]byte
	yield    func(StreamMessage, error) bool
	log      *slog.Logger // nil: the first failure goes to slog.Default
	listener func(ConnectionState, error)
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
	s := &subscriber{log: o.Logger, listener: o.StateListener, dialConfig: newDialConfig(u, streamReadLimit)}
	s.TLS, s.DialContext = o.TLSConfig.Clone(), o.DialContext
	if s.reconnection, err = checkReconnection(o.Reconnection); err != nil {
		return nil, fmt.Errorf("reconnection: %w", err)
	}
	if err := s.AddHeader(o.Header); err != nil {
		return nil, fmt.Errorf("SubscribeOptions.Header: %w", err)
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
func (s *subscriber) run(ctx context.Context) (m StreamMessage, err error) {
	notFound, warned := 0, false
	var last error // of the latest attempt
	redial := s.redial()
	redial.Connect = func(ctx context.Context) wsconn.Attempt {
		var began bool
		m, began, last = s.follow(ctx)
		var fatal fatalError
		switch {
		case errors.Is(last, errLoopLeft):
			return wsconn.Attempt{Stop: true}
		case errors.As(last, &fatal):
			return wsconn.Attempt{Stop: true, Err: fatal.error}
		case ctx.Err() != nil: // which has ended the connection
			return wsconn.Attempt{Stop: true, Err: ctxError(ctx)}
		}
		m = StreamMessage{}
		var refused *wsconn.StatusError
		if !errors.As(last, &refused) || refused.Code != http.StatusNotFound {
			notFound = 0
		} else if notFound++; notFound == maxNotFound {
			return wsconn.Attempt{Stop: true, Err: fmt.Errorf("there is no stream socket at this address: %w", last)}
		}
		return wsconn.Attempt{Err: last, Held: began}
	}
	redial.Retry = func(err error, retryIn time.Duration) {
		s.disconnected(public(err), !warned, retryIn)
		warned = true
	}
	if err = redial.Run(ctx); err == nil && ctx.Err() != nil && !errors.Is(last, errLoopLeft) {
		err = ctxError(ctx)
		if last != nil {
			err = fmt.Errorf("%w; last attempt: %w", err, last)
		}
	}
	return m, err
}

// follow has one connection. began says that a message has come over it.
func (s *subscriber) follow(ctx context.Context) (m StreamMessage, began bool, err error) {
	conn, err := s.Dial(ctx)
	if err != nil {
		return m, false, err
	}
	joins := s.joins
	conn.Start(ctx, wsconn.Loops{
		Write: func() (wrote bool, err error) {
			wrote = len(joins) > 0
			for _, join := range joins {
				if err := conn.WriteMessage(wsconn.Text, join); err != nil {
					return false, err
				}
			}
			joins = nil
			return wrote, conn.Flush()
		},
		PingInterval: streamPing,
		IdleTimeout:  streamIdle,
	})
	s.setState(ConnectionStateConnected, nil)
	defer leaveStream(conn)
	var buf []byte
	for {
		if cap(buf) > maxPooledBuffer {
			buf = nil
		}
		_, buf, err = conn.Read(buf[:0])
		if err != nil {
			conn.Fail(err)
			return m, began, conn.Err()
		}
		began = true
		m = StreamMessage{}
		err = json.Unmarshal(buf, &m)
		switch {
		case err == nil && m.Type != "stream": // of a later engine
		case err != nil:
			return m, began, fatalError{fmt.Errorf("received message does not decode: %w", err)}
		case m.Event.Type == StreamEventTypeUnauthorized:
			return m, began, fatalError{fmt.Errorf("%w: subscription to stream %q, group %q is refused", ErrForbidden, m.StreamName, m.GroupID)}
		case !s.yield(m, nil):
			return m, began, errLoopLeft
		}
	}
}

// leaveStream sends a Close frame and ends the connection. A peer that does not read is not
// waited for.
func leaveStream(conn *wsconn.Conn) {
	timer := time.NewTimer(streamFarewell)
	defer timer.Stop()
	select {
	case <-conn.CloseWrite():
	case <-conn.Dead():
	case <-timer.C:
	}
	conn.Fail(errLoopLeft)
	_ = conn.Wait()
}
