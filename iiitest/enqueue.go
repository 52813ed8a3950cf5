package iiitest

import (
	"context"

	"github.com/google/uuid"
)

const enqueueFunction = "engine::queue::enqueue"

// noQueueProvider is the engine's error message when there is no queue provider.
const noQueueProvider = "No queue provider is installed. `TriggerAction::Enqueue` routes through the `engine::queue::enqueue` provider, " +
	"which the standalone queue worker registers. Add it with `iii worker add queue`. (underlying: %s)"

// enqueue passes a call to the queue provider instead of running it. The receipt in the result
// comes from the engine, whatever the provider returns.
func (e *Engine) enqueue(ctx context.Context, queue string, r request) outcome {
	receipt := uuid.NewString()
	input := map[string]any{
		"queue": queue, "function_id": r.functionID, "data": r.data, "messageReceiptId": receipt,
		"traceparent": nil, "baggage": functionBaggage + "=" + r.functionID,
	}
	if r.trace.traceparent != "" {
		input["traceparent"] = r.trace.traceparent
	}
	if r.trace.baggage != "" {
		input["baggage"] = r.trace.baggage
	}
	if r.namespace != defaultNamespace {
		input["namespace"] = r.namespace
	}
	ctx, span := e.startSpan(withTrace(ctx, r.trace), "enqueue "+r.functionID+" → "+queue)
	trace := traceOf(ctx)
	trace.baggage, _ = input["baggage"].(string)
	_, err := e.invoke(withTrace(ctx, trace), enqueueFunction, defaultNamespace, mustEncode(input))
	span.end(err)
	switch {
	case err == nil:
		return outcome{result: mustEncode(map[string]string{"messageReceiptId": receipt})}
	case err.Code == "function_not_found" && !e.exists(enqueueFunction):
		return outcome{err: errorBody("enqueue_error", noQueueProvider, err.Message)}
	default:
		return outcome{err: errorBody("enqueue_error", "%s: %s", err.Code, err.Message)}
	}
}

func (e *Engine) exists(functionID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.functions[key{defaultNamespace, functionID}] != nil
}
