package iiitest

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// TelemetryFrame is a telemetry frame as received, either on /otel or on a worker's
// connection.
type TelemetryFrame struct {
	Time   time.Time       // time of arrival
	Worker string          // worker id; "" on /otel
	Prefix string          // OTLP, MTRC or LOGS
	Data   json.RawMessage // everything after the prefix
}

// telemetryLog keeps telemetry frames and the records decoded from them. It is separate from
// the stores behind the engine's query functions because workers can clear those stores.
type telemetryLog struct {
	mu      sync.Mutex
	frames  recent[TelemetryFrame]
	spans   recent[spanRecord]
	live    recent[spanRecord]
	logs    recent[otlpLog]
	metrics recent[metricRecord]
}

func (l *telemetryLog) init(items, bytes int) {
	l.frames = recent[TelemetryFrame]{maxItems: items, maxBytes: bytes, size: func(f TelemetryFrame) int { return len(f.Data) }}
	spanSize := func(s spanRecord) int { return s.size }
	l.spans = recent[spanRecord]{maxItems: items, maxBytes: bytes, size: spanSize}
	l.live = recent[spanRecord]{maxItems: items, maxBytes: bytes, size: spanSize}
	l.logs = recent[otlpLog]{maxItems: items, maxBytes: bytes, size: func(r otlpLog) int { return r.stored.size }}
	l.metrics = recent[metricRecord]{maxItems: items, maxBytes: bytes, size: func(m metricRecord) int { return m.size }}
}

// forgotten returns the number of dropped items.
func (l *telemetryLog) forgotten() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frames.forgotten + l.spans.forgotten + l.live.forgotten + l.logs.forgotten + l.metrics.forgotten
}

// records returns the items of a list in their public form.
func records[T, P any](l *telemetryLog, list *recent[T], public func(T) P) []P {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]P, len(list.list))
	for i, v := range list.list {
		out[i] = public(v)
	}
	return out
}

// Telemetry returns the telemetry frames in order of arrival, within the limits of
// WithTelemetryLimit. Invalid frames are included, except those that are not UTF-8. The caller
// must not modify the data.
func (e *Engine) Telemetry() []TelemetryFrame {
	return records(&e.telemetry, &e.telemetry.frames, func(f TelemetryFrame) TelemetryFrame { return f })
}

// Traces returns the finished spans received as telemetry, in order of arrival, within the
// limits of WithTelemetryLimit. A span that was sent twice appears twice.
// engine::traces::clear does not affect Traces. The caller must not modify the maps and slices
// in the spans.
func (e *Engine) Traces() []Span {
	return records(&e.telemetry, &e.telemetry.spans, func(s spanRecord) Span { return s.span })
}

// LiveSpans returns the unfinished spans received as telemetry. Each has a zero End. A span
// that has finished in the meantime also appears in Traces. Order, limits and ownership are as
// for Traces.
func (e *Engine) LiveSpans() []Span {
	return records(&e.telemetry, &e.telemetry.live, func(s spanRecord) Span { return s.span })
}

// Logs returns the log records received as telemetry. Records written with engine::log::* and
// the engine's own records are not included. Order, limits and ownership are as for Traces.
func (e *Engine) Logs() []LogRecord {
	return records(&e.telemetry, &e.telemetry.logs, func(r otlpLog) LogRecord { return r.public })
}

// Metrics returns the metrics received as telemetry, with one item for each metric in each
// export. It omits exponential histograms and summaries, which the engine does not store;
// Stats counts them. Order, limits and ownership are as for Traces.
func (e *Engine) Metrics() []Metric {
	return records(&e.telemetry, &e.telemetry.metrics, func(m metricRecord) Metric { return m.metric })
}

// telemetryTag returns the tag of a telemetry frame, or "" for any other data.
func telemetryTag(data []byte) string {
	if len(data) < 4 {
		return ""
	}
	switch tag := string(data[:4]); tag {
	case "OTLP", "MTRC", "LOGS":
		return tag
	default:
		return ""
	}
}

// serveTelemetry serves /otel, which accepts only tagged binary frames. A single goroutine
// processes frames and answers pings, so a pong confirms that all earlier frames have been
// processed. g is nil for the open listener.
func (e *Engine) serveTelemetry(rw http.ResponseWriter, r *http.Request, g *guard) {
	if refusesHandshake(rw, r) {
		return
	}
	conn, err := e.upgrade(rw, r, readBuffer, true)
	if err != nil {
		return
	}
	defer e.drop(conn)
	_, refusal := e.authenticate(g, r)
	if e.ctx.Err() != nil {
		return
	}
	if refusal != "" {
		refuse(conn, refusal)
		return
	}
	for {
		kind, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		switch {
		case kind != websocket.BinaryMessage:
			e.counters.telemetryIgnored.Add(1)
			e.log.Debug("text on the telemetry socket dropped")
		case telemetryTag(data) == "":
			e.counters.telemetryIgnored.Add(1)
			e.logEngine(severityWarn, "Unrecognized binary frame on /otel (dropping)", telemetryLine(r.RemoteAddr))
		default:
			e.ingest("", r.RemoteAddr, data)
		}
	}
}

// telemetryLine returns the attributes of the engine's log records about telemetry.
func telemetryLine(peer string) map[string]any {
	return map[string]any{"peer": peer, "target": "iii::engine", "module_path": "iii::engine"}
}

// ingest processes a telemetry frame. If any value is invalid, it discards all values of the
// frame. A frame and what was decoded from it become visible together, and before the triggers
// and the query functions can see it.
func (e *Engine) ingest(worker, peer string, frame []byte) {
	tag, data, now := telemetryTag(frame), frame[4:], time.Now()
	var keep, store func() // add the records to the log, and to the stores behind the query functions
	var err error
	l := &e.telemetry
	switch tag {
	case "OTLP":
		keep, store, err = e.ingestSpans(data)
	case "MTRC":
		keep, store, err = e.ingestMetrics(data, now)
	case "LOGS":
		keep, store, err = e.ingestLogs(data)
	}
	if err != nil {
		e.counters.telemetryRejected.Add(1)
	}
	l.mu.Lock()
	if utf8.Valid(data) {
		l.frames.add(TelemetryFrame{Time: now, Worker: worker, Prefix: tag, Data: data})
	}
	if err == nil {
		keep()
	}
	l.mu.Unlock()
	if err == nil {
		store()
	} else {
		line := telemetryLine(peer)
		line["error"] = "Failed to parse OTLP JSON: " + err.Error()
		e.logEngine(severityWarn, "OTLP ingestion error", line)
	}
}

func (e *Engine) ingestSpans(data []byte) (keep, store func(), err error) {
	list, err := readSpans(data)
	l := &e.telemetry
	keep = func() {
		for _, s := range list {
			if s.stored.Pending {
				l.live.add(s)
			} else {
				l.spans.add(s)
			}
		}
	}
	return keep, func() { e.spans.add(list) }, err
}

func (e *Engine) ingestMetrics(data []byte, now time.Time) (keep, store func(), err error) {
	list, skipped, err := readMetrics(data)
	if err != nil {
		return nil, nil, err
	}
	e.counters.metricsSkipped.Add(uint64(skipped))
	keep = func() {
		for i := range list {
			list[i].arrived = now
			e.telemetry.metrics.add(list[i])
		}
	}
	return keep, func() { e.metrics.add(list) }, nil
}

func (e *Engine) ingestLogs(data []byte) (keep, store func(), err error) {
	list, err := readLogs(data)
	keep = func() {
		for _, r := range list {
			e.telemetry.logs.add(r)
		}
	}
	store = func() {
		for _, r := range list {
			e.logs.add(&r.stored)
		}
	}
	return keep, store, err
}
