package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/routepath"
)

// Source selects the calls to observe: all calls to one function, or some of them.
type Source struct {
	// FunctionID is the ID of the observed function. The function need not exist yet.
	FunctionID string
	// Namespace is the namespace of the observed function. By default, it is resolved as it
	// would be for a call. The ID of a built-in function refers to the engine's function; any
	// other ID refers to a function in the worker's own namespace. A worker outside "default"
	// must set Namespace to "default" to observe the standard workers' functions.
	Namespace string
	// Args are passed to the worker that hosts the function, which validates them. Any value
	// that encodes to a JSON object is allowed; nil means no args.
	Args any
	// Filters selects the calls to observe. It is a [*Filter] or any value that [ParseFilter]
	// accepts. Nil selects every call.
	Filters any
	// Capture lists the parts of the call to include in the envelope. Nil means input, output
	// and caller; an empty, non-nil slice means none.
	Capture []Capture
	// On selects calls by outcome. The default is [ObserveOnSuccess].
	On ObserveOn
	// Deliver selects what the target receives as its payload. The default,
	// [ObserveDeliverEnvelope], delivers an [Observed].
	Deliver ObserveDeliver
}

// ObserveOption configures an observer. [Client.Observe] rejects invalid values.
type ObserveOption func(*observeOptions) error

type observeOptions struct {
	id          string
	metadata    json.RawMessage
	namespace   string
	maxFires    *uint64
	expiry      time.Duration
	maxInFlight *uint32
	listener    func(ObserverState, error)
}

// WithObserverID sets the observer's ID. The ID is the same on every connection. If the
// observer consumes a queue, choose an ID that stays the same across restarts. Default: a
// random UUID.
func WithObserverID(id string) ObserveOption {
	return func(o *observeOptions) error {
		if strings.TrimSpace(id) == "" {
			return errors.New("iii: WithObserverID: blank id")
		}
		o.id = id
		return nil
	}
}

// WithObserverMetadata sets the value that the target receives in [Invocation.Metadata] with
// each activation. Any value that encodes to JSON is allowed. The metadata is not visible to
// the worker that hosts the source. Default: none.
func WithObserverMetadata(v any) ObserveOption {
	return func(o *observeOptions) (err error) {
		o.metadata, err = rawOf(v)
		return wrapOption("WithObserverMetadata", err)
	}
}

// WithTargetNamespace sets the target's namespace. By default, it is resolved as it would be
// for a call to the target.
func WithTargetNamespace(ns string) ObserveOption {
	return func(o *observeOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTargetNamespace: blank namespace")
		}
		o.namespace = ns
		return nil
	}
}

// WithMaxFires ends the observer after n activations, with reason code MAX_FIRES. Default: no
// limit.
func WithMaxFires(n uint64) ObserveOption {
	return func(o *observeOptions) error {
		if n == 0 {
			return errors.New("iii: WithMaxFires: n must be at least 1")
		}
		o.maxFires = &n
		return nil
	}
}

// WithExpiry ends the observer once d has elapsed, with reason code EXPIRED. The period starts
// when the client first sends the observer to the engine, and reconnecting does not extend it.
// d is sent in milliseconds, rounded up. Default: no expiry.
func WithExpiry(d time.Duration) ObserveOption {
	return func(o *observeOptions) error {
		if d <= 0 {
			return fmt.Errorf("iii: WithExpiry: %v is not positive", d)
		}
		o.expiry = d
		return nil
	}
}

// WithMaxInFlight sets how many activations may run at once. Further activations wait in
// order. Default: chosen by the engine.
func WithMaxInFlight(n uint32) ObserveOption {
	return func(o *observeOptions) error {
		if n == 0 {
			return errors.New("iii: WithMaxInFlight: n must be at least 1")
		}
		o.maxInFlight = &n
		return nil
	}
}

// WithObserverStateListener sets a function that is called whenever the observer's state
// changes. The function's error argument is the reason for the change, or nil if there is
// none. Calls are made in order from a single goroutine that holds no lock. Default: none.
func WithObserverStateListener(f func(ObserverState, error)) ObserveOption {
	return func(o *observeOptions) error { o.listener = f; return nil }
}

// Observer runs one function, the target, after each matching call to another function, the
// source. Create it with [Client.Observe]; the zero value is not usable. All methods are safe
// for concurrent use.
type Observer struct {
	registration *Trigger // what the client registers; also holds the ID

	listener func(ObserverState, error)

	// Guarded by the registry's lock.
	state    ObserverState
	reason   *Error // why the observer is in the error state, or why the engine disposed of it
	warnings []string
	fires    uint64
	changed  chan struct{} // closed on the next state change
}

// Observe registers an observer. After each matching call to the source, the engine calls the
// target at most once. The source's caller is not affected. Neither function has to exist yet
// or belong to this worker. The target is an ordinary function; with the default delivery, its
// payload is an [Observed].
//
// Observe does not wait for the network. It therefore returns only errors that it can detect
// locally, such as a blank ID, a filter that does not parse (the error contains the position),
// args that are not an object, or, if the source is http::on-request, a path that would break
// the engine's router. If another trigger or observer of this client uses the ID, Observe
// returns an *[Error] with code OBSERVER_ID_CONFLICT. On each connection, the client registers
// the observer with the engine after it has registered its functions.
//
// [Observer.State] and [Observer.Err] report the engine's response. If the engine does not
// support observers (before 0.25), Err returns an error with code UNSUPPORTED that matches
// [errors.ErrUnsupported]. The observer recovers when the client connects to a newer engine.
// If the target is a function of this worker that the engine has rejected (see
// [Function.Err]), the observer remains pending until the engine accepts the function.
func (c *Client) Observe(source Source, target string, opts ...ObserveOption) (*Observer, error) {
	fail := func(err error) (*Observer, error) {
		return nil, public(fmt.Errorf("observe %s: %w", source.FunctionID, err))
	}
	if strings.TrimSpace(source.FunctionID) == "" {
		return nil, errors.New("iii: observe: blank function id of the source")
	}
	if strings.TrimSpace(target) == "" {
		return fail(errors.New("blank function id of the target"))
	}
	var cfg observeOptions
	if err := applyOptions(&cfg, opts, callOption); err != nil {
		return fail(err)
	}
	s, err := source.encode(c)
	if err != nil {
		return fail(err)
	}
	spec := triggerSpec{id: cmp.Or(cfg.id, uuid.NewString()), functionID: target, metadata: cfg.metadata,
		namespace: cmp.Or(cfg.namespace, c.namespaceOf(target)),
		observe:   &observeSpec{source: s, expiry: cfg.expiry, maxFires: cfg.maxFires, maxInFlight: cfg.maxInFlight}}
	o := &Observer{listener: cfg.listener, state: ObserverStatePending, changed: make(chan struct{})}
	o.registration = c.makeTrigger(spec)
	o.registration.observer = o
	if err := checkRegistration(&o.registration.claim); err != nil {
		return fail(err)
	}
	if err := c.registry.addTrigger(o.registration); err != nil {
		if errors.Is(err, ErrClosed) {
			return nil, err
		}
		return fail(err)
	}
	return o, nil
}

// encode validates s and returns it in the form sent to the engine.
func (s Source) encode(c *Client) (ObserveSource, error) {
	if s.Namespace != "" && strings.TrimSpace(s.Namespace) == "" {
		return ObserveSource{}, errors.New("blank namespace of the source")
	}
	for _, part := range s.Capture {
		switch part {
		case CaptureInput, CaptureOutput, CaptureError, CaptureCaller, CaptureMetadata:
		default:
			return ObserveSource{}, fmt.Errorf("capture %q is none of %s, %s, %s, %s, %s", part, CaptureInput, CaptureOutput, CaptureError, CaptureCaller, CaptureMetadata)
		}
	}
	switch s.On {
	case "", ObserveOnSuccess, ObserveOnError, ObserveOnComplete:
	default:
		return ObserveSource{}, fmt.Errorf("on %q is none of %s, %s, %s", s.On, ObserveOnSuccess, ObserveOnError, ObserveOnComplete)
	}
	switch s.Deliver {
	case "", ObserveDeliverEnvelope, ObserveDeliverInput, ObserveDeliverOutput:
	default:
		return ObserveSource{}, fmt.Errorf("deliver %q is none of %s, %s, %s", s.Deliver, ObserveDeliverEnvelope, ObserveDeliverInput, ObserveDeliverOutput)
	}
	o := ObserveSource{FunctionID: s.FunctionID, Namespace: cmp.Or(s.Namespace, c.namespaceOf(s.FunctionID)),
		Capture: slices.Clone(s.Capture), On: s.On, Deliver: s.Deliver}
	if s.Args != nil {
		args, err := rawOf(s.Args)
		switch {
		case err != nil:
			return ObserveSource{}, fmt.Errorf("args do not encode: %w", err)
		case rawjson.Absent(args):
		case args[0] != '{':
			return ObserveSource{}, errors.New("args are not an object")
		default:
			o.Args = args
		}
	}
	if s.FunctionID == triggerSources["http"].functionID && cmp.Or(s.Namespace, defaultNamespace) == defaultNamespace {
		if _, err := routepath.Parse(textMember(o.Args, "path")); err != nil {
			return ObserveSource{}, err
		}
	}
	var err error
	o.Filters, err = encodeFilters(s.Filters)
	return o, err
}

// encodeFilters validates an observer's filters and returns them in the form sent to the
// engine. It returns nil if there are none.
func encodeFilters(v any) (json.RawMessage, error) {
	var raw json.RawMessage
	switch text := v.(type) {
	case nil:
		return nil, nil
	case string:
		raw = json.RawMessage(text)
	case []byte:
		raw = text
	case json.RawMessage:
		raw = text
	default:
		var err error
		if raw, err = rawOf(v); err != nil {
			return nil, fmt.Errorf("filters do not encode: %w", err)
		}
	}
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	if _, err := ParseFilter(raw); err != nil {
		return nil, err
	}
	return slices.Clone(raw), nil
}

// ID returns the observer's ID.
func (o *Observer) ID() string { return o.registration.id }

func (o *Observer) registry() *registry { return o.registration.client.registry }

// State returns the observer's state. An observer is pending until the engine reports that it
// is active. It becomes active when the target exists and a worker that hosts the source has
// accepted the observer. It is suspended while the target is unavailable or this worker is
// disconnected. It is in the error state once the engine or the host has rejected it, and
// disposed once it has ended.
func (o *Observer) State() ObserverState {
	r := o.registry()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return o.state
}

// Err returns an *[Error] with the reason code while the observer is in the error state, and
// after the engine has disposed of it, for example with EXPIRED or MAX_FIRES. Otherwise, and
// after Dispose, it returns nil. If the engine itself rejected the observer, the rejection is
// permanent and the ID stays in use until Dispose. If the worker that hosts the source
// rejected it, the client registers the observer again on the next connection. If the engine
// then repeats the earlier rejection itself, the rejection is permanent.
func (o *Observer) Err() error {
	r := o.registry()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return o.err()
}

// err implements [Observer.Err]. The caller holds the registry's lock.
func (o *Observer) err() error {
	if o.reason == nil || o.state != ObserverStateError && o.state != ObserverStateDisposed {
		return nil
	}
	return o.reason
}

// Warnings returns the warnings that the engine issued when it accepted the observer, or nil
// if there are none. For example, the engine warns about a filter path that the source's
// schemas do not define. The caller owns the slice.
func (o *Observer) Warnings() []string {
	r := o.registry()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(o.warnings)
}

// Fires returns the number of activations. The engine reports this number only with a state
// change, so it may be out of date.
func (o *Observer) Fires() uint64 {
	r := o.registry()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return o.fires
}

// Ready waits while the observer is pending or suspended. It returns nil once the observer is
// active. If the observer is in the error state or the engine has disposed of it, Ready
// returns the reason as an *[Error]. If ctx is done first, the error wraps the context's
// error. After Dispose, or once the client has been closed or has failed, the error wraps
// [ErrClosed].
func (o *Observer) Ready(ctx context.Context) error {
	r := o.registry()
	for {
		r.mu.RLock()
		state, err, changed := o.state, o.err(), o.changed
		r.mu.RUnlock()
		switch {
		case state == ObserverStateActive:
			return nil
		case err != nil:
			return err
		case state == ObserverStateDisposed:
			return public(fmt.Errorf("observer %q is disposed: %w", o.ID(), ErrClosed))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("iii: observer %q is %s: %w", o.ID(), state, ctxError(ctx))
		}
	}
}

// disposeTimeout limits how long Dispose waits for the engine.
const disposeTimeout = 5 * time.Second

// Dispose ends the observer permanently and frees its ID immediately. It returns nil once the
// engine has confirmed that no further activation will start, or after 5 s. It returns at once
// if the engine does not have the observer. If ctx is done first, Dispose returns an error
// that wraps the context's error; the observer is disposed of regardless. Running activations
// continue. Repeated calls wait for the same confirmation.
func (o *Observer) Dispose(ctx context.Context) error {
	removed := o.registry().dispose(o.registration)
	if removed == nil {
		return nil
	}
	select {
	case <-removed:
		return nil
	default:
	}
	select {
	case <-removed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("iii: dispose of observer %q: %w", o.ID(), ctxError(ctx))
	}
}

// change sets the state and notifies the listener. The caller holds the registry's lock.
func (o *Observer) change(state ObserverState, reason *Error) {
	if o.state == ObserverStateDisposed {
		return
	}
	same := o.state == state && (o.reason == reason || o.reason != nil && reason != nil && *o.reason == *reason)
	o.state, o.reason = state, reason
	if same {
		return
	}
	close(o.changed)
	o.changed = make(chan struct{})
	if o.listener != nil {
		var err error // avoid a non-nil error that holds a nil *Error
		if reason != nil {
			err = reason
		}
		o.registration.client.callbacks.post(func() { o.listener(state, err) })
	}
}

// observeFrame is an observe message sent over the current link. It is kept for as long as the
// engine may still send messages about it. The registry's lock guards it.
//
// Several frames may have the same ID. The engine responds in order: each response refers to
// the oldest frame that has not received one, and each state change refers to the newest frame
// that has.
type observeFrame struct {
	trigger  *Trigger
	answered bool
	ignored  bool          // the engine has not responded, and is not expected to
	removed  chan struct{} // nil until an unobserve is sent for it; closed once the engine has removed the observer
	patience *time.Timer   // closes removed after disposeTimeout
	read     bool          // the engine has read the unobserve
}

// observing prepares to send an observe message for t. If the engine may have an earlier
// observer for t, that observer is removed first.
func (r *registry) observing(t *Trigger) {
	if t.frame != nil {
		r.unobserve(t)
	}
	if o := t.spec.observe; o != nil && o.expiry > 0 && o.deadline.IsZero() {
		o.deadline = time.Now().Add(o.expiry)
	}
	if t.spec.observerID != "" && !r.client.named {
		r.client.unnamedOnce.Do(func() {
			r.client.callbacks.post(func() {
				r.client.log.Warn("iii: this worker has no name, so the ids of its subscribers to durable topics are those of its functions and topics alone; "+
					"set WithName, or WithTriggerID, where several workers consume one topic", "observer", t.spec.observerID)
			})
		})
	}
	id := t.spec.idOfObserver()
	t.frame, t.lingers = &observeFrame{trigger: t}, false
	if r.observeFrames == nil {
		r.observeFrames = map[string][]*observeFrame{}
	}
	r.observeFrames[id] = append(r.observeFrames[id], t.frame)
}

// unobserve removes t's observer from the engine, even if the observer was sent over an
// earlier connection.
func (r *registry) unobserve(t *Trigger) {
	o := t.frame
	if o == nil {
		o = &observeFrame{trigger: t, answered: true}
		if r.observeFrames == nil {
			r.observeFrames = map[string][]*observeFrame{}
		}
		id := t.spec.idOfObserver()
		r.observeFrames[id] = append(r.observeFrames[id], o)
	}
	t.frame, t.lingers = nil, false
	o.removed = make(chan struct{})
	o.patience = time.AfterFunc(disposeTimeout, func() { r.overdueRemoval(o) })
	r.push(UnobserveMessage{ID: t.spec.idOfObserver()})
}

// overdueRemoval ends the wait for the engine's confirmation that it has removed an observer.
// The frame is kept until the engine has answered a ping: if the link ends before, the engine
// may not have read the unobserve message.
func (r *registry) overdueRemoval(o *observeFrame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.patience == nil {
		return
	}
	r.stopWaiting(o)
	if l := r.link; l != nil {
		r.client.out.pushNoWait(l, item{kind: frameJSONPing, fence: func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.link == l {
				o.read = true
				r.forget(o)
			}
		}})
	}
}

// stopWaiting closes the channel that [Observer.Dispose] waits for.
func (r *registry) stopWaiting(o *observeFrame) {
	if o.patience != nil {
		o.patience.Stop()
		o.patience = nil
		close(o.removed)
	}
}

// forget drops a frame once the engine will send nothing more about it. It keeps an unanswered
// frame, because responses are matched by order.
func (r *registry) forget(o *observeFrame) {
	r.stopWaiting(o)
	if !o.answered {
		return
	}
	id := o.trigger.spec.idOfObserver()
	list := slices.DeleteFunc(r.observeFrames[id], func(other *observeFrame) bool { return other == o })
	if len(list) == 0 {
		delete(r.observeFrames, id)
	} else {
		r.observeFrames[id] = list
	}
}

// ignored records that the engine will not respond to t's observe messages.
func (r *registry) ignored(t *Trigger) {
	for _, o := range slices.Clone(r.observeFrames[t.spec.idOfObserver()]) {
		if o.trigger == t && !o.answered {
			o.answered, o.ignored = true, true
			if o.read {
				r.forget(o)
			}
		}
	}
}

// dispose permanently removes an observer. The returned channel is closed once the engine has
// removed the observer; it is nil if there is nothing to wait for.
func (r *registry) dispose(t *Trigger) (removed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.triggerByID[t.id] == t && r.closed == nil {
		o := t.frame
		r.remove(t)
		if o != nil {
			t.removed = o.removed
		}
	}
	t.observer.change(ObserverStateDisposed, nil)
	return t.removed
}

// observed returns the trigger whose observer caused this activation of f. It returns nil if
// the observer does not represent one of this client's triggers. It also returns nil if engine
// 0.25 itself represents the trigger as an observer, because the activation then already has a
// trigger's payload.
func (r *registry) observed(l *link, f *Function, activation json.RawMessage) *Trigger {
	var a Activation
	if json.Unmarshal(activation, &a) != nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.triggerByID[a.ObserverID]
	if list := r.observeFrames[a.ObserverID]; t == nil && r.link == l && len(list) > 0 { // removed, but still in flight
		t = list[len(list)-1].trigger
	}
	if t == nil || t.spec.observe != nil || f != t.adapter && (f.id != t.functionID || !t.own) || !l.dialect().answers(&t.claim) {
		return nil
	}
	return t
}

// triggerSpecOf returns the spec of the trigger whose observer has the given ID.
func (r *registry) triggerSpecOf(observerID string) (spec triggerSpec, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.triggerByID[observerID]; t != nil && t.spec.observe == nil {
		return t.spec, true
	}
	return spec, false
}

// maxUnobserved limits the number of observers that are remembered for removal on the next
// connection.
const maxUnobserved = 4096

// unobserveLater records that the engine may still have t's observer, so that unobserveEarlier
// removes it.
func (r *registry) unobserveLater(t *Trigger) {
	t.lingers = false
	if len(r.unobserved) >= maxUnobserved {
		r.client.out.stats.heldDropped.Add(1)
		return
	}
	r.unobserved = append(r.unobserved, t)
}

// unobserveEarlier removes the observers that unobserveLater has recorded, such as those that
// were disposed of while the client was disconnected. It also removes two kinds of observers
// that were registered over an earlier connection. If another worker now serves the target
// function, this function would otherwise run twice per event. If the source's host has
// rejected the observer, the engine would otherwise repeat the rejection without asking the
// host again. unobserveEarlier must run before this connection's observers are sent, because
// they may reuse the IDs.
func (r *registry) unobserveEarlier() {
	if !r.link.dialect().observes() { // the engine's hello may still arrive
		return
	}
	for _, t := range r.unobserved {
		r.unobserve(t)
	}
	r.unobserved = nil
	for _, t := range r.held {
		f, o := r.target(t), t.observer
		rejected := t.refused.Load() != nil || o != nil && o.state == ObserverStateError
		if t.lingers && (rejected || f != nil && f.standing == refused) {
			r.unobserve(t)
		}
	}
}

// endObserveFrames records which observers the engine may keep after the link has ended.
func (r *registry) endObserveFrames() {
	for _, list := range r.observeFrames {
		for i, o := range list {
			if o.removed == nil {
				o.trigger.lingers = true
				o.trigger.frame = nil
				continue
			}
			r.stopWaiting(o)
			// The unobserve may be lost with the link, unless the engine has read it or a later
			// message.
			if !o.read && !slices.ContainsFunc(list[i+1:], func(later *observeFrame) bool { return later.answered }) {
				r.unobserveLater(o.trigger)
			}
		}
	}
	r.observeFrames = nil
	for _, t := range r.triggers {
		if o := t.observer; o != nil && o.state == ObserverStateActive {
			o.change(ObserverStateSuspended, nil)
		}
	}
}

// observeAnswered handles the engine's response to an observe message.
func (c *Client) observeAnswered(l *link, m *ObserveResultMessage) {
	r := c.registry
	r.mu.Lock()
	// The response may come after the client has stopped waiting for it.
	i := slices.IndexFunc(r.observeFrames[m.ID], func(o *observeFrame) bool { return !o.answered || o.ignored })
	if r.link != l || i < 0 {
		r.mu.Unlock()
		return
	}
	o := r.observeFrames[m.ID][i]
	o.answered, o.ignored = true, false
	t := o.trigger
	r.answered(&t.claim)
	var notify func()
	ended := m.State == ObserverStateError || m.State == ObserverStateDisposed
	switch refusal := observerReason(m.ID, m.State, m.Error, ended); {
	case refusal != nil: // the engine does not keep the observer
		leaving := o.removed != nil || r.closed != nil
		r.forget(o)
		switch {
		case leaving:
		case m.State == ObserverStateDisposed:
			notify = r.observerEnded(l, t, refusal)
		default:
			t.frame, t.sent = nil, false
			notify = r.refuse(l, t, refusal, true)
		}
	case r.closed != nil:
	case o.read:
		r.forget(o)
	case o.removed == nil:
		if t.observer != nil {
			t.observer.warnings = m.Warnings
		} else if len(m.Warnings) > 0 {
			c.callbacks.post(func() {
				c.log.Warn("iii: the engine has doubts about a trigger", "trigger", t.id, "type", t.spec.triggerType, "warnings", m.Warnings)
			})
		}
		notify = r.observerIs(t, m.State, nil)
	}
	r.mu.Unlock()
	if notify != nil {
		notify()
	}
	r.confirm(l)
}

func (c *Client) observerChanged(l *link, m *ObserverStateChangedMessage) {
	r := c.registry
	r.mu.Lock()
	var o *observeFrame
	for _, other := range r.observeFrames[m.ID] {
		if other.answered {
			o = other
		}
	}
	if r.link != l || o == nil {
		r.mu.Unlock()
		return
	}
	t, leaving := o.trigger, o.removed != nil || r.closed != nil
	var notify func()
	if m.State == ObserverStateDisposed {
		r.forget(o)
	}
	if !leaving {
		if t.observer != nil {
			t.observer.fires = m.Fires
		}
		reason := observerReason(m.ID, m.State, m.Reason, m.State == ObserverStateError || m.State == ObserverStateDisposed)
		switch m.State {
		case ObserverStateDisposed:
			notify = r.observerEnded(l, t, reason)
		case ObserverStateError:
			notify = r.refuse(l, t, reason, false)
		default:
			notify = r.observerIs(t, m.State, reason)
		}
	} else if t.observer != nil {
		t.observer.fires = max(t.observer.fires, m.Fires)
	}
	r.mu.Unlock()
	if notify != nil {
		notify()
	}
	r.confirm(l)
}

// observerEnded records that the engine has disposed of t's observer. The caller must call the
// returned function, if any, after releasing the lock.
func (r *registry) observerEnded(l *link, t *Trigger, reason *Error) (notify func()) {
	t.frame, t.sent = nil, false
	if t.observer == nil {
		return r.refuse(l, t, reason, true)
	}
	r.remove(t)
	t.observer.change(ObserverStateDisposed, reason)
	return nil
}

// observerReason returns the reason for a state as an error. If body is nil, it returns nil,
// or a generic error if nonNil is set.
func observerReason(id string, state ObserverState, body *ErrorBody, nonNil bool) *Error {
	switch {
	case body != nil:
		return &Error{Code: body.Code, Message: body.Message, Stacktrace: body.Stacktrace}
	case !nonNil:
		return nil
	case state == ObserverStateDisposed:
		return &Error{Code: CodeUnobserved, Message: fmt.Sprintf("the engine has disposed of observer %s", id)}
	}
	return &Error{Code: CodeObserverError, Message: fmt.Sprintf("observer %s is in error", id)}
}

// observerIs records the state that the engine reports for t's observer. The caller must call
// the returned function, if any, after releasing the lock.
func (r *registry) observerIs(t *Trigger, state ObserverState, reason *Error) (notify func()) {
	if t.observer != nil {
		t.observer.change(state, reason)
		return nil
	}
	if state != ObserverStateActive && t.contested { // the source's host has not decided yet
		return nil
	}
	contested := t.contested
	t.contested = false
	if t.standing == refused { // the source's host has reconsidered
		t.standing = accepted
	}
	if state == ObserverStateActive {
		t.delay = 0
	}
	if t.refused.Swap(nil) == nil || !contested {
		return nil
	}
	return func() { r.client.log.Info("iii: route taken over", "trigger", t.id, "function", t.functionID) }
}
