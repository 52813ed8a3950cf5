package iiitest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// engineSpan is a span of the engine itself: what it fires under it is a child
// of it, and engine::traces::* tell of it when it has ended. Nil is none.
type engineSpan struct {
	spans  *spanStore
	stored iii.StoredSpan
}

// startSpan gives ctx a new span of the engine: in the trace that ctx carries,
// else in a new trace. The caller ends it. In a trace that is not sampled it is
// not kept.
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

// end keeps the span. A nil error leaves its status alone.
func (s *engineSpan) end(err *wireError) {
	if s == nil {
		return
	}
	if err != nil {
		s.stored.Status, s.stored.StatusDescription = "error", err.Message
	}
	s.stored.EndTimeUnixNano = uint64(time.Now().UnixNano())
	size := 300 + len(s.stored.Name) + len(s.stored.StatusDescription) // about that of its JSON
	s.spans.add([]spanRecord{{stored: s.stored, size: size}})
}

// tracedBuiltins are the functions of the engine whose calls are spans, if the
// caller has a span. Those that serve telemetry are not.
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
