package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
)

// State provides access to one scope of the engine's state, which holds JSON values by key.
// The values are shared by all workers and are decoded as T. The zero value is not usable; use
// [NewState]. All methods are safe for concurrent use.
//
// The methods call the engine's state::* functions. The calls are limited by [WithCallTimeout]
// and by ctx. Their errors are those of [Client.Call], including an [*Error] with the engine's
// code, such as SET_ERROR or VALUE_TOO_LARGE. If a stored value cannot be decoded as T, the
// error explains why and is not an [*Error]. In that case, a Set, Update or Delete has still
// taken effect.
//
// A stored null is treated as a missing value, because the engine's responses do not
// distinguish the two. Each change fires the triggers with a matching [StateTriggerConfig].
type State[T any] struct {
	client *Client
	scope  string
}

// NewState returns a State for a scope. It performs no I/O; a scope exists once a value is
// stored in it. Scopes are not namespaced, so all of the engine's workers share them. If the
// values do not have a common type, use json.RawMessage or any for T.
func NewState[T any](c *Client, scope string) *State[T] {
	return &State[T]{client: c, scope: scope}
}

// Scope returns the scope's name.
func (s *State[T]) Scope() string { return s.scope }

// Get returns the value stored under key, and whether there is one.
func (s *State[T]) Get(ctx context.Context, key string) (value T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::get", StateGetInput{Scope: s.scope, Key: key})
}

// Set stores a value. The engine returns the previous value and the stored one, so the
// response can be twice as large as the request. If the response exceeds [WithReadLimit], the
// connection is lost after the value has been stored. To store a value without a response,
// pass a [StateSetInput] for state::set to [Client.Send].
func (s *State[T]) Set(ctx context.Context, key string, value T) (SetResult[T], error) {
	const id = "state::set"
	raw, err := s.client.cfg.rawForUser(value)
	if err != nil {
		return SetResult[T]{}, notEncodable(id, err)
	}
	return setStored[T](ctx, s.client, id, StateSetInput{Scope: s.scope, Key: key, Value: raw})
}

// Update applies the operations to a value atomically and in order. A missing value is treated
// as {}. An operation that cannot be applied is skipped and reported in the result's Errors,
// with a nil err; the other operations still take effect. See [ApplyUpdate] for the rules.
func (s *State[T]) Update(ctx context.Context, key string, ops ...UpdateOp) (UpdateResult[T], error) {
	return updateStored[T](ctx, s.client, "state::update", StateUpdateInput{Scope: s.scope, Key: key, Ops: ops})
}

// Delete removes a value. It returns the value and whether there was one. The engine fires
// triggers in either case.
func (s *State[T]) Delete(ctx context.Context, key string) (old T, ok bool, err error) {
	return getStored[T](ctx, s.client, "state::delete", StateDeleteInput{Scope: s.scope, Key: key})
}

// List returns all of the scope's values, in the order in which their keys were first stored.
// The engine does not return the keys. A stored null decodes as the zero value.
func (s *State[T]) List(ctx context.Context) ([]T, error) {
	return Call[[]T](ctx, s.client, "state::list", StateListInput{Scope: s.scope})
}

// StateScopes returns the names of the engine's state scopes in sorted order. A scope stays
// listed after its last value is deleted.
func (c *Client) StateScopes(ctx context.Context) ([]string, error) {
	result, err := Call[StateListGroupsResult](ctx, c, "state::list_groups", EmptyInput{})
	return result.Groups, err
}

// State and Stream share the following types and helpers, because both store JSON values under
// a name and support the same update operations.

// SetResult is the result of storing an item. If the call fails, it is the zero value. If the
// call succeeds but a stored value cannot be decoded, the result may be incomplete.
type SetResult[T any] struct {
	// Old is the previous value, or the zero value if there was none.
	Old T
	// HadOld reports whether there was a previous value. A stored null is treated as a missing
	// value, because the engine does not distinguish the two.
	HadOld bool
	// New is the value that is now stored, as returned by the engine. A null decodes as the
	// zero value.
	New T
}

// UpdateResult is the result of an update. If the call fails, it is the zero value. If the
// call succeeds but a stored value cannot be decoded, Old, HadOld and New may be unset.
type UpdateResult[T any] struct {
	// Old is the previous value, or the zero value if there was none.
	Old T
	// HadOld reports whether there was a previous value; see [SetResult].
	HadOld bool
	// New is the value that is now stored. A null decodes as the zero value.
	New T
	// Errors contains one error for each rejected operation. It is nil if all operations were
	// applied. A rejected operation does not prevent the others from being applied.
	Errors []UpdateOpError
}

// callStored calls a function whose result contains values of type T.
func callStored[T any](ctx context.Context, c *Client, functionID string, in, out any) error {
	if err := checkTarget(reflect.TypeFor[T]()); err != nil {
		return &callError{verb: "call", functionID: functionID, err: err}
	}
	return c.Call(ctx, functionID, in, out)
}

// storedValue decodes a stored value. A null or absent result means that there is no value.
func storedValue[T any](c *Client, raw json.RawMessage) (v T, found bool, err error) {
	if len(raw) == 0 || isNull(raw) {
		return v, false, nil
	}
	if err := c.cfg.decode(raw, &v); err != nil {
		var zero T
		return zero, true, err
	}
	return v, true, nil
}

// storedChange decodes the values before and after a change. The change has been made even if
// decoding fails.
func storedChange[T any](c *Client, functionID string, before, after json.RawMessage) (r SetResult[T], err error) {
	if r.New, _, err = storedValue[T](c, after); err != nil {
		return r, notDecodable(functionID, "new value", err)
	}
	if r.Old, r.HadOld, err = storedValue[T](c, before); err != nil {
		return r, notDecodable(functionID, "old value", err)
	}
	return r, nil
}

// getStored calls a function that returns a stored value, or null if there is none.
func getStored[T any](ctx context.Context, c *Client, functionID string, in any) (T, bool, error) {
	var raw json.RawMessage
	if err := callStored[T](ctx, c, functionID, in, &raw); err != nil {
		var zero T
		return zero, false, err
	}
	v, found, err := storedValue[T](c, raw)
	if err != nil {
		return v, found, notDecodable(functionID, "value", err)
	}
	return v, found, nil
}

func setStored[T any](ctx context.Context, c *Client, functionID string, in any) (SetResult[T], error) {
	var result StreamSetResult
	if err := callStored[T](ctx, c, functionID, in, &result); err != nil {
		return SetResult[T]{}, err
	}
	return storedChange[T](c, functionID, result.OldValue, result.NewValue)
}

func updateStored[T any](ctx context.Context, c *Client, functionID string, in any) (UpdateResult[T], error) {
	var result StreamUpdateResult
	if err := callStored[T](ctx, c, functionID, in, &result); err != nil {
		return UpdateResult[T]{}, err
	}
	r, err := storedChange[T](c, functionID, result.OldValue, result.NewValue)
	return UpdateResult[T]{Old: r.Old, HadOld: r.HadOld, New: r.New, Errors: result.Errors}, err
}

func notDecodable(functionID, what string, err error) error {
	return &callError{verb: "call", functionID: functionID, err: fmt.Errorf("the %s does not decode: %w", what, err), sent: true}
}

// notEncodable returns the error for a call whose payload could not be encoded.
func notEncodable(functionID string, err error) error {
	return &callError{verb: "call", functionID: functionID, err: fmt.Errorf("encode payload: %w", err)}
}
