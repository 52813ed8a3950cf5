package iii

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/common"
	"github.com/shirou/gopsutil/v4/process"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	// metricsMaxAge limits how long a reading of the process metrics is reused.
	metricsMaxAge = 500 * time.Millisecond

	// cpuInterval is the minimum interval over which CPU usage is computed. Operating systems
	// measure CPU time in steps of about 10 ms, so shorter intervals would give inaccurate
	// results.
	cpuInterval = 200 * time.Millisecond
)

// WorkerMetricsCollector reads the current process's metrics: resident and virtual memory, CPU
// usage and uptime. The zero value is not usable; use [NewWorkerMetricsCollector]. All methods
// are safe for concurrent use.
type WorkerMetricsCollector struct {
	read  func(context.Context) (processFigures, error)
	began time.Time

	mu      sync.Mutex
	figures processFigures // from the latest successful reading
	sample  processSample
	err     error // from the latest reading, if it failed
	sampled time.Time
	cpuFrom time.Time // when cpuTime was read
	cpuTime time.Duration
}

// processFigures holds the process's metrics as reported by the operating system.
type processFigures struct {
	rss, virtual uint64        // bytes
	user, system time.Duration // CPU time since the process started
}

// processSample holds metrics computed from processFigures.
type processSample struct {
	WorkerMetrics
	user, system time.Duration
}

// NewWorkerMetricsCollector returns a collector. It takes an initial reading, so that CPU
// usage is measured from this point on. It returns an error if the reading fails. On systems
// other than Linux, macOS, Windows, FreeBSD and OpenBSD, memory and CPU usage are 0 and there
// is no error.
func NewWorkerMetricsCollector() (*WorkerMetricsCollector, error) {
	return newCollector(processReader(runtime.GOOS))
}

// processReader returns the function that reads process metrics on the given system. On
// unsupported systems, all metrics are 0.
func processReader(system string) func(context.Context) (processFigures, error) {
	switch system {
	case "linux", "darwin", "windows", "freebsd", "openbsd":
		return readProcess
	}
	return func(context.Context) (processFigures, error) { return processFigures{}, nil }
}

func newCollector(read func(context.Context) (processFigures, error)) (*WorkerMetricsCollector, error) {
	figures, err := read(context.Background())
	if err != nil {
		return nil, fmt.Errorf("iii: read process metrics: %w", err)
	}
	now := time.Now()
	c := &WorkerMetricsCollector{read: read, began: now, figures: figures, cpuFrom: now, cpuTime: figures.user + figures.system}
	c.sample = c.newSample(now, 0)
	return c, nil
}

// readProcess reads this process's metrics. It ignores $HOST_PROC, which may name the host's
// /proc. There, this process's id denotes another process.
func readProcess(ctx context.Context) (figures processFigures, err error) {
	ctx = context.WithValue(ctx, common.EnvKey, common.EnvMap{common.HostProcEnvKey: "/proc"})
	p := &process.Process{Pid: int32(os.Getpid())}
	memory, err := p.MemoryInfoWithContext(ctx)
	if err != nil {
		return figures, err
	}
	times, err := p.TimesWithContext(ctx)
	if err != nil {
		return figures, err
	}
	return processFigures{
		rss: memory.RSS, virtual: memory.VMS,
		user: time.Duration(times.User * float64(time.Second)), system: time.Duration(times.System * float64(time.Second)),
	}, nil
}

// Collect returns a sample that is at most 500 ms old. CPUPercent is the CPU time used since
// the previous sample, or since the collector was created, divided by the elapsed time: 100
// means one fully used core, and the maximum is 100 per core. CPUPercent does not change if
// less than 200 ms have elapsed. UptimeSeconds is the time since the collector was created. If
// ctx is done or the reading fails, Collect returns an error together with the latest known
// metrics.
func (c *WorkerMetricsCollector) Collect(ctx context.Context) (WorkerMetrics, error) {
	s, err := c.collect(ctx)
	return s.WorkerMetrics, err
}

func (c *WorkerMetricsCollector) collect(ctx context.Context) (processSample, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return c.sample, fmt.Errorf("iii: collect worker metrics: %w", ctxError(ctx))
	}
	now := time.Now()
	if !c.sampled.IsZero() && now.Sub(c.sampled) < metricsMaxAge {
		return c.sample, c.err
	}
	c.sampled, c.err = now, nil
	percent := c.sample.CPUPercent
	if figures, err := c.read(ctx); err != nil {
		c.err = fmt.Errorf("iii: read process metrics: %w", err)
	} else {
		c.figures = figures
		if wall := now.Sub(c.cpuFrom); wall >= cpuInterval {
			cpu := figures.user + figures.system
			percent = cpuPercent(cpu-c.cpuTime, wall)
			c.cpuFrom, c.cpuTime = now, cpu
		}
	}
	c.sample = c.newSample(now, percent)
	if ctx.Err() != nil && c.err != nil {
		c.sampled = time.Time{} // caused by this caller's context, so do not cache the failure
	}
	return c.sample, c.err
}

func (c *WorkerMetricsCollector) newSample(now time.Time, percent float32) processSample {
	return processSample{
		WorkerMetrics: WorkerMetrics{
			CPUPercent: percent, MemoryRSS: c.figures.rss, MemoryVirtual: c.figures.virtual, Runtime: "go",
			TimestampMs: uint64(now.UnixMilli()), UptimeSeconds: now.Sub(c.began).Seconds(),
		},
		user: c.figures.user, system: c.figures.system,
	}
}

func cpuPercent(cpu, wall time.Duration) float32 {
	percent := 100 * cpu.Seconds() / wall.Seconds()
	return float32(min(max(percent, 0), 100*float64(runtime.NumCPU())))
}

// WorkerGaugesHandle represents gauges registered with [RegisterWorkerGauges]. The zero value
// is not usable. A WorkerGaugesHandle is safe for concurrent use.
type WorkerGaugesHandle struct {
	stop func() error
}

// RegisterWorkerGauges registers gauges with m. They report process metrics at every
// collection. Each gauge has the attribute worker.id and, if a name is given, worker.name. The
// engine shows the latest values in its list of workers if worker.id is the id of the worker's
// connection ([Client.WorkerID]). A client with [WithTelemetry] registers these gauges
// automatically.
//
// The gauges and their units are as follows. Each name has the prefix "iii.worker.".
//
//   - memory.rss, memory.virtual, memory.heap_used and memory.heap_total (By)
//   - cpu.percent (%), cpu.user_micros and cpu.system_micros (us)
//   - uptime_seconds (s)
//   - go.goroutines
//   - go.gc.pause_ms (ms), the total of all pauses so far
func RegisterWorkerGauges(m metric.Meter, o WorkerGaugesOptions) (*WorkerGaugesHandle, error) {
	if m == nil {
		return nil, errors.New("iii: RegisterWorkerGauges: nil Meter")
	}
	if o.WorkerID == "" {
		return nil, errors.New("iii: RegisterWorkerGauges: no worker id")
	}
	return registerGauges(m, o.WorkerName, func() string { return o.WorkerID })
}

// Stop unregisters the gauges. It may be called more than once.
func (h *WorkerGaugesHandle) Stop() error { return h.stop() }

// gauges lists the instruments in the same order as gaugeValues.
var gauges = []struct{ name, unit, description string }{
	{"iii.worker.memory.rss", "By", "Resident set size in bytes"},
	{"iii.worker.memory.virtual", "By", "Virtual memory in bytes"},
	{"iii.worker.memory.heap_used", "By", "Heap memory of objects in bytes"},
	{"iii.worker.memory.heap_total", "By", "Heap memory that the process holds in bytes"},
	{"iii.worker.cpu.percent", "%", "CPU usage percentage"},
	{"iii.worker.cpu.user_micros", "us", "CPU time in user mode in microseconds"},
	{"iii.worker.cpu.system_micros", "us", "CPU time in the kernel in microseconds"},
	{"iii.worker.uptime_seconds", "s", "Worker uptime in seconds"},
	{"iii.worker.go.goroutines", "{goroutine}", "Number of goroutines"},
	{"iii.worker.go.gc.pause_ms", "ms", "Total time of garbage collection pauses in milliseconds"},
}

// floatGauge is the set of gauges with fractional values.
var floatGauge = map[string]bool{"iii.worker.cpu.percent": true, "iii.worker.uptime_seconds": true, "iii.worker.go.gc.pause_ms": true}

// registerGauges registers gauges that call workerID at every collection. They report nothing
// while workerID returns "".
func registerGauges(m metric.Meter, name *string, workerID func() string) (*WorkerGaugesHandle, error) {
	collector, err := NewWorkerMetricsCollector()
	if err != nil {
		return nil, err
	}
	return observeGauges(m, collector, name, workerID)
}

func observeGauges(m metric.Meter, collector *WorkerMetricsCollector, name *string, workerID func() string) (*WorkerGaugesHandle, error) {
	var err error
	instruments := make([]metric.Observable, len(gauges))
	for i, g := range gauges {
		if floatGauge[g.name] {
			instruments[i], err = m.Float64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.description))
		} else {
			instruments[i], err = m.Int64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.description))
		}
		if err != nil {
			return nil, fmt.Errorf("iii: worker gauge %s: %w", g.name, err)
		}
	}
	observe := func(ctx context.Context, o metric.Observer) error {
		id := workerID()
		if id == "" {
			return nil
		}
		attributes := []attribute.KeyValue{attribute.String("worker.id", id)}
		if name != nil {
			attributes = append(attributes, attribute.String("worker.name", *name))
		}
		option := metric.WithAttributeSet(attribute.NewSet(attributes...))
		sample, err := collector.collect(ctx)
		if err != nil {
			// If the callback returned the error, OpenTelemetry's reader would drop the
			// metrics from all callbacks. The sample still contains the latest known metrics.
			otel.Handle(err)
		}
		for i, value := range gaugeValues(sample) {
			switch instrument := instruments[i].(type) {
			case metric.Int64Observable:
				o.ObserveInt64(instrument, int64(value), option)
			case metric.Float64Observable:
				o.ObserveFloat64(instrument, value, option)
			}
		}
		return nil
	}
	registration, err := m.RegisterCallback(observe, instruments...)
	if err != nil {
		return nil, fmt.Errorf("iii: worker gauges: %w", err)
	}
	return &WorkerGaugesHandle{stop: sync.OnceValue(func() error {
		if err := registration.Unregister(); err != nil {
			return fmt.Errorf("iii: worker gauges: %w", err)
		}
		return nil
	})}, nil
}

// gaugeValues returns the gauges' values, in the order of the variable gauges.
func gaugeValues(s processSample) []float64 {
	heap := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(heap)
	value := func(i int) float64 {
		if heap[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return float64(heap[i].Value.Uint64())
	}
	var gc debug.GCStats
	debug.ReadGCStats(&gc)
	return []float64{
		float64(s.MemoryRSS), float64(s.MemoryVirtual), value(0), value(0) + value(1) + value(2),
		float64(s.CPUPercent), float64(s.user.Microseconds()), float64(s.system.Microseconds()), s.UptimeSeconds,
		value(3), float64(gc.PauseTotal) / float64(time.Millisecond),
	}
}

// functionIDAttribute is the key of the function id in the attributes of handler metrics and
// in the profiler labels of handler goroutines.
const functionIDAttribute = "iii.function.id"

// handlerMetrics holds the instruments that measure a client's handlers.
type handlerMetrics struct {
	count, errors       metric.Int64Counter
	inFlight            metric.Int64UpDownCounter
	duration, queueWait metric.Float64Histogram
}

// handlerSeconds holds the bucket boundaries, in seconds, of the duration and queue wait
// histograms.
var handlerSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

func newHandlerMetrics(m metric.Meter) (*handlerMetrics, error) {
	const prefix = "iii.worker.function."
	h := new(handlerMetrics)
	errs := make([]error, 5)
	h.count, errs[0] = m.Int64Counter(prefix+"count", metric.WithUnit("{invocation}"),
		metric.WithDescription("Invocations that were handled"))
	h.errors, errs[1] = m.Int64Counter(prefix+"errors", metric.WithUnit("{invocation}"),
		metric.WithDescription("Invocations that failed"))
	h.duration, errs[2] = m.Float64Histogram(prefix+"duration", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(handlerSeconds...),
		metric.WithDescription("Time from the start of the handler until its answer"))
	h.inFlight, errs[3] = m.Int64UpDownCounter(prefix+"in_flight", metric.WithUnit("{invocation}"),
		metric.WithDescription("Handlers that run"))
	h.queueWait, errs[4] = m.Float64Histogram(prefix+"queue_wait", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(handlerSeconds...),
		metric.WithDescription("Time that invocations wait for a handler"))
	return h, errors.Join(errs...)
}

// functionMetrics records the metrics of one function's handler. It keeps the measurement
// options, so that recording does not allocate. A nil *functionMetrics records nothing.
type functionMetrics struct {
	*handlerMetrics
	add    []metric.AddOption
	record []metric.RecordOption
}

func (h *handlerMetrics) function(id string) *functionMetrics {
	if h == nil {
		return nil
	}
	option := metric.WithAttributeSet(attribute.NewSet(attribute.String(functionIDAttribute, id)))
	return &functionMetrics{handlerMetrics: h, add: []metric.AddOption{option}, record: []metric.RecordOption{option}}
}

func (f *functionMetrics) begin(in *incoming) {
	if f == nil {
		return
	}
	now, wait := time.Now(), time.Duration(0)
	if !in.since.IsZero() { // otherwise, it did not wait
		wait = now.Sub(in.since)
	}
	in.since = now
	f.inFlight.Add(in.origin.context(), 1, f.add...)
	f.queueWait.Record(in.origin.context(), wait.Seconds(), f.record...)
}

// done records an invocation's result. ctx carries the invocation's span, so that the SDK can
// attach the span to the measurement as an exemplar.
func (f *functionMetrics) done(ctx context.Context, in *incoming, failed bool) {
	if f == nil {
		return
	}
	f.count.Add(ctx, 1, f.add...)
	if failed {
		f.errors.Add(ctx, 1, f.add...)
	}
	f.duration.Record(ctx, time.Since(in.since).Seconds(), f.record...)
}

func (f *functionMetrics) leave() {
	if f != nil {
		f.inFlight.Add(context.Background(), -1, f.add...)
	}
}
