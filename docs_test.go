package iii_test

import (
	"fmt"
	"go/ast"
	"go/doc"
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

// The documentation quotes code and lists parts of the repository. The tests in this file
// check the quotes and the lists.

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// section returns the text between a heading and the next heading of the same level.
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

// rows returns the cells of all tables in text, without the header rows.
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

// shortestProgram returns the program that README.md and doc.go quote.
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
			t.Errorf("README.md does not contain %q", command)
		}
	}
}

// exportedTypes returns the package's exported types. The declared map also contains
// functions, methods and fields.
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

// README.md's table lists each type on the reference page once. A type's Go name must exist
// unless the table marks it as not yet available.
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
			t.Errorf("%s occurs twice", reference)
		}
		seen[reference] = true
		name, _, _ = strings.Cut(name, "[")
		if want := strings.Replace(reference, "Http", "HTTP", 1); name != want {
			t.Errorf("%s is called %s, not %s", reference, name, want)
		}
		switch missing := note == "not there yet"; {
		case missing && types[name]:
			t.Errorf("%s exists, but README.md marks it as missing", name)
		case !missing && !types[name]:
			t.Errorf("%s does not exist", name)
		}
		for _, m := range regexp.MustCompile("`([A-Z][A-Za-z.]+)`").FindAllStringSubmatch("`"+note+"`", -1) {
			for part := range strings.SplitSeq(m[1], ".") {
				if !declared[part] {
					t.Errorf("%s, in the note on %s, does not exist", m[1], name)
				}
			}
		}
	}
	want := map[string]int{"http": 5, "observability": 15, "queue": 1, "stream": 21, "worker_connection_manager": 8}
	if diff := cmp.Diff(want, modules); diff != "" {
		t.Errorf("types by module (-want +got):\n%s", diff)
	}
}

// DESIGN.md's file map lists every source file, every top-level directory except internal, and
// every directory below internal. A row can be a pattern.
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
		t.Errorf("DESIGN.md lists %s, which does not exist", pattern)
	}
}

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

// Each example has a package comment, which go doc shows.
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

// Users copy examples into their own modules, so examples must build there and cannot import
// internal packages.
func TestExamplesBuildOutsideTheRepository(t *testing.T) {
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

// parsePackage parses the files in dir for which only(name) is true.
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

// declaredNames returns the names of all types, fields, functions, methods, constants and
// variables in the packages that pages of docs/ mention.
func declaredNames(t *testing.T) map[string]bool {
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

type exported struct {
	name string
	ways []string // an example uses the identifier if it contains one of these
}

// api returns the exported functions of the package in dir, the exported methods of its
// handwritten types, and the types that have such methods or constructors. Of the types
// generated from the schemas, it returns only trigger configs and types with constructors.
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
			if !generated[typ.Name] && !slices.Contains(interfaceMethods, m.Name) {
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

// interfaceMethods lists methods that need no example because they are called through
// interfaces.
var interfaceMethods = []string{
	"Error", "Unwrap", "Is", "String", "MarshalJSON", "UnmarshalJSON", "TriggerType",
	"ReadFrom", "WriteTo", "OnStart", "OnEnd", "ForceFlush", "Shutdown", "Export", "ExportSpans", "Temporality", "Aggregation",
}

// used returns the identifiers that examples of a package use: "F" stands for pkg.F, and ".M"
// for a method or field M of any type.
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

// Every exported name needs an example, or an entry below that says why it has none.
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

// The following tests check that the code on the pages in docs/ is quoted from code that is
// compiled and run.

// sources returns the bodies of the functions that documents may quote. Names in package
// iiitest have the prefix "iiitest.".
func sources(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, dir := range []string{".", "iiitest"} {
		files, err := filepath.Glob(filepath.Join(dir, "example*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			text := readFile(t, name)
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Recv != nil {
					continue
				}
				body := text[fset.Position(fn.Pos()).Offset:fset.Position(fn.End()).Offset]
				key := fn.Name.Name
				if dir != "." {
					key = dir + "." + key
				}
				found[key] = strings.Split(body, "\n")
			}
		}
	}
	return found
}

func dedent(lines []string) []string {
	shared := -1
	for _, line := range lines {
		if n := len(line) - len(strings.TrimLeft(line, "\t")); line != "" && (shared < 0 || n < shared) {
			shared = n
		}
	}
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = strings.TrimRight(line[min(max(shared, 0), len(line)):], " \t")
	}
	return out
}

// quoted checks that block consists of lines of source, in order. A line "// …" stands for
// omitted lines.
func quoted(block, source []string) error {
	var parts [][]string
	var part []string
	for _, line := range block {
		if mark := strings.TrimSpace(line); mark == "// …" || mark == "…" {
			parts, part = append(parts, part), nil
			continue
		}
		part = append(part, line)
	}
	parts = append(parts, part)
	for _, part := range parts {
		part = dedent(trimBlank(part))
		if len(part) == 0 {
			continue
		}
		at := -1
		for i := 0; i+len(part) <= len(source) && at < 0; i++ {
			if slices.Equal(part, dedent(source[i:i+len(part)])) {
				at = i
			}
		}
		if at < 0 {
			return fmt.Errorf("these lines are not there, or not after those before them:\n%s", strings.Join(part, "\n"))
		}
		source = source[at+len(part):]
	}
	return nil
}

func trimBlank(lines []string) []string {
	for len(lines) > 0 && strings.TrimSpace(lines[0]) == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

func TestQuoted(t *testing.T) {
	source := strings.Split("func Example() {\n\tif a {\n\t\tb()\n\n\t\tc()\n\t}\n\td()\n}", "\n")
	for block, want := range map[string]bool{
		"b()\n\nc()":             true,
		"if a {\n\tb()\n// …\n}": true,
		"// …\nd()":              true,
		"b()\nc()":               false, // omitted line without "// …"
		"d()\n// …\nb()":         false, // wrong order
		"if a {\nb()":            false, // different indentation
		"e()":                    false,
	} {
		if err := quoted(strings.Split(block, "\n"), source); (err == nil) != want {
			t.Errorf("%q: %v", block, err)
		}
	}
}

// pages lists the documents in docs/.
func pages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 10 {
		t.Errorf("there are %d pages", len(pages))
	}
	return pages
}

// Each Go block in README.md and on a page of docs/ follows a comment that names its source:
//
//	<!-- example: ExampleClient_Trigger -->
//	<!-- file: examples/worker/main.go -->
func TestPagesQuoteExamples(t *testing.T) {
	known := sources(t)
	mark := regexp.MustCompile(`^<!-- (example|file): (\S+) -->$`)
	for _, page := range append(pages(t), "README.md") {
		lines := strings.Split(readFile(t, page), "\n")
		for i := 0; i < len(lines); i++ {
			if lines[i] != "```go" {
				continue
			}
			begin := i + 1
			for i++; i < len(lines) && lines[i] != "```"; i++ {
			}
			block := lines[begin:min(i, len(lines))]
			m := mark.FindStringSubmatch(lines[max(begin-2, 0)])
			if m == nil {
				t.Errorf("%s:%d: no comment names the example that this block quotes", page, begin)
				continue
			}
			source := known[m[2]]
			if m[1] == "file" {
				source = strings.Split(readFile(t, m[2]), "\n")
			}
			if source == nil {
				t.Errorf("%s:%d: %s does not exist", page, begin, m[2])
				continue
			}
			if err := quoted(block, source); err != nil {
				t.Errorf("%s:%d: %s: %v", page, begin, m[2], err)
			}
		}
	}
}

// All code in package comments comes from examples, except the program at the start of doc.go
// (see TestPackageCommentQuotesTheWorker).
func TestPackageCommentsQuoteExamples(t *testing.T) {
	known := sources(t)
	for _, name := range []string{"doc.go", "iiitest/doc.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		var block []string
		blocks := 0
		for _, line := range append(strings.Split(f.Doc.Text(), "\n"), "end") {
			if strings.HasPrefix(line, "\t") || line == "" {
				block = append(block, line)
				continue
			}
			code := dedent(trimBlank(block))
			block = nil
			if len(code) == 0 || code[0] == "package main" {
				continue
			}
			blocks++
			found := false
			for _, source := range known {
				found = found || quoted(code, source) == nil
			}
			if !found {
				t.Errorf("%s: no example contains this:\n%s", name, strings.Join(code, "\n"))
			}
		}
		if blocks < 2 {
			t.Errorf("%s has %d code blocks", name, blocks)
		}
	}
}

// Links resolve, including those to headings, and every page is reachable from the index.
func TestPagesLink(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code := regexp.MustCompile("(?ms)^```.*?^```$")
	linked := map[string]bool{"docs/README.md": true}
	all := append(pages(t), "README.md")
	for _, page := range all {
		prose := code.ReplaceAllString(readFile(t, page), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.HasPrefix(target, "https://") {
				continue
			}
			name := page
			if target != "" {
				name = filepath.ToSlash(filepath.Join(filepath.Dir(page), target))
			}
			if page == "docs/README.md" {
				linked[name] = true
			}
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(t, name), anchor) {
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
	}
	for _, page := range pages(t) {
		if !linked[page] {
			t.Errorf("docs/README.md does not link to %s", page)
		}
	}
}

// anchors returns the link targets of all headings on a page.
func anchors(t *testing.T, page string) (names []string) {
	t.Helper()
	code := false
	for line := range strings.Lines(readFile(t, page)) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if code || !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(heading, "")
		names = append(names, strings.ReplaceAll(heading, " ", "-"))
	}
	return names
}

// docs/guarantees.md names every test that checks a guarantee.
func TestGuaranteesPageNamesItsTests(t *testing.T) {
	page := readFile(t, "docs/guarantees.md")
	_, files := parsePackage(t, ".", func(name string) bool { return strings.HasPrefix(name, "promise_") })
	named := 0
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !regexp.MustCompile(`^TestR[0-9]`).MatchString(fn.Name.Name) {
				continue
			}
			if named++; !strings.Contains(page, "`"+fn.Name.Name+"`") {
				t.Errorf("docs/guarantees.md does not name %s", fn.Name.Name)
			}
		}
	}
	if named == 0 {
		t.Error("no guarantee has a test")
	}
}

// Every iii.Something on a page exists, and so do the tests, programs and files that the page
// cites as evidence.
func TestPagesNameWhatExists(t *testing.T) {
	_, declared := exportedTypes(t)
	for name := range declaredNames(t) {
		declared[name] = true
	}
	for _, page := range pages(t) {
		text := readFile(t, page)
		for _, m := range regexp.MustCompile("`(?:iii\\.)?([A-Z][A-Za-z0-9]+)(?:\\.([A-Z][A-Za-z0-9]+))?(?:\\(.*?\\))?`").FindAllStringSubmatch(text, -1) {
			for _, name := range m[1:] {
				if name != "" && !declared[name] {
					t.Errorf("%s names %s, but there is no %s", page, m[0], name)
				}
			}
		}
		for _, m := range regexp.MustCompile("`([a-z_./]+(?:\\.go|\\.md|/))`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(strings.TrimSuffix(m[1], "/")); err != nil {
				t.Errorf("%s names %s: %v", page, m[1], err)
			}
		}
	}
}
