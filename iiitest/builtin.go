package iiitest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/iii-go/iii"
)

// wireError is the error of an invocation as it stands on the wire.
type wireError = iii.ErrorBody

// builtinFunc is a function of the engine itself. A nil result without an error
// is "no result": the key is left out of the reply. json.RawMessage("null") is
// a JSON null.
type builtinFunc func(ctx context.Context, c *call) (json.RawMessage, *wireError)

// call is one invocation of a built-in function.
type call struct {
	worker        *worker // nil: the engine itself calls
	functionID    string
	data          json.RawMessage
	metadata      json.RawMessage
	traceparent   string
	baggage       string
	callerBaggage string // see request.baggage
}

// session is what the caller may do; nil is everything.
func (c *call) session() *session {
	if c.worker == nil {
		return nil
	}
	return c.worker.session
}

// binding is a registered trigger as its provider sees it.
type binding struct {
	id, triggerType, functionID, namespace string
	config, metadata                       json.RawMessage
	seq                                    uint64 // order of registration

	observer *observer // that the binding stands for; nil: it is a trigger
}

// triggerProvider serves a trigger type inside the engine. Calls of bind and
// unbind come one at a time and in order; they must return at once and must not
// register anything. bind with an id that is bound already is a registration
// under the same id: what that means is the provider's own business.
type triggerProvider interface {
	bind(ctx context.Context, b binding) error // its text becomes the message of trigger_registration_failed
	unbind(id string)
}

// engineText is an error in the engine's own words, which go onto the wire.
type engineText string

func (t engineText) Error() string { return string(t) }

func errorBody(code, format string, args ...any) *wireError {
	return &wireError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// addBuiltin adds a function to namespace default. owner is the in-process
// worker that listings name; what the engine publishes about the function, its
// schemas above all, is added from the engine's own answers.
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
