package iii

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// definitions returns all schema definitions by name.
func definitions(t *testing.T) map[string]schemaDef {
	t.Helper()
	defs, err := schemaDefs()
	if err != nil {
		t.Fatal(err)
	}
	if len(defs) < 60 {
		t.Fatalf("only %d definitions", len(defs))
	}
	return defs
}

func declarations(t *testing.T, name string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The generator silently drops schema files that are missing from its command line, and
// definitions whose name is already taken.
func TestGeneratedTypesAreComplete(t *testing.T) {
	gen, err := os.ReadFile("gen.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(schemaFiles, "schema/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !regexp.MustCompile(` ` + regexp.QuoteMeta(path.Base(f)) + `\b`).Match(gen) {
			t.Errorf("%s is not on the command line in gen.go", f)
		}
	}
	out, err := os.ReadFile("types_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	defs := definitions(t)
	for name, def := range defs {
		if !bytes.Contains(out, []byte("\ntype "+name+" ")) {
			t.Errorf("definition %s of %s is not a type", name, def.file)
		}
	}
	types := 0
	for _, decl := range declarations(t, "types_gen.go").Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, spec := range g.Specs {
			types++
			name := spec.(*ast.TypeSpec).Name.Name
			if _, ok := defs[name]; !ok && name != "HTTPRequest" && name != "HTTPResponse" && name != "Observed" {
				t.Errorf("type %s has no definition", name)
			}
		}
	}
	t.Logf("%d definitions in %d files, %d generated types", len(defs), len(files), types)
}

// The generator emits fallback code if it cannot express a type or if a type's name is already
// taken. The generated file must not contain any.
func TestGeneratedFileIsSound(t *testing.T) {
	out, err := os.ReadFile("types_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`interface\{\}`, `(?m)^type \w+_\d+\b`, `(?m)^type \w+ \*`, `mapstructure`, `corresponds to the JSON schema field`} {
		if m := regexp.MustCompile(bad).Find(out); m != nil {
			t.Errorf("types_gen.go contains %q", m)
		}
	}
}

// Every schema has a description, which becomes a doc comment.
func TestSchemasAreDescribed(t *testing.T) {
	for name, def := range definitions(t) {
		description, _ := def.schema["description"].(string)
		if !strings.HasPrefix(description, name+" ") || !strings.HasSuffix(description, ".") {
			t.Errorf("%s: %s: description %q is not a doc comment", def.file, name, description)
		}
		checkProperties(t, def.file+": "+name, def.schema)
	}
	for _, file := range []string{"http_request.json", "http_response.json", "observed.json"} {
		checkProperties(t, file, readSchema(t, file))
	}
}

func checkProperties(t *testing.T, where string, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		if text, _ := property.(map[string]any)["description"].(string); !strings.HasSuffix(text, ".") {
			t.Errorf("%s: description of %s is %q", where, name, text)
		}
	}
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := properties[name.(string)]; !ok {
			t.Errorf("%s: required %s is no property", where, name)
		}
	}
}

func readSchema(t *testing.T, file string) map[string]any {
	t.Helper()
	b, err := schemaFiles.ReadFile("schema/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return schema
}

func TestSchemaIDs(t *testing.T) {
	files, err := fs.Glob(schemaFiles, "schema/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		schema := readSchema(t, path.Base(f))
		if got, want := schema["$id"], "https://github.com/iii-go/iii/"+f; got != want {
			t.Errorf("%s: $id is %q", f, got)
		}
		if got, want := schema["$schema"], "https://json-schema.org/draft/2020-12/schema"; got != want {
			t.Errorf("%s: $schema is %q", f, got)
		}
	}
}

// The generator does not declare enumeration constants, so enums.go must.
func TestEnumsMatchSchemas(t *testing.T) {
	want := make(map[string][]string)
	for name, def := range definitions(t) {
		oneOf, _ := def.schema["oneOf"].([]any)
		if def.schema["type"] != "string" || oneOf == nil {
			continue
		}
		for _, v := range oneOf {
			value := v.(map[string]any)
			constant, _, _ := strings.Cut(value["description"].(string), " ")
			want[name] = append(want[name], strings.TrimSuffix(constant, ":")+"="+value["const"].(string))
		}
	}
	// The schema omits these values, which occur only on the stream socket or in stream::send.
	want["StreamEventType"] = append(want["StreamEventType"],
		"StreamEventTypeSync=sync", "StreamEventTypeEvent=event", "StreamEventTypeUnauthorized=unauthorized")

	got := make(map[string][]string)
	for _, decl := range declarations(t, "enums.go").Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			name := v.Type.(*ast.Ident).Name
			got[name] = append(got[name], v.Names[0].Name+"="+value)
			if v.Doc.Text() == "" {
				t.Errorf("%s has no doc comment", v.Names[0].Name)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("constants (-want +got):\n%s", diff)
	}
}

// The tables of union variants match the schemas.
func TestUnionsMatchSchemas(t *testing.T) {
	tables := map[string][]string{
		"HTTPAuthConfig": slices.Sorted(maps.Keys(httpAuthVariants)),
		"TriggerAction":  slices.Sorted(maps.Keys(triggerActionVariants)),
		"UpdateOp":       slices.Sorted(maps.Keys(updateOpVariants)),
	}
	want := make(map[string][]string)
	defs := definitions(t)
	for name, def := range defs {
		oneOf, _ := def.schema["oneOf"].([]any)
		for _, v := range oneOf {
			ref, ok := v.(map[string]any)["$ref"].(string)
			if !ok {
				continue
			}
			variant := defs[strings.TrimPrefix(ref, "#/$defs/")].schema
			tag := variant["properties"].(map[string]any)["type"].(map[string]any)
			want[name] = append(want[name], tag["const"].(string))
		}
		slices.Sort(want[name])
		if want[name] == nil {
			delete(want, name)
		}
	}
	if diff := cmp.Diff(want, tables); diff != "" {
		t.Errorf("unions (-want +got):\n%s", diff)
	}
}

func TestSchemaFor(t *testing.T) {
	got, ok := schemaFor(reflect.TypeFor[StreamUpdateInput]())
	if !ok {
		t.Fatal("no schema")
	}
	var schema struct {
		Schema string         `json:"$schema"`
		Defs   map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(got, &schema); err != nil {
		t.Fatal(err)
	}
	want := []string{"JSONValue", "MergePath", "UpdateAppend", "UpdateDecrement", "UpdateIncrement", "UpdateMerge", "UpdateOp", "UpdateOpType", "UpdateRemove", "UpdateSet"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(schema.Defs))); diff != "" {
		t.Errorf("$defs (-want +got):\n%s", diff)
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[HTTPRequest[JSONValue]](), reflect.TypeFor[JSONValue](), reflect.TypeFor[StringMap](),
		reflect.TypeFor[struct{}](), reflect.TypeFor[string](), reflect.TypeFor[*ErrorBody](), reflect.TypeFor[schemaDef](),
	} {
		if s, ok := schemaFor(typ); ok {
			t.Errorf("%v has schema %s", typ, s)
		}
	}
}

// A property with a default may be omitted, so it must not be required.
func TestBundledSchemaRequiresNoDefaults(t *testing.T) {
	got, err := bundleSchema("AuthResult")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(got, []byte(`"required"`)) {
		t.Errorf("every property of AuthResult is optional: %s", got)
	}
	if got, err = bundleSchema("UpdateSet"); err != nil {
		t.Fatal(err)
	}
	if want := []byte(`"required":["type","path"]`); !bytes.Contains(got, want) {
		t.Errorf("no %s in %s", want, got)
	}
}

func TestBundledSchemasAreWhole(t *testing.T) {
	for name := range definitions(t) {
		b, err := bundleSchema(name)
		if err != nil {
			t.Error(err)
			continue
		}
		var schema map[string]any
		if err := json.Unmarshal(b, &schema); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defs, _ := schema["$defs"].(map[string]any)
		used := make(map[string]bool)
		walkSchema(schema, func(key string, v any) {
			switch key {
			case schemaHint:
				t.Errorf("%s: a hint has not been removed", name)
			case "$ref":
				def, ok := strings.CutPrefix(v.(string), "#/$defs/")
				if _, found := defs[def]; !ok || !found {
					t.Errorf("%s: reference %v cannot be resolved", name, v)
				}
				used[def] = true
			}
		})
		if len(used) != len(defs) {
			t.Errorf("%s: %d definitions, %d of them in use", name, len(defs), len(used))
		}
	}
}

func walkSchema(v any, f func(key string, v any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			walkSchema(e, f)
		}
	case map[string]any:
		for k, e := range v {
			f(k, e)
			walkSchema(e, f)
		}
	}
}
