package recorded_test

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

var update = flag.Bool("update", false, "write the catalog of package iii's types and the README")

// ownCatalog is the catalog of functions that use the types of package iii.
const ownCatalog = "own/iiigen_catalog.json"

// ownType pairs a data type of package iii with the types that iiigen generated from its
// schemas.
type ownType struct {
	name                string
	own, in, out        reflect.Type
	serveOwn, serveMade func(*iii.Client) (*iii.Function, error)
}

func pair[Own, In, Out any](name string) ownType {
	return ownType{name, reflect.TypeFor[Own](), reflect.TypeFor[In](), reflect.TypeFor[Out](),
		func(c *iii.Client) (*iii.Function, error) { return iii.Handle(c, "own::"+name, reply[Own, Own]) },
		func(c *iii.Client) (*iii.Function, error) { return iii.Handle(c, "own::"+name, reply[In, Out]) }}
}

// advertised serves a function for each of ownTypes and returns their details from the engine.
func advertised(t *testing.T, serve func(ownType) func(*iii.Client) (*iii.Function, error)) map[string]iii.FunctionDetail {
	t.Helper()
	c := connect(t)
	details := make(map[string]iii.FunctionDetail)
	for _, o := range ownTypes {
		f, err := serve(o)(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		if details[o.name], err = c.FunctionInfo(t.Context(), "own::"+o.name); err != nil {
			t.Fatal(err)
		}
	}
	return details
}

func TestOwnTypesAreAllCompared(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../../../types_gen.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]bool)
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
			for _, s := range g.Specs {
				if s := s.(*ast.TypeSpec); s.Assign == 0 {
					want[s.Name.Name] = true
				}
			}
		}
	}
	got := make(map[string]bool)
	for _, o := range ownTypes {
		got[o.name] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("make recorded lists the types again (-types_gen.go +compared):\n%s", diff)
	}
}

// The schemas inferred from generated types equal those from which the types were generated.
func TestOwnSchemasSurviveTheirGeneratedTypes(t *testing.T) {
	before := advertised(t, func(o ownType) func(*iii.Client) (*iii.Function, error) { return o.serveOwn })
	if *update {
		writeOwnCatalog(t, before)
	}
	after := advertised(t, func(o ownType) func(*iii.Client) (*iii.Function, error) { return o.serveMade })
	for _, o := range ownTypes {
		if diff := cmp.Diff(plain(t, before[o.name].RequestSchema), plain(t, after[o.name].RequestSchema)); diff != "" {
			t.Errorf("%s: request (-package iii +generated):\n%s", o.name, diff)
		}
		if diff := cmp.Diff(plain(t, before[o.name].ResponseSchema), plain(t, after[o.name].ResponseSchema)); diff != "" {
			t.Errorf("%s: response (-package iii +generated):\n%s", o.name, diff)
		}
	}
}

func writeOwnCatalog(t *testing.T, details map[string]iii.FunctionDetail) {
	t.Helper()
	type entry struct {
		ID       string          `json:"id"`
		Request  json.RawMessage `json:"request_schema"`
		Response json.RawMessage `json:"response_schema"`
	}
	catalog := struct {
		Version   int     `json:"version"`
		Functions []entry `json:"functions"`
	}{Version: 1}
	for _, name := range slices.Sorted(maps.Keys(details)) {
		catalog.Functions = append(catalog.Functions, entry{"own::" + name, details[name].RequestSchema, details[name].ResponseSchema})
	}
	raw, err := json.MarshalIndent(catalog, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ownCatalog, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Generated types decode values of the original types and encode them identically.
func TestOwnValuesSurviveTheirGeneratedTypes(t *testing.T) {
	tags := make(map[string]string)
	for _, r := range recordings(t, "own") {
		var schema struct {
			Properties struct {
				Type struct {
					Const string `json:"const"`
				} `json:"type"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(r.Request, &schema); err != nil {
			t.Fatal(err)
		}
		tags[strings.TrimPrefix(r.ID, "own::")] = schema.Properties.Type.Const
	}
	var unencodable []string
	for _, o := range ownTypes {
		for _, filled := range []bool{false, true} {
			v := reflect.New(o.own)
			if filled {
				fill(v.Elem(), 0)
			}
			if o.own == reflect.TypeFor[iii.OtelMessage]() && !filled {
				continue // encodes as null, which the schema does not allow
			}
			if tag := tags[o.name]; tag != "" { // the only tag that the schema allows
				v.Elem().FieldByName("Type").SetString(tag)
			}
			raw, err := json.Marshal(v.Interface())
			if err != nil { // a union without a variant cannot be encoded
				unencodable = append(unencodable, o.name)
				continue
			}
			for _, typ := range []reflect.Type{o.in, o.out} {
				made := reflect.New(typ)
				if err := json.Unmarshal(raw, made.Interface()); err != nil {
					t.Errorf("%s: %s does not decode into %v: %v", o.name, raw, typ, err)
					continue
				}
				again, err := json.Marshal(made.Interface())
				if err != nil {
					t.Errorf("%s: %v: %v", o.name, typ, err)
					continue
				}
				if diff := cmp.Diff(plain(t, raw), plain(t, again)); diff != "" {
					t.Errorf("%v changes values of iii.%s (-iii +generated):\n%s", typ, o.name, diff)
				}
			}
		}
	}
	unencodable = slices.Compact(unencodable)
	t.Logf("without a value: %s", strings.Join(unencodable, ", "))
	if len(unencodable) > len(ownTypes)/10 {
		t.Errorf("%d types have no value to compare", len(unencodable))
	}
}

// fill sets all exported fields to nonzero values.
func fill(v reflect.Value, depth int) {
	if depth > 6 {
		return
	}
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		v.SetBytes([]byte(`{"any":[1,"x",null,true]}`))
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 5, 4, 12, 30, 0, 5, time.UTC)))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, depth+1)
		fill(e, depth+1)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth+1)
			}
		}
	}
}
