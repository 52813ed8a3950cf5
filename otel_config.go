package iii

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

// telemetryConfig holds an [OtelConfig] with unset fields taken from the environment and the
// defaults.
type telemetryConfig struct {
	enabled, traces, metrics, logs, fetch, live bool // if enabled is false, all but fetch and live are false

	url             string
	name            string // name, version, namespace and instanceID may be ""
	version         string
	namespace       string
	instanceID      string
	queue           int
	reconnection    *ReconnectionConfig
	shutdownTimeout time.Duration
	metricsInterval time.Duration
	spansInterval   time.Duration
	logsInterval    time.Duration
	logsBatch       int

	warnings []error // for ignored variables
}

const defaultShutdownTimeout = 10 * time.Second

// resolve returns c's settings, with unset fields taken from the environment or set to their
// defaults. A variable with an invalid value is ignored.
func (c *OtelConfig) resolve() (*telemetryConfig, error) {
	r := &telemetryConfig{}
	r.enabled = r.flag(c.Enabled, "OTEL_ENABLED") && (c.Enabled != nil || !r.sdkDisabled())
	r.traces = r.enabled
	r.metrics = r.flag(c.MetricsEnabled, "OTEL_METRICS_ENABLED") && r.enabled
	r.logs = r.flag(c.LogsEnabled, "") && r.enabled
	r.fetch = r.flag(c.FetchInstrumentationEnabled, "")
	r.live = r.flag(c.LiveSpans, "OTEL_LIVE_SPANS")
	r.url = cmp.Or(textOf(c.EngineWSURL, "III_URL"), DefaultURL)
	r.name = textOf(c.ServiceName, "OTEL_SERVICE_NAME")
	r.version = textOf(c.ServiceVersion, "SERVICE_VERSION")
	r.namespace = textOf(c.ServiceNamespace, "SERVICE_NAMESPACE")
	r.instanceID = textOf(c.ServiceInstanceID, "SERVICE_INSTANCE_ID")
	r.reconnection = c.ReconnectionConfig
	r.shutdownTimeout = milliseconds(r.number(c.ShutdownTimeoutMs, "", 0, uint64(defaultShutdownTimeout/time.Millisecond)))
	r.metricsInterval = milliseconds(r.number(c.MetricsExportIntervalMs, "", 0, 60_000))
	r.spansInterval = milliseconds(r.number(c.SpansFlushIntervalMs, "OTEL_SPANS_FLUSH_INTERVAL_MS", 0, 100))
	r.logsInterval = milliseconds(r.number(c.LogsFlushIntervalMs, "OTEL_LOGS_FLUSH_INTERVAL_MS", 0, 100))
	r.logsBatch = int(min(max(r.number(c.LogsBatchSize, "OTEL_LOGS_BATCH_SIZE", 1, 1), 1), math.MaxInt32))
	r.queue = int(min(r.number(c.ChannelCapacity, "", 0, defaultTelemetryFrames), math.MaxInt32))
	switch {
	case r.queue == 0:
		return nil, errors.New("channel_capacity is 0")
	case r.metricsInterval == 0:
		return nil, errors.New("metrics_export_interval_ms is 0")
	}
	return r, nil
}

// textOf returns *field, or the value of the environment variable if *field is blank.
// Surrounding white space is removed.
func textOf(field *string, variable string) string {
	if field != nil {
		if value := strings.TrimSpace(*field); value != "" {
			return value
		}
	}
	return strings.TrimSpace(os.Getenv(variable))
}

// flag returns *field if it is set, and otherwise the value of the environment variable. The
// default is true.
func (r *telemetryConfig) flag(field *bool, variable string) bool {
	if field != nil {
		return *field
	}
	if variable == "" {
		return true
	}
	switch value := strings.ToLower(strings.TrimSpace(os.Getenv(variable))); value {
	case "", "true", "1", "yes", "on":
		return true
	case "false", "0", "no", "off":
		return false
	default:
		r.warn("$%s is not a boolean: ignored", variable)
		return true
	}
}

// sdkDisabled reports whether OTEL_SDK_DISABLED is true. Case is ignored. As the OpenTelemetry
// specification requires, any other value, such as yes, means false.
func (r *telemetryConfig) sdkDisabled() bool {
	switch value := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED"))); value {
	case "true":
		return true
	case "", "false":
	default:
		r.warn("$OTEL_SDK_DISABLED is neither true nor false: ignored")
	}
	return false
}

// number returns *field if it is set. Otherwise, it returns the environment variable's value
// if that is an integer of at least minimum, or else def.
func (r *telemetryConfig) number(field *uint64, variable string, minimum, def uint64) uint64 {
	if field != nil {
		return *field
	}
	value := ""
	if variable != "" {
		value = strings.TrimSpace(os.Getenv(variable))
	}
	if value == "" {
		return def
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < minimum {
		r.warn("$%s is not an integer of at least %d: ignored", variable, minimum)
		return def
	}
	return n
}

func (r *telemetryConfig) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Errorf("iii: "+format, args...))
}

func milliseconds(n uint64) time.Duration {
	return time.Duration(min(n, uint64(math.MaxInt64/int64(time.Millisecond)))) * time.Millisecond
}

// resource returns a resource that describes this process. Configured values override
// $OTEL_RESOURCE_ATTRIBUTES, which overrides generated values.
func (r *telemetryConfig) resource(ctx context.Context) *resource.Resource {
	env, err := resource.New(ctx, resource.WithFromEnv())
	if err != nil {
		r.warn("$OTEL_RESOURCE_ATTRIBUTES is malformed: only its readable part is used")
	}
	if env == nil {
		env = resource.Empty()
	}
	attrs := []attribute.KeyValue{
		attribute.String("telemetry.sdk.name", instrumentationName),
		attribute.String("telemetry.sdk.language", "go"),
		attribute.String("telemetry.sdk.version", Version),
	}
	for _, a := range []struct{ key, value, guess string }{
		{"service.name", r.name, programName()},
		{"service.version", r.version, "unknown"},
		{"service.namespace", r.namespace, ""},
		{"service.instance.id", r.instanceID, uuid.NewString()},
	} {
		value := a.value
		if value == "" {
			if v, ok := env.Set().Value(attribute.Key(a.key)); ok && v.String() != "" {
				continue
			}
			value = a.guess
		}
		if value != "" {
			attrs = append(attrs, attribute.String(a.key, value))
		}
	}
	merged, err := resource.Merge(env, resource.NewSchemaless(attrs...))
	if err != nil {
		r.warn("resource: %w", err)
	}
	return merged
}

func programName() string {
	if len(os.Args) > 0 {
		if name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"); os.Args[0] != "" && name != "." && name != "" {
			return name
		}
	}
	return instrumentationName
}

// ConnectionOption configures a [SharedEngineConnection]. Invalid values are rejected by
// [NewSharedEngineConnection] and [StartTelemetry].
type ConnectionOption interface {
	applyConnection(*connectionConfig) error
}

type connectionOption func(*connectionConfig) error

func (o connectionOption) applyConnection(c *connectionConfig) error { return o(c) }

// connectionConfig holds the values set by connection options. It does not change after the
// connection is created.
type connectionConfig struct {
	dialConfig
	maxFrames  int
	maxBytes   int
	maxOffline int          // frame limit while disconnected; 0 means no separate limit
	logger     *slog.Logger // if nil, the logger of the first client that has one
	listener   func(ConnectionState, error)
}

// Default limits for frames that wait for the engine, whether or not the connection is up.
const (
	defaultTelemetryFrames = 10_000
	defaultTelemetryBytes  = 64 << 20
)

func newConnectionConfig(address string, opts []ConnectionOption) (*connectionConfig, error) {
	u, err := telemetryURL(address)
	if err != nil {
		return nil, public(err)
	}
	cfg := &connectionConfig{
		dialConfig: newDialConfig(u, telemetryReadLimit),
		maxFrames:  defaultTelemetryFrames,
		maxBytes:   defaultTelemetryBytes,
	}
	if err := applyOptions(cfg, opts, ConnectionOption.applyConnection); err != nil {
		return nil, public(err)
	}
	// $III_TOKEN is meant for the engine to which workers connect. Telemetry may go to another
	// engine, so use the token only if both have the same host.
	if workers, err := engineURL(""); err == nil && sameHost(workers.Hostname(), u.Hostname()) {
		if cfg.Token, err = engineToken(); err != nil {
			return nil, public(err)
		}
	}
	cfg.maxOffline = int(min(cfg.reconnection.MaxPendingMessages, math.MaxInt32))
	return cfg, nil
}

// telemetryURL returns the address of the engine's telemetry socket. It appends /otel to the
// path unless the path already ends in it.
func telemetryURL(address string) (*url.URL, error) {
	u, err := engineURL(address)
	if err != nil {
		return nil, err
	}
	u.Path = telemetryPath(u.Path)
	if u.RawPath != "" {
		u.RawPath = telemetryPath(u.RawPath)
	}
	return u, nil
}

func telemetryPath(path string) string {
	path = strings.TrimRight(path, "/")
	if strings.HasSuffix(path, "/otel") {
		return path
	}
	return path + "/otel"
}

// WithConnectionHeader is [WithHeader] restricted to a telemetry connection. The engine
// authenticates telemetry and worker connections in the same way.
func WithConnectionHeader(h http.Header) ConnectionOption {
	return headerOption("WithConnectionHeader", h)
}

// withDefaultHeaders adds headers, except those that an earlier option has set.
func withDefaultHeaders(headers map[string]string) ConnectionOption {
	return dialOption(func(d *dialConfig) error {
		defaults := http.Header{}
		for _, name := range slices.Sorted(maps.Keys(headers)) {
			if len(d.Header.Values(name)) == 0 {
				defaults.Add(name, headers[name])
			}
		}
		return wrapOption("engine_ws_headers", d.AddHeader(defaults))
	})
}

// WithConnectionTLSConfig is [WithTLSConfig] restricted to a telemetry connection.
func WithConnectionTLSConfig(cfg *tls.Config) ConnectionOption { return WithTLSConfig(cfg) }

// WithConnectionDialContext is [WithDialContext] restricted to a telemetry connection.
func WithConnectionDialContext(f func(ctx context.Context, network, addr string) (net.Conn, error)) ConnectionOption {
	return dialContextOption("WithConnectionDialContext", f)
}

// WithConnectionReconnection is [WithReconnection] restricted to a telemetry connection.
func WithConnectionReconnection(cfg ReconnectionConfig) ConnectionOption {
	return reconnectionOption("WithConnectionReconnection", cfg)
}

// WithConnectionQueue limits the frames that wait for the engine, including those sent but not
// yet confirmed. Default: 10,000 frames and 64 MiB.
func WithConnectionQueue(frames, bytes int) ConnectionOption {
	return connectionOption(func(c *connectionConfig) error {
		if frames <= 0 || bytes <= 0 {
			return fmt.Errorf("WithConnectionQueue: %d frames, %d bytes: both must be positive", frames, bytes)
		}
		c.maxFrames, c.maxBytes = frames, bytes
		return nil
	})
}

// WithConnectionLogger sets the logger for lost, rejected and failed connections, and for
// dropped telemetry. Drops are logged at most once a minute. The default, nil, selects the
// logger of the first client that uses both this telemetry and [WithLogger]. Without such a
// client, only dropped telemetry, rejections and the final failure are reported; they go to
// OpenTelemetry's error handler (otel.Handle).
func WithConnectionLogger(l *slog.Logger) ConnectionOption {
	return connectionOption(func(c *connectionConfig) error { c.logger = l; return nil })
}

// WithConnectionStateListener sets a function that receives each change of the connection's
// state and its cause: the error that ended a connection or an attempt to connect, the error
// with which the connection has failed permanently, or nil if there is none. Calls are made in
// order from a single goroutine that holds no lock.
func WithConnectionStateListener(f func(ConnectionState, error)) ConnectionOption {
	return connectionOption(func(c *connectionConfig) error { c.listener = f; return nil })
}
