package iii

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// The states a call, a registration or the client can end in. All of them are
// reached with errors.Is.
var (
	// ErrClosed means that the client has ended: after Close, after Shutdown, or
	// because of the fatal error that [Client.Err] tells.
	ErrClosed = errors.New("iii: client is closed")

	// ErrNotConnected means that a request waited for a connection and was never
	// sent: its context ended first, or the client did.
	ErrNotConnected = errors.New("iii: not connected")

	// ErrConnectionLost means that a request was sent, or may have been, on a
	// connection that has died: it may have run, and its answer will not come.
	ErrConnectionLost = errors.New("iii: connection lost")

	// ErrBufferFull means that no connection is there and that what waits for one
	// has reached the limits of [WithSendBuffer].
	ErrBufferFull = errors.New("iii: send buffer is full")

	// ErrMessageTooLarge means that a message has 64 MiB or more, at which the
	// engine would drop the connection; it was not sent.
	ErrMessageTooLarge = errors.New("iii: message is too large")

	// ErrTimeout means that the answer did not come within the timeout of the call
	// ([WithTimeout], [WithCallTimeout]). It is context.DeadlineExceeded as well.
	// The engine knows no cancellation: the function may still be running.
	ErrTimeout error = timeoutError{}

	// ErrFunctionNotFound is what an [*Error] with code function_not_found is.
	ErrFunctionNotFound = errors.New("iii: function not found")

	// ErrForbidden is what an [*Error] with code FORBIDDEN is: this worker may not
	// do this.
	ErrForbidden = errors.New("iii: forbidden")

	// ErrEnqueue is what an [*Error] with code enqueue_error is: no queue provider
	// is connected, or it refused the message.
	ErrEnqueue = errors.New("iii: enqueue failed")

	// ErrDraining is what an [*Error] with code worker_draining is: the worker is in a
	// graceful shutdown, and the function has not begun. See [SafeToRetry].
	ErrDraining = errors.New("iii: worker is draining")

	// ErrOverloaded is what an [*Error] with code overloaded is: the worker has too many
	// invocations waiting, and the function has not begun. See [SafeToRetry].
	ErrOverloaded = errors.New("iii: worker is overloaded")

	// ErrStopped is what an [*Error] with code invocation_stopped is: the connection of the
	// worker ended while the function ran, or before it began.
	ErrStopped = errors.New("iii: invocation stopped")
)

type timeoutError struct{}

func (timeoutError) Error() string        { return "iii: call timed out" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Codes of the errors that this package answers with, or acts on. An [*Error] from the other
// side has one of these, one of the engine's below, or one that the function has chosen;
// errors.Is(err, &Error{Code: c}) compares it. The texts are the wire's.
const (
	// CodeInvocationFailed: a handler failed with an error that chooses no code, or panicked.
	CodeInvocationFailed = "invocation_failed"
	// CodeInvalidRequest: the payload does not decode, or is refused by [WithInputValidation].
	CodeInvalidRequest = "invalid_request"
	// CodeFunctionNotFound: no worker serves the function. See [ErrFunctionNotFound].
	CodeFunctionNotFound = "function_not_found"
	// CodeFunctionNotInvokable: the engine runs the function over HTTP; the worker has no
	// handler for it.
	CodeFunctionNotInvokable = "function_not_invokable"
	// CodeOverloaded: the worker runs as many handlers as it may, and its queue is full. See
	// [ErrOverloaded].
	CodeOverloaded = "overloaded"
	// CodeWorkerDraining: the worker is in a graceful shutdown. See [ErrDraining].
	CodeWorkerDraining = "worker_draining"
	// CodeHandlerTimeout: the handler has not returned within [WithHandlerTimeout].
	CodeHandlerTimeout = "handler_timeout"
	// CodeResultTooLarge: the handler has returned more than fits in a message.
	CodeResultTooLarge = "result_too_large"
	// CodePayloadTooLarge is CodeResultTooLarge on an engine with [FeatureObserveV2].
	CodePayloadTooLarge = "payload_too_large"
	// CodeTimeout: a call that a Deliver hook made did not return in time.
	CodeTimeout = "TIMEOUT"
	// CodeObserveRejected: an Added hook refused an observer without a code.
	CodeObserveRejected = "OBSERVE_REJECTED"
	// CodeOwnerTimeout: the Added hooks for an observer took longer than 30 s.
	CodeOwnerTimeout = "OWNER_TIMEOUT"
	// CodeObserverNotActive: a call through an observer that is not active.
	CodeObserverNotActive = "OBSERVER_NOT_ACTIVE"
	// CodeInvalidArgs: the arguments of an observer do not have the form that the function asks
	// for.
	CodeInvalidArgs = "INVALID_ARGS"
	// CodeInvalidFilter: the filters of an observer do not parse.
	CodeInvalidFilter = "INVALID_FILTER"
	// CodeLimitExceeded: a function has too many observers.
	CodeLimitExceeded = "LIMIT_EXCEEDED"
	// CodeTriggerTypeNotFound: the worker does not provide the trigger type.
	CodeTriggerTypeNotFound = "trigger_type_not_found"
	// CodeTriggerRegistrationFailed: the engine, or the provider of its type, refused a trigger.
	CodeTriggerRegistrationFailed = "trigger_registration_failed"
)

// Codes of the engine's errors.
const (
	// CodeInvocationStopped: the worker's connection ended while the function ran. See
	// [ErrStopped].
	CodeInvocationStopped = "invocation_stopped"
	// CodeInvocationError: the engine lost the result.
	CodeInvocationError = "invocation_error"
	// CodeChannelSendFailed: the worker's connection ended before the engine could send it
	// the invocation.
	CodeChannelSendFailed = "channel_send_failed"
	// CodeDeserializationError: a built-in function cannot read its input.
	CodeDeserializationError = "deserialization_error"
	// CodeSerializationError: the result of a built-in function does not encode.
	CodeSerializationError = "serialization_error"
	// CodeEnqueueError: a queue refused a message, or there is none. See [ErrEnqueue].
	CodeEnqueueError = "enqueue_error"
	// CodeForbidden: access control. See [ErrForbidden].
	CodeForbidden = "FORBIDDEN"
	// CodeAuthError: authentication failed; it arrives as an [*AuthError].
	CodeAuthError = "AUTH_ERROR"
	// CodeInvalidNamespace: the engine cannot use the namespace.
	CodeInvalidNamespace = "INVALID_NAMESPACE"
	// CodeInvalidArguments: a built-in function cannot use its input.
	CodeInvalidArguments = "INVALID_ARGUMENTS"
	// CodeNotFound: what a built-in function is asked for does not exist.
	CodeNotFound = "NOT_FOUND"
	// CodeUnsupported: the engine lacks what is asked of it; also errors.ErrUnsupported.
	CodeUnsupported = "UNSUPPORTED"
	// CodeUnregisterFailed: engine::unregister_trigger failed.
	CodeUnregisterFailed = "unregister_failed"
	// CodeFunctionConflict: of a [*RejectedError]: another live worker has the function.
	CodeFunctionConflict = "FUNCTION_NAMESPACE_CONFLICT"
	// CodeWorkerConflict: of a [*RejectedError]: another live worker has the name.
	CodeWorkerConflict = "WORKER_NAMESPACE_CONFLICT"

	// CodeObserverIDConflict: an observer or a trigger of this client, or an observer of another
	// connection, has the id already.
	CodeObserverIDConflict = "OBSERVER_ID_CONFLICT"
	// CodeHTTPRouteConflict: another worker has a route of the same path with other parameter
	// names. Of engines since 0.26.
	CodeHTTPRouteConflict = "HTTP_ROUTE_CONFLICT"

	// CodeConditionNotMet: the condition function of an HTTP trigger said no (in its 422).
	CodeConditionNotMet = "CONDITION_NOT_MET"
	// CodeMiddlewareTimeout: a middleware function of an HTTP trigger did not answer (in its 504).
	CodeMiddlewareTimeout = "MIDDLEWARE_TIMEOUT"
	// CodeInternalError: the engine failed an HTTP request itself (in its 500).
	CodeInternalError = "INTERNAL_ERROR"

	// CodeHTTPError: the server of a function that is called over HTTP answered with an error
	// that has no code.
	CodeHTTPError = "http_error"
	// CodeHTTPRequestFailed: its server was not reached, or not in time.
	CodeHTTPRequestFailed = "http_request_failed"
	// CodeHTTPResponseFailed: the body of its response could not be read.
	CodeHTTPResponseFailed = "http_response_failed"
	// CodeInvalidResponse: the body of its response is no JSON.
	CodeInvalidResponse = "invalid_response"
	// CodeURLValidationFailed: the engine's policy does not allow its address.
	CodeURLValidationFailed = "url_validation_failed"
	// CodeBridgeError: a call through bridge.invoke failed.
	CodeBridgeError = "bridge_error"

	// CodeValueTooLarge: of state::set.
	CodeValueTooLarge = "VALUE_TOO_LARGE"
	// CodeStateSetError: of state::set.
	CodeStateSetError = "SET_ERROR"
	// CodeStateGetError: of state::get and state::delete.
	CodeStateGetError = "GET_ERROR"
	// CodeStateDeleteError: of state::delete.
	CodeStateDeleteError = "DELETE_ERROR"
	// CodeStateUpdateError: of state::update.
	CodeStateUpdateError = "UPDATE_ERROR"
	// CodeStateListError: of state::list.
	CodeStateListError = "LIST_ERROR"
	// CodeStateListGroupsError: of state::list_groups.
	CodeStateListGroupsError = "LIST_GROUPS_ERROR"

	// CodeStreamSetError: of stream::set.
	CodeStreamSetError = "STREAM_SET_ERROR"
	// CodeStreamGetError: of stream::get.
	CodeStreamGetError = "STREAM_GET_ERROR"
	// CodeStreamDeleteError: of stream::delete.
	CodeStreamDeleteError = "STREAM_DELETE_ERROR"
	// CodeStreamUpdateError: of stream::update.
	CodeStreamUpdateError = "STREAM_UPDATE_ERROR"
	// CodeStreamListError: of stream::list.
	CodeStreamListError = "STREAM_GET_GROUP_ERROR"
	// CodeStreamListGroupsError: of stream::list_groups.
	CodeStreamListGroupsError = "STREAM_LIST_GROUPS_ERROR"
	// CodeStreamListAllError: of stream::list_all.
	CodeStreamListAllError = "STREAM_LIST_ALL_ERROR"
	// CodeStreamSendError: of stream::send.
	CodeStreamSendError = "STREAM_SEND_ERROR"
	// CodeJSONError: a worker that stores a stream returned something else than its result.
	CodeJSONError = "JSON_ERROR"

	// CodeTopicNotSet: of publish and iii::durable::publish.
	CodeTopicNotSet = "topic_not_set"
	// CodeTopicRequired: of the listings of topics.
	CodeTopicRequired = "topic_required"
	// CodeQueueNotSet: of iii::queue::redrive and its kin.
	CodeQueueNotSet = "queue_not_set"
	// CodeMessageIDNotSet: of iii::queue::redrive_message and iii::queue::discard_message.
	CodeMessageIDNotSet = "message_id_not_set"
	// CodeRedriveFailed: of iii::queue::redrive.
	CodeRedriveFailed = "redrive_failed"
	// CodeRedriveMessageFailed: of iii::queue::redrive_message.
	CodeRedriveMessageFailed = "redrive_message_failed"
	// CodeDiscardMessageFailed: of iii::queue::discard_message.
	CodeDiscardMessageFailed = "discard_message_failed"
	// CodeListTopicsFailed: of engine::queue::list_topics.
	CodeListTopicsFailed = "list_topics_failed"
	// CodeTopicStatsFailed: of engine::queue::topic_stats.
	CodeTopicStatsFailed = "topic_stats_failed"
	// CodeDLQTopicsFailed: of engine::queue::dlq_topics.
	CodeDLQTopicsFailed = "dlq_topics_failed"
	// CodeDLQMessagesFailed: of engine::queue::dlq_messages.
	CodeDLQMessagesFailed = "dlq_messages_failed"

	// CodeInvalidID: of configuration::register.
	CodeInvalidID = "INVALID_ID"
	// CodeNotRegistered: of configuration::set.
	CodeNotRegistered = "NOT_REGISTERED"
	// CodeSchemaInvalid: of the configuration store: a schema, or a value by its schema.
	CodeSchemaInvalid = "SCHEMA_INVALID"
	// CodeSchemaUnavailable: of configuration::set.
	CodeSchemaUnavailable = "SCHEMA_UNAVAILABLE"
	// CodeExpandFailed: of configuration::get: a variable in the value cannot be expanded.
	CodeExpandFailed = "EXPAND_FAILED"
	// CodeAdapterError: of the configuration store: its storage failed.
	CodeAdapterError = "ADAPTER_ERROR"
)

const (
	messageTooLarge        = 64 << 20 // bytes; the engine's limit for one message
	registerWorkerFunction = "engine::workers::register"
)

// Error is what the other side said: the error body of an invocation result, or
// of a refused trigger. A handler that returns one (wrapped or not) chooses the
// code that its caller sees; any other error is sent with code
// invocation_failed. The codes with which this package answers in place of a handler,
// worker_draining, overloaded, handler_timeout and result_too_large, are sent as
// invocation_failed too, with a text that has them: they say that a handler has not run,
// or was cut off, which the caller would take for this one. The zero value is an error
// without a code, sent as invocation_failed.
//
// errors.Is compares an Error by its code alone, with another *Error or with the sentinel of
// the code, such as [ErrFunctionNotFound].
type Error struct {
	// Code names the kind of error. The engine's own codes are in the worker
	// protocol's section on errors; functions add theirs.
	Code string
	// Message is for people.
	Message string
	// Stacktrace is the remote stack, if the other side sent one.
	Stacktrace string
	// FunctionID is the function that was called; set on received errors.
	FunctionID string
	// InvocationID is the id of the call; set on received errors.
	InvocationID string
}

// Error implements error.
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

// Is reports whether target is an *Error with the same code, or the sentinel of e's code.
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

// RejectedError is the engine's refusal of a registration. With code
// FUNCTION_NAMESPACE_CONFLICT another live worker owns FunctionID: this worker does not
// serve the function until that one has gone ([Function.Err]). With
// WORKER_NAMESPACE_CONFLICT another one has the worker's name, which ends the client unless
// [WithWaitForName] is set. Any other code ends the client.
type RejectedError struct {
	// Code names the kind of refusal.
	Code string
	// Namespace is where the registration was refused.
	Namespace string
	// WorkerName is the name that another worker has; "" if it is not about a name.
	WorkerName string
	// FunctionID is the function that another worker owns; "" if it is not about one.
	FunctionID string
	// OwnerWorkerID is the id of that worker's connection, if the engine tells it.
	OwnerWorkerID string
}

// Error implements error.
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

// Is reports whether target is errors.ErrUnsupported and the engine cannot host the function.
func (e *RejectedError) Is(target error) bool {
	return e.Code == CodeUnsupported && target == errors.ErrUnsupported
}

// AuthError is the engine's refusal to let this worker in. It ends the client.
type AuthError struct {
	// Message is the engine's reason.
	Message string
}

// Error implements error.
func (e *AuthError) Error() string { return "iii: engine refused this worker: " + e.Message }

// LostSendsError tells the state listener that a connection ended while
// messages of [Client.Send] were unconfirmed: they were written to it, and
// nothing says whether the engine has read them. It is an [ErrConnectionLost].
type LostSendsError struct {
	// Count is the number of such messages.
	Count int
	// Err is why the connection ended.
	Err error
}

// Error implements error.
func (e *LostSendsError) Error() string {
	return fmt.Sprintf("iii: connection lost with %d sent messages unconfirmed: %v", e.Count, e.Err)
}

// Unwrap implements the interface of errors.Is and errors.As.
func (e *LostSendsError) Unwrap() []error { return []error{ErrConnectionLost, e.Err} }

// callError is every error of Call, Send and Enqueue that arose on this side.
type callError struct {
	verb, functionID string
	err              error
	sent             bool // whether the request may have reached the engine
}

func (e *callError) Error() string {
	text := e.err.Error()
	return "iii: " + e.verb + " " + e.functionID + ": " + strings.TrimPrefix(text, "iii: ")
}

func (e *callError) Unwrap() error { return e.err }

// SafeToRetry reports whether repeating the request that failed with err cannot make it
// happen twice: it cannot have reached the engine, or the worker has answered
// [ErrDraining] or [ErrOverloaded] in place of the function, which has not begun. It is false
// for nil, for every error that does not say, and for joined errors of which one may be that
// of a function that has run.
func SafeToRetry(err error) bool {
	safe, unsafe := retrySafety(err)
	return safe && !unsafe
}

// retrySafety looks for what the errors in the tree of err say about it.
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

// ctxError is the reason why ctx ended: its cause too, if that says more.
func ctxError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// public gives err the prefix of this package's errors, at the front and nowhere else.
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
	return "iii: " + strings.ReplaceAll(strings.TrimPrefix(e.error.Error(), "iii: "), ": iii: ", ": ")
}

// trimmedError is an error inside one that has our prefix already.
type trimmedError struct{ error }

func trimmed(err error) error        { return trimmedError{err} }
func (e trimmedError) Unwrap() error { return e.error }
func (e trimmedError) Error() string { return strings.TrimPrefix(e.error.Error(), "iii: ") }
