package iii

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/iii-go/iii/internal/rawjson"
)

// maxBinders is how many triggers are bound and unbound concurrently.
const maxBinders = 16

// bindings holds the triggers that the engine has bound to the trigger types of this
// worker. For each trigger it records the state that the engine wants and the state that
// the provider has. Goroutines that exist only while there is work bring the provider to
// the wanted state. A newer message from the engine replaces the previous wanted state,
// so a provider that hangs causes no backlog.
type bindings struct {
	client *Client

	mu      sync.Mutex
	types   map[string][]*providedType // by id
	byID    map[string]*boundTrigger
	ready   []*boundTrigger // with work to do and no binder assigned
	binders int
	closed  bool
	ended   sync.WaitGroup
}

// providedType is a trigger type of this worker.
type providedType struct {
	id, namespace string // namespace is the resolved one
	spec          triggerTypeSpec
	provider      TriggerProvider
	function      *Function // represents the type on engines without triggers; nil for a type in another namespace
	unsaid        bool      // its absence has been logged; guarded by the lock of the registry
	missing       bool      // the type had no provider at the last check of watchTypes
}

// boundTrigger is one trigger.
type boundTrigger struct {
	id string

	// Guarded by the lock of bindings.
	want *wantedTrigger // nil if it should not be bound
	seen *link          // link over which the engine last sent it
	todo bool           // want has changed since a binder last looked
	busy bool           // ready, or a binder is working on it

	// Owned by the binder that is working on it. Nil while nothing is bound.
	bound  *TriggerBinding
	typ    *providedType
	ctx    context.Context
	cancel context.CancelFunc
}

// wantedTrigger is a registration as the engine sent it, or an observer of the function
// that represents a type.
type wantedTrigger struct {
	TriggerBinding
	link *link // nil for an observer
	typ  *providedType
	done chan error // for an observer: receives the outcome; capacity 1
}

func newBindings(c *Client) *bindings {
	return &bindings{client: c, types: map[string][]*providedType{}, byID: map[string]*boundTrigger{}}
}

// has reports whether the type is already provided.
func (s *bindings) has(t *providedType) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(t.id, t.namespace) != nil
}

// add returns false if the type is already provided.
func (s *bindings) add(t *providedType) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(t.id, t.namespace) != nil {
		return false
	}
	s.types[t.id] = append(s.types[t.id], t)
	return true
}

// find returns the type that the engine refers to. The engine omits the namespace
// "default".
func (s *bindings) find(id, namespace string) *providedType {
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

// register processes a registration received over l, for a provider in the given
// namespace.
func (s *bindings) register(l *link, namespace string, m TriggerBinding) {
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

// observed processes an observer of the function that represents a type, and returns when
// the provider has bound it.
func (s *bindings) observed(ctx context.Context, t *providedType, m TriggerBinding) error {
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
		return ctxError(ctx)
	}
}

// unobserved processes the removal of an observer.
func (s *bindings) unobserved(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil && b.want != nil && b.want.done != nil {
		s.change(b, nil)
	}
}

// unregister processes the engine's message that a trigger has been removed.
func (s *bindings) unregister(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil {
		s.change(b, nil)
	}
}

// settle unbinds the triggers that the engine has not sent again over l. By now the
// engine has handled our registrations, and it sends the triggers bound to a type when it
// handles the registration of the type.
func (s *bindings) settle(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byID {
		if b.seen != l && (b.want == nil || b.want.done == nil) { // observers are removed individually
			s.change(b, nil)
		}
	}
}

// giveUp unbinds the triggers of a type that another worker now provides, and reports
// whether there were any.
func (s *bindings) giveUp(t *providedType) (any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byID {
		if b.want != nil && b.want.typ == t {
			s.change(b, nil)
			any = true
		}
	}
	return any
}

// change sets the wanted state and makes sure that a binder acts on it; s.mu is held.
func (s *bindings) change(b *boundTrigger, want *wantedTrigger) {
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

// bind is the loop of a binder.
func (s *bindings) bind() {
	defer s.ended.Done()
	s.mu.Lock()
	var b *boundTrigger // the trigger being worked on
	var want *wantedTrigger
	defer func() {
		if b != nil { // the provider has exited the goroutine
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

// stepped records that a binder has reached the wanted state of b, or has failed to.
func (s *bindings) stepped(b *boundTrigger, want *wantedTrigger, err error) {
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

// unlocked runs step without the lock. It reacquires the lock even if a provider exits
// the goroutine.
func (s *bindings) unlocked(b *boundTrigger, want *wantedTrigger) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.step(b, want)
}

// step brings the provider to the wanted state.
func (s *bindings) step(b *boundTrigger, want *wantedTrigger) error {
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

// unbind stops the bound trigger, if there is one.
func (s *bindings) unbind(b *boundTrigger) {
	if b.bound == nil {
		return
	}
	b.cancel()
	if err := s.call("Unbind", b.id, func() error { return b.typ.provider.Unbind(s.client.handlers, b.id) }); err != nil {
		s.client.log.Warn("iii: unbinding a trigger failed", "trigger", b.id, "type", b.typ.id, "error", err)
	}
	b.bound, b.typ, b.ctx, b.cancel = nil, nil, nil, nil
}

// call calls a provider and recovers its panics.
func (s *bindings) call(method, id string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.client.log.LogAttrs(s.client.handlers, slog.LevelError, "iii: trigger provider panicked", slog.String("method", method),
				slog.String("trigger", id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = &Error{Code: CodeTriggerRegistrationFailed, Message: "the provider panicked"}
		}
	}()
	return f()
}

// answer reports the outcome of a registration to the engine, over the link on which the
// registration arrived.
func (s *bindings) answer(l *link, b *TriggerBinding, err error) {
	s.client.out.urgent(l, s.client.item(l.dialect().triggerBound(b, refusalBody(err))))
}

// refusalBody returns the error body for an error of a provider, or nil for none.
func refusalBody(err error) *ErrorBody {
	if err == nil {
		return nil
	}
	code, message, stack := errorParts(err)
	var e *Error
	if !errors.As(err, &e) || e.Code == "" {
		code = CodeTriggerRegistrationFailed
	}
	return &ErrorBody{Code: code, Message: message, Stacktrace: stack}
}

// close lets the binders finish their current work. The channel is closed when they have
// ended. The client ends the contexts of the bound triggers.
func (s *bindings) close() <-chan struct{} {
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

// equal reports whether the engine wants the same as before.
func (b *TriggerBinding) equal(other *TriggerBinding) bool {
	return b.TriggerType == other.TriggerType && b.FunctionID == other.FunctionID && b.Namespace == other.Namespace &&
		bytes.Equal(b.Config, other.Config) && bytes.Equal(b.Metadata, other.Metadata)
}

// conditionOf returns the id of the condition function in a config.
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
