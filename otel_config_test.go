package iii

import (
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// telemetryVariables lists the environment variables that telemetry reads at startup.
var telemetryVariables = []string{
	"OTEL_ENABLED", "OTEL_SERVICE_NAME", "SERVICE_VERSION", "SERVICE_NAMESPACE", "SERVICE_INSTANCE_ID", "III_URL",
	"OTEL_METRICS_ENABLED", "OTEL_SPANS_FLUSH_INTERVAL_MS", "OTEL_LOGS_FLUSH_INTERVAL_MS", "OTEL_LOGS_BATCH_SIZE",
	"OTEL_LIVE_SPANS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED",
}

func clearTelemetryEnv(t *testing.T) {
	t.Helper()
	for _, name := range telemetryVariables {
		t.Setenv(name, "") // restored after the test
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTelemetryReadsItsVariables(t *testing.T) {
	type field = func(*telemetryConfig) any
	bools := []struct {
		variable string
		get      field
		set      func(*OtelConfig, *bool)
	}{
		{"OTEL_ENABLED", func(c *telemetryConfig) any { return c.enabled }, func(c *OtelConfig, b *bool) { c.Enabled = b }},
		{"OTEL_METRICS_ENABLED", func(c *telemetryConfig) any { return c.metrics }, func(c *OtelConfig, b *bool) { c.MetricsEnabled = b }},
		{"OTEL_LIVE_SPANS", func(c *telemetryConfig) any { return c.live }, func(c *OtelConfig, b *bool) { c.LiveSpans = b }},
	}
	const unset = "\x00"
	type test struct {
		variable, value string
		cfg             OtelConfig
		get             field
		want            any
		warns           bool
	}
	var tests []test
	for _, b := range bools {
		for value, want := range map[string]bool{
			unset: true, "": true, "  ": true, "true": true, "TRUE": true, " 1 ": true, "yes": true, "On": true,
			"false": false, "False": false, "0": false, "no": false, " OFF\t": false,
		} {
			tests = append(tests, test{variable: b.variable, value: value, get: b.get, want: want})
		}
		tests = append(tests, test{variable: b.variable, value: "maybe", get: b.get, want: true, warns: true})
		for _, field := range []bool{true, false} {
			for _, value := range []string{unset, "false", "true", "maybe"} {
				var cfg OtelConfig
				b.set(&cfg, &field)
				tests = append(tests, test{variable: b.variable, value: value, cfg: cfg, get: b.get, want: field})
			}
		}
	}
	enabled := func(c *telemetryConfig) any { return c.enabled }
	for value, want := range map[string]bool{unset: true, "": true, " ": true, "false": true, "False": true, "true": false, "TRUE": false, " True\t": false} {
		tests = append(tests,
			test{variable: "OTEL_SDK_DISABLED", value: value, get: enabled, want: want},
			test{variable: "OTEL_SDK_DISABLED", value: value, cfg: OtelConfig{Enabled: ptr(true)}, get: enabled, want: true},
			test{variable: "OTEL_SDK_DISABLED", value: value, cfg: OtelConfig{Enabled: ptr(false)}, get: enabled, want: false})
	}
	for _, value := range []string{"1", "yes", "on", "0", "t", "maybe"} {
		tests = append(tests, test{variable: "OTEL_SDK_DISABLED", value: value, get: enabled, want: true, warns: true})
	}
	texts := []struct {
		variable string
		get      field
		set      func(*OtelConfig, *string)
		def      string
	}{
		{"OTEL_SERVICE_NAME", func(c *telemetryConfig) any { return c.name }, func(c *OtelConfig, s *string) { c.ServiceName = s }, ""},
		{"SERVICE_VERSION", func(c *telemetryConfig) any { return c.version }, func(c *OtelConfig, s *string) { c.ServiceVersion = s }, ""},
		{"SERVICE_NAMESPACE", func(c *telemetryConfig) any { return c.namespace }, func(c *OtelConfig, s *string) { c.ServiceNamespace = s }, ""},
		{"SERVICE_INSTANCE_ID", func(c *telemetryConfig) any { return c.instanceID }, func(c *OtelConfig, s *string) { c.ServiceInstanceID = s }, ""},
		{"III_URL", func(c *telemetryConfig) any { return c.url }, func(c *OtelConfig, s *string) { c.EngineWSURL = s }, DefaultURL},
	}
	for _, s := range texts {
		var named, blank OtelConfig
		s.set(&named, ptr(" ws://field "))
		s.set(&blank, ptr("  "))
		tests = append(tests,
			test{variable: s.variable, value: unset, get: s.get, want: s.def},
			test{variable: s.variable, value: "", get: s.get, want: s.def},
			test{variable: s.variable, value: " \t", get: s.get, want: s.def},
			test{variable: s.variable, value: " ws://variable ", get: s.get, want: "ws://variable"},
			test{variable: s.variable, value: "ws://variable", cfg: named, get: s.get, want: "ws://field"},
			test{variable: s.variable, value: unset, cfg: named, get: s.get, want: "ws://field"},
			test{variable: s.variable, value: "ws://variable", cfg: blank, get: s.get, want: "ws://variable"},
		)
	}
	numbers := []struct {
		variable string // "" means none
		get      field
		set      func(*OtelConfig, *uint64)
		def      uint64
		as       func(uint64) any
		zero     any // expected value if the variable is 0
	}{
		{"OTEL_SPANS_FLUSH_INTERVAL_MS", func(c *telemetryConfig) any { return c.spansInterval }, func(c *OtelConfig, n *uint64) { c.SpansFlushIntervalMs = n }, 100, asMilliseconds, time.Duration(0)},
		{"OTEL_LOGS_FLUSH_INTERVAL_MS", func(c *telemetryConfig) any { return c.logsInterval }, func(c *OtelConfig, n *uint64) { c.LogsFlushIntervalMs = n }, 100, asMilliseconds, time.Duration(0)},
		{"OTEL_LOGS_BATCH_SIZE", func(c *telemetryConfig) any { return c.logsBatch }, func(c *OtelConfig, n *uint64) { c.LogsBatchSize = n }, 1, func(n uint64) any { return int(n) }, nil},
		{"OTEL_METRIC_EXPORT_INTERVAL", func(c *telemetryConfig) any { return c.metricsInterval }, func(c *OtelConfig, n *uint64) { c.MetricsExportIntervalMs = n }, 60_000, asMilliseconds, time.Minute},
		{"", func(c *telemetryConfig) any { return c.shutdownTimeout }, func(c *OtelConfig, n *uint64) { c.ShutdownTimeoutMs = n }, 10_000, asMilliseconds, nil},
		{"", func(c *telemetryConfig) any { return c.queue }, func(c *OtelConfig, n *uint64) { c.ChannelCapacity = n }, 10_000, func(n uint64) any { return int(n) }, nil},
	}
	for _, n := range numbers {
		var field OtelConfig
		n.set(&field, ptr(uint64(77)))
		tests = append(tests,
			test{variable: n.variable, value: unset, get: n.get, want: n.as(n.def)},
			test{variable: n.variable, value: "5", cfg: field, get: n.get, want: n.as(77)})
		switch n.variable {
		case "":
		case "OTEL_METRIC_EXPORT_INTERVAL": // not supported; OtelConfig sets the interval
			tests = append(tests, test{variable: n.variable, value: "5", get: n.get, want: n.zero})
		default:
			tests = append(tests,
				test{variable: n.variable, value: "", get: n.get, want: n.as(n.def)},
				test{variable: n.variable, value: " 250 ", get: n.get, want: n.as(250)})
			for _, odd := range []string{"-1", "x", "1.5", "1e3", "99999999999999999999999"} {
				tests = append(tests, test{variable: n.variable, value: odd, get: n.get, want: n.as(n.def), warns: true})
			}
			if n.zero != nil {
				tests = append(tests, test{variable: n.variable, value: "0", get: n.get, want: n.zero})
			} else {
				tests = append(tests, test{variable: n.variable, value: "0", get: n.get, want: n.as(n.def), warns: true})
			}
		}
	}
	clearTelemetryEnv(t)
	for _, tt := range tests {
		name := tt.variable + "=" + strings.ReplaceAll(tt.value, unset, "unset")
		t.Run(name, func(t *testing.T) {
			if tt.variable != "" && tt.value != unset {
				t.Setenv(tt.variable, tt.value)
			}
			got, err := tt.cfg.resolve()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.get(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (len(got.warnings) == 1) != tt.warns || len(got.warnings) > 1 {
				t.Errorf("warnings: %v", got.warnings)
			}
		})
	}
	t.Logf("%d cases", len(tests))
}

func asMilliseconds(n uint64) any { return time.Duration(n) * time.Millisecond }

func TestTelemetryConfigExtremes(t *testing.T) {
	clearTelemetryEnv(t)
	huge := OtelConfig{
		ChannelCapacity: ptr(uint64(math.MaxUint64)), LogsBatchSize: ptr(uint64(math.MaxUint64)), ShutdownTimeoutMs: ptr(uint64(math.MaxUint64)),
		SpansFlushIntervalMs: ptr(uint64(math.MaxUint64)), LogsFlushIntervalMs: ptr(uint64(math.MaxUint64)), MetricsExportIntervalMs: ptr(uint64(math.MaxUint64)),
	}
	r, err := huge.resolve()
	if err != nil {
		t.Fatal(err)
	}
	const longest = math.MaxInt64 / time.Millisecond * time.Millisecond
	if r.queue != math.MaxInt32 || r.logsBatch != math.MaxInt32 || r.shutdownTimeout != longest || r.metricsInterval != longest {
		t.Errorf("%+v", r)
	}
	r, err = (&OtelConfig{LogsBatchSize: ptr(uint64(0)), ShutdownTimeoutMs: ptr(uint64(0))}).resolve()
	if err != nil || r.logsBatch != 1 || r.shutdownTimeout != 0 {
		t.Errorf("zeros: %+v, %v", r, err)
	}
	for _, cfg := range []OtelConfig{{ChannelCapacity: ptr(uint64(0))}, {MetricsExportIntervalMs: ptr(uint64(0))}, {EngineWSURL: ptr("nowhere")}} {
		if _, err := StartTelemetry(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestTelemetryResource(t *testing.T) {
	sdk := map[string]string{"telemetry.sdk.name": "iii-go-sdk", "telemetry.sdk.language": "go", "telemetry.sdk.version": Version}
	guess := filepath.Base(os.Args[0])
	tests := []struct {
		name string
		env  map[string]string
		cfg  OtelConfig
		want map[string]string // attributes other than those of the SDK; "uuid" matches any UUID
		warn bool
	}{
		{name: "nothing", want: map[string]string{"service.name": guess, "service.version": "unknown", "service.instance.id": "uuid"}},
		{
			name: "variables",
			env:  map[string]string{"OTEL_SERVICE_NAME": "n", "SERVICE_VERSION": "v", "SERVICE_NAMESPACE": "s", "SERVICE_INSTANCE_ID": "i"},
			want: map[string]string{"service.name": "n", "service.version": "v", "service.namespace": "s", "service.instance.id": "i"},
		},
		{
			name: "attributes over guesses",
			env:  map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "service.name=rn,service.version=rv,team=a%20b,telemetry.sdk.name=x"},
			want: map[string]string{"service.name": "rn", "service.version": "rv", "service.instance.id": "uuid", "team": "a b"},
		},
		{
			name: "variables over attributes",
			env:  map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "service.name=rn,service.version=rv", "OTEL_SERVICE_NAME": "n", "SERVICE_VERSION": "v"},
			want: map[string]string{"service.name": "n", "service.version": "v", "service.instance.id": "uuid"},
		},
		{
			name: "fields over all",
			env: map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "service.name=rn,service.instance.id=ri", "OTEL_SERVICE_NAME": "n",
				"SERVICE_VERSION": "v", "SERVICE_NAMESPACE": "s", "SERVICE_INSTANCE_ID": "i"},
			cfg:  OtelConfig{ServiceName: ptr("fn"), ServiceVersion: ptr("fv"), ServiceNamespace: ptr("fs"), ServiceInstanceID: ptr("fi")},
			want: map[string]string{"service.name": "fn", "service.version": "fv", "service.namespace": "fs", "service.instance.id": "fi"},
		},
		{
			name: "malformed attributes",
			env:  map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "team=a," + secretHeader},
			want: map[string]string{"service.name": guess, "service.version": "unknown", "service.instance.id": "uuid", "team": "a"},
			warn: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clearTelemetryEnv(t)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			r, err := tt.cfg.resolve()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, a := range r.resource(t.Context()).Attributes() {
				got[string(a.Key)] = a.Value.String()
			}
			if tt.want["service.instance.id"] == "uuid" {
				if id, err := uuid.Parse(got["service.instance.id"]); err != nil || id.Version() != 4 {
					t.Errorf("instance id %q", got["service.instance.id"])
				}
				got["service.instance.id"] = "uuid"
			}
			for key, value := range sdk {
				tt.want[key] = value
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (len(r.warnings) > 0) != tt.warn {
				t.Errorf("warnings: %v", r.warnings)
			}
			for _, w := range r.warnings {
				_ = suite.note(w)
			}
		})
	}
}

func TestTelemetryURLEndsInOtel(t *testing.T) {
	tests := []struct{ base, want string }{
		{"ws://localhost:49134", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/", "ws://localhost:49134/otel"},
		{"ws://localhost:49134///", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/otel", "ws://localhost:49134/otel"},
		{"ws://localhost:49134/otel/", "ws://localhost:49134/otel"},
		{"ws://localhost:49134?token=abc", "ws://localhost:49134/otel?token=abc"},
		{"ws://localhost:49134/otel/?token=abc", "ws://localhost:49134/otel?token=abc"},
		{"ws://localhost:49134?a=/otel", "ws://localhost:49134/otel?a=/otel"},
		{"ws://localhost:49134#frag", "ws://localhost:49134/otel"}, // a WebSocket address has no fragment
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
		for _, base := range []string{tt.base, tt.want} { // the function is idempotent
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
		{"many pending", with(func(c *ReconnectionConfig) { c.MaxPendingMessages = math.MaxUint64 }),
			with(func(c *ReconnectionConfig) { c.MaxPendingMessages = math.MaxUint64 }), math.MaxInt32},
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
			if cfg.maxOffline != tt.away {
				t.Errorf("pending: %d, want %d", cfg.maxOffline, tt.away)
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
			t.Errorf("%s: StartTelemetry accepted it", name)
		}
	}
}
