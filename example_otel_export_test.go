package iii_test

import (
	"context"
	"fmt"
	"log"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	otellog "go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// A program uses the exporters with its own providers, which have their own samplers, batch
// processors and other exporters. The exporters share one connection.
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

	// ForceFlush of a provider returns when the engine has received all data.
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

// A program sends a telemetry frame that it has encoded itself.
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
	if err := connection.Flush(ctx); err != nil { // nil: the engine has it
		log.Fatal(err)
	}
	s := connection.Stats()
	fmt.Println(connection.State(), "confirmed:", s.Confirmed, "queued:", s.Queued, "dropped logs:", s.Logs.Frames())
	fmt.Println(engine.Logs()[0].Body)
	// Output:
	// connected confirmed: 1 queued: 0 dropped logs: 0
	// hello
}

// The process metrics are reported as gauges, which the engine shows with the worker. A
// client with telemetry reports them automatically.
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

// A program collects the process metrics that a worker reports, for its own use.
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
