package iii

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/iii-go/iii/internal/rawjson"
)

// A dialect is one generation of the worker protocol, and the only code that knows the
// keys of its messages. Everything else handles what the program wants and what happens:
// functions, triggers, calls, invocations. Each connection has one dialect, chosen by the
// features that the engine lists in its hello, so a reconnection may bring another one.
// A dialect has no state; several goroutines use it at once.
//
// Messages that exist once per call are appended to a buffer. The others are values of the
// generated types.
type dialect interface {
	// observes reports whether the engine has observers.
	observes() bool

	// checkCall returns why the engine cannot be sent a call of this size, or nil. The
	// call then fails without having been sent.
	checkCall(inv *invocation, size int) error
	// appendCall appends the envelope of a call, up to what encodeCall has written.
	appendCall(p []byte, inv *invocation) []byte
	// appendAnswer appends the envelope of an answer, up to its result or error.
	appendAnswer(p, id []byte, functionID string) []byte

	// answers reports whether the engine answers each registration of this kind. Otherwise it
	// answers only to reject one, and a fence behind it tells when that has not happened.
	answers(*claim) bool

	// The messages that register something and take it back. An error says why the engine
	// cannot be told.
	registerFunction(*functionSpec) (any, error)
	unregisterFunction(*functionSpec) any
	registerTriggerType(*triggerTypeSpec) any
	registerTrigger(*triggerSpec) (any, error)
	unregisterTrigger(*triggerSpec) any
	// triggerBound is the answer to the engine that a provider has bound a trigger, or
	// err if it has refused it.
	triggerBound(b *TriggerBinding, err *ErrorBody) any

	// receive hands a message of the given kind to the client as what it means. It reports
	// false if the dialect has no such message.
	receive(c *Client, l *link, kind messageType, b []byte) (known bool, err error)
}

// functionSpec is a function as the program wants it. Values are encoded; nil is none.
type functionSpec struct {
	id          string
	description *string
	metadata    json.RawMessage
	request     json.RawMessage
	response    json.RawMessage
	invocation  *HTTPInvocationConfig
}

// triggerSpec is a trigger as the program wants it, in the terms of engines with triggers.
type triggerSpec struct {
	id                string
	triggerType       string
	functionID        string
	config            json.RawMessage
	metadata          json.RawMessage
	namespace         string
	providerNamespace string
}

// triggerTypeSpec is a trigger type as the program wants it.
type triggerTypeSpec struct {
	id, description, namespace string
	config, payload            json.RawMessage // schemas
}

// Features that an engine lists in its hello ([Client.Features]) and a worker in its
// registration. One is in use on a connection whose ends both list it.
const (
	// FeatureObserveV1 stands for observers ([Client.Observe]): engines since 0.25.
	FeatureObserveV1 = "observe.v1"
	// FeatureObserveV2 stands for observers in place of triggers, matched and served by the
	// worker that hosts the source: engines since 0.26.
	FeatureObserveV2 = "observe.v2"
	// FeatureLocalDispatchV1 stands for calls of a worker's own functions in process.
	FeatureLocalDispatchV1 = "local-dispatch.v1"
	// FeatureLargeMessagesV1 stands for messages of up to 64 MiB. Only workers list it.
	FeatureLargeMessagesV1 = "large-messages.v1"
)

// workerFeatures is what this package lists, in the order of the other SDKs.
var workerFeatures = []string{FeatureObserveV1, FeatureObserveV2, FeatureLocalDispatchV1, FeatureLargeMessagesV1}

// dialectFor returns the dialect of an engine that lists these features.
func dialectFor(features []string) dialect {
	t := triggerDialect{observe: slices.Contains(features, FeatureObserveV1)}
	if t.observe && slices.Contains(features, FeatureObserveV2) {
		return observeDialect{t}
	}
	return t
}

// triggerDialect is spoken by engines up to 0.25: functions are bound to events by triggers.
type triggerDialect struct {
	observe bool // the engine has observers, too
}

// observeDialect is spoken by engines since 0.26: observers stand for triggers.
type observeDialect struct{ triggerDialect }

func (d triggerDialect) observes() bool { return d.observe }

func (d triggerDialect) checkCall(inv *invocation, size int) error {
	if inv.observerID != "" && !d.observe {
		return fmt.Errorf("a call through an observer: the engine has no observers: %w", errors.ErrUnsupported)
	}
	if size >= messageTooLarge {
		return fmt.Errorf("%w: %d bytes", ErrMessageTooLarge, size)
	}
	return nil
}

func (d triggerDialect) appendCall(p []byte, inv *invocation) []byte {
	p = append(p, `{"type":"invokefunction","function_id":`...)
	p = rawjson.AppendString(p, inv.functionID)
	switch inv.action {
	case actionVoid:
		p = append(p, `,"action":{"type":"void"}`...)
	case actionEnqueue:
		p = append(p, `,"action":{"type":"enqueue","queue":`...)
		p = append(rawjson.AppendString(p, inv.queue), '}')
	}
	if inv.action != actionVoid {
		p = append(p, `,"invocation_id":"`...)
		p = append(appendID(p, inv.id), '"')
	}
	if inv.namespace != "" {
		p = append(p, `,"namespace":`...)
		p = rawjson.AppendString(p, inv.namespace)
	}
	if inv.traceparent != "" {
		p = append(p, `,"traceparent":`...)
		p = rawjson.AppendString(p, inv.traceparent)
	}
	if inv.baggage != "" {
		p = append(p, `,"baggage":`...)
		p = rawjson.AppendString(p, inv.baggage)
	}
	if !d.observe {
		return p
	}
	if inv.observerID != "" {
		p = append(p, `,"activation":{"observer_id":`...)
		p = append(rawjson.AppendString(p, inv.observerID), '}')
	}
	if inv.caller != nil {
		p = append(p, `,"caller":`...)
		p = inv.caller.appendCaller(p)
		if depth := inv.caller.depth; depth > 0 {
			p = append(p, `,"observe_depth":`...)
			p = strconv.AppendUint(p, uint64(depth), 10)
		}
	}
	return p
}

func (triggerDialect) appendAnswer(p, id []byte, functionID string) []byte {
	p = append(p, `{"type":"invocationresult","invocation_id":"`...)
	p = append(p, id...)
	p = append(p, `","function_id":`...)
	return rawjson.AppendString(p, functionID)
}

// answers reports true for functions if the engine has observers; a trigger is not answered.
func (d triggerDialect) answers(c *claim) bool { return d.observe && c != nil && c.function != nil }

func (triggerDialect) registerFunction(f *functionSpec) (any, error) {
	return RegisterFunctionMessage{ID: f.id, Description: f.description, Metadata: f.metadata,
		RequestFormat: f.request, ResponseFormat: f.response, Invocation: f.invocation}, nil
}

func (triggerDialect) unregisterFunction(f *functionSpec) any {
	return UnregisterFunctionMessage{ID: f.id}
}

func (triggerDialect) registerTriggerType(t *triggerTypeSpec) any {
	return RegisterTriggerTypeMessage{ID: t.id, Description: t.description, Namespace: t.namespace,
		TriggerRequestFormat: t.config, CallRequestFormat: t.payload}
}

func (triggerDialect) registerTrigger(t *triggerSpec) (any, error) {
	return RegisterTriggerMessage{ID: t.id, TriggerType: t.triggerType, FunctionID: t.functionID, Config: t.config,
		Metadata: t.metadata, Namespace: t.namespace, TriggerNamespace: t.providerNamespace}, nil
}

func (triggerDialect) unregisterTrigger(t *triggerSpec) any {
	return UnregisterTriggerMessage{ID: t.id, TriggerType: t.triggerType}
}

func (triggerDialect) triggerBound(b *TriggerBinding, err *ErrorBody) any {
	return TriggerRegistrationResultMessage{ID: b.ID, TriggerType: b.TriggerType, FunctionID: b.FunctionID, Error: err}
}

func (d triggerDialect) receive(c *Client, l *link, kind messageType, b []byte) (known bool, err error) {
	switch kind {
	case messageFunctionRegistered:
		if !d.observe {
			return false, nil
		}
		var m FunctionRegisteredMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.functionAccepted(l, &m)
	case messageTriggerResult:
		var m TriggerRegistrationResultMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		if e := m.Error; e != nil {
			c.triggerRefused(l, m.ID, m.TriggerType, &Error{Code: e.Code, Message: e.Message, Stacktrace: e.Stacktrace, FunctionID: m.FunctionID})
		}
	case messageRegisterTrigger:
		var m RegisterTriggerMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.bindings.register(l, m.TriggerNamespace, TriggerBinding{ID: m.ID, TriggerType: m.TriggerType, FunctionID: m.FunctionID,
			Namespace: m.Namespace, Config: json.RawMessage(m.Config), Metadata: json.RawMessage(m.Metadata)})
	case messageUnregisterTrigger:
		var m UnregisterTriggerMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.bindings.unregister(m.ID)
	case messageRejected:
		var m RegistrationRejectedMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.rejected(l, &RejectedError{Code: m.Code, Namespace: m.Namespace, WorkerName: m.WorkerName, FunctionID: m.FunctionID, OwnerWorkerID: m.OwnerWorkerID})
	default:
		return false, nil
	}
	return true, nil
}

// answers reports true: each registration is answered.
func (observeDialect) answers(*claim) bool { return true }
