package iii_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
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

// The engine ends connections without a Close frame, even those that are closed with
// one. Nobody waits for it, reports it or says so in a log.
func TestShutdownTakesTheEndOfAConnectionForItsAnswer(t *testing.T) {
	run := func(t *testing.T, e *iiitest.Engine, dial func(ctx context.Context, network, addr string) (net.Conn, error), limit time.Duration) {
		var log strings.Builder
		var mu sync.Mutex
		logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelWarn}))
		address := e.URL()
		connection := []iii.ConnectionOption{iii.WithConnectionLogger(logger)}
		opts := []iii.Option{iii.WithLogger(logger)}
		if dial != nil {
			connection, opts = append(connection, iii.WithConnectionDialContext(dial)), append(opts, iii.WithDialContext(dial))
		}
		tel, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWsURL: &address}, iii.WithTelemetryConnection(connection...))
		if err != nil {
			t.Fatal(err)
		}
		var states []iii.ConnectionState
		opts = append(opts, iii.WithTelemetry(tel), iii.WithStateListener(func(s iii.ConnectionState, err error) {
			states = append(states, s)
			if err != nil {
				t.Errorf("%v: %v", s, err)
			}
		}))
		c := connect(t, e, opts...)
		handle(t, c, "a::b", func(context.Context, any) (any, error) { return nil, nil })
		if _, err := iii.Call[any](t.Context(), c, "a::b", nil); err != nil {
			t.Fatal(err)
		}
		for _, err := range iii.SubscribeWith(t.Context(), iii.SubscribeOptions{URL: e.StreamURL(), DialContext: dial}, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		began := time.Now()
		if err := c.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown of telemetry: %v", err)
		}
		if took := time.Since(began); took > limit {
			t.Errorf("Shutdown took %v", took)
		}
		mu.Lock()
		defer mu.Unlock()
		if log.Len() > 0 {
			t.Errorf("log:\n%s", log.String())
		}
		if n := len(states); n == 0 || states[n-1] != iii.ConnectionStateDisconnected || slices.Contains(states, iii.ConnectionStateReconnecting) {
			t.Errorf("states: %v", states)
		}
	}
	t.Run("memory", func(t *testing.T) {
		bubble(t, func(t *testing.T, e *iiitest.Engine) { run(t, e, e.DialContext, 0) })
	})
	t.Run("tcp", func(t *testing.T) { run(t, iiitest.Start(t), nil, time.Hour) })
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
