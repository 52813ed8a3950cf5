package iiitest

import (
	"fmt"
	"testing"
)

func TestStateFunctions(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.want(``, "state::get", `{"scope":"s","key":"a"}`)
		p.want(`{"groups":[]}`, "state::list_groups", `{}`)
		p.want(`[]`, "state::list", `{"scope":"s"}`)
		p.want(`{"new_value":{"a":"<b>","z":18446744073709551615},"old_value":null}`,
			"state::set", `{"scope":"s","key":"a","value":{"z":18446744073709551615,"a":"<b>"}}`)
		p.want(`{"a":"<b>","z":18446744073709551615}`, "state::get", `{"scope":"s","key":"a"}`)
		p.want(`{"new_value":2.0,"old_value":null}`, "state::set", `{"scope":"s","key":"","data":2.0}`)
		p.want(`{"new_value":null,"old_value":null}`, "state::set", `{"scope":"s","key":"nul","value":null}`)
		p.want(`null`, "state::get", `{"scope":"s","key":"nul"}`)
		p.want(`{"new_value":1,"old_value":{"a":"<b>","z":18446744073709551615}}`, "state::set", `{"scope":"s","key":"a","value":1}`)
		p.want(`[1,2.0,null]`, "state::list", `{"scope":"s"}`)
		p.want(`1`, "state::delete", `{"scope":"s","key":"a"}`)
		p.want(``, "state::delete", `{"scope":"s","key":"a"}`)
		p.want(`null`, "state::delete", `{"scope":"s","key":"nul"}`)
		p.want(`{"new_value":1,"old_value":null}`, "state::set", `{"scope":"s","key":"a","value":1}`)
		p.want(`[2.0,1]`, "state::list", `{"scope":"s"}`)
		p.want(`{"new_value":1,"old_value":null}`, "state::set", `{"scope":"gone","key":"a","value":1}`)
		p.want(`1`, "state::delete", `{"scope":"gone","key":"a"}`)
		p.want(`{"groups":["gone","s"]}`, "state::list_groups", `{}`)
		p.want(`{"new_value":{},"old_value":null}`, "state::update", `{"scope":"s","key":"empty","ops":[]}`)
	})
}

func TestStateRejectsInvalidInput(t *testing.T) {
	tests := []struct{ id, data, detail string }{
		{"state::get", `{"scope":"s"}`, "missing field `key`"},
		{"state::get", `{"key":"s"}`, "missing field `scope`"},
		{"state::get", `null`, "invalid type: null, expected struct StateGetInput"},
		{"state::set", `{"scope":1,"key":"k","value":"v"}`, "invalid type: integer `1`, expected a string"},
		{"state::set", `{"scope":"s","key":"k"}`, "missing field `value`"},
		{"state::set", `{"scope":"s","key":"k","value":1,"data":1}`, "duplicate field `value`"},
		{"state::delete", `{"scope":"s","key":null}`, "invalid type: null, expected a string"},
		{"state::list", `{}`, "missing field `scope`"},
	}
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, test := range tests {
			p.want("!deserialization_error: Failed to deserialize input for "+test.id+": "+test.detail, test.id, test.data)
		}
	})
}

func TestStateTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, id := range []string{"any", "scope", "key", "blank", "cond"} {
			p.handle(id, "null")
		}
		p.handleFunc("big", func(data []byte) string { return "false" })
		p.trigger("t1", "state", "any", `{}`, `,"metadata":{"m":1}`)
		p.trigger("t2", "state", "scope", `{"scope":"s","key":null}`, "")
		p.trigger("t3", "state", "key", `{"scope":"s","key":"k"}`, "")
		p.trigger("t4", "state", "blank", `{"scope":""}`, "")
		p.trigger("t5", "state", "cond", `{"key":"c","condition_function_id":"big"}`, `,"metadata":1`)
		p.fence()

		p.call("state::set", `{"scope":"s","key":"k","value":1}`)
		event := `{"event_type":"state:created","key":"k","new_value":1,"old_value":null,"scope":"s","type":"state"}`
		p.wantCalls(`any `+event+` metadata {"m":1}`, `scope `+event, `key `+event)

		p.call("state::set", `{"scope":"","key":"k","value":null}`)
		event = `{"event_type":"state:created","key":"k","new_value":null,"old_value":null,"scope":"","type":"state"}`
		p.wantCalls(`any `+event+` metadata {"m":1}`, `blank `+event)

		// An item can have the value null.
		p.call("state::update", `{"scope":"","key":"k","ops":[{"type":"set","path":"","value":2}]}`)
		event = `{"event_type":"state:updated","key":"k","new_value":2,"old_value":null,"scope":"","type":"state"}`
		p.wantCalls(`any `+event+` metadata {"m":1}`, `blank `+event)

		p.call("state::delete", `{"scope":"none","key":"k"}`)
		event = `{"event_type":"state:deleted","key":"k","new_value":null,"old_value":null,"scope":"none","type":"state"}`
		p.wantCalls(`any ` + event + ` metadata {"m":1}`)

		p.call("state::set", `{"scope":"x","key":"c","value":1}`)
		event = `{"event_type":"state:created","key":"c","new_value":1,"old_value":null,"scope":"x","type":"state"}`
		p.wantCalls(`any `+event+` metadata {"m":1}`, `big `+event)

		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.trigger("t5", "state", "scope", `{"scope":"x"}`, "") // replaces the trigger with this id
		p.fence()
		p.call("state::delete", `{"scope":"x","key":"c"}`)
		p.wantCalls(`scope {"event_type":"state:deleted","key":"c","new_value":null,"old_value":1,"scope":"x","type":"state"}`)
	})
}

func TestStateTriggerRefused(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.trigger("t1", "state", "f", `null`, "")
		p.trigger("t2", "state", "f", `{"scope":1}`, "")
		p.wantCalls("t1 refused: trigger_registration_failed: Failed to parse trigger config: invalid type: null, expected struct StateTriggerConfig",
			"t2 refused: trigger_registration_failed: Failed to parse trigger config: invalid type: integer `1`, expected a string")
	})
}

func TestTriggerConditions(t *testing.T) {
	tests := []struct {
		result string
		runs   bool
	}{
		{"true", true}, {"false", false}, {"null", true}, {"", true}, {"0", true}, {`"false"`, true}, {"!BROKEN", false},
	}
	for _, test := range tests {
		t.Run(test.result, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				p.handle("cond", test.result)
				p.handle("first", "!BROKEN") // does not affect other triggers
				p.handle("f", "")
				p.trigger("t0", "state", "first", `{}`, "")
				p.trigger("t1", "state", "f", `{"condition_function_id":"cond"}`, `,"metadata":{"m":1}`)
				p.trigger("t2", "state", "gone", `{}`, "")
				p.trigger("t3", "state", "f", `{}`, "")
				p.fence()
				p.call("state::set", `{"scope":"s","key":"k","value":1}`)
				event := `{"event_type":"state:created","key":"k","new_value":1,"old_value":null,"scope":"s","type":"state"}`
				want := []string{"first " + event, "cond " + event}
				if test.runs {
					want = append(want, "f "+event+` metadata {"m":1}`)
				}
				p.wantCalls(append(want, "f "+event)...)
			})
		})
	}
}

// The triggers of one event run in order. The triggers of another event may run in between.
func TestTriggersOfOneEventRunInOrder(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		other := newPeer(t, e)
		hold := make(chan struct{})
		other.handleFunc("slow", func(data []byte) string {
			<-hold
			return ""
		})
		p.handle("fast", "")
		p.trigger("t1", "state", "slow", `{"key":"k"}`, "")
		p.trigger("t2", "state", "fast", `{}`, "")
		p.fence()
		other.fence()
		p.call("state::set", `{"scope":"s","key":"k","value":1}`)
		p.wantCalls()
		p.call("state::set", `{"scope":"s","key":"l","value":2}`)
		p.wantCalls(`fast {"event_type":"state:created","key":"l","new_value":2,"old_value":null,"scope":"s","type":"state"}`)
		close(hold)
		p.wantCalls(`fast {"event_type":"state:created","key":"k","new_value":1,"old_value":null,"scope":"s","type":"state"}`)
	})
}

// Observers receive changes to a value in order: each event's old value is the new value of the
// event before.
func TestStateChangesAreReportedInOrder(t *testing.T) {
	e := Start(t)
	w := observing(t, e, "w").host("f")
	w.observe("o1", "state::on-changed", "f", `,"deliver":"input"`)
	w.wantResult("o1", "active")
	const workers, each = 8, 500
	for i := range workers {
		go func() {
			for j := range each {
				_, _ = e.invoke(t.Context(), "state::set", defaultNamespace, fmt.Appendf(nil, `{"scope":"s","key":"k","value":"%d/%d"}`, i, j))
			}
		}()
	}
	var last any
	for n := range workers * each {
		m := w.recv()
		event, _ := m["data"].(map[string]any)
		if event["old_value"] != last {
			t.Fatalf("event %d: old value %v, want %v", n, event["old_value"], last)
		}
		last = event["new_value"]
		w.reply(m, `"result":null`)
	}
}
