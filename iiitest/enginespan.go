package iiitest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// engineSpan is one of the engine's own spans. It is the parent of the calls that the engine
// makes with the span's context. The functions engine::traces::* list the span once it has
// ended. A nil engineSpan is valid and does nothing.
type engineSpan struct {
	spans  *spanStore
	stored iii.StoredSpan
}

// startSpan starts an engine span and adds it to ctx. The span belongs to the trace in ctx, or
// to a new trace if ctx has none. The caller must end the span. Spans of unsampled traces are
// discarded.
func (e *Engine) startSpan(ctx context.Context, name string, attributes ...iii.StoredAttribute) (context.Context, *engineSpan) {
	var parent *string
	if parts, ok := parseTraceparent(traceOf(ctx).traceparent); ok {
		parent = &parts[2]
	}
	ctx = childTrace(ctx)
	parts, _ := parseTraceparent(traceOf(ctx).traceparent)
	if parts[3] != "01" {
		return ctx, nil
	}
	flags := uint32(1)
	return ctx, &engineSpan{spans: &e.spans, stored: iii.StoredSpan{
		TraceID: parts[1], SpanID: parts[2], ParentSpanID: parent, Name: name, Status: "unset", Flags: &flags,
		StartTimeUnixNano: uint64(time.Now().UnixNano()), Attributes: attributes, ServiceName: "iii",
	}}
}

// end stores the span. A nil error leaves the status unchanged.
func (s *engineSpan) end(err *wireError) {
	if s == nil {
		return
	}
	if err != nil {
		s.stored.Status, s.stored.StatusDescription = "error", err.Message
	}
	s.stored.EndTimeUnixNano = uint64(time.Now().UnixNano())
	size := 300 + len(s.stored.Name) + len(s.stored.StatusDescription) // approximate size as JSON
	s.spans.add([]spanRecord{{stored: s.stored, size: size}})
}

// tracedBuiltins lists, by prefix, the built-in functions whose calls produce a span if they
// are part of a trace. Functions that serve telemetry are not traced.
var tracedBuiltins = []string{
	"engine::", "state::", "stream::", "configuration::", "iii::", "iii-http::", "iii-state::", "iii-pubsub::",
	"iii-stream::", "iii-cron::", "iii-queue::", "publish",
}

// startBuiltinSpan is like startSpan, for a call to a built-in function.
func (e *Engine) startBuiltinSpan(ctx context.Context, functionID string) (context.Context, *engineSpan) {
	begins := func(prefix string) bool { return strings.HasPrefix(functionID, prefix) }
	_, traced := parseTraceparent(traceOf(ctx).traceparent)
	if !traced || !slices.ContainsFunc(tracedBuiltins, begins) || slices.ContainsFunc(telemetryFunctions, begins) {
		return ctx, nil
	}
	return e.startSpan(ctx, "call "+functionID,
		iii.StoredAttribute{"faas.invoked_name", functionID}, iii.StoredAttribute{"faas.trigger", "other"},
		iii.StoredAttribute{"function_id", functionID}, iii.StoredAttribute{"iii.function.kind", "internal"})
}
