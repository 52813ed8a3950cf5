package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// StartTelemetry sends traces, metrics and logs to the engine. Config fields that are not set
// are read from the environment.
func ExampleStartTelemetry() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL()), ServiceName: new("billing")},
		iii.WithTelemetryConnection(
			iii.WithConnectionHeader(http.Header{"Authorization": {"Bearer t0ken"}}),
			iii.WithConnectionQueue(10_000, 64<<20), // limits on queued frames and bytes
			iii.WithConnectionLogger(slog.Default()),
		))
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)

	charges, err := telemetry.Meter().Int64Counter("charges")
	if err != nil {
		log.Fatal(err)
	}
	ctx, span := telemetry.Tracer().Start(ctx, "charge card")
	charges.Add(ctx, 1, metric.WithAttributes(attribute.String("currency", "EUR")))
	telemetry.Logger().Info(ctx, "charged", map[string]any{"cents": 350})
	span.End()

	if err := telemetry.Flush(ctx); err != nil { // nil once the engine has received everything
		log.Fatal(err)
	}
	fmt.Println(engine.Traces()[0].Name, "by", engine.Traces()[0].Resource.Attributes["service.name"])
	fmt.Println(engine.Metrics()[0].Name, engine.Metrics()[0].Points[0].Value)
	fmt.Println(engine.Logs()[0].Body, "in the same trace:", engine.Logs()[0].TraceID == engine.Traces()[0].TraceID)
	fmt.Println("lost:", telemetry.Connection().Stats().Dropped())
	// Output:
	// charge card by billing
	// charges 1
	// charged in the same trace: true
	// lost: 0
}

// With telemetry, the engine's traces include the calls to this worker and the work done in
// its handlers.
func ExampleWithTelemetry() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL())})
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)
	c, err := iii.New(engine.URL(), iii.WithTelemetry(telemetry))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = iii.Handle(c, "orders::pay", func(ctx context.Context, order string) (string, error) {
		return order, iii.InSpan(ctx, "charge card", trace.SpanKindClient, func(ctx context.Context) error {
			telemetry.Logger().Warn(ctx, "card declined", map[string]any{"order": order})
			return errors.New("card declined")
		})
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Call(ctx, "orders::pay", "o-1", nil))
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, span := range engine.Traces() {
		fmt.Println(span.Name, "-", span.Status.Message)
	}
	for _, record := range engine.Logs() {
		fmt.Println(record.SeverityText, record.Body, record.Attributes["log.data"])
	}
	// Output:
	// iii: orders::pay: invocation_failed: card declined
	// charge card - card declined
	// execute orders::pay - card declined
	// WARN card declined map[order:o-1]
}

// InSpan runs a function inside a span. The span's status reflects the returned error.
func ExampleInSpan() {
	engine, telemetry, stop := withTelemetry()
	defer stop()

	ctx, root := telemetry.Tracer().Start(context.Background(), "checkout")
	err := iii.InSpan(ctx, "reserve stock", trace.SpanKindInternal, func(ctx context.Context) error {
		trace.SpanFromContext(ctx).SetAttributes(attribute.Int("items", 3))
		return errors.New("no tea is left")
	})
	root.End()
	fmt.Println(err)

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, span := range engine.Traces() {
		fmt.Println(span.Name, span.Status.Code, span.Attributes)
	}
	// Output:
	// no tea is left
	// reserve stock Error map[items:3]
	// checkout Unset map[]
}

// withTelemetry starts a development engine and connects telemetry to it.
func withTelemetry() (engine *iiitest.Engine, telemetry *iii.Telemetry, stop func()) {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	telemetry, err = iii.StartTelemetry(context.Background(), iii.OtelConfig{EngineWSURL: new(engine.URL())})
	if err != nil {
		log.Fatal(err)
	}
	return engine, telemetry, func() { _, _ = telemetry.Shutdown(context.Background()), engine.Close() }
}

// Log records carry structured data and belong to the current trace.
func ExampleLogger() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	logger := telemetry.Logger() // to use another provider, call NewLogger
	logger.Debug(ctx, "looking for tea", nil)
	logger.Info(ctx, "found", map[string]any{"item": "tea", "left": 3})
	logger.Warn(ctx, "nearly sold out", 3)
	logger.Error(ctx, "cannot order more", errors.New("the supplier is away"))

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, r := range engine.Logs() {
		fmt.Println(r.SeverityText, r.Body, r.Attributes["log.data"])
	}
	// Output:
	// DEBUG looking for tea <nil>
	// INFO found map[item:tea left:3]
	// WARN nearly sold out 3
	// ERROR cannot order more the supplier is away
}

// SlogHandler sends log/slog records to the engine.
func ExampleTelemetry_SlogHandler() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	logger := slog.New(telemetry.SlogHandler()).With("shop", "oslo")
	logger.InfoContext(ctx, "sold", "item", "tea", slog.Group("price", "cents", 350))

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, r := range engine.Logs() {
		fmt.Println(r.SeverityText, r.Body, r.Attributes["log.data"])
	}
	// Output: INFO sold map[item:tea price:map[cents:350] shop:oslo]
}

// The program logs to the terminal and to the engine. Each record appears once on the
// terminal, even if telemetry is disabled.
func ExampleTelemetry_SlogHandler_terminal() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	terminal := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := slog.New(slog.NewMultiHandler(terminal, telemetry.SlogHandler())) // could be passed to slog.SetDefault
	logger.InfoContext(ctx, "sold", "item", "tea")

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("engine:", engine.Logs()[0].Body)
	// Output:
	// level=INFO msg=sold item=tea
	// engine: sold
}

// The terminal shows all records. The engine receives only those at or above a given level.
func ExampleTelemetry_SlogHandlerAt() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	terminal := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := slog.New(slog.NewMultiHandler(terminal, telemetry.SlogHandlerAt(slog.LevelWarn)))
	logger.InfoContext(ctx, "sold", "item", "tea")
	logger.WarnContext(ctx, "nearly sold out", "item", "tea")

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, r := range engine.Logs() {
		fmt.Println("engine:", r.Body)
	}
	// Output:
	// level=INFO msg=sold item=tea
	// level=WARN msg="nearly sold out" item=tea
	// engine: nearly sold out
}

// TraceHandler adds trace and span ids to log lines on a terminal or in a file. Inside a
// handler, ctx belongs to the call's trace.
func ExampleTraceHandler() {
	ctx := iii.ExtractContext(context.Background(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")

	terminal := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := slog.New(iii.TraceHandler(terminal))
	logger.InfoContext(ctx, "sold", "item", "tea")
	logger.Info("closed")
	// Output:
	// level=INFO msg=sold item=tea trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331
	// level=INFO msg=closed
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

// Other instrumentation can use a Telemetry's providers. At the end of the program, Shutdown
// delivers what has been recorded. If anything was lost, Shutdown returns an error that says
// how much.
func ExampleTelemetry() {
	engine, telemetry, stop := withTelemetry()
	defer stop()

	price, err := telemetry.MeterProvider().Meter("shop").Float64Histogram("price", metric.WithUnit("EUR"))
	if err != nil {
		log.Fatal(err)
	}
	ctx, span := telemetry.TracerProvider().Tracer("shop").Start(context.Background(), "sell")
	price.Record(ctx, 3.50)
	iii.NewLogger(telemetry.LoggerProvider()).Info(ctx, "sold", nil)
	span.End()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := telemetry.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	m := engine.Metrics()[0]
	fmt.Println(m.Name, m.Type, m.Points[0].Count, *m.Points[0].Sum)
	fmt.Println(engine.Traces()[0].Name, engine.Logs()[0].Body)
	// Output:
	// price histogram 1 3.5
	// sell sold
}

// With WithGlobalProviders, a Telemetry also records instrumentation that uses the global
// providers.
func ExampleWithGlobalProviders() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL())}, iii.WithGlobalProviders())
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)

	_, span := otel.Tracer("some library").Start(ctx, "query")
	span.End()
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(engine.Traces()[0].Name, "of", engine.Traces()[0].Scope.Name)
	// Output: query of some library
}

// Functions such as ExtractContext and InjectTraceparent exchange trace context with code that
// does not use OpenTelemetry.
func ExampleExtractContext() {
	ctx := iii.ExtractContext(context.Background(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant=acme")
	ctx, err := iii.SetBaggage(ctx, "iii.session.name", "Anna & Ben")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.TraceID(ctx), iii.SpanID(ctx))
	fmt.Println(iii.InjectTraceparent(ctx))
	fmt.Println(iii.InjectBaggage(ctx))
	// Output:
	// 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331
	// 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
	// iii.session.name=Anna%20&%20Ben,tenant=acme
}

// The transport records each HTTP request as a span in the trace of the request's context.
func ExampleNewTracingTransport() {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("trace", r.Header.Get("Traceparent")[3:35], "with", r.Header.Get("Baggage"))
	}))
	defer server.Close()
	ctx := iii.ExtractContext(context.Background(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant=acme")
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: iii.NewTracingTransport(nil)}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	_ = resp.Body.Close()
	client.CloseIdleConnections()
	// Output:
	// trace 0af7651916cd43dd8448eb211c80319c with tenant=acme
}

func ExampleRedactAndTruncate() {
	payload := map[string]any{"user": "anna", "password": "hunter2", "note": "a long text that nobody needs in a trace"}
	fmt.Println(iii.RedactAndTruncate(payload, 0))
	fmt.Println(iii.RedactAndTruncate(payload, 40))
	// Output:
	// {"note":"a long text that nobody needs in a trace","password":"[REDACTED]","user":"anna"} false
	// {"note":"a long text tha..."[TRUNCATED]" true
}

// Baggage travels with every call whose context contains it, and with the calls that handlers
// make in turn.
func ExampleSetBaggage() {
	_, client, stop := withEngine()
	defer stop()

	_, err := iii.Handle(client, "orders::tenant", func(ctx context.Context, _ any) (string, error) {
		tenant, ok := iii.BaggageEntry(ctx, "tenant")
		return fmt.Sprint(tenant, " ", ok), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	ctx, err := iii.SetBaggage(context.Background(), "tenant", "acme")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, client, "orders::tenant", nil))
	fmt.Println(iii.Call[string](iii.RemoveBaggage(ctx, "tenant"), client, "orders::tenant", nil))
	// Output:
	// acme true <nil>
	//  false <nil>
}

// The handler starts work that continues in the caller's trace after the handler has returned.
func ExampleCaptureContext() {
	engine, telemetry, stop := withTelemetry()
	defer stop()

	handle := func(ctx context.Context) (done chan error) {
		captured := iii.CaptureContext(ctx) // keeps the trace, but neither cancellation nor deadline
		done = make(chan error)
		go func() {
			ctx := captured.Attach(context.Background())
			done <- iii.InSpan(ctx, "send receipt", trace.SpanKindInternal, func(context.Context) error { return nil })
		}()
		return done
	}
	ctx, cancel := context.WithCancel(context.Background())
	ctx, span := telemetry.Tracer().Start(ctx, "order")
	done := handle(ctx)
	span.End()
	cancel()
	if err := <-done; err != nil {
		log.Fatal(err)
	}

	if err := telemetry.Flush(context.Background()); err != nil {
		log.Fatal(err)
	}
	for _, s := range engine.Traces() {
		fmt.Println(s.Name, "in the trace of the order:", s.TraceID == span.SpanContext().TraceID().String())
	}
	// Unordered output:
	// order in the trace of the order: true
	// send receipt in the trace of the order: true
}

// Redact masks secrets before data is logged or displayed.
func ExampleRedact() {
	fmt.Println(iii.Redact(map[string]any{
		"user":   "ada",
		"apiKey": "k-123",
		"login":  map[string]string{"password": "hunter2"},
	}))
	// Output: map[apiKey:[REDACTED] login:map[password:[REDACTED]] user:ada]
}

// A program can use the exporters in its own providers, with its own samplers and processors.
// The exporters share one connection.
func ExampleNewEngineSpanExporter() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	connection, err := iii.NewSharedEngineConnection(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Shutdown(ctx)

	spans := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(iii.NewBaggageSpanProcessor()),
		sdktrace.WithBatcher(iii.NewEngineSpanExporter(connection)))
	metrics := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(iii.NewEngineMetricsExporter(connection))))
	logs := sdklog.NewLoggerProvider(
		sdklog.WithProcessor(sdklog.NewBatchProcessor(iii.NewEngineLogExporter(connection))))
	defer spans.Shutdown(ctx)
	defer metrics.Shutdown(ctx)
	defer logs.Shutdown(ctx)

	tagged, err := iii.SetBaggage(ctx, "iii.tag.team", "billing")
	if err != nil {
		log.Fatal(err)
	}
	_, span := spans.Tracer("shop").Start(tagged, "charge card")
	span.End()
	counter, err := metrics.Meter("shop").Int64Counter("charges")
	if err != nil {
		log.Fatal(err)
	}
	counter.Add(ctx, 2)
	iii.NewLogger(logs).Warn(ctx, "card expires soon", nil)

	// ForceFlush returns once the engine has received everything.
	for _, flush := range []func(context.Context) error{spans.ForceFlush, metrics.ForceFlush, logs.ForceFlush} {
		if err := flush(ctx); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(engine.Traces()[0].Name, engine.Traces()[0].Attributes)
	fmt.Println(engine.Metrics()[0].Name, engine.Metrics()[0].Points[0].Value)
	fmt.Println(engine.Logs()[0].Severity == otellog.SeverityWarn, engine.Logs()[0].Body)
	// Output:
	// charge card map[iii.tag.team:billing]
	// charges 2
	// true card expires soon
}

// A program can also send telemetry frames that it has encoded itself.
func ExampleSharedEngineConnection() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	connection, err := iii.NewSharedEngineConnection(engine.URL(),
		iii.WithConnectionReconnection(iii.ReconnectionConfig{InitialDelayMs: 100}),
		iii.WithConnectionStateListener(func(s iii.ConnectionState, err error) {
			if s == iii.ConnectionStateFailed {
				log.Print(err)
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Shutdown(ctx)

	err = connection.Send(iii.OtelMessage{Prefix: "LOGS", Data: []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[
		{"timeUnixNano":"1760000000000000000","severityNumber":9,"severityText":"INFO","body":{"stringValue":"hello"}}]}]}]}`)})
	if err != nil {
		log.Fatal(err)
	}
	if err := connection.Flush(ctx); err != nil { // nil once the engine has received everything
		log.Fatal(err)
	}
	s := connection.Stats()
	fmt.Println(connection.State(), "confirmed:", s.Confirmed, "queued:", s.Queued, "dropped logs:", s.Logs.Frames())
	fmt.Println(engine.Logs()[0].Body)
	// Output:
	// connected confirmed: 1 queued: 0 dropped logs: 0
	// hello
}

// RegisterWorkerGauges reports process metrics as gauges. The engine shows their values in its
// list of workers. A client with telemetry does this automatically.
func ExampleRegisterWorkerGauges() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()
	client, err := iii.New(engine.URL(), iii.WithName("billing"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	gauges, err := iii.RegisterWorkerGauges(telemetry.Meter(), iii.WorkerGaugesOptions{
		WorkerID:   client.WorkerID(),
		WorkerName: new(client.Name()),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer gauges.Stop()
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}

	worker, err := client.WorkerInfo(ctx, "billing")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(worker.LatestMetrics != nil)
	// Output: true
}

// A program can collect the same process metrics that a worker reports.
func ExampleNewWorkerMetricsCollector() {
	collector, err := iii.NewWorkerMetricsCollector()
	if err != nil {
		log.Fatal(err)
	}
	m, err := collector.Collect(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Runtime, m.MemoryRSS > 0)
	// Output:
	// go true
}

// A program that has its own OpenTelemetry SDK passes the SDK's providers to the worker. The
// engine then receives no telemetry. Here, the SDK keeps spans in memory.
func ExampleTelemetryFromProviders() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	backend := tracetest.NewInMemoryExporter()
	spans := sdktrace.NewTracerProvider(sdktrace.WithSyncer(backend))
	metrics := sdkmetric.NewMeterProvider()
	defer spans.Shutdown(ctx)
	defer metrics.Shutdown(ctx)

	telemetry := iii.TelemetryFromProviders(spans, metrics, nil) // no logger provider
	c, err := iii.New(engine.URL(), iii.WithTelemetry(telemetry), iii.WithTracePayloads())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = iii.Handle(c, "shop::sell", func(context.Context, string) (string, error) { return "sold", nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := iii.Call[string](ctx, c, "shop::sell", "tea"); err != nil {
		log.Fatal(err)
	}
	for _, s := range backend.GetSpans() {
		fmt.Println(s.Name, s.Events[0].Attributes[0].Value.AsString(), s.Events[1].Attributes[0].Value.AsString())
	}
	fmt.Println("the engine has", len(engine.Telemetry()), "frames")
	// Output:
	// execute shop::sell "tea" "sold"
	// the engine has 0 frames
}

// printedRecords is a log exporter that prints each record.
type printedRecords struct{}

func (printedRecords) Export(_ context.Context, records []sdklog.Record) error {
	for _, r := range records {
		fmt.Println("backend:", r.Body())
	}
	return nil
}
func (printedRecords) ForceFlush(context.Context) error { return nil }
func (printedRecords) Shutdown(context.Context) error   { return nil }

// A second backend receives everything that the engine receives: spans, handler metrics and
// log records. Here, the backend is in memory.
func ExampleWithSpanProcessor() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	backend := tracetest.NewInMemoryExporter()
	records := printedRecords{}
	reader := sdkmetric.NewManualReader() // in production, NewPeriodicReader with an exporter
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL())},
		iii.WithSpanProcessor(sdktrace.NewSimpleSpanProcessor(backend)),
		iii.WithMetricReader(reader),
		iii.WithLogProcessor(sdklog.NewSimpleProcessor(records)))
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)
	c, err := iii.New(engine.URL(), iii.WithTelemetry(telemetry))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = iii.Handle(c, "shop::sell", func(context.Context, string) (string, error) { return "sold", nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := iii.Call[string](ctx, c, "shop::sell", "tea"); err != nil {
		log.Fatal(err)
	}
	telemetry.Logger().Info(ctx, "closed", nil)
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("backend:", backend.GetSpans()[0].Name)
	fmt.Println("engine:", engine.Traces()[0].Name)
	var data metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &data); err != nil {
		log.Fatal(err)
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == "iii.worker.function.count" {
				fmt.Println(m.Name, m.Data.(metricdata.Sum[int64]).DataPoints[0].Value)
			}
		}
	}
	// Output:
	// backend: closed
	// backend: execute shop::sell
	// engine: execute shop::sell
	// iii.worker.function.count 1
}
