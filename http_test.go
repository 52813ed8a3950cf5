package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// typedRoute serves POST /orders with h. It returns the engine, the client and the function
// id.
func typedRoute(t *testing.T, h func(context.Context, *iii.HTTPRequest[sigIn]) (*iii.HTTPResponse[sigOut], error)) (*iiitest.Engine, *iii.Client, string) {
	t.Helper()
	e := iiitest.Start(t)
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f, err := iii.HandleHTTP(c, "POST", "/orders", h)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, c, f.ID()
}

// A body of the wrong type is the HTTP client's fault and results in a 400 response. A payload
// that is not an HTTP request is the fault of the function's caller and results in an error.
func TestTypedRouteRefusesBodies(t *testing.T) {
	e, c, id := typedRoute(t, func(context.Context, *iii.HTTPRequest[sigIn]) (*iii.HTTPResponse[sigOut], error) {
		t.Error("the handler ran")
		return nil, nil
	})
	got := fetch(t, e.HTTPURL(), "POST", "/orders", "application/json", `{"N":"one"}`)
	want := response{400, map[string][]string{"Content-Type": {"application/json"}},
		`{"error":{"code":"invalid_request","message":"payload at body.N: got string, want integer (int)"}}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	err := c.Call(t.Context(), id, []int{1}, nil)
	var remote *iii.Error
	if !errors.As(err, &remote) || remote.Code != "invalid_request" {
		t.Errorf("a call with a list: %v, want invalid_request", err)
	}
}

// A 204 response has no body, but always sets a content type. Without one, the engine would
// send the Content-Length of an empty JSON object.
func TestTypedRouteWithoutContent(t *testing.T) {
	for _, test := range []struct {
		name string
		resp *iii.HTTPResponse[sigOut]
		want string
	}{
		{"nil", nil, `{"body":null,"headers":["Content-Type: text/plain; charset=utf-8"],"status_code":204}`},
		{"status alone", &iii.HTTPResponse[sigOut]{StatusCode: 204}, `{"body":null,"headers":["Content-Type: text/plain; charset=utf-8"],"status_code":204}`},
		{"headers", &iii.HTTPResponse[sigOut]{StatusCode: 204, Headers: map[string]string{"content-type": "a/b"}}, `{"body":null,"headers":["content-type: a/b"],"status_code":204}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, c, id := typedRoute(t, func(context.Context, *iii.HTTPRequest[sigIn]) (*iii.HTTPResponse[sigOut], error) {
				return test.resp, nil
			})
			got, err := iii.Call[json.RawMessage](t.Context(), c, id, map[string]any{}, iii.Remotely())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// The engine sets the headers that depend on the body, so those of a response are ignored.
func TestTypedRouteIgnoresFraming(t *testing.T) {
	copied := map[string]string{"Content-Length": "2", "transfer-encoding": "chunked", "X-Kept": "yes"}
	for _, test := range []struct {
		name, method string
		resp         *iii.HTTPResponse[string]
		want         string
	}{
		{"body", "GET", &iii.HTTPResponse[string]{StatusCode: 200, Headers: copied, Body: "hello"}, `{"body":"hello","headers":{"X-Kept":"yes"},"status_code":200}`},
		{"no content", "GET", &iii.HTTPResponse[string]{StatusCode: 204, Headers: copied}, `{"body":null,"headers":["X-Kept: yes","Content-Type: text/plain; charset=utf-8"],"status_code":204}`},
		{"HEAD", "HEAD", &iii.HTTPResponse[string]{StatusCode: 200, Headers: copied}, `{"body":"","headers":{"Content-Length":"2","X-Kept":"yes"},"status_code":200}`},
		{"HEAD with an invalid length", "HEAD", &iii.HTTPResponse[string]{StatusCode: 200, Headers: map[string]string{"content-length": ""}}, `{"body":"","headers":{},"status_code":200}`},
		{"HEAD with two lengths", "HEAD", &iii.HTTPResponse[string]{StatusCode: 200, Headers: map[string]string{"CONTENT-LENGTH": "x", "content-length": "007"}}, `{"body":"","headers":{"Content-Length":"7"},"status_code":200}`},
		{"HEAD without content", "HEAD", &iii.HTTPResponse[string]{StatusCode: 204, Headers: copied}, `{"body":null,"headers":["X-Kept: yes","Content-Type: text/plain; charset=utf-8"],"status_code":204}`},
		{"nothing to ignore", "GET", &iii.HTTPResponse[string]{StatusCode: 200, Headers: map[string]string{"X": ""}}, `{"body":"","headers":{"X":""},"status_code":200}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := iiitest.Start(t)
			client, err := iii.New(engine.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			f, err := iii.HandleHTTP(client, test.method, "/x", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
				return test.resp, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := iii.Call[json.RawMessage](t.Context(), client, f.ID(), map[string]any{}, iii.Remotely())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
	if len(copied) != 3 {
		t.Errorf("the handler's headers are changed to %v", copied)
	}
}

// fatalPaths contains paths that make a real engine panic on every later route registration.
var fatalPaths = []string{
	"/q/{*rest}/", "/q/{", "/q/}", "/q/{a}{b}", "/q/a{b}c", "/q/{}", "/q/:", "/q/{*}", "/q/*x",
	"*x", "q/*", "/{*a}/{*b}", "/{*rest}/x", "/{a}x", "/q/:a*b", "/q/:{", "/q/:}", "/q/:*", "/{{{", "/q/:*x/y", "/{a/b}",
	strings.Repeat("/:a", 26),
}

// harmlessPaths contains paths that resemble fatal ones, but that a real engine accepts.
var harmlessPaths = []string{
	"/q/:a:b", "/q/:a/:a", "/q/{{x}}", "/q/:{x}", "`", "/q/:*x", "/q/{a:b}", "/q/\x00",
	"/q/x{a}", "/q/{*rest}", "/%7Bx", "/q/%7D", "/x*", strings.Repeat("/:a", 25),
}

// ownRoute is a trigger config that is defined outside package iii.
type ownRoute struct {
	Path string `json:"api_path"`
}

func (ownRoute) TriggerType() string { return "http" }

// ownRoutePointer is like ownRoute, but its methods have pointer receivers.
type ownRoutePointer struct{ path string }

func (*ownRoutePointer) TriggerType() string            { return "http" }
func (r *ownRoutePointer) MarshalJSON() ([]byte, error) { return json.Marshal(ownRoute{r.path}) }

// wrappedRoute embeds an HTTPTriggerConfig.
type wrappedRoute struct {
	iii.HTTPTriggerConfig
	Note string
}

// anyRoutes lists the ways to register a route whose path is not encoded by the client.
var anyRoutes = map[string]func(c *iii.Client, path string) error{
	"custom trigger":          routeTrigger(func(path string) any { return map[string]any{"api_path": path} }),
	"custom trigger, struct":  routeTrigger(func(path string) any { return ownRoute{path} }),
	"custom trigger, raw":     routeTrigger(func(path string) any { return rawRoute(`{"http_method":"GET","api_path":%}`, path) }),
	"custom trigger, pointer": routeTrigger(func(path string) any { raw := rawRoute(`{"api_path":%}`, path); return &raw }),
	"escaped key":             routeTrigger(func(path string) any { return rawRoute(`{"api\u005fpath":%}`, path) }),
	"key twice":               routeTrigger(func(path string) any { return rawRoute(`{"api_path":"/ok","api_path":%}`, path) }),
	"key in two spellings":    routeTrigger(func(path string) any { return rawRoute(`{"api_path":%,"API_PATH":"/ok","Api_Path":null}`, path) }),
	"other members of any kind": routeTrigger(func(path string) any {
		return rawRoute(` { "x" : {"api_path":1}, "api_path" : % , "y":[1e300]} `, path)
	}),
	"own type":            func(c *iii.Client, path string) error { _, err := c.Trigger("f", ownRoute{path}); return err },
	"pointer to own type": func(c *iii.Client, path string) error { _, err := c.Trigger("f", &ownRoute{path}); return err },
	"own pointer type":    func(c *iii.Client, path string) error { _, err := c.Trigger("f", &ownRoutePointer{path}); return err },
	"wrapped type": func(c *iii.Client, path string) error {
		_, err := c.Trigger("f", wrappedRoute{HTTPTriggerConfig: iii.HTTPTriggerConfig{APIPath: path}})
		return err
	},
	"provider in default": func(c *iii.Client, path string) error {
		_, err := c.Trigger("f", ownRoute{path}, iii.WithTriggerProviderNamespace("default"))
		return err
	},
}

func routeTrigger(config func(path string) any) func(*iii.Client, string) error {
	return func(c *iii.Client, path string) error {
		_, err := c.Trigger("f", iii.CustomTrigger{Type: "http", Config: config(path)})
		return err
	}
}

// rawRoute replaces the percent sign in format with path, encoded as a JSON string.
func rawRoute(format, path string) json.RawMessage {
	quoted, _ := json.Marshal(path)
	return json.RawMessage(strings.Replace(format, "%", string(quoted), 1))
}

func TestRoutesThatBreakTheEngineAreRefused(t *testing.T) {
	typed := func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, nil }
	ways := map[string]func(c *iii.Client, path string) error{
		"typed": func(c *iii.Client, path string) error { _, err := iii.HandleHTTP(c, "GET", path, typed); return err },
		"mounted": func(c *iii.Client, path string) error {
			_, err := c.MountHTTP("post", path, http.NotFoundHandler())
			return err
		},
		"config": func(c *iii.Client, path string) error {
			_, err := c.Trigger("f", iii.HTTPTriggerConfig{APIPath: path})
			return err
		},
		"pointer to config": func(c *iii.Client, path string) error {
			_, err := c.Trigger("f", &iii.HTTPTriggerConfig{APIPath: path})
			return err
		},
		"call": func(c *iii.Client, path string) error {
			return c.Call(t.Context(), "engine::register_trigger", map[string]any{"trigger_type": "http", "function_id": "f", "config": ownRoute{path}}, nil)
		},
		"call in default": func(c *iii.Client, path string) error {
			in := rawRoute(`{"trigger\u005ftype":"http","function_id":"f","config":{"api\u005fpath":%},"trigger_namespace":null}`, path)
			return c.Call(t.Context(), "engine::register_trigger", in, nil, iii.InNamespace("default"))
		},
		"call with a list": func(c *iii.Client, path string) error {
			return c.Call(t.Context(), "engine::register_trigger", []any{"http", "f", ownRoute{path}}, nil)
		},
		"send": func(c *iii.Client, path string) error {
			return c.Send(t.Context(), "engine::register_trigger", map[string]any{"trigger_type": "http", "function_id": "f", "config": ownRoute{path}, "trigger_namespace": "default"})
		},
		"enqueue": func(c *iii.Client, path string) error {
			_, err := c.Enqueue(t.Context(), "default", "engine::register_trigger", map[string]any{"trigger_type": "http", "function_id": "f", "config": ownRoute{path}})
			return err
		},
	}
	for name, way := range anyRoutes {
		ways[name] = way
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			e := iiitest.Start(t)
			c := newWorker(t, e)
			mustConnect(t, c)
			for _, path := range fatalPaths {
				err := way(c, path)
				if err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
					t.Errorf("%q: got %v, want an error", path, err)
				}
			}
			if _, err := c.Health(t.Context()); err != nil { // a round trip, so that earlier messages have been sent
				t.Fatal(err)
			}
			for _, f := range e.Frames() {
				if f.Type() == "registertrigger" || strings.Contains(string(f.Message), `"engine::register_trigger"`) {
					t.Errorf("sent to the engine: %s", f.Message)
				}
			}
		})
	}
}

// The client and the development engine accept paths that resemble fatal ones but do not crash
// a real engine.
func TestRoutesThatLookFatalAreRegistered(t *testing.T) {
	for name, way := range anyRoutes {
		t.Run(name, func(t *testing.T) {
			for _, path := range harmlessPaths {
				c := newWorker(t, iiitest.Start(t))
				if err := way(c, path); err != nil {
					t.Errorf("%q: %v", path, err)
				}
			}
		})
	}
	e := iiitest.Start(t)
	c := newWorker(t, e)
	mustConnect(t, c)
	for i, path := range harmlessPaths {
		config := ownRoute{"/" + strings.Repeat("a", i) + "/" + path} // its own prefix, to avoid conflicts
		if err := c.Call(t.Context(), "engine::register_trigger", map[string]any{"trigger_type": "http", "function_id": "f", "config": config}, nil); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// Like the engine, the client uses the last value of a duplicate key, compares keys
// case-sensitively, and inspects the config only if the trigger type belongs to the engine.
func TestRouteConfigsAreReadAsByTheEngine(t *testing.T) {
	for name, trigger := range map[string]iii.TriggerConfig{
		"a later path":         iii.CustomTrigger{Type: "http", Config: json.RawMessage(`{"api_path":"/q/{","api_path":"/ok"}`)},
		"another spelling":     iii.CustomTrigger{Type: "http", Config: json.RawMessage(`{"api_path":"/ok","API_PATH":"/q/{"}`)},
		"a member of a member": iii.CustomTrigger{Type: "http", Config: json.RawMessage(`{"api_path":"/ok","x":{"api_path":"/q/{"}}`)},
		"another type":         iii.CustomTrigger{Type: "shop::http", Config: ownRoute{"/q/{"}},
	} {
		c := newWorker(t, iiitest.Start(t))
		if _, err := c.Trigger("f", trigger); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A trigger with a provider namespace uses another worker's trigger type.
	c := newWorker(t, iiitest.Start(t))
	if _, err := c.Trigger("f", ownRoute{"/q/{"}, iii.WithTriggerProviderNamespace("shop")); err != nil {
		t.Error(err)
	}
	mustConnect(t, c)
	for _, input := range []string{
		`{"trigger_type":"http","function_id":"f","config":{"api_path":"/q/{"},"trigger_namespace":"shop"}`,
		`{"trigger_type":"shop::http","function_id":"f","config":{"api_path":"/q/{"}}`,
		`{"trigger_type":"subscribe","function_id":"f","config":{"topic":"t","api_path":"/q/{"}}`,
	} {
		if err := c.Call(t.Context(), "engine::register_trigger", json.RawMessage(input), nil); err != nil {
			t.Errorf("%s: %v", input, err)
		}
	}
}

// A route without a path or with a method that the engine does not route can receive no request.
// The client rejects it for every Go type of config. In calls of engine::register_trigger, it
// leaves the config to the engine, which is not harmed by it.
func TestConfigsOfRoutesWithoutRequestsAreRefused(t *testing.T) {
	c := newWorker(t, iiitest.Start(t))
	mustConnect(t, c)
	for config, want := range map[string]string{
		`null`: "no path", `{}`: "no path", `["/a"]`: "no path", `{"api_path":""}`: "no path", `{"api_path":["/a"]}`: "no path",
		`{"api_path":"/a","api_path":null}`: "no path", `{"API_PATH":"/a"}`: "no path",
		`{"api_path":"/a","http_method":""}`:                           `method "" is none of`,
		`{"api_path":"/a","http_method":"TRACE"}`:                      `method "TRACE" is none of`,
		`{"api_path":"/a","http_method":"GET","http_method":" get"}`:   `method " get" is none of`,
		`{"api_path":"/a","http_method":"options"}`:                    "CORS preflight",
		`{"api_path":"/a"}`:                                            "",
		`{"api_path":"a/b","http_method":"get"}`:                       "", // the engine adds the slash
		`{"api_path":"/c","http_method":null}`:                         "",
		`{"api_path":"/d","http_method":7}`:                            "", // the engine ignores it
		`{"api_path":"/e","HTTP_METHOD":"TRACE","http_method":"HEAD"}`: "",
	} {
		_, err := c.Trigger("f", iii.CustomTrigger{Type: "http", Config: json.RawMessage(config)})
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
		in := json.RawMessage(`{"trigger_type":"http","function_id":"f","config":` + config + `}`)
		err = c.Call(t.Context(), "engine::register_trigger", in, nil)
		if _, ok := errors.AsType[*iii.Error](err); err != nil && !ok {
			t.Errorf("call with %s: %v, want the engine's answer", config, err)
		}
	}
	type withMethod struct{ iii.HTTPTriggerConfig }
	if _, err := c.Trigger("f", withMethod{iii.HTTPTriggerConfig{APIPath: "/a", HTTPMethod: "OPTIONS"}}); err == nil {
		t.Error("OPTIONS in a type of the program is accepted")
	}
}

// An empty method is GET, and a path without a slash is the path with one.
func TestRouteDefaults(t *testing.T) {
	for name, register := range routeWays {
		for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
			e := iiitest.Start(t, iiitest.WithProtocol(protocol))
			c := newWorker(t, e)
			f, err := register(c, "", "orders/:id")
			if err != nil {
				t.Fatal(err)
			}
			if name != "trigger" {
				if want := "http::GET/orders/:id"; f.ID() != want {
					t.Errorf("%s: function id %q, want %q", name, f.ID(), want)
				}
				if _, err := register(c, "GET", "/orders/:id"); err == nil || !strings.Contains(err.Error(), "registered already") {
					t.Errorf("%s: the same route again: %v", name, err)
				}
			}
			mustConnect(t, c)
			if got := fetch(t, e.HTTPURL(), "GET", "/orders/7", "", ""); got.Status != 200 || !strings.HasSuffix(got.Body, " 7") {
				t.Errorf("%s on %v: %+v", name, protocol, got)
			}
		}
	}
}

// A stream trigger without a stream name would crash one of the engine's tasks. The client
// therefore rejects such a trigger, even in a call to engine::register_trigger.
func TestStreamTriggersWithoutAStreamAreRefused(t *testing.T) {
	c := newWorker(t, iiitest.Start(t))
	mustConnect(t, c)
	for _, config := range []string{`{}`, `null`, `{"stream_name":""}`, `{"stream_name":1}`, `{"STREAM_NAME":"s"}`, `{"stream_name":"s","stream_name":null}`, `[]`} {
		if _, err := c.Trigger("f", iii.CustomTrigger{Type: "stream", Config: json.RawMessage(config)}); err == nil || !strings.Contains(err.Error(), "no stream_name") {
			t.Errorf("trigger with %s: got %v", config, err)
		}
		in := json.RawMessage(`{"trigger_type":"stream","function_id":"f","config":` + config + `}`)
		if err := c.Call(t.Context(), "engine::register_trigger", in, nil); err == nil || !strings.Contains(err.Error(), "no stream_name") {
			t.Errorf("call with %s: got %v", config, err)
		}
	}
	in := json.RawMessage(`{"trigger_type":"stream","function_id":"f","config":{"stream_name":"s"}}`)
	if err := c.Call(t.Context(), "engine::register_trigger", in, nil); err != nil {
		t.Error(err)
	}
}

// routeWays lists the ways to register a route whose path is encoded by the client. Each
// handler returns the path and the path parameter "id".
var routeWays = map[string]func(c *iii.Client, method, path string) (*iii.Function, error){
	"typed": func(c *iii.Client, method, path string) (*iii.Function, error) {
		return iii.HandleHTTP(c, method, path, func(_ context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{StatusCode: 200, Headers: map[string]string{"content-type": "text/plain"}, Body: r.Path + " " + r.PathParams["id"]}, nil
		})
	},
	"mounted": func(c *iii.Client, method, path string) (*iii.Function, error) {
		return c.MountHTTP(method, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.URL.Path+" "+r.PathValue("id"))
		}))
	},
	"trigger": func(c *iii.Client, method, path string) (*iii.Function, error) {
		f, err := iii.Handle(c, "f", func(_ context.Context, r iii.HTTPRequest[any]) (any, error) {
			return map[string]any{"headers": map[string]string{"content-type": "text/plain"}, "body": r.Path + " " + r.PathParams["id"]}, nil
		})
		if err == nil {
			_, err = c.Trigger("f", &iii.HTTPTriggerConfig{HTTPMethod: method, APIPath: path})
		}
		return f, err
	},
}

// The engine matches request paths in encoded form, so the client registers routes in that
// form.
func TestRoutesAreRegisteredInEncodedForm(t *testing.T) {
	for _, test := range []struct{ path, registered, request, id string }{
		{"/caf\u00e9", "/caf%C3%A9", "/caf%C3%A9", ""},
		{"/\u65e5\u672c/list", "/%E6%97%A5%E6%9C%AC/list", "/%E6%97%A5%E6%9C%AC/list", ""},
		{"/e\u0301/\U0001F600", "/e%CC%81/%F0%9F%98%80", "/e%CC%81/%F0%9F%98%80", ""},
		{`/a"b`, "/a%22b", "/a%22b", ""},
		{"/a<b>`", "/a%3Cb%3E%60", "/a%3Cb%3E%60", ""},
		{"/caf%c3%a9", "/caf%C3%A9", "/caf%C3%A9", ""},
		{"/a%2fb", "/a%2Fb", "/a%2Fb", ""},
		{"/a%20b%7c%5e", "/a%20b%7C%5E", "/a%20b%7C%5E", ""},
		{"/%7Bx%7D", "/%7Bx%7D", "/%7Bx%7D", ""},
		{"/%61%2D%7eb", "/a-~b", "/a-~b", ""},
		{"/%3Aid", "/%3Aid", "/%3Aid", ""},
		{"/100%25", "/100%25", "/100%25", ""},
		{"/it's!(1)&$,;=+@", "/it's!(1)&$,;=+@", "/it's!(1)&$,;=+@", ""},
		{"/items:batch", "/items:batch", "/items:batch", ""},
		{"/.well-known/..x", "/.well-known/..x", "/.well-known/..x", ""},
		{"/a//b", "/a//b", "/a//b", ""},
		{"//a", "//a", "//a", ""},
		{"/a/", "/a/", "/a/", ""},
		{"/", "/", "/", ""},
		{"a/\u00e9", "/a/%C3%A9", "/a/%C3%A9", ""},
		{"/caf\u00e9/:id", "/caf%C3%A9/:id", "/caf%C3%A9/7", "7"},
		{"/:id/", "/:id/", "/7/", "7"},
		{"/:id/:na\u00efve_2", "/:id/:na\u00efve_2", "/7/8", "7"},
	} {
		for name, register := range routeWays {
			t.Run(name+" "+test.path, func(t *testing.T) {
				e := iiitest.Start(t)
				c := newWorker(t, e)
				f, err := register(c, "GET", test.path)
				if err != nil {
					t.Fatal(err)
				}
				mustConnect(t, c)
				if want := "http::GET" + test.registered; name != "trigger" && f.ID() != want {
					t.Errorf("function id %q, want %q", f.ID(), want)
				}
				want := test.registered + " " + test.id
				if name == "mounted" {
					path, err := url.PathUnescape(test.request)
					if err != nil {
						t.Fatal(err)
					}
					want = path + " " + test.id
				}
				if got := fetch(t, e.HTTPURL(), "GET", test.request, "", ""); got.Status != 200 || strings.TrimPrefix(got.Body, "/") != strings.TrimPrefix(want, "/") {
					t.Errorf("GET %s: %d %q, want %q", test.request, got.Status, got.Body, want)
				}
			})
		}
	}
}

func TestRoutesThatNoRequestMatchesAreRefused(t *testing.T) {
	for _, test := range []struct{ method, path, want string }{
		{"OPTIONS", "/a", "CORS preflight"},
		{"options", "/a", "CORS preflight"},
		{"TRACE", "/a", "is none of"},
		{"BREW", "/pot", "is none of"},
		{" GET", "/a", "is none of"},
		{"GET", "", "no path"},
		{"GET", "http://example.com/a", "is an address"},
		{"GET", "/a?b", "a character that is not allowed in a path"},
		{"GET", "/a#b", "a character that is not allowed in a path"},
		{"GET", "/a b", "a character that is not allowed in a path"},
		{"GET", "/a\x00", "a character that is not allowed in a path"},
		{"GET", "/a\x7f", "a character that is not allowed in a path"},
		{"GET", "/a\xff", "not valid UTF-8"},
		{"GET", "/a|b", `some clients encode '|' and others do not; write %7C`},
		{"GET", "/a^b", "write %5E"},
		{"GET", "/a[b]", "write %5B"},
		{"GET", `/a\b`, "write %5C"},
		{"GET", "/100%", "does not begin a percent-encoded byte"},
		{"GET", "/a%zz", "does not begin a percent-encoded byte"},
		{"GET", "/a%2", "does not begin a percent-encoded byte"},
		{"GET", "/a%+1", "does not begin a percent-encoded byte"},
		{"GET", "/a/./b", `resolve the segment "."`},
		{"GET", "/a/..", `resolve the segment ".."`},
		{"GET", "/a/%2e%2E/b", `resolve the segment "%2e%2E"`},
		{"GET", "/:id.json", "a parameter is a whole segment"},
		{"GET", "/:id:cancel", "a parameter is a whole segment"},
		{"GET", "/:id-:rest", "a parameter is a whole segment"},
		{"GET", "/:id%20", "a parameter is a whole segment"},
		{"GET", "/: id", "a parameter is a whole segment"},
		{"GET", "/a/:", "without a name"},
		{"GET", "/:x/:x", "twice"},
		{"GET", "/a/*rest", "is a wildcard"},
		{"GET", "/a*", "is a wildcard"},
		{"GET", "/a/{id}", "is a wildcard"},
	} {
		for name, register := range routeWays {
			c := newWorker(t, iiitest.Start(t))
			if _, err := register(c, test.method, test.path); err == nil || !strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s %s %q: got %v, want %q", name, test.method, test.path, err, test.want)
			}
		}
	}
	if _, err := newWorker(t, iiitest.Start(t)).MountHTTP("GET", "/nil", nil); err == nil {
		t.Error("a nil handler is accepted")
	}
}

func TestTwoSpellingsOfOneRouteAreOneFunction(t *testing.T) {
	c := newWorker(t, iiitest.Start(t))
	if _, err := c.MountHTTP("GET", "/caf\u00e9", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MountHTTP("GET", "caf%c3%a9", http.NotFoundHandler()); err == nil || !strings.Contains(err.Error(), "registered already") {
		t.Errorf("got %v, want no error", err)
	}
}

// If the engine rejects a route, Function.Err returns the reason.
func TestFunctionErrReturnsRouteRejection(t *testing.T) {
	for protocol, code := range map[iiitest.Protocol]string{
		iiitest.Protocol023: iii.CodeTriggerRegistrationFailed, iiitest.Protocol025: iii.CodeTriggerRegistrationFailed, iiitest.Protocol026: iii.CodeHTTPRouteConflict,
	} {
		t.Run(protocol.String(), func(t *testing.T) { functionErrIsTheRefusalOfItsRoute(t, protocol, code) })
	}
}

func functionErrIsTheRefusalOfItsRoute(t *testing.T, protocol iiitest.Protocol, code string) {
	e := iiitest.Start(t, iiitest.WithProtocol(protocol))
	c := newWorker(t, e)
	first, err := c.MountHTTP("GET", "/orders/:id", http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.MountHTTP("GET", "/orders/:number", http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	mustConnect(t, c)
	var refusal *iii.Error
	if err := second.Err(); !errors.As(err, &refusal) || refusal.Code != code || !strings.Contains(refusal.Message, "conflicts") {
		t.Errorf("the rejected route: %v", err)
	}
	if err := first.Err(); err != nil {
		t.Errorf("the accepted route: %v", err)
	}
}

// A typed handler always receives the decoded JSON body. If decoding fails, the request is
// rejected.
func TestTypedRouteDecodesEveryJSONBody(t *testing.T) {
	type order struct {
		Quantity int `json:"quantity"`
	}
	type seen struct {
		Body    any
		Channel bool
	}
	const zero = 0
	ran := make(chan seen, 1)
	e := iiitest.Start(t)
	c := newWorker(t, e)
	route := func(path string, register func(path string) error) {
		if err := register(path); err != nil {
			t.Fatal(err)
		}
	}
	route("/order", func(path string) error {
		return recordBody[order](c, path, func(b order, ch bool) { ran <- seen{b.Quantity, ch} })
	})
	route("/pointer", func(path string) error {
		return recordBody[*order](c, path, func(b *order, ch bool) { ran <- seen{b == nil, ch} })
	})
	route("/any", func(path string) error { return recordBody[any](c, path, func(b any, ch bool) { ran <- seen{b, ch} }) })
	route("/raw", func(path string) error {
		return recordBody[json.RawMessage](c, path, func(b json.RawMessage, ch bool) { ran <- seen{string(b), ch} })
	})
	route("/valid", func(path string) error {
		return recordBody[order](c, path, func(b order, ch bool) { ran <- seen{b.Quantity, ch} }, iii.WithInputValidation())
	})
	route("/strict", func(path string) error {
		return recordBody[neverNull](c, path, func(b neverNull, ch bool) { ran <- seen{b.n, ch} })
	})
	mustConnect(t, c)
	for _, test := range []struct {
		name, path, contentType, body string
		chunked                       bool
		want                          seen
		refused                       string
	}{
		{name: "the engine's", path: "/order", contentType: "application/json", body: `{"quantity":7}`, want: seen{7, true}},
		{name: "with a charset", path: "/order", contentType: "application/json; charset=utf-8", body: `{"quantity":7}`, want: seen{7, true}},
		{name: "upper case", path: "/order", contentType: "Application/JSON", body: `{"quantity":7}`, want: seen{7, false}},
		{name: "suffix", path: "/order", contentType: "application/vnd.api+json", body: `{"quantity":7}`, want: seen{7, false}},
		{name: "suffix and parameter", path: "/order", contentType: "application/cloudevents+JSON ; charset=utf-8", body: ` {"quantity":7}` + "\n", want: seen{7, false}},
		{name: "chunked", path: "/order", contentType: "application/problem+json", body: `{"quantity":7}`, chunked: true, want: seen{7, false}},
		{name: "chunked and empty", path: "/order", contentType: "application/problem+json", chunked: true, want: seen{zero, false}},
		{name: "no body", path: "/order", contentType: "application/problem+json", want: seen{zero, true}},
		{name: "null", path: "/order", contentType: "application/json", body: `null`, want: seen{zero, false}},
		{name: "null to a pointer", path: "/pointer", contentType: "application/json", body: `null`, want: seen{true, false}},
		{name: "pointer", path: "/pointer", contentType: "a/b+json", body: `{}`, want: seen{false, false}},
		{name: "any", path: "/any", contentType: "a/b+json", body: `[1,"x"]`, want: seen{[]any{1.0, "x"}, false}},
		{name: "raw", path: "/raw", contentType: "a/b+json", body: `{"n": 1}`, want: seen{`{"n": 1}`, false}},
		{name: "a type that takes no null", path: "/strict", contentType: "a/b+json", body: `5`, want: seen{5, false}},
		{name: "the key of calls", path: "/any", contentType: "a/b+json", body: `{"_caller_worker_id":1}`, want: seen{map[string]any{"_caller_worker_id": 1.0}, false}},
		{name: "another type", path: "/order", contentType: "text/plain", body: `{"quantity":7}`, refused: "payload at body: content type \"text/plain\" is neither application/json nor ends in +json"},
		{name: "another type, chunked", path: "/order", contentType: "text/plain", body: `{"quantity":7}`, chunked: true, refused: "payload at body: content type"},
		{name: "another type, chunked and empty", path: "/order", contentType: "text/plain", chunked: true, want: seen{zero, false}},
		{name: "another type, empty", path: "/order", contentType: "text/plain", want: seen{zero, true}},
		{name: "a form", path: "/order", contentType: "application/x-www-form-urlencoded", body: `quantity=7`, refused: "payload at body: content type"},
		{name: "lines of JSON", path: "/order", contentType: "application/x-ndjson", body: "{}\n{}", refused: "payload at body: content type"},
		{name: "a type that only mentions JSON", path: "/order", contentType: "text/json", body: `{"quantity":7}`, refused: "payload at body: content type"},
		{name: "no type", path: "/order", body: `{"quantity":7}`, refused: "payload at body: it has no content type"},
		{name: "no body, to raw JSON", path: "/raw", want: seen{"null", true}},
		{name: "no body, to a type that takes no null", path: "/strict", want: seen{zero, true}},
		{name: "chunked and empty, to a type that takes no null", path: "/strict", contentType: "application/json", chunked: true, want: seen{zero, false}},
		{name: "no body, validated", path: "/valid", contentType: "application/json", want: seen{zero, true}},
		{name: "chunked and empty, validated", path: "/valid", contentType: "application/json", chunked: true, want: seen{zero, false}},
		{name: "another type, chunked and empty, validated", path: "/valid", contentType: "text/plain", chunked: true, want: seen{zero, false}},
		{name: "null, validated", path: "/valid", contentType: "application/json", body: `null`, refused: "payload at body: got null, want object"},
		{name: "another type, to any", path: "/any", contentType: "text/plain", body: `x`, want: seen{nil, true}},
		{name: "another type, to raw JSON", path: "/raw", contentType: "text/plain", body: `x`, want: seen{"null", true}},

		{name: "cut", path: "/order", contentType: "application/json", body: `{"quantity":7`, refused: "payload at body: unexpected end of JSON input"},
		{name: "cut, to any", path: "/any", contentType: "application/json", body: `{"quantity":7`, refused: "payload at body"},
		{name: "cut, with a suffix", path: "/order", contentType: "a/b+json", body: `{"quantity":7`, refused: "payload at body"},
		{name: "cut and chunked", path: "/raw", contentType: "a/b+json", body: `{"quantity":7`, chunked: true, refused: "payload at body"},
		{name: "two values", path: "/order", contentType: "application/json", body: `{"quantity":7}{"quantity":8}`, refused: "payload at body: invalid character '{' after top-level value"},
		{name: "byte order mark", path: "/order", contentType: "application/json", body: "\ufeff{\"quantity\":7}", refused: "payload at body: invalid character"},
		{name: "no UTF-8", path: "/order", contentType: "application/json", body: "{\"quantity\":7,\"x\":\"\xff\"}", refused: "payload at body: it is not valid UTF-8"},
		{name: "blanks alone", path: "/order", contentType: "application/json", body: "  ", refused: "payload at body: unexpected end of JSON input"},
		{name: "no order", path: "/order", contentType: "a/b+json", body: `{"quantity":"x"}`, refused: "payload at body.quantity: got string, want integer (int)"},
		{name: "null to a type that takes none", path: "/strict", contentType: "application/json", body: `null`, refused: "payload at body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var body io.Reader = strings.NewReader(test.body)
			if test.chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), "POST", e.HTTPURL()+test.path, body)
			if err != nil {
				t.Fatal(err)
			}
			if test.contentType != "" {
				req.Header.Set("Content-Type", test.contentType)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if test.refused == "" {
				if resp.StatusCode != http.StatusNoContent {
					t.Fatalf("%s: %s", resp.Status, answer)
				}
				if diff := cmp.Diff(test.want, <-ran); diff != "" {
					t.Errorf("the handler saw (-want +got):\n%s", diff)
				}
				return
			}
			var refusal struct{ Error iii.ErrorBody }
			if err := json.Unmarshal(answer, &refusal); err != nil || resp.StatusCode != http.StatusBadRequest || refusal.Error.Code != "invalid_request" || !strings.Contains(refusal.Error.Message, test.refused) {
				t.Errorf("%s: %s, want a 400 with %q", resp.Status, answer, test.refused)
			}
			select {
			case got := <-ran:
				t.Errorf("the handler ran, with %v", got)
			default:
			}
		})
	}
}

type neverNull struct{ n int }

func (v *neverNull) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return errors.New("null is no number")
	}
	return json.Unmarshal(b, &v.n)
}

func recordBody[In any](c *iii.Client, path string, record func(body In, channel bool), opts ...iii.FunctionOption) error {
	_, err := iii.HandleHTTP(c, "POST", path, func(_ context.Context, r *iii.HTTPRequest[In]) (*iii.HTTPResponse[any], error) {
		record(r.Body, r.RequestBody != nil)
		return nil, nil
	}, opts...)
	return err
}

// If the body never arrives, the handler's slot is freed once the engine gives up on the
// request.
func TestTypedRouteStopsWaitingForBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t)
		c := newWorker(t, e)
		if err := recordBody[any](c, "/", func(any, bool) { t.Error("the handler ran") }); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		conn, err := e.DialContext(t.Context(), "tcp", strings.TrimPrefix(e.HTTPURL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: a/b+json\r\nContent-Length: 9\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.Stats().HandlersRunning; got != 1 {
			t.Fatalf("%d handlers wait for the body, want 1", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := c.Stats().HandlersRunning; got != 0 {
			t.Errorf("%d handlers are still running after a minute", got)
		}
	})
}
