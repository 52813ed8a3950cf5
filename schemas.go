package iii

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// schemaFiles holds the schemas. In them, the required keyword lists the properties that this
// package always writes. Other senders may omit required properties that have a default.
//
//go:embed schema/*.json
var schemaFiles embed.FS

// schemaHint is the keyword for code generator hints. Published schemas omit it.
const schemaHint = "goJSONSchema"

// schemaDef is a definition and the name of the file that contains it. References in the
// definition are relative to the file.
type schemaDef struct {
	file   string
	schema map[string]any
}

// schemaDefs returns the definitions of all schema files, keyed by name. Names are unique
// across files, because they are names of Go types.
var schemaDefs = sync.OnceValues(func() (map[string]schemaDef, error) {
	files, err := schemaFiles.ReadDir("schema")
	if err != nil {
		return nil, err
	}
	defs := make(map[string]schemaDef)
	for _, f := range files {
		b, err := schemaFiles.ReadFile("schema/" + f.Name())
		if err != nil {
			return nil, err
		}
		var doc struct {
			Defs map[string]map[string]any `json:"$defs"`
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber() // keeps a default of 2.0 unchanged
		if err := d.Decode(&doc); err != nil {
			return nil, fmt.Errorf("iii: schema %s: %w", f.Name(), err)
		}
		for name, schema := range doc.Defs {
			if other, ok := defs[name]; ok {
				return nil, fmt.Errorf("iii: definition %s is in schema %s and in %s", name, other.file, f.Name())
			}
			defs[name] = schemaDef{f.Name(), schema}
		}
	}
	return defs, nil
})

var ownPackage = reflect.TypeFor[ErrorBody]().PkgPath()

// hasDefinition reports whether t is a generated type with a definition. All generated types
// have one, except generic types.
func hasDefinition(t reflect.Type) bool {
	if t.PkgPath() != ownPackage {
		return false
	}
	defs, err := schemaDefs()
	_, ok := defs[t.Name()]
	return err == nil && ok
}

// schemaFor returns the JSON Schema of a generated type as a single document, without
// generator hints. The document's $defs contain the definitions that it refers to. schemaFor
// returns false for generic types and for types that are not generated.
func schemaFor(t reflect.Type) (json.RawMessage, bool) {
	if !hasDefinition(t) {
		return nil, false
	}
	schema, err := bundleSchema(t.Name())
	return schema, err == nil
}

// bundleSchema returns the named definition as a document that includes all definitions it
// refers to.
func bundleSchema(name string) (json.RawMessage, error) {
	doc, used, err := bundleDefinition(name)
	if err != nil {
		return nil, err
	}
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	if len(used) > 0 {
		doc["$defs"] = used
	}
	return json.Marshal(doc)
}

// bundleDefinition returns the named definition and the definitions that it refers to.
func bundleDefinition(name string) (schema, used map[string]any, err error) {
	defs, err := schemaDefs()
	if err != nil {
		return nil, nil, err
	}
	root, ok := defs[name]
	if !ok {
		return nil, nil, fmt.Errorf("iii: no definition of %s", name)
	}
	schema, used, err = bundleOf(root)
	if err != nil {
		return nil, nil, fmt.Errorf("iii: definition %s: %w", name, err)
	}
	return schema, used, nil
}

// bundleFile returns the whole file as a definition, and the definitions that it refers to.
func bundleFile(file string) (schema, used map[string]any, err error) {
	b, err := schemaFiles.ReadFile("schema/" + file)
	if err != nil {
		return nil, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&schema); err != nil {
		return nil, nil, fmt.Errorf("iii: schema %s: %w", file, err)
	}
	for _, keyword := range []string{"$schema", "$id", "title"} { // these describe the file
		delete(schema, keyword)
	}
	schema, used, err = bundleOf(schemaDef{file, schema})
	if err != nil {
		return nil, nil, fmt.Errorf("iii: schema %s: %w", file, err)
	}
	return schema, used, nil
}

func bundleOf(root schemaDef) (schema, used map[string]any, err error) {
	defs, err := schemaDefs()
	if err != nil {
		return nil, nil, err
	}
	b := bundle{defs: defs, used: make(map[string]any)}
	c, err := b.copy(root.schema, root.file)
	if err != nil {
		return nil, nil, err
	}
	return c.(map[string]any), b.used, nil
}

// bundle collects the definitions that a schema refers to.
type bundle struct {
	defs map[string]schemaDef
	used map[string]any
}

// copy returns a copy of v, a part of a schema in file. The copy has no generator hints, and
// its references point into the bundle.
func (b bundle) copy(v any, file string) (any, error) {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			c, err := b.copy(e, file)
			if err != nil {
				return nil, err
			}
			list[i] = c
		}
		return list, nil
	case map[string]any:
		object := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == schemaHint {
				continue
			}
			if k == "$ref" {
				ref, err := b.refer(v[k].(string), file)
				if err != nil {
					return nil, err
				}
				object[k] = ref
				continue
			}
			c, err := b.copy(v[k], file)
			if err != nil {
				return nil, err
			}
			object[k] = c
		}
		dropDefaulted(object)
		return object, nil
	}
	return v, nil
}

// refer adds the referenced definition to the bundle and returns a reference to it in the
// bundle.
func (b bundle) refer(ref, file string) (string, error) {
	other, name, ok := strings.Cut(ref, "#/$defs/")
	if !ok {
		return "", fmt.Errorf("reference %s does not lead to a definition", ref)
	}
	if other != "" {
		file = other
	}
	def, ok := b.defs[name]
	if !ok || def.file != file {
		return "", fmt.Errorf("reference %s leads nowhere", ref)
	}
	if _, ok := b.used[name]; !ok {
		b.used[name] = nil // ends the recursion for a definition that refers to itself
		schema, err := b.copy(def.schema, def.file)
		if err != nil {
			return "", err
		}
		b.used[name] = schema
	}
	return "#/$defs/" + name, nil
}

// dropDefaulted removes properties that have a default from the list of required properties.
func dropDefaulted(object map[string]any) {
	required, ok := object["required"].([]any)
	properties, _ := object["properties"].(map[string]any)
	if !ok {
		return
	}
	required = slices.DeleteFunc(required, func(name any) bool {
		property, _ := properties[name.(string)].(map[string]any)
		_, ok := property["default"]
		return ok
	})
	if len(required) == 0 {
		delete(object, "required")
	} else {
		object["required"] = required
	}
}
