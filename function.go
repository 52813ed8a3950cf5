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

// HandlerFunc serves invocations of a function. payload is the caller's payload, with the key
// _caller_worker_id that the engine adds to objects; the handler owns it. The result is
// encoded with encoding/json (a json.RawMessage is sent unchanged, nil as null). An [*Error],
// wrapped or not, keeps its code; any other error is sent as invocation_failed, and so is a
// panic, without its text.
//
// The goroutine of a handler, and those that it starts, have the profiler label
// iii.function.id (package runtime/pprof), which identifies the function in profiles.
//
// ctx ends when the connection over which the invocation arrived is lost (the engine has then
// failed the call and accepts no answer), when the client closes, and when a drain runs out of
// time. ctx can be passed to [InvocationFromContext] and [Stopping].
type HandlerFunc func(ctx context.Context, payload json.RawMessage) (any, error)

// Middleware wraps a handler. It is called once, when a function is registered. The handler
// that it returns serves invocations concurrently and must not be nil.
type Middleware func(HandlerFunc) HandlerFunc

// Function is a function registered by this worker. It is created by [Client.HandleFunc] and
// related functions; the zero value is not usable. All methods are safe for concurrent use.
type Function struct {
	client  *Client
	id      string
	spec    functionSpec
	handler HandlerFunc

	spanName string
	untraced bool          // it does not run in this process
	web      bool          // it serves HTTP requests: its results are responses
	timeout  time.Duration // of its handler; 0 means none

	metrics   *functionMetrics // nil: not measured, like every function that the package registers for its own use
	labels    context.Context  // with the profiler labels of its handler's goroutines; nil like metrics
	hooks     ObserverHooks
	remote    bool // it never runs in process
	quiet     bool // do not warn if an engine cannot host it
	recycles  bool // its handler does not retain the payload, and recycles it
	observers observerSet
	local     localStats

	claim
	refused atomic.Pointer[RejectedError]
	route   *Trigger                // registered and unregistered with the function
	head    atomic.Pointer[Trigger] // as route, for HEAD
	routes  []*Trigger              // as route, of a router

	routeOptions []TriggerOption

	// Set when the function is taken over; guarded by the registry's lock.
	owner    string    // the previous owner
	deadline time.Time // until which its triggers wait for owner's to be gone
}

// ID returns the id under which the function was registered.
func (f *Function) ID() string { return f.id }

// Err returns a *[RejectedError] while another live worker owns the function's id in this
// namespace, as the old instance does during a rolling update. This worker then does not
// serve the function, does not register its triggers, and retries until the owner leaves:
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
	for _, t := range f.ownTriggers() {
		if err := t.refused.Load(); err != nil {
			return err
		}
	}
	return nil
}

// ownTriggers returns the triggers that were registered with f.
func (f *Function) ownTriggers() (own []*Trigger) {
	for _, t := range append([]*Trigger{f.route, f.head.Load()}, f.routes...) {
		if t != nil {
			own = append(own, t)
		}
	}
	return own
}

// Unregister unregisters the function and the HTTP triggers that were registered with it.
// Other triggers of the function remain: those that the engine already has then fail, and
// those that were held because the function was rejected stay held until this worker registers
// a function with that id again. Unregister waits neither for the network nor for running
// handlers. Calling it twice returns an error.
func (f *Function) Unregister() error {
	for _, t := range f.ownTriggers() {
		_ = t.Unregister() // it may have been unregistered alone
	}
	if !f.client.registry.removeFunction(f) {
		return fmt.Errorf("iii: function %q is not registered", f.id)
	}
	return nil
}

// FunctionOption configures a function when it is registered. With an invalid option, the
// registration fails.
type FunctionOption func(*functionConfig) error

type functionConfig struct {
	description *string
	metadata    json.RawMessage
	request     json.RawMessage
	response    json.RawMessage
	schemas     bool // set by the user, even if both are nil

	args           json.RawMessage
	private        bool
	unobservable   bool
	remote         bool
	hooks          ObserverHooks
	middleware     []Middleware
	timeout        time.Duration
	triggerOptions []TriggerOption
	validates      bool // validates its input against the request schema
	builtin        bool // overriding one of the engine's ids is intended
	unchecked      bool // the engine prescribes the form of the id
}

// WithFunctionDescription sets the text that describes the function in listings. Default:
// none.
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

// WithSchemas sets the JSON Schemas of payload and result that listings show: a
// json.RawMessage, any value that marshals to a schema, or nil for none. By default, typed
// handlers advertise inferred schemas ([Handle]).
func WithSchemas(request, response any) FunctionOption {
	return func(c *functionConfig) (err error) {
		c.schemas = true
		if c.request, err = schemaValue(request); err == nil {
			c.response, err = schemaValue(response)
		}
		return wrapOption("WithSchemas", err)
	}
}

// WithFunctionMiddleware wraps the handler of one function. The first middleware is outermost;
// all of them run inside those of [WithMiddleware]. Repeated options accumulate; the
// middleware of later options runs inside that of earlier ones. With a nil middleware, or one
// that returns nil, the registration fails. Default: none.
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

// WithHandlerTimeout limits how long the handler of a function, including its middleware, may
// run. Time that an invocation spends waiting for a free place does not count. The limit must
// be positive. Default: no limit.
//
// When the limit expires, the caller receives the code [CodeHandlerTimeout], or the client of
// a route a 504, and the handler's context ends with context.DeadlineExceeded. The handler
// itself cannot be stopped: until it returns, its goroutine counts towards
// [WithMaxConcurrency], ClientStats.HandlersRunning and the drain, and its result is
// discarded. A streamed response of [Client.MountHTTP] whose header has been sent cannot
// become a 504; it is cut off.
func WithHandlerTimeout(d time.Duration) FunctionOption {
	return func(c *functionConfig) error {
		if d <= 0 {
			return fmt.Errorf("iii: WithHandlerTimeout: %v is not positive", d)
		}
		c.timeout = d
		return nil
	}
}

// WithTriggerOptions sets options of the triggers that [HandleHTTP], [Client.MountHTTP] and
// [Client.MountRouter] register together with a function. Repeated options accumulate. The
// registration fails if the function has no such trigger. [WithTriggerNamespace] must not name
// a namespace other than the function's. The HEAD trigger that a mounted GET implies has the
// same options; its id is that of [WithTriggerID] with the suffix ":head".
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

// WithBuiltinOverride allows registering a function under an id of the engine's own: one that
// begins with state::, stream::, configuration::, iii:: or engine::, or is publish,
// bridge.invoke or bridge.invoke_async. By default, registering such an id is an error in
// every namespace.
//
// In the namespace "default", the function replaces the engine's own for all workers, which
// are not notified. When the registering worker leaves, the engine removes the function. Its
// own function does not return until the engine's module is loaded again, for example by a
// restart; until then, calls fail with [ErrFunctionNotFound]. In other namespaces, the engine
// rejects ids that begin with engine::, and the others can only be called with [InNamespace].
// [Client.HandleStream] does not need this option.
func WithBuiltinOverride() FunctionOption {
	return func(c *functionConfig) error { c.builtin = true; return nil }
}

// prescribedID is an option for functions whose ids this package itself chooses.
func prescribedID(c *functionConfig) error { c.builtin, c.unchecked = true, true; return nil }

// checkID rejects ids that no function should have.
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

// rawOf encodes a user's value. The result has no leading space.
func rawOf(v any) (json.RawMessage, error) {
	b := newBuffer()
	defer b.free()
	if err := b.value(v); err != nil {
		return nil, err
	}
	return json.RawMessage(strings.TrimSpace(b.String())), nil
}

// checkRegistration validates the message that registers c. The engine would end every
// connection because of a message that is too large, and would drop a message that it cannot
// parse. The check applies to all dialects: they differ only in a few keys, which affect
// neither.
func checkRegistration(c *claim) error {
	var d dialect = triggerDialect{observe: true}
	if c.function != nil {
		d = newestDialect
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
// "service::name". HandleFunc rejects spaces, control and invisible characters, and the ids of
// the engine's own functions ([WithBuiltinOverride]). It does not wait for the network: the
// client sends the registration as soon as it is connected, and again on every later
// connection.
func (c *Client) HandleFunc(id string, h HandlerFunc, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	return c.register(id, handlerSpec{run: h}, opts)
}

// Handle registers a function with a typed handler: the payload is decoded into In, and the
// result is encoded from Out. In receives the caller's payload without the key
// _caller_worker_id that the engine adds, even if In is a map or a json.RawMessage; only a
// struct with a field of that name receives the key. If a payload cannot be decoded, the
// caller receives the code invalid_request and the path of the invalid value, for example
// lines[2].price. See [Client.HandleFunc].
//
// The function advertises JSON Schemas of the JSON that encoding/json decodes into In and
// encodes from Out, unless [WithSchemas] replaces them; with [WithInputValidation], the worker
// enforces the schema of In. A type may describe itself with a method JSONSchema that has no
// parameters: it returns a schema as json.RawMessage, []byte, string, or any value that
// encodes to one, and optionally an error; it is called on a zero value. A type that encodes
// itself and has no such method is described as any value. A type that cannot be described has
// no schema, which is not an error. If In or Out contains a channel, a function or another
// type without a JSON encoding, at any depth, Handle returns an error.
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

// HandleEvent is [Handle] for a handler without a result, for example of events: the function
// returns null.
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
	notices := noticesCaller(t)
	recycles := !notices && c.cfg.json == nil && t.Kind() == reflect.Struct && jsoncodec.Independent(t)
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

// HandleHTTPInvoked registers a function that the engine runs by calling a URL; this worker
// only owns it. Auth names environment variables of the engine, not secrets. If the engine
// rejects the URL, it does not report that; the function is then missing from the engine.
func (c *Client) HandleHTTPInvoked(id string, cfg HTTPInvocationConfig, opts ...FunctionOption) (*Function, error) {
	// The engine does not report a rejected address. Errors omit the address, because it may
	// contain a secret.
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

// checkHTTPAuth rejects names that are not valid for an environment variable or a header: the
// engine would silently drop the registration.
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

// handlerSpec describes a function, depending on how it is registered.
type handlerSpec struct {
	run        HandlerFunc
	invocation *HTTPInvocationConfig
	types      functionSchemas

	web      bool // it serves HTTP requests
	recycles bool // run does not retain the payload, and calls recycle

	// validate, if set, receives the validator of the input when validation is requested; the
	// handler then applies the validator itself. If validate is nil, the whole payload is
	// validated.
	validate   func(*inputSchema)
	body       reflect.Type // of the input that validate validates
	unreadBody bool         // the package does not read the input, so it cannot be validated
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
		f.handler = c.answerErrors(id, f.handler)
	}
	// Middleware may retain the payload; a handler may run on after its time limit.
	f.recycles = spec.recycles && len(cfg.middleware)+len(c.cfg.middleware) == 0 && cfg.timeout == 0
	f.claim = claim{function: f}
	f.spec = functionSpec{id: id, description: cfg.description, metadata: cfg.metadata, request: cfg.request, response: cfg.response, invocation: spec.invocation,
		args: cfg.args, private: cfg.private, unobservable: cfg.unobservable,
		needsHooks: cfg.args != nil || cfg.private || cfg.unobservable || cfg.hooks.answer()}
	if err := checkRegistration(&f.claim); err != nil {
		return fail(err)
	}
	return f, cfg, nil
}

// checkFor rejects options that have no effect on the function.
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

// Invocation describes the invocation that a handler serves.
type Invocation struct {
	// ID is the id of the invocation, chosen by the caller, or by the engine for calls without
	// one; "" on engines that send no id for those.
	ID string
	// FunctionID is the function's id as registered by this worker.
	FunctionID string
	// CallerWorkerID is the id of the calling worker. For a custom trigger, that is the
	// provider of the trigger type; for a call through an observer, the host of the observed
	// function. It is "" for other triggers and activations, for the engine's own calls, and,
	// on engines before 0.25, for payloads that are not objects.
	CallerWorkerID string
	// Metadata is the metadata of the caller, the trigger or the observer, or nil if there is
	// none.
	Metadata json.RawMessage
	// Caller identifies the caller, on engines since 0.25; nil if it is unknown. For an
	// activation, it is the engine, with the worker name "iii-engine".
	Caller *Caller
	// Activation names the observer that the invocation serves, or is nil if it serves none.
	Activation *Activation
	// ObserveDepth is the length of the chain of activations, each caused by the one before,
	// that led to the invocation.
	ObserveDepth uint32
}

// invocationContext is the context of one handler.
type invocationContext struct {
	context.Context
	client *Client
	in     *incoming

	once   sync.Once
	caller context.Context // with the caller's trace and baggage

	limit *handlerLimit // nil without WithHandlerTimeout
}

// errHandlerTimeout is the cause of the context of a handler that exceeded its limit.
var errHandlerTimeout = errors.New("iii: WithHandlerTimeout has passed")

// handlerLimit answers in place of a handler that exceeds its time limit. The handler and the
// handlerLimit compete to claim the answer; the one that claims it first sends it.
type handlerLimit struct {
	ctx     context.Context // ends when the limit expires, and with the invocation
	cancel  context.CancelFunc
	unwatch func() bool
	watched chan struct{} // closed when the watch has ended, if unwatch comes too late
	answer  func()        // sends the answer in place of the handler
	claimed atomic.Bool

	returned, late bool // state of the handler, used on its goroutine

	mu     sync.Mutex
	stream *responseWriter // of a mounted handler; it knows whether another answer is still possible
}

// limitHandler sets the time limit for the handler of an invocation, which must not have
// started yet. There is no limit if d is not positive.
func (c *invocationContext) limitHandler(d time.Duration) {
	if d > 0 {
		c.limit = &handlerLimit{watched: make(chan struct{})}
		c.limit.ctx, c.limit.cancel = context.WithTimeoutCause(c.Context, d, errHandlerTimeout)
		c.Context = c.limit.ctx
	}
}

// watch arranges for answer to be called when the time limit expires, unless the handler
// claims the answer first. It is called when the handler starts.
func (l *handlerLimit) watch(answer func()) {
	l.answer = answer
	l.unwatch = context.AfterFunc(l.ctx, func() {
		defer close(l.watched)
		l.exceeded()
	})
}

// exceeded answers the invocation if the time limit has expired and nobody has claimed the
// answer.
func (l *handlerLimit) exceeded() {
	if context.Cause(l.ctx) == errHandlerTimeout && l.claimed.CompareAndSwap(false, true) {
		l.answer()
	}
}

// handlerReturned reports whether the handler returned after the limit had answered.
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

// timeoutOutcome returns the answer to an invocation whose handler exceeded its limit: the
// failure if failed is set, and the result otherwise. In both cases, failure is recorded as
// the error of the handler.
func (c *invocationContext) timeoutOutcome() (result any, failure *Error, failed bool) {
	f := c.in.function
	failure = &Error{Code: CodeHandlerTimeout, Message: fmt.Sprintf("the handler has not returned within %v", f.timeout)}
	c.limit.mu.Lock()
	stream := c.limit.stream
	c.limit.mu.Unlock()
	switch begun := stream != nil && stream.timeOut(failure); {
	case begun:
		return nil, failure, false
	case f.web:
		return errorResponse(http.StatusGatewayTimeout, failure.Code, failure.Message), failure, false
	}
	return nil, failure, true
}

// answersOverStream marks an invocation as answered over a stream.
func answersOverStream(ctx context.Context, w *responseWriter) {
	c, ok := ctx.Value(invocationKey{}).(*invocationContext)
	if !ok || c.limit == nil {
		return
	}
	c.limit.mu.Lock()
	defer c.limit.mu.Unlock()
	c.limit.stream = w
}

type invocationKey struct{}

// Value implements context.Context. OpenTelemetry finds the caller's trace and baggage here;
// they are parsed on first use, because most handlers never use them. Package runtime/pprof
// finds the labels of the handler's goroutine here, and stores them next to its own.
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

// InvocationFromContext returns the invocation that a handler serves. Outside of handlers, ok
// is false.
func InvocationFromContext(ctx context.Context) (inv Invocation, ok bool) {
	c, ok := ctx.Value(invocationKey{}).(*invocationContext)
	if !ok {
		return Invocation{}, false
	}
	inv = Invocation{ID: string(c.in.id), FunctionID: c.in.function.id, CallerWorkerID: c.in.callerWorkerID(), Metadata: c.in.metadata, ObserveDepth: c.in.depth}
	inv.Caller = optional[Caller](c.in.callerJSON(c.client))
	inv.Activation = optional[Activation](c.in.activation)
	if inv.CallerWorkerID == "" && inv.Caller != nil && !c.in.isEngines() { // the payload has no such key
		inv.CallerWorkerID = inv.Caller.WorkerID
	}
	return inv, true
}

// optional decodes an optional value. It returns nil if the value is absent or cannot be
// decoded.
func optional[T any](raw json.RawMessage) *T {
	v := new(T)
	if raw == nil || json.Unmarshal(raw, v) != nil {
		return nil
	}
	return v
}

// callerWorkerID returns the id of the calling worker if the payload contains it. The payload
// of an activation does not contain the id of its caller.
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

// isEngines reports whether the invocation is for a trigger of one of the engine's own types,
// which a worker may provide.
func (in *incoming) isEngines() bool { return in.trigger != nil && in.trigger.source.functionID != "" }

// callerOf returns the value of the key that the engine adds to object payloads.
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

// Stopping returns, in a handler, a channel that is closed when the client begins to drain,
// before ctx is canceled, so that a long job can end early. Outside of handlers, it returns
// nil, a channel that blocks forever.
func Stopping(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(invocationKey{}).(*invocationContext); ok {
		return c.client.stopping
	}
	return nil
}

// ErrSignature matches every error of [VerifySignature].
var ErrSignature = errors.New("iii: request is not signed by the engine")

// The headers of the engine's requests to an HTTP-invoked function with
// [HTTPAuthHMAC].
const (
	signatureHeader = "X-Iii-Signature"
	timestampHeader = "X-Iii-Timestamp"
	signatureScheme = "sha256="
)

// VerifySignature checks that a request to an HTTP-invoked function comes from the engine. The
// request must be signed with secret, the value of the environment variable that
// [HTTPAuthHMAC] names, and the time of the signature must be at most window in the past or in
// the future. body is the complete body, already read from r.Body. The signature covers the
// body and the time, but not the method, the URL or other headers; within window, an
// eavesdropper can replay a request. The comparison takes constant time.
//
// Every error matches [ErrSignature] and states the reason without revealing the secret. An
// empty secret or a window that is not positive is an error, because it would provide no
// protection.
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

// soleHeader returns a header that must occur exactly once.
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
