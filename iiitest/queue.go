package iiitest

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
)

const enqueueFunction = "engine::queue::enqueue"

// noQueueProvider is what the engine says when nobody provides a queue.
const noQueueProvider = "No queue provider is installed. `TriggerAction::Enqueue` routes through the `engine::queue::enqueue` provider, " +
	"which the standalone queue worker registers. Add it with `iii worker add queue`. (underlying: %s)"

// enqueue hands a call to the queue provider instead of running it. The caller
// gets a receipt of the engine, whatever the provider returned.
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

// enqueueInput is the input of a queue provider.
type enqueueInput struct {
	Queue       string          `json:"queue"`
	FunctionID  string          `json:"function_id"`
	Data        json.RawMessage `json:"data"`
	Receipt     string          `json:"messageReceiptId"`
	Traceparent *string         `json:"traceparent"`
	Baggage     *string         `json:"baggage"`
	Namespace   *string         `json:"namespace"`
}

// registerQueue provides engine::queue::enqueue: every queue name exists, each
// message is handed to its function once, at once. A failure goes to the log.
func (e *Engine) registerQueue() {
	e.addBuiltin(enqueueFunction, "iii-queue", "Enqueue a call of a function",
		func(_ context.Context, c *call) (json.RawMessage, *wireError) {
			in, bad := decodeInput[enqueueInput](c.functionID, c.data)
			if bad != nil {
				return nil, bad
			}
			ns := defaultNamespace
			if in.Namespace != nil {
				ns = *in.Namespace
			}
			trace := traceContext{traceparent: text(in.Traceparent), baggage: text(in.Baggage)}
			e.spawn(func(ctx context.Context) {
				if _, err := e.invoke(withTrace(ctx, trace), in.FunctionID, ns, in.Data); err != nil {
					e.log.Warn("job failed", "queue", in.Queue, "function", in.FunctionID, "code", err.Code, "error", err.Message)
				}
			})
			return mustEncode(map[string]string{"messageReceiptId": in.Receipt}), nil
		})
}
