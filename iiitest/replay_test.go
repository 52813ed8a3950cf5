package iiitest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// scenario is a recorded conversation that the development engine must reproduce.
type scenario struct {
	name string
	opts []Option
	// seed, if not nil, restores state created by earlier conversations.
	seed func(e *Engine)
	// clients maps the name of each stream socket client to its handshake headers.
	clients map[string]http.Header
	// guarded maps the name of each worker on the guarded listener to its handshake headers.
	guarded map[string]http.Header
	// callee is the host of functions invoked over HTTP, or "".
	callee string
	// begin is the time at which the conversation starts. The zero value means the start of
	// the bubble's clock.
	begin time.Time
	// silent lists the paths of requests without a recorded response.
	silent []string
	// web is the client that sent the HTTP requests. The default is Python's urllib.
	web *webClient
	// unrecorded contains messages that are missing from the recording although their effects
	// are recorded. The keys are the numbers of the lines after which the messages are
	// inserted.
	unrecorded map[int]event
	// omit contains the first and last line numbers of a section that is not replayed.
	omit [2]int
}

type deviation struct {
	scenario *regexp.Regexp
	path     *regexp.Regexp
	reason   string
	used     bool
}

func deviates(scenario, path, reason string) *deviation {
	return &deviation{regexp.MustCompile("^(" + scenario + ")$"), regexp.MustCompile("^(" + path + ")$"), reason, false}
}

// TestReplay replays each recording against a new engine and expects the recorded messages. It
// runs in a synctest bubble, so that recorded actions take place at exactly the recorded
// times. It can therefore verify that no further messages arrive.
func TestReplay(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			events := s.complete(readRecording(t, s.name))
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(s.begin))
				opts := s.opts
				var server *callee
				if s.callee != "" {
					server = newCallee(t, s.callee)
					opts = append(opts, server.option)
				}
				p := &player{
					t: t, scenario: s.name, engine: Start(t, append(opts, WithProtocol(Protocol023))...), callee: server, start: time.Now(),
					workers: map[string]*bareWorker{}, names: newRenaming(),
					clients: s.clients, guarded: s.guarded, silent: s.silent, web: s.web, dialing: map[string]chan dialed{},
				}
				if s.seed != nil {
					s.seed(p.engine)
				}
				p.play(events)
			})
		})
	}
	if t.Failed() {
		return
	}
	for _, d := range deviations {
		if !d.used {
			t.Errorf("the deviation %v at %v never happens", d.scenario, d.path)
		}
	}
}

// complete inserts unrecorded messages and removes the omitted section.
func (s scenario) complete(events []event) (list []event) {
	for _, e := range events {
		if e.line >= s.omit[0] && e.line <= s.omit[1] {
			continue
		}
		list = append(list, e)
		if more, ok := s.unrecorded[e.line]; ok {
			more.line, more.MS = e.line, e.MS
			list = append(list, more)
		}
	}
	return list
}

type player struct {
	t        *testing.T
	scenario string
	engine   *Engine
	start    time.Time
	workers  map[string]*bareWorker // the latest with each name
	earlier  []*bareWorker          // replaced by a worker of the same name, but not closed
	names    renaming
	clients  map[string]http.Header
	guarded  map[string]http.Header
	callee   *callee
	silent   []string
	web      *webClient
	dialing  map[string]chan dialed
}

// bareWorker is a recorded worker's socket.
type bareWorker struct {
	name    string
	conn    *websocket.Conn
	channel bool // is an end of a channel
	pinged  bool // has already sent the next recorded ping
	pongs   atomic.Int32
	binary  atomic.Int32 // number of messages received

	arrived chan struct{} // capacity 1; signals that inbox has grown
	ended   chan struct{}
	leaving bool // has started to close the connection
	closed  bool // the end of the connection has been replayed

	mu    sync.Mutex
	inbox []received // received messages without a recorded counterpart so far
	err   error      // error that ended the connection
}

type received struct {
	kind int
	data []byte
}

func (w *bareWorker) read() {
	defer close(w.ended)
	for {
		kind, data, err := w.conn.ReadMessage()
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		if kind == websocket.BinaryMessage {
			w.binary.Add(1)
		}
		w.inbox = append(w.inbox, received{kind, data})
		w.mu.Unlock()
		select {
		case w.arrived <- struct{}{}:
		default:
		}
	}
}

// patience is how much later than recorded a message may arrive.
const patience = 20 * time.Second

func (p *player) play(events []event) {
	requests := p.requests(events)
	for i, e := range events {
		if wait := time.Until(p.start.Add(time.Duration(e.MS) * time.Millisecond)); wait > 0 && e.Dir != "recv" && e.HTTP == nil && e.Received == nil {
			time.Sleep(wait)
		}
		synctest.Wait()
		for _, r := range requests {
			if r.at == i {
				go r.do(p)
			}
		}
		p.lookAhead(events, i)
		switch {
		case e.Event == "open":
			p.open(e)
		case e.Event == "refused":
			p.refused(e)
		case e.Event == "closed":
			p.close(e)
		case e.Answer != "":
			p.answered(e, requests)
		case e.Event != "":
			p.act(e)
		case e.Dir == "send":
			p.send(e)
		case e.Dir == "recv":
			p.receive(e)
		case e.Received != nil:
			p.called(e)
		case e.HTTP != nil:
			p.answered(e, requests)
		default:
			p.t.Fatalf("line %d: cannot be played", e.line)
		}
	}
	synctest.Wait()
	for _, w := range append(slices.Collect(maps.Values(p.workers)), p.earlier...) {
		_ = w.conn.Close()
		<-w.ended
		for _, extra := range w.inbox {
			p.t.Errorf("%s got something that is not recorded: %s", w.name, extra.data)
		}
	}
}

func (p *player) dial(path string) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{NetDialContext: p.engine.DialContext}
	return d.DialContext(p.t.Context(), p.engine.URL()+"/"+strings.TrimPrefix(p.names.translate(path), "/"), nil)
}

func (p *player) open(e event) {
	conn, err := p.connection(e)
	if err != nil {
		p.t.Fatalf("line %d: %v", e.line, err)
	}
	w := &bareWorker{
		name: e.Worker, conn: conn, channel: strings.Contains(e.Path, "/channels/"),
		arrived: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	conn.SetPongHandler(func(string) error {
		w.pongs.Add(1)
		return nil
	})
	if old := p.workers[e.Worker]; old != nil && !old.closed {
		p.earlier = append(p.earlier, old)
	}
	p.workers[e.Worker] = w
	go w.read()
}

// ending returns the worker whose connection closed in a recorded event. If several workers
// have had the worker's name, ending returns the oldest for which done returns false.
func (p *player) ending(e event, done func(*bareWorker) bool) *bareWorker {
	for _, w := range p.earlier {
		if w.name == e.Worker && !done(w) {
			return w
		}
	}
	return p.workers[e.Worker]
}

func (p *player) refused(e event) {
	conn, response, err := p.dial(e.URL)
	if err == nil {
		_ = conn.Close()
		p.t.Errorf("line %d: not refused", e.line)
		return
	}
	if want := fmt.Sprintf("HTTP %d", response.StatusCode); !strings.HasSuffix(e.Error, want) {
		p.t.Errorf("line %d: got %s, recorded %s", e.line, want, e.Error)
	}
}

// act performs a recorded worker's action, other than sending a message.
func (p *player) act(e event) {
	w := p.ending(e, func(w *bareWorker) bool { return w.leaving })
	payload, _ := hex.DecodeString(e.Bytes)
	control := func(kind int) {
		if err := w.conn.WriteControl(kind, payload, time.Time{}); err != nil {
			p.t.Errorf("line %d: %v", e.line, err)
		}
	}
	frame := func(first byte, payload string) {
		if _, err := w.conn.NetConn().Write(clientFrame(first, payload)); err != nil {
			p.t.Errorf("line %d: %v", e.line, err)
		}
	}
	switch e.Event {
	case "send failed", "failed": // the recorded worker noticed that its connection was closed
	case "drops its socket":
		w.leaving = true
		_ = w.conn.Close()
	case "send close":
		w.leaving = true
		select {
		case <-w.ended: // the recorded worker noticed the end only here
		default:
			control(websocket.CloseMessage)
		}
	case "send pong":
		control(websocket.PongMessage)
	case "send ping":
		if !w.pinged {
			control(websocket.PingMessage)
		}
		w.pinged = false
	case "a message in three fragments, a ping between them":
		frame(opBinary, "frag")
		frame(0x80|9, "mid")
		frame(opContinuation, "men")
		frame(0x80|opContinuation, "ts")
		w.pinged = true
	case "a text in two fragments":
		frame(opText, "te")
		frame(0x80|opContinuation, "xt")
	case "a text that is no UTF-8":
		frame(0x80|opText, "\xff\xfe")
	case "70 binary frames":
		for i := range 70 {
			frame(0x80|opBinary, strconv.Itoa(i))
		}
	case "pongs received":
		if got := int(w.pongs.Load()); got != e.Count {
			p.t.Errorf("line %d: %d pongs, recorded %d", e.line, got, e.Count)
		}
	case "frames received":
		if got := int(w.binary.Load()); got != e.Count {
			p.t.Errorf("line %d: %d frames, recorded %d", e.line, got, e.Count)
		}
	default:
		p.t.Fatalf("line %d: cannot be played", e.line)
	}
	synctest.Wait()
}

// clientFrame encodes a client frame with a masking key of zeros. The payload must be shorter
// than 126 bytes.
func clientFrame(first byte, payload string) []byte {
	return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// close replays the closing of a connection, either by the worker or by the engine, with or
// without a Close frame.
func (p *player) close(e event) {
	w := p.ending(e, func(w *bareWorker) bool { return w.closed })
	w.closed = true
	check := func() {
		if got := closeCode(w.err); (got != e.Code || closeReason(w.err) != e.Reason) && !p.deliberate(fmt.Sprintf("%s closed, line %d", e.Worker, e.line), true) {
			p.t.Errorf("line %d: %s closed with %d, recorded %d %q: %v", e.line, e.Worker, got, e.Code, e.Reason, w.err)
		}
	}
	select {
	case <-w.ended:
		check()
		return
	default:
	}
	switch {
	case e.Code == websocket.CloseNoStatusReceived: // sent only by the engine
		select {
		case <-w.ended:
			check()
		case <-time.After(patience):
			p.t.Errorf("line %d: %s is not closed", e.line, e.Worker)
		}
		return
	case e.Code == websocket.CloseNormalClosure, !w.channel:
		_ = w.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Time{})
		select {
		case <-w.ended:
			check()
		case <-time.After(patience):
			p.t.Errorf("line %d: %s is not closed", e.line, e.Worker)
		}
	}
	_ = w.conn.Close()
	<-w.ended
	synctest.Wait()
}

func closeReason(err error) string {
	if ce, ok := err.(*websocket.CloseError); ok && ce.Code != websocket.CloseAbnormalClosure {
		return ce.Text
	}
	return ""
}

func closeCode(err error) int {
	if ce, ok := err.(*websocket.CloseError); ok {
		return ce.Code
	}
	return websocket.CloseAbnormalClosure
}

func (p *player) send(e event) {
	w := p.workers[e.Worker]
	if w.closed || w.leaving { // the recorded worker noticed the end only when sending
		return
	}
	kind, data := websocket.TextMessage, []byte(e.Frame)
	switch {
	case e.Text != nil:
		data = []byte(*e.Text)
	case e.Binary != nil:
		kind, data = websocket.BinaryMessage, e.bytes()
	case e.Prefix != "":
		kind = websocket.BinaryMessage
		data = []byte(e.Prefix + p.names.translate(string(e.OTLP)))
	}
	if kind == websocket.TextMessage {
		data = []byte(p.names.translate(string(data)))
		p.names.own(string(data))
	}
	if err := w.conn.WriteMessage(kind, data); err != nil {
		p.t.Errorf("line %d: %s cannot send: %v", e.line, e.Worker, err)
	}
	synctest.Wait()
	time.Sleep(time.Microsecond) // gives each event a distinct time
}

// receive waits for a recorded message. Calls and results may arrive in any order, because the
// engine guarantees no order for them. All other messages must arrive in the recorded order.
func (p *player) receive(e event) {
	w := p.workers[e.Worker]
	if e.Binary != nil && w.channel {
		if synctest.Wait(); !p.take(w, e) {
			p.receiveBytes(w, e)
		}
		return
	}
	for end := time.After(patience); end != nil; {
		synctest.Wait()
		if p.take(w, e) {
			return
		}
		select {
		case <-w.arrived:
		case <-end:
			end = nil
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.t.Errorf("line %d: %s did not get\n%s%s", e.line, e.Worker, e.Frame, e.payload())
	for _, r := range w.inbox {
		c := p.compare(e, r, p.names.clone(), false)
		p.t.Errorf("but: %s\n  %s", r.data, strings.Join(c.diffs, "\n  "))
	}
	p.t.FailNow()
}

// receiveBytes waits for recorded bytes on a channel. It ignores how the bytes are divided
// into messages, which depends on timing.
func (p *player) receiveBytes(w *bareWorker, e event) {
	want := e.bytes()
	for end := time.After(patience); len(want) > 0; {
		synctest.Wait()
		w.mu.Lock()
		for len(w.inbox) > 0 && len(want) > 0 && w.inbox[0].kind == websocket.BinaryMessage {
			n := min(len(w.inbox[0].data), len(want))
			if got := w.inbox[0].data[:n]; !e.counted() && !bytes.Equal(got, want[:n]) {
				p.t.Errorf("line %d: %s got %q, recorded %q", e.line, e.Worker, got, want[:n])
			}
			want = want[n:]
			if w.inbox[0].data = w.inbox[0].data[n:]; len(w.inbox[0].data) == 0 {
				w.inbox = w.inbox[1:]
			}
		}
		w.mu.Unlock()
		if len(want) == 0 {
			return
		}
		select {
		case <-w.arrived:
		case <-end:
			p.t.Fatalf("line %d: %s did not get %d bytes", e.line, e.Worker, len(want))
		}
	}
}

func (e event) payload() string {
	switch {
	case e.Text != nil:
		return *e.Text
	case e.Binary != nil:
		return *e.Binary
	}
	return ""
}

// take removes a recorded message's counterpart from the inbox.
func (p *player) take(w *bareWorker, e event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range w.inbox {
		names := p.names.clone()
		if c := p.compare(e, r, names, false); len(c.diffs) == 0 {
			p.compare(e, r, names.clone(), true) // mark deviations as used
			p.names = names
			w.inbox = slices.Delete(w.inbox, i, i+1)
			return true
		}
		if e.Frame == nil || !unordered(e.Frame) && !unordered(r.data) {
			return false
		}
	}
	return false
}

// unordered reports whether the engine may send a message out of order.
func unordered(m []byte) bool {
	switch (Frame{Message: m}).Type() {
	case "invokefunction", "invocationresult", "unregistertrigger":
		return true
	}
	return false
}

func (p *player) compare(e event, r received, names renaming, note bool) *comparison {
	path := e.Worker
	c := &comparison{names: names, allow: func(at string) bool { return p.deliberate(at, note) }}
	switch {
	case e.Frame != nil:
		want, ok := decode(p.t, e.Frame).(map[string]any)
		if !ok || r.kind != websocket.TextMessage {
			c.diffs = append(c.diffs, "another kind of message")
			break
		}
		if id, ok := want["function_id"].(string); ok {
			path += " " + id
		}
		c.value(path, want, decode(p.t, r.data))
	case e.Text != nil && r.kind == websocket.TextMessage:
		c.value(path, *e.Text, string(r.data))
	case e.Binary != nil && r.kind == websocket.BinaryMessage:
		c.value(path, hex.EncodeToString(e.bytes()), hex.EncodeToString(r.data))
	default:
		c.diffs = append(c.diffs, "another kind of message")
	}
	return c
}

// deliberate reports whether a difference is a listed deviation. If note is true, it also
// marks the deviation as used.
func (p *player) deliberate(path string, note bool) bool {
	for _, d := range deviations {
		if d.scenario.MatchString(p.scenario) && d.path.MatchString(path) {
			d.used = d.used || note
			return true
		}
	}
	return false
}
