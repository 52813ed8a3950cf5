package tracetree

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
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

// span returns a span that lasts from start to end, in microseconds.
func span(id, service, name, status string, start, end uint64, children ...iii.TraceNode) iii.TraceNode {
	const begin = 1_700_000_000_000_000_000
	return iii.TraceNode{
		SpanID: id, ServiceName: service, Name: name, Status: status,
		StartTimeUnixNano: begin + 1000*start, EndTimeUnixNano: begin + 1000*end, Children: children,
	}
}

func record(id, level, body, data string, at uint64) iii.StoredLog {
	l := iii.StoredLog{SpanID: &id, SeverityText: level, Body: body, TimestampUnixNano: 1_700_000_000_000_000_000 + 1000*at}
	if data != "" {
		l.Attributes = iii.Map[iii.JSONValue]{"log.data": json.RawMessage(data)}
	}
	return l
}

func TestWrite(t *testing.T) {
	failed := span("c", "bank", "charge", "error", 500, 1000)
	failed.StatusDescription = "card\ndeclined"
	open := span("d", "bank", "refund", "unset", 1500, 1500)
	open.EndTimeUnixNano, open.Pending = 0, true
	backwards := span("e", "bank", "clock set back", "ok", 1900, 100)
	root := span("a", "shop", "order", "ok", 0, 2000,
		span("b", "iii", strings.Repeat("long ", 20), "unset", 250, 750), failed, open, backwards)
	logs := []iii.StoredLog{ // newest first, as the engine lists them
		record("a", "INFO", "done", `"as text"`, 1950),
		record("c", "ERROR", "no", `{"why":"no \"money\"","cents":12}`, 600),
		record("a", "", strings.Repeat("x", 100), "", 300),
		record("other", "INFO", "not of this trace", "", 300),
		record("a", "INFO", "begun", `{"item":"tea","on":{"day":1}}`, 100),
	}
	want := `
shop  order                                                     2.00 ms  ━━━━━━━━━━━━━━━━━━━━  ok
      │  INFO begun  item=tea  on={"day":1}
iii   ├─ long long long long long long long long long long lo…   500 µs    ╺━━━━╸              unset
      │  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
bank  ├─ charge                                                  500 µs       ━━━━━            error
      │     ✗ card declined
      │     ERROR no  cents=12  why="no \"money\""
bank  ├─ refund                                                       …                 ━━━━━  open
bank  └─ clock set back                                            0 ns                     ╸  ok
         INFO done  data="as text"
`
	var out strings.Builder
	if err := write(&out, []iii.TraceNode{root}, logs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), out.String()); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(out.String()) {
		if n := columns(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestColors(t *testing.T) {
	tree := tree{}
	root := span("a", "shop", "order", "error", 0, 2000)
	root.StatusDescription = "sold out"
	tree.add(&root, "", "")
	plainText := string(tree.format(false))
	colored := string(tree.format(true))
	for _, sequence := range []string{plain, faint, red, services[0]} {
		if !strings.Contains(colored, sequence) {
			t.Errorf("%q has no %q", colored, sequence)
		}
		colored = strings.ReplaceAll(colored, sequence, "")
	}
	if diff := cmp.Diff(plainText, colored); diff != "" {
		t.Errorf("colors change the text (-plain +colored):\n%s", diff)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "0 ns",
		999:                          "999 ns",
		1000:                         "1.00 µs",
		9994:                         "9.99 µs",
		9996:                         "10.0 µs",
		99_940:                       "99.9 µs",
		99_960:                       "100 µs",
		999_499:                      "999 µs",
		999_600:                      "1.00 ms",
		1500 * time.Millisecond:      "1.50 s",
		(20*60 + 5) * time.Second:    "1205 s",
		12345678 * time.Microsecond:  "12.3 s",
		123456789 * time.Microsecond: "123 s",
	} {
		if got := short(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}

func TestPrintSaysWhatIsMissing(t *testing.T) {
	const unknown = "0af7651916cd43dd8448eb211c80319c"
	synctest.Test(t, func(t *testing.T) {
		engine := iiitest.Start(t)
		c, err := iii.New(engine.URL(), iii.WithDialContext(engine.DialContext))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = Print(t.Context(), new(strings.Builder), c, unknown)
		if err == nil || !strings.Contains(err.Error(), unknown) {
			t.Errorf("the error is %v and does not name the trace", err)
		}
		reason := errors.New("no more patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, reason)
		defer cancel()
		err = Print(ctx, new(strings.Builder), c, unknown)
		if !errors.Is(err, reason) {
			t.Errorf("the error is %v, not %v", err, reason)
		}
	})
}
