package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

func noEnv(string) string { return "" }

func TestRunServesUntilToldToStop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		args := strings.Fields(`-listen 127.0.0.1:0 -http 127.0.0.1:0 -stream 127.0.0.1:0 -queue jobs={"concurrency":1}`)
		err := run(ctx, args, noEnv, in, io.Discard)
		_ = in.CloseWithError(err)
		done <- err
	}()
	addresses := map[string]string{}
	lines := bufio.NewScanner(out)
	for len(addresses) < 3 && lines.Scan() {
		name, url, _ := strings.Cut(lines.Text(), " ")
		addresses[name] = strings.TrimSpace(url)
	}
	if len(addresses) != 3 {
		t.Fatalf("addresses: %v", addresses)
	}
	conn, _, err := websocket.DefaultDialer.DialContext(ctx, addresses["workers"], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, m, err := conn.ReadMessage(); err != nil || !strings.Contains(string(m), "workerregistered") {
		t.Errorf("greeting %s: %v", m, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name, args, grace, want string
	}{
		{"an unknown flag", "-nosuch", "", "help requested"},
		{"an argument", "-listen 127.0.0.1:0 serve", "", "unexpected argument"},
		{"a queue without a config", "-queue jobs", "", "help requested"},
		{"a queue with an unknown key", `-queue jobs={"retries":1}`, "", "help requested"},
		{"a queue that cannot be", `-queue jobs={"type":"fifo"}`, "", "WithQueue: jobs"},
		{"an address without a port", "-listen here", "", "WithAddrs"},
		{"a grace period that is no number", "-listen 127.0.0.1:0", "soon", "III_NAMESPACE_GRACE_MS"},
		{"a grace period of nothing", "-listen 127.0.0.1:0", "0", "WithNamespaceGrace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := func(string) string { return test.grace }
			err := run(ctx, strings.Fields(test.args), env, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
