package iii

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// dialect implements one generation of the worker protocol. Only the dialects know the keys of
// the messages; the rest of the package works with functions, triggers, calls and invocations.
// A connection's dialect depends on the features listed in the engine's hello, so it may
// change after a reconnect. A dialect has no state and is safe for concurrent use.
//
// The messages sent once per call are appended to a buffer. All other messages are values of
// the generated types.
type dialect interface {
	// observes reports whether the engine supports observers.
	observes() bool

	// hooks reports whether the worker, rather than the engine, matches calls to its functions
	// against observers and delivers the calls that match.
	hooks() bool

	// checkCall returns an error if the engine does not support the call or if the call is too
	// large. Such a call fails without being sent.
	checkCall(inv *invocation, size int) error
	// appendCall appends the beginning of a call message. encodeCall appends the rest.
	appendCall(p []byte, inv *invocation) []byte
	// appendAnswer appends the beginning of a result message, up to the result or error.
	appendAnswer(p, id []byte, functionID string) []byte
	// tooLarge returns the error code for a result that is too large to send.
	tooLarge() string
	// appendMatched adds to a result message the observers that match the call.
	// appendDelivered marks the call as delivered by the function's Deliver hook.
	appendMatched(p []byte, observers []*FunctionObserver) []byte
	appendDelivered(p []byte) []byte

	// observerAck returns the message that accepts an observer or, if err is not nil, rejects
	// it.
	observerAck(functionID, namespace, observerID string, revision uint64, err *ErrorBody) any
	// appendReports appends the message that reports local calls. localStats returns the
	// message with the counters of local calls.
	appendReports(p []byte, reports []*report) []byte
	localStats(window time.Duration, calls []LocalFunctionStats, drops []DroppedReports) any

	// answers reports whether the engine responds to every registration of the claim's kind.
	// If not, the engine responds only to reject a registration, and the pong to the next
	// fence means that all others are accepted. An engine that responds to triggers implements
	// them as observers.
	answers(*claim) bool

	// The following methods return the messages for registering and unregistering. If the
	// engine does not support a registration, the error explains why. If both results are
	// nil, there is nothing to send.
	registerFunction(*functionSpec) (any, error)
	unregisterFunction(*functionSpec) any
	registerTriggerType(*triggerTypeSpec) any
	registerTrigger(*triggerSpec) (any, error)
	unregisterTrigger(*triggerSpec) any
	// triggerBound returns the message that confirms to the engine that the provider has bound
	// a trigger. If err is not nil, the message rejects the trigger.
	triggerBound(b *TriggerBinding, err *ErrorBody) any

	// receive decodes a message of the given kind and passes it to the client. known is false
	// if the dialect has no such message.
	receive(c *Client, l *link, kind messageType, b []byte) (known bool, err error)
}

// functionSpec describes a function as the program registered it. Its JSON fields are already
// encoded; nil means that a value is absent.
type functionSpec struct {
	id          string
	description *string
	metadata    json.RawMessage
	request     json.RawMessage
	response    json.RawMessage
	invocation  *HTTPInvocationConfig

	// Used only with engines that support hooks. needsHooks is true if the function cannot be
	// registered with an engine that does not support hooks.
	args         json.RawMessage
	private      bool
	unobservable bool
	needsHooks   bool
}

// triggerSpec describes an observer, or a trigger as the program registered it. For engine
// 0.26 and later, asObserver converts a trigger to an observer.
type triggerSpec struct {
	id                string
	triggerType       string
	functionID        string
	config            json.RawMessage
	metadata          json.RawMessage
	namespace         string
	providerNamespace string

	observe *observeSpec // nil for a trigger

	// Used only for triggers that the engine implements as observers.
	observerID      string // "" means the same as id
	workerNamespace string
	adapterID       string // function that the observer calls instead of the trigger's function; "" means none
}

// observeSpec holds the attributes specific to observers.
type observeSpec struct {
	source      ObserveSource
	expiry      time.Duration // 0 means none
	deadline    time.Time     // when the observer expires; set when the observer is first sent
	maxFires    *uint64
	maxInFlight *uint32
}

// idOfObserver returns the id by which the engine knows the observer.
func (t *triggerSpec) idOfObserver() string { return cmp.Or(t.observerID, t.id) }

// checkText rejects ids and namespaces that change when they are encoded, because the client
// would not recognize them in the engine's messages.
func (t *triggerSpec) checkText() error {
	texts := []string{t.id, t.triggerType, t.functionID, t.namespace, t.providerNamespace}
	if o := t.observe; o != nil {
		texts = append(texts, o.source.FunctionID, o.source.Namespace)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return fmt.Errorf("%q is not valid UTF-8", text)
		}
	}
	return nil
}

// triggerTypeSpec describes a trigger type as the program registered it.
type triggerTypeSpec struct {
	id, description, namespace string
	config, payload            json.RawMessage // schemas
}

// An engine lists its features in its hello message, and [Client.Features] returns them. A
// worker lists its features when it registers. Except for FeatureLargeMessagesV1, a feature is
// used only if both sides list it.
const (
	// FeatureObserveV1 indicates support for observers (see [Client.Observe]). Engines list it
	// from version 0.25.
	FeatureObserveV1 = "observe.v1"
	// FeatureObserveV2 indicates that observers replace triggers, and that the worker that
	// hosts a source, rather than the engine, decides which observers match a call. Engines
	// list it from version 0.26.
	FeatureObserveV2 = "observe.v2"
	// FeatureLocalDispatchV1 indicates that a worker may call its own functions in process.
	FeatureLocalDispatchV1 = "local-dispatch.v1"
	// FeatureLargeMessagesV1 indicates support for messages of up to 64 MiB. Only workers list
	// it.
	FeatureLargeMessagesV1 = "large-messages.v1"
)

// workerFeatures lists the features that this package supports, in the order in which the
// other SDKs list them.
var workerFeatures = []string{FeatureObserveV1, FeatureObserveV2, FeatureLocalDispatchV1, FeatureLargeMessagesV1}

// dialectFor returns the dialect for an engine with the given features.
func dialectFor(features []string) dialect {
	if slices.Contains(features, FeatureObserveV2) { // includes observe.v1
		return newestDialect
	}
	return triggerDialect{observe: slices.Contains(features, FeatureObserveV1)}
}

// triggerDialect is the dialect of engine 0.25 and earlier, in which triggers bind functions
// to events.
type triggerDialect struct {
	observe bool // the engine also supports observers
}

// newestDialect supports every kind of message.
var newestDialect = observeDialect{triggerDialect{observe: true}}

func (d triggerDialect) observes() bool { return d.observe }

func (triggerDialect) hooks() bool { return false }

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

func (triggerDialect) tooLarge() string { return CodeResultTooLarge }

func (triggerDialect) appendMatched(p []byte, _ []*FunctionObserver) []byte { return p }

func (triggerDialect) appendDelivered(p []byte) []byte { return p }

func (triggerDialect) observerAck(functionID, namespace, observerID string, revision uint64, err *ErrorBody) any {
	return ObserverAckMessage{FunctionID: functionID, Namespace: namespace, ID: observerID, Revision: revision, Error: err}
}

func (triggerDialect) appendReports(p []byte, reports []*report) []byte {
	return appendReports(p, reports, false)
}

func (triggerDialect) localStats(window time.Duration, calls []LocalFunctionStats, drops []DroppedReports) any {
	return LocalInvocationStatsMessage{WindowMs: uint64(window.Milliseconds()), Functions: calls, DroppedReports: drops}
}

func (triggerDialect) appendAnswer(p, id []byte, functionID string) []byte {
	p = append(p, `{"type":"invocationresult","invocation_id":"`...)
	p = append(p, id...)
	p = append(p, `","function_id":`...)
	return rawjson.AppendString(p, functionID)
}

// answers returns true for functions and observers if the engine supports observers. It
// returns false for triggers.
func (d triggerDialect) answers(c *claim) bool {
	return d.observe && c != nil && (c.function != nil || c.trigger.spec.observe != nil)
}

func (triggerDialect) registerFunction(f *functionSpec) (any, error) {
	if f.needsHooks {
		return nil, fmt.Errorf("arguments, privacy, refusal, matching and delivery of observers need an engine with %s: %w", FeatureObserveV2, errors.ErrUnsupported)
	}
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

func (d triggerDialect) registerTrigger(t *triggerSpec) (any, error) {
	if t.observe != nil {
		if !d.observe {
			return nil, errNoObservers
		}
		return observeMessage(t), nil
	}
	return RegisterTriggerMessage{ID: t.id, TriggerType: t.triggerType, FunctionID: t.functionID, Config: t.config,
		Metadata: t.metadata, Namespace: t.namespace, TriggerNamespace: t.providerNamespace}, nil
}

func (triggerDialect) unregisterTrigger(t *triggerSpec) any {
	if t.observe != nil {
		return UnobserveMessage{ID: t.id}
	}
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
		m, err := c.decodeRegistered(b)
		if err != nil {
			return true, err
		}
		c.functionAccepted(l, m)
	case messageObserveResult:
		if !d.observe {
			return false, nil
		}
		var m ObserveResultMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.observeAnswered(l, &m)
	case messageObserverStateChanged:
		if !d.observe {
			return false, nil
		}
		var m ObserverStateChangedMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.observerChanged(l, &m)
	case messageObserverAdded:
		if !d.observe {
			return false, nil
		}
		var m ObserverAddedMessage
		err := json.Unmarshal(b, &m)
		if err == nil {
			err = m.Observer.check()
		}
		if err != nil {
			return true, fmt.Errorf("observer %q of function %q: %w", textMember(memberOf(b, "observer"), "id"), textMember(b, "function_id"), err)
		}
		c.observerAdded(l, &m)
	case messageObserverRemoved:
		if !d.observe {
			return false, nil
		}
		var m ObserverRemovedMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.observerRemoved(l, &m)
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
		c.providers.register(l, m.TriggerNamespace, TriggerBinding{ID: m.ID, TriggerType: m.TriggerType, FunctionID: m.FunctionID,
			Namespace: m.Namespace, Config: json.RawMessage(m.Config), Metadata: json.RawMessage(m.Metadata)})
	case messageUnregisterTrigger:
		var m UnregisterTriggerMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return true, err
		}
		c.providers.unregister(m.ID)
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

// appendReports appends the message that reports local calls. If echo is true, an output that
// equals the input is omitted.
func appendReports(p []byte, reports []*report, echo bool) []byte {
	p = append(p, `{"type":"invocationsobserved","items":[`...)
	for i, r := range reports {
		if i > 0 {
			p = append(p, ',')
		}
		p = append(p, `{"function_id":`...)
		p = rawjson.AppendString(p, r.granted.id)
		p = append(p, `,"namespace":`...)
		p = rawjson.AppendString(p, r.granted.namespace)
		p = append(p, `,"invocation_id":`...)
		p = rawjson.AppendString(p, r.id)
		p = append(p, `,"matched":`...)
		p = appendIDs(p, r.matched)
		p = append(p, `,"status":`...)
		p = rawjson.AppendString(p, r.status)
		output := r.output
		if r.echoes && !echo {
			output = r.input
		}
		for _, part := range []struct {
			key   string
			value json.RawMessage
		}{{`,"input":`, r.input}, {`,"output":`, output}, {`,"error":`, r.err}, {`,"caller":`, r.caller}, {`,"metadata":`, r.metadata}} {
			if part.value != nil {
				p = append(append(p, part.key...), part.value...)
			}
		}
		if r.echoes && echo {
			p = append(p, `,"output_is_input":true`...)
		}
		p = append(p, `,"started_at_ms":`...)
		p = strconv.AppendInt(p, r.started.UnixMilli(), 10)
		p = append(p, `,"duration_ms":`...)
		p = strconv.AppendFloat(p, float64(r.duration)/float64(time.Millisecond), 'f', -1, 64)
		p = append(p, `,"observe_depth":`...)
		p = strconv.AppendUint(p, uint64(r.depth), 10)
		for _, part := range []struct{ key, value string }{{`,"traceparent":`, r.traceparent}, {`,"baggage":`, r.baggage}} {
			if part.value != "" {
				p = rawjson.AppendString(append(p, part.key...), part.value)
			}
		}
		p = append(p, '}')
	}
	return append(p, ']', '}')
}

// observeDialect is the dialect of engine 0.26 and later, in which observers replace triggers.
type observeDialect struct{ triggerDialect }

func (observeDialect) answers(*claim) bool { return true }

var errNoObservers = errors.New("the engine does not support observers (no observe.v1 in its features); upgrade it to 0.25 or later")

// registerTriggerType returns nil because a trigger type is a function in this dialect; see
// [Client.HandleTriggerType].
func (observeDialect) registerTriggerType(*triggerTypeSpec) any { return nil }

// registerTrigger returns the message that registers an observer. A trigger is first converted
// to an observer; see triggersource.go.
func (observeDialect) registerTrigger(t *triggerSpec) (any, error) {
	if t.observe != nil {
		return observeMessage(t), nil
	}
	observer, err := t.asObserver()
	if err != nil {
		return nil, err
	}
	return observeMessage(observer), nil
}

func (observeDialect) unregisterTrigger(t *triggerSpec) any {
	return UnobserveMessage{ID: t.idOfObserver()}
}

// observeMessage returns the message that registers an observer. If the observer expires, the
// message contains the time that remains until then.
func observeMessage(t *triggerSpec) ObserveMessage {
	o := t.observe
	m := ObserveMessage{ID: t.idOfObserver(), Source: o.source, Target: ObserveTarget{FunctionID: t.functionID, Namespace: t.namespace},
		Metadata: orAbsent(JSONValue(t.metadata)), MaxFires: o.maxFires, MaxInFlight: o.maxInFlight}
	if o.expiry > 0 {
		left := o.expiry
		if !o.deadline.IsZero() {
			left = max(time.Until(o.deadline), time.Millisecond)
		}
		m.ExpiresInMs = new(uint64((left-1)/time.Millisecond) + 1) // rounded up
	}
	return m
}

func (observeDialect) hooks() bool { return true }

func (observeDialect) tooLarge() string { return CodePayloadTooLarge }

func (observeDialect) registerFunction(f *functionSpec) (any, error) {
	m := RegisterFunctionMessage{ID: f.id, Description: f.description, Metadata: f.metadata, RequestFormat: f.request,
		ResponseFormat: f.response, Invocation: f.invocation, ArgsFormat: f.args, Private: f.private}
	if f.unobservable {
		m.Observable = new(bool)
	}
	return m, nil
}

func (observeDialect) appendMatched(p []byte, observers []*FunctionObserver) []byte {
	p = append(p, `,"matched":`...)
	return appendIDs(p, observers)
}

func (observeDialect) appendDelivered(p []byte) []byte { return append(p, `,"delivered":true`...) }

func (observeDialect) appendReports(p []byte, reports []*report) []byte {
	return appendReports(p, reports, true)
}

func appendIDs(p []byte, observers []*FunctionObserver) []byte {
	p = append(p, '[')
	for i, o := range observers {
		if i > 0 {
			p = append(p, ',')
		}
		p = rawjson.AppendString(p, o.ID)
	}
	return append(p, ']')
}
