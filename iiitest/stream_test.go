package iiitest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStreamFunctions(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.want(`{"count":0,"stream":[]}`, "stream::list_all", `{}`)
		p.want(``, "stream::get", `{"stream_name":"s","group_id":"g","item_id":"a"}`)
		p.want(`[]`, "stream::list", `{"stream_name":"s","group_id":"g"}`)
		p.want(`[]`, "stream::list_groups", `{"stream_name":"s"}`)
		p.want(`{"new_value":{"n":1},"old_value":null}`, "stream::set", `{"stream_name":"s","group_id":"g","item_id":"a","data":{"n":1}}`)
		p.want(`{"new_value":null,"old_value":null}`, "stream::set", `{"stream_name":"s","group_id":"g","item_id":"b","data":null}`)
		p.want(`{"new_value":2,"old_value":{"n":1}}`, "stream::set", `{"stream_name":"s","group_id":"g","item_id":"a","data":2}`)
		p.want(`null`, "stream::get", `{"stream_name":"s","group_id":"g","item_id":"b"}`)
		p.want(`[2,null]`, "stream::list", `{"stream_name":"s","group_id":"g"}`)
		p.want(`{"new_value":{"x":"t"},"old_value":null}`, "stream::update",
			`{"stream_name":"s","group_id":"f","item_id":"a","ops":[{"type":"append","path":"x","value":"t"}]}`)
		p.want(`["f","g"]`, "stream::list_groups", `{"stream_name":"s"}`)
		p.want(`{"old_value":2}`, "stream::delete", `{"stream_name":"s","group_id":"g","item_id":"a"}`)
		p.want(`{"old_value":null}`, "stream::delete", `{"stream_name":"s","group_id":"g","item_id":"a"}`)
		p.want(`{"old_value":null}`, "stream::delete", `{"stream_name":"s","group_id":"g","item_id":"b"}`)
		p.want(`[]`, "stream::list", `{"stream_name":"s","group_id":"g"}`)
		p.want(`null`, "stream::send", `{"stream_name":"s","group_id":"none","type":"t","data":null}`)
		p.want(`{"new_value":1,"old_value":null}`, "stream::set", `{"stream_name":"a:b","group_id":"c:d","item_id":"e:f","data":1}`)
		p.want(`{"count":2,"stream":[{"groups":["c:d"],"id":"a:b"},{"groups":["f","g"],"id":"s"}]}`, "stream::list_all", `{}`)
		p.call("stream::set", `{"stream_name":"a","group_id":"b:c:d","item_id":"i","data":1}`)
		p.want(`["b:c:d"]`, "stream::list_groups", `{"stream_name":"a"}`)
		p.want(`["c:d"]`, "stream::list_groups", `{"stream_name":"a:b"}`)
		p.want(`["d"]`, "stream::list_groups", `{"stream_name":"a:b:c"}`)
	})
}

func TestStreamRejectsInvalidInput(t *testing.T) {
	tests := []struct{ id, data, detail string }{
		{"stream::get", `{"stream_name":"todos"}`, "missing field `group_id`"},
		{"stream::get", `{"group_id":"g"}`, "missing field `stream_name`"},
		{"stream::set", `{"stream_name":"s","group_id":"g","item_id":"i"}`, "missing field `data`"},
		{"stream::set", `["s","g"]`, "invalid length 2, expected struct StreamSetInput with 4 elements"},
		{"stream::delete", `{"stream_name":"s","group_id":"g","item_id":1}`, "invalid type: integer `1`, expected a string"},
		{"stream::update", `{"stream_name":"s","group_id":"g","item_id":"i"}`, "missing field `ops`"},
		{"stream::list", `{"stream_name":"s"}`, "missing field `group_id`"},
		{"stream::list_groups", `{}`, "missing field `stream_name`"},
		{"stream::send", `{"stream_name":"s","group_id":"g","data":1}`, "missing field `type`"},
		{"stream::send", `{"stream_name":"s","group_id":"g","type":"t"}`, "missing field `data`"},
	}
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, test := range tests {
			p.want("!deserialization_error: Failed to deserialize input for "+test.id+": "+test.detail, test.id, test.data)
		}
	})
}

var timestamps = regexp.MustCompile(`"timestamp":\d+,`)

// change returns a stream trigger's call as a peer records it, without the timestamp.
func change(functionID, event, stream, group, id string) string {
	return fmt.Sprintf(`%s {"event":%s,"groupId":"%s","id":%s,"streamName":"%s","type":"stream"}`, functionID, event, group, id, stream)
}

func (p *peer) wantChanges(want ...string) {
	p.t.Helper()
	got := p.take()
	for i := range got {
		if strings.Contains(got[i], `"type":"stream"`) && !timestamps.MatchString(got[i]) {
			p.t.Errorf("no timestamp in %s", got[i])
		}
		got[i] = timestamps.ReplaceAllString(got[i], "")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("called (-want +got):\n%s", diff)
	}
}

func TestStreamTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, id := range []string{"all", "group", "item", "blank", "cond", "no"} {
			p.handle(id, "null")
		}
		p.handle("no", "false")
		p.trigger("t1", "stream", "all", `{"stream_name":"s","group_id":null}`, `,"metadata":{"m":1}`)
		p.trigger("t2", "stream", "group", `{"stream_name":"s","group_id":"g2"}`, "")
		p.trigger("t3", "stream", "item", `{"stream_name":"s","item_id":"i"}`, "")
		p.trigger("t4", "stream", "blank", `{"stream_name":"s","group_id":"","item_id":""}`, "")
		p.trigger("t5", "stream", "cond", `{"stream_name":"cond","condition_function_id":"no"}`, "")
		p.fence()

		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":{"n":1}}`)
		event := `{"data":{"n":1},"type":"create"}`
		p.wantChanges(change("all", event, "s", "g", `"i"`)+` metadata {"m":1}`, change("item", event, "s", "g", `"i"`), change("blank", event, "s", "g", `"i"`))

		p.call("stream::set", `{"stream_name":"s","group_id":"g2","item_id":"j","data":null}`)
		event = `{"data":null,"type":"create"}`
		p.wantChanges(change("all", event, "s", "g2", `"j"`)+` metadata {"m":1}`, change("group", event, "s", "g2", `"j"`), change("blank", event, "s", "g2", `"j"`))

		// An item can have the value null.
		p.call("stream::update", `{"stream_name":"s","group_id":"g2","item_id":"j","ops":[]}`)
		event = `{"data":null,"type":"update"}`
		p.wantChanges(change("all", event, "s", "g2", `"j"`)+` metadata {"m":1}`, change("group", event, "s", "g2", `"j"`), change("blank", event, "s", "g2", `"j"`))
		p.call("stream::delete", `{"stream_name":"s","group_id":"g2","item_id":"j"}`)
		event = `{"data":null,"type":"delete"}`
		p.wantChanges(change("all", event, "s", "g2", `"j"`)+` metadata {"m":1}`, change("group", event, "s", "g2", `"j"`), change("blank", event, "s", "g2", `"j"`))
		p.call("stream::delete", `{"stream_name":"s","group_id":"g2","item_id":"j"}`)
		p.wantChanges()

		p.call("stream::send", `{"stream_name":"s","group_id":"g2","item_id":"i","type":"pulse","data":[1]}`)
		event = `{"event":{"data":[1],"type":"pulse"},"type":"event"}`
		p.wantChanges(change("all", event, "s", "g2", `null`)+` metadata {"m":1}`, change("group", event, "s", "g2", `null`), change("blank", event, "s", "g2", `null`))
		p.call("stream::send", `{"stream_name":"s","group_id":"g","id":"i","type":"pulse","data":[1]}`)
		p.wantChanges(change("all", event, "s", "g", `"i"`)+` metadata {"m":1}`, change("item", event, "s", "g", `"i"`), change("blank", event, "s", "g", `"i"`))

		p.call("stream::set", `{"stream_name":"cond","group_id":"g","item_id":"i","data":1}`)
		p.wantChanges(change("no", `{"data":1,"type":"create"}`, "cond", "g", `"i"`))

		// If two triggers have the same id, both fire, and unregistering the id removes both.
		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.trigger("t2", "stream", "all", `{"stream_name":"s","group_id":"g2"}`, "")
		p.send(`{"type":"unregistertrigger","id":"t4"}`)
		p.fence()
		p.call("stream::set", `{"stream_name":"s","group_id":"g2","item_id":"k","data":1}`)
		event = `{"data":1,"type":"create"}`
		p.wantChanges(change("group", event, "s", "g2", `"k"`), change("all", event, "s", "g2", `"k"`))
		p.send(`{"type":"unregistertrigger","id":"t2"}`)
		p.fence()
		p.call("stream::set", `{"stream_name":"s","group_id":"g2","item_id":"k","data":1}`)
		p.wantChanges()
	})
}

func TestStreamTriggerRefused(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.trigger("t1", "stream", "f", `{}`, "")
		p.trigger("t2", "stream", "f", `{"stream_name":null}`, "")
		p.trigger("t3", "stream", "f", `7`, "")
		p.trigger("t4", "stream", "f", `{"stream_name":"s","group_id":1}`, "")
		const refused = " refused: trigger_registration_failed: Failed to deserialize stream trigger"
		p.wantCalls("t1"+refused+": missing field `stream_name`", "t2"+refused+": missing field `stream_name`", "t3"+refused, "t4"+refused)
	})
}

func TestStreamProvider(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("saw", "")
		p.trigger("t1", "stream", "saw", `{"stream_name":"own"}`, "")
		p.handle("stream::get(own)", `null`)
		p.handle("stream::set(own)", `{"new_value":{"n":1}}`)
		p.handle("stream::delete(own)", `{"old_value":3}`)
		p.handle("stream::list(own)", `{"odd":true}`)
		p.handle("stream::list_groups(own)", ``)
		p.fence()
		item := `"group_id":"g","item_id":"i","stream_name":"own"`
		input := `{"group_id":"g","item_id":"i","stream_name":"own"}`

		p.want(``, "stream::get", `{`+item+`,"more":1}`)
		p.wantChanges(`stream::get(own) ` + input)
		p.want(`{"odd":true}`, "stream::list", `{"stream_name":"own","group_id":"g"}`)
		p.wantChanges(`stream::list(own) {"group_id":"g","stream_name":"own"}`)
		p.want(``, "stream::list_groups", `{"stream_name":"own"}`)
		p.wantChanges(`stream::list_groups(own) {"stream_name":"own"}`)
		p.want(`{"new_value":{"n":1},"old_value":null}`, "stream::set", `{`+item+`,"data":5}`)
		p.wantChanges(`stream::set(own) {"data":5,"group_id":"g","item_id":"i","stream_name":"own"}`,
			change("saw", `{"data":{"n":1},"type":"create"}`, "own", "g", `"i"`))
		p.want(`{"old_value":3}`, "stream::delete", `{`+item+`}`)
		p.wantChanges(`stream::delete(own) `+input, change("saw", `{"data":3,"type":"delete"}`, "own", "g", `"i"`))

		// If the worker does not provide updates, an update goes to the engine's own store.
		p.want(`{"new_value":{"n":1},"old_value":null}`, "stream::update", `{`+item+`,"ops":[{"type":"increment","path":"n","by":1}]}`)
		p.wantChanges(change("saw", `{"data":{"n":1},"type":"create"}`, "own", "g", `"i"`))
		p.want(`{"count":1,"stream":[{"groups":["g"],"id":"own"}]}`, "stream::list_all", `{}`)

		p.handle("stream::update(own)", `{"old_value":1,"new_value":2,"errors":[{"op_index":0,"code":"c","message":"m"}]}`)
		p.fence()
		p.want(`{"errors":[{"code":"c","message":"m","op_index":0}],"new_value":2,"old_value":1}`, "stream::update",
			`{`+item+`,"ops":[{"value":1,"type":"set","path":"a","more":1},{"type":"merge","path":null,"value":{"b":2}},{"type":"set","path":""}]}`)
		p.wantChanges(`stream::update(own) {"group_id":"g","item_id":"i","ops":[{"path":"a","type":"set","value":1},{"type":"merge","value":{"b":2}},{"path":"","type":"set","value":null}],"stream_name":"own"}`,
			change("saw", `{"data":2,"type":"update"}`, "own", "g", `"i"`))
	})
}

func TestStreamProviderFails(t *testing.T) {
	const item = `{"group_id":"g","item_id":"i","stream_name":"own"`
	tests := []struct{ op, input, result, want string }{
		{"get", item + `}`, "!GONE", "!GONE: the handler says no"},
		{"list", item + `}`, "!GONE", "!GONE: the handler says no"},
		{"list_groups", item + `}`, "!GONE", "!GONE: the handler says no"},
		{"set", item + `,"data":1}`, "!GONE", "!STREAM_SET_ERROR: Failed to set value: Failed to invoke function: GONE: the handler says no"},
		{"set", item + `,"data":1}`, "null", "!STREAM_SET_ERROR: Failed to set value: Function returned no result"},
		{"set", item + `,"data":1}`, `{"old_value":1}`, "!JSON_ERROR: Failed to convert result to value: missing field `new_value`"},
		{"set", item + `,"data":1}`, `7`, "!JSON_ERROR: Failed to convert result to value: invalid type: integer `7`, expected struct StreamSetResult"},
		{"update", item + `,"ops":[]}`, "!GONE", "!STREAM_UPDATE_ERROR: Failed to update value: Failed to invoke function: GONE: the handler says no"},
		{"update", item + `,"ops":[]}`, "", "!STREAM_UPDATE_ERROR: Failed to update value: Function returned no result"},
		{"update", item + `,"ops":[]}`, `{"new_value":1,"errors":1}`, "!JSON_ERROR: Failed to convert result to value: invalid type: integer `1`, expected a sequence"},
		{"delete", item + `}`, "!GONE", "!STREAM_DELETE_ERROR: Failed to delete value: Failed to invoke function: GONE: the handler says no"},
		{"delete", item + `}`, "", "!STREAM_DELETE_ERROR: Failed to delete value: Function returned no result"},
		{"delete", item + `}`, "[]", "!JSON_ERROR: Failed to convert result to value: invalid length 0, expected struct StreamDeleteResult with 1 element"},
	}
	for _, test := range tests {
		t.Run(test.op+" "+test.result, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				p.handle("stream::"+test.op+"(own)", test.result)
				p.handle("saw", "")
				p.trigger("t1", "stream", "saw", `{"stream_name":"own"}`, "")
				p.fence()
				p.want(test.want, "stream::"+test.op, test.input)
				if got := p.take(); len(got) != 1 {
					t.Errorf("calls %q, want that of the provider alone", got)
				}
			})
		})
	}
}
