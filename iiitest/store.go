package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/iii-go/iii"
)

// store keeps items in memory by group and key. An item can have the value null, and a group
// remains after its last item has been deleted. The zero value is ready to use.
type store[G comparable] struct {
	mu     sync.Mutex
	groups map[G]map[string]item
	next   uint64

	changes atomic.Uint64 // number of changes
}

type item struct {
	value json.RawMessage
	seq   uint64 // order of insertion; unchanged by updates
}

func (s *store[G]) get(group G, key string) (value json.RawMessage, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, exists := s.groups[group][key]
	return it.value, exists
}

func (s *store[G]) set(group G, key string, value json.RawMessage) (old json.RawMessage, existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, existed := s.groups[group][key]
	s.put(group, key, value)
	return it.value, existed
}

// update applies all operations or none.
func (s *store[G]) update(group G, key string, ops []iii.UpdateOp) (result iii.StreamUpdateResult, existed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, existed := s.groups[group][key]
	result, err = iii.ApplyUpdate(it.value, ops)
	if err == nil {
		s.put(group, key, result.NewValue)
	}
	return result, existed, err
}

func (s *store[G]) put(group G, key string, value json.RawMessage) {
	if s.groups == nil {
		s.groups = map[G]map[string]item{}
	}
	if s.groups[group] == nil {
		s.groups[group] = map[string]item{}
	}
	it, exists := s.groups[group][key]
	if !exists {
		s.next++
		it.seq = s.next
	}
	it.value = value
	s.groups[group][key] = it
	s.changes.Add(1)
}

func (s *store[G]) delete(group G, key string) (old json.RawMessage, existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, existed := s.groups[group][key]
	if existed {
		delete(s.groups[group], key)
		s.changes.Add(1)
	}
	return it.value, existed
}

// list returns a group's values in insertion order. It never returns nil.
func (s *store[G]) list(group G) []json.RawMessage {
	items := s.items(group)
	values := make([]json.RawMessage, len(items))
	for i, it := range items {
		values[i] = it.value
	}
	return values
}

type keyedItem struct {
	key string
	item
}

// items returns a group's items in insertion order.
func (s *store[G]) items(group G) []keyedItem {
	s.mu.Lock()
	items := make([]keyedItem, 0, len(s.groups[group]))
	for key, it := range s.groups[group] {
		items = append(items, keyedItem{key, it})
	}
	s.mu.Unlock()
	slices.SortFunc(items, func(a, b keyedItem) int { return cmp.Compare(a.seq, b.seq) })
	return items
}

func (s *store[G]) sizes() map[G]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := make(map[G]int, len(s.groups))
	for group, items := range s.groups {
		sizes[group] = len(items)
	}
	return sizes
}

// names returns the groups in no particular order.
func (s *store[G]) names() []G {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.groups))
}

func (e *Engine) registerStores() {
	e.registerState()
	e.registerStreams()
}
