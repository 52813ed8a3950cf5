package iii

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Sentinel errors. Test for them with errors.Is.
var (
	// ErrClosed means that the client was closed, either by Close or Shutdown or because of
	// the fatal error that [Client.Err] returns.
	ErrClosed = errors.New("iii: client is closed")

	// ErrNotConnected means that a request was never sent: its context was done, its timeout
	// expired, or the client was closed before the request could be sent on a connection.
	ErrNotConnected = errors.New("iii: not connected")

	// ErrConnectionLost means that the connection was lost after the request may have been
	// sent. The function may have run, but its result will not arrive.
	ErrConnectionLost = errors.New("iii: connection lost")

	// ErrBufferFull means that the client is disconnected and its send buffer has reached a
	// limit set by [WithSendBuffer].
	ErrBufferFull = errors.New("iii: send buffer is full")

	// ErrMessageTooLarge means that a message was not sent because it is 64 MiB or larger. The
	// engine would drop the connection if it received such a message.
	ErrMessageTooLarge = errors.New("iii: message is too large")

	// ErrTimeout means that the result did not arrive within the call's timeout
	// ([WithTimeout], [WithCallTimeout]). It also matches context.DeadlineExceeded. The engine
	// does not support cancellation, so the function may still be running.
	ErrTimeout error = timeoutError{}

	// ErrFunctionNotFound matches an [*Error] with code function_not_found.
	ErrFunctionNotFound = errors.New("iii: function not found")

	// ErrForbidden matches an [*Error] with code FORBIDDEN: this worker lacks permission.
	ErrForbidden = errors.New("iii: forbidden")

	// ErrEnqueue matches an [*Error] with code enqueue_error: no queue provider is connected,
	// or the provider rejected the message.
	ErrEnqueue = errors.New("iii: enqueue failed")

	// ErrDraining matches an [*Error] with code worker_draining: the worker is shutting down,
	// and the function has not started. See [SafeToRetry].
	ErrDraining = errors.New("iii: worker is draining")

	// ErrOverloaded matches an [*Error] with code overloaded: too many invocations are queued
	// in the worker, and the function has not started. See [SafeToRetry].
	ErrOverloaded = errors.New("iii: worker is overloaded")

	// ErrStopped matches an [*Error] with code invocation_stopped: the worker disconnected
	// before the function returned. The function may or may not have started.
	ErrStopped = errors.New("iii: invocation stopped")
)

type timeoutError struct{}

func (timeoutError) Error() string        { return "iii: call timed out" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Error codes that this package sends or handles. The code of a received [*Error] is one of
// these codes, one of the engine's codes below, or a code chosen by the function. To test for
// a code c, use errors.Is(err, &Error{Code: c}). The values are part of the wire protocol.
const (
	// CodeInvocationFailed: a handler panicked, or returned an error without a code.
	CodeInvocationFailed = "invocation_failed"
	// CodeInvalidRequest: the payload cannot be decoded, or [WithInputValidation] rejects it.
	CodeInvalidRequest = "invalid_request"
	// CodeFunctionNotFound: no worker serves the function. See [ErrFunctionNotFound].
	CodeFunctionNotFound = "function_not_found"
	// CodeFunctionNotInvokable: the worker has no handler for the function, because the engine
	// runs it over HTTP.
	CodeFunctionNotInvokable = "function_not_invokable"
	// CodeOverloaded: the worker is running the maximum number of handlers, and its queue is
	// full. See [ErrOverloaded].
	CodeOverloaded = "overloaded"
	// CodeWorkerDraining: the worker is shutting down. See [ErrDraining].
	CodeWorkerDraining = "worker_draining"
	// CodeHandlerTimeout: the handler did not return within [WithHandlerTimeout].
	CodeHandlerTimeout = "handler_timeout"
	// CodeResultTooLarge: the handler's result is too large for a message.
	CodeResultTooLarge = "result_too_large"
	// CodePayloadTooLarge replaces CodeResultTooLarge on engines with [FeatureObserveV2].
	CodePayloadTooLarge = "payload_too_large"
	// CodeTimeout: a call made by a Deliver hook timed out.
	CodeTimeout = "TIMEOUT"
	// CodeObserveRejected: an Added hook rejected an observer without specifying a code.
	CodeObserveRejected = "OBSERVE_REJECTED"
	// CodeOwnerTimeout: the Added hooks for an observer took longer than 30 s.
	CodeOwnerTimeout = "OWNER_TIMEOUT"
	// CodeObserverNotActive: a call was made through an observer that is not active.
	CodeObserverNotActive = "OBSERVER_NOT_ACTIVE"
	// CodeInvalidArgs: an observer's arguments do not conform to the function's schema
	// ([WithArgsSchema]).
	CodeInvalidArgs = "INVALID_ARGS"
	// CodeInvalidFilter: an observer's filters cannot be parsed.
	CodeInvalidFilter = "INVALID_FILTER"
	// CodeObserverError: an observer is in the error state, and the engine did not give a
	// reason.
	CodeObserverError = "OBSERVER_ERROR"
	// CodeUnknown: the body of a received error cannot be decoded.
	CodeUnknown = "UNKNOWN"
	// CodeLimitExceeded: a function has too many observers.
	CodeLimitExceeded = "LIMIT_EXCEEDED"
	// CodeTriggerTypeNotFound: the worker does not provide the trigger type.
	CodeTriggerTypeNotFound = "trigger_type_not_found"
	// CodeTriggerRegistrationFailed: the engine, or the provider of the trigger type, rejected
	// a trigger.
	CodeTriggerRegistrationFailed = "trigger_registration_failed"
)

// Error codes of the engine.
const (
	// CodeInvocationStopped: the worker disconnected before the function returned. See
	// [ErrStopped].
	CodeInvocationStopped = "invocation_stopped"
	// CodeInvocationError: the engine lost the result.
	CodeInvocationError = "invocation_error"
	// CodeChannelSendFailed: the worker disconnected before the engine could send it the
	// invocation.
	CodeChannelSendFailed = "channel_send_failed"
	// CodeDeserializationError: a built-in function cannot decode its input.
	CodeDeserializationError = "deserialization_error"
	// CodeSerializationError: the result of a built-in function cannot be encoded.
	CodeSerializationError = "serialization_error"
	// CodeEnqueueError: a queue rejected a message, or there is no queue. See [ErrEnqueue].
	CodeEnqueueError = "enqueue_error"
	// CodeEnqueueFailed: engine::queue::enqueue rejected a message. [Client.Enqueue], which
	// uses this function indirectly, fails with CodeEnqueueError instead.
	CodeEnqueueFailed = "enqueue_failed"
	// CodeTimeValueOverflow: a time in a metrics query is out of range.
	CodeTimeValueOverflow = "time_value_overflow"
	// CodeMemoryExporterNotEnabled: the engine stores no spans, so traces cannot be listed.
	CodeMemoryExporterNotEnabled = "memory_exporter_not_enabled"
	// CodeObservabilityTaskFailed: the engine failed to read its stored spans.
	CodeObservabilityTaskFailed = "observability_blocking_task_failed"
	// CodeTraceStorageClearFailed: engine::traces::clear could not clear the stored spans.
	CodeTraceStorageClearFailed = "trace_storage_clear_failed"
	// CodeForbidden: access control denied the request. See [ErrForbidden].
	CodeForbidden = "FORBIDDEN"
	// CodeAuthError: authentication failed. The client reports it as an [*AuthError].
	CodeAuthError = "AUTH_ERROR"
	// CodeInvalidNamespace: the namespace is not valid.
	CodeInvalidNamespace = "INVALID_NAMESPACE"
	// CodeInvalidArguments: the input of a built-in function is not valid.
	CodeInvalidArguments = "INVALID_ARGUMENTS"
	// CodeNotFound: the item requested from a built-in function does not exist.
	CodeNotFound = "NOT_FOUND"
	// CodeUnsupported: the engine does not support the request. An [*Error] with this code
	// matches errors.ErrUnsupported.
	CodeUnsupported = "UNSUPPORTED"
	// CodeUnregisterFailed: engine::unregister_trigger failed.
	CodeUnregisterFailed = "unregister_failed"
	// CodeFunctionConflict: another live worker owns the function. Reported as a
	// [*RejectedError].
	CodeFunctionConflict = "FUNCTION_NAMESPACE_CONFLICT"
	// CodeWorkerConflict: another live worker has the same name. Reported as a
	// [*RejectedError].
	CodeWorkerConflict = "WORKER_NAMESPACE_CONFLICT"

	// CodeObserverIDConflict: the id is already used by an observer or a trigger of this
	// client, or by an observer of another connection.
	CodeObserverIDConflict = "OBSERVER_ID_CONFLICT"
	// CodeObserverNotFound: the observer does not exist. Returned by engine::observers::get
	// and by calls made through an observer.
	CodeObserverNotFound = "OBSERVER_NOT_FOUND"
	// CodeNotFunctionOwner: a call was made through an observer whose source is another
	// worker's function.
	CodeNotFunctionOwner = "NOT_FUNCTION_OWNER"
	// CodeOverflow: a call was made through an observer that had already reached its
	// [WithMaxInFlight] limit.
	CodeOverflow = "OVERFLOW"
	// CodeLoopGuard: a call through an observer was rejected because the chain of activations
	// that led to it is too long.
	CodeLoopGuard = "LOOP_GUARD"
	// CodeNotObservable: the function does not allow observers ([WithoutObservers]).
	CodeNotObservable = "NOT_OBSERVABLE"
	// CodeSelfTarget: an observer's source and target are the same function.
	CodeSelfTarget = "SELF_TARGET"
	// CodeInvalidFilterPath: an observer's filters contain a path that does not exist in the
	// function's schema.
	CodeInvalidFilterPath = "INVALID_FILTER_PATH"
	// CodeInvalidArgsFormat: the engine rejected a function because its schema for observer
	// arguments is not valid.
	CodeInvalidArgsFormat = "INVALID_ARGS_FORMAT"
	// CodeInvalidCronExpression: a cron trigger's expression cannot be parsed. Sent only by
	// engines that support observers.
	CodeInvalidCronExpression = "INVALID_CRON_EXPRESSION"
	// CodeOwnerUnavailable: an observer is pending because its source is not registered.
	CodeOwnerUnavailable = "OWNER_UNAVAILABLE"
	// CodeTargetUnavailable: an observer is pending or suspended because its target is not
	// registered.
	CodeTargetUnavailable = "TARGET_UNAVAILABLE"
	// CodeObserverDisconnected: an observer is suspended because its worker has disconnected,
	// or was disposed because the worker did not reconnect.
	CodeObserverDisconnected = "OBSERVER_DISCONNECTED"
	// CodeObserverExpired: an observer was disposed because its [WithExpiry] duration had
	// elapsed.
	CodeObserverExpired = "EXPIRED"
	// CodeMaxFires: an observer was disposed because it had reached its [WithMaxFires] limit.
	CodeMaxFires = "MAX_FIRES"
	// CodeUnobserved: an observer was disposed at its worker's request.
	CodeUnobserved = "UNOBSERVED"
	// CodeHTTPRouteConflict: another worker has a route with the same path but different
	// parameter names. Sent by engine 0.26 and later.
	CodeHTTPRouteConflict = "HTTP_ROUTE_CONFLICT"

	// CodeConditionNotMet: an HTTP trigger's condition function returned false. Used in a 422
	// response.
	CodeConditionNotMet = "CONDITION_NOT_MET"
	// CodeMiddlewareTimeout: an HTTP trigger's middleware function did not return in time.
	// Used in a 504 response.
	CodeMiddlewareTimeout = "MIDDLEWARE_TIMEOUT"
	// CodeInternalError: the engine failed to process an HTTP request. Used in a 500 response.
	CodeInternalError = "INTERNAL_ERROR"

	// CodeHTTPError: an HTTP-invoked function's server responded with an error that does not
	// contain a code.
	CodeHTTPError = "http_error"
	// CodeHTTPRequestFailed: an HTTP-invoked function's server could not be reached, or did
	// not respond in time.
	CodeHTTPRequestFailed = "http_request_failed"
	// CodeHTTPResponseFailed: an HTTP-invoked function's response body could not be read.
	CodeHTTPResponseFailed = "http_response_failed"
	// CodeInvalidResponse: an HTTP-invoked function's response body is not valid JSON.
	CodeInvalidResponse = "invalid_response"
	// CodeURLValidationFailed: the engine's policy does not allow an HTTP-invoked function's
	// URL.
	CodeURLValidationFailed = "url_validation_failed"
	// CodeBridgeError: a call through bridge.invoke failed.
	CodeBridgeError = "bridge_error"

	// CodeValueTooLarge: state::set rejected a value that is too large.
	CodeValueTooLarge = "VALUE_TOO_LARGE"
	// CodeStateSetError: state::set failed.
	CodeStateSetError = "SET_ERROR"
	// CodeStateGetError: state::get failed, or state::delete failed to read the value.
	CodeStateGetError = "GET_ERROR"
	// CodeStateDeleteError: state::delete failed.
	CodeStateDeleteError = "DELETE_ERROR"
	// CodeStateUpdateError: state::update failed.
	CodeStateUpdateError = "UPDATE_ERROR"
	// CodeStateListError: state::list failed.
	CodeStateListError = "LIST_ERROR"
	// CodeStateListGroupsError: state::list_groups failed.
	CodeStateListGroupsError = "LIST_GROUPS_ERROR"

	// CodeStreamSetError: stream::set failed.
	CodeStreamSetError = "STREAM_SET_ERROR"
	// CodeStreamGetError: stream::get failed.
	CodeStreamGetError = "STREAM_GET_ERROR"
	// CodeStreamDeleteError: stream::delete failed.
	CodeStreamDeleteError = "STREAM_DELETE_ERROR"
	// CodeStreamUpdateError: stream::update failed.
	CodeStreamUpdateError = "STREAM_UPDATE_ERROR"
	// CodeStreamListError: stream::list failed.
	CodeStreamListError = "STREAM_GET_GROUP_ERROR"
	// CodeStreamListGroupsError: stream::list_groups failed.
	CodeStreamListGroupsError = "STREAM_LIST_GROUPS_ERROR"
	// CodeStreamListAllError: stream::list_all failed.
	CodeStreamListAllError = "STREAM_LIST_ALL_ERROR"
	// CodeStreamSendError: stream::send failed.
	CodeStreamSendError = "STREAM_SEND_ERROR"
	// CodeJSONError: the worker that stores a stream returned a malformed value.
	CodeJSONError = "JSON_ERROR"

	// CodeTopicNotSet: publish or iii::durable::publish was called with an empty topic.
	CodeTopicNotSet = "topic_not_set"
	// CodeTopicRequired: engine::queue::topic_stats or engine::queue::dlq_messages was called
	// without a topic.
	CodeTopicRequired = "topic_required"
	// CodeQueueNotSet: a function that redrives or discards messages was called without a
	// queue.
	CodeQueueNotSet = "queue_not_set"
	// CodeMessageIDNotSet: iii::queue::redrive_message or iii::queue::discard_message was
	// called without a message id.
	CodeMessageIDNotSet = "message_id_not_set"
	// CodeRedriveFailed: iii::queue::redrive failed.
	CodeRedriveFailed = "redrive_failed"
	// CodeRedriveMessageFailed: iii::queue::redrive_message failed.
	CodeRedriveMessageFailed = "redrive_message_failed"
	// CodeDiscardMessageFailed: iii::queue::discard_message failed.
	CodeDiscardMessageFailed = "discard_message_failed"
	// CodeListTopicsFailed: engine::queue::list_topics failed.
	CodeListTopicsFailed = "list_topics_failed"
	// CodeTopicStatsFailed: engine::queue::topic_stats failed.
	CodeTopicStatsFailed = "topic_stats_failed"
	// CodeDLQTopicsFailed: engine::queue::dlq_topics failed.
	CodeDLQTopicsFailed = "dlq_topics_failed"
	// CodeDLQMessagesFailed: engine::queue::dlq_messages failed.
	CodeDLQMessagesFailed = "dlq_messages_failed"

	// CodeInvalidID: configuration::register rejected the id.
	CodeInvalidID = "INVALID_ID"
	// CodeNotRegistered: configuration::set was called for an entry that is not registered.
	CodeNotRegistered = "NOT_REGISTERED"
	// CodeSchemaInvalid: the configuration store rejected an invalid schema, or a value that
	// does not match its schema.
	CodeSchemaInvalid = "SCHEMA_INVALID"
	// CodeSchemaUnavailable: configuration::set failed because a schema is unavailable.
	CodeSchemaUnavailable = "SCHEMA_UNAVAILABLE"
	// CodeExpandFailed: configuration::get cannot expand a variable in the value.
	CodeExpandFailed = "EXPAND_FAILED"
	// CodeAdapterError: the configuration store's storage backend failed.
	CodeAdapterError = "ADAPTER_ERROR"
)

const (
	messageTooLarge        = 64 << 20 // bytes; the engine's limit for one message
	registerWorkerFunction = "engine::workers::register"
)

// Error is an error sent by the engine or another worker, either as the result of an
// invocation or to reject a trigger. A handler can return an *Error, possibly wrapped, to
// choose the code that its caller receives. Any other error is sent with the code
// invocation_failed. The zero value is an error without a code, which is also sent as
// invocation_failed.
//
// The codes worker_draining, overloaded, handler_timeout, result_too_large and
// payload_too_large are reserved for this package, because they tell the caller that the
// handler did not run or did not complete. If a handler returns one of them, the error is sent
// as invocation_failed, and its message contains the original code.
//
// errors.Is compares two Errors only by their codes. An Error also matches the sentinel for
// its code, such as [ErrFunctionNotFound].
type Error struct {
	// Code identifies the kind of error. The Code constants list the codes that this package
	// and the engine send. Functions can define others.
	Code string
	// Message is a human-readable description of the error.
	Message string
	// Stacktrace is the remote stack trace, or "" if none was sent.
	Stacktrace string
	// FunctionID is the id of the function that was called. It is set on received errors.
	FunctionID string
	// InvocationID is the id of the call. It is set on received errors.
	InvocationID string
}

// Error implements the error interface.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("iii: ")
	if e.FunctionID != "" {
		b.WriteString(e.FunctionID)
		b.WriteString(": ")
	}
	if e.Code != "" {
		b.WriteString(e.Code)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Is reports whether target is an *Error with the same code, or the sentinel for that code.
func (e *Error) Is(target error) bool {
	if other, ok := target.(*Error); ok {
		return e != nil && other != nil && e.Code == other.Code
	}
	if e == nil {
		return false
	}
	switch e.Code {
	case CodeFunctionNotFound:
		return target == ErrFunctionNotFound
	case CodeForbidden:
		return target == ErrForbidden
	case CodeEnqueueError:
		return target == ErrEnqueue
	case CodeWorkerDraining:
		return target == ErrDraining
	case CodeOverloaded:
		return target == ErrOverloaded
	case CodeInvocationStopped:
		return target == ErrStopped
	case CodeUnsupported:
		return target == errors.ErrUnsupported
	}
	return false
}

// RejectedError means that the engine rejected a registration. The effect depends on the code:
//
//   - FUNCTION_NAMESPACE_CONFLICT: another live worker owns FunctionID. This worker does not
//     serve the function until the other worker unregisters it or disconnects; see
//     [Function.Err].
//   - WORKER_NAMESPACE_CONFLICT: another live worker has the same name. The client is closed,
//     unless [WithWaitForName] is set.
//   - Any other code: this worker does not serve FunctionID. If FunctionID is empty, or if the
//     engine is older than 0.25, the client is closed.
type RejectedError struct {
	// Code identifies the kind of rejection.
	Code string
	// Namespace is the rejected registration's namespace.
	Namespace string
	// WorkerName is the name that another worker already uses, or "" if the rejection is not
	// about a worker name.
	WorkerName string
	// FunctionID is the id of the rejected function, or "" if the rejection is not about a
	// function.
	FunctionID string
	// OwnerWorkerID is the id of the other worker's connection, if the engine reports it.
	OwnerWorkerID string
}

// Error implements the error interface.
func (e *RejectedError) Error() string {
	what := "registration"
	switch {
	case e.FunctionID != "":
		what = fmt.Sprintf("function %q", e.FunctionID)
	case e.WorkerName != "":
		what = fmt.Sprintf("worker name %q", e.WorkerName)
	}
	s := fmt.Sprintf("iii: engine rejected %s in namespace %q: %s", what, e.Namespace, e.Code)
	if e.OwnerWorkerID != "" {
		s += ", owned by worker " + e.OwnerWorkerID
	}
	return s
}

// Is reports whether target is errors.ErrUnsupported and e has the code UNSUPPORTED.
func (e *RejectedError) Is(target error) bool {
	return e.Code == CodeUnsupported && target == errors.ErrUnsupported
}

// AuthError means that this worker's authentication failed. The client is closed and does not
// reconnect.
type AuthError struct {
	// Message is the reason given by the engine.
	Message string
}

// Error implements the error interface.
func (e *AuthError) Error() string { return "iii: engine rejected this worker: " + e.Message }

// LostSendsError means that a connection was lost while messages from [Client.Send] were
// unconfirmed. They had been written to the connection, but the engine may or may not have
// received them. The state listener receives the LostSendsError, which matches
// [ErrConnectionLost].
type LostSendsError struct {
	// Count is the number of unconfirmed messages.
	Count int
	// Err is the error that ended the connection.
	Err error
}

// Error implements the error interface.
func (e *LostSendsError) Error() string {
	return public(fmt.Errorf("connection lost with %d sent messages unconfirmed: %w", e.Count, e.Err)).Error()
}

// Unwrap returns [ErrConnectionLost] and Err.
func (e *LostSendsError) Unwrap() []error { return []error{ErrConnectionLost, e.Err} }

// callError is an error that Call, Send or Enqueue creates locally, as opposed to one received
// from the engine.
type callError struct {
	verb, functionID string
	err              error
	sent             bool // the request may have reached the engine
}

func (e *callError) Error() string {
	return "iii: " + e.verb + " " + e.functionID + ": " + unprefixed(e.err)
}

func (e *callError) Unwrap() error { return e.err }

// SafeToRetry reports whether retrying the request that failed with err is guaranteed not to
// run the function twice. This is the case if the request cannot have reached the engine, or
// if the worker returned [ErrDraining] or [ErrOverloaded] before starting the function.
// SafeToRetry returns false for nil, for errors with an unknown outcome, and for joined errors
// if any of them may come from a function that has run.
func SafeToRetry(err error) bool {
	safe, unsafe := retrySafety(err)
	return safe && !unsafe
}

// retrySafety reports whether err's tree contains errors that are safe to retry, and whether
// it contains errors that are not.
func retrySafety(err error) (safe, unsafe bool) {
	switch e := err.(type) {
	case nil:
		return false, false
	case *callError:
		return !e.sent, e.sent
	case *Error:
		if e == nil {
			return false, false
		}
		safe = e.Code == CodeWorkerDraining || e.Code == CodeOverloaded
		return safe, !safe
	case interface{ Unwrap() error }:
		return retrySafety(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			s, u := retrySafety(inner)
			safe, unsafe = safe || s, unsafe || u
		}
	}
	return safe, unsafe
}

// ctxError returns ctx.Err(), together with the context's cause if the cause adds information.
func ctxError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// public moves this package's error prefix to the front of err and removes all other
// occurrences.
func public(err error) error {
	if err == nil {
		return nil
	}
	if text := err.Error(); strings.HasPrefix(text, "iii: ") && !strings.Contains(text, ": iii: ") {
		return err
	}
	return publicError{err}
}

type publicError struct{ error }

func (e publicError) Unwrap() error { return e.error }
func (e publicError) Error() string {
	return "iii: " + unprefixed(e.error)
}

// unprefixed returns the message of err without this package's error prefix.
func unprefixed(err error) string {
	return strings.ReplaceAll(strings.TrimPrefix(err.Error(), "iii: "), ": iii: ", ": ")
}
