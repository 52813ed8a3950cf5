package iii

import "context"

// Publish hands data to every subscriber of a topic that there is at the moment
// ([SubscribeTriggerConfig]): once each, without waiting for them and without
// telling whether there is any. It returns when the engine has taken it. An empty
// topic is an [*Error] with code topic_not_set; other errors are those of
// [Client.Call].
func (c *Client) Publish(ctx context.Context, topic string, data any) error {
	const id = "publish"
	raw, err := rawOf(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, PublishInput{Topic: topic, Data: raw}, nil)
}

// PublishDurable hands data to the queues of a topic's subscribers
// ([QueueTriggerConfig]), which get it at least once, with retries, and lose it to
// the dead letters in the end ([Client.DeadLetters]). It returns when the engine
// has taken it; what is published while a topic has no subscriber is delivered to
// nobody. Without a queue worker beside the engine the error is an
// [ErrFunctionNotFound]. An empty topic is an [*Error] with code topic_not_set.
func (c *Client) PublishDurable(ctx context.Context, topic string, data any) error {
	const id = "iii::durable::publish"
	raw, err := rawOf(data)
	if err != nil {
		return notEncodable(id, err)
	}
	return c.Call(ctx, id, DurablePublishInput{Topic: topic, Data: raw}, nil)
}

// deadLettersPage is how many dead letters are asked for at once.
const deadLettersPage = 100

// DeadLetters lists the messages of a topic or a named queue that have failed for
// good, newest first. The engine tells them in pages, which are all read; letters
// that come or go meanwhile may be missed, but none is listed twice. Without a
// queue worker the error is an [ErrFunctionNotFound].
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
			if !seen[l.ID] { // a new one moves the others down, to the next page again
				seen[l.ID] = true
				letters = append(letters, l)
			}
		}
		if uint64(len(page)) < limit || len(letters) == known {
			return letters, nil
		}
	}
}

// Redrive queues all dead letters of a topic or a named queue again, oldest
// first, with their attempts counted anew. It returns their number.
func (c *Client) Redrive(ctx context.Context, queue string) (int, error) {
	result, err := Call[QueueRedriveResult](ctx, c, "iii::queue::redrive", QueueRedriveInput{Queue: queue})
	return int(result.Redriven), err
}

// RedriveMessage queues one dead letter again. messageID is that of the
// [DeadLetter], not the receipt of [Client.Enqueue]. ok is false if there is no
// such letter.
func (c *Client) RedriveMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueRedriveMessageResult](ctx, c, "iii::queue::redrive_message", QueueRedriveMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}

// DiscardMessage drops one dead letter for good. ok is false if there is no such
// letter. See [Client.RedriveMessage].
func (c *Client) DiscardMessage(ctx context.Context, queue, messageID string) (ok bool, err error) {
	result, err := Call[QueueDiscardMessageResult](ctx, c, "iii::queue::discard_message", QueueDiscardMessageInput{Queue: queue, MessageID: messageID})
	return result.Redriven > 0, err
}
