package iii

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type unboundProvider struct{}

func (unboundProvider) Bind(context.Context, TriggerBinding) error { return nil }
func (unboundProvider) Unbind(context.Context, string) error       { return nil }

// The client rejects registrations that the engine would mishandle. A rejected registration
// leaves nothing behind.
func TestRegistrationsAreChecked(t *testing.T) {
	handler := func(context.Context, json.RawMessage) (any, error) { return nil, nil }
	typed := func(context.Context, int) (int, error) { return 0, nil }
	route := func(context.Context, *HTTPRequest[any]) (*HTTPResponse[any], error) { return nil, nil }
	failed := "failed"
	function := func(id string, opts ...FunctionOption) func(*Client) error {
		return func(c *Client) error { _, err := c.HandleFunc(id, handler, opts...); return err }
	}
	invoked := func(cfg HTTPInvocationConfig) func(*Client) error {
		return func(c *Client) error { _, err := c.HandleHTTPInvoked("f", cfg); return err }
	}
	served := func(method, path string) func(*Client) error {
		return func(c *Client) error { _, err := HandleHTTP(c, method, path, route); return err }
	}
	trigger := func(cfg TriggerConfig, opts ...TriggerOption) func(*Client) error {
		return func(c *Client) error { _, err := c.Trigger("f", cfg, opts...); return err }
	}
	provided := func(t TriggerType, p TriggerProvider) func(*Client) error {
		return func(c *Client) error { return c.HandleTriggerType(t, p) }
	}
	large := strings.Repeat("x", messageTooLarge)
	const url = "https://example.com/hook"
	for _, test := range []struct {
		name string
		do   func(*Client) error
		want string
	}{
		{"blank id", function(" "), "blank function id"},
		{"no handler", func(c *Client) error { _, err := c.HandleFunc("f", nil); return err }, "nil handler"},
		{"no typed handler", func(c *Client) error { _, err := Handle[int, int](c, "f", nil); return err }, "nil handler"},
		{"no HTTP handler", func(c *Client) error { _, err := HandleHTTP[int, int](c, "GET", "/", nil); return err }, "nil handler"},
		{"no net/http handler", func(c *Client) error { _, err := c.MountHTTP("GET", "/", nil); return err }, "nil handler"},
		{"no option", function("f", nil), "nil FunctionOption"},
		{"metadata that does not encode", function("f", WithFunctionMetadata(func() {})), "WithFunctionMetadata"},
		{"schema that does not encode", function("f", WithSchemas(nil, func() {})), "WithSchemas"},
		{"schema that is a text", function("f", WithSchemas("object", nil)), "a JSON Schema is an object or a boolean"},
		{"too large", function("f", WithFunctionDescription(large)), ErrMessageTooLarge.Error()},

		{"no URL", invoked(HTTPInvocationConfig{}), "is not an http or https address"},
		{"URL of another scheme", invoked(HTTPInvocationConfig{URL: "ftp://example.com"}), "is not an http or https address"},
		{"unknown method", invoked(HTTPInvocationConfig{URL: url, Method: "HEAD"}), `method "HEAD"`},
		{"no secret", invoked(HTTPInvocationConfig{URL: url, Auth: &HTTPAuthConfig{Auth: HTTPAuthHMAC{}}}), "HTTPAuthHMAC has no SecretKey"},
		{"no token", invoked(HTTPInvocationConfig{URL: url, Auth: &HTTPAuthConfig{Auth: HTTPAuthBearer{TokenKey: " "}}}), "HTTPAuthBearer has no TokenKey"},
		{"no header", invoked(HTTPInvocationConfig{URL: url, Auth: &HTTPAuthConfig{Auth: HTTPAuthAPIKey{ValueKey: "K"}}}), "HTTPAuthAPIKey has no Header"},
		{"no key", invoked(HTTPInvocationConfig{URL: url, Auth: &HTTPAuthConfig{Auth: HTTPAuthAPIKey{Header: "X"}}}), "HTTPAuthAPIKey has no ValueKey"},
		{"no kind of auth", invoked(HTTPInvocationConfig{URL: url, Auth: &HTTPAuthConfig{}}), "HTTPAuthConfig"},

		{"HTTP method", served("FETCH", "/"), `method "FETCH"`},
		{"no path", served("GET", ""), "no path"},
		{"path with a query", served("GET", "/a?b"), "a character that is not allowed in a path"},
		{"wildcard", served("GET", "/a/*"), "is a wildcard"},
		{"braces", served("GET", "/{id}"), "is a wildcard"},
		{"parameter without a name", served("GET", "/:"), "without a name"},
		{"parameter twice", served("GET", "/:a/:a"), "twice"},

		{"no function", func(c *Client) error { _, err := c.Trigger(" ", CronTriggerConfig{}); return err }, "blank function id"},
		{"no config", trigger(nil), "nil TriggerConfig"},
		{"config that is nil", trigger((*CronTriggerConfig)(nil)), "nil *iii.CronTriggerConfig"},
		{"no trigger option", trigger(StateTriggerConfig{}, nil), "nil TriggerOption"},
		{"blank trigger id", trigger(StateTriggerConfig{}, WithTriggerID("")), "WithTriggerID"},
		{"trigger id, text", trigger(StateTriggerConfig{}, WithTriggerID("a\xff")), "not valid UTF-8"},
		{"blank namespace", trigger(StateTriggerConfig{}, WithTriggerNamespace(" ")), "WithTriggerNamespace"},
		{"blank provider namespace", trigger(StateTriggerConfig{}, WithTriggerProviderNamespace("")), "WithTriggerProviderNamespace"},
		{"trigger metadata", trigger(StateTriggerConfig{}, WithTriggerMetadata(func() {})), "WithTriggerMetadata"},
		{"no stream", trigger(StreamTriggerConfig{}), "no StreamName"},
		{"by pointer", trigger(&StreamTriggerConfig{}), "no StreamName"},
		{"five fields", trigger(CronTriggerConfig{Expression: "* * * * *"}), "it has 5"},
		{"no expression", trigger(CronTriggerConfig{}), "it has 0"},
		{"log level", trigger(LogTriggerConfig{Level: "warning"}), `log level "warning"`},
		{"trace status", trigger(TraceTriggerConfig{Status: &failed}), `trace status "failed"`},
		{"no durable topic", trigger(QueueTriggerConfig{}), "QueueTriggerConfig has no Topic"},
		{"no topic", trigger(SubscribeTriggerConfig{}), "SubscribeTriggerConfig has no Topic"},
		{"route of a trigger", trigger(HTTPTriggerConfig{APIPath: "/*"}), "is a wildcard"},
		{"configuration event", trigger(ConfigurationTriggerConfig{EventTypes: []ConfigurationEventType{"updated"}}), `configuration event "updated"`},
		{"no stream, of any type", trigger(CustomTrigger{Type: "stream", Config: map[string]any{"stream_name": nil}}), "no stream_name"},
		{"no stream, nor config", trigger(CustomTrigger{Type: "stream"}, WithTriggerProviderNamespace("default")), "no stream_name"},
		{"route of any type", trigger(CustomTrigger{Type: "http", Config: json.RawMessage(`{"api_path":"a/*rest"}`)}), "is a wildcard"},
		{"no type", trigger(CustomTrigger{}), "no Type"},
		{"config that does not encode", trigger(CustomTrigger{Type: "t", Config: func() {}}), "does not encode"},
		{"too large a trigger", trigger(CustomTrigger{Type: "t"}, WithTriggerID(large)), ErrMessageTooLarge.Error()},

		{"blank type", provided(TriggerType{ID: " "}, unboundProvider{}), "blank trigger type id"},
		{"no provider", provided(TriggerType{ID: "t"}, nil), "nil TriggerProvider"},
		{"blank namespace of a type", provided(TriggerType{ID: "t", Namespace: " "}, unboundProvider{}), "blank namespace"},
		{"schema of configs", provided(TriggerType{ID: "t", ConfigSchema: 1}, unboundProvider{}), "ConfigSchema"},
		{"schema of payloads", provided(TriggerType{ID: "t", PayloadSchema: []int{}}, unboundProvider{}), "PayloadSchema"},
		{"too large a type", provided(TriggerType{ID: "t", Description: large}, unboundProvider{}), ErrMessageTooLarge.Error()},

		{"function twice", func(c *Client) error {
			_, err1 := Handle(c, "f", typed)
			_, err2 := Handle(c, "f", typed)
			c.registry.functions, c.registry.functionByID = nil, map[string]*Function{}
			return errors.Join(err1, err2)
		}, "is registered already"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := New("ws://127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = test.do(c)
			if err == nil || !strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), strings.TrimPrefix(test.want, "iii: ")) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if test.want == ErrMessageTooLarge.Error() && !errors.Is(err, ErrMessageTooLarge) {
				t.Errorf("%v is not ErrMessageTooLarge", err)
			}
			if n := len(c.registry.types) + len(c.registry.functionByID) + len(c.registry.triggerByID) + len(c.providers.types); n != 0 {
				t.Errorf("%d registrations are left", n)
			}
		})
	}
}

// The client checks the configs of the engine's own trigger types. A type with the same name
// that a worker provides in another namespace is not checked.
func TestTriggerOfAnotherProvider(t *testing.T) {
	c, err := New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, cfg := range []CustomTrigger{{Type: "stream"}, {Type: "http", Config: map[string]string{"api_path": "/*"}}} {
		if _, err := c.Trigger("f", cfg, WithTriggerProviderNamespace("shop")); err != nil {
			t.Error(err)
		}
	}
}

// Middleware wraps every kind of handler exactly once, and the first middleware is outermost.
func TestMiddlewareOrder(t *testing.T) {
	var calls, applied []string
	named := func(name string) Middleware {
		return func(next HandlerFunc) HandlerFunc {
			applied = append(applied, name)
			return func(ctx context.Context, payload json.RawMessage) (any, error) {
				calls = append(calls, name+" in")
				out, err := next(ctx, payload)
				calls = append(calls, name+" out")
				return out, err
			}
		}
	}
	handled := func() { calls = append(calls, "handler") }
	for name, register := range map[string]func(*Client) (*Function, error){
		"untyped": func(c *Client) (*Function, error) {
			return c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { handled(); return nil, nil })
		},
		"typed": func(c *Client) (*Function, error) {
			return Handle(c, "f", func(context.Context, any) (any, error) { handled(); return nil, nil })
		},
		"HTTP": func(c *Client) (*Function, error) {
			return HandleHTTP(c, "GET", "/", func(context.Context, *HTTPRequest[any]) (*HTTPResponse[any], error) { handled(); return nil, nil })
		},
		"mounted": func(c *Client) (*Function, error) {
			return c.MountHTTP("GET", "/", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled() }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls, applied = nil, nil
			c, err := New("ws://127.0.0.1:1", WithMiddleware(named("a"), named("b")), WithMiddleware(named("c")))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			f, err := register(c)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				calls = nil
				if _, err := f.handler(t.Context(), json.RawMessage(`{"method":"GET","path":"/"}`)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"a in", "b in", "c in", "handler", "c out", "b out", "a out"}, calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff([]string{"c", "b", "a"}, applied); diff != "" {
				t.Errorf("applied (-want +got):\n%s", diff)
			}
		})
	}
	c, err := New("ws://127.0.0.1:1", WithMiddleware(func(HandlerFunc) HandlerFunc { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { return nil, nil }); err == nil {
		t.Error("middleware that returns nil: no error")
	}
}
