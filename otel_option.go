package iii

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ConnectionOption configures a [SharedEngineConnection]. Options are validated
// by [NewSharedEngineConnection] and [StartTelemetry].
type ConnectionOption func(*connectionConfig) error

// connectionConfig does not change once the connection is made.
type connectionConfig struct {
	dialer
	reconnection ReconnectionConfig
	maxFrames    int
	maxBytes     int
	maxAway      int // 0: no limit of its own
	logger       *slog.Logger
	listener     func(ConnectionState, error)
}

// Limits of what waits for the engine, connected or not.
const (
	defaultTelemetryFrames = 10_000
	defaultTelemetryBytes  = 64 << 20
)

func newConnectionConfig(address string, opts []ConnectionOption) (*connectionConfig, error) {
	cfg := &connectionConfig{
		dialer:       dialer{readLimit: telemetryReadLimit},
		reconnection: DefaultReconnectionConfig(),
		maxFrames:    defaultTelemetryFrames,
		maxBytes:     defaultTelemetryBytes,
	}
	var err error
	if cfg.url, err = telemetryURL(address); err != nil {
		return nil, err
	}
	for _, opt := range opts {
		if opt == nil {
			return nil, errors.New("iii: nil ConnectionOption")
		}
		if err := opt(cfg); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// telemetryURL is the address of the telemetry socket of the engine at address:
// the path /otel below it, unless it is there.
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

// WithConnectionHeader adds headers to every upgrade of the telemetry socket:
// the engine authenticates it as it does a worker. The headers of the upgrade
// itself (Host apart) are refused.
func WithConnectionHeader(h http.Header) ConnectionOption {
	return func(c *connectionConfig) error {
		return addUpgradeHeader(&c.header, h, "WithConnectionHeader")
	}
}

// WithConnectionTLSConfig sets the TLS configuration for wss addresses, as
// [WithTLSConfig] does for a client. Default: that of crypto/tls.
func WithConnectionTLSConfig(cfg *tls.Config) ConnectionOption {
	return func(c *connectionConfig) error { c.tls = cfg.Clone(); return nil }
}

// WithConnectionDialContext sets how connections are made: in-memory pipes, Unix
// sockets. Default: a net.Dialer that honours the proxy variables of the
// environment.
func WithConnectionDialContext(f func(ctx context.Context, network, addr string) (net.Conn, error)) ConnectionOption {
	return func(c *connectionConfig) error {
		if f == nil {
			return errors.New("iii: WithConnectionDialContext: nil function")
		}
		c.dialContext = f
		return nil
	}
}

// WithConnectionReconnection sets how the connection is restored. Default: that
// of [DefaultReconnectionConfig], but no limit of max_pending_messages. Delays
// and multiplier that are zero have their defaults, the zero value is the default
// as a whole, and values that make no sense are replaced by the nearest that do.
// MaxPendingMessages, if it is not zero, is the number of frames kept while there
// is no connection.
func WithConnectionReconnection(cfg ReconnectionConfig) ConnectionOption {
	return func(c *connectionConfig) error {
		def := DefaultReconnectionConfig()
		if cfg == (ReconnectionConfig{}) {
			cfg = def
			cfg.MaxPendingMessages = 0
		}
		const longest = uint64(math.MaxInt64 / int64(time.Millisecond) / 4)
		if cfg.InitialDelayMs == 0 {
			cfg.InitialDelayMs = def.InitialDelayMs
		}
		cfg.InitialDelayMs = min(cfg.InitialDelayMs, longest)
		if cfg.MaxDelayMs == 0 {
			cfg.MaxDelayMs = def.MaxDelayMs
		}
		cfg.MaxDelayMs = min(max(cfg.MaxDelayMs, cfg.InitialDelayMs), longest)
		if cfg.BackoffMultiplier == 0 {
			cfg.BackoffMultiplier = def.BackoffMultiplier
		}
		if !(cfg.BackoffMultiplier >= 1) { // NaN too
			cfg.BackoffMultiplier = 1
		}
		cfg.BackoffMultiplier = min(cfg.BackoffMultiplier, 1e9)
		if !(cfg.JitterFactor >= 0) {
			cfg.JitterFactor = 0
		}
		cfg.JitterFactor = min(cfg.JitterFactor, 1)
		c.reconnection = cfg
		c.maxAway = int(min(cfg.MaxPendingMessages, math.MaxInt32))
		return nil
	}
}

// WithConnectionQueue limits what waits for the engine, sent and unconfirmed
// frames included. Default 10,000 frames and 64 MiB.
func WithConnectionQueue(frames, bytes int) ConnectionOption {
	return func(c *connectionConfig) error {
		if frames <= 0 || bytes <= 0 {
			return fmt.Errorf("iii: WithConnectionQueue: %d frames, %d bytes: not positive", frames, bytes)
		}
		c.maxFrames, c.maxBytes = frames, bytes
		return nil
	}
}

// WithConnectionLogger sets where the connection says that it is lost, refused or
// failed, and, once a minute at most, that telemetry was dropped. Default: dropped
// telemetry, refusals and the final failure go to OpenTelemetry's error handler
// (otel.Handle), the rest is not said.
func WithConnectionLogger(l *slog.Logger) ConnectionOption {
	return func(c *connectionConfig) error { c.logger = l; return nil }
}

// WithConnectionStateListener is told each change of the connection's state, and
// why: the error that ended a connection, an attempt, or all of them. Calls come
// in order, one after another, from one goroutine that holds no lock.
func WithConnectionStateListener(f func(ConnectionState, error)) ConnectionOption {
	return func(c *connectionConfig) error { c.listener = f; return nil }
}
