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

const told = `stranger  is refused: unknown token
acme      calls shared::tea-price: 350
acme      calls acme::hello: hello from acme
acme      may not call globex::hello
acme      may not call state::list_groups
acme      serves GET /acme/hello: hello from acme
acme      may not serve GET /hello
globex    calls shared::tea-price: 350
globex    calls globex::hello: hello from globex
globex    may not call acme::hello
globex    may not call state::list_groups
globex    serves GET /globex/hello: hello from globex
globex    may not serve GET /hello
keeper    sees acme::hello of {"tenant":"acme"}
keeper    sees no acme::internal::audit
`

func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(told, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	checkRun(t)
}

// The program works with the documented configuration on every engine version.
func TestRunOnExistingEngine(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol(), iiitest.WithGuard(guard))
			t.Setenv("III_URL", engine.URL())
			t.Setenv("III_GUARDED_URL", engine.GuardedURL())
			t.Setenv("III_HTTP_URL", engine.HTTPURL())
			checkRun(t)
			checkRun(t)
		})
	}
}

func TestRunOnAnOpenPort(t *testing.T) {
	engine := iiitest.Start(t)
	t.Setenv("III_URL", engine.URL())
	t.Setenv("III_GUARDED_URL", engine.URL())
	if err := run(t.Context(), new(bytes.Buffer)); err == nil {
		t.Error("a stranger comes in")
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
