package wsconn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Backoff determines the growth of the delays between attempts.
type Backoff struct {
	Initial, Max time.Duration
	Multiplier   float64
	Jitter       float64 // fraction of a delay by which it varies at random
}

// Delay returns the delay of the given step, counted from 1. It is the initial delay,
// multiplied once for each further step. spread is a random number between 0 and 1.
func (b Backoff) Delay(step uint64, spread float64) time.Duration {
	limit, delay := float64(b.Max), float64(b.Initial)
	for i := uint64(1); i < step && delay < limit; i++ {
		delay *= b.Multiplier
	}
	delay = min(delay, limit)
	delay *= 1 + b.Jitter*(2*spread-1)
	if delay > limit {
		delay = 2*limit - delay // spreads a fleet at the limit too, without exceeding the limit
	}
	return time.Duration(delay)
}

// Attempt is the outcome of one connection, from dialing to its end.
type Attempt struct {
	Err  error // the reason why there is no connection
	Held bool  // the connection was usable: delays start over, and no failure counts
	Stop bool  // no further attempt follows: Run returns Err

	// Delay, if it is not 0, is the time until the next attempt. In this case, the attempt
	// does not count as a failure, because the peer is reachable. The delays start over, and
	// Retry is not called.
	Delay time.Duration
}

// Redial maintains a connection: whenever it is lost, Redial makes a new one.
type Redial struct {
	Backoff
	MaxRetries *uint64         // consecutive failures after the first until Run gives up; nil means no limit
	Hurry      <-chan struct{} // closing it ends a delay; may be nil

	Connect func(context.Context) Attempt          // makes one connection and waits for its end
	Retry   func(err error, retryIn time.Duration) // reports that the next attempt follows after a delay
}

// ExhaustedError is the error of a Redial that has used up its attempts.
type ExhaustedError struct {
	Attempts uint64
	Err      error // the error of the last attempt
}

// Error implements error.
func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts to connect: %v", e.Attempts, e.Err)
}

// Unwrap returns the error of the last attempt.
func (e *ExhaustedError) Unwrap() error { return e.Err }

// Run maintains the connection. It returns nil when ctx ends, the error of an attempt that
// sets Stop, or an [ExhaustedError] when the attempts are used up. The first delay after the
// loss of a connection is the initial one. The delays grow with each further attempt, until a
// connection lasts again.
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
