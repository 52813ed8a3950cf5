package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/signal"
	"github.com/iii-go/iii/internal/wsconn"
)

// Version is this module's version. The client reports it to the engine.
const Version = "0.1.0"

// Client is a worker. It maintains a single connection to the engine until it is closed. The
// zero value is not usable; use [New]. All methods are safe for concurrent use, including from
// handlers, with one exception: a handler must not wait for [Client.Shutdown], because
// Shutdown waits for handlers.
type Client struct {
	cfg       *config
	name      string
	named     bool   // the name was set by the program or its environment
	free      func() // releases the name
	log       *slog.Logger
	out       *sendQueue
	registry  *registry
	dispatch  *dispatcher
	hosts     *hosting
	reports   *reports
	providers *providers
	callbacks *callbackQueue
	tracing   *tracing        // nil if telemetry is disabled
	metrics   *handlerMetrics // nil if telemetry or its metrics are disabled

	unnamedOnce sync.Once // for the warning about an unnamed worker with subscribers

	channels channelSet

	handlers       context.Context // parent of every handler's context
	cancelHandlers context.CancelFunc
	stopping       chan struct{} // closed when draining begins
	done           chan struct{} // closed once the client is closed

	mu         sync.Mutex
	state      ConnectionState
	draining   bool
	ended      bool
	err        error // the fatal error that ended the client
	workerID   string
	features   []string           // listed by the connected engine; nil before its hello
	identities []identity         // connections that the engine may still consider open, latest last
	wasReady   bool               // the client has been connected at least once
	warned     bool               // the first failed connection attempt has been logged, or need not be
	ready      chan struct{}      // closed while connected; otherwise open
	lastError  error              // of the last attempt to connect
	stop       context.CancelFunc // stops the supervisor; nil if none is running
	supervised chan struct{}      // closed when the supervisor has stopped
	connecting int                // number of waiting Connect calls
	reconnects uint64

	tokenWarning sync.Once

	inTelemetry         atomic.Bool // counted in Telemetry.clients
	closing             atomic.Bool // a Close frame has been sent, so the link ends intentionally
	received, malformed atomic.Uint64
	localCalls          atomic.Uint64
}

// New returns a client for the engine at address, which is a ws, wss, http or https URL. If
// address is "", New uses $III_URL, or [DefaultURL] if $III_URL is not set. New validates
// every option and performs no I/O; use [Client.Connect] or [Client.Run] to connect.
// Registrations and calls are accepted immediately and are sent once the client is connected.
//
// If $III_TOKEN is set, the worker authenticates with it as a bearer token on every
// connection, unless [WithHeader] or the address provides credentials. The token must be
// printable ASCII.
func New(address string, opts ...Option) (*Client, error) {
	cfg, err := newConfig(address, opts)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg:       cfg,
		log:       cfg.logger,
		out:       newSendQueue(cfg.bufferMessages, cfg.bufferBytes, cfg.sendPolicy),
		callbacks: &callbackQueue{log: func() *slog.Logger { return cfg.logger }},
		stopping:  make(chan struct{}),
		done:      make(chan struct{}),
		ready:     make(chan struct{}),
		state:     ConnectionStateDisconnected,
	}
	c.name, c.free = workerName(cfg.name)
	c.named = cfg.name != "" || strings.TrimSpace(os.Getenv("III_WORKER_NAME")) != ""
	c.registry = newRegistry(c)
	c.hosts = &hosting{client: c}
	c.reports = newReports(c)
	c.dispatch = &dispatcher{limit: cfg.maxConcurrency, run: c.execute}
	c.handlers, c.cancelHandlers = context.WithCancel(context.Background())
	c.providers = newProviders(c)
	c.startTelemetry()
	c.dispatch.timed = c.metrics != nil
	return c, nil
}

// names tracks the names of this process's clients, because the engine accepts each name only
// once.
var names = struct {
	sync.Mutex
	hosts int            // number of clients named after host and process so far
	taken map[string]int // number of open clients by name, for names taken from the environment
}{taken: map[string]int{}}

// workerName returns a new worker's name. free releases the name.
func workerName(explicit string) (name string, free func()) {
	if explicit != "" {
		return explicit, func() {}
	}
	names.Lock()
	defer names.Unlock()
	if env := strings.TrimSpace(os.Getenv("III_WORKER_NAME")); env != "" {
		name = env
		for n := 2; names.taken[name] > 0; n++ {
			name = env + ":" + strconv.Itoa(n)
		}
		names.taken[name]++
		return name, func() {
			names.Lock()
			defer names.Unlock()
			if names.taken[name]--; names.taken[name] == 0 {
				delete(names.taken, name)
			}
		}
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	names.hosts++
	name = host + ":" + strconv.Itoa(os.Getpid())
	if names.hosts > 1 {
		name += ":" + strconv.Itoa(names.hosts)
	}
	return name, func() {}
}

// Connect connects to the engine and returns nil once the engine has accepted this worker and
// all registrations made so far. It retries according to [WithReconnection] until ctx is done;
// the error then wraps ctx.Err() and the last failure. If the engine rejects the worker,
// Connect closes the client and immediately returns the rejection: a *[RejectedError], an
// *[AuthError], or the *[Error] that the engine returned for the worker's registration. A
// function that another worker owns does not make Connect fail; see [Function.Err].
// If the client is shut down or closed in the meantime, Connect returns [ErrClosed].
//
// After Connect has succeeded, ctx has no further effect. The client stays connected,
// reconnecting as needed, until Shutdown, Close or a fatal error. If the client is already
// connected, Connect only waits for the registrations that the engine has not answered yet. If
// there are none, it returns nil immediately. If an engine accepts the connection but does not
// respond to the worker's registration within 10 s, the client logs a warning and uses the
// connection anyway.
func (c *Client) Connect(ctx context.Context) error {
	c.mu.Lock()
	if c.ended || c.draining {
		c.mu.Unlock()
		return c.endError()
	}
	if c.stop == nil {
		run, stop := context.WithCancelCause(context.Background())
		c.stop = func() { stop(ErrClosed) }
		previous, ended := c.supervised, make(chan struct{})
		c.supervised = ended
		go c.supervise(run, previous, ended)
	}
	c.connecting++
	c.mu.Unlock()

	connected, gaveUp, err := c.awaitRegistered(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.connecting--
	if !gaveUp {
		return err
	}
	switch {
	case c.draining: // Shutdown may still need the connection
		return fmt.Errorf("iii: connect: %w; the client is shutting down", err)
	case connected:
		return fmt.Errorf("iii: connect: %w; the engine has not answered all registrations yet", err)
	case c.lastError != nil:
		err = public(fmt.Errorf("connect: %w; last attempt: %w", err, c.lastError))
	case c.out.attached():
		err = fmt.Errorf("iii: connect: %w; %s has taken the connection, and not yet the worker: is it the engine's port for workers?", err, c.cfg.URL.Host)
	default:
		err = fmt.Errorf("iii: connect: %w; %s has not answered yet", err, c.cfg.URL.Host)
	}
	if !c.wasReady && c.connecting == 0 && c.stop != nil {
		// No other Connect is waiting for the first connection, so stop trying.
		stop, supervised := c.stop, c.supervised
		c.stop = nil
		c.mu.Unlock()
		stop()
		<-supervised
		c.mu.Lock()
	}
	return err
}

// awaitRegistered waits until the client is connected and the engine has accepted or rejected
// all registrations, including those made on this connection. If the client is closed first, or
// is already shutting down, awaitRegistered returns the reason once the client is closed. If ctx
// is done first, gaveUp is true and connected reports whether the client was connected.
func (c *Client) awaitRegistered(ctx context.Context) (connected, gaveUp bool, err error) {
	for {
		next := c.registry.unsettled()
		c.mu.Lock()
		ready, draining := c.ready, c.draining // a shutdown withdraws registrations after it has set draining
		c.mu.Unlock()
		connected = signal.IsClosed(ready)
		if connected && next == nil && !draining { // takes precedence over an ended context
			return true, false, nil
		}
		var wait <-chan struct{} = ready
		switch {
		case draining:
			wait = nil // only the end of the client can follow
		case connected:
			wait = next
		}
		select {
		case <-wait:
		case <-c.done:
			if err := c.Err(); err != nil { // the reason, and not its consequence, comes first
				return connected, false, rejection{public(err)}
			}
			return connected, false, ErrClosed
		case <-ctx.Done():
			if !signal.IsClosed(wait) {
				return connected, true, ctxError(ctx)
			}
		}
	}
}

// rejection is the fatal error that stopped the client while Connect was waiting. It also
// matches ErrClosed.
type rejection struct{ error }

func (r rejection) Unwrap() []error { return []error{r.error, ErrClosed} }

// endError returns the error for operations on a closed client.
func (c *Client) endError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return public(fmt.Errorf("%w: %w", ErrClosed, c.err))
	}
	return ErrClosed
}

// supervise maintains a connection until ctx is done or the engine rejects the worker. It
// starts once the previous supervisor has stopped.
func (c *Client) supervise(ctx context.Context, previous <-chan struct{}, ended chan<- struct{}) {
	if previous != nil {
		<-previous
	}
	c.joinTelemetry()
	stopGauges := c.startGauges()
	err := c.keepConnected(ctx)
	stopGauges()
	c.leaveTelemetry()
	if err == nil {
		c.setState(ConnectionStateDisconnected, nil)
	}
	close(ended)
	if err != nil {
		c.terminate(err)
	}
}

// fatalError is a failure after which the client does not reconnect.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// closedBy returns ErrClosed, with the reason if there is one.
func closedBy(reason error) error {
	if reason == nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, reason)
}

// nameHeldError means that another worker still holds this worker's name.
type nameHeldError struct{ error }

func (e nameHeldError) Unwrap() error { return e.error }

// keepConnected connects, serves the connection until it ends, and reconnects. It returns nil
// if ctx is done, and the fatal error otherwise.
func (c *Client) keepConnected(ctx context.Context) error {
	failed := false
	var turn time.Duration // delay between attempts to get this worker's name; 0 while the name is not contested
	redial := c.cfg.redial()
	redial.Connect = func(ctx context.Context) wsconn.Attempt {
		c.mu.Lock()
		state := ConnectionStateConnecting
		if c.wasReady || failed || turn > 0 {
			state = ConnectionStateReconnecting
		}
		c.mu.Unlock()
		c.setState(state, nil)
		wasReady := false
		var fatal error
		l, err := c.dial(ctx)
		if err == nil {
			l.nameFirst = turn > 0
			wasReady, fatal, err = c.serve(ctx, l)
		}
		switch {
		case fatal != nil:
			return wsconn.Attempt{Stop: true, Err: fatal}
		case ctx.Err() != nil || c.closing.Load():
			return wsconn.Attempt{Stop: true}
		}
		c.mu.Lock()
		c.lastError = err
		c.mu.Unlock()
		var held nameHeldError
		if errors.As(err, &held) {
			if turn == 0 || wasReady {
				c.log.Warn("iii: waiting for the name of this worker", "error", held.error)
				c.setState(ConnectionStateReconnecting, held.error)
			}
			var delay time.Duration
			turn, delay = takeoverTurn(turn)
			return wsconn.Attempt{Err: err, Delay: delay}
		}
		failed = true
		if wasReady {
			turn = 0
		}
		return wsconn.Attempt{Err: err, Held: wasReady}
	}
	redial.Retry = func(err error, retryIn time.Duration) {
		err = public(err)
		c.log.Warn("iii: not connected", "error", err, "retry_in", retryIn)
		c.warnOnce(err)
		c.setState(ConnectionStateReconnecting, err)
	}
	return public(redial.Run(ctx))
}

// warnOnce logs the first failed connection attempt to slog's default logger if the client has
// no logger. It runs on the callback goroutine, because the default handler may be user code.
func (c *Client) warnOnce(err error) {
	c.mu.Lock()
	skip := c.cfg.loggerSet || c.wasReady || c.warned
	c.warned = true
	c.mu.Unlock()
	if !skip {
		c.callbacks.post(func() {
			warnByDefault("iii: not connected; the client keeps trying, and logs more with WithLogger", "error", err)
		})
	}
}

// warnOfToken warns that the token is sent to the engine unencrypted. It logs to the same
// loggers as warnOnce.
func (c *Client) warnOfToken() {
	if !c.cfg.exposesToken() {
		return
	}
	const message = "iii: the token in $III_TOKEN is sent to the engine unencrypted; use wss"
	if c.cfg.loggerSet {
		c.log.Warn(message, "engine", c.cfg.URL.Host)
	} else {
		c.callbacks.post(func() { warnByDefault(message, "engine", c.cfg.URL.Host) })
	}
}

// Run is the main loop of a worker program. It connects, serves until ctx is done, and shuts
// down as [Client.Shutdown] does, within the time limit set by [WithDrainTimeout]. It then
// returns nil unless the shutdown fails. If the client is already connected, Run only serves
// and shuts down.
//
// If ctx is canceled (for example, by a signal) before the client has connected, Run logs the
// reason, closes the client and returns nil. If the deadline of ctx passes before the client
// has connected, or if a fatal error closes the client, Run returns the reason. A failure to
// deliver telemetry during shutdown is logged but not returned.
func (c *Client) Run(ctx context.Context) error {
	if err := c.Connect(ctx); err != nil {
		if ctx.Err() != context.Canceled || !errors.Is(err, context.Canceled) {
			return err
		}
		c.log.WarnContext(ctx, "iii: the context ended before the client was connected", "error", err)
		return c.Close()
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	if signal.IsClosed(c.done) { // a fatal error takes precedence
		return c.Err()
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.drainTimeout)
	defer cancel()
	err, _ := c.shutdown(drain)
	return err
}

// Shutdown closes the client gracefully. It unregisters triggers and functions, rejects queued
// invocations with the error code worker_draining, waits for running handlers and sends their
// results, flushes telemetry, and closes the connection. Running handlers can still make
// calls. Shutdown does not wait for calls made outside of handlers. If ctx is done first,
// Shutdown closes the client as [Client.Close] does; the error and the log then list the
// functions whose handlers are still running, with the number of running handlers for each
// function. Concurrent and later calls wait until the client is closed.
//
// Once no handler is running, further calls and messages fail with [ErrClosed]. Shutdown then
// waits up to 2 s for the engine to confirm sent messages, and up to 5 s for a connection on
// which to send buffered ones. Messages from [Client.Send] that remain unconfirmed or unsent are
// counted in [ClientStats] and reported in the error. The error also reports undelivered
// telemetry. Shutdown waits for telemetry for at most [OtelConfig].ShutdownTimeoutMs. If telemetry
// has no connection, Shutdown waits for at most 3 s, or not at all if other connected clients
// share the [Telemetry]. Undelivered telemetry stays in the queue of its Telemetry.
func (c *Client) Shutdown(ctx context.Context) error {
	err, telemetry := c.shutdown(ctx)
	if err == nil {
		err = telemetry
	}
	return err
}

// shutdown implements Shutdown. It logs the error from flushing telemetry and returns it
// separately.
func (c *Client) shutdown(ctx context.Context) (err, telemetry error) {
	c.mu.Lock()
	first, connecting := !c.draining, c.stop != nil
	if first {
		c.draining = true
		close(c.stopping)
	}
	c.mu.Unlock()
	if !first {
		if waitClosed(ctx, c.done) {
			return nil, nil
		}
		err = fmt.Errorf("shutdown: %w", ctxError(ctx))
		if running := c.dispatch.describeRunning(); running != "" {
			err = fmt.Errorf("%w; handlers still running: %s", err, running)
		}
		c.terminate(nil)
		return public(err), nil
	}
	c.dispatch.drain()
	undelivered := c.out.undelivered()
	c.registry.unregisterAll(ErrClosed)
	for _, in := range c.dispatch.takeWaiting() {
		c.turnAway(in, CodeWorkerDraining)
	}
	if err = c.dispatch.waitQuiet(ctx); err != nil {
		if running := c.dispatch.describeRunning(); running != "" {
			c.log.Warn("iii: the drain ended before its handlers", "handlers", running)
			err = fmt.Errorf("%w; handlers still running: %s", err, running)
		}
	}
	began := time.Now()
	if err == nil && connecting {
		err = c.flushReports(ctx)
	}
	if err == nil && connecting {
		c.out.end(ErrClosed) // a request after the fence would stay unconfirmed
		err = c.out.flush(ctx)
	}
	c.registry.unregisterFunctions()
	if ctx.Err() == nil {
		limit := telemetryAwayTimeout
		if !c.out.serving() { // waiting for a disconnected engine takes at most awayTimeout in total
			limit = min(limit, awayTimeout-time.Since(began))
		}
		telemetry = c.flushTelemetry(ctx, limit)
		if l := c.registry.attached(); l != nil {
			c.closing.Store(true)
			l.Close(ctx)
		}
	}
	c.terminate(nil)
	switch n := c.out.undelivered() - undelivered; {
	case n > 0 && err != nil:
		err = fmt.Errorf("%w; Send messages that may be lost: %d", err, n)
	case n > 0:
		err = fmt.Errorf("Send messages that may be lost: %d", n)
	}
	if err != nil {
		err = public(fmt.Errorf("shutdown: %w", err))
	}
	if telemetry != nil {
		telemetry = public(fmt.Errorf("shutdown: %w", telemetry))
		c.log.Warn("iii: telemetry was not delivered", "error", telemetry)
	}
	return err, telemetry
}

// flushReports waits until the queued reports of local calls have been sent. It does not wait
// while the client is disconnected, or for reports on functions that the engine has not
// confirmed.
func (c *Client) flushReports(ctx context.Context) error {
	select {
	case <-c.reports.drain():
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// Close closes the client immediately. It cancels the contexts of running handlers, fails
// pending calls, and drops and counts buffered messages. Close returns when the client's
// goroutines have exited, except that it waits only briefly for handlers, because they may
// ignore their context. Close may be called more than once and always returns nil.
func (c *Client) Close() error {
	c.terminate(nil)
	return nil
}

// handlerGrace is how long Close waits for handlers to notice that their context is canceled.
// The wait is short because Close may itself have been called by a handler.
const handlerGrace = 40 * time.Millisecond

// terminate closes the client. Only the first call has an effect; reason is nil unless a fatal
// error occurred.
func (c *Client) terminate(reason error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		<-c.done
		return
	}
	c.ended = true
	c.err = reason
	if !c.draining {
		c.draining = true
		close(c.stopping)
	}
	stop, supervised := c.stop, c.supervised
	c.mu.Unlock()

	c.out.end(closedBy(reason))
	c.dispatch.drain()
	c.registry.unregisterAll(ErrClosed)
	c.cancelHandlers()
	c.channels.close()
	if stop != nil {
		stop()
	}
	if supervised != nil {
		<-supervised
	}
	if dropped := c.out.close(); dropped > 0 {
		c.log.Warn("iii: messages were never sent", "count", dropped)
	}
	if reason == nil {
		c.setState(ConnectionStateDisconnected, nil)
	} else {
		c.setState(ConnectionStateFailed, reason)
	}
	c.free()
	c.awaitCallbacks()
	close(c.done)
}

// awaitCallbacks waits briefly for user code to return.
func (c *Client) awaitCallbacks() {
	abandonLocal(c.dispatch.takeWaiting(), fmt.Errorf("%w: %w", ErrNotConnected, ErrClosed))
	c.reports.close()
	handlers, providers, callbacks, hooks := c.dispatch.close(), c.providers.close(), c.callbacks.idle(), c.hosts.close()
	timer := time.NewTimer(handlerGrace)
	defer timer.Stop()
	for handlers != nil || providers != nil || callbacks != nil || hooks != nil {
		select {
		case <-handlers:
			handlers = nil
		case <-providers:
			providers = nil
		case <-callbacks:
			callbacks = nil
		case <-hooks:
			hooks = nil
		case <-timer.C:
			c.log.Warn("iii: the client closed before its handlers and callbacks returned", "handlers", c.dispatch.describeRunning())
			return
		}
	}
}

// State returns the connection's state:
//
//   - [ConnectionStateDisconnected] before Connect, after Connect has given up, and after
//     Close or Shutdown
//   - [ConnectionStateConnecting] or [ConnectionStateReconnecting] while the client is trying
//     to connect
//   - [ConnectionStateConnected] once the engine has accepted this worker and processed its
//     registrations
//   - [ConnectionStateFailed] after a fatal error
func (c *Client) State() ConnectionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// WorkerID returns the id that the engine has assigned to the current connection or, while
// disconnected, to the latest one. It returns "" before the first connection. Each connection
// has a different id.
func (c *Client) WorkerID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workerID
}

// Features returns the features that the connected engine supports, such as
// [FeatureObserveV2]. It returns nil while disconnected and before the engine's hello message
// has arrived, and an empty slice if the engine lists no features (versions up to 0.24). The
// features may change after a reconnect. The caller owns the slice.
func (c *Client) Features() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.features)
}

// Name returns the name this worker is registered under.
func (c *Client) Name() string { return c.name }

// Namespace returns the worker's namespace; "" means the default namespace.
func (c *Client) Namespace() string { return c.cfg.namespace }

// Done returns a channel that is closed once the client has been closed by Shutdown, Close or
// a fatal error.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns the fatal error that closed the client. It returns nil while the client is
// running and after Close or Shutdown.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// setState changes the state and notifies the listener; err is the cause of the change.
func (c *Client) setState(s ConnectionState, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changeState(s, err)
}

// changeState is like setState, but the caller holds c.mu.
func (c *Client) changeState(s ConnectionState, err error) {
	if c.state == s && err == nil {
		return
	}
	c.state = s
	c.notifyListener(s, err)
}

// notifyListener schedules a call to the state listener. The caller holds c.mu, which keeps
// the notifications in order.
func (c *Client) notifyListener(s ConnectionState, err error) {
	if c.cfg.listener != nil {
		c.callbacks.post(func() { c.cfg.listener(s, err) })
	}
}

// reportError passes an error to the listener without changing the state.
func (c *Client) reportError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notifyListener(c.state, err)
}

// ClientStats holds a client's statistics. The fields of type uint64 are counters, which start
// at zero in a new client. The other fields are current values.
type ClientStats struct {
	FramesSent      uint64 // messages passed to the network
	FramesReceived  uint64 // messages read
	BytesSent       uint64 // total size of the messages passed to the network
	FramesMalformed uint64 // received messages that could not be decoded
	Reconnects      uint64 // connections established after the first one

	CallsInFlight     int // calls waiting for their result or for room in the buffer, except those that run in process
	HandlersRunning   int // running handlers
	InvocationsQueued int // invocations waiting for a free handler slot
	Buffered          int // requests waiting for a connection
	BufferedBytes     int // total size of these requests

	SendsConfirmed uint64 // Send messages that the engine has confirmed reading
	SendsUnknown   uint64 // Send messages that were written but unconfirmed when the connection was lost
	SendsDropped   uint64 // Send messages that were buffered while disconnected and not sent before the client ended
	RepliesDropped uint64 // results not sent because their connection was lost
	LateResults    uint64 // results that arrived after the call had ended
	Overloaded     uint64 // invocations rejected because too many were queued

	LocalCalls        uint64 // calls to this worker's own functions that ran in process
	ReportsDropped    uint64 // local calls that matched an observer but were not reported to the engine
	HeldFramesDropped uint64 // calls, Send messages and removals of observers (not of triggers) dropped because the engine of a new connection does not support them
	FunctionsRefused  int    // functions currently held by another worker ([Function.Err])
}

// Stats returns a snapshot of the client's statistics. The fields are not read atomically as a
// group.
func (c *Client) Stats() ClientStats {
	s := &c.out.stats
	stats := ClientStats{
		FramesSent:     s.framesSent.Load(),
		BytesSent:      s.bytesSent.Load(),
		SendsConfirmed: s.sendsConfirmed.Load(),
		SendsUnknown:   s.sendsLost.Load(),
		SendsDropped:   s.sendsDropped.Load(),
		RepliesDropped: s.repliesDropped.Load(),
		LateResults:    s.lateResults.Load(),
		Overloaded:     c.dispatch.overloaded.Load(),
		FramesReceived: c.received.Load(),

		LocalCalls:        c.localCalls.Load(),
		ReportsDropped:    c.reports.total.Load(),
		HeldFramesDropped: s.heldDropped.Load(),
	}
	stats.FunctionsRefused = c.registry.refusedFunctions()
	stats.CallsInFlight, stats.Buffered, stats.BufferedBytes = c.out.counts()
	stats.HandlersRunning, stats.InvocationsQueued = c.dispatch.counts()
	stats.FramesMalformed = c.malformed.Load()
	c.mu.Lock()
	stats.Reconnects = c.reconnects
	c.mu.Unlock()
	return stats
}

// Ready returns nil if this worker is serving everything it has registered: it is connected
// and not draining, and the engine has accepted every function and trigger. Otherwise, the
// error joins all reasons; functions and triggers appear in order of registration. Reasons
// include [ErrNotConnected] (with the latest failure), [ErrDraining], [ErrClosed], the
// *[RejectedError] of each function that another worker holds, and the *[Error] of each
// rejected trigger.
//
// A registration to which the engine has not responded yet is also a reason. A trigger is
// considered accepted even if no worker provides its type or if its function belongs to
// another worker. An observer in [ObserverStateError] is a reason, but an observer in
// [ObserverStatePending] or [ObserverStateSuspended] is not.
//
// Ready does not block. [Client.ReadyHandler] serves its result over HTTP.
func (c *Client) Ready() error {
	return c.readiness().err()
}

// Draining reports whether the client has begun to shut down: [Client.Shutdown] or
// [Client.Close] was called, the context of [Client.Run] is done, or a fatal error occurred.
// Once true, it stays true. A handler can instead wait on the channel that [Stopping] returns.
func (c *Client) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// ReadyHandler returns a handler for an orchestrator's readiness probe. The status is 200 if
// [Client.Ready] returns nil and 503 otherwise. The body has the form
//
//	{"ready":false,"standby":["orders::create"],"reasons":["…"]}
//
// The status is also 200 if the only reasons are functions that another live worker holds and
// triggers that are waiting for those functions; "ready" is then false, and "standby" lists
// the ids of the functions. In a rolling update, the old instance holds its functions until it
// shuts down, and an orchestrator that waited for the new instance to become ready would never
// stop the old one. With ?strict=1, the status is 503 even in this case.
//
// The reasons name functions, triggers and workers, so serve the handler on an internal port.
// The handler accepts GET and HEAD and is safe for concurrent use. It may be created at any
// time.
func (c *Client) ReadyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := c.readiness()
		answer := struct {
			Ready   bool     `json:"ready"`
			Standby []string `json:"standby"`
			Reasons []string `json:"reasons"`
		}{len(state.reasons) == 0, append([]string{}, state.standby...), []string{}}
		for _, reason := range state.reasons {
			answer.Reasons = append(answer.Reasons, unprefixed(reason))
		}
		strict, _ := strconv.ParseBool(strings.TrimSpace(r.URL.Query().Get("strict")))
		probe(w, r, answer.Ready || !strict && !state.blocked, answer)
	})
}

// LiveHandler returns a handler for an orchestrator's liveness probe. The status is 200 until
// the client is closed, and 503 afterward. The body is {"live":true} or
// {"live":false,"reason":"…"}. A disconnected or draining client is live, because a restart
// would not help. The handler accepts GET and HEAD.
func (c *Client) LiveHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := struct {
			Live   bool   `json:"live"`
			Reason string `json:"reason,omitempty"`
		}{Live: true}
		select {
		case <-c.done:
			answer.Live, answer.Reason = false, unprefixed(c.endError())
		default:
		}
		probe(w, r, answer.Live, answer)
	})
}

// probe responds to a readiness or liveness probe.
func probe(w http.ResponseWriter, r *http.Request, good bool, answer any) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil { // strings and booleans always encode
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !good {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n')) // ignore a prober that has disconnected; net/http sends no body for HEAD
}

// readiness collects the reasons why a client is not ready.
type readiness struct {
	reasons []error
	standby []string // ids of functions held by another live worker
	blocked bool     // there is a reason that is not in standby
}

func (r *readiness) add(reason error) {
	r.reasons, r.blocked = append(r.reasons, public(reason)), true
}

// hold adds a reason that concerns a function held by another live worker.
func (r *readiness) hold(functionID string, reason error) {
	r.reasons = append(r.reasons, public(reason))
	for _, id := range r.standby {
		if id == functionID {
			return
		}
	}
	r.standby = append(r.standby, functionID)
}

func (r *readiness) err() error { return errors.Join(r.reasons...) }

func (c *Client) readiness() *readiness {
	state := &readiness{}
	c.mu.Lock()
	ended, draining, connected, cause := c.ended, c.draining, c.state == ConnectionStateConnected, c.lastError
	c.mu.Unlock()
	switch {
	case ended:
		state.add(c.endError())
		return state
	case draining:
		state.add(fmt.Errorf("not ready: %w", ErrDraining))
	}
	switch {
	case connected:
	case cause != nil:
		state.add(fmt.Errorf("%w: %w", ErrNotConnected, cause))
	default:
		state.add(ErrNotConnected)
	}
	if !draining { // a draining client is removing its registrations
		c.registry.addReasons(state, connected)
	}
	return state
}

// addReasons adds a reason for each registration that the engine has rejected and, while the
// client is connected, for each one that the engine has not accepted yet.
func (r *registry) addReasons(state *readiness, connected bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, f := range r.functions {
		refusal := f.refused.Load()
		switch {
		case f.quiet && refusal != nil && refusal.Code == CodeUnsupported: // an engine with triggers does not need this function
		case refusal != nil && refusal.OwnerWorkerID != "":
			state.hold(f.id, refusal)
		case refusal != nil:
			state.add(refusal)
		case connected && f.standing != accepted:
			state.add(fmt.Errorf("function %q: the engine has not answered the registration yet", f.id))
		}
	}
	for _, t := range r.triggers {
		if o := t.observer; o != nil {
			if o.state == ObserverStateError {
				state.add(fmt.Errorf("observer %q with target %s: %w", t.id, t.functionID, o.reason))
			}
			continue
		}
		refusal, f := t.refused.Load(), r.target(t)
		switch {
		case refusal != nil && t.contested && r.ownRival(t) == nil:
			state.hold(t.functionID, fmt.Errorf("trigger %q of %s: another worker holds its route or id: %w", t.id, t.functionID, refusal))
		case refusal != nil:
			state.add(fmt.Errorf("trigger %q of %s: %w", t.id, t.functionID, refusal))
		case !connected:
		case !t.sent && f != nil && (f.refused.Load() != nil && f.refused.Load().OwnerWorkerID != "" || f.standing == accepted):
			state.hold(t.functionID, fmt.Errorf("trigger %q of %s waits for the previous owner of the function to leave", t.id, t.functionID))
		case !t.sent || t.standing != accepted:
			state.add(fmt.Errorf("trigger %q of %s: the engine has not answered the registration yet", t.id, t.functionID))
		}
	}
}

// callbackQueue runs user callbacks one at a time, in order and without holding locks. Its
// goroutine runs only while there are callbacks.
type callbackQueue struct {
	log func() *slog.Logger

	mu      sync.Mutex
	queue   fifo.Queue[func()]
	dropped int // number of callbacks dropped because the queue was full
	running bool
	quiet   signal.Broadcast // sent when no callback is running or waiting
}

// maxCallbacks limits how many callbacks may wait while another is running. Without a limit,
// an engine could make the queue grow indefinitely.
const maxCallbacks = 10_000

func (n *callbackQueue) post(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue.Len() >= maxCallbacks {
		n.dropped++ // logged later, because the caller may hold one of the client's locks
		return
	}
	n.queue.Push(f)
	if !n.running {
		n.running = true
		go n.run()
	}
}

func (n *callbackQueue) run() {
	ended := false
	defer func() {
		if !ended { // a callback called runtime.Goexit
			go n.run()
		}
	}()
	for {
		n.mu.Lock()
		if n.queue.Len() == 0 {
			n.running, n.queue = false, fifo.Queue[func()]{}
			n.quiet.Send()
			n.mu.Unlock()
			ended = true
			return
		}
		f := n.queue.Pop()
		dropped := n.dropped
		n.dropped = 0
		n.mu.Unlock()
		if dropped > 0 {
			n.log().Error("iii: callbacks dropped because an earlier one did not return", "dropped", dropped)
		}
		n.call(f)
	}
}

func (n *callbackQueue) call(f func()) {
	defer func() {
		if p := recover(); p != nil {
			n.log().Error("iii: callback panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// idle returns a channel that is closed when no callback is running or waiting.
func (n *callbackQueue) idle() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	quiet := n.quiet.Wait()
	if !n.running {
		n.quiet.Send()
	}
	return quiet
}
