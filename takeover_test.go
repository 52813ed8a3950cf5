package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
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

// replica is one of several workers that register the same functions.
type replica struct {
	*iii.Client
	functions []*iii.Function

	mu     sync.Mutex
	states []iii.ConnectionState
	errs   []error // errors passed to the state listener
}

// startReplica connects a worker after setup has registered its functions.
func startReplica(t *testing.T, e *iiitest.Engine, name string, setup func(r *replica), opts ...iii.Option) *replica {
	t.Helper()
	return startReplicaAt(t, e, e.URL(), name, setup, opts...)
}

// startReplicaAt is like startReplica, but connects to url.
func startReplicaAt(t *testing.T, e *iiitest.Engine, url, name string, setup func(r *replica), opts ...iii.Option) *replica {
	t.Helper()
	r := &replica{}
	opts = append([]iii.Option{iii.WithName(name), iii.WithDialContext(e.DialContext), iii.WithLogger(iii.TestLogger),
		iii.WithStateListener(func(s iii.ConnectionState, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.states = append(r.states, s)
			if err != nil {
				r.errs = append(r.errs, err)
			}
		})}, opts...)
	var err error
	if r.Client, err = iii.New(url, opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	setup(r)
	if err := r.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// serveName returns a setup function that registers functions that return the worker's name.
func serveName(t *testing.T, ids ...string) func(r *replica) {
	return func(r *replica) {
		t.Helper()
		for _, id := range ids {
			f, err := iii.Handle(r.Client, id, func(context.Context, any) (string, error) { return r.Name(), nil }, iii.WithBuiltinOverride())
			if err != nil {
				t.Fatal(err)
			}
			r.functions = append(r.functions, f)
		}
	}
}

func (r *replica) refused() (n int) {
	for _, f := range r.functions {
		if f.Err() != nil {
			n++
		}
	}
	return n
}

// reported returns how many rejections and takeovers were reported to the state listener.
func (r *replica) reported() (refusals, takeovers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.errs {
		if _, ok := errors.AsType[*iii.TakeoverNotice](err); ok {
			takeovers++
		} else if _, ok := errors.AsType[*iii.RejectedError](err); ok {
			refusals++
		}
	}
	return refusals, takeovers
}

// inPlaceOf maps message types to their equivalents on engines that have observers instead of
// triggers.
var inPlaceOf = map[string]string{"registertrigger": "observe", "unregistertrigger": "unobserve"}

// sent returns the ids and times of all messages of a kind that a worker has sent since a
// given time. It includes the equivalents listed in inPlaceOf.
func sent(e *iiitest.Engine, name, kind string, since time.Time) (ids []string, at []time.Time) {
	for _, f := range e.Frames() {
		if f.WorkerName == name && !f.Time.Before(since) && f.Direction == iiitest.ToEngine && (f.Type() == kind || f.Type() == inPlaceOf[kind]) {
			var m struct{ ID string }
			_ = json.Unmarshal(f.Message, &m)
			ids, at = append(ids, m.ID), append(at, f.Time)
		}
	}
	return ids, at
}

func manyIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("orders::f%d", i))
	}
	return ids
}

func TestRefusedFunctionsAreTakenOverWhenTheirOwnerLeaves(t *testing.T) {
	leave := map[string]func(e *iiitest.Engine, r *replica){
		"shut down": func(_ *iiitest.Engine, r *replica) { _ = r.Shutdown(context.Background()) },
		"killed":    func(e *iiitest.Engine, r *replica) { e.RefuseAuth("gone"); e.Drop(r.Name()) },
		"closed":    func(_ *iiitest.Engine, r *replica) { _ = r.Close() },
	}
	for how, leave := range leave {
		for _, n := range []int{1, 100, 1000} {
			for _, stood := range []time.Duration{0, 300 * time.Millisecond, time.Minute} {
				t.Run(fmt.Sprintf("%s/%d functions/after %v", how, n, stood), func(t *testing.T) {
					bubble(t, func(t *testing.T, e *iiitest.Engine) {
						old := startReplica(t, e, "old", serveName(t, manyIDs(n)...))
						b := startReplica(t, e, "new", serveName(t, manyIDs(n)...))
						synctest.Wait()
						if got := b.refused(); got != n || b.Stats().FunctionsRefused != n {
							t.Fatalf("%d functions are refused, the counter is %d; want %d", got, b.Stats().FunctionsRefused, n)
						}
						time.Sleep(stood)
						began := time.Now()
						leave(e, old)
						for b.refused() > 0 && time.Since(began) < time.Minute {
							time.Sleep(10 * time.Millisecond)
						}
						if took := time.Since(began); took > 3*time.Second {
							t.Errorf("%d of %d functions are still refused %v after their owner has disconnected", b.refused(), n, took)
						}
						if got, err := iii.Call[string](t.Context(), b.Client, "orders::f0", nil); err != nil || got != "new" {
							t.Errorf("the function returns %q, %v", got, err)
						}
						synctest.Wait()
						if refusals, takeovers := b.reported(); refusals != n || takeovers != n {
							t.Errorf("the state listener received %d refusals and %d takeovers, want %d of each", refusals, takeovers, n)
						}
					})
				})
			}
		}
	}
}

// While the owner stays connected, retries are limited to 200 per second. The test does not
// count the first registration.
func TestRepeatedRegistrationsAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		const n = 1000
		startReplica(t, e, "old", serveName(t, manyIDs(n)...))
		b := startReplica(t, e, "new", serveName(t, manyIDs(n)...))
		time.Sleep(time.Millisecond)
		began := time.Now()
		time.Sleep(30 * time.Second)
		_, at := sent(e, "new", "registerfunction", began)
		for i := range at {
			j, _ := slices.BinarySearchFunc(at, at[i].Add(time.Second), func(a, b time.Time) int { return a.Compare(b) })
			if j-i > 200 {
				t.Fatalf("%d registrations within a second", j-i)
			}
		}
		if len(at) < 30*100 {
			t.Errorf("%d registrations within 30 s", len(at))
		}
		if b.refused() != n {
			t.Errorf("%d functions are refused", b.refused())
		}
	})
}

func TestFirstAttemptComesAfterAQuarterOfASecond(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		startReplica(t, e, "old", serveName(t, "f"))
		startReplica(t, e, "new", serveName(t, "f"))
		time.Sleep(time.Minute)
		_, at := sent(e, "new", "registerfunction", time.Time{})
		want := 250 * time.Millisecond
		for i := range len(at) - 1 {
			gap := at[i+1].Sub(at[i])
			if gap < want*8/10-time.Millisecond || gap > min(want*12/10, 2*time.Second)+time.Millisecond {
				t.Errorf("gap %d is %v, want about %v", i, gap, want)
			}
			want = min(2*want, 2*time.Second)
		}
		if len(at) < 25 {
			t.Errorf("%d attempts in a minute", len(at))
		}
	})
}

// An owner may unregister a single function while it stays connected.
func TestFunctionReleasedByConnectedOwnerIsTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		old := startReplica(t, e, "old", serveName(t, manyIDs(300)...))
		b := startReplica(t, e, "new", serveName(t, manyIDs(300)...))
		time.Sleep(time.Minute)
		if err := old.functions[200].Unregister(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for b.functions[200].Err() != nil && time.Since(began) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 3500*time.Millisecond {
			t.Errorf("taken over after %v", took)
		}
		time.Sleep(10 * time.Second)
		if b.refused() != 299 {
			t.Errorf("%d functions are refused, want 299", b.refused())
		}
	})
}

// Function.Err keeps returning the rejection across reconnects, until this worker serves the
// function.
func TestRejectionIsStableAcrossReconnects(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		startReplica(t, e, "old", serveName(t, "f"))
		b := startReplica(t, e, "new", serveName(t, "f"))
		var flickered atomic.Bool
		e.Hook(func(iiitest.Frame) iiitest.Verdict {
			if b.functions[0].Err() == nil {
				flickered.Store(true)
			}
			return iiitest.Verdict{}
		})
		for range 3 {
			e.Drop("new")
			time.Sleep(10 * time.Second)
		}
		e.Hook(nil)
		synctest.Wait()
		if flickered.Load() {
			t.Error("Err was nil while the other worker owned the function")
		}
		if refusals, takeovers := b.reported(); refusals != 1 || takeovers != 0 {
			t.Errorf("the state listener received %d refusals and %d takeovers, want 1 and 0", refusals, takeovers)
		}
	})
}

// serveAll returns a setup function that registers one function for every kind of trigger.
func serveAll(t *testing.T, ran func(kind, worker string)) func(r *replica) {
	return func(r *replica) {
		t.Helper()
		run := func(kind string) func(context.Context, any) (any, error) {
			return func(context.Context, any) (any, error) {
				ran(kind, r.Name())
				return nil, nil
			}
		}
		for kind, cfg := range map[string]iii.TriggerConfig{
			"cron":  iii.CronTriggerConfig{Expression: "* * * * * *"},
			"queue": iii.QueueTriggerConfig{Topic: "orders"},
			"topic": iii.SubscribeTriggerConfig{Topic: "news"},
			"state": iii.StateTriggerConfig{},
		} {
			f, err := iii.Handle(r.Client, "orders::"+kind, run(kind))
			if err != nil {
				t.Fatal(err)
			}
			r.functions = append(r.functions, f)
			if _, err := r.Trigger(f.ID(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		f, err := r.MountHTTP("GET", "/orders/:id", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, r.Name()) }))
		if err != nil {
			t.Fatal(err)
		}
		r.functions = append(r.functions, f)
	}
}

// get sends a GET request to a route, over a new connection.
func get(t *testing.T, e *iiitest.Engine, path string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Before, during and after an update, every event calls its function exactly once, on the
// worker that serves the function. A canary that is rejected and then closed makes no
// difference.
func TestTriggersOfTwoReplicasFireOnce(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		var mu sync.Mutex
		ran := map[string]int{} // by kind and worker
		count := func(kind, worker string) {
			mu.Lock()
			defer mu.Unlock()
			ran[kind+" "+worker]++
		}
		take := func() map[string]int {
			mu.Lock()
			defer mu.Unlock()
			taken := ran
			ran = map[string]int{}
			return taken
		}
		caller := startReplica(t, e, "caller", func(*replica) {})
		round := func(serving string, ticks int) {
			t.Helper()
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1500 * time.Millisecond))) // between two ticks
			take()
			for range 3 {
				if err := caller.PublishDurable(t.Context(), "orders", 1); err != nil {
					t.Fatal(err)
				}
				if err := caller.Publish(t.Context(), "news", 1); err != nil {
					t.Fatal(err)
				}
				if _, err := iii.NewState[int](caller.Client, "s").Set(t.Context(), "k", 1); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Duration(ticks) * time.Second)
			synctest.Wait()
			want := map[string]int{"cron " + serving: ticks, "queue " + serving: 3, "topic " + serving: 3, "state " + serving: 3}
			if diff := cmp.Diff(want, take()); diff != "" {
				t.Errorf("served by %s: runs (-want +got):\n%s", serving, diff)
			}
			if status, body := get(t, e, "/orders/1"); status != 200 || body != serving {
				t.Errorf("the route responds with %d %q, want 200 %q", status, body, serving)
			}
		}
		a := startReplica(t, e, "a", serveAll(t, count))
		round("a", 5)
		// Start a canary, which fails.
		canary := startReplica(t, e, "canary", serveAll(t, count))
		round("a", 5)
		if ids, _ := sent(e, "canary", "registertrigger", time.Time{}); len(ids) > 0 {
			t.Errorf("the refused replica has sent the triggers %q", ids)
		}
		_ = canary.Close()
		round("a", 5)
		// Start the next version, which takes over.
		b := startReplica(t, e, "b", serveAll(t, count))
		round("a", 5)
		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if n := b.refused(); n != 0 {
			t.Errorf("%d functions are still refused", n)
		}
		round("b", 5)
		ids, _ := sent(e, "b", "registertrigger", time.Time{})
		slices.Sort(ids)
		if n := len(slices.Compact(slices.Clone(ids))); n != 6 || len(ids) != 6 {
			t.Errorf("the new replica has sent the triggers %q, want six, once each: GET routes have one for HEAD, too", ids)
		}
	})
}

// When a connection ends, the engine first removes the worker's functions and then its
// triggers. A route registered between these two steps could be removed, too.
func TestTriggersWaitForFormerOwnersTriggers(t *testing.T) {
	for _, test := range []struct {
		name    string
		cleanup time.Duration // time between the two steps
		latest  time.Duration // when the route must respond reliably
	}{
		{"at once", 0, time.Second},
		{"soon", 700 * time.Millisecond, 1200 * time.Millisecond},
		{"late", 1900 * time.Millisecond, 2500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				a := startReplica(t, e, "a", serveAll(t, func(string, string) {}))
				b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
				time.Sleep(10 * time.Millisecond)
				var cleaned time.Time
				e.HookCleanup(func(id string) {
					if id == a.WorkerID() {
						time.Sleep(test.cleanup)
						cleaned = time.Now()
					}
				})
				began := time.Now()
				e.RefuseAuth("gone")
				e.Drop("a")
				time.Sleep(test.latest)
				synctest.Wait()
				if n := b.refused(); n != 0 {
					t.Fatalf("%d functions are refused", n)
				}
				_, at := sent(e, "b", "registertrigger", time.Time{})
				if len(at) != 6 || hasTriggers(e) && at[0].Before(cleaned) {
					t.Errorf("%d triggers sent; the engine removed the former ones %v after their connection ended, the first was sent after %v",
						len(at), cleaned.Sub(began), at[0].Sub(began))
				}
				if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
					t.Errorf("the route responds with %d %q", status, body)
				}
			})
		})
	}
}

// A worker that drains for a long time stays connected. It must not block the worker that has
// taken over its functions.
func TestTriggersDoNotWaitForADrainingOwner(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		working := make(chan struct{})
		a := startReplica(t, e, "a", func(r *replica) {
			serveAll(t, func(string, string) {})(r)
			handle(t, r.Client, "long", func(context.Context, any) (any, error) { close(working); time.Sleep(20 * time.Second); return nil, nil })
		})
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
		if err := b.Send(t.Context(), "long", nil); err != nil {
			t.Fatal(err)
		}
		<-working
		drained := make(chan error, 1)
		go func() { drained <- a.Shutdown(context.Background()) }()
		time.Sleep(600 * time.Millisecond)
		if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q while its former owner drains", status, body)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q after its former owner has disconnected", status, body)
		}
	})
}

// When a worker reconnects, it does not register triggers for functions that another worker
// has taken over in the meantime.
func TestTriggersOfTakenOverFunctionAreNotReregistered(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 10_000, MaxDelayMs: 10_000, BackoffMultiplier: 1}))
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
		e.Drop("a")
		time.Sleep(4 * time.Second)
		if a.State() == iii.ConnectionStateConnected || b.refused() != 0 {
			t.Fatalf("the first replica is %v, %d functions of the second are refused", a.State(), b.refused())
		}
		away := time.Now()
		time.Sleep(10 * time.Second)
		if a.State() != iii.ConnectionStateConnected || a.refused() != len(a.functions) {
			t.Errorf("the first replica is %v with %d refused functions", a.State(), a.refused())
		}
		if ids, _ := sent(e, "a", "registertrigger", away); len(ids) > 0 {
			t.Errorf("the first replica has sent the triggers %q", ids)
		}
		if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q", status, body)
		}
	})
}

func TestTriggersOfRefusedFunctionsSayWhatTheyWaitFor(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		a := startReplica(t, e, "a", serveName(t, "f"))
		b := startReplica(t, e, "b", serveName(t, "f"))
		trigger, err := b.Trigger("f", iii.CronTriggerConfig{Expression: "0 0 0 * * *"})
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := b.Trigger("others::f", iii.SubscribeTriggerConfig{Topic: "t"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		rejected, ok := errors.AsType[*iii.RejectedError](trigger.Err())
		if !ok || rejected.FunctionID != "f" {
			t.Errorf("Err = %v, want the refusal of the function", trigger.Err())
		}
		if ids, _ := sent(e, "b", "registertrigger", time.Time{}); !slices.Equal(ids, []string{foreign.ID()}) || foreign.Err() != nil {
			t.Errorf("sent %q, want only the trigger of the other worker's function; its error is %v", ids, foreign.Err())
		}
		_ = a.Close()
		time.Sleep(3 * time.Second)
		if err := trigger.Err(); err != nil {
			t.Error(err)
		}
		if ids, _ := sent(e, "b", "registertrigger", time.Time{}); !slices.Contains(ids, trigger.ID()) {
			t.Error("the trigger was not registered with its function")
		}
		if err := trigger.Unregister(); err != nil {
			t.Error(err)
		}
	})
}

// A trigger that was never sent is not unregistered, because the other replica may have a
// trigger with the same id.
func TestHeldTriggersAreNotUnregistered(t *testing.T) {
	for _, how := range []string{"unregister", "shutdown", "unregister the function"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				setup := func(r *replica) {
					serveName(t, "f")(r)
					if _, err := r.Trigger("f", iii.SubscribeTriggerConfig{Topic: "t"}, iii.WithTriggerID("shared")); err != nil {
						t.Fatal(err)
					}
				}
				startReplica(t, e, "a", setup)
				b := startReplica(t, e, "b", serveName(t, "f"))
				trigger, err := b.Trigger("f", iii.SubscribeTriggerConfig{Topic: "t"}, iii.WithTriggerID("shared"))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				switch how {
				case "unregister":
					err = trigger.Unregister()
				case "shutdown":
					err = b.Shutdown(t.Context())
				default:
					err = errors.Join(trigger.Unregister(), b.functions[0].Unregister())
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if ids, _ := sent(e, "b", "unregistertrigger", time.Time{}); len(ids) > 0 {
					t.Errorf("unregistered: %q", ids)
				}
			})
		})
	}
}

// A call is sent after all triggers registered before it, even if a trigger had to wait for
// its function.
func TestCallsFollowEarlierTriggers(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := startReplica(t, e, "a", func(*replica) {})
		for i := range 100 {
			got := make(chan string, 10)
			topic := fmt.Sprintf("topic%d", i)
			handle(t, c.Client, topic, func(_ context.Context, s string) (any, error) { got <- s; return nil, nil })
			if _, err := c.Trigger(topic, iii.SubscribeTriggerConfig{Topic: topic}); err != nil {
				t.Fatal(err)
			}
			if err := c.Publish(t.Context(), topic, "first"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if len(got) != 1 {
				t.Fatalf("%d messages of %s arrived", len(got), topic)
			}
		}
		if n := c.Stats().Buffered; n != 0 {
			t.Errorf("%d requests are still buffered", n)
		}
	})
}

// Routes of different workers conflict if they differ only in parameter names.
func TestRouteWithOtherParameterNamesIsTakenOver(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025} {
		t.Run(protocol.String(), func(t *testing.T) {
			routeWithOtherParameterNamesIsTakenOver(t, protocol, iii.CodeTriggerRegistrationFailed, 3*time.Second)
		})
	}
	t.Run("0.26", func(t *testing.T) { // an engine keeps observers of a lost worker for 5 s
		routeWithOtherParameterNamesIsTakenOver(t, iiitest.Protocol026, iii.CodeHTTPRouteConflict, 8*time.Second)
	})
}

func routeWithOtherParameterNamesIsTakenOver(t *testing.T, protocol iiitest.Protocol, code string, within time.Duration) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		route := func(path string) func(r *replica) {
			return func(r *replica) {
				f, err := r.MountHTTP("GET", path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, r.Name()) }))
				if err != nil {
					t.Fatal(err)
				}
				r.functions = append(r.functions, f)
			}
		}
		a := startReplica(t, e, "a", route("/users/:id"))
		b := startReplica(t, e, "b", route("/users/:user_id"))
		time.Sleep(time.Minute)
		var refusal *iii.Error
		if err := b.functions[0].Err(); !errors.As(err, &refusal) || refusal.Code != code {
			t.Errorf("Err = %v, want the refusal of the route", err)
		}
		_ = a.Close()
		time.Sleep(within)
		if err := errors.Join(b.functions[0].Err(), b.Ready()); err != nil {
			t.Error(err)
		}
		if status, body := get(t, e, "/users/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q", status, body)
		}
	}, iiitest.WithProtocol(protocol))
}

func TestInvalidRegistrationIsNotRetried(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := startReplica(t, e, "a", serveName(t, "engine::mine"), iii.WithNamespace("blue"))
		handle(t, c.Client, "f", func(context.Context, any) (any, error) { return nil, nil })
		trigger, err := c.Trigger("f", iii.CronTriggerConfig{Expression: "* * * 99 * *"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if trigger.Err() == nil || c.functions[0].Err() == nil {
			t.Fatalf("nothing is refused: %v, %v", trigger.Err(), c.functions[0].Err())
		}
		refused := time.Now().Add(1)
		time.Sleep(time.Minute)
		for _, kind := range []string{"registerfunction", "registertrigger"} {
			if ids, _ := sent(e, "a", kind, refused); len(ids) > 0 {
				t.Errorf("%s again: %q", kind, ids)
			}
		}
	})
}

func TestWorkerWaitsForItsName(t *testing.T) {
	t.Run("until the other one has gone", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			a := startReplica(t, e, "orders", serveName(t, "f"))
			time.AfterFunc(time.Minute, func() { _ = a.Close() })
			retries := uint64(1)
			began := time.Now()
			b := startReplica(t, e, "orders", serveName(t, "f"), iii.WithWaitForName(), iii.WithReconnection(iii.ReconnectionConfig{MaxRetries: &retries}))
			if took := time.Since(began); took < time.Minute || took > time.Minute+3*time.Second {
				t.Errorf("connected after %v", took)
			}
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if diff := cmp.Diff([]iii.ConnectionState{iii.ConnectionStateConnecting, iii.ConnectionStateReconnecting, iii.ConnectionStateConnected}, b.states); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
			rejected := new(iii.RejectedError)
			if len(b.errs) != 1 || !errors.As(b.errs[0], &rejected) || rejected.WorkerName != "orders" {
				t.Errorf("the state listener received %v, want the refusal once", b.errs)
			}
		})
	})
	t.Run("until its context ends", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			startReplica(t, e, "orders", func(*replica) {})
			b, err := iii.New(e.URL(), iii.WithName("orders"), iii.WithDialContext(e.DialContext), iii.WithWaitForName())
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err = b.Connect(ctx)
			rejected := new(iii.RejectedError)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &rejected) || rejected.Code != "WORKER_NAMESPACE_CONFLICT" {
				t.Errorf("Connect = %v, want both the deadline and the refusal", err)
			}
		})
	})
	t.Run("not unless it is told to", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			startReplica(t, e, "orders", func(*replica) {})
			b, err := iii.New(e.URL(), iii.WithName("orders"), iii.WithDialContext(e.DialContext))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			rejected := new(iii.RejectedError)
			if err := b.Connect(t.Context()); !errors.As(err, &rejected) || !errors.Is(err, iii.ErrClosed) {
				t.Errorf("Connect = %v, want the refusal", err)
			}
		})
	})
}

// If the worker is draining or overloaded, the response has status 503 and a Retry-After
// header.
func TestUnavailableRoutesSendRetryAfter(t *testing.T) {
	for _, test := range []struct {
		name, code string
		opts       []iii.Option
	}{
		{"draining", "worker_draining", []iii.Option{iii.WithMaxConcurrency(1)}},
		{"overloaded", "overloaded", []iii.Option{iii.WithMaxConcurrency(1)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				working, done := make(chan struct{}), make(chan struct{})
				c := startReplica(t, e, "a", func(r *replica) {
					handle(t, r.Client, "long", func(context.Context, any) (any, error) { close(working); <-done; return nil, nil })
					if _, err := iii.HandleHTTP(r.Client, "GET", "/orders", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
						return &iii.HTTPResponse[string]{StatusCode: 200, Body: "served"}, nil
					}); err != nil {
						t.Fatal(err)
					}
				}, test.opts...)
				caller := startReplica(t, e, "caller", func(*replica) {})
				if err := caller.Send(t.Context(), "long", nil); err != nil {
					t.Fatal(err)
				}
				<-working
				drained := make(chan error, 1)
				if test.name == "overloaded" {
					for range 10_000 { // fills the queue of invocations
						if err := caller.Send(t.Context(), "http::GET/orders", nil); err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait()
				}
				type answer struct {
					status int
					retry  string
					body   string
				}
				answers := make(chan answer, 1)
				go func() { // waits in the queue, and is rejected
					transport := &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}
					defer transport.CloseIdleConnections()
					resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/orders")
					if err != nil {
						t.Error(err)
						answers <- answer{}
						return
					}
					defer resp.Body.Close()
					b, _ := io.ReadAll(resp.Body)
					answers <- answer{resp.StatusCode, resp.Header.Get("Retry-After"), string(b)}
				}()
				synctest.Wait()
				if test.name == "draining" {
					go func() { drained <- c.Shutdown(context.Background()) }()
				}
				got := <-answers
				if got.status != 503 || got.retry != "1" || !strings.Contains(got.body, test.code) {
					t.Errorf("response %+v, want a 503 with Retry-After and %s", got, test.code)
				}
				close(done)
				if test.name == "draining" {
					if err := <-drained; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestReplicasUnderLoad runs a rolling update and a failed canary under load.
func TestReplicasUnderLoad(t *testing.T) {
	const perSecond = 300
	// Each second, load makes perSecond requests to the route and perSecond calls to the
	// function, until stop is called. The stop function returns the outcomes and the longest
	// time during which no worker served the route.
	load := func(t *testing.T, e *iiitest.Engine, caller *replica) (stop func() (routes, calls map[string]int, gap time.Duration)) {
		var mu sync.Mutex
		routes, calls := map[string]int{}, map[string]int{}
		last, longest := time.Now(), time.Duration(0)
		transport := &http.Transport{DialContext: e.DialContext, MaxIdleConnsPerHost: 100}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			ticker := time.NewTicker(time.Second / perSecond)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				all.Go(func() {
					outcome := ""
					resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/orders/1")
					if err != nil {
						outcome = err.Error()
					} else {
						b, _ := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						if outcome = resp.Status; resp.StatusCode == 200 {
							outcome = string(b)
						}
					}
					mu.Lock()
					defer mu.Unlock()
					routes[outcome]++
					if outcome == "a" || outcome == "b" {
						longest = max(longest, time.Since(last))
						last = time.Now()
					}
				})
				all.Go(func() {
					outcome, err := iii.Call[string](context.Background(), caller.Client, "orders::serve", nil)
					if err != nil {
						outcome = err.Error()
						if e, ok := errors.AsType[*iii.Error](err); ok {
							outcome = e.Code
						}
					}
					mu.Lock()
					defer mu.Unlock()
					calls[outcome]++
				})
			}
		})
		return func() (map[string]int, map[string]int, time.Duration) {
			cancel()
			all.Wait()
			transport.CloseIdleConnections()
			return routes, calls, max(longest, time.Since(last))
		}
	}
	setup := func(r *replica) {
		f, err := iii.Handle(r.Client, "orders::serve", func(context.Context, any) (string, error) { time.Sleep(5 * time.Millisecond); return r.Name(), nil })
		if err != nil {
			t.Fatal(err)
		}
		r.functions = append(r.functions, f)
		if f, err = r.MountHTTP("GET", "/orders/:id", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(5 * time.Millisecond)
			_, _ = io.WriteString(w, r.Name())
		})); err != nil {
			t.Fatal(err)
		}
		r.functions = append(r.functions, f)
	}
	t.Run("rolling update", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			a := startReplica(t, e, "a", setup)
			caller := startReplica(t, e, "caller", func(*replica) {})
			stop := load(t, e, caller)
			time.Sleep(2 * time.Second)
			b := startReplica(t, e, "b", setup)
			time.Sleep(3 * time.Second)
			if err := a.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			routes, calls, gap := stop()
			t.Logf("routes %v, calls %v, longest gap %v", routes, calls, gap)
			if b.refused() > 0 || routes["b"] < perSecond || calls["b"] < perSecond {
				t.Error("the new replica does not serve")
			}
			// These are the only failures allowed: each guarantees that the function has not run.
			for outcome := range routes {
				if !slices.Contains([]string{"a", "b", "404 Not Found", "503 Service Unavailable"}, outcome) {
					t.Errorf("the route responded with %q", outcome)
				}
			}
			for outcome := range calls {
				if !slices.Contains([]string{"a", "b", "function_not_found", "worker_draining"}, outcome) {
					t.Errorf("the function returned %q", outcome)
				}
			}
			if gap > 3*time.Second {
				t.Errorf("nobody served the route for %v", gap)
			}
		})
	})
	t.Run("failed canary", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			startReplica(t, e, "a", setup)
			caller := startReplica(t, e, "caller", func(*replica) {})
			stop := load(t, e, caller)
			for range 3 {
				time.Sleep(time.Second)
				b := startReplica(t, e, "b", setup)
				time.Sleep(time.Second)
				_ = b.Close()
			}
			routes, calls, gap := stop()
			t.Logf("routes %v, calls %v, longest gap %v", routes, calls, gap)
			if len(routes) != 1 || len(calls) != 1 || routes["a"] < perSecond || calls["a"] < perSecond {
				t.Errorf("a failed canary changed the outcomes: routes %v, calls %v", routes, calls)
			}
		})
	})
}

// recordingProvider is a trigger provider that records bound triggers.
type recordingProvider struct {
	mu    sync.Mutex
	bound map[string]iii.TriggerBinding
}

func (p *recordingProvider) Bind(_ context.Context, b iii.TriggerBinding) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound[b.ID] = b
	return nil
}

func (p *recordingProvider) Unbind(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bound, id)
	return nil
}

func (p *recordingProvider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.bound)
}

// On an engine with triggers, the last worker to register a trigger type provides it. When
// that worker disconnects, the engine removes the type, and the previous provider registers it
// again. On an engine with observers, the first provider keeps the type.
func TestTriggerTypeIsProvidedByOneReplicaAtATime(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		provide := func(p *recordingProvider) func(r *replica) {
			return func(r *replica) {
				p.bound = map[string]iii.TriggerBinding{}
				if err := r.HandleTriggerType(iii.TriggerType{ID: "webhook", Description: "webhooks"}, p); err != nil {
					t.Fatal(err)
				}
			}
		}
		var of [2]recordingProvider
		a := startReplica(t, e, "a", provide(&of[0]))
		user := startReplica(t, e, "user", serveName(t, "f"))
		if _, err := user.Trigger("f", iii.CustomTrigger{Type: "webhook"}); err != nil {
			t.Fatal(err)
		}
		want := func(when string, a, b int) {
			t.Helper()
			time.Sleep(3 * time.Second)
			if got := [2]int{of[0].count(), of[1].count()}; got != [2]int{a, b} {
				t.Errorf("%s: the replicas have %v triggers bound, want %v", when, got, [2]int{a, b})
			}
		}
		want("alone", 1, 0)
		b := startReplica(t, e, "b", provide(&of[1]))
		provider, other, left := b, a, &of[0]
		if hasTriggers(e) {
			want("with a second one", 0, 1)
			time.Sleep(time.Minute)
			want("later", 0, 1)
		} else { // a function, which stays with its first owner
			provider, other, left = a, b, &of[1]
			want("with a second one", 1, 0)
			time.Sleep(time.Minute)
			want("later", 1, 0)
		}
		_ = provider.Close()
		time.Sleep(3 * time.Second)
		if n := left.count(); n != 1 {
			t.Errorf("after %s was closed, %s has %d triggers bound", provider.Name(), other.Name(), n)
		}
		for _, b := range left.bound {
			if got, err := b.Fire(t.Context(), nil); err != nil || string(got) != `"user"` {
				t.Errorf("Fire = %s, %v", got, err)
			}
		}
	})
}

// The client notices that one owner has disconnected, even while it is waiting for many
// functions of other owners.
func TestFunctionsOfOneOfSeveralOwnersAreTakenOver(t *testing.T) {
	rounds := 5
	if iii.RaceEnabled {
		rounds = 1 // a round takes seconds
	}
	for _, test := range []struct{ leaving, staying int }{{10, 990}, {990, 10}, {500, 500}, {1, 999}} {
		t.Run(fmt.Sprintf("%d of %d functions", test.leaving, test.leaving+test.staying), func(t *testing.T) {
			for _, stood := range []time.Duration{1100 * time.Millisecond, time.Minute} {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					ids := manyIDs(test.leaving + test.staying)
					startReplica(t, e, "staying", serveName(t, ids[:test.staying]...))
					leaving := startReplica(t, e, "leaving", serveName(t, ids[test.staying:]...))
					b := startReplica(t, e, "new", serveName(t, ids...))
					for range rounds {
						time.Sleep(stood)
						_ = leaving.Close()
						began := time.Now()
						for b.refused() > test.staying && time.Since(began) < time.Minute {
							time.Sleep(10 * time.Millisecond)
						}
						if took := time.Since(began); took > 3*time.Second {
							t.Fatalf("%d functions are still refused %v after their owner has disconnected", b.refused()-test.staying, took)
						}
						for _, f := range b.functions[test.staying:] { // register them again, and become a standby
							if err := f.Unregister(); err != nil {
								t.Fatal(err)
							}
						}
						b.functions = b.functions[:test.staying]
						time.Sleep(time.Second)
						leaving = startReplica(t, e, "leaving", serveName(t, ids[test.staying:]...))
						serveName(t, ids[test.staying:]...)(b)
						synctest.Wait()
						if b.refused() != len(ids) {
							t.Fatalf("%d functions are refused", b.refused())
						}
					}
				})
			}
		})
	}
}

// staysAway keeps a worker from reconnecting, as if it had been killed.
var staysAway = iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 3_600_000, MaxDelayMs: 3_600_000, BackoffMultiplier: 1})

// The connection may break while triggers are waiting for the former owner. The client then
// reconnects as usual.
func TestConnectionCanBreakDuringTakeover(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), staysAway)
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}), iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 100, MaxDelayMs: 100, BackoffMultiplier: 1}))
		var cleaned time.Time
		e.HookCleanup(func(id string) {
			if id == a.WorkerID() {
				time.Sleep(1900 * time.Millisecond)
				cleaned = time.Now()
			}
		})
		e.Drop("a")
		for b.refused() > 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
		died := time.Now()
		e.Drop("b")
		for b.State() == iii.ConnectionStateConnected {
			time.Sleep(time.Millisecond)
		}
		for b.State() != iii.ConnectionStateConnected {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(died); took > 200*time.Millisecond {
			t.Errorf("connected again after %v", took)
		}
		time.Sleep(4 * time.Second)
		_, at := sent(e, "b", "registertrigger", time.Time{})
		if len(at) != 6 || at[0].Before(cleaned) {
			t.Errorf("sent at %v, the former triggers were removed at %v", at, cleaned)
		}
		if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q", status, body)
		}
	})
}

func TestClientCanBeClosedDuringTakeover(t *testing.T) {
	for _, how := range []string{"closed", "shut down"} {
		for after := time.Duration(0); after < 3*time.Second; after += 170 * time.Millisecond {
			t.Run(fmt.Sprintf("%s after %v", how, after), func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), staysAway)
					b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
					e.HookCleanup(func(id string) {
						if id == a.WorkerID() {
							time.Sleep(time.Second)
						}
					})
					e.Drop("a")
					time.Sleep(after)
					began := time.Now()
					if how == "closed" {
						_ = b.Close()
					} else if err := b.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
					if took := time.Since(began); took > 100*time.Millisecond {
						t.Errorf("ended after %v", took)
					}
				})
			})
		}
	}
}

// A trigger that is registered in response to the takeover notice waits like the function's
// other triggers.
func TestTriggerRegisteredRightAfterATakeover(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), staysAway)
		var b *replica
		made := make(chan error, 1)
		route := iii.HTTPTriggerConfig{APIPath: "/late", HTTPMethod: "GET"}
		b = startReplica(t, e, "b", func(r *replica) {
			for _, f := range a.functions {
				serveName(t, f.ID())(r)
			}
		}, iii.WithStateListener(func(_ iii.ConnectionState, err error) {
			if notice, ok := errors.AsType[*iii.TakeoverNotice](err); ok && notice.FunctionID == a.functions[0].ID() {
				_, err := b.Trigger(notice.FunctionID, route)
				made <- err
			}
		}))
		var cleaned time.Time
		e.HookCleanup(func(id string) {
			if id == a.WorkerID() {
				time.Sleep(1500 * time.Millisecond)
				cleaned = time.Now()
			}
		})
		e.Drop("a")
		if err := <-made; err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		_, at := sent(e, "b", "registertrigger", time.Time{})
		if len(at) == 0 || at[0].Before(cleaned) {
			t.Errorf("sent at %v, the former triggers were removed at %v", at, cleaned)
		}
	})
}

// The engine does not list workers that have not reported a process id. Even if the former
// owner is one of them, the new owner's triggers must wait until the former owner's are gone.
func TestTriggersWaitForAFormerOwnerThatIsNotListed(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		e.Hook(func(f iiitest.Frame) iiitest.Verdict {
			if f.WorkerName == "" && strings.Contains(string(f.Message), `"name":"a"`) {
				var m map[string]any
				if err := json.Unmarshal(f.Message, &m); err != nil {
					t.Error(err)
				}
				delete(m["data"].(map[string]any), "pid")
				raw, _ := json.Marshal(m)
				return iiitest.Verdict{Replace: []json.RawMessage{raw}}
			}
			return iiitest.Verdict{}
		})
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), staysAway)
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
		workers, err := b.Workers(t.Context())
		if err != nil || slices.ContainsFunc(workers, func(w iii.WorkerSummary) bool { return w.ID == a.WorkerID() }) {
			t.Fatalf("the first replica is listed: %v", err)
		}
		var cleaned time.Time
		e.HookCleanup(func(id string) {
			if id == a.WorkerID() {
				time.Sleep(1200 * time.Millisecond)
				cleaned = time.Now()
			}
		})
		e.Drop("a")
		time.Sleep(4 * time.Second)
		_, at := sent(e, "b", "registertrigger", time.Time{})
		if len(at) != 6 || hasTriggers(e) && at[0].Before(cleaned) {
			t.Errorf("sent at %v, the former triggers were removed at %v", at, cleaned)
		}
		if status, body := get(t, e, "/orders/1"); status != 200 || body != "b" {
			t.Errorf("the route responds with %d %q", status, body)
		}
	})
}

// A third worker's triggers for the same function are kept and do not delay the takeover.
func TestTriggersDoNotWaitForThirdWorkers(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}))
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}))
		third := startReplica(t, e, "third", func(*replica) {})
		for _, f := range a.functions {
			if _, err := third.Trigger(f.ID(), iii.SubscribeTriggerConfig{Topic: "more"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		began := time.Now()
		_ = a.Close()
		for b.refused() > 0 {
			time.Sleep(time.Millisecond)
		}
		served := time.Now()
		time.Sleep(3 * time.Second)
		if _, at := sent(e, "b", "registertrigger", began); len(at) != 6 || at[5].Sub(served) > 100*time.Millisecond {
			t.Errorf("%d triggers, the last %v after the function", len(at), at[len(at)-1].Sub(served))
		}
	})
}

// A takeover must succeed even if access control hides the listings that it relies on and adds
// a prefix to function ids.
func TestTakeoverBehindAccessControl(t *testing.T) {
	const workers, triggers = "engine::workers::list", "engine::registered-triggers::list"
	for _, test := range []struct {
		name    string
		exposed []string
		within  time.Duration // until the route responds
	}{
		{"everything may be listed", []string{workers, triggers}, 3 * time.Second},
		{"workers may be listed", []string{workers}, 3 * time.Second},
		{"nothing may be listed", nil, 5 * time.Second},
	} {
		for _, prefix := range []string{"", "tenant", "orders"} {
			t.Run(test.name+", prefix "+prefix, func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					startReplica(t, e, "gate", func(r *replica) {
						handle(t, r.Client, "gate::auth", func(context.Context, iii.AuthInput) (iii.AuthResult, error) {
							result := iii.NewAuthResult()
							result.AllowedFunctions = test.exposed
							result.Namespaces = map[string][]string{"default": {"*orders::*", "*http::*"}} // for triggers
							if prefix != "" {
								result.FunctionRegistrationPrefix = &prefix
							}
							return result, nil
						})
					})
					a := startReplicaAt(t, e, e.GuardedURL(), "a", serveAll(t, func(string, string) {}))
					b := startReplicaAt(t, e, e.GuardedURL(), "b", serveAll(t, func(string, string) {}))
					time.Sleep(time.Second)
					if b.refused() != 5 {
						t.Fatalf("%d functions are refused", b.refused())
					}
					if ids, _ := sent(e, "b", "registertrigger", time.Time{}); len(ids) > 0 {
						t.Errorf("sent %q", ids)
					}
					began := time.Now()
					_ = a.Close()
					for b.refused() > 0 && time.Since(began) < time.Minute {
						time.Sleep(10 * time.Millisecond)
					}
					if took := time.Since(began); took > 3*time.Second {
						t.Errorf("%d functions are refused after %v", b.refused(), took)
					}
					for time.Since(began) < time.Minute {
						if status, body := get(t, e, "/orders/1"); status == 200 && body == "b" {
							break
						}
						time.Sleep(10 * time.Millisecond)
					}
					if took := time.Since(began); took > test.within {
						t.Errorf("the route responds only after %v", took)
					}
				}, iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "gate::auth"}))
			})
		}
	}
}

func TestTakeoverInANamespace(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		shop := iii.WithNamespace("shop")
		other := startReplica(t, e, "other", serveAll(t, func(string, string) {}), iii.WithNamespace("elsewhere"))
		a := startReplica(t, e, "a", serveAll(t, func(string, string) {}), shop)
		b := startReplica(t, e, "b", serveAll(t, func(string, string) {}), shop)
		foreign, err := b.Trigger("orders::topic", iii.SubscribeTriggerConfig{Topic: "elsewhere"}, iii.WithTriggerNamespace("elsewhere"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if other.refused() != 0 || a.refused() != 0 || b.refused() != 5 {
			t.Fatalf("refused: %d, %d, %d", other.refused(), a.refused(), b.refused())
		}
		if ids, _ := sent(e, "b", "registertrigger", time.Time{}); !slices.Equal(ids, []string{foreign.ID()}) {
			t.Errorf("sent %q, want only the trigger of the function in the other namespace", ids)
		}
		_ = a.Close()
		time.Sleep(3 * time.Second)
		if ids, _ := sent(e, "b", "registertrigger", time.Time{}); b.refused() != 0 || len(ids) != 7 {
			t.Errorf("%d functions are refused, %d triggers were sent", b.refused(), len(ids))
		}
	})
}

// memoryStream is a stream provider whose items reveal which worker provides them.
type memoryStream struct{ name string }

func (s memoryStream) Get(context.Context, iii.StreamGetInput) (json.RawMessage, error) {
	return json.Marshal(s.name)
}
func (memoryStream) Set(context.Context, iii.StreamSetInput) (iii.StreamSetResult, error) {
	return iii.StreamSetResult{}, nil
}
func (memoryStream) Delete(context.Context, iii.StreamDeleteInput) (iii.StreamDeleteResult, error) {
	return iii.StreamDeleteResult{}, nil
}
func (memoryStream) List(context.Context, iii.StreamListInput) ([]json.RawMessage, error) {
	return nil, nil
}
func (memoryStream) Groups(context.Context, iii.StreamListGroupsInput) ([]string, error) {
	return nil, nil
}

// Functions that have no handler in the program are taken over, too.
func TestProvidedStreamsAndHTTPFunctionsAreTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		setup := func(r *replica) {
			if err := r.HandleStream("chat", memoryStream{r.Name()}); err != nil {
				t.Fatal(err)
			}
			f, err := r.HandleHTTPInvoked("hook", iii.HTTPInvocationConfig{URL: "http://localhost:1/" + r.Name()})
			if err != nil {
				t.Fatal(err)
			}
			r.functions = append(r.functions, f)
		}
		a := startReplica(t, e, "a", setup)
		b := startReplica(t, e, "b", setup)
		time.Sleep(time.Second)
		if n := b.Stats().FunctionsRefused; n != 7 || b.refused() != 1 {
			t.Fatalf("%d functions are refused, want 7", n)
		}
		_ = a.Close()
		time.Sleep(3 * time.Second)
		if n := b.Stats().FunctionsRefused; n != 0 || b.refused() != 0 {
			t.Errorf("%d functions are refused", n)
		}
		got, _, err := iii.NewStream[string](b.Client, "chat").Get(t.Context(), "g", "i")
		if err != nil || got != "b" {
			t.Errorf("the stream returns %q, %v", got, err)
		}
		refusals, takeovers := b.reported()
		if refusals != 7 || takeovers != 7 {
			t.Errorf("the state listener received %d refusals and %d takeovers", refusals, takeovers)
		}
	})
}

// counted is a log that counts messages.
type counted struct {
	mu    sync.Mutex
	lines map[string]int
}

func (c *counted) Write(line []byte) (int, error) {
	var m struct{ Msg string }
	if err := json.Unmarshal(line, &m); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lines == nil {
		c.lines = map[string]int{}
	}
	c.lines[m.Msg]++
	return len(line), nil
}

func (c *counted) of(message string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines[message]
}

func TestRefusalsAreLoggedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		var log counted
		a := startReplica(t, e, "a", func(r *replica) {
			serveAll(t, func(string, string) {})(r)
			if _, err := r.MountHTTP("GET", "/users/:id", http.NotFoundHandler()); err != nil {
				t.Fatal(err)
			}
		})
		b := startReplica(t, e, "b", func(r *replica) {
			serveAll(t, func(string, string) {})(r)
			if _, err := r.MountHTTP("GET", "/users/:user_id", http.NotFoundHandler()); err != nil {
				t.Fatal(err)
			}
			handle(t, r.Client, "own", func(context.Context, any) (any, error) { return nil, nil })
			if _, err := r.Trigger("own", iii.CronTriggerConfig{Expression: "* * * 99 * *"}); err != nil {
				t.Fatal(err)
			}
		}, iii.WithLogger(slog.New(slog.NewJSONHandler(&log, nil))))
		for range 10 {
			time.Sleep(time.Minute)
			e.Drop("b")
		}
		time.Sleep(time.Minute)
		for message, want := range map[string]int{
			"iii: function refused; the client keeps trying": 5,
			"iii: trigger refused; the client keeps trying":  2,
			"iii: trigger refused":                           1, // the invalid expression
		} {
			if n := log.of(message); n != want {
				t.Errorf("%q is logged %d times, want %d", message, n, want)
			}
		}
		_ = a.Close()
		time.Sleep(10 * time.Second)
		e.Drop("b")
		time.Sleep(time.Minute)
		if n, m := log.of("iii: function taken over"), log.of("iii: route taken over"); n != 5 || m != 2 {
			t.Errorf("%d takeovers of functions and %d of routes are logged, want 5 and 2", n, m)
		}
		if refusals, takeovers := b.reported(); refusals != 5 || takeovers != 5 {
			t.Errorf("the state listener received %d refusals and %d takeovers, want 5 of each", refusals, takeovers)
		}
		for message, n := range log.lines {
			if n > 12 { // number of connections
				t.Errorf("%d times: %s", n, message)
			}
		}
	})
}

// An engine with triggers silently drops a trigger type that access control forbids. Engines
// with observers are not tested, because they have no trigger types.
func TestForbiddenTriggerTypeIsLoggedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		startReplica(t, e, "gate", func(r *replica) {
			handle(t, r.Client, "gate::auth", func(context.Context, iii.AuthInput) (iii.AuthResult, error) {
				result := iii.NewAuthResult()
				result.AllowedFunctions = []string{"engine::triggers::info"}
				return result, nil
			})
		})
		var log counted
		startReplicaAt(t, e, e.GuardedURL(), "a", func(r *replica) {
			if err := r.HandleTriggerType(iii.TriggerType{ID: "webhook", Description: "webhooks"}, &recordingProvider{}); err != nil {
				t.Fatal(err)
			}
		}, iii.WithLogger(slog.New(slog.NewJSONHandler(&log, nil))))
		time.Sleep(time.Hour)
		if n := log.of("iii: a trigger type of this worker has no provider; registering it again"); n != 1 {
			t.Errorf("logged %d times", n)
		}
	}, iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "gate::auth"}), withTriggers)
}

func TestWorkerWaitingForItsNameCanBeClosed(t *testing.T) {
	waiting := func(t *testing.T, e *iiitest.Engine, opts ...iii.Option) *iii.Client {
		t.Helper()
		b, err := iii.New(e.URL(), append([]iii.Option{iii.WithName("orders"), iii.WithDialContext(e.DialContext), iii.WithLogger(iii.TestLogger), iii.WithWaitForName()}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		serveName(t, manyIDs(10)...)(&replica{Client: b})
		return b
	}
	at := func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	for after := time.Duration(0); after < 5*time.Second; after += 123 * time.Millisecond {
		t.Run(fmt.Sprintf("ended after %v", after), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				startReplica(t, e, "orders", func(*replica) {})
				for how, end := range map[string]func(c *iii.Client) error{
					"Close":    (*iii.Client).Close,
					"Shutdown": func(c *iii.Client) error { return c.Shutdown(t.Context()) },
				} {
					b := waiting(t, e)
					connected := make(chan error, 1)
					go func() { connected <- b.Connect(t.Context()) }()
					time.Sleep(after)
					began := time.Now()
					if err := end(b); err != nil || time.Since(began) > 100*time.Millisecond {
						t.Errorf("%s: %v after %v", how, err, time.Since(began))
					}
					if err := <-connected; !errors.Is(err, iii.ErrClosed) {
						t.Errorf("Connect = %v", err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				at(after, cancel)
				began := time.Now()
				if err := waiting(t, e).Run(ctx); err != nil || time.Since(began) > after+100*time.Millisecond {
					t.Errorf("Run = %v after %v", err, time.Since(began))
				}
			})
		})
	}
	t.Run("refused credentials", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			startReplica(t, e, "orders", func(*replica) {})
			at(10*time.Second, func() { e.RefuseAuth("expired") })
			var refused *iii.AuthError
			if err := waiting(t, e).Run(t.Context()); !errors.As(err, &refused) {
				t.Errorf("Run = %v, want the engine's refusal", err)
			}
		})
	})
	t.Run("an engine that comes and goes", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			a := startReplica(t, e, "orders", func(*replica) {})
			retries, dials := uint64(2), 0
			b := waiting(t, e, iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1000, MaxDelayMs: 1000, BackoffMultiplier: 1, MaxRetries: &retries}),
				iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials++; dials%3 != 0 {
						return nil, errors.New("refused")
					}
					return e.DialContext(ctx, network, addr)
				}))
			at(time.Minute, func() { _ = a.Close() })
			if err := b.Connect(t.Context()); err != nil {
				t.Error(err)
			}
			if n, m := len(frames(e, "", "reattach")), dials/3; n > m {
				t.Errorf("%d reattachments on %d connections that the engine had closed itself", n, m)
			}
		})
	})
	t.Run("an engine that stays away", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			startReplica(t, e, "orders", func(*replica) {})
			retries, away := uint64(2), new(atomic.Bool)
			b := waiting(t, e, iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1000, MaxDelayMs: 1000, BackoffMultiplier: 1, MaxRetries: &retries}),
				iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
					if away.Load() {
						return nil, errors.New("refused")
					}
					return e.DialContext(ctx, network, addr)
				}))
			at(time.Minute, func() { away.Store(true) })
			began := time.Now()
			if err := b.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "3 attempts") || time.Since(began) > 70*time.Second {
				t.Errorf("Connect = %v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("with many functions", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			a := startReplica(t, e, "orders", func(*replica) {})
			at(time.Minute, func() { _ = a.Close() })
			b := waiting(t, e)
			if err := b.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			sent, last := 0, 0
			for _, f := range e.Frames() {
				if f.Type() == "registerfunction" && f.Direction == iiitest.ToEngine {
					if sent++; f.Worker == b.WorkerID() {
						last++
					}
				}
			}
			if sent != 20 || last != 10 {
				t.Errorf("%d functions registered, %d on the last connection; want the ten on the first and on the last", sent, last)
			}
		})
	})
	t.Run("after it had the name", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) {
			slow := iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 5000, MaxDelayMs: 5000, BackoffMultiplier: 1})
			a := startReplica(t, e, "orders", serveName(t, "f"), iii.WithWaitForName(), slow)
			b := waiting(t, e)
			connected := make(chan error, 1)
			go func() { connected <- b.Connect(t.Context()) }()
			time.Sleep(time.Second)
			e.Drop(a.WorkerID())
			if err := <-connected; err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if a.State() != iii.ConnectionStateReconnecting || a.Err() != nil {
				t.Errorf("the first one is %v, %v", a.State(), a.Err())
			}
			a.mu.Lock()
			told := 0
			for _, err := range a.errs {
				if _, ok := errors.AsType[*iii.RejectedError](err); ok {
					told++
				}
			}
			a.mu.Unlock()
			if told != 1 {
				t.Errorf("its listener was notified %d times that it waits", told)
			}
			_ = b.Close()
			time.Sleep(3 * time.Second)
			if a.State() != iii.ConnectionStateConnected {
				t.Errorf("the first one is %v after the second was closed", a.State())
			}
		})
	})
}

// frames returns all messages of a kind from workers with the given name.
func frames(e *iiitest.Engine, name, kind string) (list []iiitest.Frame) {
	for _, f := range e.Frames() {
		if f.WorkerName == name && f.Direction == iiitest.ToEngine && (f.Type() == kind || f.Type() == inPlaceOf[kind]) {
			list = append(list, f)
		}
	}
	return list
}

// churn is a replica that keeps adding and removing functions.
type churn struct {
	*replica
	t         *testing.T
	functions map[string]*iii.Function
	triggers  map[string]*iii.Trigger
	extra     []*iii.Trigger // for functions that nobody registers
}

func (c *churn) add(id string) {
	c.t.Helper()
	f, err := iii.Handle(c.Client, id, func(context.Context, any) (string, error) { return c.Name(), nil })
	if err != nil {
		c.t.Fatal(err)
	}
	c.functions[id] = f
	if c.triggers[id] == nil {
		if c.triggers[id], err = c.Trigger(id, iii.SubscribeTriggerConfig{Topic: id}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *churn) remove(id string, alone bool) {
	c.t.Helper()
	var err error
	if !alone {
		err = c.triggers[id].Unregister()
		delete(c.triggers, id)
	}
	if err := errors.Join(err, c.functions[id].Unregister()); err != nil {
		c.t.Fatal(err)
	}
	delete(c.functions, id)
}

// checkHeldTriggers checks in the engine's log that no trigger was sent before the
// registration of its function was confirmed by a pong, or while that registration was
// rejected. It returns the number of triggers sent.
func checkHeldTriggers(t *testing.T, e *iiitest.Engine) (triggers int) {
	t.Helper()
	type attempt struct {
		ping      int // ping that confirms it
		refused   bool
		confirmed bool
	}
	type connection struct {
		pings, pongs int
		attempts     map[string]*attempt
	}
	connections := map[string]*connection{}
	for _, f := range e.Frames() {
		c := connections[f.Worker]
		if c == nil {
			c = &connection{attempts: map[string]*attempt{}}
			connections[f.Worker] = c
		}
		var m struct {
			Type       string
			ID         string
			FunctionID string `json:"function_id"`
			Target     struct {
				FunctionID string `json:"function_id"`
			}
		}
		if err := json.Unmarshal(f.Message, &m); err != nil {
			t.Fatal(err)
		}
		switch m.Type {
		case "observe": // the engine has confirmed the function
			triggers++
			if a := c.attempts[m.Target.FunctionID]; a != nil && !a.confirmed && (a.refused || c.pongs < a.ping) {
				t.Errorf("the observer of %s was sent before the reply about its function, refused: %v", m.Target.FunctionID, a.refused)
			}
		case "functionregistered":
			if a := c.attempts[m.ID]; a != nil {
				a.confirmed = true
			}
		case "ping":
			c.pings++
		case "pong":
			c.pongs++
		case "registerfunction":
			c.attempts[m.ID] = &attempt{ping: c.pings + 1}
		case "registrationrejected":
			// The engine responds in order: before the next pong, it can only reject what was
			// sent before the ping of that pong, so a later attempt is not meant.
			if a := c.attempts[m.FunctionID]; a != nil && a.ping == c.pongs+1 {
				a.refused = true
			}
		case "registertrigger":
			triggers++
			if a := c.attempts[m.FunctionID]; a != nil && (a.refused || c.pongs < a.ping) {
				t.Errorf("the trigger of %s was sent %d pongs too early, refused: %v", m.FunctionID, a.ping-c.pongs, a.refused)
			}
		}
	}
	return triggers
}

// TestReplicasConcurrent runs two replicas that keep losing their connections and changing
// their functions.
func TestReplicasConcurrent(t *testing.T) {
	const ids = 30
	for i := range iii.Scale(10, 200) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				r := rand.New(rand.NewPCG(seed, 3))
				var delays sync.Mutex
				slow := rand.New(rand.NewPCG(seed, 4))
				e.Hook(func(iiitest.Frame) iiitest.Verdict {
					delays.Lock()
					defer delays.Unlock()
					if slow.IntN(20) > 0 {
						return iiitest.Verdict{}
					}
					return iiitest.Verdict{Delay: time.Duration(slow.IntN(300)) * time.Millisecond}
				})
				fast := iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 50, MaxDelayMs: 500, BackoffMultiplier: 2, JitterFactor: 0.5})
				var both [2]*churn
				for i, name := range []string{"a", "b"} {
					c := &churn{t: t, functions: map[string]*iii.Function{}, triggers: map[string]*iii.Trigger{}}
					both[i] = c
					startReplica(t, e, name, func(r *replica) {
						c.replica = r
						for i := range ids {
							c.add(fmt.Sprint("f", i))
						}
					}, fast)
				}
				for range 150 {
					c := both[r.IntN(2)]
					id := fmt.Sprint("f", r.IntN(ids))
					switch r.IntN(8) {
					case 0:
						e.Drop(c.Name())
					case 1:
						trigger, err := c.Trigger("nobody::"+id, iii.SubscribeTriggerConfig{Topic: id})
						if err != nil {
							t.Fatal(err)
						}
						c.extra = append(c.extra, trigger)
					case 2:
						time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
					default:
						if c.functions[id] != nil {
							// If only an accepted function is removed, its trigger stays in the engine.
							c.remove(id, r.IntN(2) == 0 && c.functions[id].Err() != nil)
						} else {
							c.add(id)
						}
					}
					time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
				}
				e.Hook(nil)
				for _, c := range both {
					for i := range ids {
						if id := fmt.Sprint("f", i); c.functions[id] == nil {
							c.add(id)
						}
					}
				}
				time.Sleep(time.Minute)
				check := func(when string, living ...*churn) {
					t.Helper()
					want := map[string]int{} // number of triggers by function
					for i := range ids {
						id := fmt.Sprint("f", i)
						serving := ""
						for _, c := range living {
							if c.functions[id].Err() == nil {
								serving += c.Name()
								want[id]++
							}
						}
						if got, err := iii.Call[string](t.Context(), living[0].Client, id, nil); err != nil || got != serving {
							t.Errorf("%s: %s returns %q, %v; according to Err, it is served by %q", when, id, got, err, serving)
						}
					}
					for _, c := range living {
						for _, trigger := range c.extra {
							if trigger.Err() != nil {
								t.Error(trigger.Err())
							}
							want["nobody::"]++
						}
					}
					got := map[string]int{}
					for _, id := range bound(t, e, living[0].Client) {
						if strings.HasPrefix(id, "nobody::") || strings.HasPrefix(id, "trigger-adapter::") { // adapters call nobody::
							id = "nobody::"
						}
						got[id]++
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: triggers of the engine by function (-want +got):\n%s", when, diff)
					}
				}
				check("both", both[0], both[1])
				gone := r.IntN(2)
				_ = both[gone].Close()
				time.Sleep(6 * time.Second) // longer than the 5 s for which the engine keeps observers
				check("one", both[1-gone])
				if n := both[1-gone].Stats().FunctionsRefused; n > 0 {
					t.Errorf("%d functions are refused", n)
				}
				if n := checkHeldTriggers(t, e); n == 0 {
					t.Error("no triggers: the test proves nothing")
				}
				if s := e.Stats(); s.FramesForgotten > 0 {
					t.Errorf("%d messages are not in the log", s.FramesForgotten)
				}
			})
		})
	}
}
