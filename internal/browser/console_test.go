package browser_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/browser"
)

type order struct {
	Item      string `json:"item"`
	Quantity  int    `json:"quantity"`
	Note      string `json:"note,omitempty"`
	CardToken string `json:"card_token,omitempty"`
}

// shopWorker returns a client with the given worker name, its telemetry and its logger.
func shopWorker(t *testing.T, engine *iiitest.Engine, name string) (*iii.Client, *iii.Telemetry, *slog.Logger) {
	t.Helper()
	url := engine.URL()
	telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url, ServiceName: &name, MetricsExportIntervalMs: new(uint64(500))})
	if err != nil {
		t.Fatal(err)
	}
	c, err := iii.New(url, iii.WithName(name), iii.WithDescription("The "+name+" of the demonstration"), iii.WithTelemetry(telemetry))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the engine may have ended
		_ = c.Close()
		_ = telemetry.Shutdown(context.WithoutCancel(t.Context()))
	})
	return c, telemetry, slog.New(telemetry.SlogHandler())
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// demonstrate runs two workers that use most engine features. The returned function places an
// order over HTTP.
func demonstrate(t *testing.T, engine *iiitest.Engine) func(item string, quantity int) {
	t.Helper()
	warehouse, _, stockLog := shopWorker(t, engine, "warehouse")
	ok := must[*iii.Function](t)
	ok(iii.Handle(warehouse, "warehouse::reserve", func(ctx context.Context, o order) (map[string]int, error) {
		err := iii.InSpan(ctx, "take from shelf", trace.SpanKindInternal, func(ctx context.Context) error {
			sha256.Sum256(make([]byte, o.Quantity<<20)) // takes some time
			if o.Quantity > 8 {
				return &iii.Error{Code: "out_of_stock", Message: "2 " + o.Item + " are left"}
			}
			stockLog.WarnContext(ctx, "stock is low", "item", o.Item, "left", 2)
			return nil
		})
		return map[string]int{"reserved": o.Quantity}, err
	}, iii.WithFunctionDescription("Takes goods from the shelf")))
	ok(iii.Handle(warehouse, "warehouse::restock", func(context.Context, iii.CronEvent) (any, error) { return nil, nil }))
	must[*iii.Trigger](t)(warehouse.Trigger("warehouse::restock", iii.CronTriggerConfig{Expression: "*/1 * * * * *"}))

	shop, telemetry, log := shopWorker(t, engine, "shop")
	placed := must[metric.Int64Counter](t)(telemetry.Meter().Int64Counter("orders.placed", metric.WithDescription("Orders by their result")))
	value := must[metric.Int64Histogram](t)(telemetry.Meter().Int64Histogram("orders.value", metric.WithDescription("What orders are worth"),
		metric.WithUnit("{cent}"), metric.WithExplicitBucketBoundaries(250, 500, 1000, 2000, 5000)))
	visits := must[metric.Int64Counter](t)(telemetry.Meter().Int64Counter("visits", metric.WithDescription("Visits by shelf")))
	waits := must[metric.Int64Histogram](t)(telemetry.Meter().Int64Histogram("waits", metric.WithDescription("Waits by shelf"), metric.WithUnit("ms")))
	for n := range 62 {
		shelf := metric.WithAttributes(attribute.Int("shelf", n))
		visits.Add(t.Context(), 2, shelf)
		waits.Record(t.Context(), int64(n), shelf)
	}
	ok(iii.HandleHTTP(shop, http.MethodPost, "/orders/:customer", func(ctx context.Context, r *iii.HTTPRequest[order]) (*iii.HTTPResponse[order], error) {
		log.InfoContext(ctx, "order received", "customer", r.PathParams["customer"], "item", r.Body.Item, "quantity", r.Body.Quantity)
		err := shop.Call(ctx, "warehouse::reserve", r.Body, nil)
		result := "accepted"
		var refusal *iii.Error
		if errors.As(err, &refusal) {
			result = refusal.Code
		}
		placed.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
		if err != nil {
			log.ErrorContext(ctx, "order refused", "reason", result)
			return nil, err
		}
		value.Record(ctx, int64(350*r.Body.Quantity))
		return &iii.HTTPResponse[order]{StatusCode: 201, Body: r.Body}, shop.Call(ctx, "state::set", iii.StateSetInput{Scope: "orders", Key: r.PathParams["customer"], Value: iii.JSONValue(`{"paid":true}`)}, nil)
	}, iii.WithFunctionDescription("Places an order for a customer")))
	ok(iii.Handle(shop, "shop::mail", func(ctx context.Context, e iii.StateEvent) (any, error) {
		log.DebugContext(ctx, "mail sent", "to", e.Key)
		return nil, nil
	}))
	scope := "orders"
	must[*iii.Trigger](t)(shop.Trigger("shop::mail", iii.StateTriggerConfig{Scope: &scope}))
	must[*iii.Trigger](t)(shop.Trigger("shop::mail", iii.CustomTrigger{Type: "github::push", Config: map[string]string{"repository": "iii"}}))
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	ok(iii.Handle(shop, "shop::report", func(ctx context.Context, _ any) (any, error) {
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return nil, nil
	}))
	for _, c := range []*iii.Client{warehouse, shop} {
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_ = shop.Call(context.WithoutCancel(t.Context()), "shop::report", map[string]string{"month": "November"}, nil)
	}()
	return func(item string, quantity int) {
		t.Helper()
		body := must[[]byte](t)(json.Marshal(order{Item: item, Quantity: quantity, Note: "please <b>hurry</b>", CardToken: "4242-4242"}))
		ctx, span := telemetry.Tracer().Start(t.Context(), "checkout")
		defer span.End()
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodPost, engine.HTTPURL()+"/orders/ada", bytes.NewReader(body)))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer s3cret")
		req.Header.Set("Cookie", "session=s3cret")
		resp := must[*http.Response](t)((&http.Client{Transport: iii.NewTracingTransport(nil)}).Do(req))
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// visitConsole opens a console view and waits for the expected text.
func visitConsole(page *browser.Page, hash, selector, text string) {
	browser.Eval[any](page, `location.hash = "`+hash+`"`)
	page.WaitText(selector, text)
}

func TestConsole(t *testing.T) {
	engine := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(iiitest.Protocol023), iiitest.WithQueue("once", iiitest.QueueConfig{MaxRetries: 1}))
	chromium := browser.Start(t)
	page := chromium.Open(engine.ConsoleURL())
	page.Resize(1440, 900)
	page.WaitText(".empty", "Waiting for the first worker")
	page.WaitText(".empty", engine.URL())
	page.Screenshot("console-empty")

	orderNow := demonstrate(t, engine) // the page is not reloaded from here on
	page.WaitText(".panel", "warehouse")
	for n := range 40 {
		orderNow([]string{"tea", "cake"}[n%2], 1+n%6)
	}
	page.WaitText(".panel", "shop::report") // a running invocation
	visitConsole(page, "#/invocations", "tr", "warehouse::reserve")
	orderNow("tea", 9)
	page.WaitText("tr.error", "out_of_stock")

	for _, scheme := range []string{"light", "dark"} {
		page.Dark(scheme == "dark")
		picture := func(name string) { page.Screenshot("console-" + name + "-" + scheme) }
		visitConsole(page, "#/overview", ".tile.bad", "Failed")
		page.WaitVisible(".chart rect")
		page.WaitText(".panel", "2 tea are left")
		picture("overview")

		visitConsole(page, "#/invocations", "tr", "http::POST/orders/:customer")
		page.Click(".seg button:nth-child(3)") // show only failed invocations
		page.Wait(`() => document.querySelectorAll("tbody tr").length === 2`)
		page.Click("tr.error:last-child")
		page.WaitText(".detail .failure", "2 tea are left")
		page.WaitText(".detail pre.json", "please <b>hurry</b>")
		page.WaitText(".detail pre.json .j-gone", "[REDACTED]")
		if text := browser.Eval[string](page, "document.body.innerText"); strings.Contains(text, "s3cret") || strings.Contains(text, "4242") {
			t.Error("the page shows a secret")
		}
		picture("invocation")
		page.Click(".seg button:first-child")
		page.Press("\x1b") // Escape
		page.WaitGone(".split.open")
		picture("invocations")

		visitConsole(page, "#/traces", "tr.error", "4 errors")
		page.Click(".seg button:first-child")
		page.Wait(`() => document.querySelectorAll("tbody tr").length > 40`)
		picture("traces")
		page.Click(".seg button:nth-child(2)") // only traces with errors, so no others are listed between them
		page.Wait(`() => document.querySelectorAll("tbody tr").length === 1`)
		page.Click("tr.error")
		page.WaitText(".row.failed", "execute warehouse::reserve")
		page.WaitText(".row.log", "order refused")
		picture("trace")
		page.Press("jjjj")
		page.WaitText(".detail h2", "execute http::POST/orders/:customer")
		page.WaitText(".detail", "exception")
		picture("span")
		if text := browser.Eval[string](page, "document.body.innerText"); strings.Contains(text, "s3cret") {
			t.Error("the span shows a secret")
		}
		browser.Eval[any](page, `document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "/", bubbles: true}))`)
		page.Wait(`() => document.activeElement.matches(".search input")`)
		page.Press("shelf")
		page.Wait(`() => document.querySelectorAll(".row.span").length === 1`)
		page.Press("\b\b\b\b\b")
		page.Wait(`() => document.querySelectorAll(".row.span").length > 1`)

		visitConsole(page, "#/logs", "tr.error", "order refused")
		picture("logs")
		visitConsole(page, "#/metrics", ".plot", "orders.placed")
		page.WaitVisible(".plot path")
		// The page counts series that are not plotted, and includes them in the total.
		page.Wait(`() => [...document.querySelectorAll(".plot")].some(p => /^visits\n[^]*\n124\n[^]*and 54 more series$/.test(p.innerText.trim()))`)
		page.Wait(`() => [...document.querySelectorAll(".plot")].some(p => /^waits\n[^]*\n62 values\n[^]*and 59 more series$/.test(p.innerText.trim()))`)
		picture("metrics")
		browser.Eval[any](page, `document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "/", bubbles: true}))`)
		page.Wait(`() => document.activeElement.matches(".search input")`)
		page.Press("shelf=29") // not among the series shown without a filter
		page.Wait(`() => [...document.querySelectorAll(".plot")].some(p => /^visits\n[^]*shelf=29[^]*and 61 more series$/.test(p.innerText.trim()))`)
		page.Press("\b\b\b\b\b\b\b\b")
		page.WaitText(".plot", "orders.placed")
		visitConsole(page, "#/functions/default/http%3A%3APOST%2Forders%2F%3Acustomer", ".detail .schema", "quantity")
		picture("function")
		visitConsole(page, "#/triggers", "tr", "github::push")
		page.WaitText("tr", "no provider")
		page.Press("j")
		page.WaitText(".detail", "POST /orders/:customer")
		picture("trigger")
		visitConsole(page, "#/workers", ".cards", "memory")
		picture("workers")
	}

	visitStores(t, page, engine)

	page.Resize(480, 800)
	for _, section := range []string{"overview", "invocations", "traces", "metrics", "functions", "state", "streams", "queues"} {
		visitConsole(page, "#/"+section, "#bar h1", strings.ToUpper(section[:1])+section[1:])
		page.Wait(`() => document.documentElement.scrollWidth <= innerWidth`)
		page.Screenshot("console-narrow-" + section)
	}
	page.Press("?")
	page.WaitText("dialog[open]", "Keyboard")
	page.Screenshot("console-narrow-help")

	second := chromium.Open(engine.ConsoleURL() + "#/workers")
	second.WaitText(".nav-item[data-id=invocations]", "3 failed") // whichever view is open

	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	page.Wait(`() => document.querySelector(".live").classList.contains("off")`)
}

// visitStores checks the views of state, streams, queues and dead letters while their contents
// change.
func visitStores(t *testing.T, page *browser.Page, engine *iiitest.Engine) {
	t.Helper()
	ctx := t.Context()
	c := must[*iii.Client](t)(iii.New(engine.URL(), iii.WithName("clerk")))
	defer c.Close()
	must[*iii.Function](t)(iii.HandleEvent(c, "clerk::fail", func(context.Context, any) error { return errors.New("out of paper") }))
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	carts, chat := iii.NewState[order](c, "carts"), iii.NewStream[string](c, "chat")

	visitConsole(page, "#/state", "tr", "orders")
	if _, err := carts.Set(ctx, "bob", order{Item: "tea", Quantity: 1, CardToken: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	page.WaitText("tr", `"item":"tea"`)
	page.Click(`.panel tbody tr:first-child button`) // the scope carts
	page.Wait(`() => document.querySelectorAll(".list > div > table tbody tr").length === 1`)
	page.Click(".list > div > table tbody tr")
	page.WaitText(".detail pre.json", "[REDACTED]")
	if _, err := carts.Set(ctx, "bob", order{Item: "cake", Quantity: 2}); err != nil {
		t.Fatal(err)
	}
	page.WaitText(".detail pre.json", "cake") // the open item is updated
	page.Screenshot("console-state")
	if _, _, err := carts.Delete(ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	page.WaitText(".detail", "no longer exists")
	page.Press("\x1b")
	page.WaitGone(".split.open")
	page.WaitText("#bar button", "carts")
	browser.Eval[any](page, `[...document.querySelectorAll("#bar button")].find(b => b.innerText.includes("carts")).click()`)
	page.WaitText("tr", "paid")

	visitConsole(page, "#/streams", ".empty", "No stream yet")
	if _, err := chat.Set(ctx, "lobby", "1", "hello"); err != nil {
		t.Fatal(err)
	}
	page.WaitText("tr", "hello")
	next, leave := iter.Pull2(iii.Subscribe(ctx, engine.StreamURL(), iii.StreamSubscription{StreamName: "chat", GroupID: "lobby"}))
	if _, err, _ := next(); err != nil {
		t.Fatal(err)
	}
	page.WaitText(".panel tr", "127.0.0.1:")
	page.Click(".list > div > table tbody tr")
	page.WaitText(".detail pre.json", "hello")
	page.Screenshot("console-streams")
	leave()
	page.Press("\x1b")
	page.Wait(`() => !document.querySelector(".panel").innerText.includes("127.0.0.1:")`)

	visitConsole(page, "#/queues", "tr", "default")
	must[iii.EnqueueResult](t)(c.Enqueue(ctx, "once", "clerk::fail", order{Item: "tea", CardToken: "s3cret"}))
	if err := c.PublishDurable(ctx, "gossip", "psst"); err != nil {
		t.Fatal(err)
	}
	page.WaitText("tr", "gossip")
	page.WaitText(`.nav-item[data-id=dead] .count.bad`, "1")
	page.Screenshot("console-queues")
	visitConsole(page, "#/dead", "tr.error", "clerk::fail")
	page.Click("tr.error")
	page.WaitText(".detail .failure", "function call failed")
	page.WaitText(".detail pre.json .j-gone", "[REDACTED]")
	page.Screenshot("console-dead")
	if text := browser.Eval[string](page, "document.body.innerText"); strings.Contains(text, "s3cret") {
		t.Error("the page shows a secret")
	}
	for _, letter := range must[[]iii.DeadLetter](t)(c.DeadLetters(ctx, "once")) {
		must[bool](t)(c.DiscardMessage(ctx, "once", letter.ID))
	}
	page.WaitText(".detail", "redriven or discarded")
}

func TestConsoleObservers(t *testing.T) {
	engine := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(iiitest.Protocol026))
	c := must[*iii.Client](t)(iii.New(engine.URL(), iii.WithName("shop")))
	defer c.Close()
	ok := must[*iii.Function](t)
	ok(iii.Handle(c, "orders::place", func(_ context.Context, o order) (string, error) { return o.Item, nil }))
	ok(iii.HandleEvent(c, "orders::mail", func(context.Context, iii.Observed[order, string]) error { return nil }))
	must[*iii.Observer](t)(c.Observe(iii.Source{FunctionID: "orders::place", Filters: json.RawMessage(`{"input.item":{"$eq":"tea"}}`)}, "orders::mail"))
	must[*iii.Observer](t)(c.Observe(iii.Source{FunctionID: "orders::nosuch"}, "orders::mail"))
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	page := browser.Start(t).Open(engine.ConsoleURL() + "#/observers")
	page.WaitText("tr", "active")
	page.WaitText("tr", "pending")
	for range 2 {
		if err := c.Call(t.Context(), "orders::place", order{Item: "tea"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	page.Wait(`() => [...document.querySelectorAll("tr")].some(r => r.innerText.includes("active") && /\b2\b/.test(r.innerText))`)
	page.WaitText(".panel", "Calls in process")
	browser.Eval[any](page, `[...document.querySelectorAll("tbody tr")].find(r => r.innerText.includes("active")).click()`)
	page.WaitText(".detail pre.json", `"$eq": "tea"`)
	page.WaitText(".detail", "orders::mail")
	page.Screenshot("console-observers")
}
