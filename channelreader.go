package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/signal"
	"github.com/iii-go/iii/internal/wsconn"
)

var (
	_ io.ReadCloser = (*ChannelReader)(nil)
	_ io.WriterTo   = (*ChannelReader)(nil)
)

// channelReadAhead is the number of bytes that a reader buffers before it blocks the writer.
// While the program reads only one kind of frame, the other kind has the higher limit
// channelBacklog, also in bytes.
const (
	channelReadAhead = 4 * channelChunk
	channelBacklog   = 16 << 20
)

// channelSpares is the number of frame buffers kept for reuse. It is enough for a full queue,
// the pump and the caller.
const channelSpares = channelReadAhead/channelChunk + 2

// ChannelReader is the reading end of a channel. Read returns bytes, and Messages yields
// messages; the order within each kind is preserved. While only one kind is read, the reader
// buffers up to 16 MiB of the other. One goroutine may read bytes while another reads
// messages. The zero value is not usable; use [Client.CreateChannel] or [Client.OpenReader].
// Close the reader when done.
type ChannelReader struct {
	end channelEnd

	mu       sync.Mutex
	bytes    channelQueue
	messages channelQueue
	err      error // why the socket was closed; io.EOF after a normal end
	changed  signal.Broadcast
	spare    [][]byte

	deadline channelDeadline // applies to reading bytes
}

// channelFrame is the number of bytes charged for each frame in addition to its content.
// Without it, a writer could queue any number of empty frames.
const channelFrame = 64

// channelQueue holds the received frames of one kind.
type channelQueue struct {
	frames  fifo.Queue[[]byte]
	read    int // number of bytes already read from the first frame
	size    int // memory charged, in bytes
	waiting int // number of callers waiting for a frame
}

// pop removes the first frame and returns it together with the offset of its first unread
// byte.
func (q *channelQueue) pop() (frame []byte, read int) {
	frame, read = q.frames.Pop(), q.read
	q.read = 0
	q.size -= len(frame) + channelFrame
	return frame, read
}

func newChannelReader(c *Client, ref StreamChannelRef) *ChannelReader {
	r := &ChannelReader{end: channelEnd{client: c, ref: ref}}
	r.end.onOpen = r.pump
	return r
}

func (r *ChannelReader) open(ctx context.Context) error { return r.end.open(ctx, "read") }

// openForBytes opens the channel for Read, subject to the read deadline.
func (r *ChannelReader) openForBytes() error {
	return r.end.openWithin(context.Background(), &r.deadline, 0, "read")
}

// Ref returns a reference that lets another worker open this end. The end must not have been
// used locally.
func (r *ChannelReader) Ref() StreamChannelRef { return r.end.reference() }

// pump reads the socket without a deadline, because the engine sends nothing while the writer
// is idle and does not answer pings on a channel.
func (r *ChannelReader) pump(conn *wsconn.Conn) {
	for {
		kind, src, err := conn.NextReader()
		var frame []byte
		if err == nil {
			frame, err = wsconn.AppendAll(src, r.buffer())
			frame = r.fitted(frame)
		}
		if err == nil {
			err = r.keep(kind == wsconn.Text, frame)
		}
		if err != nil {
			switch {
			case wsconn.IsNormalClose(err):
				err = io.EOF
			case wsconn.IsInternalError(err):
				err = fmt.Errorf("iii: channel read: the writer has disconnected: %w", io.ErrUnexpectedEOF)
			case !errors.Is(err, ErrChannelBacklog):
				err = public(fmt.Errorf("channel read: %w: %w", io.ErrUnexpectedEOF, err))
			}
			r.endReading(err)
			conn.Abort()
			return
		}
	}
}

// keep queues a frame. If the queue is full, keep waits until there is room or the client is
// closed. Meanwhile, the writer is blocked. It does not wait if all waiting callers want the
// other kind of frame.
func (r *ChannelReader) keep(text bool, frame []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	own, other := &r.bytes, &r.messages
	if text {
		own, other = other, own
	}
	for own.size >= channelReadAhead && r.err == nil {
		if other.waiting > 0 && own.waiting == 0 {
			if own.size+len(frame) > channelBacklog {
				return ErrChannelBacklog
			}
			break
		}
		changed := r.changed.Wait()
		r.mu.Unlock()
		select {
		case <-changed:
		case <-r.end.client.handlers.Done():
		}
		r.mu.Lock()
		if r.end.client.handlers.Err() != nil {
			return ErrClosed
		}
	}
	if r.err != nil {
		return r.err
	}
	own.frames.Push(frame)
	own.size += len(frame) + channelFrame
	r.changed.Send()
	return nil
}

func (r *ChannelReader) endReading(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.changed.Send()
}

// buffer returns an empty buffer for a frame, to be passed to recycle after use.
func (r *ChannelReader) buffer() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.spare); n > 0 {
		buf := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return buf[:0]
	}
	return make([]byte, 0, channelChunk+512) // extra room, so that reading a whole chunk does not grow the buffer
}

// fitted returns the frame in a buffer of matching size. A short frame in a chunk-sized buffer
// would occupy much more memory than the queue charges for it.
func (r *ChannelReader) fitted(frame []byte) []byte {
	if len(frame) >= cap(frame)/2 {
		return frame
	}
	small := bytes.Clone(frame)
	r.recycle(frame)
	return small
}

func (r *ChannelReader) recycle(buf []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spare) < channelSpares && cap(buf) >= channelChunk && cap(buf) <= 2*channelChunk {
		r.spare = append(r.spare, buf[:0])
	}
}

// SetReadDeadline sets the deadline for current and future Reads. Once the deadline has
// passed, Reads fail with os.ErrDeadlineExceeded, even if bytes are available. The channel
// stays usable, and Reads work again after a later deadline is set. The zero value means no
// deadline and is the default. The deadline does not apply to Messages, which uses its context
// instead. SetReadDeadline may be called while another goroutine reads.
func (r *ChannelReader) SetReadDeadline(t time.Time) error {
	r.deadline.set(t)
	return nil
}

// next waits until q has a frame or ctx is done. It returns the frame together with the offset
// of its first unread byte.
func (r *ChannelReader) next(ctx context.Context, q *channelQueue) (frame []byte, read int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.await(ctx, q); err != nil {
		return nil, 0, err
	}
	frame, read = q.pop()
	r.changed.Send()
	return frame, read, nil
}

// await waits until q has a frame or ctx is done. If q is r.bytes, ctx must come from
// r.deadline, because await then returns os.ErrDeadlineExceeded instead of the context's
// error. The caller holds r.mu; await releases it while waiting.
func (r *ChannelReader) await(ctx context.Context, q *channelQueue) error {
	q.waiting++
	r.changed.Send() // wake keep, which may not need to wait for room now that there is a caller
	defer func() { q.waiting-- }()
	for {
		switch {
		case ctx.Err() != nil && q == &r.bytes:
			return fmt.Errorf("iii: channel read: %w", os.ErrDeadlineExceeded)
		case ctx.Err() != nil:
			return ctxError(ctx)
		case q.frames.Len() > 0:
			return nil
		case r.err != nil:
			return r.err
		}
		changed := r.changed.Wait()
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
}

// Read returns bytes as they arrive. Messages that arrive in the meantime are buffered for
// [ChannelReader.Messages]. Read returns io.EOF once the writer has closed the channel. If the
// writer has disappeared, the error wraps io.ErrUnexpectedEOF on engine 0.26 and later;
// earlier engines do not distinguish this from a closed channel. If the reader's own
// connection is lost, the error wraps io.ErrUnexpectedEOF on all engines.
func (r *ChannelReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.openForBytes(); err != nil {
		return 0, err
	}
	for {
		n, done, err := r.readFrame(p)
		if done != nil {
			r.recycle(done)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// readFrame copies data from the first frame to p. If this consumes the frame, readFrame
// removes the frame from the queue and returns it as done.
func (r *ChannelReader) readFrame(p []byte) (n int, done []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := &r.bytes
	if err := r.await(r.deadline.passed(), q); err != nil {
		return 0, nil, err
	}
	frame := *q.frames.First()
	n = copy(p, frame[q.read:])
	if q.read += n; q.read == len(frame) {
		done, _ = q.pop()
		r.changed.Send()
	}
	return n, done, nil
}

// WriteTo implements [io.WriterTo].
func (r *ChannelReader) WriteTo(dst io.Writer) (n int64, err error) {
	if err := r.openForBytes(); err != nil {
		return 0, err
	}
	for {
		frame, read, err := r.next(r.deadline.passed(), &r.bytes)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := dst.Write(frame[read:])
		n += int64(k)
		if err != nil {
			return n, err
		}
		r.recycle(frame)
	}
}

// Messages yields messages until the writer closes the channel. Bytes that arrive in the
// meantime are buffered for [ChannelReader.Read]. A message that is not valid JSON is yielded
// as a JSON string. An error, including ctx.Err(), is yielded once and ends the loop. Breaking
// out of the loop early leaves the channel usable.
func (r *ChannelReader) Messages(ctx context.Context) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		if err := r.open(ctx); err != nil {
			yield(nil, err)
			return
		}
		for {
			frame, _, err := r.next(ctx, &r.messages)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			message := json.RawMessage(frame)
			if !rawjson.Valid(message) {
				message = rawjson.AppendString(nil, string(frame))
			}
			if !yield(message, nil) {
				return
			}
		}
	}
}

// Close closes this end. The writer notices this only when it writes, and with a delay.
// Calling Close again returns nil.
func (r *ChannelReader) Close() error {
	r.endReading(ErrChannelClosed)
	r.end.abort()
	r.deadline.set(time.Time{})
	return nil
}
