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

// Option configures an engine. New validates the options.
type Option func(*config) error

// config holds the values of the options.
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
	console        string // "": none
	consoleExposed bool   // its address may be any
	consoleBytes   int
	streamAuth     string
	bridge         func() (*iii.Client, error)                                       // nil: none
	guard          *guard                                                            // nil: no second listener
	dial           func(ctx context.Context, network, addr string) (net.Conn, error) // to functions invoked over HTTP; nil: the network
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

// WithNamespaceGrace sets how long a connection that does not call
// engine::workers::register waits before it is placed in the namespace "default". The
// default is 5 seconds, as in the engine (registration_namespace_grace_ms).
func WithNamespaceGrace(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithNamespaceGrace: duration must be positive")
		}
		c.grace = d
		return nil
	}
}

// WithHTTPTimeout sets the time limit for a request to the HTTP triggers. When it
// expires, the response is 504, even if the function still runs. The default is 30
// seconds, as in the engine (default_timeout).
func WithHTTPTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithHTTPTimeout: duration must be positive")
		}
		c.httpTimeout = d
		return nil
	}
}

// WithHTTPMiddleware names functions of the namespace default that process every
// request to the HTTP triggers, one after the other, before the condition and the
// middleware functions of the route. This is the middleware of the engine's HTTP
// server, in the order of its priorities. Each function receives the same input as a
// middleware function of a route and may answer in place of the route. Later calls add
// to earlier ones. The default is none.
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

// WithQueue adds a named queue for jobs, or reconfigures the queue "default", which
// always exists. The engine rejects jobs for a queue that does not exist. A repeated
// name replaces the earlier configuration.
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

// WithQueueProvider sets whether engine::queue::enqueue exists from the start, so jobs
// can be put into the queues of WithQueue. The default is true. A real engine has no
// queue provider until a queue worker registers one; with false this engine has none
// either, and enqueueing fails with enqueue_error. Durable topics exist in both cases.
// A worker that registers engine::queue::enqueue replaces the built-in provider.
func WithQueueProvider(on bool) Option {
	return func(c *config) error {
		c.queueProvider = on
		return nil
	}
}

// WithAddrs sets the addresses of the three listeners: workers, HTTP triggers and
// streams. The default of each is 127.0.0.1:0, a free port of the loopback interface;
// an empty string selects the default. Inside a testing/synctest bubble there are no
// listeners, and the addresses are ignored.
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

// WithEnv sets the environment variables of the engine. References such as
// ${NAME:default} in the values of configuration::* and the *_key fields of functions
// invoked over HTTP read them. The engine copies the map; later calls replace it. The
// default is the environment of the process.
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

// WithFrameLimit bounds the list that Frames returns, in messages and in bytes. The oldest
// messages are dropped first; Stats counts them. The default is 100,000 messages and 64 MiB.
// With zero messages, Frames returns none.
func WithFrameLimit(messages, bytes int) Option {
	return func(c *config) error {
		if messages < 0 || bytes < 0 {
			return errors.New("iiitest: WithFrameLimit: negative limit")
		}
		c.frames, c.frameBytes = messages, bytes
		return nil
	}
}

// WithTelemetryLimit bounds the telemetry that the engine keeps. Both limits, items and
// bytes of JSON, apply separately to frames, finished spans, announced spans, log
// records and metrics. The oldest items are dropped first; Stats counts them. The
// limits also bound the results of engine::traces::* and engine::metrics::list. The
// byte limit bounds engine::logs::list, which returns at most 1,000 records, as in the
// engine. The default is 100,000 items and 64 MiB. With zero items, the engine keeps
// none.
func WithTelemetryLimit(items, bytes int) Option {
	return func(c *config) error {
		if items < 0 || bytes < 0 {
			return errors.New("iiitest: WithTelemetryLimit: negative limit")
		}
		c.telemetry, c.telemetryBytes = items, bytes
		return nil
	}
}

// WithLogger sets a logger for messages and registrations that the engine drops silently, for
// errors of triggered functions, and for events that reach no worker. By default, and with
// nil, the engine logs nothing.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) error {
		if l != nil {
			c.logger = l
		}
		return nil
	}
}
