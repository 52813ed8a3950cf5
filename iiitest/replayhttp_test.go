package iiitest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// recordedCall is a request that the engine made.
type recordedCall struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// callee is the server behind the recorded functions that are invoked over HTTP.
type callee struct {
	host  string
	pipe  *memnet.Listener
	calls chan recordedCall
}

// newCallee serves until the test ends.
func newCallee(t *testing.T, host string) *callee {
	s := &callee{host: host, pipe: memnet.NewListener(memnet.Addr(host)), calls: make(chan recordedCall, 10)}
	server := &http.Server{Handler: s, ErrorLog: silentLog}
	go func() { _ = server.Serve(s.pipe) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// option has the engine find the server, and nothing else.
func (s *callee) option(c *config) error {
	c.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != s.host {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: memnet.Addr(addr), Err: syscall.ECONNREFUSED}
		}
		return s.pipe.DialContext(ctx, network, addr)
	}
	return nil
}

func (s *callee) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	call := recordedCall{r.Method, r.URL.Path, map[string]string{
		"host": r.Host, "content-length": strconv.FormatInt(r.ContentLength, 10),
	}, string(body)}
	for name, values := range r.Header {
		call.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	s.calls <- call
	switch r.URL.Path {
	case "/slow":
		<-r.Context().Done()
	case "/500":
		w.WriteHeader(http.StatusInternalServerError)
	case "/text":
		_, _ = io.WriteString(w, "not json")
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "echo": string(body)})
	}
}

// called compares a request that the engine made.
func (p *player) called(e event) {
	var got recordedCall
	select {
	case got = <-p.callee.calls:
	case <-time.After(patience):
		p.t.Fatalf("line %d: no request", e.line)
	}
	want := *e.Received
	for _, call := range []recordedCall{want, got} { // the signatures differ because the bodies do
		if signed := call.Headers["x-iii-signature"]; signed != "" {
			mac := hmac.New(sha256.New, []byte("s3cret"))
			mac.Write([]byte(call.Headers["x-iii-timestamp"] + ":" + base64.StdEncoding.EncodeToString([]byte(call.Body))))
			if signed != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
				p.t.Errorf("line %d: signature %s is not that of the request", e.line, signed)
			}
			call.Headers["x-iii-signature"] = "right"
		}
	}
	c := &comparison{names: p.names, allow: func(at string) bool { return p.deliberate(at, true) }}
	path := "request " + want.Path
	c.value(path+" method", want.Method, got.Method)
	c.value(path+" path", want.Path, got.Path)
	c.value(path+" body", want.Body, got.Body)
	c.object(path+" headers", anyMap(want.Headers), anyMap(got.Headers))
	for _, d := range c.diffs {
		p.t.Errorf("line %d: %s", e.line, d)
	}
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}
