package iiitest

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
)

// topic is a durable topic. Each published message is delivered once to each function with a
// subscribed trigger, no matter how many triggers the function has. It is also delivered once
// to each observer group and to each observer without a group.
type topic struct {
	lanes map[key]*lane // by function, or see laneOf; lanes remain after their last subscriber leaves
	// unheard counts the messages published while the topic had no subscriber. The engine
	// never delivers them. It resets the count when a trigger first subscribes.
	unheard int
}

// subscribers returns the number of subscribed triggers and observers. The caller must hold
// queues.mu.
func (t *topic) subscribers() int {
	n := 0
	for _, l := range t.lanes {
		n += len(l.consumers)
	}
	return n
}

// keepsMessages reports whether any lane keeps messages for an absent subscriber. The caller
// must hold queues.mu.
func (t *topic) keepsMessages(now time.Time) bool {
	for _, l := range t.lanes {
		if now.Before(l.kept) {
			return true
		}
	}
	return false
}

// subscriber is a subscribed durable:subscriber trigger or observer.
type subscriber struct {
	lane     *lane
	consumer *consumer
}

type subscriberConfig struct {
	topic     string // "" never fires
	condition string // "" for none
	consumer  consumer
}

// Subscription defaults.
const (
	defaultAttempts    = 3
	defaultConcurrency = 10
	defaultBackoff     = time.Second
)

// decodeSubscriber accepts every config. Values of the wrong type are ignored.
func decodeSubscriber(config json.RawMessage) subscriberConfig {
	c := subscriberConfig{consumer: consumer{concurrency: defaultConcurrency, attempts: defaultAttempts, backoff: defaultBackoff}}
	members := membersOf(config)
	c.topic, c.condition = stringOf(members["topic"]), stringOf(members["condition_function_id"])
	settings := membersOf(members["queue_config"])
	if retries, ok := countOf(settings["maxRetries"]); ok {
		c.consumer.attempts = int(min(retries, math.MaxInt32-1)) + 1
	}
	if n, ok := countOf(settings["concurrency"]); ok {
		c.consumer.concurrency = int(min(n, math.MaxInt32)) // 0 runs nothing
	}
	if ms, ok := countOf(settings["backoffDelayMs"]); ok {
		c.consumer.backoff = time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if stringOf(settings["type"]) == "fifo" {
		c.consumer.inline, c.consumer.concurrency = true, 1
	}
	return c
}

// bind subscribes a trigger, replacing any trigger with the same id.
func (q *queues) bind(_ context.Context, b binding) error {
	config := decodeSubscriber(b.config)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unsubscribe(b.id)
	if config.topic == "" {
		return nil // never fires
	}
	t := q.topic(config.topic)
	if len(t.lanes) == 0 {
		t.unheard = 0
	}
	target := key{b.namespace, b.functionID}
	if t.lanes[target] == nil {
		t.lanes[target] = &lane{}
	}
	s := &subscriber{lane: t.lanes[target], consumer: &config.consumer}
	s.consumer.queue = config.topic
	s.consumer.handle = func(ctx context.Context, j *job) *jobFailure {
		return q.deliver(ctx, config.topic, config.condition, j)
	}
	q.bound[b.id] = s
	q.join(s.lane, s.consumer)
	return nil
}

func (q *queues) unbind(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unsubscribe(id)
}

// unsubscribe ends a trigger's subscription, if it has one. Jobs in the lane remain. The
// caller must hold queues.mu.
func (q *queues) unsubscribe(id string) {
	if s := q.bound[id]; s != nil {
		q.leave(s.lane, s.consumer)
		delete(q.bound, id)
	}
}

// topic returns the named topic, creating it if necessary. The caller must hold queues.mu.
func (q *queues) topic(name string) *topic {
	t := q.topics[name]
	if t == nil {
		t = &topic{lanes: map[key]*lane{}}
		q.topics[name] = t
	}
	return t
}

func (q *queues) publish(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type QueueInput struct {
		Topic string          `json:"topic"`
		Data  json.RawMessage `json:"data"`
	}
	in, err := decodeInput[QueueInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	if in.Topic == "" {
		return nil, errorBody("topic_not_set", "Topic is not set")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.topic(in.Topic)
	now := time.Now()
	if t.subscribers() == 0 && !t.keepsMessages(now) {
		t.unheard++
		if len(t.lanes) == 0 {
			q.engine.log.Warn("event found no worker: the topic has no subscriber", "topic", in.Topic)
		}
		for target := range t.lanes {
			q.lost(in.Topic, target)
		}
		q.changes.Add(1)
		return nil, nil
	}
	for target, l := range t.lanes {
		if len(l.consumers) > 0 || now.Before(l.kept) {
			q.add(l, &job{
				id: uuid.NewString(), functionID: target.id, namespace: target.namespace, data: in.Data, trace: traceOf(ctx),
			})
		} else {
			q.lost(in.Topic, target)
		}
	}
	return nil, nil
}

// lost logs that a message was not delivered because the lane has no subscriber.
func (q *queues) lost(topic string, lane key) {
	if lane.namespace == laneOfGroup || lane.namespace == laneOfObserver {
		q.engine.log.Warn("event found no worker: the observer of the topic is away", "topic", topic, "observer", lane.id)
		return
	}
	q.engine.log.Warn("event found no worker", "type", "durable:subscriber", "topic", topic, "function", lane.id, "error", triggerAway)
}

// deliver delivers a message to its function, unless the condition function rejects it. The
// payload is exactly the published data, without the trigger's metadata.
func (q *queues) deliver(ctx context.Context, topic, condition string, j *job) *jobFailure {
	e := q.engine
	ctx, span := e.startSpan(withTrace(ctx, j.trace), "queue "+topic)
	if condition != "" {
		run, err := e.condition(ctx, condition, j.namespace, j.data)
		if err != nil {
			span.end(err)
			return &jobFailure{"Condition function error: " + debugText(err), condition, err}
		}
		if !run {
			span.end(nil)
			return nil
		}
	}
	_, err := e.invoke(withCause(ctx, "durable:subscriber", topic), j.functionID, j.namespace, j.data)
	span.end(err)
	q.noWorker(topic, j, err)
	if err != nil {
		return &jobFailure{debugText(err), j.functionID, err}
	}
	return nil
}

// debugText formats an error as the engine does in dead letters.
func debugText(err *wireError) string {
	stacktrace := "None"
	if err.Stacktrace != "" {
		stacktrace = "Some(" + debugString(err.Stacktrace) + ")"
	}
	return "ErrorBody { code: " + debugString(err.Code) + ", message: " + debugString(err.Message) + ", stacktrace: " + stacktrace + " }"
}

// debugString quotes a string as Rust's Debug format does.
func debugString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == 0:
			b.WriteString(`\0`)
		case !strconv.IsPrint(r) || unicode.In(r, unicode.Mn, unicode.Me):
			b.WriteString(`\u{` + strconv.FormatInt(int64(r), 16) + `}`)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
