package iii_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// mounted serves h on a route of a development engine and returns the engine's
// HTTP address.
func mounted(t *testing.T, method, path string, h http.Handler, opts ...iii.Option) string {
	t.Helper()
	e := iiitest.Start(t)
	c, err := iii.New(e.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.MountHTTP(method, path, h); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e.HTTPURL()
}

// answer is what a client sees of a response.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// fetch makes a request and keeps the headers that a handler decides about.
func fetch(t *testing.T, base, method, target, contentType, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("X-Probe", "p 1")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		resp.Header.Del("Content-Type") // the engine adds one
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body of %s %s: %v", method, target, err)
	}
	header := http.Header{}
	for name, values := range resp.Header {
		switch name {
		case "Date", "Content-Length", "Vary", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Connection", "Transfer-Encoding":
		default:
			header[name] = values
		}
	}
	return answer{resp.StatusCode, header, string(b)}
}

// A mounted handler answers as the same handler does under net/http's server.
func TestMountedHandlerAnswersAsUnderNetHTTP(t *testing.T) {
	binary := bytes.Repeat([]byte{0, 0xff, 0xfe, 'x'}, 1000)
	for _, test := range []struct {
		name, method, path, target string
		contentType, body          string
		handler                    http.HandlerFunc
	}{
		{name: "path, query and headers", method: "GET", path: "/items/:id/parts/:part", target: "/items/a%20b/parts/%C3%B6?q=1&r=x%26y",
			handler: func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintln(w, r.Method, r.URL.Path, r.URL.EscapedPath(), r.PathValue("id"), r.PathValue("part"), r.URL.Query().Get("q"), r.FormValue("r"), r.Header.Get("X-Probe"), r.ContentLength)
			}},
		{name: "JSON body, byte by byte", method: "POST", path: "/echo", target: "/echo", contentType: "application/json", body: "{ \"b\": 1,\n \"a\": 1e3 }",
			handler: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
				_, _ = io.Copy(w, r.Body)
			}},
		{name: "large body", method: "POST", path: "/echo", target: "/echo", contentType: "application/octet-stream", body: strings.Repeat("0123456789abcdef", 200_000),
			handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }},
		{name: "form", method: "POST", path: "/form", target: "/form?a=q", contentType: "application/x-www-form-urlencoded", body: "a=1&b=two+words",
			handler: func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintln(w, r.PostFormValue("a"), r.FormValue("b"))
			}},
		{name: "body that is not read", method: "POST", path: "/p", target: "/p", body: "ignored", handler: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") }},
		{name: "binary", method: "GET", path: "/b", target: "/b", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(binary) }},
		{name: "sniffed HTML", method: "GET", path: "/h", target: "/h", handler: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html><body>hi") }},
		{name: "cookies", method: "GET", path: "/c", target: "/c", handler: func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "1", Path: "/"})
			http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, "made")
		}},
		{name: "flushed", method: "GET", path: "/f", target: "/f", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Early", "yes")
			w.WriteHeader(http.StatusAccepted)
			w.Header().Set("X-Late", "no")
			fmt.Fprint(w, "one ")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "two")
		}},
		{name: "flushed before the first byte", method: "GET", path: "/f", target: "/f", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_ = http.NewResponseController(w).Flush()
			fmt.Fprint(w, "body")
		}},
		{name: "no content", method: "DELETE", path: "/d", target: "/d", handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		{name: "redirect", method: "GET", path: "/r", target: "/r", handler: http.RedirectHandler("/elsewhere?x=1", http.StatusFound).ServeHTTP},
		{name: "not found", method: "GET", path: "/n", target: "/n", handler: http.NotFound},
		{name: "status twice", method: "GET", path: "/s", target: "/s", handler: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			w.WriteHeader(http.StatusOK)
			fmt.Fprint(w, "short and stout")
		}},
		{name: "HEAD", method: "HEAD", path: "/e", target: "/e", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Head", "1")
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "not sent")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			pattern := test.path
			for name := range map[string]bool{"id": true, "part": true} {
				pattern = strings.ReplaceAll(pattern, ":"+name, "{"+name+"}")
			}
			mux.Handle(test.method+" "+pattern, test.handler)
			native := httptest.NewServer(mux)
			defer native.Close()
			want := fetch(t, native.URL, test.method, test.target, test.contentType, test.body)
			got := fetch(t, mounted(t, test.method, test.path, test.handler), test.method, test.target, test.contentType, test.body)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-net/http +mounted):\n%s", diff)
			}
		})
	}
}

func TestMountedHandlerThatWritesNothingEnds(t *testing.T) {
	base := mounted(t, "GET", "/nothing", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	got := fetch(t, base, "GET", "/nothing", "", "")
	if got.Status != http.StatusOK || got.Body != "" {
		t.Errorf("answer = %+v, want an empty 200", got)
	}
}

func TestMountedHandlerThatPanics(t *testing.T) {
	var log lockedBuffer
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret reason") })
	base := mounted(t, "GET", "/panic", h, iii.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	got := fetch(t, base, "GET", "/panic", "", "")
	if got.Status != http.StatusInternalServerError || strings.Contains(got.Body, "secret") {
		t.Errorf("answer = %+v, want a 500 without the reason", got)
	}
	if text := log.String(); !strings.Contains(text, "secret reason") || !strings.Contains(text, "mount_test.go") {
		t.Errorf("the log has no reason and stack:\n%s", text)
	}
}

// The head reaches the client with the first flush, before there is a body.
func TestMountedFlushSendsTheHead(t *testing.T) {
	answered := make(chan struct{})
	base := mounted(t, "GET", "/slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Early", "yes")
		_ = http.NewResponseController(w).Flush()
		<-answered
		fmt.Fprint(w, "late")
	}))
	resp, err := http.Get(base + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(answered)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("X-Early"); got != "yes" || string(body) != "late" {
		t.Errorf("X-Early is %q, the body %q", got, body)
	}
}

// Events reach the client while the handler still runs, and a client that leaves
// ends the request's context.
func TestMountedServerSentEvents(t *testing.T) {
	gone := make(chan struct{})
	next := make(chan string)
	base := mounted(t, "GET", "/events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		flush := http.NewResponseController(w).Flush
		for {
			select {
			case event := <-next:
				fmt.Fprintf(w, "data: %s\n\n", event)
				_ = flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	}))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "GET", base+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { next <- "early" }() // the head comes with the first event
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, event := range []string{"early", "one", "two"} {
		if event != "early" {
			next <- event
		}
		if !lines.Scan() || lines.Text() != "data: "+event {
			t.Fatalf("line = %q, %v; want event %s", lines.Text(), lines.Err(), event)
		}
		lines.Scan()
	}
	leave()
	for i := 0; ; i++ { // the engine notices at a later frame
		select {
		case <-gone:
			return
		case next <- fmt.Sprint(i):
		}
	}
}

// HEAD reaches the handler of GET, unless it has one of its own, whichever was mounted
// first.
func TestMountedGetServesHead(t *testing.T) {
	answers := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Answer", text+" "+r.Pattern) })
	}
	type route struct{ method, text string }
	for _, test := range []struct {
		name   string
		routes []route
		give   int // takes the route at this place back; 0: none
		want   string
	}{
		{"GET", []route{{"GET", "get"}}, 0, "get GET /x"},
		{"default method", []route{{"", "get"}}, 0, "get GET /x"},
		{"GET, then HEAD", []route{{"GET", "get"}, {"HEAD", "head"}}, 0, "head HEAD /x"},
		{"HEAD, then GET", []route{{"HEAD", "head"}, {"GET", "get"}}, 0, "head HEAD /x"},
		{"default method, then HEAD", []route{{"", "get"}, {"HEAD", "head"}}, 0, "head HEAD /x"},
		{"GET taken back", []route{{"POST", "post"}, {"GET", "get"}}, 1, ""},
		{"POST", []route{{"POST", "post"}}, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := iiitest.Start(t)
			c, err := iii.New(e.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for i, r := range test.routes {
				f, err := c.MountHTTP(r.method, "/x", answers(r.text))
				if err != nil {
					t.Fatal(err)
				}
				if test.give > 0 && test.give == i {
					if err := f.Unregister(); err != nil {
						t.Error(err)
					}
				}
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := fetch(t, e.HTTPURL(), "HEAD", "/x", "", "")
			if answer := got.Header.Get("X-Answer"); answer != test.want || (test.want == "") != (got.Status >= 400) {
				t.Errorf("HEAD is answered with %d by %q, want %q", got.Status, answer, test.want)
			}
		})
	}
}

// A handler that ends its goroutine ends a stream.
func TestMountedHandlerThatExits(t *testing.T) {
	base := mounted(t, "GET", "/exit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		_ = http.NewResponseController(w).Flush()
		runtime.Goexit()
	}))
	if got := fetch(t, base, "GET", "/exit", "", ""); got.Body != "begun" {
		t.Errorf("answer = %+v", got)
	}
}

// Frameworks ask the writer whether the client has left.
func TestMountedCloseNotify(t *testing.T) {
	told := make(chan struct{})
	base := mounted(t, "GET", "/events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gone := w.(interface{ CloseNotify() <-chan bool }).CloseNotify()
		_ = http.NewResponseController(w).Flush()
		<-gone
		close(told)
	}), iii.WithStreamHeartbeat(time.Millisecond))
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	<-told
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
