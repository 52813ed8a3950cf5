package iiitest

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/wsconn"
)

// worker represents one connection that uses the worker protocol. A worker that reconnects is
// represented by a new value.
type worker struct {
	e           *Engine
	id, token   string
	quotedID    json.RawMessage
	conn        *websocket.Conn
	ip          string
	permissions *permissions // nil on the open listener
	connected   time.Time
	out         *sendQueue
	written     chan struct{} // closed when the writer has returned
	reading     *gate         // closed by StopReading
	spoken      atomic.Pointer[dialect]

	settle  sync.Mutex
	state   nsState
	ns      string
	waiting []any // registrations waiting for the namespace
	grace   *time.Timer

	takenBack takenBack // used by apply, and by cleanUp after the connection has ended

	// Guarded by Engine.mu:
	meta     metadata
	called   *workerName           // name shared with stored messages
	attached map[*pending]struct{} // calls that the worker has made or is executing
	making   int                   // number of its calls to built-in functions in progress
	leaving  bool                  // the connection has ended

	rejected atomic.Bool // its name was taken; ignore its messages

	ended   sync.Once
	cleaned chan struct{} // closed when the cleanup is complete
}

// serveWorker serves the worker protocol at "/". g is nil for the open listener, which has no
// access control.
func (e *Engine) serveWorker(rw http.ResponseWriter, r *http.Request, g *guard) {
	if refusesHandshake(rw, r) {
		return
	}
	conn, err := e.upgrade(rw, r, readBuffer, true)
	if err != nil {
		return
	}
	defer e.drop(conn)
	answerPings(conn)
	permissions, refusal := e.authenticate(g, r)
	if e.ctx.Err() != nil {
		return
	}
	if refusal != "" {
		refuse(conn, refusal)
		return
	}
	w := &worker{
		e: e, id: uuid.NewString(), token: uuid.NewString(), permissions: permissions,
		conn: conn, connected: time.Now(),
		out: newSendQueue(), written: make(chan struct{}), reading: newGate(),
		called:   &workerName{},
		attached: make(map[*pending]struct{}),
		cleaned:  make(chan struct{}),
	}
	w.quotedID = mustEncode(w.id)
	w.spoken.Store(&dialect{protocol: e.Protocol(), strict: e.cfg.strict})
	w.ip, _, _ = net.SplitHostPort(r.RemoteAddr)
	if limited, ok := conn.NetConn().(*limitedConn); ok { // otherwise the library answers pings while reading is stopped
		limited.hold = func() { w.reading.wait(e.ctx) }
	}
	e.mu.Lock()
	e.workers[w.id] = w
	e.mu.Unlock()
	w.startGrace()
	go w.write() // not with spawn, which may start nothing: the end of this function waits for it
	w.send(w.speaks().greeting(w.id, w.token))
	e.workerChanged("worker_connected", w.id)
	w.read()
	w.end()
	<-w.written
}

// refuse sends an authentication error and closes the connection.
func refuse(conn *websocket.Conn, text string) {
	if conn.WriteMessage(websocket.TextMessage, authError(text)) == nil {
		farewell(conn)
	}
}

// lingerTime is how long to wait for the peer's response to a Close frame.
const lingerTime = 5 * time.Second

// sayGoodbye sends a Close frame without a code. It leaves the socket open, because closing it
// at once could lose the frame.
func sayGoodbye(conn *websocket.Conn) {
	now := time.Now()
	_ = conn.WriteControl(websocket.CloseMessage, nil, now.Add(lingerTime))
	_ = conn.SetReadDeadline(now.Add(lingerTime))
}

// awaitClose waits for the peer's response to a Close frame sent at the given time. No other
// goroutine may read from conn.
func awaitClose(conn *websocket.Conn, sent time.Time) {
	_ = conn.SetReadDeadline(sent.Add(lingerTime))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

// farewell sends a Close frame without a code and waits for the peer's response. No other
// goroutine may read from conn.
func farewell(conn *websocket.Conn) {
	now := time.Now()
	sayGoodbye(conn)
	awaitClose(conn, now)
}

// read handles messages one at a time until the connection ends.
func (w *worker) read() {
	var buf []byte
	for {
		w.reading.wait(w.e.ctx)
		kind, r, err := w.conn.NextReader()
		if err == nil {
			buf, err = wsconn.AppendAll(r, buf[:0])
		}
		if err != nil {
			w.logEnd(err)
			return
		}
		data := buf
		if buf = buf[:0]; len(data) > keptBuffer {
			buf = nil
		} else {
			data = bytes.Clone(data) // has no spare capacity
		}
		w.reading.wait(w.e.ctx) // StopReading may have been called during the read
		if kind == websocket.TextMessage && !utf8.Valid(data) {
			return // as the engine's WebSocket library does
		}
		if !w.receive(kind, data) {
			return
		}
	}
}

// logEnd logs why the connection ended. It ignores err if the worker closed the connection.
func (w *worker) logEnd(err error) {
	w.e.mu.Lock()
	name := w.meta.name
	w.e.mu.Unlock()
	if limited, ok := w.conn.NetConn().(*limitedConn); ok && limited.closed {
		w.e.log.Debug("worker closed its connection", "worker", w.id, "name", name)
		return
	}
	w.e.log.Debug("worker connection lost", "worker", w.id, "name", name, "error", err)
}

// keptBuffer is the maximum size of a message that is read into a reused buffer.
const keptBuffer = 64 << 10

// receive handles a message. It returns false if a hook cuts the connection.
func (w *worker) receive(kind int, data []byte) bool {
	frame := Frame{Direction: ToEngine, Binary: kind == websocket.BinaryMessage, Message: data}
	var room [1][]byte
	for _, data := range w.e.frames.add(w, &frame, w.e.frames.hook.Load(), room[:0]) {
		if frame.Binary && telemetryTag(data) != "" {
			w.e.ingest(w.id, w.conn.RemoteAddr().String(), data)
			continue
		}
		m, err := w.speaks().decode(data)
		if err != nil {
			if !blank(string(data)) {
				w.e.counters.undecodable.Add(1)
				w.e.log.Debug("undecodable message dropped", "worker", w.id, "error", err)
			}
			continue
		}
		w.handle(m)
	}
	return !frame.cut
}

// handle processes one message. It applies registrations in order, and starts calls without
// waiting for their results.
func (w *worker) handle(m any) {
	e := w.e
	if w.rejected.Load() {
		return
	}
	switch m := m.(type) {
	case *invokeFunctionMessage:
		e.serveCall(w, *m)
	case *invocationResultMessage:
		e.deliverResult(w, *m)
	case *triggerRegistrationResultMessage:
		e.triggerAnswered(w, *m)
	case *reattachMessage:
		e.reattach(w, *m)
	case *pingMessage:
		w.send(w.speaks().pong())
	case *ignoredMessage:
	default:
		w.register(m)
	}
}

func (w *worker) speaks() *dialect { return w.spoken.Load() }

// push reserves a place for a message in the send queue.
func (w *worker) push(m []byte) *ticket { return w.out.push(outgoing{message: m}) }

// send queues a message, waiting while the queue is full. It returns false if the worker has
// disconnected.
func (w *worker) send(m []byte) bool { return w.push(m).wait() }

// write sends queued messages until the send queue is closed. It combines them into larger
// network writes, unless a hook must inspect each message. It discards the messages that follow
// a Close frame.
func (w *worker) write() {
	defer close(w.written)
	conn := w.conn.NetConn().(*limitedConn)
	var hook *func(Frame) Verdict
	held := false // the previous message waits for this one
	closing := false
	for {
		out, more, ok := w.out.pop()
		if !ok {
			return
		}
		if closing {
			continue
		}
		if !held {
			hook = w.e.frames.hook.Load()
		}
		held = more && !out.close && hook == nil
		conn.holding.Store(held)
		if closing = out.close; closing {
			sayGoodbye(w.conn)
			continue
		}
		frame := Frame{Direction: FromEngine, Message: out.message}
		var room [1][]byte
		for _, m := range w.e.frames.add(w, &frame, hook, room[:0]) {
			if err := w.conn.WriteMessage(websocket.TextMessage, m); err != nil {
				_ = w.conn.Close()
				break
			}
		}
		if frame.cut {
			_ = w.conn.Close()
		}
	}
}

// end removes the worker from the engine and then closes the connection. A real engine uses
// the same order, so the worker's name is free once the connection has ended. end sends no
// Close frame, not even in response to one from the worker. The connection that replaces w may
// also call end; only the first call has an effect.
func (w *worker) end() {
	w.ended.Do(func() {
		w.reading.open()
		w.out.close()
		w.e.cleanUp(w)
		close(w.cleaned)
		_ = w.conn.Close()
	})
}

// cleanUp removes everything that belongs to a connection. The order is the engine's: queued
// registrations, functions, calls, triggers, trigger types and the name.
func (e *Engine) cleanUp(w *worker) {
	w.abort()
	var functions []key
	e.observers.mu.Lock()
	e.mu.Lock()
	w.leaving = true
	for k, f := range e.functions {
		if f.owner == w {
			delete(e.functions, k)
			functions = append(functions, k)
		}
	}
	stopped := outcome{err: errorBody("invocation_stopped", "Invocation stopped")}
	for p := range w.attached {
		e.completeLocked(p, stopped)
	}
	e.mu.Unlock()
	e.observers.forget(w, functions)
	e.observers.mu.Unlock()
	if f := e.cleanupHook.Load(); f != nil {
		(*f)(w.id)
	}
	e.forgetTriggers(w)
	e.mu.Lock()
	for k, holder := range e.leases {
		if holder == w {
			delete(e.leases, k)
		}
	}
	delete(e.workers, w.id)
	e.mu.Unlock()
	e.workerChanged("worker_disconnected", w.id)
}

// evictTimeout is how long a connection waits for its predecessor's cleanup.
const evictTimeout = 5 * time.Second

// reattach makes w replace its previous connection. It removes that connection and its
// registrations before w's next message is handled, but transfers its observers to w. If the
// token is wrong, reattach does nothing.
func (e *Engine) reattach(w *worker, m reattachMessage) {
	e.mu.Lock()
	old := e.workers[m.PreviousWorkerID]
	e.mu.Unlock()
	if m.ReattachToken != nil {
		defer e.observers.reattach(w, former{m.PreviousWorkerID, *m.ReattachToken})
	}
	if old == nil || old == w || m.ReattachToken == nil || *m.ReattachToken != old.token {
		e.log.Debug("reattach ignored", "worker", w.id, "previous", m.PreviousWorkerID)
		return
	}
	_ = old.conn.Close()
	old.reading.open()
	timeout := time.NewTimer(evictTimeout)
	defer timeout.Stop()
	select {
	case <-old.cleaned:
	case <-timeout.C:
		old.end()
	case <-e.ctx.Done():
	}
}

// gate blocks callers of wait while it is closed.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil while open
}

func newGate() *gate { return &gate{} }

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed == nil {
		return
	}
	select {
	case <-closed:
	case <-ctx.Done():
	}
}
