package iii_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

// The live announcement of a handler's span carries the baggage, and comes before
// the span itself.
func TestChecklistLiveSpanOfInvocation(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry := startTelemetry(t, engine, iii.OtelConfig{})
	flush(t, telemetry)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	running, proceed := make(chan struct{}), make(chan struct{})
	handle(t, c, "t::work", func(context.Context, struct{}) (any, error) {
		close(running)
		<-proceed
		return nil, nil
	})
	ctx, err := iii.WithBaggageEntry(t.Context(), "iii.session.id", "S-1")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- c.Call(ctx, "t::work", struct{}{}, nil) }()
	<-running
	flush(t, telemetry)
	live := engine.LiveSpans()
	if len(live) != 1 || live[0].Name != "execute t::work" || live[0].Attributes["iii.session.id"] != "S-1" || len(engine.Traces()) != 0 {
		t.Errorf("while the handler runs the engine has %+v and %d finished spans", live, len(engine.Traces()))
	}
	close(proceed)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	flush(t, telemetry)
	if spans := engine.Traces(); len(spans) != 1 || len(live) == 1 && spans[0].SpanID != live[0].SpanID || spans[0].Attributes["iii.session.id"] != "S-1" {
		t.Errorf("after its end the engine has %+v", spans)
	}
}

// A request over the HTTP transport, the route's handler and what it calls are one
// trace.
func TestChecklistTraceOverHTTP(t *testing.T) {
	engine := telemetryEngine(t)
	telemetry, recorder := recorded(t, engine)
	c := connect(t, engine, iii.WithTelemetry(telemetry))
	got := make(chan traced, 1)
	_, err := iii.HandleHTTP(c, "GET", "/traced", func(ctx context.Context, _ *iii.HTTPRequest[json.RawMessage]) (*iii.HTTPResponse[string], error) {
		got <- traceOf(ctx)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	applied(t, c)
	ctx, span := telemetry.Tracer().Start(t.Context(), "client")
	if ctx, err = iii.WithBaggageEntry(ctx, "tenant", "a=b"); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", engine.HTTPURL()+"/traced", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: iii.NewTransport(nil)}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	span.End()
	if diff := cmp.Diff(traced{iii.TraceID(ctx), true, "a=b"}, <-got); diff != "" {
		t.Errorf("trace in the handler (-want +got):\n%s", diff)
	}
	for _, s := range recorder.Ended() {
		if s.SpanContext().TraceID() != span.SpanContext().TraceID() {
			t.Errorf("span %q is in another trace", s.Name())
		}
	}
}
