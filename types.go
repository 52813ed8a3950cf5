package iii

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Types whose fields have defaults other than the zero value need an UnmarshalJSON method.
// Each method decodes the document once, into a struct that embeds the generated type and
// shadows the fields that have a default. The shadowing fields distinguish an absent value,
// for which the default is used, from null, which is an error.

// NewAuthResult returns an AuthResult with the defaults: the worker may call every function
// that the listener exposes, use every trigger type and register functions, but it may not
// register trigger types.
func NewAuthResult() AuthResult {
	return AuthResult{
		AllowFunctionRegistration: true,
		Context:                   JSONValue("{}"),
	}
}

// UnmarshalJSON implements json.Unmarshaler. Absent keys default to the values of
// [NewAuthResult]. Only allowed_trigger_types, function_registration_prefix and context may be
// null.
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

// MarshalJSON implements json.Marshaler. It omits a nil AllowedTriggerTypes, but not an empty
// one, and writes a nil Context as {}.
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

// UnmarshalJSON implements json.Unmarshaler. An absent method decodes as POST. A null method
// or headers value is an error.
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

// UnmarshalJSON implements json.Unmarshaler. Absent keys decode as zero values. Only body,
// trigger, request_body and response may be null.
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
// "default". A null namespace is an error; a null args_format decodes as absent.
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
// "default". A null namespace is an error.
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

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty namespace decodes as
// "default".
func (i *MiddlewareInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain MiddlewareInput
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*i = MiddlewareInput(p)
	i.Namespace = cmp.Or(i.Namespace, defaultNamespace)
	return nil
}

// DefaultReconnectionConfig returns the default reconnection policy. The delay starts at 1 s,
// doubles with each failed attempt up to 30 s, and varies randomly by ±30%. The number of
// attempts is unlimited. Up to 1000 messages are kept while disconnected.
func DefaultReconnectionConfig() ReconnectionConfig {
	return ReconnectionConfig{
		InitialDelayMs:     1000,
		MaxDelayMs:         30000,
		BackoffMultiplier:  2,
		JitterFactor:       0.3,
		MaxPendingMessages: 1000,
	}
}

// UnmarshalJSON implements json.Unmarshaler. Absent keys default to the values of
// [DefaultReconnectionConfig]. Only max_retries may be null.
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

// MarshalJSON implements json.Marshaler. It writes nil Data as null. For the types event and
// unauthorized, which have no data, it omits nil Data.
func (d StreamChangeEventDetail) MarshalJSON() ([]byte, error) {
	type plain StreamChangeEventDetail
	if d.Data == nil && d.Type != StreamEventTypeEvent && d.Type != StreamEventTypeUnauthorized {
		d.Data = JSONValue("null")
	}
	return json.Marshal(plain(d))
}

// defaultNamespace is the namespace that the engine uses if none is given.
const defaultNamespace = "default"

// defaulted is a field with a default. Its key may be absent, but its value may not be null.
type defaulted[T any] struct {
	value     T
	set, null bool
}

// UnmarshalJSON implements json.Unmarshaler. encoding/json also calls it for null.
func (d *defaulted[T]) UnmarshalJSON(b []byte) error {
	if d.null = isNull(b); d.null {
		return nil
	}
	d.set = true
	return json.Unmarshal(b, &d.value)
}

// to stores the decoded value in field. If the key was absent, it leaves field unchanged. For
// null, it returns an error that mentions name.
func (d *defaulted[T]) to(field *T, name string) error {
	if d.null {
		return fmt.Errorf("iii: null for %s, which may only be left out", name)
	}
	if d.set {
		*field = d.value
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty http_method decodes as GET. A
// null http_method is an error.
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
// [LogLevelAll]. A null level is an error.
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

// UnmarshalJSON implements json.Unmarshaler. A null value for the key raw is an error.
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

// UnmarshalJSON implements json.Unmarshaler. An absent limit decodes as nil, which means 50. A
// null limit or offset is an error.
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

// UnmarshalJSON implements json.Unmarshaler. A null args_format decodes as absent.
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

// UnmarshalJSON implements json.Unmarshaler. A null args_format decodes as absent.
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

// UnmarshalJSON implements json.Unmarshaler. Null metadata decodes as absent.
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

// UnmarshalJSON implements json.Unmarshaler. Null args and filters decode as absent.
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

// MarshalJSON implements json.Marshaler. It omits a nil Capture, but not an empty one.
func (s ObserveSource) MarshalJSON() ([]byte, error) {
	type plain ObserveSource
	return json.Marshal(struct {
		plain
		Capture []Capture `json:"capture,omitzero"`
	}{plain(s), s.Capture})
}

// UnmarshalJSON implements json.Unmarshaler. Absent and null keys have defaults: {} for args
// and filters; input, output and caller for capture; success for on.
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

// MarshalJSON implements json.Marshaler. It writes defaults for nil fields and for an empty
// On.
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

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty namespace decodes as
// "default".
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

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty namespace decodes as
// "default".
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

// UnmarshalJSON implements json.Unmarshaler. An absent, null or empty namespace decodes as
// "default".
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

// UnmarshalJSON implements json.Unmarshaler. It skips features that are not strings. If
// features is not an array, it decodes as an empty list.
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

// UnmarshalJSON implements json.Unmarshaler. It skips warnings that are not strings. If
// warnings is not an array, it decodes as an empty list.
func (m *ObserveResultMessage) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ObserveResultMessage
	var p struct {
		plain
		Warnings lenientStrings `json:"warnings"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p.plain.Warnings = p.Warnings
	*m = ObserveResultMessage(p.plain)
	return nil
}

// lenientStrings decodes the strings in an array and ignores everything else.
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

// UnmarshalJSON implements json.Unmarshaler. It drops the parent of the caller's parent.
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

// MarshalJSON implements json.Marshaler. It omits the parent of the caller's parent.
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

// ignored discards any JSON value.
type ignored struct{}

// UnmarshalJSON implements json.Unmarshaler. It never returns an error.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// UnmarshalJSON implements json.Unmarshaler. An object without the key observer decodes as the
// observer itself.
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

// orAbsent returns v, or nil if v is null.
func orAbsent(v JSONValue) JSONValue {
	if isNull(v) {
		return nil
	}
	return v
}

// The generator declares the unions and their variants; this file adds the encoding. Each
// union has a table of decoders by tag. A test compares the table with the schema's oneOf.
// Each union also has an interface that only its variants implement. The interface method
// returns a copy with the tag set, so callers need not set Type.

// HTTPAuthVariant is implemented by the variants of HTTPAuthConfig: HTTPAuthHMAC,
// HTTPAuthBearer and HTTPAuthAPIKey. Decoding yields values, not pointers.
type HTTPAuthVariant interface{ httpAuth() HTTPAuthVariant }

func (v HTTPAuthHMAC) httpAuth() HTTPAuthVariant   { v.Type = HTTPAuthTypeHMAC; return v }
func (v HTTPAuthBearer) httpAuth() HTTPAuthVariant { v.Type = HTTPAuthTypeBearer; return v }
func (v HTTPAuthAPIKey) httpAuth() HTTPAuthVariant { v.Type = HTTPAuthTypeAPIKey; return v }

var httpAuthVariants = variants[HTTPAuthVariant]{
	string(HTTPAuthTypeHMAC):   decodeAs[HTTPAuthVariant, HTTPAuthHMAC],
	string(HTTPAuthTypeBearer): decodeAs[HTTPAuthVariant, HTTPAuthBearer],
	string(HTTPAuthTypeAPIKey): decodeAs[HTTPAuthVariant, HTTPAuthAPIKey],
}

// MarshalJSON implements json.Marshaler. It returns an error if no variant is set.
func (c HTTPAuthConfig) MarshalJSON() ([]byte, error) {
	if c.Auth == nil {
		return nil, errors.New("iii: HTTPAuthConfig is empty")
	}
	return json.Marshal(c.Auth.httpAuth())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error if the type is unknown.
func (c *HTTPAuthConfig) UnmarshalJSON(b []byte) (err error) {
	c.Auth, err = httpAuthVariants.decode("HTTPAuthConfig", b)
	return err
}

// TriggerActionVariant is implemented by the variants of TriggerAction: ActionVoid and
// ActionEnqueue. Decoding yields values, not pointers.
type TriggerActionVariant interface{ triggerAction() TriggerActionVariant }

func (v ActionVoid) triggerAction() TriggerActionVariant { v.Type = TriggerActionTypeVoid; return v }
func (v ActionEnqueue) triggerAction() TriggerActionVariant {
	v.Type = TriggerActionTypeEnqueue
	return v
}

var triggerActionVariants = variants[TriggerActionVariant]{
	string(TriggerActionTypeVoid):    decodeAs[TriggerActionVariant, ActionVoid],
	string(TriggerActionTypeEnqueue): decodeAs[TriggerActionVariant, ActionEnqueue],
}

// MarshalJSON implements json.Marshaler. It returns an error if no variant is set.
func (a TriggerAction) MarshalJSON() ([]byte, error) {
	if a.Action == nil {
		return nil, errors.New("iii: TriggerAction is empty")
	}
	return json.Marshal(a.Action.triggerAction())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error if the type is unknown.
func (a *TriggerAction) UnmarshalJSON(b []byte) (err error) {
	a.Action, err = triggerActionVariants.decode("TriggerAction", b)
	return err
}

// UpdateOpVariant is implemented by the variants of UpdateOp: UpdateSet, UpdateMerge,
// UpdateIncrement, UpdateDecrement, UpdateAppend and UpdateRemove. Decoding yields values, not
// pointers.
type UpdateOpVariant interface{ updateOp() UpdateOpVariant }

func (v UpdateSet) updateOp() UpdateOpVariant       { v.Type = UpdateOpTypeSet; return v }
func (v UpdateMerge) updateOp() UpdateOpVariant     { v.Type = UpdateOpTypeMerge; return v }
func (v UpdateIncrement) updateOp() UpdateOpVariant { v.Type = UpdateOpTypeIncrement; return v }
func (v UpdateDecrement) updateOp() UpdateOpVariant { v.Type = UpdateOpTypeDecrement; return v }
func (v UpdateAppend) updateOp() UpdateOpVariant    { v.Type = UpdateOpTypeAppend; return v }
func (v UpdateRemove) updateOp() UpdateOpVariant    { v.Type = UpdateOpTypeRemove; return v }

var updateOpVariants = variants[UpdateOpVariant]{
	string(UpdateOpTypeSet):       decodeAs[UpdateOpVariant, UpdateSet],
	string(UpdateOpTypeMerge):     decodeAs[UpdateOpVariant, UpdateMerge],
	string(UpdateOpTypeIncrement): decodeAs[UpdateOpVariant, UpdateIncrement],
	string(UpdateOpTypeDecrement): decodeAs[UpdateOpVariant, UpdateDecrement],
	string(UpdateOpTypeAppend):    decodeAs[UpdateOpVariant, UpdateAppend],
	string(UpdateOpTypeRemove):    decodeAs[UpdateOpVariant, UpdateRemove],
}

// MarshalJSON implements json.Marshaler. It returns an error if no variant is set.
func (u UpdateOp) MarshalJSON() ([]byte, error) {
	if u.Op == nil {
		return nil, errors.New("iii: UpdateOp is empty")
	}
	return json.Marshal(u.Op.updateOp())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error if the type is unknown.
func (u *UpdateOp) UnmarshalJSON(b []byte) (err error) {
	u.Op, err = updateOpVariants.decode("UpdateOp", b)
	return err
}

// Keys returns the keys that lead from the root to the value. It returns no keys for the root
// itself. A nil path refers to the root.
func (p *MergePath) Keys() []string {
	switch {
	case p == nil:
		return nil
	case p.Segments != nil:
		return p.Segments
	case p.Single != "":
		return []string{p.Single}
	}
	return nil
}

// MarshalJSON implements json.Marshaler. It writes Single as a string if Segments is nil, and
// otherwise Segments as an array.
func (p MergePath) MarshalJSON() ([]byte, error) {
	if p.Segments != nil {
		return json.Marshal(p.Segments)
	}
	return json.Marshal(p.Single)
}

// UnmarshalJSON implements json.Unmarshaler. It accepts a string, an array of strings, or
// null.
func (p *MergePath) UnmarshalJSON(b []byte) error {
	var path MergePath
	if len(b) == 0 || b[0] != '[' {
		if err := json.Unmarshal(b, &path.Single); err != nil {
			return err
		}
		*p = path
		return nil
	}
	var segments []*string // pointers, because null would decode as ""
	if err := json.Unmarshal(b, &segments); err != nil {
		return err
	}
	path.Segments = make([]string, len(segments))
	for i, s := range segments {
		if s == nil {
			return errors.New("iii: MergePath: null in place of a key")
		}
		path.Segments[i] = *s
	}
	*p = path
	return nil
}

// variants maps a union's tags to the decoders of its variants.
type variants[V any] map[string]func([]byte) (V, error)

func (vs variants[V]) decode(union string, b []byte) (v V, err error) {
	var tag struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(b, &tag); err != nil {
		return v, err
	}
	if tag.Type == nil {
		return v, fmt.Errorf("iii: %s without a type", union)
	}
	decode, ok := vs[*tag.Type]
	if !ok {
		return v, fmt.Errorf("iii: %s of unknown type %q", union, *tag.Type)
	}
	return decode(b)
}

func decodeAs[V, T any](b []byte) (v V, err error) {
	var t T
	if err = json.Unmarshal(b, &t); err != nil {
		return v, err
	}
	return any(t).(V), nil
}

// The unions of the built-in functions have no tag. A variant is identified by a key that no
// other variant has.

// MarshalJSON implements json.Marshaler. It returns an error unless exactly one of Detail and
// Error is set.
func (e FunctionInfoEntry) MarshalJSON() ([]byte, error) {
	switch {
	case e.Detail != nil && e.Error == nil:
		return json.Marshal(e.Detail)
	case e.Error != nil && e.Detail == nil:
		return json.Marshal(e.Error)
	}
	return nil, errors.New("iii: FunctionInfoEntry needs either a detail or an error")
}

// UnmarshalJSON implements json.Unmarshaler. An object with the key error decodes as Error,
// and any other object as Detail. By convention, null is a no-op.
func (e *FunctionInfoEntry) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var keys struct {
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(b, &keys); err != nil {
		return err
	}
	var entry FunctionInfoEntry
	var err error
	if keys.Error != nil {
		err = json.Unmarshal(b, &entry.Error)
	} else {
		err = json.Unmarshal(b, &entry.Detail)
	}
	if err != nil {
		return err
	}
	*e = entry
	return nil
}

// MarshalJSON implements json.Marshaler. It returns an error unless exactly one of Number and
// Histogram is set.
func (p MetricDataPoint) MarshalJSON() ([]byte, error) {
	switch {
	case p.Number != nil && p.Histogram == nil:
		return json.Marshal(p.Number)
	case p.Histogram != nil && p.Number == nil:
		return json.Marshal(p.Histogram)
	}
	return nil, errors.New("iii: MetricDataPoint needs either a number or a histogram")
}

// UnmarshalJSON implements json.Unmarshaler. An object with the key bucket_counts or count
// decodes as Histogram, and any other object as Number. By convention, null is a no-op.
func (p *MetricDataPoint) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var keys struct {
		BucketCounts json.RawMessage `json:"bucket_counts"`
		Count        json.RawMessage `json:"count"`
	}
	if err := json.Unmarshal(b, &keys); err != nil {
		return err
	}
	var point MetricDataPoint
	var err error
	if keys.BucketCounts != nil || keys.Count != nil {
		err = json.Unmarshal(b, &point.Histogram)
	} else {
		err = json.Unmarshal(b, &point.Number)
	}
	if err != nil {
		return err
	}
	*p = point
	return nil
}

// The worker protocol's messages set their type when they are encoded, so callers need not set
// Type.

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeWorkerRegistered] as the
// type.
func (m WorkerRegisteredMessage) MarshalJSON() ([]byte, error) {
	type plain WorkerRegisteredMessage
	m.Type = MessageTypeWorkerRegistered
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeReattach] as the type.
func (m ReattachMessage) MarshalJSON() ([]byte, error) {
	type plain ReattachMessage
	m.Type = MessageTypeReattach
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeRegisterFunction] as the
// type.
func (m RegisterFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterFunctionMessage
	m.Type = MessageTypeRegisterFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeUnregisterFunction] as
// the type.
func (m UnregisterFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain UnregisterFunctionMessage
	m.Type = MessageTypeUnregisterFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeRegisterTriggerType] as
// the type.
func (m RegisterTriggerTypeMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterTriggerTypeMessage
	m.Type = MessageTypeRegisterTriggerType
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeRegisterTrigger] as the
// type.
func (m RegisterTriggerMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterTriggerMessage
	m.Type = MessageTypeRegisterTrigger
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeUnregisterTrigger] as
// the type.
func (m UnregisterTriggerMessage) MarshalJSON() ([]byte, error) {
	type plain UnregisterTriggerMessage
	m.Type = MessageTypeUnregisterTrigger
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes
// [MessageTypeTriggerRegistrationResult] as the type.
func (m TriggerRegistrationResultMessage) MarshalJSON() ([]byte, error) {
	type plain TriggerRegistrationResultMessage
	m.Type = MessageTypeTriggerRegistrationResult
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeInvokeFunction] as the
// type.
func (m InvokeFunctionMessage) MarshalJSON() ([]byte, error) {
	type plain InvokeFunctionMessage
	m.Type = MessageTypeInvokeFunction
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeInvocationResult] as the
// type. It omits a nil Matched, but not an empty one.
func (m InvocationResultMessage) MarshalJSON() ([]byte, error) {
	type plain InvocationResultMessage
	m.Type = MessageTypeInvocationResult
	return json.Marshal(struct {
		plain
		Matched []string `json:"matched,omitzero"`
	}{plain(m), m.Matched})
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeRegisterService] as the
// type.
func (m RegisterServiceMessage) MarshalJSON() ([]byte, error) {
	type plain RegisterServiceMessage
	m.Type = MessageTypeRegisterService
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeRegistrationRejected] as
// the type.
func (m RegistrationRejectedMessage) MarshalJSON() ([]byte, error) {
	type plain RegistrationRejectedMessage
	m.Type = MessageTypeRegistrationRejected
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypePing] as the type.
func (m PingMessage) MarshalJSON() ([]byte, error) {
	type plain PingMessage
	m.Type = MessageTypePing
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypePong] as the type.
func (m PongMessage) MarshalJSON() ([]byte, error) {
	type plain PongMessage
	m.Type = MessageTypePong
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeError] as the type.
func (m ErrorMessage) MarshalJSON() ([]byte, error) {
	type plain ErrorMessage
	m.Type = MessageTypeError
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeFunctionRegistered] as
// the type, and nil Observers as [].
func (m FunctionRegisteredMessage) MarshalJSON() ([]byte, error) {
	type plain FunctionRegisteredMessage
	m.Type = MessageTypeFunctionRegistered
	m.Observers = orEmpty(m.Observers)
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserverAdded] as the
// type.
func (m ObserverAddedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverAddedMessage
	m.Type = MessageTypeObserverAdded
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserverRemoved] as the
// type.
func (m ObserverRemovedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverRemovedMessage
	m.Type = MessageTypeObserverRemoved
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserverAck] as the
// type.
func (m ObserverAckMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverAckMessage
	m.Type = MessageTypeObserverAck
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserve] as the type.
func (m ObserveMessage) MarshalJSON() ([]byte, error) {
	type plain ObserveMessage
	m.Type = MessageTypeObserve
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeUnobserve] as the type.
func (m UnobserveMessage) MarshalJSON() ([]byte, error) {
	type plain UnobserveMessage
	m.Type = MessageTypeUnobserve
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserveResult] as the
// type.
func (m ObserveResultMessage) MarshalJSON() ([]byte, error) {
	type plain ObserveResultMessage
	m.Type = MessageTypeObserveResult
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeObserverStateChanged] as
// the type.
func (m ObserverStateChangedMessage) MarshalJSON() ([]byte, error) {
	type plain ObserverStateChangedMessage
	m.Type = MessageTypeObserverStateChanged
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeInvocationsObserved] as
// the type, and nil Items as [].
func (m InvocationsObservedMessage) MarshalJSON() ([]byte, error) {
	type plain InvocationsObservedMessage
	m.Type = MessageTypeInvocationsObserved
	m.Items = orEmpty(m.Items)
	return json.Marshal(plain(m))
}

// MarshalJSON implements json.Marshaler. It always writes [MessageTypeLocalInvocationStats] as
// the type, and nil lists as [].
func (m LocalInvocationStatsMessage) MarshalJSON() ([]byte, error) {
	type plain LocalInvocationStatsMessage
	m.Type = MessageTypeLocalInvocationStats
	m.Functions, m.DroppedReports = orEmpty(m.Functions), orEmpty(m.DroppedReports)
	return json.Marshal(plain(m))
}

// orEmpty returns l, or an empty list if l is nil.
func orEmpty[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// List is a slice that encodes as [] when nil. Decoding null into a List is an error. A plain
// nil slice would encode as null, and the engine rejects null where it expects an array. A
// List of bytes encodes as an array of numbers, whereas a plain byte slice encodes as base64.
// A plain slice is assignable to a List.
type List[T any] []T

// MarshalJSON implements json.Marshaler. It writes a nil list as [].
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	if !isByte[T]() {
		return json.Marshal([]T(l))
	}
	// encoding/json encodes a byte slice as base64, but not a slice of pointers to bytes.
	elements := make([]*T, len(l))
	for i := range l {
		elements[i] = &l[i]
	}
	return json.Marshal(elements)
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null, and for a base64
// string if T is a byte type.
func (l *List[T]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of a list")
	}
	if isByte[T]() && bytes.HasPrefix(bytes.TrimSpace(b), []byte{'"'}) {
		return errors.New("iii: a string in place of a list")
	}
	return json.Unmarshal(b, (*[]T)(l))
}

func isByte[T any]() bool { return reflect.TypeFor[T]().Kind() == reflect.Uint8 }

func (List[T]) describe(in *inference, _ bool) (any, error) {
	items, err := in.of(reflect.TypeFor[T](), true)
	return map[string]any{"type": "array", "items": items}, err
}

// Map is a map with string keys that encodes as {} when nil. Decoding null into a Map is an
// error. A plain map is assignable to a Map.
type Map[V any] map[string]V

// MarshalJSON implements json.Marshaler. It writes a nil map as {}.
func (m Map[V]) MarshalJSON() ([]byte, error) {
	if m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(map[string]V(m))
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null.
func (m *Map[V]) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return errors.New("iii: null in place of an object")
	}
	return json.Unmarshal(b, (*map[string]V)(m))
}

func (Map[V]) describe(in *inference, _ bool) (any, error) {
	values, err := in.of(reflect.TypeFor[V](), false)
	return map[string]any{"type": "object", "additionalProperties": values}, err
}

// ListMap is a map with string keys and lists as values. A nil map encodes as {}, and a nil
// list as []. Decoding null into either is an error. A plain map of slices is assignable to a
// ListMap.
type ListMap[T any] map[string][]T

// MarshalJSON implements json.Marshaler. It writes a nil map as {} and a nil list as [].
func (m ListMap[T]) MarshalJSON() ([]byte, error) {
	lists := make(map[string]List[T], len(m))
	for k, v := range m {
		lists[k] = v
	}
	return json.Marshal(lists)
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for null.
func (m *ListMap[T]) UnmarshalJSON(b []byte) error {
	var lists Map[List[T]]
	if err := json.Unmarshal(b, &lists); err != nil {
		return err
	}
	*m = make(ListMap[T], len(lists))
	for k, v := range lists {
		(*m)[k] = v
	}
	return nil
}

func (ListMap[T]) describe(in *inference, _ bool) (any, error) {
	return Map[List[T]](nil).describe(in, false)
}

func isNull(b []byte) bool {
	return bytes.Equal(bytes.TrimSpace(b), []byte("null"))
}
