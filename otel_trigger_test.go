package iii_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
)

// A function that is told of new traces is not told of its own invocations: that
// would go on for ever.
func TestTraceTriggerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := telemetryEngine(t)
		telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWsURL: pointer(engine.URL())},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(engine.DialContext)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := iii.New(engine.URL(), iii.WithDialContext(engine.DialContext), iii.WithTelemetry(telemetry))
		if err != nil {
			t.Fatal(err)
		}
		var told atomic.Int64
		handle(t, c, "t::watch", func(context.Context, iii.TraceEvent) (any, error) {
			told.Add(1)
			return nil, nil
		})
		if _, err := c.Trigger("t::watch", iii.TraceTriggerConfig{}); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, span := telemetry.Tracer().Start(t.Context(), "work")
		span.End()
		time.Sleep(time.Minute)
		if n := told.Load(); n < 1 || n > 2 {
			t.Errorf("told %d times of one trace", n)
		}
		if err := telemetry.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
