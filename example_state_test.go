package iii_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// All workers share the values of the state, by scope and key. Updates are isolated.
func ExampleState() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	type Account struct {
		Name  string   `json:"name"`
		Cents int      `json:"cents"`
		Tags  []string `json:"tags"`
	}
	accounts := iii.NewState[Account](client, "accounts")
	if _, err := accounts.Set(ctx, "ada", Account{Name: "Ada", Cents: 500, Tags: []string{}}); err != nil {
		log.Fatal(err)
	}
	changed, err := accounts.Update(ctx, "ada",
		iii.OpDecrement("cents", 350),
		iii.OpAppend("regular", "tags"),
		iii.OpIncrement("name", 1))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(changed.Old.Cents, "to", changed.New.Cents, changed.New.Tags)
	for _, e := range changed.Errors { // rejected operations; the others were applied
		fmt.Printf("operation %d: %s\n", e.OpIndex, e.Code)
	}
	_, ok, err := accounts.Get(ctx, "bob")
	fmt.Println("bob:", ok, err)
	// Output:
	// 500 to 150 [regular]
	// operation 2: increment.not_number
	// bob: false <nil>
}

// List returns the values of a scope. The engine does not return the keys.
func ExampleState_List() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	stock := iii.NewState[int](client, "stock")
	for item, n := range map[string]int{"tea": 7} {
		set, err := stock.Set(ctx, item, n)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(item, set.HadOld, set.New)
	}
	fmt.Println(stock.List(ctx))
	fmt.Println(client.StateScopes(ctx))
	fmt.Println(stock.Delete(ctx, "tea"))
	fmt.Println(stock.Delete(ctx, "tea"))
	// Output:
	// tea false 7
	// [7] <nil>
	// [stock] <nil>
	// 7 true <nil>
	// 0 false <nil>
}

// ApplyUpdate applies update operations by the engine's rules, for workers that store items
// themselves.
func ExampleApplyUpdate() {
	item := json.RawMessage(`{"name":"Ada","visits":1,"tags":["new"],"address":{"city":"London"},"draft":true}`)
	result, err := iii.ApplyUpdate(item, []iii.UpdateOp{
		iii.OpSet("name", "Ada L."),
		iii.OpIncrement("visits", 2),
		iii.OpDecrement("debt", 5), // a missing number counts as 0
		iii.OpAppend("regular", "tags"),
		iii.OpMerge(map[string]any{"street": "St James's Square"}, "address"),
		iii.OpRemove("draft"),
		iii.OpIncrement("name", 1), // not a number: rejected; the other operations apply
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(result.NewValue))
	for _, e := range result.Errors {
		fmt.Println(e.OpIndex, e.Code)
	}
	// Output:
	// {"address":{"city":"London","street":"St James's Square"},"debt":-5,"name":"Ada L.","tags":["new","regular"],"visits":3}
	// 6 increment.not_number
}
