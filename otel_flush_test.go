package iii

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/otlpjson"
)

// Flush returns when the peer has read everything, however late.
func TestChecklistFlushOfLatePeer(t *testing.T) {
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
			t.Errorf("Flush returned after %v, the peer reads after 25 s", took)
		}
		if diff := cmp.Diff(wantLogs(0, 100), p.received()); diff != "" {
			t.Errorf("frames after Flush (-want +got):\n%s", diff)
		}
	})
}

func TestChecklistFlushOfSilentPeer(t *testing.T) {
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
			t.Errorf("the peer has %d frames", n)
		}
	})
}

func TestChecklistFlushWithoutPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
		s, err := NewSharedEngineConnection("ws://user:"+secretPassword+"@127.0.0.1:1/?token="+secretQuery, WithConnectionDialContext(down), WithConnectionLogger(testLogger))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Errorf("Flush of nothing: %v", err)
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
			t.Errorf("Flush: %v, want 7 frames left, and why", err)
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

// Shutdown makes one more attempt at once where there is something to deliver.
func TestChecklistShutdownDelivers(t *testing.T) {
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
		synctest.Wait() // it sleeps for half a minute now
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

// A link that dies under Shutdown is made anew at once.
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

func TestChecklistShutdownIsBounded(t *testing.T) {
	tests := []struct {
		name   string
		script otelScript
		stop   bool // the peer reads nothing
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
			if took := time.Since(began); took != closeTimeout {
				t.Errorf("Shutdown took %v, want %v", took, closeTimeout)
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

// absentUntil is a peer that refuses connections until the returned function is
// called.
func absentUntil(t *testing.T) (p *otelPeer, come func()) {
	var here atomic.Bool
	p = newOtelPeer(t, otelScript{refuse: func(int, *http.Request) int {
		if here.Load() {
			return 0
		}
		return http.StatusServiceUnavailable
	}})
	return p, func() { here.Store(true) }
}

// What was recorded before Flush and made room for newer frames while it waited is
// not there, so Flush must not say that all is.
func TestTelemetryFlushTellsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, come := absentUntil(t)
		tel := p.telemetry(OtelConfig{ChannelCapacity: ptr(uint64(4)), MetricsEnabled: ptr(false)})
		synctest.Wait()
		for range 4 {
			emitLog(tel, t.Context(), "lost")
		}
		flushed := make(chan error, 1)
		go func() { flushed <- tel.Flush(t.Context()) }()
		synctest.Wait() // all that was recorded is in the queue
		sendLogs(t, tel.Connection(), 0, 4)
		lost := tel.Connection().Stats().Logs.Full
		come()
		want := fmt.Sprintf("0 frames left, %d dropped", lost)
		if err := <-flushed; suite.note(err) == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Flush: %v, want %q", err, want)
		}
		if diff := cmp.Diff(wantLogs(0, 4), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}

// What the last flush of the providers pushes out of the queue is lost as well.
func TestTelemetryShutdownTellsDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		dial := make(chan struct{})
		tel := p.telemetry(OtelConfig{ChannelCapacity: ptr(uint64(1)), LogsFlushIntervalMs: ptr(uint64(3_600_000)), MetricsEnabled: ptr(false)},
			WithTelemetryConnection(WithConnectionDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				<-dial
				return p.mem.DialContext(ctx, network, addr)
			})))
		sendLogs(t, tel.Connection(), 0, 1)
		emitLog(tel, t.Context(), "the last word") // waits for more: the queue is full
		ended := make(chan error, 1)
		go func() { ended <- tel.Shutdown(t.Context()) }()
		synctest.Wait()
		close(dial)
		err := <-ended
		if suite.note(err) == nil || !errors.Is(err, ErrBufferFull) || !strings.Contains(err.Error(), "1 frames were lost") {
			t.Errorf("Shutdown: %v, want one frame lost to the full queue", err)
		}
		if n := len(p.containing("the last word")); n != 1 || len(p.received()) != 1 {
			t.Errorf("the peer has %q", p.received())
		}
	})
}

// Once all has ended, further calls say so, whatever their context.
func TestTelemetryShutdownAgain(t *testing.T) {
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
