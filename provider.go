package iii

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// TriggerType describes a trigger type provided by this worker.
type TriggerType struct {
	// ID is the ID that triggers use to refer to the type.
	ID string
	// Description appears in listings. Optional.
	Description string
	// ConfigSchema is the JSON Schema of a trigger's config, shown in listings. It is a
	// json.RawMessage or any value that marshals to a schema. Nil means no schema.
	ConfigSchema any
	// PayloadSchema is the JSON Schema of the payload that bound functions receive, shown in
	// listings. It accepts the same values as ConfigSchema.
	PayloadSchema any
	// Namespace is the namespace in which the type is provided. Default: the worker's own. A
	// type in "default" is also available to workers whose own namespace has no type with this
	// ID.
	Namespace string
}

// TriggerProvider implements a trigger type. The client calls Bind and Unbind when triggers
// are added and removed. The provider calls [TriggerBinding.Fire] for each of a trigger's
// events.
//
// For each trigger, Bind and Unbind are called in order and one at a time. Calls for different
// triggers may run concurrently. Neither method blocks the client's read loop. A panic is
// treated as an error returned by the method.
type TriggerProvider interface {
	// Bind starts a trigger and replaces any bound trigger with the same ID. If Bind returns
	// an error, the trigger is rejected, and the worker that registered it receives the error.
	// An [*Error] keeps its code; any other error has the code trigger_registration_failed. If
	// Bind was meant to replace a trigger, Unbind is then called for that trigger.
	//
	// ctx lasts as long as the trigger, even after Bind has returned or the connection has
	// been lost. It is canceled when the trigger is unbound, when a changed trigger replaces
	// it, and when the client is closed. Work started by Bind may use ctx until then.
	//
	// After a reconnection, the engine binds all triggers again. If a trigger has not changed,
	// b.Unchanged is true and ctx is the same as before.
	Bind(ctx context.Context, b TriggerBinding) error

	// Unbind stops a trigger. It is called when the trigger is unregistered or moves to
	// another provider, and when the engine does not bind it again after a reconnection. It is
	// not called when the client is closed; instead, the trigger's context, which was passed
	// to Bind, is canceled. The client logs an error returned by Unbind.
	Unbind(ctx context.Context, id string) error
}

// TriggerBinding is a bound trigger of a type that this worker provides. It is usable until
// the client is closed, and may be copied.
type TriggerBinding struct {
	// ID is the trigger's ID. It is unique within the engine.
	ID string
	// TriggerType is the ID of the trigger's type.
	TriggerType string
	// FunctionID is the ID of the function to call.
	FunctionID string
	// Namespace is the function's namespace. It is empty with engine 0.26 and later, which
	// does not report it.
	Namespace string
	// Config is the config with which the trigger was registered. If it was registered without
	// one, Config is null, or {} with engine 0.26 and later.
	Config json.RawMessage
	// Metadata is the trigger's metadata, which Fire passes to the function. It is nil if the
	// trigger has none. Engine 0.26 and later does not report metadata, so the field is then
	// always nil.
	Metadata json.RawMessage
	// Unchanged reports whether the trigger is already bound and the engine has merely sent it
	// again, as it does after each reconnection. A provider that has kept the trigger running
	// can return nil immediately.
	Unchanged bool

	client    *Client
	condition string // ID of a function that can suppress an event

	// observer represents the trigger on an engine without triggers.
	observer *FunctionObserver
}

// Fire calls the trigger's function with payload, in the function's namespace and with the
// trigger's metadata, and returns the function's result. Its errors and timeouts are those of
// [Client.Call].
//
// If the config contains condition_function_id, Fire first calls that function with the same
// payload. If the condition function returns exactly false, Fire returns a nil result and a
// nil error. If the condition function fails, Fire returns its error. In either case, the
// trigger's function is not called.
func (b TriggerBinding) Fire(ctx context.Context, payload any) (json.RawMessage, error) {
	if b.client == nil {
		return nil, errors.New("iii: fire: the binding does not come from a call of Bind")
	}
	raw, err := b.client.cfg.rawForUser(payload)
	if err != nil {
		return nil, notEncodable(b.FunctionID, err)
	}
	var opts []CallOption
	if b.Namespace != "" {
		opts = append(opts, InNamespace(b.Namespace))
	}
	if b.condition != "" {
		var verdict json.RawMessage
		if err := b.client.Call(ctx, b.condition, raw, &verdict, opts...); err != nil {
			return nil, public(fmt.Errorf("condition of trigger %s: %w", b.ID, err))
		}
		if string(bytes.TrimSpace(verdict)) == "false" {
			return nil, nil
		}
	}
	if b.observer != nil {
		if !b.observer.Matches(&ObservedCall{FunctionID: b.TriggerType, Input: raw, Output: raw}) {
			return nil, nil
		}
		var result json.RawMessage
		if err := b.observer.Call(ctx, raw, &result); err != nil {
			return nil, err
		}
		return result, nil
	}
	if b.Metadata != nil {
		opts = append(opts, WithMetadata(b.Metadata))
	}
	var result json.RawMessage
	if err := b.client.Call(ctx, b.FunctionID, raw, &result, opts...); err != nil {
		return nil, err
	}
	return result, nil
}

// HandleTriggerType makes this worker the provider of a trigger type. It does not wait for the
// network. Triggers that are waiting for a provider are bound as soon as the engine has
// registered the type. A type cannot be unregistered, because the protocol has no message for
// that; it exists until the client is closed.
//
// If several workers register the same type, the engine silently assigns it to the last one.
// When that worker disconnects, the engine drops the type even if another worker registered it
// earlier. The client therefore asks the engine every 2 s which worker provides each of its
// types. If another worker has taken over a type, the client unbinds the type's triggers. If
// no worker provides a type, the client registers it again. If access control forbids
// engine::triggers::info, the client stops asking until the next connection.
//
// Engine 0.26 and later has no triggers. Instead, a type is a private function with the same
// ID, and a trigger is an observer of that function, with the config as its args. Therefore,
// whatever the engine's version, this worker must not register a function with that ID. A type
// outside the worker's own namespace cannot be provided; the client logs a warning. A second
// provider is rejected until the first one has disconnected. Bindings have no namespace and no
// metadata. Fire calls the target through the observer, and only if the observer's filters
// match the payload.
func (c *Client) HandleTriggerType(t TriggerType, p TriggerProvider) error {
	fail := func(err error) error { return public(fmt.Errorf("trigger type %q: %w", t.ID, err)) }
	switch {
	case strings.TrimSpace(t.ID) == "":
		return errors.New("iii: blank trigger type id")
	case p == nil:
		return fail(errors.New("nil TriggerProvider"))
	case t.Namespace != "" && strings.TrimSpace(t.Namespace) == "":
		return fail(errors.New("blank namespace"))
	}
	config, err := schemaValue(t.ConfigSchema)
	if err != nil {
		return fail(fmt.Errorf("ConfigSchema: %w", err))
	}
	payload, err := schemaValue(t.PayloadSchema)
	if err != nil {
		return fail(fmt.Errorf("PayloadSchema: %w", err))
	}
	spec := triggerTypeSpec{id: t.ID, description: t.Description, namespace: t.Namespace, config: config, payload: payload}
	if err := checkMessage(triggerDialect{}.registerTriggerType(&spec)); err != nil {
		return fail(err)
	}
	provided := &providedType{id: t.ID, namespace: cmp.Or(t.Namespace, c.cfg.namespace, defaultNamespace), spec: spec, provider: p}
	if c.providers.has(provided) {
		return fail(fmt.Errorf("already provided in namespace %q", provided.namespace))
	}
	if provided.namespace == cmp.Or(c.cfg.namespace, defaultNamespace) {
		if err := c.addTypeFunction(provided); err != nil {
			return fail(err)
		}
	}
	if !c.providers.add(provided) { // another goroutine registered it in the meantime
		err = fmt.Errorf("already provided in namespace %q", provided.namespace)
	} else {
		err = c.registry.addType(provided)
	}
	if err != nil {
		if provided.function != nil {
			c.registry.removeFunction(provided.function)
		}
		return fail(err)
	}
	return nil
}

// anyArgs is the args schema of a type without a config schema. It allows any object.
var anyArgs = json.RawMessage(`{"type":"object"}`)

// addTypeFunction registers the function that represents a type on engines without triggers.
// Each observer of the function represents a trigger.
func (c *Client) addTypeFunction(t *providedType) error {
	uncalled := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: CodeFunctionNotInvokable, Message: "the function represents a trigger type and cannot be called: its worker fires the triggers"}
	}
	f := &Function{client: c, id: t.id, handler: uncalled, spanName: "execute " + t.id, untraced: true, quiet: true, remote: true,
		hooks: ObserverHooks{
			Added: func(ctx context.Context, o *FunctionObserver) error {
				return c.providers.observed(ctx, t, TriggerBinding{ID: o.ID, TriggerType: t.id, FunctionID: o.Target, Config: o.Args(), observer: o})
			},
			Removed: func(_ context.Context, o *FunctionObserver) { c.providers.unobserved(o.ID) },
		},
		spec: functionSpec{id: t.id, request: t.spec.payload, args: cmpRaw(t.spec.config, anyArgs), private: true, needsHooks: true}}
	if t.spec.description != "" {
		f.spec.description = &t.spec.description
	}
	f.claim = claim{function: f}
	if err := checkRegistration(&f.claim); err != nil {
		return err
	}
	if err := c.registry.addFunction(f); err != nil {
		return err
	}
	t.function = f
	return nil
}

func cmpRaw(a, b json.RawMessage) json.RawMessage {
	if a != nil {
		return a
	}
	return b
}

// typeWatchInterval is how often the client asks which workers provide its trigger types.
const typeWatchInterval = 2 * time.Second

// plainName reports whether the engine leaves a worker's name unchanged. The engine removes
// control and format characters and truncates names to 280 characters.
func plainName(name string) bool {
	return utf8.RuneCountInString(name) <= 280 && name == strings.TrimSpace(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// watchTypes asks the engine which workers provide this worker's trigger types. If another
// worker has taken over a type, watchTypes unbinds its triggers. If no worker provides a type,
// watchTypes registers it again. It returns false if this worker lacks permission to ask.
func (c *Client) watchTypes(l *link) bool {
	for _, t := range c.registry.providedTypes(l) {
		ctx, cancel := context.WithTimeout(ownCalls(l.handlers), typeWatchInterval)
		detail, err := Call[TriggerTypeDetail](ctx, c, "engine::triggers::info", TriggerTypeInfoInput{ID: t.id, Namespace: t.namespace})
		cancel()
		missed := t.missing
		t.missing = false
		var refusal *Error
		switch {
		case err == nil && detail.WorkerName != c.name && plainName(c.name):
			if c.providers.giveUp(t) {
				c.log.Warn("iii: another worker has taken over a trigger type of this worker", "type", t.id, "namespace", t.namespace, "worker", detail.WorkerName)
			}
		case errors.As(err, &refusal) && refusal.Code == CodeNotFound:
			t.missing = true
			if !missed { // access control may be silently and permanently denying the type
				c.log.Warn("iii: a trigger type of this worker has no provider; registering it again", "type", t.id, "namespace", t.namespace)
			}
			c.registry.renewType(l, t)
		case errors.Is(err, ErrForbidden), errors.Is(err, ErrFunctionNotFound):
			c.log.Debug("iii: cannot watch the providers of trigger types", "error", err)
			return false
		}
	}
	return true
}

// maxBinders limits how many triggers are bound or unbound concurrently.
const maxBinders = 16

// providers holds the triggers that the engine has bound to this worker's trigger types. For
// each trigger, it records the state wanted by the engine and the provider's current state.
// Goroutines called binders bring the provider to the wanted state; they exist only while
// there is work. A newer message from the engine replaces the wanted state, so a provider that
// hangs causes no backlog.
type providers struct {
	client *Client

	mu      sync.Mutex
	types   map[string][]*providedType // by ID
	byID    map[string]*boundTrigger
	ready   []*boundTrigger // have work to do and no binder
	binders int
	closed  bool
	ended   sync.WaitGroup
}

type providedType struct {
	id, namespace string // namespace is never empty
	spec          triggerTypeSpec
	provider      TriggerProvider
	function      *Function // represents the type on engines without triggers; nil for a type in another namespace
	unsaid        bool      // a log message has reported the type as unavailable; guarded by the registry's lock
	missing       bool      // the type had no provider at the last check of watchTypes
}

type boundTrigger struct {
	id string

	// Guarded by providers.mu.
	want *wantedTrigger // nil if it should not be bound
	seen *link          // link over which the engine last sent it
	todo bool           // want has changed since a binder last read it
	busy bool           // in providers.ready, or a binder is working on it

	// These fields are owned by the binder that is working on the trigger. bound is nil while
	// the trigger is not bound.
	bound  *TriggerBinding
	typ    *providedType
	ctx    context.Context
	cancel context.CancelFunc
}

// wantedTrigger is either a trigger registration sent by the engine, or an observer of the
// function that represents a trigger type.
type wantedTrigger struct {
	TriggerBinding
	link *link // nil for an observer
	typ  *providedType
	done chan error // for an observer: receives the outcome; capacity 1
}

func newProviders(c *Client) *providers {
	return &providers{client: c, types: map[string][]*providedType{}, byID: map[string]*boundTrigger{}}
}

func (s *providers) has(t *providedType) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(t.id, t.namespace) != nil
}

// add adds a type. It returns false if the type is already provided.
func (s *providers) add(t *providedType) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(t.id, t.namespace) != nil {
		return false
	}
	s.types[t.id] = append(s.types[t.id], t)
	return true
}

// find returns the type with the given ID and namespace, or nil. The engine omits the
// namespace "default".
func (s *providers) find(id, namespace string) *providedType {
	if namespace == "" {
		namespace = defaultNamespace
	}
	for _, t := range s.types[id] {
		if t.namespace == namespace {
			return t
		}
	}
	return nil
}

// register handles a registration received over l, for a provider in the given namespace.
func (s *providers) register(l *link, namespace string, m TriggerBinding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.find(m.TriggerType, namespace)
	if t == nil {
		s.answer(l, &m, &Error{Code: CodeTriggerTypeNotFound, Message: "Trigger type not found"})
		return
	}
	select {
	case <-s.client.stopping:
		s.answer(l, &m, &Error{Code: CodeWorkerDraining, Message: "the worker is shutting down"})
		return
	default:
	}
	b := s.byID[m.ID]
	if b == nil {
		b = &boundTrigger{id: m.ID}
		s.byID[m.ID] = b
	}
	b.seen = l
	s.change(b, &wantedTrigger{TriggerBinding: m, link: l, typ: t})
}

// observed handles a new observer of the function that represents t. It waits until the
// provider has bound or rejected the trigger.
func (s *providers) observed(ctx context.Context, t *providedType, m TriggerBinding) error {
	want := &wantedTrigger{TriggerBinding: m, typ: t, done: make(chan error, 1)}
	s.mu.Lock()
	b := s.byID[m.ID]
	if b == nil {
		b = &boundTrigger{id: m.ID}
		s.byID[m.ID] = b
	}
	s.change(b, want)
	s.mu.Unlock()
	select {
	case err := <-want.done:
		if body := refusalBody(err); body != nil {
			return &Error{Code: body.Code, Message: body.Message}
		}
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if b.want == want && s.client.handlers.Err() == nil {
			s.change(b, nil) // the provider may still bind the trigger, whose observer is rejected
		}
		return ctxError(ctx)
	}
}

func (s *providers) unobserved(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil && b.want != nil && b.want.done != nil {
		s.change(b, nil)
	}
}

// unregister handles a trigger's removal by the engine.
func (s *providers) unregister(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil {
		s.change(b, nil)
	}
}

// unbindMissing unbinds the triggers that the engine has not sent over l. Call it only after
// the engine has handled this worker's registrations. By then, the engine has sent all
// triggers bound to the registered types.
func (s *providers) unbindMissing(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byID {
		if b.seen != l && (b.want == nil || b.want.done == nil) { // observers are removed individually
			s.change(b, nil)
		}
	}
}

// giveUp unbinds the triggers of a type that another worker now provides. It reports whether
// there were any.
func (s *providers) giveUp(t *providedType) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byID {
		if b.want != nil && b.want.typ == t {
			s.change(b, nil)
			found = true
		}
	}
	return found
}

// change sets the wanted state and ensures that a binder acts on it. The caller holds s.mu.
func (s *providers) change(b *boundTrigger, want *wantedTrigger) {
	if b.want != nil && b.want.done != nil {
		select {
		case b.want.done <- errors.New("replaced before it was bound"):
		default: // it has been bound
		}
	}
	b.want, b.todo = want, true
	if b.busy || s.closed {
		return
	}
	b.busy = true
	s.ready = append(s.ready, b)
	if s.binders < maxBinders {
		s.binders++
		s.ended.Add(1)
		go s.bind()
	}
}

// bind runs a binder until there is no more work.
func (s *providers) bind() {
	defer s.ended.Done()
	s.mu.Lock()
	var b *boundTrigger // the trigger being worked on
	var want *wantedTrigger
	defer func() {
		if b != nil { // the provider called runtime.Goexit
			if b.bound != nil {
				b.cancel()
				b.bound, b.typ, b.ctx, b.cancel = nil, nil, nil, nil
			}
			s.stepped(b, want, &Error{Code: CodeTriggerRegistrationFailed, Message: "the provider ended its goroutine"})
		}
		if !s.closed && len(s.ready) > 0 {
			s.ended.Add(1)
			go s.bind()
		} else {
			s.binders--
		}
		s.mu.Unlock()
	}()
	for !s.closed && len(s.ready) > 0 {
		b, s.ready = s.ready[0], s.ready[1:]
		want = b.want
		b.todo = false
		err := s.unlocked(b, want)
		s.stepped(b, want, err)
		b = nil
	}
}

// stepped records the outcome of a binder's attempt to bring b to the wanted state.
func (s *providers) stepped(b *boundTrigger, want *wantedTrigger, err error) {
	if want != nil && b.want == want {
		if want.done != nil {
			want.done <- err
		} else {
			s.answer(want.link, &want.TriggerBinding, err)
		}
		if err != nil {
			b.want = nil
		}
	}
	switch {
	case b.todo:
		s.ready = append(s.ready, b)
	case b.want == nil && b.bound == nil:
		delete(s.byID, b.id)
	default:
		b.busy = false
	}
}

// unlocked runs step without the lock. It reacquires the lock even if the provider calls
// runtime.Goexit.
func (s *providers) unlocked(b *boundTrigger, want *wantedTrigger) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.step(b, want)
}

// step brings the provider to the wanted state.
func (s *providers) step(b *boundTrigger, want *wantedTrigger) error {
	if want == nil {
		s.unbind(b)
		return nil
	}
	binding := want.TriggerBinding
	binding.client = s.client
	if binding.Namespace == "" && want.link != nil {
		binding.Namespace = defaultNamespace
	}
	var err error
	if binding.condition, err = conditionOf(want.Config); err != nil {
		s.unbind(b)
		return err
	}
	switch {
	case b.bound != nil && b.typ != want.typ:
		s.unbind(b)
	case b.bound != nil && b.bound.equal(&binding):
		binding.Unchanged = true
	case b.bound != nil:
		b.cancel()
	}
	ctx, cancel := b.ctx, b.cancel
	if !binding.Unchanged {
		ctx, cancel = context.WithCancel(s.client.handlers)
	}
	if err := s.call("Bind", b.id, func() error { return want.typ.provider.Bind(ctx, binding) }); err != nil {
		cancel()
		s.unbind(b)
		return err
	}
	b.bound, b.typ, b.ctx, b.cancel = &binding, want.typ, ctx, cancel
	return nil
}

// unbind stops the trigger if it is bound.
func (s *providers) unbind(b *boundTrigger) {
	if b.bound == nil {
		return
	}
	b.cancel()
	if err := s.call("Unbind", b.id, func() error { return b.typ.provider.Unbind(s.client.handlers, b.id) }); err != nil {
		s.client.log.Warn("iii: unbinding a trigger failed", "trigger", b.id, "type", b.typ.id, "error", err)
	}
	b.bound, b.typ, b.ctx, b.cancel = nil, nil, nil, nil
}

// call calls a provider method and recovers from panics.
func (s *providers) call(method, id string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.client.log.LogAttrs(s.client.handlers, slog.LevelError, "iii: trigger provider panicked", slog.String("method", method),
				slog.String("trigger", id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = &Error{Code: CodeTriggerRegistrationFailed, Message: "the provider panicked"}
		}
	}()
	return checked(f())
}

// answer reports the outcome of a registration to the engine over l. l must be the link on
// which the registration arrived.
func (s *providers) answer(l *link, b *TriggerBinding, err error) {
	s.client.out.pushNoWait(l, s.client.item(l.dialect().triggerBound(b, refusalBody(err))))
}

// refusalBody converts a provider's error to an error body. It returns nil if err is nil.
func refusalBody(err error) *ErrorBody {
	if err == nil {
		return nil
	}
	code, message, stack := errorParts(err)
	if e := asError(err); e == nil || e.Code == "" {
		code = CodeTriggerRegistrationFailed
	}
	return &ErrorBody{Code: code, Message: message, Stacktrace: stack}
}

// close lets the binders finish their current work. It returns a channel that is closed when
// all of them have stopped. It does not cancel the bound triggers' contexts; the client does
// that.
func (s *providers) close() <-chan struct{} {
	s.mu.Lock()
	s.closed = true
	s.ready = nil
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.ended.Wait()
		close(ended)
	}()
	return ended
}

func (b *TriggerBinding) equal(other *TriggerBinding) bool {
	return b.TriggerType == other.TriggerType && b.FunctionID == other.FunctionID && b.Namespace == other.Namespace &&
		bytes.Equal(b.Config, other.Config) && bytes.Equal(b.Metadata, other.Metadata)
}

// conditionOf returns the ID of the condition function in a config, or "".
func conditionOf(config []byte) (id string, err error) {
	if i := rawjson.SkipSpace(config, 0); i == len(config) || config[i] != '{' {
		return "", nil
	}
	scanned := rawjson.ScanObject(config, func(key, value []byte) {
		if string(key) != "condition_function_id" || rawjson.Absent(value) {
			return
		}
		var ok bool
		if id, ok = rawjson.Unquote(value); !ok {
			err = fmt.Errorf("condition_function_id is not a string")
		}
	})
	return id, errors.Join(err, scanned)
}
