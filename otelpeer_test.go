package iii

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/otlpjson"
)

// otelPeer is the engine's telemetry socket, scripted: it keeps frames and
// answers pings in order, and does otherwise where a test wants it to.
type otelPeer struct {
	tb       testing.TB
	listener net.Listener
	mem      *memListener // nil: TCP
	script   otelScript

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	dials   []time.Time
	conns   []*otelConn
	frames  []otelFrame
	open    map[net.Conn]struct{}
	closed  bool
	wg      sync.WaitGroup
}

// otelScript says where a peer differs from the engine. Its functions run on the
// goroutine that reads the connection.
type otelScript struct {
	refuse func(n int, r *http.Request) int       // HTTP status instead of the upgrade of dial n; 0: none
	greet  func(c *otelConn)                      // after the upgrade
	frame  func(c *otelConn, payload []byte) bool // false: the frame is not kept
	ping   func(c *otelConn, payload []byte) bool // true: handled
	pong   func(c *otelConn, payload []byte)
	end    func(c *otelConn, op byte, reason []byte) // a Close frame has come
}

type otelFrame struct {
	conn int
	data string
	at   time.Time
}

type otelConn struct {
	*wsConn
	peer  *otelPeer
	n     int
	pings int
	gate  chan struct{} // capacity 1: full while it does not read
	dead  bool          // it was cut: what has come is not looked at any more
	ended chan struct{}
	err   error // why it ended; after ended
}

func newOtelPeer(tb testing.TB, s otelScript) *otelPeer {
	mem := newMemListener()
	p := newOtelPeerOn(tb, mem, s)
	p.mem = mem
	return p
}

func newTCPOtelPeer(tb testing.TB, s otelScript) *otelPeer {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return newOtelPeerOn(tb, l, s)
}

func newOtelPeerOn(tb testing.TB, l net.Listener, s otelScript) *otelPeer {
	p := &otelPeer{tb: tb, listener: l, script: s, changed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

func (p *otelPeer) url() string { return "ws://" + p.listener.Addr().String() }

// options are those of a connection to this peer.
func (p *otelPeer) options(opts ...ConnectionOption) []ConnectionOption {
	all := []ConnectionOption{WithConnectionLogger(testLogger)}
	if p.mem != nil {
		all = append(all, WithConnectionDialContext(p.mem.DialContext))
	}
	return append(all, opts...)
}

// connection makes a connection to this peer, which ends with the test.
func (p *otelPeer) connection(opts ...ConnectionOption) *SharedEngineConnection {
	p.tb.Helper()
	s, err := NewSharedEngineConnection(p.url(), p.options(opts...)...)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { cutShort(s) })
	return s
}

func (p *otelPeer) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = conn.Close()
			return
		}
		p.open[conn] = struct{}{}
		n := len(p.dials)
		p.dials = append(p.dials, time.Now())
		p.notify()
		p.wg.Go(func() { p.serve(conn, n) })
		p.mu.Unlock()
	}
}

func (p *otelPeer) serve(conn net.Conn, n int) {
	defer func() {
		_ = conn.Close()
		p.mu.Lock()
		delete(p.open, conn)
		p.mu.Unlock()
	}()
	var status func(*http.Request) int
	if p.script.refuse != nil {
		status = func(r *http.Request) int { return p.script.refuse(n, r) }
	}
	ws, err := wsAccept(conn, status)
	if err != nil {
		return
	}
	c := &otelConn{wsConn: ws, peer: p, gate: make(chan struct{}, 1), ended: make(chan struct{})}
	p.mu.Lock()
	c.n = len(p.conns)
	p.conns = append(p.conns, c)
	p.notify()
	p.mu.Unlock()
	defer close(c.ended)
	if p.script.greet != nil {
		p.script.greet(c)
	}
	c.err = c.read()
}

// kill ends the connection as a crash does: nothing that has come is looked at
// any more.
func (c *otelConn) kill() {
	c.dead = true
	c.cut()
}

func (c *otelConn) read() error {
	for {
		if c.dead {
			return errors.New("killed")
		}
		op, raw, _, err := c.readMessage(c.control)
		if err != nil {
			return err
		}
		c.gate <- struct{}{}
		<-c.gate
		switch op {
		case opClose:
			c.control(op, raw)
			return errPeerClosed
		case opPing, opPong:
			c.control(op, raw)
			continue
		case opBinary:
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
		c.peer.notify()
		c.peer.mu.Unlock()
	}
}

func (c *otelConn) control(op byte, payload []byte) {
	switch op {
	case opPing:
		c.pings++
		if c.peer.script.ping == nil || !c.peer.script.ping(c, payload) {
			c.pong(payload)
		}
	case opPong:
		if c.peer.script.pong != nil {
			c.peer.script.pong(c, payload)
		}
	case opClose:
		if c.peer.script.end != nil {
			c.peer.script.end(c, op, payload)
			return
		}
		_ = c.writeFrame(opClose, true, payload)
	}
}

func (c *otelConn) pong(payload []byte) { _ = c.writeFrame(opPong, true, payload) }

// stopReading makes the peer read nothing more until the returned function is called.
func (c *otelConn) stopReading() (resume func()) {
	c.gate <- struct{}{}
	return sync.OnceFunc(func() { <-c.gate })
}

func (p *otelPeer) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// close cuts all connections and joins the peer's goroutines.
func (p *otelPeer) close() {
	p.mu.Lock()
	p.closed = true
	for conn := range p.open {
		_ = conn.Close()
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.wg.Wait()
}

// wait returns when done does, which is asked under the lock at every change.
func (p *otelPeer) wait(what string, done func() bool) {
	p.tb.Helper()
	limit := time.NewTimer(time.Hour)
	defer limit.Stop()
	for {
		p.mu.Lock()
		ok, changed := done(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			p.tb.Fatalf("%s: did not happen", what)
		}
	}
}

// conn waits for the n-th connection, counted from 0.
func (p *otelPeer) conn(n int) *otelConn {
	p.tb.Helper()
	p.wait(fmt.Sprintf("connection %d", n), func() bool { return len(p.conns) > n })
	return p.conns[n]
}

// received lists the frames that have come.
func (p *otelPeer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, f := range p.frames {
		all = append(all, f.data)
	}
	return all
}

// dialled lists the times of all attempts.
func (p *otelPeer) dialled() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.dials...)
}

// cutShort ends a connection at once.
func cutShort(s *SharedEngineConnection) {
	s.drain()
	s.stop()
	<-s.done
}

// logFrame is a message of logs that says n.
func logFrame(n int) OtelMessage {
	return OtelMessage{Prefix: otlpjson.PrefixLogs, Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

// stateLog is a state listener that keeps what it is told.
type stateLog struct {
	mu      sync.Mutex
	changed chan struct{}
	states  []ConnectionState
	errs    []error
	times   []time.Time
}

func newStateLog() *stateLog { return &stateLog{changed: make(chan struct{})} }

func (l *stateLog) listen(s ConnectionState, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, s)
	l.errs = append(l.errs, suite.note(err))
	l.times = append(l.times, time.Now())
	close(l.changed)
	l.changed = make(chan struct{})
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

// wait returns once the state was reached n times.
func (l *stateLog) wait(tb testing.TB, s ConnectionState, n int) {
	tb.Helper()
	limit := time.NewTimer(time.Hour)
	defer limit.Stop()
	for {
		l.mu.Lock()
		count := 0
		for _, state := range l.states {
			if state == s {
				count++
			}
		}
		changed := l.changed
		l.mu.Unlock()
		if count >= n {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			tb.Fatalf("state %s was reached %d times, want %d", s, count, n)
		}
	}
}
