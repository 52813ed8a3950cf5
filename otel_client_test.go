package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// traced is a handler's view of its caller's trace.
type traced struct {
	TraceID string `json:"trace_id"`
	Sampled bool   `json:"sampled"`
	Tenant  string `json:"tenant"`
}

func traceOf(ctx context.Context) traced {
	tenant, _ := iii.BaggageEntry(ctx, "tenant")
	return traced{TraceID: iii.TraceID(ctx), Sampled: strings.HasSuffix(iii.InjectTraceparent(ctx), "-01"), Tenant: tenant}
}

// A client without telemetry forwards the trace in which a handler was called to the
// calls that the handler makes, of all three kinds.
func TestClientWithoutTelemetryForwardsTheTrace(t *testing.T) {
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	c := connect(t, telemetryEngine(t))
	seen := make(chan traced, 3)
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (traced, error) {
		seen <- traceOf(ctx)
		return traceOf(ctx), nil
	})
	handle(t, c, "t::job", func(ctx context.Context, _ struct{}) (struct{}, error) {
		got := traceOf(ctx)
		if got.TraceID != id { // the engine starts a trace for a job without one
			got.TraceID, got.Sampled = "", false
		}
		seen <- got
		return struct{}{}, nil
	})
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (traced, error) {
		if err := c.Send(ctx, "t::leaf", struct{}{}); err != nil {
			return traced{}, err
		}
		if _, err := c.Enqueue(ctx, "default", "t::job", struct{}{}); err != nil {
			return traced{}, err
		}
		detached := iii.CaptureContext(ctx).Attach(context.Background())
		return iii.Call[traced](detached, c, "t::leaf", struct{}{})
	})

	tests := []struct {
		name, traceparent, baggage string
		want                       traced
	}{
		{"sampled", parent + "01", "tenant=acme", traced{id, true, "acme"}},
		{"not sampled", parent + "00", "", traced{id, false, ""}},
		{"baggage alone", "", "tenant=100%25", traced{"", false, "100%"}},
		{"none", "", "", traced{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := iii.ExtractContext(t.Context(), tt.traceparent, tt.baggage)
			got, err := iii.Call[traced](ctx, c, "t::middle", struct{}{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("trace of the nested call (-want +got):\n%s", diff)
			}
			for range 3 {
				if diff := cmp.Diff(tt.want, <-seen); diff != "" {
					t.Errorf("trace of a nested call, Send or job (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// connect returns a client that stays connected until the test ends.
func connect(t *testing.T, engine *iiitest.Engine, opts ...iii.Option) *iii.Client {
	t.Helper()
	c, err := iii.New(engine.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func handle[In, Out any](t *testing.T, c *iii.Client, id string, h func(context.Context, In) (Out, error), opts ...iii.FunctionOption) {
	t.Helper()
	if _, err := iii.Handle(c, id, h, opts...); err != nil {
		t.Fatal(err)
	}
}

// recorded starts telemetry and also records its spans.
func recorded(t *testing.T, engine *iiitest.Engine) (*iii.Telemetry, *tracetest.SpanRecorder) {
	t.Helper()
	url := engine.URL()
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := telemetry.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	recorder := tracetest.NewSpanRecorder()
	telemetry.TracerProvider().(*sdktrace.TracerProvider).RegisterSpanProcessor(recorder)
	return telemetry, recorder
}

// spanText is the content of a span without ids and times.
type spanText struct {
	Name, Kind, Status, Description string
	Events                          []eventText
}

type eventText struct {
	Name       string
	Attributes map[string]any
}

func textOf(s sdktrace.ReadOnlySpan) spanText {
	text := spanText{Name: s.Name(), Kind: s.SpanKind().String(), Status: s.Status().Code.String(), Description: s.Status().Description}
	for _, e := range s.Events() {
		attributes := map[string]any{}
		for _, a := range e.Attributes {
			attributes[string(a.Key)] = a.Value.AsInterface()
		}
		text.Events = append(text.Events, eventText{e.Name, attributes})
	}
	return text
}

type job struct {
	Do       string `json:"do"`
	Password string `json:"password"`
}

func TestInvocationSpanRecordsTheOutcome(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::work", func(ctx context.Context, in job) (map[string]any, error) {
		span := trace.SpanFromContext(ctx)
		switch in.Do {
		case "fail":
			return nil, errors.New("work failed")
		case "refuse":
			return nil, fmt.Errorf("wrapped: %w", &iii.Error{Code: "OUT_OF_STOCK", Message: "no stock", Stacktrace: "frame 0"})
		case "panic":
			panic("oh no")
		case "exit":
			runtime.Goexit()
		case "status":
			span.SetStatus(codes.Error, "set by the handler")
		case "both":
			span.SetStatus(codes.Error, "set by the handler")
			return nil, errors.New("work failed")
		case "accept":
			span.SetStatus(codes.Ok, "")
			return nil, errors.New("not that bad")
		case "unencodable":
			return map[string]any{"f": func() {}}, nil
		}
		span.AddEvent("checkpoint")
		return map[string]any{"ok": true, "access_token": "t"}, nil
	})

	output := func(ok bool, payload string) eventText {
		return eventText{"iii.invocation.output", map[string]any{"iii.payload.json": payload, "iii.payload.truncated": false, "iii.payload.ok": ok}}
	}
	exception := func(kind, message, stack string) eventText {
		return eventText{"exception", map[string]any{"exception.type": kind, "exception.message": message, "exception.stacktrace": stack}}
	}
	const ok = `{"access_token":"[REDACTED]","ok":true}`
	tests := []struct {
		do, status, description string
		events                  []eventText
		wire                    *iii.Error
	}{
		{"work", "Ok", "", []eventText{{"checkpoint", map[string]any{}}, output(true, ok)}, nil},
		{"fail", "Error", "work failed", []eventText{output(false, `{"error":"work failed"}`), exception("InvocationError", "work failed", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "work failed"}},
		{"refuse", "Error", "", []eventText{output(false, ""), exception("OUT_OF_STOCK", "", "frame 0")}, &iii.Error{Code: "OUT_OF_STOCK", Stacktrace: "frame 0"}},
		{"panic", "Error", "panic: oh no", []eventText{output(false, `{"error":"handler panicked"}`), exception("panic", "panic: oh no", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "handler panicked"}},
		{"exit", "Error", "the goroutine exited with runtime.Goexit", []eventText{output(false, `{"error":"handler panicked"}`), exception("panic", "the goroutine exited with runtime.Goexit", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "handler panicked"}},
		{"status", "Error", "set by the handler", []eventText{{"checkpoint", map[string]any{}}, output(true, ok)}, nil},
		{"both", "Error", "set by the handler", []eventText{output(false, `{"error":"work failed"}`), exception("InvocationError", "work failed", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "work failed"}},
		{"accept", "Ok", "", []eventText{output(false, `{"error":"not that bad"}`), exception("InvocationError", "not that bad", "captured")},
			&iii.Error{Code: "invocation_failed", Message: "not that bad"}},
		{"unencodable", "Error", "", []eventText{output(false, ""), exception("InvocationError", "", "captured")}, &iii.Error{Code: "invocation_failed"}},
	}
	for _, tt := range tests {
		t.Run(tt.do, func(t *testing.T) {
			recorder.Reset()
			err := c.Call(t.Context(), "t::work", job{Do: tt.do, Password: "hunter2"}, nil)
			var remote *iii.Error
			if errors.As(err, &remote) != (tt.wire != nil) {
				t.Fatalf("call returned %v", err)
			}
			if len(recorder.Ended()) != 1 {
				t.Fatalf("%d spans ended when the answer came, want 1", len(recorder.Ended()))
			}
			span := recorder.Ended()[0]
			got := textOf(span)
			input := map[string]any{}
			if err := json.Unmarshal([]byte(got.Events[0].Attributes["iii.payload.json"].(string)), &input); err != nil {
				t.Fatal(err)
			}
			delete(input, "_caller_worker_id")
			got.Events[0].Attributes["iii.payload.json"] = input
			// These errors wrap others; their full text is not repeated here.
			last := len(got.Events) - 1
			if tt.description == "" && tt.status == "Error" {
				got.Description, got.Events[last-1].Attributes["iii.payload.json"], got.Events[last].Attributes["exception.message"] = "", "", ""
			}
			if stack, ok := got.Events[last].Attributes["exception.stacktrace"].(string); ok && strings.Contains(stack, "goroutine ") {
				got.Events[last].Attributes["exception.stacktrace"] = "captured"
			}
			want := spanText{"execute t::work", "internal", tt.status, tt.description, append([]eventText{{"iii.invocation.input",
				map[string]any{"iii.payload.json": map[string]any{"do": tt.do, "password": "[REDACTED]"}, "iii.payload.truncated": false}}}, tt.events...)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("span (-want +got):\n%s", diff)
			}
			if span.InstrumentationScope().Name != "iii-go-sdk" || span.InstrumentationScope().Version != iii.Version || len(span.Attributes()) != 0 {
				t.Errorf("scope %v, attributes %v", span.InstrumentationScope(), span.Attributes())
			}
			if tt.wire == nil {
				return
			}
			if remote.Code != tt.wire.Code || remote.Stacktrace != tt.wire.Stacktrace || tt.wire.Message != "" && remote.Message != tt.wire.Message {
				t.Errorf("caller got %+v, want %+v", remote, tt.wire)
			}
		})
	}
}

// Caller, handler and the handler's calls are one trace; the answer carries the
// handler's span.
func TestInvocationSpanLinksCallerAndCallee(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (traced, error) { return traceOf(ctx), nil })
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (out traced, err error) {
		err = iii.InSpan(ctx, "inside", trace.SpanKindClient, func(ctx context.Context) error {
			out, err = iii.Call[traced](ctx, c, "t::leaf", struct{}{})
			return err
		})
		return out, err
	})
	ctx, root := telemetry.Tracer().Start(t.Context(), "root")
	ctx, err := iii.SetBaggage(ctx, "tenant", "a=b, 100%")
	if err != nil {
		t.Fatal(err)
	}
	got, err := iii.Call[traced](ctx, c, "t::middle", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	root.End()
	if diff := cmp.Diff(traced{iii.TraceID(ctx), true, "a=b, 100%"}, got); diff != "" {
		t.Errorf("trace of the inner handler (-want +got):\n%s", diff)
	}
	names := map[trace.SpanID]string{{}: "none"}
	for _, s := range recorder.Ended() {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	parents := map[string]string{}
	for _, s := range recorder.Ended() {
		parents[s.Name()] = names[s.Parent().SpanID()]
	}
	want := map[string]string{"root": "none", "execute t::middle": "root", "inside": "execute t::middle", "execute t::leaf": "inside"}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
	for _, f := range engine.Frames() {
		if f.Type() == "invocationresult" && f.Direction == iiitest.ToEngine {
			var m iii.InvocationResultMessage
			if err := json.Unmarshal(f.Message, &m); err != nil {
				t.Fatal(err)
			}
			sc := trace.SpanContextFromContext(iii.ExtractContext(t.Context(), m.Traceparent, m.Baggage))
			if got, want := names[sc.SpanID()], "execute "+m.FunctionID; got != want {
				t.Errorf("the answer of %s carries the span %q", m.FunctionID, got)
			}
		}
	}
}

// An invocation by an unsampled caller gets no span, and its trace continues.
func TestUnsampledCallerGetsNoSpan(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (string, error) { return iii.InjectTraceparent(ctx), nil })
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (out string, err error) {
		err = iii.InSpan(ctx, "inside", 0, func(ctx context.Context) error {
			out, err = iii.Call[string](ctx, c, "t::leaf", struct{}{})
			return err
		})
		return out, err
	})
	got, err := iii.Call[string](iii.ExtractContext(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", ""), c, "t::middle", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "00-0af7651916cd43dd8448eb211c80319c-") || !strings.HasSuffix(got, "-00") {
		t.Errorf("the inner handler is in %q", got)
	}
	if n := len(recorder.Started()); n != 0 {
		t.Errorf("%d spans were begun", n)
	}
	flush(t, telemetry)
	for _, f := range engine.Telemetry() {
		if f.Prefix == "OTLP" {
			t.Errorf("the engine got %s", f.Data)
		}
	}
}

// Functions that a trigger fires inside a trace belong to that trace, for a state
// change and for a message of a topic.
func TestTelemetryFollowsTriggers(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	seen := make(chan traced, 2)
	handle(t, c, "t::changed", func(ctx context.Context, _ json.RawMessage) (any, error) {
		seen <- traceOf(ctx)
		return nil, nil
	})
	for _, config := range []iii.TriggerConfig{iii.StateTriggerConfig{Scope: pointer("orders")}, iii.SubscribeTriggerConfig{Topic: "news"}} {
		if _, err := c.Trigger("t::changed", config); err != nil {
			t.Fatal(err)
		}
	}
	applied(t, c)
	ctx, root := telemetry.Tracer().Start(t.Context(), "root")
	for id, in := range map[string]any{
		"state::set": map[string]any{"scope": "orders", "key": "k", "value": 1}, "publish": map[string]any{"topic": "news", "data": "d"},
	} {
		if err := c.Call(ctx, id, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := <-seen; got.TraceID != iii.TraceID(ctx) || !got.Sampled {
			t.Errorf("the triggered function runs in %+v, want trace %s", got, iii.TraceID(ctx))
		}
	}
	root.End()
}
