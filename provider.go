package iii

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// TriggerType describes a trigger type that this worker provides.
type TriggerType struct {
	// ID is what triggers name as their type.
	ID string
	// Description is a text for listings; may be empty.
	Description string
	// ConfigSchema is the JSON Schema of a trigger's config, for listings:
	// json.RawMessage, or anything that marshals to a schema. Nil is none.
	ConfigSchema any
	// PayloadSchema is the JSON Schema of what the bound functions get, likewise.
	PayloadSchema any
	// Namespace is the namespace that the type serves. Default: the worker's own. A
	// type in "default" serves the triggers of all workers that find none of this id
	// in their own namespace.
	Namespace string
}

// TriggerProvider is what makes triggers of a type fire. The engine tells it what
// is bound; it calls [TriggerBinding.Fire] whenever the event of the trigger
// happens.
//
// Calls for one trigger come in order, one after another; those for several come
// from several goroutines at once, and none of them from the client's read loop. A
// panic in either method is an error of it.
type TriggerProvider interface {
	// Bind starts a trigger. Whatever is bound under the same ID is replaced. An
	// error refuses the trigger, which the worker that has registered it is told, with
	// code trigger_registration_failed or that of an [*Error]; if something is bound
	// under the ID then, Unbind follows.
	//
	// ctx is the trigger's, not the call's nor that of a connection: it ends when the
	// trigger is unbound, when it is replaced by a changed one, and when the client
	// ends. What Bind starts may live as long.
	//
	// After a reconnection the engine binds everything again. What has not changed
	// then has b.Unchanged and the same ctx as before.
	Bind(ctx context.Context, b TriggerBinding) error

	// Unbind stops a trigger. It is called when the trigger was taken back, when it
	// moved to another provider, and after a reconnection if the engine has not bound
	// it again; not when the client ends. ctx ends when the client does. An error is
	// logged.
	Unbind(ctx context.Context, id string) error
}

// TriggerBinding is one trigger of a type that this worker provides. It stays
// usable as long as the client, and may be copied.
type TriggerBinding struct {
	// ID is the trigger's, unique in the engine.
	ID string
	// TriggerType is the id of its type.
	TriggerType string
	// FunctionID is the function to call.
	FunctionID string
	// Namespace is the function's; "" on engines since 0.26, which do not tell it.
	Namespace string
	// Config is what the trigger was registered with, at least null, or {} on engines since 0.26.
	Config json.RawMessage
	// Metadata is the trigger's, which each call of the function carries. Nil is none, and on
	// engines since 0.26 not known.
	Metadata json.RawMessage
	// Unchanged says that the same trigger is bound already and that the engine has
	// sent it once more, as it does after each reconnection. A provider that has kept
	// it going returns nil and is done.
	Unchanged bool

	client    *Client
	condition string // function that may keep an event from the trigger's

	// observer is what the trigger is on an engine without triggers.
	observer *FunctionObserver
}

// Fire runs the trigger's function with a payload, in the function's namespace and
// with the trigger's metadata, and returns its result. If the config names a
// condition_function_id, that function is called with the same payload first: if it
// returns exactly false, Fire returns nil and no error; if it fails, the trigger's
// function is not called and the error is Fire's. Errors and timeouts are those of
// [Client.Call].
func (b TriggerBinding) Fire(ctx context.Context, payload any) (json.RawMessage, error) {
	if b.client == nil {
		return nil, errors.New("iii: fire: the binding is not one that a provider was given")
	}
	raw, err := rawOf(payload)
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
			return nil, fmt.Errorf("iii: condition of trigger %s: %w", b.ID, err)
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

// HandleTriggerType makes this worker the provider of a trigger type. Triggers
// of the type that wait for a provider are bound as soon as the engine knows it.
// The engine lets the last worker that registers a type have it, and tells
// nobody: a type that is provided elsewhere moves here.
//
// An engine since 0.26 has no triggers: the type is a private function of the same id there, and
// a trigger an observer of it, whose arguments are the config. So no function of this worker may
// have that id, on any engine, and a type of another namespace than the worker's own cannot be
// provided there, which is logged. A second
// provider is refused until the first has gone. Bindings have neither namespace nor metadata,
// and Fire calls the target through the observer, if its filters let the payload through.
//
// A type cannot be taken back, for the protocol has no message for that: it ends
// with the client. HandleTriggerType does not wait for the network.
//
// The engine drops a type when the worker that registered it last leaves, also if another
// one had registered it before. So the client asks the engine every 2 s who provides its
// types: it unbinds the triggers of a type that another worker has taken, and registers a
// type again that nobody provides any more. It stops asking, until the next connection, if
// access control forbids engine::triggers::info.
func (c *Client) HandleTriggerType(t TriggerType, p TriggerProvider) error {
	fail := func(err error) error { return fmt.Errorf("iii: trigger type %q: %w", t.ID, err) }
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
	if c.bindings.has(provided) {
		return fail(fmt.Errorf("provided already in namespace %q", provided.namespace))
	}
	if provided.namespace == cmp.Or(c.cfg.namespace, defaultNamespace) {
		if err := c.addTypeFunction(provided); err != nil {
			return fail(err)
		}
	}
	if !c.bindings.add(provided) { // by another goroutine meanwhile
		err = fmt.Errorf("provided already in namespace %q", provided.namespace)
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

// anyArgs is the schema of the args of a type without a schema: a config may be anything.
var anyArgs = json.RawMessage(`{"type":"object"}`)

// addTypeFunction registers the function that stands for a type on engines without triggers.
// Each of its observers is a trigger of the type.
func (c *Client) addTypeFunction(t *providedType) error {
	uncalled := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: CodeFunctionNotInvokable, Message: "the function stands for a trigger type: its worker fires the triggers, and nobody calls it"}
	}
	f := &Function{client: c, id: t.id, handler: uncalled, spanName: "execute " + t.id, untraced: true, quiet: true, remote: true,
		hooks: ObserverHooks{
			Added: func(ctx context.Context, o *FunctionObserver) error {
				return c.bindings.observed(ctx, t, TriggerBinding{ID: o.ID, TriggerType: t.id, FunctionID: o.Target, Config: o.Args(), observer: o})
			},
			Removed: func(_ context.Context, o *FunctionObserver) { c.bindings.unobserved(o.ID) },
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
		return trimmed(err)
	}
	t.function = f
	return nil
}

// cmpRaw is cmp.Or for JSON.
func cmpRaw(a, b json.RawMessage) json.RawMessage {
	if a != nil {
		return a
	}
	return b
}

// typeWatchInterval is how often the client asks who provides its trigger types.
const typeWatchInterval = 2 * time.Second

// plainName reports whether the engine leaves a worker's name as it is: it removes control
// and format characters and cuts after 280 characters.
func plainName(name string) bool {
	return utf8.RuneCountInString(name) <= 280 && name == strings.TrimSpace(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// watchTypes asks the engine who provides this worker's trigger types, unbinds those that
// another worker has taken, and registers those again that nobody provides. It reports false
// if this worker may not ask.
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
			if c.bindings.giveUp(t) {
				c.log.Warn("iii: another worker provides a trigger type of this one", "type", t.id, "namespace", t.namespace, "worker", detail.WorkerName)
			}
		case errors.As(err, &refusal) && refusal.Code == CodeNotFound:
			t.missing = true
			if !missed { // access control may forbid it, silently and for good
				c.log.Warn("iii: nobody provides a trigger type of this worker; registering it again", "type", t.id, "namespace", t.namespace)
			}
			c.registry.renewType(l, t)
		case errors.Is(err, ErrForbidden), errors.Is(err, ErrFunctionNotFound):
			c.log.Debug("iii: the providers of trigger types cannot be watched", "error", err)
			return false
		}
	}
	return true
}
