// Quickstart runs two workers: a shop, which provides a function, an HTTP route and a state
// trigger, and a customer, which uses them. Both send telemetry to the engine, and the program
// prints one request's trace. It exits with status 0 if every step succeeds.
//
// If $III_URL is set, the program uses the engine at that address, with HTTP triggers at
// $III_HTTP_URL (default http://127.0.0.1:3111). Otherwise it starts a development engine.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// patience limits the entire run, which normally takes a fraction of a second.
const patience = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run performs each step once and prints its progress to out. It returns an error if a result
// is unexpected.
func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	url, httpURL := os.Getenv("III_URL"), cmp.Or(os.Getenv("III_HTTP_URL"), "http://127.0.0.1:3111")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url, httpURL = engine.URL(), engine.HTTPURL()
	}

	// Each run uses unique names, so several runs can share an engine.
	name := "demo-" + strings.ToLower(rand.Text()[:6])

	shop, err := openShop(ctx, url, name, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.shutdown(ctx)) }()
	if err := shop.client.Connect(ctx); err != nil {
		return err
	}
	customer, err := newWorker(ctx, url, name, "customer")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, customer.shutdown(ctx)) }()
	if err := customer.client.Connect(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%-8s %s, HTTP at %s\n", "engine", url, httpURL)
	return visit{name, httpURL, shop, customer, out}.run(ctx)
}

// worker is a client with its own telemetry.
type worker struct {
	client    *iii.Client
	telemetry *iii.Telemetry
	log       *slog.Logger // adds records to the trace in their context
}

func newWorker(ctx context.Context, url, run, role string) (*worker, error) {
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &url, ServiceName: &role, Enabled: new(true)})
	if err != nil {
		return nil, err
	}
	client, err := iii.New(url, iii.WithName(run+"-"+role), iii.WithDescription("The "+role+" of the quickstart"),
		iii.WithTelemetry(telemetry))
	if err != nil {
		return nil, errors.Join(err, telemetry.Shutdown(ctx))
	}
	return &worker{client, telemetry, slog.New(telemetry.SlogHandler())}, nil
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func (w *worker) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(w.client.Shutdown(ctx), w.telemetry.Shutdown(ctx))
}
