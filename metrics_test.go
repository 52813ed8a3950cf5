package iii

import (
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// fakeProcess is a process whose metrics are set by the test.
type fakeProcess struct {
	mu      sync.Mutex
	figures processFigures
	err     error
	reads   int
}

func (p *fakeProcess) read(context.Context) (processFigures, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	return p.figures, p.err
}

func (p *fakeProcess) work(user, system time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.figures.user += user
	p.figures.system += system
}

func TestCollectorComputesSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProcess{figures: processFigures{rss: 1 << 20, virtual: 1 << 30, user: time.Hour, system: time.Minute}}
		c, err := newCollector(p.read)
		if err != nil {
			t.Fatal(err)
		}
		collect := func(after time.Duration) WorkerMetrics {
			t.Helper()
			time.Sleep(after)
			m, err := c.Collect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		begin := time.Now()
		p.work(300*time.Millisecond, 200*time.Millisecond)
		got := collect(time.Second)
		want := WorkerMetrics{CPUPercent: 50, MemoryRSS: 1 << 20, MemoryVirtual: 1 << 30, Runtime: "go",
			TimestampMs: uint64(begin.Add(time.Second).UnixMilli()), UptimeSeconds: 1}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("first sample, of the time since the start (-want +got):\n%s", diff)
		}

		p.work(time.Hour, 0)
		if diff := cmp.Diff(want, collect(499*time.Millisecond)); diff != "" || p.reads != 2 {
			t.Errorf("%d reads; sample within 500 ms (-want +got):\n%s", p.reads, diff)
		}
		got = collect(time.Millisecond)
		if most := float32(100 * runtime.NumCPU()); got.CPUPercent != most {
			t.Errorf("an hour of CPU time in half a second: %v %%, want the maximum, %v", got.CPUPercent, most)
		}
		p.work(-2*time.Hour, 0)
		if got = collect(time.Second); got.CPUPercent != 0 {
			t.Errorf("CPU time that went backwards: %v %%", got.CPUPercent)
		}
		p.work(2*time.Second, 0)
		if got = collect(2 * time.Second); got.CPUPercent != 100 || got.UptimeSeconds != 4.5 {
			t.Errorf("one busy core: %v %%, uptime %v", got.CPUPercent, got.UptimeSeconds)
		}

		p.err = errors.New("no such process")
		p.figures.rss = 0
		time.Sleep(time.Second)
		got, err = c.Collect(t.Context())
		if !errors.Is(err, p.err) || got.CPUPercent != 100 || got.MemoryRSS != 1<<20 || got.UptimeSeconds != 5.5 {
			t.Errorf("after a failed read: %+v, %v; want the last good figures and the error", got, err)
		}
		if _, again := c.Collect(t.Context()); !errors.Is(again, p.err) {
			t.Errorf("the error is forgotten within 500 ms: %v", again)
		}
		p.err = nil
		p.work(time.Second, 0)
		if got = collect(time.Second); got.CPUPercent != 50 {
			t.Errorf("after recovery: %v %%, want 50 for both seconds", got.CPUPercent)
		}
	})
}

func TestCollectorShortInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProcess{}
		c, err := newCollector(p.read)
		if err != nil {
			t.Fatal(err)
		}
		p.work(100*time.Millisecond, 0)
		time.Sleep(199 * time.Millisecond)
		if m, err := c.Collect(t.Context()); err != nil || m.CPUPercent != 0 {
			t.Errorf("after 199 ms: %v %%, %v; want 0 for such a short interval", m.CPUPercent, err)
		}
		time.Sleep(801 * time.Millisecond)
		if m, err := c.Collect(t.Context()); err != nil || m.CPUPercent != 10 {
			t.Errorf("after a second: %v %%, %v, want 10 since the start", m.CPUPercent, err)
		}
	})
}

// On systems without process metrics, the collector still reports Go runtime metrics.
func TestCollectorOfUnsupportedSystem(t *testing.T) {
	c, err := newCollector(processReader("plan9"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Collect(t.Context())
	if err != nil || m.MemoryRSS != 0 || m.MemoryVirtual != 0 || m.CPUPercent != 0 || m.Runtime != "go" || m.TimestampMs == 0 || m.UptimeSeconds <= 0 {
		t.Errorf("sample %+v, %v", m, err)
	}
	s, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	values := gaugeValues(s)
	for i, g := range gauges {
		if known := strings.Contains(g.name, "heap") || strings.Contains(g.name, "goroutines"); known && values[i] <= 0 {
			t.Errorf("%s is %v", g.name, values[i])
		}
	}
}

func TestCollectorReportsFailures(t *testing.T) {
	failed := errors.New("no such process")
	if _, err := newCollector((&fakeProcess{err: failed}).read); !errors.Is(err, failed) {
		t.Errorf("error is %v", err)
	}
	c, err := newCollector((&fakeProcess{}).read)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, err := c.Collect(ctx); !errors.Is(err, context.Canceled) || m.Runtime != "go" || m.TimestampMs == 0 {
		t.Errorf("sample is %+v, error is %v", m, err)
	}
}

// If the context of the caller that takes a reading is canceled, other callers are not
// affected.
func TestCollectorContextEndsWhileReading(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reads := 0
	c, err := newCollector(func(context.Context) (processFigures, error) {
		if reads++; reads == 2 {
			cancel()
		}
		return processFigures{rss: 7}, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Collect(ctx); !errors.Is(err, context.Canceled) || m.MemoryRSS != 7 {
		t.Errorf("sample is %+v, error is %v", m, err)
	}
	ctx = t.Context()
	if m, err := c.Collect(ctx); err != nil || m.MemoryRSS != 7 {
		t.Errorf("sample of another caller is %+v, error is %v", m, err)
	}
}

func TestCollectorConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProcess{figures: processFigures{rss: 7}}
		c, err := newCollector(p.read)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 100 {
					if m, err := c.Collect(t.Context()); err != nil || m.MemoryRSS != 7 {
						t.Errorf("sample %+v, %v", m, err)
					}
				}
			})
		}
		wg.Wait()
		if p.reads != 2 {
			t.Errorf("%d reads for all concurrent callers, want 1 in addition to the initial one", p.reads)
		}
	})
}

func TestCollectorOfThisProcess(t *testing.T) {
	t.Setenv("HOST_PROC", t.TempDir())
	c, err := NewWorkerMetricsCollector()
	if err != nil {
		t.Fatal(err)
	}
	// Use enough CPU time to measure, even on a busy machine.
	for begin, worked := time.Now(), c.cpuTime; time.Since(begin) < cpuInterval || worked < c.cpuTime+50*time.Millisecond; {
		for range 100_000 {
			_ = math.Sqrt(float64(os.Getpid()))
		}
		figures, err := readProcess(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		worked = figures.user + figures.system
	}
	m, err := c.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.MemoryRSS < 1<<20 || m.MemoryVirtual < m.MemoryRSS || m.CPUPercent <= 0 || m.CPUPercent > float32(100*runtime.NumCPU()) || m.UptimeSeconds < cpuInterval.Seconds() {
		t.Errorf("sample is %+v", m)
	}
}

// gauge is a collected data point.
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

func TestWorkerGaugesReportTheProcess(t *testing.T) {
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
		t.Errorf("left after Stop: %v", slices.Sorted(maps.Keys(left)))
	}
}

// The worker id is read at each collection, so no data point keeps an old id.
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

// If the process metrics cannot be read, the gauges keep their last values, and other metrics
// are not affected.
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
		t.Errorf("%d gauges, resident memory %v; want all gauges with their last values", len(got), rss)
	}
	if n := handled.Load(); n != 1 {
		t.Errorf("the failure was reported %d times", n)
	}
}

func TestRegisterWorkerGaugesRejectsInvalidArguments(t *testing.T) {
	meter := sdkmetric.NewMeterProvider().Meter("m")
	if _, err := RegisterWorkerGauges(nil, WorkerGaugesOptions{WorkerID: "x"}); err == nil {
		t.Error("a nil meter is accepted")
	}
	if _, err := RegisterWorkerGauges(meter, WorkerGaugesOptions{}); err == nil {
		t.Error("an empty worker id is accepted")
	}
}

// countHandled counts the errors matching target that reach OpenTelemetry's global error
// handler.
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
