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
	result.Namespaces = iii.StringListMap{"default": {tenant + "::*"}}
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

// onTrigger is the registration hook for triggers. It moves the routes of each tenant below
// a path for that tenant.
func onTrigger(_ context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
	var result iii.OnTriggerRegistrationResult
	var s session
	if err := json.Unmarshal(in.Context, &s); err != nil {
		return result, err
	}
	var route iii.HTTPTriggerConfig // auth permits no other type
	if err := json.Unmarshal(in.Config, &route); err != nil {
		return result, err
	}
	route.APIPath = "/" + s.Tenant + "/" + strings.TrimPrefix(route.APIPath, "/")
	config, err := json.Marshal(route)
	result.Config = config
	return result, err
}
