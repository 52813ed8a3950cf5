// Package schemas validates JSON against the JSON Schemas in the directory schema: the values
// written by the generated types, and the recorded messages between an engine and its workers.
// The validator shares no code with the generator.
package schemas

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	schemaDir  = "../../../schema"
	baseURL    = "https://github.com/iii-go/iii/schema/"
	metaSchema = "https://json-schema.org/draft/2020-12/schema"
)

// definition is a definition in a schema file.
type definition struct {
	url    string
	schema map[string]any
}

func (d definition) required() []string {
	list, _ := d.schema["required"].([]any)
	var keys []string
	for _, k := range list {
		keys = append(keys, k.(string))
	}
	return keys
}

// properties returns the schemas of the definition's named properties.
func (d definition) properties() map[string]map[string]any {
	object, _ := d.schema["properties"].(map[string]any)
	properties := make(map[string]map[string]any)
	for k, v := range object {
		properties[k] = v.(map[string]any)
	}
	return properties
}

// constants returns the constant strings that properties must have, by key.
func (d definition) constants() map[string]string {
	constants := make(map[string]string)
	for k, property := range d.properties() {
		if value, ok := property["const"].(string); ok {
			constants[k] = value
		}
	}
	return constants
}

func (d definition) enum() []string {
	var values []string
	oneOf, _ := d.schema["oneOf"].([]any)
	for _, v := range oneOf {
		if value, ok := v.(map[string]any)["const"].(string); ok {
			values = append(values, value)
		}
	}
	return values
}

// schemaSet holds all schemas, compiled.
type schemaSet struct {
	documents   map[string]any // by file
	definitions map[string]definition
	compiler    *jsonschema.Compiler
	compiled    map[string]*jsonschema.Schema // by definition
}

var loadSchemas = sync.OnceValues(func() (*schemaSet, error) {
	files, err := filepath.Glob(filepath.Join(schemaDir, "*.json"))
	if err != nil {
		return nil, err
	}
	s := &schemaSet{
		documents:   make(map[string]any),
		definitions: make(map[string]definition),
		compiler:    jsonschema.NewCompiler(),
		compiled:    make(map[string]*jsonschema.Schema),
	}
	s.compiler.AssertFormat()
	s.compiler.AssertContent()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		name := filepath.Base(file)
		s.documents[name] = doc
		if err := s.compiler.AddResource(baseURL+name, doc); err != nil {
			return nil, err
		}
		root := doc.(map[string]any)
		defs, _ := root["$defs"].(map[string]any)
		for def, schema := range defs {
			s.definitions[def] = definition{baseURL + name + "#/$defs/" + def, schema.(map[string]any)}
		}
		if root["properties"] != nil {
			title := map[string]string{"http_request.json": "HTTPRequest", "http_response.json": "HTTPResponse", "observed.json": "Observed"}[name]
			s.definitions[title] = definition{baseURL + name, root}
		}
	}
	for name, def := range s.definitions {
		if s.compiled[name], err = s.compiler.Compile(def.url); err != nil {
			return nil, err
		}
	}
	return s, nil
})

func schemas(t *testing.T) *schemaSet {
	t.Helper()
	s, err := loadSchemas()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate returns an error unless a JSON document satisfies the named definition.
func (s *schemaSet) validate(definition string, doc []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return err
	}
	return s.compiled[definition].Validate(instance)
}

func TestSchemasAreValid(t *testing.T) {
	s := schemas(t)
	meta, err := s.compiler.Compile(metaSchema)
	if err != nil {
		t.Fatal(err)
	}
	for file, doc := range s.documents {
		if err := meta.Validate(doc); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if id := doc.(map[string]any)["$id"]; id != baseURL+file {
			t.Errorf("%s: $id is %v", file, id)
		}
	}
	t.Logf("%d files, %d definitions", len(s.documents), len(s.definitions))
}

// If the metaschema accepted invalid schemas, the previous test would prove nothing.
func TestMetaschemaRejectsInvalidSchemas(t *testing.T) {
	meta, err := schemas(t).compiler.Compile(metaSchema)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{`{"type":"strnig"}`, `{"required":"a"}`, `{"$defs":{"a":{"properties":[]}}}`, `[]`} {
		instance, err := jsonschema.UnmarshalJSON(strings.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		if meta.Validate(instance) == nil {
			t.Errorf("the metaschema takes %s", doc)
		}
	}
}

func TestTypesAreComplete(t *testing.T) {
	want := slices.Sorted(maps.Keys(schemas(t).definitions))
	got := slices.Sorted(maps.Keys(types))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("types (-definitions +table):\n%s", diff)
	}
	for name, typ := range types {
		if base, _, _ := strings.Cut(typ.Name(), "["); base != name && !aliases[name] {
			t.Errorf("%s stands for %v", name, typ)
		}
	}
}

// aliases holds the definitions whose Go types have other names.
var aliases = map[string]bool{
	"JSONValue": true, "StringMap": true, "StringList": true, "StringListMap": true,
	"StateSetResult": true, "StateUpdateResult": true,
}
