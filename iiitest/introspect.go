package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
)

func (e *Engine) registerIntrospection() {
	add := func(id, description string, f builtinFunc) { e.addBuiltin(id, engineWorker, description, f) }
	add("engine::functions::list", "List functions", e.listFunctions)
	add("engine::functions::info", "Describe functions", e.functionInfo)
	add("engine::triggers::list", "List trigger types", e.listTriggerTypes)
	add("engine::triggers::info", "Describe a trigger type", e.triggerTypeInfo)
	add("engine::registered-triggers::list", "List registered triggers", e.listTriggers)
	add("engine::registered-triggers::info", "Describe a registered trigger", e.triggerInfo)
	add("engine::workers::list", "List workers", e.listWorkers)
	add("engine::workers::info", "Describe a worker", e.workerInfo)
}

// listFilter contains the parameters shared by all list functions.
type listFilter struct {
	search, prefix, worker *string
	workers                *[]string
}

// rank returns how well an entry matches the search: 0 if id starts with it, 1 if id contains
// it, 2 if only description contains it, and -1 if neither does.
func (f listFilter) rank(id, description string) int {
	search := strings.ToLower(text(f.search))
	id = strings.ToLower(id)
	switch {
	case strings.HasPrefix(id, search):
		return 0
	case strings.Contains(id, search):
		return 1
	case strings.Contains(strings.ToLower(description), search):
		return 2
	}
	return -1
}

// wants reports whether an entry passes the prefix and worker filters.
func (f listFilter) wants(id, worker string) bool {
	return strings.HasPrefix(id, text(f.prefix)) &&
		(f.worker == nil || *f.worker == worker) &&
		(f.workers == nil || len(*f.workers) == 0 || slices.Contains(*f.workers, worker))
}

// set reports whether an optional boolean is present and true.
func set(option *bool) bool { return option != nil && *option }

type entry struct {
	rank      int
	id        string
	namespace string
	value     map[string]any
}

// values returns the values of entries, sorted by rank, id and namespace.
func values(entries []entry) []map[string]any {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.id, b.id), strings.Compare(a.namespace, b.namespace))
	})
	list := make([]map[string]any, len(entries))
	for i, x := range entries {
		list[i] = x.value
	}
	return list
}

// internal reports whether lists omit the function by default.
func (f *function) internal() bool {
	if strings.HasPrefix(f.id, reservedPrefix) && !strings.HasPrefix(f.id, "engine::queue::") {
		return true
	}
	var m struct {
		Internal any `json:"internal"`
	}
	return json.Unmarshal(f.metadata, &m) == nil && m.Internal == true
}

// summary returns the list entry for a function. The caller must hold Engine.mu.
func (f *function) summary() map[string]any {
	s := map[string]any{"function_id": f.id, "namespace": f.namespace, "worker_name": f.workerName()}
	if f.description != nil {
		s["description"] = *f.description
	}
	if f.metadata != nil {
		s["metadata"] = f.metadata
	}
	return s
}

// observedSummary adds to d the fields that are sent only to connections that support
// observers. The caller must hold Engine.mu.
func (e *Engine) observedSummary(f *function, w *worker, d map[string]any) map[string]any {
	if w == nil || !w.speaks().observes {
		return d
	}
	if f.args != nil {
		d["args_format"] = f.args.text
	}
	d["private"], d["observable"] = f.private, !f.unobservable
	count, _ := e.observers.watched.Load(key{f.namespace, f.id})
	d["observer_count"], _ = count.(int)
	return d
}

// detail returns a function's summary together with its schemas and triggers. The caller must
// hold Engine.triggers.mu and Engine.mu.
func (e *Engine) detail(f *function) map[string]any {
	d := f.summary()
	if f.request != nil {
		d["request_schema"] = f.request
	}
	if f.response != nil {
		d["response_schema"] = f.response
	}
	triggers := []map[string]any{}
	for _, r := range e.triggers.inOrder() {
		if !r.parked && r.functionID == f.id && r.namespace == f.namespace {
			triggers = append(triggers, map[string]any{"id": r.id, "trigger_type": r.triggerType, "config": r.config})
		}
	}
	d["registered_triggers"] = triggers
	return d
}

// functionSummaries lists the functions that keep accepts, sorted by id.
func (e *Engine) functionSummaries(keep func(*function) bool) []map[string]any {
	e.mu.Lock()
	defer e.mu.Unlock()
	var entries []entry
	for _, f := range e.functions {
		if keep(f) {
			entries = append(entries, entry{id: f.id, namespace: f.namespace, value: f.summary()})
		}
	}
	return values(entries)
}

func (e *Engine) listFunctions(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type FunctionsListInput struct {
		Search          *string   `json:"search"`
		Prefix          *string   `json:"prefix"`
		Worker          *string   `json:"worker"`
		Workers         *[]string `json:"workers"`
		IncludeInternal *bool     `json:"include_internal"`
	}
	in, bad := decodeInput[FunctionsListInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	filter := listFilter{in.Search, in.Prefix, in.Worker, in.Workers}
	p := c.permissions()
	e.mu.Lock()
	defer e.mu.Unlock()
	var entries []entry
	for _, f := range e.functions {
		rank := filter.rank(f.id, text(f.description))
		if rank >= 0 && c.worker.has(f) && p.denialLocked(f.namespace, f.id) == nil && filter.wants(f.id, f.workerName()) && (set(in.IncludeInternal) || !f.internal()) {
			entries = append(entries, entry{rank, f.id, f.namespace, e.observedSummary(f, c.worker, f.summary())})
		}
	}
	return mustEncode(map[string]any{"functions": values(entries)}), nil
}

// maxInfoIDs is the maximum number of ids in a request for details.
const maxInfoIDs = 32

func (e *Engine) functionInfo(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type FunctionInfoInput struct {
		FunctionID  *string   `json:"function_id"`
		FunctionIDs *[]string `json:"function_ids"`
		Namespace   *string   `json:"namespace"`
	}
	in, bad := decodeInput[FunctionInfoInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	if (in.FunctionID == nil) == (in.FunctionIDs == nil) {
		return nil, errorBody("INVALID_ARGUMENTS", "pass either function_id or function_ids")
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	p := c.permissions()
	if in.FunctionID != nil {
		f, bad := e.lookUp(c.worker, *in.FunctionID, in.Namespace)
		if bad == nil {
			bad = p.denialLocked(f.namespace, f.id)
		}
		if bad != nil {
			return nil, bad
		}
		return mustEncode(e.observedSummary(f, c.worker, e.detail(f))), nil
	}
	var ids []string
	for _, id := range *in.FunctionIDs {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) == 0:
		return nil, errorBody("INVALID_ARGUMENTS", "function_ids must be a non-empty array of function ids")
	case len(ids) > maxInfoIDs:
		return nil, errorBody("INVALID_ARGUMENTS", "too many function_ids (max %d)", maxInfoIDs)
	}
	list := make([]map[string]any, len(ids))
	for i, id := range ids {
		switch f, bad := e.lookUp(c.worker, id, in.Namespace); {
		case bad != nil:
			list[i] = map[string]any{"function_id": id, "error": "not_found"}
		case p.denialLocked(f.namespace, f.id) != nil:
			list[i] = map[string]any{"function_id": id, "error": "forbidden"}
		default:
			list[i] = e.observedSummary(f, c.worker, e.detail(f))
		}
	}
	return mustEncode(map[string]any{"functions": list}), nil
}

// lookUp finds the function for an info request. Without a namespace, it searches the default
// namespace first. If the function is not there, lookUp accepts a function in another
// namespace, provided that the id is unique. The caller must hold Engine.mu.
func (e *Engine) lookUp(w *worker, id string, namespace *string) (*function, *wireError) {
	ns, bad := namespaceOf("namespace", namespace, defaultNamespace)
	if bad != nil {
		return nil, bad
	}
	if f := e.functions[key{ns, id}]; f != nil && w.has(f) {
		return f, nil
	}
	var elsewhere []string
	var only *function
	for k, f := range e.functions {
		if k.id == id && w.has(f) {
			elsewhere, only = append(elsewhere, k.namespace), f
		}
	}
	switch {
	case len(elsewhere) == 0:
		return nil, errorBody("NOT_FOUND", "Function '%s' is not registered.", id)
	case len(elsewhere) == 1 && namespace == nil:
		return only, nil
	}
	slices.Sort(elsewhere)
	return nil, errorBody("NOT_FOUND", "Function '%s' is not registered in namespace '%s'. It is registered in namespace(s): %s.",
		id, ns, strings.Join(elsewhere, ", "))
}

// workerName returns the name of the in-process or connected worker that provides t. The
// caller must hold Engine.mu.
func (t *triggerType) workerName() string {
	name := t.ownerName
	if t.owner != nil {
		name = t.owner.meta.name
	}
	if name == "" {
		name, _, _ = strings.Cut(t.key.id, "::")
	}
	return name
}

func (t *triggerType) summary() map[string]any {
	return map[string]any{
		"id": t.key.id, "namespace": t.key.namespace,
		"worker_name": t.workerName(), "description": t.description,
	}
}

// typeDetail returns a trigger type's summary together with its schemas. The caller must hold
// Engine.triggers.mu and Engine.mu.
func (e *Engine) typeDetail(t *triggerType) map[string]any {
	d := t.summary()
	for k, schema := range map[string]json.RawMessage{
		"configuration_schema": t.config, "request_schema": t.request, "response_schema": t.response,
	} {
		if schema != nil {
			d[k] = schema
		}
	}
	instances := 0 // in all namespaces
	for _, r := range e.triggers.byID {
		if !r.parked && r.triggerType == t.key.id {
			instances++
		}
	}
	d["instance_count"] = instances
	return d
}

func (e *Engine) listTriggerTypes(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type TriggersListInput struct {
		Search          *string `json:"search"`
		Prefix          *string `json:"prefix"`
		Worker          *string `json:"worker"`
		IncludeInternal *bool   `json:"include_internal"`
	}
	in, bad := decodeInput[TriggersListInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	filter := listFilter{search: in.Search, prefix: in.Prefix, worker: in.Worker}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	var entries []entry
	for _, t := range e.triggers.types {
		rank := filter.rank(t.key.id, t.description)
		if rank >= 0 && filter.wants(t.key.id, t.workerName()) && (set(in.IncludeInternal) || !strings.HasPrefix(t.key.id, reservedPrefix)) {
			entries = append(entries, entry{rank, t.key.id, t.key.namespace, t.summary()})
		}
	}
	return mustEncode(map[string]any{"triggers": values(entries)}), nil
}

func (e *Engine) triggerTypeInfo(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type TriggerInfoInput struct {
		ID        string  `json:"id"`
		Namespace *string `json:"namespace"`
	}
	in, bad := decodeInput[TriggerInfoInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	ns := defaultNamespace // a namespace in the request is used even if blank
	if in.Namespace != nil {
		ns = *in.Namespace
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.triggers.types[key{ns, in.ID}]
	if t == nil {
		return nil, errorBody("NOT_FOUND", "Trigger type '%s' is not registered in namespace '%s'.", in.ID, ns)
	}
	return mustEncode(e.typeDetail(t)), nil
}

// workerOf returns a trigger's worker and that worker's name. A named worker that registered
// the trigger takes precedence over the owner of the trigger's function. w is nil if the owner
// is part of the engine or does not exist. The caller must hold Engine.mu.
func (e *Engine) workerOf(r *registration) (w *worker, name string) {
	name, _, _ = strings.Cut(r.functionID, "::")
	if f := e.functions[key{r.namespace, r.functionID}]; f != nil {
		w, name = f.owner, f.workerName()
	}
	if r.origin != nil && r.origin.meta.name != "" {
		w, name = r.origin, r.origin.meta.name
	}
	return w, name
}

// describeTrigger returns the list entry for a trigger, without config_summary. The caller
// must hold Engine.mu.
func (e *Engine) describeTrigger(r *registration) map[string]any {
	_, worker := e.workerOf(r)
	return map[string]any{
		"id": r.id, "trigger_type": r.triggerType, "function_id": r.functionID,
		"worker_name": worker, "config": r.config,
	}
}

func (e *Engine) listTriggers(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type RegisteredTriggersListInput struct {
		Search          *string `json:"search"`
		TriggerType     *string `json:"trigger_type"`
		FunctionID      *string `json:"function_id"`
		Worker          *string `json:"worker"`
		IncludeInternal *bool   `json:"include_internal"`
	}
	in, bad := decodeInput[RegisteredTriggersListInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	filter := listFilter{search: in.Search, worker: in.Worker}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	var entries []entry
	for _, r := range e.triggers.byID {
		_, worker := e.workerOf(r)
		if r.parked || filter.rank(r.id, r.functionID) < 0 || !filter.wants(r.id, worker) ||
			in.TriggerType != nil && *in.TriggerType != r.triggerType ||
			in.FunctionID != nil && *in.FunctionID != r.functionID {
			continue
		}
		d := e.describeTrigger(r)
		d["config_summary"] = summarize(r.config)
		entries = append(entries, entry{filter.rank(r.id, r.functionID), r.id, r.namespace, d})
	}
	return mustEncode(map[string]any{"registered_triggers": values(entries)}), nil
}

// summaryLength is the number of characters to which lists truncate a config.
const summaryLength = 80

func summarize(config json.RawMessage) string {
	if runes := []rune(string(config)); len(runes) > summaryLength {
		return string(runes[:summaryLength]) + "…"
	}
	return string(config)
}

func (e *Engine) triggerInfo(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type RegisteredTriggerInfoInput struct {
		ID string `json:"id"`
	}
	in, bad := decodeInput[RegisteredTriggerInfoInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.triggers.byID[in.ID]
	if r == nil || r.parked {
		return nil, errorBody("NOT_FOUND", "Registered trigger '%s' was not found.", in.ID)
	}
	d := e.describeTrigger(r)
	if r.metadata != nil {
		d["metadata"] = r.metadata
	}
	d["trigger"], d["function"] = nil, nil
	if t := e.triggers.types[r.at]; t != nil {
		d["trigger"] = e.typeDetail(t)
	}
	if f := e.functions[key{r.namespace, r.functionID}]; f != nil {
		d["function"] = e.detail(f)
	}
	return mustEncode(d), nil
}
