package iii

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestInSpan(t *testing.T) {
	failure := &unreachable{"unreachable"}
	tests := []struct {
		name        string
		f           func(context.Context) error
		status      codes.Code
		description string
		exception   []string // type and message
	}{
		{"success", func(context.Context) error { return nil }, codes.Ok, "", nil},
		{"error", func(context.Context) error { return failure }, codes.Error, "unreachable", []string{"*iii.unreachable", "unreachable"}},
		{"status of its own", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Error, "own")
			return nil
		}, codes.Error, "own", nil},
		{"status of its own and error", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Error, "own")
			return failure
		}, codes.Error, "own", []string{"*iii.unreachable", "unreachable"}},
		{"ok and error", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Ok, "")
			return failure
		}, codes.Ok, "", []string{"*iii.unreachable", "unreachable"}},
		{"panic", func(context.Context) error { panic("oh no") }, codes.Error, "panic: oh no", []string{"panic", "panic: oh no"}},
		{"exit", func(context.Context) error { runtime.Goexit(); return nil }, codes.Error, "the goroutine exited with runtime.Goexit",
			[]string{"panic", "the goroutine exited with runtime.Goexit"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, recorder, parent := recordedSpans()
			var err error
			var panicked any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { panicked = recover() }()
				err = InSpan(ctx, "work", trace.SpanKindProducer, tt.f)
			}()
			<-done
			if want := tt.exception != nil && tt.exception[0] != "panic"; (err == error(failure)) != want {
				t.Errorf("error is %v", err)
			}
			if want := tt.name == "panic"; (panicked == "oh no") != want {
				t.Errorf("panic came out as %v", panicked)
			}
			span := recorder.Ended()[0]
			if span.Name() != "work" || span.SpanKind() != trace.SpanKindProducer || span.Parent().SpanID() != parent.SpanContext().SpanID() {
				t.Errorf("span is %s %q in %v", span.SpanKind(), span.Name(), span.Parent().SpanID())
			}
			if s := span.Status(); s.Code != tt.status || s.Description != tt.description {
				t.Errorf("status is %v, want %v %q", s, tt.status, tt.description)
			}
			var exception []string
			for _, e := range span.Events() {
				a := attributeMap(e.Attributes)
				exception = append(exception, a["exception.type"].(string), a["exception.message"].(string))
				if stack := a["exception.stacktrace"].(string); !strings.Contains(stack, "otel_span_test.go") {
					t.Errorf("the stack is not that of the recording site:\n%s", stack)
				}
			}
			if diff := cmp.Diff(tt.exception, exception); diff != "" {
				t.Errorf("exception (-want +got):\n%s", diff)
			}
		})
	}
}

// unreachable is an error type with a name of its own.
type unreachable struct{ text string }

func (e *unreachable) Error() string { return e.text }

func TestInSpanKind(t *testing.T) {
	ctx, recorder, _ := recordedSpans()
	if err := InSpan(ctx, "work", 0, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if kind := recorder.Ended()[0].SpanKind(); kind != trace.SpanKindInternal {
		t.Errorf("kind is %v", kind)
	}
}

// The place where a span starts determines which telemetry records it.
func TestInSpanChoosesItsProvider(t *testing.T) {
	recorders := map[string]*tracetest.SpanRecorder{}
	provider := func(name string, opts ...sdktrace.TracerProviderOption) *sdktrace.TracerProvider {
		recorders[name] = tracetest.NewSpanRecorder()
		return sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(recorders[name]))...)
	}
	withoutGlobal(t)
	otel.SetTracerProvider(provider("global"))
	own, other, never := provider("client"), provider("other"), provider("never", sdktrace.WithSampler(sdktrace.NeverSample()))

	remote := ExtractContext(t.Context(), testParent, "")
	in := &incoming{function: &Function{}, traceparent: []byte(`"` + testParent + `"`)}
	handler := &invocationContext{Context: t.Context(), client: &Client{tracing: newTracing(own)}, in: in}
	untraced := &invocationContext{Context: t.Context(), client: &Client{}, in: in}
	begun := func(ctx context.Context, p *sdktrace.TracerProvider) context.Context {
		ctx, _ = p.Tracer("t").Start(ctx, "outer")
		return ctx
	}
	_, ended := other.Tracer("t").Start(t.Context(), "ended")
	ended.End()

	tests := []struct {
		name string
		ctx  context.Context
		want string
	}{
		{"nowhere", t.Context(), "global"},
		{"remote parent", remote, "global"},
		{"span", begun(t.Context(), other), "other"},
		{"span that has ended", trace.ContextWithSpan(t.Context(), ended), "other"},
		{"span that is not sampled", begun(t.Context(), never), ""},
		{"handler", handler, "client"},
		{"handler's span", begun(handler, own), "client"},
		{"other span in a handler", begun(handler, other), "other"},
		{"handler without telemetry", untraced, "global"},
		{"captured in a handler", CaptureContext(begun(handler, own)).Attach(t.Context()), "client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range recorders {
				r.Reset()
			}
			traceID := ""
			if err := InSpan(tt.ctx, "work", 0, func(ctx context.Context) error { traceID = TraceID(ctx); return nil }); err != nil {
				t.Fatal(err)
			}
			if outer := TraceID(tt.ctx); outer != "" && traceID != outer {
				t.Errorf("f runs in trace %q, want %q", traceID, outer)
			}
			for name, r := range recorders {
				if got, want := len(r.Ended()), 0; name == tt.want && got != 1 || name != tt.want && got != want {
					t.Errorf("%s recorded %d spans", name, got)
				}
			}
		})
	}
}

// Without telemetry, f runs in the trace of ctx.
func TestInSpanWithoutTelemetryKeepsTheTrace(t *testing.T) {
	withoutGlobal(t)
	failure := errors.New("f's")
	err := InSpan(ExtractContext(t.Context(), testParent, "a=1"), "work", 0, func(ctx context.Context) error {
		if InjectTraceparent(ctx) != testParent || InjectBaggage(ctx) != "a=1" {
			t.Errorf("f runs in %q with %q", InjectTraceparent(ctx), InjectBaggage(ctx))
		}
		return failure
	})
	if err != failure {
		t.Errorf("error is %v", err)
	}
}
