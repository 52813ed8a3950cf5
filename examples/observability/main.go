// Observability demonstrates the telemetry of two workers: a shop, which receives orders, and
// a warehouse, which reserves the goods. Both record spans, logs, a counter, a histogram and
// process metrics. The program places orders and then queries the engine for an accepted
// order's trace, a failed order's trace, the metrics and the workers.
//
// If $III_URL is set, the program uses the engine at that address. Otherwise it starts a
// development engine.
package main

import (
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
		fmt.Fprintln(os.Stderr, "observability:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	name := "demo-" + strings.ToLower(rand.Text()[:6])

	warehouse, err := newWorker(ctx, url, name, "warehouse")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, warehouse.shutdown(ctx)) }()
	if err := stockWarehouse(warehouse, name); err != nil {
		return err
	}
	shop, err := newWorker(ctx, url, name, "shop")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.shutdown(ctx)) }()
	if err := openShop(shop, name); err != nil {
		return err
	}
	for _, w := range []*worker{warehouse, shop} {
		if err := w.client.Connect(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%-9s  %s\n", "engine", url)
	return visit{name, shop, warehouse, out}.run(ctx)
}

// worker is a client with its own telemetry, including gauges for memory and CPU.
type worker struct {
	client    *iii.Client
	telemetry *iii.Telemetry
	log       *slog.Logger // adds records to the span in their context
}

func newWorker(ctx context.Context, url, run, role string) (*worker, error) {
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &url, ServiceName: &role, Enabled: new(true)})
	if err != nil {
		return nil, err
	}
	client, err := iii.New(url, iii.WithName(run+"-"+role), iii.WithTelemetry(telemetry))
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
