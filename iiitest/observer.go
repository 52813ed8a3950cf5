package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

const (
	// observerGrace is how long an observer outlives its owner's connection.
	observerGrace = 5 * time.Second
	// ackTimeout is how long a host may take to accept an observer.
	ackTimeout = 30 * time.Second
	// maxObserveDepth is the maximum number of nested activations.
	maxObserveDepth = 8
)

// observer connects a source to a target: each matching call to the source results in a call
// to the target.
type observer struct {
	id       string
	seq      uint64
	source   key
	target   key
	args     json.RawMessage // a JSON object
	given    bool            // the message contained args, possibly empty
	filter   *filter
	capture  []string
	on       string
	deliver  string
	metadata json.RawMessage
	legacy   json.RawMessage // trigger type and config if trigger is set

	maxFires    uint64 // 0: no limit
	maxInFlight uint32 // 0: no limit
	expiresIn   *uint64
	expiry      *time.Timer

	owner    *worker  // observing worker; nil while disconnected
	dialect  *dialect // of the owner's latest connection; nil if trigger is set
	former   former   // previous owner, until the new owner has sent the observer again
	grace    *time.Timer
	answered bool // the owner has received observeresult on this connection
	trigger  bool // represents a trigger; the owner sees only the trigger

	// state and reason are computed by updateState.
	state     iii.ObserverState
	reason    *wireError
	failed    *wireError // reason for the error state
	accepted  bool       // the host has accepted the observer since it registered the function
	announced uint64     // revision in which the host was notified; 0 if it was not
	ack       *time.Timer
	bound     hostedSource // source in the engine that has accepted the observer, or nil
	running   bool         // bound has been notified that the observer is active

	fires    uint64
	inFlight uint32
	waiting  []*request // activations held back by max_in_flight
	dropped  uint64

	since     uint64 // number of events queued before the observer was added to its source
	mentioned bool   // lost events have been logged since the last state change
}

// former identifies a previous connection.
type former struct{ id, token string }

// hostedSource is a source inside the engine that is notified about its observers. Its methods
// are called one at a time and must not call methods of the observers table.
type hostedSource interface {
	added(o *observer) *wireError // an error rejects the observer
	removed(o *observer)
	// switched is called between added and removed, whenever the observer becomes active or
	// inactive.
	switched(o *observer, active bool)
}

// observers is the table of all observers. See Engine for the lock order.
type observers struct {
	engine *Engine

	mu        sync.Mutex
	byID      map[string]*observer
	bySource  map[key][]*observer // oldest first
	away      map[key][]*observer // by source; disposed observers of disconnected workers, see rememberAway
	revisions map[key]uint64      // revision of the set of observers, by function
	seq       uint64
	stats     map[key]*localStats
	inactive  uint64 // activations for observers that were not active

	watched sync.Map // key → number of observers of the function

	events struct {
		mu   sync.Mutex
		list []sourceEvent
		seq  uint64        // number of events so far
		wake chan struct{} // capacity 1
	}
}

func (t *observers) init(e *Engine) {
	t.engine = e
	t.byID, t.bySource, t.away = map[string]*observer{}, map[key][]*observer{}, map[key][]*observer{}
	t.revisions, t.stats = map[key]uint64{}, map[key]*localStats{}
	t.events.wake = make(chan struct{}, 1)
}

// ofSource returns a function's observers, oldest first. The caller must hold mu, as for every
// method that does not lock mu itself.
func (t *observers) ofSource(source key) []*observer { return slices.Clone(t.bySource[source]) }

func (t *observers) inOrder() []*observer {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *observer) int { return cmp.Compare(a.seq, b.seq) })
}

func (t *observers) function(k key) *function {
	t.engine.mu.Lock()
	defer t.engine.mu.Unlock()
	return t.engine.functions[k]
}

// seen returns the function with key k if it exists in the dialect's protocol. Every function
// exists in a nil dialect.
func (t *observers) seen(d *dialect, k key) *function {
	if f := t.function(k); f != nil && (d == nil || f.has(d.protocol, d.strict)) {
		return f
	}
	return nil
}

func (f *function) hostApproves() bool {
	return f.owner != nil && f.builtin == nil && f.owner.speaks().observes
}

// hostNotified reports whether f's host receives messages about f's observers.
func (f *function) hostNotified() bool { return f.owner != nil && f.owner.speaks().observes }

// hostKey returns the key that f's host uses for f.
func (f *function) hostKey() key {
	return key{f.namespace, f.registered}
}

// view returns an observer in the form in which its host receives it. When a host reports a
// call that it has run in process, it includes only the parts listed in capture. The host does
// not know the deliver setting, so view adds to capture the part that deliver selects.
func (o *observer) view() json.RawMessage {
	capture := append([]string{}, o.capture...)
	if delivered := o.deliver == "input" || o.deliver == "output"; delivered && !slices.Contains(capture, o.deliver) {
		capture = append(capture, o.deliver)
	}
	return new(object).str("id", o.id).raw("args", o.args).raw("filters", o.filter.normal).str("target", o.target.id).
		raw("capture", mustEncode(capture)).str("on", o.on).raw("legacy", o.legacy).bytes()
}

func (o *observer) captures(part string) bool { return slices.Contains(o.capture, part) }

// observe handles an observe message from w. If an observer with the same id exists, the
// message updates it (see replay). If the observer is rejected, the reply contains the reason.
func (t *observers) observe(w *worker, m observeMessage) {
	admitted := w.permissions.admitObserver(&m)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine.isLeaving(w) {
		return
	}
	old := t.byID[m.ID]
	o, warnings, bad := t.build(w, m)
	if bad == nil {
		bad = admitted
	}
	switch {
	case old != nil && (old.trigger || old.owner != nil && old.owner != w):
		t.refuse(w, m.ID, errorBody("OBSERVER_ID_CONFLICT", "observer id already in use: %s", m.ID))
		return
	case old != nil && bad == nil && old.failed != nil && old.failed.Code != "": // reject and dispose of it again
		bad = old.failed
	}
	if bad != nil {
		if old != nil {
			old.owner, old.answered = w, false // only so that w receives the rejection
			t.dispose(old, bad, false)
		}
		t.refuse(w, m.ID, bad)
		return
	}
	if old == nil {
		t.add(w, o, warnings)
		return
	}
	t.replay(w, old, o, warnings)
}

func (t *observers) refuse(w *worker, id string, why *wireError) {
	w.push(w.speaks().observeResult(id, iii.ObserverStateError, why, nil))
}

// build creates an observer from a message and validates it. If the source does not exist yet,
// settings that depend on the source are not validated.
func (t *observers) build(w *worker, m observeMessage) (o *observer, warnings []string, bad *wireError) {
	source, bad := namespaceOf("source.namespace", m.Source.Namespace, defaultNamespace)
	if bad != nil {
		return nil, nil, bad
	}
	target, bad := namespaceOf("target.namespace", m.Target.Namespace, defaultNamespace)
	if bad != nil {
		return nil, nil, bad
	}
	o = &observer{
		id: m.ID, source: key{source, m.Source.FunctionID}, target: key{target, m.Target.FunctionID},
		args: m.Source.Args, capture: []string{"input", "output", "caller"},
		on: cmp.Or(text(m.Source.On), "success"), deliver: cmp.Or(text(m.Source.Deliver), "envelope"),
		metadata: m.Metadata, expiresIn: m.ExpiresInMS, state: iii.ObserverStatePending,
	}
	if m.Source.Capture != nil {
		o.capture = *m.Source.Capture
	}
	if m.MaxFires != nil {
		o.maxFires = max(*m.MaxFires, 1)
	}
	if m.MaxInFlight != nil {
		o.maxInFlight = max(*m.MaxInFlight, 1)
	}
	switch {
	case m.ID == "" || m.Source.FunctionID == "" || m.Target.FunctionID == "":
		return nil, nil, errorBody("INVALID_ARGS", "an observer needs an id, a source and a target")
	case o.args != nil && kindOf(o.args) != '{':
		return nil, nil, errorBody("INVALID_ARGS", "args are not an object")
	case o.source == o.target:
		return nil, nil, errorBody("SELF_TARGET", "function '%s' cannot be the target of its own observer", o.source.id)
	}
	if o.filter, bad = parseFilter(m.Source.Filters); bad != nil {
		return nil, nil, bad
	}
	o.dialect = w.speaks()
	if f := t.seen(o.dialect, o.target); f != nil && f.private && f.owner != w {
		return nil, nil, errorBody("FORBIDDEN", "function '%s' is private", o.target.id)
	}
	if o.given = o.args != nil; !o.given {
		o.args = json.RawMessage("{}")
	}
	if f := t.seen(o.dialect, o.source); f != nil {
		if warnings, bad = o.check(f); bad != nil {
			return nil, nil, bad
		}
	}
	return o, warnings, nil
}

// check validates an observer against its source.
func (o *observer) check(f *function) (warnings []string, bad *wireError) {
	switch {
	case f.unobservable:
		return nil, errorBody("NOT_OBSERVABLE", "function '%s' cannot be observed", f.id)
	case f.args == nil && o.given:
		return nil, errorBody("INVALID_ARGS", "function '%s' takes no args", f.id)
	}
	if f.args != nil {
		if err := f.args.validate(o.args); err != nil {
			return nil, errorBody("INVALID_ARGS", "args of '%s': %v", f.id, err)
		}
	}
	return o.filter.check(f)
}

// add adds a new observer and replies to its observe message.
func (t *observers) add(w *worker, o *observer, warnings []string) {
	t.seq++
	o.seq, o.owner = t.seq, w
	f := t.seen(o.dialect, o.source)
	if f != nil && !f.hostApproves() {
		if bad := t.bind(o, f); bad != nil {
			t.refuse(w, o.id, bad)
			return
		}
		o.accepted = true
	}
	t.enter(o)
	t.startExpiry(o)
	t.updateState(o)
	o.answered = true
	w.push(w.speaks().observeResult(o.id, o.state, nil, warnings))
	if f != nil && f.hostApproves() {
		t.announce(o, f)
	}
}

// startExpiry starts o's time to live, if it has one.
func (t *observers) startExpiry(o *observer) {
	stopTimer(&o.expiry)
	if o.expiresIn == nil {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(milliseconds(*o.expiresIn), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.byID[o.id] == o && o.expiry == timer && t.engine.ctx.Err() == nil {
			t.dispose(o, errorBody("EXPIRED", "the time of the observer is over"), false)
		}
	})
	o.expiry = timer
}

func (t *observers) enter(o *observer) {
	t.byID[o.id] = o
	t.bySource[o.source] = append(t.bySource[o.source], o)
	o.since = t.eventsQueued()
	for _, old := range slices.Clone(t.away[o.source]) {
		if old.target == o.target {
			t.forgetAway(old)
		}
	}
	t.watch(o.source)
}

// watch updates the count of a source's observers, which includes those remembered by
// rememberAway. The count can be read without a lock.
func (t *observers) watch(source key) {
	if n := len(t.bySource[source]) + len(t.away[source]); n > 0 {
		t.watched.Store(source, n)
	} else {
		t.watched.Delete(source)
	}
}

// rememberAway remembers a disposed observer whose worker has disconnected, if the engine
// hosts the source. Events that the observer misses are logged until an observer with the same
// target is added.
func (t *observers) rememberAway(o *observer) {
	sameTarget := func(other *observer) bool { return other.target == o.target }
	f := t.seen(o.dialect, o.source)
	if f == nil || f.owner != nil || slices.ContainsFunc(t.bySource[o.source], sameTarget) || strings.HasPrefix(o.source.id, "engine::") {
		return
	}
	for _, old := range slices.Clone(t.away[o.source]) {
		if old.target == o.target && string(old.view()) == string(o.view()) {
			t.forgetAway(old)
		}
	}
	if len(t.away[o.source]) >= maxAway {
		t.forgetAway(t.away[o.source][0])
	}
	if o.source.id == cronTick && t.engine.cron.added(o) != nil { // cron must keep ticking
		return
	}
	t.away[o.source] = append(t.away[o.source], o)
	t.watch(o.source)
}

// forgetAway undoes rememberAway.
func (t *observers) forgetAway(o *observer) {
	if o.source.id == cronTick {
		t.engine.cron.removed(o)
	}
	t.away[o.source] = slices.DeleteFunc(t.away[o.source], func(x *observer) bool { return x == o })
	t.watch(o.source)
}

// lost logs each observer that misses an event because its worker has disconnected or its
// target does not exist. The event comes from source, which the engine hosts.
func (t *observers) lost(source key, doc *document, only func(o *observer) bool) {
	for _, o := range slices.Concat(t.bySource[source], t.away[source]) {
		if t.seen(o.dialect, source) == nil || o.state == iii.ObserverStateActive || o.state == iii.ObserverStateError || !o.wantsOutcome(false) || !o.filter.matches(doc) || only != nil && !only(o) {
			continue
		}
		if slices.ContainsFunc(t.bySource[source], func(x *observer) bool { return x.target == o.target && x.state == iii.ObserverStateActive }) {
			continue // another worker has taken over
		}
		if o.mentioned && strings.HasPrefix(source.id, "observability::") {
			continue // log frequent events only once
		}
		reason := triggerAway // also if the worker has removed its observer before it left
		if o.reason != nil && o.state != iii.ObserverStateDisposed {
			reason = o.reason.Message
		}
		o.mentioned = true
		t.engine.workerAway(bindingOf(o), reason)
	}
}

func (t *observers) leave(o *observer) {
	delete(t.byID, o.id)
	list := slices.DeleteFunc(t.ofSource(o.source), func(x *observer) bool { return x == o })
	if t.bySource[o.source] = list; len(list) == 0 {
		delete(t.bySource, o.source)
	}
	t.watch(o.source)
}

// replay updates an observer that has been sent again. The new settings replace the old ones.
// The number of activations is kept, and so is the expiry, unless expires_in_ms has changed. If
// the message changes what the source depends on, the observer is announced to the source's host
// again.
func (t *observers) replay(w *worker, old, o *observer, warnings []string) {
	t.adopt(old, w)
	changed := old.source != o.source || old.target != o.target || string(old.view()) != string(o.view()) || t.misplaced(old)
	f := t.seen(old.dialect, old.source)
	if changed {
		t.retract(old, t.function(old.source))
		t.leave(old)
	}
	old.source, old.target, old.args, old.given, old.filter = o.source, o.target, o.args, o.given, o.filter
	old.capture, old.on, old.deliver, old.metadata = o.capture, o.on, o.deliver, o.metadata
	old.maxFires, old.maxInFlight = o.maxFires, o.maxInFlight
	if !reflect.DeepEqual(old.expiresIn, o.expiresIn) {
		old.expiresIn = o.expiresIn
		t.startExpiry(old)
	}
	if changed {
		t.enter(old)
		if f = t.seen(old.dialect, old.source); f != nil && !f.hostApproves() {
			if bad := t.bind(old, f); bad != nil {
				t.dispose(old, bad, false)
				t.refuse(w, old.id, bad)
				return
			}
			old.accepted = true
		}
	}
	t.updateState(old)
	old.answered = true
	w.push(w.speaks().observeResult(old.id, old.state, nil, warnings))
	if changed && f != nil && f.hostApproves() {
		t.announce(old, f)
	}
	t.launchWaiting(old) // max_in_flight may have been raised
	t.checkMaxFires(old)
}

func (t *observers) adopt(o *observer, w *worker) {
	stopTimer(&o.grace)
	o.owner, o.answered, o.former = w, false, former{}
	o.dialect = w.speaks()
}

// misplaced reports whether o's source, which is part of the engine, has yet to accept or
// release o. This happens if the owner has reconnected with a protocol in which the source is
// new or does not exist.
func (t *observers) misplaced(o *observer) bool {
	f := t.function(o.source)
	return f != nil && !f.hostApproves() && o.failed == nil && (t.seen(o.dialect, o.source) != nil) != o.accepted
}

// bind asks a source in the engine to accept an observer.
func (t *observers) bind(o *observer, f *function) *wireError {
	if f.source == nil {
		return nil
	}
	if bad := f.source.added(o); bad != nil {
		return bad
	}
	o.bound = f.source
	return nil
}

func (t *observers) unbind(o *observer) {
	if o.bound == nil {
		return
	}
	if o.running {
		o.bound.switched(o, false)
		o.running = false
	}
	o.bound.removed(o)
	o.bound = nil
}

// retract removes an observer from its host.
func (t *observers) retract(o *observer, f *function) {
	t.unbind(o)
	stopTimer(&o.ack)
	if o.announced > 0 && f != nil && f.hostApproves() {
		f.owner.push(f.owner.speaks().observerRemoved(f.hostKey(), t.next(f), o.id))
	}
	o.accepted, o.announced = false, 0
}

// next returns the next revision of f's observer set.
func (t *observers) next(f *function) uint64 {
	k := key{f.namespace, f.id}
	t.revisions[k]++
	return t.revisions[k]
}

// announce sends a new observer to f's host.
func (t *observers) announce(o *observer, f *function) {
	if !f.announced {
		return // the host is about to receive the whole set
	}
	revision := t.next(f)
	f.owner.push(f.owner.speaks().observerAdded(f.hostKey(), revision, o.view()))
	t.await(o, revision)
}

// await starts the timeout for the host's acknowledgment.
func (t *observers) await(o *observer, revision uint64) {
	o.accepted, o.announced = false, revision
	stopTimer(&o.ack)
	o.ack = time.AfterFunc(ackTimeout, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.byID[o.id] == o && o.announced == revision && !o.accepted && t.engine.ctx.Err() == nil {
			t.retract(o, t.function(o.source)) // otherwise the host could still activate it later
			t.fail(o, errorBody("OWNER_TIMEOUT", "the host of '%s' did not accept the observer within %v", o.source.id, ackTimeout))
		}
	})
}

// hostChanged updates the observers of a function that was registered, replaced or removed.
func (t *observers) hostChanged(k key) {
	f := t.function(k)
	list := t.ofSource(k)
	for _, o := range list {
		t.unbind(o)
		stopTimer(&o.ack)
		o.accepted, o.announced = false, 0
		if t.seen(o.dialect, k) == nil || o.failed != nil {
			continue
		}
		_, bad := o.check(f)
		if bad == nil && !f.hostApproves() {
			bad = t.bind(o, f)
			o.accepted = bad == nil
		}
		if bad != nil {
			o.failed = bad
		}
	}
	if f != nil && f.hostNotified() {
		t.announceSet(f)
	}
	for _, o := range t.inOrder() {
		if o.source == k || o.target == k {
			t.updateState(o)
		}
	}
}

// announceSet sends f's host the complete set of f's observers. Observers that the host has
// already accepted stay accepted.
func (t *observers) announceSet(f *function) {
	var views []json.RawMessage
	var told []*observer
	for _, o := range t.ofSource(key{f.namespace, f.id}) {
		if o.failed == nil && f.hostApproves() {
			views, told = append(views, o.view()), append(told, o)
		}
	}
	revision := t.revisions[key{f.namespace, f.id}]
	if len(told) > 0 {
		revision = t.next(f)
	}
	f.announced = true
	f.owner.push(f.owner.speaks().functionRegistered(f.hostKey(), revision, t.engine.dispatchesLocally(f), views))
	for _, o := range told {
		if o.accepted {
			o.announced = revision
		} else {
			t.await(o, revision)
		}
	}
}

// dispatchesLocally reports whether f's host may run its own calls to f in process.
func (e *Engine) dispatchesLocally(f *function) bool {
	p := f.owner.permissions
	return !e.local.Load() && f.owner.speaks().local && f.builtin == nil && (p == nil || p.guard.MiddlewareFunctionID == "")
}

// SetLocalDispatch changes the setting made by WithLocalDispatch. It notifies workers by
// resending the functionregistered messages for their functions.
func (e *Engine) SetLocalDispatch(on bool) {
	t := &e.observers
	t.mu.Lock()
	defer t.mu.Unlock()
	e.local.Store(!on)
	for _, f := range e.functionsWhere(func(f *function) bool { return f.hostNotified() && f.announced }) {
		t.announceSet(f)
	}
}

// functionsWhere returns the functions for which keep returns true, in order of registration.
func (e *Engine) functionsWhere(keep func(*function) bool) []*function {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*function
	for _, f := range e.functions {
		if keep(f) {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *function) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// declared handles a worker's list of features. It sends the worker the observers of all
// functions that the worker registered before sending the list.
func (t *observers) declared(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.engine.functionsWhere(func(f *function) bool { return f.owner == w && f.hostNotified() && !f.announced }) {
		t.hostChanged(key{f.namespace, f.id})
	}
}

// acked handles a host's acknowledgment or rejection of an observer.
func (t *observers) acked(w *worker, home string, m observerAckMessage) {
	ns, bad := namespaceOf("namespace", m.Namespace, home)
	if bad != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.engine.hosted(w, ns, m.FunctionID)
	o, f := t.byID[m.ID], t.function(k)
	if o == nil || o.source != k || f == nil || f.owner != w || o.announced == 0 || o.failed != nil {
		return
	}
	if refusal, _ := decodeError(m.Error); refusal != nil {
		if o.accepted { // the host rejects the observer after accepting it
			t.retract(o, f)
		}
		t.fail(o, refusal)
		return
	}
	if m.Revision < o.announced || o.accepted {
		return
	}
	stopTimer(&o.ack)
	o.accepted = true
	t.updateState(o)
}

// fail puts an observer in the error state. After that, only its owner can dispose of it.
func (t *observers) fail(o *observer, why *wireError) {
	t.unbind(o)
	stopTimer(&o.ack)
	o.failed, o.accepted, o.announced, o.waiting = why, false, 0, nil
	t.updateState(o)
}

func (t *observers) updateState(o *observer) {
	state, reason := iii.ObserverStateActive, (*wireError)(nil)
	f, target := t.seen(o.dialect, o.source), t.seen(o.dialect, o.target)
	was := o.state == iii.ObserverStateActive || o.state == iii.ObserverStateSuspended
	switch {
	case o.failed != nil:
		state, reason = iii.ObserverStateError, o.failed
	case o.owner == nil && !o.trigger:
		state, reason = iii.ObserverStateSuspended, errorBody("OBSERVER_DISCONNECTED", "the observing worker is away")
	case f == nil:
		state, reason = iii.ObserverStatePending, errorBody("OWNER_UNAVAILABLE", "function '%s' is not registered in namespace '%s'", o.source.id, o.source.namespace)
	case !o.accepted:
		state = iii.ObserverStatePending
	case target == nil:
		state, reason = iii.ObserverStatePending, errorBody("TARGET_UNAVAILABLE", "function '%s' is not registered in namespace '%s'", o.target.id, o.target.namespace)
		if was {
			state = iii.ObserverStateSuspended
		}
	}
	t.enterState(o, state, reason)
}

func (t *observers) enterState(o *observer, state iii.ObserverState, reason *wireError) {
	changed := o.state != state
	o.state, o.reason = state, reason
	if active := state == iii.ObserverStateActive; o.bound != nil && o.running != active {
		o.running = active
		o.bound.switched(o, active)
	}
	if !changed {
		return
	}
	o.mentioned = false
	if o.owner != nil && o.trigger && state == iii.ObserverStateError {
		o.owner.push(o.owner.speaks().triggerResult(o.id, o.source.id, o.target.id, reason))
	}
	if o.owner != nil && o.answered {
		o.owner.push(o.owner.speaks().observerState(o.id, state, reason, o.fires))
	}
	t.engine.observerChanged(o)
}

// dispose ends an observer permanently. Activations held back by max_in_flight are still
// delivered if deliver is set, and discarded otherwise.
func (t *observers) dispose(o *observer, reason *wireError, deliver bool) {
	if t.byID[o.id] != o {
		return
	}
	t.retract(o, t.function(o.source))
	stopTimer(&o.expiry)
	stopTimer(&o.grace)
	t.leave(o)
	if !deliver {
		o.waiting = nil
	}
	t.enterState(o, iii.ObserverStateDisposed, reason)
}

// unobserve disposes of the observer with the given id and returns it. If w does not own such
// an observer, unobserve returns nil.
func (t *observers) unobserve(w *worker, id string) *observer {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.byID[id]
	if o == nil || o.owner != w || o.trigger {
		return nil
	}
	t.dispose(o, errorBody("UNOBSERVED", "disposed by the observing worker"), false)
	return o
}

// forget handles the end of a connection, after its functions have been removed. The
// connection's observers survive for a grace period.
func (t *observers) forget(w *worker, functions []key) {
	for _, k := range functions {
		t.hostChanged(k)
	}
	_, takenBack := w.takenBack.all()
	for _, o := range takenBack {
		t.rememberAway(o)
	}
	for _, o := range t.inOrder() {
		if o.owner != w || o.trigger { // removed by forgetTriggers
			continue
		}
		o.owner, o.answered = nil, false
		if o.former == (former{}) {
			o.former = former{w.id, w.token}
		}
		o.grace = time.AfterFunc(observerGrace, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.byID[o.id] == o && o.owner == nil && t.engine.ctx.Err() == nil {
				t.dispose(o, errorBody("OBSERVER_DISCONNECTED", "the observing worker did not come back within %v", observerGrace), false)
				t.rememberAway(o)
			}
		})
		t.updateState(o)
	}
}

// reattach transfers a lost connection's observers to its successor w. If w does not support
// observers, reattach disposes of them instead.
//
// Until an observer has been sent again on w, another connection can still claim it with the
// previous id. This covers a worker that disconnects before it has read w's greeting. Such a
// worker does not know w's id, so its next connection sends the previous id again.
func (t *observers) reattach(w *worker, previous former) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.inOrder() {
		switch {
		case o.former != previous || o.owner == w:
		case w.speaks().protocol < Protocol025:
			t.dispose(o, errorBody("UNSUPPORTED", "the engine of the new connection has no observers"), false)
		default:
			t.adopt(o, w)
			o.former = previous
			if o.accepted && t.misplaced(o) {
				t.retract(o, t.function(o.source))
			}
			t.updateState(o)
		}
	}
}

// addStandIn creates an observer that represents a trigger if a function has claimed the
// trigger's type with legacy_trigger_type, as in engine 0.25. It reports whether there is such
// a function. The caller must hold triggers.mu.
func (t *observers) addStandIn(r *registration) bool {
	namespaces := []string{r.home, defaultNamespace}
	if r.explicit != nil {
		namespaces = []string{*r.explicit}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, namespace := range namespaces {
		list := t.engine.functionsWhere(func(f *function) bool {
			return f.namespace == namespace && f.legacyType == r.triggerType
		})
		if len(list) == 0 {
			continue
		}
		t.createStandIn(r, list[0])
		return true
	}
	return false
}

// createStandIn creates the observer of f that represents r.
func (t *observers) createStandIn(r *registration, f *function) {
	t.seq++
	o := &observer{
		id: r.id, seq: t.seq, owner: r.origin, trigger: true,
		source: key{f.namespace, f.id}, target: key{r.namespace, r.functionID},
		args: json.RawMessage("{}"), capture: []string{"input", "output", "caller"}, on: "success", deliver: "envelope",
		metadata: r.metadata, state: iii.ObserverStatePending,
		legacy: new(object).str("trigger_type", r.triggerType).raw("config", r.config).bytes(),
	}
	o.filter, _ = parseFilter(nil)
	if old := t.byID[o.id]; old != nil {
		t.dispose(old, errorBody("UNOBSERVED", "a trigger has its id"), false)
	}
	if f.args != nil {
		if o.given = true; kindOf(r.config) == '{' {
			o.args = r.config
		}
	}
	t.enter(o)
	if _, bad := o.check(f); bad != nil {
		t.fail(o, bad)
		return
	}
	if f.hostApproves() {
		t.updateState(o)
		t.announce(o, f)
		return
	}
	o.accepted = true
	t.updateState(o)
}

// removeStandIn disposes of the observer that represents a trigger. The caller must hold
// triggers.mu.
func (t *observers) removeStandIn(r *registration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.byID[r.id]; o != nil && o.trigger {
		t.dispose(o, errorBody("UNOBSERVED", "its trigger is gone"), false)
	}
}

func stopTimer(timer **time.Timer) {
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
}

func (t *observers) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.byID {
		stopTimer(&o.ack)
		stopTimer(&o.expiry)
		stopTimer(&o.grace)
	}
}

// milliseconds converts n to a duration, capped at the maximum duration.
func milliseconds(n uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(n, most)) * time.Millisecond
}

func newActivationID() string { return uuid.NewString() }
