package iiitest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
)

// boundTriggers provides one of the engine's own trigger types. It keeps bindings in
// registration order.
type boundTriggers[C any] struct {
	// decode parses a binding's config. An error fails the registration.
	decode func(config json.RawMessage) (C, error)
	again  rebinding
	once   bool // log only the first lost event of a binding; set for frequent events

	mu   sync.Mutex
	list []boundTrigger[C]
	away []*awayTrigger[C] // oldest first
}

// awayTrigger is a disconnected worker's binding. The engine logs the events that the binding
// misses.
type awayTrigger[C any] struct {
	boundTrigger[C]
	mentioned bool
}

// maxAway limits how many bindings or observers of disconnected workers are remembered for
// each trigger type or source.
const maxAway = 1000

// boundTrigger is a binding with its decoded config.
type boundTrigger[C any] struct {
	binding
	config C
}

// rebinding selects what happens when an id that is already bound is bound again. The engine's
// trigger types differ in this respect.
type rebinding int

const (
	replaceOld rebinding = iota
	keepOld
	keepBoth
)

func (s *boundTriggers[C]) bind(_ context.Context, b binding) error {
	config, err := s.decode(b.config)
	if err != nil {
		return err
	}
	entry := boundTrigger[C]{binding: b, config: config}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = slices.DeleteFunc(s.away, func(old *awayTrigger[C]) bool { return old.sameTarget(b) })
	i := slices.IndexFunc(s.list, func(old boundTrigger[C]) bool { return old.id == b.id })
	switch {
	case i < 0 || s.again == keepBoth:
		s.list = append(s.list, entry)
	case s.again == replaceOld:
		s.list[i] = entry
	}
	return nil
}

func (s *boundTriggers[C]) unbind(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(b boundTrigger[C]) bool { return b.id == id })
}

// workerLeft remembers a disconnected worker's binding until the same function is bound again.
func (s *boundTriggers[C]) workerLeft(b binding) {
	config, err := s.decode(b.config)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.list, func(x boundTrigger[C]) bool { return x.sameTarget(b) }) {
		return // another worker has taken over
	}
	s.away = slices.DeleteFunc(s.away, func(old *awayTrigger[C]) bool {
		return old.sameTarget(b) && string(old.binding.config) == string(b.config)
	})
	s.away = append(s.away, &awayTrigger[C]{boundTrigger: boundTrigger[C]{binding: b, config: config}})
	s.away = s.away[max(0, len(s.away)-maxAway):]
}

// sameTarget reports whether b and other call the same function.
func (b *binding) sameTarget(other binding) bool {
	return b.functionID == other.functionID && b.namespace == other.namespace
}

// event returns the bindings whose config matches an event. It also logs the matching bindings
// that miss the event because their workers have disconnected.
func (s *boundTriggers[C]) event(e *Engine, match func(config C) bool) []boundTrigger[C] {
	s.mu.Lock()
	var lost []binding
	for _, b := range s.away {
		if match(b.config) && !(s.once && b.mentioned) {
			b.mentioned = true
			lost = append(lost, b.binding)
		}
	}
	found := s.matching(match)
	s.mu.Unlock()
	for _, b := range lost {
		e.workerAway(b, triggerAway)
	}
	return found
}

// where returns the bindings with a matching config.
func (s *boundTriggers[C]) where(match func(config C) bool) []boundTrigger[C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.matching(match)
}

// matching is where for a caller that holds mu.
func (s *boundTriggers[C]) matching(match func(config C) bool) []boundTrigger[C] {
	var found []boundTrigger[C]
	for _, b := range s.list {
		if match(b.config) {
			found = append(found, b)
		}
	}
	return found
}

func (s *boundTriggers[C]) all() []boundTrigger[C] {
	return s.where(always[C])
}

func always[C any](C) bool { return true }

// anyConfig is the decode function of trigger types that ignore their config.
func anyConfig(json.RawMessage) (struct{}, error) { return struct{}{}, nil }

// bindError is a failed registration's error, in the engine's wording.
type bindError string

func (e bindError) Error() string { return string(e) }

// target is a binding that receives an event.
type target struct {
	binding
	condition *string // function that can suppress the event for this binding
}

// fanOut delivers an event to its targets in the background, one at a time. For each target it
// calls the condition, if any, and then the function, and waits for both. Failed calls are
// logged and not retried. Deliveries of different events can overlap. name is the name of the
// span that covers the delivery.
func (e *Engine) fanOut(ctx context.Context, name string, targets []target, payload json.RawMessage) {
	if len(targets) == 0 {
		return
	}
	traced, span := e.startSpan(ctx, name)
	values := context.WithoutCancel(traced) // keep the trace, drop the cancellation
	e.spawn(func(engine context.Context) {
		defer span.end(nil)
		ctx, cancel := context.WithCancel(values)
		defer cancel()
		stop := context.AfterFunc(engine, cancel)
		defer stop()
		for _, t := range targets {
			if ctx.Err() != nil {
				return
			}
			if t.condition != nil {
				run, err := e.condition(ctx, *t.condition, t.namespace, payload)
				if err != nil && !e.closing() {
					e.logEngine(severityError, "condition function of a trigger failed", t.logAttributes(err))
				}
				if !run || err != nil {
					continue
				}
			}
			if _, err := e.fire(ctx, t.binding, payload); err != nil {
				e.triggerFailed(t.binding, "function of a trigger failed", err)
			}
		}
	})
}

// closing reports whether Close has been called. Events that fail from then on are not logged,
// because workers disconnect in any order.
func (e *Engine) closing() bool { return e.ctx.Err() != nil }

// noWorker logs that an event was lost because err prevented the call to the trigger's
// function.
func (e *Engine) noWorker(b binding, err *wireError) {
	if e.closing() {
		return
	}
	e.log.Warn("event found no worker", "type", b.triggerType, "trigger", b.id, "function", b.functionID, "code", err.Code, "error", err.Message)
}

// triggerAway is the reason logged when an event is lost because the worker that registered
// the trigger has disconnected.
const triggerAway = "the worker that registered the trigger has left"

// workerAway logs that an event was lost for the given reason.
func (e *Engine) workerAway(b binding, reason string) {
	if e.closing() {
		return
	}
	e.log.Warn("event found no worker", "type", b.triggerType, "trigger", b.id, "function", b.functionID, "error", reason)
}

// triggerFailed logs that a trigger's function has failed or does not exist.
func (e *Engine) triggerFailed(b binding, message string, err *wireError) {
	if e.closing() {
		return
	}
	if err.Code == "function_not_found" {
		message = "event found no worker"
	}
	e.logEngine(severityError, message, b.logAttributes(err))
}

func (b binding) logAttributes(err *wireError) map[string]any {
	return map[string]any{
		"trigger_id": b.id, "trigger_type": b.triggerType, "function_id": b.functionID,
		"error": strings.TrimSpace(err.Code + ": " + err.Message),
	}
}
