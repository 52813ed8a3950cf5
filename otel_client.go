package iii

import (
	"context"
	"errors"
	"net"
	"strings"
)

// WithTelemetry records this client's work: each invocation in a span of its
// caller's trace, with the payloads that came and went unless
// $III_DISABLE_TRACE_PAYLOADS is set, and the process's figures as gauges under
// the id that the engine gives to the worker. Calls carry the trace context of
// their ctx with and without this. The span of a function that this client has bound
// to a trace trigger says so by the attribute function_id, so that the engine does not
// tell the function of itself, for ever; spans begun in it are told of.
//
// [Client.Shutdown] flushes t and does not shut it down: several clients may share it.
// Default, and nil: none.
func WithTelemetry(t *Telemetry) Option {
	return func(c *config) error {
		if t != nil && t.cfg == nil {
			return errors.New("iii: WithTelemetry: not made by StartTelemetry")
		}
		c.telemetry = t
		return nil
	}
}

// startTelemetry prepares what New can.
func (c *Client) startTelemetry() {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return
	}
	c.tracing = newTracing(t.tracers)
	worker, telemetry := c.cfg.url.Hostname(), t.conn.cfg.url.Hostname()
	if !sameHost(worker, telemetry) {
		c.log.Warn("iii: telemetry goes to another host than the worker", "worker", worker, "telemetry", telemetry)
	}
}

// sameHost compares host names; all names of the own machine are one.
func sameHost(a, b string) bool {
	return strings.EqualFold(a, b) || isLoopback(a) && isLoopback(b)
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// flushTelemetry is bounded by the telemetry's own limit, too: a worker that
// drains must not wait all its time for an engine that is away.
func (c *Client) flushTelemetry(ctx context.Context) error {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.shutdownTimeout)
	defer cancel()
	return t.Flush(ctx)
}

// startGauges reports this worker's process under the id that the engine gave to
// its present connection, until stop is called.
func (c *Client) startGauges() (stop func()) {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled || !t.cfg.metrics {
		return func() {}
	}
	h, err := registerGauges(t.Meter(), &c.name, c.WorkerID)
	if err != nil {
		c.log.Warn("iii: the worker's figures are not reported", "error", err)
		return func() {}
	}
	return func() {
		if err := h.Stop(); err != nil {
			c.log.Warn("iii: the worker's figures are still reported", "error", err)
		}
	}
}
