package iiitest

import (
	"context"
	"strings"
	"sync"
	"time"
)

// nsState is the progress of a connection towards its namespace. Registrations wait
// until the namespace is settled; calls do not wait.
type nsState int

const (
	nsPending  nsState = iota // nothing declared yet; the grace period runs
	nsDraining                // known; queued registrations are being applied
	nsResolved                // known; registrations are applied at once
	nsAborted                 // the connection is over; registrations are dropped
)

// startGrace puts the connection in the default namespace if it does not declare one in
// time.
func (w *worker) startGrace() {
	w.settle.Lock()
	defer w.settle.Unlock()
	w.grace = time.AfterFunc(w.e.cfg.grace, func() {
		w.e.spawn(func(context.Context) { w.settleIn(defaultNamespace) })
	})
}

// settleIn gives the connection its namespace, unless it has one, and applies in order
// the registrations that have waited for it. Registrations that arrive in the meantime
// are queued behind them. The first namespace stays.
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

// settled returns the namespace of the connection, if it is known.
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

// takenBack holds the triggers and observers that a worker has unregistered since its last
// registration. If the worker then leaves, it has unregistered them as part of its shutdown,
// so the engine logs the events that they lose.
type takenBack struct {
	mu        sync.Mutex // held alone, or last
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

// all returns what the worker has unregistered.
func (b *takenBack) all() ([]*registration, []*observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.triggers, b.observers
}

// apply applies one registration of a connection in the namespace ns.
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
		w.e.observers.reported(w, ns, *m)
	case *localStatsMessage:
		w.e.observers.counted(w, ns, *m)
	case *registerServiceMessage:
		// A service groups functions, but no function of the engine exposes it.
	}
}

// abort discards the queued registrations and rejects further ones.
func (w *worker) abort() {
	w.settle.Lock()
	defer w.settle.Unlock()
	w.state, w.waiting = nsAborted, nil
	if w.grace != nil {
		w.grace.Stop()
	}
}

// blank reports whether s is empty or white space.
func blank(s string) bool { return strings.TrimSpace(s) == "" }

// namespaceOf returns the namespace that a message names, or fallback if it names none.
// A blank namespace is an error; it never means the default.
func namespaceOf(field string, named *string, fallback string) (string, *wireError) {
	if named == nil {
		return fallback, nil
	}
	if blank(*named) {
		return "", errorBody("INVALID_NAMESPACE", "`%s` is empty: it was named and left blank. Give it a name, or omit it to use `default`.", field)
	}
	return *named, nil
}
