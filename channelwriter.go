package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

var (
	_ io.WriteCloser = (*ChannelWriter)(nil)
	_ io.ReaderFrom  = (*ChannelWriter)(nil)
)

// ChannelWriter is the writing end of a channel. It must be closed, for the
// reader to see an end. Its methods may be called from several goroutines; their
// frames are not mixed. It is made by [Client.CreateChannel] and
// [Client.OpenWriter]; the zero value is of no use.
type ChannelWriter struct {
	end channelEnd

	writing channelLock // one frame at a time
	buf     []byte      // of ReadFrom

	mu       sync.Mutex
	deadline time.Time
	err      error  // what ended the socket
	gone     func() // called when the reader is gone
}

func newChannelWriter(c *Client, ref StreamChannelRef) *ChannelWriter {
	w := &ChannelWriter{end: channelEnd{client: c, ref: ref, opening: newChannelLock()}, writing: newChannelLock()}
	w.end.onOpen = w.watch
	return w
}

// Ref is the reference under which this end can be opened elsewhere, as long as
// it has not been used here.
func (w *ChannelWriter) Ref() StreamChannelRef { return w.end.reference() }

// watch reads what the engine never sends, to answer control frames and to see
// the end of the connection: the reader is gone.
func (w *ChannelWriter) watch(conn *websocket.Conn) {
	for {
		if _, _, err := conn.NextReader(); err != nil {
			w.fail(fmt.Errorf("%w: %w", ErrChannelClosed, err))
			_ = conn.NetConn().Close() // ends a Write that waits
			w.mu.Lock()
			gone := w.gone
			w.mu.Unlock()
			if gone != nil {
				gone()
			}
			return
		}
	}
}

func (w *ChannelWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// onGone calls f when the reader is gone, or has gone already.
func (w *ChannelWriter) onGone(f func()) {
	w.mu.Lock()
	w.gone = f
	err := w.err
	w.mu.Unlock()
	if err != nil {
		f()
	}
}

func (w *ChannelWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// SetWriteDeadline bounds the frames that are begun from now on, and does not wait
// for one that is under way; the zero value, which is the default, lets them wait
// for the reader without end. A Write that runs out of time fails with
// os.ErrDeadlineExceeded and breaks the channel.
func (w *ChannelWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}

// Write sends p in frames of at most 64 KiB. It waits while the channel is full.
// An error is an [ErrChannelClosed] once the reader is gone.
func (w *ChannelWriter) Write(p []byte) (n int, err error) {
	_ = w.writing.lock(context.Background())
	defer w.writing.unlock()
	for len(p) > 0 {
		chunk := p[:min(len(p), channelChunk)]
		if err := w.frame(context.Background(), websocket.BinaryMessage, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

// ReadFrom implements io.ReaderFrom: what one Read of src returns is sent at
// once, as one frame of at most 64 KiB.
func (w *ChannelWriter) ReadFrom(src io.Reader) (n int64, err error) {
	_ = w.writing.lock(context.Background())
	defer w.writing.unlock()
	if w.buf == nil {
		w.buf = make([]byte, channelChunk)
	}
	for {
		k, readErr := src.Read(w.buf)
		if k > 0 {
			if err := w.frame(context.Background(), websocket.BinaryMessage, w.buf[:k]); err != nil {
				return n, err
			}
			n += int64(k)
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// SendMessage sends v, encoded as JSON, as a message beside the bytes, in order
// with them. If ctx ends while it is being written the channel is broken.
func (w *ChannelWriter) SendMessage(ctx context.Context, v any) error {
	raw, err := rawOf(v)
	if err != nil {
		return fmt.Errorf("iii: channel message does not encode: %w", err)
	}
	if len(raw) >= messageTooLarge {
		return fmt.Errorf("iii: channel message: %w: %d bytes", ErrMessageTooLarge, len(raw))
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("iii: channel message: %w", ctxError(ctx))
	}
	if err := w.writing.lock(ctx); err != nil {
		return fmt.Errorf("iii: channel message: %w", err)
	}
	defer w.writing.unlock()
	return w.frame(ctx, websocket.TextMessage, raw)
}

// flush sends an empty frame of bytes.
func (w *ChannelWriter) flush() error {
	_ = w.writing.lock(context.Background())
	defer w.writing.unlock()
	return w.frame(context.Background(), websocket.BinaryMessage, nil)
}

func (w *ChannelWriter) writeDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deadline
}

// frame writes one frame; w.writing is held.
func (w *ChannelWriter) frame(ctx context.Context, kind int, p []byte) error {
	opening, cancel := ctx, context.CancelFunc(func() {})
	deadline := w.writeDeadline()
	if !deadline.IsZero() {
		opening, cancel = context.WithDeadline(ctx, deadline)
	}
	err := w.end.open(opening, "write")
	if err != nil && opening.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("iii: channel write: %w", os.ErrDeadlineExceeded)
	}
	cancel()
	if err != nil {
		return err
	}
	if err := w.failure(); err != nil {
		return err
	}
	conn := w.end.conn
	_ = conn.SetWriteDeadline(deadline)
	if ctx.Done() != nil {
		expired := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			w.end.net.expireWrites(true)
			close(expired)
		})
		defer func() {
			if !stop() {
				<-expired
				w.end.net.expireWrites(false) // for the next frame, if this one is out
			}
		}()
	}
	if err := conn.WriteMessage(kind, p); err != nil {
		return w.broken(ctx, err)
	}
	return nil
}

// broken notes why a frame could not be written, which ends the channel: there was
// no time left, or the other end is gone.
func (w *ChannelWriter) broken(ctx context.Context, err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("iii: channel write: %w", ctxError(ctx))
	case errors.As(err, &timeout) && timeout.Timeout():
		err = fmt.Errorf("iii: channel write: %w", os.ErrDeadlineExceeded)
	default:
		err = fmt.Errorf("%w: %w", ErrChannelClosed, err)
	}
	w.fail(err)
	return err
}

// Close ends the channel: the reader gets what was written, then an end. A
// writer that was never used is opened for that, unless its Ref was given away.
// A Write that waits is broken off. Further calls return nil.
func (w *ChannelWriter) Close() error {
	if !w.writing.tryLock() { // somebody writes
		w.fail(ErrChannelClosed)
		w.end.abort()
		return nil
	}
	defer w.writing.unlock()
	w.end.mu.Lock()
	closed, unused, given := w.end.closed, !w.end.opened, w.end.given
	w.end.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if unused && !given {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		err = w.end.open(ctx, "write")
		cancel()
	}
	if conn := w.end.conn; conn != nil && err == nil && w.failure() == nil {
		deadline := w.writeDeadline()
		if deadline.IsZero() {
			deadline = time.Now().Add(writeTimeout)
		}
		// The engine reads in order, so the end comes after all that was written.
		if err = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline); err == nil {
			w.awaitEnd(deadline)
		} else {
			err = fmt.Errorf("iii: channel close: %w", err)
		}
	}
	w.fail(ErrChannelClosed)
	w.end.abort()
	return err
}

// awaitEnd waits until the engine has read the Close, so that nothing is lost on
// the way when the program ends.
func (w *ChannelWriter) awaitEnd(deadline time.Time) {
	ended := make(chan struct{})
	go func() {
		w.end.pumping.Wait()
		close(ended)
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}
