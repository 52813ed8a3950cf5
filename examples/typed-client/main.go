// Typed-client calls the functions of another worker with types that were generated from
// their schemas: package stockclient is the output of iiigen for the functions stock::*.
//
// The program runs two workers, the stock and a desk. The desk uses the stock only through
// the generated client: it checks the schemas, reserves products, handles an error by its
// code, and detects that a newer stock has different schemas. The program exits with status
// 0 if the outcome is as expected.
//
// If $III_URL is set, the program uses the engine at that address, in a namespace of its
// own. Otherwise it starts a development engine.
//
// In a clone of the repository, the following command regenerates the client from the stock
// that the program serves with -serve on a running engine:
//
//	go -C cmd/iiigen run . -config ../../examples/typed-client/iiigen.json -url ws://127.0.0.1:49134
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/examples/typed-client/stockclient"
	"github.com/iii-go/iii/iiitest"
)

func main() {
	serve := flag.Bool("serve", false, "serve the stock until interrupted, in the namespace \"default\"")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Stdout, *serve)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "typed-client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, serve bool) (err error) {
	url := os.Getenv("III_URL")
	if url == "" && !serve {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url = engine.URL()
	}
	// Each run has a namespace of its own, so several runs can share an engine.
	var opts []iii.Option
	if !serve {
		opts = append(opts, iii.WithNamespace("typed-client-"+strings.ToLower(rand.Text()[:6])))
	}
	s, err := newStock(url, opts...)
	if err != nil {
		return err
	}
	if serve {
		return s.client.Run(ctx)
	}
	defer func() { err = errors.Join(err, shutdown(ctx, s.client)) }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.client.Connect(ctx); err != nil {
		return err
	}

	desk, err := iii.New(url, append(opts, iii.WithName("desk"))...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, desk)) }()
	if err := desk.Connect(ctx); err != nil {
		return err
	}
	if err := order(ctx, out, stockclient.NewStock(desk)); err != nil {
		return err
	}
	return upgrade(ctx, out, s, stockclient.NewStock(desk))
}

// shutdown shuts a worker down gracefully, even if ctx has ended because of an interrupt.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}

// order reserves products until one is out of stock.
func order(ctx context.Context, out io.Writer, stock stockclient.Stock) error {
	if err := stock.CheckSchemas(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, "the stock has the schemas that the client was generated from")
	products, err := stock.List(ctx, nil)
	if err != nil {
		return err
	}
	for _, p := range products {
		fmt.Fprintf(out, "%s: %d %s\n", p.Name, p.Quantity, strings.Join(p.Tags, ", "))
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	for {
		got, err := stock.Reserve(ctx, stockclient.ReserveInput{Product: "tea", Quantity: 2, Until: &tomorrow})
		var refusal *iii.Error
		switch {
		case errors.As(err, &refusal) && refusal.Code == stockclient.ReserveCodeOutOfStock:
			fmt.Fprintf(out, "no more tea: %s\n", refusal.Message)
			return nil
		case err != nil:
			return err
		}
		fmt.Fprintf(out, "reserved 2 tea as %s, %d left\n", got.ID, got.Left)
	}
}

// upgrade replaces a function of the stock with a newer version and verifies that the
// client detects it.
func upgrade(ctx context.Context, out io.Writer, s *stock, client stockclient.Stock) error {
	if err := s.upgrade(ctx); err != nil {
		return err
	}
	err := client.CheckSchemas(ctx)
	var drift *iii.SchemaDriftError
	if !errors.As(err, &drift) {
		return fmt.Errorf("the newer stock was not noticed: %w", err)
	}
	for _, f := range drift.Functions {
		fmt.Fprintln(out, "changed since:", f)
	}
	return nil
}
