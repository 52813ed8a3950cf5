package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
)

// triggerType is a trigger type that the engine or a worker provides in a namespace.
type triggerType struct {
	key         key
	owner       *worker         // nil for the engine
	provider    triggerProvider // nil if owner provides the type
	ownerName   string
	description string
	config      json.RawMessage // config, request and response are JSON Schemas; nil if unknown
	request     json.RawMessage
	response    json.RawMessage
}

// registration is a binding and its state in the engine.
type registration struct {
	binding
	origin   *worker               // nil if registered with engine::register_trigger
	explicit *string               // namespace of the type, if specified
	home     string                // otherwise the type is looked up here, then in the default namespace
	parked   bool                  // the type has no provider; the trigger does not fire
	observed bool                  // represented by an observer, see observers.addStandIn
	at       key                   // type that the trigger is bound to unless parked
	answer   chan providerResponse // where engine::register_trigger waits for the provider; capacity 1
}

type providerResponse struct{ err *wireError }

// triggerTable contains trigger types and registrations. Trigger ids are global.
type triggerTable struct {
	mu    sync.Mutex
	types map[key]*triggerType
	byID  map[string]*registration
	seq   uint64
}

func (t *triggerTable) init() {
	t.types, t.byID = make(map[key]*triggerType), make(map[string]*registration)
}

// resolve returns a registration's provider. If the registration specifies no namespace,
// resolve searches its home namespace and then the default namespace.
func (t *triggerTable) resolve(r *registration) *triggerType {
	if r.explicit != nil {
		return t.types[key{*r.explicit, r.triggerType}]
	}
	if found := t.types[key{r.home, r.triggerType}]; found != nil {
		return found
	}
	return t.types[key{defaultNamespace, r.triggerType}]
}

// inOrder returns the registrations, oldest first.
func (t *triggerTable) inOrder() []*registration {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *registration) int { return cmp.Compare(a.seq, b.seq) })
}

// addTriggerType adds one of the engine's trigger types to the default namespace.
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

// registerTrigger binds or parks a worker's trigger.
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

// addRegistration binds or parks a registration. If a provider inside the engine rejects the
// registration, addRegistration discards it and returns the error.
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

// bindLocked passes a registration to its provider, or parks it if there is none. If the
// provider is a worker, bindLocked returns the ticket of the message to that worker. Wait for
// the ticket only after releasing Engine.triggers.mu.
func (e *Engine) bindLocked(r *registration, to *triggerType) (*ticket, error) {
	r.parked = true
	if to == nil && e.observers.addStandIn(r) {
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

// unbindLocked removes a registration from its provider, unless it is parked.
func (e *Engine) unbindLocked(r *registration) *ticket {
	if r.observed {
		e.observers.removeStandIn(r)
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

// unregisterTrigger removes and returns a trigger, whichever worker registered it. It returns
// nil if there is no such trigger.
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

// registerTriggerType adds a worker's trigger type, replacing one with the same id. The new
// provider receives all registrations that now resolve to the type: those of the replaced
// type, parked ones, and those that had fallen back to a type in the default namespace.
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
		case old != nil && old.provider != nil: // stop the old provider
			old.provider.unbind(r.id)
		}
		ticket, _ := e.bindLocked(r, added)
		sent = append(sent, ticket)
	}
	t.mu.Unlock()
	waitFor(sent...)
}

// unregisterTriggerType removes one of w's trigger types. Its bindings move to the type with
// the same id in the default namespace or, if there is none, are parked.
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

// triggerAnswered handles a provider's response to a registration. It ignores responses from
// workers that do not currently provide the type. A rejection parks the trigger and is
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
		r.answer <- providerResponse{refusal}
		r.answer = nil
	}
	r.parked = refusal != nil
	origin := r.origin
	t.mu.Unlock()
	if refusal != nil && origin != nil {
		origin.send(origin.speaks().triggerResult(r.id, r.triggerType, r.functionID, refusal))
	}
}

// forgetTriggers removes a closed connection's registrations and trigger types. Other workers'
// bindings to these types move to the default namespace if possible, and are parked otherwise.
func (e *Engine) forgetTriggers(w *worker) {
	t := &e.triggers
	t.mu.Lock()
	defer t.mu.Unlock()
	// Do not wait for room in providers' send queues: one connection's cleanup must not depend
	// on another connection that is not being read.
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

// leftLocked notifies r's provider that the worker that registered r has disconnected.
func (e *Engine) leftLocked(r *registration) {
	if at := e.triggers.types[r.at]; at != nil && !r.parked && !r.observed {
		if p, ok := at.provider.(farewellProvider); ok {
			p.workerLeft(r.binding)
		}
	}
}

// claimTriggers retries the parked triggers of a type. Call it after a function has claimed
// the type; see observers.standsFor.
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

// rebind binds the registrations of removed types to other providers. The caller must hold
// triggers.mu.
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
