package iii_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// shopMux returns a ServeMux whose handlers report which pattern matched.
func shopMux() *http.ServeMux {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s [%s|%s|%s] %s", r.Method, r.URL.Path, r.Pattern, r.PathValue("id"), r.PathValue("rest"), body)
	}
	mux.HandleFunc("GET /shop", say)
	mux.HandleFunc("GET /shop/{$}", say)
	mux.HandleFunc("GET /shop/items/{id}", say)
	mux.HandleFunc("POST /shop/items/{id}", say)
	mux.HandleFunc("DELETE /shop/files/{rest...}", say)
	return mux
}

// A router receives all requests below its prefix, up to its depth.
func TestRouterServesAPrefix(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		router, err := c.MountRouter("/shop", shopMux(), iii.RouterOptions{Depth: 3})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := iii.HandleHTTP(c, "GET", "/shop/health", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{StatusCode: 200, Body: "well"}, nil
		}); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, c)
		if err := errors.Join(router.Err(), c.Ready()); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			method, target, body string
			status               int
			want                 string
		}{
			{"GET", "/shop", "", 200, "GET /shop [GET /shop||] "},
			{"GET", "/shop/", "", 200, "GET /shop/ [GET /shop/{$}||] "},
			{"GET", "/shop/items/7?q=1", "", 200, "GET /shop/items/7 [GET /shop/items/{id}|7|] "},
			{"GET", "/shop/items/a%2Fb%20c", "", 200, "GET /shop/items/a/b c [GET /shop/items/{id}|a/b c|] "},
			{"POST", "/shop/items/7", "x=1", 200, "POST /shop/items/7 [POST /shop/items/{id}|7|] x=1"},
			{"DELETE", "/shop/files/a/b", "", 200, "DELETE /shop/files/a/b [DELETE /shop/files/{rest...}||a/b] "},
			{"PUT", "/shop/items/7", "", 405, "Method Not Allowed\n"}, // from the mux
			{"GET", "/shop/nothing", "", 404, "404 page not found\n"}, // from the mux
			{"GET", "/shop/health", "", 200, `"well"`},                // the more specific route
			{"HEAD", "/shop/items/7", "", 200, ""},
			{"DELETE", "/shop/files/a/b/c", "", 404, ""}, // too deep; response of the engine
			{"GET", "/shop/items/", "", 404, ""},         // no segment; response of the engine
			{"GET", "/elsewhere", "", 404, ""},
		} {
			status, body, _ := request(t, e, test.method, test.target, "", test.body)
			if status != test.status || test.want != "" && body != test.want {
				t.Errorf("%s %s: %d %q, want %d %q", test.method, test.target, status, body, test.status, test.want)
			}
		}
		if err := router.Unregister(); err != nil {
			t.Fatal(err)
		}
		if err := router.Unregister(); err == nil {
			t.Error("Unregister succeeded twice")
		}
		synctest.Wait()
		if status, _, _ := request(t, e, "GET", "/shop/items/7", "", ""); status != 404 {
			t.Errorf("after Unregister, the route responds with %d", status)
		}
		if triggers := bound(t, e, c); len(triggers) != 1 {
			t.Errorf("triggers left: %v", triggers)
		}
		if _, err := c.MountRouter("shop/", shopMux(), iii.RouterOptions{}); err != nil { // the prefix is free again
			t.Error(err)
		}
	})
}

// A prefix may be the root, and routers may overlap.
func TestRoutersOverlap(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		named := func(name string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.URL.Path) })
		}
		for prefix, name := range map[string]string{"/": "root", "/api": "api", "/api/v1": "v1", "/café": "café"} {
			if _, err := c.MountRouter(prefix, named(name), iii.RouterOptions{Methods: []string{"get"}}); err != nil {
				t.Fatal(err)
			}
		}
		mustConnect(t, c)
		if err := c.Ready(); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/": "root /", "/x": "root /x", "/x/y/z": "root /x/y/z", "/api": "api /api", "/api/": "api /api/", "/api/x/y": "api /api/x/y",
			"/api/v1": "v1 /api/v1", "/api/v1/x": "v1 /api/v1/x", "/api/v2/x": "api /api/v2/x", "/caf%C3%A9/x": "café /café/x",
		} {
			if status, body, _ := request(t, e, "GET", path, "", ""); status != 200 || body != want {
				t.Errorf("%s: %d %q, want %q", path, status, body, want)
			}
		}
		if status, _, _ := request(t, e, "POST", "/api/x", "", ""); status != 405 {
			t.Errorf("POST: %d", status)
		}
	})
}

// If any of a router's routes cannot be registered, none of them is.
func TestRouterRegistrationIsAtomic(t *testing.T) {
	typed := func(method, path string) func(*iii.Client) error {
		return func(c *iii.Client) error {
			_, err := iii.HandleHTTP(c, method, path, func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, nil })
			return err
		}
	}
	mounted := func(method, path string) func(*iii.Client) error {
		return func(c *iii.Client) error { _, err := c.MountHTTP(method, path, http.NotFoundHandler()); return err }
	}
	router := func(prefix string, o iii.RouterOptions, opts ...iii.FunctionOption) func(*iii.Client) error {
		return func(c *iii.Client) error {
			_, err := c.MountRouter(prefix, http.NotFoundHandler(), o, opts...)
			return err
		}
	}
	plain := router("/api", iii.RouterOptions{})
	for _, test := range []struct {
		name          string
		first, second func(*iii.Client) error
		want          string // "" for success
	}{
		{"same shape, later", plain, typed("GET", "/api/:id"), "the route GET /api/: is one of http::ROUTER/api"},
		{"HEAD of the same shape, later", plain, typed("HEAD", "/api/:id"), "the route HEAD /api/: is one of http::ROUTER/api"},
		{"same shape, before", typed("GET", "/api/:id"), plain, "the route GET /api/: is one of http::GET/api/:id"},
		{"same shape of a mount", plain, mounted("DELETE", "/api/:a/:b"), "is one of http::ROUTER/api"},
		{"the prefix itself", plain, typed("POST", "/api/"), "is one of http::ROUTER/api"},
		{"by a trigger", plain, func(c *iii.Client) error {
			_, err := c.Trigger("f", iii.HTTPTriggerConfig{APIPath: "api/:x"})
			return err
		}, "is one of http::ROUTER/api"},
		{"literal below", plain, typed("GET", "/api/health"), ""},
		{"literal and parameter", plain, typed("GET", "/api/items/:id"), ""},
		{"deeper", plain, typed("GET", "/api/:a/:b/:c/:d/:e/:f/:g"), ""},
		{"another method", router("/api", iii.RouterOptions{Methods: []string{"POST"}}), typed("GET", "/api/:id"), ""},
		{"HEAD of its own before", typed("HEAD", "/api/:id"), plain, ""},
		{"the same router twice", plain, plain, "is registered already"},
		{"routers that share a route", router("/api", iii.RouterOptions{}), router("/api/", iii.RouterOptions{Methods: []string{"GET"}}), "is registered already"},
		{"no handler", func(c *iii.Client) error { _, err := c.MountRouter("/", nil, iii.RouterOptions{}); return err }, nil, "nil handler"},
		{"no prefix", router("", iii.RouterOptions{}), nil, "the prefix is empty"},
		{"parameter in the prefix", router("/t/:tenant", iii.RouterOptions{}), nil, "the prefix has a parameter"},
		{"wildcard in the prefix", router("/t/*", iii.RouterOptions{}), nil, "is a wildcard"},
		{"dots in the prefix", router("/a/../b", iii.RouterOptions{}), nil, "clients resolve"},
		{"address", router("https://example.com/a", iii.RouterOptions{}), nil, "is an address"},
		{"negative depth", router("/a", iii.RouterOptions{Depth: -1}), nil, "depth -1 is negative"},
		{"depth", router("/a", iii.RouterOptions{Depth: 26}), nil, "depth 26"},
		{"the greatest depth", router("/a", iii.RouterOptions{Depth: 25}), nil, ""},
		{"method", router("/a", iii.RouterOptions{Methods: []string{"GET", "OPTIONS"}}), nil, "OPTIONS"},
		{"unknown method", router("/a", iii.RouterOptions{Methods: []string{"FETCH"}}), nil, `"FETCH"`},
		{"blank method", router("/a", iii.RouterOptions{Methods: []string{""}}), nil, "blank method in Methods"},
		{"trigger id", router("/a", iii.RouterOptions{}, iii.WithTriggerOptions(iii.WithTriggerID("x"))), nil, "WithTriggerID: a router has one trigger per"},
		{"validation", router("/a", iii.RouterOptions{}, iii.WithInputValidation()), nil, "WithInputValidation: a mounted handler reads the body itself"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := iii.New("ws://127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = test.first(c)
			if test.second != nil {
				if err != nil {
					t.Fatal(err)
				}
				err = test.second(c)
			}
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), "iii: ") || !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if err != nil { // nothing is left behind
				if err := plain(c); test.second == nil && err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// If two replicas mount the same router, one serves it, and the other takes over when the
// first disconnects.
func TestRouterIsTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		routers := map[string]*iii.Router{}
		setup := func(r *replica) {
			router, err := r.MountRouter("/shop", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, r.Name()) }), iii.RouterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			routers[r.Name()] = router
		}
		a := startReplica(t, e, "a", setup)
		b := startReplica(t, e, "b", setup)
		synctest.Wait()
		var refused *iii.RejectedError
		if err := routers["b"].Err(); !errors.As(err, &refused) {
			t.Errorf("%v", err)
		}
		if status, body, _ := request(t, e, "GET", "/shop/x", "", ""); status != 200 || body != "a" {
			t.Errorf("%d %q", status, body)
		}
		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if status, body, _ := request(t, e, "GET", "/shop/x", "", ""); status != 200 || body != "b" || routers["b"].Err() != nil || b.Ready() != nil {
			t.Errorf("%d %q, %v, %v", status, body, routers["b"].Err(), b.Ready())
		}
	})
}
