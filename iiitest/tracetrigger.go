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
	// traceWindow is how long spans are collected before the trace triggers fire.
	traceWindow = 300 * time.Millisecond
	// maxTraceParts is the maximum number of distinct tracePart values collected in a window.
	maxTraceParts = 100_000
)

// traceTriggers provides the trace trigger type.
type traceTriggers struct {
	engine   *Engine
	bindings boundTriggers[iii.TraceTriggerConfig]

	mu      sync.Mutex
	pending map[tracePart]bool // collected in the current window; nil outside a window
}

// tracePart contains the properties of a span that trace triggers match.
type tracePart struct{ trace, service, status string }

func (t *traceTriggers) init(e *Engine) {
	t.engine = e
	t.bindings = boundTriggers[iii.TraceTriggerConfig]{decode: decodeTraceConfig, again: keepOld, once: true}
	e.spans.added = t.added
}

// decodeTraceConfig accepts every config, like decodeLogLevel.
func decodeTraceConfig(config json.RawMessage) (iii.TraceTriggerConfig, error) {
	var in iii.TraceTriggerConfig
	if decodeStrict(config, &in) != "" {
		return iii.TraceTriggerConfig{}, nil
	}
	return in, nil
}

// telemetryFunctions lists id prefixes of functions whose spans fire no triggers.
var telemetryFunctions = []string{
	"engine::traces::", "engine::logs::", "engine::log::", "engine::metrics::", "engine::baggage::",
	"engine::sampling::", "engine::health::", "engine::alerts::", "engine::rollups::", "iii-observability::",
}

// silent reports whether a span fires no triggers. This applies to the engine's own root
// spans, and to the spans of functions that serve telemetry or are the target of a trace
// trigger.
func (t *traceTriggers) silent(s *iii.StoredSpan, targets map[string]bool) bool {
	if s.ParentSpanID == nil && internalSpan(s) {
		return true
	}
	id, _ := attributeOf(s, "function_id")
	return targets[id] || slices.ContainsFunc(telemetryFunctions, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// added collects new spans, both finished and announced. If no window is open, the first span
// that can fire a trigger opens one.
func (t *traceTriggers) added(list []spanRecord) {
	t.observed(list)
	_ = t.bindings.event(t.engine, func(c iii.TraceTriggerConfig) bool { // logs missed events
		return slices.ContainsFunc(list, func(s spanRecord) bool {
			return !t.silent(&s.stored, nil) && matchFold(c.ServiceName, s.stored.ServiceName) && matchFold(c.Status, s.stored.Status)
		})
	})
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

// observed passes finished spans to the observers of observability::on-span. It omits spans of
// these observers' targets, because each delivery would cause another one.
func (t *traceTriggers) observed(list []spanRecord) {
	const source = "observability::on-span"
	for i := range list {
		s := &list[i].stored
		if s.Pending || t.silent(s, nil) {
			continue
		}
		function, _ := attributeOf(s, "function_id")
		t.engine.observers.queueEvent(context.Background(), source, func() json.RawMessage {
			return canonicalValid(mustEncode(s))
		}, func(*observer) bool {
			return !slices.ContainsFunc(t.engine.observers.ofSource(key{defaultNamespace, source}), func(o *observer) bool {
				return o.target.id == function
			})
		})
	}
}

// fireLater waits for the end of the window and then fires every trigger that matches at least
// one collected span. It looks up each trigger's function in the default namespace, regardless
// of the binding's namespace.
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
			t.engine.noWorker(b.binding, missing)
		}
	}
}

// matchFold reports whether value equals *filter, ignoring case. A nil filter matches
// anything.
func matchFold(filter *string, value string) bool {
	return filter == nil || strings.EqualFold(*filter, value)
}
