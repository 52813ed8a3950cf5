package main

import (
	"context"

	"github.com/iii-go/iii"
)

var stores = []scenario{
	{"state", "state functions: the peer writes and Go reads", func(ctx context.Context, t *trial) {
		got := t.peerCalls(ctx, "state::set", object{"scope": "shared", "key": "k", "value": object{"n": 1}}, nil)
		t.equal("state::set", got, object{"old_value": nil, "new_value": object{"n": 1}})
		state := iii.NewState[object](t.client, "shared")
		value, there, err := state.Get(ctx, "k")
		t.must("state::get", err)
		t.equal("what Go reads", []any{there, value}, []any{true, object{"n": 1}})
		got = t.peerCalls(ctx, "state::update", object{"scope": "shared", "key": "k", "ops": updateOps}, nil)
		t.equal("state::update", got, object{"old_value": object{"n": 1}, "new_value": updated})
		_, err = state.Set(ctx, "k2", object{"by": "go"})
		t.must("state::set", err)
		t.equal("state::list", t.peerCalls(ctx, "state::list", object{"scope": "shared"}, nil), []any{updated, object{"by": "go"}})
		t.equal("state::get", t.peerCalls(ctx, "state::get", object{"scope": "shared", "key": "k2"}, nil), object{"by": "go"})
		t.equal("state::delete", t.peerCalls(ctx, "state::delete", object{"scope": "shared", "key": "k2"}, nil), object{"by": "go"})
		t.equal("state::get of a key that is not there", t.peerCalls(ctx, "state::get", object{"scope": "shared", "key": "k2"}, nil), nil)
		got = t.peerCalls(ctx, "state::update", object{"scope": "shared", "key": "k", "ops": refusedOps}, nil)
		t.equal("code of an operation that is refused", errorCodes(t.members("state::update", got)), []any{"increment.not_number"})
	}},
	{"stream", "stream functions: the peer writes and Go reads", func(ctx context.Context, t *trial) {
		item := func(more object) object {
			all := object{"stream_name": "board", "group_id": "g", "item_id": "i"}
			for key, value := range more {
				all[key] = value
			}
			return all
		}
		t.equal("stream::set", t.peerCalls(ctx, "stream::set", item(object{"data": object{"n": 1}}), nil), object{"old_value": nil, "new_value": object{"n": 1}})
		got := t.peerCalls(ctx, "stream::update", item(object{"ops": updateOps}), nil)
		t.equal("stream::update", got, object{"old_value": object{"n": 1}, "new_value": updated})
		stream := iii.NewStream[object](t.client, "board")
		value, there, err := stream.Get(ctx, "g", "i")
		t.must("stream::get", err)
		t.equal("what Go reads", []any{there, value}, []any{true, updated})
		t.equal("stream::list", t.peerCalls(ctx, "stream::list", object{"stream_name": "board", "group_id": "g"}, nil), []any{updated})
		t.equal("stream::list_groups", t.peerCalls(ctx, "stream::list_groups", object{"stream_name": "board"}, nil), []any{"g"})
		t.equal("stream::delete", t.peerCalls(ctx, "stream::delete", item(nil), nil), object{"old_value": updated})
		t.equal("stream::get of an item that is not there", t.peerCalls(ctx, "stream::get", item(nil), nil), nil)
	}},
	{"stream-socket", "an event that the peer sends and Go reads from the stream socket", func(ctx context.Context, t *trial) {
		for m, err := range iii.Subscribe(ctx, t.engine.streams, iii.StreamSubscription{StreamName: "live", GroupID: "g"}) {
			t.must("subscription", err)
			if m.Event.Type == "sync" { // subscribed
				t.peerCalls(ctx, "stream::set", object{"stream_name": "live", "group_id": "g", "item_id": "i", "data": "x"}, nil)
				continue
			}
			t.equal("event", []any{m.Event.Type, m.Event.Data, m.ID}, []any{"create", "x", "i"})
			return
		}
		t.errorf("no event: %v", context.Cause(ctx))
	}},
	{"stream-provider", "a stream that the peer stores itself", func(ctx context.Context, t *trial) {
		t.value(ctx, "store-stream", object{"name": "shelf"})
		for _, op := range []string{"get", "set", "delete", "list", "list_groups"} {
			t.must("registration", t.registered(ctx, "stream::"+op+"(shelf)"))
		}
		stream := iii.NewStream[object](t.client, "shelf")
		set, err := stream.Set(ctx, "g", "i", object{"n": 1})
		t.must("stream::set", err)
		t.equal("stream::set", []any{set.HadOld, set.New}, []any{false, object{"n": 1}})
		set, err = stream.Set(ctx, "g", "i", object{"n": 2})
		t.must("stream::set", err)
		t.equal("stream::set again", []any{set.HadOld, set.Old, set.New}, []any{true, object{"n": 1}, object{"n": 2}})
		list, err := stream.List(ctx, "g")
		t.must("stream::list", err)
		t.equal("stream::list", list, []any{object{"n": 2}})
		groups, err := stream.Groups(ctx)
		t.must("stream::list_groups", err)
		t.equal("stream::list_groups", groups, []string{"g"})
		old, there, err := stream.Delete(ctx, "g", "i")
		t.must("stream::delete", err)
		t.equal("stream::delete", []any{there, old}, []any{true, object{"n": 2}})
		_, there, err = stream.Get(ctx, "g", "i")
		t.must("stream::get", err)
		t.equal("stream::get of an item that is not there", there, false)
	}},
}

// updateOps contains every kind of operation. Applied to {"n":1}, the operations result in the
// value updated.
var (
	updateOps = []object{
		{"type": "increment", "path": "n", "by": 5},
		{"type": "decrement", "path": "n", "by": 2},
		{"type": "set", "path": "name", "value": "x"},
		{"type": "append", "path": "list", "value": 1},
		{"type": "append", "path": []string{"deep", "list"}, "value": "y"},
		{"type": "merge", "path": []string{"deep"}, "value": object{"flag": true}},
		{"type": "set", "path": "gone", "value": 1},
		{"type": "remove", "path": "gone"},
	}
	updated    = object{"n": 4, "name": "x", "list": []int{1}, "deep": object{"list": []string{"y"}, "flag": true}}
	refusedOps = []object{{"type": "increment", "path": "name", "by": 1}}
)

// errorCodes returns the rejected operations' error codes from an update's result.
func errorCodes(result map[string]any) []any {
	codes := []any{}
	list, _ := result["errors"].([]any)
	for _, e := range list {
		m, _ := e.(map[string]any)
		codes = append(codes, m["code"])
	}
	return codes
}
