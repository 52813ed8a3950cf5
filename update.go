package iii

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iii-go/iii/internal/jsontree"
)

// The engine's limits for update operations.
const (
	maxPathSegments  = 32
	maxSegmentBytes  = 256
	maxMergeMembers  = 1024
	maxMergeDepth    = 16
	updateErrorsPage = "https://iii.dev/docs/workers/iii-state#error-codes"
)

// reservedKeys lists the keys that update operations reject, in ascending order.
var reservedKeys = []string{"__proto__", "constructor", "prototype"}

// ApplyUpdate applies update operations to an item as the engine's stream::update and
// state::update do. It is meant for workers that store items themselves. A nil old means that
// there is no item: the operations then start from an empty object, and the result's OldValue
// is nil.
//
// An operation is either applied, or skipped and reported as one error in the result. Later
// operations still run, and nothing is rolled back. Numbers follow the engine's rules:
// integers from -2^63 to 2^64-1 are exact; any other number is a 64-bit float and is written
// with a fraction or an exponent (1e2 becomes 100.0). Values that no operation changes keep
// their original JSON, except for white space. The keys of changed objects are sorted.
//
// ApplyUpdate returns an error and applies nothing if old or an operand is not valid JSON or
// contains a number outside the range of a float64, or if an operation's Op is nil. It neither
// retains nor modifies its arguments, and it is safe for concurrent use.
func ApplyUpdate(old json.RawMessage, ops []UpdateOp) (StreamUpdateResult, error) {
	u := update{fresh: old == nil, root: jsontree.NewObject()}
	var result StreamUpdateResult
	if old != nil {
		root, err := jsontree.Parse(old)
		if err != nil {
			return StreamUpdateResult{}, fmt.Errorf("iii: the item is not valid JSON: %w", err)
		}
		u.root = root
		if result.OldValue, err = root.Encode(); err != nil {
			return StreamUpdateResult{}, fmt.Errorf("iii: the item: %w", err)
		}
	}
	for i, op := range ops {
		refused, err := u.apply(op)
		if err != nil {
			return StreamUpdateResult{}, fmt.Errorf("iii: update operation %d: %w", i, err)
		}
		if refused != nil {
			page := updateErrorsPage
			result.Errors = append(result.Errors, UpdateOpError{OpIndex: uint64(i), Code: refused.code, Message: refused.message, DocURL: &page})
			continue
		}
		u.fresh = false
	}
	var err error
	if result.NewValue, err = u.root.Encode(); err != nil {
		return StreamUpdateResult{}, fmt.Errorf("iii: the updated item: %w", err)
	}
	return result, nil
}

type update struct {
	root *jsontree.Node
	// fresh is true if there was no item and no operation has been applied yet. Operations on
	// the root then treat the item as missing, not as an empty object.
	fresh bool
}

// refusal is a rejected operation's error, as it appears in the result.
type refusal struct{ code, message string }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code: code, message: fmt.Sprintf(format, args...)}
}

func (u *update) apply(op UpdateOp) (*refusal, error) {
	if op.Op == nil {
		return nil, errors.New("no operation")
	}
	switch op := op.Op.updateOp().(type) {
	case UpdateSet:
		return u.set(op.Path, op.Value)
	case UpdateMerge:
		return u.merge(op.Path, op.Value)
	case UpdateIncrement:
		return u.add("increment", op.Path, op.By, false)
	case UpdateDecrement:
		return u.add("decrement", op.Path, op.By, true)
	case UpdateAppend:
		return u.append(op.Path, op.Value)
	case UpdateRemove:
		return u.remove(op.Path)
	case unusableOp:
		return nil, op.err
	default:
		return nil, fmt.Errorf("unknown operation %T", op)
	}
}

func (u *update) set(path string, value JSONValue) (*refusal, error) {
	node, err := parseOperand(value)
	if err != nil {
		return nil, err
	}
	key := validText(path)
	if key == "" {
		u.root = node
		return nil, nil
	}
	members, refused, err := u.member("set", key)
	if members != nil {
		members[key] = node
	}
	return refused, err
}

func (u *update) remove(path string) (*refusal, error) {
	key := validText(path)
	if key == "" {
		u.root = jsontree.Null()
		return nil, nil
	}
	members, refused, err := u.member("remove", key)
	delete(members, key)
	return refused, err
}

func (u *update) add(op, path string, by int64, subtract bool) (*refusal, error) {
	key := validText(path)
	target, name := u.root, "root"
	var members map[string]*jsontree.Node
	if key != "" {
		var refused *refusal
		var err error
		if members, refused, err = u.member(op, key); members == nil {
			return refused, err
		}
		target, name = members[key], key
	} else if u.fresh {
		target = nil
	}
	if target == nil {
		target = jsontree.Number("0")
	} else if kind := target.Kind(); kind != "number" {
		return refuse(op+".not_number", "Expected number at path '%s', got %s.", name, kind), nil
	}
	sum, ok := jsontree.AddToNumber(target.Text(), by, subtract)
	if !ok {
		return refuse(op+".not_number", "Expected number at path '%s', got number.", name), nil
	}
	node := jsontree.Number(sum)
	if key == "" {
		u.root = node
	} else {
		members[key] = node
	}
	return nil, nil
}

func (u *update) merge(path *MergePath, value JSONValue) (*refusal, error) {
	node, err := parseOperand(value)
	if err != nil {
		return nil, err
	}
	segments := pathSegments(path)
	if refused := checkPath("merge", segments); refused != nil {
		return refused, nil
	}
	members, refused, err := checkMergeValue(node)
	if refused != nil || err != nil {
		return refused, err
	}
	if len(segments) == 0 && u.root.Kind() != "object" {
		return nil, nil // the engine reports no error here
	}
	target, err := descend(u.root, segments)
	if err != nil {
		return nil, err
	}
	into, err := makeObject(target)
	if err != nil {
		return nil, err
	}
	for key, member := range members {
		into[key] = member
	}
	return nil, nil
}

func (u *update) append(path *MergePath, value JSONValue) (*refusal, error) {
	node, err := parseOperand(value)
	if err != nil {
		return nil, err
	}
	segments := pathSegments(path)
	if refused := checkPath("append", segments); refused != nil {
		return refused, nil
	}
	if len(segments) == 0 {
		if u.fresh {
			u.root = firstOf(node, false)
			return nil, nil
		}
		return appendTo(u.root, node, "root")
	}
	if kind := u.root.Kind(); kind != "object" {
		return refuse("append.target_not_object", "Cannot append at path '[%s]': target is %s, expected object.",
			strings.Join(segments, ", "), kind), nil
	}
	parents, key := segments[:len(segments)-1], segments[len(segments)-1]
	parent, err := descend(u.root, parents)
	if err != nil {
		return nil, err
	}
	members, err := makeObject(parent)
	if err != nil {
		return nil, err
	}
	leaf, found := members[key]
	if !found {
		members[key] = firstOf(node, len(parents) > 0)
		return nil, nil
	}
	return appendTo(leaf, node, key)
}

// firstOf returns the result of appending value to a missing value. A string stays a string
// unless nested is set; any other value becomes a list with one element.
func firstOf(value *jsontree.Node, nested bool) *jsontree.Node {
	if value.Kind() == "string" && !nested {
		return value
	}
	return jsontree.NewList(value)
}

func appendTo(leaf, value *jsontree.Node, name string) (*refusal, error) {
	switch kind := leaf.Kind(); kind {
	case "null":
		leaf.Replace(firstOf(value, false))
		return nil, nil
	case "array":
		return nil, leaf.Push(value)
	case "string":
		if value.Kind() != "string" {
			return refuse("append.type_mismatch", "Expected string append value at path '%s', got %s.", name, value.Kind()), nil
		}
		leaf.Concat(value)
		return nil, nil
	default:
		return refuse("append.type_mismatch", "Cannot append at path '%s': target is %s, expected array, string, null, or missing field.", name, kind), nil
	}
}

// member returns the root's members for an operation on a single key. It returns nil if the
// operation is rejected.
func (u *update) member(op, key string) (map[string]*jsontree.Node, *refusal, error) {
	if refused := checkSegment(op, key); refused != nil {
		return nil, refused, nil
	}
	if kind := u.root.Kind(); kind != "object" {
		return nil, refuse(op+".target_not_object", "Cannot %s at path '%s': target is %s, expected object.", op, key, kind), nil
	}
	members, err := u.root.Members()
	return members, nil, err
}

// descend follows segments from node and returns the value at the end. On the way, it replaces
// every value that is not an object with an empty object.
func descend(node *jsontree.Node, segments []string) (*jsontree.Node, error) {
	for _, key := range segments {
		members, err := makeObject(node)
		if err != nil {
			return nil, err
		}
		next := members[key]
		if next == nil {
			next = jsontree.NewObject()
			members[key] = next
		}
		node = next
	}
	return node, nil
}

// makeObject returns the members of node. If node is not an object, makeObject first replaces
// it with an empty object.
func makeObject(node *jsontree.Node) (map[string]*jsontree.Node, error) {
	if node.Kind() != "object" {
		node.Replace(jsontree.NewObject())
	}
	return node.Members()
}

func checkMergeValue(value *jsontree.Node) (map[string]*jsontree.Node, *refusal, error) {
	if value.Kind() != "object" {
		return nil, refuse("merge.value.not_an_object", "Merge value must be a JSON object"), nil
	}
	depth := value.Depth()
	members, err := value.Members()
	if err != nil {
		return nil, nil, err
	}
	if len(members) > maxMergeMembers {
		return nil, refuse("merge.value.too_many_keys", "Merge value has %d top-level keys, exceeds maximum of %d", len(members), maxMergeMembers), nil
	}
	for _, key := range reservedKeys {
		if _, found := members[key]; found {
			return nil, refuse("merge.value.proto_polluted", `Merge value top-level key "%s" is a prototype-pollution sink`, key), nil
		}
	}
	if depth > maxMergeDepth {
		return nil, refuse("merge.value.too_deep", "Merge value JSON nesting depth %d exceeds maximum of %d", depth, maxMergeDepth), nil
	}
	return members, nil, nil
}

// pathSegments returns the keys that lead to the target. The root has no keys.
func pathSegments(path *MergePath) []string {
	keys := path.Keys()
	segments := make([]string, len(keys))
	for i, key := range keys {
		segments[i] = validText(key)
	}
	return segments
}

func checkPath(op string, segments []string) *refusal {
	if len(segments) > maxPathSegments {
		return refuse(op+".path.too_deep", "Path depth %d exceeds maximum of %d", len(segments), maxPathSegments)
	}
	for _, segment := range segments {
		if refused := checkSegment(op, segment); refused != nil {
			return refused
		}
	}
	return nil
}

func checkSegment(op, segment string) *refusal {
	switch {
	case segment == "":
		return refuse(op+".path.empty_segment", "Path contains an empty segment")
	case len(segment) > maxSegmentBytes:
		return refuse(op+".path.segment_too_long", "Path segment of %d bytes exceeds maximum of %d", len(segment), maxSegmentBytes)
	case slices.Contains(reservedKeys, segment):
		return refuse(op+".path.proto_polluted", "Path segment '%s' is not allowed (prototype pollution).", segment)
	}
	return nil
}

// parseOperand parses an operation's value. An absent value is null.
func parseOperand(value JSONValue) (*jsontree.Node, error) {
	if value == nil {
		return jsontree.Null(), nil
	}
	node, err := jsontree.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("its value is not valid JSON: %w", err)
	}
	return node, nil
}

// validText replaces invalid UTF-8 with U+FFFD.
func validText(s string) string { return string([]rune(s)) }

// OpSet replaces the value at path, which is a single literal key of the item ("a.b" is one
// key). An empty path refers to the item itself. A nil value is stored as null.
//
// If encoding/json cannot encode value, the error is returned by [ApplyUpdate] or by the call
// that sends the operation. This also applies to [OpMerge] and [OpAppend].
func OpSet(path string, value any) UpdateOp {
	return withValue("set", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateSet{Type: UpdateOpTypeSet, Path: path, Value: raw}
	})
}

// OpMerge assigns the members of value to the object at path. value must encode to a JSON
// object. The merge is shallow, and a null member is stored as null. Each element of path is a
// literal key one level further down. Without a path, or with a single empty element, the
// target is the item itself. Missing objects on the path are created, and other values on the
// path are replaced with objects.
func OpMerge(value any, path ...string) UpdateOp {
	return withValue("merge", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateMerge{Type: UpdateOpTypeMerge, Path: mergePath(path), Value: raw}
	})
}

// OpIncrement increments the number at path by the given amount. path is a single literal key
// of the item, or "" for the item itself. A missing number is treated as 0. Integers stay
// exact up to 2^64-1, and a number that was written as a float stays a float.
func OpIncrement(path string, by int64) UpdateOp {
	return UpdateOp{Op: UpdateIncrement{Type: UpdateOpTypeIncrement, Path: path, By: by}}
}

// OpDecrement decrements the number at path by the given amount. It follows the rules of
// [OpIncrement].
func OpDecrement(path string, by int64) UpdateOp {
	return UpdateOp{Op: UpdateDecrement{Type: UpdateOpTypeDecrement, Path: path, By: by}}
}

// OpAppend appends value to the list or the string at path. Only a string can be appended to a
// string. If the value at path is missing or null, a string is stored unchanged, and any other
// value becomes a list with one element. If path has two or more elements, a missing value
// always becomes a list. path follows the rules of [OpMerge].
func OpAppend(value any, path ...string) UpdateOp {
	return withValue("append", value, func(raw JSONValue) UpdateOpVariant {
		return UpdateAppend{Type: UpdateOpTypeAppend, Path: mergePath(path), Value: raw}
	})
}

// OpRemove deletes the member at path, which is a single literal key of the item. With an
// empty path, the item becomes null but is not deleted.
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

// unusableOp represents an operation whose value could not be encoded. The operation's
// constructor cannot return the error, so encoding the operation returns it.
type unusableOp struct{ err error }

func (o unusableOp) updateOp() UpdateOpVariant { return o }

// MarshalJSON implements json.Marshaler.
func (o unusableOp) MarshalJSON() ([]byte, error) { return nil, o.err }
