package iii

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// cannedTransport is a RoundTripper that returns the same response to every request and
// records the latest request.
type cannedTransport struct {
	status int
	header http.Header
	body   string
	err    error

	got     *http.Request
	gotBody string
}

func (a *cannedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	a.got = req
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		a.gotBody = string(b)
	}
	if a.err != nil {
		return nil, a.err
	}
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body)), Request: req}, nil
}

func recordedSpans() (context.Context, *tracetest.SpanRecorder, trace.Span) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, span := provider.Tracer("t").Start(context.Background(), "parent")
	return ctx, recorder, span
}

func TestHTTPSpanAttributes(t *testing.T) {
	jsonHeader := http.Header{"Content-Type": {"application/json"}, "Content-Length": {"2"}, "Set-Cookie": {"secret"}}
	tests := []struct {
		name, method, url, body string
		header                  http.Header
		answer                  cannedTransport
		span                    string
		status                  codes.Code
		description             string
		want                    map[string]any
	}{
		{
			name: "plain", url: "http://example.com", answer: cannedTransport{status: 204}, span: "GET", status: codes.Ok,
			want: map[string]any{"http.request.method": "GET", "url.full": "http://example.com", "server.address": "example.com", "url.scheme": "http",
				"network.protocol.name": "http", "http.response.status_code": int64(204)},
		},
		{
			name: "everything", method: "post", url: "https://user:pass@example.com:8443/a%20b/c?q=1&api_key=k&x=%20y#frag", body: "hello",
			header: http.Header{"Content-Type": {"text/plain"}, "Accept": {"a/b", "c/d"}, "Authorization": {"Bearer s"}, "Cookie": {"s"}, "X-Other": {"s"}},
			answer: cannedTransport{status: 200, header: jsonHeader, body: "{}"}, span: "POST /a%20b/c", status: codes.Ok,
			want: map[string]any{"http.request.method": "POST", "url.full": "https://example.com:8443/a%20b/c?q=1&api_key=[REDACTED]&x=%20y#frag",
				"server.address": "example.com", "url.scheme": "https", "network.protocol.name": "http", "url.path": "/a%20b/c", "server.port": int64(8443),
				"url.query": "q=1&api_key=[REDACTED]&x=%20y", "http.request.header.content-type": "text/plain", "http.request.header.accept": "a/b, c/d",
				"http.request.body.size": int64(5), "http.response.status_code": int64(200), "http.response.body.size": int64(2),
				"http.response.header.content-type": "application/json"},
		},
		{
			name: "default port", url: "https://example.com:443/", answer: cannedTransport{status: 301}, span: "GET /", status: codes.Ok,
			want: map[string]any{"http.request.method": "GET", "url.full": "https://example.com:443/", "server.address": "example.com", "url.scheme": "https",
				"network.protocol.name": "http", "url.path": "/", "http.response.status_code": int64(301)},
		},
		{
			name: "client error", method: "DELETE", url: "http://[::1]:80/x", answer: cannedTransport{status: 404}, span: "DELETE /x", status: codes.Error, description: "404",
			want: map[string]any{"http.request.method": "DELETE", "url.full": "http://[::1]:80/x", "server.address": "::1", "url.scheme": "http",
				"network.protocol.name": "http", "url.path": "/x", "http.response.status_code": int64(404), "error.type": "404"},
		},
		{
			name: "server error", url: "http://example.com/x", answer: cannedTransport{status: 503}, span: "GET /x", status: codes.Error, description: "503",
			want: map[string]any{"http.request.method": "GET", "url.full": "http://example.com/x", "server.address": "example.com", "url.scheme": "http",
				"network.protocol.name": "http", "url.path": "/x", "http.response.status_code": int64(503), "error.type": "503"},
		},
		{
			name: "transport error", url: "http://example.com/x", answer: cannedTransport{err: &net.OpError{Op: "dial", Err: errors.New("refused")}}, span: "GET /x",
			status: codes.Error, description: "dial: refused",
			want: map[string]any{"http.request.method": "GET", "url.full": "http://example.com/x", "server.address": "example.com", "url.scheme": "http",
				"network.protocol.name": "http", "url.path": "/x", "error.type": "*net.OpError"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, recorder, parent := recordedSpans()
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			req, err := http.NewRequestWithContext(ctx, tt.method, tt.url, body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.header != nil {
				req.Header = tt.header.Clone()
			}
			before := req.Header.Clone()
			resp, err := NewTracingTransport(&tt.answer).RoundTrip(req)
			if err != tt.answer.err {
				t.Fatalf("error is %v, want that of the transport", err)
			}
			if diff := cmp.Diff(before, req.Header); diff != "" {
				t.Errorf("the caller's request changed:\n%s", diff)
			}
			span := recorder.Ended()[0]
			if diff := cmp.Diff(tt.want, attributeMap(span.Attributes())); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if span.Name() != tt.span || span.SpanKind() != trace.SpanKindClient || span.Parent().SpanID() != parent.SpanContext().SpanID() {
				t.Errorf("span is %s %q in %v", span.SpanKind(), span.Name(), span.Parent().SpanID())
			}
			if span.Status().Code != tt.status || span.Status().Description != tt.description {
				t.Errorf("status is %v, want %v %q", span.Status(), tt.status, tt.description)
			}
			if got, want := tt.answer.got.Header.Get("Traceparent"), InjectTraceparent(trace.ContextWithSpanContext(ctx, span.SpanContext())); got != want {
				t.Errorf("traceparent sent is %q, want the span's %q", got, want)
			}
			if tt.answer.gotBody != tt.body {
				t.Errorf("body sent is %q", tt.answer.gotBody)
			}
			if tt.answer.err != nil {
				if e := span.Events(); len(e) != 1 || e[0].Name != "exception" || len(e[0].Attributes) != 3 {
					t.Errorf("events are %v", e)
				}
				return
			}
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != tt.answer.body {
				t.Errorf("body received is %q, %v", b, err)
			}
		})
	}
}

func TestHTTPURLSecrets(t *testing.T) {
	tests := []struct{ url, want string }{
		{"https://h/?token=a;api%5Fkey=b&c=d;e", "https://h/?token=[REDACTED];api%5Fkey=[REDACTED]&c=d;e"},
		{"https://h/?X-Amz-Credential=a&X-Amz-Signature=b&Expires=1", "https://h/?X-Amz-Credential=[REDACTED]&X-Amz-Signature=[REDACTED]&Expires=1"},
		{"https://h/?sv=1&sig=a%2Fb&AWSAccessKeyId=c&design=x", "https://h/?sv=1&sig=[REDACTED]&AWSAccessKeyId=[REDACTED]&design=x"},
		{"https://h/?%zz=1&password", "https://h/?%zz=1&password"},
		{"https://u:p@h/#access_token=a&state=%20b", "https://h/#access_token=[REDACTED]&state=%20b"},
		{"https://h/#a%5Bb", "https://h/#a%5Bb"},
		{"https://h/?", "https://h/?"},
	}
	for _, tt := range tests {
		req, err := http.NewRequest(http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := attributeMap(requestAttributes(req))["url.full"]; got != tt.want {
			t.Errorf("%s is reported as %v, want %s", tt.url, got, tt.want)
		}
		if req.URL.String() != tt.url {
			t.Errorf("%s became %s", tt.url, req.URL)
		}
	}
}

// The text of an error may contain URLs: the request's, and those of inner requests and proxies.
func TestHTTPErrorSecrets(t *testing.T) {
	const address = "https://user:pass@h/p?token=secret&a=b"
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("dial tcp: refused"), "dial tcp: refused"},
		{&url.Error{Op: "Get", URL: address, Err: io.EOF}, `Get "https://h/p?token=[REDACTED]&a=b": EOF`},
		{fmt.Errorf("retried: %w", &url.Error{Op: "Get", URL: "http://u:pass@proxy/?sig=secret", Err: io.EOF}), `retried: Get "http://proxy/?sig=[REDACTED]": EOF`},
		{&url.Error{Op: "parse", URL: "http://u:pass@proxy:secret", Err: errors.New("bad port")}, `parse "[REDACTED]": bad port`},
		{&url.Error{Op: "Get", URL: "http://a/", Err: &url.Error{Op: "Get", URL: "http://u:pass@b/", Err: io.EOF}}, `Get "http://a/": Get "http://b/": EOF`},
		{errors.New("cannot sign " + address), "cannot sign https://h/p?token=[REDACTED]&a=b"},
		{errors.New("bad query token=secret&a=b"), "bad query token=[REDACTED]&a=b"},
	}
	for _, tt := range tests {
		ctx, recorder, _ := recordedSpans()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewTracingTransport(&cannedTransport{err: tt.err}).RoundTrip(req); err != tt.err {
			t.Errorf("the transport's error became %v", err)
		}
		span := recorder.Ended()[0]
		if got := span.Status().Description; got != tt.want {
			t.Errorf("the span's description is %q, want %q", got, tt.want)
		}
		if text := fmt.Sprint(span.Events(), span.Attributes()); strings.Contains(text, "secret") || strings.Contains(text, "pass") {
			t.Errorf("a secret is in %s", text)
		}
	}
}

type noResponse struct{}

func (noResponse) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

// If the underlying transport returns neither a response nor an error, http.Client must return
// an error, and the span must end.
func TestHTTPTransportWithoutResponse(t *testing.T) {
	ctx, recorder, _ := recordedSpans()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&http.Client{Transport: NewTracingTransport(noResponse{})}).Do(req); err == nil {
		t.Error("no error")
	}
	if n := len(recorder.Ended()); n != 1 {
		t.Errorf("%d spans ended", n)
	}
}

// withoutGlobal installs a global tracer provider that records nothing. It restores the
// previous provider when the test ends.
func withoutGlobal(t *testing.T) {
	previous := otel.GetTracerProvider()
	otel.SetTracerProvider(tracenoop.NewTracerProvider())
	t.Cleanup(func() { otel.SetTracerProvider(previous) })
}

func TestHTTPErrorKinds(t *testing.T) {
	for err, want := range map[error]string{
		context.Canceled: "context.Canceled", &net.OpError{Op: "dial", Err: context.DeadlineExceeded}: "context.DeadlineExceeded", errors.New("x"): "*errors.errorString",
	} {
		if got := errorKind(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

func TestHTTPPropagation(t *testing.T) {
	withoutGlobal(t)
	base := &cannedTransport{status: 200}
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: 3, TraceState: state, Remote: true})
	ctx := ExtractContext(trace.ContextWithSpanContext(t.Context(), sc), "", "a=b=c")
	req, err := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Traceparent": {"old", "older"}, "Tracestate": {"old"}, "Baggage": {"old"}}
	if _, err := NewTracingTransport(base).RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Traceparent": {"00-01000000000000000000000000000000-0200000000000000-01"}, "Tracestate": {"vendor=1"}, "Baggage": {"a=b%3Dc"}}
	if diff := cmp.Diff(want, base.got.Header); diff != "" {
		t.Errorf("headers without telemetry (-want +got):\n%s", diff)
	}
	req, err = http.NewRequestWithContext(t.Context(), "GET", "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = nil
	if _, err := NewTracingTransport(base).RoundTrip(req); err != nil || len(base.got.Header) != 0 {
		t.Errorf("outside of traces: headers %v, error %v", base.got.Header, err)
	}
}

func TestHTTPIgnoresListedURLs(t *testing.T) {
	t.Setenv("OTEL_FETCH_IGNORE_URLS", " /health , ,internal.example")
	base := &cannedTransport{status: 200}
	rt := NewTracingTransport(base)
	t.Setenv("OTEL_FETCH_IGNORE_URLS", "")
	for address, traced := range map[string]bool{
		"http://example.com/health": false, "http://internal.example/x": false, "http://example.com/x?u=/health": false, "http://example.com/": true,
	} {
		ctx, recorder, _ := recordedSpans()
		req, err := http.NewRequestWithContext(ctx, "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rt.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if got := len(recorder.Ended()) == 1; got != traced {
			t.Errorf("%s: span %v, want %v", address, got, traced)
		}
		if !traced && base.got != req {
			t.Errorf("%s: the request was modified", address)
		}
	}
}

// If the list in $OTEL_FETCH_IGNORE_URLS is empty, no URL is ignored.
func TestHTTPIgnoresNothingByDefault(t *testing.T) {
	for _, list := range []string{"", " ", ",", " , ,"} {
		t.Setenv("OTEL_FETCH_IGNORE_URLS", list)
		ctx, recorder, _ := recordedSpans()
		req, err := http.NewRequestWithContext(ctx, "GET", "http://example.com/a,b", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewTracingTransport(&cannedTransport{status: 200}).RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if n := len(recorder.Ended()); n != 1 {
			t.Errorf("list %q: %d spans", list, n)
		}
	}
}

func TestHTTPSpansCanBeSwitchedOff(t *testing.T) {
	off, address := false, "ws://127.0.0.1:1"
	telemetry, err := StartTelemetry(t.Context(), OtelConfig{FetchInstrumentationEnabled: &off, EngineWSURL: &address})
	if err != nil {
		t.Fatal(err)
	}
	base := &cannedTransport{status: 200}
	ctx, span := telemetry.Tracer().Start(t.Context(), "parent")
	req, err := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewTracingTransport(base).RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if base.got != req {
		t.Error("the request was modified")
	}
	span.End()
	if err := telemetry.Shutdown(t.Context()); err == nil {
		t.Error("the span could not be delivered, but Shutdown returned no error")
	}
	left := 0
	untracedHTTP.Range(func(any, any) bool { left++; return true })
	if left != 0 {
		t.Errorf("%d providers are still known after Shutdown", left)
	}
}

// Redirects, keep-alive and streaming work against a real server.
func TestHTTPClient(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/from" {
			http.Redirect(w, r, "/to", http.StatusFound)
			return
		}
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, r.Header.Get("Traceparent"))
	}))
	t.Cleanup(server.Close)
	ctx, recorder, parent := recordedSpans()
	client := &http.Client{Transport: NewTracingTransport(nil)}
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/from", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	spans := recorder.Ended()
	if len(spans) != 2 || spans[0].Name() != "GET /from" || spans[1].Name() != "GET /to" {
		t.Fatalf("spans are %v", spans)
	}
	if want := InjectTraceparent(trace.ContextWithSpanContext(ctx, spans[1].SpanContext())); string(body) != want || spans[1].SpanContext().TraceID() != parent.SpanContext().TraceID() {
		t.Errorf("the server saw %q, want %q", body, want)
	}
	client.CloseIdleConnections()
}
