package iii

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// registry holds what this worker has registered, in the order of the program, and
// keeps the engine's copy equal. A link is given all of it when it begins, and every
// change after that, under one lock, so that nothing is missed or sent twice.
//
// The engine answers a registration only by refusing it, so a fence (a JSON ping) goes
// out behind each batch: what was not refused by its pong is accepted. A trigger leaves
// when its function is accepted. If it left before, a worker that is refused could take
// the route of the worker that serves it.
type registry struct {
	client *Client

	mu           sync.RWMutex
	closed       error // set once: no registration is accepted any more
	types        []*typeEntry
	functions    []*Function
	triggers     []*Trigger
	functionByID map[string]*Function
	triggerByID  map[string]*Trigger

	// Of the link that is told of changes, or nil.
	link       *link
	phase      replayPhase
	unfenced   []*claim // sent, with no fence behind them yet
	fenced     []*claim // sent before the fence that is out
	fenceOut   bool
	fences     uint64      // number of the latest fence
	fenceTimer *time.Timer // ends the link if the fence is not answered
	held       int         // triggers that were not sent
	suspended  bool        // requests wait for triggers that wait for the fence

	// See takeover.go.
	refusals  []*claim      // that are to be tried again, in the order of their turn
	nextTurn  time.Time     // before it no refused registration is tried again
	wake      chan struct{} // capacity 1: refusals has grown
	releasing bool          // awaitOwners runs
}

// entry is a pair of messages.
type entry struct {
	add    []byte // registers
	remove []byte // takes it back; nil for what cannot be taken back
}

// typeEntry is a trigger type.
type typeEntry struct {
	entry
	provided *providedType
}

// replayPhase is how far the registrations of a link have come.
type replayPhase uint8

const (
	replaySettling  replayPhase = iota // trigger types and functions are out; the engine keeps them until it knows the namespace
	replayFunctions                    // the fence behind the functions is out, triggers wait for it
	replayTriggers                     // the triggers are out, their fence is not answered
	replayDone
)

func newRegistry(c *Client) *registry {
	return &registry{client: c, functionByID: map[string]*Function{}, triggerByID: map[string]*Trigger{}, wake: make(chan struct{}, 1)}
}

// begin queues first, then all trigger types and functions for l, which is attached.
// The fence comes when the engine has settled the namespace, the triggers behind it.
func (r *registry) begin(l *link, first ...item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link, r.phase = l, replaySettling
	r.held = len(r.triggers)
	for _, t := range r.triggers {
		t.sent = false
	}
	r.client.out.urgent(l, first...)
	for _, e := range r.types {
		r.push(e.add)
	}
	for _, f := range r.functions {
		f.delay, f.releasing = 0, false
		r.ask(&f.claim)
	}
}

// settled notes that the engine has handled this worker's registration. Before that it
// answers pings, but does not act on registrations.
func (r *registry) settled(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.phase != replaySettling {
		return
	}
	r.phase = replayFunctions
	r.fence()
}

// end stops telling l.
func (r *registry) end(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l {
		return
	}
	r.link = nil
	r.unfenced, r.fenced, r.fenceOut, r.suspended, r.refusals = nil, nil, false, false, nil
	if r.fenceTimer != nil {
		r.fenceTimer.Stop()
	}
	for _, f := range r.functions {
		f.standing, f.queued = unasked, false
	}
	for _, t := range r.triggers {
		t.standing, t.queued = unasked, false
	}
}

func (r *registry) push(message []byte) {
	if r.link != nil {
		r.client.out.urgent(r.link, item{buf: bufferOf(message)})
	}
}

// ask sends a registration whose fate the next fence settles.
func (r *registry) ask(c *claim) {
	if r.link == nil {
		return
	}
	c.standing = asked
	r.push(c.entry.add)
	r.unfenced = append(r.unfenced, c)
}

// fence puts a fence behind what was sent. One is out at a time: what comes meanwhile
// shares the next one.
func (r *registry) fence() {
	if r.link == nil || r.fenceOut || r.phase == replaySettling {
		return
	}
	l := r.link
	r.fenceOut = true
	r.fenced, r.unfenced = r.unfenced, nil
	r.fences++
	number, asked := r.fences, time.Now()
	r.fenceTimer = time.AfterFunc(registerTimeout, func() { r.overdue(l, number, asked) })
	r.client.out.urgent(l, item{kind: frameJSONPing, fence: func() { r.confirmed(l) }})
}

// fenceRest puts a fence behind what has none, if there is anything.
func (r *registry) fenceRest() {
	if len(r.unfenced) > 0 {
		r.fence()
	}
}

// overdue ends l, whose fence has not been answered for long: without the answer nobody
// knows which registrations hold. A large message may be in its way, so as long as
// something comes the engine has ten times the idle timeout.
func (r *registry) overdue(l *link, number uint64, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.fences != number || !r.fenceOut {
		return
	}
	waited, silent := time.Since(asked), l.silence()
	if silent < registerTimeout && waited < 10*r.client.cfg.idleTimeout {
		r.fenceTimer.Reset(registerTimeout - silent)
		return
	}
	l.fail(fmt.Errorf("iii: the engine did not answer the ping behind the registrations within %v", waited.Round(time.Millisecond)))
}

// confirmed settles what was sent before the fence that has been answered.
func (r *registry) confirmed(l *link) {
	r.mu.Lock()
	if r.link != l {
		r.mu.Unlock()
		return
	}
	r.fenceTimer.Stop()
	r.fenceOut = false
	var notices []func()
	freed := map[string]bool{}
	for _, c := range r.fenced {
		if c.standing != asked || !r.has(c) {
			continue
		}
		if notice := r.accept(c); notice != nil {
			notices = append(notices, notice)
			if c.function != nil {
				freed[c.function.owner] = true
			}
		}
	}
	r.fenced = nil
	if len(freed) > 0 {
		r.retryOf(freed)
	}
	applied := r.phase == replayTriggers
	if r.phase < replayDone {
		r.phase++
	}
	r.sendDue()
	if r.phase == replayTriggers || r.suspended {
		r.suspended = false
		r.client.out.admit(l)
	}
	if r.phase == replayTriggers || len(r.unfenced) > 0 {
		r.fence()
	}
	await := r.awaitsOwners() && !r.releasing
	if await {
		r.releasing = true
		l.loops.Go(func() { r.awaitOwners(l) })
	}
	r.mu.Unlock()
	for _, notice := range notices {
		notice()
	}
	if applied {
		r.client.bindings.settle(l)
		close(l.applied)
	}
}

// has reports whether c is registered.
func (r *registry) has(c *claim) bool {
	if c.trigger != nil {
		return r.triggerByID[c.trigger.id] == c.trigger
	}
	return r.functionByID[c.function.id] == c.function
}

// sendDue sends the triggers that waited for their function.
func (r *registry) sendDue() {
	if r.held == 0 || r.phase < replayTriggers || r.closed != nil {
		return
	}
	for _, t := range r.triggers {
		if !t.sent {
			r.sendTrigger(t)
		}
	}
}

// sendTrigger sends t, unless it has to wait for a function of this worker.
func (r *registry) sendTrigger(t *Trigger) {
	if r.link == nil || r.phase < replayTriggers {
		return
	}
	if f := r.target(t); f != nil && (f.standing != accepted || f.releasing) {
		return
	}
	t.sent = true
	r.held--
	r.ask(&t.claim)
}

// target is the function of this worker that t runs, if it is one.
func (r *registry) target(t *Trigger) *Function {
	if !t.own {
		return nil
	}
	return r.functionByID[t.functionID]
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
	r.ask(&f.claim)
	r.fence()
	return nil
}

func (r *registry) removeFunction(f *Function) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.functionByID[f.id] != f || r.closed != nil {
		return false
	}
	delete(r.functionByID, f.id)
	r.functions = remove(r.functions, f)
	r.push(f.entry.remove)
	r.sendDue() // triggers of this id name another worker's function now
	r.fenceRest()
	return true
}

// addType adds a trigger type, which is never taken back.
func (r *registry) addType(e *typeEntry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	r.types = append(r.types, e)
	r.push(e.add)
	return nil
}

// providedTypes lists the trigger types of this worker if l is in use.
func (r *registry) providedTypes(l *link) (types []*providedType) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.link == l && r.closed == nil {
		for _, e := range r.types {
			types = append(types, e.provided)
		}
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
	for _, e := range r.types {
		if e.provided == t {
			r.push(e.add)
		}
	}
}

func (r *registry) addTrigger(t *Trigger) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	if _, taken := r.triggerByID[t.id]; taken {
		return fmt.Errorf("iii: trigger %q is registered already", t.id)
	}
	r.triggerByID[t.id] = t
	r.triggers = append(r.triggers, t)
	r.held++
	r.sendTrigger(t)
	r.fenceRest()
	if f := r.target(t); r.phase == replayDone && r.link != nil && !r.suspended && !t.sent && f.standing == asked {
		// What the program asks for from now on may make the trigger fire.
		r.suspended = true
		r.client.out.suspend(r.link)
	}
	return nil
}

func (r *registry) removeTrigger(t *Trigger) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.triggerByID[t.id] != t || r.closed != nil {
		return false
	}
	delete(r.triggerByID, t.id)
	r.triggers = remove(r.triggers, t)
	if !t.sent { // under this id there may be a trigger of another worker
		r.held--
		return true
	}
	r.push(t.entry.remove)
	return true
}

// remove deletes one element, which is there.
func remove[E comparable](list []E, e E) []E {
	i := slices.Index(list, e)
	return slices.Delete(list, i, i+1)
}

// function finds a handler by the text between the quotes of its id.
func (r *registry) function(id []byte) *Function {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.functionByID[string(id)]
}

// rejectedFunction finds the function that the engine names in a refusal: by its
// id, or behind the prefix that the session's access control puts before it. r.mu is
// held.
func (r *registry) rejectedFunction(id string) *Function {
	for {
		if f := r.functionByID[id]; f != nil {
			return f
		}
		_, rest, ok := strings.Cut(id, "::")
		if !ok {
			return nil
		}
		id = rest
	}
}

// attached is the link that is in use, or nil.
func (r *registry) attached() *link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.link
}

// refusedFunctions is the number of functions that another worker holds.
func (r *registry) refusedFunctions() (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, f := range r.functions {
		if f.refused.Load() != nil {
			n++
		}
	}
	return n
}

// withdraw takes everything back, triggers first, and accepts nothing more.
// Handlers stay in reach: what arrives is told that the worker drains.
func (r *registry) withdraw(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return
	}
	r.closed = reason
	for _, t := range r.triggers {
		if t.sent {
			r.push(t.entry.remove)
		}
	}
	for _, f := range r.functions {
		if f.standing == asked || f.standing == accepted {
			r.push(f.entry.remove)
		}
	}
	r.types, r.functions, r.triggers, r.held = nil, nil, nil, 0
	r.unfenced, r.fenced, r.refusals = nil, nil, nil
}

// functionRefused acts on the engine's refusal of a function. The listener hears of it
// once, until the function is accepted.
func (c *Client) functionRefused(l *link, err *RejectedError) {
	r := c.registry
	r.mu.Lock()
	f := r.rejectedFunction(err.FunctionID)
	if r.link != l || r.closed != nil {
		r.mu.Unlock()
		return
	}
	first := true
	var early []string
	if f != nil {
		first = f.refused.Swap(err) == nil
		f.standing, f.releasing = refused, false
		for _, t := range r.triggers {
			if first && t.sent && r.target(t) == f {
				early = append(early, t.id)
			}
		}
		if err.OwnerWorkerID != "" { // nobody ever gives up what the engine keeps for itself
			r.retryLater(&f.claim)
		}
	}
	r.mu.Unlock()
	if !first {
		return
	}
	c.log.LogAttrs(l.handlers, slog.LevelError, "iii: function refused", slog.Any("error", err))
	if len(early) > 0 {
		c.log.LogAttrs(l.handlers, slog.LevelWarn, "iii: triggers that were registered before their function stay registered although it is refused",
			slog.String("function", f.id), slog.Any("triggers", early))
	}
	c.report(err)
}

// triggerRefused tells a trigger that the engine, or its provider, refused it.
func (c *Client) triggerRefused(l *link, m *TriggerRegistrationResultMessage) {
	if m.Error == nil {
		return
	}
	err := &Error{Code: m.Error.Code, Message: m.Error.Message, Stacktrace: m.Error.Stacktrace, FunctionID: m.FunctionID}
	r := c.registry
	r.mu.Lock()
	t := r.triggerByID[m.ID]
	first := true
	if t != nil {
		old := t.refused.Swap(err)
		first = old == nil || old.Code != err.Code || old.Message != err.Message
		t.standing = refused
		if r.link == l && r.closed == nil && heldRoute(m) {
			r.retryLater(&t.claim)
		}
	}
	r.mu.Unlock()
	if !first {
		return
	}
	c.log.Error("iii: trigger refused", "trigger", m.ID, "type", m.TriggerType, "function", m.FunctionID, "error", err)
	if t != nil && t.onError != nil {
		c.notify.post(func() { t.onError(err) })
	}
}

// heldError is why a trigger has not been sent.
func (r *registry) heldError(t *Trigger) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t.sent || r.triggerByID[t.id] != t {
		return nil
	}
	if f := r.target(t); f != nil && f.refused.Load() != nil {
		return fmt.Errorf("iii: trigger %q waits for its function: %w", t.id, trimmed(f.refused.Load()))
	}
	return nil
}
