package iii

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// blockedPeers are the ways in which an engine can keep a client waiting. Each
// makes a client and returns when it is stuck.
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
			t.Fatalf("%d messages were written: nothing is stuck", s.FramesSent)
		}
		return c
	},
	"cannot be dialled": func(t *testing.T) *Client {
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
		time.Sleep(time.Minute) // of the bubble: in the middle of a delay
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
	"was never dialled": func(t *testing.T) *Client {
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

// blockingMethods are the methods that take a context.
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

// promptly is how long a method may take after its context has ended.
const promptly = 50 * time.Millisecond

// TestR9MethodsReturn calls every blocking method of a client against every peer
// that is stuck, and measures how long after the end of its context it returns.
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
						t.Errorf("%v, %v after the end of its context", err, took)
					}
				})
			})
		}
	}
	t.Logf("longest time after the end of a context: %v (virtual)", longest)
}

// TestR9RegistrationsDoNotWait calls what takes no context: it returns without
// anything else happening, whatever the peer does.
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

// TestCallWithoutConnect tells why a call is not connected that never could be.
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

// TestConnectTellsWhatIsThere tries a server that takes connections and is no engine,
// and an address at which nobody answers.
func TestConnectTellsWhatIsThere(t *testing.T) {
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
					t.Errorf("got %v, want %q in it", err, test.want)
				}
			})
		})
	}
}

// TestCallInAnEndedContext is not sent, and does not say that there is no connection.
func TestCallInAnEndedContext(t *testing.T) {
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
