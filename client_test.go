package iii

import (
	"context"
	"errors"
	"net"
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
