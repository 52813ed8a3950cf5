package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/iiitest"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() { // unset the configuration of other workers
		name, _, _ := strings.Cut(variable, "=")
		if regexp.MustCompile(`(?i)^(III|OTEL|SERVICE)_`).MatchString(name) && !strings.HasPrefix(name, "III_TEST_") {
			_ = os.Unsetenv(name) // cannot fail for an existing name
		}
	}
	m.Run()
}

const told = `# A job is done, and the engine forgets it.
left: letter, page 1 of 1
left: letter is done
# What fails is tried again.
left: poem: page 1 is stuck
left: poem, page 1 of 2
left: poem, page 2 of 2
left: poem is done
# What fails three times is a dead letter, and can be given another chance.
left: diploma: there is no gold paper
left: diploma: there is no gold paper
left: diploma: there is no gold paper
office: dead after 3 attempts: {"pages":1,"paper":"gold","title":"diploma"}
        print_failed
office: there is gold paper now; 1 redriven
left: diploma, page 1 of 1
left: diploma is done
# What nobody can do is looked at and dropped.
office: dead after 3 attempts: {"pages":"many","title":"riddle"}
        invalid_request
office: dropped
# A worker that ends in the middle of a job leaves the rest to the next one.
left: novel, page 1 of 5
left: novel, page 2 of 5
left: novel: stopped after page 2 of 5
office: left has ended
right: novel, page 3 of 5
right: novel, page 4 of 5
right: novel, page 5 of 5
right: novel is done
`

// checkRun runs the program and checks its output. It compares errors only by their codes.
func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := regexp.MustCompile(`ErrorBody \{ code: "(\w+)", .*`).ReplaceAllString(out.String(), "$1")
	if diff := cmp.Diff(told, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	checkRun(t)
}

// Two runs can share an engine, and every engine version gives the same results.
func TestRunOnExistingEngine(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
			t.Setenv("III_URL", engine.URL())
			checkRun(t)
			checkRun(t)
		})
	}
}

func TestRunSaysThatItWasInterrupted(t *testing.T) {
	t.Setenv("III_URL", "")
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if err := run(ctx, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, not %v", err, context.Canceled)
	}
}
