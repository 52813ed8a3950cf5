package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// schema is a JSON Schema as decoded by encoding/json, with numbers as json.Number. The
// boolean schema true is represented by an empty object.
type schema = map[string]any

// parseSchema decodes a JSON Schema.
func parseSchema(raw json.RawMessage) (schema, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	s, ok := asSchema(doc)
	if !ok {
		return nil, fmt.Errorf("a JSON Schema must be an object or a boolean, not %s", kindOf(doc))
	}
	return s, nil
}

// asSchema converts v to a schema. The boolean schema false becomes {"not": {}}.
func asSchema(v any) (schema, bool) {
	switch v := v.(type) {
	case map[string]any:
		return v, true
	case bool:
		if v {
			return schema{}, true
		}
		return schema{"not": schema{}}, true
	}
	return nil, false
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case []any:
		return "an array"
	case bool:
		return "a boolean"
	}
	return "an object"
}

// isFalse reports whether s is {"not": {}}, which no value satisfies.
func isFalse(s schema) bool {
	not, ok := s["not"].(map[string]any)
	return ok && len(not) == 0 && len(s) == 1
}

// annotations lists the keywords that do not constrain values.
var annotations = []string{"$schema", "$id", "id", "$comment", "$anchor", "title", "description", "default", "examples", "example",
	"deprecated", "readOnly", "writeOnly", "$defs", "definitions", "discriminator", "xml", "externalDocs"}

// constraints returns the keywords of s that constrain values.
func constraints(s schema) schema {
	rest := maps.Clone(s)
	for _, k := range annotations {
		delete(rest, k)
	}
	for k := range rest {
		if strings.HasPrefix(k, "x-") {
			delete(rest, k)
		}
	}
	return rest
}

// affectsType reports whether s has a keyword that affects the Go type.
func affectsType(s schema) bool {
	for _, k := range []string{"$ref", "$dynamicRef", "$recursiveRef", "type", "properties", "required", "additionalProperties", "patternProperties", "items",
		"prefixItems", "enum", "const", "allOf", "anyOf", "oneOf", "format", "contentEncoding"} {
		if _, ok := s[k]; ok {
			return true
		}
	}
	return isFalse(constraints(s))
}

// document resolves references within a schema document.
type document struct{ root schema }

// resolve returns the schema to which ref points.
func (d document) resolve(ref string) (schema, error) {
	rest, ok := strings.CutPrefix(ref, "#")
	if id, _ := d.root["$id"].(string); !ok && id != "" {
		rest, ok = strings.CutPrefix(ref, strings.TrimSuffix(id, "#")+"#")
	}
	if !ok && ref != "" {
		return nil, fmt.Errorf("$ref %q points outside the schema", ref)
	}
	var at any = d.root
	if rest != "" {
		if rest[0] != '/' {
			return nil, fmt.Errorf("$ref %q is an anchor", ref)
		}
		for _, token := range strings.Split(rest[1:], "/") {
			token = strings.ReplaceAll(strings.ReplaceAll(unescapePercent(token), "~1", "/"), "~0", "~")
			switch v := at.(type) {
			case map[string]any:
				if at, ok = v[token]; !ok {
					return nil, fmt.Errorf("$ref %q has no target", ref)
				}
			case []any:
				i, err := strconv.Atoi(token)
				if err != nil || i < 0 || i >= len(v) {
					return nil, fmt.Errorf("$ref %q has no target", ref)
				}
				at = v[i]
			default:
				return nil, fmt.Errorf("$ref %q has no target", ref)
			}
		}
	}
	s, ok := asSchema(at)
	if !ok {
		return nil, fmt.Errorf("$ref %q points to %s, not a schema", ref, kindOf(at))
	}
	return s, nil
}

// unescapePercent decodes the percent escapes in a URL fragment. Malformed escapes remain as
// they are.
func unescapePercent(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// definition returns the name of the definition to which ref points, or "" if ref points
// elsewhere.
func definition(ref string) string {
	for _, prefix := range []string{"#/$defs/", "#/definitions/"} {
		if name, ok := strings.CutPrefix(ref, prefix); ok && !strings.Contains(name, "/") {
			return strings.ReplaceAll(strings.ReplaceAll(unescapePercent(name), "~1", "/"), "~0", "~")
		}
	}
	return ""
}

// maxHops is the maximum length of a chain of references and the maximum depth of nested
// merges.
const maxHops = 64

// maxParts is the maximum number of parts of an allOf. Without a limit, nested parts could
// multiply.
const maxParts = 1000

// errUnsatisfiable reports that no value satisfies both of the schemas being merged.
var errUnsatisfiable = errors.New("the parts of allOf contradict each other")

// deref follows the $ref of s, if any, and merges its target with the other keywords of s.
func (d document) deref(s schema, hops int) (schema, error) {
	ref, ok := s["$ref"].(string)
	if !ok {
		return s, nil
	}
	if hops >= maxHops {
		return nil, fmt.Errorf("$ref %q refers to itself", ref)
	}
	to, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	to, err = d.deref(to, hops+1)
	if err != nil {
		return nil, err
	}
	beside := maps.Clone(s)
	delete(beside, "$ref")
	return d.merge(to, beside, hops+1)
}

// merge combines a and b into one schema, considering only constraints that affect Go types.
func (d document) merge(a, b schema, hops int) (schema, error) {
	if hops >= maxHops {
		return nil, errors.New("allOf is nested too deeply")
	}
	a, err := d.deref(a, hops+1)
	if err != nil {
		return nil, err
	}
	if b, err = d.deref(b, hops+1); err != nil {
		return nil, err
	}
	m := maps.Clone(a)
	for _, k := range slices.Sorted(maps.Keys(b)) {
		v := b[k]
		old, both := m[k]
		if !both || reflect.DeepEqual(old, v) {
			m[k] = v
			continue
		}
		switch k {
		case "properties":
			x, _ := old.(map[string]any)
			y, _ := v.(map[string]any)
			merged := maps.Clone(x)
			if merged == nil {
				merged = map[string]any{}
			}
			for name, p := range y {
				if q, ok := merged[name]; ok && !reflect.DeepEqual(p, q) {
					if p, err = d.mergeProperty(q, p, hops); err != nil {
						return nil, err
					}
				}
				merged[name] = p
			}
			m[k] = merged
		case "required":
			names := stringsOf(old)
			for _, name := range stringsOf(v) {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
			list := make([]any, len(names))
			for i, name := range names {
				list[i] = name
			}
			m[k] = list
		case "type":
			var common []any
			for _, t := range typesOf(a) {
				for _, u := range typesOf(b) {
					switch {
					case t == u:
						common = append(common, t)
					case t == "number" && u == "integer", t == "integer" && u == "number":
						common = append(common, "integer")
					}
				}
			}
			if len(common) == 0 {
				return nil, errUnsatisfiable
			}
			m[k] = common
		case "enum":
			var common []any
			x, _ := old.([]any)
			y, _ := v.([]any)
			also := literals(y)
			for _, e := range x {
				if also[literalOf(e)] {
					common = append(common, e)
				}
			}
			if len(common) == 0 {
				return nil, errUnsatisfiable
			}
			m[k] = common
		case "const":
			return nil, errUnsatisfiable
		case "additionalProperties", "unevaluatedProperties":
			// Prefer the schema that determines the type of additional members.
			if x, ok := asSchema(old); ok && (isFalse(x) || len(x) == 0) {
				m[k] = v
			}
		case "items":
			m[k] = schema{"allOf": []any{old, v}}
		case "allOf":
			x, _ := old.([]any)
			y, _ := v.([]any)
			if len(x)+len(y) > maxParts {
				return nil, fmt.Errorf("allOf has more than %d parts", maxParts)
			}
			m[k] = append(slices.Clone(x), y...)
		case "anyOf", "oneOf":
			// A schema can have only one anyOf and one oneOf, so a second one is
			// moved to allOf.
			all, _ := m["allOf"].([]any)
			m["allOf"] = append(slices.Clone(all), schema{k: v})
		case "minimum", "exclusiveMinimum":
			if less(old, v) {
				m[k] = v
			}
		case "maximum", "exclusiveMaximum":
			if less(v, old) {
				m[k] = v
			}
		case "description", "title":
		default:
			m[k] = v
		}
	}
	return m, nil
}

// mergeProperty merges two schemas of one property. If either is invalid, the result allows
// any value.
func (d document) mergeProperty(a, b any, hops int) (any, error) {
	x, okX := asSchema(a)
	y, okY := asSchema(b)
	if !okX || !okY {
		return schema{}, nil
	}
	return schema{"allOf": []any{x, y}}, nil
}

func less(a, b any) bool {
	x, okX := numberOf(a)
	y, okY := numberOf(b)
	return okX && okY && x.Cmp(y) < 0
}

// numberOf returns the value of a JSON number. It reports false for any other value.
func numberOf(v any) (*big.Float, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, false
	}
	f, _, err := big.ParseFloat(n.String(), 10, 128, big.ToNearestEven)
	return f, err == nil
}

// typesOf returns the types listed in the type keyword.
func typesOf(s schema) []string {
	switch t := s["type"].(type) {
	case string:
		return []string{t}
	case []any:
		return stringsOf(t)
	}
	return nil
}

func stringsOf(v any) []string {
	list, _ := v.([]any)
	var all []string
	for _, e := range list {
		if s, ok := e.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// listOf converts the value of a keyword such as anyOf to a list of schemas.
func listOf(v any) ([]schema, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	var all []schema
	for _, e := range list {
		s, ok := asSchema(e)
		if !ok {
			return nil, false
		}
		all = append(all, s)
	}
	return all, true
}

// literals returns the set of values, each encoded as JSON.
func literals(values []any) map[string]bool {
	all := make(map[string]bool, len(values))
	for _, v := range values {
		all[literalOf(v)] = true
	}
	return all
}

// constants returns the value of const or the values of enum.
func constants(s schema) ([]any, bool) {
	if c, ok := s["const"]; ok {
		return []any{c}, true
	}
	list, ok := s["enum"].([]any)
	return list, ok && len(list) > 0
}

// integerType returns the Go integer type with exactly the range of s. If there is none, it
// returns a type that covers the range.
func integerType(s schema) string {
	switch format, _ := s["format"].(string); format {
	case "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "int", "uint":
		return format
	}
	low, hasLow := numberOf(s["minimum"])
	high, hasHigh := numberOf(s["maximum"])
	switch {
	case !hasLow && !hasHigh:
		return "int"
	case hasLow && !hasHigh && low.Sign() == 0:
		return "uint"
	}
	is := func(f *big.Float, want *big.Float) bool { return f != nil && f.Cmp(want) == 0 }
	for _, bits := range []int{8, 16, 32, 64} {
		top := new(big.Float).SetMantExp(big.NewFloat(1), bits-1)
		if is(low, new(big.Float).Neg(top)) && is(high, new(big.Float).SetPrec(128).Sub(top, big.NewFloat(1))) {
			return "int" + strconv.Itoa(bits)
		}
		whole := new(big.Float).SetPrec(128).SetMantExp(big.NewFloat(1), bits)
		if is(low, new(big.Float)) && is(high, new(big.Float).SetPrec(128).Sub(whole, big.NewFloat(1))) {
			return "uint" + strconv.Itoa(bits)
		}
	}
	if hasHigh && high.Cmp(new(big.Float).SetPrec(128).SetInt64(math.MaxInt64)) > 0 && hasLow && low.Sign() >= 0 {
		return "uint64"
	}
	return "int64"
}
