package iiitest

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// providerTimeout is how long engine::register_trigger waits for a response from the worker
// that provides the type.
const providerTimeout = 10 * time.Second

func (e *Engine) registerTriggers() {
	e.addBuiltin("engine::register_trigger", engineWorker, "Register a trigger that outlives its caller", e.serveRegisterTrigger)
	e.addBuiltin("engine::unregister_trigger", engineWorker, "Unregister a trigger", e.serveUnregisterTrigger)
}

// serveRegisterTrigger registers a durable trigger, which does not belong to any connection.
// If a worker provides the type, serveRegisterTrigger waits for the worker's response. A
// trigger without a provider is parked, and the call succeeds. A blank namespace never has a
// provider.
func (e *Engine) serveRegisterTrigger(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type RegisterTriggerInput struct {
		TriggerType      string          `json:"trigger_type"`
		FunctionID       string          `json:"function_id"`
		Config           json.RawMessage `json:"config,omitempty"`
		Metadata         json.RawMessage `json:"metadata,omitempty"`
		TriggerNamespace *string         `json:"trigger_namespace"`
	}
	in, bad := decodeInput[RegisterTriggerInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	p := c.permissions() // hooks and call permissions do not apply here
	if !p.allowsTriggerType(in.TriggerType) {
		return nil, errorBody("FORBIDDEN", "trigger type '%s' not allowed", in.TriggerType)
	}
	config := in.Config
	if config == nil {
		config = json.RawMessage("null")
	}
	r := &registration{
		binding: binding{
			id: uuid.NewString(), triggerType: in.TriggerType, functionID: p.prefixed(in.FunctionID),
			namespace: defaultNamespace, config: config, metadata: optional(in.Metadata),
		},
		explicit: in.TriggerNamespace, home: defaultNamespace,
		answer: make(chan providerResponse, 1),
	}
	answer := r.answer
	if bad := e.addRegistration(r); bad != nil {
		return nil, bad
	}
	if e.awaitsProvider(r) {
		timeout := time.NewTimer(providerTimeout)
		defer timeout.Stop()
		select {
		case a := <-answer:
			if a.err != nil {
				e.unregisterTrigger(r.id)
				return nil, errorBody("trigger_registration_failed", "%s: %s", a.err.Code, a.err.Message)
			}
		case <-timeout.C: // no response counts as success
		case <-ctx.Done():
		}
	}
	return mustEncode(map[string]string{"id": r.id}), nil
}

// awaitsProvider reports whether r was sent to a worker. The worker's response may already
// have arrived.
func (e *Engine) awaitsProvider(r *registration) bool {
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	if r.answer == nil {
		return true // already responded
	}
	at := e.triggers.types[r.at]
	return !r.parked && at != nil && at.owner != nil
}

func (e *Engine) serveUnregisterTrigger(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type UnregisterTriggerInput struct {
		ID          string  `json:"id"`
		TriggerType *string `json:"trigger_type"`
	}
	in, bad := decodeInput[UnregisterTriggerInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	return mustEncode(map[string]bool{"removed": e.unregisterTrigger(in.ID) != nil}), nil
}
