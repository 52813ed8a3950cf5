package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// codeNotFound is the engine's error code for an unknown name.
const codeNotFound = "NOT_FOUND"

// Functions lists the functions that match f and are visible to this worker, including other
// workers' functions and the engine's own. The zero filter excludes internal functions,
// including those whose id begins with "engine::". The result is sorted by id, or by relevance
// if f.Search is set. All listing methods return the same errors as [Client.Call].
func (c *Client) Functions(ctx context.Context, f FunctionFilter) ([]FunctionSummary, error) {
	result, err := Call[FunctionsListResult](ctx, c, "engine::functions::list", f)
	return result.Functions, err
}

// FunctionInfo returns a function's description, including its schemas and triggers. It looks
// for the function in this worker's namespace, then in "default", and then in the other
// namespaces if exactly one of them contains a function with this id. If the function is
// unknown, the error is an [*Error] with code NOT_FOUND.
//
// The triggers are the same as those listed by [Client.Triggers]. On engine 0.26 and later,
// listing them takes a second call; if this worker lacks permission for that call, the
// triggers are omitted.
func (c *Client) FunctionInfo(ctx context.Context, id string) (FunctionDetail, error) {
	info, err := infoOf[FunctionDetail](ctx, c, "engine::functions::info", c.namespaceOf(id), func(ns string) any {
		return FunctionInfoInput{FunctionID: id, Namespace: ns}
	})
	if err != nil || !c.triggersAreObservers() {
		return info, err
	}
	bound, err := c.triggersWhere(ctx, func(t observedTrigger) bool {
		return t.FunctionID == info.FunctionID && t.namespace == info.Namespace
	})
	for _, t := range bound {
		info.RegisteredTriggers = append(info.RegisteredTriggers, FunctionTrigger{ID: t.ID, TriggerType: t.TriggerType, Config: t.Config})
	}
	return info, err
}

// Workers lists the workers connected to the engine and the engine's own workers, sorted by
// name. A worker that has not reported its process id is not listed. To filter the list, call
// engine::workers::list with a [WorkerFilter].
func (c *Client) Workers(ctx context.Context) ([]WorkerSummary, error) {
	result, err := Call[WorkersListResult](ctx, c, "engine::workers::list", WorkerFilter{})
	return result.Workers, err
}

// WorkerInfo returns a worker's description: its properties, functions, trigger types and
// triggers, and the latest metrics that it reported within the last two minutes, if any.
// WorkerInfo looks in the same namespaces as [Client.FunctionInfo]. If the worker is unknown,
// the error is an [*Error] with code NOT_FOUND.
//
// On engine 0.26 and later, the trigger types and triggers are those listed by
// [Client.TriggerTypes] and [Client.Triggers]. They are omitted if this worker lacks
// permission to list them.
func (c *Client) WorkerInfo(ctx context.Context, name string) (WorkerDetail, error) {
	info, err := infoOf[WorkerDetail](ctx, c, "engine::workers::info", c.cfg.namespace, func(ns string) any {
		return WorkerInfoInput{Name: name, Namespace: ns}
	})
	if err != nil || !c.triggersAreObservers() {
		return info, err
	}
	has := map[[2]string]bool{}
	for _, f := range info.Functions {
		has[[2]string{f.Namespace, f.FunctionID}] = true
	}
	bound, err := c.triggersWhere(ctx, func(t observedTrigger) bool { return has[[2]string{t.namespace, t.FunctionID}] })
	if err != nil {
		return info, err
	}
	for _, t := range bound {
		info.RegisteredTriggers = append(info.RegisteredTriggers, t.TriggerSummary)
	}
	types, err := c.observedTypes(ctx)
	for _, t := range types {
		if t.WorkerName == name && has[[2]string{t.Namespace, t.function}] {
			info.TriggerTypes = append(info.TriggerTypes, t.TriggerTypeSummary)
		}
	}
	return info, unlessForbidden(err)
}

// infoOf looks up a function or a worker in the given namespace. If it is not found there,
// infoOf repeats the request without a namespace, so that the engine chooses one.
func infoOf[T any](ctx context.Context, c *Client, functionID, namespace string, input func(namespace string) any) (T, error) {
	info, err := Call[T](ctx, c, functionID, input(namespace))
	var e *Error
	if namespace != "" && errors.As(err, &e) && e.Code == codeNotFound {
		info, err = Call[T](ctx, c, functionID, input(""))
	}
	return info, err
}

// TriggerTypes lists the trigger types provided by the engine and by workers, except those
// whose id begins with "engine::". To filter the list, call engine::triggers::list with a
// [TriggerTypeFilter].
//
// On engine 0.26 and later, engine::triggers::list does not exist. On these engines,
// TriggerTypes lists the functions that represent trigger types: the functions that replace
// the standard trigger types, and all other functions whose observers can pass arguments.
func (c *Client) TriggerTypes(ctx context.Context) ([]TriggerTypeSummary, error) {
	if !c.triggersAreObservers() {
		result, err := Call[TriggerTypesListResult](ctx, c, "engine::triggers::list", TriggerTypeFilter{})
		if !c.triggersAreObservers() { // the client may have reconnected to a different engine during the call
			return result.Triggers, err
		}
	}
	types, err := c.observedTypes(ctx)
	list := make([]TriggerTypeSummary, len(types))
	for i, t := range types {
		list[i] = t.TriggerTypeSummary
	}
	return list, err
}

// observedType is a trigger type together with the function that represents it.
type observedType struct {
	TriggerTypeSummary
	function string
}

func (c *Client) observedTypes(ctx context.Context) (list []observedType, err error) {
	functions, err := c.Functions(ctx, FunctionFilter{IncludeInternal: true})
	for _, f := range functions {
		id, _ := triggerOf(&ObserveSource{FunctionID: f.FunctionID, Namespace: f.Namespace})
		if strings.HasPrefix(id, "engine::") || id == f.FunctionID && f.ArgsFormat == nil {
			continue
		}
		t := observedType{TriggerTypeSummary{ID: id, Namespace: f.Namespace, WorkerName: f.WorkerName}, f.FunctionID}
		if f.Description != nil {
			t.Description = *f.Description
		}
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b observedType) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Namespace, b.Namespace))
	})
	return list, err
}

// Triggers lists the bound triggers, sorted by id. It does not list triggers whose type has no
// provider. To filter the list, call engine::registered-triggers::list with a [TriggerFilter].
//
// On engine 0.26 and later, observers replace triggers, and engine::registered-triggers::list
// does not exist. On these engines, Triggers lists the observers whose source function is
// registered, except those in the error state. The type of a listed trigger is the trigger
// type that its source represents, or else the source's id. The config is derived from the
// observer's arguments and filters. This client's triggers are listed with the type and the
// config with which they were registered.
func (c *Client) Triggers(ctx context.Context) ([]TriggerSummary, error) {
	if !c.triggersAreObservers() {
		result, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{})
		if !c.triggersAreObservers() { // the client may have reconnected to a different engine during the call
			return result.RegisteredTriggers, err
		}
	}
	bound, err := c.observedTriggers(ctx)
	list := make([]TriggerSummary, len(bound))
	for i, t := range bound {
		list[i] = t.TriggerSummary
	}
	return list, err
}

// triggersAreObservers reports whether the connected engine implements triggers as observers.
func (c *Client) triggersAreObservers() bool { return slices.Contains(c.Features(), FeatureObserveV2) }

// observedTrigger is a trigger that the engine implements as an observer. namespace is that of
// the function that the trigger calls.
type observedTrigger struct {
	TriggerSummary
	namespace string
}

// triggersWhere lists the triggers for which keep returns true. The list is empty if this
// worker lacks permission to list triggers.
func (c *Client) triggersWhere(ctx context.Context, keep func(observedTrigger) bool) ([]observedTrigger, error) {
	list, err := c.observedTriggers(ctx)
	return slices.DeleteFunc(list, func(t observedTrigger) bool { return !keep(t) }), unlessForbidden(err)
}

func unlessForbidden(err error) error {
	if errors.Is(err, ErrForbidden) {
		return nil
	}
	return err
}

// observedTriggers lists the observers as triggers.
func (c *Client) observedTriggers(ctx context.Context) (list []observedTrigger, err error) {
	result, err := Call[struct {
		Observers []json.RawMessage `json:"observers"`
	}](ctx, c, "engine::observers::list", EmptyInput{})
	if err != nil {
		return nil, err
	}
	for _, raw := range result.Observers {
		var o ObserverInfo
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, &callError{verb: verbCall, functionID: "engine::observers::list", err: err, sent: true}
		}
		unbound := o.Reason == nil || o.Reason.Code != codeTargetUnavailable
		if o.State == ObserverStateError || o.State == ObserverStateDisposed || o.State == ObserverStatePending && unbound {
			continue
		}
		t := observedTrigger{TriggerSummary{ID: o.ID, FunctionID: o.Target.FunctionID, WorkerName: textMember(raw, "worker_name")},
			cmp.Or(o.Target.Namespace, defaultNamespace)}
		var config any
		t.TriggerType, config = triggerOf(&o.Source)
		if own, ok := c.registry.triggerSpecOf(o.ID); ok {
			t.ID, t.FunctionID, t.TriggerType, config = own.id, own.functionID, own.triggerType, own.config
			t.WorkerName, t.namespace = c.name, cmp.Or(own.namespace, defaultNamespace)
		}
		if t.WorkerName == "" {
			t.WorkerName, _, _ = strings.Cut(t.FunctionID, "::")
		}
		if t.Config, err = rawOf(config); err != nil {
			return nil, err
		}
		t.ConfigSummary = summaryOf(t.Config)
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b observedTrigger) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// codeTargetUnavailable is the engine's reason code for an observer whose target is not
// registered.
const codeTargetUnavailable = "TARGET_UNAVAILABLE"

// summaryOf shortens a config as the engine does.
func summaryOf(config JSONValue) string {
	if text := []rune(string(config)); len(text) > 80 {
		return string(text[:80]) + "…"
	}
	return string(config)
}

// Health returns a report on the health of the engine's telemetry. A report with status
// "degraded" is not an error.
func (c *Client) Health(ctx context.Context) (HealthReport, error) {
	return Call[HealthReport](ctx, c, "engine::health::check", EmptyInput{})
}
