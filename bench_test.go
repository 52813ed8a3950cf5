package iii_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type benchOrder struct {
	ID    int      `json:"id"`
	Buyer string   `json:"buyer"`
	Lines []string `json:"lines"`
}

// benchWorkers connects two workers to a development engine over TCP. The engine and both
// workers share one process, so measurements include the cost of all three.
func benchWorkers(b *testing.B, opts ...iii.Option) (caller, callee *iii.Client) {
	e := iiitest.Start(b, iiitest.WithFrameLimit(0, 0))
	worker := func(name string) *iii.Client {
		c, err := iii.New(e.URL(), append(opts, iii.WithName(name))...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		return c
	}
	caller, callee = worker("caller"), worker("callee")
	_, err := iii.Handle(callee, "orders::place", func(_ context.Context, o benchOrder) (benchOrder, error) { return o, nil })
	if err != nil {
		b.Fatal(err)
	}
	if _, err := callee.HandleFunc("echo", func(_ context.Context, p json.RawMessage) (any, error) { return p, nil }); err != nil {
		b.Fatal(err)
	}
	for _, c := range []*iii.Client{callee, caller} {
		if err := c.Connect(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return caller, callee
}

// BenchmarkCall measures round trips to a typed function, one at a time (latency) and many
// concurrently (throughput).
func BenchmarkCall(b *testing.B) {
	order := benchOrder{ID: 7, Buyer: "ann", Lines: []string{"book", "pen"}}
	b.Run("one", func(b *testing.B) {
		c, _ := benchWorkers(b)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := iii.Call[benchOrder](b.Context(), c, "orders::place", order); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		c, _ := benchWorkers(b)
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := iii.Call[benchOrder](b.Context(), c, "orders::place", order); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkCallSize measures round trips by payload size.
func BenchmarkCallSize(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20, 8 << 20} {
		name := map[int]string{1 << 10: "1KiB", 64 << 10: "64KiB", 1 << 20: "1MiB", 8 << 20: "8MiB"}[size]
		b.Run(name, func(b *testing.B) {
			c, _ := benchWorkers(b)
			payload := json.RawMessage(`"` + strings.Repeat("x", size-2) + `"`)
			b.SetBytes(2 * int64(size))
			b.ReportAllocs()
			for b.Loop() {
				var out json.RawMessage
				if err := c.Call(b.Context(), "echo", payload, &out); err != nil || len(out) != size {
					b.Fatal(len(out), err)
				}
			}
		})
	}
}

// BenchmarkSend measures how long Send takes to write its message. The engine sends no reply.
func BenchmarkSend(b *testing.B) {
	c, _ := benchWorkers(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Send(b.Context(), "engine::baggage::get", map[string]string{"key": "k"}); err != nil {
			b.Fatal(err)
		}
	}
}
