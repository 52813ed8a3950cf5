package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// A guarded listener calls an auth function for each worker that connects. The auth function
// is an ordinary function of a worker that connects through another listener.
func ExampleAuthResult() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "gate::auth"}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::auth", func(ctx context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		if in.Headers["authorization"] != "Bearer t0ken" {
			return iii.AuthResult{}, &iii.Error{Code: "unauthorized", Message: "unknown token"} // the worker is not admitted
		}
		result := iii.NewAuthResult() // the defaults
		result.AllowedFunctions = []string{"orders::read"}
		result.Context = json.RawMessage(`{"tenant":"acme"}`) // for the other hooks
		return result, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"orders::read", "orders::delete"} {
		_, err = iii.Handle(gate, id, func(ctx context.Context, _ any) (string, error) { return id, nil })
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	// This worker sends the token. It makes a permitted call and a forbidden one.
	member, err := iii.New(engine.GuardedURL(), iii.WithHeader(http.Header{"Authorization": {"Bearer t0ken"}}))
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, member, "orders::read", nil))
	err = member.Call(ctx, "orders::delete", nil, nil)
	fmt.Println(errors.Is(err, iii.ErrForbidden))

	// This worker sends no token.
	stranger, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer stranger.Close()
	var refused *iii.AuthError
	fmt.Println(errors.As(stranger.Connect(ctx), &refused))
	// Output:
	// orders::read <nil>
	// true
	// true
}

// Hooks accept, change or refuse the registrations of guarded workers.
func ExampleOnFunctionRegistrationResult() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{
		OnFunction: "gate::on-function",
		Expose:     []string{"tenant::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::on-function", func(ctx context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
		if strings.HasPrefix(in.FunctionID, "admin::") {
			return iii.OnFunctionRegistrationResult{}, errors.New("not for tenants") // refused; the engine does not notify the worker
		}
		return iii.OnFunctionRegistrationResult{FunctionID: "tenant::" + in.FunctionID}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	for _, id := range []string{"greet", "admin::stop"} {
		_, err := member.HandleFunc(id, func(ctx context.Context, payload json.RawMessage) (any, error) { return id, nil })
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	functions, err := gate.Functions(ctx, iii.FunctionFilter{Workers: []string{member.Name()}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range functions {
		fmt.Println(f.FunctionID)
	}
	// Output: tenant::greet
}

// Engines with triggers have hooks for these, too.
func ExampleOnTriggerRegistrationResult() {
	engine, err := iiitest.New(iiitest.WithProtocol(iiitest.Protocol025), iiitest.WithGuard(iiitest.Guard{
		OnTrigger: "gate::on-trigger",
		Expose:    []string{"tenant::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::on-trigger", func(ctx context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
		return iii.OnTriggerRegistrationResult{FunctionID: "tenant::" + in.FunctionID}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if _, err := member.Trigger("greet", iii.SubscribeTriggerConfig{Topic: "visitors"}); err != nil {
		log.Fatal(err)
	}
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	triggers, err := gate.Triggers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(triggers[0].FunctionID)
	// Output: tenant::greet
}

// The middleware of a guarded listener receives every permitted call and decides whether
// to forward it.
func ExampleMiddlewareInput() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{
		MiddlewareFunctionID: "gate::audit",
		Expose:               []string{"math::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::audit", func(ctx context.Context, in iii.MiddlewareInput) (json.RawMessage, error) {
		fmt.Println("audit:", in.FunctionID)
		return iii.Call[json.RawMessage](ctx, gate, in.FunctionID, in.Payload, iii.InNamespace(in.Namespace))
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(gate, "math::add", func(ctx context.Context, in Sum) (int, error) { return in.A + in.B, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[int](ctx, member, "math::add", Sum{A: 2, B: 3}))
	// Output:
	// audit: math::add
	// 5 <nil>
}

// A web server serves an HTTP-invoked function to the engine and rejects all other requests.
func ExampleVerifySignature() {
	secret := "the value of the engine's variable" // the variable that HTTPAuthHMAC names
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = iii.VerifySignature(r, body, secret, 5*time.Minute)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(body)
	})

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/charge", strings.NewReader(`{"cents":350}`)))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 401 iii: request is not signed by the engine: X-Iii-Signature is missing
}
