package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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
	if err := subscriber.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil { // waits until the trigger is registered
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
			t.Errorf("%s of a value that cannot be encoded: %v", what, err)
		}
	}
}

// The queue methods send the recorded requests and decode the recorded replies.
func TestQueueAsRecorded(t *testing.T) {
	calls := recordedCalls(t, "queues", "iii::durable::publish", "publish", "engine::queue::dlq_messages", "iii::queue::redrive")
	for i, call := range calls {
		if call.functionID == "engine::queue::dlq_messages" { // the client requests larger pages
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
		if call.err == nil || call.err.Code != "deserialization_error" { // input that the methods cannot produce
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
		if diff := diffDocuments(want, doc); diff != "" {
			t.Errorf("line %d: %s (-recorded +got):\n%s", call.line, call.functionID, diff)
		}
	}
	engine.done()
}

// Each dead letter is returned exactly once, even if others are added between pages.
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
	}, iii.WithBuiltinOverride())
	if err := queue.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
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

	// If a queue ignores paging, the client does not request pages forever.
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
	}, iii.WithBuiltinOverride())
	if err := queue.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
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

// A message that fails every attempt becomes a dead letter, and can be delivered again on
// request.
func TestDurableTopic(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		ctx := t.Context()
		type order struct {
			ID int `json:"id"`
		}
		var mu sync.Mutex
		attempts := map[int]int{}
		broken := true
		handle(t, c, "orders::charge", func(_ context.Context, o order) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts[o.ID]++
			if broken {
				return nil, &iii.Error{Code: "NOPE", Message: "always fails"}
			}
			return nil, nil
		})
		retries, delay := uint64(2), uint64(100)
		if _, err := c.Trigger("orders::charge", iii.QueueTriggerConfig{Topic: "orders", QueueConfig: &iii.QueueConfig{MaxRetries: &retries, BackoffDelayMs: &delay}}); err != nil {
			t.Fatal(err)
		}
		const messages = 130 // more than one page
		for id := range messages {
			if err := c.PublishDurable(ctx, "orders", order{id}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		letters, err := c.DeadLetters(ctx, "orders")
		if err != nil || len(letters) != messages {
			t.Fatalf("%d dead letters, %v", len(letters), err)
		}
		ids := map[string]bool{}
		for _, l := range letters {
			ids[string(l.Payload)] = true
			if l.Retries != 3 || l.FailedAt == 0 || !strings.Contains(l.Error, "always fails") {
				t.Errorf("dead letter: %+v", l)
			}
		}
		if len(ids) != messages || attempts[7] != 3 {
			t.Errorf("%d messages, %d attempts", len(ids), attempts[7])
		}

		mu.Lock()
		broken, attempts = false, map[int]int{}
		mu.Unlock()
		for what, one := range map[string]struct {
			do   func(context.Context, string, string) (bool, error)
			runs int
		}{"redrive": {c.RedriveMessage, 1}, "discard": {c.DiscardMessage, 0}} {
			l := letters[one.runs]
			for _, there := range []bool{true, false} {
				if ok, err := one.do(ctx, "orders", l.ID); ok != there || err != nil {
					t.Errorf("%s: %v, %v", what, ok, err)
				}
			}
			time.Sleep(time.Second)
			var o order
			if err := json.Unmarshal(l.Payload, &o); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			if attempts[o.ID] != one.runs {
				t.Errorf("%s: %d runs", what, attempts[o.ID])
			}
			mu.Unlock()
		}
		if n, err := c.Redrive(ctx, "orders"); n != messages-2 || err != nil {
			t.Errorf("redriven: %d, %v", n, err)
		}
		time.Sleep(time.Minute)
		letters, err = c.DeadLetters(ctx, "orders")
		check(t, "dead letters in the end", nil, letters, err)
		if len(attempts) != messages-1 {
			t.Errorf("%d messages were handled", len(attempts))
		}
		n, err := c.Redrive(ctx, "orders")
		check(t, "nothing to redrive", 0, n, err)
		var remote *iii.Error
		if err := c.PublishDurable(ctx, "", 1); !errors.As(err, &remote) || remote.Code != "topic_not_set" {
			t.Errorf("without a topic: %v", err)
		}
	})
}

// Jobs in a named queue run in order. Invalid jobs are rejected.
func TestEnqueue(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		ctx := t.Context()
		type payment struct {
			Account string `json:"account"`
			N       int    `json:"n"`
		}
		runs := make(chan payment, 10)
		handle(t, c, "payments::charge", func(_ context.Context, p payment) (any, error) {
			time.Sleep(10 * time.Millisecond)
			runs <- p
			if p.N == 3 {
				return nil, errors.New("no money")
			}
			return nil, nil
		})
		seen := map[string]bool{}
		for n := range 4 {
			receipt, err := c.Enqueue(ctx, "payments", "payments::charge", payment{"acc-1", n})
			if err != nil || receipt.MessageReceiptID == "" || seen[receipt.MessageReceiptID] {
				t.Errorf("receipt %q, %v", receipt.MessageReceiptID, err)
			}
			seen[receipt.MessageReceiptID] = true
		}
		time.Sleep(time.Minute)
		for n := range 4 {
			if p := <-runs; p.N != n {
				t.Errorf("job %d ran as number %d", p.N, n)
			}
		}
		letters, err := c.DeadLetters(ctx, "payments")
		if err != nil || len(letters) != 1 || string(letters[0].Payload) != `{"account":"acc-1","n":3}` {
			t.Errorf("dead letters: %+v, %v", letters, err)
		}
		for what, enqueue := range map[string]func() error{
			"unknown queue": func() error { _, err := c.Enqueue(ctx, "no-such-queue", "payments::charge", 1); return err },
			"without group": func() error { _, err := c.Enqueue(ctx, "payments", "payments::charge", 1); return err },
		} {
			if err := enqueue(); !errors.Is(err, iii.ErrEnqueue) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}, iiitest.WithQueue("payments", iiitest.QueueConfig{Type: "fifo", MessageGroupField: "account", MaxRetries: 1}))
}
