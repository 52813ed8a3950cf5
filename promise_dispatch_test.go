package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestR12HandlersAreLimited sends 10,000 invocations at once, and then more than
// may wait.
func TestR12HandlersAreLimited(t *testing.T) {
	const limit = 1000 // the default
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
			t.Errorf("%d run, %d wait, %d refused", s.HandlersRunning, s.InvocationsQueued, s.Overloaded)
		}
		if goroutines > limit+10 {
			t.Errorf("%d goroutines for %d handlers at once", goroutines, limit)
		}
		t.Logf("10,000 invocations: %d goroutines more than before", goroutines)

		// The read loop goes on, and the queue has an end.
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
				t.Errorf("%d of 4 MiB wait, %d are refused; the limit is 64 MiB", s.InvocationsQueued, s.Overloaded)
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
				t.Errorf("%d run at once", s.HandlersRunning)
			}
			time.Sleep(2 * time.Second)
		})
	})
}

// TestR12NestedCallsConcurrent has ten times as many handlers as may run at once, each
// of which calls functions of others and of its own worker.
func TestR12NestedCallsConcurrent(t *testing.T) {
	const limit = 50
	p := newPeer(t, script{forget: true, message: func(c *peerConn, m *peerMessage) bool {
		switch {
		case m.Type == "invokefunction" && m.FunctionID == "own::leaf": // routed back to its caller
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

// TestR17PanicsConcurrent has 1,000 handlers panic at once: each caller gets an error
// without a stack, the log gets the stack, and the worker lives.
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
				if i%10 == 0 { // without an id nobody waits for the answer
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
				got := strings.Contains(m.Error.Message, "nobody else") && strings.Contains(m.Error.Stacktrace, "promise_dispatch_test.go")
				if none := !strings.Contains(string(m.Raw), "nobody else") && m.Error.Stacktrace == ""; got != toCaller || none == toCaller {
					t.Fatalf("answer: %s", m.Raw)
				}
			}
			if got, err := Call[int](t.Context(), c, "x::y", 7); err != nil || got != 7 {
				t.Errorf("call afterwards: %d, %v", got, err)
			}
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			lines := strings.Split(log.String(), "\n")
			stacks := 0
			for _, line := range lines {
				if strings.Contains(line, "handler panicked") && strings.Contains(line, "promise_dispatch_test.go") && strings.Contains(line, "nobody else") {
					stacks++
				}
			}
			if stacks != n {
				t.Errorf("%d stacks in the log, want %d", stacks, n)
			}
		})
	}
}

// lockedBuffer is a buffer for a log.
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

// TestCallbacks is about the notifier: in order, bounded, and no panic gets out.
func TestCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		n := &notifier{log: func() *slog.Logger { return logger }}
		blocked := make(chan struct{})
		var got []int
		n.post(func() { <-blocked })
		for i := range maxCallbacks + 100 {
			n.post(func() {
				if got = append(got, i); i == 5 {
					panic("callback")
				}
			})
		}
		quiet := n.wait()
		select {
		case <-quiet:
			t.Error("quiet while a callback runs")
		default:
		}
		close(blocked)
		<-quiet
		<-n.wait()
		if len(got) != maxCallbacks && len(got) != maxCallbacks-1 { // the first may have been taken already, or not
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
