package iii_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/iii-go/iii"
	"go.opentelemetry.io/otel/trace"
)

// ExtractContext and related functions exchange trace context with code that does not use
// OpenTelemetry.
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

// The client records each HTTP request as a span of the trace in the request's context.
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

// Baggage travels with every call of its context, to the workers that serve the call and to
// the workers that they call.
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

// The handler continues work in the caller's trace after it has returned.
func ExampleCaptureContext() {
	engine, telemetry, stop := withTelemetry()
	defer stop()

	handle := func(ctx context.Context) (done chan error) {
		captured := iii.CaptureContext(ctx) // the trace, but neither cancellation nor deadline
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
