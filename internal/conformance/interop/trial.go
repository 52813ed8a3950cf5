package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// scenario is a matrix row.
type scenario struct {
	name  string // stable identifier
	title string
	run   func(ctx context.Context, t *trial)
}

// group is a matrix section.
type group struct {
	title     string
	protocol  string // engine version
	scenarios []scenario
}

// groups holds all scenarios, in the order in which they run.
var groups = []group{
	{"Calls", triggersOnly, calls},
	{"Queues", triggersOnly, queues},
	{"HTTP", triggersOnly, httpScenarios},
	{"Triggers", triggersOnly, triggers},
	{"State and streams", triggersOnly, stores},
	{"Channels", triggersOnly, channels},
	{"Telemetry", triggersOnly, telemetry},
	{"Access control", triggersOnly, access},
	{"Connection", triggersOnly, links},
	{"Engine 0.25: calls", "0.25", on("0.25", calling)},
	{"Engine 0.25: Go observes the peer", "0.25", on("0.25", observed)},
	{"Engine 0.25: the peer observes Go", "0.25", on("0.25", observing)},
	{"Engine 0.25: triggers", "0.25", on("0.25", binding)},
	{"Engine 0.25: lost connections", "0.25", on("0.25", returning)},
	{"Engine 0.26: calls", "0.26", on("0.26", calling)},
	{"Engine 0.26: Go observes the peer", "0.26", on("0.26", observed)},
	{"Engine 0.26: the peer observes Go", "0.26", on("0.26", observing)},
	{"Engine 0.26: hosts select observers", "0.26", on("0.26", hosting)},
	{"Engine 0.26: the peer observes the engine", "0.26", on("0.26", sources)},
	{"Engine 0.26: triggers of Go", "0.26", on("0.26", bindingHere)},
	{"Engine 0.26: lost connections", "0.26", on("0.26", returning)},
}

// triggersOnly is the last engine version without observers.
const triggersOnly = "0.23"

// protocols returns the engine versions for which there are scenarios, in scenario order.
func protocols() []string {
	var list []string
	for _, g := range groups {
		if !slices.Contains(list, g.protocol) {
			list = append(list, g.protocol)
		}
	}
	return list
}

// scenarioTimeout limits a scenario's duration, in case an expected event never happens.
// missingTimeout is a shorter limit for scenarios that the peer does not support.
const (
	scenarioTimeout = 30 * time.Second
	missingTimeout  = 4 * time.Second
)

// trial is one run of a scenario with a peer.
type trial struct {
	*bench
	patience    time.Duration // time limit for events that some peers never cause
	differences []string
	ends        []func() // cleanup functions, called in reverse order
}

// after registers f to be called when the trial ends, even if it is aborted.
func (t *trial) after(f func()) { t.ends = append(t.ends, f) }

// abort is the panic value that ends a trial early.
type abort struct{}

// try runs a scenario and returns the differences from the expected behavior.
func try(ctx context.Context, b *bench, s scenario, timeout, patience time.Duration) (differences []string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t := &trial{bench: b, patience: patience}
	defer func() {
		if r := recover(); r != nil {
			if _, is := r.(abort); !is {
				panic(r)
			}
		}
		for _, end := range slices.Backward(t.ends) {
			end()
		}
		differences = t.differences
	}()
	s.run(ctx, t)
	return nil // the deferred function sets the result
}

// errorf records a difference. The text must not contain ids, because they vary between runs.
func (t *trial) errorf(format string, args ...any) {
	t.differences = append(t.differences, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// If err is not nil, must records it as a difference and ends the trial.
func (t *trial) must(what string, err error) {
	if err != nil {
		t.errorf("%s: %v", what, err)
		panic(abort{})
	}
}

// equal records a difference unless got and want are equal when encoded as JSON.
func (t *trial) equal(what string, got, want any) {
	g, w := plain(got), plain(want)
	if !reflect.DeepEqual(g, w) {
		t.errorf("%s: got %s, want %s", what, short(g), short(w))
	}
}

// plain converts v to JSON and back. If the result is an object, plain removes the member that
// the engine adds to the payload of each call from a worker.
func plain(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		return err.Error()
	}
	if m, is := out.(map[string]any); is {
		delete(m, "_caller_worker_id")
	}
	return out
}

func short(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // v was decoded from JSON
	text := strings.TrimSpace(b.String())
	if len(text) > 300 {
		return strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

type object = map[string]any

// reply is the outcome of a step that the peer performed.
type reply struct {
	Value json.RawMessage `json:"value"`
	Error *replyError     `json:"error"`
}

// replyError is an error that the peer received from its SDK.
type replyError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// do makes the peer perform a step and returns the outcome.
func (t *trial) do(ctx context.Context, step string, args object) reply {
	return t.doAt(ctx, "peer::do", step, args)
}

func (t *trial) doAt(ctx context.Context, control, step string, args object, opts ...iii.CallOption) reply {
	in := object{"step": step}
	for key, value := range args {
		in[key] = value
	}
	var r reply
	t.must("the step "+step+" of the peer", errors.Join(t.client.Call(ctx, control, in, &r, opts...), t.peer.gone()))
	return r
}

// value makes the peer perform a step and returns the step's value. The step must succeed.
func (t *trial) value(ctx context.Context, step string, args object) json.RawMessage {
	r := t.do(ctx, step, args)
	t.ok(step, r)
	return r.Value
}

// ok ends the trial if a step that the peer performed has failed.
func (t *trial) ok(step string, r reply) {
	if r.Error != nil {
		t.errorf("the step %s of the peer failed with code %q: %s", step, r.Error.Code, r.Error.Message)
		panic(abort{})
	}
}

// call makes the harness's worker call a function. The call must succeed.
func (t *trial) call(ctx context.Context, id string, in any, opts ...iii.CallOption) json.RawMessage {
	var out json.RawMessage
	t.must("call of "+id, t.client.Call(ctx, id, in, &out, opts...))
	return out
}

// peerCalls makes the peer call a function. The call must succeed.
func (t *trial) peerCalls(ctx context.Context, id string, payload any, more object) json.RawMessage {
	args := object{"function_id": id, "payload": payload}
	for key, value := range more {
		args[key] = value
	}
	return t.value(ctx, "call", args)
}

// failsWith adds a difference unless err is an *iii.Error with the given code.
func (t *trial) failsWith(what string, err error, code string) *iii.Error {
	var e *iii.Error
	switch {
	case !errors.As(err, &e):
		t.errorf("%s: got %v, want an error with code %q", what, err, code)
		return &iii.Error{}
	case e.Code != code:
		t.errorf("%s: got the code %q, want %q", what, e.Code, code)
	}
	return e
}

// listen makes the peer register a function that reports its calls to the harness. The
// function fails the given number of times, and then returns reply.
func (t *trial) listen(ctx context.Context, functionID string, reply any, failures int) {
	t.value(ctx, "listen", object{"function_id": functionID, "reply": reply, "failures": failures})
	t.must("registration", t.registered(ctx, functionID))
}

// listenHere is like listen, but makes the harness's worker register the function.
func (t *trial) listenHere(functionID string, reply any, failures int) *iii.Function {
	calls := 0
	f, err := t.client.HandleFunc(functionID, func(ctx context.Context, payload json.RawMessage) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		t.saw(event{FunctionID: functionID, Payload: payload, Metadata: inv.Metadata})
		if calls++; calls <= failures { // calls are sequential
			return nil, errors.New("not yet")
		}
		return reply, nil
	})
	t.must("registration", err)
	return f
}

// bind makes the peer bind a trigger to one of its functions, and waits until the engine has
// bound it. The step "unbind" takes the returned handle.
func (t *trial) bind(ctx context.Context, triggerType, functionID string, config, metadata any) (handle json.RawMessage) {
	args := object{"type": triggerType, "function_id": functionID, "config": config}
	if metadata != nil {
		args["metadata"] = metadata
	}
	handle = t.value(ctx, "bind", args)
	t.must("trigger", t.bound(ctx, triggerType, functionID))
	return handle
}

// bindHere is like bind, but makes the harness's worker bind a trigger to one of its own
// functions.
func (t *trial) bindHere(ctx context.Context, functionID string, config iii.TriggerConfig, opts ...iii.TriggerOption) *iii.Trigger {
	trigger, err := t.client.Trigger(functionID, config, opts...)
	t.must("trigger", err)
	t.must("trigger", t.bound(ctx, config.TriggerType(), functionID))
	return trigger
}

// next returns the next call to a function registered by listen or listenHere. If no call
// arrives in time, next ends the trial.
func (t *trial) next(ctx context.Context, functionID string) event {
	e, err := t.await(ctx, functionID)
	t.must("event", err)
	return e
}

func (t *trial) members(what string, raw json.RawMessage) map[string]any {
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.errorf("%s: got %s, want an object", what, short(plain(raw)))
		panic(abort{})
	}
	return m
}
