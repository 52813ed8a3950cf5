package iii

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// requestBody is the request body of a mounted handler. It reads the request's channel,
// which opens at the first Read. As under net/http, Close may be called while another
// goroutine reads: a transport that forwards the body can outlive the handler.
type requestBody struct {
	ctx    context.Context
	reader *ChannelReader
	stop   func() bool // cancels closing reader at the end of ctx
	length int64       // length that the body must have; -1 accepts any
	closed atomic.Bool

	mu   sync.Mutex
	read int64
	end  error // the error that ended reading
}

// newRequestBody returns the body of r, whose channel is ref. When a client leaves before
// the end, the channel simply ends; only the declared length reveals the truncation. It
// is checked where it certainly equals the number of bytes in the channel: the engine
// delivers bodies as received, JSON included, but might decode one with a content
// encoding.
func newRequestBody(ctx context.Context, c *Client, ref StreamChannelRef, r *http.Request) *requestBody {
	b := &requestBody{ctx: ctx, reader: newChannelReader(c, ref), length: r.ContentLength}
	if r.Header.Get("Content-Encoding") != "" {
		b.length = -1
	}
	b.stop = context.AfterFunc(ctx, func() { _ = b.reader.Close() })
	return b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.mu.Lock()
	end := b.end
	b.mu.Unlock()
	if end != nil { // regardless of the deadline
		return 0, end
	}
	n, err := b.reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	switch {
	case err == nil && b.read == b.length:
		err, b.end = io.EOF, io.EOF // as under net/http, without checking what follows
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
	case b.closed.Load():
		err = http.ErrBodyReadAfterClose
	case b.ctx.Err() != nil:
		err = ctxError(b.ctx)
	case err == io.EOF && b.read < b.length:
		err = io.ErrUnexpectedEOF
		fallthrough
	case err == io.EOF:
		b.end = err
	}
	return n, err
}

// Close implements io.Closer.
func (b *requestBody) Close() error {
	b.closed.Store(true) // before closing, for a Read that sees the channel end
	b.stop()
	return b.reader.Close()
}
