package console

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

const (
	// metricWindow is the period shown by the plots.
	metricWindow = 15 * time.Minute
	// maxExports is the maximum number of exports that are plotted. If there are more, the
	// newest are plotted.
	maxExports = 20_000
	// maxSeries is the maximum number of series in a plot.
	maxSeries = 24
	// maxPlotted is the maximum number of points in a series.
	maxPlotted = 180
)

// Plot shows one metric of one service.
type Plot struct {
	Service     string   `json:"service"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Unit        string   `json:"unit"`
	Type        string   `json:"type"`
	Series      []Series `json:"series"`
	Left        int      `json:"left"`  // series omitted because of the limit
	Total       float64  `json:"total"` // sum of the latest values of all series, including omitted ones
}

// Series holds a metric's values for one set of attributes.
type Series struct {
	Attributes []iii.StoredAttribute `json:"attributes"`
	// Each point holds a time, in milliseconds since 1970, and a value. For a counter or a
	// histogram, the value is the rate per second since the previous point.
	Points [][2]float64 `json:"points"`
	Latest float64      `json:"latest"` // the value, or the total of a counter or histogram
	Sum    float64      `json:"sum,omitempty"`
	// Bounds and Buckets hold a histogram's latest distribution.
	Bounds  []float64 `json:"bounds,omitempty"`
	Buckets []uint64  `json:"buckets,omitempty"`

	before float64 // previous total of a cumulative counter
	at     time.Time
}

type seriesKey struct{ service, name, attributes string }

// plots converts exports, which must be sorted by time, to plots. It sorts the plots by
// service and name, and each plot's series by attributes.
func plots(exports []Metric) []Plot {
	all := make(map[seriesKey]*Plot)
	series := make(map[seriesKey]*Series)
	of := make(map[*Plot][]*Series)
	for i := range exports {
		m := &exports[i]
		k := seriesKey{service: m.Service, name: m.Name}
		p := all[k]
		if p == nil {
			p = &Plot{Service: m.Service, Name: m.Name, Type: m.Type, Series: []Series{}}
			all[k] = p
		}
		p.Description, p.Unit = m.Description, m.Unit
		for n := range m.Points {
			k.attributes = attributeKey(m.Points[n].Attributes)
			s := series[k]
			if s == nil {
				s = &Series{Attributes: append([]iii.StoredAttribute{}, m.Points[n].Attributes...), Points: [][2]float64{}}
				series[k] = s
				of[p] = append(of[p], s)
			}
			s.add(m, &m.Points[n])
		}
	}
	list := make([]Plot, 0, len(all))
	for p, its := range of {
		slices.SortFunc(its, func(a, b *Series) int {
			return cmp.Compare(attributeKey(a.Attributes), attributeKey(b.Attributes))
		})
		p.Left = max(0, len(its)-maxSeries)
		for _, s := range its {
			p.Total = limited(p.Total + s.Latest)
		}
		for _, s := range its[:len(its)-p.Left] {
			s.Attributes, s.Points = redactAttributes(s.Attributes), thinned(s.Points)
			p.Series = append(p.Series, *s)
		}
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Plot) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func attributeKey(attributes []iii.StoredAttribute) string {
	var b strings.Builder
	for _, a := range attributes {
		b.WriteString(a[0] + "\x00" + a[1] + "\x00")
	}
	return b.String()
}

func (s *Series) add(m *Metric, p *Point) {
	at := float64(m.At.UnixMilli())
	switch m.Type {
	case "counter":
		s.addTotal(m, at, p.Value)
	case "histogram":
		s.addTotal(m, at, float64(p.Count))
		if m.Delta && slices.Equal(s.Bounds, p.Bounds) && len(s.Buckets) == len(p.Buckets) {
			s.Sum = limited(s.Sum + p.Sum)
			s.Buckets = slices.Clone(s.Buckets)
			for i := range s.Buckets {
				s.Buckets[i] += p.Buckets[i]
			}
		} else {
			s.Sum, s.Bounds, s.Buckets = p.Sum, p.Bounds, p.Buckets
		}
	default:
		s.Points = append(s.Points, [2]float64{at, p.Value})
		s.Latest = p.Value
	}
	s.at = m.At
}

// addTotal adds a point to the series of a counter or a histogram.
func (s *Series) addTotal(m *Metric, at, value float64) {
	more := value
	if m.Delta {
		s.Latest = limited(s.Latest + value)
	} else {
		if value >= s.before { // otherwise the counter has restarted
			more = value - s.before
		}
		s.Latest, s.before = value, value
	}
	if seconds := m.At.Sub(s.at).Seconds(); !s.at.IsZero() && seconds > 0 {
		s.Points = append(s.Points, [2]float64{at, limited(more / seconds)})
	}
}

// limited returns the finite number nearest to v. JSON cannot represent infinity, so a single
// infinite value would break all plots.
func limited(v float64) float64 { return min(max(v, -math.MaxFloat64), math.MaxFloat64) }

// thinned returns at most maxPlotted of the points, evenly spaced.
func thinned(points [][2]float64) [][2]float64 {
	if len(points) <= maxPlotted {
		return points
	}
	kept := make([][2]float64, maxPlotted)
	for i := range kept {
		kept[i] = points[i*(len(points)-1)/(maxPlotted-1)]
	}
	return kept
}
