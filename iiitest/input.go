package iiitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decodeInput decodes the input of a built-in function into the struct T and
// refuses what the engine refuses, in its words: the code is
// deserialization_error, the message names the function and what is wrong
// ("missing field `key`", "invalid type: integer `1`, expected a string").
//
// A field must be there unless it is a pointer (absent and null mean the same)
// or its tag has omitempty or omitzero (absent is the zero value, null is an
// error). A json.RawMessage takes any value, null included. The engine checks
// the keys that are there in bytewise order and then looks for missing ones.
// The name of T stands in the message about an input that is no object.
func decodeInput[T any](functionID string, data json.RawMessage) (T, *wireError) {
	var v T
	if detail := decodeStrict(data, &v); detail != "" {
		var zero T
		return zero, errorBody("deserialization_error", "Failed to deserialize input for %s: %s", functionID, detail)
	}
	return v, nil
}

// decodeStrict decodes data, which is JSON, into v by the rules of decodeInput and says what is
// wrong, or nothing.
func decodeStrict[T any](data json.RawMessage, v *T) string {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		if detail := wrongType(data, t); detail != "" {
			return detail
		}
		if err := json.Unmarshal(data, v); err != nil {
			return "invalid value"
		}
		return ""
	}
	if kindOf(data) != '{' {
		return "invalid type: " + describe(data) + ", expected struct " + t.Name()
	}
	keys := (&scanner{b: data}).members()
	value := reflect.ValueOf(v).Elem()
	fields := inputFields(t)
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		f, ok := fields[name]
		if !ok {
			continue
		}
		raw := keys[name]
		if detail := wrongType(raw, f.typ); detail != "" {
			return detail
		}
		if f.typ == rawMessageType {
			value.FieldByIndex(f.index).SetBytes(raw)
			continue
		}
		if err := json.Unmarshal(raw, value.FieldByIndex(f.index).Addr().Interface()); err != nil {
			return "invalid value for field `" + name + "`"
		}
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if _, there := keys[name]; !there && fields[name].required {
			return "missing field `" + name + "`"
		}
	}
	return ""
}

type inputField struct {
	index    []int
	typ      reflect.Type
	required bool
}

// inputFields lists the fields of t by their JSON names.
func inputFields(t reflect.Type) map[string]inputField {
	fields := make(map[string]inputField, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		fields[name] = inputField{
			index:    f.Index,
			typ:      f.Type,
			required: f.Type.Kind() != reflect.Pointer && !strings.Contains(options, "omit"),
		}
	}
	return fields
}

var rawMessageType = reflect.TypeFor[json.RawMessage]()

// wrongType says what is wrong with the JSON type of raw for a value of type t,
// or nothing. It looks at one level: types that decode themselves report for
// themselves.
func wrongType(raw json.RawMessage, t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		if kindOf(raw) == 'n' {
			return ""
		}
		t = t.Elem()
	}
	if t == rawMessageType || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return ""
	}
	kind, expected := kindOf(raw), ""
	switch t.Kind() {
	case reflect.String:
		if kind != '"' {
			expected = "a string"
		}
	case reflect.Bool:
		if kind != 't' && kind != 'f' {
			expected = "a boolean"
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		if kind != '0' {
			expected = strings.Replace(t.Kind().String(), "uint", "u", 1)
		} else if _, err := strconv.ParseUint(string(raw), 10, t.Bits()); err != nil {
			return outOfRange(raw, strings.Replace(t.Kind().String(), "uint", "u", 1))
		}
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		if kind != '0' {
			expected = strings.Replace(t.Kind().String(), "int", "i", 1)
		} else if _, err := strconv.ParseInt(string(raw), 10, t.Bits()); err != nil {
			return outOfRange(raw, strings.Replace(t.Kind().String(), "int", "i", 1))
		}
	case reflect.Float64:
		if kind != '0' {
			expected = "f64"
		}
	case reflect.Slice, reflect.Array:
		if kind != '[' {
			expected = "a sequence"
			break
		}
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return "invalid value"
		}
		for _, item := range items {
			if detail := wrongType(item, t.Elem()); detail != "" {
				return detail
			}
		}
	case reflect.Map:
		if kind != '{' {
			expected = "a map"
			break
		}
		members := (&scanner{b: raw}).members()
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if detail := wrongType(members[name], t.Elem()); detail != "" {
				return detail
			}
		}
	case reflect.Struct:
		if kind != '{' {
			expected = "struct " + t.Name()
		}
	}
	if expected == "" {
		return ""
	}
	return "invalid type: " + describe(raw) + ", expected " + expected
}

// outOfRange words a number that is no integer or too large for its type.
func outOfRange(raw json.RawMessage, expected string) string {
	if bytes.ContainsAny(raw, ".eE") {
		return "invalid type: " + describe(raw) + ", expected " + expected
	}
	return "invalid value: " + describe(raw) + ", expected " + expected
}

// kindOf is the first byte of a JSON value, with '0' for every number and 0 for nothing.
func kindOf(raw json.RawMessage) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	switch {
	case len(raw) == 0:
		return 0
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		return '0'
	default:
		return raw[0]
	}
}

// describe names a JSON value as the engine's messages do.
func describe(raw json.RawMessage) string {
	switch kindOf(raw) {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return fmt.Sprintf("string %q", s)
	case '0':
		if bytes.ContainsAny(raw, ".eE") {
			return "floating point `" + string(raw) + "`"
		}
		return "integer `" + string(raw) + "`"
	case 't', 'f':
		return "boolean `" + string(raw) + "`"
	case '[':
		return "sequence"
	case '{':
		return "map"
	default:
		return "null"
	}
}
