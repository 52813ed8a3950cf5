package iiitest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/iii-go/iii"
)

// wireError is a failed invocation's error, as encoded on the wire.
type wireError = iii.ErrorBody

// builtinFunc implements one of the engine's functions. A nil result without an error omits
// the result key from the reply. To reply with a JSON null, return json.RawMessage("null").
type builtinFunc func(ctx context.Context, c *call) (json.RawMessage, *wireError)

// call is one invocation of a built-in function.
type call struct {
	worker        *worker // nil: the engine is the caller
	functionID    string
	data          json.RawMessage
	metadata      json.RawMessage
	traceparent   string
	baggage       string
	callerBaggage string // see request.baggage
}

// permissions returns the caller's permissions. A nil result permits everything.
func (c *call) permissions() *permissions {
	if c.worker == nil {
		return nil
	}
	return c.worker.permissions
}

// binding is a registered trigger as its provider sees it.
type binding struct {
	id, triggerType, functionID, namespace string
	config, metadata                       json.RawMessage
	seq                                    uint64 // order of registration

	observer *observer // set if the binding represents an observer
}

// triggerProvider implements a trigger type inside the engine. The engine calls bind and
// unbind one at a time and in order. Both must return promptly and must not register anything.
// Each provider defines the effect of binding an id that is already bound.
type triggerProvider interface {
	bind(ctx context.Context, b binding) error // the error text becomes the message of trigger_registration_failed
	unbind(id string)
}

// farewellProvider is implemented by trigger providers that log the events that a binding
// misses after its worker has disconnected.
type farewellProvider interface{ workerLeft(b binding) }

// engineText is an error in the engine's own wording, as sent on the wire.
type engineText string

func (t engineText) Error() string { return string(t) }

func errorBody(code, format string, args ...any) *wireError {
	return &wireError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// addBuiltin adds a function to the default namespace. owner is the in-process worker that
// listings show as the function's worker. The schemas and the metadata come from the recorded
// data in published. A recorded description takes precedence over description.
func (e *Engine) addBuiltin(id, owner, description string, f builtinFunc) {
	known := published().Functions[id]
	if known.Description != nil {
		description = *known.Description
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seq++
	e.functions[key{defaultNamespace, id}] = &function{
		namespace: defaultNamespace, id: id, ownerName: owner, description: &description, builtin: f,
		request: optional(known.RequestSchema), response: optional(known.ResponseSchema),
		metadata: optional(known.Metadata), seq: e.seq,
	}
}
