package iiitest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"
)

// engineWorker is the name of the in-process worker that owns the engine's core functions.
const engineWorker = "iii-engine-functions"

// functionsPoll is the interval at which the engine checks the set of functions for changes,
// and therefore the longest delay of an engine::functions-available event.
const functionsPoll = 5 * time.Second

// availability implements the trigger types engine::functions-available and
// engine::workers-available.
type availability struct {
	functions, workers watchers

	mu     sync.Mutex
	events []workerEvent // not yet fired
	wake   chan struct{} // capacity 1
}

// workerEvent is an event of engine::workers-available, with the triggers that existed when it
// happened.
type workerEvent struct {
	payload json.RawMessage
	to      []binding
}

// watchers provides a trigger type that has no config. Each event fires all triggers of the
// type.
type watchers struct {
	mu   sync.Mutex
	list []binding
}

func (p *watchers) bind(_ context.Context, b binding) error {
	p.unbind(b.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, b)
	return nil
}

func (p *watchers) unbind(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = slices.DeleteFunc(p.list, func(b binding) bool { return b.id == id })
}

func (p *watchers) all() []binding {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

func (e *Engine) registerAvailability() {
	a := &e.available
	a.wake = make(chan struct{}, 1)
	e.addTriggerType("engine::functions-available", "engine", "Fires when the set of functions changes", &a.functions)
	e.addTriggerType("engine::workers-available", "engine", "Fires when a worker connects, changes or disconnects", &a.workers)
	e.spawn(e.fireWorkerEvents)
}

// workerChanged queues an event for the engine::workers-available triggers without blocking.
// fireWorkerEvents delivers the events in order.
func (e *Engine) workerChanged(event, id string) {
	a := &e.available
	payload := mustEncode(map[string]string{"event": event, "worker_id": id})
	e.observers.queueEvent(e.ctx, "engine::on-workers-changed", func() json.RawMessage { return payload }, nil)
	to := a.workers.all()
	if len(to) == 0 {
		return
	}
	a.mu.Lock()
	a.events = append(a.events, workerEvent{payload, to})
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) fireWorkerEvents(ctx context.Context) {
	a := &e.available
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		events := a.events
		a.events = nil
		a.mu.Unlock()
		for _, event := range events {
			e.announce(childTrace(ctx), event.to, event.payload)
		}
	}
}

// announce calls the functions of triggers without waiting for the results.
func (e *Engine) announce(ctx context.Context, to []binding, payload json.RawMessage) {
	for _, b := range to {
		if err := e.start(withCause(ctx, b.triggerType, b.id), b.functionID, b.namespace, payload, b.metadata); err != nil {
			e.noWorker(b, err)
		}
	}
}

// watchFunctions polls the set of functions and fires the engine::functions-available triggers
// whenever the set has changed. known is the initial set.
func (e *Engine) watchFunctions(ctx context.Context, known map[key]struct{}) {
	ticker := time.NewTicker(functionsPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := e.functionKeys()
		if maps.Equal(known, now) {
			continue
		}
		known = now
		payload := mustEncode(map[string]any{
			"event": "functions_changed", "functions": e.functionSummaries(func(f *function) bool { return f.has(e.Protocol(), e.cfg.strict) }),
		})
		e.observers.queueEvent(ctx, "engine::on-functions-changed", func() json.RawMessage { return payload }, nil)
		e.announce(ctx, e.available.functions.all(), payload)
	}
}

func (e *Engine) functionKeys() map[key]struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := make(map[key]struct{}, len(e.functions))
	for k := range e.functions {
		keys[k] = struct{}{}
	}
	return keys
}
