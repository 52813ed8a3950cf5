package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// A typed function takes and returns Go values. The client advertises JSON Schemas for their
// types to the engine.
func ExampleHandle() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Order struct {
		Item     string `json:"item"`
		Quantity int    `json:"quantity,omitempty"`
	}
	type Quote struct {
		Cents int `json:"cents"`
	}
	_, err := iii.Handle(client, "shop::quote", func(ctx context.Context, o Order) (Quote, error) {
		if o.Item != "tea" {
			return Quote{}, &iii.Error{Code: "unknown_item", Message: "there is no " + o.Item}
		}
		return Quote{Cents: 350 * max(o.Quantity, 1)}, nil
	}, iii.WithFunctionDescription("What an order costs"))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	quote, err := iii.Call[Quote](ctx, client, "shop::quote", Order{Item: "tea", Quantity: 3})
	fmt.Println(quote.Cents, err)
	_, err = iii.Call[Quote](ctx, client, "shop::quote", Order{Item: "coffee"})
	fmt.Println(err)
	_, err = iii.Call[Quote](ctx, client, "shop::quote", map[string]any{"item": "tea", "quantity": "three"})
	fmt.Println(err)

	info, err := client.FunctionInfo(ctx, "shop::quote")
	fmt.Println(string(info.RequestSchema), err)
	// Output:
	// 1050 <nil>
	// iii: shop::quote: unknown_item: there is no coffee
	// iii: shop::quote: invalid_request: payload at quantity: got string, want integer (int)
	// {"properties":{"item":{"type":"string"},"quantity":{"type":"integer"}},"required":["item"],"type":"object"} <nil>
}

// Suit is a string type with two valid values.
type Suit string

// JSONSchema describes the valid values, which reflection cannot discover.
func (Suit) JSONSchema() json.RawMessage {
	return json.RawMessage(`{"type":"string","enum":["hearts","spades"]}`)
}

// A type that has a JSONSchema method supplies its own schema.
func ExampleHandle_jsonSchema() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	// Suit has the method:
	// func (Suit) JSONSchema() json.RawMessage {
	// 	return json.RawMessage(`{"type":"string","enum":["hearts","spades"]}`)
	// }
	_, err := iii.Handle(client, "cards::draw", func(ctx context.Context, s Suit) (*Suit, error) {
		return &s, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := client.FunctionInfo(ctx, "cards::draw")
	fmt.Println(string(info.RequestSchema), err)
	fmt.Println(string(info.ResponseSchema))
	// Output:
	// {"enum":["hearts","spades"],"type":"string"} <nil>
	// {"anyOf":[{"enum":["hearts","spades"],"type":"string"},{"type":"null"}]}
}

// An untyped function receives raw JSON and can declare its schemas explicitly.
func ExampleClient_HandleFunc() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := client.HandleFunc("text::size", func(ctx context.Context, payload json.RawMessage) (any, error) {
		return map[string]int{"bytes": len(payload)}, nil
	},
		iii.WithSchemas(nil, json.RawMessage(`{"type":"object","properties":{"bytes":{"type":"integer"}}}`)),
		iii.WithFunctionMetadata(map[string]any{"team": "text"}))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	var result json.RawMessage
	if err := client.Call(ctx, "text::size", []int{1, 2, 3}, &result); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(result))
	// Output: {"bytes":7}
}

// A handler finds its caller and the call's metadata in its context.
func ExampleInvocationFromContext() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "orders::create", func(ctx context.Context, order map[string]any) (string, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		return fmt.Sprintf("%s for %s, called by this worker: %t", inv.FunctionID, inv.Metadata, inv.CallerWorkerID == client.WorkerID()), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, client, "orders::create", map[string]any{"item": "tea"}, iii.WithMetadata("acme")))
	// Output: orders::create for "acme", called by this worker: true <nil>
}

// exactNumbers is a JSONCodec that decodes numbers into json.Number, which keeps every digit.
type exactNumbers struct{}

func (exactNumbers) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (exactNumbers) Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// WithJSON replaces the JSON library that encodes and decodes the program's values.
func ExampleWithJSON() {
	_, client, stop := withEngine(iii.WithJSON(exactNumbers{}))
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "ids::same", func(_ context.Context, id any) (any, error) { return id, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[any](ctx, client, "ids::same", 9007199254740993))
	// Output: 9007199254740993 <nil>
}

// Middleware wraps every handler of the client. The first middleware is outermost.
func ExampleWithMiddleware() {
	onlyTenants := func(next iii.HandlerFunc) iii.HandlerFunc {
		return func(ctx context.Context, payload json.RawMessage) (any, error) {
			if inv, _ := iii.InvocationFromContext(ctx); inv.Metadata == nil {
				return nil, &iii.Error{Code: "no_tenant", Message: "say whom you work for"}
			}
			return next(ctx, payload)
		}
	}
	_, client, stop := withEngine(iii.WithMiddleware(onlyTenants))
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "orders::count", func(context.Context, any) (int, error) { return 7, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[int](ctx, client, "orders::count", nil)
	fmt.Println(err)
	fmt.Println(iii.Call[int](ctx, client, "orders::count", nil, iii.WithMetadata("acme")))
	// Output:
	// iii: orders::count: no_tenant: say whom you work for
	// 7 <nil>
}

// The engine rejects a function that another worker already serves. A worker can unregister
// its functions at any time.
func ExampleFunction() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	hello, err := iii.Handle(client, "greet", func(context.Context, any) (string, error) { return "hello", nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	twin, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer twin.Close()
	hi, err := iii.Handle(twin, "greet", func(context.Context, any) (string, error) { return "hi", nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := twin.Connect(ctx); err != nil { // succeeds even though the function is rejected
		log.Fatal(err)
	}
	var refused *iii.RejectedError
	fmt.Println(errors.As(hi.Err(), &refused), hello.Err())

	if err := hello.Unregister(); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[string](ctx, client, "greet", nil)
	fmt.Println(errors.Is(err, iii.ErrFunctionNotFound))
	// Output:
	// true <nil>
	// true
}

// To run this function, the engine sends an HTTP request to a web server. The request is
// signed with a secret from the engine's environment.
func ExampleClient_HandleHTTPInvoked() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = iii.VerifySignature(r, body, "s3cret", 5*time.Minute)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"paid":true}`))
	}))
	defer server.Close()
	engine, err := iiitest.New(iiitest.WithEnv(map[string]string{"BILLING_SECRET": "s3cret"}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	client, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()

	_, err = client.HandleHTTPInvoked("billing::charge", iii.HTTPInvocationConfig{
		URL:    server.URL + "/charge",
		Method: iii.HTTPMethodPOST,
		Auth:   &iii.HTTPAuthConfig{Auth: iii.HTTPAuthHMAC{SecretKey: "BILLING_SECRET"}}, // name of the engine's environment variable
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[map[string]bool](ctx, client, "billing::charge", map[string]int{"cents": 350}))
	// Output: map[paid:true] <nil>
}

// A panic in a handler fails only that call. The client logs the panic value and the stack.
// Callers receive them only if WithStackTraces is set.
func ExampleWithStackTraces() {
	_, client, stop := withEngine(iii.WithStackTraces())
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "stock::first", func(ctx context.Context, items []string) (string, error) {
		return items[0], nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[string](ctx, client, "stock::first", []string{})
	var failure *iii.Error
	if errors.As(err, &failure) {
		fmt.Println(failure.Message, "with a stack:", failure.Stacktrace != "")
	}
	fmt.Println(iii.Call[string](ctx, client, "stock::first", []string{"tea"}))
	// Output:
	// handler panicked: runtime error: index out of range [0] with length 0 with a stack: true
	// tea <nil>
}

// An event handler returns no result.
func ExampleHandleEvent() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Visit struct {
		Page string `json:"page"`
	}
	_, err := iii.HandleEvent(client, "visits::note", func(ctx context.Context, v Visit) error {
		fmt.Println("somebody reads", v.Page)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Call(ctx, "visits::note", Visit{Page: "/tea"}, nil))
	// Output:
	// somebody reads /tea
	// <nil>
}

// With input validation, a call whose payload does not match the advertised schema fails
// before the handler runs.
func ExampleWithInputValidation() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Line struct {
		Item  string `json:"item"`
		Price int    `json:"price"`
	}
	type Order struct {
		Lines []Line `json:"lines"`
	}
	_, err := iii.Handle(client, "orders::place", func(ctx context.Context, o Order) (int, error) {
		return len(o.Lines), nil
	}, iii.WithInputValidation())
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[int](ctx, client, "orders::place", json.RawMessage(`{"lines":[{"item":"tea","price":350}]}`)))
	fmt.Println(iii.Call[int](ctx, client, "orders::place", json.RawMessage(`{"lines":[{"item":"tea"}]}`)))
	// Output:
	// 1 <nil>
	// 0 iii: orders::place: invalid_request: payload at lines[0].price: it is missing
}

// When a handler exceeds its timeout, its context is canceled and its caller receives an
// error.
func ExampleWithHandlerTimeout() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "reports::make", func(ctx context.Context, _ any) (string, error) {
		<-ctx.Done() // a database client, for example, returns when ctx is done
		return "", ctx.Err()
	}, iii.WithHandlerTimeout(10*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[string](ctx, client, "reports::make", nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, &iii.Error{Code: iii.CodeHandlerTimeout}))
	// Output:
	// iii: reports::make: handler_timeout: the handler has not returned within 10ms
	// true
}

// A function's own middleware runs inside the client's middleware.
func ExampleWithFunctionMiddleware() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	onlyWithMetadata := func(next iii.HandlerFunc) iii.HandlerFunc {
		return func(ctx context.Context, payload json.RawMessage) (any, error) {
			if inv, _ := iii.InvocationFromContext(ctx); inv.Metadata == nil {
				return nil, &iii.Error{Code: "no_tenant", Message: "say whom you work for"}
			}
			return next(ctx, payload)
		}
	}
	_, err := iii.Handle(client, "orders::count", func(context.Context, any) (int, error) { return 7, nil },
		iii.WithFunctionMiddleware(onlyWithMetadata))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[int](ctx, client, "orders::count", nil)
	fmt.Println(err)
	// Output: iii: orders::count: no_tenant: say whom you work for
}

// A worker can replace one of the engine's own functions for all workers.
func ExampleWithBuiltinOverride() {
	_, client, stop := withEngine()
	defer stop()

	publish := func(context.Context, json.RawMessage) (any, error) { return nil, nil }
	_, err := client.HandleFunc("publish", publish)
	fmt.Println(err != nil)
	_, err = client.HandleFunc("publish", publish, iii.WithBuiltinOverride())
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}
