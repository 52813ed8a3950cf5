package iiitest

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/iii-go/iii"
)

// updateOps is a list of update operations. Decoding fails if any operation is invalid or,
// unlike in package iii, lacks a required field.
type updateOps []iii.UpdateOp

func (ops *updateOps) decodeStrict(raw json.RawMessage) string {
	if kindOf(raw) != '[' {
		return "invalid type: " + describe(raw) + ", expected a sequence"
	}
	*ops = updateOps{}
	for _, item := range itemsOf(raw) {
		op, detail := decodeOp(item)
		if detail != "" {
			return detail
		}
		*ops = append(*ops, iii.UpdateOp{Op: op})
	}
	return ""
}

// The fields of each operation. A set operation without a value sets null.
type (
	setFields struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value,omitempty"`
	}
	pathFields struct {
		Path  mergePath       `json:"path,omitempty"`
		Value json.RawMessage `json:"value"`
	}
	countFields struct {
		Path string `json:"path"`
		By   int64  `json:"by"`
	}
	removeFields struct {
		Path string `json:"path"`
	}
)

// decodeOp decodes an operation: either an object with a "type" member, or an array that
// contains the type followed by the fields in order.
func decodeOp(raw json.RawMessage) (iii.UpdateOpVariant, string) {
	var decode func(fields any, variant string) string
	var tag json.RawMessage
	switch kindOf(raw) {
	case '{':
		members := sorted((&scanner{b: raw}).list(nil))
		tag = valueOf(members, "type")
		decode = func(fields any, _ string) string { return decodeMembers(members, reflect.ValueOf(fields).Elem()) }
	case '[':
		items := itemsOf(raw)
		if len(items) > 0 {
			tag, items = items[0], items[1:]
		}
		decode = func(fields any, variant string) string {
			v := reflect.ValueOf(fields).Elem()
			return decodeItems(items, v, "struct variant UpdateOp::"+variant, elements(v.NumField())+" in sequence")
		}
	default:
		return nil, "invalid type: " + describe(raw) + ", expected internally tagged enum UpdateOp"
	}
	switch {
	case tag == nil:
		return nil, "missing field `type`"
	case kindOf(tag) != '"':
		return nil, "invalid type: " + describe(tag) + ", expected variant identifier"
	}
	switch unquote(tag) {
	case "set":
		var op setFields
		detail := decode(&op, "Set")
		return iii.UpdateSet{Path: op.Path, Value: op.Value}, detail
	case "merge":
		var op pathFields
		detail := decode(&op, "Merge")
		return iii.UpdateMerge{Path: op.Path.path, Value: op.Value}, detail
	case "append":
		var op pathFields
		detail := decode(&op, "Append")
		return iii.UpdateAppend{Path: op.Path.path, Value: op.Value}, detail
	case "increment":
		var op countFields
		detail := decode(&op, "Increment")
		return iii.UpdateIncrement{Path: op.Path, By: op.By}, detail
	case "decrement":
		var op countFields
		detail := decode(&op, "Decrement")
		return iii.UpdateDecrement{Path: op.Path, By: op.By}, detail
	case "remove":
		var op removeFields
		detail := decode(&op, "Remove")
		return iii.UpdateRemove{Path: op.Path}, detail
	}
	return nil, fmt.Sprintf("unknown variant `%s`, expected one of `set`, `merge`, `increment`, `decrement`, `append`, `remove`", unquote(tag))
}

// mergePath is the path of a merge or append: missing, a key, or an array of keys.
type mergePath struct{ path *iii.MergePath }

func (p *mergePath) decodeStrict(raw json.RawMessage) string {
	const noPath = "data did not match any variant of untagged enum MergePath"
	switch kindOf(raw) {
	case 'n':
	case '"':
		p.path = &iii.MergePath{Single: unquote(raw)}
	case '[':
		items := itemsOf(raw)
		p.path = &iii.MergePath{Segments: make([]string, len(items))}
		for i, item := range items {
			if kindOf(item) != '"' {
				return noPath
			}
			p.path.Segments[i] = unquote(item)
		}
	default:
		return noPath
	}
	return ""
}
