package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// exports returns the export data files of the packages that generated code imports.
var exports = sync.OnceValues(func() (map[string]string, error) {
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}} {{.Export}}{{end}}", "github.com/iii-go/iii").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[path] = file
	}
	return all, nil
})

// packagesOf returns an importer that reads the export data files. All tests share it.
var packagesOf = sync.OnceValues(func() (types.Importer, error) {
	files, err := exports()
	if err != nil {
		return nil, err
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(files[path])
	}), nil
})

var importing sync.Mutex // importers are not safe for concurrent use

// compile type-checks generated files and checks that gofmt leaves them unchanged.
func compile(t testing.TB, files map[string][]byte) *types.Package {
	t.Helper()
	imports, err := packagesOf()
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if filepath.Ext(name) != ".go" {
			continue
		}
		formatted, err := format.Source(files[name])
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, files[name])
		}
		if !bytes.Equal(formatted, files[name]) {
			t.Errorf("%s: gofmt changes it", name)
		}
		f, err := parser.ParseFile(fset, name, files[name], parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	importing.Lock()
	defer importing.Unlock()
	config := types.Config{Importer: imports}
	pkg, err := config.Check("generated", fset, parsed, nil)
	if err != nil {
		var wrong types.Error
		if errors.As(err, &wrong) {
			at := wrong.Fset.Position(wrong.Pos)
			lines := strings.Split(string(files[at.Filename]), "\n")
			t.Logf("%s:\n%s", at, strings.Join(lines[max(0, at.Line-5):min(len(lines), at.Line+5)], "\n"))
		}
		t.Fatalf("the generated code does not compile: %v", err)
	}
	return pkg
}

func generate(t testing.TB, c *catalog) (map[string][]byte, *generation) {
	t.Helper()
	g := &generation{pkg: "clients", catalog: c}
	if err := g.prepare(); err != nil {
		t.Fatal(err)
	}
	files, err := g.files()
	if err != nil {
		t.Fatal(err)
	}
	return files, g
}

// fn returns a function with the given id and schemas.
func fn(id, request, response string) function {
	return function{ID: id, Namespace: "default", Worker: "w", Request: json.RawMessage(request), Response: json.RawMessage(response)}
}

// goTypes returns the types that a package declares, by name.
func goTypes(pkg *types.Package) map[string]string {
	all := make(map[string]string)
	for _, name := range pkg.Scope().Names() {
		if tn, ok := pkg.Scope().Lookup(name).(*types.TypeName); ok {
			t := tn.Type()
			if !tn.IsAlias() {
				t = t.Underlying()
			} else {
				t = types.Unalias(t)
			}
			text := types.TypeString(t, func(p *types.Package) string {
				if p == pkg {
					return ""
				}
				return p.Name()
			})
			all[name] = strings.ReplaceAll(text, "jsontext.Value", "json.RawMessage") // an alias in Go 1.27
		}
	}
	return all
}

func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}
