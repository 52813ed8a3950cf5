package iiitest

import (
	"context"
	"encoding/json"
	"strings"
	"unicode"
)

// metadata describes a worker, as registered with engine::workers::register.
type metadata struct {
	runtime     string
	version     *string
	name        string // "" until registered
	description *string
	os          *string
	pid         *uint32
	isolation   *string
	namespace   string
}

type registerInput struct {
	CallerWorkerID string           `json:"_caller_worker_id"`
	Runtime        *string          `json:"runtime"`
	Version        *string          `json:"version"`
	Name           *string          `json:"name"`
	Description    *string          `json:"description"`
	OS             *string          `json:"os"`
	PID            *uint32          `json:"pid"`
	Isolation      *string          `json:"isolation"`
	Namespace      *string          `json:"namespace"`
	Telemetry      *json.RawMessage `json:"telemetry"`
	Features       json.RawMessage  `json:"features,omitempty"` // invalid features are ignored
}

func (e *Engine) registerWorkers() {
	e.addBuiltin("engine::workers::register", engineWorker, "Register worker metadata", e.serveRegister)
}

// serveRegister assigns the calling connection its namespace, leases its name and stores its
// metadata.
func (e *Engine) serveRegister(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type RegisterWorkerInput registerInput // the name in the engine's error messages
	named, bad := decodeInput[RegisterWorkerInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	in := registerInput(named)
	ns, bad := namespaceOf("namespace", in.Namespace, defaultNamespace)
	if bad != nil {
		return nil, bad
	}
	w := c.worker
	if w == nil {
		return nil, errorBody("NOT_FOUND", "Worker '%s' is not connected.", in.CallerWorkerID)
	}
	if bad := w.permissions.refusesNamespace(ns); bad != nil {
		return nil, bad
	}
	if settled, ok := w.settled(); ok {
		ns = settled // a namespace cannot be changed; the call still succeeds
	}
	name := sanitize(text(in.Name))
	if !e.lease(w, ns, name) {
		w.abort()
		return json.RawMessage(`{"success":false}`), nil
	}
	e.mu.Lock()
	w.meta.update(in, ns, name)
	w.called.text = w.meta.name
	e.mu.Unlock()
	e.log.Debug("worker registered", "worker", w.id, "name", name, "namespace", ns)
	if w.speaks().protocol >= Protocol025 {
		w.spoken.Store(w.speaks().with(featuresOf(in.Features)))
	}
	w.settleIn(ns)
	e.observers.declared(w)
	e.workerChanged("worker_metadata_updated", w.id)
	return json.RawMessage(`{"success":true}`), nil
}

// featuresOf returns the strings in an array and ignores other elements.
func featuresOf(raw json.RawMessage) (features []string) {
	if kindOf(raw) != '[' {
		return nil
	}
	for _, item := range itemsOf(raw) {
		if kindOf(item) == '"' {
			features = append(features, unquote(item))
		}
	}
	return features
}

// update applies a registration. It always replaces runtime and version, and replaces the
// other fields only if they are present.
func (m *metadata) update(in registerInput, ns, name string) {
	m.namespace = ns
	m.runtime, m.version = "unknown", in.Version
	if in.Runtime != nil {
		m.runtime = *in.Runtime
	}
	if name != "" {
		m.name = name
	}
	if description := sanitize(text(in.Description)); description != "" {
		m.description = &description
	}
	for _, f := range []struct{ to, from **string }{{&m.os, &in.OS}, {&m.isolation, &in.Isolation}} {
		if *f.from != nil {
			*f.to = *f.from
		}
	}
	if in.PID != nil {
		m.pid = in.PID
	}
}

// lease reserves name for w in a namespace. If the name belongs to another live connection,
// lease notifies w and closes w's connection. An empty name needs no lease.
func (e *Engine) lease(w *worker, ns, name string) bool {
	if name == "" {
		return true
	}
	k := key{ns, name}
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.leaving {
		return false
	}
	if holder := e.leases[k]; holder != nil && holder != w && !holder.leaving {
		w.rejected.Store(true)
		w.push(w.speaks().nameTaken(ns, name, holder.id))
		w.out.push(outgoing{close: true})
		return false
	}
	for other, holder := range e.leases {
		if holder == w {
			delete(e.leases, other)
		}
	}
	e.leases[k] = w
	return true
}

// maxName is the maximum length of a name, in characters.
const maxName = 280

// sanitize cleans up a name or description as a real engine does. It removes control, bidi and
// line-separator characters, and then truncates and trims the result.
func sanitize(s string) string {
	n := 0
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r),
			r == 0x2028, r == 0x2029, r == 0x061c, r == 0x200e, r == 0x200f,
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1
		}
		if n++; n > maxName {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
