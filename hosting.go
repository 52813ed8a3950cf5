package iii

import (
	"bytes"
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

// ObserverHooks lets the worker that hosts a function influence the function's observers
// ([WithObserverHooks], [WithWorkerObserverHooks]). All fields may be nil; the zero value
// accepts every observer and leaves matching and delivery to the engine.
//
// The Added and Removed hooks of one function run one at a time, in the order in which the
// engine announces the changes; hooks of different functions run concurrently, for up to 64
// functions. Hooks may run before the call that registers the function returns. A panic counts
// as an error of the hook.
type ObserverHooks struct {
	// Added prepares for a new observer, which receives nothing until Added has returned nil.
	// An error rejects the observer: an [*Error] that the hook creates keeps its code and
	// message; any other error, including an [*Error] returned by a call, has the code
	// OBSERVE_REJECTED. The Added hooks of worker and function share a limit of 30 s, after
	// which the observer is rejected with OWNER_TIMEOUT and ctx is canceled. ctx is also
	// canceled when the client ends. If a hook returns nil after the limit, Removed runs next.
	//
	// After a reconnection, Added does not run again for an observer whose arguments are
	// unchanged. If they differ, the observer is removed and added.
	Added func(ctx context.Context, o *FunctionObserver) error

	// Removed undoes what Added prepared. It runs once for each observer for which Added
	// returned nil: after the engine has removed the observer, after
	// [FunctionObserver.Reject], or when this worker stops hosting the function. The latter
	// happens when the function is unregistered, when another worker serves it, or when the
	// engine has no observers. It does not run when the client ends. After 30 s, ctx is
	// canceled and the next hook may run.
	Removed func(ctx context.Context, o *FunctionObserver)

	// Match reports whether a call is meant for an observer. It runs after the handler, for
	// each observer that was active when the call began and still is. The observer's outcome
	// and filters are checked afterwards. A panic counts as false. Default: every call is
	// meant for every observer.
	Match func(o *FunctionObserver, call *ObservedCall) bool

	// Keys replaces Match for functions with many observers: it takes one lookup per call. A
	// function may have Match or Keys, but not both.
	Keys *ObserverKeys

	// Deliver delivers a call to the observers in place of the engine, and returns the result
	// or the error for the caller of the function. It runs after the handler, in the handler's
	// context, for every call, including failed calls and calls without observers. observers
	// lists those that Match or Keys has selected, or all active ones if neither is set. Their
	// outcomes and filters are not checked; use [FunctionObserver.Matches].
	//
	// An [*Error] keeps its code and message, a timed-out call has the code TIMEOUT, and any
	// other error is sent as invocation_failed. If Deliver returns an [*Error] with the code
	// and message of the handler's error ([ObservedCall.Err]), the handler's original error is
	// sent.
	Deliver func(ctx context.Context, call *ObservedCall, observers []*FunctionObserver) (any, error)
}

// ObserverKeys matches calls to the observers with which they share a key.
type ObserverKeys struct {
	// Observer returns the keys of an observer. It runs once, when the observer is accepted,
	// after the Added hooks. A panic rejects the observer.
	Observer func(o *FunctionObserver) []string
	// Call returns the keys of a call. It runs once per call, after the handler. A panic
	// counts as no keys.
	Call func(call *ObservedCall) []string
}

// matches reports whether this worker matches calls to observers.
func (h *ObserverHooks) matches() bool { return h.Match != nil || h.Keys != nil }

// answer reports whether the hooks affect the answers to calls.
func (h *ObserverHooks) answer() bool { return h.matches() || h.Deliver != nil }

// WithArgsSchema sets the JSON Schema of the arguments ([Source].Args) of the function's
// observers: a json.RawMessage, or any value that marshals to a schema. The engine validates
// the arguments before it announces the observer to this worker. By default, observers must
// not have arguments. The option needs an engine with [FeatureObserveV2]; on other engines the
// function is not registered ([Function.Err]).
func WithArgsSchema(schema any) FunctionOption {
	return func(c *functionConfig) (err error) {
		if schema == nil {
			return errors.New("iii: WithArgsSchema: nil schema")
		}
		c.args, err = schemaValue(schema)
		return wrapOption("WithArgsSchema", err)
	}
}

// WithArgs is like [WithArgsSchema] with the schema of T, which is inferred in the same way as
// the schema of a payload of [Handle]. The registration returns an error if T cannot be
// described by a schema.
func WithArgs[T any]() FunctionOption {
	return func(c *functionConfig) (err error) {
		c.args, err = schemaOf(reflect.TypeFor[T](), true)
		return wrapOption("WithArgs", err)
	}
}

// WithPrivate restricts calls of the function to this worker; calls by others fail with the
// code FORBIDDEN. Any worker may observe the function. The option needs an engine with
// [FeatureObserveV2]; on other engines the function is not registered ([Function.Err]).
func WithPrivate() FunctionOption {
	return func(c *functionConfig) error { c.private = true; return nil }
}

// WithoutObservers makes the engine reject observers of the function with the code
// NOT_OBSERVABLE. The option needs an engine with [FeatureObserveV2]; on other engines the
// function is not registered ([Function.Err]).
func WithoutObservers() FunctionOption {
	return func(c *functionConfig) error { c.unobservable = true; return nil }
}

// WithoutLocalDispatch routes all calls of the function through the engine, including those of
// this worker. By default, a worker's calls of its own functions run in process where the
// engine allows it ([Function.LocalDispatch]).
func WithoutLocalDispatch() FunctionOption {
	return func(c *functionConfig) error { c.remote = true; return nil }
}

// WithObserverHooks sets the hooks of the function's observers. The registration returns an
// error if no hook is set, or if both Match and Keys are set. Match, Keys and Deliver need an
// engine with [FeatureObserveV2]; on other engines the function is not registered
// ([Function.Err]). Added and Removed need [FeatureObserveV1]; on engines without it they do
// not run.
func WithObserverHooks(h ObserverHooks) FunctionOption {
	return func(c *functionConfig) error {
		if h.Added == nil && h.Removed == nil && !h.answer() {
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

// WithWorkerObserverHooks sets hooks that run for the observers of all functions of this
// worker: Added before the function's hook, Removed after it. Match, Keys and Deliver must be
// nil. Default: none.
func WithWorkerObserverHooks(h ObserverHooks) Option {
	return clientOption(func(c *config) error {
		if h.answer() {
			return errors.New("iii: WithWorkerObserverHooks: Match, Keys and Deliver belong to a function: see WithObserverHooks")
		}
		c.observerHooks = h
		return nil
	})
}

// FunctionObserver is an observer of a function that this worker hosts, as announced by the
// engine. Hooks receive it. All methods are safe for concurrent use.
//
// When the engine announces a different target, outcome, capture or filters for an observer
// with the same id and arguments, later hooks receive a new FunctionObserver with that id; the
// methods of both use the latest announcement.
type FunctionObserver struct {
	// ID is the id of the observer.
	ID string
	// FunctionID is the id of the observed function.
	FunctionID string
	// Target is the id of the function that the observer calls.
	Target string
	// On is the outcome that the observer selects.
	On ObserveOn
	// Capture lists the parts of a call that the observer receives. It must not be modified.
	Capture []Capture

	filter *filter.Filter
	held   *heldObserver
}

// heldObserver is the part of an observer that outlives changes of its target, outcome,
// capture and filters.
type heldObserver struct {
	id   string
	host *hosting
	of   *Function
	args json.RawMessage
	seq  string // orders the observers of a function

	state   atomic.Uint32 // heldState
	view    atomic.Pointer[FunctionObserver]
	settled chan struct{} // closed when it is accepted, or will not be

	// Guarded by the lock of hosting.
	link      *link  // that has announced it last, and
	revision  uint64 // with which revision
	acked     *link  // over which it was accepted last
	rejection *ErrorBody
	task      *hookTask // that adds it; nil once that has begun
	keys      []string
}

type heldState uint32

const (
	heldAdding heldState = iota // Added has yet to return
	heldActive
	heldRejected
	heldGone
)

func (o *heldObserver) is(s heldState) bool { return heldState(o.state.Load()) == s }

// Filters returns the observer's filters.
func (o *FunctionObserver) Filters() *Filter { return &Filter{o.held.view.Load().filter} }

// Args returns the observer's arguments, which conform to the schema of [WithArgsSchema], or
// {} if there are none. The caller owns the result.
func (o *FunctionObserver) Args() json.RawMessage { return bytes.Clone(o.held.args) }

// DecodeArgs decodes the arguments into v. The error is an [*Error] with the code
// INVALID_ARGS; an Added hook can return it to reject the observer.
func (o *FunctionObserver) DecodeArgs(v any) error {
	if err := json.Unmarshal(o.held.args, v); err != nil {
		return &Error{Code: CodeInvalidArgs, Message: fmt.Sprintf("observer %s args: %v", o.ID, err)}
	}
	return nil
}

// Active reports whether the observer has been accepted and neither removed nor rejected.
func (o *FunctionObserver) Active() bool { return o.held.is(heldActive) }

// Matches reports whether the observer selects a call: its filters match and, unless
// call.Status is empty, so does the outcome.
func (o *FunctionObserver) Matches(call *ObservedCall) bool {
	v := o.held.view.Load()
	return v.asksFor(call.Status) && v.filter.Matches(call.document())
}

// asksFor reports whether the observer selects calls with the given outcome.
func (o *FunctionObserver) asksFor(status string) bool {
	switch o.On {
	case ObserveOnError:
		return status != statusSuccess
	case ObserveOnComplete:
		return true
	case ObserveOnSuccess:
		return status != statusError
	}
	return false // an outcome that this package does not know
}

// Accepted returns nil once the message that accepts the observer is in the send queue, after
// all messages that were sent before. It returns an [*Error] with the reason if the observer
// is rejected, or with the code OBSERVER_NOT_ACTIVE if it has been removed; an
// [ErrNotConnected] if there is no connection (the engine is then informed on the next one);
// and an error that satisfies errors.Is(err, ctx.Err()) when ctx ends. If the Added hook of
// the same observer calls it, it fails immediately.
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

// addingKey is the context key under which an Added hook finds its observer.
type addingKey struct{}

// Reject takes an accepted observer out of service. The engine notifies the worker that
// created it, with the code and message that err would have if [ObserverHooks].Added returned
// it, and the Removed hook runs. Within Added, Reject has the effect of returning err. It does
// nothing for an observer that has been removed. A nil err counts as an error with an empty
// message.
func (o *FunctionObserver) Reject(err error) {
	if err == nil {
		err = &Error{Code: CodeObserveRejected, Message: "rejected by the worker that hosts the function"}
	}
	o.held.host.reject(o.held, rejectionOf(err))
}

// Call runs the target of this observer with the given payload and decodes the result into
// out, as [Client.Call] does. The target receives the payload without an envelope, together
// with the observer's metadata. The observer's filters are not applied. The call always goes
// through the engine and counts towards the observer's limits. In addition to the errors of
// [Client.Call], Call returns an [*Error] with the code OBSERVER_NOT_ACTIVE, before sending
// anything, if the observer is not active.
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
	if o.Active() {
		return nil
	}
	return &Error{Code: CodeObserverNotActive, Message: fmt.Sprintf("observer %s of %s is not active", o.ID, o.FunctionID), FunctionID: o.held.view.Load().Target}
}

// LocalDispatch reports whether this worker's own calls of the function currently run in
// process: the engine has allowed it, and the function was not registered with
// [WithoutLocalDispatch]. The value does not change while the connection is lost.
func (f *Function) LocalDispatch() bool { return f.observers.grant.Load() != nil }

// IsObserved reports whether the function has an active observer. It neither allocates nor
// locks, so programs can use it to avoid building events that nobody observes.
func (f *Function) IsObserved() bool { return f.observers.current.Load() != nil }

// Observers returns the active observers of the function in the order in which the engine
// announced them, or nil if there are none.
func (f *Function) Observers() []*FunctionObserver { return f.observers.current.Load().list() }

// IsObservedFor reports whether any active observer would receive the call according to Match
// or Keys and, if call.Status is set, according to the observers' outcomes and filters.
// Without a Status the call has not run yet, and the filters, which may refer to its result,
// are not checked. With Keys, IsObservedFor takes one lookup.
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

// observerSet holds the observers of a function. The engine's messages change it; calls read
// it.
type observerSet struct {
	current   atomic.Pointer[activeSet]  // nil: none is active
	grant     atomic.Pointer[localGrant] // nil: calls go through the engine
	confirmed atomic.Pointer[link]       // the link that last confirmed the function; its observers are acked

	// Guarded by the lock of hosting.
	id        string // the engine's id of the function
	namespace string
	revision  uint64
	byID      map[string]*heldObserver
	keyed     map[string][]*heldObserver // the active ones by key
	tasks     []*hookTask
	running   *hookTask // the task that the others wait for
	queued    bool      // the function is in hosting.ready
	noticed   bool      // a panic of a match hook was logged
}

// localGrant is the engine's permission to run calls of a function in process. id is the
// engine's id of the function.
type localGrant struct{ id, namespace string }

// activeSet is an immutable snapshot of a function's active observers. Its keys are sequence
// numbers.
type activeSet struct {
	last             string // sequence number of the latest observer
	all              filter.Index[*FunctionObserver]
	success, failure filter.Index[*FunctionObserver] // the observers that select this outcome
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

// with returns a set that also contains o, which may replace another view of the same
// observer.
func (s *activeSet) with(o *FunctionObserver) *activeSet {
	var next activeSet
	if s != nil {
		next = *s
	}
	key := o.held.seq
	next.last = max(next.last, key)
	next.all = next.all.Insert(key, nil, o)
	next.success, next.failure = next.success.Remove(key), next.failure.Remove(key)
	if o.asksFor(statusSuccess) {
		next.success = next.success.Insert(key, o.filter, o)
	}
	if o.asksFor(statusError) {
		next.failure = next.failure.Insert(key, o.filter, o)
	}
	return &next
}

// without returns a set without o, or nil if that set would be empty.
func (s *activeSet) without(o *heldObserver) *activeSet {
	if s == nil {
		return nil
	}
	next := *s
	next.all = s.all.Remove(o.seq)
	if next.all.Len() == 0 {
		return nil
	}
	next.success, next.failure = s.success.Remove(o.seq), s.failure.Remove(o.seq)
	return &next
}

const (
	// hookTimeout is the time limit for all Added hooks of an observer together, and for all
	// its Removed hooks.
	hookTimeout = 30 * time.Second
	// maxHooks is the number of functions whose hooks may run concurrently.
	maxHooks = 64
	// maxHeldObservers limits the number of observers of one function.
	maxHeldObservers = 100_000
)

// hosting keeps the observers of this worker's functions as the engine announces them, and
// runs the hooks. Each function has a list of tasks that run one at a time, each on a
// goroutine of its own.
type hosting struct {
	client *Client

	mu      sync.RWMutex
	seq     uint64
	ready   []*Function // functions that have a task to run and none running
	running int
	closed  bool
	ended   sync.WaitGroup
}

// hookTask runs the Added hooks of an observer, or its Removed hooks.
type hookTask struct {
	o      *heldObserver
	remove hookLevels // levels to remove; 0 means that the observer is being added
	added  hookLevels // levels whose Added hook has returned nil
	over   bool       // the outcome is settled; a hook may still be running
	timer  *time.Timer
	cancel context.CancelFunc
}

// hookLevels is a set of levels: worker, function.
type hookLevels uint8

const (
	workerLevel hookLevels = 1 << iota
	functionLevel
)

// observerView is the engine's announcement of an observer.
type observerView struct {
	ObserverView
	filter *filter.Filter
	err    error // of compiling the filter
}

// compileView compiles the filters of an announcement. It must be called without holding a
// lock, because it may take long.
func compileView(v ObserverView) observerView {
	f, err := filter.ParseNormalized(v.Filters)
	return observerView{v, f, err}
}

// equals reports whether the announcement, apart from the arguments, changes nothing for hooks
// and calls.
func (v *observerView) equals(o *FunctionObserver) bool {
	return o.Target == v.Target && o.On == v.On && slices.Equal(o.Capture, v.Capture) && o.filter.String() == v.filter.String()
}

func (v *observerView) of(held *heldObserver) *FunctionObserver {
	return &FunctionObserver{ID: v.ID, FunctionID: held.of.id, Target: v.Target, On: v.On, Capture: v.Capture, filter: v.filter, held: held}
}

// confirm replaces the observers of f, whose registration l has confirmed, and sets whether
// calls of f may run in process.
func (h *hosting) confirm(l *link, f *Function, m *FunctionRegisteredMessage, views []observerView) {
	h.mu.Lock()
	s := &f.observers
	s.id, s.revision, s.namespace = m.ID, m.Revision, m.Namespace
	if m.LocalDispatch && !f.remote && f.spec.invocation == nil {
		if granted := (localGrant{m.ID, m.Namespace}); s.grant.Load() == nil || *s.grant.Load() != granted {
			s.grant.Store(&granted)
		}
	} else {
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
		h.add(l, f, v, m.Revision)
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
		h.add(l, f, v, revision)
	}
}

// removeObserver removes an observer that the engine has removed.
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

// holds reports whether f has observers.
func (h *hosting) holds(f *Function) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(f.observers.byID) > 0
}

// release removes all observers of a function that this worker no longer hosts. Callers may or
// may not hold the lock of the registry.
func (h *hosting) release(f *Function) {
	h.mu.Lock()
	s := &f.observers
	held := s.confirmed.Swap(nil) != nil || len(s.byID) > 0
	s.grant.Store(nil)
	for _, o := range inOrder(slices.Collect(maps.Values(s.byID))) {
		h.remove(o)
	}
	h.mu.Unlock()
	if held {
		h.client.reports.drop(f)
	}
}

// renew applies an announcement to a held observer. It returns false if no observer is held
// under that id, or one with different arguments.
func (h *hosting) renew(l *link, o *heldObserver, v *observerView, revision uint64) bool {
	if o == nil {
		return false
	}
	if v.err != nil || o.rejection != nil || !equalJSON(o.args, v.Args) {
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

// equalJSON reports whether two JSON texts have the same value.
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

// add adds a new observer, or rejects it. It replaces an observer with the same id.
func (h *hosting) add(l *link, f *Function, v *observerView, revision uint64) {
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
	case len(s.byID) > maxHeldObservers:
		h.refuse(o, &ErrorBody{Code: CodeLimitExceeded, Message: fmt.Sprintf("the worker holds %d observers of the function", maxHeldObservers)})
	case h.levels(f, func(hooks *ObserverHooks) bool { return hooks.Added != nil }) == 0 && f.hooks.Keys == nil:
		h.accept(o)
	default:
		o.task = &hookTask{o: o}
		h.push(f, o.task)
	}
}

// levels returns the levels that have a hook.
func (h *hosting) levels(f *Function, has func(*ObserverHooks) bool) (levels hookLevels) {
	if has(&h.client.cfg.observerHooks) {
		levels |= workerLevel
	}
	if has(&f.hooks) {
		levels |= functionLevel
	}
	return levels
}

// accept makes an observer active and then notifies the engine.
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

// refuse forgets an observer that is not active and sends the reason to the engine.
func (h *hosting) refuse(o *heldObserver, body *ErrorBody) {
	o.rejection = body
	o.state.Store(uint32(heldRejected))
	h.forget(o)
	close(o.settled)
	h.ack(o, body)
}

// forget removes an observer from the set. By now, another observer may have its id.
func (h *hosting) forget(o *heldObserver) {
	s := &o.of.observers
	if s.byID[o.id] == o {
		delete(s.byID, o.id)
	}
}

// retire makes an active observer inactive, and runs its Removed hooks.
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

// remove removes an observer without notifying the engine.
func (h *hosting) remove(o *heldObserver) {
	switch {
	case o.is(heldActive):
		h.retire(o, heldGone)
	case o.is(heldAdding):
		o.state.Store(uint32(heldGone))
		h.forget(o)
		close(o.settled)
		if t := o.task; t != nil { // the task has not begun
			t.over = true
			h.compact(o.of)
		}
	}
}

// reject rejects an observer on behalf of the program.
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

// ack tells the engine that an observer is accepted, or the reason why it is rejected.
func (h *hosting) ack(o *heldObserver, body *ErrorBody) {
	l := o.link
	s := &o.of.observers
	if h.client.out.pushNoWait(l, h.client.item(l.dialect().observerAck(s.id, s.namespace, o.id, o.revision, body))) && body == nil {
		o.acked = l
	}
}

// accepted returns the outcome of a settled observer.
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

// push appends a task to the tasks of f.
func (h *hosting) push(f *Function, t *hookTask) {
	f.observers.tasks = append(f.observers.tasks, t)
	h.schedule(f)
}

// compact drops the tasks that were settled before they began, if there are many of them.
func (h *hosting) compact(f *Function) {
	s := &f.observers
	over := 0
	for _, t := range s.tasks {
		if t.over {
			over++
		}
	}
	if over > 64 && over > len(s.tasks)/2 {
		s.tasks = slices.DeleteFunc(s.tasks, func(t *hookTask) bool { return t.over })
	}
}

// schedule makes the next task of f ready, unless one is running.
func (h *hosting) schedule(f *Function) {
	s := &f.observers
	if s.queued || s.running != nil || len(s.tasks) == 0 || h.closed {
		return
	}
	s.queued = true
	h.ready = append(h.ready, f)
	h.start()
}

// start starts ready tasks up to the limit.
func (h *hosting) start() {
	for h.running < maxHooks && len(h.ready) > 0 && !h.closed {
		f := h.ready[0]
		h.ready = h.ready[1:]
		s := &f.observers
		s.queued = false
		for len(s.tasks) > 0 && s.running == nil {
			t := s.tasks[0]
			s.tasks = s.tasks[1:]
			if t.over {
				continue
			}
			s.running = t
			if t.o.task = nil; len(s.tasks) == 0 {
				s.tasks = nil
			}
			h.running++
			ctx, cancel := context.WithCancel(h.client.handlers)
			t.cancel = cancel
			t.timer = time.AfterFunc(hookTimeout, func() { h.expire(t) })
			h.ended.Add(1)
			go h.run(ctx, t)
		}
	}
}

// run runs the hooks of a task.
func (h *hosting) run(ctx context.Context, t *hookTask) {
	defer h.ended.Done()
	ended := true
	defer func() {
		t.cancel()
		if ended { // by runtime.Goexit in the hook
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

// passed records that the Added hook of a level has returned nil, and reports whether the task
// should continue. If the hook returned after the time limit, passed undoes it.
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

// undo schedules the Removed hooks of the levels whose Added hook returned nil for an observer
// that was not accepted.
func (h *hosting) undo(o *heldObserver, added hookLevels) {
	if levels := added & h.levels(o.of, func(hooks *ObserverHooks) bool { return hooks.Removed != nil }); levels != 0 {
		task := &hookTask{o: o, remove: levels}
		s := &o.of.observers
		s.tasks = slices.Insert(s.tasks, 0, task)
		h.schedule(o.of)
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

// call runs a hook and turns a panic into an error.
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
	return f()
}

// expire settles a task whose hooks exceed the limit.
func (h *hosting) expire(t *hookTask) {
	message := fmt.Sprintf("the added hook for observer %s did not finish within %v", t.o.id, hookTimeout)
	h.client.log.LogAttrs(h.client.handlers, slog.LevelWarn, "iii: observer hook takes too long", slog.String("function", t.o.of.id),
		slog.String("observer", t.o.id), slog.Duration("limit", hookTimeout))
	h.completeTask(t, &ErrorBody{Code: CodeOwnerTimeout, Message: message})
	t.cancel()
}

// completeTask settles the outcome of a task and starts the next one of its function.
func (h *hosting) completeTask(t *hookTask, body *ErrorBody) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	t.timer.Stop()
	o, s := t.o, &t.o.of.observers
	s.running = nil
	h.running--
	if t.remove == 0 {
		switch {
		case !o.is(heldAdding): // removed in the meantime
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
	h.schedule(o.of)
	h.start()
}

// rejectionOf returns the error body with which an observer is rejected.
func rejectionOf(err error) *ErrorBody {
	code, message, stack := errorParts(err)
	var e *Error
	if !errors.As(err, &e) || e.InvocationID != "" || e.Code == "" { // returned by a call that the hook made, or without a code
		return &ErrorBody{Code: CodeObserveRejected, Message: strings.TrimPrefix(err.Error(), "iii: ")}
	}
	return &ErrorBody{Code: code, Message: message, Stacktrace: stack}
}

// close prevents further hooks from starting. The returned channel is closed when no hook is
// running. The client ends the contexts of the hooks.
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

// Outcomes of calls.
const (
	statusSuccess = "success"
	statusError   = "error"
)

// ObservedCall is one call of a function, as seen by the hooks and filters of its observers.
// Its parts are raw JSON; nil means absent, which differs from null. Hooks may retain it, but
// must not modify it.
type ObservedCall struct {
	// FunctionID is the id of the called function.
	FunctionID string
	// InvocationID identifies the call.
	InvocationID string
	// Status is "success" or "error", or "" for a call that has not run yet.
	Status string
	// Input is the payload as it was before the handler ran, without the key that the engine
	// adds.
	Input json.RawMessage
	// Output is the handler's result, or nil if the call failed.
	Output json.RawMessage
	// Error has the members code and message. It is nil if the call succeeded.
	Error json.RawMessage
	// Caller identifies the caller ([Caller]). It is nil if the caller is unknown.
	Caller json.RawMessage
	// Metadata is the metadata of the call, or nil if there is none.
	Metadata json.RawMessage
}

// Err returns the error of a failed call as an [*Error], and nil for any other call. If a
// Deliver hook returns it, the caller receives the handler's error unchanged.
func (c *ObservedCall) Err() error {
	if c.Error == nil {
		return nil
	}
	return remoteError(c.Error, c.FunctionID, c.InvocationID)
}

func (c *ObservedCall) document() *filter.Document {
	return &filter.Document{Input: c.Input, Output: c.Output, Error: c.Error, Caller: c.Caller, Metadata: c.Metadata}
}

// observation is the state that must be captured before the handler of an invocation runs,
// because observers or hooks need it afterwards.
type observation struct {
	set      *activeSet      // nil: the function has no observers
	input    json.RawMessage // a copy, because the handler owns its payload
	metadata json.RawMessage // likewise
	asked    bool            // the hooks have run
}

// observe returns the observation of an invocation, or nil if no observer or hook needs one.
// None is needed for a call through the engine if the function has no hooks, because the
// engine matches such calls.
func (in *incoming) observe() *observation {
	f := in.function
	set := f.observers.current.Load()
	interested := set != nil || f.hooks.Deliver != nil
	switch {
	case in.local && !interested:
		return nil
	case !in.local && (!f.hooks.answer() || len(in.id) == 0 || !in.origin.dialect().hooks()):
		return nil
	case !interested:
		return &observation{} // the engine still needs to learn that nothing matched
	}
	input := in.data
	if !in.local {
		input = withoutCaller(input)
	}
	return &observation{set: set, input: bytes.Clone(input), metadata: bytes.Clone(in.metadata)}
}

// call returns the description of the invocation after its handler has returned. The output
// shares the memory of b.
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

// answer encodes the answer to an invocation, runs the hooks, and reports a local call to the
// engine. The error is the one that the caller receives, or nil.
func (c *Client) answer(ctx context.Context, in *incoming, o *observation, result any, err error) (*buffer, error) {
	if o == nil {
		return c.encodeAnswer(ctx, in, in.origin, result, err)
	}
	hooks := &in.function.hooks
	if hooks.Deliver != nil && !o.asked {
		b, failure := c.encodeAnswer(ctx, in, rawOrigin{}, result, err) // without a size limit for now
		call := o.call(c, in, b, failure)
		call.Output = bytes.Clone(call.Output)
		b.free()
		o.asked = true
		result, err = c.deliver(ctx, in, call, c.hosts.choose(in.function, o.set, call), failure)
	}
	b, err := c.encodeAnswer(ctx, in, in.origin, result, err)
	switch {
	case hooks.Deliver != nil:
		if !in.local {
			b.append(in.origin.dialect().appendDelivered)
		}
	case in.local:
		c.reportCall(ctx, in, o, b, err)
	default:
		var chosen []*FunctionObserver
		if o.set != nil && !b.tooLarge && !o.asked {
			o.asked = true
			call := o.call(c, in, b, err)
			call.Output = bytes.Clone(call.Output)
			chosen = c.hosts.choose(in.function, o.set, call)
		}
		matched := func(p []byte) []byte { return in.origin.dialect().appendMatched(p, chosen) }
		if b.append(matched); b.len() >= messageTooLarge {
			chosen = nil
			b.free()
			b, err = c.encodeAnswer(ctx, in, in.origin, nil, tooLarge(in.origin, b.len()))
			b.append(matched)
		}
	}
	return b, err
}

// append adds members to the answer in b.
func (b *buffer) append(members func([]byte) []byte) {
	b.p = append(members(b.p[:len(b.p)-1]), '}')
}

// deliver runs the Deliver hook of a function. failure is the error of the handler, or nil.
func (c *Client) deliver(ctx context.Context, in *incoming, call *ObservedCall, observers []*FunctionObserver, failure error) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.LogAttrs(ctx, slog.LevelError, "iii: deliver hook panicked", slog.String("function", in.function.id),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			result, err = nil, &Error{Code: CodeInvocationFailed, Message: "deliver hook panicked"}
		}
	}()
	result, err = in.function.hooks.Deliver(ctx, call, observers)
	if err == nil {
		return result, nil
	}
	var e *Error
	if !errors.As(err, &e) {
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

// choose returns the observers of a set that a call is meant for and that are still active.
func (h *hosting) choose(f *Function, set *activeSet, call *ObservedCall) (chosen []*FunctionObserver) {
	switch {
	case set == nil:
	case f.hooks.Keys != nil:
		for _, o := range h.keyed(f, set, h.keysOf(f, call)) {
			chosen = append(chosen, o.view.Load())
		}
	default:
		for _, o := range set.all.All() {
			if o.held.is(heldActive) && (f.hooks.Match == nil || h.match(f, o, call)) {
				chosen = append(chosen, o)
			}
		}
	}
	return chosen
}

// keyed returns the active observers of a set that have at least one of the keys.
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

// keysOf runs the Call hook, which returns the keys of a call.
func (h *hosting) keysOf(f *Function, call *ObservedCall) (keys []string) {
	defer h.recoverMatch(f, &keys)
	return f.hooks.Keys.Call(call)
}

// match returns the result of the Match hook for an observer and a call.
func (h *hosting) match(f *Function, o *FunctionObserver, call *ObservedCall) (matches bool) {
	var none []string
	defer h.recoverMatch(f, &none)
	return f.hooks.Match(o, call)
}

// recoverMatch recovers from a panic in a match hook; the call then matches no observer. The
// first panic per function is logged.
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

// matches appends the observers that select this outcome and whose filters match.
func (s *activeSet) matches(dst []*FunctionObserver, status string, d *filter.Document) []*FunctionObserver {
	if status == statusError {
		return s.failure.AppendMatches(dst, d)
	}
	return s.success.AppendMatches(dst, d)
}

// reportCall reports a local call to the engine if any observer selects it.
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
		matched = slices.DeleteFunc(o.set.matches(nil, call.Status, call.document()), func(o *FunctionObserver) bool { return !o.held.is(heldActive) })
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
		r.caller = in.appendOrigin(nil, false)
	}
	c.reports.push(r)
}

// tooLarge returns the error for a result whose message has the given size.
func tooLarge(o origin, size int) error {
	limit, code := o.limit()
	return &Error{Code: code, Message: fmt.Sprintf("the result makes a message of %d bytes; the limit is %d", size, limit)}
}
