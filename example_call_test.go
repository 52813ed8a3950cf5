package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/iii-go/iii"
)

// The engine's own functions are called like functions of workers. The package has types
// for their inputs and results.
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

// How to handle an error depends on whether the function may have run.
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
	case errors.As(err, &refusal): // the function or the engine failed the call
		fmt.Println(refusal.Code)
	case iii.SafeToRetry(err): // it has not run
	default: // it may have run
	}
	// Output: sold_out
}

// The call decodes its result into an existing value. It has its own timeout and addresses
// another namespace.
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

// Send does not wait for an answer, so it does not report whether the function exists.
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
	if err := client.Send(ctx, "visits::count", "/tea"); err != nil { // waits in the buffer
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-pages)
	// Output: /tea
}

// Enqueue adds a job to a queue; the receipt confirms that the queue has it.
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

// A handler chooses the code of its error, and the caller receives the code.
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

// A request that is guaranteed not to have reached the engine can be retried safely.
func ExampleSafeToRetry() {
	engine, client, stop := withEngine(iii.WithName("buyer"))
	defer stop()
	ctx := context.Background()

	// The request was not sent: there was no connection in time.
	err := client.Call(ctx, "shop::buy", "tea", nil, iii.WithTimeout(time.Millisecond))
	fmt.Println(errors.Is(err, iii.ErrTimeout), iii.SafeToRetry(err))

	// The request was sent and the connection broke before the answer: the order may have
	// been placed.
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
	err = client.Call(ctx, "shop::buy", "tea", nil, iii.Remotely()) // in process it would need no connection
	fmt.Println(errors.Is(err, iii.ErrConnectionLost), iii.SafeToRetry(err))
	// Output:
	// true true
	// true false
}
