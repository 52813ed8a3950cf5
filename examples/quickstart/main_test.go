package main

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/iiitest"
)

// outline is what run says, without what differs from run to run.
func outline(out string) []string {
	out = regexp.MustCompile(`quickstart-[a-z0-9]+`).ReplaceAllString(out, "NAME")
	out = regexp.MustCompile(`(ws|http)://127\.0\.0\.1:\d+`).ReplaceAllString(out, "$1://ENGINE")
	out = regexp.MustCompile(`in [0-9.]+m?s`).ReplaceAllString(out, "in TIME")
	return strings.Split(strings.TrimSpace(out), "\n")
}

var told = []string{
	`engine   ws://ENGINE, HTTP at http://ENGINE`,
	`workers  NAME-shop and NAME-customer are connected`,
	`call     NAME::quote: 3 tea cost 1050 cents`,
	`error    unknown_item: there is no coffee here`,
	`http     POST /NAME/orders/ada: 201 Created, ada pays 1050 cents`,
	`state    ada of NAME after three operations: {"name":"Ada","orders":[{"item":"tea","quantity":3}],"visits":1}`,
	`trigger  state:created: ada of NAME`,
	`trigger  state:deleted: ada of NAME`,
	`done     in TIME`,
}

func TestRun(t *testing.T) {
	t.Setenv("III_URL", "")
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if diff := cmp.Diff(told, outline(out.String())); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// An engine that others use as well is left as it was found.
func TestRunOnAnEngineThatIsThere(t *testing.T) {
	engine := iiitest.Start(t)
	t.Setenv("III_URL", engine.URL())
	t.Setenv("III_HTTP_URL", engine.HTTPURL())
	for range 2 {
		var out bytes.Buffer
		if err := run(t.Context(), &out); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		if diff := cmp.Diff(told, outline(out.String())); diff != "" {
			t.Errorf("output (-want +got):\n%s", diff)
		}
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
