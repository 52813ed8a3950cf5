package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type (
	Order struct {
		Item     string `json:"item"`
		Quantity int    `json:"quantity"`
	}
	Price struct {
		Cents int `json:"cents"`
	}
)

// This worker has been ported from the official Go SDK.
func Example_moved() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	url, logger := engine.URL(), slog.New(slog.DiscardHandler)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	client, err := iii.New(url,
		iii.WithNamespace("shop"), // applies to functions, calls and triggers
		iii.WithLogger(logger))
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "orders::price", func(ctx context.Context, o Order) (Price, error) {
		if o.Item != "tea" {
			return Price{}, &iii.Error{Code: "unknown_item", Message: "there is no " + o.Item} // the caller receives the code
		}
		return Price{Cents: 350 * o.Quantity}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.HandleFunc("orders::changed", func(ctx context.Context, payload json.RawMessage) (any, error) {
		return nil, client.Send(ctx, "audit::note", payload) // also in namespace shop
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("orders::changed", iii.StateTriggerConfig{Scope: new("orders")}); err != nil {
		log.Fatal(err)
	}
	go func() {
		defer stop()
		tryShop(ctx, client)
	}()
	if err := client.Run(ctx); err != nil { // connects, serves until ctx is done, shuts down gracefully
		log.Fatal(err)
	}
	// Output:
	// {"cents":700}
	// unknown_item
	// audit: state:created
}

// tryShop calls the worker and makes a change that fires the worker's trigger.
func tryShop(ctx context.Context, client *iii.Client) {
	noted := make(chan iii.StateEventType)
	_, err := iii.Handle(client, "audit::note", func(ctx context.Context, e iii.StateEvent) (any, error) {
		noted <- e.EventType
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil { // waits until Run has connected
		log.Fatal(err)
	}
	price, err := iii.Call[json.RawMessage](ctx, client, "orders::price", map[string]any{"item": "tea", "quantity": 2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(price))
	var refusal *iii.Error
	if err := client.Call(ctx, "orders::price", map[string]string{"item": "coffee"}, nil); errors.As(err, &refusal) {
		fmt.Println(refusal.Code)
	}
	if _, err := iii.NewState[string](client, "orders").Set(ctx, "ada", "tea"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("audit:", <-noted)
}
