package iii

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

// batchKeeper is an exporter that records the size of each batch.
type batchKeeper struct {
	block chan struct{} // if not nil, export blocks until it is closed
	busy  bool          // returned by crowded
	err   error         // returned by export

	mu       sync.Mutex
	batches  []int
	names    []string
	at       []time.Time
	dropped  int
	flushes  int
	shutdown int
}

func (k *batchKeeper) export(n int, name func(i int) string) error {
	if k.block != nil {
		<-k.block
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.batches = append(k.batches, n)
	k.at = append(k.at, time.Now())
	for i := range n {
		k.names = append(k.names, name(i))
	}
	return k.err
}

func (k *batchKeeper) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	return k.export(len(spans), func(i int) string { return spans[i].Name() })
}

func (k *batchKeeper) Export(_ context.Context, records []sdklog.Record) error {
	return k.export(len(records), func(i int) string { return records[i].Body().AsString() })
}

func (k *batchKeeper) ForceFlush(ctx context.Context) error {
	k.mu.Lock()
	k.flushes++
	k.mu.Unlock()
	return ctx.Err()
}

func (k *batchKeeper) Shutdown(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shutdown++
	return nil
}

func (k *batchKeeper) overflowed(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropped += n
}

func (k *batchKeeper) crowded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.busy
}

func (k *batchKeeper) exported() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.batches)
}

func endedSpan(name string, flags trace.TraceFlags) sdktrace.ReadOnlySpan {
	return tracetest.SpanStub{Name: name, SpanContext: spanContext(flags, false)}.Snapshot()
}

func emitted(body string) *sdklog.Record {
	var r sdklog.Record
	r.SetBody(attribute.StringValue(body))
	return &r
}

func TestBatchExportsSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{}
		p := newBatchSpanProcessor(k, 100*time.Millisecond)
		begin := time.Now()
		for i := range 3 {
			p.OnEnd(endedSpan(fmt.Sprint(i), trace.FlagsSampled))
			p.OnEnd(endedSpan("not sampled", 0))
			time.Sleep(20 * time.Millisecond)
		}
		synctest.Wait()
		if got := k.exported(); got != nil {
			t.Errorf("exported %v before the interval was over", got)
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff([]int{3}, k.exported()); diff != "" {
			t.Fatalf("after the interval (-want +got):\n%s", diff)
		}
		k.mu.Lock()
		if waited := k.at[0].Sub(begin); waited != 100*time.Millisecond {
			t.Errorf("the first span waited %v, want 100ms", waited)
		}
		k.mu.Unlock()
		for i := range 512 {
			p.OnEnd(endedSpan(fmt.Sprint(i), trace.FlagsSampled))
		}
		synctest.Wait()
		if diff := cmp.Diff([]int{3, 512}, k.exported()); diff != "" {
			t.Errorf("full batch (-want +got):\n%s", diff)
		}
		for i := range 1030 {
			p.OnEnd(endedSpan(fmt.Sprint(i), trace.FlagsSampled))
		}
		time.Sleep(time.Second)
		if got := k.exported(); slices.Max(got) > 512 {
			t.Errorf("batches of %v", got)
		}
		shutDown(t, p.Shutdown)
		if len(k.names) != 1545 || k.dropped != 0 || k.shutdown != 1 {
			t.Errorf("exported %d, dropped %d, exporter shut down %d times", len(k.names), k.dropped, k.shutdown)
		}
	})
}

func shutDown(t *testing.T, shutdown func(context.Context) error) {
	t.Helper()
	if err := shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestBatchExportsLogs(t *testing.T) {
	for _, test := range []struct {
		name     string
		size     int
		interval time.Duration
		busy     bool
		emit     int
		atOnce   []int
		later    []int
	}{
		{"each at once", 1, 100 * time.Millisecond, false, 3, []int{1, 1, 1}, []int{1, 1, 1}},
		{"full batch", 2, 100 * time.Millisecond, false, 2, []int{2}, []int{2}},
		{"half a batch", 2, 100 * time.Millisecond, false, 1, nil, []int{1}},
		{"no interval", 100, 0, false, 3, []int{3}, []int{3}},
		{"busy connection", 1, 100 * time.Millisecond, true, 300, nil, []int{300}},
		{"busy connection, full batch", 1, 100 * time.Millisecond, true, 512, []int{512}, []int{512}},
		{"size of zero", 0, 100 * time.Millisecond, false, 2, []int{1, 1}, []int{1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &batchKeeper{busy: test.busy}
				p := newBatchLogProcessor(k, test.interval, test.size)
				if !p.Enabled(t.Context(), sdklog.EnabledParameters{}) {
					t.Error("not enabled")
				}
				for i := range test.emit {
					if err := p.OnEmit(t.Context(), emitted(fmt.Sprint(i))); err != nil {
						t.Error(err)
					}
				}
				synctest.Wait()
				if got := k.exported(); !sumsTo(got, test.atOnce) {
					t.Errorf("at once: batches %v, want %v", got, test.atOnce)
				}
				time.Sleep(time.Second)
				if got := k.exported(); !sumsTo(got, test.later) || slices.Max(got) > max(test.size, slices.Max(test.later)) {
					t.Errorf("after the interval: batches %v, want %v", got, test.later)
				}
				for i, name := range k.names {
					if name != fmt.Sprint(i) {
						t.Fatalf("out of order: %v", k.names)
					}
				}
				shutDown(t, p.Shutdown)
			})
		})
	}
}

// sumsTo reports whether got and want have the same total. How records are split into batches
// depends on scheduling.
func sumsTo(got, want []int) bool {
	sum := func(list []int) (n int) {
		for _, v := range list {
			n += v
		}
		return n
	}
	return sum(got) == sum(want) && (got == nil) == (want == nil)
}

// A later processor may modify the record, so the batch must hold a copy.
func TestBatchCopiesLogRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{}
		p := newBatchLogProcessor(k, time.Second, 10)
		r := emitted("as emitted")
		if err := p.OnEmit(t.Context(), r); err != nil {
			t.Error(err)
		}
		r.SetBody(attribute.StringValue("changed"))
		shutDown(t, p.Shutdown)
		if diff := cmp.Diff([]string{"as emitted"}, k.names); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// When records arrive faster than they are exported, surplus records are dropped and counted.
// The caller never blocks.
func TestBatchDropsRecordsThatOverflow(t *testing.T) {
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000")
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{block: make(chan struct{})}
		p := newBatchSpanProcessor(k, 0)
		p.OnEnd(endedSpan("in export", trace.FlagsSampled))
		synctest.Wait()
		for i := range 250 {
			p.OnEnd(endedSpan(fmt.Sprint(i), trace.FlagsSampled))
		}
		if k.dropped != 150 {
			t.Errorf("dropped %d, want 150", k.dropped)
		}
		close(k.block)
		shutDown(t, p.Shutdown)
		if diff := cmp.Diff([]int{1, 100}, k.exported()); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
		p.OnEnd(endedSpan("after the end", trace.FlagsSampled))
		if k.dropped != 151 {
			t.Errorf("dropped %d, want 151", k.dropped)
		}
	})
}

// A queue that is smaller than a batch is exported before it is full, so no record is lost
// between two exports.
func TestBatchWithSmallQueueLosesNothing(t *testing.T) {
	for _, queue := range []string{"1", "2", "100", "600", "2048"} {
		t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", queue)
		t.Setenv("OTEL_BLRP_MAX_QUEUE_SIZE", queue)
		for name, start := range map[string]func(t *testing.T, k *batchKeeper) (add func(), shutdown func(context.Context) error){
			"spans": func(t *testing.T, k *batchKeeper) (func(), func(context.Context) error) {
				p := newBatchSpanProcessor(k, time.Hour)
				return func() { p.OnEnd(endedSpan("s", trace.FlagsSampled)) }, p.Shutdown
			},
			"logs": func(t *testing.T, k *batchKeeper) (func(), func(context.Context) error) {
				p := newBatchLogProcessor(k, time.Hour, 3000)
				return func() { _ = p.OnEmit(t.Context(), emitted("r")) }, p.Shutdown
			},
			"logs, busy connection": func(t *testing.T, k *batchKeeper) (func(), func(context.Context) error) {
				k.busy = true
				p := newBatchLogProcessor(k, time.Hour, 1)
				return func() { _ = p.OnEmit(t.Context(), emitted("r")) }, p.Shutdown
			},
		} {
			t.Run(name+"/"+queue, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					k := &batchKeeper{}
					add, shutdown := start(t, k)
					burst := max(positiveFromEnv("OTEL_BSP_MAX_QUEUE_SIZE", 0)*2/5, 1)
					for range 50 {
						for range burst {
							add()
						}
						synctest.Wait()
					}
					shutDown(t, shutdown)
					if len(k.names) != 50*burst || k.dropped != 0 {
						t.Errorf("exported %d of %d, dropped %d", len(k.names), 50*burst, k.dropped)
					}
				})
			})
		}
	}
}

func TestBatchSizesFromEnvironment(t *testing.T) {
	for value, want := range map[string]int{"": 2048, "10": 10, " 20 ": 20, "0": 2048, "-1": 2048, "x": 2048} {
		t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", value)
		if got := positiveFromEnv("OTEL_BSP_MAX_QUEUE_SIZE", defaultBatchQueue); got != want {
			t.Errorf("%q: got %d, want %d", value, got, want)
		}
	}
}

func TestBatchFlushExportsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{}
		p := newBatchSpanProcessor(k, time.Hour)
		for range 5 {
			p.OnEnd(endedSpan("s", trace.FlagsSampled))
		}
		if err := p.ForceFlush(t.Context()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]int{5}, k.exported()); diff != "" || k.flushes != 1 {
			t.Errorf("exporter flushed %d times; batches (-want +got):\n%s", k.flushes, diff)
		}
		p.OnEnd(endedSpan("s", trace.FlagsSampled))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.ForceFlush(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("flush with a canceled context: %v", err)
		}
		shutDown(t, p.Shutdown)
		shutDown(t, p.Shutdown)
		shutDown(t, p.ForceFlush)
		if diff := cmp.Diff(6, len(k.names)); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}

// Even if the exporter hangs, ForceFlush and Shutdown return when their contexts are done.
func TestBatchWaitsEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &batchKeeper{block: make(chan struct{})}
		p := newBatchSpanProcessor(k, 0)
		p.OnEnd(endedSpan("s", trace.FlagsSampled))
		synctest.Wait()
		for name, f := range map[string]func(context.Context) error{"ForceFlush": p.ForceFlush, "Shutdown": p.Shutdown} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begin := time.Now()
			if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(begin))
			}
			cancel()
		}
		close(k.block)
	})
}

// A flush that waits for the engine does not hold up the export of later records.
func TestBatchExportsWhileFlushing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &waitingKeeper{}
		p := newBatchLogProcessor(k, time.Millisecond, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		flushed := make(chan error)
		go func() { flushed <- p.ForceFlush(ctx) }()
		synctest.Wait()
		if err := p.OnEmit(t.Context(), emitted("meanwhile")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]int{1}, k.exported()); diff != "" {
			t.Errorf("while flushing (-want +got):\n%s", diff)
		}
		cancel()
		if err := <-flushed; !errors.Is(err, context.Canceled) {
			t.Errorf("flush: %v", err)
		}
		shutDown(t, p.Shutdown)
	})
}

// waitingKeeper is a batchKeeper whose ForceFlush blocks until its context is done.
type waitingKeeper struct{ batchKeeper }

func (k *waitingKeeper) ForceFlush(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Export errors are passed to OpenTelemetry's error handler, except those that the connection
// itself counts and reports.
func TestBatchReportsExportErrors(t *testing.T) {
	odd := errors.New("odd")
	var mu sync.Mutex
	var handled []error
	previous := otel.GetErrorHandler()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		// The handler is global, so ignore errors that other tests cause.
		if errors.Is(err, odd) || errors.Is(err, ErrBufferFull) || errors.Is(err, ErrConnectionClosed) {
			handled = append(handled, err)
		}
	}))
	t.Cleanup(func() { otel.SetErrorHandler(previous) })
	for _, err := range []error{nil, ErrBufferFull, fmt.Errorf("%w: gone", ErrConnectionClosed), odd} {
		p := newBatchSpanProcessor(&batchKeeper{err: err}, 0)
		p.OnEnd(endedSpan("s", trace.FlagsSampled))
		shutDown(t, p.Shutdown)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(handled) != 1 || handled[0] != odd {
		t.Errorf("handled %v, want only %v", handled, odd)
	}
}

// Under concurrent use, every record is either exported or counted as dropped.
func TestBatchConcurrent(t *testing.T) {
	k := &batchKeeper{}
	p := newBatchLogProcessor(k, time.Millisecond, 7)
	const writers, records = 8, 500
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range records {
				_ = p.OnEmit(t.Context(), emitted(fmt.Sprintf("%d/%d", w, i)))
			}
		})
		wg.Go(func() {
			for range 10 {
				if err := p.ForceFlush(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	shutDown(t, p.Shutdown)
	seen := map[string]bool{}
	for _, name := range k.names {
		if seen[name] {
			t.Errorf("%s exported twice", name)
		}
		seen[name] = true
	}
	if len(k.names)+k.dropped != writers*records {
		t.Errorf("%d exported, %d dropped, of %d", len(k.names), k.dropped, writers*records)
	}
}

func TestBatchInProviders(t *testing.T) {
	k := &batchKeeper{}
	spans := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(newBatchSpanProcessor(k, time.Hour)))
	_, span := spans.Tracer("t").Start(t.Context(), "span")
	span.End()
	shutDown(t, spans.Shutdown)
	logs := sdklog.NewLoggerProvider(sdklog.WithProcessor(newBatchLogProcessor(k, time.Hour, 10)))
	var r log.Record
	r.SetBody(attribute.StringValue("log"))
	logs.Logger("l").Emit(t.Context(), r)
	shutDown(t, logs.Shutdown)
	if diff := cmp.Diff([]string{"span", "log"}, k.names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A failing callback does not affect other metrics, whether they are collected periodically,
// by Flush or by Shutdown.
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
					t.Errorf("%s: frame %d does not contain %s: %s", when, i, value, frames[i])
				}
			}
		}

		counter.Add(t.Context(), 1)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		arrived("after the interval", "1")
		if n := handled.Load(); n != 1 {
			t.Errorf("the failure was reported %d times", n)
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

// If a callback hangs, Shutdown returns an error when its context is done.
func TestMetricReaderShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		r := newMetricReader(NewEngineMetricsExporter(p.connection()), time.Hour)
		meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(r))
		release := make(chan struct{})
		_, err := meters.Meter("m").Int64ObservableGauge("g", metric.WithInt64Callback(func(context.Context, metric.Int64Observer) error {
			<-release
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
		close(release)
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
