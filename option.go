package iii

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/iii-go/iii/internal/wsconn"
)

// DefaultURL is the engine's address when neither [New] nor $III_URL names one.
const DefaultURL = "ws://127.0.0.1:49134"

// Option configures a [Client]. [New] validates its options.
type Option interface{ applyClient(*config) error }

// DialOption configures how a connection to the engine is made. It is an [Option] of a
// [Client] as well as a [ConnectionOption] of a telemetry connection.
type DialOption interface {
	Option
	ConnectionOption
}

type clientOption func(*config) error

func (o clientOption) applyClient(c *config) error { return o(c) }

type dialOption func(*dialConfig) error

func (o dialOption) applyClient(c *config) error               { return o(&c.dialConfig) }
func (o dialOption) applyConnection(c *connectionConfig) error { return o(&c.dialConfig) }

// dialConfig holds the settings of dial options.
type dialConfig struct {
	wsconn.Dialer
	reconnection ReconnectionConfig
}

// newDialConfig returns the defaults for the engine's socket at u.
func newDialConfig(u *url.URL, readLimit int64) dialConfig {
	reconnection, _ := checkReconnection(ReconnectionConfig{})
	return dialConfig{wsconn.Dialer{URL: u, ReadLimit: readLimit}, reconnection}
}

// applyOptions applies opts to target in order. apply is callOption for options that are
// functions.
func applyOptions[T, O any](target *T, opts []O, apply func(O, *T) error) error {
	for _, opt := range opts {
		err := errNilOption
		if any(opt) != nil { // a nil interface is nil
			err = apply(opt, target)
		}
		if err == errNilOption {
			return fmt.Errorf("nil %s", reflect.TypeFor[O]().Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errNilOption = errors.New("nil option")

func callOption[T any, O ~func(*T) error](opt O, target *T) error {
	if opt == nil {
		return errNilOption
	}
	return opt(target)
}

// config holds the settings of New's options. It does not change afterwards.
type config struct {
	dialConfig
	name        string
	description string
	namespace   string
	isolation   string

	drainTimeout   time.Duration
	callTimeout    time.Duration
	callRetry      *RetryPolicy // nil: no retries
	httpErrors     func(ctx context.Context, err error) *HTTPError
	maxConcurrency int
	stackTraces    bool
	waitForName    bool
	bufferMessages int
	bufferBytes    int
	sendPolicy     SendPolicy
	pingInterval   time.Duration
	idleTimeout    time.Duration

	streamHeartbeat  time.Duration
	httpWriteTimeout time.Duration

	logger    *slog.Logger
	loggerSet bool
	telemetry *Telemetry

	tracePayloads bool // also to the program's own providers

	json JSONCodec // nil: encoding/json

	middleware []Middleware
	listener   func(ConnectionState, error)

	observerHooks ObserverHooks
}

// discard is a logger that discards all records.
var discard = slog.New(slog.DiscardHandler)

func newConfig(address string, opts []Option) (*config, error) {
	cfg := &config{
		namespace:      strings.TrimSpace(os.Getenv("III_NAMESPACE")),
		isolation:      strings.TrimSpace(os.Getenv("III_ISOLATION")),
		drainTimeout:   30 * time.Second,
		callTimeout:    30 * time.Second,
		maxConcurrency: 1000,
		bufferMessages: 32_768,
		bufferBytes:    8 << 20,
		pingInterval:   20 * time.Second,
		idleTimeout:    60 * time.Second,

		streamHeartbeat:  5 * time.Second,
		httpWriteTimeout: 30 * time.Second,

		logger: discard,
	}
	u, err := engineURL(address)
	if err != nil {
		return nil, public(err)
	}
	cfg.dialConfig = newDialConfig(u, 64<<20)
	if err := applyOptions(cfg, opts, Option.applyClient); err != nil {
		return nil, public(err)
	}
	if cfg.Token, err = engineToken(); err != nil {
		return nil, public(err)
	}
	return cfg, nil
}

// engineToken returns the token for the engine in the environment, or "".
func engineToken() (string, error) {
	token := strings.TrimSpace(os.Getenv("III_TOKEN"))
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("$III_TOKEN contains a character that is not printable ASCII")
	}
	return token, nil
}

// exposesToken reports whether anyone on the way to the engine can read the token.
func (d *dialConfig) exposesToken() bool {
	return d.Token != "" && d.URL.Scheme == "ws" && !isLoopback(d.URL.Hostname()) && d.URL.User == nil && d.Header.Get("Authorization") == ""
}

// engineURL returns the URL in address or, if that is empty, in the environment, or else
// the default.
func engineURL(address string) (*url.URL, error) {
	if address != "" {
		return parseEngineURL(address)
	}
	u, err := parseEngineURL(cmp.Or(strings.TrimSpace(os.Getenv("III_URL")), DefaultURL))
	if err != nil {
		return nil, fmt.Errorf("$III_URL: %w", err)
	}
	return u, nil
}

var errNoScheme = errors.New("engine address needs the scheme ws, wss, http or https, as in " + DefaultURL)

// parseEngineURL accepts the schemes ws and wss and their http equivalents. Its errors do
// not contain the address, because userinfo or query may hold a secret.
func parseEngineURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil && !strings.Contains(address, "://") { // the parser's error for 127.0.0.1:49134 does not help
		return nil, errNoScheme
	}
	if err != nil { // err quotes the address
		return nil, errors.New("engine address is not a valid URL, such as " + DefaultURL)
	}
	switch strings.ToLower(u.Scheme) {
	case "ws", "http":
		u.Scheme = "ws"
	case "wss", "https":
		u.Scheme = "wss"
	default:
		return nil, errNoScheme
	}
	if u.Hostname() == "" {
		return nil, errors.New("engine address has no host")
	}
	if port := u.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, errors.New("engine address has a port beyond 65535")
		}
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// WithName sets the worker's name, which must be unique within a namespace. Default:
// $III_WORKER_NAME, or "hostname:pid" if that is unset; additional clients of the same process get the
// suffix ":2", ":3" and so on. The engine removes control characters and truncates the name
// to 280 characters. A blank name is an error.
func WithName(name string) Option {
	return clientOption(func(c *config) error {
		if strings.TrimSpace(name) == "" {
			return errors.New("WithName: blank name")
		}
		c.name = name
		return nil
	})
}

// WithWaitForName makes a worker wait while another live worker has its name in its
// namespace, as the old instance does during a rolling update. The client tries again after
// 250 ms, then less often, but at least every 2 s, until the name is free. Meanwhile its
// state is reconnecting; the state listener receives the *[RejectedError] once, and the
// attempts do not count towards MaxRetries. Any other failure is handled as usual. By
// default the client ends with the *[RejectedError].
func WithWaitForName() Option {
	return clientOption(func(cfg *config) error { cfg.waitForName = true; return nil })
}

// WithDescription sets the description of this worker in listings. Default: none.
func WithDescription(text string) Option {
	return clientOption(func(c *config) error { c.description = text; return nil })
}

// WithNamespace sets the namespace of this worker's functions, which is also the default
// for its calls and triggers. Default: $III_NAMESPACE, or none, which means "default". A
// blank namespace is an error; a blank variable counts as unset.
func WithNamespace(ns string) Option {
	return clientOption(func(c *config) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("WithNamespace: blank namespace")
		}
		c.namespace = ns
		return nil
	})
}

// WithHeader adds headers to each WebSocket upgrade of a client, including those of its
// channels, or of a telemetry connection. It rejects the headers of the upgrade itself, except
// Host. Repeated use adds headers. Default: none. Header values appear neither in errors nor
// in the log.
func WithHeader(h http.Header) DialOption { return headerOption("WithHeader", h) }

func headerOption(name string, h http.Header) DialOption {
	return dialOption(func(d *dialConfig) error { return wrapOption(name, d.AddHeader(h)) })
}

// WithTLSConfig sets the TLS configuration for wss addresses, including those of channels.
// Default: the crypto/tls defaults. The configuration is copied, so it may be shared with
// net/http, and later changes have no effect. NextProtos is ignored, because only http/1.1
// is offered. To rotate certificates, use a callback such as GetClientCertificate.
func WithTLSConfig(cfg *tls.Config) DialOption {
	return dialOption(func(d *dialConfig) error { d.TLS = cfg.Clone(); return nil })
}

// WithReconnection sets the delays between attempts to connect. By default, the delay starts
// at 1 s, doubles with each further attempt up to 30 s, and varies by ±30 %, and the number of
// attempts is unlimited. The zero value of cfg selects all these defaults. In any other cfg,
// delays and a multiplier that are zero take their defaults, but a JitterFactor of 0 means no
// jitter. MaxRetries counts consecutive failures to connect; nil means no limit. Invalid
// values are an error. The delays start over once a connection has been successful: for a
// client, when it is ready; for a telemetry connection, when it has lasted for the initial
// delay. MaxPendingMessages limits the frames that a telemetry connection keeps while it is
// not connected; 0 means no such limit. It has no effect on a client: see [WithSendBuffer].
func WithReconnection(cfg ReconnectionConfig) DialOption {
	return reconnectionOption("WithReconnection", cfg)
}

func reconnectionOption(name string, cfg ReconnectionConfig) DialOption {
	return dialOption(func(d *dialConfig) (err error) {
		d.reconnection, err = checkReconnection(cfg)
		return wrapOption(name, err)
	})
}

// checkReconnection validates cfg and fills in the defaults. MaxPendingMessages has no
// default.
func checkReconnection(cfg ReconnectionConfig) (ReconnectionConfig, error) {
	def := DefaultReconnectionConfig()
	if cfg == (ReconnectionConfig{}) {
		def.MaxPendingMessages = 0
		return def, nil
	}
	if cfg.InitialDelayMs == 0 {
		cfg.InitialDelayMs = def.InitialDelayMs
	}
	if cfg.MaxDelayMs == 0 {
		cfg.MaxDelayMs = max(def.MaxDelayMs, cfg.InitialDelayMs)
	}
	if cfg.BackoffMultiplier == 0 {
		cfg.BackoffMultiplier = def.BackoffMultiplier
	}
	const longest = uint64(math.MaxInt64 / int64(time.Millisecond) / 4)
	switch {
	case cfg.InitialDelayMs > longest || cfg.MaxDelayMs > longest:
		return cfg, errors.New("delay is too large")
	case cfg.MaxDelayMs < cfg.InitialDelayMs:
		return cfg, fmt.Errorf("max_delay_ms %d is below initial_delay_ms %d", cfg.MaxDelayMs, cfg.InitialDelayMs)
	case !(cfg.BackoffMultiplier >= 1) || math.IsInf(cfg.BackoffMultiplier, 0):
		return cfg, fmt.Errorf("backoff_multiplier %v is not 1 or more", cfg.BackoffMultiplier)
	case !(cfg.JitterFactor >= 0 && cfg.JitterFactor <= 1):
		return cfg, fmt.Errorf("jitter_factor %v is not within 0 and 1", cfg.JitterFactor)
	}
	return cfg, nil
}

// redial returns the loop that maintains a connection; the caller sets its callbacks.
func (d *dialConfig) redial() wsconn.Redial {
	r := d.reconnection
	return wsconn.Redial{
		Backoff: wsconn.Backoff{
			Initial:    milliseconds(r.InitialDelayMs),
			Max:        milliseconds(r.MaxDelayMs),
			Multiplier: r.BackoffMultiplier,
			Jitter:     r.JitterFactor,
		},
		MaxRetries: r.MaxRetries,
	}
}

// WithDialContext sets the function that opens network connections, for example to an
// in-memory pipe or a Unix socket. f must be safe for concurrent use; nil is an error.
// Default: a net.Dialer that honours the proxy environment variables.
func WithDialContext(f func(ctx context.Context, network, addr string) (net.Conn, error)) DialOption {
	return dialContextOption("WithDialContext", f)
}

func dialContextOption(name string, f func(ctx context.Context, network, addr string) (net.Conn, error)) DialOption {
	return dialOption(func(d *dialConfig) error {
		if f == nil {
			return fmt.Errorf("%s: nil function", name)
		}
		d.DialContext = f
		return nil
	})
}

// WithDrainTimeout limits the duration of the drain during the graceful shutdown of
// [Client.Run]. d must be positive. Default 30 s. The duration of [Client.Shutdown] is limited
// only by its context.
func WithDrainTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithDrainTimeout: %v is not positive", d)
		}
		c.drainTimeout = d
		return nil
	})
}

// WithCallTimeout sets the timeout of calls that have no timeout of their own ([WithTimeout]).
// d must be positive. Default 30 s.
func WithCallTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithCallTimeout: %v is not positive", d)
		}
		c.callTimeout = d
		return nil
	})
}

// WithMaxConcurrency limits the number of handlers that run concurrently. Default 1000; 0
// means no limit; a negative value is an error. Further invocations wait in a queue of up
// to 10,000 messages and 64 MiB; if the queue is full, they fail with code overloaded.
func WithMaxConcurrency(n int) Option {
	return clientOption(func(c *config) error {
		if n < 0 {
			return fmt.Errorf("WithMaxConcurrency: %d is negative", n)
		}
		c.maxConcurrency = n
		return nil
	})
}

// WithStackTraces also sends the value and the stack of a handler's panic to the caller. By
// default they only go to the log, because they reveal internals of the program.
func WithStackTraces() Option {
	return clientOption(func(c *config) error { c.stackTraces = true; return nil })
}

// WithSendBuffer limits the requests that may wait while the client is not connected.
// Default 32,768 messages and 8 MiB. [WithSendPolicy] decides what happens to requests
// beyond the limits; by default they fail with [ErrBufferFull]. While the client is
// connected, requests beyond the limits wait until the engine has read earlier ones
// (backpressure).
func WithSendBuffer(messages, bytes int) Option {
	return clientOption(func(c *config) error {
		if messages < 0 || bytes < 0 {
			return fmt.Errorf("WithSendBuffer: %d messages, %d bytes: negative", messages, bytes)
		}
		c.bufferMessages, c.bufferBytes = messages, bytes
		return nil
	})
}

// SendPolicy decides what happens to a request that does not fit into the send buffer while
// the client is not connected.
type SendPolicy int

const (
	// SendFail makes the request fail with [ErrBufferFull]. It is the default.
	SendFail SendPolicy = iota

	// SendWait makes the request wait for room until its context ends. A call also ends at its
	// timeout, but a [Client.Send] only at an explicit timeout ([WithTimeout]). A request that
	// can never fit fails with [ErrBufferFull].
	SendWait
)

// WithSendPolicy sets the policy for requests beyond the limits of [WithSendBuffer] while
// the client is not connected. Default [SendFail]. An unknown policy is an error.
func WithSendPolicy(p SendPolicy) Option {
	return clientOption(func(c *config) error {
		if p != SendFail && p != SendWait {
			return fmt.Errorf("WithSendPolicy: unknown policy %d", p)
		}
		c.sendPolicy = p
		return nil
	})
}

// WithReadLimit limits the size of a received message. Default 64 MiB, the engine's own
// limit; a larger message ends the connection.
func WithReadLimit(bytes int64) Option {
	return clientOption(func(c *config) error {
		if bytes <= 0 {
			return fmt.Errorf("WithReadLimit: %d is not positive", bytes)
		}
		c.ReadLimit = bytes
		return nil
	})
}

// WithKeepalive sets the interval at which the client pings the engine, and the time
// without any received frame after which the connection counts as dead. Default 20 s and 60
// s.
func WithKeepalive(ping, idle time.Duration) Option {
	return clientOption(func(c *config) error {
		if ping <= 0 || idle <= ping {
			return fmt.Errorf("WithKeepalive: ping %v must be positive and below idle %v", ping, idle)
		}
		c.pingInterval, c.idleTimeout = ping, idle
		return nil
	})
}

// WithStreamHeartbeat sets how often an idle streamed response of [Client.MountHTTP] is probed
// to detect that its client has left. Default 5 s; 0 disables probes; [New] rejects a negative
// value.
//
// A response is idle when its handler has written nothing for that long. The engine does
// not report that a client has left until the next frame of the response, so the worker
// sends a frame that the engine ignores and the client does not see. The context of the
// request ends soon after: with the default interval, within 15 s of the client leaving.
// Responses that have not been flushed and fit in 64 KiB are not probed. Without probes, a
// handler that writes nothing does not notice that its client has left.
func WithStreamHeartbeat(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d < 0 {
			return fmt.Errorf("WithStreamHeartbeat: %v is negative", d)
		}
		c.streamHeartbeat = d
		return nil
	})
}

// WithHTTPWriteTimeout limits the time for which a write of a streamed response of
// [Client.MountHTTP] may make no progress because the client does not read. Default 30 s; 0
// means no limit; [New] rejects a negative value.
//
// A write that exceeds the limit fails with os.ErrDeadlineExceeded and ends the response
// and the context of the request; so does a probe ([WithStreamHeartbeat]). The response as
// a whole may take any time, as long as the client reads. Progress becomes visible in steps
// of up to half a MiB, the amount that the sockets in between buffer, so allow a client
// enough time to read that much. A handler can replace the limit for its response with
// SetWriteDeadline of [http.ResponseController]; the zero time then means no limit.
func WithHTTPWriteTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d < 0 {
			return fmt.Errorf("WithHTTPWriteTimeout: %v is negative", d)
		}
		c.httpWriteTimeout = d
		return nil
	})
}

// WithLogger sets the logger of the client. With nil, or a logger that discards its
// records, the client logs nothing. The connection of its telemetry uses the same logger; see
// [WithTelemetry]. By default the client logs nothing either, with one exception: the first
// failure of a client's first connection is logged once, as a warning, to slog.Default.
func WithLogger(l *slog.Logger) Option {
	return clientOption(func(c *config) error {
		if l == nil {
			l = discard
		}
		c.logger, c.loggerSet = l, true
		return nil
	})
}

// WithMiddleware wraps every handler of this client; the first middleware is the outermost.
// Repeated use adds middleware inside the earlier middleware. Default: none.
func WithMiddleware(mw ...Middleware) Option {
	return clientOption(func(c *config) error {
		for i, m := range mw {
			if m == nil {
				return fmt.Errorf("WithMiddleware: argument %d is nil", i)
			}
		}
		c.middleware = append(c.middleware, mw...)
		return nil
	})
}

// JSONCodec encodes and decodes values of users; see [WithJSON]. Its methods are called
// concurrently. They must understand struct tags and json.RawMessage as encoding/json does, as
// far as the program uses them.
type JSONCodec interface {
	// Marshal returns v as one JSON value in UTF-8. The result is copied.
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes data, a valid JSON value, into the value that v points to. Neither
	// that value nor the codec may retain data, which is reused.
	Unmarshal(data []byte, v any) error
}

// WithJSON sets the JSON library that encodes and decodes the program's values: the payloads
// and results of calls and of functions, the values of [State] and [Stream], and published
// messages. A json.RawMessage bypasses it. The types of this package, including the requests
// and responses of HTTP routes with their bodies, and metadata and schemas always use
// encoding/json; the schemas of functions describe the JSON that encoding/json reads and
// writes. The output of the codec is validated: text that is not JSON, or that the engine
// cannot parse, makes the call or the function fail, and so does a panic of the codec.
// Default: encoding/json. [New] rejects a nil codec.
func WithJSON(codec JSONCodec) Option {
	return clientOption(func(c *config) error {
		if codec == nil {
			return errors.New("WithJSON: the codec is nil")
		}
		c.json = codec
		return nil
	})
}

// WithStateListener sets a function that receives each change of the connection state and
// its cause: the error that ended a connection or the client (nil for an orderly end), a
// function that the engine rejected ([*RejectedError]), or messages with an unknown outcome
// ([*LostSendsError]). Calls are sequential and in order, from one goroutine that holds no
// lock.
func WithStateListener(f func(ConnectionState, error)) Option {
	return clientOption(func(c *config) error { c.listener = f; return nil })
}
