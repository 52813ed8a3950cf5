package wsconn

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBackoffDelays(t *testing.T) {
	b := Backoff{Initial: time.Second, Max: 30 * time.Second, Multiplier: 2, Jitter: 0.3}
	for _, test := range []struct {
		step   uint64
		spread float64
		want   time.Duration
	}{
		{1, 0.5, time.Second}, {2, 0.5, 2 * time.Second}, {5, 0.5, 16 * time.Second}, {6, 0.5, 30 * time.Second}, {1 << 60, 0.5, 30 * time.Second},
		{1, 0, 700 * time.Millisecond}, {1, 1, 1300 * time.Millisecond}, {9, 0, 21 * time.Second}, {9, 1, 21 * time.Second}, {9, 0.75, 25500 * time.Millisecond},
	} {
		if got := b.Delay(test.step, test.spread); (got - test.want).Abs() > time.Microsecond {
			t.Errorf("step %d, spread %v: %v, want %v", test.step, test.spread, got, test.want)
		}
	}
}

// Each case lists the attempts' outcomes, the delays between attempts, and the result of Run.
func TestRedial(t *testing.T) {
	lost := errors.New("lost")
	fail, held := Attempt{Err: lost}, Attempt{Err: lost, Held: true}
	stop := Attempt{Stop: true}
	two := uint64(2)
	for _, test := range []struct {
		name       string
		maxRetries *uint64
		attempts   []Attempt
		delays     []time.Duration // between the attempts
		err        error
	}{
		{"failures", nil, []Attempt{fail, fail, fail, fail, fail, stop}, []time.Duration{1, 2, 4, 5, 5}, nil},
		{"a connection that held", nil, []Attempt{held, fail, fail, held, held, fail, stop}, []time.Duration{1, 2, 4, 1, 1, 2}, nil},
		{"own delay", nil, []Attempt{fail, fail, {Err: lost, Delay: 7 * time.Second}, fail, fail, stop}, []time.Duration{1, 2, 7, 1, 2}, nil},
		{"stop with an error", nil, []Attempt{fail, {Stop: true, Err: lost}}, []time.Duration{1}, lost},
		{"attempts used up", &two, []Attempt{fail, fail, fail}, []time.Duration{1, 2}, &ExhaustedError{3, lost}},
		{"a loss is no failure", &two, []Attempt{held, fail, fail, held, fail, fail, fail}, []time.Duration{1, 2, 4, 1, 2, 4}, &ExhaustedError{3, lost}},
		{"other failures are not counted", &two, []Attempt{fail, fail, {Err: lost, Delay: time.Second}, fail, fail, fail}, []time.Duration{1, 2, 1, 1, 2}, &ExhaustedError{3, lost}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var delays, reported []time.Duration
				var ended time.Time
				n := 0
				r := Redial{Backoff: Backoff{Initial: time.Second, Max: 5 * time.Second, Multiplier: 2}, MaxRetries: test.maxRetries}
				r.Connect = func(context.Context) Attempt {
					if n > 0 {
						delays = append(delays, time.Since(ended)/time.Second)
					}
					n++
					time.Sleep(time.Minute) // how long the connection lasts
					ended = time.Now()
					return test.attempts[n-1]
				}
				r.Retry = func(err error, retryIn time.Duration) {
					if err != lost {
						t.Errorf("reported %v", err)
					}
					reported = append(reported, retryIn)
				}
				if err := r.Run(t.Context()); fmt.Sprint(err) != fmt.Sprint(test.err) || test.err != nil && !errors.Is(err, lost) {
					t.Errorf("Run = %v, want %v", err, test.err)
				}
				if diff := cmp.Diff(test.delays, delays); diff != "" || n != len(test.attempts) {
					t.Errorf("%d attempts, delays in seconds (-want +got):\n%s", n, diff)
				}
				if len(reported) > len(delays) {
					t.Errorf("%d delays were reported, %d passed", len(reported), len(delays))
				}
			})
		})
	}
}

func TestRedialDelayEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hurry := make(chan struct{})
		attempts := 0
		r := Redial{Backoff: Backoff{Initial: time.Hour, Max: time.Hour, Multiplier: 1}, Hurry: hurry}
		r.Connect = func(context.Context) Attempt {
			if attempts++; attempts == 2 {
				r.Hurry = nil
			}
			return Attempt{Err: errors.New("lost")}
		}
		r.Retry = func(error, time.Duration) {}
		time.AfterFunc(time.Second, func() { close(hurry) })
		time.AfterFunc(3*time.Second, cancel)
		began := time.Now()
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if took := time.Since(began); attempts != 2 || took != 3*time.Second {
			t.Errorf("%d attempts in %v, want 2 in 3 s", attempts, took)
		}
	})
}
