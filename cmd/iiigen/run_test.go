package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func iiigen(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out, &out)
	return out.String(), err
}

// tree returns the contents of all files below dir, keyed by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		all[filepath.ToSlash(rel)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

type order struct {
	Item     string    `json:"item"`
	Quantity int       `json:"quantity"`
	Note     *string   `json:"note,omitempty"`
	Placed   time.Time `json:"placed"`
}

type receipt struct {
	ID    string           `json:"id"`
	Lines iii.List[order]  `json:"lines"`
	Codes map[string]int64 `json:"codes"`
}

// provider is a trigger provider that never fires.
type provider struct{}

func (provider) Bind(context.Context, iii.TriggerBinding) error { return nil }
func (provider) Unbind(context.Context, string) error           { return nil }

func shop(t *testing.T) (url string, worker *iii.Client) {
	t.Helper()
	e, c := shopEngine(t)
	return e.URL(), c
}

func shopEngine(t *testing.T) (*iiitest.Engine, *iii.Client) {
	t.Helper()
	e := iiitest.Start(t, iiitest.WithProtocol(iiitest.Protocol023)) // this engine lists trigger types
	c, err := iii.New(e.URL(), iii.WithName("shop"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := iii.Handle(c, "orders::create", func(context.Context, order) (receipt, error) { return receipt{ID: "1"}, nil },
		iii.WithFunctionDescription("Places an order."), iii.WithFunctionMetadata(map[string]any{"errors": []string{"out_of_stock"}})); err != nil {
		t.Fatal(err)
	}
	if _, err := iii.Handle(c, "orders::cancel", func(context.Context, string) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.HandleFunc("billing::untyped", func(context.Context, json.RawMessage) (any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.HandleTriggerType(iii.TriggerType{ID: "orders::placed", Description: "Fires for each order.",
		ConfigSchema:  json.RawMessage(`{"type":"object","properties":{"min_quantity":{"type":"integer"}}}`),
		PayloadSchema: json.RawMessage(`{"type":"object","properties":{"item":{"type":"string"}},"required":["item"]}`)}, provider{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return e, c
}

func TestClientsOfARunningEngine(t *testing.T) {
	url, _ := shop(t)
	dir := filepath.Join(t.TempDir(), "clients")
	saved := filepath.Join(t.TempDir(), "catalog.json")
	if out, err := iiigen(t, "-url", url, "-functions", "orders::*,billing::*", "-package", "clients", "-out", dir, "-save", saved); err != nil {
		t.Fatal(err, out)
	}
	files := tree(t, dir)
	var names []string
	bytesOf := make(map[string][]byte)
	for name, content := range files {
		names = append(names, name)
		bytesOf[name] = []byte(content)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"billing_gen.go", "iiigen_catalog.json", "iiigen_gen.go", "orders_gen.go"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	pkg := compile(t, bytesOf)
	for _, want := range []string{
		"func (c Orders) Create(ctx context.Context, in CreateInput, opts ...iii.CallOption) (CreateOutput, error) {",
		"func (c Orders) SendCreate(ctx context.Context, in CreateInput, opts ...iii.CallOption) error {",
		"func (c Orders) EnqueueCreate(ctx context.Context, queue string, in CreateInput, opts ...iii.CallOption) (iii.EnqueueResult, error) {",
		"func (c Orders) TriggerPlaced(functionID string, config PlacedConfig, opts ...iii.TriggerOption) (*iii.Trigger, error) {",
		"handler func(context.Context, PlacedPayload) (any, error)",
		"func (c Orders) CheckSchemas(ctx context.Context) error {",
		"// Create calls the function \"orders::create\".\n//\n// Places an order.",
		`CreateCodeOutOfStock = "out_of_stock"`,
	} {
		if !strings.Contains(files["orders_gen.go"], want) {
			t.Errorf("orders_gen.go lacks %q", want)
		}
	}
	got := goTypes(pkg)
	for name, want := range map[string]string{
		"CreateInput":   `struct{Item string "json:\"item\""; Note *string "json:\"note,omitzero\""; Placed time.Time "json:\"placed\""; Quantity int "json:\"quantity\""}`,
		"CancelInput":   "string",
		"UntypedOutput": "",
		"PlacedConfig":  `struct{MinQuantity *int "json:\"min_quantity,omitzero\""}`,
		"PlacedPayload": `struct{Item string "json:\"item\""}`,
	} {
		if got[name] != want {
			t.Errorf("%s is %s; want %s", name, got[name], want)
		}
	}

	// The saved catalog must produce the same files.
	other := filepath.Join(t.TempDir(), "clients")
	if out, err := iiigen(t, "-catalog", saved, "-functions", "orders::*,billing::*", "-package", "clients", "-out", other); err != nil {
		t.Fatal(err, out)
	}
	if diff := cmp.Diff(files, tree(t, other)); diff != "" {
		t.Errorf("files of the saved catalog (-live +saved):\n%s", diff)
	}
	if out, err := iiigen(t, "-url", url, "-functions", "orders::*,billing::*", "-package", "clients", "-out", dir, "-check"); err != nil || out != "" {
		t.Errorf("-check: %v\n%s", err, out)
	}
	if diff := cmp.Diff(files, tree(t, dir)); diff != "" {
		t.Errorf("-check has changed files:\n%s", diff)
	}
}

func TestFunctionsWithoutSchemasTakeRawMessages(t *testing.T) {
	url, _ := shop(t)
	dir := t.TempDir()
	if out, err := iiigen(t, "-url", url, "-functions", "billing::*", "-triggers", "none", "-package", "clients", "-out", dir); err != nil {
		t.Fatal(err, out)
	}
	want := "func (c Billing) Untyped(ctx context.Context, in json.RawMessage, opts ...iii.CallOption) (json.RawMessage, error) {"
	if got := tree(t, dir)["billing_gen.go"]; !strings.Contains(got, want) {
		t.Errorf("%s\nlacks %s", got, want)
	}
}

func TestCheckReportsWhatHasChanged(t *testing.T) {
	dir := t.TempDir()
	before := filepath.Join(t.TempDir(), "before.json")
	writeFile(t, before, `{"version":1,"functions":[
		{"id":"orders::create","namespace":"default","request_schema":{"type":"object","properties":{"item":{"type":"string"},"size":{"enum":["s","m"]},"count":{"type":"integer"}},"required":["item"]},
		 "response_schema":{"type":"object","properties":{"id":{"type":"string"},"total":{"type":"integer"}},"required":["id","total"]}},
		{"id":"orders::gone","namespace":"default"},
		{"id":"orders::same","namespace":"default","request_schema":{"type":"string"}}]}`)
	after := filepath.Join(t.TempDir(), "after.json")
	writeFile(t, after, `{"version":1,"functions":[
		{"id":"orders::create","namespace":"default","request_schema":{"type":"object","properties":{"item":{"type":"string"},"size":{"enum":["s","m","l"]},"address":{"type":"string"},"gift":{"type":"boolean"}},"required":["item","address"]},
		 "response_schema":{"type":"object","properties":{"id":{"type":"integer"},"total":{"type":["integer","null"]},"at":{"type":"string"}},"required":["id","total"]}},
		{"id":"orders::new","namespace":"default"},
		{"id":"orders::same","namespace":"default","request_schema":{"type":"string","description":"Its id."}}]}`)
	if out, err := iiigen(t, "-catalog", before, "-functions", "*", "-package", "clients", "-out", dir); err != nil {
		t.Fatal(err, out)
	}
	out, err := iiigen(t, "-catalog", after, "-functions", "*", "-package", "clients", "-out", dir, "-check")
	if !errors.Is(err, errDrift) {
		t.Errorf("got error %v; want %v", err, errDrift)
	}
	want := dir + `:
  function orders::create: breaking
    breaking    request .address: required field added
    breaking    request .count: optional field removed
    compatible  request .gift: optional field added
    compatible  request .size: value "l" added
    compatible  response .at: optional field added
    breaking    response .id: type changed from string to integer
    breaking    response .total: null is now allowed
  function orders::gone: breaking
    breaking    removed
  function orders::new: compatible
    compatible  added
  function orders::same: compatible
    compatible  request: descriptions or other annotations changed
  file iiigen_catalog.json differs
  file iiigen_gen.go differs
  file orders_gen.go differs
`
	want = strings.ReplaceAll(want, "  file iiigen_gen.go differs\n", "")
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestFilesOfVanishedWorkersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	catalog := filepath.Join(t.TempDir(), "c.json")
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"a::x","namespace":"default"},{"id":"b::x","namespace":"default"}]}`)
	writeFile(t, filepath.Join(dir, "mine.go"), "package clients\n")
	writeFile(t, filepath.Join(dir, "other_gen.go"), "package clients\n")
	for _, functions := range []string{"*", "b::*"} {
		if out, err := iiigen(t, "-catalog", catalog, "-functions", functions, "-package", "clients", "-out", dir); err != nil {
			t.Fatal(err, out)
		}
	}
	files := tree(t, dir)
	for name, want := range map[string]bool{"a_gen.go": false, "b_gen.go": true, "mine.go": true, "other_gen.go": true} {
		if _, ok := files[name]; ok != want {
			t.Errorf("file %s: there is one %v; want %v", name, ok, want)
		}
	}
}

func TestFailedRunsChangeNothing(t *testing.T) {
	good := `{"version":1,"functions":[{"id":"a::x","namespace":"default"}]}`
	tests := []struct {
		name, catalog string
		args          []string
		want          string
	}{
		{"no JSON", `{`, nil, "catalog"},
		{"another version", `{"version":7}`, nil, "version 7 is not supported"},
		{"blank id", `{"version":1,"functions":[{"id":" "}]}`, nil, "blank id"},
		{"schema that is none", `{"version":1,"functions":[{"id":"a::x","request_schema":5}]}`, nil, `request schema of "a::x": a JSON Schema must be an object or a boolean, not a number`},
		{"truncated", `{"version":1,"functions":[{"id":"a::x","request_schema":{"type":"object","proper`, nil, "unexpected end of JSON input"},
		{"two documents", good + good, nil, "catalog"},
		{"no object", `[]`, nil, "catalog"},
		{"functions of a wrong type", `{"version":1,"functions":{"a::x":{}}}`, nil, "functions"},
		{"id of a wrong type", `{"version":1,"functions":[{"id":5}]}`, nil, "cannot unmarshal number"},
		{"nested too deep", `{"version":1,"functions":[{"id":"a::x","request_schema":` + strings.Repeat(`{"items":`, 1e5) + `{}` + strings.Repeat("}", 1e5) + `}]}`, nil, "depth"},
		{"no version", `{"functions":[]}`, nil, "version 0 is not supported"},
		{"args that are none", `{"version":1,"functions":[{"id":"a::x","observable":true,"args_schema":[]}]}`, nil, `args schema of "a::x": a JSON Schema must be an object or a boolean, not an array`},
		{"no match", good, []string{"-functions", "b::*"}, `no function or trigger type matches "b::*"`},
		{"one of two does not match", good, []string{"-functions", "a::*,b::*"}, `no function or trigger type matches "b::*"`},
		{"empty catalog", `{"version":1}`, nil, `no function or trigger type matches "*"`},
		{"output that is a file", good, []string{"-out", "main.go"}, "main.go"},
		{"output below a file", good, []string{"-out", "main.go/clients"}, "main.go"},
		{"catalog saved over a client", good, []string{"-save", "DIR/a_gen.go"}, "two outputs write the file"},
		{"two namespaces", `{"version":1,"functions":[{"id":"a::x","namespace":"p"},{"id":"a::x","namespace":"q"}]}`, nil, `function "a::x" exists in the namespaces "p" and "q"`},
		{"package that is a keyword", good, []string{"-package", "func"}, `"func" is not a valid name`},
		{"package that is another one", good, []string{"-package", "other"}, "contains package clients, not other"},
		{"by nonsense", good, []string{"-by", "moon"}, `not "moon"`},
		{"catalog that does not exist", "", []string{"-catalog", "nowhere.json"}, "nowhere.json"},
		{"argument", good, []string{"more"}, `unexpected argument "more"`},
		{"flag", good, []string{"-nope"}, "iiigen -h"},
		{"engine that is not there", "", []string{"-catalog", "", "-url", "ws://127.0.0.1:1", "-timeout", "200ms"}, "engine ws://127.0.0.1:1: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "a_gen.go"), header+"\n\npackage clients\n")
			writeFile(t, filepath.Join(dir, "mine.go"), "package clients\n")
			before := tree(t, dir)
			catalog := filepath.Join(t.TempDir(), "c.json")
			writeFile(t, catalog, test.catalog)
			args := []string{"-catalog", catalog, "-functions", "*", "-package", "clients", "-out", dir}
			for _, arg := range test.args {
				args = append(args, strings.Replace(arg, "DIR", dir, 1))
			}
			_, err := iiigen(t, args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}

func TestFailureBetweenFilesLeavesThemAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	catalog := filepath.Join(t.TempDir(), "c.json")
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"a::x"},{"id":"b::x"}]}`)
	args := []string{"-catalog", catalog, "-functions", "*", "-package", "clients", "-out", dir}
	if out, err := iiigen(t, args...); err != nil {
		t.Fatal(err, out)
	}
	// Replace the last file with a directory, so that writing the file fails.
	if err := os.Remove(filepath.Join(dir, "iiigen_gen.go")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "iiigen_gen.go", "mine.txt"), "mine")
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"a::x"},{"id":"a::y"},{"id":"c::x"}]}`)
	before := tree(t, dir)
	_, err := iiigen(t, args...)
	if err == nil || !strings.Contains(err.Error(), "iiigen_gen.go is not a regular file") {
		t.Errorf("got error %v", err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}

	// Let the third rename fail.
	files := map[string][]byte{filepath.Join(dir, "a_gen.go"): []byte(header + "\n"), filepath.Join(dir, "z.json"): []byte("{}"), filepath.Join(dir, "zz.json"): []byte("{}")}
	failing := errors.New("no space left")
	renames := 0
	rename = func(from, to string) error {
		if renames++; renames == 3 {
			return failing
		}
		return os.Rename(from, to)
	}
	t.Cleanup(func() { rename = os.Rename })
	if err := replaceFiles(files, map[string]bool{filepath.Join(dir, "b_gen.go"): true}); !errors.Is(err, failing) {
		t.Errorf("got error %v", err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestForeignFilesAreNotWrittenOver(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "b_gen.go"), "package clients\n\nvar mine = 1\n")
	before := tree(t, dir)
	catalog := filepath.Join(t.TempDir(), "c.json")
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"a::x"},{"id":"b::x"}]}`)
	_, err := iiigen(t, "-catalog", catalog, "-functions", "*", "-package", "clients", "-out", dir)
	if err == nil || !strings.Contains(err.Error(), "b_gen.go was not generated by iiigen") {
		t.Errorf("got error %v", err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestConfigurationHasSeveralOutputs(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "all.json"), `{"version":1,"functions":[{"id":"a::x","worker":"one"},{"id":"b::x","worker":"one"},{"id":"c::x","worker":"two"}]}`)
	config := filepath.Join(dir, "iiigen.json")
	writeFile(t, config, `{"outputs":[
		{"catalog":"all.json","functions":["a::*"],"package":"first","out":"first","save":"saved/a.json"},
		{"catalog":"all.json","package":"second","out":"deep/second","by":"worker"}]}`)
	if out, err := iiigen(t, "-config", config); err != nil {
		t.Fatal(err, out)
	}
	var names []string
	for name := range tree(t, dir) {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"all.json", "deep/second/iiigen_catalog.json", "deep/second/iiigen_gen.go", "deep/second/one_gen.go", "deep/second/two_gen.go",
		"first/a_gen.go", "first/iiigen_catalog.json", "first/iiigen_gen.go", "iiigen.json", "saved/a.json"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if out, err := iiigen(t, "-config", config, "-check"); err != nil {
		t.Error(err, out)
	}
	for name, test := range map[string]struct{ config, want string }{
		"no outputs":    {`{}`, "no outputs"},
		"unknown key":   {`{"output":[]}`, `unknown field "output"`},
		"one directory": {`{"outputs":[{"catalog":"all.json","out":"x"},{"catalog":"all.json","out":"./x"}]}`, "two outputs use the directory"},
		"one file":      {`{"outputs":[{"catalog":"all.json","functions":["a::*"],"save":"s.json"},{"catalog":"all.json","functions":["b::*"],"save":"./s.json"}]}`, "two outputs write the file"},
		"no directory":  {`{"outputs":[{"catalog":"all.json"}]}`, "no output directory"},
	} {
		writeFile(t, config, test.config)
		if _, err := iiigen(t, "-config", config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v; want one with %q", name, err, test.want)
		}
	}
}

func TestInternalFunctionsAreSelectedByTheirNames(t *testing.T) {
	c := &catalog{Functions: []function{{ID: "engine::x"}, {ID: "hidden::x", Metadata: json.RawMessage(`{"internal":true}`)}, {ID: "open::x"}},
		TriggerTypes: []triggerType{{ID: "http"}, {ID: "engine::t"}, {ID: "mine"}}}
	for pattern, want := range map[string][]string{
		"*":                    {"open::x", "mine"},
		"engine::*":            {"engine::x", "engine::t"},
		"hidden::*,*":          {"hidden::x", "open::x", "mine"},
		"*::x":                 {"open::x"},
		"http":                 {"http"},
		"open::x,engine::x,  ": {"engine::x", "open::x"},
	} {
		picked, err := selection{functions: splitPatterns(pattern)}.selectFrom(c)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		var got []string
		for _, f := range picked.Functions {
			got = append(got, f.ID)
		}
		for _, tt := range picked.TriggerTypes {
			got = append(got, tt.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", pattern, diff)
		}
	}
}

func TestCheckReportsThatEverythingIsGone(t *testing.T) {
	dir := t.TempDir()
	catalog := filepath.Join(t.TempDir(), "c.json")
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"a::x"},{"id":"b::x"}]}`)
	args := []string{"-catalog", catalog, "-functions", "a::*", "-package", "clients", "-out", dir}
	if out, err := iiigen(t, args...); err != nil {
		t.Fatal(err, out)
	}
	writeFile(t, catalog, `{"version":1,"functions":[{"id":"b::x"}]}`)
	out, err := iiigen(t, append(args, "-check")...)
	if !errors.Is(err, errDrift) || !strings.Contains(out, "function a::x: breaking\n    breaking    removed\n") {
		t.Errorf("got error %v\n%s", err, out)
	}
}

// If an engine disconnects or does not respond, the run fails before its timeout with an error
// that names the request.
func TestRunFailsIfEngineDisconnectsOrHangs(t *testing.T) {
	asks := func(f iiitest.Frame, function string) bool {
		return f.Direction == iiitest.ToEngine && strings.Contains(string(f.Message), `"function_id":"`+function+`"`)
	}
	for _, function := range []string{"engine::functions::list", "engine::functions::info", "engine::triggers::list", "engine::triggers::info"} {
		for name, act := range map[string]func(e *iiitest.Engine, f iiitest.Frame) iiitest.Verdict{
			"goes away": func(e *iiitest.Engine, _ iiitest.Frame) iiitest.Verdict {
				go e.Close()
				return iiitest.Verdict{Drop: true}
			},
			"does not answer": func(*iiitest.Engine, iiitest.Frame) iiitest.Verdict { return iiitest.Verdict{Drop: true} },
		} {
			t.Run(function+" "+name, func(t *testing.T) {
				t.Parallel()
				e, _ := shopEngine(t)
				e.Hook(func(f iiitest.Frame) iiitest.Verdict {
					if asks(f, function) {
						return act(e, f)
					}
					return iiitest.Verdict{}
				})
				dir := t.TempDir()
				writeFile(t, filepath.Join(dir, "orders_gen.go"), header+"\n\npackage clients\n")
				before := tree(t, dir)
				begin := time.Now()
				timeout := time.Minute
				if name == "does not answer" {
					timeout = 3 * time.Second // enough for the requests before this one
				}
				_, err := iiigen(t, "-url", e.URL(), "-functions", "orders::*", "-package", "clients", "-out", dir, "-timeout", timeout.String())
				part := map[string]string{"engine::functions::list": "list functions", "engine::functions::info": `functions ["orders::cancel" "orders::create"]`,
					"engine::triggers::list": "list trigger types", "engine::triggers::info": `trigger type "orders::placed"`}[function]
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got error %v; want one with %s", err, part)
				}
				if took := time.Since(begin); took > 30*time.Second {
					t.Errorf("took %v", took)
				}
				if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
					t.Errorf("files (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// go run …@latest ignores go.work, so the dependencies in this go.mod must match those of the
// root module.
func TestModuleBuildsWithoutItsWorkspace(t *testing.T) {
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"go.mod": "alt.mod", "go.sum": "alt.sum"} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if from == "go.mod" {
			if bytes.Contains(raw, []byte("replace")) {
				t.Error("go.mod replaces a module, which go run …@latest refuses")
			}
			raw = append(raw, "\nreplace github.com/iii-go/iii => "+strconv.Quote(filepath.ToSlash(root))+"\n"...)
		}
		writeFile(t, filepath.Join(dir, to), string(raw))
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-modfile", filepath.Join(dir, "alt.mod"), "-mod=readonly", "-deps", ".")
	list.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := list.CombinedOutput(); err != nil {
		t.Errorf("%v; make tidy-iiigen brings go.mod up to date\n%s", err, out)
	}
}

// A worker's default name changes with every start, and an engine without observers does not
// report which functions are observable. -check ignores both differences.
func TestCheckIgnoresRestartsAndEnginesWithoutObservers(t *testing.T) {
	start := func(protocol iiitest.Protocol) (url string) {
		e := iiitest.Start(t, iiitest.WithProtocol(protocol))
		c, err := iii.New(e.URL()) // default name, which differs for each client
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		for _, id := range []string{"orders::create", "orders::change", "ping"} {
			if _, err := iii.Handle(c, id, func(context.Context, order) (receipt, error) { return receipt{}, nil }); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		return e.URL()
	}
	for _, by := range []string{"prefix", "worker"} {
		dir := filepath.Join(t.TempDir(), "clients")
		args := []string{"-functions", "orders::*,ping", "-package", "clients", "-out", dir, "-by", by}
		if out, err := iiigen(t, append(args, "-url", start(iiitest.Protocol026))...); err != nil {
			t.Fatal(err, out)
		}
		files := tree(t, dir)
		if !strings.Contains(files["orders_gen.go"], "ObserveCreate(") || !strings.Contains(files["iiigen_catalog.json"], `"worker": "#orders::change"`) || len(files) != 4 {
			t.Errorf("by %s: %v", by, files)
		}
		for _, protocol := range []iiitest.Protocol{iiitest.Protocol026, iiitest.Protocol023} {
			if out, err := iiigen(t, append(args, "-check", "-url", start(protocol))...); err != nil {
				t.Errorf("by %s, engine %v: %v\n%s", by, protocol, err, out)
			}
		}
	}
}

// The feature observe.v2 includes observe.v1. If an engine lists only the former, -check reports
// functions that can no longer be observed.
func TestCheckRecognizesEnginesWithObservers(t *testing.T) {
	for name, listed := range map[string]string{"both": `"observe.v1","observe.v2"`, "observe.v1": `"observe.v1"`, "observe.v2": `"observe.v2"`} {
		t.Run(name, func(t *testing.T) {
			e := iiitest.Start(t)
			c, err := iii.New(e.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			echo := func(_ context.Context, o order) (order, error) { return o, nil }
			open, err := iii.Handle(c, "orders::echo", echo)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			args := []string{"-functions", "orders::*", "-package", "clients", "-out", filepath.Join(t.TempDir(), "clients"), "-url", e.URL()}
			if out, err := iiigen(t, args...); err != nil {
				t.Fatal(err, out)
			}
			if err := open.Unregister(); err != nil {
				t.Fatal(err)
			}
			if _, err := iii.Handle(c, "orders::echo", echo, iii.WithoutObservers()); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.Hook(func(f iiitest.Frame) iiitest.Verdict {
				if !bytes.Contains(f.Message, []byte(`"type":"workerregistered"`)) {
					return iiitest.Verdict{}
				}
				return iiitest.Verdict{Replace: []json.RawMessage{bytes.Replace(f.Message, []byte(`"observe.v1","observe.v2"`), []byte(listed), 1)}}
			})
			if out, err := iiigen(t, append(args, "-check")...); err == nil {
				t.Errorf("-check found no difference:\n%s", out)
			}
		})
	}
}

// If the engine does not respond within a second, iiigen writes what it is waiting for. Neither
// that message nor the error contains secrets from the URL.
func TestWaitingForTheEngine(t *testing.T) {
	const address, where = "ws://me:s3cret@shop.example/?token=s3cret", "ws://shop.example/"
	tests := map[string]struct {
		after  time.Duration // when the engine responds
		wait   time.Duration // how long iiigen waits for it
		notice bool
		failed bool
	}{
		"at once": {after: 500 * time.Millisecond, wait: time.Minute},
		"later":   {after: 10 * time.Second, wait: time.Minute, notice: true},
		"never":   {after: time.Hour, wait: time.Minute, notice: true, failed: true},
		"timeout": {after: time.Hour, wait: 500 * time.Millisecond, failed: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, began := iiitest.Start(t), time.Now()
				c, err := iii.New(address, iii.WithLogger(slog.New(slog.DiscardHandler)), iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
					if time.Since(began) < test.after {
						return nil, errors.New("connection refused")
					}
					return e.DialContext(ctx, network, addr)
				}), iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 100, MaxDelayMs: 100, BackoffMultiplier: 1}))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), test.wait)
				defer cancel()
				read, write := io.Pipe()
				ended := make(chan error, 1)
				go func() {
					ended <- connect(ctx, c, address, write)
					_ = write.Close()
				}()
				told, _ := bufio.NewReader(read).ReadString('\n')
				want := ""
				if test.notice {
					want = "iiigen: waiting for the engine at " + where + "\n"
					if took := time.Since(began); took != connectNotice {
						t.Errorf("told after %v", took)
					}
				}
				if told != want {
					t.Errorf("told %q, want %q", told, want)
				}
				switch err := <-ended; {
				case !test.failed:
					if err != nil {
						t.Error(err)
					}
				case err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "engine "+where+": ") || strings.Contains(err.Error(), "s3cret"):
					t.Errorf("got error %v", err)
				}
			})
		})
	}
	t.Setenv("III_URL", " "+address)
	if got := publicURL(""); got != where {
		t.Errorf("URL from the environment: %s, want %s", got, where)
	}
	t.Setenv("III_URL", "")
	if got := publicURL(""); got != iii.DefaultURL {
		t.Errorf("default URL: %s, want %s", got, iii.DefaultURL)
	}
}
