package iii_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type Sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

// One worker serves a function and another worker calls it.
func Example() {
	ctx := context.Background()
	engine, err := iiitest.New() // in production, the engine is a separate process
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	server, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	_, err = iii.Handle(server, "math::add", func(ctx context.Context, in Sum) (int, error) {
		return in.A + in.B, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	caller, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer caller.Close()
	if err := caller.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	sum, err := iii.Call[int](ctx, caller, "math::add", Sum{A: 2, B: 3})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum)
	// Output: 5
}

// withEngine starts a development engine and creates a client that is not yet connected.
// Calling stop closes both. A real program only calls New.
func withEngine(opts ...iii.Option) (engine *iiitest.Engine, client *iii.Client, stop func()) {
	return withEngineOf(iiitest.Protocol026, opts...)
}

func withEngineOf(p iiitest.Protocol, opts ...iii.Option) (engine *iiitest.Engine, client *iii.Client, stop func()) {
	engine, err := iiitest.New(iiitest.WithProtocol(p))
	if err != nil {
		log.Fatal(err)
	}
	if client, err = iii.New(engine.URL(), opts...); err != nil {
		log.Fatal(err)
	}
	return engine, client, func() { _, _ = client.Close(), engine.Close() }
}

// In production, a worker has a name, a namespace, credentials and a logger. New does not
// connect.
func ExampleNew() {
	client, err := iii.New("wss://engine.example.org",
		iii.WithName("billing"),
		iii.WithDescription("Charges cards"),
		iii.WithNamespace("shop"),
		iii.WithHeader(http.Header{"Authorization": {"Bearer " + os.Getenv("ENGINE_TOKEN")}}),
		iii.WithTLSConfig(&tls.Config{MinVersion: tls.VersionTLS13}),
		iii.WithLogger(slog.Default()),
		iii.WithCallTimeout(5*time.Second),
		iii.WithDrainTimeout(time.Minute),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.Name(), "of", client.Namespace(), "is", client.State())
	// Output: billing of shop is disconnected
}

// These options set every limit to its default. New rejects invalid values.
func ExampleNew_limits() {
	limits := []iii.Option{
		iii.WithSendPolicy(iii.SendFail),                      // if the send buffer is full, return ErrBufferFull; SendWait blocks instead
		iii.WithMaxConcurrency(1000),                          // concurrent handlers
		iii.WithSendBuffer(32_768, 8<<20),                     // messages and bytes buffered while not connected
		iii.WithReadLimit(64 << 20),                           // bytes per received message
		iii.WithKeepalive(20*time.Second, 60*time.Second),     // ping interval; disconnect after this long without data
		iii.WithReconnection(iii.DefaultReconnectionConfig()), // after 1 s, doubling up to 30 s; unlimited attempts
		iii.WithHTTPWriteTimeout(30 * time.Second),            // how long a streamed response may stall
	}
	client, err := iii.New("", limits...)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	_, err = iii.New("", iii.WithKeepalive(time.Minute, time.Second))
	fmt.Println(err)
	// Output: iii: WithKeepalive: ping 1m0s must be positive and below idle 1s
}

// Connect returns nil once the engine has accepted the worker. If the engine rejects the
// worker, Connect returns the reason.
func ExampleClient_Connect() {
	engine, client, stop := withEngine(iii.WithName("greeter"))
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Name(), "is", client.State())

	twin, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	defer twin.Close()
	var refused *iii.RejectedError
	if err := twin.Connect(ctx); errors.As(err, &refused) {
		fmt.Println(refused.Code, refused.WorkerName)
	}
	fmt.Println("the twin is", twin.State(), "-", errors.Is(twin.Err(), refused))
	// Output:
	// greeter is connected
	// WORKER_NAMESPACE_CONFLICT greeter
	// the twin is failed - true
}

// With WithWaitForName, a worker waits until the previous instance with the same name has
// disconnected, for example during a rolling update.
func ExampleWithWaitForName() {
	engine, old, stop := withEngine(iii.WithName("greeter"))
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := old.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	waiting := make(chan string, 1)
	next, err := iii.New(engine.URL(),
		iii.WithName("greeter"),
		iii.WithWaitForName(),
		iii.WithStateListener(func(s iii.ConnectionState, err error) {
			var refused *iii.RejectedError
			if errors.As(err, &refused) {
				waiting <- refused.WorkerName
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer next.Close()
	go func() {
		fmt.Println("waiting for the name", <-waiting)
		if err := old.Shutdown(ctx); err != nil {
			log.Fatal(err)
		}
	}()
	if err := next.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(next.Name(), "is", next.State())
	// Output:
	// waiting for the name greeter
	// greeter is connected
}

// During a rolling update, the new instance starts while the old one is still running. The
// engine rejects the new instance's functions until the old instance disconnects. The client
// then takes them over.
func ExampleTakeoverNotice() {
	engine, old, stop := withEngine(iii.WithName("orders-1"))
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	serve := func(c *iii.Client) *iii.Function {
		f, err := iii.Handle(c, "orders::create", func(context.Context, any) (string, error) { return "served by " + c.Name(), nil })
		if err != nil {
			log.Fatal(err)
		}
		if err := c.Connect(ctx); err != nil {
			log.Fatal(err)
		}
		return f
	}
	serve(old)

	taken := make(chan string, 1)
	next, err := iii.New(engine.URL(), iii.WithName("orders-2"),
		iii.WithStateListener(func(_ iii.ConnectionState, err error) {
			var notice *iii.TakeoverNotice
			if errors.As(err, &notice) {
				taken <- notice.FunctionID
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer next.Close()
	f := serve(next)
	var refused *iii.RejectedError
	fmt.Println("refused:", errors.As(f.Err(), &refused))

	if err := old.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("taken over:", <-taken)
	fmt.Println(iii.Call[string](ctx, next, "orders::create", nil))
	// Output:
	// refused: true
	// taken over: orders::create
	// served by orders-2 <nil>
}

// Run is the main loop of a worker program. When its context is canceled, Run shuts down
// gracefully: running handlers finish and their results are delivered.
func ExampleClient_Run() {
	engine, client, stop := withEngine()
	defer stop()

	ctx, interrupt := context.WithCancel(context.Background()) // or signal.NotifyContext
	_, err := iii.Handle(client, "worker::stop", func(context.Context, any) (string, error) {
		interrupt()
		return "as you wish", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- client.Run(ctx) }()

	caller, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer caller.Close()
	if err := caller.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil { // waits until Run has connected
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](context.Background(), caller, "worker::stop", nil))
	fmt.Println(<-ended)
	// Output:
	// as you wish <nil>
	// <nil>
}

// A graceful shutdown lets running handlers finish. A long-running handler can use Stopping to
// detect that a shutdown has begun.
func ExampleClient_Shutdown() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	began := make(chan bool)
	_, err := iii.Handle(client, "report::write", func(ctx context.Context, pages int) (string, error) {
		began <- true
		select {
		case <-iii.Stopping(ctx):
			return "unfinished report", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	reader, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	if err := reader.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	report := make(chan string)
	go func() {
		text, err := iii.Call[string](ctx, reader, "report::write", 100)
		report <- fmt.Sprint(text, " ", err)
	}()
	<-began

	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	fmt.Println(client.Shutdown(limit))
	fmt.Println(<-report)
	// Output:
	// <nil>
	// unfinished report <nil>
}

// Stats accounts for every message that Send accepts.
func ExampleClient_Stats() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	for n := range 3 { // not connected yet, so messages are buffered
		if err := client.Send(ctx, "metrics::count", n); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("buffered:", client.Stats().Buffered)
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := client.Shutdown(ctx); err != nil { // waits until the engine has read everything
		log.Fatal(err)
	}
	s := client.Stats()
	fmt.Println("confirmed:", s.SendsConfirmed, "unknown:", s.SendsUnknown, "dropped:", s.SendsDropped)
	// Output:
	// buffered: 3
	// confirmed: 3 unknown: 0 dropped: 0
}

// A worker reconnects automatically when its connection breaks. WithDialContext controls how
// the client connects, here over in-memory connections.
func ExampleWithStateListener() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	states := make(chan iii.ConnectionState, 10)
	client, err := iii.New(engine.URL(),
		iii.WithName("greeter"),
		iii.WithDialContext(engine.DialContext),
		iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1}),
		iii.WithStateListener(func(s iii.ConnectionState, err error) {
			var lost *iii.LostSendsError
			if errors.As(err, &lost) {
				log.Print(lost.Count, " messages of Send may be lost")
			}
			states <- s
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	first := client.WorkerID()
	engine.Drop("greeter")
	for range 4 {
		fmt.Println(<-states)
	}
	fmt.Println("another identity:", client.WorkerID() != first)
	// Output:
	// connecting
	// connected
	// reconnecting
	// connected
	// another identity: true
}

// An engine with access control rejects workers that lack valid credentials.
func ExampleAuthError() {
	engine, client, stop := withEngine()
	defer stop()
	engine.RefuseAuth("bad token")

	err := client.Connect(context.Background())
	var refused *iii.AuthError
	if errors.As(err, &refused) {
		fmt.Println(refused.Message)
	}
	fmt.Println(client.State())
	// Output:
	// bad token
	// failed
}

// The engine's own functions are called like any other function. Package iii has types for
// their inputs and results.
func ExampleCall() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	result, err := iii.Call[iii.StateSetResult](ctx, client, "state::set", iii.StateSetInput{
		Scope: "carts", Key: "ada", Value: json.RawMessage(`{"items":[]}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(result.NewValue))
	// Output: {"items":[]}
}

// The right reaction to an error depends on whether the function may have run.
func ExampleCall_errors() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Order struct {
		Item string `json:"item"`
	}
	type Quote struct {
		Cents int `json:"cents"`
	}
	_, err := iii.Handle(client, "shop::quote", func(ctx context.Context, o Order) (Quote, error) {
		return Quote{}, &iii.Error{Code: "sold_out", Message: "no " + o.Item + " is left"}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	order := Order{Item: "tea"}
	var refusal *iii.Error
	switch _, err := iii.Call[Quote](ctx, client, "shop::quote", order); {
	case err == nil:
	case errors.Is(err, iii.ErrFunctionNotFound): // no worker serves shop::quote
	case errors.As(err, &refusal): // the function or the engine returned an error
		fmt.Println(refusal.Code)
	case iii.SafeToRetry(err): // it did not run
	default: // it may have run
	}
	// Output: sold_out
}

// Call decodes the result into an existing value. This call also sets a timeout and calls a
// function in another namespace.
func ExampleClient_Call() {
	_, client, stop := withEngine(iii.WithNamespace("shop"))
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	prices := map[string]int{"tea": 350}
	err := client.Call(ctx, "prices::all", nil, &prices, iii.InNamespace("stock"), iii.WithTimeout(time.Second))
	fmt.Println(errors.Is(err, iii.ErrFunctionNotFound), prices)
	// Output: true map[tea:350]
}

// Send does not wait for a result, so it cannot report whether the function exists.
func ExampleClient_Send() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	pages := make(chan string)
	_, err := iii.Handle(client, "visits::count", func(ctx context.Context, page string) (any, error) {
		pages <- page
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Send(ctx, "visits::count", "/tea"); err != nil { // buffered until the client connects
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-pages)
	// Output: /tea
}

// Enqueue adds a job to a queue. The receipt confirms that the queue has accepted the job.
func ExampleClient_Enqueue() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	sent := make(chan string)
	_, err := iii.Handle(client, "mail::send", func(ctx context.Context, to string) (any, error) {
		sent <- to
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	receipt, err := client.Enqueue(ctx, "default", "mail::send", "ada@example.org")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-sent, receipt.MessageReceiptID != "")

	_, err = client.Enqueue(ctx, "no such queue", "mail::send", "bob@example.org")
	fmt.Println(errors.Is(err, iii.ErrEnqueue))
	// Output:
	// ada@example.org true
	// true
}

// A handler returns an error with a code of its choice. The caller receives the code.
func ExampleError() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "stock::take", func(ctx context.Context, item string) (int, error) {
		return 0, &iii.Error{Code: "out_of_stock", Message: "no " + item + " is left"}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	_, err = iii.Call[int](ctx, client, "stock::take", "tea")
	var refusal *iii.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code+":", refusal.Message)
	}
	// Output: out_of_stock: no tea is left
}

// SafeToRetry reports whether a failed request can be retried without the risk of running the
// function twice.
func ExampleSafeToRetry() {
	engine, client, stop := withEngine(iii.WithName("buyer"))
	defer stop()
	ctx := context.Background()

	// There was no connection before the timeout, so the request was not sent.
	err := client.Call(ctx, "shop::buy", "tea", nil, iii.WithTimeout(time.Millisecond))
	fmt.Println(errors.Is(err, iii.ErrTimeout), iii.SafeToRetry(err))

	// The connection broke after the request was sent. The order may have been placed.
	_, err = iii.Handle(client, "shop::buy", func(ctx context.Context, item string) (any, error) {
		engine.Drop("buyer")
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	err = client.Call(ctx, "shop::buy", "tea", nil, iii.Remotely()) // an in-process call would need no connection
	fmt.Println(errors.Is(err, iii.ErrConnectionLost), iii.SafeToRetry(err))
	// Output:
	// true true
	// true false
}

// A worker serves its readiness and liveness probes on an internal port.
func ExampleClient_ReadyHandler() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	probes := http.NewServeMux()
	probes.Handle("GET /ready", client.ReadyHandler())
	probes.Handle("GET /live", client.LiveHandler())
	server := httptest.NewServer(probes) // in production: http.ListenAndServe(":8081", probes)
	defer server.Close()

	show := func(when string) {
		for _, path := range []string{"/ready", "/live"} {
			resp, err := http.Get(server.URL + path)
			if err != nil {
				log.Fatal(err)
			}
			_ = resp.Body.Close()
			fmt.Println(when, path, resp.StatusCode)
		}
	}
	show("before")
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	show("connected")
	if err := client.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	show("ended")
	// Output:
	// before /ready 503
	// before /live 200
	// connected /ready 200
	// connected /live 200
	// ended /ready 503
	// ended /live 503
}

// Ready returns the reasons why the worker is not ready.
func ExampleClient_Ready() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	fmt.Println(errors.Is(client.Ready(), iii.ErrNotConnected))
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Ready(), client.Draining())
	if err := client.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(client.Ready(), iii.ErrClosed), client.Draining())
	// Output:
	// true
	// <nil> false
	// true true
}

// In a rolling update, the new replica is on standby until the old one has drained. A caller
// that retries while no worker serves the function sees no failure.
func ExampleWithCallRetry() {
	engine, caller, stop := withEngine(iii.WithCallRetry(iii.RetryPolicy{
		MaxAttempts:  20,
		InitialDelay: 100 * time.Millisecond,
		MaxDelay:     time.Second,
		Codes:        []string{iii.CodeFunctionNotFound}, // briefly, no worker serves the function
	}))
	defer stop()
	ctx := context.Background()

	replica := func(name string) *iii.Client {
		client, err := iii.New(engine.URL(), iii.WithName(name))
		if err != nil {
			log.Fatal(err)
		}
		_, err = iii.Handle(client, "orders::create", func(ctx context.Context, item string) (string, error) {
			return item + " ordered at " + name, nil
		})
		if err != nil {
			log.Fatal(err)
		}
		if err := client.Connect(ctx); err != nil {
			log.Fatal(err)
		}
		return client
	}
	if err := caller.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	old := replica("orders-1")
	fmt.Println(iii.Call[string](ctx, caller, "orders::create", "tea"))

	next := replica("orders-2") // the orchestrator starts the new replica first
	defer next.Close()
	fmt.Println("standby:", next.Ready() != nil)

	if err := old.Shutdown(ctx); err != nil { // then it stops the old one
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, caller, "orders::create", "cake"))
	// Output:
	// tea ordered at orders-1 <nil>
	// standby: true
	// cake ordered at orders-2 <nil>
}

// WithRetry sets a single call's retry policy, which overrides the client's.
func ExampleWithRetry() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	attempts := 0
	_, err := iii.Handle(client, "stock::count", func(ctx context.Context, item string) (int, error) {
		if attempts++; attempts < 3 {
			return 0, &iii.Error{Code: "busy", Message: "count again"}
		}
		return 7, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	n, err := iii.Call[int](ctx, client, "stock::count", "tea",
		iii.WithRetry(iii.RetryPolicy{InitialDelay: time.Millisecond, Codes: []string{"busy"}})) // safe to retry, because counting changes nothing
	fmt.Println(n, err, attempts)
	// Output: 7 <nil> 3
}

// A generated client contains hashes of the schemas that it was generated from. Its
// CheckSchemas method compares the hashes with those of the current schemas, as shown here.
func ExampleClient_CheckSchemas() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	_, err := iii.Handle(client, "orders::create", func(ctx context.Context, item string) (int, error) { return 1, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	text, err := iii.HashSchema([]byte(`{"type": "string"}`))
	if err != nil {
		log.Fatal(err)
	}
	err = client.CheckSchemas(ctx,
		iii.FunctionSchemas{FunctionID: "orders::create", Request: text, Response: text},
		iii.FunctionSchemas{FunctionID: "orders::cancel", Request: text},
	)
	var drift *iii.SchemaDriftError
	if errors.As(err, &drift) {
		for _, f := range drift.Functions {
			fmt.Println(f)
		}
	}
	// Output:
	// orders::create (response)
	// orders::cancel (not found)
}
