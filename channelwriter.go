package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	mu       sync.Mutex // one frame at a time
	deadline time.Time
	buf      []byte // of ReadFrom

	errMu sync.Mutex
	err   error  // what ended the socket
	gone  func() // called when the reader is gone
}

func newChannelWriter(c *Client, ref StreamChannelRef) *ChannelWriter {
	w := &ChannelWriter{end: channelEnd{client: c, ref: ref}}
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
			w.errMu.Lock()
			gone := w.gone
			w.errMu.Unlock()
			if gone != nil {
				gone()
			}
			return
		}
	}
}

func (w *ChannelWriter) fail(err error) {
	w.errMu.Lock()
	defer w.errMu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// onGone calls f when the reader is gone, or has gone already.
func (w *ChannelWriter) onGone(f func()) {
	w.errMu.Lock()
	w.gone = f
	err := w.err
	w.errMu.Unlock()
	if err != nil {
		f()
	}
}

func (w *ChannelWriter) failure() error {
	w.errMu.Lock()
	defer w.errMu.Unlock()
	return w.err
}

// SetWriteDeadline bounds the Writes from now on; the zero value, which is the
// default, lets them wait for the reader without end. A Write that runs out of
// time breaks the channel.
func (w *ChannelWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}

// Write sends p in frames of at most 64 KiB. It waits while the channel is full.
// An error is an [ErrChannelClosed] once the reader is gone.
func (w *ChannelWriter) Write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
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
	w.mu.Lock()
	defer w.mu.Unlock()
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
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frame(ctx, websocket.TextMessage, raw)
}

// flush sends an empty frame of bytes.
func (w *ChannelWriter) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frame(context.Background(), websocket.BinaryMessage, nil)
}

// frame writes one frame; w.mu is held.
func (w *ChannelWriter) frame(ctx context.Context, kind int, p []byte) error {
	opening, cancel := ctx, context.CancelFunc(func() {})
	if !w.deadline.IsZero() {
		opening, cancel = context.WithDeadline(ctx, w.deadline)
	}
	err := w.end.open(opening, "write")
	cancel()
	if err != nil {
		return err
	}
	if err := w.failure(); err != nil {
		return err
	}
	conn := w.end.conn
	_ = conn.SetWriteDeadline(w.deadline)
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().SetWriteDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	if err := conn.WriteMessage(kind, p); err != nil {
		if ctx.Err() != nil {
			err = ctxError(ctx)
		}
		w.fail(fmt.Errorf("iii: channel write: %w", err))
		if cause := w.failure(); !errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", ErrChannelClosed, err)
		}
		return err
	}
	return nil
}

// Close ends the channel: the reader gets what was written, then an end. A
// writer that was never used is opened for that, unless its Ref was given away.
// A Write that waits is broken off. Further calls return nil.
func (w *ChannelWriter) Close() error {
	if !w.mu.TryLock() { // somebody writes
		w.fail(ErrChannelClosed)
		w.end.abort()
		return nil
	}
	defer w.mu.Unlock()
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
		deadline := w.deadline
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
