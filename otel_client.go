package iii

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"
)

// WithTelemetry records the client's work. Each invocation gets a span in its caller's
// trace, with input and output payloads unless $III_DISABLE_TRACE_PAYLOADS is set.
// Process metrics are reported as gauges under the id that the engine assigns to the
// worker. The handlers have metrics by function, with the attribute iii.function.id:
//
//   - iii.worker.function.count: handled invocations
//   - iii.worker.function.errors: those of them that were answered with an error, or panicked
//   - iii.worker.function.duration: histogram of the time until the answer, in seconds
//   - iii.worker.function.in_flight: handlers that run
//   - iii.worker.function.queue_wait: histogram of the time that invocations waited because
//     of [WithMaxConcurrency], in seconds
//
// Invocations that are turned away (overloaded, draining) are in none of them. A handler that
// exceeds [WithHandlerTimeout] is an error, and in flight until it returns. Calls carry the trace context of their ctx with or without this option. Spans
// of a function that this client has bound to a trace trigger carry the attribute
// function_id, by which the engine avoids triggering the function with its own spans in
// an endless loop; spans started inside them do trigger it.
//
// [Client.Shutdown] flushes t but does not shut it down, because several clients can
// share it. Its connection logs through the logger of the first client that has one
// ([WithLogger]), unless it has its own ([WithConnectionLogger]) or that logger would write to
// the telemetry alone. The default, nil, records nothing.
func WithTelemetry(t *Telemetry) Option {
	return clientOption(func(c *config) error {
		if t != nil && t.cfg == nil {
			return errors.New("iii: WithTelemetry: the Telemetry was not created by StartTelemetry or TelemetryFromProviders")
		}
		c.telemetry = t
		return nil
	})
}

// WithTracePayloads makes spans that the providers of [TelemetryFromProviders] record carry the
// input and output of their invocations as events, as those for the engine do; see
// [WithTelemetry]. Secrets are removed as by [Redact]. By default only spans for the engine
// carry payloads.
func WithTracePayloads() Option {
	return clientOption(func(c *config) error { c.tracePayloads = true; return nil })
}

// startTelemetry performs the setup that New can do before there is a connection.
func (c *Client) startTelemetry() {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return
	}
	if t.cfg.traces {
		c.tracing = newTracing(t.tracers)
	}
	if t.cfg.metrics {
		var err error
		if c.metrics, err = newHandlerMetrics(t.Meter()); err != nil {
			c.log.Warn("iii: cannot measure the worker's handlers", "error", err)
		}
	}
	if t.conn == nil {
		c.tracing.forOwnProvider(c.cfg.tracePayloads)
		return
	}
	if c.cfg.loggerSet {
		t.conn.adoptLogger(c.log)
	}
	worker, telemetry := c.cfg.URL.Hostname(), t.conn.cfg.URL.Hostname()
	if !sameHost(worker, telemetry) {
		c.log.Warn("iii: telemetry and worker connect to different hosts", "worker", worker, "telemetry", telemetry)
	}
}

// sameHost compares host names and treats all names of the local machine as equal.
func sameHost(a, b string) bool {
	return strings.EqualFold(a, b) || isLoopback(a) && isLoopback(b)
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// telemetryAwayTimeout bounds the wait of a shutdown for a telemetry connection.
const telemetryAwayTimeout = 3 * time.Second

// flushTelemetry flushes the telemetry at the end of a drain, for at most its own limit, and
// for away while it is not connected: a draining worker must not spend all its time waiting
// for an engine that is unavailable. Whether the program's own providers are connected is
// not known: away limits them, too.
func (c *Client) flushTelemetry(ctx context.Context, away time.Duration) error {
	t := c.cfg.telemetry
	if t == nil || !t.cfg.enabled {
		return nil
	}
	if t.conn == nil {
		ctx, cancel := context.WithTimeout(ctx, away)
		defer cancel()
		return t.Flush(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.shutdownTimeout)
	defer cancel()
	ctx, stop := t.conn.untilAway(ctx, away)
	defer stop()
	return t.Flush(ctx)
}

// startGauges reports this worker's process metrics under the id that the engine
// assigned to its current connection, until stop is called.
func (c *Client) startGauges() (stop func()) {
	t := c.cfg.telemetry
	if t == nil || t.conn == nil || !t.cfg.metrics {
		return func() {}
	}
	h, err := registerGauges(t.Meter(), &c.name, c.WorkerID)
	if err != nil {
		c.log.Warn("iii: cannot report the worker's metrics", "error", err)
		return func() {}
	}
	return func() {
		if err := h.Stop(); err != nil {
			c.log.Warn("iii: cannot stop reporting the worker's metrics", "error", err)
		}
	}
}
