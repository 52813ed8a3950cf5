package main

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// asProgram is an environment variable that makes the test binary run as the program.
const asProgram = "III_EXAMPLE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	for _, variable := range os.Environ() { // unset the configuration of other workers
		name, _, _ := strings.Cut(variable, "=")
		if regexp.MustCompile(`(?i)^(III|OTEL|SERVICE)_`).MatchString(name) && !strings.HasPrefix(name, "III_TEST_") {
			_ = os.Unsetenv(name) // cannot fail for an existing name
		}
	}
	m.Run()
}

// The program serves its function until it is interrupted, and then exits with status 0.
func TestWorker(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			t.Parallel()
			testWorker(t, iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol()))
		})
	}
}

func testWorker(t *testing.T, engine *iiitest.Engine) {
	client, err := iii.New(engine.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The engine confirms the registration or, if it does not support observers, responds to
	// the ping that the client sends after the registration.
	ready := make(chan struct{})
	once := sync.OnceFunc(func() { close(ready) })
	engine.Hook(func(f iiitest.Frame) iiitest.Verdict {
		if f.Direction == iiitest.FromEngine && (f.Type() == "pong" || f.Type() == "functionregistered") {
			once()
		}
		return iiitest.Verdict{}
	})

	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), asProgram+"=1", "III_URL="+engine.URL())
	program.Stderr = os.Stderr
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the program ended at once: %v", err)
	}
	got, err := iii.Call[string](t.Context(), client, "greetings::hello", Person{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Hello, Ada"; got != want {
		t.Errorf("greetings::hello returned %q, want %q", got, want)
	}

	if runtime.GOOS == "windows" { // Windows cannot interrupt a single process
		_ = program.Process.Kill()
		<-ended
		return
	}
	if err := program.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
