package iii_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// bubble runs a test with an engine in virtual time. What waits for ever is noticed
// after a day of it: keepalives go on, so that it is never a deadlock.
func bubble(t *testing.T, test func(t *testing.T, e *iiitest.Engine), opts ...iiitest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limit := time.AfterFunc(24*time.Hour, func() { panic(t.Name() + " hangs") })
		defer limit.Stop()
		test(t, iiitest.Start(t, opts...))
	})
}

// workerBubble is bubble with a worker.
func workerBubble(t *testing.T, test func(t *testing.T, c *iii.Client), opts ...iiitest.Option) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) { test(t, connect(t, e, iii.WithDialContext(e.DialContext))) }, opts...)
}
