package iii_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// traced is what a handler sees of its caller's trace.
type traced struct {
	TraceID string `json:"trace_id"`
	Sampled bool   `json:"sampled"`
	Tenant  string `json:"tenant"`
}

func traceOf(ctx context.Context) traced {
	tenant, _ := iii.BaggageEntry(ctx, "tenant")
	return traced{TraceID: iii.TraceID(ctx), Sampled: strings.HasSuffix(iii.InjectTraceparent(ctx), "-01"), Tenant: tenant}
}

// A client without telemetry hands the trace that a handler was called in to the
// calls that the handler makes, of all three kinds.
func TestChecklistForwardsWithoutTelemetry(t *testing.T) {
	c := connect(t, iiitest.Start(t))
	seen := make(chan traced, 3)
	handle(t, c, "t::leaf", func(ctx context.Context, _ struct{}) (traced, error) {
		seen <- traceOf(ctx)
		return traceOf(ctx), nil
	})
	handle(t, c, "t::middle", func(ctx context.Context, _ struct{}) (traced, error) {
		if err := c.Send(ctx, "t::leaf", struct{}{}); err != nil {
			return traced{}, err
		}
		if _, err := c.Enqueue(ctx, "q", "t::leaf", struct{}{}); err != nil {
			return traced{}, err
		}
		detached := iii.CaptureContext(ctx).Attach(context.Background())
		return iii.Call[traced](detached, c, "t::leaf", struct{}{})
	})

	const id, parent = "0af7651916cd43dd8448eb211c80319c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
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

// connect makes a client that is connected until the test ends.
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

func handle[In, Out any](t *testing.T, c *iii.Client, id string, h func(context.Context, In) (Out, error)) {
	t.Helper()
	if _, err := iii.Handle(c, id, h); err != nil {
		t.Fatal(err)
	}
}
