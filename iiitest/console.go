package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/console"
)

// WithConsole serves a read-only page at addr that shows the engine's activity: workers,
// functions, triggers, observers, live invocations, traces, logs and metrics, and the contents
// of its state, streams and queues. addr has the form host:port and must be on the loopback
// interface. Port 0 selects a free port; Engine.ConsoleURL returns the address. The default ""
// disables the console.
//
// A console keeps the last thousand invocations of workers' functions and the last thousand of
// the engine's own functions, and their payloads up to the limit set by WithConsoleLimit. The
// engine stores the other data that the page shows even without a console. The page omits
// cookies, channel keys, and values whose keys name secrets (see [iii.Redact]).
func WithConsole(addr string) Option {
	return func(c *config) error {
		if addr == "" {
			c.console = ""
			return nil
		}
		if err := console.CheckAddr(addr); err != nil {
			return fmt.Errorf("iiitest: WithConsole: %w", err)
		}
		c.console, c.consoleExposed = addr, false
		return nil
	}
}

// WithExposedConsole is like WithConsole, but accepts any address. Anyone who can reach the
// address can see all workers' payloads, traces and logs without a password, so use it only on
// a private network. To keep other sites from reading the page through a visitor's browser,
// the console accepts only requests that are addressed to an IP address, a loopback name or
// the host of addr.
func WithExposedConsole(addr string) Option {
	return func(c *config) error {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("iiitest: WithExposedConsole: %w", err)
		}
		c.console, c.consoleExposed = addr, true
		return nil
	}
}

// WithConsoleLimit sets how many bytes of payloads a console keeps. The limit applies
// separately to invocations of workers' functions and to invocations of the engine's own
// functions. The default is 16 MiB.
func WithConsoleLimit(bytes int) Option {
	return func(c *config) error {
		if bytes < 0 {
			return errors.New("iiitest: WithConsoleLimit: negative")
		}
		c.consoleBytes = bytes
		return nil
	}
}

// ConsoleURL returns the console's address, http://host:port/, or "" if there is none. In a
// synctest bubble, connect with DialContext; see URL.
func (e *Engine) ConsoleURL() string {
	if e.consoleServer == nil {
		return ""
	}
	return "http://" + e.consoleServer.addr + "/"
}

// causeKey is the context key for a call's cause.
type causeKey struct{}

type cause struct{ kind, id string }

// causeHTTP is the kind of cause recorded for calls that serve HTTP requests.
const causeHTTP = "http"

// withCause records in ctx why the engine makes a call. kind is a trigger type or a word such
// as "queue"; id identifies the trigger or queue.
func withCause(ctx context.Context, kind, id string) context.Context {
	return context.WithValue(ctx, causeKey{}, cause{kind, id})
}

func causeOf(ctx context.Context) cause {
	c, _ := ctx.Value(causeKey{}).(cause)
	return c
}

// recordCall records the start of a call. It returns nil if the engine has no console. f is
// nil if the function does not exist. The caller must hold Engine.mu.
func (e *Engine) recordCall(r *request, f *function) *console.Invocation {
	if e.recorder == nil {
		return nil
	}
	c := console.Call{
		Namespace: r.namespace, Function: r.functionID, Cause: r.cause.kind, Trigger: r.cause.id,
		Data: r.data, Metadata: r.metadata,
	}
	if r.caller != nil {
		c.Caller = cmp.Or(r.caller.meta.name, r.caller.id)
	}
	if f != nil {
		c.Internal = f.owner == nil
		if f.owner != nil {
			c.Worker = cmp.Or(f.owner.meta.name, f.owner.id)
		}
	}
	if parts, ok := parseTraceparent(r.trace.traceparent); ok {
		c.TraceID = parts[1]
	}
	return e.recorder.Begin(c)
}

func (e *Engine) recordEnd(i *console.Invocation, out outcome) {
	if i != nil && i.Cause == causeHTTP {
		switch {
		case out.err != nil:
			e.recorder.Responded(i, failure(out.err).status)
		case !isNull(out.result): // otherwise the response was streamed
			e.recorder.Responded(i, statusOf(memberOf(out.result, "status_code")))
		}
	}
	if out.err != nil {
		e.recorder.End(i, nil, cmp.Or(out.err.Code, "error"), out.err.Message)
	} else {
		e.recorder.End(i, out.result, "", "")
	}
}

// recordRefused records a call that the caller is not permitted to make.
func (e *Engine) recordRefused(w *worker, ns string, m invokeFunctionMessage, err *wireError) {
	if e.recorder == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := request{caller: w, functionID: m.FunctionID, namespace: ns, data: m.Data, metadata: m.Metadata}
	e.recordEnd(e.recordCall(&r, nil), outcome{err: err})
}

// consoleSource gives the console access to the engine.
type consoleSource struct{ e *Engine }

func (s consoleSource) Engine() console.Engine {
	return console.Engine{
		Version: s.e.version(), Started: s.e.started,
		WorkerURL: s.e.URL(), HTTPURL: s.e.HTTPURL(), StreamURL: s.e.StreamURL(),
	}
}

func (s consoleSource) Registry() console.Registry {
	e := s.e
	r := console.Registry{Workers: []map[string]any{}, Observers: []map[string]any{}, Local: []map[string]any{}}
	for _, v := range e.observers.list(func(*observer) bool { return true }) {
		r.Observers = append(r.Observers, v.fields())
	}
	for _, l := range e.LocalCalls() {
		r.Local = append(r.Local, map[string]any{
			"function_id": l.FunctionID, "namespace": l.Namespace, "count": l.Count, "errors": l.Errors,
			"duration_ms": float64(l.Duration) / float64(time.Millisecond), "dropped": l.Dropped,
		})
	}
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.workerViews() {
		worker := v.summary()
		worker["internal"], worker["pid"] = v.w == nil, v.pid
		r.Workers = append(r.Workers, worker)
	}
	var functions, triggers, types []entry
	for _, f := range e.functions {
		d := f.summary()
		d["internal"], d["worker_id"], d["seq"] = f.owner == nil, "", f.seq
		if f.owner != nil {
			d["worker_id"] = f.owner.id
		}
		functions = append(functions, entry{id: f.id, namespace: f.namespace, value: d})
	}
	for _, b := range e.triggers.byID {
		d := e.describeTrigger(b)
		d["namespace"], d["parked"], d["metadata"] = b.namespace, b.parked, b.metadata
		triggers = append(triggers, entry{id: b.functionID + " " + b.id, namespace: b.namespace, value: d})
	}
	for _, t := range e.triggers.types {
		d := t.summary()
		d["internal"] = t.owner == nil
		types = append(types, entry{id: t.key.id, namespace: t.key.namespace, value: d})
	}
	r.Functions, r.Triggers, r.Types = values(functions), values(triggers), values(types)
	return r
}

func (s consoleSource) Function(namespace, id string) (json.RawMessage, bool) {
	e := s.e
	e.triggers.mu.Lock()
	defer e.triggers.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.functions[key{namespace, id}]
	if f == nil {
		return nil, false
	}
	return mustEncode(e.detail(f)), true
}

func (s consoleSource) Changes() console.Changes {
	return console.Changes{
		Spans: s.e.spans.changes.Load(), Logs: s.e.logs.changes.Load(), Metrics: s.e.metrics.changes.Load(),
		State: s.e.state.store.changes.Load(), Streams: s.e.streams.store.changes.Load() + s.e.streams.subscribed.Load(),
		Queues: s.e.queues.changes.Load(),
	}
}

func (s consoleSource) Groups(from console.Store) []console.Group {
	groups := []console.Group{}
	if from == console.State {
		for scope, n := range s.e.state.store.sizes() {
			groups = append(groups, console.Group{Group: scope, Items: n})
		}
	} else {
		groups = s.e.streams.consoleGroups()
	}
	slices.SortFunc(groups, func(a, b console.Group) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Group, b.Group))
	})
	return groups
}

// consoleGroups returns the groups that have items or subscribers, and one entry for each
// stream that a worker provides.
func (s *streams) consoleGroups() []console.Group {
	byName := map[streamGroup]*console.Group{}
	group := func(of streamGroup) *console.Group {
		if byName[of] == nil {
			byName[of] = &console.Group{Stream: of.stream, Group: of.group}
		}
		return byName[of]
	}
	for of, n := range s.store.sizes() {
		group(of).Items = n
	}
	s.mu.Lock()
	for socket := range s.sockets {
		for _, sub := range socket.subscriptions {
			g := group(sub.key())
			g.Subscribers = append(g.Subscribers, console.Subscriber{ID: sub.ID, Item: sub.Item, Client: socket.conn.RemoteAddr().String()})
		}
	}
	s.mu.Unlock()
	s.engine.mu.Lock()
	for k, f := range s.engine.functions {
		name, ok := strings.CutPrefix(k.id, "stream::")
		if _, name, found := strings.Cut(name, "("); ok && found && k.namespace == defaultNamespace && f.owner != nil && strings.HasSuffix(name, ")") {
			group(streamGroup{stream: strings.TrimSuffix(name, ")")}).Provider = cmp.Or(f.owner.meta.name, f.owner.id)
		}
	}
	s.engine.mu.Unlock()
	groups := make([]console.Group, 0, len(byName))
	for _, g := range byName {
		groups = append(groups, *g)
	}
	return groups
}

func (s consoleSource) Items(from console.Store, stream, group string, limit int) []console.Item {
	var items []keyedItem
	if from == console.State {
		items = s.e.state.store.items(group)
	} else {
		items = s.e.streams.store.items(streamGroup{stream, group})
	}
	list := make([]console.Item, min(limit, len(items)))
	for n := range list {
		list[n] = console.Item{Key: items[n].key, Value: items[n].value}
	}
	return list
}

func (s consoleSource) Item(from console.Store, stream, group, key string) (json.RawMessage, bool) {
	if from == console.State {
		return s.e.state.store.get(group, key)
	}
	return s.e.streams.store.get(streamGroup{stream, group}, key)
}

func (s consoleSource) Queues() []console.Queue {
	q := s.e.queues
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []console.Queue
	add := func(of console.Queue, l *lane) {
		of.Depth, of.InFlight, of.Delayed, of.Dead = l.depth(), l.active, l.later, len(l.dead)
		list = append(list, of)
	}
	for _, name := range slices.Sorted(maps.Keys(q.named)) {
		n := q.named[name]
		add(console.Queue{Name: name, Consumers: n.config.Concurrency}, &n.lane)
	}
	for _, name := range slices.Sorted(maps.Keys(q.topics)) {
		t := q.topics[name]
		if len(t.lanes) == 0 {
			list = append(list, console.Queue{Name: name, Topic: true, Unheard: t.unheard})
		}
		for n, target := range t.targets() {
			of := console.Queue{Name: name, Topic: true, Consumers: len(t.lanes[target].consumers)}
			of.Namespace, of.Function, of.Group = consoleTarget(target)
			if n == 0 {
				of.Unheard = t.unheard
			}
			add(of, t.lanes[target])
		}
	}
	return list
}

func (s consoleSource) DeadLetters(limit int) (list []console.DeadLetter, left int) {
	type letter struct {
		queue string
		job   *job
	}
	q := s.e.queues
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []letter
	q.eachLane(func(name string, l *lane) {
		for _, j := range l.dead {
			all = append(all, letter{name, j})
		}
	})
	slices.SortFunc(all, func(a, b letter) int { return cmp.Compare(b.job.death, a.job.death) })
	left = max(0, len(all)-limit)
	for _, d := range all[:len(all)-left] {
		list = append(list, d.job.consoleLetter(d.queue))
	}
	return list, left
}

func (s consoleSource) DeadLetter(id string) (d console.DeadLetter, ok bool) {
	q := s.e.queues
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachLane(func(name string, l *lane) {
		if i := slices.IndexFunc(l.dead, func(j *job) bool { return j.id == id }); i >= 0 {
			d, ok = l.dead[i].consoleLetter(name), true
		}
	})
	return d, ok
}

// eachLane calls f for each lane, with the name of its queue or topic. The caller must hold
// queues.mu.
func (q *queues) eachLane(f func(name string, l *lane)) {
	for name, n := range q.named {
		f(name, &n.lane)
	}
	for name, t := range q.topics {
		for _, l := range t.lanes {
			f(name, l)
		}
	}
}

func (j *job) consoleLetter(queue string) console.DeadLetter {
	d := console.DeadLetter{ID: j.id, Queue: queue, Attempts: j.attempts, Error: j.failure, FailedAt: j.failedAt, Payload: j.data}
	d.Namespace, d.Function, d.Group = consoleTarget(key{j.namespace, j.functionID})
	return d
}

// consoleTarget returns a lane's function. For an observer lane, it returns a label for the
// observer or the group instead.
func consoleTarget(lane key) (namespace, function, group string) {
	switch lane.namespace {
	case laneOfObserver:
		return "", "", "observer " + lane.id
	case laneOfGroup:
		return "", "", "group " + lane.id
	}
	return lane.namespace, lane.id, ""
}

func (s consoleSource) Spans(limit int) []iii.StoredSpan { return s.e.spans.newest(limit) }

func (s consoleSource) Trace(id string) []iii.StoredSpan { return s.e.spans.ofTrace(id) }

func (s consoleSource) Logs(trace string, limit int) []json.RawMessage {
	l := s.e.logs
	l.mu.Lock()
	records := l.records.all()
	l.mu.Unlock()
	slices.SortStableFunc(records, func(a, b *logRecord) int { return cmp.Compare(b.time, a.time) })
	list := []json.RawMessage{}
	for _, r := range records {
		if len(list) < limit && (trace == "" || text(r.traceID) == trace) {
			list = append(list, mustEncode(r.listed()))
		}
	}
	return list
}

func (s consoleSource) Metrics(since time.Time, limit int) []console.Metric {
	records := s.e.metrics.newest(since, limit)
	list := make([]console.Metric, len(records))
	for i := range records {
		r := &records[i]
		list[i] = console.Metric{
			Service: r.service, Name: r.metric.Name, Description: r.metric.Description, Unit: r.metric.Unit,
			Type: string(r.metric.Type), Delta: r.metric.Temporality == Delta, At: r.arrived,
			Points: make([]console.Point, len(r.points)),
		}
		for n, p := range r.points {
			list[i].Points[n] = console.Point{Attributes: p.attributes, Value: p.value}
			if r.metric.Type == Histogram && n < len(r.metric.Points) {
				h := &r.metric.Points[n]
				point := &list[i].Points[n]
				point.Count, point.Bounds, point.Buckets = h.Count, h.Bounds, h.BucketCounts
				if h.Sum != nil {
					point.Sum = *h.Sum
				}
			}
		}
	}
	return list
}
