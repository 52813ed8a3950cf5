// Package tracetree prints traces as trees with time bars, for the examples. For each span, it
// prints the duration, the status and, on the lines below, the log records.
package tracetree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/iii-go/iii"
)

// Print fetches a trace from the engine and writes it to w, in lines of at most 100 columns.
// Flush the workers' telemetry first, so that the engine has their spans. The engine ends its
// own spans shortly after it has responded to the traced request, so Print polls for up to ten
// seconds until the trace is complete.
func Print(ctx context.Context, w io.Writer, c *iii.Client, traceID string) error {
	roots, err := read(ctx, c, traceID)
	if err != nil {
		return err
	}
	logs, err := iii.Call[iii.LogsListResult](ctx, c, "engine::logs::list", iii.LogsListInput{TraceID: traceID})
	if err != nil {
		return err
	}
	return write(w, roots, logs.Logs)
}

// patience limits how long Print waits for a complete trace.
const patience = 10 * time.Second

func read(ctx context.Context, c *iii.Client, traceID string) ([]iii.TraceNode, error) {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for end := time.Now().Add(patience); ; {
		tree, err := iii.Call[iii.TracesTreeResult](ctx, c, "engine::traces::tree", iii.TracesTreeInput{TraceID: traceID})
		switch {
		case err != nil:
			return nil, err
		case whole(tree.Roots), time.Now().After(end) && len(tree.Roots) > 0:
			return tree.Roots, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("the engine has no span of trace %s", traceID)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("trace %s is not whole", traceID), context.Cause(ctx))
		}
	}
}

// whole reports whether all spans have ended and form a single tree.
func whole(roots []iii.TraceNode) bool {
	return len(roots) == 1 && roots[0].ParentSpanID == nil && ended(roots)
}

func ended(spans []iii.TraceNode) bool {
	for _, s := range spans {
		if s.Pending || !ended(s.Children) {
			return false
		}
	}
	return true
}
