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

// Option changes how an engine is built. Options are validated by New.
type Option func(*config) error

// config is what the options decide.
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
// engine::workers::register waits for its namespace; then it gets "default".
// The default is 5 seconds, the engine's own (registration_namespace_grace_ms).
func WithNamespaceGrace(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithNamespaceGrace: not positive")
		}
		c.grace = d
		return nil
	}
}

// WithHTTPTimeout sets after how long a request to the HTTP triggers is answered
// with 504, whatever its function is doing. The default is 30 seconds, the
// engine's own (default_timeout).
func WithHTTPTimeout(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return errors.New("iiitest: WithHTTPTimeout: not positive")
		}
		c.httpTimeout = d
		return nil
	}
}

// WithHTTPMiddleware names functions of namespace default that are asked about
// every request to the HTTP triggers, one after the other, before the condition
// and the middleware functions of its route: the middleware of the engine's HTTP
// server, in the order of its priorities. Each gets what those get, and may
// answer in place of the route. Later calls add to earlier ones; the default is
// none.
func WithHTTPMiddleware(functionIDs ...string) Option {
	own := slices.Clone(functionIDs)
	return func(c *config) error {
		if slices.Contains(own, "") {
			return errors.New("iiitest: WithHTTPMiddleware: empty id")
		}
		c.httpMiddleware = append(c.httpMiddleware, own...)
		return nil
	}
}

// WithQueue adds a named queue for jobs, or changes the one named "default",
// which always exists. Jobs for a queue that does not exist are refused. The same
// name again replaces.
func WithQueue(name string, q QueueConfig) Option {
	return func(c *config) error {
		if name == "" {
			return errors.New("iiitest: WithQueue: no name")
		}
		if err := q.check(); err != nil {
			return fmt.Errorf("iiitest: WithQueue: %s: %w", name, err)
		}
		c.queues[name] = q
		return nil
	}
}

// WithQueueProvider says whether engine::queue::enqueue exists from the start, so
// that jobs can be put into the queues of WithQueue. The default is true. The
// engine itself has none until a queue worker provides one; with false it is the
// same here, and enqueueing fails with enqueue_error. Durable topics exist either
// way. A worker that registers engine::queue::enqueue replaces this one.
func WithQueueProvider(on bool) Option {
	return func(c *config) error {
		c.queueProvider = on
		return nil
	}
}

// WithAddrs sets the addresses of the three listeners: workers, HTTP triggers
// and streams. The default of each is 127.0.0.1:0, a free port of the loopback
// interface; an empty string keeps the default. Inside a testing/synctest
// bubble nothing listens on the network and the addresses are ignored.
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

// WithEnv gives the engine an environment of its own: what references such as
// ${NAME:default} in values of configuration::* stand for, and what the *_key
// fields of functions invoked over HTTP name. It is copied; later calls replace
// it. The default is the environment of the process.
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

// WithFrameLimit bounds what Frames keeps, in messages and in bytes; the oldest
// are forgotten first and counted in Stats. The default is 100,000 messages and
// 64 MiB. Zero messages keeps none.
func WithFrameLimit(messages, bytes int) Option {
	return func(c *config) error {
		if messages < 0 || bytes < 0 {
			return errors.New("iiitest: WithFrameLimit: negative")
		}
		c.frames, c.frameBytes = messages, bytes
		return nil
	}
}

// WithTelemetryLimit bounds what is kept of the telemetry that arrives: of the
// frames, of the finished spans, of the announced ones, of the log records and
// of the metrics so many each, and so many bytes of JSON each. The oldest are
// forgotten first and counted in Stats. It bounds the answers of
// engine::traces::* and engine::metrics::list too, and with the bytes that of
// engine::logs::list, which has 1,000 records at most, as the engine's. The default is
// 100,000 and 64 MiB. Zero items keeps none.
func WithTelemetryLimit(items, bytes int) Option {
	return func(c *config) error {
		if items < 0 || bytes < 0 {
			return errors.New("iiitest: WithTelemetryLimit: negative")
		}
		c.telemetry, c.telemetryBytes = items, bytes
		return nil
	}
}

// WithLogger gives the engine a log for what it drops without telling anybody:
// undecodable messages, refused registrations, errors of triggered functions.
// Without it, or with nil, it is silent.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) error {
		if l != nil {
			c.logger = l
		}
		return nil
	}
}
