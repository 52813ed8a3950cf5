package iii

import "context"

// Stream is one stream of the engine: JSON values by group and item, decoded as
// T, whose changes go to triggers ([StreamTriggerConfig]) and to the clients of
// the stream socket ([Subscribe]) at once. It is made by [NewStream]; the zero
// value is of no use. All methods may be called from several goroutines at once.
//
// The methods call the engine's functions stream::*, within the timeout of the
// client and the end of ctx; their errors are those of [Client.Call], and an
// [*Error] with the engine's code, such as STREAM_SET_ERROR. When a stored value
// does not decode as T, the error says so and is no [*Error]; a change has
// happened all the same. null is no value, as for [State].
//
// The engine stores items in memory by default; for a stream that a worker
// provides ([Client.HandleStream]) it asks that worker.
type Stream[T any] struct {
	client *Client
	name   string
}

// NewStream gives access to a stream. It does no I/O; a stream exists once
// something is stored in it. Streams are not namespaced. Avoid colons in the
// names of streams and groups: the engine cuts listings at them. For values of
// several shapes let T be json.RawMessage or any.
func NewStream[T any](c *Client, name string) *Stream[T] {
	return &Stream[T]{client: c, name: name}
}

// Name is the name of the stream.
func (s *Stream[T]) Name() string { return s.name }

// Get reads an item; ok is false if there is none.
func (s *Stream[T]) Get(ctx context.Context, group, id string) (value T, ok bool, err error) {
	return getStored[T](ctx, s.client, "stream::get", StreamGetInput{StreamName: s.name, GroupID: group, ItemID: id})
}

// Set stores an item and returns the value before.
func (s *Stream[T]) Set(ctx context.Context, group, id string, value T) (SetResult[T], error) {
	const functionID = "stream::set"
	raw, err := rawOf(value)
	if err != nil {
		return SetResult[T]{}, notEncodable(functionID, err)
	}
	return setStored[T](ctx, s.client, functionID, StreamSetInput{StreamName: s.name, GroupID: group, ItemID: id, Data: raw})
}

// Update changes an item in place; see [State.Update]. For a stream whose
// provider registers no update of its own the engine changes an item of its own
// store instead; [Client.HandleStream] always registers one.
func (s *Stream[T]) Update(ctx context.Context, group, id string, ops ...UpdateOp) (UpdateResult[T], error) {
	return updateStored[T](ctx, s.client, "stream::update", StreamUpdateInput{StreamName: s.name, GroupID: group, ItemID: id, Ops: ops})
}

// Delete removes an item and returns its value; ok is false if there was none,
// and then there is no event either.
func (s *Stream[T]) Delete(ctx context.Context, group, id string) (old T, ok bool, err error) {
	const functionID = "stream::delete"
	var result StreamDeleteResult
	err = callStored[T](ctx, s.client, functionID, StreamDeleteInput{StreamName: s.name, GroupID: group, ItemID: id}, &result)
	if err != nil {
		return old, false, err
	}
	old, ok, err = storedValue[T](result.OldValue)
	if err != nil {
		return old, ok, notDecodable(functionID, "old value", err)
	}
	return old, ok, nil
}

// List reads all items of a group. The engine does not tell their ids; its own
// store keeps them in the order in which they were first stored. A stored null is
// the zero value.
func (s *Stream[T]) List(ctx context.Context, group string) ([]T, error) {
	return Call[[]T](ctx, s.client, "stream::list", StreamListInput{StreamName: s.name, GroupID: group})
}

// Groups lists the groups of the stream, in no order. A group stays in the list
// after its last item was deleted.
func (s *Stream[T]) Groups(ctx context.Context) ([]string, error) {
	return Call[[]string](ctx, s.client, "stream::list_groups", StreamListGroupsInput{StreamName: s.name})
}

// Send sends an event that stores nothing to the triggers of the stream and to
// the subscribers of the group, with an [StreamEventTypeEvent] that carries
// eventType, which is free to choose, and data. Subscribers of a single item do
// not get it; for those call stream::send with a [StreamSendInput] that names the
// item.
func (s *Stream[T]) Send(ctx context.Context, group, eventType string, data any) error {
	const functionID = "stream::send"
	raw, err := rawOf(data)
	if err != nil {
		return notEncodable(functionID, err)
	}
	return s.client.Call(ctx, functionID, StreamSendInput{StreamName: s.name, GroupID: group, Type: eventType, Data: raw}, nil)
}

// Streams lists the streams of the engine's own store with their groups, sorted.
// Streams that a worker provides are not among them.
func (c *Client) Streams(ctx context.Context) ([]StreamSummary, error) {
	result, err := Call[StreamListAllResult](ctx, c, "stream::list_all", EmptyInput{})
	return result.Stream, err
}
