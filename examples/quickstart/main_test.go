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

// outline removes the parts of the output that differ between runs.
func outline(out string) []string {
	for _, differs := range []struct{ expr, with string }{
		{`demo-[a-z0-9]{6}`, "NAME"},
		{`(ws|http)://127\.0\.0\.1:\d+`, "$1://ENGINE"},
		{`in [0-9.]+m?s`, "in TIME"},
		{`(?m)^(trace +)[0-9a-f]{32}$`, "${1}ID"},
		{`(?m) +[0-9.]+ (ns|µs|ms|s)  [ ━╸╺]{20}  (ok|error|unset)$`, "  TIME  BAR  $2"},
		{`[0-9.]+ MiB`, "N MiB"},
		{`[0-9]+ ms of CPU`, "N ms of CPU"},
	} {
		out = regexp.MustCompile(differs.expr).ReplaceAllString(out, differs.with)
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

var wantOutput = []string{
	`engine   ws://ENGINE, HTTP at http://ENGINE`,
	`workers  NAME-shop and NAME-customer are connected`,
	`call     NAME::quote: 3 tea cost 1050 cents`,
	`error    unknown_item: there is no coffee here`,
	`http     POST /NAME/orders/ada: 201 Created, ada pays 1050 cents`,
	`trace    ID`,
	``,
	`customer  order tea  TIME  BAR  ok`,
	`          │  INFO ordering  item=tea  quantity=3`,
	`customer  └─ POST /NAME/orders/ada  TIME  BAR  ok`,
	`iii          └─ POST /NAME/orders/:name  TIME  BAR  unset`,
	`shop            └─ execute http::POST/NAME/orders/:name  TIME  BAR  ok`,
	`                   │  INFO order received  customer=ada`,
	`shop               ├─ execute NAME::quote  TIME  BAR  ok`,
	`                   │     INFO quoted  item=tea  price=350`,
	`shop               └─ charge ada  TIME  BAR  ok`,
	`                         INFO paid  cents=1050`,
	``,
	`state    ada of NAME is now {"name":"Ada","orders":[{"item":"tea","quantity":3}],"visits":1}`,
	`trigger  state:created: ada of NAME`,
	`trigger  state:deleted: ada of NAME`,
	`process  NAME-shop: N MiB of memory, N MiB in the heap, N ms of CPU`,
	`done     in TIME`,
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(wantOutput, outline(out.String())); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// The result is the same with every engine version, and a second run on the same engine
// succeeds because the first one has removed its state items.
func TestRunOnExistingEngine(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithStrictProtocol())
			t.Setenv("III_URL", engine.URL())
			t.Setenv("III_HTTP_URL", engine.HTTPURL())
			for range 2 {
				var out bytes.Buffer
				if err := run(t.Context(), &out); err != nil {
					t.Fatalf("%v\n%s", err, &out)
				}
				if diff := cmp.Diff(wantOutput, outline(out.String())); diff != "" {
					t.Errorf("output (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestRunSaysWhyItFails(t *testing.T) {
	engine := iiitest.Start(t)
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("III_URL", engine.URL())
	reason := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if err := run(ctx, new(bytes.Buffer)); !errors.Is(err, reason) {
		t.Errorf("the error is %v, which is not %v", err, reason)
	}
}

func TestReadmeShowsTheOutput(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```\nengine ")
	sample, _, found := strings.Cut("engine "+rest, "```")
	if !found {
		t.Fatal("the README has no sample of the output")
	}
	if diff := cmp.Diff(wantOutput, outline(sample)); diff != "" {
		t.Errorf("sample in the README (-want +got):\n%s", diff)
	}
}
