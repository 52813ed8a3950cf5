package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/iii-go/iii"
)

func packageOf(content []byte) string {
	f, err := parser.ParseFile(token.NewFileSet(), "", content, parser.PackageClauseOnly)
	if err != nil {
		return ""
	}
	return f.Name.Name
}

// report prints the differences between the existing and the generated files. It returns false
// if there are none.
func report(w io.Writer, dir string, old, made map[string][]byte, now *catalog) (bool, error) {
	var lines []string
	differs := false
	if raw, ok := old[catalogFile]; ok {
		before, err := parseCatalog(raw)
		if err != nil {
			return false, fmt.Errorf("%s/%s: %w", dir, catalogFile, err)
		}
		for _, c := range compareCatalogs(before, now) {
			lines = append(lines, c.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		before, ok := old[name]
		switch {
		case !ok:
			differs = true
			lines = append(lines, "file "+name+" is missing")
		case !bytes.Equal(before, made[name]):
			differs = true
			lines = append(lines, "file "+name+" differs")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, ok := made[name]; !ok {
			differs = true
			lines = append(lines, "file "+name+" is no longer generated")
		}
	}
	if differs {
		fmt.Fprintf(w, "%s:\n", dir)
		for _, l := range lines {
			fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(l, "\n", "\n  "))
		}
	}
	return differs, nil
}

// difference lists the changes to one function or trigger type.
type difference struct {
	kind, id string
	changes  []change
}

// change is one change to a schema or to a function property.
type change struct {
	part, at, what string
	breaking       bool
}

func (d difference) String() string {
	breaking := false
	for _, c := range d.changes {
		breaking = breaking || c.breaking
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", d.kind, printable(d.id), verdict(breaking))
	for _, c := range d.changes {
		at := c.part
		if c.at != "" {
			at += " " + c.at
		}
		if at != "" {
			at += ": "
		}
		fmt.Fprintf(&b, "\n  %-10s  %s%s", verdict(c.breaking), printable(at), printable(c.what))
	}
	return b.String()
}

func verdict(breaking bool) string {
	if breaking {
		return "breaking"
	}
	return "compatible"
}

// printable returns text from another worker as one line without control characters.
func printable(s string) string { return strings.ReplaceAll(commentText(s), "\n", " ") + trailing(s) }

func trailing(s string) string {
	if strings.HasSuffix(s, ": ") {
		return " "
	}
	return ""
}

// compareCatalogs returns the changes from old to now. A change is breaking if programs built
// with the old client may send invalid payloads or receive values that they cannot decode.
func compareCatalogs(old, now *catalog) []difference {
	var all []difference
	type part struct {
		name    string
		old     json.RawMessage
		now     json.RawMessage
		request bool
	}
	compare := func(d difference, oldText, nowText string, parts ...part) {
		for _, p := range parts {
			d.changes = append(d.changes, compareSchemas(p.name, p.old, p.now, p.request)...)
		}
		if len(d.changes) == 0 && oldText != nowText {
			d.changes = []change{{what: "description or metadata changed"}}
		}
		if len(d.changes) > 0 {
			all = append(all, d)
		}
	}
	access := func(before, after function) (changes []change) {
		switch {
		case !before.Private && after.Private:
			changes = append(changes, change{what: "only its own worker can now call it", breaking: true})
		case before.Private && !after.Private:
			changes = append(changes, change{what: "other workers can now call it"})
		}
		switch {
		case before.Observable && !after.Observable:
			changes = append(changes, change{what: "it can no longer be observed", breaking: true})
		case !before.Observable && after.Observable:
			changes = append(changes, change{what: "it can now be observed"})
		}
		return changes
	}
	oldFunctions, nowFunctions := make(map[string]function), make(map[string]function)
	for _, f := range old.Functions {
		oldFunctions[f.ID] = f
	}
	for _, f := range now.Functions {
		nowFunctions[f.ID] = f
	}
	for _, id := range union(oldFunctions, nowFunctions) {
		before, was := oldFunctions[id]
		after, is := nowFunctions[id]
		switch {
		case !was:
			all = append(all, difference{"function", id, []change{{what: "added"}}})
		case !is:
			all = append(all, difference{"function", id, []change{{what: "removed", breaking: true}}})
		default:
			compare(difference{"function", id, access(before, after)}, before.Description+"\n"+before.Namespace+"\n"+string(canonical(before.Metadata)), after.Description+"\n"+after.Namespace+"\n"+string(canonical(after.Metadata)),
				part{"request", before.Request, after.Request, true}, part{"response", before.Response, after.Response, false},
				part{"args", before.Args, after.Args, true})
		}
	}
	oldTypes, nowTypes := make(map[string]triggerType), make(map[string]triggerType)
	for _, t := range old.TriggerTypes {
		oldTypes[t.ID] = t
	}
	for _, t := range now.TriggerTypes {
		nowTypes[t.ID] = t
	}
	for _, id := range union(oldTypes, nowTypes) {
		before, was := oldTypes[id]
		after, is := nowTypes[id]
		switch {
		case !was:
			all = append(all, difference{"trigger type", id, []change{{what: "added"}}})
		case !is:
			all = append(all, difference{"trigger type", id, []change{{what: "removed", breaking: true}}})
		default:
			compare(difference{kind: "trigger type", id: id}, before.Description, after.Description,
				part{"config", before.Config, after.Config, true}, part{"payload", before.Payload, after.Payload, false})
		}
	}
	return all
}

func canonical(raw json.RawMessage) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	b, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return b
}

// compareSchemas returns the changes from old to now. request is true for the schema of values
// that a client sends, and false for the schema of values that it receives.
func compareSchemas(part string, old, now json.RawMessage, request bool) []change {
	was, is := present(old) != nil, present(now) != nil
	switch {
	case !was && !is:
		return nil
	case !was:
		return []change{{part: part, what: "a schema was added", breaking: true}}
	case !is:
		return []change{{part: part, what: "the schema was removed", breaking: true}}
	}
	x, errX := iii.HashSchema(old)
	y, errY := iii.HashSchema(now)
	if errX == nil && errY == nil && x == y {
		if !bytes.Equal(canonical(old), canonical(now)) {
			return []change{{part: part, what: "descriptions or other annotations changed"}}
		}
		return nil
	}
	a, errA := parseSchema(old)
	b, errB := parseSchema(now)
	if errA != nil || errB != nil {
		return []change{{part: part, what: "the schema cannot be compared", breaking: true}}
	}
	c := comparison{part: part, old: document{a}, now: document{b}, request: request, seen: make(map[[2]string]bool)}
	c.compare("", a, b, 0)
	if len(c.changes) == 0 {
		c.add("", "the schema is expressed differently", false)
	}
	return c.changes
}

// maxSteps is the maximum number of subschemas that a comparison visits.
const maxSteps = 20000

type comparison struct {
	part     string
	old, now document
	request  bool
	changes  []change
	steps    int
	seen     map[[2]string]bool // pairs of references already visited
}

func (c *comparison) add(at, what string, breaking bool) {
	c.changes = append(c.changes, change{c.part, at, what, breaking})
}

// narrowed records that a schema allows fewer values, which breaks programs that send one of
// the removed values. widened records that a schema allows more values, which breaks programs
// that receive one of the new values.
func (c *comparison) narrowed(at, what string) { c.add(at, what, c.request) }
func (c *comparison) widened(at, what string)  { c.add(at, what, !c.request) }

// normal resolves the references and the allOf of s. It removes null from the allowed values
// and reports whether s allowed it.
func normal(d document, s schema, hops int) (schema, bool) {
	b := builder{doc: d}
	flat, err := b.flat(s)
	if err != nil {
		return s, false
	}
	null := flat["nullable"] == true
	for _, keyword := range []string{"anyOf", "oneOf"} {
		parts, ok := listOf(flat[keyword])
		if !ok {
			continue
		}
		var rest []any
		for _, p := range parts {
			if r, err := d.deref(p, 0); err == nil && isNull(r) {
				null = true
				continue
			}
			rest = append(rest, map[string]any(p))
		}
		base := maps.Clone(flat)
		delete(base, keyword)
		if len(rest) == 1 && len(constraints(base)) == 0 && hops < maxHops {
			inner, innerNull := normal(d, rest[0].(map[string]any), hops+1)
			return inner, null || innerNull
		}
		flat = maps.Clone(flat)
		flat[keyword] = rest
	}
	types := typesOf(flat)
	if slices.Contains(types, "null") && len(types) > 1 {
		null = true
		flat = maps.Clone(flat)
		var rest []any
		for _, t := range types {
			if t != "null" {
				rest = append(rest, t)
			}
		}
		flat["type"] = rest
	}
	return flat, null
}

func (c *comparison) compare(at string, old, now schema, depth int) {
	if depth > maxDepth || len(c.changes) > 1000 {
		return
	}
	x, _ := old["$ref"].(string)
	y, _ := now["$ref"].(string)
	if x != "" && y != "" {
		pair := [2]string{x, y}
		if c.seen[pair] {
			return
		}
		c.seen[pair] = true
	}
	if c.steps++; c.steps > maxSteps {
		if c.steps == maxSteps+1 {
			c.add(at, "the rest of the schema was not compared", true)
		}
		return
	}
	a, nullA := normal(c.old, old, 0)
	b, nullB := normal(c.now, now, 0)
	if nullA && !nullB {
		c.narrowed(at, "null is no longer allowed")
	}
	if !nullA && nullB {
		c.widened(at, "null is now allowed")
	}
	typeA, typeB := typeText(a), typeText(b)
	if typeA != typeB {
		switch {
		case typeA == "integer" && typeB == "number":
			c.widened(at, "type changed from integer to number")
		case typeA == "number" && typeB == "integer":
			c.add(at, "type changed from number to integer", c.request)
		case typeB == "anything":
			c.widened(at, "type changed from "+typeA+" to anything")
		default:
			c.add(at, fmt.Sprintf("type changed from %s to %s", typeA, typeB), true)
		}
		return
	}
	c.compareConstants(at, a, b)
	c.compareChoices(at, a, b, depth)
	c.compareMembers(at, a, b, depth)
	for _, k := range []string{"items", "additionalProperties", "prefixItems"} {
		xs, okX := asSchema(a[k])
		ys, okY := asSchema(b[k])
		place := at + map[string]string{"items": "[]", "additionalProperties": ".*"}[k]
		switch {
		case okX && okY && !isFalse(xs) && !isFalse(ys):
			c.compare(place, xs, ys, depth+1)
		case k == "additionalProperties" && (okX && isFalse(xs)) != (okY && isFalse(ys)):
			if okY && isFalse(ys) {
				c.narrowed(place, "additional members are no longer allowed")
			} else {
				c.add(place, "additional members are now allowed", false)
			}
		case k == "prefixItems":
			if !reflect.DeepEqual(a[k], b[k]) {
				c.add(at, "the elements of the tuple changed", true)
			}
		case !reflect.DeepEqual(a[k], b[k]):
			c.add(place, "the schema of the values changed", true)
		}
	}
	c.compareBounds(at, a, b)
}

// typeText describes the type of s for the report.
func typeText(s schema) string {
	types := typesOf(s)
	if len(types) == 0 {
		if values, ok := constants(s); ok && sameKind(values) {
			return strings.TrimPrefix(strings.TrimPrefix(kindOf(values[0]), "a "), "an ")
		}
		if t := guessType(s); t != "" {
			return t
		}
		if s["anyOf"] != nil || s["oneOf"] != nil {
			return "one of several"
		}
		return "anything"
	}
	slices.Sort(types)
	text := strings.Join(types, " or ")
	if text == "string" && s["format"] == "date-time" {
		text = "date-time"
	}
	return text
}

func (c *comparison) compareConstants(at string, a, b schema) {
	x, okX := constants(a)
	y, okY := constants(b)
	switch {
	case okX && okY:
		before, after := literals(x), literals(y)
		for _, v := range x {
			if !after[literalOf(v)] {
				c.narrowed(at, "value "+literalOf(v)+" removed")
			}
		}
		for _, v := range y {
			if !before[literalOf(v)] {
				// Generated types preserve unknown values, except types for a single constant.
				c.add(at, "value "+literalOf(v)+" added", !c.request && len(x) == 1)
			}
		}
	case okX:
		c.widened(at, "values other than "+literalOf(x)+" are now allowed")
	case okY:
		c.narrowed(at, "values other than "+literalOf(y)+" are no longer allowed")
	}
}

// compareChoices compares the variants of two schemas. It pairs variants by tag or, without a
// tag, by name.
func (c *comparison) compareChoices(at string, a, b schema, depth int) {
	choices := func(s schema) []schema {
		list, _ := listOf(s["oneOf"])
		more, _ := listOf(s["anyOf"])
		return append(list, more...)
	}
	xs, ys := choices(a), choices(b)
	if len(xs) == 0 && len(ys) == 0 {
		return
	}
	name := func(d document, s schema, i int) string {
		bld := builder{doc: d}
		resolved, err := bld.flat(s)
		if err != nil {
			resolved = s
		}
		tags := bld.tagsOf(resolved)
		for _, k := range slices.Sorted(maps.Keys(tags)) {
			return k + "=" + tags[k]
		}
		return bld.variantName(s, resolved, "")
	}
	index := func(d document, list []schema) map[string]schema {
		m := make(map[string]schema)
		names := scope{}
		for i, s := range list {
			m[names.add(name(d, s, i))] = s
		}
		return m
	}
	before, after := index(c.old, xs), index(c.now, ys)
	for _, k := range union(before, after) {
		x, was := before[k]
		y, is := after[k]
		place := at + "<" + k + ">"
		switch {
		case !was:
			c.add(place, "variant added", false) // generated types preserve unknown variants
		case !is:
			c.narrowed(place, "variant removed")
		default:
			c.compare(place, x, y, depth+1)
		}
	}
}

func (c *comparison) compareMembers(at string, a, b schema, depth int) {
	x, _ := a["properties"].(map[string]any)
	y, _ := b["properties"].(map[string]any)
	requiredA, requiredB := stringsOf(a["required"]), stringsOf(b["required"])
	for _, name := range union(x, y) {
		p, was := x[name]
		q, is := y[name]
		place := at + "." + name
		needed, needs := slices.Contains(requiredA, name), slices.Contains(requiredB, name)
		switch {
		case !was && needs:
			c.add(place, "required field added", c.request)
		case !was:
			c.add(place, "optional field added", false)
		case !is:
			what := "optional field removed"
			if needed {
				what = "required field removed"
			}
			c.add(place, what, c.request || needed)
		default:
			if needed && !needs {
				c.widened(place, "field is now optional")
			}
			if !needed && needs {
				c.narrowed(place, "field is now required")
			}
			ps, okP := asSchema(p)
			qs, okQ := asSchema(q)
			if okP && okQ {
				c.compare(place, ps, qs, depth+1)
			}
		}
	}
}

// compareBounds compares the keywords that constrain values without affecting their type.
func (c *comparison) compareBounds(at string, a, b schema) {
	for _, k := range []string{"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"} {
		if reflect.DeepEqual(a[k], b[k]) {
			continue
		}
		x, okX := numberOf(a[k])
		y, okY := numberOf(b[k])
		lower := strings.HasPrefix(k, "min") || k == "exclusiveMinimum"
		what := fmt.Sprintf("%s changed from %s to %s", k, valueText(a[k]), valueText(b[k]))
		switch {
		case okX && okY && x.Cmp(y) == 0:
		case !okX || okX && okY && (x.Cmp(y) < 0) == lower:
			c.narrowed(at, what)
		default:
			c.add(at, what, !c.request && integerType(a) != integerType(b))
		}
	}
	for _, k := range []string{"format", "pattern", "multipleOf", "uniqueItems", "propertyNames", "patternProperties", "contentEncoding", "not"} {
		if !reflect.DeepEqual(a[k], b[k]) {
			c.add(at, fmt.Sprintf("%s changed from %s to %s", k, valueText(a[k]), valueText(b[k])), c.request || k == "format" || k == "contentEncoding")
		}
	}
	if !reflect.DeepEqual(a["default"], b["default"]) {
		c.add(at, fmt.Sprintf("default changed from %s to %s", valueText(a["default"]), valueText(b["default"])), false)
	}
}

func valueText(v any) string {
	if v == nil {
		return "none"
	}
	return literalOf(v)
}

// union returns the sorted keys of both maps.
func union[V any](a, b map[string]V) []string {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
