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

// session holds the permissions of a connection through the guarded listener. It is
// immutable. A nil session, that of the open listener, permits everything.
type session struct {
	e     *Engine
	guard *guard
	iii.AuthResult
}

// infrastructure lists the functions that every worker needs. They may be called unless
// they are explicitly forbidden.
var infrastructure = []string{
	"engine::channels::create", "engine::workers::register",
	"engine::log::info", "engine::log::warn", "engine::log::error", "engine::log::debug", "engine::log::trace",
	"engine::baggage::get", "engine::baggage::set", "engine::baggage::get_all",
}

// denialLocked returns the engine's error if the session may not call a function, and
// else nil. It does not depend on whether the function exists. Engine.mu is held.
func (s *session) denialLocked(namespace, id string) *wireError {
	switch {
	case s == nil:
		return nil
	case slices.Contains(s.ForbiddenFunctions, id):
		return errorBody("FORBIDDEN", "function '%s' not allowed (remove from rbac.forbidden_functions)", id)
	case slices.ContainsFunc(s.Namespaces[namespace], func(grant string) bool {
		pattern, _ := patternOf(grant)
		return wildcard(pattern, id)
	}):
		return nil
	case namespace == defaultNamespace && slices.Contains(s.AllowedFunctions, id):
		return nil
	case slices.Contains(infrastructure, id):
		return nil
	case s.guard.exposes(namespace, id, s.e.functions[key{namespace, id}]):
		return nil
	}
	return errorBody("FORBIDDEN", "function '%s' not allowed (add to rbac.expose_functions)", id)
}

func (s *session) denial(namespace, id string) *wireError {
	if s == nil {
		return nil
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return s.denialLocked(namespace, id)
}

// middleware returns the function that receives a permitted call instead of its target,
// or "".
func (s *session) middleware(namespace, id string) string {
	if s == nil || s.guard.MiddlewareFunctionID == "" {
		return ""
	}
	if strings.HasPrefix(id, reservedPrefix) {
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		f := s.e.functions[key{namespace, id}]
		if f == nil { // the engine has its functions in one namespace, and reserves their ids in all
			f = s.e.functions[key{defaultNamespace, id}]
		}
		if f != nil && f.owner == nil {
			return ""
		}
	}
	return s.guard.MiddlewareFunctionID
}

// throughMiddleware passes a call of w to the middleware.
func (s *session) throughMiddleware(ctx context.Context, w *worker, id string, m invokeFunctionMessage, r request) outcome {
	var action json.RawMessage
	if m.Action != nil {
		o := new(object).str("type", m.Action.Type)
		if m.Action.Queue != nil {
			o.str("queue", *m.Action.Queue)
		}
		action = o.bytes()
	}
	return s.e.run(ctx, request{
		id: uuid.NewString(), caller: w, functionID: id, namespace: r.namespace,
		data: canonicalValid(mustEncode(map[string]any{
			"function_id": r.functionID, "payload": r.data, "action": action,
			"context": json.RawMessage(s.Context), "namespace": r.namespace,
		})),
		metadata: r.metadata, trace: r.trace, inPlace: true, from: r.from, depth: r.depth,
	})
}

// refusesNamespace returns an error if a connection may not declare a namespace.
func (s *session) refusesNamespace(namespace string) *wireError {
	if s == nil || len(s.Namespaces) == 0 {
		return nil
	}
	if _, ok := s.Namespaces[namespace]; ok {
		return nil
	}
	return errorBody("FORBIDDEN", "namespace '%s' not allowed for this session (permitted: %s)",
		namespace, strings.Join(slices.Sorted(maps.Keys(s.Namespaces)), ", "))
}

// allowsTriggerType reports whether triggers of a type may be registered.
func (s *session) allowsTriggerType(id string) bool {
	return s == nil || s.AllowedTriggerTypes == nil || slices.Contains(s.AllowedTriggerTypes, id)
}

// prefixed returns the id under which the engine registers a worker's function. An
// empty prefix is a prefix, too.
func (s *session) prefixed(id string) string {
	if s == nil || s.FunctionRegistrationPrefix == nil {
		return id
	}
	return *s.FunctionRegistrationPrefix + "::" + id
}

// bare returns the id that the worker uses for its own function.
func (s *session) bare(id string) string {
	if s == nil || s.FunctionRegistrationPrefix == nil {
		return id
	}
	return strings.TrimPrefix(id, *s.FunctionRegistrationPrefix+"::")
}

// hook calls a hook for a registration. It returns the changes, and whether the hook
// approves.
func (s *session) hook(id, what string, input map[string]any) (changes map[string]json.RawMessage, ok bool) {
	if id == "" {
		return nil, true
	}
	input["context"] = json.RawMessage(s.Context)
	result, err := s.e.invoke(s.e.ctx, id, defaultNamespace, mustEncode(input))
	if err != nil || kindOf(result) != '{' {
		code := "no object returned"
		if err != nil {
			code = err.Code
		}
		s.e.log.Warn("registration denied by a hook", "hook", id, "registration", what, "reason", code)
		return nil, false
	}
	return (&scanner{b: result}).members(), true
}

// rewrite sets to to a change of the hook and ignores a change that is not a string.
func rewrite(to *string, change json.RawMessage) {
	if kindOf(change) == '"' {
		*to = unquote(change)
	}
}

// admitFunction authorizes the registration of a function and applies changes.
func (s *session) admitFunction(namespace string, m *registerFunctionMessage) bool {
	if s == nil {
		return true
	}
	if !s.AllowFunctionRegistration {
		s.e.log.Warn("registration denied: the worker may not register functions", "function", m.ID)
		return false
	}
	changes, ok := s.hook(s.guard.OnFunction, m.ID, map[string]any{
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
	m.ID = s.prefixed(m.ID)
	return true
}

// admitObserver authorizes an observer and adds the session's prefix to the id of the
// target. The session must be permitted to call both the source and the target.
func (s *session) admitObserver(m *observeMessage) *wireError {
	if s == nil {
		return nil
	}
	source, target := defaultNamespace, defaultNamespace
	if m.Source.Namespace != nil {
		source = *m.Source.Namespace
	}
	if m.Target.Namespace != nil {
		target = *m.Target.Namespace
	}
	if s.guard.OnObserver != "" {
		_, ok := s.hook(s.guard.OnObserver, m.ID, map[string]any{
			"observer_id": m.ID, "source": m.Source, "target": m.Target, "metadata": optional(m.Metadata),
			"max_fires": m.MaxFires, "expires_in_ms": m.ExpiresInMS, "max_in_flight": m.MaxInFlight,
		})
		if !ok {
			return errorBody("FORBIDDEN", "observer '%s' not allowed", m.ID)
		}
	}
	m.Target.FunctionID = s.prefixed(m.Target.FunctionID)
	if bad := s.denial(source, m.Source.FunctionID); bad != nil {
		return bad
	}
	return s.denial(target, m.Target.FunctionID)
}

// admitTrigger authorizes the registration of a trigger and applies changes. An error
// goes to the worker; a denial without an error is silent.
func (s *session) admitTrigger(namespace string, m *registerTriggerMessage) (bool, *wireError) {
	if s == nil {
		return true, nil
	}
	if !s.allowsTriggerType(m.TriggerType) {
		s.e.log.Warn("registration denied: the worker may not use the trigger type", "trigger", m.ID, "type", m.TriggerType)
		return false, nil
	}
	changes, ok := s.hook(s.guard.OnTrigger, m.ID, map[string]any{
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
	m.FunctionID = s.prefixed(m.FunctionID)
	if s.denial(namespace, m.FunctionID) != nil {
		return false, errorBody("FORBIDDEN", "function '%s' not allowed in namespace '%s'", m.FunctionID, namespace)
	}
	return true, nil
}

// admitTriggerType authorizes the registration of a trigger type and applies changes.
func (s *session) admitTriggerType(m *registerTriggerTypeMessage) bool {
	if s == nil {
		return true
	}
	if !s.AllowTriggerTypeRegistration {
		s.e.log.Warn("registration denied: the worker may not register trigger types", "type", m.ID)
		return false
	}
	changes, ok := s.hook(s.guard.OnTriggerType, m.ID, map[string]any{
		"trigger_type_id": m.ID, "description": m.Description,
	})
	if !ok {
		return false
	}
	rewrite(&m.ID, changes["trigger_type_id"])
	rewrite(&m.Description, changes["description"])
	return true
}
