package iiitest

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
)

const (
	// maxMetricNames is the maximum number of distinct metric names. Once it is reached,
	// metrics with new names are dropped.
	maxMetricNames = 10_000
	// gaugeWindow is the maximum age of the gauges in engine::workers::info.
	gaugeWindow = 120 * time.Second
)

// metricStore stores the metrics for engine::metrics::list. It keeps one record per metric and
// export, in order of arrival.
type metricStore struct {
	changes atomic.Uint64 // number of changes

	mu      sync.Mutex
	records recent[metricRecord]
	names   map[string]bool
}

func (s *metricStore) init(items, bytes int) {
	s.records = recent[metricRecord]{maxItems: items, maxBytes: bytes, size: func(m metricRecord) int { return m.size }}
	s.names = make(map[string]bool)
}

func (s *metricStore) add(list []metricRecord) {
	defer s.changes.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range list {
		if !s.names[m.metric.Name] {
			if len(s.names) == maxMetricNames {
				continue
			}
			s.names[m.metric.Name] = true
		}
		s.records.add(m)
	}
}

func (s *metricStore) all() []metricRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records.all()
}

// newest returns the most recent records, but no more than limit, in order of arrival. It
// omits records that arrived before since.
func (s *metricStore) newest(since time.Time, limit int) []metricRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := len(s.records.list)
	for first > 0 && len(s.records.list)-first < limit && !s.records.list[first-1].arrived.Before(since) {
		first--
	}
	return slices.Clone(s.records.list[first:])
}

func (s *metricStore) stored() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records.list)
}

// workerGauges maps worker gauges to their keys in engine::workers::info. whole is set for
// values that are truncated to integers.
var workerGauges = map[string]struct {
	name  string
	whole bool
}{
	"iii.worker.memory.heap_used":  {"memory_heap_used", true},
	"iii.worker.memory.heap_total": {"memory_heap_total", true},
	"iii.worker.memory.rss":        {"memory_rss", true},
	"iii.worker.memory.external":   {"memory_external", true},
	"iii.worker.cpu.user_micros":   {"cpu_user_micros", true},
	"iii.worker.cpu.system_micros": {"cpu_system_micros", true},
	"iii.worker.cpu.percent":       {"cpu_percent", false},
	"iii.worker.event_loop.lag_ms": {"event_loop_lag_ms", false},
	"iii.worker.uptime_seconds":    {"uptime_seconds", true},
}

// ofWorker returns the latest gauges of the worker with the given id, or nil if there are
// none. As in the engine, the key runtime is always "node".
func (s *metricStore) ofWorker(id string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := time.Now().Add(-gaugeWindow)
	var latest map[string]any
	for i := len(s.records.list) - 1; i >= 0 && s.records.list[i].arrived.After(since); i-- {
		m := &s.records.list[i]
		gauge, known := workerGauges[m.metric.Name]
		if !known || m.metric.Type == Histogram {
			continue
		}
		for _, p := range m.points {
			if !slices.Contains(p.attributes, iii.StoredAttribute{"worker.id", id}) {
				continue
			}
			if latest == nil {
				latest = map[string]any{"runtime": "node", "timestamp_ms": m.arrived.UnixMilli()}
			}
			if _, newer := latest[gauge.name]; newer {
				continue
			}
			if gauge.whole {
				latest[gauge.name] = wholeNumber(p.value)
			} else {
				latest[gauge.name] = float(p.value)
			}
		}
	}
	return latest
}

// wholeNumber truncates f to an unsigned integer.
func wholeNumber(f float64) uint64 {
	switch {
	case !(f > 0):
		return 0
	case f >= math.MaxUint64:
		return math.MaxUint64
	default:
		return uint64(f)
	}
}
