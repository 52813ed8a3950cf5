package iiitest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/iii-go/iii"
)

const (
	// traceWindow is how long spans are gathered before the trace triggers fire.
	traceWindow = 300 * time.Millisecond
	// maxTraceParts bounds what is gathered.
	maxTraceParts = 100_000
)

// traceTriggers is the trigger type trace.
type traceTriggers struct {
	engine   *Engine
	bindings bindings[iii.TraceTriggerConfig]

	mu      sync.Mutex
	pending map[tracePart]bool // what came since the window began; nil: no window
}

// tracePart is what matters of a span to the triggers.
type tracePart struct{ trace, service, status string }

func (t *traceTriggers) init(e *Engine) {
	t.engine = e
	t.bindings = bindings[iii.TraceTriggerConfig]{decode: decodeTraceConfig, again: keepOld}
	e.spans.added = t.added
}

// decodeTraceConfig refuses nothing, as the log trigger.
func decodeTraceConfig(config json.RawMessage) (iii.TraceTriggerConfig, error) {
	var in iii.TraceTriggerConfig
	if decodeStrict(config, &in) != "" {
		return iii.TraceTriggerConfig{}, nil
	}
	return in, nil
}

// telemetryFunctions are the functions whose spans fire nothing.
var telemetryFunctions = []string{
	"engine::traces::", "engine::logs::", "engine::log::", "engine::metrics::", "engine::baggage::",
	"engine::sampling::", "engine::health::", "engine::alerts::", "engine::rollups::", "iii-observability::",
}

// silent reports whether a span fires nothing: a root of the engine's own, or a
// span of a function that serves telemetry or a trace trigger.
func (t *traceTriggers) silent(s *iii.StoredSpan, targets map[string]bool) bool {
	if s.ParentSpanID == nil && internalSpan(s) {
		return true
	}
	id, _ := attributeOf(s, "function_id")
	return targets[id] || slices.ContainsFunc(telemetryFunctions, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// added gathers spans, announced ones too. The first of a window begins it.
func (t *traceTriggers) added(list []spanRecord) {
	t.observed(list)
	bound := t.bindings.all()
	if len(bound) == 0 {
		return
	}
	targets := make(map[string]bool, len(bound))
	for _, b := range bound {
		targets[b.functionID] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	begin := t.pending == nil
	for i := range list {
		s := &list[i].stored
		if t.silent(s, targets) {
			continue
		}
		if t.pending == nil {
			t.pending = make(map[tracePart]bool)
		}
		if len(t.pending) < maxTraceParts {
			t.pending[tracePart{s.TraceID, s.ServiceName, s.Status}] = true
		}
	}
	if begin && t.pending != nil {
		t.engine.spawn(t.fireLater)
	}
}

// observed has the observers of observability::on-span see the spans that have ended,
// other than those of their targets, which would follow one from another without end.
func (t *traceTriggers) observed(list []spanRecord) {
	const source = "observability::on-span"
	for i := range list {
		s := &list[i].stored
		if s.Pending || t.silent(s, nil) {
			continue
		}
		function, _ := attributeOf(s, "function_id")
		t.engine.observers.occur(context.Background(), source, func() json.RawMessage {
			return canonicalValid(mustEncode(s))
		}, func(*observer) bool {
			return !slices.ContainsFunc(t.engine.observers.of(key{defaultNamespace, source}), func(o *observer) bool {
				return o.target.id == function
			})
		})
	}
}

// fireLater ends a window: each trigger that anything in it matches is fired
// once. The function is looked up in the default namespace, whatever the binding
// says.
func (t *traceTriggers) fireLater(ctx context.Context) {
	wait := time.NewTimer(traceWindow)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return
	}
	t.mu.Lock()
	pending := t.pending
	t.pending = nil
	t.mu.Unlock()
	for _, b := range t.bindings.all() {
		traces := make(map[string]bool)
		for part := range pending {
			if matchFold(b.config.ServiceName, part.service) && matchFold(b.config.Status, part.status) {
				traces[part.trace] = true
			}
		}
		if len(traces) == 0 {
			continue
		}
		payload := mustEncode(iii.TraceEvent{TraceIDs: slices.Sorted(maps.Keys(traces))})
		if missing := t.engine.start(withCause(ctx, b.triggerType, b.id), b.functionID, defaultNamespace, payload, b.metadata); missing != nil {
			t.engine.log.Debug("function of a trace trigger is missing", "trigger", b.id, "function", b.functionID)
		}
	}
}

// matchFold compares with a filter; nil matches all.
func matchFold(filter *string, value string) bool {
	return filter == nil || strings.EqualFold(*filter, value)
}
