package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/cronexpr"
)

// registerObservers adds the engine's sources and the functions that list and describe
// observers. A source is a private function that the engine calls once for each event. The
// event is both the function's input and its result. Sources share their implementations with
// the trigger types.
func (e *Engine) registerObservers() {
	e.addBuiltin("engine::observers::list", engineWorker, "List observers", e.listObservers)
	e.addBuiltin("engine::observers::get", engineWorker, "Describe an observer", e.observerInfo)
	for _, id := range []string{"engine::observers::list", "engine::observers::get"} {
		e.functions[key{defaultNamespace, id}].since = Protocol025
	}
	for _, id := range []string{
		"engine::register_trigger", "engine::unregister_trigger", "engine::triggers::list", "engine::triggers::info",
		"engine::registered-triggers::list", "engine::registered-triggers::info",
	} {
		e.functions[key{defaultNamespace, id}].until = Protocol025
	}
	e.addSource("http::on-request", "iii-http", "One call per request", httpArgs, &e.routes)
	e.addSource(cronTick, "iii-cron", "One call per tick of an expression", cronArgs, e.cron)
	e.addSource("queue::on-message", queueWorker, "One call per message", queueArgs, e.queues)
	e.addSource("state::on-changed", "iii-state", "One call per change", "", nil)
	e.addSource("stream::on-changed", "iii-stream", "One call per change", "", nil)
	e.addSource("stream::on-join", "iii-stream", "One call per subscription", "", nil)
	e.addSource("stream::on-leave", "iii-stream", "One call per end of a subscription", "", nil)
	e.addSource("observability::on-log", observabilityWorker, "One call per log record", "", nil)
	e.addSource("observability::on-span", observabilityWorker, "One call per finished span", "", nil)
	e.addSource("configuration::on-updated", "configuration", "One call per change", "", nil)
	e.addSource("engine::on-functions-changed", engineWorker, "The set of functions has changed", "", nil)
	e.addSource("engine::on-workers-changed", engineWorker, "A worker has connected, changed or left", "", nil)
	e.addSource(observersChanged, engineWorker, "The state of an observer has changed", "", nil)
	e.spawn(e.observers.deliverEvents)
}

// JSON Schemas for the args of observers.
const (
	httpArgs = `{"type":"object","required":["path"],"properties":{"path":{"type":"string"},"method":{"type":"string"},` +
		`"middleware_function_ids":{"type":"array","items":{"type":"string"}},"public_webhook":{"type":"boolean"}}}`
	cronArgs  = `{"type":"object","required":["expression"],"properties":{"expression":{"type":"string"}}}`
	queueArgs = `{"type":"object","required":["topic"],"properties":{"topic":{"type":"string"},"group":{"type":["string","null"]},` +
		`"max_retries":{"type":["integer","null"],"minimum":0},"backoff_ms":{"type":["integer","null"],"minimum":0},` +
		`"queue_config":{"type":["object","null"]}}}`
)

func (e *Engine) addSource(id, owner, description, args string, source hostedSource) {
	e.addBuiltin(id, owner, description, func(_ context.Context, c *call) (json.RawMessage, *wireError) { return c.data, nil })
	f := e.functions[key{defaultNamespace, id}]
	f.private, f.source, f.since = true, source, Protocol026
	if args != "" {
		var err error
		if f.args, err = parseConfigurationSchema(json.RawMessage(args)); err != nil {
			panic("iiitest: args of " + id + ": " + err.Error())
		}
	}
}

// bindingOf returns a binding for o, so that the code for triggers also serves observers.
func bindingOf(o *observer) binding {
	return binding{
		id: "observer " + o.id, triggerType: o.source.id, functionID: o.target.id, namespace: o.target.namespace,
		config: o.args, metadata: o.metadata, observer: o,
	}
}

// delivery returns an observer's filter and binding, which change if the worker sends the
// observer again. delivery locks mu.
func (t *observers) delivery(o *observer) (*filter, binding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return o.filter, bindingOf(o)
}

// The hooks of http::on-request.

// added adds an observer's route. The route receives requests only while the observer is
// active.
func (t *routeTable) added(o *observer) *wireError {
	args := membersOf(o.args)
	r := &route{
		binding: bindingOf(o), method: http.MethodGet, path: stringOf(args["path"]),
		middleware: stringsOf(args["middleware_function_ids"]),
	}
	if method := args["method"]; kindOf(method) == '"' {
		r.method = strings.ToUpper(unquote(method))
	}
	err, conflict := t.add(r)
	switch {
	case conflict:
		return errorBody("HTTP_ROUTE_CONFLICT", "%s", err)
	case err != nil:
		return errorBody("INVALID_ARGS", "%s", err)
	}
	return nil
}

func (t *routeTable) removed(o *observer) { t.unbind(bindingOf(o).id) }

func (t *routeTable) switched(o *observer, active bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.list {
		if r.observer == o {
			r.open = active
		}
	}
}

// stringsOf returns the strings in an array and skips other elements.
func stringsOf(raw json.RawMessage) (texts []string) {
	if kindOf(raw) != '[' {
		return nil
	}
	for _, item := range itemsOf(raw) {
		if kindOf(item) == '"' {
			texts = append(texts, unquote(item))
		}
	}
	return texts
}

// The hooks of cron::on-tick.

const cronTick = "cron::on-tick"

// added starts a job for the observer's cron expression unless one is already running.
func (c *cron) added(o *observer) *wireError {
	expression := stringOf(membersOf(o.args)["expression"])
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.expressions[expression]; job != nil {
		job.observers++
		return nil
	}
	schedule, err := cronexpr.Parse(expression)
	if err != nil {
		return errorBody("INVALID_CRON_EXPRESSION", "Invalid cron expression '%s': %s", expression, err)
	}
	c.expressions[expression] = &expressionJob{observers: 1, stop: c.start(schedule, func(ctx context.Context, due time.Time) {
		now := time.Now()
		c.engine.observers.queueEvent(ctx, cronTick, func() json.RawMessage {
			return mustEncode(map[string]string{
				"expression": expression, "scheduled_time": rfc3339(due), "actual_time": rfc3339(now),
			})
		}, func(o *observer) bool { return stringOf(membersOf(o.args)["expression"]) == expression })
	})}
	return nil
}

func (c *cron) removed(o *observer) {
	expression := stringOf(membersOf(o.args)["expression"])
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.expressions[expression]; job != nil {
		if job.observers--; job.observers == 0 {
			job.stop()
			delete(c.expressions, expression)
		}
	}
}

func (c *cron) switched(*observer, bool) {}

// The hooks of queue::on-message.

// subscriberRetention is how long a lane keeps messages for an observer that is not active.
const subscriberRetention = 30 * time.Second

// laneOf returns an observer's topic and lane. Observers in a group share a lane.
func laneOf(o *observer) (topic string, lane key) {
	args := membersOf(o.args)
	if group := stringOf(args["group"]); group != "" {
		return stringOf(args["topic"]), key{laneOfGroup, group}
	}
	return stringOf(args["topic"]), key{laneOfObserver, o.id}
}

// Namespaces in the keys of lanes that do not belong to a function.
const (
	laneOfGroup    = "\x00group"
	laneOfObserver = "\x00observer"
)

func (q *queues) added(o *observer) *wireError {
	if topic, _ := laneOf(o); topic == "" {
		return errorBody("INVALID_ARGS", "Topic is not set")
	}
	return nil
}

func (q *queues) removed(*observer) {}

// switched adds an observer that has become active to its lane's consumers, and removes an
// observer that has become inactive.
func (q *queues) switched(o *observer, active bool) {
	topic, at := laneOf(o)
	id := bindingOf(o).id
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unsubscribe(id)
	t := q.topic(topic)
	l := t.lanes[at]
	if !active {
		if l != nil && len(l.consumers) == 0 {
			l.kept = time.Now().Add(subscriberRetention)
		}
		return
	}
	if l == nil {
		l = &lane{}
		t.lanes[at] = l
	} else if len(l.consumers) == 0 && time.Now().After(l.kept) {
		l.ready = nil // the retention has expired
	}
	config := decodeSubscriber(membersOf(o.args)["queue_config"])
	args := membersOf(o.args)
	config.consumer.attempts = defaultAttempts + 1
	for _, retries := range []json.RawMessage{membersOf(args["queue_config"])["maxRetries"], args["max_retries"]} {
		if n, ok := countOf(retries); ok {
			config.consumer.attempts = int(min(n, 1<<30)) + 1
		}
	}
	if ms, ok := countOf(args["backoff_ms"]); ok {
		config.consumer.backoff = milliseconds(ms)
	}
	s := &subscriber{lane: l, consumer: &config.consumer}
	s.consumer.queue = topic
	s.consumer.handle = func(ctx context.Context, j *job) *jobFailure { return q.deliverTo(ctx, topic, o, j) }
	q.bound[id] = s
	q.join(l, s.consumer)
}

// deliverTo delivers a message to an observer's target if the observer's filters match.
func (q *queues) deliverTo(ctx context.Context, topic string, o *observer, j *job) *jobFailure {
	doc := &document{Input: j.data, Caller: engineCaller().json()}
	filter, b := q.engine.observers.delivery(o)
	if !filter.matches(doc) {
		return nil
	}
	ctx, span := q.engine.startSpan(withTrace(ctx, j.trace), "queue "+topic)
	_, err := q.engine.fire(ctx, b, j.data)
	span.end(err)
	if err != nil {
		return &jobFailure{debugText(err), b.functionID, err}
	}
	return nil
}

// Events and listings of observers.

const observersChanged = "engine::on-observers-changed"

// observerChanged publishes an event about a change in an observer's state.
func (e *Engine) observerChanged(o *observer) {
	if o.source.id == observersChanged {
		return // would report the observer's own state to itself endlessly
	}
	e.observers.queueEvent(context.Background(), observersChanged, func() json.RawMessage {
		m := new(object).str("observer_id", o.id).str("function_id", o.source.id).str("target", o.target.id).str("state", string(o.state))
		if o.reason != nil {
			m.raw("reason", errorJSON(o.reason))
		}
		return m.bytes()
	}, nil)
}

// Observers returns the observers, oldest first, as the function engine::observers::list does.
// Rejected and disposed observers are not included.
func (e *Engine) Observers() []iii.ObserverInfo {
	views := e.observers.list(func(*observer) bool { return true })
	list := make([]iii.ObserverInfo, len(views))
	for i, view := range views {
		list[i] = view.ObserverInfo
	}
	return list
}

// observerView is the public description of an observer.
type observerView struct {
	iii.ObserverInfo
	worker string // observing worker; "" while disconnected
}

func (t *observers) list(keep func(o *observer) bool) []observerView {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []observerView{}
	for _, o := range t.inOrder() {
		if keep(o) {
			list = append(list, o.public())
		}
	}
	return list
}

// fields returns the view as an object. The filters appear both in source and at the top
// level, where other SDKs expect them.
func (v *observerView) fields() map[string]any {
	s := v.Source
	fields := map[string]any{
		"id": v.ID, "state": v.State, "fires": v.Fires, "filters": s.Filters, "worker_name": nullable(v.worker),
		"target": map[string]any{"function_id": v.Target.FunctionID, "namespace": v.Target.Namespace},
		"source": map[string]any{
			"function_id": s.FunctionID, "namespace": s.Namespace, "args": s.Args, "filters": s.Filters,
			"capture": s.Capture, "on": s.On, "deliver": s.Deliver,
		},
	}
	if v.Reason != nil {
		fields["reason"] = errorJSON(v.Reason)
	}
	return fields
}

func (o *observer) public() observerView {
	v := observerView{ObserverInfo: iii.ObserverInfo{
		ID: o.id,
		Source: iii.ObserveSource{
			FunctionID: o.source.id, Namespace: o.source.namespace, Args: iii.JSONValue(o.args), Filters: iii.JSONValue(o.filter.normal),
			Capture: []iii.Capture{}, On: iii.ObserveOn(o.on), Deliver: iii.ObserveDeliver(o.deliver),
		},
		Target: iii.ObserveTarget{FunctionID: o.target.id, Namespace: o.target.namespace},
		State:  o.state, Reason: o.reason, Fires: o.fires,
	}}
	for _, part := range o.capture {
		v.Source.Capture = append(v.Source.Capture, iii.Capture(part))
	}
	if o.owner != nil {
		v.worker = cmp.Or(o.owner.name(), o.owner.id)
	}
	return v
}

// visible returns a function that reports whether a worker may see an observer. A worker may
// see the observers of functions that it may call.
func (e *Engine) visible(p *permissions) func(o *observer) bool {
	return func(o *observer) bool { return p.denial(o.source.namespace, o.source.id) == nil }
}

func (e *Engine) listObservers(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type ObserversListInput struct {
		FunctionID *string `json:"function_id"`
		Namespace  *string `json:"namespace"`
		Target     *string `json:"target"`
		State      *string `json:"state"`
	}
	in, bad := decodeInput[ObserversListInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	visible := e.visible(c.permissions())
	list := e.observers.list(func(o *observer) bool {
		return visible(o) && (in.FunctionID == nil || *in.FunctionID == o.source.id) &&
			(in.Namespace == nil || *in.Namespace == o.source.namespace) &&
			(in.Target == nil || *in.Target == o.target.id) && (in.State == nil || *in.State == string(o.state))
	})
	fields := make([]map[string]any, len(list))
	for i := range list {
		fields[i] = list[i].fields()
	}
	return mustEncode(map[string]any{"observers": fields}), nil
}

func (e *Engine) observerInfo(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type ObserverGetInput struct {
		ID string `json:"id"`
	}
	in, bad := decodeInput[ObserverGetInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	visible := e.visible(c.permissions())
	list := e.observers.list(func(o *observer) bool { return o.id == in.ID && visible(o) })
	if len(list) == 0 {
		return nil, errorBody("OBSERVER_NOT_FOUND", "observer '%s' was not found", in.ID)
	}
	return mustEncode(map[string]any{"observer": list[0].fields()}), nil
}

// LocalCalls contains statistics about in-process calls to a function, as reported by the
// worker that owns the function.
type LocalCalls struct {
	FunctionID, Namespace string

	Count, Errors uint64
	Duration      time.Duration // total

	// Dropped counts the call reports that the worker dropped instead of sending them to the
	// engine. The keys are the reasons: BUFFER_FULL, TOO_LARGE, INACTIVE, or OTHER for unknown
	// reasons.
	Dropped map[string]uint64
}

// LocalCalls returns the statistics that workers have reported about in-process calls, one
// entry per function. The entry with the function id "*" covers all functions without a
// separate entry. Workers report every ten seconds.
func (e *Engine) LocalCalls() []LocalCalls {
	t := &e.observers
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []LocalCalls
	for _, s := range t.stats {
		own := s.LocalCalls
		own.Dropped = make(map[string]uint64, len(s.Dropped))
		for reason, n := range s.Dropped {
			own.Dropped[reason] = n
		}
		list = append(list, own)
	}
	slices.SortFunc(list, func(a, b LocalCalls) int {
		return strings.Compare(a.Namespace+"\x00"+a.FunctionID, b.Namespace+"\x00"+b.FunctionID)
	})
	return list
}

type localStats struct{ LocalCalls }

var dropReasons = []string{"BUFFER_FULL", "TOO_LARGE", "INACTIVE"}

// maxLocalStats is the maximum number of functions with a separate entry. All other functions
// share the entry "*".
const maxLocalStats = 10_000

// counted adds the statistics reported by a worker.
func (t *observers) counted(w *worker, namespace string, m localStatsMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := func(id string) *localStats {
		if id != "*" {
			id = t.engine.hosted(w, namespace, id).id
		}
		k := key{namespace, id}
		if t.stats[k] == nil && len(t.stats) >= maxLocalStats {
			k = key{namespace, "*"}
		}
		if t.stats[k] == nil {
			t.stats[k] = &localStats{LocalCalls{FunctionID: k.id, Namespace: namespace, Dropped: map[string]uint64{}}}
		}
		return t.stats[k]
	}
	if m.Functions != nil {
		for _, f := range *m.Functions {
			s := of(f.FunctionID)
			s.Count += f.Count
			s.Errors += f.Errors
			s.Duration += time.Duration(f.DurationMS * float64(time.Millisecond))
		}
	}
	if m.DroppedReports != nil {
		for _, d := range *m.DroppedReports {
			reason := d.Reason
			if !slices.Contains(dropReasons, reason) {
				reason = "OTHER"
			}
			of(d.FunctionID).Dropped[reason] += d.Count
		}
	}
}
