package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"math"
	"math/big"
	"os"
	"os/exec"
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

	"github.com/iii-go/iii/internal/otlpjson"
)

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

// dataOf returns the attribute log.data of a record as plain Go values.
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

func TestLoggerSetsTheSeverity(t *testing.T) {
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
		{"number", json.Number("9007199254740993"), int64(9007199254740993)},
		{"number beyond all", json.Number("1e999"), "1e999"},
		{"numbers with a point or an exponent", []any{json.Number("1e3"), json.Number("18446744073709551616.5")}, []any{1000.0, 18446744073709551616.5}},
		{"no number", []any{json.Number("inf"), json.Number("NaN"), json.Number("")}, []any{"inf", "NaN", ""}},
		{"NaN", map[string]any{"x": math.Inf(1)}, map[string]any{"x": math.Inf(1)}},
		{"short NaN", map[string]any{"x": float32(math.Inf(-1)), "y": float32(0.1)}, map[string]any{"x": math.Inf(-1), "y": 0.1}},
		{"greatest int64", []any{uint64(math.MaxInt64), json.Number("9223372036854775807"), json.Number("-9223372036854775808")},
			[]any{int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MinInt64)}},
		{"unsigned", []any{uint64(math.MaxUint64), uint64(math.MaxInt64 + 1), uint(math.MaxUint), uintptr(math.MaxUint)},
			[]any{"18446744073709551615", "9223372036854775808", fmt.Sprint(uint(math.MaxUint)), fmt.Sprint(uintptr(math.MaxUint))}},
		{"unsigned in typed values", map[string][]uint64{"a": {1, math.MaxUint64}}, map[string]any{"a": []any{int64(1), "18446744073709551615"}}},
		{"unsigned in a struct", struct{ N *uint64 }{ptr(uint64(math.MaxUint64))}, map[string]any{"N": "18446744073709551615"}},
		{"integers beyond 64 bits", []any{new(big.Int).Lsh(big.NewInt(1), 70), new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 70)), json.Number("9223372036854775808"), json.Number("-9223372036854775809")},
			[]any{"1180591620717411303424", "-1180591620717411303424", "9223372036854775808", "-9223372036854775809"}},
		{"raw integer beyond 63 bits", json.RawMessage(`{"n":18446744073709551615}`), map[string]any{"n": "18446744073709551615"}},
		{"duration", time.Second, int64(time.Second)},
		{"errors", []error{errors.New("e"), nil, (*panicsOnError)(nil)},
			[]any{"e", "", "*iii.panicsOnError: panic: runtime error: invalid memory address or nil pointer dereference"}},
		{"nil pointer", map[string]any{"p": (*order)(nil), "n": 1}, map[string]any{"p": "", "n": int64(1)}},
		{"LogValue", hidesPassword{"pa55"}, "hidden"},
		{"LogValue inside", map[string]any{"user": hidesPassword{"pa55"}, "list": []any{hidesPassword{"pa55"}}}, map[string]any{"user": "hidden", "list": []any{"hidden"}}},
		{"values of slog", []any{slog.Uint64Value(math.MaxUint64), slog.GroupValue(slog.Int("a", 1), slog.Attr{}, slog.Group("none")), slog.Int("b", 2), []slog.Attr{slog.Any("c", hidesPassword{})}},
			[]any{"18446744073709551615", map[string]any{"a": int64(1)}, map[string]any{"b": int64(2)}, map[string]any{"c": "hidden"}}},
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
			slog.New(newSlogHandler(provider, nil)).Info("m", "v", map[string]any{"v": tt.in})
			got, ok = dataOf(&kept.records[1])
			if diff := cmp.Diff(any(map[string]any{"v": map[string]any{"v": tt.want}}), got); diff != "" || !ok {
				t.Errorf("log.data of slog (-want +got):\n%s", diff)
			}
		})
	}
}

type hidesPassword struct{ Password string }

func (hidesPassword) LogValue() slog.Value { return slog.StringValue("hidden") }

func TestSlogValues(t *testing.T) {
	provider, kept := keptLogs()
	slog.New(newSlogHandler(provider, nil)).With("with", uint64(math.MaxUint64)).Info("m",
		"u", uint64(math.MaxUint64), "small", uint64(7), "d", time.Minute, "f", math.Inf(1), "nil", nil, "err", error((*panicsOnError)(nil)),
		"big", new(big.Int).Lsh(big.NewInt(1), 64), slog.Group("g", "u", uint64(math.MaxInt64+1)), "hidden", hidesPassword{"pa55"})
	want := map[string]any{
		"with": "18446744073709551615", "u": "18446744073709551615", "small": int64(7), "d": int64(time.Minute), "f": math.Inf(1), "nil": "",
		"err": "*iii.panicsOnError: panic: runtime error: invalid memory address or nil pointer dereference",
		"big": "18446744073709551616", "g": map[string]any{"u": "9223372036854775808"}, "hidden": "hidden",
	}
	got, _ := dataOf(&kept.records[0])
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("log.data (-want +got):\n%s", diff)
	}
}

// selves is a group that contains itself under several keys.
type selves []string

func (s selves) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("leaf", "x")}
	for _, key := range s {
		attrs = append(attrs, slog.Any(key, s))
	}
	return slog.GroupValue(attrs...)
}

type panics struct{}

func (panics) LogValue() slog.Value         { panic("no value") }
func (panics) MarshalJSON() ([]byte, error) { panic("no JSON") }

type again struct{}

func (v again) LogValue() slog.Value { return slog.AnyValue(v) }

type listsItself struct{}

func (v listsItself) LogValue() slog.Value { return slog.AnyValue([]any{v, v}) }

// A record that contains an infinitely nested value is still written, but truncated.
func TestInfinitelyNestedLogValues(t *testing.T) {
	cyclic := []slog.Attr{slog.Int("n", 1), slog.Int("self", 0)}
	cyclic[1].Value = slog.GroupValue(cyclic...)
	for name, tt := range map[string]struct {
		value any
		want  string
	}{
		"group in itself":         {slog.GroupValue(cyclic...), "[TRUNCATED]"},
		"value in itself":         {selves{"self"}, "[TRUNCATED]"},
		"value in itself, inline": {selves{""}, "[TRUNCATED]"},
		"value in itself twice":   {selves{"a", "b"}, "[TRUNCATED]"},
		"list in itself":          {listsItself{}, "[["},
		"value that is itself":    {again{}, "too many times"},
		"value that panics":       {panics{}, "panic"},
		"values that panic":       {[]any{panics{}, struct{ V panics }{}}, "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			provider, kept := keptLogs()
			l := slog.New(newSlogHandler(provider, nil))
			l.Info("m", "v", tt.value, "after", 1)
			l.With("v", tt.value).Info("m", "after", 1)
			l.WithGroup("g").Info("m", slog.Group("", "v", tt.value), "after", 1)
			NewLogger(provider).Info(t.Context(), "m", []any{tt.value, 1})
			if len(kept.records) != 4 {
				t.Fatalf("%d records", len(kept.records))
			}
			for i, r := range kept.records {
				data, _ := dataOf(&r)
				if text := fmt.Sprint(data); !strings.Contains(text, tt.want) || len(text) > 64<<20 {
					t.Errorf("record %d contains %.300s…", i, text)
				}
				if m, ok := data.(map[string]any); ok && i < 2 && m["after"] != int64(1) {
					t.Errorf("record %d lacks the attribute after the value", i)
				}
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
			t.Errorf("record %d: data is %v, want the reason why it is missing", i, got)
		}
	}
	l.Info(t.Context(), "cycle", cycle)
	if len(kept.records) != 4 {
		t.Error("the record of the cycle is lost")
	}
}

// The engine does not store deeply nested data. Levels beyond the engine's limit are logged as
// JSON text.
func TestDeepLogDataBecomesText(t *testing.T) {
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
	if !ok || depth != otlpjson.MaxValueDepth {
		t.Fatalf("at depth %d is a %T, want text at %d", depth, got, otlpjson.MaxValueDepth)
	}
	if !json.Valid([]byte(text)) || !strings.Contains(text, `"leaf"`) {
		t.Errorf("the tail is %.80s", text)
	}
}

func TestLoggerFallsBackToSlog(t *testing.T) {
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

// When a Logger falls back to slog, the record's source location is the call to the Logger.
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
		return newSlogHandler(provider, nil)
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
	l := slog.New(newSlogHandler(provider, nil))
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

func TestSlogHandlerAtLevel(t *testing.T) {
	provider, kept := keptLogs()
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	l := slog.New(newSlogHandler(provider, &level))
	for _, l := range []*slog.Logger{l, l.With("a", 1), l.WithGroup("g")} {
		l.Info("info")
		l.Warn("warn")
		l.Error("error")
	}
	level.Set(slog.LevelDebug)
	l.Debug("debug")
	l.Log(t.Context(), slog.LevelDebug-1, "below")
	var got []string
	for _, r := range kept.records {
		got = append(got, r.Body().AsString())
	}
	if diff := cmp.Diff([]string{"warn", "error", "warn", "error", "warn", "error", "debug"}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

type inTrace struct{ slog.Handler }

func (h inTrace) Handle(ctx context.Context, r slog.Record) error {
	return h.Handler.Handle(ExtractContext(ctx, testParent, ""), r)
}
func (h inTrace) WithAttrs(attrs []slog.Attr) slog.Handler {
	return inTrace{h.Handler.WithAttrs(attrs)}
}
func (h inTrace) WithGroup(name string) slog.Handler { return inTrace{h.Handler.WithGroup(name)} }

func TestTraceHandlerIsAHandler(t *testing.T) {
	for name, wrap := range map[string]func(slog.Handler) slog.Handler{
		"outside of traces": TraceHandler,
		"in a trace":        func(h slog.Handler) slog.Handler { return inTrace{TraceHandler(h)} },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			slogtest.Run(t, func(*testing.T) slog.Handler {
				out.Reset()
				return wrap(slog.NewJSONHandler(&out, nil))
			}, func(t *testing.T) map[string]any {
				var m map[string]any
				if err := json.Unmarshal(out.Bytes(), &m); err != nil {
					t.Fatal(err)
				}
				if _, traced := m["trace_id"]; traced != (name == "in a trace") {
					t.Errorf("line %s", out.Bytes())
				}
				return m
			})
		})
	}
}

// TraceHandler adds the ids outside all groups and leaves everything else unchanged.
func TestTraceHandlerAddsIDs(t *testing.T) {
	var with, without bytes.Buffer
	noTime := &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	traced, plain := TraceHandler(slog.NewJSONHandler(&with, noTime)), slog.NewJSONHandler(&without, noTime)
	ctx := ExtractContext(t.Context(), testParent, "")
	for name, log := range map[string]func(l *slog.Logger, ctx context.Context){
		"no attributes": func(l *slog.Logger, ctx context.Context) { l.InfoContext(ctx, "m") },
		"attributes":    func(l *slog.Logger, ctx context.Context) { l.With("a", 1).WarnContext(ctx, "m", "b", 2) },
		"many attributes": func(l *slog.Logger, ctx context.Context) {
			l.InfoContext(ctx, "m", "a", 2, "b", 3, "c", 4, "d", 5, "e", 6, "f", 7, "g", 8)
		},
		"group": func(l *slog.Logger, ctx context.Context) {
			l.With("a", 1).WithGroup("g").DebugContext(ctx, "m", "b", 2)
		},
		"empty groups": func(l *slog.Logger, ctx context.Context) { l.WithGroup("g").WithGroup("h").InfoContext(ctx, "m") },
		"group without": func(l *slog.Logger, ctx context.Context) {
			l.WithGroup("g").With("b", 2).WithGroup("h").InfoContext(ctx, "m")
		},
		"groups in groups": func(l *slog.Logger, ctx context.Context) {
			l.WithGroup("g").With("a", 1, "b", 2).WithGroup("").WithGroup("h").With("c", 3).With("d", 4).ErrorContext(ctx, "m", slog.Group("i", "e", 5), slog.Group("", "f", 6))
		},
		"value": func(l *slog.Logger, ctx context.Context) {
			l.WithGroup("g").With("a", hidesPassword{"x"}).InfoContext(ctx, "m", "b", hidesPassword{"x"})
		},
	} {
		with.Reset()
		without.Reset()
		for _, h := range []slog.Handler{traced, plain} {
			log(slog.New(h), ctx)
		}
		var got, want map[string]any
		if err := errors.Join(json.Unmarshal(with.Bytes(), &got), json.Unmarshal(without.Bytes(), &want)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want["trace_id"], want["span_id"] = testTraceID, testSpanID
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		with.Reset()
		without.Reset()
		for _, h := range []slog.Handler{traced, plain} {
			log(slog.New(h), context.Background())
		}
		if diff := cmp.Diff(without.String(), with.String()); diff != "" {
			t.Errorf("%s, outside of traces (-want +got):\n%s", name, diff)
		}
	}
	if TraceHandler(traced) != traced {
		t.Error("a second TraceHandler adds the ids again")
	}
}

// TraceHandler can wrap any handler. When it wraps a telemetry handler, the ids become part of
// the record's data.
func TestTraceHandlerOverTelemetry(t *testing.T) {
	provider, kept := keptLogs()
	slog.New(TraceHandler(newSlogHandler(provider, nil))).WithGroup("g").InfoContext(ExtractContext(t.Context(), testParent, ""), "m", "a", 1)
	got, _ := dataOf(&kept.records[0])
	if diff := cmp.Diff(any(map[string]any{"g": map[string]any{"a": int64(1)}, "trace_id": testTraceID, "span_id": testSpanID}), got); diff != "" {
		t.Errorf("log.data (-want +got):\n%s", diff)
	}
}

func TestTraceHandlersConcurrent(t *testing.T) {
	var out bytes.Buffer
	parent := slog.New(TraceHandler(slog.NewJSONHandler(&out, nil))).With("a", 1).WithGroup("g").With("b", 1, "c", 2, "d", 3).WithGroup("h").With("e", 4)
	ctx := ExtractContext(t.Context(), testParent, "")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l := parent.With("own", i)
			for range 20 {
				l.InfoContext(ctx, "m", "n", i)
			}
		})
	}
	wg.Wait()
	lines := 0
	for line := range strings.Lines(out.String()) {
		var r struct {
			G struct{ H struct{ Own, N, E int } }
			T string `json:"trace_id"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.G.H.Own != r.G.H.N || r.G.H.E != 4 || r.T != testTraceID {
			t.Fatalf("line %s", line)
		}
		lines++
	}
	if lines != 160 {
		t.Errorf("%d lines", lines)
	}
}

// Handlers derived from the same parent do not share memory.
func TestSlogHandlersConcurrent(t *testing.T) {
	provider, kept := keptLogs()
	parent := slog.New(newSlogHandler(provider, nil)).With("a", 1, "b", 2, "c", 3).WithGroup("g").With("d", 4)
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
			t.Fatalf("record contains %v", data)
		}
		counts[inner["n"].(int64)]++
	}
	if slices.ContainsFunc(counts, func(n int) bool { return n != 50 }) {
		t.Errorf("records by logger: %v", counts)
	}
}

// fanOut passes each record to several handlers, whether or not they are enabled for its
// level.
type fanOut []slog.Handler

func (f fanOut) Enabled(context.Context, slog.Level) bool { return true }

func (f fanOut) Handle(ctx context.Context, r slog.Record) error {
	for _, h := range f {
		if err := h.Handle(ctx, r.Clone()); err != nil {
			return err
		}
	}
	return nil
}

func (f fanOut) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := make(fanOut, len(f))
	for i, h := range f {
		with[i] = h.WithAttrs(attrs)
	}
	return with
}

func (f fanOut) WithGroup(name string) slog.Handler {
	with := make(fanOut, len(f))
	for i, h := range f {
		with[i] = h.WithGroup(name)
	}
	return with
}

type wrapped struct{ slog.Handler }

func (w wrapped) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	r.AddAttrs(slog.String("wrapped", "yes"))
	return w.Handler.Handle(ctx, r)
}

func (w wrapped) WithAttrs(attrs []slog.Attr) slog.Handler {
	return wrapped{w.Handler.WithAttrs(attrs)}
}
func (w wrapped) WithGroup(name string) slog.Handler { return wrapped{w.Handler.WithGroup(name)} }

// toLogger is a handler that writes to a Logger. It is also an io.Writer for log.SetOutput.
// Other logging packages' hooks behave similarly.
type toLogger func(ctx context.Context, msg string)

func (f toLogger) Enabled(context.Context, slog.Level) bool { return true }
func (f toLogger) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f toLogger) WithGroup(string) slog.Handler            { return f }
func (f toLogger) Handle(ctx context.Context, r slog.Record) error {
	f(ctx, r.Message)
	return nil
}

func (f toLogger) Write(line []byte) (int, error) {
	f(context.Background(), strings.TrimSpace(string(line)))
	return len(line), nil
}

func keepsContext(l *Logger) toLogger {
	return func(ctx context.Context, msg string) { l.Info(ctx, msg, nil) }
}

func losesContext(l *Logger) toLogger {
	return func(_ context.Context, msg string) { l.Info(context.Background(), msg, nil) }
}

func changesGoroutine(l *Logger) toLogger {
	return func(ctx context.Context, msg string) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Info(ctx, msg, nil)
		}()
		<-done
	}
}

// logsMore is a value whose LogValue method logs another record.
type logsMore struct{ l *Logger }

func (v logsMore) LogValue() slog.Value {
	v.l.Info(context.Background(), "hello from a value", nil)
	return slog.StringValue("value")
}

// logChains are programs that log "hello", each through a different chain of handlers. Each
// runs in its own process, because slog's default logger and package log's output are global,
// and because a handler that loops back to itself would hang the process or overflow its
// stack.
var logChains = []struct {
	name            string
	run             func(t *Telemetry)
	idle, recording int // lines of output with disabled and with recording telemetry
}{
	{"fan-out", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		slog.Info("hello")
	}, 1, 1},
	{"fan-out, telemetry first", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{t.SlogHandler(), stdoutText()}))
		slog.Info("hello")
	}, 1, 1},
	{"slog.MultiHandler", func(t *Telemetry) {
		slog.SetDefault(slog.New(slog.NewMultiHandler(stdoutText(), t.SlogHandler())))
		slog.Info("hello")
	}, 1, 1},
	{"fan-out, line of package log", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		stdlog.Print("hello")
	}, 1, 1},
	{"fan-out, handler made when another is the default", func(t *Telemetry) {
		text := stdoutText()
		slog.SetDefault(slog.New(text))
		slog.SetDefault(slog.New(fanOut{text, t.SlogHandler()}))
		slog.Info("hello")
		stdlog.Print("hello")
	}, 2, 2},
	{"fan-out with attributes and groups", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}).With("a", 1).WithGroup("g").With("b", 2))
		slog.With("c", 3).WithGroup("h").Info("hello", "d", 4)
	}, 1, 1},
	{"fan-out of fan-outs and wrappers", func(t *Telemetry) {
		slog.SetDefault(slog.New(wrapped{fanOut{stdoutText(), wrapped{fanOut{wrapped{t.SlogHandler()}, t.SlogHandler()}}}}))
		slog.Info("hello")
		stdlog.Print("hello")
	}, 2, 2},
	{"fan-out, default several times", func(t *Telemetry) {
		h := t.SlogHandler()
		for range 3 {
			slog.SetDefault(slog.New(h))
			slog.SetDefault(slog.New(fanOut{stdoutText(), h}))
			slog.SetDefault(slog.Default())
		}
		slog.Info("hello")
		stdlog.Print("hello")
	}, 2, 2},
	{"fan-out that is not the default", func(t *Telemetry) {
		h := fanOut{stdoutText(), t.SlogHandler()}
		slog.New(h).Info("hello")
		slog.NewLogLogger(h, slog.LevelInfo).Print("hello")
	}, 2, 2},
	{"fan-out of two telemetries", func(t *Telemetry) {
		other := chainTelemetry(OtelConfig{})
		slog.SetDefault(slog.New(fanOut{stdoutText(), other.SlogHandler(), t.SlogHandler()}))
		slog.Info("hello")
	}, 1, 1},
	{"fan-out from many goroutines", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		fromManyGoroutines(func() { slog.Info("hello"); stdlog.Print("hello") })
	}, 160, 160},
	{"alone", func(t *Telemetry) {
		slog.SetDefault(slog.New(t.SlogHandler()))
		slog.Info("hello")
		slog.With("a", 1).WithGroup("g").Warn("hello", "b", 2)
		slog.Debug("hello, but Debug")
		stdlog.Print("hello")
	}, 3, 0},
	{"alone with attributes", func(t *Telemetry) {
		slog.SetDefault(slog.New(t.SlogHandler()).With("a", 1))
		slog.Info("hello")
		stdlog.Print("hello")
	}, 2, 0},
	{"alone after a fan-out", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		slog.SetDefault(slog.New(t.SlogHandler()))
		slog.Info("hello")
	}, 1, 0},
	{"alone from many goroutines", func(t *Telemetry) {
		slog.SetDefault(slog.New(t.SlogHandler()))
		fromManyGoroutines(func() { slog.Info("hello"); stdlog.Print("hello") })
	}, 160, 0},
	{"alone for a time", func(t *Telemetry) {
		first := slog.Default()
		slog.SetDefault(slog.New(t.SlogHandler()))
		slog.SetDefault(first)
		slog.Info("hello")
		stdlog.Print("hello")
	}, 2, 0},
	{"alone, with levels", func(t *Telemetry) {
		h := t.SlogHandlerAt(slog.LevelWarn)
		slog.SetDefault(slog.New(h))
		slog.Info("hello, but Info")
		slog.With("a", 1).Warn("hello")
		slog.SetDefault(slog.New(t.SlogHandlerAt(slog.LevelDebug)))
		slog.Debug("hello")
		slog.New(h).Warn("hello from one that is not the default")
	}, 2, 0},
	{"alone, with trace ids", func(t *Telemetry) {
		first := slog.Default()
		slog.SetDefault(slog.New(TraceHandler(t.SlogHandler())).With("a", 1))
		slog.InfoContext(ExtractContext(context.Background(), testParent, ""), "hello")
		stdlog.Print("hello")
		slog.SetDefault(first)
		slog.Info("hello")
	}, 3, 0},
	{"fan-out with trace ids", func(t *Telemetry) {
		slog.SetDefault(slog.New(TraceHandler(fanOut{TraceHandler(stdoutText()), TraceHandler(t.SlogHandler())})))
		slog.InfoContext(ExtractContext(context.Background(), testParent, ""), "hello")
		stdlog.Print("hello")
	}, 2, 2},
	{"fan-out with levels", func(t *Telemetry) {
		slog.SetDefault(slog.New(slog.NewMultiHandler(stdoutText(), t.SlogHandlerAt(slog.LevelDebug))))
		slog.Info("hello")
		slog.Debug("hello, but Debug")
	}, 1, 1},
	{"behind a wrapper", func(t *Telemetry) {
		slog.SetDefault(slog.New(wrapped{t.SlogHandler()}))
		slog.Info("hello")
		stdlog.Print("hello")
	}, 0, 0},
	{"not the default", func(t *Telemetry) {
		slog.New(t.SlogHandler()).Info("hello")
	}, 0, 0},
	{"log of a client", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		for _, l := range []*slog.Logger{slog.Default(), slog.New(t.SlogHandler())} {
			c, err := New("ws://127.0.0.1:1", WithLogger(l), WithTelemetry(t), WithReconnection(ReconnectionConfig{MaxRetries: ptr(uint64(1))}))
			if err != nil {
				panic(err)
			}
			if c.Connect(context.Background()) == nil {
				panic("connected")
			}
		}
		slog.Info("hello")
	}, 1, 1},

	{"Logger, default of slog", func(t *Telemetry) {
		t.Logger().Info(context.Background(), "hello", nil)
	}, 1, 0},
	{"Logger, fan-out", func(t *Telemetry) {
		slog.SetDefault(slog.New(fanOut{stdoutText(), t.SlogHandler()}))
		t.Logger().Info(context.Background(), "hello", nil)
	}, 1, 0},
	{"Logger, handler alone", func(t *Telemetry) {
		slog.SetDefault(slog.New(t.SlogHandler()))
		t.Logger().Info(context.Background(), "hello", nil)
	}, 1, 0},
	{"Logger behind the default", func(t *Telemetry) {
		slog.SetDefault(slog.New(keepsContext(t.Logger())))
		slog.Info("hello")
		stdlog.Print("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Logger behind the default, context lost", func(t *Telemetry) {
		slog.SetDefault(slog.New(losesContext(t.Logger())))
		slog.Info("hello")
		stdlog.Print("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Logger behind the default, in another goroutine", func(t *Telemetry) {
		slog.SetDefault(slog.New(changesGoroutine(t.Logger())))
		slog.Info("hello")
		stdlog.Print("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Loggers behind the default, from many goroutines", func(t *Telemetry) {
		slog.SetDefault(slog.New(losesContext(t.Logger())))
		//lint:ignore SA1012 callers pass it, and it must not panic
		fromManyGoroutines(func() { slog.Info("hello"); (&Logger{}).Info(nil, "hello", nil) }) //nolint:staticcheck // no context
	}, 160, 0},
	{"Logger in a fan-out", func(t *Telemetry) { // one line from slog, two from the Logger
		slog.SetDefault(slog.New(fanOut{stdoutText(), losesContext(NewLogger(nil)), t.SlogHandler()}))
		slog.Info("hello")
	}, 3, 3},
	{"Logger as the output of package log", func(t *Telemetry) {
		stdlog.SetOutput(losesContext(t.Logger()))
		stdlog.Print("hello")
		slog.Info("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Logger as the output of package log, beside a default of slog", func(t *Telemetry) {
		slog.SetDefault(slog.New(stdoutText()))
		stdlog.SetOutput(losesContext(t.Logger()))
		stdlog.Print("hello")
		slog.Info("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 1},
	{"Logger as the output of package log, behind a wrapper", func(t *Telemetry) {
		slog.SetDefault(slog.New(wrapped{slog.Default().Handler()}))
		stdlog.SetOutput(losesContext(t.Logger()))
		stdlog.Print("hello")
		slog.Info("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Logger behind the default for a time", func(t *Telemetry) {
		first := slog.Default()
		slog.SetDefault(slog.New(losesContext(t.Logger())))
		slog.SetDefault(first)
		slog.Info("hello")
		stdlog.Print("hello")
		t.Logger().Info(context.Background(), "hello", nil)
	}, 3, 0},
	{"Logger in a value", func(t *Telemetry) {
		slog.SetDefault(slog.New(stdoutText()))
		t.Logger().Info(context.Background(), "hello", logsMore{t.Logger()})
	}, 2, 0},
}

func stdoutText() slog.Handler { return slog.NewTextHandler(os.Stdout, nil) }

func fromManyGoroutines(f func()) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				f()
			}
		})
	}
	wg.Wait()
}

func chainTelemetry(cfg OtelConfig) *Telemetry {
	cfg.EngineWSURL = ptr("ws://127.0.0.1:1")
	t, err := StartTelemetry(context.Background(), cfg)
	if err != nil {
		panic(err)
	}
	return t
}

// logChainVariable selects the chain and the telemetry mode in a child process of
// TestLogHandlerChainsDoNotLoop.
const logChainVariable = "III_TEST_LOG_CHAIN"

func TestLogHandlerChainsDoNotLoop(t *testing.T) {
	if chain, mode, child := strings.Cut(os.Getenv(logChainVariable), "/"); child {
		switch cfg := (OtelConfig{}); mode {
		case "disabled":
			t.Setenv("OTEL_ENABLED", "false")
			runLogChain(chain, cfg)
		case "without logs":
			runLogChain(chain, OtelConfig{LogsEnabled: ptr(false)})
		default:
			runLogChain(chain, cfg)
		}
	}
	for i, chain := range logChains {
		modes := []string{"disabled", "recording"}
		if i == 0 {
			modes = append(modes, "without logs")
		}
		for _, mode := range modes {
			t.Run(chain.name+"/"+mode, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
				defer cancel()
				child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLogHandlerChainsDoNotLoop$")
				// GORACE keeps the race detector from delaying the exit of each child by a
				// second.
				child.Env = append(os.Environ(), logChainVariable+"="+chain.name+"/"+mode, "GORACE=atexit_sleep_ms=0")
				out, err := child.CombinedOutput()
				want := chain.idle
				if mode == "recording" {
					want = chain.recording
				}
				if err != nil || !bytes.Contains(out, []byte("end\n")) {
					t.Errorf("the program did not finish (%v):\n%.2000s", err, out)
				} else if n := bytes.Count(out, []byte("hello")); n != want {
					t.Errorf("hello occurs %d times, want %d:\n%.2000s", n, want, out)
				}
			})
		}
	}
}

func runLogChain(name string, cfg OtelConfig) {
	for _, chain := range logChains {
		if chain.name == name {
			chain.run(chainTelemetry(cfg))
			_, _ = os.Stdout.WriteString("end\n")
			os.Exit(0)
		}
	}
	panic("no chain " + name)
}

func TestLogAfterShutdown(t *testing.T) {
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(&logKeeper{}))
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	NewLogger(provider).Info(t.Context(), "late", map[string]any{"a": 1})
	if newSlogHandler(provider, nil).Enabled(t.Context(), slog.LevelError) {
		t.Error("slog records are still enabled after Shutdown")
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
