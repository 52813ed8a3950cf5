package iii

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A registration that the engine refused because another worker holds it is tried
// again until that worker has gone: first after takeoverDelay, then after twice as long
// each time, up to takeoverDelayMax.
const (
	takeoverDelay    = 250 * time.Millisecond
	takeoverDelayMax = 2 * time.Second
	takeoverJitter   = 0.2 // of the delay, either way

	// At most takeoverBatch attempts each takeoverInterval: never more than 200 in any second.
	takeoverBatch    = 18
	takeoverInterval = 100 * time.Millisecond
)

// releaseTimeout bounds the wait for a former owner to take its triggers away.
const releaseTimeout = 2 * time.Second

// claim is a registration that the engine may refuse because another worker holds it.
// All fields are guarded by the lock of the registry.
type claim struct {
	function *Function // that it registers, or
	trigger  *Trigger
	entry    entry

	standing standing
	delay    time.Duration // before the next attempt, without jitter
	due      time.Time     // of the next attempt
	queued   bool          // it is among the registry's refusals
}

// standing is what is known of a registration on the current link.
type standing uint8

const (
	unasked  standing = iota
	asked             // sent; the fence behind it is not answered
	accepted          // not refused by the pong of the fence
	refused
)

// retryLater gives a refused registration its turn.
func (r *registry) retryLater(c *claim) {
	var delay time.Duration
	c.delay, delay = takeoverTurn(c.delay)
	c.due = time.Now().Add(delay)
	if !c.queued {
		c.queued = true
		r.refusals = append(r.refusals, c)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// takeoverTurn returns the delay after previous, 0 for the first, and the same with
// jitter.
func takeoverTurn(previous time.Duration) (next, jittered time.Duration) {
	next = min(max(takeoverDelay, 2*previous), takeoverDelayMax)
	spread := 1 + takeoverJitter*(2*rand.Float64()-1)
	return next, min(time.Duration(float64(next)*spread), takeoverDelayMax)
}

// retry tries those refused registrations again whose turn it is, and returns when to
// look again.
func (r *registry) retry(l *link) time.Duration {
	const never = time.Hour
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.closed != nil || len(r.refusals) == 0 {
		return never
	}
	now := time.Now()
	if wait := r.nextTurn.Sub(now); wait > 0 {
		return wait
	}
	next := now.Add(never)
	kept := r.refusals[:0]
	attempts := 0
	for _, c := range r.refusals {
		switch {
		case c.standing != refused || !r.has(c):
			c.queued = false
			continue
		case attempts < takeoverBatch && !c.due.After(now):
			attempts++
			c.queued = false
			r.ask(c)
			continue
		case c.due.Before(next):
			next = c.due
		}
		kept = append(kept, c)
	}
	clear(r.refusals[len(kept):])
	r.refusals = kept
	if attempts > 0 {
		r.nextTurn = now.Add(takeoverInterval)
		r.fence()
	}
	return max(next.Sub(now), r.nextTurn.Sub(now), time.Millisecond)
}

// accept notes that the engine has taken a registration. A notice, if there is one, is
// to be called without the lock: it tells the program that a refusal is over.
func (r *registry) accept(c *claim) (notice func()) {
	c.standing, c.delay = accepted, 0
	if t := c.trigger; t != nil {
		if t.refused.Swap(nil) == nil {
			return nil
		}
		return func() {
			r.client.log.Info("iii: a trigger that was refused is accepted now", "trigger", t.id, "function", t.functionID)
		}
	}
	f := c.function
	refusal := f.refused.Swap(nil)
	if refusal == nil {
		return nil
	}
	// The engine frees the functions of a connection that ended before it takes its
	// triggers away. A trigger that came between would be taken away with them.
	f.releasing, f.owner, f.deadline = true, refusal.OwnerWorkerID, time.Now().Add(releaseTimeout)
	return func() {
		r.client.log.Info("iii: function taken over", "function", f.id, "former_owner", refusal.OwnerWorkerID)
		r.client.report(&TakeoverNotice{FunctionID: f.id, Namespace: refusal.Namespace, OwnerWorkerID: refusal.OwnerWorkerID})
	}
}

// retryOf tries everything again that the given workers hold: who has given one
// function up has probably gone.
func (r *registry) retryOf(owners map[string]bool) {
	for _, f := range r.functions {
		if err := f.refused.Load(); f.standing == refused && err != nil && owners[err.OwnerWorkerID] {
			r.ask(&f.claim)
		}
	}
}

// awaitsOwners reports whether triggers wait for a former owner of their function. It
// lets go of functions without triggers.
func (r *registry) awaitsOwners() bool {
	waits := false
	for _, t := range r.triggers {
		if f := r.target(t); !t.sent && f != nil && f.releasing {
			waits = true
		}
	}
	if !waits {
		for _, f := range r.functions {
			f.releasing = false
		}
	}
	return waits
}

// awaitOwners lets the triggers of functions that were taken over go as soon as their
// former owner has taken its own away, or after releaseTimeout.
func (r *registry) awaitOwners(l *link) {
	const soonest, latest = 20 * time.Millisecond, 250 * time.Millisecond
	for interval := soonest; ; interval = min(2*interval, latest) {
		owners, deadline := r.owners(l)
		if len(owners) == 0 {
			return
		}
		ctx, cancel := context.WithDeadline(l.handlers, deadline)
		released := r.client.released(ctx, owners)
		cancel()
		r.release(l, released)
		pause(l.handlers, interval)
	}
}

// owners lists the functions whose former owner is waited for, and when the first of
// them need wait no longer. If there are none awaitOwners has to end.
func (r *registry) owners(l *link) (owners map[string]string, deadline time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	owners = map[string]string{}
	if r.link == l && r.closed == nil && r.awaitsOwners() {
		for _, f := range r.functions {
			if !f.releasing {
				continue
			}
			owners[f.id] = f.owner
			if deadline.IsZero() || f.deadline.Before(deadline) {
				deadline = f.deadline
			}
		}
	}
	if len(owners) == 0 {
		r.releasing = false
	}
	return owners, deadline
}

// release lets the triggers of the functions go, and of those that have waited enough.
func (r *registry) release(l *link, released map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l {
		return
	}
	now := time.Now()
	for _, f := range r.functions {
		if f.releasing && (released[f.id] || !now.Before(f.deadline)) {
			f.releasing = false
		}
	}
	r.sendDue()
	r.fenceRest()
}

// released asks the engine which of the functions have nothing left of their former
// owner: it has gone, or no trigger runs them. What cannot be asked is not released.
func (c *Client) released(ctx context.Context, owners map[string]string) map[string]bool {
	workers, err := c.Workers(ctx)
	if err != nil {
		return nil
	}
	alive := map[string]bool{}
	for _, w := range workers {
		alive[w.ID] = true
	}
	released := map[string]bool{}
	var doubtful []string
	for id, owner := range owners {
		if alive[owner] {
			doubtful = append(doubtful, id)
		} else {
			released[id] = true
		}
	}
	if len(doubtful) == 0 {
		return released
	}
	list, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{IncludeInternal: true})
	if err != nil {
		return released
	}
	triggered := map[string]bool{} // with and without the prefixes of access control
	for _, t := range list.RegisteredTriggers {
		for id, ok := t.FunctionID, true; ok; _, id, ok = strings.Cut(id, "::") {
			triggered[id] = true
		}
	}
	for _, id := range doubtful {
		if !triggered[id] {
			released[id] = true
		}
	}
	return released
}

// heldRoute reports whether another worker's route is in the way of a refused one: the
// same path with other names for its parameters. That is the only trigger that another
// worker can hold; every other refusal is about the trigger itself.
func heldRoute(m *TriggerRegistrationResultMessage) bool {
	return m.TriggerType == "http" && m.Error.Code == codeTriggerFailed && strings.Contains(m.Error.Message, "conflicts with already-registered route")
}

// TakeoverNotice tells the state listener that this worker now serves a function that
// it had been refused (see [Function.Err]). It is good news, and an error only because
// the listener receives errors.
type TakeoverNotice struct {
	// FunctionID is the function.
	FunctionID string
	// Namespace is the function's.
	Namespace string
	// OwnerWorkerID is the id of the connection that owned it before.
	OwnerWorkerID string
}

// Error implements error.
func (e *TakeoverNotice) Error() string {
	return fmt.Sprintf("iii: function %q is served by this worker now; its former owner %s has given it up", e.FunctionID, e.OwnerWorkerID)
}
