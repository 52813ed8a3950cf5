package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/wsconn"
)

// If the engine sends no hello message, or no reply to the worker's registration, the client
// waits 10 s and then uses the connection anyway.
func TestMissingRegistrationReplies(t *testing.T) {
	isRegister := func(m *peerMessage) bool { return m.FunctionID == registerWorkerFunction }
	silent := func(c *peerConn, m *peerMessage) bool { return isRegister(m) }
	for name, test := range map[string]struct {
		script script
		want   time.Duration // when Connect returns
	}{
		"answers at once":        {script{}, 0},
		"never answers the call": {script{message: silent}, registerTimeout},
		"never greets":           {script{greet: func(*peerConn) {}}, registerTimeout},
		"authenticates for long": {script{greet: func(c *peerConn) { time.Sleep(30 * time.Second); c.welcome() }, message: silent}, 30*time.Second + registerTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, test.script)
				c := p.client()
				begin := time.Now()
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(begin); got != test.want {
					t.Errorf("connected after %v, want %v", got, test.want)
				}
				if got, err := Call[int](t.Context(), c, "x::y", 7); err != nil || got != 7 {
					t.Errorf("call: %d, %v", got, err)
				}
				if got := c.State(); got != ConnectionStateConnected {
					t.Errorf("state %v", got)
				}
			})
		})
	}
}

// After registering functions, the client sends a ping. Without a pong, it cannot know which
// functions the engine accepted, so it sends no triggers and closes the connection.
func TestUnansweredFenceEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool { return m.Type == "ping" && c.n == 0 }})
		c := p.client()
		if _, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", CronTriggerConfig{Expression: "0 0 0 * * *"}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < registerTimeout || took > registerTimeout+2*time.Second {
			t.Errorf("connected after %v", took)
		}
		if n, m := len(p.messages(0, "registertrigger")), len(p.messages(1, "registertrigger")); n != 0 || m != 1 {
			t.Errorf("%d triggers on the first connection and %d on the second, want 0 and 1", n, m)
		}
	})
}

// An engine that has not yet sent its hello message may still be authenticating the worker, so
// Connect waits as long as ctx allows.
func TestNeverAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: func(*peerConn) {}, message: func(*peerConn, *peerMessage) bool { return true }})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := p.client().Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A late success reply is ignored. A late error reply closes the client.
func TestLateRegistrationReply(t *testing.T) {
	for name, answer := range map[string]func(*peerConn, *peerMessage){
		"yes": func(c *peerConn, m *peerMessage) { c.result(m, `{"success":true}`) },
		"no":  func(c *peerConn, m *peerMessage) { c.fail(m, "FORBIDDEN", "not here") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool { return m.FunctionID == registerWorkerFunction }})
				c := p.connected()
				answer(p.conn(0), p.find("the registration", func(m *peerMessage) bool { return m.FunctionID == registerWorkerFunction }))
				synctest.Wait()
				switch _, err := Call[int](t.Context(), c, "x::y", 7); {
				case name == "yes" && (err != nil || c.Stats().Reconnects != 0):
					t.Errorf("call: %v, %d reconnects", err, c.Stats().Reconnects)
				case name == "no" && (!errors.Is(err, ErrClosed) || !errors.Is(c.Err(), ErrForbidden)):
					t.Errorf("call: %v; the client ended with %v", err, c.Err())
				}
			})
		})
	}
}

// FuzzReceive passes arbitrary messages to a client, which must not panic or modify them.
func FuzzReceive(f *testing.F) {
	for _, seed := range enginetest.JSONSeeds {
		f.Add([]byte(seed))
	}
	for _, seed := range []string{`{"type":"workerregistered","worker_id":1}`, `{"type":"workerregistered","worker_id":"w","reattach_token":null}`,
		`{"type":"triggerregistrationresult","id":"t","trigger_type":"x","function_id":"f","error":{"code":"c","message":"m"}}`,
		`{"type":"registertrigger","id":"t","trigger_type":"x","function_id":"f","config":null}`, `{"type":"unregistertrigger","id":"t"}`,
		`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"d","function_id":"f","owner_worker_id":""}`} {
		f.Add([]byte(seed))
	}
	c, err := New("")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close() })
	echo := func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }
	if _, err := c.HandleFunc("a::b", echo); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := bareLink(c)
		c.out.attach(l, 1)
		c.registry.attach(l)
		input := bytes.Clone(b)
		c.receive(l, b)
		if !bytes.Equal(input, b) {
			t.Errorf("%q was changed to %q", input, b)
		}
		c.registry.detach(l)
		l.Fail(errors.New("end"))
		c.out.detach(l, l.Err())
	})
}

// bareLink returns a link without goroutines.
func bareLink(c *Client) *link {
	end, _ := memnet.Pipe(1 << 10)
	return c.newLink(wsconn.Over(end))
}

// By the time a call fails because its connection has been lost, the client no longer reports that
// it is connected.
func TestStateWhenCallsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var quiet atomic.Bool // the Send remains unconfirmed
		p := newPeer(t, script{message: func(_ *peerConn, m *peerMessage) bool {
			return m.FunctionID == "f" || m.Type == "ping" && quiet.Load()
		}})
		failed, resume := make(chan struct{}), make(chan struct{})
		states := newStateLog()
		c := p.connected(WithStateListener(states.listen), WithLogger(slog.New(logFunc(func(message string) {
			if message == "iii: connection lost with unconfirmed messages" { // the calls have failed
				close(failed)
				<-resume
			}
		}))))
		called := make(chan error, 1)
		go func() { called <- c.Call(t.Context(), "f", nil, nil) }()
		synctest.Wait()
		quiet.Store(true)
		if err := c.Send(t.Context(), "g", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		quiet.Store(false)
		p.conn(0).Cut()
		if err := <-called; !errors.Is(err, ErrConnectionLost) {
			t.Fatal(err)
		}
		<-failed
		if s := c.State(); s != ConnectionStateReconnecting {
			t.Errorf("state %s", s)
		}
		if err := c.Ready(); !errors.Is(err, ErrNotConnected) {
			t.Errorf("Ready: %v", err)
		}
		if f := c.Features(); f != nil {
			t.Errorf("features %q", f)
		}
		close(resume)
		states.wait(t, ConnectionStateConnected, 2)
		want := []ConnectionState{ConnectionStateConnecting, ConnectionStateConnected,
			ConnectionStateReconnecting, ConnectionStateReconnecting, ConnectionStateConnected} // the first error is the lost Send
		if diff := cmp.Diff(want, states.list()); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}

// lingeringConn is a connection whose writes return only once release is closed.
type lingeringConn struct {
	net.Conn
	release <-chan struct{}
}

func (c *lingeringConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	<-c.release
	return n, err
}

// When a call returns, its message has been counted.
func TestStatsWhenCallsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		release := make(chan struct{})
		close(release)
		var slow *lingeringConn
		c := p.connected(WithDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := p.mem.DialContext(ctx, network, address)
			slow = &lingeringConn{conn, release}
			return slow, err
		}))
		synctest.Wait()
		before := c.Stats()
		release = make(chan struct{})
		defer close(release)
		slow.release = release
		if err := c.Call(t.Context(), "f", nil, nil); err != nil {
			t.Fatal(err)
		}
		after := c.Stats()
		if after.FramesSent != before.FramesSent+1 || after.BytesSent <= before.BytesSent || after.FramesReceived != before.FramesReceived+1 {
			t.Errorf("before the call %+v, after it %+v", before, after)
		}
	})
}

// Every reply that was not sent is counted, even if it was queued before its connection was lost.
func TestDroppedRepliesAreCounted(t *testing.T) {
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	l := bareLink(c)
	c.out.attach(l, 1)
	reply := func(want uint64, send func(*buffer)) {
		t.Helper()
		b := newBuffer()
		b.writeString("{}")
		send(b)
		if n := c.Stats().RepliesDropped; n != want {
			t.Errorf("%d dropped, want %d", n, want)
		}
	}
	reply(0, l.reply)
	reply(0, l.replyNow)
	l.Fail(errors.New("end"))
	c.out.detach(l, l.Err())
	reply(3, l.reply)
	reply(4, l.replyNow)
	c.execute(&incoming{origin: l, id: []byte("i")})
	c.execute(&incoming{origin: l}) // has no reply
	if n := c.Stats().RepliesDropped; n != 5 {
		t.Errorf("%d dropped in total, want 5", n)
	}
}
