package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

type cart struct {
	Items []string `json:"items"`
	Total int      `json:"total"`
}

// check reports err and any difference between want and got.
func check[T any](t *testing.T, what string, want, got T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// found holds both results of Get or Delete.
type found[T any] struct {
	Value T
	OK    bool
}

func TestState(t *testing.T) {
	c := connected(t)
	ctx := t.Context()
	carts := iii.NewState[cart](c, "carts")

	value, ok, err := carts.Get(ctx, "ada")
	check(t, "get before", found[cart]{}, found[cart]{value, ok}, err)
	set, err := carts.Set(ctx, "ada", cart{Items: []string{"tea"}, Total: 5})
	check(t, "first set", iii.SetResult[cart]{New: cart{[]string{"tea"}, 5}}, set, err)
	set, err = carts.Set(ctx, "ada", cart{Items: []string{"tea", "<jam>"}, Total: 9})
	check(t, "second set", iii.SetResult[cart]{Old: cart{[]string{"tea"}, 5}, HadOld: true, New: cart{[]string{"tea", "<jam>"}, 9}}, set, err)
	value, ok, err = carts.Get(ctx, "ada")
	check(t, "get", found[cart]{cart{[]string{"tea", "<jam>"}, 9}, true}, found[cart]{value, ok}, err)

	updated, err := carts.Update(ctx, "ada", iii.OpIncrement("total", 3), iii.OpIncrement("items", 1), iii.OpAppend("bun", "items"))
	page := "https://iii.dev/docs/workers/iii-state#error-codes"
	check(t, "update", iii.UpdateResult[cart]{
		Old: cart{[]string{"tea", "<jam>"}, 9}, HadOld: true, New: cart{[]string{"tea", "<jam>", "bun"}, 12},
		Errors: []iii.UpdateOpError{{OpIndex: 1, Code: "increment.not_number", Message: "Expected number at path 'items', got array.", DocURL: &page}},
	}, updated, err)
	updated, err = carts.Update(ctx, "bob", iii.OpSet("total", 1))
	check(t, "update of nothing", iii.UpdateResult[cart]{New: cart{Total: 1}}, updated, err)

	list, err := carts.List(ctx)
	check(t, "list", []cart{{[]string{"tea", "<jam>", "bun"}, 12}, {Total: 1}}, list, err)
	list, err = iii.NewState[cart](c, "none").List(ctx)
	check(t, "list of nothing", []cart{}, list, err)

	value, ok, err = carts.Delete(ctx, "bob")
	check(t, "delete", found[cart]{cart{Total: 1}, true}, found[cart]{value, ok}, err)
	value, ok, err = carts.Delete(ctx, "bob")
	check(t, "delete of nothing", found[cart]{}, found[cart]{value, ok}, err)

	if _, err := iii.NewState[int](c, "another").Set(ctx, "k", 1); err != nil {
		t.Fatal(err)
	}
	scopes, err := c.StateScopes(ctx)
	check(t, "scopes", []string{"another", "carts"}, scopes, err)
}

// Values may be of any type, and numbers keep every digit. A null is treated as a missing
// value.
func TestStateValues(t *testing.T) {
	c := connected(t)
	ctx := t.Context()
	raw := iii.NewState[json.RawMessage](c, "raw")
	for _, doc := range []string{`18446744073709551615`, `1.0`, `"text"`, `[]`, `false`, `{"b":1,"a":null}`} {
		if _, err := raw.Set(ctx, "k", json.RawMessage(doc)); err != nil {
			t.Fatal(err)
		}
		got, ok, err := raw.Get(ctx, "k")
		if err != nil || !ok {
			t.Errorf("%s: found %v, error %v", doc, ok, err)
		}
		if diff := diffDocuments(json.RawMessage(doc), got); diff != "" {
			t.Errorf("%s (-set +got):\n%s", doc, diff)
		}
	}

	pointers := iii.NewState[*cart](c, "pointers")
	set, err := pointers.Set(ctx, "k", nil)
	check(t, "set of nil", iii.SetResult[*cart]{}, set, err)
	got, ok, err := pointers.Get(ctx, "k")
	check(t, "get of nil", found[*cart]{}, found[*cart]{got, ok}, err)
	list, err := pointers.List(ctx)
	check(t, "list of nil", []*cart{nil}, list, err)
}

func TestStateErrors(t *testing.T) {
	c := connected(t)
	ctx := t.Context()
	texts := iii.NewState[string](c, "shared")
	numbers := iii.NewState[int](c, "shared")
	if _, err := texts.Set(ctx, "k", "seven"); err != nil {
		t.Fatal(err)
	}

	var remote *iii.Error
	if _, ok, err := numbers.Get(ctx, "k"); err == nil || !ok || errors.As(err, &remote) || iii.SafeToRetry(err) {
		t.Errorf("get of another type: found %v, error %v", ok, err)
	}
	set, err := numbers.Set(ctx, "k", 7)
	if err == nil || !strings.Contains(err.Error(), "old value does not decode") || iii.SafeToRetry(err) {
		t.Errorf("set over another type: %v", err)
	}
	if set.New != 7 || !set.HadOld {
		t.Errorf("set over another type: %+v", set)
	}
	n, ok, err := numbers.Get(ctx, "k")
	check(t, "get after that", found[int]{7, true}, found[int]{n, ok}, err)

	if _, err := iii.NewState[func()](c, "x").Set(ctx, "k", func() {}); err == nil || !iii.SafeToRetry(err) {
		t.Errorf("set of a value that cannot be encoded: %v", err)
	}
	if _, err := numbers.Update(ctx, "k", iii.OpSet("", make(chan int))); err == nil || !iii.SafeToRetry(err) {
		t.Errorf("update with a value that cannot be encoded: %v", err)
	}
	if _, err := numbers.Update(ctx, "k", iii.UpdateOp{}); err == nil || !iii.SafeToRetry(err) {
		t.Errorf("update with an empty operation: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := numbers.List(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("list with a canceled context: %v", err)
	}
}

// The State methods send the recorded requests and decode the recorded replies.
func TestStateAsRecorded(t *testing.T) {
	calls := recordedCalls(t, "state", "state::")
	var good []recordedCall
	for _, call := range calls {
		if call.err == nil { // the other inputs cannot be sent with State
			good = append(good, call)
		}
	}
	c, engine := answerAsRecorded(t, good)
	ctx := t.Context()
	for _, call := range good {
		var in struct {
			Scope, Key string
			Value      json.RawMessage
			Ops        []iii.UpdateOp
		}
		if err := json.Unmarshal(call.data, &in); err != nil {
			t.Fatal(err)
		}
		s := iii.NewState[json.RawMessage](c, in.Scope)
		var got any
		var err error
		switch call.functionID {
		case "state::get":
			value, ok, callErr := s.Get(ctx, in.Key)
			if ok == (call.result == nil || string(call.result) == "null") {
				t.Errorf("line %d: found is %v", call.line, ok)
			}
			got, err = value, callErr
		case "state::delete":
			got, _, err = s.Delete(ctx, in.Key)
		case "state::set":
			r, callErr := s.Set(ctx, in.Key, in.Value)
			got, err = map[string]any{"old_value": r.Old, "new_value": r.New}, callErr
		case "state::update":
			r, callErr := s.Update(ctx, in.Key, in.Ops...)
			got, err = map[string]any{"old_value": r.Old, "new_value": r.New}, callErr
		case "state::list":
			got, err = s.List(ctx)
		case "state::list_groups":
			scopes, callErr := c.StateScopes(ctx)
			got, err = map[string]any{"groups": scopes}, callErr
		default:
			t.Fatalf("line %d: %s", call.line, call.functionID)
		}
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
}
