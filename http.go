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
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/rawjson"
)

// HandleHTTP serves an HTTP route with a typed handler: it registers a function
// under the id "http::" + method + path and the trigger that binds it. A segment of
// path that begins with a colon, as in "/items/:id", is a parameter: a whole segment,
// named by letters, digits and underscores, found percent-decoded in PathParams. The rest
// is registered percent-encoded, as clients send it: "/café" as "/caf%C3%A9". What no
// request would match is an error: wildcards, whose values the engine does not deliver; the
// segments "." and ".."; characters that some clients encode and others do not; and the
// method OPTIONS, which the engine answers itself. [Function.Err] reports the engine's
// refusal of the route, and [WithTriggerOptions] sets the trigger's options.
//
// The body is decoded into In if its content type is application/json or ends in +json, in
// any case. What is no JSON then, or no In, is answered with a 400, and the handler does not
// run. A body of another type is for RequestBody: Body is nil if In is any, a json.RawMessage
// or a pointer, and for every other In the answer is a 400 as well. No body leaves Body
// the zero value. A body that the engine has not decoded itself is read from RequestBody, up to
// 64 MiB and for 30 s at most; RequestBody is then nil.
//
// A nil response is a 204. An error that is an [*HTTPError], or that [WithHTTPErrors] maps to
// one, is that response. An [*Error] is a 500 with its code and message, which are meant for
// callers. Every other error is a 500 that says nothing of it; its text goes to the log and the
// span. All of this is also true of the errors of middleware.
func HandleHTTP[In, Out any](c *Client, method, path string, h func(context.Context, *HTTPRequest[In]) (*HTTPResponse[Out], error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	body := reflect.TypeFor[In]()
	if err := (functionSchemas{body, reflect.TypeFor[Out]()}).check(); err != nil {
		return nil, fmt.Errorf("iii: %s %s: %w", method, path, err)
	}
	var valid *inputSchema // nil: not validated
	handler := func(ctx context.Context, payload json.RawMessage) (any, error) {
		var req HTTPRequest[In]
		err := decodePayload(payload, &req)
		headers, params, channel := req.Headers, req.PathParams, req.RequestBody
		if err != nil {
			var other HTTPRequest[json.RawMessage]
			if decodePayload(payload, &other) != nil {
				return nil, err
			}
			headers, params, channel = other.Headers, other.PathParams, other.RequestBody // it is the body, which is the client's
		}
		if failed := decodeParams(params); failed != nil {
			return badRequest(failed), nil
		}
		read, refusal, failed := c.missingBody(ctx, payload, headers, channel, takesNull(body))
		if failed != nil || refusal != nil {
			return refusal, failed
		}
		if read.done {
			if read.body != nil {
				payload = withBody(payload, read.body)
				req = HTTPRequest[In]{}
				err = decodePayload(payload, &req)
			}
			req.RequestBody = nil
		}
		if valid != nil && bodyLength(headers) != 0 {
			if invalid := valid.check(bodyOf(payload), "payload at body"); invalid != nil {
				return badRequest(invalid), nil
			}
		}
		if err != nil {
			return badRequest(err), nil
		}
		req.PathParams = params
		resp, err := h(ctx, &req)
		if err != nil {
			return nil, err
		}
		switch {
		case resp == nil: // a null result would hang the engine's request
			return noContent(nil), nil
		case resp.StatusCode == http.StatusNoContent:
			return noContent(resp.Headers), nil
		}
		return resp, nil
	}
	spec := handlerSpec{run: handler, types: functionSchemas{reflect.TypeFor[HTTPRequest[In]](), reflect.TypeFor[routeResult[Out]]()},
		validate: func(s *inputSchema) { valid = s }, body: body}
	return c.registerRoute(method, path, spec, opts)
}

// takesNull reports whether a handler that takes a body of t can tell that none was decoded.
func takesNull(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface || t == reflect.TypeFor[json.RawMessage]()
}

// decodeParams decodes the parameters of a route, which the engine delivers as they were sent.
func decodeParams(params map[string]string) error {
	for name, value := range params {
		decoded, err := url.PathUnescape(value)
		if err != nil {
			return &Error{Code: CodeInvalidRequest, Message: "payload at path_params." + name + ": it is not percent-encoded"}
		}
		params[name] = decoded
	}
	return nil
}

// routeResult stands for what the function of a typed route returns: the handler's response,
// or one without a body, or the refusal of a request.
type routeResult[Out any] struct{}

func (routeResult[Out]) describe(in *inference, _ bool) (any, error) {
	response, err := in.of(reflect.TypeFor[HTTPResponse[Out]](), true)
	if err != nil {
		return nil, err
	}
	other, err := in.of(reflect.TypeFor[bufferedResponse](), false)
	return map[string]any{"anyOf": []any{response, other}}, err
}

func (HTTPRequest[T]) describe(in *inference, addressable bool) (any, error) {
	return in.ofTemplate("http_request.json", reflect.TypeFor[T](), addressable)
}

func (HTTPResponse[T]) describe(in *inference, addressable bool) (any, error) {
	return in.ofTemplate("http_response.json", reflect.TypeFor[T](), addressable)
}

const (
	// maxJSONBody is the size up to which a body that the engine has not decoded is read.
	maxJSONBody = 64 << 20
	// jsonBodyTimeout is how long its bytes are waited for; by then the engine has answered
	// in place of the handler.
	jsonBodyTimeout = 30 * time.Second
)

// readBody is a body that the engine has not delivered decoded.
type readBody struct {
	body json.RawMessage // nil if it is empty
	done bool            // the channel has been read
}

// missingBody looks after a request that has a body of which the engine has delivered nothing.
// The engine decodes the type application/json in lower case alone, and delivers null for what
// does not parse. refusal is the answer to a body that the handler cannot be given. takesNull
// says that it reads bodies of other types itself.
func (c *Client) missingBody(ctx context.Context, payload json.RawMessage, headers map[string]string, channel *StreamChannelRef, takesNull bool) (read readBody, refusal any, err error) {
	length := bodyLength(headers)
	if length == 0 || !rawjson.Absent(bodyOf(payload)) {
		return read, nil, nil
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(headers["content-type"]), ";")
	mediaType = strings.TrimSpace(mediaType)
	isJSON := mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
	switch {
	case !isJSON && takesNull, isJSON && channel == nil:
		return read, nil, nil
	case isJSON:
		body, refusal, err := c.readJSONBody(ctx, headers, *channel)
		return readBody{body, true}, refusal, err
	}
	if length < 0 && channel != nil { // it may be empty
		empty, err := c.isEmptyBody(ctx, *channel)
		if err != nil || empty {
			return readBody{nil, true}, nil, err
		}
	}
	message := "payload at body: it has no content type; application/json or a type that ends in +json is decoded"
	if mediaType != "" {
		message = fmt.Sprintf("payload at body: content type %.100q is neither application/json nor ends in +json", mediaType)
	}
	return read, errorResponse(http.StatusBadRequest, CodeInvalidRequest, message), nil
}

// bodyOf is the member body of a request.
func bodyOf(payload json.RawMessage) (body json.RawMessage) {
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) == "body" {
			body = value
		}
	})
	return body
}

// isEmptyBody reports whether a body of unknown length is empty.
func (c *Client) isEmptyBody(ctx context.Context, channel StreamChannelRef) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, jsonBodyTimeout)
	defer cancel()
	reader, err := c.OpenReader(waiting, channel)
	if err != nil {
		return false, fmt.Errorf("request body: %w", trimmed(err))
	}
	defer reader.Close()
	defer context.AfterFunc(waiting, func() { _ = reader.Close() })()
	n, err := io.ReadFull(reader, make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return false, ctxError(ctx)
	case n > 0 || waiting.Err() != nil:
		return false, nil
	case errors.Is(err, io.EOF):
		return true, nil
	}
	return false, fmt.Errorf("request body: %w", trimmed(err))
}

// withBody is the payload of a request with another body.
func withBody(payload, body json.RawMessage) json.RawMessage {
	b := slices.Concat(json.RawMessage(`{"body":`), body)
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) != "body" {
			b = slices.Concat(b, []byte(`,"`), key, []byte(`":`), value)
		}
	})
	return append(b, '}')
}

// bodyLength is the declared length of a request's body, -1 if there is one of unknown
// length.
func bodyLength(headers map[string]string) int64 {
	if n, err := strconv.ParseInt(headers["content-length"], 10, 64); err == nil && n >= 0 {
		return n
	}
	if headers["transfer-encoding"] != "" {
		return -1
	}
	return 0
}

// readJSONBody reads a body from its channel, nil if it is empty. refusal is the answer to
// one that is no JSON.
func (c *Client) readJSONBody(ctx context.Context, headers map[string]string, channel StreamChannelRef) (body json.RawMessage, refusal any, err error) {
	waiting, cancel := context.WithTimeout(ctx, jsonBodyTimeout)
	defer cancel()
	reader, err := c.OpenReader(waiting, channel)
	if err != nil {
		return nil, nil, fmt.Errorf("request body: %w", trimmed(err))
	}
	defer reader.Close()
	defer context.AfterFunc(waiting, func() { _ = reader.Close() })()
	body, err = io.ReadAll(io.LimitReader(reader, maxJSONBody+1))
	refuse := func(status int, message string) (json.RawMessage, any, error) {
		return nil, errorResponse(status, CodeInvalidRequest, "payload at body: "+message), nil
	}
	length := bodyLength(headers)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil, ctxError(ctx)
	case err != nil && waiting.Err() != nil:
		return refuse(http.StatusRequestTimeout, "it did not come in time")
	case err != nil:
		return nil, nil, fmt.Errorf("request body: %w", trimmed(err))
	case len(body) > maxJSONBody:
		return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d MiB", maxJSONBody>>20))
	case len(body) == 0 && length < 0:
		return nil, nil, nil
	case int64(len(body)) < length && headers["content-encoding"] == "":
		return refuse(http.StatusBadRequest, fmt.Sprintf("it ends after %d of %d bytes", len(body), length))
	case !utf8.Valid(body):
		return refuse(http.StatusBadRequest, "it is no UTF-8")
	}
	if err := json.Unmarshal(body, new(json.RawMessage)); err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	return body, nil, nil
}

// badRequest is a 400 in the form of the engine's answers to errors.
func badRequest(err error) bufferedResponse {
	code, message, _ := errorParts(err)
	return errorResponse(http.StatusBadRequest, code, message)
}

func errorResponse(status int, code, message string) bufferedResponse {
	return bufferedResponse{StatusCode: status, Headers: []string{"Content-Type: application/json"},
		Body: map[string]ErrorBody{"error": {Code: code, Message: message}}}
}

// serviceUnavailable returns a 503 in the form of the engine's error responses, for a worker
// that drains or is overloaded. Another worker, or this one later, can serve the request.
func serviceUnavailable(code, message string) bufferedResponse {
	return bufferedResponse{StatusCode: http.StatusServiceUnavailable, Headers: []string{"Content-Type: application/json", "Retry-After: 1"},
		Body: map[string]ErrorBody{"error": {Code: code, Message: message}}}
}

// HTTPError is an error that is the response to an HTTP request: the handler of a route
// ([HandleHTTP]), or its middleware, returns one, wrapped or not. Everywhere else it is an error
// like any other, sent as invocation_failed.
type HTTPError struct {
	// Status is the status of the response, 200 to 599. 0, and every other number, is a 500.
	Status int
	// Body is encoded as JSON; a string goes out as it is if Header has a Content-Type. Nil is
	// {"error":{"code":…,"message":…}} with the name of the status, such as NOT_FOUND and
	// "Not Found".
	Body any
	// Header of the response; a name may have several values. Content-Length is ignored.
	// Default none.
	Header http.Header
}

// Error implements error. The body is not in the text.
func (e *HTTPError) Error() string {
	if e == nil {
		return "iii: nil *HTTPError"
	}
	return strings.TrimSpace(fmt.Sprintf("iii: HTTP response %d %s", e.status(), http.StatusText(e.status())))
}

func (e *HTTPError) status() int {
	if e.Status < 200 || e.Status > maxStreamedStatus {
		return http.StatusInternalServerError
	}
	return e.Status
}

// response is what the engine is to send.
func (e *HTTPError) response() bufferedResponse {
	status := e.status()
	r := bufferedResponse{StatusCode: status, Headers: []string{}, Body: e.Body}
	typed := false
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		if strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding") || !isToken(name) {
			continue // the engine's to choose, or none
		}
		for _, value := range e.Header[name] {
			if !isNoHeaderValue(value) {
				typed = typed || strings.EqualFold(name, "Content-Type") && value != ""
				r.Headers = append(r.Headers, headerLine(name, value))
			}
		}
	}
	switch {
	case !bodyAllowed(status):
		r.Body = nil
		if !typed {
			r.Headers = append(r.Headers, plainText)
		}
	case e.Body == nil:
		text := cmp.Or(http.StatusText(status), fmt.Sprintf("Status %d", status))
		code := strings.ToUpper(strings.Trim(strings.Map(func(c rune) rune {
			if c == ' ' || c == '-' {
				return '_'
			} else if c == '\'' {
				return -1
			}
			return c
		}, text), "_"))
		r.Body = map[string]ErrorBody{"error": {Code: code, Message: text}}
		if !typed {
			r.Headers = append(r.Headers, "Content-Type: application/json")
		}
	}
	return r
}

// WithHTTPErrors sets how the errors of routes ([HandleHTTP], [Client.MountHTTP],
// [Client.MountRouter]) become responses: f maps an error of a handler or its middleware that is
// no [*HTTPError] to one. With nil from f, and by default, an [*Error] is a 500 with its code and
// message, and every other error a 500 that says nothing of it.
//
// f is called outside of all middleware, with the context of the handler, and from several
// goroutines at once. Requests that do not decode do not reach it: they are answered with a 400.
// A nil f is an error of [New].
func WithHTTPErrors(f func(ctx context.Context, err error) *HTTPError) Option {
	return clientOption(func(c *config) error {
		if f == nil {
			return errors.New("iii: WithHTTPErrors: nil function")
		}
		c.httpErrors = f
		return nil
	})
}

// hiddenError is an error that callers are not told.
type hiddenError struct{ error }

func (e hiddenError) Unwrap() error { return e.error }

// hiddenText is what they are told instead.
const hiddenText = "internal error"

// answerErrors makes responses of the errors of a route's handler and middleware.
func (c *Client) answerErrors(id string, next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, payload json.RawMessage) (any, error) {
		result, err := next(ctx, payload)
		if err == nil {
			return result, nil
		}
		var response *HTTPError
		if errors.As(err, &response) && response != nil {
			return response.response(), nil
		}
		if c.cfg.httpErrors != nil {
			if response = c.cfg.httpErrors(ctx, err); response != nil {
				return response.response(), nil
			}
		}
		var e *Error
		if errors.As(err, &e) && e != nil {
			return nil, err
		}
		level := slog.LevelError
		if ctx.Err() != nil { // no answer is waited for
			level = slog.LevelDebug
		}
		c.log.LogAttrs(ctx, level, "iii: HTTP handler failed", slog.String("function", id), slog.Any("error", err))
		return nil, hiddenError{err}
	}
}

// noContent is a 204. Without a content type the engine would add one, and count two
// bytes of JSON for the length, which a 204 must not have.
func noContent(headers map[string]string) bufferedResponse {
	r := bufferedResponse{StatusCode: http.StatusNoContent}
	typed := false
	for name, value := range headers {
		typed = typed || strings.EqualFold(name, "Content-Type") && value != ""
		r.Headers = append(r.Headers, headerLine(name, value))
	}
	if !typed {
		r.Headers = append(r.Headers, plainText)
	}
	return r
}

// registerRoute registers a function and its route as one: both or neither.
func (c *Client) registerRoute(method, path string, spec handlerSpec, opts []FunctionOption) (*Function, error) {
	method = strings.ToUpper(method)
	path, err := routePath(method, path)
	if err != nil {
		return nil, fmt.Errorf("iii: %w", err)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	spec.web = true
	f, cfg, err := c.newFunction("http::"+method+path, spec, opts)
	if err != nil {
		return nil, err
	}
	t, err := c.newRouteTrigger(f, method, path, cfg.triggerOptions)
	if err != nil {
		return nil, err
	}
	f.route, f.routeOptions = t, cfg.triggerOptions
	if err := c.registry.addFunction(f); err != nil {
		return nil, err
	}
	if method == http.MethodHead {
		c.giveUpHead(path)
	}
	if err := c.registry.addTrigger(t); err != nil {
		c.registry.removeFunction(f)
		return nil, err
	}
	return f, nil
}

// newRouteTrigger makes the trigger of a function's route.
func (c *Client) newRouteTrigger(f *Function, method, path string, opts []TriggerOption) (*Trigger, error) {
	t, err := c.newTrigger(f.id, HTTPTriggerConfig{APIPath: path, HTTPMethod: method}, opts)
	if err != nil {
		return nil, err
	}
	if !t.own {
		return nil, fmt.Errorf("iii: trigger of %s: WithTriggerNamespace: the function is in namespace %q", f.id, cmp.Or(c.cfg.namespace, defaultNamespace))
	}
	return t, nil
}

// routePath returns the path of a route as clients send it, percent-encoded, since the
// engine compares that text. It rejects what the engine accepts and never routes, or
// crashes on.
func routePath(method, path string) (string, error) {
	switch strings.ToUpper(method) {
	case "", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD":
	case "OPTIONS":
		return "", errors.New("HTTP method OPTIONS: the engine answers it itself, as a CORS preflight, and calls no function")
	default:
		return "", fmt.Errorf("HTTP method %q is none of GET, POST, PUT, DELETE, PATCH, HEAD", method)
	}
	if path == "" {
		return "", errors.New("HTTP route has no path")
	}
	if strings.Contains(path, "://") {
		return "", fmt.Errorf("HTTP path %q is an address: leave out scheme and host", path)
	}
	if !utf8.ValidString(path) {
		return "", fmt.Errorf("HTTP path %q is no UTF-8", path)
	}
	segments := strings.Split(path, "/")
	seen := map[string]bool{}
	for i, segment := range segments {
		if strings.ContainsAny(segment, "*{}") {
			return "", fmt.Errorf("HTTP path %q: segment %q is a wildcard; the engine delivers only :name parameters", path, segment)
		}
		name, ok := strings.CutPrefix(segment, ":")
		if !ok {
			var err error
			if segments[i], err = encodeSegment(segment); err != nil {
				return "", fmt.Errorf("HTTP path %q: %w", path, err)
			}
			continue
		}
		switch {
		case name == "":
			return "", fmt.Errorf("HTTP path %q has a parameter without a name", path)
		case strings.ContainsFunc(name, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
		}):
			return "", fmt.Errorf("HTTP path %q: a parameter is a whole segment, and %q is no name of letters, digits and underscores", path, name)
		case seen[name]:
			return "", fmt.Errorf("HTTP path %q names the parameter %q twice", path, name)
		}
		seen[name] = true
	}
	return strings.Join(segments, "/"), nil
}

// encodeSegment encodes a literal segment as clients do (RFC 3986, 6.2.2).
func encodeSegment(segment string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		c, encoded := segment[i], false
		if c == '%' {
			var ok bool
			if c, ok = percentDecoded(segment[i:]); !ok {
				return "", fmt.Errorf("segment %q has a %% that begins no percent-encoded byte; the character itself is %%25", segment)
			}
			i, encoded = i+2, true
		}
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0,
			!encoded && strings.IndexByte("!$&'()+,;=:@", c) >= 0:
			b.WriteByte(c)
			continue
		case encoded:
		case c <= ' ', c == 0x7f, c == '?', c == '#':
			return "", fmt.Errorf("segment %q holds a character that no path has", segment)
		case strings.IndexByte(`|^[]\`, c) >= 0:
			return "", fmt.Errorf("segment %q: some clients encode %q and others do not; write %%%02X to match those that do", segment, c, c)
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	if s := b.String(); s != "." && s != ".." {
		return s, nil
	}
	return "", fmt.Errorf("clients resolve the segment %q before they send a path", segment)
}

// percentDecoded is the byte that the three characters at the beginning of s stand for.
func percentDecoded(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[1:3], 16, 8)
	return byte(n), err == nil
}
