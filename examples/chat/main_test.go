package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
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

const told = `open  http://ENGINE/NAME
ada   sync   [{"author":"Ada","id":"ID","text":"Is anybody here?"}]
grace sync   [{"author":"Ada","id":"ID","text":"Is anybody here?"}]
ada   create {"author":"Grace","id":"ID","text":"Hello, Ada"}
grace create {"author":"Grace","id":"ID","text":"Hello, Ada"}
count sync   [{"count":2}]
count update {"count":1}
mallory is refused
`

// checkRun runs the program and checks its output. Placeholders replace the parts that differ
// between runs.
func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, false); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := regexp.MustCompile(`http://127\.0\.0\.1:\d+/chat-[a-z0-9]{6}`).ReplaceAllString(out.String(), "http://ENGINE/NAME")
	got = regexp.MustCompile(`"id":"[A-Z0-9]+"`).ReplaceAllString(got, `"id":"ID"`)
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
			t.Setenv("III_HTTP_URL", engine.HTTPURL())
			t.Setenv("III_STREAM_URL", engine.StreamURL())
			checkRun(t)
			checkRun(t)
		})
	}
}

// With -serve, the page contains the stream socket's address, and invalid messages are
// rejected.
func TestServe(t *testing.T) {
	engine := iiitest.Start(t)
	t.Setenv("III_URL", engine.URL())
	t.Setenv("III_HTTP_URL", engine.HTTPURL())
	t.Setenv("III_STREAM_URL", engine.StreamURL())
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, w, true) }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("no output: %v", <-ended)
	}
	url := strings.TrimPrefix(lines.Text(), "open  ")

	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	html, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(html), `"stream":"`+engine.StreamURL()+`"`) {
		t.Errorf("GET %s: %s\n%s", url, resp.Status, html)
	}
	for _, test := range []struct {
		name, room, body string
		status           int
	}{
		{"no such room", "cellar", `{"author":"Ada","text":"Hello"}`, http.StatusNotFound},
		{"no author", "lobby", `{"author":" ","text":"Hello"}`, http.StatusBadRequest},
		{"no text", "lobby", `{"author":"Ada"}`, http.StatusBadRequest},
		{"too long", "lobby", `{"author":"Ada","text":"` + strings.Repeat("x", 5000) + `"}`, http.StatusBadRequest},
	} {
		resp, err := http.Post(url+"/"+test.room, "application/json", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("%s: %s, want %d", test.name, resp.Status, test.status)
		}
	}

	interrupt()
	if err := <-ended; err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
