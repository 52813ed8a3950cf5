package iii

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/cronexpr"
	"github.com/iii-go/iii/internal/routepath"
)

// TriggerConfig is the configuration of a trigger; its Go type determines the trigger type. All
// built-in config types implement it, by value. For any other trigger type, use
// [CustomTrigger].
type TriggerConfig interface {
	// TriggerType returns the id of the trigger type, for example "http".
	TriggerType() string
}

// CustomTrigger is a trigger of a type that a worker provides.
type CustomTrigger struct {
	// Type is the trigger type's id.
	Type string
	// Config is any value that encodes as JSON; nil encodes as null.
	Config any
}

// StreamJoinTrigger fires when a subscriber joins a stream. The engine ignores its config, so
// it fires for every stream.
type StreamJoinTrigger struct{ StreamJoinLeaveTriggerConfig }

// StreamLeaveTrigger fires when a subscriber leaves a stream; see
// [StreamJoinTrigger].
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

// Trigger is a trigger that this worker has registered. The zero value is not usable; use
// [Client.Trigger]. All methods are safe for concurrent use.
type Trigger struct {
	client     *Client
	id         string
	functionID string
	spec       triggerSpec
	own        bool // a function with this id, if registered here, belongs to this worker
	onError    func(error)
	route      string // method and path of an HTTP trigger, without parameter names
	router     bool   // the trigger belongs to a router

	claim
	refused atomic.Pointer[Error]

	// For a trigger that the engine implements as an observer.
	source    triggerSource
	condition string      // function that is called before the handler runs; "" if none
	busy      atomic.Bool // the handler is running and the source is single

	// Guarded by the lock of the registry.
	sent         bool      // on the current link
	former       *Function // the owner it was held for, if unregistered since
	contested    bool      // a trigger of another worker conflicts with it
	notifiedOver *link     // link on which it was last rejected
	adapter      *Function // called by its observer in place of its own function

	// For observers, and for triggers that are observers.
	observer *Observer       // nil for a trigger of the program
	frame    *observeFrame   // on the current link, until it is removed or rejected
	lingers  bool            // the engine may still have the observer of an earlier connection
	final    bool            // the engine has rejected the observer
	left     <-chan struct{} // closed when the engine has released it
}

// ID returns the trigger's id, which is random unless [WithTriggerID] has set it.
func (t *Trigger) ID() string { return t.id }

// Err returns an *[Error] once the engine, or the worker that provides the type, has rejected
// the trigger. The client registers the trigger again on each new connection. A route that is
// rejected because another worker holds its path with other parameter names is retried like a
// rejected function. While the trigger's function is rejected ([Function.Err]), the trigger is
// not registered, and Err wraps that *[RejectedError]. If the connected engine does not
// support the trigger, the error matches [errors.ErrUnsupported]. A nil error does not mean
// that the trigger fires: a trigger whose type has no provider waits for one.
//
// Engines since 0.26 have observers in place of triggers; their error codes are those of
// observers, for example HTTP_ROUTE_CONFLICT. If another worker's observer has the trigger's
// id, the client retries the registration as well.
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

// TriggerOption configures a trigger. [Client.Trigger] rejects invalid options.
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

// WithTriggerID sets the trigger's id. Ids are shared by all workers of the engine: registering
// an existing id replaces the trigger. Engines since 0.26 instead reject an id that another
// worker has, and the client retries. Default: random, except that on engines since 0.26 a
// [QueueTriggerConfig] gets an id that survives restarts, derived from the worker's name, the
// function's namespace and id, and the topic.
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
// each time the trigger fires. It may be any value that encodes as JSON. Engines before 0.26
// do not deliver it for the types durable:subscriber and subscribe.
func WithTriggerMetadata(v any) TriggerOption {
	return func(o *triggerOptions) (err error) {
		o.metadata, err = rawOf(v)
		return wrapOption("WithTriggerMetadata", err)
	}
}

// WithTriggerNamespace sets the namespace of the target function. Default: the worker's own, or
// the engine's for its built-in functions. The types log and trace always use "default".
func WithTriggerNamespace(ns string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTriggerNamespace: blank namespace")
		}
		o.namespace = ns
		return nil
	}
}

// WithTriggerProviderNamespace sets the only namespace in which the engine looks for the
// provider of the trigger type. Default: the worker's own, then "default"; on engines since
// 0.26, only the worker's own for types that the engine does not provide.
func WithTriggerProviderNamespace(ns string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTriggerProviderNamespace: blank namespace")
		}
		o.providerNamespace = ns
		return nil
	}
}

// WithTriggerCondition sets a function that the engine, or the provider of a custom type, calls
// with the event before it runs the trigger's function: if the result is exactly false, the
// function does not run. The condition is resolved in the namespace of the trigger's function.
// The option sets condition_function_id of the config. [Client.Trigger] rejects a config that
// names another condition, a blank id, and the types whose conditions the engine ignores:
// subscribe, stream:join, stream:leave, log, trace, engine::functions-available and
// engine::workers-available. Default: none. If the condition of a route is false, the response
// is a 422 with code [CodeConditionNotMet].
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
// function of an HTTP trigger. Each receives an [HTTPMiddlewareInput] and may answer the
// request itself ([HTTPMiddlewareResult]). They are resolved in the namespace of the trigger's
// function, run after its condition, and follow those of the config's MiddlewareFunctionIDs.
// [Client.Trigger] rejects the option for types other than http, and a blank id. Default: none.
// For middleware around a handler in this process, use [WithFunctionMiddleware].
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

// addTo returns config with the condition and the middleware of o added.
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

// WithTriggerErrorHandler sets a function that is called each time the trigger is rejected, now
// or on a later connection, with the *[Error] that [Trigger.Err] then returns. While a route is
// retried because another worker holds its path, the function is called once per connection. It
// is not called while the trigger waits for its function. Calls come from one goroutine that
// holds no lock. Default: none.
func WithTriggerErrorHandler(f func(error)) TriggerOption {
	return func(o *triggerOptions) error { o.onError = f; return nil }
}

// Trigger binds a function to a trigger. The function need not exist yet and may belong to
// another worker. Trigger rejects configs that the engine would mishandle or silently ignore.
// It does not wait for the network: the registration is sent when a connection is established,
// and again on every later connection.
//
// Engines since 0.26 have no triggers. There the trigger is an observer, and its function
// receives the same payload; the guide to engine versions lists the differences.
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
	if err := checkFatal(triggerType, o.providerNamespace, config); err != nil {
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

// checkFatal rejects configs, of any Go type, that would crash a part of the engine: either
// its task for this connection, after which the engine would never answer again on it, or its
// HTTP router for all workers. If the provider namespace is not the engine's own, the provider
// is a worker, for which such a config may be valid.
func checkFatal(triggerType, providerNamespace string, config json.RawMessage) error {
	if providerNamespace != "" && providerNamespace != defaultNamespace {
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

// textMember returns the member of an object with the given key, or "" if it is not a string.
// Like the engine, and unlike decoding into a struct, it compares keys exactly and takes the
// last of duplicate keys.
func textMember(object json.RawMessage, key string) (text string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(object, &members) // a value that is not an object has no members
	_ = json.Unmarshal(members[key], &text)
	return text
}

// registerTriggerFunction registers a trigger that outlives its caller.
const registerTriggerFunction = "engine::register_trigger"

// checkRegisterTrigger applies checkFatal to the input of engine::register_trigger.
func checkRegisterTrigger(input json.RawMessage) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(input, &members) == nil {
		return checkFatal(textMember(input, "trigger_type"), textMember(input, "trigger_namespace"), members["config"])
	}
	// The engine also accepts a list of the members in place of the object, in an undocumented
	// order.
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

// checkTopic rejects a config that the engine accepts but that never fires.
func checkTopic(config, topic string) error {
	if topic == "" {
		return errors.New(config + " has no Topic")
	}
	return nil
}

// checkLogLevel rejects a level that no record has: the engine compares levels exactly.
func checkLogLevel(level string) error {
	switch level {
	case "", "all", "trace", "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log level %q is none of all, trace, debug, info, warn, error", level)
}

// checkConfigurationEvents rejects event types that do not exist.
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

// checkTraceStatus rejects a status that no span has.
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

// checkCron rejects expressions with five fields, the usual mistake, and explains it. The
// engine validates the rest.
func checkCron(expression string) error {
	if _, err := cronexpr.Parse(expression); err == nil || strings.HasPrefix(expression, "@") {
		return nil
	}
	if n := len(strings.Fields(expression)); n != 6 && n != 7 {
		return fmt.Errorf("cron expression %q needs six fields, seconds first, or seven with a year; it has %d", expression, n)
	}
	return nil
}
