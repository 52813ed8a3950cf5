package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectAndCall(t *testing.T) {
	for _, kind := range []string{"memory", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			p := newPeer(t, script{})
			if kind == "tcp" {
				p = newTCPPeer(t, script{})
			}
			c := p.client()
			if _, err := Handle(c, "a::b", func(_ context.Context, in int) (int, error) { return in + 1, nil }); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := Call[int](t.Context(), c, "x::y", 7)
			if err != nil || got != 7 {
				t.Fatalf("call: %d, %v", got, err)
			}
			if m := p.answered(p.conn(0).invoke("a::b", "41")); string(m.Result) != "42" {
				t.Errorf("answer: %s", m.Raw)
			}
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			<-p.conn(0).ended
			if err := p.conn(0).err; err != errPeerClosed {
				t.Errorf("end of the connection: %v, want a Close frame", err)
			}
		})
	}
}

func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.connected()
		if _, err := Call[int](t.Context(), c, "x::y", 7); err != nil {
			t.Fatal(err)
		}
	})
}

// Canceling Run's context while the engine is unavailable is a normal shutdown. An expired
// deadline is an error.
func TestRunEndsBeforeItIsConnected(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{"signal", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Minute, func() { cancel(errors.New("interrupt signal received")) })
			return ctx, func() { cancel(nil) }
		}, nil},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}, context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
				c, err := New("ws://engine", WithName("w"), WithDialContext(refused))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				ctx, cancel := test.end(t.Context())
				defer cancel()
				began := time.Now()
				if err := suite.note(c.Run(ctx)); !errors.Is(err, test.want) || time.Since(began) != time.Minute {
					t.Errorf("%v after %v, want %v", err, time.Since(began), test.want)
				}
				select {
				case <-c.Done():
					if test.want != nil {
						t.Error("the client is closed; a second Run should be able to connect")
					}
				default:
					if test.want == nil {
						t.Error("the client is still running")
					}
				}
			})
		})
	}
}

// endsLast is a context that ends no sooner than someone asks whether it has ended.
type endsLast struct {
	context.Context
	end context.CancelFunc
}

func (c endsLast) Err() error {
	c.end()
	return c.Context.Err()
}

// If the client is closed and the context ends at the same time, Connect returns the reason why
// the client is closed, and no more.
func TestConnectEndsWithTheClientAndItsContext(t *testing.T) {
	for name, test := range map[string]struct {
		reason error
		want   string
	}{
		"closed":   {nil, "iii: client is closed"},
		"rejected": {&RejectedError{Code: "c"}, (&RejectedError{Code: "c"}).Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
				c, err := New("ws://engine", WithName("w"), WithDialContext(refused))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- c.Connect(endsLast{ctx, cancel}) }()
				synctest.Wait()
				c.terminate(test.reason)
				if err := <-ended; !errors.Is(err, ErrClosed) || err.Error() != test.want {
					t.Errorf("got  %v\nwant %s", err, test.want)
				}
			})
		})
	}
}

// If a shutdown begins while Connect is waiting, Connect does not return nil, even if the client
// connects after that, or if the registrations are no longer waiting for the engine.
func TestConnectDuringShutdown(t *testing.T) {
	tests := map[string]func(t *testing.T, p *peer, quiet *atomic.Bool) (c *Client, during func()){
		"not connected": func(t *testing.T, p *peer, _ *atomic.Bool) (*Client, func()) {
			c := p.client(WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				select {
				case <-time.After(3 * time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return p.mem.DialContext(ctx, network, addr)
			}))
			if err := c.Send(t.Context(), "f", 1); err != nil { // Shutdown waits for a connection to send it
				t.Fatal(err)
			}
			return c, func() {}
		},
		"not registered": func(t *testing.T, p *peer, quiet *atomic.Bool) (*Client, func()) {
			c := p.client()
			release := make(chan struct{})
			if _, err := c.HandleFunc("slow", func(context.Context, json.RawMessage) (any, error) { <-release; return nil, nil }); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.conn(0).invoke("slow", "1")
			synctest.Wait()
			quiet.Store(true)
			if _, err := c.Trigger("slow", CronTriggerConfig{Expression: "0 0 0 * * *"}); err != nil {
				t.Fatal(err)
			}
			return c, func() {
				quiet.Store(false)
				for _, m := range p.messages(0, "ping") {
					p.conn(0).answer(m)
				}
				synctest.Wait()
				close(release)
			}
		},
	}
	for name, start := range tests {
		for _, bounded := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, bounded), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var quiet atomic.Bool
					p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool { return m.Type == "ping" && quiet.Load() }})
					c, during := start(t, p, &quiet)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended, shut := make(chan error, 1), make(chan error, 1)
					go func() { ended <- c.Connect(ctx) }()
					synctest.Wait()
					select {
					case err := <-ended:
						t.Fatalf("Connect did not wait: %v", err)
					default:
					}
					go func() { shut <- c.Shutdown(t.Context()) }()
					synctest.Wait()
					want := ErrClosed
					if bounded {
						cancel()
						synctest.Wait()
						want = context.Canceled
					}
					during()
					if err := <-ended; !errors.Is(err, want) || bounded && !strings.HasSuffix(err.Error(), "; the client is shutting down") {
						t.Errorf("Connect: %v, want %v", err, want)
					}
					if err := <-shut; err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}
