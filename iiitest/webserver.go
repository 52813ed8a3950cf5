package iiitest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// webServer is the HTTP server for HTTP triggers. It implements HTTP/1.1 and 1.0 as the
// engine's server does. It cannot use net/http, which adds headers, corrects functions'
// responses, and rejects some request targets and Expect headers that the engine accepts.
type webServer struct {
	engine *Engine
	handle func(x *webExchange)

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func newWebServer(e *Engine, handle func(x *webExchange)) *webServer {
	return &webServer{engine: e, handle: handle, conns: map[net.Conn]struct{}{}}
}

// Serve accepts connections until l is closed.
func (s *webServer) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if !s.enter(conn) {
			_ = conn.Close()
			continue
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			// By default, the operating system buffers megabytes over loopback. While a slow
			// client reads them, writes make no progress, and the client appears stalled.
			_ = tcp.SetWriteBuffer(128 << 10)
		}
		s.engine.spawn(func(context.Context) {
			defer s.leave(conn)
			newWebConn(s, conn).serve()
		})
	}
}

func (s *webServer) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[conn] = struct{}{}
	}
	return !s.closed
}

func (s *webServer) leave(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *webServer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close()
	}
	return nil
}

// webHeader is a list of fields with distinct lowercase names, in order of arrival.
type webHeader []webField

type webField struct {
	name   string
	values []string
}

func (h webHeader) find(name string) *webField {
	for i := range h {
		if h[i].name == name {
			return &h[i]
		}
	}
	return nil
}

// get returns a field's first value, or "".
func (h webHeader) get(name string) string {
	if f := h.find(name); f != nil {
		return f.values[0]
	}
	return ""
}

// add appends a value to a field.
func (h *webHeader) add(name, value string) {
	if f := h.find(name); f != nil {
		f.values = append(f.values, value)
		return
	}
	*h = append(*h, webField{name, []string{value}})
}

// set replaces a field's values and keeps the field's position.
func (h *webHeader) set(name, value string) {
	if f := h.find(name); f != nil {
		f.values = []string{value}
		return
	}
	*h = append(*h, webField{name, []string{value}})
}

type webRequest struct {
	method      string
	path, query string // as sent; path is "" for a target without one
	header      webHeader
	old         bool  // HTTP/1.0
	keepAlive   bool  // the client may reuse the connection
	length      int64 // of the body; -1 for chunked
	expects     bool  // the client waits for 100 Continue
}

// Request limits of the engine.
const (
	maxHeaders = 100
	maxHead    = 8192 + 4096*maxHeaders
	maxTarget  = 65534
)

type webConn struct {
	server *webServer
	conn   net.Conn
	in     *bufio.Reader
	line   []byte // holds lines that are longer than the buffer of in
	out    []byte // reused write buffer

	reading chan struct{} // if not nil, closed before the next read from conn

	mu         sync.Mutex
	responding bool // the response has started, so do not send 100 Continue
}

func newWebConn(s *webServer, conn net.Conn) *webConn {
	c := &webConn{server: s, conn: conn}
	c.in = bufio.NewReader(c)
	return c
}

// Read reads from the connection. It is called by the buffered reader c.in.
func (c *webConn) Read(p []byte) (int, error) {
	if c.reading != nil {
		close(c.reading)
		c.reading = nil
	}
	return c.conn.Read(p)
}

// serve handles requests one at a time until the connection ends.
func (c *webConn) serve() {
	for {
		r, refused := c.request()
		if r == nil && refused == 0 {
			return // the client has disconnected
		}
		c.responding = false
		x := &webExchange{conn: c, webRequest: r, gone: make(chan struct{})}
		if refused != 0 {
			x.webRequest = &webRequest{method: http.MethodGet}
			x.respond(refused, nil, nil)
			c.linger()
			return
		}
		if r.length != 0 {
			x.body = newWebBody(c, r)
		}
		c.server.handle(x)
		switch complete := x.stopReading(); {
		case !complete:
			c.linger()
			return
		case x.last:
			return
		}
	}
}

// webLinger is how long a connection stays open for a client that has not sent its whole
// request.
const webLinger = 500 * time.Millisecond

// linger gives the client time to read the response. Closing the connection while the client
// is still sending would reset the connection, and the client could lose the part of the
// response that it has not read yet.
func (c *webConn) linger() {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(webLinger))
	_, _ = io.Copy(io.Discard, c.conn)
}

// readLine returns the next line without its terminator, and the unused part of limit. line is
// valid until the next call.
func (c *webConn) readLine(limit int) (line []byte, left int, err error) {
	line, err = c.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		c.line = c.line[:0]
		for errors.Is(err, bufio.ErrBufferFull) && len(c.line) <= limit {
			c.line = append(c.line, line...)
			line, err = c.in.ReadSlice('\n')
		}
		c.line = append(c.line, line...)
		line = c.line
	}
	if len(line) > limit {
		return nil, 0, errHead
	}
	left = limit - len(line)
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), left, err
}

var errHead = errors.New("iiitest: request head exceeds the engine's limit")

// request reads the head of the next request. If refused is not 0, it is the status with which
// to reject the request. If r is nil and refused is 0, the client has disconnected.
func (c *webConn) request() (r *webRequest, refused int) {
	line, left, err := c.readLine(maxHead)
	for err == nil && len(line) == 0 { // old clients send an empty line after a body
		line, left, err = c.readLine(left)
	}
	if err != nil {
		return nil, headStatus(err)
	}
	r, refused = parseRequestLine(string(line))
	if refused != 0 {
		return nil, refused
	}
	chunked, sized := false, false
	for n := 0; ; n++ {
		if line, left, err = c.readLine(left); err != nil {
			return nil, headStatus(err)
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := parseField(line)
		switch {
		case !ok:
			return nil, http.StatusBadRequest
		case n == maxHeaders:
			return nil, http.StatusRequestHeaderFieldsTooLarge
		}
		switch name {
		case "transfer-encoding":
			if r.old {
				return nil, http.StatusBadRequest
			}
			r.length, chunked = -1, endsChunked(value)
		case "content-length":
			if r.length < 0 {
				continue
			}
			length, err := parseLength(value)
			if err != nil || sized && length != r.length {
				return nil, http.StatusBadRequest
			}
			if sized {
				continue
			}
			r.length, sized = length, true
		case "connection":
			if r.keepAlive {
				r.keepAlive = !hasToken(value, "close")
			} else {
				r.keepAlive = hasToken(value, "keep-alive")
			}
		case "expect":
			r.expects = strings.EqualFold(value, "100-continue") && !r.old
		}
		r.header.add(name, value)
	}
	if r.length < 0 && !chunked {
		return nil, http.StatusBadRequest
	}
	return r, 0
}

func headStatus(err error) int {
	if errors.Is(err, errHead) {
		return http.StatusRequestHeaderFieldsTooLarge
	}
	return 0
}

func parseRequestLine(line string) (r *webRequest, refused int) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch {
	case !isToken(method), version != "HTTP/1.1" && version != "HTTP/1.0":
		return nil, http.StatusBadRequest
	case len(target) > maxTarget:
		return nil, http.StatusRequestURITooLong
	}
	path, query, ok := parseTarget(target)
	if !ok {
		return nil, http.StatusBadRequest
	}
	old := version == "HTTP/1.0"
	return &webRequest{method: method, path: path, query: query, old: old, keepAlive: !old}, 0
}

// parseTarget returns the undecoded path and query of a request target in any form (RFC 9112,
// section 3.2). Like the engine, it ignores fragments and an absolute target's host, and
// rejects only some of the characters that require escaping.
func parseTarget(target string) (path, query string, ok bool) {
	switch {
	case target == "*":
		return target, "", true
	case strings.HasPrefix(target, "/"):
	default:
		scheme, rest, absolute := strings.Cut(target, "://")
		if !absolute { // CONNECT has a host but no path
			return "", "", isAuthority(target)
		}
		end := len(rest)
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			end = i
		}
		if !isToken(scheme) || !isAuthority(rest[:end]) {
			return "", "", false
		}
		if target = rest[end:]; !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	target, _, _ = strings.Cut(target, "#")
	if !utf8.ValidString(target) {
		return "", "", false
	}
	path, query, _ = strings.Cut(target, "?")
	return path, query, validIn(path, "<>`") && validIn(query, "\"<>")
}

func isAuthority(s string) bool { return s != "" && validIn(s, "/?#\"<>\\^`{|}") }

// validIn reports whether s contains no spaces, control characters or characters in forbidden.
func validIn(s, forbidden string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || strings.IndexByte(forbidden, s[i]) >= 0 {
			return false
		}
	}
	return true
}

func parseField(line []byte) (name, value string, ok bool) {
	raw, rest, found := bytes.Cut(line, []byte(":"))
	name, value = strings.ToLower(string(raw)), string(bytes.Trim(rest, " \t"))
	return name, value, found && validHeader(name, value)
}

// parseLength parses a Content-Length, which may contain only digits.
func parseLength(value string) (int64, error) {
	n, err := strconv.ParseUint(value, 10, 63)
	return int64(n), err
}

// hasToken reports whether a comma-separated list contains token, ignoring case.
func hasToken(list, token string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), token) })
}

// endsChunked reports whether chunked is the last encoding in list.
func endsChunked(list string) bool {
	return strings.EqualFold(strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:]), "chunked")
}

type webBody struct {
	conn     *webConn
	data     io.Reader
	chunked  bool
	expected bool        // the client waits for 100 Continue
	ended    atomic.Bool // no more data can be read
	complete bool        // the whole body was read; valid once ended is set
}

func newWebBody(c *webConn, r *webRequest) *webBody {
	b := &webBody{conn: c, chunked: r.length < 0, expected: r.expects}
	if b.chunked {
		b.data = httputil.NewChunkedReader(c.in)
	} else {
		b.data = &io.LimitedReader{R: c.in, N: r.length}
	}
	return b
}

// Read returns io.ErrUnexpectedEOF if the connection ends before the body does.
func (b *webBody) Read(p []byte) (int, error) {
	if b.expected {
		b.expected = false
		b.conn.proceed()
	}
	n, err := b.data.Read(p)
	if limited, ok := b.data.(*io.LimitedReader); ok {
		switch {
		case limited.N == 0 && err == nil:
			err = io.EOF
		case limited.N > 0 && err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
	} else if err == io.EOF {
		err = b.trailers()
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		b.complete = err == io.EOF
		b.ended.Store(true)
	}
	return n, err
}

// trailers skips the trailer section after the last chunk. It returns io.EOF on success.
func (b *webBody) trailers() error {
	for left := maxHead; ; {
		line, rest, err := b.conn.readLine(left)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return io.EOF
		}
		left = rest
	}
}

// proceed sends 100 Continue unless the response has started.
func (c *webConn) proceed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.responding {
		_, _ = io.WriteString(c.conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
}

// webExchange is a request and its response. It is not safe for concurrent use.
type webExchange struct {
	*webRequest
	conn *webConn
	body *webBody      // nil if the request has no body
	gone chan struct{} // closed when the client has disconnected

	listening chan struct{} // closed when no goroutine reads from the connection anymore
	framing   framing       // framing of the response
	last      bool          // close the connection after the response
	done      bool          // the whole response has been sent
}

// listen reads from the connection in the background. It passes the rest of the request body
// to deliver, which can return false to stop, and finally calls deliver(nil). If the whole
// request has been read, the background goroutine then waits for the client to disconnect.
//
// listen returns only after the part of the body that arrived together with the head has been
// read. deliver must not block on that part, which is at most as large as a bufio.Reader's
// buffer. A response that starts before the whole body has been read closes the connection.
// Because listen waits, this does not happen to a request that has arrived completely.
func (x *webExchange) listen(deliver func(data []byte) bool) {
	x.listening = make(chan struct{})
	ended, reading := make(chan struct{}), make(chan struct{})
	x.conn.reading = reading
	go func() { // stopReading waits for this goroutine
		defer close(x.listening)
		for b := x.body; b != nil && !b.ended.Load(); {
			data := make([]byte, 32<<10)
			n, err := b.Read(data)
			if n > 0 && !deliver(data[:n]) || err != nil && !b.ended.Load() {
				break
			}
		}
		close(ended)
		deliver(nil)
		if !x.read() {
			return
		}
		if _, err := x.conn.in.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			close(x.gone)
			_ = x.conn.conn.Close() // unblocks the writer
		}
	}()
	select {
	case <-ended:
	case <-reading:
	}
}

// stopReading stops the goroutine started by listen. If another request can follow, it first
// waits for that request, or for the client to disconnect. It reports whether the request and
// the response are complete.
func (x *webExchange) stopReading() bool {
	next := x.done && x.read() && !x.last
	switch {
	case x.listening == nil:
	case next:
		<-x.listening
	default:
		_ = x.conn.conn.SetReadDeadline(time.Unix(1, 0))
		<-x.listening
		_ = x.conn.conn.SetReadDeadline(time.Time{})
	}
	return x.done && x.read()
}

// read reports whether the whole request has been read.
func (x *webExchange) read() bool { return x.body == nil || x.body.ended.Load() && x.body.complete }

// respond sends a complete response. A Content-Length set by a function is sent unchanged. If
// it is wrong, respond closes the connection. A real engine keeps the connection open, and a
// client that trusts the length waits forever.
func (x *webExchange) respond(status int, header webHeader, body []byte) {
	length := strconv.Itoa(len(body))
	if header.find("content-length") == nil {
		header.set("content-length", length)
	}
	n := int64(len(body))
	if x.method == http.MethodHead {
		n = 0
	}
	if x.head(status, header, n) {
		wrong := x.framing.left > 0 && header.get("content-length") != length
		x.send(body)
		x.last = x.last || wrong
	}
}

// unknown represents a body length that is not known in advance.
const unknown = -1

// head starts a response with a body of the given length. The head is buffered until the first
// call to send. If fields of header contradict each other, head returns false, and the
// connection must be closed without a response.
func (x *webExchange) head(status int, header webHeader, length int64) bool {
	if x.body != nil && !x.body.ended.Load() {
		x.keepAlive = false // the client is still sending; do not wait for it
	}
	c := x.conn
	var ok bool
	c.out, x.framing, x.last, ok = encodeHead(c.out[:0], x.webRequest, status, header, length)
	if ok {
		c.mu.Lock()
		c.responding = true
		c.mu.Unlock()
	}
	return ok
}

// keptBytes is the maximum size of a write buffer that is reused.
const keptBytes = 1 << 20

// send sends part of the body, preceded by the head if it has not been sent. It returns false
// once the response is complete or has failed.
func (x *webExchange) send(data []byte) bool {
	x.conn.out = x.framing.append(x.conn.out, data)
	_, err := x.conn.conn.Write(x.conn.out)
	if x.conn.out = x.conn.out[:0]; cap(x.conn.out) > keptBytes {
		x.conn.out = nil
	}
	x.done = err == nil && x.framing.over()
	return err == nil && !x.done
}

// end ends a body that was sent in parts.
func (x *webExchange) end() {
	switch {
	case x.framing.chunked:
		_, err := io.WriteString(x.conn.conn, "0\r\n\r\n")
		x.done = err == nil
	case x.framing.untilClose:
		x.done, x.last = true, true
	}
}

// framing defines how a client detects the end of a body.
type framing struct {
	chunked    bool
	untilClose bool
	left       int64 // bytes left of a body with a length; excess data is dropped
}

// over reports whether a body of known length is complete.
func (f *framing) over() bool { return !f.chunked && !f.untilClose && f.left == 0 }

// append appends part of a body. Empty parts are skipped, because an empty chunk would end the
// body.
func (f *framing) append(dst, data []byte) []byte {
	switch {
	case f.chunked && len(data) > 0:
		dst = append(strconv.AppendInt(dst, int64(len(data)), 16), "\r\n"...)
		return append(append(dst, data...), "\r\n"...)
	case !f.chunked && !f.untilClose:
		data = data[:min(int64(len(data)), f.left)]
		f.left -= int64(len(data))
	}
	return append(dst, data...)
}

// encodeHead appends a response's head to dst. The response is for r, and its body has the
// given length. The fields and their order are those of the engine's HTTP library. last
// reports whether the connection ends after the response. ok is false if fields of header
// contradict each other.
func encodeHead(dst []byte, r *webRequest, status int, header webHeader, length int64) (out []byte, f framing, last, ok bool) {
	connect := r.method == http.MethodConnect && status >= 200 && status < 300
	last = !r.keepAlive || connect || status == http.StatusSwitchingProtocols
	switch {
	case status < 200 && status != http.StatusSwitchingProtocols: // informational responses are not allowed
		status, header, length, last = http.StatusInternalServerError, nil, 0, true
	case r.keepAlive && r.old:
		header.set("connection", "keep-alive")
	case !r.keepAlive && !r.old:
		header.set("connection", "close")
	}
	sizeless := status < 200 || status == http.StatusNoContent || status == http.StatusNotModified || connect
	bodyless := sizeless || r.method == http.MethodHead
	chunks := !bodyless && !r.old

	version := "HTTP/1.1 "
	if r.old {
		version = "HTTP/1.0 "
	}
	reason := http.StatusText(status)
	if reason == "" {
		reason = "<none>"
	}
	dst = append(strconv.AppendInt(append(dst, version...), int64(status), 10), ' ')
	dst = append(append(dst, reason...), "\r\n"...)

	framed, dated := connect, false
	for _, field := range header {
		line := strings.Join(field.values, ", ") // for fields that are lists
		switch field.name {
		case "content-length":
			if framed || len(field.values) > 1 {
				return dst, f, true, false
			}
			n, err := parseLength(line)
			switch {
			case length == 0 && r.method != http.MethodHead:
				continue // the correct length follows
			case length == unknown && err != nil:
				return dst, f, true, false
			case length == unknown:
				f.left = n
			default:
				f.left = length
			}
			framed = true
		case "transfer-encoding":
			if framed || chunks && len(field.values) > 1 {
				return dst, f, true, false
			}
			if !chunks {
				continue
			}
			if !endsChunked(line) {
				line += ", chunked"
			}
			framed, f.chunked = true, true
		case "trailer":
			if !chunks {
				continue // no trailers without chunks
			}
		case "connection":
			last = last || hasToken(line, "close")
		default:
			dated = dated || field.name == "date"
			for _, value := range field.values {
				dst = appendField(dst, field.name, value)
			}
			continue
		}
		dst = appendField(dst, field.name, line)
	}
	switch {
	case framed:
	case length == unknown && !chunks:
		f.untilClose = true
	case length == unknown:
		f.chunked = true
		dst = appendField(dst, "transfer-encoding", "chunked")
	case sizeless, length == 0 && r.method == http.MethodHead:
	default:
		f.left = length
		dst = appendField(dst, "content-length", strconv.FormatInt(length, 10))
	}
	if bodyless {
		f = framing{}
	}
	if !dated {
		dst = append(time.Now().UTC().AppendFormat(append(dst, "date: "...), http.TimeFormat), "\r\n"...)
	}
	return append(dst, "\r\n"...), f, last || f.untilClose, true
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}
