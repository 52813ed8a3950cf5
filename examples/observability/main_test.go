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
		{`ws://127\.0\.0\.1:\d+`, "ws://ENGINE"},
		{`(?m)^(accepted|refused)( +)[0-9a-f]{32}$`, "${1}${2}ID"},
		{`(?m) +[0-9.]+ (ns|µs|ms|s)  [ ━╸╺]+  (ok|error|unset)$`, "  TIME  BAR  $2"},
		{`[0-9.]+ MiB`, "N MiB"},
		{`[0-9]+ ms of CPU`, "N ms of CPU"},
	} {
		out = regexp.MustCompile(differs.expr).ReplaceAllString(out, differs.with)
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

var wantOutput = []string{
	`engine     ws://ENGINE`,
	`order      1 tea: 350 cents`,
	`order      2 tea: 700 cents`,
	`order      1 cake: 480 cents`,
	`order      4 cake: 1920 cents`,
	`order      5 tea: 1750 cents`,
	`order      9 tea: 2 tea are left`,
	``,
	`accepted   ID`,
	``,
	`shop       execute NAME::place  TIME  BAR  ok`,
	`           │  INFO order received  item=tea  quantity=5`,
	`warehouse  ├─ execute NAME::reserve  TIME  BAR  ok`,
	`warehouse  │  └─ take from shelf  TIME  BAR  ok`,
	`           │        WARN stock is low  item=tea  left=2`,
	`shop       └─ charge card  TIME  BAR  ok`,
	``,
	`refused    ID`,
	``,
	`shop       execute NAME::place  TIME  BAR  error`,
	`           │  ✗ 2 tea are left`,
	`           │  INFO order received  item=tea  quantity=9`,
	`warehouse  └─ execute NAME::reserve  TIME  BAR  error`,
	`              │  ✗ 2 tea are left`,
	`warehouse     └─ take from shelf  TIME  BAR  error`,
	`                    ✗ iii: out_of_stock: 2 tea are left`,
	`              ERROR order refused  reason=out_of_stock`,
	``,
	`counter    orders.placed: orders by their result`,
	`           accepted        5  ━━━━━━━━━━━━━━━━━━━━`,
	`           out_of_stock    1  ━━━━`,
	``,
	`histogram  orders.value: what accepted orders are worth; 5 of 5200 cents`,
	`           to 500          2  ━━━━━━━━`,
	`           to 1000         1  ━━━━`,
	`           to 2000         2  ━━━━━━━━`,
	`           to 5000         0`,
	`           above           0`,
	``,
	`process    NAME-shop       N MiB of memory, N MiB in the heap, N ms of CPU`,
	`process    NAME-warehouse  N MiB of memory, N MiB in the heap, N ms of CPU`,
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
			checkRun(t)
			checkRun(t)
		})
	}
}

func checkRun(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(wantOutput, outline(out.String())); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
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
