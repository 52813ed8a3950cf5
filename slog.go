package iii

import (
	"context"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
)

// slogHandler writes records of log/slog as those of [Logger]: attributes are
// entries of log.data, groups nest in it.
type slogHandler struct {
	out    log.Logger
	groups []slogGroup // the open ones, outermost first; the first is log.data
}

type slogGroup struct {
	name    string
	members []attribute.KeyValue
}

// newSlogHandler makes a handler that writes to p; with nil it is what
// slog.Default has now.
func newSlogHandler(p log.LoggerProvider) slog.Handler {
	if p == nil {
		return slog.Default().Handler()
	}
	return &slogHandler{out: logOf(p), groups: []slogGroup{{name: attributeData}}}
}

// Enabled implements slog.Handler. All levels are, unless the provider has ended
// or filters.
func (h *slogHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.out.Enabled(ctx, log.EnabledParameters{Severity: severityOf(level)})
}

// Handle implements slog.Handler.
func (h *slogHandler) Handle(ctx context.Context, record slog.Record) error {
	last := len(h.groups) - 1
	members := slices.Clip(h.groups[last].members)
	record.Attrs(func(a slog.Attr) bool {
		members = appendSlog(members, a)
		return true
	})
	for i := last; i > 0; i-- {
		outer := slices.Clip(h.groups[i-1].members)
		if len(members) > 0 { // empty groups are left out
			outer = append(outer, attribute.Map(h.groups[i].name, members...))
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
		last.members = appendSlog(last.members, a)
	}
	return &slogHandler{out: h.out, groups: groups}
}

// WithGroup implements slog.Handler.
func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &slogHandler{out: h.out, groups: append(slices.Clip(h.groups), slogGroup{name: name})}
}

func appendSlog(members []attribute.KeyValue, a slog.Attr) []attribute.KeyValue {
	value := a.Value.Resolve()
	if a.Key == "" && value.Equal(slog.Value{}) {
		return members // the empty attribute
	}
	if value.Kind() != slog.KindGroup {
		return append(members, attribute.KeyValue{Key: attribute.Key(a.Key), Value: logValue(value.Any())})
	}
	var inner []attribute.KeyValue
	for _, a := range value.Group() {
		inner = appendSlog(inner, a)
	}
	switch {
	case len(inner) == 0:
		return members
	case a.Key == "":
		return append(members, inner...)
	}
	return append(members, attribute.Map(a.Key, inner...))
}
