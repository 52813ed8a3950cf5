// Package routepath parses the paths of HTTP routes exactly as the engine's router does. The
// engine turns each segment ":name" into "{name}" and passes the path to a router, which
// panics if it cannot parse the path. The engine does not recover from the panic. It rebuilds
// the router, and panics again, whenever any worker registers or removes a route.
package routepath

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the kind of a [Part].
type Kind uint8

const (
	// Literal matches its text.
	Literal Kind = iota
	// Param matches all bytes before the next slash, possibly none. If no slash follows, it
	// matches one or more bytes up to the end of the path.
	Param
	// Rest matches one or more bytes up to the end of the path.
	Rest
)

// Part is a piece of a path: literal text or a wildcard.
type Part struct {
	Kind Kind
	// Text is the literal text, including slashes, or the wildcard's name.
	Text string
	// Colon reports whether a wildcard is written as ":name". The engine passes the values of
	// such wildcards, and of no others, to the function.
	Colon bool
}

// Pattern is a parsed path. Literals and wildcards alternate.
type Pattern []Part

// maxParams is the number of parameters above which the router panics.
const maxParams = 25

// Parse parses a path. If the router would panic on the path, the error states the reason.
func Parse(path string) (Pattern, error) {
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, "*") {
			return nil, fatal(path, fmt.Errorf("segment %q is a wildcard without braces", segment))
		}
	}
	var pattern Pattern
	var text []byte
	params := 0
	cells := cellsOf(path)
	for i := 0; i < len(cells); {
		c := cells[i]
		if c.escaped || c.char != '{' && c.char != '}' {
			text = append(text, c.char)
			i++
			continue
		}
		n, err := wildcardLength(cells[i:])
		if err != nil {
			return nil, fatal(path, err)
		}
		p := Part{Kind: Param, Text: textOf(cells[i+1 : i+n-1]), Colon: c.colon}
		i += n
		switch {
		case strings.HasPrefix(p.Text, "*"):
			p.Kind, p.Text = Rest, p.Text[1:]
			if i < len(cells) {
				return nil, fatal(path, fmt.Errorf("the wildcard {*%s} is not the end of the path", p.Text))
			}
		case params == maxParams:
			return nil, fatal(path, fmt.Errorf("it has more than %d parameters", maxParams))
		default:
			params++
		}
		if len(text) > 0 {
			pattern = append(pattern, Part{Text: string(text)})
			text = nil
		}
		pattern = append(pattern, p)
	}
	if len(text) > 0 {
		pattern = append(pattern, Part{Text: string(text)})
	}
	return pattern, nil
}

func fatal(path string, reason error) error {
	return fmt.Errorf("HTTP path %q breaks the engine's router for all workers until the engine is restarted: %w", path, reason)
}

// cell is a byte of a path after the engine has changed ":name" to "{name}" and the router has
// changed "{{" and "}}" to literal braces.
type cell struct {
	char    byte
	escaped bool // a literal brace
	colon   bool // an opening brace that was a colon
}

func cellsOf(path string) []cell {
	cells := make([]cell, 0, len(path)+1)
	if !strings.HasPrefix(path, "/") {
		cells = append(cells, cell{char: '/'})
	}
	for i, segment := range strings.Split(path, "/") {
		if i > 0 {
			cells = append(cells, cell{char: '/'})
		}
		name, colon := strings.CutPrefix(segment, ":")
		if colon {
			cells = append(cells, cell{char: '{', colon: true})
		}
		for _, c := range []byte(name) {
			cells = append(cells, cell{char: c})
		}
		if colon {
			cells = append(cells, cell{char: '}'})
		}
	}
	kept := cells[:0]
	for i := 0; i < len(cells); i++ {
		c := cells[i]
		if (c.char == '{' || c.char == '}') && i+1 < len(cells) && cells[i+1].char == c.char {
			c = cell{char: c.char, escaped: true}
			i++
		}
		kept = append(kept, c)
	}
	return kept
}

// wildcardLength returns the length of the wildcard at the start of cells, including its
// braces. It applies exactly the router's rules.
func wildcardLength(cells []cell) (int, error) {
	if cells[0].char == '}' {
		return 0, errors.New("it has a closing brace without an opening one")
	}
	if len(cells) > 1 && cells[1].char == '}' {
		return 0, errors.New("it has a parameter without a name")
	}
	for i := 2; i < len(cells); i++ {
		switch c := cells[i]; {
		case c.char == '}' && !c.escaped:
			switch {
			case cells[i-1].char == '*':
				return 0, errors.New("it has a wildcard without a name")
			case i+1 < len(cells) && cells[i+1].char != '/':
				return 0, fmt.Errorf("something follows the parameter %q in its segment", textOf(cells[1:i]))
			}
			return i + 1, nil
		case c.char == '*', c.char == '/':
			return 0, fmt.Errorf("the name of a parameter contains %q", c.char)
		}
	}
	return 0, errors.New("it has an opening brace without a closing one")
}

func textOf(cells []cell) string {
	b := make([]byte, len(cells))
	for i, c := range cells {
		b[i] = c.char
	}
	return string(b)
}

// Match reports whether p matches a request path. It returns the wildcards' values in order.
func (p Pattern) Match(path string) (matched []string, ok bool) {
	for _, part := range p {
		if part.Kind == Literal {
			if !strings.HasPrefix(path, part.Text) {
				return nil, false
			}
			path = path[len(part.Text):]
			continue
		}
		if path == "" {
			return nil, false
		}
		n := len(path)
		if i := strings.IndexByte(path, '/'); part.Kind == Param && i >= 0 {
			n = i
		}
		matched, path = append(matched, path[:n]), path[n:]
	}
	return matched, path == ""
}

// Compare reports which of two patterns takes precedence for a path that both match. order is
// negative if p takes precedence, positive if q does, and 0 if neither does. At the first
// difference, Literal takes precedence over Param, and Param over Rest. Wildcard names do not
// matter.
//
// conflict reports whether the router cannot hold both patterns. This is the case if they
// differ only in wildcard names, or if a Param begins in one where a Rest begins in the other.
func Compare(p, q Pattern) (order int, conflict bool) {
	p, q = append(Pattern(nil), p...), append(Pattern(nil), q...)
	renamed := false
	for len(p) > 0 && len(q) > 0 {
		a, b := &p[0], &q[0]
		switch {
		case a.Kind == Literal && b.Kind == Literal:
			n := commonPrefix(a.Text, b.Text)
			if n < len(a.Text) && n < len(b.Text) {
				return 0, false
			}
			if a.Text = a.Text[n:]; a.Text == "" {
				p = p[1:]
			}
			if b.Text = b.Text[n:]; b.Text == "" {
				q = q[1:]
			}
			continue
		case a.Kind == Literal || b.Kind == Literal:
			return int(a.Kind) - int(b.Kind), false
		case a.Kind != b.Kind:
			return int(a.Kind) - int(b.Kind), true
		}
		renamed = renamed || a.Text != b.Text
		p, q = p[1:], q[1:]
	}
	return 0, renamed && len(p) == 0 && len(q) == 0
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
