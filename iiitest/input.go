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
// inputs as a real engine, with the same errors: the error code is deserialization_error, and
// the message names the function and the cause ("missing field `key`", "invalid type: integer
// `1`, expected a string").
//
// A field is required unless it is a pointer or its tag has omitempty or omitzero. A pointer
// is nil if the value is missing or null. A field with omitempty or omitzero may be missing
// and then has its zero value, but a null value is an error. A json.RawMessage accepts any
// value, including null.
//
// Like a real engine, decodeInput first checks the keys that are present, in bytewise order,
// and then looks for missing ones. An input may also be an array of the field values in field
// order. The error for any other input contains the name of T.
func decodeInput[T any](functionID string, data json.RawMessage) (T, *wireError) {
	var v T
	if detail := decodeStrict(data, &v); detail != "" {
		var zero T
		return zero, inputError(functionID, detail)
	}
	return v, nil
}

// inputError returns the error for an invalid input. detail is the reason.
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
	t := v.Type()
	switch text := kindOf(raw) == '"'; { // the most frequent cases
	case t == rawMessageType:
		v.SetBytes(raw)
		return ""
	case t == textType && text:
		v.SetString(unquote(raw))
		return ""
	case t == optionalTextType && text:
		s := unquote(raw)
		v.Set(reflect.ValueOf(&s))
		return ""
	}
	rules := rulesOf(t)
	switch {
	case rules.strict:
		return v.Addr().Interface().(strictDecoder).decodeStrict(raw)
	case t.Kind() == reflect.Pointer:
		if kindOf(raw) == 'n' {
			return ""
		}
		v.Set(reflect.New(t.Elem()))
		return decodeValue(raw, v.Elem())
	case rules.unmarshaler:
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
		var room [fewMembers]member
		return decodeMembers((&scanner{b: raw}).list(room[:0]), v)
	case '[':
		return decodeItems(itemsOf(raw), v, name, "fewer elements in array")
	}
	return "invalid type: " + describe(raw) + ", expected " + name
}

// decodeMembers decodes an object's members into v's fields.
func decodeMembers(members []member, v reflect.Value) string {
	fields := fieldsOf(v.Type())
	var room [fewMembers]json.RawMessage
	values := append(room[:0], make([]json.RawMessage, len(fields.list))...) // nil: absent
	again := len(members)                                                    // the first member that repeats a field
	for i, f := range fields.list {
		for n, m := range members {
			switch {
			case string(m.key) != f.name:
			case values[i] == nil:
				values[i] = m.value
			default:
				again = min(again, n)
			}
		}
	}
	if again < len(members) {
		return "duplicate field `" + string(members[again].key) + "`"
	}
	for _, i := range fields.byName {
		if values[i] == nil {
			continue
		}
		if detail := decodeValue(values[i], v.Field(fields.list[i].index)); detail != "" {
			return detail
		}
	}
	for i, f := range fields.list {
		if values[i] == nil && !f.optional {
			return "missing field `" + f.name + "`"
		}
	}
	return ""
}

// decodeItems decodes an array into v's fields, in order. name and tooLong are used in error
// messages. A json.RawMessage is always required, even if it would be optional as a member of
// an object.
func decodeItems(items []json.RawMessage, v reflect.Value, name, tooLong string) string {
	fields := fieldsOf(v.Type()).list
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

// inputFields holds those fields of a struct that have JSON names.
type inputFields struct {
	list   []inputField // in the order of the struct
	byName []int        // indexes of list, sorted by the names
}

func (fields *inputFields) named(name string) *inputField {
	for i := range fields.list {
		if fields.list[i].name == name {
			return &fields.list[i]
		}
	}
	return nil
}

var fieldCache sync.Map // reflect.Type → *inputFields

// fieldsOf returns those fields of the struct type t that have JSON names.
func fieldsOf(t reflect.Type) *inputFields {
	if cached, ok := fieldCache.Load(t); ok {
		return cached.(*inputFields)
	}
	fields := new(inputFields)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		fields.byName = append(fields.byName, len(fields.list))
		fields.list = append(fields.list, inputField{
			name: name, index: i, typ: f.Type,
			optional: f.Type.Kind() == reflect.Pointer || strings.Contains(options, "omit"),
		})
	}
	slices.SortFunc(fields.byName, func(a, b int) int { return strings.Compare(fields.list[a].name, fields.list[b].name) })
	fieldCache.Store(t, fields)
	return fields
}

// decodingRules records which decoding methods a type has.
type decodingRules struct{ strict, unmarshaler bool }

var rulesCache sync.Map // reflect.Type → decodingRules

func rulesOf(t reflect.Type) decodingRules {
	if cached, ok := rulesCache.Load(t); ok {
		return cached.(decodingRules)
	}
	p := reflect.PointerTo(t)
	rules := decodingRules{p.Implements(strictDecoderType), p.Implements(unmarshalerType)}
	rulesCache.Store(t, rules)
	return rules
}

var strictDecoderType = reflect.TypeFor[strictDecoder]()

var unmarshalerType = reflect.TypeFor[json.Unmarshaler]()

var (
	rawMessageType   = reflect.TypeFor[json.RawMessage]()
	textType         = reflect.TypeFor[string]()
	optionalTextType = reflect.TypeFor[*string]()
)

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

// kindOf returns the first byte of a JSON value, except that it returns '0' for every number.
// For an empty value, it returns 0.
func kindOf(raw json.RawMessage) byte {
	s := scanner{b: raw}
	c := s.next()
	if c == '-' || c >= '0' && c <= '9' {
		return '0'
	}
	return c
}

// describe formats a JSON value for an error message, as a real engine does.
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
