package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/wsconn"
)

var (
	_ io.WriteCloser = (*ChannelWriter)(nil)
	_ io.ReaderFrom  = (*ChannelWriter)(nil)
)

// ChannelWriter is the writing end of a channel. Close it when done, because the reader sees
// the end of the data only after Close. All methods are safe for concurrent use, and frames
// are never interleaved. The zero value is not usable; use [Client.CreateChannel] or
// [Client.OpenWriter].
type ChannelWriter struct {
	end channelEnd

	writing channelLock // held while one frame is written
	buf     []byte      // for ReadFrom
	wrote   time.Time   // when the last frame was written; guarded by writing

	closing atomic.Bool   // Close was called
	closed  chan struct{} // closed when Close has completed

	deadline channelDeadline // limits the waits for the writing lock and for opening the channel

	mu      sync.Mutex
	until   time.Time     // the write deadline
	bounded bool          // a deadline has been set, so stall does not apply
	stall   time.Duration // how long a write may stall, unless a deadline was set; 0 means no limit
	hurry   time.Duration // like stall, but applies even if a deadline was set
	probing bool          // the frame being written is a probe
	err     error         // why the socket was closed
	lost    error         // why the connection ended without a Close frame from the engine
	gone    func(error)   // called when the reader has disconnected
}

func newChannelWriter(c *Client, ref StreamChannelRef) *ChannelWriter {
	w := &ChannelWriter{end: channelEnd{client: c, ref: ref}, writing: newChannelLock(), closed: make(chan struct{})}
	w.end.onOpen = w.watch
	return w
}

// Ref returns a reference that lets another worker open this end. The end must not have been
// used locally.
func (w *ChannelWriter) Ref() StreamChannelRef { return w.end.reference() }

// watch reads from the socket until it is closed. The engine sends no data to a writer, but
// reading also handles control frames, and it fails when the reader has disconnected.
func (w *ChannelWriter) watch(conn *wsconn.Conn) {
	for {
		if _, _, err := conn.NextReader(); err != nil {
			ended := fmt.Errorf("%w: %w", ErrChannelClosed, err)
			w.fail(ended)
			conn.Abort() // unblocks a Write in progress
			w.mu.Lock()
			if !wsconn.IsNormalClose(err) {
				w.lost = ended
			}
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

// onGone makes the writer call f with the cause when the reader disconnects. It must be called
// before the writer opens.
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

// SetWriteDeadline sets the deadline for current and future calls to Write and SendMessage.
// The zero value means no deadline and is the default. A Write that exceeds the deadline fails
// with os.ErrDeadlineExceeded and breaks the channel. A deadline that passes between two
// Writes does not break the channel. SetWriteDeadline may be called while another goroutine
// writes.
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

// progressBuffer is the send buffer size, in bytes, of a socket that has a stall limit. By
// default, the operating system may choose several megabytes, and a full buffer that large
// accepts no more data until a third of it is free. A client that reads a few kilobytes per
// second would then appear stalled for minutes.
const progressBuffer = 256 << 10

// limitStall makes the write of a frame fail after d without progress. The limit applies until
// a deadline is set; 0 means no limit. limitStall must be called before the writer opens.
func (w *ChannelWriter) limitStall(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stall = d; d > 0 {
		w.end.sendBuffer = progressBuffer
	}
}

// hurryUp makes the write of a frame fail after d without progress, even if a deadline is set.
func (w *ChannelWriter) hurryUp(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurry = d
	w.applyLimit()
}

// begin applies the limits for the next frame.
func (w *ChannelWriter) begin(probe bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probing = probe
	w.applyLimit()
}

// applyLimit applies the current frame's limits to the socket. The caller holds w.mu.
func (w *ChannelWriter) applyLimit() {
	conn := w.end.socket()
	if conn == nil {
		return // begin runs again once the socket is open
	}
	limit := wsconn.WriteLimit{Deadline: w.until, Stall: w.stall}
	switch {
	case w.probing && (w.stall == 0 || w.bounded && w.until.IsZero()): // no limit applies
		limit = wsconn.WriteLimit{}
	case w.probing && w.until.After(time.Now().Add(w.stall)):
		limit.Stall = 0
	case w.probing: // the deadline was set for earlier writes
		limit.Deadline = time.Time{}
	case w.bounded:
		limit.Stall = 0
	}
	if w.hurry > 0 {
		limit.Stall = w.hurry
	}
	conn.LimitWrites(limit)
}

// Write sends p in frames of at most 64 KiB. It blocks while the channel is full. If the
// reader has disconnected, the error matches [ErrChannelClosed], but the writer learns of it
// with a delay, so the first Writes may still succeed.
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

// ReadFrom implements [io.ReaderFrom]. It reads at most 64 KiB from src at a time, and sends
// the bytes from each Read immediately, as one frame.
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

// SendMessage encodes v as JSON and sends it as a message, which must be smaller than 64 MiB.
// Messages arrive in the order in which they were sent. If ctx is done while the message is
// being written, the channel is broken.
func (w *ChannelWriter) SendMessage(ctx context.Context, v any) error {
	raw, err := rawOf(v)
	if err != nil {
		return fmt.Errorf("iii: channel message does not encode: %w", err)
	}
	if len(raw) >= messageTooLarge {
		return public(fmt.Errorf("channel message: %w: %d bytes", ErrMessageTooLarge, len(raw)))
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

// probe sends a message if no frame has been written for the duration idle, to check that the
// reader is still connected. It does not wait for a concurrent writer, and it ignores an
// expired deadline, because that deadline was meant for Writes. It returns the time until the
// next probe.
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

// lock waits for concurrent writers, subject to the write deadline.
func (w *ChannelWriter) lock() error {
	if w.writing.tryLock() {
		return nil
	}
	if w.writing.lock(w.deadline.passed()) != nil {
		return fmt.Errorf("iii: channel write: %w", os.ErrDeadlineExceeded)
	}
	return nil
}

// frame opens the channel if necessary and writes one frame. The caller holds w.writing.
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
				w.end.conn.ExpireWrites(false) // the frame may have been written after all, and others may follow
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

// broken records why a frame could not be written: the time limit was exceeded, or the reader
// has disconnected. The channel is not usable afterward.
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

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// expired returns the error for a frame that exceeded its time limit.
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

// Close closes the channel. The reader receives everything written so far, followed by the end
// of the data. If the connection is lost before the engine has confirmed that it has read the
// data, the error matches [ErrChannelClosed], because the data may be lost, too. Close waits for
// the confirmation until the write deadline or, without a deadline, for 10 s; a confirmation
// that a slow reader delays further is not an error. If the writer was never used and Ref was
// never called, Close first opens the channel, in order to notify the reader. Close interrupts
// a blocked Write. Calling Close again waits until the channel is closed and returns nil.
func (w *ChannelWriter) Close() error {
	if w.closing.Swap(true) { // must not interrupt the first Close
		<-w.closed
		return nil
	}
	defer close(w.closed)
	return w.close()
}

func (w *ChannelWriter) close() error {
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
	if conn := w.end.conn; conn != nil && err == nil {
		if err = w.closeOrderly(conn); err != nil {
			err = public(fmt.Errorf("channel close: %w", err))
		}
	}
	w.fail(ErrChannelClosed)
	w.end.abort()
	return err
}

// closeOrderly sends a Close frame, unless the connection has ended, and waits for the engine's.
// It returns an error if the connection was lost.
func (w *ChannelWriter) closeOrderly(conn *wsconn.Conn) error {
	if w.failure() == nil {
		deadline := w.closeDeadline()
		// The engine reads in order, so all data written before the Close frame is read first.
		switch err := conn.WriteClose(deadline); {
		case timedOut(err):
			return os.ErrDeadlineExceeded
		case err != nil:
			return fmt.Errorf("%w: %w", ErrChannelClosed, err)
		}
		w.awaitEnd(deadline)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

func (w *ChannelWriter) closeDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.until.IsZero() {
		return w.until
	}
	return time.Now().Add(wsconn.WriteTimeout)
}

// awaitEnd waits until the engine has read the Close frame. Without this wait, data could be
// lost if the program exits immediately afterward.
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
