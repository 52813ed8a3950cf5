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

// DefaultStreamURL is the default address of the engine's stream socket.
const DefaultStreamURL = "ws://127.0.0.1:3112"

const (
	streamPing      = 20 * time.Second
	streamIdle      = 60 * time.Second       // a connection without a received frame for this long is dead
	streamFarewell  = 100 * time.Millisecond // limits how long sending the Close frame may take
	streamReadLimit = 64 << 20
)

// SubscribeOptions configures [SubscribeWith]. The zero value is ready to use. [Subscribe]
// sets only URL.
type SubscribeOptions struct {
	// URL is the address of the stream socket, with the scheme ws, wss, http or https. The
	// engine passes the URL's query and userinfo to the auth function. Default:
	// [DefaultStreamURL].
	URL string
	// Header is sent with every upgrade request. Default: none.
	Header http.Header
	// TLSConfig configures TLS for wss addresses, as in [WithTLSConfig]. It is copied at the
	// start of each loop. Default: the crypto/tls defaults.
	TLSConfig *tls.Config
	// Reconnection configures the retry delays and the number of attempts, as in
	// [WithReconnection]. The zero value retries indefinitely. MaxPendingMessages has no
	// effect.
	Reconnection ReconnectionConfig
	// DialContext opens network connections. Default: a net.Dialer that honors the proxy
	// environment variables.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger receives a warning for each failed attempt to connect. If Logger is nil, only the
	// first failure of each loop is logged, to slog.Default. To disable logging, set a logger
	// that discards its records.
	Logger *slog.Logger
	// StateListener receives each connection state change and the error that caused it. The
	// states are [ConnectionStateConnecting], [ConnectionStateConnected] and
	// [ConnectionStateReconnecting]. When the loop ends, the state is [ConnectionStateFailed]
	// if there was an error, and [ConnectionStateDisconnected] otherwise. StateListener is
	// called from the loop's goroutine. Default: none.
	StateListener func(ConnectionState, error)
}

// Subscribe follows streams over the engine's stream socket, which also serves browsers. It
// does not need a [Client]. See [SubscribeWith].
func Subscribe(ctx context.Context, streamURL string, subs ...StreamSubscription) iter.Seq2[StreamMessage, error] {
	return SubscribeWith(ctx, SubscribeOptions{URL: streamURL}, subs...)
}

// SubscribeWith follows streams over the engine's stream socket. Each loop over the returned
// sequence opens its own connection and closes it at the end.
//
// Each subscription starts with an event of type sync that contains the current state: the
// item's value, or a list of the group's values. Changes and events from stream::send follow.
// A change may arrive before a sync that already includes it. Messages do not identify their
// subscription. With subscriptions to both a group and one of its items, the item's changes
// arrive twice. Empty subscription IDs are filled in. Duplicate IDs are an error.
//
// If the connection fails or is lost, SubscribeWith reconnects as configured by o.Reconnection
// and subscribes again. The new sync includes the changes made in between, but events sent by
// stream::send during that time are lost. A slow loop exerts backpressure on the engine. Once
// about 300 messages are queued in the engine, it drops the oldest ones.
//
// An error is yielded once, as the last element. It is one of the following:
//
//   - the context's error, once ctx is done;
//   - an error that matches [ErrForbidden], if a join handler rejects a subscription. The
//     error is yielded together with the rejection, a message of type unauthorized;
//   - the last attempt's error, if no attempts remain;
//   - an error for an invalid argument, for a message that cannot be decoded, or after three
//     consecutive responses with status 404.
//
// An attempt to connect takes at most 10 s. Connections are pinged every 20 s and considered
// lost after 60 s without a frame.
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

// subscriber is the state of one loop over the sequence.
type subscriber struct {
	dialConfig
	joins    [][]byte
	yield    func(StreamMessage, error) bool
	log      *slog.Logger // if nil, the first failure goes to slog.Default
	listener func(ConnectionState, error)
}

// maxNotFound is the number of consecutive 404 responses after which a loop ends, because the
// address evidently has no stream socket.
const maxNotFound = 3

func (s *subscriber) setState(state ConnectionState, err error) {
	if s.listener != nil {
		s.listener(state, err)
	}
}

// disconnected logs a failure after which the loop reconnects, and reports it to the listener.
func (s *subscriber) disconnected(err error, first bool, delay time.Duration) {
	switch {
	case s.log != nil:
		s.log.Warn("iii: stream socket not connected", "error", err, "retry_in", delay)
	case first:
		warnByDefault("iii: stream socket not connected; the subscription keeps trying", "error", err)
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
		if taken[sub.SubscriptionID] { // the engine would drop the first one
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

// run follows the streams, reconnecting as needed. If the program breaks out of the loop, err
// is nil. Otherwise, m is the message that err refers to, if any.
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
		case ctx.Err() != nil: // this is why the connection ended
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

// follow follows the streams over one connection. began reports whether a message was
// received.
func (s *subscriber) follow(ctx context.Context) (m StreamMessage, began bool, err error) {
	d := s.Dialer
	d.ReadBuffer = 16 << 10 // a program may follow a stream for each of its own clients
	conn, err := d.Dial(ctx)
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
		case err == nil && m.Type != "stream": // sent by a later engine
		case err != nil:
			return m, began, fatalError{fmt.Errorf("received message does not decode: %w", err)}
		case m.Event.Type == StreamEventTypeUnauthorized:
			return m, began, fatalError{fmt.Errorf("%w: subscription to stream %q, group %q was rejected", ErrForbidden, m.StreamName, m.GroupID)}
		case !s.yield(m, nil):
			return m, began, errLoopLeft
		}
	}
}

// leaveStream sends a Close frame and closes the connection. If the peer does not read,
// leaveStream closes the connection after streamFarewell.
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
