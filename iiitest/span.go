package iiitest

import (
	"strings"
	"time"

	"github.com/iii-go/iii"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Span is a span that the engine has received. Unlike the results of engine::traces::*, a Span
// is not redacted and its values keep their types.
type Span struct {
	TraceID, SpanID string // hexadecimal, as received
	ParentSpanID    string // "" for a root span
	TraceState      string // W3C trace state
	Flags           uint32 // W3C trace flags in the low byte, OpenTelemetry flags above
	Name            string
	Kind            trace.SpanKind // 0 if missing
	Start           time.Time      // zero if missing
	End             time.Time      // zero if the span has only started, see LiveSpans

	// Each value in Attributes is nil or has the type string, bool, int64, float64, []byte,
	// []any or map[string]any. If a key is repeated, the last value wins.
	Attributes map[string]any
	Events     []Event
	Links      []Link
	Status     Status
	Resource   Resource
	Scope      Scope

	DroppedAttributes, DroppedEvents, DroppedLinks uint32 // as reported by the exporter
}

// Status is a span's outcome.
type Status struct {
	Code    codes.Code
	Message string
}

// Event is a timestamped event of a span.
type Event struct {
	Name              string
	Time              time.Time
	Attributes        map[string]any // see Span.Attributes
	DroppedAttributes uint32
}

// Link is a link from one span to another.
type Link struct {
	TraceID, SpanID   string
	TraceState        string
	Flags             uint32
	Attributes        map[string]any // see Span.Attributes
	DroppedAttributes uint32
}

type spanRecord struct {
	span   Span
	stored iii.StoredSpan
	size   int // size as JSON
}

func readSpans(data []byte) ([]spanRecord, error) {
	var list []spanRecord
	done := 0
	err := readOTLP(data, func(r *otlpReader) {
		r.batch("resourceSpans", "scopeSpans", "spans",
			func() { list = append(list, r.span()) },
			func(attributes []attribute, url string, scopes []Scope) {
				resource := Resource{Attributes: attributeMap(attributes), SchemaURL: url}
				service := serviceOf(attributes)
				for i, scope := range scopes {
					record := &list[done+i]
					record.span.Resource, record.span.Scope = resource, scope
					record.stored.ServiceName = service
					record.stored.InstrumentationScopeName = scope.Name
					record.stored.InstrumentationScopeVersion = scope.Version
				}
				done = len(list)
			})
	})
	return list, err
}

// spanStatus converts an OTLP status code. OTLP uses 1 for OK and 2 for an error. In
// OpenTelemetry's package codes, the numbers are swapped.
func spanStatus(code int32) (codes.Code, string) {
	switch code {
	case 1:
		return codes.Ok, "ok"
	case 2:
		return codes.Error, "error"
	default:
		return codes.Unset, "unset"
	}
}

func (r *otlpReader) span() spanRecord {
	var s Span
	var stored iii.StoredSpan
	r.s.next()
	begin := r.s.i
	stored.Status = "unset"
	r.object(func(key string) bool {
		switch key {
		case "traceId":
			s.TraceID = r.str()
		case "spanId":
			s.SpanID = r.str()
		case "parentSpanId":
			if id := r.optStr(); strings.Trim(id, "0") != "" {
				s.ParentSpanID = id
				stored.ParentSpanID = &id
			}
		case "flags":
			if !r.null() {
				s.Flags = r.uint32()
				flags := s.Flags
				stored.Flags = &flags
			}
		case "name":
			s.Name = r.str()
		case "kind":
			if !r.null() {
				s.Kind = trace.SpanKind(r.int32())
			}
		case "startTimeUnixNano":
			stored.StartTimeUnixNano = r.uint64()
		case "endTimeUnixNano":
			stored.EndTimeUnixNano = r.uint64()
		case "attributes":
			list := r.attributes()
			s.Attributes, stored.Attributes = attributeMap(list), redactedAttributes(list)
		case "events":
			r.array(func() {
				event, its := r.event()
				s.Events, stored.Events = append(s.Events, event), append(stored.Events, its)
			})
		case "links":
			r.array(func() {
				link, its := r.link()
				s.Links, stored.Links = append(s.Links, link), append(stored.Links, its)
			})
		case "status":
			if !r.null() {
				s.Status, stored.Status = r.status()
				stored.StatusDescription = s.Status.Message
			}
		case "traceState":
			s.TraceState = r.lenientStr()
			return false
		case "droppedAttributesCount":
			s.DroppedAttributes = r.lenientUint()
			return false
		case "droppedEventsCount":
			s.DroppedEvents = r.lenientUint()
			return false
		case "droppedLinksCount":
			s.DroppedLinks = r.lenientUint()
			return false
		default:
			return false
		}
		return true
	}, "traceId", "spanId", "name")
	s.Start, s.End = unixNano(stored.StartTimeUnixNano), unixNano(stored.EndTimeUnixNano)
	stored.TraceID, stored.SpanID, stored.Name = s.TraceID, s.SpanID, s.Name
	stored.Pending = stored.EndTimeUnixNano == 0
	return spanRecord{span: s, stored: stored, size: r.s.i - begin}
}

func (r *otlpReader) status() (s Status, text string) {
	text = "unset"
	r.object(func(key string) bool {
		switch key {
		case "code":
			s.Code, text = spanStatus(r.int32())
		case "message":
			s.Message = r.optStr()
		default:
			return false
		}
		return true
	})
	return s, text
}

func (r *otlpReader) event() (e Event, stored iii.StoredEvent) {
	r.object(func(key string) bool {
		switch key {
		case "name":
			e.Name = r.str()
		case "timeUnixNano":
			stored.TimestampUnixNano = r.uint64()
		case "attributes":
			list := r.attributes()
			e.Attributes, stored.Attributes = attributeMap(list), redactedAttributes(list)
		case "droppedAttributesCount":
			e.DroppedAttributes = r.lenientUint()
			return false
		default:
			return false
		}
		return true
	})
	stored.Name, e.Time = e.Name, unixNano(stored.TimestampUnixNano)
	return e, stored
}

func (r *otlpReader) link() (l Link, stored iii.StoredLink) {
	r.object(func(key string) bool {
		switch key {
		case "traceId":
			l.TraceID = r.str()
		case "spanId":
			l.SpanID = r.str()
		case "traceState":
			if !r.null() {
				l.TraceState = r.str()
				state := l.TraceState
				stored.TraceState = &state
			}
		case "attributes":
			list := r.attributes()
			l.Attributes, stored.Attributes = attributeMap(list), redactedAttributes(list)
		case "flags":
			l.Flags = r.lenientUint()
			return false
		case "droppedAttributesCount":
			l.DroppedAttributes = r.lenientUint()
			return false
		default:
			return false
		}
		return true
	})
	stored.TraceID, stored.SpanID = l.TraceID, l.SpanID
	return l, stored
}
