package main

import (
	"context"
	"errors"

	"github.com/iii-go/iii"
)

// carrier is a worker that observes the source and bids on parcels.
type carrier struct {
	name, depot string
	most        int // weight limit in kg; 0 means none
	price       func(parcel) int

	client   *iii.Client
	observer *iii.Observer
}

func (c *carrier) start(ctx context.Context, url, name, source string) (err error) {
	if c.client, err = iii.New(url, iii.WithName(name+"-"+c.name)); err != nil {
		return err
	}
	// The exchange calls this function directly, with a parcel as the payload. If the engine
	// called the function, the payload would be an iii.Observed.
	target, err := iii.Handle(c.client, name+"::"+c.name, func(_ context.Context, p parcel) (bid, error) {
		return bid{Carrier: c.name, Price: c.price(p)}, nil
	})
	if err != nil {
		return errors.Join(err, c.client.Close())
	}
	s := iii.Source{FunctionID: source, Args: interest{Depot: c.depot}}
	if c.most > 0 {
		s.Filters = map[string]any{"input.kg": map[string]any{"$lte": c.most}}
	}
	if c.observer, err = c.client.Observe(s, target.ID()); err != nil {
		return errors.Join(err, c.client.Close())
	}
	if err := c.client.Connect(ctx); err != nil {
		return errors.Join(err, c.client.Close())
	}
	return nil
}
