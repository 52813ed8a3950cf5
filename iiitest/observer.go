package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

const (
	// observerGrace is how long an observer outlives the connection of its owner.
	observerGrace = 5 * time.Second
	// ackTimeout is how long a host has to accept an observer.
	ackTimeout = 30 * time.Second
	// maxObserveDepth is the maximum length of a chain of activations.
	maxObserveDepth = 8
)

// observer connects a source to a target: a call of the source causes a call of the
// target.
type observer struct {
	id       string
	seq      uint64
	source   key
	target   key
	args     json.RawMessage // an object
	given    bool            // args were sent, possibly empty
	filter   *filter
	capture  []string
	on       string
	deliver  string
	metadata json.RawMessage
	legacy   json.RawMessage // of a trigger of 0.25

	maxFires    uint64 // 0: no limit
	maxInFlight uint32 // 0: no limit
	expiry      *time.Timer

	owner    *worker // the observing worker; nil while it is away
	former   former  // the previous owner, until the new one has sent the observer
	grace    *time.Timer
	answered bool // its owner has received the observeresult on this connection
	trigger  bool // it represents a trigger, which is what its owner sees

	// The inputs of the state.
	state     iii.ObserverState
	reason    *wireError
	failed    *wireError // reason of the state error
	accepted  bool       // by its host, since the function was registered
	announced uint64     // revision of the announcement to the host; 0 if there was none
	ack       *time.Timer
	bound     hostedSource // the source inside the engine that serves it, or nil
	running   bool         // the source inside the engine was notified that it is active

	fires    uint64
	inFlight uint32
	waiting  []*request // activations that max_in_flight holds back
	dropped  uint64

	mentioned bool // lost events have been logged since the last change of state
}

// former identifies a connection that has ended.
type former struct{ id, token string }

// hostedSource is a function of the engine that has hooks for its observers. The engine
// calls the methods one at a time; they must not call back.
type hostedSource interface {
	added(o *observer) *wireError // an error rejects the observer
	removed(o *observer)
	// switched is called between added and removed, when the observer becomes active or
	// stops being active.
	switched(o *observer, active bool)
}

// observers is the table of observers. Its lock comes after that of the triggers and
// before all others; see Engine.
type observers struct {
	engine *Engine

	mu        sync.Mutex
	byID      map[string]*observer
	bySource  map[key][]*observer // oldest first
	away      map[key][]*observer // by source: disposed observers whose workers have left; see left
	revisions map[key]uint64      // of the sets of observers, by function
	seq       uint64
	stats     map[key]*localStats
	inactive  uint64 // activations without an active observer

	watched sync.Map // number of observers of a function, by its key

	events struct {
		mu   sync.Mutex
		list []sourceEvent
		wake chan struct{} // capacity 1
	}
}

func (t *observers) init(e *Engine) {
	t.engine = e
	t.byID, t.bySource, t.away = map[string]*observer{}, map[key][]*observer{}, map[key][]*observer{}
	t.revisions, t.stats = map[key]uint64{}, map[key]*localStats{}
	t.events.wake = make(chan struct{}, 1)
}

// of returns the observers of a function, oldest first. The caller holds mu, as for
// every method that does not lock it.
func (t *observers) of(source key) []*observer { return slices.Clone(t.bySource[source]) }

func (t *observers) inOrder() []*observer {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *observer) int { return cmp.Compare(a.seq, b.seq) })
}

// function returns the function of a key, or nil.
func (t *observers) function(k key) *function {
	t.engine.mu.Lock()
	defer t.engine.mu.Unlock()
	return t.engine.functions[k]
}

// hostApproves reports whether the host of f approves its observers.
func (f *function) hostApproves() bool {
	return f.owner != nil && f.builtin == nil && f.owner.speaks().observes
}

// hostNotified reports whether the host of f receives frames about its observers.
func (f *function) hostNotified() bool { return f.owner != nil && f.owner.speaks().observes }

// hostKey returns the key of a function as its host uses it.
func (f *function) hostKey() key {
	return key{f.namespace, f.registered}
}

// view returns an observer as its host sees it. The view does not contain the observer's
// deliver setting. Hosts report only the captured parts of local calls, so the part to deliver
// is added to the captured parts.
func (o *observer) view() json.RawMessage {
	capture := append([]string{}, o.capture...)
	if delivered := o.deliver == "input" || o.deliver == "output"; delivered && !slices.Contains(capture, o.deliver) {
		capture = append(capture, o.deliver)
	}
	return new(object).str("id", o.id).raw("args", o.args).raw("filters", o.filter.normal).str("target", o.target.id).
		raw("capture", mustEncode(capture)).str("on", o.on).raw("legacy", o.legacy).bytes()
}

// captures reports whether an observer requests a part of a call.
func (o *observer) captures(part string) bool { return slices.Contains(o.capture, part) }

// observe handles an observe message of w: it adds the observer, or treats a known id
// as a replay. If the observer is rejected, the answer contains the reason.
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
	case old != nil && bad == nil && old.failed != nil && old.failed.Code != "": // a rejected observer ends here
		bad = old.failed
	}
	if bad != nil {
		if old != nil {
			old.owner, old.answered = w, false // it receives the rejection only
			t.dispose(old, bad, false)
		}
		t.refuse(w, m.ID, bad)
		return
	}
	if old == nil {
		t.add(w, o, m, warnings)
		return
	}
	t.replay(w, old, o, warnings)
}

func (t *observers) refuse(w *worker, id string, why *wireError) {
	w.push(w.speaks().observeResult(id, iii.ObserverStateError, why, nil))
}

// build creates an observer from a message and validates it, as far as its source is
// known.
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
		metadata: m.Metadata, state: iii.ObserverStatePending,
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
	if f := t.function(o.target); f != nil && f.private && f.owner != w {
		return nil, nil, errorBody("FORBIDDEN", "function '%s' is private", o.target.id)
	}
	if o.given = o.args != nil; !o.given {
		o.args = json.RawMessage("{}")
	}
	if f := t.function(o.source); f != nil {
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

// add adds a new observer and answers its observe message.
func (t *observers) add(w *worker, o *observer, m observeMessage, warnings []string) {
	t.seq++
	o.seq, o.owner = t.seq, w
	f := t.function(o.source)
	if f != nil && !f.hostApproves() {
		if bad := t.bind(o, f); bad != nil {
			t.refuse(w, o.id, bad)
			return
		}
		o.accepted = true
	}
	t.enter(o)
	if m.ExpiresInMS != nil {
		o.expiry = time.AfterFunc(milliseconds(*m.ExpiresInMS), func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.byID[o.id] == o && t.engine.ctx.Err() == nil {
				t.dispose(o, errorBody("EXPIRED", "the time of the observer is over"), false)
			}
		})
	}
	t.updateState(o)
	o.answered = true
	w.push(w.speaks().observeResult(o.id, o.state, nil, warnings))
	if f != nil && f.hostApproves() {
		t.announce(o, f)
	}
}

// enter adds an observer to the table.
func (t *observers) enter(o *observer) {
	t.byID[o.id] = o
	t.bySource[o.source] = append(t.bySource[o.source], o)
	for _, old := range slices.Clone(t.away[o.source]) {
		if old.target == o.target {
			t.returned(old)
		}
	}
	t.watch(o.source)
}

// watch updates the number of observers of a source, which occur and ask read without a lock.
func (t *observers) watch(source key) {
	if n := len(t.bySource[source]) + len(t.away[source]); n > 0 {
		t.watched.Store(source, n)
	} else {
		t.watched.Delete(source)
	}
}

// left remembers an observer of a source inside the engine whose worker has left. Events
// that it misses are logged until another observer has the same target.
func (t *observers) left(o *observer) {
	sameTarget := func(other *observer) bool { return other.target == o.target }
	f := t.function(o.source)
	if f == nil || f.owner != nil || slices.ContainsFunc(t.bySource[o.source], sameTarget) || strings.HasPrefix(o.source.id, "engine::") {
		return
	}
	for _, old := range slices.Clone(t.away[o.source]) {
		if old.target == o.target && string(old.view()) == string(o.view()) {
			t.returned(old)
		}
	}
	if len(t.away[o.source]) >= maxAway {
		t.returned(t.away[o.source][0])
	}
	if o.source.id == cronTick && t.engine.cron.added(o) != nil { // the ticks continue
		return
	}
	t.away[o.source] = append(t.away[o.source], o)
	t.watch(o.source)
}

// returned forgets an observer that left remembers.
func (t *observers) returned(o *observer) {
	if o.source.id == cronTick {
		t.engine.cron.removed(o)
	}
	t.away[o.source] = slices.DeleteFunc(t.away[o.source], func(x *observer) bool { return x == o })
	t.watch(o.source)
}

// lost logs the observers of a source inside the engine that miss an event because their
// worker or their target is away.
func (t *observers) lost(source key, doc *document, only func(o *observer) bool) {
	for _, o := range slices.Concat(t.bySource[source], t.away[source]) {
		if o.state == iii.ObserverStateActive || o.state == iii.ObserverStateError || !o.interests(false) || !o.filter.matches(doc) || only != nil && !only(o) {
			continue
		}
		if slices.ContainsFunc(t.bySource[source], func(x *observer) bool { return x.target == o.target && x.state == iii.ObserverStateActive }) {
			continue // another worker has taken over
		}
		if o.mentioned && strings.HasPrefix(source.id, "observability::") {
			continue // logged only once, because events are frequent
		}
		reason := triggerAway
		if o.reason != nil {
			reason = o.reason.Message
		}
		o.mentioned = true
		t.engine.workerAway(bindingOf(o), reason)
	}
}

// leave removes an observer from the table.
func (t *observers) leave(o *observer) {
	delete(t.byID, o.id)
	list := slices.DeleteFunc(t.of(o.source), func(x *observer) bool { return x == o })
	if t.bySource[o.source] = list; len(list) == 0 {
		delete(t.bySource, o.source)
	}
	t.watch(o.source)
}

// replay updates an observer that a connection sends again: the new content replaces
// the old, while the count of activations and the expiry continue.
func (t *observers) replay(w *worker, old, o *observer, warnings []string) {
	t.adopt(old, w)
	changed := old.source != o.source || string(old.view()) != string(o.view())
	f := t.function(old.source)
	if changed {
		t.retract(old, f)
		t.leave(old)
	}
	old.source, old.target, old.args, old.given, old.filter = o.source, o.target, o.args, o.given, o.filter
	old.capture, old.on, old.deliver, old.metadata = o.capture, o.on, o.deliver, o.metadata
	old.maxFires, old.maxInFlight = o.maxFires, o.maxInFlight
	if changed {
		t.enter(old)
		if f = t.function(old.source); f != nil && !f.hostApproves() {
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
}

// adopt makes w the owner of an observer.
func (t *observers) adopt(o *observer, w *worker) {
	stopTimer(&o.grace)
	o.owner, o.answered, o.former = w, false, former{}
}

// bind makes a source inside the engine accept an observer.
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

// retract withdraws an observer from its host.
func (t *observers) retract(o *observer, f *function) {
	t.unbind(o)
	stopTimer(&o.ack)
	if o.announced > 0 && f != nil && f.hostApproves() {
		f.owner.push(f.owner.speaks().observerRemoved(f.hostKey(), t.next(f), o.id))
	}
	o.accepted, o.announced = false, 0
}

// next returns the next revision of the observers of a function.
func (t *observers) next(f *function) uint64 {
	k := key{f.namespace, f.id}
	t.revisions[k]++
	return t.revisions[k]
}

// announce sends a new observer to the host of f.
func (t *observers) announce(o *observer, f *function) {
	if !f.announced {
		return // the whole set follows soon
	}
	revision := t.next(f)
	f.owner.push(f.owner.speaks().observerAdded(f.hostKey(), revision, o.view()))
	t.await(o, revision)
}

// await starts the timeout for the host's answer.
func (t *observers) await(o *observer, revision uint64) {
	o.accepted, o.announced = false, revision
	stopTimer(&o.ack)
	o.ack = time.AfterFunc(ackTimeout, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.byID[o.id] == o && o.announced == revision && !o.accepted && t.engine.ctx.Err() == nil {
			t.retract(o, t.function(o.source)) // or the host would keep it once its hooks return
			t.fail(o, errorBody("OWNER_TIMEOUT", "the host of '%s' did not accept the observer within %v", o.source.id, ackTimeout))
		}
	})
}

// hostChanged handles a change of a function: registered, replaced or removed.
func (t *observers) hostChanged(k key) {
	f := t.function(k)
	list := t.of(k)
	for _, o := range list {
		t.unbind(o)
		stopTimer(&o.ack)
		o.accepted, o.announced = false, 0
		if f == nil || o.failed != nil {
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

// announceSet sends a host all observers of its function. Observers that the host has
// accepted since it registered the function stay accepted.
func (t *observers) announceSet(f *function) {
	var views []json.RawMessage
	var told []*observer
	for _, o := range t.of(key{f.namespace, f.id}) {
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

// dispatchesLocally reports whether the host of f may run its own calls of f in process.
func (e *Engine) dispatchesLocally(f *function) bool {
	p := f.owner.permissions
	return !e.local.Load() && f.owner.speaks().local && f.builtin == nil && (p == nil || p.guard.MiddlewareFunctionID == "")
}

// SetLocalDispatch changes the setting of WithLocalDispatch and notifies the workers:
// each receives the functionregistered messages of its functions again.
func (e *Engine) SetLocalDispatch(on bool) {
	t := &e.observers
	t.mu.Lock()
	defer t.mu.Unlock()
	e.local.Store(!on)
	for _, f := range e.functionsWhere(func(f *function) bool { return f.hostNotified() && f.announced }) {
		t.announceSet(f)
	}
}

// functionsWhere returns the selected functions in the order of their registration.
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

// declared handles the features of a worker: it announces what the worker has
// registered before.
func (t *observers) declared(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.engine.functionsWhere(func(f *function) bool { return f.owner == w && f.hostNotified() && !f.announced }) {
		t.hostChanged(key{f.namespace, f.id})
	}
}

// acked handles a host's answer about an observer.
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
		if o.accepted { // a late rejection
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

// fail puts an observer in the state error. Only its owner can dispose it.
func (t *observers) fail(o *observer, why *wireError) {
	t.unbind(o)
	stopTimer(&o.ack)
	o.failed, o.accepted, o.announced, o.waiting = why, false, 0, nil
	t.updateState(o)
}

// updateState recomputes the state of an observer.
func (t *observers) updateState(o *observer) {
	state, reason := iii.ObserverStateActive, (*wireError)(nil)
	f, target := t.function(o.source), t.function(o.target)
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

// dispose ends an observer permanently. Activations that wait for max_in_flight are
// discarded, or delivered if deliver is set.
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

// unobserve disposes an observer for its owner and returns it. It silently ignores
// observers of other owners.
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

// forget handles the end of a connection after its functions have been removed. Its
// observers survive for a grace period.
func (t *observers) forget(w *worker, functions []key) {
	for _, k := range functions {
		t.hostChanged(k)
	}
	_, takenBack := w.takenBack.all()
	for _, o := range takenBack {
		t.left(o)
	}
	for _, o := range t.inOrder() {
		if o.owner != w || o.trigger { // a trigger ends with its connection, see forgetTriggers
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
				t.left(o)
			}
		})
		t.updateState(o)
	}
}

// reattach transfers the observers of a lost connection to w, which replaces that
// connection. Until w has sent them again, another connection can claim them: if w loses
// its connection before it reads the hello, it does not know its id on this connection,
// and its next connection names the previous id. Connections without observers transfer
// none.
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
			t.updateState(o)
		}
	}
}

// standsFor creates an observer that represents a trigger, if a function has claimed the
// trigger's type (legacy_trigger_type), as engine 0.25 does. It reports whether there is
// such a function. triggers.mu is held.
func (t *observers) standsFor(r *registration) bool {
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
		t.stand(r, list[0])
		return true
	}
	return false
}

// stand creates the observer of f that represents a trigger.
func (t *observers) stand(r *registration, f *function) {
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

// standsForNoMore disposes of the observer that represents a trigger. triggers.mu is held.
func (t *observers) standsForNoMore(r *registration) {
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

// stop stops the timers of all observers.
func (t *observers) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.byID {
		stopTimer(&o.ack)
		stopTimer(&o.expiry)
		stopTimer(&o.grace)
	}
}

// milliseconds converts n to a duration, limited to the longest one.
func milliseconds(n uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(n, most)) * time.Millisecond
}

// newActivationID returns the id of a new activation.
func newActivationID() string { return uuid.NewString() }
