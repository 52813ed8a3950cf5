package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
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
// that has it. An unknown one is an [*Error] with code NOT_FOUND. Triggers are those of
// [Client.Triggers]; on engines since 0.26 they take a second call, and are left out if this
// worker may not make it.
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
// with code NOT_FOUND. On engines since 0.26 types and triggers are those of
// [Client.TriggerTypes] and [Client.Triggers], and are left out if this worker may not list
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
// engine::triggers::list with a [TriggerTypeFilter]. On engines since 0.26, which lack that
// function, they are made of the functions that stand for types: those of the engine, and
// those of workers whose observers may have arguments.
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

// Triggers lists the triggers that are bound, by id. Those that wait for a provider of
// their type are not listed. To filter, call engine::registered-triggers::list with
// a [TriggerFilter].
//
// On engines since 0.26, which have observers in place of triggers and lack that function, it
// lists the observers that are not in error and whose function has a host. The type is the one
// that the observed function stands for, or else the id of that function, and the config is
// made of the observer's arguments and filters; those of this client's own triggers are what
// the program has registered.
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

// triggersAreObservers reports whether the engine of the present connection has observers in
// place of triggers.
func (c *Client) triggersAreObservers() bool { return slices.Contains(c.Features(), FeatureObserveV2) }

// observedTrigger is a trigger that is an observer, and the namespace of its function.
type observedTrigger struct {
	TriggerSummary
	namespace string
}

// triggersWhere lists the triggers that keep wants. It lists none if this worker may not know them.
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

// codeTargetUnavailable is the engine's reason for an observer whose target is away.
const codeTargetUnavailable = "TARGET_UNAVAILABLE"

// summaryOf shortens a config as the engine does.
func summaryOf(config JSONValue) string {
	if text := []rune(string(config)); len(text) > 80 {
		return string(text[:80]) + "…"
	}
	return string(config)
}

// Health asks the engine how its telemetry does. An answer with status "degraded"
// is no error.
func (c *Client) Health(ctx context.Context) (HealthReport, error) {
	return Call[HealthReport](ctx, c, "engine::health::check", EmptyInput{})
}
