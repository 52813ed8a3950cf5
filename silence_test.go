package iii_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

// logLines is a writer of a log.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

// captureDefault makes slog's default logger write to the result.
func captureDefault(t *testing.T) *logLines {
	t.Helper()
	var l logLines
	iii.SetSlogDefault(t, slog.NewTextHandler(&l, nil))
	return &l
}

// A program that sets no logger learns once why its first connection fails; one that sets
// a logger, or nil, has decided what it wants to know.
func TestFirstFailureToConnectIsLoggedWithoutALogger(t *testing.T) {
	var own logLines
	for _, test := range []struct {
		name string
		opts []iii.Option
		want int
	}{
		{"none", nil, 1},
		{"nil", []iii.Option{iii.WithLogger(nil)}, 0},
		{"discarding", []iii.Option{iii.WithLogger(slog.New(slog.DiscardHandler))}, 0},
		{"its own", []iii.Option{iii.WithLogger(slog.New(slog.NewTextHandler(&own, nil)))}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := captureDefault(t)
			c, err := iii.New("ws://user:hunter2@127.0.0.1:1", append(test.opts, iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1}))...)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := c.Connect(ctx); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("Connect = %v, want the reason", err)
			}
			_ = c.Close() // joins the callbacks
			got := 0
			for _, line := range log.all() {
				if strings.Contains(line, "level=WARN") && strings.Contains(line, "not connected") && strings.Contains(line, "refused") {
					got++
				}
				if strings.Contains(line, "hunter2") {
					t.Errorf("a secret is logged: %s", line)
				}
			}
			if got != test.want {
				t.Errorf("%d warnings, want %d: %q", got, test.want, log.all())
			}
		})
	}
}

// A loop over a stream socket that is not there says why it waits, and gives up.
func TestSubscribeTellsWhyItRetries(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	fast := iii.ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1}
	sub := iii.StreamSubscription{StreamName: "s", GroupID: "g"}
	follow := func(o iii.SubscribeOptions) (err error) {
		o.URL, o.Reconnection = server.URL, fast
		for _, err = range iii.SubscribeWith(t.Context(), o, sub) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	t.Run("to slog's default", func(t *testing.T) {
		log := captureDefault(t)
		if err := follow(iii.SubscribeOptions{}); err == nil || !strings.HasPrefix(err.Error(), "iii: subscribe: there is no stream socket") || !strings.Contains(err.Error(), "404") {
			t.Errorf("the loop ended with %v", err)
		}
		if got := log.all(); len(got) != 1 || !strings.Contains(got[0], "404") {
			t.Errorf("logged %q, want one line with the status", got)
		}
	})
	t.Run("to its logger and its listener", func(t *testing.T) {
		log := captureDefault(t)
		var own logLines
		var states []iii.ConnectionState
		err := follow(iii.SubscribeOptions{Logger: slog.New(slog.NewTextHandler(&own, nil)), StateListener: func(s iii.ConnectionState, err error) {
			states = append(states, s)
			if (s == iii.ConnectionStateReconnecting || s == iii.ConnectionStateFailed) == (err == nil) {
				t.Errorf("%s with the error %v", s, err)
			}
		}})
		if err == nil {
			t.Error("the loop ended without an error")
		}
		if got := own.all(); len(got) != 2 || !strings.Contains(got[0], "404") {
			t.Errorf("its logger has %q, want a line for each retry", got)
		}
		if got := log.all(); got[0] != "" {
			t.Errorf("slog's default has %q", got)
		}
		want := []iii.ConnectionState{iii.ConnectionStateConnecting, iii.ConnectionStateReconnecting, iii.ConnectionStateReconnecting, iii.ConnectionStateFailed}
		if diff := cmp.Diff(want, states); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}
