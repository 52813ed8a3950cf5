package iiitest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// names returns the given member of each item in the named list, separated by spaces.
func names(m map[string]any, list, member string) string {
	r, _ := m["result"].(map[string]any)
	var out []string
	items, _ := r[list].([]any)
	for _, x := range items {
		out = append(out, fmt.Sprint(x.(map[string]any)[member]))
	}
	return strings.Join(out, " ")
}

func TestListFunctions(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	other := dial(t, e).register("other", `,"namespace":"blue"`)
	c.send(`{"type":"registerfunction","id":"z::cart","description":"the basket"}`)
	c.send(`{"type":"registerfunction","id":"cart::add"}`)
	c.send(`{"type":"registerfunction","id":"a::hidden","description":"of the cart","metadata":{"internal":true}}`)
	c.send(`{"type":"registerfunction","id":"a::total","description":"sum of the CART","metadata":{"internal":"yes"}}`)
	c.sync()
	other.function("cart::add")
	for _, test := range []struct{ input, want string }{
		{`{"worker":"c"}`, "a::total cart::add z::cart"},
		{`{"worker":"c","include_internal":true}`, "a::hidden a::total cart::add z::cart"},
		{`{"search":"Cart"}`, "cart::add cart::add z::cart a::total"},
		{`{"prefix":"cart"}`, "cart::add cart::add"},
		{`{"workers":["other","nobody"]}`, "cart::add"},
		{`{"prefix":"engine::log::","include_internal":true}`, "engine::log::debug engine::log::error engine::log::info engine::log::trace engine::log::warn"},
		{`{"prefix":"engine::log"}`, ""},
		{`{"prefix":"engine::queue"}`, "engine::queue::dlq_messages engine::queue::dlq_topics engine::queue::enqueue engine::queue::list_topics engine::queue::topic_stats"},
	} {
		if got := names(c.call("engine::functions::list", test.input), "functions", "function_id"); got != test.want {
			t.Errorf("%s: got %q, want %q", test.input, got, test.want)
		}
	}
}

func TestFunctionInfo(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	blue, green := dial(t, e).register("b", `,"namespace":"blue"`), dial(t, e).register("g", `,"namespace":"green"`)
	blue.function("f::one", "f::two")
	green.function("f::two")
	for _, test := range []struct{ input, want string }{
		{`{"function_id":"f::one"}`, `{"function_id":"f::one","namespace":"blue","worker_name":"b","registered_triggers":[]}`},
		{`{"function_id":"f::two","namespace":"green"}`, `{"function_id":"f::two","namespace":"green","worker_name":"g","registered_triggers":[]}`},
		{`{"function_ids":["f::none","f::one","f::none"]}`,
			`{"functions":[{"function_id":"f::none","error":"not_found"},{"function_id":"f::one","namespace":"blue","worker_name":"b","registered_triggers":[]}]}`},
		{`{"function_id":"f::two"}`, `{"code":"NOT_FOUND","message":"Function 'f::two' is not registered in namespace 'default'. It is registered in namespace(s): blue, green."}`},
		{`{"function_id":"f::one","namespace":"green"}`, `{"code":"NOT_FOUND","message":"*"}`},
		{`{"function_id":"f::one","namespace":""}`, `{"code":"INVALID_NAMESPACE","message":"*"}`},
		{`{}`, `{"code":"INVALID_ARGUMENTS","message":"*"}`},
		{`{"function_id":"a","function_ids":["b"]}`, `{"code":"INVALID_ARGUMENTS","message":"*"}`},
		{`{"function_ids":[]}`, `{"code":"INVALID_ARGUMENTS","message":"*"}`},
	} {
		m := c.call("engine::functions::info", test.input)
		got := m["result"]
		if m["error"] != nil {
			got = m["error"]
		}
		if !like(decodeJSON(t, test.want), got) {
			t.Errorf("%s: got %v, want %s", test.input, got, test.want)
		}
	}
}

func TestListWorkers(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("beta", `,"runtime":"go","version":"1","os":"linux","isolation":"docker","description":" what\u202e it does "`)
	dial(t, e).register("alpha", `,"namespace":"blue"`)
	without := dial(t, e)
	without.call("engine::workers::register", `{"name":"no pid"}`)
	if got := names(c.call("engine::workers::list", `{"status":"connected"}`), "workers", "name"); got != "alpha beta" {
		t.Errorf("connected workers: %s", got)
	}
	if got := names(c.call("engine::workers::list", `{"runtime":"go"}`), "workers", "name"); got != "beta" {
		t.Errorf("workers in Go: %s", got)
	}
	if got := names(c.call("engine::workers::list", `{"search":"IIi-st","status":"available"}`), "workers", "id"); got != "iii-state iii-stream" {
		t.Errorf("parts of the engine: %s", got)
	}
	// A second registration overwrites some values even if its input omits them.
	c.call("engine::workers::register", `{"_caller_worker_id":"x"}`)
	info := c.call("engine::workers::info", `{"name":"beta"}`)["result"].(map[string]any)["worker"]
	if want := decodeJSON(t, `{"name":"beta","description":"what it does","version":null,"id":"`+c.id+`","namespace":"default","runtime":"unknown",
		"os":"linux","status":"connected","function_count":0,"connected_at_ms":"*","active_invocations":1,"isolation":"docker",
		"ip_address":"127.0.0.1","internal":false,"pid":1}`); !like(want, info) {
		t.Errorf("worker: %v", info)
	}
	part := c.call("engine::workers::info", `{"name":"iii-pubsub"}`)
	if got := names(part, "functions", "function_id") + ", " + names(part, "trigger_types", "id"); got != "publish, subscribe" {
		t.Errorf("iii-pubsub has %s", got)
	}
}

// A worker's name is looked up first in the default namespace and then in all others, where it
// must be unique.
func TestWorkerInfo(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("api")
	for name, namespaces := range map[string][]string{"api": {"blue"}, "lone": {"blue"}, "twice": {"blue", "green"}} {
		for _, namespace := range namespaces {
			w := dial(t, e).register(name, `,"namespace":"`+namespace+`"`)
			w.function(name + "::f")
			w.send(`{"type":"registertrigger","id":"%s-%s","trigger_type":"subscribe","function_id":"%s::f","config":{"topic":"t"},"namespace":%q}`,
				name, namespace, name, namespace)
			w.sync()
		}
	}
	for _, test := range []struct{ input, namespace, triggers, want string }{
		{`{"name":"api"}`, "default", "", ""},
		{`{"name":"api","namespace":"blue"}`, "blue", "api-blue", ""},
		{`{"name":"lone"}`, "blue", "lone-blue", ""},
		{`{"name":"lone","namespace":"green"}`, "", "", "NOT_FOUND: Worker 'lone' is not connected in namespace 'green'. It is connected in namespace(s): blue."},
		{`{"name":"twice"}`, "", "", "NOT_FOUND: Worker 'twice' is not connected in namespace 'default'. It is connected in namespace(s): blue, green."},
		{`{"name":"none"}`, "", "", "NOT_FOUND: Worker 'none' is not connected."},
	} {
		m := c.call("engine::workers::info", test.input)
		if failure, ok := m["error"].(map[string]any); ok {
			if got := fmt.Sprintf("%s: %s", failure["code"], failure["message"]); got != test.want {
				t.Errorf("%s: got %q, want %q", test.input, got, test.want)
			}
			continue
		}
		worker, _ := m["result"].(map[string]any)["worker"].(map[string]any)
		if got, triggers := worker["namespace"], names(m, "registered_triggers", "id"); got != test.namespace || triggers != test.triggers || test.want != "" {
			t.Errorf("%s: found one in %v with triggers %q, want %q and %q, or %q", test.input, got, triggers, test.namespace, test.triggers, test.want)
		}
	}
	if got := errorCode(c.call("engine::workers::info", `{"name":"api","namespace":" "}`)); got != "NOT_FOUND" {
		t.Errorf("blank namespace: %s", got)
	}
}

func TestIntrospectionRefusals(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		var ids []string
		for i := range maxInfoIDs + 1 {
			ids = append(ids, fmt.Sprint("f::", i))
		}
		twice, _ := json.Marshal(append(ids[1:], ids[1:]...))
		many, _ := json.Marshal(ids)
		for _, test := range []struct{ id, input, want string }{
			{"engine::triggers::info", `{"id":"x"}`, "!NOT_FOUND: Trigger type 'x' is not registered in namespace 'default'."},
			{"engine::triggers::info", `{"id":"cron","namespace":"blue"}`, "!NOT_FOUND: Trigger type 'cron' is not registered in namespace 'blue'."},
			{"engine::triggers::info", `{"id":"cron","namespace":" "}`, "!NOT_FOUND: Trigger type 'cron' is not registered in namespace ' '."},
			{"engine::triggers::info", `"x"`, "!deserialization_error: Failed to deserialize input for engine::triggers::info: invalid type: string \"x\", expected struct TriggerInfoInput"},
			{"engine::registered-triggers::info", `{"id":"x"}`, "!NOT_FOUND: Registered trigger 'x' was not found."},
			{"engine::functions::info", `{"function_id":"x"}`, "!NOT_FOUND: Function 'x' is not registered."},
			{"engine::functions::info", `{}`, "!INVALID_ARGUMENTS: pass either function_id or function_ids"},
			{"engine::functions::info", `{"function_id":"x","function_ids":["x"]}`, "!INVALID_ARGUMENTS: pass either function_id or function_ids"},
			{"engine::functions::info", `{"function_ids":[]}`, "!INVALID_ARGUMENTS: function_ids must be a non-empty array of function ids"},
			{"engine::functions::info", `{"function_ids":` + string(many) + `}`, "!INVALID_ARGUMENTS: too many function_ids (max 32)"},
			{"engine::functions::list", `null`, "!deserialization_error: Failed to deserialize input for engine::functions::list: invalid type: null, expected struct FunctionsListInput"},
			{"engine::registered-triggers::list", `0`, "!deserialization_error: Failed to deserialize input for engine::registered-triggers::list: invalid type: integer `0`, expected struct RegisteredTriggersListInput"},
			{"engine::unregister_trigger", `1`, "!deserialization_error: Failed to deserialize input for engine::unregister_trigger: invalid type: integer `1`, expected struct UnregisterTriggerInput"},
			{"engine::channels::create", `true`, "!deserialization_error: Failed to deserialize input for engine::channels::create: invalid type: boolean `true`, expected struct CreateChannelInput"},
			{"engine::health::check", `null`, "!deserialization_error: Failed to deserialize input for engine::health::check: invalid type: null, expected struct HealthCheckInput"},
			{"engine::baggage::get_all", `1`, "!deserialization_error: Failed to deserialize input for engine::baggage::get_all: invalid type: integer `1`, expected struct BaggageGetAllInput"},
			{"engine::alerts::list", `null`, "!deserialization_error: Failed to deserialize input for engine::alerts::list: invalid type: null, expected struct AlertsListInput"},
			{"engine::sampling::rules", `null`, "!deserialization_error: Failed to deserialize input for engine::sampling::rules: invalid type: null, expected struct LogsClearInput"},
		} {
			p.want(test.want, test.id, test.input)
		}
		if got := p.call("engine::functions::info", `{"function_ids":`+string(twice)+`}`); strings.Count(got, "not_found") != maxInfoIDs {
			t.Errorf("the same ids twice: %s", got)
		}
		if got := p.call("engine::triggers::list", `{"include_internal":null,"search":"cron"}`); !strings.Contains(got, `"cron"`) {
			t.Errorf("include_internal null: %s", got)
		}
		// No type ever exists in a blank namespace, so the trigger waits for its type forever.
		if got := p.call("engine::register_trigger", `{"trigger_type":"cron","function_id":"f","trigger_namespace":" ","config":{"expression":"* * * * * *"}}`); !strings.HasPrefix(got, `{"id":"`) {
			t.Errorf("blank trigger_namespace: %s", got)
		}
		p.want(`{"registered_triggers":[]}`, "engine::registered-triggers::list", `{"trigger_type":"cron"}`)
	})
}

// Functions that a worker may not call are hidden from it.
func TestFunctionInfoBehindGuard(t *testing.T) {
	e := Start(t, WithGuard(Guard{Expose: []string{"engine::functions::info", "open::*"}}))
	owner := dial(t, e).register("owner")
	owner.function("open::f", "closed::f")
	c := enter(t, e).register("c")
	if got := errorCode(c.call("engine::functions::info", `{"function_id":"closed::f"}`)); got != "FORBIDDEN" {
		t.Errorf("one: %q", got)
	}
	m := c.call("engine::functions::info", `{"function_ids":["closed::f","none::f","open::f"]}`)
	if got, want := names(m, "functions", "error"), "forbidden not_found <nil>"; got != want {
		t.Errorf("several: got %s, want %s", got, want)
	}
}

func TestListTriggers(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	c.provide("hook")
	c.send(`{"type":"registertrigger","id":"b","trigger_type":"subscribe","function_id":"f::g","config":{"topic":%q},"metadata":{"m":1}}`, strings.Repeat("é", 100))
	c.send(`{"type":"registertrigger","id":"a","trigger_type":"engine::workers-available","function_id":"f::h","config":null}`)
	c.sync()
	for _, test := range []struct{ input, want string }{
		{`{}`, "a b"},
		{`{"trigger_type":"subscribe"}`, "b"},
		{`{"function_id":"f::h"}`, "a"},
		{`{"search":"F::G"}`, "b"},
		{`{"worker":"nobody"}`, ""},
		{`{"prefix":"b"}`, "a b"}, // this list has no prefix filter
	} {
		if got := names(c.call("engine::registered-triggers::list", test.input), "registered_triggers", "id"); got != test.want {
			t.Errorf("%s: got %q, want %q", test.input, got, test.want)
		}
	}
	list := c.call("engine::registered-triggers::list", `{"function_id":"f::g"}`)
	if got, want := names(list, "registered_triggers", "config_summary"), `{"topic":"`+strings.Repeat("é", 70)+"…"; got != want {
		t.Errorf("summary: %s, want %s", got, want)
	}
	info := c.call("engine::registered-triggers::info", `{"id":"b"}`)["result"].(map[string]any)
	if info["function"] != nil || !like(decodeJSON(t, `{"m":1}`), info["metadata"]) || info["trigger"] == nil {
		t.Errorf("trigger: %v", info)
	}
	if got := errorCode(c.call("engine::registered-triggers::info", `{"id":"none"}`)); got != "NOT_FOUND" {
		t.Errorf("unknown trigger: %s", got)
	}
	types := names(c.call("engine::triggers::list", `{"include_internal":true}`), "triggers", "id")
	if want := "configuration cron durable:subscriber engine::functions-available engine::workers-available hook http log state stream stream:join stream:leave subscribe trace"; types != want {
		t.Errorf("types: %s", types)
	}
	if got := names(c.call("engine::triggers::list", `{"search":"topic"}`), "triggers", "id"); got != "subscribe" {
		t.Errorf("types found by description: %s", got)
	}
}
