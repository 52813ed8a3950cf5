package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// recordedEvent is one line of a recorded session between workers and a real engine.
type recordedEvent struct {
	line     int
	Worker   string          `json:"worker"`
	Dir      string          `json:"dir"` // "send" or "recv", as seen by the worker
	Frame    json.RawMessage `json:"frame"`
	Received json.RawMessage `json:"received"` // an HTTP request from the engine
}

type recordedFrame struct {
	Type         string          `json:"type"`
	InvocationID string          `json:"invocation_id"`
	FunctionID   string          `json:"function_id"`
	Data         json.RawMessage `json:"data"`
	Result       json.RawMessage `json:"result"`
	Error        *iii.ErrorBody  `json:"error"`
	Action       json.RawMessage `json:"action"`
}

func readRecording(t *testing.T, name string) []recordedEvent {
	t.Helper()
	file, err := os.ReadFile("testdata/0.23/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var events []recordedEvent
	for i, line := range bytes.Split(bytes.TrimSpace(file), []byte("\n")) {
		e := recordedEvent{line: i + 1}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s:%d: %v", name, i+1, err)
		}
		events = append(events, e)
	}
	return events
}

func frameOf(t *testing.T, e recordedEvent) (f recordedFrame) {
	t.Helper()
	if e.Frame == nil {
		return f
	}
	if err := json.Unmarshal(e.Frame, &f); err != nil {
		t.Fatalf("line %d: %v", e.line, err)
	}
	return f
}

// recordedCall is a call that a worker made, with the engine's reply.
type recordedCall struct {
	line       int
	functionID string
	data       json.RawMessage
	result     json.RawMessage // nil if the call failed or got no reply
	err        *iii.ErrorBody
}

// recordedCalls returns a recording's calls to functions whose ids begin with one of the
// prefixes, in order.
func recordedCalls(t *testing.T, name string, prefixes ...string) []recordedCall {
	t.Helper()
	var calls []recordedCall
	asked := map[string]int{}
	for _, e := range readRecording(t, name) {
		f := frameOf(t, e)
		switch {
		case f.Type == "invokefunction" && e.Dir == "send" && f.InvocationID != "":
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.FunctionID, p) }) {
				asked[f.InvocationID] = len(calls)
				calls = append(calls, recordedCall{line: e.line, functionID: f.FunctionID, data: f.Data})
			}
		case f.Type == "invocationresult" && e.Dir == "recv":
			if i, ok := asked[f.InvocationID]; ok {
				calls[i].result, calls[i].err = f.Result, f.Error
			}
		}
	}
	if len(calls) == 0 {
		t.Fatalf("%s contains no call to %v", name, prefixes)
	}
	return calls
}

// diffDocuments returns the difference between two JSON documents, or "" if they are equal.
// Numbers are equal only if they are written identically.
func diffDocuments(want, got json.RawMessage) string {
	decode := func(raw json.RawMessage) any {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return fmt.Sprintf("%v in %q", err, raw)
		}
		return v
	}
	w, g := decode(want), decode(got)
	if reflect.DeepEqual(w, g) { // avoids cmp.Diff, which is too slow for deeply nested values
		return ""
	}
	return cmp.Diff(w, g)
}

// recordedEngine stands in for the engine's functions. It expects the recorded calls in order
// and sends the recorded replies to them.
type recordedEngine struct {
	t     *testing.T
	mu    sync.Mutex
	calls []recordedCall
	next  int
}

// answerAsRecorded connects a client whose calls are served by a recordedEngine.
func answerAsRecorded(t *testing.T, calls []recordedCall) (*iii.Client, *recordedEngine) {
	t.Helper()
	e := iiitest.Start(t, withTriggers) // the recordings come from an engine with triggers
	r := &recordedEngine{t: t, calls: calls}
	stand, err := iii.New(e.URL(), iii.WithName("stand-in"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stand.Close() })
	var ids []string
	for _, c := range calls {
		if slices.Contains(ids, c.functionID) {
			continue
		}
		ids = append(ids, c.functionID)
		if _, err := stand.HandleFunc(c.functionID, r.answer, iii.WithBuiltinOverride()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stand.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return connect(t, e), r
}

func (r *recordedEngine) answer(ctx context.Context, payload json.RawMessage) (any, error) {
	inv, _ := iii.InvocationFromContext(ctx)
	var data map[string]json.RawMessage
	if err := json.Unmarshal(payload, &data); err != nil {
		return nil, err
	}
	delete(data, "_caller_worker_id") // not part of the recorded input
	got, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == len(r.calls) {
		r.t.Errorf("%s is called more often than recorded", inv.FunctionID)
		return nil, nil
	}
	want := r.calls[r.next]
	r.next++
	if inv.FunctionID != want.functionID {
		r.t.Errorf("line %d: %s is called, not %s", want.line, inv.FunctionID, want.functionID)
	}
	if diff := diffDocuments(want.data, got); diff != "" {
		r.t.Errorf("line %d: input of %s (-recorded +sent):\n%s", want.line, want.functionID, diff)
	}
	if want.err != nil {
		return nil, &iii.Error{Code: want.err.Code, Message: want.err.Message}
	}
	return want.result, nil
}

// done reports an error if some recorded calls have not been made.
func (r *recordedEngine) done() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != len(r.calls) {
		r.t.Errorf("%d of %d recorded calls were made", r.next, len(r.calls))
	}
}

// delivery invokes a worker's functions with recorded messages.
type delivery struct {
	engine  *iiitest.Engine
	worker  string
	answers chan recordedFrame
}

// deliverTo returns a delivery that invokes a connected worker's functions and intercepts the
// results.
func deliverTo(e *iiitest.Engine, worker string) *delivery {
	d := &delivery{engine: e, worker: worker, answers: make(chan recordedFrame, 1)}
	e.Hook(func(f iiitest.Frame) iiitest.Verdict {
		if f.Direction == iiitest.ToEngine && f.WorkerName == worker && f.Type() == "invocationresult" {
			var answer recordedFrame
			if err := json.Unmarshal(f.Message, &answer); err == nil {
				d.answers <- answer
			}
		}
		return iiitest.Verdict{}
	})
	return d
}

// invoke sends a recorded invocation and returns the worker's result.
func (d *delivery) invoke(t *testing.T, frame json.RawMessage) recordedFrame {
	t.Helper()
	if !d.engine.Send(d.worker, frame) {
		t.Fatal("the worker is not connected")
	}
	select {
	case answer := <-d.answers:
		return answer
	case <-t.Context().Done():
		t.Fatal("no answer")
		return recordedFrame{}
	}
}

// bubble runs a test with an engine in virtual time. Keepalives prevent synctest from
// detecting a deadlock, so bubble panics after 24 hours of virtual time.
func bubble(t *testing.T, test func(t *testing.T, e *iiitest.Engine), opts ...iiitest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limit := time.AfterFunc(24*time.Hour, func() { panic(t.Name() + " hangs") })
		defer limit.Stop()
		test(t, iiitest.Start(t, opts...))
	})
}

// workerBubble is like bubble, but passes a connected client.
func workerBubble(t *testing.T, test func(t *testing.T, c *iii.Client), opts ...iiitest.Option) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) { test(t, connect(t, e, iii.WithDialContext(e.DialContext))) }, opts...)
}

// withTriggers selects a protocol that has triggers. The default protocol has observers
// instead.
var withTriggers = iiitest.WithProtocol(iiitest.Protocol023)

// hasTriggers reports whether e has triggers.
func hasTriggers(e *iiitest.Engine) bool { return e.Protocol() == iiitest.Protocol023 }

// generations runs bubble twice: on an engine with triggers and on one with observers.
func generations(t *testing.T, test func(t *testing.T, e *iiitest.Engine), opts ...iiitest.Option) {
	t.Helper()
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) { bubble(t, test, append(slices.Clone(opts), iiitest.WithProtocol(protocol))...) })
	}
}

// bound returns the engine's triggers and observers, as a map from their ids to their
// functions' ids.
func bound(t *testing.T, e *iiitest.Engine, c *iii.Client) map[string]string {
	t.Helper()
	list := map[string]string{}
	triggers, err := c.Triggers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, trigger := range triggers {
		list[trigger.ID] = trigger.FunctionID
	}
	for _, o := range e.Observers() {
		list[o.ID] = o.Target.FunctionID
	}
	return list
}

// wire dials an engine in memory. It can break and degrade the connections.
type wire struct {
	engine *iiitest.Engine

	mu     sync.Mutex
	conns  []net.Conn // client ends, oldest first
	away   bool       // every dial fails
	mute   bool       // the next connection delivers the handshake response, then nothing more to the client
	passes int        // if positive, the next connection delivers only this many of the client's writes
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	away, mute, passes := w.away, w.mute, w.passes
	w.mute, w.passes = false, 0
	w.mu.Unlock()
	if away {
		return nil, errors.New("no route to the engine")
	}
	conn, err := w.engine.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if mute || passes > 0 {
		conn = impair(conn, mute, passes)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conn)
	return conn, nil
}

// impair returns a connection to engine that delivers only part of the traffic. The parameters
// mute and passes have the same meaning as wire's fields.
func impair(engine net.Conn, mute bool, passes int) net.Conn {
	near, far := net.Pipe()
	var down, up io.Writer = far, engine
	if mute {
		down = &limitedWrites{far, 1}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer far.Close()
		_, _ = io.Copy(down, engine)
	}()
	go func() {
		defer engine.Close()
		if passes > 0 {
			for range passes {
				buf := make([]byte, 64<<10)
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				if _, err := up.Write(buf[:n]); err != nil {
					return
				}
			}
			<-ended // stop reading, so that the client's writes block
			return
		}
		_, _ = io.Copy(up, far)
	}()
	return near
}

// limitedWrites discards all but the first few writes.
type limitedWrites struct {
	io.Writer
	left int
}

func (l *limitedWrites) Write(p []byte) (int, error) {
	if l.left--; l.left < 0 {
		return len(p), nil
	}
	return l.Writer.Write(p)
}

// cut closes the newest connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.conns[len(w.conns)-1].Close()
}

func (w *wire) set(f func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *wire) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// streamBubble is like workerBubble, but also passes a wire that dials the stream socket.
func streamBubble(t *testing.T, test func(t *testing.T, c *iii.Client, w *wire), opts ...iiitest.Option) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		test(t, connect(t, e, iii.WithDialContext(e.DialContext)), &wire{engine: e})
	}, opts...)
}

func (w *wire) subscribe(ctx context.Context, subs ...iii.StreamSubscription) iter.Seq2[iii.StreamMessage, error] {
	return iii.SubscribeWith(ctx, iii.SubscribeOptions{URL: w.engine.StreamURL(), DialContext: w.dial}, subs...)
}
