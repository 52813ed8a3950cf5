package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type localIn struct {
	N    int
	Mode string
}

type localOut struct{ N int }

// Whatever a handler does, its caller sees the same of a local call as of a routed one.
func TestLocalCallsEqualRoutedOnes(t *testing.T) {
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
					case m.Type == "invokefunction" && m.FunctionID == "f": // back to the worker
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
					time.Sleep(2 * time.Minute) // the handler runs on, and counts
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
			t.Error("LocalDispatch of a function without it")
		}
		if _, err := c.Enqueue(t.Context(), "q", "f", 1); err == nil || c.Stats().LocalCalls != 2 {
			t.Errorf("Enqueue: %v, %d local calls", err, c.Stats().LocalCalls)
		}
		if err := c.Call(t.Context(), "f", 1, nil, nil); err == nil {
			t.Error("a nil option is taken")
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
		synctest.Wait() // the answer comes before the slot is free
		if s := c.Stats(); deepest.Load() != 65 || routed != 1 || s.LocalCalls != 65 || s.HandlersRunning != 0 {
			t.Errorf("depth %d, %d routed, %d local, %d running", deepest.Load(), routed, s.LocalCalls, s.HandlersRunning)
		}
	})
}

// Local calls outside of handlers and those without an answer queue for a slot; the ones that
// a handler waits for have its own.
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
			t.Errorf("%d sends ran, %d at once", sends.Load(), most.Load())
		}
	})
}

// A nested call that its handler no longer waits for counts as a handler of its own.
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

// The engine names the callee in the baggage of a traced call, from which spans have it. A
// local call does the same, and leaves calls without a trace alone.
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

// Local calls work while the connection is lost, and end with the client.
func TestLocalCallsWhileAway(t *testing.T) {
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
			t.Errorf("under way when the client closed: %v", err)
		}
		if err := c.Call(t.Context(), "f", 5, nil); !errors.Is(err, ErrClosed) || !SafeToRetry(err) {
			t.Errorf("after Close: %v", err)
		}
		close(release)
	})
}

// A drain lets running handlers call functions of their own worker, and rejects everybody
// else. It takes functions back at once, so that another worker can serve them, but for those
// with observers, whose reports have yet to leave.
func TestLocalCallsInADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(_ int, id string) string {
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
			t.Errorf("a call outside of handlers: %v", err)
		}
		if left := p.messages(0, "unregisterfunction"); len(left) != 1 || left[0].ID != "outer" {
			t.Errorf("%d functions are taken back at once, want outer alone", len(left))
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
	})
}

// A queue that is full rejects local calls as it does others.
func TestLocalCallsAreOverloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client(WithMaxConcurrency(1))
		release := make(chan struct{})
		hostFunc(t, c, "block", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
		connectHost(t, c)
		synctest.Wait()
		for range maxQueuedInvocations + 3 { // the second one without an error, as if the engine had it
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

// A local call takes a payload that is larger than a message, and many of them are silent.
func TestLocalCallsPutNothingOnTheWire(t *testing.T) {
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

func TestLocalCallAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := newHostPeer(t, hostScript{script: script{forget: true}})
	c := p.client()
	hostFunc(t, c, "f", func(context.Context, json.RawMessage) (any, error) { return json.RawMessage("1"), nil })
	connectHost(t, c)
	ctx, in := t.Context(), json.RawMessage(`{"n":1}`)
	allocs := testing.AllocsPerRun(1000, func() {
		if err := c.Call(ctx, "f", in, nil); err != nil {
			t.Fatal(err)
		}
	})
	if limit := 7.0; allocs > limit {
		t.Errorf("%v allocations of a local call, not %v", allocs, limit)
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

// BenchmarkLocalCall sets a local call beside the encodings that it cannot do without.
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
