package iii

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"

	"github.com/iii-go/iii/internal/otlpjson"
)

// The engine's side is killed in the middle of flushes, and nothing is lost.
func TestChecklistReconnectLosesNothing(t *testing.T) {
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
		t.Errorf("records, without those that came again (-want +got):\n%s", diff)
	}
	if stats.Dropped() != 0 || stats.Confirmed != frames {
		t.Errorf("stats: %+v", stats)
	}
	t.Logf("%d kills, %d records, %d lost, %d sent again, %d came twice",
		stats.Reconnects, frames, frames-len(order), stats.Retried, len(p.received())-len(order))
}

// The start of a span is ahead of its end, and is never sent again.
func TestChecklistLiveSpanStaysAhead(t *testing.T) {
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
				t.Errorf("the start of %s came twice", n)
			}
			if ended[n] {
				t.Errorf("the start of %s came after its end", n)
			}
		}
		if len(started) < 1000 || len(ended) < 1000 {
			t.Errorf("%d starts, %d ends", len(started), len(ended))
		}
		stats := s.Stats()
		if stats.Reconnects < 40 {
			t.Errorf("%d cuts, want 40", stats.Reconnects)
		}
		t.Logf("%d starts and %d ends came, %d and %d were dropped", len(started), len(ended), stats.LiveSpans.Frames(), stats.Traces.Frames())
	})
}

// Drops are said at once, and then once a minute.
func TestTelemetrySaysDrops(t *testing.T) {
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
		if len(said) != 6 { // at once, after 60, 120, 180, 240 s, and at the end
			t.Errorf("said %d times:\n%s", len(said), strings.Join(said, ""))
		}
		if last := said[len(said)-1]; !strings.Contains(last, "2500 frames of logs with 2500 records (queue full 2490, not connected 0, closed 10)") {
			t.Errorf("last words: %s", last)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A large frame goes in pieces, and is in one piece there.
func TestTelemetryLargeFrames(t *testing.T) {
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
		t.Errorf("%d frames came, or others", len(got))
	}
	if n := s.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}

// Sends, flushes and the end at once.
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
		t.Errorf("%d frames accepted, %d came", total, got)
	}
}

// An engine that is slow to take a frame is not sent the same again and again.
func TestTelemetrySlowEngine(t *testing.T) {
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

// Without a logger, what was dropped is said to OpenTelemetry's error handler.
func TestTelemetrySaysDropsToOpenTelemetry(t *testing.T) {
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
