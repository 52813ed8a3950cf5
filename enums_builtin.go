package iii

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
