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
