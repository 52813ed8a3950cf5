package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/iii-go/iii"
)

type charge struct {
	Card   string `json:"card"`
	Amount int    `json:"amount"`
}

type receipt struct {
	Number int `json:"number"`
}

// The target runs after each call of the source that the filter lets through.
func ExampleClient_Observe() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	if _, err := iii.Handle(client, "cards::charge", func(ctx context.Context, c charge) (receipt, error) {
		return receipt{Number: 17}, nil
	}); err != nil {
		log.Fatal(err)
	}
	seen := make(chan iii.Observed[charge, receipt], 1)
	if _, err := iii.Handle(client, "fraud::check", func(ctx context.Context, o iii.Observed[charge, receipt]) (any, error) {
		seen <- o
		return nil, nil
	}); err != nil {
		log.Fatal(err)
	}
	observer, err := client.Observe(iii.Source{
		FunctionID: "cards::charge",
		Filters:    map[string]any{"input.amount": map[string]any{"$gte": 500}},
	}, "fraud::check")
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := observer.Ready(ctx); err != nil {
		log.Fatal(err)
	}

	for _, amount := range []int{20, 900} {
		if _, err := iii.Call[receipt](ctx, client, "cards::charge", charge{Card: "1234", Amount: amount}); err != nil {
			log.Fatal(err)
		}
	}
	o := <-seen
	fmt.Println(o.FunctionID, o.Status, o.Input.Amount, "receipt", o.Output.Number)

	if err := observer.Dispose(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(observer.State())
	// Output:
	// cards::charge success 900 receipt 17
	// disposed
}

// The engine disposes of an observer after its last activation.
func ExampleWithMaxFires() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	if _, err := iii.Handle(client, "cards::charge", func(ctx context.Context, c charge) (receipt, error) {
		return receipt{}, errors.New("the card has expired")
	}); err != nil {
		log.Fatal(err)
	}
	first := make(chan string, 1)
	if _, err := iii.Handle(client, "alerts::first", func(ctx context.Context, o iii.Observed[charge, receipt]) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		first <- fmt.Sprintf("%s: %s, metadata %s, depth %d", o.Status, o.Error.Message, inv.Metadata, inv.ObserveDepth)
		return nil, nil
	}); err != nil {
		log.Fatal(err)
	}
	disposed := make(chan error, 1)
	observer, err := client.Observe(
		iii.Source{FunctionID: "cards::charge", On: iii.ObserveOnError, Capture: []iii.Capture{iii.CaptureError}},
		"alerts::first",
		iii.WithMaxFires(1),
		iii.WithExpiry(time.Hour),
		iii.WithMaxInFlight(1),
		iii.WithObserverMetadata("card"),
		iii.WithObserverStateListener(func(state iii.ObserverState, err error) {
			if state == iii.ObserverStateDisposed {
				disposed <- err
			}
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(client.Connect(ctx), observer.Ready(ctx)); err != nil {
		log.Fatal(err)
	}

	_ = client.Call(ctx, "cards::charge", charge{}, nil)
	fmt.Println(<-first)
	fmt.Println(<-disposed)
	fmt.Println(observer.State(), "after", observer.Fires(), "activation; warnings:", observer.Warnings())
	// Output:
	// error: the card has expired, metadata "card", depth 1
	// iii: MAX_FIRES: the observer has been activated 1 times
	// disposed after 1 activation; warnings: []
}

// An engine without observers is no reason to give up: the observer recovers on a later one.
func ExampleClient_Features() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	options := []iii.ObserveOption{iii.WithObserverID("shop/big-charges"), iii.WithTargetNamespace("default")}
	observer, err := client.Observe(iii.Source{FunctionID: "cards::charge"}, "fraud::check", options...)
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Features())
	if errors.Is(observer.Err(), errors.ErrUnsupported) {
		fmt.Println("upgrade the engine to 0.25 or later")
	}
	fmt.Println(observer.ID(), "is", observer.State(), "until there are source and target")
	// Output:
	// [observe.v1 observe.v2 local-dispatch.v1]
	// shop/big-charges is pending until there are source and target
}
