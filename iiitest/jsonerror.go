package iiitest

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// syntaxError returns the engine's error message for invalid JSON, with the position of the
// error. It returns "" for JSON that the engine accepts.
func syntaxError(raw []byte) string {
	if rawjson.Plain(raw, maxDepth) { // almost all messages, in a fraction of the time
		return ""
	}
	p := jsonParser{b: raw}
	if p.value(0); p.err == "" {
		if _, more := p.peek(); more {
			p.fail("trailing characters", 1)
		}
	}
	return p.err
}

// jsonParser validates JSON and stops at the first error.
type jsonParser struct {
	b   []byte
	i   int
	err string
}

// fail records the first error and returns false. The error is at the next byte if ahead is 1,
// and at the last consumed byte if ahead is 0.
func (p *jsonParser) fail(what string, ahead int) bool {
	if p.err == "" {
		at := min(p.i+ahead, len(p.b))
		line := bytes.Count(p.b[:at], []byte("\n")) + 1
		column := at - (bytes.LastIndexByte(p.b[:at], '\n') + 1)
		p.err = fmt.Sprintf("%s at line %d column %d", what, line, column)
	}
	return false
}

// peek skips white space and returns the next byte without consuming it.
func (p *jsonParser) peek() (c byte, more bool) {
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c, true
		}
	}
	return 0, false
}

func (p *jsonParser) take() (c byte, more bool) {
	if p.i == len(p.b) {
		return 0, false
	}
	p.i++
	return p.b[p.i-1], true
}

const (
	eofValue  = "EOF while parsing a value"
	eofString = "EOF while parsing a string"
	eofList   = "EOF while parsing a list"
	eofObject = "EOF while parsing an object"
)

// value consumes a value at nesting level depth. Like all parser methods, it returns false
// after an error.
func (p *jsonParser) value(depth int) bool {
	c, more := p.peek()
	switch {
	case !more:
		return p.fail(eofValue, 1)
	case c == 'n':
		return p.ident("null")
	case c == 't':
		return p.ident("true")
	case c == 'f':
		return p.ident("false")
	case c == '"':
		return p.str()
	case c == '-' || isDigit(c):
		return p.number()
	case (c == '[' || c == '{') && depth >= maxDepth:
		return p.fail("recursion limit exceeded", 1)
	case c == '[':
		return p.list(depth + 1)
	case c == '{':
		return p.object(depth + 1)
	}
	return p.fail("expected value", 1)
}

func (p *jsonParser) ident(name string) bool {
	for i := range len(name) {
		switch c, more := p.take(); {
		case !more:
			return p.fail(eofValue, 0)
		case c != name[i]:
			return p.fail("expected ident", 0)
		}
	}
	return true
}

func (p *jsonParser) list(depth int) bool {
	p.i++ // [
	for first := true; ; first = false {
		c, more := p.peek()
		switch {
		case !more:
			return p.fail(eofList, 1)
		case c == ']':
			p.i++
			return true
		case !first && c != ',':
			return p.fail("expected `,` or `]`", 1)
		case !first:
			p.i++
			if c, _ := p.peek(); c == ']' {
				return p.fail("trailing comma", 1)
			}
		}
		if !p.value(depth) {
			return false
		}
	}
}

func (p *jsonParser) object(depth int) bool {
	p.i++ // {
	for first := true; ; first = false {
		c, more := p.peek()
		switch {
		case !more:
			return p.fail(eofObject, 1)
		case c == '}':
			p.i++
			return true
		case !first && c != ',':
			return p.fail("expected `,` or `}`", 1)
		case !first:
			p.i++
			if c, more = p.peek(); !more {
				return p.fail(eofValue, 1)
			}
		}
		switch {
		case c == '}':
			return p.fail("trailing comma", 1)
		case c != '"':
			return p.fail("key must be a string", 1)
		case !p.str():
			return false
		}
		switch c, more := p.peek(); {
		case !more:
			return p.fail(eofObject, 1)
		case c != ':':
			return p.fail("expected `:`", 1)
		}
		p.i++
		if !p.value(depth) {
			return false
		}
	}
}

func (p *jsonParser) str() bool {
	p.i++ // "
	for start := p.i; ; {
		switch c, more := p.take(); {
		case !more:
			return p.fail(eofString, 0)
		case c == '"':
			if !utf8.Valid(p.b[start:p.i]) {
				return p.fail("invalid unicode code point", 0)
			}
			return true
		case c < ' ':
			return p.fail("control character (\\u0000-\\u001F) found while parsing a string", 0)
		case c == '\\' && !p.escape():
			return false
		}
	}
}

// escape consumes the rest of an escape sequence, after the backslash. The engine rejects lone
// surrogates.
func (p *jsonParser) escape() bool {
	switch c, more := p.take(); {
	case !more:
		return p.fail(eofString, 0)
	case bytes.IndexByte([]byte(`"\/bfnrt`), c) >= 0:
		return true
	case c != 'u':
		return p.fail("invalid escape", 0)
	}
	high, ok := p.hex()
	switch {
	case !ok:
		return false
	case high >= 0xDC00 && high < 0xE000:
		return p.fail("lone leading surrogate in hex escape", 0)
	case high < 0xD800 || high >= 0xE000:
		return true
	}
	for _, want := range []byte(`\u`) {
		switch c, more := p.take(); {
		case !more:
			return p.fail(eofString, 0)
		case c != want:
			return p.fail("unexpected end of hex escape", 0)
		}
	}
	low, ok := p.hex()
	if ok && (low < 0xDC00 || low >= 0xE000) {
		return p.fail("lone leading surrogate in hex escape", 0)
	}
	return ok
}

func (p *jsonParser) hex() (n rune, ok bool) {
	if len(p.b)-p.i < 4 {
		p.i = len(p.b)
		return 0, p.fail(eofString, 0)
	}
	for range 4 {
		c, _ := p.take()
		switch {
		case isDigit(c):
			n = n<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, p.fail("invalid escape", 0)
		}
	}
	return n, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// next returns the next byte, which may be white space, or 0 at the end.
func (p *jsonParser) next() byte {
	if p.i == len(p.b) {
		return 0
	}
	return p.b[p.i]
}

// digits consumes one or more digits.
func (p *jsonParser) digits() bool {
	switch {
	case p.i == len(p.b):
		return p.fail(eofValue, 1)
	case !isDigit(p.next()):
		return p.fail("invalid number", 1)
	}
	for isDigit(p.next()) {
		p.i++
	}
	return true
}

func (p *jsonParser) number() bool {
	start := p.i
	if p.next() == '-' {
		p.i++
	}
	if p.next() == '0' {
		if p.i++; isDigit(p.next()) {
			return p.fail("invalid number", 1)
		}
	} else if !p.digits() {
		return false
	}
	if p.next() == '.' {
		if p.i++; !p.digits() {
			return false
		}
	}
	if p.next()|0x20 == 'e' {
		p.i++
		if c := p.next(); c == '+' || c == '-' {
			p.i++
		}
		if !p.digits() {
			return false
		}
	}
	return rawjson.NumberInRange(p.b[start:p.i]) || p.fail("number out of range", 0)
}
