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

// route directs requests to an http trigger or to an observer of http::on-request.
type route struct {
	binding
	method     string
	path       string // as registered
	pattern    routepath.Pattern
	condition  *string // nil for none
	middleware []string
	open       bool // the observer is active
}

// routeTable provides the http trigger type and the source http::on-request.
type routeTable struct {
	mu   sync.Mutex
	list []*route
}

var httpMethods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete,
	http.MethodPatch, http.MethodHead, http.MethodOptions,
}

// bind adds a route. A trigger replaces any trigger with the same method and path. Observers
// with the same method and path all keep their routes, and the latest active one responds.
// bind rejects a path that differs from an existing one only in its parameter names. It also
// rejects every path that would make the engine's router panic. As in the engine, registering
// a trigger again with a different path does not remove its old route.
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
	r.middleware = stringsOf(config["middleware_function_ids"])
	err, _ := t.add(r)
	return err
}

// add adds a route. conflict reports whether the error is a conflict with another route.
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

// routed reports whether the engine routes requests with r's method. Triggers with other
// methods can be registered, but never receive requests.
func (r *route) routed() bool { return slices.Contains(httpMethods, r.method) }

// receives reports whether r receives requests. Routes of inactive observers do not.
func (r *route) receives() bool { return r.routed() && (r.observer == nil || r.open) }

func (t *routeTable) unbind(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(r *route) bool { return r.id == id })
}

// find returns the route for a method and an escaped path, and the path parameters. Literal
// segments take precedence over parameters, and parameters over wildcards. Only routes with
// the most specific pattern are considered, even if none of them has the method. methods lists
// their methods.
func (t *routeTable) find(method, path string) (found *route, params map[string]string, methods []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first *route
	for _, r := range t.list {
		if !r.receives() {
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
		if r.method == method { // the latest one wins
			found, params = r, r.params(matched)
		}
	}
	return found, params, methods
}

// params returns the path parameters to pass to the function: those written as :name in the
// route's path.
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
