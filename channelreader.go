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

// What a reader holds before it lets the writer wait, and what it keeps aside of
// one kind while only the other is asked for.
const (
	channelReadAhead = 4 * channelChunk
	channelBacklog   = 16 << 20
)

// channelSpares is how many buffers for frames are kept: those of a full queue,
// the pump's and the caller's.
const channelSpares = channelReadAhead/channelChunk + 2

// ChannelReader is the reading end of a channel: bytes by Read, messages by
// Messages, each in order; what comes of the other kind meanwhile is kept aside,
// up to 16 MiB. Bytes and messages may be read by two goroutines. It is made by
// [Client.CreateChannel] and [Client.OpenReader], and must be closed; the zero value
// is of no use.
type ChannelReader struct {
	end channelEnd

	mu       sync.Mutex
	bytes    channelQueue
	messages channelQueue
	err      error // what ended the socket; io.EOF is a normal end
	changed  signal.Broadcast
	spare    [][]byte

	deadline channelDeadline // of bytes
}

// channelFrame is what a frame costs beside its bytes: a writer may send many that
// are empty.
const channelFrame = 64

// channelQueue is what has come of one kind.
type channelQueue struct {
	frames  fifo.Queue[[]byte]
	read    int // bytes of the first frame that have been read
	size    int // bytes of memory
	waiting int // callers that wait for this kind
}

// pop takes the first frame, of which the bytes from read on have not been read.
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

// openForBytes opens within the deadline.
func (r *ChannelReader) openForBytes() error {
	return r.end.openWithin(context.Background(), &r.deadline, 0, "read")
}

// Ref is the reference under which this end can be opened elsewhere, as long as
// it has not been used here.
func (r *ChannelReader) Ref() StreamChannelRef { return r.end.reference() }

// pump reads the socket. There is no deadline: the engine says nothing while the
// writer is silent, and does not answer pings here.
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
			case wsconn.IsClose(err):
				err = io.EOF
			case !errors.Is(err, ErrChannelBacklog):
				err = fmt.Errorf("iii: channel read: %w: %w", io.ErrUnexpectedEOF, err)
			}
			r.finish(err)
			conn.Abort()
			return
		}
	}
}

// keep queues a frame when there is room: while nobody waits for the other kind
// the writer is held back, otherwise what is not asked for is kept aside.
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
		<-changed
		r.mu.Lock()
	}
	if r.err != nil {
		return r.err
	}
	own.frames.Push(frame)
	own.size += len(frame) + channelFrame
	r.changed.Send()
	return nil
}

func (r *ChannelReader) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.changed.Send()
}

// buffer is memory for a frame of bytes, and recycle gives it back.
func (r *ChannelReader) buffer() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.spare); n > 0 {
		buf := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return buf[:0]
	}
	return make([]byte, 0, channelChunk+512) // the end of a whole chunk is read without growing
}

// fitted is the frame in memory of its size: a queue of short ones in buffers for
// whole chunks would be much larger than it counts.
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

// SetReadDeadline bounds the Reads from now on, one that is under way included: they fail
// with os.ErrDeadlineExceeded once it has passed, also if there are bytes. The zero value,
// which is the default, is no bound. The channel stays usable, and a later deadline lets
// Reads go on. Messages is bounded by its context alone. It may be called while another
// goroutine reads.
func (r *ChannelReader) SetReadDeadline(t time.Time) error {
	r.deadline.set(t)
	return nil
}

// next waits, until the context ends, for a frame of q's kind, of which the bytes from
// read on are new.
func (r *ChannelReader) next(until context.Context, q *channelQueue) (frame []byte, read int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.await(until, q); err != nil {
		return nil, 0, err
	}
	frame, read = q.pop()
	r.changed.Send()
	return frame, read, nil
}

// await returns when q has a frame, or the context has ended: for bytes that of the
// deadline. r.mu is held, but for the wait.
func (r *ChannelReader) await(until context.Context, q *channelQueue) error {
	q.waiting++
	r.changed.Send() // the pump may keep more of the other kind aside now
	defer func() { q.waiting-- }()
	for {
		switch {
		case until.Err() != nil && q == &r.bytes:
			return fmt.Errorf("iii: channel read: %w", os.ErrDeadlineExceeded)
		case until.Err() != nil:
			return ctxError(until)
		case q.frames.Len() > 0:
			return nil
		case r.err != nil:
			return r.err
		}
		changed := r.changed.Wait()
		r.mu.Unlock()
		select {
		case <-changed:
		case <-until.Done():
		}
		r.mu.Lock()
	}
}

// Read returns bytes as they come; message frames are kept aside. At the
// writer's end it is io.EOF, also if the writer vanished, which the engine does
// not tell apart; an error that is io.ErrUnexpectedEOF if the connection broke.
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

// readFrame reads from the first frame, which is done when nothing of it is left.
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

// WriteTo implements io.WriterTo.
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

// Messages yields the messages until the writer ends; bytes are kept aside. A
// text that is no JSON is yielded as a JSON string. An error, ctx's among them,
// is yielded once and ends the loop; leaving the loop early keeps the channel
// usable.
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

// Close gives this end up: the writer notices at its next frame. Further calls
// return nil.
func (r *ChannelReader) Close() error {
	r.finish(ErrChannelClosed)
	r.end.abort()
	r.deadline.set(time.Time{})
	return nil
}
