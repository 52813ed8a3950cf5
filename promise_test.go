package iii

import (
	"bufio"
	"bytes"
	gocmp "cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/otlpjson"
	"github.com/iii-go/iii/internal/wsconn"
)

// sleeper registers a function that takes d to return.
func sleeper(t *testing.T, c *Client, id string, d time.Duration) {
	t.Helper()
	_, err := c.HandleFunc(id, func(context.Context, json.RawMessage) (any, error) {
		time.Sleep(d) // virtual time
		return "done", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

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
					t.Errorf("handler that had not started: %s", m.Raw)
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
				t.Errorf("the listener received %v", events)
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
					t.Error("ctx was canceled before the drain")
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

// Nothing follows the fence of a shutdown. A later request could be written, but the client would
// never learn whether the engine has read it.
func TestR10ShutdownConfirmsAllSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Client
		fences := 0
		p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool {
			if m.Type == "ping" && c.Draining() {
				fences++
				for verb, err := range map[string]error{"Send": c.Send(t.Context(), "x::y", 1), "Call": c.Call(t.Context(), "x::y", 1, nil)} {
					if !errors.Is(err, ErrClosed) || !SafeToRetry(err) {
						t.Errorf("%s after the fence: %v", verb, err)
					}
				}
			}
			return false
		}})
		c = p.client()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Send(t.Context(), "x::z", 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if s := c.Stats(); fences != 1 || s.SendsConfirmed != 1 || s.SendsUnknown != 0 {
			t.Errorf("%d fences, %+v", fences, s)
		}
	})
}

// TestR10ShutdownIsBounded shuts down clients whose drain cannot complete.
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
			if err := shutdown(t, c, 2*time.Second); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not confirm") || !strings.Contains(err.Error(), "lost: 3") {
				t.Errorf("Shutdown: %v, want the number of unconfirmed Sends", err)
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
			if err, want := shutdown(t, c, 0), "iii: shutdown: Send messages that may be lost: 1"; err == nil || err.Error() != want {
				t.Errorf("Shutdown: %v, want %s", err, want)
			}
		})
	})
	t.Run("the triggers are not registered yet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pings := 0
			p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool {
				if m.Type == "ping" {
					if pings++; pings == 2 { // behind the triggers
						time.Sleep(1500 * time.Millisecond)
					}
				}
				return false
			}})
			c := p.client()
			if err := c.Send(t.Context(), "x::y", 1); err != nil {
				t.Fatal(err)
			}
			connected := make(chan error, 1)
			go func() { connected <- c.Connect(t.Context()) }()
			p.find("the message", func(m *peerMessage) bool { return m.FunctionID == "x::y" })
			synctest.Wait()
			if err := shutdown(t, c, 1500*time.Millisecond); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if s := c.Stats(); s.SendsConfirmed != 1 {
				t.Errorf("%d Sends confirmed, want 1", s.SendsConfirmed)
			}
			_ = suite.note(<-connected)
		})
	})
	t.Run("connection lost before the fence is answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var silence atomic.Bool
			p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool { return m.Type == "ping" && silence.Load() }})
			c := p.connected()
			silence.Store(true)
			for n := range 3 {
				if err := c.Send(t.Context(), "x::y", n); err != nil {
					t.Fatal(err)
				}
			}
			time.AfterFunc(time.Second, p.conn(0).Cut)
			if err, want := shutdown(t, c, time.Second), "iii: shutdown: Send messages that may be lost: 3"; err == nil || err.Error() != want {
				t.Errorf("Shutdown: %v, want %s", err, want)
			}
		})
	})
	for _, test := range []struct {
		name   string
		send   bool
		want   time.Duration
		failed bool
	}{{"engine without an answer, nothing waits", false, 0, false}, {"engine without an answer, a message waits", true, 5 * time.Second, true}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{noPong: true, greet: func(*peerConn) {}, message: func(*peerConn, *peerMessage) bool { return true }})
				c := p.client()
				connected := make(chan error, 1)
				go func() { connected <- c.Connect(t.Context()) }()
				synctest.Wait()
				if test.send {
					if err := c.Send(t.Context(), "x::y", 1); err != nil {
						t.Fatal(err)
					}
				}
				if err := shutdown(t, c, test.want); (err != nil) != test.failed {
					t.Errorf("Shutdown: %v", err)
				}
				if err := <-connected; !errors.Is(err, ErrClosed) {
					t.Errorf("Connect: %v", err)
				}
			})
		})
	}
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
				t.Error("the handler's context was not canceled")
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
				t.Errorf("registered %d times; nothing may be registered during a drain", len(got))
			}
		})
	})
	t.Run("peer without a Close frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var silence atomic.Bool
			resume := make(chan func(), 1)
			p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
				if m.Type == "ping" && silence.Load() { // reply to the ping of the flush, then stop reading
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

// TestR10EndConcurrent closes a client in all possible ways at once, including from its own
// handlers and callbacks.
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
		t.Error("a function of a closed client can be unregistered")
	}
	if s := c.Stats(); s.CallsInFlight != 0 || s.Buffered != 0 {
		t.Errorf("left: %+v", s)
	}
}

// unanswered suppresses the results of all calls except those to the engine's own functions.
func unanswered(_ *peerConn, m *peerMessage) bool {
	return m.Type == "invokefunction" && !strings.HasPrefix(m.FunctionID, "engine::")
}

// When the connection breaks, a call that may have been sent fails at once. A call that was
// not sent is sent on the next connection.
func TestR5LostCallFailsAtOnce(t *testing.T) {
	t.Run("sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 200
			p := newPeer(t, script{message: unanswered})
			c := p.connected()
			results := make(chan error, n)
			for range n {
				go func() { results <- c.Call(t.Context(), "x::y", 1, nil) }()
			}
			synctest.Wait()
			p.conn(0).Cut()
			cut := time.Now()
			for range n {
				err := suite.note(<-results)
				if !errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrNotConnected) || SafeToRetry(err) {
					t.Fatalf("call: %v, safe to retry: %v", err, SafeToRetry(err))
				}
			}
			if took := time.Since(cut); took > 0 {
				t.Errorf("calls failed %v after the cut", took)
			}
		})
	})
	t.Run("not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			result := make(chan error, 2)
			go func() { result <- c.Call(t.Context(), "before::first", 1, nil) }()
			synctest.Wait()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-result; err != nil {
				t.Errorf("call before the first connection: %v", err)
			}
			p.conn(0).Cut()
			synctest.Wait()
			if s := c.State(); s != ConnectionStateReconnecting {
				t.Errorf("state: %v", s)
			}
			if err := c.Call(t.Context(), "between::connections", 1, nil); err != nil {
				t.Errorf("call between connections: %v", err)
			}
		})
	})
	t.Run("half", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 40
			p := newPeer(t, script{})
			c := p.connected()
			resume := p.conn(0).StopReading()
			var lost, answered atomic.Int32
			var calls sync.WaitGroup
			for i := range n {
				calls.Go(func() {
					payload := fmt.Sprint(i, strings.Repeat("x", 64<<10))
					got, err := Call[string](t.Context(), c, "x::y", payload)
					switch {
					case err == nil && got == payload:
						answered.Add(1)
					case errors.Is(err, ErrConnectionLost) && !SafeToRetry(err):
						lost.Add(1)
					default:
						t.Errorf("call %d: %v", i, err)
					}
				})
			}
			synctest.Wait()
			p.conn(0).Cut()
			resume()
			calls.Wait()
			if lost.Load() == 0 || answered.Load() == 0 || lost.Load()+answered.Load() != n {
				t.Errorf("%d lost, %d sent on the next connection, of %d", lost.Load(), answered.Load(), n)
			}
			if again := p.messages(1, "invokefunction"); len(again)-1 != int(answered.Load()) {
				t.Errorf("%d calls on the next connection, want %d", len(again)-1, answered.Load())
			}
		})
	})
}

// TestR6BooksBalance breaks a connection that is carrying Sends and calls. Every request must
// reach the peer, fail, or be counted as unknown.
func TestR6BooksBalance(t *testing.T) {
	unknown := uint64(0)
	for i := range scale(6, 100) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { unknown += balance(t, seed, 5000) })
		})
	}
	if unknown == 0 {
		t.Error("no cut has hit a Send: the test proves nothing")
	}
	t.Logf("%d messages with unknown outcome, unaccounted 0", unknown)
}

// outcome is how a request ended, as seen by its caller.
type outcome uint8

const (
	outcomeSuccess outcome = 1 + iota // nil error
	outcomeUnsent                     // error that is safe to retry
	outcomeUnknown                    // any other error
)

func balance(t *testing.T, seed uint64, n int) (unknown uint64) {
	r := rand.New(rand.NewPCG(seed, 6))
	read := make([]atomic.Int32, 2*n) // how often each request arrived; Sends have even numbers
	outcomes := make([]outcome, 2*n)
	p := newPeer(t, script{forget: true, message: func(_ *peerConn, m *peerMessage) bool {
		if m.FunctionID == "x::y" {
			var payload struct{ N int }
			if err := json.Unmarshal(m.Data, &payload); err != nil {
				t.Error(err)
			}
			read[payload.N].Add(1)
		}
		return false
	}})
	proxy := p.proxy(seed, func(conn int) enginetest.FaultPlan {
		cut := enginetest.Fault{Limited: true, Limit: 1000 + r.Int64N(int64(n)*300), Then: enginetest.FaultReset, Latency: time.Duration(r.IntN(2)) * time.Millisecond}
		switch {
		case conn > 0:
			return enginetest.FaultPlan{}
		case seed%2 == 0: // cut within the requests that were buffered before the connection
			cut.Limit = 1000 + r.Int64N(int64(n)*60)
		case seed%3 == 0:
			cut.Limit /= 4
			return enginetest.FaultPlan{In: cut}
		}
		return enginetest.FaultPlan{Out: cut}
	})
	proxy.Capacity = 4 << 10 // small, so that a cut interrupts a write
	w := newWatch()
	c := p.client(WithDialContext(proxy.DialContext), w.option(), WithSendBuffer(n/2, 8<<20))
	padding := strings.Repeat("x", 100)
	var users sync.WaitGroup
	const workers = 50
	for u := range workers {
		for kind := range 2 {
			users.Go(func() {
				for i := range n / workers {
					number := 2*(u*n/workers+i) + kind
					payload := map[string]any{"N": number, "p": padding}
					var err error
					if kind == 0 {
						err = c.Send(t.Context(), "x::y", payload)
					} else {
						err = c.Call(t.Context(), "x::y", payload, nil)
					}
					switch {
					case err == nil:
						outcomes[number] = outcomeSuccess
					case SafeToRetry(err):
						outcomes[number] = outcomeUnsent
					case errors.Is(err, ErrConnectionLost):
						outcomes[number] = outcomeUnknown
					default:
						t.Errorf("request %d: %v", number, err)
					}
					suite.note(err)
				}
			})
		}
	}
	if seed%2 == 0 { // buffer the first requests before connecting
		synctest.Wait()
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	users.Wait()
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}

	var accepted, missing, readSends uint64
	for number := range outcomes {
		times, send := read[number].Load(), number%2 == 0
		if times > 1 {
			t.Errorf("request %d arrived %d times", number, times)
		}
		if send {
			readSends += uint64(times)
		}
		switch outcomes[number] {
		case outcomeSuccess:
			if send {
				accepted++
			}
			switch {
			case times > 0:
			case send:
				missing++
			default:
				t.Errorf("call %d has a result but did not arrive", number)
			}
		case outcomeUnsent:
			if times > 0 {
				t.Errorf("request %d is safe to retry but arrived", number)
			}
		case 0:
			t.Errorf("request %d has no outcome", number)
		}
	}
	s := c.Stats()
	if s.SendsConfirmed+s.SendsUnknown+s.SendsDropped != accepted {
		t.Errorf("%d Sends accepted, but %d confirmed + %d unknown + %d dropped", accepted, s.SendsConfirmed, s.SendsUnknown, s.SendsDropped)
	}
	if missing > s.SendsUnknown+s.SendsDropped || readSends < s.SendsConfirmed {
		t.Errorf("%d accepted Sends did not arrive, %d are unknown; %d arrived, %d are confirmed", missing, s.SendsUnknown, readSends, s.SendsConfirmed)
	}
	told := uint64(0)
	for _, e := range w.all() {
		var lost *LostSendsError
		if errors.As(e.err, &lost) {
			told += uint64(lost.Count)
		}
	}
	if told != s.SendsUnknown {
		t.Errorf("the listener received %d unknown Sends, the counter is %d", told, s.SendsUnknown)
	}
	return s.SendsUnknown
}

func TestR8BufferIsBounded(t *testing.T) {
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	payload := strings.Repeat("x", 1024)
	before := liveHeap()
	n, accepted := scale(50_000, 200_000), 0
	for range n {
		switch err := c.Send(t.Context(), "x::y", payload); {
		case err == nil:
			accepted++
		case !errors.Is(err, ErrBufferFull) || !SafeToRetry(err):
			t.Fatal(err)
		}
	}
	growth := liveHeap() - before
	if s := c.Stats(); accepted < 7000 || s.Buffered != accepted || s.BufferedBytes > 8<<20 {
		t.Errorf("%d accepted, %d buffered with %d bytes, want as many as fit into 8 MiB", accepted, s.Buffered, s.BufferedBytes)
	}
	if growth > 24<<20 {
		t.Errorf("the heap grew by %d KiB", growth>>10)
	}
	t.Logf("%d messages: the heap grew by %d KiB", n, growth>>10)
	_ = c.Close()
	if dropped := c.Stats().SendsDropped; dropped != uint64(accepted) {
		t.Errorf("%d messages dropped, want %d", dropped, accepted)
	}
}

// For small messages, only the limit on the number of buffered messages matters. That limit is
// exact, and high enough for a burst during a short disconnection.
func TestR8SmallMessagesAreBuffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		const fit = 32_768
		for n := range fit {
			if err := c.Send(t.Context(), "x::y", n); err != nil {
				t.Fatalf("message %d: %v", n, err)
			}
		}
		if err := c.Send(t.Context(), "x::y", fit); !errors.Is(err, ErrBufferFull) {
			t.Errorf("one message too many: %v", err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := c.Stats(); s.SendsConfirmed != fit {
			t.Errorf("%d messages confirmed, want %d", s.SendsConfirmed, fit)
		}
	})
}

// With SendWait, a request that does not fit into the buffer waits until the client connects,
// another request is canceled, or its own context is done. A request that can never fit fails
// at once.
func TestR8SendWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client(WithSendBuffer(2, 1<<10), WithSendPolicy(SendWait), WithCallTimeout(time.Second))
		if err := c.Send(t.Context(), "x::y", strings.Repeat("x", 2<<10)); !errors.Is(err, ErrBufferFull) {
			t.Errorf("a message that can never fit: %v", err)
		}
		call, giveUp := context.WithCancel(t.Context())
		called := make(chan error, 1)
		go func() { called <- c.Call(call, "x::y", 0, nil, WithTimeout(time.Hour)) }()
		synctest.Wait()
		if err := c.Send(t.Context(), "x::y", 1); err != nil {
			t.Fatal(err)
		}

		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := c.Send(short, "x::y", 2)
		cancel()
		if took := time.Since(began); took != 300*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) || !SafeToRetry(err) {
			t.Errorf("a Send with a deadline: %v after %v, want DeadlineExceeded after 300ms", err, took)
		}
		began = time.Now()
		if err, took := c.Send(t.Context(), "x::y", 3, WithTimeout(400*time.Millisecond)), time.Since(began); took > 400*time.Millisecond || !errors.Is(err, ErrTimeout) {
			t.Errorf("a Send with a timeout: %v after %v, want ErrTimeout after 400ms", err, took)
		}
		began = time.Now()
		if err := c.Call(t.Context(), "x::y", 4, nil); !errors.Is(err, ErrTimeout) || !SafeToRetry(err) || time.Since(began) != time.Second {
			t.Errorf("a call: %v after %v, want ErrTimeout after 1s", err, time.Since(began))
		}

		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), "x::y", 5) }()
		time.Sleep(time.Minute) // the call timeout does not apply to Send
		select {
		case err := <-sent:
			t.Fatalf("a Send did not wait: %v", err)
		default:
		}
		giveUp()
		if err := <-sent; err != nil {
			t.Errorf("a Send that waited for room: %v", err)
		}
		if err := <-called; !errors.Is(err, context.Canceled) {
			t.Errorf("the call that made room: %v", err)
		}

		go func() { sent <- c.Send(t.Context(), "x::y", 6) }()
		synctest.Wait()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Errorf("a Send that waited for the connection: %v", err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := c.Stats(); s.SendsConfirmed != 3 || s.Buffered != 0 {
			t.Errorf("%d Sends confirmed, %d buffered, want 3 and 0", s.SendsConfirmed, s.Buffered)
		}
	})
}

func TestR8SendWaitEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPeer(t, script{}).client(WithSendBuffer(1, 1<<10), WithSendPolicy(SendWait))
		if err := c.Send(t.Context(), "x::y", 1); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), "x::y", 2) }()
		synctest.Wait()
		_ = c.Close()
		if err := <-sent; !errors.Is(err, ErrClosed) || !SafeToRetry(err) {
			t.Errorf("Send = %v, want ErrClosed", err)
		}
	})
}

func TestR8BytesAreBounded(t *testing.T) {
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger), WithSendBuffer(1000, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	payload := strings.Repeat("x", 100<<10)
	for i := range 20 {
		err := c.Send(t.Context(), "x::y", payload)
		if want := i >= 10; errors.Is(err, ErrBufferFull) != want {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if err := c.Call(t.Context(), "x::y", payload, nil); !errors.Is(err, ErrBufferFull) {
		t.Errorf("call: %v", err)
	}
	if s := c.Stats(); s.BufferedBytes > 1<<20 || s.Buffered != 10 {
		t.Errorf("buffered: %d messages, %d bytes", s.Buffered, s.BufferedBytes)
	}
}

// While the engine is not reading, a call may find no room in the send queue. Its error then
// says that it was not sent, although the client is connected.
func TestR8CallWithoutRoomIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		p := newPeer(t, script{message: unanswered})
		c := p.connected(WithSendBuffer(4, 1<<20))
		resume := p.conn(0).StopReading()
		defer resume()
		results := make(chan error, n)
		for range n {
			go func() {
				results <- c.Call(t.Context(), "x::y", strings.Repeat("x", 512<<10), nil, WithTimeout(time.Second))
			}()
		}
		unsent := 0
		for range n {
			err := suite.note(<-results)
			if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrNotConnected) != SafeToRetry(err) {
				t.Errorf("call: %v, safe to retry: %v", err, SafeToRetry(err))
			}
			if errors.Is(err, ErrNotConnected) {
				unsent++
				if want := "iii: call x::y: not sent: call timed out"; err.Error() != want {
					t.Errorf("call: %q, want %q", err, want)
				}
			}
		}
		if unsent < n-4 {
			t.Errorf("%d of %d calls were not sent, want at least %d", unsent, n, n-4)
		}
	})
}

// Calls that give up while they wait for room leave nothing behind, even if the calls before them
// keep waiting.
func TestR8WaitForRoomKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		p := newPeer(t, script{message: unanswered})
		c := p.connected(WithSendBuffer(4, 1<<20))
		resume := p.conn(0).StopReading()
		defer resume()
		results := make(chan error, n)
		for range n {
			go func() {
				results <- c.Call(t.Context(), "x::y", strings.Repeat("x", 512<<10), nil, WithTimeout(2*time.Second))
			}()
		}
		synctest.Wait()
		waiting := c.out.countWaiting()
		for range 1000 {
			if err := suite.note(c.Call(t.Context(), "x::y", 1, nil, WithTimeout(time.Millisecond))); !errors.Is(err, ErrNotConnected) {
				t.Fatal(err)
			}
		}
		if got := c.out.countWaiting(); waiting == 0 || got != waiting {
			t.Errorf("%d requests wait for room, want %d as before", got, waiting)
		}
		for range n {
			_ = suite.note(<-results)
		}
	})
}

func (q *sendQueue) countWaiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.Len()
}

// Requests that wait for room when the connection is lost do not delay the replies over the next
// connection, although they are not sent before the registrations have settled.
func TestR8WaitingRequestsDoNotDelayReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 12
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool { return c.n == 1 && m.Type == "ping" }})
		c := p.client(WithSendBuffer(2, 1<<20), WithSendPolicy(SendWait))
		if _, err := c.HandleFunc("a::b", echo); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		resume := p.conn(0).StopReading()
		results := make(chan error, n)
		for i := range n {
			go func() { results <- c.Call(t.Context(), fmt.Sprint("x::", i), strings.Repeat("x", 256<<10), nil) }()
			synctest.Wait()
		}
		p.conn(0).Cut()
		resume()
		p.find("the fence", func(m *peerMessage) bool { return m.Conn == 1 && m.Type == "ping" })
		synctest.Wait()
		id := p.conn(1).invoke("a::b", "1")
		synctest.Wait()
		if list := p.messages(1, "invocationresult"); len(list) != 1 || list[0].InvocationID != id {
			t.Errorf("%d replies before the registrations have settled, want 1", len(list))
		}
		p.conn(1).send(`{"type":"pong"}`)
		p.conn(1).send(`{"type":"pong"}`)
		for range n {
			if err := suite.note(<-results); err != nil && !errors.Is(err, ErrConnectionLost) {
				t.Error(err)
			}
		}
		var want, got []string
		for _, m := range p.messages(1, "invokefunction") {
			if strings.HasPrefix(m.FunctionID, "x::") {
				got = append(got, m.FunctionID)
			}
		}
		for i := n - len(got); i < n; i++ {
			want = append(want, fmt.Sprint("x::", i))
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got) < n/2 {
			t.Errorf("requests sent over the second connection (-want +got):\n%s", diff)
		}
	})
}

// Requests that wait for room in the send queue are sent in order: a small one does not
// overtake a large one, and a canceled one does not delay the others.
func TestR8RoomIsGivenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		p := newPeer(t, script{})
		c := p.connected(WithSendBuffer(100, 1<<20))
		resume := p.conn(0).StopReading()
		results := make([]error, n)
		var calls sync.WaitGroup
		for i := range n {
			payload := strings.Repeat("x", []int{1, 64 << 10, 512 << 10, 2 << 20}[i%4])
			ctx, cancel := context.WithCancel(t.Context())
			calls.Go(func() {
				if i%3 == 1 {
					results[i] = c.Send(ctx, fmt.Sprint("x::", i), payload)
				} else {
					results[i] = c.Call(ctx, fmt.Sprint("x::", i), payload, nil)
				}
			})
			synctest.Wait()
			if i >= n/2 && i%5 == 0 {
				cancel()
			}
			t.Cleanup(cancel)
		}
		synctest.Wait()
		resume()
		calls.Wait()
		var want, got []string
		for i, err := range results {
			switch {
			case err == nil:
				want = append(want, fmt.Sprint("x::", i))
			case i < n/2 || i%5 != 0 || !errors.Is(err, context.Canceled) || !SafeToRetry(err):
				t.Errorf("request %d: %v", i, err)
			}
		}
		for _, m := range p.messages(0, "invokefunction") {
			if strings.HasPrefix(m.FunctionID, "x::") {
				got = append(got, m.FunctionID)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("requests sent (-want +got):\n%s", diff)
		}
		if len(got) != n-n/10 {
			t.Errorf("%d requests sent, want %d", len(got), n-n/10)
		}
	})
}

// With SendWait, requests that wait for room in the buffer of a disconnected client are sent in
// order.
func TestR8SendWaitKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		p := newPeer(t, script{})
		c := p.client(WithSendBuffer(2, 1<<20), WithSendPolicy(SendWait))
		var want []string
		var calls sync.WaitGroup
		for i := range n {
			ctx, cancel := context.WithCancel(t.Context())
			calls.Go(func() {
				if err := c.Send(ctx, fmt.Sprint("x::", i), i); (err != nil) != (i%4 == 3) || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("Send %d: %v", i, err)
				}
			})
			synctest.Wait()
			t.Cleanup(cancel)
			if i%4 == 3 {
				cancel()
				synctest.Wait()
			} else {
				want = append(want, fmt.Sprint("x::", i))
			}
		}
		if s := c.Stats(); s.Buffered != 2 {
			t.Errorf("%d messages buffered, want 2", s.Buffered)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls.Wait()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range p.messages(0, "invokefunction") {
			if strings.HasPrefix(m.FunctionID, "x::") {
				got = append(got, m.FunctionID)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("messages sent (-want +got):\n%s", diff)
		}
	})
}

// When the connection is lost, the calls that wait for room in the send queue are buffered as
// far as the buffer has room. Without SendWait, the others fail at once.
func TestR8WaitingCallsWithoutConnection(t *testing.T) {
	for _, policy := range []SendPolicy{SendFail, SendWait} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 20
				p := newPeer(t, script{})
				c := p.connected(WithSendBuffer(4, 1<<20), WithSendPolicy(policy))
				resume := p.conn(0).StopReading()
				results := make(chan error, n)
				for range n {
					go func() { results <- c.Call(t.Context(), "x::y", strings.Repeat("x", 300<<10), nil) }()
				}
				synctest.Wait()
				began := time.Now()
				p.conn(0).Cut()
				resume()
				answered, lost, full := 0, 0, 0
				for range n {
					switch err := suite.note(<-results); {
					case err == nil:
						answered++
					case errors.Is(err, ErrConnectionLost):
						lost++
					case errors.Is(err, ErrBufferFull) && SafeToRetry(err) && time.Since(began) == 0:
						full++
					default:
						t.Errorf("call: %v after %v", err, time.Since(began))
					}
				}
				switch {
				case lost > 2 || answered+lost+full != n:
					t.Errorf("%d calls answered, %d lost and %d rejected, want at most 2 lost", answered, lost, full)
				case policy == SendWait && full > 0, policy == SendFail && answered != 3:
					t.Errorf("%d calls answered and %d rejected", answered, full)
				}
			})
		})
	}
}

// A request that gives up makes room for the requests behind it, and only for them: a small one
// does not overtake a large one. With SendWait, the timeout of a Send starts when there is room
// for it.
func TestR8RoomOfEndedRequests(t *testing.T) {
	const never = time.Hour
	for _, test := range []struct {
		name      string
		connected bool
		lost      bool  // the connection is lost while the requests wait
		ahead     []int // sizes, in KiB, of the requests ahead of the small one; the last one gives up
		want      error // of the small one
	}{
		// The engine reads the first request, and the client is writing the second one.
		{"queued", true, false, []int{1, 400, 900}, ErrTimeout},
		{"waiting", true, false, []int{1, 400, 500, 900}, ErrTimeout},
		{"lost", true, true, []int{1, 400, 500, 900}, nil},
		{"disconnected", false, false, []int{400, 900}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{refuse: func(n int, _ *http.Request) int { return 503 * min(n, 1) }})
				c := p.client(WithSendBuffer(100, 1<<20), WithSendPolicy(SendWait), WithCallTimeout(time.Second))
				resume := func() {}
				if test.connected {
					if err := c.Connect(t.Context()); err != nil {
						t.Fatal(err)
					}
					resume = p.conn(0).StopReading()
					defer resume()
				}
				var ahead sync.WaitGroup
				var cancel context.CancelFunc
				for _, size := range test.ahead {
					var ctx context.Context
					ctx, cancel = context.WithCancel(t.Context())
					defer cancel()
					ahead.Go(func() { _ = c.Call(ctx, "x::y", strings.Repeat("x", size<<10), nil, WithTimeout(never)) })
					synctest.Wait()
				}
				sent := make(chan error, 1)
				go func() { sent <- c.Send(t.Context(), "x::y", strings.Repeat("x", 200<<10)) }()
				synctest.Wait()
				if test.lost {
					p.conn(0).Cut()
					resume()
				}
				time.Sleep(5 * time.Second)
				select {
				case err := <-sent:
					t.Fatalf("the Send did not wait: %v", err)
				default:
				}
				began := time.Now()
				cancel()
				err := suite.note(<-sent)
				took := time.Since(began)
				if !errors.Is(err, test.want) || err != nil && (took != time.Second || !SafeToRetry(err)) || err == nil && took != 0 {
					t.Errorf("the Send: %v after %v, want %v", err, took, test.want)
				}
				resume()
				_ = c.Close()
				ahead.Wait()
			})
		})
	}
}

// When the client is closed, the requests that wait for room in the send queue fail with ErrClosed,
// whatever the policy. They do not fail as if only the connection were lost.
func TestR8WaitingRequestsEndWithTheClient(t *testing.T) {
	for _, policy := range []SendPolicy{SendFail, SendWait} {
		for name, end := range map[string]func(*Client, *peerConn) error{
			"close":    func(c *Client, _ *peerConn) error { return c.Close() },
			"shutdown": func(c *Client, _ *peerConn) error { return c.Shutdown(context.Background()) },
			"rejection": func(c *Client, conn *peerConn) error {
				conn.send(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"default","owner_worker_id":"w"}`)
				<-c.Done()
				return c.Err()
			},
		} {
			t.Run(fmt.Sprint(name, policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const n = 20
					p := newPeer(t, script{})
					c := p.connected(WithSendBuffer(4, 1<<20), WithSendPolicy(policy))
					resume := p.conn(0).StopReading()
					defer resume()
					results := make(chan error, 2*n)
					payload := strings.Repeat("x", 300<<10)
					for range n {
						go func() { results <- c.Call(t.Context(), "x::y", payload, nil) }()
						go func() { results <- c.Send(t.Context(), "x::y", payload) }()
					}
					synctest.Wait()
					waiting := c.out.countWaiting()
					if calls := c.Stats().CallsInFlight; calls != n {
						t.Errorf("%d calls in flight, want %d, including those that wait for room", calls, n)
					}
					_ = suite.note(end(c, p.conn(0)))
					closed := 0
					for range 2 * n {
						switch err := suite.note(<-results); {
						case err == nil, errors.Is(err, ErrConnectionLost):
						case errors.Is(err, ErrClosed) && errors.Is(err, ErrNotConnected) && SafeToRetry(err):
							closed++
						default:
							t.Error(err)
						}
					}
					if waiting < n || closed < waiting {
						t.Errorf("%d requests failed with ErrClosed, but %d had waited for room", closed, waiting)
					}
				})
			})
		}
	}
}

// Requests may time out at the very moment when the send queue gets room or the connection is
// lost. They still succeed or fail with one of the usual errors.
func TestR8RoomAndTimeoutAtOnce(t *testing.T) {
	for _, test := range []struct {
		name string
		at   func(conn *peerConn, resume func())
	}{
		{"room", func(_ *peerConn, resume func()) { resume() }},
		{"loss", func(conn *peerConn, resume func()) { conn.Cut(); resume() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range scale(20, 500) {
				synctest.Test(t, func(t *testing.T) {
					const n = 20
					p := newPeer(t, script{})
					c := p.connected(WithSendBuffer(3, 64<<10))
					resume := p.conn(0).StopReading()
					results := make(chan error, 2*n)
					for i := range n {
						go func() {
							results <- c.Call(t.Context(), "x::y", strings.Repeat("x", 16<<10), nil, WithTimeout(time.Second))
						}()
						go func() {
							results <- c.Send(t.Context(), "x::y", strings.Repeat("x", 1<<(i%16)), WithTimeout(time.Second))
						}()
					}
					time.Sleep(time.Second)
					test.at(p.conn(0), resume)
					for range 2 * n {
						err := suite.note(<-results)
						if err != nil && !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrConnectionLost) && !errors.Is(err, ErrBufferFull) {
							t.Error(err)
						}
					}
					if err := c.Connect(t.Context()); err != nil { // until then, the buffer may be full
						t.Error(err)
					}
					if err := c.Call(t.Context(), "x::y", 1, nil); err != nil {
						t.Errorf("a later call: %v", err)
					}
					if s := c.Stats(); s.CallsInFlight != 0 || s.Buffered != 0 {
						t.Errorf("left: %+v", s)
					}
				})
			}
		})
	}
}

// Calls whose callers gave up while the client was disconnected are not sent later.
func TestR8EndedCallsAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		for i := range 3000 { // canceled calls leave the buffer
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			err := c.Call(ctx, "ended::call", i, nil)
			cancel()
			if !errors.Is(err, ErrNotConnected) || !errors.Is(err, context.DeadlineExceeded) || !SafeToRetry(err) {
				t.Fatalf("call %d: %v", i, suite.note(err))
			}
		}
		if err := c.Call(t.Context(), "ended::call", 1, nil, WithTimeout(time.Second)); !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrNotConnected) || !SafeToRetry(err) {
			t.Errorf("call with a timeout: %v", err)
		}
		if err := c.Send(t.Context(), "held::send", 1); err != nil {
			t.Error(err)
		}
		if s := c.Stats(); s.Buffered != 1 || s.CallsInFlight != 0 {
			t.Errorf("%d buffered, %d in flight", s.Buffered, s.CallsInFlight)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range p.messages(0, "invokefunction") {
			got = append(got, m.FunctionID)
		}
		if want := "engine::workers::register held::send"; strings.Join(got, " ") != want {
			t.Errorf("sent: %v, want %s", got, want)
		}
	})
}

// TestR12HandlersAreLimited sends 10,000 invocations at once, and then more than the queue can
// hold.
func TestR12HandlersAreLimited(t *testing.T) {
	const limit = 1000 // the default limit
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		release := make(chan struct{})
		var running, most atomic.Int64
		_, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			running.Add(-1)
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		base := liveGoroutines()
		for range 10_000 {
			p.conn(0).invoke("f", "1")
		}
		synctest.Wait()
		goroutines := liveGoroutines() - base
		if s := c.Stats(); s.HandlersRunning != limit || s.InvocationsQueued != 9000 || s.Overloaded != 0 {
			t.Errorf("%d running, %d waiting, %d rejected", s.HandlersRunning, s.InvocationsQueued, s.Overloaded)
		}
		if goroutines > limit+10 {
			t.Errorf("%d goroutines for %d handlers at once", goroutines, limit)
		}
		t.Logf("10,000 invocations: %d goroutines more than before", goroutines)

		// The client still reads messages, and its queue is bounded.
		if got, err := Call[int](t.Context(), c, "x::y", 7); err != nil || got != 7 {
			t.Errorf("call at the limit: %d, %v", got, err)
		}
		for range 1001 {
			p.conn(0).invoke("f", "1")
		}
		m := p.find("refusal", func(m *peerMessage) bool { return m.Error != nil })
		if m.Error.Code != "overloaded" {
			t.Errorf("refusal: %s", m.Raw)
		}
		synctest.Wait()
		if s := c.Stats(); s.Overloaded != 1 || s.InvocationsQueued != 10_000 {
			t.Errorf("%d refused, %d wait", s.Overloaded, s.InvocationsQueued)
		}
		close(release)
		synctest.Wait()
		if n := len(p.messages(0, "invocationresult")); n != 11_001 {
			t.Errorf("%d answers, want 11001", n)
		}
		if most.Load() != limit {
			t.Errorf("%d handlers ran at once", most.Load())
		}
	})
	t.Run("bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{forget: true})
			c := p.client(WithMaxConcurrency(1))
			release := make(chan struct{})
			_, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			big := `"` + strings.Repeat("x", 4<<20) + `"`
			for range 18 {
				p.conn(0).invoke("f", big)
			}
			synctest.Wait()
			if s := c.Stats(); s.InvocationsQueued != 15 || s.Overloaded != 2 {
				t.Errorf("%d of 4 MiB are waiting, %d were rejected; the limit is 64 MiB", s.InvocationsQueued, s.Overloaded)
			}
			close(release)
			synctest.Wait()
		})
	})
	t.Run("no limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client(WithMaxConcurrency(0))
			sleeper(t, c, "f", time.Second)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 3000 {
				p.conn(0).invoke("f", "1")
			}
			synctest.Wait()
			if s := c.Stats(); s.HandlersRunning != 3000 {
				t.Errorf("%d running at once", s.HandlersRunning)
			}
			time.Sleep(2 * time.Second)
		})
	})
}

// TestR12NestedCallsConcurrent invokes ten times as many handlers as may run at once. Each
// handler makes calls, too.
func TestR12NestedCallsConcurrent(t *testing.T) {
	const limit = 50
	p := newPeer(t, script{forget: true, message: func(c *peerConn, m *peerMessage) bool {
		switch {
		case m.Type == "invokefunction" && m.FunctionID == "own::leaf": // send it back to the worker
			c.send(string(m.Raw))
		case m.Type == "invocationresult" && m.FunctionID == "own::leaf":
			c.send(string(m.Raw))
		default:
			return false
		}
		return true
	}})
	c := p.client(WithMaxConcurrency(limit))
	var finished atomic.Int64
	done := make(chan struct{})
	_, err := c.HandleFunc("own::root", func(ctx context.Context, payload json.RawMessage) (any, error) {
		for range 3 {
			if err := c.Call(ctx, "x::y", payload, nil); err != nil {
				return nil, err
			}
		}
		if finished.Add(1) == 10*limit {
			close(done)
		}
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.HandleFunc("own::leaf", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 * limit {
		p.conn(0).invoke("own::root", "1")
	}
	select {
	case <-done:
	case <-time.After(waitLimit):
		t.Fatalf("%d of %d handlers finished", finished.Load(), 10*limit)
	}
	if got, err := Call[int](t.Context(), c, "own::leaf", 5); err != nil || got != 5 {
		t.Errorf("call of an own function: %d, %v", got, err)
	}
}

// When 1,000 handlers panic simultaneously, every caller receives an error and the worker
// keeps running. The log contains the stacks. Callers receive them only if WithStackTraces is
// set.
func TestR17PanicsConcurrent(t *testing.T) {
	for _, toCaller := range []bool{false, true} {
		t.Run(fmt.Sprint("stacks to the caller: ", toCaller), func(t *testing.T) {
			const n = 1000
			var log lockedBuffer
			opts := []Option{WithLogger(slog.New(slog.NewTextHandler(&log, nil)))}
			if toCaller {
				opts = append(opts, WithStackTraces())
			}
			p := newPeer(t, script{})
			c := p.client(opts...)
			_, err := c.HandleFunc("bad", func(context.Context, json.RawMessage) (any, error) {
				panic(errors.New("a text for nobody else"))
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			var ids []string
			for i := range n {
				if i%10 == 0 { // without an id, no caller waits for a result
					p.conn(0).send(`{"type":"invokefunction","function_id":"bad","data":null}`)
					continue
				}
				ids = append(ids, p.conn(0).invoke("bad", "1"))
			}
			for _, id := range ids {
				m := p.answered(id)
				if m.Error == nil || m.Error.Code != "invocation_failed" || len(m.Result) > 0 {
					t.Fatalf("answer: %s", m.Raw)
				}
				got := strings.Contains(m.Error.Message, "nobody else") && strings.Contains(m.Error.Stacktrace, "promise_test.go")
				if none := !strings.Contains(string(m.Raw), "nobody else") && m.Error.Stacktrace == ""; got != toCaller || none == toCaller {
					t.Fatalf("answer: %s", m.Raw)
				}
			}
			if got, err := Call[int](t.Context(), c, "x::y", 7); err != nil || got != 7 {
				t.Errorf("call afterward: %d, %v", got, err)
			}
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			lines := strings.Split(log.String(), "\n")
			stacks := 0
			for _, line := range lines {
				if strings.Contains(line, "handler panicked") && strings.Contains(line, "promise_test.go") && strings.Contains(line, "nobody else") {
					stacks++
				}
			}
			if stacks != n {
				t.Errorf("%d stacks in the log, want %d", stacks, n)
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The callback queue keeps its order, is bounded, and survives panics and runtime.Goexit.
func TestCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		n := &callbackQueue{log: func() *slog.Logger { return logger }}
		blocked := make(chan struct{})
		var got []int
		n.post(func() { <-blocked })
		for i := range maxCallbacks + 100 {
			n.post(func() {
				switch got = append(got, i); i {
				case 5:
					panic("callback")
				case 7, maxCallbacks - 2:
					runtime.Goexit() // as t.FailNow does
				}
			})
		}
		quiet := n.idle()
		select {
		case <-quiet:
			t.Error("quiet while a callback runs")
		default:
		}
		close(blocked)
		<-quiet
		<-n.idle()
		if len(got) != maxCallbacks && len(got) != maxCallbacks-1 { // the first may already have left the queue
			t.Errorf("%d callbacks, want %d", len(got), maxCallbacks)
		}
		for i, v := range got {
			if i != v {
				t.Fatalf("callback %d at place %d", v, i)
			}
		}
		if text := log.String(); strings.Count(text, "did not return") != 1 || strings.Count(text, "callback panicked") != 1 {
			t.Errorf("log: %s", text)
		}
	})
}

// hostileMessages are text messages that a real engine never sends.
var hostileMessages = map[string]string{
	"nothing":                       ``,
	"space":                         " \n\t ",
	"no JSON":                       `hello`,
	"half an object":                `{"type":"invokefunction","invocation_id"`,
	"array":                         `[{"type":"ping"}]`,
	"no type":                       `{"invocation_id":"x"}`,
	"type is a number":              `{"type":5}`,
	"type is an object":             `{"type":{"type":"ping"}}`,
	"unknown type":                  `{"type":"selfdestruct"}`,
	"deep array":                    strings.Repeat("[", 1_000_000),
	"deep data":                     `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"f","data":` + strings.Repeat(`{"a":[`, 500_000),
	"deep and whole":                `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"f","data":` + strings.Repeat(`[`, 500_000) + strings.Repeat(`]`, 500_000) + `}`,
	"no UTF-8":                      "{\"type\":\"\xff\xfe\"}",
	"NUL":                           "{\"type\":\"ping\"}\x00",
	"invoke without anything":       `{"type":"invokefunction"}`,
	"invoke of a number":            `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":7,"data":1}`,
	"invoke with a number as id":    `{"type":"invokefunction","invocation_id":7,"function_id":"f","data":1}`,
	"invoke with a short id":        `{"type":"invokefunction","invocation_id":"7","function_id":"f","data":1}`,
	"invoke with an escaped id":     `{"type":"invokefunction","invocation_id":"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"","function_id":"f","data":1}`,
	"invoke without data":           `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"f"}`,
	"invoke of an unknown function": `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"\u0000\ud800","data":1}`,
	"invoke with odd extras":        `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"f","data":1,"traceparent":7,"baggage":[],"metadata":"m"}`,
	"invoke without an answer":      `{"type":"invokefunction","invocation_id":null,"function_id":"nowhere","data":1}`,
	"result without an id":          `{"type":"invocationresult","result":1}`,
	"result of nobody":              `{"type":"invocationresult","invocation_id":"` + testID + `","result":1}`,
	"result with text as error":     `{"type":"invocationresult","invocation_id":"` + testID + `","error":"no"}`,
	"result with an odd id":         `{"type":"invocationresult","invocation_id":"zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz","result":1}`,
	"pong of nobody":                `{"type":"pong"}`,
	"ping":                          `{"type":"ping","more":[1,2]}`,
	"second greeting":               `{"type":"workerregistered","worker_id":"other"}`,
	"greeting with a number":        `{"type":"workerregistered","worker_id":7}`,
	"trigger result without fields": `{"type":"triggerregistrationresult"}`,
	"trigger result of nobody":      `{"type":"triggerregistrationresult","id":"t","trigger_type":"x","function_id":"f","error":{"code":"C","message":"m"}}`,
	"trigger result with numbers":   `{"type":"triggerregistrationresult","id":1,"error":2}`,
	"trigger for a provider":        `{"type":"registertrigger","id":"t","trigger_type":"none","function_id":"f","config":null}`,
	"trigger without fields":        `{"type":"registertrigger"}`,
	"trigger taken from a provider": `{"type":"unregistertrigger","id":"t","trigger_type":"none"}`,
	"rejection with a number":       `{"type":"registrationrejected","code":7}`,
	"rejection of nobody":           `{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":"a::b::c","owner_worker_id":"w"}`,
}

// Invalid messages do not make the client panic or disconnect. The client can still serve and
// make calls.
func TestR16NoInputHarms(t *testing.T) {
	p := newPeer(t, script{})
	c := p.client()
	if _, err := c.HandleFunc("f", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := p.conn(0)
	healthy := func(t *testing.T) {
		t.Helper()
		if got, err := Call[string](t.Context(), c, "x::y", "still there"); err != nil || got != "still there" {
			t.Fatalf("call afterward: %q, %v", got, err)
		}
		if m := p.answered(conn.invoke("f", "1")); string(m.Result) != "1" {
			t.Fatalf("answer afterward: %s", m.Raw)
		}
	}
	for name, message := range hostileMessages {
		t.Run(name, func(t *testing.T) {
			conn.send(message)
			healthy(t)
			_ = conn.WriteFrame(enginetest.OpBinary, true, []byte(message))
			healthy(t)
			for i := range message { // one byte per frame
				if i > 200 {
					break
				}
				op := byte(enginetest.OpContinuation)
				if i == 0 {
					op = enginetest.OpText
				}
				_ = conn.WriteFrame(op, false, []byte(message[i:i+1]))
				_ = conn.WriteFrame(enginetest.OpPing, true, []byte("between"))
			}
			if len(message) > 0 {
				_ = conn.WriteFrame(enginetest.OpContinuation, true, nil)
			}
			healthy(t)
		})
	}
	if s := c.Stats(); s.FramesMalformed < 30 || s.Reconnects != 0 {
		t.Errorf("%d malformed messages, %d reconnects", s.FramesMalformed, s.Reconnects)
	}
}

// If the engine violates the WebSocket protocol, the client reconnects.
func TestR16BrokenFramesCostTheConnection(t *testing.T) {
	tests := map[string]func(c *peerConn){
		"reserved bit":            func(c *peerConn) { _ = c.WriteFrame(enginetest.OpText|0x40, true, []byte("x")) },
		"unknown opcode":          func(c *peerConn) { _ = c.WriteFrame(5, true, []byte("x")) },
		"fragmented ping":         func(c *peerConn) { _ = c.WriteFrame(enginetest.OpPing, false, []byte("x")) },
		"long ping":               func(c *peerConn) { _ = c.WriteFrame(enginetest.OpPing, true, make([]byte, 126)) },
		"continuation of nothing": func(c *peerConn) { _ = c.WriteFrame(enginetest.OpContinuation, true, []byte("x")) },
		"masked frame":            func(c *peerConn) { _, _ = c.Write([]byte{0x81, 0x81, 1, 2, 3, 4, 5}) },
		"negative length":         func(c *peerConn) { _, _ = c.Write([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}) },
		"no WebSocket":            func(c *peerConn) { _, _ = c.Write([]byte(strings.Repeat("HTTP/1.1 200 OK\r\n\r\n", 100))) },
		"Close":                   func(c *peerConn) { _ = c.WriteFrame(enginetest.OpClose, true, nil) },
		"Close with a reason":     func(c *peerConn) { _ = c.WriteFrame(enginetest.OpClose, true, []byte("\x03\xe8bye")) },
		"broken Close":            func(c *peerConn) { _ = c.WriteFrame(enginetest.OpClose, true, []byte{3}) },
		"message over the limit":  func(c *peerConn) { c.send(`"` + strings.Repeat("x", 1<<20) + `"`) },
		"fragments over the limit": func(c *peerConn) {
			_ = c.WriteFrame(enginetest.OpText, false, []byte(`"`))
			for range 20 {
				_ = c.WriteFrame(enginetest.OpContinuation, false, make([]byte, 60_000))
			}
		},
		"frame that announces too much": func(c *peerConn) { _, _ = c.Write([]byte{0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0}) },
	}
	for name, harm := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, w := newPeer(t, script{}), newWatch()
				c := p.connected(w.option(), WithReadLimit(1<<20))
				harm(p.conn(0))
				p.conn(1)
				synctest.Wait()
				if got, err := Call[int](t.Context(), c, "x::y", 7); err != nil || got != 7 {
					t.Errorf("call afterward: %d, %v", got, err)
				}
				if e, _ := w.wait(t, 0, func(e watched) bool { return e.err != nil }); e.state != ConnectionStateReconnecting {
					t.Errorf("told: %v", e)
				}
			})
		})
	}
}

// TestR16FloodsAreBounded floods a client with messages and does not read the replies.
func TestR16FloodsAreBounded(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	floods := map[string]struct {
		message string
		binary  byte
		limit   int64 // how much the heap may grow, in bytes; 0 means 160 MiB
	}{
		"pings":            {`{"type":"ping"}`, enginetest.OpText, 0},
		"WebSocket pings":  {strings.Repeat("x", 125), enginetest.OpPing, 4 << 20},
		"unknown function": {`{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"` + strings.Repeat("x", 500) + `","data":1}`, enginetest.OpText, 0},
		"junk":             {`{"a":`, enginetest.OpText, 0},
		"rejections":       {`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"d","function_id":"f","owner_worker_id":"w"}`, enginetest.OpText, 0},
		"answers":          {`{"type":"invocationresult","invocation_id":"` + testID + `","result":1}`, enginetest.OpText, 0},
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{forget: true})
				blocked := make(chan struct{})
				c := p.connected(WithStateListener(func(ConnectionState, error) { <-blocked }))
				defer close(blocked)
				before := heap()
				resume := p.conn(0).StopReading()
				defer resume()
				for range scale(50_000, 2_000_000) {
					if p.conn(0).WriteFrame(flood.binary, true, []byte(flood.message)) != nil {
						break // enough has arrived
					}
				}
				synctest.Wait()
				grown := heap() - before
				t.Logf("the heap grew by %d KiB", grown>>10)
				if limit := gocmp.Or(flood.limit, 160<<20); grown > limit {
					t.Errorf("the heap grew by %d KiB, more than %d", grown>>10, limit>>10)
				}
				_ = c.Close()
			})
		})
	}
}

// After the worker has been accepted, an error frame with an authentication failure code makes
// the client reconnect. The client ignores other error frames.
func TestR16ErrorFramesCostAtMostTheConnection(t *testing.T) {
	for _, test := range []struct {
		code string
		lost bool
	}{{"AUTH_ERROR", true}, {"LIMIT", false}, {"", false}} {
		t.Run(test.code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{})
				w := newWatch()
				c := p.connected(w.option())
				p.conn(0).send(`{"type":"error","error":{"code":"` + test.code + `","message":"no"}}`)
				synctest.Wait()
				refused := slices.ContainsFunc(w.all(), func(e watched) bool {
					var refusal *AuthError
					return errors.As(e.err, &refusal)
				})
				if refused != test.lost || (c.Stats().FramesMalformed != 0) == test.lost {
					t.Errorf("the listener received %v, %d frames were malformed", w.all(), c.Stats().FramesMalformed)
				}
				time.Sleep(2 * time.Second)
				if want := map[bool]uint64{true: 1}[test.lost]; c.State() != ConnectionStateConnected || c.Err() != nil || c.Stats().Reconnects != want {
					t.Errorf("the client is %v after %d reconnections, want connected after %d: %v", c.State(), c.Stats().Reconnects, want, c.Err())
				}
			})
		})
	}
}

// TestR16Handshake responds to the upgrade request in unusual ways.
func TestR16Handshake(t *testing.T) {
	const accepted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	tests := []struct {
		name, answer string
		endless      string // sent repeatedly after the answer
		want         string // substring of the error
	}{
		{name: "no HTTP", answer: "SSH-2.0-x\r\n\r\n", want: "connect to engine.test"},
		{name: "not found", answer: "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", want: "404"},
		{name: "unauthorized", answer: "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", want: "401"},
		{name: "redirect", answer: "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\nContent-Length: 0\r\n\r\n", want: "302"},
		{name: "no reason", answer: "HTTP/1.1 407\r\n\r\n", want: "407"},
		{name: "wrong key", answer: accepted + "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", want: "bad handshake"},
		{name: "endless header", answer: accepted, endless: "X-Header: " + strings.Repeat("x", 1000) + "\r\n", want: "too long"},
		{name: "endless line", answer: "HTTP/1.1 101 ", endless: strings.Repeat("x", 1000), want: "too long"},
		{name: "endless body", answer: "HTTP/1.1 500 No\r\n\r\n", endless: strings.Repeat("x", 1000), want: "500"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := New("ws://engine.test", WithLogger(testLogger), WithDialContext(func(context.Context, string, string) (net.Conn, error) {
					near, far := memnet.Pipe(memnet.Capacity)
					go func() {
						defer far.Close()
						if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
							return
						}
						_, _ = far.Write([]byte(test.answer))
						for test.endless != "" {
							if _, err := far.Write([]byte(test.endless)); err != nil {
								return
							}
						}
					}()
					return near, nil
				}))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err = suite.note(c.Connect(ctx))
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Connect: %v, want %q in it", err, test.want)
				}
			})
		})
	}
	t.Run("extension", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client(WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := p.mem.DialContext(ctx, "", "")
				return &extendingConn{Conn: conn}, err
			}))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := suite.note(c.Connect(ctx)); err == nil || !strings.Contains(err.Error(), "extension") {
				t.Errorf("Connect: %v", err)
			}
		})
	})
}

// extendingConn adds an extension to the upgrade response that the client reads.
type extendingConn struct {
	net.Conn
	done bool
}

func (c *extendingConn) Read(p []byte) (int, error) {
	if c.done {
		return c.Conn.Read(p)
	}
	c.done = true
	n, err := c.Conn.Read(p[:len(p)-200])
	text := strings.Replace(string(p[:n]), "\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n", 1)
	return copy(p, text), err
}

// liveHeap returns the heap size after a garbage collection.
func liveHeap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestR11NoGoroutineIsLeft counts goroutines after many reconnects, and after a connection was
// lost with results waiting to be sent.
func TestR11NoGoroutineIsLeft(t *testing.T) {
	t.Run("reconnects", func(t *testing.T) {
		before := runtime.NumGoroutine()
		n := scale(300, 10_000)
		gained, growth := 0, 0
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{forget: true})
			c := p.client()
			registerMany(t, c, 20)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			steady := liveGoroutines()
			half := 0
			for i := range n {
				if i == n/2 {
					half = liveHeap()
				}
				p.conn(i).invoke("f::1", "1")
				p.conn(i).Cut()
				p.conn(i + 1)
				for c.State() != ConnectionStateConnected {
					synctest.Wait()
				}
				p.mu.Lock()
				p.conns[i] = nil // do not measure the peer's memory
				p.mu.Unlock()
			}
			synctest.Wait()
			growth = liveHeap() - half
			gained = liveGoroutines() - steady
			if got := c.Stats().Reconnects; got != uint64(n) {
				t.Errorf("%d reconnects, want %d", got, n)
			}
		})
		if gained > 1 { // one idle handler goroutine
			t.Errorf("%d goroutines gained over %d reconnects", gained, n)
		}
		if t.Logf("the heap grew by %d bytes over %d reconnects", growth, n-n/2); growth > 1<<20 {
			t.Errorf("the heap grew by %d bytes over %d reconnects", growth, n-n/2)
		}
		if left := leftover(before, waitLimit); left != "" {
			t.Errorf("goroutines left:\n%s", left)
		}
	})
	t.Run("answers that cannot leave", func(t *testing.T) {
		before := runtime.NumGoroutine()
		synctest.Test(t, func(t *testing.T) {
			const n = 1000
			p := newPeer(t, script{})
			c := p.client()
			release := make(chan struct{})
			_, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) {
				<-release
				return strings.Repeat("x", 10_000), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			steady := liveGoroutines()
			for range n {
				p.conn(0).invoke("f", "1")
			}
			synctest.Wait()
			resume := p.conn(0).StopReading()
			close(release) // half the results fill the connection, the others wait
			synctest.Wait()
			p.conn(0).Cut()
			resume()
			synctest.Wait()
			if got := c.Stats(); got.HandlersRunning != 0 || got.RepliesDropped == 0 {
				t.Errorf("%d handlers run, %d answers dropped", got.HandlersRunning, got.RepliesDropped)
			}
			p.conn(1)
			for c.State() != ConnectionStateConnected {
				synctest.Wait()
			}
			synctest.Wait() // until the goroutines that connected have ended
			if gained := liveGoroutines() - steady; gained > maxIdleWorkers {
				t.Errorf("%d goroutines gained", gained)
			}
			_ = c.Close()
		})
		if left := leftover(before, waitLimit); left != "" {
			t.Errorf("goroutines left:\n%s", left)
		}
	})
}

// watch records the calls to a client's state listener.
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

// wait waits for an event that satisfies match and whose index is start or greater. It returns
// the event and its index.
func (w *watch) wait(tb testing.TB, start int, match func(watched) bool) (watched, int) {
	tb.Helper()
	for {
		w.mu.Lock()
		events, changed := w.events, w.changed
		w.mu.Unlock()
		for ; start < len(events); start++ {
			if match(events[start]) {
				return events[start], start
			}
		}
		select {
		case <-changed:
		case <-time.After(10 * waitLimit):
			tb.Fatalf("no such event; the state listener received %v", events)
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

// registerMany registers n functions, named f::0 and so on, and a trigger for every tenth
// function. It returns the ids in replay order: functions first, then triggers.
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

// TestR1NeverWedged breaks connections after a random number of bytes in a random direction,
// while the client registers functions and makes calls. The client must reconnect within the
// current delay plus the dial timeout, and register everything again.
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
				time.Sleep(50 * time.Millisecond) // virtual time
			}
		})
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	// At random times, break the connections that have not reached their byte limit.
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

	// Each failure before the client is ready doubles the next delay.
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
				t.Errorf("connected %v after a cut, want at most %v", took, limit)
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

// bound returns the longest time that a reconnection may take after the given number of
// failures.
func bound(failures int) time.Duration {
	return time.Duration(1.3*float64(time.Second)*math.Pow(2, float64(failures-1))) + wsconn.DialTimeout
}

// After a connection that became ready, the reconnect delay restarts at its initial value.
// After any other connection, the delay grows.
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

// TestR4SilentPeerIsNoticed tests peers that keep the connection open but send nothing.
func TestR4SilentPeerIsNoticed(t *testing.T) {
	// lost waits for the event that reports the loss of the connection, and returns it.
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
				t.Errorf("%d pings in an hour, want one every 20 s", n)
			}
		})
	})
	t.Run("slow large message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, w := newPeer(t, script{noPong: true, call: func(_ *peerConn, m *peerMessage) string { return `"` + strings.Repeat("x", 3000) + `"` }}), newWatch()
			// Reading the result takes more than two minutes, during which no pong arrives.
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
						t.Errorf("dial canceled after %v", took)
					}
					_ = c.Close()
					time.Sleep(time.Second) // until the other side has noticed
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
			for range 20 { // more than the pipe holds
				go func() { _ = c.Send(t.Context(), "x::y", strings.Repeat("x", 64<<10)) }()
			}
			if took := lost(t, w).at.Sub(began); took != wsconn.WriteTimeout {
				t.Errorf("blocked write noticed after %v", took)
			}
			resume()
		})
	})
}

// blockedPeers lists the ways in which an engine can block a client. Each function returns a
// blocked client.
var blockedPeers = map[string]func(t *testing.T) *Client{
	"never answers": func(t *testing.T) *Client {
		return newPeer(t, script{message: unanswered}).connected(WithDrainTimeout(time.Millisecond))
	},
	"has stopped reading": func(t *testing.T) *Client {
		p := newPeer(t, script{})
		c := p.connected(WithDrainTimeout(time.Millisecond))
		t.Cleanup(p.conn(0).StopReading())
		for range 200 {
			go func() { _ = c.Send(context.Background(), "x::y", strings.Repeat("x", 64<<10)) }()
		}
		synctest.Wait()
		if s := c.Stats(); s.FramesSent > 50 {
			t.Fatalf("%d messages were written; the peer does not block", s.FramesSent)
		}
		return c
	},
	"cannot be dialed": func(t *testing.T) *Client {
		p := newPeer(t, script{})
		c := p.client(WithDrainTimeout(time.Millisecond), WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		go func() { _ = c.Connect(context.Background()) }()
		synctest.Wait()
		return c
	},
	"has gone": func(t *testing.T) *Client {
		var gone atomic.Bool
		p := newPeer(t, script{refuse: func(int, *http.Request) int {
			if gone.Load() {
				return http.StatusBadGateway
			}
			return 0
		}})
		c := p.connected(WithDrainTimeout(time.Millisecond))
		gone.Store(true)
		p.conn(0).Cut()
		time.Sleep(time.Minute) // virtual time, until the reconnect delay is long
		if err := c.Send(context.Background(), "x::y", 1); err != nil {
			t.Fatal(err)
		}
		return c
	},
	"never registers": func(t *testing.T) *Client {
		p := newPeer(t, script{greet: func(*peerConn) {}, message: func(*peerConn, *peerMessage) bool { return true }})
		c := p.client(WithDrainTimeout(time.Millisecond))
		go func() { _ = c.Connect(context.Background()) }()
		synctest.Wait()
		return c
	},
	"was never dialed": func(t *testing.T) *Client {
		return newPeer(t, script{}).client(WithDrainTimeout(time.Millisecond), WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	},
	"waits for a handler": func(t *testing.T) *Client {
		p := newPeer(t, script{message: unanswered})
		c := p.client(WithDrainTimeout(time.Millisecond))
		stuck := make(chan struct{})
		t.Cleanup(func() { close(stuck) })
		if _, err := c.HandleFunc("stuck", func(context.Context, json.RawMessage) (any, error) { <-stuck; return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.conn(0).invoke("stuck", "null")
		synctest.Wait()
		return c
	},
}

// blockingMethods lists methods that take a context.
var blockingMethods = map[string]func(ctx context.Context, c *Client) error{
	"Call": func(ctx context.Context, c *Client) error { return c.Call(ctx, "x::y", 1, nil, WithTimeout(time.Hour)) },
	"Send": func(ctx context.Context, c *Client) error { return c.Send(ctx, "x::y", 1, WithTimeout(time.Hour)) },
	"Enqueue": func(ctx context.Context, c *Client) error {
		_, err := c.Enqueue(ctx, "q", "x::y", 1, WithTimeout(time.Hour))
		return err
	},
	"large Call": func(ctx context.Context, c *Client) error {
		return c.Call(ctx, "x::y", strings.Repeat("x", 1<<20), nil, WithTimeout(time.Hour))
	},
	"Connect":  func(ctx context.Context, c *Client) error { return c.Connect(ctx) },
	"Run":      func(ctx context.Context, c *Client) error { return c.Run(ctx) },
	"Shutdown": func(ctx context.Context, c *Client) error { return c.Shutdown(ctx) },
	"CreateChannel": func(ctx context.Context, c *Client) error {
		w, r, err := c.CreateChannel(ctx)
		if err == nil {
			_, _ = w.Close(), r.Close()
		}
		return err
	},
	"OpenWriter": func(ctx context.Context, c *Client) error {
		w, err := c.OpenWriter(ctx, StreamChannelRef{ChannelID: "c", AccessKey: "k", Direction: StreamChannelDirectionWrite})
		if err == nil {
			_ = w.Close()
		}
		return err
	},
	"OpenReader": func(ctx context.Context, c *Client) error {
		r, err := c.OpenReader(ctx, StreamChannelRef{ChannelID: "c", AccessKey: "k", Direction: StreamChannelDirectionRead})
		if err == nil {
			_ = r.Close()
		}
		return err
	},
}

// promptly limits how long a method may take to return once its context is done.
const promptly = 50 * time.Millisecond

// Every blocking method must return promptly when its context is done, whatever the engine
// does.
func TestR9MethodsReturn(t *testing.T) {
	longest := time.Duration(0)
	for peerName, stuck := range blockedPeers {
		for name, method := range blockingMethods {
			t.Run(name+" of a peer that "+peerName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := stuck(t)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					began := time.Now()
					err := suite.note(method(ctx, c))
					took := time.Since(began) - time.Second
					longest = max(longest, took)
					if took > promptly {
						t.Errorf("%v, %v after its context was done", err, took)
					}
				})
			})
		}
	}
	t.Logf("longest time after a context was done: %v (virtual)", longest)
}

// Methods without a context return at once, whatever the engine does.
func TestR9RegistrationsDoNotWait(t *testing.T) {
	for peerName, stuck := range blockedPeers {
		t.Run(peerName, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := stuck(t)
				began := time.Now()
				f, err := c.HandleFunc("a::b", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
				if err != nil {
					t.Fatal(err)
				}
				tr, err := c.Trigger("a::b", CustomTrigger{Type: "x"})
				if err != nil {
					t.Fatal(err)
				}
				_, _, _, _, _, _ = c.State(), c.Stats(), c.WorkerID(), c.Err(), f.Err(), tr.Err()
				if err := tr.Unregister(); err != nil {
					t.Error(err)
				}
				if err := f.Unregister(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("registrations took %v", took)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > promptly {
					t.Errorf("Close took %v", took)
				}
			})
		})
	}
}

// If the program has not called Connect, the error from a call says so.
func TestCallWithoutConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Call(ctx, "f", 1, nil)
		const want = "iii: call f: not connected, since neither Connect nor Run was called: context deadline exceeded"
		if err == nil || err.Error() != want || !errors.Is(err, ErrNotConnected) || !SafeToRetry(err) {
			t.Errorf("got %v, want %s", err, want)
		}
		_ = c.Close()
	})
}

// The error from Connect distinguishes a server that is not an engine from an address without
// a server.
func TestConnectErrorDescribesServer(t *testing.T) {
	for name, test := range map[string]struct {
		options []Option
		want    string
	}{
		"no engine": {nil, "has taken the connection, and not yet the worker"},
		"nobody": {[]Option{WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}, "has not answered yet"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: func(*peerConn) {}, message: func(*peerConn, *peerMessage) bool { return true }})
				c := p.client(test.options...)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := c.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want an error that contains %q", err, test.want)
				}
			})
		})
	}
}

// A call with a canceled context is not sent, and its error does not blame the connection.
func TestCallWithCanceledContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPeer(t, script{}).client()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := c.Call(ctx, "f", 1, nil)
		const want = "iii: call f: not sent: context canceled"
		if err == nil || err.Error() != want || !errors.Is(err, ErrNotConnected) || !errors.Is(err, context.Canceled) || !SafeToRetry(err) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// secretAddresses lists addresses that are invalid for various reasons and contain secrets.
var secretAddresses = []string{
	"ws://user:" + secretPassword + "@engine.test:port",
	"ws://user:" + secretPassword + "@engine.test:99999999999",
	"ws://user:" + secretPassword + "/x@engine.test",
	"ws://user:" + secretPassword + "%zz@engine.test",
	"ws://user:" + secretPassword + "\x7f@engine.test",
	"ws://user:" + secretPassword + "@[::1",
	"ws://user:" + secretPassword + "@",
	"ftp://user:" + secretPassword + "@engine.test",
	secretPassword + "://engine.test",
	secretPassword + ":x@engine.test",
	secretPassword,
	"ws://?token=" + secretQuery,
	"engine.test/?token=" + secretQuery,
	"://" + secretPassword,
	"%zz" + secretPassword,
}

func TestR19BadAddresses(t *testing.T) {
	for _, address := range secretAddresses {
		c, err := New(address)
		if err == nil {
			_ = c.Close()
			t.Errorf("%q is accepted", address)
			continue
		}
		for _, secret := range []string{secretPassword, secretQuery} {
			if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
				t.Errorf("%q: the error contains the secret: %s", address, text)
			}
		}
	}
}

// TestR19NoSecretLeaks puts secrets wherever the client accepts them and provokes errors of
// every kind. No log line and no error may contain a secret.
func TestR19NoSecretLeaks(t *testing.T) {
	found := &collector{secrets: suite.secrets}
	options := func(p *peer, more ...Option) []Option {
		return append([]Option{
			WithDialContext(p.mem.DialContext), WithHeader(http.Header{"X-Api-Key": {secretHeader}, "Cookie": {"session=" + secretHeader}}),
			WithLogger(slog.New(slog.NewJSONHandler(found, &slog.HandlerOptions{Level: slog.LevelDebug}))),
			WithStateListener(func(_ ConnectionState, err error) { found.note(err) }),
		}, more...)
	}
	address := "ws://user:" + secretPassword + "@engine.test/path?token=" + secretQuery
	attempt := func(t *testing.T, p *peer, more ...Option) {
		t.Helper()
		c, err := New(address, options(p, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := found.note(c.Connect(ctx)); err == nil {
			t.Error("connected")
		}
		found.note(c.Call(ctx, "x::y", 1, nil))
		found.note(c.Err())
	}
	scenarios := map[string]func(t *testing.T){
		"refused": func(t *testing.T) {
			for _, status := range []int{301, 401, 403, 404, 500} {
				var seen atomic.Int32
				attempt(t, newPeer(t, script{refuse: func(_ int, r *http.Request) int {
					basic := base64.StdEncoding.EncodeToString([]byte("user:" + secretPassword))
					if r.Header.Get("X-Api-Key") == secretHeader && r.Header.Get("Authorization") == "Basic "+basic && r.URL.Query().Get("token") == secretQuery {
						seen.Add(1)
					}
					return status
				}}))
				if seen.Load() == 0 {
					t.Error("the secrets were not sent: the test proves nothing")
				}
			}
		},
		"not authenticated": func(t *testing.T) {
			attempt(t, newPeer(t, script{greet: func(c *peerConn) {
				c.send(`{"type":"error","error":{"code":"AUTH_ERROR","message":"who are you?"}}`)
			}}))
		},
		"name taken": func(t *testing.T) {
			attempt(t, newPeer(t, script{greet: func(c *peerConn) {
				c.welcome()
				c.send(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"d","worker_name":"w","owner_worker_id":"o"}`)
			}}))
		},
		"cut in the greeting": func(t *testing.T) { attempt(t, newPeer(t, script{greet: (*peerConn).Cut})) },
		"odd greeting": func(t *testing.T) {
			p := newPeer(t, script{greet: func(c *peerConn) {
				c.send(`{"type":"workerregistered","worker_id":7,"reattach_token":"` + tokenMark + `"}`)
				c.send(`{"type":"workerregistered","worker_id":"w","reattach_token":{"t":"` + tokenMark + `"}}`)
				c.send(`{"type":"workerregistered","reattach_token":"` + tokenMark + ``)
				c.Cut()
			}})
			attempt(t, p)
		},
		"reconnects": func(t *testing.T) {
			p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
				if m.FunctionID == "x::cut" {
					c.Cut()
				}
				return false
			}})
			c, err := New(address, options(p)...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			registerMany(t, c, 20)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				found.note(c.Call(t.Context(), "x::cut", 1, nil))
				found.note(c.Send(t.Context(), "x::cut", 1))
				found.note(c.Call(t.Context(), "x::y", 1, nil))
			}
			var token bool
			for _, m := range p.messages(-1, "reattach") {
				token = token || strings.Contains(m.ReattachToken, tokenMark)
			}
			if !token {
				t.Error("no reattach token was sent: the test proves nothing")
			}
			_, err = c.HandleFunc("x", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
			found.note(err)
			found.note(fmt.Errorf("%+v", c.Stats()))
			found.note(c.Shutdown(t.Context()))
		},
		"gone": func(t *testing.T) {
			p := newPeer(t, script{})
			p.server.Refuse()
			attempt(t, p)
		},
		"TLS that is none": func(t *testing.T) {
			p := newPeer(t, script{})
			c, err := New(strings.Replace(address, "ws:", "wss:", 1), options(p)...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			found.note(c.Connect(ctx))
		},
	}
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) { synctest.Test(t, scenario) })
	}
	lines, leaks := found.result()
	if lines < 50 {
		t.Errorf("%d log lines and errors: the test proves nothing", lines)
	}
	if len(leaks) > 0 {
		t.Errorf("secrets have leaked:\n%s", strings.Join(leaks, "\n"))
	}
	found.note(fmt.Errorf("planted: %s", tokenMark))
	if _, leaks := found.result(); len(leaks) != 1 {
		t.Error("the search does not find a planted secret")
	}
}

// paddedJSON returns a JSON string of size bytes.
func paddedJSON(size int) json.RawMessage {
	b := bytes.Repeat([]byte{'x'}, size)
	b[0], b[size-1] = '"', '"'
	return b
}

// TestR21SizeNeverKillsALink transfers messages whose sizes are close to the engine's limits
// of 16 MiB per frame and 64 MiB per message.
func TestR21SizeNeverKillsALink(t *testing.T) {
	sizes := []int{17, 65}
	switch {
	case *soak:
		sizes = []int{15, 17, 40, 63, 65}
	case raceEnabled:
		sizes = []int{2} // still more than one frame
	}
	type arrival struct{ bytes, frames int }
	arrivals := make(chan arrival, 1)
	p := newPeer(t, script{forget: true, message: func(c *peerConn, m *peerMessage) bool {
		switch m.FunctionID {
		case "x::y", "grow":
			arrivals <- arrival{len(m.Raw), m.Frames}
			if m.Type == "invokefunction" {
				c.result(m, `true`)
				return true
			}
			if m.Error != nil {
				arrivals <- arrival{frames: -1}
			}
		}
		return false
	}})
	p.mem.Capacity = 8 << 20
	c := p.client()
	_, err := Handle(c, "grow", func(_ context.Context, size int) (json.RawMessage, error) { return paddedJSON(size), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	fragments := func(t *testing.T, a arrival, size int) {
		t.Helper()
		if a.bytes < size || a.frames < size>>20 {
			t.Errorf("arrived: %d bytes in %d frames, of %d bytes", a.bytes, a.frames, size)
		}
	}
	for _, mib := range sizes {
		size, fits := mib<<20, mib < 64
		t.Run(fmt.Sprintf("call of %d MiB", mib), func(t *testing.T) {
			err := suite.note(c.Call(t.Context(), "x::y", paddedJSON(size), nil, WithTimeout(5*time.Minute)))
			switch {
			case fits && err == nil:
				fragments(t, <-arrivals, size)
			case fits || !errors.Is(err, ErrMessageTooLarge) || !SafeToRetry(err):
				t.Errorf("call: %v", err)
			}
		})
		t.Run(fmt.Sprintf("result of %d MiB", mib), func(t *testing.T) {
			p.conn(0).invoke("grow", fmt.Sprint(size))
			a := <-arrivals
			if fits {
				fragments(t, a, size)
			} else if refusal := <-arrivals; refusal.frames != -1 || a.bytes > 1000 {
				t.Errorf("arrived: %+v", a)
			}
		})
		t.Run(fmt.Sprintf("answer of %d MiB", mib), func(t *testing.T) {
			if !fits {
				return // an engine never sends such a message
			}
			var got json.RawMessage
			q := newPeer(t, script{forget: true, call: func(*peerConn, *peerMessage) string { return string(paddedJSON(size)) }})
			q.mem.Capacity = 8 << 20
			if err := q.connected().Call(t.Context(), "x::y", 1, &got, WithTimeout(5*time.Minute)); err != nil || len(got) != size {
				t.Errorf("answer of %d bytes, %v", len(got), err)
			}
		})
	}
	if s := c.Stats(); s.Reconnects != 0 || c.State() != ConnectionStateConnected {
		t.Errorf("%d reconnects, %v", s.Reconnects, c.State())
	}
}

// TestR21Limit checks a message just below the size limit and one at the limit.
func TestR21Limit(t *testing.T) {
	inv := invocation{functionID: "x::y"}
	b := newBuffer()
	if err := encodeInvoke(b, &inv, json.RawMessage(`""`)); err != nil {
		t.Fatal(err)
	}
	envelope := b.len() - 2
	for _, test := range []struct {
		size int
		fits bool
	}{{messageTooLarge - 1, true}, {messageTooLarge, false}} {
		if raceEnabled && test.fits {
			continue // skipped, because it is slow under the race detector
		}
		b.reset()
		err := encodeInvoke(b, &inv, paddedJSON(test.size-envelope))
		if b.len() != test.size && test.fits || errors.Is(err, ErrMessageTooLarge) == test.fits {
			t.Errorf("message of %d bytes: %d, %v", test.size, b.len(), err)
		}
	}
}

// All recorded telemetry arrives, even if the peer breaks the connection a hundred times.
func TestR13TelemetryArrives(t *testing.T) {
	for _, kind := range []string{"before the frame", "after the frame", "pong lost"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { recordWhileKilled(t, newOtelPeer(t, otelScript{}), kind) })
		})
	}
	t.Run("tcp", func(t *testing.T) { recordWhileKilled(t, newTCPOtelPeer(t, otelScript{}), "after the frame") })
}

func recordWhileKilled(t *testing.T, p *otelPeer, kind string) {
	const kills = 100
	var seen atomic.Int64
	n := 0
	p.script.frame = func(c *otelConn, _ []byte) bool {
		if count := seen.Add(1); c.n < kills && kind != "pong lost" && count%23 == 0 {
			c.kill()
			return kind == "after the frame"
		}
		return true
	}
	p.script.ping = func(c *otelConn, _ []byte) bool {
		if c.n < kills && kind == "pong lost" && c.pings == 3 {
			c.kill()
			return true
		}
		return false
	}
	tel := p.telemetry(OtelConfig{ReconnectionConfig: &ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 5}})
	counter, err := tel.Meter().Int64Counter("c")
	if err != nil {
		t.Fatal(err)
	}
	killed := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) > kills
	}
	for ; n < 1500 || n < 15_000 && !killed(); n++ {
		ctx, span := tel.Tracer().Start(t.Context(), fmt.Sprint(n))
		tel.Logger().Info(ctx, fmt.Sprint(n), nil)
		counter.Add(ctx, 1)
		span.End()
		if n%50 == 49 {
			if err := tel.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	stats := tel.Connection().Stats()
	if stats.Reconnects < kills {
		t.Errorf("%d kills, want %d", stats.Reconnects, kills)
	}
	spans, logs, metrics := map[any]int{}, map[any]int{}, map[any]int{}
	_, docs := p.documents(t)
	for _, doc := range docs {
		enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) {
			if enginetest.At(s, "endTimeUnixNano") != "0" {
				spans[enginetest.At(s, "name")]++
			}
		})
		enginetest.Each(doc, []string{"resourceLogs", "scopeLogs", "logRecords"}, func(r any) { logs[enginetest.At(r, "body", "stringValue")]++ })
		enginetest.Each(doc, []string{"resourceMetrics", "scopeMetrics", "metrics"}, func(m any) { metrics[enginetest.At(m, "sum", "dataPoints", 0, "asInt")]++ })
	}
	lost := 0
	for i := range n {
		for _, records := range []map[any]int{spans, logs} {
			if records[fmt.Sprint(i)] == 0 {
				lost++
			}
		}
	}
	if lost > 0 || metrics[fmt.Sprint(n)] == 0 || len(metrics) < n/50 {
		t.Errorf("%d spans and logs were lost; %d values of the counter arrived", lost, len(metrics))
	}
	if stats.Dropped() != 0 || stats.Lost != (RecordLosses{}) {
		t.Errorf("stats: %+v", stats)
	}
	t.Logf("%d kills: of %d spans, %d log records and %d metrics %d were lost; %d frames of %d were sent again",
		stats.Reconnects, n, n, n/50+1, lost, stats.Retried, stats.Sent)
}

// Flush returns only after the pong to a ping that was sent after the last frame. An earlier
// pong is not enough.
func TestR14FlushMeansReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type heldPing struct {
			payload []byte
			frames  int // received before the ping
		}
		var mu sync.Mutex
		var held []heldPing
		frames := 0
		p := newOtelPeer(t, otelScript{
			frame: func(*otelConn, []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				frames++
				return true
			},
			ping: func(_ *otelConn, payload []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, heldPing{append([]byte{}, payload...), frames})
				return true
			},
		})
		tel := p.telemetry(OtelConfig{})
		emitLog(tel, t.Context(), "early")
		c := p.conn(0)
		synctest.Wait()
		for i := range 20 {
			_, span := tel.Tracer().Start(t.Context(), fmt.Sprint(i))
			span.End()
			emitLog(tel, t.Context(), fmt.Sprint(i))
		}
		flushed := make(chan error, 1)
		go func() { flushed <- tel.Flush(t.Context()) }()
		last, answered := 0, 0
		for {
			synctest.Wait()
			mu.Lock()
			pings, all := held, frames
			mu.Unlock()
			if answered == len(pings) {
				break
			}
			if len(flushed) > 0 && last < all {
				t.Fatalf("Flush returned; the last pong was to a ping after frame %d of %d", last, all)
			}
			last = pings[answered].frames
			if answered > 0 && bytes.Equal(pings[answered].payload, pings[answered-1].payload) {
				t.Errorf("two pings after frame %d", last)
			}
			c.pong(pings[answered].payload)
			answered++
		}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		if answered < 2 || last != frames || frames < 42 {
			t.Errorf("%d pings, the last after frame %d of %d", answered, last, frames)
		}
		t.Logf("%d frames, %d pings", frames, answered)
	})
}

// Recording does not wait for the network. It takes no virtual time, even if the engine does
// not read or is unavailable and the queues are full. BenchmarkLogRecord measures the real
// time.
func TestR15RecordingNeverWaits(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%v", away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newOtelPeer(t, otelScript{})
				var tel *Telemetry
				cfg := OtelConfig{ChannelCapacity: ptr(uint64(10))}
				if away {
					p.close()
					tel = p.telemetry(cfg)
				} else {
					tel = p.telemetry(cfg)
					defer p.conn(0).StopReading()()
				}
				counter, err := tel.Meter().Int64Counter("c")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for range 10_000 {
					ctx, span := tel.Tracer().Start(t.Context(), "s")
					tel.Logger().Info(ctx, "hello", map[string]int{"n": 1})
					counter.Add(ctx, 1)
					span.End()
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("recording took %v", took)
				}
				if stats := tel.Connection().Stats(); stats.Logs.Full+stats.Traces.Full+stats.Lost.Overflowed == 0 {
					t.Errorf("no queue was full: %+v", stats)
				}
			})
		})
	}
}

// No error and no log line about telemetry contains a secret from an address, a header or an
// environment variable.
func TestR19NoTelemetrySecretLeaks(t *testing.T) {
	found := &collector{secrets: suite.secrets}
	log := slog.New(slog.NewJSONHandler(found, &slog.HandlerOptions{Level: slog.LevelDebug}))
	handler := otel.GetErrorHandler()
	defer otel.SetErrorHandler(handler)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { found.note(err) }))

	for _, address := range secretAddresses {
		_, err := NewSharedEngineConnection(address)
		if found.note(err) == nil {
			t.Errorf("%q is accepted", address)
		}
		_, err = StartTelemetry(t.Context(), OtelConfig{EngineWSURL: &address})
		found.note(err)
		t.Setenv("III_URL", address)
		_, err = StartTelemetry(t.Context(), OtelConfig{})
		found.note(err)
	}
	clearTelemetryEnv(t)
	for _, name := range telemetryVariables {
		// OpenTelemetry itself quotes the invalid value of OTEL_RESOURCE_ATTRIBUTES.
		if name != "III_URL" && name != "OTEL_RESOURCE_ATTRIBUTES" {
			t.Setenv(name, "="+secretHeader+","+secretPassword)
		}
	}

	refuse := func(status int) func(int, *http.Request) int { return func(int, *http.Request) int { return status } }
	greet := func(text string) func(*otelConn) {
		return func(c *otelConn) {
			_ = c.WriteFrame(enginetest.OpText, true, []byte(text))
			c.kill()
		}
	}
	for name, script := range map[string]otelScript{
		"redirected": {refuse: refuse(301)}, "not authenticated": {refuse: refuse(401)}, "failing": {refuse: refuse(500)},
		"refused": {greet: greet(`{"type":"error","error":{"code":"AUTH_ERROR","message":"who are you?"}}`)},
		"odd":     {greet: greet("\x00")}, "cut": {greet: (*otelConn).kill},
		"silent": {ping: func(*otelConn, []byte) bool { return true }},
	} {
		for _, logged := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s logged=%v", name, logged), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sent := false
					refuses := script.refuse
					script.refuse = func(n int, r *http.Request) int {
						_, password, _ := r.BasicAuth()
						sent = sent || r.Header.Get("X-Api-Key") == secretHeader && password == secretPassword && r.URL.Query().Get("token") == secretQuery
						if refuses != nil {
							return refuses(n, r)
						}
						return 0
					}
					p := newOtelPeer(t, script)
					options := []ConnectionOption{
						WithConnectionDialContext(p.mem.DialContext), WithConnectionHeader(http.Header{"X-Api-Key": {secretHeader}}),
						WithConnectionStateListener(func(_ ConnectionState, err error) { found.note(err) }), WithConnectionQueue(2, 1<<20),
					}
					if logged {
						options = append(options, WithConnectionLogger(log))
					}
					tel, err := StartTelemetry(t.Context(), OtelConfig{
						EngineWSURL: ptr("ws://user:" + secretPassword + "@engine.test/path?token=" + secretQuery), Enabled: ptr(true), LogsEnabled: ptr(true),
					}, WithTelemetryConnection(options...))
					if err != nil {
						t.Fatal(err)
					}
					for range 5 {
						emitLog(tel, t.Context(), "hello")
					}
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					found.note(tel.Flush(ctx))
					found.note(tel.Shutdown(t.Context()))
					found.note(tel.Connection().Send(OtelMessage{Prefix: otlpjson.PrefixLogs}))
					found.note(fmt.Errorf("%+v %v", tel.Connection().Stats(), tel.Connection().State()))
					if !sent {
						t.Error("the secrets were not sent: the test proves nothing")
					}
				})
			})
		}
	}
	lines, leaks := found.result()
	if lines < 100 {
		t.Errorf("%d log lines and errors: the test proves nothing", lines)
	}
	if len(leaks) > 0 {
		t.Errorf("secrets have leaked:\n%s", strings.Join(leaks, "\n"))
	}
	t.Logf("%d log lines and errors", lines)
}

// A span's start is sent at most once, and before the finished span, even if connections
// break, the queue overflows or span durations vary.
func TestLiveSpanPrecedesTheFinishedSpan(t *testing.T) {
	var starts, ends, dropped, kills uint64
	for seed := range uint64(scale(25, 1000)) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 9))
			p := newOtelPeer(t, otelScript{})
			var mu sync.Mutex
			killing := rand.New(rand.NewPCG(seed, 10)) // used by the goroutines that read
			p.script.frame = func(c *otelConn, _ []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				if c.n < 20 && killing.IntN(30) == 0 {
					c.kill()
					return killing.IntN(2) == 0
				}
				return true
			}
			tel := p.telemetry(OtelConfig{
				SpansFlushIntervalMs: ptr(random.Uint64N(20)), ChannelCapacity: ptr(5 + random.Uint64N(60)),
				ReconnectionConfig: &ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 4, MaxPendingMessages: random.Uint64N(20)},
			})
			var workers sync.WaitGroup
			for range 4 {
				own := rand.New(rand.NewPCG(random.Uint64(), 11))
				workers.Go(func() {
					for range 60 {
						_, span := tel.Tracer().Start(t.Context(), "s")
						if own.IntN(3) > 0 {
							time.Sleep(time.Duration(own.IntN(3000)) * time.Microsecond)
						}
						span.End()
					}
				})
			}
			workers.Wait()
			_ = tel.Shutdown(t.Context()) // reports the dropped frames
			started, ended := map[any]int{}, map[any]bool{}
			_, docs := p.documents(t)
			for _, doc := range docs {
				enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) {
					id := enginetest.At(s, "spanId")
					switch {
					case enginetest.At(s, "endTimeUnixNano") != "0":
						ended[id] = true
					case ended[id]:
						t.Errorf("seed %d: the start of span %v arrived after its end", seed, id)
					default:
						if started[id]++; started[id] > 1 {
							t.Errorf("seed %d: the start of span %v arrived twice", seed, id)
						}
					}
				})
			}
			stats := tel.Connection().Stats()
			starts, ends = starts+uint64(len(started)), ends+uint64(len(ended))
			dropped, kills = dropped+stats.LiveSpans.Frames()+stats.Traces.Frames(), kills+stats.Reconnects
		})
		if t.Failed() {
			return
		}
	}
	if starts == 0 || ends == 0 || dropped == 0 || kills == 0 {
		t.Error("nothing was started, ended, dropped or killed: the test proves nothing")
	}
	t.Logf("%d starts and %d ends arrived; %d frames were dropped, %d connections killed", starts, ends, dropped, kills)
}

// A batch that exceeds the frame size is split into several frames. Each record arrives once.
func TestTelemetrySplitsLargeBatches(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{LiveSpans: ptr(false), LogsBatchSize: ptr(uint64(512)), LogsFlushIntervalMs: ptr(uint64(3_600_000)), SpansFlushIntervalMs: ptr(uint64(3_600_000))})
	const n = 50
	for i := range n {
		text := strings.Repeat("x", 240_000+i*1000)
		_, span := tel.Tracer().Start(t.Context(), fmt.Sprint(i), trace.WithAttributes(attribute.String("text", text)))
		span.End()
		tel.Logger().Info(t.Context(), fmt.Sprint(i), text)
	}
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	prefixes, docs := p.documents(t)
	for _, doc := range docs {
		enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) { seen[fmt.Sprint("span ", enginetest.At(s, "name"))]++ })
		enginetest.Each(doc, []string{"resourceLogs", "scopeLogs", "logRecords"}, func(r any) { seen[fmt.Sprint("log ", enginetest.At(r, "body", "stringValue"))]++ })
	}
	want := map[string]int{}
	for i := range n {
		want[fmt.Sprint("span ", i)], want[fmt.Sprint("log ", i)] = 1, 1
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("how often each record arrived (-want +got):\n%s", diff)
	}
	if stats := tel.Connection().Stats(); len(prefixes) < 4 || stats.Reconnects != 0 || stats.Lost != (RecordLosses{}) {
		t.Errorf("%d frames, stats %+v", len(prefixes), stats)
	}
}

// If the peer stops reading, the write deadline expires and the connection is closed, but
// nothing is lost.
func TestTelemetryWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		c := p.conn(0)
		resume := c.StopReading()
		defer resume()
		began := time.Now()
		var want []string
		for i := range 3 {
			data := strings.Repeat(fmt.Sprint(i), 1<<20)
			want = append(want, otlpjson.PrefixLogs+data)
			if err := s.Send(OtelMessage{Prefix: otlpjson.PrefixLogs, Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
		p.conn(1)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the connection was closed after %v", took)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, p.received()); diff != "" {
			t.Errorf("frames differ")
		}
	})
}

// A dial that hangs is canceled and retried.
func TestTelemetryDialDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		began, attempts := time.Now(), 0
		var second time.Duration
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			if attempts++; attempts == 1 {
				<-ctx.Done()
				return nil, errors.Join(os.ErrDeadlineExceeded, ctx.Err())
			}
			second = time.Since(began)
			return p.mem.DialContext(ctx, network, addr)
		}
		s := p.connection(WithConnectionDialContext(dial))
		sendLogs(t, s, 0, 3)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if second < 10*time.Second || second > 12*time.Second {
			t.Errorf("the second attempt was made after %v, want 10 s and a delay", second)
		}
		if diff := cmp.Diff(wantLogs(0, 3), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}
