package iii_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/iii-go/iii"
)

type todo struct {
	Title string `json:"title"`
	Done  bool   `json:"done"`
}

func TestStream(t *testing.T) {
	c := connected(t)
	ctx := t.Context()
	todos := iii.NewStream[todo](c, "todos")

	value, ok, err := todos.Get(ctx, "g1", "i1")
	check(t, "get before", found[todo]{}, found[todo]{value, ok}, err)
	set, err := todos.Set(ctx, "g1", "i1", todo{Title: "tea"})
	check(t, "first set", iii.SetResult[todo]{New: todo{Title: "tea"}}, set, err)
	set, err = todos.Set(ctx, "g1", "i1", todo{Title: "tea", Done: true})
	check(t, "second set", iii.SetResult[todo]{Old: todo{Title: "tea"}, HadOld: true, New: todo{"tea", true}}, set, err)
	value, ok, err = todos.Get(ctx, "g1", "i1")
	check(t, "get", found[todo]{todo{"tea", true}, true}, found[todo]{value, ok}, err)

	updated, err := todos.Update(ctx, "g1", "i1", iii.OpSet("done", false), iii.OpAppend(" or coffee", "title"))
	check(t, "update", iii.UpdateResult[todo]{Old: todo{"tea", true}, HadOld: true, New: todo{Title: "tea or coffee"}}, updated, err)
	updated, err = todos.Update(ctx, "g2", "i9", iii.OpSet("title", "jam"), iii.OpDecrement("title", 1))
	if err != nil || len(updated.Errors) != 1 || updated.Errors[0].Code != "decrement.not_number" || updated.HadOld {
		t.Errorf("update of a missing item: %+v, %v", updated, err)
	}

	list, err := todos.List(ctx, "g1")
	check(t, "list", []todo{{Title: "tea or coffee"}}, list, err)
	list, err = todos.List(ctx, "none")
	check(t, "list of nothing", []todo{}, list, err)
	groups, err := todos.Groups(ctx)
	slices.Sort(groups)
	check(t, "groups", []string{"g1", "g2"}, groups, err)
	streams, err := c.Streams(ctx)
	check(t, "streams", []iii.StreamSummary{{ID: "todos", Groups: []string{"g1", "g2"}}}, streams, err)

	value, ok, err = todos.Delete(ctx, "g1", "i1")
	check(t, "delete", found[todo]{todo{Title: "tea or coffee"}, true}, found[todo]{value, ok}, err)
	value, ok, err = todos.Delete(ctx, "g1", "i1")
	check(t, "delete of nothing", found[todo]{}, found[todo]{value, ok}, err)

	if err := todos.Send(ctx, "g1", "pulse", make(chan int)); err == nil || !iii.SafeToRetry(err) {
		t.Errorf("send of a value that cannot be encoded: %v", err)
	}
}

// A stream trigger fires on every change, with a typed event.
func TestStreamTrigger(t *testing.T) {
	c := connected(t)
	ctx := t.Context()
	type seen struct {
		Type        iii.StreamEventType
		ID          string
		Data, Event string
	}
	events := make(chan seen, 10)
	handle(t, c, "todos::saw", func(_ context.Context, e iii.StreamChangeEvent) (any, error) {
		s := seen{Type: e.Event.Type, Data: string(e.Event.Data), Event: string(e.Event.Event)}
		if e.ID != nil {
			s.ID = *e.ID
		}
		events <- s
		return nil, nil
	})
	if _, err := c.Trigger("todos::saw", iii.StreamTriggerConfig{StreamName: "todos", GroupID: "g"}); err != nil {
		t.Fatal(err)
	}
	todos := iii.NewStream[int](c, "todos")
	for _, do := range []func() error{
		func() error { _, err := todos.Set(ctx, "g", "i", 1); return err },
		func() error { _, err := todos.Update(ctx, "g", "i", iii.OpIncrement("", 4)); return err },
		func() error { return todos.Send(ctx, "g", "pulse", map[string]int{"beat": 1}) },
		func() error { _, _, err := todos.Delete(ctx, "g", "i"); return err },
		func() error { _, _, err := todos.Delete(ctx, "g", "i"); return err }, // no event, because the item does not exist
		func() error { _, err := todos.Set(ctx, "another", "i", 1); return err },
		func() error { return todos.Send(ctx, "g", "end", nil) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	var got []seen
	for len(got) < 5 {
		got = append(got, <-events)
	}
	want := []seen{
		{Type: "create", ID: "i", Data: "1"},
		{Type: "update", ID: "i", Data: "5"},
		{Type: "event", Event: `{"data":{"beat":1},"type":"pulse"}`},
		{Type: "delete", ID: "i", Data: "5"},
		{Type: "event", Event: `{"data":null,"type":"end"}`},
	}
	// The events may arrive in any order.
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b seen) bool { return fmt.Sprint(a) < fmt.Sprint(b) })); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// The Stream methods send the recorded requests and decode the recorded replies.
func TestStreamAsRecorded(t *testing.T) {
	for _, name := range []string{"streams", "stream-socket", "stream-provider"} {
		t.Run(name, func(t *testing.T) {
			calls := recordedCalls(t, name, "stream::")
			calls = slices.DeleteFunc(calls, func(call recordedCall) bool {
				var in struct {
					ItemID *string `json:"item_id"`
				}
				if err := json.Unmarshal(call.data, &in); err != nil {
					t.Fatal(err)
				}
				// Skip rejected calls, and events for single items, which Stream cannot send.
				return call.err != nil || call.functionID == "stream::send" && in.ItemID != nil
			})
			c, engine := answerAsRecorded(t, calls)
			for _, call := range calls {
				got, err := callStream(t.Context(), c, call)
				if err != nil {
					t.Errorf("line %d: %v", call.line, err)
					continue
				}
				doc, err := json.Marshal(got)
				if err != nil {
					t.Fatal(err)
				}
				want := call.result
				if want == nil {
					want = json.RawMessage("null")
				}
				if diff := diffDocuments(want, doc); diff != "" {
					t.Errorf("line %d: result of %s (-recorded +got):\n%s", call.line, call.functionID, diff)
				}
			}
			engine.done()
		})
	}
}

// callStream makes a recorded call through Stream's methods.
func callStream(ctx context.Context, c *iii.Client, call recordedCall) (got any, err error) {
	var in struct {
		Stream string          `json:"stream_name"`
		Group  string          `json:"group_id"`
		Item   string          `json:"item_id"`
		Data   json.RawMessage `json:"data"`
		Type   string          `json:"type"`
		Ops    []iii.UpdateOp  `json:"ops"`
	}
	if err := json.Unmarshal(call.data, &in); err != nil {
		return nil, err
	}
	s := iii.NewStream[json.RawMessage](c, in.Stream)
	switch call.functionID {
	case "stream::get":
		got, _, err = s.Get(ctx, in.Group, in.Item)
	case "stream::set":
		r, callErr := s.Set(ctx, in.Group, in.Item, in.Data)
		got, err = map[string]any{"old_value": r.Old, "new_value": r.New}, callErr
	case "stream::update":
		r, callErr := s.Update(ctx, in.Group, in.Item, in.Ops...)
		result := map[string]any{"old_value": r.Old, "new_value": r.New}
		if r.Errors != nil {
			result["errors"] = r.Errors
		}
		got, err = result, callErr
	case "stream::delete":
		old, _, callErr := s.Delete(ctx, in.Group, in.Item)
		got, err = map[string]any{"old_value": old}, callErr
	case "stream::list":
		got, err = s.List(ctx, in.Group)
	case "stream::list_groups":
		got, err = s.Groups(ctx)
	case "stream::list_all":
		streams, callErr := c.Streams(ctx)
		got, err = map[string]any{"stream": streams, "count": len(streams)}, callErr
	case "stream::send":
		err = s.Send(ctx, in.Group, in.Type, in.Data)
	default:
		err = fmt.Errorf("unknown function %s", call.functionID)
	}
	return got, err
}
