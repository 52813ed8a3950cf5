package iii_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// ticker provides a trigger type. Each trigger fires at the interval in its config.
type ticker struct {
	running sync.WaitGroup
}

// Bind starts a trigger. The context is canceled when the trigger is unbound or replaced.
func (t *ticker) Bind(ctx context.Context, b iii.TriggerBinding) error {
	if b.Unchanged {
		return nil // bound again after a reconnect; still ticking
	}
	var config struct {
		EveryMs int `json:"every_ms"`
	}
	if err := json.Unmarshal(b.Config, &config); err != nil || config.EveryMs <= 0 {
		return &iii.Error{Code: "bad_config", Message: "every_ms must be positive"}
	}
	t.running.Go(func() {
		tick := time.NewTicker(time.Duration(config.EveryMs) * time.Millisecond)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-tick.C:
				if _, err := b.Fire(ctx, n); err != nil && ctx.Err() == nil {
					log.Print(err)
				}
			case <-ctx.Done(): // trigger unbound or replaced, or client closed
				return
			}
		}
	})
	return nil
}

// Unbind does nothing, because the context passed to Bind has already stopped the trigger.
func (t *ticker) Unbind(ctx context.Context, id string) error { return nil }

// This worker provides a trigger type and also registers a trigger of that type.
func ExampleClient_HandleTriggerType() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	var clock ticker
	defer clock.running.Wait() // runs after client.Close, which stops all triggers
	client, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	err = client.HandleTriggerType(iii.TriggerType{ID: "ticker", Description: "Fires again and again"}, &clock)
	if err != nil {
		log.Fatal(err)
	}
	ticks := make(chan int, 1000)
	_, err = iii.Handle(client, "clock::ticked", func(ctx context.Context, n int) (any, error) {
		ticks <- n
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	trigger, err := client.Trigger("clock::ticked", iii.CustomTrigger{Type: "ticker", Config: map[string]int{"every_ms": 5}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-ticks, <-ticks, <-ticks)
	if err := trigger.Unregister(); err != nil {
		log.Fatal(err)
	}

	refused := make(chan error)
	_, err = client.Trigger("clock::ticked", iii.CustomTrigger{Type: "ticker"},
		iii.WithTriggerErrorHandler(func(err error) { refused <- err }))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-refused)
	// Output:
	// 1 2 3
	// iii: clock::ticked: bad_config: every_ms must be positive
}
