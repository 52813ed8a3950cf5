package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/otlpjson"
)

// peer is a scripted engine. By default, it responds to registrations, pings and calls like a
// real engine.
type peer struct {
	tb     testing.TB
	server *enginetest.Server
	mem    *memnet.Listener // nil if the peer uses TCP
	script script

	mu    enginetest.Watched
	conns []*peerConn
	log   []*peerMessage
}

// script overrides parts of a peer's behavior. Its functions run on the goroutine that reads
// the connection.
type script struct {
	refuse  func(n int, r *http.Request) int         // HTTP status that rejects the upgrade; 0 accepts it
	greet   func(c *peerConn)                        // replaces the default greeting
	message func(c *peerConn, m *peerMessage) bool   // returns true to suppress the default response
	call    func(c *peerConn, m *peerMessage) string // returns the result of a call; the default is the payload
	forget  bool                                     // do not keep messages
	noPong  bool                                     // do not respond to WebSocket pings
}

// peerMessage is a message from the client.
type peerMessage struct {
	Conn   int    // number of the connection, starting at 0
	Raw    []byte // as received
	Frames int    // number of WebSocket frames
	Binary bool

	Type             string          `json:"type"`
	ID               string          `json:"id"`
	InvocationID     string          `json:"invocation_id"`
	FunctionID       string          `json:"function_id"`
	TriggerType      string          `json:"trigger_type"`
	Namespace        string          `json:"namespace"`
	Data             json.RawMessage `json:"data"`
	Metadata         json.RawMessage `json:"metadata"`
	Result           json.RawMessage `json:"result"`
	Error            *ErrorBody      `json:"error"`
	Action           *TriggerAction  `json:"action"`
	PreviousWorkerID string          `json:"previous_worker_id"`
	ReattachToken    string          `json:"reattach_token"`
}

// peerConn is a connection from the client.
type peerConn struct {
	*enginetest.WebSocket
	peer     *peer
	n        int
	workerID string

	features generation   // sent in the greeting
	pings    atomic.Int64 // number of WebSocket pings
	ended    chan struct{}
	err      error // reason, valid after ended is closed
}

// newPeer starts an in-memory peer, which can be used in a synctest bubble.
func newPeer(tb testing.TB, s script) *peer {
	p := &peer{tb: tb, script: s}
	p.server = enginetest.NewServer(tb, p.serve)
	p.mem = p.server.Mem
	return p
}

// newTCPPeer starts a peer on a loopback port.
func newTCPPeer(tb testing.TB, s script) *peer {
	tb.Helper()
	p := &peer{tb: tb, script: s}
	p.server = enginetest.NewTCPServer(tb, p.serve)
	return p
}

// proxy puts a fault-injecting proxy in front of an in-memory peer.
func (p *peer) proxy(seed uint64, plan func(n int) enginetest.FaultPlan) *enginetest.FaultProxy {
	return enginetest.NewFaultProxy(p.tb, func(ctx context.Context) (net.Conn, error) { return p.mem.DialContext(ctx, "", "") }, seed, plan)
}

func (p *peer) url() string { return p.server.URL() }

// client returns a client that connects to the peer. The client is closed when the test ends.
func (p *peer) client(opts ...Option) *Client {
	p.tb.Helper()
	all := []Option{WithLogger(testLogger)}
	if p.mem != nil {
		all = append(all, WithDialContext(p.mem.DialContext))
	}
	c, err := New(p.url(), append(all, opts...)...)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (p *peer) connected(opts ...Option) *Client {
	p.tb.Helper()
	c := p.client(opts...)
	if err := c.Connect(p.tb.Context()); err != nil {
		p.tb.Fatal(err)
	}
	return c
}

func (p *peer) serve(conn net.Conn, n int) {
	var status func(*http.Request) int
	if p.script.refuse != nil {
		status = func(r *http.Request) int { return p.script.refuse(n, r) }
	}
	ws, err := enginetest.Upgrade(conn, status)
	if err != nil {
		return
	}
	c := &peerConn{WebSocket: ws, peer: p, workerID: uuid.NewString(), ended: make(chan struct{})}
	p.mu.Lock()
	c.n = len(p.conns)
	p.conns = append(p.conns, c)
	p.mu.Notify()
	p.mu.Unlock()
	defer close(c.ended)
	if p.script.greet != nil {
		p.script.greet(c)
	} else {
		c.welcome()
	}
	c.err = c.read()
}

// waitLimit limits how long a test waits. In a bubble, that is virtual time.
const waitLimit = time.Minute

// wait waits until done returns true. It calls done with the lock held, after every change.
func (p *peer) wait(what string, done func() bool) {
	p.tb.Helper()
	p.mu.Wait(p.tb, waitLimit, what, done)
}

// conn waits for connection n, counting from 0, and returns it.
func (p *peer) conn(n int) *peerConn {
	p.tb.Helper()
	var c *peerConn
	p.wait(fmt.Sprintf("connection %d", n), func() bool {
		if len(p.conns) > n {
			c = p.conns[n]
		}
		return c != nil
	})
	return c
}

// find waits for a message that satisfies match, and returns it.
func (p *peer) find(what string, match func(*peerMessage) bool) *peerMessage {
	p.tb.Helper()
	var found *peerMessage
	seen := 0
	p.wait(what, func() bool {
		for ; seen < len(p.log) && found == nil; seen++ {
			if match(p.log[seen]) {
				found = p.log[seen]
			}
		}
		return found != nil
	})
	return found
}

// messages returns the messages of the given types that were received over connection n, or
// over all connections if n is -1.
func (p *peer) messages(n int, types ...string) []*peerMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*peerMessage
	for _, m := range p.log {
		if (n < 0 || m.Conn == n) && (len(types) == 0 || slices.Contains(types, m.Type)) {
			list = append(list, m)
		}
	}
	return list
}

// Every reattach token that a peer issues contains tokenMark. TestMain checks that tokenMark
// never appears in logs.
const tokenMark = "70c370c3-5ec2-4e75"

func (c *peerConn) welcome() {
	c.send(fmt.Sprintf(`{"type":"workerregistered","worker_id":%q,"reattach_token":"%s-8e75-%012d"}`, c.workerID, tokenMark, c.n))
}

func (c *peerConn) send(message string) { _ = c.WriteFrame(enginetest.OpText, true, []byte(message)) }

func (c *peerConn) read() error {
	for {
		op, raw, frames, err := c.ReadMessage(c.control)
		if err != nil {
			return err
		}
		if op >= enginetest.OpClose {
			if c.control(op, raw); op == enginetest.OpClose {
				return errPeerClosed
			}
			continue
		}
		m := &peerMessage{}
		if err := json.Unmarshal(raw, m); err != nil {
			c.peer.tb.Errorf("peer: cannot decode message: %v: %.200s", err, raw)
			continue
		}
		m.Conn, m.Raw, m.Frames, m.Binary = c.n, raw, frames, op == enginetest.OpBinary
		if !c.peer.script.forget {
			c.peer.mu.Lock()
			c.peer.log = append(c.peer.log, m)
			c.peer.mu.Notify()
			c.peer.mu.Unlock()
		}
		if c.peer.script.message == nil || !c.peer.script.message(c, m) {
			c.answer(m)
		}
	}
}

var errPeerClosed = fmt.Errorf("the client has sent a Close frame")

func (c *peerConn) control(op byte, payload []byte) {
	if op == enginetest.OpPing {
		c.pings.Add(1)
	}
	switch {
	case op == enginetest.OpPing && !c.peer.script.noPong:
		_ = c.WriteFrame(enginetest.OpPong, true, payload)
	case op == enginetest.OpClose:
		_ = c.WriteFrame(enginetest.OpClose, true, nil)
	}
}

// answer sends the response that an engine would send to m.
func (c *peerConn) answer(m *peerMessage) {
	switch {
	case m.Type == "ping":
		c.send(`{"type":"pong"}`)
	case m.Type != "invokefunction" || m.InvocationID == "":
	case m.FunctionID == "engine::workers::register":
		c.result(m, `{"success":true}`)
	case c.peer.script.call != nil:
		c.result(m, c.peer.script.call(c, m))
	default:
		c.result(m, string(m.Data))
	}
}

func (c *peerConn) result(m *peerMessage, result string) {
	c.send(fmt.Sprintf(`{"type":"invocationresult","invocation_id":%q,"function_id":%q,"result":%s}`, m.InvocationID, m.FunctionID, result))
}

func (c *peerConn) fail(m *peerMessage, code, message string) {
	c.send(fmt.Sprintf(`{"type":"invocationresult","invocation_id":%q,"function_id":%q,"error":{"code":%q,"message":%q}}`,
		m.InvocationID, m.FunctionID, code, message))
}

// invoke calls one of the client's functions and returns the invocation id.
func (c *peerConn) invoke(functionID, data string) string {
	id := uuid.NewString()
	c.send(fmt.Sprintf(`{"type":"invokefunction","invocation_id":%q,"function_id":%q,"data":%s}`, id, functionID, data))
	return id
}

// answered waits for an invocation's result.
func (p *peer) answered(id string) *peerMessage {
	p.tb.Helper()
	return p.find("answer", func(m *peerMessage) bool { return m.Type == "invocationresult" && m.InvocationID == id })
}

// otelPeer is a scripted telemetry endpoint. By default, it handles frames in order: it
// records them and answers pings.
type otelPeer struct {
	tb     testing.TB
	server *enginetest.Server
	mem    *memnet.Listener // nil if the peer uses TCP
	script otelScript

	mu     enginetest.Watched
	dials  []time.Time
	conns  []*otelConn
	frames []otelFrame
}

// otelScript overrides parts of an otelPeer's behavior. Its functions run on the goroutine
// that reads the connection.
type otelScript struct {
	refuse func(n int, r *http.Request) int       // HTTP status that rejects dial n; 0 accepts it
	greet  func(c *otelConn)                      // called after the upgrade
	frame  func(c *otelConn, payload []byte) bool // returns false if the frame must not be kept
	ping   func(c *otelConn, payload []byte) bool // returns true to suppress the pong
	pong   func(c *otelConn, payload []byte)
	end    func(c *otelConn, op byte, reason []byte) // called when a Close frame arrives
}

type otelFrame struct {
	conn int
	data string
	at   time.Time
}

type otelConn struct {
	*enginetest.WebSocket
	peer  *otelPeer
	n     int
	pings int
	dead  bool // connection was cut; ignore further data
	ended chan struct{}
	err   error // reason, valid after ended is closed
}

func newOtelPeer(tb testing.TB, s otelScript) *otelPeer {
	p := &otelPeer{tb: tb, script: s}
	p.server = enginetest.NewServer(tb, p.serve)
	p.mem = p.server.Mem
	return p
}

func newTCPOtelPeer(tb testing.TB, s otelScript) *otelPeer {
	tb.Helper()
	p := &otelPeer{tb: tb, script: s}
	p.server = enginetest.NewTCPServer(tb, p.serve)
	return p
}

func newOtelPeerOn(tb testing.TB, l net.Listener, s otelScript) *otelPeer {
	p := &otelPeer{tb: tb, script: s}
	p.server = enginetest.NewServerOn(tb, l, p.serve)
	return p
}

func (p *otelPeer) url() string { return p.server.URL() }

// options returns options that make a connection dial p.
func (p *otelPeer) options(opts ...ConnectionOption) []ConnectionOption {
	all := []ConnectionOption{WithConnectionLogger(testLogger)}
	if p.mem != nil {
		all = append(all, WithConnectionDialContext(p.mem.DialContext))
	}
	return append(all, opts...)
}

// connection returns a connection to p, which is shut down when the test ends.
func (p *otelPeer) connection(opts ...ConnectionOption) *SharedEngineConnection {
	p.tb.Helper()
	s, err := NewSharedEngineConnection(p.url(), p.options(opts...)...)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { cutShort(s) })
	return s
}

func (p *otelPeer) serve(conn net.Conn, n int) {
	p.mu.Lock()
	p.dials = append(p.dials, time.Now())
	p.mu.Notify()
	p.mu.Unlock()
	var status func(*http.Request) int
	if p.script.refuse != nil {
		status = func(r *http.Request) int { return p.script.refuse(n, r) }
	}
	ws, err := enginetest.Upgrade(conn, status)
	if err != nil {
		return
	}
	c := &otelConn{WebSocket: ws, peer: p, ended: make(chan struct{})}
	p.mu.Lock()
	c.n = len(p.conns)
	p.conns = append(p.conns, c)
	p.mu.Notify()
	p.mu.Unlock()
	defer close(c.ended)
	if p.script.greet != nil {
		p.script.greet(c)
	}
	c.err = c.read()
}

// kill simulates a crash: it cuts the connection and discards data that is still arriving.
func (c *otelConn) kill() {
	c.dead = true
	c.Cut()
}

func (c *otelConn) read() error {
	for {
		if c.dead {
			return errors.New("killed")
		}
		op, raw, _, err := c.ReadMessage(c.control)
		if err != nil {
			return err
		}
		switch op {
		case enginetest.OpClose:
			c.control(op, raw)
			return errPeerClosed
		case enginetest.OpPing, enginetest.OpPong:
			c.control(op, raw)
			continue
		case enginetest.OpBinary:
		default:
			return fmt.Errorf("message of kind %d", op)
		}
		if _, measured := c.peer.tb.(*testing.B); !measured && enginetest.IsOTLP(raw[min(4, len(raw)):]) {
			enginetest.JudgeFrame(c.peer.tb, string(raw[:4]), raw[4:])
		}
		if c.peer.script.frame != nil && !c.peer.script.frame(c, raw) {
			continue
		}
		c.peer.mu.Lock()
		c.peer.frames = append(c.peer.frames, otelFrame{c.n, string(raw), time.Now()})
		c.peer.mu.Notify()
		c.peer.mu.Unlock()
	}
}

func (c *otelConn) control(op byte, payload []byte) {
	switch op {
	case enginetest.OpPing:
		c.pings++
		if c.peer.script.ping == nil || !c.peer.script.ping(c, payload) {
			c.pong(payload)
		}
	case enginetest.OpPong:
		if c.peer.script.pong != nil {
			c.peer.script.pong(c, payload)
		}
	case enginetest.OpClose:
		if c.peer.script.end != nil {
			c.peer.script.end(c, op, payload)
			return
		}
		_ = c.WriteFrame(enginetest.OpClose, true, payload)
	}
}

func (c *otelConn) pong(payload []byte) { _ = c.WriteFrame(enginetest.OpPong, true, payload) }

func (p *otelPeer) close() { p.server.Close() }

// wait waits until done returns true. It calls done with the lock held, after every change.
func (p *otelPeer) wait(what string, done func() bool) {
	p.tb.Helper()
	p.mu.Wait(p.tb, time.Hour, what, done)
}

// conn waits for connection n, counting from 0, and returns it.
func (p *otelPeer) conn(n int) *otelConn {
	p.tb.Helper()
	p.wait(fmt.Sprintf("connection %d", n), func() bool { return len(p.conns) > n })
	return p.conns[n]
}

func (p *otelPeer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, f := range p.frames {
		all = append(all, f.data)
	}
	return all
}

// dialed returns the times of all connection attempts.
func (p *otelPeer) dialed() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.dials...)
}

// cutShort closes a connection without delivering its frames.
func cutShort(s *SharedEngineConnection) {
	s.drain()
	s.stop()
	<-s.done
}

// logFrame returns a numbered LOGS message.
func logFrame(n int) OtelMessage {
	return OtelMessage{Prefix: otlpjson.PrefixLogs, Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

// stateLog records connection states.
type stateLog struct {
	mu     enginetest.Watched
	states []ConnectionState
	errs   []error
	times  []time.Time
}

func newStateLog() *stateLog { return &stateLog{} }

func (l *stateLog) listen(s ConnectionState, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, s)
	l.errs = append(l.errs, suite.note(err))
	l.times = append(l.times, time.Now())
	l.mu.Notify()
}

func (l *stateLog) list() []ConnectionState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]ConnectionState(nil), l.states...)
}

func (l *stateLog) errors() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.errs...)
}

// wait waits until the listener has received s for the nth time.
func (l *stateLog) wait(tb testing.TB, s ConnectionState, n int) {
	tb.Helper()
	l.mu.Wait(tb, time.Hour, fmt.Sprintf("state %s, %d times", s, n), func() bool {
		count := 0
		for _, state := range l.states {
			if state == s {
				count++
			}
		}
		return count >= n
	})
}

// logFunc is a log handler that calls a function with each message.
type logFunc func(message string)

func (logFunc) Enabled(context.Context, slog.Level) bool { return true }

func (f logFunc) Handle(_ context.Context, r slog.Record) error { f(r.Message); return nil }

func (f logFunc) WithAttrs([]slog.Attr) slog.Handler { return f }

func (f logFunc) WithGroup(string) slog.Handler { return f }
