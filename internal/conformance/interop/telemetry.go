package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
)

var telemetry = []scenario{
	{"trace", "the spans of one trace, from Go to the peer and back", func(ctx context.Context, t *trial) {
		traceID := t.traced(ctx)
		// Spans arrive separately, and a parent may arrive after its children.
		var wrong string
		err := until(ctx, "the trace does not become whole", func() bool {
			tree, err := iii.Call[iii.TracesTreeResult](ctx, t.client, "engine::traces::tree", iii.TracesTreeInput{TraceID: traceID})
			wrong = t.wrongTrace(tree.Roots)
			return err == nil && wrong == ""
		})
		if err != nil {
			t.errorf("%v: %s", err, wrong)
		}
	}},
	{"baggage", "baggage, from Go to the peer and back", func(ctx context.Context, t *trial) {
		ctx, err := iii.SetBaggage(ctx, "tenant", "acme")
		t.must("baggage", err)
		seen := make(chan string, 1)
		f, err := t.client.HandleFunc("go::baggage", func(ctx context.Context, _ json.RawMessage) (any, error) {
			value, _ := iii.BaggageEntry(ctx, "tenant")
			select {
			case seen <- value:
			default: // only the first call counts
			}
			return nil, nil
		})
		t.must("registration", err)
		defer unregister(f)
		t.must("span", iii.InSpan(trace.ContextWithSpan(ctx, t.root(ctx)), "with baggage", trace.SpanKindClient, func(ctx context.Context) error {
			return t.client.Call(ctx, "peer::traced", object{"function_id": "go::baggage", "data": object{}}, nil)
		}))
		select {
		case got := <-seen:
			t.equal("entry tenant in Go's function that the peer calls", got, "acme")
		case <-ctx.Done():
			t.errorf("go::baggage was not called: %v", ctx.Err())
		}
	}},
	{"logs", "the peer's log records, read back by Go", func(ctx context.Context, t *trial) {
		traceID := t.traced(ctx)
		var logs []iii.StoredLog
		t.must("logs", until(ctx, "the peer's record of the trace does not arrive", func() bool {
			r, err := iii.Call[iii.LogsListResult](ctx, t.client, "engine::logs::list", iii.LogsListInput{TraceID: traceID})
			logs = logs[:0]
			for _, l := range r.Logs {
				if l.ServiceName == t.peerName() && l.Body == "working" {
					logs = append(logs, l)
				}
			}
			return err == nil && len(logs) > 0
		}))
		t.equal("number of records", len(logs), 1)
		t.equal("severity", []any{logs[0].SeverityNumber, logs[0].SeverityText}, []any{9, "INFO"})
		if text := fmt.Sprint(plain(logs[0].Attributes)); !strings.Contains(text, "42") {
			t.errorf("attributes: got %s, want the data of the record in them", short(plain(logs[0].Attributes)))
		}
		if logs[0].SpanID == nil {
			t.errorf("the record is in no span")
		}
	}},
	{"logs-outside", "the peer's log records outside any span", func(ctx context.Context, t *trial) {
		for _, level := range []struct {
			name     string
			severity int32
		}{{"debug", 5}, {"warn", 13}, {"error", 17}} {
			t.value(ctx, "log", object{"level": level.name, "message": "outside " + level.name, "data": object{"answer": 42}})
			t.must("logs", until(ctx, "the record of level "+level.name+" does not arrive", func() bool {
				// The result is empty after an error.
				r, _ := iii.Call[iii.LogsListResult](ctx, t.client, "engine::logs::list", iii.LogsListInput{})
				for _, l := range r.Logs {
					if l.ServiceName == t.peerName() && l.Body == "outside "+level.name {
						t.equal("severity of level "+level.name, l.SeverityNumber, level.severity)
						return true
					}
				}
				return false
			}))
		}
	}},
	{"metrics", "the peer's counter, read back by Go", func(ctx context.Context, t *trial) {
		t.value(ctx, "count", object{"name": "interop.count", "by": 3})
		var got []iii.StoredMetric
		t.must("metrics", until(ctx, "the peer's counter does not arrive", func() bool {
			r, err := iii.Call[iii.MetricsListResult](ctx, t.client, "engine::metrics::list", iii.MetricsListInput{MetricName: "interop.count"})
			got = got[:0]
			for _, m := range r.SdkMetrics {
				if m.ServiceName == t.peerName() {
					got = append(got, m)
				}
			}
			return err == nil && len(got) > 0
		}))
		t.equal("type", got[0].MetricType, "counter")
		b, err := json.Marshal(got[0].DataPoints)
		t.must("data points", err)
		if !strings.Contains(string(b), `"value":3`) {
			t.errorf("data points: got %s, want the value 3", short(plain(got[0].DataPoints)))
		}
	}},
	{"gauges", "the peer's process gauges in engine::workers::info", func(ctx context.Context, t *trial) {
		ctx, cancel := context.WithTimeout(ctx, t.patience) // many times the export interval
		defer cancel()
		var report *iii.WorkerMetricsReport
		t.must("worker metrics", until(ctx, "they do not arrive", func() bool {
			w, err := t.client.WorkerInfo(ctx, t.peerName())
			report = w.Worker.LatestMetrics
			return err == nil && report != nil
		}))
		if report.MemoryRSS == nil || *report.MemoryRSS == 0 {
			t.errorf("no resident memory in %s", short(plain(report)))
		}
	}},
}

// root starts a root span in the harness's worker. The span ends at once, because it serves
// only as a parent.
func (t *trial) root(ctx context.Context) trace.Span {
	_, span := t.telemetry.Tracer().Start(ctx, "round trip", trace.WithNewRoot())
	span.End()
	return span
}

// traced starts a trace in the harness's worker and calls the peer. The peer starts a span and
// calls the harness within it. The harness then starts another span. traced returns the trace
// id.
func (t *trial) traced(ctx context.Context) string {
	f, err := t.client.HandleFunc("go::traced", func(ctx context.Context, _ json.RawMessage) (any, error) {
		return true, iii.InSpan(ctx, "go work", trace.SpanKindInternal, func(context.Context) error { return nil })
	})
	t.must("registration", err)
	defer unregister(f)
	span := t.root(ctx)
	ctx = trace.ContextWithSpan(ctx, span)
	t.equal("what the peer got from Go", t.call(ctx, "peer::traced", object{"function_id": "go::traced", "data": object{"answer": 42}}), true)
	return span.SpanContext().TraceID().String()
}

// wrongTrace compares a trace with the one that traced should produce. It returns the first
// difference, or "" if there is none.
func (t *trial) wrongTrace(tree []iii.TraceNode) string {
	if len(tree) != 1 {
		return fmt.Sprintf("it has %d roots, want 1", len(tree))
	}
	for _, at := range []struct{ name, service, below string }{
		{"round trip", goWorker, ""}, {"peer work", t.peerName(), "round trip"}, {"go work", goWorker, "peer work"},
	} {
		line := path(tree, at.name)
		if line == nil {
			return fmt.Sprintf("it has no span %s", at.name)
		}
		if span := line[len(line)-1]; span.ServiceName != at.service {
			return fmt.Sprintf("the span %s is of the service %s, want %s", at.name, span.ServiceName, at.service)
		}
		below := func(n iii.TraceNode) bool { return n.Name == at.below }
		if at.below != "" && !slices.ContainsFunc(line[:len(line)-1], below) {
			return fmt.Sprintf("the span %s is not below the span %s", at.name, at.below)
		}
	}
	return ""
}

// path returns the nodes from a root to the first span with the given name, or nil if there is
// no such span.
func path(nodes []iii.TraceNode, name string) []iii.TraceNode {
	for _, n := range nodes {
		if n.Name == name {
			return []iii.TraceNode{n}
		}
		if below := path(n.Children, name); below != nil {
			return append([]iii.TraceNode{n}, below...)
		}
	}
	return nil
}
