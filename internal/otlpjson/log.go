package otlpjson

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
)

var logSignal = signal{PrefixLogs, `{"resourceLogs":[`, `,"scopeLogs":[`, `,"logRecords":[`}

// Logs encodes log records. If a record has no severity text, the text is derived from the
// severity. The returned slice is valid until [Encoder.Done]. The frames' data remains valid.
func (e *Encoder) Logs(records []sdklog.Record) []Frame {
	e.batch(&logSignal)
	for i := range records {
		if e.group(records[i].Resource(), records[i].InstrumentationScope()) {
			e.log(&records[i])
		}
	}
	e.rest(func(i int) { e.log(&records[i]) })
	return e.frames
}

func (e *Encoder) log(r *sdklog.Record) {
	for e.begin(); ; {
		e.buf = e.appendLog(e.buf, r)
		if e.end() {
			return
		}
	}
}

func (e *Encoder) appendLog(b []byte, r *sdklog.Record) []byte {
	at, observed := unixNano(r.Timestamp()), unixNano(r.ObservedTimestamp())
	if at == 0 {
		at = observed // the engine sorts and filters by this time
	}
	b = append(b, `{"timeUnixNano":`...)
	b = e.clock.appendTime(b, at)
	b = append(b, `,"observedTimeUnixNano":`...)
	b = e.clock.appendTime(b, observed)

	severity, text := r.Severity(), r.SeverityText()
	if severity = min(max(severity, log.SeverityUndefined), log.SeverityFatal4); severity != log.SeverityUndefined {
		b = append(b, `,"severityNumber":`...)
		b = strconv.AppendInt(b, int64(severity), 10)
		if text == "" {
			// The engine's filters and log triggers use the text rather than the number.
			text = SeverityText(severity)
		}
	}
	if text != "" {
		b = append(b, `,"severityText":`...)
		b = e.text(b, text)
	}
	if body := r.Body(); body.Type() != attribute.EMPTY {
		b = append(b, `,"body":`...)
		b = e.value(b, &body, 0)
	}

	b, dropped := e.appendLogAttributes(b, r)
	b = appendDropped(b, `,"droppedAttributesCount":`, r.DroppedAttributes()+dropped)
	if f := r.TraceFlags(); f != 0 {
		b = append(b, `,"flags":`...)
		b = strconv.AppendUint(b, uint64(f), 10)
	}
	if id := r.TraceID(); id.IsValid() {
		b = append(b, `,"traceId":"`...)
		b = append(appendHex(b, id[:]), '"')
	}
	if id := r.SpanID(); id.IsValid() {
		b = append(b, `,"spanId":"`...)
		b = append(appendHex(b, id[:]), '"')
	}
	if name := r.EventName(); name != "" {
		b = append(b, `,"eventName":`...)
		b = e.text(b, name)
	}
	return append(b, '}')
}

// SeverityText returns the name that the engine's own logs use for s: TRACE, DEBUG, INFO,
// WARN, ERROR or FATAL. s must be in the range from [log.SeverityTrace1] to
// [log.SeverityFatal4].
func SeverityText(s log.Severity) string {
	return [...]string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}[(s-1)/4]
}

func (e *Encoder) appendLogAttributes(b []byte, r *sdklog.Record) ([]byte, int) {
	total := r.AttributesLen()
	if total == 0 || e.caps.items == 0 {
		return b, total
	}
	n := 0
	b = append(b, `,"attributes":[`...)
	r.WalkAttributes(func(kv attribute.KeyValue) bool {
		if n == e.caps.items {
			return false
		}
		if n > 0 {
			b = append(b, ',')
		}
		n++
		b = e.keyValue(b, &kv, 0)
		return len(b) <= e.stop
	})
	return append(b, ']'), total - n
}
