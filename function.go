package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
)

// HandlerFunc serves invocations of a function. payload is what the caller sent,
// with the key _caller_worker_id that the engine adds to objects; it is the
// handler's own. The result is encoded with encoding/json (a json.RawMessage is
// sent as it is, nil as null). An [*Error], wrapped or not, keeps its code; any
// other error is sent as invocation_failed; a panic too, without its text.
//
// ctx ends when the connection that the invocation came over is lost (the
// engine has then failed the call, and no answer can be given), when the client
// closes, and when a drain runs out of time. [InvocationFromContext] and
// [Stopping] read it.
type HandlerFunc func(ctx context.Context, payload json.RawMessage) (any, error)

// Middleware wraps a handler. It is applied once, when a function is registered;
// what it returns serves invocations from several goroutines at once, and must not
// be nil.
type Middleware func(HandlerFunc) HandlerFunc

// Function is a function that this worker has registered. It is made by
// [Client.HandleFunc] and its kin; the zero value is of no use. All methods may be
// called from several goroutines at once.
type Function struct {
	client  *Client
	id      string
	spec    functionSpec
	handler HandlerFunc

	spanName string
	untraced bool // it is not run here

	claim
	refused atomic.Pointer[RejectedError]
	route   *Trigger                // registered with the function and taken back with it
	head    atomic.Pointer[Trigger] // likewise, for HEAD

	// Set when the function is taken over; guarded by the registry's lock.
	owner    string    // who held it
	deadline time.Time // of the wait of its triggers until those of owner are gone
}

// ID is the id under which the function was registered.
func (f *Function) ID() string { return f.id }

// Err returns a *[RejectedError] while another live worker owns the function's id in this
// namespace, as the old instance does during a rolling update. This worker then does not
// serve the function, does not register its triggers, and retries until the owner has gone:
// after 250 ms, then less often, but at least every 2 s and on each new connection. All
// retries together are limited to 180 a second. Once the engine has accepted the function,
// Err returns nil and the state listener receives a *[TakeoverNotice]. Before the engine has
// answered, Err returns what it returned on the previous connection, or nil. For a function
// of [HandleHTTP] or [Client.MountHTTP] it also reports the rejection of the route, as
// [Trigger.Err] does.
func (f *Function) Err() error {
	if err := f.refused.Load(); err != nil {
		return err
	}
	for _, t := range []*Trigger{f.route, f.head.Load()} {
		if t == nil {
			continue
		}
		if err := t.refused.Load(); err != nil {
			return err
		}
	}
	return nil
}

// Unregister takes the function back, and the HTTP triggers that were registered with it.
// Other triggers of the function stay: those that the engine has then fail, and those that
// were held because the function is refused stay held until this worker registers a function
// of that id again. Unregister waits neither for the network nor for running handlers.
// Calling it twice is an error.
func (f *Function) Unregister() error {
	for _, t := range []*Trigger{f.route, f.head.Load()} {
		if t != nil {
			_ = t.Unregister() // it may have been taken back alone
		}
	}
	if !f.client.registry.removeFunction(f) {
		return fmt.Errorf("iii: function %q is not registered", f.id)
	}
	return nil
}

// FunctionOption configures a function when it is registered. One that makes no
// sense is an error of the registration.
type FunctionOption func(*functionConfig) error

type functionConfig struct {
	description *string
	metadata    json.RawMessage
	request     json.RawMessage
	response    json.RawMessage
	schemas     bool // set by the user, even if both are nil
}

// WithFunctionDescription sets the text that describes the function in listings.
// Default none.
func WithFunctionDescription(text string) FunctionOption {
	return func(c *functionConfig) error { c.description = &text; return nil }
}

// WithFunctionMetadata sets the function's registration metadata, any value that
// encodes as JSON. {"internal": true} hides the function from the default
// listing; access control can filter by it.
func WithFunctionMetadata(v any) FunctionOption {
	return func(c *functionConfig) (err error) {
		c.metadata, err = rawOf(v)
		return wrapOption("WithFunctionMetadata", err)
	}
}

// WithSchemas sets the JSON Schemas of payload and result that listings show:
// json.RawMessage, or anything that marshals to a schema; nil for none. Typed
// handlers advertise inferred ones by default ([Handle]).
func WithSchemas(request, response any) FunctionOption {
	return func(c *functionConfig) (err error) {
		c.schemas = true
		if c.request, err = schemaValue(request); err == nil {
			c.response, err = schemaValue(response)
		}
		return wrapOption("WithSchemas", err)
	}
}

func wrapOption(name string, err error) error {
	if err != nil {
		return fmt.Errorf("iii: %s: %w", name, err)
	}
	return nil
}

func schemaValue(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := rawOf(v)
	if err != nil {
		return nil, err
	}
	if c := raw[0]; c != '{' && c != 't' && c != 'f' && c != 'n' {
		return nil, errors.New("a JSON Schema is an object or a boolean")
	}
	return raw, nil
}

// rawOf encodes a user's value; the result holds no leading space.
func rawOf(v any) (json.RawMessage, error) {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		return nil, err
	}
	return json.RawMessage(strings.TrimSpace(b.String())), nil
}

// checkRegistration checks the message that registers c. One that is too large would end
// every connection, one that the engine cannot read would be dropped. The dialects differ in
// a few keys, which makes no difference to either.
func checkRegistration(c *claim) error {
	m, err := c.register(triggerDialect{})
	if err != nil {
		return err
	}
	return checkMessage(m)
}

func checkMessage(m any) error {
	b, err := encodeMessage(m)
	if err != nil {
		return err
	}
	defer b.free()
	if b.Len() >= messageTooLarge {
		return fmt.Errorf("registration: %w: %d bytes", ErrMessageTooLarge, b.Len())
	}
	if err := rawjson.CheckForEngine(b.Bytes(), engineDepth); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}

// HandleFunc registers a function with an untyped handler. ids are by custom
// "service::name". It does not wait for the network: before a connection is
// there the registration waits for it, and every later connection gets it again.
func (c *Client) HandleFunc(id string, h HandlerFunc, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	return c.register(id, h, nil, functionSchemas{}, opts)
}

// Handle registers a function with a typed handler: the payload is decoded into
// In and the result encoded from Out. In is what the caller sent, a map or a
// json.RawMessage too, without the key _caller_worker_id that the engine adds: only a
// struct with a field of that name gets it. A payload that does not decode is answered
// with code invalid_request and the path of what is wrong, for example
// lines[2].price. See [Client.HandleFunc].
//
// The function advertises JSON Schemas of what encoding/json decodes into In and
// encodes Out as, unless [WithSchemas] gives others. A type with a method JSONSchema
// without arguments describes itself: the method returns a schema as json.RawMessage,
// []byte or string, or any value that encodes to one, and an error or not; it is called on
// a zero value. A type that encodes itself and has no such method may be anything. A type
// that cannot be described has no schema, which is no error.
func Handle[In, Out any](c *Client, id string, h func(context.Context, In) (Out, error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	return c.register(id, typedHandler(h), nil, functionSchemas{reflect.TypeFor[In](), reflect.TypeFor[Out]()}, opts)
}

func typedHandler[In, Out any](h func(context.Context, In) (Out, error)) HandlerFunc {
	notices := noticesCaller(reflect.TypeFor[In]())
	return func(ctx context.Context, payload json.RawMessage) (any, error) {
		if notices {
			payload = withoutCaller(payload)
		}
		var in In
		if err := decodePayload(payload, &in); err != nil {
			return nil, err
		}
		out, err := h(ctx, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// HandleHTTPInvoked registers a function that the engine runs by calling a URL;
// this worker only owns it. Auth names environment variables of the engine, not
// secrets. The engine does not tell when it refuses the URL: the function is
// then not there.
func (c *Client) HandleHTTPInvoked(id string, cfg HTTPInvocationConfig, opts ...FunctionOption) (*Function, error) {
	// The engine says nothing when it refuses an address. It is in no error: it may
	// hold a secret.
	if u, err := url.Parse(cfg.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("iii: function %q: URL of HTTPInvocationConfig is no http or https address", id)
	}
	if cfg.Method != "" && !cfg.Method.Valid() {
		return nil, fmt.Errorf("iii: function %q: HTTPInvocationConfig: method %q is none of GET, POST, PUT, PATCH, DELETE", id, cfg.Method)
	}
	if err := checkHTTPAuth(cfg.Auth); err != nil {
		return nil, fmt.Errorf("iii: function %q: HTTPInvocationConfig: %w", id, err)
	}
	notInvokable := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: codeNotInvokable, Message: "the function is called over HTTP and has no handler here"}
	}
	return c.register(id, notInvokable, &cfg, functionSchemas{}, opts)
}

// checkHTTPAuth refuses names that no environment variable and no header has: the
// engine would drop the registration without a word.
func checkHTTPAuth(auth *HTTPAuthConfig) error {
	if auth == nil {
		return nil
	}
	var names map[string]string
	switch a := auth.Auth.(type) {
	case HTTPAuthHMAC:
		names = map[string]string{"SecretKey": a.SecretKey}
	case HTTPAuthBearer:
		names = map[string]string{"TokenKey": a.TokenKey}
	case HTTPAuthAPIKey:
		names = map[string]string{"Header": a.Header, "ValueKey": a.ValueKey}
	}
	for field, name := range names {
		if strings.TrimSpace(name) == "" {
			return fmt.Errorf("%T has no %s", auth.Auth, field)
		}
	}
	return nil
}

func (c *Client) register(id string, h HandlerFunc, invocation *HTTPInvocationConfig, types functionSchemas, opts []FunctionOption) (*Function, error) {
	f, err := c.newFunction(id, h, invocation, types, opts)
	if err != nil {
		return nil, err
	}
	if err := c.registry.addFunction(f); err != nil {
		return nil, err
	}
	return f, nil
}

func (c *Client) newFunction(id string, h HandlerFunc, invocation *HTTPInvocationConfig, types functionSchemas, opts []FunctionOption) (*Function, error) {
	if strings.TrimSpace(id) == "" {
		return nil, errors.New("iii: blank function id")
	}
	var cfg functionConfig
	for _, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("iii: function %q: nil FunctionOption", id)
		}
		if err := opt(&cfg); err != nil {
			return nil, fmt.Errorf("iii: function %q: %w", id, trimmed(err))
		}
	}
	if !cfg.schemas {
		cfg.request, cfg.response = c.inferSchema(id, types.in, true), c.inferSchema(id, types.out, false)
	}
	f := &Function{client: c, id: id, handler: h, spanName: "execute " + id, untraced: invocation != nil}
	for i := len(c.cfg.middleware) - 1; i >= 0; i-- {
		if f.handler = c.cfg.middleware[i](f.handler); f.handler == nil {
			return nil, fmt.Errorf("iii: function %q: middleware %d returned nil", id, i)
		}
	}
	f.claim = claim{function: f}
	f.spec = functionSpec{id: id, description: cfg.description, metadata: cfg.metadata, request: cfg.request, response: cfg.response, invocation: invocation}
	if err := checkRegistration(&f.claim); err != nil {
		return nil, fmt.Errorf("iii: function %q: %w", id, err)
	}
	return f, nil
}

// Invocation tells a handler about the invocation that it serves.
type Invocation struct {
	// ID is the id that the caller chose, or the engine for calls without one;
	// "" with engines that send none for those.
	ID string
	// FunctionID is the function's id as this worker registered it.
	FunctionID string
	// CallerWorkerID is the calling worker; "" for triggers, for the engine's own
	// calls, and where the payload is no object.
	CallerWorkerID string
	// Metadata came beside the payload: the caller's, or the trigger's. Nil if
	// there is none.
	Metadata json.RawMessage
}

// invocationContext is the context of one handler.
type invocationContext struct {
	context.Context
	client *Client
	in     *incoming

	once   sync.Once
	caller context.Context // with the caller's trace and baggage
}

type invocationKey struct{}

// Value implements context.Context. OpenTelemetry finds the caller's trace and
// baggage here; they are read when first asked for, for most handlers never ask.
func (c *invocationContext) Value(key any) any {
	switch {
	case key == invocationKey{}:
		return c
	case len(c.in.traceparent)+len(c.in.baggage) == 0:
		return c.Context.Value(key)
	}
	c.once.Do(func() { c.caller = extractRaw(c.Context, c.in.traceparent, c.in.baggage) })
	return c.caller.Value(key)
}

// InvocationFromContext describes the invocation that a handler serves; ok is
// false outside of handlers.
func InvocationFromContext(ctx context.Context) (inv Invocation, ok bool) {
	c, ok := ctx.Value(invocationKey{}).(*invocationContext)
	if !ok {
		return Invocation{}, false
	}
	return Invocation{ID: string(c.in.id), FunctionID: c.in.function.id, CallerWorkerID: callerOf(c.in.data), Metadata: c.in.metadata}, true
}

// callerOf finds the key that the engine adds to object payloads.
func callerOf(data []byte) (id string) {
	if len(data) == 0 || data[0] != '{' {
		return ""
	}
	_ = rawjson.ScanObject(data, func(key, value []byte) {
		if isCallerKey(key) {
			id, _ = rawjson.Unquote(value)
		}
	})
	return id
}

// Stopping returns, in a handler, a channel that is closed when the client begins
// to drain, before ctx is cancelled: a long job may end early then. Outside of
// handlers it is nil, which blocks for ever.
func Stopping(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok {
		return c.client.stopping
	}
	return nil
}
