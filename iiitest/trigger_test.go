package iiitest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// provide registers a trigger type and waits until the engine has registered it.
func (c *client) provide(id string, more ...string) {
	c.t.Helper()
	c.send(`{"type":"registertriggertype","id":%q,"description":"d"%s}`, id, strings.Join(more, ""))
	c.sync()
}

func (c *client) bind(id, typ string, more ...string) {
	c.t.Helper()
	c.send(`{"type":"registertrigger","id":%q,"trigger_type":%q,"function_id":"f::g","config":{"a":1}%s}`, id, typ, strings.Join(more, ""))
}

func forwarded(id, typ, more string) string {
	return `{"type":"registertrigger","id":"` + id + `","trigger_type":"` + typ + `","function_id":"f::g","config":{"a":1}` + more + `}`
}

func withdrawn(id, typ string) string {
	return `{"type":"unregistertrigger","id":"` + id + `","trigger_type":"` + typ + `"}`
}

// registered returns the ids of the registered triggers that are not parked.
func (c *client) registered() string {
	c.t.Helper()
	result, _ := c.call("engine::registered-triggers::list", `{}`)["result"].(map[string]any)
	var ids []string
	list, _ := result["registered_triggers"].([]any)
	for _, x := range list {
		ids = append(ids, x.(map[string]any)["id"].(string))
	}
	return strings.Join(ids, " ")
}

func TestTriggerParksUntilItsTypeAppears(t *testing.T) {
	e := Start(t)
	user, provider := dial(t, e).register("user"), dial(t, e).register("provider")
	user.bind("t1", "hook", `,"metadata":{"m":[1]},"namespace":"blue"`)
	user.sync()
	if got := user.registered(); got != "" {
		t.Errorf("parked trigger is listed: %s", got)
	}
	provider.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	provider.want(forwarded("t1", "hook", `,"metadata":{"m":[1]},"namespace":"blue"`))
	if got := user.registered(); got != "t1" {
		t.Errorf("live triggers: %q", got)
	}
	// If the type is registered again, its bindings are sent again.
	provider.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	provider.want(forwarded("t1", "hook", `,"metadata":{"m":[1]},"namespace":"blue"`))
	// If the provider disconnects, the trigger is parked. When the provider returns, the
	// trigger is bound again.
	_ = provider.conn.Close()
	for e.Stats().Workers > 1 {
		user.sync()
	}
	if got := user.registered(); got != "" {
		t.Errorf("trigger without a provider is listed: %s", got)
	}
	provider = dial(t, e).register("provider")
	provider.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	provider.want(forwarded("t1", "hook", `,"metadata":{"m":[1]},"namespace":"blue"`))
	// If the worker that registered the trigger disconnects, the provider is notified.
	_ = user.conn.Close()
	provider.want(withdrawn("t1", "hook"))
}

func TestTriggerRejectedByProvider(t *testing.T) {
	e := Start(t)
	user, provider := dial(t, e).register("user"), dial(t, e).register("provider")
	other := dial(t, e).register("other")
	provider.provide("hook")
	user.bind("t1", "hook")
	provider.want(forwarded("t1", "hook", ""))
	// Only the provider can reject the trigger.
	other.send(`{"type":"triggerregistrationresult","id":"t1","trigger_type":"hook","function_id":"f::g","error":{"code":"X","message":"not mine"}}`)
	other.sync()
	if got := user.registered(); got != "t1" {
		t.Errorf("live triggers after an answer from another worker: %q", got)
	}
	provider.send(`{"type":"triggerregistrationresult","id":"t1","trigger_type":"hook","function_id":"f::g","error":{"code":"X","message":"no","stacktrace":"s"}}`)
	user.want(`{"type":"triggerregistrationresult","id":"t1","trigger_type":"hook","function_id":"f::g","error":{"code":"X","message":"no","stacktrace":"s"}}`)
	if got := user.registered(); got != "" {
		t.Errorf("refused trigger is listed: %s", got)
	}
	// The trigger is parked, so registering the type again binds the trigger again.
	provider.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	provider.want(forwarded("t1", "hook", ""))
	provider.send(`{"type":"triggerregistrationresult","id":"t1","trigger_type":"hook","function_id":"f::g"}`)
	provider.sync()
	if got := user.registered(); got != "t1" {
		t.Errorf("live triggers: %q", got)
	}
}

func TestTriggerMovesHome(t *testing.T) {
	e := Start(t)
	blue := dial(t, e).register("user", `,"namespace":"blue"`)
	common := dial(t, e).register("common")
	home := dial(t, e).register("home", `,"namespace":"blue"`)
	common.provide("hook")
	blue.bind("fallback", "hook")
	common.want(forwarded("fallback", "hook", ""))
	blue.bind("explicit", "hook", `,"trigger_namespace":"default"`)
	common.want(forwarded("explicit", "hook", ""))
	// A provider in the home namespace takes over the bindings that have fallen back to the
	// default namespace.
	home.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
	home.want(forwarded("fallback", "hook", `,"trigger_namespace":"blue"`))
	common.want(withdrawn("fallback", "hook"))
	// If that provider disconnects, the binding moves back to the default namespace.
	_ = home.conn.Close()
	common.want(forwarded("fallback", "hook", ""))
	// A binding with an explicit namespace does not move.
	green := dial(t, e).register("green", `,"namespace":"green"`)
	green.provide("hook")
	blue.bind("named", "hook", `,"trigger_namespace":"green"`)
	green.want(forwarded("named", "hook", `,"trigger_namespace":"green"`))
	_ = green.conn.Close()
	for e.Stats().Workers > 2 {
		common.sync() // fails on any message but the pong
	}
	if got := blue.registered(); got != "explicit fallback" {
		t.Errorf("live triggers: %q", got)
	}
}

func TestWorkerReplacesEngineTriggerType(t *testing.T) {
	e := Start(t)
	user, provider := dial(t, e).register("user"), dial(t, e).register("provider")
	user.send(`{"type":"registerfunction","id":"f::g"}`)
	user.send(`{"type":"registertrigger","id":"t1","trigger_type":"subscribe","function_id":"f::g","config":{"topic":"a"}}`)
	user.sync()
	provider.send(`{"type":"registertriggertype","id":"subscribe","description":"d"}`)
	provider.want(`{"type":"registertrigger","id":"t1","trigger_type":"subscribe","function_id":"f::g","config":{"topic":"a"}}`)
	user.send(`{"type":"unregistertrigger","id":"t1"}`)
	provider.want(withdrawn("t1", "subscribe"))
}

func TestTriggerBlankNamespaces(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	for _, field := range []string{"namespace", "trigger_namespace"} {
		c.bind("t1", "hook", `,"`+field+`":" "`)
		c.want(`{"type":"triggerregistrationresult","id":"t1","trigger_type":"hook","function_id":"f::g","error":{"code":"INVALID_NAMESPACE",` +
			`"message":"` + "`" + field + "`" + ` is empty: it was named and left blank. Give it a name, or omit it to use ` + "`default`" + `."}}`)
	}
	c.send(`{"type":"registertriggertype","id":"hook","description":"d","namespace":""}`)
	c.sync()
	if got := c.call("engine::triggers::info", `{"id":"hook"}`); got["error"] == nil {
		t.Errorf("type of a blank namespace: %v", got)
	}
}

func TestAnyWorkerCanUnregisterTrigger(t *testing.T) {
	e := Start(t)
	a, b := dial(t, e).register("a"), dial(t, e).register("b")
	a.provide("hook")
	a.bind("t1", "hook")
	a.want(forwarded("t1", "hook", ""))
	b.send(`{"type":"unregistertrigger","id":"t1"}`)
	a.want(withdrawn("t1", "hook"))
	b.send(`{"type":"unregistertrigger","id":"t1"}`) // has no effect
	b.sync()
	a.sync()
}

func TestReregisteredTriggerChangesOwner(t *testing.T) {
	e := Start(t)
	first, second := dial(t, e).register("first"), dial(t, e).register("second")
	provider := dial(t, e).register("provider")
	provider.provide("hook")
	first.bind("t1", "hook")
	provider.want(forwarded("t1", "hook", ""))
	second.bind("t1", "hook")
	provider.want(forwarded("t1", "hook", ""))
	_ = first.conn.Close()
	for e.Stats().Workers > 2 {
		provider.sync() // fails if unregistertrigger arrives before the pong
	}
	_ = second.conn.Close()
	provider.want(withdrawn("t1", "hook"))
}

func TestDurableTrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		caller, provider := dial(t, e).register("caller"), dial(t, e).register("provider")
		input := `{"trigger_type":"hook","function_id":"f::g","config":{"a":1},"metadata":{"m":1}}`

		if got := caller.call("engine::register_trigger", input); got["error"] != nil {
			t.Fatalf("without a provider: %v", got)
		}
		provider.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
		parked := provider.recv()["id"].(string)
		_ = caller.conn.Close()
		synctest.Wait()
		if got := provider.registered(); got != parked {
			t.Errorf("live triggers after the caller's end: %q, want %q", got, parked)
		}

		caller = dial(t, e)
		begin := time.Now()
		if got := caller.call("engine::register_trigger", input); got["error"] != nil {
			t.Errorf("provider that does not answer: %v", got)
		}
		if waited := time.Since(begin); waited != providerTimeout {
			t.Errorf("waited %v for the provider, want %v", waited, providerTimeout)
		}
		provider.recv()

		caller.send(`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"engine::register_trigger","data":%s}`, input)
		id := provider.recv()["id"].(string)
		provider.send(`{"type":"triggerregistrationresult","id":%q,"trigger_type":"hook","function_id":"f::g","error":{"code":"X","message":"no"}}`, id)
		caller.want(`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"engine::register_trigger",` +
			`"error":{"code":"trigger_registration_failed","message":"X: no"}}`)

		if got := caller.call("engine::register_trigger", `{"trigger_type":"http","function_id":"f::g","config":{}}`); !like(map[string]any{
			"code": "trigger_registration_failed", "message": "api_path is required for http triggers",
		}, got["error"]) {
			t.Errorf("refused by the engine: %v", got)
		}
		for _, want := range []bool{true, false} {
			got := caller.call("engine::unregister_trigger", `{"id":"`+parked+`"}`)
			if !like(map[string]any{"removed": want}, got["result"]) {
				t.Errorf("unregister: %v, want %v", got, want)
			}
		}
	})
}
