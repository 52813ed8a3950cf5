package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
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
)

// logKeeper is a log processor that keeps the texts of records.
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

// spanMarker sets an attribute on each span.
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

// readMetrics returns the data of each metric in r, without the zero points.
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

// sums returns the values of a sum by function.
func sums(t *testing.T, m metricdata.Metrics) map[string]int64 {
	t.Helper()
	values := map[string]int64{}
	sum, _ := m.Data.(metricdata.Sum[int64])
	for _, p := range sum.DataPoints {
		values[functionOf(t, p.Attributes)] = p.Value
	}
	return values
}

// seconds returns the sums and counts of a histogram by function.
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

// Processors and readers of the program see what the engine gets, in time to change it.
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

// A processor of the program whose backend is away delays neither the engine's telemetry
// nor an end beyond its context.
func TestProcessorsOfTheProgramDoNotDelayTheEngines(t *testing.T) {
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

// What the program hands over is shut down with telemetry that records nothing, too.
func TestDisabledTelemetryEndsTheProcessorsOfTheProgram(t *testing.T) {
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

// ownSDK is an OpenTelemetry SDK of a program.
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

// A worker with an SDK of its own records there, in its callers' traces, and sends the
// engine no telemetry. The SDK outlives the Telemetry.
func TestTelemetryFromProvidersRecordsWithThemAlone(t *testing.T) {
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
		t.Error("Shutdown has ended the program's provider")
	}
	if n := len(engine.Telemetry()); n != 0 {
		t.Errorf("the engine has %d frames of telemetry", n)
	}
}

func TestWithTracePayloadsAddsThemToSpansOfTheProgram(t *testing.T) {
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

// The sampler of a provider of the program decides, also against an unsampled caller.
func TestSamplerOfTheProgramDecides(t *testing.T) {
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

// mapProvider is a tracer provider that cannot be compared, and cannot be flushed.
type mapProvider struct {
	embedded.TracerProvider
	_   [0]func() // not comparable
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

// Any provider will do, and any may be missing, also as a nil pointer.
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

// flushless is a provider whose backend is away.
type flushless struct{ *sdktrace.TracerProvider }

func (flushless) ForceFlush(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }

// A backend that is away delays the end of a client by 3 s, and of the Telemetry by 10 s.
func TestProvidersOfTheProgramDelayAShutdownBriefly(t *testing.T) {
	bubble(t, func(t *testing.T, engine *iiitest.Engine) {
		telemetry := iii.TelemetryFromProviders(flushless{newOwnSDK(t).tracers}, nil, nil)
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

func TestConnectionOfNoEngineIsSafe(t *testing.T) {
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

// Each invocation that is handled counts once, with its outcome, for as long as its caller
// waited for the handler.
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
		if got := seconds(t, readMetrics(t, sdk.reader)["iii.worker.function.queue_wait"])["t::slow"]; got != "3: 3.000" { // 0, 1 and 2 s
			t.Errorf("queue_wait: %s", got)
		}
	})
}

// Telemetry logs where the first client with a logger does, unless it has a logger of its own
// or that logger is the telemetry itself.
func TestTelemetryLogsThroughTheFirstClientWithALogger(t *testing.T) {
	for name, test := range map[string]struct {
		own, loop bool
		want      string
	}{
		"client's": {want: "second"}, "its own": {own: true, want: "own"}, "writes to telemetry": {loop: true, want: "third"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, engine *iiitest.Engine) {
				var logs [4]lines // own, first, second, third
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

// A drain that is cut names the functions whose handlers it left behind.
func TestCutDrainNamesTheHandlers(t *testing.T) {
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

// Profiles tell functions apart.
func TestHandlerGoroutinesHaveProfilerLabels(t *testing.T) {
	engine := iiitest.Start(t)
	c := connect(t, engine)
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
	if err := c.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil { // the handler has returned
		t.Fatal(err)
	}
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil || strings.Contains(profile.String(), "orders::create") {
		t.Errorf("an idle goroutine keeps the label: %v", err)
	}
}
