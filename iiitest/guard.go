package iiitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
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

	// Expose lists the functions of namespace default that everybody may call:
	// match("pattern") as in the engine's configuration, or the bare pattern. A *
	// stands for any text; without one it is the id itself.
	Expose []string

	// ExposeMetadata exposes functions of namespace default by the metadata of
	// their registration: each key must be there with an equal value, or one that
	// fits if the value is match("pattern"). Empty exposes nothing.
	ExposeMetadata map[string]any
}

// guard is a Guard, ready for use.
type guard struct {
	Guard
	expose   []string // patterns
	metadata map[string]metadataFilter
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
	g.Expose, g.ExposeMetadata = slices.Clone(g.Expose), maps.Clone(g.ExposeMetadata)
	return func(c *config) error {
		own := &guard{Guard: g, metadata: make(map[string]metadataFilter)}
		for _, filter := range g.Expose {
			pattern, _ := patternOf(filter)
			if pattern == "" {
				return errors.New("iiitest: WithGuard: empty pattern")
			}
			own.expose = append(own.expose, pattern)
		}
		for name, value := range g.ExposeMetadata {
			if s, ok := value.(string); ok {
				if pattern, is := patternOf(s); is {
					own.metadata[name] = metadataFilter{pattern: &pattern}
					continue
				}
			}
			raw, err := encode(value)
			if err != nil {
				return errors.New("iiitest: WithGuard: ExposeMetadata is no JSON")
			}
			own.metadata[name] = metadataFilter{equal: canonicalValid(raw)}
		}
		c.guard = own
		return nil
	}
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
	if namespace != defaultNamespace {
		return false
	}
	if slices.ContainsFunc(g.expose, func(pattern string) bool { return wildcard(pattern, id) }) {
		return true
	}
	if len(g.metadata) == 0 || f == nil || kindOf(f.metadata) != '{' {
		return false
	}
	members := (&scanner{b: f.metadata}).members()
	for name, filter := range g.metadata {
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
	case kindOf(result) != '{' || json.Unmarshal(result, &s.AuthResult) != nil:
		return nil, "auth function returned an invalid result"
	}
	if s.Context == nil {
		s.Context = iii.JSONValue("null")
	}
	return s, ""
}
