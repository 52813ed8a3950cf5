package iiitest

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// queueWorker is the name of the engine's worker for durable topics and named queues.
const queueWorker = "iii-queue"

// queues implements the engine's iii-queue worker. Jobs are lost when the engine is closed.
type queues struct {
	engine *Engine

	mu     sync.Mutex // guards the fields below and their lanes, consumers and jobs
	topics map[string]*topic
	named  map[string]*namedQueue
	bound  map[string]*subscriber // by trigger id
	deaths uint64

	changes atomic.Uint64 // number of changes
}

func (e *Engine) registerQueues() {
	q := &queues{
		engine: e, topics: map[string]*topic{}, named: map[string]*namedQueue{}, bound: map[string]*subscriber{},
	}
	e.queues = q
	q.addNamed(defaultQueue, QueueConfig{})
	for name, config := range e.cfg.queues {
		q.addNamed(name, config)
	}
	e.addBuiltin("iii::durable::publish", queueWorker, "Enqueue a message", q.publish)
	e.addBuiltin("iii::queue::redrive", queueWorker, "Try all dead letters again", q.redrive)
	e.addBuiltin("iii::queue::redrive_message", queueWorker, "Try a dead letter again", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		return q.single(c, func(l *lane, j *job) { q.retry(l, j) })
	})
	e.addBuiltin("iii::queue::discard_message", queueWorker, "Forget a dead letter", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		return q.single(c, func(*lane, *job) {})
	})
	e.addBuiltin("engine::queue::list_topics", queueWorker, "List all queue topics", q.listTopics)
	e.addBuiltin("engine::queue::topic_stats", queueWorker, "Count what is in a topic", q.stats)
	e.addBuiltin("engine::queue::dlq_topics", queueWorker, "Count the dead letters of all topics", q.deadTopics)
	e.addBuiltin("engine::queue::dlq_messages", queueWorker, "Browse DLQ messages", q.deadLetters)
	if e.cfg.queueProvider {
		e.addBuiltin(enqueueFunction, queueWorker, "Enqueue a call of a function", q.enqueue)
	}
	e.addTriggerType("durable:subscriber", "queue", "Queue core module", q)
}

// job is a message for one function.
type job struct {
	id                    string
	functionID, namespace string
	data                  json.RawMessage
	trace                 traceContext // of the sender
	attempts              int          // number of failed attempts

	// Only for dead letters:
	failure  string
	failedAt time.Time
	death    uint64 // sequence number among dead letters
}

// size returns the approximate size of the job in the engine's store.
func (j *job) size() int {
	return len(mustEncode(map[string]any{
		"id": j.id, "function_id": j.functionID, "namespace": j.namespace, "data": j.data,
		"traceparent": nullable(j.trace.traceparent), "baggage": nullable(j.trace.baggage), "attempts": j.attempts,
	}))
}

// lane is a queue of jobs, together with the consumers that run them. Jobs wait while there
// are no consumers.
type lane struct {
	ready     []*job
	later     int // number of jobs waiting for a retry
	active    int
	dead      []*job      // oldest first
	consumers []*consumer // the next job goes to the first with capacity
	kept      time.Time   // until then, the lane accepts jobs even without consumers; see queues.switched
}

// depth returns the number of unfinished jobs, waiting or running.
func (l *lane) depth() int { return len(l.ready) + l.later + l.active }

type consumer struct {
	queue       string // name of the queue or topic
	concurrency int
	attempts    int           // maximum number of attempts per job
	backoff     time.Duration // before the first retry; doubles with each further retry
	inline      bool          // a job blocks the lane until it succeeds or its retries are exhausted

	// handle runs a job. It returns nil if the job succeeds.
	handle func(ctx context.Context, j *job) *jobFailure

	running int
	gone    chan struct{} // closed when the consumer leaves the lane
}

// jobFailure describes a failed attempt to run a job.
type jobFailure struct {
	text       string // the dead letter's error
	functionID string // the function that failed
	err        *wireError
}

// add appends a job to a lane. The caller must hold queues.mu.
func (q *queues) add(l *lane, j *job) {
	l.ready = append(l.ready, j)
	q.pump(l)
}

// join adds a consumer to a lane. The caller must hold queues.mu.
func (q *queues) join(l *lane, c *consumer) {
	c.gone = make(chan struct{})
	l.consumers = append(l.consumers, c)
	q.pump(l)
}

// leave removes a consumer from a lane. Jobs that the consumer is running continue. If one of
// them must be retried, it waits for another consumer. The caller must hold queues.mu.
func (q *queues) leave(l *lane, c *consumer) {
	q.changes.Add(1)
	close(c.gone)
	l.consumers = slices.DeleteFunc(l.consumers, func(x *consumer) bool { return x == c })
}

// pump assigns waiting jobs to consumers with free capacity, in round-robin order. The caller
// must hold queues.mu.
func (q *queues) pump(l *lane) {
	q.changes.Add(1)
	for len(l.ready) > 0 {
		i := slices.IndexFunc(l.consumers, func(c *consumer) bool {
			return c.running < c.concurrency && (!c.inline || l.active == 0)
		})
		if i < 0 {
			return
		}
		c, j := l.consumers[i], l.ready[0]
		l.consumers = append(slices.Delete(l.consumers, i, i+1), c)
		l.ready[0], l.ready = nil, l.ready[1:]
		l.active++
		c.running++
		q.engine.spawn(func(ctx context.Context) { q.work(ctx, l, c, j) })
	}
}

func (q *queues) work(ctx context.Context, l *lane, c *consumer, j *job) {
	for {
		failed := c.handle(ctx, j)
		if ctx.Err() != nil {
			return // the engine has closed
		}
		wait, again := q.tried(l, c, j, failed)
		if !again {
			return
		}
		var gone <-chan struct{} // nil unless the job blocks its lane
		if c.inline {
			gone = c.gone
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-gone:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if !q.resume(l, c, j) {
			return
		}
	}
}

// tried records the outcome of an attempt. It reports whether the job must be retried, and
// after what delay. During the delay, the consumer can run other jobs, unless inline is set.
func (q *queues) tried(l *lane, c *consumer, j *job, f *jobFailure) (wait time.Duration, again bool) {
	if f != nil {
		level, message := slog.LevelDebug, "job failed"
		if again = j.attempts+1 < c.attempts; !again {
			level, message = slog.LevelWarn, "job moved to the dead-letter queue"
		}
		q.engine.log.Log(context.Background(), level, message, "queue", c.queue, "function", f.functionID,
			"attempt", j.attempts+1, "code", f.err.Code, "error", f.err.Message)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if f != nil {
		j.attempts++
	}
	if f != nil && !again {
		q.deaths++
		j.failure, j.failedAt, j.death = f.text, time.Now(), q.deaths
		l.dead = append(l.dead, j)
		q.changes.Add(1)
	}
	if again && c.inline {
		return backoff(c.backoff, j.attempts), true
	}
	l.active--
	c.running--
	if again {
		l.later++
	}
	q.pump(l)
	return backoff(c.backoff, j.attempts), again
}

// resume ends the delay before a retry. It reports whether the same consumer must retry the
// job now. If not, it puts the job back at the head of its lane.
func (q *queues) resume(l *lane, c *consumer, j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !c.inline {
		l.later--
	} else {
		select {
		case <-c.gone:
		default:
			return true
		}
		l.active--
		c.running--
	}
	l.ready = slices.Insert(l.ready, 0, j)
	q.pump(l)
	return false
}

// backoff returns base × 2^(attempts-1), capped at the maximum duration.
func backoff(base time.Duration, attempts int) time.Duration {
	for ; attempts > 1 && base > 0; attempts-- {
		if base > math.MaxInt64/2 {
			return math.MaxInt64
		}
		base *= 2
	}
	return base
}
