package iiitest

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

// observedCall is a completed call in the form in which observers receive it. Nil fields are
// omitted.
type observedCall struct {
	function     key
	invocationID string
	input        json.RawMessage
	output       json.RawMessage
	failure      json.RawMessage // {code, message}
	failed       bool
	caller       json.RawMessage
	metadata     json.RawMessage
	startedAtMS  int64
	durationMS   json.RawMessage
	depth        uint32
	trace        traceContext
}

func (c *observedCall) document() *document {
	return &document{Input: c.input, Output: c.output, Error: c.failure, Caller: c.caller, Metadata: c.metadata}
}

func (c *observedCall) status() string {
	if c.failed {
		return "error"
	}
	return "success"
}

// wantsOutcome reports whether o observes failed calls (if failed is true) or successful calls
// (if failed is false).
func (o *observer) wantsOutcome(failed bool) bool {
	switch o.on {
	case "complete":
		return true
	case "error":
		return failed
	default:
		return !failed
	}
}

// callCompleted notifies a function's observers that a call routed by the engine has
// completed.
func (t *observers) callCompleted(r *request, began time.Time, out outcome, result observedResult) {
	k := key{r.namespace, r.functionID}
	if _, watched := t.watched.Load(k); !watched {
		return
	}
	c := &observedCall{
		function: k, invocationID: r.id, input: r.input, metadata: r.metadata, caller: r.from.json(),
		startedAtMS: began.UnixMilli(), durationMS: durationMS(time.Since(began)), depth: r.depth, trace: r.trace,
	}
	if c.input == nil {
		c.input = r.data
	}
	if c.failed = out.err != nil; c.failed {
		c.failure = new(object).str("code", out.err.Code).str("message", out.err.Message).bytes()
	} else if c.output = out.result; c.output == nil {
		c.output = json.RawMessage("null")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.function(k)
	if f == nil || f.events {
		return
	}
	t.choose(c, result)
}

// durationMS encodes d as a JSON number of milliseconds.
func durationMS(d time.Duration) json.RawMessage {
	return strconv.AppendFloat(nil, float64(d.Microseconds())/1000, 'f', -1, 64)
}

// choose activates the observers that match c. If the function's host has already activated
// them (result.Delivered), choose does nothing. If the host has reported which observers match
// (result.Matched), choose considers only those.
func (t *observers) choose(c *observedCall, result observedResult) {
	if set(result.Delivered) {
		return
	}
	doc := c.document()
	for _, o := range t.ofSource(c.function) {
		if o.state != iii.ObserverStateActive || result.Matched != nil && !slices.Contains(*result.Matched, o.id) {
			continue
		}
		if o.wantsOutcome(c.failed) && o.filter.matches(doc) {
			t.activate(o, c)
		}
	}
}

// handleReport handles a message in which a host reports events and the calls that it
// dispatched in process.
func (t *observers) handleReport(w *worker, home string, m invocationsObservedMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range m.Items {
		item := &m.Items[i]
		ns, bad := namespaceOf("namespace", item.Namespace, home)
		if bad != nil {
			continue
		}
		k := t.engine.hosted(w, ns, item.FunctionID)
		f := t.function(k)
		if f == nil || f.owner != w {
			t.inactive += uint64(len(item.Matched))
			continue
		}
		c := &observedCall{
			function: k, invocationID: item.InvocationID,
			input: item.Input, output: item.Output, failure: failureOf(item.Error), failed: item.Status == "error",
			metadata: optional(item.Metadata), caller: item.Caller.stamped(&w.id, w.name()).json(),
			startedAtMS: int64(min(item.StartedAtMS, 1<<62)), durationMS: item.DurationMS,
			trace: traceContext{traceparent: text(item.Traceparent), baggage: text(item.Baggage)},
		}
		if set(item.OutputIsInput) {
			c.output = c.input
		}
		if item.Depth != nil {
			c.depth = *item.Depth
		}
		for _, id := range item.Matched {
			if o := t.byID[id]; o != nil && o.source == k && o.state == iii.ObserverStateActive {
				t.activate(o, c)
			} else {
				t.inactive++
			}
		}
	}
}

// failureOf returns the code and message of an error. It omits the stack trace, which
// observers must not receive.
func failureOf(raw json.RawMessage) json.RawMessage {
	if isNull(raw) {
		return nil
	}
	members := membersOf(raw)
	return new(object).str("code", stringOf(members["code"])).str("message", stringOf(members["message"])).bytes()
}

// activate calls o's target for the call c, or queues the activation if o has reached
// max_in_flight.
func (t *observers) activate(o *observer, c *observedCall) {
	if c.depth >= maxObserveDepth {
		o.dropped++
		t.engine.log.Warn("activation dropped: LOOP_GUARD", "observer", o.id, "function", c.function.id, "depth", c.depth)
		return
	}
	a := activation{o.id, newActivationID()}
	r := &request{
		id: uuid.NewString(), functionID: o.target.id, namespace: o.target.namespace,
		metadata: o.metadata, from: engineCaller(), depth: c.depth + 1, activation: a,
		cause: cause{"observer", o.id},
	}
	if c.trace.traceparent != "" {
		r.trace = toCallee(&c.trace.traceparent, &c.trace.baggage, o.target.id)
	}
	switch o.deliver {
	case "input":
		r.data = orNull(c.input)
	case "output":
		r.data = orNull(c.output)
	default:
		r.data = o.envelope(c, a.id)
	}
	o.fires++
	if o.maxInFlight > 0 && o.inFlight >= o.maxInFlight {
		o.waiting = append(o.waiting, r)
	} else {
		t.launch(o, r)
	}
	t.checkMaxFires(o)
}

// checkMaxFires disposes of o if it has reached max_fires.
func (t *observers) checkMaxFires(o *observer) {
	if o.maxFires > 0 && o.fires >= o.maxFires {
		t.dispose(o, errorBody("MAX_FIRES", "the observer has been activated %d times", o.fires), true)
	}
}

// orNull returns null for an absent value.
func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}

// envelope encodes c as the payload for o's target.
func (o *observer) envelope(c *observedCall, activationID string) json.RawMessage {
	m := new(object).str("observer_id", o.id).str("activation_id", activationID).
		str("function_id", c.function.id).str("namespace", c.function.namespace).
		str("invocation_id", c.invocationID).str("status", c.status())
	for _, part := range []struct {
		name  string
		value json.RawMessage
	}{
		{"input", c.input}, {"output", c.output}, {"error", c.failure}, {"caller", c.caller}, {"metadata", c.metadata},
	} {
		if o.captures(part.name) {
			m.raw(part.name, part.value)
		}
	}
	return m.uint("started_at_ms", uint64(c.startedAtMS)).raw("duration_ms", c.durationMS).bytes()
}

// launch starts an activation. The caller must hold t.mu, which keeps an observer's
// activations in order.
func (t *observers) launch(o *observer, r *request) {
	o.inFlight++
	e := t.engine
	done := make(chan outcome, 1)
	f, p, missing := e.begin(*r, func(out outcome) { done <- out })
	e.spawn(func(ctx context.Context) {
		out := outcome{err: missing}
		switch {
		case f != nil:
			out = e.runBuiltin(ctx, f, *r)
		case p != nil:
			out = e.await(ctx, p, done)
		}
		if out.err != nil && !e.closing() {
			e.log.Warn("target of an observer failed", "observer", o.id, "function", r.functionID, "code", out.err.Code)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.releaseSlot(o)
	})
}

// releaseSlot releases one of o's in-flight slots and launches activations that were waiting
// for a slot.
func (t *observers) releaseSlot(o *observer) {
	o.inFlight--
	t.launchWaiting(o)
}

// launchWaiting launches activations that are waiting for a slot while there are free slots.
func (t *observers) launchWaiting(o *observer) {
	for len(o.waiting) > 0 && (o.maxInFlight == 0 || o.inFlight < o.maxInFlight) {
		r := o.waiting[0]
		o.waiting = o.waiting[1:]
		t.launch(o, r)
	}
}

// callTarget calls the target of the observer with the given id on behalf of w, the observed
// function's host. The host supplies the payload, and the observer supplies the metadata. If w
// is nil, the engine is the host.
func (t *observers) callTarget(ctx context.Context, w *worker, id string, r request) outcome {
	t.mu.Lock()
	o := t.byID[id]
	if bad := t.admitThrough(o, w, id, r.depth); bad != nil {
		t.mu.Unlock()
		return outcome{err: bad}
	}
	o.fires++
	o.inFlight++
	r.caller, r.functionID, r.namespace, r.metadata = w, o.target.id, o.target.namespace, o.metadata
	r.depth++
	r.activation = activation{o.id, newActivationID()}
	r.cause = cause{"observer", o.id}
	if o.source.id == "http::on-request" {
		r.cause.kind = causeHTTP
	}
	t.checkMaxFires(o)
	t.mu.Unlock()
	out := t.engine.run(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseSlot(o)
	return out
}

func (t *observers) admitThrough(o *observer, w *worker, id string, depth uint32) *wireError {
	if o == nil {
		return errorBody("OBSERVER_NOT_FOUND", "observer '%s' was not found", id)
	}
	switch f := t.function(o.source); {
	case f != nil && f.owner != w, f == nil && w != nil:
		return errorBody("NOT_FUNCTION_OWNER", "function '%s' of observer '%s' belongs to another worker", o.source.id, id)
	case o.state != iii.ObserverStateActive:
		return errorBody("OBSERVER_NOT_ACTIVE", "observer '%s' is %s", id, o.state)
	case o.maxInFlight > 0 && o.inFlight >= o.maxInFlight:
		return errorBody("OVERFLOW", "observer '%s' has %d calls in flight", id, o.inFlight)
	case depth >= maxObserveDepth:
		return errorBody("LOOP_GUARD", "observers call one another %d deep", depth)
	}
	return nil
}

// sourceEvent is an event of a source that the engine hosts, such as state::on-changed.
type sourceEvent struct {
	seq    uint64
	source key
	event  json.RawMessage
	trace  traceContext
	only   func(o *observer) bool // nil: all observers
}

// queueEvent queues an event for the observers of source, as if source had been called with
// the event as its input and had returned the event. queueEvent never blocks, so callers may
// hold any lock. Observers receive events in order. An observer receives no event that happened
// before the observer was added.
func (t *observers) queueEvent(ctx context.Context, source string, event func() json.RawMessage, only func(o *observer) bool) {
	k := key{defaultNamespace, source}
	if _, watched := t.watched.Load(k); !watched {
		return
	}
	t.events.mu.Lock()
	t.events.seq++
	t.events.list = append(t.events.list, sourceEvent{t.events.seq, k, event(), traceOf(ctx), only})
	t.events.mu.Unlock()
	select {
	case t.events.wake <- struct{}{}:
	default:
	}
}

func (t *observers) eventsQueued() uint64 {
	t.events.mu.Lock()
	defer t.events.mu.Unlock()
	return t.events.seq
}

// deliverEvents delivers the events queued by queueEvent until ctx is done.
func (t *observers) deliverEvents(ctx context.Context) {
	for {
		select {
		case <-t.events.wake:
		case <-ctx.Done():
			return
		}
		t.events.mu.Lock()
		list := t.events.list
		t.events.list = nil
		t.events.mu.Unlock()
		t.mu.Lock()
		for _, event := range list {
			t.happened(event)
		}
		t.mu.Unlock()
	}
}

func (t *observers) happened(event sourceEvent) {
	if f := t.function(event.source); f == nil || f.owner != nil {
		return // a worker hosts the source now
	}
	c := &observedCall{
		function: event.source, invocationID: uuid.NewString(), input: event.event, output: event.event,
		caller: engineCaller().json(), startedAtMS: time.Now().UnixMilli(), durationMS: json.RawMessage("0"), trace: event.trace,
	}
	only := func(o *observer) bool { return o.since < event.seq && (event.only == nil || event.only(o)) }
	t.lost(event.source, c.document(), only)
	matched := []string{}
	for _, o := range t.ofSource(event.source) {
		if only(o) {
			matched = append(matched, o.id)
		}
	}
	t.choose(c, observedResult{Matched: &matched})
}

// callObservers calls the targets of the matching observers of source, one at a time, with the
// event as payload. It reports whether isStop returned true for any of the results.
func (t *observers) callObservers(ctx context.Context, source string, event json.RawMessage, isStop func(result json.RawMessage) bool) bool {
	k := key{defaultNamespace, source}
	if _, watched := t.watched.Load(k); !watched {
		return false
	}
	doc := &document{Input: event, Caller: engineCaller().json()}
	var asked []binding
	t.mu.Lock()
	t.lost(k, doc, nil)
	for _, o := range t.ofSource(k) {
		if o.state == iii.ObserverStateActive && o.filter.matches(doc) {
			asked = append(asked, bindingOf(o))
		}
	}
	t.mu.Unlock()
	stopped := false
	for _, b := range asked {
		result, err := t.engine.fire(ctx, b, event)
		if err != nil {
			t.engine.triggerFailed(b, "target of an observer failed", err)
			continue
		}
		stopped = stopped || isStop(result)
	}
	return stopped
}
