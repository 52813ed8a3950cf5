package iii_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// parsePackage parses the package in dir; only tells files by their names.
func parsePackage(t *testing.T, dir string, only func(name string) bool) (*token.FileSet, []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if !only(filepath.Base(name)) {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return fset, files
}

func isSource(name string) bool { return !strings.HasSuffix(name, "_test.go") }

// fieldsAndMethods are the names of what the types of both packages have, and of
// their constants and variables.
func fieldsAndMethods(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{".", "iiitest", "internal/enginetest", "internal/otlpjson"} {
		_, files := parsePackage(t, dir, func(string) bool { return true })
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					names[n.Name.Name] = true
				case *ast.TypeSpec:
					names[n.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range n.Names {
						names[name.Name] = true
					}
				case *ast.Field:
					for _, name := range n.Names {
						names[name.Name] = true
					}
				}
				return true
			})
		}
	}
	return names
}

// exported is something that a package exports.
type exported struct {
	name string
	ways []string // what an example has one of if it shows this
}

// api lists what a package exports beside its data: functions, and types written by
// hand that have functions or methods, with these. Types from the schemas are data,
// unless they are configs of triggers.
func api(t *testing.T, dir string) (all []exported) {
	t.Helper()
	fset, files := parsePackage(t, dir, isSource)
	generated := map[string]bool{}
	for _, f := range files {
		if filepath.Base(fset.Position(f.Pos()).Filename) != "types_gen.go" {
			continue
		}
		for _, d := range f.Decls {
			if d, ok := d.(*ast.GenDecl); ok {
				for _, s := range d.Specs {
					if s, ok := s.(*ast.TypeSpec); ok {
						generated[s.Name.Name] = true
					}
				}
			}
		}
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/iii-go/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	function := func(f *doc.Func) exported { return exported{f.Name, []string{f.Name}} }
	for _, f := range p.Funcs {
		all = append(all, function(f))
	}
	for _, typ := range p.Types {
		whole := exported{typ.Name, []string{typ.Name}}
		trigger := false
		for _, f := range typ.Funcs {
			all = append(all, function(f))
			whole.ways = append(whole.ways, f.Name)
		}
		for _, m := range typ.Methods {
			trigger = trigger || m.Name == "TriggerType"
			if !generated[typ.Name] && !slices.Contains(ofInterfaces, m.Name) {
				ways := []string{"." + m.Name, typ.Name + "_" + m.Name}
				all = append(all, exported{typ.Name + "." + m.Name, ways})
				whole.ways = append(whole.ways, ways...)
			}
		}
		if len(whole.ways) > 1 || trigger {
			all = append(all, whole)
		}
	}
	return all
}

// ofInterfaces are methods that others call: of errors, encodings, readers, exporters
// and processors.
var ofInterfaces = []string{
	"Error", "Unwrap", "Is", "String", "MarshalJSON", "UnmarshalJSON", "TriggerType",
	"ReadFrom", "WriteTo", "OnStart", "OnEnd", "ForceFlush", "Shutdown", "Export", "ExportSpans", "Temporality", "Aggregation",
}

// used lists the identifiers of the examples of a package: F for package.F, and .M for
// a method or field M of anything.
func used(t *testing.T, dir, pkg string) map[string]bool {
	t.Helper()
	_, files := parsePackage(t, dir, func(name string) bool { return strings.HasPrefix(name, "example") && !isSource(name) })
	names := map[string]bool{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == pkg {
					names[s.Sel.Name] = true
				} else {
					names["."+s.Sel.Name] = true
				}
			}
			return true
		})
		for _, example := range doc.Examples(f) {
			names[example.Name] = true
		}
	}
	return names
}

// What is exported is used by an example, or has a reason here. Whoever adds something
// adds an example.
func TestEverythingHasAnExample(t *testing.T) {
	for dir, reasons := range map[string]map[string]string{
		".": {
			"FunctionsAvailableTrigger": "fires up to 5 s late; WorkersAvailableTrigger is used in the same way",
			"WithConnectionDialContext": "WithDialContext is used in the same way",
			"WithConnectionTLSConfig":   "WithTLSConfig is used in the same way",
		},
		"iiitest": {
			"Engine.LocalCalls":       "what workers report of themselves, every ten seconds",
			"Engine.Observers":        "the result of engine::observers::list",
			"Engine.SetLocalDispatch": "takes a bool, for the tests of an SDK",
			"Engine.StreamURL":        "the examples of package iii use it",
			"Protocol.MarshalText":    "for flag.TextVar, as UnmarshalText",
			"WithHTTPMiddleware":      "is used like the middleware functions of a route, of which package iii has an example",
			"WithLocalDispatch":       "takes a bool, for the tests of an SDK",
			"WithStreamAuth":          "the examples of package iii use it",
			"WithStrictProtocol":      "takes nothing",
		},
	} {
		pkg := strings.Replace(dir, ".", "iii", 1)
		t.Run(pkg, func(t *testing.T) {
			uses := used(t, dir, pkg)
			var without []string
			for _, e := range api(t, dir) {
				if !slices.ContainsFunc(e.ways, func(way string) bool { return uses[way] }) {
					without = append(without, e.name)
				}
			}
			slices.Sort(without)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(reasons)), without); diff != "" {
				t.Errorf("without an example (-listed here +found):\n%s", diff)
			}
		})
	}
}
