package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// tally counts named events.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (y *tally) add(format string, args ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.n == nil {
		y.n = map[string]int{}
	}
	y.n[fmt.Sprintf(format, args...)]++
}

func (y *tally) of(name string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.n[name]
}

// turnstile provides a trigger type whose triggers the test fires explicitly.
type turnstile struct {
	mu    sync.Mutex
	bound map[string]iii.TriggerBinding
}

func (s *turnstile) Bind(_ context.Context, b iii.TriggerBinding) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == nil {
		s.bound = map[string]iii.TriggerBinding{}
	}
	s.bound[b.ID] = b
	return nil
}

func (s *turnstile) Unbind(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bound, id)
	return nil
}

func (s *turnstile) fire(ctx context.Context, payload any) (n int, err error) {
	s.mu.Lock()
	bound := slices.Collect(maps.Values(s.bound))
	s.mu.Unlock()
	for _, b := range bound {
		_, failed := b.Fire(ctx, payload)
		err = errors.Join(err, failed)
	}
	return len(bound), err
}

// upgrade runs a set of workers while their engine is replaced by one of another generation.
type upgrade struct {
	t      *testing.T
	engine *iiitest.Engine

	shop, office, observer, caller *replica
	triggers                       []*iii.Trigger
	seen                           *iii.Observer
	turnstile                      turnstile

	calls  outcomes
	ran    tally // executions of shop::price, by argument
	events tally // received events, by kind and mark
	ticks  tally // received cron ticks, by scheduled time

	mu        sync.Mutex
	connected time.Time // when the shop last connected
}

var upgradeEvents = []string{"queue", "topic", "state", "stream", "custom", "configuration"}

var markOf = regexp.MustCompile(`mark-(\d+)`)

// note returns a handler that counts each event under the highest mark-N string in its
// payload. A change event's payload also contains the old value, whose mark is lower.
func (u *upgrade) note(event string) func(context.Context, json.RawMessage) (any, error) {
	return func(_ context.Context, payload json.RawMessage) (any, error) {
		newest := 0
		for _, mark := range markOf.FindAllSubmatch(payload, -1) {
			n, _ := strconv.Atoi(string(mark[1]))
			newest = max(newest, n)
		}
		if newest == 0 {
			u.t.Errorf("%s: no mark in %s", event, payload)
		}
		u.events.add("%s %d", event, newest)
		return nil, nil
	}
}

func (u *upgrade) start() {
	t, e := u.t, u.engine
	t.Helper()
	trigger := func(r *replica, functionID string, config iii.TriggerConfig, opts ...iii.TriggerOption) {
		t.Helper()
		h, err := r.Trigger(functionID, config, opts...)
		if err != nil {
			t.Fatal(err)
		}
		u.triggers = append(u.triggers, h)
	}
	u.office = startReplica(t, e, "office", func(r *replica) {
		if err := r.HandleTriggerType(iii.TriggerType{ID: "turnstile"}, &u.turnstile); err != nil {
			t.Fatal(err)
		}
	})
	u.shop = startReplica(t, e, "shop", func(r *replica) {
		handle(t, r.Client, "shop::price", func(_ context.Context, n int) (int, error) {
			u.ran.add("%d", n)
			time.Sleep(5 * time.Millisecond)
			return n, nil
		})
		for _, event := range upgradeEvents {
			if _, err := r.HandleFunc("shop::"+event, u.note(event)); err != nil {
				t.Fatal(err)
			}
		}
		handle(t, r.Client, "shop::tick", func(_ context.Context, tick iii.CronEvent) (any, error) {
			u.ticks.add("%s", tick.ScheduledTime.UTC().Format(time.RFC3339Nano))
			return nil, nil
		})
		trigger(r, "shop::tick", iii.CronTriggerConfig{Expression: "* * * * * *"})
		trigger(r, "shop::queue", iii.QueueTriggerConfig{Topic: "jobs"})
		trigger(r, "shop::topic", iii.SubscribeTriggerConfig{Topic: "news"})
		trigger(r, "shop::state", iii.StateTriggerConfig{Scope: new("orders")})
		trigger(r, "shop::stream", iii.StreamTriggerConfig{StreamName: "orders"})
		trigger(r, "shop::custom", iii.CustomTrigger{Type: "turnstile", Config: map[string]any{"gate": 1}})
		trigger(r, "shop::configuration", iii.ConfigurationTriggerConfig{ConfigurationID: "shop", EventTypes: []iii.ConfigurationEventType{iii.ConfigurationEventTypeUpdated}})
		route, err := iii.HandleHTTP(r.Client, "GET", "/orders/:id", func(_ context.Context, req *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{StatusCode: 200, Body: req.PathParams["id"]}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		page, err := r.MountHTTP("GET", "/pages/:id", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, req.PathValue("id"))
		}))
		if err != nil {
			t.Fatal(err)
		}
		r.functions = append(r.functions, route, page)
	}, iii.WithStateListener(func(s iii.ConnectionState, _ error) {
		if s == iii.ConnectionStateConnected {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.connected = time.Now()
		}
	}))
	u.observer = startReplica(t, e, "observer", func(r *replica) {
		handle(t, r.Client, "audit::priced", func(_ context.Context, o iii.Observed[int, int]) (any, error) {
			if o.Status != "success" || o.Input >= 0 || o.Input != o.Output {
				t.Errorf("observed %+v", o)
			}
			u.events.add("observed %d", o.Input)
			return nil, nil
		})
		o, err := r.Observe(iii.Source{FunctionID: "shop::price", Filters: json.RawMessage(`{"input":{"$lt":0}}`)}, "audit::priced")
		if err != nil {
			t.Fatal(err)
		}
		u.seen = o
	})
	u.caller = startReplica(t, e, "caller", func(*replica) {})
}

// call calls shop::price. It checks that the outcome is consistent with how often the function
// ran.
func (u *upgrade) call(n int) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got, err := iii.Call[int](ctx, u.caller.Client, "shop::price", n)
	outcome, least, most := "served", 0, 1
	var failure *iii.Error
	switch {
	case err == nil && got == n:
		least = 1
	case err == nil:
		outcome = "the answer to another call"
	case iii.SafeToRetry(err):
		outcome, most = "not sent", 0
	case errors.Is(err, iii.ErrFunctionNotFound):
		outcome, most = "not found", 0
	case errors.Is(err, iii.ErrConnectionLost):
		outcome = "connection lost"
	case errors.As(err, &failure):
		outcome = failure.Code
	default:
		outcome = err.Error()
	}
	if ran := u.ran.of(strconv.Itoa(n)); ran < least || ran > most {
		outcome = fmt.Sprintf("%s, but it ran %d times", outcome, ran)
	}
	u.calls.add(outcome, err != nil, began)
}

type pageVisit struct {
	began, ended time.Time
	outcome      string
}

// pageVisitor requests a page every 10 ms.
type pageVisitor struct {
	mu     sync.Mutex
	visits []pageVisit
}

func (v *pageVisitor) run(ctx context.Context, transport http.RoundTripper, url string) {
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		one := pageVisit{began: time.Now()}
		if resp, err := client.Get(fmt.Sprintf("%s/%d", url, n)); err != nil {
			one.outcome = err.Error()
		} else {
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			one.outcome = resp.Status
			if resp.StatusCode == 200 && !strings.Contains(string(body), strconv.Itoa(n)) {
				one.outcome = "the answer to another visit"
			}
		}
		one.ended = time.Now()
		v.mu.Lock()
		v.visits = append(v.visits, one)
		v.mu.Unlock()
	}
}

func within(t *testing.T, limit time.Duration, what string, holds func() bool) bool {
	t.Helper()
	for end := time.Now().Add(limit); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not within %v: %s", limit, what)
			return false
		}
	}
	return true
}

// try fires each event once and waits until a handler has received it.
func (u *upgrade) try(mark int) {
	t, c := u.t, u.office.Client
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	value := fmt.Sprintf("mark-%d", mark)
	check := func(event string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", event, err)
		}
	}
	check("queue", c.PublishDurable(ctx, "jobs", value))
	check("topic", c.Publish(ctx, "news", value))
	_, err := iii.NewState[string](c, "orders").Set(ctx, value, value)
	check("state", err)
	_, err = iii.NewStream[string](c, "orders").Set(ctx, "all", value, value)
	check("stream", err)
	_, err = c.Configuration().Set(ctx, "shop", map[string]string{"mark": value})
	check("configuration", err)
	if n, err := u.turnstile.fire(ctx, value); n != 1 || err != nil {
		t.Errorf("custom: %d triggers, %v", n, err)
	}
	for _, event := range upgradeEvents {
		within(t, 2*time.Second, fmt.Sprintf("%s %d", event, mark), func() bool { return u.events.of(fmt.Sprintf("%s %d", event, mark)) > 0 })
	}
}

// hop switches the engine to another generation. It disconnects the workers in the given
// order, pausing after each one, and waits until all of them have reconnected.
func (u *upgrade) hop(to iiitest.Protocol, pause time.Duration, order []*replica) (cut, back time.Time) {
	t := u.t
	t.Helper()
	if err := u.engine.SetProtocol(to); err != nil {
		t.Fatal(err)
	}
	for _, r := range order {
		if r == u.shop {
			cut = time.Now()
		}
		if !u.engine.Drop(r.Name()) {
			t.Errorf("%s is not connected", r.Name())
		}
		time.Sleep(pause)
	}
	synctest.Wait() // the workers have noticed the disconnect
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, r := range order {
		if err := r.Connect(ctx); err != nil {
			t.Errorf("%s does not reconnect: %v", r.Name(), err)
		}
	}
	return cut, u.since()
}

func (u *upgrade) since() time.Time {
	synctest.Wait() // state listeners have run
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.connected
}

// TestEngineIsReplacedUnderItsWorkers replaces the engine while its workers are running. It
// covers every change from one generation to another, and checks that:
//
//   - every lost call fails with an error, and no call runs twice
//   - if an error says that the function did not run, it did not
//   - routes respond within 2 s of reconnecting and do not fail after that
//   - a cron trigger fires exactly once per tick while its worker is connected
//   - every other trigger and observer works again and fires once per event, except that
//     durable messages may be delivered twice
func TestEngineIsReplacedUnderItsWorkers(t *testing.T) {
	generations := []iiitest.Protocol{iiitest.Protocol025, iiitest.Protocol026, iiitest.Protocol023, // an upgrade, then back
		iiitest.Protocol026, iiitest.Protocol025, iiitest.Protocol023}
	for _, test := range []struct {
		name   string
		offset time.Duration // time from a cron tick to the disconnect
		pause  time.Duration
		order  func(u *upgrade) []*replica
	}{
		{"all at once", 500 * time.Millisecond, 0, func(u *upgrade) []*replica { return []*replica{u.shop, u.office, u.observer, u.caller} }},
		{"on the tick", 0, 0, func(u *upgrade) []*replica { return []*replica{u.caller, u.observer, u.office, u.shop} }},
		{"just before the tick", 999 * time.Millisecond, 0, func(u *upgrade) []*replica { return []*replica{u.office, u.shop, u.caller, u.observer} }},
		{"one after the other", 300 * time.Millisecond, 150 * time.Millisecond, func(u *upgrade) []*replica { return []*replica{u.observer, u.shop, u.caller, u.office} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				u := &upgrade{t: t, engine: e}
				u.start()
				office := u.office.Client
				if _, err := office.Configuration().Register(t.Context(), iii.ConfigurationRegisterInput{
					ID: "shop", Name: "Shop", Description: "of the test", Schema: json.RawMessage(`{"type":"object"}`),
				}); err != nil {
					t.Fatal(err)
				}

				transport := &http.Transport{DialContext: e.DialContext}
				defer transport.CloseIdleConnections()
				load, stop := context.WithCancel(t.Context())
				defer stop()
				var all sync.WaitGroup
				routes := map[string]*pageVisitor{"/orders": {}, "/pages": {}}
				for path, v := range routes {
					all.Go(func() { v.run(load, transport, e.HTTPURL()+path) })
				}
				sent := 0
				all.Go(func() {
					tick := time.NewTicker(2 * time.Millisecond)
					defer tick.Stop()
					for n := 1; ; n++ {
						select {
						case <-load.Done():
							return
						case <-tick.C:
						}
						all.Go(func() { u.call(n) })
						if n%10 == 0 {
							if u.caller.Send(load, "shop::price", 1_000_000_000+n) == nil {
								sent++
							}
						}
					}
				})

				type period struct{ from, to time.Time } // when the shop was connected
				var periods []period
				from, mark := u.since(), 0
				lasts := func(features int) { // checks that everything is registered
					for _, r := range []*replica{u.shop, u.office, u.observer, u.caller} {
						if got := r.Features(); len(got) != features {
							t.Errorf("features of %s: %q, want %d", r.Name(), got, features)
						}
						for _, f := range r.functions {
							if err := f.Err(); err != nil {
								t.Errorf("%s: %v", r.Name(), err)
							}
						}
					}
					for _, h := range u.triggers {
						if err := h.Err(); err != nil {
							t.Errorf("trigger %s: %v", h.ID(), err)
						}
					}
					mark++
					observed := -mark
					if features == 0 {
						if err := u.seen.Err(); u.seen.State() != iii.ObserverStateError || !errors.Is(err, errors.ErrUnsupported) {
							t.Errorf("the observer is %s, %v", u.seen.State(), err)
						}
					} else {
						ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
						defer cancel()
						if err := u.seen.Ready(ctx); err != nil {
							t.Error(err)
						}
					}
					u.try(mark)
					u.call(observed)
					time.Sleep(time.Second)
					if got, want := u.events.of(fmt.Sprintf("observed %d", observed)), min(features, 1); got != want {
						t.Errorf("call %d was observed %d times, want %d", observed, got, want)
					}
				}
				lasts(0)
				for _, to := range generations {
					time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(2*time.Second + test.offset)))
					cut, back := u.hop(to, test.pause, test.order(u))
					periods = append(periods, period{from, cut})
					from = back
					lasts(map[iiitest.Protocol]int{iiitest.Protocol025: 2, iiitest.Protocol026: 3}[to])
				}
				periods = append(periods, period{from, time.Now()})
				stop()
				all.Wait()
				synctest.Wait()

				t.Logf("calls: %v", &u.calls)
				if n := u.calls.failedExcept("served", "not found", "connection lost", iii.CodeInvocationStopped, iii.CodeChannelSendFailed); n > 0 {
					t.Errorf("%d calls have an unexpected outcome", n)
				}
				if u.calls.count["served"] < 5000 || u.calls.count["connection lost"]+u.calls.count[iii.CodeInvocationStopped] == 0 {
					t.Error("too few calls were running during a change of engine")
				}
				stats := u.caller.Stats()
				if got := stats.SendsConfirmed + stats.SendsUnknown + stats.SendsDropped; got != uint64(sent) {
					t.Errorf("of %d messages, %d are accounted for: %+v", sent, got, stats)
				}

				for tick, n := range u.ticks.n {
					if n != 1 {
						t.Errorf("the tick of %s fired %d times", tick, n)
					}
				}
				for _, p := range periods {
					for tick := p.from.Truncate(time.Second).Add(time.Second); tick.Before(p.to); tick = tick.Add(time.Second) {
						if u.ticks.of(tick.UTC().Format(time.RFC3339Nano)) == 0 {
							t.Errorf("no tick at %v, although the shop was connected from %v to %v", tick, p.from, p.to)
						}
					}
				}
				for path, v := range routes {
					for i, p := range periods {
						first := slices.IndexFunc(v.visits, func(v pageVisit) bool { return v.began.After(p.from) && v.outcome == "200 OK" })
						if first < 0 || v.visits[first].ended.Sub(p.from) > 2*time.Second {
							t.Errorf("%s does not answer within 2 s of connection %d", path, i)
							continue
						}
						failed := map[string]int{}
						for _, one := range v.visits[first:] {
							if one.outcome != "200 OK" && one.ended.Before(p.to) {
								failed[one.outcome]++
							}
						}
						if len(failed) > 0 {
							t.Errorf("%s failed while it was served, on connection %d: %v", path, i, failed)
						}
					}
				}
				for event, n := range u.events.n {
					// A subscriber that becomes an observer again within 30 s receives
					// everything that was published in the meantime, including messages that
					// it already received as a trigger.
					if most := map[bool]int{true: 2, false: 1}[strings.HasPrefix(event, "queue ")]; n > most {
						t.Errorf("event %s arrived %d times", event, n)
					}
				}
				if got, want := len(u.events.n), mark*len(upgradeEvents)+4; got != want {
					t.Errorf("%d events, want %d: %v", got, want, u.events.n)
				}
			}, iiitest.WithProtocol(iiitest.Protocol023), iiitest.WithStrictProtocol())
		})
	}
}

// This test covers the trigger types that TestEngineIsReplacedUnderItsWorkers does not. Each
// must fire on every generation, with a payload that decodes into its event type.
func TestEngineEventsAreTheSameOnEveryGeneration(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				var got tally
				r := startReplica(t, e, "listener", func(r *replica) {
					listen := func(id string, config iii.TriggerConfig) {
						t.Helper()
						if _, err := r.Trigger(id, config); err != nil {
							t.Fatal(err)
						}
					}
					joinLeave := func(event string) func(context.Context, iii.StreamJoinLeaveEvent) (any, error) {
						return func(_ context.Context, in iii.StreamJoinLeaveEvent) (any, error) {
							got.add("%s %s/%s", event, in.StreamName, in.GroupID)
							return nil, nil
						}
					}
					handle(t, r.Client, "on::join", joinLeave("join"))
					handle(t, r.Client, "on::leave", joinLeave("leave"))
					handle(t, r.Client, "on::log", func(_ context.Context, in iii.LogEvent) (any, error) {
						got.add("log %s", in.Body)
						return nil, nil
					})
					handle(t, r.Client, "on::trace", func(_ context.Context, in iii.TraceEvent) (any, error) {
						if len(in.TraceIDs) == 0 || in.TraceIDs[0] == "" {
							t.Errorf("trace without an id: %+v", in)
						}
						got.add("trace")
						return nil, nil
					})
					handle(t, r.Client, "on::workers", func(_ context.Context, in iii.WorkersAvailableEvent) (any, error) {
						if in.WorkerID == "" {
							t.Errorf("worker without an id: %+v", in)
						}
						got.add("workers %s", in.Event)
						return nil, nil
					})
					handle(t, r.Client, "on::functions", func(_ context.Context, in iii.FunctionsAvailableEvent) (any, error) {
						for _, f := range in.Functions {
							if f.FunctionID == "late" {
								got.add("functions %s", in.Event)
							}
						}
						return nil, nil
					})
					listen("on::join", iii.StreamJoinTrigger{})
					listen("on::leave", iii.StreamLeaveTrigger{})
					listen("on::log", iii.LogTriggerConfig{Level: "error"})
					listen("on::trace", iii.TraceTriggerConfig{ServiceName: new("SHOP")}) // the name is not case-sensitive
					listen("on::workers", iii.WorkersAvailableTrigger{})
					listen("on::functions", iii.FunctionsAvailableTrigger{})
				})

				for _, level := range []string{"info", "error"} {
					if err := r.Call(t.Context(), "engine::log::"+level, iii.LogInput{Message: "an " + level}, nil); err != nil {
						t.Fatal(err)
					}
				}
				handle(t, r.Client, "late", func(context.Context, any) (any, error) { return nil, nil })
				ctx, cancel := context.WithCancel(t.Context())
				go func() { time.Sleep(time.Second); cancel() }()
				for _, err := range iii.SubscribeWith(ctx, iii.SubscribeOptions{URL: e.StreamURL(), DialContext: e.DialContext}, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
					if err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
				other, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(other.Connect(t.Context()), other.Close()); err != nil {
					t.Fatal(err)
				}
				url, service := e.URL(), "shop"
				telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url, ServiceName: &service, Enabled: new(true)}, iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
				if err != nil {
					t.Fatal(err)
				}
				_, span := telemetry.TracerProvider().Tracer("t").Start(t.Context(), "sale")
				span.End()
				if err := errors.Join(telemetry.Flush(t.Context()), telemetry.Shutdown(t.Context())); err != nil {
					t.Fatal(err)
				}
				time.Sleep(6 * time.Second) // longer than the engine holds back any event
				synctest.Wait()
				for _, event := range []string{"join s/g", "leave s/g", "log an error", "trace", "workers worker_connected", "workers worker_disconnected", "functions functions_changed"} {
					if got.of(event) == 0 {
						t.Errorf("no event %q: %v", event, got.n)
					}
				}
				if got.of("log an info") > 0 {
					t.Error("the log trigger ignores its level")
				}
			}, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
		})
	}
}

// busyWorker is a worker that has many types of triggers and records their events.
type busyWorker struct {
	client *iii.Client

	mu   sync.Mutex
	seen map[string][]string // events by trigger type

	triggers []*iii.Trigger
	route    *iii.Function
	mounted  *iii.Function
	alarms   alarms
	bad      *iii.Trigger // rejected by alarms
}

// alarms is the provider of a trigger type. It rejects the level "bad".
type alarms struct {
	mu    sync.Mutex
	bound map[string]iii.TriggerBinding
}

func (a *alarms) Bind(_ context.Context, b iii.TriggerBinding) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bound == nil {
		a.bound = map[string]iii.TriggerBinding{}
	}
	if string(b.Config) == `{"level":"bad"}` {
		return &iii.Error{Code: "BAD_LEVEL", Message: "no such level"}
	}
	a.bound[b.ID] = b
	return nil
}

func (a *alarms) Unbind(_ context.Context, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.bound, id)
	return nil
}

// ring fires every bound trigger and formats the results.
func (a *alarms) ring(ctx context.Context, payload any) (results []string) {
	a.mu.Lock()
	bound := maps.Clone(a.bound)
	a.mu.Unlock()
	for _, b := range bound {
		result, err := b.Fire(ctx, payload)
		results = append(results, fmt.Sprintf("%s %s %v", b.Config, result, err))
	}
	return results
}

func newProgram(t *testing.T, e *iiitest.Engine) *busyWorker {
	t.Helper()
	c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("program"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := &busyWorker{client: c, seen: map[string][]string{}}
	handle := func(id string, h iii.HandlerFunc) {
		if _, err := c.HandleFunc(id, h); err != nil {
			t.Fatal(err)
		}
	}
	note := func(what string, v any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[what] = append(p.seen[what], fmt.Sprint(v))
	}
	trigger := func(id string, cfg iii.TriggerConfig, opts ...iii.TriggerOption) {
		tr, err := c.Trigger(id, cfg, opts...)
		if err != nil {
			t.Fatal(err)
		}
		p.triggers = append(p.triggers, tr)
	}
	if p.route, err = iii.HandleHTTP(c, "POST", "/items/:id", func(_ context.Context, r *iii.HTTPRequest[map[string]int]) (*iii.HTTPResponse[string], error) {
		return &iii.HTTPResponse[string]{StatusCode: 201, Body: fmt.Sprintf("%s %d %s", r.PathParams["id"], r.Body["n"], r.Trigger.Type)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if p.mounted, err = c.MountHTTP("GET", "/stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprint(w, i)
			_ = http.NewResponseController(w).Flush()
		}
	})); err != nil {
		t.Fatal(err)
	}
	handle("cron", func(_ context.Context, payload json.RawMessage) (any, error) {
		var e iii.CronEvent
		err := json.Unmarshal(payload, &e)
		note("cron", fmt.Sprintf("%s %t %d %v", e.Trigger, e.JobID != "", e.ScheduledTime.Unix(), err))
		return nil, nil
	})
	trigger("cron", iii.CronTriggerConfig{Expression: "* * * * * *"})
	attempts := map[string]int{}
	handle("queue", func(_ context.Context, payload json.RawMessage) (any, error) {
		note("queue", string(payload))
		p.mu.Lock()
		defer p.mu.Unlock()
		if attempts[string(payload)]++; attempts[string(payload)] == 1 {
			return nil, errors.New("try again")
		}
		return nil, nil
	})
	trigger("queue", iii.QueueTriggerConfig{Topic: "orders", QueueConfig: &iii.QueueConfig{BackoffDelayMs: new(uint64(10))}})
	handle("topic", func(_ context.Context, payload json.RawMessage) (any, error) {
		note("topic", string(payload))
		return nil, nil
	})
	trigger("topic", iii.SubscribeTriggerConfig{Topic: "news"})
	handle("state", func(ctx context.Context, payload json.RawMessage) (any, error) {
		var e iii.StateEvent
		err := json.Unmarshal(payload, &e)
		inv, _ := iii.InvocationFromContext(ctx)
		note("state", fmt.Sprintf("%s %s %s %s %s %v", e.EventType, e.Scope, e.Key, e.NewValue, inv.Metadata, err))
		return nil, nil
	})
	trigger("state", iii.StateTriggerConfig{Scope: new("s"), ConditionFunctionID: "odd"}, iii.WithTriggerMetadata("m"))
	handle("odd", func(_ context.Context, payload json.RawMessage) (any, error) {
		var e iii.StateEvent
		var n int
		err := errors.Join(json.Unmarshal(payload, &e), json.Unmarshal(e.NewValue, &n))
		return n%2 == 1, err
	})
	if err := c.HandleTriggerType(iii.TriggerType{ID: "alarm"}, &p.alarms); err != nil {
		t.Fatal(err)
	}
	handle("alarmed", func(ctx context.Context, payload json.RawMessage) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		return fmt.Sprintf("%s %s", payload, inv.Metadata), nil
	})
	trigger("alarmed", iii.CustomTrigger{Type: "alarm", Config: map[string]string{"level": "high"}}, iii.WithTriggerMetadata("m"))
	if p.bad, err = c.Trigger("alarmed", iii.CustomTrigger{Type: "alarm", Config: map[string]string{"level": "bad"}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// take returns the recorded events and clears them.
func (p *busyWorker) take() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = map[string][]string{}
	return seen
}

// run fires all of the worker's triggers and returns what the handlers and their callers
// observed. run checks cron ticks itself, because their number depends on the elapsed time.
func (p *busyWorker) run(t *testing.T, e *iiitest.Engine, round int) map[string][]string {
	t.Helper()
	ctx, c := t.Context(), p.client
	browser := &http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
	fetch := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(ctx, method, e.HTTPURL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(text))
	}
	var pages []string
	pages = append(pages, fetch("POST", "/items/7", `{"n":3}`), fetch("GET", "/stream", ""), fetch("GET", "/nothing", ""))
	if err := errors.Join(
		c.PublishDurable(ctx, "orders", map[string]int{"round": round}),
		c.Publish(ctx, "news", []int{round}),
		c.Publish(ctx, "other", []int{round}),
		func() error {
			s := iii.NewState[int](c, "s")
			var all error
			for n := range 4 {
				_, err := s.Set(ctx, fmt.Sprint("k", round), n)
				all = errors.Join(all, err)
			}
			return all
		}(),
	); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	synctest.Wait()
	seen := p.take()
	seen["http"] = pages
	seen["alarm"] = p.alarms.ring(ctx, round)
	var refusal *iii.Error
	if err := p.bad.Err(); !errors.As(err, &refusal) || refusal.Code != "BAD_LEVEL" {
		t.Errorf("the trigger that its provider refuses: %v", err)
	}
	for _, tick := range seen["cron"] {
		if !strings.HasPrefix(tick, "cron true ") {
			t.Errorf("tick %s", tick)
		}
	}
	if ticks := len(slices.Compact(slices.Clone(seen["cron"]))); ticks != len(seen["cron"]) {
		t.Errorf("a tick fires twice: %q", seen["cron"])
	} else if ticks < 3 {
		t.Errorf("%d ticks in three seconds", ticks)
	}
	delete(seen, "cron")
	slices.Sort(seen["state"]) // the order depends on the engine
	for _, tr := range p.triggers {
		if err := tr.Err(); err != nil {
			t.Errorf("trigger %s: %v", tr.ID(), err)
		}
	}
	if err := errors.Join(p.route.Err(), p.mounted.Err()); err != nil {
		t.Error(err)
	}
	return seen
}

// wantEvents returns the result that run must return, which is the same on every engine.
func wantEvents(round int) map[string][]string {
	return map[string][]string{
		"http":  {`201 "7 3 http"`, "200 012", `404 {"error":{"code":"NOT_FOUND","message":"Not Found"}}`},
		"alarm": {fmt.Sprintf(`{"level":"high"} "%d \"m\"" <nil>`, round)},
		"queue": {fmt.Sprintf(`{"round":%d}`, round), fmt.Sprintf(`{"round":%d}`, round)},
		"topic": {fmt.Sprintf(`[%d]`, round)},
		"state": {fmt.Sprintf("state:updated s k%d 1 \"m\" <nil>", round), fmt.Sprintf("state:updated s k%d 3 \"m\" <nil>", round)},
	}
}

func TestOneProgramGivesTheSameOnEveryGeneration(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				p := newProgram(t, e)
				if err := p.client.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(wantEvents(1), p.run(t, e, 1)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
		})
	}
}

func TestEngineIsUpgradedUnderAProgram(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		p := newProgram(t, e)
		if err := p.client.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for round, protocol := range []iiitest.Protocol{
			iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026, iiitest.Protocol023,
			iiitest.Protocol026, iiitest.Protocol025, iiitest.Protocol023,
		} {
			if round > 0 {
				if err := e.SetProtocol(protocol); err != nil {
					t.Fatal(err)
				}
				reconnects := p.client.Stats().Reconnects
				e.Drop("program")
				for p.client.Stats().Reconnects == reconnects {
					time.Sleep(100 * time.Millisecond)
				}
				if err := p.client.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second) // routes need up to 2 s after a reconnect
				p.take()
			}
			if diff := cmp.Diff(wantEvents(round), p.run(t, e, round)); diff != "" {
				t.Errorf("round %d, %v (-want +got):\n%s", round, protocol, diff)
			}
		}
	}, iiitest.WithProtocol(iiitest.Protocol023), iiitest.WithStrictProtocol())
}

// TestAcceptedCronExpressions registers every cron expression that a real engine accepted. The
// client and the engines of all generations must accept all of them.
func TestAcceptedCronExpressions(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "0.23", "cron-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Expression string
		Accepted   bool
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		handle(t, c, "f", func(context.Context, any) (any, error) { return nil, nil })
		triggers := map[string]*iii.Trigger{}
		for _, v := range vectors {
			if !v.Accepted {
				continue
			}
			if triggers[v.Expression], err = c.Trigger("f", iii.CronTriggerConfig{Expression: v.Expression}); err != nil {
				t.Error(err)
			}
		}
		mustConnect(t, c)
		synctest.Wait()
		for expression, trigger := range triggers {
			if trigger != nil && trigger.Err() != nil {
				t.Errorf("%q: %v", expression, trigger.Err())
			}
		}
		if len(triggers) < 100 {
			t.Errorf("%d expressions", len(triggers))
		}
	})
}
