// Command loadworker is the worker for load measurements. It serves bench::echo, or calls
// bench::sink BENCH_N times and exits. If BENCH_OTEL is 1, it records traces. If BENCH_RAW is
// 1, payloads and results remain JSON text. BENCH_PROFILE names a file for a CPU profile.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
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
	if name := os.Getenv("BENCH_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
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
	if err := serve(c); err != nil {
		return err
	}
	return c.Run(ctx)
}

func serve(c *iii.Client) (err error) {
	if raw() {
		_, err = c.HandleFunc("bench::echo", func(_ context.Context, in json.RawMessage) (any, error) { return in, nil })
	} else {
		_, err = iii.Handle(c, "bench::echo", func(_ context.Context, in order) (order, error) { return in, nil })
	}
	return err
}

func raw() bool { return os.Getenv("BENCH_RAW") == "1" }

// shutdown flushes the remaining spans and reports lost telemetry.
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
	place := placeOrder
	if raw() {
		text, err := json.Marshal(order{User: "u-1", Amount: 1, Note: note, Tags: []string{"a", "b"}})
		if err != nil {
			return err
		}
		place = func(ctx context.Context, c *iii.Client, _ order) error {
			out, err := iii.Call[json.RawMessage](ctx, c, "bench::sink", json.RawMessage(text))
			if err == nil && !bytes.Contains(out, []byte(`"ok":true`)) {
				err = fmt.Errorf("answer is not ok: %s", out)
			}
			return err
		}
	}
	work := make(chan int)
	failed := make(chan error, inflight)
	var wg sync.WaitGroup
	for range inflight {
		wg.Go(func() {
			for i := range work {
				if err := place(ctx, c, order{User: "u-" + strconv.Itoa(i), Amount: i, Note: note, Tags: []string{"a", "b"}}); err != nil {
					failed <- err
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

func placeOrder(ctx context.Context, c *iii.Client, in order) error {
	out, err := iii.Call[receipt](ctx, c, "bench::sink", in)
	if err == nil && !out.OK {
		err = fmt.Errorf("call %d: answer is not ok", in.Amount)
	}
	return err
}

func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return n
}
