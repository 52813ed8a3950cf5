package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// telemetry starts telemetry that goes to this peer, and ends with the test.
func (p *otelPeer) telemetry(cfg OtelConfig, opts ...TelemetryOption) *Telemetry {
	p.tb.Helper()
	if cfg.EngineWsURL == nil {
		cfg.EngineWsURL = ptr(p.url())
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

// prefixes counts the frames of each signal.
func (p *otelPeer) prefixes() map[string]int {
	p.tb.Helper()
	counts := map[string]int{}
	for _, f := range p.received() {
		counts[f[:4]]++
	}
	return counts
}

// containing lists the received frames that contain all of the texts.
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
			if counts[prefixTraces] != 2 || counts[prefixMetrics] != 1 || counts[prefixLogs] != 3 {
				t.Errorf("frames: %v, want the span twice, its metrics and three records", counts)
			}
			id := span.SpanContext().SpanID().String()
			for _, texts := range [][]string{
				{prefixTraces, `"endTimeUnixNano":"0"`, id}, {prefixTraces, `"name":"work"`, id}, {prefixMetrics, "orders.created", `"asInt":"7"`},
				{prefixLogs, "hello", id}, {prefixLogs, "from the logger", id}, {prefixLogs, "from slog", id},
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
			if scoped := p.containing(prefixTraces, `"scope":{"name":"iii-go-sdk","version":"`+Version+`"`); len(scoped) != 2 {
				t.Errorf("%d frames of spans have this package's scope", len(scoped))
			}
		})
	}
}

// Off is off: no goroutine, no dial, nothing recorded, nothing global, and no
// error anywhere.
func TestDisabledTelemetryDoesNothing(t *testing.T) {
	for variable, value := range map[string]string{"OTEL_ENABLED": "no", "OTEL_SDK_DISABLED": "true"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, value)
			testDisabledTelemetry(t)
		})
	}
}

func testDisabledTelemetry(t *testing.T) {
	dialled := false
	dial := func(context.Context, string, string) (net.Conn, error) {
		dialled = true
		return nil, errors.New("nobody there")
	}
	tracers, meters, loggers, propagator := otel.GetTracerProvider(), otel.GetMeterProvider(), otel.GetLoggerProvider(), otel.GetTextMapPropagator()
	before := runtime.NumGoroutine()
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
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	if dialled {
		t.Error("it dialled")
	}
	if otel.GetTracerProvider() != tracers || otel.GetMeterProvider() != meters || otel.GetLoggerProvider() != loggers || fmt.Sprint(otel.GetTextMapPropagator()) != fmt.Sprint(propagator) {
		t.Error("globals have changed")
	}
}

// What a Logger does not record goes where it would go without telemetry.
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
	for range 2 { // the second call changes nothing
		if err := first.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := StartTelemetry(t.Context(), OtelConfig{}, WithGlobalProviders()); err == nil {
		t.Error("the end of another Telemetry has freed the globals")
	}
	_, span := otel.Tracer("someone").Start(t.Context(), "global")
	span.End()
	if err := second.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.containing(prefixTraces, "someone", "global")) != 2 {
		t.Errorf("no span of the global tracer in %q", p.received())
	}
	third := p.telemetry(OtelConfig{}, WithGlobalProviders())
	if otel.GetTracerProvider() != third.TracerProvider() {
		t.Error("the globals are still those that have ended")
	}
}

// What is told of a span that starts has its baggage on it.
func TestChecklistProcessorOrder(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{})
	ctx, err := WithBaggageEntry(t.Context(), "iii.session.id", "S-1")
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
		t.Errorf("the baggage is not above the attribute: %s", frames[0])
	}
	span.End()
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.containing(prefixTraces, "S-1")) != 2 {
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
		{name: "all", want: map[string]int{prefixTraces: 2, prefixMetrics: 1, prefixLogs: 1}},
		{name: "no live spans", cfg: OtelConfig{LiveSpans: off}, want: map[string]int{prefixTraces: 1, prefixMetrics: 1, prefixLogs: 1}},
		{name: "no metrics", cfg: OtelConfig{MetricsEnabled: off}, want: map[string]int{prefixTraces: 2, prefixLogs: 1}},
		{name: "no logs", cfg: OtelConfig{LogsEnabled: off}, want: map[string]int{prefixTraces: 2, prefixMetrics: 1}},
		{name: "sampler of the environment", env: map[string]string{"OTEL_TRACES_SAMPLER": "always_off"}, want: map[string]int{prefixMetrics: 1, prefixLogs: 1}},
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

// OpenTelemetry's own variables keep their meaning, but for delays, which are ours.
func TestChecklistStandardVariables(t *testing.T) {
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
				each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) { spans = append(spans, s) })
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
				before := otel.GetErrorHandler() // OpenTelemetry says so
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
			t.Errorf("the span came after %v, want the default of 100 ms", took)
		}
		got := []any{
			at(spans[0], "attributes", 0, "value", "stringValue"), at(spans[0], "droppedAttributesCount"),
			at(spans[0], "events", 0, "name"), at(spans[0], "droppedEventsCount"), at(spans[0], "droppedLinksCount"),
		}
		one := json.Number("1")
		if diff := cmp.Diff([]any{"abc", one, "second", one, one}, got); diff != "" {
			t.Errorf("what the limits have left (-want +got):\n%s", diff)
		}
	})
}

// Intervals are those of the configuration, 0 included.
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
					want := map[string]time.Duration{prefixTraces: tt.spans, prefixMetrics: tt.metrics, prefixLogs: tt.logs}[f.data[:4]]
					if got := f.at.Sub(began); got != want {
						t.Errorf("%s came after %v, want %v", f.data[:4], got, want)
					}
				}
			})
		})
	}
}

// Warnings about variables are said once, without their values.
func TestTelemetryWarns(t *testing.T) {
	t.Setenv("OTEL_LOGS_BATCH_SIZE", secretQuery)
	var out strings.Builder
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{}, WithTelemetryConnection(WithConnectionLogger(slog.New(slog.NewTextHandler(&out, nil)))))
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = suite.Write([]byte(out.String()))
	if n := strings.Count(out.String(), "$OTEL_LOGS_BATCH_SIZE is no number"); n != 1 {
		t.Errorf("log:\n%s", out.String())
	}
}

// recordOfEach records a span, a metric and a log record.
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
