package iii

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
)

// instrumentationName is the scope of what this package records itself, with
// [Version] as its version.
const instrumentationName = "iii-go-sdk"

// TelemetryOption configures [StartTelemetry].
type TelemetryOption func(*telemetryOptions) error

type telemetryOptions struct {
	global     bool
	connection []ConnectionOption
}

// WithGlobalProviders makes the providers those of OpenTelemetry's globals, and
// W3C trace context and baggage the global propagator, so that instrumentation
// that knows nothing of this package is recorded. One Telemetry at a time may do
// this: while another that did is not shut down, [StartTelemetry] fails. Without
// this option nothing global changes. The globals stay set after Shutdown, and
// record nothing then.
func WithGlobalProviders() TelemetryOption {
	return func(o *telemetryOptions) error { o.global = true; return nil }
}

// WithTelemetryConnection configures the connection, over what the OtelConfig says
// of it. It is made before there is a client whose headers it could share, so what
// the engine is to know of a worker's connection must be given here, too.
func WithTelemetryConnection(opts ...ConnectionOption) TelemetryOption {
	return func(o *telemetryOptions) error {
		o.connection = append(o.connection, opts...)
		return nil
	}
}

// Telemetry records traces, metrics and logs and sends them to the engine. It is
// made by [StartTelemetry]; the zero value is of no use. To share one between
// clients, give each the same. All methods may be called from several goroutines
// at once.
type Telemetry struct {
	cfg    *telemetryConfig
	conn   *SharedEngineConnection
	global bool

	tracers trace.TracerProvider
	meters  metric.MeterProvider
	loggers log.LoggerProvider
	sdk     []sdkProvider // those of the above that record

	once sync.Once
	done chan struct{} // closed when Shutdown has ended
}

type sdkProvider interface {
	ForceFlush(ctx context.Context) error
	Shutdown(ctx context.Context) error
}

// globalProviders says that a living Telemetry has set the globals.
var globalProviders struct {
	sync.Mutex
	taken bool
}

// StartTelemetry starts recording as cfg says; what cfg leaves out comes from the
// environment. It does not wait for the engine, and does not fail if that is away:
// what is recorded waits in the queue of the connection. If telemetry is disabled,
// nothing is recorded, no goroutine runs, no connection is made, and no global is
// set. ctx bounds the start alone. Shut it down at the end of the program.
func StartTelemetry(ctx context.Context, cfg OtelConfig, opts ...TelemetryOption) (*Telemetry, error) {
	resolved, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	var options telemetryOptions
	for _, opt := range opts {
		if opt == nil {
			return nil, errors.New("iii: nil TelemetryOption")
		}
		if err := opt(&options); err != nil {
			return nil, err
		}
	}
	own := []ConnectionOption{WithConnectionQueue(resolved.queue, defaultTelemetryBytes)}
	if resolved.reconnection != nil {
		own = append(own, WithConnectionReconnection(*resolved.reconnection))
	}
	conn, err := newConnectionConfig(resolved.url, append(own, options.connection...))
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
		return t, nil
	}
	if options.global {
		if err := takeGlobals(); err != nil {
			return nil, err
		}
		t.global = true
	}
	t.conn = startConnection(conn)
	t.makeProviders(resolved.resource(ctx))
	for _, warning := range resolved.warnings {
		t.conn.complain(warning)
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
		return errors.New("iii: WithGlobalProviders: another Telemetry has set the globals and is not shut down")
	}
	globalProviders.taken = true
	return nil
}

func releaseGlobals() {
	globalProviders.Lock()
	defer globalProviders.Unlock()
	globalProviders.taken = false
}

// makeProviders makes what records, all with the same resource. What starts with
// a span is done in the order of the processors: the engine is told of it when
// the baggage is on it.
func (t *Telemetry) makeProviders(res *resource.Resource) {
	spans := []sdktrace.TracerProviderOption{sdktrace.WithResource(res), sdktrace.WithSpanProcessor(NewBaggageSpanProcessor())}
	if t.cfg.live {
		spans = append(spans, sdktrace.WithSpanProcessor(newLiveSpanProcessor(t.conn)))
	}
	spans = append(spans, sdktrace.WithSpanProcessor(newBatchSpanProcessor(NewEngineSpanExporter(t.conn), t.cfg.spansInterval)))
	tracers := sdktrace.NewTracerProvider(spans...)
	t.tracers, t.sdk = tracers, append(t.sdk, tracers)
	if !t.cfg.fetch {
		untracedHTTP.Store(tracers, nil)
	}
	if t.cfg.metrics {
		reader := newMetricReader(NewEngineMetricsExporter(t.conn), t.cfg.metricsInterval)
		meters := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(reader))
		t.meters, t.sdk = meters, append(t.sdk, meters)
	}
	if t.cfg.logs {
		processor := newBatchLogProcessor(NewEngineLogExporter(t.conn), t.cfg.logsInterval, t.cfg.logsBatch)
		loggers := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(processor))
		t.loggers, t.sdk = loggers, append(t.sdk, loggers)
	}
}

// Tracer is the tracer of this package's scope.
func (t *Telemetry) Tracer() trace.Tracer {
	return t.tracers.Tracer(instrumentationName, trace.WithInstrumentationVersion(Version))
}

// Meter is the meter of this package's scope.
func (t *Telemetry) Meter() metric.Meter {
	return t.meters.Meter(instrumentationName, metric.WithInstrumentationVersion(Version))
}

// TracerProvider makes tracers. Disabled, they record nothing and pass the
// context of their parent on.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.tracers }

// MeterProvider makes meters, which record nothing if metrics are disabled.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// LoggerProvider makes loggers, which record nothing if logs are disabled.
func (t *Telemetry) LoggerProvider() log.LoggerProvider { return t.loggers }

// recordsLogs tells that the logger provider is not one that drops everything.
func (t *Telemetry) recordsLogs() bool { return t.cfg.enabled && t.cfg.logs }

// Logger returns a [Logger] that writes to the logger provider. If logs are disabled, it
// is that of NewLogger(nil), which writes to slog.Default, so that no record is lost.
func (t *Telemetry) Logger() *Logger {
	if !t.recordsLogs() {
		return NewLogger(nil)
	}
	return NewLogger(t.loggers)
}

// Connection is the connection over which everything goes. Disabled, it is one
// that was closed before it began.
func (t *Telemetry) Connection() *SharedEngineConnection { return t.conn }

// Flush returns nil when the engine has everything that was recorded before. It
// respects ctx; the error says how many frames were left. After Shutdown there is
// nothing to flush.
func (t *Telemetry) Flush(ctx context.Context) error {
	if isClosed(t.done) {
		return nil
	}
	flushed := t.each(ctx, sdkProvider.ForceFlush)
	if !flushed.wait(ctx) {
		flushed.errs = append(flushed.errs, fmt.Errorf("iii: telemetry flush: %w", ctxError(ctx)))
	}
	return errors.Join(append(flushed.errs, t.conn.flushAfter(ctx, flushed.dropped))...)
}

// providerCalls are calls of one method of every provider at once.
type providerCalls struct {
	results chan error // has room for all
	left    int
	dropped int // frames, while the flushes of the connection among them waited
	errs    []error
}

func (t *Telemetry) each(ctx context.Context, f func(sdkProvider, context.Context) error) *providerCalls {
	calls := &providerCalls{results: make(chan error, len(t.sdk)), left: len(t.sdk)}
	for _, p := range t.sdk {
		go func() { calls.results <- f(p, ctx) }()
	}
	return calls
}

// wait reports whether all have returned before ctx ended. What their flushes of
// the connection say is not among the errors: the caller's own says it, but for
// what was dropped before.
func (c *providerCalls) wait(ctx context.Context) bool {
	for ; c.left > 0; c.left-- {
		select {
		case err := <-c.results:
			var flush *flushError
			switch {
			case errors.As(err, &flush):
				c.dropped = max(c.dropped, flush.dropped)
			case err != nil:
				c.errs = append(c.errs, err)
			}
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Shutdown flushes and ends everything: what is recorded from then on is dropped.
// It is bounded by ctx and by shutdown_timeout_ms, whichever ends first; if the
// connection is down, one more attempt to connect is made at once, and no other.
// The error says how many frames were lost. Further calls wait for the end as
// well, and return nil.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.shutdownTimeout)
	defer cancel()
	first := false
	t.once.Do(func() { first = true })
	if !first {
		if ended(ctx, t.done) {
			return nil
		}
		return fmt.Errorf("iii: telemetry shutdown: %w", ctxError(ctx))
	}
	t.conn.drain()
	// Providers whose context has ended would not end themselves. The end of the
	// connection releases them, unless a user's callback hangs.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := t.each(work, sdkProvider.Shutdown)
	ended.wait(ctx)
	err := t.conn.Shutdown(ctx)
	grace, cancelGrace := context.WithTimeout(work, providerGrace)
	defer cancelGrace()
	if !ended.wait(grace) {
		ended.errs = append(ended.errs, errors.New("iii: telemetry shutdown: a callback of a metric hangs"))
	}
	if t.global {
		releaseGlobals()
	}
	untracedHTTP.Delete(t.tracers)
	close(t.done)
	return errors.Join(append(ended.errs, err)...)
}

// providerGrace is how long the providers have to end after the connection has.
const providerGrace = 20 * time.Millisecond
