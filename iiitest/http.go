package iiitest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

func (e *Engine) registerHTTP() {
	e.addTriggerType("http", "iii-http", "HTTP API trigger", &e.routes)
}

// httpPayload is the input of a function with an http trigger. All values are canonical.
type httpPayload struct {
	body                             json.RawMessage // nil: null
	headers, pathParams, queryParams json.RawMessage
	method, path                     string          // path as registered
	requestBody, response            json.RawMessage // references to channels; nil if there are none
	observer                         bool            // for an observer instead of a trigger
}

// json returns the payload in canonical form.
func (p *httpPayload) json() json.RawMessage {
	o := &object{b: make([]byte, 0, len(p.body)+len(p.headers)+len(p.pathParams)+len(p.queryParams)+len(p.requestBody)+len(p.response)+2*len(p.path)+256)}
	o.raw("body", orNull(p.body)).raw("headers", p.headers).str("method", p.method).str("path", p.path).
		raw("path_params", p.pathParams).raw("query_params", p.queryParams).
		raw("request_body", p.requestBody).raw("response", p.response)
	if !p.observer {
		o.raw("trigger", new(object).str("method", p.method).str("path", p.path).str("type", "http").bytes())
	}
	return o.bytes()
}

// serveHTTP serves a request to the HTTP triggers.
func (e *Engine) serveHTTP(w *webExchange) {
	found, params, methods := e.routes.find(w.method, w.path)
	switch {
	case w.method == http.MethodOptions: // every OPTIONS request is treated as a preflight request
		w.respond(http.StatusOK, preflight(methods), nil)
		return
	case found != nil:
	case len(methods) == 0, w.method == http.MethodHead && slices.Contains(methods, http.MethodGet):
		notFound.send(w)
		return
	default:
		header := cors(nil)
		header.add("allow", allowed(methods))
		w.respond(http.StatusMethodNotAllowed, header, nil)
		return
	}
	trace, span := e.startSpan(withTrace(e.ctx, traceContext{
		traceparent: validTraceparent(w.header.get("traceparent")), baggage: w.header.get("baggage"),
	}), w.method+" "+found.path)
	defer span.end(nil)
	x := &exchange{
		e: e, route: found, web: w, trace: trace,
		requestBody: e.newChannel(channelBuffer), response: e.newChannel(channelBuffer),
	}
	x.payload = httpPayload{
		headers: headersOf(w.header), method: w.method, path: found.path,
		pathParams: mustEncode(params), queryParams: mustEncode(queryParams(w.query)), observer: found.observer != nil,
	}
	x.run()
}

const corsVary = "origin, access-control-request-method, access-control-request-headers"

// cors adds the header fields that allow pages from any origin to read the response. A
// function's reply cannot override them.
func cors(header webHeader) webHeader {
	header = slices.Clone(header)
	header.add("vary", corsVary)
	header.set("access-control-allow-origin", "*")
	header.set("access-control-expose-headers", "*")
	return header
}

// preflight returns the response header for an OPTIONS request to a path with the given
// methods.
func preflight(methods []string) webHeader {
	header := webHeader{
		{"vary", []string{corsVary}},
		{"access-control-allow-methods", []string{"*"}}, {"access-control-allow-headers", []string{"*"}},
		{"access-control-allow-origin", []string{"*"}},
	}
	if len(methods) > 0 && !slices.Contains(methods, http.MethodOptions) {
		header.add("allow", allowed(methods))
	}
	return header
}

// exchange is one request to an HTTP trigger and its response.
type exchange struct {
	e     *Engine
	route *route
	web   *webExchange
	trace context.Context // engine's context with the request's trace

	requestBody, response *channel
	payload               httpPayload

	ended atomic.Int32 // number of finished parts: the response and the function
}

// run serves the request. The response starts before the timeout, whatever the function does.
// If the function takes longer, its result is discarded.
func (x *exchange) run() {
	timeout := time.NewTimer(x.e.cfg.httpTimeout)
	defer timeout.Stop()
	ctx, cancel := context.WithCancel(x.e.ctx) // canceled when the request is done
	defer cancel()
	x.response.take(reading)
	defer x.end()
	defer x.e.endChannel(x.response, reading)
	x.requestBody.take(writing)
	if !x.readBody(ctx) {
		x.end() // in place of the function, which is not called
		x.web.respond(http.StatusGatewayTimeout, nil, nil)
		return
	}
	answer := make(chan reply, 1)
	x.e.spawn(func(context.Context) {
		defer x.end()
		if r, ok := x.call(); ok && x.e.ctx.Err() == nil {
			answer <- r
		}
	})
	head := streamedHead{status: http.StatusOK, fields: map[string]string{}}
	for {
		select {
		case r := <-answer:
			r.send(x.web)
		case f, more := <-x.response.buffer:
			if more && f.kind == websocket.TextMessage {
				head.control(f.data)
				continue
			}
			head.first = f.data
			x.stream(head)
		case <-timeout.C:
			x.web.respond(http.StatusGatewayTimeout, nil, nil)
		case <-x.web.gone:
		case <-x.e.ctx.Done():
		}
		return
	}
}

// end records that the response or the function has finished. Once both have finished, it
// closes the channel ends that the function has not taken, which deletes those channels.
func (x *exchange) end() {
	if x.ended.Add(1) < 2 {
		return
	}
	x.e.releaseChannel(x.requestBody, reading)
	x.e.releaseChannel(x.response, writing)
}

// readBody passes the request body to the request's channel and, if the body is JSON, to the
// payload. It reads a JSON body completely before it returns, and returns false if the body
// does not arrive in time. The channel closes at the end of the body.
func (x *exchange) readBody(ctx context.Context) bool {
	if x.web.body == nil || !strings.Contains(x.web.header.get("content-type"), "application/json") {
		x.web.listen(func(data []byte) bool {
			if data == nil {
				x.e.endChannel(x.requestBody, writing)
				return false
			}
			return x.requestBody.write(ctx, channelFrame{websocket.BinaryMessage, data})
		})
		return true
	}
	conn := x.web.conn.conn
	_ = conn.SetReadDeadline(time.Now().Add(x.e.cfg.httpTimeout))
	body, err := io.ReadAll(x.web.body)
	_ = conn.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		x.payload.body, _ = canonical(body)
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.e.endChannel(x.requestBody, writing)
		return false
	}
	if len(body) > 0 { // the channel is still empty, so nothing blocks
		x.requestBody.write(ctx, channelFrame{websocket.BinaryMessage, body})
	}
	x.e.endChannel(x.requestBody, writing)
	x.web.listen(func([]byte) bool { return false })
	return true
}

// call runs the middleware functions, the condition and the function. If the function returns
// no result, call returns false; the response is then sent over the response channel, if at
// all.
func (x *exchange) call() (reply, bool) {
	for _, id := range x.e.cfg.httpMiddleware {
		if r, stop := x.middleware(id, defaultNamespace); stop {
			return r, true
		}
	}
	if o := x.route.observer; o != nil && !o.filter.matchesAll() && !o.filter.matches(&document{Input: x.payload.json(), Caller: engineCaller().json()}) {
		return conditionNotMet, true
	}
	if x.route.condition != nil {
		run, err := x.e.condition(x.trace, *x.route.condition, x.route.namespace, x.payload.json())
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
	x.payload.requestBody, x.payload.response = x.requestBody.ref(reading), x.response.ref(writing)
	result, err := x.e.fireCanonical(x.trace, x.route.binding, x.payload.json())
	switch {
	case err != nil:
		return failure(err), true
	case isNull(result):
		return reply{}, false
	}
	return replyOf(result), true
}

// middleware calls a middleware function. It returns true if the middleware responds in place
// of the function.
func (x *exchange) middleware(id, namespace string) (reply, bool) {
	input := mustEncode(map[string]any{
		"phase": "preHandler", "context": map[string]any{},
		"request": map[string]any{
			"path_params": x.payload.pathParams, "query_params": x.payload.queryParams,
			"headers": x.payload.headers, "method": x.payload.method,
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
	members := membersOf(out.result)
	if stringOf(members["action"]) != "respond" {
		return reply{}, false
	}
	return middlewareReply(members["response"]), true
}

const middlewareTimeout = 30 * time.Second

// streamedHead is the start of a response that is sent over a channel: status, header and
// first data.
type streamedHead struct {
	status int
	fields map[string]string // by name, case preserved
	first  []byte            // nil if the channel closed without data
}

// control applies a control message: set_status, or set_headers with one value per name. Other
// text is ignored.
func (h *streamedHead) control(data []byte) {
	if checkJSON(data) != nil {
		return
	}
	message := membersOf(data)
	switch stringOf(message["type"]) {
	case "set_status":
		if status, ok := countOf(message["status_code"]); ok && status >= 100 && status <= 599 {
			h.status = int(status)
		}
	case "set_headers":
		for name, value := range membersOf(message["headers"]) {
			if kindOf(value) == '"' {
				h.fields[name] = unquote(value)
			}
		}
	}
}

// header returns the fields set by control messages, sorted by name. Names that differ only in
// case remain separate. A real engine sends the fields in hash table order.
func (h *streamedHead) header() (header webHeader) {
	for _, name := range slices.Sorted(maps.Keys(h.fields)) {
		header.addValid(name, h.fields[name])
	}
	return header
}

// stream sends a response that the function writes to the response channel.
func (x *exchange) stream(head streamedHead) {
	if !x.web.head(head.status, cors(head.header()), unknown) || !x.web.send(head.first) {
		return
	}
	for {
		select {
		case f, more := <-x.response.buffer:
			switch {
			case !more:
				x.web.end()
				return
			case f.kind == websocket.BinaryMessage && len(f.data) > 0: // text after the head is ignored
				if !x.web.send(f.data) {
					return
				}
			}
		case <-x.web.gone:
			return
		case <-x.e.ctx.Done():
			return
		}
	}
}

// headersOf returns the request header as passed to a function. For each name, the result
// contains the last value, or "" if that value is not visible ASCII.
func headersOf(header webHeader) json.RawMessage {
	var room [fewMembers]*webField
	fields := room[:0]
	for i := range header {
		fields = append(fields, &header[i])
	}
	slices.SortFunc(fields, func(a, b *webField) int { return strings.Compare(a.name, b.name) })
	headers := new(object)
	for _, field := range fields {
		headers.str(field.name, visible(field.values[len(field.values)-1]))
	}
	return headers.bytes()
}

func visible(s string) string {
	for i := range len(s) {
		if (s[i] < ' ' && s[i] != '\t') || s[i] > '~' {
			return ""
		}
	}
	return s
}

// queryParams decodes a query. If a name has several values, the last one is used.
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

// unescape decodes percent-encoding. Invalid escapes remain unchanged, and bytes that are not
// UTF-8 become U+FFFD.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return strings.ReplaceAll(s, "+", " ")
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%' && i+2 < len(s):
			if decoded, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b = append(b, decoded[0])
				i += 2
				continue
			}
			b = append(b, c)
		default:
			b = append(b, c)
		}
	}
	return lossyText(b)
}

// lossyText converts b to UTF-8. As the Unicode standard recommends, each maximal prefix of an
// incomplete character becomes one U+FFFD.
func lossyText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var text strings.Builder
	for len(b) > 0 {
		_, size := utf8.DecodeRune(b)
		if part := b[:size]; utf8.Valid(part) {
			text.Write(part)
		} else {
			text.WriteRune(utf8.RuneError)
			size = brokenLength(b)
		}
		b = b[size:]
	}
	return text.String()
}

// brokenLength returns the length of the incomplete character at the start of b.
func brokenLength(b []byte) int {
	n := 1
	for n < len(b) && n < utf8.UTFMax && !utf8.FullRune(b[:n]) {
		n++
	}
	if !utf8.FullRune(b[:n]) {
		return n // b ends within the character
	}
	return max(n-1, 1)
}

// allowed returns the Allow header's value for a path's methods.
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
