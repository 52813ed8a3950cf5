// Command iiigen generates typed Go clients of functions from what an engine knows of them:
// the JSON Schemas that workers register.
//
//	iiigen [flags]
//
// It connects to the engine at -url as a worker, or reads the catalogue of an earlier run
// from the file -catalog, and writes into the directory -out: one file for each prefix of
// the functions' ids, or for each worker with -by worker, a file that these share, and the
// catalogue that they were made from. -functions and -triggers select functions and trigger
// types, or the private functions that an engine has in their place, by comma-separated
// patterns, in which * stands for any characters, also for "::"; internal functions must be
// named by the beginning of their ids. -save writes what was
// selected to another file as well.
//
//	iiigen -url ws://127.0.0.1:49134 -functions 'orders::*,billing::*' -package clients -out clients
//
// With -check it writes nothing. It fails if the files differ from what it would write, and
// prints for each function what has changed and whether that is compatible.
//
// Without -functions and -out it reads iiigen.json, or the file -config, which holds several
// outputs:
//
//	{
//	  "url": "ws://127.0.0.1:49134",
//	  "outputs": [
//	    {"functions": ["orders::*"], "package": "orders", "out": "clients/orders"},
//	    {"functions": ["billing::*"], "package": "billing", "out": "clients/billing", "catalog": "billing.json"}
//	  ]
//	}
//
// Relative paths are relative to that file. -url, -catalog and -save hold for all outputs
// then. If neither an address nor a catalogue is given, the address is $III_URL or
// ws://127.0.0.1:49134.
//
// A schema that Go has no type for becomes json.RawMessage, with a comment that says why; -v
// lists these places. A run that fails leaves all files as they were.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "iiigen:", err)
		os.Exit(1)
	}
}

// config is the content of iiigen.json.
type config struct {
	URL       string            `json:"url"`
	Namespace string            `json:"namespace"`
	Headers   map[string]string `json:"headers"`
	Outputs   []outputConfig    `json:"outputs"`
}

// outputConfig describes one directory of generated code.
type outputConfig struct {
	URL       string   `json:"url"`
	Catalog   string   `json:"catalog"`
	Save      string   `json:"save"`
	Functions []string `json:"functions"`
	Triggers  []string `json:"triggers"`
	Namespace string   `json:"namespace"`
	Package   string   `json:"package"`
	Out       string   `json:"out"`
	By        string   `json:"by"`
}

// configFile is the name of the configuration that is read without flags.
const configFile = "iiigen.json"

// errDrift is the failure of -check.
var errDrift = errors.New("the generated code is out of date; run iiigen again")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("iiigen", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	url := flags.String("url", "", "address of the engine (default $III_URL, else ws://127.0.0.1:49134)")
	catalogName := flags.String("catalog", "", "read the catalogue from a `file` instead of an engine")
	save := flags.String("save", "", "write the selected catalogue to a `file`")
	functions := flags.String("functions", "", "`patterns` of the functions, by comma, such as orders::*,billing::*")
	triggers := flags.String("triggers", "", "`patterns` of the trigger types and private functions, by comma (default: those of -functions, and those of the functions' workers)")
	namespace := flags.String("namespace", "", "only what is in this namespace")
	pkg := flags.String("package", "", "name of the generated package (default: that of the directory)")
	out := flags.String("out", "", "`directory` of the generated files")
	by := flags.String("by", "", "one file and client for each \"prefix\" of ids (default) or each \"worker\"")
	configName := flags.String("config", "", "`file` with several outputs (default iiigen.json)")
	check := flags.Bool("check", false, "write nothing; fail if the files are out of date and print what has changed")
	timeout := flags.Duration("timeout", 30*time.Second, "time limit for everything that the engine is asked")
	verbose := flags.Bool("v", false, "list the places where a type says no more than json.RawMessage")
	headers := make(map[string]string)
	flags.Func("header", "`name: value` of a header of the connection; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return errors.New("want name: value")
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		return nil
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stderr)
		fmt.Fprint(stderr, "iiigen generates typed clients of the functions that an engine knows.\n\nUsage: iiigen [flags]\n\n")
		flags.PrintDefaults()
		return err
	} else if err != nil {
		return fmt.Errorf("%w (iiigen -h lists the flags)", err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var cfg config
	if given["out"] || given["functions"] || given["triggers"] || given["package"] || given["by"] || given["save"] && !given["config"] {
		if given["config"] {
			return errors.New("-config excludes -functions, -triggers, -package, -by and -out")
		}
		cfg.Outputs = []outputConfig{{Functions: splitPatterns(*functions), Triggers: splitPatterns(*triggers), Package: *pkg, Out: *out, By: *by}}
	} else {
		name := *configName
		if name == "" {
			name = configFile
		}
		var err error
		if cfg, err = loadConfig(name); err != nil {
			return err
		}
	}
	if *url != "" {
		cfg.URL = *url
	}
	if *namespace != "" {
		cfg.Namespace = *namespace
	}
	if cfg.Headers == nil {
		cfg.Headers = make(map[string]string)
	}
	maps.Copy(cfg.Headers, headers)
	for i := range cfg.Outputs {
		o := &cfg.Outputs[i]
		if *url != "" || o.URL == "" {
			o.URL = cfg.URL
		}
		if *url != "" {
			o.Catalog = ""
		}
		if o.Namespace == "" || *namespace != "" {
			o.Namespace = cfg.Namespace
		}
		if *catalogName != "" {
			o.Catalog = *catalogName
		}
		if *save != "" {
			o.Save = *save
		}
	}
	if *url != "" && *catalogName != "" {
		return errors.New("-url and -catalog exclude each other")
	}
	if *save != "" && len(cfg.Outputs) > 1 {
		return errors.New("-save needs a single output; give each one a \"save\" in the configuration")
	}

	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	engines := make(map[string]*iii.Client)
	defer func() {
		for _, c := range engines {
			_ = c.Close()
		}
	}()
	files := make(map[string][]byte)  // to write, by absolute paths
	stale := make(map[string]bool)    // to remove
	owners := make(map[string]string) // of directories
	put := func(name string, content []byte) error {
		name, err := filepath.Abs(name)
		if err == nil && files[name] != nil && !bytes.Equal(files[name], content) {
			err = fmt.Errorf("two outputs write the file %s", name)
		}
		files[name] = content
		return err
	}
	var drift bool
	for i := range cfg.Outputs {
		o := cfg.Outputs[i]
		where := o.Out
		if where == "" {
			where = o.Save
		}
		fail := func(err error) error {
			if len(cfg.Outputs) > 1 {
				return fmt.Errorf("output %s: %w", where, err)
			}
			return err
		}
		if err := o.validate(); err != nil {
			return fail(err)
		}
		picked, err := o.read(ctx, engines, cfg.Headers, *check)
		if err != nil {
			return fail(err)
		}
		if o.Save != "" && !*check {
			saved, err := picked.encode()
			if err == nil {
				err = put(o.Save, saved)
			}
			if err != nil {
				return fail(err)
			}
		}
		if o.Out == "" {
			continue
		}
		dir, err := filepath.Abs(o.Out)
		if err != nil {
			return fail(err)
		}
		if owners[dir] != "" {
			return fmt.Errorf("two outputs have the directory %s", o.Out)
		}
		owners[dir] = o.Out
		g := &generation{pkg: o.Package, byWorker: o.By == "worker", catalog: picked}
		if err := g.prepare(); err != nil {
			return fail(err)
		}
		made, err := g.files()
		if err != nil {
			return fail(err)
		}
		if *verbose {
			for _, n := range g.notes {
				fmt.Fprintln(stderr, n)
			}
		}
		old, err := generatedFiles(o.Out, o.Package)
		if err != nil {
			return fail(err)
		}
		if *check {
			differs, err := report(stdout, o.Out, old, made, picked)
			if err != nil {
				return fail(err)
			}
			drift = drift || differs
			continue
		}
		for name, content := range made {
			if before, ok := old[name]; ok && bytes.Equal(before, content) {
				continue
			}
			if err := put(filepath.Join(dir, name), content); err != nil {
				return fail(err)
			}
		}
		for name := range old {
			if _, ok := made[name]; !ok {
				stale[filepath.Join(dir, name)] = true
			}
		}
	}
	if drift {
		return errDrift
	}
	return replaceFiles(files, stale)
}

func splitPatterns(s string) []string {
	var all []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			all = append(all, p)
		}
	}
	return all
}

// loadConfig reads a configuration; its paths are relative to it.
func loadConfig(name string) (config, error) {
	var cfg config
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) && name == configFile {
		return cfg, fmt.Errorf("there is no %s; -functions and -out say what to generate", configFile)
	}
	if err != nil {
		return cfg, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("%s: %w", name, err)
	}
	if len(cfg.Outputs) == 0 {
		return cfg, fmt.Errorf("%s: no outputs", name)
	}
	dir := filepath.Dir(name)
	for i := range cfg.Outputs {
		o := &cfg.Outputs[i]
		for _, p := range []*string{&o.Catalog, &o.Save, &o.Out} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, filepath.FromSlash(*p))
			}
		}
	}
	return cfg, nil
}

// validate checks an output, and gives its package a name if it has none.
func (o *outputConfig) validate() error {
	if o.Out == "" && o.Save == "" {
		return errors.New("no directory to write to; set -out, or -save for a catalogue alone")
	}
	if o.By != "" && o.By != "prefix" && o.By != "worker" {
		return fmt.Errorf("by %q is neither \"prefix\" nor \"worker\"", o.By)
	}
	if o.Out == "" {
		return nil
	}
	if o.Package == "" {
		dir, err := filepath.Abs(o.Out)
		if err != nil {
			return err
		}
		o.Package = filepath.Base(dir)
	}
	if !token.IsIdentifier(o.Package) || o.Package == "_" || o.Package == "main" {
		return fmt.Errorf("%q cannot be the name of the generated package", o.Package)
	}
	return nil
}

// read returns the selected part of the catalogue, from a file or an engine. With check set,
// patterns may match nothing, because what they matched may be gone.
func (o *outputConfig) read(ctx context.Context, engines map[string]*iii.Client, headers map[string]string, check bool) (*catalog, error) {
	s := selection{functions: o.Functions, triggers: o.Triggers, namespace: o.Namespace, lenient: check}
	if o.Catalog != "" {
		c, err := loadCatalog(o.Catalog)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w (-url reads an engine instead)", err)
		}
		if err != nil {
			return nil, err
		}
		picked, err := s.selectFrom(c)
		if err != nil {
			return nil, fmt.Errorf("catalogue %s: %w", o.Catalog, err)
		}
		picked.normalize()
		return picked, nil
	}
	c := engines[o.URL]
	if c == nil {
		h := make(http.Header)
		for name, value := range headers {
			h.Set(name, value)
		}
		opts := []iii.Option{iii.WithDescription("generates typed clients"), iii.WithCallTimeout(time.Minute), iii.WithLogger(slog.New(slog.DiscardHandler))}
		if len(h) > 0 {
			opts = append(opts, iii.WithHeader(h))
		}
		var err error
		if c, err = iii.New(o.URL, opts...); err != nil {
			return nil, err
		}
		engines[o.URL] = c
		if err := c.Connect(ctx); err != nil {
			return nil, err
		}
	}
	return readEngine(ctx, c, s)
}

// generatedFiles returns the files of an earlier run in a directory. It returns an error if
// the directory holds another package.
func generatedFiles(dir, pkg string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || name != catalogFile && filepath.Ext(name) != ".go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if name == catalogFile || bytes.HasPrefix(content, []byte(header)) && strings.HasSuffix(name, "_gen.go") {
			files[name] = content
		}
		if filepath.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") && files[name] == nil {
			if other := packageOf(content); other != "" && other != pkg {
				return nil, fmt.Errorf("%s holds package %s, not %s", dir, other, pkg)
			}
		}
	}
	return files, nil
}

// rename is os.Rename, which tests make fail.
var rename = os.Rename

// replaceFiles writes files and removes others, all or none: what fails leaves everything as
// it was.
func replaceFiles(files map[string][]byte, stale map[string]bool) (err error) {
	type change struct {
		name, temporary, backup string
		existed, done           bool
	}
	var changes []*change
	defer func() {
		for _, c := range slices.Backward(changes) {
			if err != nil && c.done {
				if c.existed {
					err = errors.Join(err, rename(c.backup, c.name))
				} else {
					err = errors.Join(err, os.Remove(c.name))
				}
			}
			if c.temporary != "" {
				_ = os.Remove(c.temporary)
			}
			if c.backup != "" {
				_ = os.Remove(c.backup)
			}
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		dir := filepath.Dir(name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() && info.Mode()&os.ModeSymlink == 0 {
			return fmt.Errorf("%s is no regular file, and is not written over", name)
		}
		if old, err := os.ReadFile(name); err == nil && filepath.Ext(name) == ".go" && !bytes.HasPrefix(old, []byte(header)) {
			return fmt.Errorf("%s was not generated by iiigen, and is not written over", name)
		}
		c := &change{name: name}
		changes = append(changes, c)
		f, err := os.CreateTemp(dir, ".iiigen-*")
		if err != nil {
			return err
		}
		c.temporary = f.Name()
		_, err = f.Write(files[name])
		err = errors.Join(err, f.Chmod(0o644), f.Close())
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stale)) {
		changes = append(changes, &change{name: name})
	}
	for i, c := range changes {
		if _, err := os.Lstat(c.name); err == nil {
			c.existed = true
			c.backup = filepath.Join(filepath.Dir(c.name), fmt.Sprintf(".iiigen-%d-%d.old", os.Getpid(), i))
			if err := rename(c.name, c.backup); err != nil {
				c.backup = ""
				return err
			}
		}
		c.done = true
		if c.temporary != "" {
			if err := rename(c.temporary, c.name); err != nil {
				if c.existed {
					err = errors.Join(err, rename(c.backup, c.name))
				}
				c.done = false
				return err
			}
		}
	}
	return nil
}
