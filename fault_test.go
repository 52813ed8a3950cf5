package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// These tests run a scenario again and again. In run n, one fault occurs at the worker's n-th
// I/O step: the n-th time that the worker writes to one of its connections or receives data
// from one. A scenario has been explored once it ends before its fault occurs.

// faultKind is what happens at the chosen step.
type faultKind string

const (
	writeFails  faultKind = "write fails"        // nothing is written
	writeTorn   faultKind = "write is torn"      // half of the data is written
	writeLate   faultKind = "write fails late"   // all data is written, but the writer gets an error
	readFails   faultKind = "read fails"         // the data is lost
	readEnds    faultKind = "read ends"          // EOF in place of the data
	peerSilent  faultKind = "peer is silent"     // writes vanish, and no more data arrives
	peerStalled faultKind = "peer stops reading" // writes block, but data still arrives
	dialFails   faultKind = "dials fail"         // the first n dials
	ctxEnds     faultKind = "context ends"       // the context of the requests
	closed      faultKind = "client is closed"
	shutDown    faultKind = "client shuts down"
	functionOff faultKind = "function is removed"
	triggerOff  faultKind = "trigger is removed"
	observerOff faultKind = "observer is removed"
)

// faultLine dials the engine for the worker and makes one fault occur.
type faultLine struct {
	kind   faultKind
	at     int    // step of the fault, counted from 1
	action func() // runs concurrently with the step

	mu    sync.Mutex
	steps int
	dials int
	last  net.Conn
	done  bool // the fault has occurred, or no longer can
	fired bool // the fault has occurred
	left  sync.WaitGroup
}

var errFault = errors.New("injected fault")

// over returns a function that dials through the line.
func (l *faultLine) over(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		l.mu.Lock()
		l.dials++
		fail := l.kind == dialFails && l.dials <= l.at
		l.fired = l.fired || fail && l.dials == l.at
		l.mu.Unlock()
		if fail {
			return nil, errFault
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.last = conn
		l.mu.Unlock()
		near, far := net.Pipe()
		return &faultyConn{Conn: conn, line: l, stuck: near, far: far}, nil
	}
}

// strikes reports whether the fault occurs now. Steps of the other direction do not count.
func (l *faultLine) strikes(write bool) bool {
	switch l.kind {
	case dialFails:
		return false
	case writeFails, writeTorn, writeLate, peerStalled:
		if !write {
			return false
		}
	case readFails, readEnds:
		if write {
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps++
	if l.steps != l.at || l.done {
		return false
	}
	l.fired = true
	if l.action != nil {
		l.left.Go(l.action)
	}
	return true
}

// do sets the action.
func (l *faultLine) do(action func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.action = action
}

// next makes the fault occur at the next step.
func (l *faultLine) next() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = l.steps + 1
}

// cut closes the newest connection.
func (l *faultLine) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.last.Close()
}

// disarm prevents a fault that has not occurred yet, and reports whether it has.
func (l *faultLine) disarm() (occurred bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = true
	return l.fired
}

// faultyConn is a connection of a faultLine.
type faultyConn struct {
	net.Conn
	line       *faultLine
	stuck, far net.Conn // a pipe that nobody reads

	mu     sync.Mutex
	silent bool
	stall  bool
}

func (c *faultyConn) Write(p []byte) (int, error) {
	strikes := c.line.strikes(true)
	c.mu.Lock()
	if strikes {
		c.silent, c.stall = c.line.kind == peerSilent, c.line.kind == peerStalled
	}
	silent, stall := c.silent, c.stall
	c.mu.Unlock()
	switch {
	case silent:
		return len(p), nil
	case stall:
		return c.stuck.Write(p)
	case !strikes:
		return c.Conn.Write(p)
	}
	n := 0
	switch c.line.kind {
	case writeTorn:
		n, _ = c.Conn.Write(p[:len(p)/2])
	case writeLate:
		_, _ = c.Conn.Write(p)
	case writeFails:
	default:
		letOthersRun()
		return c.Conn.Write(p)
	}
	_ = c.Conn.Close()
	return n, errFault
}

func (c *faultyConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil {
			return n, err
		}
		strikes := c.line.strikes(false)
		c.mu.Lock()
		if strikes && c.line.kind == peerSilent {
			c.silent = true
		}
		silent := c.silent
		c.mu.Unlock()
		switch {
		case silent:
			continue
		case !strikes:
		case c.line.kind == readFails:
			return 0, errFault
		case c.line.kind == readEnds:
			return 0, io.EOF
		default:
			letOthersRun()
		}
		return n, nil
	}
}

func (c *faultyConn) Close() error {
	_, _ = c.stuck.Close(), c.far.Close()
	return c.Conn.Close()
}

func (c *faultyConn) SetDeadline(t time.Time) error {
	_ = c.stuck.SetDeadline(t)
	return c.Conn.SetDeadline(t)
}

func (c *faultyConn) SetWriteDeadline(t time.Time) error {
	_ = c.stuck.SetWriteDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

// letOthersRun gives other goroutines time without letting the bubble's clock advance.
func letOthersRun() {
	for range 50 {
		runtime.Gosched()
	}
}

// faultRun is one run of a scenario.
type faultRun struct {
	t      *testing.T
	e      *iiitest.Engine
	line   *faultLine
	worker *iii.Client     // dials through the line
	other  *iii.Client     // serves far::echo and far::sink
	ctx    context.Context // of the worker's requests; ends with the fault ctxEnds
	users  sync.WaitGroup

	mu       sync.Mutex
	requests []faultRequest
	expected []string // ids of the registrations
	endError error    // result of Shutdown
}

type faultRequest struct {
	verb string
	err  error
}

// function registers a function of the worker.
func (r *faultRun) function(id string, h iii.HandlerFunc) *iii.Function {
	f, err := r.worker.HandleFunc(id, h)
	if err != nil {
		r.t.Fatal(err)
	}
	r.expected = append(r.expected, id)
	return f
}

// forget removes an id from the expected registrations.
func (r *faultRun) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = slices.DeleteFunc(r.expected, func(other string) bool { return other == id })
}

// request makes a request of the worker and checks how it ends.
func (r *faultRun) request(ctx context.Context, verb string) error {
	r.mu.Lock()
	n := len(r.requests)
	r.requests = append(r.requests, faultRequest{verb: verb})
	r.mu.Unlock()
	payload := map[string]string{"request": fmt.Sprintf("<%d>", n)}
	began := time.Now()
	var err error
	switch verb {
	case "call":
		err = r.worker.Call(ctx, "far::echo", payload, nil)
	case "send":
		err = r.worker.Send(ctx, "far::sink", payload)
	case "enqueue":
		_, err = r.worker.Enqueue(ctx, "default", "far::sink", payload)
	}
	if took := time.Since(began); took > 31*time.Second {
		r.t.Errorf("%s %d returned after %v: %v", verb, n, took, err)
	}
	r.mu.Lock()
	r.requests[n].err = err
	r.mu.Unlock()
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		r.note(fmt.Sprintf("%s %d", verb, n), err)
	}
	return err
}

// note checks that an error belongs to a documented class and contains no secret.
func (r *faultRun) note(what string, err error) {
	_ = iii.NoteError(err)
	var remote *iii.Error
	switch {
	case err == nil, errors.Is(err, iii.ErrConnectionLost), errors.Is(err, iii.ErrNotConnected), errors.Is(err, iii.ErrClosed), errors.Is(err, iii.ErrTimeout):
	case r.ctx.Err() != nil && errors.Is(err, context.Canceled):
	case errors.As(err, &remote) && slices.Contains([]string{iii.CodeFunctionNotFound, iii.CodeInvocationStopped, iii.CodeWorkerDraining, "channel_send_failed"}, remote.Code):
	default:
		r.t.Errorf("%s: undocumented error: %v", what, err)
	}
	if err != nil && !strings.HasPrefix(err.Error(), "iii: ") {
		r.t.Errorf("%s: error without prefix: %v", what, err)
	}
}

// far returns its payload.
func far(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }

// settle waits until the worker has recovered from the fault, and checks what is registered.
func (r *faultRun) settle() {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	defer cancel()
	if err := r.worker.Connect(ctx); err != nil {
		r.t.Fatalf("the worker does not recover: %v", err)
	}
	for r.worker.Ready() != nil || r.worker.State() != iii.ConnectionStateConnected {
		if ctx.Err() != nil {
			r.t.Fatalf("the worker does not become ready: %v", r.worker.Ready())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.request(r.t.Context(), "call"); err != nil {
		r.t.Errorf("call after the fault: %v", err)
	}
	time.Sleep(3 * time.Second) // the engine may still be removing the previous connection
	r.compare()
}

// compare compares the engine's registrations with the expected ones.
func (r *faultRun) compare() {
	r.t.Helper()
	ids := registered(r.t, r.other)
	if r.e.Protocol() == iiitest.Protocol025 {
		for _, o := range r.e.Observers() {
			ids = append(ids, o.ID)
		}
	}
	slices.Sort(ids)
	want := slices.Sorted(slices.Values(r.expected))
	if diff := cmp.Diff(want, append([]string(nil), ids...)); diff != "" && len(want)+len(ids) > 0 {
		r.t.Errorf("registrations (-expected +engine):\n%s", diff)
	}
}

// books checks the fate of each request against the messages that the engine has received.
func (r *faultRun) books() {
	if n := r.e.Stats().FramesForgotten; n > 0 {
		r.t.Fatalf("%d frames forgotten", n)
	}
	var calls []string
	for _, f := range r.e.Frames() {
		if f.Direction == iiitest.ToEngine && f.WorkerName != "other" && f.Type() == "invokefunction" {
			calls = append(calls, string(f.Message))
		}
	}
	accepted, arrived, doubtful := 0, 0, 0
	for n, request := range r.requests {
		times := 0
		for _, call := range calls {
			if strings.Contains(call, fmt.Sprintf("<%d>", n)) || strings.Contains(call, fmt.Sprintf(`\u003c%d\u003e`, n)) {
				times++
			}
		}
		switch {
		case times > 1:
			r.t.Errorf("%s %d arrived %d times", request.verb, n, times)
		case times > 0 && iii.SafeToRetry(request.err):
			r.t.Errorf("%s %d arrived, but its error is safe to retry: %v", request.verb, n, request.err)
		case times == 0 && request.err == nil && request.verb != "send":
			r.t.Errorf("%s %d has a result, but did not arrive", request.verb, n)
		}
		switch {
		case request.verb != "send":
		case request.err == nil:
			accepted++
			arrived += times
		case !iii.SafeToRetry(request.err):
			doubtful++
		}
	}
	s := r.worker.Stats()
	if sum := s.SendsConfirmed + s.SendsUnknown + s.SendsDropped; sum < uint64(accepted) || sum > uint64(accepted+doubtful) {
		r.t.Errorf("%d Sends accepted and %d doubtful, but %d confirmed + %d unknown + %d dropped", accepted, doubtful, s.SendsConfirmed, s.SendsUnknown, s.SendsDropped)
	}
	if uint64(arrived+doubtful) < s.SendsConfirmed || uint64(accepted-arrived) > s.SendsUnknown+s.SendsDropped {
		r.t.Errorf("%d of %d accepted Sends arrived; %d confirmed, %d unknown, %d dropped", arrived, accepted, s.SendsConfirmed, s.SendsUnknown, s.SendsDropped)
	}
	if s.CallsInFlight != 0 || s.HandlersRunning != 0 || s.InvocationsQueued != 0 || s.Buffered != 0 || s.BufferedBytes != 0 || s.FunctionsRefused != 0 {
		r.t.Errorf("gauges of the closed client: %+v", s)
	}
	if s.FramesMalformed != 0 {
		r.t.Errorf("%d malformed frames", s.FramesMalformed)
	}
}

// explore runs a scenario with a fault of each kind at each step, on each protocol. The short
// test skips some steps.
func explore(t *testing.T, kinds []faultKind, scenario func(r *faultRun)) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		for _, kind := range kinds {
			if kind == observerOff && protocol == iiitest.Protocol023 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", protocol, kind), func(t *testing.T) {
				explored := false
				for at := 1; !explored && (kind != dialFails || at < 5); at += stride(at) {
					if !t.Run(fmt.Sprintf("at=%d", at), func(t *testing.T) {
						bubble(t, func(t *testing.T, e *iiitest.Engine) {
							explored = !runWithFault(t, e, kind, at, scenario)
						}, iiitest.WithProtocol(protocol))
					}) {
						return
					}
				}
			})
		}
	}
}

// stride returns the number of steps from one run to the next.
func stride(at int) int {
	if iii.RaceEnabled {
		return iii.Scale(1+at, 1)
	}
	return iii.Scale(1+at/3, 1)
}

// runWithFault reports whether the fault occurred.
func runWithFault(t *testing.T, e *iiitest.Engine, kind faultKind, at int, scenario func(r *faultRun)) bool {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &faultRun{t: t, e: e, ctx: ctx, line: &faultLine{kind: kind, at: at}}
	r.other = newWorker(t, e, iii.WithName("other"))
	for _, id := range []string{"far::echo", "far::sink"} {
		if _, err := r.other.HandleFunc(id, far); err != nil {
			t.Fatal(err)
		}
	}
	mustConnect(t, r.other)
	r.worker = newWorker(t, e, iii.WithDialContext(r.line.over(e.DialContext)), iii.WithHeader(http.Header{"Authorization": {"Bearer " + iii.SecretHeader}}),
		iii.WithStateListener(func(_ iii.ConnectionState, err error) { _ = iii.NoteError(err) }))
	switch kind {
	case ctxEnds:
		r.line.action = cancel
	case closed:
		r.line.action = func() { _ = r.worker.Close() }
	case shutDown:
		r.line.action = func() { r.endError = r.worker.Shutdown(t.Context()) }
	}
	scenario(r)
	r.users.Wait()
	occurred := r.line.disarm()
	r.line.left.Wait()
	synctest.Wait() // the worker may not have noticed the fault yet
	if !r.worker.Draining() {
		if kind == peerSilent || kind == peerStalled {
			time.Sleep(2 * time.Minute) // until the keepalive has noticed the fault
		}
		r.settle()
		if err := r.worker.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown after the fault: %v", err)
		}
	}
	if err := r.request(t.Context(), "call"); !errors.Is(err, iii.ErrClosed) || !iii.SafeToRetry(err) {
		t.Errorf("call of the closed client: %v", err)
	}
	if kind == shutDown && r.endError != nil {
		t.Errorf("shutdown with a healthy engine: %v", r.endError)
	}
	if kind == closed {
		time.Sleep(time.Minute) // the engine keeps the observers of a worker that may reconnect
	}
	r.expected = nil
	r.compare()
	_ = r.worker.Close()
	synctest.Wait()
	r.books()
	return occurred
}

var connectionFaults = []faultKind{writeFails, writeTorn, writeLate, readFails, readEnds, peerSilent, peerStalled, dialFails, ctxEnds, closed, shutDown}

func TestFaultsWhileRegistering(t *testing.T) {
	explore(t, append(slices.Clone(connectionFaults), functionOff, triggerOff, observerOff), func(r *faultRun) {
		r.function("w::echo", far)
		r.function("w::nest", func(ctx context.Context, _ json.RawMessage) (any, error) {
			return nil, r.request(ctx, "call")
		})
		spare := r.function("w::spare", far)
		for id, cfg := range map[string]iii.TriggerConfig{"t::topic": iii.SubscribeTriggerConfig{Topic: "topic"}, "t::route": iii.HTTPTriggerConfig{APIPath: "orders"}} {
			trigger, err := r.worker.Trigger("w::echo", cfg, iii.WithTriggerID(id))
			if err != nil {
				r.t.Fatal(err)
			}
			r.expected = append(r.expected, id)
			if r.line.kind == triggerOff && id == "t::topic" {
				r.line.action = func() {
					r.forget(id)
					if err := trigger.Unregister(); err != nil {
						r.t.Error(err)
					}
				}
			}
		}
		if r.e.Protocol() != iiitest.Protocol023 {
			o, err := r.worker.Observe(iii.Source{FunctionID: "far::echo"}, "w::echo", iii.WithObserverID("o::far"))
			if err != nil {
				r.t.Fatal(err)
			}
			r.expected = append(r.expected, "o::far")
			if r.line.kind == observerOff {
				r.line.action = func() {
					r.forget("o::far")
					if err := o.Dispose(r.t.Context()); err != nil {
						r.t.Error(err)
					}
					if s := o.State(); s != iii.ObserverStateDisposed {
						r.t.Errorf("state of a disposed observer: %v", s)
					}
				}
			}
		}
		if r.line.kind == functionOff {
			r.line.action = func() {
				r.forget("w::spare")
				if err := spare.Unregister(); err != nil {
					r.t.Error(err)
				}
			}
		}
		for _, verb := range []string{"call", "send", "enqueue", "send"} {
			r.users.Go(func() { _ = r.request(r.ctx, verb) })
		}
		synctest.Wait()
		r.note("connect", r.worker.Connect(r.ctx))
		for _, verb := range []string{"call", "send", "enqueue", "send"} {
			r.users.Go(func() { _ = r.request(r.ctx, verb) })
		}
		r.users.Go(func() {
			err := r.other.Call(r.t.Context(), "w::nest", nil, nil)
			if !errors.Is(err, &iii.Error{Code: iii.CodeInvocationFailed}) { // the handler's own call has failed
				r.note("nested call", err)
			}
		})
	})
}

// The data of a channel arrives completely, or one of its ends learns that it does not.
func TestFaultsWhileAChannelTransfers(t *testing.T) {
	part := []byte(strings.Repeat("0123456789", 300))
	want := bytes.Repeat(part, 3)
	transfer := func(w *iii.ChannelWriter) (err error) {
		for range 3 {
			if _, err = w.Write(part); err != nil {
				break
			}
		}
		if closeErr := w.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	explore(t, connectionFaults, func(r *faultRun) {
		r.note("connect", r.worker.Connect(r.ctx))
		r.users.Go(func() {
			w, end, err := r.worker.CreateChannel(r.ctx)
			if err != nil {
				r.note("create channel", err)
				return
			}
			var got []byte
			var readErr error
			var reader sync.WaitGroup
			reader.Go(func() {
				in, err := r.other.OpenReader(r.t.Context(), end.Ref())
				if err != nil {
					r.t.Error(err)
					return
				}
				defer in.Close()
				_ = in.SetReadDeadline(time.Now().Add(4 * time.Minute)) // the engine ends an unused channel after 5 minutes
				got, readErr = io.ReadAll(in)
			})
			_ = w.SetWriteDeadline(time.Now().Add(time.Minute)) // without a deadline, Write can wait forever for the reader
			writeErr := transfer(w)
			reader.Wait()
			r.noteChannel("write", writeErr)
			switch complete := bytes.Equal(got, want); {
			case !bytes.HasPrefix(want, got):
				r.t.Error("the data is damaged")
			case complete || readErr != nil:
			case writeErr == nil && r.line.kind != peerSilent: // an engine that is silent may only be slow
				r.t.Errorf("nobody has learned that only %d bytes arrived", len(got))
			case r.e.Protocol() == iiitest.Protocol026:
				r.t.Errorf("the reader got %d bytes and EOF after the writer had failed: %v", len(got), writeErr)
			}
		})
		r.users.Go(func() {
			w, end, err := r.other.CreateChannel(r.t.Context())
			if err != nil {
				r.t.Error(err)
				return
			}
			r.users.Go(func() { _ = transfer(w) })
			in, err := r.worker.OpenReader(r.ctx, end.Ref())
			if err != nil {
				r.noteChannel("open reader", err)
				return
			}
			defer in.Close()
			began := time.Now()
			got, err := io.ReadAll(in)
			r.noteChannel("read", err)
			if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
				r.t.Errorf("read %d bytes: %v", len(got), err)
			}
			if took := time.Since(began); took > 90*time.Second {
				r.t.Errorf("read returned after %v: %v", took, err)
			}
		})
	})
}

func (r *faultRun) noteChannel(what string, err error) {
	if !errors.Is(err, errFault) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, iii.ErrChannelClosed) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.ErrUnexpectedEOF) && (r.ctx.Err() == nil || !errors.Is(err, r.ctx.Err())) {
		r.note(what, err)
	}
	_ = iii.NoteError(err)
}

// A visitor receives a streamed response completely, or learns that it is cut off.
func TestFaultsWhileAResponseStreams(t *testing.T) {
	part := strings.Repeat("0123456789", 300)
	want := strings.Repeat(part, 3)
	explore(t, connectionFaults, func(r *faultRun) {
		f, err := r.worker.MountHTTP("GET", "/stream", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(want)))
			for range 3 {
				if _, err := io.WriteString(w, part); err != nil {
					_ = iii.NoteError(err)
					return
				}
				_ = iii.NoteError(http.NewResponseController(w).Flush())
			}
		}), iii.WithTriggerOptions(iii.WithTriggerID("t::stream")))
		if err != nil {
			r.t.Fatal(err)
		}
		r.expected = append(r.expected, f.ID(), "t::stream", "t::stream:head")
		r.note("connect", r.worker.Connect(r.ctx))
		client := visitor(r.t, r.e)
		for range 2 {
			r.users.Go(func() {
				resp, err := client.Get(r.e.HTTPURL() + "/stream")
				if err != nil {
					r.t.Error(err)
					return
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err == nil && resp.StatusCode == http.StatusOK && string(body) != want && (resp.ContentLength >= 0 || len(body) > 0) {
					// With neither a length nor a body, the channel was lost before the header.
					r.t.Errorf("the visitor got %d of %d bytes", len(body), len(want))
				}
			})
		}
	})
}

// A subscription survives every fault of its connection, and sees the latest state.
func TestFaultsWhileSubscribed(t *testing.T) {
	faults := slices.DeleteFunc(slices.Clone(connectionFaults), func(k faultKind) bool { return k == closed || k == shutDown })
	explore(t, faults, func(r *faultRun) {
		stream := iii.NewStream[string](r.other, "chat")
		options := iii.SubscribeOptions{URL: r.e.StreamURL(), DialContext: r.line.over(r.e.DialContext), Logger: iii.TestLogger}
		subscribed := make(chan struct{})
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Minute)
		defer cancel()
		r.users.Go(func() {
			first := true
			for m, err := range iii.SubscribeWith(ctx, options, iii.StreamSubscription{StreamName: "chat", GroupID: "room"}) {
				_ = iii.NoteError(err)
				if err != nil {
					if r.line.kind != ctxEnds || !errors.Is(err, context.Canceled) {
						r.t.Errorf("subscription: %v", err)
					}
					break
				}
				if first {
					first = false
					close(subscribed)
				}
				if bytes.Contains(m.Event.Data, []byte("last")) {
					return
				}
			}
			if first {
				close(subscribed)
			}
			if r.line.kind != ctxEnds {
				r.t.Error("the subscription has ended before the last item")
			}
		})
		<-subscribed
		for _, text := range []string{"first", "second", "last"} {
			if _, err := stream.Set(r.t.Context(), "room", "m", text); err != nil {
				r.t.Error(err)
			}
			time.Sleep(time.Second)
		}
		r.users.Wait()
	})
}

// Telemetry that was recorded arrives, and Flush returns nil only after it has arrived.
func TestFaultsWhileTelemetryIsSent(t *testing.T) {
	faults := slices.DeleteFunc(slices.Clone(connectionFaults), func(k faultKind) bool { return k == closed })
	explore(t, faults, func(r *faultRun) {
		url := r.e.URL()
		telemetry, err := iii.StartTelemetry(r.t.Context(), iii.OtelConfig{EngineWSURL: &url},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(r.line.over(r.e.DialContext)), iii.WithConnectionLogger(iii.TestLogger)))
		if err != nil {
			r.t.Fatal(err)
		}
		var recorded atomic.Int64
		arrived := func(n int) {
			spans, logs := map[string]bool{}, map[any]bool{}
			for _, s := range r.e.Traces() {
				spans[s.Name] = true
			}
			for _, l := range r.e.Logs() {
				logs[l.Body] = true
			}
			for i := range n {
				if name := fmt.Sprint(i); !spans[name] || !logs[name] {
					r.t.Errorf("record %d: span arrived: %v, log record arrived: %v", i, spans[name], logs[name])
				}
			}
		}
		if r.line.kind == shutDown {
			r.line.do(func() {
				n := int(recorded.Load())
				if err := telemetry.Shutdown(r.t.Context()); err != nil {
					r.t.Errorf("shutdown of telemetry: %v", err)
				}
				arrived(n)
			})
		}
		const rounds = 4
		for i := range rounds {
			ctx, span := telemetry.Tracer().Start(r.t.Context(), fmt.Sprint(i))
			telemetry.Logger().Info(ctx, fmt.Sprint(i), nil)
			span.End()
			recorded.Add(1)
			err := telemetry.Flush(r.ctx)
			_ = iii.NoteError(err)
			switch {
			case r.line.kind == shutDown:
			case err == nil:
				arrived(i + 1)
			case r.ctx.Err() == nil || !errors.Is(err, r.ctx.Err()):
				r.t.Errorf("flush: %v", err)
			}
		}
		occurred := r.line.disarm()
		r.line.left.Wait()
		if err := telemetry.Shutdown(r.t.Context()); err != nil {
			r.t.Errorf("shutdown of telemetry: %v", err)
		}
		if r.line.kind != shutDown || !occurred {
			arrived(rounds)
		}
		if s := telemetry.Connection().Stats(); s.Queued != 0 || s.Dropped() != 0 && r.line.kind != shutDown {
			r.t.Errorf("telemetry: %+v", s)
		}
	})
}
