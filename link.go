package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/signal"
	"github.com/iii-go/iii/internal/wsconn"
)

// registerTimeout limits how long a new link waits for each of the engine's first responses.
const registerTimeout = 10 * time.Second

// link is one connection to the engine. It is not reused after the connection ends.
type link struct {
	*wsconn.Conn
	client *Client

	// handlers is the parent context of invocations that arrive on this link.
	handlers context.Context
	cancel   context.CancelCauseFunc

	chosen     atomic.Pointer[dialect] // nil before the engine's hello
	registerID invocationID
	nameFirst  bool          // wait until the engine has accepted this worker's name before registering anything
	accepted   chan struct{} // closed when the engine's hello arrives
	registered chan error    // capacity 1; receives the result of engine::workers::register
	applied    chan struct{} // closed when the engine has processed the registrations

	batch []item // only used by the writer

	// Guarded by sendQueue.mu.
	fences         []fence
	sendsTaken     uint64 // number of Sends passed to the writer
	sendsConfirmed uint64 // how many of these the engine has read
	confirming     bool   // a fence that confirms Sends is outstanding
}

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

// dialect returns this connection's dialect, or the oldest dialect if the engine's hello has
// not arrived yet.
func (l *link) dialect() dialect {
	if d := l.chosen.Load(); d != nil {
		return *d
	}
	return triggerDialect{}
}

// choose sets the dialect if it is not set yet, and reports whether it did so.
func (l *link) choose(d dialect) bool { return l.chosen.CompareAndSwap(nil, &d) }

// start starts the read and write loops and the keepalive. They run until the connection ends.
func (l *link) start(ctx context.Context) {
	l.Start(ctx, wsconn.Loops{
		Read:         func(_ int, message []byte) error { l.client.receive(l, message); return nil },
		Write:        l.write,
		PingInterval: l.client.cfg.pingInterval,
		IdleTimeout:  l.client.cfg.idleTimeout,
	})
}

func (l *link) write() (wrote bool, err error) {
	out := l.client.out
	l.batch = out.take(l, l.batch[:0])
	bytes := 0
	for _, it := range l.batch {
		if it.req != nil {
			seal(it.buf, l.dialect(), &it.req.inv)
		}
		if it.buf != nil {
			bytes += it.buf.len()
		}
	}
	if n, err := out.takeRefused(); n > 0 {
		l.client.reportDropped(n, err)
	}
	if len(l.batch) == 0 {
		return false, nil
	}
	// Count the messages first, because a result may arrive before Flush returns.
	out.stats.framesSent.Add(uint64(len(l.batch)))
	out.stats.bytesSent.Add(uint64(bytes))
	if err = l.writeBatch(); err == nil {
		out.written(l, l.batch, nil)
		return true, nil
	}
	out.written(l, l.batch, fmt.Errorf("%w: %w", ErrConnectionLost, err))
	if l.isApplied() {
		l.Fail(err) // not a rejection by the engine
	}
	return true, err
}

func (l *link) writeBatch() error {
	for _, it := range l.batch {
		var message []byte
		switch it.kind {
		case frameText:
			message = it.buf.bytes()
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

// isApplied reports whether the engine has processed the registrations.
func (l *link) isApplied() bool { return signal.IsClosed(l.applied) }

// serve runs a link until it ends and returns the cause. wasReady reports whether the engine
// had accepted the registrations. If the client ends with the link, fatal is the reason.
func (c *Client) serve(ctx context.Context, l *link) (wasReady bool, fatal, err error) {
	c.out.attach(l, c.registry.firstFence())
	c.out.pushNoWait(l, c.reattachments()...)
	l.start(ctx)
	wasReady = c.maintain(l)
	err = l.Wait()
	var f fatalError
	if errors.As(err, &f) && ctx.Err() == nil && !c.closing.Load() {
		fatal = f.error
		c.out.end(closedBy(fatal)) // no request waits for another link
	}
	c.mu.Lock() // before calls fail, so that the callers see that the client is disconnected
	c.features = nil
	if wasReady {
		c.ready = make(chan struct{})
		if fatal == nil && ctx.Err() == nil && !c.closing.Load() {
			c.state = ConnectionStateReconnecting // the listener is notified when the delay is known
		}
	}
	c.mu.Unlock()
	c.registry.detach(l)
	c.reports.detach(l)
	if n := c.out.detach(l, err); n > 0 {
		c.log.Warn("iii: connection lost with unconfirmed messages", "count", n, "error", err)
		c.reportError(&LostSendsError{Count: n, Err: err})
	}
	return wasReady, fatal, err
}

// identity identifies a connection to the engine. token is the secret with which this worker
// proves that the connection is its own.
type identity struct{ workerID, token string }

// maxIdentities limits how many earlier connections a link replaces.
const maxIdentities = 16

// reportDropped logs and reports that n buffered Send messages cannot be sent to the connected
// engine.
func (c *Client) reportDropped(n int, err error) {
	c.log.Warn("iii: messages cannot be sent to this engine", "count", n, "error", err)
	c.reportError(public(fmt.Errorf("%d messages of Send were dropped: %w", n, err)))
}

// reattachments returns the first messages of a link. They identify the earlier connections
// that the link replaces, so that the engine releases their functions and this worker's name.
// They cover every connection that the engine may still consider open, because later links may
// have ended before the engine read their first messages. The engine handles the link's other
// messages only after it has released these connections.
func (c *Client) reattachments() (items []item) {
	c.mu.Lock()
	identities := c.identities
	c.mu.Unlock()
	for _, old := range identities {
		items = append(items, c.item(ReattachMessage{PreviousWorkerID: old.workerID, ReattachToken: old.token}))
	}
	return items
}

// registerWorker registers this worker and then everything the program has registered. If the
// engine is likely to reject the worker's name, only the worker is registered. registerWorker
// runs after the engine's hello, if one arrives in time. Only with the identity in the hello
// can a later connection replace this one and take over its name.
func (c *Client) registerWorker(l *link) {
	b := newBuffer()
	inv := invocation{id: l.registerID, functionID: registerWorkerFunction}
	if err := encodeCall(b, &inv, c.metadata(l.dialect())); err != nil {
		c.log.Error("iii: worker metadata does not encode", "error", err)
	}
	seal(b, l.dialect(), &inv)
	if l.nameFirst {
		c.out.pushNoWait(l, item{buf: b})
		return
	}
	c.registry.attach(l, item{buf: b})
}

// workerRegistered is called once the engine has processed this worker's registration. It
// sends the program's registrations, unless registerWorker has already sent them.
func (c *Client) workerRegistered(l *link) {
	if c.registry.attached() != l {
		c.registry.attach(l)
	}
	c.registry.settled(l)
}

// setIdentity records the identity that the engine has assigned to l.
func (c *Client) setIdentity(l *link, m *WorkerRegisteredMessage) {
	c.mu.Lock()
	c.workerID = m.WorkerID
	c.features = append([]string{}, m.Features...)
	if m.ReattachToken == "" { // the earlier identities are not usable either
		c.identities = nil
	} else {
		others := c.identities[max(0, len(c.identities)-maxIdentities+1):]
		c.identities = append(slices.Clone(others), identity{m.WorkerID, m.ReattachToken})
	}
	c.mu.Unlock()
	l.markAccepted()
}

// item encodes one of this package's own messages. Such a message can always be encoded.
func (c *Client) item(message any) item {
	b, err := encodeMessage(message)
	if err != nil {
		c.log.Error("iii: message does not encode", "error", err)
		return item{kind: frameJSONPong} // harmless, because the engine ignores it
	}
	return item{buf: b}
}

// workerMetadata is the input of engine::workers::register.
type workerMetadata struct {
	Runtime     string            `json:"runtime"`
	Version     string            `json:"version"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	OS          string            `json:"os"`
	PID         int               `json:"pid"`
	Isolation   string            `json:"isolation,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Telemetry   map[string]string `json:"telemetry"`
	Features    []string          `json:"features,omitempty"`
}

func (c *Client) metadata(d dialect) workerMetadata {
	m := workerMetadata{
		Runtime: "go", Version: Version, Name: c.name, Description: c.cfg.description,
		OS: runtime.GOOS + " " + runtime.GOARCH, PID: os.Getpid(),
		Isolation: c.cfg.isolation, Namespace: c.cfg.namespace,
		Telemetry: map[string]string{"language": "go", "framework": "iii-go"},
	}
	if d.observes() {
		m.Features = workerFeatures
	}
	return m
}

// maintain registers this worker on a link, and runs the link's periodic tasks until the link
// ends.
func (c *Client) maintain(l *link) (wasReady bool) {
	patience := time.NewTimer(registerTimeout)
	defer patience.Stop()
	takeover := time.NewTimer(time.Hour)
	defer takeover.Stop()
	watch := time.NewTicker(typeWatchInterval)
	defer watch.Stop()
	stats := time.NewTicker(localStatsInterval)
	defer stats.Stop()
	var watching, unwatched atomic.Bool
	requested := false
	accepted, applied := l.accepted, l.applied
	for {
		select {
		case <-l.Dead():
			return wasReady
		case <-accepted:
			// Authentication is complete, so the engine now processes requests. Restart the
			// timeout, which must not include the time spent on authentication.
			accepted = nil
			if !requested {
				requested = true
				c.registerWorker(l)
			}
			patience.Reset(registerTimeout)
		case err := <-l.registered:
			if err != nil {
				l.Fail(registerError(err))
				return wasReady
			}
			patience.Stop()
			c.workerRegistered(l)
		case <-applied:
			// The engine handles frames in order. By the time it answers the ping that was
			// sent after the triggers, it has processed all registrations and has sent the
			// triggers bound to this worker's types.
			applied = nil
			wasReady = true
			c.forgetOthers()
			c.reports.attach(l) // first, because a shutdown waits only for reports that can be sent
			c.becomeReady(l)
		case <-patience.C:
			if !requested { // the engine may not send a hello, or may still be authenticating
				requested = true
				l.choose(dialectFor(nil))
				c.registerWorker(l)
				continue
			}
			c.log.Warn("iii: the engine did not answer the registration of this worker; going on", "after", registerTimeout)
			c.workerRegistered(l)
		case <-watch.C:
			if applied == nil && !unwatched.Load() && len(c.registry.providedTypes(l)) > 0 && watching.CompareAndSwap(false, true) {
				l.Go(func() {
					defer watching.Store(false)
					if !c.watchTypes(l) {
						unwatched.Store(true)
					}
				})
			}
		case <-stats.C:
			if applied == nil {
				c.reports.sendStats(l)
			}
		case <-c.registry.wake:
			takeover.Reset(c.registry.retry(l))
			if c.registry.beginAwaiting(l) {
				l.Go(func() { c.registry.awaitOwners(l) })
			}
		case <-takeover.C:
			takeover.Reset(c.registry.retry(l))
		}
	}
}

func registerError(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Code == CodeInvocationStopped {
		return err
	}
	return fatalError{public(fmt.Errorf("the engine refused this worker's registration: %w", err))}
}

// forgetOthers discards the identities of earlier connections, because the engine has read the
// messages that replace those connections.
func (c *Client) forgetOthers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.identities); n > 1 {
		c.identities = c.identities[n-1:]
	}
}

// forgetLatest discards the current connection's identity, because the engine is closing it.
func (c *Client) forgetLatest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.identities); n > 0 {
		c.identities = slices.Clone(c.identities[:n-1])
	}
}

func (c *Client) becomeReady(l *link) {
	c.mu.Lock()
	if c.wasReady {
		c.reconnects++
	}
	c.wasReady = true
	c.lastError = nil
	c.changeState(ConnectionStateConnected, nil) // before Connect returns
	close(c.ready)
	id := c.workerID
	c.mu.Unlock()
	c.log.Info("iii: connected", "worker_id", id, "name", c.name)
}

// receive handles one message. b is reused after receive returns. A message that cannot be
// decoded is counted and logged without its content, but does not end the connection.
func (c *Client) receive(l *link, b []byte) {
	c.received.Add(1)
	var m received
	if err := m.parse(b); err != nil {
		if len(bytes.TrimSpace(b)) > 0 {
			c.undecodable(err, len(b))
		}
		return
	}
	switch m.kind {
	case messageInvoke:
		c.receiveInvoke(l, &m)
	case messageResult:
		c.receiveResult(l, &m)
	case messagePing:
		c.out.pushNoWait(l, item{kind: frameJSONPong})
	case messagePong:
		c.out.pong(l)
	case messageWorkerRegistered:
		c.receiveHello(l, b)
	case messageError:
		c.receiveError(l, b)
	default:
		known, err := l.dialect().receive(c, l, m.kind, b)
		switch {
		case err != nil:
			c.undecodable(err, len(b))
		case !known:
			c.malformed.Add(1)
			tag, _ := rawjson.Unquote(m.tag)
			c.log.Debug("iii: message of unknown type", "type", tag)
		}
	}
}

func (c *Client) undecodable(err error, size int) {
	c.malformed.Add(1)
	c.log.Warn("iii: received message does not decode", "error", err, "bytes", size)
}

// receiveInvoke passes an invocation to a handler. It copies the parts of the message that the
// handler needs into one allocation, or into two if the payload is large.
func (c *Client) receiveInvoke(l *link, m *received) {
	id := m.functionID[1 : len(m.functionID)-1]
	if bytes.IndexByte(id, '\\') >= 0 {
		text, _ := rawjson.Unquote(m.functionID)
		id = []byte(text)
	}
	f := c.registry.function(id)
	if f == nil {
		if len(m.id) > 0 {
			b := newBuffer()
			encodeError(b, l.dialect(), m.id, string(id), CodeFunctionNotFound, "this worker has no function "+string(id), "")
			l.replyNow(b)
		}
		return
	}
	var data []byte
	var memory *[]byte
	if f.recycles && len(m.data) >= minRecycled {
		memory = recyclable(m.data)
		data, m.data = *memory, nil
	} else if len(m.data) > largeBuffer { // a separate allocation, because append does not clear memory that it overwrites
		data, m.data = append([]byte(nil), m.data...), nil
	}
	own := make([]byte, 0, len(m.id)+len(m.data)+len(m.metadata)+len(m.traceparent)+len(m.baggage)+len(m.caller)+len(m.activation))
	keep := func(part []byte) []byte {
		if len(part) == 0 {
			return nil
		}
		start := len(own)
		own = append(own, part...)
		return own[start:len(own):len(own)]
	}
	in := &incoming{origin: l, function: f, id: keep(m.id), data: keep(m.data), metadata: keep(m.metadata),
		traceparent: keep(m.traceparent), baggage: keep(m.baggage), caller: keep(m.caller), activation: keep(m.activation)}
	if data != nil {
		in.data, in.memory = data[:len(data):len(data)], memory
	}
	if m.depth != nil {
		depth, _ := strconv.ParseUint(string(m.depth), 10, 32) // 0 if invalid
		in.depth = uint32(depth)
	}
	if in.activation != nil {
		in.trigger = c.registry.observed(l, f, in.activation)
	}
	if refusal := c.dispatch.submit(in, false); refusal != "" {
		c.turnAway(in, refusal)
	}
	if len(data) > largeBuffer {
		c.dispatch.yield()
	}
}

func (c *Client) receiveResult(l *link, m *received) {
	if c.out.complete(l, m) {
		return
	}
	if id, ok := parseInvocationID(m.id); !ok || id != l.registerID {
		c.out.stats.lateResults.Add(1)
		return
	}
	var answer error
	var result struct {
		Success *bool `json:"success"`
	}
	switch {
	case m.err != nil:
		answer = remoteError(m.err, registerWorkerFunction, string(m.id))
	case json.Unmarshal(m.result, &result) == nil && result.Success != nil && !*result.Success:
		answer = &Error{Code: CodeInvocationStopped, Message: "the engine did not take the registration", FunctionID: registerWorkerFunction}
	}
	select {
	case l.registered <- answer:
	default: // a result has already arrived
	}
}

// receiveHello selects the connection's dialect according to the engine's features.
func (c *Client) receiveHello(l *link, b []byte) {
	var m WorkerRegisteredMessage
	if err := json.Unmarshal(b, &m); err != nil {
		c.undecodable(err, len(b))
		return
	}
	if !l.choose(dialectFor(m.Features)) && !l.isAccepted() && len(m.Features) > 0 {
		// The worker has already been registered with the oldest dialect.
		l.Fail(errors.New("the engine's hello came too late; connecting again"))
		return
	}
	c.setIdentity(l, &m)
}

// receiveError handles an error message. An error before the hello means that the engine has
// rejected this worker. After the hello, only an authentication error ends the connection.
func (c *Client) receiveError(l *link, b []byte) {
	var m ErrorMessage
	err := json.Unmarshal(b, &m)
	refusal := &AuthError{Message: m.Error.Message}
	switch {
	case err != nil:
		c.undecodable(err, len(b))
	case !l.isAccepted():
		l.Fail(fatalError{refusal})
	case m.Error.Code == CodeAuthError:
		l.Fail(refusal) // if the rejection is permanent, the next connection fails too
	default:
		c.undecodable(fmt.Errorf("error frame with code %q on an accepted connection", m.Error.Code), len(b))
	}
}

func (l *link) markAccepted() {
	if !l.isAccepted() {
		close(l.accepted)
	}
}

func (l *link) isAccepted() bool { return signal.IsClosed(l.accepted) }

// rejected handles a rejected registration. If another worker holds the function or this
// worker's name, this worker may wait until it is released. Otherwise, the client is closed.
func (c *Client) rejected(l *link, err *RejectedError) {
	switch {
	case err.Code == CodeFunctionConflict, err.FunctionID != "" && l.dialect().observes():
		c.functionRefused(l, err)
	case err.Code == CodeWorkerConflict && c.cfg.waitForName:
		c.forgetLatest()
		l.Fail(nameHeldError{err})
	default:
		l.Fail(fatalError{err})
	}
}
