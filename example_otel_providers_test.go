package iii_test

import (
	"context"
	"fmt"
	"log"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A program that has an OpenTelemetry SDK already gives its providers to the worker. The
// engine gets no telemetry. Here, the SDK keeps the spans in memory.
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

	telemetry := iii.TelemetryFromProviders(spans, metrics, nil) // no logs
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

// printedRecords is an exporter that prints log records.
type printedRecords struct{}

func (printedRecords) Export(_ context.Context, records []sdklog.Record) error {
	for _, r := range records {
		fmt.Println("backend:", r.Body())
	}
	return nil
}
func (printedRecords) ForceFlush(context.Context) error { return nil }
func (printedRecords) Shutdown(context.Context) error   { return nil }

// A second backend gets what the engine gets: the spans, the metrics of handlers and the log
// records. Here, it is in memory.
func ExampleWithSpanProcessor() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	backend := tracetest.NewInMemoryExporter()
	records := printedRecords{}
	reader := sdkmetric.NewManualReader() // or NewPeriodicReader with an exporter
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
