package wsconn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
)

// A dial function cannot hold up Dial, whatever it does.
func TestDialFunctionsThatMisbehave(t *testing.T) {
	for _, test := range []struct {
		name string
		dial func(release <-chan struct{}) (net.Conn, error)
		want string // part of the error
		took time.Duration
	}{
		{"ignores its context", func(release <-chan struct{}) (net.Conn, error) {
			<-release
			near, far := memnet.Pipe(memnet.Capacity)
			go func() { _, _ = far.Read(make([]byte, 1)) }() // ends only if near is closed
			return near, nil
		}, context.DeadlineExceeded.Error(), DialTimeout + dialGrace},
		{"ignores its context and fails", func(release <-chan struct{}) (net.Conn, error) { <-release; return nil, errors.New("late") }, context.DeadlineExceeded.Error(), DialTimeout + dialGrace},
		{"returns nothing", func(<-chan struct{}) (net.Conn, error) { return nil, nil }, "the dial function returned no connection", 0},
		{"panics", func(<-chan struct{}) (net.Conn, error) { panic("oh") }, "the dial function panicked: oh", 0},
		{"exits", func(<-chan struct{}) (net.Conn, error) { runtime.Goexit(); return nil, nil }, "the dial function returned no connection", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				release := make(chan struct{})
				d := Dialer{URL: &url.URL{Scheme: "ws", Host: "engine.test"}, DialContext: func(context.Context, string, string) (net.Conn, error) { return test.dial(release) }}
				began := time.Now()
				if _, err := d.Dial(ctx); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Dial = %v, want %q", err, test.want)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("Dial took %v, want %v", took, test.took)
				}
				close(release)
			})
		})
	}
}

// Some responses from proxies make the WebSocket library panic. Dialing must fail with an
// error instead, which must not contain the proxy's password.
func TestBadProxyResponsesAreErrors(t *testing.T) {
	const password = "correct-horse"
	for _, answer := range []string{"HTTP/1.1 407\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "junk", "HTTP/1.1 200 OK\r\n\r\njunk"} {
		t.Run(answer, func(t *testing.T) {
			d := websocket.Dialer{
				Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test", User: url.UserPassword("user", password)}),
				NetDialContext: func(context.Context, string, string) (net.Conn, error) {
					near, far := memnet.Pipe(memnet.Capacity)
					_, err := far.Write([]byte(answer))
					_ = far.CloseWrite() // continues to accept data
					return near, err
				},
			}
			conn, _, err := upgrade(t.Context(), &d, "ws://engine.test", nil)
			if err == nil {
				_ = conn.Close()
				t.Fatal("dialed")
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

// With a ReadBuffer, an idle connection holds no other buffer, even after it has written a
// message.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const n, limit = 100, 16 << 10
	s := enginetest.NewTCPServer(t, func(conn net.Conn, _ int) {
		if _, err := enginetest.Upgrade(conn, nil); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	heap := func() int {
		runtime.GC()
		runtime.GC() // empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	var conns []*Conn
	for range n {
		c, err := Dialer{URL: u, Unbuffered: true, ReadBuffer: 1 << 10, ReadLimit: 1 << 20}.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
		if err := c.WriteMessage(Binary, make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if each := (heap() - before) / n; each > limit {
		t.Errorf("a connection and its peer hold %d bytes, want at most %d", each, limit)
	} else {
		t.Logf("a connection and its peer hold %d bytes", each)
	}
	runtime.KeepAlive(conns)
}
