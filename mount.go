package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
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
// it. r.Context ends with the invocation's, and when a streamed response finds that
// its client has gone.
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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := mountedRequest(ctx, &in)
	if err != nil {
		return bufferedResponse{StatusCode: http.StatusBadRequest, Headers: []string{plainText}, Body: err.Error() + "\n"}, nil
	}
	if r.ContentLength != 0 && in.RequestBody != nil {
		body := newRequestBody(ctx, c, *in.RequestBody, r)
		defer body.Close()
		r.Body = body
	}
	w := &responseWriter{client: c, ctx: ctx, cancel: cancel, ref: in.Response, header: http.Header{}, head: r.Method == http.MethodHead, route: in.Method + " " + in.Path}
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
	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	ref    *StreamChannelRef
	route  string
	head   bool // the response to a HEAD has no body

	header   http.Header
	sent     http.Header // the header as it was at WriteHeader
	status   int
	length   int64 // declared by the handler; -1 is none
	written  int64
	buf      []byte
	stream   *ChannelWriter // set once the response is streamed
	err      error          // why the stream broke
	panicked bool
}

var _ http.Flusher = (*responseWriter)(nil)

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
	if w.err != nil {
		return 0, w.err
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	w.sniff(p)
	if w.head {
		return len(p), nil
	}
	if w.stream == nil && len(w.buf)+len(p) <= responseBuffer {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if err := w.startStream(); err != nil {
		return 0, err
	}
	n, err := w.stream.Write(p)
	return n, w.broken(err)
}

// WriteString implements io.StringWriter.
func (w *responseWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

var _ io.StringWriter = (*responseWriter)(nil)

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
	if w.err != nil || w.bodyless() {
		return w.err
	}
	if w.stream != nil {
		return nil // nothing is held back
	}
	if err := w.startStream(); err != nil {
		return err
	}
	// The engine sends the head with the first frame of bytes, an empty one too.
	return w.broken(w.stream.flush())
}

// startStream opens the response's channel and sends the head and what was kept.
func (w *responseWriter) startStream() error {
	if w.stream != nil {
		return nil
	}
	if w.ref == nil {
		return w.broken(fmt.Errorf("iii: the request carries no channel for its response"))
	}
	stream, err := w.client.OpenWriter(w.ctx, *w.ref)
	if err != nil {
		return w.broken(err)
	}
	w.stream = stream
	stream.onGone(w.cancel)
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_status", "status_code": w.status}); err != nil {
		return w.broken(err)
	}
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_headers", "headers": w.singleHeaders()}); err != nil {
		return w.broken(err)
	}
	kept := w.buf
	w.buf = nil
	if len(kept) == 0 {
		return nil
	}
	_, err = stream.Write(kept)
	return w.broken(err)
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

// broken notes why the response cannot go on; the request's context ends.
func (w *responseWriter) broken(err error) error {
	if err != nil && w.err == nil {
		w.err = err
		w.cancel()
	}
	return err
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

// finish is the function's result: the response, or nil if it was streamed.
func (w *responseWriter) finish() (any, error) {
	if w.stream != nil {
		err := w.stream.Close()
		if w.err == nil && !w.panicked && err != nil {
			w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: response ended badly", slog.String("route", w.route), slog.Any("error", err))
		}
		return nil, nil
	}
	if w.err != nil {
		return nil, w.err
	}
	if w.panicked {
		return bufferedResponse{StatusCode: http.StatusInternalServerError, Headers: []string{plainText}, Body: http.StatusText(http.StatusInternalServerError) + "\n"}, nil
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.mustStream() {
		if err := w.startStream(); err != nil {
			return nil, err
		}
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
