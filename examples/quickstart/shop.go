package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/iii-go/iii"
	"go.opentelemetry.io/otel/trace"
)

// Order is the input of the function and of the HTTP route.
type Order struct {
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// Quote is the price of an order.
type Quote struct {
	Cents int `json:"cents"`
}

// Receipt is the response to an order sent over HTTP.
type Receipt struct {
	Customer string `json:"customer"`
	Cents    int    `json:"cents"`
}

// prices are in cents.
var prices = map[string]int{"tea": 350, "cake": 480}

type shop struct {
	*worker
	quoteID string
	changes chan iii.StateEvent // events received by the state trigger
}

// openShop creates the shop's worker and registers its functions and triggers. It does not use
// the network: the client sends the registrations when it connects. onReject is called if the
// engine rejects the state trigger.
func openShop(ctx context.Context, url, name string, onReject func(error)) (_ *shop, err error) {
	w, err := newWorker(ctx, url, name, "shop")
	if err != nil {
		return nil, err
	}
	s := &shop{worker: w, quoteID: name + "::quote", changes: make(chan iii.StateEvent)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shutdown(ctx))
		}
	}()
	client := s.client
	_, err = iii.Handle(client, s.quoteID, s.quote, iii.WithFunctionDescription("What an order costs"))
	if err != nil {
		return nil, err
	}
	_, err = iii.HandleHTTP(client, http.MethodPost, "/"+name+"/orders/:name", s.order)
	if err != nil {
		return nil, err
	}
	changed, err := iii.Handle(client, name+"::changed", s.changed)
	if err != nil {
		return nil, err
	}
	_, err = client.Trigger(changed.ID(), iii.StateTriggerConfig{Scope: &name}, iii.WithTriggerErrorHandler(onReject))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// quote handles calls to the function. If it returns an *iii.Error, the caller receives the
// error's code.
func (s *shop) quote(ctx context.Context, o Order) (Quote, error) {
	price, ok := prices[o.Item]
	if !ok {
		s.log.WarnContext(ctx, "not for sale", "item", o.Item)
		return Quote{}, &iii.Error{Code: "unknown_item", Message: "there is no " + o.Item + " here"}
	}
	s.log.InfoContext(ctx, "quoted", "item", o.Item, "price", price)
	return Quote{Cents: price * o.Quantity}, nil
}

// order serves an HTTP route. It calls quote through the engine, as another worker would. The
// call therefore appears in the request's trace.
func (s *shop) order(ctx context.Context, r *iii.HTTPRequest[Order]) (*iii.HTTPResponse[Receipt], error) {
	receipt := Receipt{Customer: r.PathParams["name"]}
	s.log.InfoContext(ctx, "order received", "customer", receipt.Customer)
	quote, err := iii.Call[Quote](ctx, s.client, s.quoteID, r.Body)
	if err != nil {
		return nil, err
	}
	err = iii.InSpan(ctx, "charge "+receipt.Customer, trace.SpanKindInternal, func(ctx context.Context) error {
		receipt.Cents = quote.Cents
		s.log.InfoContext(ctx, "paid", "cents", receipt.Cents)
		return nil
	})
	return &iii.HTTPResponse[Receipt]{StatusCode: http.StatusCreated, Body: receipt}, err
}

// changed serves the state trigger.
func (s *shop) changed(ctx context.Context, e iii.StateEvent) (any, error) {
	select {
	case s.changes <- e:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
