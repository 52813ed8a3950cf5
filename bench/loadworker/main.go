// Command loadworker is the worker for load measurements. If BENCH_MODE is serve, the worker
// serves bench::echo. If BENCH_MODE is call, it calls bench::sink BENCH_N times and exits. If
// BENCH_MODE is drive, it serves bench::drive, which calls another worker's bench::echo. If
// BENCH_MODE is http, it serves POST /bench. If BENCH_OTEL is 1, the worker records traces. If
// BENCH_RAW is 1, the worker does not decode the payloads and results of bench::echo and
// bench::sink. BENCH_PROFILE names a file for a CPU profile.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	switch os.Getenv("BENCH_MODE") {
	case "call":
		return call(ctx, c)
	case "drive":
		_, err = iii.Handle(c, "bench::drive", func(ctx context.Context, l load) (any, error) {
			note := l.note()
			return nil, l.run(func(i int) error { return echoOrder(ctx, c, newOrder(i, note)) })
		})
	case "http":
		_, err = iii.HandleHTTP(c, http.MethodPost, "/bench", func(_ context.Context, r *iii.HTTPRequest[order]) (*iii.HTTPResponse[order], error) {
			return &iii.HTTPResponse[order]{Body: r.Body}, nil
		})
	default:
		err = serve(c)
	}
	if err != nil {
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

// load is the input of bench::drive.
type load struct {
	N        int `json:"n"`        // number of calls
	InFlight int `json:"inflight"` // number of concurrent calls
	Size     int `json:"size"`     // bytes of the note
}

func (l load) note() string { return strings.Repeat("x", l.Size) }

func newOrder(i int, note string) order {
	return order{User: "u-" + strconv.Itoa(i), Amount: i, Note: note, Tags: []string{"a", "b"}}
}

// run calls place N times. It returns the first error.
func (l load) run(place func(i int) error) error {
	var next atomic.Int64
	var ended atomic.Bool
	failed := make(chan error, l.InFlight)
	var callers sync.WaitGroup
	for range l.InFlight {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(l.N) && !ended.Load(); i = next.Add(1) {
				if err := place(int(i)); err != nil {
					ended.Store(true)
					failed <- err
					return
				}
			}
		})
	}
	callers.Wait()
	close(failed)
	return <-failed // nil if there is none
}

func call(ctx context.Context, c *iii.Client) error {
	l := load{number("BENCH_N"), number("BENCH_INFLIGHT"), number("BENCH_SIZE")}
	if err := c.Connect(ctx); err != nil {
		return err
	}
	note := l.note()
	if !raw() {
		return l.run(func(i int) error { return placeOrder(ctx, c, newOrder(i, note)) })
	}
	text, err := json.Marshal(newOrder(1, note))
	if err != nil {
		return err
	}
	return l.run(func(int) error {
		out, err := iii.Call[json.RawMessage](ctx, c, "bench::sink", json.RawMessage(text))
		if err == nil && !bytes.Contains(out, []byte(`"ok":true`)) {
			err = fmt.Errorf("answer is not ok: %s", out)
		}
		return err
	})
}

func placeOrder(ctx context.Context, c *iii.Client, in order) error {
	out, err := iii.Call[receipt](ctx, c, "bench::sink", in)
	if err == nil && !out.OK {
		err = fmt.Errorf("call %d: answer is not ok", in.Amount)
	}
	return err
}

func echoOrder(ctx context.Context, c *iii.Client, in order) error {
	out, err := iii.Call[order](ctx, c, "bench::echo", in)
	if err == nil && (out.Amount != in.Amount || out.Note != in.Note) {
		err = fmt.Errorf("call %d: the answer is another order", in.Amount)
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
