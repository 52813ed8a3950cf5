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
)

// attributeData is the attribute that holds a log record's structured data.
const attributeData = "log.data"

// Logger writes log records that the engine keeps with the trace in which they
// were written. Each has a severity, its text too (the engine's filters and log
// triggers look at that alone), a message, and data: the attribute log.data, in
// which objects, lists, numbers and so on stay what they are.
//
// The zero value is that of NewLogger(nil): it writes to slog.Default. All methods may
// be called from several goroutines at once, and none waits for the network.
type Logger struct {
	out log.Logger // nil: slog.Default
}

// NewLogger returns a logger that writes to p, for example
// [Telemetry.LoggerProvider]. If p is nil, it writes each record, with its data, to
// what slog.Default is at that time. A record that would come back from there goes to
// standard error instead, in the form of [slog.TextHandler]: one that is logged while
// slog.Default writes another for a Logger, or while package log writes a line.
func NewLogger(p log.LoggerProvider) *Logger {
	if p == nil {
		return &Logger{}
	}
	return &Logger{out: logOf(p)}
}

func logOf(p log.LoggerProvider) log.Logger {
	return p.Logger(instrumentationName, log.WithInstrumentationVersion(Version))
}

// Debug writes a record of severity DEBUG. data is anything that encodes as JSON,
// or an error, or nil for none; what does not encode is replaced by the reason. Of a
// value that implements [slog.LogValuer], in data or in maps and lists of any in it,
// what its LogValue returns is written. Integers of more than 63 bits are text, which
// keeps their digits. ctx determines the trace that the record belongs to; its
// cancellation does not matter.
func (l *Logger) Debug(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelDebug, msg, data)
}

// Info writes a record of severity INFO; see [Logger.Debug].
func (l *Logger) Info(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelInfo, msg, data)
}

// Warn writes a record of severity WARN; see [Logger.Debug].
func (l *Logger) Warn(ctx context.Context, msg string, data any) {
	l.write(ctx, slog.LevelWarn, msg, data)
}

// Error writes a record of severity ERROR; see [Logger.Debug].
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

// fallBack writes to what slog.Default is. The place in the source is that of the
// call of Debug and the like.
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
	runtime.Callers(4, place[:]) // above are Callers, this, write and Debug
	r := slog.NewRecord(time.Now(), level, msg, place[0])
	if data != nil {
		r.AddAttrs(slog.Any(attributeData, data))
	}
	_ = h.Handle(ctx, r) // slog ignores it, too
}

// fellBack is the key of a context in which a record has fallen back: a handler may
// pass the record on in another goroutine.
type fellBack struct{}

// leadsBack reports whether slog.Default may lead back to its caller, fallBack. It
// reads the stack, because no context survives package log, and other handlers may drop
// theirs. If fallBack is on the stack, a handler of slog.Default is logging, and would
// recurse until the stack overflows. If package log is, it holds its lock, in which
// slog.Default would wait if it writes to package log, as slog's own first default does.
func leadsBack() bool {
	var stack [512]uintptr // no chain of handlers is longer
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

// standardError takes records that have nowhere else to go. It never leads back, unlike
// slog's own default handler: that writes to package log, whose output slog.SetDefault
// redirects to the new default.
var standardError slog.Handler = slog.NewTextHandler(stderr{}, &slog.HandlerOptions{Level: slog.Level(math.MinInt)})

// stderr writes to what os.Stderr is at the moment.
type stderr struct{}

func (stderr) Write(p []byte) (int, error) { return os.Stderr.Write(p) }

// newRecord is a record without data and without the time of its observation, which
// the provider adds. slog's levels and OpenTelemetry's severities have the same steps.
func newRecord(at time.Time, level slog.Level, msg string) (r log.Record) {
	severity := severityOf(level)
	r.SetTimestamp(at)
	r.SetSeverity(severity)
	r.SetSeverityText(severityNames[(severity-1)/4])
	r.SetBody(attribute.StringValue(msg))
	return r
}

func severityOf(level slog.Level) log.Severity {
	const distance = int(log.SeverityInfo) - int(slog.LevelInfo)
	return log.Severity(min(max(int(level), int(log.SeverityTrace1)-distance), int(log.SeverityFatal4)-distance) + distance)
}

// maxLogValues is how many values the data of a record, or one attribute of slog, may
// hold; a map that contains itself has no end.
const maxLogValues = 100_000

// logValue converts what a user logs.
func logValue(v any) attribute.Value {
	return new(logConverter).value(v, 0)
}

type logConverter struct{ values int }

// value converts a value that is inside depth others.
func (c *logConverter) value(v any, depth int) attribute.Value {
	if !c.more() {
		return truncatedValue
	}
	switch v := v.(type) {
	case nil:
		return attribute.StringValue("") // keeps its key
	case slog.LogValuer, slog.Value, []slog.Attr: // what has a LogValue may hide the rest
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
		if !finite(float64(v)) {
			return attribute.Float64Value(float64(v)) // JSON has none of these
		}
	case float64:
		return attribute.Float64Value(v)
	case json.Number:
		return numberValue(v)
	case []byte:
		return attribute.StringValue(base64.StdEncoding.EncodeToString(v))
	case map[string]any:
		if depth >= maxValueDepth {
			return c.text(v)
		}
		members := make([]attribute.KeyValue, 0, len(v))
		for key, value := range v {
			members = append(members, attribute.KeyValue{Key: attribute.Key(key), Value: c.value(value, depth+1)})
		}
		return attribute.MapValue(members...)
	case []any:
		if depth >= maxValueDepth {
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

// more counts a value, and reports whether there is room for it.
func (c *logConverter) more() bool {
	c.values++
	return c.values <= maxLogValues
}

// truncatedValue stands for values that are too many or too deep.
var truncatedValue = attribute.StringValue("[TRUNCATED]")

// slogValue converts a value of slog that is inside depth others.
func (c *logConverter) slogValue(v slog.Value, depth int) attribute.Value {
	if v = v.Resolve(); v.Kind() != slog.KindGroup {
		return c.value(v.Any(), depth)
	}
	return mapValue(c.group(v.Group(), depth+1), depth+1)
}

// group converts the attributes of a group, which are inside depth values.
func (c *logConverter) group(attrs []slog.Attr, depth int) (members []attribute.KeyValue) {
	if depth > maxGroupDepth || !c.more() {
		return []attribute.KeyValue{{Key: "...", Value: truncatedValue}}
	}
	for _, a := range attrs {
		members = c.attr(members, a, depth)
	}
	return members
}

// attr appends an attribute that is inside depth values.
func (c *logConverter) attr(members []attribute.KeyValue, a slog.Attr, depth int) []attribute.KeyValue {
	v := a.Value.Resolve()
	if a.Key == "" && v.Equal(slog.Value{}) {
		return members // the empty attribute
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

// maxGroupDepth is how deep groups of slog may be nested: a LogValue that returns a
// group with itself in it has no end.
const maxGroupDepth = 4 * maxValueDepth

// mapValue is a map that is inside depth other values. The outermost that lies deeper
// than the engine can read is text.
func mapValue(members []attribute.KeyValue, depth int) attribute.Value {
	v := attribute.MapValue(members...)
	if depth == maxValueDepth {
		return attribute.StringValue(v.String())
	}
	return v
}

// errorValue is the text of err, or of the panic of its Error method: that of a
// nil pointer in an error is a common one.
func errorValue(err error) (v attribute.Value) {
	defer func() {
		if p := recover(); p != nil {
			v = attribute.StringValue(fmt.Sprintf("%T: panic: %v", err, p))
		}
	}()
	return attribute.StringValue(err.Error())
}

// encoded converts by way of JSON, which knows all types.
func (c *logConverter) encoded(v any, depth int) attribute.Value {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	d := json.NewDecoder(bytes.NewReader(b.Bytes()))
	d.UseNumber()
	var decoded any
	if err := d.Decode(&decoded); err != nil {
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	return c.value(decoded, depth)
}

// numberValue is an integer where that fits. Larger integers are text, which keeps
// their digits, and so is what is no number.
func numberValue(n json.Number) attribute.Value {
	if i, err := n.Int64(); err == nil {
		return attribute.Int64Value(i)
	}
	if f, err := n.Float64(); err == nil && finite(f) && strings.ContainsAny(n.String(), ".eE") {
		return attribute.Float64Value(f)
	}
	return attribute.StringValue(n.String())
}

// text is what lies deeper than the engine can read, as JSON.
func (c *logConverter) text(v any) attribute.Value {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		c.values = maxLogValues // it contains itself: it would come up again and again
		return attribute.StringValue(fmt.Sprintf("%T does not encode: %v", v, err))
	}
	return attribute.StringValue(b.String())
}

// slogHandler writes records of log/slog as those of [Logger]: attributes are
// entries of log.data, groups nest in it.
type slogHandler struct {
	out    log.Logger
	level  slog.Leveler // nil: all levels
	groups []slogGroup  // the open ones, outermost first; the first is log.data
}

type slogGroup struct {
	name    string
	members []attribute.KeyValue
}

// SlogHandler returns a handler that sends the records of log/slog to the logger
// provider, at all levels. Their attributes form one attribute of the record, the map
// "log.data", in which groups are maps; values are converted as by [Logger.Debug]. A
// record without a time gets the time at which it is written, where slog's own
// handlers leave it out, because the engine sorts and filters by it.
//
// If logs are disabled, the handler discards all records, so that no line is printed
// twice when it stands beside another handler, as in a [slog.MultiHandler]. Only when
// it is slog's default by itself, with no other handler around it, does it write: Info
// and above to standard error, in the form of [slog.TextHandler], since nothing else
// would show these records.
func (t *Telemetry) SlogHandler() slog.Handler { return t.SlogHandlerAt(nil) }

// SlogHandlerAt returns a handler like that of [Telemetry.SlogHandler] that records
// level and above, so that the engine and a terminal may have different levels. The
// level is read for each record: a [slog.LevelVar] changes it at any time. nil records
// all levels. The level also applies to what the handler writes to standard error when
// logs are disabled; nil means Info there.
func (t *Telemetry) SlogHandlerAt(level slog.Leveler) slog.Handler {
	if !t.recordsLogs() {
		return newIdleSlogHandler(level)
	}
	return newSlogHandler(t.loggers, level)
}

// newSlogHandler makes a handler that writes to p what is of level, if that is not
// nil, and above.
func newSlogHandler(p log.LoggerProvider, level slog.Leveler) slog.Handler {
	return &slogHandler{out: logOf(p), level: level, groups: []slogGroup{{name: attributeData}}}
}

// Enabled implements slog.Handler. Beyond the level, the provider decides: one that has
// ended records nothing, and a processor may filter.
func (h *slogHandler) Enabled(ctx context.Context, level slog.Level) bool {
	if h.level != nil && level < h.level.Level() {
		return false
	}
	return h.out.Enabled(ctx, log.EnabledParameters{Severity: severityOf(level)})
}

// Handle implements slog.Handler.
func (h *slogHandler) Handle(ctx context.Context, record slog.Record) error {
	last := len(h.groups) - 1
	members := slices.Clip(h.groups[last].members)
	record.Attrs(func(a slog.Attr) bool {
		members = new(logConverter).attr(members, a, last)
		return true
	})
	for i := last; i > 0; i-- {
		outer := slices.Clip(h.groups[i-1].members)
		if len(members) > 0 { // empty groups are left out
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

// WithAttrs implements slog.Handler.
func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	groups := slices.Clone(h.groups)
	last := &groups[len(groups)-1]
	last.members = slices.Clip(last.members)
	for _, a := range attrs {
		last.members = new(logConverter).attr(last.members, a, len(groups)-1)
	}
	return &slogHandler{out: h.out, level: h.level, groups: groups}
}

// WithGroup implements slog.Handler.
func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &slogHandler{out: h.out, level: h.level, groups: append(slices.Clip(h.groups), slogGroup{name: name})}
}

// idleSlogHandler is the slog handler of a Telemetry that records no logs. It never
// passes a record on to slog.Default, which may be, or contain, this very handler.
type idleSlogHandler struct {
	root  *idleSlogHandler // from which WithAttrs and WithGroup have made it
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

// with returns a handler like h that writes by text.
func (h *idleSlogHandler) with(text slog.Handler) slog.Handler {
	return &idleSlogHandler{root: h.root, level: h.level, text: text}
}

// Enabled implements slog.Handler.
func (h *idleSlogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level() && h.alone()
}

// Handle implements slog.Handler.
func (h *idleSlogHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.alone() {
		return nil
	}
	return h.text.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *idleSlogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(h.text.WithAttrs(attrs))
}

// WithGroup implements slog.Handler.
func (h *idleSlogHandler) WithGroup(name string) slog.Handler {
	return h.with(h.text.WithGroup(name))
}

// alone reports whether no other handler can show the record. It depends on its call
// depth: only Enabled and Handle may call it.
func (h *idleSlogHandler) alone() bool {
	if d, ok := slog.Default().Handler().(*idleSlogHandler); ok && d.root == h.root {
		return true
	}
	// Once slog's own handler is the default again, its records go to package log, which
	// still writes to the default that was set last.
	var caller [1]uintptr
	runtime.Callers(3, caller[:]) // above are Callers, this, and Enabled or Handle
	frame, _ := runtime.CallersFrames(caller[:]).Next()
	return frame.Function == "log/slog.(*handlerWriter).Write"
}

// TraceHandler returns a handler that passes records on to h and adds the attributes
// trace_id and span_id, which are [TraceID] and [SpanID] of the record's context, so
// that a line in a terminal or a file leads to its trace in the engine. Records outside
// of traces pass unchanged. The ids stand at the top level, outside of all groups that
// WithGroup opens. In a handler of a worker without telemetry they are those of the
// caller. The result is as safe for concurrent use as h. A nil h panics, as in
// [slog.New].
func TraceHandler(h slog.Handler) slog.Handler {
	switch h := h.(type) {
	case nil:
		panic("iii: TraceHandler: nil handler")
	case *traceHandler:
		return h
	case *idleSlogHandler: // remains slog's default itself
		return h.with(TraceHandler(h.text))
	}
	return &traceHandler{inner: h, outer: h}
}

type traceHandler struct {
	inner  slog.Handler // with all attributes and groups
	outer  slog.Handler // with those before the first group alone
	groups []traceGroup // the open ones, outermost first
}

type traceGroup struct {
	name  string
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (h *traceHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

// Handle implements slog.Handler. A group that is open is the same as one around the
// attributes of the record, beside which there is room for others.
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

// grouped is the outermost open group with all that is in it.
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

// WithAttrs implements slog.Handler.
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

// WithGroup implements slog.Handler.
func (h *traceHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	groups := append(slices.Clip(h.groups), traceGroup{name: name})
	return &traceHandler{inner: h.inner.WithGroup(name), outer: h.outer, groups: groups}
}
