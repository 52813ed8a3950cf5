package iiitest

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestPublish(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("a", "!FAILS")
		p.handle("b", `{"ignored":true}`)
		p.handle("no", "false")
		p.trigger("t1", "subscribe", "a", `{"topic":"news","condition_function_id":"no"}`, `,"metadata":{"not":"delivered"}`)
		p.trigger("t2", "subscribe", "b", `{"topic":"news"}`, "")
		p.trigger("t3", "subscribe", "b", `{"topic":"other"}`, "")
		p.trigger("t4", "subscribe", "b", `{}`, "")
		p.trigger("t5", "subscribe", "b", `null`, "")
		p.trigger("t6", "subscribe", "gone", `{"topic":"news"}`, "")
		p.fence()
		p.want(``, "publish", `{"topic":"news","data":{"n":1}}`)
		p.wantCalls(`a {"n":1}`, `b {"n":1}`)
		p.want(``, "publish", `{"topic":"nobody","data":null}`)
		p.want("!topic_not_set: Topic is not set", "publish", `{"topic":"","data":1}`)
		p.want("!deserialization_error: Failed to deserialize input for publish: missing field `topic`", "publish", `{"data":1}`)
		p.want("!deserialization_error: Failed to deserialize input for publish: missing field `data`", "publish", `{"topic":"news"}`)
		p.wantCalls()

		// Unregistering t1 removes only that subscriber. Registering t3 again replaces its
		// subscription.
		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.trigger("t3", "subscribe", "a", `{"topic":"news"}`, "")
		p.fence()
		p.want(``, "publish", `{"topic":"other","data":1}`)
		p.want(``, "publish", `{"topic":"news","data":null}`)
		p.wantCalls(`b null`, `a null`)
	})
}

func TestEventsWithoutAWorkerAreLogged(t *testing.T) {
	var log bytes.Buffer
	e := Start(t, WithProtocol(Protocol023), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	publish := func(topic string) {
		if _, err := e.invoke(t.Context(), "publish", defaultNamespace, mustEncode(map[string]any{"topic": topic, "data": 1})); err != nil {
			t.Fatal(err)
		}
	}
	publish("nobody")
	if text := log.String(); !strings.Contains(text, "event found no worker") || !strings.Contains(text, "topic=nobody") {
		t.Errorf("log: %s", text)
	}
	log.Reset()
	if _, err := e.invoke(t.Context(), "engine::register_trigger", defaultNamespace, json.RawMessage(`{"trigger_type":"subscribe","function_id":"mail::send","config":{"topic":"orders"}}`)); err != nil {
		t.Fatal(err)
	}
	publish("orders")
	if text := log.String(); !strings.Contains(text, "event found no worker") || !strings.Contains(text, "function=mail::send") {
		t.Errorf("log: %s", text)
	}
}

// during is a log handler that calls a function for each record.
type during func()

func (f during) Enabled(context.Context, slog.Level) bool  { return true }
func (f during) Handle(context.Context, slog.Record) error { f(); return nil }
func (f during) WithAttrs([]slog.Attr) slog.Handler        { return f }
func (f during) WithGroup(string) slog.Handler             { return f }

// An event that is logged as lost is not delivered to a trigger that is bound at that moment.
func TestLostEventsAreNotDelivered(t *testing.T) {
	s := &boundTriggers[string]{decode: decodeTopic}
	old := binding{id: "old", functionID: "f", namespace: defaultNamespace, config: json.RawMessage(`{"topic":"news"}`)}
	next := old
	next.id = "next"
	logged := 0
	e := storesOnly(1, 1)
	e.log = slog.New(during(func() {
		logged++
		if err := s.bind(t.Context(), next); err != nil {
			t.Error(err)
		}
	}))
	s.workerLeft(old)
	if got := s.event(e, always); logged != 1 || len(got) != 0 {
		t.Errorf("logged as lost %d times, delivered to %d triggers", logged, len(got))
	}
}
