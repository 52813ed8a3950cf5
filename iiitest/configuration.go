package iiitest

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/iii-go/iii"
)

// configurations implements the engine's configuration worker. Workers register entries with
// schemas, and read and set the values of entries. Changes to an entry fire configuration
// triggers.
type configurations struct {
	engine   *Engine
	triggers boundTriggers[configurationFilter]

	mu      sync.Mutex
	entries map[string]*configuration
}

type configuration struct {
	id, name, description string
	schema                *configurationSchema
	metadata              json.RawMessage // nil if absent
	value                 json.RawMessage // as set, unexpanded; nil until set
}

var configurationID = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

func (e *Engine) registerConfiguration() {
	s := &configurations{
		engine: e, entries: map[string]*configuration{},
		triggers: boundTriggers[configurationFilter]{decode: decodeConfigurationFilter},
	}
	const owner = "configuration"
	e.addBuiltin("configuration::register", owner, "Register a configuration entry", s.register)
	e.addBuiltin("configuration::set", owner, "Set the value of a configuration entry", s.set)
	e.addBuiltin("configuration::get", owner, "Get the value of a configuration entry", s.get)
	e.addBuiltin("configuration::list", owner, "List configuration entries", s.list)
	e.addBuiltin("configuration::schema", owner, "Describe a configuration entry", s.describe)
	e.addTriggerType("configuration", owner, "Configuration trigger", &s.triggers)
}

// configurationFilter is a configuration trigger's config.
type configurationFilter struct {
	id        *string // nil: any
	events    []string
	condition *string
}

func decodeConfigurationFilter(config json.RawMessage) (configurationFilter, error) {
	type ConfigurationTriggerConfig struct {
		ID        *string   `json:"configuration_id"`
		Events    *[]string `json:"event_types"`
		Condition *string   `json:"condition_function_id"`
	}
	var in ConfigurationTriggerConfig
	if detail := decodeStrict(config, &in); detail != "" {
		return configurationFilter{}, bindError("Failed to parse configuration trigger config: " + detail)
	}
	f := configurationFilter{id: in.ID, condition: in.Condition}
	if in.Events != nil {
		f.events = *in.Events // unknown event names are accepted and never match
	}
	return f, nil
}

func invalidID(id string) *wireError {
	return errorBody("INVALID_ID", "invalid configuration id '%s': must match [a-z0-9_-]{1,64}", id)
}

func configurationNotFound(id string) *wireError {
	return errorBody("NOT_FOUND", "configuration '%s' not found", id)
}

func schemaInvalid(err error) *wireError {
	return errorBody("SCHEMA_INVALID", "schema validation failed: %v", err)
}

// register adds or replaces an entry. Without an initial value, an existing entry keeps its
// value, which is not validated against the new schema.
func (s *configurations) register(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationRegisterInput struct {
		ID           string          `json:"id"`
		Name         string          `json:"name"`
		Description  string          `json:"description"`
		Schema       json.RawMessage `json:"schema"`
		InitialValue json.RawMessage `json:"initial_value,omitempty"`
		Metadata     json.RawMessage `json:"metadata,omitempty"`
	}
	in, bad := decodeInput[ConfigurationRegisterInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	if !configurationID.MatchString(in.ID) {
		return nil, invalidID(in.ID)
	}
	schema, err := parseConfigurationSchema(in.Schema)
	if err != nil {
		return nil, schemaInvalid(err)
	}
	entry := &configuration{
		id: in.ID, name: in.Name, description: in.Description, schema: schema,
		metadata: optional(in.Metadata), value: optional(in.InitialValue),
	}
	if entry.value != nil {
		if err := schema.validate(s.expanded(entry.value)); err != nil {
			return nil, schemaInvalid(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	event, old := iii.ConfigurationEventTypeRegistered, json.RawMessage(nil)
	if before := s.entries[in.ID]; before != nil {
		event, old = iii.ConfigurationEventTypeUpdated, before.value
		if entry.value == nil {
			entry.value = old
		}
	}
	s.entries[in.ID] = entry
	s.changed(ctx, event, entry, old)
	view := entry.view()
	view["value"] = entry.value
	return mustEncode(view), nil
}

func (s *configurations) set(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationSetInput struct {
		ID    string          `json:"id"`
		Value json.RawMessage `json:"value"`
	}
	in, bad := decodeInput[ConfigurationSetInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	if !configurationID.MatchString(in.ID) {
		return nil, invalidID(in.ID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.entries[in.ID]
	if entry == nil {
		return nil, errorBody("NOT_REGISTERED", "configuration '%s' is not registered; call configuration::register first", in.ID)
	}
	if err := entry.schema.validate(s.expanded(in.Value)); err != nil {
		return nil, schemaInvalid(err)
	}
	old := entry.value
	entry.value = in.Value
	s.changed(ctx, iii.ConfigurationEventTypeUpdated, entry, old)
	return mustEncode(map[string]any{"old_value": old, "new_value": in.Value}), nil
}

// get returns a value, with references expanded unless the caller asks for the raw value. The
// expanded value must match the schema; a missing value is treated as null.
func (s *configurations) get(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationGetInput struct {
		ID  string `json:"id"`
		Raw bool   `json:"raw,omitempty"`
	}
	in, bad := decodeInput[ConfigurationGetInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.entries[in.ID]
	if entry == nil {
		return nil, configurationNotFound(in.ID)
	}
	value := entry.value
	if !in.Raw {
		var unset []string
		if value, unset = expand(value, s.engine.cfg.env); len(unset) > 0 {
			return nil, errorBody("EXPAND_FAILED", "configuration '%s' references unset environment variable(s) with no default: %s",
				in.ID, strings.Join(unset, ", "))
		}
		if err := entry.schema.validate(value); err != nil {
			return nil, schemaInvalid(err)
		}
	}
	return mustEncode(map[string]any{"id": in.ID, "value": value}), nil
}

func (s *configurations) list(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationListInput struct{}
	if _, bad := decodeInput[ConfigurationListInput](c.functionID, c.data); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	views := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(s.entries)) {
		views = append(views, s.entries[id].view())
	}
	return mustEncode(map[string]any{"configurations": views}), nil
}

func (s *configurations) describe(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationSchemaInput struct {
		ID string `json:"id"`
	}
	in, bad := decodeInput[ConfigurationSchemaInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.entries[in.ID]
	if entry == nil {
		return nil, configurationNotFound(in.ID)
	}
	return mustEncode(entry.view()), nil
}

// view returns an entry without its value.
func (c *configuration) view() map[string]any {
	view := map[string]any{"id": c.id, "name": c.name, "description": c.description, "schema": c.schema.text}
	if c.metadata != nil {
		view["metadata"] = c.metadata
	}
	return view
}

// expanded returns value with its references expanded, or value itself if a reference cannot
// be resolved.
func (s *configurations) expanded(value json.RawMessage) json.RawMessage {
	if v, unset := expand(value, s.engine.cfg.env); len(unset) == 0 {
		return v
	}
	return value
}

// changed fires the triggers for a changed entry. old is the previous value. The caller must
// hold configurations.mu.
func (s *configurations) changed(ctx context.Context, event iii.ConfigurationEventType, entry *configuration, old json.RawMessage) {
	var targets []target
	for _, b := range s.triggers.event(s.engine, func(f configurationFilter) bool {
		return (f.id == nil || *f.id == entry.id) && (len(f.events) == 0 || slices.Contains(f.events, string(event)))
	}) {
		targets = append(targets, target{binding: b.binding, condition: b.config.condition})
	}
	payload := func() json.RawMessage {
		payload := entry.view()
		payload["type"], payload["event_type"] = "configuration", event
		payload["old_value"], payload["new_value"] = s.expanded(old), s.expanded(entry.value)
		return mustEncode(payload)
	}
	s.engine.observers.queueEvent(ctx, "configuration::on-updated", payload, nil)
	if len(targets) > 0 {
		s.engine.fanOut(ctx, "configuration_triggers", targets, payload())
	}
}

// reference matches a reference to an environment variable, ${NAME} or ${NAME:default}.
var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:[^}]*)?\}`)

// expand replaces the references in the strings of a canonical JSON value. A string remains a
// string, whatever the variable contains. unset lists the distinct variables that are unset
// and have no default.
func expand(value json.RawMessage, env func(string) (string, bool)) (expanded json.RawMessage, unset []string) {
	var in func(value json.RawMessage) json.RawMessage
	in = func(value json.RawMessage) json.RawMessage {
		switch kindOf(value) {
		case '{':
			members := membersOf(value)
			for _, name := range slices.Sorted(maps.Keys(members)) {
				members[name] = in(members[name])
			}
			return appendMembers(nil, sortedMembers(members))
		case '[':
			items := []json.RawMessage{}
			for _, item := range itemsOf(value) {
				items = append(items, in(item))
			}
			return mustEncode(items)
		case '"':
			return mustEncode(reference.ReplaceAllStringFunc(unquote(value), func(found string) string {
				parts := reference.FindStringSubmatch(found)
				if v, ok := env(parts[1]); ok {
					return v
				}
				if parts[2] == "" && !slices.Contains(unset, parts[1]) {
					unset = append(unset, parts[1])
				}
				return parts[2][min(1, len(parts[2])):]
			}))
		}
		return value
	}
	return in(value), unset
}
