package iii_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/iii-go/iii"
)

// serveHello stands in for two other programs: an engine, and a worker that serves
// greetings::hello. It sets $III_URL to the engine's address. Calling stop shuts both down.
func serveHello() (stop func()) {
	engine, worker, end := withEngine()
	_, err := iii.Handle(worker, "greetings::hello", func(ctx context.Context, p struct{ Name string }) (string, error) {
		return "Hello, " + p.Name, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	before, was := os.LookupEnv("III_URL")
	if err := os.Setenv("III_URL", engine.URL()); err != nil {
		log.Fatal(err)
	}
	return func() {
		end()
		if !was {
			err = os.Unsetenv("III_URL")
		} else {
			err = os.Setenv("III_URL", before)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// A program that only makes calls needs no worker loop: it connects, calls and exits.
func Example_caller() {
	stop := serveHello() // in practice, separate programs
	defer stop()

	client, err := iii.New("") // $III_URL, else ws://127.0.0.1:49134
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	text, err := iii.Call[string](ctx, client, "greetings::hello", map[string]string{"name": "Ada"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
	// Output: Hello, Ada
}
