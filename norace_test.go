//go:build !race

package iii

import (
	"encoding/json"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// raceEnabled says that the race detector runs, which makes copies slow.
const raceEnabled = false

// The race detector empties pools at random, which costs allocations.
func TestFilterMatchDoesNotAllocate(t *testing.T) {
	f, err := ParseFilter(`{"input.a": {"$gt": 1}, "input.b": {"$in": ["x", "y"]}, "output.c": {"$exists": false}, "caller.worker_name": {"$prefix": "w"}}`)
	if err != nil {
		t.Fatal(err)
	}
	d := FilterDocument{Input: json.RawMessage(`{"a": 2, "b": "y"}`), Caller: json.RawMessage(`{"worker_name": "w1"}`)}
	if !f.Matches(d) {
		t.Fatal("does not match")
	}
	if n := testing.AllocsPerRun(100, func() { f.Matches(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Measuring a handler allocates nothing.
func TestHandlerMetricsDoNotAllocate(t *testing.T) {
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	h, err := newHandlerMetrics(meters.Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	f := h.function("orders::create")
	l := &link{handlers: t.Context()}
	in := &incoming{origin: l}
	ctx := ExtractContext(t.Context(), testParent, "") // sampled: the SDK takes exemplars
	if n := testing.AllocsPerRun(1000, func() {
		in.since = time.Now()
		f.begin(in)
		f.leave()
		f.done(ctx, in, true)
	}); n != 0 {
		t.Errorf("%v allocations for an invocation", n)
	}
}
