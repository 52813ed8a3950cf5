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

// worker is one connection of the worker protocol. The connection defines its identity:
// after a reconnection it is a new worker.
type worker struct {
	e           *Engine
	id, token   string
	quotedID    json.RawMessage
	conn        *websocket.Conn
	ip          string
	permissions *permissions // nil on the open listener
	connected   time.Time
	out         *sendQueue
	written     chan struct{} // closed when the writer has ended
	reading     *gate         // closed by StopReading
	spoken      atomic.Pointer[dialect]

	settle  sync.Mutex
	state   nsState
	ns      string
	waiting []any // registrations that wait for the namespace
	grace   *time.Timer

	takenBack takenBack // by apply, and by cleanUp when the connection has ended

	// guarded by Engine.mu
	meta     metadata
	called   *workerName           // its name, for stored messages
	attached map[*pending]struct{} // calls it made and calls it is executing
	making   int                   // calls of built-in functions in progress
	leaving  bool                  // its connection has ended

	rejected atomic.Bool // its name was taken: its messages are ignored

	ended   sync.Once
	cleaned chan struct{} // closed when the cleanup is complete
}

// serveWorker serves the worker protocol at "/". A nil guard means the open listener.
func (e *Engine) serveWorker(rw http.ResponseWriter, r *http.Request, g *guard) {
	if refusesHandshake(rw, r) {
		return
	}
	conn, err := e.upgrade(rw, r, true)
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
	if limited, ok := conn.NetConn().(*limitedConn); ok { // the library answers pings while it waits for a message
		limited.hold = func() { w.reading.wait(e.ctx) }
	}
	e.mu.Lock()
	e.workers[w.id] = w
	e.mu.Unlock()
	w.startGrace()
	e.spawn(func(context.Context) { w.write() })
	w.send(w.speaks().greeting(w.id, w.token))
	e.workerChanged("worker_connected", w.id)
	w.read()
	w.end()
	<-w.written
}

// refuse sends a worker the authentication error and closes the connection.
func refuse(conn *websocket.Conn, text string) {
	if conn.WriteMessage(websocket.TextMessage, authError(text)) == nil {
		farewell(conn)
	}
}

// lingerTime is how long the peer has to answer a Close frame.
const lingerTime = 5 * time.Second

// sayGoodbye sends a Close frame without a code. It leaves the socket open for the
// answer, because an immediate cut could destroy the frame in transit.
func sayGoodbye(conn *websocket.Conn) {
	now := time.Now()
	_ = conn.WriteControl(websocket.CloseMessage, nil, now.Add(lingerTime))
	_ = conn.SetReadDeadline(now.Add(lingerTime))
}

// awaitClose waits for the answer to a Close frame that was sent at the given time. The
// caller must have stopped reading from conn.
func awaitClose(conn *websocket.Conn, sent time.Time) {
	_ = conn.SetReadDeadline(sent.Add(lingerTime))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

// farewell sends a Close frame without a code and waits for the answer. The caller must
// have stopped reading from conn.
func farewell(conn *websocket.Conn) {
	now := time.Now()
	sayGoodbye(conn)
	awaitClose(conn, now)
}

// read handles messages one after the other until the connection ends.
func (w *worker) read() {
	var buf []byte
	for {
		w.reading.wait(w.e.ctx)
		kind, r, err := w.conn.NextReader()
		if err == nil {
			buf, err = wsconn.AppendAll(r, buf[:0])
		}
		if err != nil {
			w.e.log.Debug("worker connection ended", "worker", w.id, "error", err)
			return
		}
		data := buf
		if buf = buf[:0]; len(data) > keptBuffer {
			buf = nil
		} else {
			data = bytes.Clone(data) // without the room that buf has
		}
		w.reading.wait(w.e.ctx) // messages that arrive after StopReading
		if kind == websocket.TextMessage && !utf8.Valid(data) {
			return // the engine's WebSocket library closes the connection
		}
		if !w.receive(kind, data) {
			return
		}
	}
}

// keptBuffer is the size of the largest message that is read into a buffer that is used again.
const keptBuffer = 64 << 10

// receive handles a message and reports whether the connection continues.
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

// handle processes one message. It applies registrations itself, one after the other, and
// starts calls.
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

// speaks returns the current dialect of the connection.
func (w *worker) speaks() *dialect { return w.spoken.Load() }

// push reserves a message's place in the order; see sendQueue.
func (w *worker) push(m []byte) *ticket { return w.out.push(outgoing{message: m}) }

// send queues a message and waits while the queue is full. It reports whether the
// worker is still connected.
func (w *worker) send(m []byte) bool { return w.push(m).wait() }

// write sends queued messages until the send queue is closed. It sends messages that are
// queued together with one write to the network, unless a hook decides about each of them.
func (w *worker) write() {
	defer close(w.written)
	conn := w.conn.NetConn().(*limitedConn)
	var hook *func(Frame) Verdict
	held := false // the previous message waits for this one
	for {
		out, more, ok := w.out.pop()
		if !ok {
			return
		}
		if !held {
			hook = w.e.frames.hook.Load()
		}
		held = more && !out.close && hook == nil
		conn.holding.Store(held)
		if out.close {
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

// end removes everything that belongs to the worker and then cuts the connection,
// without a Close frame even if the worker has sent one. The order is the engine's: a
// worker that has seen the end of a connection can take over its name. The successor of
// a worker may call end, too; only the first call has an effect.
func (w *worker) end() {
	w.ended.Do(func() {
		w.reading.open()
		w.out.close()
		w.e.cleanUp(w)
		close(w.cleaned)
		_ = w.conn.Close()
	})
}

// cleanUp removes everything that belongs to a connection, in the engine's order:
// waiting registrations, functions, calls, triggers, trigger types, the name.
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

// evictTimeout is how long the successor of a connection waits for the end of that
// connection.
const evictTimeout = 5 * time.Second

// reattach makes a connection replace its predecessor: the predecessor and everything
// that belongs to it are removed before the next message is read. Without the right
// token, reattach does nothing.
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

// gate blocks while it is closed.
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
