package iiitest

import (
	"time"

	"github.com/iii-go/iii"
)

// Metric is a decoded metric from one export.
type Metric struct {
	Name, Description, Unit string
	Type                    MetricType
	Temporality             Temporality // set for counters, up-down counters and histograms
	Points                  []Point
	Resource                Resource
	Scope                   Scope
}

// MetricType is the type of a metric, as named by engine::metrics::list.
type MetricType string

// Metric types that the engine stores.
const (
	Gauge         MetricType = "gauge"
	Counter       MetricType = "counter"       // a monotonic sum
	UpDownCounter MetricType = "updowncounter" // any other sum
	Histogram     MetricType = "histogram"     // with explicit bounds
)

// Temporality specifies the interval that a summed value covers. The constants have the same
// values as in OTLP.
type Temporality int32

// Temporalities defined by OTLP.
const (
	UnknownTemporality Temporality = 0
	Delta              Temporality = 1
	Cumulative         Temporality = 2
)

// Point is a data point of a metric. Histograms use Count, Sum, Min, Max, BucketCounts and
// Bounds. All other types use Value.
type Point struct {
	Attributes  map[string]any // see Span.Attributes
	Start, Time time.Time      // zero if missing
	Value       any            // int64 or float64; nil if missing

	Count         uint64
	Sum, Min, Max *float64 // nil if missing
	BucketCounts  []uint64
	Bounds        []float64

	Exemplars []Exemplar
	Flags     uint32
}

// Exemplar is a sample measurement that contributed to a point.
type Exemplar struct {
	Time            time.Time
	Value           any    // int64 or float64; nil if missing
	TraceID, SpanID string // hexadecimal
	Attributes      map[string]any
}

// metricRecord holds the public and the stored form of a metric.
type metricRecord struct {
	metric  Metric
	points  []storedPoint
	service string
	arrived time.Time
	size    int // size as JSON
}

type storedPoint struct {
	attributes []iii.StoredAttribute
	time       uint64
	value      float64 // unused for histograms
}

// readMetrics decodes a metrics frame. It skips and counts metrics of types that the engine
// does not store.
func readMetrics(data []byte) (list []metricRecord, skipped int, err error) {
	done := 0
	var unknown []bool // for each metric of the current resource
	err = readOTLP(data, func(r *otlpReader) {
		r.batch("resourceMetrics", "scopeMetrics", "metrics",
			func() {
				m, known := r.metric()
				unknown = append(unknown, !known)
				list = append(list, m)
			},
			func(attributes []attribute, url string, scopes []Scope) {
				resource := Resource{Attributes: attributeMap(attributes), SchemaURL: url}
				service := serviceOf(attributes)
				kept := list[:done]
				for i, scope := range scopes {
					if unknown[i] {
						skipped++
						continue
					}
					m := list[done+i]
					m.metric.Resource, m.metric.Scope, m.service = resource, scope, service
					kept = append(kept, m)
				}
				list, unknown = kept, unknown[:0]
				done = len(list)
			})
	})
	return list, skipped, err
}

func (r *otlpReader) metric() (m metricRecord, known bool) {
	r.s.next()
	begin := r.s.i
	data := func(typ MetricType) {
		if r.null() {
			return
		}
		points, stored, temporality, monotonic := r.points(typ)
		if known {
			return
		}
		if typ == Counter && !monotonic {
			typ = UpDownCounter
		}
		known = true
		m.metric.Type, m.metric.Points, m.metric.Temporality, m.points = typ, points, temporality, stored
	}
	r.object(func(key string) bool {
		switch key {
		case "name":
			m.metric.Name = r.optStr()
		case "description":
			m.metric.Description = r.optStr()
		case "unit":
			m.metric.Unit = r.optStr()
		case "gauge":
			data(Gauge)
		case "sum":
			data(Counter)
		case "histogram":
			data(Histogram)
		default:
			return false
		}
		return true
	})
	m.size = r.s.i - begin
	return m, known
}

func (r *otlpReader) points(typ MetricType) (points []Point, stored []storedPoint, temporality Temporality, monotonic bool) {
	r.object(func(key string) bool {
		switch {
		case key == "dataPoints":
			r.array(func() {
				p, its := r.point(typ)
				points, stored = append(points, p), append(stored, its)
			})
		case key == "aggregationTemporality" && typ != Gauge:
			temporality = Temporality(r.int32())
		case key == "isMonotonic" && typ == Counter:
			monotonic = r.boolean()
		default:
			return false
		}
		return true
	})
	return points, stored, temporality, monotonic
}

func (r *otlpReader) point(typ MetricType) (p Point, stored storedPoint) {
	var start uint64
	var integer *int64
	var double *float64
	r.object(func(key string) bool {
		switch key {
		case "attributes":
			list := r.attributes()
			p.Attributes, stored.attributes = attributeMap(list), storedAttributes(list)
		case "startTimeUnixNano":
			start = r.uint64()
		case "timeUnixNano":
			stored.time = r.uint64()
		case "flags":
			p.Flags = r.lenientUint()
			return false
		case "exemplars":
			r.lenient(func(r *otlpReader) { p.Exemplars = r.exemplars() })
			return false
		default:
			if typ == Histogram {
				return r.histogramPoint(key, &p)
			}
			return r.number(key, &integer, &double)
		}
		return true
	})
	p.Start, p.Time = unixNano(start), unixNano(stored.time)
	switch {
	case double != nil:
		p.Value, stored.value = *double, *double
	case integer != nil:
		p.Value, stored.value = *integer, float64(*integer)
	}
	return p, stored
}

// number reads an exemplar's value, or the value of a point in any metric other than a
// histogram.
func (r *otlpReader) number(key string, integer **int64, double **float64) bool {
	switch key {
	case "asInt":
		if !r.null() {
			n := r.int64()
			*integer = &n
		}
	case "asDouble":
		*double = r.optFloat64()
	default:
		return false
	}
	return true
}

func (r *otlpReader) optFloat64() *float64 {
	if r.null() {
		return nil
	}
	f := r.float64()
	return &f
}

func (r *otlpReader) histogramPoint(key string, p *Point) bool {
	switch key {
	case "count":
		p.Count = r.uint64()
	case "sum":
		p.Sum = r.optFloat64()
	case "min":
		p.Min = r.optFloat64()
	case "max":
		p.Max = r.optFloat64()
	case "bucketCounts":
		r.array(func() { p.BucketCounts = append(p.BucketCounts, r.uint64()) })
	case "explicitBounds":
		r.array(func() { p.Bounds = append(p.Bounds, r.float64()) })
	default:
		return false
	}
	return true
}

func (r *otlpReader) exemplars() (list []Exemplar) {
	r.array(func() {
		var e Exemplar
		var integer *int64
		var double *float64
		r.object(func(key string) bool {
			switch key {
			case "timeUnixNano":
				e.Time = unixNano(r.uint64())
			case "traceId":
				e.TraceID = r.str()
			case "spanId":
				e.SpanID = r.str()
			case "filteredAttributes":
				e.Attributes = attributeMap(r.attributes())
			default:
				return r.number(key, &integer, &double)
			}
			return true
		})
		switch {
		case double != nil:
			e.Value = *double
		case integer != nil:
			e.Value = *integer
		}
		list = append(list, e)
	})
	return list
}

// listed returns the metric as engine::metrics::list returns it.
func (m *metricRecord) listed() map[string]any {
	points := make([]map[string]any, len(m.points))
	for i, stored := range m.points {
		point := map[string]any{"attributes": stored.attributes, "timestamp_unix_nano": stored.time}
		if stored.attributes == nil {
			point["attributes"] = []any{}
		}
		if p := m.metric.Points[i]; m.metric.Type == Histogram {
			point["count"], point["bucket_counts"] = p.Count, append([]uint64{}, p.BucketCounts...)
			point["explicit_bounds"] = floats(p.Bounds)
			point["sum"] = float(0)
			if p.Sum != nil {
				point["sum"] = float(*p.Sum)
			}
			point["min"], point["max"] = (*float)(p.Min), (*float)(p.Max)
		} else {
			point["value"] = float(stored.value)
		}
		points[i] = point
	}
	listed := map[string]any{
		"name": m.metric.Name, "description": m.metric.Description, "unit": m.metric.Unit,
		"metric_type": m.metric.Type, "data_points": points, "service_name": m.service,
		"timestamp_unix_nano": m.arrived.UnixNano(),
	}
	if m.metric.Scope.Name != "" {
		listed["instrumentation_scope_name"] = m.metric.Scope.Name
	}
	if m.metric.Scope.Version != "" {
		listed["instrumentation_scope_version"] = m.metric.Scope.Version
	}
	return listed
}
