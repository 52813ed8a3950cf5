package iiitest

import (
	"context"
	"encoding/json"
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
	path       string // as registered, with a leading slash
	segments   []segment
	condition  string
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
	var config struct {
		Path       any      `json:"api_path"`
		Method     any      `json:"http_method"`
		Condition  any      `json:"condition_function_id"`
		Middleware []string `json:"middleware_function_ids"`
	}
	_ = json.Unmarshal(b.config, &config)
	path, _ := config.Path.(string)
	if path == "" {
		return engineText("api_path is required for http triggers")
	}
	r := &route{binding: b, method: http.MethodGet, path: "/" + strings.TrimPrefix(path, "/"), middleware: config.Middleware}
	if method, ok := config.Method.(string); ok {
		r.method = strings.ToUpper(method)
	}
	r.condition, _ = config.Condition.(string)
	r.segments = parsePath(r.path)
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

// find is the route for a method and an escaped path, with its parameters;
// literals go before parameters, segment by segment. The second result lists
// the methods that the path has.
func (t *routeTable) find(method, path string) (best *route, params map[string]string, methods []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.list {
		if !slices.Contains(httpMethods, r.method) {
			continue
		}
		p, ok := match(r.segments, path)
		if !ok {
			continue
		}
		if !slices.Contains(methods, r.method) {
			methods = append(methods, r.method)
		}
		if r.method == method && (best == nil || moreExact(r.segments, best.segments)) {
			best, params = r, p
		}
	}
	return best, params, methods
}

func parsePath(path string) []segment {
	var segments []segment
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		switch {
		case strings.HasPrefix(part, ":"):
			segments = append(segments, segment{parameter, part[1:]})
		case strings.HasPrefix(part, "{*") && strings.HasSuffix(part, "}"):
			segments = append(segments, segment{anyRest, part[2 : len(part)-1]})
		case strings.HasPrefix(part, "{") && strings.HasSuffix(part, "}"):
			segments = append(segments, segment{anySegment, part[1 : len(part)-1]})
		default:
			segments = append(segments, segment{literal, part})
		}
	}
	return segments
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
		if a[i].kind != b[i].kind {
			return a[i].kind < b[i].kind
		}
	}
	return false
}
