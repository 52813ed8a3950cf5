package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/iii-go/iii"
)

// Probes of an orchestrator, on an internal port.
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

// Ready returns the reasons why a worker is not ready.
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

// A rolling update: the new replica is a standby until the old one has drained. A caller that
// repeats its calls while nobody serves the function sees no failure.
func ExampleWithCallRetry() {
	engine, caller, stop := withEngine(iii.WithCallRetry(iii.RetryPolicy{
		MaxAttempts:  20,
		InitialDelay: 100 * time.Millisecond,
		MaxDelay:     time.Second,
		Codes:        []string{iii.CodeFunctionNotFound}, // nobody serves it for a moment
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

	next := replica("orders-2") // what an orchestrator starts first
	defer next.Close()
	fmt.Println("standby:", next.Ready() != nil)

	if err := old.Shutdown(ctx); err != nil { // what it does next, by a signal
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, caller, "orders::create", "cake"))
	// Output:
	// tea ordered at orders-1 <nil>
	// standby: true
	// cake ordered at orders-2 <nil>
}

// One call is repeated, whatever the client's policy is.
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
		iii.WithRetry(iii.RetryPolicy{InitialDelay: time.Millisecond, Codes: []string{"busy"}})) // counting has no effects
	fmt.Println(n, err, attempts)
	// Output: 7 <nil> 3
}
