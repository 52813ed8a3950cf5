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

// requestBody is the body of a mounted handler's request: the request's channel, which
// opens at the first Read. As under net/http, Close may be called while another goroutine
// reads: a transport that forwards the body outlives the handler.
type requestBody struct {
	ctx    context.Context
	reader *ChannelReader
	stop   func() bool // the closing of reader when ctx ends
	length int64       // that the body must have; -1 is any
	closed atomic.Bool

	mu   sync.Mutex
	read int64
	end  error // the end that was read
}

// newRequestBody is the body of r, whose channel is ref. A client that leaves in the
// middle looks like the end of the channel. The declared length tells the difference,
// where it is surely that of the bytes in the channel: the engine delivers them as they
// came, JSON too, but might decode an encoded body.
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
	if end != nil { // whatever the deadline
		return 0, end
	}
	n, err := b.reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	switch {
	case err == nil && b.read == b.length:
		err, b.end = io.EOF, io.EOF // as under net/http, without a look at what follows
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
	b.closed.Store(true) // first, for a Read that sees the channel end
	b.stop()
	return b.reader.Close()
}
