package iii

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
)

// A default that is not the zero value needs a method. Each decodes once, into the
// fields of the generated type, of which those with a default are shadowed: they
// tell absent from null, and null is refused where there is a default to apply.

// NewAuthResult returns the result of an auth function that says nothing: every
// function that the listener exposes may be called, every trigger type used, and
// functions may be registered, but no trigger types.
func NewAuthResult() AuthResult {
	return AuthResult{
		AllowFunctionRegistration: true,
		Context:                   JSONValue("{}"),
	}
}

// UnmarshalJSON implements json.Unmarshaler. What is absent gets the value that
// NewAuthResult gives it; null is an error except for allowed_trigger_types,
// function_registration_prefix and context.
func (a *AuthResult) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain AuthResult
	p := struct {
		plain
		AllowFunctionRegistration    defaulted[bool] `json:"allow_function_registration"`
		AllowTriggerTypeRegistration defaulted[bool] `json:"allow_trigger_type_registration"`
	}{plain: plain(NewAuthResult())}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := errors.Join(
		p.AllowFunctionRegistration.to(&p.plain.AllowFunctionRegistration, "allow_function_registration"),
		p.AllowTriggerTypeRegistration.to(&p.plain.AllowTriggerTypeRegistration, "allow_trigger_type_registration"),
	); err != nil {
		return err
	}
	*a = AuthResult(p.plain)
	return nil
}

// MarshalJSON implements json.Marshaler. A nil AllowedTriggerTypes is left out, an
// empty one is not; a nil Context is written as {}.
func (a AuthResult) MarshalJSON() ([]byte, error) {
	type plain AuthResult
	p := struct {
		plain
		AllowedTriggerTypes *[]string `json:"allowed_trigger_types,omitempty"`
	}{plain: plain(a)}
	if a.AllowedTriggerTypes != nil {
		p.AllowedTriggerTypes = &a.AllowedTriggerTypes
	}
	if a.Context == nil {
		p.Context = JSONValue("{}")
	}
	return json.Marshal(p)
}

// UnmarshalJSON implements json.Unmarshaler. An absent method is POST; null is an
// error for method and headers.
func (c *HTTPInvocationConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain HTTPInvocationConfig
	p := struct {
		plain
		Method defaulted[HTTPMethod] `json:"method"`
	}{plain: plain{Method: HTTPMethodPOST}}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.Method.to(&p.plain.Method, "method"); err != nil {
		return err
	}
	*c = HTTPInvocationConfig(p.plain)
	return nil
}

// MarshalJSON implements json.Marshaler. An empty Method is written as POST.
func (c HTTPInvocationConfig) MarshalJSON() ([]byte, error) {
	type plain HTTPInvocationConfig
	if c.Method == "" {
		c.Method = HTTPMethodPOST
	}
	return json.Marshal(plain(c))
}

// UnmarshalJSON implements json.Unmarshaler. What is absent is zero; null is an
// error except for body, trigger, request_body and response.
func (r *HTTPRequest[T]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain HTTPRequest[T]
	var p struct {
		plain
		Method defaulted[string] `json:"method"`
		Path   defaulted[string] `json:"path"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := errors.Join(
		p.Method.to(&p.plain.Method, "method"),
		p.Path.to(&p.plain.Path, "path"),
	); err != nil {
		return err
	}
	*r = HTTPRequest[T](p.plain)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty namespace is
// "default"; null is an error for it.
func (i *OnFunctionRegistrationInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain OnFunctionRegistrationInput
	var p struct {
		plain
		Namespace defaulted[string] `json:"namespace"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.Namespace.to(&p.plain.Namespace, "namespace"); err != nil {
		return err
	}
	*i = OnFunctionRegistrationInput(p.plain)
	i.Namespace = cmp.Or(i.Namespace, defaultNamespace)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty namespace is
// "default"; null is an error for it.
func (i *OnTriggerRegistrationInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain OnTriggerRegistrationInput
	var p struct {
		plain
		Namespace defaulted[string] `json:"namespace"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.Namespace.to(&p.plain.Namespace, "namespace"); err != nil {
		return err
	}
	*i = OnTriggerRegistrationInput(p.plain)
	i.Namespace = cmp.Or(i.Namespace, defaultNamespace)
	return nil
}

// DefaultReconnectionConfig returns the defaults: waits from 1 s to 30 s that double
// with each failed attempt, varied by 30 % in both directions, without end, and 1000
// pending messages.
func DefaultReconnectionConfig() ReconnectionConfig {
	return ReconnectionConfig{
		InitialDelayMs:     1000,
		MaxDelayMs:         30000,
		BackoffMultiplier:  2,
		JitterFactor:       0.3,
		MaxPendingMessages: 1000,
	}
}

// UnmarshalJSON implements json.Unmarshaler. What is absent gets the value that
// DefaultReconnectionConfig gives it; null is an error except for max_retries.
func (c *ReconnectionConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ReconnectionConfig
	p := struct {
		plain
		InitialDelayMs     defaulted[uint64]  `json:"initial_delay_ms"`
		MaxDelayMs         defaulted[uint64]  `json:"max_delay_ms"`
		BackoffMultiplier  defaulted[float64] `json:"backoff_multiplier"`
		JitterFactor       defaulted[float64] `json:"jitter_factor"`
		MaxPendingMessages defaulted[uint64]  `json:"max_pending_messages"`
	}{plain: plain(DefaultReconnectionConfig())}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := errors.Join(
		p.InitialDelayMs.to(&p.plain.InitialDelayMs, "initial_delay_ms"),
		p.MaxDelayMs.to(&p.plain.MaxDelayMs, "max_delay_ms"),
		p.BackoffMultiplier.to(&p.plain.BackoffMultiplier, "backoff_multiplier"),
		p.JitterFactor.to(&p.plain.JitterFactor, "jitter_factor"),
		p.MaxPendingMessages.to(&p.plain.MaxPendingMessages, "max_pending_messages"),
	); err != nil {
		return err
	}
	*c = ReconnectionConfig(p.plain)
	return nil
}

// MarshalJSON implements json.Marshaler. Data is written, nil as null, except for the
// types that have none: event and unauthorized.
func (d StreamChangeEventDetail) MarshalJSON() ([]byte, error) {
	type plain StreamChangeEventDetail
	if d.Data == nil && d.Type != StreamEventTypeEvent && d.Type != StreamEventTypeUnauthorized {
		d.Data = JSONValue("null")
	}
	return json.Marshal(plain(d))
}

// defaultNamespace is where the engine puts what names no namespace.
const defaultNamespace = "default"

// defaulted is a field with a default: it may be absent, and must not be null.
type defaulted[T any] struct {
	value     T
	set, null bool
}

// UnmarshalJSON implements json.Unmarshaler; encoding/json calls it for null, too.
func (d *defaulted[T]) UnmarshalJSON(b []byte) error {
	if d.null = isNull(b); d.null {
		return nil
	}
	d.set = true
	return json.Unmarshal(b, &d.value)
}

// to stores the value, if there is one, in field.
func (d *defaulted[T]) to(field *T, name string) error {
	if d.null {
		return fmt.Errorf("iii: null for %s, which may only be left out", name)
	}
	if d.set {
		*field = d.value
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty http_method is GET;
// null is an error for it.
func (c *HTTPTriggerConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain HTTPTriggerConfig
	var p struct {
		plain
		HTTPMethod defaulted[string] `json:"http_method"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.HTTPMethod.to(&p.plain.HTTPMethod, "http_method"); err != nil {
		return err
	}
	*c = HTTPTriggerConfig(p.plain)
	c.HTTPMethod = cmp.Or(c.HTTPMethod, "GET")
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty level is LogLevelAll;
// null is an error for it.
func (c *LogTriggerConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var p struct {
		Level defaulted[LogLevel] `json:"level"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	var config LogTriggerConfig
	if err := p.Level.to(&config.Level, "level"); err != nil {
		return err
	}
	config.Level = cmp.Or(config.Level, LogLevelAll)
	*c = config
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. Null is an error for raw.
func (i *ConfigurationGetInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ConfigurationGetInput
	var p struct {
		plain
		Raw defaulted[bool] `json:"raw"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.Raw.to(&p.plain.Raw, "raw"); err != nil {
		return err
	}
	*i = ConfigurationGetInput(p.plain)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent limit stays nil, which means
// 50; null is an error for it and for offset.
func (i *DeadLettersInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain DeadLettersInput
	var p struct {
		plain
		Offset defaulted[uint64]  `json:"offset"`
		Limit  defaulted[*uint64] `json:"limit"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := errors.Join(
		p.Offset.to(&p.plain.Offset, "offset"),
		p.Limit.to(&p.plain.Limit, "limit"),
	); err != nil {
		return err
	}
	*i = DeadLettersInput(p.plain)
	return nil
}
