package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// typedRoute serves POST /orders and returns its client and its function's id.
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

// A body of another type is the HTTP client's mistake; a payload that is no request
// at all is the caller's.
func TestTypedRouteRefusesBodies(t *testing.T) {
	e, c, id := typedRoute(t, func(context.Context, *iii.HTTPRequest[sigIn]) (*iii.HTTPResponse[sigOut], error) {
		t.Error("the handler runs")
		return nil, nil
	})
	got := fetch(t, e.HTTPURL(), "POST", "/orders", "application/json", `{"N":"one"}`)
	want := answer{400, map[string][]string{"Content-Type": {"application/json"}},
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

// A 204 has no body, and goes to the engine so that it adds none.
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
			got, err := iii.Call[json.RawMessage](t.Context(), c, id, map[string]any{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}
