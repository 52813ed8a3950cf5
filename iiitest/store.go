package iiitest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/iii-go/iii"
)

// store keeps items by group and key, in memory. An item can exist with the value null,
// and a group outlives its last item. The zero value is empty and ready to use.
type store[G comparable] struct {
	mu     sync.Mutex
	groups map[G]map[string]item
	next   uint64
}

type item struct {
	value json.RawMessage
	seq   uint64 // order of insertion; an update keeps the position
}

func (s *store[G]) get(group G, key string) (value json.RawMessage, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, exists := s.groups[group][key]
	return it.value, exists
}

// set stores a value and returns the previous one.
func (s *store[G]) set(group G, key string, value json.RawMessage) (old json.RawMessage, existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, existed := s.groups[group][key]
	s.put(group, key, value)
	return it.value, existed
}

// update applies operations, all or none.
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
}

func (s *store[G]) delete(group G, key string) (old json.RawMessage, existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, existed := s.groups[group][key]
	delete(s.groups[group], key)
	return it.value, existed
}

// list returns the values of a group in the order of insertion. The result is never
// nil.
func (s *store[G]) list(group G) []json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := slices.SortedFunc(maps.Values(s.groups[group]), func(a, b item) int { return cmp.Compare(a.seq, b.seq) })
	values := make([]json.RawMessage, len(items))
	for i, it := range items {
		values[i] = it.value
	}
	return values
}

// names returns the groups, in no order.
func (s *store[G]) names() []G {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.groups))
}

// registerStores adds the functions and trigger types of iii-state and
// iii-stream.
func (e *Engine) registerStores() {
	e.registerState()
	e.registerStreams()
}
