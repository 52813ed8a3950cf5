package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
)

// List is a slice that encodes as [] if it is nil and returns an error when decoding
// null. A plain nil slice encodes as null, which the engine rejects where it expects
// an array. A list of bytes is an array of numbers, too, while a plain slice of them is
// base64. A plain slice is assignable to a List.
type List[T any] []T

// MarshalJSON implements json.Marshaler. It writes a nil list as [].
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	if !isByte[T]() {
		return json.Marshal([]T(l))
	}
	// encoding/json encodes a slice of bytes as base64, but not one of pointers to bytes.
	elements := make([]*T, len(l))
	for i := range l {
		elements[i] = &l[i]
	}
	return json.Marshal(elements)
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null and, unlike a slice
// of bytes, for base64.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of a list")
	}
	if isByte[T]() && bytes.HasPrefix(bytes.TrimSpace(b), []byte{'"'}) {
		return errors.New("iii: a string in place of a list")
	}
	return json.Unmarshal(b, (*[]T)(l))
}

// isByte reports whether T is byte or a type of its kind.
func isByte[T any]() bool { return reflect.TypeFor[T]().Kind() == reflect.Uint8 }

func (List[T]) describe(in *inference, _ bool) (any, error) {
	items, err := in.of(reflect.TypeFor[T](), true)
	return map[string]any{"type": "array", "items": items}, err
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

func (Map[V]) describe(in *inference, _ bool) (any, error) {
	values, err := in.of(reflect.TypeFor[V](), false)
	return map[string]any{"type": "object", "additionalProperties": values}, err
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

func (ListMap[T]) describe(in *inference, _ bool) (any, error) {
	return Map[List[T]](nil).describe(in, false)
}

// isNull reports whether the JSON value b is null.
func isNull(b []byte) bool {
	return bytes.Equal(bytes.TrimSpace(b), []byte("null"))
}
