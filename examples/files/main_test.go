package main

import (
	"bytes"
	"context"
	"errors"
	"os"
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

const told = `picture:  25 %
picture:  50 %
picture:  75 %
picture: 100 %
picture: 2097178 bytes, with the checksum of the archive
no-such-file: no_such_file
`

func checkRun(t *testing.T, want, from, to string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, from, to); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	checkRun(t, told, "", "")
}

// Two runs can share an engine, and every engine version gives the same results.
func TestRunOnExistingEngine(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
			t.Setenv("III_URL", engine.URL())
			checkRun(t, told, "", "")
			checkRun(t, told, "", "")
		})
	}
}

// With the arguments FROM and TO, the program copies FROM unchanged to TO and creates no other
// file.
func TestRunWithFiles(t *testing.T) {
	t.Setenv("III_URL", "")
	for _, content := range []string{"", "a few bytes"} {
		from, dir := filepath.Join(t.TempDir(), "letter"), t.TempDir()
		if err := os.WriteFile(from, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		want := "letter: 0 bytes, with the checksum of the archive\nno-such-file: no_such_file\n"
		if content != "" {
			want = "letter:  25 %\nletter:  50 %\nletter:  75 %\nletter: 100 %\nletter: 11 bytes, with the checksum of the archive\nno-such-file: no_such_file\n"
		}
		checkRun(t, want, from, filepath.Join(dir, "copy"))
		got, err := os.ReadFile(filepath.Join(dir, "copy"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(content, string(got)); diff != "" {
			t.Errorf("the copy (-want +got):\n%s", diff)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("beside the copy there are %v, %v", files, err)
		}
	}
}

func TestRunSaysWhyItFails(t *testing.T) {
	t.Setenv("III_URL", "")
	if err := run(t.Context(), new(bytes.Buffer), "letter", ""); err == nil {
		t.Error("a file goes nowhere")
	}
	if err := run(t.Context(), new(bytes.Buffer), filepath.Join(t.TempDir(), "none", "letter"), "copy"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file of a directory that there is not: %v", err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if err := run(ctx, new(bytes.Buffer), "", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interrupt: %v", err)
	}
}
