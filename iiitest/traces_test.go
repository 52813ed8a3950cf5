package iiitest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

// testSpan describes a span to send. Times are in milliseconds. An end of 0 means that the
// span is still running.
type testSpan struct {
	trace, id, parent, name, service string
	start, end                       int64
	status                           int
	attributes                       map[string]string
}

func (s testSpan) json() string {
	m := map[string]any{
		"traceId": s.trace, "spanId": s.id, "parentSpanId": s.parent, "name": s.name,
		"startTimeUnixNano": fmt.Sprint(s.start * 1e6), "endTimeUnixNano": fmt.Sprint(s.end * 1e6),
		"status": map[string]any{"code": s.status},
	}
	attributes := []any{}
	for k, v := range s.attributes {
		attributes = append(attributes, map[string]any{"key": k, "value": map[string]any{"stringValue": v}})
	}
	m["attributes"] = attributes
	return string(mustEncode(m))
}

// spanFrame returns a frame of spans, each with its own service.
func spanFrame(spans ...testSpan) string {
	var resources []string
	for _, s := range spans {
		resources = append(resources, fmt.Sprintf(
			`{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":%q}}]},"scopeSpans":[{"spans":[%s]}]}`, s.service, s.json()))
	}
	return `OTLP{"resourceSpans":[` + strings.Join(resources, ",") + `]}`
}

// callBuiltin calls a built-in function and decodes its result.
func callBuiltin[T any](t testing.TB, e *Engine, id, input string) T {
	t.Helper()
	answer, bad := e.invoke(t.Context(), id, defaultNamespace, json.RawMessage(input))
	if bad != nil {
		t.Fatalf("%s(%s): %+v", id, input, bad)
	}
	var v T
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatalf("%s(%s): %v: %s", id, input, err, answer)
	}
	return v
}

// refused calls a built-in function that must fail, and returns the error.
func refused(t testing.TB, e *Engine, id, input string) string {
	t.Helper()
	answer, bad := e.invoke(t.Context(), id, defaultNamespace, json.RawMessage(input))
	if bad == nil {
		t.Fatalf("%s(%s): no error: %s", id, input, answer)
	}
	return bad.Code + ": " + bad.Message
}

// spanIDs returns the ids of spans, with a question mark after those of running spans.
func spanIDs[S any](spans []S, of func(S) (string, bool)) string {
	var ids []string
	for _, s := range spans {
		id, pending := of(s)
		if pending {
			id += "?"
		}
		ids = append(ids, id)
	}
	return strings.Join(ids, " ")
}

func listed(r iii.TracesListResult) string {
	return fmt.Sprint(r.Total, " ", spanIDs(r.Spans, func(s iii.StoredSpan) (string, bool) { return s.SpanID, s.Pending }))
}

func TestListTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		began := time.Now().UnixMilli()
		time.Sleep(time.Second)
		at := func(ms int64) int64 { return began + ms }
		take(t, e, spanFrame(
			testSpan{trace: "1", id: "a", name: "POST /orders", service: "Shop", start: at(100), end: at(400), attributes: map[string]string{"k": "v", "iii.session.id": "S1", "iii.tag.x": "old"}},
			testSpan{trace: "1", id: "b", parent: "a", name: "charge", service: "bank", start: at(200), end: at(300), status: 2, attributes: map[string]string{"k": "w", "iii.tag.x": "new"}},
			testSpan{trace: "1", id: "c", parent: "lost", name: "orphan", service: "bank", start: at(250), end: at(260), status: 1},
			testSpan{trace: "2", id: "d", name: "cron", service: "shop", start: at(50), end: at(51), status: 2, attributes: map[string]string{"iii.function.kind": "internal"}},
			testSpan{trace: "2", id: "e", name: "call", service: "shop", start: at(60), end: at(61), attributes: map[string]string{"function_id": "engine::x"}},
			testSpan{trace: "3", id: "f", name: "Under way", service: "zoo", start: at(500)},
		))
		for input, want := range map[string]string{
			`{}`:                                 "3 a c f?",
			`{"include_internal":true}`:          "5 d e a c f?",
			`{"search_all_spans":true}`:          "4 a b c f?",
			`{"trace_id":"1"}`:                   "2 a c",
			`{"trace_id":"3","trace_ids":["1"]}`: "1 f?",
			`{"trace_ids":["1","2"],"include_internal":true}`:         "4 d e a c",
			`{"trace_id":"nobody"}`:                                   "0 ",
			`{"trace_id":null,"limit":null,"name":null}`:              "3 a c f?",
			`{"service_name":"SHO"}`:                                  "1 a",
			`{"name":"OR"}`:                                           "2 a c",
			`{"status":"O"}`:                                          "1 c",
			`{"status":"error","search_all_spans":true}`:              "1 b",
			`{"min_duration_ms":100}`:                                 "2 a f?",
			`{"max_duration_ms":10}`:                                  "1 c",
			`{"min_duration_ms":500,"max_duration_ms":500}`:           "1 f?",
			fmt.Sprintf(`{"start_time":%d}`, at(400)):                 "2 a f?",
			fmt.Sprintf(`{"start_time":%d}`, at(401)):                 "1 f?",
			fmt.Sprintf(`{"end_time":%d}`, at(250)):                   "2 a c",
			fmt.Sprintf(`{"end_time":%d}`, at(99)):                    "0 ",
			`{"sort_by":"duration"}`:                                  "3 c a f?",
			`{"sort_by":"duration_ms","sort_order":"desc"}`:           "3 f? a c",
			`{"sort_by":"service_name","sort_order":"asc"}`:           "3 a c f?",
			`{"sort_by":"name","sort_order":"down"}`:                  "3 c f? a",
			`{"sort_by":"what"}`:                                      "3 a c f?",
			`{"offset":1,"limit":1}`:                                  "3 c",
			`{"offset":7}`:                                            "3 ",
			`{"limit":0}`:                                             "3 ",
			`{"attributes":[["k","v"]]}`:                              "1 a",
			`{"attributes":[["k","v"],["iii.session.id","no"]]}`:      "0 ",
			`{"exclude_attributes":[["k","v"],["no","no"]]}`:          "2 c f?",
			`{"attributes":[["k","w"]],"search_all_spans":true}`:      "3 a b c",
			`{"attributes":[["k"],["k","v","w"],[]]}`:                 "3 a c f?", // not a pair
			`{"attributes":[["k"],["k","v"]]}`:                        "1 a",
			`{"exclude_attributes":[["k","v","w"],["k"]]}`:            "3 a c f?",
			`{"name":"charge","search_all_spans":true}`:               "3 a b c",
			`{"name":"charge","status":"ok","search_all_spans":true}`: "1 c",
		} {
			if diff := cmp.Diff(want, listed(callBuiltin[iii.TracesListResult](t, e, "engine::traces::list", input))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", input, diff)
			}
		}
		r := callBuiltin[iii.TracesListResult](t, e, "engine::traces::list", `{}`)
		if r.Limit != 100 || r.Offset != 0 {
			t.Errorf("limit %d, offset %d", r.Limit, r.Offset)
		}
		want := map[string]string{"iii.session.id": "S1", "iii.tag.x": "new"}
		for _, s := range r.Spans {
			if s.TraceID == "3" {
				want = nil
			}
			if diff := cmp.Diff(want, s.TraceTags); diff != "" {
				t.Errorf("tags of %s (-want +got):\n%s", s.SpanID, diff)
			}
		}
		for input, want := range map[string]string{
			`7`:                      "deserialization_error: Failed to deserialize input for engine::traces::list: invalid type: integer `7`, expected struct TracesListInput",
			`{"limit":-1}`:           "deserialization_error: Failed to deserialize input for engine::traces::list: invalid value: integer `-1`, expected u64",
			`{"attributes":["k"]}`:   "deserialization_error: Failed to deserialize input for engine::traces::list: invalid type: string \"k\", expected a sequence",
			`{"trace_ids":"1"}`:      "deserialization_error: Failed to deserialize input for engine::traces::list: invalid type: string \"1\", expected a sequence",
			`{"include_internal":1}`: "deserialization_error: Failed to deserialize input for engine::traces::list: invalid type: integer `1`, expected a boolean",
		} {
			if diff := cmp.Diff(want, refused(t, e, "engine::traces::list", input)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", input, diff)
			}
		}
	})
}

// tree formats a tree as id(children).
func tree(nodes []iii.TraceNode) string {
	var out []string
	for _, n := range nodes {
		text := n.SpanID
		if len(n.Children) > 0 {
			text += "(" + tree(n.Children) + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func TestTraceTree(t *testing.T) {
	e := Start(t)
	spans := []testSpan{
		{trace: "1", id: "late", parent: "a", start: 9, end: 10},
		{trace: "1", id: "early", parent: "a", start: 2, end: 3},
		{trace: "1", id: "a", start: 1, end: 20},
		{trace: "1", id: "orphan", parent: "lost", start: 5, end: 6},
		{trace: "1", id: "empty", parent: "a", name: "state_triggers", start: 3, end: 4},
		{trace: "1", id: "full", parent: "a", name: "stream_triggers", start: 3, end: 4},
		{trace: "1", id: "fired", parent: "full", start: 3, end: 4},
		{trace: "1", id: "self", parent: "self", start: 1, end: 2},
		{trace: "1", id: "x", parent: "y", start: 1, end: 2},
		{trace: "1", id: "y", parent: "x", start: 1, end: 2},
		{trace: "2", id: "a", start: 1, end: 2},
	}
	for i := range 2*maxTreeDepth + 10 {
		spans = append(spans, testSpan{trace: "deep", id: fmt.Sprint("n", i), parent: fmt.Sprint("n", i-1), start: 1, end: 2})
	}
	take(t, e, spanFrame(spans...))
	for trace, want := range map[string]string{
		"1": "a(early full(fired) late) orphan", "2": "a", "none": "",
	} {
		got := tree(callBuiltin[iii.TracesTreeResult](t, e, "engine::traces::tree", fmt.Sprintf(`{"trace_id":%q}`, trace)).Roots)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", trace, diff)
		}
	}
	deep := callBuiltin[iii.TracesTreeResult](t, e, "engine::traces::tree", `{"trace_id":"deep"}`).Roots
	count := 0
	var walk func(nodes []iii.TraceNode, depth int)
	walk = func(nodes []iii.TraceNode, depth int) {
		for _, n := range nodes {
			if count++; depth > maxTreeDepth {
				t.Fatalf("%d levels", depth)
			}
			walk(n.Children, depth+1)
		}
	}
	walk(deep, 1)
	if count != 2*maxTreeDepth+10 || len(deep) != 3 {
		t.Errorf("%d spans under %d roots", count, len(deep))
	}
	if got := refused(t, e, "engine::traces::tree", `{}`); !strings.HasSuffix(got, "missing field `trace_id`") {
		t.Error(got)
	}
}

func TestGroupTraces(t *testing.T) {
	e := Start(t)
	with := func(permissions, name string) map[string]string {
		return map[string]string{"iii.session.id": permissions, "iii.session.name": name}
	}
	take(t, e, spanFrame(
		testSpan{trace: "1", id: "a", start: 1000, end: 1500, attributes: with("S1", "old name")},
		testSpan{trace: "1", id: "b", start: 1100, end: 1200, status: 2, attributes: with("S1", "new name")},
		testSpan{trace: "2", id: "c", start: 1900, end: 2000, attributes: map[string]string{"iii.session.id": "S1"}},
		testSpan{trace: "3", id: "d", start: 5000, end: 4000, attributes: with("S2", "n")},
		testSpan{trace: "4", id: "e", start: 9000, end: 9001, attributes: map[string]string{"iii.session.id": "S3", "function_id": "engine::x"}},
		testSpan{trace: "5", id: "f", start: 1, end: 2},
	))
	label, n := "new name", "n"
	s1 := iii.TraceGroup{Value: "S1", TraceIDs: []string{"1", "2"}, SpanCount: 3, FirstSeenMs: 1000, LastSeenMs: 2000, DurationMs: 1000, ErrorCount: 1}
	s2 := iii.TraceGroup{Value: "S2", TraceIDs: []string{"3"}, SpanCount: 1, FirstSeenMs: 5000, LastSeenMs: 5000}
	s3 := iii.TraceGroup{Value: "S3", TraceIDs: []string{"4"}, SpanCount: 1, FirstSeenMs: 9000, LastSeenMs: 9001, DurationMs: 1}
	labeled := func(g iii.TraceGroup, label *string) iii.TraceGroup { g.Label = label; return g }
	later := s1
	later.TraceIDs, later.SpanCount, later.FirstSeenMs, later.DurationMs, later.ErrorCount = []string{"2"}, 1, 1900, 100, 0
	for input, want := range map[string][]iii.TraceGroup{
		`{"attribute":"iii.session.id"}`:                                      {s2, s1},
		`{"attribute":"iii.session.id","label_attribute":"iii.session.name"}`: {labeled(s2, &n), labeled(s1, &label)},
		`{"attribute":"iii.session.id","include_internal":true,"limit":2}`:    {s3, s2},
		`{"attribute":"iii.session.id","since_ms":1200}`:                      {s2, later},
		`{"attribute":"none"}`:                                                {},
	} {
		got := callBuiltin[iii.TracesGroupByResult](t, e, "engine::traces::group_by", input)
		if diff := cmp.Diff(iii.List[iii.TraceGroup](want), got.Groups); diff != "" {
			t.Errorf("%s (-want +got):\n%s", input, diff)
		}
	}
}

func TestLiveSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		announced := testSpan{trace: "1", id: "a", name: "n", start: 1}
		ended := testSpan{trace: "1", id: "a", name: "n", start: 1, end: 5, status: 1}
		other := testSpan{trace: "1", id: "b", parent: "a", name: "n", start: 2, end: 3}
		stored := func(when, want string) {
			t.Helper()
			got := listed(callBuiltin[iii.TracesListResult](t, e, "engine::traces::list", `{"trace_id":"1","search_all_spans":true,"sort_by":"none"}`))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		take(t, e, spanFrame(announced), spanFrame(other))
		stored("announced", "2 a? b")
		take(t, e, spanFrame(ended))
		stored("ended", "2 a b")
		if n, _ := e.spans.stored(); n != 2 {
			t.Errorf("%d entries: the end has not replaced the announcement", n)
		}
		take(t, e, spanFrame(ended), spanFrame(other))
		stored("sent again", "2 a b")
		take(t, e, spanFrame(announced))
		stored("announced too late", "2 a? b")
		take(t, e, spanFrame(ended))
		stored("ended again", "2 a b")
		take(t, e, `OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[`+testSpan{trace: "1", id: "c", start: 3, end: 4}.json()+`,`+testSpan{trace: "1", id: "c", start: 3}.json()+`]}]}]}`)
		stored("both in one frame", "3 a b c")
		take(t, e, spanFrame(testSpan{trace: "1", id: "d", start: 4}), spanFrame(testSpan{trace: "1", id: "d", start: 4}), spanFrame(testSpan{trace: "1", id: "d", start: 4, end: 5}))
		stored("announced twice", "4 a b c d?")
		time.Sleep(pendingMaxAge + 1)
		stored("an hour later", "4 a b c d")

		live, finished := e.LiveSpans(), e.Traces()
		id := func(s Span) (string, bool) { return s.SpanID, s.End.IsZero() }
		if got, want := spanIDs(live, id), "a? a? c? d? d?"; got != want {
			t.Errorf("announced: got %s, want %s", got, want)
		}
		if got, want := spanIDs(finished, id), "b a a b a c d"; got != want {
			t.Errorf("finished: got %s, want %s", got, want)
		}
		if got := callBuiltin[map[string]bool](t, e, "engine::traces::clear", `{}`); !got["success"] {
			t.Errorf("clear: %v", got)
		}
		stored("cleared", "0 ")
		if len(e.Traces()) != len(finished) {
			t.Error("Traces has been cleared too")
		}
		take(t, e, spanFrame(announced), spanFrame(ended))
		stored("after clearing", "1 a")
	})
}

// Durations are exact to the nanosecond, although a float64 cannot represent the start and
// end.
func TestListTracesByExactDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		const began = 1795427164003222123 // a realistic time
		for i, ns := range []uint64{4_999_999, 5_000_000, 5_000_001} {
			e.spans.add([]spanRecord{{stored: iii.StoredSpan{
				TraceID: fmt.Sprint(i), SpanID: fmt.Sprint(ns), Name: "n", StartTimeUnixNano: began, EndTimeUnixNano: began + ns,
			}}})
		}
		e.spans.add([]spanRecord{{stored: iii.StoredSpan{TraceID: "9", SpanID: "-1", Name: "n", StartTimeUnixNano: began, EndTimeUnixNano: began - 1}}})
		for input, want := range map[string]string{
			`{"min_duration_ms":5}`:                            "2 5000000 5000001",
			`{"max_duration_ms":5}`:                            "3 4999999 5000000 -1",
			`{"min_duration_ms":5,"max_duration_ms":5}`:        "1 5000000",
			`{"min_duration_ms":4.999999}`:                     "3 4999999 5000000 5000001",
			`{"max_duration_ms":-0.000001}`:                    "1 -1",
			`{"sort_by":"duration"}`:                           "4 -1 4999999 5000000 5000001",
			`{"sort_by":"duration","sort_order":"descending"}`: "4 5000001 5000000 4999999 -1",
		} {
			if diff := cmp.Diff(want, listed(callBuiltin[iii.TracesListResult](t, e, "engine::traces::list", input))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", input, diff)
			}
		}
	})
}
