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

// DefaultURL is the engine's address if neither the argument of [New] nor $III_URL sets one.
const DefaultURL = "ws://127.0.0.1:49134"

// Option configures a [Client]. Invalid values are rejected by [New].
type Option interface{ applyClient(*config) error }

// DialOption configures how connections to the engine are made. It is both an [Option] for a
// [Client] and a [ConnectionOption] for a telemetry connection.
type DialOption interface {
	Option
	ConnectionOption
}

type clientOption func(*config) error

func (o clientOption) applyClient(c *config) error { return o(c) }

type dialOption func(*dialConfig) error

func (o dialOption) applyClient(c *config) error               { return o(&c.dialConfig) }
func (o dialOption) applyConnection(c *connectionConfig) error { return o(&c.dialConfig) }

// dialConfig holds the values set by dial options.
type dialConfig struct {
	wsconn.Dialer
	reconnection ReconnectionConfig
}

func newDialConfig(u *url.URL, readLimit int64) dialConfig {
	reconnection, _ := checkReconnection(ReconnectionConfig{})
	return dialConfig{wsconn.Dialer{URL: u, ReadLimit: readLimit}, reconnection}
}

// applyOptions applies opts to target in order. For options of a function type, apply is
// callOption.
func applyOptions[T, O any](target *T, opts []O, apply func(O, *T) error) error {
	for _, opt := range opts {
		err := errNilOption
		if any(opt) != nil { // a typed nil func is not nil here; callOption checks it
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

// config holds the values set by the options of [New]. It does not change after New returns.
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

	tracePayloads bool // for the program's own providers as well

	json JSONCodec // nil: encoding/json

	middleware []Middleware
	listener   func(ConnectionState, error)

	observerHooks ObserverHooks
}

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

// engineToken returns the token from $III_TOKEN, or "" if it is unset.
func engineToken() (string, error) {
	token := strings.TrimSpace(os.Getenv("III_TOKEN"))
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("$III_TOKEN contains a character that is not printable ASCII")
	}
	return token, nil
}

// exposesToken reports whether the token would cross a network unencrypted.
func (d *dialConfig) exposesToken() bool {
	return d.Token != "" && d.URL.Scheme == "ws" && !isLoopback(d.URL.Hostname()) && d.URL.User == nil && d.Header.Get("Authorization") == ""
}

// engineURL parses address, or $III_URL if address is empty. The default is [DefaultURL].
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

// parseEngineURL accepts ws, wss, http and https URLs. Its errors omit the address, because
// its userinfo or query may contain a secret.
func parseEngineURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil && !strings.Contains(address, "://") { // url.Parse's own error for 127.0.0.1:49134 is confusing
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

// WithName sets the worker's name. Names must be unique within a namespace. The default is
// $III_WORKER_NAME, or "hostname:pid" if that is unset. The default names of further clients
// in the same process get the suffix ":2", ":3" and so on. The engine removes control
// characters and truncates the name to 280 characters. A blank name is an error.
func WithName(name string) Option {
	return clientOption(func(c *config) error {
		if strings.TrimSpace(name) == "" {
			return errors.New("WithName: blank name")
		}
		c.name = name
		return nil
	})
}

// WithWaitForName makes a worker wait while another live worker in its namespace has the same
// name, as happens during a rolling update. The client first retries after 250 ms, then less
// often but at least every 2 s, until the name is free. While the client is waiting, its state
// is [ConnectionStateReconnecting], the state listener receives the *[RejectedError] once, and
// the attempts do not count toward MaxRetries. Other failures are handled as usual. Without
// this option, the client fails permanently with the *[RejectedError].
func WithWaitForName() Option {
	return clientOption(func(cfg *config) error { cfg.waitForName = true; return nil })
}

// WithDescription sets the worker's description, which is shown in listings. Default: none.
func WithDescription(text string) Option {
	return clientOption(func(c *config) error { c.description = text; return nil })
}

// WithNamespace sets the namespace of this worker's functions and the default namespace of its
// calls and triggers. The default is $III_NAMESPACE; if that is unset or blank, the engine
// uses "default". A blank namespace is an error.
func WithNamespace(ns string) Option {
	return clientOption(func(c *config) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("WithNamespace: blank namespace")
		}
		c.namespace = ns
		return nil
	})
}

// WithHeader adds headers to every WebSocket upgrade request: those of a client and its
// channels, or those of a telemetry connection. Headers that the upgrade itself sets, except
// Host, are rejected, as are invalid names and values with control characters. White space
// around a value is removed. Repeated use adds headers. Default: none. Header values never
// appear in errors or log messages.
func WithHeader(h http.Header) DialOption { return headerOption("WithHeader", h) }

func headerOption(name string, h http.Header) DialOption {
	return dialOption(func(d *dialConfig) error { return wrapOption(name, d.AddHeader(h)) })
}

// WithTLSConfig sets the TLS configuration for wss addresses, including channels. Without this
// option, the crypto/tls defaults apply. cfg is copied, so it can be shared with net/http, and
// later changes have no effect. NextProtos is ignored, because only http/1.1 is offered. To
// rotate certificates, use a callback such as GetClientCertificate.
func WithTLSConfig(cfg *tls.Config) DialOption {
	return dialOption(func(d *dialConfig) error { d.TLS = cfg.Clone(); return nil })
}

// WithReconnection sets the delays between attempts to connect. By default, the delay starts
// at 1 s, doubles on each attempt up to 30 s, and varies by ±30%; the number of attempts is
// unlimited. The zero value of cfg selects these defaults. In any other cfg, zero delays and a
// zero multiplier select their defaults, but a zero JitterFactor means no jitter. Invalid
// values are an error.
//
// MaxRetries limits consecutive failures to connect; nil means no limit. The delay returns to
// its initial value after a successful connection. A client's connection is successful once it
// is ready. A telemetry connection is successful once it has lasted for the initial delay.
//
// MaxPendingMessages limits the frames that a telemetry connection keeps while it is
// disconnected; 0 means no separate limit. It has no effect on a client; see [WithSendBuffer].
func WithReconnection(cfg ReconnectionConfig) DialOption {
	return reconnectionOption("WithReconnection", cfg)
}

func reconnectionOption(name string, cfg ReconnectionConfig) DialOption {
	return dialOption(func(d *dialConfig) (err error) {
		d.reconnection, err = checkReconnection(cfg)
		return wrapOption(name, err)
	})
}

// checkReconnection validates cfg and fills in defaults, except for MaxPendingMessages.
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

// redial returns the reconnection loop, whose callbacks the caller must set.
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
// in-memory pipe or a Unix socket. f must be safe for concurrent use; nil is an error. If f
// does not return within 1 s after its context is done, the client no longer waits for it, and
// closes the connection that f returns later. Default: a net.Dialer that honors the proxy
// environment variables.
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

// WithDrainTimeout limits how long [Client.Run] drains during a graceful shutdown. d must be
// positive. Default: 30 s. [Client.Shutdown] is limited only by its context.
func WithDrainTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithDrainTimeout: %v is not positive", d)
		}
		c.drainTimeout = d
		return nil
	})
}

// WithCallTimeout sets the timeout for calls that do not set [WithTimeout]. d must be
// positive. Default: 30 s.
func WithCallTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("WithCallTimeout: %v is not positive", d)
		}
		c.callTimeout = d
		return nil
	})
}

// WithMaxConcurrency limits the number of handlers that run concurrently. The default is 1000;
// 0 means no limit; a negative value is an error. Further invocations wait in a queue of up to
// 10,000 messages and 64 MiB. Once the queue is full, invocations fail with code overloaded.
// On engines before 0.25, if a handler calls a function of its own worker, that function's
// handler also counts toward the limit. If the limit is reached and all running handlers wait
// for such calls, these calls time out.
func WithMaxConcurrency(n int) Option {
	return clientOption(func(c *config) error {
		if n < 0 {
			return fmt.Errorf("WithMaxConcurrency: %d is negative", n)
		}
		c.maxConcurrency = n
		return nil
	})
}

// WithStackTraces sends the value and stack of a handler's panic to the caller. By default,
// they are only logged, because they reveal the program's internals.
func WithStackTraces() Option {
	return clientOption(func(c *config) error { c.stackTraces = true; return nil })
}

// WithSendBuffer limits the requests that wait while the client is disconnected. The default
// is 32,768 messages and 8 MiB. [WithSendPolicy] determines how further requests are handled;
// by default, they fail with [ErrBufferFull]. If either limit is 0, no request waits; [New]
// rejects negative limits. While the client is connected, further requests block until the
// engine has read earlier ones (backpressure).
func WithSendBuffer(messages, bytes int) Option {
	return clientOption(func(c *config) error {
		if messages < 0 || bytes < 0 {
			return fmt.Errorf("WithSendBuffer: %d messages, %d bytes: negative", messages, bytes)
		}
		c.bufferMessages, c.bufferBytes = messages, bytes
		return nil
	})
}

// SendPolicy determines what happens to requests that do not fit into the send buffer while
// the client is disconnected.
type SendPolicy int

const (
	// SendFail makes the request fail with [ErrBufferFull]. This is the default.
	SendFail SendPolicy = iota

	// SendWait makes the request wait for room until its context is done. A call also stops
	// waiting when its timeout expires. A [Client.Send] has a timeout only if [WithTimeout]
	// sets one. A request that can never fit fails with [ErrBufferFull].
	SendWait
)

// WithSendPolicy sets the policy for requests that exceed the limits of [WithSendBuffer] while
// the client is disconnected. Default: [SendFail]. An unknown policy is an error.
func WithSendPolicy(p SendPolicy) Option {
	return clientOption(func(c *config) error {
		if p != SendFail && p != SendWait {
			return fmt.Errorf("WithSendPolicy: unknown policy %d", p)
		}
		c.sendPolicy = p
		return nil
	})
}

// WithReadLimit limits the size of a received message, in bytes. If a larger message arrives,
// the client drops the connection. The limit must be positive. Default: 64 MiB, the same as
// the engine's limit.
func WithReadLimit(bytes int64) Option {
	return clientOption(func(c *config) error {
		if bytes <= 0 {
			return fmt.Errorf("WithReadLimit: %d is not positive", bytes)
		}
		c.ReadLimit = bytes
		return nil
	})
}

// WithKeepalive sets the interval at which the client pings the engine, and how long the
// client waits for a frame before it considers the connection dead. The defaults are 20 s and
// 60 s. The interval must be positive and shorter than the wait.
func WithKeepalive(ping, idle time.Duration) Option {
	return clientOption(func(c *config) error {
		if ping <= 0 || idle <= ping {
			return fmt.Errorf("WithKeepalive: ping %v must be positive and below idle %v", ping, idle)
		}
		c.pingInterval, c.idleTimeout = ping, idle
		return nil
	})
}

// WithStreamHeartbeat sets how often the worker probes an idle streamed response of
// [Client.MountHTTP] to detect that the HTTP client has disconnected. Default: 5 s. Zero
// disables probes; [New] rejects a negative value.
//
// A response is idle if its handler has written nothing for the duration d. The engine does
// not report that the HTTP client has disconnected until it receives the response's next
// frame. A probe is a frame that the engine ignores and does not forward. With the default
// interval, the request's context is canceled within 15 s of the disconnect. Responses that
// have not been flushed and fit in 64 KiB are not probed. Without probes, a handler that
// writes nothing is not notified of a disconnect.
func WithStreamHeartbeat(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d < 0 {
			return fmt.Errorf("WithStreamHeartbeat: %v is negative", d)
		}
		c.streamHeartbeat = d
		return nil
	})
}

// WithHTTPWriteTimeout limits how long a write to a streamed response of [Client.MountHTTP]
// may stall because the HTTP client is not reading. Default: 30 s. Zero means no limit; [New]
// rejects a negative value.
//
// A write that exceeds the limit fails with os.ErrDeadlineExceeded, which ends the response
// and cancels the request's context. The limit also applies to probes ([WithStreamHeartbeat]).
// There is no limit on the whole response while the HTTP client keeps reading. Progress is
// measured in steps of up to 512 KiB, the amount that intermediate sockets buffer, so choose a
// limit within which a slow client can read that much. A handler can override the limit for
// its response with [http.ResponseController.SetWriteDeadline]; the zero time then means no
// limit.
func WithHTTPWriteTimeout(d time.Duration) Option {
	return clientOption(func(c *config) error {
		if d < 0 {
			return fmt.Errorf("WithHTTPWriteTimeout: %v is negative", d)
		}
		c.httpWriteTimeout = d
		return nil
	})
}

// WithLogger sets the client's logger. With nil, or a logger that discards its records, the
// client logs nothing. The client's telemetry connection uses the same logger; see
// [WithTelemetry]. By default, the client logs nothing, with two exceptions: it logs one
// warning to slog.Default if its first attempt to connect fails, and another if $III_TOKEN is
// sent unencrypted.
func WithLogger(l *slog.Logger) Option {
	return clientOption(func(c *config) error {
		if l == nil {
			l = discard
		}
		c.logger, c.loggerSet = l, true
		return nil
	})
}

// WithMiddleware wraps every handler of this client. The first middleware is the outermost. If
// the option is used more than once, later middleware runs inside earlier middleware. Default:
// none.
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

// JSONCodec encodes and decodes the program's values; see [WithJSON]. Its methods are called
// concurrently. They must support struct tags and json.RawMessage as encoding/json does, to
// the extent that the program uses them.
type JSONCodec interface {
	// Marshal returns v as one JSON value in UTF-8. The caller copies the result.
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes data, a valid JSON value, into the value that v points to. The codec
	// and the decoded value must not retain data, because its memory is reused.
	Unmarshal(data []byte, v any) error
}

// WithJSON sets the JSON library for the program's values: the payloads and results of calls
// and functions, the values of [State] and [Stream], and published messages. A json.RawMessage
// bypasses it. This package's types, including [HTTPRequest] and [HTTPResponse] with their
// bodies, are always encoded and decoded with encoding/json, as are metadata and schemas. A
// function's inferred schemas describe the JSON that encoding/json reads and writes,
// regardless of the codec.
//
// The codec's output is validated. A call or function fails if the codec panics or returns
// invalid JSON or JSON that the engine cannot parse. Default: encoding/json. [New] rejects a
// nil codec.
func WithJSON(codec JSONCodec) Option {
	return clientOption(func(c *config) error {
		if codec == nil {
			return errors.New("WithJSON: the codec is nil")
		}
		c.json = codec
		return nil
	})
}

// WithStateListener sets a function that receives each change of the connection state and its
// cause: the error that ended a connection or closed the client, or nil if there is none. The
// function is also called, with the current state and an error, when a function is rejected
// ([*RejectedError]), when this worker has taken over a function ([*TakeoverNotice]), when the
// outcome of messages is unknown ([*LostSendsError]), and when buffered messages cannot be
// sent to the connected engine. An error therefore does not imply that the state has changed
// or that something failed: a takeover is reported with [ConnectionStateConnected]. Calls are
// made in order from a single goroutine that holds no lock.
func WithStateListener(f func(ConnectionState, error)) Option {
	return clientOption(func(c *config) error { c.listener = f; return nil })
}
