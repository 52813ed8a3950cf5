// Worker is the shortest worker program: one function, served until the program is
// interrupted. The engine is the one at $III_URL, or the one on this machine.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	"github.com/iii-go/iii"
)

type Person struct {
	Name string `json:"name"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	client, err := iii.New("") // $III_URL, else ws://127.0.0.1:49134
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "greetings::hello", func(ctx context.Context, p Person) (string, error) {
		return "Hello, " + p.Name, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Run(ctx); err != nil { // serves until ctx ends, then drains
		log.Fatal(err)
	}
}
