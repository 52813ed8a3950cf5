package main

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/iii-go/iii"
)

// parcel is the input of the source. Filters refer to its fields as input.depot and input.kg.
type parcel struct {
	Depot string `json:"depot"`
	Kg    int    `json:"kg"`
}

// interest contains an observer's arguments. The source advertises the schema of this type, so
// the engine rejects arguments that do not match it.
type interest struct {
	Depot string `json:"depot"`
}

// bid is a carrier's reply.
type bid struct {
	Carrier string `json:"carrier"`
	Price   int    `json:"price"`
}

// noBid is the error code for a parcel that no carrier bids on.
const noBid = "NO_BID"

var depots = []string{"north", "south"}

// exchange is the worker that serves the source.
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
		iii.WithPrivate(), // other workers cannot place parcels
		iii.WithObserverHooks(iii.ObserverHooks{
			Added: x.added,
			// With keys, finding a parcel's observers takes a single lookup, regardless of the
			// number of carriers.
			Keys: &iii.ObserverKeys{
				Observer: func(o *iii.FunctionObserver) []string { return depotOf(o.Args()) },
				Call:     func(call *iii.ObservedCall) []string { return depotOf(call.Input) },
			},
			Deliver: x.deliver,
		}))
	return x, err
}

// added rejects observers for unknown depots. The carrier's call to Observer.Ready returns the
// error.
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

// depotOf returns the depot named by a parcel or by an observer's arguments, as a list of
// lookup keys.
func depotOf(raw json.RawMessage) []string {
	var of interest
	if json.Unmarshal(raw, &of) != nil {
		return nil
	}
	return []string{of.Depot}
}

// deliver replaces the engine's delivery, which would call every matching observer and ignore
// the results. It must evaluate the observers' filters itself.
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
			continue // a failed call is treated as no bid
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

// place calls the source. If the engine permits it, the function and its hooks run in process.
func (x *exchange) place(ctx context.Context, p parcel) (bid, error) {
	return iii.Call[bid](ctx, x.client, x.source.ID(), p)
}
