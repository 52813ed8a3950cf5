package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/iii-go/iii"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Order is the input of the place and reserve functions.
type Order struct {
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// Receipt is the reply to an order. It contains the id of the order's trace.
type Receipt struct {
	Cents   int    `json:"cents"`
	TraceID string `json:"trace_id"`
}

// prices are in cents.
var prices = map[string]int{"tea": 350, "cake": 480}

// openShop registers the function that accepts orders. The function counts all orders and
// records the value of each accepted one.
func openShop(w *worker, name string) error {
	placed, err := w.telemetry.Meter().Int64Counter("orders.placed",
		metric.WithDescription("Orders by their result"))
	if err != nil {
		return err
	}
	value, err := w.telemetry.Meter().Int64Histogram("orders.value",
		metric.WithDescription("What accepted orders are worth"), metric.WithUnit("{cent}"),
		metric.WithExplicitBucketBoundaries(500, 1000, 2000, 5000))
	if err != nil {
		return err
	}
	run := attribute.String("run", name) // distinguishes runs that share an engine

	_, err = iii.Handle(w.client, name+"::place", func(ctx context.Context, o Order) (Receipt, error) {
		// The client has already started a span for this handler.
		trace.SpanFromContext(ctx).SetAttributes(attribute.String("order.item", o.Item), attribute.Int("order.quantity", o.Quantity))
		w.log.InfoContext(ctx, "order received", "item", o.Item, "quantity", o.Quantity)

		err := w.client.Call(ctx, name+"::reserve", o, nil)
		result := "accepted"
		var refusal *iii.Error
		if errors.As(err, &refusal) {
			result = refusal.Code
		}
		placed.Add(ctx, 1, metric.WithAttributes(run, attribute.String("result", result)))
		if err != nil {
			w.log.ErrorContext(ctx, "order refused", "reason", result)
			return Receipt{}, err
		}
		receipt := Receipt{Cents: prices[o.Item] * o.Quantity, TraceID: iii.TraceID(ctx)}
		err = iii.InSpan(ctx, "charge card", trace.SpanKindClient, func(ctx context.Context) error {
			value.Record(ctx, int64(receipt.Cents), metric.WithAttributes(run))
			return nil
		})
		return receipt, err
	})
	return err
}

// stockWarehouse registers the function that reserves goods.
func stockWarehouse(w *worker, name string) error {
	var mu sync.Mutex
	stock := map[string]int{"tea": 10, "cake": 6}

	_, err := iii.Handle(w.client, name+"::reserve", func(ctx context.Context, o Order) (any, error) {
		return nil, iii.InSpan(ctx, "take from shelf", trace.SpanKindInternal, func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if left := stock[o.Item]; left < o.Quantity {
				return &iii.Error{Code: "out_of_stock", Message: fmt.Sprintf("%d %s are left", left, o.Item)}
			}
			stock[o.Item] -= o.Quantity
			if left := stock[o.Item]; left < 3 {
				w.log.WarnContext(ctx, "stock is low", "item", o.Item, "left", left)
			}
			return nil
		})
	})
	return err
}
