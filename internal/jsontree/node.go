// Package jsontree represents JSON documents and decodes only the parts that are
// touched, for updates of stored items.
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

// Node is a JSON value that is decoded only where it is accessed; all other parts keep their
// text, except for white space and the spelling of numbers. The zero value is not usable; use
// [Parse] or one of the constructors. A Node is not safe for concurrent use.
type Node struct {
	// Exactly one of raw, members and elements holds the value.
	raw      []byte           // compact text, shared with no other value
	members  map[string]*Node // a decoded object
	elements []*Node          // a decoded list; never nil once decoded
}

// Parse validates and copies one JSON document. It spells numbers as the engine does.
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

// Null returns a node with the value null.
func Null() *Node { return &Node{raw: []byte("null")} }

// Number returns the number with the given text, which must be a JSON number.
func Number(text string) *Node { return &Node{raw: []byte(text)} }

// NewObject returns an empty object.
func NewObject() *Node { return &Node{members: map[string]*Node{}} }

// NewList returns a list with one element.
func NewList(first *Node) *Node { return &Node{elements: []*Node{first}} }

// Kind returns the name that the engine's messages use for the type of the value:
// object, array, string, boolean, null or number.
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

// Members returns the members of an object, which it decodes if necessary, and nil for
// every other value. If a key occurs several times, the last value wins. The map
// belongs to the node: modifying it modifies the object.
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

// Push adds an element to a list.
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

// Concat appends the text of a string to n, also a string, without decoding either.
func (n *Node) Concat(text *Node) {
	n.raw = append(n.raw[:len(n.raw)-1], text.raw[1:]...) // without the closing quote of n and the opening quote of text
}

// Replace sets n to the value of other, which must not be used afterwards.
func (n *Node) Replace(other *Node) { *n = *other }

// Depth returns the nesting depth of a value that is not decoded: 0 for a scalar, 1 for
// a list or object of scalars.
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

// Text returns the text of a value that has not been decoded. Scalars are never decoded.
func (n *Node) Text() string { return string(n.raw) }

// Encode returns the value as compact JSON. The keys of decoded objects are sorted
// bytewise, as the engine writes them.
func (n *Node) Encode() (json.RawMessage, error) {
	var buf bytes.Buffer
	if err := n.write(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// write recurses only into decoded values, whose depth is bounded by the length of a
// path.
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
			buf.Truncate(buf.Len() - 1) // the newline that an Encoder adds
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
