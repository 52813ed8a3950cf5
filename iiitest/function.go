package iiitest

import (
	"encoding/json"
	"strings"
)

type function struct {
	namespace, id string
	owner         *worker // nil: built in
	ownerName     string  // in-process worker of a built-in function
	description   *string
	request       json.RawMessage // request and response are JSON Schemas; nil if unknown
	response      json.RawMessage
	metadata      json.RawMessage
	builtin       builtinFunc // nil unless the engine runs the function: built-in, or invoked over HTTP
	seq           uint64
	registered    string // id in the owner's registration; access control may have changed it

	args         *configurationSchema // schema of observer arguments; nil if observers take none
	private      bool                 // only the host may call the function
	unobservable bool
	legacyType   string       // trigger type that is represented by observers of the function, or ""
	events       bool         // only the host activates observers (owner delivery in 0.25)
	source       hostedSource // hooks of a source that the engine hosts, or nil
	announced    bool         // the host has received the observers; guarded by observers.mu
	since, until Protocol     // range of protocols that have the function; 0 is unbounded
}

// reservedPrefix is reserved for the engine in every namespace except the default one.
const reservedPrefix = "engine::"

// registerFunction registers a worker's function. As in a real engine, the function can
// replace a built-in function, but not one that belongs to another connected worker.
func (e *Engine) registerFunction(w *worker, ns string, m registerFunctionMessage) {
	registered := m.ID
	if !w.permissions.admitFunction(ns, &m) {
		return
	}
	k := key{ns, m.ID}
	if strings.HasPrefix(m.ID, reservedPrefix) && ns != defaultNamespace {
		w.send(w.speaks().functionRejected(functionConflict, k, ""))
		return
	}
	f := &function{
		namespace: ns, id: m.ID, owner: w, registered: registered,
		description: m.Description,
		request:     optional(m.RequestFormat),
		response:    optional(m.ResponseFormat),
		metadata:    optional(m.Metadata),
	}
	if err := f.observable(w.speaks().protocol, m.observed); err != nil {
		e.log.Warn("function rejected: args_format is not a JSON Schema", "worker", w.id, "function", m.ID, "error", err)
		if w.speaks().hooks { // other workers disconnect on an unknown code
			w.send(w.speaks().functionRejected("INVALID_ARGS_FORMAT", key{ns, registered}, w.id))
		}
		return
	}
	if m.http != nil {
		overHTTP, err := e.newHTTPFunction(m.ID, m.http)
		if err != nil { // the worker is not notified
			e.log.Warn("function invoked over HTTP rejected", "worker", w.id, "function", m.ID, "code", err)
			return
		}
		f.builtin = overHTTP.serve
	}
	if !e.enterFunction(w, k, f) {
		return
	}
	if f.legacyType != "" {
		e.claimTriggers(f.legacyType)
	}
}

// enterFunction adds one of w's functions to the table. It returns false if another worker
// owns the function or w is disconnecting.
func (e *Engine) enterFunction(w *worker, k key, f *function) bool {
	e.observers.mu.Lock()
	defer e.observers.mu.Unlock()
	e.mu.Lock()
	if w.leaving {
		e.mu.Unlock()
		return false
	}
	if old := e.functions[k]; old != nil && old.owner != nil && old.owner != w && !old.owner.leaving {
		w.push(w.speaks().functionRejected(functionConflict, k, old.owner.id))
		e.mu.Unlock()
		return false
	}
	e.seq++
	f.seq = e.seq
	e.functions[k] = f
	e.mu.Unlock()
	e.observers.hostChanged(k)
	return true
}

// observable applies a registration's observer-related fields to f. It returns an error if
// args_format is invalid.
func (f *function) observable(p Protocol, m registeredObservable) error {
	args := json.RawMessage(nil)
	if o := m.Observe; o != nil {
		f.unobservable = o.Allow != nil && !*o.Allow
		if f.events = text(o.Delivery) == "owner"; f.events {
			args = optional(o.ArgsFormat)
		}
		f.legacyType = text(o.LegacyTriggerType)
	}
	if p >= Protocol026 {
		f.private = set(m.Private)
		f.unobservable = f.unobservable || m.Observable != nil && !*m.Observable
		if own := optional(m.ArgsFormat); own != nil {
			args = own
		}
	}
	if args == nil {
		return nil
	}
	var err error
	f.args, err = parseConfigurationSchema(args)
	return err
}

// functionConflict is the rejection code for a function that belongs to another worker.
const functionConflict = "FUNCTION_NAMESPACE_CONFLICT"

// unregisterFunction removes a function if w owns it. Triggers that refer to the function
// remain.
func (e *Engine) unregisterFunction(w *worker, ns, id string) {
	e.observers.mu.Lock()
	defer e.observers.mu.Unlock()
	e.mu.Lock()
	k := e.hostedLocked(w, ns, id)
	f := e.functions[k]
	if f == nil || f.owner != w {
		e.mu.Unlock()
		return
	}
	delete(e.functions, k)
	e.mu.Unlock()
	e.observers.hostChanged(k)
}

// has reports whether the function exists on connections that use protocol p. Unless strict is
// set, has also returns true for protocols from which the function was removed.
func (f *function) has(p Protocol, strict bool) bool {
	return p >= f.since && (f.until == 0 || p <= f.until || !strict)
}

// hosted returns the key of the function that w refers to by id. If a registration hook has
// changed the function's id, a worker that supports observers uses the id that it registered,
// and any other worker uses the changed id. In both cases, id lacks the worker's prefix.
func (e *Engine) hosted(w *worker, ns, id string) key {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hostedLocked(w, ns, id)
}

func (e *Engine) hostedLocked(w *worker, ns, id string) key {
	k := key{ns, w.permissions.prefixed(id)}
	if f := e.functions[k]; f != nil && f.owner == w || w.permissions == nil || w.permissions.guard.OnFunction == "" || !w.speaks().observes {
		return k
	}
	for other, f := range e.functions {
		if f.owner == w && f.namespace == ns && f.registered == id {
			return other
		}
	}
	return k
}

// hostID returns the function id used in calls that are sent to f's host.
func (f *function) hostID() string {
	if f.owner.speaks().observes {
		return f.registered
	}
	return f.owner.permissions.bare(f.id)
}

// workerName returns the name under which listings show f's owner. If the owner has no name,
// workerName returns the first segment of the function id. The caller must hold Engine.mu.
func (f *function) workerName() string {
	name := f.ownerName
	if f.owner != nil {
		name = f.owner.meta.name
	}
	if name == "" {
		name, _, _ = strings.Cut(f.id, "::")
	}
	return name
}
