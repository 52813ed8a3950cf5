package main

import (
	"context"
	"net/http"

	"github.com/iii-go/iii"
)

// Order is what customers send, to the function and to the HTTP route alike.
type Order struct {
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// Quote is what an order costs.
type Quote struct {
	Cents int `json:"cents"`
}

// Receipt is the answer to an order that came over HTTP.
type Receipt struct {
	Customer string `json:"customer"`
	Cents    int    `json:"cents"`
}

// prices are in cents.
var prices = map[string]int{"tea": 350, "cake": 480}

// shop is the worker that serves.
type shop struct {
	client  *iii.Client
	quoteID string
	changes chan iii.StateEvent // what the state trigger delivers
}

// openShop registers what the shop serves. Nothing here waits for the network: the
// registrations leave when the client connects. refused is called if the engine does
// not take the trigger.
func openShop(url, name string, refused func(error)) (*shop, error) {
	client, err := iii.New(url, iii.WithName(name+"-shop"), iii.WithDescription("The shop of the quickstart"))
	if err != nil {
		return nil, err
	}
	s := &shop{client: client, quoteID: name + "::quote", changes: make(chan iii.StateEvent)}

	_, err = iii.Handle(client, s.quoteID, s.quote, iii.WithFunctionDescription("What an order costs"))
	if err != nil {
		return nil, err
	}
	_, err = iii.HandleHTTP(client, http.MethodPost, "/"+name+"/orders/:customer", s.order)
	if err != nil {
		return nil, err
	}
	changed, err := iii.Handle(client, name+"::changed", s.changed)
	if err != nil {
		return nil, err
	}
	_, err = client.Trigger(changed.ID(), iii.StateTriggerConfig{Scope: &name}, iii.WithTriggerErrorHandler(refused))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// quote serves a function. The code of an *iii.Error reaches the caller.
func (s *shop) quote(_ context.Context, o Order) (Quote, error) {
	price, ok := prices[o.Item]
	if !ok {
		return Quote{}, &iii.Error{Code: "unknown_item", Message: "there is no " + o.Item + " here"}
	}
	return Quote{Cents: price * o.Quantity}, nil
}

// order serves an HTTP route.
func (s *shop) order(ctx context.Context, r *iii.HTTPRequest[Order]) (*iii.HTTPResponse[Receipt], error) {
	quote, err := s.quote(ctx, r.Body)
	if err != nil {
		return nil, err
	}
	receipt := Receipt{Customer: r.PathParams["customer"], Cents: quote.Cents}
	return &iii.HTTPResponse[Receipt]{StatusCode: http.StatusCreated, Body: receipt}, nil
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
