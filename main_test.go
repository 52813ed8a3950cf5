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

var soak = flag.Bool("soak", false, "run the tests of promises at full scale")

// scale returns full if the flag -soak is set, and short otherwise.
func scale(short, full int) int {
	if *soak {
		return full
	}
	return short
}

// proxiedVariable is set in child processes of TestProxyFromEnvironment.
const proxiedVariable = "III_TEST_PROXIED"

// TestMain fails if a test leaves goroutines behind, does not restore package log's output, or
// logs a secret.
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

// clearEnvironment unsets variables that affect workers, telemetry and proxies. Each test sets
// the variables that it needs.
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

// liveGoroutines counts goroutines. Unlike runtime.NumGoroutine, it leaves out goroutines that
// have returned but have not been cleaned up yet.
func liveGoroutines() int {
	stacks := make([]byte, 1<<20)
	for {
		if n := runtime.Stack(stacks, true); n < len(stacks) {
			return 1 + bytes.Count(stacks[:n], []byte("\n\ngoroutine "))
		}
		stacks = make([]byte, 2*len(stacks))
	}
}

// leftover waits until there are no more goroutines than before the tests. If that takes
// longer than limit, it returns the stacks of all goroutines.
func leftover(before int, limit time.Duration) string {
	deadline := time.Now().Add(limit)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			return string(stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond) // there is no notification when a goroutine ends
	}
	return ""
}

// No log line and no error may contain these secrets.
const (
	secretHeader   = "h3ader-s3cret"
	secretPassword = "pa55-s3cret"
	secretQuery    = "qu3ry-s3cret"
)

// collector searches for secrets in log lines and in the errors passed to note.
type collector struct {
	mu      sync.Mutex
	secrets []string
	lines   int
	found   []string
}

// suite is the collector that all tests share. TestMain reads it.
var suite = &collector{secrets: []string{secretHeader, secretPassword, secretQuery, tokenMark}}

// testLogger is the logger that all clients use in tests. III_TEST_LOG=1 prints its output.
var testLogger = slog.New(slog.NewTextHandler(logOutput(), &slog.HandlerOptions{Level: slog.LevelDebug}))

func logOutput() io.Writer {
	if os.Getenv("III_TEST_LOG") != "" {
		return io.MultiWriter(suite, os.Stderr)
	}
	return suite
}

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

// note searches err for secrets, as formatted by %v, %+v and %#v, and returns err.
func (c *collector) note(err error) error {
	if err != nil {
		_, _ = fmt.Fprintf(c, "%v %+v %#v", err, err, err)
	}
	return err
}

// result returns the number of lines searched, and the lines that contain secrets.
func (c *collector) result() (lines int, found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines, append([]string(nil), c.found...)
}

// setSlogDefault replaces slog's default handler until the test ends. It also restores package
// log's output, which slog.SetDefault redirects. Otherwise, the message of a log.Fatal in an
// example would be lost.
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
