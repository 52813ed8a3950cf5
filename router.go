package iii

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// RouterOptions configures which requests below a prefix are served by [Client.MountRouter].
// The zero value selects the defaults.
type RouterOptions struct {
	// Methods lists the HTTP methods to serve; case is ignored. The default is GET, POST, PUT,
	// PATCH and DELETE. GET includes HEAD. Listing OPTIONS is an error, because the engine itself
	// handles OPTIONS requests.
	Methods []string
	// Depth is the maximum number of path segments below the prefix. The default is 6; a
	// negative value or one above 25 is an error. The engine responds to longer paths with
	// 404.
	Depth int
}

// Router is a router mounted with [Client.MountRouter]. The zero value is not usable. All
// methods are safe for concurrent use.
type Router struct{ f *Function }

// Err returns an error if the engine has rejected the router's function or any of its routes,
// and nil otherwise. If the function was rejected, Err returns a *[RejectedError], as
// [Function.Err] does. If only routes were rejected, Err joins their *[Error]s.
func (r *Router) Err() error {
	if err := r.f.refused.Load(); err != nil {
		return err
	}
	var refusals []error
	for _, t := range r.f.ownTriggers() {
		if err := t.refused.Load(); err != nil && !slices.ContainsFunc(refusals, func(e error) bool { return e.Error() == err.Error() }) {
			refusals = append(refusals, err)
		}
	}
	return errors.Join(refusals...)
}

// Unregister removes the router, its routes and its function. It does not wait for the network
// or for running handlers. A second call returns an error.
func (r *Router) Unregister() error { return r.f.Unregister() }

// MountRouter serves all requests below a prefix with one net/http handler, such as an
// [http.ServeMux] or a framework's router. The handler receives the full path, including the
// prefix, as with http.Handle. Responses, bodies and HEAD requests work as in
// [Client.MountHTTP].
//
// The engine does not report what a wildcard matched. The router is therefore registered as a
// single function, "http::ROUTER" + prefix, with one route for each method and each number of
// segments up to Depth. Every segment below the prefix is a parameter. Either all routes are
// registered or none. [Router.Unregister] removes all of them. A router has these limitations:
//
//   - prefix and prefix + "/" both match, but longer paths with a trailing slash do not;
//   - the engine responds to paths with more than Depth segments with 404, and to other
//     methods with 405, without calling the handler;
//   - a route registered with [HandleHTTP] or [Client.MountHTTP] takes precedence over the
//     router if it has literal segments below the prefix. A route of the same client that
//     differs from one of the router's routes only in parameter names, such as "/api/:id",
//     conflicts with that route: whichever is registered second is rejected;
//   - prefix must not contain parameters, and [WithTriggerID] is an error, because a router
//     has many triggers.
func (c *Client) MountRouter(prefix string, h http.Handler, o RouterOptions, opts ...FunctionOption) (*Router, error) {
	fail := func(err error) (*Router, error) {
		return nil, public(fmt.Errorf("router %q: %w", prefix, err))
	}
	if h == nil {
		return fail(errors.New("nil handler"))
	}
	base, err := routerPrefix(prefix)
	if err != nil {
		return fail(err)
	}
	paths, err := routerPaths(base, o.Depth)
	if err != nil {
		return fail(err)
	}
	methods, implied, err := routerMethods(o.Methods)
	if err != nil {
		return fail(err)
	}
	m := &mount{client: c, handler: h, router: true}
	m.server = &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelWarn)}
	if base == "" {
		base = "/"
	}
	f, cfg, err := c.newFunction("http::ROUTER"+base, handlerSpec{run: m.serve, web: true, unreadBody: true}, opts)
	if err != nil {
		return fail(err)
	}
	var options triggerOptions
	for _, opt := range cfg.triggerOptions {
		if err := opt(&options); err != nil {
			return fail(err)
		}
	}
	if options.id != "" {
		return fail(errors.New("WithTriggerID: a router has one trigger per method and depth"))
	}
	for _, method := range append(methods, implied...) {
		for _, path := range paths {
			t, err := c.newRouteTrigger(f, method, path, cfg.triggerOptions)
			if err != nil {
				return fail(err)
			}
			t.router = true
			if slices.Contains(implied, method) {
				f.heads = append(f.heads, newHeadRoute(t))
			} else {
				f.routes = append(f.routes, t)
			}
		}
	}
	if err := c.registry.addFunction(f); err != nil {
		return fail(err)
	}
	for _, t := range f.routes {
		if err := c.registry.addTrigger(t); err != nil {
			_ = f.Unregister()
			return fail(err)
		}
	}
	for _, h := range f.heads {
		if err := c.registry.addHead(h); err != nil {
			_ = f.Unregister()
			return fail(err)
		}
	}
	return &Router{f}, nil
}

// routerPrefix validates the prefix and returns it as it appears in requests, without a
// trailing slash. It returns "" for the root.
func routerPrefix(prefix string) (string, error) {
	if prefix == "" {
		return "", errors.New(`the prefix is empty; "/" serves all paths`)
	}
	path, err := routePath(http.MethodGet, "/"+strings.TrimPrefix(prefix, "/"))
	if err != nil {
		return "", err
	}
	if strings.Contains(path, "/:") {
		return "", errors.New("the prefix has a parameter; mount the path before it, and let the handler match the rest")
	}
	return strings.TrimRight(path, "/"), nil
}

// routerPaths lists the route paths below a prefix. Parameter names depend only on the
// position, because the engine rejects routes that differ only in parameter names.
func routerPaths(base string, depth int) (paths []string, err error) {
	switch {
	case depth == 0:
		depth = 6
	case depth < 0:
		return nil, fmt.Errorf("depth %d is negative", depth)
	}
	const most = 25 // parameters in a path
	if depth > most {
		return nil, fmt.Errorf("depth %d is above %d, the number of parameters that the engine's router allows", depth, most)
	}
	if base != "" {
		paths = append(paths, base)
	}
	path, place := base, strings.Count(base, "/")
	paths = append(paths, base+"/")
	for range depth {
		place++
		path += fmt.Sprintf("/:p%d", place)
		paths = append(paths, path)
	}
	return paths, nil
}

// routerMethods returns a router's methods: the given ones, or the default methods if none are
// given. If they include GET but not HEAD, implied contains HEAD.
func routerMethods(given []string) (methods, implied []string, err error) {
	if len(given) == 0 {
		given = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	}
	for _, method := range given {
		method = strings.ToUpper(method)
		if strings.TrimSpace(method) == "" {
			return nil, nil, errors.New("blank method in Methods")
		}
		if _, err := routePath(method, "/"); err != nil {
			return nil, nil, err
		}
		if !slices.Contains(methods, method) {
			methods = append(methods, method)
		}
	}
	if slices.Contains(methods, http.MethodGet) && !slices.Contains(methods, http.MethodHead) {
		implied = []string{http.MethodHead}
	}
	return methods, implied, nil
}

// routeShape returns a key that identifies a route within a client as the engine does: by
// method and path, ignoring parameter names.
func routeShape(triggerType string, config []byte) string {
	if triggerType != (HTTPTriggerConfig{}).TriggerType() {
		return ""
	}
	method := routeMethod(textMember(config, "http_method"))
	segments := strings.Split(strings.TrimPrefix(textMember(config, "api_path"), "/"), "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, ":") {
			segments[i] = ":"
		}
	}
	return method + " /" + strings.Join(segments, "/")
}
