package iii

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/routepath"
	"github.com/iii-go/iii/internal/signal"
)

// registry holds the functions, triggers and observers that this worker has registered, in
// order of registration, and keeps the engine's copy up to date. Each new link first receives
// all of them, then every change. A single lock covers both steps, so nothing is missed or
// sent twice.
//
// An engine with triggers responds to a registration only to reject it. Therefore, each batch
// is followed by a fence (a JSON ping). Registrations that have not been rejected when the
// pong arrives are treated as accepted. An engine with observers responds to every
// registration, and its responses replace the pong. A ping is still sent if functions await a
// response, because access control can deny functions silently.
//
// A trigger is sent only after its function has been accepted. Otherwise, a rejected
// function's trigger would take over the route of the worker that serves the function.
type registry struct {
	client *Client

	mu           sync.RWMutex
	closed       error // set once; all later registrations then fail
	types        []*providedType
	functions    []*Function
	triggers     []*Trigger
	heads        []*headRoute // see arrangeHeads
	functionByID map[string]*Function
	renamed      map[string]*Function // functions whose ID on the current link's engine differs, by that ID
	disregarded  []*disregarded       // in order; see disregard
	triggerByID  map[string]*Trigger  // by trigger ID, and by observer ID if that differs

	// State of the current link, if there is one.
	link       *link
	phase      replayPhase
	unfenced   []*claim // sent, but not yet followed by a fence
	fenced     []*claim // sent before the outstanding fence
	fenceOut   bool
	ponged     bool             // the fence's ping has been answered, or is not required
	probing    bool             // another ping has been sent, because the engine has not responded to observers; see overdue
	unanswered int              // number of registrations in fenced without a response
	fences     uint64           // number of the latest fence, counted across links
	fenceTimer *time.Timer      // ends the link if the fence is not answered
	held       []*Trigger       // not sent yet, in order of registration
	batch      []item           // collects what attach sends; otherwise nil
	parting    []*Function      // to be unregistered at the end of a drain
	progress   signal.Broadcast // sent when a fence has settled registrations, and when the link ends; see unsettled

	// See observe.go.
	observeFrames map[string][]*observeFrame // of the current link, by observer ID
	unobserved    []*Trigger                 // see unobserveLater

	// See takeover.go.
	refusals  []*claim             // to be retried
	nextTurn  time.Time            // earliest time for the next retry
	turns     map[string]time.Time // time of the latest attempt, by owner
	sought    map[string]bool      // unlisted owners whose registrations have been retried
	takenOver bool                 // a function was taken over since the last check by awaitOwners
	awaiting  bool                 // awaitOwners is running
	wake      chan struct{}        // capacity 1; signals work for maintain
}

// replayPhase indicates how far a link's replay of the registrations has progressed.
type replayPhase uint8

const (
	replaySettling  replayPhase = iota // trigger types and functions are sent; the engine buffers them until it knows the namespace
	replayFunctions                    // the fence after the functions is outstanding; triggers wait for it
	replayTriggers                     // triggers are sent; their fence is outstanding
	replayDone
)

func newRegistry(c *Client) *registry {
	return &registry{client: c, functionByID: map[string]*Function{}, triggerByID: map[string]*Trigger{}, wake: make(chan struct{}, 1)}
}

// attach makes l the current link. It queues the given messages, followed by the registrations
// of all trigger types and functions. l must be attached to the send queue. The fence is sent
// once the engine knows the worker's namespace. The triggers are sent once the fence has been
// answered.
func (r *registry) attach(l *link, first ...item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link, r.phase = l, replaySettling
	observes, versionKnown := l.dialect().observes(), l.isAccepted()
	r.held, r.renamed, r.disregarded = nil, nil, nil
	for _, t := range r.triggers {
		t.sent, t.delay = false, 0
		if t.former != nil && t.former.refused.Load() == nil { // the engine never responded
			t.former = nil
		}
		switch {
		case !observes && versionKnown:
			t.lingers = false
		case t.lingers && observes && !l.dialect().answers(&t.claim): // the trigger would fire twice
			r.unobserveLater(t)
		}
		switch {
		case t.final:
		case t.observer != nil && !observes:
			r.sendClaim(&t.claim) // fails immediately
		default:
			if o := t.observer; o != nil && o.reason != nil && o.reason.Code == CodeUnsupported {
				o.change(ObserverStatePending, nil)
			}
			r.held = append(r.held, t)
		}
	}
	if !observes && versionKnown {
		for _, t := range r.unobserved {
			if t.observer != nil { // not a trigger, which this engine does not have as an observer
				r.client.out.stats.heldDropped.Add(1)
			}
		}
		r.unobserved = nil
	}
	// Push all messages at once, so that the writer can send them together.
	r.batch = append(make([]item, 0, len(first)+len(r.types)+len(r.functions)), first...)
	for _, t := range r.types {
		r.announce(t)
	}
	for _, t := range r.held {
		r.adapt(t, false)
	}
	for _, f := range r.functions {
		if !observes {
			r.stopHosting(f, versionKnown)
		}
		f.delay = 0
		r.sendClaim(&f.claim)
	}
	batch := r.batch
	r.batch = nil
	r.client.out.pushNoWait(l, batch...)
}

// stopHosting ends local calls to a function that the current link's engine does not host. It
// releases the function's observers only if the engine's version is known and not just assumed.
func (r *registry) stopHosting(f *Function, versionKnown bool) {
	if versionKnown {
		r.client.hosts.release(f)
	} else {
		f.observers.grant.Store(nil)
	}
}

// firstFence returns the number of the next link's first fence.
func (r *registry) firstFence() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.fences + 1
}

// settled records that the engine has handled this worker's registration and knows the
// worker's namespace. Before that, the engine responds to pings but only buffers
// registrations.
func (r *registry) settled(l *link) {
	r.mu.Lock()
	if r.link == l && r.phase == replaySettling {
		r.phase = replayFunctions
		r.fence()
	}
	r.mu.Unlock()
	r.confirm(l)
}

// detach removes l as the current link.
func (r *registry) detach(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l {
		return
	}
	r.link = nil
	for _, c := range r.unfenced {
		c.unfenced = false
	}
	r.unfenced, r.fenced, r.fenceOut, r.refusals = nil, nil, false, nil
	r.turns, r.sought, r.takenOver = nil, nil, false
	if r.fenceTimer != nil {
		r.fenceTimer.Stop()
	}
	for _, f := range slices.Concat(r.functions, r.parting) {
		f.standing, f.queued = unasked, false
	}
	for _, t := range r.triggers {
		t.standing, t.queued = unasked, false
	}
	r.endObserveFrames()
	r.progress.Send()
}

// unsettled returns nil if the engine has accepted or rejected every registration. Otherwise,
// it returns a channel that is closed when this may have changed. A rejected registration that
// is being retried is treated as rejected until it is accepted.
func (r *registry) unsettled() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	function := func(f *Function) bool { return f.standing == asked && f.refused.Load() == nil }
	trigger := func(t *Trigger) bool { return t.standing == asked && t.refused.Load() == nil }
	if r.link != nil && r.phase == replayDone && !slices.ContainsFunc(r.functions, function) && !slices.ContainsFunc(r.triggers, trigger) {
		return nil
	}
	return r.progress.Wait()
}

// push sends a message. The message must be encodable.
func (r *registry) push(message any) {
	if it := r.client.item(message); r.batch != nil {
		r.batch = append(r.batch, it)
	} else {
		r.client.out.pushNoWait(r.link, it)
	}
}

// sendClaim sends a registration. The next fence settles it.
func (r *registry) sendClaim(c *claim) {
	if r.link == nil {
		return
	}
	message, err := c.register(r.link.dialect())
	switch {
	case err != nil:
		r.unsupported(c, err)
		return
	case message == nil:
		c.standing = unasked
		return
	case c.trigger != nil && r.link.dialect().answers(c):
		r.observing(c.trigger)
	}
	c.standing, c.fence, c.answered = asked, r.fences+1, false
	r.push(message)
	if !c.unfenced {
		c.unfenced = true
		r.unfenced = append(r.unfenced, c)
	}
}

// takeBack unregisters a function or a trigger. Use unobserve for an observer.
func (r *registry) takeBack(c *claim) {
	if r.link == nil {
		return
	}
	if message := c.unregister(r.link.dialect()); message != nil {
		r.push(message)
	}
}

// unsupported records that the engine does not support c.
func (r *registry) unsupported(c *claim, err error) {
	c.standing, c.fence = refused, r.fences+1
	if c.function != nil {
		r.stopHosting(c.function, r.link.isAccepted())
	}
	refusal := &Error{Code: CodeUnsupported, Message: err.Error()}
	if f := c.function; f != nil {
		rejection := &RejectedError{Code: CodeUnsupported, FunctionID: f.id, Namespace: cmp.Or(r.client.cfg.namespace, defaultNamespace)}
		if f.refused.Swap(rejection) == nil && !f.quiet {
			r.client.callbacks.post(func() {
				r.client.log.Warn("iii: the engine cannot host this function", "function", f.id, "error", err)
			})
		}
		return
	}
	t := c.trigger
	t.sent = false
	if t.observer != nil {
		t.observer.change(ObserverStateError, refusal)
		return
	}
	refusal.FunctionID = t.functionID
	old := t.refused.Swap(refusal)
	known := old != nil && *old == *refusal
	r.client.callbacks.post(func() {
		if !known {
			r.client.log.Error("iii: trigger refused", "trigger", t.id, "type", t.spec.triggerType, "function", t.functionID, "error", refusal)
		}
		if t.onError != nil {
			t.onError(refusal)
		}
	})
}

// fence starts a fence after the messages sent so far. It omits the ping if the engine's
// responses alone settle the registrations. At most one fence is outstanding; messages sent in
// the meantime share the next one.
func (r *registry) fence() {
	if r.link == nil || r.fenceOut || r.phase == replaySettling {
		return
	}
	l := r.link
	r.fenceOut = true
	r.fenced, r.unfenced = r.unfenced, nil
	r.fences++
	r.unanswered, r.ponged, r.probing = 0, len(r.fenced) > 0 || l.dialect().answers(nil), false
	for _, c := range r.fenced {
		c.unfenced = false
		switch {
		case c.standing != asked || c.fence != r.fences:
		case !l.dialect().answers(c):
			r.ponged = false
		case !c.answered:
			r.unanswered++
		}
	}
	number, queued := r.fences, time.Now()
	r.fenceTimer = time.AfterFunc(registerTimeout, func() { r.overdue(l, number, queued) })
	if r.ponged && !slices.ContainsFunc(r.fenced, func(c *claim) bool { return c.function != nil && r.unconfirmed(c) }) {
		return
	}
	r.ping(l, number)
}

func (r *registry) ping(l *link, number uint64) {
	r.client.out.pushNoWait(l, item{kind: frameJSONPing, fence: func() { r.pong(l, number) }})
}

// unconfirmed reports whether the engine has yet to respond to c.
func (r *registry) unconfirmed(c *claim) bool {
	return c.standing == asked && c.fence == r.fences && !c.answered && r.link.dialect().answers(c)
}

// pong handles the response to a fence's ping. The engine responds in order, so a function
// that has received no response by now will never receive one; for example, access control can
// silently deny a function. A function that has not been rejected is treated as accepted, as
// on engines that do not confirm functions. An observer without a response stays pending.
func (r *registry) pong(l *link, number uint64) {
	var functions, observers []string
	r.mu.Lock()
	if r.link == l && r.fences == number && r.fenceOut {
		r.ponged = true
		r.disregarded = slices.DeleteFunc(r.disregarded, func(d *disregarded) bool { return d.fence <= number })
		for _, c := range r.fenced {
			switch {
			case !r.unconfirmed(c):
			case c.function != nil:
				r.answered(c)
				functions = append(functions, c.function.id)
			case r.probing:
				r.answered(c)
				r.ignored(c.trigger)
				observers = append(observers, c.trigger.spec.idOfObserver())
			}
		}
	}
	r.mu.Unlock()
	for kind, ids := range map[string][]string{"functions": functions, "observers": observers} {
		if len(ids) > 0 {
			r.client.log.LogAttrs(l.handlers, slog.LevelWarn, "iii: the engine does not confirm "+kind+"; access control may deny them",
				slog.Any(kind, ids[:min(len(ids), 20)]), slog.Int("count", len(ids)))
		}
	}
	r.confirm(l)
}

// answered records that the engine has accepted or rejected c.
func (r *registry) answered(c *claim) {
	if c.standing != asked || c.answered || r.link == nil || !r.link.dialect().answers(c) {
		return
	}
	c.answered = true
	if r.fenceOut && c.fence == r.fences {
		r.unanswered--
	}
}

// confirm settles the registrations sent before the fence, once the outcome of each is known.
func (r *registry) confirm(l *link) {
	for r.confirmed(l) {
	}
}

// overdue ends l if the engine has not answered the fence within registerTimeout, because the
// state of the registrations would otherwise remain unknown. The timeout starts when the fence
// is written, and restarts whenever the engine sends a frame, because a large message may delay
// the ping or the pong. In total, it never exceeds ten times the idle timeout.
//
// If only responses to observers are missing, overdue sends a ping. Once the engine has
// answered that ping, it will no longer send those responses.
func (r *registry) overdue(l *link, number uint64, queued time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.fences != number || !r.fenceOut {
		return
	}
	if r.ponged && !r.probing {
		r.probing = true
		r.ping(l, number)
		r.fenceTimer.Reset(registerTimeout)
		return
	}
	waited, silent := time.Since(queued), l.Silence()
	if !r.ponged || r.probing {
		silent = min(silent, r.client.out.oldestFence(l))
	}
	if silent < registerTimeout && waited < 10*r.client.cfg.idleTimeout {
		r.fenceTimer.Reset(registerTimeout - silent)
		return
	}
	l.Fail(fmt.Errorf("the engine did not answer the registrations, or the ping behind them, within %v", waited.Round(time.Millisecond)))
}

// confirmed settles the registrations sent before the fence, and reports whether it did. It
// does so once the engine has sent all of its responses and, unless the responses suffice, the
// pong.
func (r *registry) confirmed(l *link) bool {
	r.mu.Lock()
	if r.link != l || !r.fenceOut || !r.ponged || r.unanswered > 0 {
		r.mu.Unlock()
		return false
	}
	r.fenceTimer.Stop()
	r.fenceOut = false
	var notices []func()
	freed := map[string]bool{}
	for _, c := range r.fenced {
		if c.standing != asked || c.fence != r.fences { // rejected, and perhaps sent again
			continue
		}
		owner, notice := r.accept(c)
		if notice != nil {
			notices = append(notices, notice)
			freed[owner] = true
		}
	}
	r.fenced = nil
	if len(freed) > 0 {
		r.takenOver = true
		r.retryOf(freed)
	}
	applied := r.phase == replayTriggers
	if r.phase < replayDone {
		r.phase++
	}
	if r.phase >= replayTriggers {
		r.unobserveEarlier()
	}
	r.sendDue()
	r.resumeRequests(l)
	if r.phase == replayTriggers || len(r.unfenced) > 0 {
		r.fence()
	}
	if r.takenOver || r.awaitsOwners() {
		r.wakeUp()
	}
	r.progress.Send()
	r.mu.Unlock()
	for _, notice := range notices {
		notice()
	}
	if applied {
		r.client.providers.unbindMissing(l)
		close(l.applied)
	}
	return true
}

// resumeRequests resumes the requests that waited for triggers settled by the most recently
// answered fence. Once nothing is left to register, it resumes all requests.
func (r *registry) resumeRequests(l *link) {
	switch {
	case r.phase < replayTriggers:
	case r.closed != nil:
		r.client.out.resume(l, math.MaxUint64)
	default:
		r.client.out.resume(l, r.fences)
	}
}

// has reports whether c is still registered by the program.
func (r *registry) has(c *claim) bool {
	if c.trigger != nil {
		return r.triggerByID[c.trigger.id] == c.trigger
	}
	return r.functionByID[c.function.id] == c.function
}

// sendDue sends the held triggers that no longer have to wait. It returns the number of the
// fence that settles the other triggers' functions, or 0 if there is none.
func (r *registry) sendDue() (fence uint64) {
	if len(r.held) == 0 || r.link == nil || r.closed != nil {
		return 0
	}
	now := time.Now()
	kept := r.held[:0]
	for _, t := range r.held {
		r.adapt(t, true)
		f := r.target(t)
		if f != nil && f.standing == asked && f.refused.Load() == nil {
			fence = max(fence, f.fence) // keeps later triggers after this one
		}
		if fence > 0 || r.phase < replayTriggers || f != nil && f.holds(now) {
			kept = append(kept, t)
			continue
		}
		t.sent, t.former = true, nil
		r.sendClaim(&t.claim)
	}
	clear(r.held[len(kept):])
	r.held = kept
	return fence
}

// target returns the function that t calls, or nil if that function does not belong to this
// worker. It is t's adapter if there is one, and otherwise the function with t's function ID.
//
// If t was held for a function that has since been unregistered, target still returns that
// function, so that t stays held. If t were sent instead, and another worker had registered
// the same function and the same trigger, the function would be called twice for each event.
func (r *registry) target(t *Trigger) *Function {
	if t.adapter != nil && r.link != nil && r.link.dialect().answers(&t.claim) {
		return t.adapter
	}
	if !t.own {
		return nil
	}
	if f := r.functionByID[t.functionID]; f != nil {
		return f
	}
	return t.former
}

// holds reports whether f's triggers must wait.
func (f *Function) holds(now time.Time) bool {
	return f.standing != accepted || now.Before(f.deadline)
}

func (r *registry) addFunction(f *Function) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	if _, taken := r.functionByID[f.id]; taken {
		return fmt.Errorf("iii: function %q is registered already", f.id)
	}
	r.functionByID[f.id] = f
	r.functions = append(r.functions, f)
	r.sendClaim(&f.claim)
	r.fence()
	return nil
}

func (r *registry) removeFunction(f *Function) bool {
	l := r.attached()
	if !r.dropFunction(f) {
		return false
	}
	if l != nil {
		r.confirm(l)
	}
	return true
}

func (r *registry) dropFunction(f *Function) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.functionByID[f.id] != f || r.closed != nil {
		return false
	}
	r.disregard(f)
	if f.refused.Load() != nil {
		f.standing = refused
	}
	if f.standing == asked || f.standing == refused {
		for _, t := range r.held {
			if r.target(t) == f {
				t.former = f
			}
		}
	}
	r.abandonFunction(f)
	r.client.hosts.release(f)
	r.sendDue()
	if len(r.unfenced) > 0 {
		r.fence()
	}
	return true
}

// abandonFunction unregisters a function whose registration may never be answered.
func (r *registry) abandonFunction(f *Function) {
	delete(r.functionByID, f.id)
	maps.DeleteFunc(r.renamed, func(_ string, other *Function) bool { return other == f })
	r.functions = remove(r.functions, f)
	r.takeBack(&f.claim)
	r.disregard(f)
}

// disregarded is an earlier attempt to register a function that has since been unregistered.
type disregarded struct {
	id    string
	fence uint64 // the fence that settles it
}

// disregard marks f's latest registration so that the engine's outstanding response to it is
// ignored.
func (r *registry) disregard(f *Function) {
	if f.standing == asked && !f.answered && r.link != nil && r.link.dialect().answers(&f.claim) {
		r.disregarded = append(r.disregarded, &disregarded{f.id, f.fence})
	}
	r.answered(&f.claim)
}

// isDisregarded reports whether a response for a function refers to a disregarded
// registration. If so, it removes that registration from the list. The engine responds in
// order, so the response refers to the oldest registration with the ID.
func (r *registry) isDisregarded(id string) bool {
	for own, ok := id, true; ok; _, own, ok = strings.Cut(own, "::") {
		if i := slices.IndexFunc(r.disregarded, func(d *disregarded) bool { return d.id == own }); i >= 0 {
			r.disregarded = slices.Delete(r.disregarded, i, i+1)
			return true
		}
		if r.functionByID[own] != nil {
			return false // the response is for this function, whose ID may end like that of another
		}
	}
	return false
}

// addType adds a trigger type. Types are never removed.
func (r *registry) addType(t *providedType) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	r.types = append(r.types, t)
	if r.link != nil {
		r.announce(t)
	}
	return nil
}

// announce registers a trigger type. On engines without triggers, the type is represented by
// its function.
func (r *registry) announce(t *providedType) {
	if message := r.link.dialect().registerTriggerType(&t.spec); message != nil {
		r.push(message)
		return
	}
	if t.function == nil && !t.unsaid {
		t.unsaid = true
		r.client.callbacks.post(func() {
			r.client.log.Warn("iii: on this engine a trigger type is a function, and this worker's are in its own namespace; the type cannot be provided",
				"type", t.id, "namespace", t.namespace)
		})
	}
}

// providedTypes returns this worker's trigger types if l is the current link and its engine
// supports trigger types.
func (r *registry) providedTypes(l *link) (types []*providedType) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.link == l && r.closed == nil && !l.dialect().hooks() {
		types = slices.Clone(r.types)
	}
	return types
}

// renewType registers a trigger type again over l.
func (r *registry) renewType(l *link, t *providedType) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.closed != nil {
		return
	}
	r.announce(t)
}

func (r *registry) addTrigger(t *Trigger) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	switch _, taken := r.triggerByID[t.id]; {
	case taken && t.observer != nil:
		return &Error{Code: CodeObserverIDConflict, Message: "observer id already in use: " + t.id}
	case taken:
		return fmt.Errorf("iii: trigger %q is registered already", t.id)
	}
	if other := r.routed(t); other != nil {
		return fmt.Errorf("iii: trigger of %s: the route %s is one of %s", t.functionID, t.route, other.functionID)
	}
	r.insert(t)
	r.arrangeHeads(t)
	if t.observer != nil && r.link != nil && !r.link.dialect().observes() {
		r.sendClaim(&t.claim) // fails immediately
		return nil
	}
	r.held = append(r.held, t)
	r.sendHeld()
	return nil
}

func (r *registry) insert(t *Trigger) {
	r.triggerByID[t.id] = t
	if id := t.spec.observerID; id != "" {
		for n := 2; r.triggerByID[t.spec.observerID] != nil; n++ {
			t.spec.observerID = id + "#" + strconv.Itoa(n)
		}
		r.triggerByID[t.spec.observerID] = t
	}
	r.triggers = append(r.triggers, t)
}

// sendHeld sends the triggers that have been added to held and need not wait.
func (r *registry) sendHeld() {
	if fence := r.sendDue(); fence > 0 {
		// The program may expect its subsequent requests to fire the trigger.
		r.client.out.suspend(r.link, fence)
	}
	if len(r.unfenced) > 0 {
		r.fence()
	}
	if r.link != nil && r.awaitsOwners() {
		r.wakeUp()
	}
}

// addHead adds a HEAD route that is bound while no other trigger serves HEAD for its path.
func (r *registry) addHead(h *headRoute) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, taken := r.triggerByID[h.template.id]; {
	case r.closed != nil:
		return r.closed
	case taken:
		return fmt.Errorf("iii: trigger %q is registered already", h.template.id)
	}
	r.heads = append(r.heads, h)
	if r.arrangeHead(h) {
		r.sendHeld()
	}
	return nil
}

// removeHeads removes f's HEAD routes and their triggers.
func (r *registry) removeHeads(f *Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heads = slices.DeleteFunc(r.heads, func(h *headRoute) bool {
		if !slices.Contains(f.heads, h) {
			return false
		}
		if t := h.bound.Swap(nil); t != nil && r.has(&t.claim) {
			r.remove(t)
		}
		return true
	})
}

// arrangeHeads binds or unbinds the HEAD routes for the path of t, which has just been added or
// removed. It reports whether it has added a trigger, which sendHeld then sends.
func (r *registry) arrangeHeads(t *Trigger) (added bool) {
	for _, h := range r.heads {
		if t.displaces(h.template) && r.arrangeHead(h) {
			added = true
		}
	}
	return added
}

func (r *registry) arrangeHead(h *headRoute) (added bool) {
	yields := slices.ContainsFunc(r.triggers, func(t *Trigger) bool { return t.displaces(h.template) })
	_, used := r.triggerByID[h.template.id]
	switch t := h.bound.Load(); {
	case t != nil && yields:
		h.bound.Store(nil)
		r.remove(t)
	case t == nil && !yields && !used:
		t = h.template.again()
		h.bound.Store(t)
		r.insert(t)
		r.held = append(r.held, t)
		return true
	}
	return false
}

// routed returns another trigger with the same route as t, if at least one of the two was
// registered for a [Router].
func (r *registry) routed(t *Trigger) *Trigger {
	if t.route == "" {
		return nil
	}
	for _, other := range r.triggers {
		if other.route == t.route && (t.router || other.router) && !(other.implied && t.displaces(other)) {
			return other
		}
	}
	return nil
}

// ownRival returns an accepted trigger of this worker whose path conflicts with t's path for any
// method, because the two differ only in parameter names. If there is one, waiting for other
// workers does not help t.
func (r *registry) ownRival(t *Trigger) *Trigger {
	if t.route == "" {
		return nil
	}
	for _, other := range r.triggers {
		if other == t || other.route == "" || other.standing != accepted {
			continue
		}
		if _, conflict := routepath.Compare(other.path(), t.path()); conflict {
			return other
		}
	}
	return nil
}

func (r *registry) removeTrigger(t *Trigger) bool {
	r.mu.Lock()
	l := r.link
	ok := r.triggerByID[t.id] == t && r.closed == nil
	if ok {
		r.remove(t)
	}
	if ok && r.arrangeHeads(t) {
		r.sendHeld()
	}
	r.mu.Unlock()
	if l != nil {
		r.confirm(l) // the batch may have been waiting for t's adapter
	}
	return ok
}

func (r *registry) remove(t *Trigger) {
	delete(r.triggerByID, t.id)
	delete(r.triggerByID, t.spec.observerID)
	r.triggers = remove(r.triggers, t)
	if i := slices.Index(r.held, t); i >= 0 {
		r.held = slices.Delete(r.held, i, i+1)
	}
	switch {
	case t.frame != nil, t.lingers && r.link != nil && r.phase >= replayTriggers && r.link.dialect().observes():
		r.unobserve(t)
	default:
		if t.lingers {
			r.unobserveLater(t)
		}
		if t.sent && !(r.link != nil && r.link.dialect().answers(&t.claim)) { // otherwise another worker's trigger may have this ID
			r.takeBack(&t.claim)
		}
	}
	if f := t.adapter; f != nil {
		r.abandonFunction(f)
		t.adapter, t.spec.adapterID = nil, ""
	}
}

// remove removes e from list. The list must contain e.
func remove[E comparable](list []E, e E) []E {
	i := slices.Index(list, e)
	return slices.Delete(list, i, i+1)
}

// function returns the function with the given ID, or nil. id is a raw JSON string without the
// quotes.
func (r *registry) function(id []byte) *Function {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if f := r.functionByID[string(id)]; f != nil {
		return f
	}
	return r.renamed[string(id)]
}

func (r *registry) functionNamed(id string) *Function {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if f := r.functionByID[id]; f != nil {
		return f
	}
	return r.renamed[id]
}

// rejectedFunction returns the function that a rejection refers to. The ID in the rejection
// may include a prefix added by access control. The engine responds in order, so the function
// is one that the next pong would settle, but it may have been unregistered in the meantime.
func (r *registry) rejectedFunction(id string) *Function {
	var known *Function
	for rest, ok := id, true; ok; _, rest, ok = strings.Cut(rest, "::") {
		f := r.functionByID[rest]
		if f != nil && f.standing == asked && (!r.fenceOut || f.fence == r.fences) {
			return f
		}
		if known == nil {
			known = f
		}
	}
	for _, c := range slices.Concat(r.fenced, r.unfenced) {
		if f := c.function; f != nil && f.standing == asked && !r.has(c) && (f.id == id || strings.HasSuffix(id, "::"+f.id)) {
			return f
		}
	}
	return known
}

func (r *registry) attached() *link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.link
}

// refusedFunctions returns the number of functions that are rejected because other workers own
// them.
func (r *registry) refusedFunctions() (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, f := range r.functions {
		if err := f.refused.Load(); err != nil && err.OwnerWorkerID != "" {
			n++
		}
	}
	return n
}

// unregisterAll unregisters everything, triggers first, and rejects further registrations.
// Functions can still be looked up, so that invocations are rejected with worker_draining.
func (r *registry) unregisterAll(reason error) {
	r.mu.Lock()
	if r.closed != nil {
		r.mu.Unlock()
		return
	}
	r.closed = reason
	for _, t := range r.triggers {
		switch {
		case t.frame != nil:
			r.push(UnobserveMessage{ID: t.spec.idOfObserver()})
		case t.sent:
			r.takeBack(&t.claim)
		}
		if t.observer != nil {
			t.observer.change(ObserverStateDisposed, nil)
		}
	}
	r.parting = r.functions
	r.unregisterFunctionsLocked(r.client.hosts.holds)
	r.types, r.functions, r.triggers, r.heads, r.held = nil, nil, nil, nil, nil
	r.unfenced, r.fenced, r.refusals = nil, nil, nil
	r.unanswered = 0 // the fence no longer waits for responses
	l := r.link
	if l != nil {
		r.resumeRequests(l)
	}
	r.mu.Unlock()
	if l != nil {
		r.confirm(l)
	}
}

// unregisterFunctions unregisters the functions that unregisterAll left registered. Those are
// the functions with observers, because the engine accepts no reports for unregistered
// functions. Until unregisterFunctions is called, new invocations of them are rejected.
func (r *registry) unregisterFunctions() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unregisterFunctionsLocked(func(*Function) bool { return false })
}

// unregisterFunctionsLocked unregisters the functions for which keep returns false.
func (r *registry) unregisterFunctionsLocked(keep func(*Function) bool) {
	r.parting = slices.DeleteFunc(r.parting, func(f *Function) bool {
		if keep(f) {
			return false
		}
		if f.standing == asked || f.standing == accepted {
			r.takeBack(&f.claim)
		}
		f.standing = unasked
		return true
	})
}

// functionAccepted handles the engine's confirmation of a function.
func (c *Client) functionAccepted(l *link, m *FunctionRegisteredMessage) {
	views := make([]observerView, len(m.Observers))
	for i, v := range m.Observers {
		views[i] = compileView(v)
	}
	r := c.registry
	r.mu.Lock()
	early := r.link == l && r.isDisregarded(m.ID)
	if !early && r.link == l {
		r.rename(m.ID)
	}
	if f := r.hosted(l, m.ID); f != nil {
		c.hosts.confirm(l, f, m, views)
		if !early {
			r.answered(&f.claim)
		}
	}
	r.mu.Unlock()
	r.confirm(l)
}

// rename records that the engine has accepted a function under a different ID. Access control
// may add a prefix to IDs.
func (r *registry) rename(id string) {
	if r.functionByID[id] != nil || r.renamed[id] != nil {
		return
	}
	for _, own, ok := strings.Cut(id, "::"); ok; _, own, ok = strings.Cut(own, "::") {
		if f := r.functionByID[own]; f != nil && f.standing == asked && !f.answered {
			if r.renamed == nil {
				r.renamed = map[string]*Function{}
			}
			r.renamed[id] = f
			return
		}
	}
}

// hosted returns the function that a message on l refers to, or nil if l's engine does not
// have it.
func (r *registry) hosted(l *link, id string) *Function {
	f := r.functionByID[id]
	if f == nil {
		f = r.renamed[id]
	}
	if f != nil && r.link == l && (f.standing == asked || f.standing == accepted) {
		return f
	}
	return nil
}

// observerAdded handles the engine's message that one of this worker's functions has a new
// observer.
func (c *Client) observerAdded(l *link, m *ObserverAddedMessage) {
	v := compileView(m.Observer)
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	if f := c.registry.hosted(l, m.FunctionID); f != nil {
		c.hosts.announce(l, f, &v, m.Revision)
	}
}

func (c *Client) observerRemoved(l *link, m *ObserverRemovedMessage) {
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	if f := c.registry.hosted(l, m.FunctionID); f != nil {
		c.hosts.removeObserver(l, f, m.ID, m.Revision)
	}
}

// functionRefused handles the engine's rejection of a function. Until the function is
// accepted, repeated rejections are neither logged nor reported again.
func (c *Client) functionRefused(l *link, err *RejectedError) {
	r := c.registry
	r.mu.Lock()
	if r.link != l || r.closed != nil || r.isDisregarded(err.FunctionID) {
		r.mu.Unlock()
		return
	}
	f := r.rejectedFunction(err.FunctionID)
	known := false
	var early []string
	if f != nil {
		r.answered(&f.claim)
		known = f.refused.Swap(err) != nil || !r.has(&f.claim)
		f.standing, f.deadline = refused, time.Time{}
		c.hosts.release(f)
		if !known {
			for _, t := range r.triggers {
				if t.sent && r.target(t) == f {
					early = append(early, t.id)
				}
			}
		}
		if err.OwnerWorkerID != "" && r.has(&f.claim) { // without an owner, the engine reserves the ID
			r.retryLater(&f.claim)
		}
	}
	r.mu.Unlock()
	r.confirm(l)
	if known {
		return
	}
	if err.OwnerWorkerID != "" { // expected in every rolling update
		c.log.LogAttrs(l.handlers, slog.LevelWarn, "iii: function refused; the client keeps trying", slog.Any("error", err))
	} else {
		c.log.LogAttrs(l.handlers, slog.LevelError, "iii: function refused", slog.Any("error", err))
	}
	if len(early) > 0 {
		c.log.LogAttrs(l.handlers, slog.LevelWarn, "iii: triggers that were registered before their function remain registered although it is refused",
			slog.String("function", f.id), slog.Any("triggers", early))
	}
	c.reportError(err)
}

// triggerRefused handles the rejection of a trigger by the engine or by the trigger's
// provider.
func (c *Client) triggerRefused(l *link, id, triggerType string, err *Error) {
	r := c.registry
	r.mu.Lock()
	var notify func()
	if t := r.triggerByID[id]; t != nil {
		notify = r.refuse(l, t, err, true)
	} else {
		notify = func() { c.logRefusal(id, triggerType, err, false) }
	}
	r.mu.Unlock()
	if notify != nil {
		notify()
	}
}

func (c *Client) logRefusal(id, triggerType string, err *Error, retried bool) {
	attrs := []any{"trigger", id, "type", triggerType, "function", err.FunctionID, "error", err}
	if retried { // expected in every rolling update
		c.log.Warn("iii: trigger refused; the client keeps trying", attrs...)
	} else {
		c.log.Error("iii: trigger refused", attrs...)
	}
}

// refuse records the rejection of a trigger or an observer. If final is set, the engine keeps
// no record of the rejected registration. The caller must call the returned function, if any,
// after releasing the lock.
//
// Until a trigger is accepted, repeated rejections are logged only once. The trigger's error
// handler is called for every rejection, but only once per connection if the trigger is
// retried.
func (r *registry) refuse(l *link, t *Trigger, err *Error, final bool) (notify func()) {
	t.standing = refused
	if t.observer != nil {
		t.final = final
		t.observer.change(ObserverStateError, err)
		return nil
	}
	if err.FunctionID == "" {
		err.FunctionID = t.functionID
	}
	old := t.refused.Swap(err)
	logged := old != nil && old.Code == err.Code && old.Message == err.Message
	t.contested = isContested(t.spec.triggerType, err)
	silent := t.onError == nil || t.contested && logged && t.notifiedOver == l
	t.notifiedOver = l
	retried := t.contested && r.link == l && r.closed == nil
	if retried {
		r.retryLater(&t.claim)
	}
	return func() {
		if !logged {
			r.client.logRefusal(t.id, t.spec.triggerType, err, retried)
		}
		if !silent {
			r.client.callbacks.post(func() { t.onError(err) })
		}
	}
}

// heldError returns an error if t is waiting for a function that was rejected.
func (r *registry) heldError(t *Trigger) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t.sent || r.triggerByID[t.id] != t {
		return nil
	}
	if f := r.target(t); f != nil && f.refused.Load() != nil {
		return public(fmt.Errorf("trigger %q waits for its function: %w", t.id, f.refused.Load()))
	}
	return nil
}
