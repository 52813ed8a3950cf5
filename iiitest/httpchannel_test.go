package iiitest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/memnet"
)

// channel connects to the channel end that ref refers to.
func (w *web) channel(ref any) *websocket.Conn {
	w.t.Helper()
	r, _ := ref.(map[string]any)
	d := websocket.Dialer{NetDialContext: w.e.DialContext}
	conn, _, err := d.DialContext(w.t.Context(), fmt.Sprintf("%s/ws/channels/%s?key=%s&dir=%s",
		w.e.URL(), r["channel_id"], url.QueryEscape(fmt.Sprint(r["access_key"])), r["direction"]), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestBodyOverItsChannel(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("f")
	c.route("r", "f", "POST", "/f")
	c.sync()
	for _, test := range []struct{ contentType, body string }{
		{"application/json", `{"a": 1}`},
		{"text/plain", strings.Repeat("0123456789", 100_000)},
	} {
		done := w.do("POST", "/f", test.body, "Content-Type", test.contentType)
		m := c.recv()
		conn := w.channel(m["data"].(map[string]any)["request_body"])
		var got strings.Builder
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
					t.Errorf("end of the body: %v", err)
				}
				break
			}
			if kind != websocket.BinaryMessage {
				t.Errorf("message of kind %d", kind)
			}
			got.Write(data)
		}
		if got.String() != test.body {
			t.Errorf("%s: got %d bytes, want %d", test.contentType, got.Len(), len(test.body))
		}
		c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":1}`, m["invocation_id"])
		<-done
	}
}

func (e *Engine) channelCount() int {
	e.channels.mu.Lock()
	defer e.channels.mu.Unlock()
	return len(e.channels.byID)
}

// A channel outlives its request only while the function keeps an end open.
func TestChannelsOfFinishedRequestsAreFreed(t *testing.T) {
	end := func(conn *websocket.Conn) {
		_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
		_ = conn.Close()
	}
	large := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		name, body string
		more       string // more members of the result message
		before     func(w *web, data map[string]any)
		late       bool // the function responds after the request has ended
		left       int  // channels that remain because an end is open
	}{
		{name: "a value", more: `,"result":1`},
		{name: "an error", more: `,"error":{"code":"C","message":"m"}`},
		{name: "a body that nobody reads", body: large, more: `,"result":1`},
		{name: "a body that is read", body: large, more: `,"result":1`, before: func(w *web, data map[string]any) {
			conn := w.channel(data["request_body"])
			for err := error(nil); err == nil; {
				_, _, err = conn.ReadMessage()
			}
		}},
		{name: "a body that is left", body: large, more: `,"result":1`, before: func(w *web, data map[string]any) {
			_ = w.channel(data["request_body"]).Close()
		}},
		{name: "a streamed response", before: func(w *web, data map[string]any) {
			conn := w.channel(data["response"])
			_ = conn.WriteMessage(websocket.BinaryMessage, []byte("data"))
			end(conn)
		}},
		{name: "a value in the place of a stream", more: `,"result":1`, left: 1, before: func(w *web, data map[string]any) {
			conn := w.channel(data["response"])
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":500}`))
			w.t.Cleanup(func() { end(conn) })
		}},
		{name: "nothing at all"},
		{name: "a function that is late", late: true, more: `,"result":1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t)
				w := newWeb(t, e)
				c := dial(t, e).register("c")
				c.function("f")
				c.route("r", "f", "POST", "/f")
				c.sync()
				done := w.do("POST", "/f", test.body, "Content-Type", "text/plain")
				m := c.recv()
				data := m["data"].(map[string]any)
				if test.before != nil {
					test.before(w, data)
				}
				synctest.Wait()
				if test.late {
					<-done
				}
				c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f"%s}`, m["invocation_id"], test.more)
				if !test.late {
					<-done
				}
				synctest.Wait()
				if n := e.channelCount(); n != test.left {
					t.Errorf("%d channels left, want %d", n, test.left)
				}
			})
		})
	}
}

func TestResponseOverItsChannel(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("f")
	c.route("r", "f", "GET", "/f")
	c.sync()

	done := w.do("GET", "/f", "")
	m := c.recv()
	conn := w.channel(m["data"].(map[string]any)["response"])
	for _, text := range []string{
		`no JSON`, `{"type":"set_status","status_code":99}`, `{"type":"set_status","status_code":207}`,
		`{"type":"set_headers","headers":{"x-a":"1","x-b":["2"]}}`, `{"type":"set_headers","headers":["x-c: 3"]}`,
		`{"type":"set_headers","headers":{"x-d":"4","bad name":"5"}}`,
	} {
		_ = conn.WriteMessage(websocket.TextMessage, []byte(text))
	}
	_ = conn.WriteMessage(websocket.BinaryMessage, []byte("one "))
	_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":500}`))
	_ = conn.WriteMessage(websocket.BinaryMessage, []byte("two"))
	_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x"}`, m["invocation_id"])
	got := <-done
	if got.status != 207 || got.body != "one two" || got.err != nil {
		t.Errorf("got %d %q, %v", got.status, got.body, got.err)
	}
	for k, want := range map[string]string{"X-A": "1", "X-B": "", "X-C": "", "X-D": "4"} {
		if got := got.header.Get(k); got != want {
			t.Errorf("header %s: got %q, want %q", k, got, want)
		}
	}

	// A result that arrives before any data is used as the response.
	done = w.do("GET", "/f", "")
	m = c.recv()
	conn = w.channel(m["data"].(map[string]any)["response"])
	_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":500}`))
	c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":{"status_code":203}}`, m["invocation_id"])
	if got := <-done; got.status != 203 || got.body != "{}" {
		t.Errorf("got %d %q", got.status, got.body)
	}

	// If the channel closes without data, the response has no body.
	done = w.do("GET", "/f", "")
	m = c.recv()
	conn = w.channel(m["data"].(map[string]any)["response"])
	_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":204}`))
	_ = conn.Close()
	if got := <-done; got.status != 204 || got.body != "" {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

// If the client disconnects, the response's writer is cut off at its next frame. This is true
// even of a text frame, which has no effect while the client is connected.
func TestResponseChannelEndsWithItsClient(t *testing.T) {
	for _, test := range []struct {
		name  string
		fill  bool // write more than the client's connection can buffer
		leave func(*net.TCPConn) error
	}{
		{"nothing is written, the client closes", false, (*net.TCPConn).Close},
		{"nothing is written, the client ends its side", false, (*net.TCPConn).CloseWrite},
		{"the client reads nothing and closes", true, (*net.TCPConn).Close},
		{"the client reads nothing and ends its side", true, (*net.TCPConn).CloseWrite},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := Start(t)
			c := dial(t, e).register("c")
			w := newWeb(t, e)
			c.function("f")
			c.route("r", "f", "GET", "/f")
			c.sync()
			visitor, err := net.Dial("tcp", strings.TrimPrefix(e.HTTPURL(), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer visitor.Close()
			fmt.Fprint(visitor, "GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
			m := c.recv()
			writer := w.channel(m["data"].(map[string]any)["response"])
			const first, last = "first bytes", "last bytes"
			for _, text := range []string{first, last} {
				_ = writer.WriteMessage(websocket.BinaryMessage, []byte(text))
				_ = writer.WriteMessage(websocket.TextMessage, []byte(`{"type":"keepalive"}`))
			}
			var got strings.Builder
			for buf := make([]byte, 1<<10); !strings.Contains(got.String(), last); {
				n, err := visitor.Read(buf)
				got.Write(buf[:n])
				if err != nil {
					t.Fatal(err)
				}
			}
			if !strings.Contains(got.String(), first) || strings.Contains(got.String(), "keepalive") {
				t.Errorf("the client sees %q", got.String())
			}
			progress := make(chan struct{}, 1)
			if !test.fill {
				close(progress)
			} else {
				go func() {
					defer close(progress)
					for chunk := make([]byte, 1<<20); writer.WriteMessage(websocket.BinaryMessage, chunk) == nil; {
						progress <- struct{}{}
					}
				}()
				for stuck := false; !stuck; {
					select {
					case <-progress:
					case <-time.After(300 * time.Millisecond):
						stuck = true
					}
				}
			}
			stopped := make(chan struct{})
			go func() { // the writer was only slow if it continues
				defer close(stopped)
				for range progress {
				}
			}()
			ended := make(chan error, 1)
			go func() {
				_, _, err := writer.ReadMessage()
				ended <- err
			}()
			if err := test.leave(visitor.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			for err = nil; err == nil && !test.fill; {
				select {
				case err = <-ended:
				default: // the engine has not noticed yet
					_ = writer.WriteMessage(websocket.TextMessage, []byte(`{"type":"keepalive"}`))
					runtime.Gosched()
				}
			}
			if test.fill {
				err = <-ended
				<-stopped
			}
			if websocket.IsCloseError(err, websocket.CloseNoStatusReceived, websocket.CloseNormalClosure) {
				t.Errorf("the writer's connection has ended with a Close frame: %v", err)
			}
		})
	}
}

// Of the clients that connect to the same end, the first one gets it. A failed handshake does
// not take it.
func TestFirstClientGetsTheEndOfAChannel(t *testing.T) {
	e := Start(t)
	w := newWeb(t, e)
	c := dial(t, e)
	for range 100 {
		r := c.call("engine::channels::create", `{}`)["result"].(map[string]any)
		ref := r["reader"].(map[string]any)
		target := fmt.Sprintf("/ws/channels/%s?key=%s&dir=read", ref["channel_id"], url.QueryEscape(fmt.Sprint(ref["access_key"])))
		bad, err := e.DialContext(t.Context(), "tcp", strings.TrimPrefix(e.URL(), "ws://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(bad, "GET "+target+" HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n")
		if line, err := bufio.NewReader(bad).ReadString('\n'); line != "HTTP/1.1 400 Bad Request\r\n" {
			t.Fatalf("handshake with a bad key: %q, %v", line, err)
		}
		_ = bad.Close()
		first, second := w.channel(ref), w.channel(ref)
		if _, _, err := second.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Fatalf("the second reader gets %v, want a Close without a code", err)
		}
		if err := w.channel(r["writer"]).WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, m, err := first.ReadMessage(); err != nil || string(m) != "x" {
			t.Fatalf("the first reader gets %q, %v", m, err)
		}
		_, _ = first.Close(), second.Close()
	}
}

func TestUnusedChannelExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		w := newWeb(t, e)
		c := dial(t, e)
		create := func() (writer, reader any) {
			r := c.call("engine::channels::create", `{"buffer_size":0}`)["result"].(map[string]any)
			return r["writer"], r["reader"]
		}
		writer, _ := create()
		_, reader := create()
		both, ends := create()
		dropped, ended := w.channel(writer), w.channel(reader)
		alive, other := w.channel(both), w.channel(ends)
		time.Sleep(channelTTL)
		synctest.Wait()
		if _, _, err := ended.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Errorf("reader: %v, want a Close without a code", err)
		}
		_ = dropped.WriteMessage(websocket.TextMessage, []byte("x"))
		if _, _, err := dropped.ReadMessage(); websocket.IsCloseError(err, websocket.CloseNoStatusReceived) || err == nil {
			t.Errorf("writer: %v, want a cut", err)
		}
		_ = alive.WriteMessage(websocket.TextMessage, []byte("x"))
		if _, m, err := other.ReadMessage(); err != nil || string(m) != "x" {
			t.Errorf("channel with both ends: %q, %v", m, err)
		}
	})
}

// A streamed response has the framing that the function declares. If its body is incomplete,
// the connection is closed after the response.
func TestStreamedResponsesKeepTheirFraming(t *testing.T) {
	const cors = "vary: " + corsVary + "\r\naccess-control-allow-origin: *\r\naccess-control-expose-headers: *\r\n"
	for _, test := range []struct {
		name, request string
		messages      []string // "=" marks a binary message
		want          string   // "" for no response
	}{
		{
			"names that differ in case", "GET /f HTTP/1.1",
			[]string{`{"type":"set_headers","headers":{"set-cookie":"a","Set-Cookie":"b","SET-COOKIE":"c"}}`, "=x"},
			"HTTP/1.1 200 OK\r\nset-cookie: c\r\nset-cookie: b\r\nset-cookie: a\r\n" + cors + "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		},
		{
			"no content type, and the reply's CORS headers lose", "GET /f HTTP/1.1",
			[]string{`{"type":"set_headers","headers":{"Access-Control-Allow-Origin":"https://x","vary":"accept"}}`, "=<html>"},
			"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: accept\r\nvary: " + corsVary + "\r\naccess-control-expose-headers: *\r\ntransfer-encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n",
		},
		{
			"text that is no control message", "GET /f HTTP/1.1",
			[]string{`{"type":"keepalive"}`, "", "no JSON", `[]`, `{"TYPE":"set_status","status_code":500}`, `{"type":"set_status","Status_Code":500}`, "=x", `{"type":"keepalive"}`, "", "=", "=y"},
			"HTTP/1.1 200 OK\r\n" + cors + "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n1\r\ny\r\n0\r\n\r\n",
		},
		{
			"longer than its length", "GET /f HTTP/1.1",
			[]string{`{"type":"set_headers","headers":{"content-length":"3","connection":"close"}}`, "=ab", "=cd", "=ef"},
			"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n" + cors + "\r\nabc",
		},
		{
			"shorter than its length", "GET /f HTTP/1.1",
			[]string{`{"type":"set_headers","headers":{"content-length":"3"}}`, "=ab"},
			"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n" + cors + "\r\nab",
		},
		{"a length that is none", "GET /f HTTP/1.1", []string{`{"type":"set_headers","headers":{"content-length":"-3"}}`, "=abc"}, ""},
		{"two lengths", "GET /f HTTP/1.1", []string{`{"type":"set_headers","headers":{"content-length":"3","Content-Length":"3"}}`, "=abc"}, ""},
		{"a length and chunks", "GET /f HTTP/1.1", []string{`{"type":"set_headers","headers":{"content-length":"3","transfer-encoding":"chunked"}}`, "=abc"}, ""},
		{
			"an encoding", "GET /f HTTP/1.1",
			[]string{`{"type":"set_headers","headers":{"transfer-encoding":"gzip","trailer":"x-t"}}`, "=abc"},
			"HTTP/1.1 200 OK\r\ntrailer: x-t\r\ntransfer-encoding: gzip, chunked\r\n" + cors + "\r\n3\r\nabc\r\n0\r\n\r\n",
		},
		{
			"informational", "GET /f HTTP/1.1", []string{`{"type":"set_status","status_code":103}`, "=abc"},
			"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
		},
		{
			"HTTP/1.0", "GET /f HTTP/1.0", []string{`{"type":"set_headers","headers":{"transfer-encoding":"gzip","trailer":"x-t"}}`, "=abc", "=def"},
			"HTTP/1.0 200 OK\r\n" + cors + "\r\nabcdef",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t)
				c, w := dial(t, e).register("c"), newWeb(t, e)
				c.function("f")
				c.route("r", "f", "GET", "/f")
				c.sync()
				client, done := w.raw(test.request + "\r\n\r\n")
				m := c.recv()
				conn := w.channel(m["data"].(map[string]any)["response"])
				for _, text := range test.messages {
					kind, data := websocket.TextMessage, text
					if binary, ok := strings.CutPrefix(text, "="); ok {
						kind, data = websocket.BinaryMessage, binary
					}
					_ = conn.WriteMessage(kind, []byte(data))
				}
				_ = conn.Close()
				synctest.Wait()
				_ = client.(*memnet.Conn).CloseWrite() // no more requests
				if got := <-done; got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}

// If the client disconnects, its response ends, even while the engine is blocked writing to
// the client. The writer is cut off at its next message.
func TestWriterEndsWithTheClient(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			c, w := dial(t, e).register("c"), newWeb(t, e)
			c.function("f")
			c.route("r", "f", "GET", "/f")
			c.sync()
			client, err := e.DialContext(t.Context(), "tcp", e.httpServer.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = client.Write([]byte("GET /f HTTP/1.1\r\n\r\n"))
			conn := w.channel(c.recv()["data"].(map[string]any)["response"])
			ended := make(chan error, 1)
			go func() {
				_, _, err := conn.ReadMessage()
				ended <- err
			}()
			_ = conn.WriteMessage(websocket.BinaryMessage, []byte("x"))
			if stuck { // write more than the connection can buffer
				_ = conn.WriteMessage(websocket.BinaryMessage, make([]byte, 2*memnet.Capacity))
			}
			synctest.Wait()
			_ = client.Close()
			synctest.Wait()
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"keepalive"}`))
			synctest.Wait()
			select {
			case err := <-ended:
				if websocket.IsCloseError(err, websocket.CloseNoStatusReceived, websocket.CloseNormalClosure) {
					t.Errorf("stuck %t: %v, want a cut", stuck, err)
				}
			default:
				t.Errorf("stuck %t: the writer's connection is still there", stuck)
			}
		})
	}
}

// A client that closes its sending side after a complete request is treated as disconnected. A
// client that does so before its body is complete can still receive a response.
func TestClientClosesItsSendingSide(t *testing.T) {
	for _, test := range []struct {
		length, want string
	}{{"2", ""}, {"3", "HTTP/1.1 200 OK\r\n"}} {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			c, w := dial(t, e).register("c"), newWeb(t, e)
			c.function("f")
			c.route("r", "f", "POST", "/f")
			c.sync()
			conn, done := w.raw("POST /f HTTP/1.1\r\nContent-Length: " + test.length + "\r\n\r\n{}")
			m := c.recv()
			_ = conn.(*memnet.Conn).CloseWrite()
			synctest.Wait()
			c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":1}`, m["invocation_id"])
			c.sync()
			if got := <-done; !strings.HasPrefix(got, test.want) || test.want == "" && got != "" {
				t.Errorf("length %s: %q, want %q", test.length, got, test.want)
			}
		})
	}
}
