package iii_test

import (
	"bufio"
	"bytes"
	gocmp "cmp"
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// mounted serves h on a route of a new development engine and returns the engine's HTTP
// address.
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

// response is an HTTP response without the headers that a handler cannot control.
type response struct {
	Status int
	Header http.Header
	Body   string
}

func fetch(t *testing.T, base, method, target, contentType, body string) response {
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
		resp.Header.Del("Content-Type") // added by the engine
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
	return response{resp.StatusCode, header, string(b)}
}

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

// The first Flush sends the header, even without a body.
func TestMountedFlushSendsTheHeader(t *testing.T) {
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

// Events arrive while the handler is still running. When the client disconnects, the request's
// context is canceled.
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
	go func() { next <- "early" }() // the header arrives with the first event
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
	for i := 0; ; i++ { // the engine notices only at a later frame
		select {
		case <-gone:
			return
		case next <- fmt.Sprint(i):
		}
	}
}

// The handler for GET also serves HEAD, unless HEAD has its own handler. The order of
// registration does not matter.
func TestMountedGetServesHead(t *testing.T) {
	answers := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Answer", text+" "+r.Pattern) })
	}
	type route struct{ method, text string }
	for _, test := range []struct {
		name   string
		routes []route
		give   int // index of the route to unregister; 0 means none
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
				t.Errorf("HEAD: status %d from %q, want %q", got.Status, answer, test.want)
			}
		})
	}
}

// The handler of a mounted GET route, or of a router, serves HEAD exactly while the client has
// no other HEAD route for the path. This holds for routes registered
// before and after the client connects, and after a reconnect.
func TestMountedGetServesHeadWithoutOtherRoute(t *testing.T) {
	type site struct {
		*iii.Client
		t      *testing.T
		remove map[string]func() error
	}
	answers := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Answer", name) })
	}
	type step func(s *site)
	mount := func(name, method, path string, opts ...iii.FunctionOption) step {
		return func(s *site) {
			f, err := s.MountHTTP(method, path, answers(name), opts...)
			if err != nil {
				s.t.Fatal(err)
			}
			s.remove[name] = f.Unregister
		}
	}
	typed := func(name, path string) step {
		return func(s *site) {
			f, err := iii.HandleHTTP(s.Client, "HEAD", path, func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
				return &iii.HTTPResponse[string]{StatusCode: 200, Headers: map[string]string{"X-Answer": name}}, nil
			})
			if err != nil {
				s.t.Fatal(err)
			}
			s.remove[name] = f.Unregister
		}
	}
	trigger := func(name, path string) step {
		return func(s *site) {
			if _, err := s.HandleFunc(name, func(context.Context, json.RawMessage) (any, error) {
				return map[string]any{"status_code": 200, "headers": map[string]string{"X-Answer": name}, "body": ""}, nil
			}); err != nil {
				s.t.Fatal(err)
			}
			trigger, err := s.Trigger(name, iii.HTTPTriggerConfig{HTTPMethod: "HEAD", APIPath: path})
			if err != nil {
				s.t.Fatal(err)
			}
			s.remove[name] = trigger.Unregister
		}
	}
	router := func(name, prefix string) step {
		return func(s *site) {
			r, err := s.MountRouter(prefix, answers(name), iii.RouterOptions{})
			if err != nil {
				s.t.Fatal(err)
			}
			s.remove[name] = r.Unregister
		}
	}
	withID := func(id string) iii.FunctionOption { return iii.WithTriggerOptions(iii.WithTriggerID(id)) }
	fails := func(method, path, id string) step {
		return func(s *site) {
			if _, err := s.MountHTTP(method, path, answers("failed"), withID(id)); err == nil {
				s.t.Errorf("%s %s is mounted with an id that is in use", method, path)
			}
		}
	}
	remove := func(name string) step {
		return func(s *site) {
			if err := s.remove[name](); err != nil {
				s.t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, test := range []struct {
		name  string
		steps []step
		want  string // name of the handler that serves HEAD /x/1; "" means none
	}{
		{"GET alone", []step{mount("get", "GET", "/x/1")}, "get"},
		{"HEAD mounted", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1")}, "head"},
		{"HEAD mounted, then unregistered", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("head")}, "get"},
		{"HEAD mounted twice, unregistered twice", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("head"), mount("again", "HEAD", "/x/1"), remove("again")}, "get"},
		{"HEAD mounted first, then unregistered", []step{mount("head", "HEAD", "/x/1"), mount("get", "GET", "/x/1"), remove("head")}, "get"},
		{"HEAD unregistered before GET is mounted", []step{mount("head", "HEAD", "/x/1"), remove("head"), mount("get", "GET", "/x/1")}, "get"},
		{"typed HEAD", []step{mount("get", "GET", "/x/1"), typed("head", "/x/1")}, "head"},
		{"typed HEAD, unregistered", []step{mount("get", "GET", "/x/1"), typed("head", "/x/1"), remove("head")}, "get"},
		{"HEAD by a trigger", []step{mount("get", "GET", "/x/1"), trigger("head", "/x/1")}, "head"},
		{"HEAD by a trigger, before", []step{trigger("head", "/x/1"), mount("get", "GET", "/x/1")}, "head"},
		{"HEAD by a trigger, unregistered", []step{mount("get", "GET", "/x/1"), trigger("head", "x/1"), remove("head")}, "get"},
		{"HEAD twice, one unregistered", []step{mount("get", "GET", "/x/1"), trigger("other", "/x/1"), mount("head", "HEAD", "/x/1"), remove("other")}, "head"},
		{"HEAD not mounted, because its id is in use", []step{mount("other", "POST", "/x/1", withID("id")), mount("get", "GET", "/x/1"), fails("HEAD", "/x/1", "id")}, "get"},
		{"id kept", []step{mount("get", "GET", "/x/1", withID("id")), mount("head", "HEAD", "/x/1"), remove("head")}, "get"},
		{"GET unregistered", []step{mount("get", "GET", "/x/1"), remove("get")}, ""},
		{"GET unregistered while HEAD is mounted", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("get")}, "head"},
		{"both unregistered, GET first", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("get"), remove("head")}, ""},
		{"both unregistered, HEAD first", []step{mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("head"), remove("get")}, ""},
		{"parameter", []step{mount("get", "GET", "/x/:n"), mount("head", "HEAD", "/x/:n"), remove("head")}, "get"},
		{"parameter with another name, which the engine rejects", []step{mount("get", "GET", "/x/:n"), mount("head", "HEAD", "/x/:m")}, "get"},
		{"parameter with another name, unregistered", []step{mount("get", "GET", "/x/:n"), mount("head", "HEAD", "/x/:m"), remove("head")}, "get"},
		{"parameter with another name, alone", []step{mount("get", "GET", "/x/:n"), mount("head", "HEAD", "/x/:m"), remove("get")}, "head"},
		{"parameter with another name, before GET", []step{mount("head", "HEAD", "/x/:m"), mount("get", "GET", "/x/:n"), remove("head")}, "get"},
		{"literal beside a parameter", []step{mount("get", "GET", "/x/:n"), mount("head", "HEAD", "/x/1")}, "head"},
		{"router", []step{router("router", "/x/1")}, "router"},
		{"HEAD of a router's prefix", []step{router("router", "/x/1"), mount("head", "HEAD", "/x/1")}, "head"},
		{"HEAD of a router's prefix, before", []step{mount("head", "HEAD", "/x/1"), router("router", "/x/1")}, "head"},
		{"HEAD of a router's prefix, unregistered", []step{mount("head", "HEAD", "/x/1"), router("router", "/x/1"), remove("head")}, "router"},
		{"router unregistered while HEAD is mounted", []step{mount("head", "HEAD", "/x/1"), router("router", "/x/1"), remove("router")}, "head"},
		{"router and HEAD unregistered", []step{mount("head", "HEAD", "/x/1"), router("router", "/x/1"), remove("router"), remove("head")}, ""},
		{"GET below a router", []step{router("router", "/x"), mount("get", "GET", "/x/1"), mount("head", "HEAD", "/x/1"), remove("head"), remove("get")}, "router"},
	} {
		for _, when := range []string{"connected", "before", "in between"} {
			t.Run(test.name+"/"+when, func(t *testing.T) {
				generations(t, func(t *testing.T, e *iiitest.Engine) {
					w := &wire{engine: e}
					c := newWorker(t, e, iii.WithDialContext(w.dial))
					s := &site{c, t, map[string]func() error{}}
					if when == "connected" {
						mustConnect(t, c)
					}
					for i, step := range test.steps {
						if i == len(test.steps)-1 && when == "in between" {
							mustConnect(t, c)
							synctest.Wait()
						}
						step(s)
						if when == "connected" {
							time.Sleep(5 * time.Second) // the engine has responded, and what it rejected has been retried
						}
					}
					if when == "before" {
						mustConnect(t, c)
					}
					check := func(when string) {
						t.Helper()
						status, _, header := request(t, e, "HEAD", "/x/1", "", "")
						if got := header.Get("X-Answer"); got != test.want || (test.want == "") != (status >= 400) {
							t.Errorf("%s: HEAD: status %d from %q, want %q", when, status, got, test.want)
						}
					}
					for i := range 20 {
						time.Sleep(500 * time.Millisecond)
						check(fmt.Sprintf("round %d", i))
					}
					w.cut()
					time.Sleep(10 * time.Second)
					check("after a reconnect")
				})
			})
		}
	}
}

// A GET and a HEAD route may be mounted at the same time.
func TestMountGetAndHeadConcurrently(t *testing.T) {
	e := iiitest.Start(t)
	c := connect(t, e)
	for i := range 50 {
		path := fmt.Sprintf("/x%d", i)
		routes := map[string]*iii.Function{}
		var mu sync.Mutex
		var mounting sync.WaitGroup
		for _, method := range []string{"GET", "HEAD"} {
			mounting.Go(func() {
				f, err := c.MountHTTP(method, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Answer", method) }))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				routes[method] = f
			})
		}
		mounting.Wait()
		if t.Failed() {
			return
		}
		given := []string{"HEAD", "GET"}[i%2]
		if err := routes[given].Unregister(); err != nil {
			t.Fatal(err)
		}
		if err := c.Call(t.Context(), "engine::workers::list", struct{}{}, nil); err != nil { // the engine has handled the messages above
			t.Fatal(err)
		}
		want := map[string]string{"GET": "HEAD", "HEAD": "GET"}[given]
		if got := fetch(t, e.HTTPURL(), "HEAD", path, "", "").Header.Get("X-Answer"); got != want {
			t.Errorf("HEAD %s without the %s route is served by %q, want %q", path, given, got, want)
		}
	}
}

// Once a handler has begun to stream, the invocation has no other result, even if the handler
// exits or its middleware fails. The engine would use an error in place of the response if it
// received the error before the first frame.
func TestStreamedResponseIsTheOnlyResult(t *testing.T) {
	stream := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		_ = http.NewResponseController(w).Flush()
	}
	after := func(fail func() (any, error)) iii.Option {
		return iii.WithMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
			return func(ctx context.Context, payload json.RawMessage) (any, error) {
				if result, err := next(ctx, payload); result != nil || err != nil {
					return result, err
				}
				return fail()
			}
		})
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		opts    []iii.Option
	}{
		{"returns", stream, nil},
		{"exits", func(w http.ResponseWriter, r *http.Request) { stream(w, r); runtime.Goexit() }, nil},
		{"middleware exits", stream, []iii.Option{after(func() (any, error) { runtime.Goexit(); return nil, nil })}},
		{"middleware panics", stream, []iii.Option{after(func() (any, error) { panic("audit") })}},
		{"middleware fails", stream, []iii.Option{after(func() (any, error) { return nil, errors.New("audit") })}},
		{"middleware returns a result", stream, []iii.Option{after(func() (any, error) { return iii.HTTPResponse[string]{StatusCode: 503}, nil })}},
	} {
		t.Run(test.name, func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				c, err := iii.New(e.URL(), append(test.opts, iii.WithDialContext(e.DialContext))...)
				if err != nil {
					t.Fatal(err)
				}
				f, err := c.MountHTTP("GET", "/x", test.handler)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				client := http.Client{Transport: &http.Transport{DialContext: e.DialContext}}
				defer client.CloseIdleConnections()
				resp, err := client.Get(e.HTTPURL() + "/x")
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "begun" || err != nil {
					t.Errorf("answer = %d %q, %v", resp.StatusCode, body, err)
				}
				if err := c.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				results := 0
				for _, frame := range e.Frames() {
					var m struct {
						Type       string
						FunctionID string `json:"function_id"`
						Result     any
						Error      any
					}
					if err := json.Unmarshal(frame.Message, &m); err != nil || m.Type != "invocationresult" || m.FunctionID != f.ID() {
						continue
					}
					results++
					if m.Result != nil || m.Error != nil {
						t.Errorf("the result is %s", frame.Message)
					}
				}
				if results == 0 {
					t.Error("no result")
				}
			})
		})
	}
}

// Some frameworks still use http.CloseNotifier to detect a disconnected client.
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

// lockedBuffer is a bytes.Buffer that is safe for concurrent use.
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

// routeCall calls a route's function as the engine would, over channels created by the test.
type routeCall struct {
	client *iii.Client
	id     string
	body   *iii.ChannelWriter // request body
	answer *iii.ChannelReader // response body
	in     iii.HTTPRequest[json.RawMessage]
}

func newRouteCall(t *testing.T, method, path string, h http.Handler) *routeCall {
	t.Helper()
	return newRouteCallTo(t, iiitest.Start(t), method, path, h)
}

func newRouteCallTo(t *testing.T, e *iiitest.Engine, method, path string, h http.Handler, opts ...iii.Option) *routeCall {
	t.Helper()
	c, err := iii.New(e.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f, err := c.MountHTTP(method, path, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	w, bodyReader, err := c.CreateChannel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answerWriter, r, err := c.CreateChannel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bodyRef, answerRef := bodyReader.Ref(), answerWriter.Ref()
	return &routeCall{client: c, id: f.ID(), body: w, answer: r,
		in: iii.HTTPRequest[json.RawMessage]{Method: method, Path: path, RequestBody: &bodyRef, Response: &answerRef}}
}

func (r *routeCall) result(t *testing.T) any {
	t.Helper()
	result, err := iii.Call[any](t.Context(), r.client, r.id, r.in)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// After the handler has returned, goroutines that it started cannot read the body.
func TestMountedBodyReadAfterTheHandler(t *testing.T) {
	reading, read := make(chan struct{}), make(chan error, 1)
	call := newRouteCall(t, "POST", "/forward", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		go func() {
			var one [1]byte
			_, err := r.Body.Read(one[:])
			close(reading)
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
			}
			read <- err
		}()
		<-reading
	}))
	call.in.Headers = map[string]string{"transfer-encoding": "chunked"}
	if _, err := call.body.Write([]byte("begun")); err != nil {
		t.Fatal(err)
	}
	call.result(t)
	if err := <-read; !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("Read after the handler has returned = %v, want %v", err, http.ErrBodyReadAfterClose)
	}
}

func TestMountedBodyThatIsCutShort(t *testing.T) {
	for _, test := range []struct {
		name    string
		headers map[string]string
		want    error
	}{
		{"shorter than declared", map[string]string{"content-length": "10"}, io.ErrUnexpectedEOF},
		{"as long as declared", map[string]string{"content-length": "5"}, nil},
		{"no length", map[string]string{"transfer-encoding": "chunked"}, nil},
		{"JSON", map[string]string{"content-length": "10", "content-type": "application/json"}, io.ErrUnexpectedEOF},
		{"encoded, which may be delivered decoded", map[string]string{"content-length": "10", "content-encoding": "gzip"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan error, 1)
			call := newRouteCall(t, "POST", "/upload", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				got <- err
			}))
			call.in.Headers = test.headers
			if _, err := call.body.Write([]byte("12345")); err != nil {
				t.Fatal(err)
			}
			if err := call.body.Close(); err != nil {
				t.Fatal(err)
			}
			call.result(t)
			if err := <-got; !errors.Is(err, test.want) {
				t.Errorf("reading the body: %v, want %v", err, test.want)
			}
		})
	}
}

// Uploaded files are removed once the handler has returned.
func TestMountedFormFilesAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("TMP", os.TempDir())
	name := ""
	base := mounted(t, "POST", "/form", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(0); err != nil {
			t.Error(err)
		}
		file, _, err := r.FormFile("photo")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		f, ok := file.(*os.File)
		if !ok {
			t.Fatalf("the file is a %T, not one on disk", file)
		}
		name = f.Name()
	}))
	if got := fetch(t, base, "POST", "/form", strings.TrimPrefix(multipartType, "Content-Type: "), multipartBody()); got.Status != http.StatusOK {
		t.Fatalf("answer = %+v", got)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after the response: %v, want that it does not exist", name, err)
	}
}

// Headers that the engine cannot send are logged, without their values.
func TestMountedHeadersThatAreNotSentAreLogged(t *testing.T) {
	flush := func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
	for _, test := range []struct {
		name    string
		handler func(w http.ResponseWriter)
		want    []string // substrings of the log
	}{
		{"nothing", func(w http.ResponseWriter) { http.SetCookie(w, &http.Cookie{Name: "a", Value: "secret"}); flush(w) }, nil},
		{"name", func(w http.ResponseWriter) { w.Header()["a b"] = []string{"secret"} }, []string{"not sent", `header="a b"`}},
		{"value", func(w http.ResponseWriter) { w.Header().Set("X-A", "secret\x01") }, []string{"not sent", "header=X-A"}},
		{"value of a stream", func(w http.ResponseWriter) { w.Header().Set("X-A", "secret\xff"); flush(w) }, []string{"not sent", "header=X-A"}},
		{"length", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "secret"); w.WriteHeader(200) }, []string{"not sent", "header=Content-Length"}},
		{"trailer", func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-Sum") }, []string{"trailers"}},
		{"unannounced trailer", func(w http.ResponseWriter) {
			w.Header().Set(http.TrailerPrefix+"X-Sum", "secret")
			flush(w)
		}, []string{"trailers"}},
		{"more cookies than there are names", func(w http.ResponseWriter) {
			for i := range 600 {
				http.SetCookie(w, &http.Cookie{Name: fmt.Sprint("c", i), Value: "secret"})
			}
			flush(w)
		}, []string{"not sent", "header=Set-Cookie", "512 cookies, not 600"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text lockedBuffer
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				test.handler(w)
				fmt.Fprint(w, "ok")
			})
			got := fetch(t, mounted(t, "GET", "/h", h, iii.WithLogger(slog.New(slog.NewTextHandler(&text, nil)))), "GET", "/h", "", "")
			if got.Status != http.StatusOK || got.Body != "ok" {
				t.Errorf("answer = %+v", got)
			}
			lines := text.String()
			for _, want := range append(test.want, "route=") {
				if len(test.want) > 0 && !strings.Contains(lines, want) {
					t.Errorf("%q is not in the log:\n%s", want, lines)
				}
			}
			if len(test.want) == 0 && strings.Contains(lines, "sent") || strings.Contains(lines, "secret") {
				t.Errorf("log:\n%s", lines)
			}
			if names := len(got.Header["Set-Cookie"]); strings.HasPrefix(test.name, "more") && names != 512 {
				t.Errorf("%d cookies arrived", names)
			}
		})
	}
}

// The result of a mounted handler contains everything that the engine would otherwise add.
func TestMountedResults(t *testing.T) {
	plain := "Content-Type: text/plain; charset=utf-8"
	result := func(status int, body any, headers ...any) any {
		return map[string]any{"status_code": float64(status), "body": body, "headers": headers}
	}
	for _, test := range []struct {
		name, method string
		params       map[string]string
		handler      http.HandlerFunc
		want         any
	}{
		{name: "204", handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }, want: result(204, nil, plain)},
		{name: "content type suppressed", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			fmt.Fprint(w, "text")
		}, want: result(200, "text", plain)},
		{name: "framing and line breaks", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Transfer-Encoding", "identity")
			w.Header().Set("Content-Length", "many")
			w.Header().Set("X-Lines", "a\r\nb")
			fmt.Fprint(w, "text")
		}, want: result(200, "text", plain, "X-Lines: a  b")},
		{name: "framing in small letters", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header()["transfer-encoding"] = []string{"chunked"}
			w.Header()["content-length"] = []string{"+4"}
			w.Header()["content-type"] = []string{"text/css"}
			w.Header()["trailer"] = []string{"X-Sum"}
			fmt.Fprint(w, "text")
		}, want: result(200, "text", "Content-Type: text/css")},
		{name: "HEAD, declared twice", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header()["content-length"] = []string{"+4"}
			w.Header()["Content-Length"] = []string{"004", "4"}
		}, want: result(200, nil, "Content-Length: 4", plain)},
		{name: "more than declared", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			_, _ = io.WriteString(w, "four")
			if _, err := io.WriteString(w, "five"); !errors.Is(err, http.ErrContentLength) {
				t.Errorf("a write above the length: %v, want %v", err, http.ErrContentLength)
			}
		}, want: result(200, "four", plain)},
		{name: "HEAD, counted", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "twelve bytes") },
			want: result(200, nil, "Content-Length: 12", plain)},
		{name: "HEAD, declared", method: "HEAD", handler: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "4096") },
			want: result(200, nil, "Content-Length: 4096", plain)},
		{name: "parameter that is no text", params: map[string]string{"id": "%zz"}, handler: http.NotFound,
			want: result(400, "path parameter id is not percent-encoded: invalid URL escape \"%zz\"\n", plain)},
	} {
		t.Run(test.name, func(t *testing.T) {
			call := newRouteCall(t, gocmp.Or(test.method, "GET"), "/x/:id", test.handler)
			call.in.PathParams = test.params
			got := call.result(t)
			if m, ok := got.(map[string]any); ok {
				if lines, ok := m["headers"].([]any); ok {
					slices.SortFunc(lines, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// A 304 is streamed, because the engine would otherwise add a content type, which the client
// would store in place of the correct one.
func TestMountedNotModifiedIsStreamed(t *testing.T) {
	call := newRouteCall(t, "GET", "/x", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"1"`)
		w.Header().Set("Content-Type", "text/html")
		w.Header()["Vary"] = []string{"A", "B"}
		w.WriteHeader(http.StatusNotModified)
	}))
	if got := call.result(t); got != nil {
		t.Errorf("result = %v, want none", got)
	}
	var got []string
	for m, err := range call.answer.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(m))
	}
	want := []string{`{"status_code":304,"type":"set_status"}`, `{"headers":{"Etag":"\"1\"","Vary":"A, B"},"type":"set_headers"}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("control messages (-want +got):\n%s", diff)
	}
}

func TestMountedHeadSendsContentLength(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "a.txt", time.Unix(1e9, 0), strings.NewReader(strings.Repeat("a", 100_000)))
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, mounted(t, "HEAD", "/a", h)+"/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ContentLength != 100_000 {
		t.Errorf("Content-Length of HEAD is %d, want 100000", resp.ContentLength)
	}
}

// A reverse proxy forwards bodies in both directions. It also copes with a server that
// responds without reading the request body.
func TestMountedReverseProxy(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("refuse") {
			http.Error(w, "not wanted", http.StatusForbidden)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, r.Method, r.URL, n, err)
	}))
	defer behind.Close()
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport}
	base := mounted(t, "POST", "/up/:id", proxy)
	large := strings.Repeat("x", 3<<20)
	for range 5 {
		got := fetch(t, base, "POST", "/up/a%2Fb?q=1", "application/octet-stream", large)
		if want := fmt.Sprintln("POST", "/up/a%2Fb?q=1", len(large), error(nil)); got.Status != http.StatusOK || got.Body != want {
			t.Fatalf("answer = %d %q, want %q", got.Status, got.Body, want)
		}
		// The proxy may find the connection closed before it has read the response.
		if got := fetch(t, base, "POST", "/up/1?refuse", "application/octet-stream", large); got.Status != http.StatusForbidden && got.Status != http.StatusBadGateway {
			t.Fatalf("answer = %+v, want status 403 or 502", got)
		}
	}
}

// site is an engine with one mounted handler. Both run in virtual time.
type site struct {
	engine *iiitest.Engine
	client *iii.Client
	http   *http.Client
	addr   string
}

func newSite(t *testing.T, e *iiitest.Engine, method, path string, h http.Handler, opts ...iii.Option) *site {
	t.Helper()
	c, err := iii.New(e.URL(), append([]iii.Option{iii.WithDialContext(e.DialContext), iii.WithName("site")}, opts...)...)
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
	transport := &http.Transport{DialContext: e.DialContext, MaxIdleConnsPerHost: -1}
	t.Cleanup(transport.CloseIdleConnections)
	return &site{e, c, &http.Client{Transport: transport}, e.HTTPURL()}
}

// visit sends a GET request and waits for the response header.
func (s *site) visit(t *testing.T, path string) *http.Response {
	t.Helper()
	return s.request(t, http.MethodGet, path, nil)
}

func (s *site) request(t *testing.T, method, path string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// waitForEnd returns a handler that opens an event stream and waits until the request's
// context is canceled. It then sends the cause to causes.
func waitForEnd(causes chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		causes <- context.Cause(r.Context())
	}
}

// If the client of an idle stream disconnects, the handler returns within 15 s.
func TestR25IdleStreamEndsWhenItsClientLeaves(t *testing.T) {
	visitors := iii.Scale(100, 1000)
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, visitors)
		s := newSite(t, e, "GET", "/events", waitForEnd(ended), iii.WithMaxConcurrency(visitors))
		var left []*http.Response
		for range visitors {
			left = append(left, s.visit(t, "/events"))
		}
		if n := s.client.Stats().HandlersRunning; n != visitors {
			t.Fatalf("%d handlers are running for %d clients", n, visitors)
		}
		time.Sleep(time.Minute) // streams stay open while their clients are connected
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatalf("the context of a connected client was canceled: %v", <-ended)
		}
		var longest time.Duration
		for _, resp := range left {
			time.Sleep(37 * time.Millisecond) // so that clients leave at different times between two probes
			began := time.Now()
			_ = resp.Body.Close()
			if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) {
				t.Errorf("the context was canceled with %v, want ErrChannelClosed", err)
			}
			longest = max(longest, time.Since(began))
		}
		t.Logf("%d handlers returned, the last %v after its client had disconnected", visitors, longest)
		if longest > 15*time.Second {
			t.Errorf("a handler was still running %v after its client had disconnected", longest)
		}
		synctest.Wait()
		if n := s.client.Stats().HandlersRunning; n != 0 {
			t.Errorf("%d handlers are still running", n)
		}
	})
}

// The worker keeps serving calls after the clients of all streams have disconnected.
func TestR25ClosedTabsDoNotStopAWorker(t *testing.T) {
	const visitors = 5
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, visitors)
		s := newSite(t, e, "GET", "/events", waitForEnd(ended), iii.WithMaxConcurrency(visitors))
		if _, err := iii.Handle(s.client, "hello", func(context.Context, any) (string, error) { return "hi", nil }); err != nil {
			t.Fatal(err)
		}
		var bodies []io.Closer
		for range visitors {
			bodies = append(bodies, s.visit(t, "/events").Body)
		}
		began := time.Now()
		for _, body := range bodies {
			_ = body.Close()
		}
		if _, err := iii.Call[string](t.Context(), s.client, "hello", nil); err != nil {
			t.Errorf("a call after all clients have disconnected: %v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the worker was blocked for %v", took)
		}
	})
}

// A client that does not read holds up its handler until the write deadline, but no longer.
func TestR25StuckClientsDelayHandlersOnlyUntilTheDeadline(t *testing.T) {
	visitors := iii.Scale(100, 1000)
	type end struct {
		after   time.Duration
		err     error
		context error
	}
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan end, visitors)
		// The frames are small so that little data is in transit to each client.
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			flush := http.NewResponseController(w).Flush
			last := time.Now()
			for chunk := make([]byte, 4<<10); err == nil; {
				last = time.Now()
				if _, err = w.Write(chunk); err == nil {
					err = flush()
				}
			}
			ended <- end{time.Since(last), err, context.Cause(r.Context())}
		})
		s := newSite(t, e, "GET", "/all", h, iii.WithMaxConcurrency(visitors))
		for range visitors {
			defer s.visit(t, "/all").Body.Close() // the body is never read
		}
		for range visitors {
			got := <-ended
			if got.after != 30*time.Second || !errors.Is(got.err, os.ErrDeadlineExceeded) || !errors.Is(got.context, os.ErrDeadlineExceeded) {
				t.Errorf("Write returned after %v: %v, the context's cause is %v; want os.ErrDeadlineExceeded after 30 s", got.after, got.err, got.context)
			}
		}
	})
}

// A probe is sent only if nothing has been written for a whole heartbeat interval. The first
// interval starts when the header is sent.
func TestStreamHeartbeat(t *testing.T) {
	type frames struct {
		probes []time.Duration // when each probe arrived
		bytes  string
	}
	seconds := func(s ...int) (d []time.Duration) {
		for _, s := range s {
			d = append(d, time.Duration(s)*time.Second)
		}
		return d
	}
	for _, test := range []struct {
		name    string
		every   time.Duration // -1 means the default
		handler http.HandlerFunc
		want    frames
	}{
		{"idle", -1, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(17 * time.Second)
		}, frames{seconds(5, 10, 15), ""}},
		{"not flushed", -1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "kept")
			time.Sleep(17 * time.Second)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(6 * time.Second)
		}, frames{seconds(22), "kept"}},
		{"busy, then idle", -1, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			for range 5 {
				time.Sleep(3 * time.Second)
				_, _ = io.WriteString(w, "x")
			}
			time.Sleep(7 * time.Second)
			_, _ = io.WriteString(w, "y")
			time.Sleep(4 * time.Second)
		}, frames{seconds(20), "xxxxxy"}},
		{"larger than the buffer", -1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 64<<10+1))
			time.Sleep(6 * time.Second)
		}, frames{seconds(5), strings.Repeat("\x00", 64<<10+1)}},
		{"another interval", time.Minute, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(2*time.Minute + time.Second)
		}, frames{seconds(60, 120), ""}},
		{"never", 0, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
		}, frames{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var opts []iii.Option
			if test.every >= 0 {
				opts = append(opts, iii.WithStreamHeartbeat(test.every))
			}
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				call := newRouteCallTo(t, e, "GET", "/x", test.handler, append(opts, iii.WithCallTimeout(2*time.Hour), iii.WithDialContext(e.DialContext))...)
				began := time.Now()
				var got frames
				var reading sync.WaitGroup
				reading.Go(func() {
					b, err := io.ReadAll(call.answer)
					if err != nil {
						t.Error(err)
					}
					got.bytes = string(b)
				})
				reading.Go(func() {
					for message, err := range call.answer.Messages(t.Context()) {
						switch {
						case err != nil:
							t.Error(err)
						case string(message) == `{"type":"keepalive"}`:
							got.probes = append(got.probes, time.Since(began))
						case !strings.Contains(string(message), `"set_`):
							t.Errorf("message %s", message)
						}
					}
				})
				call.result(t)
				reading.Wait()
				if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(frames{})); diff != "" {
					t.Errorf("frames (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// If a probe cannot be written within the write timeout, the client is not reading, and the
// response ends.
func TestStreamHeartbeatThatIsStuckEndsTheResponse(t *testing.T) {
	const filling = 4<<20 + 256<<10 // almost as much as the engine buffers per client
	for _, test := range []struct {
		name     string
		deadline func(http.ResponseWriter)
		ends     bool
	}{
		{"default", func(http.ResponseWriter) {}, true},
		{"a deadline that has passed", func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		}, true},
		{"no deadline", func(w http.ResponseWriter) { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }, false},
		{"a later deadline", func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(12 * time.Hour))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan error, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					test.deadline(w)
					if _, err := w.Write(make([]byte, filling)); err != nil {
						t.Errorf("Write: %v", err)
					}
					<-r.Context().Done()
					ended <- context.Cause(r.Context())
				})
				opts := []iii.Option{iii.WithStreamHeartbeat(10 * time.Millisecond), iii.WithHTTPWriteTimeout(time.Minute)}
				s := newSite(t, e, "GET", "/fill", h, opts...)
				body := s.visit(t, "/fill").Body
				if !test.ends {
					time.Sleep(time.Hour)
					synctest.Wait()
					if len(ended) > 0 {
						t.Errorf("the context was canceled: %v", <-ended)
					}
					_ = body.Close()
					if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) {
						t.Errorf("the context was canceled with %v, want ErrChannelClosed", err)
					}
					return
				}
				defer body.Close()
				if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the context was canceled with %v, want os.ErrDeadlineExceeded", err)
				}
			})
		})
	}
}

// writeForever writes until Write fails. It then sends the error and the elapsed time to
// results.
func writeForever(w http.ResponseWriter, results chan<- stuck) {
	began := time.Now()
	var err error
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = w.Write(chunk)
	}
	results <- stuck{time.Since(began), err}
}

type stuck struct {
	after time.Duration
	err   error
}

// TestMountedWriteDeadline checks how long a Write blocks if the client does not read.
func TestMountedWriteDeadline(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration // argument of WithHTTPWriteTimeout
		set     []any         // arguments of SetWriteDeadline: times, or durations from now
		during  bool          // call SetWriteDeadline once per second while the handler is writing
		want    time.Duration // 0 means never
	}{
		{name: "default of the program", timeout: 7 * time.Second, want: 7 * time.Second},
		{name: "none", timeout: 0, want: 0},
		{name: "handler's", timeout: time.Second, set: []any{20 * time.Second}, want: 20 * time.Second},
		{name: "handler's without the program's", set: []any{20 * time.Second}, want: 20 * time.Second},
		{name: "handler wants none", timeout: time.Second, set: []any{time.Time{}}, want: 0},
		{name: "handler wants none after all", timeout: time.Second, set: []any{time.Minute, time.Time{}}, want: 0},
		{name: "in the past", timeout: time.Second, set: []any{-time.Second}, want: time.Nanosecond},
		{name: "set during a Write", timeout: time.Hour, during: true, set: []any{3 * time.Second}, want: 4 * time.Second},
		{name: "passed during a Write", timeout: time.Hour, during: true, set: []any{-time.Hour}, want: time.Second},
		{name: "extended during a Write", timeout: time.Hour, during: true, set: []any{3 * time.Second, 9 * time.Second}, want: 11 * time.Second},
		{name: "shortened during a Write", timeout: time.Hour, during: true, set: []any{30 * time.Second, 3 * time.Second}, want: 5 * time.Second},
		{name: "taken away during a Write", timeout: 10 * time.Second, during: true, set: []any{3 * time.Second, time.Time{}}, want: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan stuck, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					set := func() {
						for _, d := range test.set {
							if test.during {
								time.Sleep(time.Second)
							}
							deadline, _ := d.(time.Time)
							if after, ok := d.(time.Duration); ok {
								deadline = time.Now().Add(after)
							}
							if err := http.NewResponseController(w).SetWriteDeadline(deadline); err != nil {
								t.Errorf("SetWriteDeadline: %v", err)
							}
						}
					}
					if test.during {
						var setting sync.WaitGroup
						setting.Go(set)
						defer setting.Wait()
					} else {
						set()
					}
					writeForever(w, ended)
				})
				s := newSite(t, e, "GET", "/big", h, iii.WithHTTPWriteTimeout(test.timeout))
				go func() { // in the background, because the response header may never arrive
					if resp, err := s.http.Get(s.addr + "/big"); err == nil {
						defer resp.Body.Close()
						<-t.Context().Done()
					}
				}()
				if test.want == 0 {
					time.Sleep(time.Hour)
					synctest.Wait()
					select {
					case got := <-ended:
						t.Errorf("Write returned after %v: %v", got.after, got.err)
					default:
						_ = s.client.Close()
						if got := <-ended; got.err == nil {
							t.Error("Close does not unblock the Write")
						}
					}
					return
				}
				if got := <-ended; !errors.Is(got.err, os.ErrDeadlineExceeded) || got.after != test.want.Truncate(time.Second) {
					t.Errorf("Write returned after %v: %v; want os.ErrDeadlineExceeded after %v", got.after, got.err, test.want)
				}
			})
		})
	}
}

// A slow client receives the whole response, even if that takes much longer than the write
// timeout.
func TestMountedSlowReaderIsNotStuck(t *testing.T) {
	const size = 8 << 20
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		wrote := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := w.Write(make([]byte, size))
			wrote <- err
		})
		s := newSite(t, e, "GET", "/big", h)
		body := s.visit(t, "/big").Body
		defer body.Close()
		began := time.Now()
		var got int64
		for {
			n, err := io.CopyN(io.Discard, body, 8<<10)
			if got += n; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := <-wrote; err != nil || got != size {
			t.Errorf("the client read %d of %d bytes in %v, Write = %v", got, size, time.Since(began), err)
		}
	})
}

// As with net/http, a deadline that expires between two writes has no effect. Probes sent in
// the meantime do not change that.
func TestMountedRollingWriteDeadlines(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		for i := range 4 {
			_ = control.SetWriteDeadline(time.Now().Add(2 * time.Second))
			if _, err := fmt.Fprintln(w, i); err != nil {
				t.Errorf("Write %d: %v", i, err)
			}
			if err := control.Flush(); err != nil {
				t.Errorf("Flush %d: %v", i, err)
			}
			time.Sleep(20 * time.Second)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the context was canceled: %v", context.Cause(r.Context()))
			}
		}
	})
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		s := newSite(t, e, "GET", "/rolling", h)
		body := s.visit(t, "/rolling").Body
		defer body.Close()
		if b, err := io.ReadAll(body); err != nil || string(b) != "0\n1\n2\n3\n" {
			t.Errorf("body = %q, %v", b, err)
		}
	})
}

// If a write deadline expires before any part of a buffered response has been sent, later
// writes fail and the client receives a 500.
func TestMountedWriteDeadlineOfABufferedResponse(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler func(w http.ResponseWriter, control *http.ResponseController) error
	}{
		{"Write", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, err := io.WriteString(w, "late")
			return err
		}},
		{"Flush", func(w http.ResponseWriter, control *http.ResponseController) error { return control.Flush() }},
		{"ReadFrom", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, err := io.Copy(w, strings.NewReader("late"))
			return err
		}},
		{"a failed Write is not forgotten", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, _ = io.WriteString(w, "lost")
			_ = control.SetWriteDeadline(time.Time{})
			_, err := io.WriteString(w, "late")
			return err
		}},
		{"nothing is written", func(w http.ResponseWriter, control *http.ResponseController) error { return os.ErrDeadlineExceeded }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				control := http.NewResponseController(w)
				_, _ = io.WriteString(w, "in time ")
				if err := control.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				if err := test.handler(w, control); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("error = %v, want os.ErrDeadlineExceeded", err)
				}
			})
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				s := newSite(t, e, "GET", "/late", h)
				resp := s.visit(t, "/late")
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusInternalServerError {
					t.Errorf("status = %s, want a 500", resp.Status)
				}
			})
		})
	}
}

// The handler has no deadline, and its client does not read. The event in each test case must
// end the blocked Write.
func TestMountedStuckWriteEndsWithItsInvocation(t *testing.T) {
	for _, test := range []struct {
		name   string
		end    func(t *testing.T, s *site)
		within time.Duration
	}{
		{"connection lost", func(t *testing.T, s *site) {
			if !s.engine.Drop("site") {
				t.Error("there is no connection to drop")
			}
		}, 5 * time.Second},
		{"Shutdown that runs out of time", func(t *testing.T, s *site) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := s.client.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown = %v, want its context's error", err)
			}
		}, 3 * time.Second},
		{"Close", func(t *testing.T, s *site) { _ = s.client.Close() }, time.Second},
		{"engine gone", func(t *testing.T, s *site) { _ = s.engine.Close() }, 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan stuck, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
					writeForever(w, ended)
				})
				s := newSite(t, e, "GET", "/big", h, iii.WithHTTPWriteTimeout(0))
				defer s.visit(t, "/big").Body.Close()
				time.Sleep(time.Hour)
				began := time.Now()
				test.end(t, s)
				if got := <-ended; got.err == nil || time.Since(began) > test.within {
					t.Errorf("Write returned after %v: %v", time.Since(began), got.err)
				}
			})
		})
	}
}

// A response continues while the worker reconnects, because the engine keeps the response
// channel open.
func TestMountedStreamOutlivesItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		dropped := make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			for range 5 {
				time.Sleep(3 * time.Second) // longer than the worker takes to reconnect
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
		s := newSite(t, e, "GET", "/big", h)
		go func() {
			defer close(dropped)
			time.Sleep(time.Second)
			if !s.engine.Drop("site") {
				t.Error("there is no connection to drop")
			}
		}()
		body := s.visit(t, "/big").Body
		defer body.Close()
		if n, err := io.Copy(io.Discard, body); err != nil || n != 5<<20 {
			t.Errorf("the client got %d bytes, %v", n, err)
		}
		<-dropped
	})
}

func TestMountedResponseController(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		done := make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			control := http.NewResponseController(w)
			for name, err := range map[string]error{
				"EnableFullDuplex":            control.EnableFullDuplex(),
				"SetReadDeadline, no body":    control.SetReadDeadline(time.Now().Add(-time.Hour)),
				"SetWriteDeadline":            control.SetWriteDeadline(time.Now().Add(time.Hour)),
				"SetWriteDeadline to nothing": control.SetWriteDeadline(time.Time{}),
			} {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if conn, _, err := control.Hijack(); conn != nil || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Hijack = %v, want errors.ErrUnsupported", err)
			}
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read of no body = %d, %v", n, err)
			}
		})
		s := newSite(t, e, "GET", "/c", h)
		defer s.visit(t, "/c").Body.Close()
		<-done
	})
}

// The three parts of the body arrive immediately, after 10 s and after 20 s.
func TestMountedReadDeadline(t *testing.T) {
	read := func(r *http.Request, n int) (string, error) {
		b := make([]byte, n)
		n, err := io.ReadFull(r.Body, b)
		return string(b[:n]), err
	}
	for _, test := range []struct {
		name    string
		handler func(r *http.Request, set func(time.Duration)) (string, error)
		text    string
		err     error
		after   time.Duration
	}{
		{"none", func(r *http.Request, set func(time.Duration)) (string, error) { return read(r, 9) }, "one,two,3", nil, 20 * time.Second},
		{"in the past, before the first Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(-time.Second)
			return read(r, 4)
		}, "", os.ErrDeadlineExceeded, 0},
		{"passes during the first Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(3 * time.Second)
			return read(r, 9)
		}, "one,", os.ErrDeadlineExceeded, 3 * time.Second},
		{"in time", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(11 * time.Second)
			return read(r, 8)
		}, "one,two,", nil, 10 * time.Second},
		{"set during a Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			time.AfterFunc(5*time.Second, func() { set(time.Second) })
			return read(r, 9)
		}, "one,", os.ErrDeadlineExceeded, 6 * time.Second},
		{"moved on during a Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(8 * time.Second)
			time.AfterFunc(5*time.Second, func() { set(10 * time.Second) })
			return read(r, 9)
		}, "one,two,", os.ErrDeadlineExceeded, 15 * time.Second},
		{"with bytes there", func(r *http.Request, set func(time.Duration)) (string, error) {
			first, _ := read(r, 2)
			set(-time.Second)
			rest, err := read(r, 2)
			return first + rest, err
		}, "on", os.ErrDeadlineExceeded, 0},
		{"reset after it has passed", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(3 * time.Second)
			first, err := read(r, 9)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read = %v, want os.ErrDeadlineExceeded", err)
			}
			set(0)
			rest, err := read(r, 5)
			return first + rest, err
		}, "one,two,3", nil, 20 * time.Second},
		{"after the end", func(r *http.Request, set func(time.Duration)) (string, error) {
			all, err := io.ReadAll(r.Body)
			if err != nil {
				return string(all), err
			}
			set(-time.Second)
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read after the end = %d, %v", n, err)
			}
			return string(all), nil
		}, "one,two,3", nil, 20 * time.Second},
	} {
		for _, length := range []int64{9, -1} {
			t.Run(fmt.Sprintf("%s, length %d", test.name, length), func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					done := make(chan struct{})
					h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(done)
						began := time.Now()
						text, err := test.handler(r, func(d time.Duration) {
							deadline := time.Time{}
							if d != 0 {
								deadline = time.Now().Add(d)
							}
							if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil {
								t.Errorf("SetReadDeadline: %v", err)
							}
						})
						if took := time.Since(began); text != test.text || !errors.Is(err, test.err) || took != test.after {
							t.Errorf("read %q, %v after %v; want %q, %v after %v", text, err, took, test.text, test.err, test.after)
						}
						if err := r.Context().Err(); err != nil {
							t.Errorf("the context was canceled: %v", err)
						}
						_ = http.NewResponseController(w).Flush()
						fmt.Fprint(w, "answer")
					})
					s := newSite(t, e, "POST", "/up", h)
					body, send := io.Pipe()
					go func() {
						for i, part := range []string{"one,", "two,", "3"} {
							if i > 0 {
								time.Sleep(10 * time.Second)
							}
							_, _ = io.WriteString(send, part)
						}
						_ = send.Close()
					}()
					req, err := http.NewRequestWithContext(t.Context(), "POST", s.addr+"/up", body)
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = length
					resp, err := s.http.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "answer" {
						t.Errorf("answer = %q, %v", b, err)
					}
					<-done
					time.Sleep(time.Minute) // the rest of the body may still be arriving
				})
			})
		}
	}
}

// A reverse proxy forwards events as they arrive. It learns from the request's context that
// its client has disconnected.
func TestMountedReverseProxyOfEvents(t *testing.T) {
	left := make(chan struct{})
	events := make(chan string)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		_ = control.Flush()
		for {
			select {
			case event := <-events:
				fmt.Fprintln(w, event)
				_ = control.Flush()
			case <-r.Context().Done():
				close(left)
				return
			}
		}
	}))
	defer behind.Close()
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0)}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		proxy.ServeHTTP(w, r)
	})
	base := mounted(t, "GET", "/events", h, iii.WithStreamHeartbeat(10*time.Millisecond))
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for _, event := range []string{"one", "two"} {
		events <- event
		if !lines.Scan() || lines.Text() != event {
			t.Fatalf("line %q, %v; want %q", lines.Text(), lines.Err(), event)
		}
	}
	_ = resp.Body.Close()
	<-left
}

// Deadlines do not interfere with range requests.
func TestMountedRangeWithDeadlines(t *testing.T) {
	content := strings.Repeat("0123456789", 50_000)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
		_ = control.SetReadDeadline(time.Now().Add(time.Minute))
		http.ServeContent(w, r, "digits.txt", time.Time{}, strings.NewReader(content))
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", mounted(t, "GET", "/digits", h)+"/digits", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=100003-400002")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusPartialContent || string(b) != content[100003:400003] {
		t.Errorf("answer = %s, %d bytes, %v", resp.Status, len(b), err)
	}
}

// The response to a HEAD request is complete once its header has been sent. If the handler is
// still waiting at that point, its context is canceled.
func TestMountedStreamOfAHeadRequestEnds(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, 1)
		s := newSite(t, e, "HEAD", "/events", waitForEnd(ended))
		began := time.Now()
		resp := s.request(t, http.MethodHead, "/events", nil)
		defer resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("Content-Type = %q", got)
		}
		if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) || time.Since(began) > 15*time.Second {
			t.Errorf("the context was canceled after %v: %v", time.Since(began), err)
		}
	})
}

func TestInvalidStreamOptions(t *testing.T) {
	for name, opt := range map[string]iii.Option{
		"WithStreamHeartbeat":  iii.WithStreamHeartbeat(-1),
		"WithHTTPWriteTimeout": iii.WithHTTPWriteTimeout(-time.Second),
	} {
		if c, err := iii.New("ws://127.0.0.1:1", opt); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "negative") {
			t.Errorf("%s: error = %v, want one that names it", name, err)
			if err == nil {
				_ = c.Close()
			}
		}
	}
}

// The engine sends a streamed response's cookies in arbitrary order. The worker therefore
// omits each cookie that a later one replaces, however the handler spells the header name.
func TestStreamedCookiesKeepTheLastOfEachName(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		startReplica(t, e, "a", func(r *replica) {
			if _, err := r.MountHTTP("GET", "/login", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "sid", Path: "/", MaxAge: -1})
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "other", Path: "/admin"})
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "new", Path: "/"})
				w.Header()["set-cookie"] = []string{"x=1", "y=2"}
				w.Header()["set-COOKIE"] = []string{"z=3"}
				_ = http.NewResponseController(w).Flush()
			})); err != nil {
				t.Fatal(err)
			}
		})
		transport := &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/login")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got := slices.Sorted(slices.Values(resp.Header["Set-Cookie"]))
		if diff := cmp.Diff([]string{"sid=new; Path=/", "sid=other; Path=/admin", "x=1", "y=2", "z=3"}, got); diff != "" {
			t.Errorf("cookies (-want +got):\n%s", diff)
		}
	})
}

// behavior is a request and the handler that serves it. The response and the handler's notes
// must be the same under net/http's server and on a mounted route.
type behavior struct {
	name    string
	route   string // the route's method; defaults to that of the request
	path    string // path of the route, appended to a prefix
	method  string // defaults to GET
	target  string // request target, appended to the prefix; defaults to path
	header  []string
	body    string
	chunked bool
	raw     bool   // body follows the header without a Content-Length
	cut     int    // if positive, send only this much of the body, then close the write side
	proto   string // defaults to HTTP/1.1
	length  bool   // compare Content-Length, too
	empty   bool   // compare Content-Type even if the body is empty
	handler func(w http.ResponseWriter, r *http.Request, note func(format string, args ...any))

	// differs quotes the sentence in docs/http.md that documents a difference.
	differs string
}

// observed records what the client and the handler observed during one request.
type observed struct {
	Status   int
	Header   http.Header
	Body     string
	Trailer  http.Header
	End      string   // "no response", or the error from reading the body
	Informed []string // informational responses before the final one
	Handler  []string // the handler's notes
}

// request returns the raw request for a handler that is served under the given path prefix.
func (b *behavior) request(path string) string {
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

// observe sends the request and waits for the response and the handler's notes.
func (b *behavior) observe(t *testing.T, addr, path string, notes <-chan []string) (got observed) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan struct{})
	go func() { // a server may respond before it has read the whole request
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

func (o *observed) receive(conn net.Conn, b *behavior) {
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

// A mounted handler behaves as it does under net/http's server, except for the differences
// that docs/http.md documents.
func TestMountedHandlersBehaveAsUnderNetHTTP(t *testing.T) {
	behaviors := slices.Concat(requestBehaviors, bodyBehaviors, statusBehaviors, headerBehaviors, writeBehaviors, sniffBehaviors, lengthBehaviors, endBehaviors, handlerBehaviors(t))
	if n := len(behaviors); n < 140 {
		t.Errorf("%d behaviors are compared, want 140", n)
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
	notes := make([]chan []string, len(behaviors))
	parameter := regexp.MustCompile(`:([a-z]+)`)
	for i, b := range behaviors {
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
	for i, b := range behaviors {
		t.Run(b.name, func(t *testing.T) {
			path := fmt.Sprintf("/b%d", i)
			want := b.observe(t, native.Listener.Addr().String(), path, notes[i])
			got := b.observe(t, strings.TrimPrefix(engine.HTTPURL(), "http://"), path, notes[i])
			diff := cmp.Diff(want, got)
			switch {
			case b.differs == "" && diff != "":
				t.Errorf("observed (-net/http +mounted):\n%s", diff)
			case b.differs != "" && diff == "":
				t.Errorf("no difference, although one is documented: %q", b.differs)
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

var requestBehaviors = []behavior{
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

func readBody(w http.ResponseWriter, r *http.Request, note noting) {
	b, err := io.ReadAll(r.Body)
	if len(b) > 100 {
		b = fmt.Appendf(nil, "%d bytes", len(b))
	}
	note("%q %s", b, errorKind(err))
}

// errorKind describes err by the properties that programs check.
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

var bodyBehaviors = []behavior{
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

// respondWith returns a handler that responds with a status and a body.
func respondWith(status int, body string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/x-test")
		w.WriteHeader(status)
		if body != "" {
			n, err := io.WriteString(w, body)
			note("%d %v", n, err)
		}
	}
}

var statusBehaviors = []behavior{
	{name: "status 200", handler: respondWith(200, "ok")},
	{name: "status 201", handler: respondWith(201, "made")},
	{name: "status 202 without a body", handler: respondWith(202, "")},
	{name: "status 203", handler: respondWith(203, "x")},
	{name: "status 204", handler: respondWith(204, "")},
	{name: "status 204 with a body", handler: respondWith(204, "x")},
	{name: "status 204 without a type", empty: true, differs: "without a `Content-Type`", handler: func(w http.ResponseWriter, r *http.Request, note noting) { w.WriteHeader(204) }},
	{name: "status 204, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.WriteHeader(204)
		note("%v", http.NewResponseController(w).Flush())
	}},
	{name: "status 205", handler: respondWith(205, "")},
	{name: "status 206", handler: respondWith(206, "part")},
	{name: "status 301", handler: respondWith(301, "moved")},
	{name: "status 304", handler: respondWith(304, "")},
	{name: "status 304 with a body", handler: respondWith(304, "x")},
	{name: "status 304, flushed", handler: func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(304)
		note("%v", http.NewResponseController(w).Flush())
	}},
	{name: "status 304 of a HEAD", method: "HEAD", handler: respondWith(304, "")},
	{name: "status 400", handler: respondWith(400, "bad")},
	{name: "status 401", handler: respondWith(401, "who")},
	{name: "status 404", handler: respondWith(404, "no")},
	{name: "status 405", handler: respondWith(405, "no")},
	{name: "status 418", handler: respondWith(418, "tea")},
	{name: "status 429", handler: respondWith(429, "slow")},
	{name: "status 500", handler: respondWith(500, "oh")},
	{name: "status 503", handler: respondWith(503, "later")},
	{name: "status 599", handler: respondWith(599, "last")},
	{name: "status 600", handler: respondWith(600, "more")},
	{name: "status 999", handler: respondWith(999, "most")},
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

var headerBehaviors = []behavior{
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

// chunk writes p and notes Write's results.
func chunk(w http.ResponseWriter, note noting, p string) {
	n, err := io.WriteString(w, p)
	note("%d %s", n, errorKind(err))
}

var writeBehaviors = []behavior{
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
		_, notifier := w.(interface{ CloseNotify() <-chan bool }) // the deprecated http.CloseNotifier
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

// writes returns a handler that writes parts without setting a content type.
func writes(parts ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		for _, part := range parts {
			_, _ = io.WriteString(w, part)
		}
	}
}

var sniffBehaviors = []behavior{
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

// page is a template whose output starts with a newline.
var page = template.Must(template.New("page").Parse("{{define \"base\"}}<!DOCTYPE html>\n<html>{{template \"content\" .}}</html>{{end}}\n{{define \"content\"}}<p>{{.}}</p>{{end}}\n{{template \"base\" .}}"))

// declared returns a handler that writes parts after declaring a content length.
func declared(length string, parts ...string) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", length)
		for _, part := range parts {
			chunk(w, note, part)
		}
	}
}

// flushedAfter is like declared, but flushes after each part.
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

// lengths returns a handler that sets two lengths under the given name.
func lengths(name string, flush bool) func(http.ResponseWriter, *http.Request, noting) {
	return func(w http.ResponseWriter, r *http.Request, note noting) {
		w.Header()[name] = []string{"5", "5"}
		chunk(w, note, "hello")
		if flush {
			_ = http.NewResponseController(w).Flush()
		}
	}
}

var lengthBehaviors = []behavior{
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
	{name: "length that is empty", handler: flushedAfter("", "hello")},
	{name: "length with leading zeros", handler: flushedAfter("005", "hello")},
	{name: "length given twice, flushed", length: true, handler: lengths("Content-Length", true)},
	{name: "length given twice to a HEAD", method: "HEAD", length: true, handler: lengths("Content-Length", false)},
	{name: "length in small letters", length: true, handler: lengths("content-length", false)},
	{name: "length in small letters to a HEAD", method: "HEAD", length: true, handler: lengths("content-length", false)},
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

// panicsAfter returns a handler that writes a response and then panics with p.
func panicsAfter(p any, flush bool, length string, body string) func(http.ResponseWriter, *http.Request, noting) {
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

var endBehaviors = []behavior{
	{name: "panic at once", differs: "A panic before", handler: panicsAfter("reason", false, "", "")},
	{name: "panic after a write", differs: "A panic before", handler: panicsAfter("reason", false, "", "begun")},
	{name: "abort at once", differs: "A panic before", handler: panicsAfter(http.ErrAbortHandler, false, "", "")},
	{name: "panic in a stream with a length", length: true, handler: panicsAfter("reason", true, "10", "begun")},
	{name: "abort in a stream with a length", length: true, handler: panicsAfter(http.ErrAbortHandler, true, "10", "begun")},
	{name: "panic in a stream without a length", differs: "A streamed response without a `Content-Length`", handler: panicsAfter("reason", true, "", "begun")},
	{name: "abort in a stream without a length", differs: "A streamed response without a `Content-Length`", handler: panicsAfter(http.ErrAbortHandler, true, "", "begun")},
	{name: "panic behind a complete body", length: true, handler: panicsAfter("reason", true, "5", "begun")},
}

// handlerBehaviors returns requests to net/http's own handlers, such as file servers, and to
// a reverse proxy.
func handlerBehaviors(t *testing.T) []behavior {
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
		body, err := io.ReadAll(r.Body) // net/http may close it once the response has begun
		_, _ = w.Write(body)
		fmt.Fprintf(w, "%s %d %v", r.Method, len(body), err)
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
	return []behavior{
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
		{name: "timeout that passes", handler: serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answered := make(chan struct{})
			defer close(answered)
			http.TimeoutHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				<-answered // TimeoutHandler may ignore the timeout of a handler that returns at the same time
			}), time.Millisecond, "<html>too late").ServeHTTP(w, r)
		}))},
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
