package iii

import (
	"bytes"
	"encoding/json"
	"errors"
)

// List is a slice that encodes as [] if it is nil and returns an error when decoding
// null. A plain nil slice encodes as null, which the engine rejects where it expects
// an array. A plain slice is assignable to a List.
type List[T any] []T

// MarshalJSON implements json.Marshaler. It writes a nil list as [].
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of a list")
	}
	return json.Unmarshal(b, (*[]T)(l))
}

// Map is a map with string keys that encodes as {} if it is nil and returns an error
// when decoding null. A plain map is assignable to a Map.
type Map[V any] map[string]V

// MarshalJSON implements json.Marshaler. It writes a nil map as {}.
func (m Map[V]) MarshalJSON() ([]byte, error) {
	if m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(map[string]V(m))
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null.
func (m *Map[V]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of an object")
	}
	return json.Unmarshal(b, (*map[string]V)(m))
}

// ListMap is a map with string keys and lists as values. A nil map encodes as {} and a
// nil list in it as []; decoding null returns an error in both places. A plain map of
// slices is assignable to a ListMap.
type ListMap[T any] map[string][]T

// MarshalJSON implements json.Marshaler. It writes a nil map as {} and a nil list as
// [].
func (m ListMap[T]) MarshalJSON() ([]byte, error) {
	lists := make(map[string]List[T], len(m))
	for k, v := range m {
		lists[k] = v
	}
	return json.Marshal(lists)
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null.
func (m *ListMap[T]) UnmarshalJSON(b []byte) error {
	var lists Map[List[T]]
	if err := json.Unmarshal(b, &lists); err != nil {
		return err
	}
	*m = make(ListMap[T], len(lists))
	for k, v := range lists {
		(*m)[k] = v
	}
	return nil
}

// isNull reports whether the JSON value b is null.
func isNull(b []byte) bool {
	return bytes.Equal(bytes.TrimSpace(b), []byte("null"))
}
