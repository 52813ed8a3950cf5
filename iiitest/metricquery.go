package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/iii-go/iii"
)

// registerMetrics adds the functions that query metrics, roll-ups, alerts and sampling rules.
// Roll-ups are always empty, as in a real engine. The development engine has no alerts and
// does no sampling.
func (e *Engine) registerMetrics() {
	add := func(id, description string, f builtinFunc) { e.addBuiltin(id, observabilityWorker, description, f) }
	add("engine::metrics::list", "List metrics", e.listMetrics)
	add("engine::rollups::list", "List roll-ups of metrics", listRollups)
	add("engine::alerts::list", "List alerts", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type AlertsListInput struct{}
		if _, bad := decodeInput[AlertsListInput](c.functionID, c.data); bad != nil {
			return nil, bad
		}
		return mustEncode(map[string]any{
			"alerts": []any{}, "rules": []any{}, "firing_count": 0, "timestamp": time.Now().UnixMilli(),
		}), nil
	})
	add("engine::alerts::evaluate", "Evaluate the rules of alerts", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type AlertsEvaluateInput struct{}
		if _, bad := decodeInput[AlertsEvaluateInput](c.functionID, c.data); bad != nil {
			return nil, bad
		}
		return mustEncode(map[string]any{
			"evaluated": true, "triggered_alerts": []any{}, "timestamp": time.Now().UnixMilli(),
		}), nil
	})
	add("engine::sampling::rules", "List the rules of sampling", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type LogsClearInput struct{} // the engine's name for this type
		if _, bad := decodeInput[LogsClearInput](c.functionID, c.data); bad != nil {
			return nil, bad
		}
		return mustEncode(map[string]any{
			"traces": map[string]any{"default_ratio": float(1), "rules": []any{}, "parent_based": true},
			"logs":   map[string]any{"sampling_ratio": float(1)}, "timestamp": time.Now().UnixMilli(),
		}), nil
	})
}

func listRollups(_ context.Context, c *call) (json.RawMessage, *wireError) {
	in, bad := decodeQuery[iii.RollupsListInput](c)
	if bad != nil {
		return nil, bad
	}
	query := &iii.RollupsListQuery{StartTime: in.StartTime, EndTime: in.EndTime}
	if in.MetricName != "" {
		query.MetricName = &in.MetricName
	}
	return mustEncode(iii.RollupsListResult{Level: &in.Level, Query: query, Timestamp: time.Now().UnixMilli()}), nil
}

func (e *Engine) listMetrics(_ context.Context, c *call) (json.RawMessage, *wireError) {
	in, bad := decodeQuery[iii.MetricsListInput](c)
	if bad != nil {
		return nil, bad
	}
	records := e.metrics.all()
	between := in.StartTime != nil && in.EndTime != nil // a single bound is ignored
	if between {
		start, end, ok := timeRange(*in.StartTime, *in.EndTime)
		if !ok {
			return nil, errorBody("time_value_overflow", "time value out of range")
		}
		records = slices.DeleteFunc(records, func(m metricRecord) bool {
			at := uint64(m.arrived.UnixNano())
			return at < start || at > end
		})
	}
	listed := []map[string]any{}
	for i := range records {
		if in.MetricName == "" || records[i].metric.Name == in.MetricName {
			listed = append(listed, records[i].listed())
		}
	}
	result := map[string]any{
		"engine_metrics": iii.EngineMetrics{}, "sdk_metrics": listed, "timestamp": time.Now().UnixMilli(),
	}
	if between && in.AggregateInterval != nil {
		aggregated, ok := aggregate(records, *in.AggregateInterval)
		if !ok {
			return nil, errorBody("time_value_overflow", "time value out of range")
		}
		if len(aggregated) > 0 {
			result["aggregated_metrics"] = aggregated
		}
	}
	if in.StartTime != nil || in.EndTime != nil || in.AggregateInterval != nil {
		query := iii.MetricsListQuery{StartTime: in.StartTime, EndTime: in.EndTime, AggregateInterval: in.AggregateInterval}
		if in.MetricName != "" {
			query.MetricName = &in.MetricName
		}
		result["query"] = query
	}
	return mustEncode(result), nil
}

// timeRange converts start and end from milliseconds to nanoseconds. It returns false if a
// result would overflow.
func timeRange(start, end uint64) (uint64, uint64, bool) {
	const most = math.MaxUint64 / uint64(time.Millisecond)
	if start > most || end > most {
		return 0, 0, false
	}
	return start * uint64(time.Millisecond), end * uint64(time.Millisecond), true
}

// bucket identifies a metric and an interval.
type bucket struct {
	name  string
	start uint64
}

// aggregate summarizes each metric's values over intervals of the given length in seconds. It
// skips histograms. It adds up the values of all exports, even if they are cumulative. It
// returns false if the length is too large.
func aggregate(records []metricRecord, seconds uint64) ([]map[string]any, bool) {
	if seconds == 0 {
		return nil, true
	}
	if seconds > math.MaxInt64/uint64(time.Second) {
		return nil, false
	}
	interval := seconds * uint64(time.Second)
	values := make(map[bucket][]float64)
	for _, m := range records {
		if m.metric.Type == Histogram {
			continue
		}
		at := uint64(m.arrived.UnixNano())
		b := bucket{m.metric.Name, at - at%interval}
		for _, p := range m.points {
			values[b] = append(values[b], p.value)
		}
	}
	order := slices.SortedFunc(maps.Keys(values), func(a, b bucket) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.name, b.name))
	})
	list := make([]map[string]any, len(order))
	for i, b := range order {
		list[i] = b.summary(values[b], interval)
	}
	return list, true
}

func (b bucket) summary(values []float64, interval uint64) map[string]any {
	slices.Sort(values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	n := len(values)
	summary := map[string]any{
		"name": b.name, "bucket_start_ns": b.start, "bucket_end_ns": b.start + interval, "count": n,
		"sum": float(sum), "min": float(values[0]), "max": float(values[n-1]), "avg": float(sum / float64(n)),
	}
	if n >= 5 {
		percentiles := make(map[string]float)
		for name, p := range map[string]float64{"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99} {
			percentiles[name] = float(values[int(math.Ceil(p*float64(n)))-1])
		}
		summary["percentiles"] = percentiles
	}
	return summary
}
