package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	featuresV1 = `"observe.v1","local-dispatch.v1"`
	featuresV2 = `"observe.v1","observe.v2","local-dispatch.v1"`
)

// hostScript scripts an engine that supports observers and confirms every function.
type hostScript struct {
	features func(conn int) string            // nil means featuresV2
	set      func(conn int, id string) string // initial observers of a function; nil means none
	routed   bool                             // the engine does not permit local calls
	script                                    // its greet, if set, is for the second connection only
}

func newHostPeer(t testing.TB, h hostScript) *peer {
	greet := h.greet
	h.greet = func(c *peerConn) {
		if greet != nil && c.n == 1 {
			greet(c)
			return
		}
		features := featuresV2
		if h.features != nil {
			features = h.features(c.n)
		}
		c.send(fmt.Sprintf(`{"type":"workerregistered","worker_id":%q,"features":[%s]}`, c.workerID, features))
	}
	message := h.message
	h.message = func(c *peerConn, m *peerMessage) bool {
		if message != nil && message(c, m) {
			return true
		}
		if m.Type == "registerfunction" && (h.features == nil || h.features(c.n) != "") {
			set := ""
			if h.set != nil {
				set = h.set(c.n, m.ID)
			}
			c.send(fmt.Sprintf(`{"type":"functionregistered","id":%q,"namespace":"default","revision":%d,"local_dispatch":%t,"observers":[%s]}`,
				m.ID, 10*(c.n+1), !h.routed, set))
			return true
		}
		return false
	}
	return newPeer(t, h.script)
}

// view returns an observer as the engine sends it.
func view(id, args string) string {
	return fmt.Sprintf(`{"id":%q,"args":%s,"filters":{},"target":"t::%s"}`, id, args, id)
}

// added announces a new observer.
func (c *peerConn) added(functionID string, revision int, view string) {
	c.send(fmt.Sprintf(`{"type":"observeradded","function_id":%q,"namespace":"default","revision":%d,"observer":%s}`, functionID, revision, view))
}

func (c *peerConn) removed(functionID string, revision int, id string) {
	c.send(fmt.Sprintf(`{"type":"observerremoved","function_id":%q,"namespace":"default","revision":%d,"id":%q}`, functionID, revision, id))
}

func ackText(m *peerMessage) string {
	var ack ObserverAckMessage
	if err := json.Unmarshal(m.Raw, &ack); err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s@%d", ack.ID, ack.Revision)
	if ack.Error != nil {
		s += " " + ack.Error.Code + ": " + ack.Error.Message
	}
	return s
}

func (p *peer) acks(conn int) (list []string) {
	for _, m := range p.messages(conn, "observerack") {
		list = append(list, ackText(m))
	}
	return list
}

type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, fmt.Sprintf(format, args...))
}

func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.list
	n.list = nil
	return list
}

func (n *notes) hooks(level string, fail func(id string) error) ObserverHooks {
	return ObserverHooks{
		Added: func(_ context.Context, o *FunctionObserver) error {
			n.add("%s added %s %s", level, o.ID, o.Args())
			if fail != nil {
				return fail(o.ID)
			}
			return nil
		},
		Removed: func(_ context.Context, o *FunctionObserver) { n.add("%s removed %s", level, o.ID) },
	}
}

func echo(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }

func hostFunc(t *testing.T, c *Client, id string, h HandlerFunc, opts ...FunctionOption) *Function {
	t.Helper()
	f, err := c.HandleFunc(id, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func connectHost(t *testing.T, c *Client) {
	t.Helper()
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestHooksRunAtBothLevelsInOrderAndUnwind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{"k":1}`) }})
		fail := func(id string) error {
			switch id {
			case "coded":
				return fmt.Errorf("no: %w", &Error{Code: "HARBOUR_UNKNOWN", Message: "no tide table"})
			case "plain":
				return errors.New("not today")
			case "called":
				return &Error{Code: "REMOTE", Message: "callee", FunctionID: "f", InvocationID: "i"}
			case "panics":
				panic("at the disco")
			}
			return nil
		}
		c := p.client(WithWorkerObserverHooks(n.hooks("worker", nil)))
		f := hostFunc(t, c, "tides::on-turn", echo, WithObserverHooks(n.hooks("function", fail)))
		connectHost(t, c)
		synctest.Wait()
		conn := p.conn(0)
		for i, id := range []string{"coded", "plain", "called", "panics"} {
			conn.added("tides::on-turn", 11+i, view(id, `{}`))
			synctest.Wait()
		}
		conn.removed("tides::on-turn", 20, "a")
		conn.removed("tides::on-turn", 21, "coded") // rejected before, so no Removed hook runs
		synctest.Wait()
		same(t, "hooks", n.take(), []string{
			`worker added a {"k":1}`, `function added a {"k":1}`,
			"worker added coded {}", "function added coded {}", "worker removed coded",
			"worker added plain {}", "function added plain {}", "worker removed plain",
			"worker added called {}", "function added called {}", "worker removed called",
			"worker added panics {}", "function added panics {}", "worker removed panics",
			"function removed a", "worker removed a",
		})
		same(t, "acks", p.acks(0), []string{"a@10", "coded@11 HARBOUR_UNKNOWN: no: no tide table", "plain@12 OBSERVE_REJECTED: not today",
			"called@13 OBSERVE_REJECTED: f: REMOTE: callee", "panics@14 OBSERVE_REJECTED: the added hook panicked"})
		if f.IsObserved() || f.Observers() != nil {
			t.Error("the function is still observed")
		}
	})
}

func TestReconnectDiffsTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		sets := []string{
			strings.Join([]string{view("same", `{"a":1,"b":2}`), view("changed", `{"a":1}`), view("gone", `{}`)}, ","),
			strings.Join([]string{strings.Replace(view("same", `{ "b": 2, "a": 1 }`), "t::same", "t::other", 1), view("changed", `{"a":2}`), view("new", `{}`)}, ","),
		}
		p := newHostPeer(t, hostScript{set: func(n int, _ string) string { return sets[n] }})
		c := p.client()
		f := hostFunc(t, c, "f", echo, WithObserverHooks(n.hooks("f", nil)))
		connectHost(t, c)
		synctest.Wait()
		n.take()
		if got := len(f.Observers()); got != 3 {
			t.Fatalf("%d observers", got)
		}
		kept := f.Observers()[0]
		p.conn(0).Close()
		time.Sleep(time.Millisecond) // long enough to disconnect, too short to reconnect
		if !f.IsObserved() || !f.LocalDispatch() {
			t.Error("losing the connection changed the observers")
		}
		p.conn(1)
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		same(t, "hooks", n.take(), []string{"f removed gone", "f removed changed", `f added changed {"a":2}`, "f added new {}"})
		acks := p.acks(1)
		same(t, "acks", acks, []string{"same@20", "changed@20", "new@20"})
		var targets []string
		for _, o := range f.Observers() {
			targets = append(targets, o.Target)
		}
		same(t, "targets", targets, []string{"t::other", "t::changed", "t::new"})
		if !kept.Active() || kept.Target != "t::same" {
			t.Errorf("the observer kept by a hook: active %t, target %s", kept.Active(), kept.Target)
		}

		conn := p.conn(1)
		conn.added("f", 20, view("stale", `{}`)) // stale: the revision is not newer
		conn.removed("f", 19, "new")
		synctest.Wait()
		if got := len(f.Observers()); got != 3 {
			t.Errorf("%d observers after stale changes, want 3", got)
		}
	})
}

func TestHooksHaveThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		release := make(chan struct{})
		p := newHostPeer(t, hostScript{})
		c := p.client()
		hooks := ObserverHooks{
			Added: func(ctx context.Context, o *FunctionObserver) error {
				n.add("added %s", o.ID)
				if o.ID == "slow" {
					<-release
					n.add("slow returns, ctx: %v", ctx.Err())
				}
				return nil
			},
			Removed: func(_ context.Context, o *FunctionObserver) { n.add("removed %s", o.ID) },
		}
		f := hostFunc(t, c, "f", echo, WithObserverHooks(hooks))
		connectHost(t, c)
		conn := p.conn(0)
		start := time.Now()
		conn.added("f", 11, view("slow", `{}`))
		conn.added("f", 12, view("next", `{}`))
		conn.added("f", 13, view("brief", `{}`))
		conn.removed("f", 14, "brief") // before its Added hook starts
		synctest.Wait()
		same(t, "hooks before", n.take(), []string{"added slow"})
		time.Sleep(30 * time.Second)
		synctest.Wait()
		same(t, "hooks after", n.take(), []string{"added next"})
		same(t, "acks", p.acks(0), []string{"slow@11 OWNER_TIMEOUT: the added hook for observer slow did not finish within 30s", "next@12"})
		close(release)
		synctest.Wait()
		same(t, "late return", n.take(), []string{"slow returns, ctx: context canceled", "removed slow"})
		if got := len(f.Observers()); got != 1 || time.Since(start) != 30*time.Second {
			t.Errorf("%d observers after %v", got, time.Since(start))
		}
	})
}

// slowProvider binds triggers only after release is closed.
type slowProvider struct {
	notes
	release chan struct{}
}

func (s *slowProvider) Bind(_ context.Context, b TriggerBinding) error {
	<-s.release
	s.add("bound %s", b.ID)
	return nil
}

func (s *slowProvider) Unbind(_ context.Context, id string) error {
	s.add("unbound %s", id)
	return nil
}

// A trigger that its provider binds too late has been rejected, so it is unbound again.
func TestTriggerBoundTooLateIsUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{}`) }})
		c := p.client()
		provider := &slowProvider{release: make(chan struct{})}
		if err := c.HandleTriggerType(TriggerType{ID: "webhook"}, provider); err != nil {
			t.Fatal(err)
		}
		connectHost(t, c)
		time.Sleep(hookTimeout)
		synctest.Wait()
		same(t, "acks", p.acks(0), []string{"a@10 OWNER_TIMEOUT: the added hook for observer a did not finish within 30s"})
		close(provider.release)
		synctest.Wait()
		same(t, "provider", provider.take(), []string{"bound a", "unbound a"})
		if n := len(c.providers.byID); n != 0 {
			t.Errorf("%d triggers are left", n)
		}
	})
}

func TestHooksOfFunctionsRunAtOnceUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		release := make(chan struct{})
		p := newHostPeer(t, hostScript{set: func(_ int, id string) string { return view(id+"-1", `{}`) + "," + view(id+"-2", `{}`) }})
		c := p.client(WithWorkerObserverHooks(ObserverHooks{Added: func(context.Context, *FunctionObserver) error {
			most.Store(max(most.Load(), running.Add(1)))
			<-release
			running.Add(-1)
			return nil
		}}))
		for i := range 100 {
			hostFunc(t, c, fmt.Sprintf("f%d", i), echo)
		}
		connectHost(t, c)
		synctest.Wait()
		if running.Load() != maxHooks {
			t.Errorf("%d hooks ran at once, want %d", running.Load(), maxHooks)
		}
		close(release)
		synctest.Wait()
		if got := len(p.acks(0)); got != 200 || most.Load() != maxHooks {
			t.Errorf("%d acks, at most %d hooks at once", got, most.Load())
		}
	})
}

func TestRejectAndAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		var within error
		enter, leave := make(chan *FunctionObserver, 1), make(chan struct{})
		p := newHostPeer(t, hostScript{})
		c := p.client()
		f := hostFunc(t, c, "f", echo, WithObserverHooks(ObserverHooks{
			Added: func(ctx context.Context, o *FunctionObserver) error {
				if o.ID == "during" {
					within = o.Accepted(ctx)
					enter <- o
					<-leave
				}
				return nil
			},
			Removed: func(_ context.Context, o *FunctionObserver) { n.add("removed %s", o.ID) },
		}))
		connectHost(t, c)
		conn := p.conn(0)
		conn.added("f", 11, view("late", `{}`))
		synctest.Wait()
		late := f.Observers()[0]
		if err := late.Accepted(t.Context()); err != nil {
			t.Errorf("Accepted: %v", err)
		}
		late.Reject(&Error{Code: "FULL", Message: "no room"})
		late.Reject(errors.New("again"))
		synctest.Wait()
		var e *Error
		if err := late.Accepted(t.Context()); !errors.As(err, &e) || e.Code != "FULL" {
			t.Errorf("Accepted after Reject: %v", err)
		}
		if err := late.Call(t.Context(), nil, nil); !errors.As(err, &e) || e.Code != "OBSERVER_NOT_ACTIVE" {
			t.Errorf("Call after Reject: %v", err)
		}

		conn.added("f", 12, view("during", `{}`))
		o := <-enter
		o.Reject(&Error{Code: "CHANGED", Message: "my mind"})
		if got := len(p.acks(0)); got != 2 {
			t.Errorf("%d acks while the hook runs", got)
		}
		close(leave)
		synctest.Wait()
		if within == nil || !strings.Contains(within.Error(), "Accepted") {
			t.Errorf("Accepted within the hook: %v", within)
		}
		conn.added("f", 13, view("late", `{}`)) // the same id again
		synctest.Wait()
		same(t, "acks", p.acks(0), []string{"late@11", "late@11 FULL: no room", "during@12 CHANGED: my mind", "late@13"})
		same(t, "hooks", n.take(), []string{"removed late", "removed during"})
	})
}

// A rejection that the engine has not received is repeated when the engine announces the
// observer again.
func TestRejectWhileDisconnected(t *testing.T) {
	repeated := []string{"kept@20", "away@20 FULL: no room", "during@20 FULL: no room"}
	renewed, added := []string{"kept@20", "away@20", "during@20"}, []string{"added away", "added during"}
	for name, tt := range map[string]struct {
		args     string    // of the observer on the second connection
		settings [2]string // a setting on the first connection, and on the others
		acks     []string
		hooks    []string
	}{
		"same observer":   {args: `{"n":1}`, acks: repeated},
		"other arguments": {args: `{"n":2}`, acks: renewed, hooks: added},
		"other target":    {args: `{"n":1}`, settings: [2]string{`"target":"t::`, `"target":"other::`}, acks: renewed, hooks: added},
		"other outcome":   {args: `{"n":1}`, settings: [2]string{`"filters"`, `"on":"error","filters"`}, acks: renewed, hooks: added},
		"other capture":   {args: `{"n":1}`, settings: [2]string{`"filters"`, `"capture":["input"],"filters"`}, acks: renewed, hooks: added},
		"other filters":   {args: `{"n":1}`, settings: [2]string{`"filters":{}`, `"filters":{"input.n":{"$gt":1}}`}, acks: renewed, hooks: added},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n notes
				leave := make(chan struct{})
				p := newHostPeer(t, hostScript{set: func(conn int, _ string) string {
					args := []string{`{"n":1}`, tt.args, tt.args}[conn]
					rejected := view("away", args) + "," + view("during", args)
					if conn > 0 && tt.settings[0] != "" {
						rejected = strings.ReplaceAll(rejected, tt.settings[0], tt.settings[1])
					}
					return view("kept", `{}`) + "," + rejected
				}})
				c := p.client()
				full := &Error{Code: "FULL", Message: "no room"}
				first := true
				f := hostFunc(t, c, "f", echo, WithObserverHooks(ObserverHooks{
					Added: func(_ context.Context, o *FunctionObserver) error {
						n.add("added %s", o.ID)
						if o.ID == "during" && first {
							first = false
							<-leave
							return full
						}
						return nil
					},
				}))
				connectHost(t, c)
				synctest.Wait()
				n.take()
				observers := f.Observers()
				p.conn(0).Cut()
				synctest.Wait()
				observers[1].Reject(full)
				close(leave)
				p.conn(1)
				time.Sleep(time.Minute)
				same(t, "acks", p.acks(1), tt.acks)
				same(t, "hooks", n.take(), tt.hooks)

				// The rejection is remembered for one connection only.
				p.conn(1).Cut()
				p.conn(2)
				time.Sleep(time.Minute)
				if got := len(f.Observers()); got != 3 {
					t.Errorf("%d observers on the third connection", got)
				}
			})
		})
	}
}

// The engine may not have read a rejection that was written before the connection is lost. The
// rejection is repeated unless the engine has answered the ping behind it.
func TestUnconfirmedRejectionIsRepeated(t *testing.T) {
	for name, tt := range map[string]struct {
		read bool
		want string
	}{
		"not read": {read: false, want: "a@20 FULL: no room"},
		"read":     {read: true, want: "a@20"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{}`) }, script: script{message: func(c *peerConn, m *peerMessage) bool {
					return m.Type == "ping" && c.n == 0 && !tt.read && len(c.peer.acks(0)) > 1
				}}})
				c := p.client()
				f := hostFunc(t, c, "f", echo)
				connectHost(t, c)
				synctest.Wait()
				f.Observers()[0].Reject(&Error{Code: "FULL", Message: "no room"})
				synctest.Wait()
				same(t, "acks", p.acks(0), []string{"a@10", "a@10 FULL: no room"})
				p.conn(0).Cut()
				p.conn(1)
				time.Sleep(time.Minute)
				same(t, "acks after the reconnect", p.acks(1), []string{tt.want})
			})
		})
	}
}

// Until the hello has arrived, the engine's version is only assumed. Observers, rejections and
// reports are kept, but no calls run in process.
func TestHostingAfterALateHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{
			features: func(conn int) string { return []string{featuresV2, "", featuresV2}[conn] },
			set:      func(int, string) string { return view("kept", `{}`) + "," + view("rejected", `{}`) },
			script: script{greet: func(c *peerConn) {
				time.AfterFunc(registerTimeout+time.Second, func() {
					c.send(`{"type":"workerregistered","worker_id":"late","features":[` + featuresV2 + `]}`)
				})
			}},
		})
		var n notes
		c := p.client(WithWorkerObserverHooks(n.hooks("worker", nil)))
		plain := hostFunc(t, c, "plain", echo)
		hooked := hostFunc(t, c, "hooked", echo, WithObserverHooks(ObserverHooks{Match: func(*FunctionObserver, *ObservedCall) bool { return true }}))
		functions := []*Function{plain, hooked}
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).Cut()
		synctest.Wait()
		for _, f := range functions {
			f.Observers()[1].Reject(&Error{Code: "FULL", Message: "no room"})
			if err := c.Call(t.Context(), f.id, 1, nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		n.take()
		p.conn(1)
		time.Sleep(registerTimeout + time.Second/2)
		for _, f := range functions {
			if f.LocalDispatch() || !f.IsObserved() {
				t.Errorf("%s without a hello: local %t, observed %t", f.id, f.LocalDispatch(), f.IsObserved())
			}
		}
		p.conn(2)
		time.Sleep(time.Minute)
		same(t, "hooks", n.take(), []string(nil))
		same(t, "acks", p.acks(2), []string{"kept@30", "rejected@30 FULL: no room", "kept@30", "rejected@30 FULL: no room"})
		same(t, "reports", numbers(p.reported(2)), []string{"1", "1"})
		for _, f := range functions {
			if !f.LocalDispatch() || len(f.Observers()) != 1 {
				t.Errorf("%s: local %t, %d observers", f.id, f.LocalDispatch(), len(f.Observers()))
			}
		}
		if dropped := c.Stats().ReportsDropped; dropped > 0 {
			t.Errorf("%d reports dropped", dropped)
		}
	})
}

// If the engine announces an observer again while its Added hook runs, a rejection made before
// still counts.
func TestRejectBeforeAnotherAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		calls := 0
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", echo, WithObserverHooks(ObserverHooks{Added: func(_ context.Context, o *FunctionObserver) error {
			calls++
			o.Reject(&Error{Code: "FULL", Message: "no room"})
			<-leave
			return nil
		}}))
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).send(`{"type":"functionregistered","id":"f","revision":11,"observers":[` + view("a", `{}`) + `]}`)
		synctest.Wait()
		close(leave)
		synctest.Wait()
		same(t, "acks", p.acks(0), []string{"a@11 FULL: no room"})
		if calls != 1 {
			t.Errorf("the hook ran %d times", calls)
		}
	})
}

// A program that registers a function again gets the same observers again. Their Added hooks run
// once the Removed hooks of the earlier registration have returned.
func TestHooksOfAFunctionThatIsRegisteredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		leave := make(chan struct{})
		p := newHostPeer(t, hostScript{set: func(_ int, id string) string { return view("a", `{}`) + "," + view("b", `{}`) }})
		worker := n.hooks("worker", nil)
		remove := worker.Removed
		worker.Removed = func(ctx context.Context, o *FunctionObserver) {
			<-leave
			remove(ctx, o)
		}
		c := p.client(WithWorkerObserverHooks(worker))
		f := hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		n.take()
		if err := f.Unregister(); err != nil {
			t.Fatal(err)
		}
		f = hostFunc(t, c, "f", echo)
		other := hostFunc(t, c, "g", echo)
		synctest.Wait()
		same(t, "hooks before Removed returns", n.take(), []string{"worker added a {}", "worker added b {}"})
		if f.IsObserved() || len(other.Observers()) != 2 {
			t.Errorf("observers %v of f, %v of g", f.Observers(), other.Observers())
		}
		close(leave)
		synctest.Wait()
		same(t, "hooks", n.take(), []string{"worker removed a", "worker removed b", "worker added a {}", "worker added b {}"})
		if len(f.Observers()) != 2 || len(c.hosts.queues) > 0 {
			t.Errorf("observers %v, %d queues", f.Observers(), len(c.hosts.queues))
		}
	})
}

// A worker stops hosting a function if another worker owns it, if the engine rejects its
// registration, or if the worker unregisters it. The Removed hook then runs exactly once for
// each observer.
func TestReleaseRunsRemovedOnceAndUndoesAnAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, release := range map[string]func(*peerConn, *Function){
			"conflict": func(c *peerConn, _ *Function) {
				c.send(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":"f","owner_worker_id":"w"}`)
			},
			"refusal": func(c *peerConn, _ *Function) {
				c.send(`{"type":"registrationrejected","code":"INVALID_ARGS_FORMAT","namespace":"default","function_id":"f","owner_worker_id":""}`)
			},
			"unregister": func(_ *peerConn, f *Function) { _ = f.Unregister() },
		} {
			t.Log(name)
			var n notes
			leave := make(chan struct{})
			p := newHostPeer(t, hostScript{set: func(_ int, id string) string {
				if id == "g" {
					return ""
				}
				return view("a", `{}`)
			}})
			c := p.client()
			f := hostFunc(t, c, "f", echo, WithObserverHooks(ObserverHooks{
				Added: func(_ context.Context, o *FunctionObserver) error {
					n.add("added %s", o.ID)
					if o.ID == "b" {
						<-leave
					}
					return nil
				},
				Removed: func(_ context.Context, o *FunctionObserver) { n.add("removed %s", o.ID) },
			}))
			g := hostFunc(t, c, "g", echo)
			connectHost(t, c)
			conn := p.conn(0)
			conn.added("f", 11, view("b", `{}`))
			synctest.Wait()
			release(conn, f)
			synctest.Wait()
			if f.IsObserved() || f.LocalDispatch() {
				t.Error("the function is still observed")
			}
			close(leave)
			synctest.Wait()
			got := n.take()
			same(t, "hooks", got, []string{"added a", "added b", "removed b", "removed a"})
			same(t, "acks", p.acks(0), []string{"a@10"})
			if !g.LocalDispatch() || c.State() != ConnectionStateConnected {
				t.Error("another function is affected")
			}
			if name == "refusal" && (f.Err() == nil || !strings.Contains(f.Err().Error(), "INVALID_ARGS_FORMAT")) {
				t.Errorf("Err: %v", f.Err())
			}
			_ = c.Close()
		}
	})
}

func TestFunctionsThatNeedHooksStayUnregisteredWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		features := []string{featuresV2, `"observe.v1","local-dispatch.v1"`, "", featuresV2}
		p := newHostPeer(t, hostScript{features: func(n int) string { return features[min(n, 3)] }, set: func(_ int, id string) string {
			if id == "plain" {
				return ""
			}
			return view("o", `{}`)
		}})
		var n notes
		c := p.client()
		type options []FunctionOption
		for id, opts := range map[string]options{
			"plain":   {WithObserverHooks(n.hooks("plain", nil))},
			"args":    {WithArgsSchema(true), WithObserverHooks(n.hooks("args", nil))},
			"private": {WithPrivate()},
			"closed":  {WithoutObservers()},
			"match":   {WithObserverHooks(ObserverHooks{Match: func(*FunctionObserver, *ObservedCall) bool { return true }})},
		} {
			hostFunc(t, c, id, echo, opts...)
		}
		args := c.registry.functionNamed("args")
		connectHost(t, c)
		registered := func(conn int) (ids []string) {
			for _, m := range p.messages(conn, "registerfunction") {
				ids = append(ids, m.ID)
			}
			slices.Sort(ids)
			return ids
		}
		all := []string{"args", "closed", "match", "plain", "private"}
		for conn := range 4 {
			p.conn(conn)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			v2 := features[conn] == featuresV2
			want := []string{"plain"}
			if v2 {
				want = all
			}
			same(t, fmt.Sprintf("registered over %d", conn), registered(conn), want)
			var rejected *RejectedError
			if err := args.Err(); v2 != (err == nil) || !v2 && (!errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &rejected) || rejected.FunctionID != "args") {
				t.Errorf("connection %d: Err: %v", conn, err)
			}
			if args.IsObserved() != v2 || args.LocalDispatch() != v2 {
				t.Errorf("connection %d: observed %t, local %t", conn, args.IsObserved(), args.LocalDispatch())
			}
			if conn < 3 {
				p.conn(conn).Close()
			}
		}
		same(t, "hooks", n.take(), []string{"args added o {}", "args removed o", "args added o {}"})
		if c.Stats().FunctionsRefused != 0 {
			t.Error("the stats count the function as owned by another worker")
		}
		var m struct {
			Args       json.RawMessage `json:"args_format"`
			Private    bool            `json:"private"`
			Observable *bool           `json:"observable"`
		}
		for _, r := range p.messages(0, "registerfunction") {
			m.Args, m.Private, m.Observable = nil, false, nil
			if err := json.Unmarshal(r.Raw, &m); err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%s %t %t", string(m.Args), m.Private, m.Observable != nil && !*m.Observable)
			want := map[string]string{"plain": " false false", "args": "true false false", "private": " true false", "closed": " false true", "match": " false false"}[r.ID]
			if got != want {
				t.Errorf("%s: %s, not %s", r.ID, got, want)
			}
		}
	})
}

// A function that only the earlier engine could not host has no former owner.
func TestUpgradeIsNotATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{features: func(conn int) string { return []string{featuresV2, featuresV1, featuresV2}[conn] },
			script: script{message: hostsObservers}})
		var took atomic.Bool
		c := p.client(WithStateListener(func(_ ConnectionState, err error) {
			var notice *TakeoverNotice
			took.Store(took.Load() || errors.As(err, &notice))
		}))
		f := hostFunc(t, c, "f", echo, WithPrivate())
		o := mustObserve(t, c, "f", WithObserverID("o"))
		if _, err := c.Trigger("elsewhere", StateTriggerConfig{}, WithTriggerID("adapted"), WithTriggerCondition("f")); err != nil {
			t.Fatal(err)
		}
		connectHost(t, c)
		p.conn(0).Cut()
		p.conn(1)
		time.Sleep(time.Minute)
		if !errors.Is(f.Err(), errors.ErrUnsupported) {
			t.Errorf("Err: %v", f.Err())
		}
		p.conn(1).Cut()
		p.conn(2)
		began := time.Now()
		if err := o.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited >= releaseTimeout/2 {
			t.Errorf("the observer waited %v for a former owner", waited)
		}
		time.Sleep(time.Minute)
		var calls []string
		for _, m := range p.messages(2, "invokefunction") {
			if m.FunctionID != registerWorkerFunction {
				calls = append(calls, m.FunctionID)
			}
		}
		if took.Load() || len(calls) > 0 || f.Err() != nil {
			t.Errorf("takeover %t, calls %v, %v", took.Load(), calls, f.Err())
		}
	})
}

// A hook may return a nil pointer as its error.
func TestHooksThatReturnANilPointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bare *Error
		wrapped := fmt.Errorf("wrapped: %w", bare)
		p := newHostPeer(t, hostScript{set: func(_ int, id string) string {
			if strings.HasPrefix(id, "added") {
				return view(id, `{}`)
			}
			return ""
		}})
		c := p.client()
		for name, failure := range map[string]error{"bare": bare, "wrapped": wrapped} {
			hostFunc(t, c, "added::"+name, echo, WithObserverHooks(ObserverHooks{Added: func(context.Context, *FunctionObserver) error { return failure }}))
			deliver := WithObserverHooks(ObserverHooks{Deliver: func(context.Context, *ObservedCall, []*FunctionObserver) (any, error) { return nil, failure }})
			hostFunc(t, c, "deliver::"+name, echo, deliver)
			hostFunc(t, c, "late::"+name, func(ctx context.Context, _ json.RawMessage) (any, error) { <-ctx.Done(); return nil, nil }, deliver, WithHandlerTimeout(time.Second))
		}
		connectHost(t, c)
		synctest.Wait()
		acks := p.acks(0)
		slices.Sort(acks)
		same(t, "acks", acks, []string{
			"added::bare@10 OBSERVE_REJECTED: the added hook panicked", "added::wrapped@10 OBSERVE_REJECTED: wrapped: <nil>"})
		for id, want := range map[string]string{"deliver::bare": "deliver hook panicked", "late::bare": "deliver hook panicked",
			"deliver::wrapped": "wrapped: <nil>", "late::wrapped": "wrapped: <nil>"} {
			if m := p.answered(p.conn(0).invoke(id, `1`)); m.Error == nil || m.Error.Code != CodeInvocationFailed || m.Error.Message != want {
				t.Errorf("%s: %s", id, m.Raw)
			}
		}
	})
}

func TestFiltersThatDoNotCompileAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		p := newHostPeer(t, hostScript{})
		c := p.client()
		hostFunc(t, c, "f", echo, WithObserverHooks(n.hooks("f", nil)))
		connectHost(t, c)
		p.conn(0).added("f", 11, `{"id":"a","target":"t","filters":{"nowhere.x":{"$eq":1}}}`)
		synctest.Wait()
		acks := p.acks(0)
		if len(acks) != 1 || !strings.HasPrefix(acks[0], "a@11 INVALID_FILTER: ") || len(n.take()) > 0 {
			t.Errorf("acks %q", acks)
		}
	})
}

// If the description of an observer does not decode, only this observer is skipped, and the log
// names it.
func TestObserversThatDoNotDecodeAreSkipped(t *testing.T) {
	for name, test := range map[string]struct{ view, named string }{
		"no object":       {`7`, "observers[1]"},
		"null":            {`null`, "observers[1]"},
		"no id":           {`{"target":"t"}`, "observers[1]"},
		"id":              {`{"id":7,"target":"t"}`, "observers[1]"},
		"target":          {`{"id":"wrong","target":7}`, "wrong"},
		"capture":         {`{"id":"wrong","target":"t","capture":["input",7]}`, "wrong"},
		"capture, object": {`{"id":"wrong","target":"t","capture":{}}`, "wrong"},
		"on":              {`{"id":"wrong","target":"t","on":true}`, "wrong"},
		"legacy":          {`{"id":"wrong","target":"t","legacy":[]}`, "wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n notes
				var log bytes.Buffer
				p := newHostPeer(t, hostScript{set: func(int, string) string {
					return strings.Join([]string{view("a", `{}`), test.view, view("b", `{}`)}, ",")
				}})
				c := p.client(WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				f := hostFunc(t, c, "f", echo, WithObserverHooks(n.hooks("f", nil)))
				connectHost(t, c)
				p.conn(0).added("f", 11, test.view)
				p.conn(0).added("f", 12, view("c", `{}`))
				synctest.Wait()
				same(t, "hooks", n.take(), []string{"f added a {}", "f added b {}", "f added c {}"})
				same(t, "acks", p.acks(0), []string{"a@10", "b@10", "c@12"})
				if !f.LocalDispatch() || f.Err() != nil {
					t.Errorf("local dispatch %t, error %v", f.LocalDispatch(), f.Err())
				}
				if text := log.String(); !strings.Contains(text, "observers are skipped") || !strings.Contains(text, "function=f observers=["+test.named+"]") {
					t.Errorf("the log does not name the observer %s:\n%s", test.named, text)
				}
				if text := log.String(); test.named == "wrong" && !strings.Contains(text, `observer \"wrong\" of function \"f\"`) {
					t.Errorf("the log does not name the observer that was added:\n%s", text)
				}
				if got := c.Stats().FramesMalformed; got != 2 {
					t.Errorf("%d malformed messages, want 2", got)
				}
			})
		})
	}
}

func TestHostingOptionsAreChecked(t *testing.T) {
	c, err := New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	match := func(*FunctionObserver, *ObservedCall) bool { return true }
	for want, opt := range map[string]FunctionOption{
		"no hook is set":         WithObserverHooks(ObserverHooks{}),
		"exclude each other":     WithObserverHooks(ObserverHooks{Match: match, Keys: &ObserverKeys{}}),
		"needs both functions":   WithObserverHooks(ObserverHooks{Keys: &ObserverKeys{}}),
		"nil schema":             WithArgsSchema(nil),
		"an object or a boolean": WithArgsSchema(1),
		"WithArgs":               WithArgs[chan int](),
	} {
		if _, err := c.HandleFunc("f", echo, opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := New("", WithWorkerObserverHooks(ObserverHooks{Match: match})); err == nil {
		t.Error("a Match hook is accepted for all functions of a worker")
	}
}

func TestRoutedCallsAreMatchedAndDelivered(t *testing.T) {
	type answer struct {
		Result    json.RawMessage
		Error     *ErrorBody
		Matched   *[]string
		Delivered bool
	}
	handlerError := &Error{Code: "NO_TAX", Message: "country missing", Stacktrace: "here"}
	byKey := &ObserverKeys{
		Observer: func(o *FunctionObserver) []string {
			var a struct{ K []string }
			_ = o.DecodeArgs(&a)
			return a.K
		},
		Call: func(call *ObservedCall) []string {
			var in struct{ K []string }
			_ = json.Unmarshal(call.Input, &in)
			if slices.Contains(in.K, "panic") {
				panic("key")
			}
			return in.K
		},
	}
	deliver := func(_ context.Context, call *ObservedCall, observers []*FunctionObserver) (any, error) {
		var in struct{ Deliver string }
		_ = json.Unmarshal(call.Input, &in)
		switch in.Deliver {
		case "timeout":
			return nil, fmt.Errorf("iii: call t: %w", ErrTimeout)
		case "rethrow":
			return nil, call.Err()
		case "fail":
			return nil, errors.New("no luck")
		case "panic":
			panic("deliver")
		}
		return map[string]any{"status": call.Status, "n": len(observers), "output": call.Output}, nil
	}
	list := func(ids ...string) *[]string { ids = append([]string{}, ids...); return &ids }
	for name, tt := range map[string]struct {
		hooks ObserverHooks
		set   string
		data  string
		v1    bool
		want  answer
	}{
		"plain":     {set: view("a", `{}`), data: `1`, want: answer{Result: json.RawMessage(`1`)}},
		"predicate": {hooks: ObserverHooks{Match: func(o *FunctionObserver, _ *ObservedCall) bool { return o.ID == "b" }}, set: view("a", `{}`) + "," + view("b", `{}`), data: `1`, want: answer{Result: json.RawMessage(`1`), Matched: list("b")}},
		"nobody":    {hooks: ObserverHooks{Match: func(*FunctionObserver, *ObservedCall) bool { panic("never asked") }}, data: `1`, want: answer{Result: json.RawMessage(`1`), Matched: list()}},
		"panic":     {hooks: ObserverHooks{Match: func(o *FunctionObserver, _ *ObservedCall) bool { panic(o.ID) }}, set: view("a", `{}`), data: `1`, want: answer{Result: json.RawMessage(`1`), Matched: list()}},
		"failed call": {hooks: ObserverHooks{Match: func(_ *FunctionObserver, call *ObservedCall) bool {
			return call.Status == "error" && string(call.Error) == `{"code":"NO_TAX","message":"country missing"}`
		}}, set: view("a", `{}`), data: `"fail"`, want: answer{Error: &ErrorBody{Code: "NO_TAX", Message: "country missing", Stacktrace: "here"}, Matched: list("a")}},
		"keys":          {hooks: ObserverHooks{Keys: byKey}, set: view("a", `{"k":["x","y"]}`) + "," + view("b", `{"k":["y"]}`) + "," + view("c", `{"k":["z"]}`), data: `{"k":["y","x","x"]}`, want: answer{Result: json.RawMessage(`{"k":["y","x","x"]}`), Matched: list("a", "b")}},
		"key panic":     {hooks: ObserverHooks{Keys: byKey}, set: view("a", `{"k":["x"]}`), data: `{"k":["panic"]}`, want: answer{Result: json.RawMessage(`{"k":["panic"]}`), Matched: list()}},
		"too large":     {hooks: ObserverHooks{Match: func(*FunctionObserver, *ObservedCall) bool { return true }}, set: view("a", `{}`), data: `"large"`, want: answer{Error: &ErrorBody{Code: "payload_too_large"}, Matched: list()}},
		"delivered":     {hooks: ObserverHooks{Deliver: deliver}, set: view("a", `{}`), data: `{}`, want: answer{Result: json.RawMessage(`{"n":1,"output":{},"status":"success"}`), Delivered: true}},
		"deliver large": {hooks: ObserverHooks{Deliver: func(context.Context, *ObservedCall, []*FunctionObserver) (any, error) { return largeText(), nil }}, data: `{}`, want: answer{Error: &ErrorBody{Code: "payload_too_large"}, Delivered: true}},
		"rethrow": {hooks: ObserverHooks{Deliver: func(_ context.Context, call *ObservedCall, _ []*FunctionObserver) (any, error) {
			return nil, call.Err()
		}}, data: `"fail"`, want: answer{Error: &ErrorBody{Code: "NO_TAX", Message: "country missing", Stacktrace: "here"}, Delivered: true}},
		"recovers":       {hooks: ObserverHooks{Deliver: deliver}, data: `"fail"`, want: answer{Result: json.RawMessage(`{"n":0,"output":null,"status":"error"}`), Delivered: true}},
		"after a panic":  {hooks: ObserverHooks{Deliver: deliver}, data: `"panic"`, want: answer{Result: json.RawMessage(`{"n":0,"output":null,"status":"error"}`), Delivered: true}},
		"timeout":        {hooks: ObserverHooks{Deliver: deliver}, data: `{"deliver":"timeout"}`, want: answer{Error: &ErrorBody{Code: "TIMEOUT", Message: "call t: iii: call timed out"}, Delivered: true}},
		"deliver fails":  {hooks: ObserverHooks{Deliver: deliver}, data: `{"deliver":"fail"}`, want: answer{Error: &ErrorBody{Code: "invocation_failed", Message: "no luck"}, Delivered: true}},
		"deliver panics": {hooks: ObserverHooks{Deliver: deliver}, data: `{"deliver":"panic"}`, want: answer{Error: &ErrorBody{Code: "invocation_failed", Message: "deliver hook panicked"}, Delivered: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return tt.set }})
				c := p.client()
				var opts []FunctionOption
				if tt.hooks.affectReplies() {
					opts = append(opts, WithObserverHooks(tt.hooks))
				}
				hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
					switch string(payload) {
					case `"fail"`:
						return nil, handlerError
					case `"panic"`:
						panic("handler")
					case `"large"`:
						return largeText(), nil
					}
					return payload, nil
				}, opts...)
				connectHost(t, c)
				synctest.Wait()
				var got answer
				if err := json.Unmarshal(p.answered(p.conn(0).invoke("f", tt.data)).Raw, &got); err != nil {
					t.Fatal(err)
				}
				if got.Error != nil && got.Error.Code == "payload_too_large" {
					got.Error.Message = ""
				}
				same(t, "answer", got, tt.want)
			})
		})
	}
}

// What the hooks add to a result counts toward the limit of a message.
func TestResultsAreLimitedWithWhatHooksAdd(t *testing.T) {
	const envelope = len(`{"type":"invocationresult","invocation_id":"11111111-2222-3333-4444-555555555555","function_id":"f","result":""}`)
	largest := json.RawMessage(`"` + strings.Repeat("x", messageTooLarge-1-envelope) + `"`)
	for name, tt := range map[string]struct {
		hooks ObserverHooks
		want  string
	}{
		"matched": {ObserverHooks{Match: func(*FunctionObserver, *ObservedCall) bool { return true }}, `"matched":[]`},
		"delivered": {ObserverHooks{Deliver: func(context.Context, *ObservedCall, []*FunctionObserver) (any, error) {
			return largest, nil
		}}, `"delivered":true`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{})
				c := p.client()
				hostFunc(t, c, "f", func(context.Context, json.RawMessage) (any, error) { return largest, nil }, WithObserverHooks(tt.hooks))
				connectHost(t, c)
				synctest.Wait()
				m := p.answered(p.conn(0).invoke("f", `{}`))
				if m.Error == nil || m.Error.Code != CodePayloadTooLarge || !strings.Contains(string(m.Raw), tt.want) {
					t.Errorf("answer %.300s", m.Raw)
				}
			})
		})
	}
}

func largeText() json.RawMessage {
	return json.RawMessage(`"` + strings.Repeat("x", messageTooLarge) + `"`)
}

// Hooks receive the original payload, even if the handler overwrites it. The payload does not
// contain _caller_worker_id, which the engine adds.
func TestHooksReceiveOriginalPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ObservedCall
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
			clear(payload)
			return 7, nil
		}, WithObserverHooks(ObserverHooks{Match: func(_ *FunctionObserver, call *ObservedCall) bool { got = *call; return true }}))
		connectHost(t, c)
		synctest.Wait()
		const id = "11111111-2222-3333-4444-555555555555"
		p.conn(0).send(`{"type":"invokefunction","invocation_id":"` + id + `","function_id":"f","data":{"n":1,"_caller_worker_id":"w"},"metadata":{"m":1},"caller":{"worker_id":"w"},"observe_depth":2}`)
		p.answered(id)
		same(t, "call", got, ObservedCall{FunctionID: "f", InvocationID: id, Status: "success", Input: json.RawMessage(`{"n":1}`),
			Output: json.RawMessage(`7`), Caller: json.RawMessage(`{"worker_id":"w"}`), Metadata: json.RawMessage(`{"m":1}`)})
	})
}

func TestCallsThroughAnObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(_ int, id string) string {
			if id == "f" {
				return view("a", `{}`)
			}
			return ""
		}})
		c := p.client(WithNamespace("shop"))
		var result json.RawMessage
		f := hostFunc(t, c, "f", echo)
		hostFunc(t, c, "t::a", echo) // the target belongs to the same worker
		connectHost(t, c)
		synctest.Wait()
		o := f.Observers()[0]
		if err := o.Call(t.Context(), map[string]int{"n": 1}, &result); err != nil || string(result) != `{"n":1}` {
			t.Errorf("Call: %s, %v", result, err)
		}
		if err := o.Send(t.Context(), 2); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		var got []string
		for _, m := range p.messages(0, "invokefunction") {
			if m.FunctionID == "t::a" {
				got = append(got, strings.ReplaceAll(string(m.Raw), `"`+m.InvocationID+`"`, `"ID"`))
			}
		}
		same(t, "frames", got, []string{
			`{"type":"invokefunction","function_id":"t::a","invocation_id":"ID","activation":{"observer_id":"a"},"data":{"n":1}}`,
			`{"type":"invokefunction","function_id":"t::a","action":{"type":"void"},"activation":{"observer_id":"a"},"data":2}`,
		})
	})
}

func TestIsObservedNeitherAllocatesNorLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("a", `{}`) }})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		connectHost(t, c)
		c.hosts.mu.Lock()
		allocs := testing.AllocsPerRun(100, func() {
			if !f.IsObserved() {
				t.Error("not observed")
			}
		})
		c.hosts.mu.Unlock()
		if allocs > 0 {
			t.Errorf("%v allocations", allocs)
		}
	})
}

func TestIsObservedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := `{"id":"a","target":"t","on":"error","args":{"k":["x"]},"filters":{"input.n":{"$gte":5}}}`
		p := newHostPeer(t, hostScript{set: func(int, string) string { return set }})
		c := p.client()
		plain := hostFunc(t, c, "plain", echo)
		keyed := hostFunc(t, c, "keyed", echo, WithObserverHooks(ObserverHooks{Keys: &ObserverKeys{
			Observer: func(o *FunctionObserver) []string { return []string{"x"} },
			Call:     func(call *ObservedCall) []string { return []string{string(call.Metadata)} },
		}}))
		connectHost(t, c)
		synctest.Wait()
		x, y := json.RawMessage("x"), json.RawMessage("y")
		for _, tt := range []struct {
			f    *Function
			call ObservedCall
			want bool
		}{
			{plain, ObservedCall{}, true},
			{plain, ObservedCall{Status: "success", Input: json.RawMessage(`{"n":5}`)}, false},
			{plain, ObservedCall{Status: "error", Input: json.RawMessage(`{"n":4}`)}, false},
			{plain, ObservedCall{Status: "error", Input: json.RawMessage(`{"n":5}`)}, true},
			{keyed, ObservedCall{Metadata: x}, true},
			{keyed, ObservedCall{Metadata: y}, false},
			{keyed, ObservedCall{Metadata: x, Status: "error", Input: json.RawMessage(`{"n":5}`)}, true},
			{keyed, ObservedCall{Metadata: x, Status: "success", Input: json.RawMessage(`{"n":5}`)}, false},
		} {
			if got := tt.f.IsObservedFor(&tt.call); got != tt.want {
				t.Errorf("%s, %+v: %t", tt.f.ID(), tt.call, got)
			}
		}
	})
}

// BenchmarkAddObservers adds 10,000 observers to a function, which should take less than a
// second.
func BenchmarkAddObservers(b *testing.B) {
	views := make([]observerView, 10_000)
	for i := range views {
		views[i] = compileView(ObserverView{ID: fmt.Sprint("o", i), Target: "t", Args: JSONValue("{}"), On: ObserveOnSuccess,
			Filters: JSONValue(fmt.Sprintf(`{"input.customer":{"$eq":"c%d"}}`, i))})
	}
	for b.Loop() {
		c, l, f := hostedFunction(b)
		for i := range views {
			c.hosts.announce(l, f, &views[i], uint64(i+1))
		}
		if n := len(f.Observers()); n != len(views) {
			b.Fatal(n)
		}
		_ = c.Close()
	}
}

// A hook that exits its goroutine or blocks until its context is canceled does not block other
// hooks.
func TestHooksThatDoNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{})
		c := p.client()
		ended := make(chan error, 2)
		f := hostFunc(t, c, "f", echo, WithObserverHooks(ObserverHooks{
			Added: func(ctx context.Context, o *FunctionObserver) error {
				switch o.ID {
				case "exits":
					runtime.Goexit()
				case "waits":
					<-ctx.Done()
					ended <- ctx.Err()
					return ctx.Err()
				}
				return nil
			},
			Removed: func(ctx context.Context, o *FunctionObserver) { runtime.Goexit() },
		}))
		connectHost(t, c)
		conn := p.conn(0)
		conn.added("f", 11, view("exits", `{}`))
		conn.added("f", 12, view("a", `{}`))
		synctest.Wait()
		conn.removed("f", 13, "a")
		conn.added("f", 14, view("b", `{}`))
		synctest.Wait()
		same(t, "acks", p.acks(0), []string{"exits@11 OBSERVE_REJECTED: the hook ended its goroutine", "a@12", "b@14"})
		conn.added("f", 15, view("waits", `{}`))
		synctest.Wait()
		accepted := make(chan error, 1)
		go func() { accepted <- f.client.hosts.held("f", "waits").view.Load().Accepted(t.Context()) }()
		synctest.Wait()
		conn.removed("f", 16, "waits")
		var e *Error
		if err := <-accepted; !errors.As(err, &e) || e.Code != CodeObserverNotActive {
			t.Errorf("Accepted: %v", err)
		}
		_ = c.Close()
		if err := <-ended; err == nil {
			t.Error("the hook's context was not canceled when the client was closed")
		}
	})
}

func (h *hosting) held(functionID, id string) *heldObserver {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.client.registry.functionByID[functionID].observers.byID[id]
}

// hostedFunction returns a function that is marked as confirmed. There is no engine.
func hostedFunction(tb testing.TB) (*Client, *link, *Function) {
	tb.Helper()
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	f, err := c.HandleFunc("f", echo)
	if err != nil {
		tb.Fatal(err)
	}
	l := &link{client: c}
	l.choose(newestDialect)
	c.registry.mu.Lock()
	c.registry.link, f.standing = l, accepted
	c.registry.mu.Unlock()
	f.observers.confirmed.Store(l)
	return c, l, f
}

// testView returns an observer that selects all successful calls.
func testView(id string) ObserverView {
	return ObserverView{ID: id, Target: "t", Args: JSONValue("{}"), Filters: JSONValue("{}"), On: ObserveOnSuccess}
}

// waitUntil waits for a step of a goroutine that then blocks on a lock.
func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(waitLimit); !done(); runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatal("the goroutine does not go on")
		}
	}
}

// No call runs in process before the function's observers are known. Otherwise, they would not
// receive it.
func TestObserversPrecedeLocalDispatch(t *testing.T) {
	c, l, f := hostedFunction(t)
	views := []observerView{compileView(testView("a")), compileView(testView("b"))}
	confirmed := make(chan struct{})
	c.out.mu.Lock() // the ack of the first observer waits
	go func() {
		defer close(confirmed)
		c.hosts.confirm(l, f, &FunctionRegisteredMessage{ID: "f", LocalDispatch: true}, views)
	}()
	waitUntil(t, f.IsObserved)
	if f.LocalDispatch() {
		t.Errorf("local calls begin with %d of %d observers", len(f.Observers()), len(views))
	}
	c.out.mu.Unlock()
	<-confirmed
	if n := len(f.Observers()); !f.LocalDispatch() || n != len(views) {
		t.Errorf("local dispatch %v with %d observers", f.LocalDispatch(), n)
	}
}

// The engine ignores messages that refer to an observer whose ack it has not received. Calls and
// reports therefore follow the ack.
func TestMessagesAboutAnObserverFollowItsAck(t *testing.T) {
	for name, use := range map[string]func(*Client, *FunctionObserver){
		"call through the observer": func(_ *Client, o *FunctionObserver) { _ = o.callable() },
		"report": func(c *Client, o *FunctionObserver) {
			in := &incoming{function: o.held.of, local: true}
			b := newBuffer()
			c.reportCall(t.Context(), in, in.observe(), b, nil)
		},
		"result": func(c *Client, o *FunctionObserver) {
			c.hosts.choose(o.held.of, o.held.of.observers.current.Load(), &ObservedCall{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, l, f := hostedFunction(t)
			v := compileView(testView("a"))
			c.out.mu.Lock() // the ack waits
			go c.hosts.announce(l, f, &v, 1)
			waitUntil(t, f.IsObserved)
			used := make(chan struct{})
			go func() {
				defer close(used)
				use(c, f.Observers()[0])
			}()
			for range 1000 {
				runtime.Gosched()
			}
			select {
			case <-used:
				t.Error("the observer was used before its ack was sent")
			default:
			}
			c.out.mu.Unlock()
			<-used
		})
	}
}

func TestSetsAreBounded(t *testing.T) {
	c, l, f := hostedFunction(t)
	v := compileView(ObserverView{Target: "t", Args: JSONValue("{}"), Filters: JSONValue("{}"), On: "unknown"})
	for i := range maxHeldObservers + 1 {
		v.ID = fmt.Sprint(i)
		c.hosts.announce(l, f, &v, uint64(i+1))
	}
	if n := len(f.Observers()); n != maxHeldObservers {
		t.Errorf("%d observers", n)
	}
}

// FuzzHostMessages passes arbitrary messages from the engine to the client. The client must
// not panic, and its set of observers must stay consistent.
func FuzzHostMessages(f *testing.F) {
	for _, seed := range []string{
		`{"type":"functionregistered","id":"f","revision":1,"observers":[{"id":"a","target":"t"},{"id":"a","target":"u","args":{"b":1}}]}`,
		`{"type":"observeradded","function_id":"f","revision":2,"observer":{"id":"a","target":"t","capture":[],"on":"never","filters":{"input.x":{"$eq":1}}}}`,
		`{"type":"observeradded","function_id":"f","revision":2,"observer":{"id":"a","target":"t","filters":{"x":1}}}`,
		`{"type":"observeradded","function_id":"f","revision":2,"observer":null}`,
		`{"type":"observerremoved","function_id":"f","revision":3,"id":"a"}`,
		`{"type":"functionregistered","id":"f","revision":1,"local_dispatch":true,"observers":null}`,
		`{"type":"registrationrejected","code":"X","namespace":"default","owner_worker_id":"","function_id":"f"}`,
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		c, l, f := hostedFunction(t)
		for _, message := range []string{first, second} {
			var m received
			if m.parse([]byte(message)) != nil || m.kind < messageFunctionRegistered && m.kind != messageRejected {
				continue
			}
			var rejected RegistrationRejectedMessage
			if m.kind == messageRejected && json.Unmarshal([]byte(message), &rejected) == nil && rejected.FunctionID == "" {
				continue // ends the link, which needs a socket
			}
			_, _ = l.dialect().receive(c, l, m.kind, []byte(message))
		}
		active := map[string]bool{}
		for _, o := range f.Observers() {
			if !o.Active() || active[o.ID] {
				t.Errorf("observer %q: active %t, twice %t", o.ID, o.Active(), active[o.ID])
			}
			active[o.ID] = true
		}
		if len(active) != len(f.observers.byID) || f.IsObserved() != (len(active) > 0) {
			t.Errorf("%d active, %d held, observed %t", len(active), len(f.observers.byID), f.IsObserved())
		}
	})
}

func FuzzWithoutParent(f *testing.F) {
	f.Add(`{"worker_id":"w","worker_name":"n","function_id":"f","invocation_id":"i","parent":{"worker_id":"p"},"x":[1]}`)
	f.Add(`{"worker_id":null,"parent":1}`)
	f.Add(`"text"`)
	f.Fuzz(func(t *testing.T, caller string) {
		if !json.Valid([]byte(caller)) {
			return
		}
		got := withoutParent([]byte(caller))
		if got == nil {
			return
		}
		var want, have Caller
		if err := json.Unmarshal(got, &have); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if have.Parent != nil || json.Unmarshal([]byte(caller), &want) != nil || strings.Contains(caller, `\`) {
			return
		}
		if want.Parent = nil; strings.Count(caller, ":") <= 1 && want != have {
			t.Errorf("%s: %+v, not %+v", caller, have, want)
		}
	})
}

// Access control may rename a function when it is registered. From then on, the client and the
// engine refer to the function by its new id. A late reply about a function that has been
// unregistered must not be mistaken for such a rename.
func TestRenamedFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{script: script{message: func(c *peerConn, m *peerMessage) bool {
			switch {
			case m.Type != "registerfunction":
				return false
			case m.ID == "late::f":
				time.Sleep(time.Millisecond) // reply after late::f is unregistered and f is registered again
				c.send(`{"type":"functionregistered","id":"late::f","namespace":"default","revision":1}`)
			default:
				c.send(fmt.Sprintf(`{"type":"functionregistered","id":"tenant::%s","namespace":"default","revision":1,"local_dispatch":true,"observers":[%s]}`, m.ID, view("o", `{}`)))
			}
			return true
		}}})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		began := time.Now()
		connectHost(t, c)
		synctest.Wait()
		if took := time.Since(began); took > 0 || !f.LocalDispatch() || !f.IsObserved() {
			t.Errorf("connected after %v, in process %v, observed %v", took, f.LocalDispatch(), f.IsObserved())
		}
		if ack := p.messages(0, "observerack"); len(ack) != 1 || !strings.Contains(string(ack[0].Raw), `"function_id":"tenant::f"`) {
			t.Errorf("acks %v", ack)
		}
		if got := p.outcome(p.conn(0).invoke("tenant::f", "1")); got != "1" {
			t.Errorf("invoked by its new id: %s", got)
		}
		if _, err := Call[int](t.Context(), c, "tenant::f", 2); err != nil || c.Stats().LocalCalls != 1 {
			t.Errorf("%d local calls, error %v", c.Stats().LocalCalls, err)
		}
		p.conn(0).added("tenant::f", 2, view("p", `{}`))
		time.Sleep(time.Second)
		if got := len(f.Observers()); got != 2 {
			t.Errorf("%d observers", got)
		}
		if reports := p.messages(0, "invocationsobserved"); len(reports) != 1 || !strings.Contains(string(reports[0].Raw), `"function_id":"tenant::f"`) {
			t.Errorf("reports %v", reports)
		}
		if err := f.Unregister(); err != nil {
			t.Fatal(err)
		}
		if err := hostFunc(t, c, "late::f", echo).Unregister(); err != nil {
			t.Fatal(err)
		}
		hostFunc(t, c, "f", echo)
		time.Sleep(time.Second)
		for id, want := range map[string]string{"late::f": CodeFunctionNotFound, "tenant::f": "1"} {
			if got := p.outcome(p.conn(0).invoke(id, "1")); !strings.HasPrefix(got, want) {
				t.Errorf("%s, registered again: %s, want %s", id, got, want)
			}
		}
	})
}

// After f has been unregistered, a rejection of a::f must not be mistaken for the reply to f's
// registration.
func TestRejectionOfIDWithSameSuffix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{script: script{message: func(c *peerConn, m *peerMessage) bool {
			switch {
			case m.Type != "registerfunction":
				return false
			case m.ID == "a::f":
				time.Sleep(time.Millisecond) // reply after the client has sent everything
				c.send(functionConflict("a::f"))
			default:
				c.send(fmt.Sprintf(`{"type":"functionregistered","id":%q,"namespace":"default","revision":0}`, m.ID))
			}
			return true
		}}})
		c := p.client()
		connectHost(t, c)
		refused := hostFunc(t, c, "a::f", echo)
		if err := hostFunc(t, c, "f", echo).Unregister(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var r *RejectedError
		if err := refused.Err(); !errors.As(err, &r) || r.FunctionID != "a::f" {
			t.Errorf("the function owned by another worker: %v", err)
		}
	})
}

// The reply to a withdrawn registration does not affect the next registration of the same id.
func TestReplyToWithdrawnRegistration(t *testing.T) {
	for name, first := range map[string]string{
		"accepted": `{"type":"functionregistered","id":"f","namespace":"default","revision":0}`,
		"rejected": `{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":"f","owner_worker_id":"w"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				var mu sync.Mutex
				var held []*peerMessage // pings to reply to after the second registration
				p := newHostPeer(t, hostScript{script: script{message: func(c *peerConn, m *peerMessage) bool {
					switch {
					case m.Type == "observe":
						c.send(fmt.Sprintf(`{"type":"observeresult","id":%q,"state":"pending"}`, m.ID))
						return true
					case m.Type == "registerfunction":
						if attempts++; attempts == 1 {
							time.Sleep(time.Millisecond) // reply after the client has sent everything
							c.send(first)
							return true
						}
						time.AfterFunc(time.Second, func() {
							c.send(`{"type":"functionregistered","id":"f","namespace":"default","revision":0,"local_dispatch":true}`)
							mu.Lock()
							defer mu.Unlock()
							for _, m := range held {
								c.answer(m)
							}
						})
						mu.Lock()
						defer mu.Unlock()
						held = []*peerMessage{}
						return true
					case m.Type == "ping":
						mu.Lock()
						defer mu.Unlock()
						if held == nil {
							return false
						}
						held = append(held, m)
						return true
					}
					return false
				}}})
				c := p.client()
				connectHost(t, c)
				if err := hostFunc(t, c, "f", echo).Unregister(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				f := hostFunc(t, c, "f", echo)
				if _, err := c.Trigger("f", StateTriggerConfig{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(500 * time.Millisecond)
				if n := len(p.messages(0, "observe")); n > 0 || f.Err() != nil {
					t.Errorf("after the first reply: %d observers, error %v", n, f.Err())
				}
				time.Sleep(time.Second)
				if observers := p.messages(0, "observe"); len(observers) != 1 || f.Err() != nil || !f.LocalDispatch() {
					t.Errorf("%v after registration: %d observers, error %v", time.Since(began), len(observers), f.Err())
				}
				if attempts != 2 {
					t.Errorf("registered %d times", attempts)
				}
			})
		})
	}
}
