package iiitest

import (
	"fmt"
	"net"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// channel opens an end of a channel that a payload refers to.
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
	e.channels.mu.Lock()
	defer e.channels.mu.Unlock()
	if n := len(e.channels.byID); n > 2 { // the last handler may still be ending its channels
		t.Errorf("%d channels left", n)
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

	// A value before the first bytes is the response.
	done = w.do("GET", "/f", "")
	m = c.recv()
	conn = w.channel(m["data"].(map[string]any)["response"])
	_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":500}`))
	c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":{"status_code":203}}`, m["invocation_id"])
	if got := <-done; got.status != 203 || got.body != "{}" {
		t.Errorf("got %d %q", got.status, got.body)
	}

	// A channel that is closed without data is a response without a body.
	done = w.do("GET", "/f", "")
	m = c.recv()
	conn = w.channel(m["data"].(map[string]any)["response"])
	_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"set_status","status_code":204}`))
	_ = conn.Close()
	if got := <-done; got.status != 204 || got.body != "" {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

// The writer of a response whose client has gone is cut off at its next frame, and a
// text that says nothing is such a frame: a client that is there does not see it.
func TestResponseChannelEndsWithItsClient(t *testing.T) {
	for _, test := range []struct {
		name  string
		fill  bool // more is written than the client's connection holds
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
			if test.fill {
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
				for range progress {
				}
			}
			if websocket.IsCloseError(err, websocket.CloseNoStatusReceived, websocket.CloseNormalClosure) {
				t.Errorf("the writer's connection has ended with a Close frame: %v", err)
			}
		})
	}
}

func TestChannelLeftAloneIsSwept(t *testing.T) {
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
