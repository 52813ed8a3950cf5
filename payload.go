package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/iii-go/iii/internal/rawjson"
)

// decodePayload decodes an invocation's payload for a typed handler.
func (c *config) decodePayload(payload json.RawMessage, in any) error {
	if raw, ok := in.(*json.RawMessage); ok {
		*raw = payload
		return nil
	}
	err := c.decode(payload, in)
	if err == nil {
		return nil
	}
	path, err := locate(payload, reflect.TypeOf(in), err)
	where := "payload"
	if path != "" {
		where += " at " + path
	}
	message := where + ": " + err.Error()
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		got, _, _ := strings.Cut(mismatch.Value, " ")
		message = fmt.Sprintf("%s: got %s, want %s", where, got, jsonKind(mismatch.Type))
	}
	return &Error{Code: CodeInvalidRequest, Message: message}
}

// checkOut reports why a result cannot be decoded into out, which is not nil.
func checkOut(out any) error {
	v := reflect.ValueOf(out)
	switch {
	case v.Kind() != reflect.Pointer:
		return fmt.Errorf("cannot decode the result into %s: it is not a pointer", v.Type())
	case v.IsNil():
		return fmt.Errorf("cannot decode the result into %s: it is nil", v.Type())
	}
	for range maxPointers { // encoding/json decodes into what pointers and interfaces lead to
		target := v.Elem()
		if target.Kind() == reflect.Interface {
			target = target.Elem()
		}
		if target.Kind() != reflect.Pointer || target.IsNil() {
			return checkTarget(v.Type().Elem())
		}
		v = target
	}
	// Go 1.27 would follow it until the stack overflows.
	return fmt.Errorf("cannot decode the result into %T: it leads to itself", out)
}

// checkTarget reports why nothing can be decoded into a value of t, or nothing but null and
// empty lists and objects. The members of a struct are not looked at, since a result need
// not have all of them.
func checkTarget(t reflect.Type) error {
	fail := func(why string) error { return fmt.Errorf("cannot decode the result into %s: %s", t, why) }
	at, pointers := t, 0
	for range maxPointers { // a type may be within itself
		if at.Kind() == reflect.Struct || at.Name() != "" && codecOf(reflect.PointerTo(at), jsonUnmarshaler, "UnmarshalJSONFrom", textUnmarshaler) != byKind {
			return nil
		}
		switch at.Kind() {
		case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
			return fail(at.String() + " has no JSON encoding")
		case reflect.Interface:
			if at.NumMethod() > 0 {
				return fail("the type of a value for " + at.String() + " is not known")
			}
			return nil
		case reflect.Map:
			if _, err := (&inference{reads: true}).ofKeys(at.Key()); err != nil {
				return fail(err.Error())
			}
		case reflect.Pointer:
			pointers++
		case reflect.Slice, reflect.Array:
		default:
			return nil
		}
		at = at.Elem()
	}
	if pointers == maxPointers {
		return fail("it is a pointer to itself")
	}
	return nil
}

// callerKey is the member that the engine adds to the payload of a call from a worker, if
// that is an object; its value is the id of the worker.
const callerKey = "_caller_worker_id"

func isCallerKey(key []byte) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key) == callerKey
	}
	name, _ := rawjson.Unquote(slices.Concat([]byte{'"'}, key, []byte{'"'}))
	return name == callerKey
}

// noticesCaller reports whether the decoding of a payload into t may notice the member that
// the engine adds: unlike a plain struct, which ignores a member that it does not name, a
// map takes it for one of its own, and a type that decodes itself may refuse it. A struct
// with a field for the member asks for it.
func noticesCaller(t reflect.Type) bool {
	for range maxPointers {
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	_, streams := reflect.PointerTo(t).MethodByName("UnmarshalJSONFrom") // of encoding/json/v2
	notices := streams || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch t.Kind() {
	case reflect.Map:
		return true
	case reflect.Interface:
		return t.NumMethod() == 0
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == callerKey && f.IsExported() && flattened(t, f.Index) {
				return false
			}
			for option := range strings.SplitSeq(options, ",") { // of encoding/json/v2
				notices = notices || option == "embed" || option == "inline" || option == "unknown"
			}
		}
	}
	return notices
}

// flattened reports whether encoding/json takes the field of t at index for one of t
// itself: no struct on the way to it has a name of its own.
func flattened(t reflect.Type, index []int) bool {
	for i := range index[:len(index)-1] {
		name, _, _ := strings.Cut(t.FieldByIndex(index[:i+1]).Tag.Get("json"), ",")
		if name != "" {
			return false
		}
	}
	return true
}

// withoutCaller is payload without the member that the engine adds: itself if there is
// none, else a copy. Members of the same name further inside are the caller's own.
func withoutCaller(payload json.RawMessage) json.RawMessage {
	if i := rawjson.SkipSpace(payload, 0); i == len(payload) || payload[i] != '{' {
		return payload
	}
	found := false
	_ = rawjson.ScanObject(payload, func(key, _ []byte) { found = found || isCallerKey(key) })
	if !found {
		return payload
	}
	rest := make(json.RawMessage, 1, len(payload))
	rest[0] = '{'
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if isCallerKey(key) {
			return
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(rest, '"'), key...)
		rest = append(append(rest, `":`...), value...)
	})
	return append(rest, '}')
}

const (
	// maxLocated is the size of a payload up to which its parts are decoded again to
	// find the wrong one.
	maxLocated = 1 << 20
	// maxLocatedLevels keeps the path of a recursive type short.
	maxLocatedLevels = 32
)

// locate tells which part of a payload does not decode into t, and the error of that
// part alone. encoding/json knows neither index nor key, and what it says of a field
// differs between versions; so the parts are decoded one by one.
func locate(payload []byte, t reflect.Type, err error) (path string, inner error) {
	known := strings.TrimPrefix(fieldPath(err), ".")
	if len(payload) > maxLocated {
		return known, err
	}
	defer func() {
		if recover() != nil { // an UnmarshalJSON that is not made for a part of its object
			path, inner = known, err
		}
	}()
	path, inner = locatePart(payload, t, err, maxLocatedLevels)
	return strings.TrimPrefix(path, "."), inner
}

func locatePart(raw []byte, t reflect.Type, err error, levels int) (string, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if levels == 0 {
		return "", err
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return "", err
		}
		for i, item := range items {
			if failed := failureOf(item, t.Elem()); sameFailure(failed, err) {
				path, inner := locatePart(item, t.Elem(), failed, levels-1)
				return "[" + strconv.Itoa(i) + "]" + path, inner
			}
		}
	case reflect.Map, reflect.Struct:
		for key, value := range membersOf(raw) {
			alone, _ := json.Marshal(map[string]json.RawMessage{key: value})
			failed := failureOf(alone, t)
			if !sameFailure(failed, err) {
				continue
			}
			step, member := "."+key, fieldType(t, key)
			if t.Kind() == reflect.Map {
				step, member = "["+strconv.Quote(key)+"]", t.Elem()
			}
			if member == nil {
				return step, failed
			}
			within := failureOf(value, member)
			if !sameFailure(within, failed) { // the key is wrong, or its tag says more
				return step, failed
			}
			path, inner := locatePart(value, member, within, levels-1)
			return step + path, inner
		}
		return fieldPath(err), err
	}
	return "", err
}

// fieldPath is the path that encoding/json names, without the helper types that the
// decoding of generated types embeds (all of them named plain). It is all that is
// known of what decodes only as a whole, such as a union.
func fieldPath(err error) (path string) {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) || mismatch.Field == "" {
		return ""
	}
	for segment := range strings.SplitSeq(mismatch.Field, ".") {
		if segment != "plain" {
			path += "." + segment
		}
	}
	return path
}

func failureOf(raw []byte, t reflect.Type) error {
	return json.Unmarshal(raw, reflect.New(t).Interface())
}

// sameFailure reports whether a part fails for the reason for which the whole does.
func sameFailure(part, whole error) bool {
	var a, b *json.UnmarshalTypeError
	if errors.As(part, &a) && errors.As(whole, &b) {
		return a.Value == b.Value && a.Type == b.Type
	}
	return part != nil && a == nil && part.Error() == whole.Error()
}

// membersOf goes through the members of an object in their order; there are none in
// anything else.
func membersOf(raw []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		d := json.NewDecoder(bytes.NewReader(raw))
		if t, _ := d.Token(); t != json.Delim('{') {
			return
		}
		for d.More() {
			key, _ := d.Token()
			name, ok := key.(string)
			var value json.RawMessage
			if !ok || d.Decode(&value) != nil || !yield(name, value) {
				return
			}
		}
	}
}

// fieldType is the type of the field that a key is decoded into, nil if that is not
// known.
func fieldType(t reflect.Type, key string) (found reflect.Type) {
	if t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		switch {
		case !f.IsExported():
		case name == key:
			return f.Type
		case found == nil && strings.EqualFold(name, key):
			found = f.Type
		}
	}
	return found
}

// jsonKind names what encoding/json decodes into t.
func jsonKind(t reflect.Type) string {
	if t == nil {
		return "another type"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return "integer (" + t.Kind().String() + ")"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice, reflect.Array:
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	}
	return t.String()
}
