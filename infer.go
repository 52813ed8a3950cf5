package iii

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/iii-go/iii/internal/rawjson"
)

// functionSchemas holds the types whose schemas a typed handler advertises.
type functionSchemas struct{ in, out reflect.Type }

// check returns an error if one of the types cannot be decoded or encoded. With such a type,
// every invocation would fail.
func (s functionSchemas) check() error {
	if err := checkEncoding(s.in, true); err != nil {
		return fmt.Errorf("argument: %w", err)
	}
	if err := checkEncoding(s.out, false); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

// checkEncoding returns an error if a part of root has no JSON encoding. The error contains
// the path of that part. If reads is true, it checks decoding instead.
func checkEncoding(root reflect.Type, reads bool) error {
	if root == nil {
		return nil
	}
	in := &inference{reads: reads}
	seen := map[typeUse]bool{}
	var check func(t reflect.Type, addressable bool, path string) error
	check = func(t reflect.Type, addressable bool, path string) error {
		use := typeUse{t, addressable}
		if seen[use] || in.codecOf(t, addressable) != byKind {
			return nil
		}
		seen[use] = true
		switch t.Kind() {
		case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128:
			switch {
			case path == "":
				return fmt.Errorf("%s has no JSON encoding", t)
			case path[0] == '[': // an element of the root; alone, the path says little
				return fmt.Errorf("%s has no JSON encoding, at %s of %s", t, path, root)
			}
			return fmt.Errorf("%s has no JSON encoding, at %s", t, path[1:])
		case reflect.Pointer:
			return check(t.Elem(), true, path)
		case reflect.Slice:
			return check(t.Elem(), true, path+"[]")
		case reflect.Array:
			return check(t.Elem(), addressable, path+"[]")
		case reflect.Map:
			return check(t.Elem(), false, path+"[]")
		case reflect.Struct:
			members, _ := membersOfStruct(t)
			for _, m := range members {
				if m.optional && !reads {
					continue // nil may be omitted
				}
				if err := check(m.t, addressable || m.pointer, path+"."+m.name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return check(root, reads, "")
}

// inferSchema returns the JSON Schema that the engine lists for a handler's type. If reads is
// true, the schema describes the JSON that can be decoded into the type; otherwise, it
// describes the JSON that encoding/json produces for the type. Schemas are optional, so
// inferSchema returns nil if the type cannot be described.
func (c *Client) inferSchema(functionID string, t reflect.Type, reads bool) json.RawMessage {
	if t == nil {
		return nil
	}
	raw, err := schemaOf(t, reads)
	if err != nil {
		c.log.Debug("iii: no schema for a handler's type", "function", functionID, "type", t.String(), "error", err)
		return nil
	}
	return raw
}

// inferred caches the results of schemaOf.
var inferred sync.Map // inferredKey to inferredSchema

type inferredKey struct {
	t     reflect.Type
	reads bool
}

type inferredSchema struct {
	raw json.RawMessage
	err error
}

// schemaOf returns a JSON Schema for t. If reads is true, the schema describes the JSON that
// encoding/json decodes into t; otherwise, it describes the JSON that encoding/json produces
// for t. The result is shared and must not be modified.
func schemaOf(t reflect.Type, reads bool) (json.RawMessage, error) {
	key := inferredKey{t, reads}
	if known, ok := inferred.Load(key); ok {
		s := known.(inferredSchema)
		return s.raw, s.err
	}
	var s inferredSchema // no lock is held, because newSchema may call a type's JSONSchema method
	s.raw, s.err = newSchema(t, reads)
	inferred.Store(key, s)
	return s.raw, s.err
}

func newSchema(t reflect.Type, reads bool) (json.RawMessage, error) {
	if raw, ok := schemaFor(t); ok {
		return raw, nil
	}
	in := &inference{reads: reads, definitions: make(map[typeUse]*definition), generated: make(map[string]any)}
	root, err := in.of(t, reads)
	if err != nil {
		return nil, err
	}
	raw, err := in.encode(root, true)
	if err != nil { // inlining may exceed the nesting depth that the engine accepts
		raw, err = in.encode(root, false)
	}
	return raw, err
}

// encode returns the schema document with the given root. If inline is set, a definition that
// is used only once is inlined.
func (in *inference) encode(root any, inline bool) (json.RawMessage, error) {
	raw, err := json.Marshal(in.document(root, inline))
	if err == nil {
		err = rawjson.CheckForEngine(raw, engineDepth-1) // the schema is a member of a message
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// inference infers the schema of a type. Each part of the schema is either a finished object
// or a reference to a definition.
type inference struct {
	reads       bool // describe decoding rather than encoding
	definitions map[typeUse]*definition
	order       []*definition  // in order of first use
	generated   map[string]any // definitions of generated types, by name
}

// typeUse is one use of a type. Whether its values are addressable affects their encoding.
type typeUse struct {
	t           reflect.Type
	addressable bool
}

// definition is a part of a schema that can be used more than once, even within itself.
type definition struct {
	t         reflect.Type
	schema    any
	uses      int
	anchored  bool   // contains references to parts of itself
	reference string // the $ref value; "" if the definition is inlined
}

// reference is a use of a definition.
type reference struct {
	to          *definition
	null        bool // null is also valid
	description string
}

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonNumber      = reflect.TypeFor[json.Number]()
	textAppender    = reflect.TypeFor[encoding.TextAppender]()
)

// isJSONv2 reports whether encoding/json is implemented by encoding/json/v2, as in Go 1.27. In
// that case, it supports more methods, more map key types and the struct tag option embed.
var isJSONv2 = sync.OnceValue(func() bool {
	b, err := json.Marshal(appended{})
	return err == nil && string(b) == `"v2"`
})

type appended struct{}

// AppendText implements [encoding.TextAppender].
func (appended) AppendText(b []byte) ([]byte, error) { return append(b, "v2"...), nil }

// codec is the mechanism that encodes or decodes values of a type.
type codec int

const (
	byKind codec = iota
	byText       // MarshalText or UnmarshalText, which produce or accept a string
	byJSON       // MarshalJSON or UnmarshalJSON, which produce or accept any JSON
)

// codecOf returns the codec of t. If an encoding method has a pointer receiver, encoding/json
// calls the method only for addressable values.
func (in *inference) codecOf(t reflect.Type, addressable bool) codec {
	if t.Kind() == reflect.Interface || t == jsonNumber {
		return byKind // an interface's value encodes itself; json.Number may have encoding methods
	}
	pointer := reflect.PointerTo(t)
	if in.reads {
		c := codecOf(pointer, jsonUnmarshaler, "UnmarshalJSONFrom", textUnmarshaler)
		if c != byKind && t.Name() == "" {
			return byJSON // Go 1.26 does not always find the methods of an unnamed type
		}
		return c
	}
	if addressable {
		t = pointer
	}
	return codecOf(t, jsonMarshaler, "MarshalJSONTo", textMarshaler, textAppender)
}

func codecOf(t, inJSON reflect.Type, streaming string, inText ...reflect.Type) codec {
	if t.Implements(inJSON) || isJSONv2() && hasMethod(t, streaming) {
		return byJSON
	}
	for _, text := range inText {
		if t.Implements(text) && (text != textAppender || isJSONv2()) {
			return byText
		}
	}
	return byKind
}

// hasMethod reports whether t has the given encoding/json/v2 method. It looks up each method
// by a constant name, so that the linker can still remove unused methods.
func hasMethod(t reflect.Type, name string) (ok bool) {
	switch name {
	case "MarshalJSONTo":
		_, ok = t.MethodByName("MarshalJSONTo")
	case "UnmarshalJSONFrom":
		_, ok = t.MethodByName("UnmarshalJSONFrom")
	}
	return ok
}

// dependsOnAddress reports whether the encoding of a value of type t depends on whether the
// value is addressable.
func (in *inference) dependsOnAddress(t reflect.Type) bool {
	switch c := in.codecOf(t, false); {
	case in.reads:
		return false
	case c != in.codecOf(t, true):
		return true
	case c != byKind:
		return false
	case t.Kind() == reflect.Array:
		return in.dependsOnAddress(t.Elem())
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			if in.dependsOnAddress(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// ownSchemas holds the schemas of standard library types that have their own encoding.
var ownSchemas = map[reflect.Type]map[string]any{
	reflect.TypeFor[time.Time]():  {"type": "string", "format": "date-time"},
	reflect.TypeFor[big.Int]():    {"type": "integer"},
	reflect.TypeFor[slog.Level](): {"type": "string"},
}

// describer is implemented by this package's generic types that have their own encoding.
type describer interface {
	describe(in *inference, addressable bool) (any, error)
}

// maxPointers limits how many nested pointers are followed, because a pointer type may refer
// to itself.
const maxPointers = 100

// of returns the schema of t. addressable reports whether values of t are addressable.
func (in *inference) of(t reflect.Type, addressable bool) (any, error) {
	if t.Kind() == reflect.Pointer {
		for pointers := 0; t.Kind() == reflect.Pointer; pointers++ {
			if pointers == maxPointers {
				return nil, fmt.Errorf("%s is a pointer to itself", t)
			}
			t = t.Elem()
		}
		s, err := in.of(t, true)
		if err != nil {
			return nil, err
		}
		return nullable(s), nil
	}
	if t.PkgPath() == ownPackage {
		if d, ok := reflect.Zero(t).Interface().(describer); ok {
			return d.describe(in, addressable)
		}
		if hasDefinition(t) {
			return in.ofGenerated(t.Name())
		}
	}
	use := typeUse{t, addressable && in.dependsOnAddress(t)}
	if d := in.definitions[use]; d != nil {
		d.uses++
		return reference{to: d}, nil
	}
	if method, ok := schemaMethod(t); ok {
		return in.define(use, func(d *definition) (err error) {
			d.schema, err = callSchemaMethod(t, method)
			d.anchored = isAnchored(d.schema)
			return err
		})
	}
	switch in.codecOf(t, addressable) {
	case byJSON:
		if own, ok := ownSchemas[t]; ok {
			return maps.Clone(own), nil
		}
		return map[string]any{}, nil
	case byText:
		return map[string]any{"type": "string"}, nil
	}
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array:
		if t.Name() == "" { // can contain itself only through a named type
			return in.ofKind(t, addressable)
		}
		fallthrough
	case reflect.Struct:
		return in.define(use, func(d *definition) (err error) {
			d.schema, err = in.ofKind(t, addressable)
			return err
		})
	}
	return in.ofKind(t, addressable)
}

// define creates a definition and returns a reference to it.
func (in *inference) define(use typeUse, build func(*definition) error) (any, error) {
	d := &definition{t: use.t, uses: 1}
	in.definitions[use] = d
	in.order = append(in.order, d)
	if err := build(d); err != nil {
		return nil, err
	}
	return reference{to: d}, nil
}

// ofGenerated returns a reference to the schema of a generated type.
func (in *inference) ofGenerated(name string) (any, error) {
	if _, ok := in.generated[name]; !ok {
		schema, used, err := bundleDefinition(name)
		if err != nil {
			return nil, err
		}
		maps.Copy(in.generated, used)
		in.generated[name] = schema
	}
	return map[string]any{"$ref": "#/$defs/" + name}, nil
}

// ofTemplate returns the schema of a generic type: the content of the schema file that defines
// the type, with the body's schema inserted. The body may be null because senders without a
// body send null.
func (in *inference) ofTemplate(file string, body reflect.Type, addressable bool) (any, error) {
	schema, used, err := bundleFile(file)
	if err != nil {
		return nil, err
	}
	maps.Copy(in.generated, used)
	properties := schema["properties"].(map[string]any)
	description, _ := properties["body"].(map[string]any)["description"].(string)
	delete(schema, "description") // the description is about the Go type
	s, err := in.of(body, addressable)
	if err != nil {
		return nil, err
	}
	if in.reads {
		s = nullable(s)
	}
	properties["body"] = described(s, description)
	return schema, nil
}

// ofKind returns the schema of a type that does not have its own encoding.
func (in *inference) ofKind(t reflect.Type, addressable bool) (any, error) {
	switch kind := t.Kind(); kind {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}, nil
	case reflect.String:
		if t == jsonNumber {
			return map[string]any{"type": "number"}, nil
		}
		return map[string]any{"type": "string"}, nil
	case reflect.Int:
		return map[string]any{"type": "integer"}, nil
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := int64(math.MaxInt64) >> (64 - t.Bits())
		return map[string]any{"type": "integer", "minimum": -most - 1, "maximum": most}, nil
	case reflect.Uint, reflect.Uintptr:
		return map[string]any{"type": "integer", "minimum": 0}, nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0, "maximum": uint64(math.MaxUint64) >> (64 - t.Bits())}, nil
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}, nil
	case reflect.Interface:
		if in.reads && t.NumMethod() > 0 {
			return map[string]any{"type": "null"}, nil // nothing else can be decoded into it
		}
		return map[string]any{}, nil
	case reflect.Slice, reflect.Array:
		if kind == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && in.codecOf(t.Elem(), true) == byKind {
			return map[string]any{"type": []any{"string", "null"}, "contentEncoding": "base64"}, nil
		}
		items, err := in.of(t.Elem(), addressable || kind == reflect.Slice)
		if kind == reflect.Array {
			return map[string]any{"type": "array", "items": items, "minItems": t.Len(), "maxItems": t.Len()}, err
		}
		return map[string]any{"type": []any{"array", "null"}, "items": items}, err
	case reflect.Map:
		names, err := in.ofKeys(t.Key())
		if err != nil {
			return nil, err
		}
		values, err := in.of(t.Elem(), false)
		s := map[string]any{"type": []any{"object", "null"}, "additionalProperties": values}
		if names != "" {
			s["propertyNames"] = map[string]any{"pattern": names}
		}
		return s, err
	case reflect.Struct:
		return in.ofStruct(t, addressable)
	}
	return nil, fmt.Errorf("%s has no JSON encoding", t)
}

// Patterns for JSON numbers in map keys and in struct fields whose tag has the string option.
const (
	integerPattern  = `^-?[0-9]+$`
	unsignedPattern = `^[0-9]+$`
	floatPattern    = `^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`
)

// numberPattern returns the pattern for numbers of the given kind, or "" if the kind is not
// numeric.
func numberPattern(kind reflect.Kind) string {
	switch kind {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return integerPattern
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return unsignedPattern
	case reflect.Float32, reflect.Float64:
		return floatPattern
	}
	return ""
}

// ofKeys returns the pattern for a map's keys, or "" if any string is a valid key.
func (in *inference) ofKeys(t reflect.Type) (pattern string, err error) {
	if in.reads {
		if reflect.PointerTo(t).Implements(textUnmarshaler) || isJSONv2() && t.Implements(textUnmarshaler) {
			return "", nil
		}
	} else if t.Kind() != reflect.String && (t.Implements(textMarshaler) || isJSONv2() && t.Implements(textAppender)) {
		return "", nil
	}
	pattern = numberPattern(t.Kind())
	switch {
	case t.Kind() == reflect.String:
	case pattern == "", pattern == floatPattern && !isJSONv2():
		return "", fmt.Errorf("%s cannot be the key of a JSON object", t)
	}
	return pattern, nil
}

func (in *inference) ofStruct(t reflect.Type, addressable bool) (any, error) {
	members, rest := membersOfStruct(t)
	properties := make(map[string]any)
	var required []string
	for _, m := range members {
		if in.reads && m.locked {
			continue
		}
		s, err := in.ofMember(m, addressable || m.pointer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		properties[m.name] = described(s, m.description)
		if !m.optional && !m.pointer && !(in.reads && m.name == callerKey) {
			required = append(required, m.name)
		}
	}
	s := map[string]any{"type": "object"}
	if len(properties) > 0 {
		s["properties"] = properties
	}
	if len(required) > 0 {
		s["required"] = required
	}
	if rest != nil && rest.Kind() == reflect.Map {
		values, err := in.of(rest.Elem(), false)
		if err != nil {
			return nil, err
		}
		s["additionalProperties"] = values
	}
	return s, nil
}

// ofMember returns the schema of a struct member. If the field's tag has the string option,
// the schema describes a string.
func (in *inference) ofMember(m member, addressable bool) (any, error) {
	t := m.t
	if t.Name() == "" && t.Kind() == reflect.Pointer {
		t, addressable = t.Elem(), true
	}
	own := in.codecOf(t, addressable) != byKind
	if !m.quoted || own && !in.reads {
		if m.optional && !in.reads && t != m.t {
			return in.of(t, true) // nil is omitted
		}
		s, err := in.of(m.t, addressable)
		if err == nil && m.optional && !in.reads && t.Name() == "" {
			s = notNull(s)
		}
		return s, err
	}
	s := map[string]any{"type": "string"}
	switch {
	case own:
	case t.Kind() == reflect.Bool:
		s["pattern"] = `^(true|false)$`
	case t == jsonNumber:
		s["pattern"] = floatPattern
	case t.Kind() == reflect.String:
		s["pattern"] = `^"([^"\\]|\\.)*"$`
	default:
		s["pattern"] = numberPattern(t.Kind())
	}
	if t != m.t && !(m.optional && !in.reads) {
		return nullable(s), nil
	}
	return s, nil
}

// member is a struct field that becomes a member of a JSON object.
type member struct {
	name     string
	tagged   bool // the name was set in a struct tag
	index    []int
	t        reflect.Type
	optional bool // may be omitted
	quoted   bool // has the struct tag option string

	// pointer reports whether the member is promoted from a struct embedded by pointer. If
	// that pointer is nil, the member is missing.
	pointer bool
	// locked reports whether the embedded pointer cannot be set, because its type is
	// unexported.
	locked bool

	description string
}

// embedded is a struct whose fields are promoted to the enclosing struct.
type embedded struct {
	t               reflect.Type
	index           []int
	pointer, locked bool
}

// membersOfStruct returns the members of a struct according to the rules of encoding/json. If
// several fields have the same name, the least nested ones take precedence. Among those,
// fields whose name comes from a struct tag take precedence. If more than one field remains,
// all of them are ignored. rest is the type of the field that holds all other members, or nil
// if there is none.
func membersOfStruct(t reflect.Type) (members []member, rest reflect.Type) {
	var count, nextCount map[reflect.Type]int
	next, visited := []embedded{{t: t}}, make(map[reflect.Type]bool)
	for depth := 0; len(next) > 0; depth++ {
		level, rests := next, []reflect.Type(nil)
		next, count, nextCount = nil, nextCount, make(map[reflect.Type]int)
		for _, e := range level {
			if visited[e.t] {
				continue
			}
			visited[e.t] = true
			for i := range e.t.NumField() {
				f := e.t.Field(i)
				target, pointer := f.Type, f.Type.Name() == "" && f.Type.Kind() == reflect.Pointer
				if pointer {
					target = target.Elem()
				}
				isStruct := target.Kind() == reflect.Struct
				if f.Tag.Get("json") == "-" || !f.IsExported() && !(f.Anonymous && isStruct) {
					continue
				}
				name, options := jsonTag(f)
				inner := embedded{target, append(slices.Clone(e.index), i), e.pointer || pointer, e.locked || pointer && !f.IsExported()}
				embeds := isJSONv2() && name == "" && slices.Equal(options, []string{"embed"})
				switch {
				case isStruct && (f.Anonymous && name == "" || embeds):
					if nextCount[target]++; nextCount[target] == 1 {
						next = append(next, inner)
					}
					continue
				case embeds && (target.Kind() == reflect.Map && target.Key().Kind() == reflect.String || target == reflect.TypeFor[json.RawMessage]()):
					rests = append(rests, target)
					continue
				}
				m := member{name: cmp.Or(name, f.Name), tagged: name != "", index: inner.index, t: f.Type, pointer: e.pointer, locked: e.locked}
				for _, option := range options {
					m.optional = m.optional || option == "omitempty" || option == "omitzero"
					m.quoted = m.quoted || option == "string" && (numberPattern(target.Kind()) != "" || target.Kind() == reflect.String || target.Kind() == reflect.Bool)
				}
				if text := f.Tag.Get("jsonschema"); !isAssignment(text) {
					m.description = text
				}
				members = append(members, m)
				if count[e.t] > 1 { // stands for the other uses at this depth
					members = append(members, m)
				}
			}
		}
		if len(rests) == 1 && rest == nil {
			rest = rests[0]
		}
	}
	slices.SortStableFunc(members, func(a, b member) int {
		tagged := 0
		if a.tagged != b.tagged {
			if tagged = 1; a.tagged {
				tagged = -1
			}
		}
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(len(a.index), len(b.index)), tagged)
	})
	var dominant []member
	for i, m := range members {
		switch {
		case i > 0 && members[i-1].name == m.name:
		case i+1 < len(members) && members[i+1].name == m.name && len(members[i+1].index) == len(m.index) && members[i+1].tagged == m.tagged:
		default:
			dominant = append(dominant, m)
		}
	}
	return dominant, rest
}

// isAssignment reports whether a jsonschema tag is meant for another package and is not a
// description.
func isAssignment(tag string) bool {
	i := strings.IndexAny(tag, "= \t\n")
	return i >= 0 && tag[i] == '='
}

// isOrdinaryName reports whether all versions of encoding/json use name unchanged when it is
// in a struct tag.
func isOrdinaryName(name string) bool {
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&()*+./:;<=>?@[]^_{|}~ -", r) {
			return false
		}
	}
	return true
}

// jsonTag returns the name and options in a field's struct tag. The name is "" if none is set.
func jsonTag(f reflect.StructField) (name string, options []string) {
	name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
	options = strings.Split(rest, ",")
	if isOrdinaryName(name) {
		return name, options
	}
	// How other characters are handled depends on the version of encoding/json, so encode a
	// probe.
	const unnamed = "Unnamed"
	probe := reflect.New(reflect.StructOf([]reflect.StructField{{Name: unnamed, Type: reflect.TypeFor[int](), Tag: f.Tag}}))
	probe.Elem().Field(0).SetInt(1) // not the zero value, which might be omitted
	raw, err := json.Marshal(probe.Interface())
	if err != nil {
		return "", options
	}
	for key := range membersOf(raw) {
		if key != unnamed {
			return key, options
		}
	}
	return "", options
}

// document returns the schema document with the given root.
func (in *inference) document(root any, inline bool) any {
	top, _ := root.(reference)
	if top.null || top.description != "" {
		top.to = nil
	}
	taken := maps.Clone(in.generated)
	for _, d := range in.order {
		d.reference = ""
		switch {
		case d == top.to:
			d.reference = "#"
		case !inline || d.uses > 1 || d.anchored:
			base := definitionName(d.t)
			name := base
			for n := 2; taken[name] != nil; n++ {
				name = base + strconv.Itoa(n)
			}
			taken[name] = d
			d.reference = "#/$defs/" + name
		}
	}
	if top.to != nil {
		root = top.to.schema
	}
	doc := in.render(root)
	defs := maps.Clone(in.generated)
	for name, d := range taken {
		if d, ok := d.(*definition); ok {
			s := in.render(d.schema).(map[string]any)
			if d.anchored {
				delete(s, "$schema")
				rebase(s, d.reference)
			}
			defs[name] = s
		}
	}
	if len(defs) > 0 {
		doc.(map[string]any)["$defs"] = defs
	}
	return doc
}

// render returns a copy of v, which is part of a schema, with its references resolved.
func (in *inference) render(v any) any {
	switch v := v.(type) {
	case reference:
		s := any(map[string]any{"$ref": v.to.reference})
		if v.to.reference == "" {
			s = in.render(v.to.schema)
		}
		if v.null {
			s = nullable(s)
		}
		return described(s, v.description)
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, e := range v {
			object[k] = in.render(e)
		}
		return object
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = in.render(e)
		}
		return list
	}
	return v
}

// definitionName returns the name of t's definition: the type's name without package paths.
func definitionName(t reflect.Type) string {
	var words []string
	for _, name := range strings.FieldsFunc(t.Name(), func(r rune) bool { return strings.ContainsRune("[],*", r) }) { // type arguments
		name = name[strings.LastIndexAny(name, "./")+1:]
		words = append(words, strings.FieldsFunc(name, func(r rune) bool {
			return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9')
		})...)
	}
	return cmp.Or(strings.Join(words, "_"), "Object")
}

// nullable returns a schema that accepts null and everything that v accepts. It does not
// modify v.
func nullable(v any) any {
	if r, ok := v.(reference); ok {
		r.null = true
		return r
	}
	s := v.(map[string]any)
	if len(s) == 0 {
		return s
	}
	var types []any
	switch t := s["type"].(type) {
	case string:
		types = []any{t}
	case []any:
		types = t
	}
	for _, keyword := range []string{"$ref", "$dynamicRef", "allOf", "anyOf", "const", "enum", "if", "not", "oneOf"} {
		if s[keyword] != nil {
			types = nil // the type alone does not determine what is valid
		}
	}
	switch {
	case types == nil:
		return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
	case !slices.Contains(types, any("null")):
		s = maps.Clone(s)
		s["type"] = append(slices.Clone(types), "null")
	}
	return s
}

// notNull changes the schema of an array or object so that it rejects null.
func notNull(v any) any {
	s, ok := v.(map[string]any)
	types, isList := s["type"].([]any)
	if ok && isList && len(types) == 2 && types[1] == "null" {
		s["type"] = types[0]
	}
	return v
}

// described returns a copy of the schema v with the given description, or v itself if text is
// empty.
func described(v any, text string) any {
	if text == "" {
		return v
	}
	if r, ok := v.(reference); ok {
		r.description = text
		return r
	}
	s := maps.Clone(v.(map[string]any))
	s["description"] = text
	return s
}

// schemaMethod returns the JSONSchema method of t or *t. The method must have no parameters,
// and return either a result or a result and an error. A method promoted from an embedded
// struct is ignored, because it describes only that struct.
func schemaMethod(t reflect.Type) (reflect.Method, bool) {
	method, ok := declaredSchemaMethod(t)
	if !ok || t.Kind() != reflect.Struct {
		return method, ok
	}
	schema, err := callSchemaMethod(t, method)
	for i := range t.NumField() {
		f := t.Field(i)
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if !f.Anonymous {
			continue
		}
		if inner.Kind() == reflect.Interface {
			if _, promoted := inner.MethodByName("JSONSchema"); promoted && err != nil {
				return method, false
			}
			continue
		}
		if promoted, ok := declaredSchemaMethod(inner); ok {
			its, _ := callSchemaMethod(inner, promoted)
			if err != nil || reflect.DeepEqual(schema, its) { // reflection does not distinguish promoted methods
				return method, false
			}
		}
	}
	return method, true
}

func declaredSchemaMethod(t reflect.Type) (reflect.Method, bool) {
	method, ok := reflect.PointerTo(t).MethodByName("JSONSchema")
	if !ok || method.Type.NumIn() != 1 {
		return method, false
	}
	switch method.Type.NumOut() {
	case 1:
		return method, true
	case 2:
		return method, method.Type.Out(1) == reflect.TypeFor[error]()
	}
	return method, false
}

// callSchemaMethod calls the JSONSchema method on a zero value of t and returns the resulting
// schema. Keywords that forbid additional members are removed.
func callSchemaMethod(t reflect.Type, method reflect.Method) (schema any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("JSONSchema of %s: panic: %v", t, r)
		}
	}()
	results := method.Func.Call([]reflect.Value{reflect.New(t)})
	if len(results) == 2 && !results[1].IsNil() {
		return nil, fmt.Errorf("JSONSchema of %s: %w", t, results[1].Interface().(error))
	}
	result := results[0]
	for result.Kind() == reflect.Interface && !result.IsNil() {
		result = result.Elem()
	}
	var raw []byte
	_, encodes := result.Interface().(json.Marshaler)
	switch {
	case !encodes && result.Kind() == reflect.String:
		raw = []byte(result.String())
	case !encodes && result.Kind() == reflect.Slice && result.Type().Elem().Kind() == reflect.Uint8:
		raw = result.Bytes()
	default:
		raw, err = json.Marshal(result.Interface())
	}
	if err == nil {
		schema, err = parseSchema(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("JSONSchema of %s: %w", t, err)
	}
	openObjects(schema)
	return schema, nil
}

// parseSchema decodes a schema. It replaces the schemas true and false with equivalent
// objects.
func parseSchema(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // preserve the format of numbers
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	switch s := doc.(type) {
	case map[string]any:
		return s, nil
	case bool:
		if s {
			return map[string]any{}, nil
		}
		return map[string]any{"not": map[string]any{}}, nil
	}
	return nil, errors.New("a JSON Schema is an object or a boolean")
}

// subschemas yields the direct subschemas of a schema, each with the keyword that contains it.
// It skips values that are not schemas, such as constants.
func subschemas(schema map[string]any) iter.Seq2[string, map[string]any] {
	return func(yield func(string, map[string]any) bool) {
		for keyword, v := range schema {
			var inner []any
			switch keyword {
			case "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties":
				inner = []any{v}
			case "allOf", "anyOf", "items", "oneOf", "prefixItems":
				if list, ok := v.([]any); ok {
					inner = list
				} else {
					inner = []any{v}
				}
			case "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties":
				named, _ := v.(map[string]any)
				inner = slices.Collect(maps.Values(named))
			}
			for _, e := range inner {
				if s, ok := e.(map[string]any); ok && !yield(keyword, s) {
					return
				}
			}
		}
	}
}

// openObjects removes keywords that forbid additional members, because the engine adds a
// member to each payload that is an object.
func openObjects(v any) {
	schema, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, keyword := range []string{"additionalProperties", "unevaluatedProperties"} {
		rest, isObject := schema[keyword].(map[string]any)
		not, isNot := rest["not"].(map[string]any)
		if schema[keyword] == false || isObject && len(rest) == 1 && isNot && len(not) == 0 {
			delete(schema, keyword)
		}
	}
	for keyword, inner := range subschemas(schema) {
		if keyword != "not" && keyword != "if" { // removing keywords in these would reject values that were valid
			openObjects(inner)
		}
	}
}

// isAnchored reports whether a schema contains references to itself or anchors for references.
func isAnchored(v any) bool {
	schema, _ := v.(map[string]any)
	for _, keyword := range []string{"$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"} {
		if schema[keyword] != nil {
			return true
		}
	}
	for _, keyword := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
		if ref, _ := schema[keyword].(string); strings.HasPrefix(ref, "#") {
			return true
		}
	}
	for _, inner := range subschemas(schema) {
		if isAnchored(inner) {
			return true
		}
	}
	return false
}

// rebase adjusts references in a schema that is embedded at the given place in another
// document.
func rebase(schema map[string]any, place string) {
	if schema["$id"] != nil {
		return // the references are relative to the schema's own $id
	}
	for _, keyword := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
		if ref, _ := schema[keyword].(string); ref == "#" || strings.HasPrefix(ref, "#/") {
			schema[keyword] = place + ref[1:]
		}
	}
	for _, inner := range subschemas(schema) {
		rebase(inner, place)
	}
}
