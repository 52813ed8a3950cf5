package iii

// The generator declares the types of enumerations but not their values when these
// have descriptions; a test holds these constants against the schemas. Decoding keeps
// values that are not here.

// Values of HTTPMethod.
const (
	// HTTPMethodGET reads; the payload is sent as the body all the same.
	HTTPMethodGET HTTPMethod = "GET"
	// HTTPMethodPOST is the default.
	HTTPMethodPOST HTTPMethod = "POST"
	// HTTPMethodPUT replaces.
	HTTPMethodPUT HTTPMethod = "PUT"
	// HTTPMethodPATCH changes in part.
	HTTPMethodPATCH HTTPMethod = "PATCH"
	// HTTPMethodDELETE removes.
	HTTPMethodDELETE HTTPMethod = "DELETE"
)

// Values of HTTPAuthType.
const (
	// HTTPAuthTypeHMAC is the tag of HTTPAuthHMAC.
	HTTPAuthTypeHMAC HTTPAuthType = "hmac"
	// HTTPAuthTypeBearer is the tag of HTTPAuthBearer.
	HTTPAuthTypeBearer HTTPAuthType = "bearer"
	// HTTPAuthTypeAPIKey is the tag of HTTPAuthAPIKey.
	HTTPAuthTypeAPIKey HTTPAuthType = "api_key"
)

// Values of MessageType.
const (
	// MessageTypeWorkerRegistered is the tag of WorkerRegisteredMessage.
	MessageTypeWorkerRegistered MessageType = "workerregistered"
	// MessageTypeReattach is the tag of ReattachMessage.
	MessageTypeReattach MessageType = "reattach"
	// MessageTypeRegisterFunction is the tag of RegisterFunctionMessage.
	MessageTypeRegisterFunction MessageType = "registerfunction"
	// MessageTypeUnregisterFunction is the tag of UnregisterFunctionMessage.
	MessageTypeUnregisterFunction MessageType = "unregisterfunction"
	// MessageTypeRegisterTriggerType is the tag of RegisterTriggerTypeMessage.
	MessageTypeRegisterTriggerType MessageType = "registertriggertype"
	// MessageTypeRegisterTrigger is the tag of RegisterTriggerMessage.
	MessageTypeRegisterTrigger MessageType = "registertrigger"
	// MessageTypeUnregisterTrigger is the tag of UnregisterTriggerMessage.
	MessageTypeUnregisterTrigger MessageType = "unregistertrigger"
	// MessageTypeTriggerRegistrationResult is the tag of
	// TriggerRegistrationResultMessage.
	MessageTypeTriggerRegistrationResult MessageType = "triggerregistrationresult"
	// MessageTypeInvokeFunction is the tag of InvokeFunctionMessage.
	MessageTypeInvokeFunction MessageType = "invokefunction"
	// MessageTypeInvocationResult is the tag of InvocationResultMessage.
	MessageTypeInvocationResult MessageType = "invocationresult"
	// MessageTypeRegisterService is the tag of RegisterServiceMessage.
	MessageTypeRegisterService MessageType = "registerservice"
	// MessageTypeRegistrationRejected is the tag of RegistrationRejectedMessage.
	MessageTypeRegistrationRejected MessageType = "registrationrejected"
	// MessageTypePing is the tag of PingMessage.
	MessageTypePing MessageType = "ping"
	// MessageTypePong is the tag of PongMessage.
	MessageTypePong MessageType = "pong"
	// MessageTypeError is the tag of ErrorMessage.
	MessageTypeError MessageType = "error"
)

// Values of StreamChannelDirection.
const (
	// StreamChannelDirectionRead opens the reading end.
	StreamChannelDirectionRead StreamChannelDirection = "read"
	// StreamChannelDirectionWrite opens the writing end.
	StreamChannelDirectionWrite StreamChannelDirection = "write"
)

// Values of TriggerActionType.
const (
	// TriggerActionTypeVoid is the tag of ActionVoid.
	TriggerActionTypeVoid TriggerActionType = "void"
	// TriggerActionTypeEnqueue is the tag of ActionEnqueue.
	TriggerActionTypeEnqueue TriggerActionType = "enqueue"
)

// Values of UpdateOpType.
const (
	// UpdateOpTypeSet is the tag of UpdateSet.
	UpdateOpTypeSet UpdateOpType = "set"
	// UpdateOpTypeMerge is the tag of UpdateMerge.
	UpdateOpTypeMerge UpdateOpType = "merge"
	// UpdateOpTypeIncrement is the tag of UpdateIncrement.
	UpdateOpTypeIncrement UpdateOpType = "increment"
	// UpdateOpTypeDecrement is the tag of UpdateDecrement.
	UpdateOpTypeDecrement UpdateOpType = "decrement"
	// UpdateOpTypeAppend is the tag of UpdateAppend.
	UpdateOpTypeAppend UpdateOpType = "append"
	// UpdateOpTypeRemove is the tag of UpdateRemove.
	UpdateOpTypeRemove UpdateOpType = "remove"
)

// Values of StreamEventType.
const (
	// StreamEventTypeCreate: the item is new; data is its value.
	StreamEventTypeCreate StreamEventType = "create"
	// StreamEventTypeUpdate: the item existed; data is its new value.
	StreamEventTypeUpdate StreamEventType = "update"
	// StreamEventTypeDelete: the item is gone; data is the removed value.
	StreamEventTypeDelete StreamEventType = "delete"
	// StreamEventTypeSync: the present state, once after a subscription over the
	// socket; data is the item, or the list of the group's items.
	StreamEventTypeSync StreamEventType = "sync"
	// StreamEventTypeEvent: somebody called stream::send; there is no data, but an
	// event.
	StreamEventTypeEvent StreamEventType = "event"
	// StreamEventTypeUnauthorized: a subscription over the socket was refused; there
	// is no data.
	StreamEventTypeUnauthorized StreamEventType = "unauthorized"
)

// Values of StreamCommandType.
const (
	// StreamCommandTypeJoin subscribes.
	StreamCommandTypeJoin StreamCommandType = "join"
	// StreamCommandTypeLeave ends a subscription.
	StreamCommandTypeLeave StreamCommandType = "leave"
)

// Values of ConnectionState.
const (
	// ConnectionStateDisconnected: not started yet, or shut down.
	ConnectionStateDisconnected ConnectionState = "disconnected"
	// ConnectionStateConnecting: the first attempt is under way.
	ConnectionStateConnecting ConnectionState = "connecting"
	// ConnectionStateConnected: the link is up.
	ConnectionStateConnected ConnectionState = "connected"
	// ConnectionStateReconnecting: the link was lost or an attempt failed; another
	// follows.
	ConnectionStateReconnecting ConnectionState = "reconnecting"
	// ConnectionStateFailed: retries are used up or the engine refused; no attempt
	// follows.
	ConnectionStateFailed ConnectionState = "failed"
)

// Valid reports whether m is one of the methods that the engine knows for
// HTTP-invoked functions.
func (m HTTPMethod) Valid() bool {
	switch m {
	case HTTPMethodGET, HTTPMethodPOST, HTTPMethodPUT, HTTPMethodPATCH, HTTPMethodDELETE:
		return true
	}
	return false
}

// Values of LogLevel.
const (
	// LogLevelAll matches every record; it is the default.
	LogLevelAll LogLevel = "all"
	// LogLevelTrace matches severity text TRACE.
	LogLevelTrace LogLevel = "trace"
	// LogLevelDebug matches severity text DEBUG.
	LogLevelDebug LogLevel = "debug"
	// LogLevelInfo matches severity text INFO.
	LogLevelInfo LogLevel = "info"
	// LogLevelWarn matches severity text WARN.
	LogLevelWarn LogLevel = "warn"
	// LogLevelError matches severity text ERROR.
	LogLevelError LogLevel = "error"
)

// Values of ConfigurationEventType.
const (
	// ConfigurationEventTypeRegistered: the entry was registered.
	ConfigurationEventTypeRegistered ConfigurationEventType = "configuration:registered"
	// ConfigurationEventTypeUpdated: its value was set.
	ConfigurationEventTypeUpdated ConfigurationEventType = "configuration:updated"
	// ConfigurationEventTypeDeleted: the entry was deleted.
	ConfigurationEventTypeDeleted ConfigurationEventType = "configuration:deleted"
)

// Values of StateEventType.
const (
	// StateEventTypeCreated: there was no value before.
	StateEventTypeCreated StateEventType = "state:created"
	// StateEventTypeUpdated: there was one.
	StateEventTypeUpdated StateEventType = "state:updated"
	// StateEventTypeDeleted: the key was deleted, whether it existed or not.
	StateEventTypeDeleted StateEventType = "state:deleted"
)

// Values of WorkerEventType.
const (
	// WorkerEventTypeConnected: it is there.
	WorkerEventTypeConnected WorkerEventType = "worker_connected"
	// WorkerEventTypeMetadataUpdated: it has said who it is, or said so again.
	WorkerEventTypeMetadataUpdated WorkerEventType = "worker_metadata_updated"
	// WorkerEventTypeDisconnected: it is gone.
	WorkerEventTypeDisconnected WorkerEventType = "worker_disconnected"
)

// Values of HTTPMiddlewareAction.
const (
	// HTTPMiddlewareActionContinue goes on with the next middleware function, then
	// the target.
	HTTPMiddlewareActionContinue HTTPMiddlewareAction = "continue"
	// HTTPMiddlewareActionRespond answers with the response; the target is not
	// called.
	HTTPMiddlewareActionRespond HTTPMiddlewareAction = "respond"
)
