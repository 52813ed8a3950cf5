package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// registerTraces adds engine::traces::* and the trace trigger type.
func (e *Engine) registerTraces() {
	add := func(id, description string, f builtinFunc) { e.addBuiltin(id, observabilityWorker, description, f) }
	add("engine::traces::list", "List spans", e.listTraces)
	add("engine::traces::tree", "Get the spans of a trace as a tree", e.traceTree)
	add("engine::traces::group_by", "Group traces by an attribute", e.groupTraces)
	add("engine::traces::clear", "Forget all spans", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type TracesClearInput struct{}
		if _, bad := decodeQuery[TracesClearInput](c); bad != nil {
			return nil, bad
		}
		e.spans.clear()
		return json.RawMessage(`{"success":true}`), nil
	})
	e.traceTriggers.init(e)
	e.addTriggerType("trace", observabilityWorker, "Trace/span event trigger", &e.traceTriggers.bindings)
}

// decodeQuery decodes the input of a query function into a generated type. For optional
// fields, null means the same as a missing field.
func decodeQuery[T any](c *call) (T, *wireError) {
	data := c.data
	if kindOf(data) == '{' {
		members := (&scanner{b: data}).members()
		fields := fieldsOf(reflect.TypeFor[T]())
		maps.DeleteFunc(members, func(key string, v json.RawMessage) bool {
			f := fields.named(key)
			return kindOf(v) == 'n' && (f == nil || f.optional)
		})
		data = appendMembers(nil, sortedMembers(members))
	}
	return decodeInput[T](c.functionID, data)
}

// noArchive describes the storage of an engine that has no archive on disk.
var noArchive = iii.TraceStorage{Archive: "disabled", Completeness: "complete"}

// spanFilter selects spans for engine::traces::list.
type spanFilter struct {
	in     iii.TracesListInput
	v      *spanView
	traces map[string]bool // nil for all traces
	text   struct{ service, name, status string }
}

func newSpanFilter(in iii.TracesListInput, v *spanView) *spanFilter {
	f := &spanFilter{in: in, v: v}
	f.text.service, f.text.name, f.text.status = strings.ToLower(in.ServiceName), strings.ToLower(in.Name), strings.ToLower(in.Status)
	switch {
	case in.TraceID != "":
		f.traces = map[string]bool{in.TraceID: true}
	case len(in.TraceIDs) > 0:
		f.traces = make(map[string]bool, len(in.TraceIDs))
		for _, id := range in.TraceIDs {
			f.traces[id] = true
		}
	}
	if in.SearchAllSpans && (in.Name != "" || len(in.Attributes) > 0) {
		matching := make(map[string]bool)
		for i := range v.spans {
			if s := &v.spans[i]; (f.traces == nil || f.traces[s.TraceID]) && f.named(s) {
				matching[s.TraceID] = true
			}
		}
		f.traces = matching
	}
	return f
}

// named reports whether a span matches the query's name and attributes.
func (f *spanFilter) named(s *iii.StoredSpan) bool {
	return strings.Contains(strings.ToLower(s.Name), f.text.name) &&
		!slices.ContainsFunc(f.in.Attributes, func(a iii.StoredAttribute) bool { return !slices.Contains(s.Attributes, a) })
}

func (f *spanFilter) match(s *iii.StoredSpan) bool {
	in := &f.in
	duration := f.v.durationMs(s)
	switch {
	case f.traces != nil && !f.traces[s.TraceID],
		!in.SearchAllSpans && (!f.v.root(s) || !f.named(s)),
		!in.IncludeInternal && internalSpan(s),
		!strings.Contains(strings.ToLower(s.ServiceName), f.text.service),
		!strings.Contains(s.Status, f.text.status),
		in.MinDurationMs != nil && duration < *in.MinDurationMs,
		in.MaxDurationMs != nil && duration > *in.MaxDurationMs,
		in.StartTime != nil && f.v.end(s)/uint64(time.Millisecond) < *in.StartTime,
		in.EndTime != nil && s.StartTimeUnixNano/uint64(time.Millisecond) > *in.EndTime,
		slices.ContainsFunc(in.ExcludeAttributes, func(a iii.StoredAttribute) bool { return slices.Contains(s.Attributes, a) }):
		return false
	}
	return true
}

// spanOrder returns a comparison function for a sort_by field. The default is start_time.
func (v *spanView) spanOrder(by string) func(a, b iii.StoredSpan) int {
	switch by {
	case "duration", "duration_ms":
		return func(a, b iii.StoredSpan) int { return cmp.Compare(v.durationMs(&a), v.durationMs(&b)) }
	case "service_name":
		return func(a, b iii.StoredSpan) int { return strings.Compare(a.ServiceName, b.ServiceName) }
	case "name":
		return func(a, b iii.StoredSpan) int { return strings.Compare(a.Name, b.Name) }
	default:
		return byStart
	}
}

func byStart(a, b iii.StoredSpan) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) }

// page returns the part of list selected by offset and limit.
func page[T any](list []T, offset, limit uint64) []T {
	list = list[min(offset, uint64(len(list))):]
	return list[:min(limit, uint64(len(list)))]
}

// pairsOnly filters the arrays under the given keys. It removes every element that is an array
// of strings but not a pair, because the engine ignores such elements.
func pairsOnly(input json.RawMessage, keys ...string) json.RawMessage {
	members := membersOf(input)
	for _, key := range keys {
		items := itemsOf(members[key])
		pairs := slices.DeleteFunc(items, func(item json.RawMessage) bool {
			parts := itemsOf(item)
			texts := kindOf(item) == '[' && !slices.ContainsFunc(parts, func(part json.RawMessage) bool { return kindOf(part) != '"' })
			return texts && len(parts) != 2
		})
		if kindOf(members[key]) == '[' {
			members[key] = mustEncode(append([]json.RawMessage{}, pairs...))
		}
	}
	if members == nil {
		return input
	}
	return appendMembers(nil, sortedMembers(members))
}

func (e *Engine) listTraces(_ context.Context, c *call) (json.RawMessage, *wireError) {
	pairs := *c
	pairs.data = pairsOnly(c.data, "attributes", "exclude_attributes")
	in, bad := decodeQuery[iii.TracesListInput](&pairs)
	if bad != nil {
		return nil, bad
	}
	v := e.spans.view()
	f := newSpanFilter(in, v)
	var matching []iii.StoredSpan
	for i := range v.spans {
		if f.match(&v.spans[i]) {
			matching = append(matching, v.spans[i])
		}
	}
	order := v.spanOrder(in.SortBy)
	if in.SortOrder != "" && in.SortOrder != "asc" {
		ascending := order
		order = func(a, b iii.StoredSpan) int { return ascending(b, a) }
	}
	slices.SortStableFunc(matching, order)
	limit := uint64(100)
	if in.Limit != nil {
		limit = *in.Limit
	}
	listed := page(matching, in.Offset, limit)
	traces := make(map[string]bool, len(listed))
	for i := range listed {
		traces[listed[i].TraceID] = true
	}
	tags := v.tags(traces)
	for i := range listed {
		listed[i].TraceTags = tags[listed[i].TraceID]
	}
	return mustEncode(iii.TracesListResult{
		Spans: listed, Total: uint64(len(matching)), Offset: in.Offset, Limit: limit, Storage: noArchive,
	}), nil
}

// maxTreeDepth limits the depth of a trace's span tree. Deeper spans become additional roots.
// Each level of spans adds two levels of JSON nesting, and most workers' JSON parsers accept
// at most 128 levels.
const maxTreeDepth = 50

func (e *Engine) traceTree(_ context.Context, c *call) (json.RawMessage, *wireError) {
	in, bad := decodeQuery[iii.TracesTreeInput](c)
	if bad != nil {
		return nil, bad
	}
	v := e.spans.view()
	spans := slices.DeleteFunc(slices.Clone(v.spans), func(s iii.StoredSpan) bool { return s.TraceID != in.TraceID })
	slices.SortStableFunc(spans, byStart)
	t := spanTree{children: make(map[string][]*iii.StoredSpan)}
	for i := range spans {
		s := &spans[i]
		if v.root(s) {
			t.roots = append(t.roots, s)
		} else {
			t.children[*s.ParentSpanID] = append(t.children[*s.ParentSpanID], s)
		}
	}
	nodes := []iii.TraceNode{}
	for i := 0; i < len(t.roots); i++ { // node may append roots
		if node, ok := t.node(t.roots[i], 1); ok {
			nodes = append(nodes, node)
		}
	}
	return mustEncode(iii.TracesTreeResult{Roots: nodes, Storage: noArchive}), nil
}

type spanTree struct {
	roots    []*iii.StoredSpan
	children map[string][]*iii.StoredSpan // by span id of the parent
}

// node returns a span with its descendants. It returns false for a span that groups fired
// triggers but has no children.
func (t *spanTree) node(s *iii.StoredSpan, depth int) (iii.TraceNode, bool) {
	n := iii.TraceNode{
		TraceID: s.TraceID, SpanID: s.SpanID, ParentSpanID: s.ParentSpanID, Name: s.Name,
		StartTimeUnixNano: s.StartTimeUnixNano, EndTimeUnixNano: s.EndTimeUnixNano, Pending: s.Pending,
		Status: s.Status, StatusDescription: s.StatusDescription, ServiceName: s.ServiceName,
		Attributes: s.Attributes, Events: s.Events, Links: s.Links, Flags: s.Flags,
		InstrumentationScopeName: s.InstrumentationScopeName, InstrumentationScopeVersion: s.InstrumentationScopeVersion,
	}
	below := t.children[s.SpanID]
	if depth == maxTreeDepth {
		t.roots = append(t.roots, below...)
		return n, true
	}
	for _, child := range below {
		if node, ok := t.node(child, depth+1); ok {
			n.Children = append(n.Children, node)
		}
	}
	wrapper := s.Name == "state_triggers" || s.Name == "stream_triggers"
	return n, !wrapper || len(n.Children) > 0
}

// groupTraces serves engine::traces::group_by. It groups spans by the value of an attribute
// and skips spans without that attribute.
func (e *Engine) groupTraces(_ context.Context, c *call) (json.RawMessage, *wireError) {
	in, bad := decodeQuery[iii.TracesGroupByInput](c)
	if bad != nil {
		return nil, bad
	}
	v := e.spans.view()
	groups := make(map[string]*spanGroup)
	for i := range v.spans {
		s := &v.spans[i]
		value, there := attributeOf(s, in.Attribute)
		if !there || !in.IncludeInternal && internalSpan(s) ||
			in.SinceMs != nil && s.StartTimeUnixNano/uint64(time.Millisecond) < *in.SinceMs {
			continue
		}
		if groups[value] == nil {
			groups[value] = &spanGroup{first: s.StartTimeUnixNano, traces: make(map[string]bool)}
		}
		groups[value].add(v, s, in.LabelAttribute)
	}
	list := make([]iii.TraceGroup, 0, len(groups))
	for _, value := range slices.Sorted(maps.Keys(groups)) {
		list = append(list, groups[value].result(value))
	}
	slices.SortStableFunc(list, func(a, b iii.TraceGroup) int { return cmp.Compare(b.FirstSeenMs, a.FirstSeenMs) })
	limit := uint64(100)
	if in.Limit != nil {
		limit = uint64(*in.Limit)
	}
	return mustEncode(iii.TracesGroupByResult{Groups: page(list, 0, limit), Storage: noArchive}), nil
}

// spanGroup collects the spans that share a value of the grouping attribute.
type spanGroup struct {
	first, last  uint64
	label        *string
	labeled      uint64 // start time of the span that supplied label
	traces       map[string]bool
	order        []string // trace ids in order of arrival
	spans, fails uint32
}

func (g *spanGroup) add(v *spanView, s *iii.StoredSpan, labelAttribute string) {
	g.first, g.last = min(g.first, s.StartTimeUnixNano), max(g.last, v.end(s))
	g.spans++
	if s.Status == "error" {
		g.fails++
	}
	if !g.traces[s.TraceID] {
		g.traces[s.TraceID] = true
		g.order = append(g.order, s.TraceID)
	}
	if label, ok := attributeOf(s, labelAttribute); ok && labelAttribute != "" && s.StartTimeUnixNano >= g.labeled {
		g.label, g.labeled = &label, s.StartTimeUnixNano
	}
}

func (g *spanGroup) result(value string) iii.TraceGroup {
	first, last := g.first/uint64(time.Millisecond), g.last/uint64(time.Millisecond)
	last = max(first, last)
	return iii.TraceGroup{
		Value: value, Label: g.label, TraceIDs: g.order, SpanCount: g.spans, ErrorCount: g.fails,
		FirstSeenMs: first, LastSeenMs: last, DurationMs: uint32(min(last-first, 1<<32-1)),
	}
}
