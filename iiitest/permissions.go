package iiitest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

// permissions describes what a worker connected to the guarded listener may do. It is
// immutable. A nil *permissions, used for the open listener, permits everything.
type permissions struct {
	e     *Engine
	guard *guard
	iii.AuthResult
}

// infrastructure lists the functions that every worker needs. They are permitted unless
// explicitly forbidden.
var infrastructure = []string{
	"engine::channels::create", "engine::workers::register",
	"engine::log::info", "engine::log::warn", "engine::log::error", "engine::log::debug", "engine::log::trace",
	"engine::baggage::get", "engine::baggage::set", "engine::baggage::get_all",
}

// denialLocked returns the engine's error if the worker may not call a function. The same
// rules apply to functions that do not exist. The caller must hold Engine.mu.
func (p *permissions) denialLocked(namespace, id string) *wireError {
	switch {
	case p == nil:
		return nil
	case slices.Contains(p.ForbiddenFunctions, id):
		return errorBody("FORBIDDEN", "function '%s' not allowed (remove from rbac.forbidden_functions)", id)
	case slices.ContainsFunc(p.Namespaces[namespace], func(grant string) bool {
		pattern, _ := patternOf(grant)
		return wildcard(pattern, id)
	}):
		return nil
	case namespace == defaultNamespace && slices.Contains(p.AllowedFunctions, id):
		return nil
	case slices.Contains(infrastructure, id):
		return nil
	case p.guard.exposes(namespace, id, p.e.functions[key{namespace, id}]):
		return nil
	}
	return errorBody("FORBIDDEN", "function '%s' not allowed (add to rbac.expose_functions)", id)
}

func (p *permissions) denial(namespace, id string) *wireError {
	if p == nil {
		return nil
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	return p.denialLocked(namespace, id)
}

// middleware returns the function that receives a permitted call in place of the target, or ""
// if the call goes to the target.
func (p *permissions) middleware(namespace, id string) string {
	if p == nil || p.guard.MiddlewareFunctionID == "" {
		return ""
	}
	if strings.HasPrefix(id, reservedPrefix) {
		p.e.mu.Lock()
		defer p.e.mu.Unlock()
		f := p.e.functions[key{namespace, id}]
		if f == nil { // the engine's ids are reserved in every namespace
			f = p.e.functions[key{defaultNamespace, id}]
		}
		if f != nil && f.owner == nil {
			return ""
		}
	}
	return p.guard.MiddlewareFunctionID
}

func (p *permissions) throughMiddleware(ctx context.Context, w *worker, id string, m invokeFunctionMessage, r request) outcome {
	var action json.RawMessage
	if m.Action != nil {
		o := new(object).str("type", m.Action.Type)
		if m.Action.Queue != nil {
			o.str("queue", *m.Action.Queue)
		}
		action = o.bytes()
	}
	return p.e.run(ctx, request{
		id: uuid.NewString(), caller: w, functionID: id, namespace: r.namespace,
		data: canonicalValid(mustEncode(map[string]any{
			"function_id": r.functionID, "payload": r.data, "action": action,
			"context": json.RawMessage(p.Context), "namespace": r.namespace,
		})),
		metadata: r.metadata, trace: r.trace, inPlace: true, from: r.from, depth: r.depth,
	})
}

// refusesNamespace returns an error if the connection may not declare the namespace.
func (p *permissions) refusesNamespace(namespace string) *wireError {
	if p == nil || len(p.Namespaces) == 0 {
		return nil
	}
	if _, ok := p.Namespaces[namespace]; ok {
		return nil
	}
	return errorBody("FORBIDDEN", "namespace '%s' not allowed for this session (permitted: %s)",
		namespace, strings.Join(slices.Sorted(maps.Keys(p.Namespaces)), ", "))
}

// allowsTriggerType reports whether the connection may register triggers of the given type.
func (p *permissions) allowsTriggerType(id string) bool {
	return p == nil || p.AllowedTriggerTypes == nil || slices.Contains(p.AllowedTriggerTypes, id)
}

// prefixed returns the id under which the engine registers one of the worker's functions. An
// empty prefix still adds "::".
func (p *permissions) prefixed(id string) string {
	if p == nil || p.FunctionRegistrationPrefix == nil {
		return id
	}
	return *p.FunctionRegistrationPrefix + "::" + id
}

// bare removes the prefix that prefixed adds.
func (p *permissions) bare(id string) string {
	if p == nil || p.FunctionRegistrationPrefix == nil {
		return id
	}
	return strings.TrimPrefix(id, *p.FunctionRegistrationPrefix+"::")
}

// hook calls the registration hook with the given id. It returns the hook's changes, and
// whether the hook approves the registration.
func (p *permissions) hook(id, what string, input map[string]any) (changes map[string]json.RawMessage, ok bool) {
	if id == "" {
		return nil, true
	}
	input["context"] = json.RawMessage(p.Context)
	result, err := p.e.invoke(p.e.ctx, id, defaultNamespace, mustEncode(input))
	if p.e.closing() {
		return nil, false
	}
	if err != nil || kindOf(result) != '{' {
		code := "no object returned"
		if err != nil {
			code = err.Code
		}
		p.e.log.Warn("registration denied by a hook", "hook", id, "registration", what, "reason", code)
		return nil, false
	}
	return (&scanner{b: result}).members(), true
}

// rewrite applies a hook's change to a field. A change that is not a string is ignored.
func rewrite(to *string, change json.RawMessage) {
	if kindOf(change) == '"' {
		*to = unquote(change)
	}
}

// admitFunction authorizes a function registration and applies the hook's changes.
func (p *permissions) admitFunction(namespace string, m *registerFunctionMessage) bool {
	if p == nil {
		return true
	}
	if !p.AllowFunctionRegistration {
		p.e.log.Warn("registration denied: the worker may not register functions", "function", m.ID)
		return false
	}
	changes, ok := p.hook(p.guard.OnFunction, m.ID, map[string]any{
		"function_id": m.ID, "description": m.Description, "metadata": optional(m.Metadata), "namespace": namespace,
	})
	if !ok {
		return false
	}
	for name, to := range map[string]**bool{"private": &m.observed.Private, "observable": &m.observed.Observable} {
		if change := changes[name]; kindOf(change) == 't' || kindOf(change) == 'f' {
			on := kindOf(change) == 't'
			*to = &on
		}
	}
	if args, there := changes["args_format"]; there {
		m.observed.ArgsFormat = args
	}
	rewrite(&m.ID, changes["function_id"])
	if description := changes["description"]; kindOf(description) == '"' {
		changed := unquote(description)
		m.Description = &changed
	}
	if metadata, there := changes["metadata"]; there {
		m.Metadata = metadata
	}
	m.ID = p.prefixed(m.ID)
	return true
}

// admitObserver authorizes an observer and adds the worker's prefix to the target id. The
// worker must be permitted to call both the source and the target.
func (p *permissions) admitObserver(m *observeMessage) *wireError {
	if p == nil {
		return nil
	}
	source, target := defaultNamespace, defaultNamespace
	if m.Source.Namespace != nil {
		source = *m.Source.Namespace
	}
	if m.Target.Namespace != nil {
		target = *m.Target.Namespace
	}
	if p.guard.OnObserver != "" {
		_, ok := p.hook(p.guard.OnObserver, m.ID, map[string]any{
			"observer_id": m.ID, "source": m.Source, "target": m.Target, "metadata": optional(m.Metadata),
			"max_fires": m.MaxFires, "expires_in_ms": m.ExpiresInMS, "max_in_flight": m.MaxInFlight,
		})
		if !ok {
			return errorBody("FORBIDDEN", "observer '%s' not allowed", m.ID)
		}
	}
	m.Target.FunctionID = p.prefixed(m.Target.FunctionID)
	if bad := p.denial(source, m.Source.FunctionID); bad != nil {
		return bad
	}
	return p.denial(target, m.Target.FunctionID)
}

// admitTrigger authorizes a trigger registration and applies the hook's changes. If it denies
// the registration, it returns the error to send to the worker, or nil if the worker is not
// notified.
func (p *permissions) admitTrigger(namespace string, m *registerTriggerMessage) (bool, *wireError) {
	if p == nil {
		return true, nil
	}
	if !p.allowsTriggerType(m.TriggerType) {
		p.e.log.Warn("registration denied: the worker may not use the trigger type", "trigger", m.ID, "type", m.TriggerType)
		return false, nil
	}
	changes, ok := p.hook(p.guard.OnTrigger, m.ID, map[string]any{
		"trigger_id": m.ID, "trigger_type": m.TriggerType, "function_id": m.FunctionID,
		"config": m.Config, "metadata": m.Metadata, "namespace": namespace,
	})
	if !ok {
		return false, nil
	}
	rewrite(&m.ID, changes["trigger_id"])
	rewrite(&m.TriggerType, changes["trigger_type"])
	rewrite(&m.FunctionID, changes["function_id"])
	if config, there := changes["config"]; there {
		m.Config = canonicalValid(config)
	}
	m.FunctionID = p.prefixed(m.FunctionID)
	if p.denial(namespace, m.FunctionID) != nil {
		return false, errorBody("FORBIDDEN", "function '%s' not allowed in namespace '%s'", m.FunctionID, namespace)
	}
	return true, nil
}

// admitTriggerType authorizes a trigger type registration and applies the hook's changes.
func (p *permissions) admitTriggerType(m *registerTriggerTypeMessage) bool {
	if p == nil {
		return true
	}
	if !p.AllowTriggerTypeRegistration {
		p.e.log.Warn("registration denied: the worker may not register trigger types", "type", m.ID)
		return false
	}
	changes, ok := p.hook(p.guard.OnTriggerType, m.ID, map[string]any{
		"trigger_type_id": m.ID, "description": m.Description,
	})
	if !ok {
		return false
	}
	rewrite(&m.ID, changes["trigger_type_id"])
	rewrite(&m.Description, changes["description"])
	return true
}
