package iii

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// resourceMetrics is what a reader collects, with these data.
func resourceMetrics(data ...metricdata.Aggregation) *metricdata.ResourceMetrics {
	sm := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: "m"}}
	for _, d := range data {
		sm.Metrics = append(sm.Metrics, metricdata.Metrics{Name: "n", Description: "d", Unit: "u", Data: d})
	}
	return &metricdata.ResourceMetrics{Resource: resource.NewSchemaless(attribute.String("service.name", "s")), ScopeMetrics: []metricdata.ScopeMetrics{sm}}
}

// encodeMetrics encodes data and returns the metrics of the frame, if there is
// one.
func encodeMetrics(t *testing.T, data ...metricdata.Aggregation) (metrics []any, lost otlpLosses) {
	t.Helper()
	frames, lost := encoded(t, wholeFrame, func(e *otlpEncoder) []telemetryFrame { return e.metrics(resourceMetrics(data...)) })
	if len(frames) == 0 {
		return nil, lost
	}
	metrics, _ = at(decoded(t, frames[0].data), "resourceMetrics", 0, "scopeMetrics", 0, "metrics").([]any)
	return metrics, lost
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var testSet = attribute.NewSet(attribute.String("region", "eu"))

func TestEncodeMetrics(t *testing.T) {
	start, now := testTime, testTime.Add(time.Minute)
	exemplar := metricdata.Exemplar[int64]{
		FilteredAttributes: []attribute.KeyValue{attribute.Int("user", 7)}, Time: now, Value: 5,
		SpanID: testSpan[:], TraceID: testTrace[:],
	}
	const head = `{"description":"d",`
	const begun = `"startTimeUnixNano":"1767225600000000000",`
	const times = begun + `"timeUnixNano":"1767225660000000000"`
	const attrs = `"attributes":[{"key":"region","value":{"stringValue":"eu"}}]`
	for _, test := range []struct {
		name string
		data metricdata.Aggregation
		want string
	}{
		{
			"counter",
			metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true, DataPoints: []metricdata.DataPoint[int64]{
				{Attributes: testSet, StartTime: start, Time: now, Value: 42, Exemplars: []metricdata.Exemplar[int64]{exemplar, {Time: now, Value: 6}}},
				{StartTime: start, Time: now, Value: -1},
			}},
			head + `"name":"n","sum":{"aggregationTemporality":2,"dataPoints":[{"asInt":"42",` + attrs + `,"exemplars":[{"asInt":"5","filteredAttributes":[{"key":"user","value":{"intValue":7}}],"spanId":"00f067aa0ba902b7","timeUnixNano":"1767225660000000000","traceId":"4bf92f3577b34da6a3ce929d0e0e4736"},{"asInt":"6","timeUnixNano":"1767225660000000000"}],` + times + `},{"asInt":"-1",` + times + `}],"isMonotonic":true},"unit":"u"}`,
		},
		{
			"float sum, delta",
			metricdata.Sum[float64]{Temporality: metricdata.DeltaTemporality, DataPoints: []metricdata.DataPoint[float64]{{StartTime: start, Time: now, Value: 0.5}}},
			head + `"name":"n","sum":{"aggregationTemporality":1,"dataPoints":[{"asDouble":0.5,` + times + `}],"isMonotonic":false},"unit":"u"}`,
		},
		{
			"gauge without start",
			metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{{Time: now, Value: 7}}},
			head + `"gauge":{"dataPoints":[{"asInt":"7","timeUnixNano":"1767225660000000000"}]},"name":"n","unit":"u"}`,
		},
		{
			"float gauge",
			metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{StartTime: start, Time: now, Value: 21.5}}},
			head + `"gauge":{"dataPoints":[{"asDouble":21.5,` + times + `}]},"name":"n","unit":"u"}`,
		},
		{
			"float histogram",
			metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality, DataPoints: []metricdata.HistogramDataPoint[float64]{{
				Attributes: testSet, StartTime: start, Time: now, Count: 3, Sum: 0.42, Bounds: []float64{0.1, 1}, BucketCounts: []uint64{1, 2, 0},
				Min: metricdata.NewExtrema(0.02), Max: metricdata.NewExtrema(0.3),
			}}},
			head + `"histogram":{"aggregationTemporality":2,"dataPoints":[{` + attrs + `,"bucketCounts":["1","2","0"],"count":"3","explicitBounds":[0.1,1],"max":0.3,"min":0.02,` + begun + `"sum":0.42,"timeUnixNano":"1767225660000000000"}]},"name":"n","unit":"u"}`,
		},
		{
			"histogram without buckets and extrema",
			metricdata.Histogram[float64]{Temporality: metricdata.DeltaTemporality, DataPoints: []metricdata.HistogramDataPoint[float64]{{Time: now, Count: 3, Sum: 2}}},
			head + `"histogram":{"aggregationTemporality":1,"dataPoints":[{"count":"3","sum":2,"timeUnixNano":"1767225660000000000"}]},"name":"n","unit":"u"}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, lost := encodeMetrics(t, test.data)
			if len(got) != 1 || lost != (otlpLosses{}) {
				t.Fatalf("got %d metrics, lost %+v", len(got), lost)
			}
			if diff := cmp.Diff(test.want, jsonText(t, got[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func checkTemporalities(t *testing.T) {
	t.Helper()
	for temporality, want := range map[metricdata.Temporality]json.Number{
		metricdata.CumulativeTemporality: "2", metricdata.DeltaTemporality: "1",
	} {
		got, _ := encodeMetrics(t,
			metricdata.Sum[int64]{Temporality: temporality, IsMonotonic: true, DataPoints: make([]metricdata.DataPoint[int64], 1)},
			metricdata.Sum[float64]{Temporality: temporality, DataPoints: make([]metricdata.DataPoint[float64], 1)},
			metricdata.Histogram[int64]{Temporality: temporality, DataPoints: make([]metricdata.HistogramDataPoint[int64], 1)},
			metricdata.ExponentialHistogram[int64]{Temporality: temporality, DataPoints: make([]metricdata.ExponentialHistogramDataPoint[int64], 1)},
		)
		for i, kind := range []string{"sum", "sum", "histogram", "histogram"} {
			if n := at(got, i, kind, "aggregationTemporality"); n != want {
				t.Errorf("%v, metric %d: %v, want %v", temporality, i, n, want)
			}
		}
		if m := at(got, 0, "sum", "isMonotonic"); m != true {
			t.Errorf("monotonic: %v", m)
		}
	}
}

func TestChecklistLargeIntegers(t *testing.T) {
	const big = math.MaxInt64
	got, lost := encodeMetrics(t,
		metricdata.Sum[int64]{DataPoints: []metricdata.DataPoint[int64]{{Value: big}, {Value: math.MinInt64}}},
		metricdata.Histogram[int64]{DataPoints: []metricdata.HistogramDataPoint[int64]{{
			Count: math.MaxUint64, Sum: big, Min: metricdata.NewExtrema[int64](math.MinInt64), Max: metricdata.NewExtrema[int64](big),
			Bounds: []float64{1}, BucketCounts: []uint64{1<<53 + 1, math.MaxUint64},
		}}},
	)
	if lost != (otlpLosses{}) {
		t.Errorf("lost %+v", lost)
	}
	for _, test := range []struct {
		want any
		path []any
	}{
		{"9223372036854775807", []any{0, "sum", "dataPoints", 0, "asInt"}},
		{"-9223372036854775808", []any{0, "sum", "dataPoints", 1, "asInt"}},
		{"18446744073709551615", []any{1, "histogram", "dataPoints", 0, "count"}},
		{"9007199254740993", []any{1, "histogram", "dataPoints", 0, "bucketCounts", 0}},
		{"18446744073709551615", []any{1, "histogram", "dataPoints", 0, "bucketCounts", 1}},
		{json.Number("9223372036854775807"), []any{1, "histogram", "dataPoints", 0, "sum"}},
		{json.Number("-9223372036854775808"), []any{1, "histogram", "dataPoints", 0, "min"}},
		{json.Number("9223372036854775807"), []any{1, "histogram", "dataPoints", 0, "max"}},
	} {
		if got := at(got, test.path...); got != test.want {
			t.Errorf("%v: got %v, want %v", test.path, got, test.want)
		}
	}
	e := &otlpEncoder{limit: wholeFrame, stop: math.MaxInt}
	e.caps = e.uncapped()
	v := attribute.Int64SliceValue([]int64{big, 1<<53 + 1})
	if got := string(e.value(nil, &v, 0)); got != `{"arrayValue":{"values":[{"intValue":"9223372036854775807"},{"intValue":"9007199254740993"}]}}` {
		t.Errorf("attribute: %s", got)
	}
}

// JSON has no number for NaN and infinities: points that are one are left out and
// counted, and what else a histogram knows is kept.
func TestChecklistNonFinite(t *testing.T) {
	for _, odd := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		got, lost := encodeMetrics(t,
			metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{Value: odd}, {Value: 1}}},
			metricdata.Sum[float64]{DataPoints: []metricdata.DataPoint[float64]{{Value: odd}}},
			metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{{
				Count: 2, Sum: odd, Min: metricdata.NewExtrema(odd), Max: metricdata.NewExtrema(odd),
				Bounds: []float64{1}, BucketCounts: []uint64{1, 1},
				Exemplars: []metricdata.Exemplar[float64]{{Value: odd}, {Value: 2}},
			}}},
			metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{{
				Count: 10, Bounds: []float64{math.Inf(-1), 1, math.NaN(), 2, math.Inf(1)}, BucketCounts: []uint64{1, 2, 1, 3, 2, 1},
			}}},
			metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{{ // not as many buckets as it must have
				Count: 10, Bounds: []float64{1, 2}, BucketCounts: []uint64{1, 2},
			}}},
			metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{Attributes: attribute.NewSet(attribute.Float64("a", odd))}}},
		)
		if want := (otlpLosses{points: 2, values: 3}); lost != want {
			t.Errorf("%v: lost %+v, want %+v", odd, lost, want)
		}
		name := map[bool]string{true: "NaN", false: "Infinity"}[odd != odd]
		if odd < 0 {
			name = "-Infinity"
		}
		want := []string{
			`{"dataPoints":[{"asDouble":1,"timeUnixNano":"0"}]}`,
			`{"aggregationTemporality":2,"dataPoints":[{"bucketCounts":["1","1"],"count":"2","exemplars":[{"asDouble":2,"timeUnixNano":"0"}],"explicitBounds":[1],"timeUnixNano":"0"}]}`,
			`{"aggregationTemporality":2,"dataPoints":[{"bucketCounts":["3","4","3"],"count":"10","explicitBounds":[1,2],"sum":0,"timeUnixNano":"0"}]}`,
			`{"aggregationTemporality":2,"dataPoints":[{"count":"10","sum":0,"timeUnixNano":"0"}]}`,
			`{"dataPoints":[{"asDouble":0,"attributes":[{"key":"a","value":{"stringValue":"` + name + `"}}],"timeUnixNano":"0"}]}`,
		}
		if len(got) != len(want) {
			t.Fatalf("%v: got %d metrics, want %d: %v", odd, len(got), len(want), got)
		}
		for i := range got {
			m := got[i].(map[string]any)
			data := m["gauge"]
			if data == nil {
				data = m["histogram"]
			}
			if diff := cmp.Diff(want[i], jsonText(t, data)); diff != "" {
				t.Errorf("%v, metric %d (-want +got):\n%s", odd, i, diff)
			}
		}
	}
}

func TestEncodeSummary(t *testing.T) {
	got, lost := encodeMetrics(t, metricdata.Summary{DataPoints: []metricdata.SummaryDataPoint{
		{
			Attributes: testSet, Time: testTime, Count: math.MaxUint64, Sum: 1.5,
			QuantileValues: []metricdata.QuantileValue{{Quantile: 0.5, Value: 1}, {Quantile: 0.9, Value: math.NaN()}, {Quantile: 1, Value: 2}},
		},
		{Time: testTime, Count: 1, Sum: math.NaN()},
	}})
	if want := (otlpLosses{points: 2}); lost != want {
		t.Errorf("lost %+v, want %+v", lost, want)
	}
	const when = `"timeUnixNano":"1767225600000000000"}`
	const region = `{"key":"region","value":{"stringValue":"eu"}}]`
	want := []string{
		`{"description":"d","gauge":{"dataPoints":[{"asDouble":1,"attributes":[{"key":"quantile","value":{"doubleValue":0.5}},` + region + `,` + when +
			`,{"asDouble":2,"attributes":[{"key":"quantile","value":{"doubleValue":1}},` + region + `,` + when + `]},"name":"n","unit":"u"}`,
		`{"description":"d","name":"n_count","sum":{"aggregationTemporality":2,"dataPoints":[{"asInt":"9223372036854775807","attributes":[` + region + `,` + when +
			`,{"asInt":"1",` + when + `],"isMonotonic":true},"unit":"u"}`,
		`{"description":"d","name":"n_sum","sum":{"aggregationTemporality":2,"dataPoints":[{"asDouble":1.5,"attributes":[` + region + `,` + when + `],"isMonotonic":false},"unit":"u"}`,
	}
	if len(got) != len(want) {
		t.Fatalf("got %d metrics", len(got))
	}
	for i := range want {
		if diff := cmp.Diff(want[i], jsonText(t, got[i])); diff != "" {
			t.Errorf("metric %d (-want +got):\n%s", i, diff)
		}
	}
}

// What has no points is left out, and so is a kind that is not known.
func TestEncodeEmptyMetrics(t *testing.T) {
	got, lost := encodeMetrics(t,
		metricdata.Gauge[int64]{}, metricdata.Sum[float64]{}, metricdata.Histogram[int64]{},
		metricdata.ExponentialHistogram[float64]{}, metricdata.Summary{}, nil,
	)
	if got != nil {
		t.Errorf("got %v", got)
	}
	if want := (otlpLosses{metrics: 1}); lost != want {
		t.Errorf("lost %+v, want %+v", lost, want)
	}
	if frames, _ := encoded(t, wholeFrame, func(e *otlpEncoder) []telemetryFrame { return e.metrics(&metricdata.ResourceMetrics{}) }); len(frames) != 0 {
		t.Errorf("nothing collected: %d frames", len(frames))
	}
}
