package iii_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// A stream stores items by group and broadcasts their changes.
func ExampleStream() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	type Message struct {
		Text  string `json:"text"`
		Likes int    `json:"likes"`
	}
	chat := iii.NewStream[Message](client, "chat")
	if _, err := chat.Set(ctx, "room-1", "m-1", Message{Text: "hello"}); err != nil {
		log.Fatal(err)
	}
	liked, err := chat.Update(ctx, "room-1", "m-1", iii.OpIncrement("likes", 1))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(liked.New.Text, liked.New.Likes)
	messages, err := chat.List(ctx, "room-1")
	fmt.Println(len(messages), "message", err)
	fmt.Println(chat.Groups(ctx))
	streams, err := client.Streams(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range streams {
		fmt.Println(s.ID, s.Groups)
	}
	_, removed, err := chat.Delete(ctx, "room-1", "m-1")
	fmt.Println(removed, err)
	// Output:
	// hello 1
	// 1 message <nil>
	// [room-1] <nil>
	// chat [room-1]
	// true <nil>
}

// A subscriber receives the current state first, then changes and sent events.
func ExampleSubscribe() {
	engine, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	chat := iii.NewStream[string](client, "chat")
	room := iii.StreamSubscription{StreamName: "chat", GroupID: "room-1"}
	for m, err := range iii.Subscribe(ctx, engine.StreamURL(), room) {
		if err != nil {
			log.Fatal(err)
		}
		switch m.Event.Type {
		case iii.StreamEventTypeSync: // sent again after each reconnection
			fmt.Printf("sync %s\n", m.Event.Data)
			_, err = chat.Set(ctx, "room-1", "m-1", "hello")
		case iii.StreamEventTypeCreate:
			fmt.Printf("create %s: %s\n", *m.ID, m.Event.Data)
			err = chat.Send(ctx, "room-1", "typing", "ada") // stores nothing
		case iii.StreamEventTypeEvent:
			fmt.Printf("event %s\n", m.Event.Event)
			return // leaving the loop closes the connection
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// sync []
	// create m-1: "hello"
	// event {"data":"ada","type":"typing"}
}

// An auth function derives a context from the headers of a subscriber, and a join trigger
// uses the context to accept or reject subscriptions.
func ExampleSubscribeWith() {
	engine, err := iiitest.New(iiitest.WithStreamAuth("chat::auth"))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	client, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()

	_, err = iii.Handle(client, "chat::auth", func(ctx context.Context, in iii.StreamAuthInput) (iii.StreamAuthResult, error) {
		user, err := json.Marshal(in.Headers["x-user"])
		return iii.StreamAuthResult{Context: user}, err
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "chat::join", func(ctx context.Context, e iii.StreamJoinLeaveEvent) (iii.StreamJoinResult, error) {
		return iii.StreamJoinResult{Unauthorized: string(e.Context) != `"ada"`}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Trigger("chat::join", iii.StreamJoinTrigger{}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	for _, user := range []string{"ada", "eve"} {
		o := iii.SubscribeOptions{URL: engine.StreamURL(), Header: http.Header{"X-User": {user}}}
		for m, err := range iii.SubscribeWith(ctx, o, iii.StreamSubscription{StreamName: "chat", GroupID: "room-1"}) {
			fmt.Println(user, m.Event.Type, err)
			break
		}
	}
	// Output:
	// ada sync <nil>
	// eve unauthorized iii: subscribe: forbidden: subscription to stream "chat", group "room-1" was rejected
}
