package iii_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

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
			t.Error("the same once more has another context, or its context has ended")
		}
		third := worker("third")
		bindTo(t, third, "h", "hooks::saw", hook{Path: "/y"})
		_, changed := hooks.binding(t, "h")
		if first.Err() == nil || changed.Err() != nil {
			t.Errorf("contexts: replaced %v, new %v", first.Err(), changed.Err())
		}
		hooks.expect(t, "three times", `bind h {"path":"/x"}`, `bind h {"path":"/x"} unchanged`, `bind h {"path":"/y"}`)

		// A replacement that fails leaves nothing bound.
		hooks.bind = func(context.Context, iii.TriggerBinding) error { return errors.New("no") }
		bindTo(t, worker("fourth"), "h", "hooks::saw", hook{Path: "/z"})
		hooks.expect(t, "refused replacement", `bind h {"path":"/z"}`, `unbind h`)
		if changed.Err() == nil {
			t.Error("the context of what was replaced has not ended")
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
				// An event that happens meanwhile is delivered afterwards.
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
			time.Sleep(2 * time.Second) // more than the first delay
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
			t.Errorf("contexts: of what has left %v, of what stayed %v", left.Err(), kept.Err())
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

		// The worker of the triggers comes back.
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
			t.Errorf("the trigger got the refusal of an earlier one: %v", last.Err())
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
			time.Sleep(1700 * time.Millisecond) // it is back
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
				t.Errorf("the context of %s has ended", id)
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
			t.Error("the context of a trigger has not ended")
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
		synctest.Wait() // the engine has the function before somebody else sends to it
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
