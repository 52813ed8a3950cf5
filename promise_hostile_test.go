package iii

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
)

// hostileMessages are text messages that no engine sends.
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

// TestR16NoInputHarms sends a client what no engine sends: it neither panics nor
// leaves, and goes on to serve and to call.
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
			t.Fatalf("call afterwards: %q, %v", got, err)
		}
		if m := p.answered(conn.invoke("f", "1")); string(m.Result) != "1" {
			t.Fatalf("answer afterwards: %s", m.Raw)
		}
	}
	for name, message := range hostileMessages {
		t.Run(name, func(t *testing.T) {
			conn.send(message)
			healthy(t)
			_ = conn.WriteFrame(enginetest.OpBinary, true, []byte(message))
			healthy(t)
			for i := range message { // in frames of one byte
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

// TestR16BrokenFramesCostTheConnection is about what breaks the WebSocket itself: the client
// connects again.
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
					t.Errorf("call afterwards: %d, %v", got, err)
				}
				if e, _ := w.wait(t, 0, func(e watched) bool { return e.err != nil }); e.state != ConnectionStateReconnecting {
					t.Errorf("told: %v", e)
				}
			})
		})
	}
}

// TestR16FloodsAreBounded has the engine send without reading, and without an end.
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
		limit   int64 // bytes that the heap may grow by; 0: 160 MiB
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
						break // the client has seen enough
					}
				}
				synctest.Wait()
				grown := heap() - before
				t.Logf("the heap grew by %d KiB", grown>>10)
				if limit := cmp.Or(flood.limit, 160<<20); grown > limit {
					t.Errorf("the heap grew by %d KiB, more than %d", grown>>10, limit>>10)
				}
				_ = c.Close()
			})
		})
	}
}

// An error frame on a connection that the engine has accepted ends that connection at most:
// with the code of a refusal it is made again, with another code nothing happens.
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

// TestR16Handshake is about answers to the upgrade request.
func TestR16Handshake(t *testing.T) {
	const accepted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	tests := []struct {
		name, answer string
		endless      string // is sent again and again after it
		want         string // in the error
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

// extendingConn puts an extension into the answer to the upgrade.
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
