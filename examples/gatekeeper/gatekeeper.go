package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/iii-go/iii"
)

// tokens maps each token to its tenant. Tenants send the token when they connect. A real
// gatekeeper looks tokens up in a store, or verifies the signature of an identity provider.
var tokens = map[string]string{"token-of-acme": "acme", "token-of-globex": "globex"}

// session is the context that auth attaches to a connection. The engine passes it to the
// other hooks; the worker never sees it.
type session struct {
	Tenant string `json:"tenant"`
}

// newGatekeeper returns a worker that serves the hooks as ordinary functions. It connects to
// the open port: a worker cannot serve its own auth hook, because the call would deadlock.
func newGatekeeper(url string) (*iii.Client, error) {
	client, err := iii.New(url, iii.WithName("gatekeeper"))
	if err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, "gatekeeper::auth", auth); err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, "gatekeeper::on-function", onFunction); err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, "gatekeeper::on-trigger", onTrigger); err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, "gatekeeper::on-observer", onObserver); err != nil {
		return nil, err
	}
	// The listener exposes shared::* to everybody.
	_, err = iii.Handle(client, "shared::tea-price", func(context.Context, any) (int, error) { return 350, nil })
	return client, err
}

// auth is the authentication hook: the engine calls it for each connection. An error rejects
// the connection.
func auth(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
	token, _ := strings.CutPrefix(in.Headers["authorization"], "Bearer ")
	tenant, ok := tokens[token]
	if !ok {
		return iii.AuthResult{}, &iii.Error{Code: "UNAUTHORIZED", Message: "unknown token"}
	}
	result := iii.NewAuthResult() // has the defaults
	var err error
	if result.Context, err = json.Marshal(session{Tenant: tenant}); err != nil {
		return result, err
	}
	// A function that acme registers as hello becomes acme::hello, and acme may call acme::*.
	result.FunctionRegistrationPrefix = &tenant
	// On an engine with observers, a route is an observer of http::on-request, which a tenant
	// therefore has to be permitted to call.
	result.Namespaces = iii.StringListMap{"default": {tenant + "::*", "http::on-request"}}
	result.AllowedTriggerTypes = []string{"http"}
	return result, nil
}

// onFunction is the registration hook for functions: the engine calls it for each function
// that a tenant registers. An error refuses the function; the engine does not notify the
// tenant.
func onFunction(_ context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
	var result iii.OnFunctionRegistrationResult // zero fields leave the registration unchanged
	if strings.HasPrefix(in.FunctionID, "internal::") {
		return result, &iii.Error{Code: "RESERVED", Message: in.FunctionID + " is reserved"}
	}
	result.Metadata = in.Context // the tenant
	return result, nil
}

// onTrigger is the registration hook for triggers. A tenant may have routes below a path of
// its own alone: an error refuses any other.
func onTrigger(_ context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
	var result iii.OnTriggerRegistrationResult // zero fields leave the registration unchanged
	var route iii.HTTPTriggerConfig            // auth permits no other type
	if err := json.Unmarshal(in.Config, &route); err != nil {
		return result, err
	}
	return result, admitRoute(in.Context, route.APIPath)
}

// observer is what onObserver is asked about. The package has no type for it: the form of
// the question is that of the development engine.
type observer struct {
	Source  iii.ObserveSource `json:"source"`
	Context json.RawMessage   `json:"context"`
}

// onObserver is the registration hook for observers, which take the place of triggers on
// engine 0.26.
func onObserver(_ context.Context, in observer) (any, error) {
	if in.Source.FunctionID != "http::on-request" {
		return struct{}{}, nil // the functions that a tenant may call it may observe
	}
	var route struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(in.Source.Args, &route); err != nil {
		return nil, err
	}
	return struct{}{}, admitRoute(in.Context, route.Path)
}

func admitRoute(of json.RawMessage, path string) error {
	var s session
	if err := json.Unmarshal(of, &s); err != nil {
		return err
	}
	if !strings.HasPrefix(path, "/"+s.Tenant+"/") {
		return &iii.Error{Code: "RESERVED", Message: path + " is not below /" + s.Tenant + "/"}
	}
	return nil
}
