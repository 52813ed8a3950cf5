package iiitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAllowedURL(t *testing.T) {
	for text, want := range map[string]bool{
		"http://127.0.0.1:8080/x": true, "https://127.8.9.1/": true, "http://[::1]:1/": true, "http://localhost/": true,
		"http://a.localhost/": true, "http://[::ffff:127.0.0.1]/": true,
		"https://example.com/x?y=z": true, "https://8.8.8.8/": true, "http://example.com/": false, "http://8.8.8.8/": false,
		"https://10.0.0.1/": false, "https://192.168.1.1/": false, "https://172.16.0.1/": false, "https://169.254.169.254/": false,
		"https://0.0.0.0/": false, "https://255.255.255.255/": false, "https://192.0.2.7/": false, "https://[fe80::1]/": false,
		"https://[fd00::1]/": false, "https://[::]/": false, "https://[::ffff:10.0.0.1]/": false, "https://[2001:db8::1]/": false,
		"https://224.0.0.1/": false, "ftp://127.0.0.1/": true, "ftp://localhost/x": true, "ftp://example.com/": false, "file:///etc/passwd": false, "https:///x": false, "/x": false, "": false,
		"http://localhost.example.com/": false, "http://127.0.0.1.example.com/": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := allowedURL(u); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Calls to an HTTP function fail if its URL scheme is not supported.
func TestHTTPFunctionWithUnsupportedScheme(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.send(`{"type":"registerfunction","id":"ext::f","invocation":{"url":"ftp://user:secret@127.0.0.1/x?token=1","method":"GET"}}`)
		p.want("!http_request_failed: builder error for url (ftp://127.0.0.1/x): URL scheme is not allowed", "ext::f", `{}`)
	})
}

func TestPrivateAddressIsNotDialed(t *testing.T) {
	client := newHTTPClient(nil)
	defer client.CloseIdleConnections()
	response, err := client.Get("https://10.1.2.3/")
	if err == nil {
		_ = response.Body.Close()
	}
	if !errors.Is(err, errPrivate) {
		t.Errorf("got %v", err)
	}
	f := &httpFunction{e: &Engine{httpClient: client}, url: &url.URL{Scheme: "https", Host: "10.1.2.3"}, method: "GET", timeout: time.Minute}
	if _, bad := f.serve(t.Context(), &call{}); bad == nil || bad.Code != "url_validation_failed" {
		t.Errorf("got %v", bad)
	}
}

func TestHTTPOutcome(t *testing.T) {
	for _, tt := range []struct {
		status             int
		body, result, code string
	}{
		{200, ``, ``, ``}, {204, ``, ``, ``}, {201, ` {"b":1,"a":2} `, `{"a":2,"b":1}`, ``}, {200, `null`, `null`, ``},
		{200, `{`, ``, `invalid_response: EOF while parsing an object at line 1 column 1`}, {299, "\"\xff\"", ``, `invalid_response: invalid unicode code point at line 1 column 3`},
		{302, ``, ``, ``}, {302, `moved`, ``, ``}, {304, `[1]`, `[1]`, ``}, {101, `x`, ``, ``},
		{400, `{"error":{"code":"C","message":"m"}}`, ``, `C: m`}, {404, `{"error":{}}`, ``, `http_error: HTTP request failed`},
		{500, `{"error":{"code":1,"message":"m"}}`, ``, `http_error: m`}, {500, `{"error":{"code":"C","message":null}}`, ``, `C: HTTP request failed`},
		{500, `{"error":"E"}`, ``, `http_error: HTTP 500 Internal Server Error`}, {404, ``, ``, `http_error: HTTP 404 Not Found`},
		{403, `[]`, ``, `http_error: HTTP 403 Forbidden`}, {418, `{`, ``, `http_error: HTTP 418 I'm a teapot`},
		{599, ``, ``, `http_error: HTTP 599 <unknown status code>`},
	} {
		result, bad := httpOutcome(tt.status, []byte(tt.body))
		code := ""
		if bad != nil {
			code = bad.Code + ": " + bad.Message
		}
		if string(result) != tt.result || code != tt.code {
			t.Errorf("%d %q: got %s, %s; want %s, %s", tt.status, tt.body, result, code, tt.result, tt.code)
		}
	}
}

func FuzzHTTPOutcome(f *testing.F) {
	f.Add(200, []byte(`{"a":1}`))
	f.Add(500, []byte(`{"error":{"code":"C"}}`))
	f.Add(302, []byte(`x`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		result, bad := httpOutcome(status, body)
		switch {
		case bad != nil && (result != nil || status >= 100 && status < 200):
			t.Errorf("%d %q: %s, %v", status, body, result, bad)
		case bad == nil && status >= 400:
			t.Errorf("%d %q: no error", status, body)
		case result != nil && !json.Valid(result):
			t.Errorf("%d %q: %s", status, body, result)
		}
	})
}

func (c *client) overHTTP(id, invocation string) {
	c.t.Helper()
	c.send(`{"type":"registerfunction","id":%q,"invocation":%s}`, id, invocation)
	c.sync()
}

func TestInvalidHTTPFunctionsAreRejected(t *testing.T) {
	e := Start(t, WithEnv(map[string]string{"SET": "x"}))
	c := dial(t, e).register("c")
	invocations := []string{
		`1`, `{}`, `{"url":1}`, `{"url":"http://127.0.0.1/","method":"HEAD"}`, `{"url":"http://127.0.0.1/","method":null}`,
		`{"url":"http://127.0.0.1/","timeout_ms":-1}`, `{"url":"http://127.0.0.1/","headers":{"a":1}}`,
		`{"url":"http://127.0.0.1/","auth":{"type":"basic"}}`, // invalid messages up to here
		`{"url":"http://127.0.0.1/","auth":{"type":"hmac"}}`,
		`{"url":"http://example.com/"}`, `{"url":"https://10.0.0.1/"}`, `{"url":"::"}`, `{"url":""}`,
		`{"url":"http://127.0.0.1/","auth":{"type":"hmac","secret_key":"NOT"}}`,
		`{"url":"http://127.0.0.1/","auth":{"type":"bearer","token_key":"NOT"}}`,
		`{"url":"http://127.0.0.1/","auth":{"type":"api_key","header":"SET","value_key":"NOT"}}`,
	}
	for i, invocation := range invocations {
		id := fmt.Sprint("f::", i)
		c.overHTTP(id, invocation)
		if got := errorCode(c.call(id, `{}`)); got != "function_not_found" {
			t.Errorf("%s: %q", invocation, got)
		}
	}
	if got := e.Stats().Undecodable; got != 8 {
		t.Errorf("%d messages undecodable, want 8", got)
	}
	c.overHTTP("f::ok", `{"url":"http://127.0.0.1/","auth":{"type":"hmac","secret_key":"SET"}}`)
	if got := c.call("engine::functions::info", `{"function_id":"f::ok"}`)["error"]; got != nil {
		t.Errorf("a good one: %v", got)
	}
}

// A function invoked over HTTP has a namespace and an owner, like any other function, and is
// removed when its worker disconnects.
func TestHTTPFunctionIsOwned(t *testing.T) {
	requests := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer server.Close()
	e := Start(t, WithGuard(Guard{AuthFunctionID: "auth"}))
	judge(dial(t, e), map[string]string{"auth": `{"function_registration_prefix":"p"}`})
	c, other := enter(t, e).register("c", `,"namespace":"blue"`), dial(t, e).register("other", `,"namespace":"blue"`)
	c.overHTTP("f::g", `{"url":"`+strings.Replace(server.URL, "http://", "http://user:pass@", 1)+`/x%2Fy?q=%20",
		"headers":{"content-type":"more","X-A":"b","Host":"elsewhere"}}`)
	m := other.call("p::f::g", `{"b":1,"a":2}`, `,"namespace":"blue"`)
	if diff := cmp.Diff(map[string]any{"a": 2.0, "b": 1.0, "_caller_worker_id": other.id}, m["result"]); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	r := <-requests
	if diff := cmp.Diff([]string{"/x%2Fy?q=%20", "POST", "elsewhere", "p::f::g", "b", "application/json more", "", "Basic dXNlcjpwYXNz"}, []string{
		r.RequestURI, r.Method, r.Host, r.Header.Get("x-iii-Function-Path"), r.Header.Get("X-A"),
		strings.Join(r.Header["Content-Type"], " "), r.Header.Get("traceparent"), r.Header.Get("Authorization"),
	}); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	// Redirects are not followed. The response is the redirect itself.
	c.overHTTP("f::away", `{"url":"`+server.URL+`/away","method":"DELETE"}`)
	m = other.call("p::f::away", `1`, `,"namespace":"blue"`)
	if _, there := m["result"]; there || m["error"] != nil {
		t.Errorf("redirect: %v", m)
	}
	if r := <-requests; r.URL.Path != "/away" || r.Method != "DELETE" {
		t.Errorf("%s %s", r.Method, r.URL)
	}
	other.send(`{"type":"registerfunction","id":"p::f::g"}`)
	other.want(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"blue","function_id":"p::f::g","owner_worker_id":"` + c.id + `"}`)
	_ = c.conn.Close()
	for e.Stats().Workers > 2 {
		other.sync()
	}
	if got := errorCode(other.call("p::f::g", `{}`, `,"namespace":"blue"`)); got != "function_not_found" {
		t.Errorf("after its worker: %q", got)
	}
}

func TestHTTPFunctionFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newCallee(t, "127.0.0.1:80")
		e := Start(t, server.option)
		c := dial(t, e).register("c")
		c.overHTTP("default", `{"url":"http://user:secret@127.0.0.1/slow?key=secret"}`)
		c.overHTTP("own", `{"url":"http://127.0.0.1/slow","timeout_ms":1500}`)
		c.overHTTP("endless", `{"url":"http://127.0.0.1/slow","timeout_ms":18446744073709551615}`)
		c.overHTTP("none", `{"url":"http://127.0.0.1:1/"}`)
		c.overHTTP("header", `{"url":"http://127.0.0.1/","headers":{"a b":"c"}}`)
		for _, tt := range []struct {
			id, message string
			after       time.Duration
		}{
			{"default", "error sending request for url (http://127.0.0.1/slow): operation timed out", 30 * time.Second},
			{"own", "error sending request for url (http://127.0.0.1/slow): operation timed out", 1500 * time.Millisecond},
			{"endless", "error sending request for url (http://127.0.0.1/slow): operation timed out", time.Minute},
			{"none", "error sending request for url (http://127.0.0.1:1/): client error (Connect): tcp connect error: connection refused", 0},
			{"header", `error sending request for url (http://127.0.0.1/): net/http: invalid header field name "a b"`, 0},
		} {
			began := time.Now()
			_ = c.conn.SetReadDeadline(time.Time{})
			id := "0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"
			c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":%q,"data":1}`, id, tt.id)
			_, data, err := c.conn.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			want := string(message("invocationresult").str("invocation_id", id).str("function_id", tt.id).
				raw("error", errorJSON(errorBody("http_request_failed", "%s", tt.message))).bytes())
			if diff := cmp.Diff(decodeJSON(t, want), decodeJSON(t, string(data))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.id, diff)
			}
			if took := time.Since(began); took != tt.after {
				t.Errorf("%s: after %v, want %v", tt.id, took, tt.after)
			}
		}
	})
}

func TestHTTPFunctionBodyCutShort(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "12")
	}))
	defer server.Close()
	e := Start(t)
	c := dial(t, e).register("c")
	c.overHTTP("f", `{"url":"`+server.URL+`"}`)
	if got := errorCode(c.call("f", `1`)); got != "http_response_failed" {
		t.Errorf("got %q", got)
	}
}

func TestPrivateAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": false, "::1": false, "1.1.1.1": false, "2606:4700::1": false,
		"10.0.0.1": true, "::ffff:192.168.0.1": true, "169.254.1.1": true, "fe80::1%eth0": true, "0.0.0.0": true, "198.51.100.3": true,
	} {
		if got := private(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}
