package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// slowPongs delays the pong to each ping.
func slowPongs(delay time.Duration) func(c *peerConn, m *peerMessage) bool {
	return func(c *peerConn, m *peerMessage) bool {
		if m.Type != "ping" {
			return false
		}
		time.AfterFunc(delay, func() { c.send(`{"type":"pong"}`) })
		return true
	}
}

func nothing(context.Context, json.RawMessage) (any, error) { return nil, nil }

func mustHandle(t *testing.T, c *Client, id string) *Function {
	t.Helper()
	f, err := c.HandleFunc(id, nothing)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustTrigger(t *testing.T, c *Client, functionID, id string) *Trigger {
	t.Helper()
	trigger, err := c.Trigger(functionID, SubscribeTriggerConfig{Topic: functionID}, WithTriggerID(id))
	if err != nil {
		t.Fatal(err)
	}
	return trigger
}

// sequence returns the messages of connection n in order. Each entry is the id of a
// registration, "ping", or "call" followed by the id of the function.
func (p *peer) sequence(n int) (list []string) {
	for _, m := range p.messages(n, "registerfunction", "registertrigger", "ping", "invokefunction") {
		switch {
		case m.FunctionID == registerWorkerFunction:
		case m.Type == "ping":
			list = append(list, "ping")
		case m.Type == "invokefunction":
			list = append(list, "call "+m.FunctionID)
		default:
			list = append(list, m.ID)
		}
	}
	return list
}

func TestConnectReturnsBehindTheLastTrigger(t *testing.T) {
	for _, n := range []int{0, 1, 2, 100} {
		t.Run(fmt.Sprint(n, " triggers"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{message: slowPongs(time.Second)})
				c := p.client()
				want := []string{"f"}
				mustHandle(t, c, "f")
				want = append(want, "ping")
				for i := range n {
					mustTrigger(t, c, "f", fmt.Sprint("t", i))
					want = append(want, fmt.Sprint("t", i))
				}
				want = append(want, "ping")
				began := time.Now()
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != 2*time.Second {
					t.Errorf("connected after %v, want two pongs of one second each", took)
				}
				if diff := cmp.Diff(want, p.sequence(0)); diff != "" {
					t.Errorf("sent when Connect returns (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The client retries a rejected registration while the engine is busy with later ones. The
// pong to a ping sent after the first attempt must not confirm the second attempt.
func TestLateFenceDoesNotAcceptRetries(t *testing.T) {
	for _, late := range []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reject := rejecting(func(id string) bool { return id == "f" })
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
					if m.ID == "slow" {
						time.Sleep(late)
					}
					return reject(c, m)
				}})
				var mu sync.Mutex
				var told []error
				c := p.client(WithStateListener(func(_ ConnectionState, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						told = append(told, err)
					}
				}))
				f := mustHandle(t, c, "f")
				mustHandle(t, c, "slow")
				mustTrigger(t, c, "f", "t")
				go func() {
					if err := c.Connect(t.Context()); err != nil {
						t.Error(err)
					}
				}()
				for range 20_000 {
					if time.Sleep(time.Millisecond); f.Err() == nil {
						t.Fatal("the rejected function counts as accepted")
					}
				}
				if sent := p.messages(0, "registertrigger"); len(sent) > 0 {
					t.Errorf("%d triggers of the rejected function were sent", len(sent))
				}
				if n := len(p.messages(0, "registerfunction")); n < 10 {
					t.Errorf("%d attempts in 20 s", n)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(told) != 1 {
					t.Errorf("the listener received %v, want the rejection once", told)
				}
			})
		})
	}
}

// A call is sent after all triggers that were registered before it, even while pings are
// pending.
func TestCallsFollowTriggersWhileFencesAreOutstanding(t *testing.T) {
	send := func(t *testing.T, c *Client, id string) {
		t.Helper()
		if err := c.Send(t.Context(), id, nil); err != nil {
			t.Error(err)
		}
	}
	follows := func(t *testing.T, p *peer, pairs ...string) {
		t.Helper()
		got := p.sequence(0)
		for i := 0; i < len(pairs); i += 2 {
			a, b := slices.Index(got, pairs[i]), slices.Index(got, pairs[i+1])
			if a < 0 || b < a {
				t.Errorf("%s does not follow %s: %q", pairs[i+1], pairs[i], got)
			}
		}
	}
	t.Run("connected", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{message: slowPongs(time.Second)})
			c := p.connected()
			mustHandle(t, c, "first") // its ping is pending
			mustHandle(t, c, "a")
			mustTrigger(t, c, "a", "ta")
			send(t, c, "one")
			time.Sleep(1500 * time.Millisecond)
			mustHandle(t, c, "b")
			mustTrigger(t, c, "b", "tb")
			send(t, c, "two")
			time.Sleep(10 * time.Second)
			follows(t, p, "a", "ta", "ta", "call one", "b", "tb", "tb", "call two")
			if got := p.sequence(0); slices.Index(got, "call one") > slices.Index(got, "tb") {
				t.Errorf("the first call waited for a later trigger: %q", got)
			}
		})
	})
	t.Run("connecting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{message: slowPongs(time.Second)})
			c := p.client()
			mustHandle(t, c, "first")
			connected := make(chan error, 1)
			go func() { connected <- c.Connect(t.Context()) }()
			for _, id := range []string{"a", "b", "c"} { // one in each phase of connecting
				time.Sleep(700 * time.Millisecond)
				mustHandle(t, c, id)
				mustTrigger(t, c, id, "t"+id)
				send(t, c, "for "+id)
			}
			if err := <-connected; err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			follows(t, p, "ta", "call for a", "tb", "call for b", "tc", "call for c")
			if n := c.Stats().Buffered; n != 0 {
				t.Errorf("%d requests are still buffered", n)
			}
		})
	})
	t.Run("again and again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{message: slowPongs(100 * time.Millisecond)})
			c := p.connected()
			var calls sync.WaitGroup
			defer calls.Wait()
			for i := range 300 { // one trigger is always pending
				mustHandle(t, c, fmt.Sprint("f", i))
				mustTrigger(t, c, fmt.Sprint("f", i), fmt.Sprint("t", i))
				began := time.Now()
				if i%10 == 0 {
					calls.Go(func() {
						if err := c.Call(t.Context(), "x", nil, nil); err != nil || time.Since(began) > time.Second {
							t.Errorf("call %d: %v after %v", i, err, time.Since(began))
						}
					})
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	})
}

// If two triggers have the same route, the last one wins. Triggers must therefore be sent in
// order, even while one of them is waiting for its function.
func TestTriggersKeepTheirOrderWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{message: slowPongs(time.Second)})
		c := p.connected()
		mustHandle(t, c, "f")
		mustTrigger(t, c, "f", "t0")
		mustTrigger(t, c, "others", "t1")
		mustTrigger(t, c, "f", "t2")
		time.Sleep(10 * time.Second)
		if got := p.sequence(0); !slices.Equal(got[len(got)-6:], []string{"f", "ping", "t0", "t1", "t2", "ping"}) {
			t.Errorf("sent %q", got)
		}
		mustTrigger(t, c, "f", "t3") // does not have to wait
		synctest.Wait()
		if got := p.sequence(0); !slices.Equal(got[len(got)-2:], []string{"t3", "ping"}) {
			t.Errorf("sent %q", got)
		}
	})
}

// rejecting returns a script that rejects the functions for which refuse returns true.
func rejecting(refuse func(id string) bool) func(c *peerConn, m *peerMessage) bool {
	return func(c *peerConn, m *peerMessage) bool {
		if m.Type == "registerfunction" && refuse(m.ID) {
			c.send(fmt.Sprintf(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":%q,"owner_worker_id":"other"}`, m.ID))
		}
		return false
	}
}

// Retries of rejected functions do not delay other functions' triggers.
func TestRefusedFunctionsDelayNoOtherTriggers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pongs, reject := slowPongs(500*time.Millisecond), rejecting(func(id string) bool { return strings.HasPrefix(id, "held") })
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool { return pongs(c, m) || reject(c, m) }})
		c := p.connected()
		for i := range 500 {
			id := fmt.Sprint("held", i)
			mustHandle(t, c, id)
			mustTrigger(t, c, id, "t"+id)
		}
		time.Sleep(5 * time.Second)
		for i := range 20 {
			began := time.Now()
			mustTrigger(t, c, "others", fmt.Sprint("t", i))
			if err := c.Call(t.Context(), "x", nil, nil); err != nil || time.Since(began) > time.Second {
				t.Errorf("call after trigger %d: %v after %v", i, err, time.Since(began))
			}
			if got := p.sequence(0); !slices.Contains(got, fmt.Sprint("t", i)) {
				t.Errorf("trigger %d waits", i)
			}
			time.Sleep(333 * time.Millisecond)
		}
	})
}

// Unregistering a function does not affect the triggers that are waiting for it: they are sent
// if the engine accepts the function, and fail if it rejects the function.
func TestTriggersOfAnUnregisteredFunction(t *testing.T) {
	for _, test := range []struct {
		name    string
		refused bool
		wait    time.Duration // until the function is unregistered; the engine replies after one second
		sent    bool
	}{
		{"refused", true, 10 * time.Second, false},
		{"refused, and not known yet", true, 500 * time.Millisecond, false},
		{"accepted", false, 10 * time.Second, true},
		{"accepted, and not known yet", false, 500 * time.Millisecond, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refuse atomic.Bool
				refuse.Store(test.refused)
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
					if m.Type == "registerfunction" && refuse.Load() {
						time.AfterFunc(time.Second, func() { rejecting(func(string) bool { return true })(c, m) })
						return true
					}
					return slowPongs(time.Second+1)(c, m)
				}})
				c := p.connected()
				f := mustHandle(t, c, "f")
				trigger := mustTrigger(t, c, "f", "t")
				time.Sleep(test.wait)
				if err := f.Unregister(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				sent := func() bool { return len(p.messages(-1, "registertrigger")) > 0 }
				if sent() != test.sent {
					t.Errorf("the trigger was sent: %v, want %v", sent(), test.sent)
				}
				var rejected *RejectedError
				if err := trigger.Err(); errors.As(err, &rejected) == test.sent {
					t.Errorf("Err of the trigger = %v", err)
				}
				_ = p.conn(0).Close()
				time.Sleep(20 * time.Second)
				if sent() != test.sent {
					t.Errorf("on the next connection the trigger was sent: %v, want %v", sent(), test.sent)
				}
				refuse.Store(false)
				mustHandle(t, c, "f")
				time.Sleep(10 * time.Second)
				if !sent() || trigger.Err() != nil {
					t.Errorf("the trigger does not follow the new function: %v", trigger.Err())
				}
				if err := trigger.Unregister(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The rejection of an unregistered function may arrive after a function with the same id has
// been registered.
func TestRejectionOfEarlierRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
			if m.Type != "registerfunction" {
				return slowPongs(time.Second+1)(c, m)
			}
			if attempts++; attempts == 1 {
				time.AfterFunc(time.Second, func() { rejecting(func(string) bool { return true })(c, m) })
			}
			return true
		}})
		c := p.connected()
		first := mustHandle(t, c, "f")
		synctest.Wait() // until the ping for the first attempt has been sent
		if err := first.Unregister(); err != nil {
			t.Fatal(err)
		}
		second := mustHandle(t, c, "f")
		mustTrigger(t, c, "f", "t")
		time.Sleep(10 * time.Second)
		if second.Err() != nil || len(p.messages(0, "registertrigger")) != 1 {
			t.Errorf("Err = %v, %d triggers sent", second.Err(), len(p.messages(0, "registertrigger")))
		}
		if attempts != 2 {
			t.Errorf("%d attempts, want 2: the rejection belonged to the first", attempts)
		}
	})
}

// Shutdown unregisters pending triggers instead of waiting for them.
func TestShutdownWhileTriggersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{message: slowPongs(time.Second)})
		c := p.connected()
		mustHandle(t, c, "a") // its ping is pending
		mustHandle(t, c, "b")
		mustTrigger(t, c, "b", "tb")
		if err := c.Send(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Shutdown(t.Context()); err != nil || time.Since(began) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := p.sequence(0); !slices.Contains(got, "call x") || slices.Contains(got, "tb") {
			t.Errorf("sent %q", got)
		}
		if s := c.Stats(); s.SendsConfirmed != 1 || s.SendsDropped != 0 || s.SendsUnknown != 0 {
			t.Errorf("of one Send: %+v", s)
		}
	})
}

// A shutdown that begins while functions await the engine's response sends the buffered messages
// nevertheless.
func TestShutdownWhileFunctionsWait(t *testing.T) {
	for name, features := range map[string]string{"0.23": "", "0.25": featuresV1, "0.26": featuresV2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				p := newHostPeer(t, hostScript{features: func(int) string { return features }, script: script{message: func(_ *peerConn, m *peerMessage) bool {
					if m.Type == "registerfunction" {
						<-release
					}
					return false
				}}})
				c := p.client()
				hostFunc(t, c, "f", echo)
				if err := c.Send(t.Context(), "x", nil); err != nil {
					t.Fatal(err)
				}
				go func() { _ = c.Connect(t.Context()) }()
				p.find("registration", func(m *peerMessage) bool { return m.Type == "registerfunction" })
				worker := p.find("worker", func(m *peerMessage) bool { return m.FunctionID == registerWorkerFunction })
				p.conn(0).result(worker, `{"success":true}`)
				synctest.Wait()
				began, ended := time.Now(), make(chan error, 1)
				go func() { ended <- c.Shutdown(t.Context()) }()
				synctest.Wait()
				close(release)
				if err := <-ended; err != nil || time.Since(began) > time.Second {
					t.Errorf("Shutdown: %v after %v", err, time.Since(began))
				}
				if s := c.Stats(); s.SendsConfirmed != 1 || s.SendsDropped != 0 {
					t.Errorf("of one Send: %+v", s)
				}
			})
		})
	}
}

// Requests that are waiting for a trigger are sent even if the connection is lost in the
// meantime. While the client is connected, requests beyond the limit set by WithSendBuffer
// block instead of failing.
func TestRequestsWaitingForTrigger(t *testing.T) {
	t.Run("the connection dies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{message: slowPongs(time.Second)})
			c := p.connected()
			mustHandle(t, c, "f")
			mustTrigger(t, c, "f", "t")
			if err := c.Send(t.Context(), "sent", nil); err != nil {
				t.Fatal(err)
			}
			called := make(chan error, 1)
			go func() { called <- c.Call(t.Context(), "called", nil, nil) }()
			synctest.Wait()
			_ = p.conn(0).Close()
			if err := <-called; err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			if got := p.sequence(1); !slices.Equal(got, []string{"f", "ping", "t", "call sent", "call called", "ping", "ping"}) {
				t.Errorf("sent on the next connection: %q", got)
			}
			if s := c.Stats(); s.SendsConfirmed != 1 || s.Buffered != 0 {
				t.Errorf("%+v", s)
			}
		})
	})
	t.Run("there are many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{message: slowPongs(time.Second)})
			c := p.connected(WithSendBuffer(10, 1<<20))
			mustHandle(t, c, "f")
			mustTrigger(t, c, "f", "t")
			began := time.Now()
			for i := range 100 {
				if err := c.Send(t.Context(), fmt.Sprint("x", i), nil); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				if n := c.Stats().Buffered; n > 10 {
					t.Fatalf("%d messages wait", n)
				}
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("sent after %v", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			mustHandle(t, c, "g")
			mustTrigger(t, c, "g", "tg")
			if err := c.Call(ctx, "late", nil, nil); !errors.Is(err, context.DeadlineExceeded) || !SafeToRetry(err) {
				t.Errorf("a call whose context expires while it waits: %v", err)
			}
			time.Sleep(10 * time.Second)
			if got := p.sequence(0); slices.Contains(got, "call late") {
				t.Error("the call was sent afterward")
			}
			if n := c.Stats().Buffered; n != 0 {
				t.Errorf("%d requests are still buffered", n)
			}
		})
	})
	t.Run("the function is refused or taken back", func(t *testing.T) {
		for _, how := range []string{"refused", "taken back"} {
			synctest.Test(t, func(t *testing.T) {
				pongs, reject := slowPongs(time.Second), rejecting(func(string) bool { return how == "refused" })
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool { return pongs(c, m) || reject(c, m) }})
				c := p.connected()
				f := mustHandle(t, c, "f")
				mustTrigger(t, c, "f", "t")
				if how == "taken back" {
					if err := f.Unregister(); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				if err := c.Call(t.Context(), "x", nil, nil); err != nil || time.Since(began) > 2*time.Second {
					t.Errorf("%s: %v after %v", how, err, time.Since(began))
				}
			})
		}
	})
}

// slowConn takes a second for each large write.
type slowConn struct{ net.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	if len(p) > 32<<10 {
		time.Sleep(time.Second)
	}
	return c.Conn.Write(p)
}

// A ping's timeout does not start while the ping is waiting behind a large upload.
func TestSlowUploadDoesNotEndTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.connected(WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := p.mem.DialContext(ctx, network, addr)
			return slowConn{conn}, err
		}))
		uploaded := make(chan error, 1)
		go func() {
			uploaded <- c.Call(t.Context(), "x", strings.Repeat("x", 2<<20), nil, WithTimeout(time.Minute))
		}()
		time.Sleep(time.Second)
		mustHandle(t, c, "f")
		mustTrigger(t, c, "f", "t")
		began := time.Now()
		if err := <-uploaded; err != nil || time.Since(began) < registerTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		time.Sleep(time.Second)
		if n := c.Stats().Reconnects; n != 0 || len(p.messages(0, "registertrigger")) != 1 {
			t.Errorf("%d reconnections, triggers sent: %d", n, len(p.messages(0, "registertrigger")))
		}
	})
}

// If a route is rejected because another worker owns it, the error is reported once per
// connection, however often the client retries. Any other rejection is reported whenever it
// occurs.
func TestTriggerErrorHandlerIsCalledOnEachConnection(t *testing.T) {
	for name, test := range map[string]struct {
		triggerType, message string
	}{
		"held route": {"http", "Path '/users/:id' conflicts with already-registered route '/users/:user_id'"},
		"bad config": {"cron", "invalid expression"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
					if m.Type == "registertrigger" {
						c.send(fmt.Sprintf(`{"type":"triggerregistrationresult","id":%q,"trigger_type":%q,"function_id":"f","error":{"code":"trigger_registration_failed","message":%q}}`,
							m.ID, test.triggerType, test.message))
					}
					return false
				}})
				c := p.connected()
				calls := make(chan error, 1000)
				var cfg TriggerConfig = HTTPTriggerConfig{APIPath: "/users/:id", HTTPMethod: "GET"}
				if test.triggerType == "cron" {
					cfg = CronTriggerConfig{Expression: "* * * 99 * *"}
				}
				mustHandle(t, c, "f")
				trigger, err := c.Trigger("f", cfg, WithTriggerErrorHandler(func(err error) { calls <- err }))
				if err != nil {
					t.Fatal(err)
				}
				for n := range 3 {
					time.Sleep(time.Minute)
					if len(calls) != n+1 || trigger.Err() == nil {
						t.Errorf("on connection %d the handler was called %d times in all; Err = %v", n, len(calls), trigger.Err())
					}
					_ = p.conn(n).Close()
				}
			})
		})
	}
}

// When one owner disconnects, the client asks the engine which of the other owners are still
// connected.
func TestFunctionsOfManyOwnersAreTakenOver(t *testing.T) {
	const n = 1000
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		gone := false
		var attempts []time.Time
		p := newPeer(t, script{
			message: func(c *peerConn, m *peerMessage) bool {
				mu.Lock()
				defer mu.Unlock()
				if m.Type == "registerfunction" {
					attempts = append(attempts, time.Now())
				}
				if m.Type == "registerfunction" && (!gone || m.ID == "f0") { // its owner is connected but not listed
					c.send(fmt.Sprintf(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":%q,"owner_worker_id":"owner of %s"}`, m.ID, m.ID))
				}
				return false
			},
			call: func(_ *peerConn, m *peerMessage) string {
				if m.FunctionID == "engine::workers::list" {
					return `{"workers":[]}`
				}
				return "null"
			},
		})
		c := p.client()
		var functions []*Function
		for i := range n {
			functions = append(functions, mustHandle(t, c, fmt.Sprint("f", i)))
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		refused := func() (k int) {
			for _, f := range functions {
				if f.Err() != nil {
					k++
				}
			}
			return k
		}
		time.Sleep(time.Minute)
		if k := refused(); k != n {
			t.Fatalf("%d functions are refused", k)
		}
		mu.Lock()
		gone = true
		mu.Unlock()
		began := time.Now()
		for refused() > 1 && time.Since(began) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%d functions are refused after %v", refused(), took)
		}
		mu.Lock()
		attempts = nil
		mu.Unlock()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(attempts) > 40 || len(attempts) < 25 {
			t.Errorf("%d attempts in a minute for the one function whose owner is connected", len(attempts))
		}
	})
}

// A worker that had to wait for its name registers its functions only once, even if the engine
// responds slowly.
func TestWorkerReceivesItsNameLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
			switch {
			case m.FunctionID != registerWorkerFunction:
			case c.n == 0:
				c.send(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"default","worker_name":"w","owner_worker_id":"other"}`)
				return true
			default:
				time.AfterFunc(registerTimeout+time.Second, func() { c.result(m, `{"success":true}`) })
				return true
			}
			return false
		}})
		c := p.client(WithName("w"), WithWaitForName())
		mustHandle(t, c, "f")
		mustTrigger(t, c, "f", "t")
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := p.sequence(1); !slices.Equal(got, []string{"f", "ping", "t", "ping"}) {
			t.Errorf("sent %q", got)
		}
	})
}
