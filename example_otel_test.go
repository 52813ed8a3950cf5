package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel/trace"
)

// A worker whose invocations, and what it does in them, the engine shows as
// traces.
func ExampleWithTelemetry() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	url := engine.URL()
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWsURL: &url})
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)
	c, err := iii.New(url, iii.WithTelemetry(telemetry))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = iii.Handle(c, "orders::pay", func(ctx context.Context, order string) (string, error) {
		return order, iii.WithSpan(ctx, "charge card", trace.SpanKindClient, func(ctx context.Context) error {
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

// Trace context as it comes from, or goes to, where there is no OpenTelemetry.
func ExampleExtractContext() {
	ctx := iii.ExtractContext(context.Background(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant=acme")
	ctx, err := iii.WithBaggageEntry(ctx, "iii.session.name", "Anna & Ben")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.TraceID(ctx))
	fmt.Println(iii.InjectTraceparent(ctx))
	fmt.Println(iii.InjectBaggage(ctx))
	// Output:
	// 0af7651916cd43dd8448eb211c80319c
	// 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
	// iii.session.name=Anna%20&%20Ben,tenant=acme
}

// An HTTP client whose requests are spans of the trace that their context is in.
func ExampleNewTransport() {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("trace", r.Header.Get("Traceparent")[3:35], "with", r.Header.Get("Baggage"))
	}))
	defer server.Close()
	ctx := iii.ExtractContext(context.Background(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant=acme")
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: iii.NewTransport(nil)}
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

// The figures that a worker reports, for a program of its own making.
func ExampleNewWorkerMetricsCollector() {
	collector, err := iii.NewWorkerMetricsCollector()
	if err != nil {
		log.Fatal(err)
	}
	m, err := collector.Collect(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Runtime, m.MemoryRss > 0)
	// Output:
	// go true
}
