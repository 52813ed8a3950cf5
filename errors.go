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
)

type timeoutError struct{}

func (timeoutError) Error() string        { return "iii: call timed out" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Codes of the error bodies that this package writes, and of the engine's that
// it acts on.
const (
	codeInvocationFailed   = "invocation_failed"
	codeInvalidRequest     = "invalid_request"
	codeFunctionNotFound   = "function_not_found"
	codeNotInvokable       = "function_not_invokable"
	codeOverloaded         = "overloaded"
	codeDraining           = "worker_draining"
	codeResultTooLarge     = "result_too_large"
	codeTypeNotFound       = "trigger_type_not_found"
	codeTriggerFailed      = "trigger_registration_failed"
	codeForbidden          = "FORBIDDEN"
	codeAuthError          = "AUTH_ERROR"
	codeUnsupported        = "UNSUPPORTED"
	codeEnqueueError       = "enqueue_error"
	codeFunctionConflict   = "FUNCTION_NAMESPACE_CONFLICT"
	codeWorkerConflict     = "WORKER_NAMESPACE_CONFLICT"
	codeInvocationStopped  = "invocation_stopped"
	messageTooLarge        = 64 << 20 // bytes; the engine's limit for one message
	registerWorkerFunction = "engine::workers::register"
)

// Error is what the other side said: the error body of an invocation result, or
// of a refused trigger. A handler that returns one (wrapped or not) chooses the
// code that its caller sees; any other error is sent with code
// invocation_failed. The zero value is an error without a code, sent as
// invocation_failed.
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

// Is reports whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case codeFunctionNotFound:
		return target == ErrFunctionNotFound
	case codeForbidden:
		return target == ErrForbidden
	case codeEnqueueError:
		return target == ErrEnqueue
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

// SafeToRetry reports whether the request that failed with err cannot have
// reached the engine, so that repeating it cannot make it happen twice. It is
// false for nil and for every error that does not say.
func SafeToRetry(err error) bool {
	var c *callError
	return errors.As(err, &c) && !c.sent
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
