package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync/atomic"

	"github.com/iii-go/iii"
)

// Publish delivers a message at most once, to the current subscribers of a topic.
func ExampleClient_Publish() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	headlines := make(chan string)
	_, err := iii.Handle(client, "news::saw", func(ctx context.Context, headline string) (any, error) {
		headlines <- headline
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("news::saw", iii.SubscribeTriggerConfig{Topic: "news"}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	if err := client.Publish(ctx, "news", "tea is served"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-headlines)
	// Output: tea is served
}

// PublishDurable adds a message to the queue of each subscriber. The queue keeps the message
// until it has been handled: delivery is at-least-once.
func ExampleClient_PublishDurable() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	attempt := 0
	done := make(chan int)
	_, err := iii.Handle(client, "orders::ship", func(ctx context.Context, order string) (any, error) {
		if attempt++; attempt == 1 { // delivery is at-least-once, so the function must be idempotent
			return nil, errors.New("the lorry is away")
		}
		done <- attempt
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("orders::ship", iii.QueueTriggerConfig{
		Topic:       "orders",
		QueueConfig: &iii.QueueConfig{BackoffDelayMs: new(uint64(10)), Concurrency: new(uint64(1))},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	if err := client.PublishDurable(ctx, "orders", "o-1"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("shipped at attempt", <-done)
	// Output: shipped at attempt 2
}

// A message whose attempts are used up moves to the dead-letter queue, where it can be
// inspected, retried or discarded.
func ExampleClient_DeadLetters() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	var repaired atomic.Bool
	delivered := make(chan string)
	_, err := iii.Handle(client, "mail::send", func(ctx context.Context, to string) (any, error) {
		if !repaired.Load() {
			return nil, errors.New("the mail server is away")
		}
		delivered <- to
		return nil, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("mail::send", iii.QueueTriggerConfig{
		Topic:       "mails",
		QueueConfig: &iii.QueueConfig{MaxRetries: new(uint64(0))}, // one attempt
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	for _, to := range []string{"ada@example.org", "bob@example.org", "eve@example.org"} {
		if err := client.PublishDurable(ctx, "mails", to); err != nil {
			log.Fatal(err)
		}
	}
	letters := []iii.DeadLetter{}
	for len(letters) < 3 { // until all attempts have failed
		if letters, err = client.DeadLetters(ctx, "mails"); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(len(letters), "dead letters")

	for _, letter := range letters {
		if string(letter.Payload) == `"eve@example.org"` {
			fmt.Println(client.DiscardMessage(ctx, "mails", letter.ID))
		}
	}
	repaired.Store(true)
	for _, letter := range letters {
		if string(letter.Payload) == `"bob@example.org"` {
			fmt.Println(client.RedriveMessage(ctx, "mails", letter.ID))
		}
	}
	fmt.Println(<-delivered)
	fmt.Println(client.Redrive(ctx, "mails"))
	fmt.Println(<-delivered)
	// Output:
	// 3 dead letters
	// true <nil>
	// true <nil>
	// bob@example.org
	// 1 <nil>
	// ada@example.org
}
