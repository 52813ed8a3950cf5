package iii

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/secret"
)

// untracedHTTP holds the *sdktrace.TracerProvider of every Telemetry that does not trace HTTP
// requests.
var untracedHTTP sync.Map

func tracesHTTP(provider trace.TracerProvider) bool {
	p, ok := provider.(*sdktrace.TracerProvider)
	if !ok {
		return true
	}
	_, off := untracedHTTP.Load(p)
	return !off
}

// transport is the RoundTripper returned by [NewTracingTransport].
type transport struct {
	base   http.RoundTripper
	ignore []string
}

// NewTracingTransport returns a RoundTripper that sends requests over base, or over
// http.DefaultTransport if base is nil. It records each request as a CLIENT span in the trace
// of the request's context, and sends traceparent, tracestate and baggage headers to the
// server. The span ends when the response header arrives. For status codes of 400 and above,
// the span's status is error. The span records the method, the URL, the status, the body sizes
// if known, and the Content-Type and Accept headers, but no other headers. Passwords in the
// URL, values of query parameters that [Redact] would replace, and URL signatures are omitted.
//
// A request is passed to base unchanged if its URL contains one of the comma-separated strings
// in $OTEL_FETCH_IGNORE_URLS, or if OtelConfig.FetchInstrumentationEnabled is false. The
// variable is read once, when NewTracingTransport is called. [InSpan] describes which
// telemetry records the span. Without telemetry, requests still carry the trace context.
func NewTracingTransport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	t := &transport{base: base}
	for text := range strings.SplitSeq(os.Getenv("OTEL_FETCH_IGNORE_URLS"), ",") {
		if text = strings.TrimSpace(text); text != "" {
			t.ignore = append(t.ignore, text)
		}
	}
	return t
}

// CloseIdleConnections closes the idle connections of the underlying transport. It is called
// by [http.Client.CloseIdleConnections].
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	tracer, provider := tracerOf(req.Context())
	if req.URL == nil || t.ignores(req.URL) || !tracesHTTP(provider) {
		return t.base.RoundTrip(req)
	}
	ctx, span := tracer.Start(req.Context(), spanNameHTTP(req), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(requestAttributes(req)...))
	defer span.End()
	outgoing := req.WithContext(ctx)
	outgoing.Header = req.Header.Clone()
	injectHTTP(ctx, &outgoing.Header)
	if span.IsRecording() {
		recordRequest(span, outgoing)
	}
	resp, err := t.base.RoundTrip(outgoing)
	if !span.IsRecording() || resp == nil && err == nil { // http.Client reports a nil response without an error
		return resp, err
	}
	if err != nil {
		kind := errorKind(err)
		span.SetAttributes(attribute.String("error.type", kind))
		recordFailure(span, kind, redactError(err, req.URL), string(debug.Stack()))
		return resp, err
	}
	recordResponse(span, resp)
	return resp, nil
}

func (t *transport) ignores(u *url.URL) bool {
	if len(t.ignore) == 0 {
		return false
	}
	address := u.String()
	for _, text := range t.ignore {
		if strings.Contains(address, text) {
			return true
		}
	}
	return false
}

// injectHTTP sets the trace headers for ctx, replacing any existing ones.
func injectHTTP(ctx context.Context, h *http.Header) {
	if *h == nil {
		*h = http.Header{}
	}
	if traceparent := InjectTraceparent(ctx); traceparent != "" {
		h.Set("Traceparent", traceparent)
		h.Del("Tracestate")
		if state := trace.SpanContextFromContext(ctx).TraceState().String(); state != "" {
			h.Set("Tracestate", state)
		}
	}
	if baggage := InjectBaggage(ctx); baggage != "" {
		h.Set("Baggage", baggage)
	}
}

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return strings.ToUpper(req.Method)
}

func spanNameHTTP(req *http.Request) string {
	if path := req.URL.EscapedPath(); path != "" {
		return methodOf(req) + " " + path
	}
	return methodOf(req)
}

// requestAttributes returns the span's initial attributes.
func requestAttributes(req *http.Request) []attribute.KeyValue {
	u := redactURL(*req.URL)
	attributes := []attribute.KeyValue{
		attribute.String("http.request.method", methodOf(req)),
		attribute.String("url.full", u.String()),
	}
	add := func(key, value string) {
		if value != "" {
			attributes = append(attributes, attribute.String(key, value))
		}
	}
	add("server.address", u.Hostname())
	if u.Scheme != "" {
		add("url.scheme", u.Scheme)
		add("network.protocol.name", "http")
	}
	add("url.path", u.EscapedPath())
	if port, err := strconv.Atoi(u.Port()); err == nil && !isDefaultPort(u.Scheme, port) {
		attributes = append(attributes, attribute.Int("server.port", port))
	}
	add("url.query", u.RawQuery)
	return attributes
}

func isDefaultPort(scheme string, port int) bool {
	return scheme == "http" && port == 80 || scheme == "https" && port == 443
}

// redactURL removes the userinfo and replaces secrets in the query and the fragment.
func redactURL(u url.URL) url.URL {
	u.User = nil
	u.RawQuery = redactQuery(u.RawQuery)
	if fragment := redactQuery(u.EscapedFragment()); fragment != "" { // OAuth fragments are queries
		u.RawFragment = fragment
		u.Fragment, _ = url.PathUnescape(fragment)
	}
	return u
}

// redactError returns the text of an error from a request to u, without secrets from u or from
// other URLs in the error, such as a proxy's.
func redactError(err error, u *url.URL) string {
	text := err.Error()
	redact := func(address string, u *url.URL) {
		clean := redactURL(*u)
		text = strings.ReplaceAll(text, address, clean.String())
	}
	var failed *url.Error
	for chain := err; errors.As(chain, &failed); chain = failed.Err {
		if parsed, err := url.Parse(failed.URL); err == nil {
			redact(failed.URL, parsed)
		} else if failed.URL != "" {
			text = strings.ReplaceAll(text, failed.URL, redacted)
		}
	}
	redact(u.String(), u)
	if u.RawQuery != "" {
		text = strings.ReplaceAll(text, u.RawQuery, redactQuery(u.RawQuery))
	}
	return text
}

// redactQuery replaces the values of secret parameters and keeps the rest of the query
// unchanged. Like some servers, it also splits the query at semicolons.
func redactQuery(query string) string {
	if query == "" {
		return ""
	}
	var b strings.Builder
	for {
		n := strings.IndexAny(query, "&;")
		if n < 0 {
			n = len(query)
		}
		parameter := query[:n]
		if key, _, ok := strings.Cut(parameter, "="); ok && secretParameter(key) {
			parameter = key + "=" + redacted
		}
		b.WriteString(parameter)
		if n == len(query) {
			return b.String()
		}
		b.WriteByte(query[n])
		query = query[n+1:]
	}
}

// secretParameter reports whether a query parameter is secret. key is the parameter's name as
// it appears in the URL. Signatures are secret, because anyone who has one can use the URL.
func secretParameter(key string) bool {
	if name, err := url.QueryUnescape(key); err == nil {
		key = name
	}
	name := strings.ToLower(key)
	return secret.Named([]byte(key)) || name == "sig" || name == "awsaccesskeyid" || strings.HasSuffix(name, "signature")
}

func recordRequest(span trace.Span, req *http.Request) {
	for _, name := range []string{"content-type", "accept"} {
		if values := req.Header.Values(name); len(values) > 0 {
			span.SetAttributes(attribute.String("http.request.header."+name, strings.Join(values, ", ")))
		}
	}
	if req.ContentLength > 0 { // 0 with a body means unknown
		span.SetAttributes(attribute.Int64("http.request.body.size", req.ContentLength))
	}
}

// recordResponse records the response on the span and sets the span's status.
func recordResponse(span trace.Span, resp *http.Response) {
	span.SetAttributes(attribute.Int("http.response.status_code", resp.StatusCode))
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		span.SetAttributes(attribute.Int64("http.response.body.size", n))
	}
	if values := resp.Header.Values("Content-Type"); len(values) > 0 {
		span.SetAttributes(attribute.String("http.response.header.content-type", strings.Join(values, ", ")))
	}
	if resp.StatusCode < 400 {
		span.SetStatus(codes.Ok, "")
		return
	}
	code := strconv.Itoa(resp.StatusCode)
	span.SetAttributes(attribute.String("error.type", code))
	span.SetStatus(codes.Error, code)
}

// errorKind classifies a failed request by the type of its error. It ignores error messages,
// because they contain addresses and would produce one kind per address.
func errorKind(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "context.Canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "context.DeadlineExceeded"
	}
	return fmt.Sprintf("%T", err)
}
