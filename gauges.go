package iii

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// WorkerGaugesHandle is a registration of [RegisterWorkerGauges]; the zero value is
// of no use. It may be used from several goroutines at once.
type WorkerGaugesHandle struct {
	stop func() error
}

// RegisterWorkerGauges reports the process's figures as gauges of m whenever
// metrics are collected, each with the attribute worker.id and, if given,
// worker.name. The engine shows the latest in its listing of workers if the id
// is the one that it gave to the worker's connection, [Client.WorkerID]. A
// client with [WithTelemetry] does all that by itself.
//
// The gauges are iii.worker.memory.rss, memory.virtual, memory.heap_used and
// memory.heap_total (By), cpu.percent (%), cpu.user_micros and cpu.system_micros
// (us), uptime_seconds (s), go.goroutines and go.gc.pause_ms (ms, the total of the
// pauses so far).
func RegisterWorkerGauges(m metric.Meter, o WorkerGaugesOptions) (*WorkerGaugesHandle, error) {
	if m == nil {
		return nil, errors.New("iii: RegisterWorkerGauges: nil Meter")
	}
	if o.WorkerID == "" {
		return nil, errors.New("iii: RegisterWorkerGauges: no worker id")
	}
	return registerGauges(m, o.WorkerName, func() string { return o.WorkerID })
}

// Stop ends the reports. It may be called again.
func (h *WorkerGaugesHandle) Stop() error { return h.stop() }

// gauges are the instruments, in the order in which their values are observed.
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

// floatGauge says which of them are no whole numbers.
var floatGauge = map[string]bool{"iii.worker.cpu.percent": true, "iii.worker.uptime_seconds": true, "iii.worker.go.gc.pause_ms": true}

// registerGauges asks for the worker's id each time, and reports nothing while
// there is none.
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
			// Returned, it would make OpenTelemetry's reader drop all that it has
			// collected, of everybody. The figures are the latest that there are.
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

// gaugeValues are the values of gauges.
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
		float64(s.MemoryRss), float64(s.MemoryVirtual), value(0), value(0) + value(1) + value(2),
		float64(s.CPUPercent), float64(s.user.Microseconds()), float64(s.system.Microseconds()), s.UptimeSeconds,
		value(3), float64(gc.PauseTotal) / float64(time.Millisecond),
	}
}
