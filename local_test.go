package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
)

type localIn struct {
	N    int
	Mode string
}

type localOut struct{ N int }

// A local call gives its caller the same results and errors as a call through the engine.
func TestLocalCallsMatchRoutedCalls(t *testing.T) {
	handler := func(ctx context.Context, in localIn) (any, error) {
		switch in.Mode {
		case "coded":
			return nil, fmt.Errorf("wrapped: %w", &Error{Code: "NO_TAX", Message: "country missing", Stacktrace: "here"})
		case "plain":
			return nil, errors.New("no luck")
		case "panic":
			panic("boo")
		case "unencodable":
			return func() {}, nil
		case "slow":
			time.Sleep(time.Minute)
		case "metadata":
			inv, _ := InvocationFromContext(ctx)
			return inv.Metadata, nil
		case "nothing":
			return nil, nil
		}
		return localOut{in.N + 1}, nil
	}
	for _, tt := range []struct {
		name string
		in   any
		out  func() any
		opts []CallOption
	}{
		{name: "value", in: localIn{N: 1}, out: func() any { return new(localOut) }},
		{name: "raw", in: localIn{N: 1}, out: func() any { return new(json.RawMessage) }},
		{name: "discarded", in: localIn{N: 1}},
		{name: "null", in: localIn{Mode: "nothing"}, out: func() any { return new(any) }},
		{name: "coded error", in: localIn{Mode: "coded"}},
		{name: "plain error", in: localIn{Mode: "plain"}},
		{name: "panic", in: localIn{Mode: "panic"}},
		{name: "unencodable result", in: localIn{Mode: "unencodable"}},
		{name: "invalid payload", in: map[string]any{"N": "x"}},
		{name: "unencodable payload", in: make(chan int)},
		{name: "payload that the engine cannot read", in: json.RawMessage(strings.Repeat("[", 200) + strings.Repeat("]", 200))},
		{name: "no JSON", in: json.RawMessage(`{`)},
		{name: "unencodable metadata", in: 1, opts: []CallOption{WithMetadata(func() {})}},
		{name: "wrong result type", in: localIn{N: 1}, out: func() any { return new(string) }},
		{name: "timeout", in: localIn{Mode: "slow"}, opts: []CallOption{WithTimeout(time.Second)}},
		{name: "metadata", in: localIn{Mode: "metadata"}, out: func() any { return new(json.RawMessage) }, opts: []CallOption{WithMetadata(map[string]int{"m": 1})}},
		{name: "null metadata", in: localIn{Mode: "metadata"}, out: func() any { return new(json.RawMessage) }, opts: []CallOption{WithMetadata(nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{script: script{message: func(c *peerConn, m *peerMessage) bool {
					switch {
					case m.Type == "invokefunction" && m.FunctionID == "f": // echo to the worker
						c.send(strings.Replace(string(m.Raw), `"invokefunction",`, `"invokefunction","caller":{"worker_id":"w"},`, 1))
					case m.Type == "invocationresult":
						c.send(string(m.Raw))
					default:
						return false
					}
					return true
				}}})
				c := p.connected()
				f, err := Handle(c, "f", handler)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if !f.LocalDispatch() {
					t.Fatal("calls are not local")
				}
				type outcome struct {
					Out, Err, Stack    string
					Timeout, Safe, Is  bool
					FunctionID, NoCode string
					Took               time.Duration
				}
				call := func(opts ...CallOption) (o outcome) {
					var out any
					if tt.out != nil {
						out = tt.out()
					}
					start := time.Now()
					err := c.Call(t.Context(), "f", tt.in, out, append(opts, tt.opts...)...)
					o.Took = time.Since(start)
					text, _ := json.Marshal(out)
					o.Out = string(text)
					var e *Error
					if errors.As(err, &e) {
						o.Stack, o.FunctionID = e.Stacktrace, e.FunctionID
						if e.InvocationID == "" {
							t.Error("the error has no invocation id")
						}
					}
					if err != nil {
						o.Err = err.Error()
					}
					o.Timeout, o.Safe = errors.Is(err, ErrTimeout), SafeToRetry(err)
					return o
				}
				before := c.Stats().LocalCalls
				local := call()
				if tt.name == "timeout" {
					time.Sleep(2 * time.Minute) // until the handler returns and the call is counted
				}
				ran := c.Stats().LocalCalls - before
				routed := call(Remotely())
				same(t, "local call, as routed", local, routed)
				if want := uint64(1); !strings.Contains(local.Err, "encode ") && ran != want || c.Stats().LocalCalls != before+ran {
					t.Errorf("%d local calls, then %d", ran, c.Stats().LocalCalls-before)
				}
				time.Sleep(2 * time.Minute)
			})
		})
	}
}

func TestCallsThatAreNotLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client()
		hostFunc(t, c, "f", echo)
		remote := hostFunc(t, c, "remote", echo, WithoutLocalDispatch())
		connectHost(t, c)
		synctest.Wait()
		for _, tt := range []struct {
			name, id string
			opts     []CallOption
			local    bool
		}{
			{"own", "f", nil, true},
			{"named default", "f", []CallOption{InNamespace("default")}, true},
			{"another namespace", "f", []CallOption{InNamespace("other")}, false},
			{"remotely", "f", []CallOption{Remotely()}, false},
			{"without local dispatch", "remote", nil, false},
			{"another worker's", "g", nil, false},
		} {
			before := c.Stats().LocalCalls
			if err := c.Call(t.Context(), tt.id, 1, nil, tt.opts...); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if got := c.Stats().LocalCalls > before; got != tt.local {
				t.Errorf("%s: local %t", tt.name, got)
			}
		}
		if remote.LocalDispatch() {
			t.Error("LocalDispatch is true for a function that opted out")
		}
		if _, err := c.Enqueue(t.Context(), "q", "f", 1); err == nil || c.Stats().LocalCalls != 2 {
			t.Errorf("Enqueue: %v, %d local calls", err, c.Stats().LocalCalls)
		}
		if err := c.Call(t.Context(), "f", 1, nil, nil); err == nil {
			t.Error("a nil option is accepted")
		}
	})
}

func TestNestedLocalCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		routed := 0
		p := newHostPeer(t, hostScript{script: script{call: func(_ *peerConn, m *peerMessage) string {
			routed++
			return `"routed"`
		}}})
		c := p.client(WithMaxConcurrency(1))
		var deepest atomic.Int64
		_, err := Handle(c, "f", func(ctx context.Context, n int) (any, error) {
			deepest.Store(max(deepest.Load(), int64(n)))
			if n == 100 {
				return nil, errors.New("too deep")
			}
			var out any
			err := c.Call(ctx, "f", n+1, &out)
			return out, err
		})
		if err != nil {
			t.Fatal(err)
		}
		connectHost(t, c)
		synctest.Wait()
		var out string
		if err := c.Call(t.Context(), "f", 1, &out); err != nil || out != "routed" {
			t.Errorf("%q, %v", out, err)
		}
		synctest.Wait() // the result arrives before the slot is released
		if s := c.Stats(); deepest.Load() != 65 || routed != 1 || s.LocalCalls != 65 || s.HandlersRunning != 0 {
			t.Errorf("depth %d, %d routed, %d local, %d running", deepest.Load(), routed, s.LocalCalls, s.HandlersRunning)
		}
	})
}

// Calls from outside a handler, and Sends from anywhere, wait for a slot. A call that a
// handler waits for uses the handler's slot.
func TestLocalCallsAndMaxConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client(WithMaxConcurrency(1))
		release := make(chan struct{})
		var running, most, sends atomic.Int32
		hostFunc(t, c, "block", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
		hostFunc(t, c, "inner", func(context.Context, json.RawMessage) (any, error) { return "inner", nil })
		hostFunc(t, c, "count", func(context.Context, json.RawMessage) (any, error) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			sends.Add(1)
			return nil, nil
		})
		hostFunc(t, c, "outer", func(ctx context.Context, _ json.RawMessage) (any, error) {
			for range 3 {
				if err := c.Send(ctx, "count", nil); err != nil {
					return nil, err
				}
			}
			return Call[string](ctx, c, "inner", nil)
		})
		connectHost(t, c)
		synctest.Wait()
		blocked := make(chan error, 1)
		go func() { blocked <- c.Call(t.Context(), "block", nil, nil) }()
		synctest.Wait()
		waits := make(chan string, 1)
		go func() {
			s, err := Call[string](t.Context(), c, "outer", nil)
			waits <- fmt.Sprint(s, err)
		}()
		synctest.Wait()
		if s := c.Stats(); s.HandlersRunning != 1 || s.InvocationsQueued != 1 {
			t.Errorf("%d run, %d wait", s.HandlersRunning, s.InvocationsQueued)
		}
		close(release)
		if got := <-waits; got != "inner<nil>" {
			t.Error(got)
		}
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if sends.Load() != 3 || most.Load() != 1 {
			t.Errorf("%d Sends ran, up to %d at once", sends.Load(), most.Load())
		}
	})
}

// A nested call keeps its caller's slot until the call returns, even if the caller has stopped
// waiting for it.
func TestNestedCallThatOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client(WithMaxConcurrency(1))
		release := make(chan struct{})
		var other atomic.Bool
		hostFunc(t, c, "inner", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
		hostFunc(t, c, "other", func(context.Context, json.RawMessage) (any, error) { other.Store(true); return nil, nil })
		hostFunc(t, c, "outer", func(ctx context.Context, _ json.RawMessage) (any, error) {
			return nil, c.Call(ctx, "inner", nil, nil, WithTimeout(time.Second))
		})
		connectHost(t, c)
		synctest.Wait()
		if err := c.Call(t.Context(), "outer", nil, nil); err == nil {
			t.Error("no timeout")
		}
		if err := c.Send(t.Context(), "other", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := c.Stats(); other.Load() || s.HandlersRunning != 1 || s.InvocationsQueued != 1 {
			t.Errorf("other ran: %t, %d run, %d wait", other.Load(), s.HandlersRunning, s.InvocationsQueued)
		}
		close(release)
		synctest.Wait()
		if s := c.Stats(); !other.Load() || s.HandlersRunning != 0 {
			t.Errorf("other ran: %t, %d run", other.Load(), s.HandlersRunning)
		}
	})
}

func TestLocalHandlersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		p := newHostPeer(t, hostScript{})
		c := p.client(WithName("till"))
		var n notes
		hostFunc(t, c, "inner", func(ctx context.Context, payload json.RawMessage) (any, error) {
			inv, _ := InvocationFromContext(ctx)
			in := ctx.Value(invocationKey{}).(*invocationContext).in
			id := inv.ID
			n.add("%s by %s %s", payload, strings.ReplaceAll(inv.CallerWorkerID, c.WorkerID(), "W"),
				strings.ReplaceAll(string(in.callerJSON(c)), c.WorkerID(), "W"))
			n.add("depth %d, value %v, trace %s, deadline %t, id %t", in.depth, ctx.Value(key{}), TraceID(ctx), hasDeadline(ctx), len(id) == 36)
			return nil, nil
		})
		hostFunc(t, c, "outer", func(ctx context.Context, _ json.RawMessage) (any, error) {
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Hour)
			defer cancel()
			return nil, c.Call(ctx, "inner", map[string]int{"n": 1}, nil)
		})
		connectHost(t, c)
		synctest.Wait()
		const id = "11111111-2222-3333-4444-555555555555"
		p.conn(0).send(`{"type":"invokefunction","invocation_id":"` + id + `","function_id":"outer","data":{},"traceparent":"` + testParent +
			`","caller":{"worker_id":"x","worker_name":"X","function_id":"far","invocation_id":"i","parent":{"worker_id":"p"},"other":1},"observe_depth":3}`)
		p.answered(id)
		same(t, "inner", n.take(), []string{
			`{"n":1} by W {"worker_id":"W","worker_name":"till","function_id":"outer","invocation_id":"` + id +
				`","parent":{"worker_id":"x","worker_name":"X","function_id":"far","invocation_id":"i"}}`,
			"depth 3, value <nil>, trace " + testTraceID + ", deadline false, id true",
		})
		if err := c.Call(t.Context(), "inner", 2, nil); err != nil {
			t.Error(err)
		}
		same(t, "outside of a handler", n.take(), []string{`2 by W {"worker_id":"W","worker_name":"till"}`, "depth 0, value <nil>, trace , deadline false, id true"})
	})
}

// Like a call through the engine, a local call adds the function id to the baggage, from which
// spans copy it. A call with neither a trace nor baggage is left unchanged.
func TestLocalCallsNameTheCallee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client()
		var n notes
		hostFunc(t, c, "inner=é", func(ctx context.Context, _ json.RawMessage) (any, error) {
			n.add("%s", InjectBaggage(ctx))
			return nil, nil
		})
		hostFunc(t, c, "outer", func(ctx context.Context, _ json.RawMessage) (any, error) {
			n.add("%s", InjectBaggage(ctx))
			return nil, c.Call(ctx, "inner=é", 1, nil)
		})
		connectHost(t, c)
		synctest.Wait()
		full := ""
		for i := range 64 {
			full += fmt.Sprintf("k%02d=v,", i)
		}
		full = strings.TrimSuffix(full, ",")
		for _, tt := range []struct {
			traceparent, baggage string
			want                 []string
		}{
			{"", "", []string{"", ""}},
			{testParent, "", []string{"iii.function.id=outer", "iii.function.id=inner%3D%C3%A9"}},
			{"", "a=1,z=2;p=q", []string{"a=1,iii.function.id=outer,z=2;p=q", "a=1,iii.function.id=inner%3D%C3%A9,z=2;p=q"}},
			{testParent, "iii.function.id=caller;p,b=%3D", []string{"b=%3D,iii.function.id=outer", "b=%3D,iii.function.id=inner%3D%C3%A9"}},
			{testParent, full, []string{full, full}},
		} {
			ctx := ExtractContext(t.Context(), tt.traceparent, tt.baggage)
			if err := c.Call(ctx, "outer", 1, nil); err != nil {
				t.Error(err)
			}
			same(t, "baggage with "+tt.baggage, n.take(), tt.want)
		}
	})
}

func hasDeadline(ctx context.Context) bool { _, ok := ctx.Deadline(); return ok }

// Local calls keep working while the client is disconnected. Close makes running calls fail.
func TestLocalCallsWhileDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{script: script{refuse: nil}})
		c := p.client(WithReconnection(ReconnectionConfig{InitialDelayMs: 3_600_000, MaxDelayMs: 3_600_000, BackoffMultiplier: 1}))
		f := hostFunc(t, c, "f", echo)
		release := make(chan struct{})
		hostFunc(t, c, "block", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Second)
		if got, err := Call[int](t.Context(), c, "f", 5); err != nil || got != 5 || c.State() == ConnectionStateConnected || !f.LocalDispatch() {
			t.Errorf("%d, %v in state %s", got, err, c.State())
		}
		failed := make(chan error, 1)
		go func() { failed <- c.Call(t.Context(), "block", nil, nil) }()
		synctest.Wait()
		_ = c.Close()
		if err := <-failed; !errors.Is(err, ErrConnectionLost) || !errors.Is(err, ErrClosed) || SafeToRetry(err) {
			t.Errorf("a call that was running when the client was closed: %v", err)
		}
		if err := c.Call(t.Context(), "f", 5, nil); !errors.Is(err, ErrClosed) || !SafeToRetry(err) {
			t.Errorf("after Close: %v", err)
		}
		close(release)
	})
}

// During a drain, running handlers may still call their own worker's functions. All other
// calls are rejected. Functions are unregistered immediately, so that another worker can take
// them over. A function with observers stays registered until its reports have been sent.
func TestLocalCallsDuringDrain(t *testing.T) {
	for name, features := range map[string]string{"0.25": featuresV1, "0.26": featuresV2} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { localCallsDuringDrain(t, features) }) })
	}
}

func localCallsDuringDrain(t *testing.T, features string) {
	p := newHostPeer(t, hostScript{features: func(int) string { return features }, set: func(_ int, id string) string {
		if id == "inner" {
			return view("a", `{}`)
		}
		return ""
	}})
	c := p.client()
	release := make(chan struct{})
	hostFunc(t, c, "inner", echo)
	hostFunc(t, c, "outer", func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-release
		return Call[string](ctx, c, "inner", "x")
	})
	connectHost(t, c)
	synctest.Wait()
	before := len(p.messages(0, "ping"))
	result := make(chan error, 1)
	go func() {
		s, err := Call[string](t.Context(), c, "outer", nil)
		if s != "x" {
			err = errors.Join(err, fmt.Errorf("result %q", s))
		}
		result <- err
	}()
	synctest.Wait()
	ended := make(chan error, 1)
	go func() { ended <- c.Shutdown(t.Context()) }()
	synctest.Wait()
	var e *Error
	if err := c.Call(t.Context(), "inner", nil, nil); !errors.As(err, &e) || e.Code != CodeWorkerDraining {
		t.Errorf("a call from outside a handler: %v", err)
	}
	if left := p.messages(0, "unregisterfunction"); len(left) != 1 || left[0].ID != "outer" {
		t.Errorf("%d functions were unregistered at once, want only outer", len(left))
	}
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	var order []string
	for _, m := range p.messages(0, "invocationsobserved", "ping", "unregisterfunction")[before:] {
		order = append(order, m.Type)
	}
	same(t, "messages", order, []string{"unregisterfunction", "invocationsobserved", "ping", "unregisterfunction"})
}

// If a call's context ends after its result has arrived, the call returns the result.
func TestResultsTakePrecedenceOverEndedContexts(t *testing.T) {
	for name, routed := range map[string]bool{"local": false, "routed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{routed: routed})
				c := p.client()
				hostFunc(t, c, "f", echo)
				connectHost(t, c)
				synctest.Wait()
				for range 50 {
					ctx, cancel := context.WithCancel(t.Context())
					r, err := c.begin(ctx, verbCall, invocation{functionID: "f"}, 1, &noCallOptions)
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					cancel()
					if err := c.await(ctx, verbCall, r, "f", nil); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

// Local calls are rejected when the queue is full, like calls through the engine.
func TestLocalCallsAreRejectedWhenQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client(WithMaxConcurrency(1))
		release := make(chan struct{})
		hostFunc(t, c, "block", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
		connectHost(t, c)
		synctest.Wait()
		for range maxQueuedInvocations + 3 { // surplus Sends are dropped without an error, as in the engine
			if err := c.Send(t.Context(), "block", nil); err != nil {
				t.Fatal(err)
			}
		}
		var e *Error
		if err := c.Call(t.Context(), "block", nil, nil); !errors.As(err, &e) || e.Code != CodeOverloaded || e.FunctionID != "block" {
			t.Error(err)
		}
		if got := c.Stats().Overloaded; got != 3 {
			t.Errorf("%d overloaded", got)
		}
		close(release)
	})
}

func TestLocalPayloadsAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client()
		var kept json.RawMessage
		hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
			kept = payload
			return payload, nil
		})
		connectHost(t, c)
		synctest.Wait()
		in := json.RawMessage(`"in"`)
		var out json.RawMessage
		if err := c.Call(t.Context(), "f", in, &out); err != nil {
			t.Fatal(err)
		}
		clear(in)
		clear(out)
		if string(kept) != `"in"` {
			t.Errorf("the handler's payload is %q", kept)
		}
		if err := c.Call(t.Context(), "f", json.RawMessage(`"12"`), nil); err != nil || string(kept) != `"12"` {
			t.Errorf("%q, %v", kept, err)
		}
	})
}

// Local calls send no messages to the engine, and their payloads may exceed the message size
// limit.
func TestLocalCallsSendNothing(t *testing.T) {
	p := newHostPeer(t, hostScript{script: script{forget: true}})
	c := p.client()
	hostFunc(t, c, "f", echo)
	hostFunc(t, c, "size", func(_ context.Context, payload json.RawMessage) (any, error) { return len(payload), nil })
	connectHost(t, c)
	before := c.Stats().BytesSent
	for range scale(20_000, 1_000_000) {
		if err := c.Call(t.Context(), "f", 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Call[int](t.Context(), c, "size", largeText()); err != nil || n != messageTooLarge+2 {
		t.Errorf("%d, %v", n, err)
	}
	if sent := c.Stats().BytesSent - before; sent > 512 {
		t.Errorf("%d bytes were sent", sent)
	}
}

type order struct {
	ID       string
	Customer struct{ Name, Mail, City string }
	Lines    []orderLine
	Total    float64
}

type orderLine struct {
	SKU      string
	Quantity int
	Price    float64
}

func sampleOrder() (o order) {
	o.ID, o.Total = "0b5d2c1e-7a44-4c0f", 512.75
	o.Customer.Name, o.Customer.Mail, o.Customer.City = "Ada Lovelace", "ada@example.org", "London"
	for i := range 5 {
		o.Lines = append(o.Lines, orderLine{SKU: fmt.Sprint("sku-", i), Quantity: i, Price: 9.5})
	}
	return o
}

// BenchmarkLocalCall compares local calls with plain encoding and decoding of the same values.
func BenchmarkLocalCall(b *testing.B) {
	p := newHostPeer(b, hostScript{script: script{forget: true}})
	c := p.client()
	if _, err := Handle(c, "typed", func(_ context.Context, o order) (order, error) { return o, nil }); err != nil {
		b.Fatal(err)
	}
	if _, err := c.HandleFunc("raw", echo); err != nil {
		b.Fatal(err)
	}
	if err := c.Connect(b.Context()); err != nil {
		b.Fatal(err)
	}
	in := sampleOrder()
	text, _ := json.Marshal(in)
	b.Run("typed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var out order
			if err := c.Call(b.Context(), "typed", in, &out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encodings", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for range 2 {
				text, err := json.Marshal(in)
				if err != nil {
					b.Fatal(err)
				}
				var out order
				if err := json.Unmarshal(text, &out); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("untyped", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var out json.RawMessage
			if err := c.Call(b.Context(), "raw", json.RawMessage(text), &out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// reported returns the items of all reports sent over a connection, or over all connections if
// conn is -1.
func (p *peer) reported(conn int) (items []ObservedInvocation) {
	for _, m := range p.messages(conn, "invocationsobserved") {
		var report InvocationsObservedMessage
		if err := json.Unmarshal(m.Raw, &report); err != nil {
			p.tb.Error(err)
		}
		items = append(items, report.Items...)
	}
	return items
}

func numbers(items []ObservedInvocation) (list []string) {
	for _, it := range items {
		list = append(list, string(it.Input))
	}
	return list
}

func numbersTo(from, to int) (list []string) {
	for n := from; n < to; n++ {
		list = append(list, fmt.Sprint(n))
	}
	return list
}

var varying = regexp.MustCompile(`"(invocation_id":"[^"]*"|started_at_ms":\d+|duration_ms":[0-9.]+),?`)

func TestReportsOfLocalCalls(t *testing.T) {
	parts := func(capture string) string {
		return fmt.Sprintf(`{"id":"o","target":"t","on":"complete","capture":[%s]}`, capture)
	}
	for name, tt := range map[string]struct {
		set, want string
		v1        bool
		in        string
		hooks     ObserverHooks
	}{
		"default":            {set: view("o", `{}`), in: `{"n":1}`, want: `"matched":["o"],"status":"success","input":{"n":1},"output":{"got":{"n":1}},"observe_depth":0`},
		"nothing captured":   {set: parts(``), in: `1`, want: `"matched":["o"],"status":"success","observe_depth":0`},
		"null":               {set: parts(`"input","output"`), in: `null`, want: `"matched":["o"],"status":"success","input":null,"output":{"got":null},"observe_depth":0`},
		"output is input":    {set: view("o", `{}`), in: `"echo"`, want: `"matched":["o"],"status":"success","input":"echo","output_is_input":true,"observe_depth":0`},
		"not on 0.25":        {v1: true, set: view("o", `{}`), in: `"echo"`, want: `"matched":["o"],"status":"success","input":"echo","output":"echo","observe_depth":0`},
		"output alone":       {set: parts(`"output"`), in: `"echo"`, want: `"matched":["o"],"status":"success","output":"echo","observe_depth":0`},
		"error":              {set: parts(`"error","input"`), in: `"fail"`, want: `"matched":["o"],"status":"error","input":"fail","error":{"code":"NO_TAX","message":"m"},"observe_depth":0`},
		"panic":              {set: parts(`"error"`), in: `"panic"`, want: `"matched":["o"],"status":"error","error":{"code":"invocation_failed","message":"handler panicked"},"observe_depth":0`},
		"errors unasked":     {set: view("o", `{}`), in: `"fail"`},
		"union":              {set: `{"id":"o","target":"t","capture":["input"]},{"id":"p","target":"t","capture":["metadata"]}`, in: `1`, want: `"matched":["o","p"],"status":"success","input":1,"metadata":{"m":1},"observe_depth":0`},
		"filter":             {set: `{"id":"o","target":"t","filters":{"input.n":{"$gte":5}}},{"id":"p","target":"t","filters":{"output.got.n":{"$eq":1},"caller.worker_name":{"$eq":"till"},"metadata.m":{"$eq":1}}}`, in: `{"n":1}`, want: `"matched":["p"],"status":"success","input":{"n":1},"output":{"got":{"n":1}},"observe_depth":0`},
		"changed by handler": {set: parts(`"input"`), in: `"clear"`, want: `"matched":["o"],"status":"success","input":"clear","observe_depth":0`},
		"match hook": {set: view("o", `{}`) + "," + view("p", `{}`), in: `1`, want: `"matched":["p"],"status":"success","input":1,"output":{"got":1},"observe_depth":0`,
			hooks: ObserverHooks{Match: func(o *FunctionObserver, _ *ObservedCall) bool { return o.ID == "p" }}},
		"deliver hook": {set: view("o", `{}`), in: `1`,
			hooks: ObserverHooks{Deliver: func(_ context.Context, call *ObservedCall, _ []*FunctionObserver) (any, error) {
				return call.Output, nil
			}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return tt.set }, features: func(int) string {
					if tt.v1 {
						return `"observe.v1","local-dispatch.v1"`
					}
					return featuresV2
				}})
				c := p.client(WithName("till"))
				var opts []FunctionOption
				if tt.hooks.affectReplies() {
					opts = append(opts, WithObserverHooks(tt.hooks))
				}
				hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
					switch string(payload) {
					case `"echo"`:
						return payload, nil
					case `"fail"`:
						return nil, &Error{Code: "NO_TAX", Message: "m", Stacktrace: "here"}
					case `"panic"`:
						panic("boo")
					case `"clear"`:
						clear(payload)
						return nil, nil
					}
					return map[string]any{"got": payload}, nil
				}, opts...)
				connectHost(t, c)
				synctest.Wait()
				_ = c.Call(t.Context(), "f", json.RawMessage(tt.in), nil, WithMetadata(map[string]int{"m": 1}))
				time.Sleep(reportLinger)
				synctest.Wait()
				got := ""
				for _, m := range p.messages(0, "invocationsobserved") {
					got += string(m.Raw)
				}
				want := ""
				if tt.want != "" {
					want = `{"type":"invocationsobserved","items":[{"function_id":"f","namespace":"default",` + tt.want + `}]}`
				}
				same(t, "reports", varying.ReplaceAllString(got, ""), want)
			})
		})
	}
}

func TestReportsAreBatchedBySizeAndLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		for n := range maxReportBatch + 10 {
			if err := c.Call(t.Context(), "f", n, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := len(p.reported(0)); got != maxReportBatch {
			t.Errorf("%d reports at once, want %d", got, maxReportBatch)
		}
		time.Sleep(reportLinger)
		synctest.Wait()
		same(t, "reports", numbers(p.reported(0)), numbersTo(0, maxReportBatch+10))
		if got := len(p.messages(0, "invocationsobserved")); got != 2 {
			t.Errorf("%d frames", got)
		}
	})
}

// After a reconnect, the client confirms the observers. It then sends, in order, the reports
// of calls made while it was disconnected. Reports that were already sent are not repeated.
func TestReportsAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", echo)
		hostFunc(t, c, "g", echo)
		connectHost(t, c)
		synctest.Wait()
		for n := range 3 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		time.Sleep(reportLinger)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Millisecond)
		for n := 3; n < 600; n++ {
			id := "f"
			if n%2 == 0 {
				id = "g"
			}
			if err := c.Call(t.Context(), id, n, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		same(t, "reports", numbers(p.reported(-1)), numbersTo(0, 600))
		var kinds []string
		for _, m := range p.messages(1, "observerack", "invocationsobserved", "registerfunction") {
			kinds = append(kinds, m.Type)
		}
		same(t, "order", kinds, []string{"registerfunction", "registerfunction", "observerack", "observerack", "invocationsobserved", "invocationsobserved", "invocationsobserved"})
	})
}

// A shutdown that begins as soon as the client is connected again sends the reports.
func TestReportsOfAShutdownAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		resume := make(chan struct{})
		connections := 0
		c := p.client(WithLogger(slog.New(logFunc(func(message string) {
			if message != "iii: connected" {
				return
			}
			if connections++; connections == 2 {
				<-resume
			}
		}))))
		hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Millisecond)
		if err := c.Call(t.Context(), "f", 1, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Shutdown(t.Context()) }()
		synctest.Wait()
		close(resume)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		same(t, "reports", numbers(p.reported(1)), []string{"1"})
	})
}

// Reports for a function that the engine has not confirmed wait for up to 30 s. They do not
// delay reports for other functions.
func TestReportsOfUnconfirmedFunctionsAreHeldBack(t *testing.T) {
	for name, confirms := range map[string]time.Duration{"confirmed": 20 * time.Second, "never": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
				c := p.client()
				f := hostFunc(t, c, "f", echo)
				hostFunc(t, c, "g", echo)
				connectHost(t, c)
				synctest.Wait()
				f.observers.confirmed.Store(nil) // as after a reconnect
				_ = c.Call(t.Context(), "f", 1, nil)
				_ = c.Call(t.Context(), "g", 2, nil)
				time.Sleep(time.Second)
				synctest.Wait()
				same(t, "reports", numbers(p.reported(0)), []string{"2"})
				time.Sleep(confirms - time.Second)
				p.conn(0).send(`{"type":"functionregistered","id":"f","revision":50,"local_dispatch":true,"observers":[` + view("o", `{}`) + `]}`)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				want, drops := []string{"2", "1"}, uint64(0)
				if name == "never" {
					want, drops = []string{"2"}, 1
				}
				same(t, "reports in the end", numbers(p.reported(0)), want)
				if got := c.Stats().ReportsDropped; got != drops {
					t.Errorf("%d dropped", got)
				}
			})
		})
	}
}

func TestReportsAreBoundedAndDropsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		g := hostFunc(t, c, "g", echo)
		hostFunc(t, c, "silent", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no") })
		connectHost(t, c)
		synctest.Wait()
		f.observers.confirmed.Store(nil)
		g.observers.confirmed.Store(nil)
		_ = c.Call(t.Context(), "f", json.RawMessage(`"`+strings.Repeat("x", maxReportBytes)+`"`), nil)
		_ = c.Call(t.Context(), "g", 1, nil)
		for n := range maxReports + 2 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		if err := g.Unregister(); err != nil {
			t.Fatal(err)
		}
		if got := c.Stats(); got.ReportsDropped != 5 || got.LocalCalls != maxReports+4 {
			t.Errorf("%d dropped of %d", got.ReportsDropped, got.LocalCalls)
		}
		time.Sleep(localStatsInterval)
		synctest.Wait()
		stats := p.messages(0, "localinvocationstats")
		if len(stats) != 1 {
			t.Fatalf("%d statistics", len(stats))
		}
		var m LocalInvocationStatsMessage
		if err := json.Unmarshal(stats[0].Raw, &m); err != nil {
			t.Fatal(err)
		}
		same(t, "statistics", m, LocalInvocationStatsMessage{Type: MessageTypeLocalInvocationStats, WindowMs: 10000,
			Functions:      []LocalFunctionStats{{FunctionID: "f", Count: maxReports + 3}, {FunctionID: "g", Count: 1}},
			DroppedReports: []DroppedReports{{FunctionID: "f", Reason: "BUFFER_FULL", Count: 3}, {FunctionID: "f", Reason: "TOO_LARGE", Count: 1}, {FunctionID: "g", Reason: "INACTIVE", Count: 1}}})
		time.Sleep(3 * localStatsInterval) // empty statistics are not sent, but the parked reports expire and are counted
		synctest.Wait()
		if got := len(p.messages(0, "localinvocationstats")); got != 2 {
			t.Errorf("%d statistics", got)
		}
		_ = c.Close()
		if got := c.Stats().ReportsDropped; got != maxReports+4 {
			t.Errorf("%d dropped in the end", got)
		}
	})
}

// Once drops have been counted for maxDropCounts functions, drops for further functions are
// counted under the function id "*".
// The engine silently drops a message that nests too deeply, with all of its reports.
func TestReportsAreNotTooDeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string {
			return `{"id":"o","target":"t","capture":["input","output","metadata"]}`
		}})
		c := p.client()
		hostFunc(t, c, "echo", echo)
		hostFunc(t, c, "nest", func(_ context.Context, depth json.RawMessage) (any, error) {
			n, err := strconv.Atoi(string(depth))
			return nested(n), err
		})
		connectHost(t, c)
		synctest.Wait()
		for _, call := range []struct {
			id       string
			in       any
			metadata any
		}{
			{id: "echo", in: nested(124)}, {id: "echo", in: nested(125)}, {id: "echo", in: nested(126)},
			{id: "nest", in: 124}, {id: "nest", in: 125},
			{id: "echo", metadata: nested(124)}, {id: "echo", metadata: nested(125)},
			{id: "echo", in: json.RawMessage("[" + strings.Repeat("[],", 1000) + "[]]")},
		} {
			var opts []CallOption
			if call.metadata != nil {
				opts = append(opts, WithMetadata(call.metadata))
			}
			if err := c.Call(t.Context(), call.id, call.in, nil, opts...); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(localStatsInterval)
		synctest.Wait()
		if got := len(p.reported(0)); got != 4 {
			t.Errorf("%d reports, want 4", got)
		}
		for _, m := range p.messages(0, "invocationsobserved") {
			if err := rawjson.CheckForEngine(m.Raw, engineDepth); err != nil {
				t.Error(err)
			}
		}
		if n := c.Stats().ReportsDropped; n != 4 {
			t.Errorf("%d reports dropped, want 4", n)
		}
	})
}

func nested(depth int) json.RawMessage { return json.RawMessage(nestedLists(depth)) }

func TestDropCountsAreFolded(t *testing.T) {
	r := newReports(&Client{})
	for n := range maxDropCounts + 10 {
		r.countDrop(&report{function: &Function{id: fmt.Sprint(n)}}, dropInactive)
	}
	if got := r.dropped[droppedReport{"*", dropInactive}]; got != 10 || len(r.dropped) != maxDropCounts+1 {
		t.Errorf("%d under *, %d names", got, len(r.dropped))
	}
}

// An engine that does not support observers receives no reports.
func TestReportsForAnEngineWithoutObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }, features: func(n int) string {
			if n == 0 {
				return featuresV2
			}
			return ""
		}})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Millisecond)
		for n := range 3 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := c.Stats(); got.ReportsDropped != 3 || f.IsObserved() || f.LocalDispatch() {
			t.Errorf("%d dropped, observed %t, local %t", got.ReportsDropped, f.IsObserved(), f.LocalDispatch())
		}
		if m := p.messages(1, "invocationsobserved", "localinvocationstats", "observerack"); len(m) > 0 {
			t.Errorf("sent to the engine: %s", m[0].Raw)
		}
		if got, err := Call[int](t.Context(), c, "f", 5); err != nil || got != 5 || len(p.messages(1, "invokefunction")) < 2 {
			t.Errorf("%d, %v", got, err)
		}
	})
}

// A call is reported even if nobody waits for its result. The report contains the handler's
// trace.
func TestReportsOfCallsThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
			time.Sleep(5 * time.Second)
			return payload, nil
		})
		connectHost(t, c)
		synctest.Wait()
		ctx := ExtractContext(t.Context(), testParent, "k=v")
		if err := c.Send(ctx, "f", 1); err != nil {
			t.Error(err)
		}
		if err := c.Call(ctx, "f", 2, nil, WithTimeout(time.Second)); !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, it := range p.reported(0) {
			if it.Traceparent != testParent || it.Baggage != "iii.function.id=f,k=v" || it.DurationMs != 5000 {
				t.Errorf("%+v", it)
			}
		}
		if got := len(p.reported(0)); got != 2 {
			t.Errorf("%d reports", got)
		}
	})
}

// A handler that exceeds its timeout is reported and counted once, when the timeout expires.
func TestReportOfAHandlerThatRunsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string {
			return `{"id":"o","target":"t","on":"error","capture":["error"]}`
		}})
		c := p.client()
		hostFunc(t, c, "f", func(context.Context, json.RawMessage) (any, error) {
			time.Sleep(time.Minute)
			panic("late")
		}, WithHandlerTimeout(time.Second))
		connectHost(t, c)
		synctest.Wait()
		var e *Error
		if err := c.Call(t.Context(), "f", 1, nil); !errors.As(err, &e) || e.Code != CodeHandlerTimeout {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		items := p.reported(0)
		if len(items) != 1 || !strings.Contains(string(items[0].Error), CodeHandlerTimeout) || items[0].DurationMs != 1000 || c.Stats().LocalCalls != 1 {
			t.Errorf("%+v, %d local calls", items, c.Stats().LocalCalls)
		}
	})
}
