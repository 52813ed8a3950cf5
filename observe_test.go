package iii

import (
	gocmp "cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// generation identifies an engine version by its features.
type generation []string

var (
	withoutObservers generation
	withV1           = generation{FeatureObserveV1, FeatureLocalDispatchV1}
	withV2           = generation{FeatureObserveV1, FeatureObserveV2, FeatureLocalDispatchV1}
)

// greetAs greets each connection as the next engine version in the list. The last version is
// used again for all further connections.
func greetAs(generations ...generation) func(*peerConn) {
	return func(c *peerConn) {
		g := generations[min(c.n, len(generations)-1)]
		hello := map[string]any{"type": "workerregistered", "worker_id": c.workerID, "reattach_token": tokenMark}
		if g != nil {
			hello["features"] = g
		}
		b, _ := json.Marshal(hello)
		c.features = g
		c.send(string(b))
	}
}

// accepting returns a message handler that confirms each function registration if the peer has
// announced support for observers. It ignores messages for which next returns true.
func accepting(next func(c *peerConn, m *peerMessage) bool) func(c *peerConn, m *peerMessage) bool {
	return func(c *peerConn, m *peerMessage) bool {
		if next != nil && next(c, m) {
			return true
		}
		if m.Type == "registerfunction" && slices.Contains(c.features, FeatureObserveV1) {
			c.send(fmt.Sprintf(`{"type":"functionregistered","id":%q,"revision":0}`, m.ID))
		}
		return false
	}
}

func observeResult(id, state string) string {
	return fmt.Sprintf(`{"type":"observeresult","id":%q,"state":%q}`, id, state)
}

func observeRefused(id, code string) string {
	return fmt.Sprintf(`{"type":"observeresult","id":%q,"state":"error","error":{"code":%q,"message":"no"}}`, id, code)
}

func observerState(id, state, code string) string {
	if code == "" {
		return fmt.Sprintf(`{"type":"observerstatechanged","id":%q,"state":%q}`, id, state)
	}
	return fmt.Sprintf(`{"type":"observerstatechanged","id":%q,"state":%q,"fires":3,"reason":{"code":%q,"message":"why"}}`, id, state, code)
}

// hostsObservers replies like an engine that accepts every observer.
func hostsObservers(c *peerConn, m *peerMessage) bool {
	switch m.Type {
	case "observe":
		c.send(observeResult(m.ID, "pending"))
		c.send(observerState(m.ID, "active", ""))
	case "unobserve":
		c.send(observerState(m.ID, "disposed", "UNOBSERVED"))
	}
	return false
}

// observing returns the registrations and removals sent over connection n, including those of
// functions and triggers.
func (p *peer) observing(n int) (list []string) {
	for _, m := range p.messages(n, "registerfunction", "registertrigger", "unregistertrigger", "observe", "unobserve") {
		list = append(list, m.Type+" "+m.ID)
	}
	return list
}

func mustObserve(t *testing.T, c *Client, target string, opts ...ObserveOption) *Observer {
	t.Helper()
	o, err := c.Observe(Source{FunctionID: "source"}, target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func codeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestObserveSendsItsOptions(t *testing.T) {
	filter, err := ParseFilter(map[string]any{"input.total": map[string]any{"$gte": 500}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		client []Option
		source Source
		target string
		opts   []ObserveOption
		want   string
	}{
		"nothing": {
			source: Source{FunctionID: "s"}, target: "t",
			want: `{"type":"observe","id":"o","source":{"function_id":"s"},"target":{"function_id":"t"}}`,
		},
		"all": {
			source: Source{FunctionID: "s", Namespace: "a", Args: map[string]int{"n": 1}, Filters: json.RawMessage(`{"input.total":{"$gte":500}}`),
				Capture: []Capture{CaptureInput, CaptureError}, On: ObserveOnComplete, Deliver: ObserveDeliverOutput},
			target: "t",
			opts: []ObserveOption{WithObserverMetadata("m"), WithTargetNamespace("b"), WithMaxFires(3), WithMaxInFlight(2),
				WithExpiry(1500*time.Millisecond + 1)},
			want: `{"type":"observe","id":"o","source":{"function_id":"s","namespace":"a","args":{"n":1},"filters":{"input.total":{"$gte":500}},` +
				`"capture":["input","error"],"on":"complete","deliver":"output"},"target":{"function_id":"t","namespace":"b"},"metadata":"m",` +
				`"max_fires":3,"max_in_flight":2,"expires_in_ms":1501}`,
		},
		"parsed filter, empty capture": {
			source: Source{FunctionID: "s", Filters: filter, Capture: []Capture{}, Args: json.RawMessage("null")}, target: "t",
			want: `{"type":"observe","id":"o","source":{"function_id":"s","filters":` + filter.String() + `,"capture":[]},"target":{"function_id":"t"}}`,
		},
		"null metadata, longest expiry": {
			source: Source{FunctionID: "s"}, target: "t", opts: []ObserveOption{WithObserverMetadata(nil), WithExpiry(math.MaxInt64)},
			want: `{"type":"observe","id":"o","source":{"function_id":"s"},"target":{"function_id":"t"},"expires_in_ms":9223372036855}`,
		},
		"namespace of the worker": {
			client: []Option{WithNamespace("shop")}, source: Source{FunctionID: "s"}, target: "t",
			want: `{"type":"observe","id":"o","source":{"function_id":"s","namespace":"shop"},"target":{"function_id":"t","namespace":"shop"}}`,
		},
		"functions of the engine": {
			client: []Option{WithNamespace("shop")}, source: Source{FunctionID: "engine::on-workers-changed"}, target: "engine::log::info",
			want: `{"type":"observe","id":"o","source":{"function_id":"engine::on-workers-changed"},"target":{"function_id":"engine::log::info"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV1), message: accepting(hostsObservers)})
				c := p.client(test.client...)
				if _, err := c.Observe(test.source, test.target, append(test.opts, WithObserverID("o"))...); err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				var got, want any
				if err := errors.Join(json.Unmarshal(p.messages(0, "observe")[0].Raw, &got), json.Unmarshal([]byte(test.want), &want)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestObserveRejectsInvalidArguments(t *testing.T) {
	c, err := New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := Source{FunctionID: "s"}
	for name, test := range map[string]struct {
		source Source
		target string
		opts   []ObserveOption
		want   string
	}{
		"blank source":     {Source{FunctionID: " "}, "t", nil, "blank function id of the source"},
		"blank target":     {s, "\t", nil, "blank function id of the target"},
		"blank namespace":  {Source{FunctionID: "s", Namespace: " "}, "t", nil, "blank namespace"},
		"nil option":       {s, "t", []ObserveOption{nil}, "nil ObserveOption"},
		"blank id":         {s, "t", []ObserveOption{WithObserverID("")}, "blank id"},
		"target namespace": {s, "t", []ObserveOption{WithTargetNamespace("")}, "blank namespace"},
		"no fires":         {s, "t", []ObserveOption{WithMaxFires(0)}, "WithMaxFires"},
		"none in flight":   {s, "t", []ObserveOption{WithMaxInFlight(0)}, "WithMaxInFlight"},
		"expired":          {s, "t", []ObserveOption{WithExpiry(-time.Second)}, "WithExpiry"},
		"metadata":         {s, "t", []ObserveOption{WithObserverMetadata(func() {})}, "WithObserverMetadata"},
		"capture":          {Source{FunctionID: "s", Capture: []Capture{"body"}}, "t", nil, `"body"`},
		"on":               {Source{FunctionID: "s", On: "failure"}, "t", nil, `"failure"`},
		"deliver":          {Source{FunctionID: "s", Deliver: "all"}, "t", nil, `"all"`},
		"args":             {Source{FunctionID: "s", Args: []int{1}}, "t", nil, "args are not an object"},
		"args encode":      {Source{FunctionID: "s", Args: func() {}}, "t", nil, "args do not encode"},
		"filter":           {Source{FunctionID: "s", Filters: map[string]any{"input.a": 1}}, "t", nil, "INVALID_FILTER"},
		"filter text":      {Source{FunctionID: "s", Filters: "nonsense"}, "t", nil, "INVALID_FILTER"},
		"filter encode":    {Source{FunctionID: "s", Filters: make(chan int)}, "t", nil, "filters do not encode"},
		"id, text":         {s, "t", []ObserveOption{WithObserverID("a\xff")}, `"a\xff" is not valid UTF-8`},
		"source, text":     {Source{FunctionID: "s\xff"}, "t", nil, "not valid UTF-8"},
		"target, text":     {s, "t\xff", nil, "not valid UTF-8"},
		"namespaces, text": {Source{FunctionID: "s", Namespace: "n\xff"}, "t", nil, "not valid UTF-8"},
		"route":            {Source{FunctionID: "http::on-request", Args: map[string]string{"path": "/a{b}c"}}, "t", nil, "/a{b}c"},
		"route, named":     {Source{FunctionID: "http::on-request", Namespace: "default", Args: map[string]string{"path": "/{*rest}/"}}, "t", nil, "rest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Observe(test.source, test.target, test.opts...)
			if err == nil || !strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error()[5:], "iii: ") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	_, err = c.Observe(Source{FunctionID: "s", Filters: json.RawMessage(`{"input.a":{"$no":1}}`)}, "t")
	var bad *FilterError
	if !errors.As(err, &bad) || bad.Path != "input.a" {
		t.Errorf("error %v, want a *FilterError with the path", err)
	}
	if _, err := c.Observe(Source{FunctionID: "http::on-request", Namespace: "mine", Args: map[string]string{"path": "/a{b}c"}}, "t"); err != nil {
		t.Errorf("a route owned by another worker: %v", err)
	}
}

func TestObserverIDIsUniqueUntilDisposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV1), message: accepting(hostsObservers)})
		c := p.client()
		first := mustObserve(t, c, "t", WithObserverID("o"))
		if _, err := c.Trigger("t", StateTriggerConfig{}, WithTriggerID("trigger")); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"o", "trigger"} {
			_, err := c.Observe(Source{FunctionID: "s"}, "t", WithObserverID(id))
			if want := "observer id already in use: " + id; codeOf(err) != "OBSERVER_ID_CONFLICT" || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		var second *Observer
		disposed := make(chan error)
		go func() { disposed <- first.Dispose(t.Context()) }()
		for second == nil { // the id is free as soon as Dispose is called
			second, _ = c.Observe(Source{FunctionID: "s"}, "t", WithObserverID("o"))
			synctest.Wait()
		}
		if err := <-disposed; err != nil {
			t.Error(err)
		}
		if err := second.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if first.State() != ObserverStateDisposed || first.Err() != nil || second.State() != ObserverStateActive {
			t.Errorf("states %s (%v) and %s, want disposed and active", first.State(), first.Err(), second.State())
		}
		want := []string{"registertrigger trigger", "observe o", "unobserve o", "observe o"}
		got := slices.DeleteFunc(p.observing(0), func(s string) bool { return s == "registertrigger trigger" })
		if diff := cmp.Diff(want[1:], got); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

// The engine replies to observe messages in order, so the n-th reply is for the n-th observer.
func TestObserveRepliesAreMatchedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			return m.Type == "observe" || m.Type == "unobserve" // the test replies
		})})
		c := p.connected()
		conn := p.conn(0)
		first := mustObserve(t, c, "t", WithObserverID("o"))
		disposed := make(chan error, 1)
		go func() { disposed <- first.Dispose(t.Context()) }()
		synctest.Wait()
		second := mustObserve(t, c, "t", WithObserverID("o"))
		synctest.Wait()

		conn.send(observerState("o", "active", "")) // no observe message is pending
		synctest.Wait()
		if second.State() != ObserverStatePending {
			t.Errorf("state %s after a change that arrived before any reply", second.State())
		}
		conn.send(observeRefused("o", "SELF_TARGET"))
		synctest.Wait()
		select {
		case err := <-disposed: // the reply belonged to the first observer
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("Dispose waits although the engine has rejected the observer")
		}
		if first.State() != ObserverStateDisposed || first.Err() != nil {
			t.Errorf("first: %s, %v; want disposed for good", first.State(), first.Err())
		}
		conn.send(`{"type":"observeresult","id":"o","state":"pending","warnings":["w"]}`)
		conn.send(observerState("o", "active", ""))
		if err := second.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"w"}, second.Warnings()); diff != "" {
			t.Error(diff)
		}
		conn.send(`{"type":"observerstatechanged","id":"o","state":"suspended","fires":7,"reason":{"code":"TARGET_UNAVAILABLE","message":""}}`)
		conn.send(`{"type":"observerstatechanged","id":"other","state":"active"}`)
		synctest.Wait()
		if second.State() != ObserverStateSuspended || second.Fires() != 7 || second.Err() != nil {
			t.Errorf("second: %s, %d fires, %v", second.State(), second.Fires(), second.Err())
		}
		conn.send(`{"type":"observerstatechanged","id":"o","state":"dreaming"}`)
		synctest.Wait()
		if second.State() != "dreaming" {
			t.Errorf("state %s, want an unknown one kept", second.State())
		}
	})
}

func TestDisposeWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV1), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "observe" {
				c.send(observeResult(m.ID, "active"))
			}
			return m.Type == "observe" || m.Type == "unobserve"
		})})
		c := p.connected()
		first := mustObserve(t, c, "t", WithObserverID("o"))
		if err := first.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := first.Dispose(t.Context()); err != nil { // the engine does not reply
			t.Error(err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Dispose took %v, want 5 s", took)
		}
		second := mustObserve(t, c, "t", WithObserverID("o"))
		if err := second.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := second.Dispose(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that of ctx", err)
		}
		if second.State() != ObserverStateDisposed {
			t.Errorf("state %s after Dispose with a canceled context", second.State())
		}
	})
}

// If the engine has not confirmed an unobserve message, it may not have read it. The message is
// then repeated on the next connection, even if Dispose no longer waits.
func TestUnconfirmedUnobserveIsRepeated(t *testing.T) {
	for name, alive := range map[string]bool{"dead link": false, "engine that does not confirm": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					switch m.Type {
					case "observe":
						c.send(observeResult(m.ID, "active"))
					case "ping":
						return !alive && len(c.peer.messages(0, "unobserve")) > 0 && c.n == 0
					}
					return false
				})})
				c := p.connected()
				o := mustObserve(t, c, "t", WithObserverID("o"))
				if err := o.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := o.Dispose(t.Context()); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				p.conn(0).Cut()
				p.conn(1)
				time.Sleep(time.Minute)
				p.conn(1).Cut()
				p.conn(2)
				time.Sleep(time.Minute)
				want := map[int][]string{0: {"observe o", "unobserve o"}}
				if !alive {
					want[1] = []string{"unobserve o"}
				}
				for n := range 3 {
					if diff := cmp.Diff(want[n], p.observing(n)); diff != "" {
						t.Errorf("connection %d (-want +got):\n%s", n, diff)
					}
				}
			})
		})
	}
}

// An engine that has replied to a later observer with the same id has read the unobserve message
// of the earlier one. If it were repeated, the engine would drop the later observer.
func TestConfirmedUnobserveIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "observe" {
				c.send(observeResult(m.ID, "active"))
			}
			return m.Type == "ping" && len(c.peer.messages(0, "unobserve")) > 0 && c.n == 0
		})})
		c := p.connected()
		o := mustObserve(t, c, "t", WithObserverID("o"))
		if err := o.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := o.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		again := mustObserve(t, c, "t", WithObserverID("o"))
		if err := again.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.conn(0).Cut()
		p.conn(1)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"observe o"}, p.observing(1)); diff != "" {
			t.Error(diff)
		}
		if again.State() != ObserverStateActive {
			t.Errorf("state %s", again.State())
		}
	})
}

// The engine may reply to an observer after it has read the observer's unobserve message.
func TestLateReplyToADisposedObserver(t *testing.T) {
	for name, replies := range map[string]bool{"late reply": true, "no reply": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(_ *peerConn, m *peerMessage) bool {
					return m.Type == "observe" || m.Type == "unobserve"
				})})
				c := p.connected()
				o := mustObserve(t, c, "t", WithObserverID("o"))
				if err := o.Dispose(t.Context()); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if replies {
					p.conn(0).send(observeResult("o", "active"))
					synctest.Wait()
					c.registry.mu.Lock()
					frames := len(c.registry.observeFrames)
					c.registry.mu.Unlock()
					if frames > 0 {
						t.Errorf("%d frames are kept", frames)
					}
				}
				p.conn(0).Cut()
				p.conn(1)
				time.Sleep(time.Minute)
				if got := p.observing(1); len(got) > 0 {
					t.Errorf("sent %q over the next connection", got)
				}
			})
		})
	}
}

func TestEngineDisposesOfAnObserver(t *testing.T) {
	for _, code := range []string{"EXPIRED", "MAX_FIRES", "OBSERVER_DISCONNECTED", ""} {
		t.Run("at once/"+code, func(t *testing.T) { // as the reply to the observe message
			synctest.Test(t, func(t *testing.T) {
				result := observeResult("o", "disposed")
				if code != "" {
					result = fmt.Sprintf(`{"type":"observeresult","id":"o","state":"disposed","error":{"code":%q,"message":"why"}}`, code)
				}
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					if m.Type == "observe" && c.n == 0 && len(c.peer.messages(0, "observe")) == 1 {
						c.send(result)
						return true
					}
					return hostsObservers(c, m)
				})})
				c := p.connected()
				o := mustObserve(t, c, "t", WithObserverID("o"))
				synctest.Wait()
				if want := gocmp.Or(code, "UNOBSERVED"); o.State() != ObserverStateDisposed || codeOf(o.Err()) != want || codeOf(o.Ready(t.Context())) != want {
					t.Errorf("%s, %v; want disposed, %s", o.State(), o.Err(), want)
				}
				again := mustObserve(t, c, "t", WithObserverID("o"))
				if err := again.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				p.conn(0).Cut()
				p.conn(1)
				time.Sleep(time.Minute)
				if diff := cmp.Diff([]string{"observe o"}, p.observing(1)); diff != "" {
					t.Errorf("replayed (-want +got):\n%s", diff)
				}
			})
		})
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)})
				c := p.connected()
				type change struct {
					State ObserverState
					Code  string
				}
				var mu sync.Mutex
				var changes []change
				o := mustObserve(t, c, "t", WithObserverID("o"), WithObserverStateListener(func(s ObserverState, err error) {
					mu.Lock()
					defer mu.Unlock()
					changes = append(changes, change{s, codeOf(err)})
				}))
				if err := o.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.conn(0).send(observerState("o", "disposed", code))
				synctest.Wait()
				want := code
				if want == "" {
					want = "UNOBSERVED"
				}
				if o.State() != ObserverStateDisposed || codeOf(o.Err()) != want || codeOf(o.Ready(t.Context())) != want {
					t.Errorf("%s, %v; want disposed, %s", o.State(), o.Err(), want)
				}
				mu.Lock()
				if diff := cmp.Diff([]change{{"active", "<nil>"}, {"disposed", want}}, changes); diff != "" {
					t.Errorf("listener (-want +got):\n%s", diff)
				}
				mu.Unlock()
				again := mustObserve(t, c, "t", WithObserverID("o")) // the id is free again
				if err := again.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				if err := o.Dispose(t.Context()); err != nil || codeOf(o.Err()) != want {
					t.Errorf("Dispose %v, then %v", err, o.Err())
				}
				p.conn(0).Cut()
				if err := again.await(ObserverStateSuspended); err != nil {
					t.Error(err)
				}
				p.conn(1)
				if err := again.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff([]string{"observe o"}, p.observing(1)); diff != "" {
					t.Errorf("replayed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// await waits until the observer is in state s. It fails after ten other changes, or after
// waitLimit without a change.
func (o *Observer) await(s ObserverState) error {
	r := o.registry()
	for range 10 {
		r.mu.RLock()
		state, changed := o.state, o.changed
		r.mu.RUnlock()
		if state == s {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(waitLimit):
			return fmt.Errorf("state %s, want %s", state, s)
		}
	}
	return fmt.Errorf("state is never %s", s)
}

func TestRefusedObserverKeepsItsIDAndIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := true
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "observe" && m.ID == "o" && refused {
				c.send(observeRefused("o", "INVALID_ARGS"))
				return true
			}
			return hostsObservers(c, m)
		})})
		c := p.client()
		o := mustObserve(t, c, "t", WithObserverID("o"))
		other := mustObserve(t, c, "t", WithObserverID("other"))
		if err := c.Connect(t.Context()); err != nil { // succeeds even though the observer is rejected
			t.Fatal(err)
		}
		if err := o.Ready(t.Context()); codeOf(err) != "INVALID_ARGS" || codeOf(o.Err()) != "INVALID_ARGS" || o.State() != ObserverStateError {
			t.Errorf("ready: %v, state %s, err %v", err, o.State(), o.Err())
		}
		if _, err := c.Observe(Source{FunctionID: "s"}, "t", WithObserverID("o")); codeOf(err) != "OBSERVER_ID_CONFLICT" {
			t.Errorf("the id of a rejected observer: %v", err)
		}
		p.conn(0).Cut()
		if err := other.await(ObserverStateSuspended); err != nil {
			t.Fatal(err)
		}
		p.conn(1)
		if err := other.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := o.Dispose(t.Context()); err != nil || o.Err() != nil {
			t.Errorf("%v, then %v", err, o.Err())
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"observe other"}, p.observing(1)); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		refused = false
		if err := mustObserve(t, c, "t", WithObserverID("o")).Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// If the host rejects an observer that the engine has accepted, the observer stays in the
// engine until it is disposed of. On the next connection, it is removed and registered afresh, so
// that the host decides again.
func TestObserverRejectedByHostStaysUntilDisposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "observe" {
				c.send(observeResult(m.ID, "pending"))
				c.send(observerState(m.ID, "error", "HARBOUR_UNKNOWN"))
				return true
			}
			return hostsObservers(c, m)
		})})
		c := p.connected()
		o := mustObserve(t, c, "t", WithObserverID("o"))
		if err := o.Ready(t.Context()); codeOf(err) != "HARBOUR_UNKNOWN" {
			t.Errorf("ready: %v", err)
		}
		p.conn(0).Cut()
		p.find("replay", func(m *peerMessage) bool { return m.Conn == 1 && m.Type == "observe" })
		synctest.Wait()
		began := time.Now()
		if err := o.Dispose(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("Dispose: %v after %v", err, time.Since(began))
		}
		if diff := cmp.Diff([]string{"unobserve o", "observe o", "unobserve o"}, p.observing(1)); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

func TestObserversAreReplayedInOrderBehindFunctionsAndUnobserves(t *testing.T) {
	for name, g := range map[string]generation{"v1": withV1, "v2": withV2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(g), message: accepting(hostsObservers)})
				c := p.client()
				mustHandle(t, c, "f")
				var list []*Observer
				for i := range 5 {
					list = append(list, mustObserve(t, c, "f", WithObserverID(fmt.Sprint("o", i))))
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				want := []string{"registerfunction f", "observe o0", "observe o1", "observe o2", "observe o3", "observe o4"}
				if diff := cmp.Diff(want, p.observing(0)); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
				p.conn(0).Cut()
				if err := list[0].await(ObserverStateSuspended); err != nil {
					t.Fatal(err)
				}
				// Without a connection, both observers are removed immediately, and their ids
				// can be used again.
				for _, o := range []*Observer{list[1], list[3]} {
					if err := o.Dispose(t.Context()); err != nil {
						t.Error(err)
					}
				}
				again := mustObserve(t, c, "f", WithObserverID("o1"))
				late := mustObserve(t, c, "f", WithObserverID("late"))
				for _, o := range []*Observer{again, late, list[0], list[2], list[4]} {
					if err := o.Ready(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				want = []string{"registerfunction f", "unobserve o1", "unobserve o3", "observe o0", "observe o2", "observe o4", "observe o1", "observe late"}
				if diff := cmp.Diff(want, p.observing(1)); diff != "" {
					t.Errorf("replayed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestObserverFollowsEngineVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withoutObservers, withV1, nil, withV2), message: accepting(hostsObservers)})
		c := p.client()
		before := mustObserve(t, c, "t", WithObserverID("before"))
		if before.State() != ObserverStatePending || before.Err() != nil {
			t.Errorf("before the hello: %s, %v", before.State(), before.Err())
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := mustObserve(t, c, "t", WithObserverID("after"))
		for _, o := range []*Observer{before, after} {
			if err := o.Err(); o.State() != ObserverStateError || codeOf(err) != "UNSUPPORTED" || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s on an engine without observers: %s, %v", o.ID(), o.State(), err)
			}
			if err := o.Ready(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Ready: %v", err)
			}
		}
		p.conn(0).Cut()
		for _, o := range []*Observer{before, after} {
			if err := o.await(ObserverStateActive); err != nil {
				t.Errorf("%s on a later engine: %v", o.ID(), err)
			}
		}
		p.conn(1).Cut()
		if err := after.await(ObserverStateSuspended); err != nil {
			t.Fatal(err)
		}
		gone := mustObserve(t, c, "t", WithObserverID("gone"))
		_ = gone.Dispose(t.Context()) // never sent to the engine
		if err := before.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		if err := errors.Join(after.await(ObserverStateError), c.Connect(t.Context())); err != nil {
			t.Fatal(err)
		}
		if n := c.Stats().HeldFramesDropped; n != 1 {
			t.Errorf("%d held frames dropped, want only the unobserve", n)
		}
		p.conn(2).Cut()
		if err := after.await(ObserverStateActive); err != nil {
			t.Fatal(err)
		}
		for n, want := range [][]string{nil, {"observe before", "observe after"}, nil, {"observe after"}} {
			if diff := cmp.Diff(want, p.observing(n)); diff != "" {
				t.Errorf("connection %d (-want +got):\n%s", n, diff)
			}
		}
	})
}

// HeldFramesDropped counts the removals of the program's observers, but not those of the
// observers that stand for triggers: an engine without observers has the triggers themselves.
func TestHeldFramesDroppedCountsNoTriggers(t *testing.T) {
	for name, test := range map[string]struct {
		engines []generation
		remove  bool // the trigger, while disconnected
	}{
		"one version at a time":   {[]generation{withV2, withV1, withoutObservers}, false},
		"at once":                 {[]generation{withV2, withoutObservers}, false},
		"trigger removed":         {[]generation{withV2, withoutObservers}, true},
		"trigger removed, slowly": {[]generation{withV2, withV1, withoutObservers}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ready := make(chan struct{})
				p := newPeer(t, script{greet: greetAs(test.engines...), message: accepting(func(c *peerConn, m *peerMessage) bool {
					if c.n == 1 && c.features != nil { // lost before the client can remove anything
						select {
						case <-ready:
						default:
							close(ready)
							c.Cut()
						}
						return true
					}
					return hostsObservers(c, m)
				})})
				c := p.connected()
				mustHandle(t, c, "f")
				o := mustObserve(t, c, "f", WithObserverID("o"))
				trigger := mustTrigger(t, c, "f", "trigger")
				if err := o.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				p.conn(0).Cut()
				if err := o.await(ObserverStateSuspended); err != nil {
					t.Fatal(err)
				}
				_ = o.Dispose(t.Context())
				if test.remove {
					if err := trigger.Unregister(); err != nil {
						t.Fatal(err)
					}
				}
				p.conn(len(test.engines) - 1)
				time.Sleep(time.Minute)
				if n := c.Stats().HeldFramesDropped; n != 1 {
					t.Errorf("%d held frames dropped, want 1, for the observer", n)
				}
			})
		})
	}
}

// Access control may drop observer registrations without a reply. A missing reply may delay
// Connect, but must not end the connection or hold back anything else.
func TestObserversWithoutReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replies atomic.Bool
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if !replies.Load() && (m.Type == "observe" || m.Type == "unobserve") && m.ID != "kept" {
				return true
			}
			return hostsObservers(c, m)
		})})
		c := p.client()
		mustHandle(t, c, "f")
		kept := mustObserve(t, c, "f", WithObserverID("kept"))
		lost := mustObserve(t, c, "f", WithObserverID("lost"))
		ctx, cancel := context.WithTimeout(t.Context(), 2*registerTimeout)
		defer cancel()
		if err := c.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		mustTrigger(t, c, "f", "dropped trigger")
		for range 3 {
			time.Sleep(2 * registerTimeout)
			if err := c.Call(t.Context(), "g", nil, nil); err != nil {
				t.Error(err)
			}
		}
		if n := len(p.messages(-1, "observe")); n != 3 || c.Stats().Reconnects > 0 {
			t.Errorf("%d observe messages, %d reconnects", n, c.Stats().Reconnects)
		}
		if kept.State() != ObserverStateActive || lost.State() != ObserverStatePending || lost.Err() != nil {
			t.Errorf("states %s and %s, %v", kept.State(), lost.State(), lost.Err())
		}

		// The reply to a new observer with the same id is not mistaken for the missing reply.
		if err := lost.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		replies.Store(true)
		again := mustObserve(t, c, "f", WithObserverID("lost"))
		if err := again.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if lost.State() != ObserverStateDisposed {
			t.Errorf("the first one is %s", lost.State())
		}
	})
}

// An engine that asks a hook about an observer may reply after the ping behind the observer.
func TestLateReplyToAnObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(_ *peerConn, m *peerMessage) bool {
			return m.Type == "observe"
		})})
		c := p.client()
		accepted := mustObserve(t, c, "t", WithObserverID("accepted"))
		rejected := mustObserve(t, c, "t", WithObserverID("rejected"))
		disposed := mustObserve(t, c, "t", WithObserverID("disposed"))
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := disposed.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		conn := p.conn(0)
		conn.send(`{"type":"observeresult","id":"accepted","state":"active","warnings":["w"]}`)
		conn.send(observeRefused("rejected", "FORBIDDEN"))
		conn.send(observeRefused("rejected", "AGAIN"))
		conn.send(observeRefused("disposed", "FORBIDDEN"))
		synctest.Wait()
		if accepted.State() != ObserverStateActive || len(accepted.Warnings()) != 1 {
			t.Errorf("accepted: %s, warnings %v", accepted.State(), accepted.Warnings())
		}
		if rejected.State() != ObserverStateError || codeOf(rejected.Err()) != "FORBIDDEN" {
			t.Errorf("rejected: %s, %v", rejected.State(), rejected.Err())
		}
		if disposed.State() != ObserverStateDisposed || disposed.Err() != nil {
			t.Errorf("disposed: %s, %v", disposed.State(), disposed.Err())
		}
	})
}

// A late reply belongs to the oldest observer that has received none, even if the client has
// stopped waiting for it.
func TestLateReplyToTheFirstOfTwoObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(_ *peerConn, m *peerMessage) bool {
			return m.Type == "observe" || m.Type == "unobserve"
		})})
		c := p.client()
		first := mustObserve(t, c, "t", WithObserverID("o"))
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := first.Dispose(gone); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		second := mustObserve(t, c, "t", WithObserverID("o"))
		synctest.Wait()
		p.conn(0).send(observeRefused("o", "FORBIDDEN"))
		synctest.Wait()
		if second.State() != ObserverStatePending {
			t.Errorf("second: %s, %v after the reply to the first", second.State(), second.Err())
		}
		p.conn(0).send(observeResult("o", "active"))
		if err := second.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if first.State() != ObserverStateDisposed || first.Err() != nil {
			t.Errorf("first: %s, %v", first.State(), first.Err())
		}
	})
}

// Until the hello has arrived, the engine's version is only assumed. The observers that the
// engine may have from earlier connections must not be forgotten.
func TestObserversAfterALateHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: func(c *peerConn) {
			if c.n == 1 {
				time.AfterFunc(3*registerTimeout/2, func() {
					c.send(`{"type":"workerregistered","worker_id":"late","features":["observe.v1","observe.v2"]}`)
				})
				return
			}
			greetAs(withV2)(c)
		}, message: accepting(hostsObservers)})
		c := p.connected()
		mustHandle(t, c, "f")
		away := mustObserve(t, c, "f", WithObserverID("away"))
		early := mustObserve(t, c, "f", WithObserverID("early"))
		kept := mustObserve(t, c, "f", WithObserverID("kept"))
		trigger := mustTrigger(t, c, "f", "trigger")
		mustTrigger(t, c, "f", "kept trigger")
		for _, o := range []*Observer{away, early, kept} {
			if err := o.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		p.conn(0).Cut()
		if err := away.await(ObserverStateSuspended); err != nil {
			t.Fatal(err)
		}
		_ = away.Dispose(t.Context())
		p.conn(1)
		time.Sleep(registerTimeout + time.Second)
		if codeOf(kept.Err()) != "UNSUPPORTED" {
			t.Errorf("error %v without a hello", kept.Err())
		}
		_ = early.Dispose(t.Context())
		if err := trigger.Unregister(); err != nil {
			t.Error(err)
		}
		p.conn(2)
		if err := kept.await(ObserverStateActive); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for n, want := range map[int][]string{
			1: {"registerfunction f", "registertrigger trigger", "registertrigger kept trigger", "unregistertrigger trigger"},
			2: {"registerfunction f", "unobserve away", "unobserve early", "unobserve trigger", "observe kept", "observe kept trigger"},
		} {
			if diff := cmp.Diff(want, p.observing(n)); diff != "" {
				t.Errorf("connection %d (-want +got):\n%s", n, diff)
			}
		}
		if n := c.Stats().HeldFramesDropped; n > 0 {
			t.Errorf("%d held frames dropped", n)
		}
	})
}

func TestFeaturesSelectTheGeneration(t *testing.T) {
	for name, test := range map[string]struct {
		features string // JSON; "" means absent
		want     []string
	}{
		"absent":         {"", []string{"registertrigger t"}},
		"null":           {"null", []string{"registertrigger t"}},
		"no list":        {`"observe.v1"`, []string{"registertrigger t"}},
		"others":         {`["local-dispatch.v1","observe.v10",1]`, []string{"registertrigger t"}},
		"v1":             {`[null,"observe.v1"]`, []string{"registertrigger t", "observe o"}},
		"v1 and v2":      {`["observe.v2","observe.v1","observe.v3"]`, []string{"observe t", "observe o"}},
		"v2 includes v1": {`["observe.v2"]`, []string{"observe t", "observe o"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: func(c *peerConn) {
					features := ""
					if test.features != "" {
						features = `,"features":` + test.features
					}
					c.features = withV1
					c.send(fmt.Sprintf(`{"type":"workerregistered","worker_id":%q%s}`, c.workerID, features))
				}, message: accepting(hostsObservers)})
				c := p.client()
				mustHandle(t, c, "f")
				mustTrigger(t, c, "f", "t")
				mustObserve(t, c, "f", WithObserverID("o"))
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(append([]string{"registerfunction f"}, test.want...), p.observing(0)); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestObserverIsHeldWithItsFunction(t *testing.T) {
	for name, g := range map[string]generation{"v1": withV1, "v2": withV2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held := true
				p := newPeer(t, script{greet: greetAs(g), message: accepting(func(c *peerConn, m *peerMessage) bool {
					if m.Type == "registerfunction" && m.ID == "f" && held {
						c.send(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":"f","owner_worker_id":"w"}`)
						return true
					}
					return hostsObservers(c, m)
				}), call: noWorkers})
				c := p.client()
				f := mustHandle(t, c, "f")
				o := mustObserve(t, c, "f")
				other := mustObserve(t, c, "elsewhere")
				trigger := mustTrigger(t, c, "f", "t")
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := other.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				if f.Err() == nil || o.State() != ObserverStatePending || o.Err() != nil || trigger.Err() == nil {
					t.Errorf("function %v, observer %s %v, trigger %v", f.Err(), o.State(), o.Err(), trigger.Err())
				}
				if diff := cmp.Diff([]string{"observe " + other.ID()}, slices.DeleteFunc(p.observing(0), func(s string) bool { return s == "registerfunction f" })); diff != "" {
					t.Errorf("sent for a rejected function (-want +got):\n%s", diff)
				}
				held = false
				if err := o.Ready(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// noWorkers replies like an engine that lists no workers.
func noWorkers(*peerConn, *peerMessage) string { return `{"workers":[],"registered_triggers":[]}` }

func TestObserverEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV1), message: accepting(hostsObservers)})
		c := p.client()
		mustHandle(t, c, "f")
		o := mustObserve(t, c, "f", WithObserverID("o"))
		pending := mustObserve(t, c, "f", WithObserverID("never"))
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		synctest.Wait() // the engine has accepted both observers
		p.conn(0).send(observerState("never", "pending", ""))
		synctest.Wait()
		go func() { waiting <- pending.Ready(t.Context()) }()
		synctest.Wait()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-waiting; !errors.Is(err, ErrClosed) {
			t.Errorf("Ready: %v, want ErrClosed", err)
		}
		if o.State() != ObserverStateDisposed || o.Err() != nil {
			t.Errorf("%s, %v", o.State(), o.Err())
		}
		if err := o.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := c.Observe(Source{FunctionID: "s"}, "t"); !errors.Is(err, ErrClosed) {
			t.Errorf("Observe: %v, want ErrClosed", err)
		}
		var got []string
		for _, m := range p.messages(0, "unobserve", "unregisterfunction") {
			got = append(got, m.Type+" "+m.ID)
		}
		if diff := cmp.Diff([]string{"unobserve o", "unobserve never", "unregisterfunction f"}, got); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

func TestReadyToleratesPendingObservers(t *testing.T) {
	for name, g := range map[string]generation{"0.23": withoutObservers, "0.25": withV1, "0.26": withV2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refuse := false
				p := newPeer(t, script{greet: greetAs(withV2, g), message: accepting(func(c *peerConn, m *peerMessage) bool {
					switch {
					case m.Type != "observe":
						return false
					case refuse:
						c.send(observeRefused(m.ID, "INVALID_ARGS"))
					default:
						c.send(observeResult(m.ID, "pending"))
					}
					return true
				})})
				c := p.client()
				mustHandle(t, c, "f")
				if _, err := c.Trigger("far", SubscribeTriggerConfig{Topic: "t"}, WithTriggerNamespace("far")); err != nil { // observers cannot have a target in another namespace without an adapter
					t.Fatal(err)
				}
				if err := errors.Join(c.Connect(t.Context()), c.Ready()); err != nil {
					t.Error(err)
				}
				p.conn(0).Cut()
				p.conn(1)
				synctest.Wait()
				if err := errors.Join(c.Connect(t.Context()), c.Ready()); err != nil {
					t.Error(err)
				}
				o := mustObserve(t, c, "f")
				synctest.Wait()
				if err := c.Ready(); g == nil != errors.Is(err, errors.ErrUnsupported) || g != nil && err != nil {
					t.Errorf("with an observer that is %s: %v", o.State(), err)
				}
				_ = o.Dispose(t.Context())
				refuse = true
				mustObserve(t, c, "f")
				synctest.Wait()
				if err := c.Ready(); g != nil && codeOf(err) != "INVALID_ARGS" {
					t.Errorf("with a rejected observer: %v", err)
				}
			})
		})
	}
}

// A host that has rejected an observer may accept it later, for example after a restart.
func TestReadyAgainOnceTheHostAccepts(t *testing.T) {
	for name, tt := range map[string]struct {
		code  string
		ready bool // while the host has not decided
	}{"contested": {code: CodeHTTPRouteConflict}, "other": {code: "NO_ROOM", ready: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)})
				c := p.client()
				mustHandle(t, c, "f")
				trigger, err := c.Trigger("f", HTTPTriggerConfig{APIPath: "/x"}, WithTriggerID("o"))
				if err != nil {
					t.Fatal(err)
				}
				connectHost(t, c)
				synctest.Wait()
				for _, step := range []struct {
					state, code string
					ready       bool
				}{{"active", "", true}, {"error", tt.code, false}, {"pending", "", tt.ready}, {"active", "", true}} {
					p.conn(0).send(observerState("o", step.state, step.code))
					synctest.Wait()
					if err := c.Ready(); (err == nil) != step.ready || (trigger.Err() == nil) != step.ready {
						t.Errorf("%s %s: ready %v, trigger %v", step.state, step.code, err, trigger.Err())
					}
				}
				time.Sleep(time.Minute)
				if diff := cmp.Diff([]string{"registerfunction f", "observe o"}, p.observing(0)); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// If a function is unregistered right after it was registered, the engine may never reply to
// the registration. Calls and readiness must not depend on that reply.
func TestFunctionUnregisteredBeforeItsReplyDelaysNothing(t *testing.T) {
	for name, g := range map[string]generation{"0.23": withoutObservers, "0.25": withV1, "0.26": withV2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(g), message: accepting(func(c *peerConn, m *peerMessage) bool {
					return m.Type == "registerfunction" && m.ID == "gone" // no reply
				})})
				c := p.connected()
				gone := mustHandle(t, c, "gone")
				mustHandle(t, c, "f")
				synctest.Wait()
				if err := gone.Unregister(); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if err := c.Ready(); err != nil {
					t.Error(err)
				}
				var result json.RawMessage
				if err := c.Call(t.Context(), "g", 1, &result); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
				if n := c.Stats().Reconnects; n != 0 || c.State() != ConnectionStateConnected {
					t.Errorf("%d reconnects", n)
				}
			})
		})
	}
}

// functionConflict returns the message that rejects a function because another worker owns it.
func functionConflict(f string) string {
	return fmt.Sprintf(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":%q,"owner_worker_id":"w"}`, f)
}

// Attempts to register a function that another worker owns do not delay later registrations.
func TestRetriedFunctionsDelayNothing(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(c *peerConn, attempt int) // replies to an attempt to register the function "busy"
		during func(p *peer, c *Client, busy *Function)
		owned  bool // whether the function "busy" is registered in the end
	}{
		"taken back before the answer": {
			answer: func(c *peerConn, attempt int) {
				if attempt == 1 {
					c.send(functionConflict("busy"))
				}
			},
			during: func(p *peer, c *Client, busy *Function) {
				time.Sleep(400 * time.Millisecond)
				if n := len(p.messages(0, "registerfunction")); n != 2 {
					t.Errorf("%d attempts", n)
				}
				if err := busy.Unregister(); err != nil {
					t.Error(err)
				}
			},
		},
		// Another registration delays the fence until after the second attempt.
		"several attempts before a fence": {
			answer: func(c *peerConn, attempt int) {
				if attempt < 3 {
					c.send(functionConflict("busy"))
				}
			},
			during: func(p *peer, c *Client, busy *Function) {
				mustHandle(t, c, "unanswered")
				time.Sleep(1100 * time.Millisecond)
				p.conn(0).send(`{"type":"functionregistered","id":"busy","revision":0}`)
			},
			owned: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					if m.Type == "registerfunction" && m.ID == "busy" {
						attempts++
						test.answer(c, attempts)
						return true
					}
					return m.Type == "registerfunction" && m.ID == "unanswered"
				}), call: noWorkers})
				c := p.client()
				busy := mustHandle(t, c, "busy")
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				test.during(p, c, busy)
				mustHandle(t, c, "next")
				synctest.Wait()
				if err := c.Ready(); err != nil {
					t.Error(err)
				}
				if test.owned && busy.Err() != nil {
					t.Error(busy.Err())
				}
				var result json.RawMessage
				if err := c.Call(t.Context(), "elsewhere", 1, &result); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The engine keeps observers while a worker is disconnected. If another worker has taken over
// the target function, the observer must be removed, because the function would otherwise run
// twice for each event.
func TestObserversOfALostFunctionAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := false
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "registerfunction" && m.ID == "f" && lost {
				c.send(functionConflict("f"))
				return true
			}
			return hostsObservers(c, m)
		}), call: noWorkers})
		c := p.client()
		mustHandle(t, c, "f")
		mustHandle(t, c, "kept")
		mustTrigger(t, c, "f", "trigger")
		o := mustObserve(t, c, "f", WithObserverID("observer"))
		mustTrigger(t, c, "kept", "other")
		if err := errors.Join(c.Connect(t.Context()), o.Ready(t.Context())); err != nil {
			t.Fatal(err)
		}
		lost = true
		p.conn(0).Cut()
		if err := errors.Join(o.await(ObserverStateSuspended), c.Connect(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		sent := func() []string {
			return slices.DeleteFunc(p.observing(1), func(s string) bool { return strings.HasPrefix(s, "registerfunction") })
		}
		want := []string{"unobserve trigger", "unobserve observer", "observe other"}
		same(t, "sent while another worker has the function", sent(), want)
		same(t, "state", o.State(), ObserverStateSuspended)
		lost = false
		if err := o.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		same(t, "sent", sent(), append(want, "observe trigger", "observe observer"))
	})
}

func TestExpiryStartsWhenFirstSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV1), message: accepting(hostsObservers)})
		c := p.connected()
		o := mustObserve(t, c, "t", WithExpiry(time.Minute))
		if err := o.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Second)
		p.conn(0).Cut()
		p.find("replay", func(m *peerMessage) bool { return m.Conn == 1 && m.Type == "observe" })
		var got []uint64
		for _, m := range p.messages(-1, "observe") {
			var o ObserveMessage
			if err := json.Unmarshal(m.Raw, &o); err != nil {
				t.Fatal(err)
			}
			got = append(got, *o.ExpiresInMs)
		}
		if got[0] != 60_000 || got[1] > 20_000 || got[1] < 15_000 {
			t.Errorf("expires in %d ms, want the rest of a minute the second time", got)
		}
	})
}

func TestInvocationTellsCallerAndActivation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)})
		c := p.client()
		got := make(chan Invocation, 1)
		if _, err := c.HandleFunc("f", func(ctx context.Context, _ json.RawMessage) (any, error) {
			inv, _ := InvocationFromContext(ctx)
			got <- inv
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		for id, config := range map[string]TriggerConfig{"t": QueueTriggerConfig{Topic: "t"}, "x": CustomTrigger{Type: "x"}} {
			if _, err := c.Trigger("f", config, WithTriggerID(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		const id = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
		for name, test := range map[string]struct {
			message string
			want    Invocation
		}{
			"call": {`"data":{"_caller_worker_id":"w"},"caller":{"worker_id":"w","worker_name":"shop","function_id":"g"}`,
				Invocation{CallerWorkerID: "w", Caller: &Caller{WorkerID: "w", WorkerName: "shop", FunctionID: "g"}}},
			"call without an object": {`"data":1,"caller":{"worker_id":"w"}`, Invocation{CallerWorkerID: "w", Caller: &Caller{WorkerID: "w"}}},
			"activation": {`"data":{},"metadata":7,"caller":{"worker_name":"iii-engine"},"observe_depth":2,"activation":{"observer_id":"o","activation_id":"a"}`,
				Invocation{Metadata: json.RawMessage("7"), Caller: &Caller{WorkerName: "iii-engine"}, Activation: &Activation{ObserverID: "o", ActivationID: "a"}, ObserveDepth: 2}},
			"call through an observer": {`"data":{"_caller_worker_id":"x"},"caller":{"worker_id":"w"},"activation":{"observer_id":"o","activation_id":"a"}`,
				Invocation{CallerWorkerID: "w", Caller: &Caller{WorkerID: "w"}, Activation: &Activation{ObserverID: "o", ActivationID: "a"}}},
			"call through that of a trigger": {`"data":1,"caller":{"worker_id":"w"},"activation":{"observer_id":"t","activation_id":"a"}`,
				Invocation{Caller: &Caller{WorkerID: "w"}, Activation: &Activation{ObserverID: "t", ActivationID: "a"}}},
			"call through that of a custom trigger": {`"data":1,"caller":{"worker_id":"w"},"activation":{"observer_id":"x","activation_id":"a"}`,
				Invocation{CallerWorkerID: "w", Caller: &Caller{WorkerID: "w"}, Activation: &Activation{ObserverID: "x", ActivationID: "a"}}},
			"old engine": {`"data":{}`, Invocation{}},
			"null":       {`"data":{},"caller":null,"observe_depth":null,"activation":null`, Invocation{}},
			"nonsense":   {`"data":{},"caller":5,"observe_depth":-1,"activation":[]`, Invocation{}},
		} {
			p.conn(0).send(`{"type":"invokefunction","invocation_id":"` + id + `","function_id":"f",` + test.message + `}`)
			test.want.ID, test.want.FunctionID = id, "f"
			if diff := cmp.Diff(test.want, <-got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}
