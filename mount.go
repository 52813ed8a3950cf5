package iii

import (
	"cmp"
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
	"time"
	"unicode/utf8"
)

// MountHTTP serves one HTTP route with any net/http handler: it registers a
// function under the id "http::" + method + path and the trigger that binds it,
// like [HandleHTTP], whose rules for path hold here. A route with GET serves HEAD, too,
// unless that is mounted by itself.
//
// The handler runs as under net/http's server, with these limits: r.URL is the concrete
// address, rebuilt from path and query parameters; of a repeated query key, and of a
// repeated header, the engine delivers the last value; r.RemoteAddr is empty. r.Context
// ends with the invocation's, and when the client of a streamed response has left, which
// is looked for while the handler is idle, too: see [WithStreamHeartbeat].
// [http.ResponseController] has deadlines; [WithHTTPWriteTimeout] is the default of the one
// for writes.
//
// A response that ends before it is flushed, and fits in 64 KiB of text, goes as one
// value. Any other is streamed: of a header with several values it carries one line,
// joined by commas, and each cookie on a line of its own. A response that is shorter than
// its Content-Length is cut off, so that the client notices. A panic is a 500; in a
// response that is streamed already it is the end, which only a declared Content-Length
// tells from a whole one. Trailers and informational responses are not sent, and
// connections cannot be hijacked. The page on HTTP lists what differs from net/http.
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
		if err := c.serveHead(f, strings.ToUpper(method)); err != nil {
			_ = f.Unregister()
			return nil, err
		}
	}
	return f, nil
}

// serveHead binds HEAD, too, to the function of a route with GET, unless it has a function
// of its own: the engine has no route for it otherwise.
func (c *Client) serveHead(f *Function, method string) error {
	path := strings.TrimPrefix(f.id, "http::"+method)
	if c.registry.function([]byte("http::HEAD"+path)) != nil {
		return nil
	}
	t, err := c.newRouteTrigger(f, http.MethodHead, path, append(slices.Clone(f.routeOptions), headID))
	if err != nil {
		return err
	}
	if err := c.registry.addTrigger(t); err != nil {
		return err
	}
	f.head.Store(t)
	return nil
}

// headID tells the id of the trigger for HEAD from that of the route.
func headID(o *triggerOptions) error {
	if o.id != "" {
		o.id += ":head"
	}
	return nil
}

// giveUpHead makes way for a function that serves HEAD.
func (c *Client) giveUpHead(path string) {
	for _, method := range []string{http.MethodGet, ""} {
		if f := c.registry.function([]byte("http::" + method + path)); f != nil {
			if t := f.head.Load(); t != nil {
				_ = t.Unregister() // it may have been taken back already
			}
		}
	}
}

// muxPattern is the route in the form of [http.ServeMux].
func muxPattern(method, path string) string {
	segments := strings.Split("/"+strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		if name, ok := strings.CutPrefix(segment, ":"); ok {
			segments[i] = "{" + name + "}"
		}
	}
	if last := len(segments) - 1; segments[last] == "" {
		segments[last] = "{$}" // the engine matches it exactly
	}
	return cmp.Or(strings.ToUpper(method), http.MethodGet) + " " + strings.Join(segments, "/")
}

// mount is a handler behind a route.
type mount struct {
	client  *Client
	handler http.Handler
	pattern string
	router  bool         // the handler routes: the parameters of the path are nobody's
	server  *http.Server // for who asks the context; it serves nothing
}

// engineAddr is the address of the engine, which takes the place of the server's own in
// the contexts of requests.
type engineAddr string

// Network implements net.Addr.
func (engineAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a engineAddr) String() string { return string(a) }

// localAddr is the address that the client connects to.
func (c *Client) localAddr() net.Addr {
	port := c.cfg.URL.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[c.cfg.URL.Scheme]
	}
	return engineAddr(net.JoinHostPort(c.cfg.URL.Hostname(), port))
}

// serve runs the handler for one request. A nil result says that the response went over
// the channel.
func (m *mount) serve(invocation context.Context, payload json.RawMessage) (any, error) {
	var in HTTPRequest[json.RawMessage]
	if err := decodePayload(payload, &in); err != nil {
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
	answersOverStream(invocation, w)
	defer w.release() // when the handler ends its goroutine
	w.serve(m.handler, r)
	if r.MultipartForm != nil {
		_ = r.MultipartForm.RemoveAll() // files that are left behind in a directory of the system's
	}
	return w.finish()
}

// mountedRequest is the request as net/http knows it, without its body, with the values of the
// path's parameters or not.
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

// framing moves what the header says about the message, rather than about what it holds,
// to the fields that net/http has for it.
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
			r.Trailer[name] = nil // the engine does not deliver it
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
	length   int64       // declared by the handler; -1 is none
	offered  int64       // given to Write
	written  int64       // taken by Write
	buf      []byte      // what is kept; for a HEAD, the beginning
	begun    bool        // the head is out
	ended    bool        // the stream is closed
	beat     *heartbeat  // of a stream that has begun; nil without one
	settle   func() bool // ends the watch over the invocation of a stream
	panicked bool

	mu       sync.Mutex     // deadlines may be set while the handler writes
	stream   *ChannelWriter // once the response is streamed
	deadline time.Time
	bounded  bool  // the handler has set a deadline
	err      error // why the response cannot go on
	headOut  bool  // begun, for others than the handler
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
	w.length = -1
	if declared := w.sent.Get("Content-Length"); declared != "" {
		if n, err := strconv.ParseInt(declared, 10, 64); err == nil && n >= 0 {
			w.length = n
		} else {
			w.notSent("Content-Length", "it is no length")
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
	if len(p) == 0 {
		return 0, nil
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.offered += int64(len(p)); w.length >= 0 && w.offered > w.length {
		return 0, http.ErrContentLength
	}
	if err := w.usable(); err != nil {
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

// sniffLen is how much of a body tells its content type.
const sniffLen = 512

// keep holds p back.
func (w *responseWriter) keep(p []byte) {
	w.written += int64(len(p))
	if w.head {
		p = p[:max(0, min(len(p), sniffLen-len(w.buf)))]
	}
	w.buf = append(w.buf, p...)
}

// WriteString implements io.StringWriter.
func (w *responseWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom: what one Read of src returns is written at once.
func (w *responseWriter) ReadFrom(src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, channelChunk))
}

// notSent drops a header that the engine cannot send.
func (w *responseWriter) notSent(name, why string) {
	delete(w.sent, name)
	w.client.log.LogAttrs(w.ctx, slog.LevelWarn, "iii: a header of the response is not sent",
		slog.String("route", w.route), slog.String("header", name), slog.String("reason", why))
}

// settleHeader makes the header what is sent, knowing the beginning of the body, as
// net/http does.
func (w *responseWriter) settleHeader(body []byte) {
	trailer := w.sent.Get("Trailer") != ""
	for name, values := range w.sent {
		switch {
		case name == "Trailer":
			delete(w.sent, name)
		case strings.HasPrefix(name, http.TrailerPrefix):
			trailer = true
			delete(w.sent, name)
		case !isToken(name):
			w.notSent(name, "its name is none")
		case slices.ContainsFunc(values, isNoHeaderValue):
			w.notSent(name, "its value has control characters or is no UTF-8")
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
	w.sent.Del("Transfer-Encoding") // the engine's to choose
}

// isNoHeaderValue reports whether a text cannot be the value of a header. Line breaks
// become blanks.
func isNoHeaderValue(value string) bool {
	return !utf8.ValidString(value) || strings.ContainsFunc(oneLine.Replace(value), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// isToken reports whether a text can be the name of a header (RFC 9110, 5.6.2).
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
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
	if err := w.streamable(); err != nil {
		return err
	}
	return w.startStream(nil)
}

// streamable reports why a response must go as one value.
func (w *responseWriter) streamable() error {
	if w.status > maxStreamedStatus {
		return fmt.Errorf("iii: a streamed response cannot have the status %d: %w", w.status, errors.ErrUnsupported)
	}
	return nil
}

// maxStreamedStatus is the largest status that the engine takes over a channel.
const maxStreamedStatus = 599

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

// CloseNotify implements http.CloseNotifier, which frameworks still use.
func (w *responseWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// startStream opens the response's channel and sends the head and what was kept; next is
// what follows. The engine sends the head with the first frame of bytes, an empty one too.
func (w *responseWriter) startStream(next []byte) error {
	if err := w.streamable(); err != nil {
		return w.broken(err)
	}
	if w.ref == nil {
		return w.broken(errors.New("iii: the request carries no channel for its response"))
	}
	kept := w.buf
	w.buf = nil
	w.settleHeader(append(kept[:min(len(kept), sniffLen):min(len(kept), sniffLen)], next[:min(len(next), sniffLen)]...))
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
	w.mu.Lock()
	defer w.mu.Unlock()
	w.headOut = true
	return w.err // the handler may have been timed out meanwhile
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

// singleHeaders is the header with one value a name, all that a streamed response can
// carry. Cookies, which cannot be joined, have names that differ in case: the engine sends
// each.
func (w *responseWriter) singleHeaders() map[string]string {
	grouped := make(http.Header, len(w.sent))
	for _, name := range slices.Sorted(maps.Keys(w.sent)) { // a handler may spell a name in several ways
		key := http.CanonicalHeaderKey(name)
		grouped[key] = append(grouped[key], w.sent[name]...)
	}
	single := make(map[string]string, len(grouped))
	for name, values := range grouped {
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

// lastCookies leaves out the cookies that a later one replaces, because it has the same name,
// domain and path: the engine sends the cookies of a streamed response in no fixed order, and
// a client keeps the last that it reads.
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

// cookieName spells the name of the header of cookies in one of the ways that differ in
// case.
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

// cookieSpellings is in how many ways.
const cookieSpellings = 1 << (len("set-cookie") - len("-"))

// timeOut ends the response of a handler that has run for too long, and reports whether its
// head is out: then it is cut off. A frame of it that is on its way makes no difference, since
// the engine drops what comes after another answer.
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
	w.ended = true
	defer w.settle()
	if w.stream.end.socket() == nil { // Close would open it
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

// endDeadline bounds the end of a stream.
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

// release closes a stream that was not finished.
func (w *responseWriter) release() {
	if w.stream != nil && !w.ended {
		w.endStream()
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
		_ = w.startStream(nil)
		return w.finish()
	}
	w.settleHeader(w.buf)
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

// mustStream reports whether a complete response cannot go as one value: a JSON string
// holds no bytes that are no UTF-8; the engine adds a content type, which in a 304 would
// replace that of what the client has; and it sends a length that is too large without
// cutting the connection, so that the client would wait.
func (w *responseWriter) mustStream() bool {
	switch {
	case w.status == http.StatusNotModified:
		return w.ref != nil
	case w.bodyless():
		return false
	}
	return w.length > w.written || !utf8.Valid(w.buf)
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
	for _, name := range slices.Sorted(maps.Keys(w.sent)) {
		if name == "Content-Length" && !w.head || name == "Content-Type" && w.sent.Get(name) == "" {
			continue // the engine knows the length
		}
		for _, v := range w.sent[name] {
			lines = append(lines, headerLine(name, v))
		}
	}
	return lines
}

func headerLine(name, value string) string { return name + ": " + oneLine.Replace(value) }

// oneLine makes header values of texts, as net/http does.
var oneLine = strings.NewReplacer("\r", " ", "\n", " ")
