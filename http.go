package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
// named by letters, digits and underscores, found in PathParams as it was sent. The rest
// is registered percent-encoded, as clients send it: "/café" as "/caf%C3%A9". What no
// request would match is an error: wildcards, whose values the engine does not deliver; the
// segments "." and ".."; characters that some clients encode and others do not; and the
// method OPTIONS, which the engine answers itself. [Function.Err] reports the engine's
// refusal of the route.
//
// The body is decoded into In if its content type is application/json or ends in +json, in
// any case. What is no JSON then, or no In, is answered with a 400, and the handler does not
// run. A body of another type, or none, leaves Body the zero value. A body that the engine
// has not decoded itself is read from RequestBody, up to 64 MiB and for 30 s at most;
// RequestBody is then nil. A nil response is a 204.
func HandleHTTP[In, Out any](c *Client, method, path string, h func(context.Context, *HTTPRequest[In]) (*HTTPResponse[Out], error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	handler := func(ctx context.Context, payload json.RawMessage) (any, error) {
		var req HTTPRequest[In]
		err := decodePayload(payload, &req)
		headers, channel := req.Headers, req.RequestBody
		if err != nil {
			var other HTTPRequest[json.RawMessage]
			if decodePayload(payload, &other) != nil {
				return nil, err
			}
			headers, channel = other.Headers, other.RequestBody // it is the body, which is the client's
		}
		if channel != nil && lacksJSONBody(payload, headers) {
			body, refusal, failed := c.readJSONBody(ctx, headers, *channel)
			if failed != nil || refusal != nil {
				return refusal, failed
			}
			if body != nil {
				req = HTTPRequest[In]{}
				err = decodePayload(withBody(payload, body), &req)
			}
			req.RequestBody = nil // it has been read
		}
		if err != nil {
			return badRequest(err), nil
		}
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
	return c.registerRoute(method, path, handler, functionSchemas{reflect.TypeFor[HTTPRequest[In]](), reflect.TypeFor[routeResult[Out]]()}, opts)
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

// lacksJSONBody reports whether the engine has delivered no body although the request has
// one that is JSON by its type. The engine decodes the type application/json in lower case
// alone, and delivers null for what does not parse.
func lacksJSONBody(payload json.RawMessage, headers map[string]string) bool {
	if bodyLength(headers) == 0 {
		return false
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(headers["content-type"]), ";")
	mediaType = strings.TrimSpace(mediaType)
	if mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return false
	}
	var body []byte
	_ = rawjson.ScanObject(payload, func(key, value []byte) {
		if string(key) == "body" {
			body = value
		}
	})
	return rawjson.Absent(body)
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
		return nil, errorResponse(status, codeInvalidRequest, "payload at body: "+message), nil
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
func (c *Client) registerRoute(method, path string, h HandlerFunc, types functionSchemas, opts []FunctionOption) (*Function, error) {
	method = strings.ToUpper(method)
	path, err := routePath(method, path)
	if err != nil {
		return nil, fmt.Errorf("iii: %w", err)
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	f, err := c.newFunction("http::"+method+path, h, nil, types, opts)
	if err != nil {
		return nil, err
	}
	t, err := c.newTrigger(f.id, HTTPTriggerConfig{APIPath: path, HTTPMethod: method}, nil)
	if err != nil {
		return nil, err
	}
	f.route = t
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
