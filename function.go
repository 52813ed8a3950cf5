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

	"github.com/iii-go/iii/internal/rawjson"
)

// HandlerFunc serves invocations of a function. payload is what the caller sent,
// with the key _caller_worker_id that the engine adds to objects; it is the
// handler's own. The result is encoded with encoding/json (a json.RawMessage is
// sent as it is, nil as null). An [*Error], wrapped or not, keeps its code; any
// other error is sent as invocation_failed; a panic too, without its text.
//
// The goroutine of a handler, and those that it starts, have the profiler label
// iii.function.id (package runtime/pprof), by which profiles tell functions apart.
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
	untraced bool          // it is not run here
	web      bool          // it serves HTTP requests: its results are responses
	timeout  time.Duration // of its handler; 0 is none

	metrics   *functionMetrics // nil: not measured, as no function is that the package makes for itself
	labels    context.Context  // with the profiler labels of its handler's goroutines; nil likewise
	hooks     ObserverHooks
	remote    bool // it is never run in process
	quiet     bool // it is no fault if an engine cannot host it
	observers observerSet
	local     localStats

	claim
	refused atomic.Pointer[RejectedError]
	route   *Trigger                // registered with the function and taken back with it
	head    atomic.Pointer[Trigger] // likewise, for HEAD
	routes  []*Trigger              // likewise, of a router

	routeOptions []TriggerOption

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
	for _, t := range f.ownTriggers() {
		if err := t.refused.Load(); err != nil {
			return err
		}
	}
	return nil
}

// ownTriggers are the triggers that were registered with f.
func (f *Function) ownTriggers() (own []*Trigger) {
	for _, t := range append([]*Trigger{f.route, f.head.Load()}, f.routes...) {
		if t != nil {
			own = append(own, t)
		}
	}
	return own
}

// Unregister takes the function back, and the HTTP triggers that were registered with it.
// Other triggers of the function stay: those that the engine has then fail, and those that
// were held because the function is refused stay held until this worker registers a function
// of that id again. Unregister waits neither for the network nor for running handlers.
// Calling it twice is an error.
func (f *Function) Unregister() error {
	for _, t := range f.ownTriggers() {
		_ = t.Unregister() // it may have been taken back alone
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

	args           json.RawMessage
	private        bool
	unobservable   bool
	remote         bool
	hooks          ObserverHooks
	middleware     []Middleware
	timeout        time.Duration
	triggerOptions []TriggerOption
	validates      bool // what comes in, by the request schema
	builtin        bool // an id of the engine's is meant
	unchecked      bool // the id has a form that the engine prescribes
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

// WithFunctionMiddleware wraps the handler of one function; the first is outermost, and all
// are inside those of [WithMiddleware]. Given again, it adds to those before, inside of them.
// Default none. A nil one, or one that returns nil, is an error of the registration.
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

// WithHandlerTimeout bounds how long the handler of a function, with its middleware, may run
// from when it starts; the wait for its turn does not count. It must be positive. Default: no
// limit.
//
// When the time is up, the caller receives code [CodeHandlerTimeout], or a client of a route a
// 504, and the context of the handler ends with context.DeadlineExceeded. The handler cannot be
// stopped otherwise: its goroutine counts towards [WithMaxConcurrency], ClientStats.HandlersRunning
// and the drain until it returns, and what it returns then is discarded. A streamed response of
// [Client.MountHTTP] whose head is out cannot become a 504: it is cut off.
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
// [Client.MountRouter] register with a function. Given again, it adds to those before. For a
// function without such a trigger it is an error of the registration. [WithTriggerNamespace]
// cannot name another namespace than the function's. The trigger for HEAD that a mounted GET
// implies has the same options; its id is that of [WithTriggerID] with ":head" behind it.
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

// WithBuiltinOverride allows to register a function under an id of the engine's: one that
// begins with state::, stream::, configuration::, iii:: or engine::, or is publish,
// bridge.invoke or bridge.invoke_async. By default such an id is an error of the registration,
// in every namespace.
//
// In the namespace "default" the function takes the place of the engine's own for all workers,
// without any notice to them. When the worker that has registered it leaves, the engine removes
// the function: its own does not come back before the engine's module is loaded again, as by a
// restart, and calls fail with [ErrFunctionNotFound] until then. In another namespace the engine
// refuses ids that begin with engine::; the rest are called with [InNamespace] alone.
// [Client.HandleStream] needs no such option.
func WithBuiltinOverride() FunctionOption {
	return func(c *functionConfig) error { c.builtin = true; return nil }
}

// prescribedID is for functions whose id the package itself chooses.
func prescribedID(c *functionConfig) error { c.builtin, c.unchecked = true, true; return nil }

// checkID rejects an id that nobody should register.
func (c *functionConfig) checkID(id string) error {
	switch {
	case c.unchecked:
	case !utf8.ValidString(id):
		return errors.New("the id is no UTF-8")
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
	if b.Len() >= messageTooLarge {
		return fmt.Errorf("registration: %w: %d bytes", ErrMessageTooLarge, b.Len())
	}
	if err := rawjson.CheckForEngine(b.Bytes(), engineDepth); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}

// HandleFunc registers a function with an untyped handler. ids are by custom
// "service::name"; spaces, control and invisible characters and the ids of the engine's own
// functions are rejected ([WithBuiltinOverride]). It does not wait for the network: before a connection is
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
// encodes Out as, unless [WithSchemas] gives others; [WithInputValidation] makes the worker
// enforce the one of In. A type with a method JSONSchema
// without arguments describes itself: the method returns a schema as json.RawMessage,
// []byte or string, or any value that encodes to one, and an error or not; it is called on
// a zero value. A type that encodes itself and has no such method may be anything. A type
// that cannot be described has no schema, which is no error. In or Out with a channel, a
// function or another type that has no JSON encoding, at whatever depth, is an error.
func Handle[In, Out any](c *Client, id string, h func(context.Context, In) (Out, error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	types := functionSchemas{reflect.TypeFor[In](), reflect.TypeFor[Out]()}
	if err := types.check(); err != nil {
		return nil, public(fmt.Errorf("function %q: %w", id, err))
	}
	return c.register(id, typedHandler(c, h), nil, types, opts)
}

// HandleEvent is [Handle] for a handler without a result, as events need one: the function
// returns null.
func HandleEvent[In any](c *Client, id string, h func(context.Context, In) error, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: function %q: nil handler", id)
	}
	types := functionSchemas{in: reflect.TypeFor[In]()}
	if err := types.check(); err != nil {
		return nil, public(fmt.Errorf("function %q: %w", id, err))
	}
	handler := typedHandler(c, func(ctx context.Context, in In) (json.RawMessage, error) { return nil, h(ctx, in) })
	return c.register(id, handler, nil, types, opts)
}

func typedHandler[In, Out any](c *Client, h func(context.Context, In) (Out, error)) HandlerFunc {
	notices := noticesCaller(reflect.TypeFor[In]())
	return func(ctx context.Context, payload json.RawMessage) (any, error) {
		if notices {
			payload = withoutCaller(payload)
		}
		var in In
		if err := c.cfg.decodePayload(payload, &in); err != nil {
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
		return nil, public(fmt.Errorf("function %q: HTTPInvocationConfig: %w", id, err))
	}
	notInvokable := func(context.Context, json.RawMessage) (any, error) {
		return nil, &Error{Code: CodeFunctionNotInvokable, Message: "the function is called over HTTP and has no handler here"}
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
	f, _, err := c.newFunction(id, handlerSpec{run: h, invocation: invocation, types: types}, opts)
	if err != nil {
		return nil, err
	}
	if err := c.registry.addFunction(f); err != nil {
		return nil, err
	}
	return f, nil
}

// handlerSpec is what a way of registering functions knows of one.
type handlerSpec struct {
	run        HandlerFunc
	invocation *HTTPInvocationConfig
	types      functionSchemas

	web bool // it serves HTTP requests

	// validate gets the validator of what comes in, if it is wanted, and applies it itself.
	// Without it the whole payload is validated.
	validate   func(*inputSchema)
	body       reflect.Type // of what is validated then
	unreadBody bool         // the package does not read what comes in, so that it cannot be validated
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

// Invocation tells a handler about the invocation that it serves.
type Invocation struct {
	// ID is the id that the caller chose, or the engine for calls without one;
	// "" with engines that send none for those.
	ID string
	// FunctionID is the function's id as this worker registered it.
	FunctionID string
	// CallerWorkerID is the calling worker, which for a custom trigger is the provider of its
	// type, and for a call through an observer the host of what it observes; "" for other
	// triggers and activations, for the engine's own calls, and, on engines before 0.25, where
	// the payload is no object.
	CallerWorkerID string
	// Metadata came beside the payload: the caller's, the trigger's, or the observer's. Nil if
	// there is none.
	Metadata json.RawMessage
	// Caller is who made the call, on engines since 0.25; nil if that is not known. For an
	// activation it is the engine, with the worker name "iii-engine".
	Caller *Caller
	// Activation names the observer that the invocation serves; nil if it serves none.
	Activation *Activation
	// ObserveDepth is the number of activations, one because of the other, that led to the
	// invocation.
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

// errHandlerTimeout is the cause with which the context of a handler ends that ran too long.
var errHandlerTimeout = errors.New("iii: WithHandlerTimeout has passed")

// handlerLimit answers in place of a handler that runs too long. Whoever claims the answer,
// the handler or the limit, gives it.
type handlerLimit struct {
	ctx     context.Context // ends when the time is up, and with the invocation
	cancel  context.CancelFunc
	unwatch func() bool
	watched chan struct{} // closed when the watch has ended, if unwatch comes too late
	answer  func()        // in place of the handler
	claimed atomic.Bool

	returned, late bool // of the handler, on its goroutine

	mu     sync.Mutex
	stream *responseWriter // of a mounted handler: it knows whether there can be another answer
}

// limitHandler bounds the handler of an invocation that has not begun.
func (c *invocationContext) limitHandler(d time.Duration) {
	if d > 0 {
		c.limit = &handlerLimit{watched: make(chan struct{})}
		c.limit.ctx, c.limit.cancel = context.WithTimeoutCause(c.Context, d, errHandlerTimeout)
		c.Context = c.limit.ctx
	}
}

// watch begins when the handler does.
func (l *handlerLimit) watch(answer func()) {
	l.answer = answer
	l.unwatch = context.AfterFunc(l.ctx, func() {
		defer close(l.watched)
		l.exceeded()
	})
}

// exceeded answers if the time is up and nobody has answered.
func (l *handlerLimit) exceeded() {
	if context.Cause(l.ctx) == errHandlerTimeout && l.claimed.CompareAndSwap(false, true) {
		l.answer()
	}
}

// handlerReturned reports whether the handler was too late with its answer.
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

// timeoutOutcome is what an invocation is answered with whose handler has run for too long: a
// result, or the failure if failed is set. The failure is that of the handler in either case.
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

// answersOverStream tells the limit of an invocation that its answer goes over a stream.
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

// Value implements context.Context. OpenTelemetry finds the caller's trace and
// baggage here; they are read when first asked for, for most handlers never ask. So does
// package pprof find the labels of the handler's goroutine, and keeps them beside its own.
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

// InvocationFromContext describes the invocation that a handler serves; ok is
// false outside of handlers.
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

// optional decodes what is not needed; nil if it does not decode.
func optional[T any](raw json.RawMessage) *T {
	v := new(T)
	if raw == nil || json.Unmarshal(raw, v) != nil {
		return nil
	}
	return v
}

// callerWorkerID is the worker that has made the call, as far as its payload tells. That of an
// activation is not the caller's.
func (in *incoming) callerWorkerID() string {
	switch {
	case in.local:
		return in.function.client.WorkerID()
	case in.activation != nil:
		return ""
	}
	return callerOf(in.data)
}

// isEngines reports whether the invocation is for a trigger of one of the engine's own types,
// which may be a worker's.
func (in *incoming) isEngines() bool { return in.trigger != nil && in.trigger.source.functionID != "" }

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

// ErrSignature matches every error of [VerifySignature].
var ErrSignature = errors.New("iii: request is not signed by the engine")

// The headers of the engine's requests to an HTTP-invoked function with
// [HTTPAuthHMAC].
const (
	signatureHeader = "X-Iii-Signature"
	timestampHeader = "X-Iii-Timestamp"
	signatureScheme = "sha256="
)

// VerifySignature checks that a request to an HTTP-invoked function comes from
// the engine. The request must be signed with secret, the value of the variable
// that [HTTPAuthHMAC] names, and the time of the signature must be at most window
// in the past or in the future. body is the whole body, already read from r.Body.
// The signature covers the body and the time, but not the method, the URL or
// other headers; within window, an eavesdropper can replay a request. The
// comparison takes constant time.
//
// Every error matches [ErrSignature] and states the reason without revealing the
// secret. An empty secret or a window that is not positive is an error, because
// it would not protect.
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
