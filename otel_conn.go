package iii

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"

	"github.com/iii-go/iii/internal/otlpjson"
	"github.com/iii-go/iii/internal/signal"
	"github.com/iii-go/iii/internal/wsconn"
)

// ErrConnectionClosed means that a [SharedEngineConnection] no longer accepts telemetry,
// because it was shut down or has failed permanently. It matches [ErrClosed].
var ErrConnectionClosed error = connectionClosedError{}

type connectionClosedError struct{}

func (connectionClosedError) Error() string        { return "iii: telemetry connection is closed" }
func (connectionClosedError) Is(target error) bool { return target == ErrClosed }

// SharedEngineConnection is the WebSocket connection that carries telemetry to the engine. It
// is separate from the workers' connections. Frames are queued until the engine has confirmed
// them by answering a later ping. If the connection is lost first, unconfirmed frames are sent
// again. No frame is lost while the queue has room, but a frame of logs or metrics may arrive
// twice. The zero value is not usable; use [NewSharedEngineConnection]. A nil pointer acts as
// a closed connection. All methods are safe for concurrent use.
type SharedEngineConnection struct {
	cfg       *connectionConfig
	log       atomic.Pointer[slog.Logger] // nil if there is none
	token     atomic.Pointer[string]      // for the engine; nil if there is none
	queue     telemetryQueue
	callbacks *callbackQueue
	report    dropReport
	losses    telemetryLosses

	stop      context.CancelFunc
	drainOnce sync.Once
	draining  chan struct{} // closed by drain
	done      chan struct{} // closed when run returns

	mu         sync.Mutex
	state      ConnectionState
	changed    signal.Broadcast // signaled when state is set
	shutdown   bool             // Shutdown was called
	closing    bool             // a Close frame is being sent, so do not reconnect
	err        error            // why the connection failed permanently
	reason     error            // why the connection ended; nil if it closed cleanly
	lastErr    error            // of the latest attempt or link
	reconnects uint64
}

// NewSharedEngineConnection starts a connection to the engine and returns immediately.
// engineURL is the address of the engine's worker socket, with the scheme ws, wss, http or
// https; /otel is appended to its path. If engineURL is "", it defaults to $III_URL, then to
// [DefaultURL]. An unavailable engine is not an error. The connection lives until
// [SharedEngineConnection.Shutdown].
func NewSharedEngineConnection(engineURL string, opts ...ConnectionOption) (*SharedEngineConnection, error) {
	cfg, err := newConnectionConfig(engineURL, opts)
	if err != nil {
		return nil, err
	}
	return startConnection(cfg), nil
}

func startConnection(cfg *connectionConfig) *SharedEngineConnection {
	s := newConnection(cfg)
	ctx, stop := context.WithCancelCause(context.Background())
	s.stop = func() { stop(ErrConnectionClosed) }
	go s.run(ctx)
	return s
}

// closedConnection returns a closed connection, for disabled telemetry.
func closedConnection(cfg *connectionConfig) *SharedEngineConnection {
	s := newConnection(cfg)
	s.queue.refuse(ErrConnectionClosed, true)
	s.report.close()
	s.stop = func() {}
	s.shutdown = true
	s.drain()
	close(s.done)
	return s
}

// newConnection returns a connection without starting it.
func newConnection(cfg *connectionConfig) *SharedEngineConnection {
	s := &SharedEngineConnection{
		cfg:      cfg,
		draining: make(chan struct{}),
		done:     make(chan struct{}),
		state:    ConnectionStateDisconnected,
	}
	s.log.Store(cfg.logger)
	if cfg.Token != "" {
		s.adoptToken(cfg.Token)
	}
	s.callbacks = &callbackQueue{log: func() *slog.Logger { return cmp.Or(s.logger(), discard) }}
	s.queue = telemetryQueue{maxFrames: cfg.maxFrames, maxBytes: cfg.maxBytes, maxOffline: cfg.maxOffline, starting: true, dropped: s.report.note, buffers: otlpjson.NewBuffers()}
	s.losses.onLoss = s.report.note
	s.report.send = func() { s.callbacks.post(s.reportDrops) }
	return s
}

func (s *SharedEngineConnection) logger() *slog.Logger { return s.log.Load() }

// adoptLogger sets the logger if there is none. It ignores a logger that writes only to
// telemetry: such a logger would need this connection to report that the connection has
// failed.
func (s *SharedEngineConnection) adoptLogger(l *slog.Logger) {
	if !writesToTelemetry(l.Handler()) {
		s.log.CompareAndSwap(nil, l)
	}
}

// adoptToken sets the engine's token if there is none. It must be called only if a worker
// connects to the same host.
func (s *SharedEngineConnection) adoptToken(token string) { s.token.CompareAndSwap(nil, &token) }

func (s *SharedEngineConnection) dial(ctx context.Context) (*wsconn.Conn, error) {
	d := s.cfg.Dialer
	if token := s.token.Load(); token != nil {
		d.Token = *token
	}
	return d.Dial(ctx)
}

// Send queues one frame and never blocks. If the queue is full, whether or not the connection
// is up, Send makes room by dropping the oldest frames with the lowest priority. Span starts
// have the lowest priority, metrics a higher one, and spans and logs the highest. Send never
// drops frames with a higher priority than m. [ConnectionStats] counts the dropped frames. If
// there is still no room, Send returns [ErrBufferFull]. It returns [ErrConnectionClosed] after
// the connection has ended, and [ErrMessageTooLarge] for a frame of 64 MiB or more. The engine
// silently drops data that is not OTLP JSON. m.Data must not be modified after the call.
func (s *SharedEngineConnection) Send(m OtelMessage) error {
	if s == nil {
		return ErrConnectionClosed
	}
	switch m.Prefix {
	case otlpjson.PrefixTraces, otlpjson.PrefixMetrics, otlpjson.PrefixLogs:
		return s.enqueue(otlpjson.Frame{Prefix: m.Prefix, Data: m.Data, Records: 1})
	}
	return fmt.Errorf("iii: telemetry prefix %q is not OTLP, MTRC or LOGS", m.Prefix)
}

// enqueue is Send for this package's own frames. It takes ownership of f.Data.
func (s *SharedEngineConnection) enqueue(f otlpjson.Frame) error { return s.queue.enqueue(f) }

// State returns the connection's state. It is [ConnectionStateConnecting] until the first
// attempt to connect ends, and then [ConnectionStateConnected] or
// [ConnectionStateReconnecting]. It becomes [ConnectionStateFailed] once all attempts to
// connect have been used up, and [ConnectionStateDisconnected] after Shutdown.
func (s *SharedEngineConnection) State() ConnectionState {
	if s == nil {
		return ConnectionStateDisconnected
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *SharedEngineConnection) Stats() ConnectionStats {
	var stats ConnectionStats
	if s == nil {
		return stats
	}
	s.queue.read(&stats)
	stats.Lost = s.losses.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Reconnects = s.reconnects
	return stats
}

// Flush waits until the engine has received every frame queued before the call. If ctx is done
// first, the error reports how many frames remain; they stay queued. Flush also returns an
// error if frames were dropped while it was waiting.
func (s *SharedEngineConnection) Flush(ctx context.Context) error { return s.flushAfter(ctx, 0) }

// flushAfter is Flush for a caller that has already flushed the providers. dropped is the
// number of frames dropped while the providers were flushed.
func (s *SharedEngineConnection) flushAfter(ctx context.Context, dropped int) error {
	if s == nil {
		return nil
	}
	if err := s.flush(ctx, dropped); err != nil {
		return public(fmt.Errorf("telemetry flush: %w", err))
	}
	return nil
}

func (s *SharedEngineConnection) flush(ctx context.Context, dropped int) error {
	e := flushError{dropped: dropped}
	if w := s.queue.addFlushWaiter(); w != nil {
		select {
		case <-w.done:
		case <-ctx.Done():
			e.ctx = ctxError(ctx)
		}
		left, more := s.queue.leave(w)
		if e.left, e.dropped = left, dropped+more; e.left == 0 && e.dropped == 0 {
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.left == 0 && e.dropped == 0 {
		if s.err == nil {
			return nil
		}
		e.cause = s.err
		return &e
	}
	e.cause = s.lastErr
	return &e
}

// flushError reports the frames that a flush did not deliver.
type flushError struct {
	left, dropped int   // frames
	ctx           error // why the flush stopped waiting; nil if it did not
	cause         error // why there is no connection; nil if there is one
}

func (e *flushError) Error() string {
	text := fmt.Sprintf("%d frames left, %d dropped", e.left, e.dropped)
	if e.ctx != nil {
		text += ": " + e.ctx.Error()
	}
	if e.cause != nil {
		text += "; connection: " + e.cause.Error()
	}
	return text
}

func (e *flushError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.ctx, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Shutdown rejects further frames, waits until the engine has received the queued ones, and
// closes the connection. If the connection is down, Shutdown immediately makes one more
// attempt to connect. If ctx is done first, Shutdown gives up and returns. The error reports
// how many frames were lost. A repeated call waits until the shutdown has completed and
// returns nil. If its ctx is done first, the repeated call ends the shutdown and returns an
// error.
func (s *SharedEngineConnection) Shutdown(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.drain()
	s.queue.refuse(ErrConnectionClosed, true)
	s.mu.Lock()
	first := !s.shutdown
	s.shutdown = true
	s.mu.Unlock()
	if !first {
		if waitClosed(ctx, s.done) {
			return nil
		}
		s.stop()
		<-s.done
		return fmt.Errorf("iii: telemetry shutdown: %w", ctxError(ctx))
	}
	err := s.flush(ctx, 0)
	var flush *flushError
	if !errors.As(err, &flush) || flush.left == 0 {
		s.closeOrderly(ctx)
	}
	s.stop()
	<-s.done
	if lost := s.queue.losses(); lost > 0 || err != nil {
		if err == nil {
			err = s.lossCause()
		}
		return public(fmt.Errorf("telemetry shutdown: %d frames were lost: %w", lost, err))
	}
	return nil
}

// drain makes s reconnect without delay, and give up as soon as an attempt to connect fails.
func (s *SharedEngineConnection) drain() {
	s.drainOnce.Do(func() {
		s.queue.drain()
		close(s.draining)
	})
}

// closeOrderly sends a Close frame and waits briefly for the engine's Close frame.
func (s *SharedEngineConnection) closeOrderly(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	if l := s.queue.current(); l != nil {
		l.Close(ctx)
	}
}

// run maintains the connection until ctx is done or the attempts to connect are exhausted.
func (s *SharedEngineConnection) run(ctx context.Context) {
	err := s.keepConnected(ctx)
	s.mu.Lock()
	s.err = err
	if s.reason = err; err == nil && !s.closing {
		s.reason = s.lastErr
	}
	reason := s.closedError()
	s.mu.Unlock()
	s.queue.refuse(reason, false)
	s.queue.close()
	if err != nil {
		s.setState(ConnectionStateFailed, err)
		s.reportError(err)
	} else {
		s.setState(ConnectionStateDisconnected, nil)
	}
	s.report.close()
	s.awaitCallbacks()
	close(s.done)
}

// lossCause returns the error to report for lost frames that no flush waited for. It must be
// called after the connection has ended.
func (s *SharedEngineConnection) lossCause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == nil {
		return ErrBufferFull // the connection lasted until the end, so the frames were dropped for lack of room
	}
	return s.closedError()
}

// closedError returns an [ErrConnectionClosed] that wraps the reason why the connection ended.
// The caller holds mu.
func (s *SharedEngineConnection) closedError() error {
	if s.reason == nil || errors.Is(s.reason, ErrConnectionClosed) {
		return ErrConnectionClosed
	}
	return public(fmt.Errorf("%w: %w", ErrConnectionClosed, s.reason))
}

// awaitCallbacks gives the program's callbacks a short time to return.
func (s *SharedEngineConnection) awaitCallbacks() { briefly(s.callbacks.idle()) }

// drainAttempts limits how many connections in a row may deliver no frame while the queue is
// being drained. There is no delay between these connections.
const drainAttempts = 5

// keepConnected maintains the connection. It returns nil once ctx is done or the queue has
// been drained as far as possible. Otherwise, it returns the reason for giving up.
func (s *SharedEngineConnection) keepConnected(ctx context.Context) error {
	redial := s.cfg.redial()
	redial.Hurry = s.draining // immediately make one more attempt
	state := ConnectionStateConnecting
	connected := false // whether a connection was ever established
	redial.Connect = func(ctx context.Context) wsconn.Attempt {
		for idle := 0; ; { // idle counts consecutive connections that delivered nothing during draining
			s.setState(state, nil)
			state = ConnectionStateReconnecting
			lasted, progress := false, false
			conn, err := s.dial(ctx)
			dialed := err == nil
			if dialed {
				before := s.queue.confirmed()
				lasted, err = s.serve(ctx, s.newLink(conn), connected)
				progress = s.queue.confirmed() > before
				connected = true
			} else {
				s.queue.dialFailed()
			}
			err = public(err)
			s.mu.Lock()
			s.lastErr = err
			closing := s.closing
			s.mu.Unlock()
			if ctx.Err() != nil || closing {
				return wsconn.Attempt{Stop: true}
			}
			if !signal.IsClosed(s.draining) {
				return wsconn.Attempt{Err: err, Held: lasted}
			}
			// While draining, reconnect without delay, but only if the last attempt connected.
			s.setState(state, err)
			if idle++; progress {
				idle = 0
			}
			var refused *AuthError
			if !dialed || idle >= drainAttempts || errors.As(err, &refused) {
				return wsconn.Attempt{Stop: true}
			}
		}
	}
	redial.Retry = func(err error, retryIn time.Duration) {
		s.setState(ConnectionStateReconnecting, err)
		s.reportDisconnect(err, retryIn)
	}
	return public(redial.Run(ctx))
}

// waitClosed waits until done is closed or ctx is done. It reports whether done is closed.
func waitClosed(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return signal.IsClosed(done)
	}
}

// serve runs one link until it fails, and returns the cause. lasted reports whether the link
// lasted for at least the initial reconnection delay and was not rejected by the engine.
func (s *SharedEngineConnection) serve(ctx context.Context, l *telemetryLink, reconnected bool) (lasted bool, err error) {
	s.mu.Lock()
	if reconnected {
		s.reconnects++
	}
	s.lastErr = nil
	s.mu.Unlock()
	s.queue.attach(l)
	s.setState(ConnectionStateConnected, nil)
	l.Start(ctx, wsconn.Loops{
		Read:         readTelemetry,
		Write:        func() (bool, error) { return s.writeFrames(l) },
		Ping:         func() { s.queue.requestPing(l) },
		PingInterval: telemetryPing,
		IdleTimeout:  telemetryIdle,
	})
	err = l.Wait()
	s.queue.detach(l)
	var refused *AuthError
	lasted = time.Since(l.Began()) >= milliseconds(s.cfg.reconnection.InitialDelayMs) && !errors.As(err, &refused)
	return lasted, err
}

// setState changes the state and notifies the listener. err is the cause of the change.
func (s *SharedEngineConnection) setState(state ConnectionState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == state && err == nil {
		return
	}
	s.state = state
	s.changed.Send()
	if s.cfg.listener != nil {
		s.callbacks.post(func() { s.cfg.listener(state, err) })
	}
}

// untilAway returns a context that is canceled if s stays disconnected for the given time. The
// caller must call stop.
func (s *SharedEngineConnection) untilAway(ctx context.Context, limit time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		away := time.NewTimer(limit)
		defer away.Stop()
		wasConnected := false
		for {
			s.mu.Lock()
			connected, changed := s.state == ConnectionStateConnected, s.changed.Wait()
			s.mu.Unlock()
			switch {
			case connected:
				away.Stop()
			case wasConnected:
				away.Reset(limit)
			}
			wasConnected = connected
			select {
			case <-changed:
			case <-away.C:
				cancel(awayError(limit))
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, func() { cancel(nil); watch.Wait() }
}

// awayError is the cause of a context that untilAway has canceled.
type awayError time.Duration

func (e awayError) Error() string {
	return fmt.Sprintf("not connected for %v: %v", time.Duration(e), e.Unwrap())
}

func (e awayError) Unwrap() error { return context.DeadlineExceeded }

// reportDisconnect reports a failed attempt or a lost connection.
func (s *SharedEngineConnection) reportDisconnect(err error, delay time.Duration) {
	var refused *AuthError
	switch log := s.logger(); {
	case log != nil:
		log.Warn("iii: telemetry is not connected", "error", err, "retry_in", delay)
	case errors.As(err, &refused):
		s.reportError(err)
	}
}

// reportError reports an error, even if there is no logger.
func (s *SharedEngineConnection) reportError(err error) {
	if log := s.logger(); log != nil {
		log.Error("iii: telemetry", "error", err)
		return
	}
	s.callbacks.post(func() { otel.Handle(err) })
}

func (s *SharedEngineConnection) reportDrops() {
	stats := s.Stats()
	var parts []string
	for _, d := range []struct {
		what string
		DroppedFrames
	}{{"traces", stats.Traces}, {"metrics", stats.Metrics}, {"logs", stats.Logs}} {
		if d.Frames() > 0 {
			parts = append(parts, fmt.Sprintf("%d frames of %s with %d records (queue full %d, not connected %d, closed %d)",
				d.Frames(), d.what, d.Records, d.Full, d.NotConnected, d.Closed))
		}
	}
	parts = stats.Lost.describe(parts)
	if len(parts) > 0 {
		s.reportError(fmt.Errorf("iii: telemetry was dropped, in total: %s", strings.Join(parts, ", ")))
	}
}

const (
	telemetryPing      = 20 * time.Second // interval of pings on an idle link
	telemetryIdle      = 60 * time.Second // time without a frame from the engine after which the link fails
	telemetryReadLimit = 1 << 20          // the engine sends only short messages
	codeAuth           = "AUTH_ERROR"
)

// telemetryLink is one telemetry connection. The queue's lock guards the fields ping,
// unpinged, pinged and ponged.
type telemetryLink struct {
	*wsconn.Conn
	ping           bool   // a ping follows the next frames
	unpinged       int    // frames taken since the last ping
	pinged, ponged uint64 // numbers of the last frames before the last ping and the last pong

	written atomic.Uint64 // number of the last frame whose data is no longer needed

	batch []queuedFrame // used only by the writer
}

func (s *SharedEngineConnection) newLink(conn *wsconn.Conn) *telemetryLink {
	l := &telemetryLink{Conn: conn}
	l.OnPong = func(data string) {
		if len(data) == 8 {
			s.queue.confirm(l, binary.BigEndian.Uint64([]byte(data)))
		}
	}
	return l
}

// readTelemetry handles a message from the engine. Apart from pongs, the engine sends only the
// reason for rejecting a connection.
func readTelemetry(kind int, message []byte) error {
	if kind != wsconn.Text {
		return nil
	}
	return engineError(message)
}

// engineError returns the error in an error frame from the engine, or nil for any other
// message.
func engineError(b []byte) error {
	var m ErrorMessage
	if json.Unmarshal(b, &m) != nil || m.Type != MessageTypeError {
		return nil
	}
	if m.Error.Code == codeAuth {
		return fmt.Errorf("%w (%s)", &AuthError{Message: m.Error.Message}, codeAuth)
	}
	return &Error{Code: m.Error.Code, Message: m.Error.Message}
}

// writeFrames writes the queued frames, and a ping if one is due.
func (s *SharedEngineConnection) writeFrames(l *telemetryLink) (wrote bool, err error) {
	batch, ping, number := s.queue.take(l, l.batch[:0])
	l.batch = batch
	if len(batch) == 0 && !ping {
		return false, nil
	}
	defer clear(batch)
	for i := range batch {
		if err := l.WriteParts(wsconn.Binary, batch[i].Prefix, batch[i].Data); err != nil {
			return true, err
		}
		l.written.Store(batch[i].number)
		if batch[i].ping {
			if err := l.askConfirmation(batch[i].number); err != nil {
				return true, err
			}
		}
	}
	if ping {
		if err := l.askConfirmation(number); err != nil {
			return true, err
		}
	}
	return true, l.Flush()
}

// askConfirmation sends a ping. The engine's pong confirms all frames up to and including the
// given number.
func (l *telemetryLink) askConfirmation(number uint64) error {
	return l.WritePing(binary.BigEndian.AppendUint64(nil, number))
}
