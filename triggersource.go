package iii

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/cronexpr"
	"github.com/iii-go/iii/internal/rawjson"
)

// triggerSource describes how triggers of one type are represented on an engine with
// observe.v2, where each trigger is an observer of a function.
type triggerSource struct {
	// functionID is the ID of the observed function. Its namespace is "default", like that of
	// the engine's own workers.
	functionID string

	// observe converts a config to args or filters.
	observe func(config json.RawMessage) (args, filters any, err error)

	// config is the inverse of observe: it reconstructs the config from args and filters, as
	// far as they determine it. If the field is nil, the reconstructed config is {}.
	config func(args, filters json.RawMessage) any

	// deliver and capture select the target's payload. If both are zero, the worker that hosts
	// the observed function chooses the payload.
	deliver ObserveDeliver
	capture []Capture

	// inOrder means that the handler processes one event at a time, in order.
	inOrder bool
	// single means that events that occur while the handler is running are skipped.
	single bool

	// payload converts an event's payload to the one that the handler receives on engines with
	// triggers. If ok is false, the handler is not called. If payload is nil, the event's
	// payload is passed on unchanged.
	payload func(t *triggerSpec, data json.RawMessage) (payload json.RawMessage, ok bool)
	// optional means that payload only adds members that a target does not need, so a function
	// outside this process can be the target without an adapter.
	optional bool

	// condition means that the config may name a condition, a function that decides whether
	// the handler is called. conditionInput derives the condition's payload from the
	// handler's. If conditionInput is nil, both receive the same payload.
	condition      bool
	conditionInput func(payload json.RawMessage) json.RawMessage
	// skipped is the result that is returned when the condition is not met.
	skipped any
}

// triggerSources contains the engine's own trigger types. Any other type is provided by a
// worker. It is represented by a function with the same ID, and the observer's args are the
// trigger's config.
//
// Results have the same effect as on an engine with triggers. For http, the result is the
// response; for durable:subscriber, an error is a failed attempt; all other results are
// ignored.
var triggerSources = map[string]triggerSource{
	"http": {
		functionID: "http::on-request",
		observe:    observeHTTP,
		config: func(args, _ json.RawMessage) any {
			c := HTTPTriggerConfig{APIPath: textMember(args, "path"), HTTPMethod: textMember(args, "method")}
			_ = json.Unmarshal(memberOf(args, "middleware_function_ids"), &c.MiddlewareFunctionIDs)
			return c
		},
		payload: httpPayload, optional: true,
		condition: true, conditionInput: withoutChannels,
		skipped: bufferedResponse{StatusCode: http.StatusUnprocessableEntity, Headers: []string{"Content-Type: application/json"}, Body: conditionNotMet},
	},
	"cron": {
		functionID: "cron::on-tick",
		observe: func(config json.RawMessage) (args, _ any, err error) {
			c, err := configOf[CronTriggerConfig](config)
			return map[string]string{"expression": sevenFields(c.Expression)}, nil, err
		},
		config: func(args, _ json.RawMessage) any {
			expression := textMember(args, "expression")
			if short, ok := strings.CutSuffix(expression, " *"); ok && sevenFields(short) == expression {
				expression = short
			}
			return CronTriggerConfig{Expression: expression}
		},
		deliver: ObserveDeliverOutput, capture: []Capture{CaptureOutput}, single: true,
		payload: cronPayload, condition: true,
	},
	"durable:subscriber": {
		functionID: "queue::on-message",
		observe:    observeQueue,
		config: func(args, _ json.RawMessage) any {
			c := QueueTriggerConfig{Topic: textMember(args, "topic")}
			_ = json.Unmarshal(memberOf(args, "queue_config"), &c.QueueConfig)
			return c
		},
		condition: true,
	},
	"subscribe": {
		functionID: "publish",
		observe: func(config json.RawMessage) (_, filters any, err error) {
			c, err := configOf[SubscribeTriggerConfig](config)
			return nil, equals{"input.topic": c.Topic}, err
		},
		config: func(_, filters json.RawMessage) any {
			return SubscribeTriggerConfig{Topic: equalText(filters, "input.topic")}
		},
		deliver: ObserveDeliverInput,
		payload: func(_ *triggerSpec, data json.RawMessage) (json.RawMessage, bool) {
			return memberOf(data, "data"), true
		},
	},
	"state": {
		functionID: "state::on-changed",
		observe: func(config json.RawMessage) (_, filters any, err error) {
			c, err := configOf[StateTriggerConfig](config)
			return nil, equals{}.ifSet("input.scope", c.Scope).ifSet("input.key", c.Key), err
		},
		config: func(_, filters json.RawMessage) any {
			return StateTriggerConfig{Scope: equalIn(filters, "input.scope"), Key: equalIn(filters, "input.key")}
		},
		deliver: ObserveDeliverInput, inOrder: true, condition: true,
	},
	"stream": {
		functionID: "stream::on-changed",
		observe: func(config json.RawMessage) (_, filters any, err error) {
			c, err := configOf[StreamTriggerConfig](config)
			return nil, eitherSpelling(c), err
		},
		config: func(_, filters json.RawMessage) any {
			return StreamTriggerConfig{StreamName: equalText(filters, "input.stream_name"), GroupID: equalText(filters, "input.group_id"), ItemID: equalText(filters, "input.id")}
		},
		deliver: ObserveDeliverInput, inOrder: true, condition: true,
		payload: streamPayload, optional: true,
	},
	"stream:join":  {functionID: "stream::on-join", observe: observeAll, deliver: ObserveDeliverInput},
	"stream:leave": {functionID: "stream::on-leave", observe: observeAll, deliver: ObserveDeliverInput, inOrder: true},
	"log": {
		functionID: "observability::on-log",
		observe: func(config json.RawMessage) (_, filters any, err error) {
			c, err := configOf[LogTriggerConfig](config)
			if c.Level == "" || c.Level == "all" {
				return nil, nil, err
			}
			return nil, equals{"input.level": c.Level}, err
		},
		config: func(_, filters json.RawMessage) any {
			return LogTriggerConfig{Level: LogLevel(equalText(filters, "input.level"))}
		},
		deliver: ObserveDeliverInput,
	},
	"trace": {
		functionID: "observability::on-span",
		observe:    observeAll, // engines with triggers ignore case; filters do not
		deliver:    ObserveDeliverInput,
		payload:    tracePayload,
	},
	"configuration": {
		functionID: "configuration::on-updated",
		observe: func(config json.RawMessage) (_, filters any, err error) {
			c, err := configOf[ConfigurationTriggerConfig](config)
			if err != nil {
				return nil, nil, err
			}
			conditions := map[string]any{}
			if c.ConfigurationID != "" {
				conditions["input.id"] = map[string]string{"$eq": c.ConfigurationID}
			}
			if len(c.EventTypes) > 0 {
				conditions["input.event_type"] = map[string]any{"$in": c.EventTypes}
			}
			return nil, conditions, nil
		},
		config: func(_, filters json.RawMessage) any {
			c := ConfigurationTriggerConfig{ConfigurationID: equalText(filters, "input.id")}
			_ = json.Unmarshal(conditionIn(filters, "input.event_type", "$in"), &c.EventTypes)
			return c
		},
		deliver: ObserveDeliverInput, inOrder: true, condition: true,
	},
	"engine::functions-available": {functionID: "engine::on-functions-changed", observe: observeAll, deliver: ObserveDeliverInput},
	"engine::workers-available":   {functionID: "engine::on-workers-changed", observe: observeAll, deliver: ObserveDeliverInput},
}

// customSource is the source for trigger types that a worker provides. The provider evaluates
// conditions, as on engines with triggers.
var customSource = triggerSource{
	deliver: ObserveDeliverInput,
	observe: func(config json.RawMessage) (args, _ any, err error) {
		if rawjson.Absent(config) {
			return nil, nil, nil
		}
		if config[0] != '{' {
			return nil, nil, errors.New("the args of an observer are an object, and so has to be the config of the trigger")
		}
		return config, nil, nil
	},
}

// triggerOf returns the type and config of the trigger that an observer represents. Only the
// part of the config that the observer determines is set.
func triggerOf(o *ObserveSource) (triggerType string, config any) {
	if cmp.Or(o.Namespace, defaultNamespace) == defaultNamespace {
		for id, source := range triggerSources {
			switch {
			case source.functionID != o.FunctionID:
			case source.config == nil:
				return id, struct{}{}
			default:
				return id, source.config(json.RawMessage(o.Args), json.RawMessage(o.Filters))
			}
		}
	}
	return o.FunctionID, o.Args
}

// conditionIn searches filters, at every nesting level, for a condition that applies operator
// to path. It returns the operand of that condition, or nil if there is none.
func conditionIn(filters json.RawMessage, path, operator string) (operand json.RawMessage) {
	for _, all := range []string{"$and", "$or"} {
		var list []json.RawMessage
		_ = json.Unmarshal(memberOf(filters, all), &list)
		for _, clause := range list {
			if operand = conditionIn(clause, path, operator); operand != nil {
				return operand
			}
		}
	}
	if operand = memberOf(memberOf(filters, path), operator); rawjson.Absent(operand) {
		return nil
	}
	return operand
}

// equalIn returns the string that an $eq condition in filters requires at path, or nil if
// there is none.
func equalIn(filters json.RawMessage, path string) (want *string) {
	_ = json.Unmarshal(conditionIn(filters, path, "$eq"), &want)
	return want
}

func equalText(filters json.RawMessage, path string) string {
	if want := equalIn(filters, path); want != nil {
		return *want
	}
	return ""
}

// on returns the source for t's type. If a type's provider is outside the engine's own
// namespace, the provider is a worker, even if the type has the name of a built-in one.
func (t *triggerSpec) on() triggerSource {
	if source, ok := triggerSources[t.triggerType]; ok && cmp.Or(t.providerNamespace, defaultNamespace) == defaultNamespace {
		return source
	}
	return customSource
}

// asObserver returns the observer that represents a trigger. It returns an error if the
// trigger uses a feature that the engine does not support.
func (t *triggerSpec) asObserver() (*triggerSpec, error) {
	source := t.on()
	args, filters, err := source.observe(t.config)
	if err != nil {
		return nil, fmt.Errorf("a trigger of type %s cannot be an observer: %w", t.triggerType, err)
	}
	o := &observeSpec{source: ObserveSource{FunctionID: cmp.Or(source.functionID, t.triggerType), Namespace: t.providerNamespace,
		Deliver: source.deliver, Capture: source.capture}}
	switch {
	case source.functionID == "":
		if t.providerNamespace == "" && !isBuiltin(t.triggerType) {
			o.source.Namespace = t.workerNamespace
		}
	case t.providerNamespace == "":
		o.source.Namespace = defaultNamespace
	}
	if source.inOrder {
		o.maxInFlight = new(uint32(1))
	}
	if args != nil {
		if o.source.Args, err = rawOf(args); err != nil {
			return nil, err
		}
	}
	if filters != nil {
		if o.source.Filters, err = rawOf(filters); err != nil {
			return nil, err
		}
	}
	own := *t
	own.observe = o
	if t.adapterID != "" {
		own.functionID, own.namespace = t.adapterID, t.workerNamespace
	}
	return &own, nil
}

// needsAdapter reports whether the observer's target must be an adapter if the trigger's
// function is outside this process.
func (t *triggerSpec) needsAdapter() bool {
	source := t.on()
	return source.payload != nil && !source.optional || source.single || t.conditionID() != ""
}

// conditionID returns the ID of the condition function, or "".
func (t *triggerSpec) conditionID() string {
	if !t.on().condition {
		return ""
	}
	id, _ := conditionOf(t.config)
	return id
}

func configOf[T any](config json.RawMessage) (c T, err error) {
	if err := json.Unmarshal(config, &c); err != nil {
		return c, fmt.Errorf("its config does not decode: %w", err)
	}
	return c, nil
}

func observeAll(json.RawMessage) (args, filters any, err error) { return nil, nil, nil }

// equals is a filter that maps each path to the value that it must have.
type equals map[string]any

func (e equals) ifSet(path string, text *string) equals {
	if text != nil {
		e[path] = *text
	}
	return e
}

func (e equals) MarshalJSON() ([]byte, error) {
	conditions := map[string]any{}
	for path, value := range e {
		conditions[path] = map[string]any{"$eq": value}
	}
	return json.Marshal(conditions)
}

func observeHTTP(config json.RawMessage) (args, filters any, err error) {
	c, err := configOf[HTTPTriggerConfig](config)
	if err != nil {
		return nil, nil, err
	}
	path := c.APIPath
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	a := map[string]any{"path": path, "method": routeMethod(c.HTTPMethod)}
	if len(c.MiddlewareFunctionIDs) > 0 {
		a["middleware_function_ids"] = c.MiddlewareFunctionIDs
	}
	return a, nil, nil
}

// sevenFields adds the year to a cron expression that has none.
func sevenFields(expression string) string {
	if s, err := cronexpr.Parse(expression); err == nil && s.Fields() == 6 {
		return expression + " *"
	}
	return expression
}

func observeQueue(config json.RawMessage) (args, filters any, err error) {
	c, err := configOf[QueueTriggerConfig](config)
	if err != nil {
		return nil, nil, err
	}
	a := map[string]any{"topic": c.Topic}
	for from, to := range map[string]string{"queue_config": "queue_config", "group": "group"} {
		if value := memberOf(config, from); !rawjson.Absent(value) {
			a[to] = value
		}
	}
	if q := c.QueueConfig; q != nil {
		if q.MaxRetries != nil {
			a["max_retries"] = *q.MaxRetries
		}
		if q.BackoffDelayMs != nil {
			a["backoff_ms"] = *q.BackoffDelayMs
		}
	}
	return a, nil, nil
}

// eitherSpelling returns the filter for a stream's changes. Engines differ in how they spell
// the names of a change's members; the filter accepts every spelling.
func eitherSpelling(c StreamTriggerConfig) any {
	either := func(value string, paths ...string) map[string]any {
		var list []equals
		for _, path := range paths {
			list = append(list, equals{path: value})
		}
		return map[string]any{"$or": list}
	}
	all := []any{either(c.StreamName, "input.stream_name", "input.streamName")}
	if c.GroupID != "" {
		all = append(all, either(c.GroupID, "input.group_id", "input.groupId"))
	}
	if c.ItemID != "" {
		all = append(all, either(c.ItemID, "input.id", "input.item_id"))
	}
	return map[string]any{"$and": all}
}

// httpPayload adds the key "trigger" to an HTTP request, as engines that support triggers do.
func httpPayload(t *triggerSpec, data json.RawMessage) (json.RawMessage, bool) {
	var path, method json.RawMessage
	known := false
	if rawjson.ScanObject(data, func(key, value []byte) {
		switch string(key) {
		case "path":
			path = value
		case "method":
			method = value
		case "trigger":
			known = true
		}
	}) != nil || known {
		return data, true
	}
	trigger := []byte(`{"type":"http"`)
	if path != nil {
		trigger = slices.Concat(trigger, []byte(`,"path":`), path)
	}
	c, _ := configOf[HTTPTriggerConfig](t.config)
	if text := strings.ToUpper(c.HTTPMethod); text != "" {
		method = rawjson.AppendString(nil, text)
	}
	if method != nil {
		trigger = slices.Concat(trigger, []byte(`,"method":`), method)
	}
	return withMember(data, "trigger", append(trigger, '}')), true
}

// withoutChannels removes the channels from a request, because conditions do not receive them.
func withoutChannels(payload json.RawMessage) json.RawMessage {
	b := json.RawMessage{'{'}
	err := rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) != "request_body" && string(key) != "response" {
			b = appendRawMember(b, key, value)
		}
	})
	if err != nil {
		return payload
	}
	return append(b, '}')
}

var conditionNotMet = json.RawMessage(`{"error":{"code":"CONDITION_NOT_MET","message":"Request condition not met"},"skipped":true}`)

// cronPayload converts a tick to the payload of a cron trigger.
func cronPayload(t *triggerSpec, data json.RawMessage) (json.RawMessage, bool) {
	return slices.Concat(
		json.RawMessage(`{"trigger":"cron","job_id":`), rawjson.AppendString(nil, t.id),
		[]byte(`,"scheduled_time":`), memberOf(data, "scheduled_time"),
		[]byte(`,"actual_time":`), memberOf(data, "actual_time"), []byte{'}'}), true
}

// streamPayload adds a change's camel-case members if only their snake-case counterparts are
// present.
func streamPayload(_ *triggerSpec, data json.RawMessage) (json.RawMessage, bool) {
	for _, spelling := range [][2]string{{"streamName", "stream_name"}, {"groupId", "group_id"}} {
		if other := memberOf(data, spelling[1]); rawjson.Absent(memberOf(data, spelling[0])) && !rawjson.Absent(other) {
			data = withMember(data, spelling[0], other)
		}
	}
	return data, true
}

// tracePayload converts a finished span to the payload of a trace trigger, a list of trace
// IDs. It returns false if the trigger's config excludes the span.
func tracePayload(t *triggerSpec, data json.RawMessage) (json.RawMessage, bool) {
	c, err := configOf[TraceTriggerConfig](t.config)
	if err != nil {
		return data, false
	}
	fits := func(want *string, name string) bool {
		return want == nil || strings.EqualFold(*want, textMember(data, name))
	}
	if !fits(c.ServiceName, "service_name") || !fits(c.Status, "status") {
		return data, false
	}
	return slices.Concat(json.RawMessage(`{"trace_ids":[`), memberOf(data, "trace_id"), []byte(`]}`)), true
}

// memberOf returns a member of an object, or null if there is none.
func memberOf(object json.RawMessage, key string) json.RawMessage {
	found := json.RawMessage("null")
	_ = rawjson.ScanObject(object, func(k, value []byte) {
		if string(k) == key {
			found = value
		}
	})
	return found
}

// withMember adds a member to an object.
func withMember(object json.RawMessage, key string, value json.RawMessage) json.RawMessage {
	body := bytes.TrimSpace(object)
	b := make([]byte, 0, len(body)+len(key)+len(value)+4)
	b = append(b, bytes.TrimRight(body[:len(body)-1], " \t\r\n")...)
	return append(appendRawMember(b, []byte(key), value), '}')
}

// appendRawMember appends a member to b, an object without its closing brace. key is an
// encoded JSON string without its quotes.
func appendRawMember(b, key, value []byte) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(append(append(b, '"'), key...), `":`...)
	return append(b, value...)
}

// stableID returns the observer ID for a subscriber of a durable topic. The ID must stay the
// same across restarts, because the queue stores messages by subscriber ID. For other
// triggers, it returns "".
func (c *Client) stableID(t *triggerSpec) string {
	if t.on().functionID != triggerSources["durable:subscriber"].functionID {
		return ""
	}
	parts := []string{cmp.Or(t.namespace, defaultNamespace), t.functionID, textMember(t.config, "topic")}
	if c.named {
		parts = slices.Insert(parts, 0, c.name)
	}
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return "subscriber/" + strings.Join(parts, "/")
}

// adapt creates an adapter between the observer and t's function if the trigger needs one and
// the function is not registered in this process. If register is true, adapt also sends the
// adapter's registration.
func (r *registry) adapt(t *Trigger, register bool) {
	if t.adapter != nil || t.spec.observe != nil || !r.link.dialect().answers(&t.claim) ||
		t.own && r.target(t) != nil || !t.spec.needsAdapter() {
		return
	}
	id := "trigger-adapter::" + uuid.NewString()
	f := &Function{client: r.client, id: id, handler: r.client.forward(t), spanName: "execute " + id, untraced: true, quiet: true,
		spec: functionSpec{id: id, metadata: json.RawMessage(`{"internal":true}`), private: true, unobservable: true, needsHooks: true}}
	f.claim = claim{function: f}
	t.adapter, t.spec.adapterID = f, id
	r.functionByID[id] = f
	r.functions = append(r.functions, f)
	if register {
		r.sendClaim(&f.claim)
	}
}

// forward returns an adapter's handler, which calls the trigger's function.
func (c *Client) forward(t *Trigger) HandlerFunc {
	return func(ctx context.Context, payload json.RawMessage) (any, error) {
		opts := []CallOption{WithTimeout(forwardTimeout)}
		if t.spec.namespace != "" {
			opts = append(opts, InNamespace(t.spec.namespace))
		}
		if inv, _ := InvocationFromContext(ctx); inv.Metadata != nil {
			opts = append(opts, WithMetadata(inv.Metadata))
		}
		var result json.RawMessage
		if err := c.Call(ctx, t.functionID, payload, &result, opts...); err != nil {
			return nil, err
		}
		return result, nil
	}
}

// forwardTimeout limits calls that an adapter forwards. The original caller has its own
// timeout.
const forwardTimeout = time.Hour

// fit converts an activation to the payload that the handler receives on an engine with
// triggers. If the handler must not be called, fit responds itself and returns false. The
// function's observers are not notified of such an activation.
func (c *Client) fit(ctx context.Context, in *incoming) (run bool) {
	t := in.trigger
	answer := func(result any, err error) bool {
		if len(in.id) > 0 {
			b, err := c.encodeAnswer(ctx, in, in.origin, result, err)
			b, _ = c.complete(ctx, in, b, err, false, nil)
			in.origin.reply(b)
		}
		return false
	}
	if t.source.payload != nil {
		payload, ok := t.source.payload(&t.spec, in.data)
		if !ok {
			return answer(nil, nil)
		}
		in.data = payload
	}
	if t.source.single && !t.busy.CompareAndSwap(false, true) {
		return answer(nil, nil)
	}
	met, err := c.conditionMet(ctx, t, in.data)
	switch {
	case err != nil:
		t.handlerDone()
		return answer(nil, err)
	case !met:
		t.handlerDone()
		return answer(t.source.skipped, nil)
	}
	return true
}

// handlerDone ends the time during which other events are skipped. It is called before the
// result is sent, because the next event may follow the result immediately.
func (t *Trigger) handlerDone() {
	if t.source.single {
		t.busy.Store(false)
	}
}

// conditionMet calls the condition of t, if there is one. Any result other than false means
// that the condition is met.
func (c *Client) conditionMet(ctx context.Context, t *Trigger, payload json.RawMessage) (bool, error) {
	if t.condition == "" {
		return true, nil
	}
	if t.source.conditionInput != nil {
		payload = t.source.conditionInput(payload)
	}
	var opts []CallOption
	if t.spec.namespace != "" {
		opts = append(opts, InNamespace(t.spec.namespace))
	}
	var verdict json.RawMessage
	if err := c.Call(ctx, t.condition, payload, &verdict, opts...); err != nil {
		return false, public(fmt.Errorf("condition of trigger %s: %w", t.id, err))
	}
	return string(bytes.TrimSpace(verdict)) != "false", nil
}
