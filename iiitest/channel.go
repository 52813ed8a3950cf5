package iiitest

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// channel is a one-way queue of WebSocket messages between one writer and one reader. Each end
// can be taken only once.
type channel struct {
	id, key string
	buffer  chan channelFrame
	stopped chan struct{} // closed when the reader has disconnected
	cut     atomic.Bool   // the writer disconnected without a Close frame; the reader is notified

	mu           sync.Mutex
	taken, ended ends
	expiry       *time.Timer
}

// channelFrame is one text or binary message. Channels preserve message boundaries.
type channelFrame struct {
	kind int // websocket.TextMessage or websocket.BinaryMessage
	data []byte
}

// direction identifies an end of a channel.
type direction string

const (
	reading direction = "read"
	writing direction = "write"
)

// ends holds one flag for each end of a channel.
type ends struct{ reading, writing bool }

func (e *ends) of(d direction) *bool {
	if d == reading {
		return &e.reading
	}
	return &e.writing
}

type channelTable struct {
	mu   sync.Mutex
	byID map[string]*channel
}

// Channel capacities in frames.
const (
	channelBuffer    = 64
	maxChannelBuffer = 1024
)

// channelTTL is how long the two ends of a channel may take to connect. After that, the
// channel expires and its contents are lost. A real engine checks once a minute, so its
// channels can live up to a minute longer.
const channelTTL = 5 * time.Minute

func (e *Engine) registerChannels() {
	type CreateChannelInput struct {
		BufferSize *uint `json:"buffer_size"`
	}
	e.addBuiltin("engine::channels::create", engineWorker, "Create a data channel",
		func(_ context.Context, c *call) (json.RawMessage, *wireError) {
			in, bad := decodeInput[CreateChannelInput](c.functionID, c.data)
			if bad != nil {
				return nil, bad
			}
			size := uint(channelBuffer)
			if in.BufferSize != nil {
				size = min(max(*in.BufferSize, 1), maxChannelBuffer)
			}
			ch := e.newChannel(int(size))
			return mustEncode(map[string]any{"writer": ch.ref(writing), "reader": ch.ref(reading)}), nil
		})
}

func (e *Engine) newChannel(size int) *channel {
	ch := &channel{
		id: uuid.NewString(), key: uuid.NewString(),
		buffer: make(chan channelFrame, size), stopped: make(chan struct{}),
	}
	t := &e.channels
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[string]*channel)
	}
	t.byID[ch.id] = ch
	ch.expiry = time.AfterFunc(channelTTL, func() { e.expireChannel(ch) })
	return ch
}

// ref returns the reference that gives access to end d.
func (ch *channel) ref(d direction) json.RawMessage {
	return new(object).str("access_key", ch.key).str("channel_id", ch.id).str("direction", string(d)).bytes()
}

// take claims an end. It returns false if the end has already been taken.
func (ch *channel) take(d direction) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	taken := ch.taken.of(d)
	if *taken {
		return false
	}
	*taken = true
	return true
}

// giveBack reverses take, unless the end has been closed.
func (ch *channel) giveBack(d direction) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	*ch.taken.of(d) = *ch.ended.of(d)
}

// endChannel permanently closes one end. If the writing end closes, the reader still receives
// the remaining frames. If the reading end closes, writes fail. The channel is deleted when
// both ends are closed.
func (e *Engine) endChannel(ch *channel, d direction) {
	ch.mu.Lock()
	ended := ch.ended.of(d)
	if *ended {
		ch.mu.Unlock()
		return
	}
	*ended, *ch.taken.of(d) = true, true
	if d == writing {
		close(ch.buffer)
	} else {
		close(ch.stopped)
	}
	over := ch.ended.reading && ch.ended.writing
	ch.mu.Unlock()
	if over {
		e.forgetChannel(ch)
	}
}

// releaseChannel closes an end unless it has been taken.
func (e *Engine) releaseChannel(ch *channel, d direction) {
	if ch.take(d) {
		e.endChannel(ch, d)
	}
}

func (e *Engine) forgetChannel(ch *channel) {
	ch.expiry.Stop()
	e.channels.mu.Lock()
	delete(e.channels.byID, ch.id)
	e.channels.mu.Unlock()
}

// stopExpiry stops the timers of all channels, so they do not outlive the engine.
func (t *channelTable) stopExpiry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ch := range t.byID {
		ch.expiry.Stop()
	}
}

// expireChannel removes a channel unless both ends have been taken. A connected writer is
// disconnected. For a connected reader, the channel ends normally.
func (e *Engine) expireChannel(ch *channel) {
	ch.mu.Lock()
	complete := ch.taken.reading && ch.taken.writing
	writer := ch.taken.writing
	ch.mu.Unlock()
	if complete {
		return
	}
	e.forgetChannel(ch)
	if writer {
		e.endChannel(ch, reading)
	} else {
		e.endChannel(ch, writing)
	}
}

// write forwards one frame and blocks while the buffer is full. It returns false if the reader
// has disconnected or ctx is done.
func (ch *channel) write(ctx context.Context, f channelFrame) bool {
	select {
	case <-ch.stopped:
		return false
	default:
	}
	select {
	case ch.buffer <- f:
		return true
	case <-ch.stopped:
		return false
	case <-ctx.Done():
		return false
	}
}

// serveChannel serves one end of a channel at /ws/channels/{id}. The channel's key is the only
// credential.
func (e *Engine) serveChannel(rw http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	d := direction(query.Get("dir"))
	if !query.Has("key") || d != reading && d != writing {
		http.Error(rw, "Bad Request", http.StatusBadRequest)
		return
	}
	e.channels.mu.Lock()
	ch := e.channels.byID[r.PathValue("id")]
	e.channels.mu.Unlock()
	if ch == nil || subtle.ConstantTimeCompare([]byte(ch.key), []byte(query.Get("key"))) != 1 {
		rw.WriteHeader(http.StatusNotFound)
		_, _ = rw.Write([]byte("Channel not found"))
		return
	}
	if refusesHandshake(rw, r) {
		return
	}
	// The end is taken before the client knows that it is connected, so that of two clients
	// that connect one after the other, the first one gets the end.
	taken := ch.take(d)
	conn, err := e.upgrade(rw, r, readBuffer, false)
	if err != nil {
		if taken {
			ch.giveBack(d)
		}
		return
	}
	defer e.drop(conn)
	conn.SetCloseHandler(func(code int, text string) error {
		_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(lingerTime))
		return nil
	})
	if !taken {
		farewell(conn)
		return
	}
	if d == writing {
		e.serveChannelWriter(conn, ch)
	} else {
		e.serveChannelReader(conn, ch)
	}
}

// serveChannelWriter forwards the writer's frames to the channel. A Close frame from the
// writer ends the channel normally, and so does a text message that is not UTF-8. In protocol
// versions up to 0.25, the channel also ends normally if the writer disconnects without a
// Close frame. Once the reader has disconnected, the engine cuts the writer's connection.
func (e *Engine) serveChannelWriter(conn *websocket.Conn, ch *channel) {
	defer e.endChannel(ch, writing)
	for {
		kind, data, err := conn.ReadMessage()
		if err != nil && e.Protocol() >= Protocol026 {
			var closed *websocket.CloseError
			ch.cut.Store(!errors.As(err, &closed) || closed.Code == websocket.CloseAbnormalClosure)
		}
		if err != nil || kind == websocket.TextMessage && !utf8.Valid(data) || !ch.write(e.ctx, channelFrame{kind, data}) {
			return
		}
	}
}

// serveChannelReader sends the writer's frames to the reader, followed by a Close frame. If
// the writer disconnected without a Close frame, the status code is 1011 (internal error).
// Otherwise the Close frame has no status code. Like a real engine, serveChannelReader never
// reads from the connection. Pings therefore go unanswered, and a disconnected reader is
// noticed only when the next frame is sent.
func (e *Engine) serveChannelReader(conn *websocket.Conn, ch *channel) {
	defer e.endChannel(ch, reading)
	for {
		select {
		case f, more := <-ch.buffer:
			if !more && ch.cut.Load() {
				now := time.Now()
				lost := websocket.FormatCloseMessage(websocket.CloseInternalServerErr, "the writer is gone")
				_ = conn.WriteControl(websocket.CloseMessage, lost, now.Add(lingerTime))
				awaitClose(conn, now)
				return
			}
			if !more {
				farewell(conn)
				return
			}
			if conn.WriteMessage(f.kind, f.data) != nil {
				return
			}
		case <-e.ctx.Done():
			return
		}
	}
}
