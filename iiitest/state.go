package iiitest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/iii-go/iii"
)

// state implements the engine's iii-state worker. Values are addressed by scope and key. State
// triggers fire when a value changes.
type state struct {
	engine   *Engine
	store    store[string]
	triggers boundTriggers[stateConfig]

	// mu is held from a write until its event is queued, so that observers receive changes in
	// order.
	mu sync.Mutex
}

type stateConfig struct {
	scope, key, condition *string // nil: any scope, any key, no condition
}

func (e *Engine) registerState() {
	s := &state{engine: e, triggers: boundTriggers[stateConfig]{decode: decodeStateConfig}}
	e.state = s
	const owner = "iii-state"
	e.addBuiltin("state::set", owner, "Set a value in state", s.set)
	e.addBuiltin("state::get", owner, "Get a value from state", s.get)
	e.addBuiltin("state::delete", owner, "Delete a value from state", s.delete)
	e.addBuiltin("state::update", owner, "Update a value in state", s.update)
	e.addBuiltin("state::list", owner, "Get a group from state", s.list)
	e.addBuiltin("state::list_groups", owner, "List all state groups", s.listGroups)
	e.addTriggerType("state", owner, "State trigger", &s.triggers)
}

func decodeStateConfig(config json.RawMessage) (stateConfig, error) {
	type StateTriggerConfig struct {
		Scope     *string `json:"scope"`
		Key       *string `json:"key"`
		Condition *string `json:"condition_function_id"`
	}
	var in StateTriggerConfig
	if detail := decodeStrict(config, &in); detail != "" {
		return stateConfig{}, bindError("Failed to parse trigger config: " + detail)
	}
	return stateConfig{scope: in.Scope, key: in.Key, condition: in.Condition}, nil
}

func (s *state) set(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StateSetInput struct {
		Scope string          `json:"scope"`
		Key   string          `json:"key"`
		Value json.RawMessage `json:"value,omitempty"`
		Data  json.RawMessage `json:"data,omitempty"` // alias of value
	}
	in, err := decodeInput[StateSetInput](c.functionID, c.data)
	switch {
	case err != nil:
		return nil, err
	case in.Value != nil && in.Data != nil:
		return nil, inputError(c.functionID, "duplicate field `value`")
	case in.Value == nil && in.Data == nil:
		return nil, inputError(c.functionID, "missing field `value`")
	case in.Value == nil:
		in.Value = in.Data
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, existed := s.store.set(in.Scope, in.Key, in.Value)
	s.wrote(ctx, in.Scope, in.Key, existed, old, in.Value)
	return mustEncode(iii.StreamSetResult{OldValue: old, NewValue: in.Value}), nil
}

// stateItemInput is the input of functions that take only a scope and a key.
type stateItemInput struct {
	Scope string `json:"scope"`
	Key   string `json:"key"`
}

func (s *state) get(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type StateGetInput stateItemInput
	in, err := decodeInput[StateGetInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	value, _ := s.store.get(in.Scope, in.Key)
	return value, nil
}

// delete fires triggers even if the item does not exist, as in the engine.
func (s *state) delete(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StateDeleteInput stateItemInput
	in, err := decodeInput[StateDeleteInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, _ := s.store.delete(in.Scope, in.Key)
	s.changed(ctx, "state:deleted", in.Scope, in.Key, old, nil)
	return old, nil
}

func (s *state) update(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StateUpdateInput struct {
		Scope string    `json:"scope"`
		Key   string    `json:"key"`
		Ops   updateOps `json:"ops"`
	}
	in, err := decodeInput[StateUpdateInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	result, existed, updateErr := s.store.update(in.Scope, in.Key, in.Ops)
	if updateErr != nil {
		return nil, errorBody("UPDATE_ERROR", "Failed to update value: %v", updateErr)
	}
	s.wrote(ctx, in.Scope, in.Key, existed, result.OldValue, result.NewValue)
	return mustEncode(result), nil
}

func (s *state) list(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type StateGetGroupInput struct {
		Scope string `json:"scope"`
	}
	in, err := decodeInput[StateGetGroupInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	return mustEncode(s.store.list(in.Scope)), nil
}

func (s *state) listGroups(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type StateListGroupsInput struct{}
	if _, err := decodeInput[StateListGroupsInput](c.functionID, c.data); err != nil {
		return nil, err
	}
	scopes := s.store.names()
	slices.Sort(scopes)
	return mustEncode(map[string]any{"groups": append([]string{}, scopes...)}), nil
}

// wrote and changed report a change. The caller must hold mu.
func (s *state) wrote(ctx context.Context, scope, key string, existed bool, old, value json.RawMessage) {
	event := "state:created"
	if existed {
		event = "state:updated"
	}
	s.changed(ctx, event, scope, key, old, value)
}

func (s *state) changed(ctx context.Context, event, scope, key string, old, value json.RawMessage) {
	var targets []target
	for _, b := range s.triggers.event(s.engine, func(c stateConfig) bool {
		return (c.scope == nil || *c.scope == scope) && (c.key == nil || *c.key == key)
	}) {
		targets = append(targets, target{binding: b.binding, condition: b.config.condition})
	}
	payload := mustEncode(map[string]any{
		"type": "state", "event_type": event, "scope": scope, "key": key, "old_value": old, "new_value": value,
	})
	s.engine.fanOut(ctx, "state_triggers", targets, payload)
	s.engine.observers.queueEvent(ctx, "state::on-changed", func() json.RawMessage { return payload }, nil)
}
