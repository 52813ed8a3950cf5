package iii_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The pages of docs/ quote code that is compiled and run. These tests keep them true.

// sources are the bodies of the examples and tests that documents may quote, by name:
// Example… and Test… of this package, iiitest.Example… and iiitest.Test….
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

// dedent takes the indentation that all lines share from them.
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

// quoted checks that block consists of lines of source, in order. Where lines of
// the source are left out, the block has a line "// …".
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
		"b()\nc()":               false, // a line is missing and no mark says so
		"d()\n// …\nb()":         false, // not in order
		"if a {\nb()":            false, // indented otherwise
		"e()":                    false,
	} {
		if err := quoted(strings.Split(block, "\n"), source); (err == nil) != want {
			t.Errorf("%q: %v", block, err)
		}
	}
}

// pages are the documents below docs/.
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

// Each block of Go on a page, and in README.md, has a comment before it that says what it quotes:
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
				t.Errorf("%s:%d: nothing says what this block quotes", page, begin)
				continue
			}
			source := known[m[2]]
			if m[1] == "file" {
				source = strings.Split(readFile(t, m[2]), "\n")
			}
			if source == nil {
				t.Errorf("%s:%d: %s is not there", page, begin, m[2])
				continue
			}
			if err := quoted(block, source); err != nil {
				t.Errorf("%s:%d: %s: %v", page, begin, m[2], err)
			}
		}
	}
}

// The code in the package comments is that of examples, apart from the program that
// doc.go begins with: see TestPackageCommentQuotesTheWorker.
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
				t.Errorf("%s: no example has this:\n%s", name, strings.Join(code, "\n"))
			}
		}
		if blocks < 2 {
			t.Errorf("%s has %d pieces of code", name, blocks)
		}
	}
}

// Links to files and their headings lead somewhere, and every page can be reached
// from the index.
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

// anchors are the names that a page's headings can be linked by.
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

// The page of guarantees names each test of one.
func TestPageOfGuaranteesNamesItsTests(t *testing.T) {
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
		t.Error("there is no test of a guarantee")
	}
}

// What the pages call iii.Something, and the tests, programs and files that they name
// as evidence, is there.
func TestPagesNameWhatExists(t *testing.T) {
	_, declared := exportedTypes(t)
	for name := range fieldsAndMethods(t) {
		declared[name] = true
	}
	for _, page := range pages(t) {
		text := readFile(t, page)
		for _, m := range regexp.MustCompile("`(?:iii\\.)?([A-Z][A-Za-z0-9]+)(?:\\.([A-Z][A-Za-z0-9]+))?(?:\\(.*?\\))?`").FindAllStringSubmatch(text, -1) {
			for _, name := range m[1:] {
				if name != "" && !declared[name] {
					t.Errorf("%s names %s, and there is no %s", page, m[0], name)
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
