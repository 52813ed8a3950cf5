package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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

const told = `the stock has the schemas that the client was generated from
tea: 5 hot
cake: 1 
reserved 2 tea as r1, 3 left
reserved 2 tea as r2, 1 left
no more tea: 1 left
changed since: stock::list (response)
`

func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, false); err != nil {
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

// Consecutive runs can share an engine, and the output is the same with every engine version.
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

// The committed client must be what iiigen generates for the worker.
func TestClientIsCurrent(t *testing.T) {
	s, err := newStock(iiitest.Start(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.Close()
	if err := s.client.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Abs("iiigen.json")
	if err != nil {
		t.Fatal(err)
	}
	iiigen := exec.CommandContext(t.Context(), "go", "run", "-buildvcs=false", ".", "-config", config, "-url", s.url, "-check")
	iiigen.Dir = filepath.Join("..", "..", "cmd", "iiigen")
	iiigen.Env = append(os.Environ(), "GOWORK=") // use the go.work of cmd/iiigen
	if out, err := iiigen.CombinedOutput(); err != nil {
		t.Errorf("iiigen -check: %v\n%s", err, out)
	}
}
