package iiitest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// A worker and an engine in one program.
func Example() {
	ctx := context.Background()
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
	type person struct{ Name string }
	_, err = iii.Handle(worker, "greet", func(_ context.Context, p person) (string, error) {
		return "Hello, " + p.Name + "!", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	greeting, err := iii.Call[string](ctx, worker, "greet", person{"Ada"})
	fmt.Println(greeting, err)

	for _, f := range engine.Frames() {
		if f.Type() == "invocationresult" && f.Direction == iiitest.ToEngine {
			fmt.Println(f.WorkerName, "answered")
		}
	}
	// Output:
	// Hello, Ada! <nil>
	// greeter answered
}

// A named queue with settings of its own: one job at a time, two attempts.
func ExampleWithQueue() {
	engine, err := iiitest.New(iiitest.WithQueue("mails", iiitest.QueueConfig{Concurrency: 1, MaxRetries: 2}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	worker, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	sent := make(chan string)
	_, err = iii.Handle(worker, "mail::send", func(_ context.Context, to string) (any, error) {
		sent <- to
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := worker.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := worker.Enqueue(ctx, "mails", "mail::send", "you@example.org"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-sent)
	// Output: you@example.org
}
