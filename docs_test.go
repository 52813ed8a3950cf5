package iii_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The documents quote and list what is in the repository. These tests keep them true.

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// section returns the text below a heading, up to the next one of its level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	text, _, _ = strings.Cut(after, "\n"+level+" ")
	return text
}

// rows returns the cells of the tables in text, without heads.
func rows(text string) (cells [][]string) {
	body := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			body = false
		case strings.HasPrefix(line, "|-"):
			body = true
		case body:
			var row []string
			for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
				row = append(row, strings.Trim(strings.TrimSpace(cell), "`"))
			}
			cells = append(cells, row)
		}
	}
	return cells
}

// shortestProgram is the example that README.md and doc.go quote.
func shortestProgram(t *testing.T) string {
	t.Helper()
	_, program, ok := strings.Cut(readFile(t, "examples/worker/main.go"), "\npackage main\n")
	if !ok {
		t.Fatal("examples/worker/main.go has no package comment")
	}
	return "package main\n" + program
}

func TestReadmeQuotesTheWorker(t *testing.T) {
	var quoted []string
	for _, m := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		quoted = append(quoted, m[1])
	}
	if diff := cmp.Diff([]string{shortestProgram(t)}, quoted[:min(1, len(quoted))]); diff != "" {
		t.Errorf("first program in README.md (-example +README):\n%s", diff)
	}
}

func TestPackageCommentQuotesTheWorker(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var quoted strings.Builder
	for line := range strings.Lines(f.Doc.Text()) {
		code, isCode := strings.CutPrefix(line, "\t")
		switch {
		case isCode:
			quoted.WriteString(code)
		case strings.TrimSpace(line) == "":
			quoted.WriteString("\n")
		case strings.HasPrefix(quoted.String(), "\npackage main"):
			got := strings.TrimSpace(quoted.String()) + "\n"
			if diff := cmp.Diff(shortestProgram(t), got); diff != "" {
				t.Errorf("program in doc.go (-example +doc.go):\n%s", diff)
			}
			return
		default:
			quoted.Reset()
		}
	}
	t.Error("doc.go has no program")
}

func TestReadmeStates(t *testing.T) {
	readme := readFile(t, "README.md")
	for _, command := range []string{"go run ./examples/quickstart", "go test ./..."} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(command) + `( |$)`).MatchString(section(t, readme, "## Try it")) {
			t.Errorf("README.md does not say %q", command)
		}
	}
}

// exportedTypes parses the package for the names of its exported types; declared has
// those of its functions and of the fields of its types as well.
func exportedTypes(t *testing.T) (types, declared map[string]bool) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	types, declared = map[string]bool{}, map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				types[n.Name.Name] = n.Name.IsExported()
				declared[n.Name.Name] = true
			case *ast.FuncDecl:
				declared[n.Name.Name] = true
				return false
			case *ast.Field:
				for _, name := range n.Names {
					declared[name.Name] = true
				}
			}
			return true
		})
	}
	return types, declared
}

// The table of the reference page names each of its types once, under a Go name that
// exists unless the table says that it is not there yet.
func TestReadmeTypes(t *testing.T) {
	types, declared := exportedTypes(t)
	modules := map[string]int{}
	seen := map[string]bool{}
	for _, row := range rows(section(t, readFile(t, "README.md"), "## The types of the reference page")) {
		if len(row) != 4 {
			t.Errorf("row %q has %d cells", row, len(row))
			continue
		}
		module, reference, name, note := row[0], row[1], row[2], row[3]
		modules[module]++
		if seen[reference] {
			t.Errorf("%s is there twice", reference)
		}
		seen[reference] = true
		name, _, _ = strings.Cut(name, "[")
		if want := strings.Replace(reference, "Http", "HTTP", 1); name != want {
			t.Errorf("%s is called %s, not %s", reference, name, want)
		}
		switch missing := note == "not there yet"; {
		case missing && types[name]:
			t.Errorf("%s is there, and README.md says that it is not", name)
		case !missing && !types[name]:
			t.Errorf("%s is not there", name)
		}
		for _, m := range regexp.MustCompile("`([A-Z][A-Za-z.]+)`").FindAllStringSubmatch("`"+note+"`", -1) {
			for part := range strings.SplitSeq(m[1], ".") {
				if !declared[part] {
					t.Errorf("%s, in the note on %s, is not there", m[1], name)
				}
			}
		}
	}
	want := map[string]int{"http": 5, "observability": 15, "queue": 1, "stream": 21, "worker_connection_manager": 8}
	if diff := cmp.Diff(want, modules); diff != "" {
		t.Errorf("types by module (-want +got):\n%s", diff)
	}
}

// DESIGN.md lists each source file and each directory, those below internal one by one,
// some by a pattern, and nothing else.
func TestDesignFiles(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	below, err := os.ReadDir("internal")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		isSource := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if strings.HasPrefix(name, ".") || name == "bin" || name == "internal" || !e.IsDir() && !isSource {
			continue
		}
		names = append(names, name)
	}
	for _, e := range below {
		names = append(names, "internal/"+e.Name())
	}
	unused := map[string]bool{}
	for _, row := range rows(section(t, readFile(t, "DESIGN.md"), "## File map")) {
		for name := range strings.SplitSeq(row[0], ", ") {
			unused[strings.Trim(name, "`")] = true
		}
	}
	listed := slices.Collect(maps.Keys(unused))
	for _, name := range names {
		found := false
		for _, pattern := range listed {
			if ok, err := path.Match(pattern, name); err != nil {
				t.Fatal(err)
			} else if ok {
				found = true
				delete(unused, pattern)
			}
		}
		if !found {
			t.Errorf("DESIGN.md does not list %s", name)
		}
	}
	for pattern := range unused {
		t.Errorf("DESIGN.md lists %s, which is not there", pattern)
	}
}

// A file that a document names is there.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	for _, doc := range []string{"README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text := readFile(t, doc)
		links := regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(text, -1)
		paths := regexp.MustCompile("`([a-z_./]+(?:\\.go|\\.md|\\.sh|/run|go\\.mod|/))`").FindAllStringSubmatch(text, -1)
		for _, m := range append(links, paths...) {
			name := strings.TrimSuffix(m[1], "/")
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s names %s: %v", doc, m[1], err)
			}
		}
		if len(links)+len(paths) == 0 && doc != "CHANGELOG.md" {
			t.Errorf("%s names no file", doc)
		}
	}
}

// The go command documents every example.
func TestExamplesHaveDocumentation(t *testing.T) {
	documented := map[string]bool{}
	files, err := filepath.Glob("examples/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(name)
		documented[dir] = documented[dir] || len(f.Doc.Text()) > 80
	}
	if len(documented) < 10 {
		t.Errorf("only %d examples were found", len(documented))
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// An example can be copied out of the repository: it builds in a module of its own, and neither
// it nor its test imports what no other module may.
func TestExamplesBuildOutsideOfTheRepository(t *testing.T) {
	files, err := filepath.Glob("examples/*/*.go")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	for _, name := range files {
		text := readFile(t, name)
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range f.Imports {
			if strings.Contains(imported.Path.Value, "/internal/") {
				t.Errorf("%s imports %s", name, imported.Path.Value)
			}
		}
	}
	programs, err := filepath.Glob("examples/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range programs {
		if err := os.CopyFS(filepath.Join(copied, filepath.Base(dir)), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	module := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(readFile(t, "go.mod"), "module copied")
	module += "\nrequire github.com/iii-go/iii v0.0.0\n\nreplace github.com/iii-go/iii => " + strconv.Quote(filepath.ToSlash(root)) + "\n"
	for name, text := range map[string]string{"go.mod": module, "go.sum": readFile(t, "go.sum")} {
		if err := os.WriteFile(filepath.Join(copied, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "vet", "-mod=mod", "./...")
	build.Dir = copied
	build.Env = append(os.Environ(), "GOWORK=off", "GOPROXY=off", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
