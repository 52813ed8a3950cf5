package iii_test

import (
	"slices"
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

// withTriggers is an engine that has triggers, and no observers in their place.
var withTriggers = iiitest.WithProtocol(iiitest.Protocol023)

// hasTriggers reports whether e is one.
func hasTriggers(e *iiitest.Engine) bool { return e.Protocol() == iiitest.Protocol023 }

// generations is bubble on an engine with triggers and on one with observers in their place.
func generations(t *testing.T, test func(t *testing.T, e *iiitest.Engine), opts ...iiitest.Option) {
	t.Helper()
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) { bubble(t, test, append(slices.Clone(opts), iiitest.WithProtocol(protocol))...) })
	}
}

// bound returns the triggers of the engine, and the observers in their place, by id, with the
// function that each of them runs.
func bound(t *testing.T, e *iiitest.Engine, c *iii.Client) map[string]string {
	t.Helper()
	list := map[string]string{}
	triggers, err := c.Triggers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, trigger := range triggers {
		list[trigger.ID] = trigger.FunctionID
	}
	for _, o := range e.Observers() {
		list[o.ID] = o.Target.FunctionID
	}
	return list
}
