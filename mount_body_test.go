package iii_test

import (
	gocmp "cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// routeCall calls the function behind a route as the engine does, with channels of
// the test's.
type routeCall struct {
	client *iii.Client
	id     string
	body   *iii.ChannelWriter // of the request
	answer *iii.ChannelReader // of the response
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

// result is what the function returned, decoded.
func (r *routeCall) result(t *testing.T) any {
	t.Helper()
	result, err := iii.Call[any](t.Context(), r.client, r.id, r.in)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// A handler that forwards the body leaves a goroutine that reads it when the handler
// has returned.
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
		t.Errorf("the reader that is left gets %v, want %v", err, http.ErrBodyReadAfterClose)
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

// The files of a form do not outlive its request.
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
		t.Errorf("%s after the response: %v, want that it is not there", name, err)
	}
}

// What of a response the engine cannot send is logged.
func TestMountedHeadersThatAreNotSentAreLogged(t *testing.T) {
	flush := func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
	for _, test := range []struct {
		name    string
		handler func(w http.ResponseWriter)
		want    []string // in the log
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

// What goes to the engine for responses to which it would add something.
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

// The content type that the engine adds to a value would replace that of what the
// client of a 304 has.
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

// The length in an answer to HEAD is that of what GET would answer.
func TestMountedHeadTellsTheLength(t *testing.T) {
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

// A reverse proxy forwards bodies both ways, and goes on reading one that the server
// behind it did not want.
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
		// The proxy may see the connection end before the answer.
		if got := fetch(t, base, "POST", "/up/1?refuse", "application/octet-stream", large); got.Status != http.StatusForbidden && got.Status != http.StatusBadGateway {
			t.Fatalf("answer = %+v, want one that refuses", got)
		}
	}
}
