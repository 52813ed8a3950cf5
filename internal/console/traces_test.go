package console

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

func TestTracesOf(t *testing.T) {
	span := func(trace, id, parent, service, name string, start, end uint64) iii.StoredSpan {
		s := iii.StoredSpan{TraceID: trace, SpanID: id, ServiceName: service, Name: name, StartTimeUnixNano: start, EndTimeUnixNano: end, Status: "ok"}
		if parent != "" {
			s.ParentSpanID = &parent
		}
		s.Pending = end == 0
		return s
	}
	failed := span("t1", "c", "b", "bank", "charge", 3e6, 4e6)
	failed.Status = "error"
	internal := span("t4", "a", "", "shop", "execute engine::functions::list", 9e6, 9e6)
	internal.Attributes = iii.List[iii.StoredAttribute]{{"iii.function.kind", "internal"}}
	got := tracesOf([]iii.StoredSpan{
		failed, // spans arrive in the order in which they end
		span("t1", "b", "a", "shop", "order", 2e6, 5e6),
		span("t1", "a", "", "shop", "checkout", 1e6, 6e6),
		span("t2", "b", "gone", "shop", "a part", 7e6, 0),
		span("t3", "a", "b", "shop", "in a", 8e6, 8e6), span("t3", "b", "a", "shop", "circle", 8e6, 8e6),
		internal,
		span("t5", "a", "", "iii", "queue jobs", 10e6, 10e6), // a call to a worker without telemetry
		span("t6", "a", "", "iii", "POST /orders", 11e6, 12e6), span("t6", "b", "a", "shop", "order", 11e6, 12e6),
	})
	want := []Trace{
		{ID: "t6", Name: "POST /orders", Service: "iii", Start: 11e6, Duration: 1, Spans: 2, Services: []TraceService{{"iii", 1}, {"shop", 1}}},
		{ID: "t5", Name: "queue jobs", Service: "iii", Start: 10e6, Spans: 1, Internal: true, Services: []TraceService{{"iii", 1}}},
		{ID: "t4", Name: "execute engine::functions::list", Service: "shop", Start: 9e6, Spans: 1, Internal: true, Services: []TraceService{{"shop", 1}}},
		{ID: "t3", Name: "in a", Service: "shop", Start: 8e6, Spans: 2, Services: []TraceService{{"shop", 2}}},
		{ID: "t2", Name: "a part", Service: "shop", Start: 7e6, Spans: 1, Pending: 1, Services: []TraceService{{"shop", 1}}},
		{ID: "t1", Name: "checkout", Service: "shop", Start: 1e6, Duration: 5, Spans: 3, Errors: 1, Services: []TraceService{{"shop", 2}, {"bank", 1}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}
	if got := tracesOf(nil); got == nil || len(got) != 0 {
		t.Errorf("without spans: %v", got)
	}
}

func TestTraceSpans(t *testing.T) {
	const begin = 1_700_000_000_000_000_001
	span := func(start, end uint64) iii.StoredSpan {
		return iii.StoredSpan{StartTimeUnixNano: start, EndTimeUnixNano: end}
	}
	got := traceSpans([]iii.StoredSpan{span(begin+1_500, begin+4_750), span(begin, begin+9_000_000), span(begin+7, 0), span(begin+9, begin+8)})
	var times [][2]float64
	for _, s := range got {
		times = append(times, [2]float64{s.After, s.Took})
	}
	if diff := cmp.Diff([][2]float64{{0.0015, 0.00325}, {0, 9}, {0.000007, 0}, {0.000009, 0}}, times); diff != "" {
		t.Errorf("after and took (-want +got):\n%s", diff)
	}
}
