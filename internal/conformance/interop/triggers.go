package main

import (
	"context"
	"errors"
	"iter"

	"github.com/iii-go/iii"
)

var triggers = []scenario{
	{"state-trigger-peer", "the peer's state trigger", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-state", nil, 0)
		handle := t.bind(ctx, "state", "peer::on-state", object{"scope": "watched", "key": "a"}, object{"m": 1})
		state := iii.NewState[object](t.client, "watched")
		_, err := state.Set(ctx, "b", object{"other": true})
		t.must("state::set", err)
		_, err = state.Set(ctx, "a", object{"n": 1})
		t.must("state::set", err)
		want := object{"type": "state", "event_type": "state:created", "scope": "watched", "key": "a", "old_value": nil, "new_value": object{"n": 1}}
		e := t.next(ctx, "peer::on-state")
		t.equal("first event", e.Payload, want)
		t.equal("metadata", e.Metadata, object{"m": 1})
		_, err = state.Set(ctx, "a", object{"n": 2}) // not earlier: the events of two changes may overtake each other
		t.must("state::set", err)
		want["event_type"], want["old_value"], want["new_value"] = "state:updated", object{"n": 1}, object{"n": 2}
		t.equal("second event", t.next(ctx, "peer::on-state").Payload, want)
		t.value(ctx, "unbind", object{"handle": handle})
		t.must("the trigger that was taken back is still there", until(ctx, "trigger", func() bool {
			list, err := t.client.Triggers(ctx)
			for _, trigger := range list {
				if trigger.FunctionID == "peer::on-state" {
					return false
				}
			}
			return err == nil
		}))
	}},
	{"state-trigger-go", "a Go state trigger; the peer changes the value", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::on-state", nil, 0))
		t.bindHere(ctx, "go::on-state", iii.StateTriggerConfig{Scope: ptr("noticed")})
		t.peerCalls(ctx, "state::set", object{"scope": "noticed", "key": "k", "value": 5}, nil)
		t.equal("event", t.next(ctx, "go::on-state").Payload,
			object{"type": "state", "event_type": "state:created", "scope": "noticed", "key": "k", "old_value": nil, "new_value": 5})
	}},
	{"stream-trigger-peer", "the peer's stream trigger", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-stream", nil, 0)
		t.bind(ctx, "stream", "peer::on-stream", object{"stream_name": "chat", "group_id": "room"}, nil)
		stream := iii.NewStream[object](t.client, "chat")
		_, err := stream.Set(ctx, "room", "m1", object{"text": "hi"})
		t.must("stream::set", err)
		got := t.members("event", t.next(ctx, "peer::on-stream").Payload)
		t.equal("stream", []any{got["type"], got["streamName"], got["groupId"], got["id"]}, []any{"stream", "chat", "room", "m1"})
		t.equal("event", got["event"], object{"type": "create", "data": object{"text": "hi"}})
		t.must("stream::send", stream.Send(ctx, "room", "typing", object{"who": "ada"}))
		got = t.members("event", t.next(ctx, "peer::on-stream").Payload)
		t.equal("event that was sent", got["event"], object{"type": "event", "event": object{"type": "typing", "data": object{"who": "ada"}}})
	}},
	{"stream-trigger-go", "a Go stream trigger; the peer changes the item", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::on-stream", nil, 0))
		t.bindHere(ctx, "go::on-stream", iii.StreamTriggerConfig{StreamName: "news"})
		t.peerCalls(ctx, "stream::set", object{"stream_name": "news", "group_id": "g", "item_id": "i", "data": 1}, nil)
		got := t.members("event", t.next(ctx, "go::on-stream").Payload)
		t.equal("event", got["event"], object{"type": "create", "data": 1})
	}},
	{"join-leave", "stream:join and stream:leave triggers of the peer", joinLeave},
	{"pubsub-go-peer", "publish and subscribe: Go publishes", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-topic", nil, 0)
		t.bind(ctx, "subscribe", "peer::on-topic", object{"topic": "peer-topic"}, nil)
		t.must("publish", t.client.Publish(ctx, "peer-topic", object{"n": 1}))
		t.equal("message", t.next(ctx, "peer::on-topic").Payload, object{"n": 1})
	}},
	{"pubsub-peer-go", "publish and subscribe: the peer publishes", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::on-topic", nil, 0))
		t.bindHere(ctx, "go::on-topic", iii.SubscribeTriggerConfig{Topic: "go-topic"})
		t.peerCalls(ctx, "publish", object{"topic": "go-topic", "data": []int{1, 2}}, nil)
		t.equal("message", t.next(ctx, "go::on-topic").Payload, []int{1, 2})
	}},
	{"cron", "the peer's cron trigger", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-cron", nil, 0)
		handle := t.bind(ctx, "cron", "peer::on-cron", object{"expression": "* * * * * *"}, object{"m": 1})
		e := t.next(ctx, "peer::on-cron")
		got := t.members("event", e.Payload)
		t.equal("trigger", got["trigger"], "cron")
		t.equal("metadata", e.Metadata, object{"m": 1})
		t.value(ctx, "unbind", object{"handle": handle})
	}},
	{"log-trigger", "the peer's log trigger; Go writes the record", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-log", nil, 0)
		t.bind(ctx, "log", "peer::on-log", object{"level": "warn"}, nil)
		t.telemetry.Logger().Info(ctx, "not this", nil)
		t.telemetry.Logger().Warn(ctx, "look here", object{"n": 1})
		got := t.members("event", t.next(ctx, "peer::on-log").Payload)
		t.equal("record", []any{got["severity_text"], got["body"], got["service_name"]}, []any{"WARN", "look here", goWorker})
	}},
	{"log-trigger-go", "a Go log trigger with a level; the peer writes the record", func(ctx context.Context, t *trial) {
		ctx, cancel := context.WithTimeout(ctx, t.patience)
		defer cancel()
		defer unregister(t.listenHere("go::on-log", nil, 0))
		trigger := t.bindHere(ctx, "go::on-log", iii.LogTriggerConfig{Level: "warn"})
		defer trigger.Unregister()
		t.value(ctx, "log", object{"level": "warn", "message": "look there", "data": object{}})
		got := t.members("event", t.next(ctx, "go::on-log").Payload)
		t.equal("record", []any{got["severity_number"], got["body"], got["service_name"]}, []any{13, "look there", t.peerName()})
	}},
	{"provider-peer", "a trigger type that the peer provides and Go uses", providerPeer},
	{"provider-go", "a trigger type that Go provides and the peer uses", providerGo},
	{"observe", "an observer of the peer is rejected, and calls still work", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "observe", object{"function_id": "go::echo", "target": "peer::echo"})
		if t.fails("observer", r, "UNSUPPORTED", ""); len(t.differences) > 0 {
			return
		}
		t.equal("result of a call after that", t.peerCalls(ctx, "go::echo", 1, nil), 1)
	}},
}

func ptr[T any](v T) *T { return &v }

func joinLeave(ctx context.Context, t *trial) {
	t.listen(ctx, "peer::on-join", nil, 0)
	t.bind(ctx, "stream:join", "peer::on-join", object{}, nil)
	t.listen(ctx, "peer::on-leave", nil, 0)
	t.bind(ctx, "stream:leave", "peer::on-leave", object{}, nil)
	follow := func() (next func() (iii.StreamMessage, error, bool), stop func()) {
		return iter.Pull2(iii.Subscribe(ctx, t.engine.streams, iii.StreamSubscription{StreamName: "lobby", GroupID: "g", SubscriptionID: "s1"}))
	}
	next, stop := follow()
	m, err, _ := next()
	t.must("subscription", err)
	t.equal("first message", m.Event.Type, "sync")
	want := object{"subscription_id": "s1", "stream_name": "lobby", "group_id": "g", "id": nil, "context": nil}
	t.equal("event of the join", t.next(ctx, "peer::on-join").Payload, want)
	stop()
	t.equal("event of the leave", t.next(ctx, "peer::on-leave").Payload, want)

	t.value(ctx, "unregister", object{"function_id": "peer::on-join"})
	t.listen(ctx, "peer::refuse", object{"unauthorized": true}, 0)
	t.bind(ctx, "stream:join", "peer::refuse", object{}, nil)
	next, stop = follow()
	defer stop()
	for {
		_, err, more := next()
		if err != nil || !more {
			if !errors.Is(err, iii.ErrForbidden) {
				t.errorf("a join that the peer refuses: got %v, want %v", err, iii.ErrForbidden)
			}
			break
		}
	}
	t.value(ctx, "unregister", object{"function_id": "peer::refuse"})
}

func providerPeer(ctx context.Context, t *trial) {
	t.value(ctx, "provide", object{"type": "peer-bell"})
	t.must("trigger type", until(ctx, "peer-bell is not known", func() bool {
		list, err := t.client.TriggerTypes(ctx)
		for _, known := range list {
			if known.ID == "peer-bell" {
				return err == nil
			}
		}
		return false
	}))
	defer unregister(t.listenHere("go::on-bell", "rung", 0))
	trigger, err := t.client.Trigger("go::on-bell", iii.CustomTrigger{Type: "peer-bell", Config: object{"tone": "c"}}, iii.WithTriggerMetadata(object{"m": 1}))
	t.must("trigger", err)
	bound := t.members("binding", t.next(ctx, "bound").Payload)
	t.equal("binding", []any{bound["id"], bound["function_id"], bound["config"], bound["metadata"]},
		[]any{trigger.ID(), "go::on-bell", object{"tone": "c"}, object{"m": 1}})
	t.equal("result of the function that was fired", t.value(ctx, "fire", object{"id": trigger.ID(), "payload": object{"n": 1}}), "rung")
	e := t.next(ctx, "go::on-bell")
	t.equal("payload", e.Payload, object{"n": 1})
	t.equal("metadata", e.Metadata, object{"m": 1})
	t.must("unregister", trigger.Unregister())
	t.equal("id of the binding that ends", t.members("unbinding", t.next(ctx, "unbound").Payload)["id"], trigger.ID())

	refused := make(chan error, 1)
	_, err = t.client.Trigger("go::on-bell", iii.CustomTrigger{Type: "peer-bell", Config: object{"refuse": true}},
		iii.WithTriggerErrorHandler(func(err error) { refused <- err }))
	t.must("trigger", err)
	select {
	case err := <-refused:
		t.failsWith("a binding that the peer refuses", err, "trigger_registration_failed")
	case <-ctx.Done():
		t.errorf("a binding that the peer refuses: no answer")
	}
}

// bell is the harness's trigger provider.
type bell struct{ bound, unbound chan iii.TriggerBinding }

func (b bell) Bind(_ context.Context, binding iii.TriggerBinding) error {
	b.bound <- binding
	return nil
}

func (b bell) Unbind(_ context.Context, id string) error {
	b.unbound <- iii.TriggerBinding{ID: id}
	return nil
}

func providerGo(ctx context.Context, t *trial) {
	b := bell{make(chan iii.TriggerBinding, 10), make(chan iii.TriggerBinding, 10)}
	t.must("trigger type", t.client.HandleTriggerType(iii.TriggerType{ID: "go-bell", Description: "a bell"}, b))
	t.listen(ctx, "peer::on-bell", "rung", 0)
	handle := t.bind(ctx, "go-bell", "peer::on-bell", object{"tone": "c"}, object{"m": 1})
	select {
	case binding := <-b.bound:
		t.equal("binding", []any{binding.FunctionID, binding.Config, binding.Metadata}, []any{"peer::on-bell", object{"tone": "c"}, object{"m": 1}})
		result, err := binding.Fire(ctx, object{"n": 1})
		t.must("fire", err)
		t.equal("result of the function that was fired", result, "rung")
	case <-ctx.Done():
		t.must("binding", ctx.Err())
	}
	e := t.next(ctx, "peer::on-bell")
	t.equal("payload", e.Payload, object{"n": 1})
	t.equal("metadata", e.Metadata, object{"m": 1})
	t.value(ctx, "unbind", object{"handle": handle})
	select {
	case <-b.unbound:
	case <-ctx.Done():
		t.errorf("the trigger that was taken back stays bound")
	}
}
