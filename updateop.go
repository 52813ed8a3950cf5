package iii

import (
	"encoding/json"
	"fmt"
)

// OpSet replaces the value under path, which is one literal key of the item
// ("a.b" is one key); the empty path stands for the item itself. A nil value
// sets null.
//
// A value that encoding/json cannot encode makes the operation unusable: the
// call that sends it, and [ApplyUpdate], report the reason. The same holds for
// [OpMerge] and [OpAppend].
func OpSet(path string, value any) UpdateOp {
	return withValue("set", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateSet{Type: UpdateOpTypeSet, Path: path, Value: raw}
	})
}

// OpMerge assigns the members of value, which must encode to a JSON object, to
// the object at path: shallowly, and a null member is stored as null. Each
// element of path is one literal key and leads one level down; no path, and
// one empty element, stand for the item itself. Objects missing on the way are
// made, and what is no object there is replaced by one.
func OpMerge(value any, path ...string) UpdateOp {
	return withValue("merge", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateMerge{Type: UpdateOpTypeMerge, Path: mergePath(path), Value: raw}
	})
}

// OpIncrement adds by to the number under path, one literal key of the item or
// "" for the item itself. A missing number counts as 0; integers stay exact up
// to 2^64-1, and what was written as a float stays one.
func OpIncrement(path string, by int64) UpdateOp {
	return UpdateOp{Op: UpdateIncrement{Type: UpdateOpTypeIncrement, Path: path, By: by}}
}

// OpDecrement subtracts by from the number under path, with the rules of
// [OpIncrement].
func OpDecrement(path string, by int64) UpdateOp {
	return UpdateOp{Op: UpdateDecrement{Type: UpdateOpTypeDecrement, Path: path, By: by}}
}

// OpAppend adds value to the end of what is at path: as one element to a list,
// as text to a string. Where nothing or null is, a string becomes the value
// itself and everything else a list of one element, except that a missing
// value two or more levels down always becomes a list. The path is that of
// [OpMerge].
func OpAppend(value any, path ...string) UpdateOp {
	return withValue("append", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateAppend{Type: UpdateOpTypeAppend, Path: mergePath(path), Value: raw}
	})
}

// OpRemove deletes the member under path, one literal key of the item; with
// the empty path the item becomes null but stays.
func OpRemove(path string) UpdateOp {
	return UpdateOp{Op: UpdateRemove{Type: UpdateOpTypeRemove, Path: path}}
}

func withValue(op string, value any, variant func(JSONValue) UpdateOpVariant) UpdateOp {
	raw, err := json.Marshal(value)
	if err != nil {
		return UpdateOp{Op: unusableOp{fmt.Errorf("iii: value of update operation %q cannot be encoded: %w", op, err)}}
	}
	return UpdateOp{Op: variant(raw)}
}

func mergePath(path []string) *MergePath {
	switch len(path) {
	case 0:
		return nil
	case 1:
		return &MergePath{Single: path[0]}
	default:
		return &MergePath{Segments: path}
	}
}

// unusableOp stands in for an operation whose value could not be encoded, so
// that the error reaches whoever sends it: a constructor has none to return.
type unusableOp struct{ err error }

func (o unusableOp) updateOp() UpdateOpVariant { return o }

// MarshalJSON implements json.Marshaler.
func (o unusableOp) MarshalJSON() ([]byte, error) { return nil, o.err }
