package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// QueueConfig configures the execution of the jobs of a named queue. Its fields and
// their defaults are those of queue_configs in the configuration of the engine's queue
// worker; a zero value selects the default. Polling and priorities do not exist in this
// engine: it runs a job as soon as the job is due and the queue has room.
type QueueConfig struct {
	// MaxRetries is the total number of attempts, including the first. Default 3.
	MaxRetries int `json:"max_retries"`

	// Concurrency is the number of jobs that run at once. Default 10; always 1 if Type
	// is "fifo".
	Concurrency int `json:"concurrency"`

	// Type is "standard", or "fifo" for one job at a time, in order. As in the engine,
	// other jobs can overtake one that waits for its retry. Default "standard".
	Type string `json:"type"`

	// MessageGroupField is a key that must be present, and not null, in the payload of
	// every job. A fifo queue requires it. No default.
	MessageGroupField string `json:"message_group_field"`

	// BackoffMs is the delay before the first retry, in milliseconds. It doubles with
	// each further retry. Default 1000.
	BackoffMs int `json:"backoff_ms"`
}

// check rejects configurations that the engine rejects.
func (c QueueConfig) check() error {
	switch {
	case c.MaxRetries < 0 || c.Concurrency < 0 || c.BackoffMs < 0:
		return errors.New("negative number")
	case c.Type != "" && c.Type != "standard" && c.Type != "fifo":
		return fmt.Errorf("type %q is neither standard nor fifo", c.Type)
	case c.Type == "fifo" && c.MessageGroupField == "":
		return errors.New("fifo queue without a message_group_field")
	}
	return nil
}

// defaultQueue is the named queue that always exists.
const defaultQueue = "default"

// namedQueue is a queue to which callers add jobs by the queue's name.
type namedQueue struct {
	lane
	config QueueConfig
}

// addNamed adds a named queue.
func (q *queues) addNamed(name string, config QueueConfig) {
	config.MaxRetries = cmp.Or(config.MaxRetries, defaultAttempts)
	config.Concurrency = cmp.Or(config.Concurrency, defaultConcurrency)
	config.BackoffMs = cmp.Or(config.BackoffMs, int(defaultBackoff/time.Millisecond))
	if config.Type == "fifo" {
		config.Concurrency = 1
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := &namedQueue{config: config}
	q.named[name] = n
	q.join(&n.lane, &consumer{
		concurrency: config.Concurrency, attempts: config.MaxRetries,
		backoff: time.Duration(config.BackoffMs) * time.Millisecond,
		handle:  func(ctx context.Context, j *job) string { return q.runJob(ctx, name, j) },
	})
}

// enqueueInput is the input of a queue provider.
type enqueueInput struct {
	Queue       string          `json:"queue"`
	FunctionID  string          `json:"function_id"`
	Data        json.RawMessage `json:"data"`
	Receipt     string          `json:"messageReceiptId"`
	Traceparent *string         `json:"traceparent"`
	Baggage     *string         `json:"baggage"`
	Namespace   *string         `json:"namespace"`
}

// enqueue serves engine::queue::enqueue. It does not check that the function exists;
// that happens when the job runs.
func (q *queues) enqueue(_ context.Context, c *call) (json.RawMessage, *wireError) {
	in, bad := decodeInput[enqueueInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	ns, bad := namespaceOf("namespace", in.Namespace, defaultNamespace)
	if bad != nil {
		return nil, bad
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.named[in.Queue]
	if n == nil {
		return nil, errorBody("enqueue_failed", "Queue '%s' not found", in.Queue)
	}
	if field := n.config.MessageGroupField; n.config.Type == "fifo" {
		switch group, there := membersOf(in.Data)[field]; {
		case !there:
			return nil, errorBody("enqueue_failed", "FIFO queue '%s' requires field '%s' in data, but it was not found", in.Queue, field)
		case isNull(group):
			return nil, errorBody("enqueue_failed", "FIFO queue '%s': field '%s' must not be null", in.Queue, field)
		}
	}
	q.add(&n.lane, &job{
		id: uuid.NewString(), functionID: in.FunctionID, namespace: ns, data: in.Data,
		trace: traceContext{traceparent: text(in.Traceparent), baggage: text(in.Baggage)},
	})
	return mustEncode(map[string]string{"messageReceiptId": in.Receipt}), nil
}

// runJob calls the function of a job, without metadata. Like the engine, it discards
// the reason of a failure.
func (q *queues) runJob(ctx context.Context, queue string, j *job) (failure string) {
	ctx, span := q.engine.startSpan(withTrace(ctx, j.trace), "fn_queue "+queue)
	_, err := q.engine.invoke(withCause(ctx, "queue", queue), j.functionID, j.namespace, j.data)
	span.end(err)
	if err == nil {
		return ""
	}
	q.noWorker(queue, j, err)
	q.engine.log.Debug("job failed", "queue", queue, "function", j.functionID, "code", err.Code, "error", err.Message)
	return "function call failed"
}

// noWorker logs that an attempt of a job has failed because its function has no worker.
func (q *queues) noWorker(queue string, j *job, err *wireError) {
	if err != nil && err.Code == "function_not_found" {
		q.engine.log.Warn("event found no worker", "queue", queue, "function", j.functionID, "attempt", j.attempts+1, "error", err.Message)
	}
}
