package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// namedTopic is the prefix of the topics that store the jobs of named queues. The rest of the
// topic's name is the queue's name.
const namedTopic = "__fn_queue::"

// lanes returns the lane of a named queue or, if there is no such queue, the lanes of a topic.
// The name of a queue may have the prefix namedTopic. The caller must hold queues.mu.
func (q *queues) lanes(name string) []*lane {
	if n := q.named[strings.TrimPrefix(name, namedTopic)]; n != nil {
		return []*lane{&n.lane}
	}
	t := q.topics[name]
	if t == nil {
		return nil
	}
	var lanes []*lane
	for _, target := range t.targets() {
		lanes = append(lanes, t.lanes[target])
	}
	return lanes
}

// targets returns the keys of the topic's lanes, sorted. The caller must hold queues.mu.
func (t *topic) targets() []key {
	return slices.SortedFunc(maps.Keys(t.lanes), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.id, b.id))
	})
}

// retry appends the dead letter j to l, the lane it came from, and resets the job's attempt
// count. The caller must hold queues.mu.
func (q *queues) retry(l *lane, j *job) {
	j.attempts = 0
	q.add(l, j)
}

// redrive serves iii::queue::redrive. It retries the oldest dead letters first.
func (q *queues) redrive(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type RedriveInput struct {
		Queue string `json:"queue"`
	}
	in, bad := decodeAliased[RedriveInput](c, "queue", "topic")
	if bad != nil {
		return nil, bad
	}
	if in.Queue == "" {
		return nil, errorBody("queue_not_set", "Queue is not set")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	redriven := 0
	for _, l := range q.lanes(in.Queue) {
		dead := l.dead
		l.dead = nil
		redriven += len(dead)
		for _, j := range dead {
			q.retry(l, j)
		}
	}
	return mustEncode(map[string]any{"queue": in.Queue, "redriven": redriven}), nil
}

// single removes one dead letter and calls do with it. For an unknown id, the result has a
// count of 0.
func (q *queues) single(c *call, do func(*lane, *job)) (json.RawMessage, *wireError) {
	type RedriveSingleInput struct {
		Queue     string `json:"queue"`
		MessageID string `json:"message_id"`
	}
	in, bad := decodeAliased[RedriveSingleInput](c, "queue", "topic")
	switch {
	case bad != nil:
		return nil, bad
	case in.Queue == "":
		return nil, errorBody("queue_not_set", "Queue name is required")
	case in.MessageID == "":
		return nil, errorBody("message_id_not_set", "Message ID is required")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	done := 0
	for _, l := range q.lanes(in.Queue) {
		i := slices.IndexFunc(l.dead, func(j *job) bool { return j.id == in.MessageID })
		if i >= 0 {
			j := l.dead[i]
			l.dead = slices.Delete(l.dead, i, i+1)
			q.changes.Add(1)
			do(l, j)
			done = 1
			break
		}
	}
	return mustEncode(map[string]any{"queue": in.Queue, "message_id": in.MessageID, "redriven": done}), nil
}

// listTopics serves engine::queue::list_topics. It lists topics and then named queues, each
// sorted by name. For a named queue, the subscriber count is the queue's concurrency.
func (q *queues) listTopics(context.Context, *call) (json.RawMessage, *wireError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := []map[string]any{}
	entry := func(name string, subscribers int) {
		list = append(list, map[string]any{"name": name, "broker_type": "builtin", "subscriber_count": subscribers})
	}
	for _, name := range slices.Sorted(maps.Keys(q.topics)) {
		entry(name, q.topics[name].subscribers())
	}
	for _, name := range slices.Sorted(maps.Keys(q.named)) {
		entry(name, q.named[name].config.Concurrency)
	}
	return mustEncode(list), nil
}

// stats serves engine::queue::topic_stats. An unknown name is treated as an empty topic.
func (q *queues) stats(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type TopicStatsInput struct {
		Topic string `json:"topic"`
	}
	in, bad := decodeAliased[TopicStatsInput](c, "topic", "queue")
	if bad != nil {
		return nil, bad
	}
	if in.Topic == "" {
		return nil, errorBody("topic_required", "Topic is required")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	depth, consumers, dead := 0, 0, 0
	for _, l := range q.lanes(in.Topic) {
		depth += l.depth()
		consumers += len(l.consumers)
		dead += len(l.dead)
	}
	if n := q.named[strings.TrimPrefix(in.Topic, namedTopic)]; n != nil {
		consumers = n.config.Concurrency
	} else if t := q.topics[in.Topic]; t != nil {
		depth += t.unheard
	}
	return mustEncode(map[string]any{"depth": depth, "consumer_count": consumers, "dlq_depth": dead, "config": nil}), nil
}

// deadTopics serves engine::queue::dlq_topics. It lists the topics, sorted by name, and then
// the named queues twice: under the topics that store their jobs, and under their own names.
func (q *queues) deadTopics(context.Context, *call) (json.RawMessage, *wireError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := []map[string]any{}
	entry := func(topic, broker string, lanes []*lane) {
		count := 0
		for _, l := range lanes {
			count += len(l.dead)
		}
		list = append(list, map[string]any{"topic": topic, "broker_type": broker, "message_count": count})
	}
	for _, name := range slices.Sorted(maps.Keys(q.topics)) {
		entry(name, "builtin", slices.Collect(maps.Values(q.topics[name].lanes)))
	}
	named := slices.Sorted(maps.Keys(q.named))
	for _, name := range named {
		entry(namedTopic+name, "builtin", q.lanes(name))
	}
	for _, name := range named {
		entry(name, "function_queue", q.lanes(name))
	}
	return mustEncode(list), nil
}

// defaultDeadLetters is the default limit of engine::queue::dlq_messages.
const defaultDeadLetters = 50

// deadLetters serves engine::queue::dlq_messages. The newest dead letters come first.
func (q *queues) deadLetters(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type DlqMessagesInput struct {
		Limit  *uint64 `json:"limit"`
		Offset *uint64 `json:"offset"`
		Topic  string  `json:"topic"`
	}
	in, bad := decodeAliased[DlqMessagesInput](c, "topic", "queue")
	if bad != nil {
		return nil, bad
	}
	if in.Topic == "" {
		return nil, errorBody("topic_required", "Topic is required")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var dead []*job
	for _, l := range q.lanes(in.Topic) {
		dead = append(dead, l.dead...)
	}
	slices.SortFunc(dead, func(a, b *job) int { return cmp.Compare(b.death, a.death) })
	limit := uint64(defaultDeadLetters)
	if in.Limit != nil {
		limit = *in.Limit
	}
	if in.Offset != nil {
		dead = dead[min(*in.Offset, uint64(len(dead))):]
	}
	dead = dead[:min(limit, uint64(len(dead)))]
	list := []map[string]any{}
	for _, j := range dead {
		list = append(list, map[string]any{
			"id": j.id, "payload": j.data, "error": j.failure, "failed_at": j.failedAt.Unix(), "retries": j.attempts, "size_bytes": j.size(),
		})
	}
	return mustEncode(list), nil
}

// decodeAliased is like decodeInput, but accepts alias as another name for key. If the input
// contains both, decodeAliased rejects the one that sorts second, whatever its value, because
// the engine reads keys in bytewise order.
func decodeAliased[T any](c *call, key, alias string) (T, *wireError) {
	data := c.data
	if members := membersOf(data); members[alias] != nil {
		if members[key] != nil {
			detail := wrongType(members[min(key, alias)], reflect.TypeFor[string]())
			var zero T
			return zero, inputError(c.functionID, cmp.Or(detail, "duplicate field `"+key+"`"))
		}
		data = withKey(data, key, members[alias])
	}
	return decodeInput[T](c.functionID, data)
}
