// Command loadworker is the worker that load measurements drive: it serves
// bench::echo, or calls bench::sink BENCH_N times and ends. With BENCH_OTEL=1 it
// traces.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/iii-go/iii"
)

type order struct {
	User   string   `json:"user"`
	Amount int      `json:"amount"`
	Note   string   `json:"note"`
	Tags   []string `json:"tags"`
}

type receipt struct {
	OK bool `json:"ok"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	opts := []iii.Option{iii.WithLogger(slog.Default())}
	if os.Getenv("BENCH_OTEL") == "1" {
		telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{})
		if err != nil {
			return err
		}
		defer shutdown(telemetry)
		opts = append(opts, iii.WithTelemetry(telemetry))
	}
	c, err := iii.New("", opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	if os.Getenv("BENCH_MODE") == "call" {
		return call(ctx, c)
	}
	echo := func(_ context.Context, in order) (order, error) { return in, nil }
	if _, err := iii.Handle(c, "bench::echo", echo); err != nil {
		return err
	}
	return c.Run(ctx)
}

// shutdown delivers the last spans and tells what was lost.
func shutdown(t *iii.Telemetry) {
	err := t.Shutdown(context.Background())
	slog.Info("telemetry ended", "error", err, "stats", t.Connection().Stats())
}

func call(ctx context.Context, c *iii.Client) error {
	n, inflight, size := number("BENCH_N"), number("BENCH_INFLIGHT"), number("BENCH_SIZE")
	if err := c.Connect(ctx); err != nil {
		return err
	}
	note := strings.Repeat("x", size)
	work := make(chan int)
	failed := make(chan error, inflight)
	var wg sync.WaitGroup
	for range inflight {
		wg.Go(func() {
			for i := range work {
				var out receipt
				in := order{User: "u-" + strconv.Itoa(i), Amount: i, Note: note, Tags: []string{"a", "b"}}
				if err := c.Call(ctx, "bench::sink", in, &out); err != nil {
					failed <- err
					return
				}
				if !out.OK {
					failed <- fmt.Errorf("call %d: answer is not ok", i)
					return
				}
			}
		})
	}
	var err error
feed:
	for i := range n {
		select {
		case work <- i:
		case err = <-failed:
			break feed
		}
	}
	close(work)
	wg.Wait()
	return err
}

func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return n
}
