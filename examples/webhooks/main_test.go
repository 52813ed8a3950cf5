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

const told = `bound push
refused: iii: NAME::deploy: trigger_registration_failed: config of the webhook: no event
push {"ref":"refs/heads/main"}: 200 OK: triggers: 1
deploy refs/heads/main after a push
push {"ref":"refs/heads/topic"}: 200 OK: triggers: 1
issues {"ref":"refs/heads/main"}: 200 OK: triggers: 0
push {"ref":"refs/heads/main"}: 401 Unauthorized: the signature is wrong
push "no push": 502 Bad Gateway: a function has failed
push ref=main: 400 Bad Request: want a POST of at most 1 MiB of JSON
unbound push
push {"ref":"refs/heads/main"}: 200 OK: triggers: 0
`

func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, "127.0.0.1:0", false); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	got := regexp.MustCompile(`webhooks-[a-z0-9]{6}`).ReplaceAllString(out.String(), "NAME")
	if diff := cmp.Diff(told, got); diff != "" {
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

// With -serve, the program takes the secret from the environment and never prints it.
func TestServe(t *testing.T) {
	t.Setenv("III_URL", "")
	t.Setenv("WEBHOOK_SECRET", "secret of the test")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, w, "127.0.0.1:0", true) }()
	lines := bufio.NewScanner(out)
	await := func(prefix string) string {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), "secret of the test") {
				t.Errorf("the secret is shown: %s", lines.Text())
			}
			if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return rest
			}
		}
		t.Fatalf("no line begins with %q: %v", prefix, <-ended)
		return ""
	}
	url, _, _ := strings.Cut(await("Webhooks go to "), " ")
	await("bound push")

	body := `{"ref":"refs/heads/main"}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-GitHub-Event", "push")
	// Computed with: printf %s "$body" | openssl dgst -sha256 -hmac "secret of the test"
	req.Header.Set("X-Hub-Signature-256", "sha256=fb237ea3d5f2b2413a48b0cd9cb1390bc195a14ddd9fc65d2f85a2b0a1bda3c7")
	answered := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		answered <- err
	}()
	await("deploy refs/heads/main after a push")
	if err := <-answered; err != nil {
		t.Error(err)
	}

	interrupt()
	if err := <-ended; err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
