package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/wsconn"
)

// watch collects what a client's state listener is told.
type watch struct {
	mu      sync.Mutex
	changed chan struct{}
	events  []watched
}

type watched struct {
	state ConnectionState
	err   error
	at    time.Time
}

func newWatch() *watch { return &watch{changed: make(chan struct{})} }

func (w *watch) option() Option {
	return WithStateListener(func(s ConnectionState, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, watched{s, suite.note(err), time.Now()})
		close(w.changed)
		w.changed = make(chan struct{})
	})
}

// wait returns the first event from the from-th on that matches, and its number.
func (w *watch) wait(tb testing.TB, from int, match func(watched) bool) (watched, int) {
	tb.Helper()
	for {
		w.mu.Lock()
		events, changed := w.events, w.changed
		w.mu.Unlock()
		for ; from < len(events); from++ {
			if match(events[from]) {
				return events[from], from
			}
		}
		select {
		case <-changed:
		case <-time.After(10 * waitLimit):
			tb.Fatalf("the state listener was not told; it knows %v", events)
		}
	}
}

func (w *watch) all() []watched {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events
}

func isState(s ConnectionState) func(watched) bool {
	return func(e watched) bool { return e.state == s }
}

// registerMany registers functions f::0 … and, with each tenth, a trigger, and
// returns the ids in the order in which they are to come: functions, then triggers, each
// in the order of the program.
func registerMany(tb testing.TB, c *Client, n int) (ids []string) {
	tb.Helper()
	var triggers []string
	for i := range n {
		id := fmt.Sprintf("f::%d", i)
		if _, err := c.HandleFunc(id, func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }); err != nil {
			tb.Fatal(err)
		}
		if ids = append(ids, id); i%10 == 9 {
			trigger := fmt.Sprintf("t::%d", i)
			if _, err := c.Trigger(id, CustomTrigger{Type: "custom"}, WithTriggerID(trigger)); err != nil {
				tb.Fatal(err)
			}
			triggers = append(triggers, trigger)
		}
	}
	return append(ids, triggers...)
}

// TestR1NeverWedged cuts connections at random bytes, in random directions, while
// the client registers and calls: it is connected again within the current delay
// and the dial limit, and has registered everything.
func TestR1NeverWedged(t *testing.T) {
	longest := time.Duration(0)
	for i := range scale(100, 1000) {
		seed := uint64(i + 1)
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { longest = max(longest, neverWedged(t, seed)) })
		}) {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("longest time from a cut to readiness: %v", longest)
}

func neverWedged(t *testing.T, seed uint64) (longest time.Duration) {
	r := rand.New(rand.NewPCG(seed, 1))
	n := int(math.Exp(r.Float64() * math.Log(2000)))
	cuts := 1 + r.IntN(4)
	plans := make([]enginetest.FaultPlan, cuts)
	for i := range plans {
		end := enginetest.FaultEnd(r.IntN(2)) // reset or close
		if r.IntN(3) == 0 {
			plans[i].In = enginetest.Fault{Limited: true, Limit: r.Int64N(700), Then: end}
		} else {
			plans[i].Out = enginetest.Fault{Limited: true, Limit: r.Int64N(int64(600 + 120*n)), Then: end}
		}
		if r.IntN(4) == 0 {
			plans[i].Out.Slice, plans[i].In.Slice = 1+r.IntN(500), 1+r.IntN(100)
		}
	}
	p := newPeer(t, script{})
	proxy := p.proxy(seed, func(n int) enginetest.FaultPlan {
		if n < cuts {
			return plans[n]
		}
		return enginetest.FaultPlan{}
	})
	w := newWatch()
	c := p.client(WithDialContext(proxy.DialContext), w.option())
	ids := registerMany(t, c, n)

	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	for range 4 {
		traffic.Go(func() {
			for ctx.Err() == nil {
				_, _ = Call[int](ctx, c, "x::y", 1, WithTimeout(time.Second))
				_ = c.Send(ctx, "x::z", 1)
				time.Sleep(50 * time.Millisecond) // of the bubble
			}
		})
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The cuts that the registrations did not reach come out of the blue.
	links := proxy.Connections
	from := 0
	for links() <= cuts {
		time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
		if n := links(); n <= cuts && c.State() == ConnectionStateConnected {
			_, from = w.wait(t, from, isState(ConnectionStateConnected))
			proxy.Last().End(enginetest.FaultReset)
			_, from = w.wait(t, from+1, isState(ConnectionStateConnected))
		}
	}
	stop()
	traffic.Wait()
	if c.State() != ConnectionStateConnected {
		w.wait(t, len(w.all()), isState(ConnectionStateConnected))
	}

	// A connection that is cut before it is ready doubles the next delay.
	var cut, failures = time.Time{}, 0
	for _, e := range w.all() {
		switch {
		case e.state == ConnectionStateReconnecting && e.err != nil && !isLost(e.err):
			if failures++; cut.IsZero() {
				cut = e.at
			}
			if limit := bound(failures); e.at.Sub(cut) > limit {
				t.Errorf("still not connected %v after a cut", e.at.Sub(cut))
			}
			cut = e.at
		case e.state == ConnectionStateConnected && !cut.IsZero():
			took := e.at.Sub(cut)
			if limit := bound(failures); took > limit {
				t.Errorf("connected %v after a cut, the limit is %v", took, limit)
			}
			longest = max(longest, took)
			cut, failures = time.Time{}, 0
		}
	}
	var got []string
	for _, m := range p.messages(len(p.conns)-1, "registerfunction", "registertrigger") {
		got = append(got, m.ID)
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("%d of %d registrations on the last connection, or out of order", len(got), len(ids))
	}
	return longest
}

func isLost(err error) bool {
	var lost *LostSendsError
	return errors.As(err, &lost)
}

// bound is the longest delay after so many failures, and the dial limit.
func bound(failures int) time.Duration {
	return time.Duration(1.3*float64(time.Second)*math.Pow(2, float64(failures-1))) + wsconn.DialTimeout
}

// TestR3DelayStartsAgain measures the gaps between connections: after each one that
// was ready the first step, after each that was not the next.
func TestR3DelayStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		p.connected()
		for i := range 7 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			p.conn(i).Cut()
			cut := time.Now()
			p.conn(i + 1)
			if gap := time.Since(cut); gap < 700*time.Millisecond || gap > 1300*time.Millisecond {
				t.Errorf("gap %d: %v, want 1s ± 30 %%", i, gap)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		p := newPeer(t, script{refuse: func(int, *http.Request) int {
			dials = append(dials, time.Now())
			return http.StatusServiceUnavailable
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
		defer cancel()
		err := suite.note(p.client().Connect(ctx))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") {
			t.Errorf("Connect: %v", err)
		}
		for i, step := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
			step *= time.Second
			gap := dials[i+1].Sub(dials[i])
			if low, high := step*7/10, min(step*13/10, 30*time.Second); gap < low || gap > high {
				t.Errorf("gap %d: %v, want %v to %v", i, gap, low, high)
			}
		}
	})
}

// TestR4SilentPeerIsNoticed is about peers that are there and say nothing.
func TestR4SilentPeerIsNoticed(t *testing.T) {
	// lost waits for the error that ended a connection and returns when it came.
	lost := func(t *testing.T, w *watch) watched {
		e, _ := w.wait(t, 0, func(e watched) bool { return e.err != nil })
		return e
	}
	t.Run("black hole after readiness", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{}), newWatch()
			c := p.connected(w.option())
			time.Sleep(7 * time.Second)
			synctest.Wait()
			resume := p.conn(0).StopReading()
			silent := time.Now()
			_, err := Call[int](t.Context(), c, "x::y", 1, WithTimeout(time.Hour))
			if took := time.Since(silent); !errors.Is(err, ErrConnectionLost) || took > 60*time.Second {
				t.Errorf("call: %v after %v", err, took)
			}
			if took := lost(t, w).at.Sub(silent); took > 60*time.Second {
				t.Errorf("noticed after %v", took)
			}
			p.conn(1)
			resume()
		})
	})
	t.Run("silence after the upgrade", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{greet: func(*peerConn) {}, noPong: true, message: func(*peerConn, *peerMessage) bool { return true }}), newWatch()
			c := p.client(w.option())
			began := time.Now()
			go func() { _ = c.Connect(t.Context()) }()
			if took := lost(t, w).at.Sub(began); took > 60*time.Second {
				t.Errorf("noticed after %v", took)
			}
		})
	})
	t.Run("pings", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{}), newWatch()
			c := p.connected(w.option())
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(w.all()) != 2 || c.State() != ConnectionStateConnected {
				t.Errorf("an idle hour: %v", w.all())
			}
			if n := p.conn(0).pings.Load(); n < 179 || n > 180 {
				t.Errorf("%d pings in an hour, want one each 20 s", n)
			}
		})
	})
	t.Run("slow large message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{noPong: true, call: func(_ *peerConn, m *peerMessage) string { return `"` + strings.Repeat("x", 3000) + `"` }}), newWatch()
			// Over two minutes for one answer, with nothing else coming in.
			proxy := p.proxy(1, func(int) enginetest.FaultPlan {
				return enginetest.FaultPlan{In: enginetest.Fault{Slice: 100, Rate: 25}}
			})
			c := p.client(WithDialContext(proxy.DialContext), w.option(), WithCallTimeout(time.Hour))
			go func() { _ = c.Connect(t.Context()) }()
			if _, err := Call[string](t.Context(), c, "x::y", 1); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	})
	t.Run("dial", func(t *testing.T) {
		for name, dial := range map[string]func(ctx context.Context) (net.Conn, error){
			"no connection": func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
			"no answer":     func(context.Context) (net.Conn, error) { near, _ := memnet.Pipe(1 << 20); return near, nil },
			"nobody reads":  func(context.Context) (net.Conn, error) { near, _ := memnet.Pipe(10); return near, nil },
			"a byte a second": func(context.Context) (net.Conn, error) {
				near, far := memnet.Pipe(1 << 20)
				go func() {
					for _, c := range []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n") {
						if _, err := far.Write([]byte{c}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				return near, nil
			},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWatch()
					c, err := New("ws://engine.test", WithLogger(testLogger), w.option(),
						WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					began := time.Now()
					go func() { _ = c.Connect(t.Context()) }()
					if took := lost(t, w).at.Sub(began); took != wsconn.DialTimeout {
						t.Errorf("dial given up after %v", took)
					}
					_ = c.Close()
					time.Sleep(time.Second) // in which the other side notices
				})
			})
		}
	})
	t.Run("write", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{}), newWatch()
			c := p.connected(w.option())
			resume := p.conn(0).StopReading()
			began := time.Now()
			for range 20 { // more than the pipe takes
				go func() { _ = c.Send(t.Context(), "x::y", strings.Repeat("x", 64<<10)) }()
			}
			if took := lost(t, w).at.Sub(began); took != wsconn.WriteTimeout {
				t.Errorf("blocked write noticed after %v", took)
			}
			resume()
		})
	})
}
