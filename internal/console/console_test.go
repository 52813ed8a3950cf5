package console

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

// fake is a Source with only the data that a test sets.
type fake struct {
	registry Registry
	metrics  []Metric
	spans    []iii.StoredSpan
	logs     []json.RawMessage
	groups   map[Store][]Group
	items    map[string][]Item // by stream/group
	queues   []Queue
	dead     []DeadLetter
	changes  atomic.Pointer[Changes]
}

func (f *fake) Engine() Engine     { return Engine{Version: "1", WorkerURL: "ws://127.0.0.1:1"} }
func (f *fake) Registry() Registry { return f.registry }
func (f *fake) Function(namespace, id string) (json.RawMessage, bool) {
	return json.RawMessage(`{"function_id":"f","metadata":{"api_key":"s3cret"},"request_schema":{"properties":{"password":{"type":"string"}}}}`),
		namespace == "default" && id == "f"
}
func (f *fake) Changes() Changes {
	if c := f.changes.Load(); c != nil {
		return *c
	}
	return Changes{}
}
func (f *fake) Spans(int) []iii.StoredSpan { return f.spans }
func (f *fake) Trace(id string) (list []iii.StoredSpan) {
	for _, s := range f.spans {
		if s.TraceID == id {
			list = append(list, s)
		}
	}
	return list
}
func (f *fake) Logs(string, int) []json.RawMessage { return append([]json.RawMessage{}, f.logs...) }
func (f *fake) Metrics(time.Time, int) []Metric    { return f.metrics }
func (f *fake) Groups(s Store) []Group             { return f.groups[s] }
func (f *fake) Items(_ Store, stream, group string, limit int) []Item {
	list := f.items[stream+"/"+group]
	return list[:min(limit, len(list))]
}
func (f *fake) Item(_ Store, stream, group, key string) (json.RawMessage, bool) {
	for _, i := range f.items[stream+"/"+group] {
		if i.Key == key {
			return i.Value, true
		}
	}
	return nil, false
}
func (f *fake) Queues() []Queue { return f.queues }
func (f *fake) DeadLetters(limit int) ([]DeadLetter, int) {
	n := min(limit, len(f.dead))
	return f.dead[:n], len(f.dead) - n
}
func (f *fake) DeadLetter(id string) (DeadLetter, bool) {
	for _, d := range f.dead {
		if d.ID == id {
			return d, true
		}
	}
	return DeadLetter{}, false
}
func (f *fake) handler(ctx context.Context) http.Handler {
	return New(ctx, f, NewRecorder(DefaultLimit), "")
}

func TestCheckAddr(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:0": true, "127.8.9.1:3113": true, "[::1]:3113": true, "localhost:3113": true, "[::ffff:127.0.0.1]:1": true,
		":3113": false, "0.0.0.0:3113": false, "[::]:3113": false, "192.168.1.1:3113": false, "example.com:3113": false,
		"localhost.example.com:1": false, "127.0.0.1": false, "127.1:80": false,
	} {
		if err := CheckAddr(addr); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestOtherSitesAreRejected(t *testing.T) {
	h := new(fake).handler(t.Context())
	for _, test := range []struct {
		name, path, host string
		header           map[string]string
		want             int
	}{
		{"the page", "/", "127.0.0.1:3113", nil, 200},
		{"the API", "/api/engine", "localhost:3113", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:3113"}, 200},
		{"IPv6", "/api/engine", "[::1]:3113", nil, 200},
		{"an address that is typed", "/", "127.0.0.1:3113", map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200},
		{"a link to the page", "/", "127.0.0.1:3113", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200},
		{"a name that leads here", "/api/engine", "evil.example:3113", nil, 403},
		{"a name with a loopback name in it", "/", "localhost.evil.example", nil, 403},
		{"an address of the network", "/", "10.0.0.1:3113", nil, 403},
		{"no host", "/", "", nil, 403},
		{"another origin", "/api/engine", "127.0.0.1:3113", map[string]string{"Origin": "http://evil.example"}, 403},
		{"another port", "/api/engine", "127.0.0.1:3113", map[string]string{"Origin": "http://127.0.0.1:8080"}, 403},
		{"an opaque origin", "/api/engine", "127.0.0.1:3113", map[string]string{"Origin": "null"}, 403},
		{"another site without an origin", "/api/logs", "127.0.0.1:3113", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403},
		{"a link to the API", "/api/logs", "127.0.0.1:3113", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", test.path, nil)
			r.Host = test.host
			for k, v := range test.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.want {
				t.Errorf("status %d, want %d: %s", w.Code, test.want, w.Body)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
				t.Errorf("another origin is allowed: %s", got)
			}
		})
	}
}

// An exposed console accepts requests to IP addresses and to its own host name, but to no
// other names, because anyone can make a name resolve to the console's address.
func TestExposedConsoleKeepsOtherSitesOut(t *testing.T) {
	h := New(t.Context(), new(fake), NewRecorder(DefaultLimit), "devbox.example")
	for host, want := range map[string]int{
		"10.0.0.1:3113": 200, "[fd00::1]:3113": 200, "127.0.0.1:3113": 200, "localhost": 200, "DevBox.example:3113": 200,
		"evil.example:3113": 403, "10.0.0.1.evil.example": 403, "": 403,
	} {
		r := httptest.NewRequest("GET", "/api/engine", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: status %d, want %d", host, w.Code, want)
		}
		r.Header.Set("Origin", "http://evil.example")
		w = httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != 403 {
			t.Errorf("host %q, another origin: status %d", host, w.Code)
		}
	}
}

func get(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:3113"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestConsoleIsReadOnly(t *testing.T) {
	h := new(fake).handler(t.Context())
	for _, path := range []string{"/", "/api/registry", "/api/logs", "/api/state", "/api/state/item", "/api/streams", "/api/queues", "/api/dead-letters/x", "/api/events"} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if w := get(t, h, method, path); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
}

func TestPage(t *testing.T) {
	w := get(t, new(fake).handler(t.Context()), "GET", "/")
	body := w.Body.String()
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	for tag, directive := range map[string]string{"style": "style-src", "script": "script-src"} {
		text := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(body, -1)
		if len(text) != 1 || !strings.Contains(policy, directive+" "+source(text[0][1])) {
			t.Errorf("%d times <%s>, and the policy is %s", len(text), tag, policy)
		}
	}
	if strings.Contains(body, "{{") {
		t.Error("a placeholder was left")
	}
	for _, url := range regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]+`).FindAllString(body, -1) {
		if url != "http://www.w3.org" { // an XML namespace
			t.Errorf("the page refers to %s", url)
		}
	}
	entries, err := files.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(styles) + len(scripts) + 1; len(entries) != want {
		t.Errorf("%d files are embedded, %d of them used", len(entries), want)
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	f := &fake{registry: Registry{Triggers: []map[string]any{{"id": "t", "config": json.RawMessage(`{"topic":"a","auth":{"access_token":"s3cret"}}`)}}}}
	f.metrics = []Metric{{Name: "m", Type: "gauge", Points: []Point{{Attributes: []iii.StoredAttribute{{"user.token", "s3cret"}}}}}}
	recorder := NewRecorder(DefaultLimit)
	h := New(t.Context(), f, recorder, "")
	i := recorder.Begin(Call{
		Namespace: "default", Function: "f", Metadata: json.RawMessage(`{"password":"s3cret"}`),
		Data: json.RawMessage(`{"_caller_worker_id":"w-1","headers":{"authorization":"s3cret","cookie":"s3cret"},"body":{"name":"Ada"}}`),
	})
	recorder.End(i, json.RawMessage(`{"headers":{"Set-Cookie":["s3cret"]},"list":[{"api-key":"s3cret"}]}`), "", "")
	recorder.End(recorder.Begin(Call{Namespace: "default", Function: "g"}), nil, "refused", `{"reason":"no","token":"s3cret"}`)
	for path, want := range map[string]string{
		"/api/registry":                        `"topic":"a"`,
		"/api/invocations":                     `Ada`,
		"/api/invocations/1":                   `"name":"Ada"`,
		"/api/invocations/2":                   `{\"reason\":\"no\"`,
		"/api/metrics":                         `["user.token","[REDACTED]"]`,
		"/api/function?namespace=default&id=f": `"password":{"type":"string"}`,
	} {
		body := get(t, h, "GET", path).Body.String()
		if strings.Contains(body, "s3cret") || strings.Contains(body, callerKey) || !strings.Contains(body, want) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestRedactSpans(t *testing.T) {
	span := iii.StoredSpan{
		Attributes: iii.List[iii.StoredAttribute]{{"http.request.header.cookie", "s3cret"}, {"a", `{"cookie":"s3cret"}`}},
		Events:     iii.List[iii.StoredEvent]{{Attributes: iii.List[iii.StoredAttribute]{{"e", `{"cookie":"s3cret"}`}}}},
		Links:      iii.List[iii.StoredLink]{{Attributes: iii.List[iii.StoredAttribute]{{"l_token", "s3cret"}}}},
	}
	shown := must(json.Marshal(redactSpans([]iii.StoredSpan{span})))
	kept := must(json.Marshal(span))
	if strings.Contains(string(shown), "s3cret") {
		t.Errorf("shown: %s", shown)
	}
	if n := strings.Count(string(kept), "s3cret"); n != 4 {
		t.Errorf("the engine's own copy was changed: %s", kept)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestPreview(t *testing.T) {
	for data, want := range map[string]string{
		"":                                    "",
		"null":                                "",
		"{}":                                  "",
		`{"_caller_worker_id":"w"}`:           "",
		`"text"`:                              `"text"`,
		`{"b":1.50,"a":[]}`:                   `{"a":[],"b":1.50}`,
		`"` + strings.Repeat("ä", 200) + `"`:  `"` + strings.Repeat("ä", 79) + "…",
		`"` + strings.Repeat("x", 5000) + `"`: "",
	} {
		if got := preview(json.RawMessage(data)); got != want {
			t.Errorf("%.20s: %q, want %q", data, got, want)
		}
	}
}

func TestUnknownIDsAreNotFound(t *testing.T) {
	h := new(fake).handler(t.Context())
	for _, path := range []string{"/api/invocations/1", "/api/invocations/x", "/api/traces/x", "/api/function?id=g", "/api", "/favicon.ico",
		"/api/state/item?group=g&key=k", "/api/streams/item?stream=s&group=g&key=k", "/api/dead-letters/x"} {
		if w := get(t, h, "GET", path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/api/traces", "/api/logs", "/api/invocations"} {
		if got := get(t, h, "GET", path).Body.String(); got != "[]" {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// pipe is a response writer whose output a test reads while the handler runs.
type pipe struct {
	header http.Header
	chunks chan string
}

func (p *pipe) Header() http.Header { return p.header }
func (p *pipe) WriteHeader(code int) {
	p.chunks <- http.StatusText(code)
}
func (p *pipe) Write(b []byte) (int, error) {
	p.chunks <- string(b)
	return len(b), nil
}
func (p *pipe) Flush() {}

// An event stream announces each change once. It ends when its reader disconnects or the
// engine shuts down.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, recorder := new(fake), NewRecorder(DefaultLimit)
		engine, end := context.WithCancel(t.Context())
		h := New(engine, f, recorder, "")
		open := func(ctx context.Context) (*pipe, chan struct{}) {
			p, done := &pipe{http.Header{}, make(chan string, 1000)}, make(chan struct{})
			r := httptest.NewRequestWithContext(ctx, "GET", "/api/events", nil)
			r.Host = "127.0.0.1:1"
			go func() {
				defer close(done)
				h.ServeHTTP(p, r)
			}()
			synctest.Wait()
			return p, done
		}
		page, leave := context.WithCancel(t.Context())
		p, left := open(page)
		other, ended := open(t.Context())
		events := func() (list []string) {
			for {
				select {
				case chunk := <-p.chunks:
					s := bufio.NewScanner(strings.NewReader(chunk))
					s.Scan()
					name := strings.TrimPrefix(s.Text(), "event: ")
					s.Scan()
					if name == "changed" {
						name += strings.TrimPrefix(s.Text(), "data:")
					}
					if name != "pulse" {
						list = append(list, name)
					}
				default:
					return list
				}
			}
		}
		if diff := cmp.Diff([]string{"engine"}, events()); diff != "" {
			t.Errorf("at first (-want +got):\n%s", diff)
		}
		time.Sleep(5 * time.Second)
		if got := events(); got != nil {
			t.Errorf("while nothing happens: %v", got)
		}
		i := recorder.Begin(Call{Function: "f"})
		time.Sleep(2 * tick)
		recorder.End(i, nil, "", "")
		f.changes.Store(&Changes{Logs: 1, State: 1, Queues: 1})
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"invocations", "invocations", `changed ["logs","queues","state"]`}, events()); diff != "" {
			t.Errorf("after an invocation and a log record (-want +got):\n%s", diff)
		}
		leave()
		<-left
		end()
		<-ended
		if first := <-other.chunks; !strings.HasPrefix(first, "event: engine\n") {
			t.Errorf("the other page: %q", first)
		}
	})
}

func TestEventStreamsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, end := context.WithCancel(t.Context())
		h := new(fake).handler(engine)
		done := make(chan struct{}, maxViewers)
		for range maxViewers {
			go func() {
				get(t, h, "GET", "/api/events")
				done <- struct{}{}
			}()
		}
		synctest.Wait()
		if w := get(t, h, "GET", "/api/events"); w.Code != http.StatusServiceUnavailable {
			t.Errorf("one more page: %d", w.Code)
		}
		end()
		for range maxViewers {
			<-done
		}
	})
}
