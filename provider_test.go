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
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
		if err != nil || detail.InstanceCount != 2 || diffDocuments(schema, detail.ConfigurationSchema) != "" || string(detail.RequestSchema) != `{"type":"object"}` {
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
			t.Error("the context of an unbound trigger was not canceled")
		}
		if early.Err() != nil {
			t.Errorf("trigger: %v", early.Err())
		}
	})
}

// If Bind fails, panics or calls [runtime.Goexit], the trigger is rejected, and the worker
// that registered it receives the error.
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
			case "nil pointer":
				return (*iii.Error)(nil)
			case "wrapped nil pointer":
				return fmt.Errorf("path: %w", (*iii.Error)(nil))
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
			"error":               {"trigger_registration_failed", "no such path"},
			"code":                {"PATH_TAKEN", "path: taken"},
			"no code":             {"trigger_registration_failed", "just so"},
			"panic":               {"trigger_registration_failed", "the provider panicked"},
			"nil pointer":         {"trigger_registration_failed", "the provider panicked"},
			"wrapped nil pointer": {"trigger_registration_failed", "path: <nil>"},
			"goexit":              {"trigger_registration_failed", "the provider ended its goroutine"},
			"condition":           {"trigger_registration_failed", "condition_function_id is not a string"},
			"good":                {},
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
		// A call to engine::register_trigger waits for the provider's reply.
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
			t.Errorf("payload that cannot be encoded: %v", err)
		}
		if _, err := (iii.TriggerBinding{FunctionID: "f"}).Fire(t.Context(), nil); err == nil {
			t.Error("a TriggerBinding without a provider fires")
		}
		bindTo(t, user, "broken", "hooks::missing", nil)
		b, _ = hooks.binding(t, "broken")
		if _, err := b.Fire(t.Context(), nil); !errors.Is(err, iii.ErrFunctionNotFound) {
			t.Errorf("missing function: %v", err)
		}
	})
}

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

// In a replay of a recorded session with an engine that has triggers, the provider must send
// the recorded replies.
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
			if diff := diffDocuments(event.Frame, <-said); diff != "" {
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
			if diff := diffDocuments(answer.Frame, <-said); diff != "" {
				t.Errorf("line %d (-recorded +sent):\n%s", events[i].line, diff)
			}
		}
	}
	// A trigger is rejected if this worker does not provide its type.
	e.Send("webhooks", json.RawMessage(`{"type":"registertrigger","id":"t","trigger_type":"nobody's","function_id":"f","config":null}`))
	want := json.RawMessage(`{"type":"triggerregistrationresult","id":"t","trigger_type":"nobody's","function_id":"f","error":{"code":"trigger_type_not_found","message":"Trigger type not found"}}`)
	if diff := diffDocuments(want, <-said); diff != "" {
		t.Errorf("unknown type (-want +sent):\n%s", diff)
	}
	if types != 3 || asked != 5 {
		t.Errorf("%d types, %d triggers", types, asked)
	}
}

func TestTriggerProviderReplaces(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, another, provider := worker("user"), worker("another"), worker("provider")
		hooks := &webhooks{}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		bindTo(t, user, "h", "hooks::saw", hook{Path: "/x"})
		_, first := hooks.binding(t, "h")
		bindTo(t, another, "h", "hooks::saw", hook{Path: "/x"})
		_, second := hooks.binding(t, "h")
		if first != second || first.Err() != nil {
			t.Error("binding the same trigger again has changed or canceled its context")
		}
		third := worker("third")
		bindTo(t, third, "h", "hooks::saw", hook{Path: "/y"})
		_, changed := hooks.binding(t, "h")
		if first.Err() == nil || changed.Err() != nil {
			t.Errorf("contexts: replaced %v, new %v", first.Err(), changed.Err())
		}
		hooks.expect(t, "three times", `bind h {"path":"/x"}`, `bind h {"path":"/x"} unchanged`, `bind h {"path":"/y"}`)

		// If a replacement fails, neither trigger stays bound.
		hooks.bind = func(context.Context, iii.TriggerBinding) error { return errors.New("no") }
		bindTo(t, worker("fourth"), "h", "hooks::saw", hook{Path: "/z"})
		hooks.expect(t, "refused replacement", `bind h {"path":"/z"}`, `unbind h`)
		if changed.Err() == nil {
			t.Error("the context of the replaced trigger was not canceled")
		}
	})
}

func TestTriggerProviderReconnects(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, guest, provider := worker("user"), worker("guest"), worker("provider")
		hooks := &webhooks{}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		fired := make(chan string, 10)
		handle(t, user, "hooks::saw", func(_ context.Context, in string) (any, error) { fired <- in; return nil, nil })
		for i := range 5 {
			bindTo(t, user, fmt.Sprint("u", i), "hooks::saw", hook{Path: "/u"})
		}
		bindTo(t, guest, "g", "hooks::saw", hook{Path: "/g"})
		_, kept := hooks.binding(t, "u0")
		b, left := hooks.binding(t, "g")
		hooks.happened()

		for round := range 3 {
			if !e.Drop("provider") {
				t.Fatal("no provider")
			}
			synctest.Wait()
			hooks.expect(t, "while it is away")
			if round == 0 {
				// Fire waits until the provider has reconnected.
				go func() {
					if _, err := b.Fire(kept, "from away"); err != nil {
						t.Error(err)
					}
				}()
				if err := guest.Close(); err != nil {
					t.Fatal(err)
				}
				bindTo(t, user, "new", "hooks::saw", hook{Path: "/n"})
			}
			time.Sleep(2 * time.Second) // longer than the initial reconnect delay
			want := []string{`bind new {"path":"/n"} unchanged`}
			if round == 0 {
				want = []string{`unbind g`, `bind new {"path":"/n"}`}
			}
			for i := range 5 {
				want = append(want, fmt.Sprintf(`bind u%d {"path":"/u"} unchanged`, i))
			}
			hooks.expect(t, fmt.Sprint("reconnection ", round), want...)
		}
		if left.Err() == nil || kept.Err() != nil {
			t.Errorf("contexts: removed trigger %v, remaining trigger %v", left.Err(), kept.Err())
		}
		if got := <-fired; got != "from away" {
			t.Errorf("fired: %q", got)
		}
		for _, id := range slices.Sorted(maps.Keys(hooks.bound)) {
			b, ctx := hooks.binding(t, id)
			if _, err := b.Fire(ctx, id); err != nil || <-fired != id {
				t.Errorf("firing %s: %v", id, err)
			}
		}
		if len(fired) != 0 || len(hooks.bound) != 6 {
			t.Errorf("%d events too many, %d triggers", len(fired), len(hooks.bound))
		}
		hooks.happened()

		// Disconnect the worker that registered the triggers.
		e.Drop("user")
		synctest.Wait()
		hooks.expect(t, "the user has gone", `unbind new`, `unbind u0`, `unbind u1`, `unbind u2`, `unbind u3`, `unbind u4`)
		time.Sleep(2 * time.Second)
		hooks.expect(t, "the user is back", `bind new {"path":"/n"}`, `bind u0 {"path":"/u"}`, `bind u1 {"path":"/u"}`,
			`bind u2 {"path":"/u"}`, `bind u3 {"path":"/u"}`, `bind u4 {"path":"/u"}`)
	})
}

func TestTriggerProviderForItself(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		c := worker("self")
		hooks := &webhooks{}
		bindTo(t, c, "own", "hooks::saw", nil)
		if err := c.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		hooks.expect(t, "registered", `bind own null`)
		e.Drop("self")
		time.Sleep(2 * time.Second)
		hooks.expect(t, "reconnected", `bind own null unchanged`)
	})
}

func TestTriggerProviderNamespaces(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, shop, provider := worker("user"), worker("shop", iii.WithNamespace("shop")), worker("provider", iii.WithNamespace("hooks"))
		byNamespace := map[string]*webhooks{}
		for _, ns := range []string{"", "default", "shop"} {
			byNamespace[ns] = &webhooks{}
			if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook", Namespace: ns}, byNamespace[ns]); err != nil {
				t.Fatal(err)
			}
		}
		for i, c := range []*iii.Client{user, shop} {
			handle(t, c, "hooks::where", func(context.Context, any) (string, error) { return []string{"default", "shop"}[i], nil })
		}
		bindTo(t, user, "d", "hooks::where", nil)
		bindTo(t, shop, "s", "hooks::where", nil)
		bindTo(t, shop, "h", "hooks::where", nil, iii.WithTriggerProviderNamespace("hooks"), iii.WithTriggerNamespace("default"))
		for _, tt := range []struct{ provider, id, want string }{{"default", "d", "default"}, {"shop", "s", "shop"}, {"", "h", "default"}} {
			b, _ := byNamespace[tt.provider].binding(t, tt.id)
			result, err := b.Fire(t.Context(), nil)
			if err != nil || b.Namespace != tt.want || string(result) != `"`+tt.want+`"` {
				t.Errorf("%s: namespace %q, result %s, error %v", tt.id, b.Namespace, result, err)
			}
		}
	})
}

func TestTriggerProviderHangs(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		leave := make(chan struct{})
		hooks := &webhooks{bind: func(_ context.Context, b iii.TriggerBinding) error {
			if b.ID == "slow" && string(b.Config) == "0" {
				<-leave
				return errors.New("too late to matter")
			}
			return nil
		}}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			slow := bindTo(t, user, "slow", "hooks::saw", i)
			synctest.Wait()
			if err := slow.Unregister(); err != nil {
				t.Fatal(err)
			}
		}
		last := bindTo(t, user, "slow", "hooks::saw", 100)
		bindTo(t, user, "quick", "hooks::saw", 0)
		hooks.expect(t, "hanging", `bind quick 0`, `bind slow 0`)
		if err := provider.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
			t.Errorf("the provider's worker is stuck: %v", err)
		}
		close(leave)
		hooks.expect(t, "returned", `bind slow 100`)
		if last.Err() != nil {
			t.Errorf("the trigger received the rejection of an earlier one: %v", last.Err())
		}
	})
}

func TestTriggerProviderConcurrent(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		hooks := &webhooks{bind: func(context.Context, iii.TriggerBinding) error { time.Sleep(time.Millisecond); return nil }}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		var wait sync.WaitGroup
		for g := range 4 {
			wait.Go(func() {
				for i := range 40 {
					trigger := bindTo(t, user, fmt.Sprint("t", g, ".", i%10), "hooks::saw", i)
					time.Sleep(time.Duration(i*g) * 100 * time.Microsecond)
					if i < 30 || i%2 == 0 {
						if err := trigger.Unregister(); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		for _, name := range []string{"provider", "user", "provider", "provider", "user"} {
			time.Sleep(300 * time.Millisecond)
			e.Drop(name)
			time.Sleep(1700 * time.Millisecond) // until it has reconnected
		}
		wait.Wait()
		synctest.Wait()
		time.Sleep(time.Minute)

		triggers, err := user.Triggers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, trigger := range triggers {
			if trigger.TriggerType == "webhook" {
				want[trigger.ID] = string(trigger.Config)
			}
		}
		hooks.mu.Lock()
		defer hooks.mu.Unlock()
		got := map[string]string{}
		for id, b := range hooks.bound {
			if got[id] = string(b.Config); hooks.ctxs[id].Err() != nil {
				t.Errorf("the context of %s was canceled", id)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || len(want) != 20 {
			t.Errorf("%d registered; bound (-registered +bound):\n%s", len(want), diff)
		}
	})
}

func TestTriggerProviderCloses(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		stubborn := make(chan struct{})
		hooks := &webhooks{bind: func(ctx context.Context, b iii.TriggerBinding) error {
			switch b.ID {
			case "patient":
				<-ctx.Done()
				return ctx.Err()
			case "stubborn":
				<-stubborn
			}
			return nil
		}}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"good", "patient", "stubborn"} {
			bindTo(t, user, id, "hooks::saw", nil)
		}
		_, ctx := hooks.binding(t, "good")
		if err := provider.Close(); err != nil {
			t.Fatal(err)
		}
		if ctx.Err() == nil {
			t.Error("the context of a trigger was not canceled")
		}
		hooks.expect(t, "closed", `bind good null`, `bind patient null`, `bind stubborn null`)
		close(stubborn)
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "another"}, hooks); !errors.Is(err, iii.ErrClosed) {
			t.Errorf("type of a closed client: %v", err)
		}
	})
}

func TestTriggerProviderDrains(t *testing.T) {
	providerBubble(t, func(t *testing.T, e *iiitest.Engine, worker func(string, ...iii.Option) *iii.Client) {
		user, provider := worker("user"), worker("provider")
		running, finish := make(chan struct{}), make(chan struct{})
		handle(t, provider, "hooks::job", func(context.Context, any) (any, error) { close(running); <-finish; return nil, nil })
		hooks := &webhooks{}
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the engine has registered the function
		if err := user.Send(t.Context(), "hooks::job", nil); err != nil {
			t.Fatal(err)
		}
		<-running
		drained := make(chan error)
		go func() { drained <- provider.Shutdown(t.Context()) }()
		synctest.Wait()
		trigger := bindTo(t, user, "late", "hooks::saw", nil)
		synctest.Wait()
		var refusal *iii.Error
		if !errors.As(trigger.Err(), &refusal) || refusal.Code != "worker_draining" {
			t.Errorf("trigger: %v", trigger.Err())
		}
		close(finish)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		hooks.expect(t, "drained")
	})
}

// webhooks is a TriggerProvider that records its calls.
type webhooks struct {
	bind func(ctx context.Context, b iii.TriggerBinding) error // may be nil

	mu    sync.Mutex
	calls []string
	bound map[string]iii.TriggerBinding
	ctxs  map[string]context.Context
}

func (w *webhooks) note(format string, args ...any) {
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
}

func (w *webhooks) Bind(ctx context.Context, b iii.TriggerBinding) error {
	w.mu.Lock()
	again := ""
	if b.Unchanged {
		again = " unchanged"
	}
	w.note("bind %s %s%s", b.ID, b.Config, again)
	w.mu.Unlock()
	if w.bind != nil {
		if err := w.bind(ctx, b); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bound == nil {
		w.bound, w.ctxs = map[string]iii.TriggerBinding{}, map[string]context.Context{}
	}
	w.bound[b.ID], w.ctxs[b.ID] = b, ctx
	return nil
}

func (w *webhooks) Unbind(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("unbind %s", id)
	if w.ctxs[id].Err() == nil {
		w.note("context of %s has not ended", id)
	}
	delete(w.bound, id)
	return nil
}

// binding waits until all goroutines are idle. It returns the bound trigger with the given id,
// and the context passed to Bind.
func (w *webhooks) binding(t *testing.T, id string) (iii.TriggerBinding, context.Context) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.bound[id]
	if !ok {
		t.Fatalf("%s is not bound; calls: %q", id, w.calls)
	}
	return b, w.ctxs[id]
}

// happened waits until all goroutines are idle. It returns the calls recorded since happened
// was last called, sorted by trigger.
func (w *webhooks) happened() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	slices.SortStableFunc(calls, func(a, b string) int { return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1]) })
	return calls
}

func (w *webhooks) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.happened()); diff != "" {
		t.Errorf("%s: calls of the provider (-want +got):\n%s", what, diff)
	}
}

// providerBubble runs a test in a bubble, with an engine that sends triggers to their
// providers. On later engines, providers host observed functions instead.
func providerBubble(t *testing.T, test func(t *testing.T, e *iiitest.Engine, worker func(name string, opts ...iii.Option) *iii.Client)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		test(t, e, func(name string, opts ...iii.Option) *iii.Client {
			t.Helper()
			return connect(t, e, append([]iii.Option{iii.WithName(name), iii.WithDialContext(e.DialContext)}, opts...)...)
		})
	}, iiitest.WithProtocol(iiitest.Protocol025))
}

type hook struct {
	Path      string `json:"path"`
	Condition string `json:"condition_function_id,omitempty"`
}

func bindTo(t *testing.T, c *iii.Client, id, function string, config any, opts ...iii.TriggerOption) *iii.Trigger {
	t.Helper()
	trigger, err := c.Trigger(function, iii.CustomTrigger{Type: "webhook", Config: config}, append(opts, iii.WithTriggerID(id))...)
	if err != nil {
		t.Fatal(err)
	}
	return trigger
}

// rejectingProvider rejects triggers while reject is set.
type rejectingProvider struct{ reject atomic.Bool }

func (p *rejectingProvider) Bind(context.Context, iii.TriggerBinding) error {
	if p.reject.Load() {
		return errors.New("not now")
	}
	return nil
}

func (*rejectingProvider) Unbind(context.Context, string) error { return nil }

// A trigger or an observer that its provider has rejected is registered afresh on the next
// connection, and the provider decides again.
func TestRejectedTriggerIsRegisteredAfreshOnReconnect(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		p := &rejectingProvider{}
		p.reject.Store(true)
		provider := newWorker(t, e, iii.WithName("provider"))
		if err := provider.HandleTriggerType(iii.TriggerType{ID: "often"}, p); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, provider)
		c := newWorker(t, e, iii.WithName("c"))
		handle(t, c, "f", func(context.Context, any) (any, error) { return nil, nil })
		trigger, err := c.Trigger("f", iii.CustomTrigger{Type: "often"})
		if err != nil {
			t.Fatal(err)
		}
		failures := []func() error{trigger.Err}
		if !hasTriggers(e) {
			observer, err := c.Observe(iii.Source{FunctionID: "often"}, "f")
			if err != nil {
				t.Fatal(err)
			}
			failures = append(failures, observer.Err)
		}
		mustConnect(t, c)
		synctest.Wait()
		for i, failure := range failures {
			if err := failure(); err == nil || !strings.Contains(err.Error(), "not now") {
				t.Errorf("%d is rejected with %v", i, err)
			}
		}
		p.reject.Store(false)
		e.Drop("c")
		time.Sleep(3 * time.Second)
		for i, failure := range failures {
			if err := failure(); err != nil {
				t.Errorf("%d after a reconnect: %v", i, err)
			}
		}
		if err := c.Ready(); err != nil {
			t.Errorf("after a reconnect: %v", err)
		}
	})
}
