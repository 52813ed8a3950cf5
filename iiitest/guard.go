package iiitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/iii-go/iii"
)

// Guard configures a guarded listener, like the rbac section in the configuration of the
// engine's worker manager. The engine calls the functions named in a Guard in the default
// namespace and without a time limit. Register them on a connection to [Engine.URL], not on a
// guarded one. An empty id disables the corresponding hook. The zero Guard admits every worker
// and permits only the calls that every worker needs.
type Guard struct {
	// AuthFunctionID names the function that authenticates each new worker or telemetry
	// connection. Its input is an [iii.AuthInput], and its result is an [iii.AuthResult]. If
	// the function returns an error, no result or an invalid one, the engine rejects the
	// connection. If AuthFunctionID is empty, every worker may connect and register anything.
	AuthFunctionID string

	// MiddlewareFunctionID names a function that receives every permitted call in place of its
	// target, in the call's namespace. Calls to the engine's own engine:: functions are
	// exempt. The input is an object with function_id, payload, action, context and namespace.
	// The middleware's result becomes the result of the call.
	MiddlewareFunctionID string

	// OnFunction, OnTrigger and OnTriggerType name functions that approve registrations and
	// may change them. OnFunction takes an [iii.OnFunctionRegistrationInput] and returns an
	// [iii.OnFunctionRegistrationResult]; the types for the other two are named accordingly.
	// If one of the functions returns an error, no result or a result that is not an object,
	// the engine rejects the registration without notifying the worker.
	OnFunction, OnTrigger, OnTriggerType string

	// OnObserver names the function that approves each observer that a worker registers. It
	// works like OnFunction, except that the engine reports a rejection to the worker, with
	// the error code FORBIDDEN, and that the result cannot change the observer. The input is
	// an object with observer_id, source, target, metadata, max_fires, expires_in_ms,
	// max_in_flight and context. This input format is a guess: the behavior of engines 0.25
	// and 0.26 is not known.
	OnObserver string

	// Expose lists the functions in the default namespace that every worker may call. An entry
	// is either a pattern or match("pattern"), as in the engine's configuration. In a pattern,
	// * matches any text. A pattern without * is an exact id.
	Expose []string

	// ExposeMetadata exposes functions in the default namespace by the metadata in their
	// registrations. The metadata must contain every key of the map with an equal value. If
	// the value in the map is match("pattern"), the metadata must instead have a string value
	// that matches the pattern. An empty map exposes nothing.
	ExposeMetadata map[string]any

	// ExposeFilters exposes further functions, in any namespace.
	ExposeFilters []ExposeFilter

	// ExposeAll exposes every function in every namespace, like a listener without an rbac
	// section in its configuration.
	ExposeAll bool

	// Addr is the listener's address. The default is 127.0.0.1:0, a free port on the loopback
	// interface. See WithAddrs.
	Addr string
}

// ExposeFilter exposes functions in one namespace, either by id or by the metadata in their
// registrations. Exactly one of Match and Metadata must be set.
type ExposeFilter struct {
	// Namespace is the functions' namespace. The default is "default".
	Namespace string

	// Match is a pattern, as in Guard.Expose.
	Match string

	// Metadata selects functions by metadata, as Guard.ExposeMetadata does.
	Metadata map[string]any
}

type guard struct {
	Guard
	filters []exposeFilter
}

type exposeFilter struct {
	namespace string
	pattern   string                    // matched against the id if metadata is empty
	metadata  map[string]metadataFilter // by key
}

// metadataFilter is a condition on the value of one metadata key.
type metadataFilter struct {
	pattern *string // for string values
	equal   json.RawMessage
}

// WithGuard opens a second listener for workers, at GuardedURL, and restricts its connections
// as g specifies. The listener also serves /otel and channels. By default there is no guarded
// listener.
func WithGuard(g Guard) Option {
	filters := slices.Clone(g.ExposeFilters)
	for _, pattern := range g.Expose {
		filters = append(filters, ExposeFilter{Match: pattern})
	}
	if len(g.ExposeMetadata) > 0 {
		filters = append(filters, ExposeFilter{Metadata: g.ExposeMetadata})
	}
	own := &guard{Guard: g}
	var bad error
	for _, f := range filters {
		ready, err := f.ready()
		bad = errors.Join(bad, err)
		own.filters = append(own.filters, ready)
	}
	return func(c *config) error {
		if bad != nil {
			return fmt.Errorf("iiitest: WithGuard: %w", bad)
		}
		if g.Addr != "" {
			if _, _, err := net.SplitHostPort(g.Addr); err != nil {
				return fmt.Errorf("iiitest: WithGuard: %w", err)
			}
		}
		c.guard = own
		return nil
	}
}

// ready validates and compiles a filter. The result shares no memory with f.
func (f ExposeFilter) ready() (exposeFilter, error) {
	own := exposeFilter{namespace: cmp.Or(f.Namespace, defaultNamespace)}
	switch pattern, _ := patternOf(f.Match); {
	case strings.TrimSpace(own.namespace) == "":
		return own, errors.New("namespace is blank")
	case f.Match != "" && len(f.Metadata) > 0:
		return own, errors.New("a filter has both a pattern and metadata")
	case len(f.Metadata) > 0:
		own.metadata = make(map[string]metadataFilter, len(f.Metadata))
	case pattern == "":
		return own, errors.New("pattern is empty")
	default:
		own.pattern = pattern
	}
	for name, value := range f.Metadata {
		if s, ok := value.(string); ok {
			if pattern, is := patternOf(s); is {
				own.metadata[name] = metadataFilter{pattern: &pattern}
				continue
			}
		}
		raw, err := encode(value)
		if err != nil {
			return own, fmt.Errorf("metadata %s: %w", name, err)
		}
		own.metadata[name] = metadataFilter{equal: canonicalValid(raw)}
	}
	return own, nil
}

// patternOf returns the pattern in match("…") or match('…'). For a filter in any other form,
// it returns the filter and false.
func patternOf(filter string) (pattern string, is bool) {
	inner, ok := strings.CutPrefix(strings.TrimSpace(filter), "match(")
	if !ok {
		return filter, false
	}
	inner, ok = strings.CutSuffix(inner, ")")
	inner = strings.TrimSpace(inner)
	if !ok || len(inner) < 2 || inner[0] != '"' && inner[0] != '\'' || inner[len(inner)-1] != inner[0] {
		return filter, false
	}
	return inner[1 : len(inner)-1], true
}

// wildcard reports whether s matches a pattern in which * matches any text.
func wildcard(pattern, s string) bool {
	first, rest, open := strings.Cut(pattern, "*")
	if !open {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] { // the leftmost match always suffices
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// exposes reports whether every worker may call a function. f is nil if the function does not
// exist.
func (g *guard) exposes(namespace, id string, f *function) bool {
	return g.ExposeAll || slices.ContainsFunc(g.filters, func(x exposeFilter) bool {
		return x.namespace == namespace && x.fits(id, f)
	})
}

// fits reports whether the filter exposes a function. The caller has checked that the function
// is in the filter's namespace.
func (x exposeFilter) fits(id string, f *function) bool {
	if len(x.metadata) == 0 {
		return wildcard(x.pattern, id)
	}
	if f == nil || kindOf(f.metadata) != '{' {
		return false
	}
	members := (&scanner{b: f.metadata}).members()
	for name, filter := range x.metadata {
		value, there := members[name]
		switch {
		case !there:
			return false
		case filter.pattern != nil:
			if kindOf(value) != '"' || !wildcard(*filter.pattern, unquote(value)) {
				return false
			}
		case !bytes.Equal(canonicalValid(value), filter.equal):
			return false
		}
	}
	return true
}

// authenticate returns a new connection's permissions, or the reason for refusing it. g is nil
// for the open listener, which has no restrictions.
func (e *Engine) authenticate(g *guard, r *http.Request) (p *permissions, refusal string) {
	e.mu.Lock()
	refusal = e.refusal
	e.mu.Unlock()
	if refusal != "" || g == nil {
		return nil, refusal
	}
	p = &permissions{e: e, guard: g, AuthResult: iii.NewAuthResult()}
	if g.AuthFunctionID == "" {
		p.AllowTriggerTypeRegistration = true
		return p, ""
	}
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	result, err := e.invoke(e.ctx, g.AuthFunctionID, defaultNamespace, mustEncode(map[string]any{
		"headers": authHeaders(r), "query_params": rawQuery(r.URL.RawQuery), "ip_address": ip,
	}))
	switch {
	case err != nil:
		return nil, cmp.Or(err.Message, "authentication failed")
	case result == nil:
		return nil, "auth function returned no result"
	}
	if p.AuthResult, refusal = decodeAuthResult(result); refusal != "" {
		return nil, refusal
	}
	return p, ""
}

// decodeAuthResult decodes an auth function's result. If the result is invalid, it returns a
// description of the error.
func decodeAuthResult(result json.RawMessage) (iii.AuthResult, string) {
	type AuthResult struct { // fields in the engine's order
		Namespaces                   map[string][]string `json:"namespaces,omitempty"`
		AllowedFunctions             []string            `json:"allowed_functions,omitempty"`
		ForbiddenFunctions           []string            `json:"forbidden_functions,omitempty"`
		AllowedTriggerTypes          *[]string           `json:"allowed_trigger_types"`
		AllowTriggerTypeRegistration bool                `json:"allow_trigger_type_registration,omitempty"`
		AllowFunctionRegistration    bool                `json:"allow_function_registration,omitempty"`
		Context                      anyJSON             `json:"context,omitempty"`
		FunctionRegistrationPrefix   *string             `json:"function_registration_prefix"`
	}
	in := AuthResult{AllowFunctionRegistration: true, Context: anyJSON{json.RawMessage("{}")}}
	detail := decodeStrict(result, &in)
	out := iii.AuthResult{
		Namespaces: in.Namespaces, AllowedFunctions: in.AllowedFunctions, ForbiddenFunctions: in.ForbiddenFunctions,
		AllowTriggerTypeRegistration: in.AllowTriggerTypeRegistration, AllowFunctionRegistration: in.AllowFunctionRegistration,
		Context: iii.JSONValue(in.Context.raw), FunctionRegistrationPrefix: in.FunctionRegistrationPrefix,
	}
	if in.AllowedTriggerTypes != nil {
		out.AllowedTriggerTypes = *in.AllowedTriggerTypes
	}
	return out, detail
}

// anyJSON is any JSON value. If an input is given as an array of field values, an optional
// anyJSON field may be missing, but a json.RawMessage field may not.
type anyJSON struct{ raw json.RawMessage }

func (a *anyJSON) decodeStrict(raw json.RawMessage) string {
	a.raw = raw
	return ""
}
