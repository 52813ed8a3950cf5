package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestPublish(t *testing.T) {
	e := iiitest.Start(t)
	subscriber, publisher := connect(t, e), connect(t, e)
	type news struct {
		Headline string `json:"headline"`
	}
	got := make(chan news, 2)
	handle(t, subscriber, "news::saw", func(_ context.Context, n news) (any, error) { got <- n; return nil, nil })
	if _, err := subscriber.Trigger("news::saw", iii.SubscribeTriggerConfig{Topic: "news"}); err != nil {
		t.Fatal(err)
	}
	if err := subscriber.Call(t.Context(), "engine::health::check", nil, nil); err != nil { // it is registered
		t.Fatal(err)
	}
	if err := publisher.Publish(t.Context(), "nobody", 1); err != nil {
		t.Errorf("without a subscriber: %v", err)
	}
	if err := publisher.Publish(t.Context(), "news", news{"x"}); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n.Headline != "x" {
		t.Errorf("%+v", n)
	}
	var remote *iii.Error
	if err := publisher.Publish(t.Context(), "", 1); !errors.As(err, &remote) || remote.Code != "topic_not_set" {
		t.Errorf("without a topic: %v", err)
	}
	for what, publish := range map[string]func(context.Context, string, any) error{"publish": publisher.Publish, "durable": publisher.PublishDurable} {
		if err := publish(t.Context(), "news", func() {}); err == nil || !iii.SafeToRetry(err) {
			t.Errorf("%s of what does not encode: %v", what, err)
		}
	}
}

// The functions of the queue worker are called as in the recording, and what it
// answered is read.
func TestQueueAsRecorded(t *testing.T) {
	calls := recordedCalls(t, "queues", "iii::durable::publish", "publish", "engine::queue::dlq_messages", "iii::queue::redrive")
	for i, call := range calls {
		if call.functionID == "engine::queue::dlq_messages" { // the pages are ours
			calls[i].data = json.RawMessage(`{"topic":"orders.bad","limit":100}`)
		}
	}
	calls = append(calls,
		recordedCall{functionID: "iii::queue::redrive_message", data: json.RawMessage(`{"queue":"orders","message_id":"m1"}`), result: json.RawMessage(`{"queue":"orders","message_id":"m1","redriven":1}`)},
		recordedCall{functionID: "iii::queue::redrive_message", data: json.RawMessage(`{"queue":"orders","message_id":"m1"}`), result: json.RawMessage(`{"queue":"orders","message_id":"m1","redriven":0}`)},
		recordedCall{functionID: "iii::queue::discard_message", data: json.RawMessage(`{"queue":"orders","message_id":"m2"}`), result: json.RawMessage(`{"queue":"orders","message_id":"m2","redriven":1}`)},
		recordedCall{functionID: "iii::queue::discard_message", data: json.RawMessage(`{"queue":"orders","message_id":"m2"}`), err: &iii.ErrorBody{Code: "discard_message_failed", Message: "no"}},
	)
	var sendable []recordedCall
	for _, call := range calls {
		if call.err == nil || call.err.Code != "deserialization_error" { // inputs that the methods cannot send
			sendable = append(sendable, call)
		}
	}
	c, engine := answerAsRecorded(t, sendable)
	ctx := t.Context()
	for _, call := range sendable {
		var in struct {
			Topic, Queue string
			MessageID    string `json:"message_id"`
			Data         json.RawMessage
		}
		if err := json.Unmarshal(call.data, &in); err != nil {
			t.Fatal(err)
		}
		var got any
		var err error
		switch call.functionID {
		case "publish":
			err = c.Publish(ctx, in.Topic, in.Data)
		case "iii::durable::publish":
			err = c.PublishDurable(ctx, in.Topic, in.Data)
		case "engine::queue::dlq_messages":
			got, err = c.DeadLetters(ctx, in.Topic)
		case "iii::queue::redrive":
			n, callErr := c.Redrive(ctx, in.Queue)
			got, err = map[string]any{"queue": in.Queue, "redriven": n}, callErr
		case "iii::queue::redrive_message", "iii::queue::discard_message":
			do := c.RedriveMessage
			if strings.Contains(call.functionID, "discard") {
				do = c.DiscardMessage
			}
			ok, callErr := do(ctx, in.Queue, in.MessageID)
			n := 0
			if ok {
				n = 1
			}
			got, err = map[string]any{"queue": in.Queue, "message_id": in.MessageID, "redriven": n}, callErr
		}
		var remote *iii.Error
		if call.err != nil {
			if !errors.As(err, &remote) || remote.Code != call.err.Code || remote.Message != call.err.Message {
				t.Errorf("line %d: error %v", call.line, err)
			}
			continue
		}
		doc, encodeErr := json.Marshal(got)
		if err != nil || encodeErr != nil {
			t.Errorf("line %d: %v, %v", call.line, err, encodeErr)
			continue
		}
		want := call.result
		if want == nil {
			want = json.RawMessage("null")
		}
		if diff := sameDocument(want, doc); diff != "" {
			t.Errorf("line %d: %s (-recorded +got):\n%s", call.line, call.functionID, diff)
		}
	}
	engine.done()
}

// All pages are read, also while letters come and go.
func TestDeadLettersPages(t *testing.T) {
	e := iiitest.Start(t)
	queue, c := connect(t, e), connect(t, e)
	var mu sync.Mutex
	var letters []iii.DeadLetter // newest first
	arrive := func(id string) { letters = append([]iii.DeadLetter{{ID: id}}, letters...) }
	for i := range 250 {
		arrive(fmt.Sprint("m", i))
	}
	pages, broken := 0, false
	handle(t, queue, "engine::queue::dlq_messages", func(_ context.Context, in iii.DeadLettersInput) ([]iii.DeadLetter, error) {
		mu.Lock()
		defer mu.Unlock()
		pages++
		limit := uint64(50)
		if in.Limit != nil {
			limit = *in.Limit
		}
		from := min(in.Offset, uint64(len(letters)))
		page := letters[from:min(from+limit, uint64(len(letters)))]
		if broken {
			return letters[:limit], nil
		}
		arrive(fmt.Sprint("late", pages))
		return page, nil
	})
	if err := queue.Call(t.Context(), "engine::health::check", nil, nil); err != nil {
		t.Fatal(err)
	}
	got, err := c.DeadLetters(t.Context(), "orders")
	if err != nil || pages != 3 {
		t.Fatalf("%d pages, error %v", pages, err)
	}
	seen := map[string]int{}
	for _, l := range got {
		seen[l.ID]++
	}
	for i := range 250 {
		if id := fmt.Sprint("m", i); seen[id] != 1 {
			t.Errorf("%s is listed %d times", id, seen[id])
		}
	}
	if len(got) != 250 || got[0].ID != "m249" || got[249].ID != "m0" {
		t.Errorf("%d letters, from %s to %s", len(got), got[0].ID, got[len(got)-1].ID)
	}

	// A queue that knows no pages is not asked for ever.
	mu.Lock()
	broken, pages, letters = true, 0, letters[:100]
	mu.Unlock()
	if got, err = c.DeadLetters(t.Context(), "orders"); err != nil || pages != 2 || len(got) != 100 {
		t.Errorf("%d letters in %d pages, error %v", len(got), pages, err)
	}
}

func TestQueueWithoutWorker(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithQueueProvider(false))
	c := connect(t, e)
	_, err := c.Enqueue(t.Context(), "default", "q::ok", 1)
	var remote *iii.Error
	if !errors.Is(err, iii.ErrEnqueue) || !errors.As(err, &remote) || remote.Code != "enqueue_error" || !strings.Contains(remote.Message, "iii worker add queue") {
		t.Errorf("enqueue: %v", err)
	}
	if errors.Is(err, iii.ErrFunctionNotFound) || errors.Is(err, iii.ErrForbidden) {
		t.Errorf("enqueue: %v", err)
	}
}

// A worker may be the queue.
func TestEnqueueProvider(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithQueueProvider(false))
	queue, c := connect(t, e, iii.WithName("my-queue")), connect(t, e, iii.WithNamespace("blue"))
	jobs := make(chan iii.QueueEnqueueInput, 1)
	handle(t, queue, "engine::queue::enqueue", func(_ context.Context, in iii.QueueEnqueueInput) (any, error) {
		if in.Queue == "full" {
			return nil, &iii.Error{Code: "QUEUE_FULL", Message: "no room"}
		}
		jobs <- in
		return map[string]bool{"accepted": true}, nil
	})
	if err := queue.Call(t.Context(), "engine::health::check", nil, nil); err != nil {
		t.Fatal(err)
	}
	receipt, err := c.Enqueue(t.Context(), "jobs", "eq::job", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	job := <-jobs
	if job.MessageReceiptID != receipt.MessageReceiptID || job.MessageReceiptID == "" {
		t.Errorf("receipt %q of job %q", receipt.MessageReceiptID, job.MessageReceiptID)
	}
	job.MessageReceiptID, job.Baggage = "", nil
	if diff := cmp.Diff(iii.QueueEnqueueInput{Queue: "jobs", FunctionID: "eq::job", Namespace: "blue", Data: json.RawMessage(`{"n":1}`)}, job); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	_, err = c.Enqueue(t.Context(), "full", "eq::job", 1)
	var remote *iii.Error
	if !errors.Is(err, iii.ErrEnqueue) || !errors.As(err, &remote) || remote.Message != "QUEUE_FULL: no room" {
		t.Errorf("refused: %v", err)
	}
}

func ExampleClient_Publish() {
	headlines := make(chan string)
	_, client, closeBoth := onEngine(func(c *iii.Client) error {
		_, err := iii.Handle(c, "news::saw", func(_ context.Context, headline string) (any, error) {
			headlines <- headline
			return nil, nil
		})
		if err != nil {
			return err
		}
		_, err = c.Trigger("news::saw", iii.SubscribeTriggerConfig{Topic: "news"})
		return err
	})
	defer closeBoth()

	if err := client.Publish(context.Background(), "news", "tea is served"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-headlines)
	// Output: tea is served
}
