package iii

import "context"

// State is one scope of the engine's state: JSON values by key, which every
// worker reads and writes, decoded as T. It is made by [NewState]; the zero value
// is of no use. All methods may be called from several goroutines at once.
//
// The methods call the engine's functions state::*, within the timeout of the
// client and the end of ctx; their errors are those of [Client.Call], and an
// [*Error] with the engine's code, such as SET_ERROR or VALUE_TOO_LARGE. When a
// stored value does not decode as T, the error says so and is no [*Error]; a
// change has happened all the same.
//
// null is no value: the engine tells a stored null and no value apart in its
// answers no more than this type does. Each change fires the trigger of
// [StateTriggerConfig].
type State[T any] struct {
	client *Client
	scope  string
}

// NewState gives access to a scope. It does no I/O; a scope exists once something
// is stored in it. Scopes are not namespaced: all workers of the engine share
// them. For values of several shapes let T be json.RawMessage or any.
func NewState[T any](c *Client, scope string) *State[T] {
	return &State[T]{client: c, scope: scope}
}

// Scope is the name of the scope.
func (s *State[T]) Scope() string { return s.scope }

// Get reads a value; ok is false if there is none.
func (s *State[T]) Get(ctx context.Context, key string) (value T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::get", StateGetInput{Scope: s.scope, Key: key})
}

// Set stores a value and returns the one before.
func (s *State[T]) Set(ctx context.Context, key string, value T) (SetResult[T], error) {
	const id = "state::set"
	raw, err := rawOf(value)
	if err != nil {
		return SetResult[T]{}, notEncodable(id, err)
	}
	return setStored[T](ctx, s.client, id, StateSetInput{Scope: s.scope, Key: key, Value: raw})
}

// Update changes a value in place: nobody else's change comes between the
// operations. They run in order and a missing value starts as {}. An operation
// that cannot be applied is skipped and told in the result's Errors, while err
// stays nil: nothing is rolled back. See [ApplyUpdate] for the rules.
func (s *State[T]) Update(ctx context.Context, key string, ops ...UpdateOp) (UpdateResult[T], error) {
	return updateStored[T](ctx, s.client, "state::update", StateUpdateInput{Scope: s.scope, Key: key, Ops: ops})
}

// Delete removes a value and returns it; ok is false if there was none. The
// engine fires the trigger even then.
func (s *State[T]) Delete(ctx context.Context, key string) (old T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::delete", StateDeleteInput{Scope: s.scope, Key: key})
}

// List reads all values of the scope, in the order in which their keys were first
// stored. The engine does not tell the keys. A stored null is the zero value.
func (s *State[T]) List(ctx context.Context) ([]T, error) {
	return Call[[]T](ctx, s.client, "state::list", StateListInput{Scope: s.scope})
}

// StateScopes lists the scopes of the engine's state, sorted. A scope stays in
// the list after its last value was deleted.
func (c *Client) StateScopes(ctx context.Context) ([]string, error) {
	result, err := Call[StateListGroupsResult](ctx, c, "state::list_groups", EmptyInput{})
	return result.Groups, err
}
