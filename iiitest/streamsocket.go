package iiitest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// socketBuffer is the maximum number of frames that can wait for one client of the stream
// socket. When the buffer is full, the oldest change is dropped, as in a real engine. A real
// engine has two buffers: one for 256 changes, and one for 64 outgoing frames.
const socketBuffer = 64 + 256

const socketWriteTimeout = 10 * time.Second

type streamSocket struct {
	streams *streams
	conn    *websocket.Conn
	context json.RawMessage // returned by the auth function
	out     frameQueue

	subscriptions []subscription // guarded by streams.mu; in order of joining
}

// subscription contains the data of a join or leave message.
type subscription struct {
	ID     string  `json:"subscriptionId"`
	Stream string  `json:"streamName"`
	Group  string  `json:"groupId"`
	Item   *string `json:"id"` // nil for the whole group
}

func (s subscription) key() streamGroup { return streamGroup{s.Stream, s.Group} }

// WithStreamAuth sets the function that the engine calls for every client of the stream
// socket. The function must be registered in the default namespace. It receives a
// StreamAuthInput and returns a StreamAuthResult. It cannot reject a client. If it fails, does
// not exist or returns an invalid result, the client connects without a context. functionID
// must not be empty. By default, there is no auth function.
func WithStreamAuth(functionID string) Option {
	return func(c *config) error {
		if functionID == "" {
			return errors.New("iiitest: WithStreamAuth: function id is empty")
		}
		c.streamAuth = functionID
		return nil
	}
}

// serveStreamSocket serves the stream listener.
func (e *Engine) serveStreamSocket(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	if refusesHandshake(w, r) {
		return
	}
	s := &streamSocket{streams: e.streams, out: newFrameQueue(), context: e.streamAuth(r)}
	conn, err := e.upgrade(w, r, streamReadBuffer, true)
	if err != nil {
		return // upgrade has responded
	}
	answerPings(conn)
	s.conn = conn
	s.run(e.ctx)
}

// streamAuth calls the auth function for a client and returns the client's context, or nil if
// the function fails or returns an invalid result.
func (e *Engine) streamAuth(r *http.Request) json.RawMessage {
	id := e.cfg.streamAuth
	if id == "" {
		return nil
	}
	result, err := e.invoke(e.ctx, id, defaultNamespace, mustEncode(map[string]any{
		"headers": authHeaders(r), "path": r.URL.Path, "query_params": rawQuery(r.URL.RawQuery), "addr": r.RemoteAddr,
	}))
	if e.closing() {
		return nil
	}
	if err != nil {
		e.logEngine(severityError, "auth function of the stream socket failed", map[string]any{"function_id": id, "error": err.Code + ": " + err.Message})
		return nil
	}
	var auth struct {
		Context json.RawMessage `json:"context,omitempty"`
	}
	if detail := decodeStrict(result, &auth); detail != "" {
		e.logEngine(severityError, "auth function of the stream socket returned no result", map[string]any{"function_id": id, "error": detail})
		return nil
	}
	return auth.Context
}

// authHeaders returns a handshake's headers as sent to auth functions: lowercase names with
// one value each. Values that are not visible ASCII are omitted.
func authHeaders(r *http.Request) map[string]string {
	headers := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		for _, value := range values {
			if !strings.ContainsFunc(value, func(c rune) bool { return (c < ' ' && c != '\t') || c > '~' }) {
				headers[strings.ToLower(name)] = value
			}
		}
	}
	return headers
}

// rawQuery splits a query into the parameters that are sent to auth functions. Names and
// values are not decoded. Parameters without a name are skipped.
func rawQuery(query string) map[string][]string {
	params := map[string][]string{}
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(pair, "="); name != "" {
			params[name] = append(params[name], value)
		}
	}
	return params
}

func (s *streamSocket) run(ctx context.Context) {
	s.streams.mu.Lock()
	s.streams.sockets[s] = struct{}{}
	s.streams.mu.Unlock()
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.write()
	}()

	for s.out.room() {
		kind, frame, err := s.conn.ReadMessage()
		if err != nil {
			break
		}
		if kind == websocket.TextMessage && strings.TrimSpace(string(frame)) == "" {
			continue
		}
		s.handle(ctx, frame)
	}

	s.streams.mu.Lock()
	delete(s.streams.sockets, s)
	left := s.subscriptions
	s.streams.subscribed.Add(1)
	s.streams.mu.Unlock()
	s.out.close()
	s.streams.engine.drop(s.conn) // unblocks the writer
	<-written
	for _, sub := range left {
		s.left(ctx, sub)
	}
}

func (s *streamSocket) write() {
	for {
		frame, ok := s.out.pop()
		if !ok {
			return
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(socketWriteTimeout))
		if err := s.conn.WriteMessage(websocket.TextMessage, frame); err != nil {
			s.out.close()
			_ = s.conn.Close() // unblocks the reader
			return
		}
	}
}

// handle processes one message. Invalid messages are logged and ignored.
func (s *streamSocket) handle(ctx context.Context, frame []byte) {
	var message struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	var sub subscription
	detail := "not JSON"
	if checkJSON(frame) == nil {
		detail = decodeStrict(frame, &message)
	}
	if detail == "" {
		detail = decodeStrict(message.Data, &sub)
	}
	switch {
	case detail == "" && message.Type == "join":
		s.join(ctx, sub)
	case detail == "" && message.Type == "leave":
		s.leave(ctx, sub)
	default:
		s.streams.engine.logEngine(severityWarn, "message of a stream client ignored", map[string]any{"error": detail})
	}
}

// join calls the functions of all join triggers. If none of them rejects the client, join adds
// the subscription and sends the current state.
func (s *streamSocket) join(ctx context.Context, sub subscription) {
	refused := false
	for _, b := range s.streams.joins.event(s.streams.engine, always) {
		result, err := s.streams.engine.fire(ctx, b.binding, s.joinLeaveEvent(sub))
		if err != nil {
			s.streams.engine.triggerFailed(b.binding, "function of a join trigger failed", err)
			continue
		}
		refused = refused || unauthorized(result)
	}
	if s.streams.engine.observers.callObservers(ctx, "stream::on-join", s.joinLeaveEvent(sub), unauthorized) {
		refused = true
	}
	if refused {
		s.out.push(streamMessage(sub.key(), sub.Item, map[string]any{"type": "unauthorized"}), false)
		return
	}
	s.streams.mu.Lock()
	s.drop(sub.ID)
	s.subscriptions = append(s.subscriptions, sub)
	s.streams.subscribed.Add(1)
	s.streams.mu.Unlock()
	s.sync(ctx, sub)
}

// unauthorized reports whether a join function's result rejects the client.
func unauthorized(result json.RawMessage) bool {
	var answer struct {
		Unauthorized bool `json:"unauthorized"`
	}
	return decodeStrict(result, &answer) == "" && answer.Unauthorized
}

// sync sends the current state to the client. For streams in the engine's own store, it holds
// streams.mu until the state is queued, so that later changes follow the state.
func (s *streamSocket) sync(ctx context.Context, sub subscription) {
	input, op := map[string]any{"stream_name": sub.Stream, "group_id": sub.Group}, "list"
	if sub.Item != nil {
		input["item_id"], op = *sub.Item, "get"
	}
	data, provided, err := s.streams.callProvider(ctx, op, sub.Stream, input)
	if err != nil {
		s.streams.engine.logEngine(severityError, "reading a stream for a new subscription failed", map[string]any{"error": err.Code + ": " + err.Message})
		return
	}
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	switch {
	case provided:
	case sub.Item == nil:
		data = mustEncode(s.streams.store.list(sub.key()))
	default:
		data, _ = s.streams.store.get(sub.key(), *sub.Item)
	}
	s.out.push(streamMessage(sub.key(), sub.Item, map[string]any{"type": "sync", "data": data}), false)
}

// leave removes a subscription. It fires the leave triggers even if the subscription does not
// exist.
func (s *streamSocket) leave(ctx context.Context, sub subscription) {
	s.left(ctx, sub)
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	s.drop(sub.ID)
}

// drop removes a subscription. The caller must hold streams.mu.
func (s *streamSocket) drop(id string) {
	s.subscriptions = slices.DeleteFunc(s.subscriptions, func(old subscription) bool { return old.ID == id })
	s.streams.subscribed.Add(1)
}

func (s *streamSocket) left(ctx context.Context, sub subscription) {
	s.streams.engine.observers.queueEvent(ctx, "stream::on-leave", func() json.RawMessage { return s.joinLeaveEvent(sub) }, nil)
	for _, b := range s.streams.leaves.event(s.streams.engine, always) {
		if _, err := s.streams.engine.fire(ctx, b.binding, s.joinLeaveEvent(sub)); err != nil {
			s.streams.engine.triggerFailed(b.binding, "function of a leave trigger failed", err)
		}
	}
}

func (s *streamSocket) joinLeaveEvent(sub subscription) json.RawMessage {
	return mustEncode(map[string]any{
		"subscription_id": sub.ID, "stream_name": sub.Stream, "group_id": sub.Group, "id": sub.Item, "context": s.context,
	})
}

// deliver queues an event once for each matching subscription. The caller must hold
// streams.mu.
func (s *streamSocket) deliver(g streamGroup, id *string, frame []byte) {
	for _, sub := range s.subscriptions {
		if sub.key() == g && (sub.Item == nil || id != nil && *id == *sub.Item) {
			if dropped := s.out.push(frame, true); dropped == 1 {
				s.streams.engine.logEngine(severityWarn, "a stream client reads too slowly and loses changes", map[string]any{"peer": s.conn.RemoteAddr().String()})
			}
		}
	}
}
