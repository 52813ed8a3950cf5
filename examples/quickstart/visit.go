package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/examples/tracetree"
	"go.opentelemetry.io/otel/codes"
)

// visit runs the customer's steps and prints the results.
type visit struct {
	name     string
	httpURL  string
	shop     *shop
	customer *worker
	out      io.Writer
}

func (v visit) say(what, format string, args ...any) {
	fmt.Fprintf(v.out, "%-8s %s\n", what, fmt.Sprintf(format, args...))
}

func (v visit) run(ctx context.Context) error {
	began := time.Now()
	v.say("workers", "%s and %s are connected", v.shop.client.Name(), v.customer.client.Name())
	for _, step := range []func(context.Context) error{v.ask, v.askForMore, v.post, v.update, v.remove, v.inspect} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	v.say("done", "in %v", time.Since(began).Round(time.Millisecond))
	return nil
}

var order = Order{Item: "tea", Quantity: 3}

// ask calls the shop's function.
func (v visit) ask(ctx context.Context) error {
	quote, err := iii.Call[Quote](ctx, v.customer.client, v.shop.quoteID, order)
	if err != nil {
		return err
	}
	v.say("call", "%s: %d %s cost %d cents", v.shop.quoteID, order.Quantity, order.Item, quote.Cents)
	return same("the quote", quote, Quote{Cents: 1050})
}

// askForMore orders an item that the shop does not sell, so the function returns an error.
func (v visit) askForMore(ctx context.Context) error {
	_, err := iii.Call[Quote](ctx, v.customer.client, v.shop.quoteID, Order{Item: "coffee", Quantity: 1})
	var refusal *iii.Error
	if !errors.As(err, &refusal) {
		return fmt.Errorf("an order of coffee ends with %v, not with the shop's error", err)
	}
	v.say("error", "%s: %s", refusal.Code, refusal.Message)
	return same("the code of the error", refusal.Code, "unknown_item")
}

// post sends an HTTP request, which the engine turns into a call to the shop's route, and
// prints the request's trace.
func (v visit) post(ctx context.Context) error {
	path := "/" + v.name + "/orders/ada"
	resp, traceID, err := v.postRouted(ctx, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var receipt Receipt
	if err := json.NewDecoder(resp.Body).Decode(&receipt); err != nil {
		return fmt.Errorf("POST %s: %s: %w", path, resp.Status, err)
	}
	v.say("http", "POST %s: %s, %s pays %d cents", path, resp.Status, receipt.Customer, receipt.Cents)
	err = errors.Join(
		same("the HTTP status", resp.StatusCode, http.StatusCreated),
		same("the receipt", receipt, Receipt{Customer: "ada", Cents: 1050}))
	if err != nil {
		return err
	}
	// After Flush, the engine has all telemetry recorded so far.
	if err := errors.Join(v.customer.telemetry.Flush(ctx), v.shop.telemetry.Flush(ctx)); err != nil {
		return err
	}
	v.say("trace", "%s\n", traceID)
	err = tracetree.Print(ctx, v.out, v.customer.client, traceID)
	fmt.Fprintln(v.out)
	return err
}

// postRouted posts the order. The engine's HTTP server might not serve a new route until
// shortly after Connect has returned, so postRouted retries after a 404. Each attempt has its
// own trace; traceID identifies the trace of the returned response.
func (v visit) postRouted(ctx context.Context, path string) (_ *http.Response, traceID string, err error) {
	body, err := json.Marshal(order)
	if err != nil {
		return nil, "", err
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for attempt := 1; ; attempt++ {
		resp, traceID, err := v.postOnce(ctx, path, body)
		if err != nil || resp.StatusCode != http.StatusNotFound || attempt == 20 {
			return resp, traceID, err
		}
		resp.Body.Close()
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
	}
}

// postOnce posts the order inside a new span, which is the root of the trace.
func (v visit) postOnce(ctx context.Context, path string, body []byte) (_ *http.Response, traceID string, err error) {
	ctx, span := v.customer.telemetry.Tracer().Start(ctx, "order tea")
	defer span.End()
	v.customer.log.InfoContext(ctx, "ordering", "item", order.Item, "quantity", order.Quantity)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.httpURL+path, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := tracedHTTP.Do(req)
	if err == nil && resp.StatusCode == http.StatusCreated {
		span.SetStatus(codes.Ok, "")
	}
	return resp, iii.TraceID(ctx), err
}

// tracedHTTP records a span for each request, in the trace of the request's context, and
// propagates the trace to the server.
var tracedHTTP = &http.Client{Transport: iii.NewTracingTransport(nil)}

// account is the state item that the customer stores.
type account struct {
	Name   string  `json:"name"`
	Visits int     `json:"visits"`
	Orders []Order `json:"orders"`
}

// update changes a state item and waits until the shop's trigger has fired.
func (v visit) update(ctx context.Context) error {
	in := iii.StateUpdateInput{Scope: v.name, Key: "ada", Ops: []iii.UpdateOp{
		iii.OpSet("name", "Ada"),
		iii.OpIncrement("visits", 1),
		iii.OpAppend(order, "orders"),
	}}
	result, err := iii.Call[iii.StateUpdateResult](ctx, v.customer.client, "state::update", in)
	if err != nil {
		return err
	}
	if len(result.Errors) > 0 {
		return fmt.Errorf("state::update: operation %d: %s", result.Errors[0].OpIndex, result.Errors[0].Message)
	}
	var ada account
	if err := json.Unmarshal(result.NewValue, &ada); err != nil {
		return fmt.Errorf("state::update: %w", err)
	}
	v.say("state", "%s of %s is now %s", in.Key, in.Scope, result.NewValue)
	want := account{"Ada", 1, []Order{order}}
	if err := same("the updated item", ada, want); err != nil {
		return err
	}
	event, err := v.awaitChange(ctx, iii.StateEventTypeCreated)
	if err != nil {
		return err
	}
	var seen account
	if err := json.Unmarshal(event.NewValue, &seen); err != nil {
		return fmt.Errorf("%s: %w", event.EventType, err)
	}
	return same("the item in the event", seen, want)
}

// remove deletes the state item, so that the program leaves nothing behind in the engine.
func (v visit) remove(ctx context.Context) error {
	err := v.customer.client.Call(ctx, "state::delete", iii.StateDeleteInput{Scope: v.name, Key: "ada"}, nil)
	if err != nil {
		return err
	}
	_, err = v.awaitChange(ctx, iii.StateEventTypeDeleted)
	return err
}

// awaitChange waits for the next event from the shop's trigger and checks its type and key.
func (v visit) awaitChange(ctx context.Context, want iii.StateEventType) (iii.StateEvent, error) {
	select {
	case e := <-v.shop.changes:
		v.say("trigger", "%s: %s of %s", e.EventType, e.Key, e.Scope)
		return e, errors.Join(same("the event", e.EventType, want), same("its key", e.Key, "ada"))
	case <-ctx.Done():
		return iii.StateEvent{}, fmt.Errorf("no event %s came: %w", want, context.Cause(ctx))
	}
}

// inspect prints the metrics that the engine has received from the shop's process.
func (v visit) inspect(ctx context.Context) error {
	if err := v.shop.telemetry.Flush(ctx); err != nil {
		return err
	}
	info, err := v.customer.client.WorkerInfo(ctx, v.shop.client.Name())
	if err != nil {
		return err
	}
	m := info.LatestMetrics
	if m == nil || m.MemoryRSS == nil || m.MemoryHeapUsed == nil || m.CPUUserMicros == nil || m.CPUSystemMicros == nil {
		return fmt.Errorf("the engine has no process metrics of %s", v.shop.client.Name())
	}
	const mib = 1 << 20
	v.say("process", "%s: %.1f MiB of memory, %.1f MiB in the heap, %d ms of CPU", v.shop.client.Name(),
		float64(*m.MemoryRSS)/mib, float64(*m.MemoryHeapUsed)/mib, (*m.CPUUserMicros+*m.CPUSystemMicros)/1000)
	return nil
}

// same returns an error unless got equals want.
func same(what string, got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("%s is %+v, not %+v", what, got, want)
}
