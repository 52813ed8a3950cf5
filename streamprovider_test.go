package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// shelf is an in-memory StreamProvider. It has no Update method, so concurrent updates of an
// item would overwrite each other if the client did not serialize them.
type shelf struct {
	mu    sync.Mutex
	items map[string]map[string]json.RawMessage // by group and item id
	fail  error
}

func (s *shelf) Get(_ context.Context, in iii.StreamGetInput) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[in.GroupID][in.ItemID], s.fail
}

func (s *shelf) Set(_ context.Context, in iii.StreamSetInput) (iii.StreamSetResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.items == nil {
		s.items = map[string]map[string]json.RawMessage{}
	}
	if s.items[in.GroupID] == nil {
		s.items[in.GroupID] = map[string]json.RawMessage{}
	}
	old := s.items[in.GroupID][in.ItemID]
	s.items[in.GroupID][in.ItemID] = in.Data
	return iii.StreamSetResult{OldValue: old}, s.fail
}

func (s *shelf) Delete(_ context.Context, in iii.StreamDeleteInput) (iii.StreamDeleteResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.items[in.GroupID][in.ItemID]
	delete(s.items[in.GroupID], in.ItemID)
	return iii.StreamDeleteResult{OldValue: old}, s.fail
}

func (s *shelf) List(_ context.Context, in iii.StreamListInput) ([]json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []json.RawMessage
	for _, id := range slices.Sorted(maps.Keys(s.items[in.GroupID])) {
		list = append(list, s.items[in.GroupID][id])
	}
	return list, s.fail
}

func (s *shelf) Groups(context.Context, iii.StreamListGroupsInput) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.items)), s.fail
}

// updatingShelf has its own Update method.
type updatingShelf struct {
	shelf
	updates []iii.StreamUpdateInput
}

func (s *updatingShelf) Update(_ context.Context, in iii.StreamUpdateInput) (iii.StreamUpdateResult, error) {
	s.updates = append(s.updates, in)
	return iii.StreamUpdateResult{OldValue: json.RawMessage("1"), NewValue: json.RawMessage("2")}, nil
}

// provide connects a worker that provides a stream. It returns a second client, which uses the
// stream.
func provide(t *testing.T, name string, p iii.StreamProvider, opts ...iii.Option) *iii.Client {
	t.Helper()
	e := iiitest.Start(t)
	owner := connect(t, e, append(opts, iii.WithName("owner"), iii.WithDialContext(e.DialContext))...)
	if err := owner.HandleStream(name, p); err != nil {
		t.Fatal(err)
	}
	user := connect(t, e, iii.WithDialContext(e.DialContext))
	// The engine handles a worker's messages in order. Once this call returns, the provider is
	// registered.
	if err := owner.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	return user
}

func TestStreamProvider(t *testing.T) {
	s := &shelf{}
	c := provide(t, "own", s)
	ctx := t.Context()
	own := iii.NewStream[map[string]int](c, "own")

	list, err := own.List(ctx, "g")
	check(t, "list of nothing", []map[string]int{}, list, err)
	groups, err := own.Groups(ctx)
	check(t, "no groups", []string{}, groups, err)
	value, ok, err := own.Get(ctx, "g", "i")
	check(t, "get before", found[map[string]int]{}, found[map[string]int]{value, ok}, err)
	set, err := own.Set(ctx, "g", "i", map[string]int{"n": 1})
	check(t, "first set", iii.SetResult[map[string]int]{New: map[string]int{"n": 1}}, set, err)
	set, err = own.Set(ctx, "g", "i", map[string]int{"n": 2})
	check(t, "second set", iii.SetResult[map[string]int]{Old: map[string]int{"n": 1}, HadOld: true, New: map[string]int{"n": 2}}, set, err)
	value, ok, err = own.Get(ctx, "g", "i")
	check(t, "get", found[map[string]int]{map[string]int{"n": 2}, true}, found[map[string]int]{value, ok}, err)
	list, err = own.List(ctx, "g")
	check(t, "list", []map[string]int{{"n": 2}}, list, err)
	groups, err = own.Groups(ctx)
	check(t, "groups", []string{"g"}, groups, err)

	updated, err := own.Update(ctx, "g", "i", iii.OpIncrement("n", 1), iii.OpAppend(1, "n"), iii.OpSet("m", 7))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"n": 3, "m": 7}, updated.New); diff != "" || !updated.HadOld || updated.Old["n"] != 2 ||
		len(updated.Errors) != 1 || updated.Errors[0].Code != "append.type_mismatch" {
		t.Errorf("update: %+v (-want +got):\n%s", updated, diff)
	}
	updated, err = own.Update(ctx, "g", "j", iii.OpSet("a", 1))
	check(t, "update of nothing", iii.UpdateResult[map[string]int]{New: map[string]int{"a": 1}}, updated, err)
	if got := string(s.items["g"]["i"]); got != `{"m":7,"n":3}` {
		t.Errorf("stored: %s", got)
	}

	value, ok, err = own.Delete(ctx, "g", "j")
	check(t, "delete", found[map[string]int]{map[string]int{"a": 1}, true}, found[map[string]int]{value, ok}, err)
	value, ok, err = own.Delete(ctx, "g", "j")
	check(t, "delete of nothing", found[map[string]int]{}, found[map[string]int]{value, ok}, err)

	// Nothing is stored in the engine itself.
	streams, err := c.Streams(ctx)
	check(t, "streams of the engine", []iii.StreamSummary{}, streams, err)
}

// Callers receive a provider's errors. Invalid stored values are errors, too.
func TestStreamProviderErrors(t *testing.T) {
	s := &shelf{fail: &iii.Error{Code: "disk_full", Message: "no room"}}
	c := provide(t, "own", s)
	ctx := t.Context()
	own := iii.NewStream[int](c, "own")
	for what, call := range map[string]struct {
		do   func() error
		code string
	}{
		"get":    {func() error { _, _, err := own.Get(ctx, "g", "i"); return err }, "disk_full"},
		"list":   {func() error { _, err := own.List(ctx, "g"); return err }, "disk_full"},
		"groups": {func() error { _, err := own.Groups(ctx); return err }, "disk_full"},
		"set":    {func() error { _, err := own.Set(ctx, "g", "i", 1); return err }, "STREAM_SET_ERROR"},
		"delete": {func() error { _, _, err := own.Delete(ctx, "g", "i"); return err }, "STREAM_DELETE_ERROR"},
		"update": {func() error { _, err := own.Update(ctx, "g", "i"); return err }, "STREAM_UPDATE_ERROR"},
	} {
		var remote *iii.Error
		if err := call.do(); !errors.As(err, &remote) || remote.Code != call.code || !strings.Contains(remote.Message, "no room") {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.fail = nil
	if _, err := s.Set(ctx, iii.StreamSetInput{GroupID: "g", ItemID: "i", Data: json.RawMessage("no JSON")}); err != nil {
		t.Fatal(err)
	}
	var remote *iii.Error
	if _, err := own.Update(ctx, "g", "i", iii.OpIncrement("", 1)); !errors.As(err, &remote) || !strings.Contains(remote.Message, "the item is not valid JSON") {
		t.Errorf("update of an invalid item: %v", err)
	}
}

func TestStreamProviderThatUpdates(t *testing.T) {
	s := &updatingShelf{}
	c := provide(t, "own", s)
	own := iii.NewStream[int](c, "own")
	updated, err := own.Update(t.Context(), "g", "i", iii.OpIncrement("", 1))
	check(t, "update", iii.UpdateResult[int]{Old: 1, HadOld: true, New: 2}, updated, err)
	want := []iii.StreamUpdateInput{{StreamName: "own", GroupID: "g", ItemID: "i", Ops: []iii.UpdateOp{iii.OpIncrement("", 1)}}}
	if diff := cmp.Diff(want, s.updates); diff != "" {
		t.Errorf("updates (-want +got):\n%s", diff)
	}
}

// Concurrent updates of an item are not lost.
func TestStreamProviderUpdatesConcurrent(t *testing.T) {
	const callers, rounds = 8, 20
	c := provide(t, "own", &shelf{})
	ctx := t.Context()
	own := iii.NewStream[map[string]int](c, "own")
	for _, item := range []string{"i", "j"} {
		if _, err := own.Set(ctx, "g", item, map[string]int{}); err != nil {
			t.Fatal(err)
		}
	}
	var wait sync.WaitGroup
	for caller := range callers {
		wait.Go(func() {
			for range rounds {
				item := []string{"i", "j"}[caller%2]
				if _, err := own.Update(ctx, "g", item, iii.OpIncrement("n", 1), iii.OpIncrement(fmt.Sprint("by", caller), 1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	for _, item := range []string{"i", "j"} {
		got, _, err := own.Get(ctx, "g", item)
		if err != nil || got["n"] != callers/2*rounds {
			t.Errorf("item %s: %v, %v", item, got, err)
		}
	}
}

// heldShelf is a shelf whose Get waits for the test.
type heldShelf struct {
	shelf
	entered, leave chan struct{}
}

func (s *heldShelf) Get(ctx context.Context, in iii.StreamGetInput) (json.RawMessage, error) {
	s.entered <- struct{}{}
	<-s.leave
	return s.shelf.Get(ctx, in)
}

// Between an update's read and write of an item, a Set of the same item waits, but a Set of
// another item does not.
func TestStreamProviderUpdateBlocksSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldShelf{entered: make(chan struct{}), leave: make(chan struct{})}
		c := provide(t, "own", s)
		ctx := t.Context()
		own := iii.NewStream[map[string]int](c, "own")
		var wait sync.WaitGroup
		defer wait.Wait()
		wait.Go(func() {
			r, err := own.Update(ctx, "g", "i", iii.OpIncrement("n", 1))
			check(t, "update", iii.UpdateResult[map[string]int]{New: map[string]int{"n": 1}}, r, err)
		})
		<-s.entered
		wait.Go(func() {
			r, err := own.Set(ctx, "g", "i", map[string]int{"n": 10})
			check(t, "set", iii.SetResult[map[string]int]{Old: map[string]int{"n": 1}, HadOld: true, New: map[string]int{"n": 10}}, r, err)
		})
		if _, err := own.Set(ctx, "g", "another", map[string]int{"n": 5}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if early := s.items["g"]["i"]; early != nil {
			t.Errorf("the Set did not wait: %s", early)
		}
		close(s.leave)
	})
}

func TestHandleStreamRefuses(t *testing.T) {
	e := iiitest.Start(t)
	tests := map[string]struct {
		opts []iii.Option
		name string
		p    iii.StreamProvider
		want string
	}{
		"another namespace": {[]iii.Option{iii.WithNamespace("shop")}, "own", &shelf{}, `this worker's functions are in "shop"`},
		"blank name":        {nil, " ", &shelf{}, "blank name"},
		"no provider":       {nil, "own", nil, "nil StreamProvider"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := connect(t, e, tt.opts...)
			if err := c.HandleStream(tt.name, tt.p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error: %v", err)
			}
		})
	}
	t.Run("namespace default", func(t *testing.T) {
		c := connect(t, e, iii.WithNamespace("default"))
		if err := c.HandleStream("own", &shelf{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("all or nothing", func(t *testing.T) {
		c := connect(t, e)
		handle(t, c, "stream::update(mine)", func(context.Context, any) (any, error) { return nil, nil }, iii.WithBuiltinOverride())
		if err := c.HandleStream("mine", &shelf{}); err == nil || !strings.Contains(err.Error(), "registered already") {
			t.Errorf("error: %v", err)
		}
		for _, op := range []string{"get", "set", "delete", "list", "list_groups"} {
			if _, err := c.HandleFunc("stream::"+op+"(mine)", func(context.Context, json.RawMessage) (any, error) { return nil, nil }, iii.WithBuiltinOverride()); err != nil {
				t.Errorf("%s is still taken: %v", op, err)
			}
		}
	})
}

// The provider must send the recorded replies. Updates are an exception, because the recorded
// provider returned a made-up result for them.
func TestStreamProviderAsRecorded(t *testing.T) {
	e := iiitest.Start(t)
	owner := connect(t, e, iii.WithName("owner"))
	if err := owner.HandleStream("own", &shelf{}); err != nil {
		t.Fatal(err)
	}
	d := deliverTo(e, "owner")
	answers := map[string]recordedFrame{}
	asked := 0
	events := readRecording(t, "stream-provider")
	for _, event := range events {
		if f := frameOf(t, event); f.Type == "invocationresult" && event.Dir == "send" {
			answers[f.InvocationID] = f
		}
	}
	for _, event := range events {
		f := frameOf(t, event)
		if f.Type != "invokefunction" || event.Dir != "recv" || !strings.HasSuffix(f.FunctionID, "(own)") {
			continue
		}
		asked++
		got := d.invoke(t, event.Frame)
		want := answers[f.InvocationID].Result
		if f.FunctionID == "stream::update(own)" {
			want = json.RawMessage(`{"old_value":null,"new_value":{"a":1,"b":2}}`)
		}
		if got.Error != nil {
			t.Errorf("line %d: %+v", event.line, got.Error)
		} else if diff := diffDocuments(want, got.Result); diff != "" {
			t.Errorf("line %d: %s (-recorded +got):\n%s", event.line, f.FunctionID, diff)
		}
	}
	if asked != 10 {
		t.Errorf("%d requests", asked)
	}
}
