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
	"sync"
)

// decodeInput decodes the input of a built-in function into the struct T. It rejects the same
// inputs as the engine, with the same errors: the code is deserialization_error, and the
// message names the function and the cause ("missing field `key`", "invalid type: integer `1`,
// expected a string").
//
// A field is required unless it is a pointer or its tag has omitempty or omitzero. A pointer
// is nil if the value is missing or null. A field with omitempty or omitzero has its zero
// value if the value is missing, but null is an error. A json.RawMessage accepts any value,
// including null.
//
// Like the engine, decodeInput first checks the keys that are present, in bytewise order, and
// then looks for missing ones. An input may also be an array of the field values in field
// order. The error for any other input contains the name of T.
func decodeInput[T any](functionID string, data json.RawMessage) (T, *wireError) {
	var v T
	if detail := decodeStrict(data, &v); detail != "" {
		var zero T
		return zero, inputError(functionID, detail)
	}
	return v, nil
}

// inputError returns the error about an invalid input. detail is the reason.
func inputError(functionID, detail string) *wireError {
	return errorBody("deserialization_error", "Failed to deserialize input for %s: %s", functionID, detail)
}

// decodeStrict decodes data, which must be valid JSON, into v by the rules of decodeInput. It
// returns an error message, or "".
func decodeStrict[T any](data json.RawMessage, v *T) string {
	return decodeValue(data, reflect.ValueOf(v).Elem())
}

// strictDecoder is implemented by types that decode themselves by the engine's rules.
type strictDecoder interface {
	// decodeStrict decodes raw. It returns an error message, or "".
	decodeStrict(raw json.RawMessage) string
}

// decodeValue decodes raw into v, which may have any type used in inputs.
func decodeValue(raw json.RawMessage, v reflect.Value) string {
	if d, ok := v.Addr().Interface().(strictDecoder); ok {
		return d.decodeStrict(raw)
	}
	t := v.Type()
	switch {
	case t == rawMessageType:
		v.SetBytes(raw)
		return ""
	case t.Kind() == reflect.Pointer:
		if kindOf(raw) == 'n' {
			return ""
		}
		v.Set(reflect.New(t.Elem()))
		return decodeValue(raw, v.Elem())
	case reflect.PointerTo(t).Implements(unmarshalerType):
	case t.Kind() == reflect.Struct:
		return decodeStruct(raw, v)
	default:
		if detail := wrongType(raw, t); detail != "" {
			return detail
		}
	}
	switch {
	case t.Kind() == reflect.String && kindOf(raw) == '"':
		v.SetString(unquote(raw))
	case t.Kind() == reflect.Slice:
		items := itemsOf(raw)
		v.Set(reflect.MakeSlice(t, len(items), len(items)))
		for i, item := range items {
			if detail := decodeValue(item, v.Index(i)); detail != "" {
				return detail
			}
		}
	case t.Kind() == reflect.Map:
		members := membersOf(raw)
		v.Set(reflect.MakeMap(t))
		for _, key := range slices.Sorted(maps.Keys(members)) {
			member := reflect.New(t.Elem()).Elem()
			if detail := decodeValue(members[key], member); detail != "" {
				return detail
			}
			v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), member)
		}
	default:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			return "invalid value"
		}
	}
	return ""
}

func decodeStruct(raw json.RawMessage, v reflect.Value) string {
	name := "struct " + v.Type().Name()
	switch kindOf(raw) {
	case '{':
		members, twice := (&scanner{b: raw}).membersOf(func(key string) bool { return fieldsOf(v.Type()).named(key) != nil })
		if twice != "" {
			return "duplicate field `" + twice + "`"
		}
		return decodeMembers(members, v)
	case '[':
		return decodeItems(itemsOf(raw), v, name, "fewer elements in array")
	}
	return "invalid type: " + describe(raw) + ", expected " + name
}

func decodeMembers(members map[string]json.RawMessage, v reflect.Value) string {
	fields := fieldsOf(v.Type())
	for _, key := range slices.Sorted(maps.Keys(members)) {
		f := fields.named(key)
		if f == nil {
			continue
		}
		if detail := decodeValue(members[key], v.Field(f.index)); detail != "" {
			return detail
		}
	}
	for _, f := range fields {
		if _, there := members[f.name]; !there && !f.optional {
			return "missing field `" + f.name + "`"
		}
	}
	return ""
}

// decodeItems decodes an array into the fields of v, in order. name and tooLong are used in
// error messages. A json.RawMessage is always required, even if it would be optional as a
// member of an object.
func decodeItems(items []json.RawMessage, v reflect.Value, name, tooLong string) string {
	fields := fieldsOf(v.Type())
	for i, f := range fields {
		switch {
		case i < len(items):
			if detail := decodeValue(items[i], v.Field(f.index)); detail != "" {
				return detail
			}
		case !f.optional || f.typ == rawMessageType:
			return fmt.Sprintf("invalid length %d, expected %s with %s", i, name, elements(len(fields)))
		}
	}
	if len(items) > len(fields) {
		return fmt.Sprintf("invalid length %d, expected %s", len(items), tooLong)
	}
	return ""
}

// elements formats a count as the engine's messages do.
func elements(n int) string {
	if n == 1 {
		return "1 element"
	}
	return fmt.Sprint(n, " elements")
}

func itemsOf(raw json.RawMessage) []json.RawMessage {
	var items []json.RawMessage
	_ = json.Unmarshal(raw, &items)
	return items
}

type inputField struct {
	name     string
	index    int
	typ      reflect.Type
	optional bool
}

type inputFields []inputField

func (fields inputFields) named(name string) *inputField {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

var fieldCache sync.Map // reflect.Type → inputFields

// fieldsOf returns the fields of struct type t that have JSON names.
func fieldsOf(t reflect.Type) inputFields {
	if cached, ok := fieldCache.Load(t); ok {
		return cached.(inputFields)
	}
	var fields inputFields
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		fields = append(fields, inputField{
			name: name, index: i, typ: f.Type,
			optional: f.Type.Kind() == reflect.Pointer || strings.Contains(options, "omit"),
		})
	}
	fieldCache.Store(t, fields)
	return fields
}

var unmarshalerType = reflect.TypeFor[json.Unmarshaler]()

var rawMessageType = reflect.TypeFor[json.RawMessage]()

// wrongType describes the mismatch between the JSON type of raw and t, or returns "" if there
// is none. It does not check the elements of arrays and maps.
func wrongType(raw json.RawMessage, t reflect.Type) string {
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
			expected = unsignedName(t)
		} else if _, err := strconv.ParseUint(string(raw), 10, t.Bits()); err != nil {
			return outOfRange(raw, unsignedName(t))
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
		}
	case reflect.Map:
		if kind != '{' {
			expected = "a map"
		}
	}
	if expected == "" {
		return ""
	}
	return "invalid type: " + describe(raw) + ", expected " + expected
}

// unsignedName returns the engine's name for an unsigned type. A uint stands for the engine's
// usize.
func unsignedName(t reflect.Type) string {
	if t.Kind() == reflect.Uint {
		return "usize"
	}
	return strings.Replace(t.Kind().String(), "uint", "u", 1)
}

// outOfRange describes a number that is not an integer or does not fit its type.
func outOfRange(raw json.RawMessage, expected string) string {
	if bytes.ContainsAny(raw, ".eE") {
		return "invalid type: " + describe(raw) + ", expected " + expected
	}
	return "invalid value: " + describe(raw) + ", expected " + expected
}

// kindOf returns the first byte of a JSON value, but '0' for every number. It returns 0 for an
// empty value.
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

// describe formats a JSON value for an error message, as the engine does.
func describe(raw json.RawMessage) string {
	switch kindOf(raw) {
	case '"':
		return "string " + debugString(unquote(raw))
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
