package iiitest

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"sync"

	"github.com/iii-go/iii"
)

// configurations is the engine's worker configuration: values with a schema that
// workers register, set and read, and the trigger type that follows them.
type configurations struct {
	engine   *Engine
	triggers bindings[configurationFilter]

	mu      sync.Mutex
	entries map[string]*configuration
}

// configuration is one entry.
type configuration struct {
	id, name, description string
	schema                *configurationSchema
	metadata              json.RawMessage // nil: none
	value                 json.RawMessage // as it was set; nil: none yet
}

// configurationID is what an id looks like.
var configurationID = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

func (e *Engine) registerConfiguration() {
	s := &configurations{
		engine: e, entries: map[string]*configuration{},
		triggers: bindings[configurationFilter]{decode: decodeConfigurationFilter},
	}
	const owner = "configuration"
	e.addBuiltin("configuration::register", owner, "Register a configuration entry", s.register)
	e.addBuiltin("configuration::set", owner, "Set the value of a configuration entry", s.set)
	e.addBuiltin("configuration::get", owner, "Get the value of a configuration entry", s.get)
	e.addBuiltin("configuration::list", owner, "List configuration entries", s.list)
	e.addBuiltin("configuration::schema", owner, "Describe a configuration entry", s.describe)
	e.addTriggerType("configuration", owner, "Configuration trigger", &s.triggers)
}

// configurationFilter is the config of a configuration trigger.
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
		return configurationFilter{}, bindError("Failed to parse trigger config: " + detail)
	}
	f := configurationFilter{id: in.ID, condition: in.Condition}
	if in.Events != nil {
		f.events = *in.Events
	}
	for _, event := range f.events {
		switch iii.ConfigurationEventType(event) {
		case iii.ConfigurationEventTypeRegistered, iii.ConfigurationEventTypeUpdated, iii.ConfigurationEventTypeDeleted:
		default:
			return configurationFilter{}, bindError("Failed to parse trigger config: unknown variant `" + event +
				"`, expected one of `configuration:registered`, `configuration:updated`, `configuration:deleted`")
		}
	}
	return f, nil
}

// register enters an entry, or describes an existing one anew: its value stays.
func (s *configurations) register(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationRegisterInput struct {
		Description  string          `json:"description"`
		ID           string          `json:"id"`
		InitialValue json.RawMessage `json:"initial_value,omitempty"`
		Metadata     json.RawMessage `json:"metadata,omitempty"`
		Name         string          `json:"name"`
		Schema       json.RawMessage `json:"schema"`
	}
	in, bad := decodeInput[ConfigurationRegisterInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	if !configurationID.MatchString(in.ID) {
		return nil, errorBody("INVALID_ID", "Configuration id '%s' is not 1 to 64 of a-z, 0-9, _ and -", in.ID)
	}
	schema, err := parseConfigurationSchema(in.Schema)
	if err != nil {
		return nil, errorBody("SCHEMA_INVALID", "Schema of configuration '%s' is invalid: %v", in.ID, err)
	}
	entry := &configuration{
		id: in.ID, name: in.Name, description: in.Description, schema: schema,
		metadata: optional(in.Metadata), value: optional(in.InitialValue),
	}
	if bad := s.check(entry, entry.value); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var old json.RawMessage
	if before := s.entries[in.ID]; before != nil && before.value != nil {
		old, entry.value = before.value, before.value
	}
	s.entries[in.ID] = entry
	s.changed(ctx, iii.ConfigurationEventTypeRegistered, entry, old)
	view := entry.view()
	view["value"] = entry.value
	return mustEncode(view), nil
}

// set changes a value.
func (s *configurations) set(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type ConfigurationSetInput struct {
		ID    string          `json:"id"`
		Value json.RawMessage `json:"value"`
	}
	in, bad := decodeInput[ConfigurationSetInput](c.functionID, c.data)
	if bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.entries[in.ID]
	if entry == nil {
		return nil, errorBody("NOT_REGISTERED", "Configuration '%s' is not registered", in.ID)
	}
	if bad := s.check(entry, in.Value); bad != nil {
		return nil, bad
	}
	old := entry.value
	entry.value = in.Value
	s.changed(ctx, iii.ConfigurationEventTypeUpdated, entry, old)
	return mustEncode(map[string]any{"old_value": old, "new_value": in.Value}), nil
}

// get returns a value, with what its references stand for unless it is wanted
// raw.
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
		return nil, errorBody("NOT_FOUND", "Configuration '%s' is not registered", in.ID)
	}
	value := entry.value
	if value != nil && !in.Raw {
		var err error
		if value, err = expand(value, s.engine.cfg.env); err != nil {
			return nil, errorBody("EXPAND_FAILED", "Value of configuration '%s' cannot be expanded: %v", in.ID, err)
		}
		if bad := s.check(entry, value); bad != nil {
			return nil, bad
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
		return nil, errorBody("NOT_FOUND", "Configuration '%s' is not registered", in.ID)
	}
	return mustEncode(entry.view()), nil
}

// view is an entry without its value.
func (c *configuration) view() map[string]any {
	view := map[string]any{"id": c.id, "name": c.name, "description": c.description, "schema": c.schema.text}
	if c.metadata != nil {
		view["metadata"] = c.metadata
	}
	return view
}

// check refuses a value that the schema does not allow. What counts is what its
// references stand for, where that is known.
func (s *configurations) check(entry *configuration, value json.RawMessage) *wireError {
	if value == nil {
		return nil
	}
	if err := entry.schema.validate(s.expanded(value)); err != nil {
		return errorBody("SCHEMA_INVALID", "Value of configuration '%s' does not match its schema: %v", entry.id, err)
	}
	return nil
}

// expanded is a value with what its references stand for, or as it is if one of
// them stands for nothing.
func (s *configurations) expanded(value json.RawMessage) json.RawMessage {
	if value == nil {
		return nil
	}
	if v, err := expand(value, s.engine.cfg.env); err == nil {
		return v
	}
	return value
}

// changed fires the triggers of an entry whose value was old before.
// configurations.mu is held.
func (s *configurations) changed(ctx context.Context, event iii.ConfigurationEventType, entry *configuration, old json.RawMessage) {
	var targets []target
	for _, b := range s.triggers.where(func(f configurationFilter) bool {
		return (f.id == nil || *f.id == entry.id) && (len(f.events) == 0 || slices.Contains(f.events, string(event)))
	}) {
		targets = append(targets, target{binding: b.binding, condition: b.config.condition})
	}
	if len(targets) == 0 {
		return
	}
	payload := entry.view()
	payload["type"], payload["event_type"] = "configuration", event
	payload["old_value"], payload["new_value"] = s.expanded(old), s.expanded(entry.value)
	s.engine.fanOut(ctx, "configuration_triggers", targets, mustEncode(payload))
}

// reference is a reference to a variable of the environment: ${NAME}, or with a
// default ${NAME:default}.
var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:[^}]*)?\}`)

// unsetError is a reference to a variable that is not set, without a default.
type unsetError string

func (e unsetError) Error() string { return "environment variable '" + string(e) + "' is not set" }

// expand replaces the references in the strings of a canonical value. The result
// stays a string, whatever the variable looks like.
func expand(value json.RawMessage, env func(string) (string, bool)) (json.RawMessage, error) {
	switch kindOf(value) {
	case '{':
		members := membersOf(value)
		for name, member := range members {
			var err error
			if members[name], err = expand(member, env); err != nil {
				return nil, err
			}
		}
		return appendMembers(nil, members), nil
	case '[':
		var items []json.RawMessage
		if err := json.Unmarshal(value, &items); err != nil {
			return nil, err
		}
		for i, item := range items {
			var err error
			if items[i], err = expand(item, env); err != nil {
				return nil, err
			}
		}
		return mustEncode(items), nil
	case '"':
		var unset error
		text := reference.ReplaceAllStringFunc(unquote(value), func(found string) string {
			parts := reference.FindStringSubmatch(found)
			if v, ok := env(parts[1]); ok {
				return v
			}
			if parts[2] == "" {
				unset = unsetError(parts[1])
			}
			return parts[2][min(1, len(parts[2])):]
		})
		if unset != nil {
			return nil, unset
		}
		return mustEncode(text), nil
	}
	return value, nil
}
