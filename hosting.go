package iii

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/filter"
	"github.com/iii-go/iii/internal/rawjson"
)

// ObserverHooks are callbacks through which the worker that hosts a function controls the
// function's observers ([WithObserverHooks], [WithWorkerObserverHooks]). All fields are
// optional. The zero value accepts every observer and leaves matching and delivery to the
// engine.
//
// A function's Added and Removed hooks run one at a time, in the order in which the engine
// announces the changes. Hooks of different functions run concurrently, for up to 64 functions
// at a time. Hooks may run before the call that registers the function returns. A panic is
// treated as an error returned by the hook.
type ObserverHooks struct {
	// Added prepares for a new observer, which receives nothing until Added returns nil. If
	// Added returns an error, the observer is rejected. An [*Error] created by the hook keeps
	// its code and message. Any other error, including an [*Error] returned by a call, is sent
	// with the code OBSERVE_REJECTED.
	//
	// The worker's and the function's Added hooks must finish within 30 s in total. After
	// that, the observer is rejected with OWNER_TIMEOUT and ctx is canceled. ctx is also
	// canceled when the client is closed. If a hook returns nil after the limit has passed,
	// Removed runs next.
	//
	// After a reconnect, Added does not run again for an observer with unchanged arguments. An
	// observer with changed arguments is removed and added again.
	Added func(ctx context.Context, o *FunctionObserver) error

	// Removed undoes the work of Added. It runs once for each observer for which Added
	// returned nil: after the engine has removed the observer, after
	// [FunctionObserver.Reject], or when this worker stops hosting the function. A worker
	// stops hosting a function when it unregisters the function, when another worker takes
	// over the function, or when it reconnects to an engine that does not support observers.
	// Removed does not run when the client is closed. After 30 s, ctx is canceled and the next
	// hook may run.
	Removed func(ctx context.Context, o *FunctionObserver)

	// Match reports whether an observer should receive a call. It runs after the handler, for
	// each observer that was active when the call began and is still active. The observer's
	// outcome and filters are checked afterward. A panic is treated as false. By default,
	// every observer matches every call.
	Match func(o *FunctionObserver, call *ObservedCall) bool

	// Keys is an efficient alternative to Match for functions with many observers: each call
	// is matched by looking up its keys instead of checking every observer. Match and Keys are
	// mutually exclusive.
	Keys *ObserverKeys

	// Deliver replaces the engine's delivery of a call to the observers. It returns the result
	// or error for the function's caller. It runs after the handler, in the handler's context,
	// for every call, including failed calls and calls without observers. The observers
	// argument lists the observers selected by Match or Keys, or all active observers if
	// neither is set. Their outcomes and filters have not been checked; use
	// [FunctionObserver.Matches].
	//
	// A returned [*Error] keeps its code and message. Any other error is sent with the code
	// TIMEOUT if it matches [context.DeadlineExceeded], and otherwise with invocation_failed.
	// If Deliver returns an [*Error] with the same code and message as the handler's error
	// ([ObservedCall.Err]), the handler's original error is sent.
	Deliver func(ctx context.Context, call *ObservedCall, observers []*FunctionObserver) (any, error)
}

// ObserverKeys matches a call to the observers that have at least one key in common with it.
type ObserverKeys struct {
	// Observer returns an observer's keys. It runs once, after the Added hooks and before the
	// observer is accepted. A panic rejects the observer.
	Observer func(o *FunctionObserver) []string
	// Call returns a call's keys. It runs once per call, after the handler. A panic is treated
	// as returning no keys.
	Call func(call *ObservedCall) []string
}

// matches reports whether this worker, rather than the engine, matches calls to observers.
func (h *ObserverHooks) matches() bool { return h.Match != nil || h.Keys != nil }

// affectReplies reports whether the hooks affect the replies to calls.
func (h *ObserverHooks) affectReplies() bool { return h.matches() || h.Deliver != nil }

// WithArgsSchema sets the JSON Schema for the arguments ([Source].Args) of the function's
// observers. The schema is a json.RawMessage or any value that marshals to a schema. The
// engine validates the arguments before it announces an observer to this worker. By default,
// observers must not have arguments. The option requires an engine with [FeatureObserveV2]. On
// other engines, the function is not registered, and [Function.Err] returns the reason.
func WithArgsSchema(schema any) FunctionOption {
	return func(c *functionConfig) (err error) {
		if schema == nil {
			return errors.New("iii: WithArgsSchema: nil schema")
		}
		c.args, err = schemaValue(schema)
		return wrapOption("WithArgsSchema", err)
	}
}

// WithArgs is like [WithArgsSchema], but infers the schema from T, as [Handle] does for a
// payload. The registration fails if T cannot be described by a schema.
func WithArgs[T any]() FunctionOption {
	return func(c *functionConfig) (err error) {
		c.args, err = schemaOf(reflect.TypeFor[T](), true)
		return wrapOption("WithArgs", err)
	}
}

// WithPrivate allows only this worker to call the function. Calls from other workers fail with
// the code FORBIDDEN, but any worker may observe the function. The option requires an engine
// with [FeatureObserveV2]. On other engines, the function is not registered, and
// [Function.Err] returns the reason.
func WithPrivate() FunctionOption {
	return func(c *functionConfig) error { c.private = true; return nil }
}

// WithoutObservers makes the engine reject observers of the function with the code
// NOT_OBSERVABLE. The option requires an engine with [FeatureObserveV2]. On other engines, the
// function is not registered, and [Function.Err] returns the reason.
func WithoutObservers() FunctionOption {
	return func(c *functionConfig) error { c.unobservable = true; return nil }
}

// WithoutLocalDispatch routes all calls to the function through the engine. By default, a
// worker calls its own functions in process if the engine allows it; see
// [Function.LocalDispatch].
func WithoutLocalDispatch() FunctionOption {
	return func(c *functionConfig) error { c.remote = true; return nil }
}

// WithObserverHooks sets the hooks for the function's observers. The registration fails if no
// hook is set, or if both Match and Keys are set. Match, Keys and Deliver require an engine
// with [FeatureObserveV2]. On other engines, the function is not registered, and
// [Function.Err] returns the reason. Added and Removed require [FeatureObserveV1]. On engines
// without it, they do not run.
func WithObserverHooks(h ObserverHooks) FunctionOption {
	return func(c *functionConfig) error {
		if h.Added == nil && h.Removed == nil && !h.affectReplies() {
			return errors.New("iii: WithObserverHooks: no hook is set")
		}
		if h.Match != nil && h.Keys != nil {
			return errors.New("iii: WithObserverHooks: Match and Keys exclude each other")
		}
		if h.Keys != nil && (h.Keys.Observer == nil || h.Keys.Call == nil) {
			return errors.New("iii: WithObserverHooks: Keys needs both functions")
		}
		c.hooks = h
		return nil
	}
}

// WithWorkerObserverHooks sets hooks that run for the observers of all of this worker's
// functions. Added runs before the function's own hook, and Removed runs after it. Match, Keys
// and Deliver must be nil. Default: none.
func WithWorkerObserverHooks(h ObserverHooks) Option {
	return clientOption(func(c *config) error {
		if h.affectReplies() {
			return errors.New("iii: WithWorkerObserverHooks: Match, Keys and Deliver belong to a function: see WithObserverHooks")
		}
		c.observerHooks = h
		return nil
	})
}

// FunctionObserver is an observer of a function that this worker hosts. It is passed to hooks.
// All methods are safe for concurrent use.
//
// If the engine announces a different target, outcome, capture or filters for an observer with
// the same id and arguments, later hooks receive a new FunctionObserver with that id. The
// methods of the old and the new FunctionObserver use the latest announcement.
type FunctionObserver struct {
	// ID is the id of the observer.
	ID string
	// FunctionID is the id of the observed function.
	FunctionID string
	// Target is the id of the observer's target function.
	Target string
	// On is the outcome of the calls that the observer selects.
	On ObserveOn
	// Capture lists the parts of a call that the observer receives. The slice must not be
	// modified.
	Capture []Capture

	filter *filter.Filter
	held   *heldObserver
}

// heldObserver is the part of an observer that is kept when its target, outcome, capture or
// filters change.
type heldObserver struct {
	id   string
	host *hosting
	of   *Function
	args json.RawMessage
	seq  string // sort key among the observers of a function

	state   atomic.Uint32 // heldState
	view    atomic.Pointer[FunctionObserver]
	settled chan struct{} // closed once the observer has been accepted, rejected or removed

	// Guarded by hosting.mu.
	link      *link  // the link of the latest announcement
	revision  uint64 // the revision of the latest announcement
	acked     *link  // the link on which the observer was last accepted
	rejection *ErrorBody
	task      *hookTask // the task that adds the observer; nil once the task has started
	keys      []string
}

type heldState uint32

const (
	heldAdding heldState = iota // Added has not returned
	heldActive
	heldRejected
	heldGone
)

func (o *heldObserver) is(s heldState) bool { return heldState(o.state.Load()) == s }

// Filters returns the observer's filters.
func (o *FunctionObserver) Filters() *Filter { return &Filter{o.held.view.Load().filter} }

// Args returns the observer's arguments, which conform to the schema set by [WithArgsSchema]
// or [WithArgs]. The result is {} if there are no arguments. The caller owns the result.
func (o *FunctionObserver) Args() json.RawMessage { return bytes.Clone(o.held.args) }

// DecodeArgs decodes the arguments into v. The error is an [*Error] with the code
// INVALID_ARGS, so an Added hook can return it to reject the observer.
func (o *FunctionObserver) DecodeArgs(v any) error {
	if err := json.Unmarshal(o.held.args, v); err != nil {
		return &Error{Code: CodeInvalidArgs, Message: fmt.Sprintf("observer %s args: %v", o.ID, err)}
	}
	return nil
}

// Active reports whether the observer has been accepted, and has not been removed or rejected
// since.
func (o *FunctionObserver) Active() bool { return o.held.is(heldActive) }

// Matches reports whether the observer selects a call. An observer selects a call if its
// filters match and, unless call.Status is empty, its outcome matches too.
func (o *FunctionObserver) Matches(call *ObservedCall) bool {
	v := o.held.view.Load()
	return v.asksFor(call.Status) && v.filter.Matches(call.document())
}

// asksFor reports whether the observer selects calls with the given status.
func (o *FunctionObserver) asksFor(status string) bool {
	switch o.On {
	case ObserveOnError:
		return status != statusSuccess
	case ObserveOnComplete:
		return true
	case ObserveOnSuccess:
		return status != statusError
	}
	return false // an outcome unknown to this package
}

// Accepted waits until this worker has accepted the observer. It returns nil once the message
// that accepts the observer is in the send queue, behind messages queued earlier. Otherwise,
// it returns one of the following errors:
//
//   - an [*Error] with the reason if the observer is rejected
//   - an [*Error] with the code OBSERVER_NOT_ACTIVE if the observer has been removed
//   - [ErrNotConnected] if the client is disconnected; the engine is notified after the
//     reconnect
//   - an error that satisfies errors.Is(err, ctx.Err()) if ctx is done
//
// Accepted fails immediately if it is called by the observer's own Added hook.
func (o *FunctionObserver) Accepted(ctx context.Context) error {
	held := o.held
	if ctx.Value(addingKey{}) == held {
		return fmt.Errorf("iii: observer %s: Accepted waits for the hook that calls it", o.ID)
	}
	select {
	case <-held.settled:
	default:
		select {
		case <-held.settled:
		case <-ctx.Done():
			return fmt.Errorf("iii: observer %s: %w", o.ID, ctxError(ctx))
		}
	}
	return held.host.accepted(held)
}

// addingKey is the context key for the observer whose Added hook is running.
type addingKey struct{}

// Reject deactivates an accepted observer and runs the Removed hook. The engine notifies the
// worker that created the observer, with the same code and message as if [ObserverHooks].Added
// had returned err. Calling Reject within Added has the same effect as returning err. Reject
// has no effect on an observer that has been removed. A nil err is replaced with an error that
// has the code OBSERVE_REJECTED and a generic message.
//
// If the client is disconnected, or the connection is lost before the engine has read the
// rejection, the rejection is repeated when the engine announces the observer over the next
// connection. An observer with a different target, outcome, capture, filters or arguments is
// treated as a new one. A new observer with the same id and settings cannot be told apart from
// the rejected one and is also rejected.
func (o *FunctionObserver) Reject(err error) {
	if err == nil {
		err = &Error{Code: CodeObserveRejected, Message: "rejected by the worker that hosts the function"}
	}
	o.held.host.reject(o.held, rejectionOf(err))
}

// Call runs this observer's target and decodes the result into out, as [Client.Call] does. The
// target receives the payload itself rather than an [Observed], together with the observer's
// metadata. The observer's filters are not applied. The call always goes through the engine
// and counts toward the observer's limits. If the observer is not active, Call sends nothing
// and returns an [*Error] with the code OBSERVER_NOT_ACTIVE. Other errors are those of
// [Client.Call].
func (o *FunctionObserver) Call(ctx context.Context, payload, out any) error {
	if err := o.callable(); err != nil {
		return err
	}
	return o.held.host.client.call(ctx, invocation{functionID: o.held.view.Load().Target, observerID: o.ID}, payload, out, nil)
}

// Send is like [FunctionObserver.Call], but does not wait for a result; see [Client.Send].
func (o *FunctionObserver) Send(ctx context.Context, payload any) error {
	if err := o.callable(); err != nil {
		return err
	}
	return o.held.host.client.send(ctx, invocation{functionID: o.held.view.Load().Target, observerID: o.ID, action: actionVoid}, payload, nil)
}

func (o *FunctionObserver) callable() error {
	if len(o.held.host.active([]*FunctionObserver{o})) > 0 {
		return nil
	}
	return &Error{Code: CodeObserverNotActive, Message: fmt.Sprintf("observer %s of %s is not active", o.ID, o.FunctionID), FunctionID: o.held.view.Load().Target}
}

// LocalDispatch reports whether this worker's calls to the function currently run in process.
// The engine must allow it, and the function must not have been registered with
// [WithoutLocalDispatch]. The result does not change while the client is disconnected.
func (f *Function) LocalDispatch() bool { return f.observers.grant.Load() != nil }

// IsObserved reports whether the function has an active observer. It neither allocates nor
// locks, so programs can use it to avoid creating events that nobody observes.
func (f *Function) IsObserved() bool { return f.observers.current.Load() != nil }

// Observers returns the function's active observers, in the order in which the engine
// announced them. It returns nil if there are none.
func (f *Function) Observers() []*FunctionObserver { return f.observers.current.Load().list() }

// IsObservedFor reports whether any active observer would receive the call. It applies Match
// or Keys and, if call.Status is set, the observers' outcomes and filters. An empty
// call.Status means that the call has not run yet. The filters are then not checked, because
// they may refer to the result. With Keys, IsObservedFor looks up the keys of the call instead
// of checking every observer.
func (f *Function) IsObservedFor(call *ObservedCall) bool {
	set := f.observers.current.Load()
	if set == nil {
		return false
	}
	if !f.hooks.matches() {
		if call.Status == "" {
			return true
		}
		return len(set.matches(nil, call.Status, call.document())) > 0
	}
	for _, o := range f.client.hosts.choose(f, set, call) {
		if call.Status == "" || o.Matches(call) {
			return true
		}
	}
	return false
}

// observerSet holds a function's observers. Messages from the engine change the set, and calls
// read it.
type observerSet struct {
	current   atomic.Pointer[activeSet]  // nil if no observer is active
	grant     atomic.Pointer[localGrant] // nil if calls go through the engine
	confirmed atomic.Pointer[link]       // the link that last confirmed the function and carries the acks of its observers

	// Guarded by hosting.mu.
	id               string // the engine's id of the function
	namespace        string
	revision         uint64
	byID             map[string]*heldObserver
	unreadRejections map[string]*heldObserver   // rejected, but the engine may not have read the rejection
	keyed            map[string][]*heldObserver // active observers by key
	noticed          bool                       // a panic in a match hook has been logged
}

// localGrant is the engine's permission to run calls to a function in process. id is the
// function's id in the engine.
type localGrant struct{ id, namespace string }

// activeSet is an immutable snapshot of a function's active observers, keyed by sequence
// number.
type activeSet struct {
	last             string // highest sequence number so far
	all              filter.Index[*FunctionObserver]
	success, failure filter.Index[*FunctionObserver] // the observers that select this outcome, with their filters
}

func (s *activeSet) list() (list []*FunctionObserver) {
	if s == nil {
		return nil
	}
	list = make([]*FunctionObserver, 0, s.all.Len())
	for _, o := range s.all.All() {
		list = append(list, o)
	}
	return list
}

// clone returns a copy of the set. Only one goroutine at a time may clone a set.
func (s *activeSet) clone() *activeSet {
	if s == nil {
		return new(activeSet)
	}
	return &activeSet{s.last, s.all.Clone(), s.success.Clone(), s.failure.Clone()}
}

// with returns a copy of the set that contains o. If the set contains an earlier version of
// the same observer, o replaces it.
func (s *activeSet) with(o *FunctionObserver) *activeSet {
	next := s.clone()
	key := o.held.seq
	next.last = max(next.last, key)
	next.all.Insert(key, nil, o)
	next.success.Remove(key)
	if o.asksFor(statusSuccess) {
		next.success.Insert(key, o.filter, o)
	}
	next.failure.Remove(key)
	if o.asksFor(statusError) {
		next.failure.Insert(key, o.filter, o)
	}
	return next
}

// without returns a copy of the set without o, or nil if it would be empty.
func (s *activeSet) without(o *heldObserver) *activeSet {
	next := s.clone()
	next.all.Remove(o.seq)
	if next.all.Len() == 0 {
		return nil
	}
	next.success.Remove(o.seq)
	next.failure.Remove(o.seq)
	return next
}

const (
	// hookTimeout limits the total running time of an observer's Added hooks, and separately
	// that of its Removed hooks.
	hookTimeout = 30 * time.Second
	// maxHooks is the maximum number of functions whose hooks run concurrently.
	maxHooks = 64
	// maxHeldObservers is the maximum number of observers per function.
	maxHeldObservers = 100_000
)

// hosting tracks the observers of this worker's functions, as announced by the engine, and
// runs their hooks. The tasks of a function ID run one at a time, each in its own goroutine.
type hosting struct {
	client *Client

	mu      sync.RWMutex
	seq     uint64
	queues  map[string]*hookQueue // by function ID, because a function may be registered again; empty ones are removed
	ready   []*hookQueue          // those that have a waiting task and no running one
	running int
	closed  bool
	ended   sync.WaitGroup
}

// hookQueue holds the tasks of one function ID.
type hookQueue struct {
	functionID string
	tasks      []*hookTask
	running    *hookTask // the task that the other tasks wait for
	queued     bool      // in hosting.ready
}

// hookTask runs either an observer's Added hooks or its Removed hooks.
type hookTask struct {
	o      *heldObserver
	remove hookLevels // levels whose Removed hooks to run; 0 means that the task adds the observer
	added  hookLevels // levels whose Added hook has returned nil
	over   bool       // the outcome is final, even if a hook is still running
	timer  *time.Timer
	cancel context.CancelFunc
}

// hookLevels is a bit set of hook levels: worker and function.
type hookLevels uint8

const (
	workerLevel hookLevels = 1 << iota
	functionLevel
)

// observerView is the engine's announcement of an observer.
type observerView struct {
	ObserverView
	filter *filter.Filter
	err    error // from compiling the filter
}

// decodeRegistered decodes the engine's confirmation of a function. It skips and logs the
// observers that do not decode or have no ID.
func (c *Client) decodeRegistered(b []byte) (*FunctionRegisteredMessage, error) {
	type plain FunctionRegisteredMessage // without the method UnmarshalJSON
	var m struct {
		plain
		Observers []json.RawMessage `json:"observers"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	m.Namespace = cmp.Or(m.Namespace, defaultNamespace)
	var skipped []string
	var first error
	for i, raw := range m.Observers {
		var v ObserverView
		err := json.Unmarshal(raw, &v)
		if err == nil {
			err = v.check()
		}
		if err == nil {
			m.plain.Observers = append(m.plain.Observers, v)
			continue
		}
		skipped = append(skipped, cmp.Or(textMember(raw, "id"), fmt.Sprintf("observers[%d]", i)))
		first = cmp.Or(first, err)
	}
	if len(skipped) > 0 {
		c.malformed.Add(1)
		c.log.Warn("iii: observers are skipped because their description does not decode", "function", m.ID,
			"observers", skipped[:min(len(skipped), 20)], "count", len(skipped), "error", first)
	}
	return (*FunctionRegisteredMessage)(&m.plain), nil
}

// check rejects an observer that cannot be referred to.
func (v *ObserverView) check() error {
	if v.ID == "" {
		return errors.New("the observer has no id")
	}
	return nil
}

// compileView compiles the filters of an announced observer. It may be slow, so the caller
// must not hold a lock.
func compileView(v ObserverView) observerView {
	f, err := filter.ParseNormalized(v.Filters)
	return observerView{v, f, err}
}

// equals reports whether o already has the announced target, outcome, capture and filters.
func (v *observerView) equals(o *FunctionObserver) bool {
	return o.Target == v.Target && o.On == v.On && slices.Equal(o.Capture, v.Capture) && o.filter.String() == v.filter.String()
}

func (v *observerView) of(held *heldObserver) *FunctionObserver {
	return &FunctionObserver{ID: v.ID, FunctionID: held.of.id, Target: v.Target, On: v.On, Capture: v.Capture, filter: v.filter, held: held}
}

// confirm handles the confirmation of f's registration on l. It replaces f's observers, and
// sets whether calls to f may run in process.
func (h *hosting) confirm(l *link, f *Function, m *FunctionRegisteredMessage, views []observerView) {
	h.mu.Lock()
	s := &f.observers
	s.id, s.revision, s.namespace = m.ID, m.Revision, m.Namespace
	unread := s.unreadRejections
	s.unreadRejections = nil
	granted := m.LocalDispatch && !f.remote && f.spec.invocation == nil
	if !granted {
		s.grant.Store(nil)
	}
	listed := make(map[string]bool, len(views))
	var added []*observerView
	for i := range views {
		v := &views[i]
		if listed[v.ID] {
			continue
		}
		listed[v.ID] = true
		if !h.renew(l, s.byID[v.ID], v, m.Revision) {
			added = append(added, v)
		}
	}
	var gone []*heldObserver
	for _, o := range s.byID {
		if !listed[o.id] {
			gone = append(gone, o)
		}
	}
	for _, o := range inOrder(gone) {
		h.remove(o)
	}
	for _, v := range added {
		var rejection *ErrorBody
		if o := unread[v.ID]; o != nil && v.err == nil && equalJSON(o.args, v.Args) && v.equals(o.view.Load()) {
			rejection = o.rejection
		}
		h.add(l, f, v, m.Revision, rejection)
	}
	if grant := (localGrant{m.ID, m.Namespace}); granted && (s.grant.Load() == nil || *s.grant.Load() != grant) {
		s.grant.Store(&grant) // last, so that no call runs in process before its observers are known
	}
	s.confirmed.Store(l)
	h.mu.Unlock()
	h.client.reports.release(f)
}

func inOrder(list []*heldObserver) []*heldObserver {
	slices.SortFunc(list, func(a, b *heldObserver) int { return bytes.Compare([]byte(a.seq), []byte(b.seq)) })
	return list
}

// announce adds or updates an observer.
func (h *hosting) announce(l *link, f *Function, v *observerView, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &f.observers
	if s.confirmed.Load() != l || revision <= s.revision {
		return
	}
	s.revision = revision
	if !h.renew(l, s.byID[v.ID], v, revision) {
		h.add(l, f, v, revision, nil)
	}
}

// removeObserver handles the engine's removal of an observer.
func (h *hosting) removeObserver(l *link, f *Function, id string, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &f.observers
	if s.confirmed.Load() != l || revision <= s.revision {
		return
	}
	s.revision = revision
	if o := s.byID[id]; o != nil {
		h.remove(o)
	}
}

func (h *hosting) holds(f *Function) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(f.observers.byID) > 0
}

// release removes all observers of a function that this worker no longer hosts. The caller may
// hold the registry's lock.
func (h *hosting) release(f *Function) {
	h.mu.Lock()
	s := &f.observers
	held := s.confirmed.Swap(nil) != nil || len(s.byID) > 0
	s.grant.Store(nil)
	s.unreadRejections = nil
	for _, o := range inOrder(slices.Collect(maps.Values(s.byID))) {
		h.remove(o)
	}
	h.mu.Unlock()
	if held {
		h.client.reports.drop(f)
	}
}

// renew applies an announcement to an existing observer. It returns false if there is no such
// observer, or if its arguments differ.
func (h *hosting) renew(l *link, o *heldObserver, v *observerView, revision uint64) bool {
	if o == nil {
		return false
	}
	if v.err != nil || !equalJSON(o.args, v.Args) {
		return false
	}
	o.link, o.revision = l, revision
	if old := o.view.Load(); !v.equals(old) {
		view := v.of(o)
		o.view.Store(view)
		if s := &o.of.observers; o.is(heldActive) {
			s.current.Store(s.current.Load().with(view))
		}
	}
	if o.is(heldActive) {
		h.ack(o, nil)
	}
	return true
}

// equalJSON reports whether two JSON documents have the same value.
func equalJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	decode := func(text []byte) (v any, err error) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		err = d.Decode(&v)
		return v, err
	}
	x, err := decode(a)
	if err != nil {
		return false
	}
	y, err := decode(b)
	return err == nil && reflect.DeepEqual(x, y)
}

// add adds a new observer, or rejects it, for example with the given rejection if that is not
// nil. An existing observer with the same id is removed.
func (h *hosting) add(l *link, f *Function, v *observerView, revision uint64, rejection *ErrorBody) {
	if old := f.observers.byID[v.ID]; old != nil {
		h.remove(old)
	}
	h.seq++
	o := &heldObserver{id: v.ID, host: h, of: f, args: json.RawMessage(v.Args), seq: string(binary.BigEndian.AppendUint64(nil, h.seq)),
		settled: make(chan struct{}), link: l, revision: revision}
	o.view.Store(v.of(o))
	s := &f.observers
	if s.byID == nil {
		s.byID = map[string]*heldObserver{}
	}
	s.byID[o.id] = o
	switch {
	case v.err != nil:
		code, message := CodeInvalidFilter, v.err.Error()
		var e *filter.Error
		if errors.As(v.err, &e) {
			code, message = e.Code, e.Message
		}
		h.refuse(o, &ErrorBody{Code: code, Message: message})
	case rejection != nil:
		h.refuse(o, rejection)
	case len(s.byID) > maxHeldObservers:
		h.refuse(o, &ErrorBody{Code: CodeLimitExceeded, Message: fmt.Sprintf("the worker holds %d observers of the function", maxHeldObservers)})
	case h.levels(f, func(hooks *ObserverHooks) bool { return hooks.Added != nil }) == 0 && f.hooks.Keys == nil:
		h.accept(o)
	default:
		o.task = &hookTask{o: o}
		h.push(f, o.task)
	}
}

// levels returns the levels whose ObserverHooks satisfy the given predicate.
func (h *hosting) levels(f *Function, has func(*ObserverHooks) bool) (levels hookLevels) {
	if has(&h.client.cfg.observerHooks) {
		levels |= workerLevel
	}
	if has(&f.hooks) {
		levels |= functionLevel
	}
	return levels
}

func (h *hosting) accept(o *heldObserver) {
	s := &o.of.observers
	for _, key := range o.keys {
		if s.keyed == nil {
			s.keyed = map[string][]*heldObserver{}
		}
		s.keyed[key] = append(s.keyed[key], o)
	}
	o.state.Store(uint32(heldActive))
	s.current.Store(s.current.Load().with(o.view.Load()))
	close(o.settled)
	h.ack(o, nil)
}

// refuse rejects an observer that is not active and notifies the engine.
func (h *hosting) refuse(o *heldObserver, body *ErrorBody) {
	o.rejection = body
	o.state.Store(uint32(heldRejected))
	h.forget(o)
	close(o.settled)
	h.ack(o, body)
}

// forget removes an observer from the set, unless another observer has taken over its id.
func (h *hosting) forget(o *heldObserver) {
	s := &o.of.observers
	if s.byID[o.id] == o {
		delete(s.byID, o.id)
	}
}

// retire deactivates an active observer and schedules its Removed hooks.
func (h *hosting) retire(o *heldObserver, state heldState) {
	s := &o.of.observers
	o.state.Store(uint32(state))
	s.current.Store(s.current.Load().without(o))
	for _, key := range o.keys {
		if list := remove(slices.Clone(s.keyed[key]), o); len(list) > 0 {
			s.keyed[key] = list
		} else {
			delete(s.keyed, key)
		}
	}
	h.forget(o)
	if levels := h.levels(o.of, func(hooks *ObserverHooks) bool { return hooks.Removed != nil }); levels != 0 {
		h.push(o.of, &hookTask{o: o, remove: levels})
	}
}

func (h *hosting) remove(o *heldObserver) {
	switch {
	case o.is(heldActive):
		h.retire(o, heldGone)
	case o.is(heldAdding):
		o.state.Store(uint32(heldGone))
		h.forget(o)
		close(o.settled)
		if t := o.task; t != nil { // the task has not started
			t.over = true
			h.queue(o.of).compact()
		}
	}
}

// reject rejects an observer at the program's request.
func (h *hosting) reject(o *heldObserver, body *ErrorBody) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case o.is(heldAdding) && o.rejection == nil:
		o.rejection = body // applied when the hook returns
	case o.is(heldActive):
		o.rejection = body
		h.retire(o, heldRejected)
		h.ack(o, body)
	}
}

// ack notifies the engine that an observer has been accepted or, if body is not nil, rejected.
// A rejection is kept until the engine has answered a ping behind it: if the link ends before,
// the engine may not have read the rejection. If the engine announces the observer again over
// the next link, confirm repeats the rejection.
func (h *hosting) ack(o *heldObserver, body *ErrorBody) {
	l := o.link
	s := &o.of.observers
	sent := h.client.out.pushNoWait(l, h.client.item(l.dialect().observerAck(s.id, s.namespace, o.id, o.revision, body)))
	if body == nil {
		if sent {
			o.acked = l
		}
		return
	}
	if s.unreadRejections == nil {
		s.unreadRejections = map[string]*heldObserver{}
	}
	s.unreadRejections[o.id] = o
	h.client.out.pushNoWait(l, item{kind: frameJSONPing, fence: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if s.unreadRejections[o.id] == o {
			delete(s.unreadRejections, o.id)
		}
	}})
}

// accepted implements [FunctionObserver.Accepted] for an observer that has been accepted,
// rejected or removed.
func (h *hosting) accepted(o *heldObserver) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	switch {
	case o.rejection != nil:
		return &Error{Code: o.rejection.Code, Message: o.rejection.Message, Stacktrace: o.rejection.Stacktrace}
	case !o.is(heldActive):
		return &Error{Code: CodeObserverNotActive, Message: fmt.Sprintf("observer %s of %s was removed", o.id, o.of.id)}
	case o.acked == nil || o.acked != h.client.out.current():
		return fmt.Errorf("%w: the engine could not be told that observer %s is accepted", ErrNotConnected, o.id)
	}
	return nil
}

// queue returns the queue of f's ID and creates it if necessary.
func (h *hosting) queue(f *Function) *hookQueue {
	q := h.queues[f.id]
	if q == nil {
		if h.queues == nil {
			h.queues = map[string]*hookQueue{}
		}
		q = &hookQueue{functionID: f.id}
		h.queues[f.id] = q
	}
	return q
}

func (h *hosting) push(f *Function, t *hookTask) {
	q := h.queue(f)
	q.tasks = append(q.tasks, t)
	h.schedule(q)
}

// compact removes tasks that became obsolete before they started, if there are many of them.
func (q *hookQueue) compact() {
	over := 0
	for _, t := range q.tasks {
		if t.over {
			over++
		}
	}
	if over > 64 && over > len(q.tasks)/2 {
		q.tasks = slices.DeleteFunc(q.tasks, func(t *hookTask) bool { return t.over })
	}
}

// schedule marks q as ready if it has a waiting task and no running one, and removes it if it
// has neither.
func (h *hosting) schedule(q *hookQueue) {
	switch {
	case q.queued || q.running != nil:
	case len(q.tasks) == 0:
		delete(h.queues, q.functionID)
	case !h.closed:
		q.queued = true
		h.ready = append(h.ready, q)
		h.start()
	}
}

// start starts ready tasks, up to maxHooks at a time.
func (h *hosting) start() {
	for h.running < maxHooks && len(h.ready) > 0 && !h.closed {
		q := h.ready[0]
		h.ready = h.ready[1:]
		q.queued = false
		for len(q.tasks) > 0 && q.running == nil {
			t := q.tasks[0]
			q.tasks = q.tasks[1:]
			if t.over {
				continue
			}
			q.running = t
			if t.o.task = nil; len(q.tasks) == 0 {
				q.tasks = nil
			}
			h.running++
			ctx, cancel := context.WithCancel(h.client.handlers)
			t.cancel = cancel
			t.timer = time.AfterFunc(hookTimeout, func() { h.expire(t) })
			h.ended.Add(1)
			go h.run(ctx, t)
		}
		h.schedule(q)
	}
}

func (h *hosting) run(ctx context.Context, t *hookTask) {
	defer h.ended.Done()
	ended := true
	defer func() {
		t.cancel()
		if ended { // the hook called runtime.Goexit
			h.completeTask(t, &ErrorBody{Code: CodeObserveRejected, Message: "the hook ended its goroutine"})
		}
	}()
	var body *ErrorBody
	if t.remove != 0 {
		h.runRemoved(ctx, t)
	} else {
		body = h.runAdded(context.WithValue(ctx, addingKey{}, t.o), t)
	}
	ended = false
	h.completeTask(t, body)
}

func (h *hosting) runAdded(ctx context.Context, t *hookTask) *ErrorBody {
	o := t.o
	for _, level := range []struct {
		level hookLevels
		added func(context.Context, *FunctionObserver) error
	}{{workerLevel, h.client.cfg.observerHooks.Added}, {functionLevel, o.of.hooks.Added}} {
		if level.added != nil {
			if err := h.call("added", o, func() error { return level.added(ctx, o.view.Load()) }); err != nil {
				return rejectionOf(err)
			}
		}
		if !h.passed(t, level.level) {
			return nil
		}
	}
	if keys := o.of.hooks.Keys; keys != nil {
		var found []string
		if err := h.call("key", o, func() error { found = slices.Clone(keys.Observer(o.view.Load())); return nil }); err != nil {
			return rejectionOf(err)
		}
		slices.Sort(found)
		o.keys = slices.Compact(found)
	}
	return nil
}

// passed records that a level's Added hook has returned nil, and reports whether the task
// should continue. If the hook returned after the task had ended, passed schedules the
// corresponding Removed hook.
func (h *hosting) passed(t *hookTask, level hookLevels) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.over {
		h.undo(t.o, level)
		return false
	}
	t.added |= level
	return t.o.rejection == nil && t.o.is(heldAdding)
}

// undo schedules Removed hooks for an observer that was not accepted. They run only for the
// levels whose Added hook returned nil.
func (h *hosting) undo(o *heldObserver, added hookLevels) {
	if levels := added & h.levels(o.of, func(hooks *ObserverHooks) bool { return hooks.Removed != nil }); levels != 0 {
		task := &hookTask{o: o, remove: levels}
		q := h.queue(o.of)
		q.tasks = slices.Insert(q.tasks, 0, task)
		h.schedule(q)
	}
}

func (h *hosting) runRemoved(ctx context.Context, t *hookTask) {
	o := t.o
	if f := o.of.hooks.Removed; f != nil && t.remove&functionLevel != 0 {
		_ = h.call("removed", o, func() error { f(ctx, o.view.Load()); return nil })
	}
	if f := h.client.cfg.observerHooks.Removed; f != nil && t.remove&workerLevel != 0 {
		_ = h.call("removed", o, func() error { f(ctx, o.view.Load()); return nil })
	}
}

// call runs a hook and converts a panic to an error.
func (h *hosting) call(hook string, o *heldObserver, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			h.client.log.LogAttrs(h.client.handlers, slog.LevelError, "iii: observer hook panicked", slog.String("hook", hook),
				slog.String("function", o.of.id), slog.String("observer", o.id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = &Error{Code: CodeObserveRejected, Message: fmt.Sprintf("the %s hook panicked", hook)}
			if h.client.cfg.stackTraces {
				err = &Error{Code: CodeObserveRejected, Message: fmt.Sprintf("the %s hook panicked: %v", hook, p)}
			}
		}
	}()
	return checked(f())
}

// checked returns the error that a callback has returned. It panics if the error's text cannot
// be used, for example because the error is a nil pointer.
func checked(err error) error {
	if err != nil {
		_ = err.Error()
	}
	return err
}

// expire completes a task whose hooks have exceeded the time limit.
func (h *hosting) expire(t *hookTask) {
	message := fmt.Sprintf("the added hook for observer %s did not finish within %v", t.o.id, hookTimeout)
	h.client.log.LogAttrs(h.client.handlers, slog.LevelWarn, "iii: observer hook takes too long", slog.String("function", t.o.of.id),
		slog.String("observer", t.o.id), slog.Duration("limit", hookTimeout))
	h.completeTask(t, &ErrorBody{Code: CodeOwnerTimeout, Message: message})
	t.cancel()
}

// completeTask records the outcome of a task and starts the function's next task.
func (h *hosting) completeTask(t *hookTask, body *ErrorBody) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	t.timer.Stop()
	o, q := t.o, h.queue(t.o.of)
	q.running = nil
	h.running--
	if t.remove == 0 {
		switch {
		case !o.is(heldAdding): // removed while the hook was running
			h.undo(o, t.added)
		case o.rejection != nil || body != nil:
			if o.rejection == nil {
				o.rejection = body
			}
			h.refuse(o, o.rejection)
			h.undo(o, t.added)
		default:
			h.accept(o)
		}
	}
	h.schedule(q)
	h.start()
}

// rejectionOf returns the error body that is sent when an observer is rejected.
func rejectionOf(err error) *ErrorBody {
	code, message, stack := errorParts(err)
	if e := asError(err); e == nil || e.InvocationID != "" || e.Code == "" { // returned by a call within the hook, or has no code
		return &ErrorBody{Code: CodeObserveRejected, Message: strings.TrimPrefix(err.Error(), "iii: ")}
	}
	return &ErrorBody{Code: code, Message: message, Stacktrace: stack}
}

// close prevents further hooks from starting. The returned channel is closed once no hook is
// running. The client cancels the contexts of running hooks.
func (h *hosting) close() <-chan struct{} {
	h.mu.Lock()
	h.closed, h.ready = true, nil
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		h.ended.Wait()
		close(ended)
	}()
	return ended
}

// Values of ObservedCall.Status.
const (
	statusSuccess = "success"
	statusError   = "error"
)

// ObservedCall is a call to a function, as seen by observer hooks and filters. Its parts are
// raw JSON. A nil part is absent rather than null. Hooks may retain an ObservedCall, but must
// not modify it.
type ObservedCall struct {
	// FunctionID is the id of the called function.
	FunctionID string
	// InvocationID identifies the call.
	InvocationID string
	// Status is "success" or "error", or "" if the call has not run yet.
	Status string
	// Input is the original payload, without the _caller_worker_id key that the engine adds.
	// Changes made by the handler are not included.
	Input json.RawMessage
	// Output is the handler's result. It is nil if the call failed.
	Output json.RawMessage
	// Error is an object with the members code and message. It is nil if the call succeeded.
	Error json.RawMessage
	// Caller is the call's [Caller], encoded as JSON. It is nil if the caller is unknown.
	Caller json.RawMessage
	// Metadata is the call's metadata. It is nil if there is none.
	Metadata json.RawMessage
}

// Err returns a failed call's error as an [*Error], or nil if the call has not failed. If a
// Deliver hook returns this error, the caller receives the handler's original error.
func (c *ObservedCall) Err() error {
	if c.Error == nil {
		return nil
	}
	return remoteError(c.Error, c.FunctionID, c.InvocationID)
}

func (c *ObservedCall) document() *filter.Document {
	return &filter.Document{Input: c.Input, Output: c.Output, Error: c.Error, Caller: c.Caller, Metadata: c.Metadata}
}

// observation captures, before an invocation's handler runs, the data that observers and hooks
// need afterward.
type observation struct {
	set      *activeSet      // nil if the function has no observers
	input    json.RawMessage // a copy, because the handler owns its payload
	metadata json.RawMessage // also a copy
	asked    bool            // the hooks have run
}

// observe returns the observation for an invocation, or nil if no observer or hook needs one.
// If the call came through the engine, only hooks can need one, because the engine itself
// matches such calls against the observers.
func (in *incoming) observe() *observation {
	f := in.function
	set := f.observers.current.Load()
	interested := set != nil || f.hooks.Deliver != nil
	switch {
	case in.local && !interested:
		return nil
	case !in.local && (!f.hooks.affectReplies() || len(in.id) == 0 || !in.origin.dialect().hooks()):
		return nil
	case !interested:
		return &observation{} // the engine must be notified that nothing matched
	}
	input := in.data
	if !in.local {
		input = withoutCaller(input)
	}
	return &observation{set: set, input: bytes.Clone(input), metadata: bytes.Clone(in.metadata)}
}

// call returns the ObservedCall for an invocation whose handler has returned. Its Output
// shares memory with b.
func (o *observation) call(c *Client, in *incoming, b *buffer, err error) *ObservedCall {
	call := &ObservedCall{FunctionID: in.function.id, InvocationID: string(in.id), Status: statusSuccess,
		Input: o.input, Metadata: o.metadata, Caller: in.callerJSON(c)}
	if err == nil {
		call.Output = b.bytes()[b.result[0]:b.result[1]]
		return call
	}
	call.Status = statusError
	code, message, _ := errorParts(err)
	p := rawjson.AppendString([]byte(`{"code":`), code)
	p = rawjson.AppendString(append(p, `,"message":`...), message)
	call.Error = append(p, '}')
	return call
}

// answer encodes the result of an invocation, runs the hooks and, if the call is local,
// reports the call to the engine. The returned error is the one sent to the caller, or nil.
func (c *Client) answer(ctx context.Context, in *incoming, o *observation, result any, err error) (*buffer, error) {
	if o == nil {
		return c.encodeAnswer(ctx, in, in.origin, result, err)
	}
	hooks := &in.function.hooks
	if hooks.Deliver != nil && !o.asked {
		b, failure := c.encodeAnswer(ctx, in, rawOrigin{}, result, err) // not subject to the size limit
		call := o.call(c, in, b, failure)
		call.Output = bytes.Clone(call.Output)
		b.free()
		o.asked = true
		result, err = c.deliver(ctx, in, call, c.hosts.choose(in.function, o.set, call), failure)
	}
	b, err := c.encodeAnswer(ctx, in, in.origin, result, err)
	switch {
	case in.local && hooks.Deliver != nil: // nothing to report, because the hook has replaced the engine's delivery
	case in.local:
		c.reportCall(ctx, in, o, b, err)
	case hooks.Deliver != nil:
		return c.complete(ctx, in, b, err, true, nil)
	default:
		var chosen []*FunctionObserver
		if o.set != nil && !b.tooLarge && !o.asked {
			o.asked = true
			call := o.call(c, in, b, err)
			call.Output = bytes.Clone(call.Output)
			chosen = c.hosts.choose(in.function, o.set, call)
		}
		return c.complete(ctx, in, b, err, false, chosen)
	}
	return b, err
}

// complete adds to the encoded answer in b what the hooks have decided. If this makes the
// answer too large, an error replaces it, which no observer matches.
func (c *Client) complete(ctx context.Context, in *incoming, b *buffer, err error, delivered bool, matched []*FunctionObserver) (*buffer, error) {
	add := func() {
		p := b.p[:len(b.p)-1]
		if delivered {
			p = in.origin.dialect().appendDelivered(p)
		} else {
			p = in.origin.dialect().appendMatched(p, matched)
		}
		b.p = append(p, '}')
	}
	add()
	if limit, _ := in.origin.limit(); b.len() >= limit {
		size := b.len()
		b.free()
		matched = nil
		b, err = c.encodeAnswer(ctx, in, in.origin, nil, tooLarge(in.origin, size))
		add()
	}
	return b, err
}

// deliver runs a function's Deliver hook. failure is the handler's error, or nil.
func (c *Client) deliver(ctx context.Context, in *incoming, call *ObservedCall, observers []*FunctionObserver, failure error) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.LogAttrs(ctx, slog.LevelError, "iii: deliver hook panicked", slog.String("function", in.function.id),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			result, err = nil, &Error{Code: CodeInvocationFailed, Message: "deliver hook panicked"}
		}
	}()
	result, err = in.function.hooks.Deliver(ctx, call, observers)
	if checked(err) == nil {
		return result, nil
	}
	e := asError(err)
	if e == nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, &Error{Code: CodeTimeout, Message: strings.TrimPrefix(err.Error(), "iii: ")}
		}
		return nil, err
	}
	if failure != nil {
		code, message, _ := errorParts(failure)
		if c := e.Code; (c == code || c == "" && code == CodeInvocationFailed) && e.Message == message {
			return nil, failure
		}
	}
	return nil, err
}

// choose returns the active observers in the set that Match or Keys selects for a call.
func (h *hosting) choose(f *Function, set *activeSet, call *ObservedCall) (chosen []*FunctionObserver) {
	switch {
	case set == nil:
	case f.hooks.Keys != nil:
		for _, o := range h.keyed(f, set, h.keysOf(f, call)) {
			chosen = append(chosen, o.view.Load())
		}
	default:
		for _, o := range h.active(set.list()) {
			if f.hooks.Match == nil || h.match(f, o, call) {
				chosen = append(chosen, o)
			}
		}
	}
	return chosen
}

// active removes the observers that are not active from list. The acks of the others are in the
// send queue, so later messages may refer to these observers.
func (h *hosting) active(list []*FunctionObserver) []*FunctionObserver {
	if len(list) == 0 {
		return list
	}
	h.mu.RLock() // accept holds the lock until the ack is in the send queue
	defer h.mu.RUnlock()
	return slices.DeleteFunc(list, func(o *FunctionObserver) bool { return !o.held.is(heldActive) })
}

// keyed returns the active observers in the set that have at least one of the keys.
func (h *hosting) keyed(f *Function, set *activeSet, keys []string) (found []*heldObserver) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, key := range keys {
		for _, o := range f.observers.keyed[key] {
			if o.seq <= set.last {
				found = append(found, o)
			}
		}
	}
	if len(keys) > 1 {
		found = slices.Compact(inOrder(found))
	}
	return found
}

// keysOf returns the keys of a call.
func (h *hosting) keysOf(f *Function, call *ObservedCall) (keys []string) {
	defer h.recoverMatch(f, &keys)
	return f.hooks.Keys.Call(call)
}

// match reports whether the Match hook selects an observer for a call.
func (h *hosting) match(f *Function, o *FunctionObserver, call *ObservedCall) (matches bool) {
	var none []string
	defer h.recoverMatch(f, &none)
	return f.hooks.Match(o, call)
}

// recoverMatch recovers from a panic in a Match or Keys hook. The call then matches no
// observer. Only the first panic per function is logged.
func (h *hosting) recoverMatch(f *Function, keys *[]string) {
	p := recover()
	if p == nil {
		return
	}
	*keys = nil
	h.mu.Lock()
	noticed := f.observers.noticed
	f.observers.noticed = true
	h.mu.Unlock()
	if !noticed {
		h.client.log.LogAttrs(h.client.handlers, slog.LevelError, "iii: match hook panicked; further panics of it are not logged",
			slog.String("function", f.id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// matches appends to dst the observers that select the given status and whose filters match d.
func (s *activeSet) matches(dst []*FunctionObserver, status string, d *filter.Document) []*FunctionObserver {
	if status == statusError {
		return s.failure.AppendMatches(dst, d)
	}
	return s.success.AppendMatches(dst, d)
}

// reportCall reports a local call to the engine if at least one observer selects it.
func (c *Client) reportCall(ctx context.Context, in *incoming, o *observation, b *buffer, err error) {
	if o.set == nil || o.asked {
		return
	}
	o.asked = true
	call := o.call(c, in, b, err)
	var matched []*FunctionObserver
	if in.function.hooks.matches() {
		call.Output = bytes.Clone(call.Output)
		for _, observer := range c.hosts.choose(in.function, o.set, call) {
			if observer.asksFor(call.Status) && observer.filter.Matches(call.document()) {
				matched = append(matched, observer)
			}
		}
	} else {
		matched = c.hosts.active(o.set.matches(nil, call.Status, call.document()))
	}
	if len(matched) == 0 {
		return
	}
	r := &report{function: in.function, id: call.InvocationID, matched: matched, status: call.Status, depth: in.depth, started: in.started, duration: time.Since(in.started),
		traceparent: InjectTraceparent(ctx), baggage: InjectBaggage(ctx)}
	captured := map[Capture]bool{}
	for _, observer := range matched {
		for _, part := range observer.Capture {
			captured[part] = true
		}
	}
	if captured[CaptureInput] {
		r.input = call.Input
	}
	if captured[CaptureOutput] && call.Output != nil {
		if captured[CaptureInput] && bytes.Equal(call.Input, call.Output) {
			r.echoes = true
		} else {
			r.output = bytes.Clone(call.Output)
		}
	}
	if captured[CaptureError] {
		r.err = call.Error
	}
	if captured[CaptureMetadata] {
		r.metadata = call.Metadata
	}
	if captured[CaptureCaller] {
		r.caller = in.originJSON(nil, false)
	}
	c.reports.push(r)
}

// tooLarge returns the error for a result that does not fit in a message.
func tooLarge(o origin, size int) error {
	limit, code := o.limit()
	return &Error{Code: code, Message: fmt.Sprintf("the result makes a message of %d bytes; the limit is %d", size, limit)}
}
