package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/iii-go/iii/internal/jsoncodec"
	"github.com/iii-go/iii/internal/rawjson"
)

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
	message := where + ": " + truncated(err.Error(), maxDecodeError)
	var mismatch *json.UnmarshalTypeError
	var date *time.ParseError
	switch {
	case errors.As(err, &mismatch):
		got, _, _ := strings.Cut(mismatch.Value, " ")
		message = fmt.Sprintf("%s: got %s, want %s", where, got, jsonKind(mismatch.Type))
	case errors.As(err, &date): // its text contains the value, twice
		message = where + ": want a date and time in RFC 3339 format"
	}
	return &Error{Code: CodeInvalidRequest, Message: message}
}

// maxDecodeError is the maximum number of bytes of a decoding error that are sent to the
// caller. An error from a type's own UnmarshalJSON method may contain the value.
const maxDecodeError = 200

// truncated returns s if it has at most limit bytes. Otherwise, it returns the beginning of s,
// followed by an ellipsis.
func truncated(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// decodeAndRecycle is like decodePayload, but returns a large payload's memory to the pool.
// Neither the handler nor the methods of its input type may retain the payload.
func (c *config) decodeAndRecycle(ctx context.Context, payload json.RawMessage, in any) error {
	// Do not recycle the payload of a traced invocation, whose context has another type. A
	// span processor may have kept that context, and may still read the payload through
	// [InvocationFromContext].
	invocation, ok := ctx.(*invocationContext)
	if !ok || invocation.in.memory == nil || len(payload) == 0 || &payload[0] != &(*invocation.in.memory)[0] {
		return c.decodePayload(payload, in)
	}
	caller := ""
	complete, err := jsoncodec.DecodeStruct(payload, in, func(key, value []byte) {
		if isCallerKey(key) {
			caller, _ = rawjson.Unquote(value)
		}
	})
	if err != nil {
		return c.decodePayload(payload, in) // describes the error
	}
	if complete {
		invocation.in.recycle(caller)
	}
	return nil
}

// minRecycled is the minimum size of a payload that gets its own, recyclable memory. Smaller
// payloads are allocated together with the rest of the invocation.
const minRecycled = 1 << 10

// payloads is the pool of payload memory. Its elements have type *[]byte.
var payloads sync.Pool

// recyclable returns a copy of data in pooled memory.
func recyclable(data []byte) *[]byte {
	p, ok := payloads.Get().(*[]byte)
	if !ok {
		p = new([]byte)
	}
	*p = append((*p)[:0], data...)
	return p
}

// recycle returns the payload's memory to the pool. callerID is the calling worker's id, as
// read from the payload.
func (in *incoming) recycle(callerID string) {
	p := in.memory
	in.callerID, in.recycled = callerID, true
	in.data, in.memory = nil, nil
	if cap(*p) <= maxPooledBuffer && len(*p) >= cap(*p)/8 {
		payloads.Put(p)
	}
}

// checkOut returns an error if no result can be decoded into out. out itself must not be nil.
func checkOut(out any) error {
	v := reflect.ValueOf(out)
	switch {
	case v.Kind() != reflect.Pointer:
		return fmt.Errorf("cannot decode the result into %s: it is not a pointer", v.Type())
	case v.IsNil():
		return fmt.Errorf("cannot decode the result into %s: it is nil", v.Type())
	}
	for range maxPointers { // encoding/json follows pointers and interfaces
		target := v.Elem()
		if target.Kind() == reflect.Interface {
			target = target.Elem()
		}
		if target.Kind() != reflect.Pointer || target.IsNil() {
			return checkTarget(v.Type().Elem())
		}
		v = target
	}
	// The pointers form a cycle, which encoding/json in Go 1.27 would follow until the stack
	// overflows.
	return fmt.Errorf("cannot decode the result into %T: it leads to itself", out)
}

// checkTarget returns an error if t can hold no JSON values except null, empty arrays and
// empty objects. It does not examine struct fields, because a result need not contain all of
// them.
func checkTarget(t reflect.Type) error {
	fail := func(why string) error { return fmt.Errorf("cannot decode the result into %s: %s", t, why) }
	at, pointers := t, 0
	for range maxPointers { // a type may contain itself
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

// callerKey is the name of the member that the engine adds to an object payload. The member's
// value is the calling worker's ID.
const callerKey = "_caller_worker_id"

func isCallerKey(key []byte) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key) == callerKey
	}
	name, _ := rawjson.Unquote(slices.Concat([]byte{'"'}, key, []byte{'"'}))
	return name == callerKey
}

// mustRemoveCaller reports whether the member added by the engine must be removed before a
// payload is decoded into t. With encoding/json, a plain struct ignores unknown members, but a
// map stores them, and an UnmarshalJSON method may reject them, as may the program's own
// codec. A struct with a field for the member is meant to receive it.
func mustRemoveCaller(t reflect.Type, ownCodec bool) bool {
	for range maxPointers {
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	_, streams := reflect.PointerTo(t).MethodByName("UnmarshalJSONFrom") // encoding/json/v2
	notices := ownCodec || streams || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch t.Kind() {
	case reflect.Map:
		return true
	case reflect.Interface:
		return notices || t.NumMethod() == 0
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == callerKey && f.IsExported() && flattened(t, f.Index) {
				return false
			}
			for option := range strings.SplitSeq(options, ",") { // encoding/json/v2
				notices = notices || option == "embed" || option == "inline" || option == "unknown"
			}
		}
	}
	return notices
}

// flattened reports whether encoding/json treats a field of an embedded struct as a member of
// t itself. This requires that no struct on the path to the field has a JSON name. index is
// the field's index sequence.
func flattened(t reflect.Type, index []int) bool {
	for i := range index[:len(index)-1] {
		name, _, _ := strings.Cut(t.FieldByIndex(index[:i+1]).Tag.Get("json"), ",")
		if name != "" {
			return false
		}
	}
	return true
}

// withoutCaller returns payload without the member added by the engine. If the member is
// absent, the result is payload itself; otherwise, it is a copy. A nested member with the same
// name belongs to the caller and is kept.
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
	// maxLocated limits the size of payloads that are decoded again to locate an error.
	maxLocated = 1 << 20
	// maxLocatedLevels keeps paths in recursive types short.
	maxLocatedLevels = 32
)

// locate returns the path of the part of payload that cannot be decoded into t, and the error
// from decoding that part alone. It decodes the parts individually, because the errors of
// encoding/json omit indexes and keys, and describe fields differently in each Go version.
func locate(payload []byte, t reflect.Type, err error) (path string, inner error) {
	known := strings.TrimPrefix(fieldPath(err), ".")
	if len(payload) > maxLocated {
		return known, err
	}
	defer func() {
		if recover() != nil { // an UnmarshalJSON method cannot handle a part of its object
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
	for _, empty := range []string{"{}", "[]"} {
		if bytes.HasPrefix(raw, []byte(empty[:1])) && sameFailure(failureOf([]byte(empty), t), err) {
			return "", err // no member or element is at fault
		}
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
			if !sameFailure(within, failed) { // the key is invalid, or its tag changes the decoding
				return step, failed
			}
			path, inner := locatePart(value, member, within, levels-1)
			return step + path, inner
		}
		return fieldPath(err), err
	}
	return "", err
}

// fieldPath returns the path in an encoding/json error. It omits the name plain, under which
// generated types embed helper types. The path ends at values that decode only as a whole,
// such as unions.
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

// sameFailure reports whether a part fails to decode for the same reason as the whole.
func sameFailure(part, whole error) bool {
	var a, b *json.UnmarshalTypeError
	if errors.As(part, &a) && errors.As(whole, &b) {
		return a.Value == b.Value && a.Type == b.Type
	}
	return part != nil && a == nil && part.Error() == whole.Error()
}

// membersOf iterates over an object's members in order. Other values have no members.
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

// fieldType returns the type of the field that key is decoded into, or nil if there is no such
// field.
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

// jsonKind returns the name of the JSON type that encoding/json decodes into t.
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

// WithInputValidation validates incoming payloads against the request schema advertised for
// the function, after all middleware has run and before the handler is called. If a payload is
// invalid, the caller receives an error with code [CodeInvalidRequest] and the path of the
// invalid part, for example lines[2].price. The message contains no values from the payload.
// The schema cannot detect every invalid value. An invalid date, for example, is rejected only
// when it is decoded. If the value's type has its own UnmarshalJSON method, the message then
// contains up to 200 bytes of that method's error, which may include the value. A member whose
// name differs only in case from one in the schema is invalid, because encoding/json would
// decode it as that member. For a route, only the body is validated, and an invalid body
// results in a 400 response; a request without a body is not validated. The member
// _caller_worker_id, which the engine adds, is validated only if the schema names it.
//
// The schema comes from the handler's type or from [WithSchemas]; for a route, the schema of
// the member named body is used. It is compiled when the function is registered. Registration
// fails if the function has no schema, if the schema's draft is neither 2020-12 nor draft-07,
// if a reference points outside the schema, if references form a cycle, or if package regexp
// cannot compile a pattern. The format keyword is ignored. The option cannot be used with
// mounted handlers, because they read request bodies themselves.
//
// Default: no validation. Every payload that can be decoded is then accepted, and missing
// members become zero values.
func WithInputValidation() FunctionOption {
	return func(c *functionConfig) error { c.validates = true; return nil }
}

// addValidation compiles the request schema and inserts the check before the handler.
func (spec *handlerSpec) addValidation(cfg *functionConfig) error {
	if !cfg.validates {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("WithInputValidation: %w", err) }
	if spec.unreadBody {
		return fail(errors.New("a mounted handler reads the body itself"))
	}
	request, place := cfg.request, ""
	switch {
	case spec.validate == nil:
	case cfg.schemas:
		place = "/properties/body"
	default: // not the schema of the request, which allows a missing body
		request, _ = schemaOf(spec.body, true) // cannot fail: the type was described with the request
	}
	if request == nil {
		return fail(errors.New("the function has no request schema"))
	}
	schema, err := compileInputSchema(request, place)
	if err != nil {
		return fail(err)
	}
	if spec.validate != nil {
		spec.validate(schema)
		return nil
	}
	namesCaller := false
	if root, ok := schema.root.(map[string]any); ok {
		properties, _ := root["properties"].(map[string]any)
		_, namesCaller = properties[callerKey]
	}
	next := spec.run
	spec.run = func(ctx context.Context, payload json.RawMessage) (any, error) {
		seen := payload
		if !namesCaller {
			seen = withoutCaller(payload)
		}
		if err := schema.check(seen, "payload"); err != nil {
			return nil, err
		}
		return next(ctx, payload)
	}
	return nil
}

// inputSchema is a compiled JSON Schema. The jsonschema library determines only whether a
// value is valid. The invalid part is located by checking parts of the value against parts of
// the schema.
type inputSchema struct {
	root  any    // the decoded document
	place string // JSON pointer to the relevant schema in the document

	whole *jsonschema.Resolved
	parts sync.Map // from JSON pointer or schema to *jsonschema.Resolved; nil if it does not compile
}

// documentID is the $id assigned to a document that has none. Schemas that are compiled
// separately refer to parts of the document by its $id.
const documentID = "iii:request"

func compileInputSchema(raw json.RawMessage, place string) (*inputSchema, error) {
	root, err := decodeNumbers(raw)
	if err != nil {
		return nil, err
	}
	s := &inputSchema{root: root, place: place}
	if place != "" {
		if _, ok := at(root, place); !ok {
			return nil, errors.New("the request schema has no member body among its properties")
		}
	}
	if m, ok := root.(map[string]any); ok {
		if draft, ok := m["$schema"]; ok && !slices.Contains(validatedDrafts, fmt.Sprint(draft)) {
			return nil, fmt.Errorf("$schema %q: only draft 2020-12 and draft-07 can be validated", draft)
		}
		if err := checkCycles(m); err != nil {
			return nil, err
		}
	}
	if s.whole, err = resolveSchema(raw); err != nil { // first, so that errors refer to the original document
		return nil, err
	}
	if place != "" {
		if s.whole, err = s.compilePart(place); err != nil {
			return nil, err
		}
	}
	return s, nil
}

var validatedDrafts = []string{
	"https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft-07/schema#",
}

func resolveSchema(raw json.RawMessage) (resolved *jsonschema.Resolved, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the request schema does not compile: %v", p)
		}
	}()
	var schema jsonschema.Schema
	if err := json.Unmarshal(raw, &schema); err != nil {
		return nil, fmt.Errorf("the request schema does not compile: %w", err)
	}
	if resolved, err = schema.Resolve(nil); err != nil {
		return nil, fmt.Errorf("the request schema does not compile: %w", err)
	}
	return resolved, nil
}

func (s *inputSchema) compilePart(pointer string) (*jsonschema.Resolved, error) {
	return s.compile(map[string]any{"$ref": documentID + "#" + escapeFragment(pointer)})
}

// compile compiles a schema that may refer to the document.
func (s *inputSchema) compile(schema map[string]any) (*jsonschema.Resolved, error) {
	document, ok := s.root.(map[string]any)
	if !ok {
		document = map[string]any{"allOf": []any{s.root}}
	}
	document = maps.Clone(document)
	id, ok := document["$id"].(string)
	if !ok || id == "" {
		id = documentID
		document["$id"] = id
	}
	schema = maps.Clone(schema)
	if ref, ok := schema["$ref"].(string); ok && strings.HasPrefix(ref, documentID+"#") {
		schema["$ref"] = id + strings.TrimPrefix(ref, documentID)
	}
	definitions := "$defs"
	if draft, ok := document["$schema"]; ok {
		schema["$schema"] = draft
		if strings.Contains(fmt.Sprint(draft), "draft-07") {
			definitions = "definitions"
			schema = map[string]any{"$schema": draft, "allOf": []any{withoutSchema(schema)}} // draft-07 ignores keywords next to $ref
		}
	}
	schema[definitions] = map[string]any{"document": document}
	raw, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	return resolveSchema(raw)
}

func withoutSchema(schema map[string]any) map[string]any {
	schema = maps.Clone(schema)
	delete(schema, "$schema")
	return schema
}

func escapeFragment(pointer string) string {
	var b strings.Builder
	for _, c := range []byte(pointer) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"%<>[\]^`+"`{|}#", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

var (
	pointerEscaper   = strings.NewReplacer("~", "~0", "/", "~1")
	pointerUnescaper = strings.NewReplacer("~1", "/", "~0", "~")
)

// at returns the part of document that the JSON pointer refers to, and whether that part
// exists.
func at(document any, pointer string) (any, bool) {
	if pointer == "" {
		return document, true
	}
	if pointer[0] != '/' {
		return nil, false
	}
	for step := range strings.SplitSeq(pointer[1:], "/") {
		step = pointerUnescaper.Replace(step)
		switch part := document.(type) {
		case map[string]any:
			var ok bool
			if document, ok = part[step]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(part) {
				return nil, false
			}
			document = part[i]
		default:
			return nil, false
		}
	}
	return document, true
}

// checkCycles returns an error if a schema refers to itself, directly or through other
// schemas, without descending into a part of the value. The jsonschema library would follow
// such references until the stack overflows.
func checkCycles(root map[string]any) error {
	const visiting, visited = 1, 2
	state := map[string]int{}
	var visit func(pointer string) error
	visit = func(pointer string) error {
		node, ok := at(root, pointer)
		schema, isObject := node.(map[string]any)
		if !ok || !isObject || state[pointer] == visited {
			return nil
		}
		if state[pointer] == visiting {
			return fmt.Errorf("the request schema refers to itself in a cycle, at #%s", pointer)
		}
		state[pointer] = visiting
		for _, next := range inPlace(schema, pointer) {
			if err := visit(next); err != nil {
				return err
			}
		}
		state[pointer] = visited
		return nil
	}
	var all func(node any, pointer string) error
	all = func(node any, pointer string) error {
		switch node := node.(type) {
		case map[string]any:
			if err := visit(pointer); err != nil {
				return err
			}
			for _, key := range slices.Sorted(maps.Keys(node)) {
				if key == "enum" || key == "const" || key == "default" || key == "examples" {
					continue
				}
				if err := all(node[key], pointer+"/"+pointerEscaper.Replace(key)); err != nil {
					return err
				}
			}
		case []any:
			for i, item := range node {
				if err := all(item, pointer+"/"+strconv.Itoa(i)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return all(root, "")
}

// inPlace returns JSON pointers to the subschemas that apply to the same value as schema
// itself.
func inPlace(schema map[string]any, pointer string) (pointers []string) {
	for _, keyword := range []string{"$ref", "$dynamicRef"} {
		if target, ok := localRef(schema[keyword]); ok {
			pointers = append(pointers, target)
		}
	}
	for _, keyword := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := schema[keyword].([]any)
		for i := range list {
			pointers = append(pointers, pointer+"/"+keyword+"/"+strconv.Itoa(i))
		}
	}
	for _, keyword := range []string{"not", "if", "then", "else"} {
		if _, ok := schema[keyword]; ok {
			pointers = append(pointers, pointer+"/"+keyword)
		}
	}
	if dependent, ok := schema["dependentSchemas"].(map[string]any); ok {
		for key := range dependent {
			pointers = append(pointers, pointer+"/dependentSchemas/"+pointerEscaper.Replace(key))
		}
	}
	return pointers
}

// localRef returns the JSON pointer that ref contains. ok is false if ref points outside the
// document or uses an anchor.
func localRef(ref any) (pointer string, ok bool) {
	text, _ := ref.(string)
	pointer, ok = strings.CutPrefix(text, "#")
	if !ok || pointer != "" && pointer[0] != '/' {
		return "", false
	}
	if raw, err := percentText(pointer); err == nil {
		pointer = raw
	}
	return pointer, true
}

func percentText(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		c, ok := percentDecoded(s[i:])
		if !ok {
			return "", errors.New("not percent-encoded")
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), nil
}

// decodeNumbers decodes JSON, with numbers as 64-bit integers if possible and as floats
// otherwise. The jsonschema library compares these types exactly and treats a json.Number as a
// string.
func decodeNumbers(raw json.RawMessage) (any, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return plainNumbers(v)
}

func plainNumbers(v any) (_ any, err error) {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, nil
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n, nil
		}
		f, err := strconv.ParseFloat(v.String(), 64)
		if err != nil || math.IsInf(f, 0) {
			return nil, errors.New("a number is beyond float64")
		}
		return f, nil
	case map[string]any:
		for key, value := range v {
			if v[key], err = plainNumbers(value); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, value := range v {
			if v[i], err = plainNumbers(value); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// check returns an *Error if raw does not match the schema.
func (s *inputSchema) check(raw json.RawMessage, where string) error {
	if rawjson.Absent(raw) {
		raw = json.RawMessage("null")
	}
	value, err := decodeNumbers(raw)
	if err != nil {
		return &Error{Code: CodeInvalidRequest, Message: where + ": " + err.Error()}
	}
	path, reason := "", "it does not match the schema of the function"
	if accepts(s.whole, value) {
		if path, reason = s.misspelled([]string{s.place}, value, ""); reason == "" {
			return nil
		}
	} else if len(raw) <= maxLocated {
		path, reason = s.locate(s.place, value, "", maxSchemaSteps)
	}
	if path != "" {
		if strings.HasSuffix(where, " at body") {
			if path[0] == '.' || path[0] == '[' {
				where += path
			}
		} else {
			where += " at " + strings.TrimPrefix(path, ".")
		}
	}
	return &Error{Code: CodeInvalidRequest, Message: where + ": " + reason}
}

// misspelled looks for a member whose name differs only in case from one that the given
// schemas define. The schemas do not apply to such a member, but encoding/json would decode it
// as the defined one.
func (s *inputSchema) misspelled(pointers []string, value any, path string) (string, string) {
	switch value.(type) {
	case map[string]any, []any:
	default:
		return "", ""
	}
	for i := 0; i < len(pointers); i++ { // includes schemas that apply to the same value
		if schema, ok := s.object(pointers[i]); ok {
			for _, next := range inPlace(schema, pointers[i]) {
				if !slices.Contains(pointers, next) {
					pointers = append(pointers, next)
				}
			}
		}
	}
	below := func(part any, step string, schemas func(schema map[string]any, pointer string) []string) (string, string) {
		var next []string
		for _, pointer := range pointers {
			if schema, ok := s.object(pointer); ok {
				next = append(next, schemas(schema, pointer)...)
			}
		}
		return s.misspelled(next, part, path+step)
	}
	switch value := value.(type) {
	case map[string]any:
		named := map[string]bool{}
		for _, pointer := range pointers {
			schema, _ := s.object(pointer)
			properties, _ := schema["properties"].(map[string]any)
			for name := range properties {
				named[name] = true
			}
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if !named[key] {
				for name := range named {
					if strings.EqualFold(name, key) {
						return path + memberStep(key), "it is spelled " + name
					}
				}
			}
			if p, reason := below(value[key], memberStep(key), func(schema map[string]any, pointer string) []string {
				return s.memberSchemas(schema, pointer, key)
			}); reason != "" {
				return p, reason
			}
		}
	case []any:
		for i, item := range value {
			if p, reason := below(item, "["+strconv.Itoa(i)+"]", func(schema map[string]any, pointer string) []string {
				return itemSchemas(schema, pointer, i)
			}); reason != "" {
				return p, reason
			}
		}
	}
	return "", ""
}

// object returns the schema at pointer if it is an object. A schema can also be a boolean.
func (s *inputSchema) object(pointer string) (schema map[string]any, ok bool) {
	node, _ := at(s.root, pointer)
	schema, ok = node.(map[string]any)
	return schema, ok
}

// maxSchemaSteps limits how deeply recursive schemas are followed.
const maxSchemaSteps = 64

// accepts reports whether a value matches a schema.
func accepts(schema *jsonschema.Resolved, value any) (ok bool) {
	defer func() {
		if recover() != nil { // a value that makes the library panic is not accepted
			ok = false
		}
	}()
	return schema.Validate(value) == nil
}

// fits reports whether a value matches the part of the document at pointer. A part that does
// not compile on its own is treated as matching, so that the search continues elsewhere.
func (s *inputSchema) fits(pointer string, value any) bool {
	known, ok := s.parts.Load(pointer)
	if !ok {
		part, _ := s.compilePart(pointer)
		known, _ = s.parts.LoadOrStore(pointer, part)
	}
	part := known.(*jsonschema.Resolved)
	return part == nil || accepts(part, value)
}

// locate returns the path of the part of value that is invalid, and the reason. The value must
// not match the schema at pointer.
func (s *inputSchema) locate(pointer string, value any, path string, steps int) (string, string) {
	node, _ := at(s.root, pointer)
	schema, ok := node.(map[string]any)
	if !ok {
		return path, "it is not allowed"
	}
	if steps == 0 {
		return path, "it does not match the schema of the function"
	}
	into := func(next string, part any, step string) (string, string, bool) {
		if s.fits(next, part) {
			return "", "", false
		}
		p, reason := s.locate(next, part, path+step, steps-1)
		return p, reason, true
	}
	if want, ok := schema["type"]; ok && !isOfType(value, want) {
		return path, fmt.Sprintf("got %s, want %s", jsonTypeOf(value), wantedTypes(want))
	}
	if target, ok := localRef(schema["$ref"]); ok {
		if p, reason, found := into(target, value, ""); found {
			return p, reason
		}
	}
	if list, ok := schema["allOf"].([]any); ok {
		for i := range list {
			if p, reason, found := into(pointer+"/allOf/"+strconv.Itoa(i), value, ""); found {
				return p, reason
			}
		}
	}
	switch value := value.(type) {
	case map[string]any:
		if required, ok := schema["required"].([]any); ok {
			for _, name := range required {
				if name, ok := name.(string); ok {
					if _, there := value[name]; !there {
						return path + memberStep(name), "it is missing"
					}
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			for _, next := range s.memberSchemas(schema, pointer, key) {
				if p, reason, found := into(next, value[key], memberStep(key)); found {
					return p, reason
				}
			}
		}
	case []any:
		for i, item := range value {
			for _, next := range itemSchemas(schema, pointer, i) {
				if p, reason, found := into(next, item, "["+strconv.Itoa(i)+"]"); found {
					return p, reason
				}
			}
		}
	}
	for _, keyword := range []string{"anyOf", "oneOf"} {
		list, _ := schema[keyword].([]any)
		branch := ""
		for i := range list { // the intended alternative, if it is unambiguous
			next := pointer + "/" + keyword + "/" + strconv.Itoa(i)
			if s.fits(next, value) {
				branch = ""
				break
			}
			if !s.mayBe(next, value) {
				continue
			}
			if branch != "" {
				branch = ""
				break
			}
			branch = next
		}
		if branch != "" {
			if p, reason, found := into(branch, value, ""); found {
				return p, reason
			}
		}
	}
	return path, s.reason(schema, value)
}

// mayBe reports whether a value has the type required by the schema at pointer.
func (s *inputSchema) mayBe(pointer string, value any) bool {
	for range maxSchemaSteps {
		node, _ := at(s.root, pointer)
		schema, ok := node.(map[string]any)
		if !ok {
			return node != false
		}
		if want, ok := schema["type"]; ok {
			return isOfType(value, want)
		}
		target, ok := localRef(schema["$ref"])
		if !ok {
			return true
		}
		pointer = target
	}
	return true
}

// memberSchemas lists the schemas that apply to an object member.
func (s *inputSchema) memberSchemas(schema map[string]any, pointer, key string) (pointers []string) {
	if properties, ok := schema["properties"].(map[string]any); ok {
		if _, ok := properties[key]; ok {
			pointers = append(pointers, pointer+"/properties/"+pointerEscaper.Replace(key))
		}
	}
	if patterns, ok := schema["patternProperties"].(map[string]any); ok {
		for _, pattern := range slices.Sorted(maps.Keys(patterns)) {
			if s.accepts(map[string]any{"pattern": pattern}, key) {
				pointers = append(pointers, pointer+"/patternProperties/"+pointerEscaper.Replace(pattern))
			}
		}
	}
	if _, ok := schema["additionalProperties"]; ok && len(pointers) == 0 {
		pointers = append(pointers, pointer+"/additionalProperties")
	}
	return pointers
}

// itemSchemas lists the schemas that apply to an array item.
func itemSchemas(schema map[string]any, pointer string, i int) []string {
	for _, keyword := range []string{"prefixItems", "items"} { // draft-07 uses items for both
		if list, ok := schema[keyword].([]any); ok {
			if i < len(list) {
				return []string{pointer + "/" + keyword + "/" + strconv.Itoa(i)}
			}
			if keyword == "items" {
				if _, ok := schema["additionalItems"]; ok {
					return []string{pointer + "/additionalItems"}
				}
				return nil
			}
		}
	}
	if _, ok := schema["items"]; ok {
		return []string{pointer + "/items"}
	}
	return nil
}

// accepts reports whether a value matches a small schema without references.
func (s *inputSchema) accepts(schema map[string]any, value any) bool {
	raw, err := json.Marshal(schema)
	if err != nil {
		return true
	}
	known, ok := s.parts.Load(string(raw))
	if !ok {
		part, _ := resolveSchema(raw)
		known, _ = s.parts.LoadOrStore(string(raw), part)
	}
	part := known.(*jsonschema.Resolved)
	return part == nil || accepts(part, value)
}

// reason returns a message that names the violated keyword, if it is known. The message does
// not contain the value.
func (s *inputSchema) reason(schema map[string]any, value any) string {
	for _, keyword := range []string{"const", "enum", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf",
		"minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "dependentRequired"} {
		limit, ok := schema[keyword]
		if !ok || s.accepts(map[string]any{keyword: limit}, value) {
			continue
		}
		text, err := json.Marshal(limit)
		if err != nil || len(text) > 200 {
			return "it violates " + keyword
		}
		return fmt.Sprintf("it violates %s %s", keyword, text)
	}
	for _, keyword := range []string{"propertyNames", "contains", "not", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"} {
		if _, ok := schema[keyword]; ok {
			return "it violates " + keyword
		}
	}
	return "it does not match the schema of the function"
}

func memberStep(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && r != '$' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r < 0x80
	})
	if plain {
		return "." + name
	}
	return "[" + strconv.Quote(name) + "]"
}

func jsonTypeOf(value any) string {
	switch value := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	case float64:
		if value == math.Trunc(value) {
			return "integer"
		}
		return "number"
	}
	if reflect.ValueOf(value).CanInt() || reflect.ValueOf(value).CanUint() {
		return "integer"
	}
	return "another type"
}

// isOfType reports whether a value has the type, or one of the types, in want. want is the
// value of a schema's type keyword: a string or a list of strings.
func isOfType(value, want any) bool {
	switch want := want.(type) {
	case string:
		got := jsonTypeOf(value)
		return got == want || got == "integer" && want == "number"
	case []any:
		return slices.ContainsFunc(want, func(w any) bool { return isOfType(value, w) })
	}
	return true
}

func wantedTypes(want any) string {
	list, ok := want.([]any)
	if !ok {
		return fmt.Sprint(want)
	}
	names := make([]string, len(list))
	for i, name := range list {
		names[i] = fmt.Sprint(name)
	}
	return strings.Join(names, " or ")
}
