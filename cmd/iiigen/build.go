package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
)

// op is the kind of a Go type.
type op int

const (
	opRaw   op = iota // json.RawMessage
	opPrim            // a predeclared type, time.Time or iii.StreamChannelRef
	opNamed           // a declared type
	opList            // a list
	opMap             // a map with string keys
	opArray           // an array
	opBytes           // []byte encoded as base64; nil is null
)

// expr denotes a Go type.
type expr struct {
	op   op
	prim string
	decl *decl
	elem *use
	n    int
	why  string // why no more specific type is possible; "" if no explanation is needed
}

// use is one use of a Go type, which may or may not allow null.
type use struct {
	*expr
	null bool // null is allowed
}

// form is the kind of a declaration.
type form int

const (
	formStruct form = iota
	formEnum
	formConst
	formUnion
	formTuple
	formDefined // a recursive list or map, or an array
	formAlias
	formPhantom // not declared; its name only prefixes those of its children
)

// decl is a type declaration.
type decl struct {
	form form
	doc  string
	why  string // explanation for an alias of json.RawMessage

	// preferred lists the preferred names. If it is empty, the name is the parent's name
	// followed by suffix.
	preferred []string
	parent    *decl
	suffix    string
	name      string
	group     *group
	children  []*decl // in order of creation

	fields     []*field
	additional *use // type of a struct's additional members
	values     []enumValue
	base       string // underlying type of an enumeration: string, int or float64
	constant   string // JSON encoding of a constant
	variants   []*variant
	items      []use // element types of a tuple
	rest       *use
	minItems   int
	to         use  // target of an alias or defined type
	root       bool // generated from a root schema, so it has a JSONSchema method
	schemaOf   string
	part       string
}

type field struct {
	property string
	name     string
	use      use
	required bool
	pointer  bool // breaks a cycle
	doc      string
}

type enumValue struct {
	name, literal, doc string
	text               string
}

// variant is one alternative of a union.
type variant struct {
	name  string
	use   use
	doc   string
	shape shape
}

// shape describes the JSON values that a union variant accepts.
type shape struct {
	kind     string // object, array, string, number, integer, boolean, or "" for any
	required []string
	known    []string
	tags     map[string]string // constant members by name, as JSON
	values   []string          // permitted values as JSON, if they are enumerated
	closed   bool
	// minItems and maxItems limit the length of an array; hasMax is false if there is no
	// maximum.
	minItems, maxItems int
	hasMax             bool
}

// maxDecls is the maximum number of types per schema. Merging alternatives can make the number
// of types grow exponentially.
const maxDecls = 1000

// maxMerged is the maximum total size, in bytes of JSON, of the schemas that merging produces
// for one document. A schema that merges its own parts can double in size at each level.
const maxMerged = 8 << 20

// maxDepth is the maximum nesting depth of a schema.
const maxDepth = 200

// builder builds the types of one schema document.
type builder struct {
	g      *generation
	doc    document
	group  *group
	about  string           // function id and part, for notes
	method string           // prefix for names of definitions that collide
	memo   map[string]*memo // keyed by reference
	merges map[string]*memo // keyed by the JSON encoding of the merged schema
	decls  int
	depth  int

	mergedBytes int // total length of the keys of merges
}

type memo struct {
	use     use
	done    bool
	pending *decl // declaration of a recursive type whose form is not known yet
	slot    use
}

// build returns the Go type for s. at is the JSON pointer to s. If the type needs a
// declaration, its name is derived from parent and suffix.
func (b *builder) build(s schema, at string, parent *decl, suffix string) use {
	b.depth++
	defer func() { b.depth-- }()
	if b.depth > maxDepth {
		return b.raw(at, "the schema is nested too deeply")
	}
	if ref, ok := s["$ref"].(string); ok {
		beside := maps.Clone(s)
		delete(beside, "$ref")
		if !affectsType(beside) {
			u := b.reference(ref, at, parent, suffix)
			u.null = u.null || s["nullable"] == true
			return u
		}
		merged, err := b.doc.deref(s, 0)
		if err != nil {
			return b.raw(at, err.Error())
		}
		return b.merged(merged, at, parent, suffix, nil)
	}
	return b.form(s, at, parent, suffix, nil)
}

// raw returns json.RawMessage. Unless why is empty, raw also records a note.
func (b *builder) raw(at, why string) use {
	if why != "" {
		b.g.note(b.about, at, why)
	}
	return use{expr: &expr{op: opRaw, why: why}}
}

func prim(name string) use { return use{expr: &expr{op: opPrim, prim: name}} }

// newDecl declares a type, either for the definition in slot or as a child of parent.
func (b *builder) newDecl(f form, s schema, parent *decl, suffix string, slot *memo) (*decl, use) {
	d := &decl{form: f, doc: textOf(s), parent: parent, suffix: suffix, group: b.group}
	if slot != nil && slot.pending != nil { // a recursive reference has already declared the type
		pending := slot.pending
		pending.form, pending.doc = f, d.doc
		d = pending
	} else {
		b.adopt(d, slot)
	}
	u := use{expr: &expr{op: opNamed, decl: d}}
	b.decls++
	return d, u
}

// adopt appends d to its parent's children or, if d has no parent, to the definitions.
func (b *builder) adopt(d *decl, slot *memo) {
	if slot != nil && slot.slot.expr != nil { // a definition
		proto := slot.slot.decl
		d.preferred, d.parent, d.suffix, d.group = proto.preferred, proto.parent, proto.suffix, proto.group
	}
	if d.parent != nil {
		d.parent.children = append(d.parent.children, d)
	} else {
		b.g.definitions = append(b.g.definitions, d)
	}
}

func textOf(s schema) string {
	text, _ := s["description"].(string)
	return text
}

// reference returns the Go type for the target of ref. A definition shared by several
// functions is declared only once.
func (b *builder) reference(ref, at string, parent *decl, suffix string) use {
	target, err := b.doc.resolve(ref)
	if err != nil {
		return b.raw(at, err.Error())
	}
	if m := b.memo[ref]; m != nil {
		if m.done {
			return m.use
		}
		if m.use.expr != nil { // the declaration exists but is still incomplete
			return m.use
		}
		if m.pending == nil {
			m.pending = &decl{form: formDefined, doc: textOf(target), group: b.group}
			b.adopt(m.pending, m)
		}
		return use{expr: &expr{op: opNamed, decl: m.pending}}
	}
	m := &memo{}
	b.memo[ref] = m
	var shared string
	if name := definition(ref); name != "" {
		if shared = b.closure(ref); shared != "" {
			if u, ok := b.g.shared[shared]; ok {
				m.use, m.done = u, true
				return u
			}
		}
		proto := &decl{preferred: []string{goName(name), b.method + goName(name)}, group: b.group}
		if shared == "" {
			proto.preferred = proto.preferred[1:]
		}
		m.slot = use{expr: &expr{op: opNamed, decl: proto}}
	} else if ref != "#" {
		proto := &decl{parent: parent, suffix: suffix, group: b.group}
		m.slot = use{expr: &expr{op: opNamed, decl: proto}}
	}
	if m.slot.expr != nil && m.slot.decl.parent == nil { // nested types are named after the definition
		parent, suffix = m.slot.decl, ""
	}
	u := b.formOf(target, ref, parent, suffix, m)
	if m.slot.expr != nil {
		b.g.place(u, m.slot.decl)
	}
	u = m.settle(u)
	m.use, m.done = u, true
	if shared != "" {
		b.g.shared[shared] = u
	}
	return u
}

// merged is like formOf, but for a merged schema. Equal merged schemas share one type, because
// a schema that refers to itself through a merge would otherwise cause infinite recursion.
func (b *builder) merged(s schema, at string, parent *decl, suffix string, slot *memo) use {
	key := literalOf(s)
	if b.mergedBytes += len(key); b.mergedBytes > maxMerged {
		return b.raw(at, "the merged parts of the schema are too large")
	}
	if m := b.merges[key]; m != nil {
		if m.done || m.use.expr != nil {
			return m.use
		}
		if m != slot { // the type is under construction and has no declaration yet
			if m.pending == nil {
				m.pending = &decl{form: formDefined, doc: textOf(s), group: b.group}
				b.adopt(m.pending, m)
			}
			return use{expr: &expr{op: opNamed, decl: m.pending}}
		}
	}
	if slot != nil {
		b.merges[key] = slot
		return b.formOf(s, at, parent, suffix, slot)
	}
	m := &memo{slot: use{expr: &expr{op: opNamed, decl: &decl{parent: parent, suffix: suffix, group: b.group}}}}
	b.merges[key] = m
	u := b.formOf(s, at, parent, suffix, m)
	u = m.settle(u)
	m.use, m.done = u, true
	return u
}

// settle returns the use to put in place of u. If u is a recursive list, map or array, settle
// first completes its declaration.
func (m *memo) settle(u use) use {
	if m.pending == nil || m.use.expr != nil {
		return u
	}
	if u.op == opArray && u.null { // unlike an array, a slice can represent null
		u.expr = &expr{op: opList, elem: u.elem}
	}
	m.pending.to = u
	return use{expr: &expr{op: opNamed, decl: m.pending}, null: u.null}
}

// formOf is like form, but s may be a reference.
func (b *builder) formOf(s schema, at string, parent *decl, suffix string, slot *memo) use {
	if _, ok := s["$ref"]; ok {
		return b.build(s, at, parent, suffix)
	}
	return b.form(s, at, parent, suffix, slot)
}

// maxShared is the maximum number of definitions in a closure. The cost of comparing closures
// grows with their size.
const maxShared = 200

// closure returns a string that identifies a definition together with all definitions
// reachable from it. It returns "" if a reference does not point to a definition, or if more
// than maxShared definitions are reachable.
func (b *builder) closure(ref string) string {
	reached := make(map[string]any)
	var visit func(v any) bool
	visit = func(v any) bool {
		switch v := v.(type) {
		case map[string]any:
			if to, ok := v["$ref"].(string); ok && reached[to] == nil {
				if len(reached) == maxShared {
					return false
				}
				target, err := b.doc.resolve(to)
				if err != nil || definition(to) == "" {
					return false
				}
				reached[to] = target
				if !visit(map[string]any(target)) {
					return false
				}
			}
			for _, e := range v {
				if !visit(e) {
					return false
				}
			}
		case []any:
			for _, e := range v {
				if !visit(e) {
					return false
				}
			}
		}
		return true
	}
	if !visit(map[string]any{"$ref": ref}) {
		return ""
	}
	raw, err := json.Marshal(reached)
	if err != nil {
		return ""
	}
	return ref + "\n" + string(raw)
}

// form returns the Go type for a schema other than a reference. slot is the memo for the
// definition that is being built, or nil if there is none.
func (b *builder) form(s schema, at string, parent *decl, suffix string, slot *memo) use {
	if isFalse(constraints(s)) {
		return b.raw(at, "no value satisfies the schema")
	}
	for _, keyword := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
		if s[keyword] != nil {
			return b.raw(at, keyword+" is not supported here")
		}
	}
	if b.decls > maxDecls {
		return b.raw(at, fmt.Sprintf("the schema has more than %d types", maxDecls))
	}
	if _, ok := s["allOf"]; ok {
		return b.allOf(s, at, parent, suffix, slot)
	}
	for _, keyword := range []string{"oneOf", "anyOf"} {
		if _, ok := s[keyword]; ok {
			return b.choice(s, keyword, at, parent, suffix, slot)
		}
	}
	if values, ok := constants(s); ok {
		u := b.enum(s, values, at, parent, suffix, slot)
		u.null = u.null || s["nullable"] == true
		return u
	}
	types := typesOf(s)
	null := s["nullable"] == true
	if slices.Contains(types, "null") {
		types = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return t == "null" })
		if len(types) == 0 {
			u := b.raw(at, "")
			u.why = "null is the only allowed value"
			return u
		}
		null = true
	}
	if slices.Contains(types, "number") {
		types = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return t == "integer" })
	}
	if len(types) > 1 {
		var each []any
		for _, t := range types {
			one := maps.Clone(constraints(s))
			one["type"] = t
			each = append(each, one)
		}
		all := schema{"oneOf": each}
		if text := textOf(s); text != "" {
			all["description"] = text
		}
		u := b.choice(all, "oneOf", at, parent, suffix, slot)
		u.null = u.null || null
		return u
	}
	t := guessType(s)
	if len(types) == 1 {
		t = types[0]
	}
	var u use
	switch t {
	case "":
		return b.raw(at, typeless(s))
	case "string":
		switch {
		case s["format"] == "date-time":
			u = prim("time.Time")
		case s["contentEncoding"] == "base64" && null:
			u = use{expr: &expr{op: opBytes}}
		default:
			u = prim("string")
		}
	case "boolean":
		u = prim("bool")
	case "integer":
		u = prim(integerType(s))
	case "number":
		u = prim("float64")
		if s["format"] == "float" {
			u = prim("float32")
		}
	case "array":
		u = b.array(s, at, parent, suffix, slot, null)
	case "object":
		if b.isChannelRef(s) {
			u = prim("iii.StreamChannelRef")
			break
		}
		u = b.object(s, at, parent, suffix, slot, null)
	default:
		return b.raw(at, fmt.Sprintf("the type %q does not exist", t))
	}
	u.null = u.null || null
	return u
}

// isChannelRef reports whether s is a schema for iii.StreamChannelRef. The SDKs write this
// schema in different ways.
func (b *builder) isChannelRef(s schema) bool {
	members, _ := s["properties"].(schema)
	required := stringsOf(s["required"])
	if len(members) != 3 || len(required) != 3 {
		return false
	}
	for _, name := range []string{"channel_id", "access_key", "direction"} {
		member, ok := asSchema(members[name])
		if !ok || !slices.Contains(required, name) {
			return false
		}
		if resolved, err := b.doc.deref(member, 0); err == nil {
			member = resolved
		}
		if name != "direction" {
			if !slices.Equal(typesOf(member), []string{"string"}) || member["enum"] != nil || member["const"] != nil {
				return false
			}
			continue
		}
		values, _ := constants(member)
		branches, _ := listOf(member["oneOf"])
		for _, branch := range branches {
			each, _ := constants(branch)
			values = append(values, each...)
		}
		if ends := literals(values); len(ends) != 2 || !ends[`"read"`] || !ends[`"write"`] {
			return false
		}
	}
	return true
}

// typeless explains why s, a schema without a type, has no specific Go type. It returns "" if
// s allows any value.
func typeless(s schema) string {
	demanded := constraints(s)
	delete(demanded, "nullable")
	if _, ok := demanded["type"]; ok && len(typesOf(s)) == 0 {
		return "the value of type is " + kindOf(s["type"])
	}
	if len(demanded) == 0 {
		return ""
	}
	return "the schema has no type, only " + strings.Join(slices.Sorted(maps.Keys(demanded)), ", ")
}

// guessType infers a schema's type from its other keywords.
func guessType(s schema) string {
	for _, k := range []string{"properties", "additionalProperties", "required", "patternProperties", "propertyNames"} {
		if _, ok := s[k]; ok {
			return "object"
		}
	}
	for _, k := range []string{"items", "prefixItems"} {
		if _, ok := s[k]; ok {
			return "array"
		}
	}
	return ""
}

// allOf returns the Go type for an allOf, whose parts it merges. If the only constraint
// in s is a reference, allOf returns the type of the referenced definition.
func (b *builder) allOf(s schema, at string, parent *decl, suffix string, slot *memo) use {
	parts, ok := listOf(s["allOf"])
	if !ok {
		return b.raw(at, "allOf is not a list of schemas")
	}
	base := maps.Clone(s)
	delete(base, "allOf")
	parts = slices.DeleteFunc(slices.Clone(parts), func(p schema) bool { return len(constraints(p)) == 0 })
	if len(parts) == 1 && len(constraints(base)) == 0 {
		if _, isRef := parts[0]["$ref"]; isRef {
			return b.build(parts[0], at+"/allOf/0", parent, suffix)
		}
	}
	merged := base
	for _, p := range parts {
		var err error
		if merged, err = b.doc.merge(merged, p, 0); err != nil {
			return b.raw(at, err.Error())
		}
	}
	if text := textOf(s); text != "" {
		merged["description"] = text
	}
	b.decls++ // count merges too, so nested merges terminate
	return b.merged(merged, at, parent, suffix, slot)
}

// choice returns the Go type for anyOf or oneOf.
func (b *builder) choice(s schema, keyword, at string, parent *decl, suffix string, slot *memo) use {
	parts, ok := listOf(s[keyword])
	if !ok {
		return b.raw(at, keyword+" is not a list of schemas")
	}
	base := maps.Clone(s)
	delete(base, keyword)
	common := constraints(base)
	delete(common, "nullable")
	null := s["nullable"] == true
	type branch struct {
		s      schema
		at     string
		merged bool
	}
	var branches []branch
	onlyConditions := len(common) > 0
	for i, p := range parts {
		place := fmt.Sprintf("%s/%s/%d", at, keyword, i)
		resolved, err := b.doc.deref(p, 0)
		if err != nil {
			return b.raw(place, err.Error())
		}
		if isNull(resolved) {
			null = true
			continue
		}
		if isFalse(constraints(resolved)) {
			continue
		}
		for k := range constraints(resolved) {
			onlyConditions = onlyConditions && (k == "required" || k == "not" || k == "if" || k == "then" || k == "else")
		}
		branches = append(branches, branch{p, place, false})
	}
	if onlyConditions { // the branches only add conditions, such as required
		return b.formOf(base, at, parent, suffix, slot)
	}
	if len(common) > 0 {
		if types := typesOf(common); len(types) > 0 { // null must also be one of the common types
			null = null && slices.Contains(types, "null")
		}
		var possible []branch
		for _, br := range branches {
			merged, err := b.doc.merge(common, br.s, 0)
			if errors.Is(err, errUnsatisfiable) || err == nil && !satisfiable(merged) {
				continue // no value can match this branch
			}
			if err != nil {
				return b.raw(at, err.Error())
			}
			possible = append(possible, branch{merged, br.at, true})
		}
		branches = possible
	}
	b.decls++
	switch len(branches) {
	case 0:
		u := b.raw(at, "")
		if null {
			u.why = "null is the only allowed value"
		} else {
			u = b.raw(at, "no value satisfies the schema")
		}
		return u
	case 1:
		one := branches[0]
		if text := textOf(s); text != "" && textOf(one.s) == "" {
			one.s = maps.Clone(one.s)
			one.s["description"] = text
		}
		var u use
		if _, isRef := one.s["$ref"]; isRef {
			u = b.build(one.s, one.at, parent, suffix)
		} else if one.merged {
			u = b.merged(one.s, one.at, parent, suffix, slot)
		} else {
			u = b.formOf(one.s, one.at, parent, suffix, slot)
		}
		u.null = u.null || null
		return u
	}

	// If all branches are constants of one type, they form an enumeration. Each constant can
	// have its own description.
	var values []any
	docs := make(map[string]string) // keyed by the JSON encoding of the value
	for _, br := range branches {
		list, ok := constants(br.s)
		if _, isRef := br.s["$ref"]; isRef || !ok {
			values = nil
			break
		}
		for _, v := range list {
			values = append(values, v)
			docs[literalOf(v)] = textOf(br.s)
		}
	}
	if len(values) > 1 && sameKind(values) {
		u := b.enum(base, values, at, parent, suffix, slot)
		if u.op == opNamed && u.decl.form == formEnum {
			for i := range u.decl.values {
				u.decl.values[i].doc = docs[u.decl.values[i].literal]
			}
		}
		u.null = u.null || null
		return u
	}

	d, u := b.newDecl(formUnion, base, parent, suffix, slot)
	u.null = null
	if slot != nil {
		slot.use = u
	}
	tag := b.commonTag(branches0(branches, func(br branch) schema { return br.s }))
	names := scope{"Raw": true, "MarshalJSON": true, "UnmarshalJSON": true, "JSONSchema": true, "IsZero": true}
	for _, br := range branches {
		resolved, err := b.doc.deref(br.s, 0)
		if err != nil {
			resolved = br.s
		}
		name := b.variantName(br.s, resolved, tag)
		v := &variant{doc: textOf(br.s), shape: b.shapeOf(resolved)}
		if br.merged {
			v.use = b.merged(br.s, br.at, d, name, nil)
		} else {
			v.use = b.build(br.s, br.at, d, name)
		}
		if v.use.null {
			v.use.null = false
			u.null = true
		}
		if v.use.op == opRaw && v.shape.kind == "" {
			continue // the field Raw covers values of any shape
		}
		if twin := slices.IndexFunc(d.variants, func(o *variant) bool { return sameUse(o.use, v.use) }); twin >= 0 {
			o := d.variants[twin]
			o.shape = widen(o.shape, v.shape)
			continue
		}
		v.name = names.add(name)
		d.variants = append(d.variants, v)
	}
	if slot != nil {
		slot.use.null = u.null
	}
	return u
}

// satisfiable returns false if s has a const that its enum does not contain.
func satisfiable(s schema) bool {
	c, hasConst := s["const"]
	list, hasEnum := s["enum"].([]any)
	return !hasConst || !hasEnum || slices.ContainsFunc(list, func(e any) bool { return reflect.DeepEqual(e, c) })
}

func branches0[T any](list []T, f func(T) schema) []schema {
	all := make([]schema, len(list))
	for i, e := range list {
		all[i] = f(e)
	}
	return all
}

// widen returns a shape that accepts the values of both a and b.
func widen(a, b shape) shape {
	if a.kind != b.kind {
		if a.kind+b.kind == "numberinteger" || a.kind+b.kind == "integernumber" {
			return shape{kind: "number"}
		}
		return shape{}
	}
	if len(a.values) == 0 || len(b.values) == 0 {
		return shape{kind: a.kind}
	}
	return shape{kind: a.kind, values: append(slices.Clone(a.values), b.values...)}
}

// sameUse reports whether a and b use the same Go type. It ignores whether a and b themselves
// allow null.
func sameUse(a, b use) bool {
	if a.op != b.op || a.prim != b.prim || a.decl != b.decl || a.n != b.n {
		return false
	}
	if a.elem == nil || b.elem == nil {
		return a.elem == b.elem
	}
	return a.elem.null == b.elem.null && sameUse(*a.elem, *b.elem)
}

func isNull(s schema) bool {
	if values, ok := constants(s); ok {
		return len(values) == 1 && values[0] == nil
	}
	types := typesOf(s)
	return len(types) == 1 && types[0] == "null"
}

func sameKind(values []any) bool {
	for _, v := range values {
		if kindOf(v) != kindOf(values[0]) {
			return false
		}
	}
	return kindOf(values[0]) != "an object" && kindOf(values[0]) != "an array" && values[0] != nil
}

// commonTag returns the name of a property that has a different constant value in each schema,
// or "" if there is no such property.
func (b *builder) commonTag(all []schema) string {
	var candidates map[string]map[string]bool
	for i, s := range all {
		tags := b.tagsOf(s)
		if i == 0 {
			candidates = make(map[string]map[string]bool)
			for name, value := range tags {
				candidates[name] = map[string]bool{value: true}
			}
			continue
		}
		for name, seen := range candidates {
			value, ok := tags[name]
			if !ok || seen[value] {
				delete(candidates, name)
				continue
			}
			seen[value] = true
		}
	}
	if names := slices.Sorted(maps.Keys(candidates)); len(names) > 0 {
		return names[0]
	}
	return ""
}

// tagsOf maps the names of an object schema's constant properties to their values, encoded as
// JSON.
func (b *builder) tagsOf(s schema) map[string]string {
	s, err := b.flat(s)
	if err != nil {
		return nil
	}
	tags := make(map[string]string)
	properties, _ := s["properties"].(map[string]any)
	for name, p := range properties {
		ps, ok := asSchema(p)
		if !ok {
			continue
		}
		if ps, err = b.doc.deref(ps, 0); err != nil {
			continue
		}
		if values, ok := constants(ps); ok && len(values) == 1 {
			switch values[0].(type) {
			case string, bool, json.Number:
				tags[name] = literalOf(values[0])
			}
		}
	}
	return tags
}

// flat returns s with its references and allOf merged into it.
func (b *builder) flat(s schema) (schema, error) {
	s, err := b.doc.deref(s, 0)
	if err != nil {
		return nil, err
	}
	for range maxHops {
		parts, ok := listOf(s["allOf"])
		if !ok {
			return s, nil
		}
		merged := maps.Clone(s)
		delete(merged, "allOf")
		for _, p := range parts {
			if merged, err = b.doc.merge(merged, p, 0); err != nil {
				return nil, err
			}
		}
		s = merged
	}
	return s, nil
}

// shapeOf returns the shape of the values that s allows, with only the details that
// distinguish variants.
func (b *builder) shapeOf(s schema) shape {
	s, err := b.flat(s)
	if err != nil {
		return shape{}
	}
	if values, ok := constants(s); ok && sameKind(values) {
		sh := shape{kind: map[string]string{"a string": "string", "a number": "number", "a boolean": "boolean"}[kindOf(values[0])]}
		for _, v := range values {
			sh.values = append(sh.values, literalOf(v))
		}
		return sh
	}
	types := slices.DeleteFunc(slices.Clone(typesOf(s)), func(t string) bool { return t == "null" })
	t := guessType(s)
	if len(types) == 1 {
		t = types[0]
	} else if len(types) > 1 {
		return shape{}
	}
	sh := shape{kind: t}
	if t == "array" {
		sh.minItems, sh.maxItems, sh.hasMax = lengths(s)
	}
	if t == "object" {
		sh.tags = b.tagsOf(s)
		properties, _ := s["properties"].(map[string]any)
		sh.known = slices.Sorted(maps.Keys(properties))
		for _, name := range stringsOf(s["required"]) {
			if !slices.Contains(sh.required, name) {
				sh.required = append(sh.required, name)
			}
		}
		slices.Sort(sh.required)
		if extra, ok := asSchema(s["additionalProperties"]); ok {
			sh.closed = isFalse(extra)
		}
	}
	return sh
}

// lengths returns the lengths of the arrays that s allows. Like [builder.array], it takes a
// tuple to be complete unless minItems says otherwise.
func lengths(s schema) (low, high int, hasHigh bool) {
	length := func(v any) (int, bool) {
		f, ok := numberOf(v)
		if !ok {
			return 0, false
		}
		n, _ := f.Int64()
		return int(max(0, min(n, math.MaxInt32))), true
	}
	prefix, isTuple := listOf(s["prefixItems"])
	rest := s["items"]
	if !isTuple {
		if prefix, isTuple = listOf(s["items"]); isTuple {
			rest = s["additionalItems"]
		}
	}
	low, ok := length(s["minItems"])
	if !ok {
		low = len(prefix)
	}
	high, hasHigh = length(s["maxItems"])
	if r, ok := asSchema(rest); isTuple && ok && isFalse(r) && (!hasHigh || high > len(prefix)) {
		high, hasHigh = len(prefix), true
	}
	return low, high, hasHigh
}

// variantName returns the name of the union field for a variant.
func (b *builder) variantName(s, resolved schema, tag string) string {
	if value, ok := b.tagsOf(resolved)[tag]; ok && tag != "" {
		var text string
		if json.Unmarshal([]byte(value), &text) != nil {
			text = value
		}
		return goName(text)
	}
	if ref, _ := s["$ref"].(string); definition(ref) != "" {
		return goName(definition(ref))
	}
	if parts, ok := listOf(s["allOf"]); ok && len(parts) > 0 {
		if ref, _ := parts[0]["$ref"].(string); definition(ref) != "" {
			return goName(definition(ref))
		}
	}
	if title, _ := resolved["title"].(string); title != "" {
		return goName(title)
	}
	if values, ok := constants(resolved); ok && len(values) == 1 {
		if text, ok := values[0].(string); ok && len(words(text)) > 0 {
			return goName(text)
		}
	}
	properties, _ := resolved["properties"].(map[string]any)
	if required := stringsOf(resolved["required"]); len(required) == 1 && len(properties) == 1 && properties[required[0]] != nil {
		return goName(required[0])
	}
	t := guessType(resolved)
	if types := typesOf(resolved); len(types) == 1 {
		t = types[0]
	}
	switch t {
	case "object":
		if len(properties) == 0 {
			return "Map"
		}
		return "Object"
	case "array":
		return "List"
	case "boolean":
		return "Bool"
	case "":
		return "Value"
	}
	return goName(t)
}

func literalOf(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(raw)
}

// enum returns the Go type for a list of constants.
func (b *builder) enum(s schema, values []any, at string, parent *decl, suffix string, slot *memo) use {
	var kept []any
	null := false
	seen := make(map[string]bool)
	for _, v := range values {
		if literal := literalOf(v); v == nil {
			null = true
		} else if !seen[literal] {
			seen[literal] = true
			kept = append(kept, v)
		}
	}
	if types := typesOf(s); len(types) > 0 { // constants of other types are never valid
		kept = slices.DeleteFunc(kept, func(v any) bool { return !hasType(v, types) })
		null = null && slices.Contains(types, "null")
	}
	switch {
	case len(kept) == 0 && null:
		u := b.raw(at, "")
		u.why = "null is the only allowed value"
		return u
	case len(kept) == 0:
		return b.raw(at, "no value satisfies the schema")
	case !sameKind(kept):
		why := "the values are objects or arrays"
		if slices.ContainsFunc(kept, func(v any) bool { return kindOf(v) != kindOf(kept[0]) }) {
			why = "the values have several types"
		}
		if text := literalOf(kept); len(text) <= 200 {
			why += ": " + text
		}
		u := b.raw(at, why)
		u.null = null
		return u
	case slices.ContainsFunc(kept, beyondFloat):
		return b.raw(at, "a number exceeds the range of float64")
	}
	if _, isBool := kept[0].(bool); isBool && len(kept) == 2 {
		u := prim("bool")
		u.null = null
		return u
	}
	if len(kept) == 1 {
		d, u := b.newDecl(formConst, s, parent, suffix, slot)
		d.constant = literalOf(kept[0])
		u.null = null
		return u
	}
	d, u := b.newDecl(formEnum, s, parent, suffix, slot)
	d.base = "string"
	for _, v := range kept {
		literal := literalOf(v)
		value := enumValue{literal: literal}
		switch v := v.(type) {
		case string:
			value.text = v
		case json.Number:
			value.text = strings.ReplaceAll(strings.ReplaceAll(v.String(), "-", "Minus "), ".", " Point ")
			if f, ok := numberOf(v); d.base != "float64" && ok && f.IsInt() {
				d.base = "int"
				if i, accuracy := f.Int64(); accuracy == big.Exact {
					value.literal = fmt.Sprint(i)
				} else {
					d.base = "float64"
				}
			} else {
				d.base = "float64"
			}
		}
		d.values = append(d.values, value)
	}
	u.null = null
	return u
}

func beyondFloat(v any) bool {
	n, ok := v.(json.Number)
	if !ok {
		return false
	}
	_, err := n.Float64()
	return err != nil
}

func hasType(v any, types []string) bool {
	t := map[string][]string{"a string": {"string"}, "a number": {"number", "integer"}, "a boolean": {"boolean"}, "an object": {"object"}, "an array": {"array"}}[kindOf(v)]
	return slices.ContainsFunc(t, func(t string) bool { return slices.Contains(types, t) })
}

func allSame(items []use) bool {
	for _, u := range items {
		if u.null != items[0].null || !sameUse(u, items[0]) {
			return false
		}
	}
	return true
}

// maxArray is the maximum length of a Go array. Longer arrays become slices.
const maxArray = 64

func (b *builder) array(s schema, at string, parent *decl, suffix string, slot *memo, null bool) use {
	prefix, isTuple := listOf(s["prefixItems"])
	var restSchema any
	restKey := "items"
	if !isTuple {
		if prefix, isTuple = listOf(s["items"]); isTuple {
			restKey = "additionalItems"
		}
	}
	if isTuple && len(prefix) > 0 {
		restSchema = s[restKey]
		d, u := b.newDecl(formTuple, s, parent, suffix, slot)
		u.null = null
		if slot != nil {
			slot.use = u
		}
		for i, p := range prefix {
			d.items = append(d.items, b.build(p, fmt.Sprintf("%s/prefixItems/%d", at, i), d, fmt.Sprintf("V%d", i)))
		}
		d.minItems = len(prefix)
		if n, ok := numberOf(s["minItems"]); ok {
			if i, _ := n.Int64(); i < int64(len(prefix)) {
				d.minItems = max(0, int(i))
			}
		} else if restKey == "additionalItems" {
			d.minItems = len(prefix)
		}
		if r, ok := asSchema(restSchema); ok && !isFalse(r) {
			rest := b.build(r, at+"/"+restKey, d, "Rest")
			d.rest = &rest
		}
		if high, ok := numberOf(s["maxItems"]); slot == nil && d.rest == nil && (ok && high.Cmp(big.NewFloat(float64(len(prefix)))) == 0 || restSchema == false) &&
			d.minItems == len(prefix) && len(prefix) <= maxArray && allSame(d.items) {
			d.form = formPhantom
			return use{expr: &expr{op: opArray, elem: &d.items[0], n: len(prefix)}}
		}
		return u
	}
	elem := use{expr: &expr{op: opRaw}}
	if raw, ok := s["items"]; ok {
		items, ok := asSchema(raw)
		if !ok {
			return b.raw(at, "items is not a schema")
		}
		elem = b.build(items, at+"/items", parent, suffix+"Item")
	}
	low, hasLow := numberOf(s["minItems"])
	high, hasHigh := numberOf(s["maxItems"])
	if hasLow && hasHigh && low.Cmp(high) == 0 && low.IsInt() && s["uniqueItems"] != true {
		if n, _ := low.Int64(); n > 0 && n <= maxArray {
			return use{expr: &expr{op: opArray, elem: &elem, n: int(n)}}
		}
	}
	return use{expr: &expr{op: opList, elem: &elem}}
}

func (b *builder) object(s schema, at string, parent *decl, suffix string, slot *memo, null bool) use {
	properties, _ := s["properties"].(map[string]any)
	_, listed := s["properties"]
	extra, hasExtra := s["additionalProperties"]
	patterns, _ := s["patternProperties"].(map[string]any)
	var extraSchema schema
	closed := false
	switch {
	case hasExtra:
		e, ok := asSchema(extra)
		if !ok {
			return b.raw(at, "additionalProperties is "+kindOf(extra)+", not a schema")
		}
		extraSchema, closed = e, isFalse(e)
	}
	if len(patterns) > 0 { // a single pattern determines the member type if no other members are allowed
		e := schema{}
		if len(patterns) == 1 && (closed || !hasExtra) {
			for _, v := range patterns {
				e, _ = asSchema(v)
			}
		}
		extraSchema, hasExtra, closed = e, true, false
	}
	if len(properties) == 0 && !closed && (!listed || hasExtra && len(stringsOf(s["required"])) == 0) {
		elem := use{expr: &expr{op: opRaw}}
		if hasExtra {
			elem = b.build(extraSchema, at+"/additionalProperties", parent, suffix+"Value")
		}
		return use{expr: &expr{op: opMap, elem: &elem}}
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if !validTagName(name) {
			why := fmt.Sprintf("the name %q is not valid in a struct tag", name)
			b.g.note(b.about, at, why)
			return use{expr: &expr{op: opMap, elem: &use{expr: &expr{op: opRaw}}, why: why}}
		}
	}
	members := make(map[string]any, len(properties))
	maps.Copy(members, properties)
	for name, p := range b.conditional(s) {
		if _, ok := members[name]; !ok && validTagName(name) {
			members[name] = p
		}
	}
	required := stringsOf(s["required"])
	for _, name := range required { // allowed without being listed
		if _, ok := members[name]; !ok && !hasExtra && validTagName(name) {
			members[name] = true
		}
	}
	d, u := b.newDecl(formStruct, s, parent, suffix, slot)
	u.null = null
	if slot != nil {
		slot.use = u
	}
	names := scope{}
	for _, taken := range []string{"MarshalJSON", "UnmarshalJSON", "JSONSchema", "TriggerType", "Additional"} {
		names[taken] = true
	}
	for _, name := range slices.SortedFunc(maps.Keys(members), func(a, b string) int {
		return cmp.Or(strings.Compare(goName(a), goName(b)), strings.Compare(a, b))
	}) {
		ps, ok := asSchema(members[name])
		place := at + "/properties/" + strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
		f := &field{property: name, required: slices.Contains(required, name)}
		f.name = names.add(goName(name), goName(name)+"Field")
		if !ok {
			f.use = b.raw(place, "the property is "+kindOf(members[name])+", not a schema")
		} else {
			f.doc = textOf(ps)
			f.use = b.build(ps, place, d, f.name)
			if f.use.op == opNamed && f.use.decl.form == formConst && !f.required {
				// The default equals the constant, so an absent member has the
				// same value.
				if def, ok := ps["default"]; ok && literalOf(def) == f.use.decl.constant {
					f.required = true
				}
			}
		}
		d.fields = append(d.fields, f)
	}
	if hasExtra && !closed {
		elem := b.build(extraSchema, at+"/additionalProperties", d, "Additional")
		d.additional = &elem
	}
	return u
}

// conditional returns the properties that s declares only conditionally. If a property has
// several different conditional schemas, the result allows any value for it.
func (b *builder) conditional(s schema) map[string]any {
	var all []schema
	for _, k := range []string{"then", "else"} {
		if c, ok := asSchema(s[k]); ok && s["if"] != nil {
			all = append(all, c)
		}
	}
	dependent, _ := s["dependentSchemas"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(dependent)) {
		if c, ok := asSchema(dependent[name]); ok {
			all = append(all, c)
		}
	}
	found := make(map[string]any)
	for _, c := range all {
		flat, err := b.flat(c)
		if err != nil {
			continue
		}
		properties, _ := flat["properties"].(map[string]any)
		for name, p := range properties {
			if old, ok := found[name]; ok && !reflect.DeepEqual(old, p) {
				p = true
			}
			found[name] = p
		}
	}
	return found
}

// validTagName reports whether every version of encoding/json accepts name in a struct tag.
func validTagName(name string) bool {
	if name == "" || name != strings.TrimSpace(name) {
		return false
	}
	for _, r := range name {
		switch {
		case isLetterOrDigit(r):
		case strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r):
		default:
			return false
		}
	}
	return true
}
