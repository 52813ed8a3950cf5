package iiitest

import (
	"regexp"
	"strings"
	"time"

	otellog "go.opentelemetry.io/otel/log"
)

// LogRecord is a decoded log record from a worker's telemetry. Attributes["log.data"] is a
// map[string]any that contains the attributes of a log/slog record or the data of an
// [iii.Logger] record.
type LogRecord struct {
	Time, Observed    time.Time        // zero if missing
	Severity          otellog.Severity // 0 if missing
	SeverityText      string
	Body              any            // see Span.Attributes
	Attributes        map[string]any // see Span.Attributes
	TraceID, SpanID   string         // hexadecimal, or "" outside a trace
	Flags             uint32         // W3C trace flags
	EventName         string
	DroppedAttributes uint32 // as counted by the exporter
	Resource          Resource
	Scope             Scope
}

// otlpLog holds the public and the stored form of a log record.
type otlpLog struct {
	public LogRecord
	stored logRecord
}

func readLogs(data []byte) ([]otlpLog, error) {
	var list []otlpLog
	done := 0
	err := readOTLP(data, func(r *otlpReader) {
		r.batch("resourceLogs", "scopeLogs", "logRecords",
			func() { list = append(list, r.logRecord()) },
			func(attributes []attribute, url string, scopes []Scope) {
				resource := Resource{Attributes: attributeMap(attributes), SchemaURL: url}
				service := serviceOf(attributes)
				texts := make(map[string]string, len(attributes))
				for _, a := range attributes {
					texts[a.key] = valueText(a.value)
				}
				for i, scope := range scopes {
					record := &list[done+i]
					record.public.Resource, record.public.Scope = resource, scope
					record.stored.resource, record.stored.service = texts, service
					record.stored.scopeName, record.stored.scopeVersion = nullable(scope.Name), nullable(scope.Version)
				}
				done = len(list)
			})
	})
	return list, err
}

func (r *otlpReader) logRecord() otlpLog {
	var l LogRecord
	var stored logRecord
	r.s.next()
	begin := r.s.i
	r.object(func(key string) bool {
		switch key {
		case "timeUnixNano":
			stored.time = r.uint64()
		case "observedTimeUnixNano":
			stored.observed = r.uint64()
		case "severityNumber":
			if !r.null() {
				stored.severity = severity(r.int32())
			}
		case "severityText":
			l.SeverityText = r.optStr()
		case "body":
			if !r.null() {
				l.Body = r.anyValue()
			}
		case "attributes":
			list := r.attributes()
			l.Attributes = attributeMap(list)
			stored.attributes = make(map[string]any, len(list))
			for _, a := range list {
				if text, ok := a.value.(string); ok {
					a.value = withoutANSI(text)
				}
				stored.attributes[a.key] = valueJSON(a.value)
			}
		case "traceId":
			l.TraceID = r.logID(&stored.traceID)
		case "spanId":
			l.SpanID = r.logID(&stored.spanID)
		case "flags":
			if !r.null() {
				l.Flags = r.uint32()
			}
		case "eventName":
			l.EventName = r.lenientStr()
			return false
		case "droppedAttributesCount":
			l.DroppedAttributes = r.lenientUint()
			return false
		default:
			return false
		}
		return true
	})
	l.Time, l.Observed = unixNano(stored.time), unixNano(stored.observed)
	l.Severity = otellog.Severity(stored.severity)
	stored.severityText, stored.body = l.SeverityText, withoutANSI(valueText(l.Body))
	stored.size = r.s.i - begin
	return otlpLog{public: l, stored: stored}
}

// logID reads a trace or span id. A null, empty or all-zero id is treated as missing.
func (r *otlpReader) logID(stored **string) string {
	id := r.optStr()
	if strings.Trim(id, "0") == "" {
		return ""
	}
	*stored = &id
	return id
}

var ansiPattern = regexp.MustCompile(`\x1b\[[0-9:;<=>?]*[ -/]*[@-~]`)

// withoutANSI removes ANSI escape sequences, such as colors.
func withoutANSI(text string) string {
	if strings.IndexByte(text, '\x1b') < 0 {
		return text
	}
	return ansiPattern.ReplaceAllString(text, "")
}

// stored returns the number of stored records.
func (l *logs) stored() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records.list)
}
