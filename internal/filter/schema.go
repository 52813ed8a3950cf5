package filter

import (
	"fmt"
	"slices"
	"strings"
)

// CheckSchemas checks the filter's paths against JSON Schemas: input paths against request and
// output paths against response. If a schema is nil, the corresponding paths are not checked.
// If a schema rules out a path, the error is an *[Error]. Any other error means that a schema
// is not valid JSON. The warnings list the paths that a schema neither confirms nor rules out.
func (f *Filter) CheckSchemas(request, response []byte) (warnings []string, err error) {
	if f == nil {
		f = new(Filter)
	}
	var c checker
	for i, s := range []struct {
		raw  []byte
		name string
	}{{request, "request_format"}, {response, "response_format"}} {
		if s.raw == nil {
			continue
		}
		v, _, err := decode(s.raw)
		if err != nil {
			return nil, fmt.Errorf("%s is not JSON: %w", s.name, err)
		}
		c.formats[i] = &format{s.name, &v}
	}
	if fault := c.filter(f.clauses, nil); fault != nil {
		return nil, fault
	}
	return c.warnings, nil
}

type checker struct {
	formats  [2]*format // schemas of Input and Output
	warnings []string
}

// format is a named schema document, within which references are resolved.
type format struct {
	name   string
	schema *value
}

// place is a location in a value and the schema that applies there.
type place struct {
	format *format
	schema *value
	name   string // the location as it appears in messages
}

// obstacle explains why a path cannot be followed further. The zero value means no obstacle.
type obstacle struct {
	open    bool   // the schema allows any member
	keyword string // a keyword that the checker does not interpret
	types   *value // declared types, none of which has members
}

// filter checks a filter's paths. elem is the place of the current $any element, or nil
// outside $any.
func (c *checker) filter(clauses []clause, elem *place) *Error {
	for i := range clauses {
		p := clauses[i].path
		if p == nil {
			for _, f := range clauses[i].filters {
				if fault := c.filter(f, elem); fault != nil {
					return fault
				}
			}
			continue
		}
		from := elem
		if p.root != element {
			if int(p.root) >= len(c.formats) || c.formats[p.root] == nil {
				continue
			}
			f := c.formats[p.root]
			from = &place{f, f.schema, p.root.String()}
		}
		to, fault := c.follow(from, p)
		if fault == nil && to != nil {
			fault = c.elements(to, clauses[i].ops)
		}
		if fault != nil {
			return fault
		}
	}
	return nil
}

// follow returns the place at p. If the schema does not determine the place, follow adds a
// warning and returns nil.
func (c *checker) follow(from *place, p *path) (*place, *Error) {
	root := len(p.root.String())
	at := *from
	for i := range p.segments {
		s := &p.segments[i]
		next, why := c.step(&at, s)
		name := from.name + p.text[root:s.end]
		if why != (obstacle{}) {
			c.warn(&at, from.name+p.text[root:], why)
			return nil, nil
		}
		if next != nil {
			// No value can exist where the schema is false.
			if target, keyword := at.format.resolve(next); keyword == "" && isFalse(target) {
				next = nil
			}
		}
		if next == nil {
			return nil, &Error{InvalidFilterPath, name, fmt.Sprintf("%s is not in %s", name, at.format.name)}
		}
		at.schema, at.name = next, name
	}
	return &at, nil
}

// warn adds a warning about a path that cannot be followed beyond a place.
func (c *checker) warn(at *place, name string, why obstacle) {
	var w string
	switch {
	case why.keyword != "":
		w = fmt.Sprintf("%s: %s uses `%s` at %s; path not verified", name, at.format.name, why.keyword, at.name)
	case why.types != nil:
		w = fmt.Sprintf("%s: %s declares %s as %s; the path is always absent", name, at.format.name, at.name, typeText(why.types))
	case at.name == "input" || at.name == "output":
		w = fmt.Sprintf("%s: %s is open; path not verified", name, at.format.name)
	default:
		w = fmt.Sprintf("%s: %s is open at %s; path not verified", name, at.format.name, at.name)
	}
	if !slices.Contains(c.warnings, w) {
		c.warnings = append(c.warnings, w)
	}
}

// structural lists the keywords that constrain members and elements.
var structural = []string{
	"properties", "additionalProperties", "items", "prefixItems", "additionalItems", "patternProperties", "anyOf", "oneOf", "allOf",
	"not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties", "$ref", "$dynamicRef",
}

// alone reports whether keyword is the only structural keyword in v.
func alone(v *value, keyword string) bool {
	for i := range v.list {
		if key := v.list[i].key; key != keyword && slices.Contains(structural, key) {
			return false
		}
	}
	return true
}

// maxRounds limits the length of a chain of references.
const maxRounds = 32

// resolve follows a schema's references. If it cannot follow one, it returns the keyword of
// that reference.
func (f *format) resolve(v *value) (_ *value, keyword string) {
	for range maxRounds {
		if v.kind != object {
			return v, ""
		}
		if ref := v.get("$ref"); ref != nil {
			if v = f.target(v, ref); v == nil {
				return nil, "$ref"
			}
			continue
		}
		if v.get("$dynamicRef") != nil {
			return nil, "$dynamicRef"
		}
		next := choice(v)
		if next == nil {
			return v, ""
		}
		v = next
	}
	return nil, "$ref"
}

// target returns the schema that ref, the $ref of v, points to. It returns nil if the
// reference cannot be resolved.
func (f *format) target(v, ref *value) *value {
	if ref.kind != text || !alone(v, "$ref") {
		return nil
	}
	pointer, ok := strings.CutPrefix(ref.text, "#")
	if !ok {
		return nil
	}
	v = f.schema
	if pointer == "" {
		return v
	}
	if pointer[0] != '/' {
		return nil
	}
	for token := range strings.SplitSeq(pointer[1:], "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		var next *value
		if i, ok := canonicalIndex(token); v.kind == array && ok && i < uint64(len(v.list)) {
			next = &v.list[i].value
		} else if v.kind == object {
			next = v.get(token)
		}
		if next == nil {
			return nil
		}
		v = next
	}
	return v
}

// choice returns the only schema in v's allOf, or the only one in its anyOf or oneOf apart
// from schemas of type null. It returns nil if there is not exactly one, or if v has other
// structural keywords.
func choice(v *value) *value {
	if all := v.get("allOf"); all != nil && all.kind == array && len(all.list) == 1 && alone(v, "allOf") {
		return &all.list[0].value
	}
	keyword := "anyOf"
	list := v.get(keyword)
	if list == nil {
		keyword = "oneOf"
		list = v.get(keyword)
	}
	if list == nil || list.kind != array || !alone(v, keyword) {
		return nil
	}
	var only *value
	for i := range list.list {
		if t := list.list[i].get("type"); t != nil && t.kind == text && t.text == "null" {
			continue
		}
		if only != nil {
			return nil
		}
		only = &list.list[i].value
	}
	return only
}

func isFalse(v *value) bool { return v.kind == boolean && !v.truth }

func isSchema(v *value) bool { return v.kind == object || v.kind == boolean }

// notFollowed lists the keywords that may allow members besides those in properties.
var notFollowed = []string{"patternProperties", "anyOf", "oneOf", "allOf", "if", "dependentSchemas", "unevaluatedProperties"}

// step returns the schema of a place's member or element s. If the place's own schema rules s
// out, both results are zero.
func (c *checker) step(at *place, s *segment) (*value, obstacle) {
	v, keyword := at.format.resolve(at.schema)
	switch {
	case keyword != "":
		return nil, obstacle{keyword: keyword}
	case isFalse(v):
		return nil, obstacle{}
	case v.kind != object:
		return nil, obstacle{open: true}
	}
	if properties := v.get("properties"); properties != nil {
		if next := properties.get(s.key); next != nil {
			return next, obstacle{}
		}
	}
	if s.isIndex {
		if next, keyword := items(v); next != nil || keyword != "" {
			return next, obstacle{keyword: keyword}
		}
	}
	for _, keyword := range notFollowed {
		if v.get(keyword) != nil {
			return nil, obstacle{keyword: keyword}
		}
	}
	if additional := v.get("additionalProperties"); additional != nil {
		switch {
		case isFalse(additional):
			return nil, obstacle{}
		case additional.kind == object:
			return additional, obstacle{}
		}
	}
	if t := v.get("type"); t != nil && (t.kind == text || t.kind == array) && !names(t, "object") && !(s.isIndex && names(t, "array")) {
		return nil, obstacle{types: t}
	}
	return nil, obstacle{open: true}
}

// items returns the schema of an array's elements. If a keyword prevents this, items returns
// that keyword instead.
func items(v *value) (*value, string) {
	if items := v.get("items"); items != nil {
		if isSchema(items) {
			return items, ""
		}
		return nil, "items"
	}
	if v.get("prefixItems") != nil {
		return nil, "prefixItems"
	}
	return nil, ""
}

// names reports whether t, the value of a type keyword, includes the named type.
func names(t *value, name string) bool {
	is := func(v *value) bool { return v.kind == text && v.text == name }
	return is(t) || t.kind == array && slices.ContainsFunc(t.list, func(m member) bool { return is(&m.value) })
}

// typeText formats a type for warnings.
func typeText(t *value) string {
	if t.kind == text {
		return t.text
	}
	return string(t.appendText(nil))
}

// elements checks the operand of $any, if ops has one, against an array's schema.
func (c *checker) elements(at *place, ops []op) *Error {
	i := slices.IndexFunc(ops, func(o op) bool { return o.kind == opAny })
	if i < 0 {
		return nil
	}
	o := &ops[i]
	schema, why := elementSchema(at)
	if why != (obstacle{}) {
		if o.any.byFilter {
			c.unknown(at, o.any.filter, why)
		}
		return nil
	}
	elem := &place{at.format, schema, at.name + "[*]"}
	if o.any.byFilter {
		return c.filter(o.any.filter, elem)
	}
	return c.elements(elem, o.any.ops)
}

func elementSchema(at *place) (*value, obstacle) {
	v, keyword := at.format.resolve(at.schema)
	if keyword != "" {
		return nil, obstacle{keyword: keyword}
	}
	if v.kind != object {
		return nil, obstacle{open: true}
	}
	if next, keyword := items(v); next != nil || keyword != "" {
		return next, obstacle{keyword: keyword}
	}
	if t := v.get("type"); t != nil && !names(t, "array") {
		return nil, obstacle{types: t}
	}
	return nil, obstacle{open: true}
}

// unknown warns about every path of an $any filter, because the schema of the array's elements
// is unknown.
func (c *checker) unknown(at *place, clauses []clause, why obstacle) {
	for i := range clauses {
		for _, f := range clauses[i].filters {
			c.unknown(at, f, why)
		}
		if p := clauses[i].path; p != nil && len(p.segments) > 0 {
			c.warn(at, at.name+"[*]"+p.text[len(p.root.String()):], why)
		}
	}
}
