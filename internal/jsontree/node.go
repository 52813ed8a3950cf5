// Package jsontree edits JSON documents as the engine does when it updates a stored item. It
// decodes only the parts of a document that an update accesses.
package jsontree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/iii-go/iii/internal/rawjson"
)

// Node is a JSON value. It is decoded only where it is accessed. Other parts keep their text,
// except that white space is removed and numbers are reformatted. The zero value is not
// usable; use [Parse] or one of the constructors. A Node is not safe for concurrent use.
type Node struct {
	// Exactly one of raw, members and elements is set.
	raw      []byte           // compact JSON, not shared with other values
	members  map[string]*Node // a decoded object
	elements []*Node          // a decoded list, not nil even if empty
}

// Parse validates and copies a JSON document. It formats numbers as the engine does.
func Parse(doc []byte) (*Node, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		return nil, err
	}
	raw, ok := rawjson.AppendNumbers(make([]byte, 0, compact.Len()), compact.Bytes())
	if !ok {
		return nil, errNumberRange
	}
	return &Node{raw: raw}, nil
}

var errNumberRange = errors.New("a number is out of the range of a float")

// Null returns a null node.
func Null() *Node { return &Node{raw: []byte("null")} }

// Number returns a number node. text must be a JSON number.
func Number(text string) *Node { return &Node{raw: []byte(text)} }

// NewObject returns an empty object.
func NewObject() *Node { return &Node{members: map[string]*Node{}} }

// NewList returns a list with one element.
func NewList(first *Node) *Node { return &Node{elements: []*Node{first}} }

// Kind returns the type of the value as named in the engine's messages: object, array, string,
// boolean, null or number.
func (n *Node) Kind() string {
	switch {
	case n.members != nil:
		return "object"
	case n.elements != nil:
		return "array"
	}
	switch n.raw[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// Members returns the members of an object, decoding it if necessary. If a key is repeated,
// the last value wins. Changes to the map change the object. If n is not an object, Members
// returns nil.
func (n *Node) Members() (map[string]*Node, error) {
	if n.Kind() != "object" {
		return nil, nil
	}
	if n.members == nil {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(n.raw, &members); err != nil {
			return nil, fmt.Errorf("decode object: %w", err)
		}
		n.members = make(map[string]*Node, len(members))
		for key, raw := range members {
			n.members[key] = &Node{raw: raw}
		}
		n.raw = nil
	}
	return n.members, nil
}

// Push appends an element to a list.
func (n *Node) Push(element *Node) error {
	if n.elements == nil {
		var elements []json.RawMessage
		if err := json.Unmarshal(n.raw, &elements); err != nil {
			return fmt.Errorf("decode list: %w", err)
		}
		n.elements = make([]*Node, 0, len(elements)+1)
		for _, raw := range elements {
			n.elements = append(n.elements, &Node{raw: raw})
		}
		n.raw = nil
	}
	n.elements = append(n.elements, element)
	return nil
}

// Concat appends suffix to n without decoding either. Both must be JSON strings.
func (n *Node) Concat(suffix *Node) {
	n.raw = append(n.raw[:len(n.raw)-1], suffix.raw[1:]...) // drops the two inner quotes
}

// Replace sets n to the value of other, which must not be used after the call.
func (n *Node) Replace(other *Node) { *n = *other }

// Depth returns the nesting depth of a value that has not been decoded. A scalar has depth 0;
// a list or object that contains only scalars has depth 1.
func (n *Node) Depth() int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(n.raw); i++ {
		switch c := n.raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// Text returns the JSON text of a value that has not been decoded, such as a scalar.
func (n *Node) Text() string { return string(n.raw) }

// Encode returns the value as compact JSON. Like the engine, it sorts the keys of decoded
// objects by their bytes.
func (n *Node) Encode() (json.RawMessage, error) {
	var buf bytes.Buffer
	if err := n.write(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// write writes the value to buf. It recurses only into decoded values. The depth to which
// values have been accessed therefore bounds the recursion.
func (n *Node) write(buf *bytes.Buffer) error {
	switch {
	case n.members != nil:
		keys := json.NewEncoder(buf)
		keys.SetEscapeHTML(false)
		buf.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(n.members)) {
			if i > 0 {
				buf.WriteByte(',')
			}
			if err := keys.Encode(key); err != nil {
				return fmt.Errorf("encode key: %w", err)
			}
			buf.Truncate(buf.Len() - 1) // the newline added by Encode
			buf.WriteByte(':')
			if err := n.members[key].write(buf); err != nil {
				return err
			}
		}
		buf.WriteByte('}')
	case n.elements != nil:
		buf.WriteByte('[')
		for i, element := range n.elements {
			if i > 0 {
				buf.WriteByte(',')
			}
			if err := element.write(buf); err != nil {
				return err
			}
		}
		buf.WriteByte(']')
	default:
		buf.Write(n.raw)
	}
	return nil
}
