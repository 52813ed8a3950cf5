package console

import (
	"cmp"
	"slices"

	"github.com/iii-go/iii"
)

const (
	// The trace list is built from the newest maxSpans spans.
	maxSpans = 5000
	// maxTraces is the maximum length of the trace list.
	maxTraces = 200
)

// Trace is an entry in the trace list.
type Trace struct {
	ID       string         `json:"trace_id"`
	Name     string         `json:"name"` // name of the first root span
	Service  string         `json:"service"`
	Start    uint64         `json:"start"`    // nanoseconds since 1970
	Duration float64        `json:"duration"` // milliseconds; completed spans only
	Spans    int            `json:"spans"`
	Errors   int            `json:"errors"`
	Pending  int            `json:"pending"`
	Internal bool           `json:"internal"` // consists only of the engine's own spans and functions
	Services []TraceService `json:"services"`
}

// TraceService summarizes the spans of one service in a trace.
type TraceService struct {
	Name  string `json:"name"`
	Spans int    `json:"spans"`
}

// tracesOf groups spans by trace and sorts the traces by start, latest first.
func tracesOf(spans []iii.StoredSpan) []Trace {
	byID := make(map[string][]*iii.StoredSpan)
	for i := range spans {
		s := &spans[i]
		byID[s.TraceID] = append(byID[s.TraceID], s)
	}
	traces := make([]Trace, 0, len(byID))
	for id, list := range byID {
		traces = append(traces, traceOf(id, list))
	}
	slices.SortFunc(traces, func(a, b Trace) int { return cmp.Or(cmp.Compare(b.Start, a.Start), cmp.Compare(a.ID, b.ID)) })
	return traces[:min(len(traces), maxTraces)]
}

func traceOf(id string, spans []*iii.StoredSpan) Trace {
	slices.SortStableFunc(spans, func(a, b *iii.StoredSpan) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	there := make(map[string]bool, len(spans))
	for _, s := range spans {
		there[s.SpanID] = true
	}
	t := Trace{ID: id, Spans: len(spans), Start: spans[0].StartTimeUnixNano, Internal: true, Services: []TraceService{}}
	root := spans[0] // fallback, since parents can form a cycle
	rooted := false
	end := uint64(0)
	for _, s := range spans {
		end = max(end, s.StartTimeUnixNano, s.EndTimeUnixNano)
		if s.Status == "error" {
			t.Errors++
		}
		if s.Pending {
			t.Pending++
		}
		t.Internal = t.Internal && internalSpan(s)
		i := slices.IndexFunc(t.Services, func(x TraceService) bool { return x.Name == s.ServiceName })
		if i < 0 {
			i = len(t.Services)
			t.Services = append(t.Services, TraceService{Name: s.ServiceName})
		}
		t.Services[i].Spans++
		if !rooted && (s.ParentSpanID == nil || !there[*s.ParentSpanID]) {
			root, rooted = s, true
		}
	}
	t.Name, t.Service = root.Name, root.ServiceName
	t.Duration = float64(end-t.Start) / 1e6
	return t
}

// engineService is the service name of the engine's own spans.
const engineService = "iii"

func internalSpan(s *iii.StoredSpan) bool {
	return s.ServiceName == engineService || slices.Contains(s.Attributes, iii.StoredAttribute{"iii.function.kind", "internal"})
}

// TraceSpan is a span with times in milliseconds since its trace started, because JavaScript
// cannot represent nanoseconds since 1970 exactly.
type TraceSpan struct {
	iii.StoredSpan
	After float64 `json:"after"` // since the first span started
	Took  float64 `json:"took"`  // 0 while the span is in progress
}

func traceSpans(spans []iii.StoredSpan) []TraceSpan {
	list := make([]TraceSpan, len(spans))
	first := spans[0].StartTimeUnixNano
	for i := range spans {
		first = min(first, spans[i].StartTimeUnixNano)
	}
	for i, s := range spans {
		list[i] = TraceSpan{StoredSpan: s, After: float64(s.StartTimeUnixNano-first) / 1e6}
		if s.EndTimeUnixNano > s.StartTimeUnixNano {
			list[i].Took = float64(s.EndTimeUnixNano-s.StartTimeUnixNano) / 1e6
		}
	}
	return list
}
