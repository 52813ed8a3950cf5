package otlpjson

import (
	"math"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var metricSignal = signal{PrefixMetrics, `{"resourceMetrics":[`, `,"scopeMetrics":[`, `,"metrics":[`}

// Metrics encodes the metrics collected by a reader. The engine stores gauges, sums and
// histograms with explicit bounds. Metrics converts all other kinds, because the engine would
// silently drop them. The slice is valid until [Encoder.Done], and its frames' data remains
// valid after that.
func (e *Encoder) Metrics(rm *metricdata.ResourceMetrics) []Frame {
	e.batch(&metricSignal)
	e.setResource(rm.Resource)
	for i := range rm.ScopeMetrics {
		sm := &rm.ScopeMetrics[i]
		e.setScope(&sm.Scope)
		for j := range sm.Metrics {
			e.metric(&sm.Metrics[j])
		}
	}
	e.finish()
	return e.frames
}

func (e *Encoder) metric(m *metricdata.Metrics) {
	switch a := m.Data.(type) {
	case metricdata.Gauge[int64]:
		e.setMetric(m, "", `,"gauge":{"dataPoints":[`)
		encodePoints(e, a.DataPoints)
	case metricdata.Gauge[float64]:
		e.setMetric(m, "", `,"gauge":{"dataPoints":[`)
		encodePoints(e, a.DataPoints)
	case metricdata.Sum[int64]:
		e.setMetric(m, "", sumHead(a.Temporality, a.IsMonotonic))
		encodePoints(e, a.DataPoints)
	case metricdata.Sum[float64]:
		e.setMetric(m, "", sumHead(a.Temporality, a.IsMonotonic))
		encodePoints(e, a.DataPoints)
	case metricdata.Histogram[int64]:
		e.setMetric(m, "", histogramHead(a.Temporality))
		encodeHistograms(e, a.DataPoints)
	case metricdata.Histogram[float64]:
		e.setMetric(m, "", histogramHead(a.Temporality))
		encodeHistograms(e, a.DataPoints)
	case metricdata.ExponentialHistogram[int64]:
		e.setMetric(m, "", histogramHead(a.Temporality))
		encodeExponential(e, a.DataPoints)
	case metricdata.ExponentialHistogram[float64]:
		e.setMetric(m, "", histogramHead(a.Temporality))
		encodeExponential(e, a.DataPoints)
	case metricdata.Summary:
		e.summary(m, a.DataPoints)
	default:
		e.lost.Metrics++
	}
}

// setMetric prepares the head of a metric. The caller must then append the data points.
func (e *Encoder) setMetric(m *metricdata.Metrics, suffix, data string) {
	e.head(2, "]}}", func(b []byte) []byte {
		b = append(b, `{"name":`...)
		b = e.text(b, m.Name)
		if suffix != "" {
			b = append(append(b[:len(b)-1], suffix...), '"')
		}
		b = append(b, `,"description":`...)
		b = e.text(b, m.Description)
		b = append(b, `,"unit":`...)
		b = e.text(b, m.Unit)
		return append(b, data...)
	})
}

// sumHead returns the beginning of a sum's JSON. OTLP and package metricdata number
// temporalities differently.
func sumHead(t metricdata.Temporality, monotonic bool) string {
	switch {
	case t == metricdata.DeltaTemporality && monotonic:
		return `,"sum":{"aggregationTemporality":1,"isMonotonic":true,"dataPoints":[`
	case t == metricdata.DeltaTemporality:
		return `,"sum":{"aggregationTemporality":1,"isMonotonic":false,"dataPoints":[`
	case monotonic:
		return `,"sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[`
	}
	return `,"sum":{"aggregationTemporality":2,"isMonotonic":false,"dataPoints":[`
}

func histogramHead(t metricdata.Temporality) string {
	if t == metricdata.DeltaTemporality {
		return `,"histogram":{"aggregationTemporality":1,"dataPoints":[`
	}
	return `,"histogram":{"aggregationTemporality":2,"dataPoints":[`
}

func encodePoints[N int64 | float64](e *Encoder, points []metricdata.DataPoint[N]) {
	for i := range points {
		if !finite(points[i].Value) {
			e.lost.Points++ // JSON cannot represent NaN and infinities
			continue
		}
		for e.begin(); ; {
			p := &points[i]
			b := append(e.buf, '{')
			b = e.set(b, `"attributes":[`, &p.Attributes, "],")
			b = e.appendTimes(b, unixNano(p.StartTime), unixNano(p.Time))
			b = appendNumber(b, p.Value)
			b = appendExemplars(e, b, p.Exemplars)
			e.buf = append(b, '}')
			if e.end() {
				break
			}
		}
	}
}

// appendTimes appends a data point's times. A start time of 0 is omitted.
func (e *Encoder) appendTimes(b []byte, start, at uint64) []byte {
	if start != 0 {
		b = append(b, `"startTimeUnixNano":`...)
		b = e.clock.appendTime(b, start)
		b = append(b, ',')
	}
	b = append(b, `"timeUnixNano":`...)
	return e.clock.appendTime(b, at)
}

// appendNumber appends a finite number as a data point's value.
func appendNumber[N int64 | float64](b []byte, n N) []byte {
	switch n := any(n).(type) {
	case int64:
		b = append(b, `,"asInt":"`...)
		b = strconv.AppendInt(b, n, 10)
		return append(b, '"')
	case float64:
		b = append(b, `,"asDouble":`...)
		return appendDouble(b, n)
	}
	return b
}

func appendExemplars[N int64 | float64](e *Encoder, b []byte, exemplars []metricdata.Exemplar[N]) []byte {
	n := 0
	for i := range exemplars {
		x := &exemplars[i]
		switch {
		case !finite(x.Value) || len(b) > e.stop || n == e.caps.items:
			continue
		case n == 0:
			b = append(b, `,"exemplars":[`...)
		default:
			b = append(b, ',')
		}
		n++
		b = append(b, '{')
		b = e.appendTimes(b, 0, unixNano(x.Time))
		b = appendNumber(b, x.Value)
		if len(x.TraceID) == 16 && len(x.SpanID) == 8 {
			b = append(b, `,"traceId":"`...)
			b = appendHex(b, x.TraceID)
			b = append(b, `","spanId":"`...)
			b = append(appendHex(b, x.SpanID), '"')
		}
		b, _ = e.attributes(b, `,"filteredAttributes":[`, x.FilteredAttributes)
		b = append(b, '}')
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b
}

func encodeHistograms[N int64 | float64](e *Encoder, points []metricdata.HistogramDataPoint[N]) {
	for i := range points {
		for e.begin(); ; {
			e.buf = appendHistogram(e, e.buf, &points[i])
			if e.end() {
				break
			}
		}
	}
}

func appendHistogram[N int64 | float64](e *Encoder, b []byte, p *metricdata.HistogramDataPoint[N]) []byte {
	b = append(b, '{')
	b = e.set(b, `"attributes":[`, &p.Attributes, "],")
	b = e.appendTimes(b, unixNano(p.StartTime), unixNano(p.Time))
	b = append(b, `,"count":`...)
	b = appendCount(b, p.Count)
	b = appendFinite(e, b, `,"sum":`, p.Sum)
	if v, ok := p.Min.Value(); ok {
		b = appendFinite(e, b, `,"min":`, v)
	}
	if v, ok := p.Max.Value(); ok {
		b = appendFinite(e, b, `,"max":`, v)
	}
	if len(p.BucketCounts) == len(p.Bounds)+1 {
		b = e.appendBuckets(b, p.Bounds, p.BucketCounts)
	}
	b = appendExemplars(e, b, p.Exemplars)
	return append(b, '}')
}

// appendFinite appends a histogram value under the given key, unless the value is not finite.
// A recorded NaN, for example, makes the sum NaN, but the buckets remain useful.
func appendFinite[N int64 | float64](e *Encoder, b []byte, key string, n N) []byte {
	if !finite(n) {
		e.lost.Values++
		return b
	}
	b = append(b, key...)
	if n, ok := any(n).(int64); ok {
		return strconv.AppendInt(b, n, 10)
	}
	return appendDouble(b, float64(n))
}

// appendBuckets appends a histogram's buckets. A bucket with an infinite or NaN upper bound is
// merged with the next one.
func (e *Encoder) appendBuckets(b []byte, bounds []float64, counts []uint64) []byte {
	b = append(b, `,"bucketCounts":[`...)
	n := uint64(0)
	for i, c := range counts {
		n += c
		if i < len(bounds) {
			if !finite(bounds[i]) {
				continue
			}
			b = append(appendCount(b, n), ',')
			n = 0
		}
	}
	b = appendCount(b, n)
	if len(e.boundsText) > 0 && slices.Equal(bounds, e.boundsOf) { // all points of an instrument have the same bounds
		return append(b, e.boundsText...)
	}
	start := len(b)
	b = append(b, `],"explicitBounds":[`...)
	first := true
	for _, f := range bounds {
		if !finite(f) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendDouble(b, f)
	}
	b = append(b, ']')
	e.boundsOf = append(e.boundsOf[:0], bounds...)
	e.boundsText = append(e.boundsText[:0], b[start:]...)
	return b
}

// summary encodes a summary as a gauge of its quantiles and two sums. The SDK itself produces
// no summaries; only bridges from other metrics libraries do.
func (e *Encoder) summary(m *metricdata.Metrics, points []metricdata.SummaryDataPoint) {
	e.setMetric(m, "", `,"gauge":{"dataPoints":[`)
	for i := range points {
		for _, q := range points[i].QuantileValues {
			if !finite(q.Value) || !finite(q.Quantile) {
				e.lost.Points++
				continue
			}
			quantile := attribute.Float64("quantile", q.Quantile)
			e.summaryPoint(&points[i], &quantile, func(b []byte) []byte { return appendNumber(b, q.Value) })
		}
	}
	e.setMetric(m, "_count", sumHead(metricdata.CumulativeTemporality, true))
	for i := range points {
		e.summaryPoint(&points[i], nil, func(b []byte) []byte {
			b = append(b, `,"asInt":`...)
			return appendCount(b, min(points[i].Count, maxCount))
		})
	}
	e.setMetric(m, "_sum", sumHead(metricdata.CumulativeTemporality, false))
	for i := range points {
		if !finite(points[i].Sum) {
			e.lost.Points++
			continue
		}
		e.summaryPoint(&points[i], nil, func(b []byte) []byte { return appendNumber(b, points[i].Sum) })
	}
}

const maxCount = 1<<63 - 1 // largest value of asInt

func (e *Encoder) summaryPoint(p *metricdata.SummaryDataPoint, quantile *attribute.KeyValue, value func([]byte) []byte) {
	for e.begin(); ; {
		b := append(e.buf, '{')
		switch {
		case quantile != nil:
			b = append(b, `"attributes":[`...)
			b = e.keyValue(b, quantile, 0)
			b = e.set(b, ",", &p.Attributes, "")
			b = append(b, "],"...)
		default:
			b = e.set(b, `"attributes":[`, &p.Attributes, "],")
		}
		b = e.appendTimes(b, unixNano(p.StartTime), unixNano(p.Time))
		e.buf = append(value(b), '}')
		if e.end() {
			break
		}
	}
}

// maxConvertedBounds is the maximum number of bounds in a converted exponential histogram.
const maxConvertedBounds = 160

// encodeExponential converts exponential histograms, which the engine silently drops, to
// histograms with explicit bounds.
func encodeExponential[N int64 | float64](e *Encoder, points []metricdata.ExponentialHistogramDataPoint[N]) {
	for i := range points {
		p := &points[i]
		b := explicitBuckets{bounds: e.bounds[:0], counts: e.counts[:0]}
		b.convert(p.Scale, p.ZeroThreshold, p.ZeroCount, &p.PositiveBucket, &p.NegativeBucket)
		e.bounds, e.counts = b.bounds, b.counts
		h := metricdata.HistogramDataPoint[N]{
			Attributes: p.Attributes, StartTime: p.StartTime, Time: p.Time,
			Count: p.Count, Sum: p.Sum, Min: p.Min, Max: p.Max, Exemplars: p.Exemplars,
			Bounds: b.bounds, BucketCounts: b.counts,
		}
		for e.begin(); ; {
			e.buf = appendHistogram(e, e.buf, &h)
			if e.end() {
				break
			}
		}
	}
}

// explicitBuckets collects buckets in ascending order. counts[i] is the number of values in
// the bucket that ends at bounds[i]. The last count is the number of values above all bounds.
type explicitBuckets struct {
	bounds  []float64
	counts  []uint64
	carried uint64 // count of buckets that end at -Inf
}

// convert converts exponential buckets to explicit ones. At scale s, with base = 2^(2^-s),
// bucket i of the positive values ranges from base^i to base^(i+1). The buckets of negative
// values mirror these. Values whose absolute value is at most threshold are counted
// separately.
//
// Explicit and exponential buckets include their upper bounds. A mirrored bucket includes its
// lower bound instead, but that does not matter for measurements.
func (x *explicitBuckets) convert(scale int32, threshold float64, zeros uint64, positive, negative *metricdata.ExponentialBucket) {
	pos, neg := trimBuckets(positive), trimBuckets(negative)
	// Lowering the scale by one squares the base and halves the number of buckets.
	shift := 0
	for pos.width(shift)+neg.width(shift) > maxConvertedBounds-4 {
		shift++
	}
	unit := int(scale) - shift

	if len(neg.counts) > 0 {
		first, last := neg.first>>shift, neg.last()>>shift
		x.add(0, -exponentialBound(last+1, unit))
		for i := last; i >= first; i-- {
			x.add(neg.count(i, shift), -exponentialBound(i, unit))
		}
		x.add(0, -threshold)
	}
	if zeros > 0 || len(neg.counts) > 0 {
		x.add(zeros, threshold)
	}
	if len(pos.counts) > 0 {
		first, last := pos.first>>shift, pos.last()>>shift
		x.add(0, exponentialBound(first, unit))
		for i := first; i <= last; i++ {
			x.add(pos.count(i, shift), exponentialBound(i+1, unit))
		}
	}
	x.add(0, math.Inf(1))
}

// add appends the bucket between the last bound and upper. If upper is not greater than the
// last bound, the bucket is merged with the previous one. This can happen if buckets overlap,
// or if their bounds are too close to zero to differ. If upper is NaN or -Inf, the bucket is
// merged with the next one.
func (x *explicitBuckets) add(n uint64, upper float64) {
	last := len(x.bounds) - 1
	switch {
	case math.IsInf(upper, 1):
		if len(x.counts) == len(x.bounds)+1 {
			x.counts[last+1] += n
			return
		}
		x.counts = append(x.counts, n+x.carried)
		x.carried = 0
	case len(x.counts) > len(x.bounds): // above the largest bound
		x.counts[last+1] += n
	case math.IsInf(upper, -1) || upper != upper:
		x.carried += n
	case last >= 0 && upper <= x.bounds[last]:
		x.counts[last] += n
	default:
		x.bounds = append(x.bounds, upper+0) // turns -0 into 0
		x.counts = append(x.counts, n+x.carried)
		x.carried = 0
	}
}

// exponentialBound returns base^i at the given scale. The result may be 0 or infinite.
func exponentialBound(i int64, scale int) float64 {
	return math.Exp2(math.Ldexp(float64(i), -scale))
}

// bucketRange holds exponential buckets without the empty ones at both ends.
type bucketRange struct {
	first  int64
	counts []uint64
}

func trimBuckets(b *metricdata.ExponentialBucket) bucketRange {
	lo, hi := 0, len(b.Counts)
	for lo < hi && b.Counts[hi-1] == 0 {
		hi--
	}
	for lo < hi && b.Counts[lo] == 0 {
		lo++
	}
	return bucketRange{int64(b.Offset) + int64(lo), b.Counts[lo:hi]}
}

func (r bucketRange) last() int64 { return r.first + int64(len(r.counts)) - 1 }

// width returns the number of buckets that remain when each group of 2^shift buckets is
// merged.
func (r bucketRange) width(shift int) int64 {
	if len(r.counts) == 0 {
		return 0
	}
	return r.last()>>shift - r.first>>shift + 1
}

// count returns the number of values in bucket i when each group of 2^shift buckets is merged.
func (r bucketRange) count(i int64, shift int) (n uint64) {
	lo := max(i<<shift, r.first)
	hi := min((i+1)<<shift-1, r.last())
	for ; lo <= hi; lo++ {
		n += r.counts[lo-r.first]
	}
	return n
}
