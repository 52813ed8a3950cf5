package iii

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

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

// checkConversion verifies that up to each bound there are as many values as the
// exponential buckets have whose upper end is not above it.
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
		if zeroBucket { // it takes in what it covers
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
			continue // bounds are nearer to each other than numbers are
		}
		if bound == threshold && len(positive.Counts)+len(negative.Counts) > maxConvertedBounds-4 {
			continue // of a joined bucket, some may have been within the threshold
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

// Integer histograms lose nothing, and exponential ones become explicit: at every
// scale, with zeros and negative values, as the SDK aggregates them.
func TestChecklistHistograms(t *testing.T) {
	got, lost := encodeMetrics(t, metricdata.Histogram[int64]{DataPoints: []metricdata.HistogramDataPoint[int64]{{
		Count: 3, Sum: 10, Min: metricdata.NewExtrema[int64](1), Max: metricdata.NewExtrema[int64](7), Bounds: []float64{5}, BucketCounts: []uint64{2, 1},
	}}})
	const want = `[{"description":"d","histogram":{"aggregationTemporality":2,"dataPoints":[{"bucketCounts":["2","1"],"count":"3","explicitBounds":[5],"max":7,"min":1,"sum":10,"timeUnixNano":"0"}]},"name":"n","unit":"u"}]`
	if diff := cmp.Diff(want, jsonText(t, got)); diff != "" || lost != (otlpLosses{}) {
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

// checkRecorded records values into an exponential histogram of the SDK and
// counts them again in what is sent.
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
	frames, lost := encoded(t, wholeFrame, func(e *otlpEncoder) []telemetryFrame { return e.metrics(&rm) })
	if len(frames) != 1 || lost != (otlpLosses{}) {
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
