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

// QueueConfig configures how the jobs of a named queue run. The fields and their defaults are
// those of queue_configs in the configuration of the engine's queue worker. A zero field
// selects the default. There are no settings for polling and priorities, because the
// development engine runs each job as soon as it is due, within the limit set by Concurrency.
type QueueConfig struct {
	// MaxRetries is the maximum number of attempts, including the first. The default is 3.
	// Unlike it, MaxRetries of [iii.QueueConfig] does not count the first attempt.
	MaxRetries int `json:"max_retries"`

	// Concurrency is the maximum number of jobs that run at once. The default is 10. If Type
	// is "fifo", Concurrency is always 1.
	Concurrency int `json:"concurrency"`

	// Type is "standard", or "fifo" to run one job at a time, in order. As in a real engine, a
	// job that is waiting for its retry can be overtaken by others. The default is "standard".
	Type string `json:"type"`

	// MessageGroupField is a key in the job payload. In a fifo queue, every payload must
	// contain the key with a value other than null. MessageGroupField is required if Type is
	// "fifo" and ignored otherwise.
	MessageGroupField string `json:"message_group_field"`

	// BackoffMs is the delay before the first retry, in milliseconds. The delay doubles with
	// each further retry. The default is 1000.
	BackoffMs int `json:"backoff_ms"`
}

// check rejects the same configurations as a real engine.
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

const defaultQueue = "default"

// namedQueue is a queue that callers address by name.
type namedQueue struct {
	lane
	config QueueConfig
}

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
		queue: name, concurrency: config.Concurrency, attempts: config.MaxRetries,
		backoff: time.Duration(config.BackoffMs) * time.Millisecond,
		handle:  func(ctx context.Context, j *job) *jobFailure { return q.runJob(ctx, name, j) },
	})
}

type enqueueInput struct {
	Queue       string          `json:"queue"`
	FunctionID  string          `json:"function_id"`
	Data        json.RawMessage `json:"data"`
	Receipt     string          `json:"messageReceiptId"`
	Traceparent *string         `json:"traceparent"`
	Baggage     *string         `json:"baggage"`
	Namespace   *string         `json:"namespace"`
}

// enqueue serves engine::queue::enqueue. It accepts jobs for functions that do not exist; such
// jobs fail when they run.
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

// runJob calls a job's function, without metadata. As in a real engine, the dead letter of a
// job does not reveal why the call failed.
func (q *queues) runJob(ctx context.Context, queue string, j *job) *jobFailure {
	ctx, span := q.engine.startSpan(withTrace(ctx, j.trace), "fn_queue "+queue)
	_, err := q.engine.invoke(withCause(ctx, "queue", queue), j.functionID, j.namespace, j.data)
	span.end(err)
	if err == nil {
		return nil
	}
	q.noWorker(queue, j, err)
	return &jobFailure{"function call failed", j.functionID, err}
}

// noWorker logs an attempt that failed because the function does not exist.
func (q *queues) noWorker(queue string, j *job, err *wireError) {
	if err != nil && err.Code == "function_not_found" && !q.engine.closing() {
		q.engine.log.Warn("event found no worker", "queue", queue, "function", j.functionID, "attempt", j.attempts+1, "error", err.Message)
	}
}
