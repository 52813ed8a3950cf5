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

// registerTimeout limits the wait for the engine's answers while a link starts.
const registerTimeout = 10 * time.Second

// link is one connection to the engine. It is attached to the send queue once, dies once, and
// is not reused.
type link struct {
	*wsconn.Conn
	client *Client

	// handlers is the parent context of the invocations that arrive over this link.
	handlers context.Context
	cancel   context.CancelCauseFunc

	chosen     atomic.Pointer[dialect] // nil before the engine's hello
	registerID invocationID
	nameFirst  bool          // register nothing before this worker has its name
	accepted   chan struct{} // closed by workerregistered
	registered chan error    // capacity 1: the answer to engine::workers::register
	applied    chan struct{} // the engine has applied the registrations

	batch []item // the writer's

	// Guarded by the lock of the send queue.
	fences         []fence
	sendsTaken     uint64 // Sends handed to the writer
	sendsConfirmed uint64 // the number of these that the engine has read
	confirming     bool   // a fence for Sends is outstanding
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

// dialect returns the dialect of this connection. Until one is chosen, it is the oldest.
func (l *link) dialect() dialect {
	if d := l.chosen.Load(); d != nil {
		return *d
	}
	return triggerDialect{}
}

// choose sets the dialect unless it is already set, and reports whether it did.
func (l *link) choose(d dialect) bool { return l.chosen.CompareAndSwap(nil, &d) }

// start reads from and writes to l and keeps it alive until it is dead.
func (l *link) start(ctx context.Context) {
	l.Start(ctx, wsconn.Loops{
		Read:         func(_ int, message []byte) error { l.client.receive(l, message); return nil },
		Write:        l.write,
		PingInterval: l.client.cfg.pingInterval,
		IdleTimeout:  l.client.cfg.idleTimeout,
	})
}

// write writes the queued frames.
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
		l.Fail(err) // cannot be a rejection
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

// isApplied reports whether the engine has confirmed the registrations.
func (l *link) isApplied() bool { return signal.IsClosed(l.applied) }

// serve runs one link from its first frame to its end and returns the cause of the end.
// wasReady reports whether the engine had accepted the registrations.
func (c *Client) serve(ctx context.Context, l *link) (wasReady bool, err error) {
	c.out.attach(l, c.registry.firstFence())
	c.out.pushNoWait(l, c.reattachments()...)
	l.start(ctx)
	wasReady = c.maintain(l)
	err = l.Wait()
	c.registry.detach(l)
	c.reports.detach(l)
	if n := c.out.detach(l, err); n > 0 {
		c.log.Warn("iii: connection lost with unconfirmed messages", "count", n, "error", err)
		c.reportError(&LostSendsError{Count: n, Err: err})
	}
	c.mu.Lock()
	c.features = nil
	if wasReady {
		c.ready = make(chan struct{})
	}
	c.mu.Unlock()
	return wasReady, err
}

// identity is the engine's id of a connection, with the secret that proves that the connection
// is this worker's.
type identity struct{ workerID, token string }

// maxIdentities limits the number of connections that a link replaces.
const maxIdentities = 16

// dropped reports Sends that were held for a connection whose engine does not support them.
func (c *Client) dropped(n int, err error) {
	c.log.Warn("iii: messages cannot be sent to this engine", "count", n, "error", err)
	c.reportError(public(fmt.Errorf("%d messages of Send were dropped: %w", n, err)))
}

// reattachments returns the first messages of a link. They name the connections that it
// replaces, so that the engine releases their functions and this worker's name. They include
// every connection that the engine may still hold, because it may have read nothing from the
// links in between. The engine continues reading once the old connections are gone.
func (c *Client) reattachments() (items []item) {
	c.mu.Lock()
	identities := c.identities
	c.mu.Unlock()
	for _, old := range identities {
		items = append(items, c.item(ReattachMessage{PreviousWorkerID: old.workerID, ReattachToken: old.token}))
	}
	return items
}

// registerWorker sends the registration of this worker, followed by everything the worker has
// registered, unless the engine is likely to reject the worker's name. It runs after the
// engine's greeting, because a connection that holds this worker's name can only be replaced
// with the identity that the greeting contains.
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

// workerRegistered continues after the engine has handled this worker's registration.
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
	if m.ReattachToken == "" { // then the others are not usable either
		c.identities = nil
	} else {
		others := c.identities[max(0, len(c.identities)-maxIdentities+1):]
		c.identities = append(slices.Clone(others), identity{m.WorkerID, m.ReattachToken})
	}
	c.mu.Unlock()
	l.markAccepted()
}

// item encodes one of the package's own messages, which never fails.
func (c *Client) item(message any) item {
	b, err := encodeMessage(message)
	if err != nil {
		c.log.Error("iii: message does not encode", "error", err)
		return item{kind: frameJSONPong} // harmless: the engine ignores it
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

// maintain makes a link ready, and returns when it is dead.
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
			// Authentication may have taken any length of time; from now on, the engine
			// answers requests.
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
			// The engine handles frames in order: the pong to the ping after the triggers
			// means that it has applied all registrations, and has sent the bindings of this
			// worker's trigger types.
			applied = nil
			wasReady = true
			c.forgetOthers()
			c.becomeReady(l)
			c.reports.attach(l)
		case <-patience.C:
			if !requested { // the engine may never greet, or may still authenticate
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

// forgetOthers forgets the connections before the current one, because the engine has read the
// messages that replace them.
func (c *Client) forgetOthers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.identities); n > 1 {
		c.identities = c.identities[n-1:]
	}
}

// forgetLatest forgets the current connection, because the engine itself is closing it.
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

// receive handles one message. b is reused afterwards. A message that cannot be decoded is
// counted, and logged without its content; it does not end the connection.
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

// receiveInvoke passes an invocation to a handler. It copies the parts of the message into one
// allocation that the handler owns.
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
	if signal.IsClosed(c.stopping) {
		c.turnAway(&incoming{origin: l, function: f, id: m.id}, CodeWorkerDraining, "the worker is shutting down")
		return
	}
	var data []byte
	var memory *[]byte
	if f.recycles && len(m.data) >= minRecycled {
		memory = recyclable(m.data)
		data, m.data = *memory, nil
	} else if len(m.data) > largeBuffer { // separate, because append does not clear the memory that it overwrites
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
		depth, _ := strconv.ParseUint(string(m.depth), 10, 32) // anything else counts as 0
		in.depth = uint32(depth)
	}
	if in.activation != nil {
		in.trigger = c.registry.observed(l, f, in.activation)
	}
	if !c.dispatch.submit(in) {
		c.turnAway(in, CodeOverloaded, "the worker has too many invocations waiting")
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
	default: // answered before
	}
}

// receiveHello chooses the dialect of the connection from the features that the engine lists.
func (c *Client) receiveHello(l *link, b []byte) {
	var m WorkerRegisteredMessage
	if err := json.Unmarshal(b, &m); err != nil {
		c.undecodable(err, len(b))
		return
	}
	if !l.choose(dialectFor(m.Features)) && !l.isAccepted() && len(m.Features) > 0 {
		// The worker has already been registered in the oldest dialect.
		l.Fail(errors.New("the engine's hello came too late; connecting again"))
		return
	}
	c.setIdentity(l, &m)
}

// receiveError handles an error frame. Before the hello, it means that the engine rejects this
// worker; later, it ends at most the connection.
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
		l.Fail(refusal) // the next connection shows whether the rejection is permanent
	default:
		c.undecodable(fmt.Errorf("error frame with code %q on an accepted connection", m.Error.Code), len(b))
	}
}

// markAccepted records workerregistered. Only the read loop calls it.
func (l *link) markAccepted() {
	if !l.isAccepted() {
		close(l.accepted)
	}
}

// isAccepted reports whether the engine has accepted the connection.
func (l *link) isAccepted() bool { return signal.IsClosed(l.accepted) }

// rejected handles a rejected registration: either another worker currently holds a function,
// or the client ends.
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
