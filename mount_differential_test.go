package iii_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// behaviour is a request and a handler. What a client sees of the response, and what the
// handler notes, must be the same under net/http's server and behind a mounted route.
type behaviour struct {
	name    string
	route   string // method of the route; default that of the request
	path    string // of the route, below the one of the behaviour
	method  string // default GET
	target  string // below the path of the behaviour; default path
	header  []string
	body    string
	chunked bool
	raw     bool   // the body is what follows the head
	cut     int    // so much of the body is sent, if not 0, before the client ends its side
	proto   string // default HTTP/1.1
	length  bool   // the Content-Length of the response is compared, too
	empty   bool   // the Content-Type of a response without a body is compared, too
	handler func(w http.ResponseWriter, r *http.Request, note func(format string, args ...any))

	// differs names the place of docs/http.md that says so, if it is not the same.
	differs string
}

// observed is what comes of a behaviour.
type observed struct {
	Status   int
	Header   http.Header
	Body     string
	Trailer  http.Header
	End      string   // what the client reads behind the body, if it is not the end
	Informed []string // informational responses before
	Handler  []string // what the handler has noted
}

// request is the text of the request to a path.
func (b *behaviour) request(path string) string {
	method, proto := b.method, b.proto
	if method == "" {
		method = "GET"
	}
	if proto == "" {
		proto = "HTTP/1.1"
	}
	target := b.target
	if target == "" {
		target = b.path
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s%s %s\r\nHost: shop.example\r\n", method, path, target, proto)
	for _, line := range b.header {
		s.WriteString(line + "\r\n")
	}
	body := b.body
	if b.chunked {
		s.WriteString("Transfer-Encoding: chunked\r\n")
		body = "0\r\n\r\n"
		if b.body != "" {
			body = fmt.Sprintf("%x\r\n%s\r\n%s", len(b.body), b.body, body)
		}
	} else if b.body != "" && !b.raw {
		fmt.Fprintf(&s, "Content-Length: %d\r\n", len(b.body))
	}
	s.WriteString("\r\n")
	if b.cut > 0 {
		body = body[:b.cut]
	}
	return s.String() + body
}

// observe makes the request, and waits for the handler's notes.
func (b *behaviour) observe(t *testing.T, addr, path string, notes <-chan []string) (got observed) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan struct{})
	go func() { // a server may answer before it has read all
		defer close(sent)
		_, _ = io.WriteString(conn, b.request(path))
		if b.cut > 0 {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	got.receive(conn, b)
	_ = conn.Close()
	<-sent
	got.Handler = <-notes
	return got
}

func (o *observed) receive(conn net.Conn, b *behaviour) {
	method := b.method
	if method == "" {
		method = "GET"
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		o.Informed = append(o.Informed, resp.Status)
		resp, err = http.ReadResponse(in, &http.Request{Method: method})
	}
	if err != nil {
		o.End = "no response"
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	o.Status, o.Header, o.Body, o.Trailer = resp.StatusCode, http.Header{}, string(body), resp.Trailer
	if err != nil {
		o.End = err.Error()
	}
	for name, values := range resp.Header {
		switch name {
		case "Date", "Connection", "Access-Control-Expose-Headers":
		case "Access-Control-Allow-Origin":
			if values[0] != "*" {
				o.Header[name] = values
			}
		case "Content-Length":
			if b.length {
				o.Header[name] = values
			}
		case "Content-Type":
			if b.empty || len(body) > 0 || values[0] != "text/plain; charset=utf-8" {
				o.Header[name] = values
			}
		case "Vary":
			values = slices.DeleteFunc(values, func(v string) bool { return strings.HasPrefix(v, "origin, access-control-request-method") })
			if len(values) > 0 {
				o.Header[name] = values
			}
		case "Set-Cookie":
			slices.Sort(values)
			o.Header[name] = values
		default:
			o.Header[name] = values
		}
	}
}

// A mounted handler behaves as under net/http's server, or as the documentation says.
func TestMountedHandlersBehaveAsUnderNetHTTP(t *testing.T) {
	behaviours := slices.Concat(requestBehaviours, bodyBehaviours, statusBehaviours, headerBehaviours, writeBehaviours, sniffBehaviours, lengthBehaviours, endBehaviours, handlerBehaviours(t))
	if n := len(behaviours); n < 140 {
		t.Errorf("%d behaviours are compared, want 140", n)
	}
	page, err := os.ReadFile("docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile(`\s+`).ReplaceAllString(string(page), " ")
	engine := iiitest.Start(t)
	client, err := iii.New(engine.URL(), iii.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	mux := http.NewServeMux()
	native := httptest.NewUnstartedServer(mux)
	native.Config.ErrorLog = log.New(io.Discard, "", 0)
	native.Start()
	t.Cleanup(native.Close)
	notes := make([]chan []string, len(behaviours))
	parameter := regexp.MustCompile(`:([a-z]+)`)
	for i, b := range behaviours {
		notes[i] = make(chan []string, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var noted []string
			defer func() { notes[i] <- noted }()
			b.handler(w, r, func(format string, args ...any) { noted = append(noted, fmt.Sprintf(format, args...)) })
		})
		path := fmt.Sprintf("/b%d%s", i, b.path)
		method := b.route
		if method == "" {
			method = b.method
		}
		if method == "" {
			method = "GET"
		}
		if _, err := client.MountHTTP(method, path, h); err != nil {
			t.Fatalf("%s: %v", b.name, err)
		}
		mux.Handle(method+" "+parameter.ReplaceAllString(path, "{$1}"), h)
	}
	if err := client.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, b := range behaviours {
		t.Run(b.name, func(t *testing.T) {
			path := fmt.Sprintf("/b%d", i)
			want := b.observe(t, native.Listener.Addr().String(), path, notes[i])
			got := b.observe(t, strings.TrimPrefix(engine.HTTPURL(), "http://"), path, notes[i])
			diff := cmp.Diff(want, got)
			switch {
			case b.differs == "" && diff != "":
				t.Errorf("observed (-net/http +mounted):\n%s", diff)
			case b.differs != "" && diff == "":
				t.Errorf("it is the same, although it is listed: %q", b.differs)
			case b.differs != "" && !strings.Contains(listed, b.differs):
				t.Errorf("docs/http.md does not list %q; observed (-net/http +mounted):\n%s", b.differs, diff)
			}
		})
	}
}

type noting = func(format string, args ...any)

func noteURL(w http.ResponseWriter, r *http.Request, note noting) {
	note("%q %q %q %q", r.URL.Path, r.URL.RawPath, r.URL.EscapedPath(), r.PathValue("name"))
}

func noteQuery(w http.ResponseWriter, r *http.Request, note noting) {
	note("%v", r.URL.Query())
}

func noteHeader(names ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		for _, name := range names {
			note("%s %q", name, r.Header[name])
		}
	}
}

var requestBehaviours = []behaviour{
	{name: "path", path: "/users/:name", target: "/users/ada", handler: noteURL},
	{name: "path with a blank", path: "/users/:name", target: "/users/Ada%20Lovelace", handler: noteURL},
	{name: "path in another script", path: "/users/:name", target: "/users/%E6%97%A5%E6%9C%AC", handler: noteURL},
	{name: "path with an escaped slash", path: "/users/:name", target: "/users/a%2Fb", handler: noteURL},
	{name: "path with an escaped letter", path: "/users/:name", target: "/users/%61da", handler: noteURL},
	{name: "path with an at sign", path: "/users/:name", target: "/users/a%40b", handler: noteURL},
	{name: "path with a plus", path: "/users/:name", target: "/users/a+b", handler: noteURL},
	{name: "path with an escaped percent", path: "/users/:name", target: "/users/100%25", handler: noteURL},
	{name: "path with an escaped question mark", path: "/users/:name", target: "/users/what%3F", handler: noteURL},
	{name: "path with marks", path: "/users/:name", target: "/users/a;b,c=d!e'f(g)*~", handler: noteURL},
	{name: "path with lower case escapes", path: "/users/:name", target: "/users/%c3%a9", handler: noteURL},
	{name: "path with an escape that is no UTF-8", path: "/users/:name", target: "/users/%ff", handler: noteURL},
	{name: "path with an empty query", path: "/users/:name", target: "/users/ada?", handler: noteURL},
	{name: "path with two parameters", path: "/:kind/:name", target: "/b%20c/d", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%q %q", r.PathValue("kind"), r.PathValue("name"))
	}},
	{name: "pattern", path: "/users/:name/x", target: "/users/ada/x", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%s", regexp.MustCompile(`b\d+`).ReplaceAllString(r.Pattern, "b"))
	}},
	{name: "target without a query", path: "/t", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%q", r.RequestURI[strings.LastIndex(r.RequestURI, "/"):])
	}},
	{name: "target with a query", path: "/t", target: "/t?a=1&b=x%26y", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%q", r.RequestURI[strings.LastIndex(r.RequestURI, "/"):])
	}},
	{name: "query", target: "?q=1&r=x%26y&s=%E2%82%AC", handler: noteQuery},
	{name: "query with blanks", target: "?q=a+b%20c", handler: noteQuery},
	{name: "query without a value", target: "?flag&empty=", handler: noteQuery},
	{name: "query with a key in brackets", target: "?a[b]=1", handler: noteQuery},
	{name: "query that repeats a key", target: "?a=1&a=2", handler: noteQuery, differs: "the last value of a repeated query key"},
	{name: "query as it was written", target: "?b=2&a=1", differs: "`r.RequestURI` and `r.URL.RawQuery` are rebuilt", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%q", r.URL.RawQuery)
	}},
	{name: "form value of the query", target: "?a=1", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%q %q", r.FormValue("a"), r.PostFormValue("a"))
	}},
	{name: "host", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%q %q", r.Host, r.Header["Host"]) }},
	{name: "protocol", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%s %d %d %v", r.Proto, r.ProtoMajor, r.ProtoMinor, r.ProtoAtLeast(1, 1))
	}},
	{name: "old protocol", proto: "HTTP/1.0", differs: "`r.Proto` is always HTTP/1.1", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%s", r.Proto) }},
	{name: "address of the client", differs: "`r.RemoteAddr` is empty", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%v", r.RemoteAddr != "") }},
	{name: "no TLS", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%v", r.TLS == nil) }},
	{name: "header", header: []string{"X-Probe: p 1"}, handler: noteHeader("X-Probe")},
	{name: "header in small letters", header: []string{"x-probe: p"}, handler: noteHeader("X-Probe", "x-probe")},
	{name: "header with blanks around it", header: []string{"X-Probe: \t p \t"}, handler: noteHeader("X-Probe")},
	{name: "header without a value", header: []string{"X-Probe:"}, handler: noteHeader("X-Probe")},
	{name: "header that repeats", header: []string{"X-Probe: 1", "X-Probe: 2"}, handler: noteHeader("X-Probe"), differs: "the last value of a repeated header"},
	{name: "header that is not ASCII", header: []string{"X-Probe: é"}, handler: noteHeader("X-Probe"), differs: "a value that is not visible ASCII becomes empty"},
	{name: "agent, referrer and accepted types", header: []string{"User-Agent: curl/8", "Referer: /from", "Accept: */*", "Accept-Encoding: gzip"},
		handler: func(w http.ResponseWriter, r *http.Request, note noting) {
			note("%q %q %q %q", r.UserAgent(), r.Referer(), r.Header.Get("Accept"), r.Header.Get("Accept-Encoding"))
		}},
	{name: "no agent", handler: noteHeader("User-Agent", "Accept-Encoding")},
	{name: "cookies", header: []string{"Cookie: a=1; b=2"}, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", r.Cookies())
	}},
	{name: "user and password", header: []string{"Authorization: Basic YWRhOnNlY3JldA=="}, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		user, password, ok := r.BasicAuth()
		note("%q %q %v", user, password, ok)
	}},
	{name: "header of the connection", header: []string{"Connection: close"}, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v %q", r.Close, r.Header["Connection"])
	}},
	{name: "header of a connection that stays", header: []string{"Connection: keep-alive"}, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v %q", r.Close, r.Header["Connection"])
	}},
	{name: "pragma", header: []string{"Pragma: no-cache"}, handler: noteHeader("Pragma", "Cache-Control")},
	{name: "pragma with a cache control", header: []string{"Pragma: no-cache", "Cache-Control: max-age=0"}, handler: noteHeader("Pragma", "Cache-Control")},
	{name: "all headers", header: []string{"B: 2", "a: 1"}, handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%v", r.Header) }},
	{name: "all headers of a body", method: "POST", header: []string{"Content-Type: text/plain"}, body: "x", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%v", r.Header) }},
	{name: "all headers of a chunked body", method: "POST", chunked: true, body: "x", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v %v %d", r.Header, r.TransferEncoding, r.ContentLength)
	}},
	{name: "server of the context", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
		note("%v %v", ok, server != nil && server.Handler != nil)
	}},
	{name: "address of the context", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		_, port, err := net.SplitHostPort(addr.String())
		note("%v %s %v %v", ok, addr.Network(), port != "", err)
	}},
	{name: "context", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%v", r.Context().Err()) }},
	{name: "POST", method: "POST", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%s %d %v", r.Method, r.ContentLength, r.Body == http.NoBody)
	}},
	{name: "PUT", method: "PUT", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%s", r.Method) }},
	{name: "PATCH", method: "PATCH", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%s", r.Method) }},
	{name: "DELETE", method: "DELETE", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%s", r.Method) }},
	{name: "HEAD", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%s", r.Method) }},
	{name: "HEAD of a route with GET", route: "GET", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%s %s", r.Method, strings.Fields(r.Pattern)[0])
		w.Header().Set("X-Answer", "yes")
		n, err := io.WriteString(w, "left out")
		note("%d %v", n, err)
	}},
}

// readBody notes what is read of the body.
func readBody(w http.ResponseWriter, r *http.Request, note noting) {
	b, err := io.ReadAll(r.Body)
	if len(b) > 100 {
		b = fmt.Appendf(nil, "%d bytes", len(b))
	}
	note("%q %s", b, errorKind(err))
}

// errorKind is what programs look for in an error.
func errorKind(err error) string {
	for _, kind := range []error{
		io.ErrUnexpectedEOF, io.EOF, http.ErrBodyReadAfterClose, http.ErrBodyNotAllowed, http.ErrContentLength,
		http.ErrAbortHandler, os.ErrDeadlineExceeded, errors.ErrUnsupported, context.Canceled,
	} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return fmt.Sprintf("more than %d", tooLarge.Limit)
	}
	return fmt.Sprint(err)
}

const multipartType = "Content-Type: multipart/form-data; boundary=XX"

func multipartBody() string {
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	_ = m.SetBoundary("XX")
	_ = m.WriteField("name", "Ada")
	file, _ := m.CreateFormFile("photo", "ada.png")
	_, _ = file.Write([]byte("\x89PNG\r\n"))
	_ = m.Close()
	return b.String()
}

var bodyBehaviours = []behaviour{
	{name: "body", method: "POST", body: "hello", handler: readBody},
	{name: "body without a type", method: "PUT", body: "\x00\xff", handler: readBody},
	{name: "body of JSON, as it was written", method: "POST", header: []string{"Content-Type: application/json"}, body: "{ \"b\": 1,\n \"a\": 1e3 }", handler: readBody},
	{name: "body that is no JSON after all", method: "POST", header: []string{"Content-Type: application/json"}, body: "{broken", handler: readBody},
	{name: "large body", method: "POST", body: strings.Repeat("0123456789abcdef", 200_000), handler: readBody},
	{name: "chunked body", method: "POST", chunked: true, body: "hello", handler: readBody},
	{name: "empty chunked body", method: "POST", chunked: true, handler: readBody},
	{name: "body of length 0", method: "POST", header: []string{"Content-Length: 0"}, handler: readBody},
	{name: "no body", handler: readBody},
	{name: "body of a DELETE", method: "DELETE", body: "why", handler: readBody},
	{name: "length of a body", method: "POST", body: "hello", handler: func(w http.ResponseWriter, r *http.Request, note noting) { note("%d", r.ContentLength) }},
	{name: "body that is not read", method: "POST", body: "ignored", handler: func(w http.ResponseWriter, r *http.Request, note noting) { fmt.Fprint(w, "ok") }},
	{name: "body that is read in part", method: "POST", body: "half of it", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		b := make([]byte, 4)
		n, err := io.ReadFull(r.Body, b)
		note("%d %q %v", n, b, err)
		fmt.Fprint(w, "ok")
	}},
	{name: "last bytes and the end", method: "POST", body: "all", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		n, err := r.Body.Read(make([]byte, 10))
		note("%d %v", n, err)
	}},
	{name: "read of nothing", method: "POST", body: "all", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		n, err := r.Body.Read(nil)
		note("%d %v", n, err)
	}},
	{name: "read behind the end", method: "POST", body: "all", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		_, _ = io.Copy(io.Discard, r.Body)
		n, err := r.Body.Read(make([]byte, 10))
		note("%d %v", n, err)
	}},
	{name: "read after close", method: "POST", body: "all", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v %v", r.Body.Close(), r.Body.Close())
		n, err := r.Body.Read(make([]byte, 10))
		note("%d %v", n, err)
	}},
	{name: "read of no body after close", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", r.Body.Close())
		n, err := r.Body.Read(make([]byte, 10))
		note("%d %v", n, err)
	}},
	{name: "body up to a limit", method: "POST", body: "0123456789", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		r.Body = http.MaxBytesReader(w, r.Body, 10)
		readBody(w, r, note)
	}},
	{name: "body over a limit", method: "POST", body: "0123456789x", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		r.Body = http.MaxBytesReader(w, r.Body, 10)
		readBody(w, r, note)
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	}},
	{name: "form", method: "POST", target: "?a=q&c=3", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: "a=1&a=2&b=two+words",
		handler: func(w http.ResponseWriter, r *http.Request, note noting) {
			note("%v", r.ParseForm())
			note("%v %v", r.Form, r.PostForm)
		}},
	{name: "form with files", method: "POST", header: []string{multipartType}, body: multipartBody(), handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", r.ParseMultipartForm(1<<20))
		file, header, err := r.FormFile("photo")
		if err != nil {
			note("%v", err)
			return
		}
		b, err := io.ReadAll(file)
		note("%s %q %d %q %v", r.FormValue("name"), header.Filename, header.Size, b, err)
	}},
	{name: "form in parts", method: "POST", header: []string{multipartType}, body: multipartBody(), handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		parts, err := r.MultipartReader()
		for err == nil {
			var part *multipart.Part
			if part, err = parts.NextPart(); err == nil {
				b, err := io.ReadAll(part)
				note("%s %q %v", part.FormName(), b, err)
			}
		}
		note("%v", err)
	}},
	{name: "JSON", method: "POST", header: []string{"Content-Type: application/json"}, body: `{"id": 7} {"id": 8}`, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		decoder := json.NewDecoder(r.Body)
		for {
			var v struct{ ID int }
			err := decoder.Decode(&v)
			note("%d %v", v.ID, err)
			if err != nil {
				return
			}
		}
	}},
	{name: "cut upload", method: "POST", body: "0123456789", cut: 4, handler: readBody},
	{name: "cut upload of JSON", method: "POST", header: []string{"Content-Type: application/json"}, body: `{"a": "0123456789"}`, cut: 6, handler: readBody},
	{name: "cut form", method: "POST", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: "a=1&b=2", cut: 4, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", r.ParseForm())
	}},
	{name: "cut form with files", method: "POST", header: []string{multipartType}, body: multipartBody(), cut: 90, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		err := r.ParseMultipartForm(1 << 20)
		note("%s", errorKind(err))
	}},
	{name: "cut chunked upload", method: "POST", chunked: true, body: "0123456789", cut: 6, handler: readBody, differs: "A truncated chunked upload"},
	{name: "response before the body is read", method: "POST", body: strings.Repeat("x", 300_000), handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", http.NewResponseController(w).EnableFullDuplex())
		_, _ = io.WriteString(w, "early ")
		_ = http.NewResponseController(w).Flush()
		readBody(w, r, note)
		fmt.Fprint(w, "late")
	}},
	{name: "echo of a large body", method: "POST", body: strings.Repeat("echo ", 100_000), handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Type", "text/plain")
		n, err := io.Copy(w, r.Body)
		note("%d %v", n, err)
	}},
	{name: "trailers of a request", method: "POST", header: []string{"Trailer: X-Sum", "Transfer-Encoding: chunked"}, differs: "Trailers are neither delivered nor sent", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v %q", r.Trailer, r.Header["Trailer"])
		readBody(w, r, note)
		note("%v", r.Trailer)
	}, body: "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", raw: true},
	{name: "read deadline that has passed", method: "POST", body: "late", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", http.NewResponseController(w).SetReadDeadline(time.Now().Add(-time.Second)))
		if _, err := r.Body.Read(make([]byte, 0)); err != nil {
			note("%v", err)
		}
		fmt.Fprint(w, "ok")
	}},
	{name: "read deadlines that do not pass", method: "POST", body: "in time", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute)))
		readBody(w, r, note)
		note("%v", http.NewResponseController(w).SetReadDeadline(time.Time{}))
	}},
}

// answerWith answers with a status.
func answerWith(status int, body string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/x-test")
		w.WriteHeader(status)
		if body != "" {
			n, err := io.WriteString(w, body)
			note("%d %v", n, err)
		}
	}
}

var statusBehaviours = []behaviour{
	{name: "status 200", handler: answerWith(200, "ok")},
	{name: "status 201", handler: answerWith(201, "made")},
	{name: "status 202 without a body", handler: answerWith(202, "")},
	{name: "status 203", handler: answerWith(203, "x")},
	{name: "status 204", handler: answerWith(204, "")},
	{name: "status 204 with a body", handler: answerWith(204, "x")},
	{name: "status 204 without a type", empty: true, differs: "without a `Content-Type`", handler: func(w http.ResponseWriter, r *http.Request, note noting) { w.WriteHeader(204) }},
	{name: "status 204, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(204)
		note("%v", http.NewResponseController(w).Flush())
	}},
	{name: "status 205", handler: answerWith(205, "")},
	{name: "status 206", handler: answerWith(206, "part")},
	{name: "status 301", handler: answerWith(301, "moved")},
	{name: "status 304", handler: answerWith(304, "")},
	{name: "status 304 with a body", handler: answerWith(304, "x")},
	{name: "status 304, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(304)
		note("%v", http.NewResponseController(w).Flush())
	}},
	{name: "status 304 of a HEAD", method: "HEAD", handler: answerWith(304, "")},
	{name: "status 400", handler: answerWith(400, "bad")},
	{name: "status 401", handler: answerWith(401, "who")},
	{name: "status 404", handler: answerWith(404, "no")},
	{name: "status 405", handler: answerWith(405, "no")},
	{name: "status 418", handler: answerWith(418, "tea")},
	{name: "status 429", handler: answerWith(429, "slow")},
	{name: "status 500", handler: answerWith(500, "oh")},
	{name: "status 503", handler: answerWith(503, "later")},
	{name: "status 599", handler: answerWith(599, "last")},
	{name: "status 600", handler: answerWith(600, "more")},
	{name: "status 999", handler: answerWith(999, "most")},
	{name: "status 700, flushed", differs: "A status above 599", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(700)
		note("%s", errorKind(http.NewResponseController(w).Flush()))
	}},
	{name: "status twice", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(418)
		w.WriteHeader(200)
		fmt.Fprint(w, "short and stout")
	}},
	{name: "status after the body", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		fmt.Fprint(w, "first")
		w.WriteHeader(500)
	}},
	{name: "status of a flushed response", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(599)
		_ = http.NewResponseController(w).Flush()
		fmt.Fprint(w, "streamed")
	}},
	{name: "impossible status", differs: "A panic before", handler: func(w http.ResponseWriter, r *http.Request, note noting) { w.WriteHeader(99) }},
	{name: "early hints", differs: "Informational responses", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
		w.WriteHeader(200)
		fmt.Fprint(w, "page")
	}},
	{name: "nothing", empty: true, differs: "without a `Content-Type`", handler: func(w http.ResponseWriter, r *http.Request, note noting) {}},
	{name: "nothing, with a type", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) { w.Header().Set("Content-Type", "text/css") }},
	{name: "nothing, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) { w.(http.Flusher).Flush() }},
}

var headerBehaviours = []behaviour{
	{name: "header of a response", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "1")
		w.Header().Set("x-b", "2")
		fmt.Fprint(w, "x")
	}},
	{name: "header with several values", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Add("X-A", "1")
		w.Header().Add("X-A", "2")
		fmt.Fprint(w, "x")
	}},
	{name: "header with several values, flushed", differs: "joined by commas", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Add("X-A", "1")
		w.Header().Add("X-A", "2")
		w.(http.Flusher).Flush()
	}},
	{name: "header after the first write", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "1")
		fmt.Fprint(w, "x")
		w.Header().Set("X-A", "2")
		w.Header().Set("X-B", "late")
	}},
	{name: "header after the status", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(202)
		w.Header().Set("X-B", "late")
	}},
	{name: "header that is taken back", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "1")
		w.Header().Del("X-A")
		fmt.Fprint(w, "x")
	}},
	{name: "header with a line break", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "a\r\nX-B: b")
		fmt.Fprint(w, "x")
	}},
	{name: "header with a line break, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "a\r\nX-B: b")
		_, _ = io.WriteString(w, "x")
		w.(http.Flusher).Flush()
	}},
	{name: "header whose name is none", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header()["X A"] = []string{"1"}
		w.Header()["X-B"] = []string{"2"}
		fmt.Fprint(w, "x")
	}},
	{name: "header without a value", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header()["X-A"] = []string{""}
		w.Header()["X-B"] = nil
		fmt.Fprint(w, "x")
	}},
	{name: "header in another script", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "日本")
		fmt.Fprint(w, "x")
	}},
	{name: "header in Latin 1", differs: "A header whose name is not valid", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("X-A", "caf\xe9")
		fmt.Fprint(w, "x")
	}},
	{name: "cookies of a response", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1", Path: "/", HttpOnly: true})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2", MaxAge: 60})
		fmt.Fprint(w, "x")
	}},
	{name: "cookies of a flushed response", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		for i := range 40 {
			http.SetCookie(w, &http.Cookie{Name: fmt.Sprint("c", i), Value: "1, 2", Path: "/"})
		}
		w.(http.Flusher).Flush()
	}},
	{name: "cookies of a binary response", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		_, _ = w.Write([]byte("\x89PNG\r\n\x1a\n"))
	}},
	{name: "cookies of a 304", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		w.WriteHeader(304)
	}},
	{name: "vary", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Vary", "Accept-Encoding")
		fmt.Fprint(w, "x")
	}},
	{name: "cross-origin header", differs: "`Access-Control-Allow-Origin: *`", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Access-Control-Allow-Origin", "https://shop.example")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("X-Origin", w.Header().Get("Access-Control-Allow-Origin"))
		fmt.Fprint(w, "x")
		note("%v", w.Header())
	}},
	{name: "date of its own", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Date", "Thu, 01 Jan 2026 00:00:00 GMT")
		fmt.Fprint(w, "x")
	}},
	{name: "trailers of a response", differs: "Trailers are neither delivered nor sent", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Sum", "1")
		_, _ = io.WriteString(w, "x")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "2")
	}},
}

// chunk notes what Write returns.
func chunk(w http.ResponseWriter, note noting, p string) {
	n, err := io.WriteString(w, p)
	note("%d %s", n, errorKind(err))
}

var writeBehaviours = []behaviour{
	{name: "text", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) { chunk(w, note, "hello, 世界\n") }},
	{name: "several writes", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		for _, p := range []string{"one ", "", "two ", "three"} {
			chunk(w, note, p)
		}
	}},
	{name: "binary", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		n, err := w.Write(bytes.Repeat([]byte{0, 0xff, 0xfe, 'x'}, 1000))
		note("%d %v", n, err)
	}},
	{name: "text with control characters", handler: func(w http.ResponseWriter, r *http.Request, note noting) { chunk(w, note, "a\x00b\x1f\u2028\x7f") }},
	{name: "as large as what is kept", handler: func(w http.ResponseWriter, r *http.Request, note noting) { chunk(w, note, strings.Repeat("k", 64<<10)) }},
	{name: "larger than what is kept", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, strings.Repeat("k", 64<<10+1))
	}},
	{name: "large in small writes", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		for i := range 20_000 {
			if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
				note("%v", err)
			}
		}
	}},
	{name: "large", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, strings.Repeat("0123456789", 300_000))
	}},
	{name: "flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, "one ")
		note("%v", http.NewResponseController(w).Flush())
		chunk(w, note, "two")
	}},
	{name: "flushed before the first byte", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		note("%v", http.NewResponseController(w).Flush())
		chunk(w, note, "body")
	}},
	{name: "flushed twice", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, "body")
		note("%v %v", http.NewResponseController(w).Flush(), http.NewResponseController(w).Flush())
	}},
	{name: "events", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "id: %d\ndata: x\n\n", i)
			w.(http.Flusher).Flush()
		}
	}},
	{name: "copied from a reader", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		n, err := io.Copy(w, strings.NewReader(strings.Repeat("copy ", 50_000)))
		note("%d %v", n, err)
	}},
	{name: "copied from a reader that fails", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		n, err := io.Copy(w, io.MultiReader(strings.NewReader("the first part"), brokenReader{}))
		note("%d %v", n, err)
	}},
	{name: "written behind the end of a HEAD", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		chunk(w, note, strings.Repeat("x", 100_000))
	}},
	{name: "HEAD, flushed", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, "<html>")
		note("%v", http.NewResponseController(w).Flush())
		chunk(w, note, "more")
	}},
	{name: "HEAD of text", method: "HEAD", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) { chunk(w, note, "left out") }},
	{name: "HEAD of several writes", method: "HEAD", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, "left ")
		chunk(w, note, "out")
	}},
	{name: "HEAD of a medium body", method: "HEAD", length: true, differs: "A response to HEAD", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		chunk(w, note, strings.Repeat("x", 10_000))
	}},
	{name: "HEAD of bytes", method: "HEAD", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) { chunk(w, note, "\xff\xfe\x00") }},
	{name: "HEAD that declares its length", method: "HEAD", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "12345")
	}},
	{name: "what a writer can do", differs: "Connections cannot be hijacked", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		_, flusher := w.(http.Flusher)
		_, text := w.(io.StringWriter)
		_, copier := w.(io.ReaderFrom)
		_, pusher := w.(http.Pusher)
		_, notifier := w.(interface{ CloseNotify() <-chan bool }) // http.CloseNotifier, which is deprecated
		_, hijacker := w.(http.Hijacker)
		note("%v %v %v %v %v %v", flusher, text, copier, pusher, notifier, hijacker)
		fmt.Fprint(w, "x")
	}},
	{name: "controls", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		control := http.NewResponseController(w)
		note("%v %v %v", control.SetWriteDeadline(time.Now().Add(time.Minute)), control.SetReadDeadline(time.Now().Add(time.Minute)), control.EnableFullDuplex())
		chunk(w, note, "x")
		note("%v %v", control.Flush(), control.SetWriteDeadline(time.Time{}))
		chunk(w, note, "y")
	}},
	{name: "flush after the write deadline", differs: "A response that has not been sent before its deadline becomes a 500", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		control := http.NewResponseController(w)
		_, _ = io.WriteString(w, "in time")
		note("%v", control.SetWriteDeadline(time.Now().Add(-time.Second)))
		note("%s", errorKind(control.Flush()))
		note("%s", errorKind(r.Context().Err()))
		note("%v", control.SetWriteDeadline(time.Time{}))
		_, _ = io.WriteString(w, "late")
		note("%s", errorKind(control.Flush()))
	}},
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("disk error") }

// writes answers with several writes and no type.
func writes(parts ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		for _, part := range parts {
			_, _ = io.WriteString(w, part)
		}
	}
}

var sniffBehaviours = []behaviour{
	{name: "type of HTML", handler: writes("<html><body>hi")},
	{name: "type of HTML in two writes", handler: writes("<ht", "ml><body>hi")},
	{name: "type of HTML behind blank lines", handler: writes("\n", "\n\n", "  <!DOCTYPE html>\n")},
	{name: "type of an image in two writes", handler: writes("\x89PNG", "\r\n\x1a\n....")},
	{name: "type of a document", handler: writes("%PDF-1.7\n")},
	{name: "type of text", handler: writes("plain words")},
	{name: "type of JSON", handler: writes(`{"a":1}`)},
	{name: "type of bytes", handler: writes("\x00\x01\x02")},
	{name: "type after an empty write", handler: writes("", "<html>")},
	{name: "type of what is beyond 512 bytes", handler: writes(strings.Repeat(" ", 600), "<html>")},
	{name: "type of a large page", handler: writes("<!DOCTYPE html>", strings.Repeat("x", 100_000))},
	{name: "type of a large page in one write", handler: writes("<!DOCTYPE html>" + strings.Repeat("x", 100_000))},
	{name: "type at the flush", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		_, _ = io.WriteString(w, "<ht")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "ml>")
	}},
	{name: "type of a flush before the first byte", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "<html>")
	}},
	{name: "type of its own", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "application/problem+json")
		_, _ = io.WriteString(w, "<html>")
	}},
	{name: "type that is suppressed", differs: "without a `Content-Type`", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
	}},
	{name: "type that is suppressed, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
		w.(http.Flusher).Flush()
	}},
	{name: "type of encoded bytes", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Encoding", "x-odd")
		_, _ = w.Write([]byte{0xff, 0xd8, 0xff})
	}},
	{name: "type of compressed HTML", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "<p>hi")
		_ = z.Close()
	}},
	{name: "type of a HEAD", empty: true, method: "HEAD", handler: writes("<html><body>hi")},
	{name: "type of a HEAD in two writes", empty: true, method: "HEAD", handler: writes("<ht", "ml>")},
	{name: "type of a large HEAD", empty: true, method: "HEAD", handler: writes("<html>", strings.Repeat("x", 100_000))},
	{name: "type of a template", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		note("%v", page.Execute(w, "<hello>"))
	}},
}

// page is a template that begins with a line break of its own.
var page = template.Must(template.New("page").Parse("{{define \"base\"}}<!DOCTYPE html>\n<html>{{template \"content\" .}}</html>{{end}}\n{{define \"content\"}}<p>{{.}}</p>{{end}}\n{{template \"base\" .}}"))

// declared answers with parts under a length.
func declared(length string, parts ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", length)
		for _, part := range parts {
			chunk(w, note, part)
		}
	}
}

// flushedAfter is declared with a flush after each part.
func flushedAfter(length string, parts ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", length)
		for _, part := range parts {
			chunk(w, note, part)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

var lengthBehaviours = []behaviour{
	{name: "length that is right", length: true, handler: declared("5", "he", "llo")},
	{name: "length that is right, flushed", length: true, handler: flushedAfter("5", "he", "llo")},
	{name: "length that is right, large", length: true, handler: declared("100000", strings.Repeat("x", 100_000))},
	{name: "length of nothing", length: true, handler: declared("0")},
	{name: "nothing of a length", length: true, handler: declared("10")},
	{name: "less than the length", length: true, handler: declared("10", "some")},
	{name: "less than the length, binary", length: true, handler: declared("10", "\xff\xfe")},
	{name: "less than the length, flushed", length: true, handler: flushedAfter("10", "some")},
	{name: "less than the length, large", length: true, handler: declared("200000", strings.Repeat("x", 100_000))},
	{name: "less than the length of a HEAD", method: "HEAD", length: true, handler: declared("10", "some")},
	{name: "more than the length in one write", length: true, handler: declared("2", "okay")},
	{name: "more than the length in a later write", length: true, handler: declared("5", "abc", "def")},
	{name: "more than the length behind it", length: true, handler: declared("3", "abc", "def")},
	{name: "more than the length, and less", length: true, handler: declared("5", "abc", "def", "g")},
	{name: "more than the length, flushed", length: true, handler: flushedAfter("5", "abc", "def")},
	{name: "more than the length of nothing", length: true, handler: declared("0", "x")},
	{name: "more than the length of a HEAD", method: "HEAD", length: true, handler: declared("2", "okay")},
	{name: "length of a 204", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "5")
		w.WriteHeader(204)
		_ = http.NewResponseController(w).Flush()
	}},
	{name: "length of a 304", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Length", "5")
		w.WriteHeader(304)
	}},
	{name: "length that is none", handler: declared("abc", "hello")},
	{name: "length that is negative", handler: declared("-1", "hello")},
	{name: "length set after the first write", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		fmt.Fprint(w, "abc")
		w.Header().Set("Content-Length", "100")
	}},
	{name: "source that fails in the middle", length: true, handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Length", "1000")
		n, err := io.Copy(w, io.MultiReader(strings.NewReader("the first part"), brokenReader{}))
		note("%d %v", n, err)
	}},
	{name: "encoding of its own", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Transfer-Encoding", "identity")
		fmt.Fprint(w, "abc")
	}},
}

// endsWith panics after a response.
func endsWith(p any, flush bool, length string, body string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		_, _ = io.WriteString(w, body)
		if flush {
			_ = http.NewResponseController(w).Flush()
		}
		panic(p)
	}
}

var endBehaviours = []behaviour{
	{name: "panic at once", differs: "A panic before", handler: endsWith("reason", false, "", "")},
	{name: "panic after a write", differs: "A panic before", handler: endsWith("reason", false, "", "begun")},
	{name: "abort at once", differs: "A panic before", handler: endsWith(http.ErrAbortHandler, false, "", "")},
	{name: "panic in a stream with a length", length: true, handler: endsWith("reason", true, "10", "begun")},
	{name: "abort in a stream with a length", length: true, handler: endsWith(http.ErrAbortHandler, true, "10", "begun")},
	{name: "panic in a stream without a length", differs: "A streamed response without a `Content-Length`", handler: endsWith("reason", true, "", "begun")},
	{name: "abort in a stream without a length", differs: "A streamed response without a `Content-Length`", handler: endsWith(http.ErrAbortHandler, true, "", "begun")},
	{name: "panic behind a complete body", length: true, handler: endsWith("reason", true, "5", "begun")},
}

// handlerBehaviours are those of handlers that others wrote.
func handlerBehaviours(t *testing.T) []behaviour {
	t.Helper()
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("then") {
		case "die":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, strings.Repeat("x", 500))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "die in chunks":
			_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Behind", r.Header.Get("X-Probe"))
		n, err := io.Copy(w, r.Body)
		fmt.Fprintf(w, "%s %d %v", r.Method, n, err)
	}))
	behind.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(behind.Close)
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.URL.Path = "/" },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a.txt", []byte("file of text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir+"/a.txt", time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	serve := func(h http.Handler) func(http.ResponseWriter, *http.Request, noting) {
		return func(w http.ResponseWriter, r *http.Request, note noting) {
			defer func() {
				if p := recover(); p != nil {
					note("panic: %v", p)
					panic(p)
				}
			}()
			h.ServeHTTP(w, r)
		}
	}
	digits := strings.Repeat("0123456789", 10_000)
	content := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "digits.txt", time.Unix(1e9, 0), strings.NewReader(digits))
	}))
	files := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/" + r.PathValue("file")
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	return []behaviour{
		{name: "content", length: true, handler: content},
		{name: "content of a HEAD", method: "HEAD", length: true, handler: content},
		{name: "content of a HEAD, route with GET", route: "GET", method: "HEAD", length: true, handler: content},
		{name: "range", length: true, header: []string{"Range: bytes=10-29"}, handler: content},
		{name: "large range", length: true, header: []string{"Range: bytes=5-"}, handler: content},
		{name: "last bytes", length: true, header: []string{"Range: bytes=-7"}, handler: content},
		{name: "impossible range", length: true, header: []string{"Range: bytes=200000-"}, handler: content},
		{name: "range if unchanged", header: []string{"Range: bytes=0-1", "If-Range: Sat, 01 Jan 2000 00:00:00 GMT"}, handler: content},
		{name: "not modified", length: true, header: []string{"If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"}, handler: content},
		{name: "modified", header: []string{"If-Modified-Since: Sat, 08 Sep 2001 01:46:40 GMT"}, handler: content},
		{name: "precondition that fails", header: []string{"If-Unmodified-Since: Sat, 08 Sep 2001 01:46:40 GMT"}, handler: content},
		{name: "file", path: "/:file", target: "/a.txt", length: true, handler: files},
		{name: "file of a HEAD", path: "/:file", target: "/a.txt", route: "GET", method: "HEAD", length: true, handler: files},
		{name: "file that is not there", path: "/:file", target: "/b.txt", handler: files},
		{name: "not found", handler: serve(http.NotFoundHandler())},
		{name: "error", handler: serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "99")
			http.Error(w, "gone", http.StatusGone)
		}))},
		{name: "redirect", handler: serve(http.RedirectHandler("/elsewhere?x=1", http.StatusFound))},
		{name: "redirect of a HEAD", method: "HEAD", handler: serve(http.RedirectHandler("/elsewhere", http.StatusMovedPermanently))},
		{name: "timeout that does not pass", handler: serve(http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "in time")
		}), time.Minute, "too late"))},
		{name: "timeout that passes", handler: serve(http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), time.Millisecond, "<html>too late"))},
		{name: "limit of a body", method: "POST", body: "0123456789", handler: serve(http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			fmt.Fprint(w, errorKind(err))
		}), 5))},
		{name: "multiplexer", path: "/:name", target: "/ada%20b", handler: serve(func() http.Handler {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /{prefix}/{user}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", r.PathValue("user")) })
			return mux
		}())},
		{name: "JSON of an encoder", handler: serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"a": 1, "b": "<é>"})
		}))},
		{name: "proxy", header: []string{"X-Probe: p"}, handler: serve(proxy)},
		{name: "proxy of a body", method: "POST", body: strings.Repeat("x", 200_000), handler: serve(proxy)},
		{name: "proxy of a HEAD", method: "HEAD", header: []string{"X-Probe: p"}, handler: serve(proxy)},
		{name: "proxy whose server dies", target: "?then=die", length: true, handler: serve(proxy)},
		{name: "proxy whose server dies in chunks", target: "?then=die+in+chunks", differs: "A streamed response without a `Content-Length`", handler: serve(proxy)},
	}
}
