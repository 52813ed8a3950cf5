package iiitest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestClientReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t)
		c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("w"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = iii.Handle(c, "double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			before := c.WorkerID()
			e.Drop("w")
			synctest.Wait()
			time.Sleep(time.Minute) // enough time to reconnect
			if got, err := iii.Call[int](t.Context(), c, "double", 21, iii.Remotely()); got != 42 || err != nil {
				t.Errorf("got %d, %v", got, err)
			}
			if c.WorkerID() == before {
				t.Error("the same connection after a drop")
			}
		}
	})
}

func TestClientReportsRejectedAuth(t *testing.T) {
	e := iiitest.Start(t)
	e.RefuseAuth("go away")
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *iii.AuthError
	if err := c.Connect(t.Context()); !errors.As(err, &refused) || refused.Message != "go away" {
		t.Errorf("got %v", err)
	}
}

func TestClientServesHTTP(t *testing.T) {
	e := iiitest.Start(t)
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = iii.Handle(c, "hello", func(_ context.Context, r iii.HTTPRequest[any]) (any, error) {
		return map[string]any{"body": "hello " + r.PathParams["name"], "headers": map[string]string{"Content-Type": "text/plain"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Trigger("hello", iii.HTTPTriggerConfig{APIPath: "/hello/:name"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/hello/you")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "hello you" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

// While an observer is suspended, another worker can take over its route. The observer gets
// the route back when that worker disconnects.
func TestObserverKeepsItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t)
		worker := func(name string, p iiitest.Protocol) (*iii.Client, *iii.Function) {
			e.SetProtocol(p)
			c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName(name))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			id := name + "::page"
			serve := func(context.Context, map[string]any) (map[string]any, error) {
				return map[string]any{"status_code": 200, "body": name}, nil
			}
			f, err := iii.Handle(c, id, serve)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Trigger(id, iii.HTTPTriggerConfig{APIPath: "/page"}); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c, f
		}
		want := func(when, body string) {
			t.Helper()
			synctest.Wait()
			client := http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
			resp, err := client.Get(e.HTTPURL() + "/page")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, _ := io.ReadAll(resp.Body); string(got) != body {
				t.Errorf("%s: %d %s, want %s", when, resp.StatusCode, got, body)
			}
		}
		a, f := worker("a", iiitest.Protocol026)
		want("alone", `"a"`)
		if err := f.Unregister(); err != nil {
			t.Fatal(err)
		}
		b, _ := worker("b", iiitest.Protocol023)
		want("while the first one is suspended", `"b"`)
		if _, err := iii.Handle(a, "a::page", func(context.Context, map[string]any) (map[string]any, error) {
			return map[string]any{"status_code": 200, "body": "a again"}, nil
		}); err != nil {
			t.Fatal(err)
		}
		want("when it is active again", `"b"`)
		_ = b.Close()
		want("when the other one has gone", `"a again"`)
	})
}
