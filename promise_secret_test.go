package iii

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// secretAddresses hold secrets and are no addresses, each for another reason.
var secretAddresses = []string{
	"ws://user:" + secretPassword + "@engine.test:port",
	"ws://user:" + secretPassword + "@engine.test:99999999999",
	"ws://user:" + secretPassword + "/x@engine.test",
	"ws://user:" + secretPassword + "%zz@engine.test",
	"ws://user:" + secretPassword + "\x7f@engine.test",
	"ws://user:" + secretPassword + "@[::1",
	"ws://user:" + secretPassword + "@",
	"ftp://user:" + secretPassword + "@engine.test",
	secretPassword + "://engine.test",
	secretPassword + ":x@engine.test",
	secretPassword,
	"ws://?token=" + secretQuery,
	"engine.test/?token=" + secretQuery,
	"://" + secretPassword,
	"%zz" + secretPassword,
}

func TestR19BadAddresses(t *testing.T) {
	for _, address := range secretAddresses {
		c, err := New(address)
		if err == nil {
			_ = c.Close()
			t.Errorf("%q is taken", address)
			continue
		}
		for _, secret := range []string{secretPassword, secretQuery} {
			if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
				t.Errorf("%q: the error holds the secret: %s", address, text)
			}
		}
	}
}

// TestR19NoSecretIsTold connects with secrets in every place that can hold one, has
// everything go wrong, and searches logs and errors.
func TestR19NoSecretIsTold(t *testing.T) {
	found := &collector{secrets: suite.secrets}
	options := func(p *peer, more ...Option) []Option {
		return append([]Option{
			WithDialContext(p.mem.DialContext), WithHeader(http.Header{"X-Api-Key": {secretHeader}, "Cookie": {"session=" + secretHeader}}),
			WithLogger(slog.New(slog.NewJSONHandler(found, &slog.HandlerOptions{Level: slog.LevelDebug}))),
			WithStateListener(func(_ ConnectionState, err error) { found.note(err) }),
		}, more...)
	}
	address := "ws://user:" + secretPassword + "@engine.test/path?token=" + secretQuery
	attempt := func(t *testing.T, p *peer, more ...Option) {
		t.Helper()
		c, err := New(address, options(p, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := found.note(c.Connect(ctx)); err == nil {
			t.Error("connected")
		}
		found.note(c.Call(ctx, "x::y", 1, nil))
		found.note(c.Err())
	}
	scenarios := map[string]func(t *testing.T){
		"refused": func(t *testing.T) {
			for _, status := range []int{301, 401, 403, 404, 500} {
				var seen atomic.Int32
				attempt(t, newPeer(t, script{refuse: func(_ int, r *http.Request) int {
					basic := base64.StdEncoding.EncodeToString([]byte("user:" + secretPassword))
					if r.Header.Get("X-Api-Key") == secretHeader && r.Header.Get("Authorization") == "Basic "+basic && r.URL.Query().Get("token") == secretQuery {
						seen.Add(1)
					}
					return status
				}}))
				if seen.Load() == 0 {
					t.Error("the secrets were not sent: the test shows nothing")
				}
			}
		},
		"not authenticated": func(t *testing.T) {
			attempt(t, newPeer(t, script{greet: func(c *peerConn) {
				c.send(`{"type":"error","error":{"code":"AUTH_ERROR","message":"who are you?"}}`)
			}}))
		},
		"name taken": func(t *testing.T) {
			attempt(t, newPeer(t, script{greet: func(c *peerConn) {
				c.welcome()
				c.send(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"d","worker_name":"w","owner_worker_id":"o"}`)
			}}))
		},
		"cut in the greeting": func(t *testing.T) { attempt(t, newPeer(t, script{greet: (*peerConn).Cut})) },
		"odd greeting": func(t *testing.T) {
			p := newPeer(t, script{greet: func(c *peerConn) {
				c.send(`{"type":"workerregistered","worker_id":7,"reattach_token":"` + tokenMark + `"}`)
				c.send(`{"type":"workerregistered","worker_id":"w","reattach_token":{"t":"` + tokenMark + `"}}`)
				c.send(`{"type":"workerregistered","reattach_token":"` + tokenMark + ``)
				c.Cut()
			}})
			attempt(t, p)
		},
		"reconnects": func(t *testing.T) {
			p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
				if m.FunctionID == "x::cut" {
					c.Cut()
				}
				return false
			}})
			c, err := New(address, options(p)...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			registerMany(t, c, 20)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				found.note(c.Call(t.Context(), "x::cut", 1, nil))
				found.note(c.Send(t.Context(), "x::cut", 1))
				found.note(c.Call(t.Context(), "x::y", 1, nil))
			}
			var token bool
			for _, m := range p.messages(-1, "reattach") {
				token = token || strings.Contains(m.ReattachToken, tokenMark)
			}
			if !token {
				t.Error("no reattach token was sent: the test shows nothing")
			}
			_, err = c.HandleFunc("x", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
			found.note(err)
			found.note(fmt.Errorf("%+v", c.Stats()))
			found.note(c.Shutdown(t.Context()))
		},
		"gone": func(t *testing.T) {
			p := newPeer(t, script{})
			p.server.Refuse()
			attempt(t, p)
		},
		"TLS that is none": func(t *testing.T) {
			p := newPeer(t, script{})
			c, err := New(strings.Replace(address, "ws:", "wss:", 1), options(p)...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			found.note(c.Connect(ctx))
		},
	}
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) { synctest.Test(t, scenario) })
	}
	lines, leaks := found.result()
	if lines < 50 {
		t.Errorf("%d log lines and errors: the test shows nothing", lines)
	}
	if len(leaks) > 0 {
		t.Errorf("secrets are told:\n%s", strings.Join(leaks, "\n"))
	}
	found.note(fmt.Errorf("planted: %s", tokenMark))
	if _, leaks := found.result(); len(leaks) != 1 {
		t.Error("the search does not find a planted secret")
	}
}
