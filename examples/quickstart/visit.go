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
)

// visit is a customer's way through the shop, step by step.
type visit struct {
	name     string
	httpURL  string
	shop     *shop
	customer *iii.Client
	out      io.Writer
}

func (v visit) say(what, format string, args ...any) {
	fmt.Fprintf(v.out, "%-8s %s\n", what, fmt.Sprintf(format, args...))
}

func (v visit) run(ctx context.Context) error {
	began := time.Now()
	v.say("workers", "%s and %s are connected", v.shop.client.Name(), v.customer.Name())
	for _, step := range []func(context.Context) error{v.ask, v.askForMore, v.post, v.update, v.remove} {
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
	quote, err := iii.Call[Quote](ctx, v.customer, v.shop.quoteID, order)
	if err != nil {
		return err
	}
	v.say("call", "%s: %d %s cost %d cents", v.shop.quoteID, order.Quantity, order.Item, quote.Cents)
	return same("the quote", quote, Quote{Cents: 1050})
}

// askForMore calls it with an order that it refuses.
func (v visit) askForMore(ctx context.Context) error {
	_, err := iii.Call[Quote](ctx, v.customer, v.shop.quoteID, Order{Item: "coffee", Quantity: 1})
	var refusal *iii.Error
	if !errors.As(err, &refusal) {
		return fmt.Errorf("an order of coffee ends with %v, not with the shop's error", err)
	}
	v.say("error", "%s: %s", refusal.Code, refusal.Message)
	return same("the code of the error", refusal.Code, "unknown_item")
}

// post makes an HTTP request, which the engine turns into a call of the shop's route.
func (v visit) post(ctx context.Context) error {
	path := "/" + v.name + "/orders/ada"
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	resp, err := postRouted(ctx, v.httpURL+path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var receipt Receipt
	if err := json.NewDecoder(resp.Body).Decode(&receipt); err != nil {
		return fmt.Errorf("POST %s: %s: %w", path, resp.Status, err)
	}
	v.say("http", "POST %s: %s, %s pays %d cents", path, resp.Status, receipt.Customer, receipt.Cents)
	return errors.Join(
		same("the HTTP status", resp.StatusCode, http.StatusCreated),
		same("the receipt", receipt, Receipt{Customer: "ada", Cents: 1050}))
}

// postRouted posts until the engine knows the route: it has accepted the route when
// Connect returns, and its HTTP server may be a moment behind.
func postRouted(ctx context.Context, url string, body []byte) (*http.Response, error) {
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for attempt := 1; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusNotFound || attempt == 20 {
			return resp, err
		}
		resp.Body.Close()
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// account is the state item that the customer keeps.
type account struct {
	Name   string  `json:"name"`
	Visits int     `json:"visits"`
	Orders []Order `json:"orders"`
}

// update changes a state item and waits until the shop's trigger has seen it.
func (v visit) update(ctx context.Context) error {
	in := iii.StateUpdateInput{Scope: v.name, Key: "ada", Ops: []iii.UpdateOp{
		iii.OpSet("name", "Ada"),
		iii.OpIncrement("visits", 1),
		iii.OpAppend(order, "orders"),
	}}
	result, err := iii.Call[iii.StateUpdateResult](ctx, v.customer, "state::update", in)
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
	v.say("state", "%s of %s after three operations: %s", in.Key, in.Scope, result.NewValue)
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

// remove leaves the engine as it was found.
func (v visit) remove(ctx context.Context) error {
	err := v.customer.Call(ctx, "state::delete", iii.StateDeleteInput{Scope: v.name, Key: "ada"}, nil)
	if err != nil {
		return err
	}
	_, err = v.awaitChange(ctx, iii.StateEventTypeDeleted)
	return err
}

// awaitChange returns what the shop's trigger delivers next.
func (v visit) awaitChange(ctx context.Context, want iii.StateEventType) (iii.StateEvent, error) {
	select {
	case e := <-v.shop.changes:
		v.say("trigger", "%s: %s of %s", e.EventType, e.Key, e.Scope)
		return e, errors.Join(same("the event", e.EventType, want), same("its key", e.Key, "ada"))
	case <-ctx.Done():
		return iii.StateEvent{}, fmt.Errorf("no event %s came: %w", want, context.Cause(ctx))
	}
}

// same returns an error unless got is what was expected.
func same(what string, got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("%s is %+v, not %+v", what, got, want)
}
