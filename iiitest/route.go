package iiitest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// route is one http trigger.
type route struct {
	binding
	method     string
	path       string // as registered
	segments   []segment
	condition  *string // nil: none
	middleware []string
}

// segment is a part of a path between slashes.
type segment struct {
	kind segmentKind
	text string // the literal, or the name of the parameter
}

type segmentKind int

const (
	literal segmentKind = iota
	parameter
	anySegment // {name}: matches one, is not delivered
	anyRest    // {*name}: matches all that follows, is not delivered
)

// routeTable is the provider of the trigger type http.
type routeTable struct {
	mu   sync.Mutex
	list []*route
}

var httpMethods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete,
	http.MethodPatch, http.MethodHead, http.MethodOptions,
}

// bind adds a route. The same method and path from another trigger is taken
// over; the same shape with other parameter names is refused. A trigger that
// comes again with another path keeps its old route too, as in the engine.
func (t *routeTable) bind(_ context.Context, b binding) error {
	config := membersOf(b.config)
	path := stringOf(config["api_path"])
	if path == "" {
		return engineText("api_path is required for http triggers")
	}
	segments, err := parsePath(path)
	if err != nil {
		return err
	}
	r := &route{binding: b, method: http.MethodGet, path: path, segments: segments}
	if method := config["http_method"]; kindOf(method) == '"' {
		r.method = strings.ToUpper(unquote(method))
	}
	if condition := config["condition_function_id"]; kindOf(condition) == '"' {
		id := unquote(condition)
		r.condition = &id
	}
	if list := config["middleware_function_ids"]; kindOf(list) == '[' {
		for _, id := range itemsOf(list) {
			if kindOf(id) == '"' {
				r.middleware = append(r.middleware, unquote(id))
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, old := range t.list {
		if old.method != r.method || !sameShape(old.segments, r.segments) {
			continue
		}
		if !slices.Equal(old.segments, r.segments) {
			return engineText(fmt.Sprintf("Route '%s %s' conflicts with already-registered route '%s %s': "+
				"routes with identical structure but different path-parameter names are not supported", r.method, r.path, old.method, old.path))
		}
		t.list[i] = r
		return nil
	}
	t.list = append(t.list, r)
	return nil
}

func (t *routeTable) unbind(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(r *route) bool { return r.id == id })
}

// find is the route for a method and an escaped path, with its parameters, and the
// methods that the path has. Literals go before parameters, segment by segment: whatever
// the method is, the most exact path alone counts.
func (t *routeTable) find(method, path string) (found *route, params map[string]string, methods []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *route
	for _, r := range t.list {
		if !slices.Contains(httpMethods, r.method) {
			continue
		}
		p, ok := match(r.segments, path)
		if !ok || best != nil && moreExact(best.segments, r.segments) {
			continue
		}
		if best == nil || moreExact(r.segments, best.segments) {
			best, found, methods = r, nil, nil
		}
		if methods = append(methods, r.method); r.method == method {
			found, params = r, p
		}
	}
	return found, params, methods
}

// parsePath takes a path apart: :name and {name} match a segment, {*name} all that is
// left, and doubled braces stand for themselves. The engine does not survive some other
// paths: it would serve no route any more, for anybody. They are refused here.
func parsePath(path string) ([]segment, error) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	segments := make([]segment, len(parts))
	for i, part := range parts {
		segment, err := parseSegment(part)
		if err == nil && segment.kind == anyRest && i < len(parts)-1 {
			err = errors.New("{*name} must be the last segment")
		}
		if err != nil {
			return nil, engineText(fmt.Sprintf("api_path %q would end all HTTP triggers of a running engine: %v", path, err))
		}
		segments[i] = segment
	}
	return segments, nil
}

func parseSegment(part string) (segment, error) {
	kind := anySegment
	if name, ok := strings.CutPrefix(part, ":"); ok {
		part, kind = "{"+name+"}", parameter
	}
	if strings.HasPrefix(part, "*") {
		return segment{}, errors.New("a segment begins with an asterisk")
	}
	var text strings.Builder
	open, shut := false, false // the braces of a parameter
	for i := 0; i < len(part); i++ {
		c := part[i]
		switch {
		case shut:
			return segment{}, errors.New("something follows a parameter in its segment")
		case c != '{' && c != '}':
			text.WriteByte(c)
		case i+1 < len(part) && part[i+1] == c && !(open && c == '{'):
			text.WriteByte(c)
			i++
		case c == '{' && i == 0:
			open = true
		case c == '}' && open:
			shut = true
		default:
			return segment{}, errors.New("a brace does not enclose a segment")
		}
	}
	if open != shut {
		return segment{}, errors.New("a brace is not closed")
	}
	if !open {
		return segment{literal, text.String()}, nil
	}
	name, rest := strings.CutPrefix(text.String(), "*")
	if rest {
		kind = anyRest
	}
	if name == "" || strings.Contains(name, "*") {
		return segment{}, errors.New("a parameter has no name")
	}
	return segment{kind, name}, nil
}

func match(segments []segment, path string) (map[string]string, bool) {
	params := map[string]string{}
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		if i >= len(parts) {
			return nil, false
		}
		switch s.kind {
		case anyRest:
			return params, parts[i] != ""
		case literal:
			if parts[i] != s.text {
				return nil, false
			}
		default:
			if parts[i] == "" {
				return nil, false
			}
			if s.kind == parameter {
				params[s.text] = parts[i]
			}
		}
	}
	return params, len(parts) == len(segments)
}

// sameShape reports whether two paths match the same requests.
func sameShape(a, b []segment) bool {
	return slices.EqualFunc(a, b, func(x, y segment) bool {
		if x.kind == literal || y.kind == literal {
			return x == y
		}
		return (x.kind == anyRest) == (y.kind == anyRest)
	})
}

// moreExact reports whether a goes before b where both match.
func moreExact(a, b []segment) bool {
	for i := range min(len(a), len(b)) {
		if x, y := a[i].rank(), b[i].rank(); x != y {
			return x < y
		}
	}
	return false
}

// rank is how exact a segment is: what matches any one is the same under both names.
func (s segment) rank() segmentKind {
	if s.kind == anySegment {
		return parameter
	}
	return s.kind
}
