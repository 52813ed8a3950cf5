package otlpjson

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// source turns the bytes of a fuzz input into telemetry with values of every kind.
type source struct{ data []byte }

func (s *source) byte() byte {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return b
}

func (s *source) n(limit int) int { return int(s.byte()) % limit }

func (s *source) uint64() uint64 {
	var b [8]byte
	s.data = s.data[copy(b[:], s.data):]
	return binary.LittleEndian.Uint64(b[:])
}

// integer returns an integer that is often an edge case.
func (s *source) integer() int64 {
	edges := []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 1 << 53, 1<<53 + 1, -1 << 53, -1<<53 - 1}
	if i := s.n(len(edges) + 3); i < len(edges) {
		return edges[i]
	}
	return int64(s.uint64())
}

func (s *source) double() float64 {
	edges := []float64{0, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1), 1e21, 1e20}
	if i := s.n(len(edges) + 3); i < len(edges) {
		return edges[i]
	}
	return math.Float64frombits(s.uint64())
}

func (s *source) text() string {
	n := min(int(s.byte()), len(s.data))
	text := string(s.data[:n])
	s.data = s.data[n:]
	if n == 17 {
		for range 8 {
			text += text
		}
	}
	return text
}

func (s *source) time() time.Time {
	switch s.n(4) {
	case 0:
		return time.Time{}
	case 1:
		return time.Unix(s.integer(), s.integer())
	case 2:
		return time.Unix(int64(s.byte())-8, 0)
	}
	return testTime
}

func (s *source) count() int {
	if len(s.data) == 0 {
		return 0
	}
	return s.n(5)
}

func (s *source) value(depth int) attribute.Value {
	kinds := 10
	if depth < 70 && len(s.data) > 0 {
		kinds = 13
	}
	switch s.n(kinds) {
	case 0:
		return attribute.StringValue(s.text())
	case 1:
		return attribute.BoolValue(s.byte()&1 == 0)
	case 2:
		return attribute.Int64Value(s.integer())
	case 3:
		return attribute.Float64Value(s.double())
	case 4:
		return attribute.Value{}
	case 5:
		return attribute.ByteSliceValue([]byte(s.text()))
	case 6:
		return attribute.StringSliceValue(several(s, s.text))
	case 7:
		return attribute.Int64SliceValue(several(s, s.integer))
	case 8:
		return attribute.Float64SliceValue(several(s, s.double))
	case 9:
		return attribute.BoolSliceValue(several(s, func() bool { return s.byte()&1 == 0 }))
	case 10:
		return attribute.SliceValue(several(s, func() attribute.Value { return s.value(depth + 1) })...)
	case 11:
		return attribute.MapValue(s.attributes(depth + 1)...)
	default: // deep nesting
		return nested(s.n(80), s.value(depth+80))
	}
}

func several[T any](s *source, one func() T) []T {
	var list []T
	for range s.count() {
		list = append(list, one())
	}
	return list
}

func (s *source) attributes(depth int) []attribute.KeyValue {
	return several(s, func() attribute.KeyValue {
		return attribute.KeyValue{Key: attribute.Key(s.text()), Value: s.value(depth)}
	})
}

func (s *source) set() attribute.Set {
	return attribute.NewSet(s.attributes(0)...)
}

func (s *source) resource() *resource.Resource {
	switch s.n(4) {
	case 0:
		return nil
	case 1:
		return benchResource
	}
	return resource.NewWithAttributes(s.text(), s.attributes(0)...)
}

func (s *source) scope() instrumentation.Scope {
	return instrumentation.Scope{Name: s.text(), Version: s.text(), SchemaURL: s.text(), Attributes: s.set()}
}

func (s *source) spanContext() trace.SpanContext {
	c := trace.SpanContextConfig{TraceFlags: trace.TraceFlags(s.byte()), Remote: s.byte()&1 == 0}
	binary.LittleEndian.PutUint64(c.TraceID[:], s.uint64())
	binary.LittleEndian.PutUint64(c.SpanID[:], s.uint64())
	c.TraceState, _ = trace.ParseTraceState(s.text())
	return trace.NewSpanContext(c)
}

func (s *source) span() sdktrace.ReadOnlySpan {
	return tracetest.SpanStub{
		Name: s.text(), SpanContext: s.spanContext(), Parent: s.spanContext(), SpanKind: trace.SpanKind(s.byte()),
		StartTime: s.time(), EndTime: s.time(), Attributes: s.attributes(0),
		Events: several(s, func() sdktrace.Event {
			return sdktrace.Event{Name: s.text(), Time: s.time(), Attributes: s.attributes(0), DroppedAttributeCount: int(s.integer())}
		}),
		Links: several(s, func() sdktrace.Link {
			return sdktrace.Link{SpanContext: s.spanContext(), Attributes: s.attributes(0), DroppedAttributeCount: int(s.integer())}
		}),
		Status:            sdktrace.Status{Code: codes.Code(s.n(5)), Description: s.text()},
		DroppedAttributes: int(s.integer()), DroppedEvents: int(s.integer()), DroppedLinks: int(s.integer()),
		Resource: s.resource(), InstrumentationScope: s.scope(),
	}.Snapshot()
}

func (s *source) record(template sdklog.Record) sdklog.Record {
	r := template.Clone()
	r.SetTimestamp(s.time())
	r.SetObservedTimestamp(s.time())
	r.SetSeverity(log.Severity(s.integer()))
	r.SetSeverityText(s.text())
	r.SetEventName(s.text())
	r.SetBody(s.value(0))
	r.SetAttributes(s.attributes(0)...)
	c := s.spanContext()
	r.SetTraceID(c.TraceID())
	r.SetSpanID(c.SpanID())
	r.SetTraceFlags(c.TraceFlags())
	return r
}

func number[N int64 | float64](s *source) N {
	if any(N(0)) == any(int64(0)) {
		return N(s.integer())
	}
	return N(s.double())
}

func points[N int64 | float64](s *source) []metricdata.DataPoint[N] {
	return several(s, func() metricdata.DataPoint[N] {
		return metricdata.DataPoint[N]{Attributes: s.set(), StartTime: s.time(), Time: s.time(), Value: number[N](s), Exemplars: exemplars[N](s)}
	})
}

func exemplars[N int64 | float64](s *source) []metricdata.Exemplar[N] {
	return several(s, func() metricdata.Exemplar[N] {
		c := s.spanContext()
		traceID, spanID := c.TraceID(), c.SpanID()
		return metricdata.Exemplar[N]{FilteredAttributes: s.attributes(0), Time: s.time(), Value: number[N](s), TraceID: traceID[:s.n(17)], SpanID: spanID[:s.n(9)]}
	})
}

func extrema[N int64 | float64](s *source) (e metricdata.Extrema[N]) {
	if s.byte()&1 == 0 {
		e = metricdata.NewExtrema(number[N](s))
	}
	return e
}

func histogram[N int64 | float64](s *source) metricdata.Histogram[N] {
	return metricdata.Histogram[N]{Temporality: metricdata.Temporality(s.byte()), DataPoints: several(s, func() metricdata.HistogramDataPoint[N] {
		return metricdata.HistogramDataPoint[N]{
			Attributes: s.set(), StartTime: s.time(), Time: s.time(), Count: s.uint64(), Bounds: several(s, s.double), BucketCounts: several(s, s.uint64),
			Min: extrema[N](s), Max: extrema[N](s), Sum: number[N](s), Exemplars: exemplars[N](s),
		}
	})}
}

func exponential[N int64 | float64](s *source) metricdata.ExponentialHistogram[N] {
	buckets := func() metricdata.ExponentialBucket {
		return metricdata.ExponentialBucket{Offset: int32(s.integer()), Counts: several(s, s.uint64)}
	}
	return metricdata.ExponentialHistogram[N]{DataPoints: several(s, func() metricdata.ExponentialHistogramDataPoint[N] {
		return metricdata.ExponentialHistogramDataPoint[N]{
			Attributes: s.set(), StartTime: s.time(), Time: s.time(), Count: s.uint64(), Min: extrema[N](s), Max: extrema[N](s), Sum: number[N](s),
			Scale: int32(s.integer()), ZeroCount: s.uint64(), PositiveBucket: buckets(), NegativeBucket: buckets(), ZeroThreshold: s.double(), Exemplars: exemplars[N](s),
		}
	})}
}

func (s *source) metric() metricdata.Metrics {
	m := metricdata.Metrics{Name: s.text(), Description: s.text(), Unit: s.text()}
	switch s.n(10) {
	case 0:
		m.Data = metricdata.Gauge[int64]{DataPoints: points[int64](s)}
	case 1:
		m.Data = metricdata.Gauge[float64]{DataPoints: points[float64](s)}
	case 2:
		m.Data = metricdata.Sum[int64]{DataPoints: points[int64](s), Temporality: metricdata.Temporality(s.byte()), IsMonotonic: s.byte()&1 == 0}
	case 3:
		m.Data = metricdata.Sum[float64]{DataPoints: points[float64](s), Temporality: metricdata.Temporality(s.byte()), IsMonotonic: s.byte()&1 == 0}
	case 4:
		m.Data = histogram[int64](s)
	case 5:
		m.Data = histogram[float64](s)
	case 6:
		m.Data = exponential[int64](s)
	case 7:
		m.Data = exponential[float64](s)
	case 8:
		m.Data = metricdata.Summary{DataPoints: several(s, func() metricdata.SummaryDataPoint {
			return metricdata.SummaryDataPoint{Attributes: s.set(), StartTime: s.time(), Time: s.time(), Count: s.uint64(), Sum: s.double(),
				QuantileValues: several(s, func() metricdata.QuantileValue {
					return metricdata.QuantileValue{Quantile: s.double(), Value: s.double()}
				})}
		})}
	}
	return m
}

// limit returns a maximum frame size that is often too small for a record.
func (s *source) limit() int {
	if s.byte()&1 == 0 {
		return wholeFrame
	}
	return 64 + 16*int(s.byte())
}

// encodeAnything encodes the telemetry described by data. The engine must accept the frames,
// and every record must be either in a frame or counted as lost.
func encodeAnything(t *testing.T, template sdklog.Record, data []byte) {
	s := &source{data}
	limit := s.limit()
	frames, want := []Frame(nil), 0
	var lost Losses
	switch s.n(4) {
	case 0:
		spans := append(several(s, s.span), s.span())
		want = len(spans)
		frames, lost = encoded(t, limit, func(e *Encoder) []Frame { return e.Spans(spans) })
	case 1:
		span := s.span()
		want = 1
		frames, lost = encoded(t, limit, func(e *Encoder) []Frame { return e.LiveSpan(span) })
	case 2:
		records := append(several(s, func() sdklog.Record { return s.record(template) }), s.record(template))
		want = len(records)
		frames, lost = encoded(t, limit, func(e *Encoder) []Frame { return e.Logs(records) })
	case 3:
		rm := &metricdata.ResourceMetrics{Resource: s.resource(), ScopeMetrics: several(s, func() metricdata.ScopeMetrics {
			return metricdata.ScopeMetrics{Scope: s.scope(), Metrics: several(s, s.metric)}
		})}
		want = pointsIn(rm)
		frames, lost = encoded(t, limit, func(e *Encoder) []Frame { return e.Metrics(rm) })
	}
	got := lost.Records + lost.Points
	for _, f := range frames {
		got += f.Records
	}
	if got != want {
		t.Errorf("%d records encoded or counted, want %d", got, want)
	}
}

func logTemplate(tb testing.TB) sdklog.Record {
	return recordLogs(tb, benchResource, func(l log.Logger) { l.Emit(tb.Context(), log.Record{}) })[0]
}

func FuzzEncode(f *testing.F) {
	template := logTemplate(f)
	random := rand.New(rand.NewPCG(5, 6))
	for range 64 {
		f.Add(randomBytes(random))
	}
	f.Fuzz(func(t *testing.T, data []byte) { encodeAnything(t, template, data) })
}

func randomBytes(random *rand.Rand) []byte {
	data := make([]byte, random.IntN(5000))
	for i := range data {
		data[i] = byte(random.Uint32())
		if random.IntN(3) > 0 { // small numbers produce more values
			data[i] %= 20
		}
	}
	return data
}

func TestEncodeAnything(t *testing.T) {
	template := logTemplate(t)
	random := rand.New(rand.NewPCG(7, 8))
	for i := range 3000 {
		encodeAnything(t, template, randomBytes(random))
		if t.Failed() {
			t.Fatalf("run %d", i)
		}
	}
}

// pointsIn returns the number of points that encoding rm produces.
func pointsIn(rm *metricdata.ResourceMetrics) (n int) {
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch a := m.Data.(type) {
			case metricdata.Gauge[int64]:
				n += len(a.DataPoints)
			case metricdata.Gauge[float64]:
				n += len(a.DataPoints)
			case metricdata.Sum[int64]:
				n += len(a.DataPoints)
			case metricdata.Sum[float64]:
				n += len(a.DataPoints)
			case metricdata.Histogram[int64]:
				n += len(a.DataPoints)
			case metricdata.Histogram[float64]:
				n += len(a.DataPoints)
			case metricdata.ExponentialHistogram[int64]:
				n += len(a.DataPoints)
			case metricdata.ExponentialHistogram[float64]:
				n += len(a.DataPoints)
			case metricdata.Summary:
				for _, p := range a.DataPoints {
					n += 2 + len(p.QuantileValues)
				}
			}
		}
	}
	return n
}
