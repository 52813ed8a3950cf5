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

const told = `POST /notes: 401 Unauthorized
    | log in first
POST /login: 204 No Content
      Set-Cookie: session=SESSION; Path=/; HttpOnly; SameSite=Lax
      Set-Cookie: user=ada; Path=/; SameSite=Lax
POST /notes: 201 Created
      Location: /NAME/notes/1
    | {"id":1,"author":"ada","text":"Buy tea"}
POST /notes: 201 Created
      Location: /NAME/notes/2
    | {"id":2,"author":"ada","text":"Bake a cake"}
GET /notes: 200 OK
    | {"notes":[{"id":1,"author":"ada","text":"Buy tea"},{"id":2,"author":"ada","text":"Bake a cake"}]}
GET /notes/2: 200 OK
    | {"id":2,"author":"ada","text":"Bake a cake"}
GET /notes/3: 404 Not Found
    | 404 page not found
GET /notes.csv: 200 OK
      Content-Disposition: attachment; filename="notes.csv"
    | id,author,text
    | 1,ada,Buy tea
    | 2,ada,Bake a cake
GET /notes.csv: 206 Partial Content
      Content-Disposition: attachment; filename="notes.csv"
      Content-Range: bytes 15-46/47
    | 1,ada,Buy tea
    | 2,ada,Bake a cake
event | id: 1
event | data: {"id":1,"author":"ada","text":"Buy tea"}
event | id: 2
event | data: {"id":2,"author":"ada","text":"Bake a cake"}
`

// checkRun runs the program and checks its output. Placeholders replace the parts that differ
// between runs.
func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, false); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := regexp.MustCompile(`notes-[a-z0-9]{6}`).ReplaceAllString(out.String(), "NAME")
	got = regexp.MustCompile(`session=[A-Z0-9]+`).ReplaceAllString(got, "session=SESSION")
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
			checkRun(t)
			checkRun(t)
		})
	}
}

// With -serve, the program serves until it is interrupted, and then closes open event streams.
func TestServe(t *testing.T) {
	engine := iiitest.Start(t)
	t.Setenv("III_URL", engine.URL())
	t.Setenv("III_HTTP_URL", engine.HTTPURL())
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, w, true) }()

	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("no output: %v", <-ended)
	}
	base := strings.TrimSuffix(strings.TrimPrefix(lines.Text(), "The notes are at "), ". Try:")
	for range strings.Count(manual, "\n") - 1 { // keep the pipe empty, or the program would block
		lines.Scan()
	}
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("GET /events: %s, %s", resp.Status, got)
	}

	interrupt()
	if err := <-ended; err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("the events end with %q, %v", rest, err)
	}
}
