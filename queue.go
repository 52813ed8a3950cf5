package iii

import "context"

// Publish delivers data at most once to every current subscriber of a topic
// ([SubscribeTriggerConfig]). It returns once the engine has accepted the message. It does not
// wait for subscribers or report whether there are any. An empty topic results in an [*Error]
// with code topic_not_set; other errors are those of [Client.Call].
func (c *Client) Publish(ctx context.Context, topic string, data any) error {
	const id = "publish"
	raw, err := c.cfg.rawForUser(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, PublishInput{Topic: topic, Data: raw}, nil)
}

// PublishDurable adds data to the queues of a topic's subscribers ([QueueTriggerConfig]).
// Messages are delivered at least once, with retries. A message that keeps failing is moved to
// the dead-letter queue ([Client.DeadLetters]). PublishDurable returns once the engine has
// accepted the message; if the topic has no subscriber at that time, the message is lost. If
// no queue worker is connected to the engine, the error matches [ErrFunctionNotFound]. An
// empty topic results in an [*Error] with code topic_not_set.
func (c *Client) PublishDurable(ctx context.Context, topic string, data any) error {
	const id = "iii::durable::publish"
	raw, err := c.cfg.rawForUser(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, DurablePublishInput{Topic: topic, Data: raw}, nil)
}

const deadLettersPage = 100

// DeadLetters lists the messages in the dead-letter queue of a topic or named queue, newest
// first. It reads all pages of the engine's listing. If messages are added or removed in the
// meantime, some may be missed, but none is listed twice. The list is empty if the topic or
// queue does not exist. If no queue worker is connected to the engine, the error matches
// [ErrFunctionNotFound].
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
			if !seen[l.ID] { // a new letter shifts the others, so some appear again on the next page
				seen[l.ID] = true
				letters = append(letters, l)
			}
		}
		if uint64(len(page)) < limit || len(letters) == known {
			return letters, nil
		}
	}
}

// Redrive moves all dead letters of a topic or named queue back into the queue, oldest first,
// and resets their attempt counts. It returns the number of messages moved, which is 0 if the
// topic or queue does not exist.
func (c *Client) Redrive(ctx context.Context, queue string) (int, error) {
	result, err := Call[QueueRedriveResult](ctx, c, "iii::queue::redrive", QueueRedriveInput{Queue: queue})
	return int(result.Redriven), err
}

// RedriveMessage moves one dead letter back into the queue. messageID is the ID of the
// [DeadLetter], not the receipt from [Client.Enqueue]. ok reports whether the dead letter
// existed.
func (c *Client) RedriveMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueRedriveMessageResult](ctx, c, "iii::queue::redrive_message", QueueRedriveMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}

// DiscardMessage permanently deletes one dead letter. ok reports whether the dead letter
// existed. messageID is the ID of the [DeadLetter], as for [Client.RedriveMessage].
func (c *Client) DiscardMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueDiscardMessageResult](ctx, c, "iii::queue::discard_message", QueueDiscardMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}
