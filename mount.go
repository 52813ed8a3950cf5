package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/wsconn"
)

// MountHTTP serves an HTTP route with any net/http handler. It registers a function with the
// id "http::" + method + path, and a trigger that binds the route to the function. method and
// path follow the rules of [HandleHTTP]. A GET route also serves HEAD, except while this client
// has another HEAD route for the path.
//
// The handler runs as it would in a net/http server, with the following differences. r.URL is
// reconstructed from the path and the query parameters. If a query key or a header is
// repeated, the engine delivers only its last value. r.RemoteAddr is empty. r.Context is
// canceled when the invocation ends or when the client of a streamed response disconnects,
// even if the handler is idle (see [WithStreamHeartbeat]). [http.ResponseController] supports
// deadlines; [WithHTTPWriteTimeout] sets the default write deadline.
//
// A response that is not flushed and consists of at most 64 KiB of UTF-8 text is sent as a
// single value. Any other response is streamed. In a streamed response, the values of a
// repeated header are joined into one line, separated by commas, except that each cookie gets
// its own line. If a handler writes fewer bytes than the Content-Length that it has set, the
// response is cut off, so that the client detects the truncation.
//
// A panic results in a 500 response. If the response is already being streamed, the stream
// ends instead, and the client can detect the truncation only if there is a Content-Length.
// If middleware changes the result after that, the change is not sent; an error is logged.
// Trailers and informational responses are not sent, and connections cannot be hijacked. The
// HTTP guide lists all differences from net/http.
func (c *Client) MountHTTP(method, path string, h http.Handler, opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	m := &mount{client: c, handler: h, pattern: muxPattern(method, path)}
	m.server = &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelWarn)}
	f, err := c.registerRoute(method, path, handlerSpec{run: m.serve, unreadBody: true}, opts)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(m.pattern, http.MethodGet+" ") {
		if err := c.serveHead(f); err != nil {
			_ = f.Unregister()
			return nil, err
		}
	}
	return f, nil
}

// headRoute binds HEAD to the function of a GET route, because the engine itself does not. It
// yields to every other trigger of the client that serves HEAD for the path.
type headRoute struct {
	template *Trigger                // a new trigger is made from it each time the route is bound
	bound    atomic.Pointer[Trigger] // nil while the route yields; written with the registry's lock held
}

func newHeadRoute(t *Trigger) *headRoute {
	t.implied = true
	return &headRoute{template: t}
}

// serveHead also binds HEAD to the function of a mounted GET route.
func (c *Client) serveHead(f *Function) error {
	t, err := c.newRouteTrigger(f, http.MethodHead, strings.TrimPrefix(f.id, "http::GET"), append(slices.Clone(f.routeOptions), headID))
	if err != nil {
		return err
	}
	h := newHeadRoute(t)
	f.heads = append(f.heads, h)
	return c.registry.addHead(h)
}

// headID gives the HEAD trigger an id that differs from the GET trigger's.
func headID(o *triggerOptions) error {
	if o.id != "" {
		o.id += ":head"
	}
	return nil
}

// muxPattern returns the route as a pattern for [http.ServeMux].
func muxPattern(method, path string) string {
	segments := strings.Split("/"+strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		if name, ok := strings.CutPrefix(segment, ":"); ok {
			segments[i] = "{" + name + "}"
		}
	}
	if last := len(segments) - 1; segments[last] == "" {
		segments[last] = "{$}" // the engine requires an exact match
	}
	return routeMethod(method) + " " + strings.Join(segments, "/")
}

// mount serves a route with a net/http handler.
type mount struct {
	client  *Client
	handler http.Handler
	pattern string
	router  bool         // the handler does its own routing, so path values are not set
	server  *http.Server // for handlers that look up the server in the context; it is not running
}

// engineAddr is the engine's address. It is the value of [http.LocalAddrContextKey] in request
// contexts.
type engineAddr string

// Network implements [net.Addr].
func (engineAddr) Network() string { return "tcp" }

// String implements [net.Addr].
func (a engineAddr) String() string { return string(a) }

// localAddr returns the address to which the client connects.
func (c *Client) localAddr() net.Addr {
	port := c.cfg.URL.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[c.cfg.URL.Scheme]
	}
	return engineAddr(net.JoinHostPort(c.cfg.URL.Hostname(), port))
}

// serve runs the handler for one request. It returns a nil result if the response was
// streamed.
func (m *mount) serve(invocation context.Context, payload json.RawMessage) (any, error) {
	var in HTTPRequest[json.RawMessage]
	if err := m.client.cfg.decodePayload(payload, &in); err != nil {
		return nil, err
	}
	ctx := context.WithValue(invocation, http.ServerContextKey, m.server)
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, m.client.localAddr())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := mountedRequest(ctx, &in, !m.router)
	if err != nil {
		return bufferedResponse{StatusCode: http.StatusBadRequest, Headers: []string{plainText}, Body: err.Error() + "\n"}, nil
	}
	r.Pattern = m.pattern
	w := &responseWriter{client: m.client, invocation: invocation, ctx: ctx, cancel: cancel, ref: in.Response, header: http.Header{}, head: r.Method == http.MethodHead, route: in.Method + " " + in.Path}
	if r.ContentLength != 0 && in.RequestBody != nil {
		w.body = newRequestBody(ctx, m.client, *in.RequestBody, r)
		defer w.body.Close()
		r.Body = w.body
	}
	setResponseWriter(invocation, w)
	defer w.release() // for a handler that calls runtime.Goexit
	w.serve(m.handler, r)
	if r.MultipartForm != nil {
		_ = r.MultipartForm.RemoveAll() // delete the temporary files of the form
	}
	return w.finish()
}

// mountedRequest converts a request to an [http.Request] without a body. withValues determines
// whether the result's path values are set.
func mountedRequest(ctx context.Context, in *HTTPRequest[json.RawMessage], withValues bool) (*http.Request, error) {
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
	target := strings.Join(segments, "/")
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, fmt.Errorf("path is not percent-encoded: %w", err)
	}
	header := make(http.Header, len(in.Headers))
	for k, v := range in.Headers {
		header[textproto.CanonicalMIMEHeaderKey(k)] = []string{v}
	}
	r := (&http.Request{
		Method: in.Method, URL: u, RequestURI: target,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: header.Get("Host"), Body: http.NoBody,
	}).WithContext(ctx)
	for name, value := range values {
		if !withValues {
			break
		}
		r.SetPathValue(name, value)
	}
	framing(r)
	return r, nil
}

// framing processes r.Header as net/http's server does. It sets the fields of r that are
// derived from headers, such as ContentLength and Trailer, and adds or removes headers.
func framing(r *http.Request) {
	r.Header.Del("Host")
	if encoding := r.Header.Get("Transfer-Encoding"); encoding != "" {
		r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
		r.Header.Del("Content-Length")
	} else if n, err := strconv.ParseInt(r.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		r.ContentLength = n
	}
	r.Header.Del("Transfer-Encoding")
	for name := range strings.SplitSeq(r.Header.Get("Trailer"), ",") {
		if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name != "" && r.ContentLength < 0 {
			if r.Trailer == nil {
				r.Trailer = http.Header{}
			}
			r.Trailer[name] = nil // the engine does not deliver trailers
		}
	}
	if r.ContentLength < 0 {
		r.Header.Del("Trailer")
	}
	for option := range strings.SplitSeq(r.Header.Get("Connection"), ",") {
		r.Close = r.Close || strings.EqualFold(strings.TrimSpace(option), "close")
	}
	if _, there := r.Header["Cache-Control"]; !there && r.Header.Get("Pragma") == "no-cache" {
		r.Header.Set("Cache-Control", "no-cache")
	}
}

// responseBuffer is the maximum size, in bytes, of a response that is not streamed.
const responseBuffer = 64 << 10

// responseWriter is the [http.ResponseWriter] of a mounted handler.
type responseWriter struct {
	client     *Client
	invocation context.Context
	ctx        context.Context // of the request
	cancel     context.CancelCauseFunc
	ref        *StreamChannelRef
	body       *requestBody // nil if there is no body
	route      string
	head       bool // a HEAD request, whose response has no body

	header       http.Header
	sent         http.Header // copy of header made by WriteHeader, with canonical names
	status       int
	length       int64       // declared Content-Length; -1 if there is none
	offered      int64       // number of bytes passed to Write
	written      int64       // number of bytes accepted by Write
	buf          []byte      // buffered bytes; for HEAD, only the beginning of the body
	begun        bool        // the status and header have been sent
	ended        bool        // the stream has been closed
	beat         *heartbeat  // of the stream; nil if there is none
	stopWatching func() bool // stops watching the invocation once the stream has ended
	panicked     bool

	mu       sync.Mutex     // needed because deadlines may be set while the handler writes
	stream   *ChannelWriter // nil if the response is not streamed
	deadline time.Time
	bounded  bool  // the handler has set a deadline
	err      error // why the response cannot continue
	headOut  bool  // like begun, but for use by other goroutines
}

var (
	_ http.Flusher    = (*responseWriter)(nil)
	_ io.StringWriter = (*responseWriter)(nil)
	_ io.ReaderFrom   = (*responseWriter)(nil)
)

// Header implements [http.ResponseWriter].
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *responseWriter) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("iii: invalid status code %d", status))
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		return // informational responses are not supported
	}
	if w.status != 0 {
		w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: superfluous WriteHeader", slog.String("route", w.route), slog.Int("status", status))
		return
	}
	w.status = status
	w.sent = make(http.Header, len(w.header))
	for _, name := range slices.Sorted(maps.Keys(w.header)) { // a handler may use several spellings of a name
		key := http.CanonicalHeaderKey(name)
		w.sent[key] = append(w.sent[key], w.header[name]...)
	}
	w.length = -1
	if declared := w.sent.Get("Content-Length"); declared != "" {
		if n, err := strconv.ParseInt(declared, 10, 64); err == nil && n >= 0 {
			w.length = n
		} else {
			w.notSent("Content-Length", "it is not a valid length")
		}
	}
	if w.sent.Del("Content-Length"); w.length >= 0 { // clients accept only one length, in plain decimal digits
		w.sent.Set("Content-Length", strconv.FormatInt(w.length, 10))
	}
}

// bodyAllowed reports whether a response with the given status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// bodyless reports whether the status or the method forbids a body.
func (w *responseWriter) bodyless() bool { return w.head || !bodyAllowed(w.status) }

// Write implements [http.ResponseWriter].
func (w *responseWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.offered += int64(len(p)); w.length >= 0 && w.offered > w.length {
		return 0, http.ErrContentLength
	}
	if err := w.checkUsable(); err != nil {
		return 0, err
	}
	if w.stream == nil {
		if w.written+int64(len(p)) <= responseBuffer {
			w.keep(p)
			return len(p), nil
		}
		if err := w.startStream(p); err != nil {
			return 0, err
		}
	}
	if w.head {
		w.written += int64(len(p))
		return len(p), nil
	}
	n, err := w.stream.Write(p)
	w.written += int64(n)
	return n, w.streamed(err)
}

// sniffLen is the number of bytes used to detect the content type of a body.
const sniffLen = 512

// keep buffers p. For HEAD, it keeps only the bytes needed to detect the content type.
func (w *responseWriter) keep(p []byte) {
	w.written += int64(len(p))
	if w.head {
		p = p[:max(0, min(len(p), sniffLen-len(w.buf)))]
	}
	w.buf = append(w.buf, p...)
}

// WriteString implements [io.StringWriter].
func (w *responseWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// ReadFrom implements [io.ReaderFrom]. It reads src in chunks, and writes each chunk as soon
// as it has been read.
func (w *responseWriter) ReadFrom(src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, channelChunk))
}

// notSent removes a header that the engine cannot send and logs why.
func (w *responseWriter) notSent(name, why string) {
	delete(w.sent, name)
	w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: a header of the response is not sent",
		slog.String("route", w.route), slog.String("header", name), slog.String("reason", why))
}

// completeHeader prepares the header for sending, as net/http does. body is the beginning of
// the body.
func (w *responseWriter) completeHeader(body []byte) {
	trailer := w.sent.Get("Trailer") != ""
	for name, values := range w.sent {
		switch {
		case name == "Trailer":
			delete(w.sent, name)
		case strings.HasPrefix(name, http.TrailerPrefix):
			trailer = true
			delete(w.sent, name)
		case !wsconn.IsToken(name):
			w.notSent(name, "its name is not valid")
		case slices.ContainsFunc(values, invalidHeaderValue):
			w.notSent(name, "its value contains control characters or is not valid UTF-8")
		}
	}
	if trailer {
		w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: the trailers of the response are not sent", slog.String("route", w.route))
	}
	_, typed := w.sent["Content-Type"]
	switch {
	case w.status == http.StatusNotModified:
		w.sent.Del("Content-Type")
		w.sent.Del("Content-Length")
	case !bodyAllowed(w.status):
		w.sent.Del("Content-Length")
	case !typed && len(body) > 0 && w.sent.Get("Content-Encoding") == "" && w.sent.Get("Transfer-Encoding") == "":
		w.sent.Set("Content-Type", http.DetectContentType(body))
	}
	w.sent.Del("Transfer-Encoding") // determined by the engine
}

// invalidHeaderValue reports whether a header with the given value cannot be sent. Line breaks
// are allowed, because they are replaced with spaces before the header is sent.
func invalidHeaderValue(value string) bool {
	return !utf8.ValidString(value) || strings.ContainsFunc(oneLine.Replace(value), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// Flush implements [http.Flusher]. It sends the status, the header and all buffered bytes.
func (w *responseWriter) Flush() {
	_ = w.FlushError()
}

// FlushError is like Flush, but returns an error. It is called by [http.ResponseController].
func (w *responseWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.stream != nil {
		return w.failure() // nothing is buffered
	}
	if err := w.checkUsable(); err != nil {
		return err
	}
	if err := w.checkStreamable(); err != nil {
		return err
	}
	return w.startStream(nil)
}

// checkStreamable returns an error if the response cannot be streamed.
func (w *responseWriter) checkStreamable() error {
	if w.status > maxStreamedStatus {
		return fmt.Errorf("iii: a streamed response cannot have the status %d: %w", w.status, errors.ErrUnsupported)
	}
	return nil
}

// maxStreamedStatus is the highest status that the engine accepts for a streamed response.
const maxStreamedStatus = 599

// SetWriteDeadline is called by [http.ResponseController]. The deadline replaces
// [WithHTTPWriteTimeout] for this response. The zero time means no deadline.
func (w *responseWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline, w.bounded = t, true
	if w.stream != nil {
		return w.stream.SetWriteDeadline(t)
	}
	return nil
}

// SetReadDeadline is called by [http.ResponseController]. It sets the deadline for reading the
// body.
func (w *responseWriter) SetReadDeadline(t time.Time) error {
	if w.body == nil {
		return nil
	}
	return w.body.reader.SetReadDeadline(t)
}

// EnableFullDuplex is called by [http.ResponseController]. It does nothing: the body and the
// response have separate channels, so a handler can always read while it writes.
func (w *responseWriter) EnableFullDuplex() error { return nil }

// CloseNotify implements [http.CloseNotifier], which some frameworks still use.
func (w *responseWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// startStream opens the response channel and sends the status, the header, and the buffered
// bytes. next, which is used only to detect the content type, contains the bytes to be written
// afterward. The engine sends the header when it receives the first binary frame, even if that
// frame is empty.
func (w *responseWriter) startStream(next []byte) error {
	if err := w.checkStreamable(); err != nil {
		return w.broken(err)
	}
	if w.ref == nil {
		return w.broken(errors.New("iii: the request has no response channel"))
	}
	kept := w.buf
	w.buf = nil
	w.completeHeader(append(kept[:min(len(kept), sniffLen):min(len(kept), sniffLen)], next[:min(len(next), sniffLen)]...))
	stream := w.openStream()
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_status", "status_code": w.status}); err != nil {
		return w.broken(err)
	}
	if err := stream.SendMessage(w.ctx, map[string]any{"type": "set_headers", "headers": w.singleHeaders()}); err != nil {
		return w.broken(err)
	}
	if len(kept) == 0 || w.head {
		return w.streamed(stream.flush())
	}
	_, err := stream.Write(kept)
	return w.streamed(err)
}

// openStream creates the response channel's writer. The channel itself is not opened until the
// first frame is written.
func (w *responseWriter) openStream() *ChannelWriter {
	stream := newChannelWriter(w.client, *w.ref)
	stream.onGone(w.cancel)
	stream.limitStall(w.client.cfg.httpWriteTimeout)
	w.stopWatching = context.AfterFunc(w.invocation, func() { stream.hurryUp(endedPatience) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stream = stream
	if w.bounded {
		_ = stream.SetWriteDeadline(w.deadline)
	}
	return stream
}

// streamed handles the result of writing a binary frame. If err is nil, the header has been
// sent; otherwise, the response is broken. If the handler timed out while its first frame was
// being written, streamed cuts off the response, which timeOut could not do: without the
// frame, the engine would take the end of the channel for a complete, empty response.
func (w *responseWriter) streamed(err error) error {
	if err != nil {
		return w.broken(err)
	}
	if every := w.client.cfg.streamHeartbeat; !w.begun && every > 0 {
		w.beat = w.startHeartbeat(every)
	}
	first := !w.begun
	w.begun = true
	w.mu.Lock()
	w.headOut = true
	err = w.err // the handler may have timed out
	w.mu.Unlock()
	if first && err != nil {
		w.stream.end.abort()
	}
	return err
}

// heartbeat probes a streamed response while its handler is idle, to detect that the client
// has disconnected. The engine does not report a disconnect until it receives the next frame;
// only then does it close the channel. A text frame, which the engine otherwise ignores, is
// sufficient.
type heartbeat struct {
	stop chan struct{}
	done chan struct{}
}

// keepalive is a message that the engine ignores and does not forward to the client.
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

// singleHeaders returns the header with one value per name, as the engine requires for a
// streamed response. The values of a repeated header are joined. Cookies cannot be joined.
// Instead, each cookie gets its own Set-Cookie header, with a differently capitalized name,
// and the engine sends all of them.
func (w *responseWriter) singleHeaders() map[string]string {
	single := make(map[string]string, len(w.sent))
	for name, values := range w.sent {
		switch {
		case len(values) == 0:
		case name == "Set-Cookie":
			for i, cookie := range lastCookies(values) {
				if i == cookieSpellings {
					w.notSent(name, fmt.Sprintf("a streamed response carries %d cookies, not %d", cookieSpellings, len(values)))
					break
				}
				single[cookieName(i)] = oneLine.Replace(cookie)
			}
		default:
			single[name] = oneLine.Replace(strings.Join(values, ", "))
		}
	}
	return single
}

// lastCookies drops each cookie that is followed by a cookie with the same name, domain and
// path. The engine sends a streamed response's cookies in no particular order, and a client
// would keep the last one that it reads.
func lastCookies(values []string) []string {
	type identity struct{ name, domain, path string }
	later := make(map[identity]bool, len(values))
	var kept []string
	for _, value := range slices.Backward(values) {
		if c, err := http.ParseSetCookie(value); err == nil {
			id := identity{c.Name, strings.ToLower(strings.TrimPrefix(c.Domain, ".")), c.Path}
			if later[id] {
				continue
			}
			later[id] = true
		}
		kept = append(kept, value)
	}
	slices.Reverse(kept)
	return kept
}

// cookieName returns the ith spelling of the Set-Cookie header name, for i less than
// cookieSpellings. The spellings differ only in case.
func cookieName(i int) string {
	name := []byte("set-cookie")
	for at := range name {
		if name[at] != '-' {
			if i&1 != 0 {
				name[at] -= 'a' - 'A'
			}
			i >>= 1
		}
	}
	return string(name)
}

// cookieSpellings is the number of different spellings returned by cookieName.
const cookieSpellings = 1 << (len("set-cookie") - len("-"))

// timeOut ends the response of a handler that has exceeded its time limit. If the header has
// already been sent, begun is true and the response is cut off. If the first frame is being
// written, the engine uses the frame or the function's result, whichever it receives first,
// and ignores the other. [responseWriter.streamed] then cuts off the response.
func (w *responseWriter) timeOut(reason error) (begun bool) {
	_ = w.broken(reason)
	w.mu.Lock()
	stream, begun := w.stream, w.headOut
	w.mu.Unlock()
	if begun {
		stream.end.abort()
	}
	return begun
}

// checkUsable returns an error if the response has failed or the write deadline has passed.
func (w *responseWriter) checkUsable() error {
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

// broken records why the response cannot continue and cancels the request's context.
func (w *responseWriter) broken(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.cancel(err)
	}
	return w.err
}

// serve runs the handler and recovers from panics. A panic with [http.ErrAbortHandler] is not
// logged. If the client has disconnected, such a panic is not a failure either; reverse proxies
// use it to abort a response.
func (w *responseWriter) serve(h http.Handler, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		w.panicked = true
		aborted := p == http.ErrAbortHandler
		if aborted && w.ctx.Err() != nil {
			return
		}
		stack := string(debug.Stack())
		if !aborted {
			w.client.log.LogAttrs(w.ctx, slog.LevelError, "iii: HTTP handler panicked", slog.String("route", w.route),
				slog.Any("panic", p), slog.String("stack", stack))
		}
		notePanic(w.invocation, p, stack)
	}()
	h.ServeHTTP(w, r)
}

// Time limits for an engine or a client that has stopped reading.
const (
	// endPatience limits how long it takes to end a response, unless the handler or
	// [WithHTTPWriteTimeout] sets an earlier deadline.
	endPatience = 10 * time.Second

	// endedPatience limits how long a write may stall after the handler's invocation has
	// ended. The handler may continue to write to a client that is still reading, because the
	// engine keeps the channel open.
	endedPatience = 2 * time.Second
)

// endStream closes the stream and stops the heartbeat. If the Close frame cannot be written in
// time because the engine is not reading, the connection is closed without one, which has the
// same effect.
func (w *responseWriter) endStream() {
	w.ended = true
	defer w.stopWatching()
	if w.stream.end.socket() == nil { // Close would open the stream
		w.stream.end.abort()
		return
	}
	until := w.endDeadline()
	_ = w.stream.SetWriteDeadline(until)
	if w.beat != nil {
		close(w.beat.stop)
		timer := time.NewTimer(time.Until(until))
		select {
		case <-w.beat.done:
		case <-timer.C: // Close interrupts the probe
		}
		timer.Stop()
	}
	err := w.stream.Close()
	if w.beat != nil {
		<-w.beat.done
	}
	if err != nil && w.failure() == nil && !w.panicked && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: ending the response failed", slog.String("route", w.route), slog.Any("error", err))
	}
}

func (w *responseWriter) endDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	patience := endPatience
	if stall := w.client.cfg.httpWriteTimeout; !w.bounded && stall > 0 {
		patience = min(patience, stall)
	}
	if w.invocation.Err() != nil {
		patience = min(patience, endedPatience)
	}
	until := time.Now().Add(patience)
	if !w.deadline.IsZero() && w.deadline.Before(until) {
		return w.deadline
	}
	return until
}

// release closes the stream unless finish has already closed it.
func (w *responseWriter) release() {
	if w.stream != nil && !w.ended {
		w.endStream()
	}
}

// finish returns the function's result: the response, or nil if the response was streamed.
func (w *responseWriter) finish() (any, error) {
	if w.stream != nil {
		w.endStream()
		if !w.begun { // the client has not received anything
			return nil, w.failure()
		}
		return nil, nil
	}
	if err := w.checkUsable(); err != nil {
		return nil, err
	}
	if w.panicked {
		return bufferedResponse{StatusCode: http.StatusInternalServerError, Headers: []string{plainText}, Body: http.StatusText(http.StatusInternalServerError) + "\n"}, nil
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.mustStream() {
		_ = w.startStream(nil)
		return w.finish()
	}
	w.completeHeader(w.buf)
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

// mustStream reports whether a complete response must be streamed because it cannot be sent as
// a single value:
//
//   - The body is not valid UTF-8, so it cannot be encoded as a JSON string.
//   - The status is 304. The engine would add a content type, which would replace the content
//     type in the client's cache.
//   - The Content-Length is greater than the length of the body. The engine would forward it
//     without closing the connection, and the client would wait for the rest of the body.
func (w *responseWriter) mustStream() bool {
	switch {
	case w.status == http.StatusNotModified:
		return w.ref != nil
	case w.bodyless():
		return false
	}
	return w.length > w.written || !utf8.Valid(w.buf)
}

// plainText is the content type of a response that does not set one. Without a content type,
// the engine would send the body as JSON. It would send an empty body as {}, so even a 204
// would have a Content-Length of 2.
const plainText = "Content-Type: text/plain; charset=utf-8"

// bufferedResponse is a response that is sent as a single value. Its headers are a list of
// lines, so that a name may occur more than once. The content type must be set, because the
// engine would otherwise send a string body as JSON.
type bufferedResponse struct {
	StatusCode int      `json:"status_code"`
	Headers    []string `json:"headers"`
	Body       any      `json:"body"`
}

func (w *responseWriter) headerLines() []string {
	lines := make([]string, 0, len(w.sent))
	for _, name := range slices.Sorted(maps.Keys(w.sent)) {
		if name == "Content-Length" && !w.head || name == "Content-Type" && w.sent.Get(name) == "" {
			continue // the engine sets the length
		}
		for _, v := range w.sent[name] {
			lines = append(lines, headerLine(name, v))
		}
	}
	return lines
}

func headerLine(name, value string) string { return name + ": " + oneLine.Replace(value) }

// oneLine replaces line breaks in header values with spaces, as net/http does.
var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

// requestBody is the request body of a mounted handler. It reads from the request's channel,
// which is opened by the first Read. As in net/http, Close may be called during a Read. For
// example, a transport that forwards the body may still read it when the handler returns.
type requestBody struct {
	ctx    context.Context
	reader *ChannelReader
	stop   func() bool // stops watching ctx
	length int64       // expected length; -1 means any length
	closed atomic.Bool

	mu   sync.Mutex
	read int64
	end  error // the error that ended reading
}

// newRequestBody returns the body of r, which is read from the given channel. If a client
// disconnects before it has sent the complete body, the channel simply ends, so the number of
// bytes received is compared with the declared length. The comparison is skipped if the body
// has a content encoding, because the engine may decode such a body. The engine delivers all
// other bodies as received, including JSON.
func newRequestBody(ctx context.Context, c *Client, ref StreamChannelRef, r *http.Request) *requestBody {
	b := &requestBody{ctx: ctx, reader: newChannelReader(c, ref), length: r.ContentLength}
	if r.Header.Get("Content-Encoding") != "" {
		b.length = -1
	}
	b.stop = context.AfterFunc(ctx, func() { _ = b.reader.Close() })
	return b
}

// Read implements [io.Reader].
func (b *requestBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.mu.Lock()
	end := b.end
	b.mu.Unlock()
	if end != nil { // takes precedence over a read deadline
		return 0, end
	}
	n, err := b.reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	switch {
	case err == nil && b.read == b.length:
		err, b.end = io.EOF, io.EOF // as in net/http, which does not check for excess data
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

// Close implements [io.Closer].
func (b *requestBody) Close() error {
	b.closed.Store(true) // set first, so that a concurrent Read returns the right error
	b.stop()
	return b.reader.Close()
}
