package iii

import "context"

// State is one scope of the engine's state: JSON values by key, shared by all
// workers and decoded as T. The zero value is not usable; use [NewState]. All
// methods are safe for concurrent use.
//
// The methods call the engine's state::* functions, bounded by the client's
// timeout and by ctx. Their errors are those of [Client.Call], including an
// [*Error] with the engine's code, such as SET_ERROR or VALUE_TOO_LARGE. If a
// stored value cannot be decoded as T, the error explains why and is not an
// [*Error]; a change has been made nevertheless.
//
// null counts as no value: neither the engine's answers nor this type distinguish
// a stored null from a missing value. Each change fires the trigger of
// [StateTriggerConfig].
type State[T any] struct {
	client *Client
	scope  string
}

// NewState returns a State for a scope. It does no I/O; a scope exists once a
// value is stored in it. Scopes are not namespaced: all workers of the engine
// share them. If the values have several shapes, use json.RawMessage or any for
// T.
func NewState[T any](c *Client, scope string) *State[T] {
	return &State[T]{client: c, scope: scope}
}

// Scope returns the name of the scope.
func (s *State[T]) Scope() string { return s.scope }

// Get reads a value; ok is false if there is none.
func (s *State[T]) Get(ctx context.Context, key string) (value T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::get", StateGetInput{Scope: s.scope, Key: key})
}

// Set stores a value and returns the previous one.
func (s *State[T]) Set(ctx context.Context, key string, value T) (SetResult[T], error) {
	const id = "state::set"
	raw, err := s.client.cfg.rawForUser(value)
	if err != nil {
		return SetResult[T]{}, notEncodable(id, err)
	}
	return setStored[T](ctx, s.client, id, StateSetInput{Scope: s.scope, Key: key, Value: raw})
}

// Update changes a value in place and atomically: no other change comes between
// the operations. The operations run in order, and a missing value starts as {}.
// An operation that cannot be applied is skipped and reported in the result's
// Errors while err stays nil; nothing is rolled back. See [ApplyUpdate] for the
// rules.
func (s *State[T]) Update(ctx context.Context, key string, ops ...UpdateOp) (UpdateResult[T], error) {
	return updateStored[T](ctx, s.client, "state::update", StateUpdateInput{Scope: s.scope, Key: key, Ops: ops})
}

// Delete removes a value and returns it; ok is false if there was none. The
// engine fires the trigger in either case.
func (s *State[T]) Delete(ctx context.Context, key string) (old T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::delete", StateDeleteInput{Scope: s.scope, Key: key})
}

// List returns all values of the scope, in the order in which their keys were
// first stored. The engine does not return the keys. A stored null becomes the
// zero value.
func (s *State[T]) List(ctx context.Context) ([]T, error) {
	return Call[[]T](ctx, s.client, "state::list", StateListInput{Scope: s.scope})
}

// StateScopes lists the scopes of the engine's state, sorted. A scope stays
// listed after its last value is deleted.
func (c *Client) StateScopes(ctx context.Context) ([]string, error) {
	result, err := Call[StateListGroupsResult](ctx, c, "state::list_groups", EmptyInput{})
	return result.Groups, err
}
