package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
)

// streams implements the engine's iii-stream worker. It stores items by stream, group and id,
// and provides the stream trigger types and the socket for browsers.
type streams struct {
	engine        *Engine
	store         store[streamGroup]
	triggers      boundTriggers[streamConfig]
	joins, leaves boundTriggers[struct{}]

	// mu is held from a write until its event is queued for all sockets. Sockets therefore
	// receive changes in order, and a new socket misses none.
	mu      sync.Mutex
	sockets map[*streamSocket]struct{}

	subscribed atomic.Uint64 // number of changes to subscriptions
}

type streamGroup struct{ stream, group string }

type streamConfig struct {
	stream, group, item string // an empty group or item matches any
	condition           *string
}

func (e *Engine) registerStreams() {
	s := &streams{
		engine:   e,
		triggers: boundTriggers[streamConfig]{decode: decodeStreamConfig, again: keepBoth},
		joins:    boundTriggers[struct{}]{decode: anyConfig, again: keepOld},
		leaves:   boundTriggers[struct{}]{decode: anyConfig, again: keepOld},
		sockets:  map[*streamSocket]struct{}{},
	}
	e.streams = s
	const owner = "iii-stream"
	e.addBuiltin("stream::set", owner, "Set a value in a stream", s.set)
	e.addBuiltin("stream::get", owner, "Get a value from a stream", s.get)
	e.addBuiltin("stream::delete", owner, "Delete a value from a stream", s.delete)
	e.addBuiltin("stream::update", owner, "Update a value in a stream", s.update)
	e.addBuiltin("stream::list", owner, "List the values of a group of a stream", s.list)
	e.addBuiltin("stream::list_groups", owner, "List the groups of a stream", s.listGroups)
	e.addBuiltin("stream::list_all", owner, "List all streams with their groups", s.listAll)
	e.addBuiltin("stream::send", owner, "Send an event to the subscribers of a stream", s.send)
	e.addTriggerType("stream", owner, "Stream trigger", &s.triggers)
	e.addTriggerType("stream:join", owner, "Stream join trigger", &s.joins)
	e.addTriggerType("stream:leave", owner, "Stream leave trigger", &s.leaves)
}

// decodeStreamConfig rejects a config without a stream name. In a real engine, such a config
// terminates the task that serves the connection; this engine does not imitate that.
func decodeStreamConfig(config json.RawMessage) (streamConfig, error) {
	var in struct {
		Stream    *string `json:"stream_name"`
		Group     *string `json:"group_id"`
		Item      *string `json:"item_id"`
		Condition *string `json:"condition_function_id"`
	}
	if detail := decodeStrict(config, &in); detail != "" {
		return streamConfig{}, bindError("Failed to deserialize stream trigger")
	}
	if in.Stream == nil {
		return streamConfig{}, bindError("Failed to deserialize stream trigger: missing field `stream_name`")
	}
	c := streamConfig{stream: *in.Stream, condition: in.Condition}
	if in.Group != nil {
		c.group = *in.Group
	}
	if in.Item != nil {
		c.item = *in.Item
	}
	return c, nil
}

// streamItem contains the members of a function's input that identify an item.
type streamItem struct {
	Stream string `json:"stream_name"`
	Group  string `json:"group_id"`
	Item   string `json:"item_id"`
}

func (i streamItem) key() streamGroup { return streamGroup{i.Stream, i.Group} }

func (i streamItem) input() map[string]any {
	return map[string]any{"stream_name": i.Stream, "group_id": i.Group, "item_id": i.Item}
}

func (s *streams) get(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamGetInput streamItem
	in, err := decodeInput[StreamGetInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	item := streamItem(in)
	if result, provided, err := s.callProvider(ctx, "get", item.Stream, item.input()); provided {
		return result, err
	}
	value, _ := s.store.get(item.key(), item.Item)
	return value, nil
}

func (s *streams) list(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamListInput struct {
		Stream string `json:"stream_name"`
		Group  string `json:"group_id"`
	}
	in, err := decodeInput[StreamListInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	input := map[string]any{"stream_name": in.Stream, "group_id": in.Group}
	if result, provided, err := s.callProvider(ctx, "list", in.Stream, input); provided {
		return result, err
	}
	return mustEncode(s.store.list(streamGroup{in.Stream, in.Group})), nil
}

func (s *streams) listGroups(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamListGroupsInput struct {
		Stream string `json:"stream_name"`
	}
	in, err := decodeInput[StreamListGroupsInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	if result, provided, err := s.callProvider(ctx, "list_groups", in.Stream, map[string]any{"stream_name": in.Stream}); provided {
		return result, err
	}
	// The engine's keys have the form "stream:group", and the engine finds a stream's groups
	// by the prefix "stream:". The groups of the stream a:b are therefore also groups of the
	// stream a.
	groups := []string{}
	for _, g := range s.store.names() {
		if group, ok := strings.CutPrefix(g.stream+":"+g.group, in.Stream+":"); ok {
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return mustEncode(slices.Compact(groups)), nil
}

// groups returns the sorted groups of each stream in the engine's own store.
func (s *streams) groups() map[string][]string {
	groups := map[string][]string{}
	for _, g := range s.store.names() {
		groups[g.stream] = append(groups[g.stream], g.group)
	}
	for _, names := range groups {
		slices.Sort(names)
	}
	return groups
}

// listAll omits streams that workers store themselves.
func (s *streams) listAll(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamListAllInput struct{}
	if _, err := decodeInput[StreamListAllInput](c.functionID, c.data); err != nil {
		return nil, err
	}
	groups := s.groups()
	list := make([]map[string]any, 0, len(groups))
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		list = append(list, map[string]any{"id": name, "groups": groups[name]})
	}
	return mustEncode(map[string]any{"stream": list, "count": len(list)}), nil
}

func (s *streams) set(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamSetInput struct {
		Stream string          `json:"stream_name"`
		Group  string          `json:"group_id"`
		Item   string          `json:"item_id"`
		Data   json.RawMessage `json:"data"`
	}
	in, err := decodeInput[StreamSetInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	item := streamItem{in.Stream, in.Group, in.Item}
	input := item.input()
	input["data"] = in.Data
	if result, provided, err := s.callProvider(ctx, "set", item.Stream, input); provided {
		if err := providerError(err, result, "STREAM_SET_ERROR", "Failed to set value"); err != nil {
			return nil, err
		}
		return s.providerSet(ctx, item, result)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, existed := s.store.set(item.key(), item.Item, in.Data)
	s.wrote(ctx, item, existed, in.Data)
	return mustEncode(iii.StreamSetResult{OldValue: old, NewValue: in.Data}), nil
}

func (s *streams) update(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamUpdateInput struct {
		Stream string    `json:"stream_name"`
		Group  string    `json:"group_id"`
		Item   string    `json:"item_id"`
		Ops    updateOps `json:"ops"`
	}
	in, err := decodeInput[StreamUpdateInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	item := streamItem{in.Stream, in.Group, in.Item}
	input := item.input()
	input["ops"] = in.Ops
	if result, provided, err := s.callProvider(ctx, "update", item.Stream, input); provided {
		if err := providerError(err, result, "STREAM_UPDATE_ERROR", "Failed to update value"); err != nil {
			return nil, err
		}
		return s.providerUpdate(ctx, item, result)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	result, existed, updateErr := s.store.update(item.key(), item.Item, in.Ops)
	if updateErr != nil {
		return nil, errorBody("STREAM_UPDATE_ERROR", "Failed to update value: %v", updateErr)
	}
	s.wrote(ctx, item, existed, result.NewValue)
	return mustEncode(result), nil
}

func (s *streams) delete(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamDeleteInput streamItem
	in, err := decodeInput[StreamDeleteInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	item := streamItem(in)
	result, provided, err := s.callProvider(ctx, "delete", item.Stream, item.input())
	if provided {
		type StreamDeleteResult struct {
			Old json.RawMessage `json:"old_value,omitempty"`
		}
		var removed StreamDeleteResult
		if err := providerError(err, result, "STREAM_DELETE_ERROR", "Failed to delete value"); err != nil {
			return nil, err
		}
		if detail := decodeStrict(result, &removed); detail != "" {
			return nil, conversionError(detail)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !isNull(removed.Old) {
			s.announce(ctx, item, &item.Item, changeEvent("delete", removed.Old))
		}
		return mustEncode(iii.StreamDeleteResult{OldValue: removed.Old}), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, existed := s.store.delete(item.key(), item.Item)
	if existed {
		s.announce(ctx, item, &item.Item, changeEvent("delete", old))
	}
	return mustEncode(iii.StreamDeleteResult{OldValue: old}), nil
}

// send sends an event to triggers and sockets without storing an item.
func (s *streams) send(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	type StreamSendInput struct {
		Stream string          `json:"stream_name"`
		Group  string          `json:"group_id"`
		ID     *string         `json:"id"`
		Type   string          `json:"type"`
		Data   json.RawMessage `json:"data"`
	}
	in, err := decodeInput[StreamSendInput](c.functionID, c.data)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announce(ctx, streamItem{Stream: in.Stream, Group: in.Group}, in.ID, map[string]any{
		"type": "event", "event": map[string]any{"type": in.Type, "data": in.Data},
	})
	return json.RawMessage("null"), nil
}

// callProvider calls the worker function that implements op for the stream. It returns false
// if there is no such function: a provider need not implement every operation.
func (s *streams) callProvider(ctx context.Context, op, stream string, input map[string]any) (result json.RawMessage, provided bool, err *wireError) {
	id := fmt.Sprintf("stream::%s(%s)", op, stream)
	if !s.engine.hasFunction(id) {
		return nil, false, nil
	}
	result, err = s.engine.invoke(ctx, id, defaultNamespace, mustEncode(input))
	return result, true, err
}

// hasFunction reports whether a function exists in the default namespace.
func (e *Engine) hasFunction(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.functions[key{defaultNamespace, id}] != nil
}

// providerError returns nil if a provider's function has returned a result. Otherwise, it
// returns the error that the engine reports to its caller.
func providerError(err *wireError, result json.RawMessage, code, prefix string) *wireError {
	switch {
	case err != nil:
		return errorBody(code, "%s: Failed to invoke function: %s: %s", prefix, err.Code, err.Message)
	case isNull(result):
		return errorBody(code, "%s: Function returned no result", prefix)
	}
	return nil
}

func conversionError(detail string) *wireError {
	return errorBody("JSON_ERROR", "Failed to convert result to value: %s", detail)
}

// providerSet publishes the change made by a provider's function and converts its result to
// the result of stream::set. If the old value is null, the item did not exist.
func (s *streams) providerSet(ctx context.Context, item streamItem, raw json.RawMessage) (json.RawMessage, *wireError) {
	type StreamSetResult struct {
		New json.RawMessage `json:"new_value"`
		Old json.RawMessage `json:"old_value,omitempty"`
	}
	var result StreamSetResult
	if detail := decodeStrict(raw, &result); detail != "" {
		return nil, conversionError(detail)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote(ctx, item, !isNull(result.Old), result.New)
	return mustEncode(iii.StreamSetResult{OldValue: result.Old, NewValue: result.New}), nil
}

// providerUpdate is like providerSet, but for stream::update.
func (s *streams) providerUpdate(ctx context.Context, item streamItem, raw json.RawMessage) (json.RawMessage, *wireError) {
	type StreamUpdateResult struct {
		Errors []json.RawMessage `json:"errors,omitempty"`
		New    json.RawMessage   `json:"new_value"`
		Old    json.RawMessage   `json:"old_value,omitempty"`
	}
	var result StreamUpdateResult
	if detail := decodeStrict(raw, &result); detail != "" {
		return nil, conversionError(detail)
	}
	answer := map[string]any{"old_value": result.Old, "new_value": result.New}
	if len(result.Errors) > 0 {
		answer["errors"] = result.Errors
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote(ctx, item, !isNull(result.Old), result.New)
	return mustEncode(answer), nil
}

func (s *streams) wrote(ctx context.Context, item streamItem, existed bool, value json.RawMessage) {
	kind := "create"
	if existed {
		kind = "update"
	}
	s.announce(ctx, item, &item.Item, changeEvent(kind, value))
}

func changeEvent(kind string, data json.RawMessage) map[string]any {
	return map[string]any{"type": kind, "data": data}
}

// announce sends an event to triggers and sockets. id is nil for an event about the whole
// group. The caller must hold mu.
func (s *streams) announce(ctx context.Context, item streamItem, id *string, event map[string]any) {
	payload := streamMessage(item.key(), id, event)
	compared := ""
	if id != nil {
		compared = *id
	}
	var targets []target
	for _, b := range s.triggers.event(s.engine, func(c streamConfig) bool {
		return c.stream == item.Stream && cmp.Or(c.group, item.Group) == item.Group && cmp.Or(c.item, compared) == compared
	}) {
		targets = append(targets, target{binding: b.binding, condition: b.config.condition})
	}
	s.engine.fanOut(ctx, "stream_triggers", targets, payload)
	s.engine.observers.queueEvent(ctx, "stream::on-changed", func() json.RawMessage {
		both := withKey(canonicalValid(payload), "stream_name", mustEncode(item.Stream)) // 0.26 sends both spellings
		return withKey(both, "group_id", mustEncode(item.Group))
	}, nil)
	for socket := range s.sockets {
		socket.deliver(item.key(), id, payload)
	}
}

// streamMessage builds the event for triggers and sockets.
func streamMessage(g streamGroup, id *string, event map[string]any) json.RawMessage {
	return mustEncode(map[string]any{
		"type": "stream", "timestamp": time.Now().UnixMilli(),
		"streamName": g.stream, "groupId": g.group, "id": id, "event": event,
	})
}
