package iii

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii/internal/wsconn"
)

// A registration that is rejected because another worker owns it is retried until the engine
// accepts it. The first delay is takeoverDelay; it doubles with each retry up to
// takeoverDelayMax.
const (
	takeoverDelay    = 250 * time.Millisecond
	takeoverDelayMax = 2 * time.Second
	takeoverJitter   = 0.2 // fraction of the delay, in both directions

	// At most takeoverBatch retries are sent per takeoverInterval. This keeps the rate below
	// 200 per second.
	takeoverBatch    = 18
	takeoverInterval = 100 * time.Millisecond
)

// releaseTimeout limits how long triggers wait for the former owner's triggers to be removed.
const releaseTimeout = 2 * time.Second

// claim is a registration that the engine may reject because another worker owns it. The
// registry's lock guards all fields.
type claim struct {
	function *Function // exactly one of function and trigger is set
	trigger  *Trigger

	standing standing
	fence    uint64        // number of the fence after the latest attempt
	answered bool          // no further response to the latest attempt is expected
	unfenced bool          // the latest attempt is not followed by a fence yet
	delay    time.Duration // before the next attempt, without jitter
	due      time.Time     // time of the next attempt
	queued   bool          // in registry.refusals
}

func (c *claim) register(d dialect) (any, error) {
	if c.trigger != nil {
		return d.registerTrigger(&c.trigger.spec)
	}
	return d.registerFunction(&c.function.spec)
}

func (c *claim) unregister(d dialect) any {
	if c.trigger != nil {
		return d.unregisterTrigger(&c.trigger.spec)
	}
	return d.unregisterFunction(&c.function.spec)
}

// owner returns the id of the worker that owns a rejected function, or "" for a trigger. The
// engine does not report the owners of routes.
func (c *claim) owner() string {
	if c.function != nil {
		if err := c.function.refused.Load(); err != nil {
			return err.OwnerWorkerID
		}
	}
	return ""
}

// standing is the state of a registration on the current link, as far as the client knows it.
type standing uint8

const (
	unasked  standing = iota
	asked             // sent; the fence after it has not been answered
	accepted          // not rejected before the fence's pong
	refused
)

// wakeUp wakes the goroutine that runs maintain, which handles the retries and triggers that
// are due.
func (r *registry) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *registry) retryLater(c *claim) {
	var delay time.Duration
	c.delay, delay = takeoverTurn(c.delay)
	c.due = time.Now().Add(delay)
	if !c.queued {
		c.queued = true
		r.refusals = append(r.refusals, c)
	}
	r.wakeUp()
}

// takeoverTurn returns the next delay, without and with jitter. previous is the last delay
// without jitter, or 0 for the first attempt.
func takeoverTurn(previous time.Duration) (next, jittered time.Duration) {
	next = min(max(takeoverDelay, 2*previous), takeoverDelayMax)
	spread := 1 + takeoverJitter*(2*rand.Float64()-1)
	return next, min(time.Duration(float64(next)*spread), takeoverDelayMax)
}

// retry retries the registrations that are due, and returns the time until it must be called
// again. The retries alternate between owners, so that an owner of many functions does not
// delay the takeover from other owners.
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
	due := map[string][]*claim{} // by owner
	turns := map[string]time.Time{}
	next := now.Add(never)
	for _, c := range r.refusals {
		if c.standing != refused || !r.has(c) {
			c.queued = false
			continue
		}
		owner := c.owner()
		turns[owner] = r.turns[owner]
		if r.mustWait(c, now) {
			c.due = now.Add(takeoverDelayMax)
		}
		if !c.due.After(now) {
			due[owner] = append(due[owner], c)
		} else if c.due.Before(next) {
			next = c.due
		}
	}
	owners := slices.SortedFunc(maps.Keys(due), func(a, b string) int { return turns[a].Compare(turns[b]) })
	attempts := 0
	for ; attempts < takeoverBatch && len(owners) > 0; attempts++ {
		owner := owners[0]
		owners = owners[1:]
		r.retryNow(due[owner][0])
		turns[owner] = now
		if due[owner] = due[owner][1:]; len(due[owner]) > 0 {
			owners = append(owners, owner)
		}
	}
	r.turns = turns
	r.dropUnqueued()
	if attempts == 0 {
		return next.Sub(now)
	}
	r.nextTurn = now.Add(takeoverInterval)
	r.fence()
	return takeoverInterval
}

// retryNow sends a rejected registration again. The caller must remove it from refusals.
func (r *registry) retryNow(c *claim) {
	c.queued = false
	if t := c.trigger; t != nil {
		t.sent = true // an observer's rejection resets it
	}
	r.sendClaim(c)
}

// dropUnqueued removes from refusals the claims that are no longer queued.
func (r *registry) dropUnqueued() {
	r.refusals = slices.DeleteFunc(r.refusals, func(c *claim) bool { return !c.queued })
}

// mustWait reports whether c is a trigger that cannot be sent yet, because this worker does
// not serve its function or the former owner's triggers have not been removed.
func (r *registry) mustWait(c *claim, now time.Time) bool {
	if c.trigger == nil {
		return false
	}
	f := r.target(c.trigger)
	return f != nil && f.holds(now)
}

// accept records that the engine has accepted a registration. If another worker owned the
// registration until now, accept returns the previous owner and a function that notifies the
// program. The caller must call this function after releasing the lock.
func (r *registry) accept(c *claim) (owner string, notice func()) {
	c.standing = accepted
	if c.trigger != nil && r.link.dialect().answers(c) {
		return "", nil // an observer's state is reported separately
	}
	c.delay = 0
	if !r.has(c) {
		return "", nil
	}
	if t := c.trigger; t != nil {
		if t.refused.Swap(nil) == nil || !t.contested {
			return "", nil
		}
		return "", func() {
			r.client.log.Info("iii: route taken over", "trigger", t.id, "function", t.functionID)
		}
	}
	f := c.function
	refusal := f.refused.Swap(nil)
	if refusal == nil || refusal.OwnerWorkerID == "" { // for example, only the earlier engine could not host the function
		return "", nil
	}
	// When a connection ends, the engine releases the worker's functions before it removes the
	// worker's triggers. A route registered in between would be removed together with those
	// triggers.
	f.owner, f.deadline = refusal.OwnerWorkerID, time.Now().Add(releaseTimeout)
	return f.owner, func() {
		r.client.log.Info("iii: function taken over", "function", f.id, "former_owner", refusal.OwnerWorkerID)
		r.client.reportError(&TakeoverNotice{FunctionID: f.id, Namespace: refusal.Namespace, OwnerWorkerID: refusal.OwnerWorkerID})
	}
}

// retryOf immediately retries the registrations owned by the given workers. A worker that has
// given up one registration has probably disconnected and thus given up all of them.
func (r *registry) retryOf(owners map[string]bool) {
	now := time.Now()
	try := func(c *claim) {
		if c.queued && c.standing == refused && owners[c.owner()] && !r.mustWait(c, now) {
			r.retryNow(c)
		}
	}
	for _, f := range r.functions {
		try(&f.claim)
	}
	for _, t := range r.triggers {
		try(&t.claim)
	}
	r.dropUnqueued()
}

// awaitsOwners reports whether a trigger is waiting until the triggers of its function's
// former owner are gone.
func (r *registry) awaitsOwners() bool {
	now := time.Now()
	return slices.ContainsFunc(r.held, func(t *Trigger) bool {
		f := r.target(t)
		return f != nil && f.standing == accepted && f.holds(now)
	})
}

// beginAwaiting reports whether the caller must start awaitOwners for l.
func (r *registry) beginAwaiting(l *link) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.awaiting {
		r.awaiting = r.hasToAwait(l)
		r.takenOver = r.takenOver && r.awaiting
		return r.awaiting
	}
	return false
}

func (r *registry) hasToAwait(l *link) bool {
	return r.link == l && !l.IsDead() && r.closed == nil && (r.takenOver && len(r.refusals) > 0 || r.awaitsOwners())
}

// awaitOwners polls the engine after a takeover. It sends the triggers of a taken-over
// function once the former owner's triggers are gone, or after releaseTimeout. It immediately
// retries registrations owned by workers that the engine no longer lists.
func (r *registry) awaitOwners(l *link) {
	const soonest, latest = 20 * time.Millisecond, 250 * time.Millisecond
	forbidden := false // this worker may not list workers
	for interval := soonest; ; interval = min(2*interval, latest) {
		former, deadline, ok := r.formerOwners(l)
		if !ok {
			return
		}
		var listed, released map[string]bool
		if !forbidden {
			ctx, cancel := context.WithDeadline(ownCalls(l.handlers), deadline)
			var err error
			listed, released, err = r.client.released(ctx, former)
			cancel()
			forbidden = listed == nil && errors.Is(err, ErrForbidden)
		}
		r.release(l, listed, released)
		wsconn.Pause(l.handlers, min(interval, time.Until(deadline)))
	}
}

// formerOwners returns the former owners whose triggers are not gone yet, keyed by function
// ID, and the earliest deadline. It returns false if awaitOwners must stop.
func (r *registry) formerOwners(l *link) (former map[string]string, deadline time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.hasToAwait(l) {
		r.awaiting = false
		r.sendDue() // a deadline may have passed
		if len(r.unfenced) > 0 {
			r.fence()
		}
		return nil, deadline, false
	}
	r.takenOver = false
	now := time.Now()
	former, deadline = map[string]string{}, now.Add(releaseTimeout)
	for _, f := range r.functions {
		if f.standing != accepted || !f.holds(now) {
			continue
		}
		former[f.id] = f.owner
		if f.deadline.Before(deadline) {
			deadline = f.deadline
		}
	}
	return former, deadline, true
}

// release sends the triggers of released functions and of functions whose deadline has passed.
// It also retries registrations owned by unlisted workers, but only once per worker: a worker
// that has not reported its process ID is never listed, so the retries would otherwise never
// end.
func (r *registry) release(l *link, listed, released map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l || r.closed != nil {
		return
	}
	for _, f := range r.functions {
		if released[f.id] {
			f.deadline = time.Time{}
		}
	}
	r.sendDue()
	gone := map[string]bool{}
	for _, c := range r.refusals {
		if owner := c.owner(); listed != nil && owner != "" && !listed[owner] && !r.sought[owner] {
			gone[owner] = true
		}
	}
	if len(gone) > 0 {
		if r.sought == nil {
			r.sought = map[string]bool{}
		}
		maps.Copy(r.sought, gone)
		r.retryOf(gone)
	}
	if len(r.unfenced) > 0 {
		r.fence()
	}
}

// released asks the engine which workers it lists and which functions have been released. The
// map listed contains the IDs of the listed workers. The map released contains the functions
// in former that are no longer called by triggers of their former owners. The engine does not
// list workers that are disconnected or have not reported their process ID, so a trigger of an
// unlisted worker may belong to the former owner.
func (c *Client) released(ctx context.Context, former map[string]string) (listed, released map[string]bool, err error) {
	workers, err := c.Workers(ctx)
	if err != nil {
		return nil, nil, err
	}
	listed = map[string]bool{}
	names, nameOf := map[string]bool{}, map[string]string{}
	for _, w := range workers {
		listed[w.ID] = true
		if w.Name != nil {
			names[*w.Name] = true
			nameOf[w.ID] = *w.Name
		}
	}
	released = map[string]bool{}
	if len(former) == 0 {
		return listed, released, nil
	}
	bound, err := c.boundBy(ctx)
	if err != nil {
		for id, owner := range former {
			released[id] = !listed[owner]
		}
		return listed, released, err
	}
	for id, owner := range former {
		released[id] = !slices.ContainsFunc(bound[id], func(name string) bool {
			return !names[name] || listed[owner] && name == nameOf[owner]
		})
	}
	return listed, released, nil
}

// boundBy asks the engine which functions are called by triggers. For each function ID, with
// and without prefixes, it returns the names of the workers whose triggers call the function.
// On engines with observers, it includes the workers whose observers call the function, except
// disconnected workers, because their observers do not fire.
func (c *Client) boundBy(ctx context.Context) (map[string][]string, error) {
	bound := map[string][]string{}
	note := func(functionID, worker string) {
		for id, ok := functionID, true; ok; _, id, ok = strings.Cut(id, "::") {
			bound[id] = append(bound[id], worker)
		}
	}
	list, err := Call[TriggersListResult](ctx, c, "engine::registered-triggers::list", TriggerFilter{IncludeInternal: true})
	if l := c.registry.attached(); l != nil && l.dialect().hooks() {
		var observers struct {
			Observers []struct {
				Target     ObserveTarget `json:"target"`
				WorkerName *string       `json:"worker_name"`
			} `json:"observers"`
		}
		if err = c.Call(ctx, "engine::observers::list", struct{}{}, &observers); err != nil {
			return nil, err
		}
		for _, o := range observers.Observers {
			switch {
			case o.WorkerName == nil:
				return nil, errors.New("the engine does not say whose observers are")
			case *o.WorkerName != "":
				note(o.Target.FunctionID, *o.WorkerName)
			}
		}
	} else if err != nil {
		return nil, err
	}
	for _, t := range list.RegisteredTriggers { // workers with the trigger dialect may use the same engine
		note(t.FunctionID, t.WorkerName)
	}
	return bound, nil
}

// isContested reports whether a trigger was rejected because another worker has a route with
// the same path but different parameter names, or an observer with the same ID. The other
// worker may remove its route or observer. All other rejections concern the trigger itself.
func isContested(triggerType string, err *Error) bool {
	switch err.Code {
	case CodeHTTPRouteConflict:
		return triggerType == "http"
	case CodeObserverIDConflict:
		return true
	case CodeTriggerRegistrationFailed:
		return triggerType == "http" && strings.Contains(err.Message, "conflicts with already-registered route")
	}
	return false
}

// TakeoverNotice tells the state listener that this worker now serves a function whose
// registration the engine had rejected (see [Function.Err]). It does not report a failure; it
// is an error only because the listener receives errors.
type TakeoverNotice struct {
	// FunctionID is the function's ID.
	FunctionID string
	// Namespace is the function's namespace.
	Namespace string
	// OwnerWorkerID is the ID of the connection that previously owned the function.
	OwnerWorkerID string
}

// Error implements error.
func (e *TakeoverNotice) Error() string {
	return fmt.Sprintf("iii: function %q is served by this worker now; its former owner %s has given it up", e.FunctionID, e.OwnerWorkerID)
}
