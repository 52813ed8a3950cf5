package otlp

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
)

type record struct {
	Origin          origin
	Time, Observed  uint64
	Severity        plog.SeverityNumber
	Text            string
	Body            any
	Attributes      map[string]any
	Dropped         uint32
	Flags           plog.LogRecordFlags
	TraceID, SpanID string
	Event           string
}

func recordedLog(r *sdklog.Record) record {
	d := record{
		Origin: recordedOrigin(r.Resource(), r.InstrumentationScope()),
		Time:   nanos(r.Timestamp()), Observed: nanos(r.ObservedTimestamp()),
		Severity: plog.SeverityNumber(r.Severity()), Text: r.SeverityText(), Body: recordedValue(r.Body(), 0),
		Dropped: uint32(r.DroppedAttributes()), Flags: plog.LogRecordFlags(r.TraceFlags()), Event: r.EventName(),
	}
	if d.Time == 0 {
		d.Time = d.Observed
	}
	if d.Text == "" && r.Severity() > 0 { // the engine uses only the text
		d.Text = []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}[(r.Severity()-1)/4]
	}
	if id := r.TraceID(); id.IsValid() {
		d.TraceID = id.String()
	}
	if id := r.SpanID(); id.IsValid() {
		d.SpanID = id.String()
	}
	var attrs []attribute.KeyValue
	r.WalkAttributes(func(kv attribute.KeyValue) bool { attrs = append(attrs, kv); return true })
	d.Attributes = recordedAttributes(attrs)
	return d
}

// logKeeper keeps the log records emitted through the SDK.
type logKeeper struct{ records []record }

func (k *logKeeper) OnEmit(_ context.Context, r *sdklog.Record) error {
	k.records = append(k.records, recordedLog(r))
	return nil
}
func (k *logKeeper) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (k *logKeeper) Shutdown(context.Context) error                         { return nil }
func (k *logKeeper) ForceFlush(context.Context) error                       { return nil }

func decodedLogs(t *testing.T, frames [][]byte) (records []record) {
	t.Helper()
	for _, data := range frames {
		logs, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(data)
		if err != nil {
			t.Fatalf("%v in %.1000s", err, data)
		}
		for _, rl := range logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					records = append(records, record{
						Origin: decodedOrigin(rl.Resource(), rl.SchemaUrl(), sl.Scope(), sl.SchemaUrl()),
						Time:   uint64(r.Timestamp()), Observed: uint64(r.ObservedTimestamp()), Severity: r.SeverityNumber(), Text: r.SeverityText(),
						Body: r.Body().AsRaw(), Attributes: attributesOf(r.Attributes()), Dropped: r.DroppedAttributesCount(), Flags: r.Flags(),
						TraceID: r.TraceID().String(), SpanID: r.SpanID().String(), Event: r.EventName(),
					})
				}
			}
		}
	}
	return records
}

func TestLogs(t *testing.T) {
	e, s := connect(t)
	g := newGenerator()
	kept := &logKeeper{}
	provider := sdklog.NewLoggerProvider(
		sdklog.WithResource(resource.NewWithAttributes("https://example.com/schema", g.attributes(9, 0)...)),
		sdklog.WithAttributeCountLimit(6), sdklog.WithAttributeValueDepthLimit(-1),
		sdklog.WithProcessor(kept), sdklog.WithProcessor(sdklog.NewSimpleProcessor(iii.NewEngineLogExporter(s))),
	)
	loggers := []log.Logger{
		provider.Logger("plain"),
		provider.Logger("whole", log.WithInstrumentationVersion("v1"), log.WithSchemaURL("https://example.com/scope"), log.WithInstrumentationAttributes(attribute.Bool("b", true))),
	}
	for range 1000 {
		ctx := t.Context()
		if g.IntN(2) == 0 {
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1, byte(g.Uint32())}, SpanID: trace.SpanID{2, byte(g.Uint32())}, TraceFlags: trace.TraceFlags(g.IntN(4)),
			}))
		}
		var r log.Record
		if g.IntN(3) > 0 {
			r.SetTimestamp(g.time())
		}
		if g.IntN(3) > 0 {
			r.SetObservedTimestamp(g.time())
		}
		r.SetSeverity(log.Severity(g.IntN(25)))
		r.SetSeverityText(pick(g, "", "INFO", "odd ☕"))
		r.SetBody(g.value(0))
		r.SetEventName(pick(g, "", "event.name"))
		r.AddAttributes(g.attributes(8, 0)...)
		pick(g, loggers...).Emit(ctx, r)
	}
	got := decodedLogs(t, frames(t, e, s, "LOGS"))
	if len(got) != 1000 || len(kept.records) != 1000 {
		t.Fatalf("%d records arrived, %d were recorded", len(got), len(kept.records))
	}
	dropped := uint32(0)
	for i, want := range kept.records {
		dropped += want.Dropped
		if d := diff(want, got[i]); d != "" {
			t.Fatalf("record %d (-recorded +decoded):\n%s", i, d)
		}
	}
	if dropped == 0 {
		t.Error("nothing was dropped by the limits: their counts were not compared")
	}
}

// Records from the logger and from the slog handler arrive in order.
func TestLogger(t *testing.T) {
	e, _ := connect(t)
	url, name := e.URL(), "logger"
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url, ServiceName: &name})
	if err != nil {
		t.Fatal(err)
	}
	logger := telemetry.Logger()
	begin := time.Now()
	for i := range 500 {
		logger.Warn(t.Context(), fmt.Sprint("message ", i), map[string]any{"n": i, "list": []any{1, "x", nil, 1.5}, "big": int64(1<<53 + 1)})
	}
	if err := telemetry.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := decodedLogs(t, frames(t, e, telemetry.Connection(), "LOGS"))
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 500 {
		t.Fatalf("%d records arrived", len(got))
	}
	for i, r := range got {
		if at := time.Unix(0, int64(r.Time)); at.Before(begin) || at.After(time.Now()) {
			t.Errorf("record %d is of %v", i, at)
		}
		want := record{
			Origin: r.Origin, Time: r.Time, Observed: r.Observed, Severity: plog.SeverityNumberWarn, Text: "WARN", Body: fmt.Sprint("message ", i),
			Attributes: map[string]any{"log.data": map[string]any{
				"n": int64(i), "list": []any{int64(1), "x", "", 1.5}, "big": int64(1<<53 + 1),
			}},
		}
		if d := diff(want, r); d != "" {
			t.Fatalf("record %d (-logged +decoded):\n%s", i, d)
		}
	}
	if got[0].Origin.Scope != "iii-go-sdk" || got[0].Origin.Resource["service.name"] != "logger" {
		t.Errorf("origin %+v", got[0].Origin)
	}
}
