package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// gate registers the auth function and the hooks, which make the same decisions as in the
// recording.
func gate(t *testing.T, c *iii.Client) {
	t.Helper()
	handle(t, c, "gate::auth", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		result := iii.NewAuthResult()
		switch in.Headers["authorization"] {
		case "Bearer member", "Bearer boss":
			prefix := "tenant"
			result.AllowedFunctions = []string{"private::ok"}
			result.ForbiddenFunctions = []string{"public::secret"}
			result.AllowedTriggerTypes = []string{"subscribe"}
			result.AllowTriggerTypeRegistration = in.Headers["authorization"] == "Bearer boss"
			result.FunctionRegistrationPrefix = &prefix
			result.Context = json.RawMessage(`{"user":"u1","role":"member"}`)
		case "Bearer thin":
			result.Context = json.RawMessage(`{"user":"thin"}`)
		default:
			return result, &iii.Error{Code: "UNAUTHORIZED", Message: "bad token"}
		}
		return result, nil
	})
	handle(t, c, "gate::on-function", func(_ context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
		if strings.HasSuffix(in.FunctionID, "::banned") {
			return iii.OnFunctionRegistrationResult{}, &iii.Error{Code: "DENIED", Message: "banned id"}
		}
		return iii.OnFunctionRegistrationResult{FunctionID: in.FunctionID, Metadata: json.RawMessage(`{"tagged":true}`)}, nil
	})
	handle(t, c, "gate::on-trigger", func(_ context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
		return iii.OnTriggerRegistrationResult{Config: json.RawMessage(`{"topic":"mapped"}`)}, nil
	})
	handle(t, c, "gate::on-trigger-type", func(_ context.Context, in iii.OnTriggerTypeRegistrationInput) (iii.OnTriggerTypeRegistrationResult, error) {
		return iii.OnTriggerTypeRegistrationResult{}, nil // accepts the registration unchanged
	})
}

// The replies match the recorded ones, except that they spell out default values.
func TestAccessControlAsRecorded(t *testing.T) {
	e := iiitest.Start(t)
	c := connect(t, e, iii.WithName("gate"))
	gate(t, c)
	d := deliverTo(e, "gate")
	events := readRecording(t, "rbac")
	answers := map[string]recordedFrame{}
	for _, event := range events {
		if f := frameOf(t, event); f.Type == "invocationresult" && event.Dir == "send" {
			answers[f.InvocationID] = f
		}
	}
	asked := map[string]int{}
	for _, event := range events {
		f := frameOf(t, event)
		if event.Dir != "recv" || f.Type != "invokefunction" || !strings.HasPrefix(f.FunctionID, "gate::") || f.FunctionID == "gate::middleware" {
			continue
		}
		asked[f.FunctionID]++
		want, got := answers[f.InvocationID], d.invoke(t, event.Frame)
		if diff := cmp.Diff(want.Error, got.Error); diff != "" {
			t.Errorf("line %d: %s: error (-recorded +got):\n%s", event.line, f.FunctionID, diff)
		}
		if want.Error != nil {
			continue
		}
		if f.FunctionID == "gate::auth" {
			var meant iii.AuthResult
			if err := json.Unmarshal(want.Result, &meant); err != nil {
				t.Fatal(err)
			}
			doc, err := json.Marshal(meant)
			if err != nil {
				t.Fatal(err)
			}
			want.Result = doc
		}
		if diff := diffDocuments(want.Result, got.Result); diff != "" {
			t.Errorf("line %d: %s (-recorded +got):\n%s", event.line, f.FunctionID, diff)
		}
	}
	if diff := cmp.Diff(map[string]int{"gate::auth": 4, "gate::on-function": 2, "gate::on-trigger": 1}, asked); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}

	// The recording contains no registration of a trigger type.
	got := d.invoke(t, json.RawMessage(`{"type":"invokefunction","invocation_id":"`+answersID(answers)+`","function_id":"gate::on-trigger-type",
		"data":{"trigger_type_id":"boss-type","description":"d","context":{"user":"u1"}}}`))
	if got.Error != nil || string(got.Result) != "{}" {
		t.Errorf("trigger type: %s, %+v", got.Result, got.Error)
	}
}

func answersID(answers map[string]recordedFrame) string {
	for id := range answers {
		return id
	}
	return ""
}

// NewAuthResult returns what the engine assumes for an empty result.
func TestAuthResultDefaults(t *testing.T) {
	doc, err := json.Marshal(iii.NewAuthResult())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"allow_function_registration":true,"allow_trigger_type_registration":false,"allowed_functions":[],"forbidden_functions":[],"context":{},"namespaces":{}}`
	if diff := diffDocuments(json.RawMessage(want), doc); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestForbiddenAsRecorded(t *testing.T) {
	var denied []recordedCall
	for _, call := range recordedCalls(t, "rbac", "private::", "public::", "no::", "state::", "engine::workers::list") {
		if call.err != nil {
			denied = append(denied, call)
		}
	}
	if len(denied) < 4 {
		t.Fatalf("%d calls were denied", len(denied))
	}
	c, engine := answerAsRecorded(t, denied)
	for _, call := range denied {
		err := c.Call(t.Context(), call.functionID, call.data, nil)
		var remote *iii.Error
		if !errors.Is(err, iii.ErrForbidden) || !errors.As(err, &remote) || remote.Message != call.err.Message || errors.Is(err, iii.ErrFunctionNotFound) {
			t.Errorf("line %d: %s: %v", call.line, call.functionID, err)
		}
	}
	engine.done()
}

// The engine rejects a trigger whose function the session may not call.
func TestForbiddenTriggerAsRecorded(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithProtocol(iiitest.Protocol023))
	c := connect(t, e, iii.WithName("member"))
	refused := make(chan error, 1)
	trigger, err := c.Trigger("mine::fn", iii.SubscribeTriggerConfig{Topic: "orig"}, iii.WithTriggerID("rb-0"), iii.WithTriggerErrorHandler(func(err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	events := readRecording(t, "rbac")
	i := slices.IndexFunc(events, func(event recordedEvent) bool {
		return event.Dir == "recv" && frameOf(t, event).Type == "triggerregistrationresult"
	})
	e.Send("member", events[i].Frame)
	if err := <-refused; !errors.Is(err, iii.ErrForbidden) || !errors.Is(trigger.Err(), iii.ErrForbidden) {
		t.Errorf("handler: %v; trigger: %v", err, trigger.Err())
	}
}

// Typed functions decide who may connect through a guarded listener, and what they may call
// and register.
func TestGuardedListener(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithProtocol(iiitest.Protocol025), iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "gate::auth", OnFunction: "gate::on-function", OnTrigger: "gate::on-trigger",
		OnTriggerType: "gate::on-trigger-type", MiddlewareFunctionID: "gate::middleware", Expose: []string{`match("public::*")`, "mine::*", "tenant::*"}}))
	c := connect(t, e, iii.WithName("gate"))
	ctx := t.Context()
	gate(t, c)
	handle(t, c, "gate::middleware", func(ctx context.Context, in iii.MiddlewareInput) (json.RawMessage, error) {
		return iii.Call[json.RawMessage](ctx, c, in.FunctionID, in.Payload, iii.InNamespace(in.Namespace))
	})
	for _, id := range []string{"public::hello", "public::secret", "private::ok", "private::no"} {
		handle(t, c, id, func(context.Context, any) (string, error) { return id, nil })
	}
	hooks := &webhooks{}
	if err := c.HandleTriggerType(iii.TriggerType{ID: "webhook"}, hooks); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Health(ctx); err != nil { // waits until everything is registered
		t.Fatal(err)
	}
	enter := func(token string) (*iii.Client, error) {
		member, err := iii.New(e.GuardedURL(), iii.WithName(token), iii.WithHeader(http.Header{"Authorization": {"Bearer " + token}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = member.Close() })
		return member, member.Connect(ctx)
	}

	member, err := enter("member")
	if err != nil {
		t.Fatal(err)
	}
	for id, allowed := range map[string]bool{"public::hello": true, "public::secret": false, "private::ok": true, "private::no": false, "no::such": false, "state::get": false} {
		got, err := iii.Call[string](ctx, member, id, nil)
		if allowed && (err != nil || got != id) || !allowed && !errors.Is(err, iii.ErrForbidden) {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
	if _, err := member.Workers(ctx); !errors.Is(err, iii.ErrForbidden) {
		t.Errorf("workers: %v", err)
	}
	handle(t, member, "mine::fn", func(context.Context, any) (string, error) { return "mine", nil })
	handle(t, member, "mine::banned", func(context.Context, any) (string, error) { return "banned", nil })
	if _, err := iii.Call[string](ctx, member, "public::hello", nil); err != nil { // waits until both hooks have run
		t.Fatal(err)
	}
	got, err := iii.Call[string](ctx, c, "tenant::mine::fn", nil)
	check(t, "function of the member", "mine", got, err)
	if _, err := c.FunctionInfo(ctx, "tenant::mine::banned"); err == nil {
		t.Error("a function exists although the hook has rejected it")
	}
	// The member may use this trigger type. The hook changes the config.
	if _, err := member.Trigger("mine::fn", iii.SubscribeTriggerConfig{Topic: "orig"}, iii.WithTriggerID("mapped")); err != nil {
		t.Fatal(err)
	}
	if _, err := iii.Call[string](ctx, member, "public::hello", nil); err != nil {
		t.Fatal(err)
	}
	triggers, err := c.Triggers(ctx)
	if i := slices.IndexFunc(triggers, func(s iii.TriggerSummary) bool { return s.ID == "mapped" }); err != nil || i < 0 ||
		string(triggers[i].Config) != `{"topic":"mapped"}` || triggers[i].FunctionID != "tenant::mine::fn" {
		t.Errorf("triggers: %+v, %v", triggers, err)
	}
	// The worker "thin" may not call this trigger's function.
	refused := make(chan error, 1)
	thin, err := enter("thin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := thin.Trigger("private::ok", iii.SubscribeTriggerConfig{Topic: "x"}, iii.WithTriggerErrorHandler(func(err error) { refused <- err })); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; !errors.Is(err, iii.ErrForbidden) {
		t.Errorf("trigger: %v", err)
	}

	var auth *iii.AuthError
	if stranger, err := enter("stranger"); !errors.As(err, &auth) || stranger.State() != iii.ConnectionStateFailed || strings.Contains(err.Error(), "stranger") {
		t.Errorf("stranger: %v", err)
	}
}

// Access control may rename a function or silently reject it. Neither delays Connect. The
// worker serves the renamed function under its new id.
func TestHookedRegistrations(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		gate := newWorker(t, e, iii.WithName("gate"))
		handle(t, gate, "gate::on-function", func(_ context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
			if in.FunctionID == "denied" {
				return iii.OnFunctionRegistrationResult{}, errors.New("denied")
			}
			return iii.OnFunctionRegistrationResult{FunctionID: "tenant::" + in.FunctionID}, nil
		})
		mustConnect(t, gate)
		member, err := iii.New(e.GuardedURL(), iii.WithName("member"), iii.WithDialContext(e.DialContext),
			iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1, BackoffMultiplier: 1}))
		if err != nil {
			t.Fatal(err)
		}
		defer member.Close()
		functions := map[string]*iii.Function{}
		for _, id := range []string{"denied", "greet"} {
			if functions[id], err = iii.Handle(member, id, func(context.Context, any) (string, error) { return id, nil }); err != nil {
				t.Fatal(err)
			}
		}
		for _, what := range []string{"first", "second"} {
			began := time.Now()
			mustConnect(t, member)
			if took := time.Since(began); took > 10*time.Millisecond {
				t.Errorf("the %s connection took %v", what, took)
			}
			if !functions["greet"].LocalDispatch() || functions["denied"].LocalDispatch() {
				t.Errorf("in process: greet %v, denied %v", functions["greet"].LocalDispatch(), functions["denied"].LocalDispatch())
			}
			got, err := iii.Call[string](t.Context(), gate, "tenant::greet", nil)
			check(t, "call of another worker", "greet", got, err)
			e.Drop("member")
			for member.State() == iii.ConnectionStateConnected {
				time.Sleep(time.Millisecond)
			}
		}
		mustConnect(t, member)
		if err := functions["greet"].Unregister(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := gate.Call(t.Context(), "tenant::greet", nil, nil); !errors.Is(err, iii.ErrFunctionNotFound) {
			t.Errorf("after it was unregistered: %v", err)
		}
	}, iiitest.WithGuard(iiitest.Guard{OnFunction: "gate::on-function", Expose: []string{"tenant::*"}}))
}
