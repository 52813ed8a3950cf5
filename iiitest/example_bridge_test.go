package iiitest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// Through a bridge, workers connected to one engine can call functions on another.
func ExampleWithBridge() {
	far, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer far.Close()
	near, err := iiitest.New(iiitest.WithBridge(far.URL(), iii.WithName("bridge")))
	if err != nil {
		log.Fatal(err)
	}
	defer near.Close()

	ctx := context.Background()
	shop, err := iii.New(far.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	_, err = iii.Handle(shop, "shop::price", func(_ context.Context, item string) (int, error) { return 350, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := shop.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	buyer, err := iii.New(near.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer buyer.Close()
	if err := buyer.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(iii.Call[int](ctx, buyer, "bridge.invoke", iii.BridgeInvokeInput{
		FunctionID: "shop::price", Data: json.RawMessage(`"tea"`),
	}))
	// Output: 350 <nil>
}
