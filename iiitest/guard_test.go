package iiitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// judge serves a guard's functions on c until the connection ends. answers maps each function
// id to the function's result or, with the prefix "!", to an error message. judge sends each
// call to the returned channel.
func judge(c *client, answers map[string]string) <-chan string {
	c.t.Helper()
	c.register("judge")
	for id := range answers {
		c.function(id)
	}
	asked := make(chan string, 100)
	c.t.Cleanup(func() { _ = c.conn.Close() })
	go func() {
		defer close(asked)
		for {
			_, data, err := c.conn.ReadMessage()
			if err != nil {
				return
			}
			var m struct {
				Type string          `json:"type"`
				ID   string          `json:"invocation_id"`
				F    string          `json:"function_id"`
				Data json.RawMessage `json:"data"`
			}
			if json.Unmarshal(data, &m) != nil || m.Type != "invokefunction" {
				continue
			}
			asked <- m.F + " " + string(m.Data)
			reply := message("invocationresult").str("invocation_id", m.ID).str("function_id", m.F)
			if text, failed := strings.CutPrefix(answers[m.F], "!"); failed {
				reply.raw("error", errorJSON(errorBody("NO", "%s", text)))
			} else if answers[m.F] != "" {
				reply.raw("result", json.RawMessage(answers[m.F]))
			}
			_ = c.conn.WriteMessage(websocket.TextMessage, reply.bytes())
		}
	}()
	return asked
}

// enter connects a worker to the guarded listener.
func enter(t testing.TB, e *Engine) *client {
	t.Helper()
	c := dialURL(t, e, e.GuardedURL())
	m := c.want(`{"type":"workerregistered","worker_id":"*","reattach_token":"*","features":"*"}`)
	c.id, _ = m["worker_id"].(string)
	c.token, _ = m["reattach_token"].(string)
	return c
}

func TestWildcard(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"a::b", "a::b", true}, {"a::b", "a::bc", false}, {"", "", true}, {"", "a", false},
		{"*", "", true}, {"*", "anything", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*z", "xyz", true}, {"*z", "zx", false}, {"a*a", "a", false}, {"a*a", "aa", true},
		{"a*b*c", "a1b2c", true}, {"a*b*c", "acb", false}, {"a*b*b", "ab", false}, {"a**c", "abc", true},
	} {
		if got := wildcard(tt.pattern, tt.s); got != tt.want {
			t.Errorf("wildcard(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

func FuzzWildcard(f *testing.F) {
	f.Add("a*b*", "axbx")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(s) {
			return // regexp matches runes
		}
		r := regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `$`)
		if got, want := wildcard(pattern, s), r.MatchString(s); got != want {
			t.Errorf("wildcard(%q, %q) = %v", pattern, s, got)
		}
	})
}

func TestPatternOf(t *testing.T) {
	for filter, want := range map[string]string{
		`match("a*")`: "a*", `match('a')`: "a", ` match( "a" ) `: "a",
		"a*": "a*", `match("a')`: `match("a')`, "match()": "match()", `match(")`: `match(")`, `match("a"`: `match("a"`,
	} {
		if got, is := patternOf(filter); got != want || is != (got != filter) {
			t.Errorf("patternOf(%q) = %q, %v", filter, got, is)
		}
	}
}

func TestGuardOptions(t *testing.T) {
	for name, g := range map[string]Guard{
		"empty pattern":        {Expose: []string{`match("")`}},
		"metadata, no JSON":    {ExposeMetadata: map[string]any{"f": func() {}}},
		"an empty filter":      {ExposeFilters: []ExposeFilter{{Namespace: "shop"}}},
		"a filter of two":      {ExposeFilters: []ExposeFilter{{Match: "a", Metadata: map[string]any{"b": 1}}}},
		"blank namespace":      {ExposeFilters: []ExposeFilter{{Namespace: " ", Match: "a"}}},
		"address without port": {Addr: "127.0.0.1"},
	} {
		if e, err := New(WithGuard(g)); err == nil {
			_ = e.Close()
			t.Errorf("%s: no error", name)
		}
	}
	if got := Start(t).GuardedURL(); got != "" {
		t.Errorf("guarded URL without a guard: %s", got)
	}
}

func TestAuthentication(t *testing.T) {
	for name, tt := range map[string]struct{ answer, want string }{
		"error":        {"!go away", "go away"},
		"no result":    {"", "auth function returned no result"},
		"null":         {"null", "auth function returned no result"},
		"a null field": {`{"forbidden_functions":null}`, "invalid type: null, expected a sequence"},
		"wrong type":   {`{"allow_function_registration":"yes"}`, "invalid type: string \"yes\", expected a boolean"},
		"a list":       {`["x"]`, "invalid type: string \"x\", expected a map"},
		"within a map": {`{"namespaces":{"b":["f"],"a":null}}`, "invalid type: null, expected a sequence"},
		"within lists": {`{"namespaces":{"a":["f",1]}}`, "invalid type: integer `1`, expected a string"},
		"fine":         {`{}`, ""},
		"a short list": {`[]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := Start(t, WithGuard(Guard{AuthFunctionID: "auth"}))
			asked := judge(dial(t, e), map[string]string{"auth": tt.answer})
			for _, path := range []string{"", "/otel"} {
				c := dialURL(t, e, e.GuardedURL()+path+"?a=%20&b&a=2")
				var got map[string]any
				question, input, _ := strings.Cut(<-asked, " ")
				if err := json.Unmarshal([]byte(input), &got); err != nil || question != "auth" {
					t.Fatalf("%s %v", question, err)
				}
				delete(got, "headers")
				want := map[string]any{
					"ip_address": "127.0.0.1", "query_params": map[string]any{"a": []any{"%20", "2"}, "b": []any{""}},
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: input (-want +got):\n%s", path, diff)
				}
				switch {
				case tt.want != "":
					c.want(fmt.Sprintf(`{"type":"error","error":{"code":"AUTH_ERROR","message":%q}}`, tt.want))
					_, _, err := c.conn.ReadMessage()
					if !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
						t.Errorf("%s: ended with %v", path, err)
					}
				case path == "":
					c.want(`{"type":"workerregistered","worker_id":"*","reattach_token":"*","features":"*"}`)
				default:
					pong := make(chan struct{})
					c.conn.SetPongHandler(func(string) error { close(pong); return nil })
					_ = c.conn.WriteControl(websocket.PingMessage, nil, time.Time{})
					go func() { _, _, _ = c.conn.ReadMessage() }()
					<-pong
				}
			}
		})
	}
}

func TestAuthenticationWithoutItsFunction(t *testing.T) {
	e := Start(t, WithGuard(Guard{AuthFunctionID: "auth"}))
	c := dialURL(t, e, e.GuardedURL())
	c.want(`{"type":"error","error":{"code":"AUTH_ERROR","message":"Function auth not found in namespace default"}}`)
}

func TestCallPermissions(t *testing.T) {
	e := Start(t, WithGuard(Guard{
		AuthFunctionID: "auth", Expose: []string{"open::*", `match('exact')`},
		ExposeMetadata: map[string]any{"public": true, "tier": `match("gold*")`, "n": 1},
	}))
	judge(dial(t, e), map[string]string{"auth": `{"allowed_functions":["extra"],"forbidden_functions":["open::secret","engine::log::info"],
		"namespaces":{"default":["granted::*"],"shop":["match(\"orders::*\")","one"],"none":[]}}`})
	owner := dial(t, e).register("owner")
	for id, metadata := range map[string]string{
		"m::yes": `{"public":true,"tier":"golden","n":1,"more":0}`, "m::less": `{"public":true,"tier":"golden"}`,
		"m::tin": `{"public":true,"tier":"tin","n":1}`, "m::text": `{"public":"true","tier":"gold","n":1}`, "m::list": `[]`,
	} {
		owner.send(`{"type":"registerfunction","id":%q,"metadata":%s}`, id, metadata)
	}
	owner.sync()
	c := enter(t, e)
	const add, remove = "function '%s' not allowed (add to rbac.expose_functions)", "function '%s' not allowed (remove from rbac.forbidden_functions)"
	for _, tt := range []struct{ namespace, id, want string }{
		{"default", "open::a", ""}, {"default", "exact", ""}, {"default", "exactly", add}, {"default", "extra", ""},
		{"default", "open::secret", remove}, {"default", "other", add}, {"default", "granted::x", ""},
		{"shop", "open::a", add}, {"shop", "extra", add}, {"shop", "orders::x", ""}, {"shop", "one", ""}, {"shop", "ones", add},
		{"shop", "open::secret", remove}, {"none", "one", add},
		{"default", "engine::log::info", remove}, {"shop", "engine::baggage::get", ""}, {"default", "engine::channels::create", ""},
		{"default", "m::less", add}, {"default", "m::tin", add}, {"default", "m::text", add}, {"default", "m::list", add},
	} {
		m := c.call(tt.id, `{}`, `,"namespace":"`+tt.namespace+`"`)
		failure, _ := m["error"].(map[string]any)
		want := ""
		if tt.want != "" {
			want = fmt.Sprintf(tt.want, tt.id)
		}
		got, _ := failure["message"].(string)
		if failure["code"] != "FORBIDDEN" {
			got = ""
		}
		if got != want {
			t.Errorf("%s in %s: %q, want %q", tt.id, tt.namespace, got, want)
		}
	}
	c.send(`{"type":"invokefunction","function_id":"m::yes","data":1}`)
	owner.want(`{"type":"invokefunction","invocation_id":"*","function_id":"m::yes","data":1}`)
	// A rejected call gets an error even if the caller expects no reply.
	c.send(`{"type":"invokefunction","function_id":"other","data":1,"action":{"type":"void"}}`)
	c.want(`{"type":"invocationresult","invocation_id":"*","function_id":"other","error":{"code":"FORBIDDEN","message":"` + fmt.Sprintf(add, "other") + `"}}`)
	// A connection may declare only namespaces that it has been granted.
	m := c.call("engine::workers::register", `{"name":"c","namespace":"else"}`)
	if got := fmt.Sprint(m["error"]); !strings.Contains(got, "namespace 'else' not allowed for this session (permitted: default, none, shop)") ||
		errorCode(m) != "FORBIDDEN" {
		t.Errorf("declared another namespace: %s", got)
	}
	c.register("c", `,"namespace":"shop"`)
}

func TestZeroGuardPermitsWhatEveryWorkerNeeds(t *testing.T) {
	e := Start(t, WithGuard(Guard{}))
	c, other := enter(t, e).register("c"), dial(t, e).register("other")
	if got := errorCode(c.call("state::get", `{}`)); got != "FORBIDDEN" {
		t.Errorf("call: %q", got)
	}
	c.function("f::g")
	c.provide("hook")
	other.bind("t1", "hook")
	c.want(forwarded("t1", "hook", ""))
}

func TestExposeFilters(t *testing.T) {
	for name, tt := range map[string]struct {
		guard   Guard
		allowed []string
	}{
		"one namespace": {Guard{ExposeFilters: []ExposeFilter{{Namespace: "shop", Match: `match("a::*")`}}}, []string{"shop a::x"}},
		"no namespace":  {Guard{ExposeFilters: []ExposeFilter{{Match: "a::*"}}}, []string{"default a::x"}},
		"metadata": {
			Guard{ExposeFilters: []ExposeFilter{{Namespace: "shop", Metadata: map[string]any{"tier": `match("go*")`}}}},
			[]string{"shop a::x"},
		},
		"either of two": {
			Guard{ExposeFilters: []ExposeFilter{{Metadata: map[string]any{"tier": "gold"}}, {Namespace: "shop", Match: "b::x"}}},
			[]string{"default a::x", "shop b::x"},
		},
		"all": {Guard{ExposeAll: true}, []string{"default a::x", "default b::x", "shop a::x", "shop b::x"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := Start(t, WithGuard(tt.guard))
			for _, namespace := range []string{"default", "shop"} {
				owner := dial(t, e).register("owner", `,"namespace":"`+namespace+`"`)
				owner.send(`{"type":"registerfunction","id":"a::x","metadata":{"tier":"gold"}}`)
				owner.function("b::x")
				owner.sync()
			}
			permissions := &permissions{e: e, guard: e.cfg.guard}
			var allowed []string
			for _, namespace := range []string{"default", "shop"} {
				for _, id := range []string{"a::x", "b::x"} {
					if permissions.denial(namespace, id) == nil {
						allowed = append(allowed, namespace+" "+id)
					}
				}
			}
			if diff := cmp.Diff(tt.allowed, allowed); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMiddleware(t *testing.T) {
	e := Start(t, WithGuard(Guard{MiddlewareFunctionID: "mw", Expose: []string{"*"}}))
	mw := dial(t, e).register("mw")
	mw.function("mw")
	c := enter(t, e).register("c")
	for _, tt := range []struct{ more, action string }{
		{`,"action":{"type":"enqueue","queue":"q"}`, `{"type":"enqueue","queue":"q"}`},
		{`,"action":{"type":"void"}`, `{"type":"void"}`},
	} {
		c.send(`{"type":"invokefunction","function_id":"f::g","data":{"x":1},"metadata":{"m":2},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"%s}`, tt.more)
		m := mw.want(`{"type":"invokefunction","invocation_id":"*","function_id":"mw","metadata":{"m":2},
			"data":{"function_id":"f::g","payload":{"x":1},"action":` + tt.action + `,"context":{},"namespace":"default"},
			"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","baggage":"*"}`)
		mw.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"mw","error":{"code":"E","message":"no"}}`, m["invocation_id"])
		c.want(`{"type":"invocationresult","invocation_id":"*","function_id":"f::g","error":{"code":"E","message":"no"},
			"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`)
	}
	// The engine's own functions bypass the middleware. A call with a namespace goes to the
	// middleware in that namespace.
	if m := c.call("engine::functions::list", `{}`); m["result"] == nil {
		t.Errorf("built-in function: %v", m)
	}
	if m := c.call("engine::no::such", `{}`, `,"namespace":"shop"`); errorCode(m) != "FORBIDDEN" {
		t.Errorf("another namespace: %v", m)
	}
}

func TestHooksAndPrefix(t *testing.T) {
	e := Start(t, WithGuard(Guard{
		AuthFunctionID: "auth", OnFunction: "on::function", OnTrigger: "on::trigger", OnTriggerType: "on::type", Expose: []string{"*"},
	}))
	asked := judge(dial(t, e), map[string]string{
		"auth":         `{"function_registration_prefix":"p","allow_trigger_type_registration":true,"context":null}`,
		"on::function": `{"function_id":"f::new","description":"d","metadata":null}`,
		"on::trigger":  `{"trigger_id":"t2","trigger_type":"hook2","function_id":7,"config":null}`,
		"on::type":     `{"trigger_type_id":"hook2","description":"e"}`,
	})
	c, other := enter(t, e).register("c"), dial(t, e).register("other")
	<-asked
	c.send(`{"type":"registerfunction","id":"f::old","metadata":{"a":1}}`)
	c.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	c.send(`{"type":"registertrigger","id":"t1","trigger_type":"hook","function_id":"f::old","config":{"a":1},"metadata":{"b":2},"namespace":"shop"}`)
	for _, want := range []string{
		`on::function {"context":null,"description":null,"function_id":"f::old","metadata":{"a":1},"namespace":"default"}`,
		`on::type {"context":null,"description":"d","trigger_type_id":"hook"}`,
		`on::trigger {"config":{"a":1},"context":null,"function_id":"f::old","metadata":{"b":2},"namespace":"shop","trigger_id":"t1","trigger_type":"hook"}`,
	} {
		if got := <-asked; got != want {
			t.Errorf("asked %s\nwant  %s", got, want)
		}
	}
	c.want(`{"type":"triggerregistrationresult","id":"t2","trigger_type":"hook2","function_id":"p::f::old",
		"error":{"code":"FORBIDDEN","message":"function 'p::f::old' not allowed in namespace 'shop'"}}`)
	c.send(`{"type":"registertrigger","id":"t1","trigger_type":"hook","function_id":"f::old","config":{"a":1}}`)
	<-asked
	c.want(`{"type":"registertrigger","id":"t2","trigger_type":"hook2","function_id":"p::f::old","config":null}`)
	// In messages to and from the worker, its function's id has no prefix. All other workers
	// use the id with the prefix.
	other.send(`{"type":"invokefunction","function_id":"p::f::new","data":1}`)
	c.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f::new","data":1}`)
	info := other.call("engine::functions::info", `{"function_id":"p::f::new"}`)["result"]
	if diff := cmp.Diff(map[string]any{
		"function_id": "p::f::new", "namespace": "default", "worker_name": "c", "description": "d", "registered_triggers": []any{},
	}, info); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The prefix also applies to durable triggers, but the registration hooks do not.
	c.send(`{"type":"invokefunction","function_id":"engine::register_trigger","data":{"trigger_type":"none","function_id":"x"}}`)
	c.send(`{"type":"unregisterfunction","id":"f::new"}`)
	c.sync()
	if got := errorCode(other.call("p::f::new", `{}`)); got != "function_not_found" {
		t.Errorf("after unregistering: %q", got)
	}
}

func TestDeniedRegistrationsAreSilent(t *testing.T) {
	for name, tt := range map[string]struct{ auth, hook string }{
		"by the session": {`{"allow_function_registration":false,"allowed_trigger_types":[]}`, `{}`},
		"hook fails":     {`{"allow_trigger_type_registration":true}`, `!no`},
		"no result":      {`{"allow_trigger_type_registration":true}`, ``},
		"no object":      {`{"allow_trigger_type_registration":true}`, `true`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t, WithGuard(Guard{AuthFunctionID: "auth", OnFunction: "hook", OnTrigger: "hook", OnTriggerType: "hook", Expose: []string{"*"}}))
				judge(dial(t, e), map[string]string{"auth": tt.auth, "hook": tt.hook})
				c, other := enter(t, e).register("c"), dial(t, e).register("other")
				c.send(`{"type":"registerfunction","id":"f::g"}`)
				c.send(`{"type":"registertriggertype","id":"mine","description":"d"}`)
				c.bind("t1", "subscribe")
				c.sync()
				if got := errorCode(other.call("f::g", `{}`)); got != "function_not_found" {
					t.Errorf("function: %q", got)
				}
				if got := errorCode(other.call("engine::triggers::info", `{"id":"mine"}`)); got != "NOT_FOUND" {
					t.Errorf("trigger type: %q", got)
				}
				if got := errorCode(other.call("engine::registered-triggers::info", `{"id":"t1"}`)); got != "NOT_FOUND" {
					t.Errorf("trigger: %q", got)
				}
				forbidden := errorCode(c.call("engine::register_trigger", `{"trigger_type":"subscribe","function_id":"x","config":{"topic":"t"}}`)) == "FORBIDDEN"
				if forbidden != (name == "by the session") {
					t.Errorf("durable trigger forbidden: %v", forbidden)
				}
				synctest.Wait()
			})
		})
	}
}

func TestCloseDuringAuthentication(t *testing.T) {
	e := Start(t, WithGuard(Guard{AuthFunctionID: "auth"}))
	provider := dial(t, e).register("provider")
	provider.function("auth")
	c := dialURL(t, e, e.GuardedURL())
	provider.recv()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	var closed *websocket.CloseError
	if _, _, err := c.conn.ReadMessage(); err == nil || errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
		t.Errorf("got %v", err)
	}
}

// An empty prefix is still a prefix: ids start with "::".
func TestEmptyPrefixIsAPrefix(t *testing.T) {
	e := Start(t, WithGuard(Guard{AuthFunctionID: "auth", ExposeAll: true}))
	judge(dial(t, e), map[string]string{"auth": `{"function_registration_prefix":""}`})
	c, other := enter(t, e).register("c"), dial(t, e)
	c.function("own::f")
	other.send(`{"type":"invokefunction","function_id":"::own::f","data":1}`)
	c.want(`{"type":"invokefunction","invocation_id":"*","function_id":"own::f","data":1}`)
	if got := errorCode(other.call("own::f", `1`)); got != "function_not_found" {
		t.Errorf("without the prefix: %s", got)
	}
}

// Calls to the engine's own functions bypass the middleware in every namespace. If the
// middleware does not exist in a call's namespace, the error names the middleware.
func TestMiddlewareInAnotherNamespace(t *testing.T) {
	e := Start(t, WithGuard(Guard{MiddlewareFunctionID: "mw", ExposeAll: true}))
	dial(t, e).register("mw").function("mw")
	c := enter(t, e).register("c")
	for id, want := range map[string]string{
		"engine::channels::create": "Function engine::channels::create not found in namespace blue. It is registered in namespace(s): default.",
		"public::f":                "Function mw not found in namespace blue",
	} {
		m := c.call(id, `{}`, `,"namespace":"blue"`)
		got, _ := m["error"].(map[string]any)
		if got["code"] != "function_not_found" || got["message"] != want {
			t.Errorf("%s: %v, want %s", id, m, want)
		}
	}
}
