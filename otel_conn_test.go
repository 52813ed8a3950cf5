package iii

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/enginetest"
)

func sendLogs(tb testing.TB, s *SharedEngineConnection, from, to int) {
	tb.Helper()
	for n := from; n < to; n++ {
		if err := s.Send(logFrame(n)); err != nil {
			tb.Fatal(err)
		}
	}
}

func wantLogs(from, to int) []string {
	var want []string
	for n := from; n < to; n++ {
		want = append(want, fmt.Sprintf(`LOGS{"n":%d}`, n))
	}
	return want
}

func TestTelemetryConnection(t *testing.T) {
	for _, kind := range []string{"memory", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			p := newOtelPeer(t, otelScript{})
			if kind == "tcp" {
				p = newTCPOtelPeer(t, otelScript{})
			}
			var states stateLog
			s := p.connection(WithConnectionStateListener(states.listen))
			sendLogs(t, s, 0, 1000)
			if err := s.Send(OtelMessage{Prefix: "ABCD", Data: []byte("{}")}); err == nil {
				t.Error("unknown prefix: no error")
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantLogs(0, 1000), p.received()); diff != "" {
				t.Errorf("frames after Flush (-want +got):\n%s", diff)
			}
			if s.State() != ConnectionStateConnected {
				t.Errorf("state %s", s.State())
			}
			var size uint64
			for _, f := range p.received() {
				size += uint64(len(f))
			}
			if diff := cmp.Diff(ConnectionStats{Sent: 1000, Confirmed: 1000, BytesSent: size}, s.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			c := p.conn(0)
			if <-c.ended; c.err != errPeerClosed {
				t.Errorf("end of the connection: %v, want a Close frame", c.err)
			}
			if c.pings == 0 || c.pings > 1000 {
				t.Errorf("%d pings", c.pings)
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("second Shutdown: %v", err)
			}
			if err := s.Send(logFrame(0)); !errors.Is(err, ErrConnectionClosed) {
				t.Errorf("Send after Shutdown: %v", err)
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Errorf("Flush after Shutdown: %v", err)
			}
			want := []ConnectionState{ConnectionStateConnecting, ConnectionStateConnected, ConnectionStateDisconnected}
			if diff := cmp.Diff(want, states.list()); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTelemetryUpgrade(t *testing.T) {
	var mu sync.Mutex
	var requests []*http.Request
	p := newOtelPeer(t, otelScript{refuse: func(_ int, r *http.Request) int {
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, r)
		return 0
	}})
	header := http.Header{"X-Token": {secretHeader}, "X-Two": {"1", "2"}}
	address := strings.Replace(p.url(), "ws://", "ws://user:"+secretPassword+"@", 1) + "/base/?token=" + secretQuery
	s, err := NewSharedEngineConnection(address, p.options(WithConnectionHeader(header))...)
	if err != nil {
		t.Fatal(err)
	}
	sendLogs(t, s, 0, 1)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := requests[0]
	if got := r.URL.String(); got != "/base/otel?token="+secretQuery {
		t.Errorf("request of %s", got)
	}
	user, password, _ := r.BasicAuth()
	got := []string{r.Header.Get("X-Token"), fmt.Sprint(r.Header["X-Two"]), user, password}
	if diff := cmp.Diff([]string{secretHeader, "[1 2]", "user", secretPassword}, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// The address is that of the environment if none is given, and wss is TLS.
func TestTelemetryTLS(t *testing.T) {
	server := httptest.NewTLSServer(nil) // for its certificate
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newOtelPeerOn(t, tls.NewListener(l, &tls.Config{Certificates: server.TLS.Certificates}), otelScript{})
	t.Setenv("III_URL", "https://"+l.Addr().String())
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig
	s, err := NewSharedEngineConnection("", p.options(WithConnectionTLSConfig(trust))...)
	if err != nil {
		t.Fatal(err)
	}
	sendLogs(t, s, 0, 10)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantLogs(0, 10), p.received()); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

// Attempts that fail are further and further apart, and the count starts over
// after a connection that lasted.
func TestChecklistTelemetryBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := func(n int) bool { return n == 7 }
		p := newOtelPeer(t, otelScript{refuse: func(n int, _ *http.Request) int {
			if up(n) {
				return 0
			}
			return http.StatusServiceUnavailable
		}})
		states := newStateLog()
		s := p.connection(WithConnectionStateListener(states.listen))
		sendLogs(t, s, 0, 1)
		c := p.conn(0)
		time.Sleep(5 * time.Second)
		lost := time.Now()
		c.Cut()
		states.wait(t, ConnectionStateReconnecting, 7*2+1+4)
		cutShort(s)
		at := p.dialled()
		wants := []float64{1, 2, 4, 8, 16, 30, 30}
		check := func(what string, gap time.Duration, base float64) {
			if low, high := base*0.7, min(base*1.3, 30); gap.Seconds() < low-0.001 || gap.Seconds() > high+0.001 {
				t.Errorf("%s: %v after the one before, want within %v s and %v s", what, gap, low, high)
			}
		}
		for n, base := range wants {
			check(fmt.Sprintf("attempt %d", n+1), at[n+1].Sub(at[n]), base)
		}
		check("attempt after the loss", at[8].Sub(lost), 1)
		check("the next", at[9].Sub(at[8]), 1)
		check("the one after that", at[10].Sub(at[9]), 2)
		list := states.list()
		want := []ConnectionState{ConnectionStateConnecting}
		for range 7 {
			want = append(want, ConnectionStateReconnecting)
		}
		want = append(want, ConnectionStateConnected, ConnectionStateReconnecting)
		list = slices.CompactFunc(list[:len(want)+3], func(a, b ConnectionState) bool { return false })
		if diff := cmp.Diff(want, list[:len(want)]); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}

// A peer that accepts and closes is no healthy one: the delay grows.
func TestTelemetryBackoffOfShortConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{greet: func(c *otelConn) { c.kill() }})
		p.connection()
		p.conn(5)
		at := p.dialled()
		for n, base := range []float64{1, 2, 4, 8, 16} {
			if gap := at[n+1].Sub(at[n]).Seconds(); gap < base*0.69 || gap > base*1.31 {
				t.Errorf("attempt %d came %v s after the one before, want about %v s", n+1, gap, base)
			}
		}
	})
}

func TestChecklistTelemetryFailsAfterMaxRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{refuse: func(int, *http.Request) int { return http.StatusServiceUnavailable }})
		retries := uint64(3)
		states := newStateLog()
		s := p.connection(WithConnectionReconnection(ReconnectionConfig{MaxRetries: &retries}), WithConnectionStateListener(states.listen))
		sendLogs(t, s, 0, 5)
		err := s.Flush(t.Context())
		if suite.note(err) == nil || !strings.Contains(err.Error(), "5 dropped") {
			t.Errorf("Flush: %v, want 5 dropped", err)
		}
		<-s.done
		if n := len(p.dialled()); n != 4 {
			t.Errorf("%d attempts, want the first and 3 more", n)
		}
		if s.State() != ConnectionStateFailed {
			t.Errorf("state %s, want failed", s.State())
		}
		if err := s.Send(logFrame(9)); !errors.Is(suite.note(err), ErrConnectionClosed) || !strings.Contains(err.Error(), "gave up after 4 attempts") {
			t.Errorf("Send: %v", err)
		}
		if err := s.Flush(t.Context()); err == nil {
			t.Error("Flush of a connection that failed: no error")
		}
		if err := s.Shutdown(t.Context()); suite.note(err) == nil || !strings.Contains(err.Error(), "6 frames were lost") {
			t.Errorf("Shutdown: %v, want 6 frames lost", err)
		}
		if diff := cmp.Diff(ConnectionStats{Logs: DroppedFrames{Closed: 6, Records: 6}}, s.Stats()); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
	})
}

func TestChecklistTelemetryAuthFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{greet: func(c *otelConn) {
			if c.n < 3 {
				_ = c.WriteFrame(enginetest.OpText, true, []byte(`{"type":"error","error":{"code":"AUTH_ERROR","message":"auth function returned no result"}}`))
				_ = c.WriteFrame(enginetest.OpClose, true, nil)
				c.dead = true
			}
		}})
		states := newStateLog()
		var log bytes.Buffer
		s := p.connection(WithConnectionStateListener(states.listen), WithConnectionLogger(slog.New(slog.NewTextHandler(io.MultiWriter(&log, suite), nil))),
			WithConnectionHeader(http.Header{"Authorization": {secretHeader}}))
		sendLogs(t, s, 0, 10)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantLogs(0, 10), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
		at := p.dialled()
		for n, base := range []float64{1, 2, 4} {
			if gap := at[n+1].Sub(at[n]).Seconds(); gap < base*0.69 || gap > base*1.31 {
				t.Errorf("attempt %d came %v s after the one before, want about %v s", n+1, gap, base)
			}
		}
		cutShort(s)
		var auth *AuthError
		var told int
		for _, err := range states.errors() {
			if errors.As(err, &auth) {
				told++
				if !strings.Contains(err.Error(), "AUTH_ERROR") || auth.Message != "auth function returned no result" {
					t.Errorf("refusal: %v", err)
				}
			}
		}
		if told != 3 || strings.Count(log.String(), "AUTH_ERROR") != 3 {
			t.Errorf("the refusal was told %d times, log:\n%s", told, &log)
		}
	})
}

// The error frame of the engine need not be for authentication, and what else
// comes does no harm.
func TestTelemetryHearsTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{greet: func(c *otelConn) {
			if c.n == 0 {
				_ = c.WriteFrame(enginetest.OpText, true, []byte(`{"type":"pong"}`))
				_ = c.WriteFrame(enginetest.OpText, true, []byte(`no JSON`))
				_ = c.WriteFrame(enginetest.OpBinary, true, []byte{0, 1, 2})
				_ = c.WriteFrame(enginetest.OpPong, true, []byte("unasked"))
				_ = c.WriteFrame(enginetest.OpPong, true, bytes.Repeat([]byte{255}, 8))
				_ = c.WriteFrame(enginetest.OpText, true, []byte(`{"type":"error","error":{"code":"LIMIT","message":"too much"}}`))
			}
		}})
		states := newStateLog()
		s := p.connection(WithConnectionStateListener(states.listen))
		sendLogs(t, s, 0, 1)
		p.conn(1)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		var e *Error
		if !slices.ContainsFunc(states.errors(), func(err error) bool { return errors.As(err, &e) }) || e.Code != "LIMIT" {
			t.Errorf("errors: %v", states.errors())
		}
	})
}

// A peer that says nothing more is given up after a minute; one that only
// answers pings is not.
func TestTelemetryKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{ping: func(c *otelConn, _ []byte) bool { return c.n == 0 && c.pings > 10 }})
		s := p.connection()
		c := p.conn(0)
		began := time.Now()
		<-c.ended
		// Ten pings are answered, one every 20 s; then a minute of silence.
		if lived := time.Since(began); lived < 250*time.Second || lived > 270*time.Second {
			t.Errorf("given up after %v, want after about 260 s", lived)
		}
		p.conn(1)
		synctest.Wait()
		if s.State() != ConnectionStateConnected {
			t.Errorf("state %s", s.State())
		}
	})
}

func TestTelemetryAnswersPings(t *testing.T) {
	got := make(chan string, 1)
	p := newOtelPeer(t, otelScript{
		greet: func(c *otelConn) { _ = c.WriteFrame(enginetest.OpPing, true, []byte("are you there")) },
		pong:  func(_ *otelConn, payload []byte) { got <- string(payload) },
	})
	p.connection()
	if payload := <-got; payload != "are you there" {
		t.Errorf("pong of %q", payload)
	}
}

func FuzzEngineError(f *testing.F) {
	f.Add([]byte(`{"type":"error","error":{"code":"AUTH_ERROR","message":"auth function returned no result"}}`))
	f.Add([]byte(`{"type":"error","error":null}`))
	f.Add([]byte(`{"type":"pong"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := engineError(b)
		if err == nil {
			return
		}
		var refused *AuthError
		var e *Error
		if errors.As(err, &refused) == errors.As(err, &e) {
			t.Errorf("%q: %v", b, err)
		}
		var m map[string]any
		if json.Unmarshal(b, &m) != nil {
			t.Errorf("%q is no object and says %v", b, err)
		}
	})
}
