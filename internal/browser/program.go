package browser

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"
)

// root returns the repository's root directory. Tests run in their package's directory.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !isFile(filepath.Join(dir, "types_gen.go")) {
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run inside the repository")
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Program is a program of the root module, started by [Run].
type Program struct {
	t     testing.TB
	lines chan string // lines of the standard output; closed when the program exits
	said  []string
}

// Run builds the program at path, such as "./examples/chat", and runs it until the test ends.
// The program is then interrupted and must exit with status 0. Its environment variables for
// engine URLs are empty, and it shares the test's standard error.
func Run(t testing.TB, path string, args ...string) *Program {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "program")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, path)
	build.Dir = root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", path, err, out)
	}
	run := exec.Command(binary, args...)
	run.Dir = t.TempDir()
	run.Env = append(os.Environ(), "III_URL=", "III_HTTP_URL=", "III_STREAM_URL=")
	run.Stderr = os.Stderr
	stdout, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Program{t: t, lines: make(chan string, 1000)}
	ended := make(chan error, 1)
	go func() {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.lines <- s.Text()
		}
		close(p.lines)
		ended <- run.Wait()
	}()
	t.Cleanup(func() {
		if runtime.GOOS == "windows" { // Windows cannot interrupt a single process
			_ = run.Process.Kill()
			<-ended
			return
		}
		_ = run.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(patience, func() { _ = run.Process.Kill() })
		defer kill.Stop()
		for range p.lines { // discard the remaining output
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: after an interrupt: %v", path, err)
		}
	})
	return p
}

// Match waits for a line of the program's standard output that matches pattern. It returns the
// match and its submatches. Later calls search only the lines that follow.
func (p *Program) Match(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the program ended, and no line of it matches %s: %q", pattern, p.said)
			}
			p.said = append(p.said, line)
			if match := re.FindStringSubmatch(line); match != nil {
				return match
			}
		case <-timeout:
			p.t.Fatalf("no line of the program matches %s: %q", pattern, p.said)
		}
	}
}
