package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// workerView describes a worker in listings: a connected worker or an engine component.
type workerView struct {
	w           *worker // nil for a component of the engine
	id, name    string
	namespace   string
	description *string
	version     *string
	runtime     string
	os          *string
	isolation   *string
	ip          *string
	pid         *uint32
	connected   time.Time
	active      int
	functions   int
}

func (v workerView) status() string {
	if v.w != nil {
		return "connected"
	}
	return "available"
}

func (v workerView) summary() map[string]any {
	return map[string]any{
		"name": nullable(v.name), "description": v.description, "version": v.version, "id": v.id,
		"namespace": v.namespace, "runtime": v.runtime, "os": v.os, "status": v.status(),
		"function_count": v.functions, "connected_at_ms": v.connected.UnixMilli(),
		"active_invocations": v.active, "isolation": v.isolation, "ip_address": v.ip,
	}
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// workerViews returns all workers, sorted by name and id. The caller must hold
// Engine.triggers.mu and Engine.mu.
func (e *Engine) workerViews() []workerView {
	inProcess := map[string]*workerView{}
	part := func(name string) *workerView {
		v := inProcess[name]
		if v == nil {
			version, isolation := e.version(), "in-process"
			v = &workerView{
				id: name, name: name, namespace: defaultNamespace, runtime: "engine",
				version: &version, isolation: &isolation, connected: e.started,
				description: nullable(partDescriptions[name]),
			}
			inProcess[name] = v
		}
		return v
	}
	part("iii-worker-manager")
	part("iii-http-functions")
	count := map[*worker]int{}
	for _, f := range e.functions {
		switch {
		case f.owner != nil:
			count[f.owner]++
		case f.has(e.Protocol(), e.cfg.strict):
			part(f.ownerName).functions++
		}
	}
	for _, t := range e.triggers.types {
		if t.owner == nil && t.ownerName != "engine" && t.ownerName != "queue" { // not shown in listings
			part(t.ownerName)
		}
	}
	var views []workerView
	for _, name := range slices.Sorted(maps.Keys(inProcess)) {
		views = append(views, *inProcess[name])
	}
	if e.guardedServer != nil { // each listener is a separate component
		second := *inProcess["iii-worker-manager"]
		second.id += "#1"
		views = append(views, second)
	}
	for _, w := range e.workers {
		m := w.meta
		views = append(views, workerView{
			w: w, id: w.id, name: m.name, namespace: cmp.Or(m.namespace, defaultNamespace),
			description: m.description, version: m.version, runtime: cmp.Or(m.runtime, "unknown"), os: m.os,
			isolation: m.isolation, ip: nullable(w.ip), pid: m.pid, connected: w.connected,
			active: len(w.attached) + w.making, functions: count[w],
		})
	}
	slices.SortFunc(views, func(a, b workerView) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.id, b.id))
	})
	return views
}

var partDescriptions = map[string]string{
	engineWorker:         "Functions about the engine itself",
	bridgeWorker:         "Calls of another engine",
	"iii-http":           "HTTP triggers",
	"iii-http-functions": "Functions invoked over HTTP",
	"iii-worker-manager": "Connections of workers",
	observabilityWorker:  "Telemetry, logs and health",
	"iii-pubsub":         "Publish and subscribe",
	"iii-queue":          "Queues",
	"iii-state":          "Key-value state",
	"iii-stream":         "Streams and their socket",
	"iii-cron":           "Cron triggers",
	"configuration":      "Configuration entries",
}

// listWorkers serves engine::workers::list. It omits connected workers that have not sent
// their process id.
func (e *Engine) listWorkers(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type WorkersListInput struct {
		Search  *string `json:"search"`
		Runtime *string `json:"runtime"`
		Status  *string `json:"status"`
	}
	in, bad := decodeInput[WorkersListInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []map[string]any{}
	search := strings.ToLower(text(in.Search))
	for _, v := range e.workerViews() {
		if v.w != nil && v.pid == nil ||
			!strings.Contains(strings.ToLower(v.name), search) ||
			in.Runtime != nil && *in.Runtime != v.runtime || in.Status != nil && *in.Status != v.status() {
			continue
		}
		list = append(list, v.summary())
	}
	return mustEncode(map[string]any{"workers": list}), nil
}

func (e *Engine) workerInfo(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type WorkerInfoInput struct {
		Name      string  `json:"name"`
		Namespace *string `json:"namespace"`
	}
	in, bad := decodeInput[WorkerInfoInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	v, bad := e.lookUpWorker(in.Name, in.Namespace)
	if bad != nil {
		return nil, bad
	}
	worker := v.summary()
	worker["internal"] = v.w == nil
	if v.pid != nil {
		worker["pid"] = *v.pid
	}
	if latest := e.metrics.ofWorker(v.id); latest != nil {
		worker["latest_metrics"] = latest
	}
	var functions, types, triggers []entry
	for _, f := range e.functions {
		if f.owner == v.w && (v.w != nil || f.ownerName == v.name) && c.worker.has(f) {
			functions = append(functions, entry{id: f.id, namespace: f.namespace, value: f.summary()})
		}
	}
	for _, t := range e.triggers.types {
		if t.owner == v.w && (v.w != nil || t.ownerName == v.name) {
			types = append(types, entry{id: t.key.id, namespace: t.key.namespace, value: t.summary()})
		}
	}
	for _, r := range e.triggers.byID {
		if w, name := e.workerOf(r); !r.parked && w == v.w && name == v.name {
			d := e.describeTrigger(r)
			d["config_summary"] = summarize(r.config)
			triggers = append(triggers, entry{id: r.id, value: d})
		}
	}
	return mustEncode(map[string]any{
		"worker": worker, "functions": values(functions), "trigger_types": values(types), "registered_triggers": values(triggers),
	}), nil
}

// lookUpWorker finds a worker by the same rules as lookUp. The caller must hold
// Engine.triggers.mu and Engine.mu.
func (e *Engine) lookUpWorker(name string, namespace *string) (v workerView, bad *wireError) {
	ns := defaultNamespace // a namespace in the request is used even if blank
	if namespace != nil {
		ns = *namespace
	}
	var elsewhere []string
	for _, other := range e.workerViews() {
		switch {
		case other.name != name:
		case other.namespace == ns:
			return other, nil
		default:
			v, elsewhere = other, append(elsewhere, other.namespace)
		}
	}
	switch {
	case len(elsewhere) == 0:
		return v, errorBody("NOT_FOUND", "Worker '%s' is not connected.", name)
	case len(elsewhere) == 1 && namespace == nil:
		return v, nil
	}
	slices.Sort(elsewhere)
	return v, errorBody("NOT_FOUND", "Worker '%s' is not connected in namespace '%s'. It is connected in namespace(s): %s.",
		name, ns, strings.Join(elsewhere, ", "))
}
