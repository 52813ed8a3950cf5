package iiitest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// engineSpan is a span of the engine itself. Calls that the engine makes under it become its
// children. engine::traces::* list the span once it has ended. A nil engineSpan is valid and
// does nothing.
type engineSpan struct {
	spans  *spanStore
	stored iii.StoredSpan
}

// startSpan starts a span of the engine and adds it to ctx: in the trace that ctx
// carries, or else in a new trace. The caller must end the span. The engine discards
// spans of traces that are not sampled.
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

// end stores the span. A nil error leaves its status unchanged.
func (s *engineSpan) end(err *wireError) {
	if s == nil {
		return
	}
	if err != nil {
		s.stored.Status, s.stored.StatusDescription = "error", err.Message
	}
	s.stored.EndTimeUnixNano = uint64(time.Now().UnixNano())
	size := 300 + len(s.stored.Name) + len(s.stored.StatusDescription) // about the size of its JSON
	s.spans.add([]spanRecord{{stored: s.stored, size: size}})
}

// tracedBuiltins lists the built-in functions whose calls become spans if the caller
// has a span. Functions that serve telemetry are not traced.
var tracedBuiltins = []string{
	"engine::", "state::", "stream::", "configuration::", "iii::", "iii-http::", "iii-state::", "iii-pubsub::",
	"iii-stream::", "iii-cron::", "iii-queue::", "publish",
}

// startBuiltinSpan is startSpan for a call of a built-in function.
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
