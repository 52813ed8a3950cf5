package iii

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/otlpjson"
)

// otelPeer is a scripted telemetry socket: it keeps frames and answers pings in order,
// except where its script differs.
type otelPeer struct {
	tb     testing.TB
	server *enginetest.Server
	mem    *memnet.Listener // nil if the peer is not in memory
	script otelScript

	mu     enginetest.Watched
	dials  []time.Time
	conns  []*otelConn
	frames []otelFrame
}

// otelScript defines where a peer differs from the engine. Its functions run on the
// goroutine that reads the connection.
type otelScript struct {
	refuse func(n int, r *http.Request) int       // HTTP status that refuses dial n; 0: upgrade
	greet  func(c *otelConn)                      // called after the upgrade
	frame  func(c *otelConn, payload []byte) bool // false: the frame is not kept
	ping   func(c *otelConn, payload []byte) bool // true: handled
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
	dead  bool // the connection was cut: received data is ignored
	ended chan struct{}
	err   error // why it ended; valid after ended
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

// options returns the options of a connection to this peer.
func (p *otelPeer) options(opts ...ConnectionOption) []ConnectionOption {
	all := []ConnectionOption{WithConnectionLogger(testLogger)}
	if p.mem != nil {
		all = append(all, WithConnectionDialContext(p.mem.DialContext))
	}
	return append(all, opts...)
}

// connection returns a connection to this peer, which ends with the test.
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

// kill ends the connection as a crash does: received data is ignored from then on.
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

// wait returns once done, which is called under the lock at every change, returns true.
func (p *otelPeer) wait(what string, done func() bool) {
	p.tb.Helper()
	p.mu.Wait(p.tb, time.Hour, what, done)
}

// conn waits for the n-th connection, counted from 0.
func (p *otelPeer) conn(n int) *otelConn {
	p.tb.Helper()
	p.wait(fmt.Sprintf("connection %d", n), func() bool { return len(p.conns) > n })
	return p.conns[n]
}

// received returns the frames that have arrived.
func (p *otelPeer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, f := range p.frames {
		all = append(all, f.data)
	}
	return all
}

// dialled returns the times of all attempts.
func (p *otelPeer) dialled() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.dials...)
}

// cutShort ends a connection immediately.
func cutShort(s *SharedEngineConnection) {
	s.drain()
	s.stop()
	<-s.done
}

// logFrame returns a LOGS message with the number n.
func logFrame(n int) OtelMessage {
	return OtelMessage{Prefix: otlpjson.PrefixLogs, Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

// stateLog is a state listener that records its calls.
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

// wait returns once the state has been reached n times.
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
