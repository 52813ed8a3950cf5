package iii

import (
	"context"
	"errors"
)

// codeNotFound is the engine's code for a name that it does not know.
const codeNotFound = "NOT_FOUND"

// Functions lists the functions of all workers and of the engine that f matches
// and that this worker may see. The zero filter leaves out internal functions,
// among them those whose id begins with "engine::". They come ordered by id;
// with a search the best matches first. Errors, here and of the other listings,
// are those of [Client.Call].
func (c *Client) Functions(ctx context.Context, f FunctionFilter) ([]FunctionSummary, error) {
	result, err := Call[FunctionsListResult](ctx, c, "engine::functions::list", f)
	return result.Functions, err
}

// FunctionInfo describes one function, with its schemas and triggers. It is looked
// for in this worker's namespace, then in "default", then in the only namespace
// that has it. An unknown one is an [*Error] with code NOT_FOUND.
func (c *Client) FunctionInfo(ctx context.Context, id string) (FunctionDetail, error) {
	return infoOf[FunctionDetail](ctx, c, "engine::functions::info", c.namespaceOf(id), func(ns string) any {
		return FunctionInfoInput{FunctionID: id, Namespace: ns}
	})
}

// Workers lists the workers of the engine, its own included, by name. A worker
// that has not told its process id is not listed. To filter, call
// engine::workers::list with a [WorkerFilter].
func (c *Client) Workers(ctx context.Context) ([]WorkerSummary, error) {
	result, err := Call[WorkersListResult](ctx, c, "engine::workers::list", WorkerFilter{})
	return result.Workers, err
}

// WorkerInfo describes one worker: what it is, its latest metrics if it has
// reported any in the last two minutes, its functions, trigger types and triggers.
// It is looked for as [Client.FunctionInfo] looks; an unknown one is an [*Error]
// with code NOT_FOUND.
func (c *Client) WorkerInfo(ctx context.Context, name string) (WorkerDetail, error) {
	return infoOf[WorkerDetail](ctx, c, "engine::workers::info", c.cfg.namespace, func(ns string) any {
		return WorkerInfoInput{Name: name, Namespace: ns}
	})
}

// infoOf asks for what is in a namespace, and then for what the engine finds
// without one.
func infoOf[T any](ctx context.Context, c *Client, functionID, namespace string, input func(namespace string) any) (T, error) {
	info, err := Call[T](ctx, c, functionID, input(namespace))
	var e *Error
	if namespace != "" && errors.As(err, &e) && e.Code == codeNotFound {
		info, err = Call[T](ctx, c, functionID, input(""))
	}
	return info, err
}

// TriggerTypes lists the trigger types that the engine and the workers provide,
// but for those whose id begins with "engine::". To filter, call
// engine::triggers::list with a [TriggerTypeFilter].
func (c *Client) TriggerTypes(ctx context.Context) ([]TriggerTypeSummary, error) {
	result, err := Call[TriggerTypesListResult](ctx, c, "engine::triggers::list", TriggerTypeFilter{})
	return result.Triggers, err
}

// Triggers lists the triggers that are bound. Those that wait for a provider of
// their type are not listed. To filter, call engine::registered-triggers::list with
// a [TriggerFilter].
func (c *Client) Triggers(ctx context.Context) ([]TriggerSummary, error) {
	result, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{})
	return result.RegisteredTriggers, err
}

// Health asks the engine how its telemetry does. An answer with status "degraded"
// is no error.
func (c *Client) Health(ctx context.Context) (HealthReport, error) {
	return Call[HealthReport](ctx, c, "engine::health::check", EmptyInput{})
}
