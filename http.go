package iii

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
)

// HandleHTTP serves an HTTP route with a typed handler: it registers a function
// under the id "http::" + method + path and the trigger that binds it. path is
// the engine's: "/items/:id", whose parameters are in PathParams as raw path
// segments; wildcards are refused, for the engine does not deliver what they
// match. The body is decoded into In if the content type contains
// application/json, else Body is the zero value; JSON that is no In is answered
// with a 400. A nil response is a 204.
func HandleHTTP[In, Out any](c *Client, method, path string, h func(context.Context, *HTTPRequest[In]) (*HTTPResponse[Out], error), opts ...FunctionOption) (*Function, error) {
	if h == nil {
		return nil, fmt.Errorf("iii: %s %s: nil handler", method, path)
	}
	handler := func(ctx context.Context, payload json.RawMessage) (any, error) {
		var req HTTPRequest[In]
		if err := decodePayload(payload, &req); err != nil {
			var other HTTPRequest[json.RawMessage]
			if decodePayload(payload, &other) == nil { // then it is the body, which is the client's
				return badRequest(err), nil
			}
			return nil, err
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
	return c.registerRoute(method, path, handler, functionSchemas{reflect.TypeFor[HTTPRequest[In]](), reflect.TypeFor[HTTPResponse[Out]]()}, opts)
}

// badRequest is a 400 in the form of the engine's answers to errors.
func badRequest(err error) bufferedResponse {
	code, message, _ := errorParts(err)
	return bufferedResponse{StatusCode: http.StatusBadRequest, Headers: []string{"Content-Type: application/json"},
		Body: map[string]ErrorBody{"error": {Code: code, Message: message}}}
}

// serviceUnavailable is a 503 in the form of the engine's answers to errors: the worker
// drains or has too much to do, and another one, or this one later, serves the request.
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
	if err := checkHTTPRoute(method, path); err != nil {
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
	if err := c.registry.addTrigger(t); err != nil {
		c.registry.removeFunction(f)
		return nil, err
	}
	return f, nil
}

// checkHTTPRoute refuses what the engine accepts and never routes, or crashes
// on.
func checkHTTPRoute(method, path string) error {
	switch strings.ToUpper(method) {
	case "", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS":
	default:
		return fmt.Errorf("HTTP method %q is none of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS", method)
	}
	if path == "" {
		return fmt.Errorf("HTTP route has no path")
	}
	if strings.Contains(path, "://") {
		return fmt.Errorf("HTTP path %q is an address: leave out scheme and host", path)
	}
	if strings.ContainsAny(path, "?# \t\r\n") {
		return fmt.Errorf("HTTP path %q holds a character that no path has", path)
	}
	seen := map[string]bool{}
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		switch {
		case strings.ContainsAny(segment, "*{}"):
			return fmt.Errorf("HTTP path %q: segment %q is a wildcard; the engine delivers only :name parameters", path, segment)
		case segment == ":":
			return fmt.Errorf("HTTP path %q has a parameter without a name", path)
		case strings.HasPrefix(segment, ":"):
			if seen[segment] {
				return fmt.Errorf("HTTP path %q names the parameter %q twice", path, segment[1:])
			}
			seen[segment] = true
		}
	}
	return nil
}
