// Observers demonstrates how workers observe another worker's function. A freight exchange
// serves a private function, the source, and calls it for each parcel. Carriers register
// observers of the source. An observer's arguments name a depot, and its filter selects
// parcels. The exchange rejects observers for unknown depots. For each parcel, it asks the
// observers that name the parcel's depot for bids and returns the best one.
//
// The program places four parcels and exits with status 0 if the results are as expected. If
// $III_URL is set, the program uses the engine at that address. Otherwise it starts a
// development engine. Observer hooks require engine 0.26 or later. On an earlier engine, the
// program prints that they are not supported and exits.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "observers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := os.Getenv("III_URL")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url = engine.URL()
	}
	// Each run uses unique names, so several runs can share an engine.
	name := "freight-" + strings.ToLower(rand.Text()[:6])

	x, err := newExchange(url, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, x.client)) }()
	if err := x.client.Connect(ctx); err != nil {
		return err
	}
	if err := x.source.Err(); errors.Is(err, errors.ErrUnsupported) {
		fmt.Fprintf(out, "exchange  %s\n", reason(err))
	} else if err != nil {
		return err
	}

	// An observer can be registered before its source.
	var carriers []*carrier
	for _, c := range []*carrier{
		{name: "bike", depot: "north", most: 20, price: func(p parcel) int { return 4 + p.Kg }},
		{name: "truck", depot: "north", price: func(parcel) int { return 18 }},
		{name: "rocket", depot: "moon", price: func(parcel) int { return 1 }},
	} {
		if err := c.start(ctx, url, name, x.source.ID()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, shutdown(ctx, c.client)) }()
		carriers = append(carriers, c)
	}
	if x.source.Err() != nil { // without hooks, the observers stay pending or are rejected
		bike := carriers[0]
		if err := bike.observer.Err(); err != nil {
			fmt.Fprintf(out, "%-9s %s\n", bike.name, reason(err))
		} else {
			fmt.Fprintf(out, "%-9s is %s\n", bike.name, bike.observer.State())
		}
		return nil
	}
	for _, c := range carriers {
		if err := c.observer.Ready(ctx); err != nil {
			fmt.Fprintf(out, "%-9s is refused: %s\n", c.name, reason(err))
			continue
		}
		fmt.Fprintf(out, "%-9s observes depot %s\n", c.name, c.depot)
	}

	for _, p := range []parcel{{"north", 3}, {"north", 15}, {"north", 80}, {"south", 3}} {
		best, err := x.place(ctx, p)
		var failure *iii.Error
		switch {
		case err == nil:
			fmt.Fprintf(out, "exchange  %d kg at %s: %s for %d\n", p.Kg, p.Depot, best.Carrier, best.Price)
		case errors.As(err, &failure) && failure.Code == noBid:
			fmt.Fprintf(out, "exchange  %d kg at %s: %s\n", p.Kg, p.Depot, failure.Message)
		default:
			return err
		}
	}

	// A carrier receives no more requests after its observer has been disposed of.
	if err := carriers[0].observer.Dispose(ctx); err != nil {
		return err
	}
	best, err := x.place(ctx, parcel{"north", 3})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "exchange  3 kg at north, without the bike: %s for %d\n", best.Carrier, best.Price)
	return nil
}

// reason returns the code and message of a rejection.
func reason(err error) string {
	var failure *iii.Error
	var rejected *iii.RejectedError
	switch {
	case errors.As(err, &failure):
		return failure.Code + ": " + failure.Message
	case errors.As(err, &rejected):
		return rejected.Code
	}
	return err.Error()
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
