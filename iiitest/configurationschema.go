package iiitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// configurationSchema is the JSON Schema of a configuration entry.
type configurationSchema struct {
	text     json.RawMessage
	resolved *jsonschema.Resolved
}

// draft07 is the version under which older ones are read too; all others are
// read as 2020-12.
const draft07 = "http://json-schema.org/draft-07/schema#"

// parseConfigurationSchema reads a schema. It takes references within the
// document by path only (#/$defs/name); patterns are those of package regexp.
func parseConfigurationSchema(text json.RawMessage) (*configurationSchema, error) {
	var s jsonschema.Schema
	if k := kindOf(text); k != '{' && k != 't' && k != 'f' || json.Unmarshal(text, &s) != nil {
		return nil, errors.New("it is no JSON Schema")
	}
	older := func(version string) bool { return strings.Contains(s.Schema, version) }
	if slices.ContainsFunc([]string{"draft-04", "draft-06", "draft-07"}, older) {
		s.Schema = draft07
	} else {
		s.Schema = ""
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		return nil, err
	}
	// The schema as the library understood it, with the keywords in its spelling.
	understood, err := json.Marshal(&s)
	if err != nil {
		return nil, err
	}
	c := schemaChecker{seen: map[string]bool{}}
	if err := json.Unmarshal(understood, &c.root); err != nil {
		return nil, err
	}
	if err := c.run(); err != nil {
		return nil, err
	}
	return &configurationSchema{text, resolved}, nil
}

// validate says why a value is none of the schema.
func (s *configurationSchema) validate(value json.RawMessage) error {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	return s.resolved.Validate(v)
}

// schemaChecker looks for what the library does not look for: unknown types, and
// schemas that lead back to themselves at the same place of a value, which it
// would follow until the process dies.
type schemaChecker struct {
	root  any
	seen  map[string]bool // by path; false while the search is below it
	later []string        // paths of schemas for other places of a value
}

func (c *schemaChecker) run() error {
	c.later = []string{""}
	for len(c.later) > 0 {
		path := c.later[0]
		c.later = c.later[1:]
		if err := c.check(path); err != nil {
			return err
		}
	}
	return nil
}

// Keywords that hold a schema, or a list or an object of schemas, and the types.
var (
	samePlace  = []string{"not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies"}
	otherPlace = []string{
		"additionalProperties", "additionalItems", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
		"items", "prefixItems", "properties", "patternProperties", "$defs", "definitions",
	}
	ofMany      = []string{"dependentSchemas", "dependencies", "properties", "patternProperties", "$defs", "definitions"} // of an object, each member
	schemaTypes = []string{"null", "boolean", "object", "array", "number", "integer", "string"}
)

// check looks at the schema at a path and at those that hold at the same place
// of a value; the others are for later.
func (c *schemaChecker) check(path string) error {
	schema, ok := c.at(path).(map[string]any)
	if !ok {
		return nil // true, false, or the names of a dependency
	}
	if over, seen := c.seen[path]; seen {
		if !over {
			return fmt.Errorf("%q leads back to itself", "#"+path)
		}
		return nil
	}
	c.seen[path] = false
	if schema["$dynamicRef"] != nil || path != "" && schema["$id"] != nil {
		return errors.New("$dynamicRef and an $id within the schema are not supported")
	}
	if err := knownTypes(schema["type"]); err != nil {
		return err
	}
	for _, keyword := range samePlace {
		for _, sub := range subschemas(path, keyword, schema[keyword]) {
			if err := c.check(sub); err != nil {
				return err
			}
		}
	}
	for _, keyword := range otherPlace {
		c.later = append(c.later, subschemas(path, keyword, schema[keyword])...)
	}
	if ref, ok := schema["$ref"].(string); ok {
		target, err := refPath(ref)
		if err != nil {
			return err
		}
		if err := c.check(target); err != nil {
			return err
		}
	}
	c.seen[path] = true
	return nil
}

func knownTypes(types any) error {
	list, ok := types.([]any)
	if !ok {
		list = []any{types}
	}
	for _, t := range list {
		if name, ok := t.(string); ok && !slices.Contains(schemaTypes, name) {
			return fmt.Errorf("%q is no type", name)
		}
	}
	return nil
}

// subschemas are the paths of the schemas that a keyword holds.
func subschemas(path, keyword string, value any) []string {
	at := path + "/" + keyword
	var paths []string
	switch v := value.(type) {
	case []any:
		for i := range v {
			paths = append(paths, at+"/"+strconv.Itoa(i))
		}
	case map[string]any:
		if !slices.Contains(ofMany, keyword) {
			return []string{at}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			paths = append(paths, at+"/"+escapePath(name))
		}
	}
	return paths
}

var (
	pathEscaper   = strings.NewReplacer("~", "~0", "/", "~1")
	pathUnescaper = strings.NewReplacer("~1", "/", "~0", "~")
)

func escapePath(name string) string { return pathEscaper.Replace(name) }

// refPath is the path that a reference names.
func refPath(ref string) (string, error) {
	path, err := url.PathUnescape(strings.TrimPrefix(ref, "#"))
	if err != nil || !strings.HasPrefix(ref, "#") || path != "" && path[0] != '/' {
		return "", fmt.Errorf("$ref %q is not supported: only a path within the schema is", ref)
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = escapePath(pathUnescaper.Replace(part))
	}
	return strings.Join(parts, "/"), nil
}

// at is what stands at a path.
func (c *schemaChecker) at(path string) any {
	node := c.root
	for _, part := range strings.Split(path, "/")[1:] {
		switch v := node.(type) {
		case map[string]any:
			node = v[pathUnescaper.Replace(part)]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			node = v[i]
		default:
			return nil
		}
	}
	return node
}
