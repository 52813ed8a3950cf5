package iiitest

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
)

// pendingMaxAge is how long the engine waits for an announced span to end
// (pending_max_age_seconds).
const pendingMaxAge = time.Hour

// spanStore stores the spans that the functions engine::traces::* query.
type spanStore struct {
	added   func([]spanRecord) // called with each batch of new spans
	changes atomic.Uint64      // number of changes

	mu      sync.Mutex
	entries recent[*spanEntry]
	pending map[spanID][]*spanEntry // announced but not ended, oldest first
}

// spanID identifies a span. As in the engine, both ids may be arbitrary strings.
type spanID struct{ trace, span string }

// spanEntry is a stored span, guarded by spanStore.mu.
type spanEntry struct {
	iii.StoredSpan
	arrived time.Time
	size    int
}

func (e *spanEntry) id() spanID { return spanID{e.TraceID, e.SpanID} }

func (s *spanStore) init(items, bytes int) {
	s.pending = make(map[spanID][]*spanEntry)
	s.entries = recent[*spanEntry]{maxItems: items, maxBytes: bytes, size: func(e *spanEntry) int { return e.size }, forget: s.forgetPending}
}

// forgetPending removes an entry from pending. The caller must hold spanStore.mu.
func (s *spanStore) forgetPending(e *spanEntry) {
	if !e.Pending {
		return
	}
	id := e.id()
	s.pending[id] = slices.DeleteFunc(s.pending[id], func(p *spanEntry) bool { return p == e })
	if len(s.pending[id]) == 0 {
		delete(s.pending, id)
	}
}

// add stores a frame's spans. It first appends all announcements in the frame, even for spans
// that are already stored. A finished span then replaces its oldest announcement in place, or
// is appended if it has none.
func (s *spanStore) add(list []spanRecord) {
	now := time.Now()
	s.mu.Lock()
	for _, pendings := range []bool{true, false} {
		for _, r := range list {
			if r.stored.Pending == pendings {
				s.put(&spanEntry{StoredSpan: r.stored, arrived: now, size: r.size})
			}
		}
	}
	s.mu.Unlock()
	s.changes.Add(1)
	if s.added != nil {
		s.added(list)
	}
}

func (s *spanStore) put(e *spanEntry) {
	id := e.id()
	if e.Pending {
		s.pending[id] = append(s.pending[id], e)
	} else if announced := s.pending[id]; len(announced) > 0 {
		old := announced[0]
		s.forgetPending(old)
		grown := e.size - old.size
		*old = *e
		s.entries.grown(grown)
		return
	}
	s.entries.add(e)
}

func (s *spanStore) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries.clear()
	clear(s.pending)
	s.changes.Add(1)
}

// newest returns the most recent spans, but no more than limit, in order of arrival. A span
// can appear more than once, for example if it was announced twice.
func (s *spanStore) newest(limit int) []iii.StoredSpan {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.entries.list[max(0, len(s.entries.list)-limit):]
	list := make([]iii.StoredSpan, len(entries))
	for i, e := range entries {
		list[i] = e.StoredSpan
	}
	return list
}

// ofTrace returns the latest version of each span in a trace.
func (s *spanStore) ofTrace(id string) []iii.StoredSpan {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := make(map[string]int)
	var list []iii.StoredSpan
	for _, e := range s.entries.list {
		if e.TraceID != id {
			continue
		}
		if i, there := at[e.SpanID]; there {
			list[i] = e.StoredSpan
			continue
		}
		at[e.SpanID] = len(list)
		list = append(list, e.StoredSpan)
	}
	return list
}

// stored returns the number of stored spans and their total size.
func (s *spanStore) stored() (spans, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries.list), s.entries.bytes
}

// view returns the spans that are visible to queries. If several entries describe the same
// span, the last of them takes the position of the first. Announcements older than
// pendingMaxAge are omitted.
func (s *spanStore) view() *spanView {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &spanView{now: uint64(now.UnixNano()), at: make(map[spanID]int, len(s.entries.list))}
	for _, e := range s.entries.list {
		if e.Pending && now.Sub(e.arrived) > pendingMaxAge {
			continue
		}
		if i, there := v.at[e.id()]; there {
			v.spans[i] = e.StoredSpan
			continue
		}
		v.at[e.id()] = len(v.spans)
		v.spans = append(v.spans, e.StoredSpan)
	}
	return v
}

// spanView is a copy of the visible spans, in order of arrival.
type spanView struct {
	now   uint64
	spans []iii.StoredSpan
	at    map[spanID]int
}

// end returns the end time of a span, or the current time if the span has not ended.
func (v *spanView) end(s *iii.StoredSpan) uint64 {
	if s.Pending {
		return max(v.now, s.StartTimeUnixNano)
	}
	return s.EndTimeUnixNano
}

// durationMs returns a span's duration. It can be negative, because exporters may send
// arbitrary times. The times are subtracted as integers, because times in nanoseconds exceed
// the precision of a float64.
func (v *spanView) durationMs(s *iii.StoredSpan) float64 {
	start, end := s.StartTimeUnixNano, v.end(s)
	if end < start {
		return -float64(start-end) / 1e6
	}
	return float64(end-start) / 1e6
}

// root reports whether s has no parent, or a parent that is not stored.
func (v *spanView) root(s *iii.StoredSpan) bool {
	if s.ParentSpanID == nil {
		return true
	}
	_, stored := v.at[spanID{s.TraceID, *s.ParentSpanID}]
	return !stored
}

func attributeOf(s *iii.StoredSpan, key string) (string, bool) {
	for _, a := range s.Attributes {
		if a[0] == key {
			return a[1], true
		}
	}
	return "", false
}

// internalSpan reports whether s belongs to one of the engine's own functions.
func internalSpan(s *iii.StoredSpan) bool {
	if kind, _ := attributeOf(s, "iii.function.kind"); kind == "internal" {
		return true
	}
	id, _ := attributeOf(s, "function_id")
	return strings.HasPrefix(id, "engine::")
}

// tagged reports whether an attribute becomes a tag of its trace.
func tagged(key string) bool {
	switch key {
	case "iii.session.id", "iii.session.name", "iii.message.id":
		return true
	}
	return strings.HasPrefix(key, "iii.tag.")
}

// tags returns the merged tags of each given trace, by trace id. If several spans of a trace
// have the same tag, the span that started last wins.
func (v *spanView) tags(traces map[string]bool) map[string]map[string]string {
	var with []*iii.StoredSpan
	for i := range v.spans {
		s := &v.spans[i]
		if traces[s.TraceID] && slices.ContainsFunc(s.Attributes, func(a iii.StoredAttribute) bool { return tagged(a[0]) }) {
			with = append(with, s)
		}
	}
	slices.SortStableFunc(with, func(a, b *iii.StoredSpan) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	tags := make(map[string]map[string]string)
	for _, s := range with {
		for _, a := range s.Attributes {
			if !tagged(a[0]) {
				continue
			}
			if tags[s.TraceID] == nil {
				tags[s.TraceID] = make(map[string]string)
			}
			tags[s.TraceID][a[0]] = a[1]
		}
	}
	return tags
}
