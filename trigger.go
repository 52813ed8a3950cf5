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

// TriggerConfig is the config of a trigger, which knows its type. Every built-in
// config implements it, by value; [CustomTrigger] stands for all other types.
type TriggerConfig interface {
	// TriggerType is the type's id, "http" for example.
	TriggerType() string
}

// CustomTrigger is a trigger of any type: one that a worker provides.
type CustomTrigger struct {
	// Type is the trigger type's id.
	Type string
	// Config is anything that encodes as JSON; nil is null.
	Config any
}

// StreamJoinTrigger fires when a subscriber joins a stream. The engine ignores
// its config: it fires for every stream.
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

// Trigger is a trigger that this worker has registered. It is made by
// [Client.Trigger]; the zero value is of no use. All methods may be called from
// several goroutines at once.
type Trigger struct {
	client     *Client
	id         string
	functionID string
	spec       triggerSpec
	own        bool // the function, if there is one of this id here, is this worker's
	onError    func(error)
	route      string // method and path of an HTTP trigger, without the names of parameters
	router     bool   // it belongs to a router

	claim
	refused atomic.Pointer[Error]

	// Of a trigger that is an observer of the engine.
	source    triggerSource
	condition string      // function that is asked before the handler runs; "": none
	busy      atomic.Bool // the handler runs, and the source is single

	// Guarded by the lock of the registry.
	sent      bool      // on the current link
	former    *Function // that it was held for, if it has been unregistered since
	contested bool      // another worker's is in its way
	toldOver  *link     // on which it was last rejected
	adapter   *Function // that its observer calls in place of its own

	// Of observers and of triggers that are such.
	observer *Observer       // nil: it is a trigger of the program's
	frame    *observeFrame   // on the current link, until it is taken back or refused
	lingers  bool            // the engine may have the observer of an earlier connection
	final    bool            // the engine has refused the observer
	left     <-chan struct{} // closed when the engine has let go of it
}

// ID is the trigger's id, random unless [WithTriggerID] set it.
func (t *Trigger) ID() string { return t.id }

// Err returns an *[Error] once the engine, or the worker that provides the type, has rejected
// the trigger. The client registers it again on each new connection, and a route that is
// rejected because another worker holds its path with other parameter names is retried as a
// refused function is. While the function that the trigger runs is refused
// ([Function.Err]), the trigger is not registered, and Err wraps that *[RejectedError]. If the
// engine of the present connection cannot be told of the trigger, Err is
// [errors.ErrUnsupported]. Nil does not mean that the trigger fires: a trigger of a type that
// nobody provides waits for a provider.
//
// An engine since 0.26 has observers in place of triggers, and its codes are those of
// observers, HTTP_ROUTE_CONFLICT for example. A trigger whose id another worker's observer has
// is retried, too.
func (t *Trigger) Err() error {
	if err := t.client.registry.heldError(t); err != nil {
		return err
	}
	if err := t.refused.Load(); err != nil {
		return err
	}
	return nil
}

// Unregister takes the trigger back. It does not wait for the network. It is an
// error to do so twice.
func (t *Trigger) Unregister() error {
	if !t.client.registry.removeTrigger(t) {
		return fmt.Errorf("iii: trigger %q is not registered", t.id)
	}
	return nil
}

// TriggerOption configures a trigger. One that makes no sense is an error of
// [Client.Trigger].
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

// WithTriggerID sets the trigger's id. Ids are one key for all workers of the
// engine: who registers the same one replaces the trigger. An engine since 0.26 refuses an id
// that another worker has, and the client retries. Default: random; a [QueueTriggerConfig] has
// an id there that is the same after a restart, of the worker's name, the function's namespace
// and id, and the topic.
func WithTriggerID(id string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(id) == "" {
			return errors.New("iii: WithTriggerID: blank id")
		}
		o.id = id
		return nil
	}
}

// WithTriggerMetadata sets what the function finds in [Invocation.Metadata] each
// time the trigger fires, any value that encodes as JSON. Engines before 0.26 do not deliver
// it for the types durable:subscriber and subscribe.
func WithTriggerMetadata(v any) TriggerOption {
	return func(o *triggerOptions) (err error) {
		o.metadata, err = rawOf(v)
		return wrapOption("WithTriggerMetadata", err)
	}
}

// WithTriggerNamespace sets the namespace of the target function. Default: the
// worker's own, and that of the engine for its built-in functions. The types log
// and trace look in "default" whatever is said here.
func WithTriggerNamespace(ns string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(ns) == "" {
			return errors.New("iii: WithTriggerNamespace: blank namespace")
		}
		o.namespace = ns
		return nil
	}
}

// WithTriggerProviderNamespace sets the namespace in which the trigger type's
// provider is looked for, and only there. Default: the worker's own, then
// "default"; since engine 0.26 the worker's own alone, for types that are not the engine's.
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
// function does not run. It is resolved in the namespace of the trigger's function. It sets
// condition_function_id of the config; a config that names another one is an error of
// [Client.Trigger], as are a blank id and the types whose conditions the engine ignores:
// subscribe, stream:join, stream:leave, log, trace, engine::functions-available and
// engine::workers-available. Default none. A request of a route whose condition is false is
// answered with a 422 and code [CodeConditionNotMet].
func WithTriggerCondition(functionID string) TriggerOption {
	return func(o *triggerOptions) error {
		if strings.TrimSpace(functionID) == "" {
			return errors.New("iii: WithTriggerCondition: blank function id")
		}
		if o.condition != "" && o.condition != functionID {
			return fmt.Errorf("iii: WithTriggerCondition: %q and %q: a trigger has one condition", o.condition, functionID)
		}
		o.condition = functionID
		return nil
	}
}

// WithTriggerMiddleware adds functions that the engine calls, in this order, before the function
// of an HTTP trigger, with an [HTTPMiddlewareInput]; each may answer the request itself
// ([HTTPMiddlewareResult]). They are resolved in the namespace of the trigger's function, and run
// after its condition. They follow those of the config's MiddlewareFunctionIDs. For another type
// than http, and with a blank id, it is an error of [Client.Trigger]. Default none. Middleware
// around a handler, in this process, is [WithFunctionMiddleware].
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

// addTo returns config with the condition and the middleware of o.
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
				return nil, fmt.Errorf("WithTriggerCondition: the engine evaluates no conditions of triggers of type %s", triggerType)
			}
		}
		if other := textMember(config, "condition_function_id"); other != "" && other != o.condition {
			return nil, fmt.Errorf("WithTriggerCondition: %q, and the config names %q: a trigger has one condition", o.condition, other)
		}
		var err error
		if members["condition_function_id"], err = rawOf(o.condition); err != nil {
			return nil, err
		}
	}
	if len(o.middleware) > 0 {
		if triggerType != "http" {
			return nil, fmt.Errorf("WithTriggerMiddleware: triggers of type %s have no middleware, only those of type http", triggerType)
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

// WithTriggerErrorHandler sets a function that is called each time the trigger is rejected,
// now or on a later connection, with the *[Error] that [Trigger.Err] then returns. While a
// route is retried because another worker holds its path, the function is called once per
// connection. It is not called while the trigger waits for its function. Calls come from one
// goroutine that holds no lock. Default none.
func WithTriggerErrorHandler(f func(error)) TriggerOption {
	return func(o *triggerOptions) error { o.onError = f; return nil }
}

// Trigger binds a function to a trigger. The function need not exist yet, nor be
// this worker's. What the engine would answer badly or not at all is refused
// here. It does not wait for the network: before a connection is there the
// registration waits for it, and every later connection gets it again.
//
// An engine since 0.26 has no triggers. The trigger is an observer there, and its function gets
// the same payload; the page on engine versions lists what differs.
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
	cfg, err := configValue(cfg)
	if err != nil {
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, err)
	}
	triggerType := cfg.TriggerType() // asked once: what is checked is what is sent
	config, err := triggerConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, err)
	}
	var o triggerOptions
	if err := applyOptions(&o, opts, callOption); err != nil {
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, trimmed(err))
	}
	if config, err = o.addTo(triggerType, config); err != nil {
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, err)
	}
	if err := checkFatal(triggerType, o.providerNamespace, config); err != nil {
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, err)
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
		return nil, fmt.Errorf("iii: trigger of %s: %w", functionID, err)
	}
	return t, nil
}

func (c *Client) makeTrigger(spec triggerSpec) *Trigger {
	t := &Trigger{client: c, id: spec.id, spec: spec, functionID: spec.functionID,
		own: cmp.Or(spec.namespace, defaultNamespace) == cmp.Or(c.cfg.namespace, defaultNamespace)}
	t.claim = claim{trigger: t}
	return t
}

// configValue is the config that a pointer to one leads to: the checks know values.
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

// triggerConfig checks a config and encodes it.
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
		if cfg.StreamName == "" { // it crashes the engine's task
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

// checkFatal refuses the configs, of any Go type, that end the engine's task for this
// connection, which then answers nothing any more, or its router for everybody. A provider
// in another namespace than the engine's own, when it is named, is a worker, to whom they
// may mean something.
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

// textMember is a member of an object, "" if it is no text. The engine compares keys
// exactly, and takes the last of those that are there twice; decoding into a struct would
// do neither.
func textMember(object json.RawMessage, key string) (text string) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(object, &members) // what is no object has none
	_ = json.Unmarshal(members[key], &text)
	return text
}

// registerTriggerFunction registers a trigger that outlives its caller.
const registerTriggerFunction = "engine::register_trigger"

// checkRegisterTrigger is checkFatal for the input of engine::register_trigger.
func checkRegisterTrigger(input json.RawMessage) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(input, &members) == nil {
		return checkFatal(textMember(input, "trigger_type"), textMember(input, "trigger_namespace"), members["config"])
	}
	// The engine takes a list of the members for the object, too, in an order that is
	// documented nowhere.
	var list []json.RawMessage
	_ = json.Unmarshal(input, &list)
	for _, item := range list {
		var text string
		if json.Unmarshal(item, &text) == nil && (text == "http" || text == "stream") {
			return fmt.Errorf("the input of a trigger of type %s is an object, not a list", text)
		}
	}
	return nil
}

// checkTopic refuses what the engine accepts and never fires.
func checkTopic(config, topic string) error {
	if topic == "" {
		return errors.New(config + " has no Topic")
	}
	return nil
}

// checkLogLevel refuses a level that no record has: the engine compares exactly.
func checkLogLevel(level string) error {
	switch level {
	case "", "all", "trace", "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log level %q is none of all, trace, debug, info, warn, error", level)
}

// checkConfigurationEvents refuses what no event is called.
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

// checkTraceStatus refuses a status that no span has.
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

// checkCron explains the usual mistake, five fields; the engine says no to the rest.
func checkCron(expression string) error {
	if _, err := cronexpr.Parse(expression); err == nil || strings.HasPrefix(expression, "@") {
		return nil
	}
	if n := len(strings.Fields(expression)); n != 6 && n != 7 {
		return fmt.Errorf("cron expression %q needs six fields, seconds first, or seven with a year; it has %d", expression, n)
	}
	return nil
}
