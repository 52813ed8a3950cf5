package iii

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii/internal/wsconn"
)

// sleeper registers a function that takes d.
func sleeper(t *testing.T, c *Client, id string, d time.Duration) {
	t.Helper()
	_, err := c.HandleFunc(id, func(context.Context, json.RawMessage) (any, error) {
		time.Sleep(d) // of the bubble
		return "done", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestR10ShutdownDrains is about the order of a Shutdown.
func TestR10ShutdownDrains(t *testing.T) {
	t.Run("results leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{}), newWatch()
			c := p.client(WithMaxConcurrency(4), w.option())
			sleeper(t, c, "slow", 500*time.Millisecond)
			if _, err := c.Trigger("slow", CustomTrigger{Type: "x"}, WithTriggerID("t")); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			var running, waiting []string
			for range 4 {
				running = append(running, p.conn(0).invoke("slow", "1"))
			}
			synctest.Wait()
			for range 3 {
				waiting = append(waiting, p.conn(0).invoke("slow", "1"))
			}
			synctest.Wait()
			for i := range 10 {
				if err := c.Send(t.Context(), "x::y", i); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			late := make(chan string, 1)
			time.AfterFunc(100*time.Millisecond, func() { late <- p.conn(0).invoke("slow", "1") })
			if err := c.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != 500*time.Millisecond {
				t.Errorf("Shutdown took %v", took)
			}
			for _, id := range running {
				if m := p.answered(id); string(m.Result) != `"done"` {
					t.Errorf("running handler: %s", m.Raw)
				}
			}
			for _, id := range append(waiting, <-late) {
				if m := p.answered(id); m.Error == nil || m.Error.Code != "worker_draining" {
					t.Errorf("handler that had not begun: %s", m.Raw)
				}
			}
			<-p.conn(0).ended
			if err := p.conn(0).err; err != errPeerClosed {
				t.Errorf("end of the connection: %v", err)
			}
			if got := p.messages(0, "unregistertrigger", "unregisterfunction"); len(got) != 2 || got[0].ID != "t" || got[1].ID != "slow" {
				t.Errorf("taken back: %v", got)
			}
			if s := c.Stats(); s.SendsConfirmed != 10 || s.SendsUnknown != 0 {
				t.Errorf("%d confirmed, %d unknown", s.SendsConfirmed, s.SendsUnknown)
			}
			if c.Err() != nil || c.State() != ConnectionStateDisconnected {
				t.Errorf("after Shutdown: %v, %v", c.Err(), c.State())
			}
			if events := w.all(); len(events) != 3 || events[2].err != nil {
				t.Errorf("the listener was told %v", events)
			}
		})
	})
	t.Run("handlers can call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			_, err := c.HandleFunc("caller", func(ctx context.Context, _ json.RawMessage) (any, error) {
				<-Stopping(ctx)
				if ctx.Err() != nil {
					t.Error("ctx has ended before the drain")
				}
				return Call[int](ctx, c, "x::y", 7)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := p.conn(0).invoke("caller", "1")
			synctest.Wait()
			if err := c.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if m := p.answered(id); string(m.Result) != "7" {
				t.Errorf("answer: %s", m.Raw)
			}
		})
	})
	t.Run("pings go on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			sleeper(t, c, "slow", 10*time.Minute)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := p.conn(0).invoke("slow", "1")
			synctest.Wait()
			if err := c.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if m := p.answered(id); string(m.Result) != `"done"` || m.Conn != 0 {
				t.Errorf("answer: %s", m.Raw)
			}
			if n := p.conn(0).pings.Load(); n < 29 {
				t.Errorf("%d pings in 10 minutes", n)
			}
		})
	})
	t.Run("Run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			sleeper(t, c, "slow", 500*time.Millisecond)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- c.Run(ctx) }()
			id := p.conn(0).invoke("slow", "1")
			synctest.Wait()
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			if m := p.answered(id); string(m.Result) != `"done"` {
				t.Errorf("answer: %s", m.Raw)
			}
		})
	})
}

// TestR10ShutdownIsBounded is about drains that cannot end well.
func TestR10ShutdownIsBounded(t *testing.T) {
	shutdown := func(t *testing.T, c *Client, want time.Duration) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		err := suite.note(c.Shutdown(ctx))
		if took := time.Since(began); took < want || took > want+promptly {
			t.Errorf("Shutdown took %v, want %v: %v", took, want, err)
		}
		return err
	}
	gone := func(t *testing.T) (*peer, *Client) {
		var gone atomic.Bool
		p := newPeer(t, script{refuse: func(int, *http.Request) int {
			if gone.Load() {
				return http.StatusBadGateway
			}
			return 0
		}})
		c := p.connected()
		gone.Store(true)
		p.conn(0).Cut()
		synctest.Wait()
		return p, c
	}
	t.Run("engine away, nothing waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := gone(t)
			if err := shutdown(t, c, 0); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("engine away, a message waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := gone(t)
			if err := c.Send(t.Context(), "x::y", 1); err != nil {
				t.Fatal(err)
			}
			if err := shutdown(t, c, 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown: %v", err)
			}
			if s := c.Stats(); s.SendsDropped != 1 {
				t.Errorf("dropped: %d", s.SendsDropped)
			}
		})
	})
	t.Run("engine away, a call waits and gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := gone(t)
			go func() { _ = c.Call(t.Context(), "x::y", 1, nil, WithTimeout(2*time.Second)) }()
			synctest.Wait()
			if err := shutdown(t, c, 2*time.Second); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("engine away, a message waits, and back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.connected()
			p.conn(0).Cut()
			synctest.Wait()
			if err := c.Send(t.Context(), "x::y", 1); err != nil {
				t.Fatal(err)
			}
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if s := c.Stats(); s.SendsConfirmed != 1 {
				t.Errorf("confirmed: %d", s.SendsConfirmed)
			}
		})
	})
	t.Run("engine away, a message waits, without a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := gone(t)
			if err := c.Send(t.Context(), "x::y", 1); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err, took := c.Shutdown(t.Context()), time.Since(began); took > 5*time.Second || err == nil {
				t.Errorf("Shutdown: %v after %v", err, time.Since(began))
			}
			if took := time.Since(began); took != 5*time.Second || c.Stats().SendsDropped != 1 {
				t.Errorf("Shutdown took %v, %d messages dropped; want 5 s and 1", took, c.Stats().SendsDropped)
			}
		})
	})
	t.Run("fence without an answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var silence atomic.Bool
			p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool { return m.Type == "ping" && silence.Load() }})
			w := newWatch()
			c := p.connected(w.option())
			silence.Store(true)
			for n := range 3 {
				if err := c.Send(t.Context(), "x::y", n); err != nil {
					t.Fatal(err)
				}
			}
			if err := shutdown(t, c, 2*time.Second); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not confirm") {
				t.Errorf("Shutdown: %v, want what was not confirmed", err)
			}
			if s := c.Stats(); s.SendsUnknown != 3 || s.SendsConfirmed != 0 {
				t.Errorf("%d Sends unknown, %d confirmed; want 3 and 0", s.SendsUnknown, s.SendsConfirmed)
			}
			if !slices.ContainsFunc(w.all(), func(e watched) bool {
				var lost *LostSendsError
				return errors.As(e.err, &lost) && lost.Count == 3
			}) {
				t.Errorf("the listener received %v", w.all())
			}
			<-p.conn(0).ended
			if err := p.conn(0).err; err != errPeerClosed {
				t.Errorf("the connection ended with %v, want a Close frame", err)
			}
		})
	})
	t.Run("never connected", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newPeer(t, script{}).client()
			if err := c.Send(t.Context(), "x::y", 1); err != nil {
				t.Fatal(err)
			}
			if err := shutdown(t, c, 0); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("handler that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			var ended atomic.Bool
			_, err := c.HandleFunc("stubborn", func(ctx context.Context, _ json.RawMessage) (any, error) {
				<-ctx.Done()
				ended.Store(true)
				return nil, ctx.Err()
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.conn(0).invoke("stubborn", "1")
			synctest.Wait()
			if err := shutdown(t, c, 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown: %v", err)
			}
			if !ended.Load() {
				t.Error("the handler's context has not ended")
			}
		})
	})
	t.Run("connection lost in the drain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			sleeper(t, c, "slow", 3*time.Second)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.conn(0).invoke("slow", "1")
			synctest.Wait()
			time.AfterFunc(time.Second, p.conn(0).Cut)
			if err := shutdown(t, c, 3*time.Second); err != nil {
				t.Error(err)
			}
			if s := c.Stats(); s.RepliesDropped != 1 {
				t.Errorf("replies dropped: %d", s.RepliesDropped)
			}
			if got := p.messages(-1, "registerfunction"); len(got) != 1 {
				t.Errorf("registered %d times: a drain registers nothing", len(got))
			}
		})
	})
	t.Run("peer without a Close frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var silence atomic.Bool
			resume := make(chan func(), 1)
			p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
				if m.Type == "ping" && silence.Load() { // of the flush: answered, and then nothing more is read
					c.answer(m)
					resume <- c.StopReading()
					return true
				}
				return false
			}})
			c := p.connected()
			silence.Store(true)
			if err := shutdown(t, c, wsconn.CloseTimeout); err != nil {
				t.Error(err)
			}
			(<-resume)()
		})
	})
}

// TestR10EndConcurrent ends a client in every way at once, also from its own handlers
// and callbacks.
func TestR10EndConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{message: unanswered})
		var c *Client
		c = p.client(WithStateListener(func(s ConnectionState, _ error) {
			if s == ConnectionStateDisconnected {
				_ = c.Close()
			}
		}))
		_, err := c.HandleFunc("ends", func(ctx context.Context, _ json.RawMessage) (any, error) {
			bounded, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = c.Shutdown(bounded)
			return nil, c.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p.conn(0).invoke("ends", "1")
		}
		var enders sync.WaitGroup
		for i := range 40 {
			enders.Go(func() {
				switch i % 4 {
				case 0:
					if err := c.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				case 1:
					if err := c.Shutdown(t.Context()); err != nil {
						t.Errorf("Shutdown: %v", err)
					}
				case 2:
					if err := c.Call(t.Context(), "x::y", 1, nil); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrConnectionLost) {
						t.Errorf("Call: %v", err)
					}
				case 3:
					if err := c.Run(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
						t.Errorf("Run: %v", err)
					}
				}
			})
		}
		enders.Wait()
		<-c.Done()
		if c.Err() != nil || c.State() != ConnectionStateDisconnected {
			t.Errorf("at the end: %v, %v", c.Err(), c.State())
		}
	})
}

// TestEndedClient is about everything that can be tried with a client that has ended.
func TestEndedClient(t *testing.T) {
	p := newPeer(t, script{})
	c := p.connected()
	f, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"Call":    c.Call(ctx, "x::y", 1, nil),
		"Send":    c.Send(ctx, "x::y", 1),
		"Connect": c.Connect(ctx),
		"Run":     c.Run(ctx),
		"Enqueue": func() error { _, err := c.Enqueue(ctx, "q", "x::y", 1); return err }(),
		"HandleFunc": func() error {
			_, err := c.HandleFunc("g", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
			return err
		}(),
		"Trigger": func() error { _, err := c.Trigger("g", CustomTrigger{Type: "x"}); return err }(),
	} {
		if !errors.Is(suite.note(err), ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
	if err := f.Unregister(); err == nil {
		t.Error("a function of an ended client can be taken back")
	}
	if s := c.Stats(); s.CallsInFlight != 0 || s.Buffered != 0 {
		t.Errorf("left: %+v", s)
	}
}
