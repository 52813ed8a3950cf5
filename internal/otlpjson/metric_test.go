package otlpjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/iii-go/iii/internal/enginetest"
)

func resourceMetrics(data ...metricdata.Aggregation) *metricdata.ResourceMetrics {
	sm := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: "m"}}
	for _, d := range data {
		sm.Metrics = append(sm.Metrics, metricdata.Metrics{Name: "n", Description: "d", Unit: "u", Data: d})
	}
	return &metricdata.ResourceMetrics{Resource: resource.NewSchemaless(attribute.String("service.name", "s")), ScopeMetrics: []metricdata.ScopeMetrics{sm}}
}

func encodeMetrics(t *testing.T, data ...metricdata.Aggregation) (metrics []any, lost Losses) {
	t.Helper()
	frames, lost := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Metrics(resourceMetrics(data...)) })
	if len(frames) == 0 {
		return nil, lost
	}
	metrics, _ = enginetest.At(enginetest.DecodeJSON(t, frames[0].Data), "resourceMetrics", 0, "scopeMetrics", 0, "metrics").([]any)
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
			if len(got) != 1 || lost != (Losses{}) {
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
			if n := enginetest.At(got, i, kind, "aggregationTemporality"); n != want {
				t.Errorf("%v, metric %d: %v, want %v", temporality, i, n, want)
			}
		}
		if m := enginetest.At(got, 0, "sum", "isMonotonic"); m != true {
			t.Errorf("monotonic: %v", m)
		}
	}
}

func TestEncodeKeepsLargeIntegers(t *testing.T) {
	const big = math.MaxInt64
	got, lost := encodeMetrics(t,
		metricdata.Sum[int64]{DataPoints: []metricdata.DataPoint[int64]{{Value: big}, {Value: math.MinInt64}}},
		metricdata.Histogram[int64]{DataPoints: []metricdata.HistogramDataPoint[int64]{{
			Count: math.MaxUint64, Sum: big, Min: metricdata.NewExtrema[int64](math.MinInt64), Max: metricdata.NewExtrema[int64](big),
			Bounds: []float64{1}, BucketCounts: []uint64{1<<53 + 1, math.MaxUint64},
		}}},
	)
	if lost != (Losses{}) {
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
		if got := enginetest.At(got, test.path...); got != test.want {
			t.Errorf("%v: got %v, want %v", test.path, got, test.want)
		}
	}
	e := &Encoder{limit: wholeFrame, stop: math.MaxInt}
	e.caps = e.uncapped()
	v := attribute.Int64SliceValue([]int64{big, 1<<53 + 1})
	if got := string(e.value(nil, &v, 0)); got != `{"arrayValue":{"values":[{"intValue":"9223372036854775807"},{"intValue":"9007199254740993"}]}}` {
		t.Errorf("attribute: %s", got)
	}
}

// JSON cannot represent NaN or infinity. Points with such a value are omitted and counted.
// Histograms keep their other values.
func TestEncodeOmitsNonFinitePoints(t *testing.T) {
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
			metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{{ // too few buckets
				Count: 10, Bounds: []float64{1, 2}, BucketCounts: []uint64{1, 2},
			}}},
			metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{{Attributes: attribute.NewSet(attribute.Float64("a", odd))}}},
		)
		if want := (Losses{Points: 2, Values: 3}); lost != want {
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
	if want := (Losses{Points: 2}); lost != want {
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

func TestEncodeEmptyMetrics(t *testing.T) {
	got, lost := encodeMetrics(t,
		metricdata.Gauge[int64]{}, metricdata.Sum[float64]{}, metricdata.Histogram[int64]{},
		metricdata.ExponentialHistogram[float64]{}, metricdata.Summary{}, nil,
	)
	if got != nil {
		t.Errorf("got %v", got)
	}
	if want := (Losses{Metrics: 1}); lost != want {
		t.Errorf("lost %+v, want %+v", lost, want)
	}
	if frames, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Metrics(&metricdata.ResourceMetrics{}) }); len(frames) != 0 {
		t.Errorf("nothing collected: %d frames", len(frames))
	}
}

func converted(scale int32, threshold float64, zeros uint64, positive, negative metricdata.ExponentialBucket) explicitBuckets {
	var x explicitBuckets
	x.convert(scale, threshold, zeros, &positive, &negative)
	return x
}

func TestConvertExponential(t *testing.T) {
	type buckets = metricdata.ExponentialBucket
	for _, test := range []struct {
		name               string
		scale              int32
		threshold          float64
		zeros              uint64
		positive, negative buckets
		bounds             []float64
		counts             []uint64
	}{
		{name: "nothing", counts: []uint64{0}},
		{name: "empty buckets", positive: buckets{Counts: make([]uint64, 5)}, counts: []uint64{0}},
		{name: "zeros", zeros: 3, bounds: []float64{0}, counts: []uint64{3, 0}},
		{name: "zeros with a threshold", zeros: 3, threshold: 0.5, bounds: []float64{0.5}, counts: []uint64{3, 0}},
		{name: "positive", positive: buckets{Offset: 0, Counts: []uint64{1, 2}}, bounds: []float64{1, 2, 4}, counts: []uint64{0, 1, 2, 0}},
		{name: "empty at the ends", positive: buckets{Offset: -2, Counts: []uint64{0, 0, 1, 0, 2, 0}}, bounds: []float64{1, 2, 4, 8}, counts: []uint64{0, 1, 0, 2, 0}},
		{name: "fractions", scale: 1, positive: buckets{Offset: -2, Counts: []uint64{1, 2}}, bounds: []float64{0.5, math.Sqrt(0.5), 1}, counts: []uint64{0, 1, 2, 0}},
		{name: "negative", negative: buckets{Offset: 0, Counts: []uint64{1, 2}}, bounds: []float64{-4, -2, -1, 0}, counts: []uint64{0, 2, 1, 0, 0}},
		{
			name: "both and zeros", zeros: 5, threshold: 0.25,
			positive: buckets{Offset: 0, Counts: []uint64{1}}, negative: buckets{Offset: 1, Counts: []uint64{7}},
			bounds: []float64{-4, -2, -0.25, 0.25, 1, 2}, counts: []uint64{0, 7, 0, 5, 0, 1, 0},
		},
		{
			name: "zero bucket over others", zeros: 5, threshold: 3,
			positive: buckets{Offset: 0, Counts: []uint64{1, 2}}, negative: buckets{Offset: 0, Counts: []uint64{4, 8}},
			bounds: []float64{-4, -2, -1, 3, 4}, counts: []uint64{0, 8, 4, 6, 2, 0},
		},
		{name: "beyond all numbers", scale: -10, positive: buckets{Offset: 0, Counts: []uint64{1, 2}}, bounds: []float64{1}, counts: []uint64{0, 3}},
		{name: "below all numbers", scale: -10, positive: buckets{Offset: -3, Counts: []uint64{1, 2, 4}}, bounds: []float64{0, 0x1p-1024, 1}, counts: []uint64{1, 2, 4, 0}},
		{name: "negative beyond all numbers", scale: -10, negative: buckets{Offset: 0, Counts: []uint64{1, 2}}, bounds: []float64{-1, 0}, counts: []uint64{3, 0, 0}},
		{name: "threshold that is no number", threshold: math.NaN(), zeros: 1, positive: buckets{Counts: []uint64{2}}, bounds: []float64{1, 2}, counts: []uint64{1, 2, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := converted(test.scale, test.threshold, test.zeros, test.positive, test.negative)
			if diff := cmp.Diff(test.bounds, got.bounds, cmpopts.EquateApprox(1e-15, 0)); diff != "" {
				t.Errorf("bounds (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.counts, got.counts); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

// checkConversion checks the cumulative count at each explicit bound. It must equal the total
// count of the exponential buckets that end at or below the bound.
func checkConversion(t *testing.T, scale int32, threshold float64, zeros uint64, positive, negative metricdata.ExponentialBucket) {
	t.Helper()
	got := converted(scale, threshold, zeros, positive, negative)
	if len(got.bounds) > maxConvertedBounds || len(got.counts) != len(got.bounds)+1 {
		t.Fatalf("%d bounds, %d counts", len(got.bounds), len(got.counts))
	}
	type bucket struct {
		upper float64
		count uint64
	}
	buckets := []bucket{{threshold, zeros}}
	total := zeros
	for i, n := range negative.Counts {
		buckets = append(buckets, bucket{-exponentialBound(int64(negative.Offset)+int64(i), int(scale)), n})
		total += n
	}
	zeroBucket := total > 0
	for i, n := range positive.Counts {
		upper := exponentialBound(int64(positive.Offset)+int64(i)+1, int(scale))
		if zeroBucket { // values up to the threshold are in the zero bucket
			upper = max(upper, threshold)
		}
		buckets = append(buckets, bucket{upper, n})
		total += n
	}
	var cumulative uint64
	for i, bound := range got.bounds {
		if !finite(bound) || i > 0 && bound <= got.bounds[i-1] {
			t.Fatalf("bounds do not ascend: %v", got.bounds)
		}
		cumulative += got.counts[i]
		var want uint64
		for _, b := range buckets {
			if b.upper <= bound {
				want += b.count
			}
		}
		if scale > 40 {
			continue // the bounds are too close to differ
		}
		if bound == threshold && len(positive.Counts)+len(negative.Counts) > maxConvertedBounds-4 {
			continue // a part of a merged bucket may be within the threshold
		}
		if cumulative != want {
			t.Fatalf("scale %d: %d values up to %v, want %d", scale, cumulative, bound, want)
		}
	}
	if cumulative += got.counts[len(got.bounds)]; cumulative != total {
		t.Fatalf("%d values, want %d", cumulative, total)
	}
}

func FuzzConvertExponential(f *testing.F) {
	f.Add(int32(3), 0.0, uint64(2), int32(-4), int32(7), []byte{1, 2, 0, 3}, []byte{5})
	f.Add(int32(20), 1e-300, uint64(0), int32(math.MaxInt32), int32(math.MinInt32), make([]byte, 160), []byte{1, 0, 0, 1})
	f.Add(int32(-10), 0.5, uint64(1), int32(-1), int32(0), []byte{1, 1}, []byte{1, 1})
	f.Add(int32(59), -156.0, uint64(102), int32(math.MaxInt32-3), int32(math.MinInt32+10), bytes.Repeat([]byte("0"), 156), []byte("0"))
	f.Fuzz(func(t *testing.T, scale int32, threshold float64, zeros uint64, offset, offsetNegative int32, counts, countsNegative []byte) {
		buckets := func(offset int32, counts []byte) metricdata.ExponentialBucket {
			b := metricdata.ExponentialBucket{Offset: offset}
			for _, n := range counts[:min(len(counts), 1000)] {
				b.Counts = append(b.Counts, uint64(n))
			}
			return b
		}
		if threshold < 0 || !finite(threshold) { // the zero bucket is symmetric
			threshold = 0
		}
		checkConversion(t, scale%64, threshold, zeros%1000, buckets(offset, counts), buckets(offsetNegative, countsNegative))
	})
}

// Integer histograms are encoded without loss. Exponential histograms of all scales become
// explicit ones that also count zeros and negative values.
func TestEncodeHistograms(t *testing.T) {
	got, lost := encodeMetrics(t, metricdata.Histogram[int64]{DataPoints: []metricdata.HistogramDataPoint[int64]{{
		Count: 3, Sum: 10, Min: metricdata.NewExtrema[int64](1), Max: metricdata.NewExtrema[int64](7), Bounds: []float64{5}, BucketCounts: []uint64{2, 1},
	}}})
	const want = `[{"description":"d","histogram":{"aggregationTemporality":2,"dataPoints":[{"bucketCounts":["2","1"],"count":"3","explicitBounds":[5],"max":7,"min":1,"sum":10,"timeUnixNano":"0"}]},"name":"n","unit":"u"}]`
	if diff := cmp.Diff(want, jsonText(t, got)); diff != "" || lost != (Losses{}) {
		t.Errorf("integers: lost %+v (-want +got):\n%s", lost, diff)
	}

	random := rand.New(rand.NewPCG(1, 2))
	for scale := int32(-10); scale <= 20; scale++ {
		buckets := func(n int) metricdata.ExponentialBucket {
			b := metricdata.ExponentialBucket{Offset: random.Int32N(2000) - 1000, Counts: make([]uint64, n)}
			for i := range b.Counts {
				b.Counts[i] = random.Uint64N(3)
			}
			return b
		}
		for _, threshold := range []float64{0, 1e-9, 100} {
			checkConversion(t, scale, threshold, random.Uint64N(5), buckets(random.IntN(321)), buckets(random.IntN(321)))
		}
	}

	for _, size := range []int32{4, 20, 160} {
		for _, spread := range []float64{1, 10, 300} {
			t.Run(fmt.Sprintf("size %d spread %v", size, spread), func(t *testing.T) {
				var values []float64
				for range 2000 {
					values = append(values, random.NormFloat64()*math.Pow(10, (random.Float64()-0.5)*spread))
				}
				values = append(values, 0, 0, 0)
				checkRecorded(t, size, values)
			})
		}
	}
}

// checkRecorded records values in an SDK exponential histogram, encodes the histogram, and
// checks the counts in the frame.
func checkRecorded(t *testing.T, size int32, values []float64) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	p := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithView(sdkmetric.NewView(
		sdkmetric.Instrument{Name: "*"},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: size, MaxScale: 20}},
	)))
	h, err := p.Meter("m").Float64Histogram("h")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		h.Record(t.Context(), v)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	frames, lost := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Metrics(&rm) })
	if len(frames) != 1 || lost != (Losses{}) {
		t.Fatalf("%d frames, lost %+v", len(frames), lost)
	}
	point := rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
	got := converted(point.Scale, point.ZeroThreshold, point.ZeroCount, point.PositiveBucket, point.NegativeBucket)
	slices.Sort(values)
	var cumulative uint64
	for i, bound := range got.bounds {
		cumulative += got.counts[i]
		n, _ := slices.BinarySearch(values, math.Nextafter(bound, math.Inf(1)))
		if cumulative != uint64(n) {
			t.Errorf("%d values up to %v, want %d", cumulative, bound, n)
		}
	}
	if cumulative+got.counts[len(got.bounds)] != uint64(len(values)) {
		t.Errorf("%d values in all, want %d", cumulative, len(values))
	}
}
