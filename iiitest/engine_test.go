package iiitest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/environ"
)

// TestMain fails if a test leaves goroutines behind.
func TestMain(m *testing.M) {
	environ.Clear()
	before := runtime.NumGoroutine()
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // fuzzing leaves goroutines behind
	if code == 0 && !fuzzing {
		deadline := time.Now().Add(30 * time.Second)
		for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond) // net/http closes connections asynchronously
		}
		if now := runtime.NumGoroutine(); now > before {
			b := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after:\n%s\n", before, now, b[:runtime.Stack(b, true)])
			code = 1
		}
	}
	os.Exit(code)
}

// readTimeout is long because 20 MiB messages take half a minute under the race detector.
const readTimeout = 3 * time.Minute

type client struct {
	t     testing.TB
	conn  *websocket.Conn
	id    string // assigned by the engine
	token string
}

// dial connects a client in memory and reads the greeting.
func dial(t testing.TB, e *Engine) *client {
	t.Helper()
	c := dialURL(t, e, e.URL())
	m := c.recv()
	if m["type"] != "workerregistered" {
		t.Fatalf("first message: %v", m)
	}
	c.id, _ = m["worker_id"].(string)
	c.token, _ = m["reattach_token"].(string)
	return c
}

func dialURL(t testing.TB, e *Engine, url string) *client {
	t.Helper()
	d := websocket.Dialer{NetDialContext: e.DialContext}
	conn, _, err := d.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t: t, conn: conn}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) recv() map[string]any {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(readTimeout))
	_, data, err := c.conn.ReadMessage()
	if err != nil {
		c.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		c.t.Fatalf("%s: %v", data, err)
	}
	return m
}

// want reads a message and compares it with pattern, in which "*" matches any value.
func (c *client) want(pattern string) map[string]any {
	c.t.Helper()
	m := c.recv()
	var w any
	if err := json.Unmarshal([]byte(pattern), &w); err != nil {
		c.t.Fatalf("%s: %v", pattern, err)
	}
	if !like(w, m) {
		got, _ := json.Marshal(m)
		c.t.Fatalf("got  %s\nwant %s", got, pattern)
	}
	return m
}

func like(want, got any) bool {
	switch w := want.(type) {
	case string:
		return w == "*" || w == got
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for k := range w {
			if v, ok := g[k]; !ok || !like(w[k], v) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !like(w[i], g[i]) {
				return false
			}
		}
		return true
	default:
		return want == got
	}
}

func (c *client) call(functionID, data string, more ...string) map[string]any {
	c.t.Helper()
	id := uuid.NewString()
	c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":%q,"data":%s%s}`, id, functionID, data, strings.Join(more, ""))
	for {
		m := c.recv()
		if m["type"] == "invocationresult" && m["invocation_id"] == id {
			return m
		}
	}
}

// register sets the worker's name and waits until its namespace is known.
func (c *client) register(name string, more ...string) *client {
	c.t.Helper()
	m := c.call("engine::workers::register", fmt.Sprintf(`{"name":%q,"pid":1%s}`, name, strings.Join(more, "")))
	if r, _ := m["result"].(map[string]any); r["success"] != true {
		c.t.Fatalf("register %s: %v", name, m)
	}
	return c
}

// sync waits until the engine has handled all earlier messages.
func (c *client) sync() {
	c.t.Helper()
	c.send(`{"type":"ping"}`)
	c.want(`{"type":"pong"}`)
}

// closed reads until the connection ends, and returns the error.
func (c *client) closed() error {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(readTimeout))
	for {
		if _, _, err := c.conn.ReadMessage(); err != nil {
			return err
		}
	}
}

func TestCallBetweenWorkers(t *testing.T) {
	e := Start(t)
	callee, caller := dial(t, e).register("callee"), dial(t, e)
	callee.send(`{"type":"registerfunction","id":"a::b"}`)
	callee.sync()
	caller.send(`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a::b","data":{"z":1,"a":[2.50,"é\u00e9"]}}`)
	callee.want(`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a::b","data":{"z":1,"a":[2.5,"éé"],"_caller_worker_id":"` + caller.id + `"}}`)
	callee.send(`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a::b","result":{"ok":true}}`)
	caller.want(`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a::b","result":{"ok":true}}`)
}

func TestInBubble(t *testing.T) {
	if inBubble() {
		t.Error("in a bubble outside of one")
	}
	synctest.Test(t, func(t *testing.T) {
		if !inBubble() {
			t.Fatal("not in a bubble inside of one")
		}
		e := Start(t, WithNamespaceGrace(time.Hour))
		c := dial(t, e)
		c.send(`{"type":"registerfunction","id":"a::b"}`)
		c.sync()
		if got := c.call("engine::functions::info", `{"function_id":"a::b"}`); got["error"] == nil {
			t.Errorf("registered before the grace period: %v", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := c.call("engine::functions::info", `{"function_id":"a::b"}`); got["error"] != nil {
			t.Errorf("not registered after the grace period: %v", got)
		}
	})
}

func TestCloseCutsConnections(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.closed(); websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived) {
		t.Errorf("Close frame at the engine's end: %v", err)
	}
	if _, err := e.DialContext(context.Background(), "tcp", "x"); err == nil {
		t.Error("dial after Close succeeded")
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(e.URL(), "ws://")); err == nil {
		t.Error("TCP dial after Close succeeded")
	}
}

// A request that arrives while the engine closes gets no response.
func TestRequestDuringCloseIsCut(t *testing.T) {
	e := Start(t, WithConsole("127.0.0.1:0"))
	closed := func(closed bool) {
		e.life.Lock()
		defer e.life.Unlock()
		e.closed = closed
	}
	closed(true)
	defer closed(false)
	client := http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
	for _, url := range []string{e.URL(), e.StreamURL(), e.ConsoleURL()} {
		response, err := client.Get(strings.Replace(url, "ws://", "http://", 1))
		if err == nil {
			_ = response.Body.Close()
			t.Errorf("%s: status %d", url, response.StatusCode)
		}
	}
}

func decodeJSON(t testing.TB, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}
