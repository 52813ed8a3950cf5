package otlpjson

import (
	"math"
	"strconv"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

var spanSignal = signal{PrefixTraces, `{"resourceSpans":[`, `,"scopeSpans":[`, `,"spans":[`}

// Spans encodes finished spans. The slice is valid until [Encoder.Done], and its frames' data
// remains valid after that.
func (e *Encoder) Spans(spans []sdktrace.ReadOnlySpan) []Frame {
	e.batch(&spanSignal)
	for _, s := range spans {
		if e.group(s.Resource(), s.InstrumentationScope()) {
			e.span(s, false)
		}
	}
	e.rest(func(i int) { e.span(spans[i], false) })
	return e.frames
}

// LiveSpan encodes a snapshot of a span that has just started, in a frame marked as live. The
// snapshot has no end time, so the engine shows the span as running. The result has the same
// lifetime as that of [Encoder.Spans].
func (e *Encoder) LiveSpan(s sdktrace.ReadOnlySpan) []Frame {
	e.batch(&spanSignal)
	scope := s.InstrumentationScope()
	e.setResource(s.Resource())
	e.setScope(&scope)
	e.span(s, true)
	e.finish()
	for i := range e.frames {
		e.frames[i].Live = true
	}
	return e.frames
}

func (e *Encoder) span(s sdktrace.ReadOnlySpan, live bool) {
	for e.begin(); ; {
		e.buf = e.appendSpan(e.buf, s, live)
		if e.end() {
			return
		}
	}
}

func (e *Encoder) appendSpan(b []byte, s sdktrace.ReadOnlySpan, live bool) []byte {
	sc, parent := s.SpanContext(), s.Parent()
	b = append(b, '{')
	b = appendIDs(b, &sc)
	if id := parent.SpanID(); id.IsValid() {
		b = append(b, `,"parentSpanId":"`...)
		b = append(appendHex(b, id[:]), '"')
	}
	b = e.appendTraceState(b, &sc)
	b = append(b, `,"flags":`...)
	b = strconv.AppendUint(b, spanFlags(sc.TraceFlags(), parent.IsRemote()), 10)
	b = append(b, `,"name":"`...)
	b = e.chars(b, s.Name())
	b = append(b, `","kind":`...)
	b = append(b, '0'+byte(spanKind(s.SpanKind())))
	b = append(b, `,"startTimeUnixNano":`...)
	b = e.clock.appendTime(b, unixNano(s.StartTime()))
	b = append(b, `,"endTimeUnixNano":`...)
	end := uint64(0)
	if !live {
		// An end time of 0 would make the engine show the span as running for an hour.
		end = max(unixNano(s.EndTime()), 1)
	}
	b = e.clock.appendTime(b, end)

	attrs := s.Attributes()
	b, dropped := e.attributes(b, `,"attributes":[`, attrs)
	b = appendDropped(b, `,"droppedAttributesCount":`, s.DroppedAttributes()+dropped)
	if !live {
		events := s.Events()
		b, dropped = e.appendEvents(b, events)
		b = appendDropped(b, `,"droppedEventsCount":`, s.DroppedEvents()+dropped)
	}
	b, dropped = e.appendLinks(b, s.Links())
	b = appendDropped(b, `,"droppedLinksCount":`, s.DroppedLinks()+dropped)
	b = e.appendStatus(b, s.Status())
	return append(b, '}')
}

func appendIDs(b []byte, sc *trace.SpanContext) []byte {
	traceID, spanID := sc.TraceID(), sc.SpanID()
	b = append(b, `"traceId":"`...)
	b = appendHex(b, traceID[:])
	b = append(b, `","spanId":"`...)
	return append(appendHex(b, spanID[:]), '"')
}

func (e *Encoder) appendTraceState(b []byte, sc *trace.SpanContext) []byte {
	state := sc.TraceState()
	if state.Len() == 0 {
		return b
	}
	b = append(b, `,"traceState":`...)
	return e.text(b, state.String())
}

// spanFlags returns f with OTLP's additional bits, which tell whether the parent or the linked
// span is remote.
func spanFlags(f trace.TraceFlags, remote bool) uint64 {
	const known, isRemote = 0x100, 0x200
	if remote {
		return uint64(f) | known | isRemote
	}
	return uint64(f) | known
}

func spanKind(k trace.SpanKind) trace.SpanKind {
	if k < trace.SpanKindUnspecified || k > trace.SpanKindConsumer {
		return trace.SpanKindUnspecified
	}
	return k // OTLP uses the same numbers
}

func appendDropped(b []byte, key string, n int) []byte {
	if n <= 0 {
		return b
	}
	b = append(b, key...)
	return strconv.AppendInt(b, min(int64(n), math.MaxUint32), 10)
}

func (e *Encoder) appendEvents(b []byte, events []sdktrace.Event) ([]byte, int) {
	n := min(len(events), e.caps.items)
	if n == 0 {
		return b, len(events)
	}
	b = append(b, `,"events":[`...)
	for i := range events[:n] {
		ev := &events[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"timeUnixNano":`...)
		b = e.clock.appendTime(b, unixNano(ev.Time))
		b = append(b, `,"name":"`...)
		b = append(e.chars(b, ev.Name), '"')
		var dropped int
		b, dropped = e.attributes(b, `,"attributes":[`, ev.Attributes)
		b = appendDropped(b, `,"droppedAttributesCount":`, ev.DroppedAttributeCount+dropped)
		b = append(b, '}')
		if len(b) > e.stop {
			break
		}
	}
	return append(b, ']'), len(events) - n
}

func (e *Encoder) appendLinks(b []byte, links []sdktrace.Link) ([]byte, int) {
	n := min(len(links), e.caps.items)
	if n == 0 {
		return b, len(links)
	}
	b = append(b, `,"links":[`...)
	for i := range links[:n] {
		l := &links[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendIDs(b, &l.SpanContext)
		b = e.appendTraceState(b, &l.SpanContext)
		b = append(b, `,"flags":`...)
		b = strconv.AppendUint(b, spanFlags(l.SpanContext.TraceFlags(), l.SpanContext.IsRemote()), 10)
		var dropped int
		b, dropped = e.attributes(b, `,"attributes":[`, l.Attributes)
		b = appendDropped(b, `,"droppedAttributesCount":`, l.DroppedAttributeCount+dropped)
		b = append(b, '}')
		if len(b) > e.stop {
			break
		}
	}
	return append(b, ']'), len(links) - n
}

// appendStatus appends a span's status. OTLP and package codes number statuses differently.
func (e *Encoder) appendStatus(b []byte, s sdktrace.Status) []byte {
	switch s.Code {
	case codes.Ok:
		return append(b, `,"status":{"code":1}`...)
	case codes.Error:
		b = append(b, `,"status":{"code":2`...)
		if s.Description != "" {
			b = append(b, `,"message":`...)
			b = e.text(b, s.Description)
		}
		return append(b, '}')
	}
	return append(b, `,"status":{}`...)
}
