package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// on returns copies of scenarios with an engine version added to their names and titles.
func on(protocol string, list []scenario) []scenario {
	var renamed []scenario
	for _, s := range list {
		renamed = append(renamed, scenario{s.name + "-" + protocol, s.title + ", engine " + protocol, s.run})
	}
	return renamed
}

func named(list []scenario, name string) scenario {
	return list[slices.IndexFunc(list, func(s scenario) bool { return s.name == name })]
}

// calling holds the scenarios about calls for engines 0.25 and 0.26. Engine 0.23 has more
// detailed ones.
var calling = []scenario{
	{"result", "results, in both directions", func(ctx context.Context, t *trial) {
		for _, v := range values {
			t.equal("result of peer::echo", t.call(ctx, "peer::echo", v), v)
			t.equal("result of go::echo", t.peerCalls(ctx, "go::echo", v, nil), v)
		}
	}},
	{"error", "errors with a code: the peer calls Go", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "call", object{"function_id": "go::fail", "payload": object{"code": "OUT_OF_STOCK", "message": "no more"}})
		t.fails("go::fail", r, "OUT_OF_STOCK", "no more")
	}},
	{"huge-peer", "the peer receives a payload of 20 MiB and returns it", func(ctx context.Context, t *trial) {
		text := strings.Repeat("x", huge)
		var out string
		if err := t.client.Call(ctx, "peer::echo", text, &out); err != nil {
			t.errorf("peer::echo: %v", err)
			t.must("the peer", t.ready(ctx, t.peer, "peer::echo")) // after it has reconnected
		} else if out != text {
			t.errorf("peer::echo: got %d bytes, want the %d that were sent", len(out), len(text))
		}
	}},
	{"huge-go", "the peer receives a result of 20 MiB", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "length", object{"function_id": "go::text", "payload": object{"bytes": huge}})
		t.ok("call", r)
		t.equal("length of the result", r.Value, huge)
	}},
}

// longestChain is the maximum length of a chain in which each activation causes the next.
const longestChain = 8

// huge is a payload size in bytes that exceeds the message limit of engine 0.23.
const huge = 20 << 20

// observed holds the scenarios in which the Go worker observes one of the peer's functions.
var observed = []scenario{
	{"observed", "Go observes a function of the peer: Go calls it", func(ctx context.Context, t *trial) {
		o := t.watch(ctx, iii.Source{FunctionID: "peer::echo"}, "go::watch", iii.WithObserverMetadata(object{"m": 1}))
		in := object{"text": "grüß dich", "list": []any{1, nil, object{}}}
		t.equal("result", t.call(ctx, "peer::echo", in), in)
		e := t.next(ctx, "go::watch")
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.envelope(e, o.ID(), "peer::echo", goWorker, in, in)
	}},
	{"observed-own", "Go observes a function of the peer: the peer calls it", func(ctx context.Context, t *trial) {
		o := t.watch(ctx, iii.Source{FunctionID: "peer::echo"}, "go::watch-own")
		t.equal("result", t.peerCalls(ctx, "peer::echo", object{"n": 1}, nil), object{"n": 1})
		t.envelope(t.next(ctx, "go::watch-own"), o.ID(), "peer::echo", t.peerName(), object{"n": 1}, object{"n": 1})
	}},
	{"observed-filter", "Go observes a function of the peer with a filter: Go calls it", func(ctx context.Context, t *trial) {
		t.watch(ctx, iii.Source{FunctionID: "peer::echo", Filters: atLeast5, Deliver: iii.ObserveDeliverInput}, "go::filter", inOrder)
		for n := range 7 {
			t.call(ctx, "peer::echo", object{"n": n})
		}
		t.equal("first", t.next(ctx, "go::filter").Payload, object{"n": 5})
		t.equal("second", t.next(ctx, "go::filter").Payload, object{"n": 6})
		t.still("go::filter")
	}},
	{"observed-filter-own", "Go observes a function of the peer with a filter: the peer calls it", func(ctx context.Context, t *trial) {
		t.watch(ctx, iii.Source{FunctionID: "peer::echo", Filters: atLeast5, Deliver: iii.ObserveDeliverInput}, "go::filter-own", inOrder)
		for n := range 7 {
			t.peerCalls(ctx, "peer::echo", object{"n": n}, nil)
		}
		t.equal("first", t.next(ctx, "go::filter-own").Payload, object{"n": 5})
		t.equal("second", t.next(ctx, "go::filter-own").Payload, object{"n": 6})
		t.still("go::filter-own")
	}},
	{"observed-error", "Go observes the peer's errors", func(ctx context.Context, t *trial) {
		t.watch(ctx, iii.Source{FunctionID: "peer::crash", On: iii.ObserveOnError, Capture: []iii.Capture{iii.CaptureError}}, "go::errors")
		t.failsWith("peer::crash", t.client.Call(ctx, "peer::crash", object{}, nil), "invocation_failed")
		got := t.members("envelope", t.next(ctx, "go::errors").Payload)
		t.equal("status", got["status"], "error")
		if message, _ := got["error"].(map[string]any)["message"].(string); !strings.Contains(message, "it broke") {
			t.errorf("error: got %s, want one with %q", short(plain(got["error"])), "it broke")
		}
		for _, part := range []string{"input", "output", "caller", "metadata"} {
			if got[part] != nil {
				t.errorf("%s was not captured, but is %s", part, short(plain(got[part])))
			}
		}
	}},
	{"observed-deliver", "Go observes the peer's outputs and metadata", func(ctx context.Context, t *trial) {
		t.watch(ctx, iii.Source{FunctionID: "peer::echo", Deliver: iii.ObserveDeliverOutput}, "go::outputs")
		t.watch(ctx, iii.Source{FunctionID: "peer::echo", Capture: []iii.Capture{iii.CaptureMetadata}}, "go::metadata")
		t.call(ctx, "peer::echo", object{"n": 1}, iii.WithMetadata("acme"))
		t.equal("output", t.next(ctx, "go::outputs").Payload, object{"n": 1})
		got := t.members("envelope", t.next(ctx, "go::metadata").Payload)
		t.equal("metadata, input and output", []any{got["metadata"], got["input"], got["output"]}, []any{"acme", nil, nil})
	}},
	{"observed-limit", "a Go observer of the peer is removed after two activations", func(ctx context.Context, t *trial) {
		o := t.watch(ctx, iii.Source{FunctionID: "peer::echo"}, "go::twice", iii.WithMaxFires(2))
		for range 4 {
			t.call(ctx, "peer::echo", object{})
		}
		t.next(ctx, "go::twice")
		t.next(ctx, "go::twice")
		t.still("go::twice")
		t.must("observer", until(ctx, "it does not end", func() bool { return o.State() == iii.ObserverStateDisposed }))
		t.failsWith("reason", o.Err(), "MAX_FIRES")
	}},
	{"observed-activation", "Go receives details of its activation, and the engine ends a chain of activations", func(ctx context.Context, t *trial) {
		depths := make(chan uint32, 100)
		f, err := t.client.HandleFunc("go::again", func(ctx context.Context, payload json.RawMessage) (any, error) {
			inv, _ := iii.InvocationFromContext(ctx)
			var got iii.Observed[json.RawMessage, json.RawMessage]
			if err := json.Unmarshal(payload, &got); err != nil {
				return nil, err
			}
			if a := inv.Activation; a == nil || a.ObserverID != got.ObserverID || a.ActivationID != got.ActivationID || inv.Caller == nil || inv.Caller.WorkerName != "iii-engine" {
				return nil, fmt.Errorf("activation %+v by %+v, payload %s", a, inv.Caller, payload)
			}
			depths <- inv.ObserveDepth
			return nil, t.client.Call(ctx, "peer::echo", object{}, nil)
		})
		t.must("registration", err)
		t.after(func() { unregister(f) })
		t.observe(ctx, iii.Source{FunctionID: "peer::echo"}, "go::again")
		t.call(ctx, "peer::echo", object{})
		for depth := uint32(1); depth <= longestChain; depth++ {
			select {
			case got := <-depths:
				t.equal("depth", got, depth)
			case <-ctx.Done():
				t.must("activation", ctx.Err())
			}
		}
		select {
		case got := <-depths:
			t.errorf("an activation at depth %d", got)
		case <-time.After(100 * time.Millisecond):
		}
	}},
	{"observed-hooks", "the peer's hooks accept and reject Go observers, and notice removals", func(ctx context.Context, t *trial) {
		t.host(ctx, "peer::hooked", "hooks")
		o := t.watch(ctx, iii.Source{FunctionID: "peer::hooked"}, "go::wanted")
		added := t.members("added", t.next(ctx, "added").Payload)
		t.equal("observer that was added", []any{added["id"], added["target"]}, []any{o.ID(), "go::wanted"})
		t.equal("observers that the peer lists", t.value(ctx, "observers", object{"function_id": "peer::hooked"}), []string{o.ID()})
		t.call(ctx, "peer::hooked", object{"n": 1})
		t.next(ctx, "go::wanted")

		f := t.listenHere("go::unwanted", nil, 0)
		defer unregister(f)
		refused, err := t.client.Observe(iii.Source{FunctionID: "peer::hooked"}, "go::unwanted")
		t.must("observe", err)
		defer refused.Dispose(ctx)
		e := t.failsWith("an observer that the peer rejects", refused.Ready(ctx), "UNWANTED")
		t.equal("message", e.Message, "not this one")

		t.must("dispose", o.Dispose(ctx))
		t.equal("observer that was removed", t.members("removed", t.next(ctx, "removed").Payload)["id"], o.ID())
		t.call(ctx, "peer::hooked", object{"n": 2})
		t.still("go::wanted")
		t.still("go::unwanted")
	}},
	{"observed-args", "the arguments of Go observers select which of the peer's calls they receive", func(ctx context.Context, t *trial) {
		t.host(ctx, "peer::topics", "args")
		t.watch(ctx, iii.Source{FunctionID: "peer::topics", Args: object{"topic": "a"}, Deliver: iii.ObserveDeliverInput}, "go::topic-a", inOrder)
		t.watch(ctx, iii.Source{FunctionID: "peer::topics", Args: object{"topic": "b"}, Deliver: iii.ObserveDeliverInput}, "go::topic-b")
		for n, topic := range []string{"a", "c", "b", "a"} {
			t.call(ctx, "peer::topics", object{"topic": topic, "n": n})
		}
		t.equal("first of a", t.next(ctx, "go::topic-a").Payload, object{"topic": "a", "n": 0})
		t.equal("second of a", t.next(ctx, "go::topic-a").Payload, object{"topic": "a", "n": 3})
		t.equal("first of b", t.next(ctx, "go::topic-b").Payload, object{"topic": "b", "n": 2})
		t.still("go::topic-a")
		t.still("go::topic-b")
		refused, err := t.client.Observe(iii.Source{FunctionID: "peer::topics", Args: object{"topic": 1}}, "go::topic-a")
		t.must("observe", err)
		defer refused.Dispose(ctx)
		t.failsWith("an observer with wrong arguments", refused.Ready(ctx), "INVALID_ARGS")
	}},
	{"observed-through", "the peer calls a target through a Go observer", func(ctx context.Context, t *trial) {
		t.host(ctx, "peer::route", "through")
		defer unregister(t.listenHere("go::route", "the answer", 0))
		o := t.observe(ctx, iii.Source{FunctionID: "peer::route", Args: object{"topic": "a"}}, "go::route", iii.WithObserverMetadata(object{"m": 1}))
		t.equal("result", t.call(ctx, "peer::route", object{"topic": "a", "n": 1}), "the answer")
		e := t.next(ctx, "go::route")
		t.equal("payload", e.Payload, object{"topic": "a", "n": 1})
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.must("dispose", o.Dispose(ctx))
		t.equal("result without an observer", t.call(ctx, "peer::route", object{"topic": "a"}), nil)
	}},
}

// observing holds the scenarios in which the peer observes one of the Go worker's functions.
var observing = []scenario{
	{"observing", "the peer observes a function of Go: the peer calls it", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo", "metadata": object{"m": 1}}, "peer::watch")
		in := object{"text": "grüß dich", "list": []any{1, nil, object{}}}
		t.equal("result", t.peerCalls(ctx, "go::echo", in, nil), in)
		e := t.next(ctx, "peer::watch")
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.envelope(e, id, "go::echo", t.peerName(), in, in)
	}},
	{"observing-own", "the peer observes a function of Go: Go calls it", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo"}, "peer::watch-own")
		t.equal("result", t.call(ctx, "go::echo", object{"n": 1}), object{"n": 1})
		t.envelope(t.next(ctx, "peer::watch-own"), id, "go::echo", goWorker, object{"n": 1}, object{"n": 1})
	}},
	{"observing-filter", "the peer observes a function of Go with a filter", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "go::echo", "filters": atLeast5, "deliver": "input", "max_in_flight": 1}, "peer::filter")
		for n := range 4 {
			t.call(ctx, "go::echo", object{"n": n})
			t.peerCalls(ctx, "go::echo", object{"n": 3 * n}, nil)
		}
		t.equal("first", t.next(ctx, "peer::filter").Payload, object{"n": 6})
		t.equal("second", t.next(ctx, "peer::filter").Payload, object{"n": 9})
		t.still("peer::filter")
	}},
	{"observing-error", "the peer observes Go's errors", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "go::fail", "on": "error", "capture": []string{"error"}}, "peer::errors")
		_ = t.client.Call(ctx, "go::fail", object{"code": "OUT_OF_STOCK", "message": "no more"}, nil) // fails as requested
		got := t.members("envelope", t.next(ctx, "peer::errors").Payload)
		t.equal("envelope", []any{got["status"], got["error"], got["input"]}, []any{"error", object{"code": "OUT_OF_STOCK", "message": "no more"}, nil})
	}},
	{"observing-deliver", "the peer observes Go's outputs", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "go::inspect", "deliver": "output"}, "peer::outputs")
		t.call(ctx, "go::inspect", object{"n": 1}, iii.WithMetadata("acme"))
		t.equal("output", t.next(ctx, "peer::outputs").Payload, object{"payload": object{"n": 1}, "metadata": "acme"})
	}},
	{"observing-limit", "the peer's observer of Go is removed after two activations", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo", "max_fires": 2}, "peer::twice")
		for range 4 {
			t.call(ctx, "go::echo", object{})
		}
		t.next(ctx, "peer::twice")
		t.next(ctx, "peer::twice")
		t.still("peer::twice")
		want := object{"state": "disposed", "code": "MAX_FIRES"}
		var state json.RawMessage
		err := until(ctx, "it does not end", func() bool {
			state = t.value(ctx, "observing", object{"handle": id})
			return short(plain(state)) == short(plain(want))
		})
		if err != nil {
			t.errorf("the peer's observer: %v: got %s, want %s", err, short(plain(state)), short(plain(want)))
		}
	}},
	{"observing-chain", "the engine ends a chain of the peer's activations", func(ctx context.Context, t *trial) {
		t.value(ctx, "relay", object{"function_id": "peer::again", "target": "go::echo"})
		t.after(func() { t.clean(ctx, "unregister", object{"function_id": "peer::again"}) })
		t.peerObserves(ctx, object{"function_id": "go::echo"}, "peer::again")
		t.call(ctx, "go::echo", object{})
		for range longestChain {
			t.next(ctx, "peer::again")
		}
		t.still("peer::again")
	}},
	{"observing-list", "the peer's observer is listed until the peer removes it", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo", "filters": atLeast5, "id": "list-me"}, "peer::listed")
		t.equal("id", id, "list-me")
		listed := func() *iii.ObserverInfo {
			list, err := iii.Call[iii.ObserversListResult](ctx, t.client, "engine::observers::list", iii.EmptyInput{})
			t.must("engine::observers::list", err)
			if i := slices.IndexFunc(list.Observers, func(o iii.ObserverInfo) bool { return o.ID == id }); i >= 0 {
				return &list.Observers[i]
			}
			return nil
		}
		seen := func() bool {
			return slices.ContainsFunc(t.echo.Observers(), func(o *iii.FunctionObserver) bool { return o.ID == id && o.Active() })
		}
		o := listed()
		if o == nil || !seen() {
			t.errorf("the observer is listed: %v; the host has it: %v; want both", o != nil, seen())
			return
		}
		t.equal("source, filters, target and state", []any{o.Source.FunctionID, o.Source.Filters, o.Target.FunctionID, o.State},
			[]any{"go::echo", object{"$and": []any{atLeast5}}, "peer::listed", "active"}) // the filter in its normal form
		t.value(ctx, "dispose", object{"handle": id})
		t.must("the observer", until(ctx, "it is still there", func() bool { return listed() == nil && !seen() }))
		t.call(ctx, "go::echo", object{"n": 9})
		t.still("peer::listed")
	}},
	{"observing-hooks", "Go's hooks accept and reject the peer's observers, and notice removals", func(ctx context.Context, t *trial) {
		changes := make(chan [2]string, 10)
		f, err := t.client.HandleFunc("go::hooked", echo, iii.WithObserverHooks(iii.ObserverHooks{
			Added: func(_ context.Context, o *iii.FunctionObserver) error {
				if o.Target == "peer::unwanted" {
					return &iii.Error{Code: "UNWANTED", Message: "not this one"}
				}
				changes <- [2]string{"added", o.ID}
				return nil
			},
			Removed: func(_ context.Context, o *iii.FunctionObserver) { changes <- [2]string{"removed", o.ID} },
		}))
		t.must("registration", err)
		defer unregister(f)
		next := func() [2]string {
			select {
			case change := <-changes:
				return change
			case <-ctx.Done():
				t.must("hook", ctx.Err())
				return [2]string{}
			}
		}
		id := t.peerWatches(ctx, object{"function_id": "go::hooked"}, "peer::wanted")
		t.equal("first change", next(), [2]string{"added", id})
		t.listen(ctx, "peer::unwanted", nil, 0)
		t.fails("an observer that Go rejects", t.do(ctx, "observe", object{"function_id": "go::hooked", "target": "peer::unwanted"}), "UNWANTED", "not this one")
		t.call(ctx, "go::hooked", object{"n": 1})
		t.next(ctx, "peer::wanted")
		t.value(ctx, "dispose", object{"handle": id})
		t.equal("second change", next(), [2]string{"removed", id})
	}},
	{"observing-refused", "the engine rejects the peer's invalid observers", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::refused", nil, 0)
		t.fails("an observer that is its own source",
			t.do(ctx, "observe", object{"function_id": "peer::refused", "target": "peer::refused"}), "SELF_TARGET", "")
		t.fails("an observer with arguments that the function does not have",
			t.do(ctx, "observe", object{"function_id": "go::echo", "args": object{"topic": "a"}, "target": "peer::refused"}), "INVALID_ARGS", "")
	}},
}

// hosting holds the scenarios about observer hooks, private functions, triggers on sources, and
// observers of trigger types. Engine 0.25 does not support these features.
var hosting = []scenario{
	{"observing-args", "the arguments of the peer's observers select which of Go's calls they receive", func(ctx context.Context, t *trial) {
		f, err := t.client.HandleFunc("go::topics", echo, iii.WithArgsSchema(topicSchema), iii.WithObserverHooks(iii.ObserverHooks{
			Match: func(o *iii.FunctionObserver, call *iii.ObservedCall) bool {
				return topicOf(o.Args()) == topicOf(call.Input)
			},
		}))
		t.must("registration", err)
		defer unregister(f)
		t.peerWatches(ctx, object{"function_id": "go::topics", "args": object{"topic": "a"}, "deliver": "input", "max_in_flight": 1}, "peer::topic-a")
		t.peerWatches(ctx, object{"function_id": "go::topics", "args": object{"topic": "b"}, "deliver": "input"}, "peer::topic-b")
		for n, topic := range []string{"a", "c", "b"} {
			t.call(ctx, "go::topics", object{"topic": topic, "n": n})
		}
		t.equal("first of a", t.next(ctx, "peer::topic-a").Payload, object{"topic": "a", "n": 0})
		t.peerCalls(ctx, "go::topics", object{"topic": "a", "n": 3}, nil)
		t.equal("second of a", t.next(ctx, "peer::topic-a").Payload, object{"topic": "a", "n": 3})
		t.equal("first of b", t.next(ctx, "peer::topic-b").Payload, object{"topic": "b", "n": 2})
		t.still("peer::topic-a")
		t.still("peer::topic-b")
		t.fails("an observer with wrong arguments",
			t.do(ctx, "observe", object{"function_id": "go::topics", "args": object{"topic": 1}, "target": "peer::topic-a"}), "INVALID_ARGS", "")
	}},
	{"observing-through", "Go calls a target through the peer's observer", func(ctx context.Context, t *trial) {
		f, err := t.client.HandleFunc("go::route", echo, iii.WithArgsSchema(topicSchema), iii.WithObserverHooks(iii.ObserverHooks{
			Deliver: func(ctx context.Context, call *iii.ObservedCall, observers []*iii.FunctionObserver) (any, error) {
				for _, o := range observers {
					if topicOf(o.Args()) == topicOf(call.Input) && o.Matches(call) {
						var out json.RawMessage
						err := o.Call(ctx, call.Input, &out)
						return out, err
					}
				}
				return nil, nil
			},
		}))
		t.must("registration", err)
		defer unregister(f)
		t.listen(ctx, "peer::routed", "the answer", 0)
		id := t.peerObserves(ctx, object{"function_id": "go::route", "args": object{"topic": "a"}, "metadata": object{"m": 1}}, "peer::routed")
		t.equal("result for Go", t.call(ctx, "go::route", object{"topic": "a", "n": 1}), "the answer")
		e := t.next(ctx, "peer::routed")
		t.equal("payload", e.Payload, object{"topic": "a", "n": 1})
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.equal("result for the peer", t.peerCalls(ctx, "go::route", object{"topic": "a", "n": 2}, nil), "the answer")
		t.value(ctx, "dispose", object{"handle": id}) // some SDKs do not wait for the result
		t.must("the observer", until(ctx, "it is still there", func() bool { return len(f.Observers()) == 0 }))
		t.equal("result without an observer", t.call(ctx, "go::route", object{"topic": "a"}), nil)
	}},
	{"observed-private", "a private function of the peer: Go can observe it but not call it", func(ctx context.Context, t *trial) {
		t.host(ctx, "peer::private", "private")
		t.watch(ctx, iii.Source{FunctionID: "peer::private", Deliver: iii.ObserveDeliverInput}, "go::private")
		t.failsWith("call", t.client.Call(ctx, "peer::private", object{"n": 1}, nil), "FORBIDDEN")
		t.peerCalls(ctx, "peer::private", object{"n": 2}, nil)
		t.equal("observed", t.next(ctx, "go::private").Payload, object{"n": 2})
	}},
	{"observing-private", "a private function of Go: the peer can observe it but not call it", func(ctx context.Context, t *trial) {
		f, err := t.client.HandleFunc("go::private-source", echo, iii.WithPrivate())
		t.must("registration", err)
		defer unregister(f)
		t.peerWatches(ctx, object{"function_id": "go::private-source", "deliver": "input"}, "peer::on-private")
		t.fails("call", t.do(ctx, "call", object{"function_id": "go::private-source", "payload": object{"n": 1}}), "FORBIDDEN", "")
		t.call(ctx, "go::private-source", object{"n": 2})
		t.equal("observed", t.next(ctx, "peer::on-private").Payload, object{"n": 2})
	}},
	{"trigger-of-source", "a Go trigger on a function with hooks that the peer hosts", func(ctx context.Context, t *trial) {
		t.host(ctx, "peer::chime", "through")
		defer unregister(t.listenHere("go::on-chime", "rung", 0))
		trigger, err := t.client.Trigger("go::on-chime", iii.CustomTrigger{Type: "peer::chime", Config: object{"topic": "a"}}, iii.WithTriggerMetadata(object{"m": 1}))
		t.must("trigger", err)
		defer trigger.Unregister()
		t.must("trigger", t.bound(ctx, "peer::chime", "go::on-chime"))
		t.equal("result of the function that was fired", t.peerCalls(ctx, "peer::chime", object{"topic": "a", "n": 1}, nil), "rung")
		e := t.next(ctx, "go::on-chime")
		t.equal("payload", e.Payload, object{"topic": "a", "n": 1})
		t.equal("metadata", e.Metadata, object{"m": 1})
	}},
	{"observer-of-type", "an observer of the peer on a trigger type that Go provides", func(ctx context.Context, t *trial) {
		b := bell{make(chan iii.TriggerBinding, 10), make(chan iii.TriggerBinding, 10)}
		t.must("trigger type", t.client.HandleTriggerType(iii.TriggerType{ID: "go-chime", Description: "a bell"}, b))
		t.listen(ctx, "peer::on-go-chime", "rung", 0)
		id := t.peerObserves(ctx, object{"function_id": "go-chime", "args": object{"tone": "c"}, "metadata": object{"m": 1}}, "peer::on-go-chime")
		select {
		case binding := <-b.bound:
			t.equal("binding", []any{binding.FunctionID, binding.Config}, []any{"peer::on-go-chime", object{"tone": "c"}})
			result, err := binding.Fire(ctx, object{"n": 1})
			t.must("fire", err)
			t.equal("result of the function that was fired", result, "rung")
		case <-ctx.Done():
			t.must("binding", ctx.Err())
		}
		e := t.next(ctx, "peer::on-go-chime")
		t.equal("payload", e.Payload, object{"n": 1})
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.value(ctx, "dispose", object{"handle": id})
		select {
		case <-b.unbound:
		case <-ctx.Done():
			t.errorf("the observer that was taken back stays bound")
		}
	}},
}

// returning holds the scenarios about observers and lost connections. They run last, because
// they replace the engine with one of another version.
var returning = []scenario{
	{"observed-reconnect", "a Go observer of the peer after the peer lost its connection", func(ctx context.Context, t *trial) {
		t.watch(ctx, iii.Source{FunctionID: "peer::inspect"}, "go::returned")
		t.lose(ctx)
		t.calledOnce(ctx, "go::returned", func() { t.call(ctx, "peer::inspect", object{"n": 1}) })
		t.calledOnce(ctx, "go::returned", func() { t.peerCalls(ctx, "peer::inspect", object{"n": 1}, nil) })
	}},
	{"observing-reconnect", "the peer's observer of Go after the peer lost its connection", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo"}, "peer::returned")
		t.lose(ctx)
		t.must("observer", until(ctx, "it does not become active", func() bool {
			return t.listed(ctx, func(o iii.ObserverInfo) bool { return o.ID == id })
		}))
		t.calledOnce(ctx, "peer::returned", func() { t.call(ctx, "go::echo", object{"n": 1}) })
	}},
	{"observed-replaced", "a Go observer of the peer after the engine was replaced by the other version", func(ctx context.Context, t *trial) {
		o := t.watch(ctx, iii.Source{FunctionID: "peer::inspect"}, "go::replaced")
		other := map[string]string{"0.25": "0.26", "0.26": "0.25"}[t.protocol]
		t.must("another engine", t.replace(ctx, other))
		t.must("observer", o.Ready(ctx))
		t.calledOnce(ctx, "go::replaced", func() { t.call(ctx, "peer::inspect", object{"n": 1}) })
		t.calledOnce(ctx, "go::replaced", func() { t.peerCalls(ctx, "peer::inspect", object{"n": 1}, nil) })
	}},
	{"observing-replaced", "the peer's observer of Go after the original engine version was restored", func(ctx context.Context, t *trial) {
		id := t.peerWatches(ctx, object{"function_id": "go::echo"}, "peer::replaced")
		other := map[string]string{"0.25": "0.26", "0.26": "0.25"}[t.protocol]
		t.must("another engine", t.replace(ctx, other))
		t.must("observer", until(ctx, "it does not become active", func() bool {
			return t.listed(ctx, func(o iii.ObserverInfo) bool { return o.ID == id })
		}))
		t.calledOnce(ctx, "peer::replaced", func() { t.call(ctx, "go::echo", object{"n": 1}) })
		t.calledOnce(ctx, "peer::replaced", func() { t.peerCalls(ctx, "go::echo", object{"n": 1}, nil) })
	}},
}

// sources holds the scenarios in which the peer observes functions that engine 0.26 itself
// hosts.
var sources = []scenario{
	{"source-http", "an HTTP route of the peer, registered as an observer: JSON", func(ctx context.Context, t *trial) {
		t.peerObserves(ctx, object{"function_id": "http::on-request", "args": object{"path": "/things/:id", "method": "POST"}}, "peer::http")
		status, header, body, err := t.request(ctx, "POST", "/things/42?q=a%20b", "application/json", strings.NewReader(`{"n":1}`), map[string]string{"x-test": "yes"})
		t.must("request", err)
		t.equal("status and header x-answer", []any{status, header.Get("x-answer")}, []any{201, "given"})
		t.equal("body", json.RawMessage(body), object{
			"method": "POST", "path_params": object{"id": "42"}, "query_params": object{"q": "a b"}, "body": object{"n": 1}, "header": "yes",
		})
		t.fails("another route of the same shape", t.do(ctx, "observe", object{
			"function_id": "http::on-request", "args": object{"path": "/things/:other", "method": "POST"}, "target": "peer::http",
		}), "HTTP_ROUTE_CONFLICT", "")
	}},
	{"source-http-stream", "an HTTP route of the peer, registered as an observer: raw request body, streamed response", func(ctx context.Context, t *trial) {
		t.peerObserves(ctx, object{"function_id": "http::on-request", "args": object{"path": "/louder", "method": "PUT"}}, "peer::http-stream")
		status, header, body, err := t.request(ctx, "PUT", "/louder", "application/octet-stream", strings.NewReader("be quiet"), nil)
		t.must("request", err)
		t.equal("response", []any{status, header.Get("content-type"), body}, []any{202, "text/x-upper", "BE QUIET"})
	}},
	{"source-state", "an observer of the peer receives state changes", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "state::on-changed", "deliver": "input", "filters": object{
			"input.scope": object{"$eq": "sources"}, "input.key": object{"$eq": "a"},
		}}, "peer::on-change")
		state := iii.NewState[int](t.client, "sources")
		for _, key := range []string{"b", "a"} {
			_, err := state.Set(ctx, key, 1)
			t.must("state::set", err)
		}
		t.equal("event", t.next(ctx, "peer::on-change").Payload,
			object{"type": "state", "event_type": "state:created", "scope": "sources", "key": "a", "old_value": nil, "new_value": 1})
	}},
	{"source-publish", "an observer of the peer receives published messages", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "publish", "deliver": "input", "filters": object{"input.topic": object{"$eq": "news"}}}, "peer::on-news")
		t.must("publish", t.client.Publish(ctx, "olds", object{"n": 0}))
		t.must("publish", t.client.Publish(ctx, "news", object{"n": 1}))
		t.equal("message", t.next(ctx, "peer::on-news").Payload, object{"topic": "news", "data": object{"n": 1}})
	}},
	{"source-queue", "an observer of the peer receives messages of a durable topic, one of which fails once", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-parcel", nil, 1)
		t.peerObserves(ctx, object{
			"function_id": "queue::on-message", "args": object{"topic": "parcels", "max_retries": 2, "backoff_ms": 100}, "id": "parcels-of-the-peer",
		}, "peer::on-parcel")
		t.must("publish", t.client.PublishDurable(ctx, "parcels", object{"n": 1}))
		t.equal("message", t.next(ctx, "peer::on-parcel").Payload, object{"n": 1})
		t.equal("message whose handler failed, again", t.next(ctx, "peer::on-parcel").Payload, object{"n": 1})
		t.still("peer::on-parcel")
	}},
	{"source-cron", "an observer of the peer runs on a cron schedule", func(ctx context.Context, t *trial) {
		t.peerWatches(ctx, object{"function_id": "cron::on-tick", "args": object{"expression": "* * * * * * *"}, "deliver": "output"}, "peer::on-tick")
		t.equal("expression", t.members("tick", t.next(ctx, "peer::on-tick").Payload)["expression"], "* * * * * * *")
	}},
}

// binding holds the trigger scenarios that also run on engine 0.25, which supports both
// triggers and observers.
var binding = []scenario{
	named(httpScenarios, "http"),
	named(queues, "durable-go-peer"),
	named(triggers, "state-trigger-peer"),
	named(triggers, "state-trigger-go"),
	named(triggers, "provider-peer"),
	named(triggers, "provider-go"),
}

// bindingHere holds the trigger scenarios that also run on engine 0.26, which has observers
// instead of triggers. Workers of package iii translate between the two.
var bindingHere = []scenario{
	named(queues, "durable-peer-go"),
	named(triggers, "state-trigger-go"),
	named(triggers, "stream-trigger-go"),
	named(triggers, "pubsub-peer-go"),
}

// Values shared by several scenarios.
var (
	inOrder     = iii.WithMaxInFlight(1) // otherwise, activations may overtake each other
	atLeast5    = object{"input.n": object{"$gte": 5}}
	topicSchema = object{"type": "object", "required": []string{"topic"}, "properties": object{"topic": object{"type": "string"}}}
)

func echo(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }

// topicOf returns the topic in a call's payload or an observer's arguments.
func topicOf(raw json.RawMessage) string {
	var v struct{ Topic string }
	_ = json.Unmarshal(raw, &v) // the topic remains "" if there is none
	return v.Topic
}

// observe makes the harness's worker register an observer and waits until it is active. The
// observer is removed when the trial ends.
func (t *trial) observe(ctx context.Context, source iii.Source, target string, opts ...iii.ObserveOption) *iii.Observer {
	o, err := t.client.Observe(source, target, opts...)
	t.must("observer of Go", err)
	t.after(func() { _ = o.Dispose(context.WithoutCancel(ctx)) })
	t.must("observer of Go", o.Ready(ctx))
	return o
}

// watch is like observe, but also registers the target. The harness records the calls to the
// target; trial.next returns them.
func (t *trial) watch(ctx context.Context, source iii.Source, target string, opts ...iii.ObserveOption) *iii.Observer {
	f := t.listenHere(target, nil, 0)
	t.after(func() { unregister(f) })
	return t.observe(ctx, source, target, opts...)
}

// peerObserves makes the peer register an observer and waits until it is active. The observer
// is removed when the trial ends. The steps "observing" and "dispose" take the returned id as
// their handle.
func (t *trial) peerObserves(ctx context.Context, source object, target string) (id string) {
	source["target"] = target
	t.must("id of the observer", json.Unmarshal(t.value(ctx, "observe", source), &id))
	t.after(func() { t.clean(ctx, "dispose", object{"handle": id}) })
	return id
}

// peerWatches is like peerObserves, but the peer also registers the target, which reports its
// calls to the harness.
func (t *trial) peerWatches(ctx context.Context, source object, target string) (id string) {
	t.listen(ctx, target, nil, 0)
	t.after(func() { t.clean(ctx, "unregister", object{"function_id": target}) })
	return t.peerObserves(ctx, source, target)
}

// host makes the peer register a function that returns its payload. The function is
// unregistered when the trial ends. kind selects its options:
//
//   - hooks: report observers and reject the target go::unwanted
//   - args: deliver only calls with the observer's topic
//   - through: return observers' results to callers
//   - private: reject calls from other workers
func (t *trial) host(ctx context.Context, functionID, kind string) {
	t.value(ctx, "host", object{"function_id": functionID, "kind": kind, "schema": topicSchema})
	t.after(func() { t.clean(ctx, "unregister", object{"function_id": functionID}) })
	t.must("registration", t.registered(ctx, functionID))
}

// clean makes the peer perform a step and ignores the outcome.
func (t *trial) clean(ctx context.Context, step string, args object) {
	args["step"] = step
	_ = t.client.Call(context.WithoutCancel(ctx), "peer::do", args, nil, iii.WithTimeout(missingTimeout))
}

// envelope compares the envelope received by an observer with the expected one.
func (t *trial) envelope(e event, observerID, functionID, caller string, in, out any) {
	var got iii.Observed[json.RawMessage, json.RawMessage]
	t.must("envelope", json.Unmarshal(e.Payload, &got))
	t.equal("observer, function and status", []any{got.ObserverID, got.FunctionID, got.Status}, []any{observerID, functionID, "success"})
	t.equal("input", []any{got.Input}, []any{in}) // in an array, because plain removes members only from the outermost object
	t.equal("output", got.Output, out)            // contains the engine's member if the function returns its input
	if got.Caller == nil || got.Caller.WorkerName != caller {
		t.errorf("caller: got %s, want the worker %s", short(plain(got.Caller)), caller)
	}
	if got.ActivationID == "" || got.InvocationID == "" || got.StartedAtMs == 0 {
		t.errorf("no id or no time in %s", short(plain(e.Payload)))
	}
}

// still adds a difference if the target of watch or peerWatches is called within a short time.
func (t *trial) still(functionID string) {
	if !t.quiet(functionID, 100*time.Millisecond) {
		t.errorf("%s was called once too often", functionID)
	}
}

// calledOnce runs call and adds a difference unless the target of watch or peerWatches is then
// called exactly once.
func (t *trial) calledOnce(ctx context.Context, functionID string, call func()) {
	call()
	t.next(ctx, functionID)
	t.still(functionID)
}

// listed reports whether the engine lists an active observer accepted by the predicate.
func (b *bench) listed(ctx context.Context, is func(iii.ObserverInfo) bool) bool {
	list, err := iii.Call[iii.ObserversListResult](ctx, b.client, "engine::observers::list", iii.EmptyInput{})
	return err == nil && slices.ContainsFunc(list.Observers, func(o iii.ObserverInfo) bool { return o.State == iii.ObserverStateActive && is(o) })
}

// lose drops the peer's connection and waits until the peer has reconnected.
func (t *trial) lose(ctx context.Context) {
	before, err := t.client.WorkerInfo(ctx, t.peerName())
	t.must("engine::workers::info", err)
	t.proxy.cut(false)
	t.comesBack(ctx, before.Worker.ID)
}
