package browser_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/browser"
)

// hostile is markup that runs a script unless the page escapes it. It contains no spaces, so
// it does not wrap.
const hostile = `"><img/src=x/onerror="window.pwned=1"><script>window.pwned=1</script><svg/onload="window.pwned=1">'`

// Names chosen by workers are shown as text and do not overflow the layout.
func TestConsoleHostileNames(t *testing.T) {
	engine := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(iiitest.Protocol023), iiitest.WithQueue("bad", iiitest.QueueConfig{MaxRetries: 1}))
	worker, telemetry, _ := shopWorker(t, engine, "worker"+hostile)
	id, log := "f::"+hostile, telemetry.Logger()
	data := map[string]any{hostile: hostile}
	ok := must[*iii.Function](t)
	ok(iii.Handle(worker, id, func(ctx context.Context, in map[string]any) (any, error) {
		log.Warn(ctx, hostile, data)
		return nil, &iii.Error{Code: hostile, Message: hostile}
	}, iii.WithFunctionDescription(hostile), iii.WithFunctionMetadata(data)))
	ok(iii.Handle(worker, "deep::er", func(ctx context.Context, depth int) (any, error) {
		if depth == 0 {
			return hostile, worker.Call(ctx, id, data, nil)
		}
		return hostile, worker.Call(ctx, "deep::er", depth-1, nil)
	}))
	must[*iii.Trigger](t)(worker.Trigger(id, iii.CustomTrigger{Type: hostile, Config: data}, iii.WithTriggerID("hostile")))
	must[metric.Int64Counter](t)(telemetry.Meter().Int64Counter("hostile", metric.WithDescription(hostile))).
		Add(t.Context(), 1, metric.WithAttributes(attribute.String(hostile, hostile)))
	if err := worker.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err1 := iii.NewState[string](worker, hostile).Set(t.Context(), hostile, hostile)
	_, err2 := iii.NewStream[string](worker, hostile).Set(t.Context(), hostile, hostile, hostile)
	_, err3 := worker.Enqueue(t.Context(), "bad", id, data)
	if err := errors.Join(err1, err2, err3, worker.PublishDurable(t.Context(), hostile, hostile)); err != nil {
		t.Fatal(err)
	}
	ctx, span := telemetry.Tracer().Start(t.Context(), hostile)
	_ = worker.Call(ctx, "deep::er", 30, nil) // the innermost call fails
	span.End()
	traceID := span.SpanContext().TraceID().String()
	if err := telemetry.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}

	page := browser.Start(t).Open(engine.ConsoleURL())
	// The view is redrawn every second. The focus must not move.
	page.WaitVisible("a.tile")
	browser.Eval[any](page, `(tile => { tile.focus(); tile.old = true })(document.querySelector("a.tile:nth-child(3)"))`)
	page.Wait(`() => !document.querySelector("a.tile:nth-child(3)").old`)
	if !browser.Eval[bool](page, `document.activeElement.matches("a.tile:nth-child(3)")`) {
		t.Error("the focus is lost when the page is drawn again")
	}
	for _, width := range []int{1440, 480} {
		page.Resize(width, 900)
		for _, place := range []struct{ hash, selector, text string }{
			{"#/overview", ".panel", hostile},
			{"#/workers", ".panel h2", hostile},
			{"#/functions/default/" + encoded(page, id), ".detail h2", hostile},
			{"#/functions/default/" + encoded(page, id), ".detail pre.json", "onerror"},
			{"#/triggers", "tr", "onerror"},
			{"#/triggers/hostile", ".detail", "No worker provides"},
			{"#/invocations", "tr", "deep::er"},
			{"#/traces", "tr", hostile},
			{"#/traces/" + traceID, ".row.span", hostile},
			{"#/traces/" + traceID, ".row.log", hostile},
			{"#/logs", "tr", hostile},
			{"#/metrics", ".plot", hostile},
			{"#/state", "tr", hostile},
			{"#/state/" + encoded(page, hostile) + "/" + encoded(page, hostile), ".detail pre.json", "onerror"},
			{"#/streams", "tr", hostile},
			{"#/streams/" + encoded(page, hostile) + "/" + encoded(page, hostile) + "/" + encoded(page, hostile), ".detail pre.json", "onerror"},
			{"#/queues", "tr", hostile},
			{"#/dead", "tr", id},
			{"#/traces/%", ".note", "no span of this trace"},
		} {
			visitConsole(page, place.hash, place.selector, place.text)
			check(t, page, place.hash, width)
			if place.hash == "#/traces/"+traceID || place.hash == "#/invocations" || place.hash == "#/logs" || place.hash == "#/dead" {
				page.Press("j")
				page.WaitVisible(".detail h2")
				check(t, page, place.hash+", details", width)
				page.Screenshot(fmt.Sprintf("console-hostile-%d-%.6s", width, place.hash[2:]))
				page.Press("\x1b")
				page.WaitGone(".split.open")
			}
		}
	}
}

// check fails the test if the page has interpreted a name as markup, or if an element extends
// beyond the page's width.
func check(t *testing.T, page *browser.Page, where string, width int) {
	t.Helper()
	if browser.Eval[bool](page, `window.pwned === 1 || document.querySelector("img, svg[onload], #main script") !== null`) {
		t.Errorf("%s: text was taken for markup", where)
	}
	out := browser.Eval[[]string](page, `[document.documentElement, ...document.querySelectorAll("#nav, #bar, #view, .list, .detail, .panel, .rows, .trace-head")]
		.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map(e => e.tagName + "#" + e.id + "." + e.className)`)
	if len(out) > 0 {
		t.Errorf("%s, %d pixels: sticks out of %v", where, width, out)
	}
}

func encoded(page *browser.Page, s string) string {
	return browser.Eval[string](page, fmt.Sprintf("encodeURIComponent(%q)", s))
}
