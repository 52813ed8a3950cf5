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
	"github.com/iii-go/iii/internal/wsconn"
)

// HandleHTTP serves an HTTP route with a typed handler. It registers a function with the id
// "http::" + method + path, and a trigger that binds the route to the function. An empty method
// means GET, and a path without a leading slash gets one. [WithTriggerOptions] sets options for
// the trigger. If the engine rejects the route, [Function.Err] returns the error.
//
// A path segment that begins with a colon, as in "/items/:id", is a parameter. It spans the
// whole segment, its name consists of letters, digits and underscores, and PathParams contains
// its percent-decoded value. The rest of the path is registered in percent-encoded form, as
// sent by clients: "/café" becomes "/caf%C3%A9". HandleHTTP rejects the following:
//
//   - wildcards in the path, because the engine does not deliver their values
//   - the path segments "." and ".."
//   - characters in the path that only some clients encode
//   - the method OPTIONS, because the engine handles it
//
// The body is decoded into In if the content type is application/json or ends in +json,
// ignoring case. If the body is not valid JSON or cannot be decoded into In, the response is a
// 400 and the handler does not run. If In is any, a json.RawMessage or a pointer, a body with
// a different content type is available through RequestBody, and Body is nil. For any other
// In, the response to such a request is a 400. If there is no body, Body is the zero value.
// With a different content type or without a body, a Body of type json.RawMessage is null
// instead. If the engine has not decoded a JSON body itself, HandleHTTP reads up to 64 MiB
// from RequestBody, for at most 30 s, and sets RequestBody to nil.
//
// A nil response becomes a 204. The headers Content-Length and Transfer-Encoding of the
// handler's response are ignored, because the engine sets them, except for the Content-Length
// of a HEAD route. An [*HTTPError], or an error that [WithHTTPErrors] maps to one, becomes the
// corresponding response. An [*Error] becomes a 500 with its code and message, which are meant
// for callers. Any other error becomes a 500 without details; the details are written to the
// log and the span. The same applies to errors returned by middleware.
func HandleHTTP[In, Out any](c *Client, method, path string, h func(context.Context, *HTTPRequest[In]) (*HTTPResponse[Out], error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	body := reflect.TypeFor[In]()
	if err := (functionSchemas{body, reflect.TypeFor[Out]()}).check(); err != nil {
		return nil, public(fmt.Errorf("%s %s: %w", method, path, err))
	}
	var valid *inputSchema // nil means no validation
	handler := func(ctx context.Context, payload json.RawMessage) (any, error) {
		var req HTTPRequest[In]
		err := c.cfg.decodePayload(payload, &req)
		headers, params, channel := req.Headers, req.PathParams, req.RequestBody
		if err != nil {
			var other HTTPRequest[json.RawMessage]
			if c.cfg.decodePayload(payload, &other) != nil {
				return nil, err
			}
			headers, params, channel = other.Headers, other.PathParams, other.RequestBody // the error concerns the body, which comes from the client
		}
		if failed := decodeParams(params); failed != nil {
			return badRequest(failed), nil
		}
		sent := bodyOf(payload)
		read, refusal, failed := c.missingBody(ctx, sent, headers, channel, takesNull(body))
		if failed != nil || refusal != nil {
			return refusal, failed
		}
		if read.body != nil {
			sent = read.body
			req = HTTPRequest[In]{}
			err = c.cfg.decodePayload(withBody(payload, sent), &req)
		}
		// For a request without a body, the engine sends null, which In may reject.
		empty := read.body == nil && rawjson.Absent(sent) && (read.done || bodyLength(headers) == 0)
		if empty && err != nil {
			req = HTTPRequest[In]{}
			err = c.cfg.decodePayload(withBody(payload, nil), &req)
		}
		if read.done {
			req.RequestBody = nil
		}
		if valid != nil && !empty {
			if invalid := valid.check(sent, "payload at body"); invalid != nil {
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
		if resp == nil { // a null result would make the engine's request hang
			return noContent(nil), nil
		}
		sending := *resp
		bodyless := resp.StatusCode == http.StatusNoContent
		sending.Headers = withoutFraming(resp.Headers, strings.EqualFold(method, http.MethodHead) && !bodyless)
		if bodyless {
			return noContent(sending.Headers), nil
		}
		return &sending, nil
	}
	spec := handlerSpec{run: handler, types: functionSchemas{reflect.TypeFor[HTTPRequest[In]](), reflect.TypeFor[routeResult[Out]]()},
		validate: func(s *inputSchema) { valid = s }, body: body}
	return c.registerRoute(method, path, spec, opts)
}

// takesNull reports whether a handler with body type t can tell that no body was decoded.
func takesNull(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface || t == reflect.TypeFor[json.RawMessage]()
}

// decodeParams percent-decodes the path parameters, which the engine delivers as sent.
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

// routeResult describes the possible results of a typed route: the handler's response, a
// response without a body, or an error response.
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
	// maxJSONBody is the maximum size of a body that the worker decodes.
	maxJSONBody = 64 << 20
	// jsonBodyTimeout limits how long reading a body may take. By default, the engine stops
	// waiting for a response after the same time.
	jsonBodyTimeout = 30 * time.Second
)

// readBody is the result of reading a body that the engine has not decoded.
type readBody struct {
	body json.RawMessage // nil if the body is empty
	done bool            // the channel has been read
}

// missingBody handles a request whose body the engine has not decoded. The engine decodes only
// bodies whose content type is application/json, in lower case, and delivers null for a body
// that is not valid JSON. sent is the body that the engine has delivered. If the handler cannot
// receive the body, refusal is the response to send. If takesNull is true, the handler
// reads bodies of other content types itself.
func (c *Client) missingBody(ctx context.Context, sent json.RawMessage, headers map[string]string, channel *StreamChannelRef, takesNull bool) (read readBody, refusal any, err error) {
	length := bodyLength(headers)
	if length == 0 || !rawjson.Absent(sent) {
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
	if length < 0 && channel != nil { // the body may be empty
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

// bodyOf returns a request's body member.
func bodyOf(payload json.RawMessage) (body json.RawMessage) {
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) == "body" {
			body = value
		}
	})
	return body
}

// isEmptyBody reports whether a body of unknown length is empty. It returns false if the body
// does not arrive in time.
func (c *Client) isEmptyBody(ctx context.Context, channel StreamChannelRef) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, jsonBodyTimeout)
	defer cancel()
	reader, err := c.OpenReader(waiting, channel)
	if err != nil {
		return false, public(fmt.Errorf("request body: %w", err))
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
	return false, public(fmt.Errorf("request body: %w", err))
}

// withBody returns a copy of a request's payload with a different body, or without one if body
// is nil.
func withBody(payload, body json.RawMessage) json.RawMessage {
	b := json.RawMessage{'{'}
	if body != nil {
		b = appendRawMember(b, []byte("body"), body)
	}
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) != "body" {
			b = appendRawMember(b, key, value)
		}
	})
	return append(b, '}')
}

// bodyLength returns the length of a request's body according to the headers, or -1 if the
// length is unknown.
func bodyLength(headers map[string]string) int64 {
	if n, err := strconv.ParseInt(headers["content-length"], 10, 64); err == nil && n >= 0 {
		return n
	}
	if headers["transfer-encoding"] != "" {
		return -1
	}
	return 0
}

// readJSONBody reads a body from its channel. body is nil if the channel is empty. If the body
// is not valid, refusal is the response to send.
func (c *Client) readJSONBody(ctx context.Context, headers map[string]string, channel StreamChannelRef) (body json.RawMessage, refusal any, err error) {
	waiting, cancel := context.WithTimeout(ctx, jsonBodyTimeout)
	defer cancel()
	reader, err := c.OpenReader(waiting, channel)
	if err != nil {
		return nil, nil, public(fmt.Errorf("request body: %w", err))
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
		return nil, nil, public(fmt.Errorf("request body: %w", err))
	case len(body) > maxJSONBody:
		return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d MiB", maxJSONBody>>20))
	case len(body) == 0 && length < 0:
		return nil, nil, nil
	case int64(len(body)) < length && headers["content-encoding"] == "":
		return refuse(http.StatusBadRequest, fmt.Sprintf("it ends after %d of %d bytes", len(body), length))
	case !utf8.Valid(body):
		return refuse(http.StatusBadRequest, "it is not valid UTF-8")
	}
	if err := json.Unmarshal(body, new(json.RawMessage)); err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	return body, nil, nil
}

// badRequest returns a 400 in the format of the engine's error responses.
func badRequest(err error) bufferedResponse {
	code, message, _ := errorParts(err)
	return errorResponse(http.StatusBadRequest, code, message)
}

func errorResponse(status int, code, message string) bufferedResponse {
	return bufferedResponse{StatusCode: status, Headers: []string{"Content-Type: application/json"},
		Body: map[string]ErrorBody{"error": {Code: code, Message: message}}}
}

// serviceUnavailable returns a 503 in the format of the engine's error responses. A worker
// that is draining or overloaded sends it, because a retry may succeed.
func serviceUnavailable(code, message string) bufferedResponse {
	return bufferedResponse{StatusCode: http.StatusServiceUnavailable, Headers: []string{"Content-Type: application/json", "Retry-After: 1"},
		Body: map[string]ErrorBody{"error": {Code: code, Message: message}}}
}

// HTTPError is an error that specifies an HTTP response. A route's handler ([HandleHTTP]) or
// middleware can return it, possibly wrapped. Returned by any other handler, it is an ordinary
// error and is sent with the code invocation_failed.
type HTTPError struct {
	// Status is the HTTP status code, from 200 to 599. Any other value, including 0, becomes
	// 500.
	Status int
	// Body is encoded as JSON, except that a string is sent unchanged if Header has a
	// Content-Type. The default is {"error":{"code":…,"message":…}}, with values derived from
	// the status, such as NOT_FOUND and "Not Found".
	Body any
	// Header contains the response's header fields. A name may have multiple values.
	// Content-Length and Transfer-Encoding are ignored. Default: none.
	Header http.Header
}

// Error implements the error interface. The message does not include the body.
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

func (e *HTTPError) response() bufferedResponse {
	status := e.status()
	r := bufferedResponse{StatusCode: status, Headers: []string{}, Body: e.Body}
	typed := false
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		if isFraming(name) || !wsconn.IsToken(name) {
			continue // set by the engine, or not a valid name
		}
		for _, value := range e.Header[name] {
			if !invalidHeaderValue(value) {
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

// WithHTTPErrors sets a function that converts errors from routes ([HandleHTTP],
// [Client.MountHTTP], [Client.MountRouter]) into responses. f returns the response for an
// error that was returned by a handler or its middleware and is not an [*HTTPError]. If f
// returns nil, or if this option is not used, an [*Error] becomes a 500 with its code and
// message, and any other error becomes a 500 without details.
//
// f runs outside all middleware, with the handler's context, and must be safe for concurrent
// use. If a request cannot be decoded, the response is a 400 and f is not called. [New]
// rejects a nil f.
func WithHTTPErrors(f func(ctx context.Context, err error) *HTTPError) Option {
	return clientOption(func(c *config) error {
		if f == nil {
			return errors.New("iii: WithHTTPErrors: nil function")
		}
		c.httpErrors = f
		return nil
	})
}

// hiddenError is an error whose message is not sent to callers.
type hiddenError struct{ error }

func (e hiddenError) Unwrap() error { return e.error }

// hiddenText is the message that callers receive in place of a hiddenError's own message.
const hiddenText = "internal error"

// handleErrors converts errors returned by a route's handler and middleware into responses.
func (c *Client) handleErrors(id string, next HandlerFunc) HandlerFunc {
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
		if asError(err) != nil {
			return nil, err
		}
		level := slog.LevelError
		if ctx.Err() != nil { // the client has disconnected
			level = slog.LevelDebug
		}
		c.log.LogAttrs(ctx, level, "iii: HTTP handler failed", slog.String("function", id), slog.Any("error", err))
		return nil, hiddenError{err}
	}
}

// isFraming reports whether the engine sets the header with the given name to match the body.
// With a different value, clients would truncate the response or wait for more.
func isFraming(name string) bool {
	return strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding")
}

// withoutFraming returns headers without those that the engine sets. If declared is set, a valid
// Content-Length stays: the response to a HEAD request has no body, and may have any length.
func withoutFraming(headers map[string]string, declared bool) map[string]string {
	length := ""
	framed := false
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if !isFraming(name) {
			continue
		}
		framed = true
		if n, err := strconv.ParseUint(headers[name], 10, 63); err == nil && declared && strings.EqualFold(name, "Content-Length") {
			length = strconv.FormatUint(n, 10)
		}
	}
	if !framed {
		return headers
	}
	headers = maps.Clone(headers)
	maps.DeleteFunc(headers, func(name, _ string) bool { return isFraming(name) })
	if length != "" {
		headers["Content-Length"] = length
	}
	return headers
}

// noContent returns a 204 response with a content type. Without one, the engine would add a
// content type and also the Content-Length of an empty JSON object (2), which a 204 response
// must not have.
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

// registerRoute registers a function and a route for it. If one of the two registrations
// fails, neither takes effect.
func (c *Client) registerRoute(method, path string, spec handlerSpec, opts []FunctionOption) (*Function, error) {
	method = routeMethod(method)
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
	if err := c.registry.addTrigger(t); err != nil {
		c.registry.removeFunction(f)
		return nil, err
	}
	return f, nil
}

// newRouteTrigger returns a trigger that binds a route to a function.
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

// routeMethod returns the method of a route in upper case. The default is GET.
func routeMethod(method string) string { return cmp.Or(strings.ToUpper(method), http.MethodGet) }

// checkRoute rejects a route without a path, and methods to which the engine routes no
// requests.
func checkRoute(method, path string) error {
	switch strings.ToUpper(method) {
	case "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD":
	case "OPTIONS":
		return errors.New("HTTP method OPTIONS: the engine answers it itself, as a CORS preflight, and calls no function")
	default:
		return fmt.Errorf("HTTP method %q is none of GET, POST, PUT, DELETE, PATCH, HEAD", method)
	}
	if path == "" {
		return errors.New("HTTP route has no path")
	}
	return nil
}

// routePath returns a route's path in percent-encoded form, because the engine matches request
// paths in that form. It rejects paths that crash the engine, and paths that the engine
// accepts but never routes requests to.
func routePath(method, path string) (string, error) {
	if err := checkRoute(routeMethod(method), path); err != nil {
		return "", err
	}
	if strings.Contains(path, "://") {
		return "", fmt.Errorf("HTTP path %q is an address: leave out scheme and host", path)
	}
	if !utf8.ValidString(path) {
		return "", fmt.Errorf("HTTP path %q is not valid UTF-8", path)
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
			return "", fmt.Errorf("HTTP path %q: a parameter is a whole segment, and its name consists of letters, digits and underscores, unlike %q", path, name)
		case seen[name]:
			return "", fmt.Errorf("HTTP path %q names the parameter %q twice", path, name)
		}
		seen[name] = true
	}
	return strings.Join(segments, "/"), nil
}

// encodeSegment percent-encodes a literal segment the way HTTP clients do (RFC 3986, section
// 6.2.2).
func encodeSegment(segment string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		c, encoded := segment[i], false
		if c == '%' {
			var ok bool
			if c, ok = percentDecoded(segment[i:]); !ok {
				return "", fmt.Errorf("segment %q has a %% that does not begin a percent-encoded byte; write %%25 for the character itself", segment)
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
			return "", fmt.Errorf("segment %q contains a character that is not allowed in a path", segment)
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

// percentDecoded returns the byte encoded by the first three characters of s.
func percentDecoded(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[1:3], 16, 8)
	return byte(n), err == nil
}
