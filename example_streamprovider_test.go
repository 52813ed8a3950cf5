package iii_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"slices"
	"sync"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// warehouse stores a stream's items by group and id. A real program would use a database.
type warehouse struct {
	mu     sync.Mutex
	groups map[string]map[string]json.RawMessage
}

func (w *warehouse) Get(ctx context.Context, in iii.StreamGetInput) (json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.groups[in.GroupID][in.ItemID], nil // nil if there is no such item
}

func (w *warehouse) Set(ctx context.Context, in iii.StreamSetInput) (iii.StreamSetResult, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups[in.GroupID] == nil {
		w.groups[in.GroupID] = map[string]json.RawMessage{}
	}
	old := w.groups[in.GroupID][in.ItemID]
	w.groups[in.GroupID][in.ItemID] = in.Data
	return iii.StreamSetResult{OldValue: old}, nil
}

func (w *warehouse) Delete(ctx context.Context, in iii.StreamDeleteInput) (iii.StreamDeleteResult, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.groups[in.GroupID][in.ItemID]
	delete(w.groups[in.GroupID], in.ItemID)
	return iii.StreamDeleteResult{OldValue: old}, nil
}

func (w *warehouse) List(ctx context.Context, in iii.StreamListInput) ([]json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.groups[in.GroupID])), nil
}

func (w *warehouse) Groups(ctx context.Context, in iii.StreamListGroupsInput) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.groups)), nil
}

// A worker can store a stream's items itself. Other workers use the stream as usual, and the
// engine still broadcasts the changes.
func ExampleClient_HandleStream() {
	engine, err := iiitest.New()
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	client, err := iii.New(engine.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()

	if err := client.HandleStream("inventory", &warehouse{groups: map[string]map[string]json.RawMessage{}}); err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	type Item struct {
		Left int `json:"left"`
	}
	inventory := iii.NewStream[Item](client, "inventory")
	for range 3 { // Update calls Get, applies the operations, and calls Set
		if _, err := inventory.Update(ctx, "shelf-1", "tea", iii.OpIncrement("left", 5)); err != nil {
			log.Fatal(err)
		}
	}
	tea, _, err := inventory.Get(ctx, "shelf-1", "tea")
	fmt.Println(tea.Left, err)
	fmt.Println(inventory.Groups(ctx))
	// Output:
	// 15 <nil>
	// [shelf-1] <nil>
}
