package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// MountHTTP serves one HTTP route with any net/http handler: it registers a
// function under the id "http::" + method + path and the trigger that binds it,
// like [HandleHTTP], whose rules for path hold here.
//
// The request is what net/http would give: r.URL is the concrete address, rebuilt
// from path and query parameters (of a repeated query key the engine delivers the
// last value), r.PathValue knows the path's parameters, decoded, and the body is
// read from a channel as it comes. r.RemoteAddr is empty: the engine does not tell
// it. r.Context ends with the invocation's, and when the client of a streamed response has
// left, which is looked for while the handler is idle, too: see [WithStreamHeartbeat].
// [http.ResponseController] has deadlines; [WithHTTPWriteTimeout] is the default of the one
// for writes.
//
// A response that ends before it is flushed, and fits in 64 KiB, goes as one
// value, whose headers may repeat. A larger or flushed one is streamed; of a
// header with several values a streamed response carries one line, joined by
// commas, and of Set-Cookie only the last, which is logged. Trailers are not
// sent, and connections cannot be hijacked. A panic is a 500; in a response that is
// streamed already it is the end, which only a declared Content-Length tells from
// a whole one.
func (c *Client) MountHTTP(method, path string, h http.Handler, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	handler := func(ctx context.Context, payload json.RawMessage) (any, error) {
		return c.serveMounted(ctx, payload, h)
	}
	return c.registerRoute(method, path, handler, functionSchemas{}, opts)
}

// serveMounted runs h for one request. A nil result says that the response went
// over the channel.
func (c *Client) serveMounted(ctx context.Context, payload json.RawMessage, h http.Handler) (any, error) {
	var in HTTPRequest[json.RawMessage]
	if err := decodePayload(payload, &in); err != nil {
		return nil, err
	}
	invocation := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := mountedRequest(ctx, &in)
	if err != nil {
		return bufferedResponse{StatusCode: http.StatusBadRequest, Headers: []string{plainText}, Body: err.Error() + "\n"}, nil
	}
	w := &responseWriter{client: c, invocation: invocation, ctx: ctx, cancel: cancel, ref: in.Response, header: http.Header{}, head: r.Method == http.MethodHead, route: in.Method + " " + in.Path}
	if r.ContentLength != 0 && in.RequestBody != nil {
		w.body = newRequestBody(ctx, c, *in.RequestBody, r)
		defer w.body.Close()
		r.Body = w.body
	}
	w.serve(h, r)
	return w.finish()
}

// mountedRequest is the request as net/http knows it, without its body.
func mountedRequest(ctx context.Context, in *HTTPRequest[json.RawMessage]) (*http.Request, error) {
	segments := strings.Split(in.Path, "/")
	values := map[string]string{}
	for i, segment := range segments {
		name, ok := strings.CutPrefix(segment, ":")
		if !ok {
			continue
		}
		raw := in.PathParams[name]
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			return nil, fmt.Errorf("path parameter %s is not percent-encoded: %w", name, err)
		}
		segments[i], values[name] = raw, decoded
	}
	query := url.Values{}
	for k, v := range in.QueryParams {
		query.Set(k, v)
	}
	rawPath := strings.Join(segments, "/")
	decodedPath, err := url.PathUnescape(rawPath)
	if err != nil {
		return nil, fmt.Errorf("path is not percent-encoded: %w", err)
	}
	u := &url.URL{Path: decodedPath, RawPath: rawPath, RawQuery: query.Encode()}
	header := make(http.Header, len(in.Headers))
	for k, v := range in.Headers {
		header[textproto.CanonicalMIMEHeaderKey(k)] = []string{v}
	}
	r := (&http.Request{
		Method: in.Method, URL: u, RequestURI: u.RequestURI(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: header.Get("Host"), Body: http.NoBody,
	}).WithContext(ctx)
	header.Del("Host")
	for name, value := range values {
		r.SetPathValue(name, value)
	}
	if n, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		r.ContentLength = n
	} else if header.Get("Transfer-Encoding") != "" {
		r.ContentLength = -1
	}
	return r, nil
}

// responseBuffer is how much of a response is kept before it is streamed.
const responseBuffer = 64 << 10

// responseWriter is the http.ResponseWriter of a mounted handler.
type responseWriter struct {
	client     *Client
	invocation context.Context
	ctx        context.Context // of the request
	cancel     context.CancelCauseFunc
	ref        *StreamChannelRef
	body       *requestBody // nil without one
	route      string
	head       bool // the response to a HEAD has no body

	header   http.Header
	sent     http.Header // the header as it was at WriteHeader
	status   int
	length   int64 // declared by the handler; -1 is none
	written  int64
	buf      []byte
	begun    bool        // the head is out
	beat     *heartbeat  // of a stream that has begun; nil without one
	settle   func() bool // ends the watch over the invocation of a stream
	panicked bool

	mu       sync.Mutex     // deadlines may be set while the handler writes
	stream   *ChannelWriter // once the response is streamed
	deadline time.Time
	bounded  bool  // the handler has set a deadline
	err      error // why the response cannot go on
}

var (
	_ http.Flusher    = (*responseWriter)(nil)
	_ io.StringWriter = (*responseWriter)(nil)
	_ io.ReaderFrom   = (*responseWriter)(nil)
)

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("iii: invalid status code %d", status))
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		return // an informational head cannot be sent before the real one
	}
	if w.status != 0 {
		w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: superfluous WriteHeader", slog.String("route", w.route), slog.Int("status", status))
		return
	}
	w.status = status
	if w.sent = w.header.Clone(); w.sent == nil {
		w.sent = http.Header{}
	}
	w.sent.Del("Transfer-Encoding") // the engine's to choose
	w.length = -1
	if declared := w.sent.Get("Content-Length"); declared != "" {
		if n, err := strconv.ParseInt(declared, 10, 64); err == nil && n >= 0 {
			w.length = n
		} else {
			w.sent.Del("Content-Length")
		}
	}
}

// bodyAllowed reports whether a response with the status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// bodyless reports whether the status, or the method, forbids a body.
func (w *responseWriter) bodyless() bool { return w.head || !bodyAllowed(w.status) }

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(p) > 0 {
		if err := w.usable(); err != nil {
			return 0, err
		}
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	w.sniff(p)
	switch {
	case w.stream != nil:
	case w.head && w.written <= responseBuffer:
		return len(p), nil
	case len(w.buf)+len(p) <= responseBuffer:
		w.buf = append(w.buf, p...)
		return len(p), nil
	default:
		if err := w.startStream(); err != nil {
			return 0, err
		}
	}
	if w.head {
		return len(p), nil
	}
	n, err := w.stream.Write(p)
	return n, w.streamed(err)
}

// WriteString implements io.StringWriter.
func (w *responseWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom: what one Read of src returns is written at once.
func (w *responseWriter) ReadFrom(src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, channelChunk))
}

// sniff sets the content type from the first bytes, as net/http does.
func (w *responseWriter) sniff(p []byte) {
	if _, set := w.sent["Content-Type"]; !set && len(w.buf) == 0 && w.stream == nil && len(p) > 0 && w.sent.Get("Content-Encoding") == "" {
		w.sent.Set("Content-Type", http.DetectContentType(p))
	}
}

// Flush implements http.Flusher: it sends the head and what was written.
func (w *responseWriter) Flush() {
	_ = w.FlushError()
}

// FlushError is Flush for http.ResponseController.
func (w *responseWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.stream != nil {
		return w.failure() // nothing is held back
	}
	if err := w.usable(); err != nil {
		return err
	}
	return w.startStream()
}

// SetWriteDeadline is for http.ResponseController. It replaces [WithHTTPWriteTimeout] for
// this response; zero is none.
func (w *responseWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline, w.bounded = t, true
	if w.stream != nil {
		return w.stream.SetWriteDeadline(t)
	}
	return nil
}

// SetReadDeadline is for http.ResponseController. It bounds Reads of the body.
func (w *responseWriter) SetReadDeadline(t time.Time) error {
	if w.body == nil {
		return nil
	}
	return w.body.reader.SetReadDeadline(t)
}

// EnableFullDuplex is for http.ResponseController. A handler may always read while it
// writes: body and response have channels of their own.
func (w *responseWriter) EnableFullDuplex() error { return nil }

// startStream opens the response's channel and sends the head and what was kept. The
// engine sends the head with the first frame of bytes, an empty one too.
func (w *responseWriter) startStream() error {
	if w.ref == nil {
		return w.broken(errors.New("iii: the request carries no channel for its response"))
	}
	stream := w.openStream()
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_status", "status_code": w.status}); err != nil {
		return w.broken(err)
	}
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_headers", "headers": w.singleHeaders()}); err != nil {
		return w.broken(err)
	}
	kept := w.buf
	w.buf = nil
	if len(kept) == 0 {
		return w.streamed(stream.flush())
	}
	_, err := stream.Write(kept)
	return w.streamed(err)
}

// openStream sets the stream, which opens with its first frame.
func (w *responseWriter) openStream() *ChannelWriter {
	stream := newChannelWriter(w.client, *w.ref)
	stream.onGone(w.cancel)
	stream.limitStall(w.client.cfg.httpWriteTimeout)
	w.settle = context.AfterFunc(w.invocation, func() { stream.hurryUp(endedPatience) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stream = stream
	if w.bounded {
		_ = stream.SetWriteDeadline(w.deadline)
	}
	return stream
}

// streamed is what comes after a frame of bytes: the head is out, or the stream is
// broken.
func (w *responseWriter) streamed(err error) error {
	if err != nil {
		return w.broken(err)
	}
	if every := w.client.cfg.streamHeartbeat; !w.begun && every > 0 {
		w.beat = w.startHeartbeat(every)
	}
	w.begun = true
	return nil
}

// heartbeat probes a streamed response whose handler writes nothing for its client. The
// engine does not say by itself that the client has gone, but it ends the channel at the
// next frame, also at one of text, which it ignores otherwise.
type heartbeat struct {
	stop chan struct{}
	done chan struct{}
}

// keepalive is a message that the engine does not know, and nobody sees.
var keepalive = []byte(`{"type":"keepalive"}`)

func (w *responseWriter) startHeartbeat(every time.Duration) *heartbeat {
	b := &heartbeat{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		timer := time.NewTimer(every)
		defer timer.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-w.ctx.Done():
				return
			case <-timer.C:
			}
			next, err := w.stream.probe(keepalive, every)
			if err != nil {
				_ = w.broken(err)
				w.stream.end.abort()
				return
			}
			timer.Reset(next)
		}
	}()
	return b
}

// singleHeaders is the header with one value a name, all that a streamed response
// can carry.
func (w *responseWriter) singleHeaders() map[string]string {
	single := make(map[string]string, len(w.sent))
	for name, values := range w.sent {
		if len(values) == 0 || strings.HasPrefix(name, http.TrailerPrefix) || name == "Trailer" {
			continue
		}
		single[name] = oneLine.Replace(strings.Join(values, ", "))
		if name == "Set-Cookie" && len(values) > 1 { // commas stand inside cookies
			single[name] = oneLine.Replace(values[len(values)-1])
			w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: a streamed response carries one Set-Cookie only",
				slog.String("route", w.route), slog.Int("dropped", len(values)-1))
		}
	}
	return single
}

// usable reports why nothing can be written.
func (w *responseWriter) usable() error {
	w.mu.Lock()
	passed := !w.deadline.IsZero() && !time.Now().Before(w.deadline)
	w.mu.Unlock()
	if err := w.failure(); err != nil || !passed {
		return err
	}
	return w.broken(fmt.Errorf("iii: response write: %w", os.ErrDeadlineExceeded))
}

func (w *responseWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// broken notes why the response cannot go on; the request's context ends.
func (w *responseWriter) broken(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.cancel(err)
	}
	return w.err
}

// serve runs the handler; what it panics with ends there.
func (w *responseWriter) serve(h http.Handler, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		w.panicked = true
		if p != http.ErrAbortHandler {
			w.client.log.LogAttrs(w.ctx, slog.LevelError, "iii: HTTP handler panicked", slog.String("route", w.route),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	h.ServeHTTP(w, r)
}

// Waits for an engine, or a client, that takes nothing.
const (
	// endPatience bounds the end of a response, as long as neither the handler nor
	// [WithHTTPWriteTimeout] gives it less.
	endPatience = 10 * time.Second

	// endedPatience bounds writes without progress of a handler whose invocation has
	// ended. It may go on for a client that reads: the engine keeps the channel.
	endedPatience = 2 * time.Second
)

// endStream closes the stream and joins the heartbeat. An end that the engine does not
// take in time is not lost: it sees the connection end instead, which says the same.
func (w *responseWriter) endStream() {
	defer w.settle()
	if w.stream.end.socket() == nil { // Close would open it
		w.stream.end.abort()
		return
	}
	patience := endPatience
	if stall := w.client.cfg.httpWriteTimeout; !w.bounded && stall > 0 {
		patience = min(patience, stall)
	}
	if w.invocation.Err() != nil {
		patience = min(patience, endedPatience)
	}
	until := time.Now().Add(patience)
	if !w.deadline.IsZero() && w.deadline.Before(until) {
		until = w.deadline
	}
	_ = w.stream.SetWriteDeadline(until)
	if w.beat != nil {
		close(w.beat.stop)
		timer := time.NewTimer(time.Until(until))
		select {
		case <-w.beat.done:
		case <-timer.C: // Close breaks the probe off
		}
		timer.Stop()
	}
	err := w.stream.Close()
	if w.beat != nil {
		<-w.beat.done
	}
	if err != nil && w.failure() == nil && !w.panicked && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: response ended badly", slog.String("route", w.route), slog.Any("error", err))
	}
}

// finish is the function's result: the response, or nil if it was streamed.
func (w *responseWriter) finish() (any, error) {
	if w.stream != nil {
		w.endStream()
		if !w.begun { // nothing else answers the client
			return nil, w.failure()
		}
		return nil, nil
	}
	if err := w.usable(); err != nil {
		return nil, err
	}
	if w.panicked {
		return bufferedResponse{StatusCode: http.StatusInternalServerError, Headers: []string{plainText}, Body: http.StatusText(http.StatusInternalServerError) + "\n"}, nil
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.mustStream() {
		_ = w.startStream()
		return w.finish()
	}
	if w.head && w.length < 0 && w.written > 0 {
		w.sent.Set("Content-Length", strconv.FormatInt(w.written, 10))
	}
	response := bufferedResponse{StatusCode: w.status, Headers: w.headerLines()}
	if w.sent.Get("Content-Type") == "" {
		response.Headers = append(response.Headers, plainText)
	}
	if !w.bodyless() {
		response.Body = string(w.buf)
	}
	return response, nil
}

// mustStream reports whether a complete response cannot go as one value: a JSON
// string holds no bytes that are no UTF-8, and the engine adds a content type,
// which in a 304 would replace that of what the client has.
func (w *responseWriter) mustStream() bool {
	if w.status == http.StatusNotModified {
		return !w.head && w.ref != nil && w.sent.Get("Content-Type") == "" && !w.repeats()
	}
	return !utf8.Valid(w.buf)
}

// repeats reports whether a header has several values.
func (w *responseWriter) repeats() bool {
	for _, values := range w.sent {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

// plainText is the content type of a response that has none. The engine would send
// the body of one without as JSON, and an empty one as {}, which it also counts for
// the length of a 204.
const plainText = "Content-Type: text/plain; charset=utf-8"

// bufferedResponse is a response in one value. Its headers are lines, which may
// repeat a name; a string body goes out as it is, since the content type is set.
type bufferedResponse struct {
	StatusCode int      `json:"status_code"`
	Headers    []string `json:"headers"`
	Body       any      `json:"body"`
}

func (w *responseWriter) headerLines() []string {
	lines := make([]string, 0, len(w.sent))
	for name, values := range w.sent {
		switch {
		case name == "Content-Length" && !w.head, name == "Trailer", strings.HasPrefix(name, http.TrailerPrefix):
			continue
		case name == "Content-Type" && w.sent.Get(name) == "":
			continue
		}
		for _, v := range values {
			lines = append(lines, headerLine(name, v))
		}
	}
	return lines
}

func headerLine(name, value string) string { return name + ": " + oneLine.Replace(value) }

// oneLine makes header values of texts, as net/http does.
var oneLine = strings.NewReplacer("\r", " ", "\n", " ")
