package iiitest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// A hanging engine does not answer pings, so even an idle worker detects the failure.
func TestIdleWorkerNoticesHangingEngine(t *testing.T) {
	for _, idle := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := iiitest.Start(t)
			lost := make(chan error, 1)
			c, err := iii.New(e.URL(), iii.WithName("w"), iii.WithDialContext(e.DialContext), iii.WithKeepalive(10*time.Second, 30*time.Second),
				iii.WithStateListener(func(s iii.ConnectionState, err error) {
					if s == iii.ConnectionStateReconnecting {
						select {
						case lost <- err:
						default:
						}
					}
				}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // the engine answers pings
			if len(lost) > 0 {
				t.Fatalf("idle %t: lost before: %v", idle, <-lost)
			}
			if !e.StopReading("w") {
				t.Fatal("no such worker")
			}
			if !idle {
				if err := c.Send(t.Context(), "nobody", nil); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(lost) == 0 {
				t.Errorf("idle %t: the worker does not notice", idle)
			}
		})
	}
}
