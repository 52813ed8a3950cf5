package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
)

// triggerType is a type of trigger in a namespace, provided by the engine or by a
// worker.
type triggerType struct {
	key         key
	owner       *worker         // nil: inside the engine
	provider    triggerProvider // nil: the owner provides it
	ownerName   string
	description string
	config      json.RawMessage // JSON Schemas; nil if unknown
	request     json.RawMessage
	response    json.RawMessage
}

// registration is a binding with the state that the engine keeps about it.
type registration struct {
	binding
	origin   *worker       // nil: registered through engine::register_trigger
	explicit *string       // the provider's namespace, if specified
	home     string        // otherwise looked up here first, then in the default namespace
	parked   bool          // no provider: it does not fire
	observed bool          // an observer represents it, see observers.standsFor
	at       key           // the type it is bound to, when not parked
	answer   chan answered // engine::register_trigger waits on it; capacity 1
}

// answered is the answer of a provider.
type answered struct{ err *wireError }

// triggerTable holds trigger types and registrations. Trigger ids are global.
type triggerTable struct {
	mu    sync.Mutex
	types map[key]*triggerType
	byID  map[string]*registration
	seq   uint64
}

func (t *triggerTable) init() {
	t.types, t.byID = make(map[key]*triggerType), make(map[string]*registration)
}

// resolve returns the provider of a registration: in the namespace that it specifies,
// or else in its home namespace, or else in the default namespace.
func (t *triggerTable) resolve(r *registration) *triggerType {
	if r.explicit != nil {
		return t.types[key{*r.explicit, r.triggerType}]
	}
	if found := t.types[key{r.home, r.triggerType}]; found != nil {
		return found
	}
	return t.types[key{defaultNamespace, r.triggerType}]
}

// inOrder returns the registrations in the order in which they were made.
func (t *triggerTable) inOrder() []*registration {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *registration) int { return cmp.Compare(a.seq, b.seq) })
}

// addTriggerType adds one of the engine's trigger types to the namespace default.
func (e *Engine) addTriggerType(id, owner, description string, p triggerProvider) {
	known := published().TriggerTypes[id]
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	k := key{defaultNamespace, id}
	e.triggers.types[k] = &triggerType{
		key: k, provider: p, ownerName: owner, description: description,
		config:  optional(known.ConfigurationSchema),
		request: optional(known.RequestSchema), response: optional(known.ResponseSchema),
	}
}

// registerTrigger binds or parks a trigger of a worker.
func (e *Engine) registerTrigger(w *worker, home string, m registerTriggerMessage) {
	refuse := func(err *wireError) { w.send(w.speaks().triggerResult(m.ID, m.TriggerType, m.FunctionID, err)) }
	ns, bad := namespaceOf("namespace", m.Namespace, defaultNamespace)
	if bad == nil {
		_, bad = namespaceOf("trigger_namespace", m.TriggerNamespace, "")
	}
	if bad != nil {
		refuse(bad)
		return
	}
	admitted, bad := w.permissions.admitTrigger(ns, &m)
	if bad != nil {
		refuse(bad)
	}
	if !admitted {
		return
	}
	r := &registration{
		binding: binding{
			id: m.ID, triggerType: m.TriggerType, functionID: m.FunctionID, namespace: ns,
			config: m.Config, metadata: m.Metadata,
		},
		origin: w, explicit: m.TriggerNamespace, home: home,
	}
	if bad := e.addRegistration(r); bad != nil {
		refuse(bad)
	}
}

// addRegistration binds or parks a registration. If a provider inside the engine
// rejects the registration, it returns the error and discards the registration.
func (e *Engine) addRegistration(r *registration) *wireError {
	t := &e.triggers
	t.mu.Lock()
	if r.origin != nil && e.isLeaving(r.origin) { // forgetTriggers has already run
		t.mu.Unlock()
		return nil
	}
	t.seq++
	r.seq = t.seq
	sent, err := e.bindLocked(r, t.resolve(r))
	if err != nil {
		t.mu.Unlock()
		return errorBody("trigger_registration_failed", "%s", err)
	}
	t.byID[r.id] = r
	t.mu.Unlock()
	waitFor(sent)
	return nil
}

// bindLocked passes a registration to its provider, or parks it if there is none. The
// ticket belongs to the message for a worker; wait for it after releasing
// Engine.triggers.mu.
func (e *Engine) bindLocked(r *registration, to *triggerType) (*ticket, error) {
	r.parked = true
	if to == nil && e.observers.standsFor(r) {
		r.parked, r.observed = false, true
		return nil, nil
	}
	if to == nil {
		e.logEngine(severityWarn, "[PENDING] Trigger "+r.id+" (function "+r.functionID+") was NOT activated: trigger type "+r.triggerType+
			" is not registered. It will be registered automatically when the trigger type becomes available."+
			" If this persists, search for a worker that provides this trigger type at https://workers.iii.dev/",
			map[string]any{"target": "iii::trigger", "module_path": "iii::trigger"})
		return nil, nil
	}
	if to.provider != nil {
		if err := to.provider.bind(e.ctx, r.binding); err != nil {
			return nil, err
		}
		r.parked, r.at = false, to.key
		return nil, nil
	}
	if e.isLeaving(to.owner) {
		return nil, nil
	}
	r.parked, r.at = false, to.key
	return to.owner.push(to.owner.speaks().bindTrigger(r, to.key.namespace)), nil
}

// unbindLocked withdraws a live registration from its provider.
func (e *Engine) unbindLocked(r *registration) *ticket {
	if r.observed {
		e.observers.standsForNoMore(r)
		r.observed = false
		return nil
	}
	if r.parked {
		return nil
	}
	at := e.triggers.types[r.at]
	switch {
	case at == nil:
		return nil
	case at.provider != nil:
		at.provider.unbind(r.id)
		return nil
	default:
		return at.owner.push(at.owner.speaks().unbindTrigger(r.id, r.triggerType))
	}
}

// unregisterTrigger removes a trigger, whichever worker registered it, and returns it, or
// nil if it does not exist.
func (e *Engine) unregisterTrigger(id string) *registration {
	e.triggers.mu.Lock()
	r := e.triggers.byID[id]
	if r == nil {
		e.triggers.mu.Unlock()
		return nil
	}
	delete(e.triggers.byID, id)
	sent := e.unbindLocked(r)
	e.triggers.mu.Unlock()
	waitFor(sent)
	return r
}

// registerTriggerType adds a trigger type of a worker; the latest registration wins. The
// engine sends existing bindings of the type again and binds parked ones. Bindings that the
// default namespace has served in the absence of this type move to the new provider.
func (e *Engine) registerTriggerType(w *worker, home string, m registerTriggerTypeMessage) {
	ns, bad := namespaceOf("namespace", m.Namespace, home)
	if bad != nil {
		e.log.Warn("trigger type rejected: blank namespace", "worker", w.id, "type", m.ID)
		return
	}
	if !w.permissions.admitTriggerType(&m) {
		return
	}
	added := &triggerType{
		key: key{ns, m.ID}, owner: w, description: m.Description,
		config: optional(m.TriggerRequestFormat), request: optional(m.CallRequestFormat),
	}
	var sent []*ticket
	t := &e.triggers
	t.mu.Lock()
	if e.isLeaving(w) { // forgetTriggers has already run
		t.mu.Unlock()
		return
	}
	old := t.types[added.key]
	t.types[added.key] = added
	for _, r := range t.inOrder() {
		if t.resolve(r) != added {
			continue
		}
		switch {
		case r.parked:
		case r.observed, r.at != added.key:
			sent = append(sent, e.unbindLocked(r))
		case old != nil && old.provider != nil: // it must stop firing
			old.provider.unbind(r.id)
		}
		ticket, _ := e.bindLocked(r, added)
		sent = append(sent, ticket)
	}
	t.mu.Unlock()
	waitFor(sent...)
}

// unregisterTriggerType removes a trigger type of w. Its bindings move to the provider
// of the default namespace, if there is one, or are parked.
func (e *Engine) unregisterTriggerType(w *worker, home string, m unregisterTriggerTypeMessage) {
	ns, bad := namespaceOf("namespace", m.Namespace, home)
	if bad != nil {
		return
	}
	t := &e.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	if typ := t.types[key{ns, m.ID}]; typ != nil && typ.owner == w {
		delete(t.types, typ.key)
		e.rebind()
	}
}

// triggerAnswered handles a provider's answer to a registration. The answer counts only
// if that worker currently provides the type. A rejection parks the trigger and is
// forwarded to the worker that registered it.
func (e *Engine) triggerAnswered(w *worker, m triggerRegistrationResultMessage) {
	refusal, _ := decodeError(m.Error)
	t := &e.triggers
	t.mu.Lock()
	r := t.byID[m.ID]
	if r == nil || r.parked || t.types[r.at] == nil || t.types[r.at].owner != w {
		t.mu.Unlock()
		return
	}
	if r.answer != nil {
		r.answer <- answered{refusal}
		r.answer = nil
	}
	r.parked = refusal != nil
	origin := r.origin
	t.mu.Unlock()
	if refusal != nil && origin != nil {
		origin.send(origin.speaks().triggerResult(r.id, r.triggerType, r.functionID, refusal))
	}
}

// forgetTriggers removes the registrations and trigger types of a connection that has
// ended. Other workers' bindings to these types move to the provider of the default
// namespace, if there is one, or are parked.
func (e *Engine) forgetTriggers(w *worker) {
	t := &e.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	// Do not wait for room in the send queues of the providers: the cleanup of a
	// connection must not depend on another connection that does not read.
	for _, r := range t.inOrder() {
		if r.origin == w {
			delete(t.byID, r.id)
			e.unbindLocked(r)
			e.leftLocked(r)
		}
	}
	takenBack, _ := w.takenBack.all()
	for _, r := range takenBack {
		e.leftLocked(r)
	}
	for k, typ := range t.types {
		if typ.owner == w {
			delete(t.types, k)
		}
	}
	e.rebind()
}

// leftLocked lets the provider of a trigger know that the trigger's worker has left.
func (e *Engine) leftLocked(r *registration) {
	if at := e.triggers.types[r.at]; at != nil && !r.parked && !r.observed {
		if p, ok := at.provider.(farewellProvider); ok {
			p.left(r.binding)
		}
	}
}

// claimTriggers resolves the parked triggers of a type again, after a function has
// claimed it.
func (e *Engine) claimTriggers(typ string) {
	t := &e.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.inOrder() {
		if r.parked && r.triggerType == typ && t.resolve(r) == nil {
			_, _ = e.bindLocked(r, nil)
		}
	}
}

// rebind finds another provider for the bindings of a type that is gone. triggers.mu is
// held.
func (e *Engine) rebind() {
	t := &e.triggers
	for _, r := range t.inOrder() {
		if r.parked || r.observed || t.types[r.at] != nil {
			continue
		}
		if _, err := e.bindLocked(r, t.resolve(r)); err != nil {
			e.log.Warn("trigger parked: the new provider rejected it", "trigger", r.id, "error", err)
		}
	}
}

func (e *Engine) isLeaving(w *worker) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return w.leaving
}

func waitFor(tickets ...*ticket) {
	for _, t := range tickets {
		if t != nil {
			t.wait()
		}
	}
}
