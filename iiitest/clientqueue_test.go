package iiitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// inBubble runs f in a synctest bubble with an engine and a connected client.
func inBubble(t *testing.T, f func(t *testing.T, c *iii.Client), opts ...iiitest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t, opts...)
		c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		f(t, c)
	})
}

// bind registers a function and a trigger for it, and waits until the engine has both.
func bind[In any](t *testing.T, c *iii.Client, id string, config iii.TriggerConfig, f func(context.Context, In) (any, error)) {
	t.Helper()
	if _, err := iii.Handle(c, id, f); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Trigger(id, config); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestClientCron(t *testing.T) {
	inBubble(t, func(t *testing.T, c *iii.Client) {
		var events []iii.CronEvent
		bind(t, c, "tick", iii.CronTriggerConfig{Expression: "0 30 8 * * SUN-MON"}, func(_ context.Context, e iii.CronEvent) (any, error) {
			events = append(events, e)
			return nil, nil
		})
		time.Sleep(57 * time.Hour)
		synctest.Wait()
		if len(events) != 2 || events[0].Trigger != "cron" || events[0].ActualTime.Before(events[0].ScheduledTime) ||
			!events[0].ScheduledTime.Equal(time.Date(2000, 1, 2, 8, 30, 0, 0, time.UTC)) {
			t.Errorf("events: %+v", events)
		}
		trigger, err := c.Trigger("tick", iii.CronTriggerConfig{Expression: "0 30 8 * * 0"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var refused *iii.Error
		if err := trigger.Err(); !errors.As(err, &refused) || refused.Code != "INVALID_CRON_EXPRESSION" && refused.Code != "trigger_registration_failed" {
			t.Errorf("weekday 0: %v", err)
		}
	})
}

func TestClientDeadLetters(t *testing.T) {
	inBubble(t, func(t *testing.T, c *iii.Client) {
		ctx := t.Context()
		var mu sync.Mutex
		broken, done := true, map[string]int{}
		handle := func(_ context.Context, order map[string]int) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			if broken {
				return nil, &iii.Error{Code: "OUT_OF_STOCK", Message: "none left"}
			}
			for name, n := range order {
				done[name] += n
			}
			return nil, nil
		}
		retries := uint64(1)
		bind(t, c, "ship", iii.QueueTriggerConfig{Topic: "orders", QueueConfig: &iii.QueueConfig{Type: "fifo", MaxRetries: &retries}}, handle)
		if err := c.PublishDurable(ctx, "orders", map[string]int{"topic": 1}); err != nil {
			t.Fatal(err)
		}
		receipt, err := c.Enqueue(ctx, "payments", "ship", map[string]any{"queue": 2})
		if err != nil || receipt.MessageReceiptID == "" {
			t.Fatalf("receipt %+v: %v", receipt, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		broken = false
		for queue, want := range map[string]string{
			"orders":   `ErrorBody { code: "OUT_OF_STOCK", message: "none left", stacktrace: None }`,
			"payments": "function call failed",
		} {
			letters, err := c.DeadLetters(ctx, queue)
			if err != nil || len(letters) != 1 {
				t.Fatalf("%s: %+v, %v", queue, letters, err)
			}
			if l := letters[0]; l.Error != want || l.Retries != 2 || time.Since(time.Unix(int64(l.FailedAt), 0)) > time.Minute {
				t.Errorf("%s: %+v", queue, l)
			}
			if ok, err := c.RedriveMessage(ctx, queue, letters[0].ID); !ok || err != nil {
				t.Errorf("%s: %v, %v", queue, ok, err)
			}
		}
		synctest.Wait()
		if diff := cmp.Diff(map[string]int{"topic": 1, "queue": 2}, done); diff != "" {
			t.Errorf("done (-want +got):\n%s", diff)
		}
		if _, err := c.Enqueue(ctx, "no such queue", "ship", nil); !errors.Is(err, iii.ErrEnqueue) {
			t.Errorf("unknown queue: %v", err)
		}
	}, iiitest.WithQueue("payments", iiitest.QueueConfig{MaxRetries: 2, BackoffMs: 10}))
}

func TestClientConfiguration(t *testing.T) {
	inBubble(t, func(t *testing.T, c *iii.Client) {
		ctx := t.Context()
		var mu sync.Mutex
		events := map[iii.ConfigurationEventType]string{}
		bind(t, c, "changed", iii.ConfigurationTriggerConfig{ConfigurationID: "web"}, func(_ context.Context, e iii.ConfigurationEvent) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			events[e.EventType] = string(e.OldValue) + " to " + string(e.NewValue)
			return nil, nil
		})
		if _, err := c.Configuration().Register(ctx, iii.ConfigurationRegisterInput{
			ID: "web", Name: "Web", Schema: json.RawMessage(`{"type":"object","required":["url"]}`), InitialValue: json.RawMessage(`{"url":"${URL:none}"}`),
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Configuration().Set(ctx, "web", map[string]string{"url": "https://${HOST}/"}); err != nil {
			t.Fatal(err)
		}
		var value struct{ URL string }
		if err := c.Configuration().Get(ctx, "web", &value); err != nil || value.URL != "https://example.org/" {
			t.Errorf("value %+v: %v", value, err)
		}
		var refused *iii.Error
		if _, err := c.Configuration().Set(ctx, "web", 1); !errors.As(err, &refused) || refused.Code != "SCHEMA_INVALID" {
			t.Errorf("a value that the schema does not allow: %v", err)
		}
		synctest.Wait()
		want := map[iii.ConfigurationEventType]string{ // events may arrive in any order
			iii.ConfigurationEventTypeRegistered: `null to {"url":"none"}`,
			iii.ConfigurationEventTypeUpdated:    `{"url":"none"} to {"url":"https://example.org/"}`,
		}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}, iiitest.WithEnv(map[string]string{"HOST": "example.org"}))
}
