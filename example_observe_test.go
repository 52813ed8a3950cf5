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

type charge struct {
	Card   string `json:"card"`
	Amount int    `json:"amount"`
}

type receipt struct {
	Number int `json:"number"`
}

// After each call to the source, the engine runs the target if the call matches the filter.
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

// After the given number of activations, the engine disposes of the observer.
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

// If the engine does not support observers, the program keeps running. The observer is
// registered once the client connects to an engine that does.
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

// A worker exposes events as a function: each call to the function is an event. Observers pass
// arguments that select the events they receive.
func ExampleWithObserverHooks() {
	client, err := iii.New("")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()

	type Args struct {
		Harbour string `json:"harbour"`
	}
	type Turn struct {
		Harbour string `json:"harbour"`
		High    bool   `json:"high"`
	}
	onTurn, err := iii.Handle(client, "tides::on-turn", func(_ context.Context, t Turn) (Turn, error) { return t, nil },
		iii.WithArgs[Args](), iii.WithPrivate(),
		iii.WithObserverHooks(iii.ObserverHooks{
			Added: func(_ context.Context, o *iii.FunctionObserver) error {
				var args Args
				if err := o.DecodeArgs(&args); err != nil {
					return err
				}
				if args.Harbour == "" {
					return &iii.Error{Code: "HARBOUR_UNKNOWN", Message: "no tide table for this harbour"}
				}
				return nil
			},
			Match: func(o *iii.FunctionObserver, call *iii.ObservedCall) bool {
				var args Args
				return o.DecodeArgs(&args) == nil && string(call.Input) != "null"
			},
		}))
	if err != nil {
		log.Fatal(err)
	}

	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	if errors.Is(onTurn.Err(), errors.ErrUnsupported) {
		log.Print("the engine has no observers of this kind, only ", client.Features())
	}
	if onTurn.IsObserved() { // otherwise, no worker needs the event
		if err := client.Send(context.Background(), "tides::on-turn", Turn{"Brest", true}); err != nil {
			log.Print(err)
		}
	}
}

// With keys, matching a call takes a single lookup, regardless of the number of observers.
func ExampleObserverKeys() {
	client, err := iii.New("")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()

	harbour := func(raw []byte) []string { return []string{string(raw)} }
	onTurn, err := client.HandleFunc("tides::on-turn", passOn, iii.WithArgsSchema(map[string]any{"type": "object"}),
		iii.WithObserverHooks(iii.ObserverHooks{Keys: &iii.ObserverKeys{
			Observer: func(o *iii.FunctionObserver) []string { return harbour(o.Args()) },
			Call:     func(call *iii.ObservedCall) []string { return harbour(call.Input) },
		}}))
	if err != nil {
		log.Fatal(err)
	}
	if onTurn.IsObservedFor(&iii.ObservedCall{Input: []byte(`{"harbour":"Brest"}`)}) {
		fmt.Println("somebody waits for the tide at Brest")
	}
}

// A Deliver hook calls observers itself. This one works like a request router: it returns the
// result of the first observer that matches.
func ExampleFunctionObserver_Call() {
	client, err := iii.New("")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()

	_, err = client.HandleFunc("pages::on-visit", passOn, iii.WithObserverHooks(iii.ObserverHooks{
		Deliver: func(ctx context.Context, call *iii.ObservedCall, observers []*iii.FunctionObserver) (any, error) {
			if err := call.Err(); err != nil {
				return nil, err
			}
			for _, o := range observers {
				if !o.Active() || !o.Matches(call) {
					continue
				}
				var page any
				err := o.Call(ctx, call.Input, &page)
				return page, err
			}
			return nil, &iii.Error{Code: "not_found", Message: "nobody serves this page"}
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
}

// These hooks log every new observer of any of the worker's functions and send a welcome
// message to its target.
func ExampleWithWorkerObserverHooks() {
	client, err := iii.New("", iii.WithWorkerObserverHooks(iii.ObserverHooks{
		Added: func(_ context.Context, o *iii.FunctionObserver) error {
			log.Printf("%s observes %s with %s", o.ID, o.FunctionID, o.Filters())
			go func() {
				ctx := context.Background()
				if err := o.Accepted(ctx); err != nil {
					return
				}
				if err := o.Send(ctx, "welcome"); err != nil {
					o.Reject(&iii.Error{Code: "UNREACHABLE", Message: "the target cannot be called"})
				}
			}()
			return nil
		},
		Removed: func(_ context.Context, o *iii.FunctionObserver) {
			log.Printf("%s observes %s no more", o.ID, o.FunctionID)
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()

	f, err := client.HandleFunc("invoices::issue", passOn)
	if err != nil {
		log.Fatal(err)
	}
	for _, o := range f.Observers() {
		fmt.Println(o.ID, o.Target)
	}
}

// When a worker calls its own functions, the calls run in process if the engine allows it.
// Remotely sends a call through the engine.
func ExampleRemotely() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	f, err := iii.Handle(client, "shop::quote", func(_ context.Context, n int) (int, error) { return 350 * n, nil })
	if err != nil {
		log.Fatal(err)
	}
	// Calls to this function always go through the engine, and no worker can observe it.
	if _, err := client.HandleFunc("shop::audit", passOn, iii.WithoutLocalDispatch(), iii.WithoutObservers()); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	cents, err := iii.Call[int](ctx, client, "shop::quote", 2)
	fmt.Println(cents, err)
	local := client.Stats().LocalCalls
	cents, err = iii.Call[int](ctx, client, "shop::quote", 2, iii.Remotely())
	fmt.Println(cents, err, client.Stats().LocalCalls == local)
	fmt.Println((local > 0) == f.LocalDispatch())
	// Output:
	// 700 <nil>
	// 700 <nil> true
	// true
}

func passOn(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }

// A filter is either JSON text or a value that marshals to JSON.
func ExampleParseFilter() {
	f, err := iii.ParseFilter(map[string]any{
		"input.amount": map[string]any{"$gte": 100},
		"input.tags":   map[string]any{"$any": map[string]any{"$prefix": "vip"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Matches(iii.FilterDocument{Input: json.RawMessage(`{"amount": 120, "tags": ["new", "vip-gold"]}`)}))
	fmt.Println(f.Matches(iii.FilterDocument{Input: json.RawMessage(`{"amount": 120}`)}))
	fmt.Println(f)
	// Output:
	// true
	// false
	// {"$and":[{"input.amount":{"$gte":100}},{"input.tags":{"$any":{"$prefix":"vip"}}}]}
}

// A literal value is not a valid condition. Equality is expressed with $eq.
func ExampleFilterError() {
	_, err := iii.ParseFilter(`{"input.city": "Rome"}`)
	if e, ok := errors.AsType[*iii.FilterError](err); ok {
		fmt.Println(e.Code, e.Path)
	}
	fmt.Println(err)
	// Output:
	// INVALID_FILTER input.city
	// iii: INVALID_FILTER: `input.city`: expected an operator object such as {"$eq": ...}; literal values are not allowed
}

// Checking a filter against the function's schemas reveals a misspelled path.
func ExampleFilter_CheckSchemas() {
	request := json.RawMessage(`{
		"type": "object",
		"properties": {"city": {"type": "string"}, "extra": {"type": "object"}},
		"additionalProperties": false
	}`)
	f, err := iii.ParseFilter(`{"input.city": {"$eq": "Rome"}, "input.extra.gift": {"$exists": true}}`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.CheckSchemas(request, nil))

	f, err = iii.ParseFilter(`{"input.ctiy": {"$eq": "Rome"}}`)
	if err != nil {
		log.Fatal(err)
	}
	_, err = f.CheckSchemas(request, nil)
	fmt.Println(err)
	// Output:
	// [input.extra.gift: request_format is open at input.extra; path not verified] <nil>
	// iii: INVALID_FILTER_PATH: input.ctiy is not in request_format
}
