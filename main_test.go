package iii

import (
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/environ"
)

// soak makes the tests of promises run at full scale.
var soak = flag.Bool("soak", false, "run the tests of promises at full scale")

// scale is how often a test repeats something.
func scale(short, full int) int {
	if *soak {
		return full
	}
	return short
}

// proxiedVariable is set for the child of TestProxyOfTheEnvironment.
const proxiedVariable = "III_TEST_PROXIED"

// TestMain fails when tests leave goroutines or another output of package log behind,
// or when a secret is in something that was logged.
func TestMain(m *testing.M) {
	flag.Parse()
	clearEnvironment()
	before := runtime.NumGoroutine()
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; code == 0 && !fuzzing { // the fuzzer has goroutines of its own
		code = check(before)
	}
	os.Exit(code)
}

// clearEnvironment takes away what the machine says to workers, to telemetry and of
// proxies: each test sets what it is about.
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

// leftover waits until there are no more goroutines than before and returns the
// stacks if there are after all.
func leftover(before int, limit time.Duration) string {
	deadline := time.Now().Add(limit)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			return string(stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond) // an ended goroutine is told to nobody
	}
	return ""
}
