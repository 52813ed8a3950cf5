// Worker is the smallest useful worker. It serves one function until it is interrupted, on the
// engine at $III_URL or, if that is unset, at ws://127.0.0.1:49134.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/iii-go/iii"
)

type Person struct {
	Name string `json:"name"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately

	client, err := iii.New("", iii.WithLogger(slog.Default())) // $III_URL, else ws://127.0.0.1:49134
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "greetings::hello", func(ctx context.Context, p Person) (string, error) {
		return "Hello, " + p.Name, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Run(ctx); err != nil { // serves until ctx is done, then shuts down gracefully
		log.Fatal(err)
	}
}
