package iii

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/iii-go/iii/internal/rawjson"
)

// ChannelRefAt is a reference to a channel and where it was found.
type ChannelRefAt struct {
	// Path locates the reference: "a.b[0].c" is member c of the first element of
	// member b of member a; "" is the payload itself. Keys are not escaped, so keys
	// that contain dots or brackets make the path ambiguous.
	Path string
	// Ref opens the channel; see [Client.OpenReader] and [Client.OpenWriter].
	Ref StreamChannelRef
}

// ChannelRefs returns the channel references in a payload, in document order. A
// reference is any object, at any depth, whose members channel_id, access_key and
// direction are strings; the inside of a reference is not searched. ChannelRefs
// returns nil if there are none or if the payload is not valid JSON.
func ChannelRefs(payload json.RawMessage) []ChannelRefAt {
	if !rawjson.Valid(payload) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	s := refScan{decoder: decoder}
	for s.next() {
	}
	return s.found
}

// refScan reads a document once, token by token, so nesting costs no stack.
type refScan struct {
	decoder *json.Decoder
	open    []refLevel // the objects and lists around the next token
	found   []ChannelRefAt
}

// refLevel is an object or a list that is still open.
type refLevel struct {
	object   bool
	inValue  bool   // in an object: key is set and its value comes next
	key      string // in an object
	index    int    // in a list
	ref      StreamChannelRef
	strings  uint8 // which members of ref are strings
	children int   // references found before it began
}

const (
	hasChannelID = 1 << iota
	hasAccessKey
	hasDirection
	isChannelRef = hasChannelID | hasAccessKey | hasDirection
)

// next processes one token; it returns false at the end.
func (s *refScan) next() bool {
	token, err := s.decoder.Token()
	if err != nil {
		return false
	}
	if delim, ok := token.(json.Delim); ok {
		switch delim {
		case '{', '[':
			s.member("", false)
			s.open = append(s.open, refLevel{object: delim == '{', children: len(s.found)})
		default:
			s.close()
			s.done()
		}
		return true
	}
	text, isString := token.(string)
	if top := s.top(); isString && top != nil && top.object && !top.inValue {
		top.key, top.inValue = text, true
		return true
	}
	s.member(text, isString)
	s.done()
	return true
}

func (s *refScan) top() *refLevel {
	if len(s.open) == 0 {
		return nil
	}
	return &s.open[len(s.open)-1]
}

// member processes the beginning of a value. If a key occurs twice, the last value
// counts.
func (s *refScan) member(text string, isString bool) {
	top := s.top()
	if top == nil || !top.object {
		return
	}
	var bit uint8
	switch top.key {
	case "channel_id":
		bit, top.ref.ChannelID = hasChannelID, text
	case "access_key":
		bit, top.ref.AccessKey = hasAccessKey, text
	case "direction":
		bit, top.ref.Direction = hasDirection, StreamChannelDirection(text)
	}
	top.strings &^= bit
	if isString {
		top.strings |= bit
	}
}

// done processes the end of a value.
func (s *refScan) done() {
	switch top := s.top(); {
	case top == nil:
	case top.object:
		top.inValue = false
	default:
		top.index++
	}
}

// close processes the end of an object or a list.
func (s *refScan) close() {
	last := *s.top()
	s.open = s.open[:len(s.open)-1]
	if last.object && last.strings == isChannelRef {
		s.found = append(s.found[:last.children], ChannelRefAt{Path: s.path(), Ref: last.ref})
	}
}

// path returns the path of the value that was just closed.
func (s *refScan) path() string {
	var b strings.Builder
	for _, level := range s.open {
		switch {
		case !level.object:
			b.WriteString("[" + strconv.Itoa(level.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + level.key)
		default:
			b.WriteString(level.key)
		}
	}
	return b.String()
}
