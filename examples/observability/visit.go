package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/examples/tracetree"
)

// visit places orders and queries their telemetry.
type visit struct {
	name            string
	shop, warehouse *worker
	out             io.Writer
}

func (v visit) say(what, format string, args ...any) {
	fmt.Fprintf(v.out, "%-9s  %s\n", what, fmt.Sprintf(format, args...))
}

func (v visit) run(ctx context.Context) error {
	receipt, err := v.order(ctx)
	if err != nil {
		return err
	}
	// After Flush, the engine has all of the workers' spans, logs and metrics.
	if err := errors.Join(v.shop.telemetry.Flush(ctx), v.warehouse.telemetry.Flush(ctx)); err != nil {
		return err
	}
	failed, err := v.failedTrace(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(
		v.trace(ctx, "accepted", receipt.TraceID), v.trace(ctx, "refused", failed),
		v.counter(ctx), v.histogram(ctx),
	); err != nil {
		return err
	}
	return errors.Join(v.process(ctx, v.shop), v.process(ctx, v.warehouse))
}

// orders contains the orders to place. All except the last one are accepted.
var orders = []Order{{"tea", 1}, {"tea", 2}, {"cake", 1}, {"cake", 4}, {"tea", 5}, {"tea", 9}}

// order places the orders and returns the last receipt.
func (v visit) order(ctx context.Context) (last Receipt, err error) {
	for i, o := range orders {
		receipt, err := iii.Call[Receipt](ctx, v.shop.client, v.name+"::place", o)
		var refusal *iii.Error
		switch {
		case err == nil:
			last = receipt
			v.say("order", "%d %s: %d cents", o.Quantity, o.Item, receipt.Cents)
		case i == len(orders)-1 && errors.As(err, &refusal) && refusal.Code == "out_of_stock":
			v.say("order", "%d %s: %s", o.Quantity, o.Item, refusal.Message)
		default:
			return last, err
		}
	}
	return last, nil
}

// failedTrace searches for the failed order's trace.
func (v visit) failedTrace(ctx context.Context) (string, error) {
	in := iii.TracesListInput{Name: "execute " + v.name + "::place", Status: "error"}
	found, err := iii.Call[iii.TracesListResult](ctx, v.shop.client, "engine::traces::list", in)
	if err != nil {
		return "", err
	}
	if len(found.Spans) != 1 {
		return "", fmt.Errorf("the engine lists %d traces of failed orders, not 1", len(found.Spans))
	}
	return found.Spans[0].TraceID, nil
}

func (v visit) trace(ctx context.Context, what, id string) error {
	fmt.Fprintln(v.out)
	v.say(what, "%s\n", id)
	return tracetree.Print(ctx, v.out, v.shop.client, id)
}

// counter prints the number of orders, one line per result.
func (v visit) counter(ctx context.Context) error {
	m, points, err := v.metric(ctx, "orders.placed")
	if err != nil {
		return err
	}
	fmt.Fprintln(v.out)
	v.say("counter", "%s: %s", m.Name, strings.ToLower(m.Description))
	slices.SortFunc(points, func(a, b iii.MetricDataPoint) int {
		return strings.Compare(attributeOf(a, "result"), attributeOf(b, "result"))
	})
	for _, p := range points {
		v.bar(attributeOf(p, "result"), uint64(p.Number.Value))
	}
	return nil
}

// histogram prints a histogram of the orders' values, one line per bucket.
func (v visit) histogram(ctx context.Context) error {
	m, points, err := v.metric(ctx, "orders.value")
	if err != nil {
		return err
	}
	h := points[0].Histogram
	fmt.Fprintln(v.out)
	v.say("histogram", "%s: %s; %d of %g cents", m.Name, strings.ToLower(m.Description), h.Count, h.Sum)
	for i, bound := range h.ExplicitBounds {
		v.bar(fmt.Sprintf("to %g", bound), h.BucketCounts[i])
	}
	v.bar("above", h.BucketCounts[len(h.ExplicitBounds)])
	fmt.Fprintln(v.out)
	return nil
}

func (v visit) bar(label string, n uint64) {
	line := fmt.Sprintf("%-12s  %3d  %s", label, n, strings.Repeat("━━━━", int(min(n, 15))))
	v.say("", "%s", strings.TrimRight(line, " "))
}

// metric returns the latest export of a metric that contains data points from this run,
// together with those points.
func (v visit) metric(ctx context.Context, name string) (m iii.StoredMetric, points []iii.MetricDataPoint, err error) {
	list, err := iii.Call[iii.MetricsListResult](ctx, v.shop.client, "engine::metrics::list", iii.MetricsListInput{MetricName: name})
	if err != nil {
		return m, nil, err
	}
	for _, m := range slices.Backward(list.SdkMetrics) {
		for _, p := range m.DataPoints {
			if attributeOf(p, "run") == v.name {
				points = append(points, p)
			}
		}
		if points != nil {
			return m, points, nil
		}
	}
	return m, nil, fmt.Errorf("the engine has no metric %s of this run", name)
}

func attributeOf(p iii.MetricDataPoint, key string) string {
	var attributes []iii.StoredAttribute
	if p.Histogram != nil {
		attributes = p.Histogram.Attributes
	} else {
		attributes = p.Number.Attributes
	}
	for _, a := range attributes {
		if a[0] == key {
			return a[1]
		}
	}
	return ""
}

// process prints the metrics that the engine has received from w's process.
func (v visit) process(ctx context.Context, w *worker) error {
	info, err := v.shop.client.WorkerInfo(ctx, w.client.Name())
	if err != nil {
		return err
	}
	m := info.LatestMetrics
	if m == nil || m.MemoryRSS == nil || m.MemoryHeapUsed == nil || m.CPUUserMicros == nil || m.CPUSystemMicros == nil {
		return fmt.Errorf("the engine has no process metrics of %s", w.client.Name())
	}
	const mib = 1 << 20
	v.say("process", "%-21s  %.1f MiB of memory, %.1f MiB in the heap, %d ms of CPU", w.client.Name(),
		float64(*m.MemoryRSS)/mib, float64(*m.MemoryHeapUsed)/mib, (*m.CPUUserMicros+*m.CPUSystemMicros)/1000)
	return nil
}
