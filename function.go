package iii

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/jsoncodec"
	"github.com/iii-go/iii/internal/rawjson"
)

// HandlerFunc serves invocations of a function. payload is the caller's payload; the handler
// may modify and retain it. The engine adds the key _caller_worker_id to a payload that is an
// object. The result is encoded with encoding/json (a json.RawMessage is sent unchanged, nil
// as null). A returned [*Error], possibly wrapped, keeps its code. Any other error is sent
// with the code invocation_failed. A panic is reported with the same code and, unless
// [WithStackTraces] is set, without the panic value.
//
// A handler's goroutine, and the goroutines that it starts, have the runtime/pprof label
// iii.function.id, which identifies the function in profiles.
//
// ctx is canceled when the connection that delivered the invocation is lost, when the client
// is closed, or when a drain exceeds its timeout. If the connection is lost, the engine fails
// the call and does not accept a result. ctx can be passed to [InvocationFromContext] and
// [Stopping].
type HandlerFunc func(ctx context.Context, payload json.RawMessage) (any, error)

// Middleware wraps a handler. It is called once, when a function is registered. The returned
// handler must not be nil and must be safe for concurrent use.
type Middleware func(HandlerFunc) HandlerFunc

// Function is a function registered by this worker, for example with [Client.HandleFunc]. The
// zero value is not usable. All methods are safe for concurrent use.
type Function struct {
	client  *Client
	id      string
	spec    functionSpec
	handler HandlerFunc

	spanName string
	untraced bool          // the function does not run in this process
	web      bool          // serves HTTP requests; results are HTTP responses
	timeout  time.Duration // time limit for the handler; 0 means none

	metrics   *functionMetrics // nil if metrics are disabled, and for the package's own functions
	labels    context.Context  // holds the profiler labels for the handler's goroutines; nil for the package's own functions
	hooks     ObserverHooks
	remote    bool // never run in process
	quiet     bool // do not warn if an engine cannot host the function
	recycles  bool // the handler decodes its payload with decodeAndRecycle
	observers observerSet
	local     localStats

	claim
	refused atomic.Pointer[RejectedError]
	route   *Trigger     // registered and unregistered with the function
	routes  []*Trigger   // like route, but for a router
	heads   []*headRoute // for HEAD requests, if the function serves GET

	routeOptions []TriggerOption

	// Set when this worker takes over the function; guarded by the registry's lock.
	owner    string    // the previous owner
	deadline time.Time // when the function's triggers stop waiting for the previous owner to disconnect
}

// ID returns the id of the function.
func (f *Function) ID() string { return f.id }

// Err returns a *[RejectedError] while another live worker, such as the old instance during a
// rolling update, owns the function's id in this namespace. During this time, this worker does
// not serve the function or register its triggers. It retries until the engine accepts the
// function: first after 250 ms, then less often, but at least every 2 s and on each new
// connection. Retries are limited to 200 per second across all functions. Once the engine has
// accepted the function, Err returns nil, and the state listener receives a *[TakeoverNotice].
//
// After a reconnect, Err returns the result from the previous connection until the engine has
// responded. Before the first response, it returns nil. For a function registered with
// [HandleHTTP] or [Client.MountHTTP], Err also reports a rejected route, as [Trigger.Err]
// does.
func (f *Function) Err() error {
	if err := f.refused.Load(); err != nil {
		return err
	}
	for _, t := range f.ownTriggers() {
		if err := t.refused.Load(); err != nil {
			return err
		}
	}
	return nil
}

// ownTriggers returns the triggers that were registered together with f.
func (f *Function) ownTriggers() (own []*Trigger) {
	if f.route != nil {
		own = append(own, f.route)
	}
	own = append(own, f.routes...)
	for _, h := range f.heads {
		if t := h.bound.Load(); t != nil {
			own = append(own, t)
		}
	}
	return own
}

// Unregister unregisters the function and the HTTP triggers that were registered together with
// it. The function's other triggers remain registered. Triggers that the engine has accepted
// continue to call the function, and the calls fail. If triggers have not been sent because
// the function was rejected, they are sent only after this worker registers a function with
// the same id. Unregister does not wait for the network or for running handlers. A second call
// returns an error.
func (f *Function) Unregister() error {
	f.client.registry.removeHeads(f)
	for _, t := range f.ownTriggers() {
		_ = t.Unregister() // fails if the trigger has been unregistered separately
	}
	if !f.client.registry.removeFunction(f) {
		return fmt.Errorf("iii: function %q is not registered", f.id)
	}
	return nil
}

// FunctionOption configures a function that is being registered. An invalid option makes the
// registration fail.
type FunctionOption func(*functionConfig) error

type functionConfig struct {
	description *string
	metadata    json.RawMessage
	request     json.RawMessage
	response    json.RawMessage
	schemas     bool // set by WithSchemas, even if both schemas are nil

	args           json.RawMessage
	private        bool
	unobservable   bool
	remote         bool
	hooks          ObserverHooks
	middleware     []Middleware
	timeout        time.Duration
	triggerOptions []TriggerOption
	validates      bool // validate the input against the request schema
	builtin        bool // allow one of the engine's own ids
	unchecked      bool // do not check the id, which is dictated by the engine
}

// WithFunctionDescription sets the description that listings show for the function. Default:
// none.
func WithFunctionDescription(text string) FunctionOption {
	return func(c *functionConfig) error { c.description = &text; return nil }
}

// WithFunctionMetadata sets the function's registration metadata. v is any value that encodes
// as JSON. {"internal": true} hides the function from the default listing. The engine's access
// control can select functions by their metadata.
func WithFunctionMetadata(v any) FunctionOption {
	return func(c *functionConfig) (err error) {
		c.metadata, err = rawOf(v)
		return wrapOption("WithFunctionMetadata", err)
	}
}

// WithSchemas sets the JSON Schemas that listings show for the payload and the result. Each
// schema is a json.RawMessage, any value that marshals to a schema, or nil for none. By
// default, typed handlers advertise inferred schemas (see [Handle]).
func WithSchemas(request, response any) FunctionOption {
	return func(c *functionConfig) (err error) {
		c.schemas = true
		if c.request, err = schemaValue(request); err == nil {
			c.response, err = schemaValue(response)
		}
		return wrapOption("WithSchemas", err)
	}
}

// WithFunctionMiddleware wraps a single function's handler. The first middleware is the
// outermost one. Repeated options accumulate; later middleware runs inside earlier middleware.
// Function middleware always runs inside the middleware added with [WithMiddleware]. The
// registration fails if a middleware is nil or returns nil. Default: none.
func WithFunctionMiddleware(mw ...Middleware) FunctionOption {
	return func(c *functionConfig) error {
		for i, m := range mw {
			if m == nil {
				return fmt.Errorf("iii: WithFunctionMiddleware: argument %d is nil", i)
			}
		}
		c.middleware = append(c.middleware, mw...)
		return nil
	}
}

// WithHandlerTimeout limits how long a function's handler may run, including its middleware.
// Time spent in the queue is not included. The limit must be positive. Default: no limit.
//
// When a handler exceeds the limit, the caller receives an error with the code
// [CodeHandlerTimeout], or a 504 response if the function serves a route. The handler's
// context is then done, and its Err method returns context.DeadlineExceeded, but the handler
// itself cannot be stopped. Until it returns, its goroutine counts toward [WithMaxConcurrency]
// and ClientStats.HandlersRunning, and a drain waits for it. Its result is discarded. If a
// handler of [Client.MountHTTP] has already sent the header of a streamed response, the
// response is cut off instead.
func WithHandlerTimeout(d time.Duration) FunctionOption {
	return func(c *functionConfig) error {
		if d <= 0 {
			return fmt.Errorf("iii: WithHandlerTimeout: %v is not positive", d)
		}
		c.timeout = d
		return nil
	}
}

// WithTriggerOptions sets options for the triggers that [HandleHTTP], [Client.MountHTTP] and
// [Client.MountRouter] register together with a function. Repeated options accumulate. The
// registration fails if the function has no such trigger. [WithTriggerNamespace] must not
// specify a namespace other than the function's. The HEAD trigger that is registered with a
// mounted GET route has the same options, except that ":head" is appended to the id set by
// [WithTriggerID].
func WithTriggerOptions(opts ...TriggerOption) FunctionOption {
	return func(c *functionConfig) error {
		for i, opt := range opts {
			if opt == nil {
				return fmt.Errorf("iii: WithTriggerOptions: argument %d is nil", i)
			}
		}
		c.triggerOptions = append(c.triggerOptions, opts...)
		return nil
	}
}

// WithBuiltinOverride allows registering a function under an id that is reserved for the
// engine's own functions. These ids are publish, bridge.invoke, bridge.invoke_async, and all
// ids that begin with state::, stream::, configuration::, iii:: or engine::. By default,
// registering such an id is an error in every namespace.
//
// In the namespace "default", the function replaces the engine's own function for all workers.
// The other workers are not notified. When the registering worker disconnects, the engine
// removes the function. The engine's own function becomes available again only when the engine
// reloads the module that provides it, for example during a restart. Until then, calls fail
// with [ErrFunctionNotFound].
//
// In other namespaces, the engine rejects ids that begin with engine::. Functions with the
// other reserved ids can be called only with [InNamespace]. [Client.HandleStream] does not
// need this option.
func WithBuiltinOverride() FunctionOption {
	return func(c *functionConfig) error { c.builtin = true; return nil }
}

// prescribedID is an option for functions whose id is chosen by this package.
func prescribedID(c *functionConfig) error { c.builtin, c.unchecked = true, true; return nil }

// checkID rejects invalid and reserved ids.
func (c *functionConfig) checkID(id string) error {
	switch {
	case c.unchecked:
	case !utf8.ValidString(id):
		return errors.New("the id is not valid UTF-8")
	case strings.ContainsFunc(id, unicode.IsSpace):
		return errors.New("the id has a space")
	case strings.ContainsFunc(id, unicode.IsControl):
		return errors.New("the id has a control character")
	case strings.ContainsFunc(id, func(r rune) bool { return unicode.Is(unicode.Cf, r) }):
		return errors.New("the id has an invisible character")
	case !c.builtin && isBuiltin(id):
		return errors.New("the id is one of the engine's: whoever registers it takes the function from all workers; WithBuiltinOverride allows it")
	}
	return nil
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

// rawOf encodes a user value. The result has no surrounding white space.
func rawOf(v any) (json.RawMessage, error) {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		return nil, err
	}
	return json.RawMessage(strings.TrimSpace(b.String())), nil
}

// checkRegistration validates the message that registers c. The engine drops the connection if
// a message is too large, and ignores a message that it cannot parse. The messages for
// different engine versions differ only in a few short keys, so one check is enough.
func checkRegistration(c *claim) error {
	var d dialect = triggerDialect{observe: true}
	if c.function != nil {
		d = newestDialect
	} else if err := c.trigger.spec.checkText(); err != nil {
		return err
	}
	m, err := c.register(d)
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
	if b.len() >= messageTooLarge {
		return fmt.Errorf("registration: %w: %d bytes", ErrMessageTooLarge, b.len())
	}
	if err := rawjson.CheckForEngine(b.bytes(), engineDepth); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}

// HandleFunc registers a function with an untyped handler. By convention, ids have the form
// "service::name". HandleFunc rejects ids that contain spaces, control characters or invisible
// characters. It also rejects the ids of the engine's own functions, unless
// [WithBuiltinOverride] is set. HandleFunc does not wait for the network. The client sends the
// registration once it is connected, and again after each reconnect.
func (c *Client) HandleFunc(id string, h HandlerFunc, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	return c.register(id, handlerSpec{run: h}, opts)
}

// Handle registers a function with a typed handler. The payload is decoded into In, and the
// result is encoded from Out. In does not receive the key _caller_worker_id that the engine
// adds to payloads, even if In is a map or a json.RawMessage. The only exception is a struct
// with a field of that name. If a payload cannot be decoded, the caller receives an error with
// the code invalid_request and the path of the invalid value, such as lines[2].price. See
// [Client.HandleFunc] for the rules for ids.
//
// The function advertises JSON Schemas for its payload and result, inferred from In and Out
// according to the rules of encoding/json. [WithSchemas] replaces them. With
// [WithInputValidation], the worker enforces the schema of In. A type can supply its own
// schema with a method named JSONSchema that has no parameters. The method is called on a zero
// value and returns the schema as a json.RawMessage, a []byte, a string or any value that
// encodes to a schema, and optionally an error. For a type that implements its own encoding
// but lacks this method, the schema allows any value.
//
// If a type cannot be described, no schema is advertised; this is not an error. Handle returns
// an error if In or Out contains, at any depth, a channel, a function or a complex number.
// Fields of Out with the tag option omitempty or omitzero are exempt.
func Handle[In, Out any](c *Client, id string, h func(context.Context, In) (Out, error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	types := functionSchemas{reflect.TypeFor[In](), reflect.TypeFor[Out]()}
	if err := types.check(); err != nil {
		return nil, public(fmt.Errorf("function %q: %w", id, err))
	}
	return c.register(id, typedHandler(c, h, types), opts)
}

// HandleEvent is like [Handle] for a handler that has no result, such as an event handler. The
// function returns null.
func HandleEvent[In any](c *Client, id string, h func(context.Context, In) error, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	types := functionSchemas{in: reflect.TypeFor[In]()}
	if err := types.check(); err != nil {
		return nil, public(fmt.Errorf("function %q: %w", id, err))
	}
	spec := typedHandler(c, func(ctx context.Context, in In) (json.RawMessage, error) { return nil, h(ctx, in) }, types)
	return c.register(id, spec, opts)
}

func typedHandler[In, Out any](c *Client, h func(context.Context, In) (Out, error), types functionSchemas) handlerSpec {
	t := reflect.TypeFor[In]()
	notices := mustRemoveCaller(t, c.cfg.json != nil)
	recycles := !notices && c.cfg.json == nil && t.Kind() == reflect.Struct && jsoncodec.Independent(t) && fieldType(t, callerKey) == nil
	run := func(ctx context.Context, payload json.RawMessage) (any, error) {
		if notices {
			payload = withoutCaller(payload)
		}
		var in In
		if recycles {
			if err := c.cfg.decodeAndRecycle(ctx, payload, &in); err != nil {
				return nil, err
			}
		} else if err := c.cfg.decodePayload(payload, &in); err != nil {
			return nil, err
		}
		out, err := h(ctx, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	return handlerSpec{run: run, types: types, recycles: recycles}
}

// HandleHTTPInvoked registers a function that the engine runs by sending an HTTP request to a
// URL. This worker owns the function but does not run it. cfg.Auth contains the names of the
// engine's environment variables that hold the secrets, not the secrets themselves. If the
// engine rejects the URL, it does not report an error, and the function does not exist.
func (c *Client) HandleHTTPInvoked(id string, cfg HTTPInvocationConfig, opts ...FunctionOption) (*Function, error) {
	// Check the URL here, because the engine does not report an invalid one. The error omits
	// the URL, which may contain a secret.
	if u, err := url.Parse(cfg.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("iii: function %q: URL of HTTPInvocationConfig is not an http or https address", id)
	}
	if cfg.Method != "" && !cfg.Method.Valid() {
		return nil, fmt.Errorf("iii: function %q: HTTPInvocationConfig: method %q is none of GET, POST, PUT, PATCH, DELETE", id, cfg.Method)
	}
	if err := checkHTTPAuth(cfg.Auth); err != nil {
		return nil, public(fmt.Errorf("function %q: HTTPInvocationConfig: %w", id, err))
	}
	notInvokable := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: CodeFunctionNotInvokable, Message: "the function is called over HTTP and has no handler here"}
	}
	return c.register(id, handlerSpec{run: notInvokable, invocation: &cfg}, opts)
}

// checkHTTPAuth rejects blank names of environment variables and headers. With a blank name,
// the engine would silently drop the registration.
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

func (c *Client) register(id string, spec handlerSpec, opts []FunctionOption) (*Function, error) {
	f, _, err := c.newFunction(id, spec, opts)
	if err != nil {
		return nil, err
	}
	if err := c.registry.addFunction(f); err != nil {
		return nil, err
	}
	return f, nil
}

// handlerSpec holds the properties of a function that depend on how it is registered.
type handlerSpec struct {
	run        HandlerFunc
	invocation *HTTPInvocationConfig
	types      functionSchemas

	web      bool // serves HTTP requests
	recycles bool // run decodes its payload with decodeAndRecycle

	// validate sets the validator that run uses. It is called if input validation is enabled.
	// If validate is nil, the whole payload is validated before run is called.
	validate   func(*inputSchema)
	body       reflect.Type // type of the input passed to the validator
	unreadBody bool         // this package does not read the input, so it cannot be validated
}

func (c *Client) newFunction(id string, spec handlerSpec, opts []FunctionOption) (*Function, *functionConfig, error) {
	if strings.TrimSpace(id) == "" {
		return nil, nil, errors.New("iii: blank function id")
	}
	fail := func(err error) (*Function, *functionConfig, error) {
		return nil, nil, public(fmt.Errorf("function %q: %w", id, err))
	}
	cfg := &functionConfig{}
	if err := applyOptions(cfg, opts, callOption); err != nil {
		return fail(err)
	}
	if err := cfg.checkID(id); err != nil {
		return fail(err)
	}
	if err := cfg.checkFor(&spec); err != nil {
		return fail(err)
	}
	if !cfg.schemas {
		cfg.request, cfg.response = c.inferSchema(id, spec.types.in, true), c.inferSchema(id, spec.types.out, false)
	}
	if err := spec.addValidation(cfg); err != nil {
		return fail(err)
	}
	f := &Function{client: c, id: id, handler: spec.run, spanName: "execute " + id, untraced: spec.invocation != nil, web: spec.web, timeout: cfg.timeout,
		hooks: cfg.hooks, remote: cfg.remote}
	f.labels = pprof.WithLabels(context.Background(), pprof.Labels(functionIDAttribute, id))
	f.metrics = c.metrics.function(id)
	for i, mw := range slices.Backward(cfg.middleware) {
		if f.handler = mw(f.handler); f.handler == nil {
			return fail(fmt.Errorf("function middleware %d returned nil", i))
		}
	}
	for i, mw := range slices.Backward(c.cfg.middleware) {
		if f.handler = mw(f.handler); f.handler == nil {
			return fail(fmt.Errorf("middleware %d returned nil", i))
		}
	}
	if spec.web {
		f.handler = c.handleErrors(id, f.handler)
	}
	// Memory is not recycled if middleware may retain the payload, or if a time limit lets
	// other goroutines use the invocation while the handler is running.
	f.recycles = spec.recycles && len(cfg.middleware)+len(c.cfg.middleware) == 0 && cfg.timeout == 0
	f.claim = claim{function: f}
	f.spec = functionSpec{id: id, description: cfg.description, metadata: cfg.metadata, request: cfg.request, response: cfg.response, invocation: spec.invocation,
		args: cfg.args, private: cfg.private, unobservable: cfg.unobservable,
		needsHooks: cfg.args != nil || cfg.private || cfg.unobservable || cfg.hooks.affectReplies()}
	if err := checkRegistration(&f.claim); err != nil {
		return fail(err)
	}
	return f, cfg, nil
}

// checkFor rejects options that would have no effect on the function.
func (c *functionConfig) checkFor(spec *handlerSpec) error {
	if !spec.web && len(c.triggerOptions) > 0 {
		return errors.New("WithTriggerOptions: no trigger is registered with the function; Client.Trigger takes the options")
	}
	if spec.invocation == nil {
		return nil
	}
	const why = ": the engine runs the function over HTTP, and this worker has no handler for it"
	switch {
	case c.timeout > 0:
		return errors.New("WithHandlerTimeout" + why + "; TimeoutMs of HTTPInvocationConfig limits it")
	case len(c.middleware) > 0:
		return errors.New("WithFunctionMiddleware" + why)
	case c.validates:
		return errors.New("WithInputValidation" + why)
	}
	return nil
}

// Invocation describes the invocation that a handler is serving.
type Invocation struct {
	// ID is the invocation's id. It is chosen by the caller or, if the caller sends none, by
	// the engine. It is "" if the invocation has no id.
	ID string
	// FunctionID is the function's id as registered by this worker.
	FunctionID string
	// CallerWorkerID is the id of the worker that made the call. For a custom trigger, that is
	// the worker that provides the trigger type. For a call through an observer, it is the
	// worker that hosts the observed function. CallerWorkerID is "" if the engine made the
	// call, as it does for all other triggers and observers. On engines before 0.25, it is
	// also "" for payloads that are not objects.
	CallerWorkerID string
	// Metadata is the metadata of the call, the trigger or the observer, or nil if there is
	// none.
	Metadata json.RawMessage
	// Caller identifies the caller, on engine 0.25 and later. It is nil if the caller is
	// unknown. For an activation, the caller is the engine, whose worker name is "iii-engine".
	Caller *Caller
	// Activation identifies the observer that caused the invocation. It is nil if no observer
	// did.
	Activation *Activation
	// ObserveDepth is the length of the chain of activations that led to the invocation. Each
	// activation in the chain caused the next one.
	ObserveDepth uint32
}

// invocationContext is the context passed to a handler.
type invocationContext struct {
	context.Context
	client *Client
	in     *incoming

	once   sync.Once
	caller context.Context // with the caller's trace context and baggage

	limit *handlerLimit // nil without WithHandlerTimeout

	response atomic.Pointer[responseWriter] // of a mounted handler; determines whether a different response can still be sent
	panicked atomic.Pointer[handlerPanic]   // set by a mounted handler, whose response is a result nevertheless
}

// handlerPanic describes the panic of a mounted handler.
type handlerPanic struct {
	value any
	stack string
}

// notePanic records that the mounted handler of an invocation has panicked.
func notePanic(ctx context.Context, value any, stack string) {
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok {
		c.panicked.Store(&handlerPanic{value, stack})
	}
}

// errHandlerTimeout is the cancellation cause when a handler exceeds its time limit.
var errHandlerTimeout = errors.New("iii: WithHandlerTimeout has passed")

// handlerLimit responds on behalf of a handler that exceeds its time limit. The handler and
// the handlerLimit compete to claim the response, and only the winner sends it.
type handlerLimit struct {
	ctx     context.Context // done when the limit expires or the invocation ends
	cancel  context.CancelFunc
	unwatch func() bool
	watched chan struct{} // closed when the watch function has returned; used if unwatch was too late
	respond func()        // responds on behalf of the handler
	claimed atomic.Bool

	returned, late bool // state of the handler; only used on its goroutine
}

// limitHandler sets the time limit for a handler that has not started yet. There is no limit
// unless d is positive.
func (c *invocationContext) limitHandler(d time.Duration) {
	if d > 0 {
		c.limit = &handlerLimit{watched: make(chan struct{})}
		c.limit.ctx, c.limit.cancel = context.WithTimeoutCause(c.Context, d, errHandlerTimeout)
		c.Context = c.limit.ctx
	}
}

// watch calls respond when the time limit expires, unless the handler claims the response
// first. It must be called when the handler starts.
func (l *handlerLimit) watch(respond func()) {
	l.respond = respond
	l.unwatch = context.AfterFunc(l.ctx, func() {
		defer close(l.watched)
		l.exceeded()
	})
}

// exceeded responds to the invocation if the time limit has expired and the response is
// unclaimed.
func (l *handlerLimit) exceeded() {
	if context.Cause(l.ctx) == errHandlerTimeout && l.claimed.CompareAndSwap(false, true) {
		l.respond()
	}
}

// handlerReturned reports whether the handler returned after the handlerLimit had responded.
func (l *handlerLimit) handlerReturned() (late bool) {
	if l == nil || l.returned {
		return l != nil && l.late
	}
	if !l.unwatch() {
		<-l.watched
	}
	l.exceeded()
	l.returned, l.late = true, !l.claimed.CompareAndSwap(false, true)
	l.cancel()
	return l.late
}

// timeoutOutcome returns the response to an invocation whose handler exceeded its time limit.
// The response is failure if failed is true, and result otherwise. In both cases, failure is
// recorded as the handler's error.
func (c *invocationContext) timeoutOutcome() (result any, failure *Error, failed bool) {
	f := c.in.function
	failure = &Error{Code: CodeHandlerTimeout, Message: fmt.Sprintf("the handler has not returned within %v", f.timeout)}
	w := c.response.Load()
	switch begun := w != nil && w.timeOut(failure); {
	case begun:
		return nil, failure, false
	case f.web:
		return errorResponse(http.StatusGatewayTimeout, failure.Code, failure.Message), failure, false
	}
	return nil, failure, true
}

// setResponseWriter records that a mounted handler's response is written to w.
func setResponseWriter(ctx context.Context, w *responseWriter) {
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok {
		c.response.Store(w)
	}
}

// streamed reports whether a mounted handler has begun to stream its response. The result of
// the invocation must then be null: the engine would use any other result in place of the
// response if it received the result before the first frame of the stream, which travels over
// another connection.
func (c *invocationContext) streamed() bool {
	w := c.response.Load()
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.headOut
}

type invocationKey struct{}

// Value implements [context.Context]. OpenTelemetry looks up the caller's trace context and
// baggage here. Both are parsed on first use, because most handlers never use them. The
// runtime/pprof package finds the handler goroutine's labels here, so that pprof.Do adds
// labels to them instead of replacing them.
func (c *invocationContext) Value(key any) any {
	if key == (invocationKey{}) {
		return c
	}
	from := c.Context
	if len(c.in.traceparent)+len(c.in.baggage) > 0 {
		c.once.Do(func() { c.caller = extractRaw(c.Context, c.in.traceparent, c.in.baggage) })
		from = c.caller
	}
	v := from.Value(key)
	if labels := c.in.function.labels; v == nil && labels != nil {
		return labels.Value(key)
	}
	return v
}

// InvocationFromContext returns the invocation that a handler is serving. ok is false outside
// of handlers.
func InvocationFromContext(ctx context.Context) (inv Invocation, ok bool) {
	c, ok := ctx.Value(invocationKey{}).(*invocationContext)
	if !ok {
		return Invocation{}, false
	}
	inv = Invocation{ID: string(c.in.id), FunctionID: c.in.function.id, CallerWorkerID: c.in.callerWorkerID(), Metadata: c.in.metadata, ObserveDepth: c.in.depth}
	inv.Caller = optional[Caller](c.in.callerJSON(c.client))
	inv.Activation = optional[Activation](c.in.activation)
	if inv.CallerWorkerID == "" && inv.Caller != nil && !c.in.isBuiltinTrigger() { // the payload does not contain the id
		inv.CallerWorkerID = inv.Caller.WorkerID
	}
	return inv, true
}

// optional decodes an optional value. It returns nil if the value is absent or invalid.
func optional[T any](raw json.RawMessage) *T {
	v := new(T)
	if raw == nil || json.Unmarshal(raw, v) != nil {
		return nil
	}
	return v
}

// callerWorkerID returns the id of the calling worker, or "" if it is unknown. The payload of
// a remote call contains the id. The payload of an activation does not.
func (in *incoming) callerWorkerID() string {
	switch {
	case in.local:
		return in.function.client.WorkerID()
	case in.activation != nil:
		return ""
	case in.recycled:
		return in.callerID
	}
	return callerOf(in.data)
}

// isBuiltinTrigger reports whether the invocation is for a trigger of one of the engine's
// types. It returns true even if a worker has taken over the type.
func (in *incoming) isBuiltinTrigger() bool {
	return in.trigger != nil && in.trigger.source.functionID != ""
}

// callerOf returns the caller's worker id, which the engine adds to payloads that are objects.
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

// Stopping returns a channel that is closed when the client begins to drain, before the
// handler's context is canceled. Long-running handlers can use it to return early. Outside of
// handlers, Stopping returns a nil channel, from which a receive blocks forever.
func Stopping(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok {
		return c.client.stopping
	}
	return nil
}

// ErrSignature matches every error returned by [VerifySignature].
var ErrSignature = errors.New("iii: request is not signed by the engine")

// Headers that the engine sends to an HTTP-invoked function that uses [HTTPAuthHMAC].
const (
	signatureHeader = "X-Iii-Signature"
	timestampHeader = "X-Iii-Timestamp"
	signatureScheme = "sha256="
)

// VerifySignature checks that a request to an HTTP-invoked function was sent by the engine.
// secret is the signing key, which the engine reads from the environment variable named in
// [HTTPAuthHMAC]. The signature's timestamp must be within window of the current time. body is
// the complete request body, already read from r.Body. The signature covers the body and the
// time, but not the method, the URL or other headers. An eavesdropper can replay a request
// within window. Signatures are compared in constant time.
//
// Every error matches [ErrSignature] and describes the cause without revealing the secret. An
// empty secret or a window that is not positive is an error, because the check would then
// provide no protection.
func VerifySignature(r *http.Request, body []byte, secret string, window time.Duration) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrSignature, fmt.Sprintf(format, args...))
	}
	switch {
	case secret == "":
		return fail("the secret is empty")
	case window <= 0:
		return fail("the window of %v is not positive", window)
	}
	signature, err := soleHeader(r, signatureHeader)
	if err != nil {
		return fail("%v", err)
	}
	timestamp, err := soleHeader(r, timestampHeader)
	if err != nil {
		return fail("%v", err)
	}
	digits, ok := strings.CutPrefix(signature, signatureScheme)
	got, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return fail("%s does not have the form sha256=<hex>", signatureHeader)
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fail("%s is not a Unix time in seconds", timestampHeader)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + ":" + base64.StdEncoding.EncodeToString(body)))
	if !hmac.Equal(got, mac.Sum(nil)) {
		return fail("%s does not match the body and %s", signatureHeader, timestampHeader)
	}
	if age := time.Since(time.Unix(seconds, 0)).Abs(); age > window {
		return fail("%s is %v away from now, more than %v", timestampHeader, age.Round(time.Second), window)
	}
	return nil
}

// soleHeader returns the value of a header that must occur exactly once.
func soleHeader(r *http.Request, name string) (string, error) {
	switch values := r.Header.Values(name); len(values) {
	case 0:
		return "", fmt.Errorf("%s is missing", name)
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%s occurs %d times", name, len(values))
	}
}
