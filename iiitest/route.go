package iiitest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/iii-go/iii/internal/routepath"
)

// route is one http trigger.
type route struct {
	binding
	method     string
	path       string // as registered
	pattern    routepath.Pattern
	condition  *string // nil: none
	middleware []string
	open       bool // of an observer: it is active
}

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
// over; an observer keeps its route, and the latest of those that are active answers. The same
// structure with other parameter names is refused. A trigger that comes again with another
// path keeps its old route too, as in the engine. A path, or a pair of paths, that a running
// engine's router panics on is refused.
func (t *routeTable) bind(_ context.Context, b binding) error {
	config := membersOf(b.config)
	path := stringOf(config["api_path"])
	if path == "" {
		return engineText("api_path is required for http triggers")
	}
	r := &route{binding: b, method: http.MethodGet, path: path}
	if method := config["http_method"]; kindOf(method) == '"' {
		r.method = strings.ToUpper(unquote(method))
	}
	if condition := config["condition_function_id"]; kindOf(condition) == '"' {
		id := unquote(condition)
		r.condition = &id
	}
	r.middleware = textsOf(config["middleware_function_ids"])
	err, _ := t.add(r)
	return err
}

// add adds a route, or says why not; conflict means that another one is in its way.
func (t *routeTable) add(r *route) (err error, conflict bool) {
	if r.pattern, err = routepath.Parse(r.path); err != nil {
		return engineText(err.Error()), false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := -1
	for i, old := range t.list {
		if old.method != r.method && !(old.routed() && r.routed()) {
			continue
		}
		order, clash := routepath.Compare(old.pattern, r.pattern)
		switch {
		case clash && order != 0:
			return conflictText(old, r, "a wildcard that takes the rest of a path shares its place with no other"), true
		case clash:
			return conflictText(old, r, "routes with identical structure but different path-parameter names are not supported"), true
		case old.method != r.method:
		case slices.Equal(old.pattern, r.pattern):
			if old.observer == nil && r.observer == nil {
				taken = i
			}
		case slices.EqualFunc(old.pattern, r.pattern, samePart):
			return conflictText(old, r, "the router takes :name and {name} for one path"), true
		}
	}
	if taken >= 0 {
		t.list = slices.Delete(t.list, taken, taken+1)
	}
	t.list = append(t.list, r)
	return nil, false
}

func samePart(a, b routepath.Part) bool { return a.Kind == b.Kind && a.Text == b.Text }

func conflictText(old, r *route, why string) error {
	return engineText(fmt.Sprintf("Route '%s %s' conflicts with already-registered route '%s %s': %s", r.method, r.path, old.method, old.path, why))
}

// routed reports whether the engine routes the method of r; it accepts any.
func (r *route) routed() bool { return slices.Contains(httpMethods, r.method) }

// answers reports whether requests get to r: not those to an observer that is not active.
func (r *route) answers() bool { return r.routed() && (r.observer == nil || r.open) }

func (t *routeTable) unbind(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(r *route) bool { return r.id == id })
}

// find is the route for a method and an escaped path, with its parameters, and the
// methods that the path has. Text goes before parameters, and those before the rest of a
// path: the first path in this order counts alone, whether it has the method or not.
func (t *routeTable) find(method, path string) (found *route, params map[string]string, methods []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first *route
	for _, r := range t.list {
		if !r.answers() {
			continue
		}
		matched, ok := r.pattern.Match(path)
		if !ok {
			continue
		}
		order := -1
		if first != nil {
			order, _ = routepath.Compare(r.pattern, first.pattern)
		}
		if order > 0 {
			continue
		}
		if order < 0 {
			first, found, methods = r, nil, nil
		}
		if !slices.Contains(methods, r.method) {
			methods = append(methods, r.method)
		}
		if r.method == method { // the latest of them
			found, params = r, r.params(matched)
		}
	}
	return found, params, methods
}

// params are the parameters that the engine delivers: those that were written :name.
func (r *route) params(matched []string) map[string]string {
	params := map[string]string{}
	for _, part := range r.pattern {
		if part.Kind == routepath.Literal {
			continue
		}
		if part.Kind == routepath.Param && part.Colon {
			params[part.Text] = matched[0]
		}
		matched = matched[1:]
	}
	return params
}
