package iiitest

import (
	"encoding/json"
	"strings"
)

// function is an entry of the table of functions.
type function struct {
	namespace, id string
	owner         *worker // nil: built in
	ownerName     string  // of a built-in function: its in-process worker
	description   *string
	request       json.RawMessage // JSON Schemas, nil if unknown
	response      json.RawMessage
	metadata      json.RawMessage
	builtin       builtinFunc // run by the engine itself: built in, or invoked over HTTP
	seq           uint64
}

// reservedPrefix is kept for the engine outside the default namespace.
const reservedPrefix = "engine::"

// registerFunction enters a function of a worker. Another live worker's
// function stays; a built-in one is replaced, as in the engine.
func (e *Engine) registerFunction(w *worker, ns string, m registerFunctionMessage) {
	if !w.session.admitFunction(ns, &m) {
		return
	}
	k := key{ns, m.ID}
	if strings.HasPrefix(m.ID, reservedPrefix) && ns != defaultNamespace {
		w.send(functionConflict(k, ""))
		return
	}
	var overHTTP builtinFunc
	if m.http != nil {
		f, err := e.newHTTPFunction(m.ID, m.http)
		if err != nil { // the worker is not told
			e.log.Warn("function invoked over HTTP refused", "worker", w.id, "function", m.ID, "code", err)
			return
		}
		overHTTP = f.serve
	}
	e.mu.Lock()
	if w.leaving {
		e.mu.Unlock()
		return
	}
	if old := e.functions[k]; old != nil && old.owner != nil && old.owner != w && !old.owner.leaving {
		t := w.push(functionConflict(k, old.owner.id))
		e.mu.Unlock()
		t.wait()
		return
	}
	e.seq++
	e.functions[k] = &function{
		namespace: ns, id: m.ID, owner: w,
		description: m.Description,
		request:     optional(m.RequestFormat),
		response:    optional(m.ResponseFormat),
		metadata:    optional(m.Metadata),
		builtin:     overHTTP,
		seq:         e.seq,
	}
	e.mu.Unlock()
}

func functionConflict(k key, owner string) []byte {
	return message("registrationrejected").str("code", "FUNCTION_NAMESPACE_CONFLICT").
		str("namespace", k.namespace).str("function_id", k.id).str("owner_worker_id", owner).bytes()
}

// unregisterFunction removes a function if w owns it. Triggers that point at it
// stay.
func (e *Engine) unregisterFunction(w *worker, ns, id string) {
	id = w.session.prefixed(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.functions[key{ns, id}]; f != nil && f.owner == w {
		delete(e.functions, key{ns, id})
	}
}

// workerName is the name that listings show for the owner of f: an owner
// without one is named after the first part of the function's id. Engine.mu is
// held.
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
