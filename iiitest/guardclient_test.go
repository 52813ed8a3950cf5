package iiitest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func connect(t *testing.T, url string, prepare func(c *iii.Client) error, opts ...iii.Option) (*iii.Client, error) {
	t.Helper()
	c, err := iii.New(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := prepare(c); err != nil {
		t.Fatal(err)
	}
	return c, c.Connect(t.Context())
}

func TestClientBehindGuard(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "auth", Expose: []string{"open::*"}}))
	_, err := connect(t, e.URL(), func(c *iii.Client) error {
		_, err := iii.Handle(c, "auth", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
			if in.Headers["authorization"] != "Bearer good" {
				return iii.AuthResult{}, errors.New("who are you?")
			}
			return iii.NewAuthResult(), nil
		})
		for _, id := range []string{"open::f", "closed::f"} {
			_, e := iii.Handle(c, id, func(_ context.Context, n int) (int, error) { return n + 1, nil })
			err = errors.Join(err, e)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(*iii.Client) error { return nil }
	var refused *iii.AuthError
	if _, err := connect(t, e.GuardedURL(), nothing); !errors.As(err, &refused) || refused.Message != "who are you?" {
		t.Errorf("stranger: %v", err)
	}
	c, err := connect(t, e.GuardedURL(), nothing, iii.WithHeader(http.Header{"Authorization": {"Bearer good"}}))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := iii.Call[int](t.Context(), c, "open::f", 1); got != 2 || err != nil {
		t.Errorf("exposed function: %d, %v", got, err)
	}
	var denied *iii.Error
	if _, err := iii.Call[int](t.Context(), c, "closed::f", 1); !errors.As(err, &denied) || denied.Code != "FORBIDDEN" {
		t.Errorf("other function: %v", err)
	}
}

func TestClientHTTPInvoked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err = errors.Join(err, iii.VerifySignature(r, body, "s3cret", time.Minute)); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `"signed"`)
	}))
	defer server.Close()
	e := iiitest.Start(t, iiitest.WithEnv(map[string]string{"RIGHT": "s3cret", "WRONG": "other"}))
	c, err := connect(t, e.URL(), func(c *iii.Client) error {
		var errs []error
		for id, name := range map[string]string{"right": "RIGHT", "wrong": "WRONG"} {
			_, err := c.HandleHTTPInvoked(id, iii.HTTPInvocationConfig{
				URL: server.URL, Auth: &iii.HTTPAuthConfig{Auth: iii.HTTPAuthHMAC{SecretKey: name}},
			})
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := iii.Call[string](t.Context(), c, "right", map[string]int{"n": 1}); got != "signed" || err != nil {
		t.Errorf("right secret: %q, %v", got, err)
	}
	var failed *iii.Error
	if _, err := iii.Call[string](t.Context(), c, "wrong", 1); !errors.As(err, &failed) || failed.Message != "HTTP 401 Unauthorized" {
		t.Errorf("wrong secret: %v", err)
	}
}
