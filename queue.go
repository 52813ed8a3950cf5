package iii

import "context"

// Publish delivers data to every current subscriber of a topic
// ([SubscribeTriggerConfig]), at most once each. It returns when the engine has
// accepted the message; it neither waits for the subscribers nor reports whether
// there are any. An empty topic is an [*Error] with code topic_not_set; other
// errors are those of [Client.Call].
func (c *Client) Publish(ctx context.Context, topic string, data any) error {
	const id = "publish"
	raw, err := c.cfg.rawForUser(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, PublishInput{Topic: topic, Data: raw}, nil)
}

// PublishDurable adds data to the queues of a topic's subscribers ([QueueTriggerConfig]).
// Delivery is at-least-once, with retries; a message that keeps failing moves to the
// dead-letter queue ([Client.DeadLetters]). PublishDurable returns when the engine has
// accepted the message; a message published while the topic has no subscriber is lost. If no
// queue worker is connected to the engine, the error is an [ErrFunctionNotFound]. An empty
// topic is an [*Error] with code topic_not_set.
func (c *Client) PublishDurable(ctx context.Context, topic string, data any) error {
	const id = "iii::durable::publish"
	raw, err := c.cfg.rawForUser(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, DurablePublishInput{Topic: topic, Data: raw}, nil)
}

// deadLettersPage is the page size for listing dead letters.
const deadLettersPage = 100

// DeadLetters lists the messages in the dead-letter queue of a topic or a named queue, newest
// first. It reads all pages of the engine's listing; messages that arrive or leave in the
// meantime may be missed, but no message is listed twice. Without a queue worker, the error is
// an [ErrFunctionNotFound].
func (c *Client) DeadLetters(ctx context.Context, topic string) ([]DeadLetter, error) {
	var letters []DeadLetter
	seen := map[string]bool{}
	limit := uint64(deadLettersPage)
	for offset := uint64(0); ; offset += limit {
		page, err := Call[[]DeadLetter](ctx, c, "engine::queue::dlq_messages", DeadLettersInput{Topic: topic, Offset: offset, Limit: &limit})
		if err != nil {
			return nil, err
		}
		known := len(letters)
		for _, l := range page {
			if !seen[l.ID] { // a new letter shifts the others, so some appear on the next page again
				seen[l.ID] = true
				letters = append(letters, l)
			}
		}
		if uint64(len(page)) < limit || len(letters) == known {
			return letters, nil
		}
	}
}

// Redrive moves all dead letters of a topic or a named queue back into the queue,
// oldest first, with their attempt counts reset. It returns the number of messages
// moved.
func (c *Client) Redrive(ctx context.Context, queue string) (int, error) {
	result, err := Call[QueueRedriveResult](ctx, c, "iii::queue::redrive", QueueRedriveInput{Queue: queue})
	return int(result.Redriven), err
}

// RedriveMessage moves one dead letter back into the queue. messageID is the ID of
// the [DeadLetter], not the receipt of [Client.Enqueue]. ok is false if there is
// no such letter.
func (c *Client) RedriveMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueRedriveMessageResult](ctx, c, "iii::queue::redrive_message", QueueRedriveMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}

// DiscardMessage deletes one dead letter permanently. ok is false if there is no
// such letter. See [Client.RedriveMessage].
func (c *Client) DiscardMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueDiscardMessageResult](ctx, c, "iii::queue::discard_message", QueueDiscardMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}
