package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// CallOption configures one call. An invalid option makes the call fail.
type CallOption func(*callConfig) error

type callConfig struct {
	timeout     time.Duration
	namespace   string
	metadata    any
	hasMetadata bool
	remote      bool
	retry       *RetryPolicy // nil means no retries
	ownRetry    bool         // retry was set by an option of this call
}

func (c *Client) callConfig(opts []CallOption) (*callConfig, error) {
	cfg := &callConfig{retry: c.cfg.callRetry}
	if err := applyOptions(cfg, opts, callOption); err != nil {
		return nil, err
	}
	return cfg, nil
}

// WithTimeout limits how long the call waits for its result. It overrides [WithCallTimeout].
func WithTimeout(d time.Duration) CallOption {
	return func(c *callConfig) error {
		if d <= 0 {
			return fmt.Errorf("iii: WithTimeout: %v is not positive", d)
		}
		c.timeout = d
		return nil
	}
}

// WithMetadata sends v along with the payload. The handler receives it in
// [Invocation].Metadata. The engine drops the metadata of enqueued calls.
func WithMetadata(v any) CallOption {
	return func(c *callConfig) error { c.metadata, c.hasMetadata = v, true; return nil }
}

// InNamespace calls the function in the given namespace instead of the worker's own. A blank
// namespace makes the call fail.
func InNamespace(ns string) CallOption {
	return func(c *callConfig) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: InNamespace: blank namespace")
		}
		c.namespace = ns
		return nil
	}
}

// Call runs a function and decodes its result into out, which must be a pointer. A nil out
// discards the result, and a *json.RawMessage receives it unchanged. If out cannot hold a
// result (for example, because it is a nil *int or a pointer to a channel), Call fails without
// sending anything.
//
// The payload is encoded with encoding/json; nil is sent as null. Call rejects payloads that
// the engine cannot parse and would silently drop: those with more than 126 levels of nesting,
// numbers beyond the range of float64, or unpaired surrogates.
//
// Errors include:
//
//   - an [*Error] if the function or the engine responded with an error
//   - [ErrTimeout] after the call's timeout
//   - [ErrConnectionLost], immediately, if the connection was lost after the request may have
//     been sent
//   - [ErrNotConnected] or [ErrBufferFull] if the request was not sent
//   - an error that satisfies errors.Is(err, ctx.Err()) if ctx is done
//
// [SafeToRetry] reports whether an error guarantees that the function did not run; [WithRetry]
// retries the call after such errors. While the client is disconnected, the call waits for a
// connection until its timeout expires. The engine does not guarantee any order between calls.
func (c *Client) Call(ctx context.Context, id string, in, out any, opts ...CallOption) error {
	return c.call(ctx, invocation{functionID: id}, in, out, opts)
}

func (c *Client) call(ctx context.Context, inv invocation, in, out any, opts []CallOption) error {
	if out != nil {
		if err := checkOut(out); err != nil {
			return &callError{verb: verbCall, functionID: inv.functionID, err: err}
		}
	}
	if len(opts) == 0 && c.cfg.callRetry == nil {
		return c.attempt(ctx, &inv, in, out, &noCallOptions)
	}
	return c.callRepeatedly(ctx, inv, in, out, opts)
}

// noCallOptions configures calls without options. It must not be modified.
var noCallOptions callConfig

// callRepeatedly makes a call that has options or a retry policy. It is separate from call so
// that other calls allocate no closure.
func (c *Client) callRepeatedly(ctx context.Context, inv invocation, in, out any, opts []CallOption) error {
	return c.repeat(ctx, verbCall, inv.functionID, opts, func(cfg *callConfig) error {
		return c.attempt(ctx, &inv, in, out, cfg)
	})
}

func (c *Client) attempt(ctx context.Context, inv *invocation, in, out any, cfg *callConfig) error {
	r, err := c.begin(ctx, verbCall, *inv, in, cfg)
	if err != nil {
		return err
	}
	return c.await(ctx, verbCall, r, inv.functionID, out)
}

// Call is like [Client.Call], but returns the decoded result.
func Call[Out any](ctx context.Context, c *Client, id string, in any, opts ...CallOption) (Out, error) {
	var out Out
	err := c.Call(ctx, id, in, &out, opts...)
	return out, err
}

// Send runs a function without waiting for its result. It returns once the message has been
// written or, while the client is disconnected, buffered. It does not report whether the
// function exists or succeeds. In the background, the client confirms that the engine has read
// the message. [ClientStats] counts the confirmations, and the state listener is notified of
// messages that were still unconfirmed when the connection was lost. Send returns the same
// errors as [Client.Call].
func (c *Client) Send(ctx context.Context, id string, in any, opts ...CallOption) error {
	return c.send(ctx, invocation{functionID: id, action: actionVoid}, in, opts)
}

func (c *Client) send(ctx context.Context, inv invocation, in any, opts []CallOption) error {
	return c.repeat(ctx, verbSend, inv.functionID, opts, func(cfg *callConfig) error {
		r, err := c.begin(ctx, verbSend, inv, in, cfg)
		if err != nil {
			return err
		}
		if sent, err := c.awaitAnswer(ctx, r); err != nil {
			return &callError{verb: verbSend, functionID: inv.functionID, err: err, sent: sent}
		}
		c.out.release(r)
		return nil
	})
}

// Enqueue adds a call to a queue. The queue runs the call later, at least once. The returned
// receipt confirms that the queue has stored the call. If no worker provides the queue, or if
// the provider rejects the call, the error matches [ErrEnqueue]. The function does not have to
// exist yet.
func (c *Client) Enqueue(ctx context.Context, queue, id string, in any, opts ...CallOption) (EnqueueResult, error) {
	var receipt EnqueueResult
	if strings.TrimSpace(queue) == "" {
		return receipt, &callError{verb: verbEnqueue, functionID: id, err: errors.New("blank queue name")}
	}
	err := c.repeat(ctx, verbEnqueue, id, opts, func(cfg *callConfig) error {
		r, err := c.begin(ctx, verbEnqueue, invocation{functionID: id, action: actionEnqueue, queue: queue}, in, cfg)
		if err != nil {
			return err
		}
		return c.await(ctx, verbEnqueue, r, id, &receipt)
	})
	return receipt, err
}

// begin encodes a request and passes it to the send queue.
func (c *Client) begin(ctx context.Context, verb string, inv invocation, in any, cfg *callConfig) (*request, error) {
	fail := func(err error) (*request, error) {
		return nil, &callError{verb: verb, functionID: inv.functionID, err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(unsentError{ctxError(ctx)})
	}
	if strings.TrimSpace(inv.functionID) == "" {
		return fail(errors.New("blank function id"))
	}
	inv.metadata, inv.hasMetadata = cfg.metadata, cfg.hasMetadata
	if inv.namespace = cfg.namespace; inv.namespace == "" && inv.observerID == "" { // the engine knows the namespace of an observer's target
		inv.namespace = c.namespaceOf(inv.functionID)
	}
	if inv.functionID == registerTriggerFunction && (inv.namespace == "" || inv.namespace == defaultNamespace) {
		raw, err := rawOf(in)
		if err == nil {
			err = checkRegisterTrigger(raw)
		}
		if err != nil {
			return fail(err)
		}
		in = raw
	}
	in = c.cfg.forUser(in)
	inv.traceparent, inv.baggage = InjectTraceparent(ctx), InjectBaggage(ctx)
	if h, ok := ctx.Value(invocationKey{}).(*invocationContext); ok && h.client == c {
		inv.caller = h.in
	}
	timeout := cmp.Or(cfg.timeout, c.cfg.callTimeout)
	if f := c.localTarget(&inv, cfg); f != nil {
		r, err := c.beginLocal(f, &inv, in, timeout)
		if err != nil {
			return fail(err)
		}
		return r, nil
	}

	r := c.out.newRequest(inv.action != actionVoid, timeout)
	if r.wantsResult {
		r.id = newInvocationID()
		inv.id = r.id
	}
	r.buf = newBuffer()
	err := encodeCall(r.buf, &inv, in)
	inv.metadata = nil
	r.inv = inv
	if err == nil {
		if c.cfg.sendPolicy == SendWait && !r.wantsResult && cfg.timeout == 0 {
			r.timer.Stop()
			r.lateTimeout = timeout // while the message waits for room, only ctx limits the wait
		}
		err = c.out.submit(r)
	}
	if err != nil {
		r.buf.free()
		c.out.release(r)
		return fail(err)
	}
	return r, nil
}

// namespaceOf returns the namespace for a call that does not specify one. The engine's own
// functions exist only in the default namespace; all others are looked up in this worker's
// namespace.
func (c *Client) namespaceOf(functionID string) string {
	if c.cfg.namespace == "" || isBuiltin(functionID) {
		return ""
	}
	return c.cfg.namespace
}

func isBuiltin(functionID string) bool {
	switch functionID {
	case "publish", "bridge.invoke", "bridge.invoke_async":
		return true
	}
	service, _, ok := strings.Cut(functionID, "::")
	if !ok {
		return false
	}
	switch service {
	case "engine", "state", "stream", "configuration", "iii":
		return true
	}
	return false
}

// await waits for the response to a request and decodes the result into out.
func (c *Client) await(ctx context.Context, verb string, r *request, id string, out any) error {
	if sent, err := c.awaitAnswer(ctx, r); err != nil {
		return &callError{verb: verb, functionID: id, err: err, sent: sent}
	}
	defer c.out.release(r)
	result, remote := r.result, r.remote
	if b := r.buf; r.local {
		defer b.free()
		if result = b.bytes(); b.result == [2]int{} {
			remote = result
		}
	}
	if len(remote) > 0 {
		return remoteError(remote, id, r.id.String())
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *json.RawMessage:
		*out = append((*out)[:0:0], result...)
		return nil
	}
	if err := c.cfg.decode(result, out); err != nil {
		return &callError{verb: verb, functionID: id, err: fmt.Errorf("result does not decode: %w", err), sent: true}
	}
	return nil
}

// awaitAnswer waits for the engine's response. If the response is an error, err is still nil.
// If err is not nil, r must not be used again, and sent reports whether the request may have
// been sent.
func (c *Client) awaitAnswer(ctx context.Context, r *request) (sent bool, err error) {
	cause := ErrTimeout
	select {
	case <-r.answer:
		return !r.unsent, r.err
	case <-ctx.Done():
		cause = ctxError(ctx)
	case <-r.timer.C:
	case <-r.clientClosed(c):
		cause = fmt.Errorf("%w: %w", ErrConnectionLost, c.endError())
	}
	r.timer.Stop()
	if r.local {
		select {
		case <-r.answer: // takes precedence, as for other calls
			return !r.unsent, r.err
		default:
		}
		c.dispatch.unnest(r.in)
		return true, cause
	}
	done, sent := c.out.giveUp(r)
	switch {
	case done:
		<-r.answer
		return !r.unsent, r.err
	case sent:
		return true, cause
	}
	return false, c.notSent(cause)
}

// unsentError means that a call was not sent in time even though the client was connected.
type unsentError struct{ cause error }

func (e unsentError) Error() string   { return "not sent: " + e.cause.Error() }
func (e unsentError) Unwrap() []error { return []error{ErrNotConnected, e.cause} }

// notSent returns the error for a call that failed before it was sent.
func (c *Client) notSent(cause error) error {
	c.mu.Lock()
	never, connected := c.supervised == nil, c.state == ConnectionStateConnected
	c.mu.Unlock()
	switch {
	case never:
		return fmt.Errorf("%w, since neither Connect nor Run was called: %w", ErrNotConnected, cause)
	case connected: // the engine has stopped reading
		return unsentError{cause}
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, cause)
}
