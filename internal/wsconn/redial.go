package wsconn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Backoff is how delays between attempts grow.
type Backoff struct {
	Initial, Max time.Duration
	Multiplier   float64
	Jitter       float64 // share of a delay by which it varies at random
}

// Delay returns the delay of the given step, counted from 1: the initial one, multiplied
// for each step after the first. spread is random within 0 and 1.
func (b Backoff) Delay(step uint64, spread float64) time.Duration {
	limit, delay := float64(b.Max), float64(b.Initial)
	for i := uint64(1); i < step && delay < limit; i++ {
		delay *= b.Multiplier
	}
	delay = min(delay, limit)
	delay *= 1 + b.Jitter*(2*spread-1)
	if delay > limit {
		delay = 2*limit - delay // a fleet at the limit is spread, too, but not beyond it
	}
	return time.Duration(delay)
}

// Attempt is the outcome of one connection, from its dialing to its end.
type Attempt struct {
	Err  error // why there is no connection
	Held bool  // the connection was usable: the delays start over, and no failure is counted
	Stop bool  // no further attempt is made: Run returns Err

	// Delay is the wait before the next attempt, if it is not 0. The peer is there, so no
	// failure is counted and the delays start over. Nothing is reported.
	Delay time.Duration
}

// Redial keeps a connection up: it makes one after the other.
type Redial struct {
	Backoff
	MaxRetries *uint64         // consecutive failures after the first until Run gives up; nil is no limit
	Hurry      <-chan struct{} // ends a delay when it is closed; may be nil

	Connect func(context.Context) Attempt          // makes one connection and waits for its end
	Retry   func(err error, retryIn time.Duration) // reports that the next attempt follows a delay
}

// ExhaustedError is the end of a Redial that has made all its attempts.
type ExhaustedError struct {
	Attempts uint64
	Err      error // of the last
}

// Error implements error.
func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts to connect: %v", e.Attempts, e.Err)
}

// Unwrap returns the error of the last attempt.
func (e *ExhaustedError) Unwrap() error { return e.Err }

// Run connects until ctx ends, which gives nil, an attempt stops it, or the attempts are
// used up, which gives an [ExhaustedError]. The delay after a loss is the initial one;
// it grows with each further attempt until a connection holds again.
func (r *Redial) Run(ctx context.Context) error {
	var step, failures uint64
	for ctx.Err() == nil {
		a := r.Connect(ctx)
		switch {
		case a.Stop:
			return a.Err
		case ctx.Err() != nil:
			return nil
		case a.Delay > 0:
			step, failures = 0, 0
			r.pause(ctx, a.Delay)
			continue
		}
		step++
		failures++
		if a.Held {
			step, failures = 1, 0
		}
		if r.MaxRetries != nil && failures > *r.MaxRetries {
			return &ExhaustedError{failures, a.Err}
		}
		delay := r.Backoff.Delay(step, rand.Float64())
		r.Retry(a.Err, delay)
		r.pause(ctx, delay)
	}
	return nil
}

// Pause waits for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) { (&Redial{}).pause(ctx, d) }

func (r *Redial) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Hurry:
	case <-ctx.Done():
	}
}
