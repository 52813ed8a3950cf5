package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/wsconn"
)

var (
	_ io.WriteCloser = (*ChannelWriter)(nil)
	_ io.ReaderFrom  = (*ChannelWriter)(nil)
)

// ChannelWriter is the writing end of a channel. Close it so that the reader sees the
// end. All methods are safe for concurrent use; their frames do not interleave.
// The zero value is not usable; use [Client.CreateChannel] or [Client.OpenWriter].
type ChannelWriter struct {
	end channelEnd

	writing channelLock // held while one frame is written
	buf     []byte      // for ReadFrom
	wrote   time.Time   // time at which the last frame was written; guarded by writing

	deadline channelDeadline // for acquiring writing and for opening

	mu      sync.Mutex
	until   time.Time     // the deadline that frames are written with
	bounded bool          // a deadline was set, so stall does not apply
	stall   time.Duration // longest time without progress until a deadline is set; 0 is no limit
	hurry   time.Duration // like stall, but regardless of any deadline
	probing bool          // the frame being written is a probe
	err     error         // why the socket ended
	gone    func(error)   // called when the reader is gone
}

func newChannelWriter(c *Client, ref StreamChannelRef) *ChannelWriter {
	w := &ChannelWriter{end: channelEnd{client: c, ref: ref}, writing: newChannelLock()}
	w.end.onOpen = w.watch
	return w
}

// Ref returns a reference with which another worker can open this end, provided that the end
// has not been used here.
func (w *ChannelWriter) Ref() StreamChannelRef { return w.end.reference() }

// watch reads a socket on which the engine sends no data, in order to answer control
// frames and to notice when the connection ends because the reader is gone.
func (w *ChannelWriter) watch(conn *wsconn.Conn) {
	for {
		if _, _, err := conn.NextReader(); err != nil {
			w.fail(fmt.Errorf("%w: %w", ErrChannelClosed, err))
			conn.Abort() // ends a blocked Write
			w.mu.Lock()
			gone, err := w.gone, w.err
			w.mu.Unlock()
			if gone != nil {
				gone(err)
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

// onGone sets f to be called with the reason when the reader is gone. Call it before the
// writer opens.
func (w *ChannelWriter) onGone(f func(error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = f
}

func (w *ChannelWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// SetWriteDeadline sets the deadline for current and future Writes and messages. The zero
// value, which is the default, lets them wait for the reader indefinitely. A Write that
// exceeds the deadline fails with os.ErrDeadlineExceeded, and the channel is broken. A
// deadline that passes between two Writes does not break the channel. SetWriteDeadline may be
// called while another goroutine writes.
func (w *ChannelWriter) SetWriteDeadline(t time.Time) error {
	w.deadline.set(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until, w.bounded = t, true
	if !w.probing {
		w.applyLimit()
	}
	return nil
}

// progressBuffer is the send buffer size of a socket that is watched for progress. If the
// operating system chose the size, the buffer could be several megabytes large and accept no
// more data until a third of it is free. A client that reads a few kilobytes per second would
// then seem to read nothing for minutes.
const progressBuffer = 256 << 10

// limitStall makes each frame fail that makes no progress for d, until a deadline is set. 0
// means no limit. Call it before the writer opens.
func (w *ChannelWriter) limitStall(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stall = d; d > 0 {
		w.end.sendBuffer = progressBuffer
	}
}

// hurryUp makes each frame fail that makes no progress for d, regardless of any deadline.
func (w *ChannelWriter) hurryUp(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurry = d
	w.applyLimit()
}

// begin sets the limit for the next frame.
func (w *ChannelWriter) begin(probe bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probing = probe
	w.applyLimit()
}

// applyLimit applies the current frame's limit to the socket. The caller holds w.mu.
func (w *ChannelWriter) applyLimit() {
	conn := w.end.socket()
	if conn == nil {
		return // begin follows the opening
	}
	limit := wsconn.WriteLimit{Deadline: w.until, Stall: w.stall}
	switch {
	case w.probing && (w.stall == 0 || w.bounded && w.until.IsZero()): // no limit applies
		limit = wsconn.WriteLimit{}
	case w.probing && w.until.After(time.Now().Add(w.stall)):
		limit.Stall = 0
	case w.probing: // the deadline was for writes that are over
		limit.Deadline = time.Time{}
	case w.bounded:
		limit.Stall = 0
	}
	if w.hurry > 0 {
		limit.Stall = w.hurry
	}
	conn.LimitWrites(limit)
}

// Write sends p in frames of at most 64 KiB. It blocks while the channel is full. Once
// the reader is gone, it returns an [ErrChannelClosed].
func (w *ChannelWriter) Write(p []byte) (n int, err error) {
	if err := w.lock(); err != nil {
		return 0, err
	}
	defer w.writing.unlock()
	for len(p) > 0 {
		chunk := p[:min(len(p), channelChunk)]
		if err := w.frame(context.Background(), wsconn.Binary, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

// ReadFrom implements io.ReaderFrom: it sends the bytes of each Read of src immediately,
// as one frame of at most 64 KiB.
func (w *ChannelWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if err := w.lock(); err != nil {
		return 0, err
	}
	defer w.writing.unlock()
	if w.buf == nil {
		w.buf = make([]byte, channelChunk)
	}
	for {
		k, readErr := src.Read(w.buf)
		if k > 0 {
			if err := w.frame(context.Background(), wsconn.Binary, w.buf[:k]); err != nil {
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

// SendMessage sends v, encoded as JSON, as a message, in order with the bytes. If ctx
// ends while the message is being written, the channel is broken.
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
	return w.frame(ctx, wsconn.Text, raw)
}

// flush sends an empty binary frame.
func (w *ChannelWriter) flush() error {
	if err := w.lock(); err != nil {
		return err
	}
	defer w.writing.unlock()
	return w.frame(context.Background(), wsconn.Binary, nil)
}

// probe sends a message if no frame has been written for the time idle, to find out whether
// the other end is still there. It does not wait for a concurrent writer. It ignores a
// deadline that has passed, because that deadline was meant for Writes. next is the time until
// the next probe.
func (w *ChannelWriter) probe(message []byte, idle time.Duration) (next time.Duration, err error) {
	if !w.writing.tryLock() {
		return idle, nil
	}
	defer w.writing.unlock()
	if left := idle - time.Since(w.wrote); left > 0 {
		return left, nil
	}
	if err := w.failure(); err != nil {
		return 0, err
	}
	w.begin(true)
	return idle, w.send(context.Background(), wsconn.Text, message)
}

// lock waits for concurrent writers within the deadline.
func (w *ChannelWriter) lock() error {
	if w.writing.tryLock() {
		return nil
	}
	if w.writing.lock(w.deadline.passed()) != nil {
		return fmt.Errorf("iii: channel write: %w", os.ErrDeadlineExceeded)
	}
	return nil
}

// frame writes one frame. The caller holds w.writing.
func (w *ChannelWriter) frame(ctx context.Context, kind int, p []byte) error {
	w.mu.Lock()
	longest := w.stall
	if w.bounded {
		longest = 0
	}
	w.mu.Unlock()
	if err := w.end.openWithin(ctx, &w.deadline, longest, "write"); err != nil {
		return err
	}
	if err := w.failure(); err != nil {
		return err
	}
	w.begin(false)
	return w.send(ctx, kind, p)
}

// send writes a frame to the open socket. The caller holds w.writing.
func (w *ChannelWriter) send(ctx context.Context, kind int, p []byte) error {
	if ctx.Done() != nil {
		expired := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			w.end.conn.ExpireWrites(true)
			close(expired)
		})
		defer func() {
			if !stop() {
				<-expired
				w.end.conn.ExpireWrites(false) // for the next frame, if this one was written
			}
		}()
	}
	err := w.end.conn.WriteMessage(kind, p)
	w.wrote = time.Now()
	if err != nil {
		return w.broken(ctx, err)
	}
	return nil
}

// broken records the reason why a frame could not be written: the time ran out, or the other
// end is gone. The channel is unusable afterwards.
func (w *ChannelWriter) broken(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("iii: channel write: %w", ctxError(ctx))
	case timedOut(err):
		err = w.expired()
	default:
		err = fmt.Errorf("%w: %w", ErrChannelClosed, err)
	}
	w.fail(err)
	return err
}

// timedOut reports whether err means that the time ran out.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// expired returns the error of a frame that ran out of time.
func (w *ChannelWriter) expired() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	stall := w.stall
	switch {
	case w.hurry > 0:
		stall = w.hurry
	case w.bounded && !w.probing:
		stall = 0
	}
	if stall == 0 {
		return fmt.Errorf("iii: channel write: %w", os.ErrDeadlineExceeded)
	}
	return fmt.Errorf("iii: channel write: no progress in %v: %w", stall, os.ErrDeadlineExceeded)
}

// Close ends the channel: the reader receives everything that was written, and then the
// end. Close opens a writer that was never used, unless its Ref was given away, so that
// the reader sees the end. It interrupts a blocked Write. Further calls return nil.
func (w *ChannelWriter) Close() error {
	defer w.deadline.set(time.Time{})
	if !w.writing.tryLock() { // a Write is in progress
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
		ctx, cancel := context.WithTimeout(context.Background(), wsconn.DialTimeout)
		err = w.end.open(ctx, "write")
		cancel()
	}
	if conn := w.end.conn; conn != nil && err == nil && w.failure() == nil {
		deadline := w.closeDeadline()
		// The engine reads in order, so it reads the Close frame after everything that was
		// written.
		if err = conn.WriteClose(deadline); err == nil {
			w.awaitEnd(deadline)
		} else {
			if timedOut(err) {
				err = os.ErrDeadlineExceeded
			}
			err = public(fmt.Errorf("channel close: %w", err))
		}
	}
	w.fail(ErrChannelClosed)
	w.end.abort()
	return err
}

// closeDeadline returns the deadline for Close.
func (w *ChannelWriter) closeDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.until.IsZero() {
		return w.until
	}
	return time.Now().Add(wsconn.WriteTimeout)
}

// awaitEnd waits until the engine has read the Close frame, so that no data is lost if
// the program exits next.
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
