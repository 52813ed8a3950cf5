// Command iiigen generates typed Go clients for functions registered with an engine. It
// derives the types from the functions' JSON Schemas.
//
//	iiigen [flags]
//
// The schemas come from the engine at -url, to which iiigen connects as a worker, or from a
// catalog file saved by an earlier run (-catalog). For each function id prefix (or for each
// worker, with -by worker), iiigen writes one file to the directory -out. It also writes a
// file of shared code and the catalog from which the files were generated. With -save, it
// writes the selected part of the catalog to another file as well.
//
// -functions selects functions. -triggers selects trigger types or, on engine 0.26, the
// private functions that replace them. Both flags take comma-separated patterns in which *
// matches any characters, including "::". A pattern that begins with * does not match internal
// functions.
//
//	iiigen -url ws://127.0.0.1:49134 -functions 'orders::*,billing::*' -package clients -out clients
//
// With -check, iiigen writes nothing. It fails if the files are out of date, and prints the
// changes to each function and whether they are compatible.
//
// Without -functions and -out, iiigen reads its configuration from iiigen.json or from the
// file named by -config. A configuration can describe several outputs:
//
//	{
//	  "url": "ws://127.0.0.1:49134",
//	  "outputs": [
//	    {"functions": ["orders::*"], "package": "orders", "out": "clients/orders"},
//	    {"functions": ["billing::*"], "package": "billing", "out": "clients/billing", "catalog": "billing.json"}
//	  ]
//	}
//
// Paths in a configuration are relative to its directory. -url and -catalog apply to all
// outputs, and -save requires a single output. If neither a URL nor a catalog is set, iiigen
// connects to $III_URL or, if that is unset, to ws://127.0.0.1:49134. If that takes more than a
// second, iiigen reports it on standard error; -timeout limits the wait.
//
// A schema that has no equivalent Go type becomes json.RawMessage, with a comment that gives
// the reason; -v lists these schemas. A failed run leaves all files unchanged.
package main

import (
	"bytes"
	"cmp"
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
	"net/url"
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

// config is the content of a configuration file.
type config struct {
	URL       string            `json:"url"`
	Namespace string            `json:"namespace"`
	Headers   map[string]string `json:"headers"`
	Outputs   []outputConfig    `json:"outputs"`
}

// outputConfig configures one directory of generated code.
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

// configFile is the default name of the configuration file.
const configFile = "iiigen.json"

// errDrift reports that -check found outdated files.
var errDrift = errors.New("the generated code is out of date; run iiigen again")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("iiigen", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	engine := flags.String("url", "", "`URL` of the engine (default $III_URL or ws://127.0.0.1:49134)")
	catalogName := flags.String("catalog", "", "read the catalog from `file` instead of from an engine")
	save := flags.String("save", "", "save the selected part of the catalog to `file`")
	functions := flags.String("functions", "", "comma-separated `patterns` for function ids, such as orders::*,billing::*")
	triggers := flags.String("triggers", "", "comma-separated `patterns` for ids of trigger types and private functions (default: the patterns of -functions, and all trigger types of the selected functions' workers)")
	namespace := flags.String("namespace", "", "select only functions and trigger types in this namespace")
	pkg := flags.String("package", "", "`name` of the generated package (default: the name of the output directory)")
	out := flags.String("out", "", "write the generated files to `directory`")
	by := flags.String("by", "", "generate one file and client per id \"prefix\" (default) or per \"worker\"")
	configName := flags.String("config", "", "configuration `file` (default iiigen.json)")
	check := flags.Bool("check", false, "write nothing; if the files are out of date, print the changes and fail")
	timeout := flags.Duration("timeout", 30*time.Second, "total time limit for the requests to the engine")
	verbose := flags.Bool("v", false, "list the schemas that become json.RawMessage, with the reasons")
	headers := make(map[string]string)
	flags.Func("header", "`name: value` of a header to send when connecting; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return errors.New("want name: value")
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		return nil
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stderr)
		fmt.Fprint(stderr, "iiigen generates typed Go clients for functions registered with an engine.\n\nUsage: iiigen [flags]\n\n")
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
			return errors.New("-config cannot be combined with -functions, -triggers, -package, -by or -out")
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
	if *engine != "" {
		cfg.URL = *engine
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
		if *engine != "" || o.URL == "" {
			o.URL = cfg.URL
		}
		if *engine != "" {
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
	if *engine != "" && *catalogName != "" {
		return errors.New("-url and -catalog cannot be combined")
	}
	if *save != "" && len(cfg.Outputs) > 1 {
		return errors.New("-save requires a single output; for several outputs, set \"save\" in the configuration")
	}

	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	engines := make(map[string]*iii.Client)
	defer func() {
		for _, c := range engines {
			_ = c.Close()
		}
	}()
	files := make(map[string][]byte)  // new content by absolute path
	stale := make(map[string]bool)    // absolute paths of files to remove
	owners := make(map[string]string) // output directories by absolute path
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
		picked, err := o.read(ctx, engines, cfg.Headers, *check, stderr)
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
			return fmt.Errorf("two outputs use the directory %s", o.Out)
		}
		owners[dir] = o.Out
		old, err := generatedFiles(o.Out, o.Package)
		if err != nil {
			return fail(err)
		}
		if raw, ok := old[catalogFile]; ok && *check && picked.noObservers {
			before, err := parseCatalog(raw)
			if err != nil {
				return fail(fmt.Errorf("%s/%s: %w", o.Out, catalogFile, err))
			}
			picked.keepObservers(before)
		}
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

// loadConfig reads a configuration file. It resolves relative paths against the file's
// directory.
func loadConfig(name string) (config, error) {
	var cfg config
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) && name == configFile {
		return cfg, fmt.Errorf("%s does not exist; create it, or set -functions and -out", configFile)
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

// validate checks an output. If no package name is set, it uses the name of the directory.
func (o *outputConfig) validate() error {
	if o.Out == "" && o.Save == "" {
		return errors.New("no output directory; set -out, or -save to write only a catalog")
	}
	if o.By != "" && o.By != "prefix" && o.By != "worker" {
		return fmt.Errorf("by must be \"prefix\" or \"worker\", not %q", o.By)
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
		return fmt.Errorf("%q is not a valid name for the generated package", o.Package)
	}
	return nil
}

// read reads the selected part of the catalog from a file or an engine. If check is set,
// function patterns may match nothing, because the functions may no longer exist.
func (o *outputConfig) read(ctx context.Context, engines map[string]*iii.Client, headers map[string]string, check bool, stderr io.Writer) (*catalog, error) {
	s := selection{functions: o.Functions, triggers: o.Triggers, namespace: o.Namespace, lenient: check}
	if o.Catalog != "" {
		c, err := loadCatalog(o.Catalog)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w (set -url to read from an engine)", err)
		}
		if err != nil {
			return nil, err
		}
		picked, err := s.selectFrom(c)
		if err != nil {
			return nil, fmt.Errorf("catalog %s: %w", o.Catalog, err)
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
		if err := connect(ctx, c, o.URL, stderr); err != nil {
			return nil, err
		}
	}
	picked, err := readEngine(ctx, c, s)
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", publicURL(o.URL), err)
	}
	return picked, nil
}

// connectNotice is how long iiigen waits for an engine before it reports that it is waiting.
const connectNotice = time.Second

// connect connects c to the engine at address. If that takes longer than connectNotice, it
// reports this to stderr.
func connect(ctx context.Context, c *iii.Client, address string, stderr io.Writer) error {
	where := publicURL(address)
	connected := make(chan error, 1)
	go func() { connected <- c.Connect(ctx) }()
	var err error
	select {
	case err = <-connected:
	case <-time.After(connectNotice):
		fmt.Fprintf(stderr, "iiigen: waiting for the engine at %s\n", where)
		err = <-connected
	}
	if err != nil {
		return fmt.Errorf("engine %s: %w", where, err)
	}
	return nil
}

// publicURL returns the engine's URL, as given or by default, without the parts that may contain
// secrets.
func publicURL(address string) string {
	u, err := url.Parse(cmp.Or(address, strings.TrimSpace(os.Getenv("III_URL")), iii.DefaultURL))
	if err != nil { // New has rejected it
		return "with an invalid URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// generatedFiles returns the files that an earlier run generated in dir. It returns an error
// if dir contains a package other than pkg.
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
				return nil, fmt.Errorf("%s contains package %s, not %s", dir, other, pkg)
			}
		}
	}
	return files, nil
}

// rename is os.Rename. Tests replace it.
var rename = os.Rename

// replaceFiles writes files and removes stale ones. If a step fails, it restores the previous
// content of all files.
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
			return fmt.Errorf("%s is not a regular file and will not be overwritten", name)
		}
		if old, err := os.ReadFile(name); err == nil && filepath.Ext(name) == ".go" && !bytes.HasPrefix(old, []byte(header)) {
			return fmt.Errorf("%s was not generated by iiigen and will not be overwritten", name)
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
