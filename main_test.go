package iii

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/environ"
)

// soak runs the tests of the guarantees at full scale.
var soak = flag.Bool("soak", false, "run the tests of promises at full scale")

// scale returns the number of repetitions for a test.
func scale(short, full int) int {
	if *soak {
		return full
	}
	return short
}

// proxiedVariable is set for the child process of TestProxyOfTheEnvironment.
const proxiedVariable = "III_TEST_PROXIED"

// TestMain fails if tests leave goroutines or a changed output of package log behind, or
// if a log line contains a secret.
func TestMain(m *testing.M) {
	flag.Parse()
	clearEnvironment()
	before := runtime.NumGoroutine()
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; code == 0 && !fuzzing { // the fuzzer has its own goroutines
		code = check(before)
	}
	os.Exit(code)
}

// clearEnvironment removes the variables that affect workers, telemetry and proxies: each
// test sets its own.
func clearEnvironment() {
	environ.Clear()
	if os.Getenv(proxiedVariable) != "" {
		return
	}
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			_ = os.Unsetenv(name)
		}
	}
}

func check(before int) (code int) {
	if left := leftover(before, waitLimit); left != "" {
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, more after them:\n%s\n", before, left)
		code = 1
	}
	if log.Writer() != os.Stderr {
		fmt.Fprintln(os.Stderr, "a test has left the output of package log elsewhere: see setSlogDefault")
		code = 1
	}
	if _, found := suite.result(); len(found) > 0 {
		fmt.Fprintf(os.Stderr, "secrets in the log or in errors:\n%q\n", found)
		code = 1
	}
	return code
}

// liveGoroutines returns the number of live goroutines. Unlike runtime.NumGoroutine, it
// does not count ended goroutines whose memory the runtime is still moving.
func liveGoroutines() int {
	stacks := make([]byte, 1<<20)
	for {
		if n := runtime.Stack(stacks, true); n < len(stacks) {
			return 1 + bytes.Count(stacks[:n], []byte("\n\ngoroutine "))
		}
		stacks = make([]byte, 2*len(stacks))
	}
}

// leftover waits until there are no more goroutines than before, and otherwise returns
// their stacks.
func leftover(before int, limit time.Duration) string {
	deadline := time.Now().Add(limit)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			return string(stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond) // an ended goroutine needs no notification
	}
	return ""
}

// Secrets that tests use. None of them may appear in a log line or an error text.
const (
	secretHeader   = "h3ader-s3cret"
	secretPassword = "pa55-s3cret"
	secretQuery    = "qu3ry-s3cret"
)

// collector searches for secrets in everything that the clients of the tests log, and in
// the errors that tests pass to it.
type collector struct {
	mu      sync.Mutex
	secrets []string
	lines   int
	found   []string
}

// suite collects data for TestMain.
var suite = &collector{secrets: []string{secretHeader, secretPassword, secretQuery, tokenMark}}

// testLogger receives the logs of all clients in tests. III_TEST_LOG=1 prints them.
var testLogger = slog.New(slog.NewTextHandler(logOutput(), &slog.HandlerOptions{Level: slog.LevelDebug}))

func logOutput() io.Writer {
	if os.Getenv("III_TEST_LOG") != "" {
		return io.MultiWriter(suite, os.Stderr)
	}
	return suite
}

// Write implements io.Writer for a log.
func (c *collector) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	for _, secret := range c.secrets {
		if bytes.Contains(line, []byte(secret)) && len(c.found) < 20 {
			c.found = append(c.found, strings.TrimSpace(string(line)))
		}
	}
	return len(line), nil
}

// note searches the text of an error, in the forms in which it may be printed, and
// returns the error.
func (c *collector) note(err error) error {
	if err != nil {
		_, _ = fmt.Fprintf(c, "%v %+v %#v", err, err, err)
	}
	return err
}

// result lists the lines with secrets.
func (c *collector) result() (lines int, found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines, append([]string(nil), c.found...)
}

// setSlogDefault sets the default of slog for a test. It also redirects the output of
// package log, which SetDefault does not restore: the output of log.Fatal in an example
// would be lost.
func setSlogDefault(t *testing.T, h slog.Handler) {
	t.Helper()
	previous, output, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(previous)
		log.SetOutput(output)
		log.SetFlags(flags)
	})
	slog.SetDefault(slog.New(h))
}
