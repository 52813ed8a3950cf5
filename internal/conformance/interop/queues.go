package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

var queues = []scenario{
	{"enqueue-go-peer", "a named queue: Go enqueues jobs for the peer", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::job", nil, 1)
		receipt, err := t.client.Enqueue(ctx, "interop", "peer::job", object{"n": 1})
		t.must("enqueue", err)
		if receipt.MessageReceiptID == "" {
			t.errorf("no receipt")
		}
		t.equal("job", t.next(ctx, "peer::job").Payload, object{"n": 1})
		t.equal("job that failed, again", t.next(ctx, "peer::job").Payload, object{"n": 1})
		if !t.quiet("peer::job", 300*time.Millisecond) {
			t.errorf("the job came once more after it had succeeded")
		}
	}},
	{"enqueue-peer-go", "a named queue: the peer enqueues jobs for Go", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::job", nil, 1))
		got := t.members("receipt", t.peerCalls(ctx, "go::job", object{"n": 1}, object{"action": object{"type": "enqueue", "queue": "interop"}}))
		if id, _ := got["messageReceiptId"].(string); id == "" {
			t.errorf("no receipt: %v", got)
		}
		t.equal("job", t.next(ctx, "go::job").Payload, object{"n": 1})
		t.equal("job that failed, again", t.next(ctx, "go::job").Payload, object{"n": 1})
	}},
	{"durable-go-peer", "a durable topic: Go publishes and the peer subscribes", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-order", nil, 1)
		t.bind(ctx, "durable:subscriber", "peer::on-order", object{"topic": "orders", "queue_config": object{"maxRetries": 2, "backoffDelayMs": 100}}, nil)
		t.must("publish", t.client.PublishDurable(ctx, "orders", object{"n": 1}))
		t.equal("message", t.next(ctx, "peer::on-order").Payload, object{"n": 1})
		t.equal("message whose handler failed, again", t.next(ctx, "peer::on-order").Payload, object{"n": 1})
		if !t.quiet("peer::on-order", 300*time.Millisecond) {
			t.errorf("the message came once more after it had been handled")
		}
	}},
	{"durable-dead-letter", "a durable topic: a message that always fails on the peer becomes a dead letter", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-refund", nil, 1000)
		t.bind(ctx, "durable:subscriber", "peer::on-refund", object{"topic": "refunds", "queue_config": object{"maxRetries": 1, "backoffDelayMs": 50}}, nil)
		t.must("publish", t.client.PublishDurable(ctx, "refunds", object{"n": 7}))
		var letters []iii.DeadLetter
		t.must("dead letters", until(ctx, "there is none", func() bool {
			var err error
			letters, err = t.client.DeadLetters(ctx, "refunds")
			return err == nil && len(letters) > 0
		}))
		t.equal("number of dead letters", len(letters), 1)
		got, err := json.Marshal(letters[0])
		t.must("dead letter", err)
		if !strings.Contains(string(got), "not yet") {
			t.errorf("the dead letter %s does not have the peer's error", short(plain(letters[0])))
		}
	}},
	{"durable-peer-go", "a durable topic: the peer publishes and Go subscribes", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::on-invoice", nil, 0))
		t.bindHere(ctx, "go::on-invoice", iii.QueueTriggerConfig{Topic: "invoices"})
		t.peerCalls(ctx, "iii::durable::publish", object{"topic": "invoices", "data": object{"n": 1}}, nil)
		t.equal("message", t.next(ctx, "go::on-invoice").Payload, object{"n": 1})
	}},
}
