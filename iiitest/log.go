package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// maxLogs is the number of records to keep, as in a real engine. The oldest are dropped
	// first.
	maxLogs = 1000
	// maxLogsBehind is the maximum number of records that wait for a slow subscriber. The
	// subscriber misses any further records.
	maxLogsBehind = 1024
)

// severity is an OpenTelemetry severity number.
type severity int32

const (
	severityTrace severity = 1
	severityDebug severity = 5
	severityInfo  severity = 9
	severityWarn  severity = 13
	severityError severity = 17
)

func (s severity) String() string {
	switch s {
	case severityTrace:
		return "TRACE"
	case severityDebug:
		return "DEBUG"
	case severityInfo:
		return "INFO"
	case severityWarn:
		return "WARN"
	default:
		return "ERROR"
	}
}

// slog returns the corresponding slog level: the OpenTelemetry number minus 9.
func (s severity) slog() slog.Level { return slog.Level(s) - 9 }

type logRecord struct {
	time, observed          uint64 // nanoseconds since 1970
	severity                severity
	severityText            string // may be empty
	body                    string
	attributes              map[string]any
	traceID, spanID         *string
	resource                map[string]string
	service                 string
	scopeName, scopeVersion *string
	size                    int // size as JSON; 0 for records of the engine
}

// payload returns the record as the payload of a log trigger.
func (r *logRecord) payload() map[string]any {
	attributes := r.attributes
	if attributes == nil {
		attributes = map[string]any{}
	}
	return map[string]any{
		"timestamp_unix_nano": r.time, "observed_timestamp_unix_nano": r.observed,
		"severity_number": r.severity, "severity_text": r.severityText,
		"body": r.body, "attributes": attributes, "trace_id": r.traceID, "span_id": r.spanID,
		"resource": r.resource, "service_name": r.service,
		"instrumentation_scope_name": r.scopeName, "instrumentation_scope_version": r.scopeVersion,
	}
}

// listed returns the record in the form in which engine::logs::list returns it. Missing scope
// properties are omitted.
func (r *logRecord) listed() map[string]any {
	fields := r.payload()
	if r.scopeName == nil {
		delete(fields, "instrumentation_scope_name")
	}
	if r.scopeVersion == nil {
		delete(fields, "instrumentation_scope_version")
	}
	return fields
}

// logs stores log records: those that workers send as telemetry or write with engine::log::*,
// and the engine's own.
type logs struct {
	engine   *Engine
	triggers boundTriggers[*logSubscriber]
	changes  atomic.Uint64 // number of changes

	mu      sync.Mutex // also keeps deliveries in order
	records recent[*logRecord]
}

// logSubscriber holds the config and state of one log trigger binding.
type logSubscriber struct {
	level  string       // lowercase severity text, or "all"
	behind atomic.Int32 // number of records waiting for room in the worker's send queue
	missed atomic.Bool  // a missing function has been logged
}

func newLogs(e *Engine) *logs {
	return &logs{
		engine: e, triggers: boundTriggers[*logSubscriber]{decode: decodeLogLevel, again: keepOld, once: true},
		records: recent[*logRecord]{maxItems: maxLogs, maxBytes: e.cfg.telemetryBytes, size: func(r *logRecord) int { return r.size }},
	}
}

func (e *Engine) registerLog() {
	l := newLogs(e)
	e.logs = l
	const owner = "iii-observability"
	for id, s := range map[string]severity{
		"engine::log::trace": severityTrace, "engine::log::debug": severityDebug, "engine::log::info": severityInfo,
		"engine::log::warn": severityWarn, "engine::log::error": severityError,
	} {
		e.addBuiltin(id, owner, "Write a record to the log", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
			return nil, l.write(c, s)
		})
	}
	e.addBuiltin("engine::logs::list", owner, "List records of the log", l.list)
	e.addBuiltin("engine::logs::clear", owner, "Forget the records of the log", l.clear)
	e.addTriggerType("log", owner, "Log event trigger", &l.triggers)
}

// decodeLogLevel accepts every config. An unknown level never matches.
func decodeLogLevel(config json.RawMessage) (*logSubscriber, error) {
	var in struct {
		Level *string `json:"level"`
	}
	if decodeStrict(config, &in) != "" || in.Level == nil {
		return &logSubscriber{level: "all"}, nil
	}
	return &logSubscriber{level: *in.Level}, nil
}

func (l *logs) write(c *call, s severity) *wireError {
	type OtelLogInput struct {
		Message string          `json:"message"`
		TraceID *string         `json:"trace_id"`
		SpanID  *string         `json:"span_id"`
		Service *string         `json:"service_name"`
		Data    json.RawMessage `json:"data,omitempty"`
	}
	in, err := decodeInput[OtelLogInput](c.functionID, c.data)
	if err != nil {
		return err
	}
	service := "unknown"
	if in.Service != nil {
		service = *in.Service
	}
	attributes := map[string]any{}
	if kindOf(in.Data) == '{' {
		for name, value := range (&scanner{b: in.Data}).members() {
			attributes[name] = value
		}
	}
	if s >= severityInfo {
		// The engine also logs the message as a separate record. Subscribers receive both
		// records.
		line := map[string]any{
			"service": service, "trace_id": rustDebug(in.TraceID), "span_id": rustDebug(in.SpanID),
			"target": "iii::workers::observability", "module_path": "iii::workers::observability",
		}
		if in.Data != nil {
			line["data"] = in.Data
		}
		l.add(engineLine(s, in.Message, line))
	}
	now, scope, version := uint64(time.Now().UnixNano()), "iii", l.engine.version()
	l.add(&logRecord{
		size: len(c.data), time: now, observed: now, severity: s, severityText: s.String(), body: in.Message, attributes: attributes,
		traceID: in.TraceID, spanID: in.SpanID, resource: map[string]string{"service.name": "iii"}, service: service,
		scopeName: &scope, scopeVersion: &version,
	})
	return nil
}

// rustDebug formats an optional id as a real engine does in its own records.
func rustDebug(id *string) string {
	if id == nil {
		return "None"
	}
	return `Some("` + *id + `")`
}

// engineLine creates one of the engine's own log records.
func engineLine(s severity, message string, attributes map[string]any) *logRecord {
	now, scope := uint64(time.Now().UnixNano()), "tracing"
	return &logRecord{
		time: now, observed: now, severity: s, severityText: s.String(), body: message, attributes: attributes,
		resource: map[string]string{"service.name": "iii"}, service: "iii", scopeName: &scope,
	}
}

// logEngine logs an engine event, both in the engine's log, which fires log triggers, and with
// the logger passed to WithLogger.
func (e *Engine) logEngine(s severity, message string, attributes map[string]any) {
	args := make([]any, 0, 2*len(attributes))
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		args = append(args, name, attributes[name])
	}
	e.log.Log(e.ctx, s.slog(), message, args...)
	e.logs.add(engineLine(s, message, attributes))
}

// add stores a record and queues it for the log triggers without blocking. Triggers receive
// records in the order of the add calls.
func (l *logs) add(r *logRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records.add(r)
	l.changes.Add(1)
	level := strings.ToLower(r.severityText)
	l.engine.observers.queueEvent(context.Background(), "observability::on-log", func() json.RawMessage {
		payload := r.payload()
		payload["level"] = level
		return canonicalValid(mustEncode(payload))
	}, nil)
	subscribers := l.triggers.event(l.engine, func(s *logSubscriber) bool { return s.level == "all" || s.level == level })
	if len(subscribers) == 0 {
		return
	}
	payload := mustEncode(r.payload())
	for _, b := range subscribers {
		l.deliver(b, payload)
	}
}

// deliver calls a log trigger's function and ignores the outcome. It looks up the function in
// the default namespace, whatever the binding's namespace.
func (l *logs) deliver(b boundTrigger[*logSubscriber], payload json.RawMessage) {
	if b.config.behind.Load() >= maxLogsBehind {
		return
	}
	r := request{
		id: uuid.NewString(), functionID: b.functionID, namespace: defaultNamespace, data: payload, metadata: b.metadata,
		cause: cause{b.triggerType, b.id},
	}
	builtin, p, missing := l.engine.begin(r, nil)
	switch {
	case missing != nil:
		// Do not write this to the engine's log, which would fire the same trigger again.
		if !b.config.missed.Swap(true) {
			l.engine.noWorker(b.binding, missing)
		}
	case builtin != nil:
		l.engine.spawn(func(ctx context.Context) {
			l.engine.runBuiltin(ctx, builtin, r)
		})
	case p.sent.done != nil:
		b.config.behind.Add(1)
		l.engine.spawn(func(context.Context) {
			p.sent.wait()
			b.config.behind.Add(-1)
		})
	}
}

// list serves engine::logs::list. It returns the newest records first, and records with equal
// times in order of arrival.
func (l *logs) list(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type LogsListInput struct {
		EndTime      *uint64 `json:"end_time"` // EndTime and StartTime are in milliseconds
		Limit        *uint   `json:"limit"`
		Offset       *uint   `json:"offset"`
		SeverityMin  *int32  `json:"severity_min"`
		SeverityText *string `json:"severity_text"`
		SpanID       *string `json:"span_id"`
		StartTime    *uint64 `json:"start_time"`
		TraceID      *string `json:"trace_id"`
	}
	in, err := decodeInput[LogsListInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	records := l.records.all()
	l.mu.Unlock()
	slices.SortStableFunc(records, func(a, b *logRecord) int { return cmp.Compare(b.time, a.time) })
	matching := []map[string]any{}
	for _, r := range records {
		at := r.time / uint64(time.Millisecond)
		switch {
		case in.StartTime != nil && at < *in.StartTime,
			in.EndTime != nil && at > *in.EndTime,
			in.TraceID != nil && (r.traceID == nil || *r.traceID != *in.TraceID),
			in.SpanID != nil && (r.spanID == nil || *r.spanID != *in.SpanID),
			in.SeverityMin != nil && int32(r.severity) < *in.SeverityMin,
			in.SeverityText != nil && !strings.EqualFold(r.severityText, *in.SeverityText):
		default:
			matching = append(matching, r.listed())
		}
	}
	total := len(matching)
	if in.Offset != nil {
		matching = matching[min(*in.Offset, uint(len(matching))):]
	}
	if in.Limit != nil {
		matching = matching[:min(*in.Limit, uint(len(matching)))]
	}
	return mustEncode(map[string]any{"logs": matching, "total": total, "query": in, "timestamp": time.Now().UnixMilli()}), nil
}

func (l *logs) clear(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type LogsClearInput struct{}
	if _, err := decodeInput[LogsClearInput](c.functionID, c.data); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records.clear()
	l.changes.Add(1)
	return json.RawMessage(`{"success":true}`), nil
}
