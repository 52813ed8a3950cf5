package iiitest

import (
	"encoding/json"
	"fmt"

	"github.com/iii-go/iii"
)

// decodeOps decodes the operations of an update, all of them or none, or says
// what is wrong in the engine's words: what the types of package iii let pass,
// an absent field for example, the engine refuses.
func decodeOps(raw []json.RawMessage) (ops []iii.UpdateOp, detail string) {
	ops = make([]iii.UpdateOp, len(raw))
	for i, op := range raw {
		if ops[i].Op, detail = decodeOp(op); detail != "" {
			return nil, detail
		}
	}
	return ops, ""
}

func decodeOp(raw json.RawMessage) (iii.UpdateOpVariant, string) {
	var tag struct {
		Type string `json:"type"`
	}
	if kindOf(raw) != '{' {
		return nil, "invalid type: " + describe(raw) + ", expected internally tagged enum UpdateOp"
	}
	if detail := decodeStrict(raw, &tag); detail != "" {
		return nil, detail
	}
	switch tag.Type {
	case "set":
		var op struct {
			Path  string          `json:"path"`
			Value json.RawMessage `json:"value,omitempty"`
		}
		detail := decodeStrict(raw, &op)
		return iii.UpdateSet{Path: op.Path, Value: op.Value}, detail
	case "merge":
		path, value, detail := decodePathOp(raw)
		return iii.UpdateMerge{Path: path, Value: value}, detail
	case "append":
		path, value, detail := decodePathOp(raw)
		return iii.UpdateAppend{Path: path, Value: value}, detail
	case "increment":
		path, by, detail := decodeCountOp(raw)
		return iii.UpdateIncrement{Path: path, By: by}, detail
	case "decrement":
		path, by, detail := decodeCountOp(raw)
		return iii.UpdateDecrement{Path: path, By: by}, detail
	case "remove":
		var op struct {
			Path string `json:"path"`
		}
		detail := decodeStrict(raw, &op)
		return iii.UpdateRemove{Path: op.Path}, detail
	default:
		return nil, fmt.Sprintf("unknown variant `%s`, expected one of `set`, `merge`, `increment`, `decrement`, `append`, `remove`", tag.Type)
	}
}

func decodeCountOp(raw json.RawMessage) (path string, by int64, detail string) {
	var op struct {
		Path string `json:"path"`
		By   int64  `json:"by"`
	}
	detail = decodeStrict(raw, &op)
	return op.Path, op.By, detail
}

func decodePathOp(raw json.RawMessage) (path *iii.MergePath, value json.RawMessage, detail string) {
	var op struct {
		Path  json.RawMessage `json:"path,omitempty"`
		Value json.RawMessage `json:"value"`
	}
	if detail = decodeStrict(raw, &op); detail != "" {
		return nil, nil, detail
	}
	const noPath = "data did not match any variant of untagged enum MergePath"
	switch kindOf(op.Path) {
	case 0, 'n':
	case '"':
		path = new(iii.MergePath)
		if json.Unmarshal(op.Path, &path.Single) != nil {
			return nil, nil, noPath
		}
	case '[':
		var segments []*string // pointers, because null would pass for a string
		if json.Unmarshal(op.Path, &segments) != nil {
			return nil, nil, noPath
		}
		path = &iii.MergePath{Segments: make([]string, len(segments))}
		for i, segment := range segments {
			if segment == nil {
				return nil, nil, noPath
			}
			path.Segments[i] = *segment
		}
	default:
		return nil, nil, noPath
	}
	return path, op.Value, ""
}

// inputError refuses an input for a reason that decodeInput does not know.
func inputError(functionID, detail string) *wireError {
	return errorBody("deserialization_error", "Failed to deserialize input for %s: %s", functionID, detail)
}
