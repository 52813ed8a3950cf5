package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
)

// logKeeper keeps the records that a provider is given.
type logKeeper struct {
	mu      sync.Mutex
	records []sdklog.Record
}

func (k *logKeeper) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (k *logKeeper) Shutdown(context.Context) error                         { return nil }
func (k *logKeeper) ForceFlush(context.Context) error                       { return nil }
func (k *logKeeper) OnEmit(_ context.Context, r *sdklog.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.records = append(k.records, r.Clone())
	return nil
}

func keptLogs() (log.LoggerProvider, *logKeeper) {
	k := &logKeeper{}
	return sdklog.NewLoggerProvider(sdklog.WithProcessor(k)), k
}

// dataOf is the attribute log.data as plain values; ok is false without one.
func dataOf(r *sdklog.Record) (data any, ok bool) {
	r.WalkAttributes(func(a attribute.KeyValue) bool {
		if a.Key == attributeData {
			data, ok = plainValue(a.Value), true
		}
		return true
	})
	return data, ok
}

func plainValue(v attribute.Value) any {
	switch v.Type() {
	case attribute.MAP:
		m := map[string]any{}
		for _, kv := range v.AsMap() {
			m[string(kv.Key)] = plainValue(kv.Value)
		}
		return m
	case attribute.SLICE:
		list := []any{}
		for _, e := range v.AsSlice() {
			list = append(list, plainValue(e))
		}
		return list
	}
	return v.AsInterface()
}

func TestChecklistLoggerSeverity(t *testing.T) {
	provider, kept := keptLogs()
	l := NewLogger(provider)
	ctx := ExtractContext(t.Context(), testParent, "")
	before := time.Now()
	l.Debug(ctx, "d", nil)
	l.Info(ctx, "i", nil)
	l.Warn(ctx, "w", nil)
	l.Error(t.Context(), "e", nil)
	want := []struct {
		severity    log.Severity
		text, body  string
		trace, span string
	}{
		{5, "DEBUG", "d", testTraceID, testSpanID},
		{9, "INFO", "i", testTraceID, testSpanID},
		{13, "WARN", "w", testTraceID, testSpanID},
		{17, "ERROR", "e", strings.Repeat("0", 32), strings.Repeat("0", 16)},
	}
	for i, w := range want {
		r := kept.records[i]
		if r.Severity() != w.severity || r.SeverityText() != w.text || r.Body().AsString() != w.body || r.TraceID().String() != w.trace || r.SpanID().String() != w.span {
			t.Errorf("record %d: severity %d %q, body %q, trace %s, span %s; want %+v", i, r.Severity(), r.SeverityText(), r.Body(), r.TraceID(), r.SpanID(), w)
		}
		if r.Timestamp().Before(before) || !r.Timestamp().Equal(r.ObservedTimestamp()) {
			t.Errorf("record %d: time %v, observed %v", i, r.Timestamp(), r.ObservedTimestamp())
		}
		if r.AttributesLen() != 0 {
			t.Errorf("record %d has attributes without data", i)
		}
		if s := r.InstrumentationScope(); s.Name != instrumentationName || s.Version != Version {
			t.Errorf("record %d: scope %v", i, s)
		}
	}
}

type panicsOnError struct{ text string }

func (p *panicsOnError) Error() string { return p.text }

func TestLoggerData(t *testing.T) {
	type order struct {
		ID    string  `json:"order_id"`
		Price float64 `json:"price"`
		Tags  []string
	}
	tests := []struct {
		name     string
		in, want any
	}{
		{"map", map[string]any{"s": "x", "b": true, "i": 1, "i64": int64(math.MaxInt64), "f": 1.5, "null": nil, "list": []any{1, "x", nil}},
			map[string]any{"s": "x", "b": true, "i": int64(1), "i64": int64(math.MaxInt64), "f": 1.5, "null": "", "list": []any{int64(1), "x", ""}}},
		{"struct", order{"o-1", 49.99, []string{"a"}}, map[string]any{"order_id": "o-1", "price": 49.99, "Tags": []any{"a"}}},
		{"error", fmt.Errorf("outer: %w", errors.New("inner")), "outer: inner"},
		{"error inside", map[string]any{"error": errors.New("inner"), "list": []any{errors.New("e")}}, map[string]any{"error": "inner", "list": []any{"e"}}},
		{"nil error pointer", map[string]any{"error": (*panicsOnError)(nil), "n": 1},
			map[string]any{"error": "*iii.panicsOnError: panic: runtime error: invalid memory address or nil pointer dereference", "n": int64(1)}},
		{"small integers", []int8{1, -1}, []any{int64(1), int64(-1)}},
		{"large unsigned", uint64(math.MaxUint64), float64(math.MaxUint64)},
		{"number", json.Number("9007199254740993"), int64(9007199254740993)},
		{"number beyond all", json.Number("1e999"), "1e999"},
		{"NaN", map[string]any{"x": math.Inf(1)}, map[string]any{"x": math.Inf(1)}},
		{"raw", json.RawMessage(`{"a":[1,2.5,null]}`), map[string]any{"a": []any{int64(1), 2.5, ""}}},
		{"bytes", []byte("hi"), "aGk="},
		{"time", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05Z"},
		{"typed map", map[string]int{"a": 1}, map[string]any{"a": int64(1)}},
		{"empty", map[string]any{}, map[string]any{}},
		{"string", "text", "text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			provider, kept := keptLogs()
			NewLogger(provider).Info(t.Context(), "m", tt.in)
			got, ok := dataOf(&kept.records[0])
			if diff := cmp.Diff(tt.want, got); diff != "" || !ok {
				t.Errorf("log.data (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoggerDataThatDoesNotEncode(t *testing.T) {
	cycle := map[string]any{}
	cycle["a"], cycle["b"] = cycle, cycle
	provider, kept := keptLogs()
	l := NewLogger(provider)
	l.Info(t.Context(), "function", func() {})
	l.Info(t.Context(), "NaN", struct{ X float64 }{math.NaN()})
	l.Info(t.Context(), "bad raw", json.RawMessage(`{`))
	for i := range 3 {
		got, _ := dataOf(&kept.records[i])
		if text, ok := got.(string); !ok || !strings.Contains(text, "does not encode") {
			t.Errorf("record %d: data is %v, not the reason why it is missing", i, got)
		}
	}
	l.Info(t.Context(), "cycle", cycle)
	if len(kept.records) != 4 {
		t.Error("the record of the cycle is lost")
	}
}

// The engine stores what is nested too deeply not at all, so the tail is text.
func TestChecklistDeepLogData(t *testing.T) {
	var v any = "leaf"
	for range 60 {
		v = map[string]any{"in": []any{v, 1}}
	}
	provider, kept := keptLogs()
	NewLogger(provider).Info(t.Context(), "deep", v)
	got, _ := dataOf(&kept.records[0])
	depth := 0
	for {
		m, ok := got.(map[string]any)
		if !ok {
			break
		}
		got = m["in"].([]any)[0]
		depth += 2
	}
	text, ok := got.(string)
	if !ok || depth != maxValueDepth {
		t.Fatalf("at depth %d is a %T, want text at %d", depth, got, maxValueDepth)
	}
	if !json.Valid([]byte(text)) || !strings.Contains(text, `"leaf"`) {
		t.Errorf("the tail is %.80s", text)
	}
}

func TestLoggerFallback(t *testing.T) {
	var out bytes.Buffer
	loggers := []*Logger{NewLogger(nil), {}}
	setSlogDefault(t, slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, l := range loggers {
		l.Warn(t.Context(), "careful", map[string]any{"n": 1})
		l.Debug(t.Context(), "quiet", nil)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("slog.Default got %q", lines)
	}
	for i, want := range []string{`"level":"WARN","msg":"careful","log.data":{"n":1}}`, `"level":"DEBUG","msg":"quiet"}`} {
		if !strings.HasSuffix(lines[i], want) || !strings.HasSuffix(lines[i+2], want) {
			t.Errorf("slog.Default got %s and %s, want …%s", lines[i], lines[i+2], want)
		}
	}
}

// What falls back to slog has the place of the caller, not one in this package.
func TestLoggerFallbackSource(t *testing.T) {
	var out bytes.Buffer
	setSlogDefault(t, slog.NewJSONHandler(&out, &slog.HandlerOptions{AddSource: true, Level: slog.LevelDebug}))
	l := NewLogger(nil)
	l.Debug(t.Context(), "one", nil)
	l.Info(t.Context(), "two", 2)
	l.Warn(t.Context(), "three", nil)
	l.Error(t.Context(), "four", nil)
	for line := range strings.Lines(out.String()) {
		var said struct{ Source slog.Source }
		if err := json.Unmarshal([]byte(line), &said); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(said.Source.Function, ".TestLoggerFallbackSource") {
			t.Errorf("the source of %s is %+v", line, said.Source)
		}
	}
}

func TestSlogHandler(t *testing.T) {
	var kept *logKeeper
	slogtest.Run(t, func(*testing.T) slog.Handler {
		var provider log.LoggerProvider
		provider, kept = keptLogs()
		return newSlogHandler(provider)
	}, func(t *testing.T) map[string]any {
		r := kept.records[0]
		m := map[string]any{slog.LevelKey: r.SeverityText(), slog.MessageKey: r.Body().AsString()}
		if !r.Timestamp().IsZero() {
			m[slog.TimeKey] = r.Timestamp()
		}
		if data, ok := dataOf(&r); ok {
			for key, value := range data.(map[string]any) {
				m[key] = value
			}
		}
		return m
	})
}

func TestSlogLevels(t *testing.T) {
	provider, kept := keptLogs()
	l := slog.New(newSlogHandler(provider))
	levels := []slog.Level{-100, -8, slog.LevelDebug, -1, slog.LevelInfo, slog.LevelInfo + 2, slog.LevelWarn, slog.LevelError, 12, 100}
	for _, level := range levels {
		l.Log(t.Context(), level, "m")
	}
	var got []string
	for _, r := range kept.records {
		got = append(got, fmt.Sprintf("%d %s", r.Severity(), r.SeverityText()))
	}
	want := []string{"1 TRACE", "1 TRACE", "5 DEBUG", "8 DEBUG", "9 INFO", "11 INFO", "13 WARN", "17 ERROR", "21 FATAL", "24 FATAL"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("severities (-want +got):\n%s", diff)
	}
}

// Handlers that share a parent do not write into each other's memory.
func TestSlogHandlersConcurrent(t *testing.T) {
	provider, kept := keptLogs()
	parent := slog.New(newSlogHandler(provider)).With("a", 1, "b", 2, "c", 3).WithGroup("g").With("d", 4)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l := parent.With("own", i)
			for range 50 {
				l.Info("m", "n", i, "error", errors.New("e"))
			}
		})
	}
	wg.Wait()
	counts := make([]int, 8)
	for _, r := range kept.records {
		data, _ := dataOf(&r)
		inner := data.(map[string]any)["g"].(map[string]any)
		if inner["own"] != inner["n"] || inner["d"] != int64(4) || inner["error"] != "e" {
			t.Fatalf("record holds %v", data)
		}
		counts[inner["n"].(int64)]++
	}
	if slices.ContainsFunc(counts, func(n int) bool { return n != 50 }) {
		t.Errorf("records by logger: %v", counts)
	}
}

func TestSlogFallback(t *testing.T) {
	if newSlogHandler(nil) != slog.Default().Handler() {
		t.Error("without a provider the handler is not slog.Default's")
	}
}

func TestLogAfterShutdown(t *testing.T) {
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(&logKeeper{}))
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	NewLogger(provider).Info(t.Context(), "late", map[string]any{"a": 1})
	if newSlogHandler(provider).Enabled(t.Context(), slog.LevelError) {
		t.Error("slog records are wanted after the end")
	}
}

func BenchmarkLogger(b *testing.B) {
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(dropLogs{}))
	l := NewLogger(provider)
	data := map[string]any{"order_id": "o-1", "amount": 49.99, "items": []any{1, 2}}
	b.ReportAllocs()
	for b.Loop() {
		l.Info(b.Context(), "Order processed", data)
	}
}

type dropLogs struct{}

func (dropLogs) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (dropLogs) OnEmit(context.Context, *sdklog.Record) error           { return nil }
func (dropLogs) Shutdown(context.Context) error                         { return nil }
func (dropLogs) ForceFlush(context.Context) error                       { return nil }
