package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// A worker that offers an event: observers say with arguments what they want to hear of, and
// each call of the function is one event.
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
	if onTurn.IsObserved() { // else nobody wants to know
		if err := client.Send(context.Background(), "tides::on-turn", Turn{"Brest", true}); err != nil {
			log.Print(err)
		}
	}
}

// With keys, a call costs one lookup however many observers there are.
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

// A Deliver hook hands the call out itself and answers with what an observer says, as a web
// server does.
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

// Each new observer of any function of the worker is logged, and gets a first call of its own.
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

// A worker's calls of its own functions run in process where the engine allows it.
func ExampleRemotely() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	f, err := iii.Handle(client, "shop::quote", func(_ context.Context, n int) (int, error) { return 350 * n, nil })
	if err != nil {
		log.Fatal(err)
	}
	// The engine is asked about each of these calls, and this function takes no observers.
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

// passOn is a handler that returns what it is given.
func passOn(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }
