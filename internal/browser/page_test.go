package browser_test

import (
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/browser"
	"github.com/iii-go/iii/internal/environ"
)

func TestMain(m *testing.M) {
	environ.Clear()
	m.Run()
}

const greeter = `<!doctype html><title>greeter</title><link rel="icon" href="data:,">
<form><input id="name"><button>Greet</button></form><p class="shout"></p><p id="wait">…</p><ul></ul>
<script>
document.querySelector("form").onsubmit = e => {
	e.preventDefault()
	const item = document.createElement("li")
	item.textContent = "Hello, " + document.querySelector("#name").value
	document.querySelector("ul").append(item)
	setTimeout(() => document.querySelector("#wait")?.remove(), 50)
}
</script>`

func serve(t *testing.T, page string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(page))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestPage(t *testing.T) {
	t.Setenv("SCREENSHOTS", t.TempDir())
	page := browser.Start(t).Open(serve(t, greeter))
	page.WaitVisible("#name")
	page.Type("#name", "Ada")
	page.Click("button")
	page.WaitText("li", "Hello, Ada")
	page.Type("#name", " and Grace\n")
	page.WaitText("li", "and Grace")
	page.WaitGone("#wait")
	page.Wait(`n => document.querySelectorAll("li").length === n`, 2)
	page.Wait(`() => document.querySelector("#wait") === null`)
	if diff := cmp.Diff([]string{"Hello, Ada", "Hello, Ada and Grace"}, page.Texts("li")); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
	if got := browser.Eval[string](page, "document.title"); got != "greeter" {
		t.Errorf("the title is %q", got)
	}

	page.Resize(400, 300)
	file, err := os.Open(page.Screenshot("greeter"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	picture, err := png.DecodeConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{400, 300}, []int{picture.Width, picture.Height}); diff != "" {
		t.Errorf("size of the screenshot (-want +got):\n%s", diff)
	}
}

func TestProgram(t *testing.T) {
	program := browser.Run(t, "./cmd/iiidev", "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "")
	url := program.Match(`^http +(http://\S+)$`)[1]
	resp, err := http.Get(url + "/nothing")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("GET /nothing: %s", resp.Status)
	}
	program.Match(`^streams +ws://`)
}

func TestClickReplacedElement(t *testing.T) {
	page := browser.Start(t).Open(serve(t, `<!doctype html><link rel="icon" href="data:,"><div></div><p></p><script>
		setInterval(() => { document.querySelector("div").innerHTML = "<button onclick='document.querySelector(\"p\").append(1)'>Go</button>" }, 20)
	</script>`))
	for range 5 {
		page.Click("button")
	}
	page.WaitText("p", "1")
}

// recorder is a testing.TB that records errors and cleanup functions.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	errors   []string
	reported chan struct{} // receives one value for each error
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
	r.reported <- struct{}{}
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func TestPageErrorsFailTest(t *testing.T) {
	r := &recorder{TB: t, reported: make(chan struct{}, 10)}
	page := browser.Start(r).Open(serve(t, `<!doctype html><link rel="icon" href="data:,"><p></p><script>
		console.log("said")
		console.error("complained")
		setTimeout(() => { document.querySelector("p").textContent = "thrown"; throw new Error("uncaught") })
	</script>`))
	page.WaitText("p", "thrown")
	for range 2 {
		select {
		case <-r.reported:
		case <-time.After(time.Minute):
		}
	}
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	if len(r.errors) != 2 || !strings.Contains(r.errors[0], "complained") || !strings.Contains(r.errors[1], "uncaught") {
		t.Errorf("errors: %q", r.errors)
	}
}
