package otlpjson

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

	"github.com/iii-go/iii/internal/enginetest"
)

// encoded returns the frames produced by write, and the losses. It checks that the frames are
// valid.
func encoded(tb testing.TB, limit int, write func(e *Encoder) []Frame) ([]Frame, Losses) {
	tb.Helper()
	e := &Encoder{limit: limit}
	frames := write(e)
	for _, f := range frames {
		if len(f.Data) > limit {
			tb.Errorf("frame of %d bytes, want %d at most", len(f.Data), limit)
		}
		enginetest.JudgeFrame(tb, f.Prefix, f.Data)
		if f.Records == 0 {
			tb.Errorf("frame without records: %s", f.Data)
		}
	}
	return frames, e.lost
}

const wholeFrame = MaxFrameBytes - 4

// Every record of a split batch arrives exactly once, under its own resource and scope.
func TestEncodeSplitsBatches(t *testing.T) {
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
		frames, lost := encoded(t, limit, func(e *Encoder) []Frame { return e.Spans(spans) })
		checkSplit(t, frames, lost, n, []string{"resourceSpans", "scopeSpans"}, "spans", func(v any) any { return enginetest.At(v, "name") })
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
		frames, lost := encoded(t, limit, func(e *Encoder) []Frame { return e.Logs(records) })
		checkSplit(t, frames, lost, n, []string{"resourceLogs", "scopeLogs"}, "logRecords", func(v any) any { return enginetest.At(v, "body", "stringValue") })
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
		frames, lost := encoded(t, limit, func(e *Encoder) []Frame { return e.Metrics(rm) })
		for i := range frames { // each metric has one point and counts as a record
			doc := enginetest.DecodeJSON(t, frames[i].Data)
			var names []any
			enginetest.Each(doc, []string{"resourceMetrics", "scopeMetrics"}, func(s any) {
				enginetest.Each(s, []string{"metrics"}, func(m any) {
					points := enginetest.At(m, "gauge", "dataPoints").([]any)
					for _, p := range points {
						name := enginetest.At(p, "attributes", 0, "value", "stringValue")
						if got, _, _ := strings.Cut(name.(string), "/"); got != enginetest.At(s, "scope", "name") {
							t.Errorf("%v is below %v", name, enginetest.At(s, "scope", "name"))
						}
						names = append(names, name)
					}
				})
			})
			if len(names) != frames[i].Records {
				t.Errorf("frame of %d records has %d", frames[i].Records, len(names))
			}
		}
		count := 0
		for _, f := range frames {
			count += f.Records
		}
		if len(frames) < 2 || count != n || lost != (Losses{}) {
			t.Errorf("%d frames, %d points, lost %+v", len(frames), count, lost)
		}
	})
}

// checkSplit checks that frames contain n records, each named after its scope and its number.
func checkSplit(t *testing.T, frames []Frame, lost Losses, n int, lists []string, records string, name func(any) any) {
	t.Helper()
	if len(frames) < 2 || lost != (Losses{}) {
		t.Errorf("%d frames, lost %+v", len(frames), lost)
	}
	seen := map[any]int{}
	for _, f := range frames {
		count := 0
		doc := enginetest.DecodeJSON(t, f.Data)
		if got := enginetest.At(doc, lists[0], 0, "resource", "attributes", 0, "value", "stringValue"); got != "split" {
			t.Errorf("resource %v", got)
		}
		enginetest.Each(doc, lists, func(s any) {
			enginetest.Each(s, []string{records}, func(r any) {
				count++
				seen[name(r)]++
				if scope, _, _ := strings.Cut(name(r).(string), "/"); scope != enginetest.At(s, "scope", "name") {
					t.Errorf("%v is below %v", name(r), enginetest.At(s, "scope", "name"))
				}
			})
		})
		if count != f.Records {
			t.Errorf("frame of %d records has %d", f.Records, count)
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

// A record that is too large is shortened: first its longest strings, then its lists. Omitted
// attributes, events and links are added to OTLP's dropped counts. Other records are not
// affected.
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
				long, _ := enginetest.At(v, "attributes", 1, "value", "stringValue").(string)
				return enginetest.At(v, "attributes", 0, "value", "stringValue") == strings.Repeat("s", 40) && len(long) > 200 &&
					strings.HasPrefix(big, strings.TrimSuffix(long, truncatedMark)) && strings.HasSuffix(long, truncatedMark)
			},
		},
		{
			"many attributes",
			tracetest.SpanStub{Name: "long", Attributes: many, DroppedAttributes: 5},
			func(v any) bool {
				kept, _ := enginetest.At(v, "attributes").([]any)
				return len(kept) > 0 && fmt.Sprint(enginetest.At(v, "droppedAttributesCount")) == fmt.Sprint(1005-len(kept))
			},
		},
		{
			"many events and links",
			tracetest.SpanStub{Name: "long", Events: make([]sdktrace.Event, 100), Links: make([]sdktrace.Link, 100), DroppedEvents: 1},
			func(v any) bool {
				events, _ := enginetest.At(v, "events").([]any)
				links, _ := enginetest.At(v, "links").([]any)
				return len(events) > 0 && fmt.Sprint(enginetest.At(v, "droppedEventsCount")) == fmt.Sprint(101-len(events)) &&
					fmt.Sprint(enginetest.At(v, "droppedLinksCount")) == fmt.Sprint(100-len(links))
			},
		},
		{
			"long list",
			tracetest.SpanStub{Name: "long", Attributes: []attribute.KeyValue{attribute.Int64Slice("a", numbers)}},
			func(v any) bool {
				kept, _ := enginetest.At(v, "attributes", 0, "value", "arrayValue", "values").([]any)
				return len(kept) > 0
			},
		},
		{
			"long name, status and event",
			tracetest.SpanStub{Name: "long" + big, Status: sdktrace.Status{Code: 1, Description: big}, Events: []sdktrace.Event{{Name: big}}},
			func(v any) bool {
				name, _ := enginetest.At(v, "name").(string)
				message, _ := enginetest.At(v, "status", "message").(string)
				event, _ := enginetest.At(v, "events", 0, "name").(string)
				return strings.HasSuffix(name, truncatedMark) && strings.HasSuffix(message, truncatedMark) && strings.HasSuffix(event, truncatedMark)
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			neighbor := tracetest.SpanStub{Name: "neighbor", Attributes: []attribute.KeyValue{attribute.String("k", strings.Repeat("v", 1000))}}
			frames, lost := encoded(t, 2000, func(e *Encoder) []Frame {
				return e.Spans([]sdktrace.ReadOnlySpan{neighbor.Snapshot(), test.span.Snapshot(), neighbor.Snapshot()})
			})
			if want := (Losses{Cut: 1}); lost != want {
				t.Errorf("lost %+v, want %+v", lost, want)
			}
			var names []string
			for _, f := range frames {
				enginetest.Each(enginetest.DecodeJSON(t, f.Data), []string{"resourceSpans", "scopeSpans", "spans"}, func(v any) {
					name := enginetest.At(v, "name").(string)
					names = append(names, name[:4])
					switch {
					case name[:4] == "long" && !test.want(v):
						t.Errorf("got %.3000s", jsonText(t, v))
					case name[:4] == "neig" && enginetest.At(v, "attributes", 0, "value", "stringValue") != strings.Repeat("v", 1000):
						t.Errorf("the neighbor lost something: %.3000s", jsonText(t, v))
					}
				})
			}
			if got := strings.Join(names, " "); got != "neig long neig" {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestEncodeLargeEnvelope(t *testing.T) {
	big := strings.Repeat("x", 10_000)
	res := resource.NewWithAttributes(big, attribute.String("service.name", "s"), attribute.String("big", big))
	scope := instrumentation.Scope{Name: big, Version: big, SchemaURL: big, Attributes: attribute.NewSet(attribute.String(big, big))}
	frames, lost := encoded(t, 4000, func(e *Encoder) []Frame {
		return e.Metrics(&metricdata.ResourceMetrics{Resource: res, ScopeMetrics: []metricdata.ScopeMetrics{{Scope: scope, Metrics: []metricdata.Metrics{
			{Name: big, Description: big, Unit: big, Data: metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{{Value: 1}}}},
		}}}})
	})
	if want := (Losses{Cut: 3}); len(frames) != 1 || lost != want {
		t.Fatalf("%d frames, lost %+v, want %+v", len(frames), lost, want)
	}
	doc := enginetest.DecodeJSON(t, frames[0].Data)
	if got := enginetest.At(doc, "resourceMetrics", 0, "scopeMetrics", 0, "metrics", 0, "gauge", "dataPoints", 0, "asInt"); got != "1" {
		t.Errorf("value %v in %s", got, frames[0].Data)
	}
}

// A record that cannot be made to fit is counted as lost. The others arrive.
func TestEncodeRecordThatNeverFits(t *testing.T) {
	spans := []sdktrace.ReadOnlySpan{
		tracetest.SpanStub{Name: "a"}.Snapshot(),
		tracetest.SpanStub{Name: strings.Repeat("b", 1000), Attributes: []attribute.KeyValue{attribute.Int("k", 1)}}.Snapshot(),
		tracetest.SpanStub{Name: "c"}.Snapshot(),
	}
	alone, _ := encoded(t, wholeFrame, func(e *Encoder) []Frame { return e.Spans(spans[:1]) })
	limit := len(alone[0].Data) + 10
	frames, lost := encoded(t, limit, func(e *Encoder) []Frame { return e.Spans(spans) })
	var names []any
	for _, f := range frames {
		enginetest.Each(enginetest.DecodeJSON(t, f.Data), []string{"resourceSpans", "scopeSpans", "spans"}, func(v any) { names = append(names, enginetest.At(v, "name")) })
	}
	if fmt.Sprint(names) != "[a c]" || lost != (Losses{Records: 1}) {
		t.Errorf("got %v, lost %+v", names, lost)
	}
}

// The engine closes the connection if a frame exceeds 16 MiB.
func TestEncodeLargePayload(t *testing.T) {
	payload := `{"blob":"` + strings.Repeat("x", 20<<20) + `"}`
	begin := time.Now()
	frames, lost := encoded(t, wholeFrame, func(e *Encoder) []Frame {
		return e.Spans([]sdktrace.ReadOnlySpan{tracetest.SpanStub{
			Name: "execute big",
			Events: []sdktrace.Event{{Name: "iii.invocation.input", Attributes: []attribute.KeyValue{
				attribute.String("iii.payload.json", payload), attribute.Bool("iii.payload.truncated", false),
			}}},
		}.Snapshot()})
	})
	if len(frames) != 1 || lost != (Losses{Cut: 1}) {
		t.Fatalf("%d frames, lost %+v", len(frames), lost)
	}
	event := enginetest.At(enginetest.DecodeJSON(t, frames[0].Data), "resourceSpans", 0, "scopeSpans", 0, "spans", 0, "events", 0)
	text, _ := enginetest.At(event, "attributes", 0, "value", "stringValue").(string)
	if len(text) < 1<<20 || !strings.HasPrefix(payload, strings.TrimSuffix(text, truncatedMark)) || !strings.HasSuffix(text, truncatedMark) {
		t.Errorf("%d bytes are left", len(text))
	}
	if enginetest.At(event, "attributes", 1, "value", "boolValue") != false {
		t.Errorf("the other attribute: %v", enginetest.At(event, "attributes", 1))
	}
	t.Logf("%v", time.Since(begin))
}
