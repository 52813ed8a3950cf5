package iii

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/otlpjson"
)

// attributeData is the key of the attribute that holds a log record's structured data.
const attributeData = "log.data"

// Logger writes log records, which the engine stores together with their trace. Each record
// consists of a severity (a number and a name), a message, and structured data. The engine's
// filters and log triggers compare only the severity name. The data is stored in the attribute
// log.data and keeps its JSON types.
//
// The zero value is equivalent to NewLogger(nil) and writes to slog.Default. All methods are
// safe for concurrent use and do not wait for the network.
type Logger struct {
	out log.Logger // nil means slog.Default
}

// NewLogger returns a logger that writes to p, for example [Telemetry.LoggerProvider]. If p is
// nil, the logger writes each record, including its data, to the current slog.Default.
//
// To avoid a loop, a record that slog.Default would send back to the Logger is written to
// standard error instead, formatted by [slog.TextHandler]. Such a loop can arise while
// slog.Default is writing another record for a Logger, or while package log is writing a line.
func NewLogger(p log.LoggerProvider) *Logger {
	if p == nil {
		return &Logger{}
	}
	return &Logger{out: logOf(p)}
}

func logOf(p log.LoggerProvider) log.Logger {
	return p.Logger(instrumentationName, log.WithInstrumentationVersion(Version))
}

// Debug writes a record with severity DEBUG. data is an error, a value that can be encoded as
// JSON, or nil for no data. If data cannot be encoded, the record contains the encoding error
// instead. A [slog.LogValuer] is replaced by the result of its LogValue method, including in
// nested values of type map[string]any and []any. Integers that overflow int64 are converted
// to strings to preserve their digits. ctx determines the record's trace; canceling ctx has no
// effect.
func (l *Logger) Debug(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelDebug, msg, data)
}

// Info writes a record with severity INFO; see [Logger.Debug].
func (l *Logger) Info(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelInfo, msg, data)
}

// Warn writes a record with severity WARN; see [Logger.Debug].
func (l *Logger) Warn(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelWarn, msg, data)
}

// Error writes a record with severity ERROR; see [Logger.Debug].
func (l *Logger) Error(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelError, msg, data)
}

func (l *Logger) write(ctx context.Context, level slog.Level, msg string, data any) {
	if l.out == nil {
		fallBack(ctx, level, msg, data)
		return
	}
	now := time.Now()
	r := newRecord(now, level, msg)
	r.SetObservedTimestamp(now)
	if !l.out.Enabled(ctx, log.EnabledParameters{Severity: r.Severity()}) {
		return
	}
	if data != nil {
		r.AddAttributes(attribute.KeyValue{Key: attributeData, Value: logValue(data)})
	}
	l.out.Emit(ctx, r)
}

// fallBack writes to the current slog.Default. The record's source location is the program's
// call to Debug, Info, Warn or Error.
func fallBack(ctx context.Context, level slog.Level, msg string, data any) {
	if ctx == nil {
		ctx = context.Background()
	}
	h := slog.Default().Handler()
	if ctx.Value(fellBack{}) != nil || leadsBack() {
		h = standardError
	}
	ctx = context.WithValue(ctx, fellBack{}, true)
	if !h.Enabled(ctx, level) {
		return
	}
	var place [1]uintptr
	runtime.Callers(4, place[:]) // skip Callers, fallBack, write and Debug
	r := slog.NewRecord(time.Now(), level, msg, place[0])
	if data != nil {
		r.AddAttrs(slog.Any(attributeData, data))
	}
	_ = h.Handle(ctx, r) // slog ignores the error as well
}

// fellBack is the context key that marks records written by fallBack. Unlike the stack, it
// also identifies a record that a handler passes to another goroutine.
type fellBack struct{}

// leadsBack reports whether writing to slog.Default could call fallBack recursively. It
// inspects the stack, because package log does not propagate contexts and other handlers may
// drop them.
//
// If fallBack is on the stack, slog.Default's handler is itself logging and would recurse
// until the stack overflows. If package log is on the stack, it is holding its lock, and
// slog.Default would deadlock if it wrote to package log, as slog's initial default handler
// does.
func leadsBack() bool {
	var stack [512]uintptr // deeper than any chain of handlers
	frames := runtime.CallersFrames(stack[:runtime.Callers(2, stack[:])])
	self, more := frames.Next()
	for more {
		var frame runtime.Frame
		frame, more = frames.Next()
		if frame.Function == self.Function || frame.Function == "log.(*Logger).output" {
			return true
		}
	}
	return false
}

// standardError writes records that have no other destination. Unlike slog's initial default
// handler, it cannot lead back to slog.Default. The initial handler writes to package log, and
// slog.SetDefault redirects package log's output to the new default.
var standardError slog.Handler = slog.NewTextHandler(stderr{}, &slog.HandlerOptions{Level: slog.Level(math.MinInt)})

// warnByDefault logs a warning with slog's default logger. If this package created that
// logger's handler, the warning goes to standard error instead, because the handler may need
// the very connection that failed.
func warnByDefault(message string, args ...any) {
	logger := slog.Default()
	if _, traced := logger.Handler().(*traceHandler); traced || writesToTelemetry(logger.Handler()) {
		logger = slog.New(standardError)
	}
	logger.Warn(message, args...)
}

// writesToTelemetry reports whether h writes only to telemetry. The result does not depend on
// whether that telemetry records logs.
func writesToTelemetry(h slog.Handler) bool {
	switch h := h.(type) {
	case *slogHandler, *idleSlogHandler:
		return true
	case *traceHandler:
		return writesToTelemetry(h.inner)
	}
	return false
}

// stderr writes to the current os.Stderr.
type stderr struct{}

func (stderr) Write(p []byte) (int, error) { return os.Stderr.Write(p) }

// newRecord returns a record without data. The provider adds the observed timestamp.
func newRecord(at time.Time, level slog.Level, msg string) (r log.Record) {
	severity := severityOf(level)
	r.SetTimestamp(at)
	r.SetSeverity(severity)
	r.SetSeverityText(otlpjson.SeverityText(severity))
	r.SetBody(attribute.StringValue(msg))
	return r
}

func severityOf(level slog.Level) log.Severity {
	const distance = int(log.SeverityInfo) - int(slog.LevelInfo)
	return log.Severity(min(max(int(level), int(log.SeverityTrace1)-distance), int(log.SeverityFatal4)-distance) + distance)
}

// maxLogValues limits the number of values in a record's data or in one slog attribute.
// Without a limit, converting a map that contains itself would never end.
const maxLogValues = 100_000

// logValue converts a logged value to an attribute value.
func logValue(v any) attribute.Value {
	return new(logConverter).value(v, 0)
}

type logConverter struct{ values int }

// value converts v. depth is v's nesting level.
func (c *logConverter) value(v any, depth int) attribute.Value {
	if !c.more() {
		return truncatedValue
	}
	switch v := v.(type) {
	case nil:
		return attribute.StringValue("") // an empty value would lose its key
	case slog.LogValuer, slog.Value, []slog.Attr: // first, because LogValue may hide the value
		return c.slogValue(slog.AnyValue(v), depth)
	case slog.Attr:
		return c.slogValue(slog.GroupValue(v), depth)
	case string:
		return attribute.StringValue(v)
	case bool:
		return attribute.BoolValue(v)
	case int:
		return attribute.IntValue(v)
	case int64:
		return attribute.Int64Value(v)
	case uint64:
		if v > math.MaxInt64 {
			return attribute.StringValue(strconv.FormatUint(v, 10))
		}
		return attribute.Int64Value(int64(v))
	case float32:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return attribute.Float64Value(float64(v)) // not representable in JSON
		}
	case float64:
		return attribute.Float64Value(v)
	case json.Number:
		return numberValue(v)
	case []byte:
		return attribute.StringValue(base64.StdEncoding.EncodeToString(v))
	case map[string]any:
		if depth >= otlpjson.MaxValueDepth {
			return c.text(v)
		}
		members := make([]attribute.KeyValue, 0, len(v))
		for key, value := range v {
			members = append(members, attribute.KeyValue{Key: attribute.Key(key), Value: c.value(value, depth+1)})
		}
		return attribute.MapValue(members...)
	case []any:
		if depth >= otlpjson.MaxValueDepth {
			return c.text(v)
		}
		elements := make([]attribute.Value, len(v))
		for i, value := range v {
			elements[i] = c.value(value, depth+1)
		}
		return attribute.SliceValue(elements...)
	case []error:
		elements := make([]any, len(v))
		for i, err := range v {
			elements[i] = err
		}
		return c.value(elements, depth)
	case json.Marshaler:
		return c.encoded(v, depth)
	case error:
		return errorValue(v)
	}
	return c.encoded(v, depth)
}

// more counts one more value. It returns false if there are too many.
func (c *logConverter) more() bool {
	c.values++
	return c.values <= maxLogValues
}

// truncatedValue replaces values beyond maxLogValues, and the contents of groups nested beyond
// maxGroupDepth.
var truncatedValue = attribute.StringValue("[TRUNCATED]")

// slogValue converts a slog value. depth is the value's nesting level.
func (c *logConverter) slogValue(v slog.Value, depth int) attribute.Value {
	if v = v.Resolve(); v.Kind() != slog.KindGroup {
		return c.value(v.Any(), depth)
	}
	return mapValue(c.group(v.Group(), depth+1), depth+1)
}

// group converts a group's attributes. depth is the attributes' nesting level.
func (c *logConverter) group(attrs []slog.Attr, depth int) (members []attribute.KeyValue) {
	if depth > maxGroupDepth || !c.more() {
		return []attribute.KeyValue{{Key: "...", Value: truncatedValue}}
	}
	for _, a := range attrs {
		members = c.attr(members, a, depth)
	}
	return members
}

// attr appends an attribute. depth is the attribute's nesting level.
func (c *logConverter) attr(members []attribute.KeyValue, a slog.Attr, depth int) []attribute.KeyValue {
	v := a.Value.Resolve()
	if a.Key == "" && v.Equal(slog.Value{}) {
		return members // handlers must ignore the empty attribute
	}
	if v.Kind() != slog.KindGroup {
		return append(members, attribute.KeyValue{Key: attribute.Key(a.Key), Value: c.value(v.Any(), depth)})
	}
	inner := c.group(v.Group(), depth+1)
	switch {
	case len(inner) == 0:
		return members
	case a.Key == "":
		return append(members, inner...)
	}
	return append(members, attribute.KeyValue{Key: attribute.Key(a.Key), Value: mapValue(inner, depth+1)})
}

// maxGroupDepth limits the nesting of slog groups, because a LogValue may return a group that
// contains itself.
const maxGroupDepth = 4 * otlpjson.MaxValueDepth

// mapValue returns a map with the given members. depth is the map's nesting level. At the
// maximum level, [otlpjson.MaxValueDepth], the map is converted to a string.
func mapValue(members []attribute.KeyValue, depth int) attribute.Value {
	v := attribute.MapValue(members...)
	if depth == otlpjson.MaxValueDepth {
		return attribute.StringValue(v.String())
	}
	return v
}

// errorValue returns err's message. If the Error method panics, for example on a nil pointer,
// the result describes the panic.
func errorValue(err error) (v attribute.Value) {
	defer func() {
		if p := recover(); p != nil {
			v = attribute.StringValue(fmt.Sprintf("%T: panic: %v", err, p))
		}
	}()
	return attribute.StringValue(err.Error())
}

// encoded converts a value by encoding it as JSON. It is used for all types without a more
// specific conversion.
func (c *logConverter) encoded(v any, depth int) attribute.Value {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	d := json.NewDecoder(bytes.NewReader(b.bytes()))
	d.UseNumber()
	var decoded any
	if err := d.Decode(&decoded); err != nil {
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	return c.value(decoded, depth)
}

// numberValue converts n to an integer or a float. Integers that overflow int64, and other
// numbers that neither type can hold, become strings with the same digits.
func numberValue(n json.Number) attribute.Value {
	if i, err := n.Int64(); err == nil {
		return attribute.Int64Value(i)
	}
	if f, err := n.Float64(); err == nil && !math.IsInf(f, 0) && strings.ContainsAny(n.String(), ".eE") {
		return attribute.Float64Value(f)
	}
	return attribute.StringValue(n.String())
}

// text converts v to a string that contains its JSON encoding. It is used for values that are
// nested more deeply than the engine can read.
func (c *logConverter) text(v any) attribute.Value {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		c.values = maxLogValues // v contains itself, so encoding would fail on every level
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	return attribute.StringValue(b.String())
}

// slogHandler writes log/slog records in the same format as [Logger]. Attributes become
// entries of log.data, and groups become nested maps.
type slogHandler struct {
	out    log.Logger
	level  slog.Leveler // nil means all levels
	groups []slogGroup  // open groups, outermost first; the first one is log.data
}

type slogGroup struct {
	name    string
	members []attribute.KeyValue
}

// SlogHandler returns a handler that sends log/slog records of all levels to the logger
// provider. A record's attributes are combined into one attribute, the map "log.data", in
// which groups are nested maps. Values are converted as described for [Logger.Debug]. If a
// record has no time, the engine receives the time at which it was written, because the engine
// sorts and filters records by time. slog's own handlers omit the time instead.
//
// If logs are disabled, the handler discards all records, so that no record is printed twice
// when the handler is combined with another one, as in a [slog.MultiHandler]. However, if the
// handler itself is slog's default handler, not wrapped in another one, it writes Info and
// above to standard error, formatted by [slog.TextHandler]. Otherwise, these records would be
// lost.
func (t *Telemetry) SlogHandler() slog.Handler { return t.SlogHandlerAt(nil) }

// SlogHandlerAt is like [Telemetry.SlogHandler], but records only the given level and above,
// so that the engine and a terminal can have different levels. The handler reads the level for
// each record, so a [slog.LevelVar] can change it at any time. A nil level records all levels.
// The level also applies to records written to standard error when logs are disabled; in that
// case, nil means Info.
func (t *Telemetry) SlogHandlerAt(level slog.Leveler) slog.Handler {
	if !t.recordsLogs() {
		return newIdleSlogHandler(level)
	}
	return newSlogHandler(t.loggers, level)
}

// newSlogHandler returns a handler that writes records of the given level and above to p. A
// nil level means all levels.
func newSlogHandler(p log.LoggerProvider, level slog.Leveler) slog.Handler {
	return &slogHandler{out: logOf(p), level: level, groups: []slogGroup{{name: attributeData}}}
}

// Enabled implements [slog.Handler]. If the level is sufficient, it asks the provider, which
// may filter records or may have been shut down.
func (h *slogHandler) Enabled(ctx context.Context, level slog.Level) bool {
	if h.level != nil && level < h.level.Level() {
		return false
	}
	return h.out.Enabled(ctx, log.EnabledParameters{Severity: severityOf(level)})
}

// Handle implements [slog.Handler].
func (h *slogHandler) Handle(ctx context.Context, record slog.Record) error {
	last := len(h.groups) - 1
	members := slices.Clip(h.groups[last].members)
	record.Attrs(func(a slog.Attr) bool {
		members = new(logConverter).attr(members, a, last)
		return true
	})
	for i := last; i > 0; i-- {
		outer := slices.Clip(h.groups[i-1].members)
		if len(members) > 0 { // omit empty groups
			outer = append(outer, attribute.KeyValue{Key: attribute.Key(h.groups[i].name), Value: mapValue(members, i)})
		}
		members = outer
	}
	r := newRecord(record.Time, record.Level, record.Message)
	if len(members) > 0 {
		r.AddAttributes(attribute.Map(attributeData, members...))
	}
	h.out.Emit(ctx, r)
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	groups := slices.Clone(h.groups)
	last := &groups[len(groups)-1]
	last.members = slices.Clip(last.members)
	for _, a := range attrs {
		last.members = new(logConverter).attr(last.members, a, len(groups)-1)
	}
	return &slogHandler{out: h.out, level: h.level, groups: groups}
}

// WithGroup implements [slog.Handler].
func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &slogHandler{out: h.out, level: h.level, groups: append(slices.Clip(h.groups), slogGroup{name: name})}
}

// idleSlogHandler is the slog handler of a Telemetry that does not record logs. It never
// passes a record to slog.Default, which may be or contain this handler.
type idleSlogHandler struct {
	root  *idleSlogHandler // the handler from which this one was derived by WithAttrs and WithGroup
	level slog.Leveler
	text  slog.Handler
}

func newIdleSlogHandler(level slog.Leveler) slog.Handler {
	if level == nil {
		level = slog.LevelInfo
	}
	h := &idleSlogHandler{level: level, text: standardError}
	h.root = h
	return h
}

// with returns a copy of h that writes to text.
func (h *idleSlogHandler) with(text slog.Handler) slog.Handler {
	return &idleSlogHandler{root: h.root, level: h.level, text: text}
}

// Enabled implements [slog.Handler].
func (h *idleSlogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level() && h.alone()
}

// Handle implements [slog.Handler].
func (h *idleSlogHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.alone() {
		return nil
	}
	return h.text.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h *idleSlogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(h.text.WithAttrs(attrs))
}

// WithGroup implements [slog.Handler].
func (h *idleSlogHandler) WithGroup(name string) slog.Handler {
	return h.with(h.text.WithGroup(name))
}

// alone reports whether h is the only handler that can show the record. It must be called
// directly by Enabled or Handle, because it inspects the stack.
func (h *idleSlogHandler) alone() bool {
	if d, ok := slog.Default().Handler().(*idleSlogHandler); ok && d.root == h.root {
		return true
	}
	// The program may have restored slog's initial default handler. That handler writes to
	// package log, whose output still goes to the previous default.
	var caller [1]uintptr
	runtime.Callers(3, caller[:]) // skip Callers, alone, and Enabled or Handle
	frame, _ := runtime.CallersFrames(caller[:]).Next()
	return frame.Function == "log/slog.(*handlerWriter).Write"
}

// TraceHandler returns a handler that adds the attributes trace_id and span_id to records and
// passes them to h. The attributes are the [TraceID] and [SpanID] of the record's context, and
// link a line in a terminal or a file to its trace in the engine. Records outside of traces
// are passed unchanged. The attributes are added at the top level, even if WithGroup has
// opened groups. In a function's handler, if the worker has no telemetry, the attributes
// identify the caller's trace. The result is safe for concurrent use if h is. Like [slog.New],
// TraceHandler panics if h is nil.
func TraceHandler(h slog.Handler) slog.Handler {
	switch h := h.(type) {
	case nil:
		panic("iii: TraceHandler: nil handler")
	case *traceHandler:
		return h
	case *idleSlogHandler: // must remain slog's default itself
		return h.with(TraceHandler(h.text))
	}
	return &traceHandler{inner: h, outer: h}
}

type traceHandler struct {
	inner  slog.Handler // with all attributes and groups
	outer  slog.Handler // only with the attributes before the first group
	groups []traceGroup // open groups, outermost first
}

type traceGroup struct {
	name  string
	attrs []slog.Attr
}

// Enabled implements [slog.Handler].
func (h *traceHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

// Handle implements [slog.Handler]. It converts the open groups to a single group attribute,
// so that the ids can be added at the top level.
func (h *traceHandler) Handle(ctx context.Context, r slog.Record) error {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return h.inner.Handle(ctx, r)
	}
	if len(h.groups) == 0 {
		r = r.Clone()
	} else {
		grouped := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		grouped.AddAttrs(h.grouped(r))
		r = grouped
	}
	r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	return h.outer.Handle(ctx, r)
}

// grouped returns the outermost open group with its contents, including the attributes of r.
func (h *traceHandler) grouped(r slog.Record) (group slog.Attr) {
	last := len(h.groups) - 1
	attrs := slices.Grow(slices.Clip(h.groups[last].attrs), r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for i := last; ; i-- {
		group = slog.Attr{Key: h.groups[i].name, Value: slog.GroupValue(attrs...)}
		if i == 0 {
			return group
		}
		attrs = append(slices.Clip(h.groups[i-1].attrs), group)
	}
}

// WithAttrs implements [slog.Handler].
func (h *traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.groups) == 0 {
		inner := h.inner.WithAttrs(attrs)
		return &traceHandler{inner: inner, outer: inner}
	}
	groups := slices.Clone(h.groups)
	last := &groups[len(groups)-1]
	last.attrs = append(slices.Clip(last.attrs), attrs...)
	return &traceHandler{inner: h.inner.WithAttrs(slices.Clone(attrs)), outer: h.outer, groups: groups}
}

// WithGroup implements [slog.Handler].
func (h *traceHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	groups := append(slices.Clip(h.groups), traceGroup{name: name})
	return &traceHandler{inner: h.inner.WithGroup(name), outer: h.outer, groups: groups}
}
