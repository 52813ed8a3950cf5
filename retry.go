package iii

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// RetryPolicy configures how often a failed call is retried, and after which errors. The zero
// value allows three attempts. A policy may be shared; the package does not modify it.
//
// A call is retried after [ErrNotConnected] and [ErrBufferFull], because it was not sent, and
// after [ErrDraining] and [ErrOverloaded], because the function did not start. Retrying after
// these errors cannot run the function twice. Codes adds further errors. There is no retry
// after any other error: for example, [ErrClosed], [ErrTimeout] after the call was sent,
// [ErrConnectionLost], or a payload that cannot be encoded. [Client.Send] and [Client.Enqueue]
// are retried only if nothing was sent.
//
// Retries use exponential backoff with full jitter: before attempt n+1, the call waits a
// random time between 0 and InitialDelay · 2ⁿ⁻¹, but at most MaxDelay. The call's timeout
// applies to each attempt, and the context limits all attempts together. If the context's
// deadline would pass before the next attempt, the call immediately returns the error of the
// latest attempt.
type RetryPolicy struct {
	// MaxAttempts is the maximum number of attempts, including the first. 0 means 3, and 1
	// disables retries. A negative value is an error.
	MaxAttempts int
	// InitialDelay is the maximum wait before the second attempt. 0 means 50 ms, or MaxDelay if
	// that is set and shorter. A negative value is an error.
	InitialDelay time.Duration
	// MaxDelay limits every wait. 0 means 2 s, or InitialDelay if that is longer. A value
	// below InitialDelay is an error.
	MaxDelay time.Duration
	// Codes lists additional [*Error] codes after which a call is retried, for example
	// [CodeFunctionNotFound] while one worker takes over from another. An error with one of
	// these codes may come from a function that has run, or from a call made by that function,
	// so use Codes only for idempotent functions. Default: none.
	Codes []string
}

// WithRetry retries a failed call according to p. It overrides [WithCallRetry]. Default: no
// retries. If the policy is invalid, the call fails.
func WithRetry(p RetryPolicy) CallOption {
	return func(c *callConfig) (err error) {
		c.retry, err = p.checked("WithRetry")
		c.ownRetry = true
		return err
	}
}

// WithCallRetry retries this client's failed calls according to p. This includes calls to the
// engine's functions and calls made by handlers. [WithRetry] overrides it for a single call.
// Calls that the client makes for its own registrations are not retried. Default: no retries.
// [New] rejects an invalid policy.
func WithCallRetry(p RetryPolicy) Option {
	return clientOption(func(c *config) (err error) {
		c.callRetry, err = p.checked("WithCallRetry")
		return err
	})
}

// checked validates p and returns it with the defaults filled in.
func (p RetryPolicy) checked(option string) (*RetryPolicy, error) {
	fail := func(format string, args ...any) (*RetryPolicy, error) {
		return nil, fmt.Errorf("iii: "+option+": "+format, args...)
	}
	switch {
	case p.MaxAttempts < 0:
		return fail("MaxAttempts %d is negative", p.MaxAttempts)
	case p.InitialDelay < 0:
		return fail("InitialDelay %v is negative", p.InitialDelay)
	case p.MaxDelay < 0:
		return fail("MaxDelay %v is negative", p.MaxDelay)
	case slices.ContainsFunc(p.Codes, func(code string) bool { return strings.TrimSpace(code) == "" }):
		return fail("Codes contains a blank code")
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = 3
	}
	if p.InitialDelay == 0 {
		p.InitialDelay = 50 * time.Millisecond
		if p.MaxDelay > 0 {
			p.InitialDelay = min(p.InitialDelay, p.MaxDelay)
		}
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(2*time.Second, p.InitialDelay)
	}
	if p.MaxDelay < p.InitialDelay {
		return fail("MaxDelay %v is below InitialDelay %v", p.MaxDelay, p.InitialDelay)
	}
	p.Codes = slices.Clone(p.Codes)
	return &p, nil
}

// delay returns the longest possible wait after attempt n.
func (p *RetryPolicy) delay(n int) time.Duration {
	d := p.InitialDelay
	for range n - 1 {
		if d >= p.MaxDelay/2 {
			return p.MaxDelay
		}
		d *= 2
	}
	return min(d, p.MaxDelay)
}

// retries reports whether a request that failed with err should be retried. wantsResult is
// false for a Send.
func (p *RetryPolicy) retries(err error, wantsResult bool) bool {
	var unsent *callError
	if errors.As(err, &unsent) {
		return !unsent.sent && !errors.Is(err, ErrClosed) && (errors.Is(err, ErrNotConnected) || errors.Is(err, ErrBufferFull))
	}
	var e *Error
	if !wantsResult || !errors.As(err, &e) {
		return false
	}
	return SafeToRetry(err) || slices.Contains(p.Codes, e.Code)
}

// ownCallKey marks the contexts of calls that the client makes on its own behalf.
type ownCallKey struct{}

func ownCalls(ctx context.Context) context.Context {
	return context.WithValue(ctx, ownCallKey{}, true)
}

// repeat runs attempt until it succeeds or the policy allows no further attempt.
func (c *Client) repeat(ctx context.Context, verb, id string, opts []CallOption, attempt func(*callConfig) error) error {
	cfg, err := c.callConfig(opts)
	if err != nil {
		return &callError{verb: verb, functionID: id, err: err}
	}
	if cfg.retry == nil || !cfg.ownRetry && ctx.Value(ownCallKey{}) != nil {
		return attempt(cfg)
	}
	for n := 1; ; n++ {
		err := attempt(cfg)
		if err == nil || n >= cfg.retry.MaxAttempts || ctx.Err() != nil || !cfg.retry.retries(err, verb == verbCall) {
			return err
		}
		delay := time.Duration(rand.Uint64N(uint64(cfg.retry.delay(n)) + 1))
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= delay {
			return err
		}
		c.log.LogAttrs(ctx, slog.LevelDebug, "iii: retrying request", slog.String("function", id),
			slog.Int("attempt", n), slog.Duration("delay", delay), slog.Any("error", err))
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-c.done: // the next attempt returns the error
		case <-ctx.Done():
			timer.Stop()
			err = fmt.Errorf("%w, after %d attempts; the last one: %w", ctxError(ctx), n, err)
			return &callError{verb: verb, functionID: id, err: err, sent: !SafeToRetry(err)}
		}
		timer.Stop()
	}
}

// Verbs used in request errors.
const (
	verbCall    = "call"
	verbSend    = "send"
	verbEnqueue = "enqueue"
)
