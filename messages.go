package iii

import "encoding/json"

// The messages of the worker protocol set their tag when they are encoded. Callers
// never set Type.

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m WorkerRegisteredMessage) MarshalJSON() ([]byte, error) {
	type plain WorkerRegisteredMessage
	m.Type = MessageTypeWorkerRegistered
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ReattachMessage) MarshalJSON() ([]byte, error) {
	type plain ReattachMessage
	m.Type = MessageTypeReattach
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m RegisterFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterFunctionMessage
	m.Type = MessageTypeRegisterFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m UnregisterFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain UnregisterFunctionMessage
	m.Type = MessageTypeUnregisterFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m RegisterTriggerTypeMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterTriggerTypeMessage
	m.Type = MessageTypeRegisterTriggerType
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m RegisterTriggerMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterTriggerMessage
	m.Type = MessageTypeRegisterTrigger
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m UnregisterTriggerMessage) MarshalJSON() ([]byte, error) {
	type plain UnregisterTriggerMessage
	m.Type = MessageTypeUnregisterTrigger
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m TriggerRegistrationResultMessage) MarshalJSON() ([]byte, error) {
	type plain TriggerRegistrationResultMessage
	m.Type = MessageTypeTriggerRegistrationResult
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m InvokeFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain InvokeFunctionMessage
	m.Type = MessageTypeInvokeFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag, and omits Matched if the list is
// nil but not if it is empty.
func (m InvocationResultMessage) MarshalJSON() ([]byte, error) {
	type plain InvocationResultMessage
	m.Type = MessageTypeInvocationResult
	return json.Marshal(struct {
		plain
		Matched []string `json:"matched,omitzero"`
	}{plain(m), m.Matched})
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m RegisterServiceMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterServiceMessage
	m.Type = MessageTypeRegisterService
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m RegistrationRejectedMessage) MarshalJSON() ([]byte, error) {
	type plain RegistrationRejectedMessage
	m.Type = MessageTypeRegistrationRejected
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m PingMessage) MarshalJSON() ([]byte, error) {
	type plain PingMessage
	m.Type = MessageTypePing
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m PongMessage) MarshalJSON() ([]byte, error) {
	type plain PongMessage
	m.Type = MessageTypePong
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ErrorMessage) MarshalJSON() ([]byte, error) {
	type plain ErrorMessage
	m.Type = MessageTypeError
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag and writes nil
// observers as [].
func (m FunctionRegisteredMessage) MarshalJSON() ([]byte, error) {
	type plain FunctionRegisteredMessage
	m.Type = MessageTypeFunctionRegistered
	m.Observers = orEmpty(m.Observers)
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserverAddedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverAddedMessage
	m.Type = MessageTypeObserverAdded
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserverRemovedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverRemovedMessage
	m.Type = MessageTypeObserverRemoved
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserverAckMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverAckMessage
	m.Type = MessageTypeObserverAck
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserveMessage) MarshalJSON() ([]byte, error) {
	type plain ObserveMessage
	m.Type = MessageTypeObserve
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m UnobserveMessage) MarshalJSON() ([]byte, error) {
	type plain UnobserveMessage
	m.Type = MessageTypeUnobserve
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserveResultMessage) MarshalJSON() ([]byte, error) {
	type plain ObserveResultMessage
	m.Type = MessageTypeObserveResult
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m ObserverStateChangedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverStateChangedMessage
	m.Type = MessageTypeObserverStateChanged
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag and writes nil
// items as [].
func (m InvocationsObservedMessage) MarshalJSON() ([]byte, error) {
	type plain InvocationsObservedMessage
	m.Type = MessageTypeInvocationsObserved
	m.Items = orEmpty(m.Items)
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It sets the tag and writes nil
// lists as [].
func (m LocalInvocationStatsMessage) MarshalJSON() ([]byte, error) {
	type plain LocalInvocationStatsMessage
	m.Type = MessageTypeLocalInvocationStats
	m.Functions, m.DroppedReports = orEmpty(m.Functions), orEmpty(m.DroppedReports)
	return json.Marshal(plain(m))
}

// orEmpty returns l, or an empty list if it is nil.
func orEmpty[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
