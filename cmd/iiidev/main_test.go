package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/environ"
)

func TestMain(m *testing.M) {
	environ.Clear()
	m.Run()
}

func noEnv(string) string { return "" }

// runProgram runs iiidev on free ports until the test ends. It returns the printed addresses
// by name.
func runProgram(t *testing.T, args ...string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		args := append([]string{"-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "127.0.0.1:0"}, args...)
		err := run(ctx, args, noEnv, in, io.Discard)
		_ = in.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	want := 4
	if slices.Contains(args, "-guard") {
		want++
	}
	addresses := map[string]string{}
	lines := bufio.NewReader(out)
	for len(addresses) < want {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("addresses: %v, %v", addresses, err)
		}
		name, url, _ := strings.Cut(line, " ")
		addresses[name] = strings.TrimSpace(url)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // keep reading, or run would block
	return addresses
}

// worker connects a client after prepare has registered its functions.
func worker(t *testing.T, url string, prepare func(c *iii.Client) error, opts ...iii.Option) (*iii.Client, error) {
	t.Helper()
	c, err := iii.New(url, append(opts, iii.WithName(t.Name()+url))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if prepare != nil {
		if err := prepare(c); err != nil {
			t.Fatal(err)
		}
	}
	return c, c.Connect(t.Context())
}

func TestRun(t *testing.T) {
	t.Setenv("IIIDEV_TEST_TOKEN", "s3cret")
	addresses := runProgram(t,
		"-queue", `jobs={"concurrency":1}`, "-stream-auth", "streams::auth", "-http-middleware", "http::gate",
		"-guard", `{"port":0,"rbac":{"auth_function_id":"gate::auth","expose_functions":[
			"match(\"open::*\")",{"metadata":{"public":true}},{"match":"shop::*","namespace":"shop"}]}}`)
	for name, scheme := range map[string]string{"workers": "ws", "http": "http", "streams": "ws", "guarded": "ws", "console": "http"} {
		if !strings.HasPrefix(addresses[name], scheme+"://127.0.0.1:") {
			t.Fatalf("addresses: %v", addresses)
		}
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `"`+r.Header.Get("Authorization")+`"`)
	}))
	defer server.Close()
	ran := make(chan string, 1)
	echo := func(_ context.Context, s string) (string, error) { return s, nil }
	own, err := worker(t, addresses["workers"], func(c *iii.Client) error {
		_, err1 := iii.Handle(c, "gate::auth", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
			if in.Headers["x-who"] != "me" {
				return iii.AuthResult{}, errors.New("who are you?")
			}
			return iii.NewAuthResult(), nil
		})
		_, err2 := iii.Handle(c, "streams::auth", func(context.Context, iii.StreamAuthInput) (iii.StreamAuthResult, error) {
			return iii.StreamAuthResult{Context: iii.JSONValue(`"known"`)}, nil
		})
		_, err3 := iii.Handle(c, "http::gate", func(_ context.Context, in map[string]any) (map[string]any, error) {
			request, _ := in["request"].(map[string]any)
			if query, _ := request["query_params"].(map[string]any); query["stop"] == nil {
				return map[string]any{"action": "continue"}, nil
			}
			return map[string]any{"action": "respond", "response": map[string]any{"status_code": 403}}, nil
		})
		_, err4 := iii.HandleHTTP(c, http.MethodGet, "/hello", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{Body: "hello"}, nil
		})
		_, err5 := iii.Handle(c, "open::echo", echo)
		_, err6 := iii.Handle(c, "closed::echo", echo)
		_, err7 := iii.Handle(c, "tagged::echo", echo, iii.WithFunctionMetadata(map[string]bool{"public": true}))
		_, err8 := iii.Handle(c, "jobs::run", func(_ context.Context, s string) (any, error) { ran <- s; return nil, nil })
		_, err9 := c.HandleHTTPInvoked("outside", iii.HTTPInvocationConfig{
			URL: server.URL, Auth: &iii.HTTPAuthConfig{Auth: iii.HTTPAuthBearer{TokenKey: "IIIDEV_TEST_TOKEN"}},
		})
		_, err10 := iii.Handle(c, "streams::join", func(_ context.Context, e iii.StreamJoinLeaveEvent) (iii.StreamJoinResult, error) {
			return iii.StreamJoinResult{Unauthorized: string(e.Context) != `"known"`}, nil
		})
		_, err11 := c.Trigger("streams::join", iii.StreamJoinTrigger{})
		return errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11)
	})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("guarded listener", func(t *testing.T) {
		var refused *iii.AuthError
		if _, err := worker(t, addresses["guarded"], nil); !errors.As(err, &refused) {
			t.Errorf("stranger: %v", err)
		}
		c, err := worker(t, addresses["guarded"], nil, iii.WithHeader(http.Header{"X-Who": {"me"}}))
		if err != nil {
			t.Fatal(err)
		}
		for id, allowed := range map[string]bool{"open::echo": true, "tagged::echo": true, "closed::echo": false} {
			if _, err := iii.Call[string](t.Context(), c, id, "x"); errors.Is(err, iii.ErrForbidden) == allowed || allowed && err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		if _, err := iii.Call[string](t.Context(), c, "shop::none", "x", iii.InNamespace("shop")); !errors.Is(err, iii.ErrFunctionNotFound) {
			t.Errorf("exposed in another namespace: %v", err)
		}
	})
	t.Run("queue", func(t *testing.T) {
		if _, err := own.Enqueue(t.Context(), "jobs", "jobs::run", "now"); err != nil {
			t.Fatal(err)
		}
		if got := <-ran; got != "now" {
			t.Errorf("job got %q", got)
		}
	})
	t.Run("secrets are of the environment", func(t *testing.T) {
		if got, err := iii.Call[string](t.Context(), own, "outside", nil); got != "Bearer s3cret" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("HTTP", func(t *testing.T) {
		got := map[string]int{}
		for _, path := range []string{"/hello?stop", "/hello", "/nowhere"} {
			response, err := http.Get(addresses["http"] + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			got[path] = response.StatusCode
		}
		if diff := cmp.Diff(map[string]int{"/hello?stop": 403, "/hello": 200, "/nowhere": 404}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("stream socket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for m, err := range iii.Subscribe(ctx, addresses["streams"], iii.StreamSubscription{SubscriptionID: "1", StreamName: "s", GroupID: "g"}) {
			if err != nil || m.Event.Type != "sync" {
				t.Errorf("got %v, %v", m, err)
			}
			break
		}
	})
}

func TestRunHTTPTimeout(t *testing.T) {
	addresses := runProgram(t, "-http-timeout", "50ms")
	_, err := worker(t, addresses["workers"], func(c *iii.Client) error {
		_, err := iii.HandleHTTP(c, http.MethodGet, "/slow", func(ctx context.Context, _ *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(addresses["http"] + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d, want %d", response.StatusCode, http.StatusGatewayTimeout)
	}
}

func TestRunWithoutQueueProvider(t *testing.T) {
	c, err := worker(t, runProgram(t, "-queue-provider=false")["workers"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enqueue(t.Context(), "default", "f", 1); !errors.Is(err, iii.ErrEnqueue) {
		t.Errorf("enqueue: %v", err)
	}
}

// Without an rbac section, everything is permitted, as on a real engine.
func TestRunGuardWithoutRBAC(t *testing.T) {
	c, err := worker(t, runProgram(t, "-guard", `{"port":0}`)["guarded"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StateScopes(t.Context()); err != nil {
		t.Errorf("call: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	taken := strings.TrimPrefix(runProgram(t)["workers"], "ws://")
	for _, test := range []struct {
		name, args, grace, want string
	}{
		{"an unknown flag", "-nosuch", "", "not defined: -nosuch"},
		{"an argument", "-listen 127.0.0.1:0 serve", "", "unexpected argument"},
		{"a queue without a config", "-queue jobs", "", "want name=config"},
		{"a queue with an unknown key", `-queue jobs={"retries":1}`, "", "unknown field \"retries\""},
		{"a queue that cannot be", `-queue jobs={"type":"fifo"}`, "", "WithQueue: jobs"},
		{"a guard that is not JSON", "-guard yes", "", "invalid character"},
		{"a guard with an unknown key", `-guard {"auth":"f"}`, "", "unknown field \"auth\""},
		{"a guard and more", `-guard {}{}`, "", "more than one value"},
		{"a filter with an unknown key", `-guard {"rbac":{"expose_functions":[{"pattern":"a"}]}}`, "", "unknown field \"pattern\""},
		{"a truncated guard", `-guard {"rbac":{`, "", "unexpected end"},
		{"a filter of nothing", `-guard {"rbac":{"expose_functions":[{}]}}`, "", "WithGuard: pattern is empty"},
		{"a middleware without an id", "-http-middleware=", "", "WithHTTPMiddleware"},
		{"a timeout of nothing", "-http-timeout 0s", "", "WithHTTPTimeout"},
		{"an address without a port", "-listen here", "", "WithAddrs"},
		{"a grace period that is not a number", "-listen 127.0.0.1:0", "soon", "III_NAMESPACE_GRACE_MS"},
		{"an unknown protocol", "-protocol 0.24", "", "want 0.23, 0.25 or 0.26"},
		{"a console for the network", "-console 0.0.0.0:0", "", "not on the loopback interface"},
		{"an exposed console without a port", "-console here -console-exposed", "", "WithExposedConsole"},
		{"a size that is no number", "-keep-messages many", "", "want a number of bytes"},
		{"a size below nothing", "-keep-telemetry -1", "", "want a number of bytes"},
		{"a size beyond numbers", "-keep-invocations 9999999999GiB", "", "want a number of bytes"},
		{"an address in use", "-listen " + taken, "", "Set other addresses"},
		{"a grace period of nothing", "-listen 127.0.0.1:0", "0", "WithNamespaceGrace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := func(name string) string {
				if name == "III_NAMESPACE_GRACE_MS" {
					return test.grace
				}
				return ""
			}
			err := run(ctx, strings.Fields(test.args), env, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestRunTakesTheProtocolFromTheEnvironment(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	env := func(name string) string { return map[string]string{"III_PROTOCOL": "0.24"}[name] }
	if err := run(ctx, nil, env, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "III_PROTOCOL") {
		t.Errorf("got %v", err)
	}
}

func TestRunBridge(t *testing.T) {
	far := runProgram(t)["workers"]
	_, err := worker(t, far, func(c *iii.Client) error {
		_, err := iii.Handle(c, "f::next", func(_ context.Context, n int) (int, error) { return n + 1, nil })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := worker(t, runProgram(t, "-bridge", far)["workers"], nil)
	if err != nil {
		t.Fatal(err)
	}
	in := iii.BridgeInvokeInput{FunctionID: "f::next", Data: iii.JSONValue("1")}
	if got, err := iii.Call[int](t.Context(), c, "bridge.invoke", in); got != 2 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]struct {
		bytes size
		text  string
	}{"0": {0, "0"}, "1500": {1500, "1500"}, "512KiB": {512 << 10, "512KiB"}, "8MiB": {8 << 20, "8MiB"}, "1024KiB": {1 << 20, "1MiB"}, "1GiB": {1 << 30, "1024MiB"}} {
		var s size
		if err := s.Set(text); err != nil || s != want.bytes || s.String() != want.text {
			t.Errorf("%s: %d, %s, %v", text, s, s.String(), err)
		}
	}
}
