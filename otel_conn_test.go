package iii

import (
	"bytes"
	"context"
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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/otlpjson"
	"github.com/iii-go/iii/internal/wsconn"
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

// An option overrides the header of the same name in the configuration.
func TestTelemetryConfigHeaders(t *testing.T) {
	requests := make(chan http.Header, 1)
	p := newOtelPeer(t, otelScript{refuse: func(_ int, r *http.Request) int {
		select {
		case requests <- r.Header:
		default:
		}
		return 0
	}})
	address := p.url()
	cfg := OtelConfig{EngineWSURL: &address, EngineWSHeaders: map[string]string{"authorization": "Bearer of the config", "x-team": "billing"}}
	telemetry, err := StartTelemetry(t.Context(), cfg,
		WithTelemetryConnection(p.options(WithConnectionHeader(http.Header{"Authorization": {"Bearer of the option"}}))...))
	if err != nil {
		t.Fatal(err)
	}
	header := <-requests
	got := [][]string{header.Values("Authorization"), header.Values("X-Team")}
	if diff := cmp.Diff([][]string{{"Bearer of the option"}, {"billing"}}, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}

	cfg.EngineWSHeaders = map[string]string{"upgrade": secretHeader}
	if _, err := StartTelemetry(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "iii: engine_ws_headers: ") || strings.Contains(err.Error(), secretHeader) {
		t.Errorf("a reserved header: %v", err)
	}
}

// The address comes from the environment by default. An https address implies TLS.
func TestTelemetryTLS(t *testing.T) {
	server := httptest.NewTLSServer(nil) // used only for its certificate
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

// The delay grows with each failed attempt. A connection that lasts long enough resets the
// delay.
func TestTelemetryBackoffGrowsAndStartsOver(t *testing.T) {
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
		at := p.dialed()
		wants := []float64{1, 2, 4, 8, 16, 30, 30}
		check := func(what string, gap time.Duration, base float64) {
			if low, high := base*0.7, min(base*1.3, 30); gap.Seconds() < low-0.001 || gap.Seconds() > high+0.001 {
				t.Errorf("%s: %v after the previous one, want between %v s and %v s", what, gap, low, high)
			}
		}
		for n, base := range wants {
			check(fmt.Sprintf("attempt %d", n+1), at[n+1].Sub(at[n]), base)
		}
		check("attempt after the loss", at[8].Sub(lost), 1)
		check("the next", at[9].Sub(at[8]), 2)
		check("the one after that", at[10].Sub(at[9]), 4)
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

// If the engine closes every connection immediately, the delay keeps growing.
func TestTelemetryBackoffOfShortConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{greet: func(c *otelConn) { c.kill() }})
		p.connection()
		p.conn(5)
		at := p.dialed()
		for n, base := range []float64{1, 2, 4, 8, 16} {
			if gap := at[n+1].Sub(at[n]).Seconds(); gap < base*0.69 || gap > base*1.31 {
				t.Errorf("attempt %d was made %v s after the previous one, want about %v s", n+1, gap, base)
			}
		}
	})
}

func TestTelemetryFailsAfterMaxRetries(t *testing.T) {
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
		if n := len(p.dialed()); n != 4 {
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

func TestTelemetryReportsAuthFailure(t *testing.T) {
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
		at := p.dialed()
		for n, base := range []float64{1, 2, 4} {
			if gap := at[n+1].Sub(at[n]).Seconds(); gap < base*0.69 || gap > base*1.31 {
				t.Errorf("attempt %d was made %v s after the previous one, want about %v s", n+1, gap, base)
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
			t.Errorf("the rejection was reported %d times, log:\n%s", told, &log)
		}
	})
}

// Shutdown tries to connect once more, but gives up if the engine rejects the connection.
func TestTelemetryShutdownTriesARejectingEngineOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{greet: func(c *otelConn) {
			_ = c.WriteFrame(enginetest.OpText, true, []byte(`{"type":"error","error":{"code":"AUTH_ERROR","message":"auth function returned no result"}}`))
			_ = c.WriteFrame(enginetest.OpClose, true, nil)
			c.dead = true
		}})
		s := p.connection()
		sendLogs(t, s, 0, 1)
		synctest.Wait()
		before := len(p.dialed())
		var auth *AuthError
		if err := s.Shutdown(t.Context()); !errors.As(err, &auth) {
			t.Errorf("Shutdown: %v, want the rejection", err)
		}
		if n := len(p.dialed()) - before; n != 1 {
			t.Errorf("Shutdown tried to connect %d times, want once", n)
		}
	})
}

// Every error frame from the engine is reported. Other frames are ignored.
func TestTelemetryReportsErrorsOfTheEngine(t *testing.T) {
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

// The connection is closed if nothing arrives for a minute. Pongs are enough to keep it open.
func TestTelemetryClosesASilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{ping: func(c *otelConn, _ []byte) bool { return c.n == 0 && c.pings > 10 }})
		s := p.connection()
		c := p.conn(0)
		began := time.Now()
		<-c.ended
		// The peer answers ten pings, one every 20 s, and is then silent for a minute.
		if lived := time.Since(began); lived < 250*time.Second || lived > 270*time.Second {
			t.Errorf("closed after %v, want about 260 s", lived)
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
			t.Errorf("%q is not an object, but gives the error %v", b, err)
		}
	})
}

// Flush waits until the engine has read everything, even if that takes a long time.
func TestFlushWaitsForALatePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		c := p.conn(0)
		resume := c.StopReading()
		sendLogs(t, s, 0, 100)
		began := time.Now()
		time.AfterFunc(25*time.Second, resume)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 25*time.Second {
			t.Errorf("Flush returned after %v, want 25 s", took)
		}
		if diff := cmp.Diff(wantLogs(0, 100), p.received()); diff != "" {
			t.Errorf("frames after Flush (-want +got):\n%s", diff)
		}
	})
}

func TestFlushOfASilentPeerEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{ping: func(*otelConn, []byte) bool { return true }})
		s := p.connection()
		sendLogs(t, s, 0, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err := s.Flush(ctx)
		if !errors.Is(suite.note(err), context.DeadlineExceeded) || !strings.Contains(err.Error(), "100 frames left") {
			t.Errorf("Flush: %v, want 100 frames left", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Flush returned after %v, want 3 s", took)
		}
		if n := len(p.received()); n != 100 {
			t.Errorf("the peer received %d frames", n)
		}
	})
}

func TestFlushWithoutAPeerEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
		s, err := NewSharedEngineConnection("ws://user:"+secretPassword+"@127.0.0.1:1/?token="+secretQuery, WithConnectionDialContext(down), WithConnectionLogger(testLogger))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Errorf("Flush with an empty queue: %v", err)
		}
		sendLogs(t, s, 0, 7)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err = s.Flush(ctx)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Flush returned after %v, want 3 s", took)
		}
		if !errors.Is(suite.note(err), context.DeadlineExceeded) || !strings.Contains(err.Error(), "7 frames left") || !strings.Contains(err.Error(), "nobody there") {
			t.Errorf("Flush: %v, want 7 frames left and the reason", err)
		}
		if got := s.Stats().Queued; got != 7 {
			t.Errorf("%d frames are queued after Flush, want 7", got)
		}
		began = time.Now()
		err = s.Shutdown(t.Context())
		if took := time.Since(began); took > time.Second {
			t.Errorf("Shutdown returned after %v", took)
		}
		if suite.note(err) == nil || !strings.Contains(err.Error(), "7 frames were lost") {
			t.Errorf("Shutdown: %v, want 7 frames lost", err)
		}
	})
}

// If frames are pending, Shutdown tries to connect at once instead of waiting for the next
// attempt.
func TestTelemetryShutdownDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{refuse: func(n int, _ *http.Request) int {
			if n < 8 {
				return http.StatusServiceUnavailable
			}
			return 0
		}})
		states := newStateLog()
		s := p.connection(WithConnectionStateListener(states.listen))
		sendLogs(t, s, 0, 10)
		p.wait("attempts", func() bool { return len(p.dials) == 8 })
		synctest.Wait() // the next attempt is now half a minute away
		began := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("Shutdown took %v", took)
		}
		if diff := cmp.Diff(wantLogs(0, 10), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}

// If the connection breaks during Shutdown, it is reestablished immediately.
func TestTelemetryShutdownSurvivesKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{ping: func(c *otelConn, payload []byte) bool {
			if c.pings == 2 && c.n < drainAttempts-1 {
				c.kill()
				return true
			}
			return false
		}})
		s := p.connection()
		sendLogs(t, s, 0, 10_000)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := p.received()
		slices.Sort(got)
		want := wantLogs(0, 10_000)
		slices.Sort(want)
		if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}

func TestConnectionShutdownIsBounded(t *testing.T) {
	tests := []struct {
		name   string
		script otelScript
		stop   bool // stop reading
	}{
		{name: "no pong", script: otelScript{ping: func(*otelConn, []byte) bool { return true }}},
		{name: "no reading", stop: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newOtelPeer(t, tt.script)
				s := p.connection()
				c := p.conn(0)
				if tt.stop {
					defer c.StopReading()()
				}
				for range 20 {
					if err := s.Send(OtelMessage{Prefix: otlpjson.PrefixLogs, Data: make([]byte, 1<<20)}); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				began := time.Now()
				err := s.Shutdown(ctx)
				if took := time.Since(began); took != 2*time.Second {
					t.Errorf("Shutdown returned after %v, want 2 s", took)
				}
				if !errors.Is(suite.note(err), context.DeadlineExceeded) || !strings.Contains(err.Error(), "20 frames were lost") {
					t.Errorf("Shutdown: %v, want 20 frames lost", err)
				}
			})
		})
	}
	t.Run("peer that does not close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newOtelPeer(t, otelScript{end: func(c *otelConn, _ byte, _ []byte) { <-c.peer.tb.Context().Done() }})
			s := p.connection()
			p.conn(0)
			synctest.Wait()
			began := time.Now()
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != wsconn.CloseTimeout {
				t.Errorf("Shutdown took %v, want %v", took, wsconn.CloseTimeout)
			}
		})
	})
	t.Run("second call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newOtelPeer(t, otelScript{ping: func(*otelConn, []byte) bool { return true }})
			s := p.connection()
			sendLogs(t, s, 0, 1)
			first := make(chan error, 1)
			go func() { first <- s.Shutdown(context.Background()) }()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("second Shutdown: %v", err)
			}
			if err := <-first; err == nil {
				t.Error("first Shutdown, cut short by the second: no error")
			}
		})
	})
}

// absentUntil returns a peer that rejects connections until appear is called.
func absentUntil(t *testing.T) (p *otelPeer, appear func()) {
	var here atomic.Bool
	p = newOtelPeer(t, otelScript{refuse: func(int, *http.Request) int {
		if here.Load() {
			return 0
		}
		return http.StatusServiceUnavailable
	}})
	return p, func() { here.Store(true) }
}

// If frames are dropped while Flush waits for them, Flush returns an error.
func TestTelemetryFlushReportsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, appear := absentUntil(t)
		tel := p.telemetry(OtelConfig{ChannelCapacity: ptr(uint64(4)), MetricsEnabled: ptr(false)})
		synctest.Wait()
		for range 4 {
			emitLog(tel, t.Context(), "lost")
		}
		flushed := make(chan error, 1)
		go func() { flushed <- tel.Flush(t.Context()) }()
		synctest.Wait() // all records are queued
		sendLogs(t, tel.Connection(), 0, 4)
		lost := tel.Connection().Stats().Logs.Full
		appear()
		want := fmt.Sprintf("0 frames left, %d dropped", lost)
		if err := <-flushed; suite.note(err) == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Flush: %v, want %q", err, want)
		}
		if diff := cmp.Diff(wantLogs(0, 4), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}

// Shutdown flushes the providers once more. Queued frames that are dropped to make room for
// the providers' last records also count as lost.
func TestTelemetryShutdownReportsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		dial := make(chan struct{})
		tel := p.telemetry(OtelConfig{ChannelCapacity: ptr(uint64(1)), LogsFlushIntervalMs: ptr(uint64(3_600_000)), MetricsEnabled: ptr(false)},
			WithTelemetryConnection(WithConnectionDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				<-dial
				return p.mem.DialContext(ctx, network, addr)
			})))
		sendLogs(t, tel.Connection(), 0, 1)
		emitLog(tel, t.Context(), "the last word") // stays in its batch, because the queue is full
		ended := make(chan error, 1)
		go func() { ended <- tel.Shutdown(t.Context()) }()
		synctest.Wait()
		close(dial)
		err := <-ended
		if suite.note(err) == nil || !errors.Is(err, ErrBufferFull) || !strings.Contains(err.Error(), "1 frames were lost") {
			t.Errorf("Shutdown: %v, want one frame lost to the full queue", err)
		}
		if n := len(p.containing("the last word")); n != 1 || len(p.received()) != 1 {
			t.Errorf("the peer received %q", p.received())
		}
	})
}

// Once Shutdown has completed, further calls return nil, even with a canceled context.
func TestTelemetryShutdownCanBeRepeated(t *testing.T) {
	tel, err := StartTelemetry(t.Context(), OtelConfig{Enabled: ptr(false)})
	if err != nil {
		t.Fatal(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if err := tel.Shutdown(ctx); err != nil {
			t.Fatalf("Telemetry: %v", err)
		}
		if err := tel.Connection().Shutdown(ctx); err != nil {
			t.Fatalf("connection: %v", err)
		}
	}
}

// If the connection breaks on the engine's side in the middle of a flush, nothing is lost.
func TestTelemetryReconnectLosesNothing(t *testing.T) {
	for _, kind := range []string{"before the frame", "after the frame", "pong lost"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { killEngine(t, newOtelPeer(t, otelScript{}), kind) })
		})
	}
	t.Run("tcp", func(t *testing.T) { killEngine(t, newTCPOtelPeer(t, otelScript{}), "after the frame") })
}

func killEngine(t *testing.T, p *otelPeer, kind string) {
	const kills, frames = 100, 20_000
	var seen atomic.Int64
	p.script.frame = func(c *otelConn, _ []byte) bool {
		if count := seen.Add(1); c.n < kills && kind != "pong lost" && count%37 == 0 {
			c.kill()
			return kind == "after the frame"
		}
		return true
	}
	p.script.ping = func(c *otelConn, _ []byte) bool {
		if c.n < kills && kind == "pong lost" {
			c.kill()
			return true
		}
		return false
	}
	s := p.connection(WithConnectionReconnection(ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 5}))
	for n := range frames {
		if err := s.Send(logFrame(n)); err != nil {
			t.Fatal(err)
		}
		if n%500 == 499 {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	stats := s.Stats()
	if stats.Reconnects < kills {
		t.Errorf("%d kills, want %d", stats.Reconnects, kills)
	}
	first := map[string]bool{}
	var order []string
	for _, f := range p.received() {
		if !first[f] {
			first[f] = true
			order = append(order, f)
		}
	}
	if diff := cmp.Diff(wantLogs(0, frames), order); diff != "" {
		t.Errorf("records, without duplicates (-want +got):\n%s", diff)
	}
	if stats.Dropped() != 0 || stats.Confirmed != frames {
		t.Errorf("stats: %+v", stats)
	}
	t.Logf("%d kills, %d records, %d lost, %d sent again, %d arrived twice",
		stats.Reconnects, frames, frames-len(order), stats.Retried, len(p.received())-len(order))
}

// A span's start is sent before the finished span, and is never resent.
func TestLiveSpanIsNeverSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cuts := 0
		p := newOtelPeer(t, otelScript{})
		p.script.frame = func(c *otelConn, payload []byte) bool {
			if cuts++; cuts%97 == 0 && c.n < 40 {
				c.kill()
			}
			return true
		}
		s := p.connection(WithConnectionQueue(50, 1<<20), WithConnectionReconnection(ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 5}))
		for n := range 5000 {
			_ = s.enqueue(otlpjson.Frame{Prefix: otlpjson.PrefixTraces, Data: fmt.Appendf(nil, "start %d", n), Live: true, Records: 1})
			if n >= 3 {
				if err := s.enqueue(otlpjson.Frame{Prefix: otlpjson.PrefixTraces, Data: fmt.Appendf(nil, "end %d", n-3), Records: 1}); err != nil {
					t.Fatal(err)
				}
			}
			if n%8 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended, started := map[string]bool{}, map[string]int{}
		for _, f := range p.received() {
			what, n, _ := strings.Cut(strings.TrimPrefix(f, otlpjson.PrefixTraces), " ")
			if what == "end" {
				ended[n] = true
				continue
			}
			if started[n]++; started[n] > 1 {
				t.Errorf("the start of %s arrived twice", n)
			}
			if ended[n] {
				t.Errorf("the start of %s arrived after its end", n)
			}
		}
		if len(started) < 1000 || len(ended) < 1000 {
			t.Errorf("%d starts, %d ends", len(started), len(ended))
		}
		stats := s.Stats()
		if stats.Reconnects < 40 {
			t.Errorf("%d cuts, want 40", stats.Reconnects)
		}
		t.Logf("%d starts and %d ends arrived, %d and %d were dropped", len(started), len(ended), stats.LiveSpans.Frames(), stats.Traces.Frames())
	})
}

// Drops are reported immediately, and then once per minute.
func TestTelemetryReportsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if bytes.Contains(p, []byte("was dropped")) {
				said = append(said, string(p))
			}
			return len(p), nil
		}), nil))
		down := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
		s, err := NewSharedEngineConnection("ws://127.0.0.1:1", WithConnectionDialContext(down), WithConnectionLogger(log), WithConnectionQueue(10, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 250 * 10 {
			if err := s.Send(logFrame(n)); err != nil {
				t.Fatal(err)
			}
			if n%10 == 9 {
				time.Sleep(time.Second)
			}
		}
		if err := s.Shutdown(t.Context()); err == nil {
			t.Error("Shutdown: no error")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(said) != 6 { // at once, after 60, 120, 180 and 240 s, and at the end
			t.Errorf("reported %d times:\n%s", len(said), strings.Join(said, ""))
		}
		if last := said[len(said)-1]; !strings.Contains(last, "2500 frames of logs with 2500 records (queue full 2490, not connected 0, closed 10)") {
			t.Errorf("last report: %s", last)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A large frame is sent in several fragments.
func TestTelemetryDeliversLargeFrames(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	s := p.connection()
	var want []string
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20, otlpjson.MaxFrameBytes, 20 << 20} {
		data := bytes.Repeat([]byte("x"), size)
		want = append(want, otlpjson.PrefixTraces+string(data))
		if err := s.Send(OtelMessage{Prefix: otlpjson.PrefixTraces, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.received(); !slices.Equal(got, want) {
		t.Errorf("%d frames arrived, or their contents differ", len(got))
	}
	if n := s.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}

func TestTelemetryConcurrent(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	s := p.connection(WithConnectionQueue(100_000, 64<<20))
	var senders, flushers sync.WaitGroup
	var accepted [8]int
	stop := make(chan struct{})
	for i := range accepted {
		senders.Go(func() {
			for n := range 2000 {
				if err := s.Send(logFrame(i*10_000 + n)); err != nil {
					if !errors.Is(err, ErrConnectionClosed) {
						t.Error(err)
					}
					return
				}
				accepted[i]++
			}
		})
		flushers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := s.Flush(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
				_, _ = s.Stats(), s.State()
			}
		})
	}
	p.wait("some frames", func() bool { return len(p.frames) > 500 })
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	senders.Wait()
	close(stop)
	flushers.Wait()
	total := 0
	for _, n := range accepted {
		total += n
	}
	if got := len(p.received()); got != total {
		t.Errorf("%d frames accepted, %d arrived", total, got)
	}
}

// Frames are not sent again just because the engine is slow to confirm them.
func TestTelemetryIsNotResentToASlowEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{frame: func(*otelConn, []byte) bool {
			time.Sleep(10 * time.Second)
			return true
		}})
		s := p.connection()
		sendLogs(t, s, 0, 200)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantLogs(0, 200), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
		if n := s.Stats().Reconnects; n != 0 {
			t.Errorf("%d reconnects", n)
		}
	})
}

func TestTelemetryReportsDropsToOpenTelemetry(t *testing.T) {
	before := otel.GetErrorHandler()
	defer otel.SetErrorHandler(before)
	said := make(chan error, 10)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { said <- suite.note(err) }))
	down := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
	retries := uint64(0)
	s, err := NewSharedEngineConnection("ws://127.0.0.1:1", WithConnectionDialContext(down), WithConnectionQueue(1, 100),
		WithConnectionReconnection(ReconnectionConfig{MaxRetries: &retries}))
	if err != nil {
		t.Fatal(err)
	}
	<-s.done
	if err := s.Send(logFrame(1)); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("Send: %v", err)
	}
	if err := <-said; !strings.Contains(err.Error(), "gave up after 1 attempts") {
		t.Errorf("said %v", err)
	}
	_ = s.Shutdown(t.Context())
}
