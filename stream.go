package iii

import "context"

// Stream provides access to one of the engine's streams, which holds JSON values by group and
// item ID. The values are decoded as T. Changes are sent immediately to triggers
// ([StreamTriggerConfig]) and to clients of the stream socket ([Subscribe]). The zero value is
// not usable; use [NewStream]. All methods are safe for concurrent use.
//
// The methods call the engine's stream::* functions. The calls are limited by
// [WithCallTimeout] and by ctx. Their errors are those of [Client.Call], including an [*Error]
// with the engine's code, such as STREAM_SET_ERROR. If a stored value cannot be decoded as T,
// the error explains why and is not an [*Error]. In that case, a Set, Update or Delete has
// still taken effect. As in [State], a stored null is treated as a missing value.
//
// By default, the engine stores items in memory. If a worker provides the stream
// ([Client.HandleStream]), the engine calls that worker instead.
type Stream[T any] struct {
	client *Client
	name   string
}

// NewStream returns a Stream for the named stream. It performs no I/O; a stream exists once an
// item is stored in it. Streams are not namespaced. Avoid colons in stream and group names,
// because the engine's listings truncate names at a colon. If the values do not have a common
// type, use json.RawMessage or any for T.
func NewStream[T any](c *Client, name string) *Stream[T] {
	return &Stream[T]{client: c, name: name}
}

// Name returns the stream's name.
func (s *Stream[T]) Name() string { return s.name }

// Get returns an item's value, and whether the item exists.
func (s *Stream[T]) Get(ctx context.Context, group, id string) (value T, ok bool, err error) {
	return getStored[T](ctx, s.client, "stream::get", StreamGetInput{StreamName: s.name, GroupID: group, ItemID: id})
}

// Set stores an item. The engine returns the previous value and the stored one, as in
// [State.Set].
func (s *Stream[T]) Set(ctx context.Context, group, id string, value T) (SetResult[T], error) {
	const functionID = "stream::set"
	raw, err := s.client.cfg.rawForUser(value)
	if err != nil {
		return SetResult[T]{}, notEncodable(functionID, err)
	}
	return setStored[T](ctx, s.client, functionID, StreamSetInput{StreamName: s.name, GroupID: group, ItemID: id, Data: raw})
}

// Update applies the operations to an item; see [State.Update]. If a stream's provider
// registers no update function, the engine updates an item in its own store instead.
// [Client.HandleStream] always registers one.
func (s *Stream[T]) Update(ctx context.Context, group, id string, ops ...UpdateOp) (UpdateResult[T], error) {
	return updateStored[T](ctx, s.client, "stream::update", StreamUpdateInput{StreamName: s.name, GroupID: group, ItemID: id, Ops: ops})
}

// Delete removes an item. It returns the item's value and whether the item existed. If it did
// not, no event is sent.
func (s *Stream[T]) Delete(ctx context.Context, group, id string) (old T, ok bool, err error) {
	const functionID = "stream::delete"
	var result StreamDeleteResult
	err = callStored[T](ctx, s.client, functionID, StreamDeleteInput{StreamName: s.name, GroupID: group, ItemID: id}, &result)
	if err != nil {
		return old, false, err
	}
	old, ok, err = storedValue[T](s.client, result.OldValue)
	if err != nil {
		return old, ok, notDecodable(functionID, "old value", err)
	}
	return old, ok, nil
}

// List returns all items in a group. The engine does not return their IDs. The engine's own
// store returns items in the order in which they were first stored. A stored null decodes as
// the zero value.
func (s *Stream[T]) List(ctx context.Context, group string) ([]T, error) {
	return Call[[]T](ctx, s.client, "stream::list", StreamListInput{StreamName: s.name, GroupID: group})
}

// Groups returns the stream's groups in no particular order. A group stays listed after its
// last item is deleted.
func (s *Stream[T]) Groups(ctx context.Context) ([]string, error) {
	return Call[[]string](ctx, s.client, "stream::list_groups", StreamListGroupsInput{StreamName: s.name})
}

// Send sends an event to the stream's triggers and to the group's subscribers without storing
// anything. The event has type [StreamEventTypeEvent] and contains data and eventType, a name
// of your choice. Subscribers of a single item do not receive the event; to reach them, call
// stream::send with a [StreamSendInput] that contains the item's ID.
func (s *Stream[T]) Send(ctx context.Context, group, eventType string, data any) error {
	const functionID = "stream::send"
	raw, err := s.client.cfg.rawForUser(data)
	if err != nil {
		return notEncodable(functionID, err)
	}
	return s.client.Call(ctx, functionID, StreamSendInput{StreamName: s.name, GroupID: group, Type: eventType, Data: raw}, nil)
}

// Streams returns the streams in the engine's own store, in sorted order, each with its
// groups. It does not include streams provided by workers.
func (c *Client) Streams(ctx context.Context) ([]StreamSummary, error) {
	result, err := Call[StreamListAllResult](ctx, c, "stream::list_all", EmptyInput{})
	return result.Stream, err
}
