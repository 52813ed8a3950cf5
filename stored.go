package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
)

// State and streams store items in the same way: JSON values under a name, changed
// by the same operations, with results of the same shape.

// SetResult is the outcome of storing an item. A failed call returns the zero
// value.
type SetResult[T any] struct {
	// Old is the previous value, or the zero value if there was none.
	Old T
	// HadOld reports whether there was a previous value. A stored null counts as
	// none, because the engine does not distinguish the two.
	HadOld bool
	// New is the value that is now stored, as the engine returned it; the zero
	// value for null.
	New T
}

// UpdateResult is the outcome of an update. A failed call returns the zero value.
type UpdateResult[T any] struct {
	// Old is the previous value, or the zero value if there was none.
	Old T
	// HadOld reports whether there was a previous value; see [SetResult].
	HadOld bool
	// New is the value that is now stored; the zero value for null.
	New T
	// Errors holds one error for each operation that was rejected; nil if all were
	// applied. The other operations were applied nevertheless.
	Errors []UpdateOpError
}

// callStored calls a function whose result contains values of type T.
func callStored[T any](ctx context.Context, c *Client, functionID string, in, out any) error {
	if err := checkTarget(reflect.TypeFor[T]()); err != nil {
		return &callError{verb: "call", functionID: functionID, err: err}
	}
	return c.Call(ctx, functionID, in, out)
}

// storedValue decodes a stored value. Null and an absent result both mean that
// there is no value.
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

// storedChange decodes the values before and after a change. The change has been
// made even if decoding fails.
func storedChange[T any](c *Client, functionID string, before, after json.RawMessage) (r SetResult[T], err error) {
	if r.New, _, err = storedValue[T](c, after); err != nil {
		return r, notDecodable(functionID, "new value", err)
	}
	if r.Old, r.HadOld, err = storedValue[T](c, before); err != nil {
		return r, notDecodable(functionID, "old value", err)
	}
	return r, nil
}

// getStored calls a function whose result is a stored value, or nothing.
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

// notEncodable returns the error of a call whose payload could not be encoded, so
// that nothing was sent.
func notEncodable(functionID string, err error) error {
	return &callError{verb: "call", functionID: functionID, err: fmt.Errorf("encode payload: %w", err)}
}
