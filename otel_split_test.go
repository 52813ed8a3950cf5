package iii

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// each calls f with every element of a list of lists of lists.
func each(v any, lists []string, f func(v any)) {
	if len(lists) == 0 {
		f(v)
		return
	}
	for i := 0; at(v, lists[0], i) != nil; i++ {
		each(at(v, lists[0], i), lists[1:], f)
	}
}

// Every record of a batch that is too large for one frame arrives exactly once,
// below its own resource and scope.
func TestChecklistSplitBatches(t *testing.T) {
	res := resource.NewSchemaless(attribute.String("service.name", "split"))
	scope := func(i int) string { return fmt.Sprintf("scope %d", i%3) }
	const limit, n = 1500, 200
	text := func(i int) string { return strings.Repeat("x", i*37%700) }

	t.Run("spans", func(t *testing.T) {
		var spans []sdktrace.ReadOnlySpan
		for i := range n {
			spans = append(spans, tracetest.SpanStub{
				Name: fmt.Sprintf("%s/%d", scope(i), i), Attributes: []attribute.KeyValue{attribute.String("text", text(i))},
				Resource: res, InstrumentationScope: instrumentation.Scope{Name: scope(i)},
			}.Snapshot())
		}
		frames, lost := encoded(t, limit, func(e *otlpEncoder) []telemetryFrame { return e.spans(spans) })
		checkSplit(t, frames, lost, n, []string{"resourceSpans", "scopeSpans"}, "spans", func(v any) any { return at(v, "name") })
	})
	t.Run("logs", func(t *testing.T) {
		records := recordLogs(t, res, func(l log.Logger) {
			for i := range n {
				var r log.Record
				r.SetBody(attribute.StringValue(fmt.Sprintf("iii-go-sdk/%d", i)))
				r.AddAttributes(attribute.String("text", text(i)))
				l.Emit(t.Context(), r)
			}
		})
		frames, lost := encoded(t, limit, func(e *otlpEncoder) []telemetryFrame { return e.logs(records) })
		checkSplit(t, frames, lost, n, []string{"resourceLogs", "scopeLogs"}, "logRecords", func(v any) any { return at(v, "body", "stringValue") })
	})
	t.Run("points", func(t *testing.T) {
		rm := &metricdata.ResourceMetrics{Resource: res}
		var i int
		for s := range 3 {
			sm := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope(s)}}
			for m := range 4 {
				var points []metricdata.DataPoint[int64]
				for ; i < n*(s*4+m+1)/12; i++ {
					points = append(points, metricdata.DataPoint[int64]{Time: testTime, Attributes: attribute.NewSet(
						attribute.String("name", fmt.Sprintf("%s/%d", scope(s), i)), attribute.String("text", text(i)))})
				}
				sm.Metrics = append(sm.Metrics, metricdata.Metrics{Name: fmt.Sprint(m), Data: metricdata.Gauge[int64]{DataPoints: points}})
			}
			rm.ScopeMetrics = append(rm.ScopeMetrics, sm)
		}
		frames, lost := encoded(t, limit, func(e *otlpEncoder) []telemetryFrame { return e.metrics(rm) })
		for i := range frames { // as if the metrics were the records, of one point each
			doc := decoded(t, frames[i].data)
			var names []any
			each(doc, []string{"resourceMetrics", "scopeMetrics"}, func(s any) {
				each(s, []string{"metrics"}, func(m any) {
					points := at(m, "gauge", "dataPoints").([]any)
					for _, p := range points {
						name := at(p, "attributes", 0, "value", "stringValue")
						if got, _, _ := strings.Cut(name.(string), "/"); got != at(s, "scope", "name") {
							t.Errorf("%v is below %v", name, at(s, "scope", "name"))
						}
						names = append(names, name)
					}
				})
			})
			if len(names) != frames[i].records {
				t.Errorf("frame of %d records has %d", frames[i].records, len(names))
			}
		}
		count := 0
		for _, f := range frames {
			count += f.records
		}
		if len(frames) < 2 || count != n || lost != (otlpLosses{}) {
			t.Errorf("%d frames, %d points, lost %+v", len(frames), count, lost)
		}
	})
}

// checkSplit looks for n records in frames, each named after its scope and number.
func checkSplit(t *testing.T, frames []telemetryFrame, lost otlpLosses, n int, lists []string, records string, name func(any) any) {
	t.Helper()
	if len(frames) < 2 || lost != (otlpLosses{}) {
		t.Errorf("%d frames, lost %+v", len(frames), lost)
	}
	seen := map[any]int{}
	for _, f := range frames {
		count := 0
		doc := decoded(t, f.data)
		if got := at(doc, lists[0], 0, "resource", "attributes", 0, "value", "stringValue"); got != "split" {
			t.Errorf("resource %v", got)
		}
		each(doc, lists, func(s any) {
			each(s, []string{records}, func(r any) {
				count++
				seen[name(r)]++
				if scope, _, _ := strings.Cut(name(r).(string), "/"); scope != at(s, "scope", "name") {
					t.Errorf("%v is below %v", name(r), at(s, "scope", "name"))
				}
			})
		})
		if count != f.records {
			t.Errorf("frame of %d records has %d", f.records, count)
		}
	}
	for r, times := range seen {
		if times != 1 {
			t.Errorf("%v arrives %d times", r, times)
		}
	}
	if len(seen) != n {
		t.Errorf("%d records arrive, want %d", len(seen), n)
	}
}

// A record too large for a frame loses its longest strings first, then elements
// of its lists, which OTLP counts; its neighbours lose nothing.
func TestEncodeLargeRecord(t *testing.T) {
	many := make([]attribute.KeyValue, 1000)
	for i := range many {
		many[i] = attribute.Int(fmt.Sprint(i), i)
	}
	numbers := make([]int64, 10_000)
	big := strings.Repeat("ä\"", 5000)
	for _, test := range []struct {
		name string
		span tracetest.SpanStub
		want func(v any) bool
	}{
		{
			"long string beside short ones",
			tracetest.SpanStub{Name: "long", Attributes: []attribute.KeyValue{attribute.String("short", strings.Repeat("s", 40)), attribute.String("long", big)}},
			func(v any) bool {
				long, _ := at(v, "attributes", 1, "value", "stringValue").(string)
				return at(v, "attributes", 0, "value", "stringValue") == strings.Repeat("s", 40) && len(long) > 200 &&
					strings.HasPrefix(big, strings.TrimSuffix(long, truncatedMark)) && strings.HasSuffix(long, truncatedMark)
			},
		},
		{
			"many attributes",
			tracetest.SpanStub{Name: "long", Attributes: many, DroppedAttributes: 5},
			func(v any) bool {
				kept, _ := at(v, "attributes").([]any)
				return len(kept) > 0 && fmt.Sprint(at(v, "droppedAttributesCount")) == fmt.Sprint(1005-len(kept))
			},
		},
		{
			"many events and links",
			tracetest.SpanStub{Name: "long", Events: make([]sdktrace.Event, 100), Links: make([]sdktrace.Link, 100), DroppedEvents: 1},
			func(v any) bool {
				events, _ := at(v, "events").([]any)
				links, _ := at(v, "links").([]any)
				return len(events) > 0 && fmt.Sprint(at(v, "droppedEventsCount")) == fmt.Sprint(101-len(events)) &&
					fmt.Sprint(at(v, "droppedLinksCount")) == fmt.Sprint(100-len(links))
			},
		},
		{
			"long list",
			tracetest.SpanStub{Name: "long", Attributes: []attribute.KeyValue{attribute.Int64Slice("a", numbers)}},
			func(v any) bool {
				kept, _ := at(v, "attributes", 0, "value", "arrayValue", "values").([]any)
				return len(kept) > 0
			},
		},
		{
			"long name, status and event",
			tracetest.SpanStub{Name: "long" + big, Status: sdktrace.Status{Code: 1, Description: big}, Events: []sdktrace.Event{{Name: big}}},
			func(v any) bool {
				name, _ := at(v, "name").(string)
				message, _ := at(v, "status", "message").(string)
				event, _ := at(v, "events", 0, "name").(string)
				return strings.HasSuffix(name, truncatedMark) && strings.HasSuffix(message, truncatedMark) && strings.HasSuffix(event, truncatedMark)
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			neighbour := tracetest.SpanStub{Name: "neighbour", Attributes: []attribute.KeyValue{attribute.String("k", strings.Repeat("v", 1000))}}
			frames, lost := encoded(t, 2000, func(e *otlpEncoder) []telemetryFrame {
				return e.spans([]sdktrace.ReadOnlySpan{neighbour.Snapshot(), test.span.Snapshot(), neighbour.Snapshot()})
			})
			if want := (otlpLosses{cut: 1}); lost != want {
				t.Errorf("lost %+v, want %+v", lost, want)
			}
			var names []string
			for _, f := range frames {
				each(decoded(t, f.data), []string{"resourceSpans", "scopeSpans", "spans"}, func(v any) {
					name := at(v, "name").(string)
					names = append(names, name[:4])
					switch {
					case name[:4] == "long" && !test.want(v):
						t.Errorf("got %.3000s", jsonText(t, v))
					case name[:4] == "neig" && at(v, "attributes", 0, "value", "stringValue") != strings.Repeat("v", 1000):
						t.Errorf("the neighbour lost something: %.3000s", jsonText(t, v))
					}
				})
			}
			if got := strings.Join(names, " "); got != "neig long neig" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// An envelope that is too large is shortened as well.
func TestEncodeLargeEnvelope(t *testing.T) {
	big := strings.Repeat("x", 10_000)
	res := resource.NewWithAttributes(big, attribute.String("service.name", "s"), attribute.String("big", big))
	scope := instrumentation.Scope{Name: big, Version: big, SchemaURL: big, Attributes: attribute.NewSet(attribute.String(big, big))}
	frames, lost := encoded(t, 4000, func(e *otlpEncoder) []telemetryFrame {
		return e.metrics(&metricdata.ResourceMetrics{Resource: res, ScopeMetrics: []metricdata.ScopeMetrics{{Scope: scope, Metrics: []metricdata.Metrics{
			{Name: big, Description: big, Unit: big, Data: metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{{Value: 1}}}},
		}}}})
	})
	if want := (otlpLosses{cut: 3}); len(frames) != 1 || lost != want {
		t.Fatalf("%d frames, lost %+v, want %+v", len(frames), lost, want)
	}
	doc := decoded(t, frames[0].data)
	if got := at(doc, "resourceMetrics", 0, "scopeMetrics", 0, "metrics", 0, "gauge", "dataPoints", 0, "asInt"); got != "1" {
		t.Errorf("value %v in %s", got, frames[0].data)
	}
}

// A record that cannot be made to fit is counted, and the others arrive.
func TestEncodeRecordThatNeverFits(t *testing.T) {
	spans := []sdktrace.ReadOnlySpan{
		tracetest.SpanStub{Name: "a"}.Snapshot(),
		tracetest.SpanStub{Name: strings.Repeat("b", 1000), Attributes: []attribute.KeyValue{attribute.Int("k", 1)}}.Snapshot(),
		tracetest.SpanStub{Name: "c"}.Snapshot(),
	}
	alone, _ := encoded(t, wholeFrame, func(e *otlpEncoder) []telemetryFrame { return e.spans(spans[:1]) })
	limit := len(alone[0].data) + 10
	frames, lost := encoded(t, limit, func(e *otlpEncoder) []telemetryFrame { return e.spans(spans) })
	var names []any
	for _, f := range frames {
		each(decoded(t, f.data), []string{"resourceSpans", "scopeSpans", "spans"}, func(v any) { names = append(names, at(v, "name")) })
	}
	if fmt.Sprint(names) != "[a c]" || lost != (otlpLosses{records: 1}) {
		t.Errorf("got %v, lost %+v", names, lost)
	}
}

// 20 MiB become 8: the engine would end a connection at a frame of 16.
func TestEncodeLargePayload(t *testing.T) {
	payload := `{"blob":"` + strings.Repeat("x", 20<<20) + `"}`
	begin := time.Now()
	frames, lost := encoded(t, wholeFrame, func(e *otlpEncoder) []telemetryFrame {
		return e.spans([]sdktrace.ReadOnlySpan{tracetest.SpanStub{
			Name: "execute big",
			Events: []sdktrace.Event{{Name: "iii.invocation.input", Attributes: []attribute.KeyValue{
				attribute.String("iii.payload.json", payload), attribute.Bool("iii.payload.truncated", false),
			}}},
		}.Snapshot()})
	})
	if len(frames) != 1 || lost != (otlpLosses{cut: 1}) {
		t.Fatalf("%d frames, lost %+v", len(frames), lost)
	}
	event := at(decoded(t, frames[0].data), "resourceSpans", 0, "scopeSpans", 0, "spans", 0, "events", 0)
	text, _ := at(event, "attributes", 0, "value", "stringValue").(string)
	if len(text) < 1<<20 || !strings.HasPrefix(payload, strings.TrimSuffix(text, truncatedMark)) || !strings.HasSuffix(text, truncatedMark) {
		t.Errorf("%d bytes are left", len(text))
	}
	if at(event, "attributes", 1, "value", "boolValue") != false {
		t.Errorf("the other attribute: %v", at(event, "attributes", 1))
	}
	t.Logf("%v", time.Since(begin))
}
