package iii_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type Sum struct {
	A int `json:"a"`
	B int `json:"b"`
}

// One worker serves a function and another one calls it.
func Example() {
	ctx := context.Background()
	engine, err := iiitest.New() // or an engine that runs elsewhere
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

// onEngine starts an engine and a worker on it, and lets the worker register
// something before it connects.
func onEngine(register func(c *iii.Client) error) (e *iiitest.Engine, c *iii.Client, closeBoth func()) {
	e, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	if c, err = iii.New(e.URL()); err != nil {
		log.Fatal(err)
	}
	if err := register(c); err != nil {
		log.Fatal(err)
	}
	if err := c.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	return e, c, func() { _ = c.Close(); _ = e.Close() }
}

// A handler chooses the code of its error, and its caller finds it.
func ExampleError() {
	_, client, closeBoth := onEngine(func(c *iii.Client) error {
		_, err := iii.Handle(c, "stock::take", func(ctx context.Context, item string) (int, error) {
			return 0, &iii.Error{Code: "out_of_stock", Message: "no " + item + " is left"}
		})
		return err
	})
	defer closeBoth()

	_, err := iii.Call[int](context.Background(), client, "stock::take", "tea")
	var refusal *iii.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code+":", refusal.Message)
	}

	_, err = iii.Call[int](context.Background(), client, "stock::give", "tea")
	fmt.Println("not found:", errors.Is(err, iii.ErrFunctionNotFound))
	// Output:
	// out_of_stock: no tea is left
	// not found: true
}

// A route of the engine's HTTP server.
func ExampleHandleHTTP() {
	engine, _, closeBoth := onEngine(func(c *iii.Client) error {
		_, err := iii.HandleHTTP(c, "GET", "/hello/:name",
			func(ctx context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
				return &iii.HTTPResponse[string]{
					StatusCode: http.StatusOK,
					Headers:    map[string]string{"content-type": "text/plain"},
					Body:       "Hello, " + r.PathParams["name"] + "\n",
				}, nil
			})
		return err
	})
	defer closeBoth()

	resp, err := http.Get(engine.HTTPURL() + "/hello/Ada")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(resp.StatusCode, " ", string(body))
	// Output: 200 Hello, Ada
}

// A function that runs whenever something in a scope of the state store changes.
func ExampleClient_Trigger() {
	scope := "carts"
	events := make(chan iii.StateEvent, 1)
	_, client, closeBoth := onEngine(func(c *iii.Client) error {
		_, err := iii.Handle(c, "carts::changed", func(ctx context.Context, e iii.StateEvent) (any, error) {
			events <- e
			return nil, nil
		})
		if err != nil {
			return err
		}
		_, err = c.Trigger("carts::changed", iii.StateTriggerConfig{Scope: &scope})
		return err
	})
	defer closeBoth()

	result, err := iii.Call[iii.StateUpdateResult](context.Background(), client, "state::update", iii.StateUpdateInput{
		Scope: scope,
		Key:   "ada",
		Ops:   []iii.UpdateOp{iii.OpSet("paid", false), iii.OpIncrement("total", 350)},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("updated: %s\n", result.NewValue)

	e := <-events
	fmt.Printf("%s: %s of %s is %s\n", e.EventType, e.Key, e.Scope, e.NewValue)
	// Output:
	// updated: {"paid":false,"total":350}
	// state:created: ada of carts is {"paid":false,"total":350}
}
