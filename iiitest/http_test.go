package iiitest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/memnet"
)

// web sends requests to an engine's HTTP triggers, in memory.
type web struct {
	t      testing.TB
	e      *Engine
	client *http.Client
}

func newWeb(t testing.TB, e *Engine) *web {
	transport := &http.Transport{DialContext: e.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &web{t, e, &http.Client{Transport: transport}}
}

type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// do sends a request in the background.
func (w *web) do(method, path, body string, headers ...string) <-chan answer {
	done := make(chan answer, 1)
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.e.HTTPURL()+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	go func() {
		response, err := w.client.Do(r)
		if err != nil {
			done <- answer{err: err}
			return
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		done <- answer{response.StatusCode, response.Header, string(b), err}
	}()
	return done
}

func (c *client) route(id, functionID, method, path string) {
	c.t.Helper()
	c.send(`{"type":"registertrigger","id":%q,"trigger_type":"http","function_id":%q,"config":{"http_method":%q,"api_path":%q}}`, id, functionID, method, path)
}

// answer replies to the next invocation and returns the invocation's data.
func (c *client) answer(more string) map[string]any {
	c.t.Helper()
	m := c.recv()
	if m["type"] != "invokefunction" {
		c.t.Fatalf("got %v, want an invocation", m)
	}
	c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x"%s}`, m["invocation_id"], more)
	data, _ := m["data"].(map[string]any)
	return data
}

func TestRouting(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	for _, r := range []string{
		"GET /items/:id", "POST /items/:id", "GET /items/new", "GET /items/:id/parts/:part", "GET plain",
		"GET /", "get /lower", "GET /slash/", "GET /one/{x}", "GET /rest/{*x}", "HEAD /headed", "TRACE /traced",
		"GET /two/:a:b", "GET /same/:a/:a", "GET /braces/{{x}}", "GET /braces/:{y}/z", "GET /colon/:*x", "GET /prefix/x{a}", "GET /prefix/:a",
	} {
		method, path, _ := strings.Cut(r, " ")
		c.function(path)
		c.route(r, path, method, path)
	}
	c.sync()
	for _, test := range []struct {
		request, path string // path of the matching route, or "" for none
		params        map[string]any
	}{
		{"GET /items/7?x=1", "/items/:id", map[string]any{"id": "7"}},
		{"POST /items/a%2Fb", "/items/:id", map[string]any{"id": "a%2Fb"}},
		{"GET /items/new", "/items/new", map[string]any{}},
		{"GET /items/7/parts/8", "/items/:id/parts/:part", map[string]any{"id": "7", "part": "8"}},
		{"GET /plain", "plain", map[string]any{}},
		{"GET /", "/", map[string]any{}},
		{"GET /lower", "/lower", map[string]any{}},
		{"GET /slash/", "/slash/", map[string]any{}},
		{"GET /one/1", "/one/{x}", map[string]any{}},
		{"GET /rest/1/2", "/rest/{*x}", map[string]any{}},
		{"HEAD /headed", "/headed", map[string]any{}},
		{"GET /two/1", "/two/:a:b", map[string]any{"a:b": "1"}},
		{"GET /same/1/2", "/same/:a/:a", map[string]any{"a": "2"}},
		{"GET /colon/1/2", "/colon/:*x", map[string]any{}},
		{"GET /prefix/x1", "/prefix/x{a}", map[string]any{}},
		{"GET /prefix/x", "/prefix/:a", map[string]any{"a": "x"}},
		{"GET /items//parts/8", "/items/:id/parts/:part", map[string]any{"id": "", "part": "8"}},
		{"GET /braces/x", "", nil},
		{"GET /items/", "", nil},
		{"GET /items", "", nil},
		{"GET /items/7/", "", nil},
		{"GET /slash", "", nil},
		{"GET /one/1/2", "", nil},
		{"GET /rest/", "", nil},
		{"HEAD /plain", "", nil},
		{"TRACE /traced", "", nil},
	} {
		t.Run(test.request, func(t *testing.T) {
			method, path, _ := strings.Cut(test.request, " ")
			done := w.do(method, path, "")
			want := http.StatusNotFound
			if test.path != "" {
				want = http.StatusOK
				data := c.answer(`,"result":1`)
				if data["path"] != test.path || !like(test.params, data["path_params"]) {
					t.Errorf("path %v with %v, want %v with %v", data["path"], data["path_params"], test.path, test.params)
				}
			}
			if got := <-done; got.status != want || got.err != nil {
				t.Errorf("status %d, %v, want %d", got.status, got.err, want)
			}
		})
	}
	got := <-w.do("OPTIONS", "/items/7", "")
	if allow := got.header.Get("Allow"); got.status != http.StatusOK || allow != "GET,HEAD,POST" {
		t.Errorf("OPTIONS: status %d, Allow %q", got.status, allow)
	}
}

func TestRouteTakenOver(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("one", "two")
	c.route("r1", "one", "GET", "/a")
	c.route("r2", "two", "GET", "/a")
	c.sync()
	want := func(path, functionID string) {
		t.Helper()
		done := w.do("GET", path, "")
		if m := c.recv(); m["function_id"] != functionID {
			t.Errorf("%s: got %v, want %s", path, m["function_id"], functionID)
		} else {
			c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":1}`, m["invocation_id"])
		}
		<-done
	}
	want("/a", "two")
	c.route("r2", "two", "GET", "/b") // the old route remains when the path changes
	c.sync()
	want("/a", "two")
	want("/b", "two")
	c.send(`{"type":"unregistertrigger","id":"r2"}`)
	c.sync()
	if got := <-w.do("GET", "/a", ""); got.status != http.StatusNotFound {
		t.Errorf("after unregistering: %d", got.status)
	}
	c.send(`{"type":"registertrigger","id":"bad","trigger_type":"http","function_id":"f","config":{"api_path":1}}`)
	c.want(`{"type":"triggerregistrationresult","id":"bad","trigger_type":"http","function_id":"f","error":{"code":"trigger_registration_failed","message":"api_path is required for http triggers"}}`)
}

// Registering one of these routes breaks a real engine permanently. The development engine
// rejects them, and all other routes keep working.
func TestRoutesThatBreakAnEngineAreRejected(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("f")
	c.route("before", "f", "GET", "/before")
	for _, test := range []struct{ config, path, why string }{
		{`{"api_path":"/q/{*rest}/"}`, "/q/{*rest}/", "the wildcard {*rest} is not the end of the path"},
		{`{"api_path":"/q/{"}`, "/q/{", "it has an opening brace without a closing one"},
		{`{"api_path":"/q/}"}`, "/q/}", "it has a closing brace without an opening one"},
		{`{"api_path":"/q/{a}{b}"}`, "/q/{a}{b}", `something follows the parameter "a" in its segment`},
		{`{"api_path":"/q/a{b}c"}`, "/q/a{b}c", `something follows the parameter "b" in its segment`},
		{`{"api_path":"/q/{}"}`, "/q/{}", "it has a parameter without a name"},
		{`{"http_method":"TRACE","api_path":"/q/:"}`, "/q/:", "it has a parameter without a name"},
		{`{"api\u005fpath":"/q/{*}"}`, "/q/{*}", "it has a wildcard without a name"},
		{`{"api_path":"/ok","api_path":"*x"}`, "*x", `segment "*x" is a wildcard without braces`},
	} {
		message := fmt.Sprintf("HTTP path %q breaks the engine's router for all workers until the engine is restarted: %s", test.path, test.why)
		c.send(`{"type":"registertrigger","id":"bad","trigger_type":"http","function_id":"f","config":%s}`, test.config)
		c.want(fmt.Sprintf(`{"type":"triggerregistrationresult","id":"bad","trigger_type":"http","function_id":"f","error":{"code":"trigger_registration_failed","message":%q}}`, message))
		got := c.call("engine::register_trigger", `{"trigger_type":"http","function_id":"f","config":`+test.config+`}`)
		if refusal, _ := got["error"].(map[string]any); refusal["code"] != "trigger_registration_failed" || refusal["message"] != message {
			t.Errorf("%s through engine::register_trigger: got %v, want %s", test.config, got, message)
		}
	}
	c.route("after", "f", "GET", "/after")
	c.sync()
	for _, path := range []string{"/before", "/after"} {
		done := w.do("GET", path, "")
		c.answer(`,"result":1`)
		if got := <-done; got.status != http.StatusOK {
			t.Errorf("%s: status %d", path, got.status)
		}
	}
}

// Routes must not have different wildcards at the same position, even for different methods.
func TestConflictingWildcardsAreRejected(t *testing.T) {
	const names = "routes with identical structure but different path-parameter names are not supported"
	const rest = "a wildcard that takes the rest of a path shares its place with no other"
	for _, test := range []struct{ first, second, why string }{
		{"GET /a/:b", "GET /a/:c", names},
		{"GET /a/:b", "POST /a/:c", names},
		{"GET /a/:b/c", "GET /a/{d}/c", names},
		{"GET /a/x{b}", "GET /a/x{c}", names},
		{"GET /a/{*b}", "GET /a/{*c}", names},
		{"GET /a/:b", "GET /a/{*c}", rest},
		{"PUT /a/{*b}", "GET /a/:c/d", rest},
		{"GET /a/:b", "GET /a/{b}", "the router takes :name and {name} for one path"},
		{"GET /a/:b", "POST /a/{b}", ""},
		{"GET /a/:b", "TRACE /a/:c", ""},
		{"GET /a/:b", "GET /a/:c/d", ""},
		{"GET /a/:b", "GET /a/x{c}", ""},
		{"GET /a/{*b}", "GET /a/b", ""},
		{"GET /a/{*b}", "GET /a{*b}", ""},
		{"GET /a/{{b}}", "GET /a/:c", ""},
	} {
		t.Run(test.first+" and "+test.second, func(t *testing.T) {
			c := dial(t, Start(t)).register("c")
			for i, r := range []string{test.first, test.second} {
				method, path, _ := strings.Cut(r, " ")
				c.route(fmt.Sprint(i), "f", method, path)
			}
			if test.why != "" {
				c.want(fmt.Sprintf(`{"type":"triggerregistrationresult","id":"1","trigger_type":"http","function_id":"f","error":{"code":"trigger_registration_failed",`+
					`"message":"Route '%s' conflicts with already-registered route '%s': %s"}}`, test.second, test.first, test.why))
			}
			c.sync() // fails on any other message
		})
	}
}

func TestRequestPayload(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("f")
	c.route("r", "f", "POST", "/f")
	c.sync()
	done := w.do("POST", "/f?a=1&a=2&b=x+y%26z&c&%E4%F6=%zz&", `{"b":[1.50],"a":9007199254740993}`,
		"Content-Type", "application/json; charset=utf-8", "X-Twice", "1", "X-Twice", "2", "X-Latin", "caf\xe9", "X-Tab", "a\tb")
	data := c.answer(`,"result":{"body":"x"}`)
	<-done
	if want := map[string]any{"a": "2", "b": "x y&z", "c": "", "��": "%zz"}; !like(want, data["query_params"]) {
		t.Errorf("query: got %v, want %v", data["query_params"], want)
	}
	headers, _ := data["headers"].(map[string]any)
	for k, want := range map[string]string{
		"x-twice": "2", "x-latin": "", "x-tab": "a\tb", "content-length": "33", "host": strings.TrimPrefix(e.HTTPURL(), "http://"),
	} {
		if headers[k] != want {
			t.Errorf("header %s: got %q, want %q", k, headers[k], want)
		}
	}
	frames := e.Frames()
	i := slices.IndexFunc(frames, func(f Frame) bool { return f.Type() == "invokefunction" && f.Direction == FromEngine })
	if !strings.Contains(string(frames[i].Message), `"body":{"a":9007199254740993,"b":[1.5]}`) {
		t.Errorf("body: %s", frames[i].Message)
	}
	for _, k := range []string{"request_body", "response"} {
		ref, _ := data[k].(map[string]any)
		if len(ref) != 3 {
			t.Errorf("%s: %v", k, data[k])
		}
	}
}

// Server middleware runs in the default namespace, in the order in which it was set, before
// the route's condition and middleware.
func TestServerMiddleware(t *testing.T) {
	e := Start(t, WithHTTPMiddleware("mw::a"), WithHTTPMiddleware("mw::b", "mw::c"))
	c, w := dial(t, e).register("c"), newWeb(t, e)
	shop := dial(t, e).register("shop", `,"namespace":"shop"`)
	c.function("mw::a", "mw::b", "mw::c")
	shop.function("cond", "mw::route", "f::g")
	shop.send(`{"type":"registertrigger","id":"t1","trigger_type":"http","function_id":"f::g","namespace":"shop",
		"config":{"api_path":"/:id","condition_function_id":"cond","middleware_function_ids":["mw::route"]}}`)
	shop.sync()

	done := w.do("GET", "/7?q=1", "", "X-A", "b")
	for range 3 {
		data := c.answer(`,"result":{"action":"continue"}`)
		request, _ := data["request"].(map[string]any)
		if fmt.Sprintln(data["phase"], request["path_params"], request["query_params"], request["method"]) != "preHandler map[id:7] map[q:1] GET\n" {
			t.Errorf("asked %v", data)
		}
	}
	shop.answer(`,"result":true`)
	shop.answer(``)
	shop.answer(`,"result":{"status_code":201,"body":1}`)
	if got := <-done; got.status != 201 || got.body != "1" {
		t.Errorf("answer of the function: %+v", got)
	}
	done = w.do("GET", "/7", "")
	c.answer(``)
	c.answer(`,"result":{"action":"respond","response":{"status_code":401,"body":"no"}}`)
	if got := <-done; got.status != 401 || got.body != `"no"` {
		t.Errorf("answer of the second: %+v", got)
	}
	if e, err := New(WithHTTPMiddleware("")); err == nil {
		_ = e.Close()
		t.Error("empty id: no error")
	}
}

// Unread data from one request must not affect the next request on the connection.
func TestRequestsOnOneConnectionConcurrent(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	c.route("r", "f", "POST", "/f")
	c.sync()
	for i := range 20 {
		body, more := io.Pipe()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", e.HTTPURL()+"/f", body)
		wrote := make(chan struct{})
		go func() { // ends at about the same time as the response
			defer close(wrote)
			_, _ = more.Write([]byte("part"))
			_ = more.Close()
		}()
		done := make(chan answer, 1)
		go func() {
			response, err := w.client.Do(r)
			if err != nil {
				done <- answer{err: err}
				return
			}
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
			done <- answer{status: response.StatusCode, err: err}
		}()
		c.answer(`,"result":{"status_code":201}`)
		// The connection can end before the whole body has been written.
		if got := <-done; got.err == nil && got.status != 201 {
			t.Fatalf("request %d: status %d", i, got.status)
		}
		<-wrote
	}
}

// A worker sends its observers again when it reconnects, whether or not there are requests.
func TestRequestsWhileRouteIsObservedAgainConcurrent(t *testing.T) {
	e := Start(t, WithProtocol(Protocol026))
	c, w := observing(t, e, "w").host("page"), newWeb(t, e)
	observe := func() {
		c.observe("r", "http::on-request", "page", `,"args":{"path":"/p/:id"},"filters":{"input.path_params.id":{"$ne":"no"}}`)
		c.wantResult("r", "active")
	}
	observe()
	done := make(chan error)
	go func() {
		var err error
		for range 50 {
			var response *http.Response
			if response, err = w.client.Get(e.HTTPURL() + "/p/no"); err != nil {
				break
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusUnprocessableEntity {
				err = fmt.Errorf("status %d", response.StatusCode)
				break
			}
		}
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			observe()
		}
	}
}

func TestMiddlewareReplies(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f", "mw")
	c.send(`{"type":"registertrigger","id":"r","trigger_type":"http","function_id":"f","config":{"api_path":"/f","middleware_function_ids":[null,"mw",{}]}}`)
	c.sync()
	for _, test := range []struct {
		result string
		status int
		body   string
		typ    string
	}{
		{`{"action":"respond"}`, 200, "null", "application/json"},
		{`{"action":"respond","response":7}`, 200, "null", "application/json"},
		{`{"action":"respond","response":{"status_code":403}}`, 403, "null", "application/json"},
		{`{"action":"respond","response":{"body":"no","headers":{"content-type":"text/plain"}}}`, 200, `"no"`, "text/plain"},
		{`{"action":"respond","response":{"body":null,"headers":["content-type: text/plain"]}}`, 200, "null", "application/json"},
	} {
		done := w.do("GET", "/f", "")
		c.answer(`,"result":` + test.result)
		if got := <-done; got.status != test.status || got.body != test.body || got.header.Get("Content-Type") != test.typ {
			t.Errorf("%s: %+v", test.result, got)
		}
	}
	for _, result := range []string{`null`, `"respond"`, `{"action":1}`, `{"action":"continue","response":{"status_code":500}}`, `{"Action":"respond"}`} {
		done := w.do("GET", "/f", "")
		c.answer(`,"result":` + result)
		c.answer(`,"result":{"status_code":201}`)
		if got := <-done; got.status != 201 {
			t.Errorf("%s: %+v", result, got)
		}
	}
}

func TestHTTPTimeout(t *testing.T) {
	for _, test := range []struct {
		contentType string
		called      bool // the function is called before the body is complete
	}{{"text/plain", true}, {"application/json", false}} {
		t.Run(test.contentType, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t, WithHTTPTimeout(time.Minute))
				c := dial(t, e).register("c")
				w := newWeb(t, e)
				c.function("f")
				c.route("r", "f", "POST", "/f")
				c.sync()
				begin := time.Now()
				// The body never ends.
				body, more := io.Pipe()
				r, _ := http.NewRequestWithContext(t.Context(), "POST", e.HTTPURL()+"/f", body)
				r.Header.Set("Content-Type", test.contentType)
				response, err := w.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				_ = more.Close()
				if waited := time.Since(begin); response.StatusCode != http.StatusGatewayTimeout || waited != time.Minute {
					t.Errorf("status %d after %v", response.StatusCode, waited)
				}
				if got := response.Header.Get("Access-Control-Allow-Origin"); got != "" {
					t.Errorf("CORS header of a timeout: %q", got)
				}
				if test.called { // the function continues; its result is discarded
					c.answer(`,"result":1`)
				}
				c.sync()
			})
		})
	}
}

func TestClientOfARequestLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		c := dial(t, e).register("c")
		w := newWeb(t, e)
		c.function("f")
		c.route("r", "f", "GET", "/f")
		c.sync()
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", e.HTTPURL()+"/f", nil)
		left := make(chan error, 1)
		go func() {
			_, err := w.client.Do(r)
			left <- err
		}()
		m := c.recv()
		conn := w.channel(m["data"].(map[string]any)["response"])
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("request: %v", err)
		}
		synctest.Wait()
		// Nobody reads the response anymore, so the engine cuts the writer's connection.
		_ = conn.WriteMessage(websocket.BinaryMessage, []byte("x"))
		if _, _, err := conn.ReadMessage(); err == nil || websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Errorf("writer of the response: %v, want a cut", err)
		}
		c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f","result":1}`, m["invocation_id"])
		c.sync()
	})
}

func TestCloseDuringRequest(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, e).register("c")
	w := newWeb(t, e)
	c.function("f")
	c.route("r", "f", "GET", "/f")
	c.sync()
	done := w.do("GET", "/f", "")
	c.recv()
	_ = e.Close()
	if got := <-done; got.err == nil {
		t.Errorf("answered with %d %s", got.status, got.body)
	}
}

func TestOverTCP(t *testing.T) {
	e := Start(t)
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), e.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: conn}
	defer conn.Close()
	c.recv()
	c.register("c")
	c.function("f")
	c.route("r", "f", "GET", "/f")
	c.sync()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	w := &web{t, e, &http.Client{Transport: transport}}
	done := w.do("GET", "/f", "")
	c.answer(`,"result":{"body":[1]}`)
	if got := <-done; got.status != 200 || got.body != "[1]" {
		t.Errorf("got %d %q, %v", got.status, got.body, got.err)
	}
	if got := c.call("engine::workers::info", `{"name":"c"}`); !strings.Contains(fmt.Sprint(got), "ip_address:127.0.0.1") {
		t.Errorf("address of the worker: %v", got)
	}
	if _, err := New(WithAddrs(strings.TrimPrefix(e.URL(), "ws://"), "", "")); err == nil || !strings.Contains(err.Error(), "iiitest: workers: listen") {
		t.Errorf("an address in use: %v", err)
	}
}

// request sends a request with the given request line and headers, and reads the response.
func (w *web) request(line string, headers ...string) <-chan webAnswer {
	w.t.Helper()
	conn, err := w.e.DialContext(w.t.Context(), "tcp", w.e.httpServer.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	method, _, _ := strings.Cut(line, " ")
	done := make(chan webAnswer, 1)
	go func() {
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "%s HTTP/1.1\r\n%s\r\n", line, strings.Join(headers, "\r\n")+"\r\n")
		a, err := readAnswer(conn, method)
		if err != nil {
			a = webAnswer{end: err.Error()}
		}
		done <- a
	}()
	return done
}

// TestReplyVectors checks the responses to recorded function results against the recorded
// responses, including the order of headers.
func TestReplyVectors(t *testing.T) {
	file, err := os.ReadFile("../testdata/0.23/http-reply-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name    string          `json:"name"`
		Method  string          `json:"method"`
		Reply   json.RawMessage `json:"reply"`
		Error   json.RawMessage `json:"error"`
		Status  int             `json:"status"`
		Headers [][2]string     `json:"headers"`
		Body    string          `json:"body"`
		End     string          `json:"end"`
	}
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 200 {
		t.Errorf("%d vectors, want 200", len(vectors))
	}
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	for _, method := range httpMethods {
		c.route(method, "f", method, "/f")
	}
	c.sync()
	errorID := regexp.MustCompile(`"error_id":"[0-9a-f]+"`)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			done := w.request(v.Method+" /f", "Host: h", "Connection: close")
			if v.Error != nil {
				c.answer(`,"error":` + string(v.Error))
			} else {
				c.answer(`,"result":` + string(v.Reply))
			}
			got := <-done
			got.header = slices.DeleteFunc(got.header, func(field [2]string) bool {
				return field[0] == "date" && field[1] != "yesterday" || field[0] == "connection"
			})
			if got.status != v.Status || got.end != v.End {
				t.Errorf("status %d, end %q; recorded %d, %q", got.status, got.end, v.Status, v.End)
			}
			if diff := cmp.Diff(v.Headers, got.header); diff != "" {
				t.Errorf("headers (-recorded +got):\n%s", diff)
			}
			if diff := cmp.Diff(v.Body, errorID.ReplaceAllString(string(got.body), `"error_id":"…"`)); diff != "" {
				t.Errorf("body (-recorded +got):\n%s", diff)
			}
		})
	}
}

// raw sends bytes to the HTTP triggers. The caller can send more on conn. answer receives
// everything that arrives until the connection ends.
func (w *web) raw(request string) (conn net.Conn, answer <-chan string) {
	w.t.Helper()
	conn, err := w.e.DialContext(w.t.Context(), "tcp", w.e.httpServer.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	done := make(chan string, 1)
	go func() {
		_, _ = io.WriteString(conn, request)
		all, _ := io.ReadAll(conn)
		done <- string(dateLine.ReplaceAll(all, nil))
	}()
	return conn, done
}

// The Allow header lists the methods of the most specific matching path.
func TestMethodNotAllowed(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	for _, r := range []string{
		"GET /items/:id", "POST /items/new", "PUT /put", "GET /both", "POST /both", "HEAD /head", "GET /heads", "HEAD /heads",
		"OPTIONS /options", "OPTIONS /some", "GET /some", "TRACE /trace",
	} {
		method, path, _ := strings.Cut(r, " ")
		c.route(r, "f", method, path)
	}
	c.sync()
	for _, test := range []struct {
		request string
		status  int
		allow   string
	}{
		{"GET /items/new", 405, "POST"},
		{"PUT /items/7", 405, "GET,HEAD"},
		{"GET /put", 405, "PUT"},
		{"HEAD /put", 405, "PUT"},
		{"TRACE /put", 405, "PUT"},
		{"FOO /put", 405, "PUT"},
		{"put /put", 405, "PUT"},
		{"DELETE /both", 405, "GET,HEAD,POST"},
		{"HEAD /both", 404, ""},
		{"GET /head", 405, "HEAD"},
		{"PATCH /heads", 405, "GET,HEAD"},
		{"GET /options", 405, "OPTIONS"},
		{"POST /some", 405, "OPTIONS,GET,HEAD"},
		{"TRACE /trace", 404, ""},
		{"GET /nowhere", 404, ""},
		{"OPTIONS /put", 200, "PUT"},
		{"OPTIONS /both", 200, "GET,HEAD,POST"},
		{"OPTIONS /options", 200, ""},
		{"OPTIONS /some", 200, ""},
		{"OPTIONS /nowhere", 200, ""},
	} {
		got := <-w.request(test.request, "Connection: close")
		allow, origin := "", ""
		for _, field := range got.header {
			switch field[0] {
			case "allow":
				allow = field[1]
			case "access-control-allow-origin":
				origin = field[1]
			}
		}
		if got.status != test.status || allow != test.allow || origin != "*" {
			t.Errorf("%s: %d, allow %q, origin %q; want %d, %q", test.request, got.status, allow, origin, test.status, test.allow)
		}
	}
}

func TestRequestTargets(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	c.route("r", "f", "GET", "/p/:id")
	c.sync()
	for _, test := range []struct {
		target string
		status int
		id     string
		query  map[string]any
	}{
		{"/p/1", 200, "1", nil},
		{"/p/1#frag", 200, "1", nil},
		{"/p/1?a=1#frag?b=2", 200, "1", map[string]any{"a": "1"}},
		{"http://other.example:81/p/1?a=1", 200, "1", map[string]any{"a": "1"}},
		{"HTTPS://h/p/1", 200, "1", nil},
		{"ftp://h/p/1", 200, "1", nil},
		{"http://h", 404, "", nil},
		{"http://h?a=1", 404, "", nil},
		{"http:///p/1", 400, "", nil},
		{"p/1", 400, "", nil},
		{"h:443", 404, "", nil},
		{"*", 404, "", nil},
		{"/p/%zz", 200, "%zz", nil},
		{"/p/%", 200, "%", nil},
		{`/p/"{|}^\`, 200, `"{|}^\`, nil},
		{"/p/é", 200, "é", nil},
		{"/p/\xe9", 400, "", nil},
		{"/p/<", 400, "", nil},
		{"/p/`", 400, "", nil},
		{"/p/\x7f", 400, "", nil},
		{"/p/1?`{|}^\\", 200, "1", map[string]any{"`{|}^\\": ""}},
		{`/p/1?"`, 400, "", nil},
		{"/p/1?<", 400, "", nil},
		{"/p/1?a=%%20&b=%E2%82&c=%ED%A0%80&d=%F0%9F%98x&e=%c3%28+%4", 200, "1",
			map[string]any{"a": "% ", "b": "\ufffd", "c": "\ufffd\ufffd\ufffd", "d": "\ufffdx", "e": "\ufffd( %4"}},
		{"/p/" + strings.Repeat("x", maxTarget-3), 200, strings.Repeat("x", maxTarget-3), nil},
		{"/p/" + strings.Repeat("x", maxTarget), 414, "", nil},
	} {
		name := test.target[:min(len(test.target), 40)]
		done := w.request("GET "+test.target, "Connection: close")
		if test.status == 200 {
			data := c.answer(`,"result":1`)
			if id := data["path_params"].(map[string]any)["id"]; id != test.id {
				t.Errorf("%s: parameter %.40q", name, id)
			}
			if query := data["query_params"]; !like(test.query, query) && !(test.query == nil && like(map[string]any{}, query)) {
				t.Errorf("%s: query %q, want %q", name, query, test.query)
			}
		}
		if got := <-done; got.status != test.status {
			t.Errorf("%s: status %d, want %d (%s)", name, got.status, test.status, got.end)
		}
	}
}

func TestRequestHeads(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	c.route("r", "f", "POST", "/f")
	c.sync()
	const ok, bad = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
	head := func(lines ...string) string {
		return "POST /f HTTP/1.1\r\n" + strings.Join(append(lines, "Connection: close"), "\r\n") + "\r\n\r\n"
	}
	for name, test := range map[string]struct {
		request string
		headers map[string]any // headers passed to the function
		answer  string
	}{
		"no host":             {head(), map[string]any{"connection": "close"}, ok},
		"bare line feeds":     {"\r\nPOST /f HTTP/1.1\nConnection: close\n\n", map[string]any{"connection": "close"}, ok},
		"names and values":    {head("X-A: \t 1 \t", "x-a:2", "X-B:", "X_c: a\tb", "D: \xe9"), map[string]any{"connection": "close", "x-a": "2", "x-b": "", "x_c": "a\tb", "d": ""}, ok},
		"nothing is added":    {head("Pragma: no-cache", "Expect: nonsense"), map[string]any{"connection": "close", "pragma": "no-cache", "expect": "nonsense"}, ok},
		"two equal lengths":   {head("Content-Length: 0", "Content-Length: 0"), map[string]any{"connection": "close", "content-length": "0"}, ok},
		"chunks and a length": {head("Transfer-Encoding: chunked", "Content-Length: 7") + "0\r\nx-t: 1\r\n\r\n", map[string]any{"connection": "close", "transfer-encoding": "chunked"}, ok},
		"a hundred headers":   {head(slices.Repeat([]string{"X-A: 1"}, 99)...), map[string]any{"connection": "close", "x-a": "1"}, ok},
		"one more":            {head(slices.Repeat([]string{"X-A: 1"}, 100)...), nil, "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"},
		"too long a header":   {head("X-A: " + strings.Repeat("1", maxHead)), nil, "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"},
		"a long header":       {head("X-A: " + strings.Repeat("1", maxHead-100)), map[string]any{"connection": "close", "x-a": strings.Repeat("1", maxHead-100)}, ok},
		"two lengths":         {head("Content-Length: 0", "Content-Length: 1"), nil, bad},
		"a negative length":   {head("Content-Length: -1"), nil, bad},
		"a length with sign":  {head("Content-Length: +1"), nil, bad},
		"identity":            {head("Transfer-Encoding: identity"), nil, bad},
		"chunked not last":    {head("Transfer-Encoding: chunked, gzip"), nil, bad},
		"blank before colon":  {head("X-A : 1"), nil, bad},
		"folded":              {head("X-A: 1", " 2"), nil, bad},
		"no colon":            {head("X-A"), nil, bad},
		"control character":   {head("X-A: \x01"), nil, bad},
		"another version":     {"POST /f HTTP/1.2\r\n\r\n", nil, bad},
		"no version":          {"POST /f\r\n\r\n", nil, bad},
		"two blanks":          {"POST  /f HTTP/1.1\r\n\r\n", nil, bad},
		"method of blanks":    {" /f HTTP/1.1\r\n\r\n", nil, bad},
		"nothing":             {"\r\n\r\n", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, done := w.raw(test.request)
			if test.headers != nil {
				if got := c.answer(`,"result":1`)["headers"]; !like(test.headers, got) {
					t.Errorf("the function sees %.200v, want %.200v", got, test.headers)
				}
			}
			if test.answer == "" {
				_ = conn.(*memnet.Conn).CloseWrite()
			}
			if got := <-done; !strings.HasPrefix(got, test.answer) || test.answer == "" && got != "" {
				t.Errorf("answer %.200q, want %q", got, test.answer)
			}
		})
	}
}

// HTTP/1.0 and HTTP/1.1 connections can carry several requests, which may be pipelined.
func TestConnectionsAreKeptAlive(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	c.route("r", "f", "POST", "/f")
	c.sync()
	const post = "POST /f HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
	const chunks = "POST /f HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
	const json = "POST /f HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}"
	const old = "POST /f HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n"
	const last = "POST /f HTTP/1.0\r\n\r\n"
	_, done := w.raw(post + chunks + json + old + last)
	for i := range 5 {
		c.answer(fmt.Sprintf(`,"result":{"status_code":%d,"body":%d}`, 201+i, i))
	}
	const cors = "content-type: application/json\r\nvary: " + corsVary + "\r\naccess-control-allow-origin: *\r\naccess-control-expose-headers: *\r\ncontent-length: 1\r\n"
	want := "HTTP/1.1 201 Created\r\n" + cors + "\r\n0" + "HTTP/1.1 202 Accepted\r\n" + cors + "\r\n1" +
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 203 Non-Authoritative Information\r\n" + cors + "\r\n2" +
		"HTTP/1.0 204 No Content\r\n" + cors + "connection: keep-alive\r\n\r\n" + "HTTP/1.0 205 Reset Content\r\n" + cors + "\r\n4"
	if diff := cmp.Diff(want, <-done); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The connection can be reused even if the response is ready before the reading goroutine runs.
func TestConnectionIsReusedAfterEarlyResponse(t *testing.T) {
	for _, request := range []string{
		"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\n\r\n",
	} {
		server, client := net.Pipe()
		defer client.Close()
		go func() {
			_, _ = io.WriteString(client, request)
			_, _ = io.Copy(io.Discard, client)
		}()
		c := newWebConn(nil, server)
		r, refused := c.request()
		if refused != 0 {
			t.Fatalf("%q: rejected with status %d", request, refused)
		}
		x := &webExchange{conn: c, webRequest: r, gone: make(chan struct{})}
		if r.length != 0 {
			x.body = newWebBody(c, r)
		}
		var got []byte
		x.listen(func(data []byte) bool { got = append(got, data...); return true })
		x.respond(http.StatusOK, nil, nil)
		if !x.keepAlive {
			t.Errorf("%q: the connection is not kept", request)
		}
		_ = server.Close()
		<-x.listening
		if want := "{}"; x.body != nil && string(got) != want {
			t.Errorf("%q: body %q, want %q", request, got, want)
		}
	}
}

// Framing headers set by a function are sent unchanged, even if they are wrong.
func TestContradictoryRepliesAreSentUnchanged(t *testing.T) {
	e := Start(t)
	c, w := dial(t, e).register("c"), newWeb(t, e)
	c.function("f")
	c.route("r", "f", "GET", "/f")
	c.route("h", "f", "HEAD", "/f")
	c.sync()
	const get, head = "GET /f HTTP/1.1\r\n\r\n", "HEAD /f HTTP/1.1\r\n\r\n"
	const cors = "content-type: text/plain\r\nvary: " + corsVary + "\r\naccess-control-allow-origin: *\r\naccess-control-expose-headers: *\r\n"
	for _, test := range []struct{ request, headers, body, want string }{
		{get, `"content-length":"9"`, `"hello"`, "content-length: 9\r\n" + cors + "\r\nhello"},
		{get, `"content-length":"2"`, `"hello"`, "content-length: 2\r\n" + cors + "\r\nhello"},
		{get, `"content-length":"abc"`, `"hello"`, "content-length: abc\r\n" + cors + "\r\nhello"},
		{get, `"content-length":"5","Content-Length":"5"`, `"hello"`, ""},
		{get, `"transfer-encoding":"chunked"`, `"hello"`, ""},
		{get, `"content-length":"5","transfer-encoding":"gzip"`, `"hello"`, ""},
		{get, `"connection":"close"`, `"hello"`, "connection: close\r\n" + cors + "content-length: 5\r\n\r\nhello"},
		{get, `"connection":"x, Close","Connection":"y"`, `"hello"`, "connection: y, x, Close\r\n" + cors + "content-length: 5\r\n\r\nhello"},
		{get, `"connection":"close","content-length":"7"`, `null`, "connection: close\r\n" + cors + "content-length: 0\r\n\r\n"},
		{head, `"connection":"close","content-length":"7"`, `null`, "connection: close\r\ncontent-length: 7\r\n" + cors + "\r\n"},
		{head, `"connection":"close","transfer-encoding":"chunked"`, `"hello"`, "connection: close\r\n" + cors + "content-length: 5\r\n\r\n"},
	} {
		_, done := w.raw(test.request)
		c.answer(`,"result":{"headers":{` + test.headers + `,"content-type":"text/plain"},"body":` + test.body + `}`)
		got, want := <-done, test.want
		if want != "" {
			want = "HTTP/1.1 200 OK\r\n" + want
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, body %s (-want +got):\n%s", test.headers, test.body, diff)
		}
	}
}

func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET /p/%zz?a=1#f HTTP/1.1\r\nHost: h\r\n\r\n", "POST http://h HTTP/1.0\nConnection: keep-alive\n\n",
		"PUT * HTTP/1.1\r\nTransfer-Encoding: x, chunked\r\n\r\n1;x\r\na\r\n0\r\nt: 1\r\n\r\n", "\r\n\r\nFOO /\xc3\xa9 HTTP/1.1\r\nContent-Length: 1\r\n\r\nab",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &webConn{in: bufio.NewReader(bytes.NewReader(data)), responding: true}
		for range 10 {
			r, refused := c.request()
			if r == nil {
				if refused != 0 && http.StatusText(refused) == "" {
					t.Errorf("refused with %d", refused)
				}
				return
			}
			if refused != 0 || !isToken(r.method) || strings.ContainsAny(r.path+r.query, " \r\n#") || !utf8.ValidString(r.path+r.query) {
				t.Errorf("%q became %+v, %d", data, r, refused)
			}
			for _, field := range r.header {
				for _, value := range field.values {
					if field.name != strings.ToLower(field.name) || !validHeader(field.name, value) || value != strings.Trim(value, " \t") {
						t.Errorf("%q: header %q: %q", data, field.name, value)
					}
				}
			}
			if r.length == 0 {
				continue
			}
			body := newWebBody(c, r)
			n, err := io.Copy(io.Discard, body)
			if err == nil && (!body.complete || r.length > 0 && n != r.length) {
				t.Errorf("%q: a body of %d bytes, %d announced", data, n, r.length)
			}
			if err != nil {
				return
			}
		}
	})
}
