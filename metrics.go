package iii

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/common"
	"github.com/shirou/gopsutil/v4/process"
)

const (
	// metricsCached is how long one reading of the process serves all who ask.
	metricsCached = 500 * time.Millisecond

	// cpuInterval is the shortest time over which processor use is computed; the
	// systems count in steps of some 10 ms.
	cpuInterval = 200 * time.Millisecond
)

// WorkerMetricsCollector reads figures about the own process: resident and
// virtual memory, processor use, uptime. It is made by
// [NewWorkerMetricsCollector]; the zero value is of no use. All methods may be
// called from several goroutines at once.
type WorkerMetricsCollector struct {
	read  func(context.Context) (processFigures, error)
	began time.Time

	mu      sync.Mutex
	figures processFigures // the latest that could be read
	sample  processSample
	err     error // of the latest reading
	sampled time.Time
	cpuFrom time.Time // when cpuTime was read
	cpuTime time.Duration
}

// processFigures are what the system tells about the process.
type processFigures struct {
	rss, virtual uint64        // bytes
	user, system time.Duration // processor time since the process began
}

// processSample is what is made of them.
type processSample struct {
	WorkerMetrics
	user, system time.Duration
}

// NewWorkerMetricsCollector makes a collector and takes a first reading, which
// processor use is counted from. It fails if the system does not tell about the
// process. On systems other than Linux, macOS, Windows, FreeBSD and OpenBSD
// memory and processor use are 0, and that is no error.
func NewWorkerMetricsCollector() (*WorkerMetricsCollector, error) {
	return newCollector(processReader(runtime.GOOS))
}

// processReader reads the figures that a system tells, if it tells any.
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
		return nil, fmt.Errorf("iii: read process figures: %w", err)
	}
	now := time.Now()
	c := &WorkerMetricsCollector{read: read, began: now, figures: figures, cpuFrom: now, cpuTime: figures.user + figures.system}
	c.sample = c.newSample(now, 0)
	return c, nil
}

// readProcess reads the figures of this process. $HOST_PROC does not apply: it
// is another process that has our id there.
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

// Collect returns a sample that is at most 500 ms old. CPUPercent is the
// processor time used since the sample before, or since the collector was made,
// over the time that went by, 100 for one core and at most 100 for each; it stays
// as it was while less than 200 ms went by. UptimeSeconds counts from when the
// collector was made. With an error, which is ctx's or that of reading, the
// figures are the latest that could be read.
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
	if !c.sampled.IsZero() && now.Sub(c.sampled) < metricsCached {
		return c.sample, c.err
	}
	c.sampled, c.err = now, nil
	percent := c.sample.CPUPercent
	if figures, err := c.read(ctx); err != nil {
		c.err = fmt.Errorf("iii: read process figures: %w", err)
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
		c.sampled = time.Time{} // the failure is this caller's alone
	}
	return c.sample, c.err
}

func (c *WorkerMetricsCollector) newSample(now time.Time, percent float32) processSample {
	return processSample{
		WorkerMetrics: WorkerMetrics{
			CPUPercent: percent, MemoryRss: c.figures.rss, MemoryVirtual: c.figures.virtual, Runtime: "go",
			TimestampMs: uint64(now.UnixMilli()), UptimeSeconds: now.Sub(c.began).Seconds(),
		},
		user: c.figures.user, system: c.figures.system,
	}
}

func cpuPercent(cpu, wall time.Duration) float32 {
	percent := 100 * cpu.Seconds() / wall.Seconds()
	return float32(min(max(percent, 0), 100*float64(runtime.NumCPU())))
}
