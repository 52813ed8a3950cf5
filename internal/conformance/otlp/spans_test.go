package otlp

import (
	"context"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
)

type span struct {
	Origin                                     origin
	TraceID, SpanID, ParentID, State           string
	Flags                                      uint32
	Name                                       string
	Kind                                       ptrace.SpanKind
	Start, End                                 uint64
	Attributes                                 map[string]any
	Events                                     []event
	Links                                      []link
	Status                                     ptrace.StatusCode
	Message                                    string
	DroppedAttributes, DroppedEvents, DropLink uint32
}

type event struct {
	Name       string
	Time       uint64
	Attributes map[string]any
	Dropped    uint32
}

type link struct {
	TraceID, SpanID, State string
	Flags                  uint32
	Attributes             map[string]any
	Dropped                uint32
}

// flags returns a span's or link's OTLP flags: the W3C flags of sc, and the bits that state
// whether related, the context of the parent or the linked span, is remote.
func flags(sc, related trace.SpanContext) uint32 {
	f := uint32(sc.TraceFlags()) | 0x100
	if related.IsRemote() {
		f |= 0x200
	}
	return f
}

func recordedSpan(s sdktrace.ReadOnlySpan) span {
	sc := s.SpanContext()
	r := span{
		Origin:  recordedOrigin(s.Resource(), s.InstrumentationScope()),
		TraceID: sc.TraceID().String(), SpanID: sc.SpanID().String(), State: sc.TraceState().String(), Flags: flags(sc, s.Parent()),
		Name: s.Name(), Kind: kinds[s.SpanKind()], Start: nanos(s.StartTime()), End: nanos(s.EndTime()),
		Attributes: recordedAttributes(s.Attributes()), Status: statuses[s.Status().Code], Message: s.Status().Description,
		DroppedAttributes: uint32(s.DroppedAttributes()), DroppedEvents: uint32(s.DroppedEvents()), DropLink: uint32(s.DroppedLinks()),
	}
	if id := s.Parent().SpanID(); id.IsValid() {
		r.ParentID = id.String()
	}
	for _, e := range s.Events() {
		r.Events = append(r.Events, event{e.Name, nanos(e.Time), recordedAttributes(e.Attributes), uint32(e.DroppedAttributeCount)})
	}
	for _, l := range s.Links() {
		lc := l.SpanContext
		r.Links = append(r.Links, link{
			lc.TraceID().String(), lc.SpanID().String(), lc.TraceState().String(), flags(lc, lc),
			recordedAttributes(l.Attributes), uint32(l.DroppedAttributeCount),
		})
	}
	return r
}

var kinds = map[trace.SpanKind]ptrace.SpanKind{
	trace.SpanKindInternal: ptrace.SpanKindInternal, trace.SpanKindServer: ptrace.SpanKindServer, trace.SpanKindClient: ptrace.SpanKindClient,
	trace.SpanKindProducer: ptrace.SpanKindProducer, trace.SpanKindConsumer: ptrace.SpanKindConsumer,
}

var statuses = map[codes.Code]ptrace.StatusCode{
	codes.Unset: ptrace.StatusCodeUnset, codes.Ok: ptrace.StatusCodeOk, codes.Error: ptrace.StatusCodeError,
}

// decodedSpans decodes the spans in frames. It separates finished spans from snapshots of
// spans that had just started.
func decodedSpans(t *testing.T, frames [][]byte) (ended, started map[string]span) {
	t.Helper()
	ended, started = map[string]span{}, map[string]span{}
	for _, data := range frames {
		traces, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(data)
		if err != nil {
			t.Fatalf("%v in %.1000s", err, data)
		}
		for _, rs := range traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					d := decodedSpan(s)
					d.Origin = decodedOrigin(rs.Resource(), rs.SchemaUrl(), ss.Scope(), ss.SchemaUrl())
					into := ended
					if d.End == 0 {
						into = started
					}
					if _, twice := into[d.SpanID]; twice {
						t.Errorf("span %s arrives twice", d.SpanID)
					}
					into[d.SpanID] = d
				}
			}
		}
	}
	return ended, started
}

func decodedSpan(s ptrace.Span) span {
	d := span{
		TraceID: s.TraceID().String(), SpanID: s.SpanID().String(), ParentID: s.ParentSpanID().String(), State: s.TraceState().AsRaw(), Flags: s.Flags(),
		Name: s.Name(), Kind: s.Kind(), Start: uint64(s.StartTimestamp()), End: uint64(s.EndTimestamp()),
		Attributes: attributesOf(s.Attributes()), Status: s.Status().Code(), Message: s.Status().Message(),
		DroppedAttributes: s.DroppedAttributesCount(), DroppedEvents: s.DroppedEventsCount(), DropLink: s.DroppedLinksCount(),
	}
	for _, e := range s.Events().All() {
		d.Events = append(d.Events, event{e.Name(), uint64(e.Timestamp()), attributesOf(e.Attributes()), e.DroppedAttributesCount()})
	}
	for _, l := range s.Links().All() {
		d.Links = append(d.Links, link{
			l.TraceID().String(), l.SpanID().String(), l.TraceState().AsRaw(), l.Flags(), attributesOf(l.Attributes()), l.DroppedAttributesCount(),
		})
	}
	return d
}

func attributesOf(m pcommon.Map) map[string]any { return m.AsRaw() }

type spanKeeper struct {
	spans []sdktrace.ReadOnlySpan
	live  map[string]span
}

func (k *spanKeeper) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if k.live != nil && s.SpanContext().IsSampled() {
		k.live[s.SpanContext().SpanID().String()] = recordedSpan(s)
	}
}
func (k *spanKeeper) OnEnd(s sdktrace.ReadOnlySpan)    { k.spans = append(k.spans, s) }
func (k *spanKeeper) Shutdown(context.Context) error   { return nil }
func (k *spanKeeper) ForceFlush(context.Context) error { return nil }

func (g *generator) record(ctx context.Context, n int, tracers ...trace.Tracer) {
	state, _ := trace.ParseTraceState("vendor=x,other=y")
	for range n {
		remote := trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{byte(g.Uint32()), 1}, SpanID: trace.SpanID{byte(g.Uint32()), 2}, TraceFlags: pick(g, trace.FlagsSampled, trace.FlagsSampled|trace.FlagsRandom),
			TraceState: pick(g, state, trace.TraceState{}), Remote: g.IntN(2) == 0,
		})
		if g.IntN(2) == 0 {
			ctx = trace.ContextWithSpanContext(ctx, remote)
		}
		opts := []trace.SpanStartOption{
			trace.WithAttributes(g.attributes(8, 0)...), trace.WithTimestamp(g.time()),
			trace.WithSpanKind(pick(g, trace.SpanKindInternal, trace.SpanKindServer, trace.SpanKindClient, trace.SpanKindProducer, trace.SpanKindConsumer)),
			trace.WithLinks(several(g, 4, func() trace.Link { return trace.Link{SpanContext: remote, Attributes: g.attributes(4, 0)} })...),
		}
		if g.IntN(3) == 0 {
			opts = append(opts, trace.WithNewRoot())
		}
		_, s := pick(g, tracers...).Start(ctx, g.text(), opts...)
		for range g.IntN(6) {
			s.AddEvent(g.text(), trace.WithAttributes(g.attributes(4, 0)...), trace.WithTimestamp(g.time()))
		}
		s.SetAttributes(g.attributes(6, 0)...)
		s.SetStatus(pick(g, codes.Unset, codes.Ok, codes.Error), g.text())
		s.End(trace.WithTimestamp(g.time()))
	}
}

func TestSpans(t *testing.T) {
	e, s := connect(t)
	g := newGenerator()
	kept := &spanKeeper{}
	limits := sdktrace.NewSpanLimits()
	limits.AttributeCountLimit, limits.EventCountLimit, limits.LinkCountLimit = 9, 4, 3
	limits.AttributePerEventCountLimit, limits.AttributePerLinkCountLimit = 3, 3
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewWithAttributes("https://example.com/schema", g.attributes(9, 0)...)),
		sdktrace.WithRawSpanLimits(limits), sdktrace.WithSpanProcessor(kept), sdktrace.WithBatcher(iii.NewEngineSpanExporter(s)),
	)
	g.record(t.Context(), 1000,
		provider.Tracer("plain"),
		provider.Tracer("whole", trace.WithInstrumentationVersion("v1"), trace.WithSchemaURL("https://example.com/scope"),
			trace.WithInstrumentationAttributes(attribute.String("a", "b"), attribute.Int("n", 1))),
		provider.Tracer("plain", trace.WithInstrumentationVersion("v2")),
	)
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, started := decodedSpans(t, frames(t, e, s, "OTLP"))
	if len(ended) != len(kept.spans) || len(kept.spans) != 1000 || len(started) != 0 {
		t.Errorf("%d spans arrived, and %d starts; %d were recorded", len(ended), len(started), len(kept.spans))
	}
	var dropped int
	for _, recorded := range kept.spans {
		want := recordedSpan(recorded)
		dropped += int(want.DroppedAttributes + want.DroppedEvents + want.DropLink)
		if d := diff(want, ended[want.SpanID]); d != "" {
			t.Fatalf("(-recorded +decoded):\n%s", d)
		}
	}
	if dropped == 0 {
		t.Error("nothing was dropped by the limits: their counts were not compared")
	}
}

func TestLiveSpans(t *testing.T) {
	e, _ := connect(t)
	g := newGenerator()
	url, name := e.URL(), "live"
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url, ServiceName: &name})
	if err != nil {
		t.Fatal(err)
	}
	kept := &spanKeeper{live: map[string]span{}}
	provider := telemetry.TracerProvider().(*sdktrace.TracerProvider)
	provider.RegisterSpanProcessor(kept)
	g.record(t.Context(), 300, telemetry.Tracer())
	if err := telemetry.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, started := decodedSpans(t, frames(t, e, telemetry.Connection(), "OTLP"))
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(started) != 300 || len(ended) != 300 || len(kept.spans) != 300 {
		t.Errorf("%d starts and %d ends arrived, of %d", len(started), len(ended), len(kept.spans))
	}
	for id, want := range kept.live {
		if d := diff(want, started[id]); d != "" {
			t.Fatalf("start (-recorded +decoded):\n%s", d)
		}
	}
	for _, recorded := range kept.spans {
		want := recordedSpan(recorded)
		if d := diff(want, ended[want.SpanID]); d != "" {
			t.Fatalf("end (-recorded +decoded):\n%s", d)
		}
	}
}
