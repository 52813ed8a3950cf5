package iii

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// requestBody is the body of a mounted handler's request: the request's channel,
// which it opens at the first Read. As under net/http, Close may be called while
// another goroutine reads: a transport that forwards the body outlives the handler.
type requestBody struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc // ends an opening that is under way
	ref    StreamChannelRef
	length int64 // that the body must have; -1 is any
	closed atomic.Bool

	mu     sync.Mutex
	reader *ChannelReader
	stop   func() bool // the closing of reader when ctx ends
	read   int64
}

// newRequestBody is the body of r, whose channel is ref. A client that leaves in the
// middle looks like the end of the channel. The declared length tells the difference,
// where it is surely that of the bytes in the channel.
func newRequestBody(ctx context.Context, c *Client, ref StreamChannelRef, r *http.Request) *requestBody {
	b := &requestBody{client: c, ref: ref, length: r.ContentLength}
	if strings.Contains(r.Header.Get("Content-Type"), "application/json") || r.Header.Get("Content-Encoding") != "" {
		b.length = -1
	}
	b.ctx, b.cancel = context.WithCancel(ctx)
	return b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	reader, err := b.open()
	if err != nil {
		return 0, err
	}
	n, err := reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	switch {
	case err == nil:
	case b.closed.Load():
		err = http.ErrBodyReadAfterClose
	case b.ctx.Err() != nil:
		err = ctxError(b.ctx)
	case err == io.EOF && b.read < b.length:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *requestBody) open() (*ChannelReader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return nil, http.ErrBodyReadAfterClose
	}
	if b.reader == nil {
		reader, err := b.client.OpenReader(b.ctx, b.ref)
		if err != nil {
			return nil, err
		}
		b.reader = reader
		b.stop = context.AfterFunc(b.ctx, func() { _ = reader.Close() })
	}
	return b.reader, nil
}

// Close implements io.Closer.
func (b *requestBody) Close() error {
	b.closed.Store(true) // first, for a Read that sees ctx end
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		return nil
	}
	b.stop()
	return b.reader.Close()
}
