package iii

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/cronexpr"
	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/routepath"
)

// TriggerConfig is the configuration of a trigger. Its Go type determines the trigger type.
// All built-in config types implement it by value. For other trigger types, use
// [CustomTrigger].
type TriggerConfig interface {
	// TriggerType returns the ID of the trigger type, for example "http".
	TriggerType() string
}

// CustomTrigger is a trigger of a type provided by a worker.
type CustomTrigger struct {
	// Type is the ID of the trigger type.
	Type string
	// Config is any value that encodes to JSON. Nil encodes as null.
	Config any
}

// StreamJoinTrigger fires when a subscriber joins a stream. It fires for every stream, because
// the engine ignores its config.
type StreamJoinTrigger struct{ StreamJoinLeaveTriggerConfig }

// StreamLeaveTrigger fires when a subscriber leaves a stream. It fires for every stream,
// because the engine ignores its config.
type StreamLeaveTrigger struct{ StreamJoinLeaveTriggerConfig }

// TriggerType implements [TriggerConfig].
func (t CustomTrigger) TriggerType() string { return t.Type }

// TriggerType implements [TriggerConfig].
func (StreamJoinTrigger) TriggerType() string { return "stream:join" }

// TriggerType implements [TriggerConfig].
func (StreamLeaveTrigger) TriggerType() string { return "stream:leave" }

// TriggerType implements [TriggerConfig].
func (HTTPTriggerConfig) TriggerType() string { return "http" }

// TriggerType implements [TriggerConfig].
func (CronTriggerConfig) TriggerType() string { return "cron" }

// TriggerType implements [TriggerConfig].
func (QueueTriggerConfig) TriggerType() string { return "durable:subscriber" }

// TriggerType implements [TriggerConfig].
func (SubscribeTriggerConfig) TriggerType() string { return "subscribe" }

// TriggerType implements [TriggerConfig].
func (StateTriggerConfig) TriggerType() string { return "state" }

// TriggerType implements [TriggerConfig].
func (StreamTriggerConfig) TriggerType() string { return "stream" }

// TriggerType implements [TriggerConfig].
func (LogTriggerConfig) TriggerType() string { return "log" }

// TriggerType implements [TriggerConfig].
func (TraceTriggerConfig) TriggerType() string { return "trace" }

// TriggerType implements [TriggerConfig].
func (ConfigurationTriggerConfig) TriggerType() string { return "configuration" }

// TriggerType implements [TriggerConfig].
func (FunctionsAvailableTrigger) TriggerType() string { return "engine::functions-available" }

// TriggerType implements [TriggerConfig].
func (WorkersAvailableTrigger) TriggerType() string { return "engine::workers-available" }

// Trigger is a trigger registered by this worker. The zero value is not usable; use
// [Client.Trigger]. All methods are safe for concurrent use.
type Trigger struct {
	client     *Client
	id         string
	functionID string
	spec       triggerSpec
	own        bool // the target's namespace is the worker's own
	onError    func(error)
	route      string // method and path of an HTTP trigger, without parameter names
	router     bool   // the trigger belongs to a router
	implied    bool   // the trigger is a headRoute's

	claim
	refused atomic.Pointer[Error]

	// Used for triggers that are implemented as observers.
	source    triggerSource
	condition string      // function called before the handler; "" if none
	busy      atomic.Bool // the handler is running; used only if source.single is set

	// Guarded by the registry's lock.
	sent         bool      // on the current link
	former       *Function // the function for which t was held, if unregistered since
	contested    bool      // conflicts with another worker's trigger
	notifiedOver *link     // link on which t was last rejected
	adapter      *Function // called by the observer instead of t's function

	// Used for observers, and for triggers that are implemented as observers.
	observer *Observer       // nil unless created by Client.Observe
	frame    *observeFrame   // on the current link, until it is removed or rejected
	lingers  bool            // the engine may still have an observer from an earlier connection
	final    bool            // the engine has rejected the observer permanently
	removed  <-chan struct{} // closed when the engine has removed the observer
}

// ID returns the trigger's ID. It is random unless [WithTriggerID] sets it.
func (t *Trigger) ID() string { return t.id }

// Err returns an *[Error] if the trigger was rejected by the engine or by the worker that
// provides its type. The client registers the trigger again on each new connection. If another
// worker's route has the same path with different parameter names, the client retries the
// registration, as it does for a rejected function. While the trigger's function is rejected
// ([Function.Err]), the trigger is not registered, and Err wraps the function's
// *[RejectedError]. If the connected engine does not support the trigger, the error matches
// [errors.ErrUnsupported]. A nil error does not mean that the trigger will fire: it may be
// waiting for a provider of its type.
//
// Engine 0.26 and later has observers in place of triggers, so the error has an observer error
// code, for example HTTP_ROUTE_CONFLICT. If another worker's observer has the trigger's ID,
// the client also retries the registration.
func (t *Trigger) Err() error {
	if err := t.client.registry.heldError(t); err != nil {
		return err
	}
	if err := t.refused.Load(); err != nil {
		return err
	}
	return nil
}

// Unregister removes the trigger. It does not wait for the network. A second call returns an
// error.
func (t *Trigger) Unregister() error {
	if !t.client.registry.removeTrigger(t) {
		return fmt.Errorf("iii: trigger %q is not registered", t.id)
	}
	return nil
}

// TriggerOption configures a trigger. Invalid values are rejected by [Client.Trigger].
type TriggerOption func(*triggerOptions) error

type triggerOptions struct {
	id                string
	metadata          json.RawMessage
	namespace         string
	providerNamespace string
	onError           func(error)
	condition         string
	middleware        []string
}

// WithTriggerID sets the trigger's ID. All of an engine's workers share one set of trigger
// IDs. [Client.Trigger] rejects an ID that is already registered with this client. On engines
// before 0.26, a trigger with the ID of another worker's trigger replaces that trigger. Later
// engines reject the new trigger, and the client retries.
//
// By default, the ID is random. With engine 0.26 and later, the default ID for a
// [QueueTriggerConfig] stays the same across restarts: it is derived from the worker's name,
// the function's namespace and ID, and the topic.
func WithTriggerID(id string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(id) == "" {
			return errors.New("iii: WithTriggerID: blank id")
		}
		o.id = id
		return nil
	}
}

// WithTriggerMetadata sets the metadata that the function receives in [Invocation.Metadata]
// each time the trigger fires. Any value that encodes to JSON is allowed. Engines before 0.26
// do not deliver metadata for the types durable:subscriber and subscribe. Default: none.
func WithTriggerMetadata(v any) TriggerOption {
	return func(o *triggerOptions) (err error) {
		o.metadata, err = rawOf(v)
		return wrapOption("WithTriggerMetadata", err)
	}
}

// WithTriggerNamespace sets the namespace of the target function. By default, built-in
// functions are called in the engine's namespace and all others in the worker's own. The types
// log and trace always use "default".
func WithTriggerNamespace(ns string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTriggerNamespace: blank namespace")
		}
		o.namespace = ns
		return nil
	}
}

// WithTriggerProviderNamespace sets the only namespace in which the engine looks for a
// provider of the trigger type. By default, engines before 0.26 look in the worker's own
// namespace, then in "default". Later engines look only in the worker's own namespace, except
// for types that the engine itself provides.
func WithTriggerProviderNamespace(ns string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTriggerProviderNamespace: blank namespace")
		}
		o.providerNamespace = ns
		return nil
	}
}

// WithTriggerCondition sets a function that is called with the event before the trigger's
// function. If its result is exactly false, the trigger's function is not called. The response
// to an HTTP request is then a 422 with code [CodeConditionNotMet]. If the call to the
// condition fails, the function is not called either. The condition is called by the engine
// (by this client on engine 0.26 and later), or by the provider of a custom type, and is
// resolved in the namespace of the trigger's function. The option sets condition_function_id
// in the config. [Client.Trigger] rejects a blank ID and a config that contains a different
// condition. It also rejects types for which the engine ignores conditions: subscribe,
// stream:join, stream:leave, log, trace, engine::functions-available and
// engine::workers-available. Default: none.
func WithTriggerCondition(functionID string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(functionID) == "" {
			return errors.New("iii: WithTriggerCondition: blank function id")
		}
		if o.condition != "" && o.condition != functionID {
			return fmt.Errorf("iii: WithTriggerCondition: %q and %q: a trigger can have only one condition", o.condition, functionID)
		}
		o.condition = functionID
		return nil
	}
}

// WithTriggerMiddleware adds functions that the engine calls, in this order, before the
// function of an HTTP trigger. Each receives an [HTTPMiddlewareInput] and may respond to the
// request itself ([HTTPMiddlewareResult]). They run after the functions in the config's
// MiddlewareFunctionIDs, and are resolved in the namespace of the trigger's function. Engine
// 0.26 and later calls them before the trigger's condition, earlier engines after it.
// [Client.Trigger] rejects blank IDs and, for types other than http, the option itself.
// Default: none. For middleware around a handler in this process, use
// [WithFunctionMiddleware].
func WithTriggerMiddleware(functionIDs ...string) TriggerOption {
	return func(o *triggerOptions) error {
		for i, id := range functionIDs {
			if strings.TrimSpace(id) == "" {
				return fmt.Errorf("iii: WithTriggerMiddleware: argument %d is a blank function id", i)
			}
		}
		o.middleware = append(o.middleware, functionIDs...)
		return nil
	}
}

// addTo returns config with o's condition and middleware added.
func (o *triggerOptions) addTo(triggerType string, config json.RawMessage) (json.RawMessage, error) {
	if o.condition == "" && len(o.middleware) == 0 {
		return config, nil
	}
	members := map[string]json.RawMessage{}
	if string(config) != "null" {
		if err := json.Unmarshal(config, &members); err != nil {
			return nil, errors.New("WithTriggerCondition and WithTriggerMiddleware need a config that is an object")
		}
	}
	if o.condition != "" {
		engines := o.providerNamespace == "" || o.providerNamespace == defaultNamespace
		switch triggerType {
		case "subscribe", "stream:join", "stream:leave", "log", "trace", "engine::functions-available", "engine::workers-available":
			if engines {
				return nil, fmt.Errorf("WithTriggerCondition: the engine does not evaluate conditions of triggers of type %s", triggerType)
			}
		}
		if other := textMember(config, "condition_function_id"); other != "" && other != o.condition {
			return nil, fmt.Errorf("WithTriggerCondition: %q, and the config names %q: a trigger can have only one condition", o.condition, other)
		}
		var err error
		if members["condition_function_id"], err = rawOf(o.condition); err != nil {
			return nil, err
		}
	}
	if len(o.middleware) > 0 {
		if triggerType != "http" {
			return nil, fmt.Errorf("WithTriggerMiddleware: triggers of type %s do not support middleware; only http does", triggerType)
		}
		var ids []string
		if given := members["middleware_function_ids"]; given != nil {
			if err := json.Unmarshal(given, &ids); err != nil {
				return nil, fmt.Errorf("middleware_function_ids: %w", err)
			}
		}
		var err error
		if members["middleware_function_ids"], err = rawOf(append(ids, o.middleware...)); err != nil {
			return nil, err
		}
	}
	return rawOf(members)
}

// WithTriggerErrorHandler sets a function f that is called each time the trigger is rejected,
// now or on a later connection. The argument is the *[Error] that [Trigger.Err] then returns.
// While a route is retried because another worker owns its path, f is called once per
// connection. f is not called while the trigger is waiting for its target function. Calls are
// made from a single goroutine that holds no lock. Default: none.
func WithTriggerErrorHandler(f func(error)) TriggerOption {
	return func(o *triggerOptions) error { o.onError = f; return nil }
}

// Trigger registers a trigger that runs a function. The function need not exist yet and may
// belong to another worker. Trigger rejects configs that the engine would mishandle or
// silently ignore. It does not wait for the network: the registration is sent when a
// connection is established, and again on every later connection.
//
// Engine 0.26 and later has no triggers, so the client registers an observer instead. The
// function receives the same payload; the guide to engine versions lists the differences.
func (c *Client) Trigger(functionID string, cfg TriggerConfig, opts ...TriggerOption) (*Trigger, error) {
	t, err := c.newTrigger(functionID, cfg, opts)
	if err != nil {
		return nil, err
	}
	if err := c.registry.addTrigger(t); err != nil {
		return nil, err
	}
	return t, nil
}

func (c *Client) newTrigger(functionID string, cfg TriggerConfig, opts []TriggerOption) (*Trigger, error) {
	if strings.TrimSpace(functionID) == "" {
		return nil, errors.New("iii: trigger: blank function id")
	}
	fail := func(err error) (*Trigger, error) {
		return nil, public(fmt.Errorf("trigger of %s: %w", functionID, err))
	}
	cfg, err := configValue(cfg)
	if err != nil {
		return fail(err)
	}
	triggerType := cfg.TriggerType() // called once, so that the checked type is the one sent
	config, err := triggerConfig(cfg)
	if err != nil {
		return fail(err)
	}
	var o triggerOptions
	if err := applyOptions(&o, opts, callOption); err != nil {
		return fail(err)
	}
	if config, err = o.addTo(triggerType, config); err != nil {
		return fail(err)
	}
	if err := cmp.Or(checkFatal(triggerType, o.providerNamespace, config), checkRouted(triggerType, o.providerNamespace, config)); err != nil {
		return fail(err)
	}
	if o.namespace == "" {
		o.namespace = c.namespaceOf(functionID)
	}
	spec := triggerSpec{id: cmp.Or(o.id, uuid.NewString()), triggerType: triggerType, functionID: functionID, config: config,
		metadata: o.metadata, namespace: o.namespace, providerNamespace: o.providerNamespace, workerNamespace: c.cfg.namespace}
	if o.id == "" {
		spec.observerID = c.stableID(&spec)
	}
	if triggerType == (TraceTriggerConfig{}).TriggerType() {
		c.tracing.watch(functionID)
	}
	t := c.makeTrigger(spec)
	t.source, t.condition, t.onError, t.route = spec.on(), spec.conditionID(), o.onError, routeShape(triggerType, config)
	if err := checkRegistration(&t.claim); err != nil {
		return fail(err)
	}
	return t, nil
}

func (c *Client) makeTrigger(spec triggerSpec) *Trigger {
	t := &Trigger{client: c, id: spec.id, spec: spec, functionID: spec.functionID,
		own: cmp.Or(spec.namespace, defaultNamespace) == cmp.Or(c.cfg.namespace, defaultNamespace)}
	t.claim = claim{trigger: t}
	return t
}

// again returns a new trigger with t's configuration.
func (t *Trigger) again() *Trigger {
	n := t.client.makeTrigger(t.spec)
	n.source, n.condition, n.onError, n.route, n.router, n.implied = t.source, t.condition, t.onError, t.route, t.router, t.implied
	return n
}

// displaces reports whether the trigger of a [headRoute] yields to t: t serves HEAD for the
// same path, with the same names of the parameters. The engine rejects t if they differ.
func (t *Trigger) displaces(implied *Trigger) bool {
	if t.implied || t.route != implied.route || !isEngines(t.spec.providerNamespace) {
		return false
	}
	_, conflict := routepath.Compare(t.path(), implied.path())
	return !conflict
}

// path returns the path of an HTTP trigger.
func (t *Trigger) path() routepath.Pattern {
	pattern, _ := routepath.Parse(textMember(t.spec.config, "api_path")) // checked at registration
	return pattern
}

// configValue dereferences a pointer to a config, because the checks expect values.
func configValue(cfg TriggerConfig) (TriggerConfig, error) {
	if cfg == nil {
		return nil, errors.New("nil TriggerConfig")
	}
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer {
		return cfg, nil
	}
	if v.IsNil() {
		return nil, fmt.Errorf("nil %T", cfg)
	}
	if value, ok := v.Elem().Interface().(TriggerConfig); ok {
		return value, nil
	}
	return cfg, nil
}

// triggerConfig validates and encodes a config.
func triggerConfig(cfg TriggerConfig) (json.RawMessage, error) {
	var value any = cfg
	var err error
	switch cfg := cfg.(type) {
	case CustomTrigger:
		value = cfg.Config
		if strings.TrimSpace(cfg.Type) == "" {
			err = errors.New("CustomTrigger has no Type")
		}
	case StreamJoinTrigger:
		value = cfg.StreamJoinLeaveTriggerConfig
	case StreamLeaveTrigger:
		value = cfg.StreamJoinLeaveTriggerConfig
	case HTTPTriggerConfig:
		cfg.APIPath, err = routePath(string(cfg.HTTPMethod), cfg.APIPath)
		value = cfg
	case StreamTriggerConfig:
		if cfg.StreamName == "" { // it would crash the engine's task
			err = errors.New("StreamTriggerConfig has no StreamName")
		}
	case CronTriggerConfig:
		err = checkCron(cfg.Expression)
	case LogTriggerConfig:
		err = checkLogLevel(string(cfg.Level))
	case TraceTriggerConfig:
		err = checkTraceStatus(cfg.Status)
	case QueueTriggerConfig:
		err = checkTopic("QueueTriggerConfig", cfg.Topic)
	case SubscribeTriggerConfig:
		err = checkTopic("SubscribeTriggerConfig", cfg.Topic)
	case ConfigurationTriggerConfig:
		err = checkConfigurationEvents(cfg.EventTypes)
	}
	if err != nil {
		return nil, err
	}
	raw, err := rawOf(value)
	if err != nil {
		return nil, fmt.Errorf("config does not encode: %w", err)
	}
	return raw, nil
}

// checkFatal rejects configs, of any Go type, that would crash part of the engine. Some crash
// the engine's task for this connection, and the engine then never responds on it again.
// Others crash the engine's HTTP router for all workers. If the provider namespace is not the
// engine's own, the provider is a worker, and such a config may be valid for it.
func checkFatal(triggerType, providerNamespace string, config json.RawMessage) error {
	if !isEngines(providerNamespace) {
		return nil
	}
	switch triggerType {
	case "stream":
		if textMember(config, "stream_name") == "" {
			return errors.New("the config of a stream trigger has no stream_name")
		}
	case "http":
		_, err := routepath.Parse(textMember(config, "api_path"))
		return err
	}
	return nil
}

// isEngines reports whether the engine itself provides the trigger types of a namespace.
func isEngines(providerNamespace string) bool {
	return providerNamespace == "" || providerNamespace == defaultNamespace
}

// checkRouted rejects configs of routes, of any Go type, that can receive no request.
func checkRouted(triggerType, providerNamespace string, config json.RawMessage) error {
	if triggerType != "http" || !isEngines(providerNamespace) {
		return nil
	}
	method := http.MethodGet
	if text, ok := rawjson.Unquote(memberOf(config, "http_method")); ok { // the engine ignores other types
		method = text
	}
	return checkRoute(method, textMember(config, "api_path"))
}

// textMember returns the string member of an object with the given key, or "" if there is
// none. Like the engine, and unlike decoding into a struct, it compares keys exactly and uses
// the last of duplicate keys.
func textMember(object json.RawMessage, key string) (text string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(object, &members) // a value that is not an object has no members
	_ = json.Unmarshal(members[key], &text)
	return text
}

// registerTriggerFunction is the engine function that registers a trigger independently of any
// connection.
const registerTriggerFunction = "engine::register_trigger"

func checkRegisterTrigger(input json.RawMessage) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(input, &members) == nil {
		return checkFatal(textMember(input, "trigger_type"), textMember(input, "trigger_namespace"), members["config"])
	}
	// The engine also accepts an array of the object's values, in an undocumented order.
	var list []json.RawMessage
	_ = json.Unmarshal(input, &list)
	for _, item := range list {
		var text string
		if json.Unmarshal(item, &text) == nil && (text == "http" || text == "stream") {
			return fmt.Errorf("the input of a trigger of type %s must be an object, not a list", text)
		}
	}
	return nil
}

// checkTopic rejects an empty topic, which the engine accepts although the trigger would never
// fire.
func checkTopic(config, topic string) error {
	if topic == "" {
		return errors.New(config + " has no Topic")
	}
	return nil
}

// checkLogLevel rejects unknown levels. The engine compares levels exactly, so a trigger with
// an unknown level would never fire.
func checkLogLevel(level string) error {
	switch level {
	case "", "all", "trace", "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log level %q is none of all, trace, debug, info, warn, error", level)
}

func checkConfigurationEvents(types []ConfigurationEventType) error {
	for _, t := range types {
		switch t {
		case ConfigurationEventTypeRegistered, ConfigurationEventTypeUpdated, ConfigurationEventTypeDeleted:
		default:
			return fmt.Errorf("configuration event %q is none of %s, %s, %s", t,
				ConfigurationEventTypeRegistered, ConfigurationEventTypeUpdated, ConfigurationEventTypeDeleted)
		}
	}
	return nil
}

// checkTraceStatus rejects unknown statuses, because no span would match.
func checkTraceStatus(status *string) error {
	if status == nil {
		return nil
	}
	switch strings.ToLower(*status) {
	case "ok", "error", "unset":
		return nil
	}
	return fmt.Errorf("trace status %q is none of ok, error, unset", *status)
}

// checkCron rejects expressions with the wrong number of fields. Passing five fields is a
// common mistake, so the error explains which fields are needed. The engine reports all other
// mistakes.
func checkCron(expression string) error {
	if _, err := cronexpr.Parse(expression); err == nil || strings.HasPrefix(expression, "@") {
		return nil
	}
	if n := len(strings.Fields(expression)); n != 6 && n != 7 {
		return fmt.Errorf("cron expression %q needs six fields, seconds first, or seven with a year; it has %d", expression, n)
	}
	return nil
}
