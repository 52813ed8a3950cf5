package iiitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// A program can run an engine and a worker together.
func Example() {
	ctx := context.Background()
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	worker, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	type person struct{ Name string }
	_, err = iii.Handle(worker, "greet", func(_ context.Context, p person) (string, error) {
		return "Hello, " + p.Name + "!", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	greeting, err := iii.Call[string](ctx, worker, "greet", person{"Ada"}, iii.Remotely()) // through the engine
	fmt.Println(greeting, err)

	for _, f := range engine.Frames() {
		if f.Type() == "invocationresult" && f.Direction == iiitest.ToEngine {
			fmt.Println(f.WorkerName, "answered")
		}
	}
	// Output:
	// Hello, Ada! <nil>
	// greeter answered
}

// A named queue can have its own settings, here one job at a time and two attempts.
func ExampleWithQueue() {
	engine, err := iiitest.New(iiitest.WithQueue("mails", iiitest.QueueConfig{Concurrency: 1, MaxRetries: 2}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	worker, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	sent := make(chan string)
	_, err = iii.Handle(worker, "mail::send", func(_ context.Context, to string) (any, error) {
		sent <- to
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := worker.Enqueue(ctx, "mails", "mail::send", "you@example.org"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-sent)
	// Output: you@example.org
}

// Every option has a default.
func ExampleNew() {
	engine, err := iiitest.New(
		iiitest.WithAddrs("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"), // for workers, HTTP and streams
		iiitest.WithLogger(slog.Default()),                             // logs dropped messages, among others
		iiitest.WithHTTPTimeout(5*time.Second),
		iiitest.WithNamespaceGrace(time.Second),
		iiitest.WithFrameLimit(1000, 1<<20),     // limits Frames
		iiitest.WithTelemetryLimit(1000, 1<<20), // limits Traces, Logs and Metrics
		iiitest.WithQueueProvider(false),        // no queue worker
	)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = worker.Enqueue(ctx, "default", "mail::send", nil)
	fmt.Println(errors.Is(err, iii.ErrEnqueue))
	// Output: true
}

// Configuration values can refer to the environment variables set by WithEnv. The secrets for
// functions invoked over HTTP are read from the same variables.
func ExampleWithEnv() {
	engine, err := iiitest.New(iiitest.WithEnv(map[string]string{"CURRENCY": "EUR"}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	_, err = worker.Configuration().Register(ctx, iii.ConfigurationRegisterInput{
		ID: "shop", Name: "Shop", Description: "Prices", Schema: json.RawMessage(`{"type":"object"}`),
		InitialValue: json.RawMessage(`{"currency":"${CURRENCY:USD}"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	var shop map[string]string
	fmt.Println(worker.Configuration().Get(ctx, "shop", &shop), shop)
	// Output: <nil> map[currency:EUR]
}

// A guarded listener restricts its workers. This one permits only calls to the shop's
// functions and the calls that every worker needs.
func ExampleWithGuard() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{Expose: []string{"shop::*"}}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	ctx := context.Background()

	shop, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	_, err = iii.Handle(shop, "shop::open", func(context.Context, any) (bool, error) { return true, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := shop.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	guest, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer guest.Close()
	if err := guest.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[bool](ctx, guest, "shop::open", nil))
	_, err = guest.Workers(ctx)
	fmt.Println(errors.Is(err, iii.ErrForbidden))
	// Output:
	// true <nil>
	// true
}

// DialContext connects in memory, without a network.
func ExampleEngine_DialContext() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	worker, err := iii.New(engine.URL(), iii.WithDialContext(engine.DialContext))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	_, err = iii.HandleHTTP(worker, "GET", "/hello", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
		return &iii.HTTPResponse[string]{StatusCode: 200, Body: "hello"}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	browser := &http.Client{Transport: &http.Transport{DialContext: engine.DialContext}}
	defer browser.CloseIdleConnections()
	resp, err := browser.Get(engine.HTTPURL() + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: "hello" <nil>
}

// Frames returns the messages that workers and the engine have exchanged.
func ExampleEngine_Frames() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := worker.Send(ctx, "greet", map[string]string{"name": "Ada"}); err != nil {
		log.Fatal(err)
	}
	if err := worker.Shutdown(ctx); err != nil { // waits until the engine has read all messages
		log.Fatal(err)
	}

	for _, f := range engine.Frames() {
		if f.Direction == iiitest.ToEngine && f.Type() == "invokefunction" && strings.Contains(string(f.Message), `"greet"`) {
			fmt.Println(f.WorkerName, "sent", string(f.Message))
		}
	}
	fmt.Println("not understood:", engine.Stats().Undecodable)
	// Output:
	// greeter sent {"type":"invokefunction","function_id":"greet","action":{"type":"void"},"data":{"name":"Ada"}}
	// not understood: 0
}

// Traces, Logs and Metrics return the telemetry that the engine has received.
func ExampleEngine_Traces() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	ctx := context.Background()
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL())})
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)

	ctx, span := telemetry.Tracer().Start(ctx, "bake", trace.WithAttributes(attribute.Int("cakes", 3)))
	telemetry.Logger().Info(ctx, "in the oven", nil)
	span.End()
	counter, err := telemetry.Meter().Int64Counter("cakes")
	if err != nil {
		log.Fatal(err)
	}
	counter.Add(ctx, 3)
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}

	for _, s := range engine.Traces() {
		fmt.Println(s.Name, s.Attributes, s.End.After(s.Start))
	}
	for _, r := range engine.Logs() {
		fmt.Println(r.SeverityText, r.Body)
	}
	for _, m := range engine.Metrics() {
		fmt.Println(m.Name, m.Type, m.Points[0].Value)
	}
	fmt.Println("announced:", len(engine.LiveSpans()), "first frame:", engine.Telemetry()[0].Prefix)
	// Output:
	// bake map[cakes:3] true
	// INFO in the oven
	// cakes counter 3
	// announced: 1 first frame: OTLP
}
