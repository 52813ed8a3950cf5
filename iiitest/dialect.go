package iiitest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/iii-go/iii"
)

// dialect is the protocol of one connection, limited to the features that both the engine and
// the worker have listed. It decodes the worker's messages and builds the engine's; no other
// code depends on message keys. A dialect is immutable. When a worker lists its features, its
// connection gets a new dialect.
type dialect struct {
	protocol Protocol
	strict   bool // no triggers in 0.26

	// Features listed by both sides.
	observes bool // observe.v1
	hooks    bool // observe.v2
	local    bool // local-dispatch.v1
}

// with returns a copy of d that is restricted to the features listed by the worker.
func (d dialect) with(features []string) *dialect {
	both := func(feature string) bool {
		return slices.Contains(features, feature) && slices.Contains(d.protocol.features(), feature)
	}
	d.hooks = both(iii.FeatureObserveV2)
	d.observes = d.hooks || both(iii.FeatureObserveV1) // observe.v2 includes it
	d.local = both(iii.FeatureLocalDispatchV1)
	return &d
}

func (d *dialect) triggers() bool { return !d.strict || d.protocol < Protocol026 }

// decode decodes a message from the worker. The engine silently drops messages that decode
// rejects.
func (d *dialect) decode(raw []byte) (any, error) {
	var room [fewMembers]member
	typ, members, err := readMessage(raw, room[:0])
	if err != nil {
		return nil, err
	}
	switch string(typ) {
	case "reattach":
		return decodeAs[reattachMessage](members)
	case "registerfunction":
		return decodeMore(members, d.protocol, func(m *registerFunctionMessage) any { return &m.observed })
	case "unregisterfunction":
		return decodeAs[unregisterFunctionMessage](members)
	case "invokefunction":
		return decodeMore(members, d.protocol, func(m *invokeFunctionMessage) any { return &m.observed })
	case "invocationresult":
		return decodeMore(members, d.protocol, func(m *invocationResultMessage) any { return &m.observed })
	case "registerservice":
		return decodeAs[registerServiceMessage](members)
	case "ping":
		return &pingMessage{}, nil
	case "pong", "workerregistered", "registrationrejected":
		return &ignoredMessage{}, nil
	}
	if d.triggers() {
		switch string(typ) {
		case "registertriggertype":
			return decodeAs[registerTriggerTypeMessage](members)
		case "unregistertriggertype":
			if d.protocol >= Protocol025 {
				return decodeAs[unregisterTriggerTypeMessage](members)
			}
		case "registertrigger":
			return decodeAs[registerTriggerMessage](members)
		case "unregistertrigger":
			return decodeAs[unregisterTriggerMessage](members)
		case "triggerregistrationresult":
			return decodeAs[triggerRegistrationResultMessage](members)
		}
	}
	if d.protocol >= Protocol025 {
		switch string(typ) {
		case "observe":
			return decodeAs[observeMessage](members)
		case "unobserve":
			return decodeAs[unobserveMessage](members)
		case "observerack":
			return decodeAs[observerAckMessage](members)
		case "invocationsobserved":
			return decodeAs[invocationsObservedMessage](members)
		case "localinvocationstats":
			return decodeAs[localStatsMessage](members)
		}
	}
	return nil, fmt.Errorf("unknown type %q", typ)
}

func (d *dialect) greeting(id, token string) []byte {
	m := message("workerregistered").str("worker_id", id).str("reattach_token", token)
	if features := d.protocol.features(); features != nil {
		m.raw("features", mustEncode(features))
	}
	return m.bytes()
}

func (d *dialect) pong() []byte { return message("pong").bytes() }

// authError builds the message that a rejected connection receives in place of the greeting.
func authError(text string) []byte {
	return new(object).str("type", "error").raw("error", errorJSON(errorBody("AUTH_ERROR", "%s", text))).bytes()
}

func (d *dialect) nameTaken(namespace, name, holder string) []byte {
	return message("registrationrejected").str("code", "WORKER_NAMESPACE_CONFLICT").
		str("namespace", namespace).str("worker_name", name).str("owner_worker_id", holder).bytes()
}

// functionRejected builds the message that rejects a function's registration. k contains the
// id that the worker used.
func (d *dialect) functionRejected(code string, k key, owner string) []byte {
	return message("registrationrejected").str("code", code).
		str("namespace", k.namespace).str("function_id", k.id).str("owner_worker_id", owner).bytes()
}

// invocation is a call to be sent to a worker.
type invocation struct {
	id, functionID string // the id under which the receiving worker knows the function
	data, metadata json.RawMessage
	trace          traceContext
	caller         *callerInfo
	depth          uint32
	activation     activation
}

// activation identifies an activation of an observer, or a call made through an observer.
type activation struct{ observerID, id string }

func (a activation) json() json.RawMessage {
	if a.observerID == "" {
		return nil
	}
	return new(object).str("observer_id", a.observerID).str("activation_id", a.id).bytes()
}

func (d *dialect) invoke(i invocation) []byte {
	m := largeMessage("invokefunction", len(i.data)+len(i.metadata)+len(i.functionID)+len(i.trace.baggage)+callerLength).str("invocation_id", i.id).str("function_id", i.functionID).
		raw("data", i.data).optStr("traceparent", i.trace.traceparent).optStr("baggage", i.trace.baggage).
		raw("metadata", i.metadata)
	if d.observes {
		if i.caller != nil {
			m.key("caller")
			m.b = i.caller.appendTo(m.b)
		}
		if i.depth > 0 {
			m.uint("observe_depth", uint64(i.depth))
		}
		m.raw("activation", i.activation.json())
	}
	return m.bytes()
}

// result builds the reply to a call. The reply repeats the caller's trace context.
func (d *dialect) result(id, functionID string, out outcome, traceparent, baggage *string) []byte {
	m := largeMessage("invocationresult", len(functionID)+len(out.result)).str("invocation_id", id).str("function_id", functionID)
	if out.err != nil {
		m.raw("error", errorJSON(out.err))
	} else {
		m.raw("result", out.result)
	}
	if traceparent != nil {
		m.str("traceparent", *traceparent)
	}
	if baggage != nil {
		m.str("baggage", *baggage)
	}
	return m.bytes()
}

// bindTrigger builds the message that announces a trigger to the worker that provides its
// type.
func (d *dialect) bindTrigger(r *registration, provider string) []byte {
	m := message("registertrigger").str("id", r.id).str("trigger_type", r.triggerType).
		str("function_id", r.functionID).raw("config", r.config).raw("metadata", r.metadata)
	if r.namespace != defaultNamespace {
		m.str("namespace", r.namespace)
	}
	if provider != defaultNamespace {
		m.str("trigger_namespace", provider)
	}
	return m.bytes()
}

func (d *dialect) unbindTrigger(id, typ string) []byte {
	return message("unregistertrigger").str("id", id).str("trigger_type", typ).bytes()
}

func (d *dialect) triggerResult(id, typ, functionID string, err *wireError) []byte {
	return message("triggerregistrationresult").str("id", id).str("trigger_type", typ).
		str("function_id", functionID).raw("error", errorJSON(err)).bytes()
}

// functionRegistered builds the message that gives a host the complete set of its function's
// observers.
func (d *dialect) functionRegistered(k key, revision uint64, local bool, views []json.RawMessage) []byte {
	return message("functionregistered").str("id", k.id).str("namespace", k.namespace).uint("revision", revision).
		raw("local_dispatch", mustEncode(local)).raw("observers", mustEncode(append([]json.RawMessage{}, views...))).bytes()
}

func (d *dialect) observerAdded(k key, revision uint64, view json.RawMessage) []byte {
	return message("observeradded").str("function_id", k.id).str("namespace", k.namespace).uint("revision", revision).
		raw("observer", view).bytes()
}

func (d *dialect) observerRemoved(k key, revision uint64, id string) []byte {
	return message("observerremoved").str("function_id", k.id).str("namespace", k.namespace).uint("revision", revision).
		str("id", id).bytes()
}

// observeResult builds the reply to an observe message. If err is set, the observer has been
// permanently rejected.
func (d *dialect) observeResult(id string, state iii.ObserverState, err *wireError, warnings []string) []byte {
	m := message("observeresult").str("id", id).str("state", string(state))
	if err != nil {
		m.raw("error", errorJSON(err))
	}
	if len(warnings) > 0 {
		m.raw("warnings", mustEncode(warnings))
	}
	return m.bytes()
}

func (d *dialect) observerState(id string, state iii.ObserverState, reason *wireError, fires uint64) []byte {
	m := message("observerstatechanged").str("id", id).str("state", string(state))
	if reason != nil {
		m.raw("reason", errorJSON(reason))
	}
	return m.uint("fires", fires).bytes()
}

func (o *object) uint(k string, n uint64) *object { return o.raw(k, strconv.AppendUint(nil, n, 10)) }

// callerLength is the approximate length of an encoded callerInfo that has a parent.
const callerLength = 280

// callerInfo identifies a function's caller.
type callerInfo struct {
	WorkerID     *string     `json:"worker_id"`
	WorkerName   *string     `json:"worker_name"`
	FunctionID   *string     `json:"function_id"`
	InvocationID *string     `json:"invocation_id"`
	Parent       *callerInfo `json:"parent"` // caller of the handler that makes this call; its own Parent is dropped
}

// engineCallerName is the worker name that identifies the engine as the caller.
const engineCallerName = "iii-engine"

func engineCaller() *callerInfo {
	name := engineCallerName
	return &callerInfo{WorkerName: &name}
}

// json encodes c. It returns nil for a nil c.
func (c *callerInfo) json() json.RawMessage {
	if c == nil {
		return nil
	}
	return c.appendTo(nil)
}

func (c *callerInfo) appendTo(dst []byte) []byte {
	dst = append(dst, '{')
	first := len(dst)
	key := func(k string) {
		if len(dst) > first {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), k...), `":`...)
	}
	for _, field := range [...]struct {
		name  string
		value *string
	}{
		{"worker_id", c.WorkerID}, {"worker_name", c.WorkerName},
		{"function_id", c.FunctionID}, {"invocation_id", c.InvocationID},
	} {
		if field.value != nil {
			key(field.name)
			dst = appendString(dst, *field.value)
		}
	}
	if c.Parent != nil {
		key("parent")
		parent := *c.Parent
		parent.Parent = nil
		dst = parent.appendTo(dst)
	}
	return append(dst, '}')
}

// stamped returns a copy of c with the given worker id and name.
func (c *callerInfo) stamped(id *string, name string) *callerInfo {
	stamped := callerInfo{}
	if c != nil {
		stamped = *c
	}
	stamped.WorkerID, stamped.WorkerName = id, nullable(name)
	return &stamped
}
