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

// Guard is what a guarded listener asks and permits: the rbac section of the
// engine's worker manager. The functions are called in namespace default,
// without a time limit, and belong on another connection than those that they
// judge: one through URL. An empty id is none. The zero Guard lets everybody in
// and permits no calls but those that every worker needs.
type Guard struct {
	// AuthFunctionID is asked about each new connection, of workers and of
	// telemetry (AuthInput, AuthResult). An error, no result or an undecodable
	// one refuses the connection. Without it everybody may register everything.
	AuthFunctionID string

	// MiddlewareFunctionID gets every permitted call in the place of its target,
	// in the namespace of the call, but for the engine's own engine:: functions:
	// an object with function_id, payload, action, context and namespace. What it
	// returns is the outcome of the call.
	MiddlewareFunctionID string

	// OnFunction, OnTrigger and OnTriggerType are asked about registrations and
	// may change them (OnFunctionRegistrationInput and -Result, and so on). An
	// error, no result or one that is no object refuses the registration without
	// a word to the worker.
	OnFunction, OnTrigger, OnTriggerType string

	// OnObserver is asked about each observer of a worker, and refuses it in the same way;
	// the worker is told FORBIDDEN. The input is an object with observer_id, source, target,
	// metadata, max_fires, expires_in_ms, max_in_flight and context; what it returns changes
	// nothing. How engines 0.25 and 0.26 do this is not known: the form of the input is a
	// guess.
	OnObserver string

	// Expose lists the functions of namespace default that everybody may call:
	// match("pattern") as in the engine's configuration, or the bare pattern. A *
	// stands for any text; without one it is the id itself.
	Expose []string

	// ExposeMetadata exposes functions of namespace default by the metadata of
	// their registration: each key must be there with an equal value, or one that
	// fits if the value is match("pattern"). Empty exposes nothing.
	ExposeMetadata map[string]any

	// ExposeFilters exposes further functions, of any namespace.
	ExposeFilters []ExposeFilter

	// ExposeAll exposes every function of every namespace, as a listener does
	// whose configuration has no rbac section.
	ExposeAll bool

	// Addr is where the listener is. The default is 127.0.0.1:0, a free port of
	// the loopback interface. See WithAddrs.
	Addr string
}

// ExposeFilter exposes functions of one namespace: by their ids or by the
// metadata of their registrations, exactly one of the two.
type ExposeFilter struct {
	// Namespace is where the functions are; empty is the default one.
	Namespace string

	// Match is a pattern, as in Guard.Expose.
	Match string

	// Metadata is as Guard.ExposeMetadata.
	Metadata map[string]any
}

// guard is a Guard, ready for use.
type guard struct {
	Guard
	filters []exposeFilter
}

// exposeFilter is an ExposeFilter, ready for use.
type exposeFilter struct {
	namespace string
	pattern   string                    // of the id, if metadata is empty
	metadata  map[string]metadataFilter // by key
}

// metadataFilter is what the value of one key of the metadata must be.
type metadataFilter struct {
	pattern *string // of a text
	equal   json.RawMessage
}

// WithGuard opens a second listener for workers, at GuardedURL, whose
// connections are restricted by g. It has /otel and the channels too. The
// default is none.
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

// ready checks a filter and prepares it. It keeps nothing of the caller's.
func (f ExposeFilter) ready() (exposeFilter, error) {
	own := exposeFilter{namespace: cmp.Or(f.Namespace, defaultNamespace)}
	switch pattern, _ := patternOf(f.Match); {
	case strings.TrimSpace(own.namespace) == "":
		return own, errors.New("blank namespace")
	case f.Match != "" && len(f.Metadata) > 0:
		return own, errors.New("a filter has both a pattern and metadata")
	case len(f.Metadata) > 0:
		own.metadata = make(map[string]metadataFilter, len(f.Metadata))
	case pattern == "":
		return own, errors.New("empty pattern")
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

// patternOf takes the pattern out of match("…") or match('…') and reports
// whether the text was of that form.
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

// wildcard reports whether s fits a pattern in which * is any text.
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
	for _, part := range parts[:len(parts)-1] { // the leftmost place is as good as any
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// exposes reports whether everybody may call a function. f is nil if there is
// none of that id.
func (g *guard) exposes(namespace, id string, f *function) bool {
	return g.ExposeAll || slices.ContainsFunc(g.filters, func(x exposeFilter) bool {
		return x.namespace == namespace && x.fits(id, f)
	})
}

// fits reports whether a function of the filter's namespace is exposed.
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

// authenticate makes the session of a connection, or says why there is none. A
// nil guard is the open listener: it has no sessions.
func (e *Engine) authenticate(g *guard, r *http.Request) (s *session, refusal string) {
	e.mu.Lock()
	refusal = e.refusal
	e.mu.Unlock()
	if refusal != "" || g == nil {
		return nil, refusal
	}
	s = &session{e: e, guard: g, AuthResult: iii.NewAuthResult()}
	if g.AuthFunctionID == "" {
		s.AllowTriggerTypeRegistration = true
		return s, ""
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
	if s.AuthResult, refusal = decodeAuthResult(result); refusal != "" {
		return nil, refusal
	}
	return s, ""
}

// decodeAuthResult decodes what an auth function returned and reports what is wrong, or
// nothing.
func decodeAuthResult(result json.RawMessage) (iii.AuthResult, string) {
	type AuthResult struct { // in the engine's order
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

// anyJSON is any value, and unlike a json.RawMessage it need not be there in a list.
type anyJSON struct{ raw json.RawMessage }

func (a *anyJSON) decodeStrict(raw json.RawMessage) string {
	a.raw = raw
	return ""
}
