package iii

import (
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var otlpMetrics = otlpSignal{prefixMetrics, `{"resourceMetrics":[`, `,"scopeMetrics":[`, `,"metrics":[`}

// metrics encodes what a reader has collected. The engine stores gauges, sums
// and histograms with explicit bounds, and passes over everything else without a
// word, so that the others become these. The frames are valid until done; their
// data remains.
func (e *otlpEncoder) metrics(rm *metricdata.ResourceMetrics) []telemetryFrame {
	e.batch(&otlpMetrics)
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

func (e *otlpEncoder) metric(m *metricdata.Metrics) {
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
		e.lost.metrics++
	}
}

// setMetric sets the level of a metric, whose data points follow.
func (e *otlpEncoder) setMetric(m *metricdata.Metrics, suffix, data string) {
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

// sumHead: the numbers of OTLP are not those of package metricdata.
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

func encodePoints[N int64 | float64](e *otlpEncoder, points []metricdata.DataPoint[N]) {
	for i := range points {
		if !finite(points[i].Value) {
			e.lost.points++ // JSON has no such number
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

// appendTimes appends the times of a data point; a gauge may have no start.
func (e *otlpEncoder) appendTimes(b []byte, start, at uint64) []byte {
	if start != 0 {
		b = append(b, `"startTimeUnixNano":`...)
		b = e.clock.appendTime(b, start)
		b = append(b, ',')
	}
	b = append(b, `"timeUnixNano":`...)
	return e.clock.appendTime(b, at)
}

// appendNumber appends a finite number as the value of a point.
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

func appendExemplars[N int64 | float64](e *otlpEncoder, b []byte, exemplars []metricdata.Exemplar[N]) []byte {
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

func encodeHistograms[N int64 | float64](e *otlpEncoder, points []metricdata.HistogramDataPoint[N]) {
	for i := range points {
		for e.begin(); ; {
			e.buf = appendHistogram(e, e.buf, &points[i])
			if e.end() {
				break
			}
		}
	}
}

func appendHistogram[N int64 | float64](e *otlpEncoder, b []byte, p *metricdata.HistogramDataPoint[N]) []byte {
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

// appendFinite appends a figure of a histogram as a number, an integer too, or
// leaves it out: one NaN that was recorded spoils the sum, not the buckets.
func appendFinite[N int64 | float64](e *otlpEncoder, b []byte, key string, n N) []byte {
	if !finite(n) {
		e.lost.values++
		return b
	}
	b = append(b, key...)
	if n, ok := any(n).(int64); ok {
		return strconv.AppendInt(b, n, 10)
	}
	return appendDouble(b, float64(n))
}

// appendBuckets appends the buckets; one whose bound is infinite or no number is
// joined to the next.
func (e *otlpEncoder) appendBuckets(b []byte, bounds []float64, counts []uint64) []byte {
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
	if len(e.boundsText) > 0 && slices.Equal(bounds, e.boundsOf) { // as those of all points of an instrument are
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

// summary encodes a summary, which only bridges produce, as a gauge of its
// quantiles and two sums.
func (e *otlpEncoder) summary(m *metricdata.Metrics, points []metricdata.SummaryDataPoint) {
	e.setMetric(m, "", `,"gauge":{"dataPoints":[`)
	for i := range points {
		for _, q := range points[i].QuantileValues {
			if !finite(q.Value) || !finite(q.Quantile) {
				e.lost.points++
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
			e.lost.points++
			continue
		}
		e.summaryPoint(&points[i], nil, func(b []byte) []byte { return appendNumber(b, points[i].Sum) })
	}
}

const maxCount = 1<<63 - 1 // what asInt can hold

func (e *otlpEncoder) summaryPoint(p *metricdata.SummaryDataPoint, quantile *attribute.KeyValue, value func([]byte) []byte) {
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
