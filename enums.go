package iii

// For an enumeration whose values have descriptions, the generator declares only the type.
// This file declares the constants, and a test compares them with the schemas. Values for
// which there is no constant can still be decoded.

// Values of HTTPMethod.
const (
	// HTTPMethodGET reads a resource. The engine sends the payload as the request body even
	// for GET.
	HTTPMethodGET HTTPMethod = "GET"
	// HTTPMethodPOST is the default method.
	HTTPMethodPOST HTTPMethod = "POST"
	// HTTPMethodPUT replaces a resource.
	HTTPMethodPUT HTTPMethod = "PUT"
	// HTTPMethodPATCH changes part of a resource.
	HTTPMethodPATCH HTTPMethod = "PATCH"
	// HTTPMethodDELETE removes a resource.
	HTTPMethodDELETE HTTPMethod = "DELETE"
)

// Values of HTTPAuthType.
const (
	// HTTPAuthTypeHMAC is the type of an [HTTPAuthHMAC].
	HTTPAuthTypeHMAC HTTPAuthType = "hmac"
	// HTTPAuthTypeBearer is the type of an [HTTPAuthBearer].
	HTTPAuthTypeBearer HTTPAuthType = "bearer"
	// HTTPAuthTypeAPIKey is the type of an [HTTPAuthAPIKey].
	HTTPAuthTypeAPIKey HTTPAuthType = "api_key"
)

// Values of MessageType.
const (
	// MessageTypeWorkerRegistered is the type of a [WorkerRegisteredMessage].
	MessageTypeWorkerRegistered MessageType = "workerregistered"
	// MessageTypeReattach is the type of a [ReattachMessage].
	MessageTypeReattach MessageType = "reattach"
	// MessageTypeRegisterFunction is the type of a [RegisterFunctionMessage].
	MessageTypeRegisterFunction MessageType = "registerfunction"
	// MessageTypeUnregisterFunction is the type of an [UnregisterFunctionMessage].
	MessageTypeUnregisterFunction MessageType = "unregisterfunction"
	// MessageTypeRegisterTriggerType is the type of a [RegisterTriggerTypeMessage].
	MessageTypeRegisterTriggerType MessageType = "registertriggertype"
	// MessageTypeRegisterTrigger is the type of a [RegisterTriggerMessage].
	MessageTypeRegisterTrigger MessageType = "registertrigger"
	// MessageTypeUnregisterTrigger is the type of an [UnregisterTriggerMessage].
	MessageTypeUnregisterTrigger MessageType = "unregistertrigger"
	// MessageTypeTriggerRegistrationResult is the type of a
	// [TriggerRegistrationResultMessage].
	MessageTypeTriggerRegistrationResult MessageType = "triggerregistrationresult"
	// MessageTypeInvokeFunction is the type of an [InvokeFunctionMessage].
	MessageTypeInvokeFunction MessageType = "invokefunction"
	// MessageTypeInvocationResult is the type of an [InvocationResultMessage].
	MessageTypeInvocationResult MessageType = "invocationresult"
	// MessageTypeFunctionRegistered is the type of a [FunctionRegisteredMessage].
	MessageTypeFunctionRegistered MessageType = "functionregistered"
	// MessageTypeObserverAdded is the type of an [ObserverAddedMessage].
	MessageTypeObserverAdded MessageType = "observeradded"
	// MessageTypeObserverRemoved is the type of an [ObserverRemovedMessage].
	MessageTypeObserverRemoved MessageType = "observerremoved"
	// MessageTypeObserverAck is the type of an [ObserverAckMessage].
	MessageTypeObserverAck MessageType = "observerack"
	// MessageTypeObserve is the type of an [ObserveMessage].
	MessageTypeObserve MessageType = "observe"
	// MessageTypeUnobserve is the type of an [UnobserveMessage].
	MessageTypeUnobserve MessageType = "unobserve"
	// MessageTypeObserveResult is the type of an [ObserveResultMessage].
	MessageTypeObserveResult MessageType = "observeresult"
	// MessageTypeObserverStateChanged is the type of an [ObserverStateChangedMessage].
	MessageTypeObserverStateChanged MessageType = "observerstatechanged"
	// MessageTypeInvocationsObserved is the type of an [InvocationsObservedMessage].
	MessageTypeInvocationsObserved MessageType = "invocationsobserved"
	// MessageTypeLocalInvocationStats is the type of a [LocalInvocationStatsMessage].
	MessageTypeLocalInvocationStats MessageType = "localinvocationstats"
	// MessageTypeRegisterService is the type of a [RegisterServiceMessage].
	MessageTypeRegisterService MessageType = "registerservice"
	// MessageTypeRegistrationRejected is the type of a [RegistrationRejectedMessage].
	MessageTypeRegistrationRejected MessageType = "registrationrejected"
	// MessageTypePing is the type of a [PingMessage].
	MessageTypePing MessageType = "ping"
	// MessageTypePong is the type of a [PongMessage].
	MessageTypePong MessageType = "pong"
	// MessageTypeError is the type of an [ErrorMessage].
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
	// TriggerActionTypeVoid is the type of an [ActionVoid].
	TriggerActionTypeVoid TriggerActionType = "void"
	// TriggerActionTypeEnqueue is the type of an [ActionEnqueue].
	TriggerActionTypeEnqueue TriggerActionType = "enqueue"
)

// Values of UpdateOpType.
const (
	// UpdateOpTypeSet is the type of an [UpdateSet].
	UpdateOpTypeSet UpdateOpType = "set"
	// UpdateOpTypeMerge is the type of an [UpdateMerge].
	UpdateOpTypeMerge UpdateOpType = "merge"
	// UpdateOpTypeIncrement is the type of an [UpdateIncrement].
	UpdateOpTypeIncrement UpdateOpType = "increment"
	// UpdateOpTypeDecrement is the type of an [UpdateDecrement].
	UpdateOpTypeDecrement UpdateOpType = "decrement"
	// UpdateOpTypeAppend is the type of an [UpdateAppend].
	UpdateOpTypeAppend UpdateOpType = "append"
	// UpdateOpTypeRemove is the type of an [UpdateRemove].
	UpdateOpTypeRemove UpdateOpType = "remove"
)

// Values of StreamEventType.
const (
	// StreamEventTypeCreate reports a new item. The data is its value.
	StreamEventTypeCreate StreamEventType = "create"
	// StreamEventTypeUpdate reports a change to an existing item. The data is the new value.
	StreamEventTypeUpdate StreamEventType = "update"
	// StreamEventTypeDelete reports that an item was removed. The data is the removed value.
	StreamEventTypeDelete StreamEventType = "delete"
	// StreamEventTypeSync reports the current state. It is sent once, at the start of a
	// subscription on the stream socket. The data is the item, or the list of items in the
	// group.
	StreamEventTypeSync StreamEventType = "sync"
	// StreamEventTypeEvent reports a call to stream::send. The event field holds the sent
	// value, and there is no data.
	StreamEventTypeEvent StreamEventType = "event"
	// StreamEventTypeUnauthorized reports that a subscription on the stream socket was
	// rejected. There is no data.
	StreamEventTypeUnauthorized StreamEventType = "unauthorized"
)

// Values of StreamCommandType.
const (
	// StreamCommandTypeJoin starts a subscription.
	StreamCommandTypeJoin StreamCommandType = "join"
	// StreamCommandTypeLeave ends a subscription.
	StreamCommandTypeLeave StreamCommandType = "leave"
)

// Values of ConnectionState.
const (
	// ConnectionStateDisconnected means that no attempt to connect has begun, or that the
	// connection has been shut down.
	ConnectionStateDisconnected ConnectionState = "disconnected"
	// ConnectionStateConnecting means that the first connection attempt is in progress.
	ConnectionStateConnecting ConnectionState = "connecting"
	// ConnectionStateConnected means that the connection is established.
	ConnectionStateConnected ConnectionState = "connected"
	// ConnectionStateReconnecting means that the connection was lost or an attempt failed. The
	// client keeps trying to connect.
	ConnectionStateReconnecting ConnectionState = "reconnecting"
	// ConnectionStateFailed means that the client has stopped trying to connect, because no
	// retries are left or the engine rejected the connection.
	ConnectionStateFailed ConnectionState = "failed"
)

// Valid reports whether the engine accepts m as the method of an HTTP-invoked function.
func (m HTTPMethod) Valid() bool {
	switch m {
	case HTTPMethodGET, HTTPMethodPOST, HTTPMethodPUT, HTTPMethodPATCH, HTTPMethodDELETE:
		return true
	}
	return false
}

// Values of LogLevel.
const (
	// LogLevelAll matches every record. It is the default.
	LogLevelAll LogLevel = "all"
	// LogLevelTrace matches records whose severity text is TRACE.
	LogLevelTrace LogLevel = "trace"
	// LogLevelDebug matches records whose severity text is DEBUG.
	LogLevelDebug LogLevel = "debug"
	// LogLevelInfo matches records whose severity text is INFO.
	LogLevelInfo LogLevel = "info"
	// LogLevelWarn matches records whose severity text is WARN.
	LogLevelWarn LogLevel = "warn"
	// LogLevelError matches records whose severity text is ERROR.
	LogLevelError LogLevel = "error"
)

// Values of ConfigurationEventType.
const (
	// ConfigurationEventTypeRegistered reports that an entry was registered.
	ConfigurationEventTypeRegistered ConfigurationEventType = "configuration:registered"
	// ConfigurationEventTypeUpdated reports that an entry's value was set.
	ConfigurationEventTypeUpdated ConfigurationEventType = "configuration:updated"
	// ConfigurationEventTypeDeleted reports that an entry was deleted.
	ConfigurationEventTypeDeleted ConfigurationEventType = "configuration:deleted"
)

// Values of StateEventType.
const (
	// StateEventTypeCreated reports that a value was stored under a new key.
	StateEventTypeCreated StateEventType = "state:created"
	// StateEventTypeUpdated reports that an existing value was replaced.
	StateEventTypeUpdated StateEventType = "state:updated"
	// StateEventTypeDeleted reports that state::delete was called, even if the key did not
	// exist.
	StateEventTypeDeleted StateEventType = "state:deleted"
)

// Values of WorkerEventType.
const (
	// WorkerEventTypeConnected reports that a worker connected.
	WorkerEventTypeConnected WorkerEventType = "worker_connected"
	// WorkerEventTypeMetadataUpdated reports that a worker registered or updated its metadata.
	WorkerEventTypeMetadataUpdated WorkerEventType = "worker_metadata_updated"
	// WorkerEventTypeDisconnected reports that a worker disconnected.
	WorkerEventTypeDisconnected WorkerEventType = "worker_disconnected"
)

// Values of HTTPMiddlewareAction.
const (
	// HTTPMiddlewareActionContinue continues with the next middleware function or, after the
	// last one, with the target.
	HTTPMiddlewareActionContinue HTTPMiddlewareAction = "continue"
	// HTTPMiddlewareActionRespond sends the middleware function's response without calling the
	// target.
	HTTPMiddlewareActionRespond HTTPMiddlewareAction = "respond"
)

// Values of Capture.
const (
	// CaptureInput captures the call's payload.
	CaptureInput Capture = "input"
	// CaptureOutput captures the result of a successful call.
	CaptureOutput Capture = "output"
	// CaptureError captures the error of a failed call.
	CaptureError Capture = "error"
	// CaptureCaller captures the worker that made the call and, if known, the function that it
	// was running.
	CaptureCaller Capture = "caller"
	// CaptureMetadata captures the call's metadata.
	CaptureMetadata Capture = "metadata"
)

// Values of ObserveOn.
const (
	// ObserveOnSuccess selects calls that return a result. It is the default.
	ObserveOnSuccess ObserveOn = "success"
	// ObserveOnError selects calls that fail.
	ObserveOnError ObserveOn = "error"
	// ObserveOnComplete selects every completed call, successful or not.
	ObserveOnComplete ObserveOn = "complete"
)

// Values of ObserveDeliver.
const (
	// ObserveDeliverEnvelope delivers an Observed with the captured parts of the call. It is
	// the default.
	ObserveDeliverEnvelope ObserveDeliver = "envelope"
	// ObserveDeliverInput delivers only the observed call's payload, even if it is not
	// captured.
	ObserveDeliverInput ObserveDeliver = "input"
	// ObserveDeliverOutput delivers only the observed call's result, even if it is not
	// captured.
	ObserveDeliverOutput ObserveDeliver = "output"
)

// Values of ObserverState.
const (
	// ObserverStatePending means that the observer is waiting for its source or its target to
	// be registered, or for the worker that hosts the source to accept it.
	ObserverStatePending ObserverState = "pending"
	// ObserverStateActive means that the engine calls the target for matching calls.
	ObserverStateActive ObserverState = "active"
	// ObserverStateSuspended means that the observer was active, but its target is no longer
	// registered or the worker that registered the observer has disconnected.
	ObserverStateSuspended ObserverState = "suspended"
	// ObserverStateError means that the engine, or the worker that hosts the source, has
	// rejected the observer.
	ObserverStateError ObserverState = "error"
	// ObserverStateDisposed means that the observer no longer exists. This state is final.
	ObserverStateDisposed ObserverState = "disposed"
)

// Values of ObserveDelivery.
const (
	// ObserveDeliveryAuto matches every call against the observers. It is the default.
	ObserveDeliveryAuto ObserveDelivery = "auto"
	// ObserveDeliveryOwner means that calls do not activate observers automatically. Instead,
	// the worker that hosts the source passes events to individual observers.
	ObserveDeliveryOwner ObserveDelivery = "owner"
)
