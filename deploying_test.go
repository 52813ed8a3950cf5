package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// outcomes counts what became of requests.
type outcomes struct {
	mu      sync.Mutex
	count   map[string]int
	slowest time.Duration
	first   time.Time // of the failures
	last    time.Time
}

func (o *outcomes) add(outcome string, failed bool, began time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == nil {
		o.count = map[string]int{}
	}
	o.count[outcome]++
	o.slowest = max(o.slowest, time.Since(began))
	if failed {
		if o.first.IsZero() {
			o.first = time.Now()
		}
		o.last = time.Now()
	}
}

func (o *outcomes) String() string {
	total, s := 0, ""
	for _, outcome := range slices.Sorted(maps.Keys(o.count)) {
		total += o.count[outcome]
		s += fmt.Sprintf(", %d × %s", o.count[outcome], outcome)
	}
	return fmt.Sprintf("%d requests%s; the slowest took %v, failures during %v", total, s, o.slowest, o.last.Sub(o.first))
}

// failedExcept sums the outcomes that are not among the given ones.
func (o *outcomes) failedExcept(expected ...string) (n int) {
	for outcome, count := range o.count {
		if !slices.Contains(expected, outcome) {
			n += count
		}
	}
	return n
}

// A rolling update of two replicas under 500 requests a second of each kind, as the page on
// deploying describes it: the new replica starts, its probe lets the orchestrator go on, the
// old one gets its signal. Calls with a retry policy do not fail; of those without one, each
// failure says that the function has not run. Visitors of a route see the engine's answers for
// 3 s at most.
func TestRollingUpdateLosesNoRequest(t *testing.T) {
	const perSecond = 500
	for _, test := range []struct {
		name string
		stop func(t *testing.T, signal context.CancelFunc, r *replica)
	}{
		{"SIGTERM", func(_ *testing.T, signal context.CancelFunc, _ *replica) { signal() }},
		{"killed", func(t *testing.T, _ context.CancelFunc, r *replica) { _ = r.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				setup := func(r *replica) {
					f, err := iii.Handle(r.Client, "orders::create", func(context.Context, any) (string, error) {
						time.Sleep(5 * time.Millisecond)
						return r.Name(), nil
					})
					if err != nil {
						t.Fatal(err)
					}
					r.functions = append(r.functions, f)
					if _, err := iii.HandleHTTP(r.Client, "GET", "/orders/:id", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
						time.Sleep(5 * time.Millisecond)
						return &iii.HTTPResponse[string]{StatusCode: 200, Body: r.Name()}, nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				run := func(r *replica) (signal context.CancelFunc, ended <-chan error) {
					ctx, cancel := context.WithCancel(context.Background())
					result := make(chan error, 1)
					go func() { result <- r.Run(ctx) }()
					return cancel, result
				}
				caller := startReplica(t, e, "caller", func(*replica) {}, iii.WithCallRetry(iii.RetryPolicy{
					MaxAttempts: 20, InitialDelay: 100 * time.Millisecond, MaxDelay: time.Second, Codes: []string{iii.CodeFunctionNotFound},
				}))
				hasty := startReplica(t, e, "hasty", func(*replica) {})
				transport := &http.Transport{DialContext: e.DialContext, MaxIdleConnsPerHost: 100}
				defer transport.CloseIdleConnections()

				old := startReplica(t, e, "orders-1", setup)
				signal, ended := run(old)
				defer signal()

				var patient, impatient, visits outcomes
				load, stop := context.WithCancel(t.Context())
				defer stop()
				var all sync.WaitGroup
				all.Go(func() {
					tick := time.NewTicker(time.Second / perSecond)
					defer tick.Stop()
					for {
						select {
						case <-load.Done():
							return
						case <-tick.C:
						}
						call := func(c *replica, o *outcomes) {
							began := time.Now()
							ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
							defer cancel()
							outcome, err := iii.Call[string](ctx, c.Client, "orders::create", nil)
							var failure *iii.Error
							switch {
							case err == nil:
							case errors.As(err, &failure):
								outcome = failure.Code
							default:
								outcome = err.Error()
							}
							o.add(outcome, err != nil, began)
						}
						all.Go(func() { call(caller, &patient) })
						all.Go(func() { call(hasty, &impatient) })
						all.Go(func() {
							began := time.Now()
							resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/orders/1")
							if err != nil {
								visits.add(err.Error(), true, began)
								return
							}
							body, _ := io.ReadAll(resp.Body)
							_ = resp.Body.Close()
							outcome := resp.Status
							if resp.StatusCode == 200 {
								outcome = string(body)
							} else if resp.StatusCode == 500 {
								var failure struct{ Error iii.ErrorBody }
								_ = json.Unmarshal(body, &failure)
								outcome = "500 " + failure.Error.Code
							} else if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
								outcome += " without Retry-After"
							}
							visits.add(outcome, resp.StatusCode != 200, began)
						})
					}
				})
				time.Sleep(2 * time.Second)
				next := startReplica(t, e, "orders-2", setup)
				signalNext, endedNext := run(next)
				defer signalNext()
				if got := probe(t, next.Client, "/ready"); got.Status != 200 || got.Ready {
					t.Errorf("the new replica is no standby: %+v", got)
				}
				time.Sleep(2 * time.Second)
				stopped := time.Now()
				test.stop(t, signal, old)
				if err := <-ended; err != nil {
					t.Error(err)
				}
				for next.Ready() != nil {
					time.Sleep(10 * time.Millisecond)
				}
				takeover := time.Since(stopped)
				time.Sleep(3 * time.Second)
				stop()
				all.Wait()
				t.Logf("ready %v after the signal", takeover)
				t.Logf("with retries: %v", &patient)
				t.Logf("without:      %v", &impatient)
				t.Logf("visits:       %v", &visits)

				if takeover > 3*time.Second {
					t.Errorf("the new replica is ready after %v", takeover)
				}
				served := []string{"orders-1", "orders-2"}
				if test.name == "killed" { // what was running may have had effects
					served = append(served, iii.CodeInvocationStopped)
				}
				if n := patient.failedExcept(served...); n > 0 || patient.count[iii.CodeInvocationStopped] > 10 {
					t.Errorf("%d calls failed in spite of retries", n)
				}
				retryable := append(served, iii.CodeFunctionNotFound, iii.CodeWorkerDraining)
				if n := impatient.failedExcept(retryable...); n > 0 {
					t.Errorf("%d calls failed otherwise than by what may be repeated", n)
				}
				answers := []string{`"orders-1"`, `"orders-2"`, "404 Not Found", "503 Service Unavailable", "500 " + iii.CodeFunctionNotFound,
					"500 OBSERVER_NOT_FOUND", "500 OBSERVER_NOT_ACTIVE"} // the route was going
				if test.name == "killed" {
					answers = append(answers, "500 "+iii.CodeInvocationStopped)
				}
				if n := visits.failedExcept(answers...); n > 0 {
					t.Errorf("%d visits failed otherwise", n)
				}
				if gap := visits.last.Sub(visits.first); gap > 3*time.Second {
					t.Errorf("visits failed for %v", gap)
				}
				if patient.count["orders-2"] < perSecond || visits.count[`"orders-2"`] < perSecond {
					t.Error("the new replica hardly serves")
				}
				signalNext()
				if err := <-endedNext; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// How long a queue retries a job whose function nobody serves: what the page on deploying says.
func TestQueuesRetryAsLongAsThePageSays(t *testing.T) {
	for _, test := range []struct {
		name   string
		config iiitest.QueueConfig
		after  time.Duration
	}{
		{"default", iiitest.QueueConfig{}, 3 * time.Second},
		{"production", iiitest.QueueConfig{MaxRetries: 8, BackoffMs: 1000}, 127 * time.Second},
		{"long", iiitest.QueueConfig{MaxRetries: 10, BackoffMs: 2000}, 1022 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				c := connect(t, e, iii.WithDialContext(e.DialContext))
				if _, err := c.Enqueue(t.Context(), test.name, "nobody::serves", nil); err != nil {
					t.Fatal(err)
				}
				dead := func() int {
					letters, err := c.DeadLetters(t.Context(), test.name)
					if err != nil {
						t.Fatal(err)
					}
					return len(letters)
				}
				time.Sleep(test.after - time.Millisecond)
				if n := dead(); n != 0 {
					t.Errorf("%d dead letters before %v", n, test.after)
				}
				time.Sleep(2 * time.Millisecond)
				if n := dead(); n != 1 {
					t.Errorf("%d dead letters after %v", n, test.after)
				}
			}, iiitest.WithQueue(test.name, test.config))
		})
	}
}
