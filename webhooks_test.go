package iii_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// webhooks is a TriggerProvider that notes what happens.

type webhooks struct {
	bind func(ctx context.Context, b iii.TriggerBinding) error // if it is there

	mu    sync.Mutex
	calls []string
	bound map[string]iii.TriggerBinding
	ctxs  map[string]context.Context
}

func (w *webhooks) note(format string, args ...any) {
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
}

func (w *webhooks) Bind(ctx context.Context, b iii.TriggerBinding) error {
	w.mu.Lock()
	again := ""
	if b.Unchanged {
		again = " unchanged"
	}
	w.note("bind %s %s%s", b.ID, b.Config, again)
	w.mu.Unlock()
	if w.bind != nil {
		if err := w.bind(ctx, b); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bound == nil {
		w.bound, w.ctxs = map[string]iii.TriggerBinding{}, map[string]context.Context{}
	}
	w.bound[b.ID], w.ctxs[b.ID] = b, ctx
	return nil
}

func (w *webhooks) Unbind(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("unbind %s", id)
	if w.ctxs[id].Err() == nil {
		w.note("context of %s has not ended", id)
	}
	delete(w.bound, id)
	return nil
}

// binding waits until nothing happens any more and returns what is bound.

func (w *webhooks) binding(t *testing.T, id string) (iii.TriggerBinding, context.Context) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.bound[id]
	if !ok {
		t.Fatalf("%s is not bound; calls: %q", id, w.calls)
	}
	return b, w.ctxs[id]
}

// happened returns what was called since it was asked last, in order for each

// trigger.

func (w *webhooks) happened() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	slices.SortStableFunc(calls, func(a, b string) int { return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1]) })
	return calls
}

func (w *webhooks) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.happened()); diff != "" {
		t.Errorf("%s: calls of the provider (-want +got):\n%s", what, diff)
	}
}

// providerBubble runs a test in a bubble, with an engine that asks providers about triggers and
// workers that connect to it. On engines with observers in their place, providers are hosts of
// observed functions.
func providerBubble(t *testing.T, test func(t *testing.T, e *iiitest.Engine, worker func(name string, opts ...iii.Option) *iii.Client)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		test(t, e, func(name string, opts ...iii.Option) *iii.Client {
			t.Helper()
			return connect(t, e, append([]iii.Option{iii.WithName(name), iii.WithDialContext(e.DialContext)}, opts...)...)
		})
	}, iiitest.WithProtocol(iiitest.Protocol025))
}

type hook struct {
	Path      string `json:"path"`
	Condition string `json:"condition_function_id,omitempty"`
}

func bindTo(t *testing.T, c *iii.Client, id, function string, config any, opts ...iii.TriggerOption) *iii.Trigger {
	t.Helper()
	trigger, err := c.Trigger(function, iii.CustomTrigger{Type: "webhook", Config: config}, append(opts, iii.WithTriggerID(id))...)
	if err != nil {
		t.Fatal(err)
	}
	return trigger
}
