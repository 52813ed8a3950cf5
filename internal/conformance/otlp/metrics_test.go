package otlp

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
)

// point is a data point of any kind, together with its metric's properties.
type point struct {
	Origin                  origin
	Name, Description, Unit string
	Kind                    pmetric.MetricType
	Temporality             pmetric.AggregationTemporality
	Monotonic               bool

	Attributes  map[string]any
	Start, Time uint64
	Value       any // of a gauge or a sum
	Exemplars   []sample

	Count         uint64
	Sum, Min, Max any // nil if absent
	Bounds        []float64
	Buckets       []uint64
}

type sample struct {
	Time            uint64
	Value           any
	TraceID, SpanID string
	Attributes      map[string]any
}

var temporalities = map[metricdata.Temporality]pmetric.AggregationTemporality{
	metricdata.CumulativeTemporality: pmetric.AggregationTemporalityCumulative,
	metricdata.DeltaTemporality:      pmetric.AggregationTemporalityDelta,
}

// recordedPoints returns a metric's expected points. It omits NaN and infinite values, and
// represents the sums, minimums and maximums of histograms as doubles.
func recordedPoints(base point, data metricdata.Aggregation) []point {
	switch a := data.(type) {
	case metricdata.Gauge[int64]:
		base.Kind = pmetric.MetricTypeGauge
		return recordedNumbers(base, a.DataPoints)
	case metricdata.Gauge[float64]:
		base.Kind = pmetric.MetricTypeGauge
		return recordedNumbers(base, a.DataPoints)
	case metricdata.Sum[int64]:
		base.Kind, base.Temporality, base.Monotonic = pmetric.MetricTypeSum, temporalities[a.Temporality], a.IsMonotonic
		return recordedNumbers(base, a.DataPoints)
	case metricdata.Sum[float64]:
		base.Kind, base.Temporality, base.Monotonic = pmetric.MetricTypeSum, temporalities[a.Temporality], a.IsMonotonic
		return recordedNumbers(base, a.DataPoints)
	case metricdata.Histogram[int64]:
		base.Kind, base.Temporality = pmetric.MetricTypeHistogram, temporalities[a.Temporality]
		return recordedHistograms(base, a.DataPoints)
	case metricdata.Histogram[float64]:
		base.Kind, base.Temporality = pmetric.MetricTypeHistogram, temporalities[a.Temporality]
		return recordedHistograms(base, a.DataPoints)
	case metricdata.ExponentialHistogram[int64]:
		base.Kind, base.Temporality = pmetric.MetricTypeHistogram, temporalities[a.Temporality]
		return recordedExponential(base, a.DataPoints)
	case metricdata.ExponentialHistogram[float64]:
		base.Kind, base.Temporality = pmetric.MetricTypeHistogram, temporalities[a.Temporality]
		return recordedExponential(base, a.DataPoints)
	}
	panic(fmt.Sprintf("data of type %T", data))
}

func recordedNumbers[N int64 | float64](base point, points []metricdata.DataPoint[N]) (list []point) {
	for _, p := range points {
		if p.Value-p.Value != 0 {
			continue
		}
		d := base
		d.Attributes, d.Start, d.Time, d.Value = recordedAttributes(p.Attributes.ToSlice()), nanos(p.StartTime), nanos(p.Time), any(p.Value)
		d.Exemplars = recordedExemplars(p.Exemplars)
		list = append(list, d)
	}
	return list
}

func recordedExemplars[N int64 | float64](exemplars []metricdata.Exemplar[N]) (list []sample) {
	for _, x := range exemplars {
		s := sample{Time: nanos(x.Time), Value: any(x.Value), Attributes: recordedAttributes(x.FilteredAttributes)}
		if len(x.TraceID) > 0 {
			s.TraceID, s.SpanID = trace.TraceID(x.TraceID).String(), trace.SpanID(x.SpanID).String()
		}
		if x.Value-x.Value == 0 {
			list = append(list, s)
		}
	}
	return list
}

// figure returns n as a double, or nil if ok is false or n is not finite.
func figure[N int64 | float64](n N, ok bool) any {
	if !ok || n-n != 0 {
		return nil
	}
	return float64(n)
}

func recordedHistograms[N int64 | float64](base point, points []metricdata.HistogramDataPoint[N]) (list []point) {
	for _, p := range points {
		d := base
		d.Attributes, d.Start, d.Time = recordedAttributes(p.Attributes.ToSlice()), nanos(p.StartTime), nanos(p.Time)
		d.Count, d.Bounds, d.Buckets = p.Count, p.Bounds, p.BucketCounts
		d.Sum, d.Min, d.Max = figure(p.Sum, true), figure(p.Min.Value()), figure(p.Max.Value())
		d.Exemplars = recordedExemplars(p.Exemplars)
		list = append(list, d)
	}
	return list
}

// recordedExponential returns an exponential histogram's expected points without their
// buckets, which checkBuckets checks.
func recordedExponential[N int64 | float64](base point, points []metricdata.ExponentialHistogramDataPoint[N]) (list []point) {
	for _, p := range points {
		d := base
		d.Attributes, d.Start, d.Time, d.Count = recordedAttributes(p.Attributes.ToSlice()), nanos(p.StartTime), nanos(p.Time), p.Count
		d.Sum, d.Min, d.Max = figure(p.Sum, true), figure(p.Min.Value()), figure(p.Max.Value())
		d.Exemplars = recordedExemplars(p.Exemplars)
		list = append(list, d)
	}
	return list
}

func decodedPoints(t *testing.T, frames [][]byte) (list []point) {
	t.Helper()
	for _, data := range frames {
		metrics, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(data)
		if err != nil {
			t.Fatalf("%v in %.1000s", err, data)
		}
		for _, rm := range metrics.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					list = append(list, decodedMetric(t, point{
						Origin: decodedOrigin(rm.Resource(), rm.SchemaUrl(), sm.Scope(), sm.SchemaUrl()),
						Name:   m.Name(), Description: m.Description(), Unit: m.Unit(), Kind: m.Type(),
					}, m)...)
				}
			}
		}
	}
	return list
}

func decodedMetric(t *testing.T, base point, m pmetric.Metric) (list []point) {
	t.Helper()
	var numbers pmetric.NumberDataPointSlice
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		numbers = m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		numbers = m.Sum().DataPoints()
		base.Temporality, base.Monotonic = m.Sum().AggregationTemporality(), m.Sum().IsMonotonic()
	case pmetric.MetricTypeHistogram:
		base.Temporality = m.Histogram().AggregationTemporality()
		for _, p := range m.Histogram().DataPoints().All() {
			list = append(list, decodedHistogram(base, p))
		}
		return list
	default:
		t.Errorf("metric %s is a %v", m.Name(), m.Type())
		return nil
	}
	for _, p := range numbers.All() {
		d := base
		d.Attributes, d.Start, d.Time = attributesOf(p.Attributes()), uint64(p.StartTimestamp()), uint64(p.Timestamp())
		switch p.ValueType() {
		case pmetric.NumberDataPointValueTypeInt:
			d.Value = p.IntValue()
		case pmetric.NumberDataPointValueTypeDouble:
			d.Value = p.DoubleValue()
		}
		d.Exemplars = decodedExemplars(p.Exemplars())
		list = append(list, d)
	}
	return list
}

func decodedHistogram(base point, p pmetric.HistogramDataPoint) point {
	base.Attributes, base.Start, base.Time = attributesOf(p.Attributes()), uint64(p.StartTimestamp()), uint64(p.Timestamp())
	base.Count, base.Bounds, base.Buckets = p.Count(), p.ExplicitBounds().AsRaw(), p.BucketCounts().AsRaw()
	base.Exemplars = decodedExemplars(p.Exemplars())
	if p.HasSum() {
		base.Sum = p.Sum()
	}
	if p.HasMin() {
		base.Min = p.Min()
	}
	if p.HasMax() {
		base.Max = p.Max()
	}
	return base
}

func decodedExemplars(exemplars pmetric.ExemplarSlice) (list []sample) {
	for _, x := range exemplars.All() {
		s := sample{Time: uint64(x.Timestamp()), TraceID: x.TraceID().String(), SpanID: x.SpanID().String(), Attributes: attributesOf(x.FilteredAttributes())}
		switch x.ValueType() {
		case pmetric.ExemplarValueTypeInt:
			s.Value = x.IntValue()
		case pmetric.ExemplarValueTypeDouble:
			s.Value = x.DoubleValue()
		}
		list = append(list, s)
	}
	return list
}

// instruments creates one instrument of each kind and records n values with each.
func (g *generator) instruments(t *testing.T, m metric.Meter, prefix string, n int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ic, err := m.Int64Counter(prefix+"int.counter", metric.WithUnit("{order}"), metric.WithDescription("Orders ☕"))
	must(err)
	iu, err := m.Int64UpDownCounter(prefix + "int.updown")
	must(err)
	ig, err := m.Int64Gauge(prefix+"int.gauge", metric.WithUnit("By"))
	must(err)
	ih, err := m.Int64Histogram(prefix + "int.histogram")
	must(err)
	fc, err := m.Float64Counter(prefix + "float.counter")
	must(err)
	fg, err := m.Float64Gauge(prefix + "float.gauge")
	must(err)
	fh, err := m.Float64Histogram(prefix + "float.histogram")
	must(err)
	_, err = m.Int64ObservableGauge(prefix+"observed", metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(math.MaxInt64, metric.WithAttributes(attribute.String("a", "b")))
		return nil
	}))
	must(err)
	for i := range n {
		ctx := t.Context()
		if g.IntN(2) == 0 {
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{2, byte(i)}, TraceFlags: trace.FlagsSampled,
			}))
		}
		set := metric.WithAttributes(append(g.attributes(2, 0), attribute.Int("i", g.IntN(20)))...)
		ic.Add(ctx, g.Int64N(1<<55), set)
		iu.Add(ctx, g.Int64N(1000)-500, set)
		ig.Record(ctx, g.integer(), set)
		ih.Record(ctx, g.Int64N(20_000)-1000, set)
		fc.Add(ctx, math.Abs(g.double()), set)
		fg.Record(ctx, g.double(), set)
		fh.Record(ctx, g.double(), set)
	}
}

func TestMetrics(t *testing.T) {
	for _, temporality := range []string{"cumulative", "delta"} {
		t.Run(temporality, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
			e, s := connect(t)
			g := newGenerator()
			exporter := iii.NewEngineMetricsExporter(s)
			reader := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(exporter.Temporality), sdkmetric.WithAggregationSelector(exporter.Aggregation))
			provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithExemplarFilter(exemplar.TraceBasedFilter),
				sdkmetric.WithResource(resource.NewWithAttributes("https://example.com/schema", g.attributes(9, 0)...)),
				// The attributes removed by the view appear in the exemplars.
				sdkmetric.WithView(sdkmetric.NewView(sdkmetric.Instrument{Name: "whole.float.*"}, sdkmetric.Stream{AttributeFilter: attribute.NewAllowKeysFilter("i")})),
			)
			g.instruments(t, provider.Meter("plain"), "plain.", 60)
			g.instruments(t, provider.Meter("whole", metric.WithInstrumentationVersion("v1"), metric.WithSchemaURL("https://example.com/scope"),
				metric.WithInstrumentationAttributes(attribute.Int("n", 1))), "whole.", 60)
			var rm metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &rm); err != nil {
				t.Fatal(err)
			}
			if err := exporter.Export(t.Context(), &rm); err != nil {
				t.Fatal(err)
			}
			var want []point
			exemplars := 0
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					want = append(want, recordedPoints(point{Origin: recordedOrigin(rm.Resource, sm.Scope), Name: m.Name, Description: m.Description, Unit: m.Unit}, m.Data)...)
				}
			}
			got := decodedPoints(t, frames(t, e, s, "MTRC"))
			if len(got) != len(want) || len(want) < 500 {
				t.Fatalf("%d points arrived, want %d", len(got), len(want))
			}
			for i := range want {
				exemplars += len(want[i].Exemplars)
				if d := diff(want[i], got[i]); d != "" {
					t.Fatalf("point %d (-recorded +decoded):\n%s", i, d)
				}
			}
			if exemplars == 0 {
				t.Error("there were no exemplars")
			}
			if s.Stats().Lost.NonFinite == 0 {
				t.Error("there was nothing that is no number")
			}
		})
	}
}

func TestExponentialHistograms(t *testing.T) {
	e, s := connect(t)
	g := newGenerator()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithView(sdkmetric.NewView(
		sdkmetric.Instrument{Name: "*"}, sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}},
	)))
	m := provider.Meter("m")
	ih, err := m.Int64Histogram("int")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := m.Float64Histogram("float")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]float64{}
	for range 3000 {
		spread := pick(g, "narrow", "wide")
		n := g.Int64N(10_000) - 2000
		f := g.NormFloat64()
		if spread == "wide" {
			f *= math.Pow(10, float64(g.IntN(60)-30))
		}
		set := metric.WithAttributes(attribute.String("spread", spread))
		ih.Record(t.Context(), n, set)
		fh.Record(t.Context(), f, set)
		values["int"+spread] = append(values["int"+spread], float64(n))
		values["float"+spread] = append(values["float"+spread], f)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	if err := iii.NewEngineMetricsExporter(s).Export(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	var want []point
	for _, m := range rm.ScopeMetrics[0].Metrics {
		want = append(want, recordedPoints(point{Origin: recordedOrigin(rm.Resource, rm.ScopeMetrics[0].Scope), Name: m.Name}, m.Data)...)
	}
	got := decodedPoints(t, frames(t, e, s, "MTRC"))
	if len(got) != 4 || len(want) != 4 {
		t.Fatalf("%d points arrived, want %d", len(got), len(want))
	}
	for i := range got {
		bounds, buckets := got[i].Bounds, got[i].Buckets
		got[i].Bounds, got[i].Buckets = nil, nil
		if d := diff(want[i], got[i]); d != "" {
			t.Errorf("point %d (-recorded +decoded):\n%s", i, d)
		}
		checkBuckets(t, bounds, buckets, values[got[i].Name+got[i].Attributes["spread"].(string)])
	}
}

// checkBuckets checks the number of values in each bucket. A value at a bound may be counted
// on either side, because rounding affects both the bound and the SDK's choice of bucket.
func checkBuckets(t *testing.T, bounds []float64, buckets []uint64, values []float64) {
	t.Helper()
	if len(bounds) > 160 || len(buckets) != len(bounds)+1 {
		t.Fatalf("%d bounds, %d buckets", len(bounds), len(buckets))
	}
	slices.Sort(values)
	var cumulative uint64
	for i, b := range bounds {
		cumulative += buckets[i]
		least, _ := slices.BinarySearch(values, b-math.Abs(b)*1e-12)
		most, _ := slices.BinarySearch(values, math.Nextafter(b+math.Abs(b)*1e-12, math.Inf(1)))
		if cumulative < uint64(least) || cumulative > uint64(most) {
			t.Fatalf("%d values up to %v, want %d to %d", cumulative, b, least, most)
		}
	}
	if cumulative += buckets[len(bounds)]; cumulative != uint64(len(values)) {
		t.Errorf("%d values, want %d", cumulative, len(values))
	}
}
