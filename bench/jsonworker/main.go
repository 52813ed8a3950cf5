// Command jsonworker is a variant of bench/loadworker that serves bench::echo with
// goccy/go-json. It is a separate module, so the root module does not depend on that library.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/goccy/go-json"

	"github.com/iii-go/iii"
)

// codec encodes and decodes with github.com/goccy/go-json.
type codec struct{}

func (codec) Marshal(v any) ([]byte, error)   { return json.Marshal(v) }
func (codec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

type order struct {
	User   string   `json:"user"`
	Amount int      `json:"amount"`
	Note   string   `json:"note"`
	Tags   []string `json:"tags"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	c, err := iii.New("", iii.WithJSON(codec{}))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := iii.Handle(c, "bench::echo", func(_ context.Context, in order) (order, error) { return in, nil }); err != nil {
		return err
	}
	return c.Run(ctx)
}
