package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
)

// List is a slice that is written as [] when it is nil, and that refuses null: a
// plain nil slice is written as null, which the engine refuses where it expects an
// array. A plain slice is assignable to it.
type List[T any] []T

// MarshalJSON implements json.Marshaler.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// UnmarshalJSON implements json.Unmarshaler. Null is an error.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of a list")
	}
	return json.Unmarshal(b, (*[]T)(l))
}

func (List[T]) describe(in *inference, _ bool) (any, error) {
	items, err := in.of(reflect.TypeFor[T](), true)
	return map[string]any{"type": "array", "items": items}, err
}

// Map is a map from strings that is written as {} when it is nil, and that refuses
// null. A plain map is assignable to it.
type Map[V any] map[string]V

// MarshalJSON implements json.Marshaler.
func (m Map[V]) MarshalJSON() ([]byte, error) {
	if m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(map[string]V(m))
}

// UnmarshalJSON implements json.Unmarshaler. Null is an error.
func (m *Map[V]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of an object")
	}
	return json.Unmarshal(b, (*map[string]V)(m))
}

func (Map[V]) describe(in *inference, _ bool) (any, error) {
	values, err := in.of(reflect.TypeFor[V](), false)
	return map[string]any{"type": "object", "additionalProperties": values}, err
}

// ListMap is a map from strings to lists that is written as {} when it is nil, with
// [] for a list that is nil, and that refuses null in both places. A plain map of
// slices is assignable to it.
type ListMap[T any] map[string][]T

// MarshalJSON implements json.Marshaler.
func (m ListMap[T]) MarshalJSON() ([]byte, error) {
	lists := make(map[string]List[T], len(m))
	for k, v := range m {
		lists[k] = v
	}
	return json.Marshal(lists)
}

// UnmarshalJSON implements json.Unmarshaler. Null is an error.
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

func (ListMap[T]) describe(in *inference, _ bool) (any, error) {
	return Map[List[T]](nil).describe(in, false)
}

// isNull reports whether b, one JSON value, is null.
func isNull(b []byte) bool {
	return bytes.Equal(bytes.TrimSpace(b), []byte("null"))
}
