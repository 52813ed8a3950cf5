package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
)

// peer is a scripted engine: it greets, answers registrations, pings and calls as
// the engine does, and the script decides otherwise where a test wants it to.
type peer struct {
	tb     testing.TB
	server *enginetest.Server
	mem    *memnet.Listener // nil: TCP
	script script

	mu    enginetest.Watched
	conns []*peerConn
	log   []*peerMessage
}

// script says where a peer differs from the engine. Its functions run on the
// goroutine that reads the connection.
type script struct {
	refuse  func(n int, r *http.Request) int         // HTTP status instead of the upgrade; 0: none
	greet   func(c *peerConn)                        // instead of workerregistered
	message func(c *peerConn, m *peerMessage) bool   // true: handled, nothing else happens
	call    func(c *peerConn, m *peerMessage) string // the result of a call, JSON; default: its data
	forget  bool                                     // messages are not kept
	noPong  bool                                     // WebSocket pings are not answered
}

// peerMessage is a message of the client.
type peerMessage struct {
	Conn   int    // the connection it came over, counted from 0
	Raw    []byte // as it came
	Frames int    // in how many frames
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

// peerConn is one connection of the client.
type peerConn struct {
	*enginetest.WebSocket
	peer     *peer
	n        int
	workerID string

	features generation   // that it lists
	pings    atomic.Int64 // WebSocket pings
	ended    chan struct{}
	err      error // why it ended; after ended
}

// newPeer starts a peer in memory, so that it works in a synctest bubble.
func newPeer(tb testing.TB, s script) *peer {
	p := &peer{tb: tb, script: s}
	p.server = enginetest.NewServer(tb, p.serve)
	p.mem = p.server.Mem
	return p
}

// newTCPPeer starts a peer on a free port of the loopback interface.
func newTCPPeer(tb testing.TB, s script) *peer {
	tb.Helper()
	p := &peer{tb: tb, script: s}
	p.server = enginetest.NewTCPServer(tb, p.serve)
	return p
}

// proxy stands in front of a peer in memory.
func (p *peer) proxy(seed uint64, plan func(n int) enginetest.FaultPlan) *enginetest.FaultProxy {
	return enginetest.NewFaultProxy(p.tb, func(ctx context.Context) (net.Conn, error) { return p.mem.DialContext(ctx, "", "") }, seed, plan)
}

func (p *peer) url() string { return p.server.URL() }

// client makes a client of this peer, which ends with the test.
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

// connected makes a client and connects it.
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

// waitLimit ends a wait for what does not come. In a bubble it is of the
// bubble's time.
const waitLimit = time.Minute

// wait returns when done does, which is asked under the lock at every change.
func (p *peer) wait(what string, done func() bool) {
	p.tb.Helper()
	p.mu.Wait(p.tb, waitLimit, what, done)
}

// conn waits for the n-th connection, counted from 0.
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

// find waits for a message that matches.
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

// messages lists what came over connection n (-1: all) and matches.
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

// tokenMark is in every reattach token that a peer gives, so that a log can be
// searched for it.
const tokenMark = "70c370c3-5ec2-4e75"

// welcome sends the greeting.
func (c *peerConn) welcome() {
	c.send(fmt.Sprintf(`{"type":"workerregistered","worker_id":%q,"reattach_token":"%s-8e75-%012d"}`, c.workerID, tokenMark, c.n))
}

// send sends a text message; a connection that is gone is no error.
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
			c.peer.tb.Errorf("peer: message does not decode: %v: %.200s", err, raw)
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

// answer does what the engine does.
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

// result answers a call.
func (c *peerConn) result(m *peerMessage, result string) {
	c.send(fmt.Sprintf(`{"type":"invocationresult","invocation_id":%q,"function_id":%q,"result":%s}`, m.InvocationID, m.FunctionID, result))
}

// fail answers a call with an error.
func (c *peerConn) fail(m *peerMessage, code, message string) {
	c.send(fmt.Sprintf(`{"type":"invocationresult","invocation_id":%q,"function_id":%q,"error":{"code":%q,"message":%q}}`,
		m.InvocationID, m.FunctionID, code, message))
}

// invoke calls a function of the client and returns the id of the call.
func (c *peerConn) invoke(functionID, data string) string {
	id := uuid.NewString()
	c.send(fmt.Sprintf(`{"type":"invokefunction","invocation_id":%q,"function_id":%q,"data":%s}`, id, functionID, data))
	return id
}

// answered waits for the answer to an invoke.
func (p *peer) answered(id string) *peerMessage {
	p.tb.Helper()
	return p.find("answer", func(m *peerMessage) bool { return m.Type == "invocationresult" && m.InvocationID == id })
}
