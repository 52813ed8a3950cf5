// Command rustsuite runs the Rust SDK's published integration tests against the development
// engine. These are the tests of the crate iii-sdk that need an engine.
//
//	rustsuite [-root dir] [-cache dir] [-only bridge,observe_engine,…] [-v]
//
// The command fetches the crate with cargo into a cache directory and builds its tests there.
// It starts iiidev with the addresses and access rules that the tests expect, runs the
// unmodified tests, and prints how many passed. It fails if a test fails or if there are fewer
// tests than expected.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii/internal/environ"
)

const crateVersion = "0.26.0-rc.4"

// files lists the crate's test files that need an engine, with the number of tests in each.
var files = []struct {
	name  string
	tests int
}{
	{"bridge", 5}, {"data_channels", 3}, {"env_contract", 1}, {"healthcheck", 1}, {"http_external_functions", 6},
	{"http_routes", 13}, {"middleware", 4}, {"namespace_inheritance", 16}, {"observe_engine", 24}, {"pubsub", 2},
	{"rbac_workers", 9}, {"reattach", 1}, {"receive_size", 1}, {"registration_dedup", 5}, {"state", 10}, {"stream", 9},
}

// guard configures the second listener, which the access-rule tests need.
const guard = `{"port":%s,"middleware_function_id":"test::rbac-worker::middleware","rbac":{` +
	`"auth_function_id":"test::rbac-worker::auth","on_function_registration_function_id":"test::rbac-worker::on-function-reg",` +
	`"expose_functions":["match(\"test::ew::public::*\")","match(\"engine::functions::list\")",{"metadata":{"ew_public":true}}]}}`

// testTimeout limits how long the tests of one file may run.
const testTimeout = 5 * time.Minute

func main() {
	environ.Clear()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rustsuite:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("rustsuite", flag.ContinueOnError)
	root := flags.String("root", "../..", "directory of the repository")
	cache := flags.String("cache", "", "directory for the crate, its build and the logs; the default is iii-go/rustsuite in the user's cache")
	only := flags.String("only", "", "test files to run, by comma")
	verbose := flags.Bool("v", false, "print the tests that pass, too, and keep the messages in frames.jsonl beside the logs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	if *cache == "" {
		own, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		*cache = filepath.Join(own, "iii-go", "rustsuite")
	}
	if *cache, err = filepath.Abs(*cache); err != nil {
		return err
	}
	s := suite{root: dir, cache: *cache, out: out, verbose: *verbose}
	chosen := files
	if *only != "" {
		names := strings.Split(*only, ",")
		chosen = nil
		for _, f := range files {
			if slices.Contains(names, f.name) {
				chosen = append(chosen, f)
			}
		}
		if len(chosen) != len(names) {
			return fmt.Errorf("-only %s: unknown test file", *only)
		}
	}
	if err := s.fetch(ctx); err != nil {
		return err
	}
	var names []string
	for _, f := range chosen {
		names = append(names, f.name)
	}
	binaries, err := s.build(ctx, names)
	if err != nil {
		return err
	}
	engine, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer engine.stop()
	passed, wanted := 0, 0
	for _, f := range chosen {
		n := s.test(ctx, f.name, binaries[f.name], engine)
		fmt.Fprintf(out, "  %-24s %d of %d\n", f.name, n, f.tests)
		passed, wanted = passed+n, wanted+f.tests
	}
	fmt.Fprintf(out, "Rust suite, iii-sdk %s: %d of %d tests passed\n", crateVersion, passed, wanted)
	if passed != wanted {
		return fmt.Errorf("%d of %d tests passed; the output is in %s", passed, wanted, s.logs())
	}
	return nil
}

// suite holds a run's directories and output settings.
type suite struct {
	root, cache string
	out         io.Writer
	verbose     bool
}

func (s suite) crate() string { return filepath.Join(s.cache, "iii-sdk-"+crateVersion) }
func (s suite) logs() string  { return filepath.Join(s.cache, "logs") }

// fetch downloads the crate with cargo and copies its source to a directory where it can be
// built.
func (s suite) fetch(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.crate(), "Cargo.toml")); err == nil {
		return nil
	}
	fetcher := filepath.Join(s.cache, "fetch")
	manifest := "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\niii-sdk = \"=" + crateVersion + "\"\n"
	if err := errors.Join(
		os.MkdirAll(filepath.Join(fetcher, "src"), 0o755),
		os.WriteFile(filepath.Join(fetcher, "Cargo.toml"), []byte(manifest), 0o644),
		os.WriteFile(filepath.Join(fetcher, "src", "main.rs"), []byte("fn main() {}\n"), 0o644),
	); err != nil {
		return err
	}
	listing, err := command(ctx, fetcher, "cargo", "metadata", "--format-version", "1", "--quiet")
	if err != nil {
		return err
	}
	found := regexp.MustCompile(`"manifest_path":"([^"]*[\\/]iii-sdk-` + regexp.QuoteMeta(crateVersion) + `[\\/]+)Cargo\.toml"`).FindSubmatch(listing)
	if found == nil {
		return errors.New("cargo has not fetched the crate iii-sdk " + crateVersion)
	}
	source, err := strconv.Unquote(`"` + string(found[1]) + `"`)
	if err != nil {
		return err
	}
	unfinished := s.crate() + ".unfinished"
	return errors.Join(os.RemoveAll(unfinished), os.CopyFS(unfinished, os.DirFS(source)), os.Rename(unfinished, s.crate()))
}

// build builds the tests and returns the paths of the executables, keyed by test file.
func (s suite) build(ctx context.Context, names []string) (map[string]string, error) {
	begin := time.Now()
	argv := []string{"test", "--no-run", "--locked", "-j", "2"}
	for _, name := range names {
		argv = append(argv, "--test", name)
	}
	listing, err := command(ctx, s.crate(), "cargo", argv...)
	if err != nil {
		return nil, err
	}
	binaries := map[string]string{}
	for _, found := range regexp.MustCompile(`Executable tests[\\/](\w+)\.rs \((.*)\)`).FindAllSubmatch(listing, -1) {
		binaries[string(found[1])] = string(found[2])
	}
	for _, name := range names {
		if binaries[name] == "" {
			return nil, fmt.Errorf("cargo has built no tests of %s:\n%s", name, listing)
		}
		if !filepath.IsAbs(binaries[name]) {
			binaries[name] = filepath.Join(s.crate(), binaries[name])
		}
	}
	fmt.Fprintf(s.out, "iii-sdk %s, tests built in %.1fs\n", crateVersion, time.Since(begin).Seconds())
	return binaries, nil
}

// command runs a program and returns its combined output. If the program fails, the error
// contains the output.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	if _, err := exec.LookPath(name); err != nil {
		return nil, fmt.Errorf("%s is needed: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CARGO_PROFILE_DEV_DEBUG=0", "CARGO_PROFILE_TEST_DEBUG=0")
	if target := os.Getenv("CARGO_TARGET_DIR"); target == "" && name == "cargo" {
		cmd.Env = append(cmd.Env, "CARGO_TARGET_DIR="+filepath.Join(filepath.Dir(dir), "target"))
	}
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// engine is a running iiidev process.
type engine struct {
	cmd                *exec.Cmd
	worker, http, rbac string // host:port
}

// start builds iiidev and runs it on free ports.
func (s suite) start(ctx context.Context) (*engine, error) {
	program := filepath.Join(s.cache, "iiidev")
	if _, err := command(ctx, s.root, "go", "build", "-o", program, "./cmd/iiidev"); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(s.logs()), os.MkdirAll(s.logs(), 0o755)); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(s.logs(), "iiidev.txt"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", ports[i]) }
	e := &engine{worker: at(0), http: at(1), rbac: at(2)}
	argv := []string{
		"-listen", at(0), "-http", at(1), "-stream", at(3), "-console", "", "-guard", fmt.Sprintf(guard, ports[2]),
	}
	if s.verbose { // logging is slow, and one test waits at most 300 ms for a thousand calls
		argv = append(argv, "-v", "-frames", filepath.Join(s.logs(), "frames.jsonl"))
	}
	e.cmd = exec.Command(program, argv...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", e.rbac, time.Second)
		if err == nil {
			_ = conn.Close()
			return e, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			e.stop()
			return nil, fmt.Errorf("iiidev does not listen: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (e *engine) stop() {
	_ = e.cmd.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.cmd.Wait()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = e.cmd.Process.Kill()
		<-done
	}
}

func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // hold the port until all are found, so that they are distinct
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

var (
	outcomeLine = regexp.MustCompile(`(?m)^test .* \.\.\. (?:ok|FAILED)$|^test result:.*$`)
	resultLine  = regexp.MustCompile(`test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored`)
)

// test runs the tests of one file and returns the number that passed. If any test fails, it
// prints all outcomes.
func (s suite) test(ctx context.Context, name, binary string, e *engine) (passed int) {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--test-threads=2")
	cmd.Dir = s.crate()
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "III_URL=ws://"+e.worker, "III_HTTP_URL=http://"+e.http, "III_RBAC_WORKER_URL=ws://"+e.rbac)
	text, err := cmd.CombinedOutput()
	if writeErr := os.WriteFile(filepath.Join(s.logs(), name+".txt"), text, 0o644); writeErr != nil {
		fmt.Fprintln(s.out, "  ", writeErr)
	}
	if s.verbose || err != nil {
		fmt.Fprintf(s.out, "%s\n", bytes.Join(outcomeLine.FindAll(text, -1), []byte("\n")))
	}
	if err != nil {
		fmt.Fprintf(s.out, "  %s: %v\n", name, err)
	}
	found := resultLine.FindSubmatch(text)
	if found == nil {
		return 0
	}
	passed, _ = strconv.Atoi(string(found[1]))
	return passed
}
