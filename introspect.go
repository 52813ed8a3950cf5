package iii

import (
	"context"
	"errors"
)

// codeNotFound is the engine's code for an unknown name.
const codeNotFound = "NOT_FOUND"

// Functions lists the functions of all workers and of the engine that match f and
// that this worker may see. The zero filter leaves out internal functions, among
// them those whose id begins with "engine::". The functions are ordered by id; with
// a search, the best matches come first. The errors of this and the other listing
// methods are those of [Client.Call].
func (c *Client) Functions(ctx context.Context, f FunctionFilter) ([]FunctionSummary, error) {
	result, err := Call[FunctionsListResult](ctx, c, "engine::functions::list", f)
	return result.Functions, err
}

// FunctionInfo returns the description of one function, with its schemas and
// triggers. It looks in this worker's namespace, then in "default", then in the
// only namespace that has such a function. For an unknown function the error is an
// [*Error] with code NOT_FOUND.
func (c *Client) FunctionInfo(ctx context.Context, id string) (FunctionDetail, error) {
	return infoOf[FunctionDetail](ctx, c, "engine::functions::info", c.namespaceOf(id), func(ns string) any {
		return FunctionInfoInput{FunctionID: id, Namespace: ns}
	})
}

// Workers lists the workers that are connected to the engine and the engine's own,
// ordered by name. A worker that has not reported its process id is not listed. To
// filter, call engine::workers::list with a [WorkerFilter].
func (c *Client) Workers(ctx context.Context) ([]WorkerSummary, error) {
	result, err := Call[WorkersListResult](ctx, c, "engine::workers::list", WorkerFilter{})
	return result.Workers, err
}

// WorkerInfo returns the description of one worker: its properties, its latest
// metrics if it has reported any in the last two minutes, and its functions,
// trigger types and triggers. It looks in the same namespaces as
// [Client.FunctionInfo]; for an unknown worker the error is an [*Error] with code
// NOT_FOUND.
func (c *Client) WorkerInfo(ctx context.Context, name string) (WorkerDetail, error) {
	return infoOf[WorkerDetail](ctx, c, "engine::workers::info", c.cfg.namespace, func(ns string) any {
		return WorkerInfoInput{Name: name, Namespace: ns}
	})
}

// infoOf asks for the item in a namespace first, and then for the item that the
// engine finds without one.
func infoOf[T any](ctx context.Context, c *Client, functionID, namespace string, input func(namespace string) any) (T, error) {
	info, err := Call[T](ctx, c, functionID, input(namespace))
	var e *Error
	if namespace != "" && errors.As(err, &e) && e.Code == codeNotFound {
		info, err = Call[T](ctx, c, functionID, input(""))
	}
	return info, err
}

// TriggerTypes lists the trigger types that the engine and the workers provide,
// except those whose id begins with "engine::". To filter, call
// engine::triggers::list with a [TriggerTypeFilter].
func (c *Client) TriggerTypes(ctx context.Context) ([]TriggerTypeSummary, error) {
	result, err := Call[TriggerTypesListResult](ctx, c, "engine::triggers::list", TriggerTypeFilter{})
	return result.Triggers, err
}

// Triggers lists the bound triggers. It does not list triggers that wait for a
// provider of their type. To filter, call engine::registered-triggers::list with a
// [TriggerFilter].
func (c *Client) Triggers(ctx context.Context) ([]TriggerSummary, error) {
	result, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{})
	return result.RegisteredTriggers, err
}

// Health returns the health of the engine's telemetry. A report with status
// "degraded" is not an error.
func (c *Client) Health(ctx context.Context) (HealthReport, error) {
	return Call[HealthReport](ctx, c, "engine::health::check", EmptyInput{})
}
