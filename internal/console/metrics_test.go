package console

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iii-go/iii"
)

var epoch = time.UnixMilli(1_700_000_000_000)

// exports returns one export of a metric for each value, one second apart.
func exports(m Metric, values ...float64) []Metric {
	var list []Metric
	for i, v := range values {
		m.At = epoch.Add(time.Duration(i) * time.Second)
		m.Points = []Point{{Value: v}}
		list = append(list, m)
	}
	return list
}

func TestPlots(t *testing.T) {
	at := func(i int) float64 { return float64(epoch.UnixMilli() + int64(1000*i)) }
	histogram := func(delta bool, counts ...uint64) []Metric {
		var list []Metric
		for i, n := range counts {
			list = append(list, Metric{Name: "h", Type: "histogram", Delta: delta, At: epoch.Add(time.Duration(i) * time.Second),
				Points: []Point{{Count: n, Sum: float64(10 * n), Bounds: []float64{5}, Buckets: []uint64{1, n - 1}}}})
		}
		return list
	}
	for _, test := range []struct {
		name    string
		exports []Metric
		want    Series
	}{
		{"a gauge", exports(Metric{Type: "gauge"}, 3, 1), Series{Points: [][2]float64{{at(0), 3}, {at(1), 1}}, Latest: 1}},
		{"a counter", exports(Metric{Type: "counter"}, 10, 15, 15), Series{Points: [][2]float64{{at(1), 5}, {at(2), 0}}, Latest: 15}},
		{"a counter that began anew", exports(Metric{Type: "counter"}, 10, 4), Series{Points: [][2]float64{{at(1), 4}}, Latest: 4}},
		{"a counter of differences", exports(Metric{Type: "counter", Delta: true}, 10, 5), Series{Points: [][2]float64{{at(1), 5}}, Latest: 15}},
		{"an up-down counter", exports(Metric{Type: "updowncounter"}, 2, -1), Series{Points: [][2]float64{{at(0), 2}, {at(1), -1}}, Latest: -1}},
		{"a histogram", histogram(false, 2, 6), Series{Points: [][2]float64{{at(1), 4}}, Latest: 6, Sum: 60, Bounds: []float64{5}, Buckets: []uint64{1, 5}}},
		{"a histogram of differences", histogram(true, 2, 6), Series{Points: [][2]float64{{at(1), 6}}, Latest: 8, Sum: 80, Bounds: []float64{5}, Buckets: []uint64{2, 6}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := plots(test.exports)
			if len(got) != 1 || len(got[0].Series) != 1 {
				t.Fatalf("plots: %+v", got)
			}
			test.want.Attributes = []iii.StoredAttribute{}
			if diff := cmp.Diff(test.want, got[0].Series[0], cmpopts.IgnoreUnexported(Series{})); diff != "" {
				t.Errorf("series (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlotsAreBounded(t *testing.T) {
	list := exports(Metric{Service: "b", Name: "m", Type: "gauge"}, make([]float64, 5000)...)
	wide := Metric{Service: "a", Name: "m", Type: "gauge", At: epoch}
	for n := range 3 * maxSeries {
		wide.Points = append(wide.Points, Point{Value: 2, Attributes: []iii.StoredAttribute{{"n", fmt.Sprintf("%03d", n)}}})
	}
	got := plots(append(list, wide))
	if len(got) != 2 || got[0].Service != "a" || got[1].Service != "b" {
		t.Fatalf("plots: %+v", got)
	}
	if n := len(got[0].Series); n != maxSeries || got[0].Left != 2*maxSeries || got[0].Total != 2*3*maxSeries {
		t.Errorf("%d series and %d more, %v in total", n, got[0].Left, got[0].Total)
	}
	points := got[1].Series[0].Points
	if len(points) != maxPlotted || points[0][0] != float64(epoch.UnixMilli()) || points[maxPlotted-1][0] != float64(epoch.UnixMilli()+4999*1000) {
		t.Errorf("%d points from %v to %v", len(points), points[0], points[len(points)-1])
	}
	if got := plots(nil); got == nil || len(got) != 0 {
		t.Errorf("without metrics: %v", got)
	}
}

// The values that workers send can add up to more than a float can hold.
func TestPlotsEncodeOverflowingSums(t *testing.T) {
	huge := Metric{Type: "histogram", Delta: true, At: epoch, Points: []Point{{Count: 1, Sum: math.MaxFloat64}}}
	list := append(exports(Metric{Name: "differences", Type: "counter", Delta: true}, math.MaxFloat64, math.MaxFloat64),
		exports(Metric{Name: "total", Type: "counter"}, -math.MaxFloat64, math.MaxFloat64)...)
	if _, err := json.Marshal(plots(append(list, huge, huge))); err != nil {
		t.Error(err)
	}
}
