package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii/internal/filter"
	"github.com/iii-go/iii/internal/rawjson"
)

// Outcomes of calls.
const (
	statusSuccess = "success"
	statusError   = "error"
)

// ObservedCall is one call of a function, as the hooks and filters of its observers see it.
// Its parts are raw JSON; nil is absent, which differs from null. Hooks may keep it, but must
// not change it.
type ObservedCall struct {
	// FunctionID is the function that was called.
	FunctionID string
	// InvocationID identifies the call.
	InvocationID string
	// Status is "success" or "error", "" for a call that has yet to run.
	Status string
	// Input is the payload as it was before the handler ran, without the key that the engine
	// adds.
	Input json.RawMessage
	// Output is the handler's result; nil if it failed.
	Output json.RawMessage
	// Error has the members code and message; nil if the call succeeded.
	Error json.RawMessage
	// Caller tells who made the call ([Caller]); nil if that is not known.
	Caller json.RawMessage
	// Metadata came beside the payload; nil if there is none.
	Metadata json.RawMessage
}

// Err returns the error of a failed call as an [*Error], nil for any other call. A Deliver
// hook that returns it gives the caller the error as the handler has returned it.
func (c *ObservedCall) Err() error {
	if c.Error == nil {
		return nil
	}
	return remoteError(c.Error, c.FunctionID, c.InvocationID)
}

func (c *ObservedCall) document() *filter.Document {
	return &filter.Document{Input: c.Input, Output: c.Output, Error: c.Error, Caller: c.Caller, Metadata: c.Metadata}
}

// observation is what has to be known about an invocation from before its handler runs,
// because observers or hooks are asked about it afterwards.
type observation struct {
	set      *activeSet      // nil: nobody observes the function
	input    json.RawMessage // a copy, for the handler owns its payload
	metadata json.RawMessage // likewise
	asked    bool            // the hooks have run
}

// observe returns the observation of an invocation, nil if nobody is to be asked about it: a
// routed call of a function without hooks is matched by the engine.
func (in *incoming) observe() *observation {
	f := in.function
	set := f.observers.current.Load()
	interested := set != nil || f.hooks.Deliver != nil
	switch {
	case in.local && !interested:
		return nil
	case !in.local && (!f.hooks.answer() || len(in.id) == 0 || !in.origin.dialect().hooks()):
		return nil
	case !interested:
		return &observation{} // it is for nobody, which the engine is told
	}
	input := in.data
	if !in.local {
		input = withoutCaller(input)
	}
	return &observation{set: set, input: bytes.Clone(input), metadata: bytes.Clone(in.metadata)}
}

// call describes the invocation after its handler has returned. The output is part of b.
func (o *observation) call(c *Client, in *incoming, b *buffer, err error) *ObservedCall {
	call := &ObservedCall{FunctionID: in.function.id, InvocationID: string(in.id), Status: statusSuccess,
		Input: o.input, Metadata: o.metadata, Caller: in.callerJSON(c)}
	if err == nil {
		call.Output = b.Bytes()[b.result[0]:b.result[1]]
		return call
	}
	call.Status = statusError
	code, message, _ := errorParts(err)
	p := rawjson.AppendString([]byte(`{"code":`), code)
	p = rawjson.AppendString(append(p, `,"message":`...), message)
	call.Error = append(p, '}')
	return call
}

// answer encodes the answer to an invocation, asks the hooks about it, and reports a local
// call to the engine. The error is the one that is told to the caller, or nil.
func (c *Client) answer(ctx context.Context, in *incoming, o *observation, result any, err error) (*buffer, error) {
	if o == nil {
		return c.encodeAnswer(ctx, in, in.origin, result, err)
	}
	hooks := &in.function.hooks
	if hooks.Deliver != nil && !o.asked {
		b, failure := c.encodeAnswer(ctx, in, rawOrigin{}, result, err) // its size does not matter yet
		call := o.call(c, in, b, failure)
		call.Output = bytes.Clone(call.Output)
		b.free()
		o.asked = true
		result, err = c.deliver(ctx, in, call, c.hosts.choose(in.function, o.set, call), failure)
	}
	b, err := c.encodeAnswer(ctx, in, in.origin, result, err)
	switch {
	case hooks.Deliver != nil:
		if !in.local {
			b.append(in.origin.dialect().appendDelivered)
		}
	case in.local:
		c.reportCall(ctx, in, o, b, err)
	default:
		var chosen []*FunctionObserver
		if o.set != nil && !b.tooLarge && !o.asked {
			o.asked = true
			call := o.call(c, in, b, err)
			call.Output = bytes.Clone(call.Output)
			chosen = c.hosts.choose(in.function, o.set, call)
		}
		matched := func(p []byte) []byte { return in.origin.dialect().appendMatched(p, chosen) }
		if b.append(matched); b.Len() >= messageTooLarge {
			chosen = nil
			b.free()
			b, err = c.encodeAnswer(ctx, in, in.origin, nil, tooLarge(in.origin, b.Len()))
			b.append(matched)
		}
	}
	return b, err
}

// append adds members to the answer in b.
func (b *buffer) append(members func([]byte) []byte) {
	b.Truncate(b.Len() - 1)
	b.Write(append(members(b.AvailableBuffer()), '}'))
}

// deliver runs the Deliver hook of a function, whose handler has failed with failure or
// succeeded.
func (c *Client) deliver(ctx context.Context, in *incoming, call *ObservedCall, observers []*FunctionObserver, failure error) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.LogAttrs(ctx, slog.LevelError, "iii: deliver hook panicked", slog.String("function", in.function.id),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			result, err = nil, &Error{Code: CodeInvocationFailed, Message: "deliver hook panicked"}
		}
	}()
	result, err = in.function.hooks.Deliver(ctx, call, observers)
	if err == nil {
		return result, nil
	}
	var e *Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, &Error{Code: CodeTimeout, Message: strings.TrimPrefix(err.Error(), "iii: ")}
		}
		return nil, err
	}
	if failure != nil {
		code, message, _ := errorParts(failure)
		if c := e.Code; (c == code || c == "" && code == CodeInvocationFailed) && e.Message == message {
			return nil, failure
		}
	}
	return nil, err
}

// choose returns those observers of a set that a call is meant for, and that are still
// active.
func (h *hosting) choose(f *Function, set *activeSet, call *ObservedCall) (chosen []*FunctionObserver) {
	switch {
	case set == nil:
	case f.hooks.Keys != nil:
		for _, o := range h.keyed(f, set, h.keysOf(f, call)) {
			chosen = append(chosen, o.view.Load())
		}
	default:
		for _, o := range set.all.All() {
			if o.held.is(heldActive) && (f.hooks.Match == nil || h.match(f, o, call)) {
				chosen = append(chosen, o)
			}
		}
	}
	return chosen
}

// keyed returns the active observers of a set that have one of the keys.
func (h *hosting) keyed(f *Function, set *activeSet, keys []string) (found []*heldObserver) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, key := range keys {
		for _, o := range f.observers.keyed[key] {
			if o.seq <= set.last {
				found = append(found, o)
			}
		}
	}
	if len(keys) > 1 {
		found = slices.Compact(inOrder(found))
	}
	return found
}

// keysOf asks the program for the keys of a call.
func (h *hosting) keysOf(f *Function, call *ObservedCall) (keys []string) {
	defer h.forgive(f, &keys)
	return f.hooks.Keys.Call(call)
}

// match asks the program whether a call is meant for an observer.
func (h *hosting) match(f *Function, o *FunctionObserver, call *ObservedCall) (matches bool) {
	var none []string
	defer h.forgive(f, &none)
	return f.hooks.Match(o, call)
}

// forgive recovers what a match hook panics with, which matches nobody. It is logged once for
// each function.
func (h *hosting) forgive(f *Function, keys *[]string) {
	p := recover()
	if p == nil {
		return
	}
	*keys = nil
	h.mu.Lock()
	noticed := f.observers.noticed
	f.observers.noticed = true
	h.mu.Unlock()
	if !noticed {
		h.client.log.LogAttrs(h.client.handlers, slog.LevelError, "iii: match hook panicked; further panics of it are not logged",
			slog.String("function", f.id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// matches appends the observers that ask for calls with this outcome and whose filters hold.
func (s *activeSet) matches(dst []*FunctionObserver, status string, d *filter.Document) []*FunctionObserver {
	if status == statusError {
		return s.failure.AppendMatches(dst, d)
	}
	return s.success.AppendMatches(dst, d)
}

// reportCall reports a local call to the engine if observers ask for it.
func (c *Client) reportCall(ctx context.Context, in *incoming, o *observation, b *buffer, err error) {
	if o.set == nil || o.asked {
		return
	}
	o.asked = true
	call := o.call(c, in, b, err)
	var matched []*FunctionObserver
	if in.function.hooks.matches() {
		call.Output = bytes.Clone(call.Output)
		for _, observer := range c.hosts.choose(in.function, o.set, call) {
			if observer.asksFor(call.Status) && observer.filter.Matches(call.document()) {
				matched = append(matched, observer)
			}
		}
	} else {
		matched = slices.DeleteFunc(o.set.matches(nil, call.Status, call.document()), func(o *FunctionObserver) bool { return !o.held.is(heldActive) })
	}
	if len(matched) == 0 {
		return
	}
	r := &report{function: in.function, id: call.InvocationID, matched: matched, status: call.Status, depth: in.depth, started: in.started, duration: time.Since(in.started),
		traceparent: InjectTraceparent(ctx), baggage: InjectBaggage(ctx)}
	captured := map[Capture]bool{}
	for _, observer := range matched {
		for _, part := range observer.Capture {
			captured[part] = true
		}
	}
	if captured[CaptureInput] {
		r.input = call.Input
	}
	if captured[CaptureOutput] && call.Output != nil {
		if captured[CaptureInput] && bytes.Equal(call.Input, call.Output) {
			r.echoes = true
		} else {
			r.output = bytes.Clone(call.Output)
		}
	}
	if captured[CaptureError] {
		r.err = call.Error
	}
	if captured[CaptureMetadata] {
		r.metadata = call.Metadata
	}
	if captured[CaptureCaller] {
		r.caller = in.appendOrigin(nil, false)
	}
	c.reports.push(r)
}

// tooLarge is the error of a result that makes a message of that size.
func tooLarge(o origin, size int) error {
	limit, code := o.limit()
	return &Error{Code: code, Message: fmt.Sprintf("the result makes a message of %d bytes; the limit is %d", size, limit)}
}
