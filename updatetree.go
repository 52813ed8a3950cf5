package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/iii-go/iii/internal/rawjson"
)

// jsonNode is a JSON value of which only the touched parts are decoded: what no
// update operation walks into keeps its text, apart from white space and the
// spelling of numbers. Exactly one of raw, members and elements holds the value.
type jsonNode struct {
	raw      []byte               // compact text, shared with no other value
	members  map[string]*jsonNode // a decoded object
	elements []*jsonNode          // a decoded list; never nil once decoded
}

// parseNode copies and validates one JSON document, and spells its numbers as the
// engine does.
func parseNode(doc []byte) (*jsonNode, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		return nil, err
	}
	raw, ok := rawjson.AppendNumbers(make([]byte, 0, compact.Len()), compact.Bytes())
	if !ok {
		return nil, errNumberRange
	}
	return &jsonNode{raw: raw}, nil
}

var errNumberRange = errors.New("a number is out of the range of a float")

func nullNode() *jsonNode   { return &jsonNode{raw: []byte("null")} }
func objectNode() *jsonNode { return &jsonNode{members: map[string]*jsonNode{}} }

func listNode(first *jsonNode) *jsonNode { return &jsonNode{elements: []*jsonNode{first}} }

// kind is the name that the engine's messages use for the type of the value.
func (n *jsonNode) kind() string {
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

// object returns the members of an object, decoding it if need be, and nil for
// every other value. A key that occurs twice has its last value.
func (n *jsonNode) object() (map[string]*jsonNode, error) {
	if n.kind() != "object" {
		return nil, nil
	}
	if n.members == nil {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(n.raw, &members); err != nil {
			return nil, fmt.Errorf("iii: decode object: %w", err)
		}
		n.members = make(map[string]*jsonNode, len(members))
		for key, raw := range members {
			n.members[key] = &jsonNode{raw: raw}
		}
		n.raw = nil
	}
	return n.members, nil
}

// push adds an element to a list.
func (n *jsonNode) push(element *jsonNode) error {
	if n.elements == nil {
		var elements []json.RawMessage
		if err := json.Unmarshal(n.raw, &elements); err != nil {
			return fmt.Errorf("iii: decode list: %w", err)
		}
		n.elements = make([]*jsonNode, 0, len(elements)+1)
		for _, raw := range elements {
			n.elements = append(n.elements, &jsonNode{raw: raw})
		}
		n.raw = nil
	}
	n.elements = append(n.elements, element)
	return nil
}

// concat adds the text of a string to a string, as it is written: the closing
// quote of the first and the opening quote of the second go.
func (n *jsonNode) concat(text *jsonNode) {
	n.raw = append(n.raw[:len(n.raw)-1], text.raw[1:]...)
}

// replace makes n the value that other is; other must not be used afterwards.
func (n *jsonNode) replace(other *jsonNode) { *n = *other }

// depth is the nesting of undecoded text: 0 for a scalar, 1 for a list or
// object of scalars.
func (n *jsonNode) depth() int {
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

// encode returns the value as compact JSON; the keys of decoded objects are
// sorted bytewise, as the engine writes them.
func (n *jsonNode) encode() (json.RawMessage, error) {
	var buf bytes.Buffer
	if err := n.write(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// write recurses only into decoded values, which are as deep as a path is long.
func (n *jsonNode) write(buf *bytes.Buffer) error {
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
				return fmt.Errorf("iii: encode key: %w", err)
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
