package iii_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// These declarations pin names and signatures that programs depend on.

type (
	sigIn      struct{ N int }
	sigOut     struct{ S string }
	sigContext = context.Context
)

// Constructors and functions.
var (
	_ func(string, ...iii.Option) (*iii.Client, error)                                                                                                              = iii.New
	_ func(*iii.Client, string, func(sigContext, sigIn) (sigOut, error), ...iii.FunctionOption) (*iii.Function, error)                                              = iii.Handle[sigIn, sigOut]
	_ func(*iii.Client, string, string, func(sigContext, *iii.HTTPRequest[sigIn]) (*iii.HTTPResponse[sigOut], error), ...iii.FunctionOption) (*iii.Function, error) = iii.HandleHTTP[sigIn, sigOut]
	_ func(sigContext, *iii.Client, string, any, ...iii.CallOption) (sigOut, error)                                                                                 = iii.Call[sigOut]
	_ func(sigContext) (iii.Invocation, bool)                                                                                                                       = iii.InvocationFromContext
	_ func(sigContext) <-chan struct{}                                                                                                                              = iii.Stopping
	_ func(error) bool                                                                                                                                              = iii.SafeToRetry
	_ func(*iii.Client, string) *iii.State[sigOut]                                                                                                                  = iii.NewState[sigOut]
	_ func(*iii.Client, string) *iii.Stream[sigOut]                                                                                                                 = iii.NewStream[sigOut]
	_ func(string, any) iii.UpdateOp                                                                                                                                = iii.OpSet
	_ func(any, ...string) iii.UpdateOp                                                                                                                             = iii.OpMerge
	_ func(string, int64) iii.UpdateOp                                                                                                                              = iii.OpIncrement
	_ func(string, int64) iii.UpdateOp                                                                                                                              = iii.OpDecrement
	_ func(any, ...string) iii.UpdateOp                                                                                                                             = iii.OpAppend
	_ func(string) iii.UpdateOp                                                                                                                                     = iii.OpRemove
	_ func(json.RawMessage, []iii.UpdateOp) (iii.StreamUpdateResult, error)                                                                                         = iii.ApplyUpdate
	_ func(sigContext, string, ...iii.StreamSubscription) iter.Seq2[iii.StreamMessage, error]                                                                       = iii.Subscribe
	_ func(sigContext, iii.SubscribeOptions, ...iii.StreamSubscription) iter.Seq2[iii.StreamMessage, error]                                                         = iii.SubscribeWith
	_ func(*http.Request, []byte, string, time.Duration) error                                                                                                      = iii.VerifySignature
	_ func(*iii.Client, string, func(sigContext, sigIn) error, ...iii.FunctionOption) (*iii.Function, error)                                                        = iii.HandleEvent[sigIn]
	_ func(json.RawMessage) []iii.ChannelRefAt                                                                                                                      = iii.ChannelRefs
	_ func(any) (*iii.Filter, error)                                                                                                                                = iii.ParseFilter
	_ func(*iii.Filter, iii.FilterDocument) bool                                                                                                                    = (*iii.Filter).Matches
	_ func(*iii.Filter) ([]byte, error)                                                                                                                             = (*iii.Filter).MarshalJSON
	_ func(*iii.Filter, json.RawMessage, json.RawMessage) ([]string, error)                                                                                         = (*iii.Filter).CheckSchemas
	_ func() iii.AuthResult                                                                                                                                         = iii.NewAuthResult
)

// Options.
var (
	_ func(string) iii.Option                                                 = iii.WithName
	_ func(string) iii.Option                                                 = iii.WithDescription
	_ func(string) iii.Option                                                 = iii.WithNamespace
	_ func(http.Header) iii.DialOption                                        = iii.WithHeader
	_ func(*tls.Config) iii.DialOption                                        = iii.WithTLSConfig
	_ func(iii.ReconnectionConfig) iii.DialOption                             = iii.WithReconnection
	_ func(func(sigContext, string, string) (net.Conn, error)) iii.DialOption = iii.WithDialContext
	_ func(time.Duration) iii.Option                                          = iii.WithDrainTimeout
	_ func(time.Duration) iii.Option                                          = iii.WithCallTimeout
	_ func(int) iii.Option                                                    = iii.WithMaxConcurrency
	_ func() iii.Option                                                       = iii.WithStackTraces
	_ func(int, int) iii.Option                                               = iii.WithSendBuffer
	_ func(int64) iii.Option                                                  = iii.WithReadLimit
	_ func(time.Duration, time.Duration) iii.Option                           = iii.WithKeepalive
	_ func(time.Duration) iii.Option                                          = iii.WithStreamHeartbeat
	_ func(time.Duration) iii.Option                                          = iii.WithHTTPWriteTimeout
	_ func(*slog.Logger) iii.Option                                           = iii.WithLogger
	_ func(*iii.Telemetry) iii.Option                                         = iii.WithTelemetry
	_ func(...iii.Middleware) iii.Option                                      = iii.WithMiddleware
	_ func(func(iii.ConnectionState, error)) iii.Option                       = iii.WithStateListener
	_ func(string) iii.FunctionOption                                         = iii.WithFunctionDescription
	_ func(any) iii.FunctionOption                                            = iii.WithFunctionMetadata
	_ func(any, any) iii.FunctionOption                                       = iii.WithSchemas
	_ func(time.Duration) iii.CallOption                                      = iii.WithTimeout
	_ func(any) iii.CallOption                                                = iii.WithMetadata
	_ func(string) iii.CallOption                                             = iii.InNamespace
	_ func(string) iii.TriggerOption                                          = iii.WithTriggerID
	_ func(any) iii.TriggerOption                                             = iii.WithTriggerMetadata
	_ func(string) iii.TriggerOption                                          = iii.WithTriggerNamespace
	_ func(func(error)) iii.TriggerOption                                     = iii.WithTriggerErrorHandler
	_ func(...iii.ConnectionOption) iii.TelemetryOption                       = iii.WithTelemetryConnection
	_ func() iii.TelemetryOption                                              = iii.WithGlobalProviders
	_ func(http.Header) iii.ConnectionOption                                  = iii.WithConnectionHeader
	_ func(*tls.Config) iii.ConnectionOption                                  = iii.WithConnectionTLSConfig
	_ func(iii.HandlerFunc) func(sigContext, json.RawMessage) (any, error)    = func(f iii.HandlerFunc) func(sigContext, json.RawMessage) (any, error) { return f }
	_ func(iii.Middleware) func(iii.HandlerFunc) iii.HandlerFunc              = func(f iii.Middleware) func(iii.HandlerFunc) iii.HandlerFunc { return f }
	_ func(iii.RetryPolicy) iii.Option                                        = iii.WithCallRetry
	_ func(iii.RetryPolicy) iii.CallOption                                    = iii.WithRetry
	_ func(func(sigContext, error) *iii.HTTPError) iii.Option                 = iii.WithHTTPErrors
	_ func() iii.FunctionOption                                               = iii.WithInputValidation
	_ func(...iii.Middleware) iii.FunctionOption                              = iii.WithFunctionMiddleware
	_ func(time.Duration) iii.FunctionOption                                  = iii.WithHandlerTimeout
	_ func(...iii.TriggerOption) iii.FunctionOption                           = iii.WithTriggerOptions
	_ func() iii.FunctionOption                                               = iii.WithBuiltinOverride
	_ func(string) iii.TriggerOption                                          = iii.WithTriggerCondition
	_ func(...string) iii.TriggerOption                                       = iii.WithTriggerMiddleware
)

// clientMethods pins the methods of Client.
type clientMethods interface {
	Connect(sigContext) error
	Run(sigContext) error
	Shutdown(sigContext) error
	Close() error
	State() iii.ConnectionState
	WorkerID() string
	Done() <-chan struct{}
	Err() error
	Stats() iii.ClientStats
	Ready() error
	Draining() bool
	ReadyHandler() http.Handler
	LiveHandler() http.Handler

	HandleFunc(string, iii.HandlerFunc, ...iii.FunctionOption) (*iii.Function, error)
	HandleHTTPInvoked(string, iii.HTTPInvocationConfig, ...iii.FunctionOption) (*iii.Function, error)
	MountHTTP(string, string, http.Handler, ...iii.FunctionOption) (*iii.Function, error)
	MountRouter(string, http.Handler, iii.RouterOptions, ...iii.FunctionOption) (*iii.Router, error)
	Call(sigContext, string, any, any, ...iii.CallOption) error
	Send(sigContext, string, any, ...iii.CallOption) error
	Enqueue(sigContext, string, string, any, ...iii.CallOption) (iii.EnqueueResult, error)
	Trigger(string, iii.TriggerConfig, ...iii.TriggerOption) (*iii.Trigger, error)
	HandleTriggerType(iii.TriggerType, iii.TriggerProvider) error

	CreateChannel(sigContext, ...iii.ChannelOption) (*iii.ChannelWriter, *iii.ChannelReader, error)
	OpenWriter(sigContext, iii.StreamChannelRef) (*iii.ChannelWriter, error)
	OpenReader(sigContext, iii.StreamChannelRef) (*iii.ChannelReader, error)

	StateScopes(sigContext) ([]string, error)
	Publish(sigContext, string, any) error
	PublishDurable(sigContext, string, any) error
	HandleStream(string, iii.StreamProvider) error
	DeadLetters(sigContext, string) ([]iii.DeadLetter, error)
	Redrive(sigContext, string) (int, error)
	RedriveMessage(sigContext, string, string) (bool, error)
	DiscardMessage(sigContext, string, string) (bool, error)
	Configuration() *iii.Configuration

	Functions(sigContext, iii.FunctionFilter) ([]iii.FunctionSummary, error)
	FunctionInfo(sigContext, string) (iii.FunctionDetail, error)
	Workers(sigContext) ([]iii.WorkerSummary, error)
	WorkerInfo(sigContext, string) (iii.WorkerDetail, error)
	TriggerTypes(sigContext) ([]iii.TriggerTypeSummary, error)
	Triggers(sigContext) ([]iii.TriggerSummary, error)
	Health(sigContext) (iii.HealthReport, error)
}

var _ clientMethods = (*iii.Client)(nil)

// Methods of what the client creates.
var (
	_ interface {
		ID() string
		Unregister() error
		Err() error
	} = (*iii.Function)(nil)
	_ interface {
		ID() string
		Unregister() error
		Err() error
	} = (*iii.Trigger)(nil)
	_ func(iii.TriggerBinding, sigContext, any) (json.RawMessage, error) = iii.TriggerBinding.Fire
	_ interface {
		Bind(sigContext, iii.TriggerBinding) error
		Unbind(sigContext, string) error
	} = (iii.TriggerProvider)(nil)
	_ interface {
		io.WriteCloser
		Ref() iii.StreamChannelRef
		SendMessage(sigContext, any) error
	} = (*iii.ChannelWriter)(nil)
	_ interface {
		io.ReadCloser
		Ref() iii.StreamChannelRef
		Messages(sigContext) iter.Seq2[json.RawMessage, error]
	} = (*iii.ChannelReader)(nil)
	_ interface {
		Get(sigContext, string) (sigOut, bool, error)
		Set(sigContext, string, sigOut) (iii.SetResult[sigOut], error)
		Update(sigContext, string, ...iii.UpdateOp) (iii.UpdateResult[sigOut], error)
		Delete(sigContext, string) (sigOut, bool, error)
		List(sigContext) ([]sigOut, error)
	} = (*iii.State[sigOut])(nil)
	_ interface {
		Get(sigContext, string, string) (sigOut, bool, error)
		Set(sigContext, string, string, sigOut) (iii.SetResult[sigOut], error)
		Update(sigContext, string, string, ...iii.UpdateOp) (iii.UpdateResult[sigOut], error)
		Delete(sigContext, string, string) (sigOut, bool, error)
		List(sigContext, string) ([]sigOut, error)
		Groups(sigContext) ([]string, error)
		Send(sigContext, string, string, any) error
	} = (*iii.Stream[sigOut])(nil)
	_ interface {
		Get(sigContext, iii.StreamGetInput) (json.RawMessage, error)
		Set(sigContext, iii.StreamSetInput) (iii.StreamSetResult, error)
		Delete(sigContext, iii.StreamDeleteInput) (iii.StreamDeleteResult, error)
		List(sigContext, iii.StreamListInput) ([]json.RawMessage, error)
		Groups(sigContext, iii.StreamListGroupsInput) ([]string, error)
	} = (iii.StreamProvider)(nil)
	_ error = (*iii.Error)(nil)
	_ error = (*iii.RejectedError)(nil)
	_ error = (*iii.AuthError)(nil)
)

// Telemetry.
var (
	_ func(sigContext, iii.OtelConfig, ...iii.TelemetryOption) (*iii.Telemetry, error) = iii.StartTelemetry
	_ interface {
		Tracer() trace.Tracer
		Meter() metric.Meter
		TracerProvider() trace.TracerProvider
		MeterProvider() metric.MeterProvider
		LoggerProvider() log.LoggerProvider
		Logger() *iii.Logger
		SlogHandler() slog.Handler
		SlogHandlerAt(slog.Leveler) slog.Handler
		Connection() *iii.SharedEngineConnection
		Flush(sigContext) error
		Shutdown(sigContext) error
	} = (*iii.Telemetry)(nil)
	_ func(string, ...iii.ConnectionOption) (*iii.SharedEngineConnection, error) = iii.NewSharedEngineConnection
	_ interface {
		Send(iii.OtelMessage) error
		State() iii.ConnectionState
		Stats() iii.ConnectionStats
		Flush(sigContext) error
		Shutdown(sigContext) error
	} = (*iii.SharedEngineConnection)(nil)
	_ func(*iii.SharedEngineConnection) *iii.EngineSpanExporter    = iii.NewEngineSpanExporter
	_ func(*iii.SharedEngineConnection) *iii.EngineMetricsExporter = iii.NewEngineMetricsExporter
	_ func(*iii.SharedEngineConnection) *iii.EngineLogExporter     = iii.NewEngineLogExporter
	_ func() *iii.BaggageSpanProcessor                             = iii.NewBaggageSpanProcessor
	_ sdktrace.SpanExporter                                        = (*iii.EngineSpanExporter)(nil)
	_ sdkmetric.Exporter                                           = (*iii.EngineMetricsExporter)(nil)
	_ sdklog.Exporter                                              = (*iii.EngineLogExporter)(nil)
	_ sdktrace.SpanProcessor                                       = (*iii.BaggageSpanProcessor)(nil)
	_ func(log.LoggerProvider) *iii.Logger                         = iii.NewLogger

	_ func(trace.TracerProvider, metric.MeterProvider, log.LoggerProvider) *iii.Telemetry = iii.TelemetryFromProviders
	_ func(sdktrace.SpanProcessor) iii.TelemetryOption                                    = iii.WithSpanProcessor
	_ func(sdkmetric.Reader) iii.TelemetryOption                                          = iii.WithMetricReader
	_ func(sdklog.Processor) iii.TelemetryOption                                          = iii.WithLogProcessor
	_ func() iii.Option                                                                   = iii.WithTracePayloads

	_ func(slog.Handler) slog.Handler = iii.TraceHandler
	_ interface {
		Debug(sigContext, string, any)
		Info(sigContext, string, any)
		Warn(sigContext, string, any)
		Error(sigContext, string, any)
	} = (*iii.Logger)(nil)
	_ func(sigContext) iii.CapturedContext                                         = iii.CaptureContext
	_ func(iii.CapturedContext, sigContext) sigContext                             = iii.CapturedContext.Attach
	_ func(sigContext, string, trace.SpanKind, func(sigContext) error) error       = iii.InSpan
	_ func(sigContext) string                                                      = iii.TraceID
	_ func(sigContext) string                                                      = iii.SpanID
	_ func(sigContext) string                                                      = iii.InjectTraceparent
	_ func(sigContext) string                                                      = iii.InjectBaggage
	_ func(sigContext, string, string) sigContext                                  = iii.ExtractContext
	_ func(sigContext, string) (string, bool)                                      = iii.BaggageEntry
	_ func(sigContext, string, string) (sigContext, error)                         = iii.SetBaggage
	_ func(sigContext, string) sigContext                                          = iii.RemoveBaggage
	_ func(any) any                                                                = iii.Redact
	_ func(any, int) (string, bool)                                                = iii.RedactAndTruncate
	_ func(http.RoundTripper) http.RoundTripper                                    = iii.NewTracingTransport
	_ func() (*iii.WorkerMetricsCollector, error)                                  = iii.NewWorkerMetricsCollector
	_ func(*iii.WorkerMetricsCollector, sigContext) (iii.WorkerMetrics, error)     = (*iii.WorkerMetricsCollector).Collect
	_ func(metric.Meter, iii.WorkerGaugesOptions) (*iii.WorkerGaugesHandle, error) = iii.RegisterWorkerGauges
	_ func(*iii.WorkerGaugesHandle) error                                          = (*iii.WorkerGaugesHandle).Stop
)

// A trigger config is used as a value, not as a pointer.
var triggerConfigs = map[string]iii.TriggerConfig{
	"http":                        iii.HTTPTriggerConfig{},
	"cron":                        iii.CronTriggerConfig{},
	"durable:subscriber":          iii.QueueTriggerConfig{},
	"subscribe":                   iii.SubscribeTriggerConfig{},
	"state":                       iii.StateTriggerConfig{},
	"stream":                      iii.StreamTriggerConfig{},
	"stream:join":                 iii.StreamJoinTrigger{StreamJoinLeaveTriggerConfig: iii.StreamJoinLeaveTriggerConfig{}},
	"stream:leave":                iii.StreamLeaveTrigger{StreamJoinLeaveTriggerConfig: iii.StreamJoinLeaveTriggerConfig{}},
	"log":                         iii.LogTriggerConfig{},
	"trace":                       iii.TraceTriggerConfig{},
	"configuration":               iii.ConfigurationTriggerConfig{},
	"engine::functions-available": iii.FunctionsAvailableTrigger{},
	"engine::workers-available":   iii.WorkersAvailableTrigger{},
	"mine":                        iii.CustomTrigger{Type: "mine", Config: any(nil)},
}

func TestTriggerConfigsKnowTheirTypes(t *testing.T) {
	for want, cfg := range triggerConfigs {
		if got := cfg.TriggerType(); got != want {
			t.Errorf("%T is of type %q, want %q", cfg, got, want)
		}
	}
}

// Structs as programs write them.
var (
	_ = iii.Error{Code: "", Message: "", Stacktrace: "", FunctionID: "", InvocationID: ""}
	_ = iii.RejectedError{Code: "", Namespace: "", WorkerName: "", FunctionID: "", OwnerWorkerID: ""}
	_ = iii.AuthError{Message: ""}
	_ = iii.Invocation{ID: "", FunctionID: "", CallerWorkerID: "", Metadata: json.RawMessage(nil)}
	_ = iii.TriggerType{ID: "", Description: "", ConfigSchema: any(nil), PayloadSchema: any(nil)}
	_ = iii.TriggerBinding{ID: "", TriggerType: "", FunctionID: "", Namespace: "", Config: json.RawMessage(nil), Metadata: json.RawMessage(nil)}
	_ = iii.SetResult[sigOut]{Old: sigOut{}, HadOld: true, New: sigOut{}}
	_ = iii.UpdateResult[sigOut]{Old: sigOut{}, HadOld: true, New: sigOut{}, Errors: []iii.UpdateOpError(nil)}
	_ = iii.SubscribeOptions{URL: "", Header: http.Header(nil), TLSConfig: (*tls.Config)(nil), Reconnection: iii.ReconnectionConfig{}}
	_ = iii.ChannelRefAt{Path: "", Ref: iii.StreamChannelRef{}}
	_ = iii.OtelMessage{Prefix: "OTLP", Data: []byte(nil)}
	_ = iii.UpdateOp{Op: iii.UpdateSet{}}
	_ = iii.HTTPAuthConfig{Auth: iii.HTTPAuthHMAC{}}
	_ = iii.TriggerAction{Action: iii.ActionVoid{}}
)

// Union variants, messages, and the types on the reference page that are not listed above.
var _ = []any{
	iii.UpdateSet{}, iii.UpdateMerge{}, iii.UpdateIncrement{}, iii.UpdateDecrement{}, iii.UpdateAppend{}, iii.UpdateRemove{},
	iii.HTTPAuthHMAC{}, iii.HTTPAuthBearer{}, iii.HTTPAuthAPIKey{}, iii.HTTPMethod(""), iii.ActionVoid{}, iii.ActionEnqueue{},
	iii.MergePath{}, iii.StreamAuthInput{}, iii.StreamAuthResult{}, iii.StreamChangeEvent{}, iii.StreamChangeEventDetail{}, iii.StreamEventType(""),
	iii.StreamJoinLeaveEvent{}, iii.StreamJoinResult{}, iii.StreamUpdateInput{}, iii.UpdateOpError{},
	iii.AuthInput{}, iii.OnFunctionRegistrationInput{}, iii.OnFunctionRegistrationResult{}, iii.OnTriggerRegistrationInput{},
	iii.OnTriggerRegistrationResult{}, iii.OnTriggerTypeRegistrationInput{}, iii.OnTriggerTypeRegistrationResult{},
	iii.WorkerRegisteredMessage{}, iii.ReattachMessage{}, iii.RegisterFunctionMessage{}, iii.UnregisterFunctionMessage{}, iii.RegisterTriggerTypeMessage{},
	iii.RegisterTriggerMessage{}, iii.UnregisterTriggerMessage{}, iii.TriggerRegistrationResultMessage{}, iii.InvokeFunctionMessage{},
	iii.InvocationResultMessage{}, iii.RegisterServiceMessage{}, iii.RegistrationRejectedMessage{}, iii.PingMessage{}, iii.PongMessage{},
	iii.ErrorBody{}, iii.ErrorMessage{}, iii.CronEvent{}, iii.StateEvent{}, iii.LogEvent{}, iii.TraceEvent{}, iii.Version,
}

// The development engine.
var (
	_ func(testing.TB, ...iiitest.Option) *iiitest.Engine = iiitest.Start
	_ func(...iiitest.Option) (*iiitest.Engine, error)    = iiitest.New
	_ interface {
		URL() string
		HTTPURL() string
		StreamURL() string
		GuardedURL() string
		Close() error
		DialContext(sigContext, string, string) (net.Conn, error)
		Traces() []iiitest.Span
		Logs() []iiitest.LogRecord
		Metrics() []iiitest.Metric
		Frames() []iiitest.Frame
	} = (*iiitest.Engine)(nil)
	_ func(iiitest.Guard) iiitest.Option               = iiitest.WithGuard
	_ func(string) iiitest.Option                      = iiitest.WithStreamAuth
	_ func(time.Duration) iiitest.Option               = iiitest.WithNamespaceGrace
	_ func(map[string]string) iiitest.Option           = iiitest.WithEnv
	_ func(string, string, string) iiitest.Option      = iiitest.WithAddrs
	_ func(string, iiitest.QueueConfig) iiitest.Option = iiitest.WithQueue
	_ func(bool) iiitest.Option                        = iiitest.WithQueueProvider
	_ func(time.Duration) iiitest.Option               = iiitest.WithHTTPTimeout

	_ = iiitest.Guard{AuthFunctionID: "", MiddlewareFunctionID: "", OnFunction: "", OnTrigger: "", OnTriggerType: "", Expose: []string(nil), ExposeMetadata: map[string]any(nil)}
)

func TestErrorValuesAreDistinct(t *testing.T) {
	values := map[string]error{
		"ErrClosed": iii.ErrClosed, "ErrNotConnected": iii.ErrNotConnected, "ErrConnectionLost": iii.ErrConnectionLost, "ErrBufferFull": iii.ErrBufferFull,
		"ErrMessageTooLarge": iii.ErrMessageTooLarge, "ErrTimeout": iii.ErrTimeout, "ErrFunctionNotFound": iii.ErrFunctionNotFound,
		"ErrForbidden": iii.ErrForbidden, "ErrEnqueue": iii.ErrEnqueue,
	}
	seen := map[error]string{}
	for name, err := range values {
		if err == nil || seen[err] != "" {
			t.Errorf("%s is %v, as %s is", name, err, seen[err])
		}
		seen[err] = name
	}
	for code, want := range map[string]error{"function_not_found": iii.ErrFunctionNotFound, "FORBIDDEN": iii.ErrForbidden, "enqueue_error": iii.ErrEnqueue} {
		got := []bool{}
		for _, e := range []error{iii.ErrFunctionNotFound, iii.ErrForbidden, iii.ErrEnqueue} {
			got = append(got, (&iii.Error{Code: code}).Is(e) == (e == want))
		}
		if diff := cmp.Diff([]bool{true, true, true}, got); diff != "" {
			t.Errorf("an Error with code %s (-want +got):\n%s", code, diff)
		}
	}
}
