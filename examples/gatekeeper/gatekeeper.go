package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/iii-go/iii"
)

// tokens maps each token to its tenant. A tenant sends its token when it connects. A real
// gatekeeper would look tokens up in a database or verify an identity provider's signatures.
var tokens = map[string]string{"token-of-acme": "acme", "token-of-globex": "globex"}

// session is the context that auth attaches to a connection. The engine passes it to the other
// hooks but not to the tenant.
type session struct {
	Tenant string `json:"tenant"`
}

// newGatekeeper returns a worker that serves the hooks as ordinary functions. It must connect
// to the open port: a worker that served its own auth hook would deadlock.
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
	// All tenants may call shared::*.
	_, err = iii.Handle(client, "shared::tea-price", func(context.Context, any) (int, error) { return 350, nil })
	return client, err
}

// auth is the authentication hook. The engine calls it for each connection and rejects the
// connection if auth returns an error.
func auth(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
	token, _ := strings.CutPrefix(in.Headers["authorization"], "Bearer ")
	tenant, ok := tokens[token]
	if !ok {
		return iii.AuthResult{}, &iii.Error{Code: "UNAUTHORIZED", Message: "unknown token"}
	}
	result := iii.NewAuthResult() // default values
	var err error
	if result.Context, err = json.Marshal(session{Tenant: tenant}); err != nil {
		return result, err
	}
	// If acme registers hello, the function becomes acme::hello. acme may call acme::*.
	result.FunctionRegistrationPrefix = &tenant
	// On engine 0.26, a route is an observer of http::on-request, and a tenant may observe
	// only functions that it may call.
	result.Namespaces = iii.StringListMap{"default": {tenant + "::*", "http::on-request"}}
	result.AllowedTriggerTypes = []string{"http"}
	return result, nil
}

// onFunction is the registration hook for functions. The engine calls it for each function
// that a tenant registers. An error rejects the function; the tenant is not notified.
func onFunction(_ context.Context, in iii.OnFunctionRegistrationInput) (iii.OnFunctionRegistrationResult, error) {
	var result iii.OnFunctionRegistrationResult // zero fields leave the registration unchanged
	if strings.HasPrefix(in.FunctionID, "internal::") {
		return result, &iii.Error{Code: "RESERVED", Message: in.FunctionID + " is reserved"}
	}
	result.Metadata = in.Context // identifies the tenant
	return result, nil
}

// onTrigger is the registration hook for triggers. It rejects routes outside the tenant's own
// path.
func onTrigger(_ context.Context, in iii.OnTriggerRegistrationInput) (iii.OnTriggerRegistrationResult, error) {
	var result iii.OnTriggerRegistrationResult // zero fields leave the registration unchanged
	var route iii.HTTPTriggerConfig            // auth allows no other type
	if err := json.Unmarshal(in.Config, &route); err != nil {
		return result, err
	}
	return result, admitRoute(in.Context, route.APIPath)
}

// observer is the input of onObserver, in the form that the development engine sends. Package
// iii has no type for it.
type observer struct {
	Source  iii.ObserveSource `json:"source"`
	Context json.RawMessage   `json:"context"`
}

// onObserver is the registration hook for observers, which replace triggers on engine 0.26.
func onObserver(_ context.Context, in observer) (any, error) {
	if in.Source.FunctionID != "http::on-request" {
		return struct{}{}, nil // a tenant may observe any function that it may call
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
