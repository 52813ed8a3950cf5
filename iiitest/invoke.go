package iiitest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/console"
)

// outcome is a call's result or error. If both fields are nil, the call returned no result.
type outcome struct {
	result json.RawMessage
	err    *wireError
}

// request is a call to be routed to a function.
type request struct {
	id         string // chosen by the caller, or generated
	caller     *worker
	functionID string
	namespace  string
	data       json.RawMessage // canonical JSON
	input      json.RawMessage // shown to observers in place of data if not nil
	metadata   json.RawMessage
	trace      traceContext
	baggage    string // as sent by the caller; only for calls with a traceparent
	inPlace    bool   // set for a middleware that is called in place of another function
	cause      cause  // why the engine makes the call, for the console

	from       *callerInfo // shown to the function
	depth      uint32      // number of activations that led to this call
	activation activation
}

// pending is a call that a worker is executing.
type pending struct {
	request
	began    time.Time
	callee   *worker       // the caller is nil if the engine makes the call
	onEnd    func(outcome) // receives the outcome once, with Engine.mu held; may be nil
	sent     *ticket       // tracks sending the call to the callee
	over     bool          // guarded by Engine.mu
	recorded *console.Invocation
}

// callReply describes the reply to a worker's call. The reply repeats the caller's trace
// context verbatim.
type callReply struct {
	to                   *worker
	id, functionID       string
	traceparent, baggage *string
	silent               bool // the worker expects none
}

// push queues the reply, unless the worker expects none.
func (a *callReply) push(out outcome) *ticket {
	if a.silent {
		return queuedTicket
	}
	id := a.id
	if id == "" {
		id = uuid.NewString()
	}
	return a.to.push(a.to.speaks().result(id, a.functionID, out, a.traceparent, a.baggage))
}

// serveCall starts a worker's call. It does not block: calls that may have to wait run on
// their own goroutines.
func (e *Engine) serveCall(w *worker, m invokeFunctionMessage) {
	a := &callReply{
		to: w, id: text(m.InvocationID), functionID: m.FunctionID, traceparent: m.Traceparent, baggage: m.Baggage,
		silent: m.InvocationID == nil || m.void(),
	}
	ns, blank := namespaceOf("namespace", m.Namespace, defaultNamespace)
	if blank != nil {
		a.silent, a.traceparent, a.baggage = false, nil, nil
		a.push(outcome{err: blank})
		return
	}
	r, special := e.dispatch(w, ns, m)
	if special != nil {
		e.spawn(func(ctx context.Context) {
			out, always := special(ctx)
			a.silent = a.silent && !always
			if ctx.Err() == nil {
				a.push(out).wait()
			}
		})
		return
	}
	f, p, missing := e.begin(r, func(out outcome) { a.push(out) })
	switch {
	case missing != nil:
		if a.silent {
			e.log.Warn("message dropped", "function", m.FunctionID, "namespace", ns, "worker", w.meta.name, "error", missing.Message)
		}
		a.push(outcome{err: missing})
	case f != nil:
		r := r
		e.spawn(func(ctx context.Context) {
			out := e.runOwn(ctx, f, r)
			if ctx.Err() == nil {
				a.push(out).wait()
			}
		})
	case p.sent != queuedTicket:
		e.spawn(func(context.Context) { e.deliver(p) })
	}
}

// dispatch interprets a call message from w. For a call that goes directly to a function, it
// returns the request. For any other kind of call, it returns special, which executes the
// call. always is true for calls that get a reply even if the caller expects none: forbidden
// calls, and calls passed to the middleware.
func (e *Engine) dispatch(w *worker, ns string, m invokeFunctionMessage) (r request, special func(ctx context.Context) (out outcome, always bool)) {
	name, private := e.callerOf(w, ns, m.FunctionID)
	from, depth := m.observed.Caller.stamped(&w.id, name), uint32(0)
	if m.observed.Depth != nil {
		depth = *m.observed.Depth
	}
	if through := m.observed.Activation; through != nil && w.speaks().observes {
		r := request{
			id: m.id(), data: m.Data, trace: toCallee(m.Traceparent, m.Baggage, m.FunctionID), from: from, depth: depth,
		}
		return r, func(ctx context.Context) (outcome, bool) {
			return e.observers.callTarget(ctx, w, through.ObserverID, r), false
		}
	}
	refused := func(why *wireError) (request, func(ctx context.Context) (outcome, bool)) {
		e.recordRefused(w, ns, m, why)
		return request{}, func(context.Context) (outcome, bool) { return outcome{err: why}, true }
	}
	if bad := w.permissions.denial(ns, m.FunctionID); bad != nil {
		return refused(bad)
	}
	if private {
		return refused(errorBody("FORBIDDEN", "function '%s' is private", m.FunctionID))
	}
	r = request{
		caller: w, functionID: m.FunctionID, namespace: ns,
		data: m.Data, input: m.Data, metadata: m.Metadata, trace: toCallee(m.Traceparent, m.Baggage, m.FunctionID),
		from: from, depth: depth,
	}
	if m.Traceparent != nil {
		r.baggage = text(m.Baggage)
	}
	if id := w.permissions.middleware(ns, m.FunctionID); id != "" {
		r, m := r, m
		return r, func(ctx context.Context) (outcome, bool) {
			return w.permissions.throughMiddleware(ctx, w, id, m, r), true
		}
	}
	if m.Action != nil && m.Action.Type == "enqueue" {
		r, queue := r, *m.Action.Queue
		return r, func(ctx context.Context) (outcome, bool) { return e.enqueue(ctx, queue, r), false }
	}
	r.id = m.id()
	r.data = withKey(r.data, "_caller_worker_id", w.quotedID)
	return r, nil
}

// id returns the call's id, or a generated one if the caller expects no reply.
func (m *invokeFunctionMessage) id() string {
	if id := text(m.InvocationID); id != "" && !m.void() {
		return id
	}
	return uuid.NewString()
}

// callerOf returns w's name, and whether the function is private to another worker.
func (e *Engine) callerOf(w *worker, namespace, id string) (name string, private bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.functions[key{namespace, id}]
	return w.meta.name, f != nil && f.private && f.owner != w && w.has(f)
}

// has reports whether f exists in the protocol that w uses. A nil w stands for the engine
// itself, for which every function exists.
func (w *worker) has(f *function) bool {
	if w == nil {
		return true
	}
	d := w.speaks()
	return f.has(d.protocol, d.strict)
}

// run calls a function of any kind (built in, invoked over HTTP, or served by a worker) and
// waits for the outcome.
func (e *Engine) run(ctx context.Context, r request) outcome {
	done := make(chan outcome, 1)
	f, p, missing := e.begin(r, func(out outcome) { done <- out })
	switch {
	case missing != nil:
		return outcome{err: missing}
	case f != nil:
		return e.runOwn(ctx, f, r)
	}
	return e.await(ctx, p, done)
}

// runOwn runs a function returned by begin and records a span for the call.
func (e *Engine) runOwn(ctx context.Context, f *function, r request) outcome {
	defer e.builtinEnded(r.caller)
	ctx, span := e.startBuiltinSpan(withTrace(ctx, r.trace), r.functionID)
	r.trace = traceOf(ctx)
	out := e.runBuiltin(ctx, f, r)
	span.end(out.err)
	return out
}

// runBuiltin runs a function inside the engine.
func (e *Engine) runBuiltin(ctx context.Context, f *function, r request) outcome {
	var recorded *console.Invocation
	if e.recorder != nil {
		e.mu.Lock()
		recorded = e.recordCall(&r, f)
		e.mu.Unlock()
	}
	began := time.Now()
	result, err := f.builtin(ctx, &call{
		worker: r.caller, functionID: r.functionID, data: r.data, metadata: r.metadata,
		traceparent: r.trace.traceparent, baggage: r.trace.baggage, callerBaggage: r.baggage,
	})
	out := outcome{result, err}
	e.recordEnd(recorded, out)
	e.observers.callCompleted(&r, began, out, observedResult{})
	return out
}

// begin starts a call. For a function that runs inside the engine, it returns that function,
// and the caller must run it. For a worker's function, it records the call, queues the message
// and returns the pending call; onEnd then receives the outcome, with Engine.mu held. If onEnd
// is nil, the outcome is ignored.
func (e *Engine) begin(r request, onEnd func(outcome)) (builtin *function, p *pending, missing *wireError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.functions[key{r.namespace, r.functionID}]
	if f == nil || !r.caller.has(f) {
		missing := e.notFoundLocked(r)
		e.recordEnd(e.recordCall(&r, nil), outcome{err: missing})
		return nil, nil, missing
	}
	if f.builtin != nil {
		if r.caller != nil {
			r.caller.making++
		}
		return f, nil, nil
	}
	// Record the call before sending it: the reply may arrive immediately.
	p = &pending{request: r, began: time.Now(), callee: f.owner, onEnd: onEnd, recorded: e.recordCall(&r, f)}
	if earlier := e.calls[p.id]; earlier != nil {
		e.completeLocked(earlier, outcome{err: errorBody("invocation_error", "invocation id used again")})
	}
	e.calls[p.id] = p
	p.callee.attached[p] = struct{}{}
	if p.caller != nil {
		p.caller.attached[p] = struct{}{}
	}
	p.sent = p.callee.push(p.callee.speaks().invoke(invocation{
		id: r.id, functionID: f.hostID(), data: r.data, metadata: r.metadata, trace: r.trace,
		caller: r.from, depth: r.depth, activation: r.activation,
	}))
	return nil, p, nil
}

// deliver waits until p's message is queued. If the worker has disconnected, the call fails.
func (e *Engine) deliver(p *pending) {
	if !p.sent.wait() {
		e.mu.Lock()
		e.completeLocked(p, outcome{err: errorBody("channel_send_failed", "worker %s is gone", p.callee.id)})
		e.mu.Unlock()
	}
}

// await waits for p's outcome, which arrives on done.
func (e *Engine) await(ctx context.Context, p *pending, done <-chan outcome) outcome {
	e.deliver(p)
	select {
	case out := <-done:
		return out
	case <-ctx.Done():
		return outcome{err: errorBody("invocation_error", "%v", ctx.Err())}
	}
}

// completeLocked completes a call unless it is already complete, and reports whether it did.
// The caller must hold Engine.mu.
func (e *Engine) completeLocked(p *pending, out outcome) bool {
	if p.over {
		return false
	}
	p.over = true
	e.recordEnd(p.recorded, out)
	if p.onEnd != nil {
		p.onEnd(out)
	}
	if e.calls[p.id] == p {
		delete(e.calls, p.id)
	}
	delete(p.callee.attached, p)
	if p.caller != nil {
		delete(p.caller.attached, p)
	}
	return true
}

func (e *Engine) builtinEnded(caller *worker) {
	if caller == nil {
		return
	}
	e.mu.Lock()
	caller.making--
	e.mu.Unlock()
}

// deliverResult handles a result sent by a worker. Any worker that knows the call's id may
// send the result. Unknown ids are ignored.
func (e *Engine) deliverResult(w *worker, m invocationResultMessage) {
	out := outcome{result: m.Result}
	if out.err, _ = decodeError(m.Error); out.err != nil {
		out.result = nil
	}
	e.mu.Lock()
	p := e.calls[m.InvocationID]
	ended := p != nil && e.completeLocked(p, out)
	e.mu.Unlock()
	if !ended {
		return
	}
	answer := m.observed
	if w != p.callee || !w.speaks().hooks {
		answer = observedResult{}
	}
	e.observers.callCompleted(&p.request, p.began, out, answer)
}

// notFoundLocked returns the error for a missing function. If a worker made the call, the
// error names the namespaces in which the id exists. The caller must hold Engine.mu.
func (e *Engine) notFoundLocked(r request) *wireError {
	text := "Function " + r.functionID + " not found in namespace " + r.namespace
	if r.caller == nil || r.inPlace {
		return errorBody("function_not_found", "%s", text)
	}
	text += "."
	var elsewhere []string
	for k := range e.functions {
		if k.id == r.functionID {
			elsewhere = append(elsewhere, k.namespace)
		}
	}
	if len(elsewhere) > 0 {
		slices.Sort(elsewhere)
		text += " It is registered in namespace(s): " + strings.Join(elsewhere, ", ") + "."
	}
	return errorBody("function_not_found", "%s", text)
}

// start makes a call on behalf of the engine without waiting for the outcome. A built-in
// function runs on its own goroutine. Calls started by one goroutine reach a worker in order.
func (e *Engine) start(ctx context.Context, functionID, namespace string, payload, metadata json.RawMessage) *wireError {
	r := request{
		id: uuid.NewString(), functionID: functionID, namespace: namespace,
		data: payload, metadata: metadata, trace: traceOf(ctx), cause: causeOf(ctx), from: engineCaller(),
	}
	f, _, missing := e.begin(r, nil)
	if f != nil {
		r.trace = traceContext{}
		e.spawn(func(ctx context.Context) { e.runBuiltin(ctx, f, r) })
	}
	return missing
}

// invokeWith makes a call on behalf of the engine, with metadata, and waits for the result.
// The call is part of the trace in ctx.
func (e *Engine) invokeWith(ctx context.Context, functionID, namespace string, payload, metadata json.RawMessage) (json.RawMessage, *wireError) {
	return e.invokeCanonical(ctx, functionID, namespace, canonicalValid(payload), metadata)
}

// invokeCanonical is like invokeWith, for a payload in canonical form. If the payload is
// nested too deeply, the call fails.
func (e *Engine) invokeCanonical(ctx context.Context, functionID, namespace string, payload, metadata json.RawMessage) (json.RawMessage, *wireError) {
	if err := checkJSON(payload); err != nil {
		return nil, errorBody("serialization_error", "Failed to serialize input for %s: %v", functionID, err)
	}
	out := e.run(ctx, request{
		id: uuid.NewString(), functionID: functionID, namespace: namespace,
		data: payload, metadata: metadata, trace: traceOf(ctx), cause: causeOf(ctx), from: engineCaller(),
	})
	return out.result, out.err
}

// invoke makes a call on behalf of the engine and waits for the result. The call is part of
// the trace in ctx (see childTrace).
func (e *Engine) invoke(ctx context.Context, functionID, namespace string, payload json.RawMessage) (json.RawMessage, *wireError) {
	return e.invokeWith(ctx, functionID, namespace, payload, nil)
}

// fire calls b's target with b's namespace and metadata, and waits for the result.
func (e *Engine) fire(ctx context.Context, b binding, payload json.RawMessage) (json.RawMessage, *wireError) {
	return e.fireCanonical(ctx, b, canonicalValid(payload))
}

// fireCanonical is fire for a payload in canonical form.
func (e *Engine) fireCanonical(ctx context.Context, b binding, payload json.RawMessage) (json.RawMessage, *wireError) {
	if b.observer != nil {
		out := e.observers.callTarget(ctx, nil, b.observer.id, request{
			id: uuid.NewString(), data: payload, trace: traceOf(ctx), from: engineCaller(),
		})
		return out.result, out.err
	}
	return e.invokeCanonical(withCause(ctx, b.triggerType, b.id), b.functionID, b.namespace, payload, b.metadata)
}

// condition calls a condition function with the payload for the handler and without metadata.
// run is false only if the result is exactly false or the call fails.
func (e *Engine) condition(ctx context.Context, functionID, namespace string, payload json.RawMessage) (run bool, err *wireError) {
	result, err := e.invoke(ctx, functionID, namespace, payload)
	if err != nil {
		return false, err
	}
	return string(result) != "false", nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
