package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// The engine calls an auth function for every worker that connects to a guarded listener. The
// worker that serves this function connects to another listener.
func ExampleAuthResult() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "gate::auth"}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::auth", func(ctx context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		if in.Headers["authorization"] != "Bearer t0ken" {
			return iii.AuthResult{}, &iii.Error{Code: "unauthorized", Message: "unknown token"} // rejects the worker
		}
		result := iii.NewAuthResult() // default permissions
		result.AllowedFunctions = []string{"orders::read"}
		result.Context = json.RawMessage(`{"tenant":"acme"}`) // passed to the other hooks
		return result, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"orders::read", "orders::delete"} {
		_, err = iii.Handle(gate, id, func(ctx context.Context, _ any) (string, error) { return id, nil })
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	// This worker sends the token. It may call orders::read but not orders::delete.
	member, err := iii.New(engine.GuardedURL(), iii.WithHeader(http.Header{"Authorization": {"Bearer t0ken"}}))
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[string](ctx, member, "orders::read", nil))
	err = member.Call(ctx, "orders::delete", nil, nil)
	fmt.Println(errors.Is(err, iii.ErrForbidden))

	// This worker sends no token.
	stranger, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer stranger.Close()
	var refused *iii.AuthError
	fmt.Println(errors.As(stranger.Connect(ctx), &refused))
	// Output:
	// orders::read <nil>
	// true
	// true
}

// Hooks accept, change or reject the registrations of workers on a guarded listener.
func ExampleOnFunctionRegistrationResult() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{
		OnFunction: "gate::on-function",
		Expose:     []string{"tenant::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::on-function", func(ctx context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
		if strings.HasPrefix(in.FunctionID, "admin::") {
			return iii.OnFunctionRegistrationResult{}, errors.New("not for tenants") // rejected; the engine does not notify the worker
		}
		return iii.OnFunctionRegistrationResult{FunctionID: "tenant::" + in.FunctionID}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	for _, id := range []string{"greet", "admin::stop"} {
		_, err := member.HandleFunc(id, func(ctx context.Context, payload json.RawMessage) (any, error) { return id, nil })
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	functions, err := gate.Functions(ctx, iii.FunctionFilter{Workers: []string{member.Name()}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range functions {
		fmt.Println(f.FunctionID)
	}
	// Output: tenant::greet
}

// Engines up to version 0.25 also call a hook for each trigger that a worker on a guarded
// listener registers.
func ExampleOnTriggerRegistrationResult() {
	engine, err := iiitest.New(iiitest.WithProtocol(iiitest.Protocol025), iiitest.WithGuard(iiitest.Guard{
		OnTrigger: "gate::on-trigger",
		Expose:    []string{"tenant::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::on-trigger", func(ctx context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
		return iii.OnTriggerRegistrationResult{FunctionID: "tenant::" + in.FunctionID}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if _, err := member.Trigger("greet", iii.SubscribeTriggerConfig{Topic: "visitors"}); err != nil {
		log.Fatal(err)
	}
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	triggers, err := gate.Triggers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(triggers[0].FunctionID)
	// Output: tenant::greet
}

// On a guarded listener, middleware receives every permitted call and decides whether to
// forward it.
func ExampleMiddlewareInput() {
	engine, err := iiitest.New(iiitest.WithGuard(iiitest.Guard{
		MiddlewareFunctionID: "gate::audit",
		Expose:               []string{"math::*"},
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	gate, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	ctx := context.Background()

	_, err = iii.Handle(gate, "gate::audit", func(ctx context.Context, in iii.MiddlewareInput) (json.RawMessage, error) {
		fmt.Println("audit:", in.FunctionID)
		return iii.Call[json.RawMessage](ctx, gate, in.FunctionID, in.Payload, iii.InNamespace(in.Namespace))
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(gate, "math::add", func(ctx context.Context, in Sum) (int, error) { return in.A + in.B, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := gate.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	member, err := iii.New(engine.GuardedURL())
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	if err := member.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[int](ctx, member, "math::add", Sum{A: 2, B: 3}))
	// Output:
	// audit: math::add
	// 5 <nil>
}

// A web server that serves an HTTP-invoked function rejects requests that the engine did not
// sign.
func ExampleVerifySignature() {
	secret := "the value of the engine's variable" // value of the variable that HTTPAuthHMAC names
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = iii.VerifySignature(r, body, secret, 5*time.Minute)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(body)
	})

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/charge", strings.NewReader(`{"cents":350}`)))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 401 iii: request is not signed by the engine: X-Iii-Signature is missing
}

// All workers share the state. Values are addressed by scope and key. Concurrent updates do
// not overwrite each other.
func ExampleState() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	type Account struct {
		Name  string   `json:"name"`
		Cents int      `json:"cents"`
		Tags  []string `json:"tags"`
	}
	accounts := iii.NewState[Account](client, "accounts")
	if _, err := accounts.Set(ctx, "ada", Account{Name: "Ada", Cents: 500, Tags: []string{}}); err != nil {
		log.Fatal(err)
	}
	changed, err := accounts.Update(ctx, "ada",
		iii.OpDecrement("cents", 350),
		iii.OpAppend("regular", "tags"),
		iii.OpIncrement("name", 1))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(changed.Old.Cents, "to", changed.New.Cents, changed.New.Tags)
	for _, e := range changed.Errors { // failed operations; the others were applied
		fmt.Printf("operation %d: %s\n", e.OpIndex, e.Code)
	}
	_, ok, err := accounts.Get(ctx, "bob")
	fmt.Println("bob:", ok, err)
	// Output:
	// 500 to 150 [regular]
	// operation 2: increment.not_number
	// bob: false <nil>
}

// List returns the values in a scope, without their keys.
func ExampleState_List() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	stock := iii.NewState[int](client, "stock")
	for item, n := range map[string]int{"tea": 7} {
		set, err := stock.Set(ctx, item, n)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item, set.HadOld, set.New)
	}
	fmt.Println(stock.List(ctx))
	fmt.Println(client.StateScopes(ctx))
	fmt.Println(stock.Delete(ctx, "tea"))
	fmt.Println(stock.Delete(ctx, "tea"))
	// Output:
	// tea false 7
	// [7] <nil>
	// [stock] <nil>
	// 7 true <nil>
	// 0 false <nil>
}

// ApplyUpdate applies update operations as the engine does. It is meant for workers that store
// items themselves.
func ExampleApplyUpdate() {
	item := json.RawMessage(`{"name":"Ada","visits":1,"tags":["new"],"address":{"city":"London"},"draft":true}`)
	result, err := iii.ApplyUpdate(item, []iii.UpdateOp{
		iii.OpSet("name", "Ada L."),
		iii.OpIncrement("visits", 2),
		iii.OpDecrement("debt", 5), // a missing number counts as 0
		iii.OpAppend("regular", "tags"),
		iii.OpMerge(map[string]any{"street": "St James's Square"}, "address"),
		iii.OpRemove("draft"),
		iii.OpIncrement("name", 1), // fails, because name is not a number; the other operations apply
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(result.NewValue))
	for _, e := range result.Errors {
		fmt.Println(e.OpIndex, e.Code)
	}
	// Output:
	// {"address":{"city":"London","street":"St James's Square"},"debt":-5,"name":"Ada L.","tags":["new","regular"],"visits":3}
	// 6 increment.not_number
}

// A stream stores items in groups and broadcasts changes to them.
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

// A subscriber receives the current items first, then changes and custom events.
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
		case iii.StreamEventTypeSync: // arrives again after each reconnect
			fmt.Printf("sync %s\n", m.Event.Data)
			_, err = chat.Set(ctx, "room-1", "m-1", "hello")
		case iii.StreamEventTypeCreate:
			fmt.Printf("create %s: %s\n", *m.ID, m.Event.Data)
			err = chat.Send(ctx, "room-1", "typing", "ada") // sends an event without storing anything
		case iii.StreamEventTypeEvent:
			fmt.Printf("event %s\n", m.Event.Event)
			return // ending the loop closes the connection
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

// The auth function derives a context from the subscriber's headers. The join trigger uses the
// context to accept or reject each subscription.
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

// Publish delivers a message at most once to each current subscriber of a topic.
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

// PublishDurable adds the message to each subscriber's queue. A queue keeps the message until
// the subscriber has handled it, so delivery is at-least-once.
func ExampleClient_PublishDurable() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	attempt := 0
	done := make(chan int)
	_, err := iii.Handle(client, "orders::ship", func(ctx context.Context, order string) (any, error) {
		if attempt++; attempt == 1 { // delivery is at-least-once, so the handler must be idempotent
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

// After the last attempt to handle a message has failed, the engine moves the message to the
// dead-letter queue, where it can be inspected, retried or discarded.
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
		QueueConfig: &iii.QueueConfig{MaxRetries: new(uint64(0))}, // no retries
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
	for len(letters) < 3 { // until every message has failed
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

// The engine stores each configuration entry with a JSON schema, and rejects values that do
// not match it.
func ExampleConfiguration() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	config := client.Configuration()
	_, err := config.Register(ctx, iii.ConfigurationRegisterInput{
		ID:           "shop",
		Name:         "Shop",
		Description:  "Opening hours",
		Schema:       json.RawMessage(`{"type":"object","properties":{"opens":{"type":"integer"}},"required":["opens"]}`),
		InitialValue: json.RawMessage(`{"opens":9}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := config.Set(ctx, "shop", map[string]int{"opens": 8}); err != nil {
		log.Fatal(err)
	}
	var hours struct {
		Opens int `json:"opens"`
	}
	if err := config.Get(ctx, "shop", &hours); err != nil {
		log.Fatal(err)
	}
	fmt.Println("opens at", hours.Opens)

	_, err = config.Set(ctx, "shop", map[string]string{"opens": "early"})
	var refusal *iii.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code)
	}
	entry, err := config.Schema(ctx, "shop")
	fmt.Println(entry.Name, err)
	entries, err := config.List(ctx)
	fmt.Println(len(entries), "entry", err)
	// Output:
	// opens at 8
	// SCHEMA_INVALID
	// Shop <nil>
	// 1 entry <nil>
}

// The engine lists functions with their schemas and the workers that serve them.
func ExampleClient_Functions() {
	_, client, stop := withEngine(iii.WithName("calculator"), iii.WithDescription("Knows numbers"))
	defer stop()
	ctx := context.Background()
	_, err := iii.Handle(client, "math::add", func(ctx context.Context, in Sum) (int, error) { return in.A + in.B, nil },
		iii.WithFunctionDescription("Adds two numbers"))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	functions, err := client.Functions(ctx, iii.FunctionFilter{Prefix: "math::"})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range functions {
		fmt.Println(f.FunctionID, "-", *f.Description)
	}
	function, err := client.FunctionInfo(ctx, "math::add")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(function.ResponseSchema), "by", function.WorkerName)
	// Output:
	// math::add - Adds two numbers
	// {"type":"integer"} by calculator
}

// The engine lists its workers and what they have registered, and reports the health of its
// telemetry.
func ExampleClient_Workers() {
	_, client, stop := withEngine(iii.WithName("calculator"), iii.WithDescription("Knows numbers"))
	defer stop()
	ctx := context.Background()
	_, err := iii.HandleHTTP(client, "GET", "/pi", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[float64], error) {
		return &iii.HTTPResponse[float64]{StatusCode: 200, Body: 3.14}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	workers, err := client.Workers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range workers {
		if w.Runtime != nil && *w.Runtime == "go" {
			fmt.Println(*w.Name, "-", *w.Description)
		}
	}
	worker, err := client.WorkerInfo(ctx, "calculator")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(worker.Functions[0].FunctionID)
	triggers, err := client.Triggers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(triggers[0].TriggerType, string(triggers[0].Config))
	types, err := client.TriggerTypes(ctx)
	fmt.Println(len(types) > 10, err)
	health, err := client.Health(ctx)
	fmt.Println(health.Status, err)
	// Output:
	// calculator - Knows numbers
	// http::GET/pi
	// http {"api_path":"/pi","http_method":"GET"}
	// true <nil>
	// healthy <nil>
}

// A worker sends a file to another worker. The call carries only a reference to the reading
// end of a channel. The file itself goes through the channel, which has no size limit.
func ExampleClient_CreateChannel() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Upload struct {
		Name    string               `json:"name"`
		Content iii.StreamChannelRef `json:"content"`
	}
	_, err := iii.Handle(client, "files::store", func(ctx context.Context, in Upload) (string, error) {
		content, err := client.OpenReader(ctx, in.Content)
		if err != nil {
			return "", err
		}
		defer content.Close()
		n, err := io.Copy(io.Discard, content)
		return fmt.Sprintf("%s has %d bytes", in.Name, n), err
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	writer, reader, err := client.CreateChannel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(writer, strings.NewReader(strings.Repeat("tea ", 1_000_000)))
		sent <- errors.Join(err, writer.Close()) // without Close, the reader never sees io.EOF
	}()
	stored, err := iii.Call[string](ctx, client, "files::store", Upload{Name: "tea.txt", Content: reader.Ref()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stored, <-sent)
	// Output: tea.txt has 4000000 bytes <nil>
}

// Channels carry messages as well as bytes. Here, another worker receives the writing end and
// reports the progress of a job.
func ExampleChannelReader_Messages() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "video::encode", func(ctx context.Context, progress iii.StreamChannelRef) (string, error) {
		w, err := client.OpenWriter(ctx, progress)
		if err != nil {
			return "", err
		}
		defer w.Close()
		for percent := 0; percent <= 100; percent += 50 {
			if err := w.SendMessage(ctx, map[string]int{"percent": percent}); err != nil {
				return "", err
			}
		}
		return "done", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	writer, reader, err := client.CreateChannel(ctx, iii.WithChannelBuffer(8))
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	done := make(chan string, 1)
	go func() {
		result, err := iii.Call[string](ctx, client, "video::encode", writer.Ref())
		done <- fmt.Sprint(result, " ", err)
	}()
	for message, err := range reader.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(message))
	}
	fmt.Println(<-done)
	// Output:
	// {"percent":0}
	// {"percent":50}
	// {"percent":100}
	// done <nil>
}

// Without a deadline, Read blocks until the writer sends data, and Write blocks until the
// reader catches up.
func ExampleChannelReader_SetReadDeadline() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	writer, reader, err := client.CreateChannel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer writer.Close()
	defer reader.Close()

	if err := reader.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, err = reader.Read(make([]byte, 100))
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))

	if err := reader.SetReadDeadline(time.Time{}); err != nil { // clears the deadline
		log.Fatal(err)
	}
	if err := writer.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(writer, "late"); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := reader.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output:
	// true
	// late <nil>
}

// ChannelRefs finds channel references anywhere in a payload.
func ExampleChannelRefs() {
	payload := json.RawMessage(`{"name": "photo.jpg", "parts": [{"content": {"channel_id": "c1", "access_key": "k1", "direction": "read"}}]}`)
	for _, at := range iii.ChannelRefs(payload) {
		fmt.Println(at.Path, at.Ref.Direction, at.Ref.ChannelID)
	}
	// Output: parts[0].content read c1
}
