package iiitest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/iii-go/iii"
)

// wireError is the error of an invocation as encoded on the wire.
type wireError = iii.ErrorBody

// builtinFunc is a function that the engine itself implements. If it returns a nil
// result and no error, the reply has no result key; json.RawMessage("null") is a JSON
// null.
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

// permissions returns the permissions of the caller; nil permits everything.
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

	observer *observer // that the binding stands for; nil: a trigger
}

// triggerProvider implements a trigger type inside the engine. The engine calls bind
// and unbind one at a time and in order; both must return at once and must not register
// anything. If bind receives an id that is already bound, the provider decides what the
// repeated registration means.
type triggerProvider interface {
	bind(ctx context.Context, b binding) error // its text becomes the message of trigger_registration_failed
	unbind(id string)
}

// farewellProvider is a triggerProvider that logs events that are lost because the worker of a
// binding has left.
type farewellProvider interface{ left(b binding) }

// engineText is an error in the engine's own words, as sent on the wire.
type engineText string

func (t engineText) Error() string { return string(t) }

func errorBody(code, format string, args ...any) *wireError {
	return &wireError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// addBuiltin adds a function to the namespace default. owner is the in-process worker
// that listings show. The schemas and other published details of the function come from
// recorded answers of the engine.
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
