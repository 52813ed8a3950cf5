package iii_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/enginetest"
)

// telemetryEngine starts an engine. The test fails if this engine rejects a telemetry frame,
// or if a real engine would lose part of one.
func telemetryEngine(t *testing.T, opts ...iiitest.Option) *iiitest.Engine {
	t.Helper()
	e := iiitest.Start(t, opts...)
	t.Cleanup(func() {
		for _, f := range e.Telemetry() {
			enginetest.JudgeFrame(t, f.Prefix, f.Data)
		}
		if n := e.Stats().TelemetryRejected; n != 0 {
			t.Errorf("the engine has rejected %d frames of telemetry", n)
		}
	})
	return e
}

// startTelemetry starts telemetry with cfg. If cfg contains no address, the telemetry connects
// to engine.
func startTelemetry(t *testing.T, engine *iiitest.Engine, cfg iii.OtelConfig) *iii.Telemetry {
	t.Helper()
	if cfg.EngineWSURL == nil {
		url := engine.URL()
		cfg.EngineWSURL = &url
	}
	telemetry, err := iii.StartTelemetry(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := telemetry.Shutdown(context.WithoutCancel(t.Context())); err != nil && cfg.EngineWSURL == nil {
			t.Error(err)
		}
	})
	return telemetry
}

func pointer[T any](v T) *T { return &v }

func flush(t *testing.T, telemetry *iii.Telemetry) {
	t.Helper()
	if err := telemetry.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The engine's description of a worker includes the worker's gauges, even after the worker's
// id has changed.
func TestWorkerInfoShowsTheGauges(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	ready := make(chan struct{}, 10)
	c := connect(t, engine, iii.WithTelemetry(telemetry), iii.WithName("figures"), iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1}),
		iii.WithStateListener(func(s iii.ConnectionState, _ error) {
			if s == iii.ConnectionStateConnected {
				ready <- struct{}{}
			}
		}))
	<-ready
	var ids []string
	for range 2 {
		ids = append(ids, c.WorkerID())
		flush(t, telemetry)
		info, err := iii.Call[iii.WorkerDetail](t.Context(), c, "engine::workers::info", map[string]string{"name": "figures"})
		if err != nil {
			t.Fatal(err)
		}
		m := info.LatestMetrics
		if info.ID != c.WorkerID() || m == nil || m.MemoryRSS == nil || *m.MemoryRSS < 1<<20 || m.CPUPercent == nil || m.UptimeSeconds == nil ||
			m.MemoryHeapUsed == nil || *m.MemoryHeapUsed == 0 || m.MemoryHeapTotal == nil || m.CPUUserMicros == nil || m.CPUSystemMicros == nil {
			t.Errorf("the engine lists worker %s with the metrics %+v", info.ID, m)
		}
		engine.Drop("figures")
		<-ready
	}
	if ids[0] == ids[1] {
		t.Error("the worker's id did not change")
	}
	for _, m := range engine.Metrics() {
		if m.Name == "iii.worker.memory.rss" && m.Scope.Name != "iii-go-sdk" {
			t.Errorf("scope is %+v", m.Scope)
		}
	}
}

// Client.Shutdown flushes the telemetry but does not shut it down.
func TestShutdownFlushesTelemetry(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{SpansFlushIntervalMs: pointer[uint64](3_600_000)})
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	started := make(chan struct{})
	handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (string, error) {
		close(started)
		<-iii.Stopping(ctx)
		return "done", nil
	})
	applied(t, c)
	result := make(chan error, 1)
	caller := connect(t, engine)
	go func() { result <- caller.Call(t.Context(), "t::work", struct{}{}, nil) }()
	<-started
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the running handler's caller got %v", err)
	}
	if spans := engine.Traces(); len(spans) != 1 || spans[0].Name != "execute t::work" {
		t.Errorf("when Shutdown returned, the engine had %+v", spans)
	}
	_, span := telemetry.Tracer().Start(t.Context(), "later")
	span.End()
	flush(t, telemetry)
	if spans := engine.Traces(); len(spans) != 2 {
		t.Errorf("after the client was closed, the engine has %d spans, want 2", len(spans))
	}
}

// If telemetry cannot be delivered, Shutdown waits no longer than the telemetry's own timeout,
// and returns an error.
func TestShutdownWithoutTelemetryConnection(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		away := func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no route to the engine")
		}
		cfg := iii.OtelConfig{EngineWSURL: pointer(engine.URL()), ShutdownTimeoutMs: pointer[uint64](50)}
		telemetry, err := iii.StartTelemetry(t.Context(), cfg, iii.WithTelemetryConnection(iii.WithConnectionDialContext(away)))
		if err != nil {
			t.Fatal(err)
		}
		defer telemetry.Shutdown(context.WithoutCancel(t.Context()))
		c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry), iii.WithName("alone"))
		_, span := telemetry.Tracer().Start(t.Context(), "lost")
		span.End()
		begin := time.Now()
		err = c.Shutdown(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "iii: shutdown: ") {
			t.Errorf("Shutdown returned %v", err)
		}
		if took := time.Since(begin); took != 50*time.Millisecond {
			t.Errorf("Shutdown took %v, want the 50 ms of the telemetry", took)
		}
		if c.Err() != nil {
			t.Errorf("the client ended with %v", c.Err())
		}
	})
}

// If the telemetry connection is down, Shutdown waits at most 3 s for it. If the connection is
// lost during the shutdown, the 3 s begin with the loss. Shutdown then returns an error; Run
// only logs it.
func TestShutdownWaitsBrieflyForTelemetry(t *testing.T) {
	for name, test := range map[string]struct {
		lostAfter time.Duration // 0 means never connected
		limit     uint64        // telemetry's shutdown_timeout_ms
		run       bool
		want      time.Duration
	}{
		"away":                 {0, 60_000, false, 3 * time.Second},
		"away, in Run":         {0, 60_000, true, 3 * time.Second},
		"a shorter limit":      {0, 500, false, 500 * time.Millisecond},
		"lost in the shutdown": {2 * time.Second, 60_000, false, 5 * time.Second},
		"connected and silent": {time.Hour, 7000, false, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				var end net.Conn // delivers nothing after the handshake
				dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
					if test.lostAfter == 0 || end != nil {
						return nil, errors.New("no route to the engine")
					}
					conn, err := engine.DialContext(ctx, network, addr)
					end = mute{conn}
					return end, err
				}
				cfg := iii.OtelConfig{EngineWSURL: pointer(engine.URL()), ShutdownTimeoutMs: &test.limit}
				telemetry, err := iii.StartTelemetry(t.Context(), cfg, iii.WithTelemetryConnection(iii.WithDialContext(dial)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					over, cancel := context.WithCancel(t.Context())
					cancel()
					_ = telemetry.Shutdown(over)
				}()
				var log lines
				c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry), iii.WithName("alone"),
					iii.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				synctest.Wait()
				_, span := telemetry.Tracer().Start(t.Context(), "lost")
				span.End()
				begin := time.Now()
				if test.lostAfter > 0 {
					time.AfterFunc(test.lostAfter, func() { _ = end.Close() })
				}
				if test.run {
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					if err := c.Run(ctx); err != nil {
						t.Errorf("Run = %v", err)
					}
				} else if err := c.Shutdown(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Shutdown = %v, want DeadlineExceeded", err)
				}
				if took := time.Since(begin); took != test.want {
					t.Errorf("it took %v, want %v", took, test.want)
				}
				if !strings.Contains(log.String(), "telemetry was not delivered") {
					t.Errorf("the log does not report the loss:\n%s", log.String())
				}
			})
		})
	}
}

// While the telemetry connection is down, only the last of the clients that share it waits for
// it. The others leave their telemetry in its queue.
func TestLastClientWaitsForSharedTelemetry(t *testing.T) {
	const away = 3 * time.Second
	for name, test := range map[string]struct {
		connected bool // until 2 s after the test begins
		before    func(t *testing.T, a, b *iii.Client)
		shutdown  []time.Duration // when each client is shut down
		want      []time.Duration // how long it takes
	}{
		"one after the other":         {false, nil, []time.Duration{0, time.Minute}, []time.Duration{0, away}},
		"both at once":                {false, nil, []time.Duration{0, 0}, []time.Duration{0, away}},
		"the other has been closed":   {false, func(_ *testing.T, _, b *iii.Client) { _ = b.Close() }, []time.Duration{0}, []time.Duration{away}},
		"lost in the first shutdown":  {true, nil, []time.Duration{0, time.Minute}, []time.Duration{2 * time.Second, away}},
		"lost before the second ends": {true, nil, []time.Duration{0, time.Second}, []time.Duration{2 * time.Second, time.Second + away}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				var end net.Conn // delivers nothing after the handshake
				dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
					if !test.connected || end != nil {
						return nil, errors.New("no route to the engine")
					}
					conn, err := engine.DialContext(ctx, network, addr)
					end = mute{conn}
					return end, err
				}
				cfg := iii.OtelConfig{EngineWSURL: pointer(engine.URL()), ShutdownTimeoutMs: pointer[uint64](60_000)}
				telemetry, err := iii.StartTelemetry(t.Context(), cfg, iii.WithTelemetryConnection(iii.WithDialContext(dial)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					over, cancel := context.WithCancel(t.Context())
					cancel()
					_ = telemetry.Shutdown(over)
				}()
				var clients []*iii.Client
				for range 2 {
					clients = append(clients, connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry), iii.WithLogger(iii.TestLogger)))
				}
				if _, err := iii.New(engine.URL(), iii.WithTelemetry(telemetry)); err != nil { // never connects, so nobody relies on it
					t.Fatal(err)
				}
				synctest.Wait()
				_, span := telemetry.Tracer().Start(t.Context(), "queued")
				span.End()
				if test.before != nil {
					test.before(t, clients[0], clients[1])
				}
				if test.connected {
					time.AfterFunc(2*time.Second, func() { _ = end.Close() })
				}
				took, errs := make([]time.Duration, len(test.shutdown)), make([]error, len(test.shutdown))
				var ended sync.WaitGroup
				for i, at := range test.shutdown {
					ended.Go(func() {
						time.Sleep(at)
						begin := time.Now()
						errs[i] = clients[i].Shutdown(t.Context())
						took[i] = time.Since(begin)
					})
				}
				ended.Wait()
				slices.Sort(took) // the clients may be shut down in any order
				if diff := cmp.Diff(test.want, took); diff != "" {
					t.Errorf("duration of the shutdowns (-want +got):\n%s", diff)
				}
				failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
				if len(failed) != 1 || !errors.Is(failed[0], context.DeadlineExceeded) {
					t.Errorf("errors of the shutdowns: %v, want one DeadlineExceeded", failed)
				}
				if telemetry.Connection().Stats().Queued == 0 {
					t.Error("no telemetry is left in the queue")
				}
			})
		})
	}
}

// mute is a connection that discards all writes after the handshake.
type mute struct{ net.Conn }

func (c mute) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("GET ")) {
		return c.Conn.Write(p)
	}
	return len(p), nil
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestNewWarnsOfDifferentHosts(t *testing.T) {
	for _, tt := range []struct {
		worker, telemetry string
		enabled, warns    bool
	}{
		{"ws://127.0.0.1:1", "ws://localhost:2", true, false},
		{"ws://[::1]:1", "ws://127.0.0.2:1", true, false},
		{"ws://user:hunter2@127.0.0.1:1", "ws://engine.invalid:1?token=hunter2", true, true},
		{"ws://127.0.0.1:1", "ws://engine.invalid:1", false, false},
	} {
		telemetry := startTelemetry(t, nil, iii.OtelConfig{EngineWSURL: &tt.telemetry, Enabled: &tt.enabled, ShutdownTimeoutMs: pointer[uint64](1)})
		var out lines
		c, err := iii.New(tt.worker, iii.WithTelemetry(telemetry), iii.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		got := out.String()
		if strings.Contains(got, "different hosts") != tt.warns || strings.Contains(got, "hunter2") {
			t.Errorf("worker at %s, telemetry to %s: logged %q", tt.worker, tt.telemetry, got)
		}
	}
}

func TestWithTelemetryRejectsZeroValue(t *testing.T) {
	if _, err := iii.New("", iii.WithTelemetry(&iii.Telemetry{})); err == nil {
		t.Error("a Telemetry that was not started is accepted")
	}
	c, err := iii.New("", iii.WithTelemetry(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Disabled telemetry records nothing, but still forwards the caller's trace.
func TestDisabledTelemetryForwardsTheTrace(t *testing.T) {
	engine := telemetryEngine(t)
	before := runtime.NumGoroutine()
	telemetry := startTelemetry(t, engine, iii.OtelConfig{Enabled: pointer(false)})
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines were started", n-before)
	}
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (got traced, err error) {
		err = iii.InSpan(ctx, "inside", 0, func(ctx context.Context) error {
			trace.SpanFromContext(ctx).AddEvent("nothing")
			got = traceOf(ctx)
			return nil
		})
		return got, err
	})
	const id = "0af7651916cd43dd8448eb211c80319c"
	ctx := iii.ExtractContext(t.Context(), "00-"+id+"-b7ad6b7169203331-01", "tenant=acme")
	got, err := iii.Call[traced](ctx, c, "t::work", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(traced{id, true, "acme"}, got); diff != "" {
		t.Errorf("trace in the handler (-want +got):\n%s", diff)
	}
	telemetry.Logger().Debug(ctx, "nothing", nil)
	flush(t, telemetry)
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if frames := engine.Telemetry(); len(frames) != 0 {
		t.Errorf("%d frames of telemetry were sent", len(frames))
	}
}

// A payload of 20 MiB is truncated and does not break the connection.
func TestLargePayloadIsCut(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	if _, err := c.HandleFunc("t::take", func(context.Context, json.RawMessage) (any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	in := json.RawMessage(`{"password":"hunter2","text":"` + strings.Repeat("x", 20<<20) + `"}`)
	if err := c.Call(t.Context(), "t::take", in, nil, iii.WithTimeout(10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	flush(t, telemetry)
	spans := engine.Traces()
	if len(spans) != 1 || len(spans[0].Events) != 2 {
		t.Fatalf("%d spans arrived, want 1 with 2 events", len(spans))
	}
	input := spans[0].Events[0].Attributes
	text := input["iii.payload.json"].(string)
	if len(text) != 1<<20 || !strings.HasSuffix(text, `..."[TRUNCATED]"`) || input["iii.payload.truncated"] != true || strings.Contains(text, "hunter2") {
		t.Errorf("the payload is %d bytes, truncated %v", len(text), input["iii.payload.truncated"])
	}
	if stats := telemetry.Connection().Stats(); stats.Reconnects != 0 {
		t.Errorf("the connection was lost: %+v", stats)
	}
}

// $III_DISABLE_TRACE_PAYLOADS and $III_TRACE_PAYLOAD_MAX_BYTES are read at each invocation.
func TestPayloadsCanBeKeptOutOfSpans(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::echo", func(_ context.Context, in map[string]string) (map[string]string, error) { return in, nil })
	for _, tt := range []struct {
		disable, limit string
		events         int
		truncated      bool
	}{{"", "", 2, false}, {"1", "", 0, false}, {"", "20", 2, true}} {
		recorder.Reset()
		t.Setenv("III_DISABLE_TRACE_PAYLOADS", tt.disable)
		t.Setenv("III_TRACE_PAYLOAD_MAX_BYTES", tt.limit)
		if err := c.Call(t.Context(), "t::echo", map[string]string{"a": "xxxxxxxxxxxxxxxx"}, nil); err != nil {
			t.Fatal(err)
		}
		events := textOf(recorder.Ended()[0]).Events
		if len(events) != tt.events {
			t.Errorf("disabled %q, limit %q: events %v", tt.disable, tt.limit, events)
		}
		for _, e := range events {
			if e.Attributes["iii.payload.truncated"] != tt.truncated {
				t.Errorf("disabled %q, limit %q: event %v", tt.disable, tt.limit, e)
			}
		}
	}
}

// applied waits until the engine has handled c's registrations. It relies on the engine
// handling each worker's messages in order.
func applied(t *testing.T, c *iii.Client) {
	t.Helper()
	if err := c.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
}

// Log records reach the engine with their trace, severity text and data, and fire log
// triggers.
func TestLogTriggerFires(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	c := connect(t, engine)
	type record struct {
		Body       string                     `json:"body"`
		Severity   string                     `json:"severity_text"`
		TraceID    string                     `json:"trace_id"`
		Attributes map[string]json.RawMessage `json:"attributes"`
	}
	fired := make(chan record, 10)
	handle(t, c, "t::alarm", func(_ context.Context, r record) (any, error) {
		fired <- r
		return nil, nil
	})
	if _, err := c.Trigger("t::alarm", iii.LogTriggerConfig{Level: "error"}); err != nil {
		t.Fatal(err)
	}
	applied(t, c)
	ctx := iii.ExtractContext(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	var deep any = "leaf"
	for range 40 {
		deep = []any{deep}
	}
	telemetry.Logger().Info(ctx, "fine", nil)
	telemetry.Logger().Error(ctx, "bad", map[string]any{"n": 1, "null": nil, "f": 1.5, "error": errors.New("e")})
	slog.New(telemetry.SlogHandler()).ErrorContext(ctx, "deep", slog.Group("g", slog.Any("deep", deep)))
	flush(t, telemetry)
	for range 2 { // in any order
		r := <-fired
		if r.Severity != "ERROR" || r.TraceID != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("the trigger got %+v", r)
		}
		switch data := string(r.Attributes["log.data"]); r.Body {
		case "bad":
			if diff := cmp.Diff(`{"error":"e","f":1.5,"n":1,"null":""}`, data); diff != "" {
				t.Errorf("log.data (-want +got):\n%s", diff)
			}
		case "deep":
			if !strings.Contains(data, "leaf") {
				t.Errorf("deep data arrived as %s", data)
			}
		default:
			t.Errorf("the trigger got the record %q", r.Body)
		}
	}
}

// A slog.Handler should ignore a zero time. This handler replaces it with the current time,
// because the engine would otherwise sort the record before all others.
func TestSlogRecordsReachTheEngine(t *testing.T) {
	var e *iiitest.Engine
	var telemetry *iii.Telemetry
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		e = telemetryEngine(t)
		telemetry, _ = recorded(t, e)
		return telemetry.SlogHandler()
	}, func(t *testing.T) map[string]any {
		flush(t, telemetry)
		logs := e.Logs()
		if len(logs) != 1 {
			t.Fatalf("%d records", len(logs))
		}
		r := logs[0]
		seen := map[string]any{slog.LevelKey: r.SeverityText, slog.MessageKey: r.Body}
		if data, ok := r.Attributes["log.data"].(map[string]any); ok {
			maps.Copy(seen, data)
		}
		if strings.HasSuffix(t.Name(), "/zero-time") {
			if r.Time.IsZero() || !r.Time.Equal(r.Observed) {
				t.Errorf("a record without a time has the time %v, was observed at %v", r.Time, r.Observed)
			}
			return seen
		}
		if !r.Time.IsZero() {
			seen[slog.TimeKey] = r.Time
		}
		return seen
	})
}

func TestSlogRecordTimes(t *testing.T) {
	e := telemetryEngine(t)
	telemetry, _ := recorded(t, e)
	before := time.Now()
	past := time.Date(2001, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600))
	for _, at := range []time.Time{{}, time.Unix(0, 0), past, time.Date(1931, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if err := telemetry.SlogHandler().Handle(t.Context(), slog.NewRecord(at, slog.LevelInfo, "m", 0)); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, telemetry)
	after := time.Now()
	for i, r := range e.Logs() {
		if r.Observed.Before(before) || r.Observed.After(after) {
			t.Errorf("record %d was observed at %v", i, r.Observed)
		}
		if want := r.Observed; i == 2 && !r.Time.Equal(past) || i != 2 && !r.Time.Equal(want) {
			t.Errorf("record %d has the time %v, was observed at %v", i, r.Time, want)
		}
	}
	if n := len(e.Logs()); n != 4 {
		t.Errorf("%d records", n)
	}
}

// Groups of any depth reach the engine. Groups nested beyond the engine's limit become text.
func TestSlogDeepGroupsReachTheEngine(t *testing.T) {
	e := telemetryEngine(t)
	telemetry, _ := recorded(t, e)
	const depths = 45
	for depth := range depths {
		opened, inline := slog.New(telemetry.SlogHandler()), slog.Int("leaf", depth)
		for range depth {
			opened = opened.WithGroup("g")
			inline = slog.Group("g", inline)
		}
		opened.Info("opened", "leaf", depth)
		slog.New(telemetry.SlogHandler()).LogAttrs(t.Context(), slog.LevelInfo, "inline", inline)
		opened.LogAttrs(t.Context(), slog.LevelInfo, "both", inline)
	}
	flush(t, telemetry)
	if n := len(e.Logs()); n != 3*depths {
		t.Fatalf("%d records", n)
	}
	for i, r := range e.Logs() {
		data, err := json.Marshal(r.Attributes["log.data"])
		if err != nil {
			t.Fatal(err)
		}
		leaf := strconv.Itoa(i/3) + "}"
		if text := string(data); !strings.Contains(text, leaf) || !strings.Contains(text, "leaf") {
			t.Errorf("record %d, %s, holds %s", i, r.Body, text)
		}
	}
}

func TestTelemetrySharedConcurrent(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	const clients, calls = 3, 20
	var wg sync.WaitGroup
	for i := range clients {
		c := connect(t, engine, iii.WithTelemetry(telemetry))
		id := "t::work" + string(rune('a'+i))
		handle(t, c, id, func(ctx context.Context, n int) (string, error) { return iii.TraceID(ctx), nil })
		for range calls {
			wg.Go(func() {
				ctx, span := telemetry.Tracer().Start(t.Context(), "root", trace.WithNewRoot())
				defer span.End()
				if got, err := iii.Call[string](ctx, c, id, 1); err != nil || got != iii.TraceID(ctx) {
					t.Errorf("call in trace %s is handled in %s, %v", iii.TraceID(ctx), got, err)
				}
			})
		}
	}
	wg.Wait()
	executed := 0
	for _, s := range recorder.Ended() {
		if s.Parent().IsValid() {
			executed++
		}
	}
	if executed != clients*calls {
		t.Errorf("%d invocations were recorded, want %d", executed, clients*calls)
	}
}

// Telemetry reports gauges for each client in the process under that client's worker id, until
// the client is closed.
func TestTelemetryGaugesOfSeveralClients(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	clients := map[string]*iii.Client{}
	for _, name := range []string{"one", "two"} {
		clients[name] = connect(t, engine, iii.WithTelemetry(telemetry), iii.WithName(name))
	}
	reported := func() map[string]string {
		t.Helper()
		before := len(engine.Metrics())
		flush(t, telemetry)
		ids := map[string]string{}
		for _, m := range engine.Metrics()[before:] {
			for _, p := range m.Points {
				if m.Name == "iii.worker.memory.rss" {
					ids[p.Attributes["worker.name"].(string)] = p.Attributes["worker.id"].(string)
				}
			}
		}
		return ids
	}
	if diff := cmp.Diff(map[string]string{"one": clients["one"].WorkerID(), "two": clients["two"].WorkerID()}, reported()); diff != "" {
		t.Errorf("ids by worker (-want +got):\n%s", diff)
	}
	for _, name := range []string{"one", "two"} {
		info, err := iii.Call[iii.WorkerDetail](t.Context(), clients["two"], "engine::workers::info", map[string]string{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		if info.LatestMetrics == nil || info.LatestMetrics.MemoryRSS == nil {
			t.Errorf("the engine has no metrics of worker %s", name)
		}
	}
	if err := clients["one"].Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"two": clients["two"].WorkerID()}, reported()); diff != "" {
		t.Errorf("ids by worker after one was closed (-want +got):\n%s", diff)
	}
	if err := clients["two"].Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := reported(); len(got) != 0 {
		t.Errorf("still reported after both were closed: %v", got)
	}
}

// Flush returns after the engine has decoded and stored the records.
func TestTelemetryReachesTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := telemetryEngine(t)
		address, service := e.URL(), "orders"
		tel, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &address, ServiceName: &service},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
		if err != nil {
			t.Fatal(err)
		}
		counter, err := tel.Meter().Int64Counter("orders.created")
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := tel.Tracer().Start(t.Context(), "work", trace.WithAttributes(attribute.Int("n", 7)))
		if err := tel.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if live := e.LiveSpans(); len(live) != 1 || live[0].Name != "work" {
			t.Errorf("started spans: %+v", live)
		}
		for range 100 {
			counter.Add(ctx, 1)
			tel.Logger().Warn(ctx, "hello", nil)
		}
		span.End()
		if err := tel.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		spans, logs, metrics := e.Traces(), e.Logs(), e.Metrics()
		if len(spans) != 1 || spans[0].Name != "work" || spans[0].SpanID != span.SpanContext().SpanID().String() {
			t.Errorf("spans: %+v", spans)
		}
		if len(logs) != 100 {
			t.Errorf("%d log records, want 100", len(logs))
		}
		found := false
		for _, m := range metrics {
			found = found || m.Name == "orders.created"
		}
		if !found {
			t.Errorf("metrics: %+v", metrics)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A guarded engine authenticates telemetry by its headers. A rejection is reported.
func TestGuardedEngineAuthenticatesTelemetry(t *testing.T) {
	e := telemetryEngine(t, iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "auth::check"}))
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = iii.Handle(c, "auth::check", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		if in.Headers["x-token"] != "let me in" {
			return iii.AuthResult{}, errors.New("no token")
		}
		return iii.NewAuthResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	frame := iii.OtelMessage{Prefix: "LOGS", Data: []byte(`{"resourceLogs":[]}`)}

	t.Run("refused", func(t *testing.T) {
		var once sync.Once
		refused := make(chan error, 1)
		s, err := iii.NewSharedEngineConnection(e.GuardedURL(), iii.WithConnectionStateListener(func(_ iii.ConnectionState, err error) {
			var auth *iii.AuthError
			if errors.As(err, &auth) {
				once.Do(func() { refused <- err })
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			t.Log(err)
		case <-time.After(time.Minute):
			t.Error("the rejection was not reported")
		}
		if err := s.Shutdown(t.Context()); err == nil {
			t.Error("Shutdown of a rejected connection: no error")
		}
	})
	t.Run("let in", func(t *testing.T) {
		s, err := iii.NewSharedEngineConnection(e.GuardedURL(), iii.WithConnectionHeader(http.Header{"X-Token": {"let me in"}}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(e.Telemetry()); got != 1 {
			t.Errorf("the engine has %d frames, want 1", got)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A trace trigger does not fire for the spans of its own invocations, because that would cause
// an endless loop.
func TestTraceTriggerIsNotTriggeredByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := telemetryEngine(t)
		telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: pointer(engine.URL())},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(engine.DialContext)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := iii.New(engine.URL(), iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry))
		if err != nil {
			t.Fatal(err)
		}
		var told atomic.Int64
		handle(t, c, "t::watch", func(context.Context, iii.TraceEvent) (any, error) {
			told.Add(1)
			return nil, nil
		})
		if _, err := c.Trigger("t::watch", iii.TraceTriggerConfig{}); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, span := telemetry.Tracer().Start(t.Context(), "work")
		span.End()
		time.Sleep(time.Minute)
		if n := told.Load(); n < 1 || n > 2 {
			t.Errorf("%d events for one trace", n)
		}
		if err := telemetry.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The engine receives the start of a handler's span, including the baggage, while the handler
// is still running.
func TestLiveSpanOfInvocationCarriesBaggage(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	flush(t, telemetry)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	running, proceed := make(chan struct{}), make(chan struct{})
	handle(t, c, "t::work", func(context.Context, struct{}) (any, error) {
		close(running)
		<-proceed
		return nil, nil
	})
	ctx, err := iii.SetBaggage(t.Context(), "iii.session.id", "S-1")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- c.Call(ctx, "t::work", struct{}{}, nil) }()
	<-running
	flush(t, telemetry)
	live := engine.LiveSpans()
	if len(live) != 1 || live[0].Name != "execute t::work" || live[0].Attributes["iii.session.id"] != "S-1" || len(engine.Traces()) != 0 {
		t.Errorf("while the handler is running, the engine has %+v and %d finished spans", live, len(engine.Traces()))
	}
	close(proceed)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	flush(t, telemetry)
	if spans := engine.Traces(); len(spans) != 1 || len(live) == 1 && spans[0].SpanID != live[0].SpanID || spans[0].Attributes["iii.session.id"] != "S-1" {
		t.Errorf("after the handler has returned, the engine has %+v", spans)
	}
}

// The HTTP request, the route's handler and the handler's calls belong to the same trace.
func TestTraceCrossesHTTP(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	got := make(chan traced, 1)
	_, err := iii.HandleHTTP(c, "GET", "/traced", func(ctx context.Context, _ *iii.HTTPRequest[json.RawMessage]) (*iii.HTTPResponse[string], error) {
		got <- traceOf(ctx)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	applied(t, c)
	ctx, span := telemetry.Tracer().Start(t.Context(), "client")
	if ctx, err = iii.SetBaggage(ctx, "tenant", "a=b"); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", engine.HTTPURL()+"/traced", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: iii.NewTracingTransport(nil)}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	span.End()
	if diff := cmp.Diff(traced{iii.TraceID(ctx), true, "a=b"}, <-got); diff != "" {
		t.Errorf("trace in the handler (-want +got):\n%s", diff)
	}
	for _, s := range recorder.Ended() {
		if s.SpanContext().TraceID() != span.SpanContext().TraceID() {
			t.Errorf("span %q is in another trace", s.Name())
		}
	}
}

// The engine closes connections without sending a Close frame, even if it has received one.
// Shutdown does not wait for a Close frame and succeeds without one.
func TestShutdownAcceptsAnEndWithoutACloseFrame(t *testing.T) {
	run := func(t *testing.T, e *iiitest.Engine, dial func(ctx context.Context, network, addr string) (net.Conn, error), limit time.Duration) {
		var log strings.Builder
		var mu sync.Mutex
		logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelWarn}))
		address := e.URL()
		connection := []iii.ConnectionOption{iii.WithConnectionLogger(logger)}
		opts := []iii.Option{iii.WithLogger(logger)}
		if dial != nil {
			connection, opts = append(connection, iii.WithConnectionDialContext(dial)), append(opts, iii.WithDialContext(dial))
		}
		tel, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &address}, iii.WithTelemetryConnection(connection...))
		if err != nil {
			t.Fatal(err)
		}
		var states []iii.ConnectionState
		opts = append(opts, iii.WithTelemetry(tel), iii.WithStateListener(func(s iii.ConnectionState, err error) {
			states = append(states, s)
			if err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}))
		c := connect(t, e, opts...)
		handle(t, c, "a::b", func(context.Context, any) (any, error) { return nil, nil })
		if _, err := iii.Call[any](t.Context(), c, "a::b", nil); err != nil {
			t.Fatal(err)
		}
		for _, err := range iii.SubscribeWith(t.Context(), iii.SubscribeOptions{URL: e.StreamURL(), DialContext: dial}, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		began := time.Now()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown of telemetry: %v", err)
		}
		if took := time.Since(began); took > limit {
			t.Errorf("Shutdown took %v", took)
		}
		mu.Lock()
		defer mu.Unlock()
		if log.Len() > 0 {
			t.Errorf("log:\n%s", log.String())
		}
		if n := len(states); n == 0 || states[n-1] != iii.ConnectionStateDisconnected || slices.Contains(states, iii.ConnectionStateReconnecting) {
			t.Errorf("states: %v", states)
		}
	}
	t.Run("memory", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) { run(t, e, e.DialContext, 0) })
	})
	t.Run("tcp", func(t *testing.T) { run(t, iiitest.Start(t), nil, time.Hour) })
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// traced describes the trace context that a handler receives.
type traced struct {
	TraceID string `json:"trace_id"`
	Sampled bool   `json:"sampled"`
	Tenant  string `json:"tenant"`
}

func traceOf(ctx context.Context) traced {
	tenant, _ := iii.BaggageEntry(ctx, "tenant")
	return traced{TraceID: iii.TraceID(ctx), Sampled: strings.HasSuffix(iii.InjectTraceparent(ctx), "-01"), Tenant: tenant}
}

// A client without telemetry still forwards the trace from a handler to the handler's calls,
// Sends and queue jobs.
func TestClientWithoutTelemetryForwardsTheTrace(t *testing.T) {
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	c := connect(t, telemetryEngine(t))
	seen := make(chan traced, 3)
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (traced, error) {
		seen <- traceOf(ctx)
		return traceOf(ctx), nil
	})
	handle(t, c, "t::job", func(ctx context.Context, _ struct{}) (struct{}, error) {
		got := traceOf(ctx)
		if got.TraceID != id { // the engine starts a new trace for a job without one
			got.TraceID, got.Sampled = "", false
		}
		seen <- got
		return struct{}{}, nil
	})
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (traced, error) {
		if err := c.Send(ctx, "t::leaf", struct{}{}); err != nil {
			return traced{}, err
		}
		if _, err := c.Enqueue(ctx, "default", "t::job", struct{}{}); err != nil {
			return traced{}, err
		}
		detached := iii.CaptureContext(ctx).Attach(context.Background())
		return iii.Call[traced](detached, c, "t::leaf", struct{}{})
	})

	tests := []struct {
		name, traceparent, baggage string
		want                       traced
	}{
		{"sampled", parent + "01", "tenant=acme", traced{id, true, "acme"}},
		{"not sampled", parent + "00", "", traced{id, false, ""}},
		{"baggage alone", "", "tenant=100%25", traced{"", false, "100%"}},
		{"none", "", "", traced{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := iii.ExtractContext(t.Context(), tt.traceparent, tt.baggage)
			got, err := iii.Call[traced](ctx, c, "t::middle", struct{}{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("trace of the nested call (-want +got):\n%s", diff)
			}
			for range 3 {
				if diff := cmp.Diff(tt.want, <-seen); diff != "" {
					t.Errorf("trace of a nested call, Send or job (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func connect(t *testing.T, engine *iiitest.Engine, opts ...iii.Option) *iii.Client {
	t.Helper()
	c, err := iii.New(engine.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func handle[In, Out any](t *testing.T, c *iii.Client, id string, h func(context.Context, In) (Out, error), opts ...iii.FunctionOption) {
	t.Helper()
	if _, err := iii.Handle(c, id, h, opts...); err != nil {
		t.Fatal(err)
	}
}

// recorded starts telemetry and records its spans.
func recorded(t *testing.T, engine *iiitest.Engine) (*iii.Telemetry, *tracetest.SpanRecorder) {
	t.Helper()
	url := engine.URL()
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := telemetry.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	recorder := tracetest.NewSpanRecorder()
	telemetry.TracerProvider().(*sdktrace.TracerProvider).RegisterSpanProcessor(recorder)
	return telemetry, recorder
}

// spanText describes a span without ids and times.
type spanText struct {
	Name, Kind, Status, Description string
	Events                          []eventText
}

type eventText struct {
	Name       string
	Attributes map[string]any
}

func textOf(s sdktrace.ReadOnlySpan) spanText {
	text := spanText{Name: s.Name(), Kind: s.SpanKind().String(), Status: s.Status().Code.String(), Description: s.Status().Description}
	for _, e := range s.Events() {
		attributes := map[string]any{}
		for _, a := range e.Attributes {
			attributes[string(a.Key)] = a.Value.AsInterface()
		}
		text.Events = append(text.Events, eventText{e.Name, attributes})
	}
	return text
}

type job struct {
	Do       string `json:"do"`
	Password string `json:"password"`
}

func TestInvocationSpanRecordsTheOutcome(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::work", func(ctx context.Context, in job) (map[string]any, error) {
		span := trace.SpanFromContext(ctx)
		switch in.Do {
		case "fail":
			return nil, errors.New("work failed")
		case "refuse":
			return nil, fmt.Errorf("wrapped: %w", &iii.Error{Code: "OUT_OF_STOCK", Message: "no stock", Stacktrace: "frame 0"})
		case "panic":
			panic("oh no")
		case "exit":
			runtime.Goexit()
		case "status":
			span.SetStatus(codes.Error, "set by the handler")
		case "both":
			span.SetStatus(codes.Error, "set by the handler")
			return nil, errors.New("work failed")
		case "accept":
			span.SetStatus(codes.Ok, "")
			return nil, errors.New("not that bad")
		case "unencodable":
			return map[string]any{"f": func() {}}, nil
		}
		span.AddEvent("checkpoint")
		return map[string]any{"ok": true, "access_token": "t"}, nil
	})

	output := func(ok bool, payload string) eventText {
		return eventText{"iii.invocation.output", map[string]any{"iii.payload.json": payload, "iii.payload.truncated": false, "iii.payload.ok": ok}}
	}
	exception := func(kind, message, stack string) eventText {
		return eventText{"exception", map[string]any{"exception.type": kind, "exception.message": message, "exception.stacktrace": stack}}
	}
	const ok = `{"access_token":"[REDACTED]","ok":true}`
	tests := []struct {
		do, status, description string
		events                  []eventText
		wire                    *iii.Error
	}{
		{"work", "Ok", "", []eventText{{"checkpoint", map[string]any{}}, output(true, ok)}, nil},
		{"fail", "Error", "work failed", []eventText{output(false, `{"error":"work failed"}`), exception("InvocationError", "work failed", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "work failed"}},
		{"refuse", "Error", "", []eventText{output(false, ""), exception("OUT_OF_STOCK", "", "frame 0")}, &iii.Error{Code: "OUT_OF_STOCK", Stacktrace: "frame 0"}},
		{"panic", "Error", "panic: oh no", []eventText{output(false, `{"error":"handler panicked"}`), exception("panic", "panic: oh no", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "handler panicked"}},
		{"exit", "Error", "the goroutine exited with runtime.Goexit", []eventText{output(false, `{"error":"handler panicked"}`), exception("panic", "the goroutine exited with runtime.Goexit", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "handler panicked"}},
		{"status", "Error", "set by the handler", []eventText{{"checkpoint", map[string]any{}}, output(true, ok)}, nil},
		{"both", "Error", "set by the handler", []eventText{output(false, `{"error":"work failed"}`), exception("InvocationError", "work failed", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "work failed"}},
		{"accept", "Ok", "", []eventText{output(false, `{"error":"not that bad"}`), exception("InvocationError", "not that bad", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "not that bad"}},
		{"unencodable", "Error", "", []eventText{output(false, ""), exception("InvocationError", "", "captured")}, &iii.Error{Code: "invocation_failed"}},
	}
	for _, tt := range tests {
		t.Run(tt.do, func(t *testing.T) {
			recorder.Reset()
			err := c.Call(t.Context(), "t::work", job{Do: tt.do, Password: "hunter2"}, nil)
			var remote *iii.Error
			if errors.As(err, &remote) != (tt.wire != nil) {
				t.Fatalf("call returned %v", err)
			}
			if len(recorder.Ended()) != 1 {
				t.Fatalf("%d spans had ended when the result arrived, want 1", len(recorder.Ended()))
			}
			span := recorder.Ended()[0]
			got := textOf(span)
			input := map[string]any{}
			if err := json.Unmarshal([]byte(got.Events[0].Attributes["iii.payload.json"].(string)), &input); err != nil {
				t.Fatal(err)
			}
			delete(input, "_caller_worker_id")
			got.Events[0].Attributes["iii.payload.json"] = input
			// Ignore the text of errors that wrap other errors.
			last := len(got.Events) - 1
			if tt.description == "" && tt.status == "Error" {
				got.Description, got.Events[last-1].Attributes["iii.payload.json"], got.Events[last].Attributes["exception.message"] = "", "", ""
			}
			if stack, ok := got.Events[last].Attributes["exception.stacktrace"].(string); ok && strings.Contains(stack, "goroutine ") {
				got.Events[last].Attributes["exception.stacktrace"] = "captured"
			}
			want := spanText{"execute t::work", "internal", tt.status, tt.description, append([]eventText{{"iii.invocation.input",
				map[string]any{"iii.payload.json": map[string]any{"do": tt.do, "password": "[REDACTED]"}, "iii.payload.truncated": false}}}, tt.events...)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("span (-want +got):\n%s", diff)
			}
			if span.InstrumentationScope().Name != "iii-go-sdk" || span.InstrumentationScope().Version != iii.Version || len(span.Attributes()) != 0 {
				t.Errorf("scope %v, attributes %v", span.InstrumentationScope(), span.Attributes())
			}
			if tt.wire == nil {
				return
			}
			if remote.Code != tt.wire.Code || remote.Stacktrace != tt.wire.Stacktrace || tt.wire.Message != "" && remote.Message != tt.wire.Message {
				t.Errorf("caller got %+v, want %+v", remote, tt.wire)
			}
		})
	}
}

// The caller, the handler and the handler's calls form one trace. The result contains the
// context of the handler's span.
func TestInvocationSpanLinksCallerAndCallee(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (traced, error) { return traceOf(ctx), nil })
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (out traced, err error) {
		err = iii.InSpan(ctx, "inside", trace.SpanKindClient, func(ctx context.Context) error {
			out, err = iii.Call[traced](ctx, c, "t::leaf", struct{}{})
			return err
		})
		return out, err
	})
	ctx, root := telemetry.Tracer().Start(t.Context(), "root")
	ctx, err := iii.SetBaggage(ctx, "tenant", "a=b, 100%")
	if err != nil {
		t.Fatal(err)
	}
	got, err := iii.Call[traced](ctx, c, "t::middle", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	root.End()
	if diff := cmp.Diff(traced{iii.TraceID(ctx), true, "a=b, 100%"}, got); diff != "" {
		t.Errorf("trace of the inner handler (-want +got):\n%s", diff)
	}
	names := map[trace.SpanID]string{{}: "none"}
	for _, s := range recorder.Ended() {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	parents := map[string]string{}
	for _, s := range recorder.Ended() {
		parents[s.Name()] = names[s.Parent().SpanID()]
	}
	want := map[string]string{"root": "none", "execute t::middle": "root", "inside": "execute t::middle", "execute t::leaf": "inside"}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
	for _, f := range engine.Frames() {
		if f.Type() == "invocationresult" && f.Direction == iiitest.ToEngine {
			var m iii.InvocationResultMessage
			if err := json.Unmarshal(f.Message, &m); err != nil {
				t.Fatal(err)
			}
			sc := trace.SpanContextFromContext(iii.ExtractContext(t.Context(), m.Traceparent, m.Baggage))
			if got, want := names[sc.SpanID()], "execute "+m.FunctionID; got != want {
				t.Errorf("the result of %s carries the span %q", m.FunctionID, got)
			}
		}
	}
}

// An invocation by an unsampled caller is not recorded, but its trace is forwarded.
func TestUnsampledCallerGetsNoSpan(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (string, error) { return iii.InjectTraceparent(ctx), nil })
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (out string, err error) {
		err = iii.InSpan(ctx, "inside", 0, func(ctx context.Context) error {
			out, err = iii.Call[string](ctx, c, "t::leaf", struct{}{})
			return err
		})
		return out, err
	})
	got, err := iii.Call[string](iii.ExtractContext(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", ""), c, "t::middle", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "00-0af7651916cd43dd8448eb211c80319c-") || !strings.HasSuffix(got, "-00") {
		t.Errorf("the inner handler is in %q", got)
	}
	if n := len(recorder.Started()); n != 0 {
		t.Errorf("%d spans were started", n)
	}
	flush(t, telemetry)
	for _, f := range engine.Telemetry() {
		if f.Prefix == "OTLP" {
			t.Errorf("the engine received %s", f.Data)
		}
	}
}

// When a state change or a message fires a trigger, the function runs in the trace of the
// operation that caused the change or sent the message.
func TestTelemetryFollowsTriggers(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	seen := make(chan traced, 2)
	handle(t, c, "t::changed", func(ctx context.Context, _ json.RawMessage) (any, error) {
		seen <- traceOf(ctx)
		return nil, nil
	})
	for _, config := range []iii.TriggerConfig{iii.StateTriggerConfig{Scope: pointer("orders")}, iii.SubscribeTriggerConfig{Topic: "news"}} {
		if _, err := c.Trigger("t::changed", config); err != nil {
			t.Fatal(err)
		}
	}
	applied(t, c)
	ctx, root := telemetry.Tracer().Start(t.Context(), "root")
	for id, in := range map[string]any{
		"state::set": map[string]any{"scope": "orders", "key": "k", "value": 1}, "publish": map[string]any{"topic": "news", "data": "d"},
	} {
		if err := c.Call(ctx, id, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := <-seen; got.TraceID != iii.TraceID(ctx) || !got.Sampled {
			t.Errorf("the triggered function runs in %+v, want trace %s", got, iii.TraceID(ctx))
		}
	}
	root.End()
}

type logKeeper struct {
	change func(*sdklog.Record)

	mu             sync.Mutex
	texts          []string
	traces         []trace.TraceID
	flushed, ended int
}

func (k *logKeeper) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

func (k *logKeeper) OnEmit(_ context.Context, r *sdklog.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.texts = append(k.texts, r.Body().AsString())
	k.traces = append(k.traces, r.TraceID())
	if k.change != nil {
		k.change(r)
	}
	return nil
}

func (k *logKeeper) ForceFlush(context.Context) error { k.flushed++; return nil }
func (k *logKeeper) Shutdown(context.Context) error   { k.ended++; return nil }

type spanMarker struct {
	sdktrace.SpanProcessor
	flush          func(context.Context) error
	flushed, ended atomic.Int32
}

func newSpanMarker() *spanMarker { return &spanMarker{SpanProcessor: tracetest.NewSpanRecorder()} }

func (m *spanMarker) OnStart(ctx context.Context, s sdktrace.ReadWriteSpan) {
	s.SetAttributes(attribute.String("marked", "yes"))
	m.SpanProcessor.OnStart(ctx, s)
}

func (m *spanMarker) ForceFlush(ctx context.Context) error {
	m.flushed.Add(1)
	if m.flush != nil {
		return m.flush(ctx)
	}
	return nil
}

func (m *spanMarker) Shutdown(ctx context.Context) error {
	m.ended.Add(1)
	if m.flush != nil {
		return m.flush(ctx)
	}
	return nil
}

func (m *spanMarker) names() (names []string) {
	for _, s := range m.SpanProcessor.(*tracetest.SpanRecorder).Ended() {
		names = append(names, s.Name())
	}
	return names
}

// readMetrics collects r's metrics and returns them by name.
func readMetrics(t *testing.T, r *sdkmetric.ManualReader) map[string]metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := r.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	all := map[string]metricdata.Metrics{}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			all[m.Name] = m
		}
	}
	return all
}

// sums returns a counter's values by function.
func sums(t *testing.T, m metricdata.Metrics) map[string]int64 {
	t.Helper()
	values := map[string]int64{}
	sum, _ := m.Data.(metricdata.Sum[int64])
	for _, p := range sum.DataPoints {
		values[functionOf(t, p.Attributes)] = p.Value
	}
	return values
}

// seconds formats a histogram's count and sum for each function.
func seconds(t *testing.T, m metricdata.Metrics) map[string]string {
	t.Helper()
	values := map[string]string{}
	h, _ := m.Data.(metricdata.Histogram[float64])
	for _, p := range h.DataPoints {
		values[functionOf(t, p.Attributes)] = fmt.Sprintf("%d: %.3f", p.Count, p.Sum)
	}
	return values
}

func functionOf(t *testing.T, set attribute.Set) string {
	t.Helper()
	id, ok := set.Value("iii.function.id")
	if !ok || set.Len() != 1 {
		t.Errorf("attributes of a handler's metric: %v", set.ToSlice())
	}
	return id.AsString()
}

// The program's processors and readers receive everything that the engine receives. The
// processors run early enough to change what the engine receives.
func TestProcessorsAndReadersBesideTheEngines(t *testing.T) {
	engine := telemetryEngine(t)
	spans, reader := newSpanMarker(), sdkmetric.NewManualReader()
	logs := &logKeeper{change: func(r *sdklog.Record) { r.SetBody(attribute.StringValue("changed")) }}
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: pointer(engine.URL())},
		iii.WithSpanProcessor(spans), iii.WithMetricReader(reader), iii.WithLogProcessor(logs))
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, engine, iii.WithTelemetry(telemetry), iii.WithName("w"))
	handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (string, error) {
		telemetry.Logger().Info(ctx, "original", nil)
		return "done", nil
	})
	applied(t, c)
	if err := connect(t, engine, iii.WithName("caller")).Call(t.Context(), "t::work", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	flush(t, telemetry)
	if n := spans.flushed.Load(); n != 1 || logs.flushed != 1 {
		t.Errorf("Flush flushed the span processor %d times, the log processor %d times", n, logs.flushed)
	}
	if got := spans.names(); !slices.Equal(got, []string{"execute t::work"}) || !slices.Equal(logs.texts, []string{"original"}) {
		t.Errorf("the program's processors have %q and %q", got, logs.texts)
	}
	all := readMetrics(t, reader)
	if got := sums(t, all["iii.worker.function.count"]); got["t::work"] != 1 {
		t.Errorf("the program's reader has the counts %v", got)
	}
	if _, ok := all["iii.worker.memory.rss"]; !ok {
		t.Error("the program's reader has no process gauges")
	}
	if got := engine.Traces(); len(got) != 1 || fmt.Sprint(got[0].Attributes["marked"]) != "yes" {
		t.Errorf("the engine has the spans %+v", got)
	}
	if got := engine.Logs(); len(got) != 1 || fmt.Sprint(got[0].Body) != "changed" {
		t.Errorf("the engine has the records %+v", got)
	}
	if !slices.ContainsFunc(engine.Metrics(), func(m iiitest.Metric) bool { return m.Name == "iii.worker.function.count" }) {
		t.Error("the engine has no metrics of handlers")
	}
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = reader.Collect(t.Context(), new(metricdata.ResourceMetrics))
	if n := spans.ended.Load(); n != 1 || logs.ended != 1 || !errors.Is(err, sdkmetric.ErrReaderShutdown) {
		t.Errorf("Shutdown shut the span processor down %d times, the log processor %d times, the reader: %v", n, logs.ended, err)
	}
}

// If the backend used by one of the program's processors hangs, telemetry still reaches the
// engine. Flush and Shutdown return when their contexts are done.
func TestHangingProcessorDoesNotDelayTheEngines(t *testing.T) {
	for name, end := range map[string]func(*iii.Telemetry, context.Context) error{
		"Flush": (*iii.Telemetry).Flush, "Shutdown": (*iii.Telemetry).Shutdown,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				stuck := newSpanMarker()
				stuck.flush = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: pointer(engine.URL()), SpansFlushIntervalMs: pointer[uint64](3_600_000)},
					iii.WithSpanProcessor(stuck), iii.WithTelemetryConnection(iii.WithDialContext(engine.DialContext)))
				if err != nil {
					t.Fatal(err)
				}
				_, span := telemetry.Tracer().Start(t.Context(), "work")
				span.End()
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- end(telemetry, ctx) }()
				time.Sleep(time.Second)
				if got := engine.Traces(); len(got) != 1 {
					t.Errorf("after 1 s the engine has %d spans, want 1", len(got))
				}
				if err := <-done; err == nil || !strings.HasPrefix(err.Error(), "iii: ") {
					t.Errorf("%s = %v", name, err)
				}
				if took := time.Since(began); took < 5*time.Second || took > 5100*time.Millisecond {
					t.Errorf("%s took %v", name, took)
				}
				_ = telemetry.Shutdown(ctx)
			})
		})
	}
}

// The program's processors and readers are shut down even if telemetry is disabled.
func TestDisabledTelemetryShutsDownProcessors(t *testing.T) {
	for name, cfg := range map[string]iii.OtelConfig{
		"all":     {Enabled: pointer(false)},
		"signals": {EngineWSURL: pointer("ws://127.0.0.1:1"), MetricsEnabled: pointer(false), LogsEnabled: pointer(false)},
	} {
		t.Run(name, func(t *testing.T) {
			spans, logs, reader := newSpanMarker(), &logKeeper{}, sdkmetric.NewManualReader()
			telemetry, err := iii.StartTelemetry(t.Context(), cfg, iii.WithSpanProcessor(spans), iii.WithLogProcessor(logs), iii.WithMetricReader(reader))
			if err != nil {
				t.Fatal(err)
			}
			telemetry.Logger().Debug(t.Context(), "nobody records this", nil)
			if all := readMetrics(t, reader); len(all) != 0 {
				t.Errorf("the reader has %v", all)
			}
			_ = telemetry.Shutdown(t.Context())
			err = reader.Collect(t.Context(), new(metricdata.ResourceMetrics))
			if n := spans.ended.Load(); n != 1 || logs.ended != 1 || !errors.Is(err, sdkmetric.ErrReaderShutdown) {
				t.Errorf("spans %d, logs %d, reader %v", n, logs.ended, err)
			}
			if len(logs.texts) != 0 {
				t.Errorf("the log processor has %q", logs.texts)
			}
		})
	}
}

func TestNilProcessorsAndReadersAreRejected(t *testing.T) {
	for name, option := range map[string]iii.TelemetryOption{
		"WithSpanProcessor":           iii.WithSpanProcessor(nil),
		"WithSpanProcessor: nil proc": iii.WithSpanProcessor((*spanMarker)(nil)),
		"WithMetricReader":            iii.WithMetricReader(nil),
		"WithMetricReader: nil read":  iii.WithMetricReader((*sdkmetric.ManualReader)(nil)),
		"WithLogProcessor":            iii.WithLogProcessor(nil),
		"WithLogProcessor: nil proc":  iii.WithLogProcessor((*logKeeper)(nil)),
	} {
		if _, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{}, option); err == nil || !strings.HasPrefix(err.Error(), "iii: "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ownSDK is an OpenTelemetry SDK that the program has set up itself.
type ownSDK struct {
	spans   *tracetest.SpanRecorder
	reader  *sdkmetric.ManualReader
	logs    *logKeeper
	tracers *sdktrace.TracerProvider
	meters  *sdkmetric.MeterProvider
	loggers *sdklog.LoggerProvider
}

func newOwnSDK(t *testing.T, opts ...sdktrace.TracerProviderOption) *ownSDK {
	s := &ownSDK{spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader(), logs: &logKeeper{}}
	s.tracers = sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(s.spans))...)
	s.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	s.loggers = sdklog.NewLoggerProvider(sdklog.WithProcessor(s.logs))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(s.tracers.Shutdown(ctx), s.meters.Shutdown(ctx), s.loggers.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *ownSDK) telemetry() *iii.Telemetry {
	return iii.TelemetryFromProviders(s.tracers, s.meters, s.loggers)
}

// A worker with its own SDK records only to that SDK, in its callers' traces. Shutting down
// its Telemetry leaves the SDK running.
func TestTelemetryFromProvidersUsesOnlyThoseProviders(t *testing.T) {
	engine, sdk := telemetryEngine(t), newOwnSDK(t)
	telemetry := sdk.telemetry()
	c := connect(t, engine, iii.WithTelemetry(telemetry), iii.WithName("w"))
	handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (string, error) {
		telemetry.Logger().Info(ctx, "from the logger", map[string]int{"n": 1})
		slog.New(telemetry.SlogHandler()).InfoContext(ctx, "from slog")
		return "done", iii.InSpan(ctx, "inside", 0, func(context.Context) error { return nil })
	})
	ctx, parent := sdk.tracers.Tracer("program").Start(t.Context(), "request")
	applied(t, c)
	if err := connect(t, engine, iii.WithName("caller")).Call(ctx, "t::work", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	parent.End()
	spans := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range sdk.spans.Ended() {
		spans[s.Name()] = s
		if s.SpanContext().TraceID() != parent.SpanContext().TraceID() {
			t.Errorf("span %s is in another trace", s.Name())
		}
	}
	work := spans["execute t::work"]
	if len(spans) != 3 || work == nil || work.Parent().SpanID() != parent.SpanContext().SpanID() || spans["inside"].Parent().SpanID() != work.SpanContext().SpanID() {
		t.Fatalf("spans: %v", spans)
	}
	if events := work.Events(); len(events) != 0 {
		t.Errorf("the span has the events %v, want none", events)
	}
	if diff := cmp.Diff([]string{"from the logger", "from slog"}, sdk.logs.texts); diff != "" {
		t.Errorf("log records (-want +got):\n%s", diff)
	}
	if id := parent.SpanContext().TraceID(); !slices.Equal(sdk.logs.traces, []trace.TraceID{id, id}) {
		t.Errorf("the records are in the traces %v", sdk.logs.traces)
	}
	all := readMetrics(t, sdk.reader)
	if got := sums(t, all["iii.worker.function.count"]); got["t::work"] != 1 {
		t.Errorf("counts: %v", got)
	}
	if _, ok := all["iii.worker.memory.rss"]; ok {
		t.Error("there are gauges of the process")
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if sdk.logs.flushed != 1 {
		t.Errorf("the client's Shutdown flushed the providers %d times", sdk.logs.flushed)
	}
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if sdk.logs.flushed != 2 || sdk.logs.ended != 0 {
		t.Errorf("flushed %d times, shut down %d times", sdk.logs.flushed, sdk.logs.ended)
	}
	if _, span := telemetry.Tracer().Start(t.Context(), "later"); !span.IsRecording() {
		t.Error("Shutdown has shut down the program's provider")
	}
	if n := len(engine.Telemetry()); n != 0 {
		t.Errorf("the engine has %d frames of telemetry", n)
	}
}

func TestWithTracePayloadsAppliesToProgramSpans(t *testing.T) {
	engine, sdk := telemetryEngine(t), newOwnSDK(t)
	c := connect(t, engine, iii.WithTelemetry(sdk.telemetry()), iii.WithTracePayloads(), iii.WithName("w"))
	handle(t, c, "t::work", func(context.Context, map[string]any) (string, error) { return "done", nil })
	applied(t, c)
	if err := connect(t, engine, iii.WithName("caller")).Call(t.Context(), "t::work", map[string]string{"password": "hunter2"}, nil); err != nil {
		t.Fatal(err)
	}
	span := sdk.spans.Ended()[0]
	if text := fmt.Sprint(span.Events()); len(span.Events()) != 2 || !strings.Contains(text, "iii.invocation.output") || strings.Contains(text, "hunter2") {
		t.Errorf("events: %s", text)
	}
}

// The program's own sampler decides whether an invocation is recorded, even if the caller is
// not sampled.
func TestProgramSamplerDecides(t *testing.T) {
	for name, test := range map[string]struct {
		sampler sdktrace.Sampler
		want    int
	}{
		"always": {sdktrace.AlwaysSample(), 1}, "never": {sdktrace.NeverSample(), 0}, "parent": {sdktrace.ParentBased(sdktrace.AlwaysSample()), 0},
	} {
		t.Run(name, func(t *testing.T) {
			engine, sdk := telemetryEngine(t), newOwnSDK(t, sdktrace.WithSampler(test.sampler))
			c := connect(t, engine, iii.WithTelemetry(sdk.telemetry()), iii.WithName("w"))
			id := make(chan string, 1)
			handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (string, error) { id <- iii.TraceID(ctx); return "", nil })
			applied(t, c)
			ctx := iii.ExtractContext(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "")
			if err := connect(t, engine, iii.WithName("caller")).Call(ctx, "t::work", struct{}{}, nil); err != nil {
				t.Fatal(err)
			}
			if got := <-id; got != iii.TraceID(ctx) {
				t.Errorf("the handler is in trace %q", got)
			}
			if n := len(sdk.spans.Ended()); n != test.want {
				t.Errorf("%d spans, want %d", n, test.want)
			}
		})
	}
}

// mapProvider is a tracer provider that cannot be compared or flushed.
type mapProvider struct {
	embedded.TracerProvider
	_   [0]func() // prevents comparison
	sdk *sdktrace.TracerProvider
}

func (p mapProvider) Tracer(name string, opts ...trace.TracerOption) trace.Tracer {
	return mapTracer{p.sdk.Tracer(name, opts...), p}
}

type mapTracer struct {
	trace.Tracer
	p mapProvider
}

func (m mapTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, span := m.Tracer.Start(ctx, name, opts...)
	span = mapSpan{span, m.p}
	return trace.ContextWithSpan(ctx, span), span
}

type mapSpan struct {
	trace.Span
	p mapProvider
}

func (s mapSpan) TracerProvider() trace.TracerProvider { return s.p }

// TelemetryFromProviders accepts any providers. Each of the three providers may be nil or a
// nil pointer.
func TestTelemetryFromProvidersTakesAnyProvider(t *testing.T) {
	var noTracers *sdktrace.TracerProvider
	var noMeters *sdkmetric.MeterProvider
	var noLoggers *sdklog.LoggerProvider
	sdk := newOwnSDK(t)
	for name, test := range map[string]struct {
		tp    trace.TracerProvider
		mp    metric.MeterProvider
		lp    log.LoggerProvider
		spans int
	}{
		"none":           {nil, nil, nil, 0},
		"nil pointers":   {noTracers, noMeters, noLoggers, 0},
		"traces":         {sdk.tracers, nil, noLoggers, 2},
		"metrics":        {nil, sdk.meters, nil, 0},
		"logs":           {noTracers, nil, sdk.loggers, 0},
		"not comparable": {mapProvider{sdk: sdk.tracers}, nil, nil, 2},
		"idle":           {tracenoop.NewTracerProvider(), metricnoop.NewMeterProvider(), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			engine, before := telemetryEngine(t), len(sdk.spans.Ended())
			telemetry := iii.TelemetryFromProviders(test.tp, test.mp, test.lp)
			c := connect(t, engine, iii.WithTelemetry(telemetry))
			handle(t, c, "t::work", func(ctx context.Context, _ struct{}) (string, error) {
				return iii.TraceID(ctx), iii.InSpan(ctx, "inside", 0, func(context.Context) error { return nil })
			})
			ctx := iii.ExtractContext(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
			id, err := iii.Call[string](ctx, c, "t::work", struct{}{})
			if err != nil || id != iii.TraceID(ctx) {
				t.Errorf("the handler is in trace %q, %v", id, err)
			}
			if n := len(sdk.spans.Ended()) - before; n != test.spans {
				t.Errorf("%d spans, want %d", n, test.spans)
			}
			if err := errors.Join(c.Shutdown(t.Context()), telemetry.Flush(t.Context()), telemetry.Shutdown(t.Context()), telemetry.Shutdown(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
}

type hangingFlush struct{ *sdktrace.TracerProvider }

func (hangingFlush) ForceFlush(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }

// If a program's backend hangs, Client.Shutdown waits 3 s for it. Telemetry.Shutdown waits
// until its context is done.
func TestHangingProvidersDelayShutdownBriefly(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		telemetry := iii.TelemetryFromProviders(hangingFlush{newOwnSDK(t).tracers}, nil, nil)
		c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry), iii.WithName("alone"))
		began := time.Now()
		if err := c.Shutdown(t.Context()); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "iii: shutdown: ") {
			t.Errorf("Client.Shutdown = %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Client.Shutdown took %v", took)
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := telemetry.Shutdown(ctx)
		if took := time.Since(began).Round(time.Second); err == nil || took != 10*time.Second {
			t.Errorf("Telemetry.Shutdown took %v: %v", took, err)
		}
	})
}

// While one of the program's metric callbacks hangs, the SDK blocks the registration and
// removal of other callbacks. Clients nevertheless connect and close without delay.
func TestHangingMetricCallbackDoesNotDelayClients(t *testing.T) {
	engine := iiitest.Start(t)
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: new(engine.URL())})
	if err != nil {
		t.Fatal(err)
	}
	began, released := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	_, err = telemetry.Meter().Int64ObservableGauge("g", metric.WithInt64Callback(func(context.Context, metric.Int64Observer) error {
		select {
		case began <- struct{}{}:
		case <-released:
		}
		<-released
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	connected := connect(t, engine, iii.WithTelemetry(telemetry))
	unconnected, err := iii.New(engine.URL(), iii.WithTelemetry(telemetry))
	if err != nil {
		t.Fatal(err)
	}
	flushing, stop := context.WithCancel(t.Context())
	flushed := make(chan struct{})
	go func() {
		_ = telemetry.Flush(flushing)
		close(flushed)
	}()
	<-began
	stop()
	<-flushed
	done := make(chan error)
	go func() {
		done <- unconnected.Connect(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_ = unconnected.Shutdown(ctx)
		done <- connected.Close()
	}()
	for _, what := range []string{"Connect", "Shutdown and Close"} {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s waits for the callback", what)
			release()
			<-done
		}
	}
	release()
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNilConnectionIsSafe(t *testing.T) {
	telemetry := newOwnSDK(t).telemetry()
	s := telemetry.Connection()
	if s != nil {
		t.Fatalf("Connection() = %v", s)
	}
	if err := s.Send(iii.OtelMessage{Prefix: "LOGS", Data: []byte("{}")}); !errors.Is(err, iii.ErrClosed) {
		t.Errorf("Send = %v", err)
	}
	if err := errors.Join(s.Flush(t.Context()), s.Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
	if s.State() != iii.ConnectionStateDisconnected || s.Stats() != (iii.ConnectionStats{}) {
		t.Errorf("State() = %v, Stats() = %+v", s.State(), s.Stats())
	}
	spans := tracetest.SpanStubs{{Name: "s"}}.Snapshots()
	if err := iii.NewEngineSpanExporter(s).ExportSpans(t.Context(), spans); !errors.Is(err, iii.ErrConnectionClosed) {
		t.Errorf("ExportSpans = %v", err)
	}
	if err := iii.NewEngineLogExporter(s).Export(t.Context(), make([]sdklog.Record, 1)); !errors.Is(err, iii.ErrConnectionClosed) {
		t.Errorf("log Export = %v", err)
	}
	metrics := iii.NewEngineMetricsExporter(s)
	if err := errors.Join(metrics.ForceFlush(t.Context()), metrics.Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
}

// Each invocation is counted once, with its outcome and its duration. The duration is the time
// until the caller receives the result.
func TestHandlersAreMeasured(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		sdk := newOwnSDK(t)
		c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(sdk.telemetry()), iii.WithName("w"))
		release := make(chan struct{})
		for id, h := range map[string]iii.HandlerFunc{
			"ok":       func(context.Context, json.RawMessage) (any, error) { return 1, nil },
			"fails":    func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no stock") },
			"panics":   func(context.Context, json.RawMessage) (any, error) { panic("oh") },
			"exits":    func(context.Context, json.RawMessage) (any, error) { runtime.Goexit(); return nil, nil },
			"encodes":  func(context.Context, json.RawMessage) (any, error) { return make(chan int), nil },
			"too long": func(context.Context, json.RawMessage) (any, error) { <-release; return 1, nil },
		} {
			var opts []iii.FunctionOption
			if id == "too long" {
				opts = append(opts, iii.WithHandlerTimeout(2*time.Second))
			}
			id = "t::" + strings.ReplaceAll(id, " ", "-")
			if _, err := c.HandleFunc(id, func(ctx context.Context, p json.RawMessage) (any, error) {
				time.Sleep(time.Second)
				return h(ctx, p)
			}, opts...); err != nil {
				t.Fatal(err)
			}
		}
		ids := []string{"t::ok", "t::fails", "t::panics", "t::exits", "t::encodes", "t::too-long"}
		applied(t, c)
		caller := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithName("caller"))
		for _, id := range ids {
			if err := caller.Call(t.Context(), id, struct{}{}, nil); (err == nil) != (id == "t::ok") {
				t.Errorf("%s: %v", id, err)
			}
		}
		if err := caller.Send(t.Context(), "t::ok", struct{}{}); err != nil {
			t.Fatal(err)
		}
		if err := caller.Send(t.Context(), "t::fails", struct{}{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		one := map[string]int64{"t::ok": 2, "t::fails": 2, "t::panics": 1, "t::exits": 1, "t::encodes": 1, "t::too-long": 1}
		all := readMetrics(t, sdk.reader)
		if diff := cmp.Diff(one, sums(t, all["iii.worker.function.count"])); diff != "" {
			t.Errorf("count (-want +got):\n%s", diff)
		}
		delete(one, "t::ok")
		if diff := cmp.Diff(one, sums(t, all["iii.worker.function.errors"])); diff != "" {
			t.Errorf("errors (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{"t::ok": "2: 2.000", "t::fails": "2: 2.000", "t::panics": "1: 1.000", "t::exits": "1: 1.000",
			"t::encodes": "1: 1.000", "t::too-long": "1: 2.000"}, seconds(t, all["iii.worker.function.duration"])); diff != "" {
			t.Errorf("duration (-want +got):\n%s", diff)
		}
		flight := map[string]int64{"t::ok": 0, "t::fails": 0, "t::panics": 0, "t::exits": 0, "t::encodes": 0, "t::too-long": 1}
		if diff := cmp.Diff(flight, sums(t, all["iii.worker.function.in_flight"])); diff != "" {
			t.Errorf("in_flight before the late handler returns (-want +got):\n%s", diff)
		}
		close(release)
		synctest.Wait()
		after := readMetrics(t, sdk.reader)
		if got := sums(t, after["iii.worker.function.in_flight"])["t::too-long"]; got != 0 {
			t.Errorf("in_flight after the late handler has returned: %d", got)
		}
		if got := sums(t, after["iii.worker.function.count"])["t::too-long"]; got != 1 {
			t.Errorf("count after the late handler has returned: %d", got)
		}
	})
}

// A mounted handler that panics has failed, although its response is a result. A handler that
// aborts the response because its client has left has not.
func TestPanicsOfMountedHandlersAreRecorded(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		message string // of the span; "" if the handler has not failed
	}{
		{"response", func(http.ResponseWriter, *http.Request) {}, ""},
		{"error response", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, ""},
		{"panic", func(http.ResponseWriter, *http.Request) { panic("oh") }, "panic: oh"},
		{"panic in a stream", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			panic("oh")
		}, "panic: oh"},
		{"abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "panic: net/http: abort Handler"},
		{"abort after the client has left", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				sdk := newOwnSDK(t)
				s := newSite(t, engine, "GET", "/x", test.handler, iii.WithTelemetry(sdk.telemetry()), iii.WithLogger(slog.New(slog.DiscardHandler)))
				_ = s.visit(t, "/x").Body.Close()
				time.Sleep(time.Minute)
				want := codes.Ok
				failures := map[string]int64{}
				if test.message != "" {
					want, failures["http::GET/x"] = codes.Error, 1
				}
				spans := sdk.spans.Ended()
				if len(spans) != 1 {
					t.Fatalf("%d spans, want 1", len(spans))
				}
				if got := spans[0].Status(); got.Code != want || got.Description != test.message {
					t.Errorf("status of the span: %v, want %v %q", got, want, test.message)
				}
				if diff := cmp.Diff(failures, sums(t, readMetrics(t, sdk.reader)["iii.worker.function.errors"])); diff != "" {
					t.Errorf("errors (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestQueueWaitIsMeasured(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		sdk := newOwnSDK(t)
		c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithTelemetry(sdk.telemetry()), iii.WithMaxConcurrency(1), iii.WithName("w"))
		handle(t, c, "t::slow", func(context.Context, struct{}) (string, error) { time.Sleep(time.Second); return "", nil })
		applied(t, c)
		caller := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithName("caller"))
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if err := caller.Call(t.Context(), "t::slow", struct{}{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if got := seconds(t, readMetrics(t, sdk.reader)["iii.worker.function.queue_wait"])["t::slow"]; got != "3: 3.000" { // 0 s, 1 s and 2 s
			t.Errorf("queue_wait: %s", got)
		}
	})
}

// Telemetry that has no logger uses the logger of the first client that has one. A logger that
// writes to the telemetry itself is skipped.
func TestTelemetryLogsThroughTheFirstClientWithALogger(t *testing.T) {
	for name, test := range map[string]struct {
		own, loop bool
		want      string
	}{
		"client's": {want: "second"}, "its own": {own: true, want: "own"}, "writes to telemetry": {loop: true, want: "third"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				var logs [4]lines // telemetry's own, then those of three clients
				logger := func(i int) *slog.Logger { return slog.New(slog.NewTextHandler(&logs[i], nil)) }
				up := make(chan struct{})
				opts := []iii.ConnectionOption{iii.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
					<-up
					return nil, errors.New("no route to the engine")
				})}
				if test.own {
					opts = append(opts, iii.WithConnectionLogger(logger(0)))
				}
				telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: pointer(engine.URL())}, iii.WithTelemetryConnection(opts...))
				if err != nil {
					t.Fatal(err)
				}
				second := logger(2)
				if test.loop {
					second = slog.New(iii.TraceHandler(telemetry.SlogHandler()))
				}
				for _, clientOptions := range [][]iii.Option{{}, {iii.WithLogger(second)}, {iii.WithLogger(logger(3))}} {
					c, err := iii.New(engine.URL(), append(clientOptions, iii.WithTelemetry(telemetry))...)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
				}
				close(up)
				synctest.Wait()
				for i, source := range []string{"own", "first", "second", "third"} {
					if got := strings.Contains(logs[i].String(), "no route to the engine"); got != (source == test.want) {
						t.Errorf("in the log %q: %v", source, got)
					}
				}
				_ = telemetry.Shutdown(t.Context())
			})
		})
	}
}

// If Shutdown runs out of time, its error names the functions whose handlers are still
// running.
func TestUnfinishedDrainNamesTheHandlers(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		var log lines
		c := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithName("w"), iii.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		release := make(chan struct{})
		defer close(release)
		stuck := func(context.Context, struct{}) (string, error) { <-release; return "", nil }
		handle(t, c, "orders::create", stuck)
		handle(t, c, "orders::list", stuck)
		handle(t, c, "orders::exit", func(context.Context, struct{}) (string, error) { runtime.Goexit(); return "", nil })
		f, err := iii.Handle(c, "orders::gone", stuck)
		if err != nil {
			t.Fatal(err)
		}
		applied(t, c)
		caller := connect(t, engine, iii.WithDialContext(engine.DialContext), iii.WithName("caller"))
		for _, id := range []string{"orders::list", "orders::create", "orders::exit", "orders::create", "orders::gone"} {
			if err := caller.Send(t.Context(), id, struct{}{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if err := f.Unregister(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.Shutdown(ctx)
		const want = "orders::create (2), orders::gone (1), orders::list (1)"
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("Shutdown = %v", err)
		}
		for _, line := range []string{"the drain ended before its handlers", "closed before its handlers"} {
			if !slices.ContainsFunc(strings.Split(log.String(), "\n"), func(l string) bool { return strings.Contains(l, line) && strings.Contains(l, want) }) {
				t.Errorf("the log does not name the handlers in %q:\n%s", line, log.String())
			}
		}
	})
}

// While a handler runs, its goroutine has a profiler label that contains the function's id.
func TestHandlerGoroutinesHaveProfilerLabels(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		handle(t, c, "orders::create", func(ctx context.Context, _ struct{}) (string, error) {
			var profile bytes.Buffer
			err := pprof.Lookup("goroutine").WriteTo(&profile, 1)
			if !strings.Contains(profile.String(), `"iii.function.id":"orders::create"`) {
				err = errors.New("the goroutine has no label")
			}
			label, _ := pprof.Label(ctx, "iii.function.id")
			return label, err
		})
		if label, err := iii.Call[string](t.Context(), c, "orders::create", struct{}{}); err != nil || label != "orders::create" {
			t.Errorf("the handler's context has the label %q, %v", label, err)
		}
		synctest.Wait() // the label is removed after the result has been sent
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil || strings.Contains(profile.String(), "orders::create") {
			t.Errorf("an idle goroutine keeps the label: %v", err)
		}
	})
}

// improvement describes an intended difference from the recorded telemetry. It consists of
// patterns for the path, the recorded value and the value sent by this package.
type improvement struct {
	name, reason  string
	path          *regexp.Regexp
	recorded, own *regexp.Regexp
	used          int
}

func improves(name, path, recorded, own, reason string) *improvement {
	whole := func(s string) *regexp.Regexp { return regexp.MustCompile("^(" + s + ")$") }
	return &improvement{name: name, reason: reason, path: whole(path), recorded: whole(recorded), own: whole(own)}
}

const absent = "absent"

// improvements lists the intended differences. The test fails if one of them never applies.
var improvements = []*improvement{
	improves("defaults are left out", `.*/record/(attributes|events|links|status/code|status/message|dataPoints|.*/dataPoints/0/attributes)`, `""|0|\[\]`, absent,
		"the standard and the engine treat them alike"),
	improves("the scope has a version", `.*/scope/version`, `""`, `"`+regexp.QuoteMeta(iii.Version)+`"`, "it identifies the version that recorded the data"),
	improves("no version of a scope that has none", `(live|span|metric) .*/scope/version`, `""`, absent, "the empty version is a default as well"),
	improves("span flags", `(live|span) [^/]*/record/flags`, absent, `257`, "a reader sees that the span is sampled"),
	improves("span flags of a remote parent", `(live|span) execute tel::work/record/flags`, absent, `769`, "a reader sees that the parent is remote"),
	improves("link flags", `(live|span) everything/record/links/0/flags`, absent, `769`, "a reader sees that the linked span is remote"),
	improves("log flags", `log working [12]/record/flags`, absent, `1`, "a reader sees that the record's span is sampled"),
	improves("severity text", `log .*/record/severityText`, `""`, `"(DEBUG|INFO|WARN|ERROR)"`, "the engine's filters and log triggers compare only the text"),
	improves("integer histograms", `metric order\.items/record/histogram/.*`, absent, `.*`, "the recorded exporter loses their data"),
	improves("worker gauges", `metric iii\.worker\..*`, absent, `.*`, "the engine shows a worker's metrics if it receives any"),
}

// localImprovements lists further differences that result from local calls.
var localImprovements = []*improvement{
	improves("no caller in the payload", `span execute tel::work.*/record/events/0/attributes/iii\.payload\.json/stringValue/_caller_worker_id`, `"a worker"`, absent,
		"the engine, which adds it, has no part in the call"),
}

// TestGoldenTelemetry runs a program that performs the same operations as the recorded worker.
// Every span, span start, log record and metric must equal the recorded one, except for the
// improvements. Ids, times and SDK names are normalized.
func TestGoldenTelemetry(t *testing.T) {
	for _, test := range []struct {
		protocol     iiitest.Protocol
		improvements []*improvement
	}{{iiitest.Protocol023, improvements}, {iiitest.Protocol026, slices.Concat(improvements, localImprovements)}} {
		t.Run(test.protocol.String(), func(t *testing.T) { goldenTelemetry(t, test.protocol, test.improvements) })
	}
}

func goldenTelemetry(t *testing.T, protocol iiitest.Protocol, improvements []*improvement) {
	for _, i := range improvements {
		i.used = 0
	}
	var got []otlpFrame
	synctest.Test(t, func(t *testing.T) { got = recordedProgram(t, protocol) })
	wantRecords, wantShape := otlpRecords(t, recordedTelemetry(t))
	gotRecords, gotShape := otlpRecords(t, got)
	for key := range maps.Keys(gotRecords) {
		if _, ok := wantRecords[key]; !ok {
			wantRecords[key] = map[string]string{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wantRecords)) {
		compareRecords(t, improvements, key, wantRecords[key], gotRecords[key])
	}
	for _, i := range improvements {
		if i.used == 0 {
			t.Errorf("the improvement %q is listed but not needed", i.name)
		} else {
			t.Logf("%4d times: %s: %s", i.used, i.name, i.reason)
		}
	}
	// The recorded exporter lost this metric's data.
	items := gotRecords["metric order.items"]
	for path, want := range map[string]string{
		"aggregationTemporality": `2`, "dataPoints/0/count": `"1"`, "dataPoints/0/sum": `3`, "dataPoints/0/min": `3`, "dataPoints/0/max": `3`,
		"dataPoints/0/bucketCounts/0": `"0"`, "dataPoints/0/bucketCounts/1": `"1"`, "dataPoints/0/bucketCounts/15": `"0"`, "dataPoints/0/explicitBounds/14": `10000`,
	} {
		if got := items["/record/histogram/"+path]; got != want {
			t.Errorf("order.items: %s is %s, want %s", path, got, want)
		}
	}
	if diff := cmp.Diff(wantShape, gotShape); diff != "" {
		t.Errorf("frames and what is in them (-recorded +own):\n%s", diff)
	}
}

func compareRecords(t *testing.T, improvements []*improvement, key string, want, got map[string]string) {
	t.Helper()
	paths := map[string]bool{}
	for p := range want {
		paths[p] = true
	}
	for p := range got {
		paths[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		w, ok := want[p]
		if !ok {
			w = absent
		}
		g, ok := got[p]
		if !ok {
			g = absent
		}
		if w == g {
			continue
		}
		path := key + p
		i := slices.IndexFunc(improvements, func(i *improvement) bool {
			return i.path.MatchString(path) && i.recorded.MatchString(w) && i.own.MatchString(g)
		})
		if i < 0 {
			t.Errorf("%s: recorded %s, own %s", path, w, g)
			continue
		}
		improvements[i].used++
	}
}

type otlpFrame struct {
	prefix string
	data   []byte
}

func recordedTelemetry(t *testing.T) (frames []otlpFrame) {
	t.Helper()
	file, err := os.ReadFile("testdata/0.23/rust-sdk.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Prefix string
			Data   json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Prefix != "" {
			frames = append(frames, otlpFrame{line.Prefix, line.Data})
		}
	}
	if len(frames) == 0 {
		t.Fatal("the recording contains no telemetry")
	}
	return frames
}

// recordedProgram performs the same operations as the recorded worker, at the same times, and
// returns the frames that reached the engine.
func recordedProgram(t *testing.T, protocol iiitest.Protocol) (frames []otlpFrame) {
	e := telemetryEngine(t, iiitest.WithProtocol(protocol))
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{
		EngineWSURL: pointer(e.URL()), ServiceName: pointer("tel-rust"), ServiceVersion: pointer("1.2.3"), ServiceNamespace: pointer("shop"),
		ServiceInstanceID: pointer("inst-1"), MetricsExportIntervalMs: pointer[uint64](1500),
	}, iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithTelemetry(telemetry))
	if err != nil {
		t.Fatal(err)
	}
	logger := telemetry.Logger()
	handle(t, c, "tel::work", func(ctx context.Context, in struct {
		N    int
		Fail bool
	}) (map[string]any, error) {
		logger.Info(ctx, "working", map[string]any{"n": in.N, "nested": map[string]any{"a": []any{1, "x", true, nil}, "f": 1.5}})
		trace.SpanFromContext(ctx).AddEvent("checkpoint", trace.WithAttributes(attribute.String("step", "one")))
		if in.Fail {
			return nil, errors.New("handler error: work failed") // the recorded error text
		}
		return map[string]any{"n": in.N, "ok": true}, nil
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1300 * time.Millisecond)

	ctx, checkout := telemetry.Tracer().Start(t.Context(), "checkout", trace.WithSpanKind(trace.SpanKindServer))
	if err := c.Call(ctx, "tel::work", json.RawMessage(`{"n":1,"password":"hunter2","api_key":"k","plain":"v"}`), nil); err != nil {
		t.Error(err)
	}
	checkout.SetStatus(codes.Ok, "")
	checkout.End()
	if err := c.Call(t.Context(), "tel::work", json.RawMessage(`{"n":2,"fail":true}`), nil); err == nil {
		t.Error("tel::work did not fail")
	}
	logger.Warn(t.Context(), "outside any span", map[string]any{"why": "test"})
	logger.Error(t.Context(), "bad", nil)
	logger.Debug(t.Context(), "dbg", nil)
	recordEverything(t, telemetry)
	recordMetrics(t, telemetry.MeterProvider().Meter("custom-meter"))

	time.Sleep(4 * time.Second)
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range e.Telemetry() {
		frames = append(frames, otlpFrame{f.Prefix, f.Data})
	}
	return frames
}

func recordEverything(t *testing.T, telemetry *iii.Telemetry) {
	t.Helper()
	traceID, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex("b7ad6b7169203331")
	if err != nil {
		t.Fatal(err)
	}
	linked := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
	_, span := telemetry.TracerProvider().Tracer("custom-scope").Start(t.Context(), "everything", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithLinks(trace.Link{SpanContext: linked, Attributes: []attribute.KeyValue{attribute.Int("l", 1)}}),
		trace.WithAttributes(attribute.String("s", "str"), attribute.Int("i", 42), attribute.Float64("f", 2.5), attribute.Bool("b", true),
			attribute.StringSlice("as", []string{"a", "b"}), attribute.Int64Slice("ai", []int64{1, 2})))
	span.AddEvent("ev", trace.WithAttributes(attribute.String("k", "v")))
	span.SetStatus(codes.Error, "went wrong")
	span.End()
	_, span = telemetry.Tracer().Start(t.Context(), "child-less", trace.WithSpanKind(trace.SpanKindConsumer))
	span.End()
}

func recordMetrics(t *testing.T, m metric.Meter) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	region := func(name string) metric.MeasurementOption {
		return metric.WithAttributes(attribute.String("region", name))
	}
	count, err := m.Int64Counter("orders.count", metric.WithDescription("orders"), metric.WithUnit("1"))
	must(err)
	count.Add(t.Context(), 3, region("eu"))
	count.Add(t.Context(), 2, region("us"))
	value, err := m.Float64Histogram("order.value", metric.WithUnit("EUR"))
	must(err)
	for _, v := range []float64{1, 5, 20, 800} {
		value.Record(t.Context(), v, region("eu"))
	}
	items, err := m.Int64Histogram("order.items")
	must(err)
	items.Record(t.Context(), 3)
	depth, err := m.Int64UpDownCounter("queue.depth")
	must(err)
	depth.Add(t.Context(), 5)
	depth.Add(t.Context(), -2)
	temp, err := m.Float64Gauge("temp")
	must(err)
	temp.Record(t.Context(), 21.5)
}

// otlpRecords returns the records that frames contain, keyed by kind and name. Each record
// maps its leaves' paths to their values, and includes its resource and scope. shape contains
// the number of records and frames of each kind.
func otlpRecords(t *testing.T, frames []otlpFrame) (records map[string]map[string]string, shape map[string]int) {
	t.Helper()
	records, shape = map[string]map[string]string{}, map[string]int{}
	spans := map[any]string{} // span names by id
	var all []otlpRecord
	for _, f := range frames {
		found := otlpList(t, f)
		for _, r := range found {
			if r.kind == "live" || r.kind == "span" {
				spans[r.record["spanId"]] = "the span " + r.key
			}
			if !strings.HasPrefix(r.key, "iii.worker.") {
				shape["records of kind "+r.kind]++
			}
		}
		if kind := found[0].kind; kind != "span" { // how spans are batched depends on timing
			shape["frames of kind "+kind]++
		}
		all = append(all, found...)
	}
	for _, r := range all {
		key := r.kind + " " + r.key
		if records[key] != nil {
			if r.kind != "metric" { // metrics are exported repeatedly
				t.Errorf("%s occurs twice", key)
			}
			continue
		}
		records[key] = map[string]string{}
		flatten(records[key], "/of resource", normalOTLP("", r.resource, spans))
		flatten(records[key], "/of scope", normalOTLP("", r.scope, spans))
		flatten(records[key], "/record", normalOTLP("", r.record, spans))
	}
	return records, shape
}

type otlpRecord struct {
	kind, key       string
	resource, scope map[string]any // without their records
	record          map[string]any
}

func otlpList(t *testing.T, f otlpFrame) (found []otlpRecord) {
	t.Helper()
	keys := map[string][3]string{
		"OTLP": {"resourceSpans", "scopeSpans", "spans"}, "LOGS": {"resourceLogs", "scopeLogs", "logRecords"}, "MTRC": {"resourceMetrics", "scopeMetrics", "metrics"},
	}[f.prefix]
	d := json.NewDecoder(bytes.NewReader(f.data))
	d.UseNumber()
	var doc map[string][]map[string]any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	for _, resource := range doc[keys[0]] {
		scopes := resource[keys[1]].([]any)
		delete(resource, keys[1])
		for _, s := range scopes {
			scope := s.(map[string]any)
			records := scope[keys[2]].([]any)
			delete(scope, keys[2])
			for _, record := range records {
				r := otlpRecord{resource: resource, scope: scope, record: record.(map[string]any)}
				r.name(f.prefix)
				found = append(found, r)
			}
		}
	}
	return found
}

// name sets r's kind and key. The recorded program calls one function twice, so the key also
// tells these two calls apart.
func (r *otlpRecord) name(prefix string) {
	switch prefix {
	case "MTRC":
		r.kind, r.key = "metric", r.record["name"].(string)
	case "LOGS":
		r.kind, r.key = "log", r.record["body"].(map[string]any)["stringValue"].(string)
		if r.key == "working" {
			r.key += " " + regexp.MustCompile(`intValue:([12])\]\]`).FindStringSubmatch(fmt.Sprint(r.record))[1]
		}
	default:
		r.kind, r.key = "span", r.record["name"].(string)
		if r.record["endTimeUnixNano"] == "0" {
			r.kind = "live"
		}
		if r.key == "execute tel::work" && r.record["parentSpanId"] == nil {
			r.key += " alone"
		}
	}
}

// normalOTLP replaces everything in v that differs between runs or SDKs. The parameter key is
// the key under which v is stored.
func normalOTLP(key string, v any, spans map[any]string) any {
	switch v := v.(type) {
	case map[string]any:
		if name, ok := v["key"].(string); ok && len(v) == 2 {
			return map[string]any{name: normalOTLP(name, v["value"], spans)}
		}
		m := map[string]any{}
		for k, value := range v {
			if k == "stringValue" { // value of the attribute that is being normalized
				m[k] = normalText(key, value.(string))
				continue
			}
			m[k] = normalOTLP(k, value, spans)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = normalOTLP(key, v[i], spans)
		}
		if key == "dataPoints" { // data points are unordered
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		if attributes := (map[string]any{}); len(list) > 0 && isAttributes(v) { // attributes are unordered
			for _, one := range list {
				maps.Copy(attributes, one.(map[string]any))
			}
			return attributes
		}
		return list
	case string:
		switch {
		case strings.HasSuffix(key, "UnixNano") && v != "0":
			return "a time"
		case key == "spanId" || key == "parentSpanId":
			if name, ok := spans[v]; ok {
				return name
			}
		case key == "traceId" && v != "0af7651916cd43dd8448eb211c80319c":
			return "a trace"
		case key == "name" && (v == "iii-rust-sdk" || v == "iii-go-sdk"):
			return "the SDK"
		}
		return v
	case json.Number:
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

func isAttributes(list []any) bool {
	return !slices.ContainsFunc(list, func(v any) bool {
		m, ok := v.(map[string]any)
		_, named := m["key"].(string)
		return !ok || !named
	})
}

func normalText(key, s string) any {
	switch key {
	case "telemetry.sdk.name", "telemetry.sdk.version", "telemetry.sdk.language":
		return "of the SDK"
	case "exception.stacktrace":
		if s == "" {
			return s
		}
		return "a stack"
	case "iii.payload.json":
		var payload map[string]any
		if err := json.Unmarshal([]byte(s), &payload); err != nil {
			return s
		}
		if payload["_caller_worker_id"] != nil {
			payload["_caller_worker_id"] = "a worker"
		}
		return payload
	}
	return s
}

// flatten stores v's leaves in a map, keyed by path. An empty list is a leaf.
func flatten(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			flatten(into, path+"/"+k, value)
		}
	case []any:
		for i, value := range v {
			flatten(into, path+"/"+strconv.Itoa(i), value)
		}
		if len(v) == 0 {
			into[path] = "[]"
		}
	default:
		into[path] = fmt.Sprintf("%#v", v)
	}
}
