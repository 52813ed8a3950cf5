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

const told = `bike      observes depot north
truck     observes depot north
rocket    is refused: DEPOT_UNKNOWN: there is no depot moon
exchange  3 kg at north: bike for 7
exchange  15 kg at north: truck for 18
exchange  80 kg at north: truck for 18
exchange  3 kg at south: nobody carries it
exchange  3 kg at north, without the bike: truck for 18
`

func checkRun(t *testing.T, want string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	checkRun(t, told)
}

// Consecutive runs can share an engine. Engines before 0.26 do not support hooks, and engines
// before 0.25 do not support observers either.
func TestRunOnExistingEngine(t *testing.T) {
	for protocol, want := range map[iiitest.Protocol]string{
		iiitest.Protocol023: "exchange  UNSUPPORTED\n" +
			"bike      UNSUPPORTED: the engine does not support observers (no observe.v1 in its features); upgrade it to 0.25 or later\n",
		iiitest.Protocol025: "exchange  UNSUPPORTED\nbike      is pending\n",
		iiitest.Protocol026: told,
	} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
			t.Setenv("III_URL", engine.URL())
			checkRun(t, want)
			checkRun(t, want)
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
