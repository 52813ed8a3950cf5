package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The telemetry sends traces, metrics and logs of a program to the engine. Unset fields of
// the config come from the environment.
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
			iii.WithConnectionQueue(10_000, 64<<20), // frames and bytes that may wait for the engine
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

	if err := telemetry.Flush(ctx); err != nil { // nil: the engine has it
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

// The engine shows the invocations of this worker, and the work inside them, as traces.
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

// InSpan records a span around a part of the work. The status of the span follows the
// returned error.
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

// withTelemetry starts a development engine and telemetry for it.
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

// Log records have structured data and belong to the current trace.
func ExampleLogger() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	logger := telemetry.Logger() // or NewLogger, for a provider of one's own
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

// The slog handler sends the records of log/slog to the engine.
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

// The program logs to its terminal and to the engine. Each line appears once in the
// terminal, even if telemetry is disabled.
func ExampleTelemetry_SlogHandler_terminal() {
	engine, telemetry, stop := withTelemetry()
	defer stop()
	ctx := context.Background()

	terminal := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	logger := slog.New(slog.NewMultiHandler(terminal, telemetry.SlogHandler())) // or for slog.SetDefault
	logger.InfoContext(ctx, "sold", "item", "tea")

	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("engine:", engine.Logs()[0].Body)
	// Output:
	// level=INFO msg=sold item=tea
	// engine: sold
}

// The terminal shows all records; the engine receives only those from a level on.
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

// TraceHandler adds the ids of the trace to the lines of a terminal or a file. The context
// of a handler belongs to the trace of the call.
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

// Instrumentation can use the providers of the telemetry. Shutdown delivers the recorded
// data at the end of the program; its error reports how much was lost.
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

// With WithGlobalProviders the telemetry also records instrumentation that uses the global
// providers, here a global tracer.
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
