package iii_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
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
	engine, err := iiitest.New() // in production, a separate engine
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

// withEngine starts a development engine and makes a client for it. The client is not
// connected yet; stop ends both. A real program only makes the client, with New.
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

// A worker in production sets a name, a namespace, credentials and a logger. New sends
// nothing yet.
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

// This client sets its limits to their defaults. New rejects invalid values.
func ExampleNew_limits() {
	limits := []iii.Option{
		iii.WithSendPolicy(iii.SendFail),                      // ErrBufferFull beyond the send buffer; SendWait waits for room
		iii.WithMaxConcurrency(1000),                          // handlers at once
		iii.WithSendBuffer(32_768, 8<<20),                     // messages and bytes that wait for a connection
		iii.WithReadLimit(64 << 20),                           // bytes of one received message
		iii.WithKeepalive(20*time.Second, 60*time.Second),     // ping, and when a silent engine is given up
		iii.WithReconnection(iii.DefaultReconnectionConfig()), // 1 s, doubled up to 30 s, unlimited attempts
		iii.WithHTTPWriteTimeout(30 * time.Second),            // without progress, of a streamed response
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

// Connect returns nil if the engine accepts the worker, and the refusal otherwise.
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

// With WithWaitForName a worker waits for the previous instance with its name to end, as in
// a rolling update.
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

// During a rolling update the next instance starts while the old one still serves. The engine
// refuses its functions, and the client takes them over when the old instance ends.
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

// The main loop of a worker program ends with its context, by a graceful shutdown: running
// handlers finish and their results are delivered.
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

// Graceful shutdown lets running handlers finish. Stopping signals its start to long-running
// handlers.
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

// Every message of Send is accounted for.
func ExampleClient_Stats() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	for n := range 3 { // not connected: the messages wait
		if err := client.Send(ctx, "metrics::count", n); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("buffered:", client.Stats().Buffered)
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := client.Shutdown(ctx); err != nil { // waits until the engine has read the messages
		log.Fatal(err)
	}
	s := client.Stats()
	fmt.Println("confirmed:", s.SendsConfirmed, "unknown:", s.SendsUnknown, "dropped:", s.SendsDropped)
	// Output:
	// buffered: 3
	// confirmed: 3 unknown: 0 dropped: 0
}

// A worker reconnects automatically when its connection breaks. WithDialContext controls how
// connections are made, here in memory.
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

// An engine with access control admits workers with the right header.
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
