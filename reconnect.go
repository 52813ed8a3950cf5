package iii

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// supervise keeps a connection up until ctx ends or the engine refuses. It
// begins when its predecessor has ended.
func (c *Client) supervise(ctx context.Context, previous <-chan struct{}, ended chan<- struct{}) {
	if previous != nil {
		<-previous
	}
	stopGauges := c.startGauges()
	err := c.keepConnected(ctx)
	stopGauges()
	if err == nil {
		c.setState(ConnectionStateDisconnected, nil)
	}
	close(ended)
	if err != nil {
		c.finish(err)
	}
}

// fatalError is a failure that no further attempt can mend.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// nameHeldError is the refusal of a name that another worker has for the time being.
type nameHeldError struct{ error }

func (e nameHeldError) Unwrap() error { return e.error }

// keepConnected returns nil when ctx has ended, else the fatal error.
func (c *Client) keepConnected(ctx context.Context) error {
	var attempt, failures uint64
	var turn time.Duration // of the wait for this worker's name; 0 while it does not wait
	for ctx.Err() == nil {
		c.mu.Lock()
		state := ConnectionStateConnecting
		if c.wasReady || failures > 0 || turn > 0 {
			state = ConnectionStateReconnecting
		}
		c.mu.Unlock()
		c.setState(state, nil)
		wasReady := false
		l, err := c.dial(ctx)
		if err == nil {
			l.nameFirst = turn > 0
			wasReady, err = c.serve(ctx, l)
		}
		if ctx.Err() != nil || c.closing.Load() {
			return nil
		}
		var fatal fatalError
		if errors.As(err, &fatal) {
			return fatal.error
		}
		c.mu.Lock()
		c.lastError = err
		c.mu.Unlock()
		var held nameHeldError
		if errors.As(err, &held) {
			if turn == 0 {
				c.log.Warn("iii: waiting for the name of this worker", "error", held.error)
				c.setState(ConnectionStateReconnecting, held.error)
			}
			var delay time.Duration
			turn, delay = takeoverTurn(turn)
			attempt, failures = 0, 0 // the engine is there
			pause(ctx, delay)
			continue
		}
		attempt++
		failures++
		if wasReady {
			attempt, failures, turn = 1, 0, 0
		}
		if limit := c.cfg.reconnection.MaxRetries; limit != nil && failures > *limit {
			return fmt.Errorf("iii: gave up after %d attempts to connect: %w", failures, trimmed(err))
		}
		delay := reconnectDelay(c.cfg.reconnection, attempt, rand.Float64())
		c.log.Warn("iii: not connected", "error", err, "retry_in", delay)
		c.warnOnce(err)
		c.setState(ConnectionStateReconnecting, err)
		pause(ctx, delay)
	}
	return nil
}

// warnOnce tells a program that has set no logger why its first connection fails. It does
// so on the goroutine of the callbacks, since slog's default may be code of the program's.
func (c *Client) warnOnce(err error) {
	c.mu.Lock()
	skip := c.cfg.loggerSet || c.wasReady || c.warned
	c.warned = true
	c.mu.Unlock()
	if !skip {
		c.notify.post(func() {
			warnByDefault("iii: not connected; the client keeps trying, and logs more with WithLogger", err)
		})
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// reconnectDelay is the wait before the given attempt, counted from 1; spread is
// random within 0 and 1.
func reconnectDelay(cfg ReconnectionConfig, attempt uint64, spread float64) time.Duration {
	limit := float64(cfg.MaxDelayMs)
	delay := float64(cfg.InitialDelayMs)
	for i := uint64(1); i < attempt && delay < limit; i++ {
		delay *= cfg.BackoffMultiplier
	}
	delay = min(delay, limit)
	delay *= 1 + cfg.JitterFactor*(2*spread-1)
	if delay > limit {
		delay = 2*limit - delay // spread a fleet at the limit, too, but not beyond it
	}
	return time.Duration(delay * float64(time.Millisecond))
}
