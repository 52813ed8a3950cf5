package iiitest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

func (e *Engine) registerHTTP() {
	e.addTriggerType("http", "iii-http", "HTTP API trigger", &e.routes)
}

// httpPayload is what the function of an http trigger gets.
type httpPayload struct {
	Body        json.RawMessage   `json:"body"`
	Headers     map[string]string `json:"headers"`
	Method      string            `json:"method"`
	Path        string            `json:"path"` // the registered one
	PathParams  map[string]string `json:"path_params"`
	QueryParams map[string]string `json:"query_params"`
	RequestBody map[string]string `json:"request_body,omitempty"`
	Response    map[string]string `json:"response,omitempty"`
	Trigger     httpTrigger       `json:"trigger"`
}

type httpTrigger struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Type   string `json:"type"`
}

// serveHTTP is the server of the http triggers.
func (e *Engine) serveHTTP(rw http.ResponseWriter, r *http.Request) {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	found, params, methods := e.routes.find(r.Method, path)
	h := rw.Header()
	h["Vary"] = []string{"origin, access-control-request-method, access-control-request-headers"}
	h["Access-Control-Allow-Origin"] = []string{"*"}
	if r.Method == http.MethodOptions { // every OPTIONS is taken for a preflight
		h["Access-Control-Allow-Methods"] = []string{"*"}
		h["Access-Control-Allow-Headers"] = []string{"*"}
		if allow := allowed(methods); allow != "" {
			h["Allow"] = []string{allow}
		}
		rw.WriteHeader(http.StatusOK)
		return
	}
	h["Access-Control-Expose-Headers"] = []string{"*"}
	if found == nil {
		notFound.write(rw, r.Method == http.MethodHead)
		return
	}
	trace, span := e.startSpan(withTrace(e.ctx, traceContext{
		traceparent: validTraceparent(r.Header.Get("Traceparent")), baggage: r.Header.Get("Baggage"),
	}), r.Method+" "+found.path)
	defer span.end(nil)
	x := &exchange{
		e: e, route: found, rw: rw, r: r, trace: trace,
		requestBody: e.newChannel(channelBuffer), response: e.newChannel(channelBuffer),
	}
	x.payload = httpPayload{
		Headers: requestHeaders(r), Method: r.Method, Path: found.path,
		PathParams: params, QueryParams: queryParams(r.URL.RawQuery),
		Trigger: httpTrigger{Method: r.Method, Path: found.path, Type: "http"},
	}
	x.run()
}

// exchange is one request to an http trigger.
type exchange struct {
	e     *Engine
	route *route
	rw    http.ResponseWriter
	r     *http.Request
	trace context.Context // of the engine, with the trace of this request

	requestBody, response *channel
	bodyRead              <-chan struct{} // closed when nothing reads the body any more
	payload               httpPayload
}

// run answers the request. Whatever the function does, the answer begins before
// the timeout; a function that is late goes on for nobody.
func (x *exchange) run() {
	timeout := time.NewTimer(x.e.cfg.httpTimeout)
	defer timeout.Stop()
	ctx, cancel := context.WithCancel(x.e.ctx) // ends with the request
	defer cancel()
	x.response.take(reading)
	defer x.e.endChannel(x.response, reading)
	x.requestBody.take(writing)
	read, ok := x.readBody(ctx)
	x.bodyRead = read
	if !ok {
		x.timeOut()
		return
	}
	defer func() { // nothing reads the body once this has returned
		select {
		case <-read:
		default:
			cancel()
			_ = http.NewResponseController(x.rw).SetReadDeadline(time.Unix(1, 0))
			<-read
		}
	}()

	answer := make(chan reply, 1)
	x.e.spawn(func(context.Context) {
		if r, ok := x.call(); ok && x.e.ctx.Err() == nil {
			answer <- r
		}
	})
	streamed := x.streamHead(ctx)
	select {
	case r := <-answer:
		x.closeUnlessRead()
		r.write(x.rw, x.r.Method == http.MethodHead)
	case head := <-streamed:
		x.closeUnlessRead()
		x.stream(head)
	case <-timeout.C:
		x.timeOut()
	case <-x.r.Context().Done(): // the client is gone
	case <-x.e.ctx.Done():
		panic(http.ErrAbortHandler) // the engine closes: no answer
	}
}

// timeOut is the answer to a request that took too long.
func (x *exchange) timeOut() {
	clear(x.rw.Header())
	x.closeUnlessRead()
	x.rw.WriteHeader(http.StatusGatewayTimeout)
}

// closeUnlessRead makes the response the last of its connection if the body is
// still being read. A deadline ends that reading, and might as well hit the
// server's own that follows it: later requests would seem to have lost their
// clients.
func (x *exchange) closeUnlessRead() {
	select {
	case <-x.bodyRead:
	default:
		x.rw.Header().Set("Connection", "close")
	}
}

// readBody gives the body to the request's channel, and to the payload if it
// is JSON: that is read first, and false means that it did not come in time.
// The channel is closed when the body is read no more.
func (x *exchange) readBody(ctx context.Context) (<-chan struct{}, bool) {
	done := make(chan struct{})
	if x.r.Body == http.NoBody {
		x.e.endChannel(x.requestBody, writing)
		close(done)
		return done, true
	}
	if strings.Contains(x.r.Header.Get("Content-Type"), "application/json") {
		control := http.NewResponseController(x.rw)
		_ = control.SetReadDeadline(time.Now().Add(x.e.cfg.httpTimeout))
		body, err := io.ReadAll(http.MaxBytesReader(x.rw, x.r.Body, maxMessage))
		switch {
		case err == nil:
			x.payload.Body, _ = canonical(body)
		case errors.Is(err, os.ErrDeadlineExceeded):
			x.e.endChannel(x.requestBody, writing)
			close(done)
			return done, false
		}
		_ = control.SetReadDeadline(time.Time{})
		x.e.spawn(func(context.Context) {
			defer x.e.endChannel(x.requestBody, writing)
			if len(body) > 0 {
				x.requestBody.write(ctx, channelFrame{websocket.BinaryMessage, body})
			}
		})
		close(done)
		return done, true
	}
	go func() { // joined by run
		defer close(done)
		defer x.e.endChannel(x.requestBody, writing)
		for {
			b := make([]byte, 32<<10)
			n, err := x.r.Body.Read(b)
			if n > 0 && !x.requestBody.write(ctx, channelFrame{websocket.BinaryMessage, b[:n]}) {
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return done, true
}

// call asks the middleware and the condition and calls the function. There is
// no reply when the function returned nothing: then the response comes over
// its channel, or never.
func (x *exchange) call() (reply, bool) {
	for _, id := range x.e.cfg.httpMiddleware {
		if r, stop := x.middleware(id, defaultNamespace); stop {
			return r, true
		}
	}
	if x.route.condition != "" {
		run, err := x.e.condition(x.trace, x.route.condition, x.route.namespace, mustEncode(x.payload))
		if err != nil {
			return failure(err), true
		}
		if !run {
			return conditionNotMet, true
		}
	}
	for _, id := range x.route.middleware {
		if r, stop := x.middleware(id, x.route.namespace); stop {
			return r, true
		}
	}
	x.payload.RequestBody, x.payload.Response = x.requestBody.ref(reading), x.response.ref(writing)
	result, err := x.e.fire(x.trace, x.route.binding, mustEncode(x.payload))
	switch {
	case err != nil:
		return failure(err), true
	case isNull(result):
		return reply{}, false
	}
	return replyOf(result), true
}

// middleware asks a middleware function, which may answer in place of the
// function.
func (x *exchange) middleware(id, namespace string) (reply, bool) {
	input := mustEncode(map[string]any{
		"phase": "preHandler", "context": map[string]any{},
		"request": map[string]any{
			"path_params": x.payload.PathParams, "query_params": x.payload.QueryParams,
			"headers": x.payload.Headers, "method": x.payload.Method,
		},
	})
	done := make(chan outcome, 1)
	x.e.spawn(func(context.Context) {
		result, err := x.e.invoke(x.trace, id, namespace, input)
		done <- outcome{result, err}
	})
	timeout := time.NewTimer(middlewareTimeout)
	defer timeout.Stop()
	var out outcome
	select {
	case out = <-done:
	case <-timeout.C:
		return timedOut, true
	case <-x.e.ctx.Done():
		return reply{}, true
	}
	if out.err != nil {
		return failure(out.err), true
	}
	var said struct {
		Action   any             `json:"action"`
		Response json.RawMessage `json:"response"`
	}
	if kindOf(out.result) != '{' || json.Unmarshal(out.result, &said) != nil || said.Action != "respond" {
		return reply{}, false
	}
	return middlewareReply(said.Response), true
}

// middlewareTimeout is how long a middleware function may take.
const middlewareTimeout = 30 * time.Second

// streamedHead is the beginning of a response that comes over its channel.
type streamedHead struct {
	status int
	header http.Header
	first  []byte // nil: the channel ended without data
}

// streamHead waits for the first binary frame of the response channel, or its
// end, and collects what the control messages before it said.
func (x *exchange) streamHead(ctx context.Context) <-chan streamedHead {
	done := make(chan streamedHead, 1)
	x.e.spawn(func(context.Context) {
		head := streamedHead{status: http.StatusOK, header: http.Header{}}
		for {
			select {
			case f, more := <-x.response.buffer:
				if more && f.kind == websocket.TextMessage {
					head.control(f.data)
					continue
				}
				head.first = f.data
				done <- head
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return done
}

// control applies a control message: set_status, or set_headers with a map of
// single values.
func (h *streamedHead) control(data []byte) {
	var m struct {
		Type    string          `json:"type"`
		Status  json.RawMessage `json:"status_code"`
		Headers json.RawMessage `json:"headers"`
	}
	if json.Unmarshal(data, &m) != nil {
		return
	}
	switch m.Type {
	case "set_status":
		if status, err := strconv.Atoi(string(m.Status)); err == nil && status >= 100 && status <= 599 {
			h.status = status
		}
	case "set_headers":
		if kindOf(m.Headers) == '{' {
			setHeaders(h.header, m.Headers)
		}
	}
}

// stream writes a response that comes over its channel.
func (x *exchange) stream(head streamedHead) {
	for name, values := range head.header {
		x.rw.Header()[name] = values
	}
	control := http.NewResponseController(x.rw)
	// The body may still be on its way to the function. Without this the server
	// would read up to 256 KiB of it here, and drop them.
	_ = control.EnableFullDuplex()
	// A client that has left does not read what is being written to it.
	defer context.AfterFunc(x.r.Context(), func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })()
	x.rw.WriteHeader(head.status)
	for data := head.first; ; {
		if data != nil { // an empty frame sends the head
			if _, err := x.rw.Write(data); err != nil {
				return
			}
			_ = control.Flush()
		}
		select {
		case f, more := <-x.response.buffer:
			if !more {
				return
			}
			data = nil
			if f.kind == websocket.BinaryMessage { // later text is ignored
				data = f.data
			}
		case <-x.r.Context().Done():
			return
		case <-x.e.ctx.Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// requestHeaders is what a function sees of the header: lowercase names, the
// last value of each, "" for a value that is not visible ASCII.
func requestHeaders(r *http.Request) map[string]string {
	headers := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = visible(values[len(values)-1])
	}
	if len(r.TransferEncoding) > 0 {
		headers["transfer-encoding"] = strings.Join(r.TransferEncoding, ", ")
	}
	return headers
}

func visible(s string) string {
	for i := range len(s) {
		if (s[i] < ' ' && s[i] != '\t') || s[i] > '~' {
			return ""
		}
	}
	return s
}

// queryParams decodes a query; the last of several values counts.
func queryParams(raw string) map[string]string {
	params := map[string]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		params[unescape(k)] = unescape(v)
	}
	return params
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return string([]rune(u)) // U+FFFD for what is no UTF-8
	}
	return s
}

// allowed is the Allow header for the methods of a path.
func allowed(methods []string) string {
	var list []string
	for _, m := range methods {
		if list = append(list, m); m == http.MethodGet && !slices.Contains(methods, http.MethodHead) {
			list = append(list, http.MethodHead)
		}
	}
	return strings.Join(list, ",")
}

func validTraceparent(s string) string {
	if _, ok := parseTraceparent(s); !ok {
		return ""
	}
	return s
}
