package iii_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// visitor returns an HTTP client for the engine's routes.
func visitor(t *testing.T, e *iiitest.Engine) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func request(t *testing.T, e *iiitest.Engine, method, target, contentType, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.HTTPURL()+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := visitor(t, e).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// When a handler exceeds its time limit, its caller receives an error immediately. The handler
// is still counted as running until it returns.
func TestHandlerTimeout(t *testing.T) {
	const limit = 3 * time.Second
	type handler func(ctx context.Context) error
	obeys := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	ignores := func(context.Context) error { time.Sleep(10 * time.Second); return nil }
	for _, test := range []struct {
		name    string
		handler handler
		code    string        // "" for success
		after   time.Duration // when the caller receives the result
		returns time.Duration
	}{
		{"in time", func(context.Context) error { time.Sleep(limit - 1); return nil }, "", limit - 1, limit - 1},
		{"obeys its context", obeys, iii.CodeHandlerTimeout, limit, limit},
		{"ignores its context", ignores, iii.CodeHandlerTimeout, limit, 10 * time.Second},
		{"fails late", func(ctx context.Context) error { _ = ignores(ctx); return errors.New("late") }, iii.CodeHandlerTimeout, limit, 10 * time.Second},
		{"panics late", func(ctx context.Context) error { _ = ignores(ctx); panic("late") }, iii.CodeHandlerTimeout, limit, 10 * time.Second},
		{"panics in time", func(context.Context) error { panic("soon") }, iii.CodeInvocationFailed, 0, 0},
		{"fails in time", func(context.Context) error { return &iii.Error{Code: "sold_out"} }, "sold_out", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				var cause error
				var mu sync.Mutex
				var ended time.Time
				if _, err := iii.HandleEvent(c, "f", func(ctx context.Context, _ any) error {
					defer func() {
						mu.Lock()
						defer mu.Unlock()
						ended, cause = time.Now(), ctx.Err()
					}()
					return test.handler(ctx)
				}, iii.WithHandlerTimeout(limit)); err != nil {
					t.Fatal(err)
				}
				mustConnect(t, c)
				began := time.Now()
				err = c.Call(t.Context(), "f", nil, nil)
				var failure *iii.Error
				errors.As(err, &failure)
				if got := time.Since(began); got != test.after || (test.code == "") != (err == nil) || test.code != "" && (failure == nil || failure.Code != test.code) {
					t.Errorf("the call returned %v after %v, want %q after %v", err, got, test.code, test.after)
				}
				if errors.Is(err, &iii.Error{Code: iii.CodeHandlerTimeout}) && iii.SafeToRetry(err) {
					t.Error("SafeToRetry = true, but the handler has started")
				}
				synctest.Wait()
				want := 0
				if test.returns > test.after {
					want = 1
				}
				if got := c.Stats().HandlersRunning; got != want {
					t.Errorf("%d handlers are running after the reply, want %d", got, want)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if got := c.Stats().HandlersRunning; got != 0 || ended.Sub(began) != test.returns {
					t.Errorf("%d handlers are running; this one returned after %v", got, ended.Sub(began))
				}
				if late := test.code == iii.CodeHandlerTimeout; late != errors.Is(cause, context.DeadlineExceeded) {
					t.Errorf("its context: %v", cause)
				}
			})
		})
	}
}

// Shutdown waits for a handler that is still running even if its caller has already received a
// timeout error.
func TestDrainWaitsForHandlersThatTimedOut(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		release := make(chan struct{})
		if _, err := iii.HandleEvent(c, "f", func(context.Context, any) error { <-release; return nil }, iii.WithHandlerTimeout(time.Second)); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		if err := c.Call(t.Context(), "f", nil, nil); !errors.Is(err, &iii.Error{Code: iii.CodeHandlerTimeout}) {
			t.Fatal(err)
		}
		drained := make(chan error, 1)
		go func() { drained <- c.Shutdown(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-drained:
			t.Fatal("Shutdown returned too early:", err)
		default:
		}
		close(release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// When a route's handler exceeds its time limit, the response has status 504. If the header
// has already been sent, the response is truncated.
func TestRouteHandlerTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		limit := iii.WithHandlerTimeout(2 * time.Second)
		if _, err := iii.HandleHTTP(c, "GET", "/typed", func(ctx context.Context, _ *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) {
			time.Sleep(5 * time.Second)
			return nil, ctx.Err()
		}, limit); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 3)
		mount := func(path string, h http.HandlerFunc) {
			if _, err := c.MountHTTP("GET", path, h, limit); err != nil {
				t.Fatal(err)
			}
		}
		mount("/silent", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Second)
			_, err := io.WriteString(w, "late")
			errs <- err
		})
		mount("/kept", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "not flushed")
			<-r.Context().Done()
			errs <- http.NewResponseController(w).Flush()
		})
		mount("/streamed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Second)
			_, err := io.WriteString(w, "late")
			errs <- err
		})
		mustConnect(t, c)
		for _, path := range []string{"/typed", "/silent", "/kept"} {
			began := time.Now()
			status, body, _ := request(t, e, "GET", path, "", "")
			if status != http.StatusGatewayTimeout || !strings.Contains(body, `"code":"handler_timeout"`) || time.Since(began) != 2*time.Second {
				t.Errorf("%s: %d %s after %v", path, status, body, time.Since(began))
			}
		}
		began := time.Now()
		resp, err := visitor(t, e).Get(e.HTTPURL() + "/streamed")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "begun" || err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("/streamed: %d %q, %v, after %v; want a truncated response", resp.StatusCode, body, err, time.Since(began))
		}
		for range 3 {
			if err := <-errs; err == nil {
				t.Error("a late write succeeded")
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := c.Stats().HandlersRunning; n != 0 {
			t.Errorf("%d handlers run", n)
		}
	})
}

// lateWrites delays the return of each Write that begins with a binary frame, after the frame
// has been sent.
type lateWrites struct {
	net.Conn
	delay time.Duration
}

func (c lateWrites) Write(p []byte) (int, error) {
	const finalBinary = 0x82
	n, err := c.Conn.Write(p)
	if len(p) > 0 && p[0] == finalBinary {
		time.Sleep(c.delay)
	}
	return n, err
}

// If a route's time limit passes while the first frame of its response is being written, the
// response is truncated as soon as the frame has been written, even if the handler does not
// return.
func TestRouteHandlerTimeoutDuringFirstFrame(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e, iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := e.DialContext(ctx, network, addr)
			return lateWrites{conn, 3 * time.Second}, err
		}))
		errs := make(chan error, 1)
		if _, err := c.MountHTTP("GET", "/late", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "begun")
			errs <- http.NewResponseController(w).Flush()
			time.Sleep(time.Minute)
		}), iii.WithHandlerTimeout(2*time.Second)); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		began := time.Now()
		resp, err := visitor(t, e).Get(e.HTTPURL() + "/late")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if took := time.Since(began); resp.StatusCode != 200 || string(body) != "begun" || err == nil || took != 3*time.Second {
			t.Errorf("%d %q, %v, after %v; want a response truncated after 3s", resp.StatusCode, body, err, took)
		}
		if err := <-errs; !errors.Is(err, &iii.Error{Code: iii.CodeHandlerTimeout}) {
			t.Errorf("Flush = %v", err)
		}
		time.Sleep(time.Minute) // until the handler has returned
	})
}

// A function's middleware runs inside the client's middleware.
func TestFunctionMiddleware(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	named := func(name string) iii.Middleware {
		return func(next iii.HandlerFunc) iii.HandlerFunc {
			return func(ctx context.Context, payload json.RawMessage) (any, error) {
				mu.Lock()
				calls = append(calls, name)
				mu.Unlock()
				return next(ctx, payload)
			}
		}
	}
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithMiddleware(named("client")))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		handle(t, c, "with", func(context.Context, any) (any, error) { return nil, nil }, iii.WithFunctionMiddleware(named("a"), named("b")), iii.WithFunctionMiddleware(named("c")))
		handle(t, c, "without", func(context.Context, any) (any, error) { return nil, nil })
		mustConnect(t, c)
		for _, id := range []string{"with", "without"} {
			if err := c.Call(t.Context(), id, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"client", "a", "b", "c", "client"}, calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// Registration rejects invalid and reserved ids, options that have no effect, and types that
// cannot be decoded from JSON.
func TestInvalidRegistrations(t *testing.T) {
	nothing := func(context.Context, json.RawMessage) (any, error) { return nil, nil }
	id := func(id string, opts ...iii.FunctionOption) func(*iii.Client) error {
		return func(c *iii.Client) error { _, err := c.HandleFunc(id, nothing, opts...); return err }
	}
	route := func(opts ...iii.FunctionOption) func(*iii.Client) error {
		return func(c *iii.Client) error {
			_, err := iii.HandleHTTP(c, "GET", "/a", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, nil }, opts...)
			return err
		}
	}
	invoked := func(opts ...iii.FunctionOption) func(*iii.Client) error {
		return func(c *iii.Client) error {
			_, err := c.HandleHTTPInvoked("f", iii.HTTPInvocationConfig{URL: "https://example.com"}, opts...)
			return err
		}
	}
	trigger := func(cfg iii.TriggerConfig, opts ...iii.TriggerOption) func(*iii.Client) error {
		return func(c *iii.Client) error { _, err := c.Trigger("f", cfg, opts...); return err }
	}
	type holder struct {
		Inner []struct {
			Done chan int `json:"done"`
		} `json:"inner"`
	}
	type hides struct {
		Log  func() `json:"-"`
		done chan int
		N    int
	}
	identity := func(next iii.HandlerFunc) iii.HandlerFunc { return next }
	for _, test := range []struct {
		name string
		do   func(*iii.Client) error
		want string // "" for success
	}{
		{"space", id("a b"), "the id has a space"},
		{"space at the end", id("a::b "), "the id has a space"},
		{"no-break space", id("a\u00a0b"), "the id has a space"},
		{"line separator", id("a\u2028b"), "the id has a space"},
		{"newline", id("a\n"), "the id has a space"},
		{"control character", id("a\x00b"), "the id has a control character"},
		{"zero-width space", id("a\u200bb"), "the id has an invisible character"},
		{"byte order mark", id("\ufeffa"), "the id has an invisible character"},
		{"right-to-left override", id("a\u202eb"), "the id has an invisible character"},
		{"delete", id("a\x7f"), "the id has a control character"},
		{"no UTF-8", id("a\xff"), "the id is not valid UTF-8"},
		{"other scripts", id("заказы::создать-注文"), ""},

		{"state", id("state::set"), "WithBuiltinOverride"},
		{"stream", id("stream::get(orders)"), "WithBuiltinOverride"},
		{"unknown of the engine's", id("engine::whatever"), "WithBuiltinOverride"},
		{"durable", id("iii::durable::publish"), "WithBuiltinOverride"},
		{"configuration", id("configuration::get"), "WithBuiltinOverride"},
		{"publish", id("publish"), "WithBuiltinOverride"},
		{"bridge", id("bridge.invoke_async"), "WithBuiltinOverride"},
		{"of a typed function", func(c *iii.Client) error {
			_, err := iii.Handle(c, "state::get", func(context.Context, any) (any, error) { return nil, nil })
			return err
		}, "WithBuiltinOverride"},
		{"of a function over HTTP", func(c *iii.Client) error {
			_, err := c.HandleHTTPInvoked("state::get", iii.HTTPInvocationConfig{URL: "https://example.com"})
			return err
		}, "WithBuiltinOverride"},
		{"override", id("state::set", iii.WithBuiltinOverride()), ""},
		{"a space in spite of it", id("state:: set", iii.WithBuiltinOverride()), "the id has a space"},
		{"another case", id("State::set"), ""},
		{"another service", id("states::set"), ""},
		{"no service", id("state"), ""},
		{"publish of a service", id("publish::all"), ""},
		{"http, cron and queue", func(c *iii.Client) error {
			return errors.Join(id("http::x")(c), id("cron::x")(c), id("queue::x")(c))
		}, ""},
		{"streams", func(c *iii.Client) error { return c.HandleStream("my stream", &shelf{}) }, ""},

		{"channel in", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(context.Context, chan int) (int, error) { return 0, nil })
			return err
		}, "argument: chan int has no JSON encoding"},
		{"function out", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(context.Context, int) (func(), error) { return nil, nil })
			return err
		}, "result: func() has no JSON encoding"},
		{"channel within", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(context.Context, holder) (int, error) { return 0, nil })
			return err
		}, "argument: chan int has no JSON encoding, at inner[].done"},
		{"map of functions", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(context.Context, int) (map[string]func(), error) { return nil, nil })
			return err
		}, "result: func() has no JSON encoding, at [] of map[string]func()"},
		{"channel in elements", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(context.Context, []map[string]struct{ C chan int }) (int, error) { return 0, nil })
			return err
		}, "argument: chan int has no JSON encoding, at [][].C of []map[string]struct { C chan int }"},
		{"channel of an event", func(c *iii.Client) error {
			_, err := iii.HandleEvent(c, "f", func(context.Context, <-chan int) error { return nil })
			return err
		}, "argument: <-chan int has no JSON encoding"},
		{"channel in a body", func(c *iii.Client) error {
			_, err := iii.HandleHTTP(c, "GET", "/", func(context.Context, *iii.HTTPRequest[*chan int]) (*iii.HTTPResponse[int], error) { return nil, nil })
			return err
		}, "argument: chan int has no JSON encoding"},
		{"function in a response", func(c *iii.Client) error {
			_, err := iii.HandleHTTP(c, "GET", "/", func(context.Context, *iii.HTTPRequest[int]) (*iii.HTTPResponse[[]func()], error) { return nil, nil })
			return err
		}, "result: func() has no JSON encoding"},
		{"hidden ones", func(c *iii.Client) error {
			_, err := iii.Handle(c, "f", func(_ context.Context, h hides) (hides, error) { _ = h.done; return h, nil })
			return err
		}, ""},
		{"no event handler", func(c *iii.Client) error { _, err := iii.HandleEvent[int](c, "f", nil); return err }, "nil handler"},

		{"no time", id("f", iii.WithHandlerTimeout(0)), "WithHandlerTimeout: 0s is not positive"},
		{"nil middleware", id("f", iii.WithFunctionMiddleware(nil)), "WithFunctionMiddleware: argument 0 is nil"},
		{"middleware that returns nil", id("f", iii.WithFunctionMiddleware(func(iii.HandlerFunc) iii.HandlerFunc { return nil })), "function middleware 0 returned nil"},
		{"trigger options of no trigger", id("f", iii.WithTriggerOptions(iii.WithTriggerMetadata(1))), "WithTriggerOptions: no trigger"},
		{"no trigger options of no trigger", id("f", iii.WithTriggerOptions()), ""},
		{"nil trigger option", route(iii.WithTriggerOptions(nil)), "WithTriggerOptions: argument 0 is nil"},
		{"bad trigger option", route(iii.WithTriggerOptions(iii.WithTriggerID(" "))), "WithTriggerID: blank id"},
		{"route to another namespace", route(iii.WithTriggerOptions(iii.WithTriggerNamespace("blue"))), `the function is in namespace "default"`},
		{"route to its own namespace", route(iii.WithTriggerOptions(iii.WithTriggerNamespace("default"))), ""},
		{"time limit over HTTP", invoked(iii.WithHandlerTimeout(1)), "WithHandlerTimeout: the engine runs the function over HTTP"},
		{"middleware over HTTP", invoked(iii.WithFunctionMiddleware(identity)), "WithFunctionMiddleware: the engine runs"},
		{"validation over HTTP", invoked(iii.WithInputValidation()), "WithInputValidation: the engine runs"},

		{"blank condition", trigger(iii.StateTriggerConfig{}, iii.WithTriggerCondition(" ")), "WithTriggerCondition: blank"},
		{"two conditions", trigger(iii.StateTriggerConfig{}, iii.WithTriggerCondition("a"), iii.WithTriggerCondition("b")), "one condition"},
		{"a condition in the config", trigger(iii.StateTriggerConfig{ConditionFunctionID: "a"}, iii.WithTriggerCondition("b")), "the config names \"a\""},
		{"the same condition", trigger(iii.StateTriggerConfig{ConditionFunctionID: "a"}, iii.WithTriggerCondition("a")), ""},
		{"condition that is ignored", trigger(iii.SubscribeTriggerConfig{Topic: "t"}, iii.WithTriggerCondition("a")), "does not evaluate conditions of triggers of type subscribe"},
		{"condition of joins", trigger(iii.StreamJoinTrigger{}, iii.WithTriggerCondition("a")), "does not evaluate conditions"},
		{"condition of a config that is a list", trigger(iii.CustomTrigger{Type: "t", Config: []int{}}, iii.WithTriggerCondition("a")), "a config that is an object"},
		{"condition of a custom type", trigger(iii.CustomTrigger{Type: "t"}, iii.WithTriggerCondition("a")), ""},
		{"blank middleware", trigger(iii.HTTPTriggerConfig{APIPath: "/"}, iii.WithTriggerMiddleware("a", "")), "WithTriggerMiddleware: argument 1"},
		{"middleware of cron", trigger(iii.CronTriggerConfig{Expression: "@daily"}, iii.WithTriggerMiddleware("a")), "only http does"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := iii.New("ws://127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = test.do(c)
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), test.want) || strings.Count(err.Error(), "iii: ") > 1) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A route's condition and middleware functions are called by the engine, not by the worker
// that serves the route.
func TestRouteTriggerOptions(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		handle(t, c, "is-open", func(_ context.Context, r iii.HTTPRequest[any]) (bool, error) {
			return r.QueryParams["open"] == "1", nil
		})
		handle(t, c, "gate", func(_ context.Context, in iii.HTTPMiddlewareInput) (iii.HTTPMiddlewareResult, error) {
			if in.Request.Headers["authorization"] == "" {
				return iii.HTTPMiddlewareResult{Action: iii.HTTPMiddlewareActionRespond, Response: &iii.HTTPMiddlewareResponse{StatusCode: 401}}, nil
			}
			return iii.HTTPMiddlewareResult{Action: iii.HTTPMiddlewareActionContinue}, nil
		})
		options := iii.WithTriggerOptions(iii.WithTriggerCondition("is-open"), iii.WithTriggerMiddleware("gate"), iii.WithTriggerMetadata("m"))
		if _, err := iii.HandleHTTP(c, "GET", "/typed", func(ctx context.Context, _ *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			inv, _ := iii.InvocationFromContext(ctx)
			return &iii.HTTPResponse[string]{StatusCode: 200, Body: string(inv.Metadata)}, nil
		}, options); err != nil {
			t.Fatal(err)
		}
		if _, err := c.MountHTTP("GET", "/mounted", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), options, iii.WithTriggerOptions(iii.WithTriggerID("mounted"))); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		for _, path := range []string{"/typed", "/mounted"} {
			for _, test := range []struct {
				method, query, auth string
				status              int
			}{{"GET", "", "x", 422}, {"GET", "?open=1", "", 401}, {"GET", "?open=1", "x", 200}, {"HEAD", "", "x", 422}} {
				if path == "/typed" && test.method == "HEAD" {
					continue
				}
				req, err := http.NewRequestWithContext(t.Context(), test.method, e.HTTPURL()+path+test.query, nil)
				if err != nil {
					t.Fatal(err)
				}
				if test.auth != "" {
					req.Header.Set("Authorization", test.auth)
				}
				resp, err := visitor(t, e).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != test.status {
					t.Errorf("%s %s%s with %q: %d, want %d", test.method, path, test.query, test.auth, resp.StatusCode, test.status)
				}
			}
		}
		var ids []string
		for id := range bound(t, e, c) {
			if strings.HasPrefix(id, "mounted") {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		if diff := cmp.Diff([]string{"mounted", "mounted:head"}, ids); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
	})
}

// An HTTPError determines the response. For any other error, the response does not contain the
// error text.
func TestRouteErrors(t *testing.T) {
	mapped := errors.New("no rows")
	for _, test := range []struct {
		name   string
		err    error
		status int
		body   string
		header http.Header
		code   string // error code, if the status is 500
		text   string // error message, if the status is 500
	}{
		{name: "body", err: &iii.HTTPError{Status: 409, Body: map[string]int{"version": 3}}, status: 409, body: `{"version":3}`},
		{name: "no body", err: &iii.HTTPError{Status: 404}, status: 404, body: `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`},
		{name: "a status with marks", err: &iii.HTTPError{Status: 418}, status: 418, body: `{"error":{"code":"IM_A_TEAPOT","message":"I'm a teapot"}}`},
		{name: "a status without a name", err: &iii.HTTPError{Status: 599}, status: 599, body: `{"error":{"code":"STATUS_599","message":"Status 599"}}`},
		{name: "zero", err: &iii.HTTPError{}, status: 500, body: `{"error":{"code":"INTERNAL_SERVER_ERROR","message":"Internal Server Error"}}`},
		{name: "no status", err: &iii.HTTPError{Status: 99, Body: "x"}, status: 500, body: `"x"`},
		{name: "too large a status", err: &iii.HTTPError{Status: 1000, Body: "x"}, status: 500, body: `"x"`},
		{name: "informational", err: &iii.HTTPError{Status: 103, Body: "x"}, status: 500, body: `"x"`},
		{name: "no content", err: &iii.HTTPError{Status: 204, Body: "x"}, status: 204},
		{name: "text", err: &iii.HTTPError{Status: 400, Body: "no", Header: http.Header{"Content-Type": {"text/plain"}}}, status: 400, body: "no"},
		{name: "headers", err: &iii.HTTPError{Status: 401, Body: 1, Header: http.Header{"Www-Authenticate": {"Basic", "Bearer"}, "X": {"a\r\nb"}, "Content-Length": {"7"}, "b d": {"x"}}},
			status: 401, body: "1", header: http.Header{"Www-Authenticate": {"Basic", "Bearer"}, "X": {"a  b"}}},
		{name: "redirect", err: &iii.HTTPError{Status: 303, Header: http.Header{"Location": {"/elsewhere"}}}, status: 303, header: http.Header{"Location": {"/elsewhere"}}, body: `{"error":{"code":"SEE_OTHER","message":"See Other"}}`},
		{name: "wrapped", err: errors.Join(io.EOF, &iii.HTTPError{Status: 410, Body: 1}), status: 410, body: "1"},
		{name: "beside an Error", err: errors.Join(&iii.Error{Code: "c"}, &iii.HTTPError{Status: 410, Body: 1}), status: 410, body: "1"},
		{name: "mapped", err: mapped, status: 404, body: `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`},
		{name: "Error", err: &iii.Error{Code: "locked", Message: "being packed"}, status: 500, code: "locked", text: "being packed"},
		{name: "an Error that is mapped", err: &iii.Error{Code: "no_such_order"}, status: 404, body: `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`},
		{name: "another", err: errors.New("password hunter2 is wrong"), status: 500, code: "invocation_failed", text: "internal error"},
		{name: "of a callee", err: &iii.Error{Code: "overloaded", Message: "m"}, status: 500, code: "invocation_failed", text: "overloaded: m"},
		{name: "a body that does not encode", err: &iii.HTTPError{Status: 400, Body: func() {}}, status: 500, code: "invocation_failed", text: "internal error"},
		{name: "nil", err: (*iii.HTTPError)(nil), status: 500, code: "invocation_failed", text: "internal error"},
	} {
		for _, where := range []string{"handler", "middleware", "mounted"} {
			t.Run(test.name+" of a "+where, func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					var log lockedBuffer
					c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
						iii.WithHTTPErrors(func(ctx context.Context, err error) *iii.HTTPError {
							if _, ok := iii.InvocationFromContext(ctx); !ok {
								t.Error("the context is not that of the handler")
							}
							if errors.Is(err, mapped) || errors.Is(err, &iii.Error{Code: "no_such_order"}) {
								return &iii.HTTPError{Status: 404}
							}
							return nil
						}))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					var opts []iii.FunctionOption
					failure := test.err
					if where != "handler" {
						failure = nil
						opts = append(opts, iii.WithFunctionMiddleware(func(iii.HandlerFunc) iii.HandlerFunc {
							return func(context.Context, json.RawMessage) (any, error) { return nil, test.err }
						}))
					}
					if where == "mounted" {
						_, err = c.MountHTTP("GET", "/x", http.NotFoundHandler(), opts...)
					} else {
						_, err = iii.HandleHTTP(c, "GET", "/x", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, failure }, opts...)
					}
					if err != nil {
						t.Fatal(err)
					}
					mustConnect(t, c)
					client := visitor(t, e)
					client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
					resp, err := client.Get(e.HTTPURL() + "/x")
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					raw, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					body := string(raw)
					if resp.StatusCode != test.status {
						t.Errorf("%d %s, want %d", resp.StatusCode, body, test.status)
					}
					for name, values := range test.header {
						if diff := cmp.Diff(values, resp.Header[name]); diff != "" {
							t.Errorf("%s (-want +got):\n%s", name, diff)
						}
					}
					if test.code == "" {
						if body != test.body {
							t.Errorf("body %s, want %s", body, test.body)
						}
						return
					}
					var failed struct{ Error iii.ErrorBody }
					if err := json.Unmarshal(raw, &failed); err != nil || failed.Error.Code != test.code || failed.Error.Message != test.text {
						t.Errorf("%s, want %s: %s", body, test.code, test.text)
					}
					if test.text == "internal error" && !strings.Contains(log.String(), "level=ERROR") {
						t.Errorf("the error is not in the log: %s", log.String())
					}
				})
			})
		}
	}
	if _, err := iii.New("ws://127.0.0.1:1", iii.WithHTTPErrors(nil)); err == nil {
		t.Error("WithHTTPErrors(nil): no error")
	}
}

// Outside a route, an HTTPError is an ordinary error.
func TestHTTPErrorOutsideRoute(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		handle(t, c, "f", func(context.Context, any) (any, error) { return nil, &iii.HTTPError{Status: 404, Body: "s3cret"} })
		err := c.Call(t.Context(), "f", nil, nil)
		var failure *iii.Error
		if !errors.As(err, &failure) || failure.Code != iii.CodeInvocationFailed || !strings.Contains(failure.Message, "HTTP response 404 Not Found") || strings.Contains(failure.Message, "s3cret") {
			t.Error(err)
		}
	})
}

// A typed route's handler receives decoded path parameters, as a mounted handler does.
func TestPathParametersAreDecoded(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		got := make(chan string, 1)
		if _, err := iii.HandleHTTP(c, "GET", "/items/:id/:part", func(_ context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) {
			got <- r.PathParams["id"] + "|" + r.PathParams["part"]
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		for path, want := range map[string]string{
			"/items/a%20b/c%2Fd": "a b|c/d", "/items/caf%C3%A9/%25": "café|%", "/items/a+b/x": "a+b|x", "/items/%3A/1": ":|1",
		} {
			if status, body, _ := request(t, e, "GET", path, "", ""); status != 204 {
				t.Errorf("%s: %d %s", path, status, body)
			} else if value := <-got; value != want {
				t.Errorf("%s: %q, want %q", path, value, want)
			}
		}
		// The engine leaves invalid percent-encoding as it is.
		var answer struct {
			StatusCode int `json:"status_code"`
			Body       json.RawMessage
		}
		if err := c.Call(t.Context(), "http::GET/items/:id/:part", map[string]any{"path_params": map[string]string{"id": "%zz"}}, &answer); err != nil || answer.StatusCode != 400 || !strings.Contains(string(answer.Body), "path_params.id") {
			t.Errorf("%+v %s, %v", answer, answer.Body, err)
		}
	})
}

const hmacSecret = "s3cret" // the secret used in the recording

// recordedRequests returns the HTTP requests recorded from a real engine, and their bodies.
func recordedRequests(t *testing.T) (requests []*http.Request, bodies [][]byte) {
	t.Helper()
	for _, e := range readRecording(t, "http-functions") {
		if e.Received == nil {
			continue
		}
		var in struct {
			Method, Path, Body string
			Headers            map[string]string
		}
		if err := json.Unmarshal(e.Received, &in); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(in.Method, in.Path, strings.NewReader(in.Body))
		for name, value := range in.Headers {
			r.Header.Set(name, value)
		}
		requests, bodies = append(requests, r), append(bodies, []byte(in.Body))
	}
	return requests, bodies
}

// runAt runs a test in a synctest bubble whose clock has been advanced to the given moment.
func runAt(t *testing.T, moment time.Time, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(moment))
		test(t)
	})
}

func TestVerifySignatureAsRecorded(t *testing.T) {
	requests, bodies := recordedRequests(t)
	signed := 0
	for i, r := range requests {
		stamp, err := strconv.ParseInt(r.Header.Get("x-iii-timestamp"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sent := time.Unix(stamp, 0)
		body := bodies[i]
		if r.URL.Path != "/hmac" {
			runAt(t, sent, func(t *testing.T) {
				if err := iii.VerifySignature(r, body, hmacSecret, time.Minute); !errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), "X-Iii-Signature is missing") {
					t.Errorf("%s: %v", r.URL.Path, err)
				}
			})
			continue
		}
		signed++
		for _, tt := range []struct {
			now  time.Duration // time since the request was sent
			want string
		}{
			{0, ""}, {time.Minute, ""}, {-time.Minute, ""},
			{61 * time.Second, "X-Iii-Timestamp is 1m1s away from now, more than 1m0s"}, {-61 * time.Second, "1m1s away"}, {24 * time.Hour, "24h0m0s away"},
		} {
			runAt(t, sent.Add(tt.now), func(t *testing.T) {
				err := iii.VerifySignature(r, body, hmacSecret, time.Minute)
				if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v after: %v", tt.now, err)
				}
			})
		}
	}
	if signed != 1 || len(requests) < 10 {
		t.Errorf("%d of %d requests are signed", signed, len(requests))
	}
}

// sign computes the signature that the engine sends.
func sign(body []byte, stamp, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s:%s", stamp, base64.StdEncoding.EncodeToString(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestVerifySignatureRefuses(t *testing.T) {
	body := []byte(`{"n":1}`)
	now := strconv.FormatInt(time.Now().Unix(), 10)
	good := http.Header{"X-Iii-Signature": {sign(body, now, hmacSecret)}, "X-Iii-Timestamp": {now}}
	tests := map[string]struct {
		change func(h http.Header)
		body   string
		secret string
		window time.Duration
		want   string // "" for success
	}{
		"good":       {},
		"empty body": {change: func(h http.Header) { h.Set("X-Iii-Signature", sign(nil, now, hmacSecret)) }, body: "-"},
		"other case": {change: func(h http.Header) {
			h.Set("x-iii-signature", "sha256="+strings.ToUpper(sign(body, now, hmacSecret)[7:]))
		}},
		"other body":       {body: `{"n":2}`, want: "does not match the body"},
		"other secret":     {secret: "another", want: "does not match the body"},
		"other time":       {change: func(h http.Header) { h.Set("X-Iii-Timestamp", now+"0") }, want: "does not match the body"},
		"empty secret":     {secret: "-", want: "the secret is empty"},
		"no window":        {window: -1, want: "is not positive"},
		"no signature":     {change: func(h http.Header) { h.Del("X-Iii-Signature") }, want: "X-Iii-Signature is missing"},
		"two signatures":   {change: func(h http.Header) { h.Add("X-Iii-Signature", "sha256=00") }, want: "X-Iii-Signature occurs 2 times"},
		"no time":          {change: func(h http.Header) { h.Del("X-Iii-Timestamp") }, want: "X-Iii-Timestamp is missing"},
		"two times":        {change: func(h http.Header) { h.Add("X-Iii-Timestamp", now) }, want: "X-Iii-Timestamp occurs 2 times"},
		"time is no time":  {change: func(h http.Header) { h.Set("X-Iii-Timestamp", "yesterday") }, want: "not a Unix time"},
		"time is too long": {change: func(h http.Header) { h.Set("X-Iii-Timestamp", "99999999999999999999") }, want: "not a Unix time"},
		"far future": {change: func(h http.Header) {
			h.Set("X-Iii-Timestamp", "9223372036854775807")
			h.Set("X-Iii-Signature", sign(body, "9223372036854775807", hmacSecret))
		}, want: "away from now"},
		"far past": {change: func(h http.Header) {
			h.Set("X-Iii-Timestamp", "-9223372036854775808")
			h.Set("X-Iii-Signature", sign(body, "-9223372036854775808", hmacSecret))
		}, want: "away from now"},
		"other scheme": {change: func(h http.Header) { h.Set("X-Iii-Signature", "md5=00") }, want: "sha256=<hex>"},
		"no hex":       {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=zz") }, want: "sha256=<hex>"},
		"short":        {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=00") }, want: "does not match the body"},
		"empty":        {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=") }, want: "does not match the body"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
			r.Header = good.Clone()
			if tt.change != nil {
				tt.change(r.Header)
			}
			payload, secret, window := body, hmacSecret, time.Minute
			switch tt.body {
			case "":
			case "-":
				payload = nil
			default:
				payload = []byte(tt.body)
			}
			switch tt.secret {
			case "":
			case "-":
				secret = ""
			default:
				secret = tt.secret
			}
			if tt.window != 0 {
				window = 0
			}
			err := iii.VerifySignature(r, payload, secret, window)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v", err)
			case err != nil && (strings.Contains(err.Error(), secret) && secret != "" || strings.Contains(err.Error(), r.Header.Get("X-Iii-Signature")) && r.Header.Get("X-Iii-Signature") != ""):
				t.Errorf("the error contains the secret or the signature: %v", err)
			}
		})
	}
}
