package iiitest

import (
	"context"
	"encoding/json"
	"fmt"
)

// wireError is the error of an invocation as it stands on the wire; it becomes
// an alias of iii.ErrorBody.
type wireError struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	Stacktrace string `json:"stacktrace,omitempty"`
}

// builtinFunc is a function of the engine itself. A nil result without an error
// is "no result": the key is left out of the reply. json.RawMessage("null") is
// a JSON null.
type builtinFunc func(ctx context.Context, c *call) (json.RawMessage, *wireError)

// call is one invocation of a built-in function.
type call struct {
	worker      *worker // nil: the engine itself calls
	functionID  string
	data        json.RawMessage
	metadata    json.RawMessage
	traceparent string
	baggage     string
}

// worker is one connection.
type worker struct{}

// binding is a registered trigger as its provider sees it.
type binding struct {
	id, triggerType, functionID, namespace string
	config, metadata                       json.RawMessage
	seq                                    uint64 // order of registration
}

// triggerProvider serves a trigger type inside the engine. Calls of bind and
// unbind come one at a time and in order; they must return at once and must not
// register anything. bind with an id that is bound already is a registration
// under the same id: what that means is the provider's own business.
type triggerProvider interface {
	bind(ctx context.Context, b binding) error // its text becomes the message of trigger_registration_failed
	unbind(id string)
}

// addBuiltin adds a function to namespace default; owner is the in-process
// worker that the listings name.
func (e *Engine) addBuiltin(id, owner, description string, f builtinFunc) {}

// addTriggerType adds a trigger type to namespace default.
func (e *Engine) addTriggerType(id, owner, description string, p triggerProvider) {}

// fire calls the target of b in the namespace of b, with its metadata, and waits for the result.
func (e *Engine) fire(ctx context.Context, b binding, payload json.RawMessage) (json.RawMessage, *wireError) {
	return e.invoke(ctx, b.functionID, b.namespace, payload)
}

// condition asks a condition function: only a result of exactly false says no.
func (e *Engine) condition(ctx context.Context, functionID, namespace string, payload json.RawMessage) (run bool, err *wireError) {
	result, err := e.invoke(ctx, functionID, namespace, payload)
	if err != nil {
		return false, err
	}
	return string(result) != "false", nil
}

// invoke is a call made by the engine; it carries the trace context of ctx (see childTrace).
func (e *Engine) invoke(ctx context.Context, functionID, namespace string, payload json.RawMessage) (json.RawMessage, *wireError) {
	return nil, errorBody("function_not_found", "Function %s not found in namespace %s", functionID, namespace)
}

// childTrace gives ctx a new span of the engine: in the trace that ctx carries,
// else in a new trace. What is fired under it has its traceparent.
func childTrace(ctx context.Context) context.Context { return ctx }

func errorBody(code, format string, args ...any) *wireError {
	return &wireError{Code: code, Message: fmt.Sprintf(format, args...)}
}
