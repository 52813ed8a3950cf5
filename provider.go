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
	// ID is the id of the type, which triggers refer to.
	ID string
	// Description describes the type in listings. Optional.
	Description string
	// ConfigSchema is the JSON Schema of a trigger's config, for listings: a json.RawMessage, or
	// any value that marshals to a schema. Nil means no schema.
	ConfigSchema any
	// PayloadSchema is the JSON Schema of the payload of bound functions, for listings. It has
	// the same form as ConfigSchema.
	PayloadSchema any
	// Namespace is the namespace that the type serves. Default: the worker's own. A type in
	// "default" also serves the triggers of workers whose own namespace has no type with this
	// id.
	Namespace string
}

// TriggerProvider implements a trigger type. The client informs it when triggers are bound and
// unbound; the provider calls [TriggerBinding.Fire] whenever the event of a trigger happens.
//
// Calls for one trigger are sequential and in order; calls for different triggers are
// concurrent. None of them runs on the client's read loop. A panic counts as an error of the
// method.
type TriggerProvider interface {
	// Bind starts a trigger, replacing any trigger that is bound under the same ID. An error
	// rejects the trigger; the worker that registered it receives the error with code
	// trigger_registration_failed, or with the code of an [*Error]. If a trigger was bound under
	// the ID before, Unbind follows.
	//
	// ctx belongs to the trigger, not to the call or the connection: it ends when the trigger is
	// unbound, when a changed one replaces it, and when the client ends. Work that Bind starts
	// may use it for as long.
	//
	// After a reconnection the engine binds all triggers again. For an unchanged trigger,
	// b.Unchanged is true and ctx is the same as before.
	Bind(ctx context.Context, b TriggerBinding) error

	// Unbind stops a trigger. It is called when the trigger is unregistered, when it moves to
	// another provider, and when the engine does not bind it again after a reconnection, but not
	// when the client ends. ctx ends when the client does. An error is logged.
	Unbind(ctx context.Context, id string) error
}

// TriggerBinding is one trigger of a type that this worker provides. It is usable until the
// client ends, and may be copied.
type TriggerBinding struct {
	// ID is the trigger's id, unique in the engine.
	ID string
	// TriggerType is the id of the trigger's type.
	TriggerType string
	// FunctionID is the function to call.
	FunctionID string
	// Namespace is the namespace of the function; "" on engines since 0.26, which do not report
	// it.
	Namespace string
	// Config is the config with which the trigger was registered. If there was none, it is null,
	// or {} on engines since 0.26.
	Config json.RawMessage
	// Metadata is the trigger's metadata, which each call of the function carries. It is nil if
	// there is none, and on engines since 0.26, which do not report it.
	Metadata json.RawMessage
	// Unchanged reports that the same trigger is already bound and that the engine has sent it
	// again, as it does after each reconnection. A provider that has kept the trigger running
	// can return nil immediately.
	Unchanged bool

	client    *Client
	condition string // function that can suppress an event

	// observer is the observer that represents the trigger on an engine without triggers.
	observer *FunctionObserver
}

// Fire runs the trigger's function with a payload, in the function's namespace and with the
// trigger's metadata, and returns its result. If the config names a condition_function_id, that
// function is called first, with the same payload. If it returns exactly false, Fire returns nil
// and no error; if it fails, Fire returns its error without calling the trigger's function.
// Errors and timeouts are those of [Client.Call].
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

// HandleTriggerType makes this worker the provider of a trigger type. Triggers that wait for a
// provider of the type are bound as soon as the engine has registered it. If several workers
// register the same type, the engine silently gives it to the last one, so a type that another
// worker provides moves to this one.
//
// Engines since 0.26 have no triggers. There the type is a private function with the same id,
// and a trigger is an observer of that function, whose arguments are the config. Therefore no
// function of this worker may have that id, on any engine. A type in a namespace other than the
// worker's own cannot be provided there; this is logged. A second provider is rejected until the
// first one has left. Bindings have neither namespace nor metadata, and Fire calls the target
// through the observer if its filters let the payload through.
//
// A type cannot be unregistered, because the protocol has no message for it: it exists until the
// client ends. HandleTriggerType does not wait for the network.
//
// The engine drops a type when the worker that registered it last leaves, even if another worker
// registered it before. The client therefore asks the engine every 2 s which worker provides its
// types. It unbinds the triggers of a type that another worker has taken over, and registers a
// type again if no worker provides it any more. It stops asking, until the next connection, if
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
		return fail(fmt.Errorf("already provided in namespace %q", provided.namespace))
	}
	if provided.namespace == cmp.Or(c.cfg.namespace, defaultNamespace) {
		if err := c.addTypeFunction(provided); err != nil {
			return fail(err)
		}
	}
	if !c.bindings.add(provided) { // another goroutine has registered it meanwhile
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

// anyArgs is the schema of the arguments of a type without a config schema: any object.
var anyArgs = json.RawMessage(`{"type":"object"}`)

// addTypeFunction registers the function that represents a type on engines without triggers.
// Each of its observers is a trigger of the type.
func (c *Client) addTypeFunction(t *providedType) error {
	uncalled := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: CodeFunctionNotInvokable, Message: "the function represents a trigger type and cannot be called: its worker fires the triggers"}
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

// typeWatchInterval is how often the client asks which workers provide its trigger types.
const typeWatchInterval = 2 * time.Second

// plainName reports whether the engine leaves a worker's name unchanged: it removes control and
// format characters and truncates names to 280 characters.
func plainName(name string) bool {
	return utf8.RuneCountInString(name) <= 280 && name == strings.TrimSpace(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// watchTypes asks the engine which workers provide this worker's trigger types. It unbinds the
// triggers of types that another worker has taken over, and registers types again that no worker
// provides. It returns false if this worker lacks permission to ask.
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
				c.log.Warn("iii: another worker has taken over a trigger type of this worker", "type", t.id, "namespace", t.namespace, "worker", detail.WorkerName)
			}
		case errors.As(err, &refusal) && refusal.Code == CodeNotFound:
			t.missing = true
			if !missed { // access control may forbid it, silently and permanently
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
