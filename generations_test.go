package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// busyWorker is a worker with triggers of many types, which notes what they bring.
type busyWorker struct {
	client *iii.Client

	mu   sync.Mutex
	seen map[string][]string // by trigger

	triggers []*iii.Trigger
	route    *iii.Function
	mounted  *iii.Function
	alarms   alarms
	bad      *iii.Trigger // that its provider refuses
}

// alarms provides a trigger type.
type alarms struct {
	mu    sync.Mutex
	bound map[string]iii.TriggerBinding
}

func (a *alarms) Bind(_ context.Context, b iii.TriggerBinding) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bound == nil {
		a.bound = map[string]iii.TriggerBinding{}
	}
	if string(b.Config) == `{"level":"bad"}` {
		return &iii.Error{Code: "BAD_LEVEL", Message: "no such level"}
	}
	a.bound[b.ID] = b
	return nil
}

func (a *alarms) Unbind(_ context.Context, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.bound, id)
	return nil
}

// ring fires all triggers and returns their results.
func (a *alarms) ring(ctx context.Context, payload any) (results []string) {
	a.mu.Lock()
	bound := maps.Clone(a.bound)
	a.mu.Unlock()
	for _, b := range bound {
		result, err := b.Fire(ctx, payload)
		results = append(results, fmt.Sprintf("%s %s %v", b.Config, result, err))
	}
	return results
}

func newProgram(t *testing.T, e *iiitest.Engine) *busyWorker {
	t.Helper()
	c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("program"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := &busyWorker{client: c, seen: map[string][]string{}}
	handle := func(id string, h iii.HandlerFunc) {
		if _, err := c.HandleFunc(id, h); err != nil {
			t.Fatal(err)
		}
	}
	note := func(what string, v any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[what] = append(p.seen[what], fmt.Sprint(v))
	}
	trigger := func(id string, cfg iii.TriggerConfig, opts ...iii.TriggerOption) {
		tr, err := c.Trigger(id, cfg, opts...)
		if err != nil {
			t.Fatal(err)
		}
		p.triggers = append(p.triggers, tr)
	}
	if p.route, err = iii.HandleHTTP(c, "POST", "/items/:id", func(_ context.Context, r *iii.HTTPRequest[map[string]int]) (*iii.HTTPResponse[string], error) {
		return &iii.HTTPResponse[string]{StatusCode: 201, Body: fmt.Sprintf("%s %d %s", r.PathParams["id"], r.Body["n"], r.Trigger.Type)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if p.mounted, err = c.MountHTTP("GET", "/stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprint(w, i)
			_ = http.NewResponseController(w).Flush()
		}
	})); err != nil {
		t.Fatal(err)
	}
	handle("cron", func(_ context.Context, payload json.RawMessage) (any, error) {
		var e iii.CronEvent
		err := json.Unmarshal(payload, &e)
		note("cron", fmt.Sprintf("%s %t %d %v", e.Trigger, e.JobID != "", e.ScheduledTime.Unix(), err))
		return nil, nil
	})
	trigger("cron", iii.CronTriggerConfig{Expression: "* * * * * *"})
	attempts := map[string]int{}
	handle("queue", func(_ context.Context, payload json.RawMessage) (any, error) {
		note("queue", string(payload))
		p.mu.Lock()
		defer p.mu.Unlock()
		if attempts[string(payload)]++; attempts[string(payload)] == 1 {
			return nil, errors.New("try again")
		}
		return nil, nil
	})
	trigger("queue", iii.QueueTriggerConfig{Topic: "orders", QueueConfig: &iii.QueueConfig{BackoffDelayMs: new(uint64(10))}})
	handle("topic", func(_ context.Context, payload json.RawMessage) (any, error) {
		note("topic", string(payload))
		return nil, nil
	})
	trigger("topic", iii.SubscribeTriggerConfig{Topic: "news"})
	handle("state", func(ctx context.Context, payload json.RawMessage) (any, error) {
		var e iii.StateEvent
		err := json.Unmarshal(payload, &e)
		inv, _ := iii.InvocationFromContext(ctx)
		note("state", fmt.Sprintf("%s %s %s %s %s %v", e.EventType, e.Scope, e.Key, e.NewValue, inv.Metadata, err))
		return nil, nil
	})
	trigger("state", iii.StateTriggerConfig{Scope: new("s"), ConditionFunctionID: "odd"}, iii.WithTriggerMetadata("m"))
	handle("odd", func(_ context.Context, payload json.RawMessage) (any, error) {
		var e iii.StateEvent
		var n int
		err := errors.Join(json.Unmarshal(payload, &e), json.Unmarshal(e.NewValue, &n))
		return n%2 == 1, err
	})
	if err := c.HandleTriggerType(iii.TriggerType{ID: "alarm"}, &p.alarms); err != nil {
		t.Fatal(err)
	}
	handle("alarmed", func(ctx context.Context, payload json.RawMessage) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		return fmt.Sprintf("%s %s", payload, inv.Metadata), nil
	})
	trigger("alarmed", iii.CustomTrigger{Type: "alarm", Config: map[string]string{"level": "high"}}, iii.WithTriggerMetadata("m"))
	if p.bad, err = c.Trigger("alarmed", iii.CustomTrigger{Type: "alarm", Config: map[string]string{"level": "bad"}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// take returns what the triggers have brought, and forgets it. Ticks of the clock are counted
// apart, since they depend on the time that passes.
func (p *busyWorker) take() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = map[string][]string{}
	return seen
}

// run makes every trigger of the program fire and returns what its handlers and clients see.
func (p *busyWorker) run(t *testing.T, e *iiitest.Engine, round int) map[string][]string {
	t.Helper()
	ctx, c := t.Context(), p.client
	browser := &http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
	fetch := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(ctx, method, e.HTTPURL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(text))
	}
	var pages []string
	pages = append(pages, fetch("POST", "/items/7", `{"n":3}`), fetch("GET", "/stream", ""), fetch("GET", "/nothing", ""))
	if err := errors.Join(
		c.PublishDurable(ctx, "orders", map[string]int{"round": round}),
		c.Publish(ctx, "news", []int{round}),
		c.Publish(ctx, "other", []int{round}),
		func() error {
			s := iii.NewState[int](c, "s")
			var all error
			for n := range 4 {
				_, err := s.Set(ctx, fmt.Sprint("k", round), n)
				all = errors.Join(all, err)
			}
			return all
		}(),
	); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	synctest.Wait()
	seen := p.take()
	seen["http"] = pages
	seen["alarm"] = p.alarms.ring(ctx, round)
	var refusal *iii.Error
	if err := p.bad.Err(); !errors.As(err, &refusal) || refusal.Code != "BAD_LEVEL" {
		t.Errorf("the trigger that its provider refuses: %v", err)
	}
	for _, tick := range seen["cron"] {
		if !strings.HasPrefix(tick, "cron true ") {
			t.Errorf("tick %s", tick)
		}
	}
	if ticks := len(slices.Compact(slices.Clone(seen["cron"]))); ticks != len(seen["cron"]) {
		t.Errorf("a tick fires twice: %q", seen["cron"])
	} else if ticks < 3 {
		t.Errorf("%d ticks in three seconds", ticks)
	}
	delete(seen, "cron")
	slices.Sort(seen["state"]) // its conditions are not asked in order on every engine
	for _, tr := range p.triggers {
		if err := tr.Err(); err != nil {
			t.Errorf("trigger %s: %v", tr.ID(), err)
		}
	}
	if err := errors.Join(p.route.Err(), p.mounted.Err()); err != nil {
		t.Error(err)
	}
	return seen
}

// want is what run returns on every engine.
func wantOfProgram(round int) map[string][]string {
	return map[string][]string{
		"http":  {`201 "7 3 http"`, "200 012", `404 {"error":{"code":"NOT_FOUND","message":"Not Found"}}`},
		"alarm": {fmt.Sprintf(`{"level":"high"} "%d \"m\"" <nil>`, round)},
		"queue": {fmt.Sprintf(`{"round":%d}`, round), fmt.Sprintf(`{"round":%d}`, round)},
		"topic": {fmt.Sprintf(`[%d]`, round)},
		"state": {fmt.Sprintf("state:updated s k%d 1 \"m\" <nil>", round), fmt.Sprintf("state:updated s k%d 3 \"m\" <nil>", round)},
	}
}

func TestOneProgramGivesTheSameOnEveryGeneration(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				p := newProgram(t, e)
				if err := p.client.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(wantOfProgram(1), p.run(t, e, 1)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
		})
	}
}

// The engine under the program is replaced by one of another generation again and again.
func TestEngineIsUpgradedUnderAProgram(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		p := newProgram(t, e)
		if err := p.client.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for round, protocol := range []iiitest.Protocol{
			iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026, iiitest.Protocol023,
			iiitest.Protocol026, iiitest.Protocol025, iiitest.Protocol023,
		} {
			if round > 0 {
				if err := e.SetProtocol(protocol); err != nil {
					t.Fatal(err)
				}
				reconnects := p.client.Stats().Reconnects
				e.Drop("program")
				for p.client.Stats().Reconnects == reconnects {
					time.Sleep(100 * time.Millisecond)
				}
				if err := p.client.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second) // routes answer again
				p.take()
			}
			if diff := cmp.Diff(wantOfProgram(round), p.run(t, e, round)); diff != "" {
				t.Errorf("round %d, %v (-want +got):\n%s", round, protocol, diff)
			}
		}
	}, iiitest.WithProtocol(iiitest.Protocol023), iiitest.WithStrictProtocol())
}

// The client takes every cron expression that a running engine accepts, and registers it in a
// form that each engine accepts.
func TestAcceptedCronExpressions(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "0.23", "cron-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Expression string
		Accepted   bool
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		handle(t, c, "f", func(context.Context, any) (any, error) { return nil, nil })
		triggers := map[string]*iii.Trigger{}
		for _, v := range vectors {
			if !v.Accepted {
				continue
			}
			if triggers[v.Expression], err = c.Trigger("f", iii.CronTriggerConfig{Expression: v.Expression}); err != nil {
				t.Error(err)
			}
		}
		mustConnect(t, c)
		synctest.Wait()
		for expression, trigger := range triggers {
			if trigger != nil && trigger.Err() != nil {
				t.Errorf("%q: %v", expression, trigger.Err())
			}
		}
		if len(triggers) < 100 {
			t.Errorf("%d expressions", len(triggers))
		}
	})
}
