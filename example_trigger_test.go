package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// The function runs whenever a value in one scope of the state changes.
func ExampleClient_Trigger() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	events := make(chan iii.StateEvent, 1)
	changed, err := iii.Handle(client, "carts::changed", func(ctx context.Context, e iii.StateEvent) (any, error) {
		events <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	trigger, err := client.Trigger(changed.ID(), iii.StateTriggerConfig{Scope: new("carts")})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	if _, err := iii.NewState[map[string]int](client, "carts").Set(ctx, "ada", map[string]int{"tea": 1}); err != nil {
		log.Fatal(err)
	}
	e := <-events
	fmt.Printf("%s: %s of %s is %s\n", e.EventType, e.Key, e.Scope, e.NewValue)

	if err := trigger.Unregister(); err != nil {
		log.Fatal(err)
	}
	// Output: state:created: ada of carts is {"tea":1}
}

// The engine rejects triggers asynchronously. Engine 0.26 and later send the error code
// shown here. Earlier engines send trigger_registration_failed.
func ExampleWithTriggerErrorHandler() {
	_, client, stop := withEngine()
	defer stop()

	refused := make(chan error, 1)
	trigger, err := client.Trigger("reports::write",
		iii.CronTriggerConfig{Expression: "0 0 25 * * *"}, // hour 25 does not exist
		iii.WithTriggerErrorHandler(func(err error) { refused <- err }))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	<-refused
	var reason *iii.Error
	fmt.Println(errors.As(trigger.Err(), &reason), reason.Code)

	// Trigger itself rejects configs that it can recognize as invalid.
	_, err = client.Trigger("reports::write", iii.CronTriggerConfig{Expression: "0 25 * * *"})
	fmt.Println(err)
	// Output:
	// true INVALID_CRON_EXPRESSION
	// iii: trigger of reports::write: cron expression "0 25 * * *" needs six fields, seconds first, or seven with a year; it has 5
}

// A trigger can have an id, which must be unique across the engine, and metadata for the
// function. The function and the trigger type may be in different namespaces.
func ExampleWithTriggerMetadata() {
	_, client, stop := withEngine(iii.WithNamespace("shop"))
	defer stop()
	ctx := context.Background()

	seen := make(chan string)
	_, err := iii.Handle(client, "carts::changed", func(ctx context.Context, e iii.StateEvent) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		seen <- string(inv.Metadata)
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	trigger, err := client.Trigger("carts::changed", iii.StateTriggerConfig{},
		iii.WithTriggerID("shop/carts"),
		iii.WithTriggerMetadata(map[string]string{"shop": "oslo"}),
		iii.WithTriggerNamespace("shop"),            // namespace of the function; defaults to the worker's
		iii.WithTriggerProviderNamespace("default")) // namespace of the trigger type
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := iii.NewState[int](client, "carts").Set(ctx, "ada", 1); err != nil {
		log.Fatal(err)
	}
	fmt.Println(trigger.ID(), <-seen)
	// Output: shop/carts {"shop":"oslo"}
}

// This trigger fires every second. A cron expression has six fields, starting with seconds.
// Times are in UTC.
func ExampleCronTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()

	runs := make(chan iii.CronEvent, 1)
	_, err := iii.Handle(client, "mail::digest", func(ctx context.Context, e iii.CronEvent) (any, error) {
		select {
		case runs <- e:
		default:
		}
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("mail::digest", iii.CronTriggerConfig{Expression: "* * * * * *"}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	run := <-runs
	fmt.Println(run.Trigger, "in time:", !run.ActualTime.Before(run.ScheduledTime))
	// Output: cron in time: true
}

// A condition is a function that receives the same event as the trigger's function. If it
// returns false, the trigger does not fire.
func ExampleStateTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	alarms := make(chan string)
	_, err := iii.Handle(client, "heat::alarm", func(ctx context.Context, e iii.StateEvent) (any, error) {
		alarms <- string(e.NewValue)
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "heat::high", func(ctx context.Context, e iii.StateEvent) (bool, error) {
		var degrees int
		err := json.Unmarshal(e.NewValue, &degrees)
		return degrees > 90, err
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("heat::alarm", iii.StateTriggerConfig{
		Scope: new("heat"), Key: new("boiler"), ConditionFunctionID: "heat::high",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	heat := iii.NewState[int](client, "heat")
	for _, degrees := range []int{60, 95} {
		if _, err := heat.Set(ctx, "boiler", degrees); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(<-alarms, "degrees")
	// Output: 95 degrees
}

// The trigger fires on changes in one group of a stream.
func ExampleStreamTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	events := make(chan iii.StreamChangeEvent, 1)
	_, err := iii.Handle(client, "chat::moderate", func(ctx context.Context, e iii.StreamChangeEvent) (any, error) {
		events <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("chat::moderate", iii.StreamTriggerConfig{StreamName: "chat", GroupID: "room-1"})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := iii.NewStream[string](client, "chat").Set(ctx, "room-1", "m-1", "hello"); err != nil {
		log.Fatal(err)
	}
	e := <-events
	fmt.Println(e.Event.Type, *e.ID, string(e.Event.Data))
	// Output: create m-1 "hello"
}

// A join trigger decides whether a subscriber may join a stream. A leave trigger fires when a
// subscriber leaves. Both have the same config.
func ExampleStreamJoinTrigger() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	left := make(chan string, 1)
	_, err := iii.Handle(client, "chat::join", func(ctx context.Context, e iii.StreamJoinLeaveEvent) (iii.StreamJoinResult, error) {
		return iii.StreamJoinResult{Unauthorized: e.GroupID == "secret"}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "chat::leave", func(ctx context.Context, e iii.StreamJoinLeaveEvent) (any, error) {
		left <- e.GroupID
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	config := iii.StreamJoinLeaveTriggerConfig{StreamName: "chat"}
	if _, err := client.Trigger("chat::join", iii.StreamJoinTrigger{StreamJoinLeaveTriggerConfig: config}); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("chat::leave", iii.StreamLeaveTrigger{StreamJoinLeaveTriggerConfig: config}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	for _, group := range []string{"room-1", "secret"} {
		for m, err := range iii.Subscribe(ctx, engine.StreamURL(), iii.StreamSubscription{StreamName: "chat", GroupID: group}) {
			fmt.Println(group, m.Event.Type, errors.Is(err, iii.ErrForbidden))
			break
		}
	}
	fmt.Println("left", <-left)
	// Output:
	// room-1 sync false
	// secret unauthorized true
	// left room-1
}

// If handling a message from a durable topic fails, the engine retries the message and, after
// the last attempt, moves it to the dead-letter queue. Here, the delay before the retry is one
// millisecond.
func ExampleQueueTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	attempts := make(chan string, 10)
	_, err := iii.Handle(client, "mail::send", func(ctx context.Context, to string) (any, error) {
		attempts <- to
		return nil, errors.New("the mail server is away")
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("mail::send", iii.QueueTriggerConfig{
		Topic:       "mails",
		QueueConfig: &iii.QueueConfig{MaxRetries: new(uint64(1)), BackoffDelayMs: new(uint64(1))},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := client.PublishDurable(ctx, "mails", "ada@example.org"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-attempts)
	fmt.Println(<-attempts)
	// Output:
	// ada@example.org
	// ada@example.org
}

// Every current subscriber of a topic receives the published message.
func ExampleSubscribeTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	heard := make(chan string)
	_, err := iii.Handle(client, "news::heard", func(ctx context.Context, headline string) (any, error) {
		heard <- headline
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("news::heard", iii.SubscribeTriggerConfig{Topic: "news"}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := client.Publish(ctx, "news", "tea is served"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-heard)
	// Output: tea is served
}

// The trigger fires on error records from any worker. The event includes the record's trace
// id. The level must match exactly; it is not a minimum.
func ExampleLogTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	records := make(chan iii.LogEvent, 1)
	_, err := iii.Handle(client, "ops::page", func(ctx context.Context, e iii.LogEvent) (any, error) {
		records <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("ops::page", iii.LogTriggerConfig{Level: iii.LogLevelError}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := client.Call(ctx, "engine::log::error", iii.LogInput{Message: "the oven burns"}, nil); err != nil {
		log.Fatal(err)
	}
	e := <-records
	fmt.Println(e.SeverityText, e.Body)
	// Output: ERROR the oven burns
}

// The event contains the ids of traces with failed spans. The engine collects ids for a short
// time and sends them together.
func ExampleTraceTriggerConfig() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: new(engine.URL())})
	if err != nil {
		log.Fatal(err)
	}
	defer telemetry.Shutdown(ctx)

	traces := make(chan iii.TraceEvent, 1)
	_, err = iii.Handle(client, "ops::failed", func(ctx context.Context, e iii.TraceEvent) (any, error) {
		traces <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("ops::failed", iii.TraceTriggerConfig{Status: new("error")}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	ctx, span := telemetry.Tracer().Start(ctx, "bake")
	_ = iii.InSpan(ctx, "heat oven", 0, func(context.Context) error { return errors.New("no gas") })
	span.End()
	if err := telemetry.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	e := <-traces
	fmt.Println(len(e.TraceIDs), e.TraceIDs[0] == iii.TraceID(ctx))
	// Output: 1 true
}

// The trigger fires on changes to one configuration entry.
func ExampleConfigurationTriggerConfig() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	events := make(chan iii.ConfigurationEvent, 1)
	_, err := iii.Handle(client, "shop::reload", func(ctx context.Context, e iii.ConfigurationEvent) (any, error) {
		events <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("shop::reload", iii.ConfigurationTriggerConfig{
		ConfigurationID: "shop",
		EventTypes:      []iii.ConfigurationEventType{iii.ConfigurationEventTypeUpdated},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = client.Configuration().Register(ctx, iii.ConfigurationRegisterInput{
		ID: "shop", Name: "Shop", Description: "Opening hours", Schema: json.RawMessage(`{"type":"object"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Configuration().Set(ctx, "shop", map[string]int{"opens": 8}); err != nil {
		log.Fatal(err)
	}
	e := <-events
	fmt.Println(e.EventType, string(e.NewValue))
	// Output: configuration:updated {"opens":8}
}

// The trigger fires when workers connect or disconnect.
func ExampleWorkersAvailableTrigger() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	events := make(chan iii.WorkersAvailableEvent, 10)
	_, err := iii.Handle(client, "ops::workers", func(ctx context.Context, e iii.WorkersAvailableEvent) (any, error) {
		events <- e
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("ops::workers", iii.WorkersAvailableTrigger{}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	visitor, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	if err := visitor.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	if err := visitor.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	for e := range events {
		if e.Event == iii.WorkerEventTypeDisconnected {
			fmt.Println("the visitor is gone:", e.WorkerID == visitor.WorkerID())
			break
		}
	}
	// Output: the visitor is gone: true
}
