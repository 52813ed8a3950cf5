package iii

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
)

// A type whose defaults are not all zero values needs a decoding method. Each method
// decodes once, into the fields of the generated type. Shadowing fields stand in for
// those with a default: they distinguish absent, which applies the default, from
// null, which is an error.

// NewAuthResult returns an AuthResult with the defaults. The worker may call every
// function that the listener exposes, use every trigger type and register functions,
// but it may not register trigger types.
func NewAuthResult() AuthResult {
	return AuthResult{
		AllowFunctionRegistration: true,
		Context:                   JSONValue("{}"),
	}
}

// UnmarshalJSON implements json.Unmarshaler. An absent key gets its value from
// NewAuthResult. Null is an error except for allowed_trigger_types,
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

// MarshalJSON implements json.Marshaler. It omits AllowedTriggerTypes if the list is
// nil but not if it is empty, and writes a nil Context as {}.
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

// UnmarshalJSON implements json.Unmarshaler. An absent method decodes as POST. Null
// is an error for method and headers.
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

// MarshalJSON implements json.Marshaler. It writes an empty Method as POST.
func (c HTTPInvocationConfig) MarshalJSON() ([]byte, error) {
	type plain HTTPInvocationConfig
	if c.Method == "" {
		c.Method = HTTPMethodPOST
	}
	return json.Marshal(plain(c))
}

// UnmarshalJSON implements json.Unmarshaler. An absent key decodes as the zero value.
// Null is an error except for body, trigger, request_body and response.
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

// UnmarshalJSON implements json.Unmarshaler. An absent or empty namespace decodes as
// "default". Null is an error for namespace, and decodes as absent for args_format.
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
	i.ArgsFormat = orAbsent(i.ArgsFormat)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty namespace decodes as
// "default". Null is an error for namespace.
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

// DefaultReconnectionConfig returns the default reconnection policy. The delay starts
// at 1 s, doubles with each failed attempt up to 30 s, and varies at random by 30 % in
// either direction. The number of attempts is unlimited. Up to 1000 messages are kept
// while there is no connection.
func DefaultReconnectionConfig() ReconnectionConfig {
	return ReconnectionConfig{
		InitialDelayMs:     1000,
		MaxDelayMs:         30000,
		BackoffMultiplier:  2,
		JitterFactor:       0.3,
		MaxPendingMessages: 1000,
	}
}

// UnmarshalJSON implements json.Unmarshaler. An absent key gets its value from
// DefaultReconnectionConfig. Null is an error except for max_retries.
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

// MarshalJSON implements json.Marshaler. It writes nil Data as null, except for the
// types event and unauthorized, which have no data: it omits nil Data for them.
func (d StreamChangeEventDetail) MarshalJSON() ([]byte, error) {
	type plain StreamChangeEventDetail
	if d.Data == nil && d.Type != StreamEventTypeEvent && d.Type != StreamEventTypeUnauthorized {
		d.Data = JSONValue("null")
	}
	return json.Marshal(plain(d))
}

// defaultNamespace is the namespace that the engine uses if none is given.
const defaultNamespace = "default"

// defaulted is a field with a default. The key may be absent but must not be null.
type defaulted[T any] struct {
	value     T
	set, null bool
}

// UnmarshalJSON implements json.Unmarshaler. encoding/json calls it for null, too.
func (d *defaulted[T]) UnmarshalJSON(b []byte) error {
	if d.null = isNull(b); d.null {
		return nil
	}
	d.set = true
	return json.Unmarshal(b, &d.value)
}

// to stores the value in field if the key was present. It returns an error that names
// the field if the value was null.
func (d *defaulted[T]) to(field *T, name string) error {
	if d.null {
		return fmt.Errorf("iii: null for %s, which may only be left out", name)
	}
	if d.set {
		*field = d.value
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty http_method decodes
// as GET. Null is an error for http_method.
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

// UnmarshalJSON implements json.Unmarshaler. An absent or empty level decodes as
// LogLevelAll. Null is an error for level.
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

// UnmarshalJSON implements json.Unmarshaler. An absent limit decodes as nil, which
// means 50. Null is an error for limit and offset.
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

// UnmarshalJSON implements json.Unmarshaler. Null decodes as absent for
// args_format.
func (m *RegisterFunctionMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain RegisterFunctionMessage
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.ArgsFormat = orAbsent(p.ArgsFormat)
	*m = RegisterFunctionMessage(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. Null decodes as absent for
// args_format.
func (o *ObserveDescriptor) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserveDescriptor
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.ArgsFormat = orAbsent(p.ArgsFormat)
	*o = ObserveDescriptor(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. Null decodes as absent for
// metadata.
func (o *ObserveMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserveMessage
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Metadata = orAbsent(p.Metadata)
	*o = ObserveMessage(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. Null decodes as absent for args
// and filters.
func (o *ObserveSource) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserveSource
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Args = orAbsent(p.Args)
	p.Filters = orAbsent(p.Filters)
	*o = ObserveSource(p)
	return nil
}

// MarshalJSON implements json.Marshaler. It omits Capture if the list is nil but not if
// it is empty.
func (s ObserveSource) MarshalJSON() ([]byte, error) {
	type plain ObserveSource
	return json.Marshal(struct {
		plain
		Capture []Capture `json:"capture,omitzero"`
	}{plain(s), s.Capture})
}

// UnmarshalJSON implements json.Unmarshaler. Absent and null decode as {} for args and
// filters, as input, output and caller for capture, and as success for on.
func (v *ObserverView) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserverView
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Args, p.Filters = orAbsent(p.Args), orAbsent(p.Filters)
	*v = ObserverView(p).withDefaults()
	return nil
}

// MarshalJSON implements json.Marshaler. It writes the defaults in place of nil and of an
// empty On.
func (v ObserverView) MarshalJSON() ([]byte, error) {
	type plain ObserverView
	return json.Marshal(plain(v.withDefaults()))
}

func (v ObserverView) withDefaults() ObserverView {
	if v.Args == nil {
		v.Args = JSONValue("{}")
	}
	if v.Filters == nil {
		v.Filters = JSONValue("{}")
	}
	if v.Capture == nil {
		v.Capture = []Capture{CaptureInput, CaptureOutput, CaptureCaller}
	}
	v.On = cmp.Or(v.On, ObserveOnSuccess)
	return v
}

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty
// namespace decodes as "default".
func (m *FunctionRegisteredMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain FunctionRegisteredMessage
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Namespace = cmp.Or(p.Namespace, defaultNamespace)
	*m = FunctionRegisteredMessage(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty
// namespace decodes as "default".
func (m *ObserverAddedMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserverAddedMessage
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Namespace = cmp.Or(p.Namespace, defaultNamespace)
	*m = ObserverAddedMessage(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty
// namespace decodes as "default".
func (m *ObserverRemovedMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserverRemovedMessage
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.Namespace = cmp.Or(p.Namespace, defaultNamespace)
	*m = ObserverRemovedMessage(p)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It skips features that are not strings, and
// takes features that are not an array as none.
func (m *WorkerRegisteredMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain WorkerRegisteredMessage
	var p struct {
		plain
		Features lenientStrings `json:"features"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.plain.Features = p.Features
	*m = WorkerRegisteredMessage(p.plain)
	return nil
}

// lenientStrings decodes the strings of an array, and nothing from any other value.
type lenientStrings []string

// UnmarshalJSON implements json.Unmarshaler. It never returns an error.
func (l *lenientStrings) UnmarshalJSON(b []byte) error {
	*l = nil
	var elements []json.RawMessage
	if json.Unmarshal(b, &elements) != nil {
		return nil
	}
	for _, e := range elements {
		var s *string // stays nil for null
		if json.Unmarshal(e, &s) == nil && s != nil {
			*l = append(*l, *s)
		}
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It drops the parent of a parent, at any depth.
func (c *Caller) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain Caller
	var p struct {
		plain
		Parent *struct {
			plain
			Parent ignored `json:"parent"`
		} `json:"parent"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*c = Caller(p.plain)
	if p.Parent != nil {
		parent := Caller(p.Parent.plain)
		c.Parent = &parent
	}
	return nil
}

// MarshalJSON implements json.Marshaler. It omits the parent of the parent.
func (c Caller) MarshalJSON() ([]byte, error) {
	type plain Caller
	p := struct {
		plain
		Parent *plain `json:"parent,omitempty"`
	}{plain: plain(c)}
	if c.Parent != nil {
		parent := plain(*c.Parent)
		parent.Parent = nil
		p.Parent = &parent
	}
	return json.Marshal(p)
}

// ignored decodes any value as nothing.
type ignored struct{}

// UnmarshalJSON implements json.Unmarshaler. It never returns an error.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// UnmarshalJSON implements json.Unmarshaler. An object without the key observer decodes as
// the observer itself.
func (r *ObserverInfoResult) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var p struct {
		Observer *ObserverInfo `json:"observer"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if p.Observer == nil {
		p.Observer = new(ObserverInfo)
		if err := json.Unmarshal(b, p.Observer); err != nil {
			return err
		}
	}
	r.Observer = *p.Observer
	return nil
}

// MarshalJSON implements json.Marshaler. It writes a nil Matched as [].
func (i ObservedInvocation) MarshalJSON() ([]byte, error) {
	type plain ObservedInvocation
	i.Matched = orEmpty(i.Matched)
	return json.Marshal(plain(i))
}

// orAbsent returns v, or nil if it is null.
func orAbsent(v JSONValue) JSONValue {
	if isNull(v) {
		return nil
	}
	return v
}
