package iiitest

import (
	"context"
	"strings"
	"sync"
	"time"
)

// nsState tracks whether a connection's namespace is known. Registrations wait for the
// namespace; calls do not.
type nsState int

const (
	nsPending  nsState = iota // nothing declared yet; the grace period is running
	nsDraining                // known; queued registrations are being applied
	nsResolved                // known; registrations are applied immediately
	nsAborted                 // disconnected; registrations are dropped
)

// startGrace puts the connection in the default namespace if it declares none within the grace
// period.
func (w *worker) startGrace() {
	w.settle.Lock()
	defer w.settle.Unlock()
	w.grace = time.AfterFunc(w.e.cfg.grace, func() {
		w.e.spawn(func(context.Context) { w.settleIn(defaultNamespace) })
	})
}

// settleIn assigns the connection its namespace and applies the queued registrations in order.
// Registrations that arrive in the meantime are queued behind them. A namespace cannot be
// changed once it is assigned.
func (w *worker) settleIn(ns string) {
	w.settle.Lock()
	defer w.settle.Unlock()
	if w.state != nsPending {
		if w.ns != ns {
			w.e.log.Warn("namespace already settled", "worker", w.id, "namespace", w.ns, "declared", ns)
		}
		return
	}
	w.grace.Stop()
	w.state, w.ns = nsDraining, ns
	for w.state == nsDraining && len(w.waiting) > 0 {
		m := w.waiting[0]
		w.waiting = w.waiting[1:]
		w.settle.Unlock()
		w.apply(m, ns)
		w.settle.Lock()
	}
	if w.state == nsDraining {
		w.state, w.waiting = nsResolved, nil
	}
}

// settled returns the connection's namespace, and whether it is known.
func (w *worker) settled() (string, bool) {
	w.settle.Lock()
	defer w.settle.Unlock()
	return w.ns, w.state == nsDraining || w.state == nsResolved
}

// register applies a registration, or queues it until the namespace is known.
func (w *worker) register(m any) {
	w.settle.Lock()
	switch w.state {
	case nsPending, nsDraining:
		w.waiting = append(w.waiting, m)
		w.settle.Unlock()
		return
	case nsAborted:
		w.settle.Unlock()
		return
	}
	ns := w.ns
	w.settle.Unlock()
	w.apply(m, ns)
}

// takenBack records the triggers and observers that a worker has unregistered since its last
// registration. If the worker then disconnects, the engine assumes that the worker
// unregistered them as part of its shutdown, and logs the events that these triggers and
// observers miss.
type takenBack struct {
	mu        sync.Mutex // acquired alone or after all other locks
	triggers  []*registration
	observers []*observer
}

func (b *takenBack) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.triggers, b.observers = nil, nil
}

func (b *takenBack) addTrigger(r *registration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.triggers) < maxAway {
		b.triggers = append(b.triggers, r)
	}
}

func (b *takenBack) addObserver(o *observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.observers) < maxAway {
		b.observers = append(b.observers, o)
	}
}

func (b *takenBack) all() ([]*registration, []*observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.triggers, b.observers
}

// apply applies one registration in namespace ns.
func (w *worker) apply(m any, ns string) {
	switch m := m.(type) {
	case *registerFunctionMessage:
		w.takenBack.reset()
		w.e.registerFunction(w, ns, *m)
	case *unregisterFunctionMessage:
		w.e.unregisterFunction(w, ns, m.ID)
	case *registerTriggerTypeMessage:
		w.e.registerTriggerType(w, ns, *m)
	case *registerTriggerMessage:
		w.takenBack.reset()
		w.e.registerTrigger(w, ns, *m)
	case *unregisterTriggerMessage:
		if r := w.e.unregisterTrigger(m.ID); r != nil && r.origin == w {
			w.takenBack.addTrigger(r)
		}
	case *unregisterTriggerTypeMessage:
		w.e.unregisterTriggerType(w, ns, *m)
	case *observeMessage:
		w.takenBack.reset()
		if w.speaks().observes {
			w.e.observers.observe(w, *m)
		}
	case *unobserveMessage:
		if o := w.e.observers.unobserve(w, m.ID); o != nil {
			w.takenBack.addObserver(o)
		}
	case *observerAckMessage:
		w.e.observers.acked(w, ns, *m)
	case *invocationsObservedMessage:
		w.e.observers.handleReport(w, ns, *m)
	case *localStatsMessage:
		w.e.observers.counted(w, ns, *m)
	case *registerServiceMessage:
		// Ignored: services only group functions, and no built-in function returns them.
	}
}

// abort discards the queued registrations and all later ones.
func (w *worker) abort() {
	w.settle.Lock()
	defer w.settle.Unlock()
	w.state, w.waiting = nsAborted, nil
	if w.grace != nil {
		w.grace.Stop()
	}
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

// namespaceOf returns the namespace in a message, or fallback if the message has none. A blank
// namespace is an error and never means the default.
func namespaceOf(field string, named *string, fallback string) (string, *wireError) {
	if named == nil {
		return fallback, nil
	}
	if blank(*named) {
		return "", errorBody("INVALID_NAMESPACE", "`%s` is empty: it was named and left blank. Give it a name, or omit it to use `default`.", field)
	}
	return *named, nil
}
