package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
)

// State and streams store items alike: JSON values under a name, changed by the
// same operations, with results of the same shape.

// SetResult is what storing an item has changed. The zero value is that of a
// failed call.
type SetResult[T any] struct {
	// Old is the value before, the zero value if there was none.
	Old T
	// HadOld says whether there was a value before. A stored null counts as none:
	// the engine tells no difference.
	HadOld bool
	// New is the value that is stored now, as the engine has it; the zero value for
	// null.
	New T
}

// UpdateResult is what an update has changed. The zero value is that of a failed
// call.
type UpdateResult[T any] struct {
	// Old is the value before, the zero value if there was none.
	Old T
	// HadOld says whether there was a value before; see [SetResult].
	HadOld bool
	// New is the value that is stored now; the zero value for null.
	New T
	// Errors are the operations that were refused, at most one error each; nil if
	// all were applied. The others were applied all the same.
	Errors []UpdateOpError
}

// callStored calls a function whose result has values of type T in it.
func callStored[T any](ctx context.Context, c *Client, functionID string, in, out any) error {
	if err := checkTarget(reflect.TypeFor[T]()); err != nil {
		return &callError{verb: "call", functionID: functionID, err: err}
	}
	return c.Call(ctx, functionID, in, out)
}

// storedValue decodes a stored value. Null, and no result at all, mean that
// there is none.
func storedValue[T any](raw json.RawMessage) (v T, found bool, err error) {
	if len(raw) == 0 || isNull(raw) {
		return v, false, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		var zero T
		return zero, true, err
	}
	return v, true, nil
}

// storedChange decodes the values before and after a change. The change has
// happened, whatever the error says.
func storedChange[T any](functionID string, before, after json.RawMessage) (r SetResult[T], err error) {
	if r.New, _, err = storedValue[T](after); err != nil {
		return r, notDecodable(functionID, "new value", err)
	}
	if r.Old, r.HadOld, err = storedValue[T](before); err != nil {
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
	v, found, err := storedValue[T](raw)
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
	return storedChange[T](functionID, result.OldValue, result.NewValue)
}

func updateStored[T any](ctx context.Context, c *Client, functionID string, in any) (UpdateResult[T], error) {
	var result StreamUpdateResult
	if err := callStored[T](ctx, c, functionID, in, &result); err != nil {
		return UpdateResult[T]{}, err
	}
	r, err := storedChange[T](functionID, result.OldValue, result.NewValue)
	return UpdateResult[T]{Old: r.Old, HadOld: r.HadOld, New: r.New, Errors: result.Errors}, err
}

func notDecodable(functionID, what string, err error) error {
	return &callError{verb: "call", functionID: functionID, err: fmt.Errorf("the %s does not decode: %w", what, err), sent: true}
}

// unencodable is the error of a call that was never made.
func notEncodable(functionID string, err error) error {
	return &callError{verb: "call", functionID: functionID, err: fmt.Errorf("encode payload: %w", err)}
}
