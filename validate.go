package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/iii-go/iii/internal/rawjson"
)

// WithInputValidation validates incoming payloads against the request schema that the function
// advertises, after all middleware and before the handler runs. An invalid payload is answered
// with code [CodeInvalidRequest] and the path of the invalid part, for example lines[2].price;
// the message contains none of the payload's values. A member that differs from one that the schema
// names only in the case of letters is invalid, since encoding/json would decode it as that one.
// For a route, only the body is validated, and
// the response is a 400; a request without a body is not validated. The member _caller_worker_id
// that the engine adds is validated only if the schema names it.
//
// The schema is the one of the handler's type or the one given to [WithSchemas]; for a route, its
// member body applies. The schema is compiled when the function is registered. Registration fails
// if the function has no schema, if the schema has a draft other than 2020-12 or draft-07, if its
// references lead out of it or form a cycle, or if it contains patterns that package regexp
// cannot compile. The keyword format is not checked. Mounted handlers read their bodies
// themselves, so the option is an error for them.
//
// Default: no validation; a payload that decodes is accepted, and an absent member becomes the
// zero value.
func WithInputValidation() FunctionOption {
	return func(c *functionConfig) error { c.validates = true; return nil }
}

// addValidation compiles the request schema and puts the check in front of the handler.
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
	default: // not the schema of the request, in which a body may be absent
		request, _ = schemaOf(spec.body, true) // the type was described with the request
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

// inputSchema is a compiled JSON Schema. The library decides whether a value is valid; to find
// which part of it is invalid, parts of the value are checked against parts of the schema.
type inputSchema struct {
	root  any    // the document, decoded
	place string // JSON pointer to the relevant schema in the document

	whole *jsonschema.Resolved
	parts sync.Map // from a JSON pointer or a schema to *jsonschema.Resolved; nil if it does not compile
}

// documentID is the id of the document in schemas that refer to a part of it.
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
		if err := circular(m); err != nil {
			return nil, err
		}
	}
	if s.whole, err = resolveSchema(raw); err != nil { // so that errors refer to the original document
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

// resolveSchema compiles a schema.
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

// compilePart compiles the part of the document at a JSON pointer.
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
			schema = map[string]any{"$schema": draft, "allOf": []any{withoutSchema(schema)}} // keywords beside a $ref are ignored there
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

// escapeFragment escapes a JSON pointer for use as a URI fragment.
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

// at returns the part of a document at a JSON pointer.
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

// circular rejects a schema whose references form a cycle without descending into the value: the
// library would follow them until the stack overflows.
func circular(root map[string]any) error {
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

// inPlace lists the subschemas that apply to the same value as schema does.
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

// localRef returns the JSON pointer of a reference within the document.
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

// decodeNumbers decodes JSON with numbers in the types that the library compares exactly: 64-bit
// integers, and floats for all others. The library treats a json.Number as a string.
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
		if path, reason = s.misspelt([]string{s.place}, value, ""); reason == "" {
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

// misspelt finds a member that differs from one that the schemas at pointers name only in the
// case of letters: the schemas say nothing of it, and decoding would take it for the other one.
func (s *inputSchema) misspelt(pointers []string, value any, path string) (string, string) {
	switch value.(type) {
	case map[string]any, []any:
	default:
		return "", ""
	}
	for i := 0; i < len(pointers); i++ { // with the schemas that apply to the same value
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
		return s.misspelt(next, part, path+step)
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

// object returns the schema at a pointer, unless it is a boolean.
func (s *inputSchema) object(pointer string) (schema map[string]any, ok bool) {
	node, _ := at(s.root, pointer)
	schema, ok = node.(map[string]any)
	return schema, ok
}

// maxSchemaSteps bounds how far a value is followed through a recursive schema.
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

// fits reports whether a value matches the part of the document at a JSON pointer. A part that
// does not compile on its own counts as matching, so the search continues elsewhere.
func (s *inputSchema) fits(pointer string, value any) bool {
	known, ok := s.parts.Load(pointer)
	if !ok {
		part, _ := s.compilePart(pointer)
		known, _ = s.parts.LoadOrStore(pointer, part)
	}
	part := known.(*jsonschema.Resolved)
	return part == nil || accepts(part, value)
}

// locate finds which part of a value is invalid, and why. The value does not match the schema at
// pointer.
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

// mayBe reports whether a value has the type that the schema at a JSON pointer requires.
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

// memberSchemas lists the schemas that apply to a member of an object.
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

// itemSchemas lists the schemas that apply to an item of an array.
func itemSchemas(schema map[string]any, pointer string, i int) []string {
	for _, keyword := range []string{"prefixItems", "items"} { // the latter in draft-07
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

// reason returns the keyword of a schema that a value violates, without the value.
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

// memberStep returns the path step that leads to a member.
func memberStep(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && r != '$' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r < 0x80
	})
	if plain {
		return "." + name
	}
	return "[" + strconv.Quote(name) + "]"
}

// jsonTypeOf returns the JSON type of a value.
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

// isOfType reports whether a value has a type, or one of several types, in the form of the
// keyword type.
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
