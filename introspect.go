package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
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

// FunctionInfo returns the description of one function, with its schemas and triggers. It
// looks in this worker's namespace, then in "default", then in the only namespace that has
// such a function. For an unknown function the error is an [*Error] with code NOT_FOUND. Its
// triggers are those of [Client.Triggers]. On engines since 0.26, listing them takes a second
// call; if this worker may not make that call, the triggers are missing.
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
// NOT_FOUND. On engines since 0.26, types and triggers are those of
// [Client.TriggerTypes] and [Client.Triggers], and are missing if this worker may not list
// them.
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

// infoOf first asks for the item in the given namespace, and then for the item that the engine
// finds without a namespace.
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
// engine::triggers::list with a [TriggerTypeFilter]. Engines since 0.26 do not have
// that function; there the method lists the functions that represent types: those of the engine,
// and those of workers whose observers may have arguments.
func (c *Client) TriggerTypes(ctx context.Context) ([]TriggerTypeSummary, error) {
	if !c.triggersAreObservers() {
		result, err := Call[TriggerTypesListResult](ctx, c, "engine::triggers::list", TriggerTypeFilter{})
		if !c.triggersAreObservers() { // the call may have waited for another engine
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

// observedType is a trigger type and the function that stands for it.
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

// Triggers lists the bound triggers, ordered by id. It does not list triggers that wait for a
// provider of their type. To filter, call engine::registered-triggers::list with a
// [TriggerFilter].
//
// Engines since 0.26 have observers in place of triggers and do not have that function. There
// the method lists the observers that are not in error and whose source has a host. The type
// is the trigger type that the source represents, or else the id of the source, and the config
// is derived from the arguments and filters. For triggers of this client, the type and the
// config are those that the program has registered.
func (c *Client) Triggers(ctx context.Context) ([]TriggerSummary, error) {
	if !c.triggersAreObservers() {
		result, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{})
		if !c.triggersAreObservers() { // the call may have waited for another engine
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

// triggersAreObservers reports whether the engine of the current connection has observers in
// place of triggers.
func (c *Client) triggersAreObservers() bool { return slices.Contains(c.Features(), FeatureObserveV2) }

// observedTrigger is a trigger that is an observer, with the namespace of its function.
type observedTrigger struct {
	TriggerSummary
	namespace string
}

// triggersWhere lists the triggers that keep selects. The list is empty if this worker lacks the
// permission to list triggers.
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

// codeTargetUnavailable is the engine's reason for the state of an observer whose target is
// away.
const codeTargetUnavailable = "TARGET_UNAVAILABLE"

// summaryOf shortens a config as the engine does.
func summaryOf(config JSONValue) string {
	if text := []rune(string(config)); len(text) > 80 {
		return string(text[:80]) + "…"
	}
	return string(config)
}

// Health returns the health of the engine's telemetry. A report with status
// "degraded" is not an error.
func (c *Client) Health(ctx context.Context) (HealthReport, error) {
	return Call[HealthReport](ctx, c, "engine::health::check", EmptyInput{})
}
