package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/iii-go/iii"
)

// The types below are internal to the stock worker. Callers use types that iiigen generates
// from the schemas.

type product struct {
	Name     string   `json:"name"`
	Quantity uint32   `json:"quantity" jsonschema:"Quantity in stock."`
	Tags     []string `json:"tags,omitempty"`
}

type reservation struct {
	Product  string     `json:"product"`
	Quantity uint32     `json:"quantity"`
	Until    *time.Time `json:"until,omitempty" jsonschema:"When the reservation ends; never if it is absent."`
}

type reserved struct {
	ID   string `json:"id"`
	Left uint32 `json:"left"`
}

// stock is the worker that manages the products.
type stock struct {
	client *iii.Client
	url    string
	lister *iii.Function

	mu       sync.Mutex
	products []product
	reserved int
}

// newStock returns a worker with a few products, for the engine at url.
func newStock(url string, opts ...iii.Option) (*stock, error) {
	c, err := iii.New(url, append(opts, iii.WithName("stock"))...)
	if err != nil {
		return nil, err
	}
	s := &stock{client: c, url: url, products: []product{{Name: "tea", Quantity: 5, Tags: []string{"hot"}}, {Name: "cake", Quantity: 1}}}
	s.lister, err = iii.Handle(c, "stock::list", s.list, iii.WithFunctionDescription("Lists all products."))
	if err != nil {
		return nil, err
	}
	_, err = iii.Handle(c, "stock::reserve", s.reserve,
		iii.WithFunctionDescription("Keeps a product for the caller."),
		iii.WithFunctionMetadata(map[string]any{"errors": map[string]string{
			"unknown_product": "There is no such product.",
			"out_of_stock":    "The stock is smaller than the requested quantity.",
		}}))
	return s, err
}

// upgrade replaces stock::list with a version that adds prices.
func (s *stock) upgrade(ctx context.Context) error {
	type priced struct {
		product
		Price uint64 `json:"price"`
	}
	if err := s.lister.Unregister(); err != nil {
		return err
	}
	_, err := iii.Handle(s.client, "stock::list", func(ctx context.Context, _ struct{}) (iii.List[priced], error) {
		products, err := s.list(ctx, struct{}{})
		all := make(iii.List[priced], len(products))
		for i, p := range products {
			all[i] = priced{p, 100}
		}
		return all, err
	})
	if err != nil {
		return err
	}
	// The engine handles messages in order. By the time it replies to this request, it has
	// registered the function.
	_, err = s.client.FunctionInfo(ctx, "stock::list")
	return err
}

func (s *stock) list(context.Context, struct{}) (iii.List[product], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(iii.List[product](nil), s.products...), nil
}

func (s *stock) reserve(_ context.Context, r reservation) (reserved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.products {
		p := &s.products[i]
		if p.Name != r.Product {
			continue
		}
		if p.Quantity < r.Quantity {
			return reserved{}, &iii.Error{Code: "out_of_stock", Message: fmt.Sprintf("%d left", p.Quantity)}
		}
		p.Quantity -= r.Quantity
		s.reserved++
		return reserved{ID: fmt.Sprintf("r%d", s.reserved), Left: p.Quantity}, nil
	}
	return reserved{}, &iii.Error{Code: "unknown_product", Message: r.Product}
}
