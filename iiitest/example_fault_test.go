package iiitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// The hook runs after a worker's functions have been removed and before its triggers are.
func ExampleEngine_HookCleanup() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	cleaning := make(chan string)
	engine.HookCleanup(func(workerID string) { cleaning <- workerID })
	id := worker.WorkerID()
	worker.Close()
	fmt.Println("cleaning up behind the worker:", <-cleaning == id)
	engine.HookCleanup(nil)
	// Output: cleaning up behind the worker: true
}

// SetProtocol and Drop together simulate an engine upgrade: workers reconnect with the new
// protocol.
func ExampleEngine_SetProtocol() {
	var old iiitest.Protocol
	if err := old.UnmarshalText([]byte("0.23")); err != nil { // or iiitest.Protocol023
		log.Fatal(err)
	}
	engine, err := iiitest.New(iiitest.WithProtocol(old))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	back := make(chan bool, 10)
	worker, err := iii.New(engine.URL(),
		iii.WithName("greeter"),
		iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1}),
		iii.WithStateListener(func(s iii.ConnectionState, _ error) {
			if s == iii.ConnectionStateConnected {
				back <- true
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	if err := worker.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	<-back
	fmt.Println(engine.Protocol(), worker.Features())

	if err := engine.SetProtocol(iiitest.Protocol026); err != nil {
		log.Fatal(err)
	}
	engine.Drop("greeter")
	<-back
	fmt.Println(engine.Protocol(), worker.Features())
	// Output:
	// 0.23 []
	// 0.26 [observe.v1 observe.v2 local-dispatch.v1]
}

// Drop simulates a broken network by cutting one worker's connection.
func ExampleEngine_Drop() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	back := make(chan bool, 10)
	worker, err := iii.New(engine.URL(),
		iii.WithName("greeter"),
		iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1}),
		iii.WithStateListener(func(s iii.ConnectionState, _ error) {
			if s == iii.ConnectionStateConnected {
				back <- true
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	_, err = iii.Handle(worker, "greet", func(context.Context, any) (string, error) { return "hello", nil })
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	<-back

	engine.Drop("greeter")
	<-back
	fmt.Println(iii.Call[string](ctx, worker, "greet", nil, iii.Remotely()))
	fmt.Println("reconnections:", worker.Stats().Reconnects)
	// Output:
	// hello <nil>
	// reconnections: 1
}

// A hook decides what happens to each message. This one drops the worker's first result and
// cuts the worker's connection.
func ExampleEngine_Hook() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	var lost sync.Once
	engine.Hook(func(f iiitest.Frame) (v iiitest.Verdict) {
		if f.Direction == iiitest.ToEngine && f.Type() == "invocationresult" {
			lost.Do(func() { v = iiitest.Verdict{Drop: true, Cut: true} })
		}
		return v
	})

	worker, err := iii.New(engine.URL(), iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1}))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	_, err = iii.Handle(worker, "greet", func(context.Context, any) (string, error) { return "hello", nil })
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = iii.Call[string](ctx, worker, "greet", nil, iii.Remotely())
	fmt.Println(errors.Is(err, iii.ErrConnectionLost), iii.SafeToRetry(err))
	fmt.Println(iii.Call[string](ctx, worker, "greet", nil, iii.Remotely()))
	// Output:
	// true false
	// hello <nil>
}

// StopReading simulates an engine that hangs.
func ExampleEngine_StopReading() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	_, err = iii.Handle(worker, "greet", func(context.Context, any) (string, error) { return "hello", nil })
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	engine.StopReading("greeter")
	_, err = iii.Call[string](ctx, worker, "greet", nil, iii.Remotely(), iii.WithTimeout(10*time.Millisecond))
	fmt.Println(errors.Is(err, iii.ErrTimeout))
	engine.ResumeReading("greeter")
	fmt.Println(iii.Call[string](ctx, worker, "greet", nil, iii.Remotely()))
	// Output:
	// true
	// hello <nil>
}

// Send can send messages that no current engine sends, to test that workers tolerate them.
func ExampleEngine_Send() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	worker, err := iii.New(engine.URL(), iii.WithName("greeter"))
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	_, err = iii.Handle(worker, "greet", func(context.Context, any) (string, error) { return "hello", nil })
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	engine.Send("greeter", json.RawMessage(`{"type":"of the future"}`))
	engine.Send("greeter", json.RawMessage(`{"type":`))
	fmt.Println(iii.Call[string](ctx, worker, "greet", nil, iii.Remotely()))
	fmt.Println("malformed:", worker.Stats().FramesMalformed)
	// Output:
	// hello <nil>
	// malformed: 2
}

// RefuseAuth simulates an engine that rejects every worker.
func ExampleEngine_RefuseAuth() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	engine.RefuseAuth("the token has expired")

	worker, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	var refused *iii.AuthError
	if err := worker.Connect(context.Background()); errors.As(err, &refused) {
		fmt.Println(refused.Message)
	}
	// Output: the token has expired
}
