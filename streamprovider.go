package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// StreamProvider stores a stream in place of the engine. Its methods must be safe for
// concurrent use. Their contexts and errors are handled like those of a [HandlerFunc], with
// one exception: if a method that changes an item fails, the caller receives one of the
// engine's own error codes, and the provider's code appears only in the message.
//
// The returned values determine the stream's events. If the old value of a change is nil or
// null, the event reports a creation. If the old value of a deletion is nil or null, there is
// no event.
type StreamProvider interface {
	// Get returns an item, or nil if it does not exist.
	Get(ctx context.Context, in StreamGetInput) (json.RawMessage, error)

	// Set stores an item. It returns the previous value, or nil if there was none, and the
	// stored value. A nil NewValue means that the value was stored unchanged.
	Set(ctx context.Context, in StreamSetInput) (StreamSetResult, error)

	// Delete removes an item and returns its value, or nil if there was none.
	Delete(ctx context.Context, in StreamDeleteInput) (StreamDeleteResult, error)

	// List returns the items in a group, or nil if there are none.
	List(ctx context.Context, in StreamListInput) ([]json.RawMessage, error)

	// Groups returns the stream's groups, or nil if there are none.
	Groups(ctx context.Context, in StreamListGroupsInput) ([]string, error)
}

// streamUpdater is implemented by providers that handle updates themselves.
type streamUpdater interface {
	Update(ctx context.Context, in StreamUpdateInput) (StreamUpdateResult, error)
}

// HandleStream makes this worker the store for the named stream. The engine calls p for
// stream::get, set, delete, list, list_groups and update on that stream. The engine still
// emits the stream's events, but stores no items itself.
//
// A provider that also has the method
//
//	Update(ctx context.Context, in StreamUpdateInput) (StreamUpdateResult, error)
//
// handles updates itself. For any other provider, an update consists of a Get, an
// [ApplyUpdate] and a Set. Until the update is complete, other Updates, Sets and Deletes of
// the same item wait. An update function is registered in either case, because otherwise the
// engine would update the item in its own store.
//
// HandleStream does not wait for the network. It returns an error on a client with a namespace
// other than "default", because the engine looks for these functions only there.
func (c *Client) HandleStream(name string, p StreamProvider) error {
	if strings.TrimSpace(name) == "" {
		return errors.New("iii: stream: blank name")
	}
	if p == nil {
		return fmt.Errorf("iii: stream %q: nil StreamProvider", name)
	}
	if ns := c.cfg.namespace; ns != "" && ns != defaultNamespace {
		return fmt.Errorf("iii: stream %q: the engine looks for the providers of streams in namespace %q, and this worker's functions are in %q; use a client without a namespace",
			name, defaultNamespace, ns)
	}
	s := &providedStream{provider: p}
	var done []*Function
	for _, f := range []struct {
		op   string
		spec handlerSpec
	}{
		{"get", typedHandler(c, p.Get, functionSchemas{in: reflect.TypeFor[StreamGetInput]()})},
		{"set", typedHandler(c, s.set, functionSchemas{reflect.TypeFor[StreamSetInput](), reflect.TypeFor[StreamSetResult]()})},
		{"delete", typedHandler(c, s.delete, functionSchemas{reflect.TypeFor[StreamDeleteInput](), reflect.TypeFor[StreamDeleteResult]()})},
		{"list", typedHandler(c, s.list, functionSchemas{in: reflect.TypeFor[StreamListInput]()})},
		{"list_groups", typedHandler(c, s.groups, functionSchemas{in: reflect.TypeFor[StreamListGroupsInput]()})},
		{"update", typedHandler(c, s.update, functionSchemas{reflect.TypeFor[StreamUpdateInput](), reflect.TypeFor[StreamUpdateResult]()})},
	} {
		function, err := c.register("stream::"+f.op+"("+name+")", f.spec, []FunctionOption{prescribedID})
		if err != nil {
			for _, f := range done {
				_ = f.Unregister() // register all functions or none
			}
			return public(fmt.Errorf("stream %q: %w", name, err))
		}
		done = append(done, function)
	}
	return nil
}

// providedStream wraps a provider. Unless the provider handles updates itself, providedStream
// serializes the changes to each item.
type providedStream struct {
	provider StreamProvider
	items    itemLocks
}

func (s *providedStream) set(ctx context.Context, in StreamSetInput) (StreamSetResult, error) {
	unlock, err := s.lock(ctx, in.GroupID, in.ItemID)
	if err != nil {
		return StreamSetResult{}, err
	}
	defer unlock()
	return s.store(ctx, in)
}

// store calls the provider's Set. The result always contains the stored value.
func (s *providedStream) store(ctx context.Context, in StreamSetInput) (StreamSetResult, error) {
	result, err := s.provider.Set(ctx, in)
	if err == nil && result.NewValue == nil {
		result.NewValue = in.Data
	}
	return result, err
}

func (s *providedStream) delete(ctx context.Context, in StreamDeleteInput) (StreamDeleteResult, error) {
	unlock, err := s.lock(ctx, in.GroupID, in.ItemID)
	if err != nil {
		return StreamDeleteResult{}, err
	}
	defer unlock()
	return s.provider.Delete(ctx, in)
}

func (s *providedStream) list(ctx context.Context, in StreamListInput) (List[json.RawMessage], error) {
	return s.provider.List(ctx, in)
}

func (s *providedStream) groups(ctx context.Context, in StreamListGroupsInput) (StringList, error) {
	return s.provider.Groups(ctx, in)
}

func (s *providedStream) update(ctx context.Context, in StreamUpdateInput) (StreamUpdateResult, error) {
	if p, ok := s.provider.(streamUpdater); ok {
		return p.Update(ctx, in)
	}
	unlock, err := s.lock(ctx, in.GroupID, in.ItemID)
	if err != nil {
		return StreamUpdateResult{}, err
	}
	defer unlock()
	old, err := s.provider.Get(ctx, StreamGetInput{StreamName: in.StreamName, GroupID: in.GroupID, ItemID: in.ItemID})
	if err != nil {
		return StreamUpdateResult{}, err
	}
	result, err := ApplyUpdate(old, in.Ops)
	if err != nil {
		return StreamUpdateResult{}, err
	}
	stored, err := s.store(ctx, StreamSetInput{StreamName: in.StreamName, GroupID: in.GroupID, ItemID: in.ItemID, Data: result.NewValue})
	result.NewValue = stored.NewValue
	return result, err
}

// lock prevents other changes to an item until unlock is called. If a change is in progress,
// it waits until that change is complete or ctx is done. Providers that handle updates
// themselves need no lock.
func (s *providedStream) lock(ctx context.Context, group, item string) (unlock func(), err error) {
	if _, ok := s.provider.(streamUpdater); ok {
		return func() {}, nil
	}
	return s.items.lock(ctx, itemKey{group, item})
}

type itemKey struct{ group, item string }

// itemLocks holds a lock for each item that is being changed.
type itemLocks struct {
	mu    sync.Mutex
	locks map[itemKey]*itemLock
}

type itemLock struct {
	held  chan struct{} // capacity 1; full while the lock is held
	users int           // callers that hold the lock or wait for it
}

func (l *itemLocks) lock(ctx context.Context, key itemKey) (unlock func(), err error) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = map[itemKey]*itemLock{}
	}
	lock := l.locks[key]
	if lock == nil {
		lock = &itemLock{held: make(chan struct{}, 1)}
		l.locks[key] = lock
	}
	lock.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if lock.users--; lock.users == 0 {
			delete(l.locks, key)
		}
	}
	select {
	case lock.held <- struct{}{}:
		return func() { <-lock.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctxError(ctx)
	}
}
