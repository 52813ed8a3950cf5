package iiitest

import (
	"context"
	"encoding/json"
)

// pubsub implements the engine's iii-pubsub worker. It does not store messages: only a topic's
// current subscribers receive them.
type pubsub struct {
	engine      *Engine
	subscribers boundTriggers[string] // config is the topic; "" never fires
}

func (e *Engine) registerPubSub() {
	p := &pubsub{engine: e, subscribers: boundTriggers[string]{decode: decodeTopic}}
	const owner = "iii-pubsub"
	e.addBuiltin("publish", owner, "Publishes an event", p.publish)
	e.addTriggerType("subscribe", owner, "Subscribe to a topic", &p.subscribers)
}

// decodeTopic accepts a config without a topic, as a real engine does. A trigger with such a
// config never fires.
func decodeTopic(config json.RawMessage) (string, error) {
	var in struct {
		Topic string `json:"topic"`
	}
	if decodeStrict(config, &in) != "" {
		return "", nil
	}
	return in.Topic, nil
}

// publish calls every subscriber, passing no metadata. It does not wait for the calls, and
// discards their results.
func (p *pubsub) publish(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type PubSubInput struct {
		Topic string          `json:"topic"`
		Data  json.RawMessage `json:"data"`
	}
	in, err := decodeInput[PubSubInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	if in.Topic == "" {
		return nil, errorBody("topic_not_set", "Topic is not set")
	}
	subscribers := p.subscribers.event(p.engine, func(topic string) bool { return topic == in.Topic })
	if len(subscribers) == 0 {
		p.engine.log.Warn("event found no worker: the topic has no subscriber", "topic", in.Topic)
	}
	for _, b := range subscribers {
		if err := p.engine.start(withCause(ctx, b.triggerType, b.id), b.functionID, b.namespace, in.Data, nil); err != nil {
			p.engine.noWorker(b.binding, err)
		}
	}
	return nil, nil
}
