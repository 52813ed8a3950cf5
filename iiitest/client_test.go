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

// The client reconnects to the engine after its connection breaks, in virtual time.
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
			time.Sleep(time.Minute) // the client has reconnected
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
