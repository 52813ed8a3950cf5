package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A call is retried only if the function is guaranteed not to have started, or if the
// program's policy lists the error code.
func TestCallsAreRetriedOnlyWhenSafe(t *testing.T) {
	answer := func(code string) func(*peerConn, *peerMessage) {
		return func(c *peerConn, m *peerMessage) { c.fail(m, code, "no") }
	}
	for _, test := range []struct {
		name     string
		answer   func(c *peerConn, m *peerMessage)
		policy   RetryPolicy
		attempts int32
	}{
		{"draining", answer("worker_draining"), RetryPolicy{}, 3},
		{"overloaded", answer("overloaded"), RetryPolicy{MaxAttempts: 5}, 5},
		{"one attempt", answer("overloaded"), RetryPolicy{MaxAttempts: 1}, 1},
		{"its own code", answer("out_of_stock"), RetryPolicy{}, 1},
		{"not found", answer("function_not_found"), RetryPolicy{}, 1},
		{"not found, named", answer("function_not_found"), RetryPolicy{Codes: []string{CodeFunctionNotFound}}, 3},
		{"another code is named", answer("invocation_failed"), RetryPolicy{Codes: []string{CodeFunctionNotFound}}, 1},
		{"stopped", answer("invocation_stopped"), RetryPolicy{}, 1},
		{"draining of a callee", answer("invocation_failed"), RetryPolicy{}, 1},
		{"no answer", func(*peerConn, *peerMessage) {}, RetryPolicy{Codes: []string{"worker_draining"}}, 1},
		{"connection lost", func(c *peerConn, _ *peerMessage) { _ = c.Close() }, RetryPolicy{}, 1},
		{"a result that does not decode", func(c *peerConn, m *peerMessage) { c.result(m, `"x"`) }, RetryPolicy{}, 1},
	} {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, own policy %t", test.name, own), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var attempts atomic.Int32
					p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
						if m.FunctionID != "f" {
							return false
						}
						attempts.Add(1)
						test.answer(c, m)
						return true
					}})
					opts, callOpts := []Option{WithCallRetry(test.policy)}, []CallOption(nil)
					if own {
						opts, callOpts = []Option{WithCallRetry(RetryPolicy{MaxAttempts: 9, Codes: []string{"out_of_stock"}})}, []CallOption{WithRetry(test.policy)}
					}
					c := p.connected(opts...)
					var out int
					if err := c.Call(t.Context(), "f", nil, &out, callOpts...); err == nil {
						t.Error("no error")
					}
					if n := attempts.Load(); n != test.attempts {
						t.Errorf("%d attempts, want %d", n, test.attempts)
					}
				})
			})
		}
	}
}

// A request that could not be sent is retried until the client has connected.
func TestUnsentRequestsAreRetried(t *testing.T) {
	policy := WithCallRetry(RetryPolicy{MaxAttempts: 100, Codes: []string{"worker_draining"}})
	for name, request := range map[string]func(context.Context, *Client) error{
		"call":    func(ctx context.Context, c *Client) error { return c.Call(ctx, "f", nil, nil) },
		"send":    func(ctx context.Context, c *Client) error { return c.Send(ctx, "f", nil) },
		"enqueue": func(ctx context.Context, c *Client) error { _, err := c.Enqueue(ctx, "q", "f", nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{call: func(*peerConn, *peerMessage) string { return `{"messageReceiptId":"r"}` }})
				c := p.client(policy, WithSendBuffer(0, 0)) // no buffer
				go func() {
					time.Sleep(20 * time.Second)
					if err := c.Connect(t.Context()); err != nil {
						t.Error(err)
					}
				}()
				began := time.Now()
				if err := request(t.Context(), c); err != nil {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if waited := time.Since(began); waited < 20*time.Second {
					t.Errorf("it succeeded after %v", waited)
				}
			})
		})
	}
	t.Run("an answered enqueue is not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
				if m.FunctionID == "f" {
					attempts++
					c.fail(m, "worker_draining", "no")
				}
				return m.FunctionID == "f"
			}})
			if _, err := p.connected(policy).Enqueue(t.Context(), "q", "f", nil); !errors.Is(err, ErrDraining) || attempts != 1 {
				t.Errorf("%d attempts, %v", attempts, err)
			}
		})
	})
}

// Errors that a retry cannot fix are returned at once.
func TestPermanentErrorsAreNotRetried(t *testing.T) {
	for name, test := range map[string]struct {
		in   any
		opts []CallOption
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		end  bool
	}{
		"payload that does not encode": {in: func() {}},
		"too large":                    {in: strings.Repeat("x", messageTooLarge)},
		"option":                       {opts: []CallOption{WithTimeout(-1)}},
		"ended context": {ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, c := context.WithCancel(ctx)
			c()
			return ctx, c
		}},
		"closed": {end: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPeer(t, script{}).connected(WithCallRetry(RetryPolicy{MaxAttempts: 5, InitialDelay: time.Hour, MaxDelay: time.Hour}))
				ctx := t.Context()
				if test.ctx != nil {
					var cancel context.CancelFunc
					ctx, cancel = test.ctx(ctx)
					defer cancel()
				}
				if test.end {
					_ = c.Close()
				}
				began := time.Now()
				if err := c.Call(ctx, "f", test.in, nil, test.opts...); err == nil || time.Since(began) > 0 {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// The delays grow, are randomized, and respect the context's deadline.
func TestDelaysBetweenAttempts(t *testing.T) {
	p := &RetryPolicy{InitialDelay: 50 * time.Millisecond, MaxDelay: 300 * time.Millisecond}
	for n, want := range []time.Duration{1: 50, 2: 100, 3: 200, 4: 300, 5: 300, 6: 300} {
		if n > 0 && p.delay(n) != want*time.Millisecond {
			t.Errorf("after attempt %d: %v, want %v", n, p.delay(n), want*time.Millisecond)
		}
	}
	if d := (&RetryPolicy{InitialDelay: 1, MaxDelay: 1<<63 - 1}).delay(1000); d <= 0 {
		t.Errorf("the delay overflows: %v", d)
	}

	overloaded := script{message: func(c *peerConn, m *peerMessage) bool {
		if m.FunctionID == "f" {
			c.fail(m, "overloaded", "no")
		}
		return m.FunctionID == "f"
	}}
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newPeer(t, overloaded).connected()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			err := c.Call(ctx, "f", nil, nil, WithRetry(RetryPolicy{MaxAttempts: 1000, InitialDelay: time.Second, MaxDelay: 4 * time.Second}))
			if !errors.Is(err, ErrOverloaded) || time.Since(began) >= 10*time.Second {
				t.Errorf("%v after %v, want the last error before the deadline", err, time.Since(began))
			}
		})
	})
	t.Run("canceled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newPeer(t, overloaded).connected()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			began := time.Now()
			err := c.Call(ctx, "f", nil, nil, WithRetry(RetryPolicy{MaxAttempts: 1 << 30, InitialDelay: time.Minute, MaxDelay: time.Minute}))
			if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOverloaded) || !SafeToRetry(err) || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("closed meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newPeer(t, overloaded).connected()
			time.AfterFunc(time.Second, func() { _ = c.Close() })
			err := c.Call(t.Context(), "f", nil, nil, WithRetry(RetryPolicy{MaxAttempts: 2, InitialDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
			if !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	})
}

func TestPoliciesAreChecked(t *testing.T) {
	for want, p := range map[string]RetryPolicy{
		"MaxAttempts -1 is negative": {MaxAttempts: -1}, "InitialDelay -1ns is negative": {InitialDelay: -1}, "MaxDelay -1ns is negative": {MaxDelay: -1},
		"MaxDelay 1s is below InitialDelay 2s": {InitialDelay: 2 * time.Second, MaxDelay: time.Second}, "Codes contains a blank code": {Codes: []string{"a", " "}},
	} {
		if _, err := New("ws://127.0.0.1:1", WithCallRetry(p)); err == nil || !strings.HasPrefix(err.Error(), "iii: WithCallRetry: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		c := newPeer(t, script{}).client()
		if err := c.Call(t.Context(), "f", nil, nil, WithRetry(p)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, p := range []RetryPolicy{{}, {MaxDelay: time.Millisecond}, {InitialDelay: time.Minute}, {MaxAttempts: 1}} {
		if got, err := p.checked("x"); err != nil || got.InitialDelay <= 0 || got.InitialDelay > got.MaxDelay || got.MaxAttempts < 1 {
			t.Errorf("%+v: %+v, %v", p, got, err)
		}
	}
}

// The policy does not apply to calls that the client makes for its own registrations.
func TestOwnCallsAreNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
			if m.FunctionID == "engine::workers::list" {
				attempts++
				c.fail(m, "overloaded", "no")
			}
			return m.FunctionID == "engine::workers::list"
		}})
		c := p.connected(WithCallRetry(RetryPolicy{}))
		if _, err := c.Workers(ownCalls(t.Context())); !errors.Is(err, ErrOverloaded) || attempts != 1 {
			t.Errorf("%d attempts, %v", attempts, err)
		}
		if _, err := c.Workers(t.Context()); !errors.Is(err, ErrOverloaded) || attempts != 4 {
			t.Errorf("%d attempts of the program's call, %v", attempts-1, err)
		}
	})
}

// SafeToRetry and errors.Is examine every error in an error tree.
func TestOutcomesOfWrappedErrors(t *testing.T) {
	draining, overloaded := &Error{Code: CodeWorkerDraining}, &Error{Code: CodeOverloaded, Message: "m", FunctionID: "f"}
	sold := &Error{Code: "sold_out"}
	unsent, sent := &callError{err: ErrBufferFull}, &callError{err: ErrConnectionLost, sent: true}
	for _, test := range []struct {
		name string
		err  error
		safe bool
		is   []error
		not  []error
	}{
		{"draining", draining, true, []error{ErrDraining, &Error{Code: "worker_draining"}}, []error{ErrOverloaded, &Error{}, &Error{Code: "overloaded"}}},
		{"overloaded", fmt.Errorf("x: %w", overloaded), true, []error{ErrOverloaded, &Error{Code: "overloaded", Message: "another", FunctionID: "g"}}, []error{ErrDraining}},
		{"stopped", &Error{Code: CodeInvocationStopped}, false, []error{ErrStopped}, []error{ErrDraining}},
		{"unsupported", &Error{Code: CodeUnsupported}, false, []error{errors.ErrUnsupported}, nil},
		{"joined, both safe", errors.Join(draining, unsent), true, []error{ErrDraining, ErrBufferFull}, nil},
		{"joined with one that ran", errors.Join(draining, sold), false, []error{ErrDraining, &Error{Code: "sold_out"}}, nil},
		{"joined with one that may have run", errors.Join(overloaded, fmt.Errorf("y: %w", sent)), false, nil, nil},
		{"joined with another's", errors.Join(io.EOF, draining), true, nil, nil},
		{"no code", &Error{}, false, []error{&Error{Message: "m"}}, []error{&Error{Code: "invocation_failed"}}},
		{"nil in an error", (*Error)(nil), false, nil, []error{ErrDraining, &Error{}}},
		{"refusal", &RejectedError{Code: CodeFunctionConflict}, false, nil, []error{&Error{Code: CodeFunctionConflict}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := SafeToRetry(test.err); got != test.safe {
				t.Errorf("safe to retry: %t", got)
			}
			for _, target := range test.is {
				if !errors.Is(test.err, target) {
					t.Errorf("is not %#v", target)
				}
			}
			for _, target := range test.not {
				if errors.Is(test.err, target) {
					t.Errorf("is %#v", target)
				}
			}
		})
	}
}

// A handler may return the error of a call that it made. Codes such as worker_draining are
// then replaced, because they would tell the handler's caller that the handler has not
// started.
func TestCalleeErrorCodesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		failures := map[string]error{}
		for _, code := range []string{CodeWorkerDraining, CodeOverloaded, CodeHandlerTimeout, CodeResultTooLarge} {
			failures["plain::"+code] = &Error{Code: code, Message: "try later", FunctionID: "callee"}
			failures["wrapped::"+code] = fmt.Errorf("cannot ship: %w", &Error{Code: code, Message: "try later"})
			failures["joined::"+code] = errors.Join(io.EOF, &Error{Code: code, Message: "try later"})
		}
		for id, err := range failures {
			if _, e := c.HandleFunc(id, func(context.Context, json.RawMessage) (any, error) { return nil, err }); e != nil {
				t.Fatal(e)
			}
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for id := range failures {
			m := p.answered(p.conn(0).invoke(id, `{}`))
			_, code, _ := strings.Cut(id, "::")
			if m.Error == nil || m.Error.Code != CodeInvocationFailed || !strings.Contains(m.Error.Message, code) || !strings.Contains(m.Error.Message, "try later") || strings.HasPrefix(m.Error.Message, "iii: ") {
				t.Errorf("%s: %+v", id, m.Error)
			}
		}
	})
}
