package main

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/iii-go/iii"
)

// parcel is the input of the source. Filters see it as input.depot and input.kg.
type parcel struct {
	Depot string `json:"depot"`
	Kg    int    `json:"kg"`
}

// interest is what the observers of the source say with their arguments. The engine rejects
// other arguments, since the source advertises the schema of this type.
type interest struct {
	Depot string `json:"depot"`
}

// bid is what a carrier answers.
type bid struct {
	Carrier string `json:"carrier"`
	Price   int    `json:"price"`
}

// noBid is the code of the error for a parcel that nobody carries.
const noBid = "NO_BID"

var depots = []string{"north", "south"}

// exchange is the worker that hosts the source.
type exchange struct {
	client *iii.Client
	source *iii.Function
}

func newExchange(url, name string) (*exchange, error) {
	client, err := iii.New(url, iii.WithName(name+"-exchange"))
	if err != nil {
		return nil, err
	}
	x := &exchange{client: client}
	x.source, err = iii.Handle(client, name+"::on-parcel", func(_ context.Context, p parcel) (parcel, error) { return p, nil },
		iii.WithArgs[interest](),
		iii.WithPrivate(), // nobody else places parcels
		iii.WithObserverHooks(iii.ObserverHooks{
			Added: x.added,
			// With keys, a parcel costs one lookup however many carriers there are.
			Keys: &iii.ObserverKeys{
				Observer: func(o *iii.FunctionObserver) []string { return depotOf(o.Args()) },
				Call:     func(call *iii.ObservedCall) []string { return depotOf(call.Input) },
			},
			Deliver: x.deliver,
		}))
	return x, err
}

// added refuses observers of depots that there are not. The error is that of Observer.Ready.
func (x *exchange) added(_ context.Context, o *iii.FunctionObserver) error {
	var args interest
	if err := o.DecodeArgs(&args); err != nil {
		return err
	}
	if !slices.Contains(depots, args.Depot) {
		return &iii.Error{Code: "DEPOT_UNKNOWN", Message: "there is no depot " + args.Depot}
	}
	return nil
}

// depotOf is the key of both observers and parcels.
func depotOf(raw json.RawMessage) []string {
	var of interest
	if json.Unmarshal(raw, &of) != nil {
		return nil
	}
	return []string{of.Depot}
}

// deliver takes the place of the engine, which would call all observers whose filters match
// and ignore their results. The filters are left to the hook.
func (x *exchange) deliver(ctx context.Context, call *iii.ObservedCall, observers []*iii.FunctionObserver) (any, error) {
	if err := call.Err(); err != nil {
		return nil, err
	}
	var best bid
	for _, o := range observers {
		if !o.Matches(call) {
			continue
		}
		var offer bid
		if err := o.Call(ctx, call.Input, &offer); err != nil {
			continue // a carrier that fails makes no bid
		}
		if best.Carrier == "" || offer.Price < best.Price {
			best = offer
		}
	}
	if best.Carrier == "" {
		return nil, &iii.Error{Code: noBid, Message: "nobody carries it"}
	}
	return best, nil
}

// place calls the source. It runs in process if the engine allows that, hooks included.
func (x *exchange) place(ctx context.Context, p parcel) (bid, error) {
	return iii.Call[bid](ctx, x.client, x.source.ID(), p)
}
