package iiitest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// webClient is the client that sent a recording's HTTP requests. headers contains the headers
// that it always sends.
type webClient struct {
	host    string
	headers map[string]string
}

var (
	urllib = &webClient{"127.0.0.1:3111", map[string]string{
		"Connection": "close", "User-Agent": "Python-urllib/3.11", "Accept-Encoding": "identity",
	}}
	silentClient = &webClient{"127.0.0.1:3111", map[string]string{"Accept-Encoding": "identity"}}
	bareClient   = &webClient{"127.0.0.1", map[string]string{"Connection": "close"}}
)

// httpRequest is a recorded request to an HTTP trigger.
type httpRequest struct {
	event
	at     int // index of the first event caused by the request
	client *webClient
	done   chan struct{}
	answer webAnswer
	err    error
}

// requests returns the recorded requests. The recording contains only the times of the
// responses, so requests infers from the events when each request was sent. Requests do not
// overlap.
func (p *player) requests(events []event) []*httpRequest {
	client := cmp.Or(p.web, urllib)
	var list []*httpRequest
	at := -1 // first event that the request must have caused
	for i, e := range events {
		silent := slices.IndexFunc(p.silent, func(path string) bool {
			return bytes.Contains(e.Frame, []byte(`"trigger":{"method":"GET","path":"`+path+`"`))
		})
		switch {
		case silent >= 0 && e.Dir == "recv":
			r := &httpRequest{event: event{line: e.line}, at: i, client: silentClient, done: make(chan struct{})}
			r.HTTP = &recordedRequest{Method: http.MethodGet, Path: p.silent[silent]}
			list = append(list, r)
		case e.HTTP != nil, e.Answer != "":
			if at < 0 {
				at = i
			}
			list = append(list, &httpRequest{event: e, at: at, client: client, done: make(chan struct{})})
			at = -1
		case at < 0 && e.Dir == "recv" && causedByRequest(e.Frame):
			at = i
		}
	}
	return list
}

var requestPattern = regexp.MustCompile(`"type":"http"|"phase":"preHandler"`)

func causedByRequest(m []byte) bool {
	f := Frame{Message: m}
	return f.Type() == "invokefunction" && requestPattern.Match(m)
}

// do sends the request as the recorded client did.
func (r *httpRequest) do(p *player) {
	defer close(r.done)
	conn, err := p.engine.DialContext(p.t.Context(), "tcp", p.engine.httpServer.addr)
	if err != nil {
		r.err = err
		return
	}
	defer conn.Close()
	if r.Answer != "" {
		_, _ = fmt.Fprintf(conn, "POST /rb HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 10\r\n\r\n{\"a\"", r.ContentType)
		time.Sleep(100 * time.Millisecond)
		_ = conn.(*memnet.Conn).CloseWrite()
		answer, err := io.ReadAll(conn)
		r.answer, r.err = webAnswer{body: dateLine.ReplaceAll(answer, nil)}, err
		return
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\n", r.HTTP.Method, r.HTTP.Path)
	headers := maps.Clone(r.client.headers)
	headers["Host"] = r.client.host
	maps.Copy(headers, r.HTTP.Headers)
	body, sized := r.HTTP.content()
	if sized {
		headers["Content-Length"] = strconv.Itoa(len(body))
	} else if r.HTTP.Chunked {
		headers["Transfer-Encoding"] = "chunked"
	}
	for k, v := range headers {
		fmt.Fprintf(&request, "%s: %s\r\n", k, v)
	}
	request.WriteString("\r\n")
	if r.HTTP.Chunked {
		const size = 7000
		for chunk := range slices.Chunk(body, size) {
			fmt.Fprintf(&request, "%x\r\n%s\r\n", len(chunk), chunk)
		}
		request.WriteString("0\r\n\r\n")
	} else {
		request.Write(body)
	}
	if _, r.err = conn.Write(request.Bytes()); r.err == nil {
		r.answer, r.err = readAnswer(conn, r.HTTP.Method)
	}
}

// content returns the body, and whether the request has a Content-Length.
func (r *recordedRequest) content() (body []byte, sized bool) {
	if r.Body == nil {
		return nil, r.Headers["Content-Length"] == "" && slices.Contains([]string{"POST", "PUT", "PATCH"}, r.Method) && r.Headers["Content-Type"] == ""
	}
	if n, ok := byteCount(*r.Body); ok {
		body = bytes.Repeat([]byte("j"), n)
		if strings.Contains(r.Headers["Content-Type"], "json") {
			body[0], body[n-1] = '"', '"'
		}
		return body, !r.Chunked
	}
	for _, c := range *r.Body { // recorded as Latin-1
		body = append(body, byte(c))
	}
	return body, !r.Chunked
}

// webAnswer is a raw HTTP response.
type webAnswer struct {
	status int
	header [][2]string // lowercase names in order of arrival
	body   []byte
	end    string // error at the end of a truncated body
}

// readAnswer reads a response without validating it. A truncated response is not an error.
func readAnswer(conn io.Reader, method string) (a webAnswer, err error) {
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return a, err
	}
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &a.status); err != nil {
		return a, fmt.Errorf("%w in %q", err, line)
	}
	length, chunked := -1, false
	for {
		if line, err = in.ReadString('\n'); err != nil {
			return a, err
		}
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if !ok {
			break
		}
		value = latin1(strings.TrimSpace(value))
		switch name {
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = value == "chunked"
		}
		a.header = append(a.header, [2]string{name, value})
	}
	switch {
	case method == http.MethodHead:
	case chunked:
		a.body, err = io.ReadAll(httputil.NewChunkedReader(in))
	case length >= 0:
		a.body, err = io.ReadAll(io.LimitReader(in, int64(length)))
		if len(a.body) < length {
			a.end = fmt.Sprintf("short %d/%d", len(a.body), length)
		}
	default:
		a.body, err = io.ReadAll(in)
	}
	return a, err
}

// latin1 decodes a Latin-1 string.
func latin1(s string) string {
	var runes []rune
	for _, c := range []byte(s) {
		runes = append(runes, rune(c))
	}
	return string(runes)
}

var dateLine = regexp.MustCompile(`(?m)^date: .*\r\n`)

// answered compares the response to a request with the recorded response.
func (p *player) answered(e event, requests []*httpRequest) {
	i := slices.IndexFunc(requests, func(r *httpRequest) bool { return r.line == e.line })
	r := requests[i]
	select {
	case <-r.done:
	case <-time.After(time.Duration(e.MS)*time.Millisecond + patience):
		p.t.Fatalf("line %d: no answer", e.line)
	}
	if r.err != nil {
		p.t.Fatalf("line %d: %v", e.line, r.err)
	}
	c := &comparison{names: p.names, allow: func(at string) bool { return p.deliberate(at, true) }}
	defer func() {
		for _, d := range c.diffs {
			p.t.Errorf("line %d: %s", e.line, d)
		}
	}()
	body := string(dateLine.ReplaceAll(r.answer.body, nil))
	if e.Answer != "" {
		c.value("answer to a body that is too short", e.Answer, body)
		return
	}
	path := e.HTTP.Method + " " + e.HTTP.Path
	c.value(path+" status", e.Response.Status, r.answer.status)
	if r.client != urllib { // urllib does not report it
		c.value(path+" end", strings.TrimPrefix(e.Response.End, "eof "), r.answer.end)
	}
	headers := map[string]any{}
	for _, field := range r.answer.header {
		switch old := headers[field[0]].(type) {
		case string:
			if r.client == urllib { // urllib keeps the first value
				continue
			}
			headers[field[0]] = []any{old, field[1]}
		case []any:
			headers[field[0]] = append(old, field[1])
		default:
			headers[field[0]] = field[1]
		}
	}
	delete(headers, "date")
	if e.Response.Headers["connection"] == nil {
		delete(headers, "connection") // removed by the recording client, or not requested
	}
	c.object(path, e.Response.Headers, headers)
	recorded := dateLine.ReplaceAllString(e.Response.Body, "")
	if n, ok := byteCount(recorded); ok {
		c.value(path+" length of the body", n, len(body))
	} else if strings.Contains(fmt.Sprint(e.Response.Headers["content-type"]), "json") && recorded != "" {
		c.value(path+" body", decode(p.t, []byte(recorded)), decode(p.t, []byte(body)))
	} else {
		c.value(path+" body", recorded, body)
	}
}

// recordedCall is an HTTP request from the engine to a function.
type recordedCall struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// callee is the HTTP server that hosts the functions invoked over HTTP.
type callee struct {
	host  string
	pipe  *memnet.Listener
	calls chan recordedCall
}

// newCallee starts a server that runs until the test ends.
func newCallee(t *testing.T, host string) *callee {
	s := &callee{host: host, pipe: memnet.NewListener(memnet.Addr(host)), calls: make(chan recordedCall, 10)}
	server := &http.Server{Handler: s, ErrorLog: silentLog}
	go func() { _ = server.Serve(s.pipe) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// option restricts the engine's HTTP client to this server.
func (s *callee) option(c *config) error {
	c.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != s.host {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: memnet.Addr(addr), Err: syscall.ECONNREFUSED}
		}
		return s.pipe.DialContext(ctx, network, addr)
	}
	return nil
}

func (s *callee) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	call := recordedCall{r.Method, r.URL.Path, map[string]string{
		"host": r.Host, "content-length": strconv.FormatInt(r.ContentLength, 10),
	}, string(body)}
	for name, values := range r.Header {
		call.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	s.calls <- call
	switch r.URL.Path {
	case "/slow":
		<-r.Context().Done()
	case "/500":
		w.WriteHeader(http.StatusInternalServerError)
	case "/text":
		_, _ = io.WriteString(w, "not json")
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "echo": string(body)})
	}
}

// called compares a request sent by the engine with the recorded one.
func (p *player) called(e event) {
	var got recordedCall
	select {
	case got = <-p.callee.calls:
	case <-time.After(patience):
		p.t.Fatalf("line %d: no request", e.line)
	}
	want := *e.Received
	for _, call := range []recordedCall{want, got} { // signatures differ because the bodies do
		if signed := call.Headers["x-iii-signature"]; signed != "" {
			mac := hmac.New(sha256.New, []byte("s3cret"))
			mac.Write([]byte(call.Headers["x-iii-timestamp"] + ":" + base64.StdEncoding.EncodeToString([]byte(call.Body))))
			if signed != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
				p.t.Errorf("line %d: signature %s is not that of the request", e.line, signed)
			}
			call.Headers["x-iii-signature"] = "right"
		}
	}
	c := &comparison{names: p.names, allow: func(at string) bool { return p.deliberate(at, true) }}
	path := "request " + want.Path
	c.value(path+" method", want.Method, got.Method)
	c.value(path+" path", want.Path, got.Path)
	c.value(path+" body", want.Body, got.Body)
	c.object(path+" headers", anyMap(want.Headers), anyMap(got.Headers))
	for _, d := range c.diffs {
		p.t.Errorf("line %d: %s", e.line, d)
	}
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}
