package iii

import (
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChecklistTelemetryURL(t *testing.T) {
	tests := []struct{ base, want string }{
		{"ws://localhost:49134", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/", "ws://localhost:49134/otel"},
		{"ws://localhost:49134///", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/otel", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/otel/", "ws://localhost:49134/otel"},
		{"ws://localhost:49134?token=abc", "ws://localhost:49134/otel?token=abc"},
		{"ws://localhost:49134/otel/?token=abc", "ws://localhost:49134/otel?token=abc"},
		{"ws://localhost:49134?a=/otel", "ws://localhost:49134/otel?a=/otel"},
		{"ws://localhost:49134#frag", "ws://localhost:49134/otel"}, // fragments do not travel
		{"ws://localhost:49134?a=b#frag", "ws://localhost:49134/otel?a=b"},
		{"wss://host/base", "wss://host/base/otel"},
		{"wss://host/base/hotel", "wss://host/base/hotel/otel"},
		{"wss://host/a%2Fb", "wss://host/a%2Fb/otel"},
		{"ws://otel", "ws://otel/otel"},
		{"http://host", "ws://host/otel"},
		{"HTTPS://host", "wss://host/otel"},
		{"ws://user:pw@host", "ws://user:pw@host/otel"},
		{"ws://[::1]:1", "ws://[::1]:1/otel"},
	}
	for _, tt := range tests {
		for _, base := range []string{tt.base, tt.want} { // again: it is idempotent
			u, err := telemetryURL(base)
			if err != nil {
				t.Errorf("%s: %v", base, err)
				continue
			}
			if got := u.String(); got != tt.want {
				t.Errorf("%s: got %s, want %s", base, got, tt.want)
			}
		}
	}
	for _, bad := range []string{"localhost:49134", "ftp://host", "ws://", "ws://%zz", "://" + secretPassword} {
		if _, err := telemetryURL(bad); suite.note(err) == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestConnectionReconnectionOption(t *testing.T) {
	def := DefaultReconnectionConfig()
	retries := uint64(3)
	with := func(change func(*ReconnectionConfig)) ReconnectionConfig {
		cfg := def
		change(&cfg)
		return cfg
	}
	tests := []struct {
		name     string
		in, want ReconnectionConfig
		away     int
	}{
		{"default", def, def, 1000},
		{"zero", ReconnectionConfig{}, with(func(c *ReconnectionConfig) { c.MaxPendingMessages = 0 }), 0},
		{"one field", ReconnectionConfig{MaxRetries: &retries}, with(func(c *ReconnectionConfig) {
			c.MaxRetries, c.JitterFactor, c.MaxPendingMessages = &retries, 0, 0
		}), 0},
		{"NaN", with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = math.NaN(), math.NaN() }),
			with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = 1, 0 }), 1000},
		{"infinite", with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = math.Inf(1), math.Inf(1) }),
			with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = 1e9, 1 }), 1000},
		{"below", with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = 0.5, -1 }),
			with(func(c *ReconnectionConfig) { c.BackoffMultiplier, c.JitterFactor = 1, 0 }), 1000},
		{"limit below the first", with(func(c *ReconnectionConfig) { c.InitialDelayMs, c.MaxDelayMs = 500, 100 }),
			with(func(c *ReconnectionConfig) { c.InitialDelayMs, c.MaxDelayMs = 500, 500 }), 1000},
		{"huge", with(func(c *ReconnectionConfig) {
			c.InitialDelayMs, c.MaxDelayMs, c.MaxPendingMessages = math.MaxUint64, math.MaxUint64, math.MaxUint64
		}), with(func(c *ReconnectionConfig) {
			c.InitialDelayMs, c.MaxDelayMs, c.MaxPendingMessages = 2305843009213, 2305843009213, math.MaxUint64
		}), math.MaxInt32},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := newConnectionConfig("ws://127.0.0.1:1", []ConnectionOption{WithConnectionReconnection(tt.in)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, cfg.reconnection); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if cfg.maxAway != tt.away {
				t.Errorf("pending: %d, want %d", cfg.maxAway, tt.away)
			}
			for attempt := range uint64(100) {
				for _, spread := range []float64{0, 0.5, 1} {
					delay := reconnectDelay(cfg.reconnection, attempt+1, spread)
					if delay < 0 || delay.Milliseconds() > int64(cfg.reconnection.MaxDelayMs) {
						t.Fatalf("attempt %d, spread %v: delay %v", attempt+1, spread, delay)
					}
				}
			}
		})
	}
}

func TestConnectionOptionErrors(t *testing.T) {
	for name, opt := range map[string]ConnectionOption{
		"nil option":       nil,
		"header":           WithConnectionHeader(http.Header{"upgrade": {"x"}}),
		"nil dial":         WithConnectionDialContext(nil),
		"queue of nothing": WithConnectionQueue(0, 1),
		"no bytes":         WithConnectionQueue(1, 0),
	} {
		if _, err := NewSharedEngineConnection("ws://127.0.0.1:1", opt); err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
			t.Errorf("%s: %v", name, err)
		}
		if opt == nil {
			continue
		}
		if _, err := StartTelemetry(t.Context(), OtelConfig{}, WithTelemetryConnection(opt)); err == nil {
			t.Errorf("%s: StartTelemetry took it", name)
		}
	}
}
