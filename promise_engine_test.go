package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/enginetest"
)

// These tests verify the client's guarantees by inspecting the registry and the message log of
// the development engine.

const workerName = "worker"

// newWorker returns a client of e that is not yet connected.
func newWorker(t *testing.T, e *iiitest.Engine, opts ...iii.Option) *iii.Client {
	t.Helper()
	c, err := iii.New(e.URL(), append([]iii.Option{iii.WithName(workerName), iii.WithDialContext(e.DialContext), iii.WithLogger(iii.TestLogger)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func mustConnect(t *testing.T, c *iii.Client) {
	t.Helper()
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// message contains the fields of a protocol message that the tests need.
type message struct {
	Type         string `json:"type"`
	ID           string `json:"id"`
	InvocationID string `json:"invocation_id"`
	FunctionID   string `json:"function_id"`
}

func decode(t *testing.T, f iiitest.Frame) (m message) {
	t.Helper()
	if err := json.Unmarshal(f.Message, &m); err != nil {
		t.Fatalf("%s: %v", f.Message, err)
	}
	return m
}

// registered returns the ids that the engine lists for the worker, sorted.
func registered(t *testing.T, c *iii.Client) []string {
	t.Helper()
	ids := []string{}
	functions, err := iii.Call[struct {
		Functions []struct {
			ID string `json:"function_id"`
		}
	}](t.Context(), c, "engine::functions::list", map[string]any{"worker": workerName})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range functions.Functions {
		ids = append(ids, f.ID)
	}
	triggers, err := iii.Call[struct {
		Triggers []struct{ ID string } `json:"registered_triggers"`
	}](t.Context(), c, "engine::registered-triggers::list", map[string]any{"worker": workerName})
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range triggers.Triggers {
		ids = append(ids, tr.ID)
	}
	if slices.Contains(c.Features(), iii.FeatureObserveV2) { // triggers are registered as observers
		for _, o := range observers(t, c) {
			if o.WorkerName == workerName {
				ids = append(ids, o.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// listedObserver is an observer as listed by the engine. WorkerName is empty while the worker
// is disconnected.
type listedObserver struct {
	ID         string
	Target     iii.ObserveTarget
	WorkerName string `json:"worker_name"`
}

func observers(t *testing.T, c *iii.Client) []listedObserver {
	t.Helper()
	list, err := iii.Call[struct{ Observers []listedObserver }](t.Context(), c, "engine::observers::list", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Observers
}

func isRegistration(kind string) bool {
	return kind == "registerfunction" || kind == "registertrigger" || kind == "observe"
}

// program tracks what a worker has registered.
type program struct {
	t  *testing.T
	c  *iii.Client
	mu sync.Mutex
	// live lists the current registrations in order.
	live []registration
	next int
}

type registration struct {
	id     string
	remove func() error
}

// ids returns the ids of all registrations in replay order: functions first, then triggers.
func (p *program) ids() []string {
	var functions, triggers []string
	for _, r := range p.live {
		if strings.HasPrefix(r.id, "t::") {
			triggers = append(triggers, r.id)
		} else {
			functions = append(functions, r.id)
		}
	}
	return append(functions, triggers...)
}

// add registers a function or, every tenth time, a trigger.
func (p *program) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	if p.next%10 == 0 {
		id := fmt.Sprintf("t::%d", p.next)
		tr, err := p.c.Trigger("f::1", iii.SubscribeTriggerConfig{Topic: "topic"}, iii.WithTriggerID(id))
		if err != nil {
			p.t.Error(err)
			return
		}
		p.live = append(p.live, registration{id, tr.Unregister})
		return
	}
	id := fmt.Sprintf("f::%d", p.next)
	f, err := p.c.HandleFunc(id, func(context.Context, json.RawMessage) (any, error) { return nil, nil })
	if err != nil {
		p.t.Error(err)
		return
	}
	p.live = append(p.live, registration{id, f.Unregister})
}

// drop removes a random registration.
func (p *program) drop(r *rand.Rand) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.live) == 0 {
		return
	}
	i := r.IntN(len(p.live))
	if err := p.live[i].remove(); err != nil {
		p.t.Error(err)
	}
	p.live = slices.Delete(p.live, i, i+1)
}

// check compares the engine's registry with the program's registrations.
func (p *program) check(e *iiitest.Engine) {
	p.t.Helper()
	want := p.ids()
	sorted := slices.Sorted(slices.Values(want))
	if diff := cmp.Diff(sorted, registered(p.t, p.c)); diff != "" {
		p.t.Fatalf("registry (-program +engine):\n%s", diff)
	}
}

// replayed returns the ids registered over the current connection, in order.
func (p *program) replayed(e *iiitest.Engine) (ids []string) {
	current := p.c.WorkerID()
	for _, f := range e.Frames() {
		if f.Worker != current || f.Direction != iiitest.ToEngine {
			continue
		}
		if m := decode(p.t, f); isRegistration(m.Type) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// After each of many reconnects, the engine's registry must match the program's registrations,
// which the client must have replayed in order.
func TestR2RegistrationsAreComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t)
		p := &program{t: t, c: newWorker(t, e)}
		for range 60 {
			p.add()
		}
		mustConnect(t, p.c)
		p.check(e)
		for i := range iii.Scale(20, 100) {
			before := p.c.WorkerID()
			e.Drop(workerName)
			for p.c.WorkerID() == before || p.c.State() != iii.ConnectionStateConnected {
				time.Sleep(10 * time.Millisecond) // virtual time
			}
			p.check(e)
			if diff := cmp.Diff(p.ids(), p.replayed(e)); diff != "" {
				t.Fatalf("order of the registrations after reconnect %d (-program +frames):\n%s", i+1, diff)
			}
		}
	})
}

// The engine's registry is also correct if functions and triggers are added and removed while
// connections break.
func TestR2RegistrationsConcurrent(t *testing.T) {
	for i := range iii.Scale(8, 100) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 2))
				e := iiitest.Start(t)
				p := &program{t: t, c: newWorker(t, e, iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 5, MaxDelayMs: 20, JitterFactor: 0.5}))}
				for range 1 + r.IntN(100) {
					p.add()
				}
				mustConnect(t, p.c)
				var users sync.WaitGroup
				for u := range 4 {
					own := rand.New(rand.NewPCG(seed, uint64(10+u)))
					users.Go(func() {
						for range 100 {
							if own.IntN(2) == 0 {
								p.add()
							} else {
								p.drop(own)
							}
							time.Sleep(time.Duration(own.IntN(2000)) * time.Microsecond)
						}
					})
				}
				for range 15 {
					time.Sleep(time.Duration(r.IntN(10_000)) * time.Microsecond)
					e.Drop(workerName)
				}
				users.Wait()
				synctest.Wait()
				mustConnect(t, p.c)
				p.check(e)
				checkNothingTwice(t, e)
			})
		})
	}
}

// checkNothingTwice checks the engine's log: no registration is sent twice on one connection,
// no call is sent twice, and each result is sent once, over the connection on which its call
// arrived. It returns the number of results.
func checkNothingTwice(t *testing.T, e *iiitest.Engine) (answers int) {
	t.Helper()
	type at struct{ worker, id string }
	live, calls, asked, answered := map[at]bool{}, map[string]bool{}, map[at]bool{}, map[string]bool{}
	for _, f := range e.Frames() {
		m := decode(t, f)
		switch {
		case f.Direction == iiitest.FromEngine:
			if m.Type == "invokefunction" {
				asked[at{f.Worker, m.InvocationID}] = true
			}
		case isRegistration(m.Type):
			if live[at{f.Worker, m.ID}] {
				t.Errorf("%s is registered twice on connection %s", m.ID, f.Worker)
			}
			live[at{f.Worker, m.ID}] = true
		case m.Type == "unregisterfunction" || m.Type == "unregistertrigger":
			if !live[at{f.Worker, m.ID}] {
				t.Errorf("%s is unregistered on connection %s, where it is not registered", m.ID, f.Worker)
			}
			delete(live, at{f.Worker, m.ID})
		case m.Type == "invokefunction" && m.InvocationID != "":
			if calls[m.InvocationID] {
				t.Errorf("call %s of %s is sent twice", m.InvocationID, m.FunctionID)
			}
			calls[m.InvocationID] = true
		case m.Type == "invocationresult":
			answers++
			if !asked[at{f.Worker, m.InvocationID}] {
				t.Errorf("result %s is sent over connection %s, unlike its call", m.InvocationID, f.Worker)
			}
			if answered[m.InvocationID] {
				t.Errorf("result %s is sent twice", m.InvocationID)
			}
			answered[m.InvocationID] = true
		}
	}
	if s := e.Stats(); s.FramesForgotten > 0 || s.Undecodable > 0 {
		t.Errorf("%d messages are not in the log, %d were undecodable", s.FramesForgotten, s.Undecodable)
	}
	return answers
}

// If a connection breaks while a handler is running, the handler's result must not be sent
// over another connection.
func TestR7RepliesStayOnTheirConnection(t *testing.T) {
	for i := range iii.Scale(4, 50) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				e := iiitest.Start(t)
				fast := iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 5, MaxDelayMs: 20, JitterFactor: 0.5})
				worker := newWorker(t, e, fast, iii.WithMaxConcurrency(20))
				slow := func(ctx context.Context, ms int) (int, error) {
					time.Sleep(time.Duration(ms) * time.Millisecond)
					return ms, nil
				}
				if _, err := iii.Handle(worker, "slow", slow); err != nil {
					t.Fatal(err)
				}
				caller := newWorker(t, e, fast, iii.WithName("caller"))
				mustConnect(t, worker)
				mustConnect(t, caller)
				var users sync.WaitGroup
				for u := range 20 {
					own := rand.New(rand.NewPCG(seed, uint64(20+u)))
					users.Go(func() {
						for left := 30; left > 0; left-- {
							ms := own.IntN(60)
							got, err := iii.Call[int](t.Context(), caller, "slow", ms)
							var remote *iii.Error
							switch {
							case err == nil && got == ms:
							case errors.Is(err, iii.ErrConnectionLost):
							case errors.Is(err, iii.ErrFunctionNotFound),
								errors.As(err, &remote) && remote.Code == "channel_send_failed": // the worker is disconnected or disconnecting
								time.Sleep(time.Millisecond)
								left++
							case errors.As(err, &remote) && remote.Code == "invocation_stopped":
							default:
								t.Errorf("call: %d, %v", got, err)
							}
						}
					})
				}
				for range 20 {
					time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
					if r.IntN(3) == 0 {
						e.Drop("caller")
					} else {
						e.Drop(workerName)
					}
				}
				users.Wait()
				synctest.Wait()
				if n := checkNothingTwice(t, e); n == 0 {
					t.Error("no results: the test proves nothing")
				}
				if worker.Stats().RepliesDropped == 0 {
					t.Error("no result was late: the test proves nothing")
				}
			})
		})
	}
}

// halfOpenDialer returns a dial function that connects through a proxy. The proxy cuts each of
// the first cuts connections after a random number of bytes, without the engine noticing.
func halfOpenDialer(tb testing.TB, dial func(ctx context.Context, network, addr string) (net.Conn, error), seed uint64, cuts int, out, in int64) func(ctx context.Context, network, addr string) (net.Conn, error) {
	r := rand.New(rand.NewPCG(seed, 4))
	f := enginetest.NewFaultProxy(tb, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", "engine") }, seed, func(n int) (plan enginetest.FaultPlan) {
		if n >= cuts {
			return plan
		}
		if r.IntN(2) == 0 {
			plan.In = enginetest.Fault{Limited: true, Limit: r.Int64N(in), Then: enginetest.FaultHalfOpen}
		} else {
			plan.Out = enginetest.Fault{Limited: true, Limit: r.Int64N(out), Then: enginetest.FaultHalfOpen, Slice: 1 + r.IntN(300)}
		}
		return plan
	})
	return f.DialContext
}

// TestR1HalfOpen cuts connections after a random number of bytes without the engine noticing.
// To the engine, the worker's name and functions still belong to the old connection. When the
// worker reconnects, the engine must accept its name, and the worker must regain its
// functions.
func TestR1HalfOpen(t *testing.T) {
	for i := range iii.Scale(60, 1000) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 3))
				e := iiitest.Start(t)
				n := 1 + r.IntN(40)
				dial := halfOpenDialer(t, e.DialContext, seed, 1+r.IntN(6), int64(1200+100*n), 500)
				p := &program{t: t, c: newWorker(t, e, iii.WithDialContext(dial), iii.WithKeepalive(time.Second, 3*time.Second))}
				for range n {
					p.add()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				if err := p.c.Connect(ctx); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // long enough for keepalive pings to reach the proxy's byte limits
				if p.c.Err() != nil || p.c.State() != iii.ConnectionStateConnected {
					t.Fatalf("an hour later: %v, %v", p.c.State(), p.c.Err())
				}
				p.check(e)
			})
		})
	}
}
