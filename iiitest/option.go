package iiitest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/console"
)

// Option configures an engine. New validates options.
type Option func(*config) error

type config struct {
	protocol       Protocol
	strict         bool
	localDispatch  bool
	grace          time.Duration
	httpTimeout    time.Duration
	httpMiddleware []string
	queueProvider  bool
	queues         map[string]QueueConfig
	listen         string
	http           string
	stream         string
	console        string // "" for none
	consoleExposed bool   // console may be any address
	consoleBytes   int
	streamAuth     string
	bridge         func() (*iii.Client, error)                                       // nil for none
	guard          *guard                                                            // nil for no second listener
	dial           func(ctx context.Context, network, addr string) (net.Conn, error) // for functions invoked over HTTP; nil for the network
	env            func(name string) (value string, set bool)
	frames         int
	frameBytes     int
	telemetry      int
	telemetryBytes int
	logger         *slog.Logger
}

func defaultConfig() config {
	return config{
		protocol:       Protocol026,
		localDispatch:  true,
		grace:          5 * time.Second,
		httpTimeout:    30 * time.Second,
		queueProvider:  true,
		queues:         map[string]QueueConfig{},
		listen:         "127.0.0.1:0",
		http:           "127.0.0.1:0",
		stream:         "127.0.0.1:0",
		env:            os.LookupEnv,
		frames:         100_000,
		frameBytes:     64 << 20,
		telemetry:      100_000,
		telemetryBytes: 64 << 20,
		consoleBytes:   console.DefaultLimit,
		logger:         slog.New(slog.DiscardHandler),
	}
}

// WithNamespaceGrace sets how long the engine waits for a connection to call
// engine::workers::register. After that, the engine places the connection in the namespace
// "default". The grace period must be positive. The default is 5 seconds, as in a real engine
// (registration_namespace_grace_ms).
func WithNamespaceGrace(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithNamespaceGrace: duration must be positive")
		}
		c.grace = d
		return nil
	}
}

// WithHTTPTimeout sets the time limit for a request to the HTTP triggers. When the limit
// expires, the engine responds with status 504, even if the function is still running. d must
// be positive. The default is 30 seconds, as in a real engine (default_timeout).
func WithHTTPTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithHTTPTimeout: duration must be positive")
		}
		c.httpTimeout = d
		return nil
	}
}

// WithHTTPMiddleware sets functions in the default namespace that process every request to the
// HTTP triggers. They run one after another, before the route's condition and middleware
// functions. In a real engine, such functions are configured as the HTTP server's middleware
// and ordered by priority. Each function receives the same input as a route's middleware
// function and may respond in place of the route. Repeated options append to the list. The
// default is none.
func WithHTTPMiddleware(functionIDs ...string) Option {
	own := slices.Clone(functionIDs)
	return func(c *config) error {
		if slices.Contains(own, "") {
			return errors.New("iiitest: WithHTTPMiddleware: function id is empty")
		}
		c.httpMiddleware = append(c.httpMiddleware, own...)
		return nil
	}
}

// WithQueue adds a named queue, or reconfigures the queue "default", which always exists. The
// engine rejects jobs for queues that do not exist. A repeated name replaces the earlier
// configuration.
func WithQueue(name string, q QueueConfig) Option {
	return func(c *config) error {
		if name == "" {
			return errors.New("iiitest: WithQueue: name is empty")
		}
		if err := q.check(); err != nil {
			return fmt.Errorf("iiitest: WithQueue: %s: %w", name, err)
		}
		c.queues[name] = q
		return nil
	}
}

// WithQueueProvider sets whether the engine provides engine::queue::enqueue, which adds jobs
// to the queues of WithQueue. The default is true. A real engine has no queue provider until a
// queue worker registers one. WithQueueProvider(false) simulates this: enqueueing fails with
// enqueue_error. Durable topics exist in either case. A worker that registers
// engine::queue::enqueue replaces the built-in provider.
func WithQueueProvider(on bool) Option {
	return func(c *config) error {
		c.queueProvider = on
		return nil
	}
}

// WithAddrs sets the addresses of the listeners for workers, HTTP triggers and streams. An
// empty address selects the default, 127.0.0.1:0, which is a free port on the loopback
// interface. Inside a testing/synctest bubble there are no listeners, and the addresses are
// ignored.
func WithAddrs(listen, http, stream string) Option {
	return func(c *config) error {
		for _, a := range []struct {
			addr string
			to   *string
		}{{listen, &c.listen}, {http, &c.http}, {stream, &c.stream}} {
			if a.addr == "" {
				continue
			}
			if _, _, err := net.SplitHostPort(a.addr); err != nil {
				return errors.New("iiitest: WithAddrs: " + err.Error())
			}
			*a.to = a.addr
		}
		return nil
	}
}

// WithEnv sets the engine's environment variables. Configuration values refer to them in the
// form ${NAME} or ${NAME:default}, and the *_key fields of functions invoked over HTTP contain
// the names of variables. The engine copies the map. A repeated option replaces the earlier
// map. The default is the process's environment.
func WithEnv(variables map[string]string) Option {
	own := maps.Clone(variables)
	return func(c *config) error {
		c.env = func(name string) (string, bool) {
			value, set := own[name]
			return value, set
		}
		return nil
	}
}

// WithFrameLimit limits the messages that Frames returns, by number and by total size in
// bytes. The oldest messages are dropped first, and Stats counts the dropped messages. The
// default is 100,000 messages and 64 MiB. If either limit is zero, Frames returns no messages.
func WithFrameLimit(messages, bytes int) Option {
	return func(c *config) error {
		if messages < 0 || bytes < 0 {
			return errors.New("iiitest: WithFrameLimit: negative limit")
		}
		c.frames, c.frameBytes = messages, bytes
		return nil
	}
}

// WithTelemetryLimit limits the telemetry that the engine keeps, by number of items and by
// bytes of JSON. Both limits apply separately to frames, finished spans, announced spans, log
// records and metrics. The oldest items are dropped first, and Stats counts the dropped items.
// Both limits also apply to the stores behind engine::traces::* and engine::metrics::list.
// Only the byte limit applies to the store behind engine::logs::list, which keeps at most
// 1,000 records, as in a real engine. The default is 100,000 items and 64 MiB. If either limit
// is zero, Telemetry, Traces, LiveSpans, Logs and Metrics return nothing.
func WithTelemetryLimit(items, bytes int) Option {
	return func(c *config) error {
		if items < 0 || bytes < 0 {
			return errors.New("iiitest: WithTelemetryLimit: negative limit")
		}
		c.telemetry, c.telemetryBytes = items, bytes
		return nil
	}
}

// WithLogger sets the logger to which the engine reports problems, such as messages and
// registrations that it drops without notifying the sender, errors returned by triggered
// functions, and events that reach no worker. By default, and if l is nil, nothing is logged.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) error {
		if l != nil {
			c.logger = l
		}
		return nil
	}
}
