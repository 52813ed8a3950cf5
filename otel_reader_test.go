package iii

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/iii-go/iii/internal/otlpjson"
)

// A failing callback affects no other metric, at an interval, a flush or the shutdown.
func TestFailingMetricCallbackAffectsNoOtherMetric(t *testing.T) {
	failed := errors.New("the database is away")
	handled := countHandled(t, failed)
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		tel := p.telemetry(OtelConfig{MetricsExportIntervalMs: ptr(uint64(1000))})
		_, err := tel.Meter().Int64ObservableGauge("rows", metric.WithInt64Callback(func(context.Context, metric.Int64Observer) error { return failed }))
		if err != nil {
			t.Fatal(err)
		}
		counter, err := tel.Meter().Int64Counter("orders")
		if err != nil {
			t.Fatal(err)
		}
		arrived := func(when string, want ...string) {
			t.Helper()
			frames := p.containing(otlpjson.PrefixMetrics)
			if len(frames) != len(want) {
				t.Fatalf("%s: %d frames of metrics, want %d", when, len(frames), len(want))
			}
			for i, value := range want {
				if !strings.Contains(frames[i], `"orders"`) || !strings.Contains(frames[i], `"asInt":"`+value+`"`) {
					t.Errorf("%s: frame %d does not say %s: %s", when, i, value, frames[i])
				}
			}
		}

		counter.Add(t.Context(), 1)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		arrived("after the interval", "1")
		if n := handled.Load(); n != 1 {
			t.Errorf("the failure was told %d times", n)
		}

		counter.Add(t.Context(), 1)
		if err := tel.Flush(t.Context()); !errors.Is(err, failed) {
			t.Errorf("Flush: %v", err)
		}
		arrived("after the flush", "1", "2")

		counter.Add(t.Context(), 1)
		if err := tel.Shutdown(t.Context()); !errors.Is(err, failed) {
			t.Errorf("Shutdown: %v", err)
		}
		arrived("after the end", "1", "2", "3")
	})
}

func TestMetricReaderAfterShutdown(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	r := newMetricReader(NewEngineMetricsExporter(p.connection()), time.Hour)
	_ = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r))
	shutDown(t, r.Shutdown)
	for name, f := range map[string]func(context.Context) error{"ForceFlush": r.ForceFlush, "Shutdown": r.Shutdown} {
		if err := f(t.Context()); !errors.Is(err, sdkmetric.ErrReaderShutdown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
