package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestTriggerProvider(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		type event struct {
			Payload  string
			Metadata string
			Caller   bool
		}
		events := make(chan event, 10)
		handle(t, user, "hooks::saw", func(ctx context.Context, in map[string]any) (string, error) {
			inv, _ := iii.InvocationFromContext(ctx)
			delete(in, "_caller_worker_id")
			payload, err := json.Marshal(in)
			events <- event{string(payload), string(inv.Metadata), inv.CallerWorkerID == provider.WorkerID()}
			return "seen", err
		})
		early := bindTo(t, user, "early", "hooks::saw", hook{Path: "/x"}, iii.WithTriggerMetadata(map[string]int{"a": 1}))

		hooks := &webhooks{}
		schema := json.RawMessage(`{"type":"object","properties":{"path":{"type":"string"}}}`)
		err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook", Description: "Calls on a webhook", ConfigSchema: schema,
			PayloadSchema: map[string]string{"type": "object"}}, hooks)
		if err != nil {
			t.Fatal(err)
		}
		bindTo(t, user, "late", "hooks::saw", hook{Path: "/y"})
		hooks.expect(t, "a waiting trigger and a new one", `bind early {"path":"/x"}`, `bind late {"path":"/y"}`)

		types, err := user.TriggerTypes(t.Context())
		if err != nil || !slices.Contains(types, iii.TriggerTypeSummary{ID: "webhook", Description: "Calls on a webhook", Namespace: "default", WorkerName: "provider"}) {
			t.Errorf("trigger types: %+v, %v", types, err)
		}
		detail, err := iii.Call[iii.TriggerTypeDetail](t.Context(), user, "engine::triggers::info", iii.TriggerTypeInfoInput{ID: "webhook"})
		if err != nil || detail.InstanceCount != 2 || sameDocument(schema, detail.ConfigurationSchema) != "" || string(detail.RequestSchema) != `{"type":"object"}` {
			t.Errorf("trigger type: %+v, %v", detail, err)
		}

		b, ctx := hooks.binding(t, "early")
		if b.TriggerType != "webhook" || b.FunctionID != "hooks::saw" || b.Namespace != "default" {
			t.Errorf("binding: %+v", b)
		}
		result, err := b.Fire(t.Context(), map[string]int{"n": 1})
		if err != nil || string(result) != `"seen"` {
			t.Errorf("result %s, error %v", result, err)
		}
		b, _ = hooks.binding(t, "late")
		if _, err := b.Fire(t.Context(), map[string]int{"n": 2}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]event{{`{"n":1}`, `{"a":1}`, true}, {`{"n":2}`, ``, true}}, []event{<-events, <-events}); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}

		if err := early.Unregister(); err != nil {
			t.Fatal(err)
		}
		hooks.expect(t, "unregistered", `unbind early`)
		if ctx.Err() == nil {
			t.Error("the context of an unbound trigger has not ended")
		}
		if early.Err() != nil {
			t.Errorf("trigger: %v", early.Err())
		}
	})
}

// A Bind that fails, panics or ends its goroutine refuses the trigger, and its worker
// is told.
func TestTriggerProviderRefuses(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		hooks := &webhooks{bind: func(_ context.Context, b iii.TriggerBinding) error {
			switch b.ID {
			case "error":
				return errors.New("no such path")
			case "code":
				return fmt.Errorf("path: %w", &iii.Error{Code: "PATH_TAKEN", Message: "taken"})
			case "no code":
				return &iii.Error{Message: "just so"}
			case "panic":
				panic("secret")
			case "goexit":
				runtime.Goexit()
			}
			return nil
		}}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		type refusal struct{ Code, Message string }
		want := map[string]refusal{
			"error":     {"trigger_registration_failed", "no such path"},
			"code":      {"PATH_TAKEN", "path: taken"},
			"no code":   {"trigger_registration_failed", "just so"},
			"panic":     {"trigger_registration_failed", "the provider panicked"},
			"goexit":    {"trigger_registration_failed", "the provider ended its goroutine"},
			"condition": {"trigger_registration_failed", "condition_function_id is not a string"},
			"good":      {},
		}
		triggers := map[string]*iii.Trigger{}
		for id := range want {
			var config any
			if id == "condition" {
				config = map[string]int{"condition_function_id": 7}
			}
			triggers[id] = bindTo(t, user, id, "hooks::saw", config)
		}
		synctest.Wait()
		got := map[string]refusal{}
		for id, trigger := range triggers {
			var e *iii.Error
			if got[id] = (refusal{}); errors.As(trigger.Err(), &e) {
				got[id] = refusal{e.Code, e.Message}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("refusals (-want +got):\n%s", diff)
		}
		// A function of the engine waits for the provider's answer.
		in := iii.RegisterTriggerInput{TriggerType: "webhook", FunctionID: "hooks::saw", Config: json.RawMessage(`{"condition_function_id":true}`)}
		_, err := iii.Call[iii.RegisterTriggerResult](t.Context(), user, "engine::register_trigger", in)
		var e2 *iii.Error
		if !errors.As(err, &e2) || e2.Code != "trigger_registration_failed" || e2.Message != "trigger_registration_failed: condition_function_id is not a string" {
			t.Errorf("engine::register_trigger: %v", err)
		}
		if _, err := iii.Call[iii.RegisterTriggerResult](t.Context(), user, "engine::register_trigger", iii.RegisterTriggerInput{TriggerType: "webhook", FunctionID: "f"}); err != nil {
			t.Error(err)
		}
		if bound := slices.Sorted(maps.Keys(hooks.bound)); len(bound) != 2 {
			t.Errorf("bound: %q", bound)
		}
	})
}

// What is registered again under the same id replaces what is bound.

// After a reconnection everything is bound once: what the engine has not sent again

// is unbound, what was there stays, what is new is bound.

// A worker may bind its own functions to its own type, over reconnections too.

func TestFireConditions(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user", iii.WithNamespace("shop")), worker("provider", iii.WithNamespace("hooks"))
		hooks := &webhooks{}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook", Namespace: "default"}, hooks); err != nil {
			t.Fatal(err)
		}
		runs := 0
		handle(t, user, "hooks::saw", func(context.Context, json.RawMessage) (any, error) { runs++; return nil, nil })
		var verdict any
		var fails error
		if _, err := user.HandleFunc("hooks::when", func(ctx context.Context, payload json.RawMessage) (any, error) {
			if inv, _ := iii.InvocationFromContext(ctx); inv.Metadata != nil {
				t.Errorf("metadata of the condition: %s", inv.Metadata)
			}
			if string(payload) != `"event"` {
				t.Errorf("payload of the condition: %s", payload)
			}
			return verdict, fails
		}); err != nil {
			t.Fatal(err)
		}
		bindTo(t, user, "h", "hooks::saw", hook{Condition: "hooks::when"}, iii.WithTriggerMetadata(1))
		b, _ := hooks.binding(t, "h")
		if b.Namespace != "shop" {
			t.Errorf("namespace %q", b.Namespace)
		}
		for _, tt := range []struct {
			verdict any
			runs    bool
		}{
			{true, true}, {nil, true}, {0, true}, {"false", true}, {json.RawMessage("[false]"), true}, {json.RawMessage(" \tfalse\n"), false}, {false, false},
		} {
			runs, verdict = 0, tt.verdict
			result, err := b.Fire(t.Context(), "event")
			if err != nil || (runs == 1) != tt.runs || (result == nil) == tt.runs {
				t.Errorf("condition %v: %d runs, result %s, error %v", tt.verdict, runs, result, err)
			}
		}
		runs, fails = 0, &iii.Error{Code: "BROKEN", Message: "no verdict"}
		var remote *iii.Error
		if _, err := b.Fire(t.Context(), "event"); runs != 0 || !errors.As(err, &remote) || remote.Code != "BROKEN" || !strings.Contains(err.Error(), "condition of trigger h") {
			t.Errorf("condition that fails: %d runs, error %v", runs, err)
		}
		if _, err := b.Fire(t.Context(), func() {}); err == nil || !iii.SafeToRetry(err) {
			t.Errorf("payload that does not encode: %v", err)
		}
		if _, err := (iii.TriggerBinding{FunctionID: "f"}).Fire(t.Context(), nil); err == nil {
			t.Error("a binding of nobody fires")
		}
		bindTo(t, user, "broken", "hooks::missing", nil)
		b, _ = hooks.binding(t, "broken")
		if _, err := b.Fire(t.Context(), nil); !errors.Is(err, iii.ErrFunctionNotFound) {
			t.Errorf("function that is not there: %v", err)
		}
	})
}

// Functions in the namespace default are called there, whatever the provider's; a

// type may be provided in several namespaces.

// A provider that hangs is not called again for the trigger, holds up no other one,

// and gets the latest state when it returns.

// However registrations, withdrawals and broken connections mix, what is bound in

// the end is what is registered.

// Closing ends the contexts of the triggers and waits for Bind, but not for ever.

// While a worker drains it takes no trigger any more.

func TestHandleTriggerTypeRefuses(t *testing.T) {
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.HandleTriggerType(iii.TriggerType{ID: "webhook"}, &webhooks{}); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		typ  iii.TriggerType
		p    iii.TriggerProvider
		want string
	}{
		"blank id":        {iii.TriggerType{ID: " "}, &webhooks{}, "blank trigger type id"},
		"no provider":     {iii.TriggerType{ID: "a"}, nil, "nil TriggerProvider"},
		"blank namespace": {iii.TriggerType{ID: "a", Namespace: " "}, &webhooks{}, "blank namespace"},
		"config schema":   {iii.TriggerType{ID: "a", ConfigSchema: []int{1}}, &webhooks{}, "ConfigSchema: a JSON Schema is an object"},
		"payload schema":  {iii.TriggerType{ID: "a", PayloadSchema: func() {}}, &webhooks{}, "PayloadSchema"},
		"twice":           {iii.TriggerType{ID: "webhook", Namespace: "default"}, &webhooks{}, `already provided in namespace "default"`},
	} {
		if err := c.HandleTriggerType(tt.typ, tt.p); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "iii: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The provider of the recording, which is of an engine with triggers, is asked what it was, and
// says what it did.
func TestTriggerProviderAsRecorded(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithProtocol(iiitest.Protocol023))
	c, err := iii.New(e.URL(), iii.WithName("webhooks"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good := &webhooks{}
	broken := &webhooks{bind: func(context.Context, iii.TriggerBinding) error { return errors.New("refused by the provider") }}
	schema := json.RawMessage(`{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}`)
	for _, typ := range []struct {
		iii.TriggerType
		p iii.TriggerProvider
	}{
		{iii.TriggerType{ID: "webhook", Description: "Calls on a webhook", ConfigSchema: schema, PayloadSchema: json.RawMessage(`{"type":"object"}`)}, good},
		{iii.TriggerType{ID: "webhook-broken", Description: "always refuses"}, broken},
		{iii.TriggerType{ID: "webhook-later", Description: "late"}, good},
	} {
		if err := c.HandleTriggerType(typ.TriggerType, typ.p); err != nil {
			t.Fatal(err)
		}
	}
	said := make(chan json.RawMessage, 10)
	e.Hook(func(f iiitest.Frame) iiitest.Verdict {
		if f.Direction == iiitest.ToEngine && (f.Type() == "registertriggertype" || f.Type() == "triggerregistrationresult") {
			said <- f.Message
		}
		return iiitest.Verdict{}
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := slices.DeleteFunc(readRecording(t, "custom-trigger-types"), func(e recordedEvent) bool { return e.Worker != "provider" })
	types := 0
	for _, event := range events {
		if f := frameOf(t, event); f.Type == "registertriggertype" {
			types++
			if diff := sameDocument(event.Frame, <-said); diff != "" {
				t.Errorf("line %d (-recorded +sent):\n%s", event.line, diff)
			}
		}
	}
	asked := 0
	for i, event := range events {
		f := frameOf(t, event)
		if event.Dir != "recv" || f.Type != "registertrigger" && f.Type != "unregistertrigger" {
			continue
		}
		e.Send("webhooks", event.Frame)
		if f.Type == "registertrigger" {
			asked++
			answer := events[slices.IndexFunc(events, func(other recordedEvent) bool {
				return other.line > event.line && frameOf(t, other).Type == "triggerregistrationresult"
			})]
			if diff := sameDocument(answer.Frame, <-said); diff != "" {
				t.Errorf("line %d (-recorded +sent):\n%s", events[i].line, diff)
			}
		}
	}
	// A type that the worker does not provide.
	e.Send("webhooks", json.RawMessage(`{"type":"registertrigger","id":"t","trigger_type":"nobody's","function_id":"f","config":null}`))
	want := json.RawMessage(`{"type":"triggerregistrationresult","id":"t","trigger_type":"nobody's","function_id":"f","error":{"code":"trigger_type_not_found","message":"Trigger type not found"}}`)
	if diff := sameDocument(want, <-said); diff != "" {
		t.Errorf("unknown type (-want +sent):\n%s", diff)
	}
	if types != 3 || asked != 5 {
		t.Errorf("%d types, %d triggers", types, asked)
	}
}
