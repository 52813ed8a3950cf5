package iii

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// gauge is a data point as it is collected.
type gauge struct {
	unit       string
	value      float64
	attributes attribute.Set
}

func collectGauges(t *testing.T, reader *sdkmetric.ManualReader) map[string]gauge {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := map[string]gauge{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					got[m.Name] = gauge{m.Unit, float64(p.Value), p.Attributes}
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					got[m.Name] = gauge{m.Unit, p.Value, p.Attributes}
				}
			default:
				t.Errorf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	return got
}

func TestChecklistGauges(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	name := "orders"
	h, err := RegisterWorkerGauges(provider.Meter("m"), WorkerGaugesOptions{WorkerID: "id-1", WorkerName: &name})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"iii.worker.memory.rss": "By", "iii.worker.memory.virtual": "By", "iii.worker.memory.heap_used": "By", "iii.worker.memory.heap_total": "By",
		"iii.worker.cpu.percent": "%", "iii.worker.cpu.user_micros": "us", "iii.worker.cpu.system_micros": "us", "iii.worker.uptime_seconds": "s",
		"iii.worker.go.goroutines": "{goroutine}", "iii.worker.go.gc.pause_ms": "ms",
	}
	got := collectGauges(t, reader)
	units := map[string]string{}
	for name, g := range got {
		units[name] = g.unit
		if g.value < 0 {
			t.Errorf("%s is %v", name, g.value)
		}
		if attributes := attribute.NewSet(attribute.String("worker.id", "id-1"), attribute.String("worker.name", "orders")); g.attributes != attributes {
			t.Errorf("%s has the attributes %v", name, g.attributes.ToSlice())
		}
	}
	if diff := cmp.Diff(want, units); diff != "" {
		t.Errorf("gauges and units (-want +got):\n%s", diff)
	}
	for _, positive := range []string{"iii.worker.memory.rss", "iii.worker.memory.heap_used", "iii.worker.uptime_seconds", "iii.worker.go.goroutines"} {
		if got[positive].value <= 0 {
			t.Errorf("%s is %v", positive, got[positive].value)
		}
	}
	if got["iii.worker.memory.heap_total"].value < got["iii.worker.memory.heap_used"].value {
		t.Errorf("the heap of %v bytes has %v in use", got["iii.worker.memory.heap_total"].value, got["iii.worker.memory.heap_used"].value)
	}

	for range 2 {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	}
	if left := collectGauges(t, reader); len(left) != 0 {
		t.Errorf("after Stop there are %v", slices.Sorted(maps.Keys(left)))
	}
}

// The id is asked for at each collection: no point under the one before is left.
func TestGaugesFollowWorkerID(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	id := ""
	h, err := registerGauges(provider.Meter("m"), nil, func() string { return id })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, id = range []string{"", "one", "two"} {
		got := collectGauges(t, reader)
		if want := len(gauges); id == "" && len(got) != 0 || id != "" && len(got) != want {
			t.Errorf("with id %q: %d gauges", id, len(got))
		}
		for name, g := range got {
			if g.attributes != attribute.NewSet(attribute.String("worker.id", id)) {
				t.Errorf("%s has the attributes %v, want id %q", name, g.attributes.ToSlice(), id)
			}
		}
	}
}

// A process that cannot be read for once takes no other metric with it, and keeps
// its latest figures.
func TestGaugesOfUnreadableProcess(t *testing.T) {
	failed := errors.New("no such process")
	handled := countHandled(t, failed)
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	reads := 0
	collector, err := newCollector(func(context.Context) (processFigures, error) {
		if reads++; reads > 1 {
			return processFigures{}, failed
		}
		return processFigures{rss: 7}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := observeGauges(provider.Meter("m"), collector, nil, func() string { return "id" }); err != nil {
		t.Fatal(err)
	}
	got := collectGauges(t, reader)
	if rss := got["iii.worker.memory.rss"].value; len(got) != len(gauges) || rss != 7 {
		t.Errorf("%d gauges, resident memory %v; want all, and what was read before", len(got), rss)
	}
	if n := handled.Load(); n != 1 {
		t.Errorf("the failure was told %d times", n)
	}
}

func TestRegisterWorkerGaugesRefuses(t *testing.T) {
	meter := sdkmetric.NewMeterProvider().Meter("m")
	if _, err := RegisterWorkerGauges(nil, WorkerGaugesOptions{WorkerID: "x"}); err == nil {
		t.Error("a nil meter is accepted")
	}
	if _, err := RegisterWorkerGauges(meter, WorkerGaugesOptions{}); err == nil {
		t.Error("no worker id is accepted")
	}
}

// countHandled counts how often OpenTelemetry's error handler, which is everybody's,
// is told of an error that is target.
func countHandled(t *testing.T, target error) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	previous := otel.GetErrorHandler()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if errors.Is(suite.note(err), target) {
			n.Add(1)
		}
	}))
	t.Cleanup(func() { otel.SetErrorHandler(previous) })
	return &n
}
