package iii

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/log"
	lognoop "go.opentelemetry.io/otel/log/noop"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/iii-go/iii/internal/signal"
)

// instrumentationName is the instrumentation scope of records produced by this package. The
// scope's version is [Version].
const instrumentationName = "iii-go-sdk"

// TelemetryOption configures [StartTelemetry].
type TelemetryOption func(*telemetryOptions) error

type telemetryOptions struct {
	global     bool
	connection []ConnectionOption
	spans      []sdktrace.SpanProcessor
	readers    []sdkmetric.Reader
	logs       []sdklog.Processor
}

// WithGlobalProviders installs the providers as OpenTelemetry's global providers, and W3C
// trace context and baggage as the global propagator. Instrumentation that does not use this
// package is then recorded, too. Only one Telemetry at a time can own the globals:
// [StartTelemetry] fails until the previous owner has been shut down. After Shutdown, the
// globals stay set but record nothing. By default, no globals are set.
func WithGlobalProviders() TelemetryOption {
	return func(o *telemetryOptions) error { o.global = true; return nil }
}

// WithTelemetryConnection configures the telemetry connection. opts override the OtelConfig.
// The connection is opened before any client exists, so it cannot use a client's headers.
// Anything that the engine requires of a worker's connection, such as a token, must also be
// set here.
func WithTelemetryConnection(opts ...ConnectionOption) TelemetryOption {
	return func(o *telemetryOptions) error {
		o.connection = append(o.connection, opts...)
		return nil
	}
}

// WithSpanProcessor adds a span processor that runs alongside the one that sends spans to the
// engine, for example a batch processor that exports to another backend. p is called before
// the engine's processor, so attributes that p sets when a span starts also reach the engine.
// Repeated use adds processors; they are called in order.
//
// After a successful [StartTelemetry], the Telemetry owns p: [Telemetry.Flush] flushes it and
// [Telemetry.Shutdown] shuts it down, concurrently with the engine's processor. If telemetry
// is disabled, p receives nothing but is still shut down. A nil processor is an error.
func WithSpanProcessor(p sdktrace.SpanProcessor) TelemetryOption {
	return func(o *telemetryOptions) error {
		if isNil(p) {
			return errors.New("WithSpanProcessor: nil processor")
		}
		o.spans = append(o.spans, p)
		return nil
	}
}

// WithMetricReader adds a metric reader that runs alongside the one that sends metrics to the
// engine, for example a periodic reader or the Prometheus reader. r has its own interval and
// temporality. Repeated use adds readers. The Telemetry owns r as described for
// [WithSpanProcessor]. If metrics are disabled, r collects no metrics. A nil reader is an
// error.
func WithMetricReader(r sdkmetric.Reader) TelemetryOption {
	return func(o *telemetryOptions) error {
		if isNil(r) {
			return errors.New("WithMetricReader: nil reader")
		}
		o.readers = append(o.readers, r)
		return nil
	}
}

// WithLogProcessor adds a log processor that runs alongside the one that sends log records to
// the engine. p is called before the engine's processor and can modify the records that the
// engine receives, for example to remove data that must not be stored. Repeated use adds
// processors; they are called in order. The Telemetry owns p as described for
// [WithSpanProcessor]. If logs are disabled, p receives nothing. A nil processor is an error.
func WithLogProcessor(p sdklog.Processor) TelemetryOption {
	return func(o *telemetryOptions) error {
		if isNil(p) {
			return errors.New("WithLogProcessor: nil processor")
		}
		o.logs = append(o.logs, p)
		return nil
	}
}

// isNil reports whether v is nil or holds a nil pointer, map, func, chan or slice.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Slice, reflect.Interface:
		return r.IsNil()
	}
	return false
}

// Telemetry records traces, metrics and logs. It sends them to the engine, or to the program's
// own providers if it was created by [TelemetryFromProviders]. The zero value is not usable;
// use [StartTelemetry] or [TelemetryFromProviders]. Several clients can share one Telemetry.
// All methods are safe for concurrent use.
type Telemetry struct {
	cfg    *telemetryConfig
	conn   *SharedEngineConnection // nil with the program's own providers
	global bool

	tracers trace.TracerProvider
	meters  metric.MeterProvider
	loggers log.LoggerProvider
	sdk     []sdkProvider // flushed and shut down concurrently

	clients atomic.Int64  // clients that are connected or reconnecting and have not been drained
	ending  atomic.Bool   // Shutdown was called
	done    chan struct{} // closed when Shutdown has completed
}

type sdkProvider interface {
	ForceFlush(ctx context.Context) error
	Shutdown(ctx context.Context) error
}

var globalProviders struct {
	sync.Mutex
	taken bool
}

// StartTelemetry starts recording as specified by cfg. Unset fields of cfg are taken from the
// environment. StartTelemetry does not wait for the engine, and an unavailable engine is not
// an error: records wait in the connection's queue. If telemetry is disabled, StartTelemetry
// starts no goroutine, opens no connection and sets no globals, and nothing is recorded.
// StartTelemetry uses ctx only until it returns. Call [Telemetry.Shutdown] at the end of the
// program.
func StartTelemetry(ctx context.Context, cfg OtelConfig, opts ...TelemetryOption) (*Telemetry, error) {
	resolved, err := cfg.resolve()
	if err != nil {
		return nil, public(err)
	}
	var options telemetryOptions
	if err := applyOptions(&options, opts, callOption); err != nil {
		return nil, public(err)
	}
	own := []ConnectionOption{WithConnectionQueue(resolved.queue, defaultTelemetryBytes)}
	if resolved.reconnection != nil {
		own = append(own, reconnectionOption("reconnection_config", *resolved.reconnection))
	}
	connection := append(own, options.connection...)
	connection = append(connection, withDefaultHeaders(cfg.EngineWSHeaders))
	conn, err := newConnectionConfig(resolved.url, connection)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{
		cfg:     resolved,
		tracers: tracenoop.NewTracerProvider(),
		meters:  metricnoop.NewMeterProvider(),
		loggers: lognoop.NewLoggerProvider(),
		done:    make(chan struct{}),
	}
	if !resolved.enabled {
		t.conn = closedConnection(conn)
		t.makeProviders(nil, &options)
		return t, nil
	}
	if options.global {
		if err := takeGlobals(); err != nil {
			return nil, err
		}
		t.global = true
	}
	t.conn = startConnection(conn)
	t.makeProviders(resolved.resource(ctx), &options)
	for _, warning := range resolved.warnings {
		t.conn.reportError(warning)
	}
	if t.global {
		otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
		otel.SetTracerProvider(t.tracers)
		otel.SetMeterProvider(t.meters)
		otel.SetLoggerProvider(t.loggers)
	}
	return t, nil
}

func takeGlobals() error {
	globalProviders.Lock()
	defer globalProviders.Unlock()
	if globalProviders.taken {
		return errors.New("iii: WithGlobalProviders: another Telemetry owns the global providers and is not shut down")
	}
	globalProviders.taken = true
	return nil
}

func releaseGlobals() {
	globalProviders.Lock()
	defer globalProviders.Unlock()
	globalProviders.taken = false
}

// TelemetryFromProviders returns a Telemetry that records with the program's own providers and
// sends nothing to the engine. Use it in programs that configure an OpenTelemetry SDK with
// their own backend. A client with this Telemetry records handler metrics and, in the caller's
// trace, a span for each invocation. [Telemetry.Logger] and [Telemetry.SlogHandler] write to
// lp. Spans contain no payloads unless the client uses [WithTracePayloads]. Process gauges are
// not recorded, and no globals are set. If a provider is nil or holds a nil pointer, its
// signal is not recorded.
//
// The program keeps ownership of the providers. [Telemetry.Flush] and [Telemetry.Shutdown]
// call their ForceFlush method, if they have one, but never shut them down.
// [Telemetry.Connection] returns nil.
func TelemetryFromProviders(tp trace.TracerProvider, mp metric.MeterProvider, lp log.LoggerProvider) *Telemetry {
	t := &Telemetry{
		cfg: &telemetryConfig{
			enabled: true, traces: !isNil(tp), metrics: !isNil(mp), logs: !isNil(lp), fetch: true,
			shutdownTimeout: defaultShutdownTimeout,
		},
		tracers: tracenoop.NewTracerProvider(),
		meters:  metricnoop.NewMeterProvider(),
		loggers: lognoop.NewLoggerProvider(),
		done:    make(chan struct{}),
	}
	if t.cfg.traces {
		t.tracers = tp
		t.addOwn(tp)
	}
	if t.cfg.metrics {
		t.meters = mp
		t.addOwn(mp)
	}
	if t.cfg.logs {
		t.loggers = lp
		t.addOwn(lp)
	}
	return t
}

func (t *Telemetry) addOwn(provider any) {
	if p, ok := provider.(flusher); ok {
		t.sdk = append(t.sdk, ownProvider{p})
	}
}

type flusher interface {
	ForceFlush(ctx context.Context) error
}

// ownProvider is one of the program's own providers. Shutdown only flushes it.
type ownProvider struct{ flusher }

func (p ownProvider) Shutdown(ctx context.Context) error { return p.ForceFlush(ctx) }

// besideSpans wraps a processor supplied by the program so that the provider neither flushes
// it nor shuts it down. The Telemetry does both itself, so that the engine's processors can
// send their last records without waiting for the program's processors.
type besideSpans struct{ sdktrace.SpanProcessor }

func (besideSpans) ForceFlush(context.Context) error { return nil }
func (besideSpans) Shutdown(context.Context) error   { return nil }

// besideLogs is the counterpart of besideSpans for log records.
type besideLogs struct{ sdklog.Processor }

func (besideLogs) ForceFlush(context.Context) error { return nil }
func (besideLogs) Shutdown(context.Context) error   { return nil }

// makeProviders creates the recording providers with res as their resource. A nil res means
// that telemetry is disabled. On span start, processors run in this order: the baggage
// processor, the program's processors, the live-span processor.
func (t *Telemetry) makeProviders(res *resource.Resource, options *telemetryOptions) {
	for _, p := range options.spans {
		t.sdk = append(t.sdk, p)
	}
	for _, p := range options.logs {
		t.sdk = append(t.sdk, p)
	}
	if t.cfg.traces {
		t.makeTracers(res, options.spans)
	}
	// Readers need a provider even if metrics are disabled. The provider then has no
	// instruments.
	if t.cfg.metrics || len(options.readers) > 0 {
		t.makeMeters(res, options.readers)
	}
	if t.cfg.logs {
		t.makeLoggers(res, options.logs)
	}
}

func (t *Telemetry) makeTracers(res *resource.Resource, own []sdktrace.SpanProcessor) {
	spans := []sdktrace.TracerProviderOption{sdktrace.WithResource(res), sdktrace.WithSpanProcessor(NewBaggageSpanProcessor())}
	for _, p := range own {
		spans = append(spans, sdktrace.WithSpanProcessor(besideSpans{p}))
	}
	if t.cfg.live {
		spans = append(spans, sdktrace.WithSpanProcessor(newLiveSpanProcessor(t.conn)))
	}
	spans = append(spans, sdktrace.WithSpanProcessor(newBatchSpanProcessor(NewEngineSpanExporter(t.conn), t.cfg.spansInterval)))
	tracers := sdktrace.NewTracerProvider(spans...)
	t.tracers, t.sdk = tracers, append(t.sdk, tracers)
	if !t.cfg.fetch {
		untracedHTTP.Store(tracers, nil)
	}
}

// makeMeters creates the meter provider. The provider flushes its readers one at a time, so
// makeMeters adds the engine's reader first. Other readers then do not delay it.
func (t *Telemetry) makeMeters(res *resource.Resource, own []sdkmetric.Reader) {
	opts := []sdkmetric.Option{sdkmetric.WithResource(res)}
	if t.cfg.metrics {
		opts = append(opts, sdkmetric.WithReader(newMetricReader(NewEngineMetricsExporter(t.conn), t.cfg.metricsInterval)))
	}
	for _, r := range own {
		opts = append(opts, sdkmetric.WithReader(r))
	}
	meters := sdkmetric.NewMeterProvider(opts...)
	t.sdk = append(t.sdk, meters)
	if t.cfg.metrics {
		t.meters = meters
	}
}

func (t *Telemetry) makeLoggers(res *resource.Resource, own []sdklog.Processor) {
	opts := []sdklog.LoggerProviderOption{sdklog.WithResource(res)}
	for _, p := range own {
		opts = append(opts, sdklog.WithProcessor(besideLogs{p}))
	}
	processor := newBatchLogProcessor(NewEngineLogExporter(t.conn), t.cfg.logsInterval, t.cfg.logsBatch)
	loggers := sdklog.NewLoggerProvider(append(opts, sdklog.WithProcessor(processor))...)
	t.loggers, t.sdk = loggers, append(t.sdk, engineLoggers{loggers, processor})
}

// engineLoggers flushes the engine's processor itself, because a LoggerProvider that is being
// shut down ignores ForceFlush, although records may still be waiting.
type engineLoggers struct {
	*sdklog.LoggerProvider
	processor sdklog.Processor
}

func (p engineLoggers) ForceFlush(ctx context.Context) error { return p.processor.ForceFlush(ctx) }

// Tracer returns the tracer for this package's instrumentation scope.
func (t *Telemetry) Tracer() trace.Tracer {
	return t.tracers.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version))
}

// Meter returns the meter for this package's instrumentation scope.
func (t *Telemetry) Meter() metric.Meter {
	return t.meters.Meter(instrumentationName, metric.WithInstrumentationVersion(Version))
}

// TracerProvider returns the tracer provider. If telemetry is disabled, its tracers record
// nothing but propagate the parent's span context.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.tracers }

// MeterProvider returns the meter provider. If metrics are disabled, it records nothing.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// LoggerProvider returns the logger provider. If logs are disabled, it records nothing.
func (t *Telemetry) LoggerProvider() log.LoggerProvider { return t.loggers }

func (t *Telemetry) recordsLogs() bool { return t.cfg.logs }

// Logger returns a [Logger] that writes to the logger provider. If logs are disabled, it
// returns NewLogger(nil), so that records go to slog.Default instead of being lost.
func (t *Telemetry) Logger() *Logger {
	if !t.recordsLogs() {
		return NewLogger(nil)
	}
	return NewLogger(t.loggers)
}

// Connection returns the connection that carries all telemetry. If telemetry is disabled, the
// connection is already closed. With [TelemetryFromProviders], Connection returns nil, and a
// nil connection acts as a closed one.
func (t *Telemetry) Connection() *SharedEngineConnection { return t.conn }

// Flush waits until the engine has received everything that was recorded before the call, and
// until the program's own processors, readers and providers have been flushed. If ctx is done
// first, the error reports how many frames remain. Records that were dropped before the call
// are not an error; [ConnectionStats] counts them. After Shutdown, Flush returns nil because
// there is nothing left to flush.
func (t *Telemetry) Flush(ctx context.Context) error {
	if signal.IsClosed(t.done) {
		return nil
	}
	flushed := t.each(ctx, func(p sdkProvider, ctx context.Context) error {
		err := p.ForceFlush(ctx)
		if t.ending.Load() { // Shutdown has read the last metrics
			return withoutReaderShutdown(err)
		}
		return err
	})
	if !flushed.wait(ctx) {
		flushed.errs = append(flushed.errs, fmt.Errorf("iii: telemetry flush: %w", ctxError(ctx)))
	}
	return errors.Join(append(flushed.errs, t.conn.flushAfter(ctx, flushed.dropped))...)
}

// withoutReaderShutdown removes [sdkmetric.ErrReaderShutdown] from err, which may join the
// errors of several readers.
func withoutReaderShutdown(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case !errors.Is(err, sdkmetric.ErrReaderShutdown):
		return err
	case !ok:
		return nil
	}
	var others []error
	for _, err := range joined.Unwrap() {
		others = append(others, withoutReaderShutdown(err))
	}
	return errors.Join(others...)
}

// providerCalls tracks concurrent calls of one method on all providers.
type providerCalls struct {
	results chan error // has room for all results
	left    int
	dropped int // frames dropped while the providers flushed the connection
	errs    []error
}

func (t *Telemetry) each(ctx context.Context, f func(sdkProvider, context.Context) error) *providerCalls {
	calls := &providerCalls{results: make(chan error, len(t.sdk)), left: len(t.sdk)}
	for _, p := range t.sdk {
		go func() { calls.results <- f(p, ctx) }()
	}
	return calls
}

// wait waits for the calls and reports whether all of them returned before ctx was done. A
// call may itself flush the connection. Its error is then ignored, except for the number of
// dropped frames, because the caller of wait flushes the connection, too.
func (c *providerCalls) wait(ctx context.Context) bool {
	for ; c.left > 0; c.left-- {
		select {
		case err := <-c.results:
			var flush *flushError
			switch {
			case errors.As(err, &flush):
				c.dropped = max(c.dropped, flush.dropped)
			case err != nil:
				c.errs = append(c.errs, public(err))
			}
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// waitFor is like wait, with a time limit instead of a context.
func (c *providerCalls) waitFor(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return c.wait(ctx)
}

// Shutdown flushes and stops all recording; later records are dropped. If ctx is done first,
// Shutdown gives up and returns. The shutdown timeout in [OtelConfig] applies only to
// [Client.Shutdown]. If the connection is down, Shutdown immediately makes one more attempt to
// connect. The error reports how many frames were lost. A repeated call waits for the shutdown
// to complete and then returns nil; if its ctx is done first, it returns an error. With
// [TelemetryFromProviders], Shutdown only flushes the providers, and they continue to record.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t.ending.Swap(true) {
		if waitClosed(ctx, t.done) {
			return nil
		}
		return fmt.Errorf("iii: telemetry shutdown: %w", ctxError(ctx))
	}
	if t.conn != nil {
		t.conn.drain()
	}
	// A provider does not shut down if its context is done, so these calls get a context that
	// outlives ctx. Calls to the engine's processors return when the connection ends. Calls to
	// the program's processors return when stop is called.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := t.each(work, sdkProvider.Shutdown)
	ended.wait(ctx)
	err := t.conn.Shutdown(ctx)
	stopped := ended.waitFor(providerGrace)
	if !stopped {
		stop()
		stopped = ended.waitFor(providerGrace)
	}
	if !stopped {
		ended.errs = append(ended.errs, errors.New("iii: telemetry shutdown: a metric callback, a processor or a reader hangs"))
	}
	if t.global {
		releaseGlobals()
	}
	if t.conn != nil {
		untracedHTTP.Delete(t.tracers)
	}
	close(t.done)
	return errors.Join(append(ended.errs, err)...)
}

// providerGrace is how long the providers may take to stop after the connection has ended, and
// again after their context is canceled.
const providerGrace = 20 * time.Millisecond

// WithTelemetry records the client's work in t. Each invocation gets a span in its caller's
// trace. The span contains the input and output payloads unless $III_DISABLE_TRACE_PAYLOADS is
// set. Process metrics are reported as gauges under the ID that the engine assigns to the
// worker. Handler metrics are reported per function, with the attribute iii.function.id:
//
//   - iii.worker.function.count: handled invocations
//   - iii.worker.function.errors: handled invocations that returned an error or panicked
//   - iii.worker.function.duration: histogram of the time until the response, in seconds
//   - iii.worker.function.in_flight: handlers that are running
//   - iii.worker.function.queue_wait: histogram of the time that invocations waited because of
//     [WithMaxConcurrency], in seconds
//
// None of these metrics includes invocations that the worker rejected (overloaded, draining).
// A handler that exceeds [WithHandlerTimeout] is counted as an error, and is in flight until
// it returns. Calls propagate the trace context of their ctx with or without this option.
//
// If this client has bound a function to a trace trigger, the spans of the function's
// invocations have the attribute function_id. The engine does not trigger the function for
// these spans, which avoids an endless loop. Child spans do trigger it.
//
// [Client.Shutdown] flushes t but does not shut it down, because several clients can share it.
// If t has no connection, only the Shutdown of the last of these clients waits for one.
// The telemetry connection logs to its own logger ([WithConnectionLogger]) or else to the
// logger of the first client that has one ([WithLogger]). A logger that writes only to the
// telemetry itself is not used. If t is nil, which is the default, nothing is recorded.
func WithTelemetry(t *Telemetry) Option {
	return clientOption(func(c *config) error {
		if t != nil && t.cfg == nil {
			return errors.New("iii: WithTelemetry: the Telemetry was not created by StartTelemetry or TelemetryFromProviders")
		}
		c.telemetry = t
		return nil
	})
}

// WithTracePayloads adds each invocation's input and output, as events, to the spans recorded
// with [TelemetryFromProviders]. Spans sent to the engine contain the same events; see
// [WithTelemetry]. Secrets are redacted as described for [Redact]. By default, only spans sent
// to the engine contain payloads.
func WithTracePayloads() Option {
	return clientOption(func(c *config) error { c.tracePayloads = true; return nil })
}

// startTelemetry sets up the parts of the client's telemetry that need no connection.
func (c *Client) startTelemetry() {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return
	}
	if t.cfg.traces {
		c.tracing = newTracing(t.tracers)
	}
	if t.cfg.metrics {
		var err error
		if c.metrics, err = newHandlerMetrics(t.Meter()); err != nil {
			c.log.Warn("iii: cannot measure the worker's handlers", "error", err)
		}
	}
	if t.conn == nil {
		c.tracing.forOwnProvider(c.cfg.tracePayloads)
		return
	}
	if c.cfg.loggerSet {
		t.conn.adoptLogger(c.log)
	}
	worker, telemetry := c.cfg.URL.Hostname(), t.conn.cfg.URL.Hostname()
	if sameHost(worker, telemetry) {
		t.conn.adoptToken(c.cfg.Token)
	} else {
		c.log.Warn("iii: telemetry and worker connect to different hosts", "worker", worker, "telemetry", telemetry)
	}
}

// sameHost reports whether two host names are equal, treating all loopback names as equal.
func sameHost(a, b string) bool {
	return strings.EqualFold(a, b) || isLoopback(a) && isLoopback(b)
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// telemetryAwayTimeout limits how long a shutdown waits for the telemetry connection to
// reconnect.
const telemetryAwayTimeout = 3 * time.Second

// flushTelemetry flushes the telemetry at the end of a drain, within the telemetry's own
// shutdown timeout. The parameter away limits how long it waits while the telemetry connection
// is down, so that an unavailable engine does not use up the drain time. Of several clients
// that share the telemetry, only the last one waits in that case. The same limit applies to
// flushing the program's own providers, because their connection state is unknown.
func (c *Client) flushTelemetry(ctx context.Context, away time.Duration) error {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return nil
	}
	if t.conn == nil {
		ctx, cancel := context.WithTimeout(ctx, away)
		defer cancel()
		return t.Flush(ctx)
	}
	shared := c.leaveTelemetry()
	if shared { // the other clients keep t alive, so nothing is lost
		if away = 0; t.conn.State() != ConnectionStateConnected {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.shutdownTimeout)
	defer cancel()
	ctx, stop := t.conn.untilAway(ctx, away)
	defer stop()
	err := t.Flush(ctx)
	if shared && errors.As(context.Cause(ctx), new(awayError)) {
		return nil
	}
	return err
}

// joinTelemetry records that c uses its telemetry.
func (c *Client) joinTelemetry() {
	if t := c.cfg.telemetry; t != nil && !c.inTelemetry.Swap(true) {
		t.clients.Add(1)
	}
}

// leaveTelemetry records that c no longer uses its telemetry, and reports whether other clients
// do.
func (c *Client) leaveTelemetry() (others bool) {
	t := c.cfg.telemetry
	if t == nil {
		return false
	}
	if c.inTelemetry.Swap(false) {
		return t.clients.Add(-1) > 0
	}
	return t.clients.Load() > 0
}

// startGauges reports the worker's process metrics until stop is called. The metrics are
// reported under the ID that the engine assigned to the current connection. If one of the
// program's metric callbacks hangs, the SDK blocks registrations, so startGauges and stop wait
// no longer than handlerGrace.
func (c *Client) startGauges() (stop func()) {
	t := c.cfg.telemetry
	if t == nil || t.conn == nil || !t.cfg.metrics {
		return func() {}
	}
	registered, stopped, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		h, err := registerGauges(t.Meter(), &c.name, c.WorkerID)
		close(registered)
		if err != nil {
			c.log.Warn("iii: cannot report the worker's metrics", "error", err)
			return
		}
		<-stopped
		if err := h.Stop(); err != nil {
			c.log.Warn("iii: cannot stop reporting the worker's metrics", "error", err)
		}
	}()
	briefly(registered)
	return func() {
		close(stopped)
		briefly(done)
	}
}

// briefly waits until done is closed, but no longer than handlerGrace.
func briefly(done <-chan struct{}) {
	timer := time.NewTimer(handlerGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
