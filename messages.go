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

// MarshalJSON implements json.Marshaler. It sets the tag.
func (m InvocationResultMessage) MarshalJSON() ([]byte, error) {
	type plain InvocationResultMessage
	m.Type = MessageTypeInvocationResult
	return json.Marshal(plain(m))
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
