package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/otlpjson"
)

// telemetry starts telemetry that sends to p and is shut down when the test ends.
func (p *otelPeer) telemetry(cfg OtelConfig, opts ...TelemetryOption) *Telemetry {
	p.tb.Helper()
	if cfg.EngineWSURL == nil {
		cfg.EngineWSURL = ptr(p.url())
	}
	all := []TelemetryOption{WithTelemetryConnection(p.options()...)}
	tel, err := StartTelemetry(p.tb.Context(), cfg, append(all, opts...)...)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = suite.note(tel.Shutdown(ctx))
	})
	return tel
}

func (p *otelPeer) prefixes() map[string]int {
	p.tb.Helper()
	counts := map[string]int{}
	for _, f := range p.received() {
		counts[f[:4]]++
	}
	return counts
}

// containing returns the received frames that contain all of the given strings.
func (p *otelPeer) containing(texts ...string) []string {
	var found []string
	for _, f := range p.received() {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(f, text) }) {
			found = append(found, f)
		}
	}
	return found
}

func emitLog(tel *Telemetry, ctx context.Context, text string) {
	var r log.Record
	r.SetTimestamp(time.Now())
	r.SetBody(attribute.StringValue(text))
	r.SetSeverity(log.SeverityInfo)
	tel.LoggerProvider().Logger("test").Emit(ctx, r)
}

func TestTelemetryDelivers(t *testing.T) {
	for _, end := range []string{"Flush", "Shutdown"} {
		t.Run(end, func(t *testing.T) {
			p := newOtelPeer(t, otelScript{})
			tel := p.telemetry(OtelConfig{ServiceName: ptr("orders"), SpansFlushIntervalMs: ptr(uint64(3_600_000))})
			counter, err := tel.Meter().Int64Counter("orders.created")
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := tel.Tracer().Start(t.Context(), "work")
			counter.Add(ctx, 7)
			emitLog(tel, ctx, "hello")
			tel.Logger().Info(ctx, "from the logger", map[string]int{"n": 1})
			slog.New(tel.SlogHandler()).InfoContext(ctx, "from slog", "n", 2)
			span.End()
			if end == "Flush" {
				err = tel.Flush(t.Context())
			} else {
				err = tel.Shutdown(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			counts := p.prefixes()
			if counts[otlpjson.PrefixTraces] != 2 || counts[otlpjson.PrefixMetrics] != 1 || counts[otlpjson.PrefixLogs] != 3 {
				t.Errorf("frames: %v, want the span twice, its metrics and three records", counts)
			}
			id := span.SpanContext().SpanID().String()
			for _, texts := range [][]string{
				{otlpjson.PrefixTraces, `"endTimeUnixNano":"0"`, id}, {otlpjson.PrefixTraces, `"name":"work"`, id}, {otlpjson.PrefixMetrics, "orders.created", `"asInt":"7"`},
				{otlpjson.PrefixLogs, "hello", id}, {otlpjson.PrefixLogs, "from the logger", id}, {otlpjson.PrefixLogs, "from slog", id},
			} {
				frames := p.containing(texts...)
				if len(frames) == 0 {
					t.Errorf("no frame with %q", texts)
				}
				for _, f := range frames {
					if !strings.Contains(f, `"orders"`) || !strings.Contains(f, `"iii-go-sdk"`) {
						t.Errorf("no resource in %s", f)
					}
				}
			}
			if scoped := p.containing(otlpjson.PrefixTraces, `"scope":{"name":"iii-go-sdk","version":"`+Version+`"`); len(scoped) != 2 {
				t.Errorf("%d frames of spans have this package's scope", len(scoped))
			}
		})
	}
}

// Disabled telemetry starts no goroutine, opens no connection, records nothing, does not set
// the global providers and returns no errors.
func TestDisabledTelemetryDoesNothing(t *testing.T) {
	for variable, value := range map[string]string{"OTEL_ENABLED": "no", "OTEL_SDK_DISABLED": "true"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			testDisabledTelemetry(t)
		})
	}
}

func testDisabledTelemetry(t *testing.T) {
	dialed := false
	dial := func(context.Context, string, string) (net.Conn, error) {
		dialed = true
		return nil, errors.New("nobody there")
	}
	tracers, meters, loggers, propagator := otel.GetTracerProvider(), otel.GetMeterProvider(), otel.GetLoggerProvider(), otel.GetTextMapPropagator()
	before := liveGoroutines()
	tel, err := StartTelemetry(t.Context(), OtelConfig{}, WithGlobalProviders(), WithTelemetryConnection(WithConnectionDialContext(dial)))
	if err != nil {
		t.Fatal(err)
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true})
	ctx, span := tel.Tracer().Start(trace.ContextWithRemoteSpanContext(t.Context(), parent), "work")
	if span.IsRecording() || !trace.SpanContextFromContext(ctx).Equal(parent) {
		t.Errorf("span %v, want that of the caller", span.SpanContext())
	}
	span.End()
	counter, err := tel.Meter().Int64Counter("c")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(ctx, 1)
	emitLog(tel, ctx, "hello")
	if err := tel.Connection().Send(logFrame(1)); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("Send: %v", err)
	}
	if s := tel.Connection().State(); s != ConnectionStateDisconnected {
		t.Errorf("state %s", s)
	}
	if err := errors.Join(tel.Flush(t.Context()), tel.Connection().Flush(t.Context()), tel.Shutdown(t.Context()), tel.Shutdown(t.Context()),
		tel.Connection().Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
	if after := liveGoroutines(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	if dialed {
		t.Error("telemetry dialed")
	}
	if otel.GetTracerProvider() != tracers || otel.GetMeterProvider() != meters || otel.GetLoggerProvider() != loggers || fmt.Sprint(otel.GetTextMapPropagator()) != fmt.Sprint(propagator) {
		t.Error("globals have changed")
	}
}

// If log records are not sent to the engine, a Logger falls back to slog, as it does without
// telemetry.
func TestTelemetryLoggerFallsBack(t *testing.T) {
	for name, cfg := range map[string]OtelConfig{"disabled": {Enabled: ptr(false)}, "without logs": {LogsEnabled: ptr(false)}} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			p := newOtelPeer(t, otelScript{})
			tel := p.telemetry(cfg)
			setSlogDefault(t, slog.NewTextHandler(&out, nil))
			tel.Logger().Info(t.Context(), "first", map[string]int{"n": 41})
			for _, want := range []string{"first", "41"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in %q", want, out.String())
				}
			}
		})
	}
}

func TestTelemetryGlobalProviders(t *testing.T) {
	tracers, propagator := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	p := newOtelPeer(t, otelScript{})
	first := p.telemetry(OtelConfig{})
	if otel.GetTracerProvider() != tracers || fmt.Sprint(otel.GetTextMapPropagator()) != fmt.Sprint(propagator) {
		t.Fatal("globals have changed without WithGlobalProviders")
	}
	second := p.telemetry(OtelConfig{}, WithGlobalProviders())
	if otel.GetTracerProvider() != second.TracerProvider() || otel.GetMeterProvider() != second.MeterProvider() || otel.GetLoggerProvider() != second.LoggerProvider() {
		t.Error("globals are not those of the telemetry")
	}
	if diff := cmp.Diff([]string{"baggage", "traceparent", "tracestate"}, slices.Sorted(slices.Values(otel.GetTextMapPropagator().Fields()))); diff != "" {
		t.Errorf("propagated fields (-want +got):\n%s", diff)
	}
	if _, err := StartTelemetry(t.Context(), OtelConfig{}, WithGlobalProviders()); err == nil {
		t.Error("a second WithGlobalProviders: no error")
	}
	for range 2 { // the second call has no effect
		if err := first.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := StartTelemetry(t.Context(), OtelConfig{}, WithGlobalProviders()); err == nil {
		t.Error("shutting down another Telemetry has reset the globals")
	}
	_, span := otel.Tracer("someone").Start(t.Context(), "global")
	span.End()
	if err := second.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.containing(otlpjson.PrefixTraces, "someone", "global")) != 2 {
		t.Errorf("no span of the global tracer in %q", p.received())
	}
	third := p.telemetry(OtelConfig{}, WithGlobalProviders())
	if otel.GetTracerProvider() != third.TracerProvider() {
		t.Error("the globals still belong to the telemetry that was shut down")
	}
}

// The frame that announces a started span already contains the span's baggage.
func TestBaggageIsSetBeforeTheLiveSpan(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{})
	ctx, err := SetBaggage(t.Context(), "iii.session.id", "S-1")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer().Start(ctx, "work", trace.WithAttributes(attribute.String("given", "at start"), attribute.String("iii.session.id", "overwritten")))
	if err := tel.Connection().Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	frames := p.received()
	if len(frames) != 1 {
		t.Fatalf("frames before the end of the span: %q", frames)
	}
	for _, want := range []string{`"endTimeUnixNano":"0"`, `{"key":"iii.session.id","value":{"stringValue":"S-1"}}`, `{"key":"given","value":{"stringValue":"at start"}}`} {
		if !strings.Contains(frames[0], want) {
			t.Errorf("no %s in %s", want, frames[0])
		}
	}
	if strings.Contains(frames[0], "overwritten") {
		t.Errorf("the attribute overrides the baggage: %s", frames[0])
	}
	span.End()
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.containing(otlpjson.PrefixTraces, "S-1")) != 2 {
		t.Errorf("frames: %q", p.received())
	}
}

func TestTelemetrySwitches(t *testing.T) {
	off := ptr(false)
	tests := []struct {
		name string
		cfg  OtelConfig
		env  map[string]string
		want map[string]int
	}{
		{name: "all", want: map[string]int{otlpjson.PrefixTraces: 2, otlpjson.PrefixMetrics: 1, otlpjson.PrefixLogs: 1}},
		{name: "no live spans", cfg: OtelConfig{LiveSpans: off}, want: map[string]int{otlpjson.PrefixTraces: 1, otlpjson.PrefixMetrics: 1, otlpjson.PrefixLogs: 1}},
		{name: "no metrics", cfg: OtelConfig{MetricsEnabled: off}, want: map[string]int{otlpjson.PrefixTraces: 2, otlpjson.PrefixLogs: 1}},
		{name: "no logs", cfg: OtelConfig{LogsEnabled: off}, want: map[string]int{otlpjson.PrefixTraces: 2, otlpjson.PrefixMetrics: 1}},
		{name: "sampler of the environment", env: map[string]string{"OTEL_TRACES_SAMPLER": "always_off"}, want: map[string]int{otlpjson.PrefixMetrics: 1, otlpjson.PrefixLogs: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			p := newOtelPeer(t, otelScript{})
			tel := p.telemetry(tt.cfg)
			recordOfEach(t, tel)
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.prefixes()); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
		})
	}
}

// OpenTelemetry's own environment variables work as usual, except for intervals, which
// OtelConfig sets.
func TestTelemetryHonorsOpenTelemetryVariables(t *testing.T) {
	record := func(t *testing.T) (spans []any, took time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := newOtelPeer(t, otelScript{})
			tel := p.telemetry(OtelConfig{LiveSpans: ptr(false), MetricsEnabled: ptr(false)})
			p.conn(0)
			began := time.Now()
			link := trace.Link{SpanContext: spanContext(trace.FlagsSampled, true)}
			_, span := tel.Tracer().Start(t.Context(), "s", trace.WithLinks(link, link), trace.WithAttributes(attribute.String("a", "abcdef"), attribute.Int("b", 1)))
			span.AddEvent("first")
			span.AddEvent("second")
			span.End()
			if span.SpanContext().IsSampled() {
				p.wait("the span", func() bool { return len(p.frames) == 1 })
				took = time.Since(began)
			}
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, docs := p.documents(t)
			for _, doc := range docs {
				enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) { spans = append(spans, s) })
			}
		})
		return spans, took
	}
	for _, tt := range []struct {
		name, sampler, arg string
		spans              int
	}{
		{"default", "", "", 1}, {"always off", "always_off", "", 0}, {"no ratio", "traceidratio", "0", 0}, {"whole ratio", "parentbased_traceidratio", "1", 1},
		{"unknown", "what", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "unknown" {
				before := otel.GetErrorHandler() // the SDK reports the invalid value here
				defer otel.SetErrorHandler(before)
				otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
			}
			t.Setenv("OTEL_TRACES_SAMPLER", tt.sampler)
			t.Setenv("OTEL_TRACES_SAMPLER_ARG", tt.arg)
			if spans, _ := record(t); len(spans) != tt.spans {
				t.Errorf("%d spans, want %d", len(spans), tt.spans)
			}
		})
	}
	t.Run("limits and delays", func(t *testing.T) {
		for name, value := range map[string]string{
			"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_SPAN_LINK_COUNT_LIMIT": "1", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
			"OTEL_BSP_SCHEDULE_DELAY": "7000", "OTEL_BLRP_SCHEDULE_DELAY": "7000", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "100",
		} {
			t.Setenv(name, value)
		}
		spans, took := record(t)
		if took != 100*time.Millisecond {
			t.Errorf("the span arrived after %v, want the default of 100 ms", took)
		}
		got := []any{
			enginetest.At(spans[0], "attributes", 0, "value", "stringValue"), enginetest.At(spans[0], "droppedAttributesCount"),
			enginetest.At(spans[0], "events", 0, "name"), enginetest.At(spans[0], "droppedEventsCount"), enginetest.At(spans[0], "droppedLinksCount"),
		}
		one := json.Number("1")
		if diff := cmp.Diff([]any{"abc", one, "second", one, one}, got); diff != "" {
			t.Errorf("after applying the limits (-want +got):\n%s", diff)
		}
	})
}

// OtelConfig sets the flush and export intervals. A flush interval may be 0.
func TestTelemetryIntervals(t *testing.T) {
	tests := []struct {
		name                 string
		cfg                  OtelConfig
		spans, metrics, logs time.Duration
	}{
		{"default", OtelConfig{}, 100 * time.Millisecond, time.Minute, 0},
		{"zero", OtelConfig{SpansFlushIntervalMs: ptr(uint64(0)), LogsFlushIntervalMs: ptr(uint64(0)), LogsBatchSize: ptr(uint64(100))}, 0, time.Minute, 0},
		{"others", OtelConfig{SpansFlushIntervalMs: ptr(uint64(700)), LogsFlushIntervalMs: ptr(uint64(300)), LogsBatchSize: ptr(uint64(100)),
			MetricsExportIntervalMs: ptr(uint64(1500))}, 700 * time.Millisecond, 1500 * time.Millisecond, 300 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newOtelPeer(t, otelScript{})
				tt.cfg.LiveSpans = ptr(false)
				tel := p.telemetry(tt.cfg)
				p.conn(0)
				counter, err := tel.Meter().Int64Counter("c")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				ctx, span := tel.Tracer().Start(t.Context(), "work")
				counter.Add(ctx, 1)
				emitLog(tel, ctx, "hello")
				span.End()
				p.wait("three frames", func() bool { return len(p.frames) == 3 })
				p.mu.Lock()
				defer p.mu.Unlock()
				for _, f := range p.frames {
					want := map[string]time.Duration{otlpjson.PrefixTraces: tt.spans, otlpjson.PrefixMetrics: tt.metrics, otlpjson.PrefixLogs: tt.logs}[f.data[:4]]
					if got := f.at.Sub(began); got != want {
						t.Errorf("%s arrived after %v, want %v", f.data[:4], got, want)
					}
				}
			})
		})
	}
}

// Each ignored variable is logged once, without its value.
func TestTelemetryReportsIgnoredVariables(t *testing.T) {
	t.Setenv("OTEL_LOGS_BATCH_SIZE", secretQuery)
	var out strings.Builder
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{}, WithTelemetryConnection(WithConnectionLogger(slog.New(slog.NewTextHandler(&out, nil)))))
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = suite.Write([]byte(out.String()))
	if n := strings.Count(out.String(), "$OTEL_LOGS_BATCH_SIZE is not an integer"); n != 1 {
		t.Errorf("log:\n%s", out.String())
	}
}

func recordOfEach(t *testing.T, tel *Telemetry) {
	t.Helper()
	ctx, span := tel.Tracer().Start(t.Context(), "work")
	counter, err := tel.Meter().Int64Counter("c")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(ctx, 1)
	emitLog(tel, ctx, "hello")
	span.End()
}

// Without an engine, Shutdown gives up immediately. If the engine does not respond, Shutdown
// returns when ctx is done. In both cases, its error reports what was lost.
// shutdown_timeout_ms has no effect.
func TestTelemetryShutdownIsBounded(t *testing.T) {
	silent := otelScript{ping: func(*otelConn, []byte) bool { return true }}
	tests := []struct {
		name   string
		script otelScript
		limit  time.Duration // timeout of ctx; 0 means none
		cfg    OtelConfig
		down   bool
		want   time.Duration
	}{
		{"silent engine", silent, time.Second, OtelConfig{}, false, time.Second},
		{"longer than the default of shutdown_timeout_ms", silent, 30 * time.Second, OtelConfig{}, false, 30 * time.Second},
		{"longer than shutdown_timeout_ms", silent, 5 * time.Second, OtelConfig{ShutdownTimeoutMs: ptr(uint64(2500))}, false, 5 * time.Second},
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
				time.Sleep(15 * time.Second) // until flushes are due and retries are delayed
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
					t.Errorf("Shutdown: %v; %d were dropped", err, lost)
				}
				if n := strings.Count(err.Error(), "frames left"); n > 1 {
					t.Errorf("reported %d times: %v", n, err)
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

// If Shutdown cannot deliver data, its error contains the reason why the connection failed. So
// do the errors of later calls to Send.
func TestTelemetryShutdownNamesTheCauseOfLosses(t *testing.T) {
	for name, away := range map[string]time.Duration{"at the first attempt": 0, "for a minute": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, noRoute := newOtelPeer(t, otelScript{}), errors.New("no route to the engine")
				tel := p.telemetry(OtelConfig{}, WithTelemetryConnection(WithConnectionDialContext(
					func(context.Context, string, string) (net.Conn, error) { return nil, noRoute })))
				recordOfEach(t, tel)
				time.Sleep(away)
				if err := suite.note(tel.Shutdown(t.Context())); !errors.Is(err, noRoute) || !errors.Is(err, ErrConnectionClosed) {
					t.Errorf("Shutdown: %v, want the dial error", err)
				}
				err := tel.Connection().Send(OtelMessage{Prefix: otlpjson.PrefixLogs, Data: []byte("{}")})
				if !errors.Is(err, noRoute) || !errors.Is(err, ErrClosed) {
					t.Errorf("Send: %v, want the dial error", err)
				}
			})
		})
	}
	t.Run("an orderly end has none", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tel := newOtelPeer(t, otelScript{}).telemetry(OtelConfig{})
			recordOfEach(t, tel)
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := tel.Connection().Send(OtelMessage{Prefix: otlpjson.PrefixLogs, Data: []byte("{}")}); err != ErrConnectionClosed {
				t.Errorf("Send: %v, want %v", err, ErrConnectionClosed)
			}
		})
	})
}

// heldProcessor is a span processor that shuts down once the channel is closed.
type heldProcessor chan struct{}

func (heldProcessor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (heldProcessor) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (heldProcessor) ForceFlush(context.Context) error                { return nil }
func (p heldProcessor) Shutdown(context.Context) error                { <-p; return nil }

// A Flush during Shutdown succeeds, although the metric reader has already stopped. Errors of
// the program's own processors are still reported.
func TestTelemetryFlushDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		held := make(heldProcessor)
		tel := p.telemetry(OtelConfig{}, WithSpanProcessor(held))
		recordOfEach(t, tel)
		ended := make(chan error)
		go func() { ended <- tel.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := tel.Flush(t.Context()); err != nil {
			t.Errorf("Flush: %v", err)
		}
		close(held)
		if err := <-ended; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	failed := errors.New("no backend")
	for _, test := range []struct{ err, want error }{
		{nil, nil},
		{sdkmetric.ErrReaderShutdown, nil},
		{failed, failed},
		{errors.Join(sdkmetric.ErrReaderShutdown, sdkmetric.ErrReaderShutdown), nil},
		{errors.Join(errors.Join(sdkmetric.ErrReaderShutdown, failed), sdkmetric.ErrReaderShutdown), failed},
	} {
		got := withoutReaderShutdown(test.err)
		if !errors.Is(got, test.want) || errors.Is(got, sdkmetric.ErrReaderShutdown) {
			t.Errorf("%v becomes %v, want %v", test.err, got, test.want)
		}
	}
}

// While the logs are being shut down, a flush waits until the last records have been exported.
func TestLogsAreFlushedDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{block: make(chan struct{})}
		processor := newBatchLogProcessor(k, time.Hour, 10)
		loggers := engineLoggers{sdklog.NewLoggerProvider(sdklog.WithProcessor(processor)), processor}
		loggers.Logger("l").Emit(t.Context(), log.Record{})
		go loggers.Shutdown(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := loggers.ForceFlush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("during the export, ForceFlush: %v", err)
		}
		close(k.block)
		if err := loggers.ForceFlush(t.Context()); err != nil || len(k.batches) != 1 {
			t.Errorf("ForceFlush: %v, exported %v", err, k.batches)
		}
	})
}

// If a callback hangs while metrics are collected, Flush and Shutdown return an error when
// their contexts are done.
func TestTelemetryEndsOfHangingCallback(t *testing.T) {
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
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if err := tel.Shutdown(ctx); err == nil || time.Since(began) > time.Second+2*providerGrace {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
	})
}

func timeLogs(tb testing.TB, l *Logger, n int) []time.Duration {
	data := map[string]any{"order_id": "ord_123", "amount": 49.99}
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		l.Info(tb.Context(), "Order processed", data)
		took[i] = time.Since(began)
	}
	return took
}

// percentile sorts durations and returns their p-quantile, where p is between 0 and 1.
func percentile(durations []time.Duration, p float64) time.Duration {
	slices.Sort(durations)
	return durations[int(float64(len(durations)-1)*p)]
}

// exporters returns three Telemetry values: one that delivers at once, one whose engine does
// not read, and one without an engine. The queues of the last two are full.
func exporters(tb testing.TB) map[string]*Telemetry {
	tb.Helper()
	reading, stuck, away := newOtelPeer(tb, otelScript{}), newOtelPeer(tb, otelScript{}), newOtelPeer(tb, otelScript{})
	reading.script.frame = func(*otelConn, []byte) bool { return false }
	all := map[string]*Telemetry{"unblocked": reading.telemetry(OtelConfig{})}
	all["blocked"] = stuck.telemetry(OtelConfig{})
	resume := stuck.conn(0).StopReading()
	tb.Cleanup(resume)
	away.close()
	all["no engine"] = away.telemetry(OtelConfig{})
	for _, name := range []string{"blocked", "no engine"} {
		for all[name].conn.Stats().Logs.Full == 0 {
			timeLogs(tb, all[name].Logger(), 1000)
		}
	}
	return all
}

// BenchmarkLogRecord measures how long it takes to write a log record, for each kind of
// telemetry.
func BenchmarkLogRecord(b *testing.B) {
	for name, tel := range exporters(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			took := timeLogs(b, tel.Logger(), b.N)
			b.ReportMetric(float64(percentile(took, 0.5)), "p50-ns")
			b.ReportMetric(float64(percentile(took, 0.99)), "p99-ns")
		})
	}
}

// telemetryRequirements lists the telemetry requirements, each with the tests that verify it.
var telemetryRequirements = []struct {
	line  string
	tests []string
}{
	{"the telemetry URL is derived from the engine's", []string{"TestTelemetryURLEndsInOtel"}},
	{"every variable, unset, empty and invalid; a field overrides its variable", []string{
		"TestTelemetryReadsItsVariables", "TestTelemetryResource", "TestTelemetryHonorsOpenTelemetryVariables", "TestBatchSizesFromEnvironment", "TestMetricsTemporality",
		"TestPayloadCaptureFollowsEnvironment", "TestHTTPIgnoresListedURLs", "TestHTTPIgnoresNothingByDefault",
	}},
	{"disabled: no goroutine, no dial, helpers do nothing, the caller's trace continues", []string{
		"TestDisabledTelemetryForwardsTheTrace", "TestDisabledTelemetryDoesNothing", "TestClientWithoutTelemetryForwardsTheTrace", "TestInSpanWithoutTelemetryKeepsTheTrace", "TestHTTPPropagation",
	}},
	{"order of processors: a span start carries baggage and the span's initial attributes", []string{
		"TestBaggageIsSetBeforeTheLiveSpan", "TestLiveSpanHasTheAttributesOfTheStart", "TestLiveSpanOfInvocationCarriesBaggage",
	}},
	{"the start of a span precedes its end in every run, also across reconnects and overflows", []string{
		"TestLiveSpanPrecedesTheFinishedSpan", "TestLiveSpanIsNeverSentAgain", "TestQueueAccountsForEveryFrame",
	}},
	{"an unsampled parent: no start, no end, payloads are not read", []string{
		"TestUnsampledCallerGetsNoSpan", "TestUnsampledPayloadIsNotRead", "TestTracingSkipsUnsampledInvocations", "TestLiveSpansAreSampled",
	}},
	{"enumerations have OTLP's numbers: error 2, ok 1, cumulative 2, delta 1", []string{"TestEncodeUsesOTLPEnumNumbers"}},
	{"a missing time is \"0\"; there is no null", []string{"TestEncodeZeroTimes", "TestUnixNano", "TestEncodeAnything"}},
	{"integers beyond 2^53 stay exact in attributes, sums, counts and buckets", []string{"TestEncodeKeepsLargeIntegers", "TestEncodeValue"}},
	{"NaN and infinities in attributes, gauges, sums and histogram values", []string{"TestEncodeOmitsNonFinitePoints", "TestEncodeValue"}},
	{"integer histograms; exponential ones of scales -10 to 20, with zeros and negative values; metrics without points", []string{
		"TestEncodeHistograms", "TestConvertExponential", "TestEncodeEmptyMetrics",
	}},
	{"log data nested 30 levels or more is stored, the deepest levels as text", []string{"TestDeepLogDataBecomesText", "TestEncodeDeepLog", "TestLogTriggerFires"}},
	{"a payload of 20 MiB is cut and the connection stays up", []string{"TestLargePayloadIsCut", "TestEncodeLargePayload"}},
	{"split batches: every record arrives exactly once", []string{"TestEncodeSplitsBatches", "TestTelemetrySplitsLargeBatches"}},
	{"records have a severity text; a log trigger with a level fires", []string{"TestEncodeAddsTheSeverityText", "TestLoggerSetsTheSeverity", "TestLogTriggerFires"}},
	{"Flush returns after the pong to a ping behind the last frame, or when ctx ends", []string{
		"TestR14FlushMeansReceived", "TestFlushWaitsForALatePeer", "TestFlushOfASilentPeerEndsWithItsContext", "TestFlushWithoutAPeerEndsWithItsContext",
	}},
	{"Shutdown delivers the last batch, can be repeated, ends nothing that is shared, leaves no goroutine", []string{
		// In a synctest bubble, a leaked goroutine fails the test. TestMain finds other leaks.
		"TestTelemetryShutdownDelivers", "TestTelemetryDelivers", "TestConnectionShutdownIsBounded", "TestTelemetryShutdownIsBounded",
		"TestTelemetryGlobalProviders", "TestShutdownFlushesTelemetry", "TestTelemetrySharedConcurrent", "TestMain",
	}},
	{"reconnecting: order, exact counts of drops, delays within bounds, failed once the attempts are exhausted", []string{
		"TestTelemetryReconnectLosesNothing", "TestQueueAccountsForEveryFrame", "TestQueueShedsByClass", "TestTelemetryReportsDrops",
		"TestTelemetryBackoffGrowsAndStartsOver", "TestTelemetryBackoffOfShortConnections", "TestConnectionReconnectionOption", "TestTelemetryFailsAfterMaxRetries",
	}},
	{"a refusal is reported and makes the delays grow; headers and tokens are in the upgrade", []string{
		"TestTelemetryReportsAuthFailure", "TestGuardedEngineAuthenticatesTelemetry", "TestTelemetryUpgrade",
	}},
	{"flags of outgoing traceparents are 00 or 01, even with a parent of 03", []string{"TestTraceparentCarriesOnlyTheSampledFlag"}},
	{"baggage with spaces, commas, semicolons, equals signs, percent signs, quotes and all letters; an invalid entry does not affect others", []string{
		"TestBaggageRoundTrip", "TestBaggageIsParsedLeniently",
	}},
	{"the span of an invocation: name, kind, events, status, exception; a status set by the handler stays; panics", []string{
		"TestInvocationSpanRecordsTheOutcome", "TestInvocationSpanLinksCallerAndCallee", "TestInvocationSpanWithoutAnswer",
	}},
	{"redaction and truncation; the environment is read at each call", []string{
		"TestRedactReplacesSecrets", "TestRedactAndTruncateKeepsTheLimit", "TestPayloadCaptureFollowsEnvironment", "TestPayloadsCanBeKeptOutOfSpans",
	}},
	{"HTTP: ignored URLs, attributes, no other headers, error status from 400 on, failed requests, unmodified bodies", []string{
		"TestHTTPSpanAttributes", "TestHTTPIgnoresListedURLs", "TestHTTPSpansCanBeSwitchedOff", "TestHTTPErrorKinds", "TestHTTPClient", "TestTraceCrossesHTTP",
	}},
	{"gauges: names, units, attributes, Stop, a changed worker id; the engine lists them with the worker", []string{
		"TestWorkerGaugesReportTheProcess", "TestGaugesFollowWorkerID", "TestWorkerInfoShowsTheGauges",
	}},
	{"collector: 500 ms, concurrent callers, CPU use within its range, a meaningful first reading, other systems", []string{
		"TestCollectorComputesSamples", "TestCollectorConcurrent", "TestCollectorShortInterval", "TestCollectorOfThisProcess", "TestCollectorOfUnsupportedSystem",
	}},

	{"telemetry arrives at least once", []string{"TestR13TelemetryArrives", "TestTelemetryReconnectLosesNothing"}},
	{"after Flush, the engine has everything", []string{"TestR14FlushMeansReceived", "TestFlushWaitsForALatePeer", "TestFlushWithoutAPeerEndsWithItsContext"}},
	{"recording never waits for the network", []string{"TestR15RecordingNeverWaits", "BenchmarkLogRecord"}},
	{"no secret is revealed", []string{"TestR19NoTelemetrySecretLeaks", "TestMain"}},
	{"an invalid value loses no frame", []string{"TestValidatorAgreesWithEngine", "TestValidator", "TestEncodeAnything", "FuzzEncode", "TestEncodeValue"}},
	{"a recorded worker's telemetry is reproduced", []string{"TestGoldenTelemetry"}},
}

func TestEveryTelemetryRequirementIsTested(t *testing.T) {
	var files []string
	for _, dir := range []string{".", "internal/otlpjson", "internal/enginetest"} {
		found, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	declared := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				declared[f.Name.Name] = true
			}
		}
	}
	for _, entry := range telemetryRequirements {
		if len(entry.tests) == 0 {
			t.Errorf("%s: no test", entry.line)
		}
		for _, name := range entry.tests {
			if !declared[name] {
				t.Errorf("%s: there is no %s", entry.line, name)
			}
		}
	}
}
