package iii

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
)

// telemetryConfig is an [OtelConfig] with its environment and its defaults.
type telemetryConfig struct {
	enabled, metrics, logs, fetch, live bool

	url             string
	name            string // "" if neither configuration nor environment names one
	version         string // "" alike, and so on
	namespace       string
	instanceID      string
	queue           int
	reconnection    *ReconnectionConfig
	shutdownTimeout time.Duration
	metricsInterval time.Duration
	spansInterval   time.Duration
	logsInterval    time.Duration
	logsBatch       int

	warnings []error // about variables that were ignored
}

// resolve reads the environment where c says nothing. Values of variables that
// make no sense count as unset.
func (c *OtelConfig) resolve() (*telemetryConfig, error) {
	r := &telemetryConfig{}
	r.enabled = r.flag(c.Enabled, "OTEL_ENABLED") && (c.Enabled != nil || !r.sdkDisabled())
	r.metrics = r.flag(c.MetricsEnabled, "OTEL_METRICS_ENABLED")
	r.logs = r.flag(c.LogsEnabled, "")
	r.fetch = r.flag(c.FetchInstrumentationEnabled, "")
	r.live = r.flag(c.LiveSpans, "OTEL_LIVE_SPANS")
	r.url = cmp.Or(textOf(c.EngineWsURL, "III_URL"), DefaultURL)
	r.name = textOf(c.ServiceName, "OTEL_SERVICE_NAME")
	r.version = textOf(c.ServiceVersion, "SERVICE_VERSION")
	r.namespace = textOf(c.ServiceNamespace, "SERVICE_NAMESPACE")
	r.instanceID = textOf(c.ServiceInstanceID, "SERVICE_INSTANCE_ID")
	r.reconnection = c.ReconnectionConfig
	r.shutdownTimeout = milliseconds(r.number(c.ShutdownTimeoutMs, "", 0, 10_000))
	r.metricsInterval = milliseconds(r.number(c.MetricsExportIntervalMs, "", 0, 60_000))
	r.spansInterval = milliseconds(r.number(c.SpansFlushIntervalMs, "OTEL_SPANS_FLUSH_INTERVAL_MS", 0, 100))
	r.logsInterval = milliseconds(r.number(c.LogsFlushIntervalMs, "OTEL_LOGS_FLUSH_INTERVAL_MS", 0, 100))
	r.logsBatch = int(min(max(r.number(c.LogsBatchSize, "OTEL_LOGS_BATCH_SIZE", 1, 1), 1), math.MaxInt32))
	r.queue = int(min(r.number(c.ChannelCapacity, "", 0, defaultTelemetryFrames), math.MaxInt32))
	switch {
	case r.queue == 0:
		return nil, errors.New("iii: channel_capacity is 0")
	case r.metricsInterval == 0:
		return nil, errors.New("iii: metrics_export_interval_ms is 0")
	}
	return r, nil
}

// textOf is the field, else the variable; blank is nothing.
func textOf(field *string, variable string) string {
	if field != nil {
		if value := strings.TrimSpace(*field); value != "" {
			return value
		}
	}
	return strings.TrimSpace(os.Getenv(variable))
}

// flag is the field, else the variable, else true.
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
		r.warn("$%s is neither yes nor no: ignored", variable)
		return true
	}
}

// sdkDisabled reports whether OpenTelemetry's own variable switches everything off. Its
// specification allows no other word for yes than true.
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

// number is the field, else the variable if it is least or more, else def.
func (r *telemetryConfig) number(field *uint64, variable string, least, def uint64) uint64 {
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
	if err != nil || n < least {
		r.warn("$%s is no number of %d or more: ignored", variable, least)
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

// resource describes this process: what is configured, over
// $OTEL_RESOURCE_ATTRIBUTES, over what can be guessed.
func (r *telemetryConfig) resource(ctx context.Context) *resource.Resource {
	env, err := resource.New(ctx, resource.WithFromEnv())
	if err != nil {
		r.warn("$OTEL_RESOURCE_ATTRIBUTES is not as it should be; what can be read of it is used")
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

// programName is the base name of the executable.
func programName() string {
	if len(os.Args) > 0 {
		if name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"); os.Args[0] != "" && name != "." && name != "" {
			return name
		}
	}
	return instrumentationName
}
