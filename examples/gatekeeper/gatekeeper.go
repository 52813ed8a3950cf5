package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/iii-go/iii"
)

// tokens are the tenants', who show them when they connect. A real gatekeeper looks them
// up, or verifies what an identity provider has signed.
var tokens = map[string]string{"token-of-acme": "acme", "token-of-globex": "globex"}

// session is the context that auth gives to a connection. The engine hands it to the
// other hooks, and the worker never sees it.
type session struct {
	Tenant string `json:"tenant"`
}

// newGatekeeper is a worker with the functions that the engine asks, which are ordinary
// ones. It belongs on an open port: who guards the door cannot stand before it.
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

// auth is asked about each connection. An error refuses it.
func auth(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
	token, _ := strings.CutPrefix(in.Headers["authorization"], "Bearer ")
	tenant, ok := tokens[token]
	if !ok {
		return iii.AuthResult{}, &iii.Error{Code: "UNAUTHORIZED", Message: "unknown token"}
	}
	result := iii.NewAuthResult() // which has the defaults
	var err error
	if result.Context, err = json.Marshal(session{Tenant: tenant}); err != nil {
		return result, err
	}
	// What acme calls hello is acme::hello for everybody, and acme may call all of acme::*.
	result.FunctionRegistrationPrefix = &tenant
	result.Namespaces = iii.StringListMap{"default": {tenant + "::*"}}
	result.AllowedTriggerTypes = []string{"http"}
	return result, nil
}

// onFunction is asked about each function that a tenant registers. An error refuses it, of
// which the engine tells the tenant nothing.
func onFunction(_ context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
	var result iii.OnFunctionRegistrationResult // as it is, but for what is set here
	if strings.HasPrefix(in.FunctionID, "internal::") {
		return result, &iii.Error{Code: "RESERVED", Message: in.FunctionID + " is reserved"}
	}
	result.Metadata = in.Context // the tenant
	return result, nil
}

// onTrigger is asked about each trigger. It puts the tenant's routes under a path of his own.
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
