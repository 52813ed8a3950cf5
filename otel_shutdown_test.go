package iii

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// A shutdown without an engine ends by itself, one with a silent engine by
// shutdown_timeout_ms or ctx; each says what it has cost, and leaves nothing.
func TestChecklistShutdownTimeout(t *testing.T) {
	silent := otelScript{ping: func(*otelConn, []byte) bool { return true }}
	tests := []struct {
		name   string
		script otelScript
		limit  time.Duration // of ctx; 0: none
		cfg    OtelConfig
		down   bool
		want   time.Duration
	}{
		{"silent engine", silent, 0, OtelConfig{ShutdownTimeoutMs: ptr(uint64(2500))}, false, 2500 * time.Millisecond},
		{"default", silent, 0, OtelConfig{}, false, 10 * time.Second},
		{"ctx", silent, time.Second, OtelConfig{}, false, time.Second},
		{"no engine", otelScript{}, 0, OtelConfig{}, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newOtelPeer(t, tt.script)
				if tt.down {
					p.close()
				}
				tel := p.telemetry(tt.cfg)
				recordOfEach(t, tel)
				time.Sleep(15 * time.Second) // whatever waits sleeps
				ctx, cancel := context.WithCancel(t.Context())
				if tt.limit > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tt.limit)
				}
				defer cancel()
				began := time.Now()
				err := suite.note(tel.Shutdown(ctx))
				if took := time.Since(began); took != tt.want {
					t.Errorf("Shutdown took %v, want %v", took, tt.want)
				}
				if err == nil || !strings.Contains(err.Error(), "frames were lost") {
					t.Fatalf("Shutdown: %v", err)
				}
				if tt.want > 0 && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Shutdown: %v, want DeadlineExceeded", err)
				}
				stats := tel.Connection().Stats()
				if lost := stats.Dropped() - stats.Metrics.NotConnected; !strings.Contains(err.Error(), fmt.Sprintf("%d frames were lost", lost)) || lost < 3 {
					t.Errorf("Shutdown: %v; dropped were %d", err, lost)
				}
				if n := strings.Count(err.Error(), "frames left"); n > 1 {
					t.Errorf("said %d times: %v", n, err)
				}
				if err := tel.Shutdown(t.Context()); err != nil {
					t.Errorf("second Shutdown: %v", err)
				}
				if err := tel.Flush(t.Context()); err != nil {
					t.Errorf("Flush after Shutdown: %v", err)
				}
			})
		})
	}
}

// A collection that hangs holds nobody beyond ctx.
func TestTelemetryFlushOfHangingCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		tel := p.telemetry(OtelConfig{})
		release := make(chan struct{})
		_, err := tel.Meter().Int64ObservableGauge("g", metric.WithInt64Callback(func(context.Context, metric.Int64Observer) error {
			<-release
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer close(release)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := tel.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("Flush took %v, want the 20 ms of its context", took)
		}
	})
}
