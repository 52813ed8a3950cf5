package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
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
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/enginetest"
)

// telemetryEngine starts an engine and fails the test if it, or the recorded engine,
// would lose a frame that it receives.
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

// startTelemetry starts telemetry as cfg specifies, connected to engine unless cfg
// names another.
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

// The engine lists the worker's metrics, even after the worker's id has changed.
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
			t.Errorf("the engine lists worker %s with the figures %+v", info.ID, m)
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

// A client's Shutdown flushes its telemetry, which continues.
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
		t.Errorf("when Shutdown returned the engine had %+v", spans)
	}
	_, span := telemetry.Tracer().Start(t.Context(), "later")
	span.End()
	flush(t, telemetry)
	if spans := engine.Traces(); len(spans) != 2 {
		t.Errorf("after the client's end the engine has %d spans, want 2", len(spans))
	}
}

// Telemetry that cannot be delivered delays Shutdown only within its own limit, and
// Shutdown reports it.
func TestShutdownWithTelemetryAway(t *testing.T) {
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
			t.Errorf("the client ended by %v", c.Err())
		}
	})
}

// A shutdown waits at most 3 s for a telemetry connection that is not there, from the
// beginning or from the moment at which it is lost. The loss is an error of Shutdown, and
// only logged by Run.
func TestShutdownWaitsBrieflyForTelemetry(t *testing.T) {
	for name, test := range map[string]struct {
		lostAfter time.Duration // 0: it was never there
		limit     uint64        // shutdown_timeout_ms
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
				var end net.Conn // of an engine that takes telemetry and confirms nothing
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

// mute drops what is written after the handshake.
type mute struct{ net.Conn }

func (c mute) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("GET ")) {
		return c.Conn.Write(p)
	}
	return len(p), nil
}

// lines collects the log lines of a client.
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

func TestWithTelemetryRefuses(t *testing.T) {
	if _, err := iii.New("", iii.WithTelemetry(&iii.Telemetry{})); err == nil {
		t.Error("a Telemetry that nobody started is accepted")
	}
	c, err := iii.New("", iii.WithTelemetry(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Disabled telemetry records nothing, and the caller's trace still continues.
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

// A payload of 20 MiB is cut, and the connection stays up.
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

// The environment is read at each invocation.
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

// applied returns once the engine has applied c's registrations: the engine handles a
// worker's messages in order.
func applied(t *testing.T, c *iii.Client) {
	t.Helper()
	if err := c.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
}

// Log records arrive with trace, severity text and structured data, and fire triggers.
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

// A slog.Handler should ignore a zero time. This handler replaces it, as documented:
// the engine would sort such a record before all others.
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

// Groups of any depth reach the engine; the inner ones become text.
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

// Several clients use one telemetry concurrently.
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

// Each client of a process reports metrics under its own id while it lives.
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
			t.Errorf("the engine has no figures of worker %s", name)
		}
	}
	if err := clients["one"].Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"two": clients["two"].WorkerID()}, reported()); diff != "" {
		t.Errorf("ids by worker after the end of one (-want +got):\n%s", diff)
	}
	if err := clients["two"].Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := reported(); len(got) != 0 {
		t.Errorf("after the end of both %v are reported", got)
	}
}

// With the development engine, in memory and in virtual time, records are decoded and
// stored once Flush has returned.
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

// Headers decide whether a guarded engine admits telemetry; its refusal is reported.
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
			t.Error("the refusal was not told")
		}
		if err := s.Shutdown(t.Context()); err == nil {
			t.Error("Shutdown of a connection that was refused: no error")
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

// A function with a trace trigger is not triggered by its own invocations, which would
// loop endlessly.
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
			t.Errorf("told %d times of one trace", n)
		}
		if err := telemetry.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The live snapshot of a handler's span carries the baggage and precedes the finished
// span.
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
		t.Errorf("while the handler runs the engine has %+v and %d finished spans", live, len(engine.Traces()))
	}
	close(proceed)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	flush(t, telemetry)
	if spans := engine.Traces(); len(spans) != 1 || len(live) == 1 && spans[0].SpanID != live[0].SpanID || spans[0].Attributes["iii.session.id"] != "S-1" {
		t.Errorf("after its end the engine has %+v", spans)
	}
}

// A request over the HTTP transport, the route's handler and the handler's calls are
// one trace.
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

// The engine ends connections without a Close frame, even those that are closed with
// one. Nobody waits for it, reports it or says so in a log.
func TestShutdownTakesTheEndOfAConnectionForItsAnswer(t *testing.T) {
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
