package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestIntrospection(t *testing.T) {
	generations(t, introspection)
}

func introspection(t *testing.T, e *iiitest.Engine) {
	dial := iii.WithDialContext(e.DialContext)
	c, other := connect(t, e, dial, iii.WithName("shop"), iii.WithDescription("sells tea")), connect(t, e, dial, iii.WithName("other"))
	ctx := t.Context()
	if _, err := iii.Handle(c, "shop::quote", func(_ context.Context, item string) (int, error) { return 0, nil },
		iii.WithFunctionDescription("what it costs"), iii.WithFunctionMetadata(map[string]bool{"public": true})); err != nil {
		t.Fatal(err)
	}
	trigger, err := c.Trigger("shop::quote", iii.SubscribeTriggerConfig{Topic: "asked"})
	if err != nil {
		t.Fatal(err)
	}

	description := "what it costs"
	summary := iii.FunctionSummary{FunctionID: "shop::quote", Namespace: "default", WorkerName: "shop", Description: &description, Metadata: json.RawMessage(`{"public":true}`)}
	registered := []iii.FunctionTrigger{{ID: trigger.ID(), TriggerType: "subscribe", Config: json.RawMessage(`{"topic":"asked"}`)}}
	var private, observable *bool
	var observers *uint64
	if !hasTriggers(e) {
		private, observable, observers = new(false), new(true), new(uint64(0))
		summary.Private, summary.Observable, summary.ObserverCount = private, observable, observers
	}
	ofWorker := summary
	ofWorker.Private, ofWorker.Observable, ofWorker.ObserverCount = nil, nil, nil
	functions, err := c.Functions(ctx, iii.FunctionFilter{Prefix: "shop::"})
	check(t, "functions", []iii.FunctionSummary{summary}, functions, err)
	if functions, err = other.Functions(ctx, iii.FunctionFilter{Search: "COSTS", Workers: []string{"shop", "other"}}); err != nil || len(functions) != 1 {
		t.Errorf("search: %+v, %v", functions, err)
	}
	functions, err = other.Functions(ctx, iii.FunctionFilter{Worker: "other"})
	check(t, "functions of a worker without any", []iii.FunctionSummary{}, functions, err)
	isEngines := func(f iii.FunctionSummary) bool { return f.FunctionID == "engine::workers::list" }
	for _, internal := range []bool{false, true} {
		if functions, err = c.Functions(ctx, iii.FunctionFilter{IncludeInternal: internal}); err != nil || slices.ContainsFunc(functions, isEngines) != internal {
			t.Errorf("internal %v: %v", internal, err)
		}
	}

	detail, err := other.FunctionInfo(ctx, "shop::quote")
	check(t, "function", iii.FunctionDetail{FunctionID: "shop::quote", Namespace: "default", WorkerName: "shop", Description: &description,
		Metadata: json.RawMessage(`{"public":true}`), RequestSchema: json.RawMessage(`{"type":"string"}`), ResponseSchema: json.RawMessage(`{"type":"integer"}`),
		RegisteredTriggers: registered, Private: private, Observable: observable, ObserverCount: observers,
	}, detail, err)

	workers, err := c.Workers(ctx)
	i := slices.IndexFunc(workers, func(w iii.WorkerSummary) bool { return w.ID == c.WorkerID() })
	if err != nil || i < 0 || *workers[i].Name != "shop" || *workers[i].Runtime != "go" || *workers[i].Description != "sells tea" || workers[i].FunctionCount != 1 {
		t.Errorf("workers: %+v, %v", workers, err)
	}
	worker, err := other.WorkerInfo(ctx, "shop")
	if err != nil || worker.ID != c.WorkerID() || worker.PID == nil || worker.Internal || worker.LatestMetrics != nil ||
		len(worker.RegisteredTriggers) != len(registered) || len(registered) > 0 && worker.RegisteredTriggers[0].ID != trigger.ID() {
		t.Errorf("worker: %+v, %v", worker, err)
	}
	if diff := cmp.Diff(iii.List[iii.FunctionSummary]{ofWorker}, worker.Functions); diff != "" {
		t.Errorf("functions of the worker (-want +got):\n%s", diff)
	}

	types, err := c.TriggerTypes(ctx)
	if err != nil || !slices.ContainsFunc(types, func(t iii.TriggerTypeSummary) bool { return t.ID == "stream:join" && t.Namespace == "default" }) {
		t.Errorf("trigger types: %+v, %v", types, err)
	}
	triggers, err := c.Triggers(ctx)
	if err != nil || !slices.ContainsFunc(triggers, func(s iii.TriggerSummary) bool {
		return s.ID == trigger.ID() && s.FunctionID == "shop::quote" && s.ConfigSummary == `{"topic":"asked"}`
	}) {
		t.Errorf("triggers: %+v, %v", triggers, err)
	}
	health, err := c.Health(ctx)
	if err != nil || health.Status != "healthy" || health.Version == "" || health.Timestamp == 0 {
		t.Errorf("health: %+v, %v", health, err)
	}

	var remote *iii.Error
	if _, err := c.FunctionInfo(ctx, "no::such"); !errors.As(err, &remote) || remote.Code != "NOT_FOUND" {
		t.Errorf("unknown function: %v", err)
	}
	if _, err := c.WorkerInfo(ctx, "nobody"); !errors.As(err, &remote) || remote.Code != "NOT_FOUND" {
		t.Errorf("unknown worker: %v", err)
	}
}

// An id is looked up first in the worker's namespace, then in the default namespace, then in
// all others.
func TestIntrospectionNamespaces(t *testing.T) {
	e := iiitest.Start(t)
	inShop, inDefault, elsewhere := connect(t, e, iii.WithName("w"), iii.WithNamespace("shop")), connect(t, e, iii.WithName("w")), connect(t, e, iii.WithName("x"), iii.WithNamespace("depot"))
	for _, c := range []*iii.Client{inShop, inDefault} {
		handle(t, c, "both::have", func(context.Context, any) (any, error) { return nil, nil })
	}
	handle(t, inDefault, "default::has", func(context.Context, any) (any, error) { return nil, nil })
	handle(t, elsewhere, "depot::has", func(context.Context, any) (any, error) { return nil, nil })
	for _, c := range []*iii.Client{inShop, inDefault, elsewhere} { // waits until the functions are registered
		if err := c.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		c              *iii.Client
		function, want string
	}{
		{inShop, "both::have", "shop"}, {inDefault, "both::have", "default"}, {elsewhere, "both::have", "default"},
		{inShop, "default::has", "default"}, {inShop, "depot::has", "depot"}, {inDefault, "depot::has", "depot"}, {inShop, "state::get", "default"},
	} {
		if f, err := tt.c.FunctionInfo(t.Context(), tt.function); err != nil || f.Namespace != tt.want {
			t.Errorf("%s from %q: in %q, %v", tt.function, tt.c.Namespace(), f.Namespace, err)
		}
	}
	for name, want := range map[string]*iii.Client{"w": inShop, "x": elsewhere} {
		if w, err := inShop.WorkerInfo(t.Context(), name); err != nil || w.ID != want.WorkerID() {
			t.Errorf("worker %s: in %q, %v", name, w.Namespace, err)
		}
	}
}

// The requests match a recording, and decoding the recorded replies loses no data.
func TestIntrospectionAsRecorded(t *testing.T) {
	calls := recordedCalls(t, "engine-functions", "engine::functions::", "engine::workers::list", "engine::workers::info", "engine::triggers::list",
		"engine::registered-triggers::list", "engine::health::check")
	calls = slices.DeleteFunc(calls, func(call recordedCall) bool {
		return call.functionID == "engine::workers::list" && string(call.data) != "{}" // Client.Workers has no filter
	})
	c, engine := answerAsRecorded(t, calls)
	ctx := t.Context()
	for _, call := range calls {
		var in struct {
			FunctionID string `json:"function_id"`
			Name       string
			Prefix     string
		}
		if err := json.Unmarshal(call.data, &in); err != nil {
			t.Fatal(err)
		}
		var got any
		var err error
		list := func(key string, list any, callErr error) { got, err = map[string]any{key: list}, callErr }
		switch call.functionID {
		case "engine::functions::list":
			l, err := c.Functions(ctx, iii.FunctionFilter{Prefix: in.Prefix})
			list("functions", l, err)
		case "engine::functions::info":
			got, err = c.FunctionInfo(ctx, in.FunctionID)
		case "engine::workers::list":
			l, err := c.Workers(ctx)
			list("workers", l, err)
		case "engine::workers::info":
			got, err = c.WorkerInfo(ctx, in.Name)
		case "engine::triggers::list":
			l, err := c.TriggerTypes(ctx)
			list("triggers", l, err)
		case "engine::registered-triggers::list":
			l, err := c.Triggers(ctx)
			list("registered_triggers", l, err)
		case "engine::health::check":
			got, err = c.Health(ctx)
		default:
			t.Fatalf("line %d: %s", call.line, call.functionID)
		}
		if call.err != nil {
			var remote *iii.Error
			if !errors.As(err, &remote) || remote.Code != call.err.Code {
				t.Errorf("line %d: error %v", call.line, err)
			}
			continue
		}
		doc, encodeErr := json.Marshal(got)
		if err != nil || encodeErr != nil {
			t.Errorf("line %d: %v, %v", call.line, err, encodeErr)
			continue
		}
		if diff := diffDocuments(call.result, doc); diff != "" {
			t.Errorf("line %d: %s (-recorded +got):\n%s", call.line, call.functionID, diff)
		}
	}
	engine.done()
}

// All engine generations list the same triggers and trigger types, even to workers that did
// not register them.
func TestTriggersAreListedOnEachGeneration(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		dial := iii.WithDialContext(e.DialContext)
		c, other := newWorker(t, e, iii.WithName("shop")), connect(t, e, dial, iii.WithName("other"))
		handle(t, c, "shop::f", func(context.Context, any) (any, error) { return nil, nil })
		if err := c.HandleTriggerType(iii.TriggerType{ID: "webhook", Description: "Calls"}, &webhooks{}); err != nil {
			t.Fatal(err)
		}
		retries := uint64(2)
		configs := map[string]iii.TriggerConfig{
			"http":               iii.HTTPTriggerConfig{APIPath: "/shop/:id", HTTPMethod: "PUT", MiddlewareFunctionIDs: []string{"shop::gate"}},
			"cron":               iii.CronTriggerConfig{Expression: "0 0 9 * * *"},
			"durable:subscriber": iii.QueueTriggerConfig{Topic: "orders", QueueConfig: &iii.QueueConfig{MaxRetries: &retries}},
			"subscribe":          iii.SubscribeTriggerConfig{Topic: "asked"},
			"state":              iii.StateTriggerConfig{Scope: new("carts"), Key: new("ada")},
			"stream":             iii.StreamTriggerConfig{StreamName: "chat", GroupID: "g", ItemID: "i"},
			"stream:leave":       iii.StreamLeaveTrigger{},
			"log":                iii.LogTriggerConfig{Level: iii.LogLevelError},
			"configuration":      iii.ConfigurationTriggerConfig{ConfigurationID: "c", EventTypes: []iii.ConfigurationEventType{iii.ConfigurationEventTypeUpdated}},
			"webhook":            iii.CustomTrigger{Type: "webhook", Config: hook{Path: "/x"}},
		}
		type listed struct{ ID, Type, Function, Worker, Config string }
		want := []listed{}
		for _, id := range slices.Sorted(maps.Keys(configs)) {
			trigger, err := c.Trigger("shop::f", configs[id], iii.WithTriggerID("t/"+id))
			if err != nil {
				t.Fatal(err)
			}
			config, err := json.Marshal(configs[id])
			if custom, ok := configs[id].(iii.CustomTrigger); ok {
				config, err = json.Marshal(custom.Config)
			}
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, listed{trigger.ID(), id, "shop::f", "shop", string(config)})
		}
		if _, err := c.Trigger("shop::f", iii.CustomTrigger{Type: "nobody's"}); err != nil { // stays pending, because no worker provides the type
			t.Fatal(err)
		}
		mustConnect(t, c)
		synctest.Wait()
		for _, by := range []*iii.Client{c, other} {
			triggers, err := by.Triggers(t.Context())
			got := []listed{}
			for _, s := range triggers {
				got = append(got, listed{s.ID, s.TriggerType, s.FunctionID, s.WorkerName, string(s.Config)})
			}
			check(t, "triggers listed by "+by.Name(), want, got, err)
			types, err := by.TriggerTypes(t.Context())
			names := map[string]string{}
			for _, typ := range types {
				names[typ.ID] = typ.Namespace
			}
			check(t, "types listed by "+by.Name(), map[string]string{"http": "default", "cron": "default", "durable:subscriber": "default",
				"subscribe": "default", "state": "default", "stream": "default", "stream:join": "default", "stream:leave": "default",
				"log": "default", "trace": "default", "configuration": "default", "webhook": "default"}, names, err)
			info, err := by.FunctionInfo(t.Context(), "shop::f")
			check(t, "triggers of the function", len(want), len(info.RegisteredTriggers), err)
			worker, err := by.WorkerInfo(t.Context(), "shop")
			check(t, "triggers of the worker", len(want), len(worker.RegisteredTriggers), err)
			check(t, "types of the worker", 1, len(worker.TriggerTypes), err)
		}
	})
}
