package iii_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// Telemetry against the development engine, over memory and in virtual time: what
// Flush has returned for is there, decoded.
func TestTelemetryReachesTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := telemetryEngine(t)
		address, service := e.URL(), "orders"
		tel, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWsURL: &address, ServiceName: &service},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
		if err != nil {
			t.Fatal(err)
		}
		counter, err := tel.Meter().Int64Counter("orders.created")
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := tel.Tracer().Start(t.Context(), "work", trace.WithAttributes(attribute.Int("n", 7)))
		if err := tel.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if live := e.LiveSpans(); len(live) != 1 || live[0].Name != "work" {
			t.Errorf("started spans: %+v", live)
		}
		for range 100 {
			counter.Add(ctx, 1)
			tel.Logger().Warn(ctx, "hello", nil)
		}
		span.End()
		if err := tel.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		spans, logs, metrics := e.Traces(), e.Logs(), e.Metrics()
		if len(spans) != 1 || spans[0].Name != "work" || spans[0].SpanID != span.SpanContext().SpanID().String() {
			t.Errorf("spans: %+v", spans)
		}
		if len(logs) != 100 {
			t.Errorf("%d log records, want 100", len(logs))
		}
		found := false
		for _, m := range metrics {
			found = found || m.Name == "orders.created"
		}
		if !found {
			t.Errorf("metrics: %+v", metrics)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// Headers decide whether a guarded engine lets telemetry in; its refusal is told.
func TestChecklistTelemetryAuthOfEngine(t *testing.T) {
	e := telemetryEngine(t, iiitest.WithGuard(iiitest.Guard{AuthFunctionID: "auth::check"}))
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = iii.Handle(c, "auth::check", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		if in.Headers["x-token"] != "let me in" {
			return iii.AuthResult{}, errors.New("no token")
		}
		return iii.NewAuthResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	frame := iii.OtelMessage{Prefix: "LOGS", Data: []byte(`{"resourceLogs":[]}`)}

	t.Run("refused", func(t *testing.T) {
		var once sync.Once
		refused := make(chan error, 1)
		s, err := iii.NewSharedEngineConnection(e.GuardedURL(), iii.WithConnectionStateListener(func(_ iii.ConnectionState, err error) {
			var auth *iii.AuthError
			if errors.As(err, &auth) {
				once.Do(func() { refused <- err })
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			t.Log(err)
		case <-time.After(time.Minute):
			t.Error("the refusal was not told")
		}
		if err := s.Shutdown(t.Context()); err == nil {
			t.Error("Shutdown of a connection that was refused: no error")
		}
	})
	t.Run("let in", func(t *testing.T) {
		s, err := iii.NewSharedEngineConnection(e.GuardedURL(), iii.WithConnectionHeader(http.Header{"X-Token": {"let me in"}}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(e.Telemetry()); got != 1 {
			t.Errorf("the engine has %d frames, want 1", got)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
