package iiitest

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

// metricFrame returns a frame of metrics.
func metricFrame(metrics ...string) string {
	return `MTRC{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"svc"}}]},` +
		`"scopeMetrics":[{"scope":{"name":"lib"},"metrics":[` + strings.Join(metrics, ",") + `]}]}]}`
}

func gauge(name, points string) string {
	return fmt.Sprintf(`{"name":%q,"gauge":{"dataPoints":[%s]}}`, name, points)
}

func TestMetric(t *testing.T) {
	e := Start(t)
	take(t, e, metricFrame(
		`{"name":"sum","description":"d","unit":"1","sum":{"isMonotonic":true,"aggregationTemporality":1,"dataPoints":[{
			"attributes":[{"key":"k","value":{"intValue":7}}],"startTimeUnixNano":"1000000001","timeUnixNano":"1000000002","asInt":"9007199254740993","flags":1,
			"exemplars":[{"timeUnixNano":"1000000003","asInt":5,"traceId":"t","spanId":"s","filteredAttributes":[{"key":"f","value":{"boolValue":true}}]},{"asDouble":0.5}]}]}}`,
		`{"name":"up down","sum":{"aggregationTemporality":2,"dataPoints":[{"asDouble":-1.5},{}]}}`,
		`{"name":"histogram","histogram":{"aggregationTemporality":2,"dataPoints":[{"count":"3","sum":4.5,"min":0.5,"max":3,"bucketCounts":["1",2],"explicitBounds":[1]},{"count":1}]}}`,
		`{"name":"gauge","gauge":{"dataPoints":[{"asDouble":1,"asInt":2}]}}`,
		`{"name":"exponential","exponentialHistogram":{"dataPoints":[]}}`,
		`{"name":"summary","summary":7}`,
	))
	resource := Resource{Attributes: map[string]any{"service.name": "svc"}}
	sum, least, most := 4.5, 0.5, 3.0
	want := []Metric{
		{
			Name: "sum", Description: "d", Unit: "1", Type: Counter, Temporality: Delta,
			Points: []Point{{
				Attributes: map[string]any{"k": int64(7)}, Start: time.Unix(1, 1), Time: time.Unix(1, 2), Value: int64(9007199254740993), Flags: 1,
				Exemplars: []Exemplar{
					{Time: time.Unix(1, 3), Value: int64(5), TraceID: "t", SpanID: "s", Attributes: map[string]any{"f": true}},
					{Value: 0.5},
				},
			}},
		},
		{Name: "up down", Type: UpDownCounter, Temporality: Cumulative, Points: []Point{{Value: -1.5}, {}}},
		{
			Name: "histogram", Type: Histogram, Temporality: Cumulative,
			Points: []Point{{Count: 3, Sum: &sum, Min: &least, Max: &most, BucketCounts: []uint64{1, 2}, Bounds: []float64{1}}, {Count: 1}},
		},
		{Name: "gauge", Type: Gauge, Points: []Point{{Value: 1.0}}},
	}
	for i := range want {
		want[i].Resource, want[i].Scope = resource, Scope{Name: "lib"}
	}
	if diff := cmp.Diff(want, e.Metrics()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := e.Stats().MetricsSkipped; got != 2 {
		t.Errorf("%d skipped", got)
	}
}

func TestListMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		began := time.Now()
		ms := func(seconds int) int64 { return began.Add(time.Duration(seconds) * time.Second).UnixMilli() }
		for second, values := range []string{"1", "2", "3", "4", "5"} {
			time.Sleep(time.Until(began.Add(time.Duration(second*10) * time.Second)))
			take(t, e, metricFrame(
				gauge("a", `{"asInt":`+values+`}`), gauge("b", `{"asDouble":1e308},{"asDouble":1e308}`),
				`{"name":"h","histogram":{"dataPoints":[{"count":1,"sum":1}]}}`,
			))
		}
		names := func(r iii.MetricsListResult) string {
			var out []string
			for _, m := range r.SdkMetrics {
				out = append(out, fmt.Sprintf("%s@%d", m.Name, (int64(m.TimestampUnixNano)-began.UnixNano())/1e9))
			}
			return strings.Join(out, " ")
		}
		for input, want := range map[string]string{
			`{"metric_name":"a"}`: "a@0 a@10 a@20 a@30 a@40",
			`{"metric_name":"A"}`: "",
			fmt.Sprintf(`{"metric_name":"a","start_time":%d,"end_time":%d}`, ms(10), ms(30)): "a@10 a@20 a@30",
			fmt.Sprintf(`{"metric_name":"h","start_time":%d}`, ms(40)):                       "h@0 h@10 h@20 h@30 h@40",
			fmt.Sprintf(`{"start_time":%d,"end_time":%d}`, ms(1), ms(10)):                    "a@10 b@10 h@10",
		} {
			r := callBuiltin[iii.MetricsListResult](t, e, "engine::metrics::list", input)
			if diff := cmp.Diff(want, names(r)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", input, diff)
			}
			if timed := strings.Contains(input, "time"); timed != (r.Query != nil) {
				t.Errorf("%s: query %v", input, r.Query)
			}
		}
		summary := func(input string) []string {
			t.Helper()
			out := []string{}
			for _, m := range callBuiltin[struct {
				List []struct {
					Name                    string
					Start                   int64 `json:"bucket_start_ns"`
					End                     int64 `json:"bucket_end_ns"`
					Count                   int
					Sum, Min, Max, Avg, P50 *float64
					Percentiles             map[string]float64
				} `json:"aggregated_metrics"`
			}](t, e, "engine::metrics::list", input).List {
				of := func(f *float64) string {
					if f == nil {
						return "null"
					}
					return fmt.Sprint(*f)
				}
				out = append(out, fmt.Sprintf("%s %d-%d: %d %s %s..%s %s %v", m.Name, (m.Start-began.UnixNano())/1e9, (m.End-began.UnixNano())/1e9,
					m.Count, of(m.Sum), of(m.Min), of(m.Max), of(m.Avg), m.Percentiles))
			}
			return out
		}
		for input, want := range map[string][]string{
			// Sums that overflow float64 are null, because JSON cannot represent them.
			fmt.Sprintf(`{"start_time":%d,"end_time":%d,"aggregate_interval":60}`, ms(0), ms(60)): {
				"a 0-60: 5 15 1..5 3 map[p50:3 p75:4 p90:5 p95:5 p99:5]",
				"b 0-60: 10 null 1e+308..1e+308 null map[p50:1e+308 p75:1e+308 p90:1e+308 p95:1e+308 p99:1e+308]",
			},
			fmt.Sprintf(`{"start_time":%d,"end_time":%d,"aggregate_interval":30}`, ms(20), ms(30)): {
				"a 0-30: 1 3 3..3 3 map[]", "b 0-30: 2 null 1e+308..1e+308 null map[]",
				"a 30-60: 1 4 4..4 4 map[]", "b 30-60: 2 null 1e+308..1e+308 null map[]",
			},
			fmt.Sprintf(`{"start_time":%d,"aggregate_interval":30}`, ms(0)):                          {},
			fmt.Sprintf(`{"start_time":%d,"end_time":%d,"aggregate_interval":0}`, ms(0), ms(60)):     {},
			fmt.Sprintf(`{"start_time":%d,"end_time":%d,"aggregate_interval":60}`, ms(100), ms(200)): {},
		} {
			if diff := cmp.Diff(want, summary(input)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", input, diff)
			}
		}
		for _, input := range []string{
			fmt.Sprintf(`{"start_time":0,"end_time":%d}`, uint64(math.MaxUint64)),
			fmt.Sprintf(`{"start_time":0,"end_time":1,"aggregate_interval":%d}`, uint64(math.MaxUint64)),
		} {
			if got := refused(t, e, "engine::metrics::list", input); !strings.HasPrefix(got, "time_value_overflow: ") {
				t.Errorf("%s: %s", input, got)
			}
		}
	})
}

func TestLatestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		c := dial(t, e).register("w")
		latest := func() any {
			worker := c.call("engine::workers::info", `{"name":"w"}`)["result"].(map[string]any)["worker"].(map[string]any)
			return worker["latest_metrics"]
		}
		of := func(worker, value string) string {
			return fmt.Sprintf(`{%s,"attributes":[{"key":"worker.id","value":{"stringValue":%q}},{"key":"worker.name","value":{"stringValue":"w"}}]}`, value, worker)
		}
		if got := latest(); got != nil {
			t.Errorf("before any: %v", got)
		}
		take(t, e, metricFrame(gauge("iii.worker.memory.rss", of(c.id, `"asInt":1`)), gauge("iii.worker.cpu.percent", of("another", `"asDouble":99`))))
		time.Sleep(time.Minute)
		take(t, e, metricFrame(
			gauge("iii.worker.memory.heap_used", of(c.id, `"asDouble":2.9`)),
			gauge("iii.worker.memory.heap_total", of(c.id, `"asInt":"3"`)),
			gauge("iii.worker.memory.external", of(c.id, `"asInt":-4`)),
			gauge("iii.worker.memory.virtual", of(c.id, `"asInt":5`)),
			gauge("iii.worker.cpu.user_micros", of(c.id, `"asDouble":1e300`)),
			gauge("iii.worker.cpu.system_micros", of(c.id, `"asInt":7`)),
			gauge("iii.worker.cpu.percent", of(c.id, `"asDouble":12.5`)),
			gauge("iii.worker.event_loop.lag_ms", of(c.id, `"asInt":8`)),
			gauge("iii.worker.uptime_seconds", of(c.id, `"asDouble":61.9`)),
			`{"name":"iii.worker.memory.rss","histogram":{"dataPoints":[`+of(c.id, `"count":1`)+`]}}`,
		))
		at := float64(time.Now().UnixMilli())
		want := map[string]any{
			"memory_rss": 1.0, "memory_heap_used": 2.0, "memory_heap_total": 3.0, "memory_external": 0.0,
			"cpu_user_micros": float64(math.MaxUint64), "cpu_system_micros": 7.0, "cpu_percent": 12.5, "event_loop_lag_ms": 8.0,
			"uptime_seconds": 61.0, "runtime": "node", "timestamp_ms": at,
		}
		if diff := cmp.Diff(any(want), latest()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		time.Sleep(time.Minute) // the first export is now too old
		delete(want, "memory_rss")
		if diff := cmp.Diff(any(want), latest()); diff != "" {
			t.Errorf("two minutes after the first (-want +got):\n%s", diff)
		}
		time.Sleep(time.Hour)
		if got := latest(); got != nil {
			t.Errorf("an hour later: %v", got)
		}
	})
}

func TestMetricNamesAreBounded(t *testing.T) {
	e := storesOnly(2*maxMetricNames, 64<<20)
	var frames []string
	for i := range maxMetricNames + 1 {
		frames = append(frames, gauge(fmt.Sprint("m", i), `{}`))
	}
	take(t, e, metricFrame(frames...), metricFrame(gauge("m7", `{}`), gauge("new", `{}`)))
	if got, want := e.metrics.stored(), maxMetricNames+1; got != want {
		t.Errorf("%d stored, want %d", got, want)
	}
	if got, want := len(e.Metrics()), maxMetricNames+3; got != want {
		t.Errorf("%d arrived, want %d", got, want)
	}
}

func TestReportsAreEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		now := time.Now().UnixMilli()
		for id, test := range map[string]struct{ input, want string }{
			"engine::rollups::list": {
				`{"level":2,"end_time":5}`,
				fmt.Sprintf(`{"histogram_rollups":[],"level":2,"query":{"end_time":5,"metric_name":null,"start_time":null},"rollups":[],"timestamp":%d}`, now),
			},
			"engine::alerts::list":     {`{}`, fmt.Sprintf(`{"alerts":[],"firing_count":0,"rules":[],"timestamp":%d}`, now)},
			"engine::alerts::evaluate": {`{}`, fmt.Sprintf(`{"evaluated":true,"timestamp":%d,"triggered_alerts":[]}`, now)},
			"engine::sampling::rules": {
				`{}`, fmt.Sprintf(`{"logs":{"sampling_ratio":1.0},"timestamp":%d,"traces":{"default_ratio":1.0,"parent_based":true,"rules":[]}}`, now),
			},
		} {
			got, bad := e.invoke(t.Context(), id, defaultNamespace, []byte(test.input))
			if bad != nil {
				t.Fatal(bad)
			}
			sorted, err := canonical(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(sorted)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", id, diff)
			}
		}
		take(t, e, spanFrame(testSpan{trace: "1", id: "a", start: 1, end: 2}), metricFrame(gauge("a", ``), gauge("b", ``)),
			`LOGS{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{},{}]}]}]}`)
		details := func(c iii.HealthComponent) string { return string(c.Details) }
		health := callBuiltin[iii.HealthReport](t, e, "engine::health::check", `{}`).Components
		got := []string{details(health.Spans), details(health.Metrics), details(health.Logs)}
		_, bytes := e.spans.stored()
		want := []string{
			fmt.Sprintf(`{"archive":{"archive":"disabled","completeness":"complete","known_dropped_spans":0,"last_error":null,"max_disk_bytes":0,"physical_bytes":0},"hot_bytes":%d,"stored_spans":1}`, bytes),
			`{"stored_metrics":2}`, `{"stored_logs":3}`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("health (-want +got):\n%s", diff)
		}
	})
}
