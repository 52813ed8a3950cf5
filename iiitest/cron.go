package iiitest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/cronexpr"
)

// cron provides the cron trigger type, like the engine's iii-cron worker. Schedules are in UTC
// and follow the process's clock or, in a synctest bubble, the bubble's clock.
type cron struct {
	engine *Engine

	mu   sync.Mutex
	jobs map[string]runningJob      // by trigger id
	away map[key]context.CancelFunc // by function; these jobs log the ticks that a disconnected worker misses

	expressions map[string]*expressionJob // of observers, by expression
}

// expressionJob is the job shared by all observers with the same expression.
type expressionJob struct {
	observers int
	stop      context.CancelFunc
}

// runningJob is a job that is running or waiting for its next run.
type runningJob struct {
	target key // the function
	stop   context.CancelFunc
}

type cronJob struct {
	binding
	condition string // "" if there is none
}

func (e *Engine) registerCron() {
	e.cron = &cron{engine: e, jobs: map[string]runningJob{}, away: map[key]context.CancelFunc{}, expressions: map[string]*expressionJob{}}
	e.addTriggerType("cron", "iii-cron", "Cron trigger", e.cron)
}

// bind starts a job. If a job with the same id exists, bind returns an error and leaves that
// job running.
func (c *cron) bind(_ context.Context, b binding) error {
	config := membersOf(b.config)
	expression := stringOf(config["expression"])
	if expression == "" {
		return engineText("Cron expression is required")
	}
	schedule, err := cronexpr.Parse(expression)
	if err != nil {
		return engineText(fmt.Sprintf("Invalid cron expression '%s': %s", expression, err))
	}
	j := &cronJob{binding: b, condition: stringOf(config["condition_function_id"])}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jobs[b.id].stop != nil {
		return engineText(fmt.Sprintf("Cron job '%s' is already registered", b.id))
	}
	target := key{b.namespace, b.functionID}
	if stop := c.away[target]; stop != nil {
		stop()
		delete(c.away, target)
	}
	c.jobs[b.id] = runningJob{target, c.start(schedule, func(ctx context.Context, due time.Time) { c.fire(ctx, j, due) })}
	return nil
}

// start calls fire at each time in the schedule, from now on and until stop is called.
func (c *cron) start(schedule *cronexpr.Schedule, fire func(ctx context.Context, due time.Time)) (stop context.CancelFunc) {
	ctx, stop := context.WithCancel(c.engine.ctx)
	now := time.Now()
	c.engine.spawn(func(context.Context) {
		defer stop()
		c.run(ctx, schedule, now, fire)
	})
	return stop
}

// unbind stops a job without waiting for a run in progress.
func (c *cron) unbind(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if job := c.jobs[id]; job.stop != nil {
		job.stop()
		delete(c.jobs, id)
	}
}

// workerLeft keeps the schedule of a disconnected worker's job running, to log the ticks that
// the worker misses.
func (c *cron) workerLeft(b binding) {
	target := key{b.namespace, b.functionID}
	schedule, err := cronexpr.Parse(stringOf(membersOf(b.config)["expression"]))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.away[target] != nil || len(c.away) >= maxAway {
		return
	}
	for _, job := range c.jobs {
		if job.target == target {
			return // another worker has taken over
		}
	}
	c.away[target] = c.start(schedule, func(context.Context, time.Time) { c.engine.workerAway(b, triggerAway) })
}

// run runs a job at each time in the schedule after the given one, until ctx is canceled or the
// schedule ends. It computes the next run when the previous one has finished. Runs therefore
// never overlap, and ticks that are due during a run are skipped.
func (c *cron) run(ctx context.Context, schedule *cronexpr.Schedule, after time.Time, fire func(ctx context.Context, due time.Time)) {
	for {
		due, ok := schedule.Next(after)
		if !ok {
			return
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		fire(ctx, due)
		if after = time.Now(); after.Before(due) { // the wall clock was set back
			after = due
		}
	}
}

// fire calls the condition, if any, and then the function. It logs errors from both. If the
// condition fails, the function is not called.
func (c *cron) fire(ctx context.Context, j *cronJob, due time.Time) {
	payload := mustEncode(map[string]string{
		"trigger": "cron", "job_id": j.id, "scheduled_time": rfc3339(due), "actual_time": rfc3339(time.Now()),
	})
	ctx, span := c.engine.startSpan(ctx, "call "+j.functionID)
	run, err := true, (*wireError)(nil)
	if j.condition != "" {
		run, err = c.engine.condition(ctx, j.condition, j.namespace, payload)
	}
	if run {
		_, err = c.engine.fire(ctx, j.binding, payload)
	}
	if ctx.Err() != nil { // stopped; the error is irrelevant
		return
	}
	if err != nil {
		c.engine.triggerFailed(j.binding, "cron job failed", err)
	}
	span.end(err)
}

// rfc3339 formats a time as a real engine does, with the smallest sufficient number of
// fractional digits: 0, 3, 6 or 9.
func rfc3339(t time.Time) string {
	fraction := ""
	switch ns := t.Nanosecond(); {
	case ns == 0:
	case ns%int(time.Millisecond) == 0:
		fraction = ".000"
	case ns%int(time.Microsecond) == 0:
		fraction = ".000000"
	default:
		fraction = ".000000000"
	}
	return t.UTC().Format("2006-01-02T15:04:05" + fraction + "-07:00")
}
