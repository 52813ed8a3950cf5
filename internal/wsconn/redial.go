package wsconn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Backoff configures the delays between attempts.
type Backoff struct {
	Initial, Max time.Duration
	Multiplier   float64
	Jitter       float64 // fraction by which a delay varies at random
}

// Delay returns the delay at the given step, counted from 1. The first delay is Initial, and
// each further step multiplies it by Multiplier, up to Max. spread, a random number between 0
// and 1, determines the jitter.
func (b Backoff) Delay(step uint64, spread float64) time.Duration {
	limit, delay := float64(b.Max), float64(b.Initial)
	for i := uint64(1); i < step && delay < limit; i++ {
		delay *= b.Multiplier
	}
	delay = min(delay, limit)
	delay *= 1 + b.Jitter*(2*spread-1)
	if delay > limit {
		delay = 2*limit - delay // varies even at the limit
	}
	return time.Duration(delay)
}

// Attempt describes how an attempt to connect failed or, if it succeeded, how the connection
// ended.
type Attempt struct {
	Err  error // why the attempt ended
	Held bool  // the connection was usable, so delays and failures start over
	Stop bool  // make no further attempt: Run returns Err

	// Delay, if not 0, is the time until the next attempt. It is set if the peer is reachable.
	// The attempt then does not count toward MaxRetries, later delays start at Initial again,
	// and Retry is not called.
	Delay time.Duration
}

// Redial maintains a connection: it reconnects whenever the connection is lost.
type Redial struct {
	Backoff
	MaxRetries *uint64         // maximum number of retries after a failed attempt; nil means no limit
	Hurry      <-chan struct{} // ends a delay when closed; may be nil

	Connect func(context.Context) Attempt          // makes one connection and waits until it ends
	Retry   func(err error, retryIn time.Duration) // reports the delay before the next attempt
}

// ExhaustedError reports that a Redial has used up its attempts.
type ExhaustedError struct {
	Attempts uint64
	Err      error // the error of the last attempt
}

// Error implements error.
func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts to connect: %v", e.Attempts, e.Err)
}

// Unwrap returns the last attempt's error.
func (e *ExhaustedError) Unwrap() error { return e.Err }

// Run maintains the connection until ctx is done, an attempt sets Stop, or the attempts are
// used up. It then returns nil, the attempt's error, or an [ExhaustedError], respectively.
// After a usable connection is lost, the first delay is Initial. The delays grow with each
// further attempt, until a connection is usable again.
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

// Pause waits until d has passed or ctx is done.
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
